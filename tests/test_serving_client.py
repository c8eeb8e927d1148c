"""The client against the embedded server."""

from __future__ import annotations

import inspect
import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import saved_models
import tensorflow as tf

from serving import errors
from serving.client import Client, ServedModel, Split
from serving.launch import LaunchedServer, launch

pytest_plugins = ["saved_models"]  # the models and the running server


@pytest.fixture(scope="module")
def client(running: LaunchedServer) -> Iterator[Client]:
    with Client.connect(running.address) as client:
        yield client


# --- Predict -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x",
    [
        np.array([[1, 2, 3]], np.float32),
        np.array([[1, 2, 3]], np.float64),
        np.array([[1, 2, 3]], np.float16),
        [[1, 2, 3]],
        [(1.0, 2.0, 3.0)],
    ],
)
def test_predict_takes_what_means_a_float_array(client, x):
    outputs = client.predict("dense", {"x": x})
    assert outputs["y"].dtype == np.float32
    assert outputs["y"].tolist() == [12]
    assert outputs["image"].shape == (1, 4, 4, 1)


@pytest.mark.parametrize("text", [["ab", "ü"], [b"ab", "ü".encode()], np.array(["ab", "ü"])])
def test_strings_go_in_as_str_or_bytes_and_come_out_as_bytes(client, text):
    outputs = client.predict("text", {"text": text, "times": [2, 1]})
    # TensorFlow's upper() knows ASCII only.
    assert outputs["text"].tolist() == [b"ABAB", "ü".encode()]


def test_inputs_with_defaults_may_be_left_out(client):
    assert client.predict("dense", {"x": [1, 2]}, signature="options")["y"].tolist() == [4, 7]
    outputs = client.predict("dense", {"x": [1, 2], "gain": [10]}, signature="options")
    assert outputs["y"].tolist() == [11, 21]


def test_outputs_version_and_label_choose(client):
    x = {"x": [[1, 0, 0]]}
    assert list(client.predict("labelled", x, outputs=["y"])) == ["y"]
    assert client.predict("labelled", x)["y"][0] == 5
    assert client.predict("labelled", x, version=1)["y"][0] == 2
    assert client.predict("labelled", x, label="stable")["y"][0] == 2


def test_messages_may_be_larger_than_grpc_s_four_megabytes(client):
    x = np.ones(2000, np.float32)
    outputs = client.predict("dense", {"x": x}, signature="wide")
    assert outputs["y"].nbytes > 4 * 2**20
    assert outputs["y"][-1].tolist() == list(range(1000))
    rows = np.ones((400_000, 3), np.float32)
    assert client.predict("dense", {"x": rows}, outputs=["y"])["y"].shape == (400_000,)


INVALID = [
    ({"z": [[1, 2, 3]]}, {}, r"signature 'serving_default' has no input 'z' \(it has: x\)"),
    ({}, {}, r"also needs input 'x' \(float32 \[\?, 3\]\)"),
    ({"x": [["a", "b", "c"]]}, {}, "input 'x': expected float32, given string"),
    ({"x": np.zeros((1, 3), np.uint8)}, {}, "input 'x': expected float32, given uint8"),
    ({"x": [1, 2, 3]}, {}, r"input 'x': expected shape \[\?, 3\], given \[3\]"),
    ({"x": [[1, 2]]}, {}, r"input 'x': expected shape \[\?, 3\], given \[1, 2\]"),
    ({"x": [[1, 2, 3]]}, {"outputs": ["imagee"]}, "no output 'imagee'; did you mean 'image'?"),
    ({"gian": [1], "x": [1]}, {"signature": "options"}, "no input 'gian'; did you mean 'gain'?"),
    ({"x": [[1, 2, 3]]}, {"version": 1, "label": "stable"}, "a version, a label or a split, not two of them"),
]


@pytest.mark.parametrize(("inputs", "options", "message"), INVALID)
def test_inputs_that_do_not_fit_are_named_before_anything_is_sent(client, inputs, options, message):
    with pytest.raises(errors.InvalidInput, match=message) as raised:
        client.predict("dense", inputs, **options)
    assert isinstance(raised.value, ValueError)
    assert raised.value.code is None


