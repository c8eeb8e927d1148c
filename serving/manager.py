"""Versions of models in memory: loaded when wanted, kept while in use, unloaded when no longer wanted.

A `Manager` is told which versions of a model are wanted (`aspire`) and gets there in its own time, so that a
model that serves goes on serving. It knows neither base paths nor configurations: see `repository`.

One lock guards all state and is held for moments only: loading, unloading and subscribers' callbacks happen
outside. `_reconcile` takes each version of a model one step closer to what is wanted, whenever something has
changed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import TypeAlias

import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving import memory, status
from serving.servable import Runner

State = get_model_status_pb2.ModelVersionStatus.State

Load: TypeAlias = Callable[[model_server_config_pb2.ModelConfig, str], Runner]

# Upstream's number of threads for the loads at the start.
_MANY_THREADS = 4 * (os.cpu_count() or 1)

_log = logging.getLogger(__name__)


class Version:
    """One version of one model; others than the manager may only read."""

    def __init__(self, config: model_server_config_pb2.ModelConfig, number: int, path: str) -> None:
        self.config = config
        self.number = number
        self.path = path
        self.state: int = State.START
        self.error: status.Error | None = None  # of the last try
        self.tries = 0
        self.runner: Runner | None = None
        self.aspired = True
        self.users = 0  # requests that run on `runner`
        self.cancelled = threading.Event()  # no longer aspired: do not wait for the next try

    def __str__(self) -> str:
        return f"{{name: {self.config.name} version: {self.number}}}"


class _Model:
    def __init__(self) -> None:
        self.config = model_server_config_pb2.ModelConfig()
        self.wanted: Mapping[int, str] = {}  # version -> path
        self.versions: dict[int, Version] = {}  # all ever seen
        # The available ones, kept up to date for the requests.
        self.ready: dict[int, Version] = {}
        self.latest: Version | None = None


class Manager:
    """Loads and unloads versions in threads of its own.

    A version that fails to load is retried, then stays in state END until it is not wanted and then wanted
    again; whatever served before goes on serving.
    """

    def __init__(
        self,
        load: Load,
        *,
        max_num_load_retries: int,
        load_retry_interval_micros: int,
        num_load_threads: int,
        num_unload_threads: int,
    ) -> None:
        """
        Args:
          load: makes a version's path ready for requests. An exception of any kind means that this try
            failed; called from several threads at once.
          num_load_threads: loads at the same time, once the initial ones are over. <= 0: as many as for them:
            upstream would load in the thread that manages everything, so that one slow or failing model
            holds up all others.
          Others: upstream's flags.
        """
        self._load_runner = load
        self._retries = max_num_load_retries
        self._retry_seconds = min(max(0.0, load_retry_interval_micros / 1e6), threading.TIMEOUT_MAX)
        self._load_threads = num_load_threads if num_load_threads > 0 else _MANY_THREADS
        self._lock = threading.RLock()
        # Notified of every change. Holding it makes several calls see one state.
        self.changed = threading.Condition(self._lock)
        self._models: dict[str, _Model] = {}
        # Of a model the highest version is loaded first, as most requests wait for it, and unloaded last.
        self._loads = _Jobs(self._load, max, _MANY_THREADS)
        self._unloads = _Jobs(
            self._unload, min, num_unload_threads if num_unload_threads > 0 else _MANY_THREADS
        )
        self._news = False  # a change that subscribers have not been told of
        self._subscribers: list[Callable[[], None]] = []

    def aspire(self, config: model_server_config_pb2.ModelConfig, wanted: Mapping[int, str]) -> None:
        """From now on, these versions (number -> path) of a model are wanted, and no others."""
        with self._lock:
            model = self._models.setdefault(config.name, _Model())
            model.config, model.wanted = config, wanted
            self._reconcile(model)
            for jobs in (self._loads, self._unloads):
                jobs.start()  # in case there was no thread for them before: this is called at each poll

    def started(self) -> None:
        """The initial loads are over: `num_load_threads` holds from now on."""
        with self._lock:
            self._loads.limit(self._load_threads)

    def stop(self) -> None:
        """Gives up loads; loaded versions stay."""
        with self._lock:
            self._load_threads = 0
            self._loads.limit(0)
            for model in self._models.values():
                for version in model.versions.values():
                    version.cancelled.set()

    def use(self, name: str, number: int | None) -> _Use:
        """A loaded version and its number, kept loaded inside the `with` block.

        Args:
          number: None = the highest that is available.
        Raises:
          status.Error: NOT_FOUND; at the beginning of the block.
        """
        return _Use(self, name, number)

    def _begin_use(self, name: str, number: int | None) -> tuple[Version, Runner]:
        with self._lock:
            model = self._models.get(name)
            version = None
            if model is not None:
                version = model.latest if number is None else model.ready.get(number)
            if version is None or version.runner is None:
                wanted = f"Latest({name})" if number is None else f"Specific({name}, {number})"
                raise status.not_found(f"Servable not found for request: {wanted}")
            version.users += 1
            return version, version.runner

    def _end_use(self, version: Version) -> None:
        with self._lock:
            version.users -= 1
            if not version.users and version.state == State.UNLOADING:
                self._unloads.add(version)

    def versions(self, name: str) -> list[Version]:
        """All versions of a model ever seen, the highest first."""
        with self._lock:
            model = self._models.get(name)
            return sorted(model.versions.values(), key=lambda v: v.number, reverse=True) if model else []

    def available(self, name: str) -> bool:
        """Does any version of the model serve?"""
        with self._lock:
            model = self._models.get(name)
            return model is not None and model.latest is not None

    def subscribe(self, callback: Callable[[], None]) -> None:
        """`callback` is called after changes of any version's state, and what else is noted (`note`).

        By the thread that made the change: it should be quick, and may be called by several at once.
        """
        self._subscribers.append(callback)

    def note(self) -> None:
        """Something that subscribers or waiters look at has changed besides the versions."""
        with self._lock:
            self._news = True
            self.changed.notify_all()

    def tell(self) -> None:
        """Calls the subscribers if there is news. Not to be called with the lock held."""
        with self._lock:
            news, self._news = self._news, False
        for callback in self._subscribers if news else ():
            try:
                callback()
            except Exception:  # theirs alone: it must not end a load or the polling
                _log.exception("A subscriber to the models' states failed")

    # With the lock held.

    def _reconcile(self, model: _Model) -> None:
        for number, version in model.versions.items():
            if version.aspired and number not in model.wanted:
                version.aspired = False
                version.cancelled.set()
        for number in sorted(model.wanted, reverse=True):
            known = model.versions.get(number)
            if known is None or (not known.aspired and known.state == State.END):
                version = model.versions[number] = Version(model.config, number, model.wanted[number])
                self._set_state(version, State.START)
                self._loads.add(version)
            elif not known.aspired and known.state != State.UNLOADING:
                known.aspired = True  # came back in time
                known.cancelled.clear()

        # Availability-preserving: the last of those no longer wanted goes when one that is wanted is ready,
        # or when none is wanted; the others go at once, the lowest first.
        ready = [v for _, v in sorted(model.versions.items()) if v.state == State.AVAILABLE]
        unwanted = [version for version in ready if not version.aspired]
        if any(v.aspired for v in model.versions.values()) and not any(v.aspired for v in ready):
            del unwanted[-1:]
        for version in unwanted:
            self._set_state(version, State.UNLOADING)
            if not version.users:
                self._unloads.add(version)
        model.ready = {v.number: v for v in ready if v.state == State.AVAILABLE}
        model.latest = model.ready[max(model.ready)] if model.ready else None
        self.changed.notify_all()

    def _set_state(self, version: Version, state: int) -> None:
        version.state = state
        self._news = True

    # In threads of `_Jobs`.

    def _load(self, version: Version) -> None:
        """One try to load; the next one, after a failure, is queued after the interval."""
        with self._lock:
            aspired = version.aspired
            if aspired:
                self._set_state(version, State.LOADING)
        runner, error = None, version.error
        if aspired:
            self.tell()
            version.tries += 1
            _log.info("Loading servable version %s from %s", version, version.path)
            try:
                runner, error = self._load_runner(version.config, version.path), None
                _log.info("Successfully loaded servable version %s", version)
            except Exception as failure:
                # Whatever a broken file makes the loader raise is this version's state and is shown in the
                # log and in GetModelStatus; it must not end the server.
                error = without_frames(failure)
                _log.error("Servable %s cannot be loaded: %s", version, status.text(error))
        with self._lock:
            again = runner is None and version.aspired and version.tries <= self._retries
            if runner is None and error is None:
                error = tf.errors.CancelledError(None, None, "Load cancelled before we could try to load.")
            version.runner, version.error = runner, error
            if runner is not None:
                self._set_state(version, State.AVAILABLE)
            elif not again:
                self._set_state(version, State.END)
            self._loads.done()
            # A load that succeeded although it is no longer wanted is unloaded here.
            self._reconcile(self._models[version.config.name])
        self.tell()
        if again:
            version.cancelled.wait(self._retry_seconds)
            with self._lock:
                self._loads.add(version)

    def _unload(self, version: Version) -> None:
        runner, version.runner = version.runner, None
        if runner is not None:
            try:
                runner.close()
            except Exception:  # it is gone all the same
                _log.exception("Servable %s did not close", version)
        del runner
        memory.release()
        _log.info("Done unloading servable version %s", version)
        with self._lock:
            self._set_state(version, State.END)
            self._unloads.done()
            self._reconcile(self._models[version.config.name])
        self.tell()


class _Use(contextlib.AbstractContextManager[tuple[Runner, int]]):
    """What `Manager.use` returns; each request needs one, and a generator takes twice as long."""

    __slots__ = ("_manager", "_version", "_wanted")

    def __init__(self, manager: Manager, name: str, number: int | None) -> None:
        self._manager = manager
        self._wanted = (name, number)

    def __enter__(self) -> tuple[Runner, int]:
        self._version, runner = self._manager._begin_use(*self._wanted)
        return runner, self._version.number

    def __exit__(self, *error: object) -> None:
        self._manager._end_use(self._version)


class _Jobs:
    """Runs `work` on versions in at most so many threads. Guarded by the manager's lock.

    The threads are daemons: one that hangs in a file system does not hold up the end of the program.
    """

    def __init__(
        self, work: Callable[[Version], None], first: Callable[..., Version], limit: int
    ) -> None:
        """
        Args:
          first: min or max: which version of a model goes first.
        """
        self._work = work
        self._first = first
        self._limit = limit
        self._running = 0
        self._waiting: list[Version] = []
        self._refused = False  # the last thread, by the system

    def add(self, version: Version) -> None:
        self._waiting.append(version)
        self.start()

    def done(self) -> None:
        """Said by `work` when its thread is to be counted out."""
        self._running -= 1
        self.start()

    def limit(self, threads: int) -> None:
        self._limit = threads
        self.start()

    def start(self) -> None:
        """Starts what may run; what the system has no thread for stays in the queue."""
        while self._waiting and self._running < self._limit:
            model = self._waiting[0].config.name
            version = self._first(
                (v for v in self._waiting if v.config.name == model), key=lambda v: v.number
            )
            thread = threading.Thread(target=self._work, args=(version,), name=str(version), daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                if not self._refused:
                    _log.error("No thread to load or unload %s, which waits for one: %s", version, error)
                self._refused = True
                return
            self._refused = False
            self._waiting.remove(version)
            self._running += 1


def without_frames(failure: Exception) -> status.Error:
    """A failure to keep: its frames would keep alive what was half loaded."""
    if isinstance(failure, status.Error):
        return status.Error(None, None, failure.message, failure.error_code)
    return status.unknown(f"{type(failure).__name__}: {failure}")
