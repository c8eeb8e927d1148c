"""Notes as a MIDI file, a picture and a sound: what stands in the files, read back by other code."""

from __future__ import annotations

import io
import subprocess
import sys
import wave
from pathlib import Path

import mido
import numpy as np
import pytest
from PIL import Image

from serving import music

# Two frames of C major, one of G major, a silent one.
NOTES = np.array([[72, 67, 64, 48], [72, 67, 64, 60], [71, 67, 62, 55], [0, 0, 0, 0]])


def _read_midi(data: bytes) -> mido.MidiFile:
    return mido.MidiFile(file=io.BytesIO(data))


def _sounding(track: mido.MidiTrack) -> list[tuple[int, int, int]]:
    """(start tick, end tick, note) of a track."""
    now, started, found = 0, {}, []
    for message in track:
        now += message.time
        if message.type == "note_on":
            started[message.note] = now
        elif message.type == "note_off":
            found.append((started.pop(message.note), now, message.note))
    assert not started
    return found


def _read_wav(data: bytes) -> tuple[np.ndarray, int]:
    with wave.open(io.BytesIO(data)) as file:
        assert file.getsampwidth() == 2
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return samples.reshape(-1, file.getnchannels()) / 32768, file.getframerate()


def _strongest(samples: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 8 * rate))
    return float(spectrum.argmax() / 8)


def test_equal_neighbours_are_one_held_note():
    soprano, alto, tenor, bass = music.held(NOTES)
    assert soprano == [(0, 2, 72), (2, 3, 71)]
    assert alto == [(0, 3, 67)]
    assert tenor == [(0, 2, 64), (2, 3, 62)]
    assert bass == [(0, 1, 48), (1, 2, 60), (2, 3, 55)]


def test_a_midi_file_has_a_track_for_each_voice_with_its_notes():
    file = _read_midi(music.midi(NOTES, tempo=90))
    assert [t.name for t in file.tracks[1:]] == ["Soprano", "Alto", "Tenor", "Bass"]
    beat = file.ticks_per_beat
    assert _sounding(file.tracks[1]) == [(0, 2 * beat, 72), (2 * beat, 3 * beat, 71)]
    assert _sounding(file.tracks[2]) == [(0, 3 * beat, 67)]
    channels = [{m.channel for m in t if not m.is_meta} for t in file.tracks[1:]]
    assert channels == [{0}, {1}, {2}, {3}]
    assert file.length == pytest.approx(4 * 60 / 90)


def test_a_note_after_a_rest_starts_where_it_stands():
    file = _read_midi(music.midi([[0], [60], [-1], [60]]))
    beat = file.ticks_per_beat
    assert _sounding(file.tracks[1]) == [(beat, 2 * beat, 60), (3 * beat, 4 * beat, 60)]


def test_midi_of_any_voices_holds_exactly_what_held_says():
    notes = np.random.default_rng(0).integers(58, 62, (40, 3))
    notes[notes == 58] = 0
    file = _read_midi(music.midi(notes))
    for track, voice in zip(file.tracks[1:], music.held(notes), strict=True):
        beat = file.ticks_per_beat
        assert _sounding(track) == [(n.start * beat, n.stop * beat, n.pitch) for n in voice]


def test_a_roll_shows_each_voice_in_a_colour_of_its_own_at_its_pitch():
    image = np.asarray(Image.open(io.BytesIO(music.roll(NOTES))))
    height, width, channels = image.shape
    assert (width, channels) == (4 * 12 + 1, 3)
    assert height == (72 + 2 - (48 - 2) + 1) * 6

    def colour(frame, pitch):
        return tuple(image[(74 - pitch) * 6 + 3, frame * 12 + 6])

    voices = [colour(0, pitch) for pitch in NOTES[0]]
    assert len(set(voices)) == 4
    assert all(max(c) - min(c) > 100 for c in map(np.array, np.array(voices, int))), "colours, not greys"
    assert [colour(2, pitch) for pitch in NOTES[2]] == voices
    assert max(colour(3, 60)) - min(colour(3, 60)) == 0, "silence has no colour"


