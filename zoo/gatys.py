"""Style transfer by optimisation: the picture itself is what learns.

Gatys, Ecker & Bethge 2016, "Image Style Transfer Using Convolutional Neural Networks" (CVPR): the content
of a photo is its features in a deep layer of VGG19, the style of a painting the correlations of its features
in five layers. Masks, colour preservation and coarse to fine follow Gatys et al. 2017, "Controlling
Perceptual Factors in Neural Style Transfer" (arXiv:1611.07865).

    from zoo import gatys
    image = gatys.stylize(photo, [painting], gatys.Config(steps=100)).image  # float32 [H, W, 3] in [0, 1]
    for progress in gatys.paint(photo, [painting]):                          # or evaluation by evaluation
        ...

There is nothing to train, so this is no family of `zoo.FAMILIES`: `Model` only exports.
"""

import dataclasses
import enum
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from zoo import base, images, minimizers, vgg19
from zoo.errors import UserError
from zoo.minimizers import Minimizer

SMALLEST = 16  # pixels: block5 needs one feature
LARGEST = 1024  # pixels a side in a request to the served signature
MOST_STEPS = 1000  # there, too


class Start(enum.StrEnum):
    """The picture that the optimisation starts from."""

    CONTENT = "content"
    STYLE = "style"  # the first one, stretched
    NOISE = "noise"


class Color(enum.StrEnum):
    """Whose colours the result has (Gatys et al. 2017, section 5)."""

    STYLE = "style"
    LUMINANCE = "luminance"  # the photo's: only light and dark are painted
    HISTOGRAM = "histogram"  # the photo's: the painting's colours are first mapped onto them


@dataclasses.dataclass
class Config:
    """What is minimised, and how."""

    content_weight: float = 1e-3  # the paper: 1e-4 to 1e-3 of the style's
    style_weight: float = 1.0
    tv_weight: float = 0.0  # total variation; 1e-2 smooths visibly
    content_layer: str = "block4_conv2"
    style_layers: dict[str, float] = dataclasses.field(
        default_factory=lambda: {f"block{block}_conv1": 0.2 for block in range(1, 6)}
    )  # their weights
    pooling: vgg19.Pooling = vgg19.Pooling.MAX
    dtype: str = "float32"  # of VGG19; bfloat16 is for CPUs that compute in it, others are slower
    minimizer: Minimizer = Minimizer.LBFGS
    learning_rate: float = 0.03  # Adam's first; of a picture in [0, 1]
    steps: int = 100  # evaluations of loss and gradient, at each scale
    scales: int = 1  # coarse to fine: each scale starts from the enlarged result of half its size
    start: Start = Start.CONTENT
    seed: int = 0  # of Start.NOISE
    color: Color = Color.STYLE
    tile: int = 640  # pixels a side; a larger picture is evaluated in tiles, with the same result

    def validate(self) -> None:
        """Raises `ValueError` that names the field, its value and what is expected."""
        for name in ("content_weight", "style_weight", "tv_weight"):
            value = getattr(self, name)
            if not 0 <= value < np.inf:
                raise ValueError(f"{name}={value}: a number of at least 0 is expected")
        for name in (self.content_layer, *self.style_layers):
            if name not in vgg19.LAYERS:
                raise ValueError(f"{name!r} is no layer of VGG19: {', '.join(vgg19.LAYERS)}")
        if not self.style_layers:
            raise ValueError("style_layers is empty: at least one layer is expected")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype={self.dtype}: float32 or bfloat16 is expected")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate}: more than 0 is expected")
        if self.steps < 1 or self.scales < 1:
            raise ValueError(f"steps={self.steps}, scales={self.scales}: at least 1 is expected")
        if self.tile < 16:
            raise ValueError(f"tile={self.tile}: at least 16 is expected")


# Networks ---------------------------------------------------------------------------------------


def network(config: Config, weights: str = vgg19.IMAGENET) -> keras.Model:
    """The features that a configuration's loss looks at; `weights` as `vgg19.features` takes them."""
    layers = dict.fromkeys([*config.style_layers, config.content_layer])
    return vgg19.features(layers, weights, config.pooling, config.dtype)


