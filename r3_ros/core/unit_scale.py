"""The length of one pass's unit in another's, from images that both passes saw.

Networks predict depth and poses up to scale. The scale between two passes comes from the depth of
the same image in both and, where the camera moved enough, from the distances between the centres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .geometry import weighted_median

_MIN_PIXELS = 50
#: The depth ratios of one image are not used if they scatter by more than this (logarithm).
_SAME_SURFACE = 0.3
#: Smallest standard deviation of the logarithm of a scale.
_MIN_SIGMA = 0.02
#: The same for centres, whose own scatter is unreliable with few pairs.
_MIN_SIGMA_CENTRES = 0.05
#: Pairs of cameras closer together than this share of the largest distance, or than this many
#: units, are not used for the scale.
_NEAR = 0.1
_NO_MOTION = 1e-6
#: A standard deviation is 1.5 median absolute deviations.
_MEDIAN_TO_SIGMA = 1.5


@dataclass(frozen=True, eq=False)
class DepthGrid:
    """Subsampled depth of an image in the unit of one pass of a network.

    :ivar log_depth: (n,) float32, NaN where unknown; ``confidence`` likewise.
    """

    log_depth: np.ndarray
    confidence: np.ndarray

    @classmethod
    def of(cls, depth: np.ndarray, confidence: np.ndarray, stride: int = 4) -> DepthGrid:
        """Take every ``stride``-th pixel of (h, w) maps."""
        z = depth[::stride, ::stride].ravel()
        with np.errstate(invalid='ignore', divide='ignore'):
            log_depth = np.where(z > 0, np.log(z), np.nan)
        return cls(log_depth.astype(np.float32), confidence[::stride, ::stride].ravel().copy())


@dataclass(frozen=True)
class LogScale:
    """The logarithm of the length of one unit in another, and its standard deviation."""

    value: float
    sigma: float


def scale_by_depth(here: Sequence[DepthGrid], there: Sequence[DepthGrid]) -> LogScale | None:
    """Return the length of the unit of ``there`` in that of ``here``; None without enough depth.

    :param here: depth of the same images, in the same order, as ``there``.
    """
    found = []
    for a, b in zip(here, there, strict=True):
        known = np.isfinite(a.log_depth) & np.isfinite(b.log_depth)
        if not known.any():
            continue
        confidence = np.minimum(a.confidence, b.confidence)
        known &= confidence >= np.median(confidence[known])
        ratios = (a.log_depth - b.log_depth)[known]
        middle = float(np.median(ratios))
        if len(ratios) >= _MIN_PIXELS and np.median(np.abs(ratios - middle)) < _SAME_SURFACE:
            found.append(middle)
    if not found:
        return None
    middle = float(np.median(found))
    scatter = float(np.median(np.abs(np.array(found) - middle)))
    return LogScale(middle, max(_MIN_SIGMA, _MEDIAN_TO_SIGMA * scatter))


def scale_by_centres(here: np.ndarray, there: np.ndarray) -> LogScale | None:
    """Return the length of the unit of ``there`` in that of ``here``; None without motion.

    :param here: (N, 3) camera centres in one world; ``there``: the same cameras in another.
    """
    first, second = np.triu_indices(len(here), 1)
    a = np.linalg.norm(here[first] - here[second], axis=1)
    b = np.linalg.norm(there[first] - there[second], axis=1)
    far = a > max(_NEAR * a.max(initial=0.0), _NO_MOTION)
    far &= b > max(_NEAR * b.max(initial=0.0), _NO_MOTION)
    if not far.any():
        return None
    ratios = np.log(a[far] / b[far])
    middle = weighted_median(ratios, b[far])
    scatter = float(np.median(np.abs(ratios - middle)))
    return LogScale(middle, max(_MIN_SIGMA_CENTRES, _MEDIAN_TO_SIGMA * scatter))


def combined(scales: Sequence[LogScale | None]) -> LogScale | None:
    """Return the mean weighted by inverse variance; None if all are None."""
    known = [scale for scale in scales if scale is not None]
    if not known:
        return None
    weights = np.array([scale.sigma**-2 for scale in known])
    value = float(weights @ [scale.value for scale in known] / weights.sum())
    return LogScale(value, float(weights.sum() ** -0.5))
