"""Judging a trained model on held-out data, through the signatures that would be served."""

import dataclasses
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from train.data.dataset import DataSet
from train.data.images import ImageData
from train.metrics import (
    distances,
    generative,
    harmony,
    judge,
    language,
    likelihood,
    memorisation,
    painting,
    reconstruction,
)
from train.metrics.judge import Judge
from train.metrics.slices import by_class
from zoo import base, blessing
from zoo.errors import UserError

_BATCH = 250


def evaluate(
    model: base.Judged, family: str, data: DataSet, paths: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The family's metrics on the test split.

    Args:
        model: a trained model, or an export (`train.served`).
        family: its name in `zoo.FAMILIES`.
        data: the data set it was trained on.
        paths: fields of its configuration that name files, and where these lie on this machine.

    Returns:
        JSON values; `report["metrics"]` holds the headline numbers by name, `report["slices"]` some of them
        by class, style ...

    Raises:
        UserError: the family has no evaluation, the data are not of the kind or shape that the model
            knows, no judge is kept for the data set, or the family has no such path.
    """
    if family not in _EVALUATIONS:
        raise UserError(f"no evaluation for family {family!r}; there are {', '.join(_EVALUATIONS)}")
    if model.learns != data.kind:
        raise UserError(f"data set {data.name} holds {data.kind}, but family {family} learns {model.learns}")
    for name, value in data.for_model.items():
        known = getattr(model.config, name, value)
        if known != value:
            raise UserError(
                f"the model was made for {name} {reprlib.repr(known)}, data set {data.name} has"
                f" {reprlib.repr(value)}; leave --config out to use the data it was trained on"
            )
    paths = paths or {}
    if unknown := set(paths) - {field.name for field in dataclasses.fields(model.config)}:
        raise UserError(f"--{min(unknown)}: family {family} needs no such path")
    model.config = dataclasses.replace(model.config, **paths)
    return _EVALUATIONS[family](model, data)


def _classifier(model: base.Judged, data: ImageData) -> dict[str, Any]:
    classify = model.signatures()["classify"]
    labels = data.test.labels
    probabilities = np.concatenate(
        [
            classify(image=tf.constant(data.test.images[i : i + _BATCH].astype(np.float32) / 255.0))[
                "probabilities"
            ].numpy()
            for i in range(0, len(labels), _BATCH)
        ]
    )
    predicted = probabilities.argmax(axis=1)
    nll = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12))
    return {
        "metrics": {"accuracy": distances.accuracy(predicted, labels), "nll": float(nll.mean())},
        "slices": {
            "accuracy": by_class(predicted == labels, labels, data.class_names),
            "nll": by_class(nll, labels, data.class_names),
        },
        "n_test": len(labels),
    }


def _gan(model: base.Judged, data: ImageData) -> dict[str, Any]:
    """10,000 samples, every class equally often, seeds 0 to 9,999."""
    return _generated(model, data, Judge.load(data.name), conditional=True)


def _vae(model: base.Judged, data: ImageData) -> dict[str, Any]:
    """The bounds on the likelihood; 10,000 samples, judged where a judge of such images is kept."""
    found = likelihood.likelihood_report(model, data)
    kept = Judge.load(data.name) if judge.folder(data.name).name in judge.known() else None
    if kept is not None and kept.image_shape != data.train.images.shape[1:]:
        kept = None
    report = _generated(model, data, kept, model.config.conditional)
    both = {key: found[key] | report[key] for key in ("metrics", "slices")}
    return found | report | both


def _generated(
    model: base.Judged, data: ImageData, kept: Judge | None, conditional: bool
) -> dict[str, Any]:
    """How good 10,000 samples are, if there is a judge, and how near they lie to the training images."""
    sample = model.signatures()["sample"]
    seeds = np.arange(generative.SAMPLES, dtype=np.int64)
    labels = (seeds % len(data.class_names)).astype(np.int32)
    inputs = {"seed": seeds} | ({"label": labels} if conditional else {})
    fakes = np.concatenate(
        [
            sample(**{k: tf.constant(v[i : i + _BATCH]) for k, v in inputs.items()})["image"].numpy()
            for i in range(0, generative.SAMPLES, _BATCH)
        ]
    )
    report: dict[str, Any] = {"slices": {}}
    if kept is not None:
        asked = labels if conditional and len(data.class_names) > 1 else None
        report = generative.generative_report(kept, data.train.images, data.test.images, fakes, asked)
    copies = memorisation.memorisation_report(data.train.images, data.test.images, fakes)
    headline = {k: copies[k] for k in ("nearest_train_ratio", "near_copies")}
    return {**report, "memorisation": copies, "metrics": {**report.get("fake", {}), **headline}}


# family -> report of (model, data set of the kind that the family learns)
_EVALUATIONS: dict[str, Callable[[base.Judged, Any], dict[str, Any]]] = {
    "arbitrary_stylizer": painting.arbitrary_report,
    "autoencoder": reconstruction.report,
    "chorales": harmony.evaluate,
    "cnn": _classifier,
    "gan": _gan,
    "rnn": language.report,
    "stylizer": painting.report,
    "vae": _vae,
}


def table(report: dict[str, Any]) -> str:
    """The report as lines for people."""
    if "memorisation" in report:
        parts = [(likelihood, "iwae_samples"), (generative, "fake")]
        tables = [part.table(report) for part, key in parts if key in report]
        return "\n".join([*tables, memorisation.table(report["memorisation"])])
    slices = blessing.flat({"metrics": {}, "slices": report.get("slices", {})})
    rows = report["metrics"] | {f"  {name}": value for name, value in slices.items()}
    width = max(32, *(len(name) + 2 for name in rows))
    lines = [f"{name:<{width}}{value:.5f}" for name, value in rows.items()]
    lines.append(f"n = {report['n_test']:,} test {report.get('unit', 'images')}")
    return "\n".join(lines)
