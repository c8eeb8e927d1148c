"""Running this package's binaries as people do, and reading what a training run logged."""

import functools
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent


_SECONDS = 300  # that a binary may take


class Running:
    """`python -m <module> <flags>` from the repository's root, in a fork of a process that has imported
    TensorFlow already, which takes seconds."""

    def __init__(self, module: str, *flags: object):
        self.command = [sys.executable, "-m", module, *map(str, flags)]
        self._folder = tempfile.TemporaryDirectory()
        self._files = {name: pathlib.Path(self._folder.name, name) for name in ("stdout", "stderr")}
        for file in self._files.values():
            file.touch()
        task = {"module": module, "flags": self.command[3:], "folder": str(ROOT), "seconds": _SECONDS}
        self.pid = _ask(task | {name: str(file) for name, file in self._files.items()})

    def ends(self) -> subprocess.CompletedProcess[str]:
        """Waits for it."""
        status = _ask({"wait": self.pid})
        told = {name: file.read_text() for name, file in self._files.items()}
        self._folder.cleanup()
        return subprocess.CompletedProcess(self.command, status, **told)


def on_a_full_disk(size: int, command: list[str]) -> list[str]:
    """The command in a process whose files may not grow past `size` bytes: what a full disk does to a write.

    Not by subprocess' `preexec_fn`: that forks, and gRPC's threads, where there are some, do not survive it.
    """
    limit = "import os, resource, sys; size = int(sys.argv[1])"
    limit += "; resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)); os.execv(sys.argv[2], sys.argv[2:])"
    return [sys.executable, "-c", limit, str(size), *command]


def run_main(module: str, *flags: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """`python -m <module> <flags>` from the repository's root; `options` are subprocess.run's, and
    `file_size` for `on_a_full_disk`."""
    if not options:
        return Running(module, *flags).ends()
    command = [sys.executable, "-m", module, *map(str, flags)]
    if "file_size" in options:
        command = on_a_full_disk(options.pop("file_size"), command)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS, **options)


def _ask(task: dict[str, Any]) -> int:
    process = _forking()
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps(task) + "\n")
    process.stdin.flush()
    return int(process.stdout.readline())


@functools.cache
def _forking() -> subprocess.Popen[str]:
    """Ends with this process, which then closes its standard input."""
    code = pathlib.Path(__file__).with_name("forking.py")
    return subprocess.Popen(
        [sys.executable, str(code)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def losses(workdir: pathlib.Path) -> list[dict[str, float]]:
    """metrics.jsonl without the rates, which are about the machine."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in x.items() if not k.startswith("rate/")} for x in lines]
