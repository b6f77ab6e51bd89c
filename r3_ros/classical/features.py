"""Corners, and tracking them from one image to another."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np

#: Longest side of the working image, that corners are tracked in; larger images are resized.
LONGEST_SIDE = 1280
#: Side of a tracked patch. Smaller ones drift on repeated texture, larger ones span depth
#: edges; 15 tracks 1000 corners in about 6 ms.
PATCH = 15
#: Pyramid levels above the full image: with PATCH enough for 50 pixels without a guess.
LEVELS = 3
#: Largest error of a corner tracked forwards and backwards, in pixels.
ROUND_TRIP_PX = 0.7
#: Tracking backwards starts at most this far from the corner, in pixels.
BACK_OFFSET_PX = 4.0
#: Weakest corner, relative to the strongest.
QUALITY = 0.003

_lucas_kanade = partial(
    cv2.calcOpticalFlowPyrLK,
    winSize=(PATCH, PATCH),
    criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.02),
    flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    minEigThreshold=1e-4,
)


def working_image(image: np.ndarray) -> np.ndarray:
    """Return the (h, w) uint8 grey image that the predictor works on.

    :param image: (H, W, 3) uint8 RGB.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = gray.shape
    scale = LONGEST_SIDE / max(height, width)
    if scale < 1.0:
        size = (round(width * scale), round(height * scale))
        gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    return gray


def find_corners(
    gray: np.ndarray, count: int, occupied: np.ndarray, distance: float
) -> np.ndarray:
    """Return up to ``count`` new corners (N, 2) float32, strongest first, away from others.

    :param occupied: (M, 2) pixels of corners that are tracked already.
    :param distance: least distance to those and to each other, in pixels.
    """
    if count <= 0:
        return np.empty((0, 2), np.float32)
    mask = np.full(gray.shape, 255, np.uint8)
    for x, y in np.rint(occupied).astype(int):
        cv2.circle(mask, (int(x), int(y)), int(distance), 0, -1)
    border = PATCH // 2 + 1
    mask[:border], mask[-border:], mask[:, :border], mask[:, -border:] = 0, 0, 0, 0
    found = cv2.goodFeaturesToTrack(gray, count, QUALITY, distance, mask=mask, blockSize=5)
    return np.empty((0, 2), np.float32) if found is None else found.reshape(-1, 2)


def track(
    previous: np.ndarray,
    current: np.ndarray,
    points: np.ndarray,
    guess: np.ndarray,
    levels: int = LEVELS,
) -> tuple[np.ndarray, np.ndarray]:
    """Track pixels from one image into another.

    :param points: (N, 2) pixels in ``previous``.
    :param guess: (N, 2) where they are expected in ``current``.
    :return: (N, 2) float32 pixels in ``current`` and the (N,) mask of those that return to their
        start when tracked backwards.
    """
    if len(points) == 0:
        return np.empty((0, 2), np.float32), np.empty(0, bool)
    start = np.ascontiguousarray(points, np.float32).reshape(-1, 1, 2)
    expected = np.ascontiguousarray(guess, np.float32).reshape(-1, 1, 2)
    forward, found, _ = _lucas_kanade(previous, current, start, expected.copy(), maxLevel=levels)
    # Backwards starts as far off as forwards, so that agreement is significant, within the reach
    # of two levels.
    off = np.clip(forward - expected, -BACK_OFFSET_PX, BACK_OFFSET_PX)
    back, found_back, _ = _lucas_kanade(
        current, previous, forward, start + off, maxLevel=min(levels, 1)
    )
    error = np.linalg.norm((back - start)[:, 0], axis=1)
    height, width = current.shape
    end = forward[:, 0]
    inside = ((end >= 1) & (end <= (width - 2, height - 2))).all(axis=1)
    ok = (found[:, 0] > 0) & (found_back[:, 0] > 0) & (error < ROUND_TRIP_PX) & inside
    return end, ok


def coverage(pixels: np.ndarray, width: int, height: int) -> float:
    """Return the share of an 8 x 6 grid over the image that holds at least one pixel."""
    if len(pixels) == 0:
        return 0.0
    columns = np.clip((pixels[:, 0] + 0.5) * 8 // width, 0, 7).astype(int)
    rows = np.clip((pixels[:, 1] + 0.5) * 6 // height, 0, 5).astype(int)
    return len(np.unique(rows * 8 + columns)) / 48.0
