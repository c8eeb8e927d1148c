"""Writing a model as a SavedModel that TensorFlow Serving's own loader can run.

`tf.saved_model.save` of anything that holds a Keras 3 model loads in Python but not in the session loader
of the stock server, and `keras.export.ExportArchive` writes the weights twice. So the module that is saved
here holds nothing but the raw variables that the signatures use, and every export is proved in a fresh
process by `serving.portable_main` before it gets its version number.
"""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from zoo import base, blessing, model_card, publish
from zoo.errors import UserError

WARMUP = "tf_serving_warmup_requests"  # the name that TensorFlow Serving looks for
GOLDEN = "golden_requests"


def export(
    model: base.Exportable,
    base_dir: pathlib.Path,
    name: str,
    card: dict[str, Any],
    samples: Mapping[str, bytes] | None = None,
) -> pathlib.Path:
    """Writes the next version of a model: `<base_dir>/<name>/<version>/`.

    The directory appears complete or not at all: it is written and checked under a name that no
    server reads, then renamed.

    Args:
        model: the family's model; its `signatures()` become the SavedModel's, the first of them also
            `serving_default`.
        base_dir: the folder that the server's `--model_base_path` is `<base_dir>/<name>` of.
        name: the served model's name.
        card: the model card, kept as `assets.extra/card.json`, and `card.md` for people.
        samples: what to show of the model, by file name: kept beside the card.

    Returns:
        The version directory.

    Raises:
        UserError: the disk takes no more, or the check fails (the report says where).
    """
    parent = base_dir / name
    try:
        with publish.incoming(parent) as incoming:
            _write(model, incoming, name, card, samples or {})
            _prove(incoming)
            return publish.publish(incoming, parent)
    except (tf.errors.OpError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"cannot write the export to {parent} ({reason})") from error


def _write(
    model: base.Exportable,
    directory: pathlib.Path,
    name: str,
    card: dict[str, Any],
    samples: Mapping[str, bytes],
) -> None:
    signatures = model.signatures()
    functions = {key: f.get_concrete_function() for key, f in signatures.items()}
    used = {id(v): v for f in functions.values() for v in f.graph.variables}
    module = tf.Module()
    module.v = list(used.values())
    first = next(iter(signatures))
    tf.saved_model.save(
        module,
        str(directory),
        signatures={"serving_default": signatures[first], **signatures},
        # A gradient that is written out may hold what cannot be saved, and no server asks for one.
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )

    extra = directory / "assets.extra"
    extra.mkdir()
    requests = model.example_requests()
    logs = [_log(name, key, signatures[key], requests[key]) for key in signatures]
    for file in (WARMUP, GOLDEN):
        with tf.io.TFRecordWriter(str(extra / file)) as writer:
            for log in logs:
                writer.write(log.SerializeToString())
    for file, content in samples.items():
        (extra / file).write_bytes(content)
    described = card | {
        "samples": sorted(samples),
        "limits": model.limits,
        "exported_by": model_card.code_version(),
        "weights_bytes": sum(int(np.prod(v.shape)) * v.dtype.size for v in used.values()),
        "signatures": {key: _describe(f) for key, f in functions.items()},
    }
    (extra / "card.json").write_text(json.dumps(described, indent=2) + "\n")
    figures = blessing.flat(described) if "metrics" in described else None
    (directory / blessing.CARD).write_text(model_card.markdown(described, figures), encoding="utf-8")


def _log(
    name: str, key: str, signature: base.Signature, request: dict[str, np.ndarray]
) -> prediction_log_pb2.PredictionLog:
    """A request with its answer, in TensorFlow Serving's own log format."""
    inputs = {k: tf.constant(v.tolist() if v.dtype == object else v) for k, v in request.items()}
    predict = prediction_log_pb2.PredictLog(
        request=predict_pb2.PredictRequest(), response=predict_pb2.PredictResponse()
    )
    for spec in (predict.request.model_spec, predict.response.model_spec):
        spec.name, spec.signature_name = name, key
    for alias, tensor in inputs.items():
        predict.request.inputs[alias].CopyFrom(tf.make_tensor_proto(tensor))
    for alias, tensor in signature(**inputs).items():
        predict.response.outputs[alias].CopyFrom(tf.make_tensor_proto(tensor))
    return prediction_log_pb2.PredictionLog(predict_log=predict)


def _describe(function: Any) -> dict[str, Any]:
    inputs = function.structured_input_signature[0]
    outputs = function.structured_outputs
    return {
        "inputs": {s.name: f"{s.dtype.name} {list(s.shape)}" for s in inputs},
        "outputs": {k: f"{s.dtype.name} {list(s.shape)}" for k, s in outputs.items()},
    }


def _prove(directory: pathlib.Path) -> None:
    """Runs `serving.portable_main` in a process that has never seen the model or Keras."""
    # The package may be a checkout that is only on this process's path.
    root = str(pathlib.Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    proof = subprocess.run(
        [sys.executable, "-m", "serving.portable_main", str(directory)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if proof.returncode:
        reasons = [x for x in proof.stdout.splitlines() if x.startswith("portable: ")]
        reason = "; ".join(reasons) or (proof.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"the export is not portable, nothing was published: {reason}")
