"""The line's memory: what each stage depended on and what it made, and so whether it has to run again.

A stage is skipped if everything that it depends on has the digest that it had, and what it made is still
there, unchanged. No TensorFlow: looking whether anything has changed takes a second.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator

from zoo import stage as stage_lib
from zoo.errors import UserError
from zoo.files import write_json

REFUSED = 3  # the exit status of an evaluation that does not bless


@dataclasses.dataclass
class Record:
    """One stage, as it last ran."""

    inputs: dict[str, str]  # name -> digest of what it depends on
    status: str = "running"  # then "done", "refused" (an answer, like "done") or "failed"
    output: str = ""  # the file or folder that it made
    digest: str = ""  # of that
    what: str = ""  # for people
    when: str = ""  # it ended; ISO 8601, UTC
    seconds: float = 0.0


class Stopped(Exception):
    """A stage did not end well; it has said why.

    Attributes:
        status: its exit status.
    """

    def __init__(self, status: int):
        self.status = status


class Line:
    """Stages one after another, remembered in a file. `table` says what came of each."""

    def __init__(self, state: pathlib.Path, lock: int, anew: bool):
        """`lock` is a file descriptor that every stage inherits; `anew` skips nothing."""
        self._state, self._lock, self._anew = state, lock, anew
        self._rows: list[tuple[str, str, str, str]] = []
        try:
            stages = json.loads(state.read_text())["stages"] if state.exists() else {}
            self._records = {name: Record(**values) for name, values in stages.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{state} is damaged ({error}); remove it: stages then run again, nothing else is lost"
            ) from error

    def planned(self, name: str, inputs: dict[str, str]) -> str:
        """The output of a stage that had the same inputs, also if it was stopped; "" if there is none."""
        record = self._records.get(name)
        return record.output if record and record.inputs == inputs and not self._anew else ""

    def stage(
        self,
        name: str,
        inputs: dict[str, str],
        command: list[str],
        *,
        output: Callable[[], pathlib.Path],
        digest: Callable[[pathlib.Path], str],
        what: Callable[[pathlib.Path], str],
        plan: str = "",
    ) -> Record:
        """Runs `python -m <command>`, or skips it.

        Args:
            name: of the stage.
            inputs: the digests of all that it depends on.
            command: the module and its flags.
            output: called afterwards: what it made.
            digest: of that; "" if it is not there.
            what: that, in words.
            plan: what it will make, where that is known before: remembered even if it is stopped.

        Raises:
            Stopped: it failed, or refuses.
        """
        last = self._records.get(name)
        if last and not self._anew and self._holds(last, inputs, digest):
            self._rows.append((name, "skipped", "", what(pathlib.Path(last.output))))
            if last.status == "refused":
                self._rows[-1] = (name, "refused", "", f"as before: {last.what}")
                raise Stopped(REFUSED)
            return last
        print(f"\n== {name}: {self._why(last, inputs)}", flush=True)
        record = self._records[name] = Record(inputs, output=plan)
        self._save()
        began = time.monotonic()
        ended, record.what = "failed", "interrupted"
        try:
            status = stage_lib.run(*command, pass_fds=[self._lock])
            record.what = f"exit status {status}"
            if status in (0, REFUSED):
                path = output()
                record.output, record.digest, record.what = str(path), digest(path), what(path)
                ended = "done" if status == 0 else "refused"
        finally:
            record.status, record.seconds = ended, round(time.monotonic() - began, 1)
            record.when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            self._save()
            self._rows.append((name, ended, f"{record.seconds:.1f}", record.what))
        if status:
            raise Stopped(status)
        return record

    def _holds(self, last: Record, inputs: dict[str, str], digest: Callable[[pathlib.Path], str]) -> bool:
        if last.status not in ("done", "refused") or last.inputs != inputs:
            return False
        return digest(pathlib.Path(last.output)) == last.digest != ""

    def _why(self, last: Record | None, inputs: dict[str, str]) -> str:
        if self._anew:
            return "anew, as asked"
        if last is None:
            return "for the first time"
        if changed := [key for key in inputs if last.inputs.get(key) != inputs[key]]:
            return f"{', '.join(changed)} changed"
        if last.status in ("done", "refused"):
            return f"{last.output} is gone or was changed"
        return "did not end last time"

    def _save(self) -> None:
        stages = {name: dataclasses.asdict(record) for name, record in self._records.items()}
        write_json(self._state, {"stages": stages})

    def table(self) -> str:
        """What came of each stage, for people."""
        rows = [("stage", "status", "seconds", ""), *self._rows]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return "\n".join(
            f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows
        )


@contextlib.contextmanager
def locked(path: pathlib.Path, what: str) -> Iterator[int]:
    """Holds a lock as long as this process lives, or any that inherited the file descriptor it yields.

    Raises:
        UserError: somebody holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
            raise UserError(
                f"{what} is being worked on by process {holder}, or by a stage that it started and that still"
                f" runs ({path} is locked): wait for its end"
            ) from None
        os.truncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield lock
    finally:
        os.close(lock)

