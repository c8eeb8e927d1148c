"""Chorales as data, a training run on MIDI files, and the figures of an evaluation by hand."""

import json
import math

import mido
import numpy as np
import pytest
import tensorflow as tf
import tiny
from binaries import losses, run_main

import zoo
from serving import music
from train import data, evaluate
from train.data import chorales
from train.data.dataset import Shard
from train.metrics import harmony
from zoo.chorales import OPEN, START
from zoo.errors import UserError

CHORD = np.array([67, 64, 60, 48], np.int32)


def pieces(count, seed=0, frames=12):
    """Chords that move up and down in parallel, by steps."""
    random = np.random.default_rng(seed)
    return [CHORD + random.integers(-5, 6, (frames, 1)).astype(np.int32) for _ in range(count)]


@pytest.fixture
def midi_folder(tmp_path):
    folder = tmp_path / "songs"
    folder.mkdir()
    for i, piece in enumerate(pieces(12)):
        (folder / f"{i:02d}.mid").write_bytes(music.midi(piece))
    return folder


# Bach ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bach(shared_data):
    return data.load("jsb_chorales", data_dir=shared_data)


def test_bach_s_chorales_are_those_of_the_literature(bach, shared_data):
    assert bach.sizes == {
        **{"train_pieces": 229, "valid_pieces": 76, "test_pieces": 77},
        **{"train_frames": 13_807, "valid_frames": 4_602, "test_frames": 4_725},
    }
    published = json.loads((shared_data / "jsb_chorales" / "jsb-chorales-quarter.json").read_text())["test"]
    for piece, chords in zip(bach.test, published, strict=True):
        assert [set(frame) - {0} for frame in piece.tolist()] == [{n - 12 for n in c} for c in chords]


def test_bach_s_voices_sing_where_voices_sing(bach):
    """Voices found for the published chords cross as rarely as in the edition that has voices."""
    for split in (bach.train, bach.test):
        assert 0.01 < np.mean([harmony.crossings(piece) for piece in split]) < 0.03
    lines = np.concatenate(bach.test)
    means = [lines[:, i][lines[:, i] > 0].mean() for i in range(4)]
    assert means == sorted(means, reverse=True)


def test_who_sings_what_by_hand():
    like = [67, 64, 60, 48]
    assert chorales.sung(frozenset({48, 60, 64, 67}), like) == (67, 64, 60, 48)
    assert chorales.sung(frozenset({47, 62, 65, 67}), like) == (67, 65, 62, 47)
    # Three notes: the bass joins the tenor, or is silent where the edition has it silent.
    assert chorales.sung(frozenset({60, 64, 67}), like) == (67, 64, 60, 60)
    assert chorales.sung(frozenset({60, 64, 69}), [67, 64, 60, 0]) == (69, 64, 60, 0)
    assert chorales.sung(frozenset(), like) == (0, 0, 0, 0)
    with pytest.raises(UserError, match="5 notes"):
        chorales.sung(frozenset({48, 52, 55, 60, 64}), like)


def test_missing_or_torn_files_are_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="'jsb_chorales' needs --data_dir"):
        data.load("jsb_chorales")
    with pytest.raises(UserError, match=r"jsb_satb_16th.npz is missing or no file of chorales"):
        data.load("jsb_chorales", data_dir=tmp_path)
    (tmp_path / "jsb_chorales").mkdir()
    (tmp_path / "jsb_chorales" / "jsb_satb_16th.npz").write_bytes(b"PK torn")
    with pytest.raises(UserError, match=r"jsb_satb_16th.npz is missing or no file of chorales"):
        data.load("jsb_chorales", data_dir=tmp_path)


# Batches ------------------------------------------------------------------------------------------


def test_windows_by_hand():
    whole = chorales.stacked([CHORD[None] + np.arange(3)[:, None]], 4)
    x, y = chorales.windows(tf.constant(np.repeat(whole, 2, axis=0)), tf.constant([0, 1]), 3)
    assert x[:, :, 0].numpy().tolist() == [[START, 67, 68], [67, 68, 69]]
    assert y[:, :, 0].numpy().tolist() == [[67, 68, 69], [68, 69, OPEN]]


def batches(settings, count, **where):
    found = tiny.melodies().train_batches(settings, seed=3, **where).take(count)
    return [tuple(part.numpy() for part in batch) for batch in found]


