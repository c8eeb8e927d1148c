"""Exports a model for serving: `python -m serving.export_main --pretrained=gan_fashion --base_dir=models`."""

import pathlib

from absl import flags

from zoo import binary
from zoo.errors import UserError

_PRETRAINED = flags.DEFINE_string("pretrained", None, "A preset whose weights the zoo keeps.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Or a training run's work directory.")
_BASE_DIR = flags.DEFINE_string(
    "base_dir", None, "Where models are kept: writes <base_dir>/<preset>/<version>/.", required=True
)


def main(_: list[str]) -> None:
    if (_PRETRAINED.value is None) == (_WORKDIR.value is None):
        raise UserError("exactly one of --pretrained=<preset> and --workdir=<dir> is expected")
    import json

    import zoo
    from serving import export
    from zoo import pretrained
    from zoo import workdir as workdir_lib

    if _PRETRAINED.value is not None:
        model, card = zoo.from_pretrained(_PRETRAINED.value), pretrained.card(_PRETRAINED.value)
    else:
        trained = workdir_lib.load(pathlib.Path(_WORKDIR.value))
        model, card = trained.model, {k: trained.config[k] for k in ("name", "family", "model")}
        path = pathlib.Path(_WORKDIR.value) / "card.json"
        if path.exists():
            card = json.loads(path.read_text())
    print(export.export(model, pathlib.Path(_BASE_DIR.value), card["name"], card))


def run() -> None:
    """The console script."""
    binary.run(main)


if __name__ == "__main__":
    run()
