"""TensorProto to and from numpy, by TensorFlow's C++ rules and without TensorFlow.

    proto = to_proto([[1.0, 2.0]], "float32")     # -> TensorProto, dtype DT_FLOAT, shape [1, 2]
    array = from_proto(proto)                     # -> np.ndarray float32 [1, 2]

The functions know a TensorProto by its bytes or by its fields' names, so they take TensorFlow's own as
well as `atelier.wire`'s: the server decodes requests with them too.

Types: bool, (u)int8..64, float16/32/64, complex64/128 and strings; with `ml_dtypes` installed also
bfloat16, float8_*, float4_*, (u)int2 and (u)int4. Strings are arrays of dtype object that hold
`bytes`. Quantized types, resources and variants have no numpy type: ValueError.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from serving import wire
from serving.wire import length_delimited

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from serving import wire_pb2

__all__ = [
    "content_pieces",
    "from_content",
    "from_proto",
    "from_wire",
    "length_delimited",
    "to_array",
    "to_content_wire",
    "to_proto",
    "to_values_wire",
    "type_name",
    "write_proto",
]


class _Type(NamedTuple):
    enum: int
    name: str
    dtype: np.dtype[Any]
    kind: str  # "bool", "int", "float", "complex" or "string": what a cast must keep
    field: str  # the *_val field that holds the values when tensor_content does not


# tensorflow.DataType's number, its name, and the kind and field of its values. As in wire.proto, whose
# generated code costs an import of protobuf that most calls do without.
_TYPES = [
    _Type(enum, name, np.dtype(object if name == "string" else name), kind, field)
    for enum, name, kind, field in (
        (10, "bool", "bool", "bool_val"),
        (6, "int8", "int", "int_val"),
        (5, "int16", "int", "int_val"),
        (3, "int32", "int", "int_val"),
        (9, "int64", "int", "int64_val"),
        (4, "uint8", "int", "int_val"),
        (17, "uint16", "int", "int_val"),
        (22, "uint32", "int", "uint32_val"),
        (23, "uint64", "int", "uint64_val"),
        (19, "float16", "float", "half_val"),
        (1, "float32", "float", "float_val"),
        (2, "float64", "float", "double_val"),
        (8, "complex64", "complex", "scomplex_val"),
        (18, "complex128", "complex", "dcomplex_val"),
        (7, "string", "string", "string_val"),
    )
]
_BY_ENUM = {row.enum: row for row in _TYPES}
_BY_NAME = {row.name: row for row in _TYPES}
_BY_DTYPE = {row.dtype: row for row in _TYPES}

# The types of ml_dtypes, which is imported when the first one is met: megabytes that most models never need.
_SMALL = {
    "bfloat16": (14, "float", "half_val"),
    "float8_e5m2": (24, "float", "float8_val"),
    "float8_e4m3fn": (25, "float", "float8_val"),
    "float8_e4m3fnuz": (26, "float", "float8_val"),
    "float8_e4m3b11fnuz": (27, "float", "float8_val"),
    "float8_e5m2fnuz": (28, "float", "float8_val"),
    "float4_e2m1fn": (33, "float", "float8_val"),
    "int4": (29, "int", "int_val"),
    "uint4": (30, "int", "int_val"),
    "int2": (31, "int", "int_val"),
    "uint2": (32, "int", "int_val"),
}
_SMALL_NAMES = {enum: name for name, (enum, _, _) in _SMALL.items()}

# TensorProto's fields.
_DTYPE, _SHAPE, _CONTENT, _STRINGS = 1, 2, 4, 8
_PACKED = {
    "float_val": 5,
    "double_val": 6,
    "int_val": 7,
    "scomplex_val": 9,
    "int64_val": 10,
    "bool_val": 11,
    "dcomplex_val": 12,
    "half_val": 13,
    "uint32_val": 16,
    "uint64_val": 17,
    "float8_val": 18,
}
_SPANS = {_CONTENT, *_PACKED.values()}
# The packed fields whose bytes on the wire are the array's own.
_RAW_FIELDS = {"float_val", "double_val", "scomplex_val", "dcomplex_val", "float8_val"}

# A few bytes can declare a tensor of any size (values are repeated to fill the shape), so what is
# filled is limited to what a message can hold when written in full.
_MAX_FILLED_BYTES = 2**31 - 1


def type_name(enum: int) -> str:
    """Name of a tensorflow.DataType: 1 -> "float32", 7 -> "string", 20 -> "DT_RESOURCE"."""
    if enum in _BY_ENUM:
        return _BY_ENUM[enum].name
    if enum in _SMALL_NAMES:
        return _SMALL_NAMES[enum]
    from serving import wire_pb2

    try:
        return wire_pb2.DataType.Name(enum)  # type: ignore[arg-type]  # any int: that is the question
    except ValueError:
        return f"DataType({enum})"


def _small_type(name: str) -> _Type:
    """Row of one of ml_dtypes' types; in the tables from then on."""
    try:
        import ml_dtypes

        dtype = np.dtype(getattr(ml_dtypes, name))
    except ImportError:
        raise ValueError(f"{name} arrays need ml_dtypes: pip install ml_dtypes") from None
    except AttributeError:
        raise ValueError(f"{name} arrays need a newer ml_dtypes: pip install -U ml_dtypes") from None
    enum, kind, field = _SMALL[name]
    row = _Type(enum, name, dtype, kind, field)
    _BY_ENUM[enum] = _BY_NAME[name] = _BY_DTYPE[dtype] = row
    return row