def test_a_batch_is_a_function_of_seed_step_and_row():
    settings = tiny.settings(batch_size=8, length=6)
    whole = batches(settings, 14)  # 6 steps in an epoch
    resumed = batches(settings, 4, start_step=10)
    for a, b in zip(whole[10:], resumed, strict=True):
        assert all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))
    halves = [batches(settings, 14, shard=Shard(2, i, 1)) for i in range(2)]
    for step, (x, y) in enumerate(whole):
        assert np.array_equal(x, np.concatenate([half[step][0] for half in halves]))
        assert np.array_equal(y, np.concatenate([half[step][1] for half in halves]))


def test_a_window_is_a_passage_of_a_piece_in_some_key():
    passages, keys = set(), set()
    for piece in tiny.melodies().train:
        for first in range(len(piece)):
            passages.add(tuple((piece[first : first + 6] - piece[first, 3]).ravel()))
    for x, y in batches(tiny.settings(batch_size=8, length=6), 12):
        assert np.array_equal(x[:, 1:], y[:, :-1])
        for row in y:
            assert tuple((row - row[0, 3]).ravel()) in passages
            keys.add(int(row[0, 3] - 48))
    # The pieces stay within 5 semitones of their first chord's key, and move by -6 to 5 more.
    assert min(keys) < -6 and max(keys) > 5


def test_evaluation_sees_every_frame_once():
    music_data = tiny.melodies()
    found = [
        frame for _, y in music_data.eval_batches(tiny.settings(), 3) for row in y.numpy() for frame in row
    ]
    kept = np.array([frame for frame in found if frame[0] != OPEN])
    assert np.array_equal(kept, np.concatenate(music_data.valid))


# MIDI files ---------------------------------------------------------------------------------------


def test_a_midi_file_is_read_as_it_was_written(tmp_path):
    piece = pieces(1)[0].copy()
    piece[3:5, 1] = 0
    (tmp_path / "a.mid").write_bytes(music.midi(piece))
    assert np.array_equal(chorales.read_midi(tmp_path / "a.mid"), piece)


def test_channels_of_one_track_are_voices_and_drums_are_not(tmp_path):
    file = mido.MidiFile(ticks_per_beat=96)
    track = mido.MidiTrack()
    file.tracks.append(track)
    for channel, note in ((2, 48), (0, 67), (1, 64), (3, 60), (9, 35)):
        track.append(mido.Message("note_on", channel=channel, note=note, velocity=64))
    # The tenor moves after an eighth and is back before the second quarter begins; then all end.
    track.append(mido.Message("note_on", channel=3, note=60, velocity=0, time=48))
    track.append(mido.Message("note_on", channel=3, note=62, velocity=64))
    track.append(mido.Message("note_off", channel=3, note=62, time=48))
    track.append(mido.Message("note_on", channel=3, note=59, velocity=64))
    for i, (channel, note) in enumerate(((2, 48), (0, 67), (1, 64), (3, 59), (9, 35))):
        track.append(mido.Message("note_off", channel=channel, note=note, time=96 if i == 0 else 0))
    file.save(tmp_path / "a.mid")
    assert chorales.read_midi(tmp_path / "a.mid").tolist() == [[67, 64, 60, 48], [67, 64, 59, 48]]


def test_a_folder_of_midi_files_names_the_wrong_ones(midi_folder, caplog):
    (midi_folder / "torn.mid").write_bytes((midi_folder / "00.mid").read_bytes()[:40])
    (midi_folder / "duet.mid").write_bytes(music.midi(pieces(1)[0][:, :2]))
    (midi_folder / "notes.txt").write_text("no music")
    loaded = data.load(f"midi:{midi_folder}")
    assert (len(loaded.train), len(loaded.valid), len(loaded.test)) == (9, 1, 2)
    assert "torn.mid: it is no MIDI file" in caplog.text
    assert "duet.mid: it has 2 voices" in caplog.text


def test_a_single_midi_file_is_cut_into_pieces(tmp_path):
    (tmp_path / "long.mid").write_bytes(music.midi(pieces(1, frames=45)[0]))
    loaded = data.load(f"midi:{tmp_path / 'long.mid'}")
    assert (len(loaded.train), len(loaded.valid), len(loaded.test)) == (8, 1, 1)
    assert sum(v for k, v in loaded.sizes.items() if k.endswith("frames")) == 45


