"""Blocks that more than one family uses."""

import keras


def batch_norm(name: str, momentum: float = 0.99) -> keras.layers.BatchNormalization:
    """Batch normalization whose statistics are those of the *global* batch.

    Without `synchronized=True` the replicas' moving averages drift apart under `tf.distribute`, and
    only the first replica's are saved.
    """
    return keras.layers.BatchNormalization(momentum=momentum, synchronized=True, name=name)
