"""TensorProto to numpy and back: every dtype, and the rules of TensorFlow's C++ (the oracle)."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from google.protobuf.message import DecodeError

from serving import tensors, wire_pb2

NUMBERS = {
    "bool": [True, False, True],
    "int8": [-128, 0, 127],
    "int16": [-32768, 0, 32767],
    "int32": [-(2**31), 0, 2**31 - 1],
    "int64": [-(2**63), 0, 2**63 - 1],
    "uint8": [0, 1, 255],
    "uint16": [0, 1, 65535],
    "uint32": [0, 1, 2**32 - 1],
    "uint64": [0, 1, 2**64 - 1],
    "float16": [-1.5, 0.0, np.inf],
    "float32": [-1.5, 0.1, np.nan],
    "float64": [-1.5, 0.1, 1e300],
    "complex64": [1 + 2j, 0, -3j],
    "complex128": [1 + 2j, 0, 1e300j],
    "bfloat16": [-1.5, 0.0, 3e38],
    "float8_e5m2": [-1.5, 0.0, 2.0],
    "float8_e4m3fn": [-1.5, 0.0, 2.0],
    "float8_e4m3fnuz": [-1.5, 0.0, 2.0],
    "float8_e4m3b11fnuz": [-1.5, 0.0, 2.0],
    "float8_e5m2fnuz": [-1.5, 0.0, 2.0],
    "float4_e2m1fn": [-1.5, 0.0, 2.0],
    "int4": [-8, 0, 7],
    "uint4": [0, 1, 15],
    "int2": [-2, 0, 1],
    "uint2": [0, 1, 3],
}


def _dtype(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))


def _same(left: np.ndarray, right: np.ndarray) -> bool:
    """Equal to the bit, dtype and shape included."""
    return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


def _by_tensorflow(proto: wire_pb2.TensorProto) -> np.ndarray:
    """What TensorFlow's Tensor::FromProto makes of the same bytes."""
    import tensorflow as tf

    return tf.io.parse_tensor(proto.SerializeToString(), tf.DType(proto.dtype)).numpy()


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("shape", [(3,), (1, 3, 1)])
def test_every_number_type_survives_both_encodings(name, shape):
    array = np.array(NUMBERS[name], _dtype(name)).reshape(shape)
    content = tensors.to_proto(array)
    values = wire_pb2.TensorProto.FromString(tensors.to_values_wire(array))

    assert content.tensor_content and not values.tensor_content
    assert tensors.type_name(content.dtype) == name
    assert _same(tensors.from_proto(content), array)
    assert _same(tensors.from_proto(values), array)


@pytest.mark.parametrize("name", NUMBERS)
def test_tensorflow_reads_both_encodings_alike(name):
    array = np.array(NUMBERS[name], _dtype(name))
    values = wire_pb2.TensorProto.FromString(tensors.to_values_wire(array))

    # By value: TensorFlow leaves the unused bits of an int4 as they come.
    assert str(_by_tensorflow(tensors.to_proto(array))) == str(array)
    assert str(_by_tensorflow(values)) == str(array)


def test_tensorflow_s_own_protos_are_read():
    from tensorflow.core.framework import tensor_pb2

    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    stock = tensor_pb2.TensorProto.FromString(tensors.to_values_wire(array))
    assert list(stock.float_val) == [0, 1, 2, 3, 4, 5]
    assert _same(tensors.from_proto(stock), array)


@pytest.mark.parametrize("array", [np.float32(3.5), np.array(7), np.zeros((0, 4), np.int32)])
def test_scalars_and_empty_arrays_keep_their_shape(array):
    assert _same(tensors.from_proto(tensors.to_proto(array)), np.asarray(array))
    values = wire_pb2.TensorProto.FromString(tensors.to_values_wire(np.asarray(array)))
    assert _same(tensors.from_proto(values), np.asarray(array))


def test_arrays_of_other_byte_order_and_layout_are_encoded_by_value():
    array = np.arange(6, dtype=">f4").reshape(2, 3).T
    assert np.array_equal(tensors.from_proto(tensors.to_proto(array)), array)


