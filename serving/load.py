"""A load generator for Predict: what a server does under closed-loop or open-loop load.

    result = run(Target("127.0.0.1:8500", request), Open(rate=200.0), Plan())
    result.throughput, result.latency_ms["p99"], result.errors, result.bottleneck

Closed loop: so many callers, each sends when its last answer is there. A slow server then gets fewer
requests, so the waiting that callers at a steady rate would have met is not in its figures (coordinated
omission). Open loop: requests have their times, whatever the server does, and a latency counts from the time
at which the request was due, not from when it could be sent. Requests that run into their timeout count with
the time they waited; none in flight at the end is dropped.

Worker processes send bytes made once and do not read the answers, so that the generator costs little; what it
costs is measured, and `Result.bottleneck` says when the figures are its own and not the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import multiprocessing.connection
import selectors
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

import grpc
import grpc.aio
import numpy as np

from serving import calls, channels, errors

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}

WINDOWS = 3  # that must agree

# For each worker: more would be its own limit (of memory, of what asyncio can send), not the server's.
MAX_IN_FLIGHT = 10_000
MAX_RATE = 20_000  # requests a second

# The columns of a worker's records, seconds of the machine's monotonic clock (all processes share it).
_DUE, _SENT, _DONE, _CODE = range(4)

_START_SECONDS = 60.0  # for the workers' imports and connections
_AHEAD_SECONDS = 0.2  # the first request's time, when all workers know it
_REPORT_SECONDS = 0.05
_BUSY = 0.85  # of a core: an event loop that busy delays answers
_LATE_MS = 1.0
_HEARTBEAT_SECONDS = 0.01
_NOT_SENT = -1  # beside gRPC's codes
_DEADLINE_EXCEEDED: int = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
_NAMES = {_NOT_SENT: "NOT_SENT"} | {code.value[0]: code.name for code in grpc.StatusCode}


@dataclass(frozen=True)
class Target:
    """Where to send what."""

    address: str | Sequence[str]
    request: bytes  # a PredictRequest
    timeout: float = 10.0  # seconds
    tls: bool | channels.TLS = False
    compression: str | None = None


@dataclass(frozen=True)
class Closed:
    """So many callers at a time."""

    concurrency: int

    def __str__(self) -> str:
        return f"{self.concurrency} at a time"


@dataclass(frozen=True)
class Open:
    """So many requests a second."""

    rate: float
    arrivals: Literal["poisson", "fixed"] = "poisson"  # exponential gaps, as of many callers, or equal ones

    def __str__(self) -> str:
        return f"{self.rate:g}/s"


@dataclass(frozen=True)
class Plan:
    """How long to measure: until the last three windows agree, or until there is no more time."""

    warmup: float = 2.0  # seconds that are not measured
    window: float = 2.0  # seconds
    tolerance: float = 0.1  # how far throughput and median of a window may be from the mean of the three
    max_seconds: float = 60.0  # after the warm-up; three windows at least


@dataclass
class Result:
    """What one load met, over the measured time."""

    load: Closed | Open
    seconds: float  # measured: the windows that agreed, or all after the warm-up
    stable: bool  # whether windows agreed
    requests: int  # that were due in it
    offered: float  # the same, a second
    throughput: float  # good answers a second
    errors: dict[str, int]  # gRPC code -> requests; NOT_SENT: too many were in flight
    latency_ms: dict[str, float]  # of PERCENTILES and "mean"; empty without an answer
    curve: list[tuple[float, float]]  # (share of requests, ms), for a plot
    processes: int
    busy: float  # share of a core that the busiest worker's event loop used
    lag_ms: float  # 99th percentile: how late requests were sent, or the worker's timers rang
    bottleneck: str | None  # why the figures are the generator's; None: they are the server's


@dataclass
class _Report:
    """A worker's last words."""

    busy: float
    lags: list[float]  # seconds, of its timers


def run(target: Target, load: Closed | Open, plan: Plan, processes: int = 1) -> Result:
    """Puts one load on the server; returns after the last answer.

    Args:
      processes: workers that share the load.
    Raises:
      errors.ServerUnavailable: no connection within a minute.
      errors.ServerError: a worker died.
    """
    if isinstance(load, Closed):
        processes = min(processes, load.concurrency)
    with contextlib.ExitStack() as stack:
        context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
        workers: list[Connection] = []
        for index in range(processes):
            ours, theirs = context.Pipe()
            stack.callback(ours.close)
            arguments = (theirs, target, load, index, processes)
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            stack.callback(_end, process)
            theirs.close()
            workers.append(ours)
        for worker in workers:
            problem = _receive(worker) if worker.poll(_START_SECONDS) else "the generator did not start"
            if problem:
                raise errors.ServerUnavailable(f"{_address(target)}: {problem}", grpc.StatusCode.UNAVAILABLE)
        begin = time.monotonic() + _AHEAD_SECONDS
        for worker in workers:
            worker.send(begin)
        records, first, end, stable = _measure(workers, begin + plan.warmup, plan)
        for worker in workers:
            worker.send(end)
        reports = []
        for worker in workers:
            while not isinstance(message := _receive(worker), _Report):
                records.append(message)
            reports.append(message)
    every = np.concatenate([np.empty((0, 4)), *records])
    return _result(load, every, first, end, stable, reports, target.timeout)


