"""Exports a model for serving: `python -m serving.export_main --pretrained=gan_fashion --base_dir=models`."""

import json
import pathlib
from typing import Any

from absl import flags

from zoo import binary
from zoo.errors import UserError

_PRETRAINED = flags.DEFINE_string("pretrained", None, "A preset whose weights the zoo keeps.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Or a training run's work directory.")
_BASE_DIR = flags.DEFINE_string(
    "base_dir", None, "Where models are kept: writes <base_dir>/<preset>/<version>/.", required=True
)


def main(_: list[str]) -> None:
    workdir, preset = _WORKDIR.value, _PRETRAINED.value
    import zoo
    from serving import export
    from zoo import pretrained
    from zoo import workdir as workdir_lib

    if preset is not None and workdir is None:
        model, card = zoo.from_pretrained(preset), pretrained.card(preset)
    elif workdir is not None and preset is None:
        trained = workdir_lib.load(pathlib.Path(workdir))
        model, card = trained.model, {k: trained.config[k] for k in ("name", "family", "model")}
        path = pathlib.Path(workdir) / "card.json"
        if path.exists():
            card = read_card(path)
    else:
        raise UserError("exactly one of --pretrained=<preset> and --workdir=<dir> is expected")
    print(export.export(model, pathlib.Path(_BASE_DIR.value), card["name"], card))


def read_card(path: pathlib.Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(card, dict) or not isinstance(card.get("name"), str):
        raise UserError(f"{path} is no model card: expected a JSON object with a name")
    return card


def run() -> None:
    """The console script."""
    binary.run(main)


if __name__ == "__main__":
    run()