# Losses -----------------------------------------------------------------------------------------


def gram(features: tf.Tensor, guide: tf.Tensor | None = None) -> tf.Tensor:
    """G_cd = Σ_p w_p F_pc F_pd, the correlations of feature maps over the places p of a picture.

    Gatys et al. 2016, equation 3, as a mean over the M places: w_p = 1/M. With guides: 2017, equation 4.

    Args:
        features: F, `[B, h, w, C]`; B = 1 for any number of guides.
        guide: w, `[R, h, w]`.

    Returns:
        float32 `[B or R, C, C]`: for the features (1, 2) and (3, 4) at two places, `[[5, 7], [7, 10]]`.
    """
    features = tf.cast(features, tf.float32)
    shape = tf.shape(features)
    places = shape[1] * shape[2]
    flat = tf.reshape(features, [shape[0], places, features.shape[3]])
    if guide is None:
        return tf.matmul(flat, flat, transpose_a=True) / tf.cast(places, tf.float32)
    weighted = flat * tf.reshape(guide, [-1, places, 1])
    return tf.matmul(weighted, flat, transpose_a=True)


def style_loss(painted: tf.Tensor, style: tf.Tensor) -> tf.Tensor:
    """Σ_cd (G_cd - A_cd)² / 4C² of two `gram` matrices (Gatys et al. 2016, equation 4).

    Args:
        painted, style: G and A, `[B, C, C]`.

    Returns:
        `[B]`.
    """
    channels = painted.shape[2]
    return tf.reduce_sum(tf.square(painted - style), [1, 2]) / (4.0 * channels**2)


def content_loss(painted: tf.Tensor, content: tf.Tensor) -> tf.Tensor:
    """½ Σ (F - P)² of two feature maps `[B, h, w, C]` (Gatys et al. 2016, equation 1) → `[B]`."""
    difference = tf.cast(painted, tf.float32) - tf.cast(content, tf.float32)
    return 0.5 * tf.reduce_sum(tf.square(difference), [1, 2, 3])


def total_variation(image: tf.Tensor) -> tf.Tensor:
    """Σ ((x_i,j+1 - x_ij)² + (x_i+1,j - x_ij)²)^1.25 over places and colours, x in 0..255
    (Mahendran & Vedaldi 2015, arXiv:1412.0035, equation 5 with β = 2.5).

    Args:
        image: `[B, H, W, C]` in `[0, 1]`.

    Returns:
        `[B]`.
    """
    x = 255.0 * image
    across = tf.square(x[:, :-1, 1:] - x[:, :-1, :-1])
    down = tf.square(x[:, 1:, :-1] - x[:, :-1, :-1])
    return tf.reduce_sum(tf.pow(across + down, 1.25), [1, 2, 3])


class Weights(NamedTuple):
    """Of the three parts of the loss; scalars."""

    content: tf.Tensor | float
    style: tf.Tensor | float
    tv: tf.Tensor | float


class Targets(NamedTuple):
    """What a picture is compared with. There are R regions; one without masks."""

    content: tf.Tensor  # [1, h, w, C]
    grams: dict[str, tf.Tensor]  # by layer, [R, C, C]
    guides: dict[str, tf.Tensor] | None  # by layer, [R, h, w], each summing to 1; None: one, everywhere
    shares: tf.Tensor  # [R], of the picture's area; they sum to 1


def style_part(config: Config, painted: dict[str, tf.Tensor], targets: Targets) -> tf.Tensor:
    """Σ over layers, by their weights, of the regions' `style_loss`, by their areas: a scalar.

    Args:
        painted: `gram` matrices by layer, `[R, C, C]`.
    """
    return tf.add_n(
        [
            weight * tf.tensordot(targets.shares, style_loss(painted[name], targets.grams[name]), 1)
            for name, weight in config.style_layers.items()
        ]
    )


