"""Class-conditional generative adversarial networks for small images.

Goodfellow et al. 2014, "Generative Adversarial Nets" (arXiv:1406.2661); the convolutional pair follows
Radford et al. 2016, "DCGAN" (arXiv:1511.06434), the condition enters the discriminator by projection
(Miyato & Koyama 2018, arXiv:1802.05637), and samples come from a moving average of the generator's
weights (Yazıcı et al. 2019, arXiv:1806.04498).
"""

import dataclasses
import enum

import keras
import numpy as np
import tensorflow as tf

from zoo import base, layers, rng


class Architecture(enum.StrEnum):
    CONV = "conv"
    DENSE = "dense"


class Loss(enum.StrEnum):
    MINIMAX = "minimax"
    NON_SATURATING = "non_saturating"
    HINGE = "hinge"
    WASSERSTEIN = "wasserstein"


@dataclasses.dataclass
class Config:
    """What a GAN is made of. `image_shape` and `class_names` are taken from the data in training."""

    image_shape: tuple[int, int, int] = (28, 28, 1)  # height, width, channels
    class_names: tuple[str, ...] = tuple("0123456789")  # one name: an unconditional GAN
    architecture: Architecture = Architecture.CONV  # "dense": the plain pair of 2014, for 28x28
    latent_dim: int = 64
    channels: int = 32  # feature maps at half the image's resolution; doubled at each halving ...
    max_channels: int = 128  # ... up to this
    loss: Loss = Loss.NON_SATURATING
    gradient_penalty: float = 0.0  # weight of WGAN-GP's penalty on interpolates; 10 in the paper
    r1: float = 0.0  # gamma of the R1 penalty on real images
    discriminator_steps: int = 1  # discriminator updates for each one of the generator
    augment: bool = False  # differentiable augmentation of all the discriminator sees: for few images
    ema_decay: float = 0.999  # of the generator that is sampled; 0 samples the raw weights
    stretch: float = 1.0  # of samples' contrast: tanh never draws the pure black around a shoe

    def validate(self) -> None:
        """Raises `ValueError` that names the field, its value and what is expected."""
        height, width, channels = self.image_shape
        if height != width:
            raise ValueError(f"image_shape={self.image_shape}: a GAN's images are square")
        if channels not in (1, 3):
            raise ValueError(f"image_shape={self.image_shape}: 1 or 3 channels expected")
        if self.architecture == Architecture.CONV and (height % 2 or height < 6):
            raise ValueError(
                f"image_shape={self.image_shape}: the side must be even and above 4; set data.image_size"
            )
        if not self.class_names:
            raise ValueError("class_names is empty: at least one name is expected")
        for name in ("latent_dim", "channels", "max_channels", "discriminator_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 is expected")
        for name in ("gradient_penalty", "r1"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: 0 or more is expected")
        if self.stretch < 1:
            raise ValueError(f"stretch={self.stretch}: 1 or more is expected")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay}: a number in [0, 1) is expected")


# Networks ---------------------------------------------------------------------------------------


def _pyramid(config: Config) -> tuple[int, list[int]]:
    """The smallest feature map's size, and the widths from there up to half the image's size.

    A size is halved while it is even and above 4: 28 → 14 → 7, 64 → 32 → 16 → 8 → 4, 8 → 4.
    """
    size, width = config.image_shape[0], config.channels
    widths: list[int] = []
    while size % 2 == 0 and size > 4:
        size //= 2
        widths.insert(0, min(width, config.max_channels))
        width *= 2
    return size, widths


