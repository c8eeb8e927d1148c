"""Residual convolutional image classifier that can explain itself.

He et al. 2016, "Identity Mappings in Deep Residual Networks" (arXiv:1603.05027): pre-activation blocks;
the head is global average pooling and one dense layer, the explanation Grad-CAM (Selvaraju et al. 2017,
arXiv:1610.02391). Or only the head learns, on the features of VGG19.
"""

import contextlib
import dataclasses
import io

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from zoo import base, layers, vgg19
from zoo.images import decode_images


@dataclasses.dataclass
class Config:
    """What a classifier is made of. `image_shape` and `class_names` are taken from the data."""

    image_shape: tuple[int, int, int] = (28, 28, 1)  # height, width, channels
    class_names: tuple[str, ...] = tuple("0123456789")
    stem: int = 32  # feature maps of the first convolution
    stem_stride: int = 1  # 2 for pictures of 64 pixels and more
    widths: tuple[int, ...] = (64, 128)  # a stage each; every stage halves height and width
    blocks: int = 1  # residual blocks in a stage
    # Instead of the residual network: VGG19 up to block4_conv4, frozen; what `vgg19.features` takes.
    vgg19_weights: str = ""
    label_smoothing: float = 0.0  # of the one-hot targets (Szegedy 2016, section 7)

    def validate(self) -> None:
        """Raises `ValueError` that names the field, its value and what is expected."""
        if len(self.image_shape) != 3 or self.image_shape[2] not in (1, 3):
            raise ValueError(f"image_shape={self.image_shape}: (height, width, 1 or 3) is expected")
        if len(self.class_names) < 2:
            raise ValueError(f"class_names={self.class_names}: at least two names are expected")
        if self.vgg19_weights and self.image_shape[2] != 3:
            raise ValueError(f"image_shape={self.image_shape}: VGG19 sees pictures in colour alone")
        if not self.widths:
            raise ValueError("widths is empty: at least one stage is expected")
        for name, value in (("stem", self.stem), ("stem_stride", self.stem_stride)):
            if value < 1:
                raise ValueError(f"{name}={value}: at least 1 is expected")
        if self.blocks < 1 or min(self.widths) < 1:
            raise ValueError(f"blocks={self.blocks}, widths={self.widths}: at least 1 is expected")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing={self.label_smoothing}: a number in [0, 1) is expected"
            )


# Networks ---------------------------------------------------------------------------------------


def _conv(x: keras.KerasTensor, width: int, kernel: int, stride: int, name: str):
    return keras.layers.Conv2D(
        width,
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)


def _block(x: keras.KerasTensor, width: int, stride: int, name: str) -> keras.KerasTensor:
    """Pre-activation residual block: `[B, h, w, c]` → `[B, h/stride, w/stride, width]`."""
    y = layers.BatchNormalization(momentum=0.95, name=f"{name}_bn1")(x)
    y = keras.layers.ReLU(name=f"{name}_relu1")(y)
    shortcut = x
    if stride > 1 or x.shape[-1] != width:
        shortcut = y
        if stride > 1:
            # Averaging before the 1x1 convolution uses all four pixels (He et al. 2019, ResNet-D).
            shortcut = keras.layers.AveragePooling2D(
                stride, padding="same", name=f"{name}_shortcut_pool"
            )(y)
        shortcut = _conv(shortcut, width, 1, 1, f"{name}_shortcut")
    y = _conv(y, width, 3, stride, f"{name}_conv1")
    y = layers.BatchNormalization(momentum=0.95, name=f"{name}_bn2")(y)
    y = keras.layers.ReLU(name=f"{name}_relu2")(y)
    y = _conv(y, width, 3, 1, f"{name}_conv2")
    return keras.layers.Add(name=f"{name}_add")([shortcut, y])


def trunk(config: Config) -> keras.Model:
    """Image `[B, H, W, C]` in `[0, 1]` → feature maps `[B, h, w, widths[-1]]`."""
    image = keras.Input(config.image_shape, name="image")
    x = keras.layers.Rescaling(2.0, offset=-1.0, name="rescale")(image)
    x = _conv(x, config.stem, 3, config.stem_stride, "stem")
    for stage, width in enumerate(config.widths):
        for block in range(config.blocks):
            x = _block(x, width, 2 if block == 0 else 1, f"stage{stage}_block{block}")
    x = layers.BatchNormalization(momentum=0.95, name="last_bn")(x)
    x = keras.layers.ReLU(name="features")(x)
    return layers.Network(image, x, name="trunk")


_VGG19_LAYER = "block4_conv4"


