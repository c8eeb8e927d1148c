"""The client beside tensorflow-serving-api with TensorFlow, ovmsclient 2023.1, and REST with requests.

    make bench-client     (or: python tests/bench/client_bench.py [import size codec overhead async restart])

Each library is measured in processes of its own, in turns with the others, so that all meet the same machine.
ovmsclient is installed into a temporary folder, over this environment's numpy, grpc and protobuf; where that
fails, its rows hold the reason. Writes `tests/bench/results/client.json`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import numpy as np

from zoo.files import write_json

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = pathlib.Path(__file__).parent / "results" / "client.json"
PARTS = ("import", "size", "codec", "overhead", "async", "restart")
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

# What a user of each library imports to make one Predict.
IMPORTS = {
    "floor": "import grpc, numpy",  # what any such client needs
    "ours": "from serving.client import Client",
    "tensorflow_serving": "from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc",
    "ovmsclient": "import ovmsclient",
    "requests": "import requests, numpy",
}
BATCH = (16, 256, 256, 3)
CALLS, IN_FLIGHT = 100_000, 256
RESTART_SECONDS, RESTART_TIMEOUT = 90.0, 2.0


# Processes ------------------------------------------------------------------------------------------


def environment(*folders: pathlib.Path | str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *map(str, folders)])
    return {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}


def aside(name: str, *arguments: Any, folder: str = "") -> Any:
    """Runs one of the functions here in a process of its own; returns what it returns."""
    command = [sys.executable, __file__, "--call", json.dumps([name, *arguments])]
    # Through a shell: a process that is executed straight from this one would inherit its peak memory.
    done = subprocess.run(
        ["sh", "-c", '"$@"; exit $?', "sh", *command], capture_output=True, text=True, env=environment(folder)
    )
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no word"}
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def ovmsclient() -> Iterator[tuple[str, str]]:
    """(a folder that holds ovmsclient 2023.1, why it does not)."""
    with tempfile.TemporaryDirectory(prefix="atelier_ovms_") as folder:
        # --no-deps: numpy, grpc and protobuf are this environment's, as for the others.
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
        done = subprocess.run([*command, "ovmsclient==2023.1"], capture_output=True, text=True)
        yield folder, "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


@contextlib.contextmanager
def doubling_server() -> Iterator[str]:
    """The address of a small Python server without TensorFlow, in another process: y = 2 x."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "fake_server.py")],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def libraries(reason: str) -> list[str]:
    return ["ours", "tensorflow_serving", *([] if reason else ["ovmsclient"])]


# Importing ------------------------------------------------------------------------------------------


