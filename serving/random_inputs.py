"""Inputs that a signature takes, made up from its types and shapes, for a load generator."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from serving import png, tensors
from serving.inputs import UsageError
from serving.schema import Signature, TensorSpec

_RANDOM = "random:"
_PICTURE_SIZE = 64  # of an encoded picture, whose size no signature tells
_TEXT = "To be, or not to be, that is the question"


def make(
    signature: Signature, given: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], rows: int
) -> dict[str, np.ndarray]:
    """The given inputs and made-up others: those without a default, or with a shape to be filled.

    Floats are in [0, 1), whole numbers 0 or 1 (seeds, labels and class numbers that every model has), strings
    a line of text, or a PNG for names that end in `_bytes`.

    Args:
      shapes: input -> shape without the batch, for sizes that the signature leaves open.
      rows: of made-up inputs that have a batch.
    Raises:
      UsageError: a size that the signature leaves open and `shapes` does not say, or a type that is not made.
    """
    generator = np.random.default_rng(0)
    made = {}
    for name, spec in signature.inputs.items():
        if name in given or (spec.default is not None and name not in shapes):
            continue
        made[name] = _values(spec, _shape(spec, shapes.get(name), rows), generator)
    return {**given, **made}


def shapes_in(words: list[str]) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """NAME=random:224x224x3 -> {"NAME": (224, 224, 3)}, and the other words.

    Raises:
      UsageError: "random:" without sizes.
    """
    shapes, others = {}, []
    for word in words:
        name, _, value = word.partition("=")
        if not value.startswith(_RANDOM):
            others.append(word)
            continue
        sizes = value.removeprefix(_RANDOM)
        if not re.fullmatch(r"\d+(x\d+)*", sizes):
            raise UsageError(f"{word!r}: expected NAME=random:SIZES without the batch, such as 224x224x3")
        shapes[name] = tuple(map(int, sizes.split("x")))
    return shapes, others


def _shape(spec: TensorSpec, wanted: tuple[int, ...] | None, rows: int) -> tuple[int, ...]:
    if wanted is not None:
        return (rows, *wanted)
    if spec.shape is None or None in spec.shape[1:]:
        raise UsageError(
            f"the sizes of input {spec.name!r} ({spec}) are yours to choose: {spec.name}=random:SIZES, "
            f"without the batch, such as 224x224x3, or {spec.name}=@FILE"
        )
    return tuple(rows if size is None else size for size in spec.shape)


def _values(spec: TensorSpec, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    if spec.dtype == "string":
        value = _TEXT.encode()
        if spec.name.endswith("_bytes"):
            size = (_PICTURE_SIZE, _PICTURE_SIZE, 3)
            value = png.encode(generator.integers(0, 256, size, np.uint8))
        return np.full(shape, value, object)
    if spec.dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    try:
        if "int" in spec.dtype:
            return tensors.to_array(generator.integers(0, 2, shape), spec.dtype)
        if "complex" in spec.dtype:
            return tensors.to_array(generator.random(shape) + 0j, spec.dtype)
        return tensors.to_array(generator.random(shape), spec.dtype)
    except ValueError as error:
        raise UsageError(f"input {spec.name!r}: {error}") from None
