"""Client of TensorFlow Serving and of the embedded server: numpy in, numpy out, no TensorFlow.

    with Client.connect("localhost:8500") as client:
        answer = client.predict("gan_fashion", {"seed": [0, 1], "label": [3, 3]},
                                signature="sample")
        answer["image"]  # float32 [2, 28, 28, 1]

Inputs are checked against the model's own signature before anything is sent, so that a mistake is
one exception that names the input, what it expects and what it was given.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from google.protobuf import message, wrappers_pb2
from numpy.typing import ArrayLike

from serving import errors, tensors, wire_pb2

_DEFAULT_SIGNATURE = "serving_default"

# gRPC refuses answers over 4 MiB unless told otherwise; a batch of images is larger.
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


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


@dataclass(frozen=True)
class VersionStatus:
    """State of one version: START, LOADING, AVAILABLE, UNLOADING or END."""

    version: int
    state: str
    error_code: str  # gRPC's name, "OK" if all is well
    error_message: str


class Client:
    """Calls a model server over a gRPC channel. Safe to share between threads.

    Every method raises `errors.ServerUnavailable`, `errors.DeadlineExceeded` and, for statuses that
    have no class of their own, `errors.ServerError`; all exceptions are `errors.ServingError`.
    """

    def __init__(self, channel: grpc.Channel, timeout: float | None = 60.0) -> None:
        """Takes over `channel` (`close` closes it).

        Args:
          channel: any gRPC channel; to send or receive over 4 MiB, it needs the two
            `grpc.max_*_message_length` options that `connect` sets.
          timeout: seconds for a call that states none itself; None = wait for ever.
        """
        self._channel = channel
        self._timeout = timeout
        self._cache: dict[tuple[str, int | None, str | None], ModelMetadata] = {}
        self._predict = _method(
            channel, "PredictionService/Predict", wire_pb2.PredictResponse.FromString
        )
        self._metadata = _method(
            channel,
            "PredictionService/GetModelMetadata",
            wire_pb2.GetModelMetadataResponse.FromString,
        )
        self._status = _method(
            channel, "ModelService/GetModelStatus", wire_pb2.GetModelStatusResponse.FromString
        )

    @classmethod
    def connect(cls, address: str, timeout: float | None = 60.0) -> Self:
        """Client for "host:port" or "unix:/path". The first call connects, not this one."""
        return cls(grpc.insecure_channel(address, options=_CHANNEL_OPTIONS), timeout)

    def close(self) -> None:
        """Closes the channel; calls in flight are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def predict(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        signature: str = "",
        version: int | None = None,
        label: str | None = None,
        outputs: Iterable[str] | None = None,
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs one signature of a model.

        Args:
          model: its name on the server.
          inputs: input name -> array, scalar or (nested) list; str and bytes for string inputs.
            Cast to the signature's dtype when that keeps the meaning (`tensors.to_array` has the
            rules). Inputs with a default may be left out: the server fills them in as the signature
            stores them.
          signature: its name; "" = "serving_default".
          version: a version number; None = the newest one loaded.
          label: a version label, instead of `version`.
          outputs: names of the wanted outputs; None = all.
          timeout: seconds for this call, fetching the metadata included each; None = the client's.
        Returns:
          output name -> array; strings as dtype object holding bytes. Arrays may be read-only.
        Raises:
          errors.ModelNotFound: no such model, version or label.
          errors.SignatureNotFound: no such signature; the message lists those that are.
          errors.InvalidInput: unknown, missing or misshapen input, wrong dtype, unknown output; or
            the model itself refused the values.
        """
        spec = _model_spec(model, version, label)
        spec.signature_name = signature
        wanted = list(outputs) if outputs is not None else []
        key = (model, version, label)
        cached = self._cache.get(key)
        metadata = cached or self.metadata(model, version=version, label=label, timeout=timeout)
        try:
            request = _predict_request(spec, metadata, inputs, wanted)
        except (errors.InvalidInput, errors.SignatureNotFound):
            if cached is None:
                raise
            # The server may have moved on to a version with other signatures.
            metadata = self._fetch_metadata(key, timeout)
            request = _predict_request(spec, metadata, inputs, wanted)
        try:
            response = self._call(self._predict, request, timeout)
        except (errors.InvalidInput, errors.SignatureNotFound):
            self._cache.pop(key, None)
            raise
        if response.model_spec.version.value != metadata.version:
            self._cache.pop(key, None)
        try:
            return {name: tensors.from_proto(proto) for name, proto in response.outputs.items()}
        except ValueError as error:
            raise errors.ServerError(f"model {model!r}: unreadable answer: {error}") from error

    def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> ModelMetadata:
        """Signatures of a model, remembered until a call shows that the server moved on.

        Raises:
          errors.ModelNotFound: no such model, version or label.
        """
        key = (model, version, label)
        return self._cache.get(key) or self._fetch_metadata(key, timeout)

    def status(
        self, model: str, *, version: int | None = None, timeout: float | None = None
    ) -> list[VersionStatus]:
        """State of every version the server has seen, newest first, or of the one asked for.

        Raises:
          errors.ModelNotFound: the server knows no version of the model, or not this one.
        """
        request = wire_pb2.GetModelStatusRequest(model_spec=_model_spec(model, version, None))
        response = self._call(self._status, request, timeout)
        codes = {code.value[0]: code.name for code in grpc.StatusCode}
        return [
            VersionStatus(
                version=entry.version,
                state=wire_pb2.ModelVersionStatus.State.Name(entry.state),
                error_code=codes.get(entry.status.error_code, str(entry.status.error_code)),
                error_message=entry.status.error_message,
            )
            for entry in response.model_version_status
        ]

    def _fetch_metadata(
        self, key: tuple[str, int | None, str | None], timeout: float | None
    ) -> ModelMetadata:
        request = wire_pb2.GetModelMetadataRequest(
            model_spec=_model_spec(*key), metadata_field=["signature_def"]
        )
        response = self._call(self._metadata, request, timeout)
        signatures = wire_pb2.SignatureDefMap.FromString(response.metadata["signature_def"].value)
        metadata = ModelMetadata(
            model=key[0],
            version=response.model_spec.version.value,
            signatures={
                name: _signature(name, definition)
                for name, definition in sorted(signatures.signature_def.items())
                # TensorFlow lists its initializer as a signature; it cannot be called.
                if name != "__saved_model_init_op"
            },
        )
        self._cache[key] = metadata
        return metadata

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable,
        request: message.Message,
        timeout: float | None,
    ) -> Any:
        try:
            return method(request, timeout=self._timeout if timeout is None else timeout)
        except grpc.RpcError as error:
            raise errors.from_rpc_error(error) from None


def _method(
    channel: grpc.Channel, name: str, parse: Callable[[bytes], message.Message]
) -> grpc.UnaryUnaryMultiCallable:
    return channel.unary_unary(
        f"/tensorflow.serving.{name}",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=parse,
    )


def _model_spec(model: str, version: int | None, label: str | None) -> wire_pb2.ModelSpec:
    if version is not None and label is not None:
        raise errors.InvalidInput("give a version or a label, not both")
    spec = wire_pb2.ModelSpec(name=model)
    if version is not None:
        spec.version.CopyFrom(wrappers_pb2.Int64Value(value=version))
    elif label is not None:
        spec.version_label = label
    return spec


def _signature(name: str, definition: wire_pb2.SignatureDef) -> Signature:
    return Signature(
        name=name,
        inputs={
            key: _tensor_spec(key, info, definition.defaults.get(key))
            for key, info in sorted(definition.inputs.items())
        },
        outputs={
            key: _tensor_spec(key, info, None) for key, info in sorted(definition.outputs.items())
        },
        method_name=definition.method_name,
    )


def _tensor_spec(
    name: str, info: wire_pb2.TensorInfo, default: wire_pb2.TensorProto | None
) -> TensorSpec:
    shape = None
    if not info.tensor_shape.unknown_rank:
        shape = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
    return TensorSpec(
        name=name,
        dtype=tensors.type_name(info.dtype),
        shape=shape,
        default=None if default is None else tensors.from_proto(default),
    )


def _predict_request(
    spec: wire_pb2.ModelSpec,
    metadata: ModelMetadata,
    inputs: Mapping[str, ArrayLike],
    outputs: list[str],
) -> wire_pb2.PredictRequest:
    """The request, once every name, dtype and shape fits the signature."""
    name = spec.signature_name or _DEFAULT_SIGNATURE
    if name not in metadata.signatures:
        raise errors.SignatureNotFound(
            f"model {metadata.model!r} has no signature {name!r}{_hint(name, metadata.signatures)}"
        )
    signature = metadata.signatures[name]
    for key in inputs:
        if key not in signature.inputs:
            raise errors.InvalidInput(
                f"signature {name!r} has no input {key!r}{_hint(key, signature.inputs)}"
            )
    missing = [
        f"{key!r} ({expected})"
        for key, expected in signature.inputs.items()
        if key not in inputs and expected.default is None
    ]
    if missing:
        raise errors.InvalidInput(f"signature {name!r} also needs input {', '.join(missing)}")
    for key in outputs:
        if key not in signature.outputs:
            raise errors.InvalidInput(
                f"signature {name!r} has no output {key!r}{_hint(key, signature.outputs)}"
            )
    request = wire_pb2.PredictRequest(model_spec=spec, output_filter=outputs)
    for key, values in inputs.items():
        # Written in place: a big tensor is not copied once more.
        tensors.write_proto(_input_array(signature.inputs[key], values), request.inputs[key])
    return request


def _input_array(spec: TensorSpec, values: ArrayLike) -> np.ndarray:
    try:
        array = tensors.to_array(values, spec.dtype)
    except ValueError as error:
        raise errors.InvalidInput(f"input {spec.name!r}: {error}") from None
    if spec.shape is not None and not _fits(array.shape, spec.shape):
        raise errors.InvalidInput(
            f"input {spec.name!r}: expected shape {_shape_text(spec.shape)}, "
            f"given {_shape_text(array.shape)}"
        )
    return array


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        wanted is None or size == wanted for size, wanted in zip(shape, expected, strict=True)
    )


def _shape_text(shape: tuple[int | None, ...] | None) -> str:
    if shape is None:
        return "of any rank"
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _hint(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return f"{guess} (it has: {', '.join(names)})"
