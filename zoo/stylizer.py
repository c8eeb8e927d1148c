"""A feed-forward network that paints: one pass, many styles.

Johnson, Alahi & Fei-Fei 2016, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution"
(arXiv:1603.08155), trained on the loss of `zoo.gatys`; one network for all styles by conditional instance
normalization (Dumoulin, Shlens & Kudlur 2017, "A Learned Representation for Artistic Style",
arXiv:1610.07629). What is painted is added to the photo, and everything between is normalized: with scales
and shifts of 0 nothing is added, so a strength between 0 and 1 is a factor of theirs.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from zoo import base, gatys, images, pictures, rng, vgg19
from zoo.errors import UserError

SMALLEST = 16  # pixels a side
# Of a picture painted in one piece, 4096x3072: 3.4 GB at their peak (`make bench-stylizer`). `paint` cuts
# larger ones into tiles.
MOST_PIXELS = 12 * 2**20
_SIDE = 2048  # of a tile, in pixels
_REFERENCE = 256 * 256  # pixels that content_weight is for: the content loss is a sum over the picture
_STEP = 4  # pixels of the photo for one place of the residual blocks


@dataclasses.dataclass
class PainterConfig:
    """What a network that paints is made of, and how it learns, wherever its styles come from."""

    image_shape: tuple[int, int, int] = (128, 128, 3)  # of the photos in training; served, any size does
    vgg19_weights: str = vgg19.IMAGENET  # for training alone; as `vgg19.features` takes it
    stem: int = 32  # feature maps at half the photo's resolution
    channels: int = 96  # at a quarter
    blocks: int = 5  # residual blocks, there
    content_weight: float = 1e-3  # of `gatys.Config`, for a photo of 256x256
    tv_weight: float = 0.0  # there, too

    def validate(self) -> None:
        """Raises `ValueError` that names the field, its value and what is expected."""
        height, width, channels = self.image_shape
        if channels != 3 or height % _STEP or width % _STEP or min(height, width) < SMALLEST:
            raise ValueError(
                f"image_shape={self.image_shape}: colour, and sides of at least {SMALLEST} that are multiples"
                f" of {_STEP} are expected; set data.image_size"
            )
        for name in ("stem", "channels", "blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 is expected")
        for name in ("content_weight", "tv_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: 0 or more is expected")


@dataclasses.dataclass
class Config(PainterConfig):
    """What a stylizer is made of, and what it learns from beside the photos."""

    styles: tuple[str, ...] = ("style",)  # names of pictures in style_dir, without .jpg or .png
    style_dir: str = ""  # for training alone
    style_size: int = 256  # longest side of the paintings in pixels: the size of strokes

    def validate(self) -> None:
        """Raises `ValueError` that names the field, its value and what is expected."""
        super().validate()
        if not self.styles or len(set(self.styles)) < len(self.styles) or not all(self.styles):
            raise ValueError(f"styles={self.styles}: at least one name, each once, is expected")
        if self.style_size < gatys.SMALLEST:
            raise ValueError(f"style_size={self.style_size}: at least {gatys.SMALLEST} is expected")


# Network ----------------------------------------------------------------------------------------

_EPSILON = 1e-3  # of the variance: what is flat stays flat

Moments = tuple[tf.Tensor, tf.Tensor]  # mean and variance, [B, 1, 1, C] each


def moments_of(x: tf.Tensor) -> Moments:
    """Of features `[B, h, w, C]`, over the places."""
    return tf.nn.moments(x, [1, 2], keepdims=True)


class Network(keras.Model):
    """Photo `[B, H, W, 3]` in `[0, 1]`, H and W multiples of 4, and mix `[B, N]` → what to add to it.

    Convolutions have no bias and mirror the picture at its edges; each but the last is followed by an
    instance normalization, whose scale and shift are those of the styles, mixed. `norms` is how many there
    are; but for them a pixel depends on those up to `margin` pixels from it.
    """

    def __init__(self, config: PainterConfig, styles: int, scales: Any = "ones"):
        """`styles`: N; `scales`: the initializer of their scales, `[N, C]`; the shifts begin at 0."""
        super().__init__(name="network")
        stem, channels = config.stem, config.channels
        self._blocks = config.blocks
        names = [
            "half",
            "quarter",
            *(f"block{i}_conv{c}" for i in range(config.blocks) for c in (1, 2)),
            "up",
        ]
        self._names = (*names, "image")
        # kernel side, channels in and out
        sizes = [(7, 3, stem), (3, stem, channels), *2 * config.blocks * [(3, channels, channels)]]
        sizes += [(3, channels, 4 * stem), (5, stem, 12)]
        for name, (side, before, after) in zip(self._names, sizes, strict=True):
            # The first pictures are the photos.
            initializer = "zeros" if name == "image" else "he_normal"
            self._add(name, (side, side, before, after), initializer)
            if name != "image":
                width = stem if name == "up" else after
                self._add(f"{name}_scale", (styles, width), scales)
                self._add(f"{name}_shift", (styles, width), "zeros")
        self.norms = len(names)
        # How far a pixel can see, rounded up to whole steps: the convolutions at full, half, a quarter ...
        reach = 3 + 1 * 2 + 2 * config.blocks * 4 + 4 + 2 * 2
        self.margin = -(-reach // _STEP) * _STEP
        self.built = True

    def _add(self, name: str, shape: tuple[int, ...], initializer: Any) -> None:
        # As an attribute of its own: what only a list holds is in no checkpoint.
        setattr(self, name, self.add_weight(name=name, shape=shape, initializer=initializer))

    def call(
        self,
        photo: tf.Tensor,
        mix: tf.Tensor,
        moments: Callable[[int, tf.Tensor], Moments] = lambda _, x: moments_of(x),
        before: int | None = None,
    ) -> tf.Tensor:
        """What to add to the photo, `[B, H, W, 3]`.

        Args:
            mix: of each style so much; sums to the strength.
            moments: (number of a normalization, its input) → mean and variance, where they are to be others
                than those of the input.
            before: the number of a normalization, whose input is wanted instead.
        """
        count = 0

        def conv(x, stride=1):
            kernel = getattr(self, self._names[count])
            reach = kernel.shape[0] // 2
            x = tf.pad(x, [[0, 0], [reach, reach], [reach, reach], [0, 0]], "REFLECT")
            return tf.nn.conv2d(x, kernel, stride, "VALID")

        def normalized(x):
            nonlocal count
            mean, variance = moments(count, x)
            tables = (getattr(self, f"{self._names[count]}_{kind}") for kind in ("scale", "shift"))
            scale, shift = (tf.matmul(mix, table)[:, None, None] for table in tables)
            factor = scale * tf.math.rsqrt(variance + _EPSILON)
            count += 1
            return x * factor + (shift - mean * factor)

        x = 2.0 * photo - 1.0
        for stride in (2, 2):
            x = conv(x, stride)
            if count == before:
                return x
            x = tf.nn.relu(normalized(x))
        for _ in range(self._blocks):
            y = conv(x)
            if count == before:
                return y
            y = conv(tf.nn.relu(normalized(y)))
            if count == before:
                return y
            x += normalized(y)
        x = tf.nn.depth_to_space(conv(x), 2)
        if count == before:
            return x
        return tf.cast(tf.nn.depth_to_space(conv(tf.nn.relu(normalized(x))), 2), tf.float32)


# Training ---------------------------------------------------------------------------------------


class Objective:
    """The loss of `zoo.gatys`, of batches, each picture in a style of its own."""

    def __init__(self, config: PainterConfig):
        # VGG19 in float16 would overflow: its features reach tens of thousands.
        compute = keras.config.dtype_policy().compute_dtype
        dtype = "bfloat16" if compute == "bfloat16" else "float32"
        self.config = gatys.Config(
            content_weight=config.content_weight, tv_weight=config.tv_weight, dtype=dtype
        )
        self.vgg = vgg19.prepared(gatys.network(self.config, config.vgg19_weights))

    def features(self, picture: tf.Tensor) -> dict[str, tf.Tensor]:
        """VGG19's by layer, of a picture that is given: no gradient passes through them."""
        return {layer: tf.stop_gradient(seen) for layer, seen in self.vgg(picture).items()}

    def grams(self, seen: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """By layer of VGG19's features, `[B, C, C]`."""
        return {layer: gatys.gram(seen[layer]) for layer in self.config.style_layers}

    def style(self, painted: dict[str, tf.Tensor], style: dict[str, tf.Tensor]) -> tf.Tensor:
        """The style loss of `grams`, `[B]`, over no scale."""
        return tf.add_n(
            [
                weight * gatys.style_loss(painted[layer], style[layer])
                for layer, weight in self.config.style_layers.items()
            ]
        )

    def scale(self, style: dict[str, tf.Tensor]) -> tf.Tensor:
        """The style loss of a picture without any features, `[B]`: paintings differ in it a hundredfold."""
        nothing = {layer: tf.zeros_like(grams) for layer, grams in style.items()}
        return tf.maximum(self.style(nothing, style), 1.0)  # of an empty picture there may be none

    def parts(
        self, photo: dict[str, tf.Tensor], painted: tf.Tensor, style: dict[str, tf.Tensor], scale: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The content, style and variation parts, `[B]` each, over the painting's scale.

        Args:
            photo: its `features`.
            painted: `[B, H, W, 3]` in `[0, 1]`.
            style, scale: `grams` of the paintings and their `scale`.
        """
        layer = self.config.content_layer
        seen = self.vgg(painted)
        pixels = tf.cast(tf.shape(painted)[1] * tf.shape(painted)[2], tf.float32)
        of_reference = _REFERENCE / pixels
        return (
            of_reference * self.config.content_weight * gatys.content_loss(seen[layer], photo[layer]) / scale,
            self.style(self.grams(seen), style) / scale,
            of_reference * self.config.tv_weight * gatys.total_variation(painted) / scale,
        )


class Targets(Objective):
    """The loss for the paintings of a configuration, whose Gram matrices are known beforehand."""

    def __init__(self, config: Config):
        super().__init__(config)
        paintings = [
            pictures.fit(pictures.load(_find(config, name), gatys.SMALLEST), config.style_size)
            for name in config.styles
        ]
        found = [self.grams(self.features(tf.constant(painting[None]))) for painting in paintings]
        self.of_styles = {layer: tf.concat([f[layer] for f in found], axis=0) for layer in found[0]}
        self.scales = self.scale(self.of_styles)

    def losses(
        self, photo: tf.Tensor, painted: tf.Tensor, style: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """`parts` of photos `[B, H, W, 3]`, painted in the styles int32 `[B]`."""
        wanted = {layer: tf.gather(grams, style) for layer, grams in self.of_styles.items()}
        return self.parts(self.features(photo), painted, wanted, tf.gather(self.scales, style))


def _find(config: Config, name: str) -> pathlib.Path:
    if not config.style_dir:
        raise UserError("config.model.style_dir is empty: the folder of the paintings is expected")
    paths = [pathlib.Path(config.style_dir, name + suffix) for suffix in pictures.SUFFIXES]
    for path in paths:
        if path.is_file():
            return path
    raise UserError(f"config.model.styles: there is no {' or '.join(map(str, paths))}")


_NOISE = 0.05  # of a film: smaller changes of a pixel are averaged away
_CUT = 0.15  # mean change of the pixels from one frame to the next
_STYLE = 0  # the stream of a step's random numbers


class Painter(base.Model):
    """A network that paints, and what both kinds have: pictures of any size, films, files."""

    showpiece = "styles"
    network: Network

    def __init__(self, config: PainterConfig, seed: int = 0):
        config.validate()
        super().__init__(config, seed)
        keras.utils.set_random_seed(seed)
        self.loss_mean = keras.metrics.Mean(name="loss")
        self.content_mean = keras.metrics.Mean(name="content")
        self.style_mean = keras.metrics.Mean(name="style")
        self.built = True

    @property
    def losses_tracked(self) -> tuple[keras.metrics.Mean, ...]:
        return (self.loss_mean, self.content_mean, self.style_mean)

    @property
    def networks(self) -> dict[str, keras.Model]:
        return {"network": self.network}

    def _noted(
        self, painted: tf.Tensor, content: tf.Tensor, style: tf.Tensor, variation: tf.Tensor
    ) -> tf.Tensor:
        """What is minimised: the `parts` of a batch, and a price of what lies outside `[0, 1]`; also updates
        the running means."""
        # What cannot be shown is shown clipped; a picture in [0, 1] is what VGG19 was trained on.
        outside = tf.reduce_mean(tf.square(painted - tf.clip_by_value(painted, 0.0, 1.0)))
        loss = tf.reduce_mean(content + style + variation) + outside
        self.loss_mean.update_state(loss, sample_weight=tf.shape(painted)[0])
        self.content_mean.update_state(content)
        self.style_mean.update_state(style)
        return loss

    # Pictures -----------------------------------------------------------------------------------

    def painted(
        self,
        photo: tf.Tensor,
        mix: tf.Tensor,
        moments: Callable[[int, tf.Tensor], Moments] = lambda _, x: moments_of(x),
    ) -> tf.Tensor:
        """Photo `[B, H, W, 3]` in `[0, 1]`, any size, and mix `[B, N]` → the same in the style, `[0, 1]`.

        `moments` as `Network.call` takes it.
        """
        height, width = tf.shape(photo)[1], tf.shape(photo)[2]
        whole = tf.pad(photo, [[0, 0], [0, -height % _STEP], [0, -width % _STEP], [0, 0]], "REFLECT")
        added = self.network(whole, mix, moments=moments)[:, :height, :width]
        return tf.clip_by_value(photo + added, 0.0, 1.0)

    def paint(self, photo: np.ndarray, mix: np.ndarray, side: int | None = None) -> np.ndarray:
        """A picture of any size in bounded memory: one of more than `MOST_PIXELS` in tiles, with the same
        result.

        Every normalization needs the mean and the variance of the whole picture: one pass over the tiles
        each, so tiles take about seven times as long.

        Args:
            photo: float32 `[H, W, 3]` in `[0, 1]`, at least 16 pixels a side.
            mix: of each style so much, `[N]`; sums to the strength, 0 to 1.
            side: of a tile, in pixels, a multiple of 16; what is no larger is painted whole. None: chosen by
                `MOST_PIXELS`.

        Returns:
            float32 `[H, W, 3]` in `[0, 1]`.
        """
        height, width, _ = photo.shape
        if height * width <= (side**2 if side else MOST_PIXELS):
            return self.painted(tf.constant(photo[None]), tf.constant(mix[None], tf.float32))[0].numpy()
        whole = np.pad(photo, [(0, -height % _STEP), (0, -width % _STEP), (0, 0)], "reflect")
        cut = gatys.tiles(whole.shape[0], whole.shape[1], side or _SIDE, self.network.margin)
        amounts = tf.constant(mix[None], tf.float32)
        moments: list[Moments] = []

        def run(crop, known, before):
            return self.network(crop, amounts, moments=lambda number, _: known[number], before=before)

        network = tf.function(run, reduce_retracing=True)
        for norm in range(self.network.norms):
            count, total, squares = 0, np.zeros(1), np.zeros(1)
            for tile in cut:
                features = network(tf.constant(tile.crop(whole)[None]), moments, norm)
                step = whole[tile.rows].shape[0] // features.shape[1]
                top, bottom, left, right = tile.core.numpy() // step
                core = features[0, top:bottom, left:right].numpy().reshape(-1, features.shape[3])
                count += len(core)
                total = total + core.sum(0, dtype=np.float64)
                squares = squares + np.square(core, dtype=np.float64).sum(0)
            mean = total / count
            variance = np.maximum(squares / count - mean**2, 0.0)
            moments.append((_row(mean), _row(variance)))
        painted = np.empty_like(whole)
        for tile in cut:
            crop = tile.crop(whole)
            added = network(tf.constant(crop[None]), moments, None)[0].numpy()
            top, bottom, left, right = tile.core.numpy()
            core = (slice(top, bottom), slice(left, right))
            painted[tile.rows, tile.columns][core] = np.clip(crop[core] + added[core], 0.0, 1.0)
        return painted[:height, :width]

    def paint_frames(
        self, frames: Iterable[np.ndarray], mix: np.ndarray, smoothing: float = 0.8
    ) -> Iterator[np.ndarray]:
        """The frames of a film, painted so that what stands still does not flicker.

        Two things are averaged over time, the last frame so far with the weight `smoothing`: what hardly
        changes in the film itself, its noise, and the mean and the variance in each normalization, which
        otherwise change all of the picture when something comes into it. Both begin anew at a cut.

        Args:
            frames: float32 `[H, W, 3]` in `[0, 1]`, all of one size, at least 16 pixels a side.
            mix: of each style so much, `[N]`; sums to the strength, 0 to 1.
            smoothing: 0 paints each frame for itself; below 1.

        Yields:
            float32 `[H, W, 3]` in `[0, 1]`.
        """
        amounts = tf.constant(mix[None], tf.float32)

        def run(frame, calm, before, inertia):
            weight = inertia * tf.exp(-tf.square(tf.reduce_mean(frame - calm, -1, keepdims=True) / _NOISE))
            calm = frame + weight * (calm - frame)
            after = []

            def smoothed(number, x):
                now = moments_of(x)
                then = before[number] if before else now
                after.append(tuple(a + inertia * (b - a) for a, b in zip(now, then, strict=True)))
                return after[-1]

            painted = self.painted(calm, amounts, smoothed)
            return painted[0], calm, after

        network = tf.function(run, reduce_retracing=True)
        calm: tf.Tensor | None = None
        before: list[Moments] = []
        for frame in frames:
            now = tf.constant(frame[None])
            inertia = tf.constant(smoothing, tf.float32)
            if calm is None or float(tf.reduce_mean(tf.abs(now - calm))) > _CUT:
                calm, inertia = now, tf.constant(0.0)
            painted, calm, before = network(now, calm, before, inertia)
            yield painted.numpy()

    def paint_files(
        self, image_bytes: tf.Tensor, mix: tf.Tensor, preserve_color: tf.Tensor, format: tf.Tensor
    ) -> tf.Tensor:
        """Picture files, strings `[B]`, painted one by one in a graph → files of the same size, `[B]`.

        Args:
            mix: `[B, N]`.
            preserve_color: bool `[B]` or `[1]`: the photo's colours are kept.
            format: `jpeg` or `png`, `[B]` or `[1]`.
        """
        rows = tf.shape(image_bytes)
        known = tf.reduce_all((format == "jpeg") | (format == "png"))
        asked = tf.debugging.Assert(known, ["format: jpeg or png is expected, given ", format])
        with tf.control_dependencies([asked]):
            as_png = tf.broadcast_to(format == "png", rows)

        def paint(row):
            encoded, mix, keep, as_png = row
            photo = images.decode_image(encoded, MOST_PIXELS)
            with tf.control_dependencies(size_checks(photo[None])):
                image = self.painted(photo[None], mix[None])[0]
            image = tf.cond(keep, lambda: images.with_color_of(image, photo), lambda: image)
            pixels = tf.image.convert_image_dtype(image, tf.uint8, saturate=True)
            return tf.cond(
                as_png,
                lambda: tf.io.encode_png(pixels),
                lambda: tf.io.encode_jpeg(pixels, quality=95, chroma_downsampling=False),
            )

        return tf.map_fn(
            paint,
            (image_bytes, mix, tf.broadcast_to(preserve_color, rows), as_png),
            fn_output_signature=tf.TensorSpec([], tf.string),
            parallel_iterations=1,
        )


class Model(Painter):
    """A stylizer; `fit` on batches of (photo `[B, H, W, 3]` in `[0, 1]`, anything)."""

    limits = (
        "For pictures to look at. Styles are those it was taught; brush strokes are as large as in "
        "training, whatever the size of the photo, and fine detail such as small faces is lost."
    )

    def __init__(self, config: Config, seed: int = 0):
        super().__init__(config, seed)
        self.network = Network(config, len(config.styles))

    def compile(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Reads the paintings and VGG19's weights. Raises `UserError` where they are missing."""
        super().compile(optimizer)
        targets = Targets(self.config)
        self._losses = targets.losses  # a method: Keras would track, and save, a network

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        photo = data[0]
        rows = tf.shape(photo)[0]
        draw = rng.replica_uniform(rows, 1, self.seed, _STYLE, self.noise_step)[:, 0]
        style = tf.cast(draw * len(self.config.styles), tf.int32)
        with tf.GradientTape() as tape:
            loss = self._loss(photo, style)
        self._learn(tape, loss)
        return self._means()

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        photo = data[0]
        self._loss(photo, tf.range(tf.shape(photo)[0]) % len(self.config.styles))
        return self._means()

    def _loss(self, photo: tf.Tensor, style: tf.Tensor) -> tf.Tensor:
        painted = photo + self.network(photo, tf.one_hot(style, len(self.config.styles)))
        return self._noted(painted, *self._losses(photo, painted, style))

    def preview(self, seed: int, examples: tuple[np.ndarray, ...]) -> dict[str, base.Preview]:
        """`styles`: four held-out pictures, each above itself in every style."""
        photo = tf.constant(examples[0][:: max(1, len(examples[0]) // 4)][:4])
        rows = [photo.numpy()]
        for mix in tf.eye(len(self.config.styles)):
            rows.append(self.painted(photo, tf.tile(mix[None], [len(photo), 1])).numpy())
        return {"styles": np.stack(rows)}

    def signatures(self) -> dict[str, base.Signature]:
        count = len(self.config.styles)

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, None, None, 3], tf.float32, "image"),
                tf.TensorSpec([None, count], tf.float32, "style_weights"),
                tf.TensorSpec([None], tf.float32, "strength"),
            ]
        )
        def stylize(image, style_weights, strength=tf.constant([1.0])):  # noqa: B008
            """Photos of any size in `[0, 1]`, painted; style_weights are at least 0 and are divided by their
            sum; strength 0 leaves the photo, 1 is the style as trained."""
            mix = _mix(style_weights, tf.broadcast_to(strength, tf.shape(image)[:1]))
            with tf.control_dependencies(size_checks(image)):
                image = tf.clip_by_value(image, 0.0, 1.0)
            return {"image": self.painted(image, mix)}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.string, "image_bytes"),
                tf.TensorSpec([None], tf.string, "style"),
                tf.TensorSpec([None], tf.float32, "strength"),
                tf.TensorSpec([None], tf.bool, "preserve_color"),
                tf.TensorSpec([None], tf.string, "format"),
            ]
        )
        def stylize_bytes(
            image_bytes,
            style,
            strength=tf.constant([1.0]),  # noqa: B008
            preserve_color=tf.constant([False]),  # noqa: B008
            format=tf.constant(["jpeg"]),  # noqa: B008
        ):
            """Picture files in (JPEG, PNG, GIF, BMP, WebP), files of the same size out, `jpeg` or `png`; a
            style's name or several with weights, `a:2,b:1`; preserve_color keeps the photo's colours."""
            mix = _mix(self._named(style), tf.broadcast_to(strength, tf.shape(image_bytes)))
            return {"image_bytes": self.paint_files(image_bytes, mix, preserve_color, format)}

        return {"stylize": stylize, "stylize_bytes": stylize_bytes}

    def _named(self, style: tf.Tensor) -> tf.Tensor:
        """`["a", "b:2,a:1"]` → weights `[B, N]`. Running the graph fails for what is no name or number."""
        entries = tf.strings.split(style, ",")  # [B, entries]
        parts = tf.strings.split(entries.flat_values, ":", maxsplit=1).to_tensor("1", shape=[None, 2])
        name, weight = tf.strings.strip(parts[:, 0]), parts[:, 1]
        matches = tf.equal(name[:, None], tf.constant(self.config.styles)[None])  # [entries, N]
        known = tf.reduce_all(tf.reduce_any(matches, axis=1))
        message = f"unknown style; the styles are {', '.join(self.config.styles)}; given: "
        with tf.control_dependencies([tf.debugging.Assert(known, [message, style])]):
            weights = tf.cast(matches, tf.float32) * tf.strings.to_number(weight)[:, None]
        return tf.math.segment_sum(weights, tf.cast(entries.value_rowids(), tf.int32))

    def example_requests(self) -> dict[str, dict[str, np.ndarray]]:
        random = np.random.default_rng(0)
        count = len(self.config.styles)
        image = random.random((3, 32, 48, 3), np.float32)
        files = [
            pictures.encode(picture, suffix)
            for picture, suffix in zip(image, (".png", ".jpg", ".png"), strict=True)
        ]
        names = self.config.styles
        mixed = ",".join(f"{name}:{i + 1}" for i, name in enumerate(names))
        return {
            "stylize": {
                "image": image,
                "style_weights": random.random((3, count), np.float32),
                "strength": np.array([1.0, 0.5, 0.0], np.float32),
            },
            "stylize_bytes": {
                "image_bytes": np.array(files, object),
                "style": np.array([names[0].encode(), names[-1].encode(), mixed.encode()], object),
                "strength": np.array([1.0, 0.5, 1.0], np.float32),
                "preserve_color": np.array([False, False, True]),
                "format": np.array([b"jpeg", b"png", b"jpeg"], object),
            },
        }


