"""Trains a preset: `python -m train.main --config=gan_fashion --workdir=runs/gan_fashion`."""

import pathlib
import sys

from absl import flags

from zoo import binary
from zoo.errors import UserError

with binary.needs("train"):
    from train import card, config_flag, data, loop, preemption
    from train import strategy as strategy_lib

_CONFIG = config_flag.define()
flags.declare_key_flag("config")
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where the run is kept; one that holds a run already is resumed.",
    required=True,
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder with the data set's original files, for example <data_dir>/mnist/."
)
_STRATEGY = flags.DEFINE_string(
    "strategy", "auto", "auto, one_device, mirrored, multi_worker (by TF_CONFIG) or tpu."
)
_PROFILE_STEPS = flags.DEFINE_list(
    "profile_steps", [], "<first>,<last>: writes a profile of these steps for TensorBoard."
)
_TPU = flags.DEFINE_string("tpu", "", "Name or grpc:// address of the Cloud TPU; local on its own host.")


def main(_: list[str]) -> None:
    config = _CONFIG.value
    config.validate()
    workdir, profile = pathlib.Path(_WORKDIR.value), _profile(_PROFILE_STEPS.value)
    strategy = strategy_lib.make(_STRATEGY.value, _TPU.value)
    learnt = data.load(
        config.data.name, data_dir=_DATA_DIR.value, image_size=config.data.image_size or None
    )
    with preemption.listen() as signalled:
        trained = loop.train(config, workdir, learnt, strategy, signalled, profile)
    if strategy_lib.is_chief(strategy):
        card.write(workdir, trained, learnt)
        print(f"trained {config.name}: {workdir}/card.json, {workdir}/previews/")


def _profile(given: list[str]) -> tuple[int, int]:
    """The steps to profile."""
    if not given:
        return loop.NO_PROFILE
    if len(given) == 2 and all(x.isdecimal() for x in given) and int(given[0]) < int(given[1]):
        return int(given[0]), int(given[1])
    raise UserError(f"--profile_steps={','.join(given)}: two steps are expected, for example 100,120")


def run() -> None:
    """The console script. Exit status 143 (SIGTERM) or 130 (Ctrl-C) with everything saved, 138 for a worker
    that is gone: all of these are for a scheduler to start again."""
    try:
        binary.run(main, config_flag.parse)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except (preemption.Stopped, preemption.WorkerLost) as end:
        print(f"{end}", file=sys.stderr, flush=True)
        sys.exit(end.status)


if __name__ == "__main__":
    run()
