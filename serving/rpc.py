"""The messages of all methods but Predict, by protobuf: requests to bytes, answers from bytes.

`calls` imports this module when the first of them is needed: protobuf and the messages' descriptors are a
fifth of what importing the client takes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import grpc
import numpy as np
from google.protobuf import message, text_format

from serving import tensors, wire, wire_pb2
from serving.messages import Spec
from serving.schema import ModelMetadata, ServedModel, Signature, TensorSpec, VersionStatus

_Message = TypeVar("_Message", bound=message.Message)
Value = Any  # of a feature: a number, str, bytes, or an array or sequence of one of these


def _parse(kind: type[_Message], answer: bytes) -> _Message:
    try:
        return kind.FromString(answer)
    except message.DecodeError as error:
        raise ValueError(f"no {kind.DESCRIPTOR.name}: {error}") from None


# --- Models --------------------------------------------------------------------------------------


def metadata_request(spec: bytes) -> bytes:
    """A GetModelMetadataRequest. `spec`: from `messages.model_spec`."""
    return wire.length_delimited(1, spec) + wire.length_delimited(2, b"signature_def")


def read_metadata(model: str, answer: bytes) -> ModelMetadata:
    """The metadata in a GetModelMetadataResponse.

    Raises:
      ValueError: it is none.
    """
    response = _parse(wire_pb2.GetModelMetadataResponse, answer)
    found = _parse(wire_pb2.SignatureDefMap, response.metadata["signature_def"].value)
    return ModelMetadata(
        model=model,
        version=response.model_spec.version.value,
        signatures={
            name: _signature(name, definition)
            for name, definition in sorted(found.signature_def.items())
            # TensorFlow lists its initializer as a signature; it cannot be called.
            if name != "__saved_model_init_op"
        },
    )


def _signature(name: str, definition: wire_pb2.SignatureDef) -> Signature:
    return Signature(
        name=name,
        inputs={
            key: _tensor_spec(key, info, definition.defaults.get(key))
            for key, info in sorted(definition.inputs.items())
        },
        outputs={key: _tensor_spec(key, info, None) for key, info in sorted(definition.outputs.items())},
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


def status_request(spec: bytes) -> bytes:
    """A GetModelStatusRequest."""
    return wire.length_delimited(1, spec)


def read_status(answer: bytes) -> list[VersionStatus]:
    """The versions in a GetModelStatusResponse, in its order.

    Raises:
      ValueError: it is none.
    """
    codes = {code.value[0]: code.name for code in grpc.StatusCode}
    return [
        VersionStatus(
            version=entry.version,
            state=wire_pb2.ModelVersionStatus.State.Name(entry.state),
            error_code=codes.get(entry.status.error_code, str(entry.status.error_code)),
            error_message=entry.status.error_message,
        )
        for entry in _parse(wire_pb2.GetModelStatusResponse, answer).model_version_status
    ]


def reload_request(
    models: Mapping[str, str | os.PathLike[str] | ServedModel] | str | os.PathLike[str],
) -> bytes:
    """A ReloadConfigRequest; `models` as `Client.reload` takes them.

    Raises:
      ValueError: the file is no ModelServerConfig; a version or a name that cannot be sent.
      OSError: it cannot be read.
    """
    if isinstance(models, Mapping):
        config = _config(models)
    else:
        with open(models, "rb") as file:
            text = file.read()
        try:
            config = text_format.Parse(text, wire_pb2.ModelServerConfig())
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise ValueError(f"{os.fspath(models)}: no ModelServerConfig: {error}") from None
    return wire_pb2.ReloadConfigRequest(config=config).SerializeToString()


def _config(models: Mapping[str, str | os.PathLike[str] | ServedModel]) -> wire_pb2.ModelServerConfig:
    config = wire_pb2.ModelServerConfig()
    config.model_config_list.SetInParent()
    for name, each in models.items():
        served = each if isinstance(each, ServedModel) else ServedModel(each)
        entry = config.model_config_list.config.add(
            name=name,
            base_path=os.fspath(served.base_path),
            model_platform="tensorflow",
            version_labels=served.labels,
        )
        if isinstance(served.versions, str):
            if served.versions != "all":
                raise ValueError(f"model {name!r}: versions are 'all' or numbers, not {served.versions!r}")
            entry.model_version_policy.all.SetInParent()
        elif served.versions is not None:
            entry.model_version_policy.specific.versions.extend(served.versions)
    return config


def read_reload(answer: bytes) -> str:
    """What went wrong, by a ReloadConfigResponse; "" = nothing.

    Raises:
      ValueError: it is none.
    """
    status = _parse(wire_pb2.ReloadConfigResponse, answer).status
    return status.error_message or f"error {status.error_code}" if status.error_code else ""


def health_request(service: str) -> bytes:
    """A HealthCheckRequest."""
    return wire.length_delimited(1, service.encode())


def read_health(answer: bytes) -> str:
    """The name of the status in a HealthCheckResponse.

    Raises:
      ValueError: it is none.
    """
    status = _parse(wire_pb2.HealthCheckResponse, answer).status
    return wire_pb2.HealthCheckResponse.ServingStatus.Name(status)


# --- Classify and Regress ------------------------------------------------------------------------


def examples_request(
    spec: bytes, examples: Iterable[Mapping[str, Value] | bytes], context: Mapping[str, Value] | None
) -> bytes:
    """A ClassificationRequest, which is a RegressionRequest too.

    Args:
      spec: from `messages.model_spec`.
      examples: for each row its features by name, or a serialized tf.Example.
      context: features that all rows share.
    Raises:
      ValueError: a value that is neither numbers nor text, or bytes that are no tf.Example.
    """
    rows = [_example(row) for row in examples]
    if context is None:
        given = wire_pb2.Input(example_list=wire_pb2.ExampleList(examples=rows))
    else:
        shared = wire_pb2.ExampleListWithContext(examples=rows, context=_example(context))
        given = wire_pb2.Input(example_list_with_context=shared)
    return wire.length_delimited(1, spec) + wire.length_delimited(2, given.SerializeToString())


def _example(row: Mapping[str, Value] | bytes) -> wire_pb2.Example:
    if isinstance(row, bytes):
        return _parse(wire_pb2.Example, row)
    if not isinstance(row, Mapping):
        raise ValueError(f"expected features by name or a serialized tf.Example, given {row!r}")
    return wire_pb2.Example(
        features=wire_pb2.Features(feature={name: _feature(name, value) for name, value in row.items()})
    )


def _feature(name: str, value: Value) -> wire_pb2.Feature:
    """A tf.Example knows three kinds of lists: bytes, float32 and int64."""
    try:
        array = tensors.to_array(value)
        if array.dtype == object:
            return wire_pb2.Feature(bytes_list=wire_pb2.BytesList(value=array.ravel().tolist()))
        if array.dtype.kind == "f":
            floats = tensors.to_array(array, "float32").ravel()
            return wire_pb2.Feature(float_list=wire_pb2.FloatList(value=floats.tolist()))
        integers = array.astype(np.int64) if array.dtype == bool else tensors.to_array(array, "int64")
        return wire_pb2.Feature(int64_list=wire_pb2.Int64List(value=integers.ravel().tolist()))
    except ValueError as error:
        raise ValueError(f"feature {name!r}: {error}") from None


def read_classify(answer: bytes) -> tuple[Spec, dict[str, np.ndarray]]:
    """What a ClassificationResponse says.

    Returns:
      which model answered; classes [B, K], dtype object (bytes, as Predict gives them), and scores float32
      [B, K]. Read-only.
    Raises:
      ValueError: no ClassificationResponse, or rows that differ in length.
    """
    response = _parse(wire_pb2.ClassificationResponse, answer)
    rows = [row.classes for row in response.result.classifications]
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"rows of {', '.join(str(len(row)) for row in rows)} classes")
    shape = (len(rows), len(rows[0]) if rows else 0)
    classes = np.empty(shape[0] * shape[1], object)
    classes[:] = [each.label.encode() for row in rows for each in row]
    scores = np.array([[each.score for each in row] for row in rows], np.float32)
    arrays = {"classes": classes.reshape(shape), "scores": scores.reshape(shape)}
    return _answered(response.model_spec, arrays)


def read_regress(answer: bytes) -> tuple[Spec, dict[str, np.ndarray]]:
    """What a RegressionResponse says.

    Returns:
      which model answered; outputs float32 [B], read-only.
    Raises:
      ValueError: no RegressionResponse.
    """
    response = _parse(wire_pb2.RegressionResponse, answer)
    outputs = np.array([each.value for each in response.result.regressions], np.float32)
    return _answered(response.model_spec, {"outputs": outputs})


def _answered(
    spec: wire_pb2.ModelSpec, arrays: dict[str, np.ndarray]
) -> tuple[Spec, dict[str, np.ndarray]]:
    for array in arrays.values():
        array.flags.writeable = False
    return Spec(spec.name, spec.version.value, spec.signature_name), arrays
