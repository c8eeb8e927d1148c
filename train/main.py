"""Trains a preset: `python -m train.main --config=gan_fashion --workdir=runs/gan_fashion`."""

import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from train import card, data, loop, presets
from train import config as config_lib
from train import strategy as strategy_lib
from zoo import binary
from zoo.errors import UserError

_CONFIG = config_flags.DEFINE_config_dataclass(
    "config",
    presets.load("gan_digits"),
    "Preset, with any of its fields changed by --config.<field>=<value>.",
    parse_fn=presets.load,
)
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
    images = data.load(
        config.data.name, data_dir=_DATA_DIR.value, image_size=config.data.image_size or None
    )
    loop.train(config, workdir, images, strategy)
    if strategy_lib.is_chief(strategy):
        card.write(workdir, images)
        print(f"trained {config.name}: {workdir}/card.json, {workdir}/previews/")


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with one line that lists the legal fields for a wrong `--config.<field>`."""
    try:
        return flags.FLAGS(argv)
    except (KeyError, flags.Error) as error:
        message = str(error).strip("\"'").splitlines()[0]
        wrong = [a for a in argv[1:] if a.lstrip("-").startswith("config.")]
        if not wrong or "unknown preset" in message:
            raise UserError(message) from error
        legal = ", ".join(f"{k} ({t})" for k, t in config_lib.fields(_preset(argv)).items())
        raise UserError(f"{message} (given: {' '.join(wrong)}); the fields are {legal}") from error


def _preset(argv: list[str]) -> config_lib.Config:
    named = [a.split("=", 1)[1] for a in argv if a.lstrip("-").startswith("config=")]
    return presets.load(named[-1] if named else "gan_digits")


def run() -> None:
    """The console script."""
    try:
        binary.run(main, parse_flags)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