@pytest.mark.parametrize(
    "values",
    [
        ["a", b"b\0", "ü"],
        np.array(["a", "b\0c", "ü"]),
        np.array([b"a", b"b\0c", b"\xff"]),
        np.array(["a", b"b\0"], dtype=object),
    ],
)
def test_strings_become_bytes_and_survive(values):
    expected = [v.encode() if isinstance(v, str) else bytes(v) for v in values]
    decoded = tensors.from_proto(tensors.to_proto(values))
    assert decoded.dtype == object
    assert decoded.tolist() == expected


def _proto(dtype: str, shape: list[int], **fields: object) -> wire_pb2.TensorProto:
    proto = wire_pb2.TensorProto(dtype=dtype, **fields)
    proto.tensor_shape.SetInParent()
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


FILL_RULES = [
    # The last value is repeated.
    (_proto("DT_FLOAT", [2, 2], float_val=[1, 2]), [[1, 2], [2, 2]]),
    (_proto("DT_BOOL", [3], bool_val=[True]), [True, True, True]),
    (_proto("DT_STRING", [3], string_val=[b"a", b"b"]), [b"a", b"b", b"b"]),
    (_proto("DT_COMPLEX64", [2], scomplex_val=[1, 2]), [1 + 2j, 1 + 2j]),
    (_proto("DT_INT64", [3], int64_val=[-5]), [-5, -5, -5]),
    # Nothing given: zeros.
    (_proto("DT_DOUBLE", [2]), [0, 0]),
    (_proto("DT_STRING", [2]), [b"", b""]),
    # Surplus is dropped.
    (_proto("DT_FLOAT", [2], float_val=[1, 2, 3]), [1, 2]),
    (_proto("DT_INT32", [], int_val=[4, 5]), 4),
    # Halves travel as their bits, small integers wrap.
    (_proto("DT_HALF", [2], half_val=[0x3C00]), [1, 1]),
    (_proto("DT_BFLOAT16", [1], half_val=[0x3F80]), [1]),
    (_proto("DT_UINT8", [2], int_val=[300, -1]), [44, 255]),
    (_proto("DT_UINT32", [1], uint32_val=[2**32 - 1]), [2**32 - 1]),
    (_proto("DT_UINT64", [1], uint64_val=[2**64 - 1]), [2**64 - 1]),
]


@pytest.mark.parametrize(("proto", "expected"), FILL_RULES)
def test_values_fill_the_shape_as_in_tensorflow(proto, expected):
    decoded = tensors.from_proto(proto)
    assert decoded.tolist() == expected
    assert decoded.tolist() == _by_tensorflow(proto).tolist()


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (
            _proto("DT_FLOAT", [2], tensor_content=b"123"),
            r"3 bytes, shape \[2\] of float32 needs 8",
        ),
        (_proto("DT_STRING", [1], tensor_content=b"a"), "string_val"),
        (_proto("DT_FLOAT", [-1]), "negative"),
        (_proto("DT_FLOAT", [2**20, 2**20], float_val=[1]), "too large to fill"),
        (_proto("DT_RESOURCE", [1]), "DT_RESOURCE has no numpy type"),
        (_proto("DT_QINT8", [1]), "DT_QINT8 has no numpy type"),
        (wire_pb2.TensorProto(dtype=99), r"DataType\(99\) has no numpy type"),
        (
            wire_pb2.TensorProto(
                dtype="DT_FLOAT", tensor_shape=wire_pb2.TensorShapeProto(unknown_rank=True)
            ),
            "unknown rank",
        ),
    ],
)
def test_malformed_tensors_are_refused(proto, reason):
    with pytest.raises(ValueError, match=reason):
        tensors.from_proto(proto)


