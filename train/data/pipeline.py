"""Batches of images for training and evaluation, by tf.data: see `train.data.dataset` for what they keep."""

from __future__ import annotations

import dataclasses
import enum
import math
from typing import TYPE_CHECKING

import tensorflow as tf

from train.data import dataset
from train.data.dataset import WHOLE, Shard
from zoo.errors import UserError

if TYPE_CHECKING:
    from train.data.images import Images

# Rectangle sizes and aspect ratios of random erasing: the paper's values.
_ERASE_AREA = (0.02, 0.4)
_ERASE_ASPECT = (0.3, 1 / 0.3)


class Fill(enum.StrEnum):
    """What moves in from outside when an image is shifted, rotated or shrunk."""

    CONSTANT = "constant"  # black
    REFLECT = "reflect"  # the image, mirrored


@dataclasses.dataclass
class Augment:
    """Random changes of training images; the defaults change nothing."""

    flip: bool = False  # mirror left-right, for every second image
    shift: int = 0  # move by up to so many whole pixels along each axis
    rotate: float = 0.0  # turn by up to so many degrees, either way
    zoom: float = 0.0  # enlarge by a factor in 1 - zoom .. 1 + zoom, 0 <= zoom < 1
    erase: float = 0.0  # probability of painting over a random rectangle (Zhong et al. 2017)
    fill: Fill = Fill.CONSTANT

    def validate(self) -> None:
        """Raises UserError if a field is out of its range."""
        if self.shift < 0:
            raise UserError(f"augment.shift is {self.shift}; expected 0 or more pixels")
        if not 0 <= self.rotate <= 180:
            raise UserError(f"augment.rotate is {self.rotate}; expected degrees in 0..180")
        if not 0 <= self.zoom < 1:
            raise UserError(f"augment.zoom is {self.zoom}; expected 0 <= zoom < 1")
        if not 0 <= self.erase <= 1:
            raise UserError(f"augment.erase is {self.erase}; expected a probability in 0..1")
        if self.fill not in list(Fill):
            raise UserError(f"augment.fill is '{self.fill}'; expected one of: {', '.join(Fill)}")