def vgg19_trunk(config: Config) -> keras.Model:
    """The same by VGG19: `[B, H/8, W/8, 512]`."""
    image = keras.Input(config.image_shape, name="image")
    features = vgg19.features([_VGG19_LAYER], config.vgg19_weights)(image)[_VGG19_LAYER]
    return layers.Network(image, features, name="trunk")


def head(config: Config, features: tuple[int, int, int]) -> keras.Model:
    """Feature maps `[B, h, w, D]` → embedding `[B, D]`, logits `[B, K]`."""
    x = inputs = keras.Input(features, name="features")
    if config.vgg19_weights:  # its features are hundreds wide
        x = layers.BatchNormalization(name="scaled")(x)
    embedding = keras.layers.GlobalAveragePooling2D(name="embedding")(x)
    logits = keras.layers.Dense(len(config.class_names), name="logits")(embedding)
    return layers.Network(inputs, [embedding, logits], name="head")


# Losses -----------------------------------------------------------------------------------------


def cross_entropy(label: tf.Tensor, logits: tf.Tensor, smoothing: float = 0.0) -> tf.Tensor:
    """Mean over the batch of -Σ_k q_k log softmax(logits)_k, with
    q = (1 - smoothing) one_hot(label) + smoothing / K  (Szegedy et al. 2016, section 7).

    Args:
        label: int `[B]`.
        logits: float `[B, K]`.
        smoothing: in `[0, 1)`.

    Returns:
        A scalar, in nats.
    """
    classes = logits.shape[-1]
    target = tf.one_hot(label, classes) * (1.0 - smoothing) + smoothing / classes
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels=target, logits=logits))


