"""Judging a trained model on held-out data, through the signatures that would be served."""

import reprlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from train.data.dataset import DataSet
from train.data.images import ImageData
from train.metrics import distances, generative, harmony, language
from train.metrics.judge import Judge
from zoo import base
from zoo.errors import UserError

_BATCH = 250


def evaluate(model: base.Model, family: str, data: DataSet) -> dict[str, Any]:
    """The family's metrics on the test split.

    Args:
        model: a trained model; only its `signatures()` are used.
        family: its name in `zoo.FAMILIES`.
        data: the data set it was trained on.

    Returns:
        JSON values; `report["metrics"]` holds the headline numbers by name.

    Raises:
        UserError: the family has no evaluation, the data are not of the kind or shape that the model
            knows, or no judge is kept for the data set.
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
    return _EVALUATIONS[family](model, data)


def _classifier(model: base.Model, data: ImageData) -> dict[str, Any]:
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
    chosen = probabilities[np.arange(len(labels)), labels]
    return {
        "metrics": {
            "accuracy": distances.accuracy(predicted, labels),
            "nll": float(-np.log(np.maximum(chosen, 1e-12)).mean()),
        },
        "n_test": len(labels),
        "accuracy_by_class": {
            name: distances.accuracy(predicted[labels == i], labels[labels == i])
            for i, name in enumerate(data.class_names)
        },
    }


def _gan(model: base.Model, data: ImageData) -> dict[str, Any]:
    """10,000 samples, every class equally often, seeds 0 to 9,999."""
    judge = Judge.load(data.name)
    sample = model.signatures()["sample"]
    labels = (np.arange(generative.SAMPLES) % len(data.class_names)).astype(np.int32)
    seeds = np.arange(generative.SAMPLES, dtype=np.int64)
    fakes = np.concatenate(
        [
            sample(
                seed=tf.constant(seeds[i : i + _BATCH]), label=tf.constant(labels[i : i + _BATCH])
            )["image"].numpy()
            for i in range(0, generative.SAMPLES, _BATCH)
        ]
    )
    report = generative.generative_report(
        judge, data.train.images, data.test.images, fakes, labels if len(data.class_names) > 1 else None
    )
    return {"metrics": report["fake"], **report}


# family -> report of (model, data set of the kind that the family learns)
_EVALUATIONS: dict[str, Callable[[base.Model, Any], dict[str, Any]]] = {
    "chorales": harmony.evaluate,
    "cnn": _classifier,
    "gan": _gan,
    "rnn": language.report,
}


def table(report: dict[str, Any]) -> str:
    """The report as lines for people."""
    if "fake" in report:
        return generative.table(report)
    lines = [f"{name:<32}{value:.5f}" for name, value in report["metrics"].items()]
    lines += [
        f"  accuracy {name:<21}{value:.5f}" for name, value in report.get("accuracy_by_class", {}).items()
    ]
    lines.append(f"n = {report['n_test']:,} test {report.get('unit', 'images')}")
    return "\n".join(lines)
