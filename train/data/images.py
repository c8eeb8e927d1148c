"""What every image data set is once loaded: two in-memory splits.

Decoding happens once, at load time; the arrays are the cache that the input pipeline reads.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from PIL import Image

from train.data import pipeline
from train.data.dataset import WHOLE, DataSet, Shard
from zoo.errors import UserError

if TYPE_CHECKING:
    from train.config import Data

# Of a split, for previews: as many as fit into 64 MB, of those at most 500.
_EXAMPLES, _EXAMPLE_VALUES = 500, 2**24


@dataclasses.dataclass(frozen=True)
class Images:
    """One split, in memory."""

    images: np.ndarray  # uint8 [N, H, W, C], C = 1 (grey) or 3 (RGB), 0..255
    labels: np.ndarray  # int32 [N], 0..len(class_names)-1


@dataclasses.dataclass(frozen=True)
class ImageData(DataSet):
    """Train and test splits of one image shape, with class names and origin."""

    name: str
    class_names: tuple[str, ...]
    train: Images
    test: Images
    licence: str
    source: str

    @property
    def kind(self) -> str:
        return "images"

    @property
    def unit(self) -> str:
        return "images"

    @property
    def for_model(self) -> dict[str, Any]:
        return {"image_shape": self.train.images.shape[1:], "class_names": self.class_names}

    @property
    def sizes(self) -> dict[str, int]:
        return {"train_images": len(self.train.labels), "test_images": len(self.test.labels)}

    def train_batches(
        self, settings: Data, *, seed: int, start_step: int = 0, shard: Shard = WHOLE
    ) -> tf.data.Dataset:
        """(image float32 `[g, H, W, C]` in `[0, 1]`, label int32 `[g]`), see `pipeline.train_batches`."""
        return pipeline.train_batches(
            self.train,
            batch_size=settings.batch_size,
            seed=seed,
            start_step=start_step,
            augment=settings.augment,
            shard=shard,
        )

    def eval_batches(self, settings: Data, batch_size: int) -> tf.data.Dataset:
        return pipeline.eval_batches(self.test, batch_size)

    def examples(self) -> tuple[np.ndarray, ...]:
        """Up to 500 images with their labels, drawn from the split: sets come sorted by class."""
        count = max(64, min(_EXAMPLES, _EXAMPLE_VALUES // int(np.prod(self.test.images.shape[1:]))))
        pick = np.random.default_rng(0).permutation(len(self.test.labels))[:count]
        return self.test.images[pick].astype(np.float32) / 255.0, self.test.labels[pick]


def resize_image(image: Image.Image, size: int) -> Image.Image:
    """Returns `image` stretched to `size` x `size` (the aspect ratio is not kept, nothing is cut).

    Lanczos filter; Pillow widens the filter when shrinking, so there is no aliasing
    (Parmar et al. 2022, https://arxiv.org/abs/2104.11222, show how much that matters).
    """
    if image.size == (size, size):
        return image
    return image.resize((size, size), Image.Resampling.LANCZOS)


def resize(name: str, images: np.ndarray, size: int | None) -> np.ndarray:
    """Resizes a stack: uint8 [N, H, W, C] to uint8 [N, size, size, C]; `None` keeps it as it is.

    Raises:
        UserError: the result would be too big for the memory; names the data set `name`.
    """
    n, height, width, channels = images.shape
    if size is None or (height, width) == (size, size):
        return images
    check_fits_memory(name, (n, size, size, channels))
    out = np.empty((n, size, size, channels), np.uint8)
    for i, image in enumerate(images):
        out[i] = to_array(resize_image(to_pil(image), size))
    return out


def to_pil(image: np.ndarray) -> Image.Image:
    """uint8 [H, W, 1 or 3] to a Pillow image of mode L or RGB."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def to_array(image: Image.Image) -> np.ndarray:
    """A Pillow image of mode L or RGB to uint8 [H, W, 1 or 3]."""
    array = np.asarray(image, np.uint8)
    return array[..., None] if array.ndim == 2 else array


def check_fits_memory(name: str, shape: tuple[int, int, int, int]) -> None:
    """Raises UserError if a uint8 array [N, H, W, C] would take over half of the machine's memory.

    Half, because training needs room too.
    """
    need = int(np.prod(shape, dtype=np.float64))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > memory / 2:
        raise UserError(
            f"data set '{name}' would take {need / 1e9:,.1f} GB in memory ({shape[0]:,} images of "
            f"{shape[1]}x{shape[2]}x{shape[3]}), more than half of this machine's "
            f"{memory / 1e9:,.1f} GB: set a smaller data.image_size"
        )
