"""What the server tells of its requests: metrics page, access log, request log."""

from __future__ import annotations

import collections
import json
import logging
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import saved_models
import tensorflow as tf
from google.protobuf import any_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    predict_pb2,
    prediction_log_pb2,
    regression_pb2,
)
from tensorflow_serving.config import logging_config_pb2

from serving import access_log, config_pb2, metrics, request_log, servable, telemetry, warmup

PREFIX = ":tensorflow:serving:"


def call(**changes: object) -> telemetry.Call:
    fields = {
        "entrypoint": "GRPC",
        "api": "Predict",
        "path": "/tensorflow.serving.PredictionService/Predict",
        "model": "m",
        "version": 3,
        "signature": "serving_default",
        "code": "OK",
        "seconds": 0.000_020,
        "request_bytes": 10,
        "response_bytes": 20,
        "peer": "ipv4:127.0.0.1:5",
    }
    return telemetry.Call(**{**fields, **changes})


def rest(**changes: object) -> telemetry.Call:
    return call(
        **{"entrypoint": "REST", "api": "predict", "path": "/v1/models/m:predict", **changes}
    )


def series(page: str) -> dict[str, float]:
    """Name with labels -> value."""
    lines = (line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# Telemetry ------------------------------------------------------------------------------------------


def test_a_failing_sink_is_logged_once_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: telemetry.Call) -> None:
        raise ValueError("no")

    got: list[telemetry.Call] = []
    told = telemetry.Telemetry([broken, got.append])
    told.record(call(model="a"))
    told.record(call(model="b"))
    assert [each.model for each in got] == ["a", "b"]
    assert len(caplog.records) == 1


def test_a_spool_never_waits_and_says_what_it_dropped() -> None:
    go_on, began = threading.Event(), threading.Event()
    written: list[tuple[list[str], int]] = []

    def write(items: list[str], dropped: int) -> None:
        began.set()
        go_on.wait()
        written.append((items, dropped))

    spool: telemetry.Spool[str] = telemetry.Spool("test", 3, write)
    assert spool.put("larger than the queue, which is empty", 4)
    assert began.wait(60)
    assert not spool.put("does not fit")
    assert not spool.put("nor this")
    go_on.set()
    assert spool.close(60)
    assert not spool.put("closed")
    assert written == [(["larger than the queue, which is empty"], 0), ([], 2)]


def test_a_spool_goes_on_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    written: list[str] = []

    def write(items: list[str], _: int) -> None:
        if "bad" in items:
            raise OSError("disk full")
        written.extend(items)

    spool: telemetry.Spool[str] = telemetry.Spool("test", 3, write)
    for item in ("bad", "bad", "good", "bad"):
        wait_for(lambda item=item: spool.put(item, 3))  # so that each is written by itself
    assert spool.close(60)
    assert written == ["good"]
    assert len(caplog.records) == 2  # once for each time that it stopped working


# Metrics --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "count", "latency"),
    [
        (call(), '{model_name="m",status="OK"}', '{model_name="m",API="Predict",entrypoint="GRPC"}'),
        (
            call(api="Classify"),
            '{model_name="m",status="OK"}',
            '{model_name="m",API="Classify",entrypoint="GRPC"}',
        ),
        (
            call(api="Regress"),
            '{model_name="m",status="OK"}',
            '{model_name="m",API="Regress",entrypoint="GRPC"}',
        ),
        (call(code="NOT_FOUND", version=None), '{model_name="m",status="NOT_FOUND"}', None),
        (call(model="", code="INVALID_ARGUMENT"), '{model_name="",status="INVALID_ARGUMENT"}', None),
        (call(api="MultiInference"), None, None),
        (call(api="GetModelMetadata"), None, None),
        (call(api="GetModelStatus"), None, None),
        (call(api="HandleReloadConfigRequest"), None, None),
        (rest(), '{model_name="m",status="OK"}', '{model_name="m",API="predict",entrypoint="REST"}'),
        (
            rest(api="", path="/V1/models/m"),
            '{model_name="m",status="OK"}',
            '{model_name="m",API="",entrypoint="REST"}',
        ),
        (
            rest(api="", path="/v1/nonsense", model="", code="INVALID_ARGUMENT"),
            '{model_name="",status="INVALID_ARGUMENT"}',
            None,
        ),
        (rest(api="", path="/healthz", model=""), None, None),
    ],
)
def test_which_requests_count(recorded: telemetry.Call, count: str | None, latency: str | None) -> None:
    page = metrics.Metrics()
    page.record(recorded)
    found = series(page.render())
    wanted = {}
    if count:
        wanted[f"{PREFIX}request_count{count}"] = 1
    if latency:
        wanted[f"{PREFIX}request_latency_count{latency}"] = 1
    assert {
        name: value
        for name, value in found.items()
        if name.startswith((f"{PREFIX}request_count", f"{PREFIX}request_latency_count"))
    } == wanted


