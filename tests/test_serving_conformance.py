"""Rows of TensorFlow Serving's behaviour that no other test holds, most of them through the real binary.

The config file and its reloads, the REST face, versions that come while requests run, and starts that are
refused. Texts are upstream's, to the letter.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import keras
import numpy as np
import pytest
import saved_models
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import error_codes_pb2, saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2
from test_serving_grpc import predict_request, write_odd, write_warm_up

from serving import engine, inference, rest_api, rest_server, servable, server, status, versions
from serving.launch import LaunchedServer, launch
from serving.metrics import Metrics
from serving.repository import Options, Repository, State
from serving.request_log import RequestLoggers
from serving.telemetry import Telemetry

GRPC_CLIENTS = 50
REST_CLIENTS = 4
SWAPS = 5

CONFIG = """
model_config_list {{
  config {{
    name: "dense" base_path: "{base}/dense" model_platform: "tensorflow"
    model_version_policy {{ all {{}} }}
    version_labels {{ key: "stable" value: 1 }}
    version_labels {{ key: "later" value: 9 }}
  }}
  config {{ name: "half" base_path: "{base}/half" model_platform: "tensorflow" }}
  config {{ name: "swap" base_path: "{base}/swap" model_platform: "tensorflow" }}
}}
"""


class Served:
    """A server with both faces over the models in `base`."""

    def __init__(self, launched: LaunchedServer, rest_port: int, base: Path) -> None:
        self.launched = launched
        self.rest_port = rest_port
        self.base = base

    def connect(self) -> contextlib.closing[http.client.HTTPConnection]:
        return contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.rest_port, timeout=60))

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, str]:
        code, _, content = self.ask_fully(method, path, body, **headers)
        return code, content

    def ask_fully(
        self, method: str, path: str, body: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        with self.connect() as connection:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, fields, answer.read().decode()

    def states(self, model: str) -> dict[str, str]:
        code, content = self.ask("GET", f"/v1/models/{model}")
        if code == 404:
            return {}
        return {entry["version"]: entry["state"] for entry in json.loads(content)["model_version_status"]}


@contextlib.contextmanager
def _serve(config: Path, base: Path, *flags: str) -> Iterator[Served]:
    port = saved_models.free_port()
    with launch(config, flags=["--max_num_load_retries=0", f"--rest_api_port={port}", *flags]) as launched:
        _await(lambda: "Exporting HTTP/REST API" in launched.log(), "the REST port")
        yield Served(launched, port, base)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    base = tmp_path_factory.mktemp("conformance")
    for version in (1, 2):
        saved_models.write_dense(base / "dense", version, scale=float(version))
    for model in ("half", "swap"):
        saved_models.write_dense(base / model, 1, scale=1.0)
    (base / "models.config").write_text(CONFIG.format(base=base))
    with _serve(base / "models.config", base) as served:
        yield served


def _await(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def _error(text: str) -> str:
    return f'{{\n    "error": {json.dumps(text)}\n}}'


# --- REST ----------------------------------------------------------------------------------------

SLOW_INPUT = '{"signature_name": "slow", "inputs": %s}'


@pytest.mark.parametrize(
    ("path", "body", "code", "answer"),
    [
        (
            "dense:predict",
            '{"signature_name": "options", "instances": [{"x": 1, "gain": 2, "shift": 0.5}]}',
            200,
            '{\n    "predictions": [2.5\n    ]\n}',
        ),
        (
            "DENSE:predict",  # names are not the URL's other words
            "{}",
            404,
            _error("Servable not found for request: Latest(DENSE)"),
        ),
        ("dense/labels/stable:PREDICT", SLOW_INPUT % 3, 200, '{\n    "outputs": 3\n}'),
        ("dense/versions/00002:predict", SLOW_INPUT % 3 + " and more", 200, '{\n    "outputs": 3\n}'),
        (
            "dense/labels/later:predict",
            "{}",
            404,
            _error("Servable not found for request: Specific(dense, 9)"),
        ),
        ("dense/labels/none:predict", "{}", 400, _error("Unrecognized servable version label: none")),
        ("gone/labels/none:predict", "{}", 400, _error("Unrecognized servable version label: none")),
        # REST has no output_filter and takes no defaults.
        (
            "dense:predict",
            '{"signature_name": "options", "instances": [{"x": 1}]}',
            400,
            _error(
                "Failed to process element: 0 of 'instances' list. JSON object: {\n    \"x\": 1\n} keys must "
                "be equal to: gain,shift,x"
            ),
        ),
        (
            "dense:predict",
            '{"signature_name": "options", "inputs": {"x": [1]}}',
            400,
            _error("Missing named input: gain in 'inputs' object."),
        ),
        (
            "dense:predict",
            SLOW_INPUT % "1.0",
            400,
            _error("JSON Value: 1.0 Type: Number is not of expected type: int32"),
        ),
        (
            "dense:predict",
            '{"signature_name": "wide", "instances": [NaN, 1e999]}',
            400,
            _error("JSON Parse error: Number too big to be stored in double. at offset: 46"),
        ),
        (
            "dense:classify",
            "{",
            400,
            _error("JSON Parse error: Missing a name for object member. at offset: 1"),
        ),
        ("dense:regress", '{"examples": [{"x": 1}]}', 400, _error("Expected one output Tensor.")),
        (
            "dense:classify",
            '{"signature_name": "S", "examples": [{}]}',
            400,
            _error("No signature was found with the name: S"),
        ),
    ],
)
def test_rest_answers_as_upstream(served, path, body, code, answer):
    assert served.ask("POST", f"/v1/models/{path}", body) == (code, answer)


def test_an_op_s_own_error_is_not_cut(served):
    code, content = served.ask("POST", "/v1/models/dense:predict", '{"instances": [[1, 2]]}')
    assert code == 400
    text = json.loads(content)["error"]
    assert "\n\t [[{{node " in text
    name = "s" * 2000
    code, content = served.ask("POST", "/v1/models/dense:predict", json.dumps({"signature_name": name}))
    assert content == _error(f'Serving signature name: "{name}" not found in signature def')


def test_answers_are_never_compressed(served):
    code, headers, content = served.ask_fully("GET", "/v1/models/dense/metadata", Accept_Encoding="gzip")
    assert code == 200
    assert "content-encoding" not in headers
    assert headers["content-type"] == "application/json"
    assert json.loads(content)["model_spec"] == {"name": "dense", "signature_name": "", "version": "2"}


def test_a_version_that_failed_stays_in_the_status_with_its_error(served):
    (served.base / "half" / "2").mkdir()
    _await(lambda: served.states("half").get("2") == "END", "the end of version 2")
    code, content = served.ask("GET", "/v1/models/half")
    assert code == 200
    assert json.loads(content) == {
        "model_version_status": [
            {
                "version": "2",
                "state": "END",
                "status": {
                    "error_code": "NOT_FOUND",
                    "error_message": "Could not find SavedModel .pb or .pbtxt at supplied export directory "
                    f"path: {served.base}/half/2",
                },
            },
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}},
        ]
    }
    code, content = served.ask("POST", "/v1/models/half/versions/2:predict", "{}")
    assert (code, content) == (404, _error("Servable not found for request: Specific(half, 2)"))


@pytest.mark.parametrize("name", ["a%0Ab", "%0d%0a", "a%00b"])
def test_a_name_may_hold_any_character(served, name):
    text = f"Servable not found for request: Latest({name})"
    text = text.replace("%0A", "\n").replace("%0d", "\r").replace("%0a", "\n").replace("%00", "\0")
    code, content = served.ask("POST", f"/v1/models/{name}:predict", "{}")
    assert (code, json.loads(content)) == (404, {"error": text})


# gRPC's codes, and what HTTP makes of them.
HTTP_CODES = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
}


class Failing:
    """A model whose runs end with the code that the input is."""

    def __init__(self) -> None:
        info = tf.compat.v1.saved_model.build_tensor_info(tf.compat.v1.placeholder(tf.int32, name="code"))
        signature = tf.compat.v1.saved_model.build_signature_def({"code": info}, {"code": info})
        self.signature_defs = {"serving_default": signature}

    def run(self, feeds: dict[str, np.ndarray], fetches: object, timeout: object) -> list[np.ndarray]:
        (code,) = feeds.values()
        raise status.Error(None, None, "why", int(code))

    def close(self) -> None:
        pass


def _repository(base: Path, load: Callable[..., object], **options: object) -> Repository:
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(name="m", base_path=str(base), model_platform="tensorflow")
    settings = {"file_system_poll_wait_seconds": 0.01, "max_num_load_retries": 0, **options}
    return Repository(config, Options(**settings), load)


def _app(repository: Repository, **options: object) -> object:
    loggers = RequestLoggers(Metrics().request_logged)
    return rest_api.app(repository, Telemetry([]), loggers, rest_api.Options(**options))


def test_each_code_has_its_http_code(tmp_path):
    (tmp_path / "1").mkdir()
    with tf.Graph().as_default():
        failing = Failing()
    repository = _repository(tmp_path, lambda *_: failing)
    repository.start()
    rest = rest_server.RestServer(_app(repository), 0)
    rest.start()
    served = Served(None, rest.port, tmp_path)
    answers = {}
    for name in HTTP_CODES:
        body = json.dumps({"inputs": error_codes_pb2.Code.Value(name)})
        answers[name], content = served.ask("POST", "/v1/models/m:predict", body)
        assert content == _error("why")
    assert answers == HTTP_CODES
    rest.stop(1)
    repository.stop()


@pytest.mark.parametrize("start", [b"GET /v1/models/m HTTP/1.1\r\nX: ", b"GET /v1/models/"])
def test_a_request_s_head_has_an_end(served, start):
    with socket.create_connection(("127.0.0.1", served.rest_port), 60) as endless:
        endless.sendall(start)
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                endless.sendall(b"a" * 2**20)
            pytest.fail("64 MiB were taken")
    code, _ = served.ask("GET", f"/v1/models/{'a' * 60_000}")
    assert code == 404


def test_a_stop_answers_those_that_are_not_done(tmp_path, caplog):
    rest = rest_server.RestServer(_app(_repository(tmp_path, lambda *_: pytest.fail("nothing to load"))), 0)
    rest.start()
    served = Served(None, rest.port, tmp_path)
    with served.connect() as stalled:
        stalled.putrequest("POST", "/v1/models/m:predict")
        stalled.putheader("Content-Length", "100")
        stalled.endheaders(b'{"instances"')
        assert served.ask("GET", "/healthz") == (200, "ok\n")  # so the other one has arrived
        rest.stop(0)
        answer = stalled.getresponse()
        assert (answer.status, answer.read().decode()) == (503, _error("The server is being stopped"))
    assert "Traceback" not in caplog.text


# --- Starts that are refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"rest_api_num_threads": 0},
            "INVALID_ARGUMENT: rest_api_num_threads must be positive; was 0",
        ),
        (
            {"monitoring_config_file": 'prometheus_config { enable: true path: "metrics" }'},
            'INVALID_ARGUMENT: prometheus_config: path is "metrics", expected one that begins with "/" and '
            "has no braces",
        ),
    ],
)
def test_a_rest_port_that_cannot_work_ends_the_start(tmp_path, changes, error):
    if "monitoring_config_file" in changes:
        (tmp_path / "file").write_text(changes["monitoring_config_file"])
        changes = {"monitoring_config_file": f"{tmp_path}/file"}
    with pytest.raises(tf.errors.OpError) as raised:
        server.Server(server.Options(model_base_path="/m", rest_api_port=1, **changes))
    assert status.text(raised.value) == error


@pytest.mark.parametrize("port", [65536, -1])
def test_a_rest_port_that_is_none_is_an_error(tmp_path, port):
    app = _app(_repository(tmp_path, lambda *_: pytest.fail("nothing to load")))
    text = f"^Failed to start HTTP Server at localhost:{port}: "
    with pytest.raises(tf.errors.UnavailableError, match=text):
        rest_server.RestServer(app, port).start()


def test_what_keras_exports_is_served_where_keras_cannot_be_imported(tmp_path):
    model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2)])
    model.export(str(tmp_path / "m" / "1"), verbose=False)
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    port = saved_models.free_port()
    code = "import sys; sys.modules['keras'] = None\nfrom serving.server_main import main\nsys.exit(main())"
    flags = [f"--port={port}", "--model_name=m", f"--model_base_path={tmp_path}/m"]
    process = subprocess.Popen([sys.executable, "-c", code, *flags], cwd=saved_models.ROOT)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(120)
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            request = predict_pb2.PredictRequest(model_spec={"name": "m"})
            request.inputs["x"].CopyFrom(tf.make_tensor_proto(x))
            answer = tf.make_ndarray(stub.Predict(request).outputs["output_0"])
        np.testing.assert_allclose(answer, model.predict(x, verbose=0), rtol=1e-5)
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_a_saved_model_s_assets_come_along_and_its_text_form_is_read(tmp_path):
    class Words(tf.Module):
        def __init__(self) -> None:
            (tmp_path / "words").write_text("red\ngreen\nblue\n")
            number = tf.lookup.TextFileIndex.LINE_NUMBER
            file = tf.lookup.TextFileInitializer(
                str(tmp_path / "words"), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, number
            )
            self.table = tf.lookup.StaticHashTable(file, -1)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "word")])
        def default(self, word: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"number": self.table.lookup(word)}

    words = Words()
    tf.saved_model.save(words, str(tmp_path / "saved"), signatures=words.default)
    (tmp_path / "words").unlink()
    os.rename(tmp_path / "saved", tmp_path / "1")
    file = tmp_path / "1" / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    file.unlink()
    file.with_suffix(".pbtxt").write_text(text_format.MessageToString(message))
    loaded = servable.Servable(str(tmp_path / "1"), ["serve"], tf.compat.v1.ConfigProto())
    word = np.array([b"blue", b"grey", b"red"], object)
    _, outputs = inference.predict(loaded, "", {"word": word}, (), None)
    assert outputs["number"].tolist() == [2, -1, 0]
    loaded.close()


def test_a_load_that_its_warm_up_failed_is_tried_again(tmp_path, caplog):
    version = write_odd(tmp_path / "odd" / "1")
    write_warm_up(version, predict_request([1], "no_such_signature"))
    options = server.Options(
        port=saved_models.free_port(),
        model_name="odd",
        model_base_path=f"{tmp_path}/odd",
        max_num_load_retries=10_000,
        load_retry_interval_micros=10_000,
    )
    embedded = server.Server(options)
    loading = threading.Thread(target=embedded.load)
    loading.start()
    _await(lambda: caplog.text.count('Serving signature key "no_such_signature" not found.') > 1, "two tries")
    shutil.rmtree(version / "assets.extra")
    loading.join(60)
    assert not loading.is_alive()
    embedded.stop(0.0)


def test_the_config_file_counts_rather_than_the_model_of_the_flags(tmp_path):
    (tmp_path / "config").write_text(CONFIG.format(base="/b"))
    options = server.Options(model_config_file=f"{tmp_path}/config", model_name="m", model_base_path="/m")
    names = [model.name for model in server.read_model_configs(options).model_config_list.config]
    assert names == ["dense", "half", "swap"]


@pytest.mark.parametrize("docker", [False, True])
def test_an_engine_is_started_with_a_flag_that_it_will_not_understand(tmp_path, monkeypatch, docker):
    # --port 8501, with a space: TensorFlow Serving says so and goes on, and so does what waits for its port.
    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    binary = tmp_path / "binary"
    binary.write_text("#!/bin/sh\nsleep 0.6\nexit 3\n")
    binary.chmod(0o755)
    found = (
        engine.DockerEngine(str(binary), "image", rootless=True) if docker else engine.Engine(str(binary))
    )
    assert found.run(["--port", "8501", f"--model_base_path={tmp_path}"]) == 3
    assert not failed


# --- Versions ------------------------------------------------------------------------------------


def test_a_file_is_a_version_too(tmp_path):
    (tmp_path / "3").mkdir()
    (tmp_path / "12").touch()
    config = model_server_config_pb2.ModelConfig(name="m", base_path=f"{tmp_path}/")
    assert versions.find(config) == ({12: f"{tmp_path}/12"}, [])


def test_a_retry_in_the_far_future_is_given_up_when_its_version_goes(tmp_path):
    (tmp_path / "1").mkdir()
    whole = Failing.__new__(Failing)

    def load(_: object, path: str) -> Failing:
        if path.endswith("2"):
            raise status.not_found("no")
        return whole

    repository = _repository(
        tmp_path,
        load,
        max_num_load_retries=5,
        load_retry_interval_micros=2**63 - 1,
        num_load_threads=-1,
        num_unload_threads=-1,
    )
    repository.start()

    def states() -> dict[int, str]:
        return {number: State.Name(state) for number, state, _ in repository.model_status("m")}

    (tmp_path / "2").mkdir()
    _await(lambda: states() == {1: "AVAILABLE", 2: "LOADING"}, "the first try")
    (tmp_path / "2").rmdir()
    _await(lambda: states() == {1: "AVAILABLE", 2: "END"}, "the end of the tries")
    (tmp_path / "3").mkdir()
    _await(lambda: states() == {1: "END", 2: "END", 3: "AVAILABLE"}, "version 3")
    repository.stop()


def test_a_reload_that_nobody_waits_for_any_more_makes_way_for_the_next(tmp_path):
    (tmp_path / "1").mkdir()
    repository = _repository(tmp_path, lambda *_: Failing.__new__(Failing))
    repository.start()
    before = model_server_config_pb2.ModelServerConfig()
    before.CopyFrom(repository.config)
    config = model_server_config_pb2.ModelServerConfig()
    config.CopyFrom(before)
    config.model_config_list.config.add(name="never", base_path="/no/such", model_platform="tensorflow")
    with pytest.raises(tf.errors.DeadlineExceededError):
        repository.reload(config, timeout=0.05)
    assert repository.models() == ["m", "never"]
    more = model_server_config_pb2.ModelServerConfig()
    more.CopyFrom(config)
    more.model_config_list.config.add(name="nor", base_path="/nor/such", model_platform="tensorflow")

    def wait_for_ever() -> None:
        with pytest.raises(tf.errors.UnavailableError):
            repository.reload(more)

    waiting = threading.Thread(target=wait_for_ever)
    waiting.start()
    _await(lambda: repository.models() == ["m", "never", "nor"], "the reload")
    with pytest.raises(tf.errors.DeadlineExceededError):  # the other one has its turn
        repository.reload(before, timeout=0.05)
    repository.stop()
    waiting.join()


# --- The config file -----------------------------------------------------------------------------


def test_a_config_file_is_followed_from_empty_on(tmp_path):
    """Empty, then a model, then nonsense, then empty again, then another model."""
    for name in ("first", "second"):
        saved_models.write_dense(tmp_path / name, 1)
    config = tmp_path / "models.config"

    def put(text: str) -> None:
        (tmp_path / "part").write_text(text)
        os.rename(tmp_path / "part", config)

    def models(*names: str) -> str:
        entries = (
            f'config {{ name: "{name}" base_path: "{tmp_path}/{name}" model_platform: "tensorflow" }}'
            for name in names
        )
        return f"model_config_list {{ {' '.join(entries)} }}"

    put("")
    with _serve(config, tmp_path, "--model_config_file_poll_wait_seconds=1") as served:

        def said(text: str) -> None:
            _await(lambda: text in served.launched.log(), text)

        said("Taking no action for empty config.")
        assert served.ask("POST", "/v1/models/first:predict", "{}")[0] == 404
        put(models("first"))
        _await(lambda: served.states("first") == {"1": "AVAILABLE"}, "the first model")
        put("model_config_list {\n  nonsense")
        said(f"Failed to read ModelServerConfig file: Invalid protobuf file: '{config}'")
        said("Error parsing text-format tensorflow.serving.ModelServerConfig: 2:3: ")
        put("")
        said("Cannot transition to requested config. It is only legal to transition from one ModelConfigList")
        put(models("first", "first"))
        said("Illegal to list model first multiple times in config list")
        assert served.states("first") == {"1": "AVAILABLE"}
        put(models("second"))
        _await(lambda: served.states("second") == {"1": "AVAILABLE"}, "the second model")
        _await(lambda: served.states("first") == {"1": "END"}, "the end of the first")
        put("model_config_list {}")
        _await(lambda: served.states("second") == {"1": "END"}, "the end of the second")
        assert served.ask("POST", "/v1/models/second:predict", "{}") == (
            404,
            _error("Servable not found for request: Latest(second)"),
        )


# --- Hot swap ------------------------------------------------------------------------------------


class Swap:
    """What the clients of a model that is swapped have seen. Version v answers 3 v."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.requests = 0
        self.wrong: list[str] = []
        self.done = threading.Event()

    def note(self, version: int, answer: float, last: int) -> int:
        """Returns the version, for the client's next `last`: no later request may see an older one."""
        self.requests += 1
        self.seen.add(version)
        if answer != 3.0 * version or version < last:
            self.wrong.append(f"version {version} after {last} answered {answer}")
        return version