@pytest.mark.parametrize("times", [[1.5], [True], ["a"], [2**63]])
def test_values_of_another_kind_than_int64_are_refused(client, times):
    with pytest.raises(errors.InvalidInput, match="input 'times'"):
        client.predict("text", {"text": ["a"], "times": times})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"model": "nope"}, r"Latest\(nope\)"),
        ({"model": "dense", "version": 7}, r"Specific\(dense, 7\)"),
        ({"model": "labelled", "label": "nope"}, "version label: nope"),
    ],
)
def test_unknown_models_versions_and_labels_are_lookup_errors(client, call, message):
    with pytest.raises(errors.ModelNotFound, match=message) as raised:
        client.predict(inputs={"x": [[1, 2, 3]]}, **call)
    assert isinstance(raised.value, LookupError)


def test_an_unknown_signature_lists_the_known(client):
    with pytest.raises(
        errors.SignatureNotFound, match=r"did you mean 'options'\?.*serving_default"
    ):
        client.predict("dense", {"x": [1]}, signature="option")


def test_the_op_s_own_refusal_is_invalid_input(client):
    with pytest.raises(errors.InvalidInput, match="Could not parse example") as raised:
        client.predict("text", {"inputs": [b"\x01"]}, signature="parse")
    assert raised.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_call_past_its_timeout_is_a_timeout_error(client):
    client.metadata("dense")
    with pytest.raises(TimeoutError) as raised:
        client.predict("dense", {"steps": 2**31 - 1}, signature="slow", timeout=0.2)
    assert isinstance(raised.value, errors.DeadlineExceeded)


def test_no_server_is_a_connection_error():
    with Client.connect("127.0.0.1:1") as client, pytest.raises(ConnectionError) as raised:
        client.status("dense")
    assert isinstance(raised.value, errors.ServerUnavailable)


# --- Metadata and status -------------------------------------------------------------------------


def test_metadata_names_signatures_types_shapes_and_defaults(client):
    metadata = client.metadata("dense")
    assert (metadata.model, metadata.version) == ("dense", 1)
    assert set(metadata.signatures) == {"serving_default", "wide", "slow", "options"}
    options = metadata.signatures["options"]
    assert (options.inputs["x"].dtype, options.inputs["x"].shape) == ("float32", (None,))
    assert options.inputs["x"].default is None
    assert options.inputs["gain"].default.tolist() == [3]
    assert metadata.signatures["slow"].inputs["steps"].shape == ()
    assert metadata.signatures["serving_default"].outputs["image"].shape == (None, 4, 4, 1)
    assert client.metadata("text").signatures["serving_default"].inputs["text"].dtype == "string"


