"""L-BFGS and Adam on one vector that stays in [0, 1], one evaluation at a time, as pure tensor functions.

    state = start(x)
    repeat: state = advance(state, *loss_and_gradient(state.trial))
    state.best, state.loss     # the best point that was evaluated, and its loss

Whoever evaluates decides how: at once, in tiles, in a Python loop or inside `tf.while_loop`. Every number of
a state is a tensor of it, so a state can be carried through a loop of a graph.
"""

import enum
from typing import NamedTuple

import numpy as np
import tensorflow as tf

MEMORY = 10  # pairs of moves and changes
_FIRST_STEP = 0.1  # how far the first step moves the element that moves furthest
_SUFFICIENT = 1e-4  # Armijo's constant (Nocedal & Wright 2006, section 3.1)
_PATIENCE = 5  # steps in a row that do not descend before L-BFGS forgets its memory


class Minimizer(enum.StrEnum):
    """How the loss is minimised."""

    LBFGS = "lbfgs"
    ADAM = "adam"


class Lbfgs(NamedTuple):
    """Between two evaluations of L-BFGS; N is the vector's length, m `MEMORY`."""

    trial: tf.Tensor  # [N], the point to evaluate next
    best: tf.Tensor  # [N], where the current search direction starts
    loss: tf.Tensor  # [], at `best`; infinite before the first evaluation
    gradient: tf.Tensor  # [N], at `best`
    direction: tf.Tensor  # [N]
    step: tf.Tensor  # [], trial = clip(best + step * direction)
    failures: tf.Tensor  # int32 [], steps along this direction that did not descend
    moves: tf.Tensor  # [m + 1, N], a ring of differences of points; the slot after the newest is scratch
    changes: tf.Tensor  # [m + 1, N], of the gradients there
    curvature: tf.Tensor  # [m + 1], their inner products
    stored: tf.Tensor  # int32 [], pairs written so far


def lbfgs_start(x: tf.Tensor, memory: int = MEMORY) -> Lbfgs:
    """L-BFGS (Nocedal & Wright 2006, algorithm 7.5) before its first evaluation, which is of `x`, `[N]`."""
    zeros = tf.zeros_like(x)
    ring = tf.zeros([memory + 1, tf.size(x)])
    return Lbfgs(
        trial=x,
        best=x,
        loss=tf.constant(np.inf, tf.float32),
        gradient=zeros,
        direction=zeros,
        step=tf.constant(0.0),
        failures=tf.constant(0),
        moves=ring,
        changes=ring,
        curvature=tf.zeros([memory + 1]),
        stored=tf.constant(0),
    )


def lbfgs_advance(state: Lbfgs, loss: tf.Tensor, gradient: tf.Tensor) -> Lbfgs:
    """The next state, given loss `[]` and gradient `[N]` at `state.trial`.

    A trial that descends enough (Armijo) becomes the start of the next direction; any other halves the step,
    or less. Elements at 0 or 1 that the gradient pushes further out stay where they are, as in projected
    Newton methods (Bertsekas 1982).
    """
    expected = tf.tensordot(state.gradient, state.trial - state.best, 1)  # negative
    descends = loss <= state.loss + _SUFFICIENT * expected
    return tf.cond(
        descends,
        lambda: _accept(state, loss, gradient),
        lambda: _retreat(state, loss, expected),
    )


def _accept(state: Lbfgs, loss: tf.Tensor, gradient: tf.Tensor) -> Lbfgs:
    size = tf.shape(state.curvature)[0]
    slot = state.stored % size
    move, change = state.trial - state.best, gradient - state.gradient
    curvature = tf.tensordot(move, change, 1)
    # Only a positive curvature keeps the inverse Hessian positive; the first evaluation moved nothing.
    keeps = curvature > 1e-10 * tf.tensordot(change, change, 1)
    moves = tf.tensor_scatter_nd_update(state.moves, [[slot]], move[None])
    changes = tf.tensor_scatter_nd_update(state.changes, [[slot]], change[None])
    curvatures = tf.tensor_scatter_nd_update(state.curvature, [[slot]], [curvature])
    stored = state.stored + tf.cast(keeps, tf.int32)
    return _search(
        state._replace(
            best=state.trial,
            loss=loss,
            gradient=gradient,
            moves=moves,
            changes=changes,
            curvature=curvatures,
            stored=stored,
        )
    )


def _search(state: Lbfgs) -> Lbfgs:
    """A new direction from `best`, and its first trial."""
    outward = tf.where(state.gradient > 0, state.best <= 0, state.best >= 1)
    free = tf.where(outward, 0.0, state.gradient)
    direction = -tf.where(outward, 0.0, _inverse_hessian(state, free))
    # Without a memory the gradient tells no length.
    first = _FIRST_STEP / tf.maximum(tf.reduce_max(tf.abs(direction)), 1e-30)
    step = tf.where(state.stored == 0, first, 1.0)
    return state._replace(
        direction=direction,
        step=step,
        failures=tf.constant(0),
        trial=tf.clip_by_value(state.best + step * direction, 0.0, 1.0),
    )


