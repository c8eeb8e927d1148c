"""The server's gRPC face: translates between TensorFlow Serving's messages and the core."""

from __future__ import annotations

import functools
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import grpc
import tensorflow as tf
from google.protobuf import message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2,
    predict_pb2,
    prediction_service_pb2,
    regression_pb2,
)

from serving import examples, inference, messages, status, tensors, workers
from serving.repository import Repository
from serving.request_log import RequestLoggers
from serving.telemetry import Call, Telemetry

_log = logging.getLogger(__name__)

_FAR_FUTURE_SECONDS = 1e9  # where gRPC puts the deadline of a call that has none
_MAX_MESSAGE_CHARACTERS = 1024  # upstream cuts longer status texts
_CODES = {code.value[0]: code for code in grpc.StatusCode}  # TensorFlow's codes are gRPC's
_ONLY_LISTS = (
    "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
    "supported"
)


class Options(NamedTuple):
    """Upstream's flags of these names."""

    enable_grpc_healthcheck_service: bool = False
    enable_profiler: bool = True
    enable_serialization_as_tensor_content: bool = False
    enable_signature_method_name_check: bool = False


class _Asked(NamedTuple):
    """What a request turned out to be about, for the logs."""

    model: str = ""
    version: int | None = None
    signature: str = ""
    run_seconds: float | None = None
    examples: int = 0


# An answer is a message, or the bytes of one where building it would cost more than the model.
_Answer = tuple[message.Message | bytes, _Asked]
_Method = Callable[[Any, grpc.ServicerContext], _Answer]


