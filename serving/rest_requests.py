"""Bodies of the REST API's requests: JSON to arrays and tf.Examples, as upstream's json_tensor.cc has it.

Numbers in bulk go through numpy: lists that are what they should be are converted level by level, and only
those that are not are walked value by value, for upstream's exact words.
"""

from __future__ import annotations

import binascii
import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from serving import rest_json, status

_Inputs = Mapping[str, meta_graph_pb2.TensorInfo]

_MAX_RANK = 32  # of a numpy array, in any version

# --- Predict requests ----------------------------------------------------------------------------


@dataclass(frozen=True)
class PredictRequest:
    """A body of `:predict`, parsed; its tensors wait for the signature."""

    body: bytes
    document: dict[str, Any]
    signature_name: str  # "" = the default

    @property
    def row_format(self) -> bool:
        return "instances" in self.document

    def inputs(self, infos: _Inputs) -> dict[str, np.ndarray]:
        """The tensors for a signature's inputs.

        Raises:
          status.Error: INVALID_ARGUMENT; UNIMPLEMENTED for types that JSON cannot carry.
        """
        if not infos:
            name = self.signature_name or "DEFAULT"
            raise status.invalid_argument(f"Failed to get input map for signature: {name}")
        with _numbers_of_doubles(self.body):
            arrays = self._arrays(infos)
        if b"Inf" not in self.body and any(map(_has_infinity, arrays.values())):
            rest_json.check(self.body)  # rapidjson refuses 1e999, which Python reads as infinity
        return arrays

    def _arrays(self, infos: _Inputs) -> dict[str, np.ndarray]:
        document = self.document
        if "instances" not in document:
            if "inputs" not in document:
                raise status.invalid_argument("Missing 'inputs' or 'instances' key")
            return _columns(document["inputs"], infos)
        if "inputs" in document:
            raise rest_json.format_error(
                document,
                "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
            )
        instances = document["instances"]
        if not isinstance(instances, list):
            raise rest_json.format_error(document, "Expecting 'instances' to be an list/array")
        if not instances:
            raise rest_json.format_error(document, "No values in 'instances' array")
        return _rows(instances, infos)


def predict_request(body: bytes) -> PredictRequest:
    """
    Raises:
      status.Error: INVALID_ARGUMENT, not JSON or no object.
    """
    document = rest_json.parse(body)
    with _numbers_of_doubles(body):
        return PredictRequest(body, document, _signature_name(document))


@contextlib.contextmanager
def _numbers_of_doubles(body: bytes) -> Iterator[None]:
    """Python has integers too big for a double, which make rapidjson refuse the document."""
    try:
        yield
    except OverflowError:
        rest_json.check(body)
        raise


def _has_infinity(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" and bool(np.isinf(array).any())


def _signature_name(document: dict[str, Any]) -> str:
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise rest_json.format_error(
            document, "not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def _columns(value: Any, infos: _Inputs) -> dict[str, np.ndarray]:
    if not isinstance(value, dict) or _is_base64(value):
        if len(infos) > 1:
            raise status.invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required "
                "as per tensorinfo_map"
            )
        return {name: _tensor(value, info.dtype) for name, info in infos.items()}
    arrays = {}
    for name in sorted(infos):
        if name not in value:
            raise status.invalid_argument(f"Missing named input: {name} in 'inputs' object.")
        arrays[name] = _tensor(value[name], infos[name].dtype)
    return arrays


def _rows(instances: list[Any], infos: _Inputs) -> dict[str, np.ndarray]:
    first = instances[0]
    if not isinstance(first, dict) and len(infos) > 1:
        raise status.invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as "
            "per tensorinfo_map"
        )
    if isinstance(first, dict) and not _is_base64(first):
        return _rows_of_objects(instances, infos)
    name = min(infos)
    array = _bulk(instances, infos[name].dtype)
    if array is None:
        column = _Column(name, infos)
        for number, element in enumerate(instances):
            if isinstance(element, dict) and not _is_base64(element):
                raise status.invalid_argument(
                    f"Expecting value/list but got object at item {number} of input list"
                )
            with _in_element(f"element: {number} of"):
                column.add(element)
        array = column.array()
    return {name: array}


def _rows_of_objects(instances: list[Any], infos: _Inputs) -> dict[str, np.ndarray]:
    names = infos.keys()
    if all(type(element) is dict and element.keys() == names for element in instances):
        arrays = {name: _bulk([row[name] for row in instances], infos[name].dtype) for name in names}
        done = {name: array for name, array in arrays.items() if array is not None}
        if len(done) == len(arrays):
            return done
    columns: dict[str, _Column] = {}
    for number, element in enumerate(instances):
        if not isinstance(element, dict) or _is_base64(element):
            raise status.invalid_argument(f"Expecting object but got list at item {number} of input list")
        for name, value in element.items():
            with _in_element(f"element: {number} key: {name} of"):
                if name not in columns:
                    columns[name] = _Column(name, infos)
                columns[name].add(value)
        if element.keys() != names:
            raise status.invalid_argument(
                f"Failed to process element: {number} of 'instances' list. JSON object: "
                f"{rest_json.quoted(element)} keys must be equal to: {','.join(sorted(names))}"
            )
    return {name: column.array() for name, column in columns.items()}


