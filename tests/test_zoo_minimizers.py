"""L-BFGS and Adam on functions whose minima are known."""

import numpy as np
import pytest
import tensorflow as tf

from zoo import minimizers

BOWL_MINIMUM = np.float32([0.2, 0.8, 0.5, 0.0, 1.0])


def _bowl(x):
    """Convex, of scales 1 to 10,000; two coordinates have their free minimum outside [0, 1]."""
    scale = tf.constant([1.0, 10.0, 100.0, 1000.0, 10000.0])
    away = x - tf.constant([0.2, 0.8, 0.5, -0.3, 1.7])
    return tf.reduce_sum(scale * tf.square(away))


def _valley(x):
    """Rosenbrock's banana over [-2, 2] x [-2, 2], as [0, 1] x [0, 1]: the minimum is at (1, 1)."""
    a, b = 4.0 * x[0] - 2.0, 4.0 * x[1] - 2.0
    return (1.0 - a) ** 2 + 100.0 * (b - a * a) ** 2


def _minimise(function, state, advance, evaluations):
    losses = []
    for _ in range(evaluations):
        x = state.trial
        assert np.all((x.numpy() >= 0) & (x.numpy() <= 1))
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = function(x)
        state = advance(state, loss, tape.gradient(loss, x))
        losses.append(float(state.loss))
    assert float(function(state.best)) == losses[-1]
    assert losses == sorted(losses, reverse=True)
    return state.best.numpy()


def test_lbfgs_finds_the_minimum_of_a_bowl_within_the_bounds():
    start = minimizers.lbfgs_start(tf.fill([5], 0.5))
    found = _minimise(_bowl, start, tf.function(minimizers.lbfgs_advance), 60)
    np.testing.assert_allclose(found, BOWL_MINIMUM, atol=1e-4)


@pytest.mark.parametrize("memory", [2, 10])
def test_lbfgs_follows_a_bent_valley(memory):
    start = minimizers.lbfgs_start(tf.constant([0.2, 0.75]), memory)
    found = _minimise(_valley, start, tf.function(minimizers.lbfgs_advance), 120)
    np.testing.assert_allclose(found, [0.75, 0.75], atol=1e-3)


def test_adam_finds_the_minimum_of_a_bowl_within_the_bounds():
    start = minimizers.adam_start(tf.fill([5], 0.5), tf.constant(300), 0.1)
    found = _minimise(_bowl, start, tf.function(minimizers.adam_advance), 300)
    np.testing.assert_allclose(found, BOWL_MINIMUM, atol=1e-2)


def test_lbfgs_goes_back_from_where_the_loss_is_no_number():
    start = minimizers.lbfgs_start(tf.constant([0.5, 0.5]))
    state = minimizers.lbfgs_advance(start, tf.constant(4.0), tf.constant([1.0, 0.0]))
    np.testing.assert_allclose(state.trial, [0.4, 0.5])  # a first step of 0.1 downhill
    state = minimizers.lbfgs_advance(state, tf.constant(np.nan), tf.constant([np.nan, np.nan]))
    np.testing.assert_allclose(state.trial, [0.49, 0.5], rtol=1e-6)
    assert float(state.loss) == 4.0
    np.testing.assert_allclose(state.best, [0.5, 0.5])


def test_the_loop_runs_inside_a_graph():
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def minimise(x):
        def step(done, state):
            with tf.GradientTape() as tape:
                tape.watch(state.trial)
                loss = _bowl(state.trial)
            return done + 1, minimizers.lbfgs_advance(state, loss, tape.gradient(loss, state.trial))

        return tf.while_loop(lambda n, _: n < 60, step, (0, minimizers.lbfgs_start(x)))[1].best

    np.testing.assert_allclose(minimise(tf.fill([5], 0.5)), BOWL_MINIMUM, atol=1e-4)
