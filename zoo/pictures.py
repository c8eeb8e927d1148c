"""Picture files from outside, whatever their kind, as arrays; and arrays as picture files."""

import io
import pathlib
import warnings

import numpy as np
from PIL import Image, ImageOps

from zoo.errors import UserError

MOST_PIXELS = 100_000_000  # as declared by the file: more would take gigabytes to decode
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}  # that `encode` knows

_KNOWN = "PNG, JPEG, WebP, GIF, BMP and TIFF"
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # "I": 16 bit as older Pillows read it


def load(path: pathlib.Path, smallest: int = 1) -> np.ndarray:
    """A picture file as it is meant to be seen: RGB float32 `[H, W, 3]` in `[0, 1]`.

    Upright by its EXIF orientation. Grey, palettes, CMYK and 16 bits become RGB; what is transparent becomes
    white; of an animation the first picture counts.

    Args:
        smallest: fewer pixels than this, either way, are refused.

    Raises:
        UserError: no such file, or one that is no picture, damaged, too large or too small.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"there is no picture {path}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not data:
        raise UserError(f"{path} is empty; a picture is expected")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's about sizes that are checked here, and about metadata
            with Image.open(io.BytesIO(data)) as file:
                width, height = file.size
                _check_size(path, width, height, smallest)
                return _pixels(path, file)
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} declares too many pixels; at most {MOST_PIXELS:,} are read") from error
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{path} is no picture of a known kind; {_KNOWN} are read") from error
    except Exception as error:  # Pillow's decoders raise almost any type on damaged bytes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is damaged ({reason}); {_KNOWN} are read") from error


def _check_size(path: pathlib.Path, width: int, height: int, smallest: int) -> None:
    if width * height > MOST_PIXELS:
        raise UserError(f"{path} declares {width}x{height} pixels; at most {MOST_PIXELS:,} in all are read")
    if min(width, height) < smallest:
        raise UserError(f"{path} is {width}x{height} pixels; at least {smallest}x{smallest} are expected")


def _pixels(path: pathlib.Path, file: Image.Image) -> np.ndarray:
    image: Image.Image = ImageOps.exif_transpose(file)
    if image.mode in _SIXTEEN_BITS:
        grey = np.clip(np.asarray(image, np.float32) / 65535.0, 0.0, 1.0)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode == "F":
        raise UserError(f"{path} holds floating-point numbers; save it with 8 or 16 bits a colour")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"), np.float32) / 255.0


def fit(image: np.ndarray, longest: int) -> np.ndarray:
    """A picture `[H, W, 3]` in `[0, 1]` with its longest side so many pixels, its aspect ratio kept."""
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if size == (width, height):
        return image
    return np.asarray(_image(image).resize(size, Image.Resampling.BICUBIC), np.float32) / 255.0


def stretch(grey: np.ndarray, height: int, width: int) -> np.ndarray:
    """One channel `[h, w]` in `[0, 1]` → float32 `[height, width]`."""
    if grey.shape == (height, width):
        return grey
    return np.asarray(_image(grey).resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255.0


def encode(image: np.ndarray, suffix: str) -> bytes:
    """A picture float `[H, W, 3]` in `[0, 1]` as a file of the kind that a suffix of `SUFFIXES` says."""
    buffer = io.BytesIO()
    kind = SUFFIXES[suffix.lower()]
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    _image(image).save(buffer, kind, **options)
    return buffer.getvalue()


def _image(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8))
