"""atelier-doctor: golden requests against servers that answer as they should, and against others."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import art_models
import grpc
import numpy as np
import pytest
import tensorflow as tf
from fake_server import FakeModel, FakeServer

from serving import doctor, doctor_main, golden
from serving.client import Client

pytest_plugins = ["saved_models", "art_models"]

ROOT = Path(__file__).resolve().parent.parent


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = doctor_main.main(["doctor", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


# --- Reading golden requests ---------------------------------------------------------------------


def test_records_are_those_that_tensorflow_wrote(tmp_path):
    contents = [b"", b"a", bytes(range(256)) * 40]
    with tf.io.TFRecordWriter(str(tmp_path / "records")) as writer:
        for content in contents:
            writer.write(content)
    data = (tmp_path / "records").read_bytes()
    assert list(golden.records(data)) == contents
    for place in (3, 9, 13, len(data) - 1):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(ValueError, match=r"checksum is wrong|cut short"):
            list(golden.records(bytes(damaged)))
    with pytest.raises(ValueError, match="cut short"):
        list(golden.records(data[:-1]))


def test_exports_are_found_in_a_base_a_model_and_a_version(art_base, tmp_path):
    shutil.copytree(art_base / "art", tmp_path / "art")
    shutil.copytree(art_base / "art" / "1", tmp_path / "art" / "12")
    (tmp_path / "art" / "30").mkdir()  # no model in it
    (tmp_path / "other").mkdir()
    for folder, version in [(tmp_path, 12), (tmp_path / "art", 12), (tmp_path / "art" / "1", 1)]:
        found = golden.find(folder)
        assert [(export.model, export.version) for export in found] == [("art", version)]
    requests = golden.read(golden.find(tmp_path)[0])
    assert [request.signature for request in requests] == ["sample", "generate", "classify"]
    assert requests[1].inputs["prompt"].tolist() == [b"To be", b"Or"]
    assert requests[1].outputs["text"].tolist() == [b"To be #1", b"Or #2"]


# --- Comparing -----------------------------------------------------------------------------------


def _texts(*values: bytes) -> np.ndarray:
    return np.array(values, object)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.array([1.0, 2.0]), np.array([1.0, 2.0 + 1e-4])),
        (np.array([np.nan, np.inf, -0.0]), np.array([np.nan, np.inf, 0.0])),
        (np.array([1 + 1j]), np.array([1 + 1j])),
        (np.zeros((0, 3)), np.zeros((0, 3))),
        (_texts(b"a"), _texts(b"a")),
    ],
)
def test_what_agrees_is_nothing_to_say(given, expected):
    assert doctor.compare({"y": given}, {"y": expected}, 1e-5, 1e-4) == []


@pytest.mark.parametrize(
    ("given", "expected", "finding"),
    [
        (
            np.array([[1.0, 2.0], [3.5, 4.001]]),
            np.array([[1.0, 2.0], [3.0, 4.0]]),
            "2 of 4 values differ, most at row 1, place [0]: expected 3, given 3.5 (by 0.5, relatively 0.1",
        ),
        (
            np.array([0.0, np.nan]),
            np.array([0.0, 1.0]),
            "1 of 2 values differs, most at row 1: expected 1, given nan (by inf, relatively inf)",
        ),
        (
            np.array([0, 250], np.uint8),
            np.array([0, 1], np.uint8),
            "1 of 2 values differs, most at row 1: expected 1, given 250 (by 249, relatively 249)",
        ),
        (np.float32(2), np.float32(1), "1 of 1 value differs, most at the only place: expected 1, given 2"),
        (np.zeros(2), np.zeros(2, np.float32), "expected float32, given float64"),
        (np.zeros((2, 3)), np.zeros((3, 2)), "expected shape [3, 2], given [2, 3]"),
        (_texts(b"a", b"c"), _texts(b"a", b"b"), "the first at row 1: expected 'b', given 'c'"),
        (_texts(b"x" * 99), _texts(b""), f"expected '', given '{'x' * 79}... (99 bytes)"),
    ],
)
def test_what_differs_is_said_with_its_place(given, expected, finding):
    (said,) = doctor.compare({"y": np.asarray(given)}, {"y": np.asarray(expected)}, 1e-5, 1e-4)
    assert said.startswith("output y: ")
    assert finding in said


def test_outputs_that_are_missing_or_new_are_named():
    given, expected = {"a": np.zeros(1), "new": np.zeros(1)}, {"a": np.zeros(1), "gone": np.zeros(1)}
    assert doctor.compare(given, expected, 0, 0) == ["output gone is missing", "output new (float64) is new"]


# --- Servers -------------------------------------------------------------------------------------


def test_a_server_that_is_as_it_was_exits_with_0(capsys, art_server, art_base, art_rest_port):
    for address in (art_server.address, f"http://127.0.0.1:{art_rest_port}"):
        status, out, err = _run(capsys, address, art_base)
        assert (status, err) == (0, "")
        assert out.startswith("art version 1\n  ok      sample  2 rows, ")
        assert out.endswith("\n1 model, 3 requests replayed: nothing differs\n")


def test_a_folder_alone_is_served_and_what_cannot_be_loaded_is_said(capsys, art_base, tmp_path):
    shutil.copytree(art_base / "art", tmp_path / "art")
    shutil.copytree(art_base / "art", tmp_path / "broken")
    (tmp_path / "broken" / "1" / "saved_model.pb").write_bytes(b"no model")
    status, out, err = _run(capsys, tmp_path)
    assert (status, err) == (1, "")
    assert "ok      generate" in out
    assert "broken version 1\n  DIFFERS not replayed\n          version 1 is not AVAILABLE but END (" in out
    assert out.endswith("\n2 models, 3 requests replayed: 1 differs\n")


@pytest.fixture
def changed(art_base, tmp_path) -> Path:
    """An export whose golden answers are another model's, of signatures that the server lacks or changed."""
    shutil.copytree(art_base / "art", tmp_path / "art")
    model = tf.saved_model.load(str(tmp_path / "art" / "1"))

    def brighter(seed: tf.Tensor) -> dict[str, tf.Tensor]:
        answer = model.signatures["sample"](seed=seed, label=tf.constant([-1, -1]))
        return {"image": answer["image"] + 0.25, "label": answer["label"]}

    seeds = {"seed": np.array([0, 1])}

    def same(seed: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"seed": seed}

    requests = {"sample": (seeds, brighter), "never": (seeds, same), "generate": (seeds, same)}
    art_models.write_golden(tmp_path / "art" / "1", requests)
    return tmp_path


