"""What servers say of their models, what they are told to serve, and whether inputs fit a signature."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from serving import errors, tensors

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a signature."""

    name: str
    dtype: str  # "float32", "string" ...
    shape: tuple[int | None, ...] | None  # None inside: any size; None alone: any rank
    default: np.ndarray | None = None  # the server's value when the input is left out

    def __str__(self) -> str:
        return f"{self.dtype} {_shape_text(self.shape)}"


@dataclass(frozen=True)
class Signature:
    """One function of a model."""

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method_name: str


@dataclass(frozen=True)
class ModelMetadata:
    """The signatures of one version of a model, by name."""

    model: str
    version: int
    signatures: Mapping[str, Signature]

    def signature(self, name: str) -> Signature:
        """The signature of this name; "" = "serving_default".

        Raises:
          errors.SignatureNotFound: there is none; the message lists those that are.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise errors.SignatureNotFound(
                f"model {self.model!r} has no signature {name!r}{hint(name, self.signatures)}"
            )
        return self.signatures[name]


@dataclass(frozen=True)
class VersionStatus:
    """State of one version: START, LOADING, AVAILABLE, UNLOADING or END."""

    version: int
    state: str
    error_code: str  # gRPC's name, "OK" if all is well
    error_message: str


@dataclass(frozen=True)
class ServedModel:
    """One model in `reload`'s list."""

    base_path: str | os.PathLike[str]  # on the server's side
    versions: Literal["all"] | Iterable[int] | None = None  # None: the newest
    labels: Mapping[str, int] | None = None  # label -> version


def check(
    metadata: ModelMetadata, signature: str, inputs: Mapping[str, ArrayLike], outputs: Iterable[str]
) -> dict[str, np.ndarray]:
    """The inputs as arrays, once every name, dtype and shape fits the signature.

    A single number or text for an input of shape [?] or [N] stands for all its rows: as many as the first
    other input has, else one.

    Raises:
      errors.SignatureNotFound, errors.InvalidInput: they do not fit; the message says where.
    """
    found = metadata.signature(signature)
    if not isinstance(inputs, Mapping):
        example = ", ".join(f"{name!r}: ..." for name in found.inputs)
        raise errors.InvalidInput(
            f"expected inputs by name, {{{example}}}, given {type(inputs).__name__}",
            given=type(inputs).__name__,
        )
    arrays = {}
    single = []
    for key, values in inputs.items():
        spec = found.inputs.get(key)
        if spec is None:
            raise errors.InvalidInput(
                f"signature {found.name!r} has no input {key!r}{hint(key, found.inputs)}", input=key
            )
        arrays[key] = array = _array(spec, values)
        if not array.shape and spec.shape:
            single.append(key)
    if len(inputs) < len(found.inputs):
        missing = [
            spec for key, spec in found.inputs.items() if key not in inputs and spec.default is None
        ]
        if missing:
            names = ", ".join(f"{spec.name!r} ({spec})" for spec in missing)
            raise errors.InvalidInput(
                f"signature {found.name!r} also needs input {names}",
                input=missing[0].name,
                expected=str(missing[0]),
            )
    for key in outputs:
        if key not in found.outputs:
            raise errors.InvalidInput(
                f"signature {found.name!r} has no output {key!r}{hint(key, found.outputs)}"
            )
    if single:
        rows = next((array.shape[0] for key, array in arrays.items() if array.shape), 1)
        for key in single:
            wanted = found.inputs[key].shape or (None,)
            arrays[key] = np.full(rows if wanted[0] is None else wanted[0], arrays[key])
    return arrays


def _array(spec: TensorSpec, values: ArrayLike) -> np.ndarray:
    try:
        array = tensors.to_array(values, spec.dtype)
    except ValueError as error:
        raise errors.InvalidInput(
            f"input {spec.name!r}: {error}", input=spec.name, expected=str(spec), given=_given(values)
        ) from None
    if spec.shape is None or _fits(array.shape, spec.shape):
        return array
    if not array.shape and len(spec.shape) == 1:
        return array  # one value for all rows
    raise errors.InvalidInput(
        f"input {spec.name!r}: expected shape {_shape_text(spec.shape)}, given {_shape_text(array.shape)}",
        input=spec.name,
        expected=str(spec),
        given=_given(values),
    )


def _given(values: ArrayLike) -> str:
    """What was handed in, in the words of a TensorSpec."""
    try:
        array = tensors.to_array(values)
    except ValueError:
        return type(values).__name__
    name = "string" if array.dtype == object else array.dtype.name
    return f"{name} {_shape_text(array.shape)}"


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    if len(shape) != len(expected):
        return False
    for size, wanted in zip(shape, expected, strict=True):  # a loop: a tenth of all(...), at every call
        if wanted is not None and size != wanted:
            return False
    return True


def _shape_text(shape: tuple[int | None, ...] | None) -> str:
    if shape is None:
        return "of any rank"
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def hint(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the likeliest one, and all there are."""
    import difflib  # for mistakes only: importing it takes as long as a call

    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return f"{guess} (it has: {', '.join(names)})"
