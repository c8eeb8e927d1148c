"""The embedded server against the same signatures called in process.

    make bench-serve            (or: python tests/bench/serve_bench.py [small slow image batching swap ...])

The server runs in one process, the clients in a second one, as users have it; the in-process calls in a
third, alone; each part's figures come from one run on one machine. Writes
`tests/bench/results/serve.json`; `soak` (an hour at half load) and `push` (a quarter of an hour) are run only
when they are named.
"""

import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

import grpc
import numpy as np

from serving import golden_pb2, tensors, wire_pb2
from serving.launch import LaunchedServer, launch
from zoo.files import write_json

RESULTS = pathlib.Path(__file__).parent / "results" / "serve.json"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
PARTS = ("small", "slow", "image", "batching", "swap")
SECONDS = 5.0
PUSHES = 50
INPUTS: dict[str, np.ndarray] = {
    "small": np.array([1.0, 2.0, 5.0], np.float32),
    "slow": np.ones([1, 1], np.float32),
    "image": np.random.default_rng(0).random((1, 512, 512, 3), dtype=np.float32),  # 3 MiB
    "resnet50": np.random.default_rng(0).random((1, 32, 32, 3), dtype=np.float32),
    "cnn_mnist": np.random.default_rng(0).random((1, 28, 28, 1), dtype=np.float32),
}


# Models ---------------------------------------------------------------------------------------------


def write_models(base: pathlib.Path) -> None:
    """small: three floats, half plus two; slow: 10 ms or more; image: 3 MiB in and out; swap: versions that
    each multiply by their own number; two CNNs: ResNet-50 for pictures of CIFAR's size, and the zoo's own."""
    import keras
    import tensorflow as tf

    import zoo

    def save(
        name: str,
        function: Any,
        shape: list[int | None],
        version: int = 1,
        network: keras.Model | None = None,
    ) -> None:
        class Module(tf.Module):
            @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, "x")], autograph=False)
            def call(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
                return {"y": function(x)}

        module = Module()
        module.kept = [x.value for x in network.variables] if network else []
        # As an export does: complete or not there, for the server looks every second.
        hidden = base / f".{name}.{version}"
        tf.saved_model.save(module, str(hidden), signatures={"serving_default": module.call})
        (base / name).mkdir(exist_ok=True)
        os.rename(hidden, base / name / str(version))

    save("small", lambda x: 0.5 * x + 2.0, [None])
    save("image", lambda x: 1.0 - x, [None, None, None, 3])
    matrix = tf.constant(np.random.default_rng(0).standard_normal((700, 700)) / 26.0, tf.float32)

    def chain(x: tf.Tensor) -> tf.Tensor:
        y = x * matrix
        for _ in range(5):
            y = tf.tanh(y @ matrix)
        return tf.reduce_sum(y)[None]

    save("slow", chain, [None, 1])
    resnet = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=10)
    save("resnet50", lambda x: resnet(x, training=False), [None, 32, 32, 3], network=resnet)
    classifier = zoo.from_pretrained("cnn_mnist")
    classify = classifier.signatures()["classify"]
    save("cnn_mnist", lambda x: classify(image=x)["probabilities"], [None, 28, 28, 1], network=classifier)
    for version in range(1, PUSHES + 2):
        save("swap", lambda x, version=version: x * float(version), [None], version)


def in_process(base: pathlib.Path, name: str) -> dict[str, float]:
    """Median seconds and calls per second of the signature itself."""
    import tensorflow as tf

    signature = tf.saved_model.load(str(base / name / "1")).signatures["serving_default"]
    x = INPUTS[name]

    def call() -> None:
        next(iter(signature(x=tf.constant(x)).values())).numpy()

    for _ in range(20):
        call()
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while (began := time.perf_counter()) < end:
        call()
        times.append(time.perf_counter() - began)
    return {"median_ms": 1e3 * float(np.median(times)), "per_second": 1.0 / float(np.mean(times))}


# Clients --------------------------------------------------------------------------------------------


def request(name: str) -> bytes:
    made = wire_pb2.PredictRequest()
    made.model_spec.name = name
    tensors.write_proto(INPUTS[name], made.inputs["x"])
    return made.SerializeToString()


