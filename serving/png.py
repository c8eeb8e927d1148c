"""Writes a picture as a PNG file with zlib alone: the client's base install has no Pillow.

Sections are those of the PNG specification as published in RFC 2083.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"  # 3.1
_COLOUR_TYPES = {1: 0, 3: 2}  # 4.1.1: channels -> greyscale, truecolour


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


def _chunk(kind: bytes, data: bytes) -> bytes:
    """Length, type, data and the CRC of the latter two (3.2, 3.4)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
