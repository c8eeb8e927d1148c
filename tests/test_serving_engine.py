"""`--engine`: TensorFlow Serving itself, started and supervised.

These tests need neither its binary nor a running Docker: real subprocesses stand in
for both: a `tensorflow_model_server` that reads the same flags and model config, answers GetModelStatus
on a real gRPC port, logs and obeys signals; and a `docker` that records its arguments and runs the former
on what was mounted. So the tests show what is started, with what, and how it is supervised; that upstream
takes it so is upstream's documentation.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from saved_models import free_port
from tensorflow_serving.config import model_server_config_pb2

from serving import engine, models_pb2
from serving.client import Client
from serving.errors import ServerNotStarted
from serving.launch import launch

ROOT = Path(__file__).resolve().parent.parent
SYSTEM = dict(os.environ)  # before tests change the PATH

# STANDIN in the environment: loading (answers LOADING three times first), drain (ends with 0 when it is
# asked to), deaf (does not end when it is asked to).
SERVER = f"""#!{sys.executable}
import os, signal, sys, threading
from concurrent import futures
from pathlib import Path

import grpc
from google.protobuf import text_format

sys.path.insert(0, {str(ROOT)!r})
from serving import config_pb2, models_pb2, wire_pb2

mode = os.environ.get("STANDIN", "")
print("arguments:", *sys.argv[1:], flush=True)
print("log on stderr", file=sys.stderr, flush=True)
flags = dict(argument[2:].partition("=")[::2] for argument in sys.argv[1:])
models = {{flags.get("model_name", "default"): flags.get("model_base_path", "")}}
if "model_config_file" in flags:
    text = Path(flags["model_config_file"]).read_text()
    config = text_format.Parse(text, models_pb2.ModelServerConfig(), allow_unknown_field=True)
    models = {{model.name: model.base_path for model in config.model_config_list.config}}
if any((Path(base) / "1" / "broken").exists() for base in models.values()):
    print("Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available", flush=True)
    sys.exit(255)
asked = []

def status(request, context):
    asked.append(request.model_spec.name)
    state = "LOADING" if mode == "loading" and len(asked) <= 3 else "AVAILABLE"
    print("state:", state, flush=True)
    if not any(models):
        context.abort(grpc.StatusCode.NOT_FOUND, "Could not find any versions of model")
    answer = wire_pb2.GetModelStatusResponse()
    answer.model_version_status.add(version=1, state=wire_pb2.ModelVersionStatus.State.Value(state))
    return answer

class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(
            status,
            wire_pb2.GetModelStatusRequest.FromString,
            wire_pb2.GetModelStatusResponse.SerializeToString,
        )

stop = threading.Event()
if mode == "drain":
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
elif mode == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[Handler()])
add_port = server.add_insecure_port
if "ssl_config_file" in flags:
    ssl = text_format.Parse(Path(flags["ssl_config_file"]).read_text(), config_pb2.SSLConfig())
    pair = (ssl.server_key.encode(), ssl.server_cert.encode())
    credentials = grpc.ssl_server_credentials([pair], ssl.custom_ca.encode() or None, ssl.client_verify)
    add_port = lambda address: server.add_secure_port(address, credentials)
if int(flags.get("port", 8500)):
    add_port("127.0.0.1:" + flags.get("port", "8500"))
if "grpc_socket_path" in flags:
    add_port("unix:" + flags["grpc_socket_path"])
server.start()
stop.wait()
print("drained", flush=True)
server.stop(None).wait()
"""

# STANDIN_DOCKER: where it writes down its calls; a file named `down` there: the daemon is not there. As the
# real one, it listens on a published port before the server does, and hangs up on those who connect.
DOCKER = f"""#!{sys.executable}
import csv, json, os, signal, socket, sys
from pathlib import Path

folder = Path(os.environ["STANDIN_DOCKER"])
verb, *words = sys.argv[1:]
if verb == "info":
    if (folder / "down").exists():
        sys.exit("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.")
    print("[name=seccomp,profile=builtin", "name=rootless]" if (folder / "rootless").exists() else "]")
