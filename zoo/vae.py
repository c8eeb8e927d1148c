"""Convolutional variational autoencoder with the exact evidence lower bound.

Kingma & Welling 2014, "Auto-Encoding Variational Bayes" (arXiv:1312.6114), with residual networks (He et al.
2016, arXiv:1603.05027) for the encoder and the decoder. What is optimised may also be beta-weighted (Higgins
et al. 2017), keep free bits (Kingma et al. 2016, arXiv:1606.04934) or be the importance weighted bound (Burda
et al. 2016, arXiv:1509.00519); what is reported is always the bound itself, in nats per image.
"""

import dataclasses
import enum
import functools
import math

import keras
import numpy as np
import tensorflow as tf

from zoo import base, layers, pyramid, rng


class Likelihood(enum.StrEnum):
    # Of black and white images. Grey is the probability of white: every look at an image draws it afresh (in
    # training), or by a seed (in serving and evaluation); black and white stay as they are.
    BERNOULLI = "bernoulli"
    # Of the 256 levels of 8-bit images, by a logistic distribution over each (Salimans et al. 2017).
    LOGISTIC = "logistic"


@dataclasses.dataclass
class Config:
    """What a VAE is made of. `image_shape` and `class_names` are taken from the data in training."""

    image_shape: tuple[int, int, int] = (28, 28, 1)  # height, width, channels
    class_names: tuple[str, ...] = tuple("0123456789")
    conditional: bool = False  # both networks see the class; then it is an input wherever an image or z is
    likelihood: Likelihood = Likelihood.BERNOULLI
    latent_dim: int = 32
    channels: int = 32  # feature maps at half the image's resolution; doubled at each halving ...
    max_channels: int = 64  # ... up to this
    blocks: int = 1  # residual blocks at each resolution of at most 8 pixels a side: finer ones cost most
    # Units of a dense layer between feature maps and code, in both networks. 0: there is none, and the
    # code is a map of the image, which larger images learn to fill sooner.
    hidden: int = 512
    beta: float = 1.0  # weight of the KL divergence; above 1: fewer, more independent factors
    free_bits: float = 0.0  # nats of KL that each latent dimension has for nothing (lambda in the paper)
    importance_samples: int = 1  # of the bound that is optimised; 1: the ELBO

    def validate(self) -> None:
        """Raises `ValueError` that names the field, its value and what is expected."""
        pyramid.check_image_shape(self.image_shape)
        if not self.class_names:
            raise ValueError("class_names is empty: at least one name is expected")
        for name in ("latent_dim", "channels", "max_channels", "blocks", "importance_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 is expected")
        if self.hidden < 0:
            raise ValueError(f"hidden={self.hidden}: 0 or more is expected")
        if not self.hidden:
            pyramid.check_map("latent_dim", self.latent_dim, self.image_shape)
            if self.conditional:
                raise ValueError(
                    "conditional=True: a class needs a dense layer to enter by; set hidden above 0"
                )
        for name in ("beta", "free_bits"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: 0 or more is expected")
        if self.importance_samples > 1 and (self.beta != 1 or self.free_bits):
            raise ValueError(
                f"importance_samples={self.importance_samples}: the importance weighted bound has no KL term"
                " of its own; beta=1 and free_bits=0 are expected"
            )


# Networks ---------------------------------------------------------------------------------------

_LARGEST_BLOCK = 8  # pixels a side, of what residual blocks look at


def _blocks(x: keras.KerasTensor, count: int, name: str) -> keras.KerasTensor:
    """Residual blocks, if x is small enough."""
    _, height, width, _ = x.shape
    return pyramid.blocks(x, count if max(height, width) <= _LARGEST_BLOCK else 0, name)


def encoder(config: Config) -> keras.Model:
    """Image `[B, H, W, C]` in `[0, 1]` (and one-hot label `[B, K]`) → mean and log variance, `[B, D]`."""
    image = keras.Input(config.image_shape, name="image")
    x = keras.layers.Rescaling(2.0, offset=-1.0, name="rescale")(image)
    for i, width in enumerate(pyramid.widths(config.image_shape, config.channels, config.max_channels)):
        x = pyramid.conv(pyramid.relu(x, f"down{i}_relu") if i else x, width, f"down{i}", kernel=4, stride=2)
        x = _blocks(x, config.blocks, f"down{i}")
    x = pyramid.relu(x, "last_relu")
    if not config.hidden:
        height, width = pyramid.smallest(config.image_shape)
        maps = config.latent_dim // (height * width)
        mean = keras.layers.Flatten(name="mean_flat")(pyramid.conv(x, maps, "mean"))
        log_variance = keras.layers.Flatten(name="log_variance_flat")(
            pyramid.conv(x, maps, "log_variance", zeros=True)
        )
        return layers.Network(image, [mean, log_variance], name="encoder")
    x = keras.layers.Flatten(name="flatten")(x)
    x, inputs = _with_label(config, x, image)
    x = keras.layers.Dense(config.hidden, activation="relu", kernel_initializer="he_normal", name="hidden")(x)
    mean = keras.layers.Dense(config.latent_dim, name="mean")(x)
    log_variance = keras.layers.Dense(config.latent_dim, kernel_initializer="zeros", name="log_variance")(x)
    return layers.Network(inputs, [mean, log_variance], name="encoder")


def decoder(config: Config) -> keras.Model:
    """z `[B, D]` (and one-hot label `[B, K]`) → the parameters of p(x|z), `[B, H, W, P]`.

    P is C logits for Bernoulli; C locations, then C log scales for the logistic distribution.
    """
    widths = pyramid.widths(config.image_shape, config.channels, config.max_channels)
    smallest = (*pyramid.smallest(config.image_shape), widths[-1])
    z = keras.Input((config.latent_dim,), name="z")
    x, inputs = _with_label(config, z, z)
    if config.hidden:
        x = keras.layers.Dense(
            config.hidden, activation="relu", kernel_initializer="he_normal", name="hidden"
        )(x)
        x = keras.layers.Dense(int(np.prod(smallest)), name="project")(x)
        x = keras.layers.Reshape(smallest, name="reshape")(x)
    else:
        height, width, maps = smallest
        x = keras.layers.Reshape((height, width, config.latent_dim // (height * width)), name="reshape")(x)
        x = pyramid.conv(x, maps, "project")
    outputs = config.image_shape[2] * (2 if config.likelihood == Likelihood.LOGISTIC else 1)
    for i in reversed(range(len(widths))):
        x = pyramid.relu(_blocks(x, config.blocks, f"up{i}"), f"up{i}_relu")
        width, name = (widths[i - 1], f"up{i}") if i else (outputs, "parameters")
        x = keras.layers.Conv2DTranspose(width, 4, strides=2, padding="same", name=name)(x)  # [B, 2h, 2w, P]
    return layers.Network(inputs, x, name="decoder")


def _with_label(config: Config, x: keras.KerasTensor, first: keras.KerasTensor):
    """x with the label beside it, and the network's inputs; x as it is where there are no labels."""
    if not config.conditional:
        return x, first
    label = keras.Input((len(config.class_names),), name="label")
    return keras.layers.Concatenate(name="with_label")([x, label]), [first, label]


# Losses -----------------------------------------------------------------------------------------


def bernoulli_log_likelihood(image: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """log p(x) = Σ x log σ(l) + (1 - x) log(1 - σ(l)), summed over the pixels: `[B, H, W, C]` → `[B]`.

    Args:
        image: of zeros and ones.
        logits: l, same shape.
    """
    cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=image, logits=logits)
    return -tf.reduce_sum(cross_entropy, axis=[1, 2, 3])


def logistic_log_likelihood(image: tf.Tensor, location: tf.Tensor, log_scale: tf.Tensor) -> tf.Tensor:
    """log P(level) of the 256 levels k/255, summed over the pixels: `[B, H, W, C]` → `[B]`.

    A level has the mass that a logistic distribution puts on the interval between its halfway points, [a, b];
    black and white have all that lies beyond (Salimans et al. 2017, "PixelCNN++", arXiv:1701.05517, equation
    2 with one component). In standard units, with σ(b) - σ(a) = σ(b) σ(-a) (1 - exp(a - b)),

        log P = log σ(b) + log σ(-a) + log(1 - exp(a - b)),

    which is exact in float32 far out in the tails, where the paper's code has to approximate.

    Args:
        image: in `[0, 1]`; rounded to the nearest level.
        location, log_scale: of the distribution, in units of `[0, 1]`; same shape.
    """
    level = tf.round(255.0 * tf.clip_by_value(image, 0.0, 1.0))
    inverse_scale = tf.exp(-log_scale)
    lower = ((level - 0.5) / 255.0 - location) * inverse_scale
    upper = ((level + 0.5) / 255.0 - location) * inverse_scale
    below_upper = -tf.nn.softplus(-upper)  # log σ(b)
    above_lower = -tf.nn.softplus(lower)  # log σ(-a)
    between = below_upper + above_lower + tf.math.log(-tf.math.expm1(-inverse_scale / 255.0))
    log_mass = tf.where(level == 0.0, below_upper, tf.where(level == 255.0, above_lower, between))
    return tf.reduce_sum(log_mass, axis=[1, 2, 3])


def kl_divergence(mean: tf.Tensor, log_variance: tf.Tensor) -> tf.Tensor:
    """KL(N(mean, variance) || N(0, 1)) = ½ (mean² + variance - log variance - 1) of each dimension
    (Kingma & Welling 2014, appendix B): `[B, D]` → `[B, D]`, in nats."""
    return 0.5 * (tf.square(mean) + tf.exp(log_variance) - log_variance - 1.0)


def normal_log_density(z: tf.Tensor, mean: tf.Tensor, log_variance: tf.Tensor) -> tf.Tensor:
    """log N(z; mean, variance), summed over the last axis; the arguments broadcast."""
    squared = tf.square(z - mean) * tf.exp(-log_variance)
    return -0.5 * tf.reduce_sum(squared + log_variance + math.log(2.0 * math.pi), axis=-1)


def with_free_bits(kl: tf.Tensor, global_mean: tf.Tensor, free: float) -> tf.Tensor:
    """Σ_d max(free, E KL_d) (Kingma et al. 2016, arXiv:1606.04934, equation 15): a dimension below `free`
    costs that much whatever it says, and so has no reason to say nothing.

    Args:
        kl: of each row and dimension, `[B, D]`.
        global_mean: E KL_d over the rows of all replicas, `[D]`: it decides which dimensions are below.
        free: in nats.

    Returns:
        A scalar; its mean over the replicas is that of the global batch.
    """
    return tf.reduce_sum(tf.where(global_mean > free, tf.reduce_mean(kl, axis=0), free))


def importance_weighted_bound(log_weights: tf.Tensor) -> tf.Tensor:
    """log 1/k Σ_k p(x, z_k) / q(z_k|x)  (Burda et al. 2016, equation 8): `[B, k]` → `[B]`."""
    samples = tf.cast(tf.shape(log_weights)[1], tf.float32)
    return tf.reduce_logsumexp(log_weights, axis=1) - tf.math.log(samples)


def log_ratio(z: tf.Tensor, mean: tf.Tensor, log_variance: tf.Tensor) -> tf.Tensor:
    """log p(z) / q(z|x), z `[B, k, D]`, mean and log variance of q `[B, D]` → `[B, k]`."""
    zero = tf.zeros([])
    return normal_log_density(z, zero, zero) - normal_log_density(z, mean[:, None], log_variance[:, None])


def observed(config: Config, image: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """What the likelihood is about: a Bernoulli model's image is white where `uniform` in `[0, 1)`, `[B, H W
    C]`, is below it; others are as they are."""
    if config.likelihood != Likelihood.BERNOULLI:
        return image
    return tf.cast(tf.reshape(uniform, tf.shape(image)) < image, tf.float32)


def spherical(start: tf.Tensor, end: tf.Tensor, fraction: tf.Tensor) -> tf.Tensor:
    """(sin((1 - t)Ω) start + sin(tΩ) end) / sin Ω, Ω the angle between them (White 2016, arXiv:1609.04468).

    The prior's mass lies in a shell about the origin; a straight line between two points of it leads through
    the middle, where the decoder has seen nothing. Points in one line from the origin are joined by it.

    Args:
        start, end: `[B, D]`.
        fraction: t, `[B]`; 0 gives start, 1 gives end.
    """
    t = fraction[:, None]
    cosine = tf.reduce_sum(tf.math.l2_normalize(start, 1) * tf.math.l2_normalize(end, 1), 1, keepdims=True)
    angle = tf.acos(tf.clip_by_value(cosine, -1.0, 1.0))  # [B, 1]
    in_line = tf.sin(angle) < 1e-3
    sine = tf.where(in_line, 1.0, tf.sin(angle))
    a = tf.where(in_line, 1.0 - t, tf.sin((1.0 - t) * angle) / sine)
    b = tf.where(in_line, t, tf.sin(t * angle) / sine)
    return a * start + b * end


# Training ---------------------------------------------------------------------------------------

_LOWEST_LOG_SCALE = -7.0  # of the logistic distribution: a quarter of a level
_Z, _BINARISATION = range(2)  # the streams of a step's noise


class Model(base.Model):
    """A VAE; `fit` on batches of (image `[B, H, W, C]` in `[0, 1]`, label int `[B]`)."""

    showpiece = "samples"
    limits = (
        "For exploring a data set by its codes, and for its bounds on the likelihood; samples are softer "
        "than a GAN's, and mere textures where the code is a map. A high likelihood does not say that a "
        "picture is like its data."
    )

    def __init__(self, config: Config, seed: int = 0):
        config.validate()
        super().__init__(config, seed)
        keras.utils.set_random_seed(seed)
        self.encoder = encoder(config)
        self.decoder = decoder(config)
        self.loss_mean = keras.metrics.Mean(name="loss")
        self.negative_elbo = keras.metrics.Mean(name="negative_elbo")
        self.kl = keras.metrics.Mean(name="kl")
        self.built = True

    @property
    def losses_tracked(self) -> tuple[keras.metrics.Mean, ...]:
        return (self.loss_mean, self.negative_elbo, self.kl)

    @property
    def networks(self) -> dict[str, keras.Model]:
        return {"encoder": self.encoder, "decoder": self.decoder}

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        image, label = data
        rows = tf.shape(image)[0]
        pixels, width = int(np.prod(self.config.image_shape)), self._noise_width()
        uniform = rng.replica_uniform(rows, pixels, self.seed, _BINARISATION, self.noise_step)
        noise = rng.replica_normal(rows, width, self.seed, _Z, self.noise_step)
        with tf.GradientTape() as tape:
            loss = self._loss(observed(self.config, image, uniform), label, noise)
        self._learn(tape, loss)
        return self._means()

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        image, label = data
        rows = tf.shape(image)[0]
        pixels, width = int(np.prod(self.config.image_shape)), self._noise_width()
        uniform = tf.random.stateless_uniform([rows, pixels], seed=[0, _BINARISATION])
        noise = tf.random.stateless_normal([rows, width], seed=[0, _Z])
        self._loss(observed(self.config, image, uniform), label, noise)
        return self._means()

    def _noise_width(self) -> int:
        return self.config.importance_samples * self.config.latent_dim

    def _loss(self, image: tf.Tensor, label: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """What is minimised, in nats per image; also updates the running means."""
        rows = tf.shape(image)[0]
        samples = self.config.importance_samples
        mean, log_variance = self.posterior(image, label)
        kl = kl_divergence(mean, log_variance)  # [B, D]
        noise = tf.reshape(noise, [rows, samples, self.config.latent_dim])
        z = mean[:, None] + tf.exp(0.5 * log_variance)[:, None] * noise  # [B, k, D]
        log_likelihood = self.log_likelihood(image, label, z)  # [B, k]
        negative_elbo = tf.reduce_mean(tf.reduce_sum(kl, axis=1) - tf.reduce_mean(log_likelihood, axis=1))
        if samples > 1:
            log_weights = log_likelihood + log_ratio(z, mean, log_variance)
            loss = -tf.reduce_mean(importance_weighted_bound(log_weights))
        elif self.config.free_bits:
            context = tf.distribute.get_replica_context()
            global_mean = context.all_reduce("mean", tf.stop_gradient(tf.reduce_mean(kl, axis=0)))
            free = with_free_bits(kl, global_mean, self.config.free_bits)
            loss = self.config.beta * free - tf.reduce_mean(log_likelihood)
        else:
            loss = negative_elbo + (self.config.beta - 1.0) * tf.reduce_mean(tf.reduce_sum(kl, axis=1))
        self.loss_mean.update_state(loss, sample_weight=rows)
        self.negative_elbo.update_state(negative_elbo, sample_weight=rows)
        self.kl.update_state(tf.reduce_sum(kl, axis=1))
        return loss

    # The bound. `label` is not looked at by an unconditional model.

    def posterior(self, image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and log variance of q(z|x), float `[B, D]` each."""
        return self.encoder(self._inputs(image, label))

    def _inputs(self, x: tf.Tensor, label: tf.Tensor) -> tf.Tensor | list[tf.Tensor]:
        if not self.config.conditional:
            return x
        return [x, tf.one_hot(label, len(self.config.class_names))]

    def log_likelihood(self, image: tf.Tensor, label: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
        """log p(x|z), image `[B, H, W, C]`, z `[B, k, D]` → `[B, k]`."""
        rows, samples = tf.shape(z)[0], tf.shape(z)[1]
        flat = tf.reshape(z, [-1, self.config.latent_dim])
        label = tf.repeat(label, samples) if self.config.conditional else label
        parameters = self.decoder(self._inputs(flat, label))
        image = tf.repeat(image, samples, axis=0)
        if self.config.likelihood == Likelihood.BERNOULLI:
            log_likelihood = bernoulli_log_likelihood(image, parameters)
        else:
            log_likelihood = logistic_log_likelihood(image, *_logistic(parameters))
        return tf.reshape(log_likelihood, [rows, samples])

    def elbo_parts(self, image: tf.Tensor, label: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """log p(x|z), `[B]`, of the z that `noise` `[B, D]` draws, and KL(q(z|x) || p(z)), `[B]`: the ELBO is
        the first less the second."""
        mean, log_variance = self.posterior(image, label)
        z = mean + tf.exp(0.5 * log_variance) * noise
        kl = tf.reduce_sum(kl_divergence(mean, log_variance), axis=1)
        return self.log_likelihood(image, label, z[:, None])[:, 0], kl

    # Serving ------------------------------------------------------------------------------------

    def _images(self, z: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        """z `[B, D]` → the mean of p(x|z), or its mode for the logistic distribution, in `[0, 1]`."""
        parameters = self.decoder(self._inputs(z, label))
        if self.config.likelihood == Likelihood.BERNOULLI:
            return tf.sigmoid(parameters)
        return tf.clip_by_value(_logistic(parameters)[0], 0.0, 1.0)

    def preview(self, seed: int, examples: tuple[np.ndarray, ...]) -> dict[str, base.Preview]:
        """`reconstructions`: held-out images, each row above its reconstructions; `samples`: 8 rows, a column
        for each class of a conditional model; `walk`: in each row from one held-out image to another;
        `codes`: the posterior's means of all."""
        image, label = (tf.constant(x[:40]) for x in examples[:2])
        columns, shape = 10, self.config.image_shape
        uniform = rng.row_uniform(tf.range(40, dtype=tf.int64), int(np.prod(shape)))
        mean, _ = self.posterior(observed(self.config, image, uniform), label)
        reconstruction = self._images(mean, label)
        pairs = tf.stack([tf.reshape(x, [-1, columns, *shape]) for x in (image, reconstruction)], axis=1)

        kinds = len(self.config.class_names) if self.config.conditional else columns
        seeds = tf.range(8 * kinds, dtype=tf.int64) + 1_000_000 * seed
        z = rng.row_normal(seeds, self.config.latent_dim)
        samples = self._images(z, tf.tile(tf.range(kinds), [8]))

        start, end = (tf.repeat(mean[i : i + 8], columns, axis=0) for i in (0, 8))
        fraction = tf.tile(tf.linspace(0.0, 1.0, columns), [8])
        walk = self._images(spherical(start, end, fraction), tf.repeat(label[:8], columns))
        return {
            "samples": samples.numpy().reshape(8, kinds, *shape),
            "reconstructions": pairs.numpy().reshape(-1, columns, *shape),
            "walk": walk.numpy().reshape(8, columns, *shape),
            # Grey as it is: the mean image of its draws, as `encode` takes it.
            "codes": base.embedded(lambda *rows: self.posterior(*rows)[0], examples, self.config.class_names),
        }

    def signatures(self) -> dict[str, base.Signature]:
        config = self.config
        classes = len(config.class_names)
        seed_spec = tf.TensorSpec([None], tf.int64, "seed")
        image_spec = tf.TensorSpec([None, *config.image_shape], tf.float32, "image")
        z_spec, from_spec, to_spec = (
            tf.TensorSpec([None, config.latent_dim], tf.float32, name) for name in ("z", "z_from", "z_to")
        )
        temperature_spec, fraction_spec = (
            tf.TensorSpec([None], tf.float32, name) for name in ("temperature", "fraction")
        )

        def function(body, *specs):
            """Of a conditional model the last input is the label; others have none."""
            if config.conditional:
                return tf.function(body, input_signature=[*specs, tf.TensorSpec([None], tf.int32, "label")])
            return tf.function(functools.partial(body, label=None), input_signature=specs)

        def checked(label, lowest=0):
            return layers.checked_label(label, lowest, classes) if config.conditional else label

        def sample(seed, temperature=tf.constant([1.0]), label=tf.constant([-1])):  # noqa: B008
            """Images by seed; temperature scales z (1: as trained, 0: the middle); label -1 draws one."""
            rows = tf.shape(seed)
            if config.conditional:
                label = checked(tf.broadcast_to(label, rows), -1)
                label = tf.where(label < 0, rng.row_index(seed, classes), label)
            z = rng.row_normal(seed, config.latent_dim) * tf.broadcast_to(temperature, rows)[:, None]
            return {"image": self._images(z, label)}

        def encode(image, label):
            """The posterior; of a Bernoulli model grey is taken as it is: the mean image of its draws."""
            mean, log_variance = self.posterior(image, checked(label))
            return {"mean": mean, "log_variance": log_variance}

        def decode(z, label):
            return {"image": self._images(z, checked(label))}

        def interpolate(z_from, z_to, fraction, label):
            return {"image": self._images(spherical(z_from, z_to, fraction), checked(label))}

        def elbo(image, seed, label):
            """The ELBO in nats, z drawn by the seed, which also makes grey black or white (Bernoulli)."""
            label = checked(label)
            seen = observed(config, image, rng.row_uniform(seed, int(np.prod(config.image_shape))))
            log_likelihood, kl = self.elbo_parts(seen, label, rng.row_normal(seed, config.latent_dim))
            return {"elbo": log_likelihood - kl}

        def likelihood(image, z, label):
            """log p(x|z) in nats: with `encode`, what any bound is made of. Bernoulli: black and white."""
            return {"log_likelihood": self.log_likelihood(image, checked(label), z[:, None])[:, 0]}

        return {
            "sample": function(sample, seed_spec, temperature_spec),
            "encode": function(encode, image_spec),
            "decode": function(decode, z_spec),
            "interpolate": function(interpolate, from_spec, to_spec, fraction_spec),
            "elbo": function(elbo, image_spec, seed_spec),
            "likelihood": function(likelihood, image_spec, z_spec),
        }

    def example_requests(self) -> dict[str, dict[str, np.ndarray]]:
        random = np.random.default_rng(0)
        seed = np.arange(3, dtype=np.int64)
        image = random.random((3, *self.config.image_shape), dtype=np.float32)
        z, z_to = random.standard_normal((2, 3, self.config.latent_dim)).astype(np.float32)
        requests: dict[str, dict[str, np.ndarray]] = {
            "sample": {"seed": seed, "temperature": np.array([1.0, 0.5, 0.0], np.float32)},
            "encode": {"image": image},
            "decode": {"z": z},
            "interpolate": {"z_from": z, "z_to": z_to, "fraction": np.array([0.0, 0.3, 1.0], np.float32)},
            "elbo": {"image": image, "seed": seed},
            "likelihood": {"image": image, "z": z},
        }
        if self.config.conditional:
            label = np.arange(3, dtype=np.int32) % len(self.config.class_names)
            requests = {name: {**request, "label": label} for name, request in requests.items()}
        return requests


def _logistic(parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The decoder's `[B, H, W, 2C]` → location and log scale. All zero: the middle of grey, a tenth wide."""
    location, log_scale = tf.split(parameters, 2, axis=3)
    return location + 0.5, tf.maximum(log_scale - math.log(10.0), _LOWEST_LOG_SCALE)
