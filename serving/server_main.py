"""Serves SavedModels over gRPC and REST, with the command line of tensorflow_model_server.

    python -m serving.server_main --port=8500 --model_name=gan_fashion \\
        --model_base_path=/models/gan_fashion

Flags are read as upstream reads them: only `--name=value` (a bool also as `--name`); an unknown
argument is reported and the server starts all the same; a bad value prints the usage and exits.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
import signal
import sys
import threading
from dataclasses import dataclass
from types import FrameType

from serving import engine, lean_import
from serving.errors import ServerNotStarted
from serving.launch import LIFELINE

# How long requests in flight may take to finish after SIGTERM.
_DRAIN_SECONDS = 60.0

_FAILED = 255
_NOT_INSTALLED = 1
_INTERRUPTED = 130  # as shells report SIGINT


@dataclass(frozen=True)
class _Flag:
    name: str
    default: int | bool | float | str
    help: str
    bits: int = 32  # of an int

    @property
    def kind(self) -> str:
        if isinstance(self.default, bool):
            return "bool"
        if isinstance(self.default, float):
            return "float"
        return f"int{self.bits}" if isinstance(self.default, int) else "string"

    def usage(self) -> str:
        value = {"bool": str(self.default).lower(), "string": f'"{self.default}"'}.get(
            self.kind, str(self.default)
        )
        return f"\t{f'--{self.name}={value}':<33}\t{self.kind}\t{self.help}\n"

    def parse(self, text: str) -> int | bool | float | str:
        """Raises ValueError for what does not fit the type."""
        if self.kind == "string":
            return text
        if self.kind == "bool":
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if self.kind == "float":
            return float(text)
        if not re.fullmatch(r"[+-]?[0-9]+", text):  # Python's int takes underscores and spaces too
            raise ValueError(f"{text} is not an {self.kind}")
        number = int(text)
        if not -(2 ** (self.bits - 1)) <= number < 2 ** (self.bits - 1):
            raise ValueError(f"{text} is not an {self.kind}")
        return number


_CPUS = os.cpu_count() or 1

_FLAGS = (
    _Flag("port", 8500, "TCP port of the gRPC API. Disabled if zero."),
    _Flag(
        "grpc_socket_path", "", "If non-empty, also listen to a UNIX socket at this path for the gRPC API."
    ),
    _Flag("rest_api_port", 0, "Port of the HTTP/REST API. Disabled if zero; must differ from --port."),
    _Flag("rest_api_num_threads", 4 * _CPUS, "Threads for HTTP/REST requests."),
    _Flag("rest_api_timeout_in_ms", 30_000, "Timeout of HTTP/REST requests."),
    _Flag("rest_api_enable_cors_support", False, "Add CORS headers to HTTP/REST answers."),
    _Flag("enable_batching", False, "Run the requests of several clients together."),
    _Flag(
        "allow_version_labels_for_unavailable_models",
        False,
        "Let new (or unchanged) labels of a reloaded config point to versions that are not available yet.",
    ),
    _Flag("batching_parameters_file", "", "Ascii BatchingParameters protobuf; needs --enable_batching."),
    _Flag(
        "enable_per_model_batching_parameters",
        False,
        "Take the parameters of each model from batching_params.pbtxt in its version's folder; models "
        "without one are not batched.",
    ),
    _Flag(
        "model_config_file",
        "",
        "If non-empty, read an ascii ModelServerConfig protobuf from the supplied file name, and serve "
        "the models in that file; --model_name and --model_base_path are ignored.",
    ),
    _Flag(
        "model_config_file_poll_wait_seconds",
        0,
        "Interval in seconds between each reading of --model_config_file. If zero, it is read once.",
    ),
    _Flag("model_name", "default", "name of model (ignored if --model_config_file flag is set)"),
    _Flag(
        "model_base_path",
        "",
        "path to export (ignored if --model_config_file flag is set, otherwise required)",
    ),
    _Flag("num_load_threads", 0, "Loads at the same time after start-up; 0: one."),
    _Flag("num_unload_threads", 0, "Unloads at the same time; 0: one."),
    _Flag(
        "max_num_load_retries",
        5,
        "maximum number of times it retries loading a model after the first failure, before giving up. If "
        "set to 0, a load is attempted only once.",
    ),
    _Flag(
        "load_retry_interval_micros",
        60_000_000,
        "The interval, in microseconds, between each servable load retry. If set negative, it doesn't wait.",
        bits=64,
    ),
    _Flag(
        "file_system_poll_wait_seconds",
        1,
        "Interval in seconds between each poll of the filesystem for new model version. If set to zero "
        "poll will be exactly done once and not periodically. Setting this to negative value will disable "
        "polling entirely causing ModelServer to indefinitely wait for a new model at startup.",
    ),
    _Flag(
        "tensorflow_session_parallelism",
        0,
        "Number of threads to use for running a Tensorflow session. Auto-configured by default.",
        bits=64,
    ),
    _Flag(
        "tensorflow_intra_op_parallelism",
        0,
        "Number of threads to use to parallelize the execution of an individual op.",
        bits=64,
    ),
    _Flag(
        "tensorflow_inter_op_parallelism",
        0,
        "Controls the number of operators that can be executed simultaneously.",
        bits=64,
    ),
    _Flag("tensorflow_session_config_file", "", "Ascii ConfigProto protobuf for the models' sessions."),
    _Flag("use_alts_credentials", False, "Use Google ALTS credentials; excludes --ssl_config_file."),
    _Flag("ssl_config_file", "", "Ascii SSLConfig protobuf with PEM texts; gRPC then speaks TLS only."),
    _Flag("per_process_gpu_memory_fraction", 0.0, "Share of each GPU's memory to take; 0: all."),
    _Flag(
        "saved_model_tags",
        "serve",
        "Comma-separated set of tags corresponding to the meta graph def to load from SavedModel.",
    ),
    _Flag("grpc_channel_arguments", "", "Comma-separated arguments of the gRPC server: k=v,k=v."),
    _Flag(
        "enable_model_warmup",
        True,
        "Run a version's assets.extra/tf_serving_warmup_requests before it serves.",
    ),
    _Flag("num_request_iterations_for_warmup", 0, "How often each warm-up request is run; 0: once."),
    _Flag(
        "monitoring_config_file", "", "Ascii MonitoringConfig protobuf: Prometheus metrics at the REST port."
    ),
    _Flag("prefer_tflite_model", False, "Serve a version's model.tflite where there is one."),
    _Flag("num_tflite_pools", _CPUS, "TFLite interpreters of each model."),
    _Flag(
        "enable_signature_method_name_check",
        False,
        "Refuse signatures whose method_name does not fit the API that is called.",
    ),
    _Flag("enable_profiler", True, "Offer tensorflow.ProfilerService."),
    _Flag("mixed_precision", "", "bfloat16 runs what oneDNN can in bfloat16."),
    _Flag("enable_grpc_healthcheck_service", False, "Enable the gRPC healthcheck service."),
    _Flag(
        "enable_serialization_as_tensor_content",
        False,
        "Answer Predict with numbers in tensor_content instead of typed fields.",
    ),
    _Flag("version", False, "Display version"),
    # Known and without effect here; BUILD.md says why.
    _Flag("flush_filesystem_caches", True, "Ignored."),
    _Flag("platform_config_file", "", "Ignored."),
    _Flag("grpc_max_threads", 4 * _CPUS, "Ignored."),
    _Flag("remove_unused_fields_from_bundle_metagraph", True, "Ignored."),
    _Flag("num_tflite_interpreters_per_pool", 1, "Ignored."),
    _Flag("xla_cpu_compilation_enabled", False, "Ignored."),
    _Flag("xla_gpu_compilation_enabled", False, "Ignored."),
    _Flag("thread_pool_factory_config_file", "", "Ignored."),
    _Flag("skip_initialize_tpu", False, "Ignored."),
    # Ours.
    _Flag(
        "tolerate_failed_models",
        False,
        "Start, and go on after a reload, without the models that fail or have no version.",
    ),
    _Flag("import", "", "Comma-separated Python modules that register custom ops, e.g. tensorflow_text."),
    _Flag("access_log", "", "json: one line for each request on standard output."),
    _Flag("rest_api_ssl", False, "Serve HTTP/REST over TLS too, by --ssl_config_file."),
    _Flag(
        "engine",
        "embedded",
        "embedded: this server; tfserving: the tensorflow_model_server binary or its Docker image; auto: "
        "that where it is found, else this.",
    ),
)
IGNORED = {flag.name for flag in _FLAGS if flag.help == "Ignored."}


def usage(program: str) -> str:
    return f"usage: {program}\nFlags:\n" + "".join(flag.usage() for flag in _FLAGS)


def parse_flags(arguments: list[str]) -> tuple[dict[str, int | bool | float | str], list[str]]:
    """(flag -> value with defaults filled in, unknown arguments in order).

    Raises:
      ValueError: a known flag with a value that it cannot take.
    """
    values: dict[str, int | bool | float | str] = {flag.name: flag.default for flag in _FLAGS}
    known = {flag.name: flag for flag in _FLAGS}
    unknown = []
    for argument in arguments:
        name, equals, text = argument.removeprefix("--").partition("=")
        flag = known.get(name) if argument.startswith("--") else None
        if flag is not None and equals:
            try:
                values[name] = flag.parse(text)
            except (KeyError, ValueError):
                raise ValueError(f"Couldn't interpret value {text} for flag {name}.") from None
        elif flag is not None and flag.kind == "bool":
            values[name] = True
        else:
            unknown.append(argument)
    return values, unknown


def main(argv: list[str] | None = None) -> int:
    """Runs until SIGTERM or SIGINT; returns the exit status."""
    program, *arguments = sys.argv if argv is None else argv
    if "--help" in arguments:
        print(usage(program), end="")
        return _FAILED
    try:
        values, unknown = parse_flags(arguments)
    except ValueError as error:
        print(error, file=sys.stderr)
        print(usage(program), end="")
        return _FAILED
    if values.pop("version"):
        try:
            server_version = importlib.metadata.version("tensorflow-serving-api")
            library_version = importlib.metadata.version("tensorflow")
        except importlib.metadata.PackageNotFoundError:
            return _not_installed()
        print(f"TensorFlow ModelServer: {server_version}\nTensorFlow Library: {library_version}")
        return 0
    if unknown:
        for argument in unknown:
            print(f"unknown argument: {argument}")
        print(usage(program), end="", flush=True)
    _end_with_the_launcher()

    engine_name = str(values.pop("engine"))
    if engine_name != "embedded":
        try:
            found = engine.find(engine_name)
        except ServerNotStarted as error:
            print(f"Failed to start server. Error: {error}", flush=True)
            return _FAILED
        if found is not None:
            return found.run([a for a in arguments if not a.startswith("--engine")])
    for name in IGNORED:
        values.pop(name)
    op_libraries = str(values.pop("import"))

    # Before the first thing that takes long: the import, and then the wait for the models.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_at_once)
    try:
        # Only now: TensorFlow takes seconds to import, which no wrong flag should have to wait for.
        lean_import.import_tensorflow()
        import tensorflow as tf

        from serving import memory, server, status
    except ModuleNotFoundError:
        return _not_installed()

    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s: %(levelname).1s %(name)s] %(message)s",
    )
    # The session loader is deprecated for programs; TensorFlow would say so at each load.
    tf.get_logger().setLevel(logging.ERROR)
    try:
        memory.prepare()
        server.import_op_libraries(op_libraries)
        memory.settle()
        running = server.Server(server.Options(**values))  # type: ignore[arg-type]
        running.load()
        # From the first request on there may be some in flight.
        asked_to_stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: asked_to_stop.set())
        running.open()
    except tf.errors.OpError as error:
        print(f"Failed to start server. Error: {status.text(error)}", flush=True)
        return _FAILED
    asked_to_stop.wait()
    running.stop(_DRAIN_SECONDS)
    return 0


def _end_with_the_launcher() -> None:
    """A launcher that was killed cannot stop its server."""
    if lifeline := os.environ.pop(LIFELINE, ""):

        def wait() -> None:
            os.read(int(lifeline), 1)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=wait, name="lifeline", daemon=True).start()


def _not_installed() -> int:
    print("error: the server needs TensorFlow: pip install 'atelier[serve]'", file=sys.stderr)
    return _NOT_INSTALLED


def _end_at_once(number: int, _: FrameType | None) -> None:
    """Nothing is served yet, so nothing has to finish, not even a load in another thread."""
    # Not print: the signal may have come in the middle of another one.
    os.write(sys.stderr.fileno(), b"Stopped before the models were available.\n")
    os._exit(0 if number == signal.SIGTERM else _INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