elif verb == "rm":
    (folder / "removed").write_text(words[-1])
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
else:
    (folder / "run").write_text(json.dumps(words))
    (folder / "pid").write_text(str(os.getpid()))
    image = next(i for i, word in enumerate(words) if not word.startswith("--"))
    arguments = words[image + 1 :]
    for word in words[:image]:
        name, _, value = word.partition("=")
        if name == "--mount":
            mount = dict(part.partition("=")[::2] for part in next(csv.reader([value])))
            inside, outside = "=" + mount["target"] + "/", "=" + mount["source"] + "/"
            arguments = [argument.replace(inside, outside) for argument in arguments]
        if name == "--publish" and "early" in os.environ.get("STANDIN", ""):
            with socket.create_server(("127.0.0.1", int(value.partition(":")[0]))) as proxy:
                for _ in range(3):
                    proxy.accept()[0].close()
    print("the server begins", flush=True)
    server = Path(__file__).with_name("hidden_server")
    os.execv(server, [str(server), *arguments])
"""


def _script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH, empty at first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("STANDIN_DOCKER", str(tmp_path))
    for name in ("ATELIER_TFSERVING_BINARY", "ATELIER_TFSERVING_IMAGE", "STANDIN"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def binary(tools: Path) -> Path:
    return _script(tools / "tensorflow_model_server", SERVER)


@pytest.fixture
def docker(tools: Path) -> Path:
    _script(tools / "hidden_server", SERVER)
    return _script(tools / "docker", DOCKER)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Of the models a_b and "c, d", which upstream's file describes with more fields than we know."""
    for name in ("a_b", "c, d"):
        (tmp_path / "models" / name / "1").mkdir(parents=True)
    path = tmp_path / "configs" / "models.config"
    path.parent.mkdir()
    path.write_text(
        "model_config_list {\n"
        f"  config {{ name: 'a_b' base_path: '{tmp_path}/models/' 'a_b' model_platform: 'tensorflow'\n"
        "    model_version_policy { specific { versions: 1 } } version_labels { key: 'x' value: 1 } }\n"
        f"  config {{ name: 'c, d' base_path: '{tmp_path}/models/c, d' model_platform: 'tensorflow' }}\n"
        "}  # the end\n"
    )
    return path


def _ssl_config(folder: Path, *, days: int, more: str = "") -> Path:
    """An SSLConfig of a server's key and certificate, which another signed and which names no host here."""
    new = ["openssl", "req", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    (folder / "names").write_text("subjectAltName=DNS:*.serving.example")
    for command in (
        [*new, "-x509", "-days", "1", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt"],
        [*new, "-subj", "/CN=server", "-keyout", "key", "-out", "csr"],
        [
            *("openssl", "x509", "-req", "-in", "csr", "-out", "crt", "-days", str(days), "-CAcreateserial"),
            *("-CA", "ca.crt", "-CAkey", "ca.key", "-extfile", "names"),
        ],
    ):
        subprocess.run(command, cwd=folder, env=SYSTEM, check=True, capture_output=True)
    texts = {"server_key": "key", "server_cert": "crt", "custom_ca": "ca.crt"}
    lines = [f"{name}: {json.dumps((folder / file).read_text())}\n" for name, file in texts.items()]
    path = folder / "ssl"
    path.write_text("".join(lines) + more)
    return path


class Serving:
    """The engine in a process of its own, and what it and its server print."""

    def __init__(self, folder: Path, engine_name: str, flags: list[str], stop_seconds: float = 60.0) -> None:
        self.log_path = folder / "log"
        code = (
            "import sys\nfrom serving import engine\n"
            f"engine._STOP_SECONDS = {stop_seconds}\n"
            "sys.exit(engine.find(sys.argv[1]).run(sys.argv[2:]))"
        )
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, engine_name, *flags], stdout=log, stderr=log, cwd=ROOT
            )

    def wait_for(self, text: str) -> str:
        deadline = time.monotonic() + 60
        while text not in self.log():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.05)
        return self.log()

    def log(self) -> str:
        return self.log_path.read_text()

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    started: list[Serving] = []

    def start(engine_name: str, flags: list[str], **options: float) -> Serving:
        started.append(Serving(tmp_path, engine_name, flags, **options))
        return started[-1]

    yield start
    for serving in started:
        if serving.process.poll() is None:
            serving.end(signal.SIGTERM)


# --- Which one -----------------------------------------------------------------------------------


def test_the_binary_is_preferred_to_docker_and_both_to_the_embedded_server(tools, monkeypatch):
    assert engine.find("embedded") is None
    assert engine.find("auto") is None
    docker = _script(tools / "docker", DOCKER)
    found = engine.find("auto")
    assert isinstance(found, engine.DockerEngine)
    assert (found.path, found.image) == (str(docker), "tensorflow/serving:2.20.0")
    binary = _script(tools / "tensorflow_model_server", SERVER)
    assert engine.find("auto") == engine.find("tfserving") == engine.Engine(str(binary))
    other = _script(tools / "other", SERVER)
    monkeypatch.setenv("ATELIER_TFSERVING_BINARY", str(other))
    assert engine.find("tfserving") == engine.Engine(str(other))