def fresh(statement: str, folder: str) -> list[float]:
    """Seconds that a new Python takes for a statement, and the MiB that it has taken at most then."""
    code = (
        "import sys, time\nbegan = time.perf_counter()\n"
        f"{statement}\nseconds = time.perf_counter() - began\n"
        "import resource\nprint(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, code],
        capture_output=True,
        text=True,
        env=environment(folder),
        cwd="/",
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return [float(word) for word in done.stdout.split()]


def import_(folder: str, reason: str) -> dict[str, Any]:
    # pip compiles what it installs; here the first turn does, wherever this environment forbids it.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(pathlib.Path(folder) / "compiled")
    try:
        return _imports(folder, reason)
    finally:
        del os.environ["PYTHONPYCACHEPREFIX"]


def _imports(folder: str, reason: str) -> dict[str, Any]:
    statements = {name: text for name, text in IMPORTS.items() if name != "ovmsclient" or not reason}
    found: dict[str, list[list[float]]] = {name: [] for name in statements}
    with doubling_server() as address:
        statements["ours_after_a_call"] = (
            "from serving.client import Client\n"
            f"Client.connect('{address}').predict('double', {{'x': [1]}})"
        )
        found["ours_after_a_call"] = []
        for turn in range(11):
            for name, statement in statements.items():
                if name == "tensorflow_serving" and turn % 2:
                    continue  # seconds each
                measured = fresh(statement, folder)
                if turn:  # the first fills the page cache
                    found[name].append(measured)
    rows: dict[str, Any] = {
        name: {
            "median_s": statistics.median(seconds for seconds, _ in runs),
            "best_s": min(seconds for seconds, _ in runs),
            "mebibytes": statistics.median(memory for _, memory in runs),
        }
        for name, runs in found.items()
    }
    if reason:
        rows["ovmsclient"] = {"failed": reason}
    ours, stock = rows["ours"], rows["tensorflow_serving"]
    return {
        **rows,
        "times_faster_than_tensorflow_serving": stock["median_s"] / ours["median_s"],
        "times_smaller_than_tensorflow_serving": stock["mebibytes"] / ours["mebibytes"],
        "met": ours["median_s"] <= 0.25
        and ours["mebibytes"] <= 45
        and stock["median_s"] >= 8 * ours["median_s"]
        and stock["mebibytes"] >= 10 * ours["mebibytes"],
    }


# Size -----------------------------------------------------------------------------------------------


def own_modules() -> list[str]:
    """The files of this repository that the client and its tools load."""
    import importlib

    for name in ("client", "aio", "rpc", "launch", "client_main", "bench_main", "doctor_main"):
        if (ROOT / "serving" / f"{name}.py").exists():
            importlib.import_module(f"serving.{name}")
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return sorted(
        file for file in files if file and file.startswith(str(ROOT)) and file != os.path.abspath(__file__)
    )


def size(folder: str, reason: str) -> dict[str, Any]:
    files = aside("own_modules")
    assert isinstance(files, list), files

    def weigh(path: pathlib.Path) -> int:
        if path.is_file():
            return path.stat().st_size
        return sum(
            f.stat().st_size
            for f in path.rglob("*")
            if f.is_file() and not {"__pycache__", "compiled"} & set(f.parts)
        )

    ours = sum(weigh(pathlib.Path(file)) for file in files)
    packages = {name: weigh(ROOT / name) for name in ("serving", "train", "zoo")}
    return {
        "client_and_tools_bytes": ours,
        "client_and_tools_files": len(files),
        # pip installs the training code and the weights of the zoo too.
        "installed_bytes": sum(packages.values()),
        "installed_bytes_of": packages,
        "ovmsclient_bytes": {"failed": reason} if reason else weigh(pathlib.Path(folder)),
        "met": ours <= 1e6,
    }


# Codec ----------------------------------------------------------------------------------------------


def batch() -> np.ndarray:
    return np.random.default_rng(0).random(BATCH, dtype=np.float32)


def answers() -> tuple[bytes, bytes]:
    """A server's answer with the batch: as TensorFlow Serving gives it (float_val), and in tensor_content."""
    from serving import messages, tensors, wire

    spec = wire.length_delimited(2, messages.model_spec("m", 1, signature="serving_default"))

    def answer(tensor: bytes) -> bytes:
        entry = wire.length_delimited(1, b"y") + wire.length_delimited(2, tensor)
        return wire.length_delimited(1, entry) + spec

    return answer(tensors.to_values_wire(batch())), answer(tensors.to_content_wire(batch()))


def best_ms(call: Callable[[], Any], budget: float = 3.0) -> float:
    """The best of as many calls as fit into a few seconds, three at least."""
    times: list[float] = []
    end = time.perf_counter() + budget
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 200):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1e3 * min(times)


def codec_of(library: str) -> dict[str, float]:
    """Milliseconds from the batch to a request's bytes, and from an answer's bytes to an array."""
    x = batch()
    values, content = answers()
    encode: Callable[[], Any]
    decode: Callable[[bytes], Any]
    if library == "ours":
        from serving import messages, tensors

        spec = messages.model_spec("m")

        def encode() -> bytes:
            return messages.predict_request(spec, {"x": tensors.to_array(x, "float32")})

        def decode(answer: bytes) -> np.ndarray:
            return messages.predict_answer(answer)[1]["y"]
    elif library == "tensorflow_serving":
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        def encode() -> bytes:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "m"
            request.inputs["x"].CopyFrom(tf.make_tensor_proto(x))
            return request.SerializeToString()

        def decode(answer: bytes) -> np.ndarray:
            return tf.make_ndarray(predict_pb2.PredictResponse.FromString(answer).outputs["y"])
    elif library == "ovmsclient":
        from ovmsclient.tfs_compat.grpc import requests, responses
        from ovmsclient.tfs_compat.protos.tensorflow_serving.apis import predict_pb2

        def encode() -> bytes:
            return requests.make_predict_request({"x": x}, "m").raw_request.SerializeToString()

        def decode(answer: bytes) -> np.ndarray:
            raw = predict_pb2.PredictResponse.FromString(answer)
            return responses.GrpcPredictResponse(raw).to_dict()["outputs"]
    else:  # REST: what requests and a user write and read
        text = json.dumps({"outputs": x.tolist()}).encode()
        values = content = text

        def encode() -> bytes:
            return json.dumps({"inputs": {"x": x.tolist()}}).encode()

        def decode(answer: bytes) -> np.ndarray:
            return np.array(json.loads(answer)["outputs"], np.float32)

    for answer in (values, content):
        assert np.array_equal(np.asarray(decode(answer)).reshape(BATCH), x), library
    target = np.empty_like(x)
    return {
        "memcpy_ms": best_ms(lambda: np.copyto(target, x)),
        "encode_ms": best_ms(encode),
        "decode_ms": best_ms(lambda: decode(values)),
        "decode_tensor_content_ms": best_ms(lambda: decode(content)),
    }


