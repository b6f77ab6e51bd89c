"""The readout time of a rolling shutter, by how images deform where the camera changes its speed.

While the content moves by v pixels a second, each row of H is shifted by v R / H against the row
before, with the readout time R: sideways motion skews an image, motion up or down stretches it.
So from one image to the next the skew changes by R / H times the change of v. A turn about the
optical axis skews both axes by opposite amounts, and coming closer stretches both by the same; the
sum, or the difference, is free of these. Slanted surfaces skew by the motion itself, which is not
related to its change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from ..core.trajectory_file import NANOSECONDS

#: Corners and share of them that have to agree on one deformation, within so many pixels.
_LEAST_CORNERS, _LEAST_SHARE, _AGREE_PX = 30, 0.4, 3.0
#: Changes of the speed, in image heights from one image to the next, that are cuts.
_MOST_CHANGE = 0.1
#: Images in a row whose errors are taken as one, as motion and surroundings stay alike, and least
#: number of such rows.
_ROW, _LEAST_ROWS = 12, 8
_ITERATIONS = 10


class Deformation(NamedTuple):
    """How an image moved and deformed since the one before; NaN where it is unknown.

    :ivar motion: (x, y) of the middle, in image heights.
    :ivar skew: of x by rows and of y by columns, summed; and the stretch of y over that of x.
    """

    motion: tuple[float, float] = (np.nan, np.nan)
    skew: tuple[float, float] = (np.nan, np.nan)


class Readout(NamedTuple):
    """Time from the first row to the last, and its standard deviation, in seconds."""

    time_s: float
    sigma_s: float


def deformation_of(before: np.ndarray, after: np.ndarray, shape: tuple[int, int]) -> Deformation:
    """Return the deformation that most corners agree on.

    :param before: (N, 2) pixels of corners; ``after``: (N, 2) where they are now.
    :param shape: height and width of the image.
    """
    if len(before) < _LEAST_CORNERS:
        return Deformation()
    A, agree = cv2.estimateAffine2D(
        before.astype(np.float32), after.astype(np.float32), ransacReprojThreshold=_AGREE_PX
    )
    if A is None or agree.mean() < _LEAST_SHARE:
        return Deformation()
    height, width = shape
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    x, y = (A[:, :2] @ middle + A[:, 2] - middle) / height
    return Deformation((x, y), (A[0, 1] + A[1, 0], A[1, 1] - A[0, 0]))


def estimated_readout(
    stamps_ns: Sequence[int], deformations: Sequence[Deformation]
) -> Readout | None:
    """Return the readout time; None if too few images tell.

    :param deformations: of each image since the one before.
    """
    if len(stamps_ns) < _ROW * _LEAST_ROWS:
        return None
    steps_s = np.diff(np.array(stamps_ns), prepend=stamps_ns[0])[:, None] / NANOSECONDS
    motion = np.array([d.motion for d in deformations])
    skew = np.array([d.skew for d in deformations])
    with np.errstate(divide='ignore', invalid='ignore'):
        # Mean speeds between images. Those at an image are the means of two of these.
        speed = np.where(steps_s > 0, motion / steps_s, np.nan)
    change = np.full_like(speed, np.nan)
    change[1:-1] = (speed[2:] - speed[:-2]) / 2
    change[np.abs(change) * steps_s > _MOST_CHANGE] = np.nan
    found = [_slope(change[:, axis], skew[:, axis]) for axis in (0, 1)]
    known = [readout for readout in found if readout is not None]
    if not known:
        return None
    times_s, sigmas_s = np.array(known).T
    weights = 1 / sigmas_s**2
    return Readout(float(weights @ times_s / weights.sum()), float(weights.sum() ** -0.5))


def _slope(x: np.ndarray, y: np.ndarray) -> Readout | None:
    """Return the slope of a line through the origin, with Huber's weights.

    Its deviation is that of sums of rows (cluster-robust: Liang and Zeger, Biometrika 73, 1986).
    """
    known = np.isfinite(x) & np.isfinite(y)
    row = np.arange(len(x))[known] // _ROW
    x, y = x[known], y[known]
    rows = len(np.unique(row))
    if rows < _LEAST_ROWS or not x.any():
        return None
    weights = np.ones(len(x))
    for _ in range(_ITERATIONS):
        slope = (weights * x * y).sum() / (weights * x * x).sum()
        left = y - slope * x
        # A floor for images without noise.
        usual = 1.4826 * np.median(np.abs(left)) + 1e-6
        weights = 1 / np.maximum(1.0, np.abs(left) / usual)
    sums = np.bincount(row, weights * x * left)
    variance = (sums**2).sum() * rows / (rows - 1) + usual**2 * (weights * x * x).sum() / len(x)
    return Readout(float(slope), float(np.sqrt(variance) / (weights * x * x).sum()))
