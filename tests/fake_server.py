"""A gRPC server that speaks TensorFlow Serving's protocol and runs Python functions: no TensorFlow.

For what a real server does not do on demand: fail, hang, answer nonsense, change between two calls.
`python tests/fake_server.py [port]` prints its address and doubles until it is killed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import numpy as np

from serving import calls, messages, tensors, wire, wire_pb2

Arrays = Mapping[str, np.ndarray]
Specs = Mapping[str, tuple[str, tuple[int, ...] | None]]  # name -> (DataType's name, shape; -1: any size)


def _double(inputs: Arrays) -> Arrays:
    return {"y": inputs["x"] * 2}


@dataclass
class FakeModel:
    """One version with one signature: by default y = 2 x, float32 [?]."""

    version: int = 1
    inputs: Specs = field(default_factory=lambda: {"x": ("DT_FLOAT", (-1,))})
    outputs: Specs = field(default_factory=lambda: {"y": ("DT_FLOAT", (-1,))})
    defaults: Arrays = field(default_factory=dict)
    run: Callable[[Arrays], Arrays] = _double
    signature: str = "serving_default"

    def metadata(self, name: str) -> bytes:
        definition = wire_pb2.SignatureDef()
        for specs, infos in ((self.inputs, definition.inputs), (self.outputs, definition.outputs)):
            for key, (dtype, shape) in specs.items():
                infos[key].dtype = dtype
                if shape is None:
                    infos[key].tensor_shape.unknown_rank = True
                for size in shape or ():
                    infos[key].tensor_shape.dim.add(size=size)
        for key, array in self.defaults.items():
            definition.defaults[key].CopyFrom(tensors.to_proto(array))
        signatures = wire_pb2.SignatureDefMap(signature_def={self.signature: definition})
        answer = wire_pb2.GetModelMetadataResponse()
        answer.model_spec.MergeFromString(messages.model_spec(name, self.version))
        answer.metadata["signature_def"].value = signatures.SerializeToString()
        return answer.SerializeToString()


class FakeServer(grpc.GenericRpcHandler):
    """Serves `models` (change them as you like) on 127.0.0.1 until the end of the `with` block.

    `script`: what the next calls but those for metadata do instead: a status code to fail with, seconds to
    wait first, or bytes to answer. `asked`: the methods called so far.
    """

    def __init__(
        self,
        models: Mapping[str, FakeModel] | None = None,
        *,
        address: str = "127.0.0.1:0",
        credentials: grpc.ServerCredentials | None = None,
        threads: int = 8,
    ) -> None:
        self.models = dict({"double": FakeModel()} if models is None else models)
        self.script: list[grpc.StatusCode | float | bytes] = []
        self.asked: list[str] = []
        self._server = grpc.server(
            futures.ThreadPoolExecutor(threads),
            handlers=[self],
            options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)],
        )
        if credentials is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, credentials)
        self.address = address if address.startswith("unix:") else f"127.0.0.1:{port}"
        self._server.start()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.asked.append(details.method.rpartition("/")[2])
            if details.method != calls.METADATA and self.script:
                step = self.script.pop(0)
                if isinstance(step, bytes):
                    return step
                if isinstance(step, float):
                    time.sleep(step)
                else:
                    context.abort(step, f"scripted {step.name}")
            return self._answer(details.method, request, context)

        return grpc.unary_unary_rpc_method_handler(answer)

    def _answer(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        if method not in (calls.PREDICT, calls.METADATA):
            context.abort(grpc.StatusCode.UNIMPLEMENTED, method)
        # Each method's request begins with a ModelSpec; this message has nothing else.
        name = wire_pb2.GetModelStatusRequest.FromString(request).model_spec.name
        model = self.models.get(name)
        if model is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Latest({name})")
            raise AssertionError("abort raises")
        if method == calls.METADATA:
            return model.metadata(name)
        asked = wire_pb2.PredictRequest.FromString(request)
        given = {key: wire_pb2.DataType.Name(proto.dtype) for key, proto in asked.inputs.items()}
        wanted = {key: dtype for key, (dtype, _) in model.inputs.items()}
        if not given.items() <= wanted.items():
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"expects {wanted}, given {given}")
        inputs = {key: tensors.from_proto(proto) for key, proto in asked.inputs.items()}
        return predict_answer(model.run(inputs), name, model.version, model.signature)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuses new calls at once; those in flight have a second."""
        self._server.stop(1.0).wait()


def predict_answer(outputs: Arrays, name: str, version: int, signature: str = "serving_default") -> bytes:
    """A PredictResponse as TensorFlow Serving writes it."""
    spec = wire.length_delimited(2, messages.model_spec(name, version, signature=signature))
    return spec + b"".join(
        wire.length_delimited(
            1,
            wire.length_delimited(1, key.encode()) + wire.length_delimited(2, tensors.to_values_wire(array)),
        )
        for key, array in outputs.items()
    )


if __name__ == "__main__":
    with FakeServer(address=f"127.0.0.1:{sys.argv[1] if sys.argv[1:] else 0}") as server:
        print(server.address, flush=True)
        while True:
            time.sleep(3600)
