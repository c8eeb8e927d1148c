"""The life cycle of models: versions that come, fail and go, configurations that change.

What a version holds does not matter to most of it: there, a fake takes the place of the SavedModel, so that a
test decides when a load ends and how. The last tests load real ones.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import saved_models
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving import inference, manager, status, versions
from serving.repository import Options, Repository
from serving.servable import Servable

State = manager.State


class Fake:
    """Stands for a loaded version; answers with its number until it is closed."""

    signature_defs: dict = {}  # noqa: RUF012

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = False

    def run(self, feeds: object, fetches: object, timeout: object) -> list[np.ndarray]:
        assert not self.closed
        return [np.array(self.number)]

    def close(self) -> None:
        self.closed = True


class Disk:
    """A folder of models, and a loader whose loads can be held up ("m/2" in `held`) or made to fail."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: dict[str, threading.Event] = {}
        self.failing: dict[str, Exception] = {}
        self.loads: list[str] = []  # begun
        self.loaded: dict[str, Fake] = {}
        self.repositories: list[Repository] = []

    def add(self, name: str, *numbers: int | str) -> None:
        for number in numbers:
            (self.folder / name / str(number)).mkdir(parents=True)

    def remove(self, name: str, number: int) -> None:
        (self.folder / name / str(number)).rmdir()

    def tick(self, repository: Repository) -> None:
        """Returns when the folders of the models configured before "clock" were looked at once more."""
        number = max(states(repository, "clock")) + 1
        self.add("clock", number)
        until(lambda: ask(repository, "clock") == number)

    def hold(self, path: str) -> threading.Event:
        self.held[path] = threading.Event()
        return self.held[path]

    def load(self, config: model_server_config_pb2.ModelConfig, path: str) -> Fake:
        key = "/".join(path.split("/")[-2:])
        self.loads.append(key)
        if key in self.held:
            assert self.held[key].wait(60)
        if key in self.failing:
            raise self.failing[key]
        self.loaded[key] = Fake(int(path.rpartition("/")[2]))
        return self.loaded[key]

    def config(self, *models: str, **more: str) -> model_server_config_pb2.ModelServerConfig:
        """Of these models with the defaults, and those with more text in their entries."""
        config = model_server_config_pb2.ModelServerConfig()
        config.model_config_list.SetInParent()
        for name in (*models, *more):
            entry = config.model_config_list.config.add(
                name=name, base_path=f"{self.folder}/{name}", model_platform="tensorflow"
            )
            text_format.Merge(more.get(name, ""), entry)
        return config

    def repository(
        self, config: model_server_config_pb2.ModelServerConfig, **options: object
    ) -> Repository:
        settings = {"file_system_poll_wait_seconds": 0.01, "max_num_load_retries": 0, **options}
        repository = Repository(config, Options(**settings), self.load)
        self.repositories.append(repository)
        return repository

    def serve(self, *models: str, options: dict | None = None, **more: str) -> Repository:
        repository = self.repository(self.config(*models, **more), **options or {})
        repository.start()
        return repository


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    # Fakes have no memory to give back, and to look for garbage among TensorFlow's objects takes long.
    monkeypatch.setattr(manager.memory, "release", lambda: None)
    disk = Disk(tmp_path)
    yield disk
    for held in disk.held.values():
        held.set()
    for repository in disk.repositories:
        repository.stop()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def states(repository: Repository, model: str) -> dict[int, str]:
    try:
        return {number: State.Name(state) for number, state, _ in repository.model_status(model)}
    except tf.errors.NotFoundError:
        return {}


def until_states(repository: Repository, model: str, **expected: str) -> None:
    wanted = {int(number.removeprefix("v")): state for number, state in expected.items()}
    until(lambda: states(repository, model) == wanted)


def ask(repository: Repository, model: str, version: int | None = None, label: str | None = None) -> int:
    with repository.use(model, version, label) as (runner, number):
        (answer,) = runner.run({}, [], None)
        assert answer == number
        return number


