"""A model's answer as files, as a table for people, or as JSON for programs."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving import music, png
from serving.inputs import UsageError, picture_suffix

Arrays = Mapping[str, np.ndarray]

_TABLE_ROWS = 100
_CELL = 60  # characters
_VECTOR = 6  # numbers of a row that are shown, half of them from its end


# --- Files ---------------------------------------------------------------------------------------


def write_folder(outputs: Arrays, folder: Path) -> dict[str, list[str]]:
    """Writes every output into `folder`, made if need be; returns output -> paths.

    Pictures ([B, H, W, 1 or 3], floats in [0, 1] or uint8) become a PNG each and one grid.png, encoded
    pictures and text are written as they are, other arrays become .npy.

    Raises:
      OSError: `folder` cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [name for name, array in outputs.items() if is_pictures(array)]
    files: dict[str, list[str]] = {}
    for name, array in outputs.items():
        if name in pictures:
            grid = folder / ("grid.png" if len(pictures) == 1 else f"{name}_grid.png")
            contents = {
                folder / f"{name}_{row:03}.png": png.encode(picture)
                for row, picture in enumerate(_bytes_of(array))
            } | {grid: grid_png(array)}
        elif array.dtype == object:
            contents = {
                folder / f"{name}_{row:03}{_suffix(value)}": value for row, value in enumerate(array.ravel())
            }
        else:
            contents = {folder / f"{name}.npy": _npy(array)}
        for path, content in contents.items():
            write(path, content)
        files[name] = [str(path) for path in contents]
    return files


def write_file(outputs: Arrays, path: Path) -> str:
    """Writes the answer to one file, of the kind that its suffix says; returns the path.

    .npz and .json hold all outputs; the others the one output that they can hold: .npy an array, .txt text
    (a line each), .png pictures (as a grid), .png and .jpg one encoded picture, .mid and .wav the notes of
    one piece ([1, T, voices], `serving.music`).

    Raises:
      UsageError: another suffix, or not exactly one output that fits.
      OSError: the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix == ".npz":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:  # np.savez has names of its own, "file" say
            for name, array in outputs.items():
                archive.writestr(f"{name}.npy", _npy(array))
        content = buffer.getvalue()
    elif suffix == ".json":
        content = (json.dumps({k: jsonable(v) for k, v in sorted(outputs.items())}) + "\n").encode()
    elif suffix == ".npy":
        content = _npy(_the_one(outputs, path, "array", lambda array: True))
    elif suffix == ".txt":
        texts = _the_one(outputs, path, "text", lambda array: array.dtype == object)
        content = b"\n".join(texts.ravel()) + b"\n"
    elif suffix in (".png", ".jpg", ".jpeg"):
        content = _picture_file(outputs, path)
    elif suffix in (".mid", ".wav"):
        content = _music_file(outputs, path)
    else:
        raise UsageError(f"--output={path}: expected .png, .jpg, .npy, .npz, .json, .txt, .mid or .wav")
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, content)
    return str(path)


def write(path: Path, content: bytes) -> None:
    """Leaves the old file or the new one, never a half. Raises OSError."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.chmod(temporary, 0o644)  # mkstemp makes files that only the owner can read
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def is_pictures(array: np.ndarray) -> bool:
    """[B, H, W, 1 or 3], floats in [0, 1] or uint8."""
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or not array.size:
        return False
    return array.dtype == np.uint8 or (
        array.dtype.kind == "f" and bool(array.min() >= 0) and bool(array.max() <= 1)
    )


def grid_png(array: np.ndarray) -> bytes:
    """One PNG of pictures [B, H, W, 1 or 3], row by row, as square as it goes."""
    pixels = _bytes_of(array)
    count, height, width, channels = pixels.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = np.full((rows * columns, height, width, channels), 255, np.uint8)
    grid[:count] = pixels
    grid = grid.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return png.encode(grid.reshape(rows * height, columns * width, channels))


def _picture_file(outputs: Arrays, path: Path) -> bytes:
    def is_encoded(array: np.ndarray) -> bool:
        return array.dtype == object and array.size > 0 and picture_suffix(array.flat[0]) is not None

    array = _the_one(outputs, path, "picture", lambda array: is_pictures(array) or is_encoded(array))
    suffix = ".jpg" if path.suffix.lower() == ".jpeg" else path.suffix.lower()
    if not is_encoded(array):
        if suffix != ".png":
            raise UsageError(f"--output={path}: pixels are written as .png")
        return grid_png(array)
    if array.size != 1:
        raise UsageError(f"--output={path}: {array.size} encoded pictures do not fit one file: --output_dir")
    if picture_suffix(array.flat[0]) != suffix:
        raise UsageError(f"--output={path}: the model answers with a {picture_suffix(array.flat[0])} file")
    return array.flat[0]


