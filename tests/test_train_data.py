"""Image data sets: counts, shapes, splits, and one clear error for whatever is wrong with files."""

import csv
import gzip
import io
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import registered

from train.data import load
from zoo.errors import UserError


def _save(path: pathlib.Path, colour, size=(8, 8), mode="RGB", **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)


def _idx(array: np.ndarray) -> bytes:
    header = np.array([0x0800 + array.ndim, *array.shape], ">i4").tobytes()
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def idx_folder(tmp_path):
    """A tiny MNIST in the original format: two files raw, two gzipped."""
    rng = np.random.default_rng(0)
    files = {
        "train-images-idx3-ubyte.gz": rng.integers(0, 256, [20, 28, 28]),
        "train-labels-idx1-ubyte": np.arange(20) % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, [5, 28, 28]),
        "t10k-labels-idx1-ubyte.gz": np.arange(5),
    }
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name, array in files.items():
        data = _idx(array)
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder, files


# ---- Names -------------------------------------------------------------------------------------


def test_unknown_name_lists_the_legal_ones_and_suggests_one():
    with pytest.raises(UserError, match=r"'fashon_mnist' \(did you mean 'fashion_mnist'\?\)") as e:
        load("fashon_mnist")
    for name in ("digits", "mnist", "paintings", "folder:", "tfds:"):
        assert name in str(e.value)


@pytest.mark.parametrize("name", ["", "folder:", "tfds:", "zip:/x"])
def test_a_name_without_its_part_is_unknown(name):
    with pytest.raises(UserError, match="unknown data set"):
        load(name)


def test_image_size_must_be_positive():
    with pytest.raises(UserError, match="image_size is 0"):
        load("digits", image_size=0)


# ---- digits ------------------------------------------------------------------------------------


def test_digits_are_all_there_in_a_stratified_split():
    data = load("digits")
    assert len(data.train.labels) + len(data.test.labels) == 1797
    assert data.train.images.shape[1:] == data.test.images.shape[1:] == (8, 8, 1)
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == np.int32
    assert (data.train.images.min(), data.train.images.max()) == (0, 255)
    train, test = (np.bincount(s.labels, minlength=10) for s in (data.train, data.test))
    np.testing.assert_allclose(test / (train + test), 0.2, atol=0.005)
    again = load("digits")
    np.testing.assert_array_equal(again.test.images, data.test.images)


def test_image_size_stretches_to_that_square():
    data = load("digits", image_size=28)
    assert data.test.images.shape[1:] == (28, 28, 1)
    # A larger copy of the same picture: its overall brightness stays.
    small = load("digits").test.images
    np.testing.assert_allclose(
        data.test.images.mean(axis=(1, 2, 3)), small.mean(axis=(1, 2, 3)), atol=6
    )


def test_digits_too_big_for_memory_are_refused():
    with pytest.raises(UserError, match=r"'digits' would take .*smaller data\.image_size"):
        load("digits", image_size=1_000_000)


# ---- idx files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [True, False], ids=["data_dir/mnist", "data_dir"])
def test_idx_files_load_raw_and_gzipped(idx_folder, inside):
    folder, files = idx_folder
    data = load("mnist", data_dir=folder.parent if inside else folder)
    np.testing.assert_array_equal(
        data.train.images[..., 0], files["train-images-idx3-ubyte.gz"].astype(np.uint8)
    )
    np.testing.assert_array_equal(data.train.labels, files["train-labels-idx1-ubyte"])
    np.testing.assert_array_equal(data.test.labels, files["t10k-labels-idx1-ubyte.gz"])
    assert data.train.labels.dtype == np.int32
    assert data.class_names == tuple("0123456789")


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def _flip_magic(path):
    path.write_bytes(_idx(np.zeros([5, 28]))[:20])


