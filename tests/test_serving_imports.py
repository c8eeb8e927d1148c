"""What the serving package loads, and that it lives beside TensorFlow Serving's own package."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor

ROOT = Path(__file__).resolve().parent.parent
# What runs in the server's process: all of the package but the client's side, export and tools.
SERVER_MODULES = [
    "access_log",
    "batching",
    "examples",
    "grpc_api",
    "inference",
    "lean_import",
    "manager",
    "memory",
    "metrics",
    "model_config",
    "repository",
    "request_log",
    "rest_answers",
    "rest_api",
    "rest_json",
    "rest_requests",
    "rest_server",
    "servable",
    "server",
    "server_main",
    "status",
    "telemetry",
    "text_config",
    "tflite",
    "versions",
    "warmup",
    "workers",
]


def _run(code: str) -> str:
    """Output of Python code in a fresh process.

    Through a shell that forks: a process that is executed straight from this large one would
    inherit its peak memory in getrusage.
    """
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, code],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["aio", "client", "client_main", "engine", "launch"])
def test_client_side_modules_need_no_tensorflow_and_little_memory(module):
    report = json.loads(
        _run(
            f"import serving.{module}, json, resource, sys\n"
            "kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "print(json.dumps([kib / 1024, [name.partition('.')[0] for name in sys.modules]]))"
        )
    )
    mebibytes, packages = report
    # Of which Python, numpy and grpc take 41.
    assert mebibytes <= (45 if module in ("aio", "client") else 60)
    heavy = {"tensorflow", "tensorflow_serving", "keras", "zoo", "train", "PIL", "pandas", "scipy"}
    assert not heavy & set(packages)
    if module in ("aio", "client"):
        assert "ml_dtypes" not in packages


def test_importing_the_package_itself_loads_none_of_its_modules():
    loaded = _run(
        "import serving, sys; print([m for m in sys.modules if m.startswith('serving.')])"
    )
    assert loaded.strip() == "[]"


IMPORTS = [
    "import serving.client; from serving import wire_pb2 as own; import ml_dtypes",
    "import tensorflow as tf; from tensorflow_serving.apis import predict_pb2 as stock",
]
# The client makes a request and reads an answer; TensorFlow Serving's stubs read and make them.
TOGETHER = """
import numpy as np
from serving import messages, tensors

request = messages.predict_request(messages.model_spec("m"), {"x": np.float32([1, 2])})
read = stock.PredictRequest.FromString(request)
print(read.model_spec.name, tf.make_ndarray(read.inputs["x"]).tolist())
answer = stock.PredictResponse(model_spec={"name": "m", "version": {"value": 3}})
answer.outputs["y"].CopyFrom(tf.make_tensor_proto([1.5, 2.5]))
answer.outputs["z"].CopyFrom(tf.make_tensor_proto(tf.constant([3], tf.bfloat16)))
spec, outputs = messages.predict_answer(answer.SerializeToString())
print(spec.version, outputs["y"].tolist(), outputs["z"].dtype, own.PredictResponse.FromString(b"").ByteSize())
"""


@pytest.mark.parametrize("imports", [IMPORTS, IMPORTS[::-1]], ids=["own first", "stock first"])
def test_lives_beside_tensorflow_serving_in_both_import_orders(imports):
    output = _run("\n".join(imports) + TOGETHER)
    assert output.splitlines() == ["m [1.0, 2.0]", "3 [1.5, 2.5] bfloat16 0"]


def test_small_types_need_ml_dtypes_and_say_so():
    output = _run(
        "import sys; sys.modules['ml_dtypes'] = None\n"
        "from serving import tensors\n"
        "print(tensors.type_name(14), tensors.from_wire(tensors.to_content_wire([1.5])).tolist())\n"
        "try: tensors.to_array([1.5], 'bfloat16')\n"
        "except ValueError as error: print(error)\n"
    )
    expected = ["bfloat16 [1.5]", "bfloat16 arrays need ml_dtypes: pip install ml_dtypes"]
    assert output.splitlines() == expected


def _imported(path: Path) -> set[str]:
    """The top-level packages that a source file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    "start",
    [
        # It fails once all is imported.
        "from serving import server_main as s; s.main(['', '--import=no_such', '--model_base_path=/x'])",
        "from serving import lean_import; lean_import.import_tensorflow(); from serving import server",
    ],
)
def test_a_server_s_process_has_no_keras_until_it_is_asked_for(start):
    output = _run(
        start + "\nimport gc, sys\n"
        "print({'tensorflow', 'keras', 'sklearn'} & set(sys.modules), gc.isenabled())\n"
        "from tensorflow.keras import layers; print(layers.Dense.__name__)"
    )
    assert output.splitlines()[-2:] == ["{'tensorflow'} True", "Dense"]


