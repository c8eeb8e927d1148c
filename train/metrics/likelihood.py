"""How a variational autoencoder is judged: its bounds on the likelihood of held-out images, in nats.

They are put together here from what its signatures answer: the posterior (`encode`) of an image, and
log p(x|z) (`likelihood`) of the z that are drawn from it.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from train.data.images import ImageData, Images
from train.metrics.slices import by_class
from zoo import base, rng, vae

IMAGES = 1_000  # test images of the importance weighted bound, at most
# Its samples for each of them: 5,000 for black and white images of MNIST's size, as published; fewer for
# others, whose decoders take up to ten times as long.
SAMPLES, SAMPLES_OF_OTHERS = 5_000, 500
_LARGE = 1_024  # pixels; more is large
_CHUNK = 1_000  # images decoded at once
_BATCH = 250
_PEAK = 1e-10  # an error below counts as this one: 100 dB, not infinity


def likelihood_report(model: base.Judged, data: ImageData) -> dict[str, Any]:
    """The bounds on the test split, and how well it is reconstructed.

    The seed of an image's noise and binarisation is its place in the split, so the figures repeat, and are
    what the signature `elbo` answers for those seeds.

    Returns:
        JSON values. `metrics` has `negative_elbo` = `distortion` + `kl` over the whole split: -log p(x|z) for
        one z each, and the divergence of the posterior; `iwae_nll`, less the importance weighted bound with
        `iwae_samples` samples on `iwae_images` images; `mse` and `psnr` of `decode` of the mean of `encode`,
        against the images as they are. Bounds are in nats an image. Where the likelihood is of the images'
        own levels, `bits_per_dim` and `iwae_bits_per_dim` as well. `slices` has some of them by class.
    """
    parts = elbo_parts(model, data.test)
    published = model.config.likelihood == vae.Likelihood.BERNOULLI
    published = published and np.prod(model.config.image_shape[:2]) <= _LARGE
    samples = SAMPLES if published else SAMPLES_OF_OTHERS
    chosen = np.random.default_rng(0).permutation(len(data.test.labels))[:IMAGES]
    bound = importance_weighted_bounds(model, data.test, chosen, samples)
    errors = reconstruction_errors(model, data.test)
    negative_elbo = parts.sum(axis=1)
    found = {
        "negative_elbo": float(negative_elbo.mean()),
        "distortion": float(parts[:, 0].mean()),
        "kl": float(parts[:, 1].mean()),
        "iwae_nll": -float(bound.mean()),
        "mse": float(errors.mean()),
        "psnr": float(np.mean(-10.0 * np.log10(np.maximum(errors, _PEAK)))),
    }
    if model.config.likelihood == vae.Likelihood.LOGISTIC:
        to_bits = 1.0 / (math.log(2.0) * np.prod(model.config.image_shape))
        found["bits_per_dim"] = float(found["negative_elbo"] * to_bits)
        found["iwae_bits_per_dim"] = float(found["iwae_nll"] * to_bits)
    slices = {
        name: by_class(values, data.test.labels, data.class_names)
        for name, values in (("negative_elbo", negative_elbo), ("mse", errors))
    }
    return {
        "metrics": found,
        "slices": slices,
        "iwae_samples": samples,
        "iwae_images": len(chosen),
    }


def elbo_parts(model: base.Judged, images: Images) -> NDArray[np.float64]:
    """-log p(x|z) and KL(q(z|x) || p(z)) of each image, [N, 2]: their sum is the negative ELBO."""
    signatures = model.signatures()
    found = []
    for i in range(0, len(images.labels), _BATCH):
        image, label, seed = _seen(model.config, images, np.arange(i, min(i + _BATCH, len(images.labels))))
        posterior = signatures["encode"](image=image, **label)
        mean, log_variance = posterior["mean"], posterior["log_variance"]
        z = mean + tf.exp(0.5 * log_variance) * rng.row_normal(seed, model.config.latent_dim)
        log_likelihood = signatures["likelihood"](image=image, z=z, **label)["log_likelihood"]
        kl = tf.reduce_sum(vae.kl_divergence(mean, log_variance), axis=1)
        found.append(tf.stack([-log_likelihood, kl], axis=1).numpy())
    return np.concatenate(found).astype(np.float64)


def importance_weighted_bounds(
    model: base.Judged, images: Images, chosen: NDArray[np.int64], samples: int
) -> NDArray[np.float64]:
    """log 1/k Σ_k p(x, z_k) / q(z_k|x) of the chosen images, [N]: a lower bound on log p(x) that rises to it
    with k (Burda et al. 2016)."""
    signatures = model.signatures()
    bounds = []
    for index in chosen:
        image, label, _ = _seen(model.config, images, np.array([index]))
        posterior = signatures["encode"](image=image, **label)
        mean, log_variance = posterior["mean"], posterior["log_variance"]
        # Another stream than those of the ELBO; the same noise whatever the chunks.
        noise = tf.random.stateless_normal([1, samples, model.config.latent_dim], seed=[index, 3])
        z = mean[:, None] + tf.exp(0.5 * log_variance)[:, None] * noise
        log_likelihood = []
        for first in range(0, samples, _CHUNK):
            part = z[0, first : first + _CHUNK]
            rows = {k: tf.repeat(v, len(part), axis=0) for k, v in {"image": image, **label}.items()}
            log_likelihood.append(signatures["likelihood"](z=part, **rows)["log_likelihood"].numpy())
        weights = np.concatenate(log_likelihood) + vae.log_ratio(z, mean, log_variance)[0].numpy()
        weights = weights.astype(np.float64)
        most = weights.max()
        bounds.append(most + np.log(np.exp(weights - most).mean()))
    return np.array(bounds)


def reconstruction_errors(model: base.Judged, images: Images) -> NDArray[np.float64]:
    """The mean squared error of each image, [N]."""
    signatures = model.signatures()
    errors = []
    for i in range(0, len(images.labels), _BATCH):
        index = np.arange(i, min(i + _BATCH, len(images.labels)))
        image, label, _ = _tensors(model.config, images, index)
        mean = signatures["encode"](image=image, **label)["mean"]
        answer = signatures["decode"](z=mean, **label)["image"]
        errors.append(tf.reduce_mean(tf.square(answer - image), axis=[1, 2, 3]).numpy())
    return np.concatenate(errors).astype(np.float64)


_Rows = tuple[tf.Tensor, dict[str, tf.Tensor], tf.Tensor]  # images, the label if it is an input, seeds


def _seen(config: vae.Config, images: Images, index: NDArray[np.int64]) -> _Rows:
    """Of the images at these places, what the likelihood is about."""
    image, label, seed = _tensors(config, images, index)
    return vae.observed(config, image, rng.row_uniform(seed, int(np.prod(config.image_shape)))), label, seed


def _tensors(config: vae.Config, images: Images, index: NDArray[np.int64]) -> _Rows:
    image = tf.constant(images.images[index].astype(np.float32) / np.float32(255))
    label = {"label": tf.constant(images.labels[index])} if config.conditional else {}
    return image, label, tf.constant(index, tf.int64)


def table(report: dict[str, Any]) -> str:
    """The report as lines for people."""
    lines = [f"{name:<32}{report['metrics'][name]:.5f}" for name in _LINES if name in report["metrics"]]
    lines.append(f"iwae: {report['iwae_samples']:,} samples, {report['iwae_images']:,} test images")
    return "\n".join(lines)


_LINES = (
    *("negative_elbo", "distortion", "kl", "iwae_nll", "bits_per_dim", "iwae_bits_per_dim"),
    *("mse", "psnr"),
)