def _no_gzip(path):
    path.write_bytes(b"<html>404</html>")


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("train-images-idx3-ubyte.gz", _truncate),
        ("train-images-idx3-ubyte.gz", _no_gzip),
        ("t10k-images-idx3-ubyte", _truncate),
        ("t10k-images-idx3-ubyte", _flip_magic),
        ("train-labels-idx1-ubyte", lambda path: path.write_bytes(b"")),
    ],
)
def test_a_damaged_idx_file_is_one_clear_error(idx_folder, file, damage):
    folder, _ = idx_folder
    damage(folder / file)
    with pytest.raises(UserError, match="truncated or corrupt") as e:
        load("mnist", data_dir=folder.parent)
    assert file in str(e.value)
    assert "\n" not in str(e.value)


def test_idx_counts_and_labels_must_agree(idx_folder):
    folder, _ = idx_folder
    (folder / "train-labels-idx1-ubyte").write_bytes(_idx(np.zeros([19])))
    with pytest.raises(UserError, match="20 train images but 19 labels"):
        load("mnist", data_dir=folder.parent)
    (folder / "train-labels-idx1-ubyte").write_bytes(_idx(np.full([20], 10)))
    with pytest.raises(UserError, match=r"label 10 is outside 0\.\.9"):
        load("mnist", data_dir=folder.parent)


def test_idx_files_without_an_image_are_refused(idx_folder):
    folder, _ = idx_folder
    (folder / "t10k-images-idx3-ubyte").write_bytes(_idx(np.zeros([0, 28, 28])))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(_idx(np.zeros([0]))))
    with pytest.raises(UserError, match="no t10k images; get the four original files again"):
        load("mnist", data_dir=folder.parent)


def test_idx_images_too_big_for_memory_are_refused(idx_folder):
    folder, _ = idx_folder
    with pytest.raises(UserError, match=r"'mnist' would take .*smaller data\.image_size"):
        load("mnist", data_dir=folder.parent, image_size=1_000_000)


def test_a_missing_idx_sibling_is_named(idx_folder):
    folder, _ = idx_folder
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="no t10k-labels-idx1-ubyte"):
        load("mnist", data_dir=folder.parent)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_real_idx_files(shared_data, name):
    data = load(name, data_dir=shared_data)
    assert data.train.images.shape == (60000, 28, 28, 1)
    assert data.test.images.shape == (10000, 28, 28, 1)
    assert len(data.class_names) == 10
    if name == "fashion_mnist":
        np.testing.assert_array_equal(np.bincount(data.train.labels), [6000] * 10)


# ---- Folders -----------------------------------------------------------------------------------


def test_folder_takes_classes_from_subfolders(tmp_path):
    for i in range(30):
        _save(tmp_path / "cat" / f"{i}.png", (255, 0, 0))
        _save(tmp_path / "ant" / "deeper" / f"{i}.jpg", (0, 0, 255))
    (tmp_path / ".cache").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    data = load(f"folder:{tmp_path}")
    assert data.class_names == ("ant", "cat")
    assert len(data.train.labels) + len(data.test.labels) == 60
    assert 1 <= len(data.test.labels) <= 15
    for split in (data.train, data.test):
        assert split.images.shape[1:] == (8, 8, 3)
        red = split.images[..., 0].mean(axis=(1, 2)) > 128
        np.testing.assert_array_equal(split.labels, red.astype(np.int32))


def test_adding_a_file_moves_no_other_between_splits(tmp_path):
    for i in range(40):
        _save(tmp_path / "a" / f"{i}.png", (i, 0, 0))
    before = set(load(f"folder:{tmp_path}").test.images[:, 0, 0, 0])
    for i in range(40, 60):
        _save(tmp_path / "a" / f"{i}.png", (i, 0, 0))
    after = set(load(f"folder:{tmp_path}").test.images[:, 0, 0, 0])
    assert before == {v for v in after if v < 40}


def test_flat_folder_is_one_class_and_small_ones_still_have_a_test_image(tmp_path):
    for i in range(3):
        _save(tmp_path / "flat" / f"{i}.png", i, mode="L")
    data = load(f"folder:{tmp_path / 'flat'}")
    assert data.class_names == ("flat",)
    assert data.train.images.shape == (2, 8, 8, 1)
    assert data.test.images.shape == (1, 8, 8, 1)


