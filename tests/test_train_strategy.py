"""Strategies by name; TF_CONFIG mistakes; two real workers that share one batch."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from train import strategy
from train.data.images import Images
from train.data.pipeline import Augment, train_batches
from zoo.errors import UserError

_CLUSTER = {"worker": ["localhost:1111", "localhost:2222"]}


@pytest.fixture(autouse=True)
def _no_tf_config(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)


def test_one_device():
    made = strategy.make("one_device")
    assert isinstance(made, tf.distribute.OneDeviceStrategy)
    assert strategy.shard(made) == (1, 0, 1)
    assert strategy.is_chief(made)


def test_mirrored_uses_every_device():
    made = strategy.make("mirrored")
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    assert isinstance(made, tf.distribute.MirroredStrategy)
    assert strategy.shard(made) == (len(devices), 0, len(devices))
    assert strategy.is_chief(made)


@pytest.mark.parametrize("tf_config", [None, "", "{}", '{"task": {"type": "chief", "index": 0}}'])
def test_auto_without_a_cluster_stays_on_this_machine(monkeypatch, tf_config):
    if tf_config is not None:
        monkeypatch.setenv("TF_CONFIG", tf_config)
    several = len(tf.config.list_logical_devices("GPU")) > 1
    expected = tf.distribute.MirroredStrategy if several else tf.distribute.OneDeviceStrategy
    assert isinstance(strategy.make("auto"), expected)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match=r"'mirorred' \(did you mean 'mirrored'\?\)") as e:
        strategy.make("mirorred")
    for name in strategy.NAMES:
        assert name in str(e.value)


@pytest.mark.parametrize(
    ("tf_config", "message"),
    [
        (None, "needs the environment variable TF_CONFIG"),
        ("", "needs the environment variable TF_CONFIG"),
        ("{'cluster': 1}", "not valid JSON"),
        ("[]", "must be an object"),
        ('{"cluster": []}', "must be an object"),
        ({"cluster": {"ps": ["a:1"]}}, r"no cluster\.worker"),
        ({"cluster": {"worker": []}}, r"no cluster\.worker"),
        ({"cluster": {"worker": "a:1"}}, "expected a list of host:port"),
        ({"cluster": _CLUSTER}, "task is None"),
        ({"cluster": _CLUSTER, "task": {"type": "worker"}}, "task is"),
        ({"cluster": _CLUSTER, "task": {"type": "ps", "index": 0}}, r"task\.type is 'ps'"),
        ({"cluster": _CLUSTER, "task": {"type": "chief", "index": 0}}, r"task\.type is 'chief'"),
        ({"cluster": _CLUSTER, "task": {"type": "worker", "index": 2}}, r"expected 0\.\.1"),
        ({"cluster": _CLUSTER, "task": {"type": "worker", "index": -1}}, r"expected 0\.\.1"),
        ({"cluster": _CLUSTER, "task": {"type": "worker", "index": "x"}}, r"expected 0\.\.1"),
    ],
)
def test_a_wrong_tf_config_is_one_clear_error(monkeypatch, tf_config, message):
    if tf_config is not None:
        text = tf_config if isinstance(tf_config, str) else json.dumps(tf_config)
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match=message) as e:
        strategy.make("multi_worker")
    assert "\n" not in str(e.value)


def test_auto_reports_a_wrong_cluster_instead_of_ignoring_it(monkeypatch):
    task = {"type": "worker", "index": 5}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": _CLUSTER, "task": task}))
    with pytest.raises(UserError, match=r"task\.index is 5"):
        strategy.make("auto")


_WORKER = """
import json
import numpy as np
from train import strategy
made = strategy.make("auto")
from train.data.images import Images
from train.data.pipeline import Augment, train_batches
shard = strategy.shard(made)
images = Images(np.zeros([20, 4, 4, 1], np.uint8), np.arange(20, dtype=np.int32))
batches = iter(made.distribute_datasets_from_function(lambda _: train_batches(
    images, batch_size=8, seed=3, augment=Augment(), shard=shard)))
labels = [made.experimental_local_results(next(batches)[1])[0].numpy().tolist() for _ in range(3)]
print("RESULT " + json.dumps([strategy.is_chief(made), list(shard), labels]))
"""


@pytest.mark.slow
def test_two_workers_share_the_batches_of_one_device():
    sockets = [socket.socket() for _ in range(2)]
    for s in sockets:
        s.bind(("localhost", 0))
    hosts = [f"localhost:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    processes = []
    for index in range(2):
        # The index as a string, as some schedulers write it.
        task = {"type": "worker", "index": index if index else "0"}
        config = json.dumps({"cluster": {"worker": hosts}, "task": task})
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", _WORKER],
                env=os.environ | {"TF_CONFIG": config, "CUDA_VISIBLE_DEVICES": "-1"},
                cwd=pathlib.Path(__file__).resolve().parents[1],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    results = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=120)
            lines = [line for line in out.splitlines() if line.startswith("RESULT ")]
            assert lines, err[-2000:]
            results.append(json.loads(lines[0].removeprefix("RESULT ")))
    finally:
        for process in processes:
            process.kill()
    (chief, range_0, labels_0), (other, range_1, labels_1) = results
    assert (chief, other) == (True, False)
    assert (range_0, range_1) == ([2, 0, 1], [2, 1, 1])
    images = Images(np.zeros([20, 4, 4, 1], np.uint8), np.arange(20, dtype=np.int32))
    whole = iter(train_batches(images, batch_size=8, seed=3, augment=Augment()))
    for part_0, part_1 in zip(labels_0, labels_1, strict=True):
        assert part_0 + part_1 == next(whole)[1].numpy().tolist()
