"""JSON as rapidjson reads and writes it: the text below the REST API's requests and answers.

Upstream parses and writes with rapidjson; its error texts, offsets, layout and number format are part of what
clients see, so they are kept.
"""

from __future__ import annotations

import decimal
import json
import re
from typing import Any, NoReturn

import numpy as np
from tensorflow.core.framework import types_pb2

from serving import status

INT64 = (-(2**63), 2**63 - 1)
UINT64_END = 2**64
_FLOAT_MAX = 3.4028234e38
_QUOTED_BYTES = 256  # upstream stops quoting a value once it is past these

# --- Reading -------------------------------------------------------------------------------------


def parse(body: bytes) -> dict[str, Any]:
    """The object that `body` starts with; what follows it is ignored, as upstream.

    Strings are str in which bytes that are not UTF-8 stand as surrogates (`surrogateescape`).

    Raises:
      status.Error: INVALID_ARGUMENT with rapidjson's text and offset.
    """
    if not body:
        raise status.invalid_argument("JSON Parse error: The document is empty")
    start = _start(body)
    try:
        value = _decode(body, start)
        if _SURROGATE.search(body):
            _walk(body, start)  # Python does not mind half a pair
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # also Python's limit for digits in an int
        value = _decode_odd(body, start)
    if not isinstance(value, dict):
        _walk(body, start)  # Python does not mind "1." here
        raise format_error(value, "Is not object")
    return value


def check(body: bytes) -> None:
    """Has what Python takes and rapidjson does not refused.

    Raises:
      status.Error: INVALID_ARGUMENT with rapidjson's text and offset.
    """
    _walk(body, _start(body))


def _start(body: bytes) -> int:
    return 3 if body.startswith(b"\xef\xbb\xbf") else 0  # a byte order mark


def _decode(body: bytes, start: int) -> Any:
    text = body[start:].decode("utf-8", "surrogateescape")
    blank = _SPACE_TEXT.match(text)
    assert blank is not None
    return _DECODER.raw_decode(text, blank.end())[0]


def _decode_odd(body: bytes, start: int) -> Any:
    """What Python refuses: mostly errors, but rapidjson also knows Inf, -Inf and -NaN."""
    respelled = _walk(body, start)
    pieces, position = [], start
    for begin, end, spelling in respelled:
        pieces += [body[position:begin], spelling]
        position = end
    try:
        return _decode(b"".join([*pieces, body[position:]]), 0)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise status.invalid_argument(f"JSON Parse error: {error}") from None


def _too_deep() -> status.Error:
    return status.invalid_argument("JSON Parse error: The document is nested too deeply.")


_DECODER = json.JSONDecoder()
_SPACE_TEXT = re.compile(r"[ \t\n\r]*")
_SPACE = re.compile(rb"[ \t\n\r]*")
_STRING = re.compile(
    rb'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u(?:[0-9abcefABCEF][0-9a-fA-F]{3}|[dD][0-7c-fC-F][0-9a-fA-F]{2}'
    rb"|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*+"
)
_SURROGATE = re.compile(rb"\\u[dD][89abAB]")
_HEX = re.compile(rb"[0-9a-fA-F]{4}")
_HIGH_SURROGATE = re.compile(rb"[dD][89abAB]")
_DIGITS = re.compile(rb"[0-9]*")
_INTEGER = re.compile(rb"0|[1-9][0-9]*")
# Elements of an array that cannot be wrong, passed over in one step.
_PLAIN_ELEMENTS = re.compile(
    rb"(?:[ \t\n\r]*+-?(?:0|[1-9][0-9]{0,16}+)(?:\.[0-9]++)?(?:[eE][-+]?[0-9]{1,2})?[ \t\n\r]*+,)*+"
)
_ODD_NUMBERS = {b"Inf": b"Infinity", b"-Inf": b"-Infinity", b"-NaN": b"NaN"}
_MAX_DEPTH = 1000


