"""Which signatures run in the thread that asks, and that nobody sees a difference."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from serving import servable


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> servable.Servable:
    """half: a few operations; spin: as few, but a loop."""

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def half(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": 0.5 * x + 2.0}

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32, "turns")], autograph=False)
        def spin(self, turns: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"count": tf.while_loop(lambda i: i < turns, lambda i: [i + 1.0], [tf.constant(0.0)])[0]}

    path: pathlib.Path = tmp_path_factory.mktemp("tiny") / "1"
    module = Module()
    tf.saved_model.save(module, str(path), signatures={"half": module.half, "spin": module.spin})
    return servable.Servable(str(path), ["serve"], tf.compat.v1.ConfigProto())


def run(model: servable.Servable, name: str, value: object, timeout: float | None) -> np.ndarray:
    definition = model.signature_defs[name]
    ((_, given),) = definition.inputs.items()
    ((_, wanted),) = definition.outputs.items()
    return model.run({given.name: np.asarray(value, np.float32)}, [wanted.name], timeout)[0]


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_a_tiny_signature_answers_with_and_without_a_deadline(model, timeout):
    assert np.array_equal(run(model, "half", [1.0, 2.0, 5.0], timeout), [2.5, 3.0, 4.5])


def test_an_error_in_a_tiny_signature_is_the_runtimes(model):
    definition = model.signature_defs["half"]
    with pytest.raises(tf.errors.InvalidArgumentError):
        model.run(
            {definition.inputs["x"].name: np.array(["text"], object)}, [definition.outputs["y"].name], None
        )


def test_a_loop_is_not_tiny_however_few_its_operations_and_its_deadline_ends_it(model):
    assert run(model, "spin", 10.0, None) == 10.0
    with pytest.raises(tf.errors.DeadlineExceededError):
        run(model, "spin", 1e9, 0.2)


def test_a_graph_of_a_million_calls_is_judged_at_once():
    graph = graph_pb2.GraphDef(node=[{"name": "y", "op": "PartitionedCall"}])
    graph.node[0].attr["f"].func.name = "f0"
    for depth in range(60):  # each calls the next twice, the last one itself
        function = graph.library.function.add(signature={"name": f"f{depth}"})
        function.node_def.add(name="add", op="AddV2")
        for name in ("a", "b"):
            node = function.node_def.add(name=name, op="PartitionedCall")
            node.attr["f"].func.name = f"f{min(depth + 1, 59)}"
    assert servable._Operations(graph).behind("y") >= servable._TINY
