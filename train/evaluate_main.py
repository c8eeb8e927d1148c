"""Judges a model on held-out data: `python -m train.evaluate_main --config=gan_fashion --workdir=runs/x`."""

import io
import json
import pathlib
from typing import Any

from absl import flags

import zoo
from zoo import binary, pretrained
from zoo.errors import UserError
from zoo.files import atomic_write

with binary.needs("train"):
    from PIL import Image

    from train import config as config_lib
    from train import data, evaluate, presets
    from zoo import base
    from zoo import workdir as workdir_lib

_PREVIEWS = (".png", ".txt", ".mid")
_PREVIEW_SIDE = 640  # pixels: a look at the model, not its whole output, goes into the repository

_CONFIG = flags.DEFINE_string(
    "config", None, "Preset whose data set to judge on; default: the one the model was trained on."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "A training run's work directory.")
_PRETRAINED = flags.DEFINE_string("pretrained", None, "Or a preset whose weights the zoo keeps.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder with the data set's original files.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "JSON file; default: <workdir>/evaluation.json or evaluation_<preset>.json."
)
_KEEP = flags.DEFINE_boolean(
    "keep", False, "Keep the weights and a card with these metrics in zoo/weights/<preset>/."
)


def main(_: list[str]) -> None:
    workdir, preset = _WORKDIR.value, _PRETRAINED.value
    if _KEEP.value and workdir is None:
        raise UserError("--keep keeps the weights of a --workdir")
    if preset is not None and workdir is None:
        card, model = pretrained.card(preset), zoo.from_pretrained(preset)
        output = pathlib.Path(_OUTPUT.value or f"evaluation_{preset}.json")
        source = presets.load(_CONFIG.value or preset).data
    elif workdir is not None and preset is None:
        trained = workdir_lib.load(pathlib.Path(workdir))
        model, card = trained.model, trained.config
        output = pathlib.Path(_OUTPUT.value or f"{workdir}/evaluation.json")
        source = (
            presets.load(_CONFIG.value)
            if _CONFIG.value
            else config_lib.read(pathlib.Path(workdir, "config.json"))
        ).data
    else:
        raise UserError("exactly one of --workdir=<dir> and --pretrained=<preset> is expected")
    held_out = data.load(
        source.name, data_dir=_DATA_DIR.value, image_size=source.image_size or None
    )
    if _KEEP.value:
        pretrained.round_weights(model)
    report = evaluate.evaluate(model, card["family"], held_out)
    print(evaluate.table(report))
    atomic_write(output, (json.dumps(report, indent=2) + "\n").encode())
    print(f"wrote {output}")
    if _KEEP.value and workdir is not None:
        print(f"kept {_keep(model, report, pathlib.Path(workdir))}")


def _keep(model: base.Model, report: dict[str, Any], workdir: pathlib.Path) -> pathlib.Path:
    path = workdir / "card.json"
    if not path.exists():
        raise UserError(f"{workdir} has no card.json: its run has not reached its last step")
    card = workdir_lib.read_card(path)
    card["metrics"] = report["metrics"]
    if "real" in report:
        card["metrics_of_real_images"] = report["real"]
        card["judged_images"] = {"generated": report["n"], "test": report["n_test"]}
    card["evaluation"] = f"python -m train.evaluate_main --pretrained={card['name']} --data_dir=<dir>"
    return pretrained.keep(model, card, _showpiece(workdir, model.showpiece))


def _showpiece(workdir: pathlib.Path, name: str) -> dict[str, bytes]:
    """The newest preview of that name, by what it is to be called. Others show the data set's own examples,
    which are not ours to publish."""
    kept = {}
    for ending in _PREVIEWS if name else ():
        previews = sorted((workdir / "previews").glob(f"step_*_{name}{ending}"))
        if previews:
            content = previews[-1].read_bytes()
            kept[f"preview{ending}"] = _small(content) if ending == ".png" else content
    return kept


def _small(png: bytes) -> bytes:
    preview = Image.open(io.BytesIO(png))
    preview.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
    encoded = io.BytesIO()
    preview.save(encoded, "PNG", optimize=True)
    return encoded.getvalue()


def run() -> None:
    """The console script."""
    binary.run(main)


if __name__ == "__main__":
    run()
