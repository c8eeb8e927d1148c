"""`--config=<preset> --config.<field>=<value>`, for the binaries that take a whole configuration."""

from absl import flags
from ml_collections import config_flags

from train import config as config_lib
from train import presets
from zoo.errors import UserError


def define() -> flags.FlagHolder:
    """Defines the flag; `parse` must read the command line."""
    return config_flags.DEFINE_config_dataclass(
        "config",
        presets.load("gan_digits"),  # only its types matter: parse requires --config
        "Preset, with any of its fields changed by --config.<field>=<value>.",
        parse_fn=presets.load,
    )


def parse(argv: list[str]) -> list[str]:
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


def asked(argv: list[str]) -> str | None:
    """The preset that `--config=name` or `--config name` asks for."""
    found = None
    for flag, following in zip(argv, [*argv[1:], ""], strict=True):
        name, _, value = flag.partition("=")
        if name in ("--config", "-config"):
            found = value or following
    return found


def _preset(argv: list[str]) -> config_lib.Config:
    name = asked(argv)
    if name is None and not {"--help", "--helpfull", "--helpshort"} & set(argv):
        raise UserError(f"--config=<preset> is required; the presets are {', '.join(presets.names())}")
    return presets.load(name or "gan_digits")