def _type_of(dtype: str | int | np.dtype[Any] | type) -> _Type:
    """Row for a name ("float32", "string"), a DataType number or a numpy dtype."""
    if isinstance(dtype, int):
        if dtype in _BY_ENUM:
            return _BY_ENUM[dtype]
        if dtype in _SMALL_NAMES:
            return _small_type(_SMALL_NAMES[dtype])
        raise ValueError(f"{type_name(dtype)} has no numpy type")
    if isinstance(dtype, str):
        if dtype in _BY_NAME:
            return _BY_NAME[dtype]
        if dtype in _SMALL:
            return _small_type(dtype)
    try:
        native = np.dtype(dtype).newbyteorder("=")
    except TypeError:
        known = ", ".join((*(row.name for row in _TYPES), *_SMALL))
        raise ValueError(f"unknown dtype {dtype!r}; known: {known}") from None
    if native.kind in "SUT":
        return _BY_NAME["string"]
    if native in _BY_DTYPE:
        return _BY_DTYPE[native]
    if native.name in _SMALL:
        return _small_type(native.name)
    raise ValueError(f"dtype {native} has no TensorFlow type")


# --- numpy to TensorProto ------------------------------------------------------------------------


def to_array(
    values: ArrayLike, dtype: str | int | np.dtype[Any] | type | None = None
) -> np.ndarray:
    """`values` as an array of a TensorFlow type, cast to `dtype` if that loses no meaning.

    Args:
      values: array, scalar, (nested) sequence of numbers, bools, str or bytes. str becomes UTF-8.
      dtype: name, DataType number or numpy dtype; None keeps what numpy makes of `values`.
    Returns:
      The array; strings have dtype object and hold bytes. No copy where none is needed.
    Raises:
      ValueError: ragged values; a kind that does not fit (floats for int32, bytes for float32, an
        integer *array* for float32: scaling is the caller's decision, while Python's ints are just
        numbers); integers out of range; floats that would overflow to infinity.
    """
    wanted = None if dtype is None else _type_of(dtype)
    if wanted is not None and wanted.kind == "string":
        return _string_array(values)
    if wanted is not None and type(values) is np.ndarray and values.dtype is wanted.dtype:
        return values
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"not an array of numbers or strings: {error}") from None
    # Arrays of other libraries (torch, jax) state their type as numpy's do.
    is_array = hasattr(values, "__array__")
    if wanted is not None and wanted.kind == "int" and array.dtype.kind in "fO" and not is_array:
        # What numpy makes of Python's whole numbers when some are past int64.
        exact = np.array(values, dtype=object)
        if exact.size and all(type(value) is int for value in exact.flat):
            _check_range(exact, wanted)
            return exact.astype(wanted.dtype)
    if array.dtype.kind in "SUTO":
        if wanted is not None:
            raise ValueError(f"expected {wanted.name}, given {_describe(array)}")
        return _string_array(values)
    given = _type_of(array.dtype)
    if wanted is None:
        return array.astype(given.dtype, copy=False)
    if given.kind != wanted.kind and not _changes_kind_freely(array, is_array, given, wanted):
        raise ValueError(f"expected {wanted.name}, given {given.name}")
    if given is wanted:
        return array.astype(wanted.dtype, copy=False)
    if wanted.kind == "int" and array.size:
        _check_range(array, wanted)
    try:
        with np.errstate(over="raise", invalid="raise"):
            return array.astype(wanted.dtype)
    except FloatingPointError:
        raise ValueError(f"a value of {given.name} is too large for {wanted.name}") from None