def picture_loss(
    config: Config, vgg: keras.Model, image: tf.Tensor, targets: Targets, weights: Weights
) -> tf.Tensor:
    """The whole loss of one picture float32 `[H, W, 3]` in `[0, 1]`: a scalar."""
    found = vgg(image[None])
    loss = weights.content * content_loss(found[config.content_layer], targets.content)[0]
    guides = targets.guides or {}
    painted = {name: gram(found[name], guides.get(name)) for name in config.style_layers}
    loss += weights.style * style_part(config, painted, targets)
    if isinstance(weights.tv, float) and weights.tv == 0:
        return loss
    return loss + weights.tv * total_variation(image[None])[0]


# Evaluation -------------------------------------------------------------------------------------

LossAndGradient = tuple[tf.Tensor, tf.Tensor]


class Objective:
    """Loss and gradient of pictures of one size, for one content and one set of styles.

    A large picture is evaluated in tiles, in two passes: the first adds up the Gram matrices of all tiles,
    the second sends their gradient back into each. Tiles overlap by as far as a feature can see, and only
    features of their cores count: so the result is that of the whole picture, and there are no seams to hide.
    """

    def __init__(
        self,
        config: Config,
        vgg: keras.Model,
        content: np.ndarray,
        styles: Sequence[np.ndarray],
        style_weights: np.ndarray,
        masks: np.ndarray | None,
    ):
        """Pictures float32 `[H, W, 3]`, styles of any size; one weight a style, masks `[styles, H, W]`."""
        self._config, self._vgg = config, vgg19.prepared(vgg)
        self._shape = content.shape
        self._weights = Weights(config.content_weight, config.style_weight, config.tv_weight)
        self._tile_grams = tf.function(self._tile_grams_of, reduce_retracing=True)
        self._tile_gradient = tf.function(self._tile_gradient_of, reduce_retracing=True)
        self._whole = tf.function(self._whole_of)

        of_styles = [self._grams(style, None) for style in styles]
        if masks is None:
            # The nearest point to several Gram matrices, by their weights, is their mean.
            share = style_weights / style_weights.sum()
            grams = {
                name: tf.add_n([w * g[name] for w, g in zip(share, of_styles, strict=True)])
                for name in config.style_layers
            }
            guides, shares = None, np.ones([1])
        else:
            grams = {name: tf.concat([g[name] for g in of_styles], 0) for name in config.style_layers}
            guides = {name: _guide(masks, vgg19.stride(name)) for name in config.style_layers}
            shares = style_weights * masks.mean((1, 2))
        self._tiles = self._tiling(content.shape)
        if len(self._tiles) > 1 and guides is None:
            everywhere = np.ones([1, *content.shape[:2]], np.float32)
            guides = {name: _guide(everywhere, vgg19.stride(name)) for name in config.style_layers}
        layer = config.content_layer
        self._contents = [
            _core(self._vgg(tile.crop(content)[None])[layer], tile.core, vgg19.stride(layer))
            for tile in self._tiles
        ]
        self._targets = Targets(
            self._contents[0],
            grams,
            guides,
            tf.constant(shares / shares.sum(), tf.float32),
        )

    def __call__(self, flat: tf.Tensor) -> LossAndGradient:
        """A picture as one vector `[H * W * 3]` → loss `[]`, gradient `[H * W * 3]`."""
        if len(self._tiles) == 1:
            return self._whole(flat)
        return self._tiled(tf.reshape(flat, self._shape))

    def _whole_of(self, flat: tf.Tensor) -> LossAndGradient:
        return loss_and_gradient(self._config, self._vgg, flat, self._shape, self._targets, self._weights)

    # In tiles

    def _tiling(self, shape: tuple[int, ...]) -> list["Tile"]:
        margin = max(map(vgg19.margin, (self._config.content_layer, *self._config.style_layers)))
        return tiles(shape[0], shape[1], self._config.tile, margin)

    def _grams(self, image: np.ndarray, guides: dict[str, tf.Tensor] | None) -> dict[str, tf.Tensor]:
        """The Gram matrices of a picture by layer, `[R, C, C]`."""
        total: dict[str, tf.Tensor] = {}
        cut = self._tiling(image.shape)
        if guides is None:
            everywhere = np.ones([1, *image.shape[:2]], np.float32)
            guides = {n: _guide(everywhere, vgg19.stride(n)) for n in self._config.style_layers}
        for tile in cut:
            found = self._tile_grams(tile.crop(image), tile.core, _cut(guides, tile))
            total = {name: total.get(name, 0.0) + value for name, value in found.items()}
        return total

    def _tile_grams_of(self, crop, core, guides):
        found = self._vgg(crop[None])
        return {
            name: gram(_core(found[name], core, vgg19.stride(name)), guides[name])
            for name in self._config.style_layers
        }

    def _tile_gradient_of(self, crop, core, guides, pull, content):
        """The part of a tile in the content loss, and the gradient at its pixels, given `pull`, the gradient
        of the style loss at the Gram matrices."""
        layer = self._config.content_layer
        with tf.GradientTape() as tape:
            tape.watch(crop)
            found = self._vgg(crop[None])
            painted = _core(found[layer], core, vgg19.stride(layer))
            loss = self._weights.content * content_loss(painted, content)[0]
            pulled = loss
            for name in self._config.style_layers:
                of_core = _core(found[name], core, vgg19.stride(name))
                pulled += tf.reduce_sum(pull[name] * gram(of_core, guides[name]))
        return loss, tape.gradient(pulled, crop)

    def _tiled(self, image: tf.Tensor) -> LossAndGradient:
        targets = self._targets
        assert targets.guides is not None  # several tiles always have them
        pixels = image.numpy()
        painted = self._grams(pixels, targets.guides)
        with tf.GradientTape() as tape:
            tape.watch(painted)
            style = self._weights.style * style_part(self._config, painted, targets)
        pull = tape.gradient(style, painted)
        loss, gradient = style, np.zeros_like(pixels)
        if self._config.tv_weight:  # as large as the picture, several times
            with tf.GradientTape() as tape:
                tape.watch(image)
                variation = self._weights.tv * total_variation(image[None])[0]
            loss += variation
            gradient = tape.gradient(variation, image).numpy()
        for tile, content in zip(self._tiles, self._contents, strict=True):
            guides = _cut(targets.guides, tile)
            part, at_pixels = self._tile_gradient(tile.crop(image), tile.core, guides, pull, content)
            loss += part
            tile.crop(gradient)[:] += at_pixels.numpy()
        return loss, tf.constant(gradient.reshape(-1))