class Calls:
    """The unary calls in flight: from when the message is there until the answer is sent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._last = 0.0

    def add(self, context: grpc.ServicerContext) -> None:
        with self._lock:
            self._open += 1
        if not context.add_callback(self._end):  # it has ended already
            self._end()

    def _end(self) -> None:
        with self._lock:
            self._open -= 1
            self._last = time.monotonic()

    def last(self) -> float:
        """Until when there were any, by `time.monotonic`."""
        with self._lock:
            return time.monotonic() if self._open else self._last


def add_services(
    server: grpc.Server,
    repository: Repository,
    telemetry: Telemetry,
    request_loggers: RequestLoggers,
    total: Callable[[str], int | None],
    calls: Calls,
    options: Options,
) -> health.HealthServicer | None:
    """Registers every service of upstream's.

    Args:
      total: of a counter among the metrics, by its name; for HandleReloadConfigRequest.
      calls: told of each call of TensorFlow's services.
    Returns:
      the service for health, if its flag asks for it.
    """
    api = _Api(repository, total, options)
    services: dict[str, dict[str, tuple[_Method, type[message.Message]]]] = {
        _service(prediction_service_pb2, "PredictionService"): {
            "Predict": (api.predict, predict_pb2.PredictRequest),
            "Classify": (api.classify, classification_pb2.ClassificationRequest),
            "Regress": (api.regress, regression_pb2.RegressionRequest),
            "MultiInference": (api.multi_inference, inference_pb2.MultiInferenceRequest),
            "GetModelMetadata": (
                api.get_model_metadata,
                get_model_metadata_pb2.GetModelMetadataRequest,
            ),
        },
        _service(model_service_pb2, "ModelService"): {
            "GetModelStatus": (api.get_model_status, get_model_status_pb2.GetModelStatusRequest),
            "HandleReloadConfigRequest": (
                api.handle_reload_config_request,
                model_management_pb2.ReloadConfigRequest,
            ),
        },
    }
    for service, methods in services.items():
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                _handler(f"/{service}/{name}", name, method, request, telemetry, request_loggers, calls)
            )
            for name, (method, request) in methods.items()
        }
        # Registered: gRPC then need not look for each call's method.
        server.add_registered_method_handlers(service, handlers)
    names = [*services, reflection.SERVICE_NAME]
    if options.enable_profiler:
        _add_profiler(server, calls)
    servicer = None
    if options.enable_grpc_healthcheck_service:
        servicer = _Health()
        for name in ("ModelService", "PredictionService"):
            servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        names.append(health.SERVICE_NAME)
        follow = functools.partial(_follow_health, servicer, repository, {}, threading.Lock())
        repository.subscribe(follow)
        follow()
    reflection.enable_server_reflection(names, server)
    return servicer


class _Health(health.HealthServicer):
    """Models that were dropped are SERVICE_UNKNOWN to those who watch, and not found by those who ask."""

    def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        response = super().Check(request, context)
        if response.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            return health_pb2.HealthCheckResponse()
        return response


def _follow_health(
    servicer: health.HealthServicer,
    repository: Repository,
    known: dict[str, int],
    one_at_a_time: threading.Lock,
) -> None:
    """A health service of each model's name; SERVING while a version is available."""
    with one_at_a_time:
        missing = set(repository.missing())
        now = dict.fromkeys(known, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        for name in repository.models():
            now[name] = (
                health_pb2.HealthCheckResponse.NOT_SERVING
                if name in missing
                else health_pb2.HealthCheckResponse.SERVING
            )
        for name, state in now.items():
            if known.get(name) != state:  # those who watch hear of each
                servicer.set(name, state)
        known.update(now)


def _handler(
    path: str,
    api: str,
    method: _Method,
    request_class: type[message.Message],
    telemetry: Telemetry,
    request_loggers: RequestLoggers,
    calls: Calls,
) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    """From bytes to bytes: TensorFlow's errors become gRPC's (the codes are the same numbers)."""

    def handle(raw: bytes, context: grpc.ServicerContext) -> bytes:
        calls.add(context)
        began = time.perf_counter()
        code, text, answer, asked = "OK", "", b"", _Asked()
        request = None
        try:
            request = request_class.FromString(raw)
            if not context.is_active():  # given up while it waited for its turn: nobody will read the answer
                raise tf.errors.CancelledError(None, None, "Cancelled")
            with workers.AskedBy(context.is_active):
                made, asked = method(request, context)
            answer = made if isinstance(made, bytes) else made.SerializeToString()
        except message.DecodeError:
            code, text = "INTERNAL", f"The request is not a {request_class.DESCRIPTOR.full_name} message"
        except status.Error as error:
            code, text = _CODES[error.error_code].name, error.message
        except ValueError as error:  # protobuf's word for a message past 2 GiB
            code, text = "INTERNAL", f"The answer cannot be sent: {error}"
        except Exception as error:  # a mistake of ours is one answer, and told like any other
            _log.exception("%s", path)
            code, text = "INTERNAL", f"{type(error).__name__}: {error}"
        if code != "OK" and request is not None and hasattr(request, "model_spec"):
            asked = _Asked(request.model_spec.name, None, request.model_spec.signature_name)
        telemetry.record(
            Call(
                entrypoint="GRPC",
                api=api,
                path=path,
                model=asked.model,
                version=asked.version,
                signature=asked.signature,
                code=code,
                seconds=time.perf_counter() - began,
                request_bytes=len(raw),
                response_bytes=len(answer),
                peer=context.peer(),
                run_seconds=asked.run_seconds,
                examples=asked.examples,
            )
        )
        if code != "OK":
            if len(text) > _MAX_MESSAGE_CHARACTERS:
                text = text[:_MAX_MESSAGE_CHARACTERS] + "...TRUNCATED"
            context.abort(grpc.StatusCode[code], text)
        if asked.run_seconds is not None and (logger := request_loggers.wanting(asked.model)):
            logger.log(api, asked.model, asked.version or 0, asked.signature, raw, answer)
        return answer

    return handle


def _service(module: Any, name: str) -> str:
    """The full name; from the descriptor, so that reflection finds it in the pool."""
    return module.DESCRIPTOR.services_by_name[name].full_name


def _time_left(context: grpc.ServicerContext) -> float | None:
    """Seconds until the call's deadline; None: it has none."""
    left = context.time_remaining()
    return left if left is not None and left < _FAR_FUTURE_SECONDS else None


def _spec(request: Any) -> model_pb2.ModelSpec:
    if not request.HasField("model_spec"):
        raise status.invalid_argument("Missing ModelSpec")
    return request.model_spec


def _choice(spec: model_pb2.ModelSpec) -> tuple[str, int | None, str | None]:
    """(model, version, label) for `Repository.use`."""
    kind = spec.WhichOneof("version_choice")
    return (
        spec.name,
        spec.version.value if kind == "version" else None,
        spec.version_label if kind == "version_label" else None,
    )


class _Api:
    """One method for each RPC."""

    def __init__(
        self, repository: Repository, total: Callable[[str], int | None], options: Options
    ) -> None:
        self._repository = repository
        self._total = total
        self._check_method_name = options.enable_signature_method_name_check
        self._tensor_wire = (
            tensors.to_content_wire
            if options.enable_serialization_as_tensor_content
            else tensors.to_values_wire
        )

    def predict(self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext) -> _Answer:
        spec = _spec(request)
        with self._repository.use(*_choice(spec)) as (model, version):
            began = time.perf_counter()
            signature, outputs = inference.predict(
                model,
                spec.signature_name,
                request.inputs,
                request.output_filter,
                _time_left(context),
                check_method_name=self._check_method_name,
            )
            ran = time.perf_counter() - began
        answer = [_answered_spec(spec.name, version, signature)]
        for name, array in outputs.items():
            # An entry of the map `outputs` = 1. Written by hand, as the stock message would parse and print
            # each value once more: megabytes of them for a picture.
            tensor = self._tensor_wire(array)
            answer += (messages.entry(1, name, len(tensor)), tensor)
        return b"".join(answer), _Asked(spec.name, version, signature, ran)

    def classify(
        self, request: classification_pb2.ClassificationRequest, context: grpc.ServicerContext
    ) -> _Answer:
        response = classification_pb2.ClassificationResponse()
        return self._on_examples(request, context, response, examples.classify)

    def regress(self, request: regression_pb2.RegressionRequest, context: grpc.ServicerContext) -> _Answer:
        response = regression_pb2.RegressionResponse()
        return self._on_examples(request, context, response, examples.regress)

    def _on_examples(
        self,
        request: Any,
        context: grpc.ServicerContext,
        response: Any,
        method: Callable[..., message.Message],
    ) -> _Answer:
        spec = _spec(request)
        with self._repository.use(*_choice(spec)) as (model, version):
            began = time.perf_counter()
            result = method(
                model,
                spec.signature_name,
                examples.serialized(request.input),
                _time_left(context),
                check_method_name=self._check_method_name,
            )
            ran = time.perf_counter() - began
        response.result.CopyFrom(result)
        signature = spec.signature_name or inference.DEFAULT_SIGNATURE
        response.model_spec.ParseFromString(_spec_fields(spec.name, version, signature))
        return response, _Asked(spec.name, version, signature, ran)

    def multi_inference(
        self, request: inference_pb2.MultiInferenceRequest, context: grpc.ServicerContext
    ) -> _Answer:
        # The model spec of the first task picks the version for all.
        spec = request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
        given = examples.serialized(request.input)
        with self._repository.use(*_choice(spec)) as (model, version):
            began = time.perf_counter()
            results = examples.multi_inference(
                model,
                request.tasks,
                given,
                _time_left(context),
                check_method_name=self._check_method_name,
            )
            ran = time.perf_counter() - began
        response = inference_pb2.MultiInferenceResponse(results=results)
        for result in response.results:
            result.model_spec.version.value = version
        return response, _Asked(spec.name, version, spec.signature_name, ran, len(given))

    def get_model_metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> _Answer:
        spec = _spec(request)
        if not request.metadata_field:
            raise status.invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise status.invalid_argument(f"Metadata field {field} is not supported")
        signatures = get_model_metadata_pb2.SignatureDefMap()
        with self._repository.use(*_choice(spec)) as (model, version):
            for name, definition in model.signature_defs.items():
                signatures.signature_def[name].CopyFrom(definition)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = spec.name
        response.model_spec.version.value = version
        response.metadata["signature_def"].Pack(signatures)
        return response, _Asked(spec.name, version)

    def get_model_status(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> _Answer:
        spec = _spec(request)
        # A label is ignored here, as upstream.
        versions = self._repository.model_status(spec.name, _choice(spec)[1])
        response = get_model_status_pb2.GetModelStatusResponse()
        for number, state, error in versions:
            entry = response.model_version_status.add(version=number, state=state)
            entry.status.error_code = error.error_code if error else 0
            entry.status.error_message = error.message if error else ""
        return response, _Asked(spec.name)

    def handle_reload_config_request(
        self, request: model_management_pb2.ReloadConfigRequest, context: grpc.ServicerContext
    ) -> _Answer:
        # The gRPC status mirrors response.status, so after an error the caller is sent the status alone.
        if request.config.WhichOneof("config") != "model_config_list":
            raise status.invalid_argument(_ONLY_LISTS)
        before = {name: self._total(name) for name in request.metric_names}
        self._repository.reload(request.config, _time_left(context))
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        for name, count in before.items():
            if count is not None:
                response.metric.add(name=name, int64_value_increase=(self._total(name) or 0) - count)
        return response, _Asked()


def _spec_fields(name: str, version: int, signature: str) -> bytes:
    return model_pb2.ModelSpec(
        name=name, version={"value": version}, signature_name=signature
    ).SerializeToString()


@functools.lru_cache(1024)
def _answered_spec(name: str, version: int, signature: str) -> bytes:
    """The field `model_spec` = 2 of an answer, on the wire; the same for most answers."""
    return tensors.length_delimited(2, _spec_fields(name, version, signature))


# Profiler -------------------------------------------------------------------------------------------


def _add_profiler(server: grpc.Server, calls: Calls) -> None:
    """`tensorflow.ProfilerService`, passed on to TensorFlow's own server for it.

    That one listens on a port of its own, on all interfaces: it is started by the first request, so that
    a server nobody profiles has no such port.
    """
    started = threading.Lock()
    channels: list[grpc.Channel] = []

    def channel() -> grpc.Channel:
        with started:
            if not channels:
                with socket.socket() as free:
                    free.bind(("", 0))
                    port = free.getsockname()[1]
                tf.profiler.experimental.server.start(port)
                unlimited = [(f"grpc.max_{way}_message_length", -1) for way in ("receive", "send")]
                channels.append(grpc.insecure_channel(f"127.0.0.1:{port}", options=unlimited))
            return channels[0]

    def passed_on(path: str) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def handle(raw: bytes, context: grpc.ServicerContext) -> bytes:
            calls.add(context)
            try:
                with workers.blocked():
                    return channel().unary_unary(path)(raw, timeout=_time_left(context))
            except grpc.RpcError as error:
                return context.abort(error.code(), error.details())
            except status.Error as error:  # TensorFlow's own server does not start
                return context.abort(_CODES[error.error_code], error.message)

        return handle

    service = "tensorflow.ProfilerService"
    methods: Iterable[str] = ("Profile", "Monitor")
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(passed_on(f"/{service}/{name}")) for name in methods
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
