"""Batches: a pure function of seed, step and row, whatever the replicas and wherever one starts."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from train import strategy as strategy_lib
from train.data.dataset import Shard
from train.data.images import Images
from train.data.pipeline import Augment, Fill, eval_batches, train_batches
from zoo.errors import UserError

_EVERYTHING = Augment(flip=True, shift=2, rotate=20, zoom=0.2, erase=0.5)


def _images(count=50, size=8, channels=1) -> Images:
    """Distinct noise images; the label is the index of the image."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, [count, size, size, channels], dtype=np.uint8)
    return Images(pixels, np.arange(count, dtype=np.int32))


def _take(count, images, **options):
    """`count` elements as one pair of arrays: images [count * g, ...], labels [count * g]."""
    options = {"batch_size": 8, "seed": 1, "augment": Augment()} | options
    batches = list(itertools.islice(train_batches(images, **options), count))
    return tuple(np.concatenate([b[i].numpy() for b in batches]) for i in range(2))


def _assert_same(a, b):
    np.testing.assert_array_equal(a[1], b[1])
    np.testing.assert_array_equal(a[0], b[0])


def test_elements_have_static_shapes_and_types():
    image, label = train_batches(
        _images(channels=3), batch_size=8, seed=0, augment=_EVERYTHING, shard=Shard(replicas=2)
    ).element_spec
    assert (image.shape, image.dtype) == ([4, 8, 8, 3], tf.float32)
    assert (label.shape, label.dtype) == ([4], tf.int32)


def test_without_augmentation_pixels_are_exact():
    images = _images(channels=3)
    x, y = _take(12, images)
    np.testing.assert_array_equal(np.round(x * 255), images.images[y])
    np.testing.assert_allclose(x, images.images[y] / 255, atol=1e-7)


def test_the_same_seed_gives_the_same_batches_and_another_does_not():
    images = _images()
    first = _take(9, images, augment=_EVERYTHING)
    tf.random.set_seed(99)  # must not matter
    _assert_same(first, _take(9, images, augment=_EVERYTHING))
    other = _take(9, images, augment=_EVERYTHING, seed=2)
    assert (first[1] != other[1]).any()


@pytest.mark.parametrize("start", [1, 5, 6, 7, 18, 20])  # 6 steps an epoch
def test_starting_at_a_step_equals_skipping_to_it(start):
    images = _images()
    x, y = _take(start + 9, images, augment=_EVERYTHING)
    resumed = _take(9, images, augment=_EVERYTHING, start_step=start)
    _assert_same((x[start * 8 :], y[start * 8 :]), resumed)


def test_every_epoch_sees_each_image_at_most_once_in_a_new_order():
    epochs = _take(18, _images())[1].reshape(3, 48)
    for epoch in epochs:
        assert len(set(epoch)) == 48  # 50 images, 6 batches of 8: two are left out
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[1] != epochs[2]).any()
    assert set(epochs.ravel()) == set(range(50))


@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_together_see_the_batch_of_one_device(replicas):
    images = _images()
    options = {"augment": _EVERYTHING, "start_step": 4}
    x, y = _take(5, images, **options)
    # One pipeline that feeds all replicas in turn, as on one machine.
    together = _take(
        5 * replicas, images, **options, shard=Shard(replicas, 0, replicas)
    )
    _assert_same((x, y), together)
    # A pipeline for each replica, as on several machines.
    rows = 8 // replicas
    for r in range(replicas):
        alone = _take(5, images, **options, shard=Shard(replicas, r))
        mine = np.arange(40).reshape(5, 8)[:, r * rows : (r + 1) * rows].ravel()
        _assert_same((x[mine], y[mine]), alone)


def test_mirrored_strategy_feeds_replica_r_the_rth_rows():
    images = _images()
    strategy = strategy_lib.make("mirrored")
    shard = strategy_lib.shard(strategy)
    assert shard == Shard(replicas=2, first=0, local=2)
    batches = strategy.distribute_datasets_from_function(
        lambda _: train_batches(
            images,
            batch_size=8,
            seed=1,
            augment=_EVERYTHING,
            shard=shard,
        )
    )
    x, y = next(iter(batches))
    together = tuple(
        np.concatenate([v.numpy() for v in strategy.experimental_local_results(part)])
        for part in (x, y)
    )
    _assert_same(_take(1, images, augment=_EVERYTHING), together)


def test_switching_one_change_on_leaves_the_draws_of_the_others():
    images = _images()
    flipped, y = _take(6, images, augment=Augment(flip=True))
    both, _ = _take(6, images, augment=Augment(flip=True, shift=1, fill=Fill.REFLECT))
    plain = images.images[y] / np.float32(255)
    was_flipped = (np.abs(flipped - plain[:, :, ::-1]) < 1e-6).all(axis=(1, 2, 3))
    candidates = np.where(was_flipped[:, None, None, None], plain[:, :, ::-1], plain)
    for image, candidate in zip(both, candidates, strict=True):
        assert _shift_of(image, candidate, 1, "symmetric") is not None


