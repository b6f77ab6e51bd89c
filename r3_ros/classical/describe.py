"""A small global descriptor of an image, for finding images of the same view."""

from __future__ import annotations

import cv2
import numpy as np

_CELLS_X, _CELLS_Y, _BINS, _CELL = 8, 6, 8, 8
#: Length of a descriptor.
SIZE = _CELLS_X * _CELLS_Y * _BINS


def describe(gray: np.ndarray) -> np.ndarray:
    """Return a (SIZE,) float32 unit vector: gradient directions over a coarse grid.

    Gradient directions are invariant to exposure, square roots limit single strong edges, and
    without the mean the similarity of different views is near zero.
    """
    size = (_CELLS_X * _CELL, _CELLS_Y * _CELL)
    small = cv2.GaussianBlur(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), (0, 0), 0.8)
    dx = cv2.Sobel(small, cv2.CV_32F, 1, 0)
    dy = cv2.Sobel(small, cv2.CV_32F, 0, 1)
    strength, angle = (values.reshape(-1) for values in cv2.cartToPolar(dx, dy))
    position = angle * (_BINS / (2.0 * np.pi))
    low = position.astype(int)
    share = position - low
    # Bilinear over directions; the pooling below tolerates small shifts.
    grid = np.zeros((_BINS, small.size), np.float32)
    pixel = np.arange(small.size)
    grid[low % _BINS, pixel] = strength * (1.0 - share)
    grid[(low + 1) % _BINS, pixel] += strength * share
    cells = _POOL_ROWS @ grid.reshape(_BINS, *small.shape) @ _POOL_COLUMNS.T
    vector = np.sqrt(cells).reshape(-1)
    vector -= vector.mean()
    norm = float(np.linalg.norm(vector))
    if norm < 1e-6:
        # A blank image: any fixed direction.
        vector[0] = norm = 1.0
    return (vector / norm).astype(np.float32)


def _pooling(cells: int) -> np.ndarray:
    """Return (cells, cells * _CELL): the mean over each cell of a blurred row of pixels."""
    pixels, sigma = cells * _CELL, 0.5 * _CELL
    each = np.eye(pixels, dtype=np.float32)
    blurred = cv2.GaussianBlur(each, (1, int(8 * sigma) + 1), 1.0, sigmaY=sigma)
    means: np.ndarray = blurred.reshape(cells, _CELL, pixels).mean(axis=1)
    return means


_POOL_ROWS, _POOL_COLUMNS = _pooling(_CELLS_Y), _pooling(_CELLS_X)
