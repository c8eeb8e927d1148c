"""Predict's messages by hand against protobuf's own reading and writing of them."""

from __future__ import annotations

import random
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from google.protobuf import message

from serving import messages, rpc, tensors, wire, wire_pb2

DTYPES = [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "complex64", "complex128", "bfloat16", "float8_e5m2", "int4", "string",
]  # fmt: skip


def _array(rng: random.Random, shape: tuple[int, ...]) -> np.ndarray:
    """An array of a random type; extreme values among the rest."""
    name = rng.choice(DTYPES)
    count = int(np.prod(shape))
    if name == "string":
        texts = [bytes(rng.randrange(256) for _ in range(rng.choice((0, 1, 5, 200)))) for _ in range(count)]
        array = np.empty(count, object)
        array[:] = texts
        return array.reshape(shape)
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        values = [rng.choice((info.min, info.max, 0, 1, rng.randrange(100))) for _ in range(count)]
        return np.array(values, dtype).reshape(shape)
    values = [rng.choice((0, 1, 3, 7)) for _ in range(count)]
    return np.array(values).astype(dtype).reshape(shape)


def _arrays(rng: random.Random) -> dict[str, np.ndarray]:
    shapes = [(), (0,), (3,), (2, 0, 4), (1, 5, 2), (300,), (40, 50, 3)]
    return {f"x{i}ü": _array(rng, rng.choice(shapes)) for i in range(rng.randrange(4))}


def _same(left: np.ndarray, right: np.ndarray) -> bool:
    """Equal to the bit, dtype and shape included."""
    if left.dtype == object:
        return (left.shape, left.tolist()) == (right.shape, right.tolist())
    return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


@pytest.mark.parametrize("seed", range(60))
def test_requests_are_what_protobuf_reads(seed):
    rng = random.Random(seed)
    arrays = _arrays(rng)
    if arrays and rng.random() < 0.3:
        name = next(iter(arrays))
        arrays[name] = arrays[name].T  # not contiguous
    version, label = rng.choice([(None, None), (rng.choice((0, 7, 2**63 - 1)), None), (None, "stable")])
    spec = messages.model_spec("gän", version, label, rng.choice(("", "sample")))
    outputs = rng.choice(([], ["y", "ü"]))

    request = wire_pb2.PredictRequest.FromString(messages.predict_request(spec, arrays, outputs))

    wanted = wire_pb2.PredictRequest(
        model_spec=wire_pb2.ModelSpec.FromString(spec),
        inputs={name: tensors.to_proto(array) for name, array in arrays.items()},
        output_filter=outputs,
    )
    assert request == wanted
    assert request.model_spec.name == "gän"
    assert request.model_spec.version.value == (version or 0)
    assert request.model_spec.version_label == (label or "")


def _answer(rng: random.Random, arrays: dict[str, np.ndarray]) -> bytes:
    """A PredictResponse with fields in any order, and everything else that the wire format allows."""
    parts = [wire.length_delimited(2, messages.model_spec("m", rng.choice((1, 2**40)), signature="s"))]
    for name, array in arrays.items():
        tensor = rng.choice((tensors.to_content_wire, tensors.to_values_wire))(array)
        extra = rng.random()
        if extra < 0.2:  # the shape in two parts, and a field that we do not know
            split = wire_pb2.TensorProto.FromString(tensor)
            head = wire_pb2.TensorProto(version_number=3)
            if split.tensor_shape.dim:
                head.tensor_shape.dim.add(size=split.tensor_shape.dim[0].size)
                del split.tensor_shape.dim[0]
            tensor = head.SerializeToString() + wire.length_delimited(99, b"?") + split.SerializeToString()
        elif extra < 0.4 and array.dtype == np.float32 and array.size:  # values one by one
            values = b"".join(b"\x2d" + v.tobytes() for v in array.ravel())
            tensor = wire_pb2.TensorProto(
                dtype="DT_FLOAT", tensor_shape=wire_pb2.TensorProto.FromString(tensor).tensor_shape
            ).SerializeToString()
            tensor += values
        entry = [wire.length_delimited(1, name.encode()), wire.length_delimited(2, tensor)]
        rng.shuffle(entry)
        parts.append(wire.length_delimited(1, b"".join(entry)))
    rng.shuffle(parts)
    if rng.random() < 0.2:
        parts.append(b"\x98\x06\x01")  # an unknown varint, number 99
    return b"".join(parts)


def _by_protobuf(answer: bytes) -> dict[str, np.ndarray]:
    response = wire_pb2.PredictResponse.FromString(answer)
    return {name: tensors.from_proto(proto) for name, proto in response.outputs.items()}


@pytest.mark.parametrize("seed", range(80))
def test_answers_are_read_as_protobuf_reads_them(seed):
    rng = random.Random(seed)
    arrays = _arrays(rng)
    answer = _answer(rng, arrays)
    spec, outputs = messages.predict_answer(answer)
    response = wire_pb2.PredictResponse.FromString(answer)
    assert spec == ("m", response.model_spec.version.value, "s")
    assert outputs.keys() == arrays.keys()
    for name, array in outputs.items():
        assert _same(array, arrays[name])
        assert _same(array, tensors.from_proto(response.outputs[name]))
        assert not array.flags.writeable