@pytest.mark.parametrize(
    ("down", "reason"),
    [(False, "neither is found"), (True, "Docker does not work: Cannot connect to the Docker daemon")],
)
def test_without_the_binary_and_a_docker_that_works_the_error_says_what_to_do(tools, tmp_path, down, reason):
    if down:
        _script(tools / "docker", DOCKER)
        (tmp_path / "down").touch()
    assert engine.find("auto") is None
    with pytest.raises(ServerNotStarted) as caught:
        engine.find("tfserving")
    message = str(caught.value)
    assert reason in message
    assert message.endswith("install one of them, or use --engine=embedded")
    assert "\n" not in message


@pytest.mark.parametrize("name", ["auto", "tfserving"])
def test_a_binary_that_is_named_and_not_there_is_an_error(tools, monkeypatch, name):
    monkeypatch.setenv("ATELIER_TFSERVING_BINARY", "/no/such")
    with pytest.raises(ServerNotStarted, match=r"^ATELIER_TFSERVING_BINARY=/no/such is no executable file$"):
        engine.find(name)


def test_an_unknown_engine_is_an_error(tools):
    with pytest.raises(ServerNotStarted, match="--engine=triton: expected embedded, tfserving or auto"):
        engine.find("triton")


# --- Flags ---------------------------------------------------------------------------------------

# shared/reference/tensorflow_serving.md 1.1
UPSTREAM_FLAGS = """
    port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms
    rest_api_enable_cors_support enable_batching batching_parameters_file
    enable_per_model_batching_parameters allow_version_labels_for_unavailable_models model_config_file
    model_config_file_poll_wait_seconds model_name model_base_path num_load_threads num_unload_threads
    max_num_load_retries load_retry_interval_micros file_system_poll_wait_seconds
    flush_filesystem_caches tensorflow_session_parallelism tensorflow_intra_op_parallelism
    tensorflow_inter_op_parallelism tensorflow_session_config_file use_alts_credentials ssl_config_file
    platform_config_file per_process_gpu_memory_fraction saved_model_tags grpc_channel_arguments
    grpc_max_threads enable_model_warmup num_request_iterations_for_warmup version
    monitoring_config_file remove_unused_fields_from_bundle_metagraph prefer_tflite_model
    num_tflite_pools num_tflite_interpreters_per_pool enable_signature_method_name_check
    xla_cpu_compilation_enabled xla_gpu_compilation_enabled enable_profiler
    thread_pool_factory_config_file skip_initialize_tpu mixed_precision
    enable_grpc_healthcheck_service enable_serialization_as_tensor_content
"""


