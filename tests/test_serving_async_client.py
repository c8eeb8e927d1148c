"""AsyncClient: the same surface, any number of calls in flight, and the ways of asyncio."""

from __future__ import annotations

import asyncio
import inspect
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
from fake_server import FakeModel, FakeServer

from serving import client, errors
from serving.client import AsyncClient, Client, Split

ROOT = Path(__file__).resolve().parent.parent
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


def _public(kind: type) -> dict[str, object]:
    return {name: member for name, member in vars(kind).items() if not name.startswith("_")}


def test_both_clients_have_one_surface():
    assert _public(Client).keys() == _public(AsyncClient).keys()
    for name in ("__init__", *_public(Client)):
        one, other = (getattr(kind, name) for kind in (Client, AsyncClient))
        parameters = [
            [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]
            for method in (one, other)
        ]
        assert parameters[0] == parameters[1], name
        waits = name not in ("connect", "__init__")
        assert inspect.iscoroutinefunction(other) == waits, name
        assert inspect.getdoc(one) and inspect.getdoc(other)


def test_help_shows_a_verb_s_own_signature_and_what_it_returns():
    assert Client.predict.__qualname__ == "Client.predict"
    assert AsyncClient.predict.__qualname__ == "AsyncClient.predict"
    assert inspect.signature(Client.predict).return_annotation == "Answer"
    assert "outputs" in inspect.signature(Client.predict).parameters
    assert "errors.InvalidInput" in (Client.predict.__doc__ or "")


def test_many_calls_in_flight_each_get_their_own_answer(server):
    async def run() -> int:
        async with AsyncClient.connect(server.address) as client:
            numbers = iter(range(5000))

            async def ask() -> int:
                count = 0
                for number in numbers:
                    x = np.arange(number % 5 + 1) + number  # of several lengths
                    answer = await client.predict("double", {"x": x.astype(np.float32)})
                    assert answer["y"].tolist() == (2.0 * x).tolist()
                    count += 1
                return count

            return sum(await asyncio.gather(*(ask() for _ in range(256))))

    assert asyncio.run(run()) == 5000


def test_every_verb_answers(server):
    server.models["double"] = FakeModel(defaults={"x": np.float32([4])})

    async def run() -> None:
        async with AsyncClient.connect([server.address, server.address], timeout=10) as client:
            assert (await client.metadata("double")).version == 1
            model = await client.model("double", split=Split({"canary": 1}))
            answer = await model(x=[1, 2])
            assert (answer["y"].tolist(), answer.label) == ([2, 4], "canary")
            for verb, arguments in (
                (client.classify, ("double", [{"x": 1}])),
                (client.regress, ("double", [{"x": 1}])),
                (client.status, ("double",)),
                (client.reload, ({"double": "/models"},)),
                (client.health, ()),
            ):
                with pytest.raises(errors.ServingError):  # the fake server has no such methods
                    await verb(*arguments)
            with pytest.raises(errors.InvalidInput, match="no input 'z'"):
                await client.predict("double", {"z": 1})

    asyncio.run(run())
    asked = {"Classify", "Regress", "GetModelStatus", "HandleReloadConfigRequest", "Check"}
    assert asked <= set(server.asked)


def test_retries_deadlines_and_statuses_are_the_client_s(server):
    async def run() -> None:
        async with AsyncClient.connect(server.address) as client:
            await client.metadata("double")
            server.script = [UNAVAILABLE, UNAVAILABLE]
            assert (await client.predict("double", {"x": [1]}))["y"].tolist() == [2]
            server.script = [1.0]
            with pytest.raises(errors.DeadlineExceeded, match="no answer within"):
                await client.predict("double", {"x": [1]}, timeout=0.2)
            with pytest.raises(errors.ModelNotFound):
                await client.predict("nope", {"x": [1]})

    asyncio.run(run())


def test_a_cancelled_task_is_cancelled_and_the_client_goes_on(server):
    async def run() -> None:
        async with AsyncClient.connect(server.address) as client:
            await client.metadata("double")
            server.script = [1.0]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.predict("double", {"x": [1]})
            task = asyncio.create_task(client.predict("double", {"x": [1]}))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await client.predict("double", {"x": [3]}))["y"].tolist() == [6]

    asyncio.run(run())


def test_closing_ends_the_calls_in_flight_and_all_after(server):
    async def run() -> None:
        client = AsyncClient.connect(server.address)
        await client.metadata("double")
        server.script = [2.0]
        task = asyncio.create_task(client.predict("double", {"x": [1]}))
        await asyncio.sleep(0.2)
        await client.close()
        with pytest.raises(errors.ClientClosed):
            await task
        with pytest.raises(errors.ClientClosed):
            await client.metadata("nope")
        await client.close()  # again, without harm

    asyncio.run(run())


def test_a_client_may_be_made_before_its_loop_and_belongs_to_one(server):
    client = AsyncClient.connect(server.address)

    async def ask() -> list[float]:
        return (await client.predict("double", {"x": [1]}))["y"].tolist()

    assert asyncio.run(ask()) == [2]
    with pytest.raises(errors.ClientClosed, match="another event loop"):
        asyncio.run(ask())


def test_any_channel_will_do(server):
    async def run() -> list[float]:
        async with AsyncClient(grpc.aio.insecure_channel(server.address)) as client:
            return (await client.predict("double", {"x": [1]}))["y"].tolist()

    assert asyncio.run(run()) == [2]


def test_servers_that_come_and_go_lose_no_call():
    async def run() -> None:
        one, two = FakeServer(), FakeServer()
        with one, two:
            async with AsyncClient.connect([one.address, two.address], timeout=20.0) as client:
                await client.metadata("double")

                async def ask(number: int) -> None:
                    await asyncio.sleep(random.random() * 0.5)
                    answer = await client.predict("double", {"x": [number]})
                    assert answer["y"].tolist() == [2 * number]

                tasks = [asyncio.create_task(ask(number)) for number in range(300)]
                await asyncio.sleep(0.2)
                await asyncio.to_thread(one.stop)
                await asyncio.gather(*tasks)

    asyncio.run(run())


def test_the_async_client_is_imported_when_it_is_asked_for():
    code = "import serving.client, sys; assert 'serving.aio' not in sys.modules; serving.client.AsyncClient"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        client.Nope  # noqa: B018
