"""Protobuf's wire format by hand, for messages that generated code would copy several times.

A message is a row of fields. Each begins with a varint `number << 3 | kind`; then comes, by its kind,
    0  a varint            bool, enum and integers
    1  eight bytes         double
    2  a length and bytes  strings, bytes, messages, and repeated numbers ("packed")
    5  four bytes          float
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, LENGTH_DELIMITED = 0, 2
_FIXED_SIZES = {1: 8, 5: 4}


def varint(number: int) -> bytes:
    """A non-negative integer, seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def length_delimited(field: int, payload: bytes) -> bytes:
    """A message's field of bytes, a string or a message."""
    return b"".join((prefix(field, len(payload)), payload))


def prefix(field: int, size: int) -> bytes:
    """What precedes the `size` bytes of such a field."""
    return varint(field << 3 | LENGTH_DELIMITED) + varint(size)


def fields(wire: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of the message at `wire[position:end]`, none of their bytes copied.

    Yields:
      (number, kind, start, stop): the value is wire[start:stop], but that of a varint is `start` itself.
    Raises:
      ValueError: a field that goes past the end, or of no known kind.
    """
    while position < end:
        tag = wire[position]
        position += 1
        if tag > 0x7F:
            tag, position = _read_varint(wire, position - 1, end)
        kind = tag & 7
        if kind in _FIXED_SIZES:
            size = _FIXED_SIZES[kind]
        elif kind in (VARINT, LENGTH_DELIMITED):
            # Most are small: a byte is read here sooner than there.
            if position < end and wire[position] < 0x80:
                size = wire[position]
                position += 1
            else:
                size, position = _read_varint(wire, position, end)
            if kind == VARINT:
                yield tag >> 3, kind, size, position
                continue
        else:
            raise ValueError(f"a field of kind {kind}")
        start, position = position, position + size
        if position > end:
            raise ValueError(f"a field of {size} bytes where {end - start} are left")
        yield tag >> 3, kind, start, position


def signed(number: int) -> int:
    """The int64 that a varint stands for."""
    return number - 2**64 if number >= 2**63 else number


def _read_varint(wire: bytes, position: int, end: int) -> tuple[int, int]:
    result = shift = 0
    while position < end:
        byte = wire[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
        if shift > 63:
            break
    raise ValueError("a number without an end")
