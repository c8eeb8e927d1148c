"""Whether a generator gives back its training images: how near its samples lie to them, and held-out images.

Two questions, by the Euclidean distance of images in [0, 1]. Are samples nearer to the training images than
fresh images of the same kind are (as Meehan et al. 2020, arXiv:2004.05675, compare them)? Blurred samples
are, without any copying: an average lies nearer to all. So also: is a sample's nearest neighbour a training
image more often than a held-out one, beyond what their numbers say? Blur brings both nearer alike.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLES = 10_000  # generated images, and as many held-out ones at most
_BLOCK = 16 << 20  # numbers in a block of references and of products: 64 MiB each
_QUERIES = 1_000


def nearest(queries: NDArray[Any], references: NDArray[Any]) -> NDArray[np.float64]:
    """Euclidean distance of each image to its nearest reference, exact search.

    |q - r|² = |q|² - 2 q·r + |r|² in float32 finds the reference, block by block; the distance to it is then
    taken from the differences, so that a copy has distance 0.

    Args:
        queries: [N, H, W, C], uint8 or float in [0, 1].
        references: [M, H, W, C] likewise.

    Returns:
        float64 [N]; 1 is one pixel from black to white.
    """
    size = int(np.prod(references.shape[1:]))
    rows = max(1, min(_BLOCK // size, _BLOCK // _QUERIES))
    best = np.full(len(queries), np.inf, np.float32)
    where = np.zeros(len(queries), np.int64)
    for start in range(0, len(references), rows):
        block = _flat(references[start : start + rows])
        squares = np.einsum("ij,ij->i", block, block)
        block *= -2.0
        for first in range(0, len(queries), _QUERIES):
            part = slice(first, first + _QUERIES)
            distances = _flat(queries[part]) @ block.T  # |q|² is the same for all references
            distances += squares
            found = distances.argmin(axis=1)
            least = distances[np.arange(len(found)), found]
            nearer = least < best[part]
            best[part][nearer] = least[nearer]
            where[part][nearer] = start + found[nearer]
    exact = []
    for first in range(0, len(queries), _QUERIES):
        part = slice(first, first + _QUERIES)
        difference = _flat(queries[part]).astype(np.float64) - _flat(references[where[part]])
        exact.append(np.sqrt(np.square(difference).sum(axis=1)))
    return np.concatenate(exact)


def _flat(images: NDArray[Any]) -> NDArray[np.float32]:
    flat = images.reshape(len(images), -1).astype(np.float32)  # a copy
    if images.dtype == np.uint8:
        flat /= 255
    return flat


def memorisation_report(
    real_train: NDArray[Any], real_test: NDArray[Any], fake_images: NDArray[Any]
) -> dict[str, Any]:
    """How near samples lie to the training images, beside how near held-out images do.

    A generator memorises no more than fresh images would seem to if `nearest_train_ratio` is about 1 or more
    and `near_copies` about 0.01 or less; one whose samples are blurred, if `nearest_is_train` is about
    `nearest_is_train_expected`. `nearest_is_train_error` is the standard error of that comparison. Where the
    held-out images come from elsewhere (MNIST's were written by other people) it can exceed that by itself.

    Args:
        real_train, real_test, fake_images: [N, H, W, C], uint8 or float in [0, 1].

    Returns:
        JSON values: `median` distance of samples to their nearest training image, `median_of_test` images,
        `nearest_train_ratio` of the two; `near_copies`, the share of samples nearer than the nearest 1 % of
        test images; `nearest_is_train`, the share of samples with a training image nearer than any test
        image, that of a generator which knows neither, and its error; `n`, `n_train`, `n_test`.
    """
    fakes = fake_images[:SAMPLES]
    test = real_test[:SAMPLES]
    of_fakes, of_test = nearest(fakes, real_train), nearest(test, real_train)
    to_test = nearest(fakes, test)
    median, median_of_test = float(np.median(of_fakes)), float(np.median(of_test))
    expected = len(real_train) / (len(real_train) + len(test))
    return {
        "nearest_train_ratio": median / median_of_test if median_of_test else 1.0,
        "near_copies": float(np.mean(of_fakes < np.percentile(of_test, 1))),
        "nearest_is_train": float(np.mean(of_fakes < to_test)),
        "nearest_is_train_expected": expected,
        "nearest_is_train_error": float(np.sqrt(expected * (1 - expected) / len(fakes))),
        "median": median,
        "median_of_test": median_of_test,
        "n": len(fakes),
        "n_train": len(real_train),
        "n_test": len(test),
    }


def table(report: dict[str, Any]) -> str:
    """The report as lines for people."""
    return "\n".join(
        [
            f"distance to the nearest training image: {report['median']:.3f}, of test images"
            f" {report['median_of_test']:.3f}: ratio {report['nearest_train_ratio']:.3f}",
            f"nearer than the nearest 1 % of test images: {report['near_copies']:.2%} of samples",
            f"nearest to a training image: {report['nearest_is_train']:.1%} of samples, expected"
            f" {report['nearest_is_train_expected']:.1%} ± {report['nearest_is_train_error']:.1%}",
        ]
    )
