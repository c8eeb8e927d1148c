"""The fixed scoring classifier: it stands in for Inception, at a size that trains in two minutes.

Conv32, Conv32, pool, Conv64, pool, dropout 0.3, Dense 64 ("feat"), logits: 131 K parameters at
28x28x1 (`quality.md` 2.3). Distances depend on a judge's weights, so one judge per data set is
trained once, kept in `judges/<data set>/` and never retrained silently.
"""

import io
import json
import re
from pathlib import Path
from typing import Any, NamedTuple, Self

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from zoo import files
from zoo.errors import UserError

JUDGES = Path(__file__).parent / "judges"
TRAIN_COMMAND = "python -m train.metrics.judge_main --data=NAME --data_dir=DIR --image_size=N"
_BATCH = 500


class Scores(NamedTuple):
    """What a judge says of N images."""

    feat: NDArray[np.float32]  # [N, 64], after the ReLU
    logits: NDArray[np.float32]  # [N, K]

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Softmax of the logits, [N, K]."""
        shifted = self.logits.astype(np.float64) - self.logits.max(axis=1, keepdims=True)
        exponentials = np.exp(shifted)
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Most probable class, [N]."""
        return self.logits.argmax(axis=1)


def _network(image_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
    """Images [B, H, W, C] in [0, 1] -> (feat [B, 64], logits [B, K])."""
    # Unpadded convolutions give the reference its 131 K parameters; 8x8 images need the padding.
    padding = "valid" if min(image_shape[:2]) >= 20 else "same"

    def convolution(filters: int, x: Any) -> Any:
        return keras.layers.Conv2D(filters, 3, padding=padding, activation="relu")(x)

    image = keras.Input(image_shape)
    x = convolution(32, convolution(32, image))
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.MaxPooling2D()(convolution(64, x))
    # Larger images get more Conv64 + pool pairs, so that the weights stay below 1 MB.
    while max(x.shape[1:3]) > 7:
        x = keras.layers.MaxPooling2D()(convolution(64, x))
    x = keras.layers.Dropout(0.3)(keras.layers.Flatten()(x))
    feat = keras.layers.Dense(64, activation="relu", name="feat")(x)
    logits = keras.layers.Dense(num_classes, name="logits")(feat)
    return keras.Model(image, [feat, logits])


def known() -> list[str]:
    """Names of the data sets that have a kept judge."""
    return sorted(path.parent.name for path in JUDGES.glob("*/card.json"))


def folder(data_set_name: str) -> Path:
    """Where the judge of a data set is kept; `folder:/a/b` becomes `folder_a_b`."""
    return JUDGES / re.sub(r"[^A-Za-z0-9]+", "_", data_set_name).strip("_")


class Judge:
    """A trained scoring classifier of one data set.

    Attributes:
      card: what `card.json` says: data, licence, command, seed, wall time, hardware, accuracy.
      image_shape: (H, W, C) of the images it takes.
    """

    def __init__(self, network: keras.Model, card: dict[str, Any]) -> None:
        self.card = card
        self.image_shape: tuple[int, int, int] = tuple(network.input_shape[1:])
        self._network = network
        self._forward = tf.function(
            lambda images: network(images, training=False),
            input_signature=[tf.TensorSpec((None, *self.image_shape), tf.float32)],
            autograph=False,
        )

    @classmethod
    def load(cls, data_set_name: str) -> Self:
        """Loads the judge kept for a data set, for example `Judge.load("mnist")`.

        Raises:
          UserError: no judge is kept under that name, or its files are damaged.
        """
        where = folder(data_set_name)
        if not (where / "card.json").is_file():
            raise UserError(
                f"no judge for data set {data_set_name!r}; known: {', '.join(known()) or 'none'}; "
                f"train one with: {TRAIN_COMMAND}"
            )
        try:
            card = json.loads((where / "card.json").read_text())
            network = _network(tuple(card["image_shape"]), len(card["class_names"]))
            with np.load(where / "weights.npz", allow_pickle=False) as kept:
                network.set_weights([kept[f"{i:02d}"] for i in range(len(network.weights))])
        except Exception as error:  # zip, JSON, key and shape errors alike mean a damaged file
            raise UserError(
                f"judge in {where} cannot be read ({type(error).__name__}); "
                f"train it anew with: {TRAIN_COMMAND}"
            ) from error
        return cls(network, card)

    def save(self, data_set_name: str) -> Path:
        """Keeps weights and card in `judges/<data set>/`; returns that folder.

        Raises:
          UserError: the folder cannot be written.
        """
        where = folder(data_set_name)
        buffer = io.BytesIO()
        weights = {f"{i:02d}": w for i, w in enumerate(self._network.get_weights())}
        np.savez_compressed(buffer, **weights)
        try:
            files.atomic_write(where / "weights.npz", buffer.getvalue())
            # The card comes last: `load` takes a folder without one for absent.
            card = json.dumps(self.card, indent=2) + "\n"
            files.atomic_write(where / "card.json", card.encode())
        except OSError as error:
            raise UserError(
                f"cannot keep the judge in {where}: {error.strerror}; "
                "free some space or change its rights"
            ) from error
        return where

    def parameters(self) -> int:
        """Number of weights."""
        return int(self._network.count_params())

    def features(self, images: NDArray[Any]) -> Scores:
        """Scores images in batches.

        Args:
          images: [N, H, W, C], float32 in [0, 1] or uint8 in 0..255.

        Returns:
          (feat float32 [N, 64], logits float32 [N, K]), with `.probabilities` and `.predicted`.

        Raises:
          ValueError: another shape, no image, or values outside the range.
        """
        if images.shape[1:] != self.image_shape or not len(images):
            expected = ", ".join(map(str, self.image_shape))
            raise ValueError(f"images have shape {images.shape}; expected [N >= 1, {expected}]")
        feats, logits = [], []
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            scaled = batch.astype(np.float32) / (255 if batch.dtype == np.uint8 else 1)
            if not (scaled.min() >= -1e-4 and scaled.max() <= 1 + 1e-4):  # also refuses NaN
                raise ValueError(f"image values span {scaled.min()}..{scaled.max()}; expected 0..1")
            feat, logit = self._forward(scaled)
            feats.append(feat.numpy())
            logits.append(logit.numpy())
        return Scores(np.concatenate(feats), np.concatenate(logits))


def train(
    images: NDArray[np.uint8],
    labels: NDArray[np.int32],
    class_names: list[str],
    *,
    epochs: int,
    seed: int,
    augment: bool,
) -> Judge:
    """Trains a judge: Adam 1e-3, batch 128, cross-entropy; the same seed gives the same weights.

    Args:
      images: uint8 [N, H, W, C].
      labels: int32 [N], indices into class_names.
      epochs: 6 for 60,000 images.
      seed: of the first weights, the order, the dropout and the augmentation.
      augment: random left-right flips and shifts up to a tenth: small sets would be memorised.

    Returns:
      The judge; its card holds only what this function knows (shape and classes).
    """
    keras.utils.set_random_seed(seed)  # before the layers: an initializer draws its seed when made
    shape = tuple(images.shape[1:])
    network = _network(shape, len(class_names))
    image = x = keras.Input(shape)
    if augment:
        x = keras.layers.RandomFlip("horizontal", seed=seed)(x)
        x = keras.layers.RandomTranslation(0.1, 0.1, seed=seed + 1)(x)
    trained = keras.Model(image, network(x)[1])
    trained.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,  # XLA is slower for convolutions on a CPU (training.md 4)
    )
    trained.fit(images.astype(np.float32) / 255, labels, batch_size=128, epochs=epochs, verbose=2)
    return Judge(network, {"image_shape": list(shape), "class_names": list(class_names)})
