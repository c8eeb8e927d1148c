"""atelier-client against the embedded server, and what it reads and writes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving import client_main, inputs, music, outputs, png
from serving.schema import TensorSpec

pytest_plugins = ["saved_models", "art_models"]  # the models and the running servers

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def ask(running, capsys):
    """Runs the binary's main; returns (exit status, standard output, standard error)."""

    def ask(*arguments: str) -> tuple[int, str, str]:
        status = client_main.main(["client", *arguments, f"--server={running.address}"])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return ask


@pytest.fixture
def ask_art(art_server, capsys, monkeypatch, tmp_path):
    """The same, of the model with the families' signatures, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def ask(*arguments: str) -> tuple[int, str, str]:
        status = client_main.main(["client", *arguments, f"--server={art_server.address}"])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return ask


def _answer(result: tuple[int, str, str]) -> dict[str, object]:
    assert result[0] == 0, result[2]
    return json.loads(result[1])


def _read(word: str, dtype: str, shape: tuple[int | None, ...] | None) -> np.ndarray:
    name = word.partition("=")[0]
    return inputs.read([word], {name: TensorSpec(name, dtype, shape)})[name]


# --- Values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "dtype", "shape", "expected"),
    [
        ("x=0,1,2", "int64", (None,), [0, 1, 2]),
        ("x=-1", "int32", (None,), [-1]),
        ("x=7", "int32", (), 7),
        ("x=0..3", "int64", (None,), [0, 1, 2, 3]),
        ("x=-2..0", "float32", (None,), [-2, -1, 0]),
        ("x=1e3,inf", "float32", (None,), [1000, np.inf]),
        ("x=true,0", "bool", (None,), [True, False]),
        ("x=[[1,2],[3,4]]", "int32", (None, 2), [[1, 2], [3, 4]]),
        ("x=a=b, [c] 0..3", "string", (None,), [b"a=b, [c] 0..3"]),
        ("x=", "string", (None,), [b""]),
    ],
)
def test_values_are_read_as_the_input_s_type(text, dtype, shape, expected):
    assert _read(text, dtype, shape).tolist() == expected


@pytest.mark.parametrize(
    ("name", "content", "dtype", "shape", "expected"),
    [
        ("a.json", b'["a", {"b64": "/wA="}]', "string", (None,), [b"a", b"\xff\x00"]),
        ("a.json", b"[[1], [2]]", "float32", (None, 1), [[1], [2]]),
        ("a.csv", b"1, 2\n3 4\n\n", "int32", (None, 2), [[1, 2], [3, 4]]),
        ("a.txt", b"1\n2\n", "int32", (None,), [1, 2]),
        ("a.txt", b"To be\nor not\r\n", "string", (None,), [b"To be\nor not"]),
        ("a", b"[1, 2]", "int32", (None,), [1, 2]),  # by what it holds
        ("a.bin", b"\x00\n", "string", (None,), [b"\x00"]),
    ],
)
def test_files_are_read_as_the_input_s_type(tmp_path, name, content, dtype, shape, expected):
    (tmp_path / name).write_bytes(content)
    assert _read(f"x=@{tmp_path}/{name}", dtype, shape).tolist() == expected


def test_bytes_of_a_file_stay_as_they_are_for_inputs_that_are_called_so(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\n")
    assert _read(f"code_bytes=@{tmp_path}/a.txt", "string", (None,)).tolist() == [b"a\n"]


def test_arrays_are_read_from_numpy_s_files(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "one.npz", anything=array)
    np.savez(tmp_path / "two.npz", a=array, b=array + 1)
    for value in ("x.npy", "one.npz", "two.npz:a"):
        assert np.array_equal(_read(f"x=@{tmp_path}/{value}", "float32", (None, 3)), array)
    with pytest.raises(inputs.UsageError, match="several arrays: choose one of a, b"):
        _read(f"x=@{tmp_path}/two.npz", "float32", (None, 3))


@pytest.mark.parametrize("kind", ["npz", "json"])
def test_one_file_can_hold_all_inputs(tmp_path, kind):
    values = {"seed": [5, 6], "label": [3]}
    if kind == "npz":
        np.savez(tmp_path / "all.npz", **{k: np.array(v) for k, v in values.items()})
    else:
        (tmp_path / "all.json").write_text(json.dumps(values))
    known = {"seed": TensorSpec("seed", "int64", (None,)), "label": TensorSpec("label", "int64", (None,))}
    read = inputs.read([f"@{tmp_path}/all.{kind}"], known)
    assert (read["seed"].tolist(), read["label"].tolist()) == ([5, 6], [3, 3])  # one row is repeated


def test_pictures_are_read_by_the_input_s_type(tmp_path):
    Image.new("RGB", (5, 4), (255, 0, 0)).save(tmp_path / "red.png")
    word = f"image=@{tmp_path}/red.png"
    colour = _read(word, "float32", (None, None, None, 3))
    assert (colour.shape, colour.dtype) == ((1, 4, 5, 3), np.float32)
    assert colour[0, 0, 0].tolist() == [1, 0, 0]
    assert _read(word, "float32", (None, None, None, 1)).shape == (1, 4, 5, 1)
    assert _read(word, "uint8", (None, None, 3)).shape == (4, 5, 3)
    assert _read(word, "uint8", (None, None, None, 4))[0, 0, 0].tolist() == [255, 0, 0, 255]
    assert _read(word, "string", (None,)).tolist() == [(tmp_path / "red.png").read_bytes()]


# --- PNG -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 1), (4, 2, 3), (1, 1)])
def test_png_holds_the_pixels(shape, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (tmp_path / "x.png").write_bytes(png.encode(pixels))
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.mode == ("RGB" if shape[-1] == 3 and len(shape) == 3 else "L")
        assert np.array_equal(np.asarray(picture), pixels.reshape(np.asarray(picture).shape))
    assert np.array_equal(png.decode(png.encode(pixels)), pixels.reshape(*shape[:2], -1))


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 2)), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2), np.uint8)]
)
def test_png_refuses_what_it_cannot_hold(pixels):
    with pytest.raises(ValueError, match="expected pixels uint8"):
        png.encode(pixels)


def _smooth(height: int, width: int, channels: int) -> np.ndarray:
    """A picture whose rows libpng packs with each of its filters."""
    y, x = np.mgrid[:height, :width]
    planes = [(3 * x + 5 * y + 40 * c + (x * y) % 7) % 256 for c in range(channels)]
    return np.stack(planes, -1).astype(np.uint8)


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4), ("P", 3), ("1", 3)]
)
@pytest.mark.parametrize("wanted", [1, 3, 4])
def test_png_without_pillow_gives_pillow_s_pixels(mode, channels, wanted):
    # 37 pixels: rows of 4-, 2- and 1-bit palettes end within a byte.
    pixels = _smooth(23, 37, channels)
    picture = Image.fromarray(pixels.squeeze())
    if mode == "P":
        picture = picture.quantize(13)
    if mode == "1":
        picture = picture.quantize(2)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    decoded = png.with_channels(png.decode(buffer.getvalue()), wanted)
    expected = np.asarray(picture.convert({1: "L", 3: "RGB", 4: "RGBA"}[wanted]))
    assert np.array_equal(decoded, expected.reshape(decoded.shape))


def test_png_undoes_every_filter():
    """libpng chooses; here each filter is written by the specification's own words, 6.2 to 6.6."""
    pixels = _smooth(6, 5, 3).astype(int)
    lines = b""
    for y, row in enumerate(pixels):
        kind = y % 5
        line = [kind]
        for x, pixel in enumerate(row):
            for c, value in enumerate(pixel):
                a = pixels[y, x - 1, c] if x else 0
                b = pixels[y - 1, x, c] if y else 0
                corner = pixels[y - 1, x - 1, c] if x and y else 0
                near = min((a, b, corner), key=lambda v: abs(a + b - corner - v))
                line.append((value - [0, a, b, (a + b) // 2, near][kind]) % 256)
        lines += bytes(line)
    data = png.encode(pixels.astype(np.uint8))
    packed = zlib.compress(lines)
    begin, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    chunk = b"IDAT" + packed
    with_filters = (
        data[:begin]
        + len(packed).to_bytes(4, "big")
        + chunk
        + zlib.crc32(chunk).to_bytes(4, "big")
        + data[end:]
    )
    assert np.array_equal(png.decode(with_filters), pixels)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-20], "cut short"),
        (lambda data: data[:40] + b"\xff" + data[41:], "checksum"),
        (lambda data: b"GIF" + data, "does not begin"),
        (lambda data: data[:8] + data[-12:], "no header"),
        (lambda data: data[: data.index(b"IDAT") - 4] + data[-12:], "too short"),
    ],
)
def test_png_damaged_is_a_value_error(damage, message):
    with pytest.raises(ValueError, match=message):
        png.decode(damage(png.encode(_smooth(64, 64, 3))))