def _check_range(array: np.ndarray, wanted: _Type) -> None:
    least, most = _limits(wanted)
    low, high = int(array.min()), int(array.max())
    if low < least or high > most:
        bad = low if low < least else high
        raise ValueError(f"{bad} does not fit {wanted.name} [{least}, {most}]")


@functools.cache
def _limits(row: _Type) -> tuple[int, int]:
    if row.dtype.kind in "iu":
        return int(np.iinfo(row.dtype).min), int(np.iinfo(row.dtype).max)
    import ml_dtypes

    return int(ml_dtypes.iinfo(row.dtype).min), int(ml_dtypes.iinfo(row.dtype).max)


def _changes_kind_freely(array: np.ndarray, is_array: bool, given: _Type, wanted: _Type) -> bool:
    """Whether `array` came from Python numbers that may become the wanted, wider kind."""
    if is_array:
        return False
    if not array.size:  # numpy calls an empty list float64
        return True
    widening = ("int", "float", "complex")
    python_number = array.dtype in (np.int64, np.float64, np.complex128)
    return (
        python_number
        and wanted.kind in widening
        and widening.index(given.kind) < widening.index(wanted.kind)
    )


def _describe(array: np.ndarray) -> str:
    """Type of the first element of an array of objects, in words."""
    if array.dtype.kind != "O":
        return "string"
    first = array.flat[0] if array.size else None
    return "string" if isinstance(first, (str, bytes)) else type(first).__name__


def _string_array(values: ArrayLike) -> np.ndarray:
    # Through object, not numpy's own string types: these drop trailing NUL bytes.
    array = values if isinstance(values, np.ndarray) else np.array(values, dtype=object)
    encoded = np.empty(array.size, dtype=object)
    for index, value in enumerate(array.ravel().tolist()):
        if isinstance(value, str):
            try:
                encoded[index] = value.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{value!r} is not UTF-8: give bytes") from None
        elif isinstance(value, bytes):
            encoded[index] = value
        else:
            raise ValueError(f"expected string (str or bytes), given {type(value).__name__}")
    return encoded.reshape(array.shape)


def to_proto(
    values: ArrayLike, dtype: str | int | np.dtype[Any] | type | None = None
) -> wire_pb2.TensorProto:
    """TensorProto of an array or of anything numpy makes one of; see `to_array` for casts.

    Numbers travel as `tensor_content` (one copy), strings as `string_val`.

    Raises:
      ValueError: as `to_array`; also a dtype that TensorFlow has no type for.
    """
    from serving import wire_pb2

    proto = wire_pb2.TensorProto()
    write_proto(to_array(values, dtype), proto)
    return proto


def write_proto(array: np.ndarray, proto: wire_pb2.TensorProto) -> None:
    """Fills an empty TensorProto, one inside a request say, with an array from `to_array`."""
    row = _BY_DTYPE.get(array.dtype) or _type_of(array.dtype)
    proto.dtype = row.enum  # type: ignore[assignment]  # mypy wants the enum
    proto.tensor_shape.SetInParent()  # a scalar's shape has no dims, but is there
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if row.kind == "string":
        proto.string_val.extend(array.ravel().tolist())
    else:
        proto.tensor_content = array.tobytes()


def content_pieces(array: np.ndarray) -> list[bytes | memoryview]:
    """A serialized TensorProto in pieces, for one `b"".join` of a whole request.

    The numbers of a large array are a view of its memory: the join is the only copy.

    Args:
      array: from `to_array`.
    """
    row = _BY_DTYPE.get(array.dtype) or _type_of(array.dtype)
    if row.kind == "string":
        pieces: list[bytes | memoryview] = [_header(row.enum, array.shape, _STRINGS, 0)]
        for text in array.ravel().tolist():
            pieces += (wire.prefix(_STRINGS, len(text)), text)
        return pieces
    size = array.nbytes
    header = _header(row.enum, array.shape, _CONTENT, size)
    if size < 4096 or not array.flags.c_contiguous:
        return [header, array.tobytes()]
    return [header, array.reshape(-1).view(np.uint8).data]


