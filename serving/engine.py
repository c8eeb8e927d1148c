"""Runs TensorFlow Serving itself: its binary, or its Docker image, with the same command line.

    python -m serving.server_main --engine=tfserving --port=8500 --model_config_file=models.config

    found = find("auto")      # a tensorflow_model_server, else Docker, else None: the embedded server
    status = found.run(["--port=8500", "--model_config_file=models.config"])

The server prints where this process prints, gets the signals that this process gets, and its exit
status is returned. No TensorFlow in this process: `pip install atelier` is enough.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import grpc
from google.protobuf import text_format

from serving import config_pb2, models_pb2
from serving.client import Client
from serving.errors import ModelNotFound, ServerNotStarted, ServingError

# Flags of the embedded server that tensorflow_model_server does not have.
OWN_FLAGS = ("tolerate_failed_models", "import", "access_log", "rest_api_ssl", "engine")

_BINARY = "tensorflow_model_server"
_BINARY_VARIABLE = "ATELIER_TFSERVING_BINARY"
TFSERVING_IMAGE = "tensorflow/serving:2.20.0"
_IMAGE_VARIABLE = "ATELIER_TFSERVING_IMAGE"

_CANNOT_ASK = "cannot ask TensorFlow Serving whether it is available"
_FAILED = 255  # as the server itself at start-up

# From the stop signal on. Longer than the embedded server drains, shorter than `launch` waits.
_STOP_SECONDS = 65.0
_PROBE_SECONDS = 0.2
_DOCKER_SECONDS = 20.0

# Flags that name a file which the server reads.
_FILE_FLAGS = (
    "model_config_file",
    "batching_parameters_file",
    "monitoring_config_file",
    "platform_config_file",
    "ssl_config_file",
    "tensorflow_session_config_file",
    "thread_pool_factory_config_file",
)
_MOUNTS = "/atelier"  # folder of those files in the container


@dataclass(frozen=True)
class Engine:
    """A `tensorflow_model_server` on this machine."""

    path: str

    def run(self, flags: Sequence[str]) -> int:
        """Runs the server until it ends. Call it from the main thread: it handles signals.

        Args:
          flags: as for the embedded server; its own that upstream lacks are left out, and said so.
        Returns:
          the server's exit status; 128 + n when signal n ended it, as shells have it.
        """
        values = _values(flags)
        if values.get("rest_api_ssl", "false").lower() in ("true", "1"):
            # Left out, it would turn TLS off in silence.
            return _fail("--rest_api_ssl needs --engine=embedded: TensorFlow Serving's REST API has no TLS")
        own = [f"--{name}" for name in values if name in OWN_FLAGS and name != "engine"]
        if own:
            _say(f"TensorFlow Serving has no {', '.join(own)}: left out")
        passed = [flag for flag in flags if _name(flag) not in OWN_FLAGS]
        command = self._command(passed)
        _say(f"starting {shlex.join(command)}")
        try:
            return _supervise(command, values, self._kill)
        except OSError as error:
            return _fail(f"cannot run {self.path}: {error.strerror}")

    def _command(self, flags: Sequence[str]) -> list[str]:
        return [self.path, *flags]

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """For when it does not end by itself."""
        process.kill()


@dataclass(frozen=True)
class DockerEngine(Engine):
    """TensorFlow Serving's Docker image; `path` is Docker's client.

    The container sees the models under their own paths and the configuration files under /atelier,
    all read-only, and reads them as this process' user.
    """

    image: str
    rootless: bool
    container: str = field(default_factory=lambda: f"atelier-serve-{secrets.token_hex(6)}")

    def _command(self, flags: Sequence[str]) -> list[str]:
        values = _values(flags)
        mounts = [_mount(path, path) for path in _base_paths(values)]
        options = []
        arguments = list(flags)
        for name in _FILE_FLAGS:
            value = values.get(name, "")
            if not value or "://" in value:
                continue
            path = Path(os.path.abspath(value))
            # The folder, not the file: one that is replaced would stay the old one in the container.
            mounts.append(_mount(path.parent, f"{_MOUNTS}/{name}"))
            arguments = _with(arguments, name, f"{_MOUNTS}/{name}/{path.name}")
        if values.get("grpc_socket_path"):
            path = Path(os.path.abspath(values["grpc_socket_path"]))
            mounts.append(_mount(path.parent, path.parent, writable=True))
            arguments = _with(arguments, "grpc_socket_path", str(path))
        for name, default in (("port", 8500), ("rest_api_port", 0)):
            if port := _port(values, name, default):
                options.append(f"--publish={port}:{port}")
        if not self.rootless:  # there, the container's root is this process' user
            options.append(f"--user={os.getuid()}:{os.getgid()}")
        if "gpu" in self.image:
            options.append("--gpus=all")
        # --init: as process 1, the server would ignore SIGTERM. --entrypoint: the image's own is a
        # script with flags of its own, which opens a REST port that nobody asked for.
        command = [self.path, "run", "--rm", "--init", f"--name={self.container}", *options]
        return [*command, *mounts, f"--entrypoint={_BINARY}", self.image, *arguments]

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        # The client alone would leave the container running.
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            subprocess.run(
                [self.path, "rm", "--force", self.container],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_DOCKER_SECONDS,
            )
        process.kill()


def find(name: str) -> Engine | None:
    """The engine for --engine; None: the embedded server.

    "tfserving" is the binary of $ATELIER_TFSERVING_BINARY, else `tensorflow_model_server` on the PATH,
    else Docker with the image $ATELIER_TFSERVING_IMAGE (else `TFSERVING_IMAGE`); "auto" is that where
    it is found, else None.

    Raises:
      ServerNotStarted: "tfserving", and there is none of them; or another name.
    """
    if name == "embedded":
        return None
    if name not in ("tfserving", "auto"):
        raise ServerNotStarted(f"--engine={name}: expected embedded, tfserving or auto")
    wanted = os.environ.get(_BINARY_VARIABLE)
    binary = shutil.which(wanted or _BINARY)
    if binary:
        return Engine(binary)
    if wanted:
        raise ServerNotStarted(f"{_BINARY_VARIABLE}={wanted} is no executable file")
    try:
        return _docker()
    except ServerNotStarted as error:
        if name == "auto":
            return None
        raise ServerNotStarted(
            f"--engine=tfserving needs {_BINARY} on the PATH (or {_BINARY_VARIABLE}=/path/to/it) or Docker, "
            f"and {error}; install one of them, or use --engine=embedded"
        ) from None


def _docker() -> DockerEngine:
    """Raises ServerNotStarted, without a capital letter, if it is not there or does not answer."""
    path = shutil.which("docker")
    if path is None:
        raise ServerNotStarted("neither is found")
    try:
        # Without its daemon the client is there, and of no use.
        done = subprocess.run(
            [path, "info", "--format={{.SecurityOptions}}"],
            capture_output=True,
            text=True,
            timeout=_DOCKER_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ServerNotStarted("Docker does not answer") from None
    if done.returncode:
        why = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise ServerNotStarted(f"Docker does not work: {why}")
    image = os.environ.get(_IMAGE_VARIABLE) or TFSERVING_IMAGE
    return DockerEngine(path, image, rootless="rootless" in done.stdout)


def _supervise(
    command: list[str], values: dict[str, str], kill: Callable[[subprocess.Popen[bytes]], None]
) -> int:
    """Runs `command` with our signals passed on; OSError if it cannot be run."""
    process: subprocess.Popen[bytes] | None = None
    asked: list[int] = []
    ended = threading.Event()

    def pass_on(number: int, _: FrameType | None) -> None:
        asked.append(number)
        if process is None:
            return
        process.send_signal(number)
        if len(asked) == 1:
            threading.Thread(target=give_up, args=[process], daemon=True).start()

    def give_up(process: subprocess.Popen[bytes]) -> None:
        if not ended.wait(_STOP_SECONDS):
            _say(f"TensorFlow Serving did not end within {_STOP_SECONDS:g} s: killed")
            kill(process)

    def announce() -> None:
        if values.get("use_alts_credentials", "false").lower() in ("true", "1"):
            _say(f"{_CANNOT_ASK}: it speaks to machines of Google's cloud only (ALTS)")
            return
        while not ended.wait(_PROBE_SECONDS):
            try:
                available = _is_available(values)
            except ssl.SSLCertVerificationError as error:
                _say(f"{_CANNOT_ASK}: {error.verify_message}")
                return
            if available:
                if not asked:
                    _say("TensorFlow Serving is available")
                return

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        # A session of its own: Ctrl-C in a terminal would reach it twice, by the terminal and by us.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        if asked:  # between the two statements above
            number = asked[0]
            asked.clear()
            pass_on(number, None)
        watcher = threading.Thread(target=announce, daemon=True)
        watcher.start()
        status = process.wait()
        ended.set()
        watcher.join()
        if status < 0:
            kill(process)  # a client of Docker's that was ended may leave its container behind
            return 128 - status
        return status
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_available(values: dict[str, str]) -> bool:
    """Whether every model of the server has a version that is.

    Raises:
      ssl.SSLCertVerificationError: nobody can ask, as the server's certificate is not valid.
    """
    port, path = _port(values, "port", 8500), values.get("grpc_socket_path", "")
    target = f"127.0.0.1:{port}" if port else f"unix:{path}"
    try:
        # gRPC itself would wait ever longer between its attempts to connect.
        with _connect(port, path) as connection:
            if values.get("ssl_config_file"):
                config = _ssl_config(values["ssl_config_file"])
                name = _server_name(connection, config)
                if config.client_verify:
                    # We have no certificate to ask with. The port is not open before all are available.
                    return True
                channel = grpc.secure_channel(
                    target,
                    grpc.ssl_channel_credentials(config.server_cert.encode()),
                    [("grpc.ssl_target_name_override", name)],
                )
            else:
                channel = grpc.insecure_channel(target)
    except ssl.SSLCertVerificationError:
        raise
    except (OSError, ValueError):
        return False
    names = [name for name, _ in _models(values)]
    with Client(channel, 1.0) as client:
        try:
            return all(any(v.state == "AVAILABLE" for v in client.status(name)) for name in names or ["-"])
        except ModelNotFound:
            return not names  # it serves none, and says so
        except ServingError:
            return False


def _connect(port: int, path: str) -> socket.socket:
    """Raises OSError: nobody listens."""
    if port:
        return socket.create_connection(("127.0.0.1", port), 1.0)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(1.0)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def _ssl_config(path: str) -> config_pb2.SSLConfig:
    """Raises OSError or ValueError where it is unreadable: the server will say why."""
    try:
        return text_format.Parse(Path(path).read_text(encoding="utf-8"), config_pb2.SSLConfig())
    except text_format.ParseError as error:
        raise ValueError(str(error)) from None


def _server_name(connection: socket.socket, config: config_pb2.SSLConfig) -> str:
    """A name that the server's certificate is for.

    Raises:
      ssl.SSLCertVerificationError: it is not valid now.
      OSError: the server does not answer. Docker, for one, opens ports before it does.
      ValueError: the file holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # The very certificate of the file is trusted, whoever signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=config.server_cert)
    context.set_alpn_protocols(["h2"])
    with context.wrap_socket(connection) as secure:
        certificate: Any = secure.getpeercert()
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    names += [value for part in certificate["subject"] for kind, value in part if kind == "commonName"]
    return names[0].replace("*", "any") if names else ""