def test_page_is_upstreams_to_the_letter() -> None:
    page = metrics.Metrics()
    for seconds in (0.000_009, 0.000_010, 3.0, 3000.0):
        page.record(call(seconds=seconds))
    lines = page.render().splitlines()
    start = lines.index("# TYPE :tensorflow:serving:request_latency histogram")
    labels = 'model_name="m",API="Predict",entrypoint="GRPC"'
    limits = """
        10 18 32.4 58.32 104.976 188.957 340.122 612.22 1102 1983.59 3570.47 6426.84 11568.3 20823 37481.3
        67466.4 121440 218591 393464 708235 1.27482e+06 2.29468e+06 4.13043e+06 7.43477e+06 1.33826e+07
        2.40887e+07 4.33596e+07 7.80473e+07 1.40485e+08 2.52873e+08 4.55172e+08 8.19309e+08 1.47476e+09 +Inf
    """.split()  # noqa: SIM905 (readable so)
    # A value that is a limit is in the bucket above; 50 minutes are beyond the last limit.
    counts = [1] + [2] * 21 + [3] * 11 + [4]
    name = ":tensorflow:serving:request_latency"
    assert lines[start + 1 : start + 37] == [
        *(
            f'{name}_bucket{{{labels},le="{limit}"}} {count}'
            for limit, count in zip(limits, counts, strict=True)
        ),
        f"{name}_sum{{{labels}}} 3003000019",
        f"{name}_count{{{labels}}} 4",
    ]
    start = lines.index("# TYPE :tensorflow:serving:request_count counter")
    assert lines[start + 1] == ':tensorflow:serving:request_count{model_name="m",status="OK"} 4'
    types = [line.split()[2] for line in lines if line.startswith("#")]
    assert types == sorted(types)
    assert page.render().endswith("\n")


def test_the_other_observations() -> None:
    page = metrics.Metrics()
    page.ran("m", "Predict", 0.001)
    page.examples("m", 3)
    page.examples("m", 4)
    page.warmed_up("/models/m/1", 5, 0.25)
    page.warmed_up("/models/m/2", 0, 0.001)  # had no file
    page.request_logged("m", "OK")
    page.request_logged("m", "RESOURCE_EXHAUSTED")
    page.batch([0.000_1, 0.000_2, 0.000_3], 7, 8, 3)
    assert {
        name: value
        for name, value in series(page.render()).items()
        if "_bucket{" not in name and not name.startswith(f"{PREFIX}request_l")
    } == {
        f'{PREFIX}runtime_latency_sum{{model_name="m",API="Predict",runtime="TF1"}}': 1000,
        f'{PREFIX}runtime_latency_count{{model_name="m",API="Predict",runtime="TF1"}}': 1,
        f'{PREFIX}request_example_counts_sum{{model="m"}}': 7,
        f'{PREFIX}request_example_counts_count{{model="m"}}': 2,
        f'{PREFIX}request_example_count_total{{model="m"}}': 7,
        f'{PREFIX}model_warmup_latency_sum{{model_path="/models/m/1",status="OK"}}': 250_000,
        f'{PREFIX}model_warmup_latency_count{{model_path="/models/m/1",status="OK"}}': 1,
        f'{PREFIX}model_warmup_records_read{{model_path="/models/m/1"}}': 5,
        f'{PREFIX}batching_session:queuing_latency_sum{{thread_pool_name=""}}': pytest.approx(600, abs=3),
        f'{PREFIX}batching_session:queuing_latency_count{{thread_pool_name=""}}': 3,
        f"{PREFIX}batching_session:wrapped_run_count{{}}": 1,
        f'{PREFIX}batching_session:padding_size_sum{{execution_batch_size="8"}}': 1,
        f'{PREFIX}batching_session:padding_size_count{{execution_batch_size="8"}}': 1,
        f"{PREFIX}batching_session:input_batch_size_sum{{}}": 7,
        f"{PREFIX}batching_session:input_batch_size_count{{}}": 3,
        f"{PREFIX}batching_session:processed_batch_size_sum{{}}": 8,
        f"{PREFIX}batching_session:processed_batch_size_count{{}}": 1,
    }
    logged = {name: n for name, n in series(page.render()).items() if "request_log_count" in name}
    assert logged == {
        f'{PREFIX}request_log_count{{model_name="m",status_code="OK"}}': 1,
        f'{PREFIX}request_log_count{{model_name="m",status_code="RESOURCE_EXHAUSTED"}}': 1,
    }


