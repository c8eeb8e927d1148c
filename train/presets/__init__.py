"""Presets: one small module each, whose `get_config()` returns the whole configuration.

`GATES` of a preset are what an export of it must pass to be blessed (`train.gates`). They are no part of the
configuration: a stricter gate makes no run another one.
"""

import difflib
import importlib
import pathlib
import types

from train.config import Config
from zoo.errors import UserError


def names() -> list[str]:
    """All presets, sorted."""
    return sorted(p.stem for p in pathlib.Path(__file__).parent.glob("[a-z]*.py"))


def load(name: str) -> Config:
    """A preset's configuration. Raises `UserError` that lists the presets for an unknown name."""
    config: Config = _module(name).get_config()
    return config


def gates(name: str) -> tuple[str, ...]:
    """The gates of a preset's exports. Raises `UserError` as `load` does."""
    found: tuple[str, ...] = _module(name).GATES
    return found


def _module(name: str) -> types.ModuleType:
    if name not in names():
        close = difflib.get_close_matches(name, names(), 1)
        hint = f" did you mean {close[0]}?" if close else ""
        raise UserError(f"unknown preset {name!r};{hint} the presets are {', '.join(names())}")
    return importlib.import_module(f"train.presets.{name}")