def in_background(function: Callable[[], object]) -> Callable[[], object]:
    """Runs it in a thread; what is returned waits for its end, and raises what it raised."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(function())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def result() -> object:
        thread.join(60)
        assert not thread.is_alive()
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    return result


ALL = "model_version_policy { all {} }"


# --- Which versions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", {12}),
        ("latest {}", {12}),
        ("latest { num_versions: 2 }", {3, 12}),
        ("latest { num_versions: 9 }", {-4, 1, 3, 12}),
        ("all {}", {-4, 1, 3, 12}),
        ("specific { versions: 1 versions: 3 }", {1, 3}),
        ("specific { versions: 1 versions: 5 }", {1}),
    ],
)
def test_policies_choose_versions(disk, policy, served):
    disk.add("m", 1, 3, "00000012", -4, "notes", "1_0", "٣", " 7", "9" * 30, "5.tmp")
    config = disk.config(m=f"model_version_policy {{ {policy} }}")
    found, _ = versions.find(config.model_config_list.config[0])
    names = {-4: "-4", 1: "1", 3: "3", 12: "00000012"}
    assert found == {number: f"{disk.folder}/m/{names[number]}" for number in served}


def test_odd_folders_are_described_in_upstream_s_words(disk):
    disk.add("m", "7", "007")
    (disk.folder / "m" / os.fsdecode(b"\xff")).touch()  # not UTF-8: not a version
    (config,) = disk.config(m="model_version_policy { specific { versions: 2 } }").model_config_list.config
    assert versions.find(config) == (
        {},
        [
            "Duplicate version directories detected. Version 7 will be loaded from 7, 007 will be ignored.",
            "Version 2 of servable m, which was requested to be served as a 'specific' version in the "
            "servable's version policy, was not found in the file system",
            f"No versions of servable m found under base path {disk.folder}/m. Did you forget to name your "
            "leaf directory as a number (eg. '/1/')?",
        ],
    )


@pytest.mark.parametrize(
    ("base_path", "reason"),
    [
        ("/no/such", "NOT_FOUND: /no/such not found"),
        ("/etc/passwd", "[Errno 20] Not a directory: '/etc/passwd'"),
        ("/no\0ne", "embedded null byte"),
        ("file:///no/such", "NOT_FOUND: Could not find directory file:///no/such"),
    ],
)
def test_a_base_path_that_cannot_be_read_is_an_error(base_path, reason):
    config = model_server_config_pb2.ModelConfig(name="m", base_path=base_path)
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        versions.find(config)
    assert raised.value.message.startswith(
        f"Could not find base path {base_path} for servable m with error {reason}"
    )


def test_the_highest_version_is_loaded_first_and_latest_is_the_highest_that_is_ready(disk):
    disk.add("m", 1)
    repository = disk.serve("m", options={"num_load_threads": 1})
    held = disk.hold("m/4")
    disk.add("m", 2, 3, 4)
    repository.reload(disk.config(m=ALL))  # a known model: does not wait
    until_states(repository, "m", v1="AVAILABLE", v2="START", v3="START", v4="LOADING")
    assert ask(repository, "m") == 1
    held.set()
    until_states(repository, "m", v1="AVAILABLE", v2="AVAILABLE", v3="AVAILABLE", v4="AVAILABLE")
    assert disk.loads == ["m/1", "m/4", "m/3", "m/2"]
    assert ask(repository, "m") == 4
    assert [ask(repository, "m", number) for number in (1, 2, 3, 4)] == [1, 2, 3, 4]


# --- Start ---------------------------------------------------------------------------------------


def test_initial_loads_run_side_by_side_whatever_the_flag_says(disk):
    disk.add("a", 1)
    disk.add("b", 1)
    both = threading.Barrier(2)

    def load(config: object, path: str) -> Fake:
        both.wait(30)
        return Fake(1)

    repository = Repository(disk.config("a", "b"), Options(num_load_threads=1), load)
    repository.start()
    repository.stop()


def test_a_failed_start_names_each_model_s_highest_version(disk):
    disk.add("good", 1)
    disk.add("odd", 1, 2)
    disk.add("bad", 3)
    disk.failing |= {
        "odd/1": status.not_found("no"),
        "odd/2": ValueError("2 + 2 = 5"),
        "bad/3": tf.errors.DataLossError(None, None, "cut off"),
    }
    repository = disk.repository(disk.config("good", odd=ALL, bad=""))
    with pytest.raises(tf.errors.UnknownError) as raised:
        repository.start()
    assert raised.value.message == (
        "2 servable(s) did not become available: {"
        "{{name: bad version: 3} due to error: DATA_LOSS: cut off}, "
        "{{name: odd version: 2} due to error: UNKNOWN: ValueError: 2 + 2 = 5}, }"
    )


def test_one_version_that_loads_is_enough_to_start(disk):
    disk.add("m", 1, 2)
    disk.failing["m/2"] = status.not_found("no")
    repository = disk.serve(m=ALL)
    assert ask(repository, "m") == 1


def test_the_start_waits_for_a_version_to_appear(disk):
    disk.add("there", 1)
    repository = disk.repository(disk.config("there", "late"))
    result = in_background(repository.start)
    # The whole poll counts for nothing while one path is missing.
    (disk.folder / "late").mkdir()
    until_states(repository, "there", v1="AVAILABLE")
    assert repository.missing() == ["late"]
    disk.add("late", 7)
    result()
    assert ask(repository, "late") == 7
    assert repository.missing() == []


def test_a_negative_interval_never_looks_and_the_start_waits_for_ever(disk):
    disk.add("m", 1)
    repository = disk.repository(disk.config("m"), file_system_poll_wait_seconds=-1)
    result = in_background(repository.start)
    time.sleep(0.2)
    assert states(repository, "m") == {}
    assert repository.missing() == ["m"]
    repository.stop()
    with pytest.raises(tf.errors.UnavailableError):
        result()


def test_a_base_path_may_be_a_uri(disk):
    disk.add("m", 1, 2)
    assert ask(disk.serve(m=f'base_path: "file://{disk.folder}/m"'), "m") == 2


def test_a_stop_ends_the_wait(disk):
    repository = disk.repository(disk.config("never"))
    result = in_background(repository.start)
    repository.stop()
    with pytest.raises(tf.errors.UnavailableError):
        result()


def test_tolerance_starts_without_models_that_fail_and_says_so(disk, caplog):
    caplog.set_level(logging.ERROR)
    disk.add("good", 1)
    disk.add("bad", 1)
    (disk.folder / "empty").mkdir()
    disk.failing["bad/1"] = status.not_found("no")
    repository = disk.serve(
        *("good", "bad", "empty", "gone"),
        # It would be tried again for hours: nobody waits for that.
        options={"tolerate_failed_models": True, "max_num_load_retries": 5},
    )
    assert ask(repository, "good") == 1
    assert repository.models() == ["good", "bad", "empty", "gone"]
    assert repository.missing() == ["bad", "empty", "gone"]
    ((number, state, error),) = repository.model_status("bad")
    assert (number, state, error.message) == (1, State.LOADING, "no")
    ((number, state, error),) = repository.model_status("gone")
    assert (number, state) == (0, State.UNKNOWN)
    assert f"Could not find base path {disk.folder}/gone" in error.message
    ((number, state, error),) = repository.model_status("empty")
    assert (number, state) == (0, State.UNKNOWN)
    assert "No versions of servable empty found" in error.message
    (said,) = [r.getMessage() for r in caplog.records if "Going on without 3 model(s)" in r.getMessage()]
    assert "{{name: bad version: 1} due to error: NOT_FOUND: no}" in said
    assert "{gone due to error: INVALID_ARGUMENT: Could not find base path" in said

    disk.add("gone", 2)  # it is followed all the same, and a bad neighbour does not stop that
    until(lambda: repository.missing() == ["bad", "empty"])
    assert ask(repository, "gone") == 2


# --- Failures and retries ------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [-1, 0, 1])
def test_a_failing_version_is_tried_so_many_times_and_not_again(disk, interval):
    disk.add("m", 1)
    options = {"max_num_load_retries": 2, "load_retry_interval_micros": interval}
    repository = disk.serve("m", options=options)
    disk.failing["m/2"] = status.not_found("no")
    disk.add("m", 2)
    until_states(repository, "m", v1="AVAILABLE", v2="END")
    assert ask(repository, "m") == 1
    assert [e.message for n, _, e in repository.model_status("m", 2)] == ["no"]
    del disk.failing["m/2"]
    disk.add("m", 3)  # several polls later it is still not tried again
    until_states(repository, "m", v1="END", v2="END", v3="AVAILABLE")
    assert disk.loads.count("m/2") == 3


def test_a_failed_version_is_tried_again_once_it_went_and_came_back(disk):
    disk.add("m", 1)
    disk.add("clock", 1)
    repository = disk.serve("m", "clock")
    disk.failing["m/2"] = status.not_found("no")
    disk.add("m", 2)
    until_states(repository, "m", v1="AVAILABLE", v2="END")
    disk.remove("m", 2)
    del disk.failing["m/2"]
    disk.tick(repository)
    disk.add("m", 2)
    until_states(repository, "m", v1="END", v2="AVAILABLE")


def test_a_version_that_goes_while_it_waits_for_its_next_try_is_given_up(disk):
    disk.add("m", 1)
    options = {"max_num_load_retries": 5, "load_retry_interval_micros": 3_600_000_000}
    repository = disk.serve("m", options=options)
    disk.failing["m/2"] = status.not_found("no")
    disk.add("m", 2)
    until(lambda: "m/2" in disk.loads)
    assert states(repository, "m")[2] == "LOADING"
    assert repository.model_status("m", 2)[0][2] is None  # as upstream: known when it has ended
    disk.remove("m", 2)
    until_states(repository, "m", v1="AVAILABLE", v2="END")
    assert disk.loads == ["m/1", "m/2"]


def test_a_version_that_goes_while_it_loads_is_unloaded(disk):
    disk.add("m", 1)
    disk.add("clock", 1)
    repository = disk.serve("m", "clock")
    held = disk.hold("m/2")
    disk.add("m", 2)
    until_states(repository, "m", v1="AVAILABLE", v2="LOADING")
    disk.remove("m", 2)
    disk.tick(repository)
    held.set()
    until_states(repository, "m", v1="AVAILABLE", v2="END")
    assert disk.loaded["m/2"].closed
    assert ask(repository, "m") == 1


def test_a_version_that_goes_and_comes_back_while_it_loads_is_loaded_once(disk):
    disk.add("m", 1)
    disk.add("clock", 1)
    repository = disk.serve("m", "clock")
    held = disk.hold("m/2")
    disk.add("m", 2)
    until_states(repository, "m", v1="AVAILABLE", v2="LOADING")
    disk.remove("m", 2)
    disk.tick(repository)
    disk.add("m", 2)
    disk.tick(repository)
    held.set()
    until_states(repository, "m", v1="END", v2="AVAILABLE")
    assert disk.loads.count("m/2") == 1


def test_a_version_that_goes_before_its_turn_is_never_loaded(disk):
    disk.add("m", 1)
    disk.add("n", 1)
    repository = disk.serve(m=ALL, n=ALL, options={"num_load_threads": 1})
    held = disk.hold("m/3")
    disk.add("m", 2, 3)
    until_states(repository, "m", v1="AVAILABLE", v2="START", v3="LOADING")
    repository.reload(disk.config(m="", n="model_version_policy { specific { versions: 9 } }"))
    until_states(repository, "n", v1="END")  # so the new policies have been applied
    held.set()
    until_states(repository, "m", v1="END", v2="END", v3="AVAILABLE")
    assert "m/2" not in disk.loads
    assert repository.model_status("m", 2)[0][2].message == "Load cancelled before we could try to load."


def test_a_failure_s_frames_are_not_kept(disk):
    class Half:
        """What a loader has built when it fails."""

    built = []

    def load(config: object, path: str) -> Fake:
        half = Half()
        built.append(weakref.ref(half))
        raise status.not_found("no")

    disk.add("m", 1)
    repository = Repository(
        disk.config("m"), Options(max_num_load_retries=0, tolerate_failed_models=True), load
    )
    repository.start()
    gc.collect()
    assert built
    assert built[0]() is None
    repository.stop()


# --- Swaps ---------------------------------------------------------------------------------------


def test_a_slow_load_holds_up_no_request_no_poll_and_no_other_model(disk):
    disk.add("slow", 1)
    disk.add("quick", 1)
    repository = disk.serve("slow", "quick")
    held = disk.hold("slow/2")
    disk.add("slow", 2)
    until_states(repository, "slow", v1="AVAILABLE", v2="LOADING")
    disk.add("quick", 2)
    until_states(repository, "quick", v1="END", v2="AVAILABLE")
    assert ask(repository, "slow") == 1
    assert ask(repository, "quick") == 2
    held.set()
    until_states(repository, "slow", v1="END", v2="AVAILABLE")


def test_loads_and_unloads_that_the_system_has_no_thread_for_wait(disk, caplog):
    disk.add("m", 1)
    repository = disk.serve("m")
    ours = threading.stack_size(2**46)  # more than there is room for: no thread can be started
    try:
        with pytest.raises(RuntimeError):
            threading.Thread().start()
        disk.add("m", 2)
        until(lambda: "No thread to load or unload {name: m version: 2}" in caplog.text)
        assert states(repository, "m") == {1: "AVAILABLE", 2: "START"}
        assert ask(repository, "m") == 1
        time.sleep(0.1)  # many polls
        assert caplog.text.count("No thread to load or unload") == 1
    finally:
        threading.stack_size(ours)
    until_states(repository, "m", v1="END", v2="AVAILABLE")


def test_an_unload_waits_for_its_requests_and_gives_memory_back(disk, monkeypatch):
    released = []
    monkeypatch.setattr(manager.memory, "release", lambda: released.append(disk.loaded["m/1"].closed))
    disk.add("m", 1)
    repository = disk.serve("m")
    with repository.use("m") as (runner, number), repository.use("m", 1) as (same, _):
        assert (runner, number) == (same, 1)
        disk.add("m", 2)
        until_states(repository, "m", v1="UNLOADING", v2="AVAILABLE")
        assert ask(repository, "m") == 2
        with pytest.raises(tf.errors.NotFoundError, match=r"Specific\(m, 1\)"), repository.use("m", 1):
            pass
        assert runner.run({}, [], None) == [1]
    until_states(repository, "m", v1="END", v2="AVAILABLE")
    assert disk.loaded["m/1"].closed
    assert released == [True]


def test_a_request_that_fails_lets_go_of_its_version(disk):
    disk.add("m", 1)
    repository = disk.serve("m")
    with pytest.raises(ZeroDivisionError), repository.use("m"):
        raise ZeroDivisionError
    disk.add("m", 2)
    until_states(repository, "m", v1="END", v2="AVAILABLE")


def test_of_several_versions_the_last_stays_until_a_successor_is_ready(disk):
    disk.add("m", 1, 2)
    two = "model_version_policy { latest { num_versions: 2 } }"
    repository = disk.serve(m=two)
    until_states(repository, "m", v1="AVAILABLE", v2="AVAILABLE")
    three, four = disk.hold("m/3"), disk.hold("m/4")
    disk.add("m", 3, 4)
    until_states(repository, "m", v1="END", v2="AVAILABLE", v3="LOADING", v4="LOADING")
    assert ask(repository, "m") == 2
    three.set()
    until_states(repository, "m", v1="END", v2="END", v3="AVAILABLE", v4="LOADING")
    four.set()
    until_states(repository, "m", v1="END", v2="END", v3="AVAILABLE", v4="AVAILABLE")


def test_a_rollback_loads_the_older_version_again(disk):
    disk.add("m", 1)
    repository = disk.serve("m")
    disk.add("m", 2)
    until_states(repository, "m", v1="END", v2="AVAILABLE")
    disk.remove("m", 2)
    until_states(repository, "m", v1="AVAILABLE", v2="END")
    assert ask(repository, "m") == 1


def test_a_missing_base_path_unloads_nothing_an_empty_one_everything(disk, caplog):
    disk.add("m", 1)
    disk.add("n", 1)
    repository = disk.serve("m", "n")
    os.rename(disk.folder / "m", disk.folder / "away")
    until(lambda: "Could not find base path" in caplog.text)
    disk.add("n", 2)  # nor is anything loaded: the whole poll counts for nothing
    assert (ask(repository, "m"), ask(repository, "n")) == (1, 1)
    (disk.folder / "m").mkdir()
    until_states(repository, "m", v1="END")
    until_states(repository, "n", v1="END", v2="AVAILABLE")
    assert repository.missing() == ["m"]
    assert caplog.text.count("Could not find base path") == 1  # not at each poll
    os.rename(disk.folder / "away" / "1", disk.folder / "m" / "1")
    until_states(repository, "m", v1="AVAILABLE")


def test_zero_looks_at_each_configuration_once(disk):
    disk.add("m", 1)
    repository = disk.serve("m", options={"file_system_poll_wait_seconds": 0})
    disk.add("m", 2)
    disk.add("n", 1)
    repository.reload(disk.config("m", "n"))
    assert ask(repository, "n") == 1
    assert states(repository, "m") == {1: "AVAILABLE"}
    repository.reload(disk.config("n", m=ALL))
    until_states(repository, "m", v1="AVAILABLE", v2="AVAILABLE")


def test_requests_in_several_threads_survive_hundreds_of_swaps(disk):
    disk.add("m", 1)
    repository = disk.serve("m", options={"file_system_poll_wait_seconds": 0.001})
    done = threading.Event()
    answers: list[list[int]] = [[] for _ in range(4)]

    def requests(answers: list[int]) -> None:
        while not done.is_set():
            with repository.use("m") as (runner, number):
                time.sleep(0.0002)  # some request is in flight at any time
                assert runner.run({}, [], None) == [number]
                answers.append(number)

    results = [in_background(lambda mine=mine: requests(mine)) for mine in answers]
    try:
        for number in range(2, 302):
            disk.add("m", number)
            until(lambda number=number: ask(repository, "m") == number)
            disk.remove("m", number - 1)
    finally:
        done.set()
    for result in results:
        result()
    for seen in answers:
        assert seen == sorted(seen)  # never back to one that was replaced
        assert len(set(seen)) > 100
    until(lambda: list(states(repository, "m").values()).count("END") == 300)
    assert all(fake.closed for key, fake in disk.loaded.items() if key != "m/301")
    assert not disk.loaded["m/301"].closed


# --- Labels --------------------------------------------------------------------------------------


def labels(policy: str = "all {}", **numbers: int) -> str:
    return f"model_version_policy {{ {policy} }}" + "".join(
        f'version_labels {{ key: "{label}" value: {number} }}' for label, number in numbers.items()
    )


def test_labels_in_the_file_at_the_start_wait_for_their_version(disk):
    disk.add("m", 1)
    config = disk.config(m=labels(stable=1, canary=2))
    repository = disk.repository(config)
    repository.start()
    assert ask(repository, "m", label="stable") == 1
    with (
        pytest.raises(tf.errors.NotFoundError, match=r"^Servable not found for request: Specific\(m, 2\)$"),
        repository.use("m", label="canary"),
    ):
        pass
    repository.reload(config)  # as a polled file is, again and again
    disk.add("n", 1)
    config.MergeFrom(disk.config("n"))
    repository.reload(config)
    assert ask(repository, "n") == 1
    disk.add("m", 2)
    until_states(repository, "m", v1="AVAILABLE", v2="AVAILABLE")
    assert ask(repository, "m", label="canary") == 2


@pytest.mark.parametrize(("model", "label"), [("m", "nightly"), ("m", ""), ("stranger", "stable")])
def test_unknown_labels(disk, model, label):
    disk.add("m", 1)
    repository = disk.serve(m=labels(stable=1))
    with (
        pytest.raises(
            tf.errors.InvalidArgumentError, match=f"^Unrecognized servable version label: {label}$"
        ),
        repository.use(model, label=label),
    ):
        pass


@pytest.mark.parametrize(
    ("flag", "new", "refused"),
    [
        (False, {"stable": 2}, None),
        (False, {"stable": 1, "canary": 2}, None),
        (False, {}, None),
        (False, {"stable": 1, "canary": 3}, 3),
        (False, {"stable": 3}, 3),
        (True, {"stable": 1, "canary": 3}, None),
        (True, {"stable": 3}, 3),
        (True, {"stable": 2}, None),
    ],
)
def test_labels_may_be_assigned_to_available_versions(disk, flag, new, refused):
    disk.add("m", 1, 2)
    options = {"allow_version_labels_for_unavailable_models": flag}
    repository = disk.serve(m=labels(stable=1), options=options)
    until_states(repository, "m", v1="AVAILABLE", v2="AVAILABLE")
    disk.add("n", 1)
    config = disk.config("n", m=labels(**new))
    if refused is None:
        repository.reload(config)
        for label, number in new.items():
            if number < 3:
                assert ask(repository, "m", label=label) == number
        return
    with pytest.raises(tf.errors.FailedPreconditionError) as raised:
        repository.reload(config)
    assert raised.value.message == (
        f"Request to assign label to version {refused} of model m, which is not currently available for "
        "inference"
    )
    assert repository.models() == ["m"]  # nothing has changed
    assert ask(repository, "m", label="stable") == 1


@pytest.mark.parametrize("flag", [False, True])
def test_a_label_left_on_a_version_that_was_unloaded(disk, flag):
    disk.add("m", 1, 2)
    options = {"allow_version_labels_for_unavailable_models": flag}
    repository = disk.serve(m=labels(stable=1), options=options)
    until_states(repository, "m", v1="AVAILABLE", v2="AVAILABLE")
    without = disk.config(m=labels("specific { versions: 2 }", stable=1))
    repository.reload(without)  # it is available at this moment
    until_states(repository, "m", v1="END", v2="AVAILABLE")
    if flag:
        repository.reload(without)
    else:
        with pytest.raises(tf.errors.FailedPreconditionError, match="to version 1 of model m"):
            repository.reload(without)


# --- Reload --------------------------------------------------------------------------------------


def test_reload_returns_when_new_models_are_available_and_old_ones_go(disk):
    disk.add("old", 1)
    disk.add("stays", 1)
    disk.add("new", 1)
    repository = disk.serve("old", "stays")
    held = disk.hold("new/1")
    with repository.use("old"):  # dropped models are unloaded without waiting for that
        result = in_background(lambda: repository.reload(disk.config("stays", "new")))
        until_states(repository, "new", v1="LOADING")
        until_states(repository, "old", v1="UNLOADING")
        assert ask(repository, "stays") == 1
        assert repository.models() == ["stays", "new"]
        assert repository.missing() == ["new"]
        held.set()
        result()
    assert ask(repository, "new") == 1
    until_states(repository, "old", v1="END")  # remembered
    with pytest.raises(tf.errors.NotFoundError, match=r"Latest\(old\)"), repository.use("old"):
        pass
    assert disk.loads.count("stays/1") == 1


def test_the_same_config_is_accepted_and_a_list_without_models_unloads_all(disk):
    disk.add("m", 1)
    repository = disk.serve("m")
    repository.reload(disk.config("m"))
    assert ask(repository, "m") == 1
    assert disk.loads == ["m/1"]
    repository.reload(disk.config())
    until_states(repository, "m", v1="END")
    assert repository.models() == []
    repository.reload(disk.config("m"))  # and back
    assert ask(repository, "m") == 1


def test_another_policy_or_path_of_a_known_model_does_not_wait(disk):
    disk.add("m", 1, 2)
    disk.add("other", 2)
    repository = disk.serve("m")
    held = disk.hold("m/1")
    repository.reload(disk.config(m="model_version_policy { specific { versions: 1 } }"))
    assert ask(repository, "m") == 2  # until 1 is there
    held.set()
    until_states(repository, "m", v1="AVAILABLE", v2="END")
    repository.reload(disk.config("m"))
    until_states(repository, "m", v1="END", v2="AVAILABLE")
    before = disk.loaded["m/2"]
    repository.reload(disk.config(m=f'base_path: "{disk.folder}/other"'))
    disk.add("other", 3)
    until_states(repository, "m", v1="END", v2="END", v3="AVAILABLE")
    assert disk.loaded["other/3"].number == 3
    assert before.closed
    assert "other/2" not in disk.loads  # version 2 was loaded, whatever its path


def test_a_new_model_that_fails_leaves_the_others_and_stays_configured(disk):
    disk.add("good", 1)
    disk.add("bad", 1)
    disk.failing["bad/1"] = status.not_found("no")
    repository = disk.serve("good")
    config = disk.config("good", "bad")
    with pytest.raises(tf.errors.UnknownError) as raised:
        repository.reload(config)
    assert raised.value.message == (
        "1 model(s) did not become available: {{{name: bad version: 1} due to error: NOT_FOUND: no}, }"
    )
    assert ask(repository, "good") == 1
    assert repository.missing() == ["bad"]
    repository.reload(config)  # it is known by now
    disk.add("bad", 2)
    until(lambda: repository.missing() == [])
    assert ask(repository, "bad") == 2


def test_tolerance_reloads_without_models_that_fail(disk, caplog):
    caplog.set_level(logging.ERROR)
    disk.add("good", 1)
    disk.add("bad", 1)
    disk.add("new", 1)
    disk.failing["bad/1"] = status.not_found("no")
    repository = disk.serve("good", options={"tolerate_failed_models": True})
    repository.reload(disk.config("good", "bad", "gone", "new"))
    assert (ask(repository, "good"), ask(repository, "new")) == (1, 1)
    assert repository.missing() == ["bad", "gone"]
    assert "Going on without 2 model(s): {{{name: bad version: 1} due to error" in caplog.text


def test_a_dropped_model_comes_back_while_its_last_request_runs(disk):
    disk.add("m", 1)
    repository = disk.serve("m")
    with repository.use("m") as (first, _):
        repository.reload(disk.config())
        result = in_background(lambda: repository.reload(disk.config("m")))
        until(lambda: repository.models() == ["m"])
        assert states(repository, "m") == {1: "UNLOADING"}
        assert not first.closed
    result()
    assert ask(repository, "m") == 1
    assert first.closed
    assert not disk.loaded["m/1"].closed


def test_reloads_run_one_at_a_time(disk):
    disk.add("m", 1)
    repository = disk.serve()
    held = disk.hold("m/1")
    first = in_background(lambda: repository.reload(disk.config("m")))
    until_states(repository, "m", v1="LOADING")
    second = in_background(lambda: repository.reload(disk.config()))
    assert repository.models() == ["m"]  # the second waits for the first
    held.set()
    first()
    second()
    until_states(repository, "m", v1="END")
    assert repository.models() == []


def test_a_stop_ends_a_reload_s_wait(disk):
    repository = disk.serve()
    result = in_background(lambda: repository.reload(disk.config("never")))
    until(lambda: repository.models() == ["never"])
    repository.stop()
    with pytest.raises(tf.errors.UnavailableError):
        result()


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (
            'model_config_list { config { name: "m" base_path: "/m" model_platform: "tensorflow" }'
            ' config { name: "m" base_path: "/n" model_platform: "tensorflow" } }',
            "INVALID_ARGUMENT: Illegal to list model m multiple times in config list",
        ),
        (
            'model_config_list { config { name: "n" base_path: "m" model_platform: "tensorflow" } }',
            "INVALID_ARGUMENT: Expected model n to have an absolute path or URI; got base_path()=m",
        ),
        (
            'model_config_list { config { name: "m" base_path: "/m" model_platform: "torch" } }',
            "INVALID_ARGUMENT: Illegal to change a model's platform. For model m platform was tensorflow and "
            "new platform requested is torch",
        ),
        (
            'model_config_list { config { name: "n" base_path: "/n" model_platform: "torch" } }',
            "INVALID_ARGUMENT: Model n requests unsupported platform torch",
        ),
        (
            'model_config_list { config { name: "n" base_path: "/n" } }',
            "INVALID_ARGUMENT: Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            "ModelServerConfig::model_platform, model name is n",
        ),
        (
            'model_config_list { config { name: "n" base_path: "/n" model_platform: "x" model_type: OTHER }}',
            "INVALID_ARGUMENT: Illegal setting both ModelServerConfig::model_type (deprecated) and "
            "ModelServerConfig::model_platform.",
        ),
        (
            'model_config_list { config { name: "n" base_path: "/n" model_type: OTHER } }',
            "INVALID_ARGUMENT: ModelServerConfig::model_type choice 2 not supported.",
        ),
        (
            "",
            "FAILED_PRECONDITION: Cannot transition to requested config. It is only legal to transition from "
            "one ModelConfigList to another.",
        ),
        (
            "custom_model_config {}",
            "FAILED_PRECONDITION: Cannot transition to requested config. It is only legal to transition from "
            "one ModelConfigList to another.",
        ),
    ],
)
def test_refused_configs_change_nothing(disk, config, error):
    disk.add("m", 1)
    repository = disk.serve("m")
    with pytest.raises(tf.errors.OpError) as raised:
        repository.reload(text_format.Parse(config, model_server_config_pb2.ModelServerConfig()))
    assert status.text(raised.value) == error
    assert repository.models() == ["m"]
    assert ask(repository, "m") == 1


def test_the_deprecated_model_type_is_a_platform_too(disk):
    disk.add("m", 1)
    repository = disk.serve(m='model_type: TENSORFLOW model_platform: ""')
    repository.reload(disk.config("m"))
    assert ask(repository, "m") == 1


# --- A followed configuration --------------------------------------------------------------------


def test_a_followed_config_that_cannot_be_used_leaves_the_last_one(disk, caplog):
    caplog.set_level(logging.ERROR)
    disk.add("m", 1)
    disk.add("n", 1)
    repository = disk.serve("m")
    reads = threading.Semaphore(0)
    content: list[object] = [disk.config("m")]

    def read() -> model_server_config_pb2.ModelServerConfig:
        reads.release()
        if isinstance(content[0], Exception):
            raise content[0]
        return content[0]

    def put(what: object) -> None:
        """Returns when it was read and used."""
        content[0] = what
        while reads.acquire(blocking=False):
            pass
        for _ in range(4):
            assert reads.acquire(timeout=30)

    repository.follow_config(read, 0.001)
    put(status.invalid_argument("Invalid protobuf file: 'F'"))
    put(FileNotFoundError("F"))
    put(model_server_config_pb2.ModelServerConfig())
    assert repository.models() == ["m"]
    put(disk.config("m", "n"))
    assert ask(repository, "n") == 1
    assert [record.getMessage() for record in caplog.records] == [
        "Failed to read ModelServerConfig file: Invalid protobuf file: 'F'",
        "Failed to read ModelServerConfig file: FileNotFoundError: F",
        "PollFilesystemAndReloadConfig failed to ReloadConfig: Cannot transition to requested config. It is "
        "only legal to transition from one ModelConfigList to another.",
    ]


def test_an_empty_config_may_be_followed_by_a_list(disk):
    disk.add("m", 1)
    empty = model_server_config_pb2.ModelServerConfig()
    repository = disk.repository(empty)
    repository.start()
    repository.reload(empty)
    repository.reload(disk.config(m=labels(later=2)))
    assert ask(repository, "m") == 1


# --- Subscribers ---------------------------------------------------------------------------------


def test_subscribers_see_every_change(disk, caplog):
    disk.add("m", 1)
    repository = disk.repository(disk.config("m"))
    seen: list[tuple[Sequence[str], dict[int, str]]] = []
    one_at_a_time = threading.Lock()

    def look() -> None:
        with one_at_a_time:  # so that what is noted last was seen last
            seen.append((repository.missing(), states(repository, "m")))

    def fail() -> None:
        raise ValueError("mine")

    repository.subscribe(fail)  # its own affair
    repository.subscribe(look)
    repository.start()
    until(lambda: seen and seen[-1] == ([], {1: "AVAILABLE"}))
    disk.add("m", 2)
    until(lambda: seen[-1] == ([], {2: "AVAILABLE", 1: "END"}))
    (disk.folder / "new").mkdir()
    result = in_background(lambda: repository.reload(disk.config("m", "new")))
    until(lambda: seen[-1][0] == ["new"])
    disk.add("new", 1)
    result()
    until(lambda: seen[-1][0] == [])
    quiet = len(seen)
    repository.reload(disk.config("m", "new"))
    assert len(seen) == quiet  # nothing has changed
    assert "ValueError: mine" in caplog.text


# --- Real SavedModels ----------------------------------------------------------------------------


def _load_savedmodel(config: object, path: str) -> Servable:
    return Servable(path, ["serve"], tf.compat.v1.ConfigProto())


def _predict(repository: Repository, model: str) -> float:
    with repository.use(model) as (runner, _):
        x = np.ones([1, 3], np.float32)
        return float(inference.predict(runner, "", {"x": x}, ("y",), None)[1]["y"][0])


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Repository]:
    saved_models.write_dense(tmp_path / "m", 1, scale=1.0)
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(
        name="m", base_path=str(tmp_path / "m"), model_platform="tensorflow"
    )
    options = Options(
        file_system_poll_wait_seconds=0.02, max_num_load_retries=1000, load_retry_interval_micros=20_000
    )
    repository = Repository(config, options, _load_savedmodel)
    repository.start()
    yield repository
    repository.stop()


def test_an_export_in_place_serves_once_it_is_whole(real, tmp_path):
    whole = saved_models.write_dense(tmp_path / "elsewhere", 2, scale=2.0)
    half = tmp_path / "m" / "2"
    half.mkdir()
    until(lambda: states(real, "m").get(2) == "LOADING")
    (half / "saved_model.pb").write_bytes((whole / "saved_model.pb").read_bytes()[:1000])
    (half / "variables").mkdir()
    (half / "variables" / "variables.index").write_bytes(b"")
    assert _predict(real, "m") == 3.0
    for file in ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"):
        (half / file).write_bytes((whole / file).read_bytes())
        assert _predict(real, "m") in (3.0, 6.0)
    until(lambda: _predict(real, "m") == 6.0)
    until_states(real, "m", v1="END", v2="AVAILABLE")


def test_real_models_are_swapped_under_requests(real, tmp_path):
    done = threading.Event()

    def requests() -> set[float]:
        answers = set()
        while not done.is_set():
            answers.add(_predict(real, "m"))
        return answers

    results = [in_background(requests) for _ in range(2)]
    try:
        for number in range(2, 6):
            saved_models.write_dense(tmp_path / "m", number, scale=float(number))
            until(lambda number=number: _predict(real, "m") == 3.0 * number)
    finally:
        done.set()
    assert set().union(*(result() for result in results)) == {3.0, 6.0, 9.0, 12.0, 15.0}