@contextlib.contextmanager
def _in_element(where: str) -> Iterator[None]:
    try:
        yield
    except status.Error as error:
        raise status.invalid_argument(
            f"Failed to process {where} 'instances' list. Error: {status.text(error)}"
        ) from None


class _Column:
    """One input of a request in row format, put together value by value."""

    def __init__(self, name: str, infos: _Inputs) -> None:
        if name not in infos:
            raise status.invalid_argument(f"JSON object: does not have named input: {name}")
        self._dtype = infos[name].dtype
        self._flat: list[Any] = []
        self._shape: list[int] | None = None
        self._size = 0
        self._rows = 0

    def add(self, value: Any) -> None:
        shape = _shape(value)
        before = len(self._flat)
        _walk(value, 0, shape, self._dtype, self._flat)
        size = len(self._flat) - before
        if self._shape is None:
            self._shape, self._size = shape, size
        elif size != self._size:
            raise status.invalid_argument(f"Expecting tensor size: {self._size} but got: {size}")
        elif shape != self._shape:
            raise status.invalid_argument(
                f"Expecting shape {_shape_text(self._shape)} but got: {_shape_text(shape)}"
            )
        self._rows += 1

    def array(self) -> np.ndarray:
        assert self._shape is not None
        return _array(self._flat, self._dtype, [self._rows, *self._shape])


