"""The embedded model server: options in, running gRPC and REST servers out."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import tensorflow as tf
from grpc_health.v1 import health
from tensorflow.core.protobuf import rewriter_config_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving import batching, config_pb2, grpc_api, metrics, rest_api, status, text_config, tflite, warmup
from serving.access_log import AccessLog
from serving.metrics import Metrics
from serving.repository import Options as RepositoryOptions
from serving.repository import Repository
from serving.request_log import RequestLoggers
from serving.rest_server import ARRIVAL_SECONDS, RestServer
from serving.servable import Runner, Servable
from serving.telemetry import Call, Telemetry
from serving.workers import Workers

_log = logging.getLogger(__name__)

_CPUS = os.cpu_count() or 1
# Threads sleep while they wait for a batch or a slow model: one for each of the clients that wait.
_MOST_THREADS = 1024

_POLL_SECONDS = 0.05
_CANCEL_SECONDS = 1.0


@dataclass(frozen=True)
class Options:
    """Upstream's flags of these names, with upstream's defaults; ours at the end."""

    port: int = 8500
    grpc_socket_path: str = ""
    rest_api_port: int = 0
    rest_api_num_threads: int = 4 * _CPUS
    rest_api_timeout_in_ms: int = 30_000
    rest_api_enable_cors_support: bool = False
    enable_batching: bool = False
    batching_parameters_file: str = ""
    enable_per_model_batching_parameters: bool = False
    allow_version_labels_for_unavailable_models: bool = False
    model_config_file: str = ""
    model_config_file_poll_wait_seconds: int = 0
    model_name: str = "default"
    model_base_path: str = ""
    num_load_threads: int = 0
    num_unload_threads: int = 0
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    file_system_poll_wait_seconds: int = 1
    tensorflow_session_parallelism: int = 0
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0
    tensorflow_session_config_file: str = ""
    use_alts_credentials: bool = False
    ssl_config_file: str = ""
    per_process_gpu_memory_fraction: float = 0.0
    saved_model_tags: str = "serve"
    grpc_channel_arguments: str = ""
    enable_model_warmup: bool = True
    num_request_iterations_for_warmup: int = 0
    monitoring_config_file: str = ""
    prefer_tflite_model: bool = False
    num_tflite_pools: int = _CPUS
    enable_signature_method_name_check: bool = False
    enable_profiler: bool = True
    mixed_precision: str = ""
    enable_grpc_healthcheck_service: bool = False
    enable_serialization_as_tensor_content: bool = False
    tolerate_failed_models: bool = False
    access_log: str = ""
    rest_api_ssl: bool = False


class Server:
    """gRPC and REST servers over one model repository."""

    def __init__(self, options: Options) -> None:
        """Reads and checks the configuration; loads nothing yet.

        Raises:
          status.Error: with upstream's text.
        """
        if not 0 <= options.port < 2**16:  # gRPC would take it modulo 65536
            raise status.invalid_argument(f"Failed to BuildAndStart gRPC server: port {options.port}")
        if not options.port and not options.grpc_socket_path:
            raise status.invalid_argument(
                "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."
            )
        self._options = options
        self._ssl = (
            text_config.read(options.ssl_config_file, config_pb2.SSLConfig)
            if options.ssl_config_file
            else None
        )
        self._credentials = _credentials(options, self._ssl)
        self._metrics = Metrics()
        self._access_log = _access_log(options)
        sinks: list[Callable[[Call], None]] = [self._metrics.record]
        if self._access_log is not None:
            sinks.append(self._access_log.record)
        telemetry = Telemetry(sinks)
        self._request_loggers = RequestLoggers(self._metrics.request_logged)
        self._scheduler = _scheduler(options, self._metrics)
        self._repository = Repository(
            read_model_configs(options),
            RepositoryOptions(
                file_system_poll_wait_seconds=options.file_system_poll_wait_seconds,
                max_num_load_retries=options.max_num_load_retries,
                load_retry_interval_micros=options.load_retry_interval_micros,
                num_load_threads=options.num_load_threads,
                num_unload_threads=options.num_unload_threads,
                allow_version_labels_for_unavailable_models=(
                    options.allow_version_labels_for_unavailable_models
                ),
                tolerate_failed_models=options.tolerate_failed_models,
            ),
            _loader(options, self._scheduler, self._metrics),
        )
        self._server = grpc.server(
            # One more than the processors, as some of them are always handing over.
            Workers(running=_CPUS + 1, most=_MOST_THREADS),
            options=_channel_arguments(options.grpc_channel_arguments),
        )
        self._calls = grpc_api.Calls()
        self._health: health.HealthServicer | None = grpc_api.add_services(
            self._server,
            self._repository,
            telemetry,
            self._request_loggers,
            self._metrics.total,
            self._calls,
            grpc_api.Options(
                enable_grpc_healthcheck_service=options.enable_grpc_healthcheck_service,
                enable_profiler=options.enable_profiler,
                enable_serialization_as_tensor_content=options.enable_serialization_as_tensor_content,
                enable_signature_method_name_check=options.enable_signature_method_name_check,
            ),
        )
        self._rest = self._make_rest(telemetry)
        self._follow_config()
        self._repository.subscribe(self._follow_config)

    def _follow_config(self) -> None:
        self._request_loggers.follow(self._repository.config)

    def _make_rest(self, telemetry: Telemetry) -> RestServer | None:
        options = self._options
        if not options.rest_api_port:
            return None
        if options.rest_api_port == options.port:
            _log.error("server_options.http_port cannot be same as grpc_port. Please use a different port.")
            return None
        app = rest_api.app(
            self._repository,
            telemetry,
            self._request_loggers,
            rest_api.Options(
                num_threads=options.rest_api_num_threads,
                timeout_in_ms=options.rest_api_timeout_in_ms,
                enable_cors_support=options.rest_api_enable_cors_support,
                enable_signature_method_name_check=options.enable_signature_method_name_check,
                metrics_path=_metrics_path(options),
                render_metrics=self._metrics.render,
            ),
        )
        return RestServer(app, options.rest_api_port, self._ssl if options.rest_api_ssl else None)

    def load(self) -> None:
        """Loads the models; waits for ever for one without any version, as upstream.

        Raises:
          status.Error: a model failed.
        """
        if not self._repository.models():
            _log.info("Taking no action for empty config.")
        self._repository.start()
        options = self._options
        if options.model_config_file and options.model_config_file_poll_wait_seconds > 0:
            self._repository.follow_config(
                lambda: read_model_configs(options), options.model_config_file_poll_wait_seconds
            )

    def open(self) -> None:
        """Opens the ports: once the models are loaded, so that an open port means they are available.

        Raises:
          status.Error: an address cannot be bound.
        """
        # Who waits for the gRPC port may then use both.
        if self._rest is not None:
            try:
                self._rest.start()
                _log.info("Exporting HTTP/REST API at:localhost:%d ...", self._options.rest_api_port)
            except status.Error as error:  # upstream goes on with gRPC alone
                _log.error("%s", error.message)
                self._rest = None
        addresses = []
        if self._options.port:
            addresses.append(f"0.0.0.0:{self._options.port}")
        if self._options.grpc_socket_path:
            addresses.append(f"unix:{self._options.grpc_socket_path}")
        try:
            for address in addresses:
                if self._credentials is None:
                    self._server.add_insecure_port(address)
                else:
                    self._server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise status.invalid_argument("Failed to BuildAndStart gRPC server") from error
        self._server.start()
        for address in addresses:
            _log.info("Running gRPC ModelServer at %s ...", address)

    def stop(self, grace: float) -> None:
        """Refuses new requests, waits up to `grace` seconds for those in flight.

        Not for streams (of reflection, of those who watch health), nor for a request that does not arrive.
        """
        if self._health is not None:
            self._health.enter_graceful_shutdown()
        self._repository.stop()
        began = time.monotonic()
        ended = self._server.stop(grace)
        if self._rest is not None:
            self._rest.stop(grace)
        while not ended.wait(_POLL_SECONDS):
            now = time.monotonic()
            if now - began >= grace or now - max(began, self._calls.last()) >= ARRIVAL_SECONDS:
                break
        self._server.stop(None).wait(_CANCEL_SECONDS)
        self._request_loggers.close()
        if self._access_log is not None:
            self._access_log.close()


# What the options stand for -------------------------------------------------------------------------


def read_model_configs(options: Options) -> model_server_config_pb2.ModelServerConfig:
    """The models to serve: those of the config file, else the one of the flags.

    Raises:
      status.Error: with upstream's text.
    """
    if options.model_config_file:
        return text_config.read(options.model_config_file, model_server_config_pb2.ModelServerConfig)
    if not options.model_base_path:
        raise status.invalid_argument(
            "Both server_options.model_base_path and server_options.model_config_file are empty!"
        )
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(
        name=options.model_name, base_path=options.model_base_path, model_platform="tensorflow"
    )
    return config


def _loader(
    options: Options, scheduler: batching.Scheduler | None, observed: Metrics
) -> Callable[[model_server_config_pb2.ModelConfig, str], Runner]:
    """What makes a version's path answer requests: load, wrap, warm up."""
    session_config = _session_config(options)
    tags = options.saved_model_tags.split(",")

    def load(model: model_server_config_pb2.ModelConfig, path: str) -> Runner:
        runner: Runner
        if options.prefer_tflite_model and tf.io.gfile.exists(f"{path}/model.tflite"):
            runner = tflite.TfliteServable(path, options.num_tflite_pools)
        else:
            runner = Servable(path, tags, session_config)
        try:
            own = f"{path}/batching_params.pbtxt"
            if scheduler is not None and not options.enable_per_model_batching_parameters:
                runner = scheduler.wrap(runner)
            elif scheduler is not None and tf.io.gfile.exists(own):
                runner = scheduler.wrap(
                    runner, text_config.read(own, config_pb2.BatchingParameters)
                )
            if options.enable_model_warmup:
                began = time.perf_counter()
                try:
                    records = warmup.warm_up(
                        runner,
                        path,
                        options.num_request_iterations_for_warmup,
                        check_method_name=options.enable_signature_method_name_check,
                    )
                except status.Error as error:
                    observed.warmed_up(path, 0, time.perf_counter() - began, status.text(error))
                    raise
                observed.warmed_up(path, records, time.perf_counter() - began)
        except BaseException:
            runner.close()
            raise
        return runner

    return load