def _row(values: np.ndarray) -> tf.Tensor:
    return tf.constant(values[None, None, None], tf.float32)


def _mix(weights: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Weights `[B, N]` and strengths `[B]` in `[0, 1]` → `[B, N]`, each row summing to its strength."""
    total = tf.reduce_sum(weights, axis=1)
    checks = [
        tf.debugging.assert_non_negative(weights, "style weights: numbers of at least 0 are expected"),
        tf.debugging.assert_positive(total, "style weights: at least one above 0 is expected"),
        *strength_checks(strength),
    ]
    with tf.control_dependencies([c for c in checks if c is not None]):
        return weights * (strength / total)[:, None]


def strength_checks(strength: tf.Tensor) -> list[tf.Operation]:
    """Of strengths `[B]`: running them fails for one outside `[0, 1]`."""
    checks = [
        tf.debugging.assert_non_negative(strength, "strength: 0 to 1 is expected"),
        tf.debugging.assert_less_equal(strength, 1.0, "strength: 0 to 1 is expected"),
    ]
    return [c for c in checks if c is not None]


def size_checks(image: tf.Tensor) -> list[tf.Operation]:
    """Of photos `[B, H, W, 3]`: running them fails for sides that cannot be painted in one piece."""
    height, width = tf.shape(image)[1], tf.shape(image)[2]
    side = f"at least {SMALLEST} pixels a side are expected"
    checks = [
        tf.debugging.assert_greater_equal(tf.minimum(height, width), SMALLEST, side),
        tf.debugging.assert_less_equal(
            height * width, MOST_PIXELS, f"at most {MOST_PIXELS} pixels are painted"
        ),
    ]
    return [c for c in checks if c is not None]
