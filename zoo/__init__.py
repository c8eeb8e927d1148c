"""The models: one family, one file.

`FAMILIES` is the whole registry. A family is a module with `Config` and `Model`; this package imports
it on first use, so that `import zoo` needs no TensorFlow.
"""

import importlib
import types
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError

if TYPE_CHECKING:
    from zoo.base import Model

FAMILIES = {
    "arbitrary_stylizer": "zoo.arbitrary_stylizer",
    "autoencoder": "zoo.autoencoder",
    "chorales": "zoo.chorales",
    "cnn": "zoo.cnn",
    "gan": "zoo.gan",
    "rnn": "zoo.rnn",
    "stylizer": "zoo.stylizer",
    "vae": "zoo.vae",
}


def family(name: str) -> types.ModuleType:
    """The module of a family. Raises `UserError` for an unknown name."""
    if name not in FAMILIES:
        raise UserError(f"unknown model family {name!r}; the families are {', '.join(FAMILIES)}")
    return importlib.import_module(FAMILIES[name])


def build(name: str, config: Any = None, seed: int = 0) -> "Model":
    """A freshly initialised model of a family, with its default `Config` unless one is given."""
    module = family(name)
    try:
        return module.Model(module.Config() if config is None else config, seed)
    except ValueError as error:
        raise UserError(f"{name} config: {error}") from error


def names() -> list[str]:
    """The presets whose weights are kept in this package."""
    from zoo import pretrained

    return pretrained.names()


def from_pretrained(name: str) -> "Model":
    """A model with the weights kept under a preset's name. Raises `UserError` for an unknown one."""
    from zoo import pretrained

    return pretrained.load(name)
