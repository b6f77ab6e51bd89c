"""Initialisation: the first poses and landmarks, from corners tracked since a reference image.

Two views determine the scene only under enough translation, and a small one looks like a
rotation. So a start is tried only once the best pure rotation leaves enough flow unexplained. All
solutions of the essential matrix and of a homography (flat scenes) are refined, and one of them
has to be clearly the best.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.optimize import minimize_scalar

from ..core.geometry import inverse, make_T, rotation_angle
from .bundle import adjust, BundleProblem, BundleResult
from .features import find_corners, track
from .pinhole import depth_along_first_ray, homogeneous, parallax_cosine, Pinhole, project
from .pnp import refine_pose

#: Least median flow not explained by a rotation for a start, as a share of the width. A camera at
#: rest measures 0.0002.
PARALLAX_GATE = 0.0011
#: Corners needed for a start, and the share of the tracked corners that has to agree.
LEAST_POINTS = 60
LEAST_SHARE = 0.6
#: Largest ratio of corners that agree with the second-best and with the best solution.
RUNNER_UP = 0.9
#: Largest error of an agreeing corner in all frames, in pixels.
AGREE_PX = 1.2
#: Least parallax of a triangulated landmark.
SOLID_PARALLAX_DEG = 0.6
#: Share of the tracked corners that has to be triangulated: a start with fewer is badly
#: conditioned, and its scale drifts at once.
LEAST_SOLID_SHARE = 0.4
#: Frames in the first adjustment.
MOST_FRAMES = 8


@dataclass(frozen=True)
class Start:
    """A successful start.

    :ivar frame_ids: frames with a pose, reference first, present frame last.
    :ivar T_camera_reference: (F, 4, 4).
    :ivar points: (N, 3) in the reference camera, for each corner still tracked.
    :ivar solid: (N,) whether the point is well triangulated; others are guesses.
    :ivar relative_sigma: (N,) of the depths.
    :ivar pixels: (F, N, 2) of the points in each frame.
    """

    frame_ids: list[int]
    T_camera_reference: np.ndarray
    points: np.ndarray
    solid: np.ndarray
    relative_sigma: np.ndarray
    pixels: np.ndarray


class StartUp:
    """Tracks corners from a reference image until the scene can be initialised.

    :param guessed_focal: a wrong focal length may explain the flow left by a rotation.
    """

    def __init__(self, corner_count: int, corner_distance: float, guessed_focal: bool = False):
        self._guessed_focal = guessed_focal
        self._corner_count = corner_count
        self._corner_distance = corner_distance
        self.reference_id = -1
        self._frame_ids: list[int] = []
        self._pixels: list[np.ndarray] = []
        self._last_gray = np.empty((0, 0), np.uint8)
        self.corners = 0
        self.R_camera_reference = np.eye(3)
        self.rotation_error_px = 0.0
        self.parallax_px = 0.0
        self.tracked_share = 1.0

    def set_reference(self, frame_id: int, gray: np.ndarray) -> None:
        """Restart with this image as the reference."""
        corners = find_corners(gray, self._corner_count, np.empty((0, 2)), self._corner_distance)
        self.reference_id = frame_id
        self._frame_ids = [frame_id]
        self._pixels = [corners]
        self._last_gray = gray
        self.corners = len(corners)
        self.R_camera_reference = np.eye(3)
        self.tracked_share = 1.0

    def add(self, frame_id: int, gray: np.ndarray, camera: Pinhole) -> bool:
        """Track the corners into the next image and estimate its rotation.

        :return: whether enough corners are left to keep the reference.
        """
        last = self._pixels[-1]
        pixels, ok = track(self._last_gray, gray, last, last)
        if ok.sum() < max(LEAST_POINTS // 2, 0.3 * self.corners):
            self.tracked_share = float(ok.sum()) / max(self.corners, 1)
            return False
        self._pixels = [p[ok] for p in self._pixels] + [pixels[ok]]
        self._frame_ids.append(frame_id)
        self._last_gray = gray
        self.tracked_share = len(self._pixels[-1]) / max(self.corners, 1)
        first, now = camera.rays(self._pixels[0]), camera.rays(self._pixels[-1])
        self.R_camera_reference = fit_rotation(first, now)
        error = rotation_residual(first, now, self.R_camera_reference)
        self.rotation_error_px = error * camera.focal
        self.parallax_px = self.rotation_error_px
        if self._guessed_focal:
            self.parallax_px = camera.focal * least_rotation_residual(first, now)
        # While nothing happens, memory stays bounded: every second inner frame is dropped.
        if len(self._frame_ids) > 4 * MOST_FRAMES:
            keep = [0, *range(1, len(self._frame_ids) - 1, 2), len(self._frame_ids) - 1]
            self._frame_ids = [self._frame_ids[i] for i in keep]
            self._pixels = [self._pixels[i] for i in keep]
        return True

    def try_start(self, camera: Pinhole) -> Start | None:
        """Return poses and points, if the frames since the reference have one solution."""
        if self.parallax_px < PARALLAX_GATE * camera.width:
            return None
        first, now = camera.rays(self._pixels[0]), camera.rays(self._pixels[-1])
        candidates = [
            self._adjust(camera, *solution)
            for solution in solve_two_views(first, now, camera.focal)
        ]
        candidates.sort(key=lambda c: -c[0])
        if not candidates or candidates[0][1] is None:
            return None
        if len(candidates) > 1 and candidates[1][0] > RUNNER_UP * candidates[0][0]:
            return None
        return candidates[0][1]

    def _adjust(
        self, camera: Pinhole, T_now_reference: np.ndarray, depth: np.ndarray, good: np.ndarray
    ) -> tuple[int, Start | None]:
        """Adjust all frames since the reference together.

        :return: number of corners that agree in every frame, and the start if these are enough.
        """
        last = len(self._frame_ids) - 1
        chosen = np.unique(np.linspace(0, last, min(MOST_FRAMES, last + 1)).round().astype(int))
        rays = np.stack([camera.rays(self._pixels[i]) for i in chosen])
        points = homogeneous(rays[0]) * depth[:, None]
        T = np.tile(np.eye(4), (len(chosen), 1, 1))
        T[-1] = T_now_reference
        weight = np.ones(int(good.sum()))
        for k in range(len(chosen) - 2, 0, -1):
            T[k] = refine_pose(T[k + 1], points[good], rays[k][good], weight, camera.focal, 20)
        result, index = _adjust_frames(T, points, rays, good, camera.focal)
        error = result.error_px.reshape(len(chosen), -1)
        T = np.concatenate([T[:1], result.T_camera_world[:-1]])
        adjusted = points.copy()
        adjusted[index] = result.points
        centre = inverse(T[-1])[:3, 3]
        cosine = parallax_cosine(adjusted, np.zeros(3), centre)
        sigma = np.full(len(points), np.inf)
        sigma[index] = result.relative_sigma
        worst = np.full(len(points), np.inf)
        worst[index] = error.max(axis=0)
        solid = (worst < 2.0) & (adjusted[:, 2] > 0)
        solid &= cosine < np.cos(np.deg2rad(SOLID_PARALLAX_DEG))
        share = float((worst[index] < 2.0).mean())
        agree = int(((worst < AGREE_PX) & (adjusted[:, 2] > 0)).sum())
        enough = max(LEAST_POINTS, LEAST_SOLID_SHARE * len(points))
        if solid.sum() < enough or share < LEAST_SHARE or np.median(error) > 1.0:
            return agree, None
        return agree, Start(
            [self._frame_ids[i] for i in chosen],
            T,
            adjusted,
            solid,
            sigma,
            np.stack([self._pixels[i] for i in chosen]),
        )


def _adjust_frames(
    T: np.ndarray, points: np.ndarray, rays: np.ndarray, good: np.ndarray, focal: float
) -> tuple[BundleResult, np.ndarray]:
    """Bundle-adjust the chosen frames; the reference is fixed."""
    index = np.flatnonzero(good)
    count, frames = len(index), len(T)
    # The reference is the last camera, because the free ones come first.
    camera_of_frame = np.r_[frames - 1, np.arange(frames - 1)]
    problem = BundleProblem(
        T_camera_world=np.concatenate([T[1:], T[:1]]),
        free_count=frames - 1,
        points=points[index],
        camera=np.repeat(camera_of_frame, count),
        point=np.tile(np.arange(count), frames),
        rays=rays[:, index].reshape(-1, 2),
        focal=focal,
    )
    return adjust(problem, iterations=15), index


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


def solve_two_views(
    first: np.ndarray, second: np.ndarray, focal: float
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return the distinct motions that explain two views, best first.

    Each is ``T_second_first``, the depths in the first camera (their median is one) and the mask
    of the points it explains.
    """
    solutions = []
    for T in _hypotheses(first, second, focal):
        depth, good = _explain(T, first, second, focal)
        solutions.append((int(good.sum()), T, depth, good))
    enough = max(LEAST_POINTS, LEAST_SHARE * len(first))
    solutions.sort(key=lambda s: -s[0])
    if not solutions or solutions[0][0] < enough:
        return []
    refined = [_refine(s, first, second, focal) for s in solutions if s[0] > 0.6 * solutions[0][0]]
    refined.sort(key=lambda s: -s[0])
    distinct: list[np.ndarray] = []
    scaled = []
    for count, T, depth, good in refined:
        if count < enough or not all(_differ(T, other) for other in distinct):
            continue
        distinct.append(T)
        scale = 1.0 / float(np.median(depth[good]))
        T = T.copy()
        T[:3, 3] *= scale
        scaled.append((T, depth * scale, good))
    return scaled


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


