"""Connections: addresses, TLS, compression and the options that every channel of a client has.

One gRPC channel for each address; a name that stands for several machines (a headless service of
Kubernetes, say) is one address, and gRPC takes its machines in turn.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from serving import errors

PathLike = str | os.PathLike[str]

_OPTIONS: tuple[tuple[str, Any], ...] = (
    # gRPC refuses answers over 4 MiB unless told otherwise; a batch of images is larger.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # After a server's restart the first new attempt comes soon, not minutes later.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Shared by default between all channels of a process and, after a fork, with its parent: calls of a
    # new client in the child would then fail.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
)
_COMPRESSIONS = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}

# host:port, [IPv6]:port, a Unix socket, or one of gRPC's own schemes.
_ADDRESS = re.compile(
    r"([^\s:/\[\]]+|\[[\w:.%]+\]):(?P<port>\d{1,5})|(unix|unix-abstract|dns|ipv4|ipv6|xds):.+"
)

_forks = 0


def _forked() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def forks() -> int:
    """How many forks lie between this process and the one that imported this module."""
    return _forks


@dataclass(frozen=True)
class TLS:
    """How to know the server, and how it knows us: paths of PEM files."""

    ca: PathLike | None = None  # who signs servers' certificates; None: the authorities that gRPC brings
    key: PathLike | None = None  # the client's own, with `cert`, for servers that verify clients
    cert: PathLike | None = None
    server_name: str | None = None  # what the certificate says, where that is not the address' host


@dataclass(frozen=True)
class Dialer:
    """All that it takes to open a client's channels, checked."""

    targets: tuple[str, ...]
    credentials: grpc.ChannelCredentials | None
    options: tuple[tuple[str, Any], ...]
    compression: grpc.Compression | None

    def open(self, library: Any) -> list[Any]:
        """A channel of `library`, `grpc` or `grpc.aio`, for each target; none connects yet."""
        rest = (self.options, self.compression)
        if self.credentials is None:
            return [library.insecure_channel(target, *rest) for target in self.targets]
        return [library.secure_channel(target, self.credentials, *rest) for target in self.targets]


def dialer(
    address: str | Sequence[str], tls: bool | PathLike | TLS = False, compression: str | None = None
) -> Dialer:
    """Reads the arguments of `Client.connect`.

    Raises:
      errors.InvalidInput: no such address or compression, half of a client certificate, or no PEM file.
      OSError: a PEM file cannot be read.
    """
    addresses = (address,) if isinstance(address, str) else tuple(address)
    if not addresses:
        raise errors.InvalidInput("expected one address or several, given none")
    for each in addresses:
        found = _ADDRESS.fullmatch(each) if isinstance(each, str) else None
        if found is None or (found["port"] and not 0 < int(found["port"]) < 2**16):
            raise errors.InvalidInput(
                f"expected an address such as 'localhost:8500' (gRPC's port) or 'unix:/path', given {each!r}"
            )
    if compression is not None and compression not in _COMPRESSIONS:
        raise errors.InvalidInput(f"expected compression 'gzip', 'deflate' or None, given {compression!r}")
    chosen = None if compression is None else _COMPRESSIONS[compression]
    if tls is False:
        return Dialer(addresses, None, _OPTIONS, chosen)
    if not isinstance(tls, TLS):
        tls = TLS() if tls is True else TLS(ca=tls)
    if (tls.key is None) != (tls.cert is None):
        raise errors.InvalidInput("a client certificate needs both: key and cert")
    credentials = grpc.ssl_channel_credentials(_pem(tls.ca), _pem(tls.key), _pem(tls.cert))
    name = () if tls.server_name is None else (("grpc.ssl_target_name_override", tls.server_name),)
    return Dialer(addresses, credentials, _OPTIONS + name, chosen)


def _pem(path: PathLike | None) -> bytes | None:
    if path is None:
        return None
    with open(path, "rb") as file:
        content = file.read()
    if b"-----BEGIN " not in content:  # gRPC itself would only fail to connect
        raise errors.InvalidInput(f"{os.fspath(path)} is no PEM file")
    return content
