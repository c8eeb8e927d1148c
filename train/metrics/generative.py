"""The row of figures for a generator, with the REAL row beside it (`quality.md` 2.3)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.metrics import distances
from train.metrics.judge import TRAIN_COMMAND, Judge, Scores
from train.metrics.slices import by_class
from zoo.errors import UserError

SAMPLES = 10_000  # images for the distances and the score
NEIGHBOURS = 2_000  # images on each side for precision and recall
_COLUMNS = ("score", "fd_logits", "fd_feat", "precision", "recall", "agreement")


def _pick(size: int, n: int) -> NDArray[np.int64]:
    """n indices out of size, the same on every run; sets sorted by class must not bias them."""
    return np.random.default_rng(0).permutation(size)[:n]


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _row(scores: Scores, reference: Scores, neighbours: int) -> dict[str, float]:
    precision, recall = distances.precision_recall(
        reference.feat[:neighbours], scores.feat[:neighbours]
    )
    return {
        "score": distances.classifier_score(scores.probabilities),
        "fd_logits": distances.frechet_distance(scores.logits, reference.logits),
        "fd_feat": distances.frechet_distance(scores.feat, reference.feat),
        "precision": precision,
        "recall": recall,
    }


def generative_report(
    judge: Judge,
    real_train: NDArray[Any],
    real_test: NDArray[Any],
    fake_images: NDArray[Any],
    fake_labels: NDArray[Any] | None = None,
) -> dict[str, Any]:
    """Scores generated images against the test images, and as many train images (REAL) likewise.

    10,000 against 10,000, precision and recall 2,000 + 2,000 with k = 3. Where there are fewer
    images all are used, REAL takes as many train images as there are fakes (Fréchet distances of
    unequal n do not compare), and `n`, `n_test` and `n_neighbours` say how many.

    Args:
      real_train, real_test, fake_images: [N, H, W, C], float32 in [0, 1] or uint8; more
        than three each.
      fake_labels: requested classes, int [N]; None leaves `agreement` out.

    Returns:
      {"fake": row, "real": row, "slices", "n", "n_test", "n_neighbours", "judge_accuracy"}; a row
      holds score, fd_logits, fd_feat, precision, recall and, for the fakes, agreement, which
      `slices` has by class. `judge_accuracy` is the judge's own on real test images: agreement has
      to be read beside it.

    Raises:
      UserError: images of a size that the judge does not take.
      ValueError: labels of another length, or too few images.
    """
    if fake_labels is not None and len(fake_labels) != len(fake_images):
        raise ValueError(f"{len(fake_labels)} labels for {len(fake_images)} images")
    for images in (real_train, real_test, fake_images):
        if images.shape[1:] != judge.image_shape:
            raise UserError(
                f"images are {_by(images.shape[1:])}, but the judge was trained on "
                f"{_by(judge.image_shape)}; train one for this size with: {TRAIN_COMMAND}"
            )
    n = min(SAMPLES, len(fake_images), len(real_train))
    n_test = min(SAMPLES, len(real_test))
    neighbours = min(NEIGHBOURS, n, n_test)
    chosen = _pick(len(fake_images), n)
    fake = judge.features(fake_images[chosen])
    real = judge.features(real_train[_pick(len(real_train), n)])
    test = judge.features(real_test[_pick(len(real_test), n_test)])
    fake_row, slices = _row(fake, test, neighbours), {}
    if fake_labels is not None:
        requested = np.asarray(fake_labels)[chosen]
        fake_row["agreement"] = distances.label_agreement(fake.predicted, requested)
        slices["agreement"] = by_class(fake.predicted == requested, requested, judge.card["class_names"])
    return {
        "fake": fake_row,
        "real": _row(real, test, neighbours),
        "slices": slices,
        "n": n,
        "n_test": n_test,
        "n_neighbours": neighbours,
        "judge_accuracy": judge.card.get("test_accuracy"),
    }


def table(report: dict[str, Any]) -> str:
    """The report of `generative_report` as lines of text, REAL beside the result."""
    lines = ["      " + "".join(f"{column:>11}" for column in _COLUMNS)]
    for name in ("fake", "real"):
        row = report[name]
        cells = (f"{row[c]:>11.3f}" if c in row else f"{'-':>11}" for c in _COLUMNS)
        lines.append(f"{name.upper():<6}" + "".join(cells))
    lines.append(
        f"n = {report['n']:,} against {report['n_test']:,} test images; "
        f"precision and recall {report['n_neighbours']:,} + {report['n_neighbours']:,}"
    )
    return "\n".join(lines)
