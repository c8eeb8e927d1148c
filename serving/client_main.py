"""Asks a model server from the command line.

    python -m serving.client_main predict MODEL [--signature=NAME] \\
        [--input NAME=VALUE]... [--output_dir=DIR]
    python -m serving.client_main metadata MODEL    its signatures: inputs, outputs, defaults
    python -m serving.client_main status MODEL      its versions and their states

Values of --input, read as the input's own type:
    seed=0,1,2               numbers, or true/false; one row each
    z=[[0.5,1],[2,0.1]]      JSON, for inputs with more dimensions
    prompt=To be, or not     text, whole, commas and all
    image=@photo.png         a picture: floats in [0, 1] with a batch dimension for a float input,
                             the file's own bytes for a string input
    x=@data.npy              an array; @data.npz:key takes one out of an archive
The same NAME again adds rows. An input with one row is repeated when another has more.

Outputs: with --output_dir pictures ([B, H, W, 1 or 3] floats in [0, 1]) become PNG files and one
grid.png, encoded pictures are written as they are, other arrays become .npy files. Without it,
arrays are printed.

Example:
    python -m serving.client_main predict gan_fashion --server=127.0.0.1:8500 \\
        --signature=sample --input seed=0,1,2 --input label=3 --output_dir=out
"""

from __future__ import annotations

import base64
import json
import math
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from serving import errors, png, tensors
from serving.client import Client, Signature, TensorSpec

_SERVER_FAILED = 1
_USAGE = 2

_PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg"}
_PICTURE_BEGINNINGS = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg"}


class UsageError(Exception):
    """The command line is wrong; the message says how."""


