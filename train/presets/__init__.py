"""Presets: one small module each, whose `get_config()` returns the whole configuration."""

import difflib
import importlib
import pathlib

from train.config import Config
from zoo.errors import UserError


def names() -> list[str]:
    """All presets, sorted."""
    return sorted(p.stem for p in pathlib.Path(__file__).parent.glob("[a-z]*.py"))


def load(name: str) -> Config:
    """A preset's configuration. Raises `UserError` that lists the presets for an unknown name."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), 1)
        hint = f" did you mean {close[0]}?" if close else ""
        raise UserError(f"unknown preset {name!r};{hint} the presets are {', '.join(names())}")
    return importlib.import_module(f"train.presets.{name}").get_config()
