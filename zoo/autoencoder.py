"""Convolutional autoencoder for small images: it reconstructs, restores and compresses them.

Hinton & Salakhutdinov 2006, "Reducing the Dimensionality of Data with Neural Networks" (Science 313), with
convolutions and residual blocks (He et al. 2016, arXiv:1603.05027) in place of its dense layers. Restoring is
Vincent et al.'s task (2008, "Extracting and Composing Robust Features with Denoising Autoencoders") in the
residual form of DnCNN (Zhang et al. 2017, arXiv:1608.03981): the network predicts what was added.

Restoring has a network of its own, a small U-Net (Ronneberger et al. 2015, arXiv:1505.04597). Through the
code it could be no better than the reconstruction of a *clean* image, and a code that is small enough to be
worth sending loses more than light noise does.
"""

import dataclasses
import io

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from zoo import base, layers, pyramid, rng
from zoo.images import decode_images


@dataclasses.dataclass
class Config:
    """What an autoencoder is made of. `image_shape` is taken from the data in training."""

    image_shape: tuple[int, int, int] = (28, 28, 1)  # height, width, channels
    code_dim: int = 32  # numbers in a code; a compressed image has a byte for each, and two
    channels: int = 16  # feature maps of the coder at half the image's resolution; doubled at each ...
    max_channels: int = 64  # ... halving up to this
    blocks: int = 1  # residual blocks of the coder at each resolution
    # Units of its dense layers, which see the whole image at once. 0: there are none, and the code is a map
    # of the image, which larger images learn to fill sooner.
    hidden: int = 256
    denoiser_channels: int = 16  # feature maps and blocks of the denoiser, likewise
    denoiser_max_channels: int = 64
    denoiser_blocks: int = 1
    # Feature maps of the denoiser at the image's own resolution. 0: it starts at half of it, twice as fast.
    denoiser_fine_channels: int = 0

    def validate(self) -> None:
        """Raises `ValueError` that names the field, its value and what is expected."""
        pyramid.check_image_shape(self.image_shape)
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            least = 0 if field.name in ("hidden", "denoiser_fine_channels") else 1
            if value < least:
                raise ValueError(f"{field.name}={value}: at least {least} is expected")
        if not self.hidden:
            pyramid.check_map("code_dim", self.code_dim, self.image_shape)


# Networks ---------------------------------------------------------------------------------------


_SOFT = 4.0  # the code is tanh(x / 4): almost linear where most of it lies


def _down(x: keras.KerasTensor, width: int, name: str) -> keras.KerasTensor:
    """`[B, h, w, c]` → `[B, h / 2, w / 2, width]`."""
    return pyramid.conv(x, width, name, kernel=4, stride=2)


def _up(x: keras.KerasTensor, width: int, name: str, initializer: str = "glorot_uniform"):
    """`[B, h, w, c]` → `[B, 2h, 2w, width]`."""
    return keras.layers.Conv2DTranspose(
        width, 4, strides=2, padding="same", kernel_initializer=initializer, name=name
    )(x)


