"""Runs that can be stopped: what a client has given up on need not be computed to its end.

A session stops a run at its deadline, or when one of the run's operations fails; Python can do no more. So
beside a run that may be long an operation waits at a queue: the run itself puts True there when it is done,
and whoever wants to stop it puts False, at which the operation fails, and the run with it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

_log = logging.getLogger(__name__)

_SLOTS = 8  # runs of a model that can be stopped at the same time; further ones cannot
_EVERY_SECONDS = 0.1  # between two looks at the clients


class Run:
    """One that can be stopped, while it lasts."""

    def __init__(self, stop: Callable[[], None], is_waiting: Callable[[], bool]) -> None:
        self.stopped = False
        self._stop = stop
        self._is_waiting = is_waiting
        self._lock = threading.Lock()
        self._ended = False

    def look(self) -> None:
        """Stops it if its client has gone."""
        with self._lock:
            if not (self._ended or self.stopped or self._is_waiting()):
                self._stop()
                self.stopped = True

    def end(self) -> None:
        with self._lock:
            self._ended = True


class _Watch:
    """Looks after the runs of all models, in one thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: set[Run] = set()
        self._any = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, run: Run) -> None:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._look, name="interrupts", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system gives no more now: the run goes on to its end
                    return
                self._thread = thread
            self._runs.add(run)
            self._any.set()

    def remove(self, run: Run) -> None:
        with self._lock:
            self._runs.discard(run)

    def _look(self) -> None:
        pause = threading.Event()  # never set
        while True:
            self._any.wait()
            pause.wait(_EVERY_SECONDS)
            with self._lock:
                runs = list(self._runs)
                if not runs:
                    self._any.clear()
            for run in runs:
                try:
                    run.look()
                except Exception:  # of one: the others are looked after all the same
                    _log.exception("a run could not be stopped")
                    self.remove(run)


_watch = _Watch()


class Interrupts:
    """The operations that it takes, added to the graph of a session."""

    def __init__(self, session: tf.compat.v1.Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._free = list(range(_SLOTS))
        self._done: dict[frozenset[str], tf.Operation] = {}
        with session.graph.as_default(), tf.device("/cpu:0"), tf.name_scope("interrupts"):
            self._queues = [tf.queue.FIFOQueue(2, [tf.bool], [[]]) for _ in range(_SLOTS)]
            self._slot = tf.compat.v1.placeholder(tf.int32, [])
            going_on = tf.switch_case(self._slot, [queue.dequeue for queue in self._queues])
            self._waiting = tf.raw_ops.Assert(condition=going_on, data=["Cancelled"])
            self._stop = self._put(self._slot, False)
            self._emptied = tf.switch_case(
                self._slot, [lambda q=queue: q.dequeue_many(q.size()) for queue in self._queues]
            )

    def _put(self, slot: tf.Tensor, value: bool) -> tf.Operation:
        def putting(queue: tf.queue.FIFOQueue) -> Callable[[], tf.Tensor]:
            def put() -> tf.Tensor:
                with tf.control_dependencies([queue.enqueue(value)]):
                    return tf.constant(value)

            return put

        return tf.switch_case(slot, [putting(queue) for queue in self._queues]).op

    def _after(self, fetches: Sequence[str]) -> tf.Operation:
        """Puts True into the queue of the slot once the fetches are there."""
        key = frozenset(fetches)
        with self._lock:
            done = self._done.get(key)
            if done is None:
                graph = self._session.graph
                with graph.as_default(), tf.device("/cpu:0"), tf.name_scope("interrupts"):
                    # A call's outputs, not the call: whoever waits for that does not wait for them.
                    outputs = [tf.identity(graph.get_tensor_by_name(name)) for name in sorted(key)]
                    with tf.control_dependencies(outputs):
                        slot = tf.identity(self._slot)
                    done = self._put(slot, True)
                self._session._extend_graph()
                self._done[key] = done
        return done

    @contextlib.contextmanager
    def watching(
        self, fetches: Sequence[str], is_waiting: Callable[[], bool] | None
    ) -> Iterator[tuple[Run | None, Mapping[tf.Tensor, np.generic], list[tf.Operation]]]:
        """Around a run: itself, if it can be stopped, and what has to be fed and run beside.

        Args:
          is_waiting: whether anybody still wants the answer; None = nobody knows.
        """
        with self._lock:
            slot = self._free.pop() if self._free else None
        if slot is None:
            yield None, {}, []
            return
        run = None if is_waiting is None else Run(functools.partial(self._at, slot, self._stop), is_waiting)
        clean = False
        try:
            done = self._after(fetches)
            if run is not None:
                _watch.add(run)
            yield run, {self._slot: np.int32(slot)}, [self._waiting, done]
            clean = True
        finally:
            if run is not None:
                _watch.remove(run)
                run.end()
            if clean and (run is None or not run.stopped):
                self._give_back(slot)
            else:
                self._empty(slot)

    def _empty(self, slot: int) -> None:
        try:
            self._at(slot, self._emptied)
        except Exception:  # the run's own error is the one to tell; nobody gets the slot again
            _log.exception("slot %d could not be emptied", slot)
        else:
            self._give_back(slot)

    def _give_back(self, slot: int) -> None:
        with self._lock:
            self._free.append(slot)

    def _at(self, slot: int, what: tf.Operation | tf.Tensor) -> None:
        with self._lock:  # it sends what there is of the graph to the session: no half of `_after`
            self._session.run(what, {self._slot: slot})
