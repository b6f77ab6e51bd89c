"""Corners, and tracking them from one image to another."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np

from ..core.image_shift import shift_between

#: Longest side of the working image, that corners are tracked in; larger images are resized.
LONGEST_SIDE = 1280
#: Width and height of a tracked patch. Smaller ones drift on repeated texture, larger ones span
#: depth edges. OpenCV takes eight pixels of a row at once and the rest one by one: a width of 15
#: takes 1.6 times as long as 17.
PATCH = (17, 15)
#: Pyramid levels above the full image: with PATCH enough for 50 pixels without a guess.
LEVELS = 3
#: Largest error of a corner tracked forwards and backwards, in pixels.
ROUND_TRIP_PX = 0.7
#: Tracking backwards starts at most this far from the corner, in pixels.
BACK_OFFSET_PX = 4.0
#: Share by which the mean brightness of two images differs if their exposures do.
LEAST_CHANGE = 0.05
#: The guess is taken for wrong if less than this share of the corners is found.
LEAST_KEPT_SHARE = 0.6
#: Largest correction of a tracked corner by the patch of a keyframe, in pixels, and the mean
#: difference of grey levels of patches that are alike.
ALIGN_PX = 1.5
ALIGN_DIFFERENCE = 12.0
#: Weakest corner, relative to the strongest.
QUALITY = 0.003
#: Corners in a cell of the image that has none so strong.
WEAK_CORNERS = 5
#: Images are this many times smaller where their shift is estimated.
SHIFT_SHRINK = 8
#: Pixels in x and y of which one tells the brightness.
_SAMPLED = 8

_lucas_kanade = partial(
    cv2.calcOpticalFlowPyrLK,
    winSize=PATCH,
    criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.02),
    flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    minEigThreshold=1e-4,
)
#: Without the difference of the patches, which takes a tenth of the time.
_follow = partial(
    _lucas_kanade, flags=cv2.OPTFLOW_USE_INITIAL_FLOW | cv2.OPTFLOW_LK_GET_MIN_EIGENVALS
)


def working_image(image: np.ndarray) -> np.ndarray:
    """Return the (h, w) uint8 grey image that the predictor works on.

    :param image: (H, W, 3) uint8 RGB, or (H, W) grey.
    """
    # Copied: frames are tracked from it later, and the source may write to the image again.
    gray = image.copy() if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = gray.shape
    scale = LONGEST_SIDE / max(height, width)
    if scale < 1.0:
        size = (round(width * scale), round(height * scale))
        gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    return gray


def find_corners(
    gray: np.ndarray, count: int, occupied: np.ndarray, distance: float
) -> np.ndarray:
    """Return up to ``count`` new corners (N, 2) float32 all over the image, away from others.

    :param occupied: (M, 2) pixels of corners that are tracked already.
    :param distance: least distance to those and to each other, in pixels.
    """
    mask = np.full(gray.shape, 255, np.uint8)
    for place in np.rint(occupied).astype(int).tolist():
        cv2.circle(mask, place, int(distance), 0, -1)
    border = max(PATCH) // 2 + 1
    mask[:border], mask[-border:], mask[:, :border], mask[:, -border:] = 0, 0, 0, 0
    found = [_corners(gray, count, mask, distance)]
    left = count - len(found[0])
    # Where all corners are weaker than those elsewhere, the strongest there are better than none.
    height, width = gray.shape
    rows, columns = np.linspace(0, height, 7).astype(int), np.linspace(0, width, 9).astype(int)
    occupied = np.concatenate([occupied, found[0]])
    for row, column in np.argwhere(~_occupied_cells(occupied, width, height)):
        y, x = slice(*rows[row : row + 2]), slice(*columns[column : column + 2])
        weak = _corners(gray[y, x], min(left, WEAK_CORNERS), mask[y, x], distance)
        found.append(weak + np.array([x.start, y.start], np.float32))
        left -= len(weak)
    return np.concatenate(found)


def _corners(gray: np.ndarray, count: int, mask: np.ndarray, distance: float) -> np.ndarray:
    if count <= 0:
        return np.empty((0, 2), np.float32)
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
    previous = as_exposed(previous, current)
    forward, found, _ = _follow(previous, current, start, expected.copy(), maxLevel=levels)
    # Backwards starts as far off as forwards, so that agreement is significant, within the reach
    # of two levels.
    off = np.clip(forward - expected, -BACK_OFFSET_PX, BACK_OFFSET_PX)
    back, found_back, _ = _follow(current, previous, forward, start + off, maxLevel=min(levels, 1))
    error = np.linalg.norm((back - start)[:, 0], axis=1)
    height, width = current.shape
    end = forward[:, 0]
    inside = ((end >= 1) & (end <= (width - 2, height - 2))).all(axis=1)
    ok = (found[:, 0] > 0) & (found_back[:, 0] > 0) & (error < ROUND_TRIP_PX) & inside
    return end, ok


def as_exposed(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return an image with the brightness and contrast of another of the same view.

    Patches are compared by their grey levels, and a camera may change its exposure at once.
    """
    sample, target = image[::_SAMPLED, ::_SAMPLED], other[::_SAMPLED, ::_SAMPLED]
    mean, wanted = float(sample.mean()), float(target.mean())
    if abs(mean - wanted) < LEAST_CHANGE * wanted:
        return image
    gain = float(target.std()) / max(float(sample.std()), 1.0)
    return cv2.convertScaleAbs(image, alpha=gain, beta=wanted - gain * mean)


def track_fast(
    previous: np.ndarray, current: np.ndarray, points: np.ndarray, guess: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Track as :func:`track` does; where many are lost, start from the shift of the image too."""
    ends, ok = track(previous, current, points, guess)
    if ok.sum() >= LEAST_KEPT_SHARE * len(points):
        return ends, ok
    shifted = track(
        previous, current, points, points + shift_between(previous, current, SHIFT_SHRINK)
    )
    return shifted if shifted[1].sum() > ok.sum() else (ends, ok)


def align(
    previous: np.ndarray, current: np.ndarray, points: np.ndarray, guess: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Align patches to another image, whose pixels are known to about one.

    :param points: (N, 2) pixels in ``previous``.
    :param guess: (N, 2) pixels in ``current``.
    :return: (N, 2) float32 pixels in ``current``, and the (N,) mask of patches that are alike
        and close to their guess.
    """
    start = np.ascontiguousarray(points, np.float32).reshape(-1, 1, 2)
    expected = np.ascontiguousarray(guess, np.float32).reshape(-1, 1, 2)
    previous = as_exposed(previous, current)
    end, found, difference = _lucas_kanade(previous, current, start, expected.copy(), maxLevel=0)
    near = np.linalg.norm((end - expected)[:, 0], axis=1) < ALIGN_PX
    alike = difference[:, 0] < ALIGN_DIFFERENCE
    return end[:, 0], (found[:, 0] > 0) & near & alike


def coverage(pixels: np.ndarray, width: int, height: int) -> float:
    """Return the share of an 8 x 6 grid over the image that holds at least one pixel."""
    return float(_occupied_cells(pixels, width, height).mean())


def _occupied_cells(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return a (6, 8) bool mask of the cells that hold a pixel."""
    columns = np.clip((pixels[:, 0] + 0.5) * 8 // width, 0, 7).astype(int)
    rows = np.clip((pixels[:, 1] + 0.5) * 6 // height, 0, 5).astype(int)
    cells = np.zeros((6, 8), bool)
    cells[rows, columns] = True
    return cells
