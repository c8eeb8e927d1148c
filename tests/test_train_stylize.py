"""`python -m train.stylize_main` as people run it."""

import dataclasses
import fractions
import json

import numpy as np
import pytest
import tensorflow as tf
import tiny
from binaries import run_main
from PIL import Image

from zoo import pictures, video

FAST = ("--vgg19_weights=random", "--steps=2", "--size=32")


@pytest.fixture
def files(tmp_path):
    """A photo whose camera lay on its side, a painting, a mask."""
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.fromarray(random.integers(0, 255, (48, 64, 3), np.uint8))
    photo.save(tmp_path / "photo.jpg", exif=exif)
    Image.fromarray(random.integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / "painting.png")
    Image.new("L", (48, 64), "white").save(tmp_path / "mask.png")
    (tmp_path / "empty.png").touch()
    return tmp_path


def _error(done):
    """The one line for people; TensorFlow may chat beside it."""
    assert "Traceback" not in done.stderr
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    return line.removeprefix("error: ")


def _run(files, *arguments):
    return run_main("train.stylize_main", files / "photo.jpg", f"--style={files}/painting.png", *arguments)


def test_a_photo_is_painted_upright_with_its_aspect_ratio_and_previews(files):
    output = files / "out" / "painted.jpg"
    done = _run(
        files, *FAST, f"--output={output}", f"--preview_dir={files}/previews", "--preview_every=1",
        "--minimizer=adam", "--color=luminance", f"--mask={files}/mask.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"wrote {output}: 24x32, loss ")
    with Image.open(output) as image:
        assert (image.size, image.format) == ((24, 32), "JPEG")
    assert sorted(p.name for p in (files / "previews").iterdir()) == ["step_00001.png", "step_00002.png"]
    assert "RANDOM WEIGHTS" in done.stderr
    # The photo's colours are kept: the first evaluation is of the photo itself.
    photo = pictures.fit(pictures.load(files / "photo.jpg"), 32)
    np.testing.assert_allclose(pictures.load(files / "previews" / "step_00001.png"), photo, atol=1.01 / 255)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size=8"], "the photo is 6x8 pixels; at least 16x16 are expected"),
        (["--output=x.bmp"], "--output=x.bmp: a file ending .png, .jpg, .jpeg is expected"),
        (["--vgg19_weights=absent.h5"], "there is no file of VGG19 weights absent.h5; download them"),
        (["--style={}/empty.png"], "empty.png is empty; a picture is expected"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(files, arguments, message):
    done = _run(files, *FAST, *(a.format(files) for a in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert message in _error(done)


def test_the_photo_must_be_named_and_be_there(files):
    done = run_main("train.stylize_main", f"--style={files}/painting.png")
    assert (done.returncode, _error(done)) == (2, "<photo> is missing; --help shows how to call this")
    done = run_main("train.stylize_main", files / "absent.jpg", "--style=x.png")
    assert (done.returncode, _error(done)) == (2, f"there is no picture {files}/absent.jpg")


# In one pass --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The work directory of a stylizer that paints something."""
    return _workdir("stylizer", tmp_path_factory.mktemp("stylizer"))


@pytest.fixture(scope="module")
def of_any_style(tmp_path_factory):
    return _workdir("arbitrary_stylizer", tmp_path_factory.mktemp("arbitrary_stylizer"))


def _workdir(family, folder):
    model = tiny.painter(family)
    config = {"name": "mine", "family": family, "model": dataclasses.asdict(model.config)}
    (folder / "config.json").write_text(json.dumps(config))
    step, seconds = tf.Variable(1, dtype=tf.int64), tf.Variable(0.0, dtype=tf.float64)
    checkpoint = tf.train.Checkpoint(model=model, step=step, seconds=seconds)
    tf.train.CheckpointManager(checkpoint, str(folder / "checkpoints"), 1).save()
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.gif"
    ramp = np.linspace(0, 1, 40, dtype=np.float32)[:, None] * np.ones((32, 40, 3), np.float32)
    video.write(path, [np.roll(ramp, i, 1) for i in range(5)], fractions.Fraction(10))
    return path


def _paint(path, workdir, *arguments):
    return run_main("train.stylize_main", path, f"--stylizer={workdir}", *arguments)


def test_a_photo_is_painted_in_one_pass(files, workdir):
    painted, grey = files / "painted.png", files / "grey.png"
    done = _paint(
        files / "photo.jpg", workdir, "--style=reds,blues", "--style_weights=3,1", f"--output={painted}"
    )
    assert (done.returncode, done.stdout) == (0, f"wrote {painted}: 48x64\n"), done.stderr
    photo = pictures.load(files / "photo.jpg")
    assert np.abs(pictures.load(painted) - photo).max() > 0.1
    done = _paint(
        files / "photo.jpg", workdir, "--style=reds", "--strength=0", "--size=32", f"--output={grey}"
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(pictures.load(grey), pictures.fit(photo, 32), atol=1 / 255)


def test_a_photo_is_painted_in_the_style_of_any_picture_in_one_pass(files, of_any_style):
    painted = files / "any.png"
    styles = f"--style={files}/painting.png,{files}/photo.jpg"
    done = _paint(files / "photo.jpg", of_any_style, styles, "--style_weights=3,1", f"--output={painted}")
    assert (done.returncode, done.stdout) == (0, f"wrote {painted}: 48x64\n"), done.stderr
    assert np.abs(pictures.load(painted) - pictures.load(files / "photo.jpg")).max() > 0.1
    done = _paint(files / "photo.jpg", of_any_style, "--style=reds", f"--output={painted}")
    assert (done.returncode, _error(done)) == (2, "there is no picture reds")


def test_a_film_is_painted_frame_by_frame(workdir, clip, tmp_path):
    output = tmp_path / "painted.mp4"
    done = _paint(clip, workdir, "--style=blues", f"--output={output}", "--color=luminance")
    assert (done.returncode, done.stdout) == (0, f"wrote {output}: 5 frames\n"), done.stderr
    film = video.read(output)
    assert (film.rate, [frame.shape for frame in film.frames]) == (10, [(32, 40, 3)] * 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--style=greens"], "--style=greens: the styles of"),
        (["--style=reds", "--steps=5"], "--steps is without --stylizer alone"),
        (["--style=reds", "--output=x.png"], "--output=x.png: a file ending .mp4, .mov, .mkv, .gif"),
        (["--style=reds", "--size=8"], "at least 16 a side are expected; choose a larger --size"),
        (["--style=reds", "--stylizer=gan_mnist"], "--stylizer=gan_mnist is no stylizer"),
    ],
)
def test_mistakes_in_one_pass_are_one_line(workdir, clip, arguments, message):
    done = _paint(clip, workdir, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in _error(done)


def test_strength_is_of_one_pass_alone(files):
    done = _run(files, *FAST, "--strength=0.5")
    assert (done.returncode, done.stdout) == (2, "")
    assert _error(done) == "--strength is with --stylizer alone: leave one of them out"


def test_a_film_is_of_one_pass_alone(tmp_path):
    done = run_main(
        "train.stylize_main", tmp_path / "clip.mp4", "--style=x.png", f"--output={tmp_path}/x.png"
    )
    assert done.returncode == 2
    assert "is a film: films are painted with --stylizer" in _error(done)