def test_label_values_cannot_break_the_page() -> None:
    page = metrics.Metrics()
    page.record(call(model='a"b\\c\nd\udc80', code="NOT_FOUND"))
    counts = [line for line in page.render().split("\n") if "request_count{" in line]
    assert counts == [
        ':tensorflow:serving:request_count{model_name="a\\"b\\\\c\\nd?",status="NOT_FOUND"} 1'
    ]
    page.render().encode()


def test_made_up_model_names_do_not_fill_the_memory() -> None:
    page = metrics.Metrics()
    for number in range(3000):
        page.record(call(model=f"made-up-{number}", code="NOT_FOUND", version=None))
        # Over REST a client chooses the version too.
        page.record(rest(model=f"made-up-{number}", code="NOT_FOUND", version=number))
    page.record(call(model="x" * 1_000_000, code="NOT_FOUND", version=None))
    page.record(call(model="real"))
    found = series(page.render())
    assert len(page.render()) < 1_000_000
    assert found[f'{PREFIX}request_count{{model_name="made-up-0",status="NOT_FOUND"}}'] == 2
    assert found[f'{PREFIX}request_count{{model_name="",status="NOT_FOUND"}}'] == 2 * 2000 + 1
    assert found[f'{PREFIX}request_count{{model_name="real",status="OK"}}'] == 1


def test_no_count_is_lost_between_threads() -> None:
    page = metrics.Metrics()

    def work() -> None:
        for _ in range(2000):
            page.record(call())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = series(page.render())
    assert found[f'{PREFIX}request_count{{model_name="m",status="OK"}}'] == 8000
    labels = '{model_name="m",API="Predict",entrypoint="GRPC"}'
    assert found[f"{PREFIX}request_latency_count{labels}"] == 8000
    assert found[f"{PREFIX}request_latency_sum{labels}"] == 8000 * 20


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({}, ""),
        ({"enable": False, "path": "/m"}, ""),
        ({"enable": True}, "/monitoring/prometheus/metrics"),
        ({"enable": True, "path": "/m"}, "/m"),
    ],
)
def test_where_the_metrics_are(config: dict[str, object], path: str) -> None:
    assert metrics.path(config_pb2.MonitoringConfig(prometheus_config=config)) == path


# Access log -----------------------------------------------------------------------------------------

WRITE_TO_STDOUT = """
import sys
from serving import access_log, telemetry
log = access_log.AccessLog()
for number in range(int(sys.argv[1])):
    log.record(telemetry.Call("GRPC", "Predict", "/p", "m", number, "s", "OK", 0.0012345, 1, 2, "peer"))
log.close()
"""


def test_access_log_is_a_line_of_json_for_each_request() -> None:
    command = [sys.executable, "-c", WRITE_TO_STDOUT, "2000"]
    done = subprocess.run(command, cwd=saved_models.ROOT, capture_output=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    times = [line.pop("time") for line in lines]
    assert lines == [
        {
            "entrypoint": "GRPC",
            "api": "Predict",
            "path": "/p",
            "model": "m",
            "version": number,
            "signature": "s",
            "code": "OK",
            "latency_ms": 1.234,
            "request_bytes": 1,
            "response_bytes": 2,
            "peer": "peer",
        }
        for number in range(2000)
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time) for time in times)
    assert times == sorted(times)
    assert done.stderr == b""


