"""Exports a model for serving: `python -m serving.export_main --pretrained=gan_fashion --base_dir=models`."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from absl import flags

import zoo
from zoo import binary, model_card, pretrained
from zoo.errors import UserError

if TYPE_CHECKING:
    from zoo import base

_PRETRAINED = flags.DEFINE_string("pretrained", None, "A preset whose weights the zoo keeps.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Or a training run's work directory.")
_BEST = flags.DEFINE_boolean(
    "best", False, "Of the work directory the checkpoint that config.keep_best kept, not the newest one."
)
_GATYS = flags.DEFINE_boolean(
    "gatys", False, "Or style transfer by optimisation, which needs nothing but VGG19's weights."
)
_VGG19_WEIGHTS = flags.DEFINE_string(
    "vgg19_weights", "imagenet", "For --gatys: a .h5 file of VGG19's weights; default: Keras' cache."
)
_BASE_DIR = flags.DEFINE_string(
    "base_dir", None, "Where models are kept: writes <base_dir>/<preset>/<version>/.", required=True
)


def main(_: list[str]) -> None:
    workdir, preset = _WORKDIR.value, _PRETRAINED.value
    if [preset is not None, workdir is not None, _GATYS.value].count(True) != 1:
        raise UserError("exactly one of --pretrained=<preset>, --workdir=<dir> and --gatys is expected")
    if _BEST.value and workdir is None:
        raise UserError("--best is for a --workdir")
    model: base.Exportable
    if preset is not None:
        model, card = zoo.from_pretrained(preset), pretrained.card(preset)
        samples = pretrained.samples(preset)
    elif workdir is not None:
        # These load TensorFlow: mistakes in the flags are told before.
        from zoo import workdir as workdir_lib

        trained = workdir_lib.load(pathlib.Path(workdir), _BEST.value)
        samples = workdir_lib.showpiece(pathlib.Path(workdir), trained.model.showpiece)
        model, card = trained.model, {k: trained.config[k] for k in ("name", "family", "model")}
        card["config_hash"] = model_card.config_hash(trained.config)
        path = pathlib.Path(workdir) / "card.json"
        if path.exists():
            card = workdir_lib.read_card(path)
    else:
        from zoo import gatys

        samples = {}
        model = gatys.Model(weights=_VGG19_WEIGHTS.value)
        card = {"name": "gatys", "family": "gatys", "model": dataclasses.asdict(model.config)}
        card["config_hash"] = model_card.config_hash(card["model"])
    from serving import export

    print(export.export(model, pathlib.Path(_BASE_DIR.value), card["name"], card, samples))


def run() -> None:
    """The console script."""
    with binary.needs("serve"):
        binary.run(main)


if __name__ == "__main__":
    run()
