"""`python -m train.stylize_main` as people run it."""

import numpy as np
import pytest
from binaries import run_main
from PIL import Image

from zoo import pictures

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