async def _ask_by_grpc(address: str, swap: Swap) -> None:
    request = predict_pb2.PredictRequest(output_filter=["y"])
    request.model_spec.name = "swap"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.ones((1, 3), np.float32)))
    raw = request.SerializeToString()
    # A connection of its own.
    async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        predict = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            response_deserializer=predict_pb2.PredictResponse.FromString,
        )
        last = 0
        while not swap.done.is_set():
            try:
                answer = await predict(raw, timeout=60)
            except grpc.RpcError as error:
                swap.wrong.append(f"{error.code()}: {error.details()}")
            else:
                last = swap.note(answer.model_spec.version.value, answer.outputs["y"].float_val[0], last)
            await asyncio.sleep(0.05)


def _ask_by_rest(served: Served, swap: Swap) -> None:
    last = 0
    with served.connect() as connection:
        while not swap.done.wait(0.02):
            try:
                connection.request("POST", "/v1/models/swap:predict", '{"instances": [[1, 1, 1]]}')
                response = connection.getresponse()
                content = response.read()
                assert response.status == 200, content
                answer = json.loads(content)["predictions"][0]["y"]
            except Exception as error:
                swap.wrong.append(repr(error))
            else:
                last = swap.note(round(answer / 3), answer, last)


def test_swaps_under_many_clients_fail_no_request_and_answer_none_wrong(served, tmp_path):
    for version in range(2, 2 + SWAPS):
        saved_models.write_dense(tmp_path / "staged", version, scale=float(version))
    swap = Swap()

    async def clients() -> None:
        await asyncio.gather(*(_ask_by_grpc(served.launched.address, swap) for _ in range(GRPC_CLIENTS)))

    threads = [threading.Thread(target=lambda: asyncio.run(clients()))]
    threads += [threading.Thread(target=_ask_by_rest, args=(served, swap)) for _ in range(REST_CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        for version in range(2, 2 + SWAPS):
            _await(lambda version=version: version - 1 in swap.seen, f"an answer of version {version - 1}")
            os.rename(tmp_path / "staged" / str(version), served.base / "swap" / str(version))
            _await(lambda version=version: version in swap.seen, f"an answer of version {version}")
    finally:
        swap.done.set()
        for thread in threads:
            thread.join()
    assert swap.wrong == []
    assert swap.seen == set(range(1, 2 + SWAPS))
    assert swap.requests > 10 * (GRPC_CLIENTS + REST_CLIENTS)
    last = str(1 + SWAPS)
    _await(lambda: list(served.states("swap").values()).count("END") == SWAPS, "the old versions' end")
    assert served.states("swap")[last] == "AVAILABLE"
    assert "Traceback" not in served.launched.log()
