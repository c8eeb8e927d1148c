"""Metric writers: what is on disk or on the console after a run, a crash and a resume."""

import io
import json
import math
import pathlib
import subprocess
import sys
import wave

import mido
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
from werkzeug.test import Client

from train import writers
from train.image_grid import image_grid
from zoo.base import Embedding
from zoo.files import atomic_write

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def _rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_jsonl_writes_one_object_a_line(tmp_path):
    writer = writers.JsonlWriter(tmp_path / "metrics.jsonl")
    writer.scalars(10, {"loss": np.float32(0.5), "accuracy": 1})
    writer.scalars(20, {"loss": 0.1})
    assert _rows(tmp_path / "metrics.jsonl") == [
        {"step": 10, "loss": 0.5, "accuracy": 1.0},
        {"step": 20, "loss": 0.1},
    ]
    writer.close()


def test_jsonl_stays_valid_json_with_nan_and_infinity(tmp_path):
    writer = writers.JsonlWriter(tmp_path / "metrics.jsonl")
    writer.scalars(1, {"a": math.nan, "b": math.inf, "c": -math.inf})
    writer.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert math.isnan(float(row["a"]))
    assert float(row["b"]) == math.inf
    assert float(row["c"]) == -math.inf


@pytest.mark.parametrize("torn", ['{"step": 30, "lo', '{"step": 3', '{"step": 1, "loss": 0.9'])
def test_jsonl_resume_drops_later_steps_and_a_torn_last_line(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "loss": 3.0}\n{"step": 20, "loss": 2.0}\n' + torn)
    writer = writers.JsonlWriter(path, resume_step=10)
    writer.scalars(20, {"loss": 2.5})
    writer.close()
    assert _rows(path) == [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.5}]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_jsonl_resume_keeps_a_whole_file_untouched(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "loss": 3.0}\n')
    before = path.stat().st_ino
    writers.JsonlWriter(path, resume_step=10).close()
    assert path.stat().st_ino == before
    assert path.read_text() == '{"step": 10, "loss": 3.0}\n'


def test_console_prints_plain_lines_with_rates_and_eta():
    out = io.StringIO()
    writer = writers.ConsoleWriter(200, Console(file=out, width=40))
    rates = {"rate/steps_per_second": 2.0, "rate/images_per_second": 128.0}
    writer.scalars(100, {"loss": 0.25} | rates)
    writer.scalars(100, {"eval/accuracy": 0.5})
    writer.scalars(100, {"[b]odd[/b]": 1})
    writer.close()
    assert out.getvalue().splitlines() == [
        "step 100/200  2 steps/s  128 images/s  ETA 0:00:50  loss 0.25",
        "step 100/200  eval/accuracy 0.5",
        "step 100/200  [b]odd[/b] 1",
    ]


def test_console_shows_a_bar_on_a_terminal():
    out = io.StringIO()
    writer = writers.ConsoleWriter(200, Console(file=out, force_terminal=True, width=100))
    writer.scalars(50, {"loss": 0.25, "rate/steps_per_second": 3.0})
    writer.close()
    text = out.getvalue()
    assert "step 50  loss 0.25" in text
    assert "step 50/200" in text
    assert "25%" in text
    assert "3 steps/s  ETA 0:00:50" in text


def test_tensorboard_holds_scalars_and_images(tmp_path):
    writer = writers.TensorBoardWriter(tmp_path)
    writer.scalars(7, {"loss": 0.5})
    writer.images(7, {"samples": np.ones([4, 6, 6, 1], np.float32)})
    writer.close()
    (file,) = tmp_path.glob("events*")
    values = {
        v.tag: (e.step, tf.make_ndarray(v.tensor))
        for e in tf.compat.v1.train.summary_iterator(str(file))
        for v in e.summary.value
    }
    assert values["loss"] == (7, 0.5)
    step, (width, height, png) = values["samples"]
    assert (step, width, height) == (7, b"13", b"13")  # 2 x 2 images of 6, one pixel between
    assert tf.io.decode_png(png).shape == (13, 13, 1)


def test_tensorboard_in_an_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"cannot write TensorBoard events in .*file \(Not a directory\)") as e:
        writers.TensorBoardWriter(tmp_path / "file")
    assert "\n" not in str(e.value)
    assert "{{" not in str(e.value)


def test_tensorboard_on_a_full_disk_is_one_line(tmp_path):
    script = f"""
import resource, signal
from train import writers
writer = writers.TensorBoardWriter({str(tmp_path)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
try:
    for step in range(100):
        writer.scalars(step, {{"loss": 0.5}})
        writer.flush()
except OSError as error:
    print(error)
"""
    # A pipe takes what it prints: the limit holds for files alone.
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=_ROOT)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"cannot write TensorBoard events in {tmp_path} (")
    assert "File too large" in line


