"""The line's memory, with stages that are real processes of a few milliseconds."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from train import fingerprint, line
from zoo.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent
STAGE = """
import pathlib, sys, time
output, status, seconds = sys.argv[1:]
with pathlib.Path(output).open("a") as stream:
    stream.write("ran\\n")
time.sleep(float(seconds))
sys.exit(int(status))
"""


@pytest.fixture(autouse=True)
def _module(tmp_path, monkeypatch):
    """`python -m quick_stage <output> <status> <seconds>`."""
    (tmp_path / "quick_stage.py").write_text(STAGE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def _digest(path):
    return fingerprint.of(path.read_text()) if path.is_file() else ""


def _run(folder, inputs, status=0, anew=False):
    """(status of a line of one stage, its row)."""
    output = folder / "output"
    with line.locked(folder / "lock", "m") as lock:
        stages = line.Line(folder / "state.json", lock, anew)
        command = ["quick_stage", str(output), str(status), "0"]
        ended = 0
        try:
            stages.stage(
                "one", inputs, command, output=lambda: output, digest=_digest, what=lambda path: path.name
            )
        except line.Stopped as end:
            ended = end.status
        return ended, stages.table().splitlines()[1].split()[1]


def _runs(folder):
    return (folder / "output").read_text().count("ran")


def test_a_stage_runs_again_only_if_what_it_depends_on_or_what_it_made_has_changed(tmp_path):
    assert _run(tmp_path, {"a": "1"}) == (0, "done")
    assert _run(tmp_path, {"a": "1"}) == (0, "skipped")
    assert _run(tmp_path, {"a": "2"}) == (0, "done")
    assert _runs(tmp_path) == 2
    (tmp_path / "output").write_text("by another hand")
    assert _run(tmp_path, {"a": "2"}) == (0, "done")
    (tmp_path / "output").unlink()
    assert _run(tmp_path, {"a": "2"}) == (0, "done")
    assert _run(tmp_path, {"a": "2"}, anew=True) == (0, "done")
    assert _run(tmp_path, {"a": "2"}) == (0, "skipped")


def test_a_refusal_is_an_answer_and_a_failure_is_none(tmp_path):
    assert _run(tmp_path, {}, status=3) == (3, "refused")
    assert _run(tmp_path, {}, status=3) == (3, "refused")
    assert _runs(tmp_path) == 1
    assert _run(tmp_path, {"a": "1"}, status=5) == (5, "failed")
    assert _run(tmp_path, {"a": "1"}, status=5) == (5, "failed")
    assert _run(tmp_path, {"a": "1"}) == (0, "done")
    assert _runs(tmp_path) == 4


ALONE = """
import pathlib, sys
from train import line
folder = pathlib.Path(sys.argv[1])
with line.locked(folder / "lock", "m") as lock:
    stages = line.Line(folder / "state.json", lock, False)
    try:
        stages.stage("one", {}, ["quick_stage", str(folder / "output"), "0", "60"], output=lambda: folder,
                     digest=str, what=str, plan="planned")
    except line.Stopped as end:
        sys.exit(end.status)
"""


@pytest.fixture
def alone(tmp_path):
    """A process in the middle of a stage of a minute."""
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    process = subprocess.Popen([sys.executable, "-c", ALONE, str(tmp_path)], env=environment)
    while not (tmp_path / "output").exists():
        assert process.poll() is None
        time.sleep(0.02)
    yield process
    process.kill()
    process.wait()


def test_a_second_line_is_refused_also_while_a_killed_one_s_stage_still_runs(tmp_path, alone):
    with pytest.raises(UserError, match=f"m is being worked on by process {alone.pid}"):
        _run(tmp_path, {})
    stages = pathlib.Path(f"/proc/{alone.pid}/task/{alone.pid}/children").read_text().split()
    assert stages
    alone.kill()
    alone.wait()
    with pytest.raises(UserError, match="by a stage that it started and that still runs"):
        _run(tmp_path, {})
    for stage in stages:
        os.kill(int(stage), signal.SIGKILL)
    for _ in range(500):
        try:
            assert _run(tmp_path, {}) == (0, "done")  # it did not end: again
            break
        except UserError:
            time.sleep(0.02)
    assert _runs(tmp_path) == 2


def test_sigterm_reaches_the_stage_and_what_it_was_to_make_is_remembered(tmp_path, alone):
    alone.send_signal(signal.SIGTERM)
    assert alone.wait(timeout=60) == 128 + signal.SIGTERM
    record = json.loads((tmp_path / "state.json").read_text())["stages"]["one"]
    assert (record["status"], record["output"]) == ("failed", "planned")
    with line.locked(tmp_path / "lock", "m") as lock:
        stages = line.Line(tmp_path / "state.json", lock, False)
        assert stages.planned("one", {}) == "planned"
        assert stages.planned("one", {"a": "1"}) == ""


def test_a_damaged_memory_names_itself(tmp_path):
    (tmp_path / "state.json").write_text('{"stages": []}')
    with pytest.raises(UserError, match=r"state\.json is damaged .*remove it"):
        line.Line(tmp_path / "state.json", 0, False)