def test_grey_beside_colour_becomes_rgb(tmp_path):
    _save(tmp_path / "a" / "1.png", 77, mode="L")
    _save(tmp_path / "a" / "2.png", (77, 77, 77, 10), mode="RGBA")
    _save(tmp_path / "a" / "3.png", 77 * 256, mode="I;16")
    data = load(f"folder:{tmp_path}")
    pixels = np.concatenate([data.train.images, data.test.images])
    assert pixels.shape == (3, 8, 8, 3)
    assert (pixels == 77).all()


def test_exif_orientation_is_obeyed(tmp_path):
    photo = Image.new("RGB", (8, 4))
    exif = photo.getexif()
    exif[0x0112] = 6  # the camera was held upright
    photo.save(tmp_path / "1.jpg", exif=exif)
    _save(tmp_path / "2.jpg", 0, size=(4, 8))
    assert load(f"folder:{tmp_path}").train.images.shape == (1, 8, 4, 3)


def test_broken_images_are_named_and_skipped(tmp_path, caplog):
    for i in range(4):
        _save(tmp_path / "a" / f"{i}.jpg", (i, i, i), size=(64, 64))
    whole = (tmp_path / "a" / "0.jpg").read_bytes()
    (tmp_path / "a" / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "a" / "empty.png").write_bytes(b"")
    (tmp_path / "a" / "page.jpg").write_bytes(b"<html>not found</html>")
    with caplog.at_level("WARNING"):
        data = load(f"folder:{tmp_path}")
    assert len(data.train.labels) + len(data.test.labels) == 4
    for name in ("cut.jpg", "empty.png", "page.jpg"):
        assert f"skipped broken image {tmp_path / 'a' / name}: " in caplog.text
    assert "skipped 3 of 7 images" in caplog.text


def test_folder_errors(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(UserError, match="holds no image"):
        load(f"folder:{tmp_path}")
    _save(tmp_path / "a" / "1.png", 0)
    _save(tmp_path / "a" / "2.png", 0)
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="class 'b' has no image"):
        load(f"folder:{tmp_path}")
    (tmp_path / "b" / "1.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="class 'b' has no readable training image"):
        load(f"folder:{tmp_path}")
    _save(tmp_path / "1.png", 0)
    with pytest.raises(UserError, match="both directly"):
        load(f"folder:{tmp_path}")


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "1.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="not one image can be read"):
        load(f"folder:{tmp_path}")


def test_sizes_must_agree_or_be_set(tmp_path):
    _save(tmp_path / "1.png", 0, size=(8, 8))
    _save(tmp_path / "2.png", 0, size=(9, 8))
    with pytest.raises(UserError, match=r"1.png is 8x8, 2.png is 9x8\): set data.image_size"):
        load(f"folder:{tmp_path}")
    assert load(f"folder:{tmp_path}", image_size=6).train.images.shape == (1, 6, 6, 3)


def test_a_set_too_big_for_memory_is_refused_before_decoding(tmp_path):
    for i in range(2):
        _save(tmp_path / f"{i}.png", 0)
    with pytest.raises(UserError, match=r"600,000\.0 GB .*smaller data.image_size"):
        load(f"folder:{tmp_path}", image_size=10_000_000)


def _labels(folder, columns, rows):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([columns, *rows])
    (folder / "labels.csv").write_text(text.getvalue())


def test_labels_csv_gives_class_and_split(tmp_path, caplog):
    for i in range(4):
        _save(tmp_path / "any" / f"{i}.png", (i, i, i))
    _labels(
        tmp_path,
        ["file", "style", "artist", "split"],
        [
            ["any/0.png", "Rococo", "x", "train"],
            ["any/1.png", "Cubism", "x", "test"],
            ["any/2.png", "Cubism", "x", "train"],
            ["any/gone.png", "Cubism", "x", "train"],
        ],
    )
    data = load(f"folder:{tmp_path}")
    assert data.class_names == ("Cubism", "Rococo")
    np.testing.assert_array_equal(data.train.images[:, 0, 0, 0], [0, 2])
    np.testing.assert_array_equal(data.train.labels, [1, 0])
    np.testing.assert_array_equal(data.test.images[:, 0, 0, 0], [1])
    assert f"skipped broken image {tmp_path / 'any' / 'gone.png'}: FileNotFoundError" in caplog.text


def test_labels_csv_errors(tmp_path):
    _save(tmp_path / "1.png", 0)
    _labels(tmp_path, ["file", "artist"], [["1.png", "x"]])
    with pytest.raises(UserError, match="one of style, label, class"):
        load(f"folder:{tmp_path}")
    _labels(tmp_path, ["file", "label", "split"], [["1.png", "x", "dev"]])
    with pytest.raises(UserError, match=r"labels.csv, line 2: needs .* 'train' or 'test'"):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    "content",
    ["file,label\n1.png,Café\n".encode("latin-1"), b"file,label\n" + b"x" * 200_000 + b",y\n"],
    ids=["latin-1", "endless field"],
)
def test_a_labels_file_that_is_no_utf8_csv_is_one_clear_error(tmp_path, content):
    _save(tmp_path / "1.png", 0)
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"labels\.csv: not a CSV file in UTF-8 .* save it again") as e:
        load(f"folder:{tmp_path}")
    assert "\n" not in str(e.value)


