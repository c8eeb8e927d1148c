"""The server's flags, one by one: what each changes in the real binary, and what each refuses."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
import pytest
import saved_models
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, get_model_status_pb2
from test_serving_grpc import (
    PREDICT,
    Stubs,
    http_get,
    http_post,
    predict_request,
    refused,
    wait_for,
    write_odd,
    write_warm_up,
    y,
)

from serving import server, server_main
from serving.launch import LaunchedServer, launch

SERVE = [sys.executable, "-m", "serving.server_main"]
PREDICT_PATH = "/tensorflow.serving.PredictionService/Predict"

# --- The command line -------------------------------------------------------------------------------

# Upstream's main.cc and server.h; CPUS: that many, or four times.
UPSTREAM = """
port int32 8500
grpc_socket_path string ""
rest_api_port int32 0
rest_api_num_threads int32 CPUS
rest_api_timeout_in_ms int32 30000
rest_api_enable_cors_support bool false
enable_batching bool false
allow_version_labels_for_unavailable_models bool false
batching_parameters_file string ""
enable_per_model_batching_parameters bool false
model_config_file string ""
model_config_file_poll_wait_seconds int32 0
model_name string "default"
model_base_path string ""
num_load_threads int32 0
num_unload_threads int32 0
max_num_load_retries int32 5
load_retry_interval_micros int64 60000000
file_system_poll_wait_seconds int32 1
flush_filesystem_caches bool true
tensorflow_session_parallelism int64 0
tensorflow_intra_op_parallelism int64 0
tensorflow_inter_op_parallelism int64 0
use_alts_credentials bool false
ssl_config_file string ""
platform_config_file string ""
per_process_gpu_memory_fraction float 0.0
saved_model_tags string "serve"
grpc_channel_arguments string ""
grpc_max_threads int32 CPUS
enable_model_warmup bool true
num_request_iterations_for_warmup int32 0
version bool false
monitoring_config_file string ""
remove_unused_fields_from_bundle_metagraph bool true
prefer_tflite_model bool false
num_tflite_pools int32 CPUS
num_tflite_interpreters_per_pool int32 1
enable_signature_method_name_check bool false
xla_cpu_compilation_enabled bool false
xla_gpu_compilation_enabled bool false
enable_profiler bool true
thread_pool_factory_config_file string ""
mixed_precision string ""
skip_initialize_tpu bool false
enable_grpc_healthcheck_service bool false
enable_serialization_as_tensor_content bool false
tensorflow_session_config_file string ""
"""


def _serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SERVE, *arguments], cwd=saved_models.ROOT, capture_output=True, text=True, timeout=120
    )


def test_help_lists_upstream_s_48_flags_with_their_types_and_defaults():
    done = _serve("--help")
    assert (done.returncode, done.stderr) == (255, "")
    first, second, *lines = done.stdout.splitlines()
    assert first.startswith("usage: ")
    assert second == "Flags:"
    shown = {}
    for line in lines:
        flag, kind, text = line.lstrip("\t").split("\t")
        name, _, default = flag.strip().removeprefix("--").partition("=")
        assert text
        shown[name] = (kind, default)
    wanted = [line.split() for line in UPSTREAM.split("\n") if line]
    assert len(wanted) == 48
    for name, kind, default in wanted:
        assert shown[name][0] == kind
        if default != "CPUS":
            assert shown[name][1] == default


@pytest.mark.parametrize(
    "argument",
    [
        "--port=",
        "--port=1.5",
        "--port= 1",
        "--port=0x10",
        "--rest_api_port=2147483648",
        "--tensorflow_session_parallelism=9223372036854775808",
        "--enable_batching=yes",
        "--enable_batching=",
        "--per_process_gpu_memory_fraction=half",
    ],
)
def test_a_bad_value_shows_the_usage_and_ends(capsys, argument):
    assert server_main.main(["server", "--model_base_path=/m", argument]) == 255
    assert capsys.readouterr().out.startswith("usage: server\nFlags:\n\t--port=8500")


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "1", None])
def test_ways_to_say_yes(text):
    argument = "--enable_batching" + ("" if text is None else f"={text}")
    assert server_main.parse_flags([argument]) == (
        {**server_main.parse_flags([])[0], "enable_batching": True},
        [],
    )


@pytest.mark.parametrize("text", ["false", "False", "FALSE", "0"])
def test_ways_to_say_no(text):
    assert server_main.parse_flags([f"--enable_profiler={text}"])[0]["enable_profiler"] is False


def test_version_is_two_lines_and_no_server():
    done = _serve("--version", "--port=0")
    assert done.returncode == 0
    assert re.fullmatch(r"TensorFlow ModelServer: \S+\nTensorFlow Library: \S+\n", done.stdout)


# --- Starts that fail -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess[str]]:
    """How these starts ended; all at once, as each takes seconds."""
    folder = tmp_path_factory.mktemp("failed")
    write_odd(folder / "cold" / "1")
    write_warm_up(folder / "cold" / "1", predict_request([1]), predict_request([1], "no_such_signature"))
    commands = {
        "import": ["--import=json,no_such_module"],
        "warm-up": ["--model_name=cold", "--max_num_load_retries=0"],
    }
    running = {
        name: subprocess.Popen(
            [*SERVE, f"--grpc_socket_path={folder}/{name}", f"--model_base_path={folder}/cold", *flags],
            cwd=saved_models.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, flags in commands.items()
    }
    done = {}
    for name, process in running.items():
        out, error = process.communicate(timeout=120)
        done[name] = subprocess.CompletedProcess(process.args, process.returncode, out, error)
    return done


@pytest.mark.parametrize(
    ("start", "error"),
    [
        (
            "import",
            "INVALID_ARGUMENT: --import=no_such_module cannot be imported (ModuleNotFoundError: No module "
            "named 'no_such_module'); install it beside the server",
        ),
        (
            "warm-up",
            "UNKNOWN: 1 servable(s) did not become available: {{{name: cold version: 1} due to error: "
            'FAILED_PRECONDITION: Serving signature key "no_such_signature" not found.}, }',
        ),
    ],
)
def test_a_start_that_fails_says_why_in_one_line(failed, start, error):
    done = failed[start]
    assert (done.returncode, done.stdout) == (255, f"Failed to start server. Error: {error}\n")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("changes", "files", "error"),
    [
        ({"ssl_config_file": "ssl"}, {"ssl": "server_key: 1"}, "Invalid protobuf file: '{0}/ssl'"),
        (
            {"ssl_config_file": "ssl", "use_alts_credentials": True},
            {"ssl": 'server_key: "k" server_cert: "c"'},
            "use_alts_credentials and ssl_config_file exclude each other: set one",
        ),
        (
            {"monitoring_config_file": "monitoring"},
            {"monitoring": "prometheus {}"},
            "Invalid protobuf file: '{0}/monitoring'",
        ),
        (
            {"batching_parameters_file": "batching", "enable_batching": True},
            {"batching": "max_batch_size: 3"},
            "Invalid protobuf file: '{0}/batching'",
        ),
        (
            {"tensorflow_session_config_file": "session"},
            {"session": "nonsense"},
            "Invalid protobuf file: '{0}/session'",
        ),
        (
            {"batching_parameters_file": "batching"},
            {"batching": ""},
            "server_options.batching_parameters_file is set without setting server_options.enable_batching "
            "to true.",
        ),
        (
            {"batching_parameters_file": "batching", "enable_batching": True},
            {"batching": "max_batch_size { value: 8 } allowed_batch_sizes: 4"},
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8",
        ),
        ({"access_log": "xml"}, {}, "access_log=xml: only json is known"),
    ],
)
def test_options_and_files_that_cannot_be(tmp_path, capfd, changes, files, error):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    changes = {k: f"{tmp_path}/{v}" if k.endswith("_file") else v for k, v in changes.items()}
    options = server.Options(rest_api_port=1, model_base_path="/m", **changes)
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        server.Server(options)
    assert raised.value.message == error.format(tmp_path)
    assert ("Error parsing text-format" in capfd.readouterr().err) == ("Invalid protobuf" in error)


@pytest.mark.parametrize(
    "flag", ["ssl_config_file", "monitoring_config_file", "tensorflow_session_config_file"]
)
def test_a_file_that_is_not_there_is_not_found(tmp_path, flag):
    options = server.Options(rest_api_port=1, model_base_path="/m", **{flag: f"{tmp_path}/none"})
    with pytest.raises(tf.errors.NotFoundError, match="none"):
        server.Server(options)


@pytest.mark.parametrize(
    ("flags", "threads"),
    [
        ({}, (7, 9)),
        ({"tensorflow_session_parallelism": 2}, (2, 2)),
        ({"tensorflow_intra_op_parallelism": 3}, (3, 9)),
        ({"tensorflow_inter_op_parallelism": 4}, (7, 4)),
        ({"tensorflow_session_parallelism": 2, "tensorflow_intra_op_parallelism": 3}, (3, 9)),
    ],
)
def test_flags_override_the_session_config_s_threads_and_always_its_gpu_fraction(tmp_path, flags, threads):
    (tmp_path / "session").write_text(
        "intra_op_parallelism_threads: 7 inter_op_parallelism_threads: 9"
        " gpu_options { per_process_gpu_memory_fraction: 0.5 allow_growth: true }"
    )
    options = server.Options(tensorflow_session_config_file=f"{tmp_path}/session", **flags)
    config = server._session_config(options)
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == threads
    assert config.gpu_options.per_process_gpu_memory_fraction == 0
    assert config.gpu_options.allow_growth
    options = server.Options(per_process_gpu_memory_fraction=0.25)
    assert server._session_config(options).gpu_options.per_process_gpu_memory_fraction == 0.25


def test_mixed_precision_is_bfloat16_or_a_warning(caplog):
    options = server._session_config(server.Options(mixed_precision="bfloat16")).graph_options.rewrite_options
    assert options.auto_mixed_precision_onednn_bfloat16 == options.ON
    assert not caplog.records
    assert server._session_config(server.Options(mixed_precision="half")) == (
        server._session_config(server.Options())
    )
    assert "only bfloat16 is known" in caplog.text


@pytest.mark.parametrize("same", [True, False])
def test_a_rest_port_that_cannot_be_had_leaves_grpc_alone(caplog, same):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        rest_port = taken.getsockname()[1]
        port = saved_models.free_port()
        options = server.Options(port=port, rest_api_port=port if same else rest_port, model_base_path="/m")
        embedded = server.Server(options)
        embedded.open()
    if same:
        error = "server_options.http_port cannot be same as grpc_port. Please use a different port."
    else:
        error = f"Failed to start HTTP Server at localhost:{rest_port}"
    assert error in caplog.text
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        error = ("NOT_FOUND", "Servable not found for request: Latest(odd)")
        assert refused(Stubs(channel).predictions.Predict, predict_request([1])) == error
    embedded.stop(0.0)


# --- A server with many flags that do not meet --------------------------------------------------------


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.crt, and server and client .key and .crt that it signed."""
    folder = tmp_path_factory.mktemp("certificates")
    key = ("-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    (folder / "names").write_text(names)
    _openssl(
        *("req", "-x509", *key, "-days", 1, "-subj", "/CN=ca"),
        *("-keyout", folder / "ca.key", "-out", folder / "ca.crt"),
    )
    for name in ("server", "client"):
        path = folder / name
        _openssl("req", *key, "-subj", f"/CN={name}", "-keyout", f"{path}.key", "-out", f"{path}.csr")
        _openssl(
            *("x509", "-req", "-in", f"{path}.csr", "-out", f"{path}.crt", "-days", 1, "-CAcreateserial"),
            *("-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-extfile", folder / "names"),
        )
    return folder


def _ssl_config(folder: Path, **more: object) -> str:
    texts = {
        "server_key": (folder / "server.key").read_text(),
        "server_cert": (folder / "server.crt").read_text(),
        **more,
    }
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in texts.items())


