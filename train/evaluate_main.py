"""Judges a model on held-out data, and an export so that it may reach users.

    python -m train.evaluate_main --workdir=runs/gan_fashion --data_dir=data
    python -m train.evaluate_main --export=candidates/gan_fashion/1 --base_dir=models --data_dir=data

Exit status of the second: 0 blessed, 3 not blessed, 2 a mistake.
"""

import pathlib
import sys
from typing import Any

from absl import flags

import zoo
from zoo import binary, blessing, model_card, pretrained
from zoo.errors import UserError
from zoo.files import atomic_write, write_json

with binary.needs("train"):
    from train import bless, data, evaluate, presets, served
    from train import config as config_lib
    from train.data.dataset import DataSet
    from zoo import base
    from zoo import workdir as workdir_lib

NOT_BLESSED = 3

_CONFIG = flags.DEFINE_string(
    "config", None, "Preset whose data set to judge on; default: the one the model was trained on."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "A training run's work directory.")
_PRETRAINED = flags.DEFINE_string("pretrained", None, "Or a preset whose weights the zoo keeps.")
_EXPORT = flags.DEFINE_string(
    "export",
    None,
    "Or an export, <folder>/<name>/<version>: it is judged as a server answers with it, and blessed if it"
    " passes its gates.",
)
_BASE_DIR = flags.DEFINE_string(
    "base_dir", None, "With --export: the models that are served; `last` in a gate is their newest blessed."
)
_GATE = flags.DEFINE_multi_string(
    "gate",
    [],
    "With --export: '<metric> <=|>= <limit>', for example 'accuracy >= last - 0.005'; beside the preset's"
    " gates, or in place of the one on the same metric and kind of limit. May be repeated.",
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder with the data set's original files.")
_STYLE_DIR = flags.DEFINE_string(
    "style_dir", None, "Of a stylizer: folder of its paintings; default: where they were in training."
)
_VGG19_WEIGHTS = flags.DEFINE_string(
    "vgg19_weights", None, "Of a stylizer: VGG19's .h5 file; default: where it was in training."
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "JSON file; default: <workdir>/evaluation.json or evaluation_<preset>.json; none for an export, whose"
    " blessing.json has the figures.",
)
_KEEP = flags.DEFINE_boolean(
    "keep",
    False,
    "Keep the weights of a --workdir and a card with these metrics in zoo/weights/<preset>/; of a"
    " --pretrained the card, brought up to date.",
)


def main(_: list[str]) -> None:
    workdir, preset, export = _WORKDIR.value, _PRETRAINED.value, _EXPORT.value
    if [workdir, preset, export].count(None) != 2:
        raise UserError(
            "exactly one of --workdir=<dir>, --pretrained=<preset> and --export=<dir> is expected"
        )
    if _KEEP.value and export is not None:
        raise UserError("--keep keeps what was found of a --workdir or a --pretrained, not of an --export")
    if _KEEP.value and _CONFIG.value is not None and _CONFIG.value != preset:
        raise UserError("--keep keeps what was found on the model's own data; leave --config out")
    if export is None and (_GATE.value or _BASE_DIR.value is not None):
        raise UserError("--gate and --base_dir are about an --export: only an export is blessed")
    if export is not None:
        _bless(pathlib.Path(export))
    elif workdir is not None:
        _of_workdir(pathlib.Path(workdir))
    elif preset is not None:
        _of_pretrained(preset)


def _of_pretrained(preset: str) -> None:
    model, card = zoo.from_pretrained(preset), pretrained.card(preset)
    source = presets.load(_CONFIG.value or preset).data
    output = pathlib.Path(_OUTPUT.value or f"evaluation_{preset}.json")
    report = _judge(model, card["family"], source, output)
    if _KEEP.value:
        print(f"kept {pretrained.keep_card(_measured(card, report, model))}")


def _of_workdir(workdir: pathlib.Path) -> None:
    trained = workdir_lib.load(workdir)
    config = presets.load(_CONFIG.value) if _CONFIG.value else config_lib.read(workdir / "config.json")
    if _KEEP.value:
        pretrained.round_weights(trained.model)
    output = pathlib.Path(_OUTPUT.value or workdir / "evaluation.json")
    report = _judge(trained.model, trained.config["family"], config.data, output)
    _describe(workdir, report)
    if _KEEP.value:
        print(f"kept {_keep(trained.model, report, workdir)}")


def _judge(model: base.Model, family: str, source: config_lib.Data, output: pathlib.Path) -> dict[str, Any]:
    report = evaluate.evaluate(model, family, _load(source), _paths())
    print(evaluate.table(report))
    _write(output, report)
    return report


def _load(source: config_lib.Data) -> DataSet:
    return data.load(source.name, data_dir=_DATA_DIR.value, image_size=source.image_size or None)


def _paths() -> dict[str, str]:
    given = {"style_dir": _STYLE_DIR.value, "vgg19_weights": _VGG19_WEIGHTS.value}
    return {name: path for name, path in given.items() if path is not None}


def _bless(export: pathlib.Path) -> None:
    # Every mistake that can be known is told before anything that takes long.
    blessing.digest(export)
    card = served.card(export)
    wanted = bless.gates_of(card, _GATE.value)
    base_dir = _BASE_DIR.value and pathlib.Path(_BASE_DIR.value)
    last = blessing.last_blessed(base_dir / export.resolve().parent.name) if base_dir else None
    source = presets.load(_CONFIG.value).data if _CONFIG.value else _data_of(export, card)
    found = bless.measure(export, _load(source), _paths())
    print(evaluate.table(found.report))
    if _OUTPUT.value:
        _write(pathlib.Path(_OUTPUT.value), found.report)
    judged = bless.bless(export, found, wanted, last)
    print(bless.table(judged))
    print(f"{'blessed' if judged.blessed else 'NOT blessed'}: {export / blessing.FILE}")
    if not judged.blessed:
        sys.exit(NOT_BLESSED)


def _data_of(export: pathlib.Path, card: dict[str, Any]) -> config_lib.Data:
    """What the model of an export was trained on, by its card."""
    name = card.get("data", {}).get("name")
    if name is None:
        raise UserError(
            f"the card of {export} does not say what the model learnt from; --config=<preset> does"
        )
    # Resizing to the size that pictures have already changes nothing.
    height, width, _ = card["model"].get("image_shape", (0, 0, 0))
    return config_lib.Data(name=name, image_size=height if height == width else 0)


def _write(output: pathlib.Path, report: dict[str, Any]) -> None:
    write_json(output, report)
    print(f"wrote {output}")


def _describe(workdir: pathlib.Path, report: dict[str, Any]) -> None:
    """Shows the figures on the run's card for people."""
    path = workdir / "card.json"
    if path.exists():
        markdown = model_card.markdown(workdir_lib.read_card(path), blessing.flat(report))
        atomic_write(workdir / "card.md", markdown.encode())


def _keep(model: base.Model, report: dict[str, Any], workdir: pathlib.Path) -> pathlib.Path:
    path = workdir / "card.json"
    if not path.exists():
        raise UserError(f"{workdir} has no card.json: its run has not reached its last step")
    card = _measured(workdir_lib.read_card(path), report, model)
    samples = workdir_lib.showpiece(workdir, model.showpiece)
    card["samples"] = sorted(samples)
    return pretrained.keep(model, card, samples)


def _measured(card: dict[str, Any], report: dict[str, Any], model: base.Model) -> dict[str, Any]:
    """The card with what was found today, and how to find it again."""
    card = {**card, "limits": model.limits}
    card["metrics"], card["slices"] = report["metrics"], report.get("slices", {})
    for name in ("metrics_of_real_images", "judged_images"):
        card.pop(name, None)
    if "real" in report:
        card["metrics_of_real_images"] = report["real"]
        card["judged_images"] = {"generated": report["n"], "test": report["n_test"]}
    paths = "".join(f" --{name}=<path>" for name in ("style_dir", "vgg19_weights") if name in card["model"])
    card["evaluation"] = f"python -m train.evaluate_main --pretrained={card['name']} --data_dir=<dir>{paths}"
    return card


def run() -> None:
    """The console script."""
    binary.run(main)


if __name__ == "__main__":
    run()
