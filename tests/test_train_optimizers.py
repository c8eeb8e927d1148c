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


def test_orthogonalized_keeps_the_singular_vectors_and_brings_the_values_near_one():
    random = np.random.default_rng(0)
    for rows, columns in ((40, 12), (12, 40), (9, 9)):
        matrix = random.normal(size=(rows, columns)).astype(np.float32)
        found = optimizers.orthogonalized(tf.constant(matrix)).numpy()
        u, _, v = np.linalg.svd(matrix, full_matrices=False)
        in_their_basis = u.T @ found @ v.T
        np.testing.assert_allclose(in_their_basis - np.diag(np.diag(in_their_basis)), 0.0, atol=1e-4)
        assert (np.diag(in_their_basis) > 0.3).all() and (np.diag(in_their_basis) < 1.3).all()
    np.testing.assert_array_equal(optimizers.orthogonalized(tf.zeros([4, 3])), np.zeros([4, 3]))


def test_muon_steps_hidden_convolutions_along_their_orthogonalized_momentum_and_all_else_as_adam():
    random = np.random.default_rng(0)
    shapes = {"kernel": (3, 3, 4, 8), "dense": (6, 5), "output": (1, 1, 8, 3), "bias": (8,)}
    before = {name: random.normal(size=size).astype(np.float32) for name, size in shapes.items()}
    gradients = [
        {name: random.normal(size=size).astype(np.float32) for name, size in shapes.items()} for _ in range(2)
    ]
    variables = {name: keras.Variable(value, name=name) for name, value in before.items()}
    muon = optimizers.Muon(0.06, adam_ratio=0.5)
    muon.build(list(variables.values()))
    expected = {name: keras.Variable(before[name], name=name) for name in ("dense", "output", "bias")}
    adam = optimizers.Adam(0.03)
    adam.build(list(expected.values()))
    for gradient in gradients:
        muon.apply([tf.constant(gradient[name]) for name in shapes], list(variables.values()))
        adam.apply([tf.constant(gradient[name]) for name in expected], list(expected.values()))
    for name, variable in expected.items():
        np.testing.assert_array_equal(variables[name].numpy(), variable.numpy())

    first, second = (gradient["kernel"] for gradient in gradients)
    kernel = before["kernel"]
    # By hand: m = 0.05 g; ahead = 0.95 m + 0.05 g; then once more.
    momentum = 0.05 * first
    for ahead in (
        0.95 * momentum + 0.05 * first,
        0.95 * (0.95 * momentum + 0.05 * second) + 0.05 * second,
    ):
        direction = optimizers.orthogonalized(tf.constant(ahead.reshape(36, 8))).numpy()
        kernel = kernel - 0.06 * 0.2 * 6.0 * direction.reshape(kernel.shape)
    np.testing.assert_allclose(variables["kernel"].numpy(), kernel, atol=1e-5)


def test_a_muon_of_a_checkpoint_goes_on_as_it_was():
    muon = optimizers.Muon(0.1, momentum=0.8, adam_ratio=0.3)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(muon))
    assert (again.momentum, again.adam_ratio) == (0.8, 0.3)