def _tls_channel(server: LaunchedServer, folder: Path, client: str = "") -> grpc.Channel:
    def pem(name: str) -> bytes:
        return (folder / name).read_bytes()

    pair = (pem(f"{client}.key"), pem(f"{client}.crt")) if client else (None, None)
    credentials = grpc.ssl_channel_credentials(pem("ca.crt"), *pair)
    return grpc.secure_channel(server.address.replace("127.0.0.1", "localhost"), credentials)


class Running(NamedTuple):
    server: LaunchedServer
    base: Path
    rest_port: int = 0


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[Running]:
    """gRPC by TLS; the model has other tags, needs a second CPU device, and counts its warm-up requests."""
    base = tmp_path_factory.mktemp("special")
    version = write_odd(base / "odd" / "1", tags=("serve", "special"), device="/device:CPU:1")
    write_warm_up(version, predict_request([1], "count"), predict_request([1, 2], "count"))
    (base / "session").write_text('device_count { key: "CPU" value: 2 }')
    (base / "ssl").write_text(_ssl_config(certificates))
    port = saved_models.free_port()
    flags = [
        f"--rest_api_port={port}",
        f"--ssl_config_file={base}/ssl",
        "--saved_model_tags=serve,special",
        f"--tensorflow_session_config_file={base}/session",
        "--num_request_iterations_for_warmup=3",
        "--enable_serialization_as_tensor_content",
        "--enable_signature_method_name_check=TRUE",
        "--enable_profiler=0",
        "--grpc_channel_arguments=grpc.max_receive_message_length=5000,grpc.max_metadata_size=20000",
        "--max_num_load_retries=0",
        "--tensorflow_session_parallelism=1",
        # Taken, and without effect.
        *("--flush_filesystem_caches=false", "--remove_unused_fields_from_bundle_metagraph=false"),
        *("--grpc_max_threads=2", "--num_tflite_interpreters_per_pool=2", "--skip_initialize_tpu"),
        *("--xla_cpu_compilation_enabled", "--xla_gpu_compilation_enabled"),
        *("--platform_config_file=/no/such/file", "--thread_pool_factory_config_file=/no/such/file"),
    ]
    with launch(("odd", base / "odd"), flags=flags) as launched:
        yield Running(launched, base, port)


