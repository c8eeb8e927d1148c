"""Figures of an autoencoder: by hand, and of models and pictures whose answers are known."""

import dataclasses
import io

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from PIL import Image

import zoo
from train import data, evaluate, presets
from train.metrics import reconstruction
from zoo import autoencoder


def test_psnr_by_hand():
    images = np.zeros((2, 2, 2, 1))
    answers = images.copy()
    answers[0, 0, 0] = 1.0  # MSE 1/4: 6.0206 dB
    answers[1] = 0.1  # MSE 1/100: 20 dB
    assert reconstruction.psnr(images, answers) == pytest.approx((6.0206 + 20) / 2, abs=1e-4)
    assert reconstruction.mse(images, answers) == pytest.approx((0.25 + 0.01) / 2)
    assert reconstruction.psnr(images, images) == pytest.approx(100.0)


def test_principal_components_find_the_plane_that_images_lie_in():
    random = np.random.default_rng(0)
    plane, centre = random.normal(size=(2, 16)), random.normal(size=16)
    images = (random.normal(size=(60, 2)) @ plane + centre).reshape(60, 4, 4, 1)
    two, one = (reconstruction.principal_components(images[:50], images[50:], n) for n in (2, 1))
    np.testing.assert_allclose(two, images[50:], atol=1e-8)
    assert reconstruction.mse(images[50:], one) > 0.01


def test_noise_for_judging_repeats_and_does_not_depend_on_what_else_is_judged():
    images = np.full((300, 6, 6, 1), 0.5, np.float32)
    many = reconstruction.corrupted(images, "gaussian", 0.2, seed=0)
    few = reconstruction.corrupted(images[:7], "gaussian", 0.2, seed=0)
    np.testing.assert_allclose(few, many[:7], atol=1e-6)
    assert not np.array_equal(reconstruction.corrupted(images, "gaussian", 0.2, seed=1), many)
    assert np.std(many) == pytest.approx(0.2, rel=0.1)
    assert len(np.unique(many[:, 0, 0, 0])) > 200  # every image its own


def test_classical_denoisers_clean_a_flat_picture():
    flat = np.full((3, 16, 16, 1), 0.5, np.float32)
    noisy = reconstruction.corrupted(flat, "gaussian", reconstruction.SIGMA, seed=0)
    found = reconstruction.classical_denoisers(flat, noisy, flat, noisy)
    assert set(found) == {"median_psnr", "nl_means_psnr", "bilateral_psnr"}
    # Noise of 0.2 is 14 dB below white; the mean of nine pixels gains 9.5 dB.
    assert all(value > 19 for value in found.values()), found


def test_classical_denoisers_take_colour():
    colour = np.full((2, 12, 12, 3), (0.2, 0.5, 0.8), np.float32)
    noisy = reconstruction.corrupted(colour, "gaussian", reconstruction.SIGMA, seed=0)
    found = reconstruction.classical_denoisers(colour, noisy, colour, noisy)
    assert all(value > 17 for value in found.values()), found


def _gradient(count=4):
    ramp = np.linspace(0.1, 0.9, 32, dtype=np.float32)
    images = np.stack([np.roll(ramp[:, None] * ramp[None, :], 4 * i, axis=0) for i in range(count)])
    return images[..., None]


def _quality(images, quality):
    answers = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(np.round(image[..., 0] * 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
        answers.append(np.asarray(Image.open(buffer))[..., None] / 255.0)
    return reconstruction.psnr(images, np.stack(answers))


def test_jpeg_is_taken_at_the_lowest_quality_that_reaches_the_psnr():
    images = _gradient()
    wanted = _quality(images, 30)
    size, scan = reconstruction.jpeg_bytes(images, wanted)
    better, _ = reconstruction.jpeg_bytes(images, wanted + 3)
    worse, _ = reconstruction.jpeg_bytes(images, wanted - 3)
    assert worse < size < better
    assert 0 < scan < size - 100  # a header and tables are there


def test_the_scan_is_what_lies_between_its_header_and_the_end():
    # Start of image, one segment of 2 + 3 bytes, start of scan with 2 + 1, the scan "scan!", end of image.
    jpeg = b"\xff\xd8" + b"\xff\xdb\x00\x05abc" + b"\xff\xda\x00\x03x" + b"scan!" + b"\xff\xd9"
    assert reconstruction._scan_bytes(jpeg) == 5


@pytest.fixture(scope="module")
def digits():
    whole = data.load("digits")
    few = dataclasses.replace(whole.test, images=whole.test.images[:24], labels=whole.test.labels[:24])
    train = dataclasses.replace(whole.train, images=whole.train.images[:60], labels=whole.train.labels[:60])
    return dataclasses.replace(whole, train=train, test=few)


class Perfect(autoencoder.Model):
    """Answers every image with itself; its denoiser adds nothing."""

    def signatures(self):
        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32, "image")])
        def itself(image):
            return {"image": image}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
        def compress(image_bytes):
            return {"code_bytes": image_bytes}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "code_bytes")])
        def decompress(code_bytes):
            return {"image_bytes": code_bytes}

        return {"reconstruct": itself, "denoise": itself, "compress": compress, "decompress": decompress}


def test_the_report_of_a_model_that_answers_with_what_it_was_given(digits):
    report = evaluate.evaluate(Perfect(tiny.CONFIGS["autoencoder"]), "autoencoder", digits)
    metrics = report["metrics"]
    assert metrics["mse"] == 0
    assert metrics["psnr"] == metrics["compressed_psnr"] == pytest.approx(100.0)
    assert metrics["pca_mse"] > 0.005
    for kind in autoencoder.CORRUPTIONS:
        assert metrics[f"{kind}_psnr"] == metrics[f"{kind}_before_psnr"]
    best = max(metrics[f"{name}_psnr"] for name in ("median", "nl_means", "bilateral"))
    assert metrics["denoise_gain_db"] == pytest.approx(metrics["gaussian_before_psnr"] - best)
    # Its code is the PNG.
    assert metrics["bytes_per_image"] > 64
    assert metrics["jpeg_ratio"] == pytest.approx(metrics["jpeg_bytes"] / metrics["bytes_per_image"])
    table = evaluate.table(report)
    assert f"{metrics['pca_mse']:.5f}" in table
    assert "n = 24 test images" in table


def test_a_trained_model_beats_principal_components_in_seconds():
    """The preset for tests, at its own size but a third of its length, on the digits."""
    config = presets.load("autoencoder_digits")
    whole = data.load("digits")
    model = zoo.build("autoencoder", dataclasses.replace(config.model, image_shape=(8, 8, 1)))
    model.compile(keras.optimizers.Adam(2e-3))
    step = tf.function(model.train_step)
    for _, batch in zip(range(600), whole.train_batches(config.data, seed=0), strict=False):
        step(batch)
    images = whole.test.images.astype(np.float32) / 255
    answers = model.signatures()["reconstruct"](image=tf.constant(images))["image"].numpy()
    train = whole.train.images.astype(np.float32) / 255
    pca = reconstruction.principal_components(train, images, config.model.code_dim)
    assert reconstruction.mse(images, answers) < reconstruction.mse(images, pca)
