"""atelier-bench: the load that it makes, and whether its figures are what callers meet."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import grpc
import numpy as np
import pytest
from fake_server import FakeModel, FakeServer

from serving import bench_main, load, load_plot, png, random_inputs, tensors, wire_pb2
from serving.errors import ServerUnavailable
from serving.inputs import UsageError
from serving.schema import Signature, TensorSpec

pytest_plugins = ["saved_models", "art_models"]

ROOT = Path(__file__).resolve().parent.parent

# Windows of a busy machine never agree by chance alone with a tolerance of 1000 %, they always do.
QUICK = load.Plan(warmup=0.2, window=0.3, tolerance=10.0, max_seconds=5.0)


def _target(server: FakeServer, **options: object) -> load.Target:
    request = wire_pb2.PredictRequest()
    request.model_spec.name = "double"
    tensors.write_proto(np.ones(2, np.float32), request.inputs["x"])
    return load.Target(server.address, request.SerializeToString(), **options)


# --- The generator -------------------------------------------------------------------------------


def test_a_closed_loop_has_so_many_in_flight_and_never_more():
    lock = threading.Lock()
    now, most = 0, 0

    def run(inputs):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1
        return {"y": inputs["x"]}

    with FakeServer({"double": FakeModel(run=run)}, threads=16) as server:
        result = load.run(_target(server), load.Closed(4), QUICK, processes=2)
    assert most == 4
    assert result.processes == 2
    assert (result.stable, result.errors) == (True, {})
    # Four callers, ten milliseconds at least: no more than 400 a second.
    assert 0 < result.throughput <= 4 / 0.01
    assert result.latency_ms["p50"] >= 10
    assert list(result.latency_ms) == ["p50", "p90", "p95", "p99", "max", "mean"]
    assert result.seconds == pytest.approx(3 * QUICK.window)


@pytest.mark.parametrize("arrivals", ["poisson", "fixed"])
def test_an_open_loop_sends_at_its_rate(arrivals):
    with FakeServer() as server:
        result = load.run(_target(server), load.Open(100.0, arrivals), QUICK, processes=2)
    wanted = 100 * result.seconds
    # Poisson: within five standard deviations.
    assert abs(result.requests - wanted) <= (1 if arrivals == "fixed" else 5 * wanted**0.5)
    assert result.offered == pytest.approx(result.requests / result.seconds)
    assert result.errors == {}


def test_an_open_loop_counts_the_waiting_that_a_stall_causes():
    """The server stands still for 0.6 s: those who came meanwhile waited, 0.3 s on the average."""
    stall_at = time.monotonic() + 1.5  # the generator's start, and then some
    stalled = threading.Event()

    def run(inputs):
        if not stalled.is_set() and time.monotonic() > stall_at:
            stalled.set()
            time.sleep(0.6)
        return {"y": inputs["x"]}

    # One thread: the others wait behind the one that stalls.
    with FakeServer({"double": FakeModel(run=run)}, threads=1) as server:
        plan = load.Plan(warmup=0.0, window=1.0, tolerance=10.0, max_seconds=3.0)
        result = load.run(_target(server), load.Open(100.0, "fixed"), plan)
    assert stalled.is_set()
    assert result.latency_ms["max"] >= 550
    # Sixty of the 300 were due in the stall; a generator that waits for answers would count one.
    assert result.latency_ms["p90"] >= 150


def test_errors_are_counted_by_code_and_late_ones_as_latencies():
    def run(inputs):
        time.sleep(1.0)
        return {"y": inputs["x"]}

    with FakeServer({"double": FakeModel(run=run)}, threads=1) as server:
        result = load.run(_target(server, timeout=0.3), load.Open(20.0, "fixed"), QUICK)
    assert result.throughput == 0
    assert sum(result.errors.values()) == result.requests
    assert set(result.errors) <= {"DEADLINE_EXCEEDED", "CANCELLED"}
    assert result.latency_ms["p50"] >= 250

    with FakeServer() as server:
        server.script = [grpc.StatusCode.INTERNAL] * 1_000_000
        result = load.run(_target(server), load.Closed(1), QUICK)
    assert result.errors == {"INTERNAL": result.requests}
    assert result.latency_ms == {}  # who fails at once has waited for nothing


def test_windows_that_agree_end_it_and_others_are_not_called_stable():
    with FakeServer() as server:
        never = load.Plan(warmup=0.0, window=0.2, tolerance=1e-9, max_seconds=1.0)
        result = load.run(_target(server), load.Closed(1), never)
    assert not result.stable
    assert result.seconds == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("windows", "agree"),
    [
        ([(100, 1.0), (105, 1.05), (95, 0.95)], True),
        ([(100, 1.0), (105, 1.05)], False),
        ([(10, 9.0), (100, 1.0), (100, 1.0), (100, 1.0)], True),
        ([(100, 1.0), (100, 1.0), (130, 1.0)], False),
        ([(100, 1.0), (100, 1.0), (100, 1.4)], False),
        ([(0, 0.0)] * 3, True),
    ],
)
def test_windows_agree_within_the_tolerance_of_their_means(windows, agree):
    assert load._agree(windows, 0.1) is agree


def test_no_server_is_an_error_and_not_a_measurement():
    target = load.Target("127.0.0.1:1", b"", timeout=1.0)
    with pytest.raises(ServerUnavailable, match=r"127\.0\.0\.1:1: no connection within 1 s"):
        load.run(target, load.Closed(1), QUICK)


def _records(latencies_ms: list[float], lag_ms: float = 0.0) -> np.ndarray:
    due = np.linspace(0.0, 0.9, len(latencies_ms))
    done = due + np.array(latencies_ms) / 1e3
    return np.stack([due, due + lag_ms / 1e3, done, np.zeros(len(due))], 1)


@pytest.mark.parametrize(
    ("lag_ms", "busy", "said"),
    [(0.5, 0.2, None), (20.0, 0.2, "it ran 20.0 ms late"), (0.5, 0.95, "was full, with 95% of a core")],
)
def test_a_generator_that_is_the_limit_says_so(lag_ms, busy, said):
    records = _records([50.0] * 100, lag_ms)
    report = load._Report(busy, [0.0])
    result = load._result(load.Open(100.0), records, 0.0, 1.0, True, [report], 10.0)
    assert result.lag_ms == pytest.approx(lag_ms)
    assert (said is None and result.bottleneck is None) or said in result.bottleneck


def test_percentiles_are_latencies_that_were_met():
    records = _records([float(ms) for ms in range(1, 101)])
    result = load._result(load.Closed(1), records, 0.0, 1.0, True, [load._Report(0.1, [0.0])], 10.0)
    assert {k: round(v) for k, v in result.latency_ms.items() if k != "mean"} == {
        "p50": 51,
        "p90": 91,
        "p95": 96,
        "p99": 100,
        "max": 100,
    }
    assert [round(ms) for _, ms in (result.curve[0], result.curve[-1])] == [1, 100]


# --- Inputs --------------------------------------------------------------------------------------


def _signature(**specs: TensorSpec) -> Signature:
    return Signature("s", specs, {}, "")


def test_inputs_are_made_from_types_and_shapes():
    signature = _signature(
        x=TensorSpec("x", "float32", (None, 4)),
        seed=TensorSpec("seed", "int64", (None,)),
        flag=TensorSpec("flag", "bool", ()),
        text=TensorSpec("text", "string", (None,)),
        image_bytes=TensorSpec("image_bytes", "string", (None,)),
        image=TensorSpec("image", "float32", (None, None, None, 3)),
        gain=TensorSpec("gain", "float32", (None,), np.ones(1)),  # has a default: left out
        half=TensorSpec("half", "float16", (2,)),
    )
    made = random_inputs.make(signature, {"text": np.array([b"mine"], object)}, {"image": (5, 6, 3)}, rows=3)
    assert {name: (array.dtype, array.shape) for name, array in made.items()} == {
        "x": (np.float32, (3, 4)),
        "seed": (np.int64, (3,)),
        "flag": (bool, ()),
        "text": (object, (1,)),
        "image_bytes": (object, (3,)),
        "image": (np.float32, (3, 5, 6, 3)),
        "half": (np.float16, (2,)),
    }
    assert png.decode(made["image_bytes"][0]).shape == (64, 64, 3)
    assert set(made["seed"].tolist()) <= {0, 1}


def test_sizes_that_only_the_caller_knows_are_asked_for():
    signature = _signature(image=TensorSpec("image", "float32", (None, None, None, 3)))
    with pytest.raises(UsageError, match=r"sizes of input 'image' \(float32 \[\?, \?, \?, 3\]\) are yours"):
        random_inputs.make(signature, {}, {}, 1)
    assert random_inputs.shapes_in(["a=random:2x3", "b=1"]) == ({"a": (2, 3)}, ["b=1"])
    with pytest.raises(UsageError, match="expected NAME=random:SIZES"):
        random_inputs.shapes_in(["a=random:2,3"])


# --- The binary ----------------------------------------------------------------------------------


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = bench_main.main(["bench", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


QUICKLY = ("--warmup=0.1", "--window=0.2", "--tolerance=10")


def test_a_sweep_writes_a_table_json_and_a_picture(capsys, art_server, art_base, tmp_path):
    status, out, err = _run(
        capsys,
        "art",
        f"--server={art_server.address}",
        "--signature=generate",
        f"--golden={art_base}",
        "prompt=Mine",
        "--concurrency=1,3",
        f"--output={tmp_path}/load.json",
        f"--plot={tmp_path}/load.svg",
        *QUICKLY,
    )
    assert (status, err) == (0, "")
    assert "art version 1, generate: prompt string [2], seed int64 [2]" in out
    assert "coordinated omission" in out and "shares its CPUs" in out
    assert " 1 at a time " in out and " 3 at a time " in out
    report = json.loads((tmp_path / "load.json").read_text())
    assert report["inputs"] == {"prompt": "string [2]", "seed": "int64 [2]"}
    assert [result["load"] for result in report["results"]] == [
        {"loop": "closed", "concurrency": 1},
        {"loop": "closed", "concurrency": 3},
    ]
    assert all(result["throughput"] > 0 and result["errors"] == {} for result in report["results"])
    picture = ElementTree.parse(tmp_path / "load.svg").getroot()
    words = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert "art version 1, generate" in words and {"1 at a time", "3 at a time", "p50", "p99"} <= set(words)


def test_an_open_loop_prints_json_alone(capsys, art_server):
    both = f"--server={art_server.address},{art_server.address}"
    arguments = ("art", both, "--rate=50", "--rows=2", "--json", *QUICKLY)
    status, out, err = _run(capsys, *arguments)
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert report["inputs"] == {"seed": "int64 [2]"}
    assert report["server_on_this_machine"] is True
    assert report["note"] == "open loop: latencies count from when each request was due"
    assert report["results"][0]["load"] == {"loop": "open", "rate": 50.0, "arrivals": "poisson"}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "expected a model's name"),
        (["none"], 1, "Latest(none)"),
        (["art", "--signature=smaple"], 2, "did you mean 'sample'?"),
        (["art", "seed=x"], 2, "seed: expected int64, given 'x'"),
        (["art", "--signature=classify"], 2, "the sizes of input 'image'"),
        (["art", "--signature=stylize_bytes", "image_bytes=no picture"], 1, "PNG"),
        (["art", "--rate=1", "--concurrency=1"], 2, "not both"),
        (["art", "--rate=-1"], 2, "--rate=-1: expected numbers above 0"),
        (["art", "--concurrency=1.5"], 2, "--concurrency=1.5: expected whole numbers from 1"),
        (["art", "--concurrency=10001"], 2, "--concurrency=10001: at most 10,000 for each of --processes"),
        (["art", "--rate=1e9"], 2, "--rate=1e9: at most 20,000 for each of --processes"),
        (["art", "--tls_cert=x.pem"], 2, "both: key and cert"),
        (["art", "--plot=x.png"], 2, "--plot=x.png: expected a name that ends in .svg"),
        (["art", "--golden=/none"], 2, "/none"),
        (["art", "--output=/none/x.json"], 2, "--output=/none/x.json: there is no folder /none"),
        (["art", "--golden={base}", "--signature=harmonize"], 2, "no request for 'harmonize', it has sample"),
        (["art", "--window=0"], 2, "window"),
    ],
)
def test_mistakes_are_one_line_before_any_load(capsys, art_server, art_base, arguments, status, message):
    words = [text.format(base=art_base) for text in arguments]
    got, out, err = _run(capsys, *words, f"--server={art_server.address}", *QUICKLY[:2])
    assert (got, out) == (status, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err


def test_the_script_runs_in_a_base_install(base_install, art_server, tmp_path):
    python, environment = base_install
    command = [*python, "-m", "serving.bench_main", "art", f"--server={art_server.address}", *QUICKLY]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 at a time" in done.stdout


def test_a_picture_of_one_load_without_an_answer_is_still_one():
    report = load._Report(0.0, [0.0])
    empty = load._result(load.Closed(1), np.empty((0, 4)), 0.0, 1.0, True, [report], 10.0)
    ElementTree.fromstring(load_plot.svg([empty], "a < b & c"))
