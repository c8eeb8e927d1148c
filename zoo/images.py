"""Encoded pictures inside a graph."""

import tensorflow as tf


def decode_images(image_bytes: tf.Tensor, image_shape: tuple[int, int, int]) -> tf.Tensor:
    """PNG, JPEG, GIF, BMP or WebP strings `[B]` → float32 `[B, H, W, C]` in `[0, 1]`.

    Each picture is decoded by itself, so one batch may mix formats and sizes, and is resized with
    antialiasing to `image_shape`; its aspect ratio is not kept, as in training.

    Raises:
        tf.errors.InvalidArgumentError: for a string that is no picture, when the graph runs.
    """
    height, width, channels = image_shape

    def decode(encoded: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(encoded, channels=channels, expand_animations=False)
        image.set_shape([None, None, channels])
        image = tf.image.resize(tf.cast(image, tf.float32) / 255.0, [height, width], antialias=True)
        return tf.clip_by_value(image, 0.0, 1.0)

    return tf.map_fn(
        decode, image_bytes, fn_output_signature=tf.TensorSpec(image_shape, tf.float32)
    )
