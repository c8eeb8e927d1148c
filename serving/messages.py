"""Predict's request to bytes and its answer from bytes, by hand: they may hold a hundred megabytes.

    request = predict_request(model_spec("gan_fashion", signature="sample"), {"seed": seeds}, ["image"])
    spec, outputs = predict_answer(answer)

The arrays' memory is copied once on the way out and not at all on the way in (protobuf: three times each).
The other methods' messages are in `rpc`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from serving import tensors, wire


class Spec(NamedTuple):
    """Which model answered, and with which of its signatures."""

    model: str
    version: int
    signature: str


@functools.lru_cache(1024)
def model_spec(
    model: str, version: int | None = None, label: str | None = None, signature: str = ""
) -> bytes:
    """A serialized ModelSpec.

    Args:
      version: 0 or more; it and `label` exclude each other; both None: the newest version.
    Raises:
      ValueError: a name that is not UTF-8.
    """
    fields = wire.length_delimited(1, model.encode())
    if version is not None:
        fields += wire.length_delimited(2, b"\x08" + wire.varint(version))
    if signature:
        fields += wire.length_delimited(3, signature.encode())
    if label is not None:
        fields += wire.length_delimited(4, label.encode())
    return fields


def predict_request(spec: bytes, inputs: Mapping[str, np.ndarray], outputs: Iterable[str] = ()) -> bytes:
    """A serialized PredictRequest.

    Args:
      spec: from `model_spec`.
      inputs: name -> array from `tensors.to_array`.
      outputs: names of the wanted outputs; none = all.
    """
    pieces: list[bytes | memoryview] = [wire.prefix(1, len(spec)), spec]
    for name, array in inputs.items():
        tensor = tensors.content_pieces(array)
        pieces.append(entry(2, name, sum(map(len, tensor))))
        pieces += tensor
    for name in outputs:
        pieces.append(wire.length_delimited(3, name.encode()))
    return b"".join(pieces)


@functools.lru_cache(1024)
def entry(field: int, name: str, size: int) -> bytes:
    """What precedes a tensor of `size` bytes in an entry of a map: its key = 1, value = 2.

    Args:
      field: the map's; 2 for a request's inputs, 1 for an answer's outputs.
    """
    key = wire.length_delimited(1, name.encode()) + wire.prefix(2, size)
    return wire.prefix(field, len(key) + size) + key


def predict_answer(answer: bytes) -> tuple[Spec, dict[str, np.ndarray]]:
    """What a serialized PredictResponse says.

    Returns:
      which model answered; output name -> read-only array, which shares `answer`'s memory where it can.
    Raises:
      ValueError: no PredictResponse, or a tensor without a numpy type.
    """
    spec = Spec("", 0, "")
    outputs = {}
    for number, kind, start, stop in wire.fields(answer, 0, len(answer)):
        if kind != wire.LENGTH_DELIMITED:
            continue
        if number == 1:
            name, array = _output(answer, start, stop)
            array.flags.writeable = False
            outputs[name] = array
        elif number == 2:
            spec = _spec(answer[start:stop])
    return spec, outputs


def _output(answer: bytes, start: int, stop: int) -> tuple[str, np.ndarray]:
    name, tensor = "", (0, 0)
    for number, kind, first, last in wire.fields(answer, start, stop):
        if kind == wire.LENGTH_DELIMITED and number == 1:
            name = answer[first:last].decode()
        elif kind == wire.LENGTH_DELIMITED and number == 2:
            tensor = (first, last)
    return name, tensors.from_wire(answer, *tensor)


@functools.lru_cache(256)  # a model's answers name the same version until it is swapped
def _spec(field: bytes) -> Spec:
    texts = {1: "", 3: ""}
    version = 0
    for number, kind, start, stop in wire.fields(field, 0, len(field)):
        if kind != wire.LENGTH_DELIMITED:
            continue
        if number in texts:
            texts[number] = field[start:stop].decode()
        elif number == 2:
            version = 0
            for part, part_kind, value, _ in wire.fields(field, start, stop):
                if part == 1 and part_kind == wire.VARINT:
                    version = wire.signed(value)
    return Spec(texts[1], version, texts[3])
