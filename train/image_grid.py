"""Many images as one."""

import math

import numpy as np

_GAP = 1  # pixels between neighbours


def image_grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Lays out images row by row, black between them and in the places left over.

    Args:
        images: [N, H, W, C], N >= 1: uint8, or float in [0, 1] (clipped; NaN becomes black).
        columns: images in a row; `None`: as square as it goes.

    Returns:
        uint8 [rows * (H + 1) - 1, columns * (W + 1) - 1, C]: [64, 28, 28, 1] gives
        [231, 231, 1].

    Raises:
        ValueError: `images` has not four dimensions, or is empty.
    """
    images = np.asarray(images)
    if images.ndim != 4 or not len(images):
        raise ValueError(f"expected images [N, H, W, C] with N >= 1, got shape {images.shape}")
    if images.dtype != np.uint8:
        images = np.nan_to_num(images.astype(np.float32), nan=0.0)
        images = np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
    n, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    cells = np.zeros((rows * columns, height + _GAP, width + _GAP, channels), np.uint8)
    cells[:n, :height, :width] = images
    grid = cells.reshape(rows, columns, height + _GAP, width + _GAP, channels)
    grid = grid.swapaxes(1, 2).reshape(rows * (height + _GAP), columns * (width + _GAP), channels)
    return grid[: grid.shape[0] - _GAP, : grid.shape[1] - _GAP]