def test_a_reader_that_stands_still_holds_nobody_up() -> None:
    # Far more than a pipe takes.
    command = [sys.executable, "-c", WRITE_TO_STDOUT, "20000"]
    with subprocess.Popen(
        command, cwd=saved_models.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_access_log_tells_how_many_lines_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "_CAPACITY", 1_000)
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="ascii") as stream:
        log = access_log.AccessLog(stream)
        for _ in range(3_000):  # the first few go to the pipe
            log.record(call())
        with os.fdopen(reader) as lines:
            closing = threading.Thread(target=lambda: (log.close(), stream.close()))
            closing.start()
            found = [json.loads(line) for line in lines]
            closing.join()
    dropped = sum(line.get("dropped", 0) for line in found)
    assert dropped > 0
    assert sum("code" in line for line in found) + dropped == 3_000


def test_names_of_any_kind_stay_on_one_line(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w", encoding="ascii") as stream:
        log = access_log.AccessLog(stream)
        log.record(call(model='ä"\n\udc80', version=None))
        log.close()
        (line,) = (tmp_path / "log").read_text().splitlines()
    assert json.loads(line)["model"] == 'ä"\n\udc80'
    assert json.loads(line)["version"] is None


# Request log ----------------------------------------------------------------------------------------


def logging_config(
    prefix: object, rate: float = 1.0, kind: str = "tfrecord"
) -> logging_config_pb2.LoggingConfig:
    config = logging_config_pb2.LoggingConfig()
    config.log_collector_config.type = kind
    config.log_collector_config.filename_prefix = str(prefix)
    config.sampling_config.sampling_rate = rate
    return config


def read(path: Path) -> list[prediction_log_pb2.PredictionLog]:
    records = tf.data.TFRecordDataset([str(path)]).as_numpy_iterator()
    return [prediction_log_pb2.PredictionLog.FromString(record) for record in records]


def predict_request(x: list[float]) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "dense"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([x], tf.float32))
    return request


@pytest.fixture
def counts() -> collections.Counter[str]:
    return collections.Counter()


@pytest.fixture
def count(counts: collections.Counter[str]) -> Callable[[str, str], None]:
    return lambda model, code: counts.update([code])


def test_requests_of_every_kind_are_logged(
    tmp_path: Path, count: Callable, counts: collections.Counter
) -> None:
    pairs = {
        "predict": (predict_request([1.0, 2.0, 3.0]), predict_pb2.PredictResponse()),
        "classify": (
            classification_pb2.ClassificationRequest(model_spec={"name": "dense"}),
            classification_pb2.ClassificationResponse(model_spec={"name": "dense"}),
        ),
        "regress": (
            regression_pb2.RegressionRequest(model_spec={"name": "dense"}),
            regression_pb2.RegressionResponse(result={"regressions": [{"value": 0.5}]}),
        ),
        "multi_inference": (
            inference_pb2.MultiInferenceRequest(tasks=[{"method_name": "m"}]),
            inference_pb2.MultiInferenceResponse(results=[{}]),
        ),
    }
    pairs["predict"][1].outputs["y"].CopyFrom(tf.make_tensor_proto([12.0]))
    config = logging_config(tmp_path / "new folder" / "log", kind="")
    logger = request_log.RequestLogger(config, count)
    before = int(time.time())
    for api, (request, response) in pairs.items():
        assert logger.wants()
        name = {"multi_inference": "MultiInference"}.get(api, api)
        logger.log(name, "dense", 7, "serving_default", request, response)
    # As gRPC has it: bytes.
    request, response = (each.SerializeToString() for each in pairs["predict"])
    logger.log("Predict", "dense", 7, "serving_default", request, response)
    logger.close()

    (path,) = (tmp_path / "new folder").iterdir()
    assert re.fullmatch(rf"log-\d{{8}}T\d{{6}}-{os.getpid()}-\d{{5}}\.tfrecord", path.name)
    logs = read(path)
    for (api, (request, response)), log in zip(
        [*pairs.items(), ("predict", pairs["predict"])], logs, strict=True
    ):
        assert log.WhichOneof("log_type") == f"{api}_log"
        assert getattr(log, f"{api}_log").request == request
        assert getattr(log, f"{api}_log").response == response
        assert log.log_metadata.model_spec.name == "dense"
        assert log.log_metadata.model_spec.version.value == 7
        assert log.log_metadata.model_spec.signature_name == "serving_default"
        assert log.log_metadata.sampling_config == config.sampling_config
        assert before <= log.log_metadata.timestamp_secs <= time.time()
    assert counts == {"OK": 5}