def _music_file(outputs: Arrays, path: Path) -> bytes:
    notes = _the_one(outputs, path, "piece", lambda array: array.ndim == 3 and array.dtype.kind in "iu")
    if len(notes) != 1:
        raise UsageError(f"--output={path} holds one piece, the answer has {len(notes)}")
    write = music.midi if path.suffix.lower() == ".mid" else music.wav
    try:
        return write(notes[0])
    except (ValueError, ImportError) as error:
        raise UsageError(f"--output={path}: {error}") from None


def _the_one(outputs: Arrays, path: Path, what: str, fits: Callable[[np.ndarray], bool]) -> np.ndarray:
    found = [name for name, array in outputs.items() if fits(array)]
    if len(found) != 1:
        listed = ", ".join(found or outputs)
        raise UsageError(
            f"--output={path} holds one {what}, the answer has {len(found) or 'none'} ({listed}): "
            "choose by --outputs, or take .npz or --output_dir"
        )
    return outputs[found[0]]


def _bytes_of(pictures: np.ndarray) -> np.ndarray:
    if pictures.dtype == np.uint8:
        return pictures
    return np.round(pictures.astype(np.float32) * 255).astype(np.uint8)


def _suffix(value: bytes) -> str:
    return picture_suffix(value) or (".bin" if _utf8(value) is None else ".txt")


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, _saveable(array))
    return buffer.getvalue()


def _saveable(array: np.ndarray) -> np.ndarray:
    """Strings as numpy's own type if that keeps them (it drops zeros at the end), small floats as float32."""
    if array.dtype == object:
        fixed = array.astype(bytes) if array.size else array.astype("S1")
        if array.size and not all(a == b for a, b in zip(fixed.flat, array.flat, strict=True)):
            raise UsageError("bytes that end in zeros do not fit .npy and .npz: take .json or --output_dir")
        return fixed
    # numpy reads bfloat16 and its like back as bare bytes.
    return array if array.dtype.kind in "biufc" else array.astype(np.float32)


# --- Text ----------------------------------------------------------------------------------------


def table(outputs: Arrays, names: Sequence[str] = ()) -> str:
    """A line for each output's type, then its rows side by side; arrays without rows stand alone.

    Args:
      names: what to call the rows, instead of their numbers.
    """
    heads = [f"{name}: {_kind(array)} {list(array.shape)}" for name, array in sorted(outputs.items())]
    rows = {len(array) for array in outputs.values() if array.ndim}
    if not all(array.ndim for array in outputs.values()) or len(rows) != 1:
        values = [text(array) for _, array in sorted(outputs.items())]
        return "\n".join(f"{head}\n{value}" for head, value in zip(heads, values, strict=True))
    count = rows.pop()
    columns = [["row", *(names or map(str, range(min(count, _TABLE_ROWS))))]]
    columns += [
        [name, *(_cell(row) for row in array[:_TABLE_ROWS])] for name, array in sorted(outputs.items())
    ]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in zip(*columns, strict=True)
    ]
    if count > _TABLE_ROWS:
        lines.append(f"... {count} rows in all (--json or --output=FILE has them)")
    return "\n".join([*heads, "", *lines])


def text(array: np.ndarray) -> str:
    """Numbers as numpy prints them; strings a line each, or how many bytes they are."""
    if array.dtype != object:
        return np.array2string(array, precision=4, threshold=100)
    return "\n".join(
        f"<{len(value)} bytes>" if (found := _utf8(value)) is None else found for value in array.ravel()
    )


def jsonable(array: np.ndarray, all_b64: bool = False) -> Any:
    """Nested lists; text as text, other (or all) bytes as REST's {"b64": ...}; complex as [re, im]."""
    if array.dtype != object:
        if array.dtype.kind == "c":
            return np.stack([array.real, array.imag], -1).tolist()
        return (array if array.dtype.kind in "biuf" else array.astype(np.float64)).tolist()
    texts = np.empty(array.shape, dtype=object)
    for index, value in enumerate(array.flat):
        found = None if all_b64 else _utf8(value)
        texts.flat[index] = {"b64": base64.b64encode(value).decode()} if found is None else found
    return texts.tolist()


def _kind(array: np.ndarray) -> str:
    return "string" if array.dtype == object else str(array.dtype)


def _cell(row: Any) -> str:
    """One row of one output, on one line."""
    array = np.asarray(row, dtype=object) if isinstance(row, bytes) else np.asarray(row)
    if array.ndim == 0:
        if array.dtype != object:
            return f"{array[()]:.6g}" if array.dtype.kind == "f" else str(array[()])
        value: bytes = array.item()
        found = _utf8(value)
        plain = f"<{len(value)} bytes>" if found is None else " / ".join(found.splitlines())
        return plain if len(plain) <= _CELL else plain[: _CELL - 3] + "..."
    if array.ndim > 1 or not array.size:
        return f"{_kind(array)} {list(array.shape)}"
    shown = [_cell(value) for value in array]
    if len(shown) > _VECTOR:
        shown = [*shown[: _VECTOR // 2], "...", *shown[-_VECTOR // 2 :]]
    return f"[{' '.join(shown)}]"


def _utf8(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
