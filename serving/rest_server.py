"""An HTTP server for the REST face: uvicorn in a thread of its own."""

from __future__ import annotations

import socket
import ssl
import tempfile
import threading
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving import config_pb2, rest_answers, status

# How long a request that has begun to arrive may still take to arrive, once the server stops.
ARRIVAL_SECONDS = 1.0

_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 60
_START_SECONDS = 1.0
_MAX_HEAD_BYTES = 2**20


class RestServer:
    """Serves an application on all interfaces, IPv6 and IPv4."""

    def __init__(self, app: Starlette, port: int, ssl_config: config_pb2.SSLConfig | None = None) -> None:
        """
        Args:
          app: from `rest_api.app`.
          port: 0 = any that is free.
          ssl_config: keys and certificates for TLS; None = plain HTTP.
        Raises:
          status.Error: INVALID_ARGUMENT: unusable keys or certificates.
        """
        self._app = app
        self._port = port
        context = None if ssl_config is None else _context(ssl_config)
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # it warns of each request that is no HTTP
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            ssl_context_factory=None if context is None else lambda *_: context,
        )
        self._server = _Server(config)
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The one that is listened on, once started."""
        return self._port

    def start(self) -> None:
        """Returns when the port is open.

        Raises:
          status.Error: UNAVAILABLE: the port cannot be had.
        """
        try:
            listener = _bind(self._port)
        except (OSError, OverflowError) as error:  # OverflowError: no port has this number
            raise status.unavailable(
                f"Failed to start HTTP Server at localhost:{self._port}: {error}"
            ) from error
        self._port = listener.getsockname()[1]
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="rest-server", daemon=True
        )
        self._thread.start()
        while not self._server.listening.wait(_START_SECONDS):
            if not self._thread.is_alive():
                raise status.unavailable(f"Failed to start HTTP Server at localhost:{self._port}")

    def stop(self, grace: float) -> None:
        """Refuses new connections and waits up to `grace` seconds for requests in flight.

        Those that are still arriving after a moment are answered 503.
        """
        self._app.state.draining = True
        if self._thread is None:
            return
        self._server.grace = grace
        self._server.should_exit = True
        self._thread.join(grace + 1)


class _Protocol(HttpToolsProtocol):
    """With an end to the head of a request, which would be gathered for as long as it comes."""

    _head_bytes = 0
    _in_head = True

    def on_message_begin(self) -> None:
        self._head_bytes, self._in_head = 0, True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The head of the request is too large.")

    def shutdown(self) -> None:
        super().shutdown()
        self.loop.call_later(ARRIVAL_SECONDS, self._give_up)

    def _give_up(self) -> None:
        cycle = self.cycle
        if cycle is None or not cycle.more_body or cycle.response_started or self.transport.is_closing():
            return
        body = rest_answers.error("The server is being stopped")
        head = (
            "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()
        self.grace = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn counts in whole seconds.
        self.config.timeout_graceful_shutdown = round(self.grace)
        await super().shutdown(sockets)


def _bind(port: int) -> socket.socket:
    try:
        bound = socket.create_server(
            ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
        )
    except (OSError, ValueError):  # ValueError: no dual stack here
        bound = socket.create_server(("0.0.0.0", port), backlog=_BACKLOG)
    # asyncio sends small packets at once only where the socket says that it is TCP's. Otherwise an answer's
    # body waits 40 ms for the client to acknowledge its head.
    return socket.socket(bound.family, bound.type, socket.IPPROTO_TCP, bound.detach())


def _context(config: config_pb2.SSLConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Python takes keys from files only.
        with tempfile.TemporaryDirectory() as folder:
            key, cert = Path(folder, "key"), Path(folder, "cert")
            key.write_text(config.server_key)
            cert.write_text(config.server_cert)
            context.load_cert_chain(cert, key)
        if config.custom_ca:
            context.load_verify_locations(cadata=config.custom_ca)
    except (ssl.SSLError, ValueError) as error:
        raise status.invalid_argument(f"ssl_config_file: unusable key or certificate: {error}") from None
    if config.client_verify:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