def _shift_of(image, original, bound, fill):
    """The (dy, dx) within `bound` by which `original` was moved to give `image`, or None."""
    size = original.shape[0]
    padded = np.pad(original, [(bound, bound), (bound, bound), (0, 0)], mode=fill)
    for dy, dx in itertools.product(range(-bound, bound + 1), repeat=2):
        moved = padded[bound + dy :][:size, bound + dx :][:, :size]
        if np.allclose(image, moved, atol=1e-6):
            return dy, dx
    return None


def test_flip_mirrors_about_half_of_the_images():
    images = _images(count=400)
    x, y = _take(50, images, augment=Augment(flip=True))
    plain = images.images[y] / np.float32(255)
    mirrored = (np.abs(x - plain[:, :, ::-1]) < 1e-6).all(axis=(1, 2, 3))
    same = (np.abs(x - plain) < 1e-6).all(axis=(1, 2, 3))
    assert (mirrored ^ same).all()
    assert 0.4 < mirrored.mean() < 0.6  # four standard deviations


@pytest.mark.parametrize(
    ("fill", "numpy_fill"),
    [(Fill.CONSTANT, "constant"), (Fill.REFLECT, "symmetric")],
)
def test_shift_stays_in_bounds_and_reaches_them(fill, numpy_fill):
    images = _images(count=200, channels=3)
    x, y = _take(25, images, augment=Augment(shift=2, fill=fill))
    shifts = {
        _shift_of(image, images.images[i] / np.float32(255), 2, numpy_fill)
        for image, i in zip(x, y, strict=True)
    }
    assert shifts == set(itertools.product(range(-2, 3), repeat=2))


def test_rotation_turns_about_the_centre_within_its_bound():
    size = 33
    dot = np.zeros([size, size, 1], np.uint8)
    dot[15:18, 27:30] = 255  # a blob right of the centre
    images = Images(np.repeat(dot[None], 64, 0), np.zeros(64, np.int32))
    x, _ = _take(8, images, augment=Augment(rotate=30))
    mass = x[..., 0] / x.sum(axis=(1, 2, 3))[:, None, None]
    centre = (size - 1) / 2
    v = (mass.sum(axis=2) * (np.arange(size) - centre)).sum(axis=1)
    u = (mass.sum(axis=1) * (np.arange(size) - centre)).sum(axis=1)
    angles = np.degrees(np.arctan2(v, u))
    assert np.abs(angles).max() < 31
    assert angles.min() < -20
    assert angles.max() > 20
    np.testing.assert_allclose(np.hypot(u, v), 12, atol=0.3)


def test_zoom_scales_within_its_bound():
    size = 33
    square = np.zeros([size, size, 1], np.uint8)
    square[11:22, 11:22] = 255
    images = Images(np.repeat(square[None], 64, 0), np.zeros(64, np.int32))
    x, _ = _take(8, images, augment=Augment(zoom=0.3))
    factor = np.sqrt(x.sum(axis=(1, 2, 3))) / 11
    assert 0.68 < factor.min() < 0.8
    assert 1.2 < factor.max() < 1.32


def test_erase_paints_one_rectangle_of_legal_size_at_its_rate():
    size = 40
    images = Images(np.full([400, size, size, 3], 255, np.uint8), np.zeros(400, np.int32))
    x, _ = _take(50, images, augment=Augment(erase=0.5))
    changed = (x != 1).any(axis=3)  # [400, H, W]
    hit = changed.any(axis=(1, 2))
    assert 0.4 < hit.mean() < 0.6  # four standard deviations
    for image, mask in zip(x[hit], changed[hit], strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        assert mask[box].all()
        assert 0.01 < mask.mean() < 0.45  # 2 % .. 40 %, up to rounding to pixels
        assert np.ptp(image[box].reshape(-1, 3), axis=0).max() == 0  # one colour


def test_batches_that_cannot_be_made_are_refused():
    with pytest.raises(UserError, match="50 images, fewer than one batch of 64"):
        _take(1, _images(), batch_size=64)
    with pytest.raises(UserError, match="positive multiple of 3"):
        _take(1, _images(), shard=Shard(replicas=3))
    for augment, field in (
        (Augment(shift=-1), "shift"),
        (Augment(rotate=200), "rotate"),
        (Augment(zoom=1.0), "zoom"),
        (Augment(erase=1.5), "erase"),
        (Augment(fill="wrap"), "fill"),
    ):
        with pytest.raises(UserError, match=f"augment.{field}"):
            _take(1, _images(), augment=augment)


def test_eval_batches_hold_everything_once_in_order():
    images = _images(count=20)
    batches = [(x.numpy(), y.numpy()) for x, y in eval_batches(images, 8)]
    assert [len(y) for _, y in batches] == [8, 8, 4]
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), images.labels)
    x = np.concatenate([x for x, _ in batches])
    assert x.dtype == np.float32
    np.testing.assert_array_equal(np.round(x * 255), images.images)
    assert eval_batches(images, 8).cardinality() == 3


def test_training_and_evaluation_see_the_same_floats():
    images = _images()
    x, y = _take(6, images)
    held = np.concatenate([x.numpy() for x, _ in eval_batches(images, 7)])
    np.testing.assert_array_equal(x, held[y])
