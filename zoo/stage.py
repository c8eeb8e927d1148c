"""Running a binary of the line from another: its words without TensorFlow's chatter, and its exit status."""

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Collection
from typing import Any

# What TensorFlow prints when it starts, before any level can be set: nothing a user can act on.
_CHATTER = re.compile(
    rb"[IW]0000 |E0000 .*(cuda|cuInit)|To enable the following instructions"
    rb"|WARNING: All log messages before absl::InitializeLog\(\)"
)


def run(*arguments: str, pass_fds: Collection[int] = ()) -> int:
    """Runs `python -m <arguments>` and returns its exit status; 128 + n if signal n ended it.

    SIGINT and SIGTERM are passed on to the binary, which decides what to save, and its end is waited for.

    Args:
        arguments: the module and its flags.
        pass_fds: file descriptors that the binary inherits.

    Raises:
        KeyboardInterrupt: after the end of a binary that was passed a SIGINT.
    """
    command = [sys.executable, "-m", *arguments]
    print(f"$ python {shlex.join(command[1:])}", flush=True)
    process: subprocess.Popen | None = None
    received: list[int] = []

    def pass_on(number: int, _: Any) -> None:
        received.append(number)
        if process is not None:
            process.send_signal(number)

    handlers = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # Standard output is the terminal's own, for the progress bar. A process group of its own: Ctrl-C
        # reaches the binary once, by `pass_on`.
        process = subprocess.Popen(command, stderr=subprocess.PIPE, pass_fds=pass_fds, process_group=0)
        for number in received:
            process.send_signal(number)
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                if not _CHATTER.match(line):
                    sys.stderr.buffer.write(line)
                    sys.stderr.flush()
        status = process.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if signal.SIGINT in received:
        raise KeyboardInterrupt
    if status < 0:
        print(f"error: python {shlex.join(command[1:])} was ended by signal {-status}", file=sys.stderr)
    return status if status >= 0 else 128 - status
