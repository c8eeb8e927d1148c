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


def run_main(module: str, *flags: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """`python -m <module> <flags>` from the repository's root; `options` are subprocess.run's.

    Without options in a fork of a process that has imported TensorFlow already, which takes seconds.
    """
    arguments = list(map(str, flags))
    command = [sys.executable, "-m", module, *arguments]
    if options:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS, **options)
    process = _forking()
    with tempfile.TemporaryDirectory() as folder:
        files = {name: pathlib.Path(folder, name) for name in ("stdout", "stderr")}
        for file in files.values():
            file.touch()
        task = {"module": module, "flags": arguments, "folder": str(ROOT), "seconds": _SECONDS}
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(task | {k: str(v) for k, v in files.items()}) + "\n")
        process.stdin.flush()
        status = int(process.stdout.readline())
        told = {name: file.read_text() for name, file in files.items()}
    return subprocess.CompletedProcess(command, status, **told)


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