def train_batches(
    images: Images,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    augment: Augment,
    shard: Shard = WHOLE,
) -> tf.data.Dataset:
    """Endless training batches from step `start_step` on.

    Args:
        images: the split to train on; copied once into a tensor.
        batch_size: global batch size, a multiple of `shard.replicas`.
        seed: of order and augmentation.
        start_step: global steps already done; costs nothing to skip.
        augment: random changes, keyed by (seed, step, row).
        shard: the replicas that this input pipeline feeds.

    Returns:
        For every global step `shard.local` elements in turn: (image float32 [g, H, W, C] in
        [0, 1], label int32 [g]), g = batch_size / shard.replicas, rows r*g .. (r+1)*g - 1 of the
        global batch for replica r. With batch_size=64 and two replicas: [32, H, W, C] each.

    Raises:
        UserError: the set is smaller than a batch, or the batch size or augmentation is illegal.
    """
    augment.validate()
    count, height, width, channels = images.images.shape
    rows = dataset.rows_of_replica(batch_size, count, "images", shard)
    all_images, all_labels = _as_tensors(images)

    def batch(
        epoch: tf.Tensor, step: tf.Tensor, replica: tf.Tensor, index: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        x = tf.gather(all_images, index)  # [rows, H, W, C] uint8
        # Drawn and turned into parameters for the whole global batch, of which this replica takes
        # its rows: vectorised kernels round the last few elements of a vector differently, so
        # computing on a part alone could change a row's last bit. The key is negative because
        # epochs use the keys from 0 on.
        draws = tf.random.stateless_uniform(
            [batch_size, _DRAWS], seed=tf.stack([tf.constant(seed, tf.int64), -1 - step])
        )
        mine = slice(replica * rows, (replica + 1) * rows)
        if augment.rotate or augment.zoom:
            x = tf.image.convert_image_dtype(x, tf.float32)
            x = _move(x, _transforms(draws, augment, height, width)[mine], augment, "BILINEAR")
        elif augment.flip or augment.shift:
            # Whole pixels move: no interpolation needed, and bytes move faster than floats.
            x = _move(x, _transforms(draws, augment, height, width)[mine], augment, "NEAREST")
        x = tf.image.convert_image_dtype(x, tf.float32)  # [0, 255] to [0, 1], where still uint8
        if augment.erase:
            x = _erase(x, _boxes(draws, augment, height, width)[mine], draws[mine])
        return (
            tf.ensure_shape(x, [rows, height, width, channels]),
            tf.ensure_shape(tf.gather(all_labels, index), [rows]),
        )

    return (
        dataset.epoch_batches(count, batch_size, seed=seed, start_step=start_step, shard=shard)
        .map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def eval_batches(images: Images, batch_size: int) -> tf.data.Dataset:
    """The whole split once, in order and as it is; the last batch may be smaller.

    Returns:
        (image float32 [b, H, W, C] in [0, 1], label int32 [b]), b <= batch_size.
    """
    all_images, all_labels = _as_tensors(images)

    def batch(start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = all_images[start : start + batch_size]
        return tf.image.convert_image_dtype(x, tf.float32), all_labels[start : start + batch_size]

    return (
        tf.data.Dataset.range(0, len(images.labels), batch_size)
        .map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def _as_tensors(images: Images) -> tuple[tf.Tensor, tf.Tensor]:
    """Eager tensors in host memory: captured by reference, so no graph holds (or limits) them."""
    with tf.device("CPU:0"):
        return tf.constant(images.images), tf.constant(images.labels)


# Columns of the draws, uniform in [0, 1); fixed, so that switching one change on or off leaves the
# others as they were.
_FLIP, _DX, _DY, _ANGLE, _ZOOM, _ERASE, _AREA, _ASPECT, _TOP, _LEFT, _COLOUR = range(11)
_DRAWS = _COLOUR + 3


def _transforms(draws: tf.Tensor, augment: Augment, height: int, width: int) -> tf.Tensor:
    """Flip, shift, rotation and zoom as one transform per image: [N, 8], for `_move`."""
    angle = (2 * draws[:, _ANGLE] - 1) * math.radians(augment.rotate)
    scale = 1 / (1 + (2 * draws[:, _ZOOM] - 1) * augment.zoom)
    mirror = tf.where(draws[:, _FLIP] < 0.5, -1.0, 1.0) if augment.flip else tf.ones_like(angle)
    dx, dy = (
        tf.floor(draws[:, d] * (2 * augment.shift + 1)) - augment.shift for d in (_DX, _DY)
    )  # whole pixels, -shift .. shift
    # The op asks for the input position of each output position (u, v); about the centre (p, q):
    #   x = p + mirror * (cos (u - p) - sin (v - q)) * scale + dx
    #   y = q +          (sin (u - p) + cos (v - q)) * scale + dy
    p, q = (width - 1) / 2, (height - 1) / 2
    a, b = mirror * scale * tf.cos(angle), -mirror * scale * tf.sin(angle)
    c, d = scale * tf.sin(angle), scale * tf.cos(angle)
    zero = tf.zeros_like(a)
    return tf.stack(
        [a, b, p - a * p - b * q + dx, c, d, q - c * p - d * q + dy, zero, zero], axis=1
    )


def _move(x: tf.Tensor, transforms: tf.Tensor, augment: Augment, interpolation: str) -> tf.Tensor:
    """Applies one projective transform [8] to each image of [N, H, W, C]."""
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=x,
        transforms=transforms,
        output_shape=x.shape[1:3],
        fill_value=0.0,
        interpolation=interpolation,
        fill_mode=augment.fill.upper(),
    )


def _boxes(draws: tf.Tensor, augment: Augment, height: int, width: int) -> tf.Tensor:
    """Rectangles to erase, [N, 4]: top, left, bottom, right; empty where nothing is erased."""
    area = _ERASE_AREA[0] + draws[:, _AREA] * (_ERASE_AREA[1] - _ERASE_AREA[0])
    low, high = (math.log(v) for v in _ERASE_ASPECT)
    aspect = tf.exp(low + draws[:, _ASPECT] * (high - low))
    h = tf.minimum(tf.sqrt(area * height * width * aspect), height)
    w = tf.minimum(tf.sqrt(area * height * width / aspect), width)
    h = tf.where(draws[:, _ERASE] < augment.erase, h, 0)
    top, left = draws[:, _TOP] * (height - h), draws[:, _LEFT] * (width - w)
    return tf.stack([top, left, top + h, left + w], axis=1)


def _erase(x: tf.Tensor, boxes: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Random erasing (Zhong et al. 2017, https://arxiv.org/abs/1708.04896) of float [N, H, W, C].

    The rectangle gets one random colour; the paper's noise per pixel would cost more than all else.
    """
    _, height, width, channels = x.shape
    top, left, bottom, right = (boxes[:, i, None] for i in range(4))  # [N, 1]
    y, z = tf.range(height, dtype=tf.float32), tf.range(width, dtype=tf.float32)
    inside_y = (y >= top) & (y < bottom)  # [N, H]
    inside_x = (z >= left) & (z < right)  # [N, W]
    mask = inside_y[:, :, None] & inside_x[:, None, :]
    colour = draws[:, None, None, _COLOUR : _COLOUR + channels]
    return tf.where(mask[..., None], colour, x)