@pytest.mark.parametrize(
    ("files", "message"),
    [(None, "there is no such folder or file"), (0, "0 of 0 MIDI files"), (2, "2 of 2 MIDI files")],
)
def test_too_little_music_is_one_clear_error(tmp_path, files, message):
    folder = tmp_path / "songs"
    if files is not None:
        folder.mkdir()
        for i in range(files):
            (folder / f"{i}.mid").write_bytes(music.midi(pieces(1)[0]))
    with pytest.raises(UserError, match=message):
        data.load(f"midi:{folder}")


# Training -----------------------------------------------------------------------------------------

SIZE = [
    *("--config.model.embedding=4", "--config.model.units=8", "--config.model.hidden=8"),
    *("--config.data.batch_size=4", "--config.data.length=8", "--config.steps=20"),
    *("--config.steps_per_execution=3", "--config.log_every=5", "--config.eval_every=10"),
    *("--config.preview_every=20", "--config.checkpoint_every=10"),
]


def test_a_run_on_midi_files_previews_music(midi_folder, tmp_path):
    workdir = tmp_path / "w"
    flags = ["--config=rnn_chorales", f"--config.data.name=midi:{midi_folder}", f"--workdir={workdir}", *SIZE]
    done = run_main("train.main", *flags)
    assert done.returncode == 0, done.stderr
    logged = losses(workdir)
    assert [x["step"] for x in logged if "nll" in x] == [5, 10, 15, 20]
    assert {path.name for path in (workdir / "previews").iterdir()} == {
        f"step_000020_{name}.{ending}"
        for name in ("composed", "harmonized")
        for ending in ("mid", "wav", "png")
    }
    # Whoever looks at or listens to a preview can train on it.
    composed = chorales.read_midi(workdir / "previews" / "step_000020_harmonized.mid")
    assert composed.shape[1] == 4
    card = json.loads((workdir / "card.json").read_text())
    assert card["data"]["train_pieces"] == 9


def test_images_are_no_music(tmp_path):
    done = run_main(
        "train.main", "--config=rnn_chorales", "--config.data.name=digits", f"--workdir={tmp_path / 'w'}"
    )
    assert done.returncode == 2
    assert "data set digits holds images, but family chorales learns music" in done.stderr


# Evaluation ---------------------------------------------------------------------------------------


def test_crossings_by_hand():
    # Alto above soprano; fine; a silent alto crosses nothing, but the bass above the tenor does.
    assert harmony.crossings(
        np.array([[60, 64, 55, 48], [67, 64, 60, 48], [67, 0, 48, 50]])
    ) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("first", "second", "forbidden"),
    [
        ([72, 67, 64, 48], [74, 67, 65, 50], True),  # soprano and bass: two octaves, up to two octaves
        ([67, 64, 60, 53], [69, 64, 62, 53], True),  # soprano over tenor: a fifth moves up to a fifth
        ([67, 64, 60, 48], [67, 65, 60, 53], False),  # the fifth of soprano and tenor stays where it is
        ([67, 64, 60, 48], [65, 62, 60, 50], False),  # soprano and alto move in parallel thirds
        ([72, 67, 64, 48], [74, 67, 65, 38], False),  # an octave again, but in contrary motion
        ([72, 0, 64, 48], [74, 0, 65, 47], False),
    ],
)
def test_parallels_by_hand(first, second, forbidden):
    assert harmony.parallels(np.array([first, second])) == float(forbidden)


def test_steps_are_the_same_in_every_key_and_silence_is_none_of_them():
    melody = np.array([60, 62, 62, 0, 64])
    up = np.where(melody > 0, melody + 5, 0)
    assert harmony.steps(melody)[:2].tolist() == harmony.steps(up)[:2].tolist() == [2, 0]
    assert np.abs(harmony.steps(melody)[2:]).min() > 1000


def test_the_evaluation_of_a_model_without_opinions():
    model = zoo.build("chorales", tiny.CONFIGS["chorales"])
    for name in zoo.chorales.NAMES:
        for weight in model.networks[name].layers[-1].weights:
            weight.assign(tf.zeros_like(weight))
    report = evaluate.evaluate(model, "chorales", tiny.melodies())
    assert report["metrics"]["nll"] == pytest.approx(4 * math.log(89), rel=1e-5)
    assert report["metrics"]["nll_alto"] == pytest.approx(math.log(89), rel=1e-5)
    # The pieces are chords in parallel motion.
    assert report["metrics"]["crossings_of_test_pieces"] == 0.0
    assert report["metrics"]["parallels_of_test_pieces"] > 0.5
    assert 0.3 < report["metrics"]["crossings"] <= 1.0
    assert "nll" in evaluate.table(report)
