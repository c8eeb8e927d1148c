"""Random numbers that depend on nothing but their seeds.

Training noise is keyed to the *global* batch and serving noise to the *row*, so that neither the
number of replicas nor the rows that share a batch change a value.
"""

from collections.abc import Callable

import tensorflow as tf


def replica_normal(rows: int | tf.Tensor, width: int, seed: int, stream: int, step) -> tf.Tensor:
    """This replica's rows of the standard normal noise of the global batch.

    Every replica draws the whole `[replicas * rows, width]` array and keeps its own rows: one device
    and N replicas see the same noise.

    Args:
        rows: rows of one replica's batch.
        width: numbers in a row.
        seed: the run's seed.
        stream: tells apart several draws of one step.
        step: scalar int64, the step that draws.

    Returns:
        float32 `[rows, width]`.
    """
    return _replica_rows(tf.random.stateless_normal, rows, width, seed, stream, step)


def replica_uniform(rows: int | tf.Tensor, width: int, seed: int, stream: int, step) -> tf.Tensor:
    """The same for uniform numbers in `[0, 1)`."""
    return _replica_rows(tf.random.stateless_uniform, rows, width, seed, stream, step)


def _replica_rows(draw: Callable, rows: int | tf.Tensor, width: int, seed: int, stream: int, step):
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync
    base = tf.stack([tf.constant(seed * 1009 + stream, tf.int64), tf.cast(step, tf.int64)])
    noise = draw([replicas * rows, width], seed=base)
    if replicas == 1:
        return noise
    start = tf.cast(context.replica_id_in_sync_group, tf.int32) * rows
    return noise[start : start + rows]


def row_normal(seeds: tf.Tensor, width: int) -> tf.Tensor:
    """Standard normal noise, one row for each seed: int64 `[B]` → float32 `[B, width]`."""
    spec = tf.TensorSpec([width], tf.float32)
    return tf.map_fn(
        lambda seed: tf.random.stateless_normal([width], seed=tf.stack([seed, tf.zeros_like(seed)])),
        seeds,
        fn_output_signature=spec,
    )


def row_index(seeds: tf.Tensor, limit: int) -> tf.Tensor:
    """A uniform integer in `[0, limit)` for each seed: int64 `[B]` → int32 `[B]`.

    Drawn from another stream than `row_normal`: the same seed gives independent values.
    """
    return tf.map_fn(
        lambda seed: tf.random.stateless_uniform(
            [], seed=tf.stack([seed, tf.ones_like(seed)]), maxval=limit, dtype=tf.int32
        ),
        seeds,
        fn_output_signature=tf.TensorSpec([], tf.int32),
    )


def row_uniform(seeds: tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """Uniform numbers in `[0, 1)`, one row for each seed: int64 `[B]` → float32 `[B, width]`.

    Another stream again: independent of `row_normal` and `row_index` of the same seed. A wider draw begins
    with the numbers of a narrower one: a row may be drawn as wide as the widest.
    """
    return tf.map_fn(
        lambda seed: tf.random.stateless_uniform([width], seed=tf.stack([seed, 2 * tf.ones_like(seed)])),
        seeds,
        fn_output_signature=tf.TensorSpec([None], tf.float32),
    )
