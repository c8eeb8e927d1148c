"""The line in one command, on real digits: one run of all stages, then what later commands leave out."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from binaries import ROOT, run_main

from train import fingerprint
from zoo import blessing

GATES = ["accuracy >= 0.05", "accuracy/* >= 0", "latency_p95_ms <= 100000"]
STEPS = ["steps=500", "log_every=50", "eval_every=500", "preview_every=500", "checkpoint_every=50"]
TINY = ["--config=cnn_digits", *(f"--config.{s}" for s in [*STEPS, "model.stem=4", "model.widths=(8,)"])]
# The flags of a pipeline in a process that says what it loaded and started.
WATCHED = """
import sys
started = []
sys.addaudithook(lambda event, _: started.append(event) if event in ("subprocess.Popen", "os.fork") else None)
from train import pipeline_main
try:
    pipeline_main.run()
except SystemExit as end:
    status = end.code or 0
print(started, "tensorflow" in sys.modules)
sys.exit(status)
"""


def _flags(base, *changes, gates=GATES):
    return [*TINY, f"--base={base}", *(f"--gate={gate}" for gate in gates), *changes]


def _rows(done):
    """Stage -> status, of the table at the end."""
    lines = done.stdout[done.stdout.rindex("\nstage ") :].split("\n\n")[0].splitlines()[2:]
    return {line.split()[0]: line.split()[1] for line in lines}


def _watched(*flags):
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *flags], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done, done.stdout.splitlines()[-1]


def test_a_judgement_is_of_the_gates_of_the_day_and_the_version_before(tmp_path):
    """What a stage depends on: the last blessed version, but for the candidate itself."""
    for version, digest, blessed in ((1, "sha256:a", True), (2, "sha256:b", False), (3, "sha256:c", True)):
        (tmp_path / str(version)).mkdir()
        made = blessing.Blessing(blessed, "m", digest, "2026-01-01T00:00:00Z", (), {})
        blessing.write(tmp_path / str(version), made)
    assert blessing.last_blessed(tmp_path, besides="sha256:d").digest == "sha256:c"
    assert blessing.last_blessed(tmp_path, besides="sha256:c").digest == "sha256:a"
    assert blessing.last_blessed(tmp_path / "none") is None
    # A preset's gates are code that the judgement depends on.
    assert fingerprint.code("train.presets.cnn_digits") != fingerprint.code("train.presets.gan_digits")


def _files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The base after a kill -9 of the trainer, which had one checkpoint at least."""
    base = tmp_path_factory.mktemp("base")
    command = [sys.executable, "-m", "train.pipeline_main", *_flags(base)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not list(base.glob("runs/*/*/checkpoints/ckpt-100.index")):  # 50 is complete then
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        for child in pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL, (out, err)
    assert "was ended by signal 9" in err
    assert not (base / "candidates").exists()
    return base


@pytest.fixture(scope="module")
def pushed(killed):
    """(base, what the same command said when it went on)."""
    done = run_main("train.pipeline_main", *_flags(killed))
    assert done.returncode == 0, done.stdout + done.stderr
    return killed, done


@pytest.mark.slow
def test_a_killed_line_goes_on_to_a_model_that_is_served(pushed):
    base, done = pushed
    assert _rows(done) == {
        "data": "skipped",
        "train": "done",
        "export": "done",
        "evaluate": "done",
        "push": "done",
    }
    (workdir,) = (base / "runs" / "cnn_digits").iterdir()
    assert f"--workdir={workdir}" in done.stdout
    assert "step 50/500" not in done.stdout and "step 500/500" in done.stdout  # from the checkpoint
    assert (base / "candidates" / "cnn_digits" / "1" / "assets.extra" / "blessing.json").is_file()
    assert (base / "models" / "cnn_digits" / "1" / "saved_model.pb").is_file()
    assert "cnn_digits" in (base / "models" / "models.config").read_text()
    (entry,) = map(json.loads, (base / "models" / "audit.jsonl").read_text().splitlines())
    assert (entry["action"], entry["version"], entry["forced"]) == ("push", 1, False)
    assert f"--model_config_file={base}/models/models.config" in done.stdout


@pytest.mark.slow
def test_nothing_changed_starts_nothing_and_loads_no_tensorflow(pushed):
    base, _ = pushed
    before = _files(base)
    done, watched = _watched(*_flags(base))
    assert done.returncode == 0, done.stderr
    assert watched == "[] False"
    assert set(_rows(done).values()) == {"skipped"}
    after = _files(base)
    after.pop(base / "pipeline" / "cnn_digits.lock"), before.pop(base / "pipeline" / "cnn_digits.lock")
    assert after == before


@pytest.mark.slow
def test_another_gate_judges_again_and_what_is_not_blessed_is_not_pushed(pushed):
    base, _ = pushed
    served = _files(base / "models")
    gates = [*GATES[1:], "accuracy >= 2"]
    done = run_main("train.pipeline_main", *_flags(base, gates=gates))
    assert done.returncode == 3, done.stdout + done.stderr
    rows = _rows(done)
    assert rows.pop("evaluate") == "refused"
    assert rows == {"data": "skipped", "train": "skipped", "export": "skipped"}
    assert "accuracy >= 2" in done.stdout  # the reason
    again, watched = _watched(*_flags(base, gates=gates))
    assert (again.returncode, watched) == (3, "[] False")
    assert "as before: not blessed" in again.stdout
    assert _files(base / "models") == served


@pytest.mark.slow
def test_another_configuration_trains_in_a_directory_of_its_own(pushed):
    base, _ = pushed
    before = _files(base / "runs") | _files(base / "models")
    done = run_main("train.pipeline_main", *_flags(base, "--config.optimizer.learning_rate=1e38"))
    assert done.returncode == 2
    assert "loss is not finite" in done.stderr  # the trainer's own words
    assert _rows(done)["train"] == "failed"
    assert len(list((base / "runs" / "cnn_digits").iterdir())) == 2
    after = _files(base / "runs") | _files(base / "models")
    assert after.items() >= before.items()


@pytest.mark.parametrize(
    ("flags", "environment", "told"),
    [
        (["--config=cnn_digits"], {}, "base"),
        (["--base=b"], {}, "config"),
        (["--config=cnn_digits", "--base=b", "--config.steps", "3"], {}, "--config.steps"),
        (["--config=cnn_digits", "--base=b", "stray"], {}, "stray"),
        (["--config=cnn_digits", "--base=b"], {"TF_CONFIG": '{"cluster": {"worker": []}}'}, "one machine"),
    ],
)
def test_a_mistake_is_one_line_and_makes_nothing(flags, environment, told, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "train.pipeline_main", *flags],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert told in done.stderr
    assert list(tmp_path.iterdir()) == []