def test_the_short_way_for_tensor_content_gives_the_same_or_nothing():
    dice = np.random.default_rng(0)
    wires = [tensors.to_content_wire(np.array(values, _dtype(name))) for name, values in NUMBERS.items()]
    wires += [tensors.to_content_wire(np.zeros(shape, np.float32)) for shape in ((), (1,), (2, 3), (0, 4))]
    wires += [tensors.to_values_wire(np.ones([2, 2], np.float32)), tensors.to_content_wire(np.array([b"a"]))]
    wires.append(wires[0] + b"\x12\x02\x18\x01")  # unknown rank, after a shape
    taken = refused = 0
    for number in range(10_000):
        damaged = bytearray(wires[number % len(wires)])
        if number >= len(wires):
            for _ in range(dice.integers(1, 4)):
                damaged[dice.integers(len(damaged))] = dice.integers(256)
        try:
            proto = wire_pb2.TensorProto.FromString(bytes(damaged))
        except DecodeError:
            continue
        short = tensors.from_content(proto)
        try:
            array = tensors.from_proto(proto)
        except ValueError:
            refused += 1
            assert short is None
            continue
        if short is None:
            assert not proto.tensor_content or proto.dtype == wire_pb2.DT_STRING
        else:
            taken += 1
            assert _same(short, array)
            assert not short.flags.writeable
            assert not short.flags.owndata
    assert taken > 1000
    assert refused > 500


def test_decoding_shares_memory_with_the_message_where_it_can():
    array = np.arange(1000, dtype=np.float32)
    assert not tensors.from_proto(tensors.to_proto(array)).flags.owndata
    values = wire_pb2.TensorProto.FromString(tensors.to_values_wire(array))
    assert not tensors.from_proto(values).flags.owndata


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0.5, 1], "float32", np.array([0.5, 1], np.float32)),
        ([1, 2], "float32", np.array([1, 2], np.float32)),
        (3, "int64", np.array(3, np.int64)),
        ([1, 2], "uint8", np.array([1, 2], np.uint8)),
        (range(3), "int32", np.array([0, 1, 2], np.int32)),
        ([1], "complex64", np.array([1], np.complex64)),
        ([], "int64", np.array([], np.int64)),
        ([0, 2**64 - 1], "uint64", np.array([0, 2**64 - 1], np.uint64)),  # to numpy these are float64
        (np.array([0.5]), "float32", np.array([0.5], np.float32)),
        (np.array([7], np.int32), "int64", np.array([7], np.int64)),
        (np.array([1.5], np.float32), "bfloat16", np.array([1.5], ml_dtypes.bfloat16)),
        (np.array([3]), "int4", np.array([3], ml_dtypes.int4)),
    ],
)
def test_casts_that_keep_the_meaning_are_made(values, dtype, expected):
    assert _same(tensors.to_array(values, dtype), expected)


@pytest.mark.parametrize(
    ("values", "dtype", "reason"),
    [
        ([1.5], "int32", "expected int32, given float64"),
        ([1.0], "int64", "expected int64, given float64"),
        (np.zeros(2, np.uint8), "float32", "expected float32, given uint8"),
        ([True], "int32", "expected int32, given bool"),
        ([1], "bool", "expected bool, given int64"),
        ([1j], "float32", "expected float32, given complex128"),
        (["a"], "float32", "expected float32, given string"),
        ([1], "string", r"expected string \(str or bytes\), given int"),
        ([300], "uint8", r"300 does not fit uint8 \[0, 255\]"),
        ([-1], "uint64", "-1 does not fit uint64"),
        ([1, 2**64], "uint64", "18446744073709551616 does not fit uint64"),
        ([0, 2**63], "int64", "9223372036854775808 does not fit int64"),
        ([1.0, 2**64 - 1], "uint64", "expected uint64, given float64"),
        ([-9], "int4", "-9 does not fit int4"),
        ([1e40], "float32", "too large for float32"),
        ([[1], [1, 2]], "int32", "not an array"),
        ([None], "float32", "expected float32, given NoneType"),
        ([1], "float33", "unknown dtype 'float33'"),
        (np.zeros(1, "datetime64[s]"), None, "has no TensorFlow type"),
    ],
)
def test_casts_that_would_change_the_meaning_are_refused(values, dtype, reason):
    with pytest.raises(ValueError, match=reason):
        tensors.to_array(values, dtype)
