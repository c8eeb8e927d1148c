"""SIGTERM to the real binary: what is being answered is finished, nothing else delays the end."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import saved_models
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from test_serving_grpc import Stubs, http_post, predict_request, wait_for, write_odd, y

# Far below the 60 s that a drain may take, far above what it takes here.
SOON = 20

PATH = "/v1/models/odd:predict"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], grpc.Channel, int]]:
    """A server of the model "odd" with a socket instead of a gRPC port, a channel to it, its REST port."""
    write_odd(tmp_path / "odd" / "1")
    port = saved_models.free_port()
    command = [sys.executable, "-m", "serving.server_main", "--port=0", f"--rest_api_port={port}"]
    command += [f"--grpc_socket_path={tmp_path}/socket", "--rest_api_timeout_in_ms=60000"]
    command += ["--model_name=odd", f"--model_base_path={tmp_path}/odd", "--file_system_poll_wait_seconds=0"]
    command += ["--enable_grpc_healthcheck_service", "--access_log=json"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=saved_models.ROOT, stdout=log, stderr=subprocess.STDOUT)
    try:
        with grpc.insecure_channel(f"unix:{tmp_path}/socket") as channel:
            grpc.channel_ready_future(channel).result(120)
            yield process, channel, port
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_what_is_in_flight_is_answered_and_nothing_else_delays_the_end(running, tmp_path):
    process, channel, port = running
    stubs = Stubs(channel)
    done = threading.Event()

    def endless(*messages: Any) -> Iterator[Any]:
        yield from messages
        done.wait()

    # What delays nothing: streams, a call without its message, half a body.
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="odd"))
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    list_services = reflection_pb2.ServerReflectionRequest(list_services="")
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    reflected = reflection.ServerReflectionInfo(endless(list_services))
    assert next(reflected).list_services_response.service
    empty = channel.stream_unary("/tensorflow.serving.PredictionService/Predict").future(endless())
    upload = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    upload.putrequest("POST", PATH)
    upload.putheader("Content-Length", "100")
    upload.endheaders(b'{"instances"')

    # What is answered. The first two say that the others have arrived, too.
    assert stubs.predict([1]) == [2]
    assert http_post(port, PATH, {"instances": [3]}) == (200, {"predictions": [6]})
    held = stubs.predictions.Predict.future(predict_request([1], "hold"))
    answers: list[Any] = []
    body = {"signature_name": "hold", "instances": [2]}
    rest = threading.Thread(target=lambda: answers.append(http_post(port, PATH, body)))
    rest.start()
    try:
        for number in (1, 2):
            wait_for((tmp_path / "odd" / f"1.held{number}").exists, f"request {number}")
        process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        wait_for(lambda: not _listens(port), "the end of the REST port")
        answer = upload.getresponse()
        assert (answer.status, json.load(answer)) == (503, {"error": "The server is being stopped"})
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
        (tmp_path / "odd" / "1.go").touch()
        assert y(held.result(SOON)) == [1]
        rest.join()
        assert answers == [(200, {"predictions": [2]})]
        assert process.wait(SOON) == 0
        with pytest.raises(grpc.RpcError):
            stubs.predict([1])
    finally:
        done.set()
        upload.close()
        for call in (watch, reflected, empty):
            call.cancel()
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    assert sorted(json.loads(line)["entrypoint"] for line in lines) == ["GRPC", "GRPC", "REST", "REST"]
