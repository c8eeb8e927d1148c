"""SIGTERM and Ctrl-C, heard between two calls of the training loop.

A machine that is to be taken away gets SIGTERM, and some seconds later SIGKILL. What has been learnt until
then is worth a checkpoint.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

# What shells and schedulers report for a process that a signal ended; Kubernetes' training operators start a
# worker anew for any status above 127 (restartPolicy: ExitCode).
_SIGNAL_STATUS = 128
WORKER_LOST_STATUS = 138  # above 127, and no status that a signal of the system brings about


class Stopped(Exception):
    """The run was stopped from outside; the same command goes on where it was.

    Attributes:
        status: the exit status that says so to a scheduler: 143 after SIGTERM, 130 after Ctrl-C.
    """

    def __init__(self, step: int, received: int):
        # Another worker's signal is this one's SIGTERM.
        received = received or signal.SIGTERM
        self.status = _SIGNAL_STATUS + received
        name = signal.Signals(received).name
        super().__init__(f"stopped by {name} after step {step}, which is saved; the same command goes on")


class WorkerLost(Exception):
    """Another worker of the cluster is gone, or cannot be reached."""

    status = WORKER_LOST_STATUS


@contextlib.contextmanager
def listen() -> Iterator[Callable[[], int]]:
    """Within, SIGTERM and SIGINT end nothing at once; yields a function that tells which of them has come,
    0 if none has. The second one acts as it did before: nobody has to wait for a step that takes forever."""
    received = 0
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, _: FrameType | None) -> None:
        nonlocal received
        received = number
        restore()

    def restore() -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: received
    finally:
        restore()
