"""The server's REST face: URLs and JSON to the core and back, as upstream's http_rest_api_handler.cc.

Beside upstream's URLs: GET /healthz, /readyz and /v1/models.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import re
import time
import urllib.parse
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from tensorflow.core.protobuf import error_codes_pb2
from tensorflow_serving.apis import classification_pb2, predict_pb2, regression_pb2

from serving import examples, inference, rest_answers, rest_requests, status, tensors
from serving.repository import Repository, State
from serving.request_log import RequestLogger, RequestLoggers
from serving.telemetry import Call, Telemetry
from serving.workers import Workers

_log = logging.getLogger(__name__)

_CPUS = os.cpu_count() or 1

_HTTP = {
    "OK": 200,
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}

# Names and labels are taken from the path as it was sent, and decoded after that.
_MODEL = r"/v1/models/(?P<model>[^/:]+)"
_CHOICE = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(rf"{_MODEL}{_CHOICE}:(?P<method>classify|regress|predict)", re.ASCII | re.IGNORECASE)
_GET = re.compile(
    rf"/v1/models(?:/(?P<model>[^/:]+))?{_CHOICE}(?:/(?P<metadata>metadata))?", re.ASCII | re.IGNORECASE
)
_OURS = re.compile(r"/v1/.*", re.IGNORECASE | re.DOTALL)

# libevent's own page.
_NOT_FOUND_PAGE = (
    b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"
)
_CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
_JSON_HEADERS = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Options:
    """What upstream has flags for, and the limits of a request."""

    num_threads: int = 4 * _CPUS
    timeout_in_ms: int = 30_000  # for one run of a model; <= 0: none
    enable_cors_support: bool = False
    enable_signature_method_name_check: bool = False
    metrics_path: str = ""  # "" = no metrics
    render_metrics: Callable[[], str | bytes] = bytes
    max_body_bytes: int = 2**31 - 1
    max_unpacked_bytes: int = 100 * 2**20  # of a gzip body; upstream's limit


class _Asked(NamedTuple):
    """What a request turned out to be about, for the logs."""

    model: str = ""
    version: int | None = None
    signature: str = ""
    method: str = ""
    run_seconds: float | None = None


class _Answer(NamedTuple):
    code: str  # "OK", "NOT_FOUND" ...
    body: bytes
    asked: _Asked


def app(
    repository: Repository, telemetry: Telemetry, request_loggers: RequestLoggers, options: Options
) -> Starlette:
    """The ASGI application. While `app.state.draining` is true it says that it is not ready.

    Raises:
      status.Error: INVALID_ARGUMENT: options that cannot be.
    """
    if options.num_threads < 1:
        raise status.invalid_argument(f"rest_api_num_threads must be positive; was {options.num_threads}")
    if options.metrics_path and not re.fullmatch(r"/[^{}]*", options.metrics_path):
        raise status.invalid_argument(
            f'prometheus_config: path is "{options.metrics_path}", expected one that begins with "/" and has '
            "no braces"
        )
    api = _Api(repository, telemetry, request_loggers, options)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        missing = repository.missing()
        draining = bool(request.app.state.draining)
        content = {"ready": not missing and not draining, "draining": draining, "missing": missing}
        return Response(_pretty(content), 200 if content["ready"] else 503, _JSON_HEADERS)

    async def metrics(_: Request) -> Response:
        page = await asyncio.get_running_loop().run_in_executor(None, options.render_metrics)
        return Response(page, headers={"Content-Type": "text/plain"})

    routes = [Route("/healthz", healthz), Route("/readyz", readyz)]
    if options.metrics_path:
        routes.insert(0, Route(options.metrics_path, metrics))
    application = Starlette(routes=routes)
    # Not as a Mount, which does not match a path with a newline in it.
    application.router.default = api
    application.router.redirect_slashes = False
    application.state.draining = False
    return application


class _Api:
    """All that is below /v1/."""

    def __init__(
        self,
        repository: Repository,
        telemetry: Telemetry,
        request_loggers: RequestLoggers,
        options: Options,
    ) -> None:
        self._repository = repository
        self._telemetry = telemetry
        self._request_loggers = request_loggers
        self._options = options
        self._timeout = options.timeout_in_ms / 1000 if options.timeout_in_ms > 0 else None
        # Not more that compute at a time than the gRPC face has; the others wait for batches and the like.
        self._workers = Workers(running=min(_CPUS + 1, options.num_threads), most=options.num_threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        path = scope["raw_path"].decode("latin-1")
        if not _OURS.fullmatch(path):
            page = Response(_NOT_FOUND_PAGE, 404, {"Content-Type": "text/html"})
            await page(scope, receive, send)
            return
        if scope["query_string"]:  # upstream sees it as part of the path
            path += "?" + scope["query_string"].decode("latin-1")
        headers = dict(_CORS_HEADERS) if self._options.enable_cors_support else {}
        try:
            try:
                body: bytes | status.Error = await self._body(request)
            except status.Error as error:
                body = error
                headers["Connection"] = "close"  # the rest of it is not waited for
            work = functools.partial(self._process, request, path, body)
            code, content = await asyncio.get_running_loop().run_in_executor(self._workers, work)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:  # the server stops, and its time to drain is over
            code, content = 503, rest_answers.error("The server is being stopped")
        response = Response(content, code, {**headers, **_JSON_HEADERS})
        await response(scope, receive, send)

    async def _body(self, request: Request) -> bytes:
        limit = self._options.max_body_bytes
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > limit:
            raise _too_large(limit)
        chunks, size = [], 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
        return b"".join(chunks)

    # In the workers' threads.

    def _process(self, request: Request, path: str, body: bytes | status.Error) -> tuple[int, bytes]:
        """HTTP status and body of the answer; tells telemetry."""
        began = time.perf_counter()
        if request.method == "OPTIONS":
            origin = request.headers.get("origin", "")
            good = "http://" in origin or "https://" in origin
            answer = _Answer("OK" if good else "INVALID_ARGUMENT", b"", _Asked())
        else:
            answer = self._answer(request, path, body)
        client = request.client
        self._telemetry.record(
            Call(
                entrypoint="REST",
                api=answer.asked.method,
                path=path,
                model=answer.asked.model,
                version=answer.asked.version,
                signature=answer.asked.signature,
                code=answer.code,
                seconds=time.perf_counter() - began,
                request_bytes=len(body) if isinstance(body, bytes) else 0,
                response_bytes=len(answer.body),
                peer=f"{client.host}:{client.port}" if client else "",
                run_seconds=answer.asked.run_seconds,
            )
        )
        return _HTTP[answer.code], answer.body

    def _answer(self, request: Request, path: str, body: bytes | status.Error) -> _Answer:
        pattern = {"POST": _POST, "GET": _GET}.get(request.method)
        found = pattern.fullmatch(path) if pattern else None
        parts = found.groupdict() if found else {}
        asked = _Asked(_decoded(parts.get("model")), method=(parts.get("method") or "").lower())
        try:
            if isinstance(body, status.Error):
                raise body
            if found is None:
                raise status.invalid_argument(f"Malformed request: {request.method} {path}")
            # 20 digits are too many already, and Python refuses to read thousands.
            version = int(parts["version"].lstrip("0")[:20] or "0") if parts["version"] else None
            if version is not None and version >= 2**63:
                return _Answer("INVALID_ARGUMENT", b"", asked)  # upstream's words for it never get out
            asked = asked._replace(version=version)
            label = _decoded(parts["label"]) if parts["label"] else None
            if asked.method:
                if "gzip" in request.headers.get("content-encoding", ""):
                    body = _unpacked(body, self._options.max_unpacked_bytes)
                method = {
                    "predict": self._predict,
                    "classify": self._on_examples,
                    "regress": self._on_examples,
                }[asked.method]
                return method(asked, label, body)
            if parts["metadata"]:
                return self._metadata(asked, label)
            if found[0].lower() == "/v1/models":
                return _Answer("OK", self._listing(), asked)
            return _Answer("OK", _pretty(self._status(_named(asked.model), version)), asked)
        except status.Error as error:
            code = error_codes_pb2.Code.Name(error.error_code)
            return _Answer(code, rest_answers.error(error.message), asked)
        except Exception as error:
            # A mistake of ours is one answer, not the connection's end.
            _log.exception("%s %s", request.method, path)
            return _Answer("INTERNAL", rest_answers.error(f"{type(error).__name__}: {error}"), asked)

    def _predict(self, asked: _Asked, label: str | None, body: bytes) -> _Answer:
        request = rest_requests.predict_request(body)
        signature = request.signature_name or inference.DEFAULT_SIGNATURE
        with self._repository.use(asked.model, asked.version, label) as (model, version):
            if signature not in model.signature_defs:
                raise status.invalid_argument(
                    f'Serving signature name: "{signature}" not found in signature def'
                )
            inputs = request.inputs(model.signature_defs[signature].inputs)
            began = time.perf_counter()
            _, outputs = inference.predict(
                model,
                signature,
                inputs,
                (),
                self._timeout,
                check_method_name=self._options.enable_signature_method_name_check,
            )
            asked = asked._replace(
                version=version, signature=signature, run_seconds=time.perf_counter() - began
            )
        write = rest_answers.predictions if request.row_format else rest_answers.outputs
        answer = _Answer("OK", write(outputs), asked)
        if logger := self._request_loggers.wanting(asked.model):
            _log_predict(logger, asked, inputs, outputs)
        return answer

    def _on_examples(self, asked: _Asked, label: str | None, body: bytes) -> _Answer:
        request = rest_requests.examples_request(body)
        signature = request.signature_name or inference.DEFAULT_SIGNATURE
        with self._repository.use(asked.model, asked.version, label) as (model, version):
            method: Callable[..., Any]
            method = examples.classify if asked.method == "classify" else examples.regress
            began = time.perf_counter()
            result = method(
                model,
                signature,
                request.examples,
                self._timeout,
                check_method_name=self._options.enable_signature_method_name_check,
            )
            asked = asked._replace(
                version=version, signature=signature, run_seconds=time.perf_counter() - began
            )
        write = rest_answers.classifications if asked.method == "classify" else rest_answers.regressions
        answer = _Answer("OK", write(result), asked)
        if logger := self._request_loggers.wanting(asked.model):
            _log_examples(logger, asked, request.examples, result)
        return answer

    def _metadata(self, asked: _Asked, label: str | None) -> _Answer:
        _named(asked.model)
        with self._repository.use(asked.model, asked.version, label) as (model, version):
            signatures = {
                name: json_format.MessageToDict(
                    definition, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
                )
                for name, definition in sorted(model.signature_defs.items())
            }
        spec = {"name": asked.model, "signature_name": "", "version": str(version)}
        # The seams are upstream's, which prints the two messages apart.
        body = b'{\n"model_spec":%b,\n"metadata": {"signature_def": %b}\n}\n' % (
            _pretty(spec),
            _pretty({"signature_def": signatures}),
        )
        return _Answer("OK", body, asked._replace(version=version))

    def _status(self, model: str, version: int | None) -> dict[str, Any]:
        return {
            "model_version_status": [
                {
                    "version": str(number),
                    "state": State.Name(state),
                    "status": {
                        "error_code": error_codes_pb2.Code.Name(error.error_code) if error else "OK",
                        "error_message": error.message if error else "",
                    },
                }
                for number, state, error in self._repository.model_status(model, version)
            ]
        }

    def _listing(self) -> bytes:
        models = []
        for name in self._repository.models():
            try:
                models.append({"name": name, **self._status(name, None)})
            except status.Error:  # none of its versions was seen yet
                models.append({"name": name, "model_version_status": []})
        return _pretty({"models": models})


# The request log holds gRPC's messages, whoever asked.


def _log_predict(
    logger: RequestLogger,
    asked: _Asked,
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
) -> None:
    request, response = predict_pb2.PredictRequest(), predict_pb2.PredictResponse()
    for tensor_map, arrays in ((request.inputs, inputs), (response.outputs, outputs)):
        for name, array in arrays.items():
            tensor_map[name].MergeFromString(tensors.to_content_wire(array))
    _log_request(logger, asked, request, response)


def _log_examples(
    logger: RequestLogger, asked: _Asked, serialized: Sequence[bytes], result: Any
) -> None:
    request: Any = classification_pb2.ClassificationRequest()
    response: Any = classification_pb2.ClassificationResponse()
    if asked.method == "regress":
        request, response = regression_pb2.RegressionRequest(), regression_pb2.RegressionResponse()
    for example in serialized:
        request.input.example_list.examples.add().ParseFromString(example)
    response.result.CopyFrom(result)
    _log_request(logger, asked, request, response)


def _log_request(logger: RequestLogger, asked: _Asked, request: Any, response: Any) -> None:
    for spec in (request.model_spec, response.model_spec):
        spec.name, spec.signature_name = asked.model, asked.signature
        spec.version.value = asked.version or 0
    logger.log(asked.method, asked.model, asked.version or 0, asked.signature, request, response)


def _named(model: str) -> str:
    if not model:
        raise status.invalid_argument("Missing model name in request.")
    return model


def _decoded(part: str | None) -> str:
    return urllib.parse.unquote_to_bytes((part or "").encode("latin-1")).decode("utf-8", "replace")


def _pretty(content: Any) -> bytes:
    """JSON as protobuf prints it."""
    return json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _too_large(limit: int) -> status.Error:
    return status.invalid_argument(f"The request body is larger than the limit of {limit} bytes")


def _unpacked(body: bytes, limit: int) -> bytes:
    """A gzip body's content.

    Its end declares the size: a bomb that declares it is refused at once, one that lies as soon as it has
    unpacked to what it declared.

    Raises:
      status.Error: INVALID_ARGUMENT.
    """
    declared = int.from_bytes(body[-4:], "little")
    if declared > limit:
        raise status.invalid_argument(
            f"Failed to uncompress the gzipped body: it declares {declared} bytes, the limit is {limit}"
        )
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = unpacker.decompress(body, declared + 1)
    except zlib.error as error:
        raise status.invalid_argument(f"Failed to uncompress the gzipped body: {error}") from None
    if len(content) != declared or not unpacker.eof:
        raise status.invalid_argument(
            "Failed to uncompress the gzipped body: it is cut, or larger than it declares"
        )
    return content
