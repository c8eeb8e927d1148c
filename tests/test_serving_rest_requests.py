"""Bodies of REST requests: upstream's types and error texts, without a server."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from serving import rest_requests, status


def _infos(**types: str) -> dict[str, meta_graph_pb2.TensorInfo]:
    return {
        name: meta_graph_pb2.TensorInfo(dtype=types_pb2.DataType.Value(f"DT_{kind}"))
        for name, kind in types.items()
    }


def _inputs(body: str | bytes, **types: str) -> dict[str, np.ndarray]:
    raw = body.encode() if isinstance(body, str) else body
    return rest_requests.predict_request(raw).inputs(_infos(**types))


def _refusal(body: str | bytes, **types: str) -> str:
    with pytest.raises(status.Error) as raised:
        _inputs(body, **types)
    return status.text(raised.value)


# --- Parsing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "The document is empty"),
        (b" \n", "The document is empty. at offset: 2"),
        (b"instances = [1, 2]", "Invalid value. at offset: 0"),
        (b"\xff\xfe", "Invalid value. at offset: 0"),
        (b"{x: 1}", "Missing a name for object member. at offset: 1"),
        (b'{"a": 1,}', "Missing a name for object member. at offset: 8"),
        (b'{"a" 1}', "Missing a colon after a name of object member. at offset: 5"),
        (b'{"a": 1 "b": 2}', "Missing a comma or '}' after an object member. at offset: 8"),
        (b'{"a": [1 2]}', "Missing a comma or ']' after an array element. at offset: 9"),
        (b'{"a": [1, 2.5, 3, x]}', "Invalid value. at offset: 18"),
        (b'{"a": [1', "Missing a comma or ']' after an array element. at offset: 8"),
        (b'{"abc', "Missing a closing quotation mark in string. at offset: 5"),
        (b'{"a\\x": 1}', "Invalid escape character in string. at offset: 3"),
        (b'{"a\nb": 1}', "Invalid escape character in string. at offset: 3"),
        (b'{"a\\u12g4": 1}', "Incorrect hex digit after \\u escape in string. at offset: 3"),
        (b'{"a\\ud800b": 1}', "The surrogate pair in string is invalid. at offset: 3"),
        (b'{"a": nul}', "Invalid value. at offset: 9"),
        (b'{"a": [-]}', "Invalid value. at offset: 8"),
        (b'{"a": Infinite}', "Invalid value. at offset: 13"),
        (b'{"a": [1.]}', "Miss fraction part in number. at offset: 9"),
        (b'{"a": [1e+]}', "Miss exponent in number. at offset: 10"),
        (b'{"inputs": [1e999]}', "Number too big to be stored in double. at offset: 12"),
        (b'{"inputs": %b}' % (b"9" * 400), "Number too big to be stored in double. at offset: 11"),
        (b'{"inputs": %b}' % (b"9" * 5000), "Number too big to be stored in double. at offset: 11"),
        # The offset counts bytes, not characters.
        ('{"ä": 1 x}'.encode(), "Missing a comma or '}' after an object member. at offset: 9"),
        (b'\xef\xbb\xbf{"a" 1}', "Missing a colon after a name of object member. at offset: 8"),
    ],
)
def test_bad_json_is_named_in_rapidjson_s_words(body, text):
    assert _refusal(body, x="FLOAT") == f"INVALID_ARGUMENT: JSON Parse error: {text}"


@pytest.mark.parametrize("text", ['{"a":', "[", "[1, ", '[{"b": [', '{"inputs": [[1], '])
def test_deep_documents_are_refused(text):
    refusal = _refusal(text * 10_000, x="FLOAT")
    assert refusal == "INVALID_ARGUMENT: JSON Parse error: The document is nested too deeply."
    assert "deep" in _refusal('{"inputs": ' + "[" * 200 + "1" + "]" * 200 + "}", x="FLOAT")


def test_more_than_standard_json_is_read():
    numbers = _inputs('{"inputs": [NaN, Infinity, -Infinity, Inf, -Inf, -NaN, 1E5, 1]} trailing', x="DOUBLE")
    expected = [np.nan, np.inf, -np.inf, np.inf, -np.inf, np.nan, 1e5, 1]
    np.testing.assert_array_equal(numbers["x"], expected)
    assert _inputs(b'\xef\xbb\xbf {"inputs": 2}', x="FLOAT")["x"] == 2


def test_a_megabyte_of_numbers_is_read_and_a_late_mistake_in_it_found():
    values = np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32)
    body = json.dumps({"instances": values.tolist()}).encode()
    np.testing.assert_array_equal(_inputs(body, x="FLOAT")["x"], values)
    assert _refusal(body[:-1] + b",", x="FLOAT").endswith(
        f"Missing a name for object member. at offset: {len(body)}"
    )


# --- Predict requests ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"instances": [1, 2.5, 3]}', [1, 2.5, 3]),
        ('{"instances": [[1, 2], [3, 4]]}', [[1, 2], [3, 4]]),
        ('{"instances": [{"x": [1]}, {"x": [2]}]}', [[1], [2]]),
        ('{"instances": [[], []]}', [[], []]),
        ('{"inputs": 1}', 1),
        ('{"inputs": [[1, 2]]}', [[1, 2]]),
        ('{"inputs": {"x": [[1, 2]], "unknown": null}}', [[1, 2]]),
        ('{"inputs": []}', []),
    ],
)
def test_one_input_may_go_unnamed(body, expected):
    array = _inputs(body, x="FLOAT")["x"]
    assert array.dtype == np.float32
    assert array.shape == np.shape(expected)
    assert array.tolist() == expected


@pytest.mark.parametrize("body", ['{"instances": [{"a": 1, "b": ["x"]}, {"b": ["y"], "a": 2}]}',
                                  '{"inputs": {"a": [1, 2], "b": [["x"], ["y"]]}}'])  # fmt: skip
def test_several_inputs_go_by_name(body):
    arrays = _inputs(body, a="INT64", b="STRING")
    assert arrays["a"].tolist() == [1, 2]
    assert arrays["b"].tolist() == [[b"x"], [b"y"]]


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("FLOAT", "16777217", 16777216.0),
        ("FLOAT", "1e40", np.inf),
        ("DOUBLE", "123456789012345678901234567890", 123456789012345678901234567890.0),
        ("INT32", "-2147483648", -(2**31)),
        ("INT8", "300", 44),  # the range of small types is not checked: it wraps
        ("UINT8", "-1", 255),
        ("INT16", "7", 7),
        ("INT64", "9223372036854775807", 2**63 - 1),
        ("UINT32", "4294967295", 2**32 - 1),
        ("UINT64", "18446744073709551615", 2**64 - 1),
        ("BOOL", "true", True),
        ("STRING", r'"a\u00e9\u0000\n"', b"a\xc3\xa9\0\n"),
        ("STRING", r'"\ud83d\ude00"', "😀".encode()),
        ("STRING", '{"b64": "aGVsbG8="}', b"hello"),
        ("STRING", '{"b64": "aGVs bG8"}', b"hello"),
        ("STRING", '{"b64": ""}', b""),
    ],
)
def test_each_type_takes_its_values(kind, text, expected):
    native = tf.dtypes.as_dtype(types_pb2.DataType.Value(f"DT_{kind}")).as_numpy_dtype
    for body in (f'{{"inputs": {text}}}', f'{{"instances": [{text}]}}', f'{{"inputs": [[{text}]]}}'):
        array = _inputs(body, x=kind)["x"]
        assert array.dtype == native
        assert array.ravel().tolist() == [expected]


@pytest.mark.parametrize(
    ("kind", "name", "text", "quoted", "json_type"),
    [
        ("FLOAT", "float", '"x"', '"x"', "String"),
        ("FLOAT", "float", "true", "true", "True"),
        ("DOUBLE", "double", "null", "null", "Null"),
        ("INT32", "int32", "1.0", "1.0", "Number"),
        ("INT32", "int32", "2147483648", "2147483648", "Number"),
        ("UINT8", "uint8", "false", "false", "False"),
        ("INT64", "int64", "9223372036854775808", "9223372036854775808", "Number"),
        ("UINT32", "uint32", "-1", "-1", "Number"),
        ("UINT64", "uint64", "18446744073709551616", "1.84467441e+19", "Number"),
        ("BOOL", "bool", "1", "1", "Number"),
        ("STRING", "string", "0.1", "0.1", "Number"),
        ("FLOAT", "float", '{"b64": "eA=="}', '{\n    "b64": "eA=="\n}', "Object"),
    ],
)
def test_values_of_another_type_are_quoted(kind, name, text, quoted, json_type):
    refusal = f"INVALID_ARGUMENT: JSON Value: {quoted} Type: {json_type} is not of expected type: {name}"
    assert _refusal(f'{{"inputs": {text}}}', x=kind) == refusal
    assert _refusal(f'{{"instances": [{text}]}}', x=kind) == (
        f"INVALID_ARGUMENT: Failed to process element: 0 of 'instances' list. Error: {refusal}"
    )
    assert _refusal(f'{{"instances": [{{"x": {text}}}]}}', x=kind) == (
        f"INVALID_ARGUMENT: Failed to process element: 0 key: x of 'instances' list. Error: {refusal}"
    )


_TWO = {"a": "FLOAT", "b": "FLOAT"}
_ONE = {"x": "FLOAT"}
_TEXT = {"x": "STRING"}


@pytest.mark.parametrize(
    ("body", "types", "text"),
    [
        ("[1]", _ONE, "JSON Value: [1] Is not object"),
        ("{}", _ONE, "Missing 'inputs' or 'instances' key"),
        (
            '{"signature_name": 5}',
            _ONE,
            'JSON Value: {\n    "signature_name": 5\n} not formatted correctly. '
            "'signature_name' key must be a string value.",
        ),
        (
            '{"inputs": [1, 2], "instances": {"a": [1.5]}}',
            _ONE,
            'JSON Value: {\n    "inputs": [1, 2],\n    "instances": {\n        "a": [1.5]\n    }\n} '
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        ),
        (
            '{"instances": 1}',
            _ONE,
            "JSON Value: {\n    \"instances\": 1\n} Expecting 'instances' to be an list/array",
        ),
        ('{"instances": []}', _ONE, "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
        ('{"instances": [1]}', {}, "Failed to get input map for signature: DEFAULT"),
        (
            '{"instances": [1]}',
            _TWO,
            "instances is a plain list, but expecting list of objects as multiple input tensors required as "
            "per tensorinfo_map",
        ),
        (
            '{"inputs": [1]}',
            _TWO,
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map",
        ),
        ('{"inputs": {"b": 1}}', _TWO, "Missing named input: a in 'inputs' object."),
        (
            '{"instances": [{"a": 1, "b": 2}, {"b": 1}]}',
            _TWO,
            "Failed to process element: 1 of 'instances' list. JSON object: {\n    \"b\": 1\n} keys must be "
            "equal to: a,b",
        ),
        (
            '{"instances": [{"q": 1}]}',
            _ONE,
            "Failed to process element: 0 key: q of 'instances' list. Error: INVALID_ARGUMENT: JSON object: "
            "does not have named input: q",
        ),
        ('{"instances": [{"x": 1}, [1]]}', _ONE, "Expecting object but got list at item 1 of input list"),
        ('{"instances": [1, {"x": 1}]}', _ONE, "Expecting value/list but got object at item 1 of input list"),
        (
            '{"instances": [[1, 2], [3]]}',
            _ONE,
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
            "Expecting tensor size: 2 but got: 1",
        ),
        (
            '{"instances": [[[1], [2]], [[1, 2]]]}',
            _ONE,
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
            "Expecting shape [2,1] but got: [1,2]",
        ),
        (
            '{"inputs": [[1, 2], [3]]}',
            _ONE,
            "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
        ),
        (
            '{"inputs": [[2], 1]}',
            _ONE,
            "JSON Value: 1 found at incorrect level: 1 in the JSON DOM. Expected at level: 2",
        ),
        ('{"inputs": [1, [2]]}', _ONE, "Encountered list at unexpected level: 1 expected < 1"),
        (
            '{"inputs": [{"b65": "eA=="}]}',
            _TEXT,
            'JSON Value: {\n    "b65": "eA=="\n} not formatted correctly for base64 data',
        ),
        ('{"inputs": [{"b64": "%"}]}', _TEXT, "Unable to base64 decode"),
    ],
)
def test_wrong_forms_are_refused_in_upstream_s_words(body, types, text):
    assert _refusal(body, **types) == f"INVALID_ARGUMENT: {text}"


@pytest.mark.parametrize("kind", ["HALF", "BFLOAT16", "UINT16", "COMPLEX64"])
def test_types_that_json_cannot_carry_are_unimplemented(kind):
    text = f"UNIMPLEMENTED: Conversion of JSON Value: 1 to type: {kind.lower()}"
    assert _refusal('{"inputs": 1}', x=kind) == text


def test_long_values_are_quoted_up_to_the_token_that_passes_256_bytes():
    refusal = _refusal(json.dumps([0] * 1000), x="FLOAT")
    assert refusal == f"INVALID_ARGUMENT: JSON Value: [{', '.join(['0'] * 86)} Is not object"


# --- Classify and regress requests ---------------------------------------------------------------


def test_examples_are_built_by_the_type_of_each_value():
    request = rest_requests.examples_request(
        b"""{"signature_name": "s", "context": {"query": "pizza"}, "examples": [
          {"names": ["foo", {"b64": "aGVsbG8="}], "ratings": [8.0, NaN], "mix": [1, true], "none": []},
          {"ratings": -Infinity, "query": "pasta"}]}"""
    )
    assert request.signature_name == "s"
    first, second = (tf.train.Example.FromString(raw).features.feature for raw in request.examples)
    assert list(first["names"].bytes_list.value) == [b"foo", b"hello"]
    np.testing.assert_array_equal(first["ratings"].float_list.value, [8.0, np.nan])
    assert list(first["mix"].int64_list.value) == [1, 1]
    assert first["none"].WhichOneof("kind") is None
    assert list(first["query"].bytes_list.value) == [b"pizza"]
    assert list(second["ratings"].float_list.value) == [-np.inf]
    assert list(second["query"].bytes_list.value) == [b"pasta"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            '{"x": 1}',
            "JSON Value: {\n    \"x\": 1\n} When method is classify, key 'examples' is expected and was "
            "not found",
        ),
        (
            '{"examples": {}}',
            "JSON Value: {\n    \"examples\": {}\n} Expecting 'examples' value to be an list/array",
        ),
        ('{"examples": []}', "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array"),
        ('{"examples": [1]}', "Example must be JSON object but got JSON Number"),
        ('{"context": [], "examples": [{}]}', "Example must be JSON object but got JSON Array"),
        (
            '{"examples": [{"f": [1, 1.0]}]}',
            "Unexpected element type in feature: f expecting type: int64",
        ),
        (
            '{"examples": [{"f": ["a", 1]}]}',
            "Unexpected element type in feature: f expecting type: bytes",
        ),
        ('{"examples": [{"f": [null]}]}', "Feature: f has element with unexpected JSON type: Null"),
        ('{"examples": [{"f": [[1]]}]}', "Feature: f has element with unexpected JSON type: Array"),
        ('{"examples": [{"f": {"a": 1}}]}', "Feature: f has element with unexpected JSON type: Object"),
        (
            '{"examples": [{"f": 18446744073709551603}]}',
            "Feature: f has uint64_t element. Only int64_t is supported.",
        ),
        ('{"examples": [{"f": {"b64": "%"}}]}', "Unable to base64 decode"),
    ],
)
def test_wrong_examples_are_refused_in_upstream_s_words(body, text):
    with pytest.raises(status.Error) as raised:
        rest_requests.examples_request(body.encode())
    assert status.text(raised.value) == f"INVALID_ARGUMENT: {text}"
