"""Reading what a training run left: `config.json` and `checkpoints/` of a work directory."""

import dataclasses
import io
import json
import pathlib
from typing import Any

import tensorflow as tf
from PIL import Image

import zoo
from zoo import base, pretrained
from zoo.errors import UserError

_SHOWN = (".png", ".txt", ".mid")
_SHOWN_SIDE = 640  # pixels: a look at the model, not its whole output, goes with its weights


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model with the weights of a run's newest checkpoint, ready for inference."""

    model: base.Model
    config: dict[str, Any]  # config.json
    step: int
    seconds: float  # of training, all its resumed parts together


def load(workdir: pathlib.Path, best: bool = False) -> Trained:
    """The newest state of a run, or the best one that `config.keep_best` kept.

    Raises:
        UserError: the directory holds no run, no checkpoint yet, or a damaged one.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} is no training work directory: it has no config.json")
    try:
        config = json.loads(path.read_text())
        family, values = config["family"], config["model"]
        model_config = pretrained.config_from_json(zoo.family(family).Config, values)
    except (ValueError, TypeError, KeyError, UserError) as error:
        raise UserError(f"{path} is no training configuration: {error}") from error
    model = zoo.build(family, model_config)
    step = tf.Variable(0, dtype=tf.int64, trainable=False)
    seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False)
    checkpoint = tf.train.Checkpoint(model=model, step=step, seconds=seconds)
    folder = workdir / "checkpoints"
    if best and not (folder / "best").is_dir():
        raise UserError(f"{workdir} has kept no best checkpoint: config.keep_best says of which loss")
    if not restore(checkpoint, folder / "best" if best else folder):
        raise UserError(f"{workdir} has no checkpoint yet: let train.main reach its first one")
    return Trained(model, config, int(step.numpy()), float(seconds.numpy()))


def restore(checkpoint: tf.train.Checkpoint, directory: pathlib.Path) -> bool:
    """Loads the newest checkpoint that the directory's index names, or without an index the one of the
    highest step; False if there is none.

    Raises:
        UserError: the checkpoint is damaged or of another model; nothing is deleted.
    """
    state = None if _is_index_empty(directory) else tf.train.get_checkpoint_state(str(directory))
    paths = [] if state is None else list(state.all_model_checkpoint_paths)
    paths = [p for p in paths if pathlib.Path(f"{p}.index").exists()]
    if not paths:  # a kill before the first index was written, or somebody lost it
        complete = [path.with_suffix("") for path in directory.glob("ckpt-*.index")]
        paths = [str(p) for p in sorted(complete, key=lambda path: int(path.name.rpartition("-")[2]))]
    if not paths:
        return False
    try:
        checkpoint.restore(paths[-1]).assert_existing_objects_matched().expect_partial()
    except (tf.errors.OpError, AssertionError, ValueError, IndexError, RuntimeError) as error:
        # The checkpoint reader raises built-in errors where the rest of TensorFlow has its own.
        reason = str(error).strip().splitlines()[0][:200]
        name = pathlib.Path(paths[-1]).name
        older = f"go on from {pathlib.Path(paths[-2]).name}" if len(paths) > 1 else "start anew"
        raise UserError(
            f"checkpoint {paths[-1]} cannot be read ({reason}); move {name}.* out of {directory} to {older}"
        ) from error
    return True


def drop_empty_index(directory: pathlib.Path) -> None:
    """Removes an index that names no checkpoint, as a full disk may leave it: TensorFlow fails on it."""
    if _is_index_empty(directory):
        (directory / "checkpoint").unlink()


def _is_index_empty(directory: pathlib.Path) -> bool:
    try:
        tf.train.get_checkpoint_state(str(directory))
    except ValueError:
        return True
    return False


def previews(workdir: pathlib.Path) -> list[pathlib.Path]:
    """The newest preview of each name and kind."""
    newest = {path.name.split("_", 2)[2]: path for path in sorted((workdir / "previews").glob("step_*_*.*"))}
    return [newest[name] for name in sorted(newest)]


def showpiece(workdir: pathlib.Path, name: str) -> dict[str, bytes]:
    """The newest preview of that name, by what it is to be called. Others show the data set's own examples,
    which are not ours to publish."""
    kept = {}
    for path in previews(workdir) if name else ():
        if path.suffix in _SHOWN and path.name.endswith(f"_{name}{path.suffix}"):
            content = path.read_bytes()
            kept[f"preview{path.suffix}"] = _small(content) if path.suffix == ".png" else content
    return kept


def _small(png: bytes) -> bytes:
    preview = Image.open(io.BytesIO(png))
    preview.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
    encoded = io.BytesIO()
    preview.save(encoded, "PNG", optimize=True)
    return encoded.getvalue()


def read_card(path: pathlib.Path) -> dict[str, Any]:
    """A model card. Raises `UserError` for a damaged file."""
    try:
        card = json.loads(path.read_text())
        if {"name", "family", "model"} <= set(card):
            return card
        reason = "name, family and model are expected"
    except (ValueError, TypeError) as error:
        reason = str(error)
    raise UserError(f"{path} is no model card ({reason}); remove it and let train.main write it again")
