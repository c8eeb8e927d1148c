"""Each gRPC method, service and log of the server: the real binary, TensorFlow Serving's own stubs."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
import saved_models
import tensorflow as tf
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tensorflow.python.lib.io import tf_record
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from test_serving_examples import CLASSIFY, REGRESS, task, write_half_plus_two

from serving import server
from serving.launch import LaunchedServer, launch
from serving.workers import Workers

PREDICT = "tensorflow/serving/predict"
CONFIG = """
model_config_list {{
  config {{
    name: "half" base_path: "{base}/half" model_platform: "tensorflow"
    model_version_policy {{ all {{}} }}
    version_labels {{ key: "stable" value: 1 }}
    logging_config {{
      log_collector_config {{ filename_prefix: "{base}/logs/half" }}
      sampling_config {{ sampling_rate: 1 }}
    }}
  }}
  config {{ name: "odd" base_path: "{base}/odd" model_platform: "tensorflow" }}
  {more}
}}
"""
MORE = 'config {{ name: "more" base_path: "{base}/more" model_platform: "tensorflow" }}'


# --- Models and requests, also for test_serving_flags -----------------------------------------------


def write_odd(version: Path, tags: Sequence[str] = ("serve",), device: str = "") -> Path:
    """Signatures over x float32 [B].

    `serving_default`: y = 2 x, on `device`. `count`: y = how often it has run in this process, B times.
    `hold`: y = x; says that it runs by the file <version>.held<x[0]> and ends once <version>.go is there.
    `unnamed`: as the default, without a method_name.
    `classify`, `classify_as_predict`: inputs string [B] -> scores [B, 1]; method_name as they say.
    """
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session(config=v1.ConfigProto(allow_soft_placement=True)) as session:
        x = v1.placeholder(tf.float32, [None], "x")
        text = v1.placeholder(tf.string, [None], "text")
        with tf.device(device):
            y = 2 * x
        runs = v1.get_variable("runs", [], tf.float32, v1.zeros_initializer(), use_resource=True)
        count = tf.fill(tf.shape(x), runs.assign_add(1))
        number = tf.as_string(tf.cast(x[0], tf.int32))
        with tf.control_dependencies([tf.io.write_file(tf.strings.join([f"{version}.held", number]), "")]):
            # The empty end makes it something that only a run knows: else it would be looked up once.
            go = tf.strings.join([f"{version}.go", tf.strings.substr(number, 0, 0)])
        waited = tf.while_loop(
            lambda file: tf.equal(tf.size(tf.io.matching_files(file)), 0), lambda file: (file,), (go,)
        )
        with tf.control_dependencies(waited):
            held = tf.identity(x)
        scores = tf.fill([tf.shape(text)[0], 1], 1.0)
        signatures = {
            name: saved_models.signature_def(method, inputs, outputs)
            for name, method, inputs, outputs in (
                ("serving_default", PREDICT, {"x": x}, {"y": y}),
                ("count", PREDICT, {"x": x}, {"y": count}),
                ("hold", PREDICT, {"x": x}, {"y": held}),
                ("unnamed", "", {"x": x}, {"y": y}),
                ("classify", CLASSIFY, {"inputs": text}, {"scores": scores}),
                ("classify_as_predict", PREDICT, {"inputs": text}, {"scores": scores}),
            )
        }
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(version))
        builder.add_meta_graph_and_variables(session, list(tags), signatures)
        builder.save()
    return version


def write_warm_up(version: Path, *requests: predict_pb2.PredictRequest) -> None:
    (version / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(version / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        for request in requests:
            log = prediction_log_pb2.PredictionLog(predict_log={"request": request})
            writer.write(log.SerializeToString())


def predict_request(
    x: object, signature: str = "", model: str = "odd", name: str = "x"
) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest(model_spec={"name": model, "signature_name": signature})
    request.inputs[name].CopyFrom(tf.make_tensor_proto(np.array(x, np.float32)))
    return request


def y(response: predict_pb2.PredictResponse) -> list[float]:
    return tf.make_ndarray(response.outputs["y"]).tolist()


def refused(call: Callable[..., object], request: object, **options: Any) -> tuple[str, str]:
    """(code's name, text) of the error that must come."""
    with pytest.raises(grpc.RpcError) as raised:
        call(request, **options)
    return raised.value.code().name, raised.value.details()


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)


def http_get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def http_post(port: int, path: str, body: object) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