def conv_generator(config: Config, name: str) -> keras.Model:
    """z `[B, latent_dim]`, one-hot label `[B, K]` → image `[B, H, W, C]` in `[-1, 1]`."""
    size, widths = _pyramid(config)
    z = keras.Input((config.latent_dim,), name="z")
    label = keras.Input((len(config.class_names),), name="label")
    x = keras.layers.Concatenate(name="z_label")([z, label])
    x = keras.layers.Dense(size * size * widths[0], use_bias=False, name="project")(x)
    # Normalized unit by unit, before there are maps: each place of the map keeps its own scale.
    x = layers.BatchNormalization(momentum=0.9, name="project_bn")(x)
    x = keras.layers.ReLU(name="project_relu")(x)
    x = keras.layers.Reshape((size, size, widths[0]), name="reshape")(x)  # [B, s, s, widths[0]]
    for i, width in enumerate([*widths[1:], max(config.channels // 2, 1)]):
        x = keras.layers.Conv2DTranspose(
            width, 4, strides=2, padding="same", use_bias=False, name=f"up{i}"
        )(x)  # [B, 2h, 2w, width]
        x = layers.BatchNormalization(momentum=0.9, name=f"up{i}_bn")(x)
        x = _modulated(x, label, f"up{i}")
        x = keras.layers.ReLU(name=f"up{i}_relu")(x)
    # A convolution at full resolution draws the edges that a stride-2 one alone leaves jagged.
    image = keras.layers.Conv2D(
        config.image_shape[2], 3, padding="same", activation="tanh", name="image"
    )(x)
    return layers.Network([z, label], image, name=name)


def _modulated(x: keras.KerasTensor, label: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Scales and shifts each feature map by the label: conditional batch normalization (Dumoulin et al. 2017,
    arXiv:1610.07629), as Miyato & Koyama's generator has it. Starts as the identity."""
    width = x.shape[-1]

    def of_label(what: str) -> keras.KerasTensor:
        dense = keras.layers.Dense(width, use_bias=False, kernel_initializer="zeros", name=f"{name}_{what}")
        return keras.layers.Reshape((1, 1, width), name=f"{name}_{what}_map")(dense(label))

    scaled = keras.layers.Multiply(name=f"{name}_scaled")([x, of_label("scale")])
    return keras.layers.Add(name=f"{name}_modulated")([x, scaled, of_label("shift")])


def conv_discriminator(config: Config) -> keras.Model:
    """Image `[B, H, W, C]` in `[-1, 1]`, one-hot label `[B, K]` → logit `[B]`.

    The label is there from the first layer on, as a learnt map beside the image (Mirza & Osindero 2014,
    arXiv:1411.1784), and again in the projection: what is wrong with a shirt shows in its edges.
    """
    height, width, _ = config.image_shape
    _, widths = _pyramid(config)
    image = keras.Input(config.image_shape, name="image")
    label = keras.Input((len(config.class_names),), name="label")
    label_map = keras.layers.Dense(height * width, name="label_map")(label)
    label_map = keras.layers.Reshape((height, width, 1), name="label_map_2d")(label_map)
    x = keras.layers.Concatenate(name="image_label")([image, label_map])  # [B, H, W, C + 1]
    for i, width in enumerate(reversed(widths)):
        x = keras.layers.Conv2D(width, 4, strides=2, padding="same", name=f"down{i}")(x)
        x = keras.layers.LeakyReLU(0.2, name=f"down{i}_relu")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(64, name="feature")(x)
    x = keras.layers.LeakyReLU(0.2, name="feature_relu")(x)  # [B, 64]
    return _projection_head(image, label, x)


def dense_generator(config: Config, name: str) -> keras.Model:
    """The plain fully connected generator; same inputs and outputs as `conv_generator`."""
    z = keras.Input((config.latent_dim,), name="z")
    label = keras.Input((len(config.class_names),), name="label")
    x = keras.layers.Concatenate(name="z_label")([z, label])
    for i, width in enumerate((128, 256)):
        x = keras.layers.Dense(width, use_bias=False, name=f"dense{i}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"dense{i}_bn")(x)
        x = keras.layers.ReLU(name=f"dense{i}_relu")(x)
    x = keras.layers.Dense(int(np.prod(config.image_shape)), activation="tanh", name="image")(x)
    image = keras.layers.Reshape(config.image_shape, name="reshape")(x)
    return layers.Network([z, label], image, name=name)


def dense_discriminator(config: Config) -> keras.Model:
    """The plain fully connected discriminator; same inputs and outputs as `conv_discriminator`."""
    image = keras.Input(config.image_shape, name="image")
    label = keras.Input((len(config.class_names),), name="label")
    x = keras.layers.Flatten(name="flatten")(image)
    for i, width in enumerate((256, 128)):
        x = keras.layers.Dense(width, name=f"dense{i}")(x)
        x = keras.layers.LeakyReLU(0.2, name=f"dense{i}_relu")(x)
    return _projection_head(image, label, x)


def _projection_head(
    image: keras.KerasTensor, label: keras.KerasTensor, x: keras.KerasTensor
) -> keras.Model:
    """logit = w·h + b + e(label)·h  (Miyato & Koyama 2018, equation 3)."""
    logit = keras.layers.Dense(1, name="logit")(x)  # [B, 1]
    embedded = keras.layers.Dense(x.shape[-1], use_bias=False, name="label_embedding")(label)
    projection = keras.layers.Dot(axes=1, name="projection")([embedded, x])  # [B, 1]
    logit = keras.layers.Add(name="logit_given_label")([logit, projection])
    logit = keras.layers.Reshape((), name="squeeze")(logit)
    return layers.Network([image, label], logit, name="discriminator")


GENERATORS = {Architecture.CONV: conv_generator, Architecture.DENSE: dense_generator}
DISCRIMINATORS = {Architecture.CONV: conv_discriminator, Architecture.DENSE: dense_discriminator}


# Losses -----------------------------------------------------------------------------------------
# Each takes the discriminator's logits, float [B], and returns the mean over the batch, a scalar.


def _log_sigmoid_loss(logit: tf.Tensor, target: float) -> tf.Tensor:
    return tf.reduce_mean(
        tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.fill(tf.shape(logit), target), logits=logit)
    )


def minimax_discriminator_loss(real: tf.Tensor, fake: tf.Tensor) -> tf.Tensor:
    """-E log D(x) - E log(1 - D(G(z))), D = sigmoid(logit) (Goodfellow 2014, equation 1)."""
    return _log_sigmoid_loss(real, 1.0) + _log_sigmoid_loss(fake, 0.0)


def minimax_generator_loss(fake: tf.Tensor) -> tf.Tensor:
    """E log(1 - D(G(z))) (Goodfellow 2014, equation 1); saturates when D is sure."""
    return -_log_sigmoid_loss(fake, 0.0)


def non_saturating_generator_loss(fake: tf.Tensor) -> tf.Tensor:
    """-E log D(G(z)) (Goodfellow 2014, section 3)."""
    return _log_sigmoid_loss(fake, 1.0)


def hinge_discriminator_loss(real: tf.Tensor, fake: tf.Tensor) -> tf.Tensor:
    """E max(0, 1 - f(x)) + E max(0, 1 + f(G(z))) (Lim & Ye 2017, arXiv:1705.02894)."""
    return tf.reduce_mean(tf.nn.relu(1.0 - real)) + tf.reduce_mean(tf.nn.relu(1.0 + fake))


def wasserstein_discriminator_loss(real: tf.Tensor, fake: tf.Tensor) -> tf.Tensor:
    """E f(G(z)) - E f(x) (Arjovsky et al. 2017, arXiv:1701.07875)."""
    return tf.reduce_mean(fake) - tf.reduce_mean(real)


def linear_generator_loss(fake: tf.Tensor) -> tf.Tensor:
    """-E f(G(z)): the generator's side of the hinge and the Wasserstein loss."""
    return -tf.reduce_mean(fake)


def wgan_gradient_penalty(gradient: tf.Tensor) -> tf.Tensor:
    """E (||∇f(x̂)||₂ - 1)², x̂ between real and fake (Gulrajani et al. 2017, arXiv:1704.00028, eq. 3).

    Args:
        gradient: of the logits with respect to x̂, `[B, H, W, C]`.
    """
    norm = tf.sqrt(tf.reduce_sum(tf.square(gradient), axis=[1, 2, 3]) + 1e-12)
    return tf.reduce_mean(tf.square(norm - 1.0))


def r1_penalty(gradient: tf.Tensor) -> tf.Tensor:
    """½ E ||∇f(x)||² on real images (Mescheder et al. 2018, arXiv:1801.04406, equation 9).

    Args:
        gradient: of the logits with respect to the real images, `[B, H, W, C]`.
    """
    return 0.5 * tf.reduce_mean(tf.reduce_sum(tf.square(gradient), axis=[1, 2, 3]))


DISCRIMINATOR_LOSSES = {
    Loss.MINIMAX: minimax_discriminator_loss,
    Loss.NON_SATURATING: minimax_discriminator_loss,
    Loss.HINGE: hinge_discriminator_loss,
    Loss.WASSERSTEIN: wasserstein_discriminator_loss,
}
GENERATOR_LOSSES = {
    Loss.MINIMAX: minimax_generator_loss,
    Loss.NON_SATURATING: non_saturating_generator_loss,
    Loss.HINGE: linear_generator_loss,
    Loss.WASSERSTEIN: linear_generator_loss,
}


def differentiable_augment(image: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """Brightness, saturation, contrast and translation that gradients pass through.

    Zhao et al. 2020, "Differentiable Augmentation" (arXiv:2006.10738), policies "color" and
    "translation", as one pass over the batch.

    Args:
        image: `[B, H, W, C]` in `[-1, 1]`.
        noise: standard normal `[B, 5]`; the same noise moves an image the same way.

    Returns:
        `[B, H, W, C]`.
    """
    # Φ turns the normal noise into uniform numbers in [0, 1].
    uniform = 0.5 * (1.0 + tf.math.erf(noise / np.sqrt(2.0)))[:, :, None, None]  # [B, 5, 1, 1]
    brightness, saturation, contrast = (uniform[:, i, :, :, None] for i in range(3))
    if image.shape[3] == 3:
        image = image + brightness - 0.5
        grey = tf.reduce_mean(image, axis=3, keepdims=True)
        image = (image - grey) * (2.0 * saturation) + grey
        mean = tf.reduce_mean(image, axis=[1, 2, 3], keepdims=True)
        image = (image - mean) * (contrast + 0.5) + mean
    size = image.shape[1]
    reach = size // 8
    shift = tf.cast(tf.floor(uniform[:, 3:5, 0, 0] * (2 * reach + 1)), tf.int32)  # [B, 2]
    shift = tf.minimum(shift, 2 * reach)  # far out in the tail Φ rounds to 1
    padded = tf.pad(image, [[0, 0], [reach, reach], [reach, reach], [0, 0]], constant_values=-1.0)
    rows = tf.range(size)[None, :] + shift[:, :1]  # [B, H]
    columns = tf.range(size)[None, :] + shift[:, 1:]  # [B, W]
    return tf.gather(tf.gather(padded, rows, batch_dims=1), columns, axis=2, batch_dims=1)


# Training ---------------------------------------------------------------------------------------


class Model(base.Model):
    """A conditional GAN; `fit` on batches of (image `[B, H, W, C]` in `[0, 1]`, label int `[B]`)."""

    showpiece = "samples"
    limits = (
        "For pictures to look at, not as data to measure anything on: it leaves out part of the variety of "
        "what it learnt from and repeats its biases."
    )

    def __init__(self, config: Config, seed: int = 0):
        config.validate()
        super().__init__(config, seed)
        keras.utils.set_random_seed(seed)
        self.generator = GENERATORS[config.architecture](config, "generator")
        self.ema_generator = GENERATORS[config.architecture](config, "ema_generator")
        self.ema_generator.trainable = False
        self.ema_generator.set_weights(self.generator.get_weights())
        self.discriminator = DISCRIMINATORS[config.architecture](config)
        self.discriminator_optimizer: keras.optimizers.Optimizer | None = None
        self.generator_loss = keras.metrics.Mean(name="generator_loss")
        self.discriminator_loss = keras.metrics.Mean(name="discriminator_loss")
        self.built = True

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer,
        discriminator_optimizer: keras.optimizers.Optimizer | None = None,
    ) -> None:
        """Sets the generator's optimizer; the discriminator gets one of the same configuration
        unless another is given."""
        if discriminator_optimizer is None:
            discriminator_optimizer = type(optimizer).from_config(optimizer.get_config())
        # Keras' own: each optimizer here is for a part of the variables.
        super(base.Model, self).compile(optimizer=optimizer, jit_compile=False)
        self.discriminator_optimizer = discriminator_optimizer
        optimizer.build(self.generator.trainable_variables)
        discriminator_optimizer.build(self.discriminator.trainable_variables)

    @property
    def losses_tracked(self) -> tuple[keras.metrics.Mean, ...]:
        return (self.generator_loss, self.discriminator_loss)

    @property
    def optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        if self.discriminator_optimizer is None:
            return {}
        return {
            "optimizer": self.optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }

    @property
    def networks(self) -> dict[str, keras.Model]:
        return {"generator": self.ema_generator, "discriminator": self.discriminator}

    def load_inference_weights(self) -> None:
        self.generator.set_weights(self.ema_generator.get_weights())

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        image, label = data
        real = image * 2.0 - 1.0
        rows = tf.shape(image)[0]
        condition = tf.one_hot(label, len(self.config.class_names))

        # Every discriminator update of a step sees the same real images, and fakes of its own.
        for i in range(self.config.discriminator_steps):
            z = self._noise(rows, self.config.latent_dim, 4 * i)
            with tf.GradientTape() as generator_tape:
                fake = self.generator([z, condition], training=True)
            with tf.GradientTape() as tape:
                loss = self._discriminator_loss(real, tf.stop_gradient(fake), condition, 4 * i)
            variables = self.discriminator.trainable_variables
            optimizer = self.optimizers["discriminator_optimizer"]
            optimizer.apply(self._gradients(tape, loss, variables, optimizer), variables)
            self.discriminator_loss.update_state(loss)

        # The last fakes are judged again by the discriminator just updated (as DCGAN's code does);
        # the chain rule through the fakes saves the generator a second forward pass.
        with tf.GradientTape() as tape:
            tape.watch(fake)
            seen = self._augmented(fake, rows, 4 * self.config.discriminator_steps)
            logit = self.discriminator([seen, condition], training=True)
            loss = GENERATOR_LOSSES[self.config.loss](logit)
        variables = self.generator.trainable_variables
        (of_fake,) = self._gradients(tape, loss, [fake], self.optimizer)
        gradients = generator_tape.gradient(fake, variables, output_gradients=of_fake)
        self.optimizer.apply(gradients, variables)
        self.generator_loss.update_state(loss)
        self._update_ema()
        self._advance()
        return self._means()

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        image, label = data
        condition = tf.one_hot(label, len(self.config.class_names))
        rows = tf.shape(image)[0]
        z = tf.random.stateless_normal([rows, self.config.latent_dim], seed=[0, 0])
        fake_logit = self.discriminator([self.ema_generator([z, condition]), condition])
        real_logit = self.discriminator([image * 2.0 - 1.0, condition])
        self.generator_loss.update_state(
            GENERATOR_LOSSES[self.config.loss](fake_logit), sample_weight=rows
        )
        self.discriminator_loss.update_state(
            DISCRIMINATOR_LOSSES[self.config.loss](real_logit, fake_logit), sample_weight=rows
        )
        return self._means()

    def _noise(self, rows: tf.Tensor, width: int, stream: int) -> tf.Tensor:
        return rng.replica_normal(rows, width, self.seed, stream, self.noise_step)

    def _augmented(self, image: tf.Tensor, rows: tf.Tensor, stream: int) -> tf.Tensor:
        if not self.config.augment:
            return image
        return differentiable_augment(image, self._noise(rows, 5, stream))

    def _discriminator_loss(
        self, real: tf.Tensor, fake: tf.Tensor, condition: tf.Tensor, stream: int
    ) -> tf.Tensor:
        """The adversarial loss with its penalties, for one replica's batch."""
        rows = tf.shape(real)[0]
        real = self._augmented(real, rows, stream + 1)
        fake = self._augmented(fake, rows, stream + 2)
        real_logit = self.discriminator([real, condition], training=True)
        fake_logit = self.discriminator([fake, condition], training=True)
        loss = DISCRIMINATOR_LOSSES[self.config.loss](real_logit, fake_logit)
        if self.config.r1:
            loss += self.config.r1 * r1_penalty(self._input_gradient(real, condition))
        if self.config.gradient_penalty:
            fraction = 0.5 * (1.0 + tf.math.erf(self._noise(rows, 1, stream + 3) / np.sqrt(2.0)))
            between = real + fraction[:, :, None, None] * (fake - real)
            gradient = self._input_gradient(between, condition)
            loss += self.config.gradient_penalty * wgan_gradient_penalty(gradient)
        return loss

    def _input_gradient(self, image: tf.Tensor, condition: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(image)
            logit = tf.reduce_sum(self.discriminator([image, condition], training=True))
        return tape.gradient(logit, image)

    def _update_ema(self) -> None:
        # The average starts short and grows to its full length: early weights are worth forgetting.
        step = tf.cast(self.noise_step, tf.float32)
        decay = tf.minimum(self.config.ema_decay, (1.0 + step) / (10.0 + step))
        for average, weight in zip(self.ema_generator.weights, self.generator.weights, strict=True):
            average.assign(weight + decay * (average - weight))

    # Serving ------------------------------------------------------------------------------------

    def preview(self, seed: int, examples: tuple[np.ndarray, ...]) -> dict[str, base.Preview]:
        """`samples`: a column for each class, 8 rows; every image has a seed, hence a z, of its own."""
        rows, classes = 8, len(self.config.class_names)
        label = np.tile(np.arange(classes, dtype=np.int32), rows)
        seeds = np.arange(rows * classes, dtype=np.int64) + 1_000_000 * seed
        z = rng.row_normal(tf.constant(seeds), self.config.latent_dim)
        image = self._images(z, tf.constant(label)).numpy()
        return {"samples": image.reshape(rows, classes, *self.config.image_shape)}

    def _images(self, z: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        """z float `[B, latent_dim]`, label int `[B]` → image float `[B, H, W, C]` in `[0, 1]`."""
        condition = tf.one_hot(label, len(self.config.class_names))
        image = self.config.stretch * self.ema_generator([z, condition], training=False)
        return 0.5 * (tf.clip_by_value(image, -1.0, 1.0) + 1.0)

    def signatures(self) -> dict[str, base.Signature]:
        config = self.config
        classes = len(config.class_names)

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.int64, "seed"),
                tf.TensorSpec([None], tf.int32, "label"),
                tf.TensorSpec([None], tf.float32, "truncation"),
            ]
        )
        def sample(seed, label=tf.constant([-1]), truncation=tf.constant([1.0])):  # noqa: B008
            """Images by seed; label -1 draws one; truncation scales z (1: as trained, 0: the mode).

            Scaling toward the mean is the truncation trick of Karras et al. 2019 (appendix B), in z.
            """
            rows = tf.shape(seed)
            label = layers.checked_label(tf.broadcast_to(label, rows), -1, classes)
            label = tf.where(label < 0, rng.row_index(seed, classes), label)
            z = rng.row_normal(seed, config.latent_dim)
            z *= tf.broadcast_to(truncation, rows)[:, None]
            return {"image": self._images(z, label), "label": label}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, config.latent_dim], tf.float32, "z"),
                tf.TensorSpec([None], tf.int32, "label"),
            ]
        )
        def generate(z, label):
            return {"image": self._images(z, layers.checked_label(label, 0, classes))}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, *config.image_shape], tf.float32, "image"),
                tf.TensorSpec([None], tf.int32, "label"),
            ]
        )
        def discriminate(image, label):
            condition = tf.one_hot(layers.checked_label(label, 0, classes), classes)
            return {"logit": self.discriminator([image * 2.0 - 1.0, condition], training=False)}

        return {"sample": sample, "generate": generate, "discriminate": discriminate}

    def example_requests(self) -> dict[str, dict[str, np.ndarray]]:
        random = np.random.default_rng(0)
        classes = len(self.config.class_names)
        label = np.arange(3, dtype=np.int32) % classes
        image = random.random((3, *self.config.image_shape), dtype=np.float32)
        z = random.standard_normal((3, self.config.latent_dim)).astype(np.float32)
        return {
            "sample": {
                "seed": np.arange(3, dtype=np.int64),
                "label": np.array([-1, 0, classes - 1], np.int32),
                "truncation": np.array([1.0, 1.0, 0.5], np.float32),
            },
            "generate": {"z": z, "label": label},
            "discriminate": {"image": image, "label": label},
        }