def test_a_request_log_serves_as_warm_up_file(tmp_path: Path) -> None:
    version = saved_models.write_dense(tmp_path / "dense", 1)
    logger = request_log.RequestLogger(logging_config(tmp_path / "logs" / "dense"))
    for _ in range(3):
        response = predict_pb2.PredictResponse()
        logger.log("Predict", "dense", 1, "serving_default", predict_request([1.0, 2.0, 3.0]), response)
    logger.close()
    (path,) = (tmp_path / "logs").iterdir()
    (version / "assets.extra").mkdir()
    path.rename(version / "assets.extra" / "tf_serving_warmup_requests")
    model = servable.Servable(str(version), ["serve"], tf.compat.v1.ConfigProto())
    assert warmup.warm_up(model, str(version), 1) == 3
    model.close()


def test_files_are_full_at_what_a_warm_up_file_may_hold(tmp_path: Path) -> None:
    # Two loggers with the same prefix, as two models may have: no file is written by both.
    loggers = [request_log.RequestLogger(logging_config(tmp_path / "log")) for _ in range(2)]
    for logger in loggers:
        for number in range(1500):
            logger.log("Predict", "m", number, "", b"", b"")
    for logger in loggers:
        logger.close()
    logs = [read(path) for path in sorted(tmp_path.iterdir())]
    assert sorted(len(log) for log in logs) == [500, 500, 1000, 1000]
    versions = sorted(each.log_metadata.model_spec.version.value for log in logs for each in log)
    assert versions == sorted([*range(1500), *range(1500)])


def test_files_have_an_end_in_size(
    tmp_path: Path, count: Callable, counts: collections.Counter
) -> None:
    logger = request_log.RequestLogger(logging_config(tmp_path / "log"), count)
    for number in range(1, 4):
        logger.log("Predict", "m", 1, "", b"", bytes(40 * 2**20))
        wait_for(lambda number=number: counts["OK"] == number)  # only so much may wait
    logger.close()
    sizes = sorted(path.stat().st_size // 2**20 for path in tmp_path.iterdir())
    assert sizes == [40, 80]


def test_a_file_can_be_read_while_it_is_written(
    tmp_path: Path, count: Callable, counts: collections.Counter
) -> None:
    logger = request_log.RequestLogger(logging_config(tmp_path / "log"), count)
    for number in range(5):
        logger.log("Predict", "m", number, "", b"", b"")
    wait_for(lambda: counts["OK"] == 5)
    (path,) = tmp_path.iterdir()
    assert path.name.endswith(".tfrecord.partial")
    assert len(read(path)) == 5  # what a server that is killed now would leave
    logger.close()
    (path,) = tmp_path.iterdir()
    assert path.name.endswith(".tfrecord")
    assert len(read(path)) == 5


@pytest.mark.parametrize(
    ("rate", "drawn", "wanted"),
    [
        (1.0, [0.0, 0.999_999], [True, True]),
        (0.25, [0.0, 0.249, 0.25, 0.9], [True, True, False, False]),
        (0.0, [0.0], [False]),
    ],
)
def test_sampling(tmp_path: Path, rate: float, drawn: list[float], wanted: list[bool]) -> None:
    lots: Iterator[float] = iter(drawn)
    logger = request_log.RequestLogger(logging_config(tmp_path / "log", rate), sample=lambda: next(lots))
    assert [logger.wants() for _ in wanted] == wanted
    logger.close()
    assert not list(tmp_path.iterdir())  # no file before there is a record


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (
            logging_config("/tmp/log", kind="kafka"),
            'logging_config: log_collector_config.type is "kafka", expected "tfrecord"; change or remove it',
        ),
        (
            logging_config(""),
            'logging_config: log_collector_config.filename_prefix is "", expected a path; give the beginning '
            "of the files' paths",
        ),
        (logging_config("/proc/none/log"), r'"/proc/none/log", expected a path in a folder that can be made'),
        (logging_config("/tmp/log", 1.5), "sampling_rate is 1.5, expected 0 to 1; give the share"),
        (logging_config("/tmp/log", -0.1), "sampling_rate is -0.1, expected 0 to 1; give the share"),
        (logging_config("/tmp/log", float("nan")), "sampling_rate is nan, expected 0 to 1; give the share"),
        (
            logging_config_pb2.LoggingConfig(custom_logging_config=any_pb2.Any(type_url="x/y")),
            "custom_logging_config is x/y, expected none; remove it",
        ),
        (
            logging_config_pb2.LoggingConfig(
                sampling_config={"per_task_sampling_configs": [{"sampling_rate": 1.0}]}
            ),
            "per_task_sampling_configs is set, expected none; set sampling_rate instead",
        ),
    ],
)
def test_configurations_that_cannot_be(config: logging_config_pb2.LoggingConfig, text: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape(text)):
        request_log.RequestLogger(config)