@functools.lru_cache(1024)
def _header(enum: int, shape: tuple[int, ...], field: int, size: int) -> bytes:
    """The fields dtype and tensor_shape, and what precedes so many bytes of the values' field, if any.

    protobuf writes no zeros: a size of 0 is an empty Dim.
    """
    dims = (b"\x08" + wire.varint(size) if size else b"" for size in shape)
    sizes = b"".join(length_delimited(2, dim) for dim in dims)
    fields = b"\x08" + wire.varint(enum) + length_delimited(_SHAPE, sizes)
    return fields + wire.prefix(field, size) if size else fields


def to_content_wire(array: np.ndarray) -> bytes:
    """A serialized TensorProto with the numbers in `tensor_content`, strings in `string_val`.

    Raises:
      ValueError: a dtype that TensorFlow has no type for.
    """
    return b"".join(content_pieces(to_array(array)))


def to_values_wire(array: np.ndarray) -> bytes:
    """A serialized TensorProto with the values in `*_val`, as TensorFlow Serving answers.

    For the server, which puts it into an answer as it is; the bytes of float, double, complex, float8 and
    bool tensors are copied, not printed.

    Raises:
      ValueError: a dtype that TensorFlow has no type for.
    """
    row = _BY_DTYPE.get(array.dtype) if type(array) is np.ndarray else None
    if row is None or row.kind == "string":
        array = to_array(array)
        row = _BY_DTYPE.get(array.dtype) or _type_of(array.dtype)
    # A bool is its own varint.
    if row.field in _RAW_FIELDS or row.kind == "bool":
        return _header(row.enum, array.shape, _PACKED[row.field], array.nbytes) + array.tobytes()
    header = _header(row.enum, array.shape, _STRINGS, 0)
    if not array.size:
        return header
    from serving import wire_pb2

    proto = wire_pb2.TensorProto()
    if row.field == "half_val":
        proto.half_val.extend(array.view(np.uint16).ravel().tolist())
    else:
        values = array if row.dtype.kind in "iuO" else array.astype(np.int32)
        getattr(proto, row.field).extend(values.ravel().tolist())
    return header + proto.SerializeToString()


# --- TensorProto to numpy ------------------------------------------------------------------------


def from_proto(proto: Any) -> np.ndarray:
    """The array a TensorProto (ours or TensorFlow's) stands for; see `from_wire`."""
    return from_wire(proto.SerializeToString())


def from_content(proto: Any) -> np.ndarray | None:
    """What `from_proto` returns for a TensorProto whose numbers are all in `tensor_content`, sooner.

    None: it is another, or wrong.
    """
    content, row = proto.tensor_content, _BY_ENUM.get(proto.dtype)
    if not content or row is None or row.kind == "string":
        return None
    try:
        shape = _shape(proto.tensor_shape.SerializeToString())
    except ValueError:
        return None
    if len(content) != math.prod(shape) * row.dtype.itemsize:
        return None
    return np.frombuffer(content, row.dtype).reshape(shape)


def from_wire(message: bytes, start: int = 0, stop: int | None = None) -> np.ndarray:
    """The array a serialized TensorProto stands for, by the rules of Tensor::FromProto.

    `tensor_content` must have exactly the shape's size. Typed `*_val` fields may be shorter than
    the shape: the last value is repeated, none at all means zeros (empty strings); surplus values
    are dropped.

    Args:
      message: bytes that hold it from `start` to `stop`.
    Returns:
      The array: read-only where it shares memory with `message` (`tensor_content`, float, double, complex,
      float8 and bool values), otherwise writable; copy it to be sure.
    Raises:
      ValueError: types without a numpy type; unknown or negative sizes; tensor_content of the wrong
        length or for strings; a fill larger than a message could hold (2 GiB); no TensorProto at all.
    """
    stop = len(message) if stop is None else stop
    enum = 0
    shape: tuple[int, ...] | None = None
    spans: dict[int, tuple[int, int]] = {}  # of tensor_content and the packed values
    strings: list[bytes] = []
    for number, kind, first, last in wire.fields(message, start, stop):
        if kind == wire.LENGTH_DELIMITED and number == _STRINGS:
            strings.append(message[first:last])
        elif kind == wire.LENGTH_DELIMITED and number == _SHAPE and shape is None:
            shape = _shape(message[first:last])
        elif kind == wire.LENGTH_DELIMITED and number in _SPANS and number not in spans:
            spans[number] = (first, last)
        elif kind == wire.VARINT and number == _DTYPE:
            enum = first
        elif number in _SPANS or number in (_DTYPE, _SHAPE, _STRINGS):
            # Values one by one or in several runs, a shape in two parts: allowed, and nobody writes it.
            return from_wire(_gathered(message[start:stop]))
    row = _type_of(enum)
    shape = shape or ()
    count = math.prod(shape)
    if _CONTENT in spans and spans[_CONTENT][0] < spans[_CONTENT][1]:
        first, last = spans[_CONTENT]
        if row.kind == "string":
            raise ValueError("tensor_content holds no strings: use string_val")
        if last - first != count * row.dtype.itemsize:
            raise ValueError(
                f"tensor_content has {last - first} bytes, shape {list(shape)} of {row.name} "
                f"needs {count * row.dtype.itemsize}"
            )
        return np.frombuffer(message, row.dtype, count, first).reshape(shape)
    if row.kind == "string":
        values = np.empty(len(strings), dtype=object)
        values[:] = strings
    else:
        values = _packed(message, *spans.get(_PACKED[row.field], (0, 0)), row)
    if len(values) < count:
        if count * row.dtype.itemsize > _MAX_FILLED_BYTES:
            raise ValueError(f"shape {list(shape)} is too large to fill with {len(values)} values")
        rest = values[-1] if len(values) else (b"" if row.kind == "string" else 0)
        filled = np.full(count, rest, row.dtype)
        filled[: len(values)] = values
        values = filled
    return values[:count].reshape(shape)


