"""What a step costs, counted by hand."""

import pytest
import tensorflow as tf

from train import flops


def loop_of(step, *shapes):
    """The trainer's form: a compiled loop over steps."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32), *(tf.TensorSpec(s) for s in shapes)])
    def run(count, *values):
        total = tf.constant(0.0)
        for _ in tf.range(count):
            total += tf.reduce_sum(step(*values))
        return total

    return run.get_concrete_function()


def test_a_matrix_product_is_two_operations_for_each_number_it_multiplies():
    assert flops.of_step(loop_of(tf.matmul, [2, 3], [3, 5]), length=1) == 2 * 2 * 3 * 5
    turned = loop_of(lambda a, b: tf.matmul(a, b, transpose_a=True), [3, 2], [3, 5])
    assert flops.of_step(turned, length=1) == 2 * 2 * 3 * 5


def test_both_gradients_of_a_convolution_cost_what_it_costs():
    def step(image, kernel):
        with tf.GradientTape() as tape:
            tape.watch([image, kernel])
            y = tf.nn.conv2d(image, kernel, strides=2, padding="SAME")
        of_image, of_kernel = tape.gradient(y, [image, kernel])
        return tf.reduce_sum(y) + tf.reduce_sum(of_image) + tf.reduce_sum(of_kernel)

    # Each of 4 x 4 outputs of 5 channels, in 2 images, sees 3 x 3 x 3 numbers.
    once = 2 * (2 * 4 * 4 * 5) * (3 * 3 * 3)
    assert flops.of_step(loop_of(step, [2, 8, 8, 3], [3, 3, 3, 5]), length=1) == 3 * once


def test_a_loop_inside_a_step_turns_once_for_each_symbol_of_a_window():
    def step(x, kernel):
        for _ in tf.range(7):
            x = tf.matmul(x, kernel)
        return x

    assert flops.of_step(loop_of(step, [2, 4], [4, 4]), length=7) == 7 * 2 * 2 * 4 * 4


@pytest.mark.parametrize("shape", [[None, 3], None])
def test_a_graph_without_its_shapes_gives_no_number(shape):
    assert flops.of_step(loop_of(tf.matmul, shape, [3, 5]), length=1) is None
