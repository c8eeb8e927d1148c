"""Arrays for a signature's inputs, from the words of a command line and from files.

    seed=0,1,2               numbers, or true/false; one row each
    seed=0..15               whole numbers, both ends included
    z=[[0.5,1],[2,0.1]]      JSON, for inputs with more dimensions
    prompt=To be, or not     text, whole, commas and all
    image=@photo.png         a picture (PNG, JPEG): floats in [0, 1] with a batch dimension for a float
                             input, bytes for uint8, the file as it is for a string input
    x=@data.npy              an array; @data.npz:key takes one out of an archive, @data.npz its only one
    x=@data.json             JSON; {"b64": "..."} is bytes, as in TensorFlow Serving's REST API
    x=@data.csv              numbers between commas or spaces, a row in each line; also .txt
    prompt=@poem.txt         text, without its last line break
    x=@-                     standard input, any of these
    @inputs.npz              all inputs: an archive, a JSON object, or @- for either on standard input
The same NAME again adds rows. An input with one row is repeated when another has more.
"""

from __future__ import annotations

import base64
import io
import json
import re
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from serving import png, tensors
from serving.schema import TensorSpec

_PICTURES = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg"}
# What a file is by its first bytes, for standard input and names that do not say.
_BEGINNINGS = {b"\x93NUMPY": ".npy", b"PK\x03\x04": ".npz", **_PICTURES, b"[": ".json", b"{": ".json"}
_KINDS = {".npy", ".npz", ".png", ".jpg", ".jpeg", ".json", ".csv", ".txt"}
_MAX_RANGE = 10_000_000  # rows; more is a slip of the finger


class UsageError(Exception):
    """The command line is wrong; the message says how."""