def _address(target: Target) -> str:
    return target.address if isinstance(target.address, str) else ",".join(target.address)


def _end(process: Any) -> None:
    process.join(1.0)
    process.terminate()
    process.join()


def _receive(worker: Connection) -> Any:
    try:
        return worker.recv()
    except (EOFError, OSError):
        raise errors.ServerError("a process of the load generator died") from None


# --- Judging the windows -------------------------------------------------------------------------


def _measure(
    workers: list[Connection], begin: float, plan: Plan
) -> tuple[list[np.ndarray], float, float, bool]:
    """Waits until windows agree: the records so far, first and last time that count, and whether they do."""
    records: list[np.ndarray] = []
    windows: list[tuple[float, float]] = []
    most = max(WINDOWS, round(plan.max_seconds / plan.window))
    while True:
        end = begin + plan.window * (len(windows) + 1)
        # Their reports of the window come a little after it.
        while (left := end + 2 * _REPORT_SECONDS - time.monotonic()) > 0:
            for worker in multiprocessing.connection.wait(workers, left):
                assert isinstance(worker, Connection)
                records.append(_receive(worker))
        windows.append(_window(np.concatenate([np.empty((0, 4)), *records]), end - plan.window, end))
        if _agree(windows, plan.tolerance):
            return records, end - WINDOWS * plan.window, end, True
        if len(windows) == most:
            return records, begin, end, False


def _window(records: np.ndarray, begin: float, end: float) -> tuple[float, float]:
    """Good answers a second and their median latency, of those that came in a window."""
    done = records[:, _DONE]
    good = records[(done >= begin) & (done < end) & (records[:, _CODE] == 0)]
    return len(good) / (end - begin), float(np.median(good[:, _DONE] - good[:, _DUE])) if len(good) else 0.0


def _agree(windows: Sequence[tuple[float, float]], tolerance: float) -> bool:
    """Whether the last windows' figures are within the tolerance of their means."""
    if len(windows) < WINDOWS:
        return False
    last = np.array(windows[-WINDOWS:])
    mean = last.mean(axis=0)
    return bool(np.all(np.abs(last - mean) <= tolerance * mean))


def _result(
    load: Closed | Open,
    records: np.ndarray,
    first: float,
    end: float,
    stable: bool,
    reports: Sequence[_Report],
    timeout: float,
) -> Result:
    seconds = end - first
    due = records[(records[:, _DUE] >= first) & (records[:, _DUE] < end)]
    good = (records[:, _CODE] == 0) & (records[:, _DONE] >= first) & (records[:, _DONE] < end)
    # Who fails at once has waited for nothing; who was given up on has waited at least so long, whatever
    # the code (a server that gives up a moment earlier answers CANCELLED).
    given_up = due[:, _DONE] - due[:, _SENT] > 0.9 * timeout
    counted = np.isin(due[:, _CODE], (0, _DEADLINE_EXCEEDED, _NOT_SENT)) | given_up
    latencies = np.sort(1e3 * (due[counted, _DONE] - due[counted, _DUE]))
    codes, counts = np.unique(due[due[:, _CODE] != 0, _CODE].astype(int), return_counts=True)
    late = 1e3 * (due[:, _SENT] - due[:, _DUE])
    timers = 1e3 * np.concatenate([[0.0], *(report.lags for report in reports)])
    lag = max(float(np.quantile(x, 0.99, method="higher")) for x in (np.append(late, 0.0), timers))
    result = Result(
        load=load,
        seconds=seconds,
        stable=stable,
        requests=len(due),
        offered=len(due) / seconds,
        throughput=int(np.count_nonzero(good)) / seconds,
        errors={_NAMES[code]: int(count) for code, count in zip(codes.tolist(), counts, strict=True)},
        latency_ms=_latencies(latencies),
        curve=_curve(latencies),
        processes=len(reports),
        busy=max(report.busy for report in reports),
        lag_ms=lag,
        bottleneck=None,
    )
    result.bottleneck = _bottleneck(result)
    return result


def _latencies(latencies: np.ndarray) -> dict[str, float]:
    if not len(latencies):
        return {}
    # "higher": a latency that was really met, never a mean of two.
    found = {k: float(np.quantile(latencies, q, method="higher")) for k, q in PERCENTILES.items()}
    return found | {"mean": float(latencies.mean())}


def _curve(latencies: np.ndarray) -> list[tuple[float, float]]:
    """Dense towards the slowest: 0, 90, 99, 99.9 % ... are equally far apart."""
    if not len(latencies):
        return []
    shares = 1 - 10 ** -np.linspace(0, np.log10(len(latencies)), 60)
    values = np.quantile(latencies, shares, method="higher")
    return [(float(share), float(value)) for share, value in zip(shares, values, strict=True)]