def _session_config(options: Options) -> tf.compat.v1.ConfigProto:
    config = tf.compat.v1.ConfigProto()
    if options.tensorflow_session_config_file:
        config = text_config.read(options.tensorflow_session_config_file, tf.compat.v1.ConfigProto)
    intra, inter = options.tensorflow_intra_op_parallelism, options.tensorflow_inter_op_parallelism
    both = options.tensorflow_session_parallelism
    if intra > 0 and inter > 0 and both > 0:
        raise status.invalid_argument(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, "
            "server_options.tensorflow_inter_op_parallelism) separately. You cannot configure all."
        )
    if intra <= 0 and inter <= 0:
        intra = inter = both
    try:
        if intra:
            config.intra_op_parallelism_threads = intra
        if inter:
            config.inter_op_parallelism_threads = inter
    except ValueError as error:  # the flags have 64 bits, the fields 32
        raise status.invalid_argument(f"tensorflow parallelism: {error}") from None
    config.gpu_options.per_process_gpu_memory_fraction = options.per_process_gpu_memory_fraction
    if options.mixed_precision == "bfloat16":
        config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = (
            rewriter_config_pb2.RewriterConfig.ON
        )
    elif options.mixed_precision:
        _log.warning("mixed_precision=%s: only bfloat16 is known; ignored", options.mixed_precision)
    return config


