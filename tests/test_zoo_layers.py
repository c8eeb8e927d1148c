"""The project's layers against Keras' own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo import layers


def _pair(shape):
    """The project's batch normalization and Keras', with the same weights, none as they start."""
    ours, theirs = layers.BatchNormalization(momentum=0.9), keras.layers.BatchNormalization(momentum=0.9)
    random = np.random.default_rng(0)
    for layer in (ours, theirs):
        layer.build((None, *shape))
    for ours_weight, theirs_weight in zip(ours.weights, theirs.weights, strict=True):
        value = random.uniform(0.5, 1.5, ours_weight.shape)
        ours_weight.assign(value)
        theirs_weight.assign(value)
    return ours, theirs


def _learnt(layer, x, training=True):
    """Outputs, gradients of something that depends on all of them, and the weights afterwards."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training)
        loss = tf.reduce_sum(tf.sin(3.0 * tf.cast(y, tf.float32)))
    gradients = tape.gradient(loss, [x, *layer.trainable_variables])
    return [y, *gradients, *layer.weights]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(5, 6, 3), (4,), (1, 1, 2)], ids=str)
def test_batch_normalization_is_keras(shape, training):
    x = tf.constant(np.random.default_rng(1).normal(2.0, 3.0, (7, *shape)), tf.float32)
    ours, theirs = (_learnt(layer, x, training) for layer in _pair(shape))
    for ours_value, theirs_value in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(ours_value, theirs_value, rtol=2e-4, atol=2e-5)


def test_one_replica_learns_through_one_operation_and_two_do_not(mirrored):
    layer, _ = _pair((5, 6, 3))

    def operations(**options):
        function = tf.function(lambda x: layer(x, **options))
        traced = function.get_concrete_function(tf.TensorSpec([7, 5, 6, 3]))
        return {operation.type for operation in traced.graph.get_operations()}

    assert "FusedBatchNormV3" in operations(training=True)
    with mirrored.scope():
        assert "FusedBatchNormV3" not in operations(training=True)


def test_batch_normalization_is_rebuilt_from_its_configuration():
    layer = layers.BatchNormalization(momentum=0.9, name="one")
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(again) is layers.BatchNormalization
    assert again.get_config() == layer.get_config()


def test_batch_normalization_of_one_number_is_its_offset():
    layer = layers.BatchNormalization(name="one")
    y = layer(tf.fill([1, 1, 1, 2], 5.0), training=True)
    np.testing.assert_allclose(y, np.zeros([1, 1, 1, 2]), atol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, [0.99, 0.99], atol=1e-6)


def test_what_is_frozen_normalizes_by_its_averages():
    layer, _ = _pair((5, 6, 3))
    layer.trainable = False
    x = tf.constant(np.random.default_rng(1).normal(2.0, 3.0, (7, 5, 6, 3)), tf.float32)
    before = [w.numpy() for w in layer.weights]
    np.testing.assert_allclose(layer(x, training=True), layer(x, training=False))
    for weight, value in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_batch_normalization_in_bfloat16_keeps_statistics_in_float32():
    keras_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        ours, theirs = _pair((5, 6, 3))
    finally:
        keras.config.set_dtype_policy(keras_policy)
    x = tf.constant(np.random.default_rng(1).normal(2.0, 3.0, (7, 5, 6, 3)), tf.bfloat16)
    y = ours(x, training=True)
    assert y.dtype == tf.bfloat16
    np.testing.assert_allclose(y, tf.cast(theirs(x, training=True), tf.float32), atol=0.05)
    np.testing.assert_allclose(ours.moving_mean, theirs.moving_mean, rtol=1e-3)
    np.testing.assert_allclose(ours.moving_variance, theirs.moving_variance, rtol=1e-3)
