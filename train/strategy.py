"""From a strategy's name to a tf.distribute strategy, with TF_CONFIG checked first."""

import difflib
import json
import os
import socket
from typing import Any

import tensorflow as tf

from train.data.dataset import Shard
from zoo.errors import UserError

NAMES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")


def make(name: str, tpu: str = "") -> tf.distribute.Strategy:
    """Makes the strategy called `name`; call it before any other TensorFlow operation.

    - `one_device`: the first GPU, else the CPU.
    - `mirrored`: all GPUs of this machine; without any, all logical CPUs.
    - `multi_worker`: the cluster that the environment variable TF_CONFIG describes, as Kubernetes
      training operators and Vertex AI set it.
    - `tpu`: the cores of a Cloud TPU; `tpu` is its name, its `grpc://` address, or "local" on its own host.
    - `auto`: `multi_worker` if TF_CONFIG names workers, else `mirrored` if there is more than one
      GPU, else `one_device`.

    Raises:
        UserError: the name is unknown, TF_CONFIG is missing or wrong where it is needed, or there is no TPU.
    """
    if name == "auto":
        # TF_CONFIG comes first: a multi-worker strategy must be made before devices are listed.
        if "worker" in _tf_config().get("cluster", {}):
            name = "multi_worker"
        else:
            name = "mirrored" if len(tf.config.list_logical_devices("GPU")) > 1 else "one_device"
    if name == "multi_worker":
        _check_cluster(_tf_config())
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([d.name for d in devices])
    if name == "one_device":
        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        return tf.distribute.OneDeviceStrategy(f"/{kind}:0")
    if name == "tpu":
        return _tpu(tpu)
    if name == "parameter_server":
        raise UserError(
            "strategy 'parameter_server' is refused: its workers update the weights in the order they happen"
            " to be ready, so no run could be repeated; multi_worker is the strategy for several machines"
        )
    close = difflib.get_close_matches(name, NAMES, n=1)
    raise UserError(
        f"unknown strategy '{name}'{f' (did you mean {close[0]!r}?)' if close else ''}; "
        f"expected one of: {', '.join(NAMES)}"
    )


def _tpu(address: str) -> tf.distribute.Strategy:
    try:
        if address.startswith("grpc://"):
            # TensorFlow would wait for minutes for one that does not answer.
            host, _, port = address.removeprefix("grpc://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(address)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, ValueError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"strategy 'tpu': there is no TPU at --tpu={address!r} ({reason}); its name or grpc:// address is"
            " expected"
        ) from error


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """True in the one process that writes checkpoints, metrics and previews."""
    return _worker(strategy)[0] == 0


def shard(strategy: tf.distribute.Strategy) -> Shard:
    """Which replicas this process feeds, in the order of `replica_id_in_sync_group`.

    Worker 1 of 2 with four GPUs each: Shard(replicas=8, first=4, local=4).
    """
    index, workers = _worker(strategy)
    local = strategy.num_replicas_in_sync // workers
    return Shard(strategy.num_replicas_in_sync, index * local, local)


def _worker(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """(index of this worker, number of workers); a chief comes before all workers."""
    resolver = strategy.cluster_resolver
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or resolver is None:
        return 0, 1
    jobs = resolver.cluster_spec().as_dict()
    chiefs, workers = len(jobs.get("chief", ())), len(jobs.get("worker", ()))
    index = resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)
    return index, max(chiefs + workers, 1)


def _tf_config() -> dict[str, Any]:
    """TF_CONFIG as a dict, empty if the variable is not set."""
    text = os.environ.get("TF_CONFIG", "").strip() or "{}"
    try:
        config = json.loads(text)
    except ValueError as e:
        raise UserError(f"TF_CONFIG is not valid JSON ({e}): {text:.80}") from e
    if not isinstance(config, dict) or not isinstance(config.get("cluster", {}), dict):
        raise UserError(f"TF_CONFIG must be an object with an object 'cluster': {text:.80}")
    return config


def _check_cluster(config: dict[str, Any]) -> None:
    """Raises UserError unless `config` names workers and this process's place among them."""
    if not config:
        raise UserError(
            "strategy 'multi_worker' needs the environment variable TF_CONFIG, for example "
            '{"cluster": {"worker": ["host0:12345", "host1:12345"]}, '
            '"task": {"type": "worker", "index": 0}}'
        )
    cluster = config.get("cluster", {})
    if not cluster.get("worker"):
        raise UserError("TF_CONFIG has no cluster.worker: list the workers' host:port there")
    for job in ("chief", "worker"):
        hosts = cluster.get(job, [])
        if not isinstance(hosts, list) or not all(isinstance(h, str) for h in hosts):
            raise UserError(f"TF_CONFIG: cluster.{job} is {hosts!r}; expected a list of host:port")
    task = config.get("task")
    if not isinstance(task, dict) or "type" not in task or "index" not in task:
        raise UserError(f"TF_CONFIG: task is {task!r}; expected an object with 'type' and 'index'")
    hosts = cluster.get(task["type"], []) if task["type"] in ("chief", "worker") else []
    if not hosts:
        raise UserError(
            f"TF_CONFIG: task.type is {task['type']!r}; expected 'worker' or 'chief', as listed in "
            f"cluster"
        )
    index = str(task["index"])  # some schedulers write the index as a string
    if not index.isdecimal() or int(index) >= len(hosts):
        raise UserError(
            f"TF_CONFIG: task.index is {task['index']!r}; expected 0..{len(hosts) - 1}, since "
            f"cluster.{task['type']} has {len(hosts)} entries"
        )