def test_every_flag_of_the_embedded_server_is_known_to_be_its_own_or_upstream_s():
    done = subprocess.run(
        [sys.executable, "-m", "serving.server_main", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    ours = set(re.findall(r"^\t--(\w+)=", done.stdout, re.MULTILINE))
    assert ours - set(UPSTREAM_FLAGS.split()) == set(engine.OWN_FLAGS)


def test_flags_pass_as_they_are_but_those_that_upstream_lacks(binary, config, serve):
    port = free_port()
    passed = [f"--port={port}", f"--model_config_file={config}", "--enable_batching", "--no_such_flag=1"]
    own = ["--tolerate_failed_models", "--import=tf_text", "--engine=tfserving", "--rest_api_ssl=false"]
    serving = serve("tfserving", [*passed[:2], *own, *passed[2:]])
    log = serving.wait_for("is available")
    assert f"arguments: {' '.join(passed)}\n" in log
    left_out = "TensorFlow Serving has no --tolerate_failed_models, --import, --rest_api_ssl: left out\n"
    assert log.count(left_out) == 1


def test_tls_that_upstream_cannot_do_is_refused_rather_than_left_out(binary, serve):
    serving = serve("tfserving", ["--rest_api_ssl", "--ssl_config_file=ssl"])
    assert serving.process.wait(60) == 255
    assert serving.log() == (
        "Failed to start server. Error: --rest_api_ssl needs --engine=embedded: "
        "TensorFlow Serving's REST API has no TLS\n"
    )


def test_the_config_that_is_read_here_has_upstream_s_fields():
    theirs = model_server_config_pb2.ModelServerConfig()
    theirs.model_config_list.config.add(name="m", base_path="/m", model_platform="tensorflow")
    ours = models_pb2.ModelServerConfig.FromString(theirs.SerializeToString())
    (model,) = ours.model_config_list.config
    assert (model.name, model.base_path) == ("m", "/m")


# --- Supervision ---------------------------------------------------------------------------------


def test_it_says_available_once_every_model_is_and_serves_on_the_port(binary, config, serve, monkeypatch):
    monkeypatch.setenv("STANDIN", "loading")
    port = free_port()
    serving = serve("tfserving", [f"--port={port}", f"--model_config_file={config}"])
    log = serving.wait_for("is available")
    assert log.index("state: AVAILABLE") < log.index("TensorFlow Serving is available")
    assert log.count("state: LOADING") == 3
    assert "log on stderr" in log
    with Client.connect(f"127.0.0.1:{port}") as client:
        assert client.status("a_b")[0].state == "AVAILABLE"


def test_it_waits_for_a_server_that_has_only_a_unix_socket(binary, tmp_path, serve):
    flags = ["--port=0", f"--grpc_socket_path={tmp_path}/s", "--model_name=m", "--model_base_path=/m"]
    serving = serve("tfserving", flags)
    assert "state: AVAILABLE" in serving.wait_for("is available")


def test_a_server_of_no_models_is_available_once_it_answers(binary, config, serve):
    config.write_text("model_config_list {}")
    serving = serve("tfserving", [f"--port={free_port()}", f"--model_config_file={config}"])
    assert "state: AVAILABLE" in serving.wait_for("is available")


@pytest.mark.parametrize("tls", ["", "TLS", "mutual TLS"])
def test_a_port_that_docker_opens_early_is_not_the_server_s(
    docker, config, serve, tmp_path, monkeypatch, tls
):
    monkeypatch.setenv("STANDIN", "early")
    flags = [f"--port={free_port()}", f"--model_config_file={config}"]
    if tls:
        client_verify = "client_verify: true\n" if tls == "mutual TLS" else ""
        flags.append(f"--ssl_config_file={_ssl_config(tmp_path, days=1, more=client_verify)}")
    log = serve("tfserving", flags).wait_for("is available")
    assert log.index("the server begins") < log.index("TensorFlow Serving is available")
    # Who has no certificate cannot ask: the open port must do.
    assert ("state: AVAILABLE" in log) == (tls != "mutual TLS")


def test_what_cannot_be_asked_is_said_so(binary, config, serve, tmp_path):
    flags = [f"--port={free_port()}", f"--model_config_file={config}"]
    serving = serve("tfserving", [*flags, "--use_alts_credentials"])
    serving.wait_for("cannot ask TensorFlow Serving whether it is available: it speaks to machines of Google")
    serving.end(signal.SIGTERM)
    expired = _ssl_config(tmp_path, days=0)
    time.sleep(1.1)
    serving = serve("tfserving", [*flags, f"--ssl_config_file={expired}"])
    serving.wait_for("cannot ask TensorFlow Serving whether it is available: certificate has expired")
    assert "TensorFlow Serving is available" not in serving.log()


@pytest.mark.parametrize(
    ("mode", "number", "status"),
    [
        ("drain", signal.SIGTERM, 0),
        ("drain", signal.SIGINT, 0),
        ("", signal.SIGTERM, 128 + signal.SIGTERM),
        ("", signal.SIGINT, 128 + signal.SIGINT),
    ],
)
def test_signals_reach_the_server_and_its_status_is_returned(
    binary, config, serve, monkeypatch, mode, number, status
):
    monkeypatch.setenv("STANDIN", mode)
    serving = serve("tfserving", [f"--port={free_port()}", f"--model_config_file={config}"])
    serving.wait_for("is available")
    assert serving.end(number) == status
    assert ("drained" in serving.log()) == (mode == "drain")


def test_a_server_that_does_not_end_is_killed(binary, config, serve, monkeypatch):
    monkeypatch.setenv("STANDIN", "deaf")
    flags = [f"--port={free_port()}", f"--model_config_file={config}"]
    serving = serve("tfserving", flags, stop_seconds=0.2)
    serving.wait_for("is available")
    assert serving.end(signal.SIGTERM) == 128 + signal.SIGKILL
    assert "did not end within 0.2 s: killed" in serving.log()


def test_a_failed_start_is_the_server_s_own_status_and_text(binary, config, serve, tmp_path):
    (tmp_path / "models" / "a_b" / "1" / "broken").touch()
    serving = serve("tfserving", [f"--port={free_port()}", f"--model_config_file={config}"])
    assert serving.process.wait(60) == 255
    assert "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become" in serving.log()
    assert "is available" not in serving.log()


def test_a_binary_that_cannot_run_is_one_line(tools, serve):
    _script(tools / "tensorflow_model_server", "\x7fELF of another machine")
    serving = serve("tfserving", ["--port=0"])
    assert serving.process.wait(60) == 255
    assert serving.log().splitlines()[-1].startswith("Failed to start server. Error: cannot run /")


# --- Docker --------------------------------------------------------------------------------------


def _docker_run(folder: Path) -> tuple[list[str], list[dict[str, str]], list[str]]:
    """(options but mounts, mounts, the image and what follows it) of the recorded `docker run`."""
    words = json.loads((folder / "run").read_text())
    image = next(i for i, word in enumerate(words) if not word.startswith("--"))
    mounts, options = [], []
    for word in words[:image]:
        name, _, value = word.partition("=")
        if name == "--mount":
            mounts.append(dict(part.partition("=")[::2] for part in next(csv.reader([value]))))
        else:
            options.append(word)
    return options, mounts, words[image:]


def test_docker_gets_ports_user_flags_and_read_only_mounts(docker, config, serve, tmp_path, monkeypatch):
    monkeypatch.setenv("ATELIER_TFSERVING_IMAGE", "mirror/serving:2-gpu")
    batching = tmp_path / "batching.config"
    batching.touch()
    port, rest_port = free_port(), free_port()
    given = ["--enable_batching", f"--port={port}", f"--rest_api_port={rest_port}"]
    files = [f"--model_config_file={config}", f"--batching_parameters_file={os.path.relpath(batching, ROOT)}"]
    serving = serve("tfserving", [*files, *given])
    serving.wait_for("is available")
    options, mounts, command = _docker_run(tmp_path)
    name = options.pop(2)
    assert re.fullmatch(r"--name=atelier-serve-[0-9a-f]{12}", name)
    assert options == [
        "--rm",
        "--init",
        f"--publish={port}:{port}",
        f"--publish={rest_port}:{rest_port}",
        f"--user={os.getuid()}:{os.getgid()}",
        "--gpus=all",
        "--entrypoint=tensorflow_model_server",
    ]
    models = tmp_path / "models"
    assert mounts == [
        {"type": "bind", "source": source, "target": target, "readonly": ""}
        for source, target in [
            (f"{models}/a_b", f"{models}/a_b"),
            (f"{models}/c, d", f"{models}/c, d"),
            (str(config.parent), "/atelier/model_config_file"),
            (str(tmp_path), "/atelier/batching_parameters_file"),
        ]
    ]
    assert command == [
        "mirror/serving:2-gpu",
        *given,
        "--model_config_file=/atelier/model_config_file/models.config",
        "--batching_parameters_file=/atelier/batching_parameters_file/batching.config",
    ]
    assert serving.end(signal.SIGTERM) == 128 + signal.SIGTERM


def test_docker_with_one_model_and_a_socket(docker, tmp_path, serve):
    (tmp_path / "rootless").touch()
    base = tmp_path / "model"
    (base / "1").mkdir(parents=True)
    flags = ["--port=0", f"--grpc_socket_path={tmp_path}/s", f"--model_base_path={base}"]
    serve("tfserving", flags).wait_for("is available")
    options, mounts, command = _docker_run(tmp_path)
    assert not [option for option in options if option.startswith(("--user", "--publish", "--gpus"))]
    assert mounts == [
        {"type": "bind", "source": str(base), "target": str(base), "readonly": ""},
        {"type": "bind", "source": str(tmp_path), "target": str(tmp_path)},
    ]
    assert command == [
        engine.TFSERVING_IMAGE, "--port=0", f"--model_base_path={base}", f"--grpc_socket_path={tmp_path}/s",
    ]  # fmt: skip


def test_a_container_that_does_not_end_is_removed(docker, config, serve, tmp_path, monkeypatch):
    monkeypatch.setenv("STANDIN", "deaf")
    flags = [f"--port={free_port()}", f"--model_config_file={config}"]
    serving = serve("tfserving", flags, stop_seconds=0.2)
    serving.wait_for("is available")
    serving.end(signal.SIGTERM)
    options, _, _ = _docker_run(tmp_path)
    assert f"--name={(tmp_path / 'removed').read_text()}" in options


# --- As users start it ---------------------------------------------------------------------------


def test_the_command_line_and_the_launcher_start_it(binary, config, monkeypatch):
    with launch(config, flags=["--engine=tfserving"]) as server:
        with Client.connect(server.address) as client:
            assert client.status("c, d")[0].state == "AVAILABLE"
        assert f"--model_config_file={config}\n" in server.log()
        assert server.stop() == 128 + signal.SIGTERM