def test_findings_are_said_in_words_and_exit_with_1(capsys, art_server, changed):
    status, out, err = _run(capsys, art_server.address, changed)
    assert (status, err) == (1, "")
    assert "DIFFERS sample  2 rows, " in out
    assert "96 of 96 values differ, most at row 0, place [0, 0, 0]: expected 0.75, given 0.5 (by 0.2" in out
    assert "the server's model has no such signature; it has classify, generate, harmonize, " in out
    assert "it refuses the request: signature 'generate' also needs input 'prompt'" in out
    assert out.endswith("1 model, 1 request replayed: 3 differ\n")
    status, out, _ = _run(capsys, art_server.address, changed, "--atol=0.3", "--json")
    checks = {check["signature"]: check for check in json.loads(out)}
    assert status == 1
    assert checks["sample"]["findings"] == []
    assert checks["sample"]["max_difference"] == pytest.approx(0.25)


def test_models_and_versions_that_the_server_lacks_are_said(
    capsys, art_server, art_base, art_rest_port, tmp_path
):
    shutil.copytree(art_base / "art" / "1", tmp_path / "art" / "7")
    shutil.copytree(art_base / "art" / "1", tmp_path / "unknown" / "1")
    for address in (art_server.address, f"http://127.0.0.1:{art_rest_port}"):
        status, out, err = _run(capsys, address, tmp_path)
        assert (status, err) == (1, "")
        assert "the server has no version 7 of it; it has 1 (AVAILABLE)" in out
        assert "the server has no model 'unknown'" in out
    assert _run(capsys, art_server.address, art_base / "art", "--model_name=art")[0] == 0
    status, out, _ = _run(capsys, art_server.address, tmp_path / "art", "--model_name=none")
    assert (status, "the server has no model 'none'" in out) == (1, True)