def read(words: Iterable[str], known: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    """Input name -> array, by the types that the signature's inputs have.

    A name that the signature lacks becomes an empty array, for the client to refuse: it knows the others.

    Args:
      words: NAME=VALUE or @FILE, as above.
      known: the signature's inputs.
    Raises:
      UsageError: a word of another form, or a value that is not of the input's type.
      OSError: a file that cannot be read.
    """
    values: dict[str, list[np.ndarray]] = {}
    for word in words:
        if word.startswith("@"):
            for name, array in _read_all(word[1:], known).items():
                values.setdefault(name, []).append(array)
            continue
        name, equals, text = word.partition("=")
        if not name or not equals:
            raise UsageError(f"{word!r}: expected NAME=VALUE or @FILE")
        values.setdefault(name, []).append(_checked(name, known, text))
    inputs = {}
    for name, arrays in values.items():
        try:
            inputs[name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        except ValueError as error:
            raise UsageError(f"{name}: its values do not stack: {error}") from None
    return same_rows(inputs, known)


def same_rows(inputs: Mapping[str, np.ndarray], known: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    """The inputs with those of one row repeated to the rows of the others, where the signature has rows."""
    rows = max((array.shape[0] for array in inputs.values() if array.ndim), default=1)
    return {
        name: np.repeat(array, rows, axis=0) if _is_one_row(array, known.get(name)) else array
        for name, array in inputs.items()
    }


def picture_suffix(data: bytes) -> str | None:
    """".png" or ".jpg" for what begins as such a file does."""
    return next((suffix for beginning, suffix in _PICTURES.items() if data.startswith(beginning)), None)


def decoded(value: Any) -> Any:
    """JSON values with bytes for each {"b64": ...}."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if isinstance(value, dict) and value.keys() == {"b64"}:
        return base64.b64decode(value["b64"], validate=True)
    return value


def _checked(name: str, known: Mapping[str, TensorSpec], text: str) -> np.ndarray:
    if name not in known:
        return np.empty(0)
    try:
        return _read_value(text, known[name])
    except (ValueError, KeyError) as error:
        raise UsageError(f"{name}: {error}") from None


def _read_all(name: str, known: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    """The inputs of an archive's arrays, or of a JSON object's values."""
    data = _read_bytes(name)
    kind = _kind(name, data)
    try:
        if kind == ".npz":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                names = [member.removesuffix(".npy") for member in archive.namelist()]
            return {key: _cast(_archived(name, data, key), known.get(key)) for key in names}
        if kind == ".json":
            values = _json(name, data)
            if isinstance(values, dict):
                return {key: _cast(decoded(v), known.get(key)) for key, v in values.items()}
    except (ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"@{name}: {error}") from None
    raise UsageError(f"@{name}: expected an .npz archive or a JSON object of input names")


def _is_one_row(array: np.ndarray, spec: TensorSpec | None) -> bool:
    """Whether the array has one row where the signature takes any number of them."""
    any_rows = spec is not None and (not spec.shape or spec.shape[0] is None)
    return any_rows and array.ndim > 0 and array.shape[0] == 1


# --- Values in words -----------------------------------------------------------------------------


def _read_value(text: str, spec: TensorSpec) -> np.ndarray:
    if text.startswith("@"):
        return _read_file(text[1:], spec)
    if spec.dtype == "string":
        return _as_rows(np.array(text.encode(), dtype=object), spec)
    if text.startswith("["):
        try:
            return tensors.to_array(json.loads(text), spec.dtype)
        except json.JSONDecodeError as error:
            raise ValueError(f"{text!r} is not JSON: {error}") from None
    if ends := re.fullmatch(r"(-?\d+)\.\.(-?\d+)", text):
        return tensors.to_array(_range(*map(int, ends.groups())), spec.dtype)
    numbers = [_parse_number(word.strip(), spec) for word in text.split(",")]
    array = tensors.to_array(numbers, spec.dtype)
    return _as_rows(array[0], spec) if len(numbers) == 1 else array


def _range(first: int, last: int) -> list[int]:
    if not 0 <= last - first < _MAX_RANGE:
        raise ValueError(f"{first}..{last}: expected the smaller end first, at most {_MAX_RANGE:,} numbers")
    return list(range(first, last + 1))


def _parse_number(word: str, spec: TensorSpec) -> complex:
    booleans = {"true": True, "1": True, "false": False, "0": False}
    if spec.dtype == "bool" and word.lower() in booleans:
        return booleans[word.lower()]
    for kind in (int, float, complex):
        try:
            return kind(word)
        except ValueError:
            continue
    raise ValueError(f"expected {spec.dtype}, given {word!r}")


def _as_rows(value: Any, spec: TensorSpec) -> np.ndarray:
    """One value as the signature wants it: a scalar, or a batch of one."""
    array = np.asarray(value)
    return array if spec.shape == () else array.reshape(1)


# --- Files ---------------------------------------------------------------------------------------


def _read_bytes(name: str) -> bytes:
    return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()


def _kind(name: str, data: bytes) -> str:
    """The suffix of what the file is: by its name, or else by its first bytes; ".txt" for the rest."""
    suffix = Path(name).suffix.lower()
    if suffix in _KINDS:
        return suffix
    return next((kind for first, kind in _BEGINNINGS.items() if data.lstrip().startswith(first)), ".txt")


def _read_file(name: str, spec: TensorSpec) -> np.ndarray:
    path, _, key = name.partition(".npz:")
    if key:
        return _cast(_archived(f"{path}.npz", _read_bytes(f"{path}.npz"), key), spec)
    data = _read_bytes(name)
    kind = _kind(name, data)
    if kind == ".npy":
        return _cast(_array(name, data), spec)
    if kind == ".npz":
        return _cast(_archived(name, data, None), spec)
    is_text = spec.dtype == "string" and name == "-"  # what happens to begin as JSON does
    if kind == ".json" and not is_text:
        return _cast(decoded(_json(name, data)), spec)
    if spec.dtype == "string":
        # By TensorFlow Serving's custom, `*_bytes` are no text.
        text = data if spec.name.endswith("_bytes") else data.removesuffix(b"\n").removesuffix(b"\r")
        return _as_rows(np.array(text, dtype=object), spec)
    if kind in (".png", ".jpg", ".jpeg"):
        return _picture(name, data, spec)
    return _numbers(name, data, spec)


def _cast(values: Any, spec: TensorSpec | None) -> np.ndarray:
    return np.empty(0) if spec is None else tensors.to_array(values, spec.dtype)


def _array(name: str, data: bytes) -> np.ndarray:
    try:
        return np.lib.format.read_array(io.BytesIO(data))
    except Exception as error:  # damaged files make numpy raise a dozen kinds, EOFError among them
        raise ValueError(f"{name} is damaged or no .npy file: {str(error) or type(error).__name__}") from None


def _archived(name: str, data: bytes, key: str | None) -> np.ndarray:
    """The array called `key`; None: the only one there is."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [member.removesuffix(".npy") for member in archive.namelist()]
            wanted = names[0] if key is None and len(names) == 1 else key
            if wanted in names:
                return np.lib.format.read_array(io.BytesIO(archive.read(f"{wanted}.npy")))
    except Exception as error:  # as above, and zipfile's own
        reason = str(error) or type(error).__name__
        raise ValueError(f"{name} is damaged or no .npz archive: {reason}") from None
    listed = ", ".join(names) or "none"
    if key is None:
        raise ValueError(f"{name} has several arrays: choose one of {listed} as @{name}:NAME")
    raise ValueError(f"{name} has no array {key!r}, it has {listed}")


def _json(name: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON: {error}") from None


def _numbers(name: str, data: bytes, spec: TensorSpec) -> np.ndarray:
    """A row for each line; of single numbers, one dimension if the signature has one."""
    try:
        lines = [line.replace(",", " ").split() for line in data.decode().splitlines()]
        rows = [[_parse_number(word, spec) for word in words] for words in lines if words]
    except UnicodeDecodeError:
        raise ValueError(f"{name} is no array, picture, JSON or text: expected {spec.dtype}") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    array = tensors.to_array(rows, spec.dtype)
    return array.reshape(-1) if spec.shape is not None and len(spec.shape) == 1 else array


def _picture(name: str, data: bytes, spec: TensorSpec) -> np.ndarray:
    """[1, H, W, C], or [H, W, C] where the signature has no batch; C as the signature says, else 3."""
    if spec.dtype != "uint8" and "float" not in spec.dtype:
        raise ValueError(f"a picture does not fit a {spec.dtype} input")
    channels = (spec.shape[-1] if spec.shape else None) or 3
    pixels = _pixels(name, data, channels)  # [H, W, C]
    if spec.shape is None or len(spec.shape) != 3:
        pixels = pixels[None]
    if spec.dtype == "uint8":
        return pixels
    return tensors.to_array(pixels.astype(np.float32) / 255, spec.dtype)


def _pixels(name: str, data: bytes, channels: int) -> np.ndarray:
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise ValueError(f"a picture has 1, 3 or 4 channels, the input {channels}")
    try:
        from PIL import Image  # not in the base install, which reads the usual PNGs without it
    except ImportError:
        return _pixels_without_pillow(name, data, channels)
    try:
        with Image.open(io.BytesIO(data)) as picture:
            pixels = np.asarray(picture.convert(modes[channels]))
    # A damaged file is any of these to Pillow.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = re.sub(r" <_io\.BytesIO.*>", "", str(error))
        raise ValueError(f"{name} is no readable picture: {reason}") from None
    return pixels.reshape(*pixels.shape[:2], channels)


def _pixels_without_pillow(name: str, data: bytes, channels: int) -> np.ndarray:
    kind = picture_suffix(data)
    if kind == ".jpg":
        raise UsageError("reading a JPEG into an array needs Pillow: pip install Pillow")
    if kind is None:
        raise ValueError(f"{name} is no PNG or JPEG file")
    try:
        return png.with_channels(png.decode(data), channels)
    except NotImplementedError as error:
        raise UsageError(f"{name} is {error}, which needs Pillow: pip install Pillow") from None
    except ValueError as error:
        raise ValueError(f"{name} is no readable picture: {error}") from None
