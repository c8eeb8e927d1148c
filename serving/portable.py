"""What a SavedModel owes to whoever runs it without the code that made it; `portable_main` proves it.

Every golden request is run through `tf.saved_model.load` and through
`tf.compat.v1.saved_model.load` in a Session, which is what TensorFlow Serving's binary runs. Both must give
the same bits, the answers kept with the export, and the same rows whatever else is in the batch.
"""

import pathlib
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

TOLERANCE = 1e-5
_FOREIGN_OPS = ("PyFunc", "PyFuncStateless", "EagerPyFunc", "NumpyFunction")

Arrays = dict[str, np.ndarray]
Runner = Callable[[str, Mapping[str, np.ndarray]], Arrays]


def golden_requests(directory: pathlib.Path) -> dict[str, tuple[Arrays, Arrays]]:
    """Signature → (inputs, expected outputs), from `assets.extra/golden_requests`."""
    found = {}
    records = tf.data.TFRecordDataset(str(directory / "assets.extra" / "golden_requests"))
    for record in records.as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record).predict_log
        found[log.request.model_spec.signature_name] = (
            {k: tf.make_ndarray(v) for k, v in log.request.inputs.items()},
            {k: tf.make_ndarray(v) for k, v in log.response.outputs.items()},
        )
    return found


def python_runner(directory: pathlib.Path) -> Runner:
    """Runs signatures through `tf.saved_model.load`."""
    loaded = tf.saved_model.load(str(directory))

    def run(signature: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        tensors = {
            k: tf.constant(v.tolist() if v.dtype == object else v) for k, v in inputs.items()
        }
        return {k: v.numpy() for k, v in loaded.signatures[signature](**tensors).items()}

    return run


def session_runner(directory: pathlib.Path) -> Runner:
    """Runs signatures through the session loader; inputs with a default may be left out."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(directory))

    def run(signature: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        definition = meta.signature_def[signature]
        fetches = {k: v.name for k, v in definition.outputs.items()}
        return session.run(fetches, {definition.inputs[k].name: v for k, v in inputs.items()})

    return run


def compare(name: str, got: Arrays, want: Arrays, tolerance: float = 0.0) -> list[str]:
    """What differs between two answers, in words; empty if nothing does."""
    faults = []
    for key in sorted(got.keys() | want.keys()):
        if key not in got or key not in want:
            faults.append(f"{name}: output {key} is missing on one side")
        elif got[key].shape != want[key].shape:
            faults.append(f"{name}: {key} has shape {got[key].shape}, not {want[key].shape}")
        elif got[key].dtype.kind == "f" and tolerance:
            # Relative for what is larger than 1: a loss of a billion has no fifth decimal.
            size = np.maximum(np.abs(want[key]), 1.0)
            difference = np.max(np.abs(got[key] - want[key]) / size, initial=0.0)
            if not difference <= tolerance:
                faults.append(f"{name}: {key} differs by {difference:.3g}")
        elif not np.array_equal(got[key], want[key]):
            faults.append(f"{name}: {key} differs")
    return faults


def faults(directory: pathlib.Path) -> list[str]:
    """Everything that keeps an export from being portable, in words; empty if nothing does."""
    if needed := foreign_ops(directory):
        return needed  # running them would only fail
    found = duplicate_weights(directory)
    in_python, in_session = python_runner(directory), session_runner(directory)
    for signature, (inputs, expected) in golden_requests(directory).items():
        together = in_session(signature, inputs)
        name = f"signature {signature}"
        found += compare(f"{name}, Python against session", in_python(signature, inputs), together)
        found += compare(f"{name}, session against training", together, expected, TOLERANCE)
        rows = len(next(iter(inputs.values())))
        for row in range(rows):
            alone = in_session(signature, {k: v[row : row + 1] for k, v in inputs.items()})
            wanted = {k: v[row : row + 1] for k, v in together.items()}
            found += compare(f"{name}, row {row} alone", alone, wanted, TOLERANCE)
    return found


def _saved_model(directory: pathlib.Path):
    from tensorflow.core.protobuf import saved_model_pb2

    return saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())


def foreign_ops(directory: pathlib.Path) -> list[str]:
    """Ops that only the exporting process can run."""
    graph = _saved_model(directory).meta_graphs[0].graph_def
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    return [f"op {op} needs Python" for op in sorted({n.op for n in nodes} & set(_FOREIGN_OPS))]


def duplicate_weights(directory: pathlib.Path) -> list[str]:
    """Arrays that the file holds twice: two variables of the same shape and the same bytes."""
    reader = tf.train.load_checkpoint(str(directory / "variables" / "variables"))
    seen: dict[tuple, str] = {}
    found = []
    for name, shape in sorted(reader.get_variable_to_shape_map().items()):
        value = reader.get_tensor(name)
        # Vectors of a fresh network (all zeros or ones), and tables that start as one number everywhere, are
        # equal without being copies.
        if not isinstance(value, np.ndarray) or value.ndim < 2 or value.dtype == object:
            continue
        if not value.size or (value == value.flat[0]).all():
            continue
        key = (tuple(shape), value.tobytes())
        if key in seen:
            found.append(f"weights {name} and {seen[key]} are the same")
        seen[key] = name
    return found