def _shape_text(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


# --- One tensor ----------------------------------------------------------------------------------


# What integers each type takes. Those below int32 take any int32, which then wraps, as upstream.
_INT32 = (-(2**31), 2**31 - 1)
_INTEGERS = {
    types_pb2.DT_INT8: _INT32,
    types_pb2.DT_UINT8: _INT32,
    types_pb2.DT_INT16: _INT32,
    types_pb2.DT_INT32: _INT32,
    types_pb2.DT_INT64: rest_json.INT64,
    types_pb2.DT_UINT32: (0, 2**32 - 1),
    types_pb2.DT_UINT64: (0, rest_json.UINT64_END - 1),
}
_FLOATS = (types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE)


def _tensor(value: Any, dtype: int) -> np.ndarray:
    array = _bulk(value, dtype)
    if array is not None:
        return array
    flat: list[Any] = []
    shape = _shape(value)
    _walk(value, 0, shape, dtype, flat)
    return _array(flat, dtype, shape)


def _shape(value: Any) -> list[int]:
    """By the first element of each level."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) >= _MAX_RANK:
            raise status.invalid_argument(f"JSON lists are nested more than {_MAX_RANK - 1} levels deep")
        if not value:
            break
        value = value[0]
    return shape


def _bulk(value: Any, dtype: int) -> np.ndarray | None:
    """The array, if every list and value is as it should be; None says nothing about why not."""
    if not isinstance(value, list):
        return None
    shape = [len(value)]
    level = value
    while level and type(level[0]) is list:
        sizes = set(map(len, level)) if set(map(type, level)) == {list} else ()
        if len(sizes) != 1 or len(shape) >= _MAX_RANK - 1:
            return None
        shape += sizes
        level = list(itertools.chain.from_iterable(level))
    kinds = set(map(type, level))
    if dtype in _FLOATS:
        good = kinds <= {int, float}
    elif dtype in _INTEGERS:
        low, high = _INTEGERS[dtype]
        good = kinds <= {int} and (not level or (min(level) >= low and max(level) <= high))
    elif dtype == types_pb2.DT_BOOL:
        good = kinds <= {bool}
    else:
        good = False
        if dtype == types_pb2.DT_STRING and kinds <= {str}:
            good, level = True, list(map(rest_json.utf8, level))
    return _array(level, dtype, shape) if good else None


def _array(flat: list[Any], dtype: int, shape: Sequence[int]) -> np.ndarray:
    """Values that were checked, as an array."""
    native = tf.dtypes.as_dtype(dtype).as_numpy_dtype
    if dtype == types_pb2.DT_STRING:
        array = np.empty(len(flat), object)
        array[:] = flat
    elif dtype in _FLOATS:
        wide = np.array(flat, np.float64)
        with np.errstate(over="ignore"):
            array = wide.astype(native)
    elif dtype in _INTEGERS and _INTEGERS[dtype] == _INT32:
        array = np.array(flat, np.int32).astype(native)
    else:
        array = np.array(flat, native)
    return array.reshape(shape)


def _walk(value: Any, level: int, shape: Sequence[int], dtype: int, flat: list[Any]) -> None:
    """Adds the values of a tensor to `flat`, with upstream's words for the first that does not fit."""
    if isinstance(value, list):
        if level >= len(shape):
            raise status.invalid_argument(
                f"Encountered list at unexpected level: {level} expected < {len(shape)}"
            )
        if len(value) != shape[level]:
            raise status.invalid_argument(
                f"Encountered list at unexpected size: {len(value)} at level: {level} "
                f"expected size: {shape[level]}"
            )
        for element in value:
            _walk(element, level + 1, shape, dtype, flat)
    elif level != len(shape):
        raise status.invalid_argument(
            f"JSON Value: {rest_json.quoted(value)} found at incorrect level: {level} in the JSON DOM. "
            f"Expected at level: {len(shape)}"
        )
    elif isinstance(value, dict) and dtype == types_pb2.DT_STRING:
        if not _is_base64(value):
            raise rest_json.format_error(value, "not formatted correctly for base64 data")
        flat.append(_unbase64(value["b64"]))
    else:
        flat.append(_scalar(value, dtype))


def _scalar(value: Any, dtype: int) -> Any:
    if isinstance(value, dict):
        good = False
    elif dtype in _FLOATS:
        good = isinstance(value, int | float) and not isinstance(value, bool)
    elif dtype in _INTEGERS:
        low, high = _INTEGERS[dtype]
        good = rest_json.is_integer(value) and low <= value <= high
    elif dtype == types_pb2.DT_BOOL:
        good = isinstance(value, bool)
    elif dtype == types_pb2.DT_STRING:
        good = isinstance(value, str)
    else:
        raise status.unimplemented(
            f"Conversion of JSON Value: {rest_json.quoted(value)} to type: {rest_json.data_type_name(dtype)}"
        )
    if not good:
        raise rest_json.format_error(
            value,
            f"Type: {rest_json.type_name(value)} is not of expected type: {rest_json.data_type_name(dtype)}",
        )
    return rest_json.utf8(value) if isinstance(value, str) else value


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _unbase64(text: str) -> bytes:
    """Standard base64; spaces between and a missing padding are fine."""
    try:
        packed = text.encode("ascii").translate(None, b" \t\n\v\f\r")
        if len(packed) % 4 and not packed.endswith(b"="):
            packed += b"=" * (-len(packed) % 4)
        return binascii.a2b_base64(packed, strict_mode=True)
    except ValueError:
        raise status.invalid_argument("Unable to base64 decode") from None


# --- Classify and regress requests ---------------------------------------------------------------


@dataclass(frozen=True)
class ExamplesRequest:
    """A body of `:classify` or `:regress`."""

    signature_name: str  # "" = the default
    examples: list[bytes]  # serialized tf.Examples


def examples_request(body: bytes) -> ExamplesRequest:
    """
    Raises:
      status.Error: INVALID_ARGUMENT, with upstream's text.
    """
    document = rest_json.parse(body)
    with _numbers_of_doubles(body):
        return ExamplesRequest(_signature_name(document), _examples(document))


def _examples(document: dict[str, Any]) -> list[bytes]:
    context = _example(document["context"]) if "context" in document else b""
    if "examples" not in document:
        raise rest_json.format_error(
            document, "When method is classify, key 'examples' is expected and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise rest_json.format_error(document, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise rest_json.format_error(document, "'examples' value is an empty array")
    # Two messages on end are one message merged from both.
    return [context + _example(example) for example in examples]


def _example(value: Any) -> bytes:
    if not isinstance(value, dict):
        raise status.invalid_argument(
            f"Example must be JSON object but got JSON {rest_json.type_name(value)}"
        )
    example = tf.train.Example()
    for name, content in value.items():
        feature = _feature(name, content if isinstance(content, list) else [content])
        example.features.feature[rest_json.utf8(name).decode("utf-8", "replace")].CopyFrom(feature)
    return example.SerializeToString()


def _feature(name: str, values: list[Any]) -> tf.train.Feature:
    kind = ""
    for value in values:
        own = _feature_kind(name, value)
        if kind and own != kind:
            raise status.invalid_argument(
                f"Unexpected element type in feature: {name} expecting type: {kind}"
            )
        if own == "int64" and value > rest_json.INT64[1]:
            raise status.invalid_argument(
                f"Feature: {name} has uint64_t element. Only int64_t is supported."
            )
        kind = own
    feature = tf.train.Feature()
    if kind == "bytes":
        feature.bytes_list.value.extend(
            rest_json.utf8(value) if isinstance(value, str) else _unbase64(value["b64"]) for value in values
        )
    elif kind == "float":
        feature.float_list.value.extend(_array(values, types_pb2.DT_FLOAT, [len(values)]).tolist())
    elif kind == "int64":
        feature.int64_list.value.extend(map(int, values))
    return feature


def _feature_kind(name: str, value: Any) -> str:
    if isinstance(value, str) or _is_base64(value):
        return "bytes"
    if isinstance(value, bool) or rest_json.is_integer(value):
        return "int64"
    if isinstance(value, int | float):
        return "float"
    raise status.invalid_argument(
        f"Feature: {name} has element with unexpected JSON type: {rest_json.type_name(value)}"
    )
