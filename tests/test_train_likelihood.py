"""The bounds over a test split, where they are known."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf
import tiny

import zoo
from train import evaluate
from train.data.images import Images
from train.metrics import generative, likelihood
from zoo import rng, vae

LOGISTIC = {"likelihood": vae.Likelihood.LOGISTIC}


def model(**changes):
    return zoo.build("vae", dataclasses.replace(tiny.CONFIGS["vae"], **changes))


def silent(**changes):
    """A model whose decoder says the same whatever z is, so that log p(x) is what that gives."""
    made = model(**changes)
    for weight in made.decoder.weights:
        weight.assign(tf.zeros_like(weight))
    return made


def few(images=40):
    test = tiny.digits().test
    return Images(test.images[:images], test.labels[:images])


def test_the_bound_of_a_model_that_knows_nothing_is_64_bits():
    made = silent()
    parts = likelihood.elbo_parts(made, few())
    np.testing.assert_allclose(parts[:, 0], 64 * math.log(2.0), rtol=1e-5)
    bounds = likelihood.importance_weighted_bounds(made, few(), np.arange(3), 2000)
    # The posterior is not the prior, but with so many samples that hardly costs anything.
    np.testing.assert_allclose(bounds, -64 * math.log(2.0), atol=0.5)
    assert (-bounds < parts[:3].sum(axis=1)).all()


def test_the_bound_over_the_split_is_what_the_signature_answers():
    made, images = model(), few()
    seed = tf.range(40, dtype=tf.int64)
    served = made.signatures()["elbo"](image=tf.constant(images.images / np.float32(255)), seed=seed)["elbo"]
    np.testing.assert_allclose(-likelihood.elbo_parts(made, images).sum(axis=1), served, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, LOGISTIC, {"conditional": True}], ids=str)
def test_the_importance_weighted_bound_is_that_of_all_chunks_together(changes, monkeypatch):
    made, images = model(**changes), few()
    monkeypatch.setattr(likelihood, "_CHUNK", 7)
    bounds = likelihood.importance_weighted_bounds(made, images, np.array([5, 1]), 20)
    for index, bound in zip((5, 1), bounds, strict=True):
        row = images.images[index : index + 1].astype(np.float32) / np.float32(255)
        uniform = rng.row_uniform(tf.constant([index], tf.int64), 64)
        noise = tf.random.stateless_normal([1, 20, 6], seed=[index, 3])
        label = tf.constant(images.labels[index : index + 1])
        image = vae.observed(made.config, tf.constant(row), uniform)
        mean, log_variance = made.posterior(image, label)
        z = mean[:, None] + tf.exp(0.5 * log_variance)[:, None] * noise
        whole = made.log_likelihood(image, label, z) + vae.log_ratio(z, mean, log_variance)
        assert bound == pytest.approx(float(vae.importance_weighted_bound(whole)[0]), rel=1e-5)


def test_reconstruction_of_a_model_that_answers_grey():
    errors = np.square(few().images / 255 - 0.5).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(likelihood.reconstruction_errors(silent(), few()), errors, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, LOGISTIC], ids=["bernoulli", "logistic"])
def test_the_report_has_bounds_samples_and_memorisation(changes, monkeypatch):
    monkeypatch.setattr(likelihood, "SAMPLES", 20)
    monkeypatch.setattr(likelihood, "SAMPLES_OF_OTHERS", 20)
    monkeypatch.setattr(likelihood, "IMAGES", 10)
    monkeypatch.setattr(generative, "SAMPLES", 500)
    report = evaluate.evaluate(model(**changes), "vae", tiny.digits())
    metrics = report["metrics"]
    assert metrics["negative_elbo"] == pytest.approx(metrics["distortion"] + metrics["kl"])
    assert {"iwae_nll", "mse", "psnr", "fd_feat", "nearest_train_ratio", "near_copies"} <= set(metrics)
    assert (report["iwae_samples"], report["iwae_images"], report["memorisation"]["n"]) == (20, 10, 500)
    if changes:
        bits = metrics["negative_elbo"] / math.log(2) / 64
        assert metrics["bits_per_dim"] == pytest.approx(bits)
    else:
        assert "bits_per_dim" not in metrics
    table = evaluate.table(report)
    assert f"{metrics['negative_elbo']:.5f}" in table
    assert "REAL" in table
    assert "nearest training image" in table


def test_a_set_without_a_judge_is_judged_by_the_bounds_alone(monkeypatch):
    monkeypatch.setattr(likelihood, "SAMPLES", 5)
    monkeypatch.setattr(likelihood, "SAMPLES_OF_OTHERS", 5)
    monkeypatch.setattr(likelihood, "IMAGES", 5)
    monkeypatch.setattr(generative, "SAMPLES", 500)
    mine = dataclasses.replace(tiny.digits(), name="folder:/mine")
    report = evaluate.evaluate(model(), "vae", mine)
    assert "fake" not in report
    assert "fd_feat" not in report["metrics"]
    assert math.isfinite(report["metrics"]["negative_elbo"])
    assert "REAL" not in evaluate.table(report)