@pytest.mark.parametrize("picture", [Image.new("I;16", (2, 2)), Image.new("1", (8, 8))])
def test_png_of_other_depths_says_which(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    with pytest.raises(NotImplementedError, match=r"a PNG of (16|1) bits and colour type 0"):
        png.decode(buffer.getvalue())


# --- Predict -------------------------------------------------------------------------------------


def test_predict_prints_a_table(ask):
    status, out, _ = ask("predict", "dense", "x=[[1,2,3],[0,0,1]]", "--outputs=y")
    assert (status, out) == (0, "y: float32 [2]\n\nrow  y\n0    12\n1    2\n")


def test_predict_prints_scalars_as_they_are(ask):
    assert ask("predict", "dense", "steps=3", "--signature=slow") == (0, "y: int32 []\n3\n", "")


def test_inputs_may_also_be_flags(ask):
    given = ["--input=text=Hi, you", "--input", "text=b", "times=2"]
    answer = _answer(ask("predict", "text", *given, "--json"))
    assert answer == {"text": ["HI, YOUHI, YOU", "BB"]}


def test_inputs_of_fixed_size_are_left_as_they_are(ask):
    answer = _answer(ask("predict", "dense", "--signature=options", "x=1,2", "gain=10", "--json"))
    assert answer == {"y": [11, 21]}


def test_standard_input_is_an_input_or_all_of_them(running):
    def run(word: str, data: bytes) -> str:
        command = [sys.executable, "-m", "serving.client_main", "predict", "text", word, "times=1", "--json"]
        command.append(f"--server={running.address}")
        done = subprocess.run(command, input=data, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        return done.stdout.decode()

    assert json.loads(run("text=@-", b"[whole]\n")) == {"text": ["[WHOLE]"]}
    assert json.loads(run("@-", b'{"text": ["a", "b"]}')) == {"text": ["A", "B"]}


def test_an_answer_goes_to_a_file_of_the_kind_that_its_name_says(ask, tmp_path):
    def write(name: str, *arguments: str) -> Path:
        arguments = ("x=[[1,2,3],[1,1,1]]", f"--output={tmp_path}/new/{name}", *arguments)
        status, out, err = ask("predict", "dense", *arguments)
        assert (status, out, err) == (0, f"{tmp_path}/new/{name}\n", "")
        return tmp_path / "new" / name

    assert np.load(write("y.npy", "--outputs=y")).tolist() == [12, 6]
    assert np.load(write("all.npz"))["image"].shape == (2, 4, 4, 1)
    assert json.loads(write("all.json").read_text())["y"] == [12, 6]
    with Image.open(write("grid.png")) as grid:
        assert (grid.size, grid.getpixel((0, 0))) == ((8, 4), 51)  # 0.2 of 255


def test_the_answer_in_a_folder_is_pictures_a_grid_and_arrays(ask, tmp_path):
    folder = tmp_path / "new" / "out"
    status, out, _ = ask("predict", "dense", "x=[[1,2,3],[1,1,1],[0,0,0]]", f"--output_dir={folder}")
    names = {"image_000.png", "image_001.png", "image_002.png", "grid.png", "y.npy"}
    assert {path.name for path in folder.iterdir()} == names
    assert (status, set(out.split())) == (0, {f"{folder}/{name}" for name in names})
    with Image.open(folder / "grid.png") as grid:
        assert grid.size == (8, 8)
    assert np.load(folder / "y.npy").tolist() == [12, 6, 0]


def test_encoded_pictures_and_text_are_written_as_they_are(tmp_path):
    start = b"\x89PNG\r\n\x1a\n..."
    answer = {"image_bytes": np.array([start, b"\xff\xd8\xff."], object), "text": np.array([b"hi"], object)}
    files = outputs.write_folder(answer, tmp_path)
    assert [Path(f).name for f in files["image_bytes"]] == ["image_bytes_000.png", "image_bytes_001.jpg"]
    assert Path(files["image_bytes"][0]).read_bytes() == start
    assert Path(files["text"][0]).read_text() == "hi"


@pytest.mark.parametrize(
    ("name", "answer", "message"),
    [
        ("x.gif", {"y": np.zeros(1)}, "expected .png, .jpg, .npy"),
        ("x.npy", {"a": np.zeros(1), "b": np.zeros(1)}, r"the answer has 2 \(a, b\): choose by --outputs"),
        ("x.png", {"y": np.zeros(3)}, r"holds one picture, the answer has none \(y\)"),
        ("x.jpg", {"y": np.zeros((1, 2, 2, 3))}, "pixels are written as .png"),
        ("x.jpg", {"y": np.array([b"\x89PNG\r\n\x1a\n"], object)}, "answers with a .png"),
        ("x.npy", {"y": np.array([b"a\x00"], object)}, "zeros"),
        ("x.wav", {"y": np.zeros((2, 3, 4), int)}, "holds one piece, the answer has 2"),
    ],
)
def test_an_answer_that_does_not_fit_the_file_is_refused_in_words(tmp_path, name, answer, message):
    with pytest.raises(inputs.UsageError, match=message):
        outputs.write_file(answer, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_the_table_shortens_what_is_long():
    answer = {
        "text": np.array([b"a\nb", b"\xff"], object),
        "vector": np.arange(20).reshape(2, 10),
        "deep": np.zeros((2, 3, 3), np.float32),
    }
    lines = outputs.table(answer).splitlines()
    assert lines[-2:] == [
        "0    float32 [3, 3]  a / b      [0 1 2 ... 7 8 9]",
        "1    float32 [3, 3]  <1 bytes>  [10 11 12 ... 17 18 19]",
    ]
    assert "... 150 rows in all" in outputs.table({"y": np.zeros(150)})


# --- Commands of the families --------------------------------------------------------------------


def test_sample_draws_sixteen_as_a_grid(ask_art):
    assert ask_art("sample", "art") == (0, "art.png\n", "")
    with Image.open("art.png") as grid:
        assert grid.size == (16, 16)
    assert _answer(ask_art("sample", "art", "seed=3,4", "label=7", "--json"))["label"] == [7, 7]


def test_generate_prints_the_text_alone(ask_art):
    assert ask_art("generate", "art", "To be", "x=y") == (0, "To be #0\n\nx=y #0\n", "")
    assert ask_art("generate", "art", "Or", "seed=5")[1] == "Or #5\n"


def test_classify_takes_pictures_and_names_the_rows(ask_art):
    Path("light.png").write_bytes(png.encode(np.full((2, 2, 3), 255, np.uint8)))
    Path("dark.png").write_bytes(png.encode(np.zeros((2, 2, 3), np.uint8)))
    status, out, _ = ask_art("classify", "art", "light.png", "dark.png")
    assert status == 0
    assert out.splitlines()[-2:] == ["light.png  light  [0 1]", "dark.png   dark   [1 0]"]
    assert "embedding" not in out


def test_stylize_writes_the_picture_beside_its_name(ask_art):
    Path("red.png").write_bytes(png.encode(np.full((2, 3, 3), (255, 0, 0), np.uint8)))
    assert ask_art("stylize", "art", "red.png", "style=fine") == (0, "red_stylized.png\n", "")
    with Image.open("red_stylized.png") as picture:
        assert (picture.size, picture.getpixel((0, 0))) == ((3, 2), (0, 255, 255))
    status, _, err = ask_art("stylize", "art", "red.png", "red.png", "red.png", "--signature=classify")
    assert (status, err) == (0, "")  # rows of its one input


def test_notes_become_music(ask_art):
    assert ask_art("predict", "art", "seed=0", "--signature=harmonize", "--output=x.wav")[0] == 0
    assert Path("x.wav").read_bytes() == music.wav([[72, 67, 64, 48]] * 3)


def test_describe_says_what_goes_in_and_how_to_ask(ask):
    status, out, _ = ask("describe", "dense")
    assert status == 0
    assert "dense version 1" in out
    assert "gain             float32 [1]  default [3.]" in out
    assert "atelier-client predict dense x=... --signature=options" in out
    described = _answer(ask("describe", "dense", "--json"))["signatures"]["options"]["inputs"]
    assert described["x"] == {"dtype": "float32", "shape": [None]}
    assert described["gain"] == {"dtype": "float32", "shape": [1], "default": [3.0]}


def test_status_lists_versions_and_fails_without_one_that_is_available(ask):
    assert "AVAILABLE" in ask("status", "dense")[1]
    version = {"version": 1, "state": "AVAILABLE", "error_code": "OK", "error_message": ""}
    assert _answer(ask("status", "dense", "--json")) == [version]
    assert _answer(ask("status", "dense", "text", "--json")) == {"dense": [version], "text": [version]}


def test_health_is_an_exit_status(ask, ask_art):
    assert ask("health") == (0, "SERVING\n", "")
    assert _answer(ask("health", "dense", "--json")) == {"health": "SERVING"}
    status, out, err = ask_art("health")  # started without the service
    assert (status, out) == (1, "")
    assert err.startswith("error: ")


# --- Mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["predict", "nope"], 1, r"Latest(nope)"),
        (["predict", "text", "--signature=parse", "inputs=x"], 1, "parse example"),
        (["predict", "dense", "z=1"], 2, "has no input 'z'"),
        (["predict", "dense", "x"], 2, "expected NAME=VALUE"),
        (["predict", "dense", "x=[[1,2]"], 2, "is not JSON"),
        (["predict", "dense", "x=a,b"], 2, "x: expected float32, given 'a'"),
        (["predict", "dense", "x=@/none.npy"], 2, "/none.npy"),
        (["predict", "text", "times=1.5"], 2, "expected int64, given float64"),
        (["predict", "text", "times=5..1"], 2, "5..1: expected the smaller end first"),
        (["predict", "text", "times=0..99999999999"], 2, "at most 10,000,000"),
        (["predict", "dense", "--signature=nope"], 2, "has no signature 'nope'"),
        (["predict", "dense", "x=[[1,2,3]]", "--output=y.gif"], 2, "expected .png"),
        (["predict", "dense", "x=[[1,2,3]]", "--output=/proc/no/y.json"], 2, "/proc/no"),
        (["generate", "dense", "Hello"], 2, "takes no prompt; it has x"),
        (["classify", "text", "a.png"], 2, "takes no picture; it has text, times"),
        (["predict"], 2, "expected predict MODEL"),
        (["describe", "dense", "text"], 2, "expected one model"),
        (["dance", "dense"], 2, "no command 'dance' (there are status, "),
        (["stylise", "dense"], 2, "did you mean stylize?"),
        (["predict", "dense", "--nope"], 2, "nope"),
        (["predict", "dense", "--timeout=-1"], 2, "--timeout=-1"),
        (["predict", "dense", "--timeout=nan"], 2, "expected a timeout in seconds"),
        (["status", "dense", "--signature=x"], 2, "signature"),
        (["status", "dense", "--version=99999999999999999999"], 2, "--version=99999999999999999999"),
        (["status", "dense", "--version=9223372036854775807"], 1, "Could not find version"),
        (["status", "dense", "--version=-1"], 2, "--version=-1"),
        (["status", "d\udcff"], 2, r"'d\udcff' is not UTF-8"),
        (["predict", "dense", "--signature=\udcff"], 2, "is not UTF-8"),
        (["predict", "dense", "--outputs=y,\udcff"], 2, "is not UTF-8"),
    ],
)
def test_mistakes_are_one_line_and_a_status(ask, arguments, status, message):
    got, out, err = ask(*arguments)
    assert (got, out) == (status, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err


def _damaged_files(folder: Path) -> None:
    array = np.ones((1, 3), np.float32)
    np.save(folder / "good.npy", array)
    np.savez(folder / "good.npz", a=array, c=array)
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
    (folder / "cut.json").write_text("[1, 2")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "b64.json").write_text('[{"b64": "?"}]')
    (folder / "bytes").write_bytes(b"\xfe\xfe\xfe")
    (folder / "words.csv").write_text("a,b")


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
        ("good.npz:b", "good.npz has no array 'b', it has a, c"),
        ("none.npz:a", "none.npz"),
        ("cut.png", "cut.png is no readable picture: "),
        ("text.png", "text.png is no readable picture: "),
        ("none.png", "No such file or directory"),
        ("cut.json", "cut.json is not JSON"),
        ("deep.json", "deep.json is not JSON"),
        ("b64.json", "x: "),
        ("bytes", "bytes is no array, picture, JSON or text: expected float32"),
        ("words.csv", "words.csv: expected float32, given 'a'"),
    ],
)
def test_files_that_cannot_be_read_are_one_line(ask, tmp_path, value, message):
    _damaged_files(tmp_path)
    status, out, err = ask("predict", "dense", f"x=@{tmp_path}/{value}")
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("name", "message"), [("whole.png", "expected an .npz"), ("cut.npz", "File is not a zip file")]
)
def test_a_file_of_all_inputs_that_is_none_is_one_line(ask, tmp_path, name, message):
    _damaged_files(tmp_path)
    with pytest.raises(inputs.UsageError, match=message):
        inputs.read([f"@{tmp_path}/{name}"], {})