def codec(folder: str, reason: str) -> dict[str, Any]:
    rows = {name: aside("codec_of", name, folder=folder) for name in [*libraries(reason), "rest"]}
    if reason:
        rows["ovmsclient"] = {"failed": reason}
    ours = rows["ours"]

    def times(other: str) -> dict[str, float] | None:
        if "failed" in rows[other]:
            return None
        return {name: rows[other][name] / ours[name] for name in ours if name != "memcpy_ms"}

    allowed = 1.5 * ours["memcpy_ms"] + 1.0
    faster = {name: times(name) for name in rows if name != "ours"}
    stock, rest = faster["tensorflow_serving"], faster["rest"]
    assert stock is not None and rest is not None, rows
    return {
        **rows,
        "mebibytes": batch().nbytes / 2**20,
        "allowed_ms": allowed,
        "times_faster_than": faster,
        "met": max(value for name, value in ours.items() if name != "memcpy_ms") <= allowed
        and _both_ways(rows["tensorflow_serving"]) >= 5 * _both_ways(ours)
        and _both_ways(rows["rest"]) >= 50 * _both_ways(ours),
        "encode_and_decode_times_faster_than": {
            name: _both_ways(row) / _both_ways(ours)
            for name, row in rows.items()
            if name != "ours" and "failed" not in row
        },
    }


def _both_ways(row: dict[str, float]) -> float:
    """There and back, at the kinder of the two answers for the others."""
    return row["encode_ms"] + min(row["decode_ms"], row["decode_tensor_content_ms"])


# Overhead -------------------------------------------------------------------------------------------


def overhead_of(library: str, address: str) -> dict[str, float]:
    """Microseconds of a small Predict over those of a raw call with the same bytes, in turns."""
    import grpc

    from serving import messages

    x = np.array([1.0, 2.0, 5.0], np.float32)
    wire = messages.predict_request(messages.model_spec("double"), {"x": x})
    channel = grpc.insecure_channel(address, options=[*UNLIMITED, ("grpc.use_local_subchannel_pool", 1)])
    raw = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    predict: Callable[[], np.ndarray]
    if library == "ours":
        from serving.client import Client

        client = Client.connect(address)

        def predict() -> np.ndarray:
            return client.predict("double", {"x": x})["y"]
    elif library == "tensorflow_serving":
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(address))

        def predict() -> np.ndarray:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "double"
            request.inputs["x"].CopyFrom(tf.make_tensor_proto(x))
            return tf.make_ndarray(stub.Predict(request, timeout=60.0).outputs["y"])
    else:
        from ovmsclient import make_grpc_client

        other = make_grpc_client(address)

        def predict() -> np.ndarray:
            return other.predict({"x": x}, "double")

    times: dict[str, list[float]] = {"raw": [], "predict": []}
    for turn in range(6500):
        began = time.perf_counter()
        raw(wire, timeout=60.0)
        middle = time.perf_counter()
        y = predict()
        end = time.perf_counter()
        assert y.tolist() == [2, 4, 10]
        if turn >= 500:
            times["raw"].append(middle - began)
            times["predict"].append(end - middle)
    medians = {name: 1e6 * statistics.median(values) for name, values in times.items()}
    return {
        "raw_us": medians["raw"],
        "predict_us": medians["predict"],
        "overhead_us": medians["predict"] - medians["raw"],
    }


