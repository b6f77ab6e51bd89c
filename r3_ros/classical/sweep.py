"""Dense depth of a keyframe by plane sweep against its neighbours.

Fronto-parallel planes at equal steps of inverse depth are scored at every pixel by the correlation
(ZNCC) of the patch around it with the neighbours' images, warped over the plane. A pixel gets a
depth only if the best score is high and unique, the patch has texture, and its neighbours agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from ..core.geometry import inverse
from .fill import filled
from .landmarks import HeldFrame, SparseMap
from .pinhole import Pinhole

#: Most pixels of a swept image (half of 640x480 a side).
MOST_PIXELS = 320 * 240
#: Side of the patches compared.
PATCH = 9
#: Least score of a depth.
LEAST_SCORE = 0.65
#: Least contrast of a patch (standard deviation in grey levels).
LEAST_CONTRAST = 2.0
#: Least margin of the best peak over any other.
UNIQUE_MARGIN = 0.02
#: Planes on either side of the best one that belong to its peak.
PEAK_PLANES = 2
#: Largest relative difference to neighbouring depths; beyond is an outlier or an edge.
SMOOTH_SHARE = 0.06
#: Neighbours used at most, and their baselines over the median depth.
MOST_VIEWS = 3
BASELINES = (0.04, 0.20)
BEST_BASELINE = 0.11
#: Neighbours turned by more than this overlap too little.
MOST_TURN_COS = np.cos(np.deg2rad(20.0))
#: Keyframes considered as neighbours, newest first.
CONSIDERED = 20
#: Landmarks needed for a depth range.
LEAST_LANDMARKS = 30
#: How far the planes reach beyond the nearest and farthest landmarks.
NEAR_MARGIN, FAR_MARGIN = 0.7, 1.4


#: A neighbouring image, (h, w) uint8, with its (4, 4) ``T_view_reference``.
NeighbourView = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Swept:
    """Depth of one keyframe: (h, w) float32, NaN where unknown, and confidence >= 1."""

    frame_id: int
    depth: np.ndarray
    confidence: np.ndarray


def sweep_size(camera: Pinhole) -> tuple[int, int]:
    """Return the width and height of the swept image."""
    scale = min(0.5, float(np.sqrt(MOST_PIXELS / (camera.width * camera.height))))
    return round(camera.width * scale), round(camera.height * scale)


def sweep_job(
    frame: HeldFrame, sparse_map: SparseMap, planes: int, fill: bool
) -> Callable[[], Swept] | None:
    """Return the sweep of a keyframe as a job on copies, or None if there is no depth to be had.

    :param fill: give every pixel a depth, see :mod:`.fill`.
    """
    camera = sparse_map.camera
    slots, pixels = frame.seen.solid(sparse_map.landmarks)
    T = inverse(frame.T_world_camera)
    depths = sparse_map.landmarks.position[slots] @ T[2, :3] + T[2, 3]
    pixels, depths = pixels[depths > 0], depths[depths > 0]
    if len(depths) < LEAST_LANDMARKS:
        return None
    nearest, middle, farthest = np.percentile(depths, (2.0, 50.0, 98.0))
    neighbours = _neighbours(frame, sparse_map, float(middle))
    if not neighbours and not fill:
        return None
    width, height = sweep_size(camera)
    small_camera = Pinhole.of(camera.resized(width, height), width, height)
    gray = _shrunk(frame.gray, width, height)
    views = [
        (_shrunk(n.gray, width, height), inverse(n.T_world_camera) @ frame.T_world_camera)
        for n in neighbours
    ]
    near, far = NEAR_MARGIN * float(nearest), FAR_MARGIN * float(farthest)
    frame_id = frame.frame_id
    pixels = small_camera.pixels(camera.rays(pixels))

    def job() -> Swept:
        if views:
            swept = sweep(frame_id, gray, views, small_camera, near, far, planes)
        else:
            unknown = np.full(gray.shape, np.nan, np.float32)
            swept = Swept(frame_id, unknown, np.ones_like(unknown))
        if not fill:
            return swept
        return Swept(frame_id, *filled(swept.depth, swept.confidence, gray, pixels, depths))

    return job


def _neighbours(frame: HeldFrame, sparse_map: SparseMap, depth: float) -> list[HeldFrame]:
    """Return the keyframes with the best baselines for a scene at this depth."""
    suited = []
    for other in sparse_map.keyframes()[-CONSIDERED:]:
        if other is frame:
            continue
        baseline = float(
            np.linalg.norm(other.T_world_camera[:3, 3] - frame.T_world_camera[:3, 3]) / depth
        )
        turn = float(other.T_world_camera[:3, 2] @ frame.T_world_camera[:3, 2])
        if BASELINES[0] < baseline < BASELINES[1] and turn > MOST_TURN_COS:
            suited.append((abs(np.log(baseline / BEST_BASELINE)), other.frame_id, other))
    suited.sort(key=lambda entry: entry[:2])
    return [other for _, _, other in suited[:MOST_VIEWS]]


def _shrunk(gray: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA)


def sweep(
    frame_id: int,
    gray: np.ndarray,
    views: list[NeighbourView],
    camera: Pinhole,
    nearest: float,
    farthest: float,
    planes: int,
) -> Swept:
    """Return the depth of an image.

    :param gray: (h, w) uint8, of the size of ``camera``, as the images of the views.
    :param nearest: depth of the first plane; the last is at ``farthest``.
    """
    inverse_depths = np.linspace(1.0 / farthest, 1.0 / nearest, planes)
    scores = _score_volume(gray, views, camera, inverse_depths)
    depth, confidence = _decide(scores, inverse_depths, gray)
    return Swept(frame_id, depth, confidence)


def _score_volume(
    gray: np.ndarray, views: list[NeighbourView], camera: Pinhole, inverse_depths: np.ndarray
) -> np.ndarray:
    """Return (planes, h, w) float32 scores of each plane in the best views, 1 at best."""
    h, w = gray.shape
    K, K_inv = camera.K, np.linalg.inv(camera.K)
    reference = _normalised(gray)
    # The mean of two views is their sum times a half.
    scale = (0.5 if len(views) == 1 else 0.25) / np.maximum(_box(reference * reference), 1e-3)
    images = [_normalised(image) for image, _ in views]
    homographies = [(K @ T[:3, :3] @ K_inv, K @ T[:3, 3:] @ K_inv[2:]) for _, T in views]
    volume = np.empty((len(inverse_depths), h, w), np.float32)
    each = [np.empty((h, w), np.float32) for _ in views]
    warped = np.empty((h, w), np.float32)
    for plane, inverse_depth in zip(volume, inverse_depths, strict=True):
        for image, (turn, shift), score in zip(images, homographies, each, strict=True):
            cv2.warpPerspective(
                image,
                turn + inverse_depth * shift,
                (w, h),
                dst=warped,
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            )
            np.subtract(warped, reference, out=warped)
            np.multiply(warped, warped, out=warped)
            cv2.boxFilter(warped, cv2.CV_32F, (PATCH, PATCH), dst=score)
        _best_two(each, plane)
        np.multiply(plane, scale, out=plane)
        np.subtract(1.0, plane, out=plane)
    return volume


def _normalised(gray: np.ndarray) -> np.ndarray:
    """Return the image normalised by mean and contrast of the patch around each pixel.

    The mean squared difference of two such images over a patch is about twice (1 - ZNCC), at a
    third of the work: mean and contrast are those of the neighbour's patch before warping.
    """
    image = gray.astype(np.float32)
    mean = _box(image)
    # The constant lowers the score where contrast is below the noise of the camera.
    contrast = np.sqrt(np.maximum(_box(image * image) - mean * mean, 0.0) + LEAST_CONTRAST)
    return (image - mean) / contrast


def _box(image: np.ndarray) -> np.ndarray:
    return cv2.boxFilter(image, cv2.CV_32F, (PATCH, PATCH))


def _best_two(each: list[np.ndarray], out: np.ndarray) -> None:
    """Write the sum of the two best views: in the others the point may be occluded.

    Overwrites the views: new arrays of this size would cost more than the arithmetic.
    """
    if len(each) == 1:
        out[:] = each[0]
        return
    spare, second = each[0], each[1]
    np.minimum(spare, second, out=out)
    np.maximum(spare, second, out=second)
    for difference in each[2:]:
        # ``out`` and ``second`` are the best two so far.
        np.maximum(out, difference, out=spare)
        np.minimum(second, spare, out=second)
        np.minimum(out, difference, out=out)
    np.add(out, second, out=out)


def _decide(
    scores: np.ndarray, inverse_depths: np.ndarray, gray: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return depth, interpolated between planes, and confidence; NaN where uncertain.

    Overwrites the scores.
    """
    planes, h, w = scores.shape
    best = _argmax(scores)
    index = best.reshape(-1)
    # Several times as fast as with an index of planes and one of pixels.
    flat = scores.reshape(-1)
    top = flat[_places(index)]
    below = flat[_places(np.maximum(index - 1, 0))]
    above = flat[_places(np.minimum(index + 1, planes - 1))]
    curve = below + above - 2.0 * top
    offset = np.where(curve < -1e-6, 0.5 * (below - above) / np.minimum(curve, -1e-6), 0.0)
    step = inverse_depths[1] - inverse_depths[0]
    inverse_depth = inverse_depths[index] + np.clip(offset, -0.5, 0.5) * step
    depth = (1.0 / inverse_depth).reshape(h, w).astype(np.float32)

    second = _second_peak(scores.reshape(planes, -1), index)
    margin = (top - second).reshape(h, w)
    top = top.reshape(h, w)
    inside = (best > 0) & (best < planes - 1)
    known = inside & (top > LEAST_SCORE) & (margin > UNIQUE_MARGIN)
    known &= _texture(gray) > LEAST_CONTRAST
    depth[~known] = np.nan
    depth = _drop_outliers(depth)
    known = np.isfinite(depth)
    confidence = np.ones((h, w), np.float32)
    fit = np.clip((top - LEAST_SCORE) / (1.0 - LEAST_SCORE), 0.0, 1.0)
    clear = np.clip(margin / 0.3, 0.0, 1.0)
    confidence[known] = (1.0 + 4.0 * fit * (0.5 + 0.5 * clear))[known]
    return depth, confidence


