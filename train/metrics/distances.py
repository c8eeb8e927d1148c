"""Distances between sets of feature vectors, and scores of a classifier's answers.

Pure numpy in float64; no function here knows what made the features.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def _matrix(name: str, values: ArrayLike, minimum_rows: int) -> Array:
    matrix = np.asarray(values, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] < minimum_rows:
        raise ValueError(f"{name} has shape {matrix.shape}; expected [N >= {minimum_rows}, D]")
    return matrix


def _square_root(covariance: Array) -> Array:
    """Symmetric square root of a positive semi-definite matrix [D, D]."""
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    # Rounding makes the zero eigenvalues of a rank-deficient covariance slightly negative.
    return (eigenvectors * np.sqrt(np.maximum(eigenvalues, 0.0))) @ eigenvectors.T


def frechet_distance(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """Fréchet distance between Gaussians fitted to two sets (Heusel et al. 2017, equation 6).

        |m_a - m_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2))

    The trace of the root is the sum of the roots of the eigenvalues of C_a^(1/2) C_b C_a^(1/2):
    that product is symmetric, so it needs no general matrix root and gives no imaginary part. The
    figure falls as the sets grow: compare only distances of equal set sizes.

    Args:
      features_a, features_b: [N, D] and [M, D], N and M at least 2.

    Returns:
      The squared distance, at least 0.

    Raises:
      ValueError: wrong rank, fewer than two rows, or unequal D.
    """
    a, b = _matrix("features_a", features_a, 2), _matrix("features_b", features_b, 2)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features have {a.shape[1]} and {b.shape[1]} columns; expected the same")
    covariance_a = np.atleast_2d(np.cov(a, rowvar=False))
    covariance_b = np.atleast_2d(np.cov(b, rowvar=False))
    root_a = _square_root(covariance_a)
    eigenvalues = np.linalg.eigvalsh(root_a @ covariance_b @ root_a)
    trace_of_root = np.sqrt(np.maximum(eigenvalues, 0.0)).sum()
    means = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    distance = means + np.trace(covariance_a) + np.trace(covariance_b) - 2.0 * trace_of_root
    return float(max(distance, 0.0))


def _squared_distances(a: Array, b: Array) -> Array:
    """Squared Euclidean distances [N, M]."""
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None, :]
    return np.maximum(squares - 2.0 * a @ b.T, 0.0)


def _share_inside(points: Array, manifold: Array, k: int) -> float:
    """Share of `points` that lie in at least one ball around a row of `manifold`.

    A row's ball reaches to its k-th nearest neighbour in its own set (Kynkäänniemi 2019, eq. 1).
    """
    own = _squared_distances(manifold, manifold)
    np.fill_diagonal(own, -1.0)  # itself always comes first, so index k is the k-th neighbour
    radii = np.partition(own, k, axis=1)[:, k]
    return float((_squared_distances(points, manifold) <= radii[None, :]).any(axis=1).mean())


def precision_recall(real: ArrayLike, fake: ArrayLike, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, equations 1-3).

    Precision: the share of fakes inside the manifold of the real set (are they realistic?).
    Recall: the share of reals inside the manifold of the fakes (is all of the data covered?).
    `quality.md` states them at 2,000 + 2,000 vectors and k = 3; the caller chooses the sample.

    Args:
      real, fake: [N, D] and [M, D], each with more than k rows.

    Returns:
      (precision, recall), both in [0, 1].

    Raises:
      ValueError: wrong rank or not more than k rows.
    """
    a, b = _matrix("real", real, k + 1), _matrix("fake", fake, k + 1)
    # One shared shift leaves distances alone and keeps |a|^2 + |b|^2 - 2ab from cancelling.
    centre = a.mean(axis=0)
    a, b = a - centre, b - centre
    return _share_inside(b, a, k), _share_inside(a, b, k)


def classifier_score(probabilities: ArrayLike) -> float:
    """exp E_x KL(p(y|x) || p(y)), the "inception score" (Salimans et al. 2016, section 4).

    Args:
      probabilities: [N, K], each row sums to 1.

    Returns:
      From 1 (every image gets the same answer) to K (sure answers, all classes equally often).

    Raises:
      ValueError: wrong rank, no row, a negative entry, or rows that do not sum to 1.
    """
    p = _matrix("probabilities", probabilities, 1)
    if (p < 0).any() or not np.allclose(p.sum(axis=1), 1.0, atol=1e-3):
        raise ValueError("probabilities must be non-negative and sum to 1 in each row")
    marginal = p.mean(axis=0)
    # 0 log 0 = 0; where p > 0 the marginal is positive too.
    ratio = np.divide(p, marginal, out=np.ones_like(p), where=p > 0)
    return float(np.exp((p * np.log(ratio)).sum(axis=1).mean()))


def accuracy(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Share of equal entries of two integer vectors [N], N at least 1.

    Raises:
      ValueError: not two vectors of one length, or empty.
    """
    a, b = np.asarray(predicted), np.asarray(labels)
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise ValueError(f"expected two vectors of one length, got shapes {a.shape} and {b.shape}")
    return float((a == b).mean())


def label_agreement(predicted: ArrayLike, requested: ArrayLike) -> float:
    """Share of generated images that the judge reads as the class that was asked for, in [0, 1].

    Args:
      predicted: the judge's class of each image, int [N].
      requested: the class that the generator was given, int [N].

    Raises:
      ValueError: not two vectors of one length, or empty.
    """
    return accuracy(predicted, requested)
