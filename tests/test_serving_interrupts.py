"""A client that gives up stops the run that it waited for."""

from __future__ import annotations

import concurrent.futures
import pathlib
import time
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
import saved_models
import tensorflow as tf

from serving import calls, interrupts, messages, servable, server, workers
from serving.client import Client

ENDLESS = 2_000_000_000


class _Loops(tf.Module):
    """spin: turns as often as it is told, and counts them where `turned` reads, which has no loop."""

    def __init__(self) -> None:
        super().__init__()
        self.turned_so_far = tf.Variable(0, dtype=tf.int32)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "turns")], autograph=False)
    def spin(self, turns: tf.Tensor) -> dict[str, tf.Tensor]:
        def turn(i: tf.Tensor) -> list[tf.Tensor]:
            with tf.control_dependencies([self.turned_so_far.assign_add(1)]):
                return [i + 1]

        return {"turns": tf.while_loop(lambda i: i < turns[0], turn, [tf.constant(0)])[0][None]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "x")], autograph=False)
    def turned(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"count": x + self.turned_so_far}


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("loops") / "1"
    module = _Loops()
    tf.saved_model.save(module, str(path), signatures={"spin": module.spin, "turned": module.turned})
    return path


@pytest.fixture(scope="module")
def address(export: pathlib.Path) -> Iterator[str]:
    port = saved_models.free_port()
    options = server.Options(port=port, model_name="loops", model_base_path=str(export.parent))
    embedded = server.Server(options)
    embedded.load()
    embedded.open()
    yield f"127.0.0.1:{port}"
    embedded.stop(1.0)


def _turned(client: Client) -> int:
    return int(client.predict("loops", {"x": [0]}, signature="turned")["count"][0])


def _wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not until():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_call_that_is_cancelled_while_it_runs_stops_running(address):
    spec = messages.model_spec("loops", signature="spin")
    request = messages.predict_request(spec, {"turns": np.array([ENDLESS], np.int32)}, ())
    with Client.connect(address) as client, grpc.insecure_channel(address) as channel:
        before = _turned(client)
        call = channel.unary_unary(calls.PREDICT).future(request)
        _wait(lambda: _turned(client) > before)
        call.cancel()

        def stands_still() -> bool:
            now = _turned(client)
            time.sleep(0.3)
            return _turned(client) == now

        _wait(stands_still)
        # The next one is not stopped by what stopped the last.
        for turns in (7, 3):
            assert client.predict("loops", {"turns": [turns]}, signature="spin")["turns"] == [turns]


def test_more_runs_at_a_time_than_can_be_stopped_all_answer(export):
    model = servable.Servable(str(export), ["serve"], tf.compat.v1.ConfigProto())
    definition = model.signature_defs["spin"]

    def run(turns: int) -> int:
        feeds = {definition.inputs["turns"].name: np.array([turns], np.int32)}
        with workers.AskedBy(lambda: True):
            return int(model.run(feeds, [definition.outputs["turns"].name], None)[0][0])

    count = interrupts._SLOTS + 16
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        assert list(pool.map(run, range(1000, 1000 + 2 * count))) == list(range(1000, 1000 + 2 * count))
    model.close()


def test_who_has_given_up_is_told_so_and_a_mistake_stays_a_mistake(export):
    model = servable.Servable(str(export), ["serve"], tf.compat.v1.ConfigProto())
    definition = model.signature_defs["spin"]
    turns, fetches = definition.inputs["turns"].name, [definition.outputs["turns"].name]
    with workers.AskedBy(lambda: False), pytest.raises(tf.errors.CancelledError, match="Cancelled"):
        model.run({turns: np.array([ENDLESS], np.int32)}, fetches, None)
    with workers.AskedBy(lambda: True):
        with pytest.raises(tf.errors.InvalidArgumentError):  # no first element
            model.run({turns: np.zeros([0], np.int32)}, fetches, None)
        with pytest.raises(tf.errors.DeadlineExceededError):
            model.run({turns: np.array([ENDLESS], np.int32)}, fetches, 0.2)
        assert model.run({turns: np.array([4], np.int32)}, fetches, None)[0] == [4]
    model.close()
