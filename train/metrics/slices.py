"""A figure on each class of the test images: a good mean may hide one class that fails."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def by_class(values: NDArray[Any], labels: NDArray[Any], names: Sequence[str]) -> dict[str, float]:
    """The mean of `values` `[N]` over each class; classes that no row has are left out, and a single class
    is no slice."""
    if len(names) < 2:
        return {}
    return {name: float(np.mean(values[labels == i])) for i, name in enumerate(names) if (labels == i).any()}