class _Counter(grpc.UnaryUnaryClientInterceptor):
    """Counts the calls of each method on a real channel."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def intercept_unary_unary(self, continuation, call_details, request):
        self.calls.append(call_details.method.rpartition("/")[2])
        return continuation(call_details, request)


def test_metadata_is_asked_for_once(running):
    counter = _Counter()
    channel = grpc.intercept_channel(grpc.insecure_channel(running.address), counter)
    with Client(channel) as client:
        for _ in range(3):
            client.predict("dense", {"x": [[1, 2, 3]]})
    assert counter.calls == ["GetModelMetadata", "Predict", "Predict", "Predict"]


def test_a_new_version_with_other_signatures_is_followed(running, client, model_base):
    assert client.predict("changing", {"x": [[1, 2, 3]]})["y"].tolist() == [12]
    saved_models.write_text(model_base / "changing", 2)
    deadline = time.monotonic() + 60
    while [v.state for v in client.status("changing")] != ["AVAILABLE", "END"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.predict("changing", {"text": ["a"], "times": [1]})["text"].tolist() == [b"A"]


def test_status_lists_versions_newest_first(client):
    found = [(v.version, v.state, v.error_code) for v in client.status("labelled")]
    assert found == [(2, "AVAILABLE", "OK"), (1, "AVAILABLE", "OK")]
    assert [v.version for v in client.status("labelled", version=1)] == [1]
    with pytest.raises(errors.ModelNotFound, match="Could not find any versions of model nope"):
        client.status("nope")


# --- The answer, and a model as an object --------------------------------------------------------


def test_an_answer_says_who_made_it_and_is_read_only(client):
    answer = client.predict("labelled", {"x": [[1, 0, 0]]}, label="stable")
    assert (answer.model, answer.version, answer.label) == ("labelled", 1, "stable")
    assert answer.signature == "serving_default"
    assert "labelled version 1 (stable), serving_default: " in repr(answer)
    assert "y: float32 [1]" in repr(answer) and "image: float32 [1, 4, 4, 1]" in repr(answer)
    with pytest.raises(ValueError, match="read-only"):
        answer["y"][0] = 1
    again = pickle.loads(pickle.dumps(answer))
    assert again.version == 1 and again["y"].tolist() == [2]


def test_a_model_s_signatures_are_methods(client):
    dense = client.model("dense")
    assert dense.options(x=[1, 2])["y"].tolist() == [4, 7]
    assert dense.options(x=[1, 2], gain=10)["y"].tolist() == [11, 21]
    assert dense(x=[[1, 2, 3]])["y"].tolist() == [12]
    assert dense["options"](x=[1]).signature == "options"
    assert {"options", "wide", "slow", "serving_default"} <= set(dir(dense))
    assert list(dense) == ["options", "serving_default", "slow", "wide"]
    assert "options(*, x: 'float32 [?]', gain: 'float32 [1]' = 3.0" in repr(dense)


def test_a_signature_documents_itself(client):
    options = client.model("dense").options
    parameters = inspect.signature(options).parameters
    assert list(parameters) == ["x", "gain", "shift"]
    assert parameters["x"].default is inspect.Parameter.empty
    assert (parameters["gain"].default, parameters["gain"].annotation) == (3.0, "float32 [1]")
    assert options.__doc__.splitlines()[0] == "Signature 'options' of dense, version 1."
    assert "  gain: float32 [1], [3.0] if left out\n" in options.__doc__
    assert "Returns:\n  y: float32 [?]\n" in options.__doc__


def test_mistakes_at_a_model_are_named(client):
    dense = client.model("dense")
    with pytest.raises(AttributeError, match=r"no signature 'option'; did you mean 'options'\?"):
        dense.option  # noqa: B018
    with pytest.raises(LookupError, match="no signature 'option'"):
        dense["option"]
    with pytest.raises(TypeError, match=r"inputs are given by name: options\(\*, x"):
        dense.options([1])
    with pytest.raises(errors.InvalidInput, match=r"no input 'gian'; did you mean 'gain'\?"):
        dense.options(x=[1], gian=[1])
    with pytest.raises(errors.ModelNotFound):
        client.model("nope")


def test_a_model_keeps_to_its_version_or_label(client):
    assert client.model("labelled", version=1)(x=[[1, 0, 0]])["y"].tolist() == [2]
    assert client.model("labelled", label="canary")(x=[[1, 0, 0]])["y"].tolist() == [5]
    split = Split({1: 1, "canary": 1})
    both = client.model("labelled", split=split)
    assert {both(x=[[1, 0, 0]])["y"].item() for _ in range(60)} == {2, 5}


# --- Classify, Regress, health, reload -----------------------------------------------------------


@pytest.fixture(scope="module")
def reloadable(model_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Path]]:
    """A client of a server of its own, without a health service: "first", and the base path of "examples".

    `classify`: inputs, serialized tf.Example [B] with x -> classes [low, high], scores [x, 2 x].
    `regress`: -> outputs x + 1.
    """

    class Examples(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")], autograph=False)
        def classify(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            x = _parsed(inputs)
            return {
                "classes": tf.tile([["low", "high"]], [tf.shape(x)[0], 1]),
                "scores": tf.stack([x, 2.0 * x], 1),
            }

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")], autograph=False)
        def regress(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"outputs": _parsed(inputs) + 1.0}

    def _parsed(inputs: tf.Tensor) -> tf.Tensor:
        return tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]

    base = tmp_path_factory.mktemp("examples")
    module = Examples()
    signatures = {"classify": module.classify, "regress": module.regress}
    tf.saved_model.save(module, str(base / "1"), signatures=signatures)
    models = {"first": model_base / "labelled", "examples": base}
    server = launch(models, flags=["--max_num_load_retries=0"])
    with server as launched, Client.connect(launched.address) as client:
        yield client, base


def test_examples_are_classified_and_regressed(reloadable):
    client, _ = reloadable
    rows = [{"x": 2.0}, {"x": [4.0]}]
    scored = client.classify("examples", rows, signature="classify")
    assert scored["classes"].tolist() == [[b"low", b"high"]] * 2
    assert scored["scores"].tolist() == [[2, 4], [4, 8]]
    assert (scored.version, scored.signature) == (1, "classify")
    assert client.regress("examples", rows, signature="regress")["outputs"].tolist() == [3, 5]
    shared = client.regress("examples", [{}, {}], context={"x": 1.0}, signature="regress")
    assert shared["outputs"].tolist() == [2, 2]
    with pytest.raises(errors.InvalidInput, match="feature 'x': expected string"):
        client.classify("examples", [{"x": None}], signature="classify")
    with pytest.raises(errors.SignatureNotFound, match="No signature was found with the name: nope"):
        client.regress("examples", rows, signature="nope")
    with pytest.raises(errors.ModelNotFound):
        client.classify("nope", rows)


def test_health_of_the_server_and_of_a_model(client):
    assert client.health() == "SERVING"
    assert client.health("dense") == "SERVING"
    assert client.health("nope") == "SERVICE_UNKNOWN"


def test_health_needs_its_flag(reloadable):
    with pytest.raises(errors.NotSupported):
        reloadable[0].health()


def test_reload_replaces_the_list_of_models(reloadable, model_base, tmp_path):
    client, examples = reloadable
    dense, rest = model_base / "labelled", {"examples": examples}
    x = {"x": [[1, 0, 0]]}
    assert client.predict("first", x).version == 2
    client.reload({"second": ServedModel(dense, versions="all"), **rest})
    deadline = time.monotonic() + 60
    while [v.state for v in client.status("second")] != ["AVAILABLE", "AVAILABLE"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    client.reload({"second": ServedModel(dense, versions="all", labels={"stable": 1}), **rest})
    assert client.predict("second", x, label="stable").version == 1
    assert client.predict("second", x, version=2).version == 2
    client.reload({"second": ServedModel(dense, versions=[1]), "third": dense, **rest})
    assert client.predict("third", x).version == 2
    config = tmp_path / "models.config"
    entry = 'config {{ name: "{}" base_path: "{}" model_platform: "tensorflow" }}'
    entries = entry.format("fourth", dense) + entry.format("examples", examples)
    config.write_text(f"model_config_list {{ {entries} }}")
    client.reload(config)
    assert client.predict("fourth", x).version == 2
    config.write_text("model_config_list { config { nome: 1 } }")
    with pytest.raises(errors.InvalidInput, match=r"models\.config: no ModelServerConfig: .*nome"):
        client.reload(str(config))
    with pytest.raises(errors.InvalidInput, match="relative/path"):
        client.reload({"fifth": "relative/path"}, timeout=20.0)
    assert client.predict("fourth", x).version == 2  # what is refused changes nothing


# --- Exceptions ----------------------------------------------------------------------------------


def test_the_module_s_drawing_shows_every_exception_with_its_bases():
    for line in errors.__doc__.splitlines():
        name, _, rest = line.strip("│├└─ ").partition("(")
        if "──" in line:
            drawn = getattr(errors, name.strip())
            assert drawn.__bases__[0] is errors.ServingError
            assert drawn.__bases__[1].__name__ == rest.partition(")")[0]
    subclasses = {kind.__name__ for kind in errors.ServingError.__subclasses__()}
    assert all(f"── {name} " in errors.__doc__ for name in subclasses)
