"""atelier-push: what reaches users, what is refused, and that neither a kill nor a change loses anything.

Most tests need no model, only folders that look like exports: no server is asked about a candidate then
(`believed`). The last ones run real servers.
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from art_models import write_golden
from binaries import ROOT, run_main
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving import audit, compatibility, push, rollout
from serving.client import Client
from serving.launch import launch
from zoo import blessing, publish
from zoo.errors import UserError

# With an option, a process of its own: it needs no TensorFlow, and says nothing that is not its own.
run_push = functools.partial(run_main, "serving.push_main", stdin=subprocess.DEVNULL)

SIGNATURES = {"serving_default": {"inputs": {"x": "float32 [None]"}, "outputs": {"y": "float32 [None]"}}}


def bless(export: Path, blessed: bool = True) -> None:
    reason = "accuracy is 0.5, and 0.9 were asked for"
    verdict = blessing.Verdict("accuracy >= 0.9", 0.5, 0.9, blessed, reason)
    found = blessing.Blessing(
        blessed, export.parent.name, blessing.digest(export), "2026-11-28T00:00:00Z", (verdict,), {}
    )
    blessing.write(export, found)


def fake(folder: Path, content: object, signatures: dict = SIGNATURES, blessed: bool | None = True) -> Path:
    """<folder>/m/1 with all that a push looks at; `blessed` None: never judged."""
    export = folder / "m" / "1"
    (export / "assets.extra").mkdir(parents=True)
    (export / "saved_model.pb").write_text(str(content))
    (export / "assets.extra" / "card.json").write_text(json.dumps({"signatures": signatures}))
    if blessed is not None:
        bless(export, blessed)
    return export


def config(base: Path) -> model_server_config_pb2.ModelServerConfig:
    return text_format.Parse(
        (base / "models.config").read_text(), model_server_config_pb2.ModelServerConfig()
    )


def labels(base: Path, model: str = "m") -> tuple[int, int]:
    """(stable, canary)"""
    found = rollout.labels(base, model)
    return found["stable"], found["canary"]


@pytest.fixture
def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push.Base, "_validate", lambda *_: "believed")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def base(tmp_path: Path, believed: None, said: list[str]) -> push.Base:
    return push.Base(tmp_path / "served", settle_seconds=0.0, say=said.append)


@pytest.fixture
def served(tmp_path: Path) -> Path:
    return tmp_path / "served"


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """fake(), each in a folder of its own."""
    count = iter(range(1000))
    return lambda *args, **kwargs: fake(tmp_path / f"candidates{next(count)}", *args, **kwargs)


# --- Push, canary, promote, roll back --------------------------------------------------------------


def test_versions_grow_and_labels_follow(base, served, make, said):
    base.push(make("one"))
    assert labels(served) == (1, 1)
    base.push(make("two"))
    assert labels(served) == (2, 2)
    assert publish.versions(served / "m") == [1, 2]  # the one before stays on disk
    assert (served / "m" / "2" / "saved_model.pb").read_text() == "two"
    base.push(make("three"), label="canary")
    assert labels(served) == (2, 3)
    base.promote("m")
    assert labels(served) == (3, 3)
    base.rollback("m")
    assert labels(served) == (2, 2)
    # The newest is what a server without labels gives: it must be the stable one.
    assert publish.versions(served / "m") == [1, 2]
    base.rollback("m")
    assert labels(served) == (1, 1)
    base.push(make("four"))
    assert labels(served) == (4, 4)
    assert "m: version 4 is stable, after version 1" in said
    entry = config(served).model_config_list.config[0]
    assert (entry.name, entry.base_path, entry.model_platform) == ("m", str(served / "m"), "tensorflow")
    assert entry.model_version_policy.latest.num_versions == 2


def test_the_log_says_why(base, make):
    base.push(make("one"), reason="the first")
    base.push(make("two"), label="canary")
    base.promote("m", "a week without complaints")
    base.rollback("m", "a complaint")
    entries, _ = base.history()
    assert [(e.action, e.reason, e.forced) for e in entries] == [
        ("push", "the first", False),
        ("push", "", False),
        ("promote", "a week without complaints", False),
        ("rollback", "a complaint", False),
    ]
    assert "blessed: a complaint" in audit.table(entries)


def test_a_canary_is_dropped_first_and_clients_of_its_label_get_the_stable_version(base, served, make):
    base.push(make("one"))
    base.push(make("two"), label="canary")
    base.rollback("m")
    assert labels(served) == (1, 1)
    assert publish.versions(served / "m") == [1]
    assert (served / "m" / ".rolled_back-2" / "saved_model.pb").read_text() == "two"


def test_what_was_rolled_back_can_be_pushed_again(base, served, make):
    base.push(make("one"))
    base.push(make("two"))
    base.rollback("m")
    base.push(served / "m" / ".rolled_back-2")
    assert labels(served) == (3, 3)
    assert (served / "m" / "3" / "saved_model.pb").read_text() == "two"


def test_an_exporter_does_not_reuse_the_number_of_a_version_that_was_rolled_back(base, served, make):
    base.push(make("one"))
    base.push(make("two"))
    base.rollback("m")
    with publish.incoming(served / "m") as path:
        shutil.copytree(make("three"), path)
        assert publish.publish(path, served / "m").name == "3"


def test_the_same_content_is_not_published_twice(base, served, make, said):
    base.push(make("one"))
    base.push(make("one"))
    assert said[-1] == "m: version 1, which is stable, has this very content: nothing to do"
    base.push(make("two"), label="canary")
    base.push(make("two"), label="canary")
    assert "the canary, has this very content" in said[-1]
    assert publish.versions(served / "m") == [1, 2]
    assert len(base.history()[0]) == 2


def test_rollback_skips_versions_that_are_not_blessed(base, served, make):
    base.push(make("one"))
    base.push(make("two", blessed=None), reason="an emergency", force=True)
    base.push(make("three", blessed=False), reason="another one", force=True)
    base.push(make("four"))
    base.rollback("m")
    assert labels(served) == (1, 1)
    assert publish.versions(served / "m") == [1]
    with pytest.raises(UserError, match="no blessed version before 1 to return to; there is none before it"):
        base.rollback("m")
    assert labels(served) == (1, 1)


def test_a_base_that_the_exporter_filled_can_be_rolled_back(base, served, make):
    for content in ("one", "two"):
        with publish.incoming(served / "m") as path:
            shutil.copytree(make(content), path)
            publish.publish(path, served / "m")
    base.rollback("m")
    assert labels(served) == (1, 1)


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (lambda base, make: base.push(make("new")), "version 2 is the canary beside version 1: promote it"),
        (lambda base, make: base.push(make("new"), label="canary"), "version 2 is the canary beside"),
        (lambda base, make: base.rollback("n"), "has no model 'n'; it has m"),
        (lambda base, make: (base.promote("m"), base.promote("m")), "m has no canary to promote"),
    ],
)
def test_what_cannot_be_done_is_said(base, make, do, words):
    base.push(make("one"))
    base.push(make("two"), label="canary")
    with pytest.raises(UserError, match=words):
        do(base, make)


def test_a_canary_needs_a_stable_version(base, make):
    with pytest.raises(UserError, match="m has no stable version yet"):
        base.push(make("one"), label="canary")


# --- What is refused -------------------------------------------------------------------------------


def test_what_is_not_blessed_is_refused_unless_forced_and_both_are_on_record(base, served, make):
    with pytest.raises(UserError, match=r"was not judged yet.*--force --reason"):
        base.push(make("one", blessed=None))
    with pytest.raises(UserError, match=r"is not blessed: accuracy is 0\.5, and 0\.9 were asked for"):
        base.push(make("one", blessed=False))
    changed = make("one")
    (changed / "saved_model.pb").write_text("another")
    with pytest.raises(UserError, match="is not what was judged"):
        base.push(changed)
    assert not (served / "models.config").exists()
    assert publish.versions(served / "m") == []
    base.push(make("one", blessed=False), reason="the demo is at noon", force=True)
    entries, torn = base.history()
    assert [e.action for e in entries] == ["refused"] * 3 + ["push"]
    assert "accuracy is 0.5" in entries[1].reason
    last = entries[3]
    assert (last.version, last.from_version, last.forced, last.blessed) == (1, None, True, False)
    assert (last.reason, last.validation, torn) == ("the demo is at noon", "believed", [])
    assert last.digest == blessing.digest(served / "m" / "1")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", last.when)
    assert re.fullmatch(r".+@.+", last.who)


def changed(kind: str, name: str, spec: str | None) -> dict:
    new = json.loads(json.dumps(SIGNATURES))
    new["serving_default"][kind].pop(name, None)
    if spec is not None:
        new["serving_default"][kind][name] = spec
    return new


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (SIGNATURES, {"other": SIGNATURES["serving_default"]}, ["signature serving_default is missing"]),
        (
            SIGNATURES,
            changed("inputs", "x", None),
            ["serving_default: input x (float32 [None]) is missing"],
        ),
        (
            SIGNATURES,
            changed("outputs", "y", "float64 [None]"),
            ["serving_default: output y was float32 [None] and would be float64 [None]"],
        ),
        # An input must take what it took ...
        (
            SIGNATURES,
            changed("inputs", "x", "float32 [8]"),
            ["serving_default: input x was float32 [None] and would be float32 [8]"],
        ),
        (changed("inputs", "x", "float32 [8]"), SIGNATURES, []),
        # ... and an output give what it gave.
        (SIGNATURES, changed("outputs", "y", "float32 [8]"), []),
        (
            changed("outputs", "y", "float32 [8]"),
            SIGNATURES,
            ["serving_default: output y was float32 [8] and would be float32 [None]"],
        ),
        (
            SIGNATURES,
            changed("outputs", "y", "float32 [None, 1]"),
            ["serving_default: output y was float32 [None] and would be float32 [None, 1]"],
        ),
        (SIGNATURES, {**SIGNATURES, **changed("outputs", "z", "string [None]")}, []),
    ],
)
def test_signatures_may_grow_but_not_break_clients(make, before, after, words):
    assert compatibility.breaks(make("one", before), make("two", after)) == words


def test_a_candidate_that_breaks_clients_is_refused_unless_forced(base, served, make):
    base.push(make("one"))
    new = changed("inputs", "x", None)
    with pytest.raises(UserError, match=r"clients of m version 1 would break: .*input x .* is missing"):
        base.push(make("two", new))
    assert labels(served) == (1, 1)
    base.push(make("two", new), reason="all clients are ours, and updated", force=True)
    assert labels(served) == (2, 2)


# --- models.config and audit.jsonl -----------------------------------------------------------------

BY_HAND = """\
# The paintings team: ask before you change this.
model_config_list {
  config { name: "theirs" base_path: "/models/theirs" model_platform: "tensorflow"
           model_version_policy { specific { versions: 7 } } version_labels { key: "old" value: 7 } }
  config { name: "m" base_path: "/mounted/m" model_platform: "tensorflow"
           logging_config { sampling_config { sampling_rate: 0.5 } } version_labels { key: "x" value: 1 } }
}
"""


def test_what_a_person_wrote_into_models_config_survives(base, served, make):
    served.mkdir()
    (served / "models.config").write_text(BY_HAND)
    base.push(make("one"))
    base.push(make("two"))
    before = text_format.Parse(BY_HAND, model_server_config_pb2.ModelServerConfig())
    theirs, ours = before.model_config_list.config
    ours.model_version_policy.latest.num_versions = 2
    ours.version_labels.update({"stable": 2, "canary": 2})
    assert list(config(served).model_config_list.config) == [theirs, ours]
    assert (served / "models.config").read_text().startswith("# The paintings team: ask before you change")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model_config_list {", "is no ModelServerConfig"),
        ("custom_model_config {}", "holds a custom_model_config"),
        ('model_config_list { config { name: "m" base_path: "/other" } }', "serves m from /other"),
        (
            'model_config_list { config { name: "m" base_path: "/x/m" model_version_policy '
            "{ specific { versions: 1 } } } }",
            r"could lose the stable version: expected latest \{ num_versions: 2 \}",
        ),
    ],
)
def test_a_models_config_that_no_push_can_work_with_is_left_alone(base, served, make, text, words):
    served.mkdir()
    (served / "models.config").write_text(text)
    with pytest.raises(UserError, match=words):
        base.push(make("one"))
    assert (served / "models.config").read_text() == text
    assert publish.versions(served / "m") == []


def test_a_line_that_a_crash_cut_short_is_reported_and_costs_no_other(base, served, make):
    base.push(make("one"))
    with (served / "audit.jsonl").open("a") as log:
        log.write('{"action": "pu')
    base.push(make("two"))
    entries, torn = base.history()
    assert ([e.version for e in entries], torn) == ([1, 2], [2])
    done = run_push("history", "m", f"--base_dir={served}")
    assert done.returncode == 0
    assert "line 2 of audit.jsonl was cut short" in done.stderr
    head, first, second = done.stdout.splitlines()
    assert head.split() == [
        *("when", "who", "action", "model", "version", "from", "digest", "judged", "validation")
    ]
    assert re.search(r" push +m +1 +- +[0-9a-f]{12}  blessed +believed$", first)
    assert re.search(r" push +m +2 +1 +", second)


# --- Many at once, and kills -----------------------------------------------------------------------


def test_pushes_at_the_same_time_each_get_a_number_of_their_own(base, served, make):
    exports = [make(f"content {i}") for i in range(8)]
    threads = [threading.Thread(target=base.push, args=[export]) for export in exports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert publish.versions(served / "m") == list(range(1, 9))
    assert {(served / "m" / str(v) / "saved_model.pb").read_text() for v in range(1, 9)} == {
        f"content {i}" for i in range(8)
    }
    entries, torn = base.history()
    assert [(e.from_version, e.version) for e in entries] == [(None, 1), *((v, v + 1) for v in range(1, 8))]
    assert labels(served) == (8, 8)
    assert not torn and not list((served / "m").glob(".incoming-*"))


# Each command in a forked process that kills itself before the n-th thing that it does to a file, n = 1, 2,
# ... until it is done before that; after each kill the base is looked at and the command repeated, as one
# does who has not been told that it is done.
KILLED = """
import os, pathlib, shutil, signal, sys
from serving import audit, push, rollout
from zoo import blessing, publish

