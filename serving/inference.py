"""Requests against one loaded model: which tensors go in and out of a signature, and upstream's refusals.

The one implementation behind the gRPC and the REST face; codes and texts are those of TensorFlow
Serving's predict_util.cc.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from serving import memory, status, tensors
from serving.servable import Runner

_log = logging.getLogger(__name__)

DEFAULT_SIGNATURE = "serving_default"

# Of values that a message does not hold: what one input may have, and its share of the memory that is free.
# An input's memory is taken several times over: by the run, by what it computes and by the answer.
_FREELY_FILLED = 2**22
_SHARE_FILLED = 32
_STRING_BYTES = 32  # of each besides its text: numpy's pointer, and 24 in TensorFlow

_METHOD_NAMES = tuple(f"tensorflow/serving/{method}" for method in ("predict", "classify", "regress"))


class _Signature:
    """What each request asks of a SignatureDef, whose own maps make objects anew at each look."""

    def __init__(self, definition: meta_graph_pb2.SignatureDef) -> None:
        self.method_name = definition.method_name
        # By name: of the tensor in the graph.
        self.inputs = {alias: info.name for alias, info in sorted(definition.inputs.items())}
        self.outputs = {alias: info.name for alias, info in sorted(definition.outputs.items())}
        self.defaults = dict(definition.defaults)


# Of each loaded model, for as long as it is loaded.
_signatures: weakref.WeakKeyDictionary[Runner, dict[str, _Signature]] = weakref.WeakKeyDictionary()


def predict(
    model: Runner,
    signature_name: str,
    inputs: Mapping[str, tensor_pb2.TensorProto | np.ndarray],
    output_filter: Sequence[str],
    timeout: float | None,
    *,
    check_method_name: bool = False,
) -> tuple[str, dict[str, np.ndarray]]:
    """Runs one signature.

    Args:
      signature_name: "" = serving_default.
      inputs: by the signature's names; those with a default may be left out.
      output_filter: wanted outputs; empty = all.
      timeout: seconds, None = none.
      check_method_name: refuse signatures that are not declared for inference.
    Returns:
      (the signature's name, output name -> array).
    Raises:
      status.Error: upstream's refusals and the ops' own.
    """
    signature_name = signature_name or DEFAULT_SIGNATURE
    known = _signatures.get(model)
    if known is None:
        known = {name: _Signature(definition) for name, definition in model.signature_defs.items()}
        _signatures[model] = known
    signature = known.get(signature_name)
    if signature is None:
        raise status.failed_precondition(f'Serving signature key "{signature_name}" not found.')
    if check_method_name and signature.method_name not in _METHOD_NAMES:
        raise status.internal(
            f"Expected prediction signature method_name to be one of {_set(_METHOD_NAMES)}. "
            f"Was: {signature.method_name}"
        )
    feeds = _feeds(signature, inputs)
    names = _output_names(signature, output_filter)
    arrays = model.run(feeds, [signature.outputs[name] for name in names], timeout)
    return signature_name, dict(zip(names, arrays, strict=True))


def _feeds(
    signature: _Signature, inputs: Mapping[str, tensor_pb2.TensorProto | np.ndarray]
) -> dict[str, np.ndarray]:
    """Graph tensor name -> array, for every input of the signature."""
    sent, known, defaults = set(inputs), signature.inputs.keys(), signature.defaults
    if len(sent) > len(known) or (len(sent) < len(known) and not defaults):
        raise status.invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(known)} "
            f"len({_set(sent)}) != len({_set(known)}). Sent extra: {_set(sent - known)}. "
            f"Missing but required: {_set(known - sent)}."
        )
    feeds = {}
    for alias, tensor in signature.inputs.items():
        if alias not in sent and alias not in defaults:
            raise status.invalid_argument(
                f"Signature input alias: {alias}(feed name: {tensor}) not found in request and "
                f"no default value provided. Inputs expected to be in the request {_set(sent)}, or "
                f"default input alias set: {','.join(sorted(defaults))}"
            )
        value = inputs[alias] if alias in sent else defaults[alias]
        if isinstance(value, np.ndarray):
            feeds[tensor] = value
            continue
        try:
            array = tensors.from_content(value)
            if array is None:
                _refuse_large_fill(alias, value)
                array = tensors.from_proto(value)
            feeds[tensor] = array
        except (ValueError, TypeError) as error:  # TypeError: TensorFlow knows no such dtype
            _log.debug("input %s: %s", alias, error)  # upstream's text does not hold the reason
            raise status.invalid_argument(f"tensor parsing error: {alias}") from None
    if sent and not sent <= known:
        raise status.invalid_argument(
            f"Inputs contains invalid name. Used request inputs: {','.join(sorted(sent & known))}, "
            f"request input: {','.join(sorted(sent))}"
        )
    return feeds


def _refuse_large_fill(alias: str, value: tensor_pb2.TensorProto) -> None:
    """A shape may say more than the values that come with it, which are then repeated: upstream lets 30 bytes
    fill all memory."""
    count = math.prod(dim.size for dim in value.tensor_shape.dim)
    if value.dtype == types_pb2.DT_STRING:
        last = value.string_val[-1] if value.string_val else b""
        size = (count - len(value.string_val)) * (_STRING_BYTES + len(last))
        if size <= _FREELY_FILLED or count * 8 >= 2**31:  # `from_proto` refuses so many pointers
            return
        sent = value.ByteSize()
    else:
        if count <= _FREELY_FILLED:
            return
        sent = value.ByteSize()
        if sent >= count:  # a byte for each value, or more: they are all there
            return
        size = count * tf.dtypes.as_dtype(value.dtype).size
        if size >= 2**31:  # no message could hold it: `from_proto` refuses that
            return
    most = memory.available() // _SHARE_FILLED
    if size > most:
        raise status.resource_exhausted(
            f"Input {alias} has {sent} bytes, and {size} when its values are repeated to fill its shape; now "
            f"{most} may be filled, 1/{_SHARE_FILLED} of the memory that is free: send fewer, or all of them"
        )


def _output_names(signature: _Signature, output_filter: Sequence[str]) -> list[str]:
    seen: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise status.invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in "
                f"the set {_set(signature.outputs)}."
            )
        if alias in seen:
            raise status.invalid_argument(f"duplicate output tensor alias: {alias}")
        seen.append(alias)
    return seen or list(signature.outputs)


def _set(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
