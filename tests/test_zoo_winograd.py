"""Winograd's convolution is the direct one, of any size, and so is its gradient."""

import numpy as np
import pytest
import tensorflow as tf

from zoo import winograd


def _normal(seed, *shape):
    return tf.random.stateless_normal(shape, [seed, 0])


def test_one_tile_by_hand():
    image = tf.reshape(tf.range(16.0), [1, 4, 4, 1])
    left = tf.constant([[0.0, 0, 0], [1, 0, 0], [0, 0, 0]])[:, :, None, None]  # neighbour, for each
    got = winograd.conv2d(image, winograd.transform(left))[0, :, :, 0]
    expected = [[0, 0, 1, 2], [0, 4, 5, 6], [0, 8, 9, 10], [0, 12, 13, 14]]
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 8, 8, 3), (2, 5, 7, 4), (3, 1, 1, 2), (1, 2, 9, 5), (2, 16, 4, 1)])
def test_values_and_gradient_are_those_of_the_direct_convolution(shape):
    x, kernel = _normal(1, *shape), _normal(2, 3, 3, shape[3], 6)
    pull = _normal(3, *shape[:3], 6)

    def both(convolution):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = convolution(x)
        return y, tape.gradient(y, x, output_gradients=pull)

    made = winograd.transform(kernel)
    winograds = both(lambda x: winograd.conv2d(x, made))
    for got, expected in zip(winograds, both(lambda x: tf.nn.conv2d(x, kernel, 1, "SAME")), strict=True):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_sizes_may_be_known_only_when_the_graph_runs():
    kernel = _normal(2, 3, 3, 4, 5)
    made = winograd.transform(kernel)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 4])])
    def convolved(x):
        return winograd.conv2d(x, made)

    for size in (4, 6, 11):
        x = _normal(size, 1, size, size + 1, 4)
        np.testing.assert_allclose(convolved(x), tf.nn.conv2d(x, kernel, 1, "SAME"), atol=1e-4)