push.Base._validate = lambda *_: "believed"
folder, command, start, candidate = pathlib.Path(sys.argv[1]), sys.argv[2], *map(pathlib.Path, sys.argv[3:])
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.chmod"}

def run(base):
    told = folder / f"said{base.name}"
    line = push.Base(base, settle_seconds=0.0, say=lambda text: told.write_text(text))
    getattr(line, command)(candidate if command == "push" else "m")

def state(base):
    log, torn = audit.read(base)
    there = publish.versions(base / "m")
    labels = rollout.labels(base, "m")
    assert all((base / "m" / str(v)).is_dir() for v in labels.values()), labels
    for version in there:
        blessing.check(base / "m" / str(version))  # complete, to the byte
    assert there, "nothing to serve"
    return there, sorted(labels.items()), [(e.action, e.version, e.from_version) for e in log], torn

point = 0
while True:
    point += 1
    base = folder / str(point)
    shutil.copytree(start, base)
    child = os.fork()
    if not child:
        left = point
        def hook(event, arguments):
            global left
            if event in EVENTS and str(base) in str(arguments[0]):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        run(base)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    found = state(base)
    if os.WIFSIGNALED(status):
        if (base / ".pending.json").exists() or not (folder / f"said{point}").exists():
            run(base)
        found = state(base)
    else:
        assert os.WEXITSTATUS(status) == 0
    assert not (base / ".pending.json").exists()
    print(found, flush=True)
    if os.WIFEXITED(status):
        break