def overhead(folder: str, reason: str) -> dict[str, Any]:
    with doubling_server() as address:
        rows = {name: aside("overhead_of", name, address, folder=folder) for name in libraries(reason)}
    if reason:
        rows["ovmsclient"] = {"failed": reason}
    return {**rows, "met": rows["ours"]["overhead_us"] <= 60.0}


# AsyncClient ----------------------------------------------------------------------------------------


def write_half_plus_two(version: pathlib.Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.call = tf.function(
        lambda x: {"y": 0.5 * x + 2.0},
        input_signature=[tf.TensorSpec([None], tf.float32, "x")],
        autograph=False,
    )
    tf.saved_model.save(module, str(version), signatures={"serving_default": module.call})


def many_in_flight(address: str) -> dict[str, Any]:
    """Each call has numbers of its own and of one of five lengths; each answer is checked."""
    from serving.client import AsyncClient

    swapped, failed = 0, Counter[str]()
    times: list[float] = []

    async def run() -> float:
        async with AsyncClient.connect(address) as client:
            numbers = iter(range(CALLS))

            async def ask() -> None:
                nonlocal swapped
                for number in numbers:
                    x = np.arange(number % 5 + 1, dtype=np.float32) + number
                    began = time.perf_counter()
                    try:
                        answer = await client.predict("half", {"x": x})
                    except Exception as error:
                        failed[repr(error)] += 1
                        continue
                    times.append(time.perf_counter() - began)
                    swapped += not np.array_equal(answer["y"], 0.5 * x + 2.0)

            began = time.perf_counter()
            await asyncio.gather(*(ask() for _ in range(IN_FLIGHT)))
            return time.perf_counter() - began

    wall = asyncio.run(run())
    return {
        "calls": CALLS,
        "in_flight": IN_FLIGHT,
        "answered": len(times),
        "swapped": swapped,
        "failed": dict(failed),
        "per_second": CALLS / wall,
        "median_ms": 1e3 * float(np.median(times)),
        "p99_ms": 1e3 * float(np.percentile(times, 99)),
    }


def async_(folder: str, reason: str) -> dict[str, Any]:
    from serving.launch import launch

    with tempfile.TemporaryDirectory(prefix="atelier_bench_") as base:
        aside_write(pathlib.Path(base) / "half" / "1")
        with launch({"half": pathlib.Path(base) / "half"}) as server:
            row = aside("many_in_flight", server.address)
    return {**row, "met": row["answered"] == CALLS and not row["swapped"] and not row["failed"]}


def aside_write(version: pathlib.Path) -> None:
    """Writes the model in another process: TensorFlow stays out of this one."""
    done = aside("write", str(version))
    if done is not None:
        raise SystemExit(f"writing the model failed: {done}")


def write(version: str) -> None:
    write_half_plus_two(pathlib.Path(version))


# A server that dies ---------------------------------------------------------------------------------


def restart(folder: str, reason: str) -> dict[str, Any]:
    """Eight threads call the embedded server, which is killed and started again, twice."""
    from serving import errors
    from serving.client import Client
    from serving.launch import launch

    outcomes: Counter[str] = Counter()
    longest = 0.0
    stop, lock = threading.Event(), threading.Lock()

    def ask(client: Client, thread: int) -> None:
        nonlocal longest
        number = 0
        while not stop.is_set():
            number += 1
            x = np.float32([thread, number])
            began = time.perf_counter()
            try:
                y = client.predict("half", {"x": x}, timeout=RESTART_TIMEOUT)["y"]
                outcome = "answered" if np.array_equal(y, 0.5 * x + 2.0) else "wrong"
            except (errors.ServerUnavailable, errors.DeadlineExceeded) as error:
                outcome = type(error).__name__
            except Exception as error:
                outcome = f"other: {error!r}"
            with lock:
                outcomes[outcome] += 1
                longest = max(longest, time.perf_counter() - began)

    with tempfile.TemporaryDirectory(prefix="atelier_bench_") as base:
        aside_write(pathlib.Path(base) / "half" / "1")
        port = int(aside("free_port"))
        with Client.connect(f"127.0.0.1:{port}") as client:
            threads = [threading.Thread(target=ask, args=(client, i)) for i in range(8)]
            for life in range(3):
                with launch({"half": pathlib.Path(base) / "half"}, port) as server:
                    if not life:
                        for thread in threads:
                            thread.start()
                    time.sleep(RESTART_SECONDS / 3)
                    server.process.send_signal(signal.SIGKILL)
                    server.process.wait()
                time.sleep(1.0)
            stop.set()
            for thread in threads:
                thread.join()
    documented = {"answered", "ServerUnavailable", "DeadlineExceeded"}
    return {
        "kills": 3,
        "timeout_s": RESTART_TIMEOUT,
        "outcomes": dict(outcomes),
        "longest_s": longest,
        # A tenth of a second for the machine, which has a dead server's clients and a starting one to run.
        "met": outcomes.keys() <= documented and longest <= RESTART_TIMEOUT + 0.1,
    }


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Parts ----------------------------------------------------------------------------------------------


def summary(results: dict[str, Any]) -> str:
    parts = []
    if "import" in results:
        row = results["import"]
        parts.append(
            f"import {row['ours']['median_s']:.2f} s, {row['ours']['mebibytes']:.0f} MiB "
            f"(grpc and numpy alone {row['floor']['median_s']:.2f} s, {row['floor']['mebibytes']:.0f} MiB; "
            f"{row['times_faster_than_tensorflow_serving']:.0f} x faster, "
            f"{row['times_smaller_than_tensorflow_serving']:.0f} x smaller than tensorflow_serving.apis)"
        )
    if "size" in results:
        row = results["size"]
        parts.append(f"the client and its tools are {row['client_and_tools_bytes'] / 1e6:.2f} MB")
    if "codec" in results:
        row = results["codec"]
        ratio = row["encode_and_decode_times_faster_than"]
        parts.append(
            f"a {row['mebibytes']:.0f} MiB batch: encoded in {row['ours']['encode_ms']:.2f} ms, decoded in "
            f"{row['ours']['decode_ms']:.3f} ms (memcpy {row['ours']['memcpy_ms']:.2f} ms); "
            + ", ".join(f"{value:,.0f} x faster than {name}" for name, value in ratio.items())
        )
    if "overhead" in results:
        row = results["overhead"]
        text = ", ".join(
            f"{name} {value['overhead_us']:.0f}"
            for name, value in row.items()
            if isinstance(value, dict) and "overhead_us" in value
        )
        parts.append(f"µs over a raw gRPC call: {text}")
    if "async" in results:
        row = results["async"]
        parts.append(
            f"{row['in_flight']} in flight: {row['answered']:,} of {row['calls']:,} answered, "
            f"{row['swapped']} swapped, {row['per_second']:,.0f}/s"
        )
    if "restart" in results:
        row = results["restart"]
        text = ", ".join(f"{count:,} {name}" for name, count in row["outcomes"].items())
        parts.append(
            f"server killed {row['kills']} times: {text}; longest call {row['longest_s']:.2f} s of "
            f"{row['timeout_s']:.0f} s"
        )
    missed = [name for name, row in results.items() if not row["met"]]
    return "Client: " + "; ".join(parts) + (f". NOT MET: {', '.join(missed)}" if missed else "")


def hardware() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--call", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.call:
        name, *rest = json.loads(arguments.call)
        print(json.dumps(globals()[name](*rest)))
        return
    sys.path.insert(0, str(ROOT))
    functions = {
        "import": import_,
        "size": size,
        "codec": codec,
        "overhead": overhead,
        "async": async_,
        "restart": restart,
    }
    # A part that is run alone replaces its own figures; each says when it was run.
    results = json.loads(RESULTS.read_text())["results"] if RESULTS.exists() else {}
    with ovmsclient() as (folder, reason):
        for part in arguments.parts:
            results[part] = functions[part](folder, reason)
            results[part]["run"] = {
                "when": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
                "hardware": hardware(),
                "python": platform.python_version(),
                **{
                    name: metadata.version(name)
                    for name in ("numpy", "grpcio", "protobuf", "tensorflow", "tensorflow-serving-api")
                },
                "ovmsclient": reason or "2023.1",
            }
            print(part, json.dumps(results[part], indent=1), flush=True)
            ordered = {name: results[name] for name in PARTS if name in results}
            report = {"summary": summary(ordered), "results": ordered, "command": "make bench-client"}
            write_json(RESULTS, report)
    print(summary(ordered))


if __name__ == "__main__":
    main()