def _dense_block(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """The same of dense layers, with a ReLU behind it: `[B, D]` → `[B, D]`."""
    width = x.shape[-1]
    y = keras.layers.Dense(width, kernel_initializer="he_normal", name=f"{name}_dense1")(
        pyramid.relu(x, f"{name}_relu1")
    )
    y = keras.layers.Dense(width, kernel_initializer="zeros", name=f"{name}_dense2")(
        pyramid.relu(y, f"{name}_relu2")
    )
    return pyramid.relu(keras.layers.Add(name=f"{name}_add")([x, y]), f"{name}_relu3")


def encoder(config: Config) -> keras.Model:
    """Image `[B, H, W, C]` in `[0, 1]` → code `[B, D]` in `[-1, 1]`."""
    image = keras.Input(config.image_shape, name="image")
    x = image
    for i, width in enumerate(pyramid.widths(config.image_shape, config.channels, config.max_channels)):
        x = _down(pyramid.relu(x, f"down{i}_relu") if i else x, width, f"down{i}")
        x = pyramid.blocks(x, config.blocks, f"down{i}")
    # Bounded, so that one byte can hold each number; softly, as a tanh that starts saturated learns slowly.
    x = pyramid.relu(x, "last_relu")
    if config.hidden:
        x = keras.layers.Flatten(name="flatten")(x)
        x = _dense_block(keras.layers.Dense(config.hidden, name="hidden")(x), "hidden")
        x = keras.layers.Dense(config.code_dim, name="unbounded")(x)
    else:
        height, width = pyramid.smallest(config.image_shape)
        x = pyramid.conv(x, config.code_dim // (height * width), "unbounded")
        x = keras.layers.Flatten(name="flatten")(x)
    code = keras.layers.Activation("tanh", name="code")(keras.layers.Rescaling(1 / _SOFT, name="soft")(x))
    return layers.Network(image, code, name="encoder")


def decoder(config: Config) -> keras.Model:
    """Code `[B, D]` → image `[B, H, W, C]`; what lies outside `[0, 1]` is to be cut off.

    A sigmoid here would stay in the mean image for epochs: where it says black, it has no gradient left.
    """
    widths = pyramid.widths(config.image_shape, config.channels, config.max_channels)
    smallest = (*pyramid.smallest(config.image_shape), widths[-1])
    code = keras.Input((config.code_dim,), name="code")
    x = keras.layers.Rescaling(_SOFT, name="soft")(code)
    if config.hidden:
        x = _dense_block(keras.layers.Dense(config.hidden, name="hidden")(x), "hidden")
        x = keras.layers.Dense(int(np.prod(smallest)), name="project")(x)
        x = keras.layers.Reshape(smallest, name="reshape")(x)
    else:
        height, width, channels = smallest
        x = keras.layers.Reshape((height, width, config.code_dim // (height * width)), name="reshape")(x)
        x = pyramid.conv(x, channels, "project")
    for i in reversed(range(len(widths))):
        x = pyramid.relu(pyramid.blocks(x, config.blocks, f"up{i}"), f"up{i}_relu")
        if i:
            x = _up(x, widths[i - 1], f"up{i}")
    image = _up(x, config.image_shape[2], "image")
    return layers.Network(code, image, name="decoder")


def denoiser(config: Config) -> keras.Model:
    """Corrupted image `[B, H, W, C]` → what to subtract to restore it, same shape; zero before training."""
    channels = config.image_shape[2]
    widths = pyramid.widths(config.image_shape, config.denoiser_channels, config.denoiser_max_channels)
    image = keras.Input(config.image_shape, name="image")
    x, seen = image, []
    fine = config.denoiser_fine_channels
    if fine:
        x = pyramid.conv(image, fine, "fine_down")
        x = finest = pyramid.blocks(x, config.denoiser_blocks, "fine_down")
    for i, width in enumerate(widths):
        x = _down(pyramid.relu(x, f"down{i}_relu") if i or fine else x, width, f"down{i}")
        x = pyramid.blocks(x, config.denoiser_blocks, f"down{i}")
        seen.append(x)
    for i in reversed(range(len(widths))):
        if i < len(widths) - 1:
            x = keras.layers.Add(name=f"up{i}_skip")([x, seen[i]])
        x = pyramid.relu(pyramid.blocks(x, config.denoiser_blocks, f"up{i}"), f"up{i}_relu")
        if i:
            x = _up(x, widths[i - 1], f"up{i}")
    if fine:
        x = keras.layers.Add(name="fine_up_skip")([_up(x, fine, "up0"), finest])
        x = pyramid.relu(pyramid.blocks(x, config.denoiser_blocks, "fine_up"), "fine_up_relu")
        noise = pyramid.conv(x, channels, "noise", zeros=True)
    else:
        noise = _up(x, channels, "noise", "zeros")
    return layers.Network(image, noise, name="denoiser")


# Corruptions ------------------------------------------------------------------------------------
# Each takes images [B, H, W, C] in [0, 1], its strength [B] (0 changes nothing), standard normal noise
# [B, H, W, C] and place, [B, 3] uniform in [0, 1]; it returns images in [0, 1].


def _uniform(normal: tf.Tensor) -> tf.Tensor:
    """Φ turns normal noise into uniform numbers in [0, 1]."""
    return 0.5 * (1.0 + tf.math.erf(normal / np.sqrt(2.0)))


def _per_image(strength: tf.Tensor) -> tf.Tensor:
    return strength[:, None, None, None]


def gaussian_noise(image: tf.Tensor, strength: tf.Tensor, noise: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """Noise of standard deviation `strength`, cut off at black and white as any stored picture is."""
    return tf.clip_by_value(image + _per_image(strength) * noise, 0.0, 1.0)


def salt_and_pepper(image: tf.Tensor, strength: tf.Tensor, noise: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """The share `strength` of the pixels is lost, half of it to black, half to white."""
    drawn = _uniform(noise[..., :1])  # a pixel is lost in all its channels
    half = 0.5 * _per_image(strength)
    return tf.where(drawn < half, 0.0, tf.where(drawn > 1.0 - half, 1.0, image))


def erase(image: tf.Tensor, strength: tf.Tensor, noise: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """A rectangle with the share `strength` of the area is black; `place`: top, left, aspect."""
    _, height, width, _ = image.shape
    aspect = tf.exp((2.0 * place[:, 2] - 1.0) * np.log(1.5))
    h = tf.minimum(tf.sqrt(strength) * aspect, 1.0) * height
    w = tf.minimum(tf.sqrt(strength) / aspect, 1.0) * width
    top, left = tf.round(place[:, 0] * (height - h)), tf.round(place[:, 1] * (width - w))
    y, x = tf.range(height, dtype=tf.float32), tf.range(width, dtype=tf.float32)
    inside_y = (y >= top[:, None]) & (y < tf.round(top + h)[:, None])  # [B, H]
    inside_x = (x >= left[:, None]) & (x < tf.round(left + w)[:, None])  # [B, W]
    return tf.where((inside_y[:, :, None] & inside_x[:, None, :])[..., None], 0.0, image)


def blur(image: tf.Tensor, strength: tf.Tensor, noise: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """Gaussian blur with a standard deviation of `strength` image heights; edges count what is inside."""

    def kernel(size: int) -> tf.Tensor:
        place = tf.range(size, dtype=tf.float32)
        distance = tf.square(place[:, None] - place[None, :])  # [size, size]
        sigma = tf.maximum(strength * image.shape[1], 1e-3)[:, None, None]
        weight = tf.exp(-0.5 * distance / tf.square(sigma))
        return weight / tf.reduce_sum(weight, axis=2, keepdims=True)  # [B, size, size]

    _, height, width, _ = image.shape
    return tf.einsum("bij,bjkc,blk->bilc", kernel(height), image, kernel(width))


def low_light(image: tf.Tensor, strength: tf.Tensor, noise: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """The light falls to 1 - `strength`, and a sensor's noise of up to 0.05 shows instead."""
    strength = _per_image(strength)
    return tf.clip_by_value(image * (1.0 - strength) + 0.05 * strength * noise, 0.0, 1.0)


# name → function, the strongest it is trained at, its share of the training images
CORRUPTIONS = {
    "gaussian": (gaussian_noise, 0.4, 0.4),
    "salt_and_pepper": (salt_and_pepper, 0.4, 0.15),
    "mask": (erase, 0.25, 0.15),
    "blur": (blur, 0.08, 0.15),
    "low_light": (low_light, 0.8, 0.15),
}


def noise_width(image_shape: tuple[int, ...]) -> int:
    """How many normal numbers `corrupt` needs for one image."""
    return int(np.prod(image_shape)) + 3


def corrupt(image: tf.Tensor, kind: tf.Tensor, strength: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """Each image spoilt in its own way.

    Args:
        image: `[B, H, W, C]` in `[0, 1]`.
        kind: int `[B]`, which of `CORRUPTIONS`.
        strength: `[B]`.
        noise: standard normal `[B, noise_width]`.

    Returns:
        `[B, H, W, C]` in `[0, 1]`.
    """
    place, field = _uniform(noise[:, :3]), tf.reshape(noise[:, 3:], tf.shape(image))
    spoilt = image
    for i, (function, _, _) in enumerate(CORRUPTIONS.values()):
        spoilt = tf.where(_per_image(kind == i), function(image, strength, field, place), spoilt)
    return spoilt


def drawn_corruption(image: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """`corrupt` with kind and strength drawn from the first two of `noise`, `[B, 2 + noise_width]`."""
    shares = np.cumsum([share for _, _, share in CORRUPTIONS.values()])[:-1]
    strongest = tf.constant([strength for _, strength, _ in CORRUPTIONS.values()])
    uniform = _uniform(noise[:, :2])
    kind = tf.reduce_sum(tf.cast(uniform[:, :1] > tf.constant(shares, tf.float32), tf.int32), axis=1)
    return corrupt(image, kind, uniform[:, 1] * tf.gather(strongest, kind), noise[:, 2:])


# Losses -----------------------------------------------------------------------------------------


def squared_error(image: tf.Tensor, answer: tf.Tensor) -> tf.Tensor:
    """Mean over batch and pixels of (answer - image)²; both `[B, H, W, C]`."""
    return tf.reduce_mean(tf.square(answer - image))


# A PSNR of 30 dB: for images that are restored better, the weight of an error grows no more.
_RESTORED = 1e-3


def log_error(image: tf.Tensor, answer: tf.Tensor) -> tf.Tensor:
    """Mean over the batch of log(MSE + 0.001), where MSE is an image's own; both `[B, H, W, C]`.

    HINet's loss (Chen et al. 2021, arXiv:2105.06086), PSNR up to sign and scale: each image counts alike,
    whatever was done to it. Under the squared error the few that are badly erased or blurred outweigh all
    that are noisy.
    """
    error = tf.reduce_mean(tf.square(answer - image), axis=[1, 2, 3])
    return tf.reduce_mean(tf.math.log(error + _RESTORED))


# Compression ------------------------------------------------------------------------------------

_CHECK_BYTES = 2
_PRIME = 65521  # the largest below 2^16


def quantise(code: tf.Tensor) -> tf.Tensor:
    """Float `[B, D]` in `[-1, 1]` → int32 `[B, D]` in 0..255."""
    return tf.cast(tf.round((tf.clip_by_value(code, -1.0, 1.0) + 1.0) * 127.5), tf.int32)


def dequantise(levels: tf.Tensor) -> tf.Tensor:
    """Int `[B, D]` in 0..255 → float `[B, D]`, at most 1/255 from what `quantise` saw."""
    return tf.cast(levels, tf.float32) / 127.5 - 1.0


def _check_bytes(levels: tf.Tensor) -> tf.Tensor:
    """Σ_i (i + 1)(b_i + 1) modulo a prime, as two bytes `[B, 2]`: no changed byte and no two that changed
    places leave it as it was, and one in 65,521 of all other damage does."""
    place = tf.range(1, levels.shape[1] + 1, dtype=tf.int64)
    total = tf.reduce_sum(place * (tf.cast(levels, tf.int64) + 1), axis=1) % _PRIME
    return tf.cast(tf.stack([total // 256, total % 256], axis=1), tf.int32)


def pack(levels: tf.Tensor) -> tf.Tensor:
    """Int32 `[B, D]` in 0..255 → strings `[B]` of D + 2 bytes."""
    symbols = tf.constant([bytes([i]) for i in range(256)])
    return tf.strings.reduce_join(
        tf.gather(symbols, tf.concat([levels, _check_bytes(levels)], axis=1)), axis=1
    )


def unpack(code_bytes: tf.Tensor, code_dim: int) -> tf.Tensor:
    """The inverse of `pack`.

    Raises:
        tf.errors.InvalidArgumentError: for a string that `pack` did not write, when the graph runs.
    """
    size = code_dim + _CHECK_BYTES
    length = tf.debugging.assert_equal(
        tf.strings.length(code_bytes), size, f"code_bytes is not {size} bytes long: no code of this model"
    )
    with tf.control_dependencies([c for c in [length] if c is not None]):
        read = tf.cast(tf.io.decode_raw(tf.identity(code_bytes), tf.uint8), tf.int32)
    read = tf.ensure_shape(read, [None, size])
    levels, check = read[:, :code_dim], read[:, code_dim:]
    intact = tf.debugging.assert_equal(
        _check_bytes(levels), check, "code_bytes is damaged: its check bytes do not fit the rest"
    )
    with tf.control_dependencies([c for c in [intact] if c is not None]):
        return tf.identity(levels)


# Training ---------------------------------------------------------------------------------------


class Model(base.Model):
    """An autoencoder; `fit` on batches of (image `[B, H, W, C]` in `[0, 1]`, label), the label unused."""

    limits = (
        "For pictures like those it learnt from, at their size: others come back as the nearest thing it "
        "knows. A denoiser invents what noise has hidden: no evidence of what was there."
    )

    def __init__(self, config: Config, seed: int = 0):
        config.validate()
        super().__init__(config, seed)
        keras.utils.set_random_seed(seed)
        self.encoder = encoder(config)
        self.decoder = decoder(config)
        self.denoiser = denoiser(config)
        self.reconstruction = keras.metrics.Mean(name="reconstruction")
        self.denoising = keras.metrics.Mean(name="denoising")
        self.built = True

    @property
    def losses_tracked(self) -> tuple[keras.metrics.Mean, ...]:
        return (self.reconstruction, self.denoising)

    @property
    def networks(self) -> dict[str, keras.Model]:
        return {"encoder": self.encoder, "decoder": self.decoder, "denoiser": self.denoiser}

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        image = data[0]
        width = 2 + noise_width(self.config.image_shape)
        noise = rng.replica_normal(tf.shape(image)[0], width, self.seed, 0, self.noise_step)
        spoilt = drawn_corruption(image, noise)
        with tf.GradientTape() as tape:
            losses = [
                squared_error(image, self.decoder(self.encoder(image))),
                log_error(image, spoilt - self.denoiser(spoilt)),
            ]
            # The two share no weight: their sum trains each as if alone.
            loss = tf.add_n(losses)
        self._learn(tape, loss)
        return self._track(image, losses)

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        image = data[0]
        width = 2 + noise_width(self.config.image_shape)
        noise = tf.random.stateless_normal([tf.shape(image)[0], width], seed=[0, 0])
        restored = self._restored(drawn_corruption(image, noise))
        return self._track(
            image, [squared_error(image, self._reconstructed(image)), log_error(image, restored)]
        )

    def _track(self, image: tf.Tensor, losses: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        for mean, loss in zip(self.losses_tracked, losses, strict=True):
            mean.update_state(loss, sample_weight=tf.shape(image)[0])
        return self._means()

    # Serving ------------------------------------------------------------------------------------

    def preview(self, seed: int, examples: tuple[np.ndarray, ...]) -> dict[str, base.Preview]:
        """`reconstructions`: held-out images, below each its reconstruction; `denoised`: below each spoilt
        image the restored one, two rows for each kind of corruption; `codes` of all."""
        columns, kinds = 8, len(CORRUPTIONS)
        image = tf.constant(examples[0][: columns * kinds])
        rows = np.arange(image.shape[0])
        kind = tf.constant(rows // columns, tf.int32)
        strongest = tf.constant([strength for _, strength, _ in CORRUPTIONS.values()])
        noise = rng.row_normal(
            tf.constant(rows + 1_000_000 * seed, tf.int64), noise_width(self.config.image_shape)
        )
        spoilt = corrupt(image, kind, 0.5 * tf.gather(strongest, kind), noise)
        return {
            "reconstructions": _above(image, self._reconstructed(image), columns),
            "denoised": _above(spoilt, self._restored(spoilt), columns),
            "codes": base.embedded(lambda image, _: self.encoder(image, training=False), examples),
        }

    def _reconstructed(self, image: tf.Tensor) -> tf.Tensor:
        return self._decoded(self.encoder(image, training=False))

    def _decoded(self, code: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(self.decoder(code, training=False), 0.0, 1.0)

    def _restored(self, image: tf.Tensor) -> tf.Tensor:
        # Subtracted: Grappler would add an image and a bias in another order under the session loader.
        return tf.clip_by_value(image - self.denoiser(image, training=False), 0.0, 1.0)

    def signatures(self) -> dict[str, base.Signature]:
        image_shape, code_dim = self.config.image_shape, self.config.code_dim
        image_spec = tf.TensorSpec([None, *image_shape], tf.float32, "image")

        @tf.function(input_signature=[image_spec])
        def reconstruct(image):
            return {"image": self._reconstructed(image)}

        @tf.function(input_signature=[image_spec])
        def encode(image):
            """Codes in [-1, 1]."""
            return {"code": self.encoder(image, training=False)}

        @tf.function(input_signature=[tf.TensorSpec([None, code_dim], tf.float32, "code")])
        def decode(code):
            return {"image": self._decoded(code)}

        @tf.function(input_signature=[image_spec])
        def denoise(image):
            """Restores noisy, dotted, partly erased, blurred and dark images, whichever it is."""
            return {"image": self._restored(image)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
        def compress(image_bytes):
            """Pictures of any size → code_dim + 2 bytes each; what comes back has the model's size."""
            code = self.encoder(decode_images(image_bytes, image_shape), training=False)
            return {"code_bytes": pack(quantise(code))}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "code_bytes")])
        def decompress(code_bytes):
            """What `compress` wrote → PNG."""
            image = self._decoded(dequantise(unpack(code_bytes, code_dim)))
            pixels = tf.cast(tf.round(255.0 * image), tf.uint8)
            png = tf.map_fn(tf.io.encode_png, pixels, fn_output_signature=tf.TensorSpec([], tf.string))
            return {"image_bytes": png}

        return {
            "reconstruct": reconstruct,
            "encode": encode,
            "decode": decode,
            "denoise": denoise,
            "compress": compress,
            "decompress": decompress,
        }

    def example_requests(self) -> dict[str, dict[str, np.ndarray]]:
        random = np.random.default_rng(0)
        image = random.random((3, *self.config.image_shape), dtype=np.float32)
        code = random.uniform(-1.0, 1.0, (3, self.config.code_dim)).astype(np.float32)
        packed = pack(quantise(tf.constant(code))).numpy()
        return {
            "reconstruct": {"image": image},
            "encode": {"image": image},
            "decode": {"code": code},
            "denoise": {"image": image},
            "compress": {"image_bytes": np.array([_png(i) for i in image], object)},
            "decompress": {"code_bytes": packed},
        }


def _above(upper: tf.Tensor, lower: tf.Tensor, columns: int) -> np.ndarray:
    """Two stacks `[N, H, W, C]` as one sheet whose rows alternate."""
    shape = (-1, 1, columns, *upper.shape[1:])
    pairs = np.concatenate([upper.numpy().reshape(shape), lower.numpy().reshape(shape)], axis=1)
    return pairs.reshape(-1, columns, *upper.shape[1:])


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    pixels = (image * 255).astype(np.uint8)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()
