"""Four-part chorales, a frame for each quarter note: Bach's, or a folder of MIDI files."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import zipfile
from typing import TYPE_CHECKING, Any

import mido
import numpy as np
import tensorflow as tf
from absl import logging

from train.data import dataset
from train.data.dataset import WHOLE, DataSet, Shard
from zoo import chorales
from zoo.errors import UserError

if TYPE_CHECKING:
    from train.config import Data

VOICES = chorales.VOICES
# Training pieces are moved by so many semitones, each as likely: to every key, none twice.
TRANSPOSE = range(-6, 6)
_DRUMS = 9  # the tenth MIDI channel
_EXAMPLE = 32  # frames of an example
# What a voice that falls silent costs, in semitones of motion, when voices are found for a chord.
_SILENCED = 24


@dataclasses.dataclass(frozen=True)
class MusicData(DataSet):
    """Pieces int32 [frames, 4]: MIDI numbers, soprano first, 0 where a voice is silent."""

    name: str
    train: tuple[np.ndarray, ...]
    valid: tuple[np.ndarray, ...]  # to choose settings by: what `eval_batches` yields
    test: tuple[np.ndarray, ...]
    licence: str
    source: str

    @property
    def kind(self) -> str:
        return "music"

    @property
    def unit(self) -> str:
        return "windows"

    @property
    def for_model(self) -> dict[str, Any]:
        return {}

    @property
    def sizes(self) -> dict[str, int]:
        splits = {"train": self.train, "valid": self.valid, "test": self.test}
        return {f"{k}_pieces": len(v) for k, v in splits.items()} | {
            f"{k}_frames": sum(map(len, v)) for k, v in splits.items()
        }

    def train_batches(
        self, settings: Data, *, seed: int, start_step: int = 0, shard: Shard = WHOLE
    ) -> tf.data.Dataset:
        """(frames before int32 `[g, length, 4]`, frames int32 `[g, length, 4]`), see `windows`.

        An epoch has a window of every piece, from a place and in a key that are drawn anew.
        """
        rows = dataset.rows_of_replica(settings.batch_size, len(self.train), "pieces", shard)
        length = settings.length
        counts = np.array([len(piece) for piece in self.train], np.int32)
        with tf.device("CPU:0"):
            all_pieces = tf.constant(stacked(self.train, max(counts.max(), length)))
            all_counts = tf.constant(counts)

        def batch(_, step: tf.Tensor, replica: tf.Tensor, index: tf.Tensor):
            # Drawn for the whole global batch, of which this replica takes its rows. The key is negative
            # because epochs use the keys from 0 on.
            draws = tf.random.stateless_uniform(
                [settings.batch_size, 2], seed=tf.stack([tf.constant(seed, tf.int64), -1 - step])
            )[replica * rows : (replica + 1) * rows]
            places = tf.cast(tf.maximum(tf.gather(all_counts, index) - length, 0) + 1, tf.float32)
            first = tf.cast(tf.floor(draws[:, 0] * places), tf.int32)
            shift = tf.cast(tf.floor(draws[:, 1] * len(TRANSPOSE)), tf.int32) + TRANSPOSE.start
            x, y = windows(tf.gather(all_pieces, index), first, length)
            shift = shift[:, None, None]
            x, y = (tf.where(notes > 0, notes + shift, notes) for notes in (x, y))
            return tf.ensure_shape(x, [rows, length, VOICES]), tf.ensure_shape(y, [rows, length, VOICES])

        return (
            dataset.epoch_batches(
                len(self.train), settings.batch_size, seed=seed, start_step=start_step, shard=shard
            )
            .map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .prefetch(tf.data.AUTOTUNE)
        )

    def eval_batches(self, settings: Data, batch_size: int) -> tf.data.Dataset:
        """Whole pieces of the validation split, in their own keys."""
        length = max(map(len, self.valid))

        def batch(pieces: tf.Tensor):
            return windows(pieces, tf.zeros(tf.shape(pieces)[:1], tf.int32), length)

        pieces = tf.data.Dataset.from_tensor_slices(stacked(self.valid, length)).batch(batch_size)
        return pieces.map(batch)

    def examples(self) -> tuple[np.ndarray, ...]:
        """The first 32 frames of 8 validation pieces, or as much as there is."""
        length = min(_EXAMPLE, max(map(len, self.valid)))
        pieces = stacked([piece[:length] for piece in self.valid[:8]], length)
        x, y = windows(tf.constant(pieces), tf.zeros([len(pieces)], tf.int32), length)
        return x.numpy(), y.numpy()


def stacked(pieces: Any, length: int) -> np.ndarray:
    """Pieces int [frames, 4] of at most `length` frames as int32 [N, length, 4], ended by `chorales.OPEN`."""
    whole = np.full((len(pieces), length, VOICES), chorales.OPEN, np.int32)
    for row, piece in zip(whole, pieces, strict=True):
        row[: len(piece)] = piece
    return whole


def windows(pieces: tf.Tensor, first: tf.Tensor, length: int) -> tuple[tf.Tensor, tf.Tensor]:
    """`length` frames of each piece from frame `first` on, and for each of them the frame before it.

    Args:
        pieces: int32 `[B, T, 4]`, T >= length.
        first: int32 `[B]`.

    Returns:
        x, y int32 `[B, length, 4]`: y[:, t] follows x[:, t]. Before a piece's first frame stands
        `chorales.START`, after its last `chorales.OPEN`.
    """
    started = tf.pad(pieces, [[0, 0], [1, 0], [0, 0]], constant_values=chorales.START)
    index = first[:, None] + tf.range(length + 1)  # [B, length + 1]
    both = tf.gather(started, index, batch_dims=1)
    return both[:, :-1], both[:, 1:]


# Bach's chorales ---------------------------------------------------------------------------------


def jsb(data_dir: pathlib.Path | None) -> MusicData:
    """The 382 chorales of Boulanger-Lewandowski 2012 (arXiv:1206.6392) by quarter notes: 229 / 76 / 77.

    As published they are chords without voices, every piece moved to C major or C minor, 6 to 17 semitones
    up on the way. Who wants to be compared must be judged on these: `test` holds exactly their notes, an
    octave lower. That is one constant for all, so a probability of the one is a probability of the other.
    Which voice sings which note is taken from Coconet's four-voice edition of the same pieces; `train` and
    `valid` are that edition, in Bach's own keys.

    Raises:
        UserError: the files are missing or broken.
    """
    if data_dir is None:
        raise UserError("data set 'jsb_chorales' needs --data_dir: it is read from <dir>/jsb_chorales")
    folder = data_dir / "jsb_chorales"
    voiced = {
        split: _read_voices(folder / "jsb_satb_16th.npz", split) for split in ("train", "valid", "test")
    }
    chords = _read_chords(folder / "jsb-chorales-quarter.json", "test")
    return MusicData(
        name="jsb_chorales",
        train=voiced["train"],
        valid=voiced["valid"],
        test=tuple(_with_voices(piece, voiced["test"]) for piece in chords),
        licence="music in the public domain; licence of the transcription unstated",
        source="Boulanger-Lewandowski 2012 (chords), Coconet (voices), by czhuang/JSB-Chorales-dataset",
    )


def _read_voices(path: pathlib.Path, split: str) -> tuple[np.ndarray, ...]:
    """Coconet's pieces, of whose sixteenths every fourth is kept."""
    try:
        with np.load(path) as file:
            notes, counts = file[f"{split}_notes"].astype(np.int32), file[f"{split}_len"]
        pieces = np.split(np.maximum(notes, 0), np.cumsum(counts)[:-1])
        return tuple(_checked(piece[::4]) for piece in pieces)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is missing or no file of chorales: {error}") from error