def alone(address: str, name: str) -> dict[str, float]:
    """One connection, one request at a time."""
    raw = request(name)
    with grpc.insecure_channel(address, options=UNLIMITED) as channel:
        call = channel.unary_unary(PREDICT)
        for _ in range(20):
            call(raw)
        times = []
        end = time.perf_counter() + SECONDS
        while (began := time.perf_counter()) < end:
            call(raw)
            times.append(time.perf_counter() - began)
    return {
        "median_ms": 1e3 * float(np.median(times)),
        "p99_ms": 1e3 * float(np.percentile(times, 99)),
        "per_second": 1.0 / float(np.mean(times)),
    }


def together(address: str, name: str, in_flight: int, seconds: float = SECONDS) -> dict[str, float]:
    """As many requests in flight, each followed by the next."""
    raw = request(name)
    times: list[float] = []

    async def run() -> float:
        async with contextlib.AsyncExitStack() as stack:
            channels = [
                await stack.enter_async_context(
                    grpc.aio.insecure_channel(
                        address, options=[*UNLIMITED, ("grpc.use_local_subchannel_pool", 1)]
                    )
                )
                for _ in range(min(in_flight, 4))
            ]
            calls = [channel.unary_unary(PREDICT) for channel in channels]
            for call in calls:
                await call(raw)
            began = time.perf_counter()
            end = began + seconds

            async def client(call: Any) -> None:
                while (sent := time.perf_counter()) < end:
                    await call(raw)
                    times.append(time.perf_counter() - sent)

            await asyncio.gather(*(client(calls[i % len(calls)]) for i in range(in_flight)))
            return time.perf_counter() - began

    wall = asyncio.run(run())
    return {
        "per_second": len(times) / wall,
        "median_ms": 1e3 * float(np.median(times)),
        "p99_ms": 1e3 * float(np.percentile(times, 99)),
    }


async def checked(
    address: str,
    clients: int,
    going: Callable[[], bool],
    labels: tuple[str, ...] = ("",),
    pause: float = 0.0,
) -> dict[str, Any]:
    """Clients of `swap`, with the labels in turn, that check each answer by the version which gave it."""
    failed: list[str] = []
    wrong = 0
    answered = 0
    seen: set[int] = set()

    async def client(call: Any, label: str) -> None:
        nonlocal wrong, answered
        made = wire_pb2.PredictRequest()
        made.model_spec.name = "swap"
        if label:
            made.model_spec.version_label = label
        tensors.write_proto(INPUTS["small"], made.inputs["x"])
        raw = made.SerializeToString()
        while going():
            try:
                answer = wire_pb2.PredictResponse.FromString(await call(raw))
            except grpc.RpcError as error:
                failed.append(f"{error.code()}: {error.details()}")
                continue
            version = answer.model_spec.version.value
            y = tensors.from_proto(answer.outputs["y"])
            wrong += not np.array_equal(y, version * INPUTS["small"])
            answered += 1
            seen.add(version)
            if pause:
                await asyncio.sleep(pause)

    async with contextlib.AsyncExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
            for _ in range(clients)
        ]
        calls = [channel.unary_unary(PREDICT) for channel in channels]
        await asyncio.gather(*(client(call, labels[i % len(labels)]) for i, call in enumerate(calls)))
    return {
        "clients": clients,
        "answered": answered,
        "failed": len(failed),
        "failures": sorted(set(failed)),
        "wrong": wrong,
        "versions": len(seen),
    }


def swaps(address: str, base: pathlib.Path, clients: int, seconds: float, every: float) -> dict[str, Any]:
    """Clients that check each answer while a version is published every few seconds."""

    async def run() -> dict[str, Any]:
        end = time.perf_counter() + seconds

        async def publish() -> None:
            version = 1
            while time.perf_counter() + every < end:
                await asyncio.sleep(every)
                version += 1
                hidden = base / f".next{version}"
                shutil.copytree(base / "swap" / str(version), hidden)
                os.rename(hidden, base / "served" / str(version))

        asked = checked(address, clients, lambda: time.perf_counter() < end)
        return (await asyncio.gather(asked, publish()))[0]

    return {"seconds": seconds, **asyncio.run(run())}


