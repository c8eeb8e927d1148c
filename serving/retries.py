"""Which server a call goes to, and whether, when and where it is tried again.

Only a call that found no server, or lost its connection, is tried again: another server at once, the same
ones after a pause. A budget keeps a crowd of callers from burying a server that struggles to come back.
"""

from __future__ import annotations

import random
import threading
import time

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0

_DOWN_SECONDS = 1.0


def pause(retry: int) -> float:
    """Seconds before the retry with this number (0, 1, ...).

    It doubles; and is drawn at random, so that a crowd that failed together does not come back together.
    """
    return min(_FIRST_PAUSE * 2.0**retry, _LONGEST_PAUSE) * (0.5 + 0.5 * random.random())


class Budget:
    """How many retries all callers of a client may make together.

    A share of the calls, and a trickle beside it, so that a single caller can wait for its server.
    """

    def __init__(self, share: float = 0.2, per_second: float = 5.0, most: float = 20.0) -> None:
        """Starts full, with `most` retries."""
        self._share, self._per_second, self._most = share, per_second, most
        self._left = most
        self._filled = time.monotonic()
        self._lock = threading.Lock()

    def call(self) -> None:
        """Counts a call: it earns a share of a retry. (No lock, at every call: two at once may earn one.)"""
        self._left = min(self._left + self._share, self._most)

    def take(self) -> bool:
        """Takes one retry; False: there is none left."""
        with self._lock:
            now = time.monotonic()
            earned = (now - self._filled) * self._per_second
            self._left = min(self._left + earned, self._most)
            self._filled = now
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True


class Rotation:
    """Servers in turn. One that failed is left out for a second, unless all have failed."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._down_until = [0.0] * count
        self._next = random.randrange(count)  # many clients begin at different servers
        self._lock = threading.Lock()

    def next(self) -> int:
        """The index of the server for a call."""
        if self.count == 1:
            return 0
        with self._lock:
            now = time.monotonic()
            order = [(self._next + step) % self.count for step in range(self.count)]
            chosen = next((i for i in order if self._down_until[i] <= now), order[0])
            self._next = (chosen + 1) % self.count
            return chosen

    def failed(self, index: int) -> bool:
        """Notes that a server did not answer. Returns whether another one is worth trying at once."""
        with self._lock:
            now = time.monotonic()
            self._down_until[index] = now + _DOWN_SECONDS
            return any(until <= now for until in self._down_until)

    def answered(self, index: int) -> None:
        """Notes that a server is well."""
        self._down_until[index] = 0.0