def _explain(
    T: np.ndarray, first: np.ndarray, second: np.ndarray, focal: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return depths in the first camera and the mask of the points that the motion explains.

    Far points, whose depth may have the wrong sign, do not count.
    """
    depth = depth_along_first_ray(T, first, second)
    points = homogeneous(first) * depth[:, None]
    rays, depth_second = project(points @ T[:3, :3].T + T[:3, 3])
    error = np.linalg.norm(rays - second, axis=1) * focal
    at_infinity, _ = project(homogeneous(first) @ T[:3, :3].T)
    moved = np.linalg.norm(at_infinity - second, axis=1) * focal > 1.0
    return depth, (error < 2.0) & (depth > 0) & (depth_second > 0) & moved


def rotation_residual(first: np.ndarray, second: np.ndarray, R: np.ndarray) -> float:
    """Return the median distance of rays after a rotation."""
    return float(np.median(np.linalg.norm(project(homogeneous(first) @ R.T)[0] - second, axis=1)))


def least_rotation_residual(first: np.ndarray, second: np.ndarray) -> float:
    """Return the residual of the best rotation, for focal lengths wrong by up to a factor of two.

    In units of the given rays.
    """

    def residual(log_factor: float) -> float:
        factor = float(np.exp(log_factor))
        a, b = first / factor, second / factor
        return factor * rotation_residual(a, b, fit_rotation(a, b))

    grid = np.linspace(-np.log(2.0), np.log(2.0), 9)
    values = [residual(x) for x in grid]
    middle = int(np.argmin(values))
    low, high = grid[max(middle - 1, 0)], grid[min(middle + 1, len(grid) - 1)]
    found = minimize_scalar(residual, bounds=(low, high), method='bounded', options={'maxiter': 8})
    return min(min(values), float(found.fun))


_Solution = tuple[int, np.ndarray, np.ndarray, np.ndarray]


def _refine(solution: _Solution, first: np.ndarray, second: np.ndarray, focal: float) -> _Solution:
    """Adjust one two-view solution and count again the points that it explains."""
    _, T, depth, good = solution
    index = np.flatnonzero(good)
    count = len(index)
    problem = BundleProblem(
        T_camera_world=np.stack([T, np.eye(4)]),
        free_count=1,
        points=homogeneous(first[index]) * depth[index, None],
        camera=np.repeat([0, 1], count),
        point=np.tile(np.arange(count), 2),
        rays=np.concatenate([second[index], first[index]]),
        focal=focal,
    )
    refined = adjust(problem, iterations=10).T_camera_world[0].copy()
    refined[:3, 3] /= max(float(np.linalg.norm(refined[:3, 3])), 1e-12)
    depth, good = _explain(refined, first, second, focal)
    return int(good.sum()), refined, depth, good


def _differ(a: np.ndarray, b: np.ndarray) -> bool:
    angle = float(rotation_angle(a[:3, :3].T @ b[:3, :3]))
    return angle > np.deg2rad(1.0) or float(a[:3, 3] @ b[:3, 3]) < np.cos(np.deg2rad(20.0))
