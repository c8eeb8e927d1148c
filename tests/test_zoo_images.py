"""Pictures that a graph decodes: upright, in colour, and none that would not fit into the memory."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from zoo import images

MOST = 1_000_000


@pytest.fixture(scope="module")
def decode():
    return tf.function(
        lambda encoded: images.decode_image(encoded, MOST), input_signature=[tf.TensorSpec([], tf.string)]
    )


@pytest.fixture(scope="module")
def picture():
    """A picture 48 wide and 32 high, another at each corner."""
    y, x = np.mgrid[0:32, 0:48]
    return Image.fromarray(np.stack([5 * x, 8 * y, 3 * (x + y)], -1).astype(np.uint8))


def file(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("endian", "<>", ids=["little", "big"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_stands_as_pillow_stands_it(decode, picture, orientation, endian):
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F] = "a camera"  # other tags, before and after
    exif[0x0112] = orientation
    exif[0x0132] = "2026:11:27 12:00:00"
    encoded = file(picture, "JPEG", quality=95, exif=exif.tobytes())
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))))
    got = decode(encoded).numpy()
    assert got.shape == expected.shape
    assert np.abs(got - expected / 255.0).mean() < 0.01


@pytest.mark.parametrize("value", [0, 9, 60000])
def test_an_orientation_that_is_none_is_upright(decode, picture, value):
    exif = Image.Exif()
    exif[0x0112] = value
    assert decode(file(picture, "JPEG", exif=exif.tobytes())).shape == (32, 48, 3)


def test_exif_that_is_cut_off_or_nonsense_is_upright(decode, picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = exif.tobytes()
    for end in range(6, len(whole)):
        assert decode(file(picture, "JPEG", exif=whole[:end])).shape in ((32, 48, 3), (48, 32, 3))
    nonsense = b"Exif\0\0II*\0" + b"\xff" * 40
    assert decode(file(picture, "JPEG", exif=nonsense)).shape == (32, 48, 3)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", mode) for mode in ("RGB", "RGBA", "L", "P", "1")),
        *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
        *(("GIF", "P"), ("BMP", "RGB"), ("WEBP", "RGB"), ("WEBP", "RGBA")),
    ],
)
def test_what_people_send_becomes_colour(decode, picture, kind, mode):
    sent = picture.convert(mode)
    got = decode(file(sent, kind)).numpy()
    assert np.abs(got - np.asarray(sent.convert("RGB")) / 255.0).mean() < 0.03


def test_of_an_animation_the_first_picture_counts(decode, picture):
    dark = Image.new("RGB", picture.size)
    encoded = file(dark, "GIF", save_all=True, append_images=[picture])
    assert decode(encoded).numpy().max() == 0


def with_size(encoded, at, size, order):
    """The file with another width and height in its header: 16 bits each, or 32 in a PNG or a BMP."""
    fields = b"".join(value.to_bytes(size, order) for value in (20_000, 16_000))
    return encoded[:at] + fields + encoded[at + len(fields) :]


def test_a_picture_that_declares_too_many_pixels_is_not_decoded(decode, picture):
    jpeg = file(picture, "JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5
    for encoded in (
        with_size(file(picture, "PNG"), 16, 4, "big"),
        with_size(file(picture, "BMP"), 18, 4, "little"),
        with_size(file(picture, "GIF"), 6, 2, "little"),
        with_size(file(picture, "WEBP"), 26, 2, "little"),
        with_size(jpeg, frame, 2, "big"),
        file(Image.new("RGB", (2000, 1000)), "WEBP", lossless=True),
        file(Image.new("RGB", (2000, 1000)), "WEBP", exif=Image.Exif().tobytes() + b"\0\0"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match="too many pixels; at most 1000000"):
            decode(encoded)


@pytest.mark.parametrize("encoded", [b"", b"x", b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"GIF8"])
def test_what_is_no_picture_is_refused(decode, encoded):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(encoded)


def test_a_damaged_jpeg_is_refused(decode, picture):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(file(picture, "JPEG")[:300])


def test_a_batch_may_mix_kinds_and_sizes(picture):
    small = picture.resize((10, 10))
    batch = images.decode_images(tf.constant([file(picture, "PNG"), file(small, "JPEG")]), (16, 16, 3))
    assert batch.shape == (2, 16, 16, 3)
    grey = images.decode_images(tf.constant([file(picture, "PNG")]), (16, 16, 1))
    assert grey.shape == (1, 16, 16, 1)