def test_a_server_that_fails_in_the_middle_is_a_finding(tmp_path):
    model = FakeModel(run=lambda inputs: {"y": inputs["x"] * 2})
    export = golden.Export("double", 1, tmp_path / "double" / "1")
    (export.path / "assets.extra").mkdir(parents=True)
    request = {"x": np.array([1.0, 3.0], np.float32)}
    art_models.write_golden(export.path, {"serving_default": (request, lambda x: {"y": x * 2})})
    with FakeServer({"double": model}) as server, Client.connect(server.address, retries=0) as client:
        asked = doctor.GrpcServer(client)  # without GetModelStatus: not every maker's server has it
        (check,) = doctor.examine(asked, [export])
        assert (check.findings, check.rows, check.max_difference) == ([], 2, 0.0)
        server.script = [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL]
        (check,) = doctor.examine(asked, [export])
        assert check.findings == ["it refuses the request: INTERNAL: scripted INTERNAL"]
        model.run = lambda inputs: {"y": inputs["x"].astype(np.float64)}
        (check,) = doctor.examine(asked, [export])
        assert check.findings == ["output y: expected float32, given float64"]


def test_what_is_not_finite_agrees_with_itself(tmp_path):
    export = golden.Export("double", 1, tmp_path / "double" / "1")
    (export.path / "assets.extra").mkdir(parents=True)
    request = {"x": np.array([1.0, np.inf, -np.inf, np.nan], np.float32)}
    art_models.write_golden(export.path, {"serving_default": (request, lambda x: {"y": x * 2})})
    model = FakeModel()
    with FakeServer({"double": model}) as server, Client.connect(server.address) as client:
        (check,) = doctor.examine(doctor.GrpcServer(client), [export])
        assert (check.findings, check.max_difference) == ([], 0.0)
        model.run = lambda inputs: {"y": np.array([2.0, np.inf, np.inf, 3.0], np.float32)}
        (check,) = doctor.examine(doctor.GrpcServer(client), [export])
        assert "2 of 4 values differ, most at row 2" in check.findings[0]
        assert check.max_difference == np.inf