def define_flags() -> flags.FlagValues:
    """A set of our own: absl's global one would clash where a process imports several binaries."""
    own = flags.FlagValues()
    flags.DEFINE_string("server", "127.0.0.1:8500", "host:port, or unix:/path.", flag_values=own)
    flags.DEFINE_string("signature", "", "Signature; empty = serving_default.", flag_values=own)
    flags.DEFINE_multi_string("input", [], "NAME=VALUE, see above.", flag_values=own)
    flags.DEFINE_list(
        "outputs", [], "Wanted outputs, comma-separated; none = all.", flag_values=own
    )
    flags.DEFINE_integer(
        "version",
        None,
        "Model version; none = the newest.",
        lower_bound=0,
        upper_bound=2**63 - 1,  # it travels as an int64
        flag_values=own,
    )
    flags.DEFINE_string("label", None, "Version label, instead of a version.", flag_values=own)
    flags.DEFINE_float("timeout", 60.0, "Seconds per call.", flag_values=own)
    flags.DEFINE_string("output_dir", None, "Folder for the outputs.", flag_values=own)
    flags.DEFINE_bool("json", False, "Print JSON.", flag_values=own)
    flags.DEFINE_bool("help", False, "Print this help.", flag_values=own)
    return own


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 for the server's refusals, 2 for the caller's mistakes."""
    options = define_flags()
    try:
        words = options(sys.argv if argv is None else argv)[1:]
        if options.help:
            print(f"{__doc__}\nFlags:{options.get_help()}")
        else:
            _run(words, options)
    except errors.ServingError as error:
        # Without a gRPC code, the client itself found the mistake, before it sent anything.
        return _fail(error, _SERVER_FAILED if error.code else _USAGE)
    except (UsageError, flags.Error, OSError) as error:
        return _fail(error, _USAGE)
    return 0


def _fail(error: Exception, status: int) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _run(words: list[str], options: flags.FlagValues) -> None:
    commands = {"predict": _predict, "metadata": _metadata, "status": _status}
    if len(words) != 2 or words[0] not in commands:
        raise UsageError(
            f"expected {' or '.join(commands)} and a model's name, given "
            f"{' '.join(words) or 'nothing'} (--help explains)"
        )
    sent = [words[1], options.server, options.signature, options.label or "", *options.outputs]
    for text in sent:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{text!r} is not UTF-8, as names on a server are") from None
    with Client.connect(options.server, timeout=options.timeout) as client:
        commands[words[0]](client, words[1], options)


def _predict(client: Client, model: str, options: flags.FlagValues) -> None:
    metadata = client.metadata(model, version=options.version, label=options.label)
    name = options.signature or "serving_default"
    # An unknown signature is the client's to report: it knows the others.
    known = metadata.signatures.get(name, Signature(name, {}, {}, "")).inputs
    outputs = client.predict(
        model,
        read_inputs(options.input, known),
        signature=options.signature,
        version=options.version,
        label=options.label,
        outputs=options.outputs or None,
    )
    files = write_outputs(outputs, Path(options.output_dir)) if options.output_dir else {}
    if options.json:
        print(json.dumps({k: files.get(k) or _jsonable(v) for k, v in sorted(outputs.items())}))
        return
    for key, array in sorted(outputs.items()):
        kind = "string" if array.dtype == object else array.dtype
        print(f"{key}: {kind} {list(array.shape)}")
        if key in files:
            print("\n".join(f"  {path}" for path in files[key]))
        else:
            print(_text(array))


def _metadata(client: Client, model: str, options: flags.FlagValues) -> None:
    metadata = client.metadata(model, version=options.version, label=options.label)
    if options.json:
        signatures = {
            name: {
                part: {
                    spec.name: {
                        "dtype": spec.dtype,
                        "shape": None if spec.shape is None else list(spec.shape),
                        **({} if spec.default is None else {"default": _jsonable(spec.default)}),
                    }
                    for spec in specs.values()
                }
                for part, specs in (("inputs", found.inputs), ("outputs", found.outputs))
            }
            for name, found in metadata.signatures.items()
        }
        print(json.dumps({"model": model, "version": metadata.version, "signatures": signatures}))
        return
    print(f"{model} version {metadata.version}")
    for name, signature in metadata.signatures.items():
        print(f"\n{name}")
        for arrow, specs in (("in ", signature.inputs), ("out", signature.outputs)):
            for spec in specs.values():
                default = ""
                if spec.default is not None:
                    default = f"  default {_text(spec.default)}"
                print(f"  {arrow}  {spec.name:<16} {spec}{default}")


def _status(client: Client, model: str, options: flags.FlagValues) -> None:
    versions = client.status(model, version=options.version)
    if options.json:
        print(json.dumps([vars(version) for version in versions]))
        return
    print(f"{'version':>12}  {'state':<10} error")
    for version in versions:
        error = "" if version.error_code == "OK" else f"{version.error_code}: "
        print(f"{version.version:>12}  {version.state:<10} {error}{version.error_message}")


# --- Inputs --------------------------------------------------------------------------------------


def read_inputs(texts: list[str], known: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    """Arrays from NAME=VALUE texts, by the types that the signature's inputs have.

    Values of one name are stacked along dimension 0, and inputs with one row are repeated to the
    rows of the others. A name that the signature lacks becomes an empty array, for the client to
    refuse.

    Raises:
      UsageError: not NAME=VALUE, or a value that is not of the input's type.
      OSError: a file that cannot be read.
    """
    values: dict[str, list[np.ndarray]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"--input {text}: expected NAME=VALUE")
        spec = known.get(name)
        try:
            array = np.empty(0) if spec is None else _read_value(value, spec)
        except (ValueError, KeyError) as error:
            raise UsageError(f"--input {name}: {error}") from None
        values.setdefault(name, []).append(array)
    inputs = {}
    for name, arrays in values.items():
        try:
            inputs[name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        except ValueError as error:
            raise UsageError(f"--input {name}: its values do not stack: {error}") from None
    rows = max((array.shape[0] for array in inputs.values() if array.ndim), default=1)
    return {
        name: np.repeat(array, rows, axis=0) if _is_one_row(array, known.get(name)) else array
        for name, array in inputs.items()
    }


def _is_one_row(array: np.ndarray, spec: TensorSpec | None) -> bool:
    """Whether the array has one row where the signature takes any number of them."""
    any_rows = spec is not None and (not spec.shape or spec.shape[0] is None)
    return any_rows and array.ndim > 0 and array.shape[0] == 1


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
    numbers = [_parse_number(word.strip(), spec) for word in text.split(",")]
    array = tensors.to_array(numbers, spec.dtype)
    return _as_rows(array[0], spec) if len(numbers) == 1 else array


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


def _read_file(name: str, spec: TensorSpec) -> np.ndarray:
    path, _, key = name.partition(".npz:")
    if key:
        return _read_array(f"{path}.npz", key)
    if name.endswith(".npy"):
        return _read_array(name)
    if spec.dtype == "string":
        return _as_rows(np.array(Path(name).read_bytes(), dtype=object), spec)
    if Path(name).suffix.lower() in _PICTURE_SUFFIXES:
        return _read_picture(name, spec)
    raise ValueError(f"{name}: expected .npy, .npz:key, .png or .jpg for a {spec.dtype} input")


def _read_array(path: str, key: str | None = None) -> np.ndarray:
    """The array of a .npy file, or the one called `key` of a .npz archive."""
    with open(path, "rb") as file:
        try:
            if key is None:
                return np.lib.format.read_array(file)
            with zipfile.ZipFile(file) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist()]
                if key in names:
                    with archive.open(f"{key}.npy") as member:
                        return np.lib.format.read_array(member)
        # Damaged files make numpy and zipfile raise a dozen kinds, TokenError and EOFError among them.
        except Exception as error:
            kind = "no .npy file" if key is None else "no .npz archive"
            reason = str(error) or type(error).__name__
            raise ValueError(f"{path} is damaged or {kind}: {reason}") from None
    raise ValueError(f"{path} has no array {key!r}, it has {', '.join(names) or 'none'}")


def _read_picture(name: str, spec: TensorSpec) -> np.ndarray:
    """[1, H, W, C]; C as the signature says, else 3. Floats in [0, 1], or uint8 as stored."""
    try:
        from PIL import Image  # not in the base install: only who reads pictures needs it
    except ImportError:
        raise UsageError("reading pictures needs Pillow: pip install Pillow") from None

    channels = spec.shape[-1] if spec.shape else 3
    try:
        with Image.open(name) as picture:
            pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    except FileNotFoundError:
        raise
    # A damaged file is any of these to Pillow.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} is no readable picture: {error}") from None
    pixels = pixels.reshape(1, *pixels.shape[:2], -1)  # [1, H, W, C]
    if spec.dtype == "uint8":
        return pixels
    if "float" not in spec.dtype:
        raise ValueError(f"a picture does not fit a {spec.dtype} input")
    return pixels.astype(np.float32) / 255


# --- Outputs -------------------------------------------------------------------------------------


def write_outputs(outputs: dict[str, np.ndarray], folder: Path) -> dict[str, list[str]]:
    """Writes every output into `folder`, made if need be; returns output -> paths.

    Raises:
      OSError: `folder` cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [name for name, array in outputs.items() if _is_pictures(array)]
    files: dict[str, list[str]] = {}
    for name, array in outputs.items():
        if name in pictures:
            # With several picture outputs each has its own grid.
            grid = "grid.png" if len(pictures) == 1 else f"{name}_grid.png"
            files[name] = _write_pictures(name, array, folder, folder / grid)
        elif array.dtype == object:
            files[name] = _write_bytes(name, array, folder)
        else:
            path = folder / f"{name}.npy"
            np.save(path, array)
            files[name] = [str(path)]
    return files


