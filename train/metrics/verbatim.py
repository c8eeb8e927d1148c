"""How much of a sequence stands word for word in another one: is a generated text or tune original?"""

import numpy as np
from numpy.typing import NDArray


def longest_copied(sample: NDArray[np.integer], corpus: NDArray[np.integer]) -> int:
    """The length of the longest run of `sample` that stands somewhere in `corpus`.

    Exact: runs of 1, 2, 4, ... symbols are numbered, equal ones alike, until none is common to both; a run
    of any length between is told by its first and its last part of the length below. A million symbols
    take a few seconds.

    Args:
        sample, corpus: integers `[N]`, `[M]`.
    """
    parts = np.asarray(sample, np.int64), np.asarray(corpus, np.int64)
    if not _common(*parts):
        return 0
    width = 1
    numbers = _numbered(*parts)
    while True:
        longer = _pairs(numbers, width)
        if not _common(*longer):
            break
        numbers, width = _numbered(*longer), 2 * width
    least, too_long = width, 2 * width  # common, and not common
    while too_long - least > 1:
        middle = (least + too_long) // 2
        if _common(*_pairs(numbers, middle - width)):
            least = middle
        else:
            too_long = middle
    return least


_Two = tuple[NDArray[np.int64], NDArray[np.int64]]


def _numbered(sample: NDArray[np.int64], corpus: NDArray[np.int64]) -> _Two:
    """Equal values of both get equal numbers, from 0 on."""
    _, number = np.unique(np.concatenate([sample, corpus]), return_inverse=True)
    return number[: len(sample)], number[len(sample) :]


def _pairs(numbers: _Two, distance: int) -> _Two:
    """What stands at each place and `distance` behind it, as one integer."""
    base = 1 + max(int(part.max(initial=0)) for part in numbers)
    sample, corpus = (part[: max(len(part) - distance, 0)] * base + part[distance:] for part in numbers)
    return sample, corpus


def _common(sample: NDArray[np.int64], corpus: NDArray[np.int64]) -> bool:
    return bool(np.isin(sample, corpus).any())


def originality(
    generated: NDArray[np.integer], held_out: NDArray[np.integer], train: NDArray[np.integer]
) -> dict[str, int]:
    """The longest run that stands in the training data too, of what was generated and of as much held-out
    data: the second is what an author who never saw the training data repeats of it by chance.

    Args:
        generated, held_out, train: integers; of the longer of the first two as much as the other has.

    Returns:
        {"longest_copied", "longest_copied_of_held_out", "symbols"}: symbols of each that were looked at.
    """
    symbols = min(len(generated), len(held_out))
    return {
        "longest_copied": longest_copied(generated[:symbols], train),
        "longest_copied_of_held_out": longest_copied(held_out[:symbols], train),
        "symbols": symbols,
    }
