"""The motion between two views of corners whose depths are unknown.

All solutions of the essential matrix and of a homography (flat scenes), and straight motion, are
refined and compared by the squared errors of all corners: a wrong motion often explains the flow
nearly as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..core.geometry import inverse, make_T, rotation_angle
from .bundle import adjust, BundleProblem
from .pinhole import depth_along_first_ray, homogeneous, project

#: Corners needed for a motion, and the share of them whose depth has to be known.
LEAST_POINTS = 60
LEAST_SOLID_SHARE = 0.15
#: The second-best solution has to leave this many times the squared errors of the best one, each
#: counted up to MOST_PX: a small motion is explained as well by a wrong one.
RUNNER_UP = 2.0
MOST_PX = 2.0
#: Solutions that are refined, at most.
REFINED = 6
#: A motion is not contradicted while it leaves less than this mean squared error in pixels, nor by
#: one in a direction farther from the expected one.
LEAST_DOUBT = 0.3
EXPECTED_COS = np.cos(np.deg2rad(45.0))


def fit_rotation(rays_first: np.ndarray, rays_second: np.ndarray) -> np.ndarray:
    """Return the rotation from the first rays to the second ones, robustly."""
    a, b = homogeneous(rays_first), homogeneous(rays_second)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    weight, R = np.ones(len(a)), np.eye(3)
    for _ in range(8):
        U, _, Vt = np.linalg.svd((b * weight[:, None]).T @ a)
        R = U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt
        error = np.linalg.norm(a @ R.T - b, axis=1)
        weight = 1.0 / np.maximum(error, 0.3 * np.median(error) + 1e-6)
    return R


@dataclass(frozen=True, eq=False)
class TwoViews:
    """A motion that explains two views.

    :ivar T_second_first: (4, 4), in the unit of the depths.
    :ivar depth: (N,) in the first camera; ``good``: (N,) the points whose depth is known.
    :ivar cost: mean squared error of all points in pixels, each up to ``MOST_PX``.
    """

    T_second_first: np.ndarray
    depth: np.ndarray
    good: np.ndarray
    cost: float

    def in_own_unit(self) -> TwoViews:
        """Return it with a median depth of one."""
        unit = float(np.median(self.depth[self.good]))
        T = self.T_second_first.copy()
        T[:3, 3] /= unit
        return replace(self, T_second_first=T, depth=self.depth / unit)


def solve_two_views(
    first: np.ndarray, second: np.ndarray, R_second_first: np.ndarray, focal: float
) -> list[TwoViews]:
    """Return the distinct motions that explain two views, best first.

    Those that leave more than ``RUNNER_UP`` times the cost of the best one are left out. There is
    none if a rotation alone explains the views as well.

    :param first: (N, 2) rays; ``second`` likewise.
    :param R_second_first: (3, 3) the best rotation without translation.
    """
    hypotheses = _hypotheses(first, second, focal)
    # Random samples miss a small motion straight ahead.
    hypotheses += [make_T(R_second_first, np.array([0.0, 0.0, z])) for z in (1.0, -1.0)]
    explained = [_explain(T, first, second, focal) for T in hypotheses]
    explained = _distinct([e for e in explained if e.good.sum() >= LEAST_POINTS // 2])
    refined = _distinct([_refine(e, first, second, focal) for e in explained[:REFINED]])
    enough = max(LEAST_POINTS, LEAST_SOLID_SHARE * len(first))
    if not refined or refined[0].good.sum() < enough:
        return []
    most = RUNNER_UP * refined[0].cost
    turned = rotation_residuals(first, second, R_second_first) * focal
    if _cost(turned) < most:
        return []
    return [views.in_own_unit() for views in refined if views.cost <= most]


def contradicting_motion(
    T_second_first: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    focal: float,
    expected: np.ndarray,
) -> TwoViews | None:
    """Return another motion that explains two views far better than a given one; None without.

    A turn and a shift to the side look alike, so both are minima of a pose from few landmarks, and
    new ones then agree with the wrong one. All corners, their depths unknown, tell the two apart.

    :param first: (N, 2) rays; ``second`` likewise.
    :param expected: (3,) where the second camera is expected, in the first one.
    """
    if len(first) < LEAST_POINTS or not expected.any():
        return None
    left = _cost(least_errors(T_second_first, first, second)[1] * focal)
    if left < LEAST_DOUBT:
        return None
    best, best_cosine = None, EXPECTED_COS
    for views in solve_two_views(first, second, fit_rotation(first, second), focal):
        better = RUNNER_UP * views.cost < left and differ(T_second_first, views.T_second_first)
        cosine = direction_cosine(inverse(views.T_second_first)[:3, 3], expected)
        if better and cosine > best_cosine:
            best, best_cosine = views, cosine
    return best


def _distinct(solutions: list[TwoViews]) -> list[TwoViews]:
    """Return the solutions that differ from all better ones, best first."""
    distinct: list[TwoViews] = []
    for views in sorted(solutions, key=lambda s: s.cost):
        if all(differ(views.T_second_first, other.T_second_first) for other in distinct):
            distinct.append(views)
    return distinct


def _hypotheses(first: np.ndarray, second: np.ndarray, focal: float) -> list[np.ndarray]:
    """Return the solutions of the essential matrix and the homography, |t| = 1."""
    found = []
    eye = np.eye(3)
    E, _ = cv2.findEssentialMat(first, second, eye, cv2.RANSAC, 0.999, 1.0 / focal)
    if E is not None and E.shape == (3, 3):
        R1, R2, t = cv2.decomposeEssentialMat(E)
        found += [make_T(R, s * t.ravel()) for R in (R1, R2) for s in (1.0, -1.0)]
    H, mask = cv2.findHomography(first, second, cv2.RANSAC, 2.0 / focal)
    if H is not None and mask.sum() > 0.5 * len(first):
        _, rotations, translations, _ = cv2.decomposeHomographyMat(H, eye)
        for R, t in zip(rotations, translations, strict=True):
            norm = np.linalg.norm(t)
            if norm > 1e-3:
                found += [make_T(R, s * t.ravel() / norm) for s in (1.0, -1.0)]
    return [T for T in found if rotation_angle(T[:3, :3]) < np.pi / 2]


def _explain(T: np.ndarray, first: np.ndarray, second: np.ndarray, focal: float) -> TwoViews:
    """Return how a motion explains points; those at infinity need no depth."""
    depth, error = least_errors(T, first, second)
    error *= focal
    at_infinity = rotation_residuals(first, second, T[:3, :3]) * focal
    good = (depth > 0) & (error < MOST_PX) & (at_infinity > 1.0)
    return TwoViews(T, depth, good, _cost(error))


def least_errors(
    T: np.ndarray, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the (N,) depths of points in the first view, and the distances of rays left.

    The depth is 0 of points that are behind one of the cameras: the distance is that at infinity.
    """
    depth = depth_along_first_ray(T, first, second)
    points = homogeneous(first) * depth[:, None]
    rays, depth_second = project(points @ T[:3, :3].T + T[:3, 3])
    in_front = (depth > 0) & (depth_second > 0)
    at_infinity = rotation_residuals(first, second, T[:3, :3])
    error = np.where(in_front, np.linalg.norm(rays - second, axis=1), at_infinity)
    return np.where(in_front, depth, 0.0), error


