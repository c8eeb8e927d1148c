"""Writes what trains a preset on several machines of a Kubernetes cluster.

    python -m train.cluster_main --config=gan_fashion --workers=4 --gpus=8 --image=registry/atelier-train:1 \\
        --storage=<claim> [--target=indexed_job|training_operator] > train.yaml [-- --config.steps=20000 ...]

The claim is mounted by every worker at /storage: the data set's files in /storage/data, the run in
/storage/runs/<preset>. What stands after -- goes to train.main; a configuration that cannot work, or a batch
that the replicas cannot share, is told here and not by the cluster. The manifest goes to standard output.
"""

import sys

from absl import flags

from zoo import binary
from zoo.errors import UserError

with binary.needs("train"):
    from train import cluster, config_flag

_CONFIG = config_flag.define()
flags.declare_key_flag("config")
_TARGET = flags.DEFINE_enum("target", "indexed_job", list(cluster.TARGETS), "Which kind of job.")
_NAME = flags.DEFINE_string("name", None, "Of every object; default: train-<preset>.")
_IMAGE = flags.DEFINE_string("image", None, "The trainer's image: serving/deploy/Dockerfile.", required=True)
_STORAGE = flags.DEFINE_string(
    "storage", None, "PersistentVolumeClaim (ReadWriteMany) for data and runs.", required=True
)
_WORKERS = flags.DEFINE_integer("workers", 2, "Machines.", lower_bound=1)
_GPUS = flags.DEFINE_integer("gpus", 0, "GPUs of each; 0 trains on CPUs.", lower_bound=0)
_CPU = flags.DEFINE_string("cpu", "4", "CPUs that each worker asks for.")
_MEMORY = flags.DEFINE_string("memory", "16Gi", "Memory of each worker.")

_OWN = ("--workdir", "--data_dir", "--strategy", "--config")  # what the manifest sets itself

_passed: list[str] = []  # to train.main


def main(_: list[str]) -> None:
    config = _CONFIG.value
    config.validate()
    replicas = _WORKERS.value * max(_GPUS.value, 1)
    if config.data.batch_size % replicas:
        raise UserError(
            f"config.data.batch_size={config.data.batch_size} cannot be shared by {replicas} replicas"
            f" ({_WORKERS.value} workers of {max(_GPUS.value, 1)}): choose a multiple of {replicas}"
        )
    preset = config_flag.asked(sys.argv)
    options = cluster.Options(
        name=_NAME.value or f"train-{preset}".lower().replace("_", "-").replace(".", "-"),
        image=_IMAGE.value,
        storage=_STORAGE.value,
        arguments=(
            f"--config={preset}",
            f"--workdir={cluster.STORAGE}/runs/{config.name}",
            f"--data_dir={cluster.STORAGE}/data",
            *_passed,
        ),
        workers=_WORKERS.value,
        gpus=_GPUS.value,
        cpu=_CPU.value,
        memory=_MEMORY.value,
    )
    options.validate()
    print(cluster.TARGETS[_TARGET.value](options), end="")


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser; what stands after -- is the trainer's; its `--config.<field>` are read here too."""
    cut = argv.index("--") if "--" in argv else len(argv)
    own = argv[:cut]
    for given in [a for a in own if a.startswith("--config.")] + argv[cut + 1 :]:
        if not given.startswith("--") or given.partition("=")[0] in _OWN:
            ours = ', '.join(_OWN)
            raise UserError(f"{given}: after --, a flag of train.main is expected, but none of {ours}")
        _passed.append(given)
    return config_flag.parse(own + [a for a in argv[cut + 1 :] if a.startswith("--config.")])


def run() -> None:
    """The console script."""
    binary.run(main, parse_flags)


if __name__ == "__main__":
    run()
