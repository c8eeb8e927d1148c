"""The client and its command line against the embedded server."""

from __future__ import annotations

import json
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import saved_models
from PIL import Image

from serving import client_main, errors, png
from serving.client import Client
from serving.launch import LaunchedServer

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
    ({"x": [[1, 2, 3]]}, {"version": 1, "label": "stable"}, "a version or a label, not both"),
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


# --- Command line --------------------------------------------------------------------------------


@pytest.fixture
def ask(running, capsys):
    """Runs the binary's main; returns (exit status, standard output, standard error)."""

    def ask(*arguments: str) -> tuple[int, str, str]:
        status = client_main.main(["client", *arguments, f"--server={running.address}"])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return ask


def _answer(result: tuple[int, str, str]) -> dict[str, object]:
    assert result[0] == 0, result[2]
    return json.loads(result[1])


def test_cli_predict_prints_arrays(ask):
    status, out, _ = ask("predict", "dense", "--input", "x=[[1,2,3],[0,0,1]]", "--outputs=y")
    assert (status, out) == (0, "y: float32 [2]\n[12.  2.]\n")


def test_cli_repeats_a_single_row_and_stacks_a_repeated_name(ask):
    inputs = ["--input", "text=Hi, you", "--input", "text=b", "--input", "times=2"]
    answer = _answer(ask("predict", "text", *inputs, "--json"))
    assert answer == {"text": ["HI, YOUHI, YOU", "BB"]}


def test_cli_leaves_inputs_of_fixed_size_as_they_are(ask):
    inputs = ["--input", "x=1,2", "--input", "gain=10"]
    answer = _answer(ask("predict", "dense", "--signature=options", *inputs, "--json"))
    assert answer == {"y": [11, 21]}


def test_cli_reads_arrays_from_files(ask, tmp_path):
    rows = np.array([[1, 2, 3]], np.float32)
    np.save(tmp_path / "x.npy", rows)
    np.savez(tmp_path / "x.npz", first=rows)
    for value in (f"@{tmp_path}/x.npy", f"@{tmp_path}/x.npz:first"):
        arguments = ["predict", "dense", "--input", f"x={value}", "--outputs=y", "--json"]
        assert _answer(ask(*arguments)) == {"y": [12]}


def test_cli_reads_pictures_by_the_input_s_type(tmp_path):
    from serving.client import TensorSpec

    Image.new("RGB", (5, 4), (255, 0, 0)).save(tmp_path / "red.png")
    texts = [f"image=@{tmp_path}/red.png"]

    def read(dtype: str, shape: tuple[int | None, ...]) -> np.ndarray:
        return client_main.read_inputs(texts, {"image": TensorSpec("image", dtype, shape)})["image"]

    colour = read("float32", (None, None, None, 3))
    assert (colour.shape, colour.dtype) == ((1, 4, 5, 3), np.float32)
    assert colour[0, 0, 0].tolist() == [1, 0, 0]
    assert read("float32", (None, None, None, 1)).shape == (1, 4, 5, 1)
    assert read("uint8", (None, None, None, 3)).max() == 255
    assert read("string", (None,)).tolist() == [(tmp_path / "red.png").read_bytes()]


def test_cli_writes_pictures_a_grid_and_arrays(ask, tmp_path):
    folder = tmp_path / "new" / "out"
    status, out, _ = ask(
        "predict", "dense", "--input", "x=[[1,2,3],[1,1,1],[0,0,0]]", f"--output_dir={folder}"
    )
    assert status == 0
    names = {"image_000.png", "image_001.png", "image_002.png", "grid.png", "y.npy"}
    assert {path.name for path in folder.iterdir()} == names
    assert all(f"{folder}/{name}" in out for name in names)
    with Image.open(folder / "image_000.png") as picture:
        assert picture.size == (4, 4)
        assert picture.getpixel((0, 0)) == 51  # 0.2 of 255
    with Image.open(folder / "grid.png") as grid:
        assert grid.size == (8, 8)
    assert np.load(folder / "y.npy").tolist() == [12, 6, 0]


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 1), (4, 2, 3), (1, 1)])
def test_png_holds_the_pixels(shape, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (tmp_path / "x.png").write_bytes(png.encode(pixels))
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.mode == ("RGB" if shape[-1] == 3 and len(shape) == 3 else "L")
        assert np.array_equal(np.asarray(picture), pixels.reshape(np.asarray(picture).shape))


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 2)), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2), np.uint8)]
)
def test_png_refuses_what_it_cannot_hold(pixels):
    with pytest.raises(ValueError, match="expected pixels uint8"):
        png.encode(pixels)


