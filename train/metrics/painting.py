"""How near a stylizer's pictures come to what optimisation looks for: the loss of `zoo.gatys`."""

from typing import Any

import numpy as np
import tensorflow as tf

from train.data.images import ImageData
from zoo import base, stylizer

PHOTOS = 32  # of the test split, evenly spread; each in every style


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
    pick = np.unique(np.linspace(0, len(data.test.labels) - 1, PHOTOS).astype(int))
    found = np.zeros([len(pick), len(names), 3])  # content, style, style of the photo
    for row, index in enumerate(pick):
        photo = tf.constant(data.test.images[index : index + 1].astype(np.float32) / 255.0)
        for column, mix in enumerate(np.eye(len(names), dtype=np.float32)):
            painted = stylize(image=photo, style_weights=tf.constant(mix[None]))["image"]
            style = tf.constant([column])
            content, of_style, _ = losses(photo, painted, style)
            _, before, _ = losses(photo, photo, style)
            found[row, column] = content[0], of_style[0], before[0]
    content, style, before = found.mean((0, 1))
    return {
        "metrics": {
            "gatys_loss": float(content + style),
            "gatys_loss_of_photo": float(before),
            "content_loss": float(content),
            "style_loss": float(style),
        },
        "n_test": len(pick),
        "slices": {
            "gatys_loss": {
                name: float(loss) for name, loss in zip(names, found[:, :, :2].sum(2).mean(0), strict=True)
            }
        },
    }
