"""Inputs of few bytes that stand for many: as far as there is memory for them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from serving import inference, memory


class Sum:
    """Stands for a loaded model: y is the sum of x."""

    signature_defs = {  # noqa: RUF012
        "serving_default": meta_graph_pb2.SignatureDef(
            inputs={"x": {"name": "x:0"}}, outputs={"y": {"name": "y:0"}}
        )
    }

    def run(self, feeds: dict[str, np.ndarray], fetches: object, timeout: object) -> list[np.ndarray]:
        return [feeds["x:0"].sum()]

    def close(self) -> None:
        pass


class Size(Sum):
    """The same with y as the number of values."""

    def run(self, feeds: dict[str, np.ndarray], fetches: object, timeout: object) -> list[np.ndarray]:
        return [np.int64(feeds["x:0"].size)]


def test_values_may_be_repeated_to_fill_a_shape_as_far_as_there_is_memory(monkeypatch):
    proto = tf.make_tensor_proto(np.ones(1, np.float32))
    proto.tensor_content = b""
    proto.float_val[:] = [1.0]

    def ask(size: int) -> float:
        proto.tensor_shape.dim[0].size = size
        return inference.predict(Sum(), "", {"x": proto}, (), None)[1]["y"]

    monkeypatch.setattr(memory, "available", lambda: 2**30)
    assert ask(2**22) == 2**22
    assert ask(2**23) == 2**23
    with pytest.raises(tf.errors.ResourceExhaustedError) as raised:
        ask(2**23 + 1)
    assert raised.value.message == (
        f"Input x has {proto.ByteSize()} bytes, and 33554436 when its values are repeated to fill its shape; "
        "now 33554432 may be filled, 1/32 of the memory that is free: send fewer, or all of them"
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"^tensor parsing error: x$"):
        ask(2**40)
    # All values are there: no matter how many.
    monkeypatch.setattr(memory, "available", lambda: 0)
    proto.float_val[:] = np.ones(2**23, np.float32)
    assert ask(2**23) == 2**23
    proto.dtype = 999
    proto.float_val[:] = [1.0]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"^tensor parsing error: x$"):
        ask(2**23)


@pytest.mark.parametrize(("count", "text"), [(2**25 + 2, b""), (2**10 + 1, b"a" * 2**20)])
def test_texts_are_counted_with_what_each_copy_takes(monkeypatch, count, text):
    monkeypatch.setattr(memory, "available", lambda: 2**35)

    def ask(count: int) -> np.int64:
        proto = tf.make_tensor_proto([text])
        proto.tensor_shape.dim[0].size = count
        return inference.predict(Size(), "", {"x": proto}, (), None)[1]["y"]

    assert ask(2**9) == 2**9
    with pytest.raises(tf.errors.ResourceExhaustedError, match=r"^Input x has \d+ bytes, and \d+ when its "):
        ask(count)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"^tensor parsing error: x$"):
        ask(2**40)
