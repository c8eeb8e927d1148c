"""The embedded server, started as users start it and called with TensorFlow Serving's own stubs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import saved_models
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving import inference, servable, server, server_main, status
from serving.client import Client
from serving.errors import ServerNotStarted, ServerUnavailable
from serving.launch import LaunchedServer, launch

pytest_plugins = ["saved_models"]  # the models and the running server


@pytest.fixture(scope="module")
def channel(running: LaunchedServer) -> Iterator[grpc.Channel]:
    options = (("grpc.max_receive_message_length", -1),)
    with grpc.insecure_channel(running.address, options=options) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> prediction_service_pb2_grpc.PredictionServiceStub:
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel: grpc.Channel) -> model_service_pb2_grpc.ModelServiceStub:
    return model_service_pb2_grpc.ModelServiceStub(channel)


def _request(
    model: str = "dense", signature: str = "", outputs: tuple[str, ...] = (), **inputs: object
) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        proto = value if isinstance(value, tensor_pb2.TensorProto) else tf.make_tensor_proto(value)
        request.inputs[name].CopyFrom(proto)
    return request


def _row(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def _await(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def _states(models: model_service_pb2_grpc.ModelServiceStub, name: str) -> dict[int, str]:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    return {
        entry.version: get_model_status_pb2.ModelVersionStatus.State.Name(entry.state)
        for entry in models.GetModelStatus(request).model_version_status
    }


# --- Predict -------------------------------------------------------------------------------------


def test_predict_answers_the_stock_client(stub):
    response = stub.Predict(_request(x=_row(1, 2, 3)))
    assert response.model_spec.name == "dense"
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "serving_default"
    assert not response.model_spec.version_label
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [12.0]
    assert tf.make_ndarray(response.outputs["image"]).shape == (1, 4, 4, 1)


def test_answers_hold_typed_values_at_every_size(stub):
    response = stub.Predict(_request(signature="wide", x=np.ones(3, np.float32)))
    assert len(response.outputs["y"].float_val) == 3000
    assert not response.outputs["y"].tensor_content
    text = stub.Predict(_request("text", text=np.array([b"a"]), times=np.array([2])))
    assert list(text.outputs["text"].string_val) == [b"AA"]


def test_requests_may_hold_values_short_of_their_shape(stub):
    request = _request(x=_row(0, 0, 0))
    proto = request.inputs["x"]
    proto.ClearField("tensor_content")
    proto.ClearField("float_val")
    proto.float_val.append(2.0)
    assert tf.make_ndarray(stub.Predict(request).outputs["y"]).tolist() == [12.0]


def test_messages_may_be_larger_than_grpc_s_four_megabytes(stub):
    rows = 400_000
    request = _request(x=np.ones((rows, 3), np.float32), outputs=("y",))
    assert request.ByteSize() > 4 * 2**20
    assert len(stub.Predict(request).outputs["y"].float_val) == rows
    answer = stub.Predict(_request(signature="wide", x=np.ones(1500, np.float32)))
    assert answer.ByteSize() > 4 * 2**20


def test_output_filter_picks_outputs(stub):
    assert list(stub.Predict(_request(x=_row(1, 1, 1), outputs=("y",))).outputs) == ["y"]


def test_inputs_with_defaults_may_be_left_out(stub):
    x = np.array([1, 2], np.float32)
    gain, shift = np.array([10], np.float32), np.array([0], np.float32)

    def ask(**inputs: np.ndarray) -> list[float]:
        response = stub.Predict(_request(signature="options", x=x, **inputs))
        return tf.make_ndarray(response.outputs["y"]).tolist()

    assert ask() == [4, 7]
    assert ask(gain=gain) == [11, 21]
    assert ask(gain=gain, shift=shift) == [10, 20]


def test_shapes_are_the_ops_affair_as_upstream(stub):
    # [2, 1, 3] is not the signature's [B, 3], but matmul takes it up to the squeeze.
    with pytest.raises(grpc.RpcError) as raised:
        stub.Predict(_request(x=np.ones((1, 2), np.float32)))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "[[{{node " in raised.value.details()
    scalar = stub.Predict(_request(signature="options", x=np.float32(1)))
    assert tf.make_ndarray(scalar.outputs["y"]).tolist() == [4]


def test_versions_and_labels_choose(stub):
    request = _request("labelled", x=_row(1, 0, 0))

    def ask() -> tuple[int, float]:
        response = stub.Predict(request)
        return response.model_spec.version.value, response.outputs["y"].float_val[0]

    assert ask() == (2, 5)
    request.model_spec.version.value = 1
    assert ask() == (1, 2)
    request.model_spec.version_label = "canary"
    assert ask() == (2, 5)
    request.model_spec.version_label = "stable"
    assert ask() == (1, 2)


BAD_TENSOR = tf.make_tensor_proto(np.ones(2, np.float32))
BAD_TENSOR.tensor_content = b"123"

PREDICT_ERRORS = [
    (
        _request("", x=_row(1, 2, 3)),
        "INVALID_ARGUMENT",
        "ModelSpec has no name specified.",
    ),
    (_request("nope"), "NOT_FOUND", "Servable not found for request: Latest(nope)"),
    (
        _request(signature="nope"),
        "FAILED_PRECONDITION",
        'Serving signature key "nope" not found.',
    ),
    (
        _request(x=_row(1, 2, 3), a=_row(1)),
        "INVALID_ARGUMENT",
        "input size does not match signature: 2!=1 len({a,x}) != len({x}). Sent extra: {a}. "
        "Missing but required: {}.",
    ),
    (
        _request("text", text=np.array([b"a"])),
        "INVALID_ARGUMENT",
        "input size does not match signature: 1!=2 len({text}) != len({text,times}). "
        "Sent extra: {}. Missing but required: {times}.",
    ),
    (
        _request(a=_row(1, 2, 3)),
        "INVALID_ARGUMENT",
        "Signature input alias: x(feed name: serving_default_x:0) not found in request and no "
        "default value provided. Inputs expected to be in the request {a}, or default input alias "
        "set: ",
    ),
    (
        _request(signature="options", x=np.ones(1, np.float32), a=np.ones(1, np.float32)),
        "INVALID_ARGUMENT",
        "Inputs contains invalid name. Used request inputs: x, request input: a,x",
    ),
    (_request(x=BAD_TENSOR), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (
        _request(x=_row(1, 2, 3), outputs=("q",)),
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature: q Outputs expected to be in the set {image,y}.",
    ),
    (
        _request(x=_row(1, 2, 3), outputs=("y", "y")),
        "INVALID_ARGUMENT",
        "duplicate output tensor alias: y",
    ),
    (
        _request(x=np.array([["a", "b", "c"]])),
        "INVALID_ARGUMENT",
        "Expects arg[0] to be float but string is provided",
    ),
    (predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
    (
        _request(signature="s" * 2000),
        "FAILED_PRECONDITION",
        'Serving signature key "' + "s" * 1001 + "...TRUNCATED",
    ),
]


@pytest.mark.parametrize(("request_", "code", "text"), PREDICT_ERRORS)
def test_predict_s_errors_have_upstream_s_code_and_text(stub, request_, code, text):
    with pytest.raises(grpc.RpcError) as raised:
        stub.Predict(request_)
    assert (raised.value.code().name, raised.value.details()) == (code, text)


@pytest.mark.parametrize(
    ("choice", "code", "text"),
    [
        ({"version": 7}, "NOT_FOUND", "Servable not found for request: Specific(labelled, 7)"),
        ({"label": "nope"}, "INVALID_ARGUMENT", "Unrecognized servable version label: nope"),
        ({"label": "later"}, "NOT_FOUND", "Servable not found for request: Specific(labelled, 7)"),
    ],
)
def test_unknown_versions_and_labels(stub, choice, code, text):
    request = _request("labelled", x=_row(1, 2, 3))
    if "version" in choice:
        request.model_spec.version.value = choice["version"]
    else:
        request.model_spec.version_label = choice["label"]
    with pytest.raises(grpc.RpcError) as raised:
        stub.Predict(request)
    assert (raised.value.code().name, raised.value.details()) == (code, text)


def test_bytes_that_are_not_utf8_in_a_message_are_an_error_like_any_other(stub):
    examples = np.array([b"\xff\xfe not an example"], dtype=object)
    with pytest.raises(grpc.RpcError) as raised:
        stub.Predict(_request("text", "parse", inputs=examples))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


# --- Metadata, status, health, reflection --------------------------------------------------------


def _metadata_request(*fields: str) -> get_model_metadata_pb2.GetModelMetadataRequest:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = "dense"
    return request


def test_metadata_holds_the_signatures_as_stored(stub):
    response = stub.GetModelMetadata(_metadata_request("signature_def"))
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert response.model_spec.version.value == 1
    assert "__saved_model_init_op" in signatures.signature_def
    assert set(signatures.signature_def["options"].defaults) == {"gain", "shift"}


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (
            _metadata_request(),
            "INVALID_ARGUMENT",
            "GetModelMetadataRequest must specify at least one metadata_field",
        ),
        (_metadata_request("q"), "INVALID_ARGUMENT", "Metadata field q is not supported"),
        (
            get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"]),
            "INVALID_ARGUMENT",
            "Missing ModelSpec",
        ),
    ],
)
def test_metadata_s_errors(stub, request_, code, text):
    with pytest.raises(grpc.RpcError) as raised:
        stub.GetModelMetadata(request_)
    assert (raised.value.code().name, raised.value.details()) == (code, text)


def test_status_lists_versions_newest_first(models):
    assert list(_states(models, "labelled").items()) == [(2, "AVAILABLE"), (1, "AVAILABLE")]


@pytest.mark.parametrize(
    ("name", "version", "code", "text"),
    [
        ("nope", None, "NOT_FOUND", "Could not find any versions of model nope"),
        ("dense", 7, "NOT_FOUND", "Could not find version 7 of model dense"),
        ("", None, "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    ],
)
def test_status_s_errors(models, name, version, code, text):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    with pytest.raises(grpc.RpcError) as raised:
        models.GetModelStatus(request)
    assert (raised.value.code().name, raised.value.details()) == (code, text)


@pytest.mark.parametrize("service", ["", "ModelService", "PredictionService"])
def test_health_is_served_behind_its_flag(channel, service):
    response = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    assert response.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services(channel):
    services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
    } <= set(services)


def test_the_unix_socket_answers_too(running, model_base):
    with Client.connect(f"unix:{model_base}/socket") as client:
        assert client.predict("dense", {"x": [[1, 2, 3]]})["y"].tolist() == [12]


def test_unknown_arguments_are_reported_and_the_server_starts(running):
    assert "unknown argument: --no_such_flag=1" in running.log()
    assert "unknown argument: --port 8500" in running.log()
    assert f"Running gRPC ModelServer at 0.0.0.0:{running.address.partition(':')[2]} ..." in (running.log())


# --- Versions that come and go -------------------------------------------------------------------


def test_hot_swap_fails_no_request(running, models, model_base):
    answers: list[float] = []
    failures: list[Exception] = []
    done = threading.Event()

    def ask() -> None:
        with Client.connect(running.address) as client:
            while not done.is_set():
                try:
                    answers.append(float(client.predict("swap", {"x": [[1, 0, 0]]})["y"][0]))
                except Exception as error:
                    failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for version, scale in ((2, 3.0), (3, 4.0)):
            saved_models.write_dense(model_base / "swap", version, scale)
            _await(
                lambda version=version: (
                    _states(models, "swap").get(version) == "AVAILABLE"
                    and _states(models, "swap")[version - 1] == "END"
                ),
                f"version {version}",
            )
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert set(answers) == {2.0, 3.0, 4.0}
    assert _states(models, "swap") == {3: "AVAILABLE", 2: "END", 1: "END"}


def test_damaged_versions_leave_what_serves_in_place(stub, models, model_base):
    def ask() -> float:
        return stub.Predict(_request("damaged", x=_row(1, 0, 0))).outputs["y"].float_val[0]

    def error(version: int) -> tuple[int, str]:
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "damaged"
        request.model_spec.version.value = version
        (entry,) = models.GetModelStatus(request).model_version_status
        return entry.status.error_code, entry.status.error_message

    garbage = model_base / "garbage"
    garbage.mkdir()
    (garbage / "saved_model.pb").write_bytes(b"\xff" * 100)
    os.rename(garbage, model_base / "damaged" / "2")
    _await(lambda: _states(models, "damaged").get(2) == "END", "the end of version 2")
    assert ask() == 2
    assert error(2)[0] == grpc.StatusCode.DATA_LOSS.value[0]

    (model_base / "damaged" / "3").mkdir()  # an export that has only begun
    _await(lambda: _states(models, "damaged").get(3) == "END", "the end of version 3")
    assert ask() == 2
    assert error(3) == (
        grpc.StatusCode.NOT_FOUND.value[0],
        f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {model_base}/damaged/3",
    )

    # Variables cut off: the graph is whole, the weights are not.
    path = saved_models.write_dense(model_base / "cut", 4)
    (path / "variables" / "variables.data-00000-of-00001").write_bytes(b"")
    os.rename(path, model_base / "damaged" / "4")
    _await(lambda: _states(models, "damaged").get(4) == "END", "the end of version 4")
    assert ask() == 2

    saved_models.write_dense(model_base / "damaged", 5, scale=7.0)
    _await(lambda: _states(models, "damaged").get(5) == "AVAILABLE", "version 5")
    assert ask() == 7


def test_a_missing_base_path_unloads_nothing_an_empty_one_everything(running, stub, models, model_base):
    request = _request("leaving", x=_row(1, 0, 0))
    os.rename(model_base / "leaving", model_base / "elsewhere")
    _await(lambda: "Could not find base path" in running.log(), "a complaint")
    assert stub.Predict(request).outputs["y"].float_val[0] == 2

    (model_base / "leaving").mkdir()
    _await(lambda: _states(models, "leaving") == {1: "END"}, "the unloading")
    with pytest.raises(grpc.RpcError, match=r"Latest\(leaving\)"):
        stub.Predict(request)

    os.rename(model_base / "elsewhere" / "1", model_base / "leaving" / "1")
    _await(lambda: _states(models, "leaving") == {1: "AVAILABLE"}, "the return")
    assert stub.Predict(request).outputs["y"].float_val[0] == 2


# --- Start and stop ------------------------------------------------------------------------------


def test_sigterm_lets_requests_in_flight_finish(model_base):
    with launch(("dense", model_base / "dense")) as launched:
        with grpc.insecure_channel(launched.address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            steps = np.array(300_000, np.int32)
            slow = stub.Predict.future(_request(signature="slow", steps=steps))
            # On the same connection: once this one is answered, the slow one has arrived.
            stub.Predict(_request(x=_row(1, 2, 3)))
            assert not slow.done()
            assert launched.stop() == 0
            assert slow.result().outputs["y"].int_val[0] == 300_000
        with Client.connect(launched.address) as client, pytest.raises(ServerUnavailable):
            client.predict("dense", {"x": [[1, 2, 3]]})


LAUNCHER = """
import pathlib, sys, time
from serving.launch import launch
with launch(("dense", pathlib.Path(sys.argv[1]) / "dense")) as server:
    print(server.process.pid, flush=True)
    time.sleep(600)
