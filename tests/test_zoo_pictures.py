"""Picture files of every kind, good and bad."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from zoo import pictures
from zoo.errors import UserError

RED_BLUE = np.uint8([[[255, 0, 0], [0, 0, 255]]])  # 1 high, 2 wide


def _save(path, image, **options):
    image.save(path, **options)
    return path


def test_a_picture_is_rgb_between_0_and_1(tmp_path):
    image = pictures.load(_save(tmp_path / "x.png", Image.fromarray(RED_BLUE)))
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, RED_BLUE / 255)


def test_the_camera_s_orientation_is_honoured(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    path = _save(tmp_path / "x.png", Image.fromarray(RED_BLUE), exif=exif)
    np.testing.assert_array_equal(pictures.load(path), RED_BLUE.swapaxes(0, 1) / 255)


def test_grey_cmyk_palettes_and_16_bits_become_rgb(tmp_path):
    grey = _save(tmp_path / "grey.png", Image.new("L", (2, 2), 51))
    np.testing.assert_allclose(pictures.load(grey), np.full([2, 2, 3], 0.2), atol=1e-6)
    deep = _save(tmp_path / "deep.png", Image.fromarray(np.full([2, 2], 13107, np.uint16)))
    np.testing.assert_allclose(pictures.load(deep), np.full([2, 2, 3], 0.2), atol=1e-6)
    cyan = _save(tmp_path / "cyan.tif", Image.new("CMYK", (2, 2), (255, 0, 0, 0)))
    np.testing.assert_allclose(pictures.load(cyan), np.broadcast_to([0.0, 1.0, 1.0], [2, 2, 3]))
    palette = _save(tmp_path / "palette.gif", Image.fromarray(RED_BLUE).quantize(2))
    np.testing.assert_allclose(pictures.load(palette), RED_BLUE / 255)


def test_transparency_becomes_white(tmp_path):
    glass = Image.fromarray(np.uint8([[[255, 0, 0, 255], [255, 0, 0, 0]]]))
    expected = [[[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]
    np.testing.assert_allclose(pictures.load(_save(tmp_path / "x.png", glass)), expected)


def test_the_first_picture_of_an_animation_counts(tmp_path):
    frames = [Image.new("RGB", (2, 2), color) for color in ("red", "blue")]
    path = _save(tmp_path / "x.gif", frames[0], save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(pictures.load(path)[0, 0], [1.0, 0.0, 0.0])


def _png_declaring(width, height):
    """The header of a PNG and no more pixels than none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty; a picture is expected"),
        (b"no picture", "is no picture of a known kind; PNG, JPEG, "),
        (_png(Image.effect_noise((64, 64), 50))[:2000], "is damaged ("),
        (_png(Image.new("RGB", (1, 1))), "is 1x1 pixels; at least 16x16 are expected"),
        (_png_declaring(20_000, 20_000), "pixels; at most 100,000,000"),
        (_png_declaring(10_000, 10_001), "declares 10000x10001 pixels; at most 100,000,000"),
        (_png_declaring(64, 64), "is damaged ("),
    ],
    ids=["empty", "text", "cut", "1x1", "20,000x20,000", "large", "no pixels"],
)
def test_bad_files_are_one_clear_line(tmp_path, data, message):
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        pictures.load(path, 16)
    assert re.sub(r"too many pixels", "20000x20000 pixels", str(caught.value)).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_one_clear_line_too(tmp_path):
    with pytest.raises(UserError, match=r"there is no picture .*absent\.jpg"):
        pictures.load(tmp_path / "absent.jpg")
    with pytest.raises(UserError, match=r"cannot read .*Is a directory"):
        pictures.load(tmp_path)
    _save(tmp_path / "x.tif", Image.new("F", (2, 2)))
    with pytest.raises(UserError, match="floating-point"):
        pictures.load(tmp_path / "x.tif")


def test_fit_keeps_the_aspect_ratio():
    image = np.zeros([30, 90, 3], np.float32)
    assert pictures.fit(image, 60).shape == (20, 60, 3)
    assert pictures.fit(image, 90) is image
    assert pictures.fit(image, 10).shape == (3, 10, 3)
    flat = np.full([5, 7, 3], 0.4, np.float32)
    np.testing.assert_allclose(pictures.fit(flat, 21), np.full([15, 21, 3], 0.4), atol=1e-3)


def test_encode_writes_what_load_reads(tmp_path):
    smooth = np.linspace(0, 1, 16 * 24 * 3, dtype=np.float32).reshape(16, 24, 3)
    for suffix, tolerance in ((".png", 0.5 / 255), (".JPG", 0.03)):
        path = tmp_path / f"x{suffix}"
        path.write_bytes(pictures.encode(smooth, suffix))
        np.testing.assert_allclose(pictures.load(path), smooth, atol=tolerance + 1e-6)
