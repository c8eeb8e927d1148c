"""Starts a model server as a subprocess, for tests, demos and notebooks.

    with launch(("gan_fashion", "/models/gan_fashion")) as server:
        client = Client.connect(server.address)

No TensorFlow in this process: only the server's loads it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from serving.errors import ServerNotStarted

# Beyond the server's own time to drain.
_STOP_SECONDS = 70.0

_LOG_TAIL_LINES = 20

# Environment variable: the descriptor of a pipe that its launcher holds open.
LIFELINE = "ATELIER_LIFELINE"


class LaunchedServer:
    """A running server: its address, its process and its log."""

    def __init__(self, address: str, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.address = address  # "127.0.0.1:port"
        self.process = process
        self._log_path = log_path

    def log(self) -> str:
        """All it has printed so far, standard output and error together."""
        return self._log_path.read_text(errors="replace")

    def stop(self) -> int:
        """SIGTERM, wait until it has finished its requests; returns the exit status."""
        self.process.terminate()
        try:
            return self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextlib.contextmanager
def launch(
    models: Mapping[str, str | os.PathLike[str]] | tuple[str, str | os.PathLike[str]] | Path,
    port: int = 0,
    *,
    flags: Sequence[str] = (),
    timeout: float = 120.0,
) -> Iterator[LaunchedServer]:
    """A server for the `with` block, ready to answer, stopped at its end.

    Args:
      models: (name, base path), or {name: base path}, or the Path of a --model_config_file.
      port: 0 = a free one.
      flags: more of the server's flags, e.g. ["--max_num_load_retries=0"]; ["--engine=tfserving"] is
        TensorFlow Serving itself, by its binary (its Docker image cannot have a port that is held here).
      timeout: seconds to become ready; the port opens when every model is available.
    Raises:
      ServerNotStarted: it ended or was not ready in time; the message holds its log's last lines.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atelier_serve_")))
        if not port:
            port = stack.enter_context(_reserved_port())
        if isinstance(models, Path):
            config = models.resolve()
        else:
            config = folder / "models.config"
            config.write_text(
                _model_config(dict([models] if isinstance(models, tuple) else models)),
                encoding="utf-8",
            )
        log_path = folder / "log"
        command = [sys.executable, "-m", "serving.server_main", f"--port={port}"]
        command += [f"--model_config_file={config}", *flags]
        # The package may be a checkout that is only on this process's path.
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        # The server ends when this pipe does: also when this process is killed, and can stop nobody.
        theirs, ours = os.pipe()
        stack.callback(os.close, ours)
        environment = {**os.environ, "PYTHONPATH": path, LIFELINE: str(theirs)}
        try:
            with log_path.open("wb") as log:
                process = subprocess.Popen(
                    command, stdout=log, stderr=log, env=environment, pass_fds=[theirs]
                )
        finally:
            os.close(theirs)
        server = LaunchedServer(f"127.0.0.1:{port}", process, log_path)
        stack.callback(server.stop)
        _wait_until_ready(server, port, timeout)
        yield server


@contextlib.contextmanager
def _reserved_port() -> Iterator[int]:
    """A free port that stays ours: bound but not listening.

    gRPC binds with SO_REUSEPORT too, so the server can share it while nobody else is given it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("0.0.0.0", 0))
        yield holder.getsockname()[1]


def _model_config(models: Mapping[str, str | os.PathLike[str]]) -> str:
    """A ModelServerConfig in protobuf's text format, whose strings are quoted as JSON's are."""
    entries = "".join(
        f"  config {{ name: {json.dumps(name, ensure_ascii=False)} "
        f"base_path: {json.dumps(str(Path(base).resolve()), ensure_ascii=False)} "
        'model_platform: "tensorflow" }\n'
        for name, base in models.items()
    )
    return f"model_config_list {{\n{entries}}}\n"


def _wait_until_ready(server: LaunchedServer, port: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while server.process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        if time.monotonic() > deadline:
            raise ServerNotStarted(
                f"the server was not ready within {timeout:g} s; its log ends:\n{_tail(server)}"
            )
        time.sleep(0.05)
    raise ServerNotStarted(
        f"the server ended with status {server.process.returncode}; its log ends:\n{_tail(server)}"
    )


def _tail(server: LaunchedServer) -> str:
    return "\n".join(server.log().splitlines()[-_LOG_TAIL_LINES:])