def _inverse_hessian(state: Lbfgs, vector: tf.Tensor) -> tf.Tensor:
    """The approximation's product with a vector: the two-loop recursion (algorithm 7.4)."""
    size = tf.shape(state.curvature)[0]
    count = tf.minimum(state.stored, size - 1)
    newest = state.stored - 1

    def backward(age, q, weights):
        slot = (newest - age) % size
        weight = tf.tensordot(state.moves[slot], q, 1) / state.curvature[slot]
        return age + 1, q - weight * state.changes[slot], weights.write(age, weight)

    weights = tf.TensorArray(tf.float32, size, clear_after_read=False, element_shape=[])
    _, q, weights = tf.while_loop(
        lambda age, *_: age < count, backward, (tf.constant(0), vector, weights), parallel_iterations=1
    )
    change = state.changes[newest % size]
    scale = state.curvature[newest % size] / tf.tensordot(change, change, 1)
    q *= tf.where(count > 0, scale, 1.0)

    def forward(age, q):
        slot = (newest - age) % size
        weight = tf.tensordot(state.changes[slot], q, 1) / state.curvature[slot]
        return age - 1, q + (weights.read(age) - weight) * state.moves[slot]

    return tf.while_loop(lambda age, _: age >= 0, forward, (count - 1, q), parallel_iterations=1)[1]


def _retreat(state: Lbfgs, loss: tf.Tensor, expected: tf.Tensor) -> Lbfgs:
    """A shorter step: to the minimum of the parabola through what is known, kept in [0.1, 0.5] of the old."""
    rise = loss - state.loss - expected
    shrink = tf.clip_by_value(tf.math.divide_no_nan(-0.5 * expected, rise), 0.1, 0.5)
    step = state.step * tf.where(tf.math.is_finite(loss), shrink, 0.1)
    failures = state.failures + 1
    shorter = state._replace(
        step=step,
        failures=failures,
        trial=tf.clip_by_value(state.best + step * state.direction, 0.0, 1.0),
    )
    return tf.cond(
        failures > _PATIENCE,
        lambda: _search(state._replace(stored=tf.zeros_like(state.stored))),
        lambda: shorter,
    )


class Adam(NamedTuple):
    """Between two evaluations of Adam."""

    trial: tf.Tensor  # [N], the point to evaluate next
    best: tf.Tensor  # [N], of the lowest loss so far
    loss: tf.Tensor  # [], at `best`
    mean: tf.Tensor  # [N], of the gradients
    square: tf.Tensor  # [N], mean of their squares
    done: tf.Tensor  # float32 [], evaluations so far
    total: tf.Tensor  # float32 [], evaluations in all: the rate falls to nothing by a half cosine
    rate: tf.Tensor  # [], the first step's


def adam_start(x: tf.Tensor, steps: tf.Tensor, rate: float) -> Adam:
    """Adam (Kingma & Ba 2014, algorithm 1) before its first evaluation, which is of `x`, `[N]`."""
    zeros = tf.zeros_like(x)
    return Adam(
        trial=x,
        best=x,
        loss=tf.constant(np.inf, tf.float32),
        mean=zeros,
        square=zeros,
        done=tf.constant(0.0),
        total=tf.cast(steps, tf.float32),
        rate=tf.constant(rate),
    )


def adam_advance(state: Adam, loss: tf.Tensor, gradient: tf.Tensor) -> Adam:
    """The next state, given loss `[]` and gradient `[N]` at `state.trial`."""
    # A short memory for the squares, as the first gradients of a style are large: 100 evaluations at 128x128
    # leave 1.2 times L-BFGS' loss, with 0.99 at the same rate 1.7 times. Below beta1² a step outlives its
    # gradient.
    beta1, beta2 = 0.9, 0.85
    done = state.done + 1.0
    mean = beta1 * state.mean + (1.0 - beta1) * gradient
    square = beta2 * state.square + (1.0 - beta2) * tf.square(gradient)
    rate = state.rate * 0.5 * (1.0 + tf.cos(np.pi * state.done / state.total))
    step = rate * (mean / (1.0 - beta1**done)) / (tf.sqrt(square / (1.0 - beta2**done)) + 1e-8)
    lower = loss < state.loss
    return state._replace(
        trial=tf.clip_by_value(state.trial - step, 0.0, 1.0),
        best=tf.where(lower, state.trial, state.best),
        loss=tf.where(lower, loss, state.loss),
        mean=mean,
        square=square,
        done=done,
    )
