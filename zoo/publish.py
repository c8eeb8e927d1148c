"""A model's version folders, complete or not there at all: the exporter and a push add them by `publish`.

A server reads `<base>/<model>/<integer>/`, and no other name beside it. What is being written lies in
`.incoming-*`; a version that was rolled back lies in `.rolled_back-<version>` and keeps its number, so that
no two exports ever have the same one. No TensorFlow.
"""

import contextlib
import pathlib
import shutil
import time
import uuid
from collections.abc import Iterator

from zoo.files import sync

ROLLED_BACK = ".rolled_back-"
# What a killed export left is rubbish for sure once no running one can be as old.
_ABANDONED_SECONDS = 24 * 3600


def versions(parent: pathlib.Path) -> list[int]:
    """The versions that servers see in a model's folder, the lowest first; none if there is no folder.

    A server would read 007, too; nothing here writes it, and 7 does not lead there.
    """
    if not parent.is_dir():
        return []
    return sorted(int(p.name) for p in parent.iterdir() if p.name.isdecimal() and p.name == str(int(p.name)))


def next_version(parent: pathlib.Path) -> int:
    """The number that the next version gets: higher than any was, those that were rolled back included."""
    names = [p.name.removeprefix(ROLLED_BACK) for p in parent.glob("*")]
    return max((int(name) for name in names if name.isdecimal()), default=0) + 1


def aside(parent: pathlib.Path, version: int) -> pathlib.Path:
    """Where a version lies once it was rolled back."""
    return parent / f"{ROLLED_BACK}{version}"


@contextlib.contextmanager
def incoming(parent: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path in a model's folder for what is to become a version; what is still there at the end is removed.

    The model's folder is made if it is missing, and what killed processes left in it a day ago is removed.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(parent)
    path = parent / f".incoming-{uuid.uuid4().hex}"
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def publish(directory: pathlib.Path, parent: pathlib.Path) -> pathlib.Path:
    """Renames a folder, on the same file system, to the model's next version and returns its new path.

    Another process may take that number in between: then it is the one after.

    Raises:
        OSError: the folder cannot be read, synced or renamed; it is then where it was.
    """
    # A rename is durable only if what it names is: every file is flushed first, the folder last.
    for path in [*directory.rglob("*"), directory]:
        sync(path)
    while True:
        version = parent / str(next_version(parent))
        try:
            directory.rename(version)
        except OSError:
            if version.exists():
                continue
            raise
        sync(parent)
        return version


def set_aside(parent: pathlib.Path, version: int) -> pathlib.Path:
    """Takes a version from the servers that follow the folder, and returns where it lies now."""
    path = aside(parent, version)
    (parent / str(version)).rename(path)
    sync(parent)
    return path


def _remove_abandoned(parent: pathlib.Path) -> None:
    for left in parent.glob(".incoming-*"):
        # Another process may publish or remove it meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