def grad_cam(features: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """ReLU(Σ_d α_d A_d), α_d the mean of ∂score/∂A_d (Selvaraju et al. 2017, equations 1 and 2),
    divided by its maximum, so that the most important place of each image is 1.

    Args:
        features: A, `[B, h, w, D]`.
        gradient: of the class score with respect to A, same shape.

    Returns:
        float `[B, h, w]` in `[0, 1]`; all zero where nothing speaks for the class.
    """
    weights = tf.reduce_mean(gradient, axis=[1, 2], keepdims=True)  # [B, 1, 1, D]
    heat = tf.nn.relu(tf.reduce_sum(weights * features, axis=3))  # [B, h, w]
    return tf.math.divide_no_nan(heat, tf.reduce_max(heat, axis=[1, 2], keepdims=True))


# Training ---------------------------------------------------------------------------------------


class Model(base.Model):
    """A classifier; `fit` on batches of (image `[B, H, W, C]` in `[0, 1]`, label int `[B]`)."""

    limits = (
        "Tells apart the classes it was taught and nothing else: any picture gets one of them. Its "
        "probabilities are not calibrated, and accuracy falls on pictures made otherwise than its data."
    )

    def __init__(self, config: Config, seed: int = 0):
        config.validate()
        super().__init__(config, seed)
        keras.utils.set_random_seed(seed)
        self.trunk = vgg19_trunk(config) if config.vgg19_weights else trunk(config)
        self.head = head(config, self.trunk.output_shape[1:])
        self.loss_mean = keras.metrics.Mean(name="loss")
        self.accuracy_mean = keras.metrics.Mean(name="accuracy")
        self.built = True

    @property
    def losses_tracked(self) -> tuple[keras.metrics.Mean, ...]:
        return (self.loss_mean, self.accuracy_mean)

    @property
    def networks(self) -> dict[str, keras.Model]:
        # VGG19 is not ours to keep: it is read where it is.
        return {"head": self.head} if self.config.vgg19_weights else {"trunk": self.trunk, "head": self.head}

    def call(self, image: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Image float `[B, H, W, C]` in `[0, 1]` → logits `[B, K]`."""
        return self.head(self.trunk(image, training=training), training=training)[1]

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        image, label = data
        with tf.GradientTape() as tape:
            with self._fast():
                logits = self(image, training=True)
            loss = cross_entropy(label, logits, self.config.label_smoothing)
        self._learn(tape, loss)
        return self._track(label, logits, loss)

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        image, label = data
        with self._fast():
            logits = self(image)
        return self._track(label, logits, cross_entropy(label, logits))

    def _fast(self) -> contextlib.AbstractContextManager[None]:
        """Around a step's trunk: its batch is worth the time to prepare VGG19 for it."""
        if not self.config.vgg19_weights:
            return contextlib.nullcontext()
        return vgg19.prepared_in_graph(self.trunk.get_layer("vgg19"))

    def _track(self, label: tf.Tensor, logits: tf.Tensor, loss: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.shape(label)[0]
        predicted = tf.argmax(logits, axis=1, output_type=tf.int32)
        right = tf.cast(predicted == tf.cast(label, tf.int32), tf.float32)
        self.loss_mean.update_state(loss, sample_weight=rows)
        self.accuracy_mean.update_state(right)
        return self._means()

    # Serving ------------------------------------------------------------------------------------

    def preview(self, seed: int, examples: tuple[np.ndarray, ...]) -> dict[str, base.Preview]:
        """`explanations`: 8 rows of held-out images, each beside itself under its Grad-CAM map;
        `embedding`: what the last layer sees of all."""
        image = examples[0][:32]
        heat = self._heatmap(tf.constant(image), tf.constant([-1])).numpy()[..., None]
        # The map as light on the darkened image: what the classifier looked at stays bright.
        lit = image * (0.25 + 0.75 * heat)
        pairs = np.stack([image, lit], axis=1)  # [N, 2, H, W, C]

        def embed(image: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
            return self.head(self.trunk(image, training=False), training=False)[0]

        return {
            "explanations": pairs.reshape(-1, 8, *image.shape[1:]),
            "embedding": base.embedded(embed, examples, self.config.class_names),
        }

    def _heatmap(self, image: tf.Tensor, class_id: tf.Tensor) -> tf.Tensor:
        """image `[B, H, W, C]`, class_id int `[B]` or `[1]`, -1 for the predicted → `[B, H, W]`."""
        classes = len(self.config.class_names)
        features = self.trunk(image, training=False)
        with tf.GradientTape() as tape:
            tape.watch(features)
            logits = self.head(features, training=False)[1]
            class_id = tf.broadcast_to(class_id, tf.shape(logits)[:1])
            class_id = layers.checked_label(class_id, -1, classes)
            predicted = tf.argmax(logits, axis=1, output_type=tf.int32)
            wanted = tf.one_hot(tf.where(class_id < 0, predicted, class_id), classes)
            # Rows do not mix: the gradient of the sum is each row's own gradient.
            score = tf.reduce_sum(logits * wanted)
        heat = grad_cam(features, tape.gradient(score, features))[..., None]
        return tf.image.resize(heat, self.config.image_shape[:2])[..., 0]

    def signatures(self) -> dict[str, base.Signature]:
        image_shape, names = self.config.image_shape, list(self.config.class_names)

        def classified(image: tf.Tensor) -> dict[str, tf.Tensor]:
            embedding, logits = self.head(self.trunk(image, training=False), training=False)
            return {
                "probabilities": tf.nn.softmax(logits),
                "label": tf.gather(tf.constant(names), tf.argmax(logits, axis=1)),
                "embedding": embedding,
            }

        @tf.function(input_signature=[tf.TensorSpec([None, *image_shape], tf.float32, "image")])
        def classify(image):
            return classified(image)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
        def classify_bytes(image_bytes):
            return classified(decode_images(image_bytes, image_shape))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
        def classify_examples(inputs):
            """TensorFlow Serving's Classify API: tf.Examples with a feature `image/encoded`."""
            feature = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
            encoded = tf.io.parse_example(inputs, feature)["image/encoded"]
            scores = classified(decode_images(encoded, image_shape))["probabilities"]
            classes = tf.broadcast_to(tf.constant(names)[None, :], tf.shape(scores))
            return {"classes": classes, "scores": scores}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, *image_shape], tf.float32, "image"),
                tf.TensorSpec([None], tf.int32, "class_id"),
            ]
        )
        def explain(image, class_id=tf.constant([-1])):  # noqa: B008
            """Where the evidence for a class lies; class_id -1 explains the predicted class."""
            return {"heatmap": self._heatmap(image, class_id)}

        return {
            "classify": classify,
            "classify_bytes": classify_bytes,
            "classify_examples": classify_examples,
            "explain": explain,
        }

    def example_requests(self) -> dict[str, dict[str, np.ndarray]]:
        height, width, channels = self.config.image_shape
        random = np.random.default_rng(0)
        image = random.random((3, height, width, channels), dtype=np.float32)
        encoded = np.array([_encode(i, form) for i, form in zip(image, _FORMATS, strict=True)], object)
        examples = [
            tf.train.Example(
                features=tf.train.Features(
                    feature={
                        "image/encoded": tf.train.Feature(
                            bytes_list=tf.train.BytesList(value=[picture])
                        )
                    }
                )
            ).SerializeToString()
            for picture in encoded
        ]
        return {
            "classify": {"image": image},
            "classify_bytes": {"image_bytes": encoded},
            "classify_examples": {"inputs": np.array(examples, object)},
            "explain": {"image": image, "class_id": np.array([-1, 0, 1], np.int32)},
        }


_FORMATS = ("PNG", "JPEG", "PNG")  # one batch may mix them


def _encode(image: np.ndarray, form: str) -> bytes:
    buffer = io.BytesIO()
    pixels = (image * 255).astype(np.uint8)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, form)
    return buffer.getvalue()
