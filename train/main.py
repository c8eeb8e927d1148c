"""Trains a preset: `python -m train.main --config=gan_fashion --workdir=runs/gan_fashion`."""

import pathlib
import sys

from absl import flags

from zoo import binary
from zoo.errors import UserError

with binary.needs("train"):
    from ml_collections import config_flags

    from train import card, data, loop, preemption, presets
    from train import config as config_lib
    from train import strategy as strategy_lib

_CONFIG = config_flags.DEFINE_config_dataclass(
    "config",
    presets.load("gan_digits"),  # only its types matter: parse_flags requires --config
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
    """The steps to profile; (-1, -1) for none."""
    if not given:
        return -1, -1
    if len(given) == 2 and all(x.isdecimal() for x in given) and int(given[0]) < int(given[1]):
        return int(given[0]), int(given[1])
    raise UserError(f"--profile_steps={','.join(given)}: two steps are expected, for example 100,120")


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser; a wrong `--config.<field>` is answered with the legal ones.

    Raises:
        UserError: no preset, an unknown one, or a flag or field that is unknown or ill-typed.
    """
    config = _preset(argv)
    wrong = [a for a in argv[1:] if a.lstrip("-").startswith("config.")]
    legal = ", ".join(f"{k} ({t})" for k, t in config_lib.fields(config).items())
    for given in wrong:
        if given.lstrip("-").split("=")[0].rpartition(".")[2] in config_lib.FROM_DATA:
            raise UserError(f"{given}: the data decides this field; the fields are {legal}")
    try:
        return flags.FLAGS(argv)
    except (KeyError, flags.Error) as error:
        message = str(error).strip("\"'").splitlines()[0]
        if not wrong:
            raise UserError(message) from error
        raise UserError(f"{message} (given: {' '.join(wrong)}); the fields are {legal}") from error


def _preset(argv: list[str]) -> config_lib.Config:
    """The preset that `--config=name` or `--config name` asks for."""
    asked = None
    for flag, following in zip(argv, [*argv[1:], ""], strict=True):
        name, _, value = flag.partition("=")
        if name in ("--config", "-config"):
            asked = value or following
    if asked is None and not {"--help", "--helpfull", "--helpshort"} & set(argv):
        raise UserError(f"--config=<preset> is required; the presets are {', '.join(presets.names())}")
    return presets.load(asked or "gan_digits")


def run() -> None:
    """The console script. Exit status 143 (SIGTERM) or 130 (Ctrl-C) with everything saved, 138 for a worker
    that is gone: all of these are for a scheduler to start again."""
    try:
        binary.run(main, parse_flags)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except (preemption.Stopped, preemption.WorkerLost) as end:
        print(f"{end}", file=sys.stderr, flush=True)
        sys.exit(end.status)


if __name__ == "__main__":
    run()
