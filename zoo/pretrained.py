"""Weights that were trained here and are kept in the package: `zoo/weights/<preset>/`.

`weights.npz` holds the arrays of the model's `networks` by `<network>/<variable path>`; kernels are
stored as float16, vectors (biases and batch statistics) as float32. `card.json` says what they are.
"""

import dataclasses
import enum
import io
import json
import pathlib
import typing
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

import zoo
from zoo.errors import UserError
from zoo.files import atomic_write, write_json

if TYPE_CHECKING:
    from zoo import base

DIRECTORY = pathlib.Path(__file__).parent / "weights"


def names() -> list[str]:
    """The kept presets, sorted."""
    return sorted(p.parent.name for p in DIRECTORY.glob("*/card.json"))


def card(name: str) -> dict[str, Any]:
    """A kept preset's model card. Raises `UserError` for an unknown name."""
    if name not in names():
        raise UserError(
            f"no pretrained weights named {name!r}; there are {', '.join(names()) or 'none'}"
        )
    return json.loads((DIRECTORY / name / "card.json").read_text())


def samples(name: str) -> dict[str, bytes]:
    """The previews that are kept beside a preset's weights, by file name."""
    return {path.name: path.read_bytes() for path in sorted((DIRECTORY / name).glob("preview.*"))}


def load(name: str) -> "base.Model":
    """The model of a kept preset, ready for inference.

    Raises:
        UserError: for an unknown name, or weights that do not fit the card's configuration.
    """
    description = card(name)
    config = config_from_json(zoo.family(description["family"]).Config, description["model"])
    model = zoo.build(description["family"], config)
    read_weights(model, DIRECTORY / name / "weights.npz")
    return model


def config_to_json(config: Any) -> dict[str, Any]:
    """A config dataclass as JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def config_from_json(kind: type, values: dict[str, Any]) -> Any:
    """The inverse of `config_to_json`: restores tuples, enums and nested dataclasses.

    Raises:
        UserError: for a field that `kind` does not have, or a value that its type does not take.
    """
    if not isinstance(values, dict):
        raise UserError(f"{kind.__name__} is read from a JSON object, not from {values!r}")
    hints = typing.get_type_hints(kind)
    if unknown := set(values) - set(hints):
        raise UserError(
            f"{kind.__module__}.{kind.__name__} has no field {', '.join(sorted(unknown))};"
            f" its fields are {', '.join(hints)}"
        )
    return kind(**{name: _restore(hints[name], value) for name, value in values.items()})


def _restore(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return config_from_json(hint, value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        try:
            return hint(value)
        except ValueError as error:
            raise UserError(f"{value!r} is none of {', '.join(hint)}") from error
    return tuple(value) if isinstance(value, list) else value


def _variables(model: "base.Model") -> dict[str, Any]:
    return {
        f"{network}/{variable.path}": variable
        for network, keras_model in model.networks.items()
        for variable in keras_model.weights
    }


def pack_weights(model: "base.Model") -> dict[str, Any]:
    """The arrays that `weights.npz` holds."""
    packed = {}
    for name, variable in _variables(model).items():
        value = np.asarray(variable)
        packed[name] = value.astype(np.float16) if value.ndim > 1 else value
    return packed


def keep(model: "base.Model", description: dict[str, Any], previews: dict[str, bytes]) -> pathlib.Path:
    """Writes a model's weights, its previews by file name, and the card to `zoo/weights/<card's name>/`.

    The card comes last: one without weights never stands there. Returns the folder.
    """
    directory = DIRECTORY / description["name"]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **pack_weights(model))
    atomic_write(directory / "weights.npz", buffer.getvalue())
    for name, content in previews.items():
        atomic_write(directory / name, content)
    keep_card(description)
    return directory


def keep_card(description: dict[str, Any]) -> pathlib.Path:
    """Writes a kept preset's card and returns its path."""
    path = DIRECTORY / description["name"] / "card.json"
    write_json(path, description)
    return path


def round_weights(model: "base.Model") -> None:
    """Gives a model the values that `keep` would store: what is judged is then what ships."""
    packed = pack_weights(model)
    for name, variable in _variables(model).items():
        variable.assign(packed[name].astype(variable.dtype))


def read_weights(model: "base.Model", path: pathlib.Path) -> None:
    """Fills the model's networks from a `weights.npz`.

    Raises:
        UserError: when the file is missing, damaged, or of another architecture.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read the weights {path}: {error}") from error
    variables = _variables(model)
    shapes = {name: tuple(v.shape) for name, v in variables.items()}
    if shapes != {name: a.shape for name, a in arrays.items()}:
        different = sorted(
            name
            for name in shapes.keys() | arrays.keys()
            if name not in arrays or shapes.get(name) != arrays[name].shape
        )
        raise UserError(
            f"{path} holds the weights of another architecture: {len(different)} arrays differ,"
            f" the first is {different[0]}"
        )
    for name, variable in variables.items():
        variable.assign(arrays[name].astype(variable.dtype))
    model.load_inference_weights()
