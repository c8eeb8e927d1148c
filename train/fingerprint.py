"""Digests of what a stage of the line depends on: values, code, files. No TensorFlow."""

import ast
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from zoo.files import atomic_write

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_PACKAGES = ("serving", "train", "zoo")


def of(value: Any) -> str:
    """The digest of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def code(*modules: str) -> str:
    """The digest of what modules of this checkout do: of their code and of all that they import from it.

    Imports count wherever they stand in a file. Comments, docstrings and layout do not count.
    """
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if name not in found and path is not None:
            found[name], imports = _read(path)
            waiting += imports
    return of(found)


def _source(module: str) -> pathlib.Path | None:
    """The file of a module of ours; None for others, and for what an import names inside of a module."""
    path = _ROOT.joinpath(*module.split("."))
    if module.partition(".")[0] in _PACKAGES:
        for source in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
            if source.is_file():
                return source
    return None


@functools.cache
def _read(path: pathlib.Path) -> tuple[str, tuple[str, ...]]:
    """(digest of the code, names that are perhaps modules that it imports)."""
    tree = ast.parse(path.read_bytes())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, False):
            del node.body[0]
    packages = {name.rsplit(".", depth)[0] for name in names for depth in range(name.count(".") + 1)}
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(sorted(names | packages))


class Files:
    """Digests of files that are read once: a second look asks for their size and their last change only."""

    def __init__(self, memory: pathlib.Path):
        """`memory` is a JSON file, made if need be; a damaged one is as good as none."""
        self._memory = memory
        try:
            self._known: dict[str, list[Any]] = dict(json.loads(memory.read_text()))
        except (OSError, ValueError, TypeError):
            self._known = {}

    def digest(self, paths: Iterable[str | pathlib.Path]) -> str:
        """The digest of files, and of all files in folders, by content and by name below the path given.

        Where they lie does not count, nor do hidden files. What is not there counts as missing.
        """
        before = dict(self._known)
        whole = [
            [(name, self._content(file)) for name, file in _below(pathlib.Path(path))] for path in paths
        ]
        if self._known != before:
            atomic_write(self._memory, json.dumps(self._known).encode())
        return of(whole)

    def _content(self, path: pathlib.Path) -> str:
        found = path.stat()
        # Not the time of modification, which tools that copy files set to what they like.
        state = [found.st_size, found.st_ctime_ns]
        known = self._known.get(str(path), [])
        if known[:2] != state:
            with path.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256")
            known = self._known[str(path)] = [*state, content.hexdigest()]
        return known[2]


def _below(root: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
    """(name, path) of a file, or of all files in a folder, in the order of their names."""
    if root.is_file():
        yield root.name, root.resolve()
    seen = set()
    for folder, folders, files in os.walk(root.resolve(), followlinks=True):
        here = os.path.realpath(folder)
        if here in seen:  # a link back
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = pathlib.Path(folder, name)
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(root.resolve()).as_posix(), path
