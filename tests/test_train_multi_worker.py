"""Two real worker processes on this machine: what they learn, and what one does when the other is gone."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import tiny
from binaries import ROOT, losses

from train import config as config_lib
from train import data, loop, presets, strategy


def _cluster():
    """TF_CONFIG of two workers."""
    sockets = [socket.socket() for _ in range(2)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    hosts = [f"127.0.0.1:{opened.getsockname()[1]}" for opened in sockets]
    for opened in sockets:
        opened.close()
    tasks = [{"type": "worker", "index": i} for i in range(2)]
    return [json.dumps({"cluster": {"worker": hosts}, "task": task}) for task in tasks]


def _start(command, tf_config, **environment):
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CONFIG": tf_config, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _ends(workers):
    """Exit status and output of each."""
    outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    return [worker.returncode for worker in workers], outputs


# Two optimizers and batch statistics; text; draws inside the step. Two replicas in one process learn the same
# in every family: test_train_loop.
FAMILIES = ("gan", "rnn", "vae")


@pytest.mark.slow
def test_two_workers_learn_what_one_device_learns_and_one_of_them_writes(tmp_path):
    # The second worker would write elsewhere, if it wrote.
    (tmp_path / "temporary").mkdir()
    places = [{}, {"TMPDIR": str(tmp_path / "temporary")}]
    workers = [
        _start(["tests/worker_session.py", tmp_path / f"worker{i}", *FAMILIES], tf_config, **places[i])
        for i, tf_config in enumerate(_cluster())
    ]
    for family in FAMILIES:
        loop.train(
            tiny.config(family), tmp_path / "one" / family, tiny.DATA[family](), strategy.make("one_device")
        )
    status, outputs = _ends(workers)
    assert status == [0, 0], "\n".join(outputs)
    for family in FAMILIES:
        one, two = losses(tmp_path / "one" / family), losses(tmp_path / "worker0" / family)
        assert len(one) == len(two) == 22  # twenty steps, two evaluations
        for a, b in zip(one, two, strict=True):
            assert a == pytest.approx(b, abs=1e-4), family
        written = {p.name for p in (tmp_path / "worker0" / family).iterdir() if "tfevents" not in p.name}
        spaces = {"projector", "projector_config.pbtxt"} if family != "gan" else set()  # it shows none
        assert written == {"config.json", "checkpoints", "metrics.jsonl", "previews", *spaces}
        assert len(list((tmp_path / "worker0" / family).glob("*tfevents*"))) == 1
    assert not (tmp_path / "worker1").exists()
    assert not list((tmp_path / "temporary").iterdir())


CHANGES = {"log_every": 5, "eval_every": 120, "preview_every": 120, "checkpoint_every": 10}
CHANGES |= {"steps": 120, "steps_per_execution": 4}


def _pair(workdir):
    flags = ["--config=cnn_digits", "--config.model.stem=4", "--config.model.widths=(8,)"]
    flags += [f"--config.{name}={value}" for name, value in CHANGES.items()]
    command = ["-m", "train.main", *flags, f"--workdir={workdir}"]
    return [_start(command, tf_config) for tf_config in _cluster()]


def _wait_for(workdir, step):
    deadline = time.monotonic() + 200
    metrics = workdir / "metrics.jsonl"
    while not metrics.exists() or not metrics.read_text() or losses(workdir)[-1]["step"] < step:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_workers_stop_together_and_come_back_after_one_was_killed(tmp_path):
    workdir = tmp_path / "run"

    # SIGTERM to one of them: both stop after the same step, which is saved.
    workers = _pair(workdir)
    _wait_for(workdir, 5)
    workers[1].send_signal(signal.SIGTERM)
    status, outputs = _ends(workers)
    assert status == [143, 143], "\n".join(outputs)
    steps = [re.search(r"stopped by SIGTERM after step (\d+)", output)[1] for output in outputs]
    assert steps[0] == steps[1]
    assert (workdir / "checkpoints" / f"ckpt-{steps[0]}.index").exists()

    # kill -9 of the one that writes: the other one says so, in one line, and ends.
    workers = _pair(workdir)
    _wait_for(workdir, int(steps[0]) + 20)
    workers[0].kill()
    status, outputs = _ends(workers)
    assert status == [-signal.SIGKILL, 138]
    assert "Traceback" not in outputs[1]
    (told,) = [line for line in outputs[1].splitlines() if "a worker of the cluster is gone" in line]
    assert str(workdir / "checkpoints") in told
    reached = losses(workdir)[-1]["step"]
    saved = max(int(p.stem.split("-")[1]) for p in (workdir / "checkpoints").glob("ckpt-*.index"))
    assert reached - saved <= CHANGES["checkpoint_every"]

    # Both are there again: the run ends as one without interruptions does.
    status, outputs = _ends(_pair(workdir))
    assert status == [0, 0], "\n".join(outputs)
    alone: config_lib.Config = presets.load("cnn_digits")
    alone.model.stem, alone.model.widths = 4, (8,)
    for name, value in CHANGES.items():
        setattr(alone, name, value)
    loop.train(alone, tmp_path / "alone", data.load("digits"), strategy.make("one_device"))
    for a, b in zip(losses(workdir), losses(tmp_path / "alone"), strict=True):
        assert a == pytest.approx(b, abs=1e-2)
