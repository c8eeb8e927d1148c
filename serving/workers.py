"""The threads that answer requests: few that compute at a time, as many as have to wait.

Python threads take turns. With one for each request in flight they spend their time handing over (measured
on 2 cores, 16 in flight: 2,500 small requests/s with 16 threads, 4,000 with 3), so requests queue for a few
threads instead. A thread that waits says so (`blocked`) and another takes its place at once; one that is held
up without a word (a slow model, a client that sends its message slowly) gets a helper after 2 ms. Who rested
last is called first, so that a busy hour's threads can go: each holds memory of its own.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_STUCK_SECONDS = 0.002
_IDLE_SECONDS = 10.0

_here = threading.local()


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Around a wait: meanwhile another thread may compute. Does nothing outside a worker's thread."""
    workers: Workers | None = getattr(_here, "workers", None)
    if workers is None:
        yield
        return
    workers._leave()
    try:
        yield
    finally:
        workers._come_back()


class AskedBy:
    """Around a request: `is_waiting` tells whether its client still waits for the answer."""

    __slots__ = ("_is_waiting",)

    def __init__(self, is_waiting: Callable[[], bool]) -> None:
        self._is_waiting = is_waiting

    def __enter__(self) -> None:
        _here.is_waiting = self._is_waiting

    def __exit__(self, *error: object) -> None:
        _here.is_waiting = None


def client() -> Callable[[], bool] | None:
    """`is_waiting` of the request at hand; None where nobody knows."""
    return getattr(_here, "is_waiting", None)


class Workers(concurrent.futures.ThreadPoolExecutor):
    """A thread pool for `grpc.server`; tasks begin in the order they were submitted."""

    def __init__(self, running: int, most: int) -> None:
        """
        Args:
          running: threads that compute at the same time.
          most: threads in all.
        """
        # Of the base class only the type is wanted (grpc asks for one): its threads are never started.
        super().__init__(1)
        self._running = running
        self._most = most
        self._lock = threading.Lock()
        self._tasks: collections.deque[tuple[concurrent.futures.Future, Callable, tuple, dict]]
        self._tasks = collections.deque()
        self._active = 0  # threads that have a task, or are on their way to one, and do not wait
        self._idle: list[threading.Lock] = []  # of each resting thread one that it waits for
        self._alive = 0
        self._begun = 0  # tasks so far
        self._backlog = threading.Event()
        self._watching = False
        threading.Thread(target=self._watch, name="workers-watch", daemon=True).start()

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> concurrent.futures.Future:
        future: concurrent.futures.Future = concurrent.futures.Future()
        with self._lock:
            self._tasks.append((future, fn, args, kwargs))
            if self._active < self._running:
                self._call()
            elif not self._watching:
                self._watching = True
                self._backlog.set()
        return future

    # With the lock held.

    def _call(self) -> None:
        """Gets one more thread to work, if there may be one."""
        if self._idle:
            self._idle.pop().release()
        elif self._alive < self._most:
            try:
                threading.Thread(target=self._work, name="worker", daemon=True).start()
            except RuntimeError:  # the system gives no more now: the watch tries again
                self._watching = True
                self._backlog.set()
                return
            self._alive += 1
        else:
            return
        self._active += 1

    # In the threads.

    def _work(self) -> None:
        _here.workers = self
        bell = threading.Lock()
        bell.acquire()
        while True:
            with self._lock:
                while not self._tasks:
                    if not self._rest(bell):
                        return
                future, fn, args, kwargs = self._tasks.popleft()
                self._begun += 1
            if future.set_running_or_notify_cancel():
                try:
                    result = fn(*args, **kwargs)
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            del future, fn, args, kwargs
            with self._lock:
                # More than that: others do the work by now.
                if self._active > self._running and not self._rest(bell):
                    return

    def _rest(self, bell: threading.Lock) -> bool:
        """With the lock held, but for the wait. False: nobody called for long, and the thread ends."""
        self._active -= 1
        self._idle.append(bell)
        self._lock.release()
        called = bell.acquire(timeout=_IDLE_SECONDS)
        self._lock.acquire()
        if called:
            return True
        if bell in self._idle:
            self._idle.remove(bell)
            self._alive -= 1
            return False
        return bell.acquire()  # called just now

    def _leave(self) -> None:
        with self._lock:
            self._active -= 1
            if self._tasks and self._active < self._running:
                self._call()

    def _come_back(self) -> None:
        with self._lock:
            self._active += 1

    def _watch(self) -> None:
        while True:
            self._backlog.wait()
            begun = self._begun
            time.sleep(_STUCK_SECONDS)
            with self._lock:
                if not self._tasks:
                    self._watching = False
                    self._backlog.clear()
                elif self._begun == begun:
                    self._call()
