"""What people do with the notes that a music model answers: a score as MIDI, a picture, a sound.

   notes = client.predict("rnn_chorales", {"soprano": [melody], "seed": [0]}, signature="harmonize")["notes"]
   pathlib.Path("chorale.mid").write_bytes(music.midi(notes[0]))

Notes are MIDI numbers, one row a quarter note, one column a voice, the highest first; 0 and less is silence.
A voice that keeps its note holds it: nothing here strikes it again.
"""

from __future__ import annotations

import colorsys
import io
import wave
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving import png

OPEN = -1  # in a request: a note that the model is to compose
LOWEST, HIGHEST = 21, 108  # the piano's keys
RATE = 22_050  # samples in a second
TEMPO = 80.0  # quarter notes in a minute

_TICKS = 480  # of a MIDI file, in a quarter note
_CHOIR = 52  # General MIDI's "choir aahs", counted from 0
_FRAME, _SEMITONE = 12, 6  # pixels of a piano roll
_BAR = 4  # frames between the lines of a piano roll


class Note(NamedTuple):
    """A held note of one voice."""

    start: int  # frame
    stop: int  # the frame after its last
    pitch: int  # MIDI number


def blank(length: int, soprano: Sequence[int] = ()) -> NDArray[np.int32]:
    """What `generate` takes to compose `length` frames from nothing, or on from, or below, a melody.

    Returns:
      int32 [length, 4]: the soprano as far as it is given, all else `OPEN`.
    Raises:
      ValueError: a melody longer than the music.
    """
    if len(soprano) > length:
        raise ValueError(f"the soprano has {len(soprano)} notes, more than the length {length}")
    notes = np.full((length, 4), OPEN, np.int32)
    notes[: len(soprano), 0] = soprano
    return notes


def held(notes: ArrayLike) -> list[list[Note]]:
    """The notes of each voice, equal neighbours tied: int [T, voices].

    Raises:
      ValueError: not whole numbers of that shape, or a note that no piano has.
    """
    array = np.asarray(notes)
    if array.ndim != 2 or array.dtype.kind not in "iu" or not array.size:
        raise ValueError(f"expected notes int [T, voices], given {array.dtype} {list(array.shape)}")
    if ((array > 0) & (array < LOWEST)).any() or (array > HIGHEST).any():
        wrong = array[((array > 0) & (array < LOWEST)) | (array > HIGHEST)][0]
        raise ValueError(f"the note {wrong} is not a piano's: {LOWEST} to {HIGHEST} are expected")
    voices = []
    for voice in array.T.astype(int):
        starts = np.flatnonzero(np.append(True, voice[1:] != voice[:-1]))
        stops = np.append(starts[1:], len(voice))
        voices.append(
            [
                Note(int(a), int(b), int(voice[a]))
                for a, b in zip(starts, stops, strict=True)
                if voice[a] > 0
            ]
        )
    return voices


def midi(notes: ArrayLike, tempo: float = TEMPO) -> bytes:
    """A MIDI file, one track and channel for each voice.

    Args:
      notes: int [T, voices], at most 9 voices.
      tempo: quarter notes in a minute, 4 to 60,000 (what the format can hold).
    Raises:
      ValueError: bad notes, tempo or number of voices.
      ImportError: mido is not installed: pip install 'atelier[music]'.
    """
    try:
        import mido
    except ImportError as error:
        raise ImportError("a MIDI file needs mido: pip install 'atelier[music]'") from error
    voices = held(notes)
    if len(voices) > 9:  # the tenth channel plays drums
        raise ValueError(f"{len(voices)} voices: at most 9 are expected")
    if not 4 <= tempo <= 60_000:
        raise ValueError(f"tempo={tempo}: 4 to 60000 quarter notes a minute are expected")
    end = len(np.asarray(notes))
    file = mido.MidiFile(type=1, ticks_per_beat=_TICKS)
    conductor = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=round(60e6 / tempo))])
    file.tracks.append(conductor)
    names = ("Soprano", "Alto", "Tenor", "Bass") if len(voices) == 4 else ()
    for channel, voice in enumerate(voices):
        name = names[channel] if names else f"Voice {channel + 1}"
        track = mido.MidiTrack([mido.MetaMessage("track_name", name=name)])
        track.append(mido.Message("program_change", channel=channel, program=_CHOIR))
        now = 0
        for note in voice:
            for kind, frame in (("note_on", note.start), ("note_off", note.stop)):
                delay = (frame - now) * _TICKS
                track.append(mido.Message(kind, channel=channel, note=note.pitch, velocity=80, time=delay))
                now = frame
        track.append(mido.MetaMessage("end_of_track", time=(end - now) * _TICKS))
        file.tracks.append(track)
    written = io.BytesIO()
    file.save(file=written)
    return written.getvalue()