def _models(values: dict[str, str]) -> list[tuple[str, str]]:
    """(name, base path) of each model; none where the file is unreadable: the server will say why."""
    path = values.get("model_config_file")
    if not path:
        return [(values.get("model_name", "default"), values.get("model_base_path", ""))]
    try:
        text = Path(path).read_text(encoding="utf-8")
        config = text_format.Parse(text, models_pb2.ModelServerConfig(), allow_unknown_field=True)
    except (OSError, UnicodeDecodeError, text_format.ParseError):
        return []
    return [(model.name, model.base_path) for model in config.model_config_list.config]


def _base_paths(values: dict[str, str]) -> list[str]:
    """The models' folders on this machine, each once."""
    paths = [path.removeprefix("file://") for _, path in _models(values)]
    return list(dict.fromkeys(path for path in paths if path.startswith("/")))


def _name(flag: str) -> str:
    return flag.removeprefix("--").partition("=")[0] if flag.startswith("--") else ""


def _values(flags: Sequence[str]) -> dict[str, str]:
    """Flag -> value, as upstream reads them: the last one counts, a bool may stand alone."""
    values = {}
    for flag in flags:
        if name := _name(flag):
            _, equals, text = flag.partition("=")
            values[name] = text if equals else "true"
    return values


def _port(values: dict[str, str], name: str, default: int) -> int:
    """`--port 8501`, with a space, sets nothing: the server says so and goes on."""
    return int(values[name]) if values.get(name, "").isdecimal() else default


def _with(flags: Sequence[str], name: str, value: str) -> list[str]:
    return [*(flag for flag in flags if _name(flag) != name), f"--{name}={value}"]


def _mount(source: str | Path, target: str | Path, *, writable: bool = False) -> str:
    """Docker reads the value as a line of CSV: a path may have a comma."""
    paths = [part.replace('"', '""') for part in (f"source={source}", f"target={target}")]
    value = ",".join(f'"{path}"' if "," in path or '"' in path else path for path in paths)
    return f"--mount=type=bind,{value}" + ("" if writable else ",readonly")


def _say(text: str) -> None:
    print(f"--engine: {text}", file=sys.stderr, flush=True)


def _fail(text: str) -> int:
    print(f"Failed to start server. Error: {text}", flush=True)
    return _FAILED