def _argmax(scores: np.ndarray) -> np.ndarray:
    """Return the best plane of each pixel; plane after plane is faster than NumPy's argmax."""
    best = np.zeros(scores.shape[1:], np.int16)
    top = scores[0].copy()
    for k in range(1, len(scores)):
        # The newest better plane has the highest number.
        np.maximum(best, (scores[k] > top) * np.int16(k), out=best)
        np.maximum(top, scores[k], out=top)
    return best


def _places(index: np.ndarray) -> np.ndarray:
    """Return the places of one plane per pixel, (pixels,), in the flat (planes, pixels) scores."""
    return index.astype(np.int64) * len(index) + np.arange(len(index))


def _second_peak(scores: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the best score outside of the peak; overwrites the scores of the peak."""
    flat, last = scores.reshape(-1), len(scores) - 1
    for shift in range(-PEAK_PLANES, PEAK_PLANES + 1):
        flat[_places(np.clip(index + shift, 0, last))] = -1.0
    second: np.ndarray = scores.max(axis=0)
    return second


def _texture(gray: np.ndarray) -> np.ndarray:
    image = gray.astype(np.float32)
    mean = _box(image)
    return np.sqrt(np.maximum(_box(image * image) - mean * mean, 0.0))


def _drop_outliers(depth: np.ndarray) -> np.ndarray:
    known = np.isfinite(depth)
    inverse = np.where(known, 1.0 / np.where(known, depth, 1.0), 0.0).astype(np.float32)
    most = SMOOTH_SHARE * inverse
    agreeing, present = np.zeros(depth.shape, np.uint8), np.zeros(depth.shape, np.uint8)
    h, w = depth.shape
    padded, padded_known = np.pad(inverse, 4), np.pad(known, 4)
    for dy in (0, 2, 4, 6, 8):
        for dx in (0, 2, 4, 6, 8):
            if dx == 4 and dy == 4:
                continue
            has = padded_known[dy : dy + h, dx : dx + w]
            present += has
            agreeing += has & (np.abs(padded[dy : dy + h, dx : dx + w] - inverse) < most)
    sure = known & (present >= 6) & (agreeing >= 0.5 * present)
    return np.where(sure, depth, np.nan).astype(np.float32)