def _gathered(tensor: bytes) -> bytes:
    """The same TensorProto as protobuf itself writes it: each field once, in one run."""
    from google.protobuf.message import DecodeError

    from serving import wire_pb2

    try:
        proto = wire_pb2.TensorProto.FromString(tensor)
    except DecodeError as error:
        raise ValueError(f"no TensorProto: {error}") from None
    proto.DiscardUnknownFields()
    return proto.SerializeToString()


@functools.lru_cache(1024)  # answers of one signature repeat the shapes of a few batch sizes
def _shape(message: bytes) -> tuple[int, ...]:
    """The sizes in a serialized TensorShapeProto."""
    sizes = []
    for number, kind, first, last in wire.fields(message, 0, len(message)):
        if number == 2 and kind == wire.LENGTH_DELIMITED:
            size = 0
            for part, part_kind, value, _ in wire.fields(message, first, last):
                if part == 1 and part_kind == wire.VARINT:
                    size = wire.signed(value)
            sizes.append(size)
        elif number == 3 and kind == wire.VARINT and first:
            raise ValueError("a tensor's shape must be fully known, given unknown rank")
    if any(size < 0 for size in sizes):
        raise ValueError(f"a tensor's sizes must not be negative, given {sizes}")
    return tuple(sizes)


def _packed(message: bytes, start: int, stop: int, row: _Type) -> np.ndarray:
    """The values of a packed `*_val` field, as one dimension."""
    if row.field in _RAW_FIELDS:
        count, rest = divmod(stop - start, row.dtype.itemsize)
        if rest:
            raise ValueError(f"{row.field} has {stop - start} bytes, no multiple of {row.dtype.itemsize}")
        return np.frombuffer(message, row.dtype, count, start)
    raw = np.frombuffer(message, np.uint8, stop - start, start)
    if row.kind == "bool" and raw.max(initial=0) <= 1:
        return raw.view(bool)
    numbers = _varints(raw)
    if row.field == "half_val":
        return numbers.astype(np.uint16).view(row.dtype)
    # Small integers come as int32 and wrap, as in C++.
    wide = numbers.astype(np.int32) if row.field == "int_val" else numbers
    return wide.astype(row.dtype, copy=False)


def _varints(raw: np.ndarray) -> np.ndarray:
    """The uint64 numbers of consecutive varints, without a Python number for each."""
    ends = np.flatnonzero(raw < 0x80)
    if len(ends) == len(raw):
        return raw.astype(np.uint64)
    if not len(ends) or ends[-1] != len(raw) - 1:
        raise ValueError("a number without an end")
    starts = np.concatenate(([0], ends[:-1] + 1))
    numbers = (raw[starts] & 0x7F).astype(np.uint64)
    longer = np.flatnonzero(raw[starts] > 0x7F)  # the numbers that have a next byte
    for place in range(1, 10):
        if not len(longer):
            return numbers
        digits = raw[starts[longer] + place]
        numbers[longer] |= (digits & 0x7F).astype(np.uint64) << np.uint64(7 * place)
        longer = longer[digits > 0x7F]
    if len(longer):
        raise ValueError("a number without an end")
    return numbers