def _scheduler(options: Options, observed: Metrics) -> batching.Scheduler | None:
    if not options.enable_batching:
        if options.batching_parameters_file:
            raise status.invalid_argument(
                "server_options.batching_parameters_file is set without setting "
                "server_options.enable_batching to true."
            )
        return None
    if options.batching_parameters_file:
        parameters = text_config.read(options.batching_parameters_file, config_pb2.BatchingParameters)
    else:
        parameters = config_pb2.BatchingParameters()
        parameters.thread_pool_name.value = "model_server_batch_threads"
    return batching.Scheduler(parameters, observed.batch)


def _credentials(options: Options, ssl: config_pb2.SSLConfig | None) -> grpc.ServerCredentials | None:
    if options.use_alts_credentials and ssl is not None:
        raise status.invalid_argument("use_alts_credentials and ssl_config_file exclude each other: set one")
    if options.use_alts_credentials:
        return grpc.alts_server_credentials()
    if options.rest_api_ssl and ssl is None:
        raise status.invalid_argument("rest_api_ssl is set without ssl_config_file: no keys for TLS")
    if ssl is None:
        return None
    if ssl.client_verify and not ssl.custom_ca:
        raise status.invalid_argument("ssl_config_file: client_verify needs custom_ca")
    return grpc.ssl_server_credentials(
        [(ssl.server_key.encode(), ssl.server_cert.encode())],
        root_certificates=ssl.custom_ca.encode() or None,
        require_client_auth=ssl.client_verify,
    )


def _channel_arguments(text: str) -> list[tuple[str, int | str]]:
    """k=v,k=v: an int where it reads as one. Messages are unlimited unless said otherwise."""
    arguments: dict[str, int | str] = {
        "grpc.max_receive_message_length": -1,
        "grpc.max_send_message_length": -1,
    }
    for argument in filter(None, text.split(",")):
        name, _, value = argument.partition("=")
        arguments[name] = value
        with contextlib.suppress(ValueError):
            if -(2**31) <= int(value) < 2**31:
                arguments[name] = int(value)
    return list(arguments.items())


def _metrics_path(options: Options) -> str:
    """ "" without metrics."""
    if not options.monitoring_config_file:
        return ""
    config = text_config.read(options.monitoring_config_file, config_pb2.MonitoringConfig)
    return metrics.path(config)


def _access_log(options: Options) -> AccessLog | None:
    if options.access_log not in ("", "json"):
        raise status.invalid_argument(f"access_log={options.access_log}: only json is known")
    return AccessLog() if options.access_log else None


def import_op_libraries(names: str) -> None:
    """Imports what registers custom ops, e.g. "tensorflow_text": names with commas between.

    Raises:
      status.Error: one cannot be imported.
    """
    for name in filter(None, names.split(",")):
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a library's import raises
            raise status.invalid_argument(
                f"--import={name} cannot be imported ({type(error).__name__}: {error}); "
                "install it beside the server"
            ) from error
