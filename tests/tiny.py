"""Every family at a size that steps in milliseconds; the conformance tests run over these tables."""

import functools

import numpy as np

from train import config as config_lib
from train import data
from train.data.chorales import MusicData
from train.data.dataset import DataSet
from train.data.text import TextData
from zoo import chorales, cnn, gan, rnn

CONFIGS = {
    "chorales": chorales.Config(embedding=4, units=8, hidden=8, dropout=0.2, particles=3),
    "cnn": cnn.Config(image_shape=(8, 8, 1), stem=4, widths=(8, 8)),
    "gan": gan.Config(image_shape=(8, 8, 1), latent_dim=6, channels=8),
    "rnn": rnn.Config(alphabet="\n abcdehnortu", units=8, embedding=4, dropout=0.2),
}
# A field that cannot be, for each family.
BROKEN = {
    "chorales": {"dropout": 1.5},
    "cnn": {"image_shape": (8, 8, 2)},
    "gan": {"image_shape": (8, 8, 2)},
    "rnn": {"units": 0},
}


@functools.cache
def digits() -> DataSet:
    return data.load("digits")


@functools.cache
def melodies() -> DataSet:
    """64 little pieces of music: chords that move up and down by steps."""
    random = np.random.default_rng(0)
    chord = np.array([67, 64, 60, 48], np.int32)
    pieces = [chord + random.integers(-5, 6, (frames, 1)) for frames in random.integers(6, 20, 64)]
    pieces = tuple(piece.astype(np.int32) for piece in pieces)
    return MusicData("melodies", pieces[:48], pieces[48:56], pieces[56:], "ours", "tests/tiny.py")


@functools.cache
def verse() -> DataSet:
    text = "to be or not to be\nabcdehortu\n" * 20
    return TextData("verse", text, text[:400], "", "")


# What each family learns from at that size.
DATA = {
    "chorales": melodies,
    "cnn": digits,
    "gan": digits,
    "rnn": verse,
}


def settings(**changes) -> config_lib.Data:
    """The `data` part of a configuration for `DATA`; the trainer does not look at its name."""
    return config_lib.Data(name="tiny", **{"batch_size": 16, "length": 8, **changes})


def batch(family: str, rows: int = 16):
    """The first training batch (x, y) of a family."""
    return next(iter(DATA[family]().train_batches(settings(batch_size=rows), seed=0)))