def test_a_folder_that_goes_and_comes_back(
    tmp_path: Path, count: Callable, counts: collections.Counter, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    logger = request_log.RequestLogger(logging_config(folder / "log"), count)
    folder.rmdir()
    for number in range(1, 3):
        logger.log("Predict", "m", 1, "", b"", b"")
        wait_for(lambda number=number: counts["NOT_FOUND"] == number)
    folder.mkdir()
    logger.log("Predict", "m", 2, "", b"", b"")
    logger.close()
    assert counts == {"NOT_FOUND": 2, "OK": 1}
    (path,) = folder.iterdir()
    assert [log.log_metadata.model_spec.version.value for log in read(path)] == [2]
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


def test_a_full_disk_loses_nothing_that_was_written(
    tmp_path: Path, count: Callable, counts: collections.Counter
) -> None:
    logger = request_log.RequestLogger(logging_config(tmp_path / "log"), count)
    logger.log("Predict", "m", 1, "", b"", b"")
    wait_for(lambda: counts["OK"] == 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 2**20, limits[1]))
    try:
        logger.log("Predict", "m", 2, "", b"", bytes(8 * 2**20))
        wait_for(lambda: sum(counts.values()) == 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert counts["OK"] == 1
    logger.log("Predict", "m", 3, "", b"", b"")
    logger.close()
    assert counts["OK"] == 2
    first, second = sorted(tmp_path.iterdir())
    assert first.name.endswith(".partial")
    record = next(iter(tf.data.TFRecordDataset([str(first)]).as_numpy_iterator()))
    log = prediction_log_pb2.PredictionLog.FromString(record)
    assert log.log_metadata.model_spec.version.value == 1
    assert [log.log_metadata.model_spec.version.value for log in read(second)] == [3]


def test_what_finds_no_place_in_the_queue_is_counted(
    tmp_path: Path, count: Callable, counts: collections.Counter
) -> None:
    writing, go_on = threading.Event(), threading.Event()

    def held(model: str, code: str) -> None:
        count(model, code)
        if code == "OK":  # in the thread that writes
            writing.set()
            go_on.wait(60)

    logger = request_log.RequestLogger(logging_config(tmp_path / "log"), held)
    logger.log("Predict", "m", 1, "", b"", bytes(2**20))
    assert writing.wait(60)
    logger.log("Predict", "m", 2, "", b"", bytes(64 * 2**20))
    assert counts == {"OK": 1, "RESOURCE_EXHAUSTED": 1}
    go_on.set()
    logger.close()
    logger.log("Predict", "m", 3, "", b"", b"")
    assert counts == {"OK": 1, "RESOURCE_EXHAUSTED": 2}
