"""Files that are there completely or not at all."""

import contextlib
import json
import os
import pathlib
import tempfile
from typing import Any


def atomic_write(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path` so that a crash or a full disk leaves the old file or the new one.

    A temporary file in the same folder is written, synced to disk and renamed over `path`; then the
    folder is synced, so that what is written later cannot outlive it. The folder is made if it is missing.

    Raises:
        OSError: the disk is full, or the folder cannot be written; `path` is then as it was.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.chmod(temporary, 0o644)  # mkstemp makes files that only the owner can read
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync(path.parent)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """`atomic_write` of a value as indented JSON, for programs and people alike."""
    atomic_write(path, (json.dumps(value, indent=2) + "\n").encode())


def sync(path: str | os.PathLike[str]) -> None:
    """Returns once a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
