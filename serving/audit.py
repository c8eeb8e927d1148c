"""`<base>/audit.jsonl`: who put which version in front of users, when and why.

A line of JSON for each action. No TensorFlow.
"""

import dataclasses
import datetime
import getpass
import json
import os
import pathlib
import socket
from collections.abc import Iterable
from typing import Any

from zoo.files import sync

FILE = "audit.jsonl"
_SHOWN_DIGITS = 12  # of a digest, in the table


@dataclasses.dataclass(frozen=True)
class Entry:
    """One action."""

    action: str  # "push", "promote", "rollback" or "refused"
    model: str
    version: int | None  # that serves now; None if it was refused
    from_version: int | None  # that served before; None for the first
    digest: str  # of the version's files, by `zoo.blessing.digest`
    label: str = ""  # of a push: "stable" or "canary"
    blessed: bool = False
    forced: bool = False
    reason: str = ""  # given with --reason; of a refusal: why
    validation: str = ""  # what came of it, in words; "" where there was none
    when: str = ""  # ISO 8601, UTC; "" until it is signed
    who: str = ""  # user@host


def sign(entry: Entry) -> Entry:
    """The entry with the time and the person, as they are now."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    return dataclasses.replace(entry, when=when, who=f"{user}@{socket.gethostname()}")


def append(base: pathlib.Path, entry: Entry) -> None:
    """Adds a line that outlives a crash; a line that an earlier crash cut short stays, by itself."""
    path = base / FILE
    line = json.dumps(dataclasses.asdict(entry), ensure_ascii=False).encode() + b"\n"
    is_new = not path.exists()
    with path.open("a+b") as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            line = (b"" if stream.read(1) == b"\n" else b"\n") + line
        stream.write(line)
        stream.flush()
        os.fsync(stream.fileno())
    if is_new:
        sync(base)


def read(base: pathlib.Path) -> tuple[list[Entry], list[int]]:
    """The entries, the oldest first, and the numbers of the lines that are none (from 1)."""
    path = base / FILE
    if not path.exists():
        return [], []
    entries, torn = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            values: dict[str, Any] = json.loads(line)
            entries.append(Entry(**values))
        except (ValueError, TypeError):
            torn.append(number)
    return entries, torn


def table(entries: Iterable[Entry]) -> str:
    """The entries for people, a line each."""
    head = ("when", "who", "action", "model", "version", "from", "digest", "judged", "validation")
    rows = [head]
    for entry in entries:
        judged = "blessed" if entry.blessed else "not blessed"
        if entry.reason:
            judged = f"{'forced' if entry.forced else judged}: {entry.reason}"
        rows.append(
            (
                entry.when.replace("T", " ").partition(".")[0],
                entry.who,
                entry.action + (" canary" if entry.label == "canary" else ""),
                entry.model,
                _number(entry.version),
                _number(entry.from_version),
                entry.digest.partition(":")[2][:_SHOWN_DIGITS],
                judged,
                entry.validation or "-",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _number(version: int | None) -> str:
    return "-" if version is None else str(version)