def test_a_wav_sounds_at_the_pitches_and_lasts_as_long_as_the_music():
    samples, rate = _read_wav(music.wav([[69], [69], [0], [81]], tempo=60))
    assert rate == 22_050
    assert samples.shape[1] == 2
    assert 4.0 <= len(samples) / rate <= 4.5
    mono = samples.sum(axis=1)
    assert _strongest(mono[:rate], rate) == pytest.approx(440, abs=1)
    assert _strongest(mono[3 * rate : 4 * rate], rate) == pytest.approx(880, abs=2)
    rest = mono[int(2.3 * rate) : 3 * rate]
    assert np.abs(rest).max() < 1e-3
    assert 0.8 < np.abs(samples).max() <= 1.0


def test_a_held_note_is_not_struck_again():
    held, rate = _read_wav(music.wav([[60], [60]], tempo=60))
    struck, _ = _read_wav(music.wav([[60], [62]], tempo=60))

    def dip(samples):
        """How loud it is just after the second beat begins, against just before."""
        after, before = samples[rate : rate + rate // 50], samples[rate - rate // 10 : rate]
        return np.abs(after).max() / np.abs(before).max()

    assert dip(held) > 0.9
    new = struck[rate : rate + rate // 100, 0] - held[rate : rate + rate // 100, 0]
    assert np.abs(new).max() < np.abs(held).max(), "a new note swells from nothing"


def test_voices_stand_apart():
    right, _ = _read_wav(music.wav([[72, 0]]))
    left, _ = _read_wav(music.wav([[0, 48]]))
    assert np.abs(right[:, 1]).max() > 1.5 * np.abs(right[:, 0]).max()
    assert np.abs(left[:, 0]).max() > 1.5 * np.abs(left[:, 1]).max()


def test_silence_is_silent_in_all_three():
    silent = np.zeros((3, 4), int)
    assert not np.any(_read_wav(music.wav(silent))[0])
    assert not any(m.type == "note_on" for t in _read_midi(music.midi(silent)).tracks for m in t)
    assert Image.open(io.BytesIO(music.roll(silent))).size[0] == 3 * 12 + 1


@pytest.mark.parametrize("form", [music.midi, music.roll, music.wav])
@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ([[60.5]], "int"),
        ([60, 62], "voices"),
        (np.zeros((0, 4), int), "voices"),
        ([[60, 200]], "note 200"),
        ([[7]], "note 7"),
    ],
)
def test_bad_notes_are_one_clear_error(form, notes, message):
    with pytest.raises(ValueError, match=message):
        form(notes)


def test_bad_tempo_rate_and_number_of_voices():
    for bad in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="tempo"):
            music.midi(NOTES, tempo=bad)
        with pytest.raises(ValueError, match="tempo"):
            music.wav(NOTES, tempo=bad)
    with pytest.raises(ValueError, match="rate"):
        music.wav(NOTES, rate=0)
    with pytest.raises(ValueError, match="10 voices"):
        music.midi(np.full((2, 10), 60))


def test_blank_leaves_open_what_is_not_given():
    notes = music.blank(3, soprano=[72, 71])
    assert notes.tolist() == [[72, -1, -1, -1], [71, -1, -1, -1], [-1, -1, -1, -1]]
    assert notes.dtype == np.int32
    with pytest.raises(ValueError, match="soprano has 4 notes"):
        music.blank(3, soprano=[60] * 4)


def test_the_module_needs_neither_tensorflow_nor_mido_until_midi_is_written():
    code = (
        "import sys; sys.modules['mido'] = None\n"
        "from serving import music\n"
        "music.wav([[60]]); music.roll([[60]])\n"
        "assert not {'tensorflow', 'keras', 'zoo', 'PIL', 'grpc'} & set(sys.modules)\n"
        "try: music.midi([[60]])\n"
        "except ImportError as error: print(error)"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "atelier[music]" in done.stdout
