"""The client where servers fail, change or lie: a fake server does on demand what a real one does rarely."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_server
import grpc
import numpy as np
import pytest
import saved_models
from fake_server import FakeModel, FakeServer

from serving import errors
from serving.client import TLS, Client, Split
from serving.launch import launch

ROOT = Path(__file__).resolve().parent.parent
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client.connect(server.address, timeout=20.0) as client:
        yield client


def _double(client: Client, x: float = 1.0, **options: object) -> list[float]:
    return client.predict("double", {"x": [x]}, **options)["y"].tolist()


# --- Trying again --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_an_unavailable_server_is_asked_again(server, client, status):
    server.script = [status, status]
    assert _double(client) == [2]
    assert server.asked == ["GetModelMetadata", "Predict", "Predict", "Predict"]


@pytest.mark.parametrize(
    "status",
    [
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    ],
)
def test_no_other_failure_is_tried_again(server, client, status):
    _double(client)
    server.script = [status]
    with pytest.raises(errors.ServingError, match=f"scripted {status.name}") as raised:
        _double(client)
    assert raised.value.code is status
    assert server.asked.count("Predict") == 2


def test_the_last_failure_is_raised_and_says_how_often_it_was_tried(server):
    server.script = [UNAVAILABLE] * 10
    tried = pytest.raises(errors.ServerUnavailable, match=r"scripted UNAVAILABLE \(tried 3 times\)")
    with Client.connect(server.address, retries=2) as client, tried:
        _double(client)
    assert server.asked.count("Predict") == 3


def test_retries_may_be_switched_off(server):
    server.script = [UNAVAILABLE]
    with Client.connect(server.address, retries=0) as client, pytest.raises(ConnectionError):
        _double(client)


def test_many_callers_share_one_budget(server):
    with Client.connect(server.address, retries=1, timeout=60.0) as client:
        _double(client)
        server.script = [UNAVAILABLE] * 1000
        before = len(server.asked)
        began = time.monotonic()
        for _ in range(50):
            with pytest.raises(errors.ServerUnavailable):
                _double(client)
        # 20 at the start, a fifth of one for each call, and five a second (which is why time is read).
        retries = len(server.asked) - before - 50
        assert 20 <= retries <= 20 + 10 + 5 * (time.monotonic() - began) + 1


def test_the_deadline_covers_the_pauses_too(server):
    server.script = [UNAVAILABLE] * 1000
    with Client.connect(server.address, retries=1000) as client:
        client.metadata("double")
        began = time.monotonic()
        with pytest.raises(errors.ServerUnavailable):
            _double(client, timeout=0.5)
        assert time.monotonic() - began < 5.0


def test_a_slow_answer_is_a_timeout_that_says_how_long_it_waited(server, client):
    client.metadata("double")
    server.script = [1.0]
    with pytest.raises(TimeoutError, match=r"no answer within 0.\d+ s") as raised:
        _double(client, timeout=0.2)
    assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


# --- Several servers -----------------------------------------------------------------------------


def test_calls_take_turns_and_survive_a_server_s_end():
    one, two = FakeServer(), FakeServer()
    with one, two, Client.connect([one.address, two.address], retries=0) as client:
        for _ in range(10):
            assert _double(client) == [2]
        assert len(one.asked) + len(two.asked) == 11 and abs(len(one.asked) - len(two.asked)) == 1
        one.stop()
        before = len(two.asked)
        for _ in range(10):
            assert _double(client) == [2]  # without a retry: moving on is none
        assert len(two.asked) == before + 10
        two.stop()
        with pytest.raises(errors.ServerUnavailable):
            _double(client)


def test_a_server_that_comes_back_is_found_again():
    port = saved_models.free_port()
    with Client.connect(f"127.0.0.1:{port}", retries=30, timeout=30.0) as client:
        with pytest.raises(errors.ServerUnavailable):
            _double(client, timeout=0.3)
        for _ in range(2):
            with FakeServer(address=f"127.0.0.1:{port}"):
                assert _double(client) == [2]


def test_a_unix_socket_is_an_address(tmp_path):
    with FakeServer(address=f"unix:{tmp_path}/s") as server, Client.connect(server.address) as client:
        assert _double(client) == [2]


@pytest.mark.parametrize(
    "address",
    [
        *("localhost", "http://localhost:8501", "", "a b:1", ":8500", "h:0", "h:65536", "[::1]:65536"),
        *([], ["h:1", "x"]),
    ],
)
def test_an_address_that_is_none_is_refused_before_anything_connects(address):
    with pytest.raises(errors.InvalidInput, match=r"expected (an|one) address"):
        Client.connect(address)


# --- Models that change --------------------------------------------------------------------------


def test_metadata_follow_a_hot_swap(server, client):
    assert client.metadata("double").version == 1
    assert client.predict("double", {"x": [1]}).version == 1
    server.models["double"] = FakeModel(version=2)
    assert client.predict("double", {"x": [1]}).version == 2
    assert client.metadata("double").version == 2
    for _ in range(5):
        client.predict("double", {"x": [1]})
    assert server.asked.count("GetModelMetadata") == 2


def test_a_swap_to_another_type_casts_anew_and_answers(server, client):
    assert _double(client) == [2]
    server.models["double"] = FakeModel(version=2, inputs={"x": ("DT_DOUBLE", (-1,))})
    answer = client.predict("double", {"x": [1.5]})
    assert (answer.version, answer["y"].dtype, answer["y"].tolist()) == (2, np.float64, [3])


def test_a_swap_to_another_name_is_checked_against_the_new_signature(server, client):
    assert _double(client) == [2]
    server.models["double"] = FakeModel(
        version=2, inputs={"value": ("DT_FLOAT", (-1,))}, run=lambda inputs: {"y": inputs["value"]}
    )
    assert client.predict("double", {"value": [1.0]})["y"].tolist() == [1]
    with pytest.raises(errors.InvalidInput, match=r"no input 'valu'; did you mean 'value'\?"):
        client.predict("double", {"valu": [1.0]})


def test_a_model_s_methods_follow_a_hot_swap(server, client):
    model = client.model("double")
    assert list(inspect.signature(model.serving_default).parameters) == ["x"]
    server.models["double"] = FakeModel(
        version=2,
        signature="halve",
        inputs={"value": ("DT_FLOAT", (-1,)), "no name": ("DT_FLOAT", (-1,))},
        defaults={"no name": np.float32([0, 0])},
        run=lambda inputs: {"y": inputs["value"] / 2},
    )
    with pytest.raises(errors.SignatureNotFound, match="halve"):
        model.serving_default(x=[1])
    assert model.halve(value=[1])["y"].tolist() == [0.5]
    assert model.halve(**{"value": [1], "no name": [0]})["y"].tolist() == [0.5]
    assert str(inspect.signature(model.halve)) == "(*, value: 'float32 [?]', **inputs) -> 'Answer'"
    assert "  no name: float32 [?], [0.0, 0.0] if left out\n" in model.halve.__doc__


def test_versions_side_by_side_do_not_ask_for_metadata_at_each_call():
    old, new = FakeServer(), FakeServer({"double": FakeModel(version=2)})
    with old, new, Client.connect([old.address, new.address]) as client:
        versions = Counter(client.predict("double", {"x": [1]}).version for _ in range(40))
        assert min(versions[1], versions[2]) >= 15
        assert old.asked.count("GetModelMetadata") + new.asked.count("GetModelMetadata") <= 4


def test_the_model_s_own_refusal_stays_what_it_is(server, client):
    _double(client)
    server.script = [grpc.StatusCode.INVALID_ARGUMENT]
    with pytest.raises(errors.InvalidInput, match="scripted INVALID_ARGUMENT") as raised:
        _double(client)
    assert raised.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_mistake_is_told_even_when_the_server_has_gone(server, client):
    _double(client)
    server.stop()
    with pytest.raises(errors.InvalidInput, match="no input 'z'"):
        client.predict("double", {"z": [1]}, timeout=0.5)


@pytest.mark.parametrize(
    "answer", [b"\xff", b"\x0a\x02\x12\x00", b"\x0a\x09\x0a\x01y\x12\x04\x08\x01\x22\x05"]
)
def test_an_unreadable_answer_is_a_server_error(server, client, answer):
    _double(client)
    server.script = [answer]
    with pytest.raises(errors.ServerError, match="model 'double': unreadable answer"):
        _double(client)


# --- What a mistake says -------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [float("inf"), 1e30])
def test_a_timeout_past_all_ends_is_none(server, timeout):
    with Client.connect(server.address, timeout=timeout) as client:
        assert _double(client) == [2]
        assert _double(client, timeout=timeout) == [2]


@pytest.mark.parametrize("timeout", [float("nan"), "3"])
def test_a_timeout_that_is_no_number_is_refused(client, timeout):
    with pytest.raises(errors.InvalidInput, match="expected a timeout in seconds"):
        _double(client, timeout=timeout)


@pytest.mark.parametrize(
    ("model", "inputs", "options", "message"),
    [
        (None, {}, {}, "expected a model's name, given None"),
        ("double", {}, {"label": 1}, "expected a version label, a text, given 1"),
        ("double", {1: [1.0]}, {}, "has no input 1"),
    ],
)
def test_names_that_are_no_text_are_refused(client, model, inputs, options, message):
    with pytest.raises(errors.InvalidInput, match=message):
        client.predict(model, inputs, **options)


@pytest.mark.parametrize(
    ("value", "given"),
    [
        (np.zeros((1, 2), np.uint8), "uint8 [1, 2]"),
        (["a"], "string [1]"),
        ([[1.0]], "float64 [1, 1]"),
        (None, "NoneType"),
        ({}, "dict"),
    ],
)
def test_invalid_input_names_the_input_what_it_expects_and_what_it_was_given(client, value, given):
    with pytest.raises(errors.InvalidInput) as raised:
        client.predict("double", {"x": value})
    assert (raised.value.input, raised.value.expected, raised.value.given) == ("x", "float32 [?]", given)


@pytest.mark.parametrize("inputs", [[1.0], None, "x", np.float32([1])])
def test_inputs_without_names_are_refused_with_the_names(client, inputs):
    with pytest.raises(errors.InvalidInput, match=r"expected inputs by name, \{'x': \.\.\.\}, given "):
        client.predict("double", inputs)


@pytest.mark.parametrize("version", ["3", -1, 2**63, 1.0])
def test_a_version_is_a_number_that_can_be_sent(client, version):
    with pytest.raises(errors.InvalidInput, match="expected a version number from 0"):
        client.predict("double", {"x": [1]}, version=version)


def test_a_message_that_a_server_does_not_take_is_invalid_input_not_overload(server):
    small = grpc.insecure_channel(server.address, options=[("grpc.max_receive_message_length", 4096)])
    with Client(small) as client:
        assert client.predict("double", {"x": np.zeros(100)})["y"].shape == (100,)
        with pytest.raises(errors.InvalidInput, match="larger than max"):
            client.predict("double", {"x": np.zeros(5000)})


def test_one_value_stands_for_all_rows(server, client):
    def joined(inputs: fake_server.Arrays) -> fake_server.Arrays:
        columns = (inputs[key].tolist() for key in ("seed", "name", "label"))
        rows = [f"{seed}{name.decode()}{label}" for seed, name, label in zip(*columns, strict=True)]
        return {"y": np.array(rows, object)}

    server.models["pair"] = FakeModel(
        inputs={"seed": ("DT_INT64", (-1,)), "label": ("DT_INT32", (-1,)), "name": ("DT_STRING", (-1,))},
        run=joined,
    )
    answer = client.predict("pair", {"label": 3, "seed": range(2), "name": "x"})
    assert answer["y"].tolist() == [b"0x3", b"1x3"]
    assert client.predict("pair", {"label": 3, "seed": 5, "name": b"x"})["y"].tolist() == [b"5x3"]


def test_arrays_of_other_libraries_are_taken_by_their_type(client):
    class Tensor:  # what torch, jax and pandas give
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            return self.array

    assert client.predict("double", {"x": Tensor(np.float64([1.5]))})["y"].tolist() == [3]
    with pytest.raises(errors.InvalidInput, match="expected float32, given int64"):
        client.predict("double", {"x": Tensor(np.int64([1]))})


# --- Canary --------------------------------------------------------------------------------------


def test_a_split_chooses_and_the_answer_says_what(client):
    split = Split({"stable": 0.5, "canary": 0.5})
    labels = Counter(client.predict("double", {"x": [1]}, split=split).label for _ in range(60))
    assert labels.keys() == {"stable", "canary"}
    of_user = {client.predict("double", {"x": [1]}, split=split.by("ann")).label for _ in range(5)}
    assert of_user == {split.by("ann").choose()}
    with pytest.raises(errors.InvalidInput, match="a version, a label or a split"):
        client.predict("double", {"x": [1]}, split=split, version=1)


# --- Threads, processes, the end -----------------------------------------------------------------


def test_threads_share_a_client_and_get_their_own_answers(client):
    wrong: list[object] = []

    def ask(thread: int) -> None:
        for call in range(50):
            x = float(1000 * thread + call)
            y = _double(client, x)
            if y != [2 * x]:
                wrong.append((x, y))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_closed_client_says_so(server):
    with Client.connect(server.address) as client:
        _double(client)
    with pytest.raises(errors.ClientClosed, match="was closed"):
        _double(client)
    client.close()  # again, without harm


def test_closing_ends_the_calls_in_flight(server, client):
    _double(client)
    server.script = [2.0]
    threading.Timer(0.2, client.close).start()
    with pytest.raises(errors.ClientClosed):
        _double(client)


FORK = """
import os, sys
from serving.client import Client
from serving import errors