@pytest.mark.parametrize("module", SERVER_MODULES)
def test_the_server_imports_neither_keras_nor_models_nor_training(module):
    assert not _imported(ROOT / "serving" / f"{module}.py") & {"keras", "zoo", "train"}


# A preview of music is the file that a client would write; an export is judged as a client sees it.
MAY_IMPORT_SERVING = {ROOT / "train" / "writers.py", ROOT / "train" / "served.py"}


@pytest.mark.parametrize(("package", "not_to"), [("zoo", {"train", "serving"}), ("train", {"serving"})])
def test_the_arrows_between_the_packages_point_one_way(package, not_to):
    files = set((ROOT / package).rglob("*.py")) - MAY_IMPORT_SERVING
    assert len(files) > 5
    for path in files:
        assert not _imported(path) & not_to, path


def test_every_field_has_tensorflow_serving_s_number_and_type():
    from grpc_health.v1 import health_pb2
    from tensorflow.core.example import example_pb2, feature_pb2
    from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
    from tensorflow.core.protobuf import meta_graph_pb2
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        input_pb2,
        model_management_pb2,
        model_pb2,
        predict_pb2,
        regression_pb2,
        status_pb2,
    )
    from tensorflow_serving.config import (
        file_system_storage_path_source_pb2,
        log_collector_config_pb2,
        logging_config_pb2,
        model_server_config_pb2,
    )

    from serving import wire_pb2

    stock_modules = (
        classification_pb2,
        example_pb2,
        feature_pb2,
        file_system_storage_path_source_pb2,
        health_pb2,
        input_pb2,
        log_collector_config_pb2,
        logging_config_pb2,
        model_management_pb2,
        model_server_config_pb2,
        regression_pb2,
        tensor_pb2,
        tensor_shape_pb2,
        meta_graph_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_pb2,
        predict_pb2,
        status_pb2,
    )
    stock = {
        name: found
        for module in stock_modules
        for name, found in module.DESCRIPTOR.message_types_by_name.items()
    }
    compared = 0
    for name, own in wire_pb2.DESCRIPTOR.message_types_by_name.items():
        compared += _compare(own, stock[name])
    assert compared > 90
    stock_types = dict(types_pb2.DataType.items())
    assert dict(wire_pb2.DataType.items()).items() <= stock_types.items()
    states = get_model_status_pb2.ModelVersionStatus.State.items()
    assert wire_pb2.ModelVersionStatus.State.items() == states


def _compare(own: descriptor.Descriptor, stock: descriptor.Descriptor) -> int:
    """Asserts that each field of `own` is one of `stock`; returns how many there were."""
    for field in own.fields:
        other = stock.fields_by_number[field.number]
        assert (field.name, field.is_repeated) == (other.name, other.is_repeated)
        # An enum travels as an int32 does.
        as_wire = {descriptor.FieldDescriptor.TYPE_ENUM: descriptor.FieldDescriptor.TYPE_INT32}
        assert as_wire.get(field.type, field.type) == as_wire.get(other.type, other.type)
    nested = sum(_compare(n, stock.nested_types_by_name[n.name]) for n in own.nested_types)
    return len(own.fields) + nested