def _read_chords(path: pathlib.Path, split: str) -> list[list[frozenset[int]]]:
    """The published pieces an octave lower, each frame the set of its notes."""
    try:
        pieces = json.loads(path.read_text())[split]
        return [[frozenset(int(note) - 12 for note in frame) for frame in piece] for piece in pieces]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is missing or no file of chorales: {error}") from error


def _with_voices(chords: list[frozenset[int]], voiced: tuple[np.ndarray, ...]) -> np.ndarray:
    """A published piece int32 [frames, 4]: the same sets of notes, sung as in its four-voice edition.

    That is the edition of equal length which, moved by a constant, has most chords in common.
    """
    best, voices = -1, None
    for piece in voiced:
        if len(piece) != len(chords):
            continue
        for shift in range(-12, 13):
            moved = np.where(piece > 0, piece + shift, 0)
            same = sum(chord == set(frame) - {0} for chord, frame in zip(chords, moved.tolist(), strict=True))
            if same > best:
                best, voices = same, moved
    if voices is None:
        raise UserError(
            f"jsb_chorales: no four-voice edition has {len(chords)} frames, as a published piece has"
        )
    return np.array(
        [sung(chord, frame) for chord, frame in zip(chords, voices.tolist(), strict=True)], np.int32
    )


def sung(chord: frozenset[int], like: list[int]) -> tuple[int, ...]:
    """Who sings which note of a chord: each note is sung, and the voices move as little as they can from
    where `like` has them.

    `sung({60, 64, 67}, [67, 64, 60, 48])` is `(67, 64, 60, 60)`: the bass joins the tenor.

    Raises:
        UserError: more notes than voices.
    """
    if len(chord) > VOICES:
        raise UserError(f"a chord has the {len(chord)} notes {sorted(chord)}; {VOICES} voices sing")
    if chord == set(like) - {0}:
        return tuple(like)

    def motion(voices: tuple[int, ...]) -> int:
        pairs = zip(voices, like, strict=True)
        return sum(abs(a - b) if a and b else _SILENCED * (a != b) for a, b in pairs)

    ways = itertools.product([0, *sorted(chord)], repeat=VOICES)
    return min((way for way in ways if set(way) - {0} == chord), key=motion)


