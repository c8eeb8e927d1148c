"""Writes and reads pictures as PNG files with zlib alone: the client's base install has no Pillow.

Sections are those of the PNG specification as published in RFC 2083.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"  # 3.1
_COLOUR_TYPES = {1: 0, 3: 2}  # 4.1.1: channels -> greyscale, truecolour
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # 4.1.1: colour type -> samples for each pixel
_PALETTE = 3
# zlib makes at most this many bytes of one: a header that promises more than the file can hold is a lie.
_MOST_INFLATED = 1032


def encode(pixels: np.ndarray) -> bytes:
    """The file's bytes: signature (3.1), then the chunks IHDR (4.1.1), IDAT (4.1.3), IEND (4.1.4).

    IDAT holds the rows in a zlib stream (5), each behind the number of its filter; it is 0, none, for
    all of them (6.2).

    Args:
      pixels: uint8 [H, W] or [H, W, 1], grey, or [H, W, 3], RGB.
    Raises:
      ValueError: another shape or type, or no pixels at all, which PNG cannot hold.
    """
    shape = pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1)
    if pixels.dtype != np.uint8 or len(shape) != 3 or shape[2] not in _COLOUR_TYPES or not pixels.size:
        raise ValueError(
            f"expected pixels uint8 [H, W] or [H, W, 1 or 3], given {pixels.dtype} {list(pixels.shape)}"
        )
    height, width, channels = shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    rows = np.zeros((height, 1 + width * channels), np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    return b"".join(
        [
            _SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib.compress(rows.tobytes())),
            _chunk(b"IEND", b""),
        ]
    )


def decode(data: bytes) -> np.ndarray:
    """Pixels uint8 [H, W, C] of a file with 8 bits a sample: C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.

    A palette becomes RGB, of 1, 2 or 4 bits a pixel too. Ancillary chunks (gamma, a transparent colour)
    are passed over, as Pillow's conversions do.

    Raises:
      NotImplementedError: other depths, or interlaced rows; the message names which.
      ValueError: no PNG file, or a damaged one.
    """
    header, palette, compressed = b"", b"", []
    for kind, content in _chunks(data):
        match kind:
            case b"IHDR":
                header = content
            case b"PLTE":
                palette = content
            case b"IDAT":
                compressed.append(content)
            case b"IEND":
                break
    if len(header) != 13:
        raise ValueError("it has no header")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if interlaced:
        raise NotImplementedError("an interlaced PNG")
    if colour not in _CHANNELS or not (depth == 8 or (colour == _PALETTE and depth in (1, 2, 4))):
        raise NotImplementedError(f"a PNG of {depth} bits and colour type {colour}")
    channels = _CHANNELS[colour]
    row_bytes = (width * channels * depth + 7) // 8
    stream = b"".join(compressed)
    expected = height * (1 + row_bytes)
    if not width or not height or expected > _MOST_INFLATED * (len(stream) + 1):
        raise ValueError("its data is too short for its size")
    try:
        filtered = zlib.decompressobj().decompress(stream, expected)
    except zlib.error as error:
        raise ValueError(f"its data is damaged: {error}") from None
    if len(filtered) < expected:
        raise ValueError("it is cut short")
    rows = np.frombuffer(filtered, np.uint8).reshape(height, 1 + row_bytes)
    pixels = _unfilter(rows, channels if depth == 8 else 1)  # [H, row_bytes]
    if colour != _PALETTE:
        return pixels.reshape(height, width, channels)
    if depth < 8:  # the leftmost pixel is in the high bits (2.3)
        shifts = np.arange(8 - depth, -1, -depth, dtype=np.uint8)
        pixels = ((pixels[:, :, None] >> shifts) & (2**depth - 1)).reshape(height, -1)[:, :width]
    colours = np.frombuffer(palette[: len(palette) // 3 * 3], np.uint8).reshape(-1, 3)
    if pixels.max() >= len(colours):
        raise ValueError("its palette lacks a colour")
    return colours[pixels]


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Pixels [H, W, 1..4] as grey (1), RGB (3) or RGBA (4); alpha is dropped, or 255 where there is none.

    Grey is ITU-R 601's luma, rounded as Pillow rounds it.
    """
    colour = pixels[..., : 1 if pixels.shape[-1] < 3 else 3]
    if channels == 1:
        if colour.shape[-1] == 1:
            return colour
        weights = np.array([19595, 38470, 7471], np.uint32)  # .299, .587, .114 in 16 bits
        return ((colour.astype(np.uint32) @ weights + 0x8000) >> 16).astype(np.uint8)[..., None]
    colour = np.broadcast_to(colour, (*pixels.shape[:2], 3))
    if channels == 3:
        return colour
    opaque = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    return np.concatenate([colour, pixels[..., -1:] if pixels.shape[-1] in (2, 4) else opaque], axis=-1)


def _chunk(kind: bytes, data: bytes) -> bytes:
    """Length, type, data and the CRC of the latter two (3.2, 3.4)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not data.startswith(_SIGNATURE):
        raise ValueError("it does not begin as a PNG file does")
    position = len(_SIGNATURE)
    while position < len(data):
        if len(data) < position + 12:
            raise ValueError("it is cut short")
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 8 + length
        if len(data) < end + 4:
            raise ValueError("it is cut short")
        if zlib.crc32(data[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError("a checksum is wrong")
        yield data[position + 4 : position + 8], data[position + 8 : end]
        position = end + 4


def _unfilter(rows: np.ndarray, step: int) -> np.ndarray:
    """The rows without their filters (6): uint8 [H, N] of [H, 1 + N].

    Args:
      rows: each begins with its filter's number.
      step: bytes from a sample to the same one of the pixel to its left.
    """
    plain = np.zeros((len(rows), rows.shape[1] - 1), np.uint8)
    above = np.zeros(plain.shape[1], np.uint8)
    for row, out in zip(rows, plain, strict=True):
        match row[0]:
            case 0:
                out[:] = row[1:]
            case 1:  # Sub: a running sum, modulo 256, of each channel
                for channel in range(step):
                    np.cumsum(row[1 + channel :: step], dtype=np.uint8, out=out[channel::step])
            case 2:  # Up
                np.add(row[1:], above, out=out)
            case 3 | 4:
                out[:] = np.frombuffer(_sequential(row.tobytes(), above.tobytes(), step), np.uint8)
            case unknown:
                raise ValueError(f"it uses filter {unknown}, which PNG does not have")
        above = out
    return plain


def _sequential(row: bytes, above: bytes, step: int) -> bytes:
    """Average (6.5) and Paeth (6.6): each byte needs the one to its left."""
    out = bytearray(len(above))
    average = row[0] == 3
    for i, value in enumerate(memoryview(row)[1:]):
        left = out[i - step] if i >= step else 0
        up = above[i]
        if average:
            out[i] = (value + ((left + up) >> 1)) & 255
            continue
        corner = above[i - step] if i >= step else 0
        to_left, to_up, to_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
        if to_left <= to_up and to_left <= to_corner:
            out[i] = (value + left) & 255
        else:
            out[i] = (value + (up if to_up <= to_corner else corner)) & 255
    return bytes(out)
