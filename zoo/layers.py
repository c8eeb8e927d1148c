"""Blocks that more than one family uses."""

import keras
import tensorflow as tf


class Network(keras.Model):
    """A functional network whose outputs are float32, whatever its layers compute in: losses, and what is
    shown, need the digits that mixed precision saves inside."""

    def call(self, inputs, training=None, mask=None):
        outputs = super().call(inputs, training=training, mask=mask)
        return tf.nest.map_structure(lambda x: tf.cast(x, tf.float32), outputs)


@keras.saving.register_keras_serializable("atelier")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization whose statistics are those of the *global* batch.

    Unsynchronized, the replicas' moving averages drift apart under `tf.distribute`, and only the first
    replica's are saved. Keras' synchronized form is a dozen operations, though; where one replica has the
    whole batch, feature maps are learnt through TensorFlow's fused one, whose result is the same.
    """

    def __init__(self, synchronized: bool = True, **options):
        super().__init__(synchronized=synchronized, **options)

    def call(self, inputs, training=None, mask=None):
        alone = tf.distribute.get_strategy().num_replicas_in_sync == 1
        plain = self.scale and self.center and not self.renorm and mask is None
        maps = len(inputs.shape) == 4 and self.axis in (-1, 3)
        if not (training and self.trainable and alone and plain and maps):
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=tf.zeros([0]),  # looked at in inference alone
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], variance.dtype)
        variance *= (count - 1.0) / count  # its estimate is the unbiased one, Keras' is not
        for moving, statistic in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + statistic * (1.0 - self.momentum))
        return outputs


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