def _walk(body: bytes, start: int) -> list[tuple[int, int, bytes]]:
    """Walks over one value as rapidjson does.

    Returns:
      (begin, end, spelling) of the numbers that Python spells otherwise.
    Raises:
      status.Error: the document is not JSON.
    """
    respelled: list[tuple[int, int, bytes]] = []
    inside: list[int] = []  # the brackets that are open
    at = _skip(body, start)
    if _peek(body, at) == 0:
        _fail("The document is empty.", at)
    while True:
        # At the beginning of a value.
        first = _peek(body, at)
        if first in b"[{" and first:
            if len(inside) == _MAX_DEPTH:
                raise _too_deep()
            at = _skip(body, at + 1)
            if _peek(body, at) != first + 2:  # "]" and "}" stand two after their partners
                inside.append(first)
                at = _name(body, at) if first == ord("{") else _passed_over(body, at)
                continue
            at += 1
        elif first == ord('"'):
            at = _string(body, at)
        elif first in b"ntf" and first:
            at = _literal(body, at, {110: b"null", 116: b"true", 102: b"false"}[first])
        else:
            end = _number(body, at)
            spelling = _ODD_NUMBERS.get(body[at:end])
            if spelling:
                respelled.append((at, end, spelling))
            at = end
        # Behind a value.
        while inside:
            at = _skip(body, at)
            mark = _peek(body, at)
            if mark == ord(","):
                at = _skip(body, at + 1)
                at = _name(body, at) if inside[-1] == ord("{") else _passed_over(body, at)
                break
            if mark != inside[-1] + 2:
                _fail(
                    "Missing a comma or '}' after an object member."
                    if inside[-1] == ord("{")
                    else "Missing a comma or ']' after an array element.",
                    at,
                )
            inside.pop()
            at += 1
        else:
            return respelled


def _fail(text: str, at: int) -> NoReturn:
    raise status.invalid_argument(f"JSON Parse error: {text} at offset: {at}")


def _peek(body: bytes, at: int) -> int:
    return body[at] if at < len(body) else 0


def _skip(body: bytes, at: int) -> int:
    return _end(_SPACE, body, at)


def _end(pattern: re.Pattern[bytes], body: bytes, at: int) -> int:
    found = pattern.match(body, at)
    return found.end() if found else at


def _passed_over(body: bytes, at: int) -> int:
    return _skip(body, _end(_PLAIN_ELEMENTS, body, at))


def _name(body: bytes, at: int) -> int:
    """Passes over a member's name and its colon."""
    if _peek(body, at) != ord('"'):
        _fail("Missing a name for object member.", at)
    at = _skip(body, _string(body, at))
    if _peek(body, at) != ord(":"):
        _fail("Missing a colon after a name of object member.", at)
    return _skip(body, at + 1)


def _string(body: bytes, at: int) -> int:
    at = _end(_STRING, body, at)
    mark = _peek(body, at)
    if mark == ord('"'):
        return at + 1
    if mark == 0:
        _fail("Missing a closing quotation mark in string.", at)
    if mark == ord("\\") and _peek(body, at + 1) == ord("u"):
        paired = _HIGH_SURROGATE.match(body, at + 2) and body[at + 6 : at + 8] == b"\\u"
        if not _HEX.match(body, at + 2) or (paired and not _HEX.match(body, at + 8)):
            _fail("Incorrect hex digit after \\u escape in string.", at)
        _fail("The surrogate pair in string is invalid.", at)
    _fail("Invalid escape character in string.", at)


def _literal(body: bytes, at: int, word: bytes) -> int:
    for letter in word:
        if _peek(body, at) != letter:
            _fail("Invalid value.", at)
        at += 1
    return at


def _number(body: bytes, begin: int) -> int:
    at = begin + (_peek(body, begin) == ord("-"))
    if _peek(body, at) == ord("N"):
        return _literal(body, at, b"NaN")
    if _peek(body, at) == ord("I"):
        at = _literal(body, at, b"Inf")
        return _literal(body, at, b"inity") if _peek(body, at) == ord("i") else at
    end = _end(_INTEGER, body, at)
    if end == at:
        _fail("Invalid value.", at)
    if _peek(body, end) == ord("."):
        at, end = end + 1, _end(_DIGITS, body, end + 1)
        if end == at:
            _fail("Miss fraction part in number.", at)
    if _peek(body, end) in (ord("e"), ord("E")):
        at = end + 1
        at += _peek(body, at) in (ord("+"), ord("-"))
        end = _end(_DIGITS, body, at)
        if end == at:
            _fail("Miss exponent in number.", at)
    if np.isinf(float(body[begin:end])):
        _fail("Number too big to be stored in double.", begin)
    return end


# --- Quoting what was sent, in errors ------------------------------------------------------------


def quoted(value: Any) -> str:
    if _is_double(value):
        number = np.float32(value) if abs(value) <= _FLOAT_MAX else np.float64(value)
        return decimals(np.array([number]))[0].decode()
    pieces: list[str] = []
    _quote(value, 0, 0, pieces)
    return "".join(pieces)


