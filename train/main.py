"""Trains a preset: `python -m train.main --config=gan_fashion --workdir=runs/gan_fashion`."""

import pathlib
import sys

from absl import flags

from zoo import binary

with binary.needs("train"):
    from train import card, config_flag, data, loop
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
    "strategy", "auto", "auto, one_device, mirrored or multi_worker (by TF_CONFIG)."
)


def main(_: list[str]) -> None:
    config = _CONFIG.value
    config.validate()
    workdir = pathlib.Path(_WORKDIR.value)
    strategy = strategy_lib.make(_STRATEGY.value)
    learnt = data.load(
        config.data.name, data_dir=_DATA_DIR.value, image_size=config.data.image_size or None
    )
    trained = loop.train(config, workdir, learnt, strategy)
    if strategy_lib.is_chief(strategy):
        card.write(workdir, trained, learnt)
        print(f"trained {config.name}: {workdir}/card.json, {workdir}/previews/")


def run() -> None:
    """The console script."""
    try:
        binary.run(main, config_flag.parse)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
