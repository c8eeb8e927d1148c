"""Text: one file, as a training and a held-out text, cut into windows."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from train.data import dataset
from train.data.dataset import WHOLE, DataSet, Shard
from zoo.errors import UserError

if TYPE_CHECKING:
    from train.config import Data

HELD_OUT = 10  # one part in so many
# The held-out text is read in few rows, long enough that what a row does not know of the one before it
# hardly counts: a window's first symbols are hard to tell.
_EVAL_LENGTH = 2048
_LEAST = 100  # symbols in each split


@dataclasses.dataclass(frozen=True)
class TextData(DataSet):
    """A text in two parts; the alphabet is that of both."""

    name: str
    train: str
    test: str
    licence: str
    source: str

    def __post_init__(self) -> None:
        for split in (self.train, self.test):
            if len(split) < _LEAST:
                raise UserError(
                    f"data set {self.name} has {len(self.train):,} symbols to train on and {len(self.test):,}"
                    f" held out; at least {_LEAST} of each are expected"
                )

    @property
    def kind(self) -> str:
        return "text"

    @property
    def unit(self) -> str:
        return "windows"

    @property
    def alphabet(self) -> str:
        """Every symbol of the text once, in the order of the code points; the line feed is always one."""
        return "".join(sorted({"\n", *self.train, *self.test}))

    @property
    def for_model(self) -> dict[str, Any]:
        return {"alphabet": self.alphabet}

    @property
    def sizes(self) -> dict[str, int]:
        return {"train_symbols": len(self.train), "test_symbols": len(self.test)}

    def ids(self, text: str) -> np.ndarray:
        """The text's symbols by their place in the alphabet: int32 `[N]`."""
        known = np.array([ord(symbol) for symbol in self.alphabet])
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        return np.searchsorted(known, codes).astype(np.int32)

    def train_batches(
        self, settings: Data, *, seed: int, start_step: int = 0, shard: Shard = WHOLE
    ) -> tf.data.Dataset:
        """(symbols int32 `[g, length]`, the ones that follow int32 `[g, length]`).

        An epoch cuts the text into windows that do not overlap; where it begins to cut is drawn for each
        epoch, so that no symbol always stands at a window's beginning.
        """
        length = settings.length
        count = (len(self.train) - 1) // length - 1  # windows, wherever the first one begins
        if count < 1:
            raise UserError(
                f"config.data.length={length}: the training text of {self.name} has"
                f" {len(self.train):,} symbols; at most {(len(self.train) - 1) // 2} are expected"
            )
        rows = dataset.rows_of_replica(settings.batch_size, count, self.unit, shard)
        with tf.device("CPU:0"):
            text = tf.constant(self.ids(self.train))

        def batch(epoch: tf.Tensor, step: tf.Tensor, replica: tf.Tensor, index: tf.Tensor):
            # Permutations of an epoch use the keys from 0 on.
            key = tf.stack([tf.constant(seed, tf.int64), -1 - epoch])
            offset = tf.random.stateless_uniform([], key, maxval=length, dtype=tf.int32)
            places = offset + index[:, None] * length + tf.range(length + 1)[None, :]
            window = tf.ensure_shape(tf.gather(text, places), [rows, length + 1])
            return window[:, :-1], window[:, 1:]

        return (
            dataset.epoch_batches(count, settings.batch_size, seed=seed, start_step=start_step, shard=shard)
            .map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .prefetch(tf.data.AUTOTUNE)
        )

    def eval_batches(self, settings: Data, batch_size: int) -> tf.data.Dataset:
        """The held-out text once, in rows of up to 2,048 symbols; less than a row is left out at the end."""
        text = self.ids(self.test)
        length = min(_EVAL_LENGTH, len(text) - 1)
        rows = (len(text) - 1) // length
        x, y = (text[i : i + rows * length].reshape(rows, length) for i in (0, 1))
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)

    def examples(self) -> tuple[np.ndarray, ...]:
        """Four held-out windows of 64 symbols, and the ones that follow."""
        text = self.ids(self.test)
        starts = np.linspace(0, len(text) - 65, 4).astype(int)
        window = text[starts[:, None] + np.arange(65)]
        return window[:, :-1], window[:, 1:]


def read(path: pathlib.Path, name: str) -> str:
    """A UTF-8 file's text. Raises `UserError` for one that is missing, no UTF-8, or empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is no UTF-8 (byte {error.start}): save it as UTF-8 to train on it"
        ) from error
    except OSError as error:
        raise UserError(f"data set {name}: cannot read {path} ({error.strerror})") from error
    if not text.strip():
        raise UserError(f"{path} is empty: data set {name} needs a text to learn from")
    return text


def load(path: pathlib.Path, *, name: str = "", licence: str = "unknown", source: str = "") -> TextData:
    """Any UTF-8 file: the first nine tenths to train on, the rest held out.

    Raises:
        UserError: the file is missing, no UTF-8, empty or too short.
    """
    name = name or f"text:{path}"
    text = read(path, name)
    cut = len(text) * (HELD_OUT - 1) // HELD_OUT
    return TextData(name, text[:cut], text[cut:], licence, source or path.name)


def tinyshakespeare(data_dir: pathlib.Path | None) -> TextData:
    return load(
        _folder(data_dir, "tinyshakespeare") / "input.txt",
        name="tinyshakespeare",
        licence="public domain",
        source="karpathy/char-rnn, data/tinyshakespeare: 40,000 lines of Shakespeare's plays",
    )


def _folder(data_dir: pathlib.Path | None, name: str) -> pathlib.Path:
    if data_dir is None:
        raise UserError(f"this data set needs --data_dir: it is read from <dir>/{name}")
    return data_dir / name


def tang(data_dir: pathlib.Path | None) -> TextData:
    """Regular quatrains of the Tang, a poem a line.

    Held out is every poem whose text's SHA-256 is a multiple of ten: the split does not depend on the
    file's order, and will not move when poems are added.
    """
    path = _folder(data_dir, "poetry_zh") / "tang_quatrains.txt"
    splits: dict[bool, list[str]] = {True: [], False: []}
    for number, line in enumerate(read(path, "tang").splitlines(), 1):
        fields = line.split("\t")
        if len(fields) != 3:
            raise UserError(f"{path}, line {number}: author, title and text with tabs between are expected")
        held_out = int(hashlib.sha256(fields[2].encode()).hexdigest(), 16) % HELD_OUT == 0
        splits[held_out].append(f"{fields[2]}\n")
    return TextData(
        "tang",
        "".join(splits[False]),
        "".join(splits[True]),
        "poems in the public domain; collection MIT, (c) 2016 JackeyGao",
        "chinese-poetry/chinese-poetry: the regular quatrains of the Complete Tang Poems",
    )
