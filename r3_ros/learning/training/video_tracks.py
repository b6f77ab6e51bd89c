"""Points tracked through a video without ground truth, by OpenCV's tracker.

Corners are tracked once, when a video is opened, from frame to frame, by pyramidal Lucas-Kanade
with a backward check. Clips of any frames look them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ...classical.features import find_corners, PATCH, track

#: Corners tracked at once.
_MOST = 400
#: Least distance between corners, as a share of the image's longer side.
_SPACING = 0.025
#: New corners are detected below this share of them: detection costs as much as tracking.
_REFILL_BELOW = 0.8
#: Largest distance of a static point from its epipolar line, pixels of the tracked image.
_EPIPOLAR_PX = 0.7
#: Below this correlation with its first patch, a point has slipped off or is occluded.
_LEAST_SIMILARITY = 0.7
#: An epipolar geometry of fewer points is not reliable.
LEAST_POINTS = 16


@dataclass(frozen=True, eq=False)
class FrameObservations:
    """The tracked points that one frame shows.

    :ivar number: (n,) int64, ascending; a number is never used for another point.
    :ivar pixel: (n, 2) float32 x and y, centres at integers.
    """

    number: np.ndarray
    pixel: np.ndarray


class PointTracker:
    """Tracks corners from frame to frame, and detects new ones where they are lost."""

    def __init__(self) -> None:
        self._previous: np.ndarray | None = None
        self._known = FrameObservations(np.empty(0, np.int64), np.empty((0, 2), np.float32))
        self._next = 0
        self._patches = np.empty((0, PATCH, PATCH), np.float32)

    def add(self, gray: np.ndarray) -> FrameObservations:
        """Return the observations in the next frame.

        A track ends where the point leaves the image, fails the backward check, or does not look
        like its first patch any more: at a cut, all tracks end.

        :param gray: (h, w) uint8, of one size for all frames.
        """
        known = self._known
        if self._previous is not None:
            pixel, ok = track(self._previous, gray, known.pixel, known.pixel)
            now = _patches(gray, pixel)
            ok &= (now * self._patches).mean((1, 2)) > _LEAST_SIMILARITY
            known, self._patches = (
                FrameObservations(known.number[ok], pixel[ok]),
                self._patches[ok],
            )
        if len(known.number) < _REFILL_BELOW * _MOST:
            spacing = _SPACING * max(gray.shape)
            new = find_corners(gray, _MOST - len(known.number), known.pixel, spacing)
            numbers = np.arange(self._next, self._next + len(new))
            self._next += len(new)
            self._patches = np.concatenate((self._patches, _patches(gray, new)))
            known = FrameObservations(
                np.concatenate((known.number, numbers)), np.concatenate((known.pixel, new))
            )
        self._previous, self._known = gray, known
        return known


def _patches(gray: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """Return (n, PATCH, PATCH) float32 of mean 0 and deviation 1 around (n, 2) pixels."""
    size = (PATCH, PATCH)
    cut = [cv2.getRectSubPix(gray, size, (float(x), float(y))) for x, y in pixel]
    out = np.array(cut, np.float32).reshape(-1, PATCH, PATCH)
    out -= out.mean((1, 2), keepdims=True)
    return out / np.maximum(out.std((1, 2), keepdims=True), 1.0)


def common_points(observations: Sequence[FrameObservations]) -> tuple[np.ndarray, np.ndarray]:
    """Return the points that at least two of the frames show.

    :returns: pixels (S, N, 2) float32, zero where not visible, and (S, N) bool visibility.
    """
    numbers, count = np.unique(
        np.concatenate([o.number for o in observations]), return_counts=True
    )
    numbers = numbers[count > 1]
    pixel = np.zeros((len(observations), len(numbers), 2), np.float32)
    visible = np.zeros((len(observations), len(numbers)), bool)
    for k, observed in enumerate(observations):
        _, here, there = np.intersect1d(
            numbers, observed.number, assume_unique=True, return_indices=True
        )
        pixel[k, here], visible[k, here] = observed.pixel[there], True
    return pixel, visible


def static_points(pixel: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Return which points move as the motion of the camera alone would move them: (N,) bool.

    Replaces TrajVG's ``m``, which needs ground truth: from each frame to the next, and from the
    first to all, most points lie on the epipolar lines of one camera motion (RANSAC), and points
    that move by themselves mostly do not. A point is static if it is an inlier in more than three
    quarters of the pairs that show it. An object that fills most of the image is taken for the
    world.

    :param pixel: (S, N, 2) in the order of time; ``visible``: (S, N) bool.
    """
    inliers, pairs = np.zeros((2, pixel.shape[1]), int)
    last = len(pixel) - 1
    steps = [(k, k + 1) for k in range(last)] + [(0, k) for k in range(2, last + 1)]
    for i, j in steps:
        both = np.flatnonzero(visible[i] & visible[j])
        if len(both) < LEAST_POINTS:
            continue
        first, second = (pixel[k, both].astype(np.float64) for k in (i, j))
        _, inlier = cv2.findFundamentalMat(first, second, cv2.FM_RANSAC, _EPIPOLAR_PX, 0.999, 500)
        pairs[both] += 1
        if inlier is not None:
            inliers[both] += inlier[:, 0].astype(int)
    return 4 * inliers > 3 * pairs