def roll(notes: ArrayLike) -> bytes:
    """A piano roll as a PNG file: time to the right, a colour for each voice, a line every four frames.

    Raises:
      ValueError: bad notes, see `held`.
    """
    voices = held(notes)
    pitches = [note.pitch for voice in voices for note in voice] or [60]
    low, high = min(pitches) - 2, max(pitches) + 2
    frames = len(np.asarray(notes))
    image = np.full(((high - low + 1) * _SEMITONE, frames * _FRAME + 1, 3), 255, np.uint8)
    for pitch in range(low, high + 1):
        if pitch % 12 in (1, 3, 6, 8, 10):  # black keys
            image[_rows(pitch, high)] = 240
    image[:, :: _FRAME * _BAR] = 200
    for index, voice in enumerate(voices):
        light, dark = (
            np.round(np.multiply(colorsys.hsv_to_rgb(index / len(voices), 0.75, value), 255))
            for value in (0.85, 0.45)
        )
        for note in voice:
            rows = _rows(note.pitch, high)
            first, last = note.start * _FRAME + 1, note.stop * _FRAME
            image[rows, first:last] = dark  # the note's edge
            image[rows.start + 1 : rows.stop - 1, first + 1 : last - 1] = light
    return png.encode(image)


def _rows(pitch: int, high: int) -> slice:
    return slice((high - pitch) * _SEMITONE, (high - pitch + 1) * _SEMITONE)


def wav(notes: ArrayLike, tempo: float = TEMPO, rate: int = RATE) -> bytes:
    """A WAV file (16 bits, stereo) by additive synthesis: no sound font, no instrument.

    A note is a sum of harmonics, the higher the softer and the sooner gone, with a slow swell and a
    slight vibrato of its own; voices stand from right to left as a choir does.

    Args:
      notes: int [T, voices].
      tempo: quarter notes in a minute.
      rate: samples in a second.
    Raises:
      ValueError: bad notes, see `held`, or a tempo or rate that is not positive.
    """
    voices = held(notes)
    if not tempo > 0 or rate < 1:
        raise ValueError(f"tempo={tempo}, rate={rate}: positive numbers are expected")
    frame = rate * 60.0 / tempo
    tail = int(_RELEASE * rate)
    total = np.zeros((int(len(np.asarray(notes)) * frame) + tail + 1, 2))
    for index, voice in enumerate(voices):
        place = (index + 1) / (len(voices) + 1)  # 0 is right, 1 left
        gains = np.array([np.sin(place * np.pi / 2), np.cos(place * np.pi / 2)])
        for note in voice:
            first = int(note.start * frame)
            tone = _tone(note.pitch, int(note.stop * frame) - first, tail, rate)
            total[first : first + len(tone)] += tone[:, None] * gains
    total *= 0.9 / max(float(np.abs(total).max()), 1e-9)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.round(total * 32767).astype("<i2").tobytes())
    return file.getvalue()


_ATTACK, _RELEASE = 0.06, 0.25  # seconds
_HARMONICS = 12
_VIBRATO, _DEPTH = 5.2, 0.003  # turns in a second; share of the frequency


def _tone(pitch: int, length: int, tail: int, rate: int) -> NDArray[np.float64]:
    """One note as samples, `length` while it is held and `tail` while it fades."""
    time = np.arange(length + tail) / rate
    frequency = 440.0 * 2 ** ((pitch - 69) / 12)
    # The vibrato comes in late, as a singer's; its integral is what the phase needs.
    depth = _DEPTH * np.minimum(time / 0.6, 1.0)
    phase = 2 * np.pi * frequency * time - depth * frequency / _VIBRATO * np.cos(
        2 * np.pi * (_VIBRATO * time + pitch / 7)
    )
    tone = np.zeros_like(time)
    for k in range(1, _HARMONICS + 1):
        if k * frequency * (1 + _DEPTH) < rate / 2:
            tone += np.sin(k * phase) / k**1.6 * np.exp(-0.25 * (k - 1) * time)
    swell = np.minimum(time / _ATTACK, 1.0) * np.exp(-0.3 * time)
    fade = np.clip(1.0 - (time - length / rate) / (tail / rate), 0.0, 1.0) ** 2 if tail else 1.0
    return tone * swell * fade