def _quote(value: Any, depth: int, size: int, pieces: list[str]) -> int:
    """Adds `value` in rapidjson's layout (arrays on one line) to `pieces`.

    Returns:
      the size so far; once it is past the limit nothing is added any more.
    """

    def add(text: str) -> None:
        nonlocal size
        if size <= _QUOTED_BYTES:
            pieces.append(text)
            size += len(text)

    if isinstance(value, dict):
        add("{")
        for number, (name, member) in enumerate(value.items()):
            if size > _QUOTED_BYTES:
                return size
            add(f"{',' if number else ''}\n{'    ' * (depth + 1)}{_string_text(name)}")
            add(": ")
            size = _quote(member, depth + 1, size, pieces)
        add(f"\n{'    ' * depth}}}" if value else "}")
    elif isinstance(value, list):
        add("[")
        for number, element in enumerate(value):
            if size > _QUOTED_BYTES:
                return size
            if number:
                add(", ")
            size = _quote(element, depth + 1, size, pieces)
        add("]")
    elif isinstance(value, str):
        add(_string_text(value))
    elif isinstance(value, bool) or value is None:
        add(json.dumps(value))
    elif is_integer(value):
        add(str(value))
    else:
        add(_double_text(float(value)))
    return size


def is_integer(value: Any) -> bool:
    """Whether rapidjson keeps the number as an integer; larger ones become doubles."""
    return isinstance(value, int) and not isinstance(value, bool) and INT64[0] <= value < UINT64_END


def _is_double(value: Any) -> bool:
    return isinstance(value, float) or (
        isinstance(value, int) and not isinstance(value, bool) and not is_integer(value)
    )


def _double_text(value: float) -> str:
    """A double as rapidjson's own writer prints it: the fewest digits, up to 21 of them before the point."""
    if not np.isfinite(value):
        return decimals(np.array([value]))[0].decode()
    sign, figures, exponent = decimal.Decimal(repr(value)).as_tuple()
    assert isinstance(exponent, int)
    digits = "".join(map(str, figures)).rstrip("0") or "0"
    point = len(figures) + exponent  # where the decimal point is, counted from the first digit
    if value == 0:
        text = "0.0"
    elif len(digits) <= point <= 21:
        text = f"{digits:0<{point}}.0"
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        text = f"{digits[0]}{fraction}e{point - 1}"
    return f"-{text}" if sign else text


def type_name(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    names = {type(None): "Null", dict: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")


def format_error(value: Any, text: str) -> status.Error:
    return status.invalid_argument(f"JSON Value: {quoted(value)} {text}")


def data_type_name(enum: int) -> str:
    """ "float", "double", "half", "int32" ...: TensorFlow's C++ names."""
    return types_pb2.DataType.Name(enum).removeprefix("DT_").lower()


# --- Writing values ------------------------------------------------------------------------------


_CHUNK = 4096


def decimals(flat: np.ndarray) -> list[bytes]:
    """Floats with six digits where these say it all, else with 9 or 17 (float, double)."""
    texts: list[bytes] = []
    for begin in range(0, len(flat), _CHUNK):
        texts += _few_decimals(flat[begin : begin + _CHUNK])
    return texts


def _few_decimals(flat: np.ndarray) -> list[bytes]:
    values = flat.tolist()
    texts = (b" ".join([b"%.6g"] * len(values)) % tuple(values)).split(b" ")
    with np.errstate(over="ignore"):
        back = np.fromiter(map(float, texts), np.float64, len(texts)).astype(flat.dtype)
    digits = b"%.9g" if flat.dtype == np.float32 else b"%.17g"
    for place in np.nonzero(back != flat)[0].tolist():  # also NaN
        texts[place] = digits % values[place]
    texts = [text if b"." in text or b"e" in text else text + b".0" for text in texts]
    for place in np.nonzero(~np.isfinite(flat))[0].tolist():
        value = values[place]
        texts[place] = b"NaN" if value != value else b"Infinity" if value > 0 else b"-Infinity"
    return texts


_ESCAPED = re.compile(rb'["\\\x00-\x1f]')
_ESCAPES = {
    **{bytes([code]): b"\\u%04X" % code for code in range(0x20)},
    b'"': b'\\"',
    b"\\": b"\\\\",
    b"\b": b"\\b",
    b"\f": b"\\f",
    b"\n": b"\\n",
    b"\r": b"\\r",
    b"\t": b"\\t",
}


def string(raw: bytes) -> bytes:
    """Bytes in quotes, escaped as rapidjson does: what is not UTF-8 stays as it is."""
    return b'"%b"' % _ESCAPED.sub(lambda found: _ESCAPES[found[0]], raw)


def _string_text(text: str) -> str:
    return string(utf8(text)).decode("utf-8", "surrogateescape")


def utf8(text: str) -> bytes:
    """The bytes that a string of a parsed document stood for."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair
        return text.encode("utf-8", "replace")
