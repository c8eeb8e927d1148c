"""How well a chorale model knows unseen chorales, and what its own pieces are like beside them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from train.data.chorales import VOICES, MusicData, stacked
from train.metrics.verbatim import longest_copied
from zoo import base, chorales

PIECES, FRAMES = 64, 64  # that the model composes for the figures of its own pieces
_BATCH = 32
_END = 1000  # stands between melodies: no interval


def evaluate(model: base.Judged, data: MusicData) -> dict[str, Any]:
    """Figures on the test pieces, in nats per quarter note, and of composed pieces beside the test pieces'.

    `nll` is comparable with Boulanger-Lewandowski 2012 on jsb_chorales (there: RNN-NADE 5.56, RNN-RBM 6.27):
    see `zoo.chorales` on why it bounds theirs from above. `nll_<voice>` are its parts: what the alto costs
    given the soprano, and so on. For information: `crossings` and `parallels` as below, and `copied`, the
    longest run of soprano steps that stands in a training piece in any key, a mean over pieces.
    """
    signatures = model.signatures()
    nll, frames = np.zeros(VOICES), 0
    for start in range(0, len(data.test), _BATCH):
        pieces = data.test[start : start + _BATCH]
        scored = signatures["score"](notes=tf.constant(stacked(pieces, max(map(len, pieces)))))
        nll += scored["voice_nll"].numpy().astype(np.float64).sum(axis=0)
        frames += int(scored["count"].numpy().sum())
    composed = [
        piece
        for start in range(0, PIECES, _BATCH)
        for piece in signatures["generate"](
            notes=tf.fill([_BATCH, FRAMES, VOICES], chorales.OPEN),
            seed=tf.range(start, start + _BATCH, dtype=tf.int64),
        )["notes"].numpy()
    ]
    # Pieces of one length: a longer one has more room for a copy.
    held_out = [piece[:FRAMES] for piece in data.test]
    corpus = np.concatenate([np.append(steps(piece[:, 0]), _END) for piece in data.train])
    measures: dict[str, Callable[[np.ndarray], float]] = {
        "crossings": crossings,
        "parallels": parallels,
        "copied": lambda piece: longest_copied(steps(piece[:, 0]), corpus),
    }
    metrics = {"nll": float(nll.sum() / frames)}
    for name, value in zip(chorales.NAMES, nll, strict=True):
        metrics[f"nll_{name}"] = float(value / frames)
    for name, measure in measures.items():
        metrics[name] = float(np.mean([measure(piece) for piece in composed]))
        metrics[f"{name}_of_test_pieces"] = float(np.mean([measure(piece) for piece in held_out]))
    return {
        "metrics": metrics,
        "n_test": len(data.test),
        "unit": f"pieces, {frames:,} frames; {PIECES} composed pieces of {FRAMES} frames",
    }


def steps(melody: np.ndarray) -> np.ndarray:
    """A melody int `[T]` as the semitones from each note to the next, the same in every key.

    A step into or out of silence is `-_END` or more away from all that are sung.
    """
    return np.diff(np.where(melody > 0, melody, -_END))


def crossings(piece: np.ndarray) -> float:
    """The share of frames, of int `[T, 4]`, in which some voice sings below the next lower one."""
    upper, lower = piece[:, :-1], piece[:, 1:]
    return float(np.mean(((upper < lower) & (upper > 0) & (lower > 0)).any(axis=1)))


def parallels(piece: np.ndarray) -> float:
    """The share of frame changes, of int `[T, 4]`, with parallel fifths, octaves or unisons.

    Two voices stand a perfect fifth, an octave or a unison apart (or octaves more), both move the same way,
    and stand so again: what every textbook of the style forbids.
    """
    before, after = piece[:-1], piece[1:]
    found = np.zeros(len(before), bool)
    for a in range(VOICES):
        for b in range(a + 1, VOICES):
            move_a, move_b = after[:, a] - before[:, a], after[:, b] - before[:, b]
            sung = (np.stack([before[:, a], before[:, b], after[:, a], after[:, b]]) > 0).all(axis=0)
            apart = [(notes[:, a] - notes[:, b]) % 12 for notes in (before, after)]
            perfect = (apart[0] == apart[1]) & np.isin(apart[0], (0, 7))
            found |= sung & perfect & (move_a * move_b > 0)
    return float(found.mean()) if len(found) else 0.0