@pytest.fixture(scope="module")
def stubs(special: Running, certificates: Path) -> Iterator[Stubs]:
    with _tls_channel(special.server, certificates) as channel:
        yield Stubs(channel)


def test_warm_up_requests_run_as_often_as_the_flag_says(stubs):
    assert stubs.predict([1], "count") == [2 * 3 + 1]


def test_the_session_config_and_the_tags_reach_the_loader(stubs):
    assert stubs.predict([1, 2]) == [2, 4]  # on /device:CPU:1, in a graph with the tag "special"


def test_no_flag_of_upstream_s_is_unknown(special):
    assert "unknown argument" not in special.server.log()


def test_answers_hold_tensor_content_behind_the_flag(stubs):
    tensor = stubs.predictions.Predict(predict_request([1, 2])).outputs["y"]
    assert tensor.tensor_content == np.array([2, 4], np.float32).tobytes()
    assert not tensor.float_val


def test_method_names_are_checked_behind_the_flag(stubs):
    assert refused(stubs.predictions.Predict, predict_request([1], "unnamed")) == (
        "INTERNAL",
        "Expected prediction signature method_name to be one of {tensorflow/serving/classify,"
        f"{PREDICT},tensorflow/serving/regress}}. Was: ",
    )
    request = classification_pb2.ClassificationRequest(
        model_spec={"name": "odd", "signature_name": "classify_as_predict"},
        input={"example_list": {"examples": [{}]}},
    )
    assert refused(stubs.predictions.Classify, request) == (
        "INVALID_ARGUMENT",
        "Expected classification signature method_name to be tensorflow/serving/classify. "
        f"Was: {PREDICT}",
    )
    request.model_spec.signature_name = "classify"
    (row,) = stubs.predictions.Classify(request).result.classifications
    assert row.classes[0].score == 1


