"""The geometry of one pair of images: similarities between point maps, focal length, matches."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from ...core.datatypes import Intrinsics
from ...core.geometry import inverse, make_T, similarity, weighted_median

#: Rounds of reweighting, which end when the median residual changes by no more than this share.
_ROUNDS, _SETTLED = 10, 1e-3
#: Least residual, over the distance, that counts as noise: below, no point loses weight.
_LEAST_NOISE = 1e-3
#: From a median of absolute values to a standard deviation, of a three-dimensional normal vector.
_MEDIAN_TO_SIGMA = 1.0 / 1.538
#: Residuals up to this share of the distance are those of one scene.
_SAME_POINT = 0.1
#: Shortest focal length over the longer side: 157 degrees.
_LEAST_FOCAL = 0.1
#: Distance between the pixels where matches begin, rounds to find a fixed point, and the most
#: similarities in memory at once.
_MATCH_STEP, _MATCH_ROUNDS, _MOST_SIMILARITIES = 8, 5, 2**24
#: Largest distance of a match from where the pose puts it, over the width of the image.
_MATCH_SLACK = 0.01
_LEAST_MATCHES = 24


class PointAlignment(NamedTuple):
    """A similarity between two point maps of the same pixels.

    :ivar S_target_source: (4, 4).
    :ivar share: of the weight that agrees with it, 0 to 1.
    :ivar noise: median residual, over the distance from the target's origin.
    """

    S_target_source: np.ndarray
    share: float
    noise: float


def align(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> PointAlignment | None:
    """Return the similarity that takes points to others, with outliers weighted down.

    Weighted least squares in closed form (Umeyama, "Least-squares estimation of transformation
    parameters between two point patterns", 1991), reweighted by Cauchy's function of the residuals
    over the distances. None if there is none: points on a line, or not finite.

    :param source: (N, 3), ``target`` likewise; ``weights``: (N,) >= 0.
    """
    distances = np.linalg.norm(target, axis=1)
    usable = np.isfinite(source).all(axis=1) & np.isfinite(distances) & (distances > 0)
    usable &= np.isfinite(weights) & (weights > 0)
    if usable.sum() < 3:
        return None
    source, target, distances = source[usable], target[usable], distances[usable]
    weights = weights[usable] / weights[usable].sum()
    # A residual counts in shares of the distance.
    base = weights / distances**2
    factors, before = np.ones_like(base), np.inf
    for _ in range(_ROUNDS):
        found = _weighted_similarity(source, target, base * factors)
        if found is None:
            return None
        S = found
        residuals = np.linalg.norm(source @ S[:3, :3].T + S[:3, 3] - target, axis=1) / distances
        noise = weighted_median(residuals, weights)
        sigma = max(noise * _MEDIAN_TO_SIGMA, _LEAST_NOISE)
        if abs(noise - before) <= _SETTLED * noise:
            break
        factors, before = 1.0 / (1.0 + (residuals / sigma) ** 2), noise
    return PointAlignment(S, float(weights[residuals < _SAME_POINT].sum()), noise)


def _weighted_similarity(
    source: np.ndarray, target: np.ndarray, weights: np.ndarray
) -> np.ndarray | None:
    weights = weights / weights.sum()
    mean_source, mean_target = weights @ source, weights @ target
    a, b = source - mean_source, target - mean_target
    U, D, Vt = np.linalg.svd((b * weights[:, None]).T @ a)
    if not D[1] > 1e-12 * D[0]:
        return None
    handed = np.array([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))])
    R = (U * handed) @ Vt
    scale = float((D * handed).sum() / (weights @ (a**2).sum(axis=1)))
    if not scale > 0:
        return None
    return similarity(make_T(R, mean_target - scale * R @ mean_source), scale)


def focal_length(points: np.ndarray, weights: np.ndarray, step: int) -> float | None:
    """Return the focal length of the camera that sees a point map, in pixels.

    The least sum of distances between pixels and projected points, by Weiszfeld's reweighting
    (DUSt3R, arXiv 2312.14132, section 3.3); None if that is no camera. The principal point is the
    centre of the image, as in training.

    :param points: (H, W, 3) in the camera of the image.
    :param weights: (h, w) >= 0, of every ``step``-th row and column.
    """
    height, width = points.shape[:2]
    points = points[::step, ::step]
    u = np.arange(0, width, step) - (width - 1) / 2
    v = np.arange(0, height, step) - (height - 1) / 2
    seen = (points[..., 2] > 0) & np.isfinite(points).all(axis=-1) & (weights > 0)
    if not seen.any():
        return None
    pixels = np.stack(np.meshgrid(u, v), axis=-1)[seen].astype(np.float64)
    rays = (points[seen][:, :2] / points[seen][:, 2:]).astype(np.float64)
    factors = weights[seen].astype(np.float64)
    along, squared = (pixels * rays).sum(axis=1), (rays**2).sum(axis=1)
    focal = (factors @ along) / max(factors @ squared, 1e-12)
    for _ in range(_ROUNDS):
        off = np.maximum(np.linalg.norm(pixels - focal * rays, axis=1), 0.1)
        w = factors / off
        focal = (w @ along) / max(w @ squared, 1e-12)
    return float(focal) if focal > _LEAST_FOCAL * max(width, height) else None


def reciprocal_matches(first: Tensor, second: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels of two images whose descriptors are nearest to one another.

    From a coarse grid, each pixel goes to its nearest neighbour in the other image and back until
    it returns to where it was (MASt3R, arXiv 2406.09756, section 3.3).

    :param first: (H, W, D) unit vectors; ``second`` likewise.
    :returns: (N, 2) int64 pixels u, v in the first image, and in the second.
    """
    height, width = first.shape[:2]
    a, b = first.flatten(0, 1), second.flatten(0, 1)
    half = _MATCH_STEP // 2
    grid = torch.arange(height * width, device=a.device).reshape(height, width)
    at = grid[half::_MATCH_STEP, half::_MATCH_STEP].flatten()
    found = []
    for _ in range(_MATCH_ROUNDS):
        other = _nearest(a[at], b)
        back = _nearest(b[other], a)
        fixed = back == at
        found.append(torch.stack([at[fixed], other[fixed]]))
        at = torch.unique(back[~fixed])
        if not len(at):
            break
    pairs = torch.unique(torch.cat(found, dim=1), dim=1).cpu().numpy()
    in_first, in_second = (
        np.stack([pixels % columns, pixels // columns], axis=1)
        for pixels, columns in zip(pairs, (width, second.shape[1]), strict=True)
    )
    return in_first, in_second


def _nearest(queries: Tensor, keys: Tensor) -> Tensor:
    rows = max(1, _MOST_SIMILARITIES // len(keys))
    return torch.cat([(part @ keys.T).argmax(dim=1) for part in queries.split(rows)])


def refined_pose(
    T_first_second: np.ndarray,
    points: np.ndarray,
    pixels: np.ndarray,
    camera: Intrinsics,
) -> tuple[np.ndarray, float] | None:
    """Refine a relative pose by matches: points of the first camera, pixels of the second.

    :param points: (N, 3) in the first camera; ``pixels``: (N, 2).
    :returns: the pose, and the share of matches that agree with it; None: too few do.
    """
    usable = np.isfinite(points).all(axis=1) & (points[:, 2] > 0)
    points, pixels = points[usable].astype(np.float64), pixels[usable].astype(np.float64)
    T = inverse(T_first_second)
    share = 0.0
    for _ in range(3):
        agrees = _reprojection_errors(T, points, pixels, camera) < _MATCH_SLACK * camera.width
        if agrees.sum() < _LEAST_MATCHES:
            return None
        rotation, translation = cv2.solvePnPRefineLM(
            points[agrees], pixels[agrees], camera.K, None,
            cv2.Rodrigues(T[:3, :3])[0], T[:3, 3:].copy(),
        )  # fmt: skip
        T = make_T(cv2.Rodrigues(rotation)[0], translation[:, 0])
        share = float(agrees.mean())
    return (inverse(T), share) if np.isfinite(T).all() else None


def _reprojection_errors(
    T: np.ndarray, points: np.ndarray, pixels: np.ndarray, camera: Intrinsics
) -> np.ndarray:
    seen = points @ T[:3, :3].T + T[:3, 3]
    with np.errstate(divide='ignore', invalid='ignore'):
        projected = seen[:, :2] / seen[:, 2:] * [camera.fx, camera.fy] + [camera.cx, camera.cy]
        errors = np.linalg.norm(projected - pixels, axis=1)
    return np.where((seen[:, 2] > 0) & np.isfinite(errors), errors, np.inf)
