"""The autoencoder's corruptions and code format by hand-worked numbers, and what its signatures promise."""

import dataclasses
import io

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from PIL import Image

import zoo
from zoo import autoencoder

SHAPE = (12, 12, 1)
KINDS = list(autoencoder.CORRUPTIONS)


@pytest.fixture(scope="module")
def model():
    """The tiny model, taught for a moment: at the start its denoiser is the identity."""
    model = zoo.build("autoencoder", tiny.CONFIGS["autoencoder"])
    model.compile(keras.optimizers.Adam(1e-2))
    for _ in range(5):
        model.train_step(tiny.batch("autoencoder", 64))
    return model


def _images(rows=3, shape=SHAPE):
    return tf.constant(np.random.default_rng(1).uniform(0.2, 0.8, (rows, *shape)), tf.float32)


def _corrupted(kind, strength, seed=0, image=None):
    image = _images() if image is None else image
    rows = image.shape[0]
    noise = tf.random.stateless_normal([rows, autoencoder.noise_width(image.shape[1:])], [seed, 0])
    index = tf.fill([rows], KINDS.index(kind))
    return autoencoder.corrupt(image, index, tf.fill([rows], strength), noise).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_a_corruption_without_strength_changes_nothing(kind):
    np.testing.assert_allclose(_corrupted(kind, 0.0), _images(), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_corruption_is_a_function_of_its_noise_and_stays_in_range(kind):
    strongest = autoencoder.CORRUPTIONS[kind][1]
    first, again, other = (_corrupted(kind, strongest, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    # A blur draws nothing.
    assert np.array_equal(first, other) == (kind == "blur")
    assert first.min() >= 0 and first.max() <= 1
    assert np.abs(first - _images()).mean() > 0.005


@pytest.mark.parametrize("kind", KINDS)
def test_each_image_is_spoilt_in_its_own_way(kind):
    """A row is what it would be among other kinds and strengths."""
    image = _images(len(KINDS))
    noise = tf.random.stateless_normal([len(KINDS), autoencoder.noise_width(SHAPE)], [3, 0])
    strength = tf.linspace(0.02, 0.06, len(KINDS))
    mixed = autoencoder.corrupt(image, tf.range(len(KINDS)), strength, noise)
    i = KINDS.index(kind)
    function = autoencoder.CORRUPTIONS[kind][0]
    place = 0.5 * (1.0 + tf.math.erf(noise[:, :3] / np.sqrt(2.0)))
    alone = function(image, strength, tf.reshape(noise[:, 3:], image.shape), place)
    np.testing.assert_allclose(mixed[i], alone[i], atol=1e-6)


def test_gaussian_noise_is_as_strong_as_asked():
    image = tf.fill([4, 32, 32, 1], 0.5)
    assert np.std(_corrupted("gaussian", 0.1, image=image)) == pytest.approx(0.1, rel=0.05)


def test_salt_and_pepper_loses_the_share_asked_for_half_to_black():
    image = tf.fill([4, 32, 32, 3], 0.5)
    spoilt = _corrupted("salt_and_pepper", 0.3, image=image)
    assert np.mean(spoilt == 0) == pytest.approx(0.15, abs=0.02)
    assert np.mean(spoilt == 1) == pytest.approx(0.15, abs=0.02)
    assert np.all((spoilt == 0) | (spoilt == 1) | (spoilt == 0.5))
    # A pixel is lost in all its channels.
    assert np.array_equal(spoilt[..., 0], spoilt[..., 2])


def test_a_mask_erases_one_rectangle_of_the_area_asked_for():
    for spoilt, image in zip(_corrupted("mask", 0.25), _images().numpy(), strict=True):
        black = spoilt[..., 0] == 0
        rows, columns = np.flatnonzero(black.any(axis=1)), np.flatnonzero(black.any(axis=0))
        assert black[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert black.sum() == len(rows) * len(columns) == pytest.approx(0.25 * 144, abs=9)
        assert np.array_equal(spoilt[~black], image[~black])


def test_blur_by_hand():
    # On a row of 1 x 3 pixels, deviation 1 pixel: weights 1, e^-1/2, e^-2 of the pixels that are there.
    image = tf.constant([0.0, 1.0, 0.0], shape=(1, 1, 3, 1))
    spoilt = autoencoder.blur(image, tf.constant([1.0]), image, tf.zeros([1, 3])).numpy().ravel()
    near, far = np.exp(-0.5), np.exp(-2.0)
    edge, middle = near / (1 + near + far), 1 / (1 + 2 * near)
    np.testing.assert_allclose(spoilt, [edge, middle, edge], rtol=1e-5)


def test_low_light_is_dark_by_the_share_asked_for():
    image = tf.fill([4, 32, 32, 1], 0.8)
    spoilt = _corrupted("low_light", 0.5, image=image)
    assert spoilt.mean() == pytest.approx(0.4, abs=0.005)
    assert spoilt.std() == pytest.approx(0.025, rel=0.1)


def test_the_kinds_are_drawn_by_their_shares():
    """Of black images only what noise and salt brighten can be told apart: so many are not black."""
    rows = 4000
    noise = tf.random.stateless_normal([rows, 2 + autoencoder.noise_width((6, 6, 1))], [5, 0])
    white = autoencoder.drawn_corruption(tf.ones([rows, 6, 6, 1]), noise).numpy()
    assert sum(share for _, _, share in autoencoder.CORRUPTIONS.values()) == pytest.approx(1.0)
    # Blur alone leaves a white image white; a faint corruption of another kind may, too.
    untouched = np.mean(np.all(white > 0.9999, axis=(1, 2, 3)))
    assert autoencoder.CORRUPTIONS["blur"][2] <= untouched + 0.01 < 0.3


def test_squared_error_by_hand():
    image, answer = tf.constant([[0.0, 1.0]]), tf.constant([[0.5, 0.0]])
    assert float(autoencoder.squared_error(image, answer)) == pytest.approx((0.25 + 1) / 2)


def test_log_error_by_hand():
    image = tf.zeros([2, 1, 2, 1])
    answer = tf.constant([[[[0.1], [0.3]]], [[[1.0], [0.0]]]])  # 0.05 and 0.5
    expected = (np.log(0.051) + np.log(0.501)) / 2
    assert float(autoencoder.log_error(image, answer)) == pytest.approx(expected, abs=1e-6)


def test_an_image_s_share_of_the_gradient_does_not_grow_with_its_error():
    image = tf.zeros([2, 4, 4, 1])
    answer = tf.Variable(tf.ones([2, 4, 4, 1]) * [[[[0.1]]], [[[0.8]]]])
    with tf.GradientTape() as tape:
        loss = autoencoder.log_error(image, answer)
    light, heavy = np.abs(tape.gradient(loss, answer).numpy()).mean(axis=(1, 2, 3))
    assert heavy < light


def test_quantising_by_hand():
    code = tf.constant([[-1.0, 0.0, 1.0, 1.7, -0.5]])
    levels = autoencoder.quantise(code).numpy()
    # (0 + 1) * 127.5 is a tie, rounded to even; -0.5 lies at 63.75.
    assert levels.tolist() == [[0, 128, 255, 255, 64]]
    back = autoencoder.dequantise(tf.constant(levels)).numpy()
    assert np.abs(back - np.clip(code, -1, 1)).max() <= 1 / 255 + 1e-6


def test_packed_bytes_by_hand():
    # 1*(5+1) + 2*(255+1) + 3*(0+1) = 521 = 2 * 256 + 9
    assert autoencoder.pack(tf.constant([[5, 255, 0]])).numpy()[0] == bytes([5, 255, 0, 2, 9])


def test_every_byte_survives_packing():
    levels = tf.reshape(tf.range(256), [4, 64])
    packed = autoencoder.pack(levels)
    assert [len(p) for p in packed.numpy()] == [66] * 4
    assert np.array_equal(autoencoder.unpack(packed, 64), levels)


def _refused(code_bytes, code_dim, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        autoencoder.unpack(tf.constant(code_bytes), code_dim)


def test_a_damaged_code_is_refused():
    whole = autoencoder.pack(tf.constant([[7, 0, 255, 128]])).numpy()[0]
    for i in range(len(whole)):  # any one byte is another one
        for change in (1, 128, 255):
            damaged = bytes([*whole[:i], whole[i] ^ change, *whole[i + 1 :]])
            _refused([whole, damaged], 4, "code_bytes is damaged")
    _refused([bytes([0, 7, 255, 128]) + whole[4:]], 4, "code_bytes is damaged")  # two changed places
    _refused([bytes(6)], 4, "code_bytes is damaged")


@pytest.mark.parametrize("code", [b"", b"12345", b"1234567"])
def test_a_code_of_another_length_is_refused(code):
    whole = autoencoder.pack(tf.constant([[7, 0, 255, 128]])).numpy()[0]
    _refused([whole, code], 4, "code_bytes is not 6 bytes long")


def _png(image):
    buffer = io.BytesIO()
    Image.fromarray(np.round(image[..., 0] * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_compress_and_decompress_are_the_quantised_reconstruction(model):
    image = tiny.batch("autoencoder", 5)[0].numpy()
    signatures = model.signatures()
    sent = signatures["compress"](image_bytes=tf.constant([_png(i) for i in image]))["code_bytes"]
    assert {len(code) for code in sent.numpy()} == {model.config.code_dim + 2}
    back = signatures["decompress"](code_bytes=sent)["image_bytes"].numpy()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(b))) for b in back])[..., None]

    code = signatures["encode"](image=tf.constant(image))["code"].numpy()
    rounded = np.round((code + 1) * 127.5) / 127.5 - 1
    want = signatures["decode"](code=tf.constant(rounded, tf.float32))["image"].numpy()
    np.testing.assert_allclose(pixels, 255 * want, atol=0.501)
    # Coarser than what reconstruct answers, but hardly.
    exact = signatures["reconstruct"](image=tf.constant(image))["image"].numpy()
    np.testing.assert_allclose(want, exact, atol=0.1)
    assert not np.array_equal(want, exact)


def test_decompress_refuses_what_compress_did_not_write(model):
    decompress = model.signatures()["decompress"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="not 8 bytes long"):
        decompress(code_bytes=tf.constant([b"a picture"]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="damaged"):
        decompress(code_bytes=tf.constant([b"8 bytes."]))


def test_compress_refuses_what_is_no_picture(model):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Unknown image file format"):
        model.signatures()["compress"](image_bytes=tf.constant([b"no picture"]))


def test_answers_are_images_whatever_the_code(model):
    signatures = model.signatures()
    far = tf.constant(np.random.default_rng(0).normal(0, 5, (4, 6)), tf.float32)
    noise = tf.random.stateless_normal([4, 8, 8, 1], [1, 2])
    for image in (
        signatures["decode"](code=far)["image"],
        signatures["reconstruct"](image=noise)["image"],
        signatures["denoise"](image=noise)["image"],
    ):
        assert float(tf.reduce_min(image)) >= 0 and float(tf.reduce_max(image)) <= 1


def test_reconstruct_is_decode_of_encode(model):
    image = tiny.batch("autoencoder", 5)[0]
    signatures = model.signatures()
    code = signatures["encode"](image=image)["code"]
    assert np.abs(code).max() <= 1
    want = signatures["reconstruct"](image=image)["image"]
    np.testing.assert_allclose(signatures["decode"](code=code)["image"], want, atol=1e-6)


@pytest.mark.parametrize("fine_channels", [0, 4])
def test_an_untrained_denoiser_changes_nothing(fine_channels):
    config = dataclasses.replace(tiny.CONFIGS["autoencoder"], denoiser_fine_channels=fine_channels)
    fresh = zoo.build("autoencoder", config)
    image = tiny.batch("autoencoder")[0]
    np.testing.assert_allclose(fresh.signatures()["denoise"](image=image)["image"], image, atol=1e-6)


# 8x8 becomes 4x4: 32 numbers are two for each place of a map.
@pytest.mark.parametrize("changes", [{}, {"hidden": 0, "code_dim": 32}, {"denoiser_fine_channels": 8}])
def test_training_lowers_both_losses(changes):
    model = zoo.build("autoencoder", dataclasses.replace(tiny.CONFIGS["autoencoder"], **changes))
    model.compile(keras.optimizers.Adam(3e-3))
    data = tiny.batch("autoencoder", 128)
    before = {k: float(v) for k, v in model.test_step(data).items()}
    step = tf.function(model.train_step)
    for _ in range(100):
        step(data)
    for mean in model.losses_tracked:
        mean.reset_state()
    after = {k: float(v) for k, v in model.test_step(data).items()}
    assert list(after) == ["reconstruction", "denoising"]
    assert after["reconstruction"] < 0.5 * before["reconstruction"]
    assert after["denoising"] < before["denoising"] - 0.07  # of a logarithm


def test_the_code_may_be_a_map_of_the_image():
    config = autoencoder.Config(image_shape=(64, 64, 1), hidden=0, code_dim=4 * 4 * 2)
    model = zoo.build("autoencoder", config)
    code = np.zeros((2, 4, 4, 2), np.float32)
    code[1, 0, 0] = 1.0
    plain, other = model.decoder(tf.constant(code.reshape(2, -1)), training=False).numpy()
    changed = np.abs(other - plain)[..., 0]
    assert changed[:16, :16].mean() > 100 * changed[-16:, -16:].mean()


def test_a_checkpoint_restores_every_weight(tmp_path):
    saved, other = (zoo.build("autoencoder", tiny.CONFIGS["autoencoder"], seed) for seed in (1, 2))
    path = tf.train.Checkpoint(model=saved).save(str(tmp_path / "c"))
    tf.train.Checkpoint(model=other).restore(path).assert_existing_objects_matched()
    for a, b in zip(saved.weights, other.weights, strict=True):
        assert np.array_equal(a, b), a.path


def test_previews_show_the_spoilt_above_the_restored(model):
    examples = tuple(t.numpy() for t in tiny.batch("autoencoder", 64))
    previews = model.preview(0, examples)
    assert previews["reconstructions"].shape == previews["denoised"].shape == (10, 8, 8, 8, 1)
    assert np.array_equal(previews["reconstructions"][0], examples[0][:8])
    spoilt, restored = previews["denoised"][0::2], previews["denoised"][1::2]
    for row in range(5):
        want = model.signatures()["denoise"](image=tf.constant(spoilt[row]))["image"]
        np.testing.assert_allclose(restored[row], want, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": (7, 8, 1)}, r"image_shape=\(7, 8, 1\): the sides must be even"),
        ({"code_dim": 0}, "code_dim=0: at least 1"),
        ({"hidden": -1}, "hidden=-1: at least 0"),
        ({"hidden": 0, "code_dim": 50}, "code_dim=50: with hidden=0 a multiple of 49"),
        ({"denoiser_blocks": 0}, "denoiser_blocks=0: at least 1"),
        ({"denoiser_fine_channels": -1}, "denoiser_fine_channels=-1: at least 0"),
    ],
)
def test_a_config_that_cannot_work_names_the_field(changes, message):
    with pytest.raises(ValueError, match=message):
        autoencoder.Config(**changes).validate()
