"""Client of TensorFlow Serving and of the embedded server: numpy in, numpy out, no TensorFlow.

    with Client.connect("localhost:8500") as client:
        answer = client.predict("gan_fashion", {"seed": range(16), "label": 3}, signature="sample")
        answer["image"]  # float32 [16, 28, 28, 1]
        answer.version   # the one that answered

        gan = client.model("gan_fashion")
        gan.sample(seed=range(16), label=3)

    async with AsyncClient.connect(["h1:8500", "h2:8500"], tls="ca.pem") as client:
        answer = await client.predict(...)

Inputs are checked against the model's own signature before anything is sent, so that a mistake is
one exception that names the input, what it expects and what it was given.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Concatenate, Literal, ParamSpec, Self, TypeVar

import grpc

from serving import calls, channels, errors
from serving.calls import Answer, Calls, Steps
from serving.canary import Split
from serving.channels import TLS
from serving.methods import Model
from serving.schema import ModelMetadata, ServedModel, Signature, TensorSpec, VersionStatus

if TYPE_CHECKING:
    from serving.aio import AsyncClient

__all__ = [
    "TLS",
    "Answer",
    "AsyncClient",
    "Client",
    "Model",
    "ModelMetadata",
    "ServedModel",
    "Signature",
    "Split",
    "TensorSpec",
    "VersionStatus",
]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def _verb(
    method: Callable[Concatenate[Calls, _Arguments], Steps[_Result]],
) -> Callable[Concatenate[Client, _Arguments], _Result]:
    """The method of `Client` that makes a verb's calls and waits for their answers."""

    def run(self: Client, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        return self._run(method(self._calls, *args, **kwargs))

    calls.name_after(method, "Client", run)
    return run


class Client:
    """Calls model servers over gRPC. Safe to share between threads; not after a fork.

    Every method raises `errors.ServerUnavailable`, `errors.DeadlineExceeded`, `errors.ClientClosed` and,
    for statuses that have no class of their own, `errors.ServerError`; all exceptions are
    `errors.ServingError`.
    """

    def __init__(
        self,
        channel: grpc.Channel | Sequence[grpc.Channel],
        timeout: float | None = 60.0,
        *,
        retries: int = 3,
    ) -> None:
        """Takes over channels (`close` closes them).

        Args:
          channel: any gRPC channel, or one for each of several servers; to send or receive over 4 MiB, it
            needs the two `grpc.max_*_message_length` options that `connect` sets.
          timeout: seconds for a call that states none itself; None = wait for ever.
          retries: how often a call is tried again that found no server or lost its connection: at another
            server at once, else after a pause, all within its timeout, and as far as a budget goes that
            all calls share.
        """
        self._channels = [channel] if isinstance(channel, grpc.Channel) else list(channel)
        self._stubs = [{name: each.unary_unary(name) for name in calls.METHODS} for each in self._channels]
        self._calls = Calls(len(self._channels), timeout, retries, weakref.WeakMethod(self.predict))
        self._forks = channels.forks()
        self._closed = False

    @classmethod
    def connect(
        cls,
        address: str | Sequence[str],
        *,
        tls: bool | channels.PathLike | TLS = False,
        compression: Literal["gzip", "deflate"] | None = None,
        timeout: float | None = 60.0,
        retries: int = 3,
    ) -> Self:
        """A client of one server, or of several that serve the same models. The first call connects.

        Args:
          address: "host:port" (the gRPC port) or "unix:/path"; several: each takes its turn.
          tls: True = TLS, trusting the authorities that gRPC knows; a path = trusting those in this PEM
            file; `TLS(...)` = with a certificate of the client's own, or another name of the server.
          compression: of requests; worth its time on slow networks only.
          timeout, retries: as `Client` takes them.
        Raises:
          errors.InvalidInput: no such address or compression, half of a client certificate, or no PEM file.
          OSError: a PEM file cannot be read.
        """
        opened = channels.dialer(address, tls, compression).open(grpc)
        return cls(opened, timeout, retries=retries)

    predict = _verb(Calls.predict)
    classify = _verb(Calls.classify)
    regress = _verb(Calls.regress)
    metadata = _verb(Calls.metadata)
    status = _verb(Calls.status)
    reload = _verb(Calls.reload)
    health = _verb(Calls.health)
    model = _verb(Calls.model)

    def close(self) -> None:
        """Closes the channels; calls in flight end with `errors.ClientClosed`."""
        self._closed = True
        if self._forks == channels.forks():  # else they are the parent's
            for channel in self._channels:
                channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, steps: Steps[_Result]) -> _Result:
        if self._forks != channels.forks():
            raise errors.ClientClosed("this client belongs to the process that forked this one: connect anew")
        try:
            call = next(steps)
            while True:
                if call.after:
                    time.sleep(call.after)
                answer = self._answer(call)
                # Not in an except block: the gRPC error would be shown as the context of ours.
                call = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
        except StopIteration as done:
            return done.value

    def _answer(self, call: calls.Call) -> bytes | errors.ServingError:
        if not self._closed:
            try:
                return self._stubs[call.server][call.method](call.request, timeout=call.timeout)
            except grpc.RpcError as error:
                if not self._closed:
                    return errors.from_rpc_error(error)
            except ValueError:  # gRPC's word for a closed channel
                if not self._closed:
                    raise
        return errors.ClientClosed("this client was closed")


def __getattr__(name: str) -> object:
    """`AsyncClient`, when it is first asked for: most programs use one of the two."""
    if name == "AsyncClient":
        from serving.aio import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
