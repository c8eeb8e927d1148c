"""The threads of the gRPC server: none waits for another that waits itself."""

from __future__ import annotations

import concurrent.futures
import random
import threading
import time

import pytest

from serving import workers

_PATIENCE = 30.0  # seconds: only a deadlock takes them


def test_tasks_begin_in_order_and_return_or_raise():
    pool = workers.Workers(running=1, most=1)
    begun: list[int] = []
    futures = [pool.submit(begun.append, i) for i in range(100)]
    concurrent.futures.wait(futures, _PATIENCE)
    assert begun == list(range(100))
    assert pool.submit(divmod, 7, 2).result(_PATIENCE) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 7, 0).result(_PATIENCE)


def test_a_thread_that_says_it_waits_lets_another_in():
    pool = workers.Workers(running=1, most=2)
    event = threading.Event()

    def wait() -> bool:
        with workers.blocked():
            return event.wait(_PATIENCE)

    waiting = pool.submit(wait)
    pool.submit(event.set)
    assert waiting.result(_PATIENCE)


def test_a_thread_held_up_without_a_word_gets_help():
    pool = workers.Workers(running=2, most=8)
    event = threading.Event()
    held_up = [pool.submit(event.wait, _PATIENCE) for _ in range(7)]
    pool.submit(event.set)
    assert all(future.result(_PATIENCE) for future in held_up)


def test_threads_that_nobody_needs_end_and_others_come_when_needed(monkeypatch):
    monkeypatch.setattr(workers, "_IDLE_SECONDS", 0.02)
    pool = workers.Workers(running=1, most=9)
    seen: set[threading.Thread] = set()

    def busy_hour() -> bool:
        together = threading.Barrier(8)

        def task() -> None:
            seen.add(threading.current_thread())
            with workers.blocked():
                together.wait(_PATIENCE)

        futures = [pool.submit(task) for _ in range(8)]
        return not concurrent.futures.wait(futures, _PATIENCE).not_done

    for _ in range(3):
        assert busy_hour()
        assert len(seen) == 8
        deadline = time.monotonic() + _PATIENCE
        while any(thread.is_alive() for thread in seen) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(thread.is_alive() for thread in seen)
        seen.clear()


def test_there_are_never_more_threads_than_allowed():
    pool = workers.Workers(running=1, most=3)
    lock, now, peak = threading.Lock(), 0, 0

    def task() -> None:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        with workers.blocked():
            time.sleep(0.01)
        with lock:
            now -= 1

    concurrent.futures.wait([pool.submit(task) for _ in range(50)], _PATIENCE)
    assert peak == 3
    assert now == 0


def test_a_cancelled_task_is_not_run_and_blocked_is_free_elsewhere():
    pool = workers.Workers(running=1, most=1)
    event, ran = threading.Event(), threading.Event()
    pool.submit(event.wait, _PATIENCE)
    cancelled = pool.submit(ran.set)
    assert cancelled.cancel()
    event.set()
    assert pool.submit(lambda: "after").result(_PATIENCE) == "after"
    assert not ran.is_set()
    with workers.blocked():  # this is no worker's thread
        pass


def test_every_task_of_many_clients_runs_once():
    pool = workers.Workers(running=2, most=32)
    done: list[int] = []
    dice = random.Random(0)
    kinds = [dice.random() for _ in range(2000)]

    def task(number: int) -> int:
        if kinds[number] < 0.05:
            time.sleep(0.001)
        elif kinds[number] < 0.3:
            with workers.blocked():
                time.sleep(0.001)
        done.append(number)
        return number

    def client(first: int) -> None:
        for number in range(first, 2000, 20):
            assert pool.submit(task, number).result(_PATIENCE) == number

    with concurrent.futures.ThreadPoolExecutor(20) as clients:
        list(clients.map(client, range(20)))
    assert sorted(done) == list(range(2000))
