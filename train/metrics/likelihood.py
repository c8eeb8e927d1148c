"""How a variational autoencoder is judged: its bounds on the likelihood of held-out images, in nats."""

import math
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from train.data.images import ImageData, Images
from zoo import rng, vae

IMAGES = 1_000  # test images of the importance weighted bound, at most
# Its samples for each of them: 5,000 for black and white images of MNIST's size, as published; fewer for
# others, whose decoders take up to ten times as long.
SAMPLES, SAMPLES_OF_OTHERS = 5_000, 500
_LARGE = 1_024  # pixels; more is large
_CHUNK = 1_000  # images decoded at once
_BATCH = 250
_PEAK = 1e-10  # an error below counts as this one: 100 dB, not infinity


def likelihood_report(model: vae.Model, data: ImageData) -> dict[str, Any]:
    """The bounds on the test split, and how well it is reconstructed.

    The seed of an image's noise and binarisation is its place in the split, so the figures repeat, and are
    what the signature `elbo` answers for those seeds.

    Returns:
        JSON values. `metrics` has `negative_elbo` = `distortion` + `kl` over the whole split: -log p(x|z) for
        one z each, and the divergence of the posterior; `iwae_nll`, less the importance weighted bound with
        `iwae_samples` samples on `iwae_images` images; `mse` and `psnr` of `decode` of the mean of `encode`,
        against the images as they are. Bounds are in nats an image. Where the likelihood is of the images'
        own levels, `bits_per_dim` and `iwae_bits_per_dim` as well.
    """
    parts = elbo_parts(model, data.test)
    published = model.config.likelihood == vae.Likelihood.BERNOULLI
    published = published and np.prod(model.config.image_shape[:2]) <= _LARGE
    samples = SAMPLES if published else SAMPLES_OF_OTHERS
    chosen = np.random.default_rng(0).permutation(len(data.test.labels))[:IMAGES]
    bound = importance_weighted_bounds(model, data.test, chosen, samples)
    mse, psnr = reconstruction(model, data.test)
    found = {
        "negative_elbo": float(parts.sum(axis=1).mean()),
        "distortion": float(parts[:, 0].mean()),
        "kl": float(parts[:, 1].mean()),
        "iwae_nll": -float(bound.mean()),
        "mse": mse,
        "psnr": psnr,
    }
    if model.config.likelihood == vae.Likelihood.LOGISTIC:
        to_bits = 1.0 / (math.log(2.0) * np.prod(model.config.image_shape))
        found["bits_per_dim"] = float(found["negative_elbo"] * to_bits)
        found["iwae_bits_per_dim"] = float(found["iwae_nll"] * to_bits)
    return {"metrics": found, "iwae_samples": samples, "iwae_images": len(chosen)}


def elbo_parts(model: vae.Model, images: Images) -> NDArray[np.float64]:
    """-log p(x|z) and KL(q(z|x) || p(z)) of each image, [N, 2]: their sum is the negative ELBO."""

    @tf.function
    def parts(image, label, seed):
        noise = rng.row_normal(seed, model.config.latent_dim)
        log_likelihood, kl = model.elbo_parts(_observed(model, image, seed), label, noise)
        return tf.stack([-log_likelihood, kl], axis=1)

    return np.concatenate(
        [
            parts(*_tensors(images, np.arange(i, min(i + _BATCH, len(images.labels))))).numpy()
            for i in range(0, len(images.labels), _BATCH)
        ]
    ).astype(np.float64)


def importance_weighted_bounds(
    model: vae.Model, images: Images, chosen: NDArray[np.int64], samples: int
) -> NDArray[np.float64]:
    """log 1/k Σ_k p(x, z_k) / q(z_k|x) of the chosen images, [N]: a lower bound on log p(x) that rises to it
    with k (Burda et al. 2016)."""

    @tf.function(reduce_retracing=True)
    def log_weights(image, label, seed, noise):
        return model.log_weights(_observed(model, image, seed), label, noise)[0]

    bounds = []
    for index in chosen:
        row = _tensors(images, np.array([index]))
        # Another stream than those of the ELBO; the same noise whatever the chunks.
        noise = tf.random.stateless_normal([1, samples, model.config.latent_dim], seed=[index, 3])
        weights = np.concatenate(
            [log_weights(*row, noise[:, i : i + _CHUNK]).numpy() for i in range(0, samples, _CHUNK)]
        ).astype(np.float64)
        most = weights.max()
        bounds.append(most + np.log(np.exp(weights - most).mean()))
    return np.array(bounds)


def reconstruction(model: vae.Model, images: Images) -> tuple[float, float]:
    """Mean squared error, and the mean over the images of 10 log10(1 / MSE) in dB."""
    signatures = model.signatures()
    errors = []
    for i in range(0, len(images.labels), _BATCH):
        image, label, _ = _tensors(images, np.arange(i, min(i + _BATCH, len(images.labels))))
        also = {"label": label} if model.config.conditional else {}
        mean = signatures["encode"](image=image, **also)["mean"]
        answer = signatures["decode"](z=mean, **also)["image"]
        errors.append(tf.reduce_mean(tf.square(answer - image), axis=[1, 2, 3]).numpy())
    error = np.concatenate(errors).astype(np.float64)
    return float(error.mean()), float(np.mean(-10.0 * np.log10(np.maximum(error, _PEAK))))


def _observed(model: vae.Model, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    return model.observed(image, rng.row_uniform(seed, int(np.prod(model.config.image_shape))))


def _tensors(images: Images, index: NDArray[np.int64]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    image = images.images[index].astype(np.float32) / np.float32(255)
    return tf.constant(image), tf.constant(images.labels[index]), tf.constant(index, tf.int64)


def table(report: dict[str, Any]) -> str:
    """The report as lines for people."""
    lines = [f"{name:<32}{report['metrics'][name]:.5f}" for name in _LINES if name in report["metrics"]]
    lines.append(f"iwae: {report['iwae_samples']:,} samples, {report['iwae_images']:,} test images")
    return "\n".join(lines)


_LINES = (
    *("negative_elbo", "distortion", "kl", "iwae_nll", "bits_per_dim", "iwae_bits_per_dim"),
    *("mse", "psnr"),
)
