"""scikit-learn's real handwritten digits: 1,797 grey 8x8 images, part of the installed package."""

import numpy as np

from train.data.images import ImageData, Images, resize
from zoo.errors import UserError

_TEST_PER_CENT = 20


def load(image_size: int | None = None) -> ImageData:
    """Loads the digits: 1,440 or so train and 360 or so test images, uint8 [N, 8, 8, 1].

    The stored grey levels 0..16 are scaled to 0..255. The split is fixed and stratified: of every
    class, the same fifth (drawn once with a fixed seed) is the test set.

    Raises:
        UserError: scikit-learn is not installed, or `image_size` is too big for the memory.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as e:
        raise UserError("data set 'digits' needs scikit-learn: pip install scikit-learn") from e
    raw = load_digits()
    images = np.round(raw.images * (255 / 16)).astype(np.uint8)[..., None]  # [1797, 8, 8, 1]
    labels = raw.target.astype(np.int32)

    is_test = np.zeros(len(labels), bool)
    rng = np.random.default_rng(0)
    for k in range(10):
        rows = rng.permutation(np.flatnonzero(labels == k))
        is_test[rows[: round(len(rows) * _TEST_PER_CENT / 100)]] = True
    images = resize("digits", images, image_size)
    return ImageData(
        name="digits",
        class_names=tuple(str(k) for k in range(10)),
        train=Images(images[~is_test], labels[~is_test]),
        test=Images(images[is_test], labels[is_test]),
        licence="CC BY 4.0 (UCI Machine Learning Repository); copy in scikit-learn, BSD-3-Clause",
        source="Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits (UCI), "
        "test part, by sklearn.datasets.load_digits",
    )