def loss_and_gradient(
    config: Config,
    vgg: keras.Model,
    flat: tf.Tensor,
    shape: Sequence[int] | tf.Tensor,
    targets: Targets,
    weights: Weights,
) -> LossAndGradient:
    """`picture_loss` of a picture as one vector, and its gradient there."""
    with tf.GradientTape() as tape:
        tape.watch(flat)
        loss = picture_loss(config, vgg, tf.reshape(flat, shape), targets, weights)
    return loss, tape.gradient(loss, flat)


class Tile(NamedTuple):
    """A rectangle of a picture, and the core of it whose features count."""

    rows: slice
    columns: slice
    core: tf.Tensor  # int32 (top, bottom, left, right), within the rectangle

    def crop(self, image):
        return image[self.rows, self.columns]


def tiles(height: int, width: int, side: int, margin: int) -> list[Tile]:
    """Covers a picture by cores of at most `side` pixels, each with `margin` around it as far as there is
    picture. A picture no larger than a core with its margins is not cut.

    `tiles(600, 200, 256, 96)` has three, with cores of 208, 208 and 184 rows.
    """
    cut = []
    for top, bottom in _spans(height, side, margin):
        for left, right in _spans(width, side, margin):
            first_row, first_column = max(0, top - margin), max(0, left - margin)
            core = [top - first_row, bottom - first_row, left - first_column, right - first_column]
            rows = slice(first_row, min(height, bottom + margin))
            columns = slice(first_column, min(width, right + margin))
            cut.append(Tile(rows, columns, tf.constant(core)))
    return cut