class Stubs:
    """Both of TensorFlow Serving's stubs on one channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(channel)

    def predict(self, x: object, signature: str = "", model: str = "odd", **options: Any) -> list[float]:
        return y(self.predictions.Predict(predict_request(x, signature, model), **options))


# --- The server -------------------------------------------------------------------------------------


class Running(NamedTuple):
    server: LaunchedServer
    base: Path
    rest_port: int


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    base = tmp_path_factory.mktemp("grpc")
    write_half_plus_two(base / "half" / "1")
    shutil.copytree(base / "half" / "1", base / "half" / "2")
    write_odd(base / "odd" / "1")
    shutil.copytree(base / "odd" / "1", base / "more" / "1")
    write_warm_up(base / "more" / "1", predict_request([1]), predict_request([2]))
    config, monitoring = base / "models.config", base / "monitoring.config"
    config.write_text(CONFIG.format(base=base, more=""))
    monitoring.write_text('prometheus_config { enable: true path: "/metrics" }')
    port = saved_models.free_port()
    flags = [
        f"--rest_api_port={port}",
        f"--monitoring_config_file={monitoring}",
        "--access_log=json",
        "--enable_grpc_healthcheck_service",
        "--max_num_load_retries=0",
    ]
    with launch(config, flags=flags) as launched:
        yield Running(launched, base, port)


@pytest.fixture(scope="module")
def stubs(running: Running) -> Iterator[Stubs]:
    with grpc.insecure_channel(running.server.address) as channel:
        yield Stubs(channel)


# --- Classify, Regress, MultiInference --------------------------------------------------------------


def _input(*xs: float) -> input_pb2.Input:
    made = input_pb2.Input()
    for x in xs:
        feature = made.example_list.examples.add().features.feature["x"]
        feature.float_list.value.append(x)
    return made


def _classify(signature: str, *xs: float, **spec: object) -> classification_pb2.ClassificationRequest:
    spec = {"name": "half", "signature_name": signature, **spec}
    return classification_pb2.ClassificationRequest(model_spec=spec, input=_input(*xs))


def _regress(signature: str, *xs: float, **spec: object) -> regression_pb2.RegressionRequest:
    spec = {"name": "half", "signature_name": signature, **spec}
    return regression_pb2.RegressionRequest(model_spec=spec, input=_input(*xs))


def _multi(*tasks: inference_pb2.InferenceTask, xs: Sequence[float] = (2,)) -> Any:
    return inference_pb2.MultiInferenceRequest(tasks=tasks, input=_input(*xs))


CHOICES = [({}, 2), ({"version": {"value": 1}}, 1), ({"version_label": "stable"}, 1)]


@pytest.mark.parametrize(("choice", "version"), CHOICES)
def test_classify_answers_and_versions_and_labels_choose(stubs, choice, version):
    response = stubs.predictions.Classify(_classify("classify_both", 2, 4, **choice))
    labels = [
        [(c.label, c.score) for c in row.classes] for row in response.result.classifications
    ]
    assert labels == [[("positive", 3), ("positive", 4)], [("positive", 4), ("positive", 5)]]
    assert text_format.MessageToString(response.model_spec, as_one_line=True) == (
        f'name: "half" version {{ value: {version} }} signature_name: "classify_both"'
    )


@pytest.mark.parametrize(("choice", "version"), CHOICES)
def test_regress_answers_and_versions_and_labels_choose(stubs, choice, version):
    response = stubs.predictions.Regress(_regress("regress_x_to_y", 2, 4, **choice))
    assert [regression.value for regression in response.result.regressions] == [3, 4]
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (
        version,
        "regress_x_to_y",
    )


@pytest.mark.parametrize(("choice", "version"), CHOICES)
def test_multi_inference_answers_with_the_first_task_s_version(stubs, choice, version):
    first = task("regress_x_to_y")
    first.model_spec.MergeFrom(type(first.model_spec)(**choice))
    response = stubs.predictions.MultiInference(_multi(first, task("classify_x_to_y", CLASSIFY)))
    regression, classification = response.results
    assert [r.value for r in regression.regression_result.regressions] == [3]
    assert [c.classes[0].score for c in classification.classification_result.classifications] == [3]
    assert [
        (result.model_spec.name, result.model_spec.version.value, result.model_spec.signature_name)
        for result in response.results
    ] == [("half", version, "regress_x_to_y"), ("half", version, "classify_x_to_y")]


def test_predict_runs_a_signature_for_classification_too(stubs):
    request = predict_pb2.PredictRequest(model_spec={"name": "odd", "signature_name": "classify"})
    request.inputs["inputs"].CopyFrom(tf.make_tensor_proto([b"", b""]))
    response = stubs.predictions.Predict(request)
    assert tf.make_ndarray(response.outputs["scores"]).tolist() == [[1], [1]]


def test_examples_share_the_context_that_comes_with_them(stubs):
    request = _regress("regress_x_to_y")
    for _ in range(2):
        request.input.example_list_with_context.examples.add()
    context = request.input.example_list_with_context.context
    context.features.feature["x"].float_list.value.append(6)
    response = stubs.predictions.Regress(request)
    assert [regression.value for regression in response.result.regressions] == [5, 5]


@pytest.mark.parametrize(
    ("method", "request_", "code", "text"),
    [
        ("Classify", classification_pb2.ClassificationRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        ("Regress", regression_pb2.RegressionRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (
            "Classify",
            _classify("classify_both", 2, name=""),
            "INVALID_ARGUMENT",
            "ModelSpec has no name specified.",
        ),
        (
            "Regress",
            _regress("q", 2, name="q"),
            "NOT_FOUND",
            "Servable not found for request: Latest(q)",
        ),
        (
            "Classify",
            _classify("classify_both", 2, version={"value": 7}),
            "NOT_FOUND",
            "Servable not found for request: Specific(half, 7)",
        ),
        (
            "Regress",
            _regress("regress_x_to_y", 2, version_label="q"),
            "INVALID_ARGUMENT",
            "Unrecognized servable version label: q",
        ),
        ("Classify", _classify("q", 2), "INVALID_ARGUMENT", "No signature was found with the name: q"),
        ("Regress", _regress("q", 2), "INVALID_ARGUMENT", "No signature was found with the name: q"),
        (
            "Classify",
            _classify("outputs_three", 2),
            "INVALID_ARGUMENT",
            "Expected one or two output Tensors, found 3",
        ),
        ("Regress", _regress("outputs_two", 2), "INVALID_ARGUMENT", "Expected one output Tensor."),
        ("Classify", _classify("classify_both"), "INVALID_ARGUMENT", "Input is empty."),
        ("Regress", _regress("regress_x_to_y"), "INVALID_ARGUMENT", "Input is empty."),
        (
            "Classify",
            _classify("flat", 2),
            "INVALID_ARGUMENT",
            "Expected Tensor shape: [batch_size num_classes] but got [1]",
        ),
        (
            "Regress",
            _regress("regress_wide", 2),
            "INVALID_ARGUMENT",
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [1,2]",
        ),
        ("MultiInference", _multi(), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (
            "MultiInference",
            _multi(task("regress_x_to_y"), task("regress_x_to_y2", model="odd")),
            "INVALID_ARGUMENT",
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        (
            "MultiInference",
            _multi(task("regress_x_to_y"), task("regress_x_to_y2", model="")),
            "INVALID_ARGUMENT",
            "Found ModelSpec with an empty model name.",
        ),
        (
            "MultiInference",
            _multi(task("regress_x_to_y"), task("regress_x_to_y")),
            "INVALID_ARGUMENT",
            "Duplicate evaluation of signature: regress_x_to_y",
        ),
        (
            "MultiInference",
            _multi(task("q")),
            "INVALID_ARGUMENT",
            "Requested signature not found in model graph: q",
        ),
        (
            "MultiInference",
            _multi(task("serving_default", PREDICT)),
            "UNIMPLEMENTED",
            f"Unsupported signature method_name: {PREDICT}",
        ),
        ("MultiInference", _multi(task("regress_x_to_y"), xs=()), "INVALID_ARGUMENT", "Input is empty."),
        (
            "MultiInference",
            _multi(task("regress_x_to_y", model="q")),
            "NOT_FOUND",
            "Servable not found for request: Latest(q)",
        ),
    ],
)
def test_errors_on_examples_have_upstream_s_code_and_text(stubs, method, request_, code, text):
    assert refused(getattr(stubs.predictions, method), request_) == (code, text)


def test_a_feature_that_is_missing_is_the_op_s_own_error(stubs):
    request = _regress("regress_x_to_y")
    request.input.example_list.examples.add()
    code, text = refused(stubs.predictions.Regress, request)
    assert code == "INVALID_ARGUMENT"
    assert "Feature: x (data type: float) is required but could not be found.\n\t [[{{node " in text


# --- Metadata, status -------------------------------------------------------------------------------


@pytest.mark.parametrize(("choice", "version"), CHOICES)
def test_metadata_of_a_version_or_label(stubs, choice, version):
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec={"name": "half", **choice}, metadata_field=["signature_def"]
    )
    response = stubs.predictions.GetModelMetadata(request)
    assert (response.model_spec.name, response.model_spec.version.value) == ("half", version)
    assert not response.model_spec.signature_name
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert list(response.metadata) == ["signature_def"]
    assert response.metadata["signature_def"].Unpack(signatures)
    regress = signatures.signature_def["regress_x_to_y"]
    assert (regress.method_name, regress.inputs["inputs"].name) == (REGRESS, "tf_example:0")


def test_metadata_fields_are_checked_before_the_model_is_looked_up(stubs):
    request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec={"name": "q"}, metadata_field=["f"])
    error = ("INVALID_ARGUMENT", "Metadata field f is not supported")
    assert refused(stubs.predictions.GetModelMetadata, request) == error
    request.metadata_field[:] = ["signature_def"]
    error = ("NOT_FOUND", "Servable not found for request: Latest(q)")
    assert refused(stubs.predictions.GetModelMetadata, request) == error


@pytest.mark.parametrize(
    ("choice", "versions"),
    [({}, [2, 1]), ({"version": {"value": 1}}, [1]), ({"version_label": "no such label"}, [2, 1])],
)
def test_status_of_all_versions_or_of_one(stubs, choice, versions):
    request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "half", **choice})
    entries = stubs.models.GetModelStatus(request).model_version_status
    assert [(e.version, e.state, e.status.error_code) for e in entries] == [(v, 30, 0) for v in versions]


def test_status_needs_a_model_spec(stubs):
    request = get_model_status_pb2.GetModelStatusRequest()
    assert refused(stubs.models.GetModelStatus, request) == ("INVALID_ARGUMENT", "Missing ModelSpec")


# --- Reloading and health ---------------------------------------------------------------------------


def _reload(running: Running, stubs: Stubs, *metrics: str, more: str = "") -> Any:
    request = model_management_pb2.ReloadConfigRequest(metric_names=metrics)
    text_format.Parse(CONFIG.format(base=running.base, more=more.format(base=running.base)), request.config)
    return stubs.models.HandleReloadConfigRequest(request)


def _health(stubs: Stubs, service: str) -> str:
    response = health_pb2_grpc.HealthStub(stubs.channel).Check(health_pb2.HealthCheckRequest(service=service))
    return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)


def test_reload_serves_new_models_at_once_and_counts_what_it_did(running, stubs):
    records = "/tensorflow/serving/model_warmup_records_read"
    requests = ":tensorflow:serving:request_count"
    try:
        response = _reload(running, stubs, records, requests, "/no/such/metric", more=MORE)
        assert stubs.predict([3], model="more") == [6]
        assert (response.status.error_code, response.status.error_message) == (0, "")
        assert [(metric.name, metric.int64_value_increase) for metric in response.metric] == [
            (records, 2),
            (requests, 0),
        ]
        again = _reload(running, stubs, records, more=MORE)  # the same again
        assert [metric.int64_value_increase for metric in again.metric] == [0]
    finally:
        _reload(running, stubs)
    wait_for(lambda: _state(stubs, "more") == 50, "the unloading")
    error = ("NOT_FOUND", "Servable not found for request: Latest(more)")
    assert refused(stubs.predictions.Predict, predict_request([1], model="more")) == error
    assert stubs.predict([1]) == [2]


def _state(stubs: Stubs, model: str) -> int:
    request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": model})
    return stubs.models.GetModelStatus(request).model_version_status[0].state


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        (
            'config {{ name: "odd" base_path: "{base}/odd" model_platform: "tensorflow" }}',
            "INVALID_ARGUMENT",
            "Illegal to list model odd multiple times in config list",
        ),
        (
            'config {{ name: "new" base_path: "relative" model_platform: "tensorflow" }}',
            "INVALID_ARGUMENT",
            "Expected model new to have an absolute path or URI; got base_path()=relative",
        ),
        (
            'config {{ name: "new" base_path: "{base}/odd" model_platform: "caffe" }}',
            "INVALID_ARGUMENT",
            "Model new requests unsupported platform caffe",
        ),
        (
            'config {{ name: "new" base_path: "{base}/odd" model_platform: "tensorflow"'
            ' version_labels {{ key: "l" value: 2 }} }}',
            "FAILED_PRECONDITION",
            "Request to assign label to version 2 of model new, which is not currently available for "
            "inference",
        ),
    ],
)
def test_a_config_that_is_refused_changes_nothing(running, stubs, more, code, text):
    with pytest.raises(grpc.RpcError) as raised:
        _reload(running, stubs, more=more)
    assert (raised.value.code().name, raised.value.details()) == (code, text)
    assert stubs.predict([1]) == [2]
    assert _health(stubs, "odd") == "SERVING"


def test_reload_takes_lists_of_models_only(stubs):
    error = (
        "INVALID_ARGUMENT",
        "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is "
        "currently supported",
    )
    request = model_management_pb2.ReloadConfigRequest()
    assert refused(stubs.models.HandleReloadConfigRequest, request) == error
    request.config.custom_model_config.SetInParent()
    assert refused(stubs.models.HandleReloadConfigRequest, request) == error


def test_a_new_model_that_fails_is_named(running, stubs):
    (running.base / "bad" / "1").mkdir(parents=True)
    try:
        with pytest.raises(grpc.RpcError) as raised:
            _reload(running, stubs, more=MORE.replace("more", "bad"))
    finally:
        _reload(running, stubs)
    assert (raised.value.code().name, raised.value.details()) == (
        "UNKNOWN",
        "1 model(s) did not become available: {{{name: bad version: 1} due to error: NOT_FOUND: Could not "
        "find SavedModel .pb or .pbtxt at supplied export directory path: "
        f"{running.base}/bad/1}}, }}",
    )


def test_health_of_each_model_follows_what_is_loaded(running, stubs):
    shutil.copytree(running.base / "odd", running.base / "coming")
    more = MORE.replace("more", "coming")
    assert _health(stubs, "half") == "SERVING"
    with pytest.raises(grpc.RpcError) as raised:
        _health(stubs, "coming")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    watch = health_pb2_grpc.HealthStub(stubs.channel).Watch(health_pb2.HealthCheckRequest(service="coming"))
    seen: list[str] = []

    def follow() -> None:
        with contextlib.suppress(grpc.RpcError):  # the end
            for response in watch:
                name = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
                if name not in seen[-1:]:
                    seen.append(name)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        wait_for(lambda: seen == ["SERVICE_UNKNOWN"], "the first word")
        _reload(running, stubs, more=more)
        wait_for(lambda: _health(stubs, "coming") == "SERVING", "SERVING")
        shutil.rmtree(running.base / "coming" / "1")  # the folder stays: its version is unloaded
        wait_for(lambda: _health(stubs, "coming") == "NOT_SERVING", "NOT_SERVING")
        _reload(running, stubs)
        wait_for(lambda: seen[1:] and seen[-1] == "SERVICE_UNKNOWN", "the last word")
        with pytest.raises(grpc.RpcError) as raised:  # as if it had never been there
            _health(stubs, "coming")
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    finally:
        watch.cancel()
        thread.join()
    # NOT_SERVING: it is configured and its version is loading, then gone.
    assert seen == ["SERVICE_UNKNOWN", "NOT_SERVING", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"]
    assert [_health(stubs, service) for service in ("", "ModelService", "half")] == ["SERVING"] * 3


# --- The other services -----------------------------------------------------------------------------


def test_reflection_lists_and_describes_the_services(stubs):
    database = ProtoReflectionDescriptorDatabase(stubs.channel)
    services = {
        "tensorflow.serving.ModelService",
        "tensorflow.serving.PredictionService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert set(database.get_services()) == services
    for service in services:
        file = database.FindFileContainingSymbol(service)
        assert service in [f"{file.package}.{each.name}" for each in file.service]


def test_the_profiler_answers_tensorflow_s_own_client(running, stubs, tmp_path):
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            stubs.predict([1], "hold")

    (running.base / "odd" / "1.go").touch()
    thread = threading.Thread(target=work)
    thread.start()
    try:
        tf.profiler.experimental.client.trace(f"grpc://{running.server.address}", str(tmp_path), 300)
    finally:
        done.set()
        thread.join()
        (running.base / "odd" / "1.go").unlink()
    (trace,) = tmp_path.rglob("*.xplane.pb")
    assert b"while/" in trace.read_bytes()  # the model's own operations
    # On processors without such a thing, TensorFlow itself says so.
    monitor = stubs.channel.unary_unary("/tensorflow.ProfilerService/Monitor")
    assert refused(monitor, b"\x08\x64") == ("UNIMPLEMENTED", "unimplemented.")


# --- The connection ---------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests_are_unpacked(running, stubs, compression):
    xs = np.zeros(300_000, np.float32)
    x = stubs.predict(xs, compression=compression, metadata=[("grpc-accept-encoding", "identity")])
    assert x == xs.tolist()
    with grpc.insecure_channel(running.server.address, compression=compression) as channel:
        assert Stubs(channel).predict([1, 2]) == [2, 4]


def _access_log(running: Running) -> list[dict[str, Any]]:
    lines = [line for line in running.server.log().splitlines() if line.startswith('{"time"')]
    return [json.loads(line) for line in lines]


def test_a_deadline_stops_the_work(running, stubs):
    forever = predict_request([7], "hold")
    assert refused(stubs.predictions.Predict, forever, timeout=0.3)[0] == "DEADLINE_EXCEEDED"
    # The log's line is written when the run is over.
    wait_for(
        lambda: [e for e in _access_log(running) if e["code"] == "DEADLINE_EXCEEDED"], "the end of the run"
    )


def test_rest_cuts_no_texts(running):
    body = {"signature_name": "s" * 2000, "instances": [1]}
    error = f'Serving signature name: "{"s" * 2000}" not found in signature def'
    assert http_post(running.rest_port, "/v1/models/odd:predict", body) == (400, {"error": error})


def test_a_message_that_is_none_is_an_error_like_any_other(stubs):
    call = stubs.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    assert refused(call, b"\xff\xff")[0] == "INTERNAL"
    call = stubs.channel.unary_unary("/tensorflow.serving.PredictionService/NoSuchMethod")
    assert refused(call, b"")[0] == "UNIMPLEMENTED"
    call = stubs.channel.unary_unary("/tensorflow.serving.SessionService/SessionRun")
    assert refused(call, b"")[0] == "UNIMPLEMENTED"


def test_a_request_that_is_cancelled_in_the_queue_does_not_run(tmp_path, monkeypatch):
    arrived = threading.Semaphore(0)

    class OneThread(Workers):
        def __init__(self, **_: int) -> None:
            super().__init__(running=1, most=1)

        def submit(self, *args: Any, **kwargs: Any) -> Any:
            future = super().submit(*args, **kwargs)
            arrived.release()
            return future

    monkeypatch.setattr(server, "Workers", OneThread)
    write_odd(tmp_path / "odd" / "1")
    port = saved_models.free_port()
    options = server.Options(port=port, model_name="odd", model_base_path=f"{tmp_path}/odd")
    embedded = server.Server(options)
    embedded.load()
    embedded.open()
    say = threading.Event()

    def silent() -> Iterator[bytes]:
        say.wait()
        yield predict_request([1]).SerializeToString()

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stubs = Stubs(channel)
        assert stubs.predict([1], "count") == [1]
        assert arrived.acquire(timeout=60)
        # The one thread waits for this one's message.
        held = channel.stream_unary("/tensorflow.serving.PredictionService/Predict").future(silent())
        assert arrived.acquire(timeout=60)
        queued = stubs.predictions.Predict.future(predict_request([1], "count"))
        kept = stubs.predictions.Predict.future(predict_request([1], "count"))
        assert arrived.acquire(timeout=60) and arrived.acquire(timeout=60)
        queued.cancel()
        say.set()
        held.result(60)
        assert y(kept.result(60)) == [2]
    embedded.stop(1.0)


# --- What the server writes down --------------------------------------------------------------------


def _metrics(running: Running) -> dict[str, float]:
    code, page = http_get(running.rest_port, "/metrics")
    assert code == 200
    lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_metrics_add_up(running, stubs):
    prefix = ":tensorflow:serving:"
    before = _metrics(running)
    for _ in range(3):
        stubs.predict([1])
    for _ in range(2):
        stubs.predictions.Regress(_regress("regress_x_to_y", 2))
    stubs.predictions.Classify(_classify("classify_both", 2))
    stubs.predictions.MultiInference(_multi(task("regress_x_to_y"), xs=(1, 2, 3)))
    refused(stubs.predictions.Predict, predict_request([1], "q"))
    refused(stubs.predictions.Predict, predict_request([1], model="never"))
    assert http_post(running.rest_port, "/v1/models/odd:predict", {"instances": [1, 2]})[0] == 200
    assert http_post(running.rest_port, "/v1/models/odd:predict", {})[0] == 400
    assert http_get(running.rest_port, "/v1/models/odd")[0] == 200
    after = _metrics(running)
    grown = {
        name.removeprefix(prefix): after[name] - before.get(name, 0)
        for name in after
        if after[name] != before.get(name, 0) and not re.search(r"_(bucket|sum)\{|request_log_count", name)
    }
    assert grown == {
        'request_count{model_name="odd",status="OK"}': 3 + 1 + 1,
        'request_count{model_name="odd",status="FAILED_PRECONDITION"}': 1,
        'request_count{model_name="odd",status="INVALID_ARGUMENT"}': 1,
        'request_count{model_name="never",status="NOT_FOUND"}': 1,
        'request_count{model_name="half",status="OK"}': 3,
        'request_latency_count{model_name="odd",API="Predict",entrypoint="GRPC"}': 3,
        'request_latency_count{model_name="odd",API="predict",entrypoint="REST"}': 1,
        'request_latency_count{model_name="odd",API="",entrypoint="REST"}': 1,
        'request_latency_count{model_name="half",API="Regress",entrypoint="GRPC"}': 2,
        'request_latency_count{model_name="half",API="Classify",entrypoint="GRPC"}': 1,
        'runtime_latency_count{model_name="odd",API="Predict",runtime="TF1"}': 4,
        'runtime_latency_count{model_name="half",API="Regress",runtime="TF1"}': 2,
        'runtime_latency_count{model_name="half",API="Classify",runtime="TF1"}': 1,
        'request_example_counts_count{model="half"}': 1,
        'request_example_count_total{model="half"}': 3,
    }


def test_the_access_log_has_a_line_for_each_request(running, stubs):
    wait_for(lambda: not _unsettled(running), "the log")
    before = len(_access_log(running))
    stubs.predictions.Regress(_regress("regress_x_to_y", 2))
    refused(stubs.predictions.Predict, predict_request([1], "q"))
    http_get(running.rest_port, "/v1/models/half")
    wait_for(lambda: len(_access_log(running)) >= before + 3, "three lines")
    lines = _access_log(running)[before:]
    keys = ("entrypoint", "api", "model", "version", "signature", "code")
    assert [tuple(line[key] for key in keys) for line in lines] == [
        ("GRPC", "Regress", "half", 2, "regress_x_to_y", "OK"),
        ("GRPC", "Predict", "odd", None, "q", "FAILED_PRECONDITION"),
        ("REST", "", "half", None, "", "OK"),
    ]
    assert lines[0]["path"] == "/tensorflow.serving.PredictionService/Regress"
    assert lines[0]["request_bytes"] == _regress("regress_x_to_y", 2).ByteSize()
    assert lines[0]["latency_ms"] > 0


def _unsettled(running: Running) -> bool:
    """Lines still come."""
    count = len(_access_log(running))
    time.sleep(0.2)
    return len(_access_log(running)) != count


def _logged(running: Running) -> list[prediction_log_pb2.PredictionLog]:
    logs = []
    for file in sorted((running.base / "logs").iterdir()):
        for record in tf_record.tf_record_iterator(str(file)):
            logs.append(prediction_log_pb2.PredictionLog.FromString(record))
    return logs


def test_sampled_requests_are_logged_as_readable_records(running, stubs):
    request = _regress("regress_x_to_y", 32)
    response = stubs.predictions.Regress(request)
    code, answer = http_post(
        running.rest_port,
        "/v1/models/half:classify",
        {"signature_name": "classify_x_to_y", "examples": [{"x": 64.0}]},
    )
    assert (code, answer) == (200, {"results": [[["", 34.0]]]})
    wait_for(
        lambda: [log for log in _logged(running) if log.HasField("classify_log")][-1:]
        and _logged(running)[-1].HasField("classify_log"),
        "the records",
    )
    regress, classify = _logged(running)[-2:]
    assert regress.regress_log.request == request
    assert regress.regress_log.response == response
    assert regress.log_metadata.model_spec.version.value == 2
    assert classify.classify_log.request.input.example_list.examples[0].features.feature[
        "x"
    ].float_list.value == [64]
    assert classify.classify_log.response.result.classifications[0].classes[0].score == 34
