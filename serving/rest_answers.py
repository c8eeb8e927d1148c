"""Bodies of the REST API's answers, in upstream's layout (json_tensor.cc)."""

from __future__ import annotations

import base64
import math
import operator
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving import rest_json, status


def predictions(outputs: Mapping[str, np.ndarray]) -> bytes:
    """The answer to a request in row format.

    Raises:
      status.Error: INVALID_ARGUMENT, outputs that are not one row for each instance, or of a type that
        has no JSON form.
    """
    rows = -1
    for name, array in sorted(outputs.items()):
        if not array.ndim:
            raise status.invalid_argument(f"Tensor name: {name} has no shape information ")
        if rows not in (-1, len(array)):
            raise status.invalid_argument(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {rows}"
            )
        rows = len(array)
    if not rows:
        return b'{\n    "predictions": []\n}'
    depth = 2 if len(outputs) == 1 else 3
    columns = {
        name: _one_line(_texts(name, array, depth + array.ndim - 1), array.shape)
        for name, array in _some(outputs)
    }
    if len(columns) == 1:
        (items,) = columns.values()
        content = b", ".join(items)
    else:
        keys = [b"\n            " + _string(name) + b": " for name in columns]
        content = b",".join(
            b"\n        {" + b",".join(map(operator.add, keys, row)) + b"\n        }"
            for row in zip(*columns.values(), strict=True)
        )
    return b"".join([b'{\n    "predictions": [', content, b"\n    ]\n}"])


def outputs(outputs: Mapping[str, np.ndarray]) -> bytes:
    """The answer to a request in columnar format.

    Raises:
      status.Error: INVALID_ARGUMENT, a type that has no JSON form.
    """
    depth = 1 if len(outputs) == 1 else 2
    columns = {
        name: _many_lines(_texts(name, array, depth + array.ndim), array.shape, depth)
        for name, array in _some(outputs)
    }
    if len(columns) == 1:
        (content,) = columns.values()
    else:
        members = (b"\n        " + _string(name) + b": " + text for name, text in columns.items())
        content = b"".join([b"{", b",".join(members), b"\n    }"])
    return b"".join([b'{\n    "outputs": ', content, b"\n}"])


def _some(outputs: Mapping[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    if not outputs:
        raise status.invalid_argument("Cannot convert empty tensor map to JSON")
    return sorted(outputs.items())


def classifications(result: classification_pb2.ClassificationResult) -> bytes:
    """
    Raises:
      status.Error: INVALID_ARGUMENT, nothing to write.
    """
    if not result.classifications:
        raise status.invalid_argument("Cannot convert empty ClassificationResults to JSON")
    items = []
    for example in result.classifications:
        scores = rest_json.decimals(np.array([entry.score for entry in example.classes], np.float32))
        labels = (rest_json.string(entry.label.encode()) for entry in example.classes)
        pairs = (b"[%b, %b]" % pair for pair in zip(labels, scores, strict=True))
        items.append(b"[%b]" % b", ".join(pairs))
    return b'{\n    "results": [%b\n    ]\n}' % b", ".join(items)


def regressions(result: regression_pb2.RegressionResult) -> bytes:
    """
    Raises:
      status.Error: INVALID_ARGUMENT, nothing to write.
    """
    if not result.regressions:
        raise status.invalid_argument("Cannot convert empty RegressionResults to JSON")
    values = np.array([entry.value for entry in result.regressions], np.float32)
    return b'{\n    "results": [%b]\n}' % b", ".join(rest_json.decimals(values))


def error(message: str) -> bytes:
    return b'{\n    "error": %b\n}' % _string(message)


def _string(text: str) -> bytes:
    return rest_json.string(rest_json.utf8(text))


def _one_line(texts: list[bytes], shape: Sequence[int]) -> list[bytes]:
    """Texts of values -> one for each row, arrays in it on one line."""
    for position in range(len(shape) - 1, 0, -1):
        texts = _joined(texts, shape, position, b"[", b", ", b"]")
    return texts


def _many_lines(texts: list[bytes], shape: Sequence[int], depth: int) -> bytes:
    """Texts of values -> the whole array, each value on a line of its own."""
    for position in range(len(shape) - 1, -1, -1):
        line = b"\n" + b"    " * (depth + position)
        texts = _joined(texts, shape, position, b"[" + line + b"    ", b"," + line + b"    ", line + b"]")
    return texts[0]


def _joined(
    texts: list[bytes], shape: Sequence[int], position: int, before: bytes, between: bytes, after: bytes
) -> list[bytes]:
    size = shape[position]
    if not size:
        return [b"[]"] * math.prod(shape[:position])
    return [
        b"%b%b%b" % (before, between.join(texts[begin : begin + size]), after)
        for begin in range(0, len(texts), size)
    ]


def _texts(name: str, array: np.ndarray, depth: int) -> list[bytes]:
    """One for each value; `depth` is the number of brackets around it."""
    flat = array.ravel()
    if array.dtype in (np.float32, np.float64):
        return rest_json.decimals(flat)
    if array.dtype == np.bool_:
        return [b"true" if value else b"false" for value in flat.tolist()]
    if array.dtype == object:
        if name.endswith("_bytes"):
            line = b"\n" + b"    " * depth
            before, after = b"{" + line + b'    "b64": "', b'"' + line + b"}"
            return [before + base64.b64encode(value) + after for value in flat]
        return list(map(rest_json.string, flat))
    if array.dtype.kind in "iu" and array.dtype.name in _WRITTEN_INTEGERS:
        return [b"%d" % value for value in flat.tolist()]
    enum = tf.dtypes.as_dtype(array.dtype).as_datatype_enum
    raise status.invalid_argument(
        f"Failed to write JSON value for tensor type: {rest_json.data_type_name(enum)}"
    )


_WRITTEN_INTEGERS = {"int8", "uint8", "int16", "int32", "int64", "uint32", "uint64"}