def test_damaged_answers_are_value_errors_or_what_protobuf_reads(monkeypatch):
    monkeypatch.setattr(tensors, "_MAX_FILLED_BYTES", 2**20)  # damage may declare a tensor of any size
    rng = random.Random(0)
    read = refused = 0
    for _ in range(3000):
        answer = bytearray(_answer(rng, _arrays(rng))[:400])
        for _ in range(rng.randrange(4)):
            if answer:
                answer[rng.randrange(len(answer))] = rng.randrange(256)
        try:
            outputs = messages.predict_answer(bytes(answer))[1]
        except ValueError:
            refused += 1
            continue
        read += 1
        try:
            wanted = _by_protobuf(bytes(answer))
        except (message.DecodeError, ValueError):
            continue  # protobuf looks at what no array is made of
        # protobuf leaves out an entry that holds a field it does not know.
        assert outputs.keys() >= wanted.keys()
        assert all(_same(outputs[name], wanted[name]) for name in wanted)
    assert read > 300 and refused > 300


def test_a_large_tensor_shares_its_answer_s_memory():
    array = np.arange(2**16, dtype=np.float32)
    for tensor in (tensors.to_content_wire(array), tensors.to_values_wire(array)):
        entry = wire.length_delimited(1, b"y") + wire.length_delimited(2, tensor)
        answer = wire.length_delimited(1, entry)
        y = messages.predict_answer(answer)[1]["y"]
        assert np.array_equal(y, array)
        assert np.shares_memory(y, np.frombuffer(answer, np.uint8))
        with pytest.raises(ValueError, match="read-only"):
            y[0] = 1


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("DT_INT64", [0, 1, 127, 128, 2**14, 2**63 - 1, -(2**63), -1]),
        ("DT_INT32", [0, 127, 128, 2**31 - 1, -(2**31), -1]),
        ("DT_UINT64", [0, 2**64 - 1, 2**35]),
        ("DT_BOOL", [True, False]),
    ],
)
def test_packed_integers_of_any_length_are_read(dtype, values):
    field = {"DT_INT64": "int64_val", "DT_INT32": "int_val", "DT_UINT64": "uint64_val"}.get(dtype, "bool_val")
    proto = wire_pb2.TensorProto(dtype=dtype, **{field: values})
    proto.tensor_shape.dim.add(size=len(values))
    assert tensors.from_wire(proto.SerializeToString()).tolist() == values


def test_a_bool_may_be_any_varint():
    header = wire_pb2.TensorProto(dtype="DT_BOOL")
    header.tensor_shape.dim.add(size=3)
    packed = header.SerializeToString() + wire.length_delimited(11, b"\x02\x00\x80\x01")
    assert tensors.from_wire(packed).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (b"\x08\x01\x22\x05abc", "a field of 5 bytes where 3 are left"),
        (b"\x08\x80", "a number without an end"),
        (b"\x08\x0b\x13", "a field of kind 3"),
        (b"\x08\x01\x12\x04\x12\x02\x08\x01\x2a\x03abc", "float_val has 3 bytes"),
        (b"\x08\x09\x12\x04\x12\x02\x08\x01\x52\x02\xff\xff", "a number without an end"),
    ],
)
def test_what_is_no_tensor_says_why(tensor, reason):
    with pytest.raises(ValueError, match=reason):
        tensors.from_wire(tensor)


# --- The other methods' messages -----------------------------------------------------------------


def _example(**features: Any) -> wire_pb2.Example:
    request = rpc.examples_request(messages.model_spec("m"), [features], None)
    (found,) = wire_pb2.ClassificationRequest.FromString(request).input.example_list.examples
    return found


def test_features_become_the_three_kinds_of_lists():
    feature = _example(
        x=1.5, n=[1, 2], t="ü", b=[b"\xff"], flag=True, half=np.float16(0.5), byte=np.uint8([3])
    ).features.feature
    assert list(feature["x"].float_list.value) == [1.5]
    assert list(feature["n"].int64_list.value) == [1, 2]
    assert list(feature["t"].bytes_list.value) == ["ü".encode()]
    assert list(feature["b"].bytes_list.value) == [b"\xff"]
    assert list(feature["flag"].int64_list.value) == [1]
    assert list(feature["half"].float_list.value) == [0.5]
    assert list(feature["byte"].int64_list.value) == [3]


def test_serialized_examples_and_a_context_are_sent_as_they_are():
    given = _example(x=2.0)
    request = rpc.examples_request(b"", [given.SerializeToString(), {"x": 3.0}], {"shared": "c"})
    found = wire_pb2.RegressionRequest.FromString(request).input.example_list_with_context
    assert [e.features.feature["x"].float_list.value[0] for e in found.examples] == [2.0, 3.0]
    assert list(found.context.features.feature["shared"].bytes_list.value) == [b"c"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"x": [2**63]}, "feature 'x': 9223372036854775808 does not fit int64"),
        ({"x": 1j}, "feature 'x': expected int64, given complex128"),
        ({"x": None}, "feature 'x': expected string"),
        ([1, 2], "expected features by name or a serialized tf.Example"),
        (b"\xff", "no Example"),
    ],
)
def test_what_an_example_cannot_hold_is_refused(row, reason):
    with pytest.raises(ValueError, match=reason):
        rpc.examples_request(b"", [row], None)


def test_rows_of_classes_become_arrays():
    response = wire_pb2.ClassificationResponse()
    for row in ([("a", 0.25), ("ü", 0.75)], [("b", 1.0), ("", 0.0)]):
        classes = response.result.classifications.add().classes
        for label, score in row:
            classes.add(label=label, score=score)
    arrays = rpc.read_classify(response.SerializeToString())[1]
    assert arrays["classes"].tolist() == [[b"a", "ü".encode()], [b"b", b""]]
    assert arrays["scores"].tolist() == [[0.25, 0.75], [1.0, 0.0]]
    response.result.classifications.add()
    with pytest.raises(ValueError, match="rows of 2, 2, 0 classes"):
        rpc.read_classify(response.SerializeToString())