def test_a_folder_that_leaves_no_test_image_says_what_to_do(tmp_path):
    for label in ("a", "b"):
        _save(tmp_path / label / "1.png", 0)
    with pytest.raises(UserError, match=r"none of the 2 readable images .* add a second image to a class"):
        load(f"folder:{tmp_path}")
    _labels(tmp_path, ["file", "label", "split"], [["a/1.png", "a", "train"], ["b/1.png", "b", "train"]])
    with pytest.raises(UserError, match=r"left for testing; give some rows of labels\.csv the split 'test'"):
        load(f"folder:{tmp_path}")


def test_paintings_need_a_data_dir():
    with pytest.raises(UserError, match="--data_dir"):
        load("paintings")


def test_the_real_paintings(shared_data):
    data = load("paintings", data_dir=shared_data, image_size=32)
    assert data.class_names == (
        "Baroque",
        "Cubism",
        "Impressionism",
        "Pointillism",
        "Rococo",
        "Ukiyo_e",
    )
    assert data.train.images.shape == (3306, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(data.test.labels), [95, 65, 117, 61, 117, 108])


# ---- TFDS --------------------------------------------------------------------------------------


class TinySquares(tfds.core.GeneratorBasedBuilder):
    """Grey squares whose brightness is their class; `both` has a test split, `one` and `few` have not."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(name="both"),
        tfds.core.BuilderConfig(name="one"),
        tfds.core.BuilderConfig(name="few"),
        tfds.core.BuilderConfig(name="sizes"),
        tfds.core.BuilderConfig(name="unlabelled"),
    )

    def _info(self):
        unlabelled = self.builder_config.name == "unlabelled"
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 1)),
                    "label": tfds.features.ClassLabel(names=["dark", "bright"]),
                }
            ),
            supervised_keys=None if unlabelled else ("image", "label"),
        )

    def _split_generators(self, dl_manager):
        splits = {"train": self._generate_examples(3 if self.builder_config.name == "few" else 20)}
        if self.builder_config.name == "both":
            splits["test"] = self._generate_examples(6)
        return splits

    def _generate_examples(self, count):
        for i in range(count):
            size = 4 + (self.builder_config.name == "sizes") * (i % 2)
            image = np.full([size, size, 1], 200 * (i % 2) + i, np.uint8)
            yield i, {"image": image, "label": i % 2}


def test_tfds_set_with_test_split(tmp_path):
    data = load("tfds:tiny_squares/both", data_dir=tmp_path)
    assert data.class_names == ("dark", "bright")
    assert data.train.images.shape == (20, 4, 4, 1)
    assert data.test.images.shape == (6, 4, 4, 1)
    assert data.train.labels.dtype == np.int32
    np.testing.assert_array_equal(data.train.labels, data.train.images[:, 0, 0, 0] >= 200)


def test_tfds_set_with_train_alone_is_cut(tmp_path):
    data = load("tfds:tiny_squares/one", data_dir=tmp_path, image_size=6)
    assert data.train.images.shape == (18, 6, 6, 1)
    assert data.test.images.shape == (2, 6, 6, 1)
    values = np.concatenate([data.train.images, data.test.images])[:, 0, 0, 0]
    assert len(set(values)) == 20


def test_tfds_errors(tmp_path):
    with pytest.raises(UserError, match="TFDS cannot load 'no_such_set'"):
        load("tfds:no_such_set", data_dir=tmp_path)
    with pytest.raises(UserError, match=r"set data\.image_size"):
        load("tfds:tiny_squares/sizes", data_dir=tmp_path)
    with pytest.raises(UserError, match="no image classification set"):
        load("tfds:tiny_squares/unlabelled", data_dir=tmp_path)


def test_a_tfds_set_that_leaves_no_test_image_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"no image in split 'train\[90%:\]'; choose a larger set"):
        load("tfds:tiny_squares/few", data_dir=tmp_path)


def test_a_tfds_set_too_big_for_memory_is_refused_before_resizing(tmp_path):
    with pytest.raises(UserError, match=r"would take .*smaller data\.image_size"):
        load("tfds:tiny_squares/both", data_dir=tmp_path, image_size=1_000_000)


@pytest.mark.parametrize("damage", [_truncate, _no_gzip, pathlib.Path.unlink])
def test_a_damaged_tfds_set_is_one_clear_error(tmp_path, damage):
    load("tfds:tiny_squares/both", data_dir=tmp_path)
    (records,) = tmp_path.rglob("*-test.tfrecord-*")
    damage(records)
    with pytest.raises(UserError, match="TFDS cannot read split 'test' of 'tiny_squares/both'") as e:
        load("tfds:tiny_squares/both", data_dir=tmp_path)
    assert f"delete {records.parent} to have it prepared anew" in str(e.value)
    assert "\n" not in str(e.value)
    assert "{{" not in str(e.value)


def test_mnist_falls_back_to_tfds(tmp_path):
    with registered.skip_registration():  # the real MNIST is to be found by that name

        class Mnist(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.builder("mnist", data_dir=tmp_path).version

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=(28, 28, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(12), "test": self._generate_examples(3)}

            def _generate_examples(self, count):
                for i in range(count):
                    yield i, {"image": np.full([28, 28, 1], i, np.uint8), "label": i % 10}

    Mnist(data_dir=tmp_path).download_and_prepare()
    data = load("mnist", data_dir=tmp_path)
    assert data.name == "mnist"
    assert data.train.images.shape == (12, 28, 28, 1)
    np.testing.assert_array_equal(data.train.labels, data.train.images[:, 0, 0, 0] % 10)
    assert data.test.images.shape == (3, 28, 28, 1)
    assert data.class_names == tuple("0123456789")


def test_without_files_and_without_tfds_both_ways_are_named(tmp_path, monkeypatch):
    # A proxy that refuses connections would make TFDS retry for minutes; no host resolves instead.
    monkeypatch.setattr("socket.getaddrinfo", _no_network)
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    with pytest.raises(UserError, match="cannot reach") as e:
        load("fashion_mnist", data_dir=tmp_path)
    assert "train-images-idx3-ubyte.gz" in str(e.value)
    assert str(tmp_path / "fashion_mnist") in str(e.value)
    assert "TFDS" in str(e.value)
    assert list(tmp_path.iterdir()) == []


def _no_network(*args):
    raise OSError(-2, "Name or service not known")