@pytest.mark.parametrize("server", ["127.0.0.1:1", "unix:/nowhere"])
def test_without_a_server_it_is_one_line_and_a_status(capsys, server):
    assert client_main.main(["client", "status", "dense", f"--server={server}", "--timeout=5"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_an_address_that_is_none_and_a_missing_certificate_are_usage(capsys):
    assert client_main.main(["client", "status", "dense", "--server=localhost"]) == 2
    assert "expected an address such as 'localhost:8500'" in capsys.readouterr().err
    assert client_main.main(["client", "status", "dense", "--tls_ca=/none.pem"]) == 2
    assert "/none.pem" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_traceback(running, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((20_000, 3), np.float32))
    command = f"predict dense x=@{tmp_path}/x.npy --json --server={running.address}"
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m serving.client_main {command} | head -c 10"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (len(done.stdout), done.stderr) == (10, "")


def test_help_explains_the_values_the_statuses_and_each_command(ask, capsys):
    assert client_main.main(["client", "--help"]) == 0
    out = capsys.readouterr().out
    assert "seed=0..15" in out and "Exit status: 0" in out
    for name in ("status", "health", "describe", "predict", "sample", "generate", "stylize", "classify"):
        assert f"    {name} " in out
        status, explained, _ = ask(name, "--help")
        assert status == 0
        assert explained.startswith(f"atelier-client {name}: ") and "--server" in explained


def test_in_a_base_install_pngs_are_read_and_jpegs_ask_for_pillow(art_server, base_install, tmp_path):
    Image.new("RGB", (3, 2), (255, 255, 255)).save(tmp_path / "x.png")
    Image.new("RGB", (3, 2)).save(tmp_path / "x.jpg")
    Image.new("I;16", (3, 2)).save(tmp_path / "x16.png")
    python, environment = base_install

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*python, "-m", "serving.client_main", *arguments, f"--server={art_server.address}"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    assert "x.png  light  [0 1]" in run("classify", "art", "x.png").stdout
    assert run("sample", "art").stdout == "art.png\n"
    for name, message in [
        ("x.jpg", "reading a JPEG into an array needs Pillow: pip install Pillow"),
        ("x16.png", "x16.png is a PNG of 16 bits and colour type 0, which needs Pillow: pip install Pillow"),
    ]:
        refused = run("classify", "art", name)
        assert (refused.stderr, refused.returncode) == (f"error: {message}\n", 2)
