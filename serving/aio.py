"""The client for asyncio: `serving.client.Client` with `await`."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar

import grpc
import grpc.aio

from serving import calls, channels, errors
from serving.calls import Calls, Steps

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def _verb(
    method: Callable[Concatenate[Calls, _Arguments], Steps[_Result]],
) -> Callable[Concatenate[AsyncClient, _Arguments], Coroutine[Any, Any, _Result]]:
    """The coroutine method of `AsyncClient` that makes a verb's calls and awaits their answers."""

    async def run(self: AsyncClient, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        return await self._run(method(self._calls, *args, **kwargs))

    calls.name_after(method, "AsyncClient", run)
    return run


class AsyncClient:
    """Calls model servers over gRPC from one event loop, that of its first call.

    The methods, their exceptions and the retries are `serving.client.Client`'s; any number of calls may be
    in flight, and a cancelled task's call is cancelled.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel | Sequence[grpc.aio.Channel] | channels.Dialer,
        timeout: float | None = 60.0,
        *,
        retries: int = 3,
    ) -> None:
        """Takes over channels, as `Client` does, or opens a dialer's own at the first call."""
        self._dialer = channel if isinstance(channel, channels.Dialer) else None
        self._channels: list[grpc.aio.Channel] = []
        if isinstance(channel, grpc.aio.Channel):
            self._channels = [channel]
        elif not isinstance(channel, channels.Dialer):
            self._channels = list(channel)
        count = len(self._dialer.targets) if self._dialer else len(self._channels)
        self._stubs: list[dict[str, Any]] = []
        self._calls = Calls(count, timeout, retries, weakref.WeakMethod(self.predict))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forks = channels.forks()
        self._closed = False

    @classmethod
    def connect(
        cls,
        address: str | Sequence[str],
        *,
        tls: bool | channels.PathLike | channels.TLS = False,
        compression: Literal["gzip", "deflate"] | None = None,
        timeout: float | None = 60.0,
        retries: int = 3,
    ) -> Self:
        """As `Client.connect`; no event loop need be running yet."""
        return cls(channels.dialer(address, tls, compression), timeout, retries=retries)

    predict = _verb(Calls.predict)
    classify = _verb(Calls.classify)
    regress = _verb(Calls.regress)
    metadata = _verb(Calls.metadata)
    status = _verb(Calls.status)
    reload = _verb(Calls.reload)
    health = _verb(Calls.health)
    model = _verb(Calls.model)

    async def close(self) -> None:
        """Closes the channels; calls in flight end with `errors.ClientClosed`."""
        self._closed = True
        if self._forks == channels.forks():  # else they are the parent's
            await asyncio.gather(*(channel.close() for channel in self._channels))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self, steps: Steps[_Result]) -> _Result:
        if self._forks != channels.forks():
            raise errors.ClientClosed("this client belongs to the process that forked this one: connect anew")
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._open(loop)
        try:
            call = next(steps)
            while True:
                if call.after:
                    await asyncio.sleep(call.after)
                answer = await self._answer(call)
                call = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
        except StopIteration as done:
            return done.value

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Opens the channels in the loop that runs: gRPC binds them to it."""
        if self._loop is not None:
            raise errors.ClientClosed("this client belongs to another event loop: connect anew in this one")
        self._loop = loop
        if self._dialer and not self._closed:
            self._channels = self._dialer.open(grpc.aio)
        self._stubs = [{name: each.unary_unary(name) for name in calls.METHODS} for each in self._channels]

    async def _answer(self, call: calls.Call) -> bytes | errors.ServingError:
        if not self._closed:
            try:
                return await self._stubs[call.server][call.method](call.request, timeout=call.timeout)
            except grpc.RpcError as error:
                if not self._closed:
                    return errors.from_rpc_error(error)
            except (grpc.aio.UsageError, asyncio.CancelledError):
                # What gRPC does to the calls of a channel that closes; a task's own cancellation passes.
                task = asyncio.current_task()
                if not self._closed or (task is not None and task.cancelling()):
                    raise
        return errors.ClientClosed("this client was closed")
