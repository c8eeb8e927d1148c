"""Golden requests: what an export answered when it was made, read without TensorFlow.

    for export in golden.find(Path("models")):
        for request in golden.read(export):
            request.signature, request.inputs, request.outputs

They lie in `<model>/<version>/assets.extra/golden_requests`, a TFRecord file of PredictionLogs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf import message

from serving import golden_pb2, schema, tensors, wire_pb2

_FILE = Path("assets.extra") / "golden_requests"
_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt", "model.tflite")


class GoldenError(Exception):
    """No golden requests, or a file that is damaged; the message says which."""


@dataclass(frozen=True)
class Export:
    """One version of a model on disk: `<base>/<model>/<version>`."""

    model: str
    version: int
    path: Path


@dataclass(frozen=True)
class Request:
    """One request with the answer that was right when the model was exported."""

    signature: str
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def find(folder: Path) -> list[Export]:
    """The newest version of each model in a folder of models, of one model, or the one version that it is.

    Raises:
      GoldenError: it is none of these.
    """
    folder = folder.resolve()
    if _is_version(folder):
        return [Export(folder.parent.name, int(folder.name), folder)]
    if not folder.is_dir():
        raise GoldenError(f"{folder} is no folder")
    own = _newest(folder)
    children = [own] if own else [_newest(child) for child in sorted(folder.iterdir()) if child.is_dir()]
    found = [export for export in children if export is not None]
    if not found:
        raise GoldenError(
            f"{folder} holds no models: expected <model>/<version>/saved_model.pb below it, a model's own "
            "folder or a version's"
        )
    return found


def read(export: Export) -> list[Request]:
    """The golden requests of an export, in the order of its signatures.

    Raises:
      GoldenError: it has none, or the file is damaged.
    """
    path = export.path / _FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise GoldenError(
            f"{export.path} has no {_FILE}, which atelier-export writes: there is nothing to replay"
        ) from None
    requests = []
    try:
        for record in records(data):
            log = golden_pb2.PredictionLog.FromString(record).predict_log
            if log.request.inputs or log.response.outputs:
                name = log.request.model_spec.signature_name or schema.DEFAULT_SIGNATURE
                requests.append(Request(name, _arrays(log.request.inputs), _arrays(log.response.outputs)))
    except (ValueError, message.DecodeError) as error:
        raise GoldenError(f"{path} is damaged: {error}") from None
    if not requests:
        raise GoldenError(f"{path} holds no Predict requests")
    return requests


def records(data: bytes) -> Iterator[bytes]:
    """The records of a TFRecord file: length (uint64), its checksum, the bytes, their checksum.

    Raises:
      ValueError: a checksum is wrong, or the file ends too early.
    """
    position = 0
    while position < len(data):
        if len(data) < position + 12:
            raise ValueError("it is cut short")
        length, check = struct.unpack_from("<QI", data, position)
        if _masked_crc32c(data[position : position + 8]) != check:
            raise ValueError("a length's checksum is wrong")
        begin, end = position + 12, position + 12 + length
        if len(data) < end + 4:
            raise ValueError("it is cut short")
        if _masked_crc32c(data[begin:end]) != struct.unpack_from("<I", data, end)[0]:
            raise ValueError("a record's checksum is wrong")
        yield data[begin:end]
        position = end + 4


def _arrays(protos: Mapping[str, wire_pb2.TensorProto]) -> dict[str, np.ndarray]:
    return {name: tensors.from_proto(proto) for name, proto in protos.items()}


def _crc32c_table() -> list[int]:
    """CRC-32C (Castagnoli), reflected polynomial 0x82F63B78: the register after each single byte."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC32C = _crc32c_table()


def _masked_crc32c(data: bytes) -> int:
    """As TFRecord stores it: rotated right by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _is_version(folder: Path) -> bool:
    return folder.name.isdecimal() and any((folder / name).exists() for name in _MODEL_FILES)


def _newest(folder: Path) -> Export | None:
    versions = [child for child in folder.iterdir() if _is_version(child)]
    if not versions:
        return None
    path = max(versions, key=lambda child: int(child.name))
    return Export(folder.name, int(path.name), path)