def _is_pictures(array: np.ndarray) -> bool:
    return (
        array.ndim == 4
        and array.shape[-1] in (1, 3)
        and array.size > 0
        and array.dtype.kind == "f"
        and bool(array.min() >= 0)
        and bool(array.max() <= 1)
    )


def _write_pictures(name: str, array: np.ndarray, folder: Path, grid_path: Path) -> list[str]:
    pixels = np.round(array.astype(np.float32) * 255).astype(np.uint8)
    paths = []
    for row, picture in enumerate(pixels):
        path = folder / f"{name}_{row:03}.png"
        path.write_bytes(png.encode(picture))
        paths.append(str(path))
    count, height, width, channels = pixels.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = np.full((rows * columns, height, width, channels), 255, np.uint8)
    grid[:count] = pixels
    grid = grid.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    grid_path.write_bytes(png.encode(grid.reshape(rows * height, columns * width, channels)))
    return [*paths, str(grid_path)]


def _write_bytes(name: str, array: np.ndarray, folder: Path) -> list[str]:
    paths = []
    for row, value in enumerate(array.ravel()):
        suffix = next(
            (s for beginning, s in _PICTURE_BEGINNINGS.items() if value.startswith(beginning)), None
        )
        path = folder / f"{name}_{row:03}{suffix or ('.txt' if _utf8(value) else '.bin')}"
        path.write_bytes(value)
        paths.append(str(path))
    return paths


def _utf8(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _text(array: np.ndarray) -> str:
    if array.dtype != object:
        return np.array2string(array, precision=4, threshold=100)
    return "\n".join(_utf8(value) or f"<{len(value)} bytes>" for value in array.ravel())


def _jsonable(array: np.ndarray) -> Any:
    """Nested lists; text as text, other bytes as TensorFlow Serving's {"b64": ...}."""
    if array.dtype != object:
        return (array if array.dtype.kind in "biuf" else array.astype(np.float64)).tolist()
    texts = np.empty(array.shape, dtype=object)
    for index, value in enumerate(array.flat):
        text = _utf8(value)
        texts.flat[index] = {"b64": base64.b64encode(value).decode()} if text is None else text
    return texts.tolist()


if __name__ == "__main__":
    sys.exit(main())
