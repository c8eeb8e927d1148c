"""The trainer's optimizers against Keras'."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from train import optimizers

SIZES = {"kernel": (5, 4), "bias": (4,), "table": (6, 3)}


def _optimizer(ours, decay):
    kinds = (optimizers.AdamW, optimizers.Adam) if ours else (keras.optimizers.AdamW, keras.optimizers.Adam)
    settings = {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.95}
    if not decay:
        return kinds[1](**settings)
    optimizer = kinds[0](weight_decay=0.2, **settings)
    if not ours:
        optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return optimizer


def _variables():
    random = np.random.default_rng(0)
    return {
        name: keras.Variable(random.normal(size=size), dtype="float32", name=name)
        for name, size in SIZES.items()
    }


def _steps(optimizer, variables, dense, steps=4):
    """What a few steps make of the variables and of the optimizer's own; `dense`: the gradients of each row
    of the table are summed before."""
    optimizer.build(list(variables.values()))
    random = np.random.default_rng(1)

    @tf.function
    def step(target, rows):
        with tf.GradientTape() as tape:
            looked_up = tf.gather(variables["table"].value, rows)  # its gradient is tf.IndexedSlices
            outputs = target @ variables["kernel"].value + variables["bias"].value
            loss = tf.reduce_sum(outputs**2) + tf.reduce_sum(tf.sin(looked_up))
        gradients = tape.gradient(loss, [v.value for v in variables.values()])
        assert isinstance(gradients[2], tf.IndexedSlices)
        if dense:
            gradients[2] = tf.convert_to_tensor(gradients[2])
        optimizer.apply(gradients, list(variables.values()))

    for _ in range(steps):
        step(tf.constant(random.normal(size=(3, 5)), tf.float32), tf.constant([2, 0, 2, 5]))
    return [v.numpy() for v in (*variables.values(), *optimizer.variables)]


@pytest.mark.parametrize("decay", [False, True])
def test_a_fused_step_is_keras_step(decay):
    ours = _steps(_optimizer(True, decay), _variables(), dense=False)
    theirs = _steps(_optimizer(False, decay), _variables(), dense=True)
    for ours_value, theirs_value in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(ours_value, theirs_value, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_of_keras_adam_goes_on(tmp_path):
    variables = _variables()
    theirs = _optimizer(False, True)
    _steps(theirs, variables, dense=True)
    path = tf.train.Checkpoint(optimizer=theirs).save(str(tmp_path / "c"))
    learnt = [v.numpy() for v in variables.values()]
    want = _steps(theirs, variables, dense=True, steps=2)

    for variable, value in zip(variables.values(), learnt, strict=True):
        variable.assign(value)
    ours = _optimizer(True, True)
    ours.build(list(variables.values()))
    tf.train.Checkpoint(optimizer=ours).restore(path).assert_consumed()
    found = _steps(ours, variables, dense=True, steps=2)
    for ours_value, theirs_value in zip(found, want, strict=True):
        np.testing.assert_allclose(ours_value, theirs_value, rtol=1e-5, atol=1e-6)


def test_gradients_of_a_row_that_is_looked_up_twice_are_summed_before_they_are_squared():
    table = keras.Variable(np.zeros([2, 1]), dtype="float32")
    optimizer = optimizers.Adam(0.1, beta_2=0.5)
    optimizer.build([table])
    optimizer.apply([tf.IndexedSlices(tf.constant([[1.0], [2.0]]), tf.constant([1, 1]), [2, 1])], [table])
    velocity = next(v for v in optimizer.variables if "velocity" in v.path)
    np.testing.assert_allclose(velocity, [[0.0], [0.5 * 3.0**2]])


def test_amsgrad_is_keras():
    ours, theirs = (
        _steps(kind(0.1, amsgrad=True), _variables(), dense=True)
        for kind in (optimizers.Adam, keras.optimizers.Adam)
    )
    for ours_value, theirs_value in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(ours_value, theirs_value)
