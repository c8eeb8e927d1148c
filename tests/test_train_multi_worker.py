"""Two real worker processes on this machine learn what one device learns."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest
from binaries import losses

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Batch statistics and two optimizers; text. Two replicas in one process learn the same in every family:
# test_train_loop.
SIZES = {
    "gan_digits": ["--config.model.channels=8", "--config.model.latent_dim=8"],
    "rnn_lyrics": ["--config.data.name=text:LICENSE", "--config.data.length=16", "--config.model.units=8"],
}
STEPS = ["steps=8", "steps_per_execution=3", "log_every=2", "eval_every=4", "preview_every=8"]


def _ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _start(preset, workdir, strategy, environment):
    flags = [f"--config={preset}", f"--workdir={workdir}", f"--strategy={strategy}"]
    flags += [f"--config.{s}" for s in [*STEPS, "checkpoint_every=4"]]
    return subprocess.Popen(
        [sys.executable, "-m", "train.main", *flags, *SIZES[preset]],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(SIZES))
def test_two_workers_learn_what_one_device_learns(preset, tmp_path):
    alone = _start(preset, tmp_path / "one", "one_device", {})
    output, _ = alone.communicate(timeout=200)
    assert alone.returncode == 0, output

    cluster = {"worker": [f"127.0.0.1:{port}" for port in _ports(2)]}
    workers = [
        _start(
            preset,
            tmp_path / "two",
            "auto",
            {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}})},
        )
        for i in range(2)
    ]
    outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(outputs)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 6  # four lines of losses, two evaluations
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    assert (tmp_path / "two" / "checkpoints" / "ckpt-8.index").exists()
