"""How near a stylizer's pictures come to what optimisation looks for: the loss of `zoo.gatys`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from train.data.images import ImageData
from zoo import base, stylizer

PHOTOS = 32  # of the test split, evenly spread; each in every style
STYLES = 12  # of the test split, too, where any picture is a style

Parts = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def report(model: base.Judged, data: ImageData) -> dict[str, Any]:
    """Content and style loss of held-out pictures in every style, over the squared Gram matrices of the
    painting; beside it the style loss of the pictures as they are, whose content loss is 0.

    Raises:
        UserError: the paintings or VGG19's weights are not where the model's configuration says.
    """
    targets = stylizer.Targets(model.config)
    names = model.config.styles
    stylize = model.signatures()["stylize"]
    losses = tf.function(targets.losses, reduce_retracing=True)

    def paint(photo: tf.Tensor, style: int) -> tf.Tensor:
        return stylize(image=photo, style_weights=tf.one_hot([style], len(names)))["image"]

    photos = [_picture(data, index) for index in _spread(data, PHOTOS)]
    return _report(names, photos, paint, lambda *of, style: losses(*of, tf.constant([style])))


def arbitrary_report(model: base.Judged, data: ImageData) -> dict[str, Any]:
    """As `report`, in the styles of held-out pictures; the slices are by the kind of the picture that gives
    its style.

    Raises:
        UserError: VGG19's weights are not where the model's configuration says.
    """
    objective = stylizer.Objective(model.config)
    stylize = model.signatures()["stylize"]
    pick = _spread(data, PHOTOS + STYLES)
    places = np.linspace(0, len(pick) - 1, min(STYLES, len(pick) // 2)).astype(int)
    giving = [pick[place] for place in places]  # the others are painted
    paintings = [_picture(data, index) for index in giving]
    grams = [objective.grams(objective.features(painting)) for painting in paintings]
    scales = [objective.scale(of_painting) for of_painting in grams]

    @tf.function(reduce_retracing=True)
    def losses(photo, painted, grams, scale):
        return objective.parts(objective.features(photo), painted, grams, scale)

    def paint(photo: tf.Tensor, style: int) -> tf.Tensor:
        return stylize(image=photo, style_image=paintings[style])["image"]

    photos = [_picture(data, index) for index in pick if index not in giving]
    kinds = [data.class_names[data.test.labels[index]] for index in giving]
    return _report(kinds, photos, paint, lambda *of, style: losses(*of, grams[style], scales[style]))


def _spread(data: ImageData, count: int) -> list[int]:
    """Numbers of test pictures, evenly spread."""
    return [int(i) for i in np.unique(np.linspace(0, len(data.test.labels) - 1, count).astype(int))]


def _picture(data: ImageData, index: int) -> tf.Tensor:
    """float32 `[1, H, W, 3]` in `[0, 1]`."""
    return tf.constant(data.test.images[index : index + 1].astype(np.float32) / 255.0)


def _report(
    names: Sequence[str],
    photos: list[tf.Tensor],
    paint: Callable[[tf.Tensor, int], tf.Tensor],
    losses: Callable[..., Parts],
) -> dict[str, Any]:
    """`names`: of the styles, as slices; those of one name are one slice."""
    found = np.zeros([len(photos), len(names), 3])  # content, style, style of the photo
    for row, photo in enumerate(photos):
        for style in range(len(names)):
            content, of_style, _ = losses(photo, paint(photo, style), style=style)
            _, before, _ = losses(photo, photo, style=style)
            found[row, style] = content[0], of_style[0], before[0]
    content, style, before = found.mean((0, 1))
    by_style = found[:, :, :2].sum(2).mean(0)
    return {
        "metrics": {
            "gatys_loss": float(content + style),
            "gatys_loss_of_photo": float(before),
            "content_loss": float(content),
            "style_loss": float(style),
        },
        "n_test": len(photos),
        "slices": {
            "gatys_loss": {
                name: float(np.mean([loss for n, loss in zip(names, by_style, strict=True) if n == name]))
                for name in dict.fromkeys(names)
            }
        },
    }