def _bottleneck(result: Result) -> str | None:
    used = f"with {result.busy:.0%} of a core used"
    if result.busy > _BUSY:
        return f"its event loop was full, {used}: more --processes"
    if result.lag_ms > max(_LATE_MS, 0.1 * result.latency_ms.get("p99", 0.0)):
        return f"it ran {result.lag_ms:.1f} ms late (p99) {used}: its machine had no CPU for it"
    return None


# --- A worker's process --------------------------------------------------------------------------


def _work(
    connection: Connection, target: Target, load: Closed | Open, index: int, processes: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    # select() keeps time to microseconds, epoll() only to milliseconds.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(_Worker(connection, target, load, index, processes).work())


class _Worker:
    """One share of the load, in an event loop."""

    def __init__(
        self, connection: Connection, target: Target, load: Closed | Open, index: int, processes: int
    ) -> None:
        self._connection = connection
        self._target = target
        self._load = load
        self._index, self._processes = index, processes
        self._records: list[tuple[float, float, float, int]] = []
        self._lags: list[float] = []
        self._in_flight: set[asyncio.Task[None]] = set()
        self._end = float("inf")  # requests due later are not sent

    async def work(self) -> None:
        """Connects, says so, waits for the time to begin, reports until it is told the end."""
        try:
            dialer = channels.dialer(self._target.address, self._target.tls, self._target.compression)
            opened = dialer.open(grpc.aio)
            async with asyncio.timeout(self._target.timeout):
                await asyncio.gather(*(channel.channel_ready() for channel in opened))
        except (errors.ServingError, OSError, TimeoutError) as error:
            seconds = f"no connection within {self._target.timeout:g} s"
            self._connection.send(seconds if isinstance(error, TimeoutError) else str(error))
            return
        self._methods = itertools.cycle([channel.unary_unary(calls.PREDICT) for channel in opened])
        self._connection.send(None)
        begin = await asyncio.to_thread(self._connection.recv)
        others = (self._wait_for_end(), self._report(), self._beat())
        background = [asyncio.create_task(each) for each in others]
        await asyncio.sleep(begin - time.monotonic())
        cpu, clock = time.thread_time(), time.monotonic()
        await (self._closed(self._load) if isinstance(self._load, Closed) else self._open(self._load, begin))
        busy = (time.thread_time() - cpu) / (time.monotonic() - clock)
        await asyncio.gather(*self._in_flight)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        self._send_records()
        self._connection.send(_Report(busy, self._lags))
        await asyncio.gather(*(channel.close() for channel in opened))

    async def _closed(self, load: Closed) -> None:
        async def caller() -> None:
            while time.monotonic() < self._end:
                await self._call(time.monotonic())

        share = len(range(self._index, load.concurrency, self._processes))
        await asyncio.gather(*(caller() for _ in range(share)))

    async def _open(self, load: Open, begin: float) -> None:
        for due in self._times(load, begin):
            while (wait := due - time.monotonic()) > 0 and due < self._end:
                await asyncio.sleep(min(wait, _REPORT_SECONDS))
            while len(self._in_flight) >= MAX_IN_FLIGHT and self._end == float("inf"):
                await asyncio.sleep(_HEARTBEAT_SECONDS)
            if due >= self._end:
                return
            if len(self._in_flight) >= MAX_IN_FLIGHT:
                now = time.monotonic()
                self._records.append((due, now, now, _NOT_SENT))
                continue
            task = asyncio.create_task(self._call(due))
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)
            await asyncio.sleep(0)  # so that it is sent

    def _times(self, load: Open, begin: float) -> Iterator[float]:
        """When this worker's requests are due: its share of the rate, without end."""
        if load.arrivals == "fixed":
            for number in itertools.count(self._index, self._processes):
                yield begin + number / load.rate
        generator = np.random.default_rng(self._index)
        due = begin
        while True:
            for gap in generator.exponential(self._processes / load.rate, 1000).tolist():
                due += gap
                yield due

    async def _call(self, due: float) -> None:
        sent = time.monotonic()
        code = 0
        try:
            await next(self._methods)(self._target.request, timeout=self._target.timeout)
        except grpc.aio.AioRpcError as error:
            code = error.code().value[0]
        self._records.append((due, sent, time.monotonic(), code))

    async def _wait_for_end(self) -> None:
        try:
            self._end = await asyncio.to_thread(self._connection.recv)
        except (EOFError, OSError):  # the parent is gone
            self._end = 0.0

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_SECONDS)
            self._send_records()

    def _send_records(self) -> None:
        if self._records:
            self._connection.send(np.array(self._records))
            self._records.clear()

    async def _beat(self) -> None:
        """How late timers ring is how long an answer may lie unread."""
        while True:
            due = time.monotonic() + _HEARTBEAT_SECONDS
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            self._lags.append(time.monotonic() - due)