@pytest.mark.parametrize("method", ["Profile", "Monitor"])
def test_without_the_profiler_its_service_is_unknown(stubs, method):
    call = stubs.channel.unary_unary(f"/tensorflow.ProfilerService/{method}")
    assert refused(call, b"\x08\x01")[0] == "UNIMPLEMENTED"
    # This is grpc's word, not the profiler's.
    assert refused(call, b"\x08\x01")[1] == "Method not found!"


def test_without_its_flag_there_is_no_health_service(stubs):
    assert refused(stubs.channel.unary_unary("/grpc.health.v1.Health/Check"), b"")[0] == "UNIMPLEMENTED"


def test_channel_arguments_reach_grpc(stubs):
    code, text = refused(stubs.predictions.Predict, predict_request(np.ones(2000)))
    assert code == "RESOURCE_EXHAUSTED"
    assert "5000" in text
    assert stubs.predict(np.ones(1000)) == [2] * 1000


# --- TLS --------------------------------------------------------------------------------------------


def test_tls_is_for_grpc_alone(special, stubs):
    assert stubs.predict([1]) == [2]
    with grpc.insecure_channel(special.server.address) as channel:
        assert refused(Stubs(channel).predictions.Predict, predict_request([1]))[0] == "UNAVAILABLE"
    assert http_get(special.rest_port, "/v1/models/odd")[0] == 200  # as upstream


