"""3x3 convolutions with a quarter of the multiplications: Winograd's minimal filtering F(4x4, 3x3).

Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks" (CVPR, arXiv:1509.09308), section 4:
Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A for each tile of 4x4 outputs, of which d are the 6x6 inputs. What TensorFlow
and PyTorch run on CPUs (oneDNN) multiplies directly; GPUs' libraries have this already. It is worth its
additions where there are many channels: with the gradient, 256 to 256 at 64x64 take 0.7 of the direct time,
512 to 512 at 32x32 take 0.4, but 64 to 64 at 256x256 take 1.6 (two cores of a Xeon at 2.5 GHz). Results
differ from the direct ones by some 1e-5 of their size.
"""

import numpy as np
import tensorflow as tf

Matrix = list[list[float]]

_TILE = 4  # outputs a side
_SEEN = 6  # inputs a side

_BT: Matrix = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_G: Matrix = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_AT: Matrix = [
    [1, 1, 1, 1, 1, 0],
    [0, 1, -1, 2, -2, 0],
    [0, 1, 1, 4, 4, 0],
    [0, 1, -1, 8, -8, 1],
]


def _both_sides(matrix: Matrix) -> tf.Tensor:
    """M such that M vec(x) = vec(matrix x matrixᵀ): float32 `[rows², columns²]`."""
    return tf.constant(np.kron(matrix, matrix), tf.float32)


def transform(kernel: tf.Tensor) -> tf.Tensor:
    """G g Gᵀ of a kernel float32 `[3, 3, C, K]`: `[36, C, K]`, for `conv2d`."""
    channels, maps = kernel.shape[2:]
    flat = tf.matmul(_both_sides(_G), tf.reshape(kernel, [9, channels * maps]))
    return tf.reshape(flat, [_SEEN**2, channels, maps])


def conv2d(x: tf.Tensor, transformed: tf.Tensor) -> tf.Tensor:
    """What `tf.nn.conv2d(x, kernel, 1, "SAME")` returns.

    Args:
        x: float32 `[B, H, W, C]`, any size.
        transformed: of the kernel.

    Returns:
        float32 `[B, H, W, K]`.
    """
    _, channels, maps = transformed.shape
    batch, height, width = tf.unstack(tf.shape(x)[:3])
    down, across = -(-height // _TILE), -(-width // _TILE)  # tiles
    block, overlap = [_TILE, _TILE], _SEEN - _TILE
    padding = [[1, _TILE * (down + 1) - height - 1], [1, _TILE * (across + 1) - width - 1]]
    # [4, 4, B, down + 1, across + 1, C]; then [6, 6, B, down, across, C]: the last two rows and columns that
    # a tile sees are the first two of the next one. With as few dimensions as will do, and by tf.slice: the
    # gradients of other slices take longer than all the rest.
    y = tf.space_to_batch(x, block, padding)
    row = (across + 1) * channels
    y = tf.reshape(y, [_TILE**2 * batch, down + 1, row])
    next_rows = tf.slice(y, [0, 1, 0], [overlap * _TILE * batch, down, row])
    y = tf.concat([tf.slice(y, [0, 0, 0], [_TILE**2 * batch, down, row]), next_rows], 0)
    lines = batch * down
    y = tf.reshape(y, [_SEEN, _TILE * lines, across + 1, channels])
    next_columns = tf.slice(y, [0, 0, 1, 0], [_SEEN, overlap * lines, across, channels])
    y = tf.concat([tf.slice(y, [0, 0, 0, 0], [_SEEN, _TILE * lines, across, channels]), next_columns], 1)

    tiles = lines * across
    y = tf.matmul(_both_sides(_BT), tf.reshape(y, [_SEEN**2, tiles * channels]))
    y = tf.matmul(tf.reshape(y, [_SEEN**2, tiles, channels]), transformed)
    y = tf.matmul(_both_sides(_AT), tf.reshape(y, [_SEEN**2, tiles * maps]))
    y = tf.reshape(y, [_TILE**2 * batch, down, across, maps])
    return tf.batch_to_space(y, block, [[0, _TILE * down - height], [0, _TILE * across - width]])