def _cost(error_px: np.ndarray) -> float:
    return float(np.mean(np.minimum(error_px, MOST_PX) ** 2))


def rotation_residuals(first: np.ndarray, second: np.ndarray, R: np.ndarray) -> np.ndarray:
    """Return the (N,) distances of rays after a rotation."""
    return np.linalg.norm(project(homogeneous(first) @ R.T)[0] - second, axis=1)


def _refine(views: TwoViews, first: np.ndarray, second: np.ndarray, focal: float) -> TwoViews:
    """Adjust a motion to the points it explains, and return how it explains all of them."""
    T, index = views.T_second_first, np.flatnonzero(views.good)
    count = len(index)
    problem = BundleProblem(
        T_camera_world=np.stack([T, np.eye(4)]),
        free_count=1,
        points=homogeneous(first[index]) * views.depth[index, None],
        camera=np.repeat([0, 1], count),
        point=np.tile(np.arange(count), 2),
        rays=np.concatenate([second[index], first[index]]),
        focal=focal,
    )
    refined = adjust(problem, iterations=10).T_camera_world[0].copy()
    refined[:3, 3] /= max(float(np.linalg.norm(refined[:3, 3])), 1e-12)
    return _explain(refined, first, second, focal)


def differ(T_a: np.ndarray, T_b: np.ndarray) -> bool:
    """Return whether two motions turn, or lead, in different directions."""
    angle = float(rotation_angle(T_a[:3, :3].T @ T_b[:3, :3]))
    direction = direction_cosine(T_a[:3, 3], T_b[:3, 3])
    return angle > np.deg2rad(1.0) or direction < np.cos(np.deg2rad(20.0))


def direction_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of the angle between two (3,) vectors."""
    return float(a @ b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12)
