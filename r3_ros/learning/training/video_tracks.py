"""Points followed through a video whose truth nobody knows, by OpenCV's tracker.

What is followed is found once, when a video is opened: corners, carried from picture to picture
by pyramidal Lucas-Kanade with a check of the way back. Clips of any frames look them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ...classical.features import find_corners, follow, PATCH

#: Corners followed at once.
_MOST = 400
#: Least distance between corners, as a share of the picture's longer side.
_SPACING = 0.025
#: New corners are looked for when this share of them is lost: finding costs as much as following.
_REFILL_BELOW = 0.8
#: A point that stands still is this near to its epipolar line, in pixels of the followed picture.
_EPIPOLAR_PX = 0.7
#: A patch that is less like the one it began as has slipped off, or something went before it.
_LEAST_LIKENESS = 0.7
#: An epipolar geometry of fewer points proves nothing.
LEAST_POINTS = 16


@dataclass(frozen=True, eq=False)
class Sighting:
    """The points that one picture shows.

    :ivar number: (n,) int64, ascending; a number is never used for another point.
    :ivar pixel: (n, 2) float32 x and y, centres at integers.
    """

    number: np.ndarray
    pixel: np.ndarray


class Follower:
    """Follows corners from picture to picture, and finds new ones where they are lost."""

    def __init__(self) -> None:
        """Start with no picture."""
        self._previous: np.ndarray | None = None
        self._known = Sighting(np.empty(0, np.int64), np.empty((0, 2), np.float32))
        self._next = 0
        self._patches = np.empty((0, PATCH, PATCH), np.float32)

    def add(self, gray: np.ndarray) -> Sighting:
        """Return what the next picture shows.

        A point ends where it leaves the picture, does not come back to where it was when it is
        followed backwards, or does not look any more as where it was found: at the end of a take,
        all of them do.

        :param gray: (h, w) uint8, of one size for all pictures.
        """
        known = self._known
        if self._previous is not None:
            pixel, ok = follow(self._previous, gray, known.pixel, known.pixel)
            now = _patches(gray, pixel)
            ok &= (now * self._patches).mean((1, 2)) > _LEAST_LIKENESS
            known, self._patches = Sighting(known.number[ok], pixel[ok]), self._patches[ok]
        if len(known.number) < _REFILL_BELOW * _MOST:
            spacing = _SPACING * max(gray.shape)
            new = find_corners(gray, _MOST - len(known.number), known.pixel, spacing)
            numbers = np.arange(self._next, self._next + len(new))
            self._next += len(new)
            self._patches = np.concatenate((self._patches, _patches(gray, new)))
            known = Sighting(
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


def common_points(sightings: Sequence[Sighting]) -> tuple[np.ndarray, np.ndarray]:
    """Return the points that at least two of the pictures show.

    :returns: pixels (S, N, 2) float32, zero where not seen, and (S, N) bool where they are seen.
    """
    numbers, count = np.unique(np.concatenate([s.number for s in sightings]), return_counts=True)
    numbers = numbers[count > 1]
    pixel = np.zeros((len(sightings), len(numbers), 2), np.float32)
    visible = np.zeros((len(sightings), len(numbers)), bool)
    for k, sighting in enumerate(sightings):
        _, here, there = np.intersect1d(
            numbers, sighting.number, assume_unique=True, return_indices=True
        )
        pixel[k, here], visible[k, here] = sighting.pixel[there], True
    return pixel, visible


def standing_still(pixel: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Say which points move as the camera alone would have them move: (N,) bool.

    In place of TrajVG's ``m``, which needs the truth: from one picture to the next, and from the
    first to all, most points lie on the epipolar lines of one motion of the camera (RANSAC), and
    what moves by itself mostly does not. A point counts if that is so in more than three quarters
    of the pairs that show it. A body that fills most of the picture is taken for the world.

    :param pixel: (S, N, 2) in the order of time; ``visible``: (S, N) bool.
    """
    agreed, asked = np.zeros((2, pixel.shape[1]), int)
    last = len(pixel) - 1
    steps = [(k, k + 1) for k in range(last)] + [(0, k) for k in range(2, last + 1)]
    for i, j in steps:
        both = np.flatnonzero(visible[i] & visible[j])
        if len(both) < LEAST_POINTS:
            continue
        _, inlier = cv2.findFundamentalMat(
            pixel[i, both].astype(np.float64),
            pixel[j, both].astype(np.float64),
            cv2.FM_RANSAC,
            _EPIPOLAR_PX,
            0.999,
            500,
        )
        asked[both] += 1
        if inlier is not None:
            agreed[both] += inlier[:, 0].astype(int)
    return 4 * agreed > 3 * asked
