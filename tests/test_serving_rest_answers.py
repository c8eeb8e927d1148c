"""Bodies of REST answers: upstream's layout and number format, without a server."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving import rest_answers, status


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(2.5), "2.5"),
        (np.float32(3), "3.0"),
        (np.float32(0.2), "0.2"),
        (np.float32(1 / 3), "0.333333343"),
        (np.float32(9e6), "9e+06"),
        (np.float32(999999), "999999.0"),
        (np.float32(0.00003), "3e-05"),
        (np.float32(555557.5), "555557.5"),
        (np.float32(16777216), "16777216.0"),
        (np.float32(3.4028235e38), "3.40282347e+38"),
        (np.float32(-0.0), "-0.0"),
        (np.float32(np.nan), "NaN"),
        (np.float32(np.inf), "Infinity"),
        (np.float64(-np.inf), "-Infinity"),
        (np.float64(0.1), "0.1"),
        (np.float64(1 / 3), "0.33333333333333331"),
        (np.int8(-3), "-3"),
        (np.uint64(2**64 - 1), "18446744073709551615"),
        (np.bool_(True), "true"),
    ],
)
def test_numbers_are_written_as_upstream_writes_them(value, text):
    assert rest_answers.predictions({"y": np.array([value])}) == (
        f'{{\n    "predictions": [{text}\n    ]\n}}'.encode()
    )


def _strings(*values: bytes) -> np.ndarray:
    return np.array(values, object)


@pytest.mark.parametrize(
    ("outputs", "row", "columnar"),
    [
        (
            {"y": np.float32([2.5, 3, 4.5])},
            '{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}',
            '{\n    "outputs": [\n        2.5,\n        3.0,\n        4.5\n    ]\n}',
        ),
        (
            {"y": np.int32([[1, 2], [3, 4]])},
            '{\n    "predictions": [[1, 2], [3, 4]\n    ]\n}',
            '{\n    "outputs": [\n        [\n            1,\n            2\n        ],\n        [\n'
            "            3,\n            4\n        ]\n    ]\n}",
        ),
        (
            {"b": np.float32([1]), "a": np.int64([[2]])},
            '{\n    "predictions": [\n        {\n            "a": [2],\n            "b": 1.0\n        }\n'
            "    ]\n}",
            '{\n    "outputs": {\n        "a": [\n            [\n                2\n            ]\n'
            '        ],\n        "b": [\n            1.0\n        ]\n    }\n}',
        ),
        (
            {"y_bytes": _strings(b"hello", b"\xff")},
            '{\n    "predictions": [{\n            "b64": "aGVsbG8="\n        }, {\n'
            '            "b64": "/w=="\n        }\n    ]\n}',
            '{\n    "outputs": [\n        {\n            "b64": "aGVsbG8="\n        },\n        {\n'
            '            "b64": "/w=="\n        }\n    ]\n}',
        ),
        (
            {"y": _strings(b'"\\/\b\x1f\x7f', "ä\n".encode())},
            '{\n    "predictions": ["\\"\\\\/\\b\\u001F\x7f", "ä\\n"\n    ]\n}',
            '{\n    "outputs": [\n        "\\"\\\\/\\b\\u001F\x7f",\n        "ä\\n"\n    ]\n}',
        ),
        ({"y": np.zeros((0, 3))}, '{\n    "predictions": []\n}', '{\n    "outputs": []\n}'),
        (
            {"y": np.zeros((2, 0))},
            '{\n    "predictions": [[], []\n    ]\n}',
            '{\n    "outputs": [\n        [],\n        []\n    ]\n}',
        ),
    ],
)
def test_the_layout_is_upstream_s(outputs, row, columnar):
    assert rest_answers.predictions(outputs).decode() == row
    assert rest_answers.outputs(outputs).decode() == columnar


def test_strings_that_are_not_utf8_are_passed_through():
    assert b'["\xff\xfe"\n' in rest_answers.predictions({"y": _strings(b"\xff\xfe")})


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({}, "Cannot convert empty tensor map to JSON"),
        ({"y": np.float32(1)}, "Tensor name: y has no shape information "),
        (
            {"x": np.zeros(2), "y": np.zeros(3)},
            "Tensor name: y has inconsistent batch size: 3 expecting: 2",
        ),
        ({"y": np.zeros(1, np.complex64)}, "Failed to write JSON value for tensor type: complex64"),
        ({"y": np.zeros(1, np.float16)}, "Failed to write JSON value for tensor type: half"),
    ],
)
def test_outputs_without_a_form_in_rows_are_refused(outputs, text):
    with pytest.raises(status.Error) as raised:
        rest_answers.predictions(outputs)
    assert status.text(raised.value) == f"INVALID_ARGUMENT: {text}"


def test_a_scalar_is_an_answer_in_columns():
    assert rest_answers.outputs({"y": np.float32(1)}) == b'{\n    "outputs": 1.0\n}'


def test_large_arrays_come_back_as_they_were():
    values = np.random.default_rng(0).normal(size=(200, 500)).astype(np.float32)
    for text, key in ((rest_answers.predictions, "predictions"), (rest_answers.outputs, "outputs")):
        written = json.loads(text({"y": values}))[key]
        np.testing.assert_array_equal(np.array(written, np.float32), values)


def test_classifications_and_regressions():
    classes = classification_pb2.ClassificationResult()
    for score in (0.2, 1):
        classes.classifications.add().classes.add(label='c"r', score=score)
    classes.classifications[0].classes.add(score=0.7)
    assert rest_answers.classifications(classes).decode() == (
        '{\n    "results": [[["c\\"r", 0.2], ["", 0.7]], [["c\\"r", 1.0]]\n    ]\n}'
    )
    numbers = regression_pb2.RegressionResult()
    for value in (0.2, 42):
        numbers.regressions.add(value=value)
    assert rest_answers.regressions(numbers).decode() == '{\n    "results": [0.2, 42.0]\n}'