def test_cli_writes_colour_pictures_in_colour(tmp_path):
    red = np.zeros((2, 3, 4, 3), np.float32)
    red[..., 0] = 1
    files = client_main.write_outputs({"image": red}, tmp_path)["image"]
    for path, size in zip(files, [(4, 3), (4, 3), (8, 3)], strict=True):
        with Image.open(path) as picture:
            assert (picture.size, picture.getpixel((0, 0))) == (size, (255, 0, 0))


def test_cli_in_a_base_install_writes_pictures_and_cannot_read_them(running, base_install, tmp_path):
    Image.new("RGB", (3, 1)).save(tmp_path / "x.png")
    python, environment = base_install

    def run(value: str) -> subprocess.CompletedProcess[str]:
        arguments = ["predict", "dense", "--input", f"x={value}", f"--output_dir={tmp_path}/out"]
        return subprocess.run(
            [*python, "-m", "serving.client_main", *arguments, f"--server={running.address}"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    written = run("[[1,2,3]]")
    assert written.returncode == 0, written.stderr
    with Image.open(tmp_path / "out" / "grid.png") as picture:
        assert picture.getpixel((0, 0)) == 51
    refused = run(f"@{tmp_path}/x.png")
    assert refused.stderr == "error: reading pictures needs Pillow: pip install Pillow\n"
    assert refused.returncode == 2


def test_cli_writes_encoded_pictures_and_text_as_they_are(tmp_path):
    png = b"\x89PNG\r\n\x1a\n..."
    outputs = {"image_bytes": np.array([png, b"\xff\xd8\xff."], object), "text": np.array([b"hi"])}
    outputs["text"] = outputs["text"].astype(object)
    files = client_main.write_outputs(outputs, tmp_path)
    assert [Path(f).name for f in files["image_bytes"]] == [
        "image_bytes_000.png",
        "image_bytes_001.jpg",
    ]
    assert Path(files["image_bytes"][0]).read_bytes() == png
    assert Path(files["text"][0]).read_text() == "hi"


def test_cli_metadata_and_status(ask):
    status, out, _ = ask("metadata", "dense")
    assert status == 0
    assert "dense version 1" in out
    assert "gain             float32 [1]  default [3.]" in out
    described = _answer(ask("metadata", "dense", "--json"))["signatures"]["options"]["inputs"]
    assert described["x"] == {"dtype": "float32", "shape": [None]}
    assert described["gain"] == {"dtype": "float32", "shape": [1], "default": [3.0]}
    assert "AVAILABLE" in ask("status", "dense")[1]
    assert _answer(ask("status", "dense", "--json")) == [
        {"version": 1, "state": "AVAILABLE", "error_code": "OK", "error_message": ""}
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["predict", "nope"], 1, r"Latest(nope)"),
        (["predict", "text", "--signature=parse", "--input", "inputs=x"], 1, "parse example"),
        (["predict", "dense", "--input", "z=1"], 2, "has no input 'z'"),
        (["predict", "dense", "--input", "x"], 2, "expected NAME=VALUE"),
        (["predict", "dense", "--input", "x=[[1,2]"], 2, "is not JSON"),
        (["predict", "dense", "--input", "x=a,b"], 2, "--input x: expected float32, given 'a'"),
        (["predict", "dense", "--input", "x=@/none.npy"], 2, "/none.npy"),
        (["predict", "text", "--input", "times=1.5"], 2, "expected int64, given float64"),
        (["predict", "dense", "--signature=nope"], 2, "has no signature 'nope'"),
        (["predict"], 2, "expected predict or metadata or status and a model's name"),
        (["dance", "dense"], 2, "given dance dense"),
        (["predict", "dense", "--nope"], 2, "nope"),
        (["status", "dense", "--version=99999999999999999999"], 2, "--version=99999999999999999999"),
        (["status", "dense", "--version=9223372036854775807"], 1, "Could not find version"),
        (["status", "dense", "--version=-1"], 2, "--version=-1"),
        (["status", "d\udcff"], 2, r"'d\udcff' is not UTF-8"),
        (["predict", "dense", "--signature=\udcff"], 2, "is not UTF-8"),
        (["predict", "dense", "--outputs=y,\udcff"], 2, "is not UTF-8"),
    ],
)
def test_cli_mistakes_are_one_line_and_a_status(ask, arguments, status, message):
    got, out, err = ask(*arguments)
    assert (got, out) == (status, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err


def _damaged_files(folder: Path) -> None:
    array = np.ones((1, 3), np.float32)
    np.save(folder / "good.npy", array)
    np.savez(folder / "good.npz", a=array)
    good, archive = (folder / "good.npy").read_bytes(), (folder / "good.npz").read_bytes()
    (folder / "empty.npy").touch()
    (folder / "text.npy").write_text("1 2 3")
    (folder / "cut.npy").write_bytes(good[:-1])
    (folder / "header.npy").write_bytes(good.replace(b"}", b"("))
    np.save(folder / "objects.npy", np.array([{}], object), allow_pickle=True)
    (folder / "empty.npz").touch()
    (folder / "cut.npz").write_bytes(archive[: len(archive) // 2])
    (folder / "flipped.npz").write_bytes(archive.replace(array.tobytes(), bytes(array.nbytes)))
    (folder / "renamed.npz").write_bytes(good)
    with zipfile.ZipFile(folder / "other.npz", "w") as other:
        other.writestr("a", b"no array")
    Image.new("L", (64, 64)).save(folder / "whole.png")
    picture = (folder / "whole.png").read_bytes()
    (folder / "cut.png").write_bytes(picture[: len(picture) // 2])
    (folder / "text.png").write_text("no picture")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("empty.npy", "empty.npy is damaged or no .npy file: EOF"),
        ("text.npy", "text.npy is damaged or no .npy file: "),
        ("cut.npy", "cut.npy is damaged or no .npy file: "),
        ("header.npy", "header.npy is damaged or no .npy file: "),
        ("objects.npy", "objects.npy is damaged or no .npy file: Object arrays cannot be loaded"),
        ("empty.npz:a", "empty.npz is damaged or no .npz archive: File is not a zip file"),
        ("cut.npz:a", "cut.npz is damaged or no .npz archive: File is not a zip file"),
        ("flipped.npz:a", "flipped.npz is damaged or no .npz archive: Bad CRC-32"),
        ("renamed.npz:a", "renamed.npz is damaged or no .npz archive: File is not a zip file"),
        ("other.npz:a", "other.npz is damaged or no .npz archive: "),
        ("good.npz:b", "good.npz has no array 'b', it has a"),
        ("none.npz:a", "none.npz"),
        ("cut.png", "cut.png is no readable picture: "),
        ("text.png", "text.png is no readable picture: "),
        ("none.png", "No such file or directory"),
        ("good.txt", "expected .npy, .npz:key, .png or .jpg"),
    ],
)
def test_cli_files_that_cannot_be_read_are_one_line(ask, tmp_path, value, message):
    _damaged_files(tmp_path)
    status, out, err = ask("predict", "dense", "--input", f"x=@{tmp_path}/{value}")
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err


def test_cli_without_a_server_is_one_line_and_a_status(capsys):
    assert client_main.main(["client", "status", "dense", "--server=127.0.0.1:1"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_cli_help_explains_the_inputs(ask):
    status, out, _ = ask("--help")
    assert status == 0
    assert "--input NAME=VALUE" in out and "--output_dir" in out
