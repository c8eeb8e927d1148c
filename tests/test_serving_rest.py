"""The REST face over real models and a real socket: URLs, codes, bodies, limits, TLS."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from starlette.applications import Starlette
from tensorflow_serving.config import model_server_config_pb2

from serving import config_pb2, repository, rest_api, rest_server, status
from serving.metrics import Metrics
from serving.repository import Repository
from serving.request_log import RequestLoggers
from serving.servable import Servable
from serving.telemetry import Call, Telemetry

MAX_BODY = 4 * 2**20
MAX_UNPACKED = 8 * 2**20

CONFIG = """
model_config_list {{
  config {{
    name: "m" base_path: "{base}" model_platform: "tensorflow" model_version_policy {{ all {{}} }}
    version_labels {{ key: "stable" value: 1 }}
    version_labels {{ key: "later" value: 7 }}
  }}
  config {{ name: "a/b c" base_path: "{base}" model_platform: "tensorflow" }}
}}
"""


def _write_model(path: Path, offset: float) -> None:
    """Signatures of many kinds; `serving_default`: x float32 of any shape -> y = x / 2 + offset."""

    def spec(dtype: tf.DType, name: str, rank: int = 1) -> tf.TensorSpec:
        return tf.TensorSpec([None] * rank, dtype, name)

    features = {"x": tf.io.FixedLenFeature([], tf.float32)}

    def half_plus(x):
        return {"y": x / 2 + offset}

    def two(a, text):
        return {"sum": a + a, "text_bytes": text}

    def uneven(x):
        return {"a": x, "b": tf.concat([x, x], 0)}

    def total(x):
        return {"y": tf.reduce_sum(x)}

    def unwritable(x):
        return {"y": tf.complex(x, x)}

    def wanted(h):
        return {"y": tf.cast(h, tf.float32)}

    def slow(x):
        for _ in tf.range(10**9):
            x += 1.0
        return {"y": x}

    def classify(inputs):
        x = tf.io.parse_example(inputs, features)["x"]
        classes = tf.tile([["low", "high"]], [tf.shape(x)[0], 1])
        return {"classes": classes, "scores": tf.stack([x / 2, x], 1)}

    def regress(inputs):
        return {"outputs": tf.io.parse_example(inputs, features)["x"] + offset}

    x = spec(tf.float32, "x")
    signatures = {
        "serving_default": (half_plus, [tf.TensorSpec(None, tf.float32, "x")]),
        "two": (two, [spec(tf.int64, "a"), spec(tf.string, "text")]),
        "uneven": (uneven, [x]),
        "total": (total, [x]),
        "unwritable": (unwritable, [x]),
        "half": (wanted, [spec(tf.float16, "h")]),
        "slow": (slow, [x]),
        "classify": (classify, [spec(tf.string, "inputs")]),
        "regress": (regress, [spec(tf.string, "inputs")]),
    }
    functions = {
        name: tf.function(function, input_signature=specs) for name, (function, specs) in signatures.items()
    }
    tf.saved_model.save(tf.Module(), str(path), signatures=functions)


def _has(models: Repository, name: str, version: int) -> bool:
    try:
        with models.use(name, version, None):
            return True
    except tf.errors.NotFoundError:
        return False


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    base = tmp_path_factory.mktemp("rest") / "m"
    for version, offset in ((1, 2.0), (2, 3.0)):
        _write_model(base / str(version), offset)
    config = text_format.Parse(CONFIG.format(base=base), model_server_config_pb2.ModelServerConfig())
    options = repository.Options(
        file_system_poll_wait_seconds=0,
        max_num_load_retries=0,
        allow_version_labels_for_unavailable_models=True,
    )
    session = tf.compat.v1.ConfigProto()
    models = Repository(config, options, lambda _, path: Servable(path, ["serve"], session))
    models.start()
    # One version that loads is enough for a start; the tests ask for the highest.
    deadline = time.monotonic() + 60
    while not _has(models, "m", 2):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield models
    models.stop()


def _app(
    models: Repository,
    calls: list[Call] | None = None,
    options: rest_api.Options = rest_api.Options(num_threads=2),  # noqa: B008 (it is frozen)
) -> Starlette:
    sinks = [] if calls is None else [calls.append]
    return rest_api.app(models, Telemetry(sinks), RequestLoggers(Metrics().request_logged), options)


@contextlib.contextmanager
def _serving(
    models: Repository,
    calls: list[Call],
    options: rest_api.Options,
    ssl_config: config_pb2.SSLConfig | None = None,
) -> Iterator[rest_server.RestServer]:
    app = _app(models, calls, options)
    server = rest_server.RestServer(app, 0, ssl_config)
    server.start()
    try:
        yield server
    finally:
        server.stop(10)


class Rest:
    """A connection to a server and what that told its telemetry."""

    def __init__(self, connection: http.client.HTTPConnection, calls: list[Call]) -> None:
        self.connection = connection
        self.calls = calls

    def ask(
        self, method: str, path: str, body: str | bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """(status, headers in lower case, body)."""
        raw = body.encode() if isinstance(body, str) else body
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, raw, names)
        answer = self.connection.getresponse()
        content = answer.read().decode()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content

    def post(self, path: str, body: str | bytes, **headers: str) -> tuple[int, str]:
        code, _, content = self.ask("POST", f"/v1/models/{path}", body, **headers)
        return code, content

    def get(self, path: str) -> tuple[int, str]:
        code, _, content = self.ask("GET", path)
        return code, content


@pytest.fixture(scope="module")
def _shared(models: Repository) -> Iterator[tuple[rest_server.RestServer, list[Call]]]:
    calls: list[Call] = []
    options = rest_api.Options(
        num_threads=4,
        timeout_in_ms=1000,
        max_body_bytes=MAX_BODY,
        max_unpacked_bytes=MAX_UNPACKED,
        metrics_path="/monitoring/prometheus/metrics",
        render_metrics=lambda: b"# TYPE x counter\n",
    )
    with _serving(models, calls, options) as server:
        yield server, calls


@pytest.fixture
def rest(_shared: tuple[rest_server.RestServer, list[Call]]) -> Iterator[Rest]:
    server, calls = _shared
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        yield Rest(connection, calls)


def _error(text: str) -> str:
    return f'{{\n    "error": {json.dumps(text)}\n}}'


# --- Predict -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("m:predict", '{"instances": [1, 2, 3]}', '{\n    "predictions": [3.5, 4.0, 4.5\n    ]\n}'),
        ("m/versions/1:predict", '{"instances": [1]}', '{\n    "predictions": [2.5\n    ]\n}'),
        ("m/versions/0001:predict", '{"instances": [1]}', '{\n    "predictions": [2.5\n    ]\n}'),
        ("m/labels/stable:predict", '{"instances": [[1]]}', '{\n    "predictions": [[2.5]\n    ]\n}'),
        ("m/LABELS/stable:Predict", '{"inputs": 1}', '{\n    "outputs": 2.5\n}'),
        (
            "m:predict",
            '{"signature_name": "two", "instances": [{"a": 1, "text": {"b64": "aGk="}}]}',
            '{\n    "predictions": [\n        {\n            "sum": 2,\n            "text_bytes": {\n'
            '                "b64": "aGk="\n            }\n        }\n    ]\n}',
        ),
        (
            "m:predict",
            '{"signature_name": "total", "inputs": {"x": [1, 2]}}',
            '{\n    "outputs": 3.0\n}',
        ),
        ("a%2Fb%20c:predict", '{"instances": [1]}', '{\n    "predictions": [3.5\n    ]\n}'),
    ],
)
def test_predict(rest, path, body, answer):
    assert rest.post(path, body) == (200, answer)


def test_predict_runs_a_signature_for_classification_too(rest):
    example = tf.train.Example()
    example.features.feature["x"].float_list.value.append(4)
    packed = base64.b64encode(example.SerializeToString()).decode()
    body = json.dumps({"signature_name": "classify", "instances": [{"b64": packed}]})
    code, content = rest.post("m:predict", body)
    assert (code, json.loads(content)) == (
        200,
        {"predictions": [{"classes": ["low", "high"], "scores": [2.0, 4.0]}]},
    )


@pytest.mark.parametrize(
    ("path", "body", "code", "text"),
    [
        # The body is read before the model is looked for.
        ("gone:predict", "", 400, "JSON Parse error: The document is empty"),
        ("gone:predict", "{}", 404, "Servable not found for request: Latest(gone)"),
        ("m/versions/7:predict", "{}", 404, "Servable not found for request: Specific(m, 7)"),
        ("m/labels/later:predict", "{}", 404, "Servable not found for request: Specific(m, 7)"),
        ("m/labels/none:predict", "{}", 400, "Unrecognized servable version label: none"),
        ("gone/labels/none:predict", "{}", 400, "Unrecognized servable version label: none"),
        ("m:predict", "{}", 400, "Missing 'inputs' or 'instances' key"),
        ("m:predict", "x", 400, "JSON Parse error: Invalid value. at offset: 0"),
        (
            "m:predict",
            '{"signature_name": "S"}',
            400,
            'Serving signature name: "S" not found in signature def',
        ),
        (
            "m:predict",
            '{"instances": ["x"]}',
            400,
            "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: \"x\" "
            "Type: String is not of expected type: float",
        ),
        (
            "m:predict",
            '{"signature_name": "half", "inputs": [1]}',
            501,
            "Conversion of JSON Value: 1 to type: half",
        ),
        (
            "m:predict",
            '{"signature_name": "total", "instances": [1]}',
            400,
            "Tensor name: y has no shape information ",
        ),
        (
            "m:predict",
            '{"signature_name": "uneven", "instances": [1]}',
            400,
            "Tensor name: b has inconsistent batch size: 2 expecting: 1",
        ),
        (
            "m:predict",
            '{"signature_name": "unwritable", "inputs": [1]}',
            400,
            "Failed to write JSON value for tensor type: complex64",
        ),
        ("m:predict", '{"signature_name": "slow", "inputs": [1]}', 504, "Timed out waiting for notification"),
    ],
)
def test_predict_is_refused_in_upstream_s_words(rest, path, body, code, text):
    assert rest.post(path, body) == (code, _error(text))


# --- Classify and regress ------------------------------------------------------------------------


def test_classify_and_regress(rest):
    body = '{"signature_name": "%s", "examples": [{"x": 0.5}, {"x": 2.0}]}'
    assert rest.post("m/versions/1:classify", body % "classify") == (
        200,
        '{\n    "results": [[["low", 0.25], ["high", 0.5]], [["low", 1.0], ["high", 2.0]]\n    ]\n}',
    )
    assert rest.post("m/versions/1:regress", body % "regress") == (
        200,
        '{\n    "results": [2.5, 4.0]\n}',
    )
    shared = '{"signature_name": "regress", "context": {"x": 1.5}, "examples": [{}, {"x": 0.5}]}'
    assert rest.post("m:regress", shared) == (200, '{\n    "results": [4.5, 3.5]\n}')


@pytest.mark.parametrize(
    ("path", "body", "code", "text"),
    [
        ("m:classify", "", 400, "JSON Parse error: The document is empty"),
        (
            "m:regress",
            "{}",
            400,
            "JSON Value: {} When method is classify, key 'examples' is expected and was not found",
        ),
        ("gone:classify", '{"examples": [{}]}', 404, "Servable not found for request: Latest(gone)"),
        (
            "m:classify",
            '{"signature_name": "S", "examples": [{}]}',
            400,
            "No signature was found with the name: S",
        ),
    ],
)
def test_classify_and_regress_are_refused_in_upstream_s_words(rest, path, body, code, text):
    assert rest.post(path, body) == (code, _error(text))


# --- Status and metadata -------------------------------------------------------------------------


def _version(number: int) -> dict[str, object]:
    return {
        "version": str(number),
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }


@pytest.mark.parametrize("path", ["/v1/models/m", "/V1/Models/m", "/v1/models/m/labels/stable"])
def test_status_of_all_versions(rest, path):
    code, content = rest.get(path)
    assert code == 200
    assert json.loads(content) == {"model_version_status": [_version(2), _version(1)]}


def test_status_is_laid_out_as_upstream_s(rest):
    assert rest.get("/v1/models/m/versions/1") == (
        200,
        '{\n "model_version_status": [\n  {\n   "version": "1",\n   "state": "AVAILABLE",\n   "status": {\n'
        '    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}\n',
    )


def test_metadata(rest):
    code, content = rest.get("/v1/models/m/labels/stable/metadata")
    assert code == 200
    assert content.startswith(
        '{\n"model_spec":{\n "name": "m",\n "signature_name": "",\n "version": "1"\n}\n,\n"metadata": {'
    )
    signatures = json.loads(content)["metadata"]["signature_def"]["signature_def"]
    assert "__saved_model_init_op" in signatures
    total = signatures["total"]
    assert total["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert total["inputs"]["x"]["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}],
        "unknown_rank": False,
    }
    assert total["outputs"]["y"]["tensor_shape"] == {"dim": [], "unknown_rank": False}
    assert total["method_name"] == "tensorflow/serving/predict"
    assert total["defaults"] == {}


def test_the_models_are_listed(rest):
    code, content = rest.get("/v1/models")
    assert code == 200
    listed = {model["name"]: model["model_version_status"] for model in json.loads(content)["models"]}
    assert listed == {"m": [_version(2), _version(1)], "a/b c": [_version(2)]}


@pytest.mark.parametrize(
    ("path", "code", "text"),
    [
        ("/v1/models/gone", 404, "Could not find any versions of model gone"),
        ("/v1/models/m/versions/7", 404, "Could not find version 7 of model m"),
        ("/v1/models/gone/metadata", 404, "Servable not found for request: Latest(gone)"),
        ("/v1/models/m/versions/7/metadata", 404, "Servable not found for request: Specific(m, 7)"),
        ("/v1/models/m/labels/none/metadata", 400, "Unrecognized servable version label: none"),
        ("/v1/models/versions/1", 400, "Missing model name in request."),
    ],
)
def test_status_and_metadata_are_refused_in_upstream_s_words(rest, path, code, text):
    assert rest.get(path) == (code, _error(text))


# --- URLs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/"),
        ("GET", "/v1/foo"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/m:predict"),
        ("GET", "/v1/models/m/metadata/"),
        ("GET", "/v1/models/debug/m"),
        ("GET", "/v1/models/../../etc/passwd"),
        ("POST", "/v1/models"),
        ("POST", "/v1/models/m"),
        ("POST", "/v1/models/m:explain"),
        ("POST", "/v1/models/m:predict/"),
        ("POST", "/v1/models/m:predict?x=1"),
        ("POST", "/v1/models/m/metadata"),
        ("POST", "/v1/models/m/versions/one:predict"),
        ("POST", "/v1/models/m/versions/1/labels/stable:predict"),
        ("PUT", "/v1/models/m:predict"),
        ("DELETE", "/v1/models/m"),
    ],
)
def test_other_urls_are_malformed(rest, method, path):
    code, headers, content = rest.ask(method, path)
    assert (code, content) == (400, _error(f"Malformed request: {method} {path}"))
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/health/ready", "/statuspage", "/v1models/m"])
def test_paths_that_are_no_api_have_libevent_s_page(rest, path):
    code, headers, content = rest.ask("GET", path)
    assert code == 404
    assert headers["content-type"].startswith("text/html")
    assert "<H1>Not Found</H1>" in content


@pytest.mark.parametrize("digits", ["9223372036854775808", "9" * 5000])
def test_a_version_past_int64_has_no_words(rest, digits):
    assert rest.get(f"/v1/models/m/versions/{digits}") == (400, "")


@pytest.mark.parametrize("name", ["..", "%2e%2e%2f%2e%2e", "%00", "%ff"])
def test_names_are_names_and_never_paths(rest, name):
    code, content = rest.post(f"{name}:predict", '{"instances": [1]}')
    assert code == 404
    assert json.loads(content)["error"].startswith("Servable not found for request: Latest(")


@pytest.mark.parametrize(
    ("origin", "code"),
    [({"Origin": "http://a"}, 200), ({"Origin": "https://a"}, 200), ({"Origin": "a"}, 400), ({}, 400)],
)
def test_options(rest, origin, code):
    answered, headers, content = rest.ask("OPTIONS", "/v1/models/m:predict", **origin)
    assert (answered, content) == (code, "")
    assert "access-control-allow-origin" not in headers


def test_cors_headers_come_with_their_flag(models):
    options = rest_api.Options(num_threads=2, enable_cors_support=True)
    with _serving(models, [], options) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        rest = Rest(connection, [])
        for method, path in (("OPTIONS", "/v1/x"), ("GET", "/v1/models/m"), ("GET", "/v1/x")):
            _, headers, _ = rest.ask(method, path, Origin="http://a")
            assert headers["access-control-allow-origin"] == "*"
            assert headers["access-control-allow-methods"] == "POST, GET"
            assert headers["access-control-allow-headers"] == "Content-Type"
        connection.close()


# --- Health and metrics --------------------------------------------------------------------------


def test_health_readiness_and_metrics(rest):
    assert rest.get("/healthz") == (200, "ok\n")
    code, content = rest.get("/readyz")
    assert (code, json.loads(content)) == (200, {"ready": True, "draining": False, "missing": []})
    code, headers, content = rest.ask("GET", "/monitoring/prometheus/metrics")
    assert (code, content) == (200, "# TYPE x counter\n")
    assert headers["content-type"].startswith("text/plain")


def test_not_ready_without_a_version_or_while_draining(tmp_path):
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(name="none", base_path=str(tmp_path), model_platform="tensorflow")
    empty = Repository(config, repository.Options(), lambda *_: pytest.fail("nothing to load"))
    app = _app(empty)
    server = rest_server.RestServer(app, 0)
    server.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    rest = Rest(connection, [])
    app.state.draining = True
    code, content = rest.get("/readyz")
    assert (code, json.loads(content)) == (503, {"ready": False, "draining": True, "missing": ["none"]})
    assert rest.get("/healthz") == (200, "ok\n")
    assert json.loads(rest.get("/v1/models")[1])["models"][0]["name"] == "none"
    connection.close()
    server.stop(1)


# --- Bodies --------------------------------------------------------------------------------------


def test_gzip_bodies_are_unpacked(rest):
    body = gzip.compress(b'{"instances": [1]}')
    for encoding in ("gzip", "x-gzip, identity"):
        code, content = rest.post("m:predict", body, Content_Encoding=encoding)
        assert (code, content) == (200, '{\n    "predictions": [3.5\n    ]\n}')


def _lying_bomb() -> bytes:
    """Unpacks to more than its end says."""
    bomb = gzip.compress(b" " * (2 * MAX_UNPACKED))
    return bomb[:-4] + (10).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            gzip.compress(b" " * (MAX_UNPACKED + 1)),
            f"it declares {MAX_UNPACKED + 1} bytes, the limit is {MAX_UNPACKED}",
        ),
        (_lying_bomb(), "it is cut, or larger than it declares"),
        (gzip.compress(b"{}")[:-5], ""),
        (b'{"instances": [1]}\0\0\0\0', "Error -3 while decompressing data: incorrect header check"),
    ],
    # Not the bodies: gzip writes the second into them, and pytest's two processes must find the same tests.
    ids=["too large", "larger than declared", "cut", "no gzip"],
)
def test_gzip_bombs_and_broken_gzip_are_refused(rest, body, text):
    code, content = rest.post("m:predict", body, Content_Encoding="gzip")
    assert code == 400
    assert json.loads(content)["error"].startswith(f"Failed to uncompress the gzipped body: {text}")
    assert rest.post("m:predict", '{"instances": [1]}')[0] == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_past_the_limit_are_refused(rest, chunked):
    text = f"The request body is larger than the limit of {MAX_BODY} bytes"
    if chunked:
        body = iter([b" " * 2**20] * 5)
        rest.connection.request("POST", "/v1/models/m:predict", body, encode_chunked=True)
    else:  # declared, and refused before any of it was sent
        rest.connection.putrequest("POST", "/v1/models/m:predict")
        rest.connection.putheader("Content-Length", str(2**40))
        rest.connection.endheaders()
    answer = rest.connection.getresponse()
    assert (answer.status, answer.read().decode()) == (400, _error(text))
    assert answer.getheader("Connection") == "close"


def test_json_10_000_deep_is_refused(rest):
    code, content = rest.post("m:predict", '{"instances": ' + "[" * 10_000)
    assert (code, content) == (400, _error("JSON Parse error: The document is nested too deeply."))


def test_a_large_array_goes_in_and_comes_out(rest):
    values = np.random.default_rng(0).normal(size=(100, 300)).astype(np.float32)
    code, content = rest.post("m:predict", json.dumps({"inputs": values.tolist()}))
    assert code == 200
    expected = values / 2 + np.float32(3)
    np.testing.assert_array_equal(np.array(json.loads(content)["outputs"], np.float32), expected)


# --- The server ----------------------------------------------------------------------------------


def test_telemetry_hears_of_every_request_below_v1(rest):
    rest.calls.clear()
    body = '{"signature_name": "uneven", "inputs": [1]}'
    rest.post("m/versions/1:PREDICT", body)
    rest.post("gone:classify", '{"examples": [{}]}')
    rest.get("/v1/nothing")
    rest.get("/v1/models/m")
    rest.get("/healthz")
    heard = [(c.entrypoint, c.api, c.model, c.version, c.signature, c.code) for c in rest.calls]
    assert heard == [
        ("REST", "predict", "m", 1, "uneven", "OK"),
        ("REST", "classify", "gone", None, "", "NOT_FOUND"),
        ("REST", "", "", None, "", "INVALID_ARGUMENT"),
        ("REST", "", "m", None, "", "OK"),
    ]
    first = rest.calls[0]
    assert first.path == "/v1/models/m/versions/1:PREDICT"
    assert first.request_bytes == len(body)
    assert first.response_bytes > 0
    assert first.seconds > 0
    assert first.peer.startswith(("127.0.0.1:", "::ffff:127.0.0.1:"))


def test_connections_are_kept_and_models_run_side_by_side(rest, _shared):
    """A slow request holds up nobody else."""
    server, _ = _shared
    slow = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    slow.request("POST", "/v1/models/m:predict", b'{"signature_name": "slow", "inputs": [1]}')
    rest.post("m:predict", '{"instances": [1]}')
    used = rest.connection.sock
    for _ in range(20):
        assert rest.post("m:predict", '{"instances": [1]}')[0] == 200
    assert rest.connection.sock is used
    assert slow.getresponse().status == 504
    slow.close()


def test_stop_waits_for_requests_in_flight(models):
    with _serving(models, [], rest_api.Options(num_threads=2, timeout_in_ms=1500)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("POST", "/v1/models/m:predict", b'{"signature_name": "slow", "inputs": [1]}')
        probe = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        probe.request("GET", "/healthz")  # answered after the other one was read
        assert probe.getresponse().status == 200
        stopping = threading.Thread(target=server.stop, args=(30,))
        stopping.start()
        assert connection.getresponse().status == 504
        stopping.join()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)
        connection.close()
        probe.close()


def test_a_port_that_is_taken_is_an_error(models, _shared):
    taken = _shared[0].port
    app = _app(models)
    with pytest.raises(status.Error) as raised:
        rest_server.RestServer(app, taken).start()
    assert status.text(raised.value).startswith(
        f"UNAVAILABLE: Failed to start HTTP Server at localhost:{taken}: "
    )


def _certificate(folder: Path, name: str) -> tuple[str, str]:
    """(key, self-signed certificate) as PEM."""
    key, cert = folder / f"{name}.key", folder / f"{name}.crt"
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subject = ["-days", "1", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run([*command, *subject, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return key.read_text(), cert.read_text()


def test_tls_and_mutual_tls(models, tmp_path):
    server_key, server_cert = _certificate(tmp_path, "localhost")
    _, client_cert = _certificate(tmp_path, "client")
    ssl_config = config_pb2.SSLConfig(
        server_key=server_key, server_cert=server_cert, custom_ca=client_cert, client_verify=True
    )
    with _serving(models, [], rest_api.Options(num_threads=2), ssl_config) as server:

        def ask(context: ssl.SSLContext) -> int:
            connection = http.client.HTTPSConnection("localhost", server.port, timeout=60, context=context)
            with contextlib.closing(connection):
                return Rest(connection, []).get("/healthz")[0]

        stranger = ssl.create_default_context(cadata=server_cert)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(stranger)
        known = ssl.create_default_context(cadata=server_cert)
        known.load_cert_chain(tmp_path / "client.crt", tmp_path / "client.key")
        assert ask(known) == 200
        with contextlib.closing(http.client.HTTPConnection("localhost", server.port, timeout=60)) as plain, (
            pytest.raises((http.client.HTTPException, ConnectionError))
        ):
            Rest(plain, []).get("/healthz")


def test_unusable_keys_are_an_error(models):
    app = _app(models)
    with pytest.raises(status.Error, match="unusable key or certificate"):
        rest_server.RestServer(app, 0, config_pb2.SSLConfig(server_key="x", server_cert="y"))
