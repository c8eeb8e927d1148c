"""What the trainer asks of every data set, whatever it holds."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf

from zoo.errors import UserError

if TYPE_CHECKING:
    from train.config import Data


class Shard(NamedTuple):
    """Which rows of each global batch one input pipeline yields: those of `local` replicas from `first` on,
    of `replicas` in sync over all workers."""

    replicas: int = 1
    first: int = 0
    local: int = 1


WHOLE = Shard()  # one device: the whole batch


class DataSet(abc.ABC):
    """A training and a held-out split in memory, and a few facts about them for the model card.

    Batches are tuples (x, y) as `keras.Model.fit` takes them; what they hold belongs to the kind.
    """

    name: str
    licence: str  # short text for model cards
    source: str

    @property
    @abc.abstractmethod
    def kind(self) -> str:
        """`images`, `text` or `music`: a family learns one of them (`zoo.base.Model.learns`)."""

    @property
    @abc.abstractmethod
    def unit(self) -> str:
        """What one row of a batch is, in the plural: `images`, `windows`."""

    @property
    @abc.abstractmethod
    def for_model(self) -> dict[str, Any]:
        """The fields of a family's `Config` that the data decides; a family may have some of them."""

    @property
    @abc.abstractmethod
    def sizes(self) -> dict[str, int]:
        """How much there is of each split, for the card: `{"train_images": 60000, "test_images": 10000}`."""

    @abc.abstractmethod
    def train_batches(
        self, settings: Data, *, seed: int, start_step: int = 0, shard: Shard = WHOLE
    ) -> tf.data.Dataset:
        """Endless training batches from the global step `start_step` on.

        Every batch is a pure function of (seed, step, row): resuming at step k needs no replay, and N
        replicas together see exactly what one device sees.

        Returns:
            For every global step `shard.local` elements in turn, each with the
            `settings.batch_size / shard.replicas` rows of one replica.

        Raises:
            UserError: the split is smaller than a batch, or the settings do not fit it.
        """

    @abc.abstractmethod
    def eval_batches(self, settings: Data, batch_size: int) -> tf.data.Dataset:
        """The held-out split once, in order and without random changes; the last batch may be smaller."""

    @abc.abstractmethod
    def examples(self) -> tuple[np.ndarray, ...]:
        """A few held-out rows (x, y) for previews; the same at every call."""


def rows_of_replica(batch_size: int, count: int, unit: str, shard: Shard) -> int:
    """The rows of one replica's batch.

    Raises:
        UserError: the replicas cannot share the batch, or the `count` training examples fill none.
    """
    if batch_size < 1 or batch_size % shard.replicas:
        raise UserError(
            f"batch size {batch_size} cannot be shared by {shard.replicas} replicas: "
            f"choose a positive multiple of {shard.replicas}"
        )
    if count < batch_size:
        raise UserError(
            f"the training set has {count} {unit}, fewer than one batch of {batch_size}: "
            f"choose a smaller batch size"
        )
    return batch_size // shard.replicas


def epoch_batches(
    count: int, batch_size: int, *, seed: int, start_step: int = 0, shard: Shard = WHOLE
) -> tf.data.Dataset:
    """Which examples stand in each batch, from `start_step` on without end.

    Each epoch is a new permutation of the `count` examples, keyed by (seed, epoch); what is left over after
    its last whole batch is dropped. Random changes of the examples may use the keys (seed, -1 - step).

    Returns:
        For every global step `shard.local` elements in turn: (epoch int64, step int64, replica int32,
        example indices int32 [rows]), rows r*g .. (r+1)*g - 1 of the global batch for replica r.
    """
    steps = count // batch_size  # in an epoch
    rows = batch_size // shard.replicas
    first_epoch, first_step = divmod(start_step, steps)

    def of_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count), seed=tf.stack([tf.constant(seed, tf.int64), epoch])
        )
        skip = tf.where(epoch == first_epoch, tf.constant(first_step, tf.int64), 0)
        order = tf.reshape(order[: steps * batch_size], [steps, shard.replicas, rows])
        order = order[skip:, shard.first : shard.first + shard.local]
        step = epoch * steps + tf.range(skip, steps, dtype=tf.int64)
        replica = tf.range(shard.first, shard.first + shard.local)
        step = tf.repeat(step, shard.local)
        return tf.data.Dataset.from_tensor_slices(
            (
                tf.fill(tf.shape(step), epoch),
                step,
                tf.tile(replica, [steps - skip]),
                tf.reshape(order, [-1, rows]),
            )
        )

    return tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(of_epoch)