def test_mutual_tls_at_every_door_and_rest_too_behind_our_flag(certificates, tmp_path):
    write_odd(tmp_path / "odd" / "1")
    ca = (certificates / "ca.crt").read_text()
    (tmp_path / "ssl").write_text(_ssl_config(certificates, custom_ca=ca) + "client_verify: true")
    port = saved_models.free_port()
    flags = [f"--ssl_config_file={tmp_path}/ssl", f"--rest_api_port={port}", "--rest_api_ssl"]
    flags.append(f"--grpc_socket_path={tmp_path}/socket")
    with launch(("odd", tmp_path / "odd"), flags=flags) as launched:
        with _tls_channel(launched, certificates, "client") as channel:
            assert Stubs(channel).predict([1]) == [2]
        with _tls_channel(launched, certificates) as channel:
            assert refused(Stubs(channel).predictions.Predict, predict_request([1]))[0] == "UNAVAILABLE"
        with grpc.insecure_channel(f"unix:{tmp_path}/socket") as channel:
            assert refused(Stubs(channel).predictions.Predict, predict_request([1]))[0] == "UNAVAILABLE"
        context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
        with pytest.raises((OSError, http.client.HTTPException)):
            _https_get(port, context)
        context.load_cert_chain(certificates / "client.crt", certificates / "client.key")
        assert _https_get(port, context) == 200