"""


@pytest.mark.parametrize("command", ["push", "promote", "rollback"])
def test_a_kill_at_any_moment_leaves_a_base_that_serves_and_the_same_command_completes_it(
    base, served, make, tmp_path, command
):
    base.push(make("one"))
    base.push(make("two"), label="canary" if command == "promote" else "stable")
    arguments = [tmp_path / "killed", command, served, make("three")]
    arguments[0].mkdir()
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ends = done.stdout.splitlines()
    assert len(ends) > 10
    expected = {
        "push": ([1, 2, 3], [("canary", 3), ("stable", 3)], ("push", 3, 2)),
        "promote": ([1, 2], [("canary", 2), ("stable", 2)], ("promote", 2, 1)),
        "rollback": ([1], [("canary", 1), ("stable", 1)], ("rollback", 1, 2)),
    }[command]
    before = [("push", 1, None), ("push", 2, 1)]
    for end in ends:
        assert end == str((*expected[:2], [*before, expected[2]], [])), end


# --- The binary ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "<push|promote|rollback|history> is missing"),
        (["pull", "x"], "unknown command 'pull': expected one of push, promote, rollback, history"),
        (["push", "nowhere/m/1"], "nowhere/m/1 is no export: it has no saved_model.pb"),
        (["push", "x", "--force"], '--force needs --reason="..."'),
        (["rollback", "m"], "is no folder of models"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, error):
    done = run_push(*arguments, f"--base_dir={tmp_path}/served")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ") and error in done.stderr


def test_a_full_disk_is_one_line_and_publishes_nothing(tmp_path):
    export = fake(tmp_path / "candidates", "weights" * 10_000)
    done = run_push(
        *("push", export, f"--base_dir={tmp_path}/served"),
        file_size=5000,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"error: cannot copy \S+ to \S+ \(.*File too large.*\)\n", done.stderr)
    assert os.listdir(tmp_path / "served" / "m") == []


# --- With real servers -----------------------------------------------------------------------------


def real(folder: Path, scale: float, golden_scale: float | None = None) -> Path:
    """<folder>/m/1, a SavedModel: x float32 [B] -> y = scale * x."""

    class Scaled(tf.Module):
        def __init__(self) -> None:
            self.scale = tf.Variable(scale)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def call(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": self.scale * x}

    export, model = folder / "m" / "1", Scaled()
    tf.saved_model.save(model, str(export), signatures={"serving_default": model.call})
    model.scale.assign(scale if golden_scale is None else golden_scale)
    write_golden(export, {"serving_default": ({"x": np.array([1.0, 2.0], np.float32)}, model.call)})
    (export / "assets.extra" / "card.json").write_text(json.dumps({"signatures": SIGNATURES}))
    bless(export)
    return export


def test_a_candidate_that_answers_otherwise_than_when_it_was_exported_is_not_published(tmp_path):
    export = real(tmp_path / "candidates", 2.0, golden_scale=3.0)
    done = run_push("push", export, f"--base_dir={tmp_path}/served")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "did not pass validation: serving_default: output y: 2 of 2 values differ" in done.stderr
    assert os.listdir(tmp_path / "served" / "m") == []
    entries, _ = audit.read(tmp_path / "served")
    assert [e.action for e in entries] == ["refused"]


def test_a_server_that_cannot_be_started_publishes_nothing(tmp_path):
    export = fake(tmp_path / "candidates", "one")
    write_golden(export, {"serving_default": ({"x": np.array([1.0])}, lambda x: {"y": x})})
    bless(export)
    done = run_push(
        *("push", export, f"--base_dir={tmp_path}/served", "--engine=tfserving"),
        env={**os.environ, "ATELIER_TFSERVING_BINARY": "/nowhere"},
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "did not pass validation" in done.stderr
    assert "ATELIER_TFSERVING_BINARY=/nowhere is no executable file" in done.stderr
    assert os.listdir(tmp_path / "served" / "m") == []


class Clients:
    """Ask all the time; a version's right answer is its own factor times x."""

    def __init__(
        self, address: str, targets: list[tuple[str, str | None]], factors: dict[int, float]
    ) -> None:
        self._address = address
        self.answered = 0
        self.wrong: list[object] = []
        self.seen: dict[tuple[str, str | None], list[int]] = {target: [] for target in targets}
        self._factors = factors
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=target) for target in targets]

    def _ask(self, model: str, label: str | None) -> None:
        seen = self.seen[model, label]
        with Client.connect(self._address, retries=0) as client:
            while not self._done.wait(0.02):
                x = random.random()
                try:
                    answer = client.predict(model, {"x": [x]}, label=label)
                except Exception as error:
                    self.wrong.append((model, label, error))
                    continue
                expected = np.float32(self._factors[answer.version]) * np.float32(x)
                if answer["y"][0] != expected:
                    self.wrong.append((model, label, answer.version, x, answer["y"]))
                if seen[-1:] != [answer.version]:
                    seen.append(answer.version)
                self.answered += 1

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.slow
def test_running_servers_follow_pushes_and_rollbacks_and_lose_no_request(tmp_path, monkeypatch):
    served = tmp_path / "served"
    exports = {scale: real(tmp_path / f"candidates{scale}", scale) for scale in (2.0, 3.0, 5.0)}
    with monkeypatch.context() as patch:
        patch.setattr(push.Base, "_validate", lambda *_: "believed")
        push.Base(served, say=lambda text: None).push(exports[2.0])
    # As a server that is started with --model_base_path: it knows of no labels.
    plain = config(served)
    plain.model_config_list.config.add(name="plain", base_path=str(served / "m"), model_platform="tensorflow")
    (served / "models.config").write_text(text_format.MessageToString(plain))
    flags = ["--model_config_file_poll_wait_seconds=1", "--allow_version_labels_for_unavailable_models"]
    targets = [("m", "stable"), ("m", "canary"), ("m", None), ("plain", None)]
    with (
        launch(served / "models.config", flags=flags) as server,
        Clients(server.address, targets, {1: 2.0, 2: 3.0, 3: 5.0}) as clients,
    ):

        def plain_has(version: int) -> None:
            deadline = time.monotonic() + 60
            while clients.seen["plain", None][-1:] != [version]:
                assert time.monotonic() < deadline
                time.sleep(0.05)

        servers = f"--servers={server.address}"
        folder = f"--base_dir={os.path.relpath(served, ROOT)}"
        done = run_push("push", exports[3.0], folder, servers)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "m: version 2 is stable, after version 1"
        entry = audit.read(served)[0][-1]
        assert (entry.blessed, entry.validation) == (True, "golden requests: 1 of 1 agree (embedded)")
        monkeypatch.setattr(push.Base, "_validate", lambda *_: "believed")
        base = push.Base(served, servers=[server.address], say=lambda text: None)
        plain_has(2)
        base.rollback("m")
        plain_has(1)
        base.push(exports[5.0], label="canary")
        plain_has(3)  # without labels, a canary is just the newest version
        base.promote("m")
        # And without the server's address, by time alone.
        push.Base(served, settle_seconds=4.0, say=lambda text: None).rollback("m")
        plain_has(1)
        base._settle("m")
        time.sleep(0.3)
    assert clients.wrong == []
    assert clients.answered > 500
    assert clients.seen == {target: [1, 2, 1, 3, 1] for target in targets}