def followers(address: str, clients: int, stop: str) -> dict[str, Any]:
    """Clients by label and without, twenty requests a second each, until there is a file `stop`."""
    labels = ("stable", "canary", "")
    return asyncio.run(checked(address, clients, lambda: not os.path.exists(stop), labels, pause=0.05))


# Parts ----------------------------------------------------------------------------------------------


def echo() -> None:
    """A server of grpcio, in our threads, that gives back the bytes it is sent: what is left to the model
    server is what it takes above this one. Prints its port."""
    from serving.workers import Workers

    server = grpc.server(Workers(3, 64))
    service, method = PREDICT[1:].split("/")
    handler = grpc.unary_unary_rpc_method_handler(lambda raw, context: raw)
    server.add_registered_method_handlers(service, {method: handler})
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


@contextlib.contextmanager
def echoing() -> Iterator[str]:
    """The address of an `echo` in a process of its own."""
    with subprocess.Popen(command_of("echo"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield f"127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def command_of(*arguments: Any) -> list[str]:
    """Of a process that calls one of the functions here."""
    called = json.dumps([str(a) if isinstance(a, pathlib.Path) else a for a in arguments])
    return [sys.executable, __file__, "--call", called]


def aside(*arguments: Any) -> Any:
    """Runs one of the functions here in a process of its own; returns what it returns."""
    done = subprocess.run(
        command_of(*arguments),
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if done.returncode:
        raise SystemExit(f"{arguments[0]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def serving(base: pathlib.Path, *names: str, flags: tuple[str, ...] = ()) -> Iterator[LaunchedServer]:
    with launch({name: base / name for name in names}, flags=flags) as server:
        yield server


def small(base: pathlib.Path) -> dict[str, Any]:
    direct = aside("in_process", base, "small")
    with serving(base, "small") as server:
        one = aside("alone", server.address, "small")
        many = aside("together", server.address, "small", 16)
    with echoing() as address:
        empty = {
            "one_connection": aside("alone", address, "small"),
            "in_flight_16": aside("together", address, "small", 16),
        }
    return {
        "in_process": direct,
        "one_connection": one,
        "in_flight_16": many,
        "empty_grpc_server": empty,
        "median_to_in_process": one["median_ms"] / direct["median_ms"],
    }


def slow(base: pathlib.Path) -> dict[str, Any]:
    direct = aside("in_process", base, "slow")
    with serving(base, "slow") as server:
        one = aside("together", server.address, "slow", 1)
        two = aside("together", server.address, "slow", 2)  # the next is there when one ends
    return {
        "in_process": direct,
        "in_flight_1": one,
        "in_flight_2": two,
        "throughput_to_in_process": {
            "in_flight_1": one["per_second"] / direct["per_second"],
            "in_flight_2": two["per_second"] / direct["per_second"],
        },
    }


def image(base: pathlib.Path) -> dict[str, Any]:
    direct = aside("in_process", base, "image")
    with serving(base, "image") as server:
        one = aside("alone", server.address, "image")
    return {
        "in_process": direct,
        "one_connection": one,
        "over_ms": one["median_ms"] - 2.0 * direct["median_ms"],  # 6 is allowed
    }


def batching(base: pathlib.Path) -> dict[str, Any]:
    parameters = base / "batching.config"
    # One batch at a time: TensorFlow's own threads share its work among the cores. The timeout is some part
    # of what a batch takes, or the first to come back after one would run without the others.
    parameters.write_text(
        "max_batch_size { value: 64 } batch_timeout_micros { value: 50000 } num_batch_threads { value: 1 }"
    )
    flags = ("--enable_batching", f"--batching_parameters_file={parameters}")

    def gain(name: str) -> dict[str, Any]:
        with serving(base, name) as server:
            off = aside("together", server.address, name, 64)
        with serving(base, name, flags=flags) as server:
            on = aside("together", server.address, name, 64)
        return {"off": off, "on": on, "gain": on["per_second"] / off["per_second"]}

    return {name: gain(name) for name in ("resnet50", "cnn_mnist")}


def swap(base: pathlib.Path) -> dict[str, Any]:
    shutil.copytree(base / "swap" / "1", base / "served" / "1")
    with launch({"swap": base / "served"}) as server:
        return aside("swaps", server.address, base, 200, 60.0, 5.0)


def push(base: pathlib.Path, pushes: int = PUSHES, clients: int = 50) -> dict[str, Any]:
    """Pushes, each validated in a server of its own, and a rollback after each, while clients ask."""
    import tensorflow as tf

    from serving import push as push_lib
    from zoo import blessing

    def candidate(version: int) -> pathlib.Path:
        """The model that multiplies by this number, which is the one that the push will give it."""
        path = base / "candidates" / "swap" / str(version)
        shutil.copytree(base / "swap" / str(version), path)
        log = golden_pb2.PredictionLog()
        log.predict_log.request.model_spec.signature_name = "serving_default"
        x = INPUTS["small"]
        tensors.write_proto(x, log.predict_log.request.inputs["x"])
        tensors.write_proto(x * np.float32(version), log.predict_log.response.outputs["y"])
        (path / "assets.extra").mkdir()
        with tf.io.TFRecordWriter(str(path / "assets.extra" / "golden_requests")) as writer:
            writer.write(log.SerializeToString())
        blessing.write(
            path, blessing.Blessing(True, "swap", blessing.digest(path), "2026-01-01T00:00:00Z", (), {})
        )
        return path

    served, stop = base / "pushed", base / "stop"
    push_lib.Base(served, say=lambda _: None).push(candidate(1))
    flags = ["--model_config_file_poll_wait_seconds=1", "--allow_version_labels_for_unavailable_models"]
    seconds: dict[str, list[float]] = {"push": [], "rollback": []}
    with launch(served / "models.config", flags=flags) as server, ThreadPoolExecutor() as pool:
        asked = pool.submit(aside, "followers", server.address, clients, stop)
        try:
            line = push_lib.Base(served, servers=[server.address], say=lambda _: None)
            for version in range(2, pushes + 2):
                export = candidate(version)
                began = time.monotonic()
                line.push(export)
                between = time.monotonic()
                line.rollback("swap")
                seconds["push"].append(between - began)
                seconds["rollback"].append(time.monotonic() - between)
                print(f"{version - 1}: {between - began:.1f} s", file=sys.stderr, flush=True)
        finally:
            stop.touch()
        found = asked.result()
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    return {"pushes": pushes, "median_seconds": median, **found}


def soak(base: pathlib.Path, seconds: float = 3600.0) -> dict[str, Any]:
    """Half of what the server can do, for an hour; memory, descriptors and threads at both ends."""

    def state(pid: int) -> dict[str, int]:
        fields = dict(
            line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        return {
            "memory_kib": int(fields["VmRSS"].split()[0]),
            "threads": int(fields["Threads"]),
            "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        }

    with serving(base, "small", "cnn_mnist", "image") as server:
        raws = [request(name) for name in ("small", "small", "small", "cnn_mnist", "small", "image")]
        counts = [0] * 4
        failed: list[str] = []

        def client(index: int, stop: threading.Event, each: float) -> None:
            """A request every `each` seconds, or as fast as they are answered."""
            with grpc.insecure_channel(server.address, options=UNLIMITED) as channel:
                call = channel.unary_unary(PREDICT)
                due = time.monotonic()
                while not stop.wait(max(0.0, due - time.monotonic())):
                    try:
                        call(raws[counts[index] % len(raws)])
                    except grpc.RpcError as error:
                        failed.append(str(error.code()))
                    counts[index] += 1
                    due = max(due + each, time.monotonic() - 1.0)

        def clients(each: float) -> tuple[threading.Event, list[threading.Thread]]:
            stop = threading.Event()
            threads = [threading.Thread(target=client, args=(i, stop, each)) for i in range(4)]
            for thread in threads:
                thread.start()
            return stop, threads

        stop, threads = clients(0.0)
        time.sleep(2 * SECONDS)
        stop.set()
        for thread in threads:
            thread.join()
        full = sum(counts) / (2 * SECONDS)
        stop, threads = clients(2 * 4 / full)
        before = sum(counts)
        time.sleep(min(60.0, seconds / 10))  # arenas and pools fill first
        states = [state(server.process.pid)]
        for _ in range(10):
            time.sleep(seconds / 10)
            states.append(state(server.process.pid))
            print(states[-1], sum(counts), file=sys.stderr, flush=True)
        stop.set()
        for thread in threads:
            thread.join()
    growth = {name: states[-1][name] / states[0][name] - 1.0 for name in states[0]}
    return {
        "seconds": seconds,
        "requests": sum(counts) - before,
        "load": (sum(counts) - before) / seconds / full,  # a share of what it can do
        "failed": len(failed),
        "growth": growth,
        "states": states,
    }


def summary(results: dict[str, Any]) -> str:
    parts = []
    if "small" in results:
        row = results["small"]
        parts.append(
            f"small Predict {row['one_connection']['median_ms']:.2f} ms median on one connection "
            f"({row['median_to_in_process']:.1f} x the in-process call), "
            f"{row['in_flight_16']['per_second']:,.0f} requests/s at 16 in flight (a gRPC server in Python "
            f"that does nothing: {row['empty_grpc_server']['one_connection']['median_ms']:.2f} ms, "
            f"{row['empty_grpc_server']['in_flight_16']['per_second']:,.0f}/s)"
        )
    if "slow" in results:
        row = results["slow"]
        one, two = row["throughput_to_in_process"].values()
        parts.append(
            f"a model of {row['in_process']['median_ms']:.0f} ms: {100 * one:.0f} % of the in-process loop's "
            f"throughput with one request at a time, {100 * two:.0f} % with two in flight"
        )
    if "image" in results:
        row = results["image"]
        parts.append(
            f"3 MiB in and out {row['one_connection']['median_ms']:.1f} ms "
            f"(in process {row['in_process']['median_ms']:.1f} ms)"
        )
    if "batching" in results:
        gains = [f"{name} {row['gain']:.1f} x" for name, row in results["batching"].items() if name != "run"]
        parts.append(f"batching, 64 clients: {', '.join(gains)} the requests/s")
    if "swap" in results:
        row = results["swap"]
        parts.append(
            f"{row['clients']} clients through {row['versions'] - 1} hot swaps: {row['failed']} failed, "
            f"{row['wrong']} wrong of {row['answered']:,}"
        )
    if "push" in results:
        row = results["push"]
        parts.append(
            f"{row['clients']} clients through {row['pushes']} pushes and as many rollbacks: {row['failed']} "
            f"failed, {row['wrong']} wrong of {row['answered']:,}"
        )
    if "soak" in results:
        row = results["soak"]
        parts.append(
            f"{row['seconds'] / 60:.0f} minutes at {100 * row['load']:.0f} % load: {row['failed']} of "
            f"{row['requests']:,} requests failed, memory {100 * row['growth']['memory_kib']:+.1f} %"
        )
    return "Model server, 2 cores shared with its clients: " + "; ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join((*PARTS, "push", "soak")))
    parser.add_argument("--soak_seconds", type=float, default=3600.0)
    parser.add_argument("--pushes", type=int, default=PUSHES)
    parser.add_argument("--call", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.call:
        name, *rest = json.loads(arguments.call)
        if name in ("in_process", "swaps"):
            index = 0 if name == "in_process" else 1
            rest[index] = pathlib.Path(rest[index])
        print(json.dumps(globals()[name](*rest)))
        return
    from train import card  # TensorFlow: not for the clients' processes

    # A part that is run alone replaces its own figures; each says when it was run.
    results = json.loads(RESULTS.read_text())["results"] if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory(prefix="atelier_bench_") as folder:
        base = pathlib.Path(folder)
        write_models(base)
        for part in arguments.parts:
            if part == "soak":
                results[part] = soak(base, arguments.soak_seconds)
            elif part == "push":
                results[part] = push(base, arguments.pushes)
            else:
                results[part] = globals()[part](base)
            results[part]["run"] = {
                "when": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
                "hardware": card.hardware(),
                "python": platform.python_version(),
                **{name: metadata.version(name) for name in ("tensorflow", "grpcio")},
            }
            print(part, json.dumps(results[part], indent=1), flush=True)
            report = {"summary": summary(results), "results": results, "command": "make bench-serve"}
            write_json(RESULTS, report)
    print(summary(results))


if __name__ == "__main__":
    main()