client = Client.connect(sys.argv[1], timeout=5)
print(client.predict("double", {"x": [1]})["y"].tolist(), flush=True)
child = os.fork()
if child == 0:
    try:
        client.predict("double", {"x": [2]})
    except errors.ClientClosed as error:
        print(error, flush=True)
    client.close()
    with Client.connect(sys.argv[1], timeout=5) as own:
        print(own.predict("double", {"x": [3]})["y"].tolist(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(client.predict("double", {"x": [4]})["y"].tolist(), flush=True)
"""


def test_after_a_fork_the_child_is_told_to_connect_anew_and_can(server):
    done = subprocess.run(
        [sys.executable, "-c", FORK, server.address],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "[2.0]", done.stderr
    assert "belongs to the process that forked this one: connect anew" in lines[1]
    assert lines[2:] == ["[6.0]", "[8.0]"], done.stderr


# --- TLS and compression -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A certificate of its own authority, for "localhost" and a client alike."""
    folder = tmp_path_factory.mktemp("pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem", "-days", "2"]
    command += ["-subj", "/CN=models.test", "-addext", "subjectAltName=DNS:models.test"]
    subprocess.run(command, check=True, capture_output=True)
    return {"key": folder / "key.pem", "cert": folder / "cert.pem"}


def _secure(pem: dict[str, Path], verify_clients: bool) -> FakeServer:
    key, cert = pem["key"].read_bytes(), pem["cert"].read_bytes()
    return FakeServer(
        credentials=grpc.ssl_server_credentials(
            [(key, cert)], cert if verify_clients else None, require_client_auth=verify_clients
        )
    )


def test_tls_trusts_the_authority_it_is_given_and_no_other(pem):
    with _secure(pem, verify_clients=False) as server:
        name = "models.test"
        with Client.connect(server.address, tls=TLS(ca=pem["cert"], server_name=name)) as client:
            assert _double(client) == [2]
        for tls in (str(pem["cert"]), TLS(server_name=name), True, False):  # another name, other authorities
            refused = pytest.raises(errors.ServerUnavailable)
            with Client.connect(server.address, tls=tls, retries=0, timeout=10.0) as client, refused:
                _double(client)


def test_a_server_that_verifies_clients_is_shown_a_certificate(pem):
    with _secure(pem, verify_clients=True) as server:
        own = TLS(ca=pem["cert"], key=pem["key"], cert=pem["cert"], server_name="models.test")
        with Client.connect(server.address, tls=own) as client:
            assert _double(client) == [2]
        without = TLS(ca=pem["cert"], server_name="models.test")
        refused = pytest.raises(errors.ServerUnavailable)
        with Client.connect(server.address, tls=without, retries=0, timeout=10.0) as client, refused:
            _double(client)


def test_half_a_client_certificate_and_missing_files_are_refused(pem):
    with pytest.raises(errors.InvalidInput, match="both: key and cert"):
        Client.connect("localhost:1", tls=TLS(key=pem["key"]))
    with pytest.raises(FileNotFoundError, match=r"none\.pem"):
        Client.connect("localhost:1", tls="none.pem")
    with pytest.raises(errors.InvalidInput, match=r"fake_server\.py is no PEM file"):
        Client.connect("localhost:1", tls=fake_server.__file__)


@contextlib.contextmanager
def _counted(address: str) -> Iterator[tuple[str, list[int]]]:
    """(the address of a proxy for one connection, the sizes of what its client sent)."""
    host, _, port = address.rpartition(":")
    sent: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def copy(source: socket.socket, target: socket.socket, sizes: list[int]) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(2**16):
                    sizes.append(len(data))
                    target.sendall(data)

        def accept() -> None:
            near, _ = listener.accept()
            with near, socket.create_connection((host, int(port))) as far:
                back = threading.Thread(target=copy, args=(far, near, []), daemon=True)
                back.start()
                copy(near, far, sent)

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", sent


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_requests_are_compressed_when_asked(server, compression):
    x = np.zeros(100_000, np.float32)
    proxy = _counted(server.address)
    with proxy as (address, sent), Client.connect(address, compression=compression) as client:
        assert not client.predict("double", {"x": x})["y"].any()
    assert (sum(sent) < 20_000) == (compression is not None)


def test_an_unknown_compression_is_refused():
    with pytest.raises(errors.InvalidInput, match="expected compression 'gzip', 'deflate' or None"):
        Client.connect("localhost:1", compression="br")


# --- A real server, killed and started again -----------------------------------------------------


def _write_double(version: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.double = tf.function(
        lambda x: {"y": 2.0 * x}, input_signature=[tf.TensorSpec([None], tf.float32, "x")], autograph=False
    )
    tf.saved_model.save(module, str(version), signatures={"serving_default": module.double})


@contextlib.contextmanager
def _fake_process(port: int) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, fake_server.__file__, str(port)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
    ) as process:
        yield process
        process.kill()


@contextlib.contextmanager
def _embedded(port: int, base: Path) -> Iterator[subprocess.Popen[bytes]]:
    with launch(("double", base), port) as server:
        yield server.process


@pytest.mark.parametrize("kind", ["fake", pytest.param("embedded", marks=pytest.mark.slow)])
def test_every_call_through_a_kill_and_restart_answers_or_raises_what_is_written(kind, tmp_path):
    """The bench has the embedded server too, for longer."""
    if kind == "embedded":
        _write_double(tmp_path / "double" / "1")
    start = _fake_process if kind == "fake" else functools.partial(_embedded, base=tmp_path / "double")
    timeout, allowed = 3.0, (errors.ServerUnavailable, errors.DeadlineExceeded)
    port = saved_models.free_port()
    outcomes: list[tuple[str, float]] = []
    stop = threading.Event()

    def ask(client: Client) -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                y = _double(client, 3.0, timeout=timeout)
                outcome = "answered" if y == [6] else f"wrong: {y}"
            except allowed as error:
                outcome = type(error).__name__
                time.sleep(0.05)
            except Exception as error:
                outcome = f"other: {error!r}"
            outcomes.append((outcome, time.monotonic() - began))

    def wait_for(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, Counter(o for o, _ in outcomes)
            time.sleep(0.05)

    def count(name: str) -> int:
        return sum(outcome == name for outcome, _ in outcomes)

    with Client.connect(f"127.0.0.1:{port}") as client:
        threads = [threading.Thread(target=ask, args=(client,)) for _ in range(4)]
        with start(port) as process:
            for thread in threads:
                thread.start()
            wait_for(lambda: count("answered") > 50)
            process.send_signal(signal.SIGKILL)
            process.wait()
            wait_for(lambda: count("ServerUnavailable") + count("DeadlineExceeded") > 4)
        answered = count("answered")
        with start(port):
            wait_for(lambda: count("answered") > answered + 50)
            stop.set()
            for thread in threads:
                thread.join()
    names = {outcome for outcome, _ in outcomes}
    assert names <= {"answered", "ServerUnavailable", "DeadlineExceeded"}, names
    # Its deadline, and what a busy machine adds.
    assert max(seconds for _, seconds in outcomes) < timeout + 2.0
