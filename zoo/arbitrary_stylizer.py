"""A feed-forward network that paints in the style of any picture it is shown, in one pass.

Ghiasi, Lee, Kudlur, Dumoulin & Shlens 2017, "Exploring the structure of a real-time, arbitrary neural
artistic stylization network" (arXiv:1705.06830): a second network reads a painting and predicts the scales
and shifts of `zoo.stylizer`'s. It learns with that network, from nothing, where the paper's is Inception, and
looks at the means and standard deviations of features alone (Huang & Belongie 2017, "Arbitrary Style
Transfer in Real-time with Adaptive Instance Normalization", arXiv:1703.06868, section 5): VGG19 is needed in
training only.
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from zoo import base, images, pictures, stylizer


@dataclasses.dataclass
class Config(stylizer.PainterConfig):
    """What both networks are made of, and how they learn."""

    embedding_dim: int = 100  # numbers of a style, the first of which is 1 (the paper: 100)

    def validate(self) -> None:
        """Raises `ValueError` that names the field, its value and what is expected."""
        super().validate()
        if self.embedding_dim < 2:
            raise ValueError(f"embedding_dim={self.embedding_dim}: at least 2 is expected")


_WIDTHS = (32, 64, 128, 128)  # feature maps at a half, a quarter, an eighth, a sixteenth


class Predictor(keras.Model):
    """Painting `[B, H, W, 3]` in `[0, 1]`, any size → its style `[B, N]`, float32, the first number 1."""

    def __init__(self, embedding_dim: int):
        super().__init__(name="predictor")
        before = 3
        for i, width in enumerate(_WIDTHS):
            side = 5 if i == 0 else 3
            self._add(f"conv{i}", (side, side, before, width), "he_normal")
            self._add(f"conv{i}_bias", (width,), "zeros")
            before = width
        self._add("style", (2 * sum(_WIDTHS), embedding_dim - 1), "glorot_normal", autocast=False)
        self._add("style_bias", (embedding_dim - 1,), "zeros", autocast=False)
        self.built = True

    def _add(self, name: str, shape: tuple[int, ...], initializer: str, autocast: bool = True) -> None:
        weight = self.add_weight(name=name, shape=shape, initializer=initializer, autocast=autocast)
        setattr(self, name, weight)

    def call(self, painting: tf.Tensor) -> tf.Tensor:
        x = 2.0 * painting - 1.0
        found = []
        for i in range(len(_WIDTHS)):
            x = tf.nn.conv2d(x, getattr(self, f"conv{i}"), 2, "SAME")
            x = tf.nn.relu(x + getattr(self, f"conv{i}_bias"))
            mean, variance = tf.nn.moments(tf.cast(x, tf.float32), [1, 2])
            found += [mean, tf.sqrt(variance + 1e-4)]  # the root of 0 has no slope
        style = tf.matmul(tf.concat(found, 1), self.style) + self.style_bias
        return tf.concat([tf.ones_like(style[:, :1]), style], 1)


class Model(stylizer.Painter):
    """A stylizer of any style; `fit` on batches of (picture `[B, H, W, 3]` in `[0, 1]`, anything): each
    picture is painted in the style of another one of the batch, of all replicas together."""

    smallest_batch = 2
    limits = (
        "For pictures to look at. It has learnt from a few thousand paintings: of one that is unlike them it "
        "takes the colours rather than the strokes, which are as large as in training, whatever the size of "
        "the photo; fine detail such as small faces is lost."
    )

    def __init__(self, config: Config, seed: int = 0):
        super().__init__(config, seed)
        self.predictor = Predictor(config.embedding_dim)
        self.network = stylizer.Network(config, config.embedding_dim, _nearly_one_style)

    @property
    def networks(self) -> dict[str, keras.Model]:
        return {"network": self.network, "predictor": self.predictor}

    def compile(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Reads VGG19's weights. Raises `UserError` where they are missing."""
        super().compile(optimizer)
        objective = stylizer.Objective(self.config)

        def parts(picture, painted, other):
            seen = objective.features(picture)
            grams = objective.grams(seen)
            style = {layer: other(of_layer) for layer, of_layer in grams.items()}
            # How far it is to go counts, too: next to a flat painting's scale the loss of a busy picture is
            # tens, and few such pairs would be all that is learnt.
            scale = objective.scale(style) + objective.style(grams, style)
            return objective.parts(seen, painted, style, scale)

        self._parts = parts  # a function: Keras would track, and save, a network

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = self._loss(data[0], _before)
        self._learn(tape, loss)
        return self._means()

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        self._loss(data[0], _half_way)
        return self._means()

    def _loss(self, picture: tf.Tensor, other: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """`other`: of each picture of a batch the one that gives its style."""
        painted = picture + self.network(picture, self.predictor(other(picture)))
        return self._noted(painted, *self._parts(picture, painted, other))

    # Serving ------------------------------------------------------------------------------------

    def embed(self, painting: np.ndarray) -> np.ndarray:
        """The style of a painting float32 `[H, W, 3]` in `[0, 1]`, as `paint` takes it: float32 `[N]`.

        A weighted mean of several is a style between theirs; times a strength of 0 to 1, it paints less.
        """
        fitted = pictures.fit(painting, min(self._style_size, max(painting.shape[:2])))
        return self.predictor(tf.constant(fitted[None]))[0].numpy()

    def preview(self, seed: int, examples: tuple[np.ndarray, ...]) -> dict[str, base.Preview]:
        """`styles`: three held-out pictures, each above itself in the styles of three others, which stand on
        the left."""
        picture = tf.constant(examples[0][:: max(1, len(examples[0]) // 6)][:6])
        photos, paintings = picture[: -(-len(picture) // 2)], picture[len(picture) // 2 :]
        rows = [tf.concat([tf.ones_like(photos[:1]), photos], 0)]
        for painting in paintings:
            mix = tf.repeat(self.predictor(painting[None]), len(photos), 0)
            rows.append(tf.concat([painting[None], self.painted(photos, mix)], 0))
        return {"styles": np.stack(rows)}

    def signatures(self) -> dict[str, base.Signature]:
        @tf.function(
            input_signature=[
                tf.TensorSpec([None, None, None, 3], tf.float32, "image"),
                tf.TensorSpec([None, None, None, 3], tf.float32, "style_image"),
                tf.TensorSpec([None], tf.float32, "strength"),
            ]
        )
        def stylize(image, style_image, strength=tf.constant([1.0])):  # noqa: B008
            """Photos of any size in `[0, 1]`, painted in the style of pictures of any other size, of one each
            or of one for all; strength 0 leaves the photo."""
            checks = [*stylizer.size_checks(image), *stylizer.size_checks(style_image)]
            with tf.control_dependencies(checks):
                image, style_image = (tf.clip_by_value(x, 0.0, 1.0) for x in (image, style_image))
            style = self.predictor(self._fitted(style_image))
            style = tf.broadcast_to(style, [tf.shape(image)[0], self.config.embedding_dim])
            return {"image": self.painted(image, _strong(style, strength))}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.string, "image_bytes"),
                tf.TensorSpec([None], tf.string, "style_bytes"),
                tf.TensorSpec([None], tf.float32, "strength"),
                tf.TensorSpec([None], tf.bool, "preserve_color"),
                tf.TensorSpec([None], tf.string, "format"),
            ]
        )
        def stylize_bytes(
            image_bytes,
            style_bytes,
            strength=tf.constant([1.0]),  # noqa: B008
            preserve_color=tf.constant([False]),  # noqa: B008
            format=tf.constant(["jpeg"]),  # noqa: B008
        ):
            """Picture files in (JPEG, PNG, GIF, BMP, WebP), painted in the style of other picture files;
            files of the photos' size out, `jpeg` or `png`; preserve_color keeps the photo's colours."""

            def read(encoded):
                painting = images.decode_image(encoded, stylizer.MOST_PIXELS)[None]
                with tf.control_dependencies(stylizer.size_checks(painting)):
                    return self.predictor(self._fitted(painting))[0]

            spec = tf.TensorSpec([self.config.embedding_dim], tf.float32)
            style = tf.map_fn(read, style_bytes, fn_output_signature=spec, parallel_iterations=1)
            style = tf.broadcast_to(style, [tf.size(image_bytes), self.config.embedding_dim])
            mix = _strong(style, strength)
            return {"image_bytes": self.paint_files(image_bytes, mix, preserve_color, format)}

        return {"stylize": stylize, "stylize_bytes": stylize_bytes}

    @property
    def _style_size(self) -> int:
        """Pixels: the predictor has learnt from paintings of that size."""
        return max(self.config.image_shape[:2])

    def _fitted(self, painting: tf.Tensor) -> tf.Tensor:
        """Paintings `[B, H, W, 3]`, their longest side at most `_style_size`."""
        sides = tf.shape(painting)[1:3]
        factor = tf.minimum(self._style_size / tf.reduce_max(sides), 1.0)
        new = tf.maximum(tf.cast(tf.round(tf.cast(sides, factor.dtype) * factor), tf.int32), 1)
        return tf.clip_by_value(tf.image.resize(painting, new, antialias=True), 0.0, 1.0)

    def example_requests(self) -> dict[str, dict[str, np.ndarray]]:
        random = np.random.default_rng(0)
        image, painting = random.random((3, 32, 48, 3), np.float32), random.random((3, 24, 20, 3), np.float32)
        strength = np.array([1.0, 0.5, 0.0], np.float32)
        encoded = {
            name: np.array([pictures.encode(one, suffix) for one in batch], object)
            for name, batch, suffix in (("image_bytes", image, ".png"), ("style_bytes", painting, ".jpg"))
        }
        options = {
            "strength": strength,
            "preserve_color": np.array([False, True, False]),
            "format": np.array([b"jpeg", b"png", b"jpeg"], object),
        }
        return {
            "stylize": {"image": image, "style_image": painting, "strength": strength},
            "stylize_bytes": {**encoded, **options},
        }


def _nearly_one_style(shape: tuple[int, ...], dtype: str | None = None) -> tf.Tensor:
    """Scales of a fresh network: it paints as one with a single style, and what differs between styles is
    learnt. Tables all alike an export would take for copies of one."""
    rest = keras.initializers.RandomNormal(stddev=0.01)([shape[0] - 1, *shape[1:]], dtype)
    return tf.concat([tf.ones([1, *shape[1:]], rest.dtype), rest], 0)


def _before(rows: tf.Tensor) -> tf.Tensor:
    """Of each row of a batch, which all replicas together have, the one before it; of the first the last."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return tf.roll(rows, 1, axis=0)
    every = context.all_gather(rows, axis=0)
    count = tf.shape(rows)[0]
    first = context.replica_id_in_sync_group * count
    found = tf.gather(every, (tf.range(count) + first - 1) % tf.shape(every)[0])
    return tf.ensure_shape(found, rows.shape)


def _half_way(rows: tf.Tensor) -> tf.Tensor:
    """Of each row of a batch the one half the batch before it: a sorted set's neighbours are of one class."""
    return tf.roll(rows, tf.shape(rows)[0] // 2, axis=0)


def _strong(style: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Styles `[B, N]` times strengths `[B]` or `[1]`."""
    with tf.control_dependencies(stylizer.strength_checks(strength)):
        return style * tf.broadcast_to(strength, tf.shape(style)[:1])[:, None]
