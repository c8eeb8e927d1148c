"""Serves SavedModels over gRPC, with the command line of tensorflow_model_server.

    python -m serving.server_main --port=8500 --model_name=gan_fashion \\
        --model_base_path=/models/gan_fashion

Flags are read as upstream reads them: only `--name=value` (a bool also as `--name`); an unknown
argument is reported and the server starts all the same; a bad value prints the usage and exits.
"""

from __future__ import annotations

import importlib.metadata
import logging
import signal
import sys
import threading
from dataclasses import dataclass

# How long requests in flight may take to finish after SIGTERM.
_DRAIN_SECONDS = 60.0

_FAILED = 255


@dataclass(frozen=True)
class _Flag:
    name: str
    default: int | bool | str
    help: str
    bits: int = 32  # of an int

    @property
    def kind(self) -> str:
        if isinstance(self.default, bool):
            return "bool"
        return f"int{self.bits}" if isinstance(self.default, int) else "string"

    def usage(self) -> str:
        value = {"bool": str(self.default).lower(), "string": f'"{self.default}"'}.get(
            self.kind, str(self.default)
        )
        return f"\t{f'--{self.name}={value}':<33}\t{self.kind}\t{self.help}\n"

    def parse(self, text: str) -> int | bool | str:
        """Raises ValueError for what does not fit the type."""
        if self.kind == "string":
            return text
        if self.kind == "bool":
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        number = int(text)
        if not -(2 ** (self.bits - 1)) <= number < 2 ** (self.bits - 1):
            raise ValueError(f"{text} is not an {self.kind}")
        return number


_FLAGS = (
    _Flag("port", 8500, "TCP port to listen on for gRPC API. Disabled if port set to zero."),
    _Flag(
        "grpc_socket_path",
        "",
        "If non-empty, listen to a UNIX socket for gRPC API on the given path. Can be either "
        "relative or absolute path.",
    ),
    _Flag(
        "model_config_file",
        "",
        "If non-empty, read an ascii ModelServerConfig protobuf from the supplied file name, and "
        "serve the models in that file; --model_name and --model_base_path are ignored.",
    ),
    _Flag("model_name", "default", "name of model (ignored if --model_config_file flag is set)"),
    _Flag(
        "model_base_path",
        "",
        "path to export (ignored if --model_config_file flag is set, otherwise required)",
    ),
    _Flag(
        "max_num_load_retries",
        5,
        "maximum number of times it retries loading a model after the first failure, before giving "
        "up. If set to 0, a load is attempted only once.",
    ),
    _Flag(
        "load_retry_interval_micros",
        60_000_000,
        "The interval, in microseconds, between each servable load retry. If set negative, it "
        "doesn't wait.",
        bits=64,
    ),
    _Flag(
        "file_system_poll_wait_seconds",
        1,
        "Interval in seconds between each poll of the filesystem for new model version. If set to "
        "zero poll will be exactly done once and not periodically. Setting this to negative value "
        "will disable polling entirely causing ModelServer to indefinitely wait for a new model at "
        "startup.",
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
    _Flag(
        "saved_model_tags",
        "serve",
        "Comma-separated set of tags corresponding to the meta graph def to load from SavedModel.",
    ),
    _Flag("enable_grpc_healthcheck_service", False, "Enable the gRPC healthcheck service."),
    _Flag("version", False, "Display version"),
)


def usage(program: str) -> str:
    return f"usage: {program}\nFlags:\n" + "".join(flag.usage() for flag in _FLAGS)


def parse_flags(arguments: list[str]) -> tuple[dict[str, int | bool | str], list[str]]:
    """(flag -> value with defaults filled in, unknown arguments in order).

    Raises:
      ValueError: a known flag with a value that it cannot take.
    """
    values = {flag.name: flag.default for flag in _FLAGS}
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
        for name, package in (("ModelServer", "tensorflow-serving-api"), ("Library", "tensorflow")):
            print(f"TensorFlow {name}: {importlib.metadata.version(package)}")
        return 0
    if unknown:
        for argument in unknown:
            print(f"unknown argument: {argument}")
        print(usage(program), end="", flush=True)

    # Only now: TensorFlow takes seconds to import, which no wrong flag should have to wait for.
    import tensorflow as tf

    from serving import repository, server

    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s: %(levelname).1s %(name)s] %(message)s",
    )
    # The session loader is deprecated for programs; TensorFlow would say so at each load.
    tf.get_logger().setLevel(logging.ERROR)
    try:
        running = server.Server(server.Options(**values))  # type: ignore[arg-type]
        running.start()
    except tf.errors.OpError as error:
        print(f"Failed to start server. Error: {repository.status_text(error)}", flush=True)
        return _FAILED
    asked_to_stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked_to_stop.set())
    asked_to_stop.wait()
    running.stop(_DRAIN_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