"""


def test_a_launched_server_ends_with_its_killed_launcher(model_base: Path) -> None:
    command = [sys.executable, "-c", LAUNCHER, str(model_base)]
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as launcher:
        server = int(launcher.stdout.readline())  # type: ignore[union-attr]
        launcher.kill()
    deadline = time.monotonic() + 30
    while _runs(server):
        assert time.monotonic() < deadline, "the server goes on alone"
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_model_that_cannot_load_ends_the_start(tmp_path):
    (tmp_path / "bad" / "1").mkdir(parents=True)
    with (
        pytest.raises(ServerNotStarted) as raised,
        launch(("bad", tmp_path / "bad"), flags=["--max_num_load_retries=0"]),
    ):
        pass
    assert "the server ended with status 255" in str(raised.value)
    assert (
        "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: "
        "{{{name: bad version: 1} due to error: NOT_FOUND: Could not find SavedModel .pb or .pbtxt "
        f"at supplied export directory path: {tmp_path}/bad/1}}, }}"
    ) in str(raised.value)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_a_server_that_waits_for_its_model(tmp_path, number, status):
    base = tmp_path / "empty"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "serving.server_main", "--model_name=late"),
            *("--port=0", f"--grpc_socket_path={tmp_path}/socket", f"--model_base_path={base}"),
        ],
        cwd=saved_models.ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    # It complains of the missing folder once it waits for it.
    said = iter(process.stderr)
    assert any(str(base) in line for line in said)
    process.send_signal(number)
    assert list(said) == ["Stopped before the models were available.\n"]
    assert process.wait() == status


@pytest.mark.parametrize("flag", ["--model_base_path=/models/m", "--version"])
def test_a_base_install_has_no_server(base_install, tmp_path, flag):
    python, environment = base_install
    done = subprocess.run(
        [*python, "-m", "serving.server_main", flag],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stderr == "error: the server needs TensorFlow: pip install 'atelier[serve]'\n"
    assert (done.returncode, done.stdout) == (1, "")


def test_a_server_that_waits_for_its_model_is_given_up(tmp_path):
    with (
        pytest.raises(ServerNotStarted, match=r"not ready within 0\.5 s"),
        launch(("late", tmp_path), timeout=0.5),
    ):
        pass


def _options(tmp_path: Path, config: str | None = None, **changes: object) -> server.Options:
    if config is not None:
        (tmp_path / "config").write_text(config)
        changes["model_config_file"] = str(tmp_path / "config")
    return server.Options(**{"model_base_path": "/models/m", **changes})


MODEL = 'config { name: "m" base_path: "/m" model_platform: "tensorflow" }'


@pytest.mark.parametrize(
    ("config", "changes", "error"),
    [
        (
            None,
            {"port": 70000, "model_base_path": "/nowhere"},
            "INVALID_ARGUMENT: Failed to BuildAndStart gRPC server: port 70000",
        ),
        (
            None,
            {"port": 0},
            "INVALID_ARGUMENT: At least one of server_options.grpc_port or "
            "server_options.grpc_socket_path must be set.",
        ),
        (
            None,
            {"model_base_path": ""},
            "INVALID_ARGUMENT: Both server_options.model_base_path and "
            "server_options.model_config_file are empty!",
        ),
        (
            None,
            {"model_base_path": "models/m", "model_name": "m"},
            "INVALID_ARGUMENT: Expected model m to have an absolute path or URI; got base_path()=models/m",
        ),
        (
            f"model_config_list {{ {MODEL} {MODEL} }}",
            {},
            "INVALID_ARGUMENT: Illegal to list model m multiple times in config list",
        ),
        (
            'model_config_list { config { name: "m" base_path: "/m" } }',
            {},
            "INVALID_ARGUMENT: Illegal setting neither ModelServerConfig::model_type (deprecated) "
            "nor ModelServerConfig::model_platform, model name is m",
        ),
        (
            'model_config_list { config { name: "m" base_path: "/m" model_platform: "caffe" } }',
            {},
            "INVALID_ARGUMENT: Model m requests unsupported platform caffe",
        ),
        ("model_config_list {", {}, "INVALID_ARGUMENT: Invalid protobuf file: '{path}/config'"),
        (
            None,
            dict.fromkeys(
                (
                    "tensorflow_session_parallelism",
                    "tensorflow_intra_op_parallelism",
                    "tensorflow_inter_op_parallelism",
                ),
                1,
            ),
            "INVALID_ARGUMENT: Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, "
            "server_options.tensorflow_inter_op_parallelism) separately. You cannot configure all.",
        ),
    ],
)
def test_wrong_options_end_the_start_with_upstream_s_text(tmp_path, config, changes, error):
    with pytest.raises(tf.errors.OpError) as raised:
        server.Server(_options(tmp_path, config, **changes))
    assert status.text(raised.value) == error.format(path=tmp_path)


def test_an_unparsable_config_is_reported_where_tools_look(tmp_path, capsys):
    with pytest.raises(tf.errors.InvalidArgumentError):
        server.Server(_options(tmp_path, "model_config_list {\n  nonsense\n}"))
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig: 2:3:" in capsys.readouterr().err


def test_a_port_in_use_ends_the_start(model_base):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        options = server.Options(
            port=taken.getsockname()[1], model_base_path=f"{model_base}/dense", model_name="dense"
        )
        with pytest.raises(tf.errors.InvalidArgumentError, match="Failed to BuildAndStart"):
            server.Server(options).open()


def test_a_run_past_its_timeout_is_stopped_with_upstream_s_text(model_base):
    loaded = servable.Servable(f"{model_base}/dense/1", ["serve"], tf.compat.v1.ConfigProto())
    steps = tf.make_tensor_proto(np.array(2**31 - 1, np.int32))
    with pytest.raises(tf.errors.DeadlineExceededError) as raised:
        inference.predict(loaded, "slow", {"steps": steps}, (), timeout=0.2)
    assert raised.value.message == "Timed out waiting for notification"
    loaded.close()


def test_wrong_tags_are_named(model_base):
    with pytest.raises(tf.errors.NotFoundError, match=r"matching supplied tags: \{ gpu \}"):
        servable.Servable(f"{model_base}/dense/1", ["gpu"], tf.compat.v1.ConfigProto())


@pytest.mark.parametrize(
    ("arguments", "status", "output"),
    [
        (["--help"], 255, "usage: "),
        (["--port=many"], 255, "usage: "),
        (["--port=4294967296"], 255, "usage: "),
        (["--enable_grpc_healthcheck_service=maybe"], 255, "usage: "),
        (["--version"], 0, "TensorFlow ModelServer: "),
    ],
)
def test_flags_that_end_the_program(capsys, arguments, status, output):
    assert server_main.main(["server", *arguments]) == status
    assert capsys.readouterr().out.startswith(output)


def test_flags_are_read_as_upstream_reads_them():
    values, unknown = server_main.parse_flags(
        ["--port=1", "-port=2", "--port", "--version=TRUE", "--model_name=a=b", "stray"]
    )
    assert (values["port"], values["version"], values["model_name"]) == (1, True, "a=b")
    assert unknown == ["-port=2", "--port", "stray"]
    assert server_main.parse_flags(["--version"])[0]["version"] is True


def test_flags_and_options_agree_on_names_and_defaults():
    values, _ = server_main.parse_flags([])
    options = vars(server.Options())
    assert {name: values[name] for name in options} == options
    # The others are for server_main itself, or known and without effect.
    others = {"version", "engine", "import"} | server_main.IGNORED
    assert values.keys() - options.keys() == others


def test_a_failed_start_is_reported_on_standard_output():
    # In a process of its own: the binary sets signal handlers.
    done = subprocess.run(
        [sys.executable, "-m", "serving.server_main", "--model_base_path=relative"],
        cwd=saved_models.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 255
    assert done.stdout == (
        "Failed to start server. Error: INVALID_ARGUMENT: Expected model default to have an "
        "absolute path or URI; got base_path()=relative\n"
    )