def test_tensorboard_shows_points_with_labels_and_pictures(tmp_path):
    images = np.random.default_rng(0).random((5, 100, 60, 3), np.float32)
    vectors = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    writer = writers.TensorBoardWriter(tmp_path)
    writer.embeddings(1, {"codes": Embedding(0 * vectors, tuple("abcde"), images)})
    writer.embeddings(2, {"codes": Embedding(vectors, tuple("abcde"), images)})
    writer.embeddings(2, {"symbols": Embedding(vectors[:2], ("a", "\\n"))})
    writer.close()

    # As TensorBoard itself reads them, of all runs in a folder.
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    context = base_plugin.TBContext(
        logdir=str(tmp_path), data_provider=data_provider.MultiplexerDataProvider(multiplexer, str(tmp_path))
    )
    served = ProjectorPlugin(context).get_plugin_apps()

    def get(path, **query):
        answer = Client(served[path]).get("/", query_string={"run": ".", **query})
        assert answer.status_code == 200, answer.data
        return answer.data

    known = {e["tensorName"]: e["tensorShape"] for e in json.loads(get("/info"))["embeddings"]}
    assert known == {"codes": [5, 4], "symbols": [2, 4]}
    assert get("/metadata", name="codes", num_rows=10).split() == [b"a", b"b", b"c", b"d", b"e"]
    assert get("/metadata", name="symbols", num_rows=10).splitlines() == [b"a", b"\\n"]
    newest = np.frombuffer(get("/tensor", name="codes", num_rows=10), np.float32).reshape(5, 4)
    np.testing.assert_allclose(newest, vectors, rtol=1e-5)
    with Image.open(io.BytesIO(get("/sprite_image", name="codes"))) as sheet:
        assert sheet.size == (3 * 20, 3 * 34)  # every third pixel of 60x100; three in a row
        second = np.asarray(sheet)[:34, 20:40]
    np.testing.assert_array_equal(second, np.round(255 * images[1, ::3, ::3]).astype(np.uint8))


def test_previews_are_png_files(tmp_path):
    writer = writers.PreviewWriter(tmp_path / "previews")
    batch = np.zeros([2, 4, 4, 3], np.float32)
    batch[1, ..., 0] = 1.0
    writer.images(123, {"samples": batch, "class map/one": np.full([4, 6, 1], 0.5, np.float32)})
    names = sorted(p.name for p in (tmp_path / "previews").iterdir())
    assert names == ["step_000123_class_map_one.png", "step_000123_samples.png"]
    with Image.open(tmp_path / "previews" / names[1]) as image:
        assert image.mode == "RGB"
        assert image.size == (9, 4)
        assert image.getpixel((8, 0)) == (255, 0, 0)
    with Image.open(tmp_path / "previews" / names[0]) as image:
        assert image.mode == "L"
        assert image.getpixel((0, 0)) == 128


NOTES = np.array([[72, 67, 64, 48]] * 3 + [[71, 67, 62, 55]], np.int32)


def test_previews_of_text_and_music_are_files_people_can_open(tmp_path):
    writer = writers.PreviewWriter(tmp_path)
    writer.text(5, {"poem": "床前明月光\nline"})
    writer.notes(5, {"piece": NOTES})
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [
        "step_000005_piece.mid",
        "step_000005_piece.png",
        "step_000005_piece.wav",
        "step_000005_poem.txt",
    ]
    assert (tmp_path / names[3]).read_text() == "床前明月光\nline\n"
    played = [m.note for m in mido.MidiFile(tmp_path / names[0]) if m.type == "note_on"]
    assert sorted(played) == [48, 55, 62, 64, 67, 71, 72]  # the alto holds its note
    with wave.open(str(tmp_path / names[2])) as sound:
        assert sound.getnframes() / sound.getframerate() > 4 * 60 / 80


def test_tensorboard_holds_text_and_sound(tmp_path):
    writer = writers.TensorBoardWriter(tmp_path)
    writer.text(5, {"poem": "one\ntwo"})
    writer.notes(5, {"piece": NOTES})
    writer.close()
    (file,) = tmp_path.glob("events*")
    values = {
        v.tag: tf.make_ndarray(v.tensor)
        for e in tf.compat.v1.train.summary_iterator(str(file))
        for v in e.summary.value
    }
    assert values["poem"].item() == b"    one\n    two"
    ((sound, _),) = values["piece"]
    samples, rate = tf.audio.decode_wav(sound)
    assert (len(samples.shape), int(rate)) == (2, 22_050)
    assert float(tf.reduce_max(tf.abs(samples))) == pytest.approx(0.9, abs=0.01)
    assert "piece_roll" in values


def test_multi_writer_reaches_every_sink(tmp_path):
    both = writers.MultiWriter(
        [writers.JsonlWriter(tmp_path / "a.jsonl"), writers.JsonlWriter(tmp_path / "b.jsonl")]
    )
    both.scalars(1, {"loss": 1.0})
    both.images(1, {"x": np.zeros([1, 2, 2, 1])})
    both.flush()
    both.close()
    assert _rows(tmp_path / "a.jsonl") == _rows(tmp_path / "b.jsonl") == [{"step": 1, "loss": 1.0}]


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "file"
    atomic_write(path, b"old")
    with pytest.raises(TypeError):
        atomic_write(path, "no bytes")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"


def test_image_grid_places_each_image():
    images = np.stack([np.full([2, 3, 1], v, np.uint8) for v in (10, 20, 30)])
    grid = image_grid(images, columns=2)
    assert grid.shape == (5, 7, 1)
    expected = np.zeros([5, 7], np.uint8)
    expected[0:2, 0:3], expected[0:2, 4:7], expected[3:5, 0:3] = 10, 20, 30
    np.testing.assert_array_equal(grid[..., 0], expected)


def test_image_grid_scales_clips_and_survives_nan():
    images = np.array([-1.0, 0.5, 2.0, np.nan], np.float32).reshape(4, 1, 1, 1)
    np.testing.assert_array_equal(image_grid(images, columns=4)[0, ::2, 0], [0, 128, 255, 0])
    with pytest.raises(ValueError, match="N >= 1"):
        image_grid(np.zeros([0, 2, 2, 1]))