def test_over_https_it_trusts_the_authority_and_shows_the_certificate_it_is_given(capsys, art_base, tmp_path):
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-keyout", f"{tmp_path}/key.pem", "-out", f"{tmp_path}/cert.pem", "-days", "2"]
    command += ["-subj", "/CN=gateway", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    context.load_verify_locations(tmp_path / "cert.pem")
    context.verify_mode = ssl.CERT_REQUIRED

    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as gateway:
        gateway.socket = context.wrap_socket(gateway.socket, server_side=True)
        threading.Thread(target=gateway.serve_forever, daemon=True).start()
        address = f"https://127.0.0.1:{gateway.server_port}"
        trusted = f"--tls_ca={tmp_path}/cert.pem"
        own = (f"--tls_cert={tmp_path}/cert.pem", f"--tls_key={tmp_path}/key.pem")
        assert "the server has no model 'art'" in _run(capsys, address, art_base, trusted, *own)[1]
        status, out, err = _run(capsys, address, art_base)
        assert (status, out) == (2, "") and "CERTIFICATE_VERIFY_FAILED" in err
        status, out, err = _run(capsys, address, art_base, f"--tls_ca={__file__}")
        assert (status, out) == (2, "") and f"no certificate or key of it: {__file__}" in err
        gateway.shutdown()


def test_an_answer_that_is_not_http_is_not_printed(capsys, art_base):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"\x1b[2J\x00\x00 noise\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        status, out, err = _run(capsys, f"http://127.0.0.1:{listener.getsockname()[1]}", art_base)
    assert (status, out) == (2, "")
    assert err.endswith("/v1/models/art: no HTTP server: BadStatusLine\n")


def test_headers_go_to_the_gateway_and_its_words_come_back(capsys, art_base):
    """KServe's gateway chooses the service by the Host header."""
    seen = []

    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers["Host"]))
            body = b'{"error": "no such service"}'
            self.send_response(404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as gateway:
        threading.Thread(target=gateway.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{gateway.server_port}/prefix"
        status, out, _ = _run(capsys, address, art_base, "--header=Host: art.example.com")
        gateway.shutdown()
    assert (status, "the server has no model 'art'" in out) == (1, True)
    assert seen == [("/prefix/v1/models/art", "art.example.com")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected DIR, or HOST:PORT DIR"),
        (["127.0.0.1:1"], "the golden requests are in the exports: atelier-doctor 127.0.0.1:1 DIR"),
        (["/no/where"], "/no/where is neither a folder nor a server"),
        (["{base}", "{base}"], "expected DIR, or HOST:PORT DIR"),
        (["{empty}"], "holds no models: expected <model>/<version>/saved_model.pb below it"),
        (["{plain}"], "has no assets.extra/golden_requests, which atelier-export writes"),
        (["{damaged}"], "golden_requests is damaged: a length's checksum is wrong"),
        (["127.0.0.1:1", "{base}"], "Failed to connect|connections to all backends failing"),
        (["http://127.0.0.1:1", "{base}"], "Connection refused"),
        (["http://127.0.0.1:1", "{base}", "--header=Host"], "--header=Host: expected 'Name: value'"),
        (["{base}", "--atol=-1"], "atol"),
        (["{base}", "--nope"], "nope"),
    ],
)
def test_what_cannot_be_checked_is_one_line_and_exits_with_2(capsys, art_base, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "plain" / "1").mkdir(parents=True)
    (tmp_path / "plain" / "1" / "saved_model.pb").touch()
    shutil.copytree(tmp_path / "plain", tmp_path / "damaged")
    (tmp_path / "damaged" / "1" / "assets.extra").mkdir()
    (tmp_path / "damaged" / "1" / "assets.extra" / "golden_requests").write_bytes(b"no TFRecord of any kind")
    folders = {name: tmp_path / name for name in ("empty", "plain", "damaged")} | {"base": art_base}
    status, out, err = _run(capsys, *(text.format(**folders) for text in arguments))
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert any(part in err for part in message.split("|"))


def test_a_base_install_checks_servers_and_says_what_a_folder_alone_needs(base_install, art_server, art_base):
    python, environment = base_install

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [*python, "-m", "serving.doctor_main", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    checked = run(art_server.address, art_base)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "nothing differs" in checked.stdout
    alone = run(art_base)
    assert (alone.returncode, alone.stdout) == (2, "")
    assert alone.stderr == (
        "error: starting a server needs TensorFlow: pip install 'atelier[serve]'; or name one that runs: "
        "atelier-doctor HOST:PORT DIR\n"
    )


def test_help_names_the_forms_and_the_statuses(capsys):
    status, out, _ = _run(capsys, "--help")
    assert status == 0
    assert "atelier-doctor HOST:PORT DIR" in out and "Exit status: 0" in out and "--rtol" in out


def test_golden_messages_have_tensorflow_serving_s_numbers():
    from tensorflow_serving.apis import prediction_log_pb2

    from serving import golden_pb2

    for name, own in golden_pb2.DESCRIPTOR.message_types_by_name.items():
        stock = prediction_log_pb2.DESCRIPTOR.message_types_by_name[name]
        for field in own.fields:
            assert stock.fields_by_name[field.name].number == field.number


@pytest.mark.parametrize("module", ["client_main", "bench_main", "doctor_main"])
def test_the_tools_load_no_tensorflow(module):
    code = f"import serving.{module}, sys; print(sorted({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.replace("'", '"')))
    assert not loaded & {"tensorflow", "tensorflow_serving", "keras", "PIL", "zoo", "train"}
