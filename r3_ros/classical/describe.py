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
    strength, angle = cv2.cartToPolar(dx, dy)
    position = angle * (_BINS / (2.0 * np.pi))
    low = np.floor(position).astype(int)
    share = position - low
    # Bilinear over directions; the blur below tolerates small shifts.
    grid = np.zeros((_BINS, *small.shape), np.float32)
    rows, columns = np.indices(small.shape)
    grid[low % _BINS, rows, columns] = strength * (1.0 - share)
    grid[(low + 1) % _BINS, rows, columns] += strength * share
    cells = np.stack(
        [
            cv2.resize(
                cv2.GaussianBlur(layer, (0, 0), 0.5 * _CELL),
                (_CELLS_X, _CELLS_Y),
                interpolation=cv2.INTER_AREA,
            )
            for layer in grid
        ]
    )
    vector = np.sqrt(cells).reshape(-1)
    vector -= vector.mean()
    norm = float(np.linalg.norm(vector))
    if norm < 1e-6:
        # A blank image: any fixed direction.
        vector[0] = norm = 1.0
    return (vector / norm).astype(np.float32)