def _checked(piece: np.ndarray) -> np.ndarray:
    """The piece; raises ValueError if it is none."""
    if piece.ndim != 2 or piece.shape[1] != VOICES or not len(piece):
        raise ValueError(f"a piece has the shape {piece.shape}; (frames, {VOICES}) is expected")
    wrong = piece[(piece != 0) & ((piece < chorales.LOWEST) | (piece > chorales.HIGHEST))]
    if wrong.size:
        raise ValueError(f"the note {wrong[0]} is not between {chorales.LOWEST} and {chorales.HIGHEST}")
    return piece


# MIDI files --------------------------------------------------------------------------------------


def midi(path: pathlib.Path) -> MusicData:
    """The pieces of a folder of MIDI files (`.mid`, `.midi`, in subfolders too), or the parts of one file.

    A file has four voices, each a track or a channel of its own; the one that is highest on average is the
    soprano. A frame is what sounds when a quarter note begins. Of the files, sorted by name, the second of
    every ten is for testing and the third for validation. A single file is cut into ten such pieces. A file
    that is no such music is named in a warning and left out.

    Raises:
        UserError: there is nothing there, or too little of it.
    """
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in (".mid", ".midi"))
    elif path.is_file():
        files = [path]
    else:
        raise UserError(f"data set midi:{path}: there is no such folder or file")
    pieces = []
    for file in files:
        try:
            pieces.append(read_midi(file))
        except ValueError as error:
            logging.warning("skipped %s: %s", file, error)
    if len(pieces) == 1 and len(pieces[0]) >= 10:
        pieces = np.array_split(pieces[0], 10)
    if len(pieces) < 3:
        raise UserError(
            f"data set midi:{path}: {len(pieces)} of {len(files)} MIDI files are music of four voices;"
            " three at least are expected, or a single one of ten quarter notes"
        )
    return MusicData(
        name=f"midi:{path}",
        train=tuple(piece for i, piece in enumerate(pieces) if i % 10 not in (1, 2)),
        valid=tuple(pieces[2::10]),
        test=tuple(pieces[1::10]),
        licence="unstated",
        source=str(path),
    )


def read_midi(path: pathlib.Path) -> np.ndarray:
    """A MIDI file as a piece int32 [frames, 4]. Raises ValueError that says why it is none."""
    try:
        file = mido.MidiFile(path)
    except (OSError, EOFError, ValueError, LookupError, TypeError, mido.KeySignatureError) as error:
        raise ValueError(f"it is no MIDI file ({str(error) or type(error).__name__})") from error
    if not 0 < file.ticks_per_beat < 0x8000:  # the other half of the numbers are film frames
        raise ValueError("its time is not in quarter notes")
    voices: dict[tuple[int, int], list[tuple[int, int, int]]] = {}  # (track, channel): (on, off, note)
    for number, track in enumerate(file.tracks):
        now, sounding = 0, dict[tuple[int, int], int]()
        for message in track:
            now += message.time
            if message.type not in ("note_on", "note_off") or message.channel == _DRUMS:
                continue
            key = (message.channel, message.note)
            if key in sounding:
                voices.setdefault((number, message.channel), []).append(
                    (sounding.pop(key), now, message.note)
                )
            if message.type == "note_on" and message.velocity:
                sounding[key] = now
    if len(voices) != VOICES:
        raise ValueError(
            f"it has {len(voices)} voices (tracks or channels with notes); {VOICES} are expected"
        )
    end = max(off for notes in voices.values() for _, off, _ in notes)
    piece = np.zeros((-(-end // file.ticks_per_beat), VOICES), np.int32)
    highest_first = sorted(voices.values(), key=lambda notes: -np.mean([note for _, _, note in notes]))
    for voice, notes in enumerate(highest_first):
        if len({on for on, _, _ in notes}) < len(notes):
            raise ValueError("one of its voices begins two notes at once")
        for on, off, note in sorted(notes):
            piece[-(-on // file.ticks_per_beat) : -(-off // file.ticks_per_beat), voice] = note
    return _checked(piece)