def _spans(length: int, side: int, margin: int) -> list[tuple[int, int]]:
    if length <= side + 2 * margin:
        return [(0, length)]
    # Multiples of 16, so that every layer's features lie where they lie in the whole picture.
    step = -(-length // (-(-length // side) * 16)) * 16
    return [(start, min(start + step, length)) for start in range(0, length, step)]


def _core(features: tf.Tensor, core: tf.Tensor, stride: int) -> tf.Tensor:
    """Features `[1, h, w, C]` of a tile → those of its core; incomplete ones at the edges do not exist."""
    top, bottom, left, right = tf.unstack(core // stride)
    return features[:, top:bottom, left:right]


def _guide(masks: np.ndarray, stride: int) -> tf.Tensor:
    """Masks `[R, H, W]` → how much each feature of a layer counts, `[R, H/stride, W/stride]`, sums of 1."""
    regions, height, width = masks.shape
    high, wide = height // stride, width // stride
    blocks = masks[:, : high * stride, : wide * stride].reshape(regions, high, stride, wide, stride)
    means = blocks.mean((2, 4), dtype=np.float64)
    total = means.sum((1, 2), keepdims=True)
    return tf.constant(means / np.maximum(total, 1e-12), tf.float32)


def _cut(guides: dict[str, tf.Tensor], tile: Tile) -> dict[str, tf.Tensor]:
    cut = {}
    top, bottom, left, right = tile.core.numpy()
    for name, guide in guides.items():
        stride = vgg19.stride(name)
        row, column = tile.rows.start, tile.columns.start
        rows = slice((row + top) // stride, (row + bottom) // stride)
        cut[name] = guide[:, rows, (column + left) // stride : (column + right) // stride]
    return cut


# Colours ----------------------------------------------------------------------------------------

_LUMINANCE = np.array(images.LUMINANCE, np.float32)


def luminance(image: np.ndarray) -> np.ndarray:
    """RGB `[..., 3]` → `[...]`, how light it looks."""
    return image @ _LUMINANCE


def with_luminance(image: np.ndarray, light: np.ndarray) -> np.ndarray:
    """A picture `[H, W, 3]` with its own colour differences and another's luminance `[H, W]`.

    Where no colour of that luminance has those differences, the nearest luminance that one has: so the
    colours are kept exactly.
    """
    differences = image - luminance(image)[..., None]
    light = np.clip(light, -differences.min(-1), 1.0 - differences.max(-1))
    return np.clip(differences + light[..., None], 0.0, 1.0)


def _grey_like(style: np.ndarray, content: np.ndarray) -> np.ndarray:
    """The painting in grey, with the mean and the deviation of the photo's luminance (2017, equation 9)."""
    light, wanted = luminance(style), luminance(content)
    light = (light - light.mean()) * (wanted.std() / max(light.std(), 1e-6)) + wanted.mean()
    return _grey(np.clip(light, 0.0, 1.0))


def _grey(light: np.ndarray) -> np.ndarray:
    return np.repeat(light[..., None], 3, -1).astype(np.float32)


def match_colors(style: np.ndarray, content: np.ndarray) -> np.ndarray:
    """x → Σ_C^½ Σ_S^-½ (x - μ_S) + μ_C: the painting with the mean and the covariance of the photo's colours
    (2017, section 5.2, "image analogies"), clipped to `[0, 1]`."""
    of_style, of_content = (x.reshape(-1, 3).astype(np.float64) for x in (style, content))
    turn = _power(np.cov(of_content.T), 0.5) @ _power(np.cov(of_style.T), -0.5)
    matched = (of_style - of_style.mean(0)) @ turn.T + of_content.mean(0)
    return np.clip(matched, 0.0, 1.0).reshape(style.shape).astype(np.float32)


def _power(covariance: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.maximum(values, 1e-6) ** exponent) @ vectors.T


# Painting ---------------------------------------------------------------------------------------

_ADVANCE = {
    Minimizer.LBFGS: tf.function(minimizers.lbfgs_advance, reduce_retracing=True),
    Minimizer.ADAM: tf.function(minimizers.adam_advance, reduce_retracing=True),
}
_MEMORY_BYTES = 2**29  # for the pairs of L-BFGS: a photo of 12 million pixels gets by with fewer


@dataclasses.dataclass(frozen=True)
class Progress:
    """The best picture so far, after an evaluation."""

    evaluation: int
    evaluations: int  # in all
    loss: float  # of the picture, at its scale
    image: np.ndarray  # float32 [H, W, 3] in [0, 1]; smaller than the photo before the last scale


def stylize(
    content: np.ndarray,
    styles: Sequence[np.ndarray],
    config: Config | None = None,
    *,
    style_weights: Sequence[float] | None = None,
    masks: Sequence[np.ndarray] | None = None,
    vgg: keras.Model | None = None,
) -> Progress:
    """The photo painted in the styles: `paint` to its end."""
    *_, last = paint(content, styles, config, style_weights=style_weights, masks=masks, vgg=vgg)
    return last


def paint(
    content: np.ndarray,
    styles: Sequence[np.ndarray],
    config: Config | None = None,
    *,
    style_weights: Sequence[float] | None = None,
    masks: Sequence[np.ndarray] | None = None,
    vgg: keras.Model | None = None,
) -> Iterator[Progress]:
    """Paints the photo in the styles, evaluation by evaluation; whoever has seen enough stops iterating.

    Args:
        content: the photo, float `[H, W, 3]` in `[0, 1]`, 16 pixels a side or more.
        styles: paintings of any size, which matters: strokes are copied pixel by pixel.
        config: default: `Config()`.
        style_weights: how much of each style; default: equal parts.
        masks: a region `[H, W]` in `[0, 1]` of the photo for each style; default: all styles everywhere.
        vgg: `network(config)`, which is made if it is not given; `vgg19.prepared` from then on.

    Raises:
        UserError: a picture, weight or mask that cannot be, or VGG19's weights are missing.
    """
    config = config or Config()
    given = _checked(config, content, styles, style_weights, masks)
    return _painted(config, vgg or network(config), *given)


def _painted(
    config: Config,
    vgg: keras.Model,
    content: np.ndarray,
    styles: list[np.ndarray],
    share: np.ndarray,
    regions: np.ndarray | None,
) -> Iterator[Progress]:
    done, total = 0, config.scales * config.steps
    painted: np.ndarray | None = None
    for shrink in (2**k for k in reversed(range(config.scales))):
        height, width = content.shape[0] // shrink, content.shape[1] // shrink
        photo = _resize(content, height, width)
        small = [_resize(style, *(max(SMALLEST, n // shrink) for n in style.shape[:2])) for style in styles]
        guides = None
        if regions is not None:
            guides = np.clip(_resize(np.moveaxis(regions, 0, -1), height, width), 0, 1)
            guides = np.moveaxis(guides, -1, 0)
        seen = photo
        if config.color == Color.LUMINANCE:
            small = [_grey_like(style, photo) for style in small]
            seen = _grey(luminance(photo))
        elif config.color == Color.HISTOGRAM:
            small = [match_colors(style, photo) for style in small]
        objective = Objective(config, vgg, seen, small, share, guides)
        if painted is not None:
            first = np.clip(_resize(painted, height, width), 0, 1)
        else:
            first = _first(config, seen, small[0])
        state = _start(config, tf.constant(first.reshape(-1)))
        for _ in range(config.steps):
            state = _ADVANCE[config.minimizer](state, *objective(state.trial))
            painted = state.best.numpy().reshape(photo.shape)
            done += 1
            shown = painted
            if config.color == Color.LUMINANCE:
                shown = with_luminance(photo, luminance(painted))
            yield Progress(done, total, float(state.loss), shown)


def _checked(
    config: Config,
    content: np.ndarray,
    styles: Sequence[np.ndarray],
    style_weights: Sequence[float] | None,
    masks: Sequence[np.ndarray] | None,
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray | None]:
    try:
        config.validate()
    except ValueError as error:
        raise UserError(str(error)) from error
    if not styles:
        raise UserError("no style is given: at least one painting is expected")
    content = _picture("the photo", content, SMALLEST << (config.scales - 1), config.scales)
    styles = [_picture(f"style {i + 1}", style, SMALLEST) for i, style in enumerate(styles)]
    share = np.ones(len(styles)) if style_weights is None else np.asarray(style_weights, float)
    if share.shape != (len(styles),) or not (np.isfinite(share) & (share >= 0)).all() or not share.any():
        raise UserError(
            f"style weights {share.tolist()}: {len(styles)} numbers of at least 0 are expected, not all 0"
        )
    if masks is None:
        return content, styles, share, None
    regions = [np.asarray(mask, np.float32) for mask in masks]
    if len(regions) != len(styles):
        raise UserError(f"{len(regions)} masks for {len(styles)} styles: one for each style is expected")
    for i, region in enumerate(regions):
        if region.shape != content.shape[:2]:
            raise UserError(
                f"mask {i + 1} has shape {region.shape}; that of the photo, {content.shape[:2]}, is expected"
            )
        if not (np.isfinite(region).all() and region.min() >= 0 and region.max() <= 1):
            raise UserError(f"mask {i + 1} holds numbers outside [0, 1]")
    areas = share * [region.mean() for region in regions]
    if not areas.any():
        raise UserError("the masks are empty: nothing would be painted")
    return content, styles, share, np.stack(regions)


def _picture(name: str, image: np.ndarray, smallest: int, scales: int = 1) -> np.ndarray:
    image = np.asarray(image, np.float32)
    if image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"{name} has shape {image.shape}: [height, width, 3] is expected")
    if min(image.shape[:2]) < smallest:
        for_scales = f" for {scales} scales" if scales > 1 else ""
        raise UserError(
            f"{name} is {image.shape[1]}x{image.shape[0]} pixels;"
            f" at least {smallest}x{smallest} are expected{for_scales}"
        )
    if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
        raise UserError(f"{name} holds numbers outside [0, 1]")
    return image


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    resized = tf.image.resize(image, [height, width], "bicubic", antialias=True).numpy()
    return np.clip(resized, 0.0, 1.0)


def _first(config: Config, content: np.ndarray, style: np.ndarray) -> np.ndarray:
    if config.start == Start.NOISE:
        noise = np.random.default_rng(config.seed).random(content.shape, np.float32)
        return _grey(noise[..., 0]) if config.color == Color.LUMINANCE else noise
    if config.start == Start.STYLE:
        return _resize(style, *content.shape[:2])
    return content


def _start(config: Config, x: tf.Tensor) -> minimizers.Lbfgs | minimizers.Adam:
    if config.minimizer == Minimizer.ADAM:
        return minimizers.adam_start(x, tf.constant(config.steps), config.learning_rate)
    affordable = _MEMORY_BYTES // (8 * x.shape[0]) - 1
    return minimizers.lbfgs_start(x, int(np.clip(affordable, 2, minimizers.MEMORY)))


# Serving ----------------------------------------------------------------------------------------


class Model:
    """What an export holds: VGG19 and the signature `stylize`, whose optimisation runs inside the graph."""

    limits = (
        "For pictures to look at, a minute or more each: too slow for many users at once. Nothing was "
        "trained here: the features are VGG19's, learnt on ImageNet."
    )

    def __init__(self, config: Config | None = None, weights: str = vgg19.IMAGENET):
        self.config = config or Config()
        self.config.validate()
        self.vgg = network(self.config, weights)

    def _stylize_one(
        self, content: tf.Tensor, style: tf.Tensor, steps: tf.Tensor, weights: Weights
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Pictures `[H, W, 3]`, `[h, w, 3]` → image `[H, W, 3]`, loss `[]`."""
        config, shape = self.config, tf.shape(content)
        found = self.vgg(style[None])
        targets = Targets(
            self.vgg(content[None])[config.content_layer],
            {name: gram(found[name]) for name in config.style_layers},
            None,
            tf.ones([1]),
        )

        def step(done, state):
            # An operation of its own in the loop: the runtime looks at a call's deadline between two.
            evaluated = loss_and_gradient(config, self.vgg, state.trial, shape, targets, weights)
            return done + 1, minimizers.lbfgs_advance(state, *evaluated)

        _, state = tf.while_loop(
            lambda done, _: done < steps,
            step,
            (tf.constant(0), minimizers.lbfgs_start(tf.reshape(content, [-1]))),
            parallel_iterations=1,
        )
        return tf.reshape(state.best, shape), state.loss

    def signatures(self) -> dict[str, base.Signature]:
        """As `base.Model.signatures`."""
        defaults = self.config
        one = tf.TensorSpec([None], tf.float32)
        picture = tf.TensorSpec([None, None, None, 3], tf.float32)

        @tf.function(
            input_signature=[
                tf.TensorSpec(picture.shape, picture.dtype, "content"),
                tf.TensorSpec(picture.shape, picture.dtype, "style"),
                tf.TensorSpec([None], tf.int32, "steps"),
                tf.TensorSpec(one.shape, one.dtype, "content_weight"),
                tf.TensorSpec(one.shape, one.dtype, "style_weight"),
                tf.TensorSpec(one.shape, one.dtype, "tv_weight"),
            ]
        )
        def stylize(
            content,
            style,
            steps=tf.constant([defaults.steps]),  # noqa: B008
            content_weight=tf.constant([defaults.content_weight]),  # noqa: B008
            style_weight=tf.constant([defaults.style_weight]),  # noqa: B008
            tv_weight=tf.constant([defaults.tv_weight]),  # noqa: B008
        ):
            """The content's picture in the style's manner after so many steps of L-BFGS, and its loss.

            Pictures are in `[0, 1]`, 16 to 1024 pixels a side, content and style each of their own size. A
            request with a deadline stops there.
            """
            rows = tf.shape(content)[:1]
            content, style = _checked_size(content, "content"), _checked_size(style, "style")
            steps = _checked_range(tf.broadcast_to(steps, rows), 1, MOST_STEPS, "steps")
            weights = Weights(
                *(
                    _checked_range(tf.broadcast_to(w, rows), 0.0, tf.float32.max, f"{name}_weight")
                    for name, w in (("content", content_weight), ("style", style_weight), ("tv", tv_weight))
                )
            )
            with vgg19.prepared_in_graph(self.vgg):
                image, loss = tf.map_fn(
                    lambda row: self._stylize_one(row[0], row[1], row[2], row[3]),
                    (tf.clip_by_value(content, 0.0, 1.0), tf.clip_by_value(style, 0.0, 1.0), steps, weights),
                    fn_output_signature=(
                        tf.TensorSpec([None, None, 3], tf.float32),
                        tf.TensorSpec([], tf.float32),
                    ),
                    parallel_iterations=1,
                )
            return {"image": image, "loss": loss}

        return {"stylize": stylize}

    def example_requests(self) -> dict[str, dict[str, np.ndarray]]:
        """As `base.Model.example_requests`."""
        random = np.random.default_rng(0)
        return {
            "stylize": {
                "content": random.random([2, 32, 48, 3], np.float32),
                "style": random.random([2, 40, 32, 3], np.float32),
                "steps": np.array([2, 3], np.int32),
                "content_weight": np.array([1e-3, 1e-2], np.float32),
                "style_weight": np.array([1.0, 0.5], np.float32),
                "tv_weight": np.array([0.0, 1e-2], np.float32),
            }
        }


def _checked_size(image: tf.Tensor, name: str) -> tf.Tensor:
    """Pictures as they are; running the graph fails where they are too small or too large."""
    with _within(tf.shape(image)[1:3], SMALLEST, LARGEST, f"{name}: pixels a side"):
        return tf.identity(image)


def _checked_range(value: tf.Tensor, lowest: float, highest: float, name: str) -> tf.Tensor:
    """Numbers as they are; running the graph fails where one is outside `[lowest, highest]`."""
    with _within(value, lowest, highest, name):
        return tf.identity(value)


def _within(value: tf.Tensor, lowest: float, highest: float, name: str):
    # A NaN fails both comparisons.
    return tf.control_dependencies(
        [
            tf.debugging.assert_greater_equal(value, lowest, f"{name}: at least {lowest} is expected"),
            tf.debugging.assert_less_equal(value, highest, f"{name}: at most {highest:g} is expected"),
        ]
    )
