"""Blocks that more than one family uses."""

import keras
import tensorflow as tf


class Network(keras.Model):
    """A functional network whose outputs are float32, whatever its layers compute in: losses, and what is
    shown, need the digits that mixed precision saves inside."""

    def call(self, inputs, training=None, mask=None):
        outputs = super().call(inputs, training=training, mask=mask)
        return tf.nest.map_structure(lambda x: tf.cast(x, tf.float32), outputs)


def batch_norm(name: str, momentum: float = 0.99) -> keras.layers.BatchNormalization:
    """Batch normalization whose statistics are those of the *global* batch.

    Without `synchronized=True` the replicas' moving averages drift apart under `tf.distribute`, and
    only the first replica's are saved.
    """
    return keras.layers.BatchNormalization(momentum=momentum, synchronized=True, name=name)


def checked_label(label: tf.Tensor, lowest: int, classes: int) -> tf.Tensor:
    """The int `[B]` labels as they are; running the graph fails where one is outside
    `[lowest, classes)`, since a one-hot of it would be all zeros and the answer of no class."""
    message = f"a label is outside the range {lowest} to {classes - 1}"
    checks = [
        tf.debugging.assert_greater_equal(label, lowest, message),
        tf.debugging.assert_less(label, classes, message),
    ]
    with tf.control_dependencies([c for c in checks if c is not None]):
        return tf.identity(label)