def _https_get(port: int, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection("localhost", port, timeout=60, context=context)
    with contextlib.closing(connection):
        connection.request("GET", "/v1/models/odd")
        return connection.getresponse().status


# --- Batching ---------------------------------------------------------------------------------------


def _metrics(port: int) -> dict[str, float]:
    _, page = http_get(port, "/monitoring/prometheus/metrics")
    lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


@pytest.fixture(scope="module")
def batching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Batches of at most 4 rows, two of them in the queue, one thread."""
    base = tmp_path_factory.mktemp("batching")
    write_odd(base / "odd" / "1")
    (base / "parameters").write_text(
        "max_batch_size { value: 4 } batch_timeout_micros { value: 0 } max_enqueued_batches { value: 2 }"
        ' num_batch_threads { value: 1 } thread_pool_name { value: "pool" } allowed_batch_sizes: [2, 4]'
    )
    (base / "monitoring").write_text("prometheus_config { enable: true }")
    port = saved_models.free_port()
    flags = ["--enable_batching", f"--batching_parameters_file={base}/parameters"]
    flags += [f"--monitoring_config_file={base}/monitoring", f"--rest_api_port={port}", "--access_log=json"]
    with launch(("odd", base / "odd"), flags=flags) as launched:
        yield Running(launched, base, port)


def test_requests_are_batched_padded_and_counted(batching):
    with grpc.insecure_channel(batching.server.address) as channel:
        stubs = Stubs(channel)
        before = _metrics(batching.rest_port)
        assert stubs.predict([1, 2, 3]) == [2, 4, 6]
        after = _metrics(batching.rest_port)
    prefix = ":tensorflow:serving:batching_session:"
    for name in (
        "wrapped_run_count{}",
        'padding_size_sum{execution_batch_size="4"}',
        'queuing_latency_count{thread_pool_name=""}',
    ):
        assert after[prefix + name] - before.get(prefix + name, 0) == 1, name
    for name, rows in (("input", 3), ("processed", 4)):
        name = f"{prefix}{name}_batch_size_sum{{}}"
        assert after[name] - before.get(name, 0) == rows


def test_what_fits_no_batch_is_refused_over_both_faces(batching):
    error = "Task size 9 is larger than maximum input batch size 4"
    with grpc.insecure_channel(batching.server.address) as channel:
        assert refused(Stubs(channel).predictions.Predict, predict_request([0] * 9)) == (
            "INVALID_ARGUMENT",
            error,
        )
        assert refused(Stubs(channel).predictions.Predict, predict_request(1))[1] == (
            "Batching Run() input tensors must have at least one dimension"
        )
    body = {"instances": [0] * 9}
    assert http_post(batching.rest_port, "/v1/models/odd:predict", body) == (400, {"error": error})


LATE = ("RESOURCE_EXHAUSTED", "Run() timeout exceeded while waiting in batching queue")


def test_full_queues_and_late_calls_are_refused(batching):
    with grpc.insecure_channel(batching.server.address) as channel:
        stubs = Stubs(channel)
        (ran,) = stubs.predict([1], "count")
        held = stubs.predictions.Predict.future(predict_request([5], "hold"))
        try:
            wait_for((batching.base / "odd" / "1.held5").exists, "the one thread to be busy")
            late = refused(stubs.predictions.Predict, predict_request([1], "count"), timeout=0.3)
            # The client's own word or, if that comes first, the server's.
            assert late in [("DEADLINE_EXCEEDED", "Deadline Exceeded"), LATE]
            wait_for(lambda: '"code": "RESOURCE_EXHAUSTED"' in batching.server.log(), "its end")
            calls = [stubs.predictions.Predict.future(predict_request([1] * 4, "count")) for _ in range(20)]
            done = queue.SimpleQueue()
            for call in calls:
                call.add_done_callback(done.put)
            errors = [done.get(timeout=60).exception() for _ in range(18)]
        finally:
            (batching.base / "odd" / "1.go").touch()
        assert {(error.code().name, error.details()) for error in errors} == {
            (
                "UNAVAILABLE",
                "The batch scheduling queue to which this task was submitted is full; currently 2 batches "
                "enqueued and max_enqueued_batches is 2",
            )
        }
        assert y(held.result(60)) == [5]
        assert [done.get(timeout=60).exception() for _ in range(2)] == [None, None]
        # The late one did not run.
        assert stubs.predict([1], "count") == [ran + 2 + 1]


def test_a_call_that_is_cancelled_in_the_queue_does_not_run(batching):
    go = batching.base / "odd" / "1.go"
    go.unlink(missing_ok=True)
    with grpc.insecure_channel(batching.server.address) as channel:
        stubs = Stubs(channel)
        (ran,) = stubs.predict([1], "count")
        held = stubs.predictions.Predict.future(predict_request([6], "hold"))
        try:
            wait_for((batching.base / "odd" / "1.held6").exists, "the one thread to be busy")
            calls = [stubs.predictions.Predict.future(predict_request([1] * 4, "count")) for _ in range(5)]
            # Once three are refused, the other two are queued.
            wait_for(lambda: sum(call.done() for call in calls) == 3, "a full queue")
            cancelled, kept = (call for call in calls if not call.done())
            cancelled.cancel()
            # Behind the cancellation, on the same connection.
            assert refused(stubs.predictions.Predict, predict_request([1], "q"))[0] == "FAILED_PRECONDITION"
        finally:
            go.touch()
        assert y(held.result(60)) == [6]
        assert y(kept.result(60)) == [ran + 1] * 4


# --- Configurations that are followed, op libraries, TFLite -------------------------------------------


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    base = tmp_path_factory.mktemp("followed")
    write_warm_up(write_odd(base / "odd" / "1"), predict_request([1], "count"))
    parameters = write_odd(base / "own" / "1") / "batching_params.pbtxt"
    parameters.write_text("max_batch_size { value: 2 }")
    (base / "broken" / "1").mkdir(parents=True)
    _write_tflite(base / "lite" / "1")
    modules = base / "modules"
    modules.mkdir()
    (modules / "my_ops.py").write_text("import pathlib\npathlib.Path(__file__).with_name('seen').touch()\n")
    config = base / "models.config"
    config.write_text(_models(base, "odd", "own", "broken", "absent"))
    port = saved_models.free_port()
    flags = [
        "--model_config_file_poll_wait_seconds=1",
        "--tolerate_failed_models",
        "--prefer_tflite_model",
        "--allow_version_labels_for_unavailable_models",
        "--import=my_ops",
        "--max_num_load_retries=0",
        "--enable_batching",
        "--enable_per_model_batching_parameters",
        "--enable_model_warmup=false",
        f"--rest_api_port={port}",
        "--rest_api_timeout_in_ms=300",
        "--rest_api_num_threads=1",
        "--rest_api_enable_cors_support=1",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(modules))
        with launch(config, flags=flags) as launched:
            yield Running(launched, base, port)


def _models(base: Path, *names: str, more: str = "") -> str:
    return "model_config_list {\n" + "".join(
        f'  config {{ name: "{name}" base_path: "{base}/{name}" model_platform: "tensorflow" {more} }}\n'
        for name in names
    ) + "}\n"


def _write_tflite(version: Path) -> None:
    """A SavedModel that doubles, and beside it a TFLite model that triples."""
    write_odd(version)

    class Triple(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def run(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": 3.0 * x}

    model = Triple()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([model.run.get_concrete_function()], model)
    (version / "model.tflite").write_bytes(converter.convert())


def _states(stubs: Stubs, model: str) -> list[tuple[int, int]]:
    request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": model})
    return [(e.version, e.state) for e in stubs.models.GetModelStatus(request).model_version_status]


def test_the_start_goes_on_without_failed_models_behind_our_flag(followed):
    with grpc.insecure_channel(followed.server.address) as channel:
        stubs = Stubs(channel)
        assert stubs.predict([1]) == [2]
        for name in ("broken", "absent"):
            error = ("NOT_FOUND", f"Servable not found for request: Latest({name})")
            assert refused(stubs.predictions.Predict, predict_request([1], model=name)) == error
        assert _states(stubs, "broken") == [(1, 50)]
    code, page = http_get(followed.rest_port, "/readyz")
    assert (code, json.loads(page)["missing"]) == (503, ["broken", "absent"])
    log = followed.server.log().replace(str(followed.base), "BASE")
    assert (
        "Going on without 2 model(s): {{absent due to error: INVALID_ARGUMENT: Could not find base path "
        "BASE/absent for servable absent with error NOT_FOUND: BASE/absent not found}, {{name: broken "
        "version: 1} due to error: NOT_FOUND: Could not find SavedModel .pb or .pbtxt"
    ) in log


def test_op_libraries_are_imported_before_models_load(followed):
    assert (followed.base / "modules" / "seen").exists()


def test_models_may_bring_their_own_batching_parameters(followed):
    with grpc.insecure_channel(followed.server.address) as channel:
        stubs = Stubs(channel)
        assert stubs.predict([1, 2], model="own") == [2, 4]
        error = refused(stubs.predictions.Predict, predict_request([1, 2, 3], model="own"))
        assert error[1] == "Task size 3 is larger than maximum input batch size 2"
        # Not batched at all: a batch could not take a scalar.
        assert stubs.predict(np.ones(2000), model="odd") == [2] * 2000
        assert stubs.predict(3, model="odd") == 6


def test_warm_up_can_be_turned_off(followed):
    with grpc.insecure_channel(followed.server.address) as channel:
        assert Stubs(channel).predict([1], "count", "odd") == [1]


def test_rest_has_a_timeout_of_its_own_and_lives_with_one_thread(followed):
    body = {"signature_name": "hold", "instances": [1]}
    assert http_post(followed.rest_port, "/v1/models/odd:predict", body) == (
        504,
        {"error": "Timed out waiting for notification"},
    )
    body = {"instances": [1]}
    assert http_post(followed.rest_port, "/v1/models/odd:predict", body) == (200, {"predictions": [2]})


def test_cors_headers_come_with_their_flag(followed):
    connection = http.client.HTTPConnection("127.0.0.1", followed.rest_port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/v1/models/own")
        assert connection.getresponse().headers["Access-Control-Allow-Origin"] == "*"


def test_the_config_file_is_followed_and_mistakes_in_it_change_nothing(followed):
    config = followed.base / "models.config"
    with grpc.insecure_channel(followed.server.address) as channel:
        stubs = Stubs(channel)
        labelled = 'version_labels { key: "next" value: 2 }'
        config.write_text(_models(followed.base, "odd", "lite", more=labelled))
        wait_for(lambda: _available(stubs, "lite"), "the new model")
        # A model file of TensorFlow Lite's is preferred.
        assert stubs.predict([1, 2], model="lite") == [3, 6]
        request = predict_request([1])
        request.model_spec.version_label = "next"  # allowed to wait for its version
        error = ("NOT_FOUND", "Servable not found for request: Specific(odd, 2)")
        assert refused(stubs.predictions.Predict, request) == error
        config.write_text("model_config_list {")
        wait_for(
            lambda: "Failed to read ModelServerConfig file: Invalid protobuf file" in followed.server.log(),
            "a complaint",
        )
        assert stubs.predict([1], model="lite") == [3]


def _available(stubs: Stubs, model: str) -> bool:
    try:
        return (1, 30) in _states(stubs, model)
    except grpc.RpcError:  # not heard of yet
        return False
