"""Initialisation: the first poses and landmarks, from corners tracked since a reference image.

Two views determine the scene only under enough translation, and a small one looks like a
rotation. So a start is tried only once the best pure rotation leaves enough flow unexplained, and
one motion has to be clearly the best (`two_views.py`). Without a calibration this is done for
several focal lengths, each of which is then adjusted too: with a wrong one a wrong motion often
fits best.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize_scalar

from ..core.geometry import inverse
from .bundle import adjust, BundleProblem, BundleResult
from .features import find_corners, track_fast
from .focal import FocalEstimate
from .pinhole import homogeneous, parallax_cosine, Pinhole, project
from .pnp import refine_pose
from .two_views import (
    differ,
    direction_cosine,
    fit_rotation,
    least_errors,
    LEAST_POINTS,
    LEAST_SOLID_SHARE,
    MOST_PX,
    rotation_residuals,
    RUNNER_UP,
    solve_two_views,
    TwoViews,
)

#: A start needs this flow that no rotation explains, as a share of the width, of this share of the
#: corners. A camera at rest measures 0.0002; with less, the noise of the corners decides.
PARALLAX_GATE = 0.0045
MOVING_SHARE = 0.25
#: Share of the tracked corners that has to agree.
LEAST_SHARE = 0.6
#: With a known focal length, a start with a parallax of this many times its errors needs no second
#: image: a fast camera may not see the reference in one.
CLEAR_PARALLAX = 20.0
#: Least parallax of a triangulated landmark.
SOLID_PARALLAX_DEG = 0.6
#: Frames in the first adjustment.
MOST_FRAMES = 8
#: Focal lengths that are tried without a calibration, over the present one, and the growth of the
#: parallax after which they are tried again.
FOCAL_FACTORS = (1.0, 0.72, 1.4, 0.5, 2.0)
FOCAL_PATIENCE = 1.25
#: With different focal lengths, motions in directions as far apart contradict each other.
OTHER_DIRECTION_COS = np.cos(np.deg2rad(40.0))
#: Mean squared error that is noise: of solutions below, none is better.
NOISE_COST = 0.02


@dataclass(frozen=True)
class Start:
    """A successful start.

    :ivar frame_ids: frames with a pose, reference first, present frame last.
    :ivar T_camera_reference: (F, 4, 4).
    :ivar points: (N, 3) in the reference camera, for each corner still tracked.
    :ivar solid: (N,) whether the point is well triangulated; others are guesses.
    :ivar relative_sigma: (N,) of the depths.
    :ivar pixels: (F, N, 2) of the points in each frame.
    :ivar cost: as of :class:`TwoViews`, over all frames.
    :ivar holds: enough points are triangulated and fit.
    :ivar camera: that of the solution, with the focal length that was found.
    """

    frame_ids: list[int]
    T_camera_reference: np.ndarray
    points: np.ndarray
    solid: np.ndarray
    relative_sigma: np.ndarray
    pixels: np.ndarray
    cost: float
    holds: bool
    camera: Pinhole

    @property
    def moved(self) -> np.ndarray:
        """The (3,) position of the present camera in the reference camera."""
        return inverse(self.T_camera_reference[-1])[:3, 3]

    def repeats(self, before: Start) -> bool:
        """Return whether it moves the present camera of an earlier start as that did."""
        now = self.T_camera_reference[self.frame_ids.index(before.frame_ids[-1])]
        return not differ(before.T_camera_reference[-1], now)


class StartUp:
    """Tracks corners from a reference image until the scene can be initialised.

    :param focal: the estimate of a focal length that is not known.
    """

    def __init__(
        self, corner_count: int, corner_distance: float, focal: FocalEstimate | None = None
    ):
        self._focal = focal
        self._corner_count = corner_count
        self._corner_distance = corner_distance
        self.reference_id = -1
        self._frame_ids: list[int] = []
        self._pixels: list[np.ndarray] = []
        self._last_gray = np.empty((0, 0), np.uint8)
        self.corners = 0
        self.R_camera_reference = np.eye(3)
        self._turn = np.eye(3)
        self.rotation_error_px = 0.0
        self.parallax_px = 0.0
        # Of the next search for a focal length.
        self._next_parallax_px = 0.0
        self.tracked_share = 1.0
        # What the last image gave, if it was a start.
        self._unconfirmed: Start | None = None

    def set_reference(self, frame_id: int, gray: np.ndarray) -> None:
        """Restart with this image as the reference."""
        corners = find_corners(gray, self._corner_count, np.empty((0, 2)), self._corner_distance)
        self.reference_id = frame_id
        self._frame_ids = [frame_id]
        self._pixels = [corners]
        self._last_gray = gray
        self.corners = len(corners)
        self.R_camera_reference = np.eye(3)
        self._next_parallax_px = 0.0
        self.tracked_share = 1.0
        self._unconfirmed = None

    def add(self, frame_id: int, gray: np.ndarray, camera: Pinhole) -> bool:
        """Track the corners into the next image and estimate its rotation.

        :return: whether enough corners are left to keep the reference.
        """
        last = self._pixels[-1]
        pixels, ok = track_fast(self._last_gray, gray, last, self._expected(camera))
        if len(self._frame_ids) == 1:
            # Corners of noise are lost at once; they do not count.
            self.corners = int(ok.sum())
        if ok.sum() < max(LEAST_POINTS // 2, 0.3 * self.corners):
            self.tracked_share = float(ok.sum()) / max(self.corners, 1)
            return False
        self._pixels = [p[ok] for p in self._pixels] + [pixels[ok]]
        self._frame_ids.append(frame_id)
        self._last_gray = gray
        self.tracked_share = len(self._pixels[-1]) / max(self.corners, 1)
        first, now = camera.rays(self._pixels[0]), camera.rays(self._pixels[-1])
        R = fit_rotation(first, now)
        self._turn = R @ self.R_camera_reference.T
        self.R_camera_reference = R
        residuals = rotation_residuals(first, now, R) * camera.focal
        self.rotation_error_px = float(np.median(residuals))
        self.parallax_px = float(np.quantile(residuals, 1.0 - MOVING_SHARE))
        if self._guesses:
            # A wrong focal length may explain the flow left by a rotation.
            self.parallax_px = camera.focal * least_rotation_residual(first, now)
        # While nothing happens, memory stays bounded: every second inner frame is dropped.
        if len(self._frame_ids) > 4 * MOST_FRAMES:
            newest = len(self._frame_ids) - 1
            keep = [0, *range(1, newest - 1, 2), newest - 1, newest]
            self._frame_ids = [self._frame_ids[i] for i in keep]
            self._pixels = [self._pixels[i] for i in keep]
        return True

    @property
    def _guesses(self) -> bool:
        return self._focal is not None and not self._focal.settled

    def _expected(self, camera: Pinhole) -> np.ndarray:
        """Return where the corners will be if the camera turns on as in the last step."""
        rays, depth = project(homogeneous(camera.rays(self._pixels[-1])) @ self._turn.T)
        expected = camera.pixels(rays)
        usable = (depth > 0) & camera.inside(expected, -50.0)
        return np.where(usable[:, None], expected, self._pixels[-1])

    def try_start(self, camera: Pinhole) -> Start | None:
        """Return poses and points, if the frames since the reference have one solution.

        Unless it is clear, it has to be the second in a row with the same motion: a wrong one
        hardly ever repeats.
        """
        if self.parallax_px < max(PARALLAX_GATE * camera.width, self._next_parallax_px):
            self._unconfirmed = None
            return None
        factors: tuple[float, ...] = (1.0,)
        if self._guesses:
            factors, self._next_parallax_px = FOCAL_FACTORS, FOCAL_PATIENCE * self.parallax_px
        # Two views of a plane have two solutions; the frames between decide.
        starts = sorted(
            (s for factor in factors for s in self._solutions(camera, factor)),
            key=lambda s: s.cost,
        )
        if not starts or not starts[0].holds or self._is_doubtful(starts):
            self._unconfirmed = None
            return None
        if self._guesses:
            # Of focal lengths that fit as well, the guess is the most likely.
            fit = [s for s in starts if s.holds and s.cost < RUNNER_UP * _at_best(starts)]
            starts = sorted(fit, key=lambda s: abs(np.log(s.camera.focal / camera.focal)))
            self._next_parallax_px = 0.0  # the next image may confirm it
        before, self._unconfirmed = self._unconfirmed, self._with_all_frames(starts[0])
        believed = before is not None and self._unconfirmed.repeats(before)
        if not self._guesses:
            believed |= self.parallax_px >= CLEAR_PARALLAX * self._unconfirmed.cost**0.5
        return self._unconfirmed if believed else None

    def _is_doubtful(self, starts: list[Start]) -> bool:
        """Return whether another start fits nearly as well as the best one, the first."""
        best, others = starts[0], starts[1:]
        if not self._guesses:
            return bool(others) and others[0].cost < RUNNER_UP * best.cost
        # Another focal length with about the same motion is no contradiction.
        most = RUNNER_UP * _at_best(starts)
        return any(
            s.cost < most and direction_cosine(best.moved, s.moved) < OTHER_DIRECTION_COS
            for s in others
        )

    def _solutions(self, camera: Pinhole, focal_factor: float) -> list[Start]:
        """Return the motions that explain the flow, with a focal length near a given one."""
        tried = camera.with_focal_scaled(focal_factor)
        first, now = tried.rays(self._pixels[0]), tried.rays(self._pixels[-1])
        R = fit_rotation(first, now)
        prior = self._focal.prior(tried) if self._focal is not None and self._guesses else None
        solutions = solve_two_views(first, now, R, tried.focal)
        return [self._adjust(tried, solution, prior) for solution in solutions]

    def _with_all_frames(self, start: Start) -> Start:
        """Add the poses of the frames that were not adjusted, from the points alone."""
        T_of = dict(zip(start.frame_ids, start.T_camera_reference, strict=True))
        camera, points, T = start.camera, start.points[start.solid], np.eye(4)
        poses = []
        for frame_id, pixels in zip(self._frame_ids, self._pixels, strict=True):
            if frame_id in T_of:
                T = T_of[frame_id]
            else:
                T = refine_pose(T, points, camera.rays(pixels[start.solid]), camera.focal)
            poses.append(T)
        return replace(
            start,
            frame_ids=list(self._frame_ids),
            T_camera_reference=np.stack(poses),
            pixels=np.stack(self._pixels),
        )

    def _adjust(
        self, camera: Pinhole, solution: TwoViews, focal_prior: tuple[float, float] | None
    ) -> Start:
        """Adjust all frames since the reference together."""
        good = solution.good
        last = len(self._frame_ids) - 1
        chosen = np.unique(np.linspace(0, last, min(MOST_FRAMES, last + 1)).round().astype(int))
        rays = np.stack([camera.rays(self._pixels[i]) for i in chosen])
        points = homogeneous(rays[0]) * solution.depth[:, None]
        T = np.tile(np.eye(4), (len(chosen), 1, 1))
        T[-1] = solution.T_second_first
        for k in range(len(chosen) - 2, 0, -1):
            T[k] = refine_pose(T[k + 1], points[good], rays[k][good], camera.focal, iterations=20)
        result, index = _adjust_frames(T, points, rays, good, camera.focal, focal_prior)
        camera = camera.with_focal_scaled(result.focal_factor)
        rays /= result.focal_factor
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
        enough = max(LEAST_POINTS, LEAST_SOLID_SHARE * len(points))
        # A small parallax is one too: the others are not all at infinity.
        _, left = least_errors(T[-1], rays[0], rays[-1])
        costs = np.minimum(left * camera.focal, MOST_PX) ** 2
        costs[index] = (np.minimum(error, MOST_PX) ** 2).mean(axis=0)
        return Start(
            [self._frame_ids[i] for i in chosen],
            T,
            adjusted,
            solid,
            sigma,
            np.stack([self._pixels[i] for i in chosen]),
            float(costs.mean()),
            bool(solid.sum() >= enough and share >= LEAST_SHARE and np.median(error) <= 1.0),
            camera,
        )


def _at_best(starts: list[Start]) -> float:
    """Return the least cost, or that of noise."""
    return max(min(s.cost for s in starts), NOISE_COST)


def _adjust_frames(
    T: np.ndarray,
    points: np.ndarray,
    rays: np.ndarray,
    good: np.ndarray,
    focal: float,
    focal_prior: tuple[float, float] | None,
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
        focal_prior=focal_prior,
    )
    return adjust(problem, iterations=15), index


def least_rotation_residual(first: np.ndarray, second: np.ndarray) -> float:
    """Return the residual of the best rotation, for focal lengths wrong by up to a factor of two.

    In units of the given rays.
    """

    def residual(log_factor: float) -> float:
        factor = float(np.exp(log_factor))
        a, b = first / factor, second / factor
        left = rotation_residuals(a, b, fit_rotation(a, b))
        return factor * float(np.quantile(left, 1.0 - MOVING_SHARE))

    grid = np.linspace(-np.log(2.0), np.log(2.0), 9)
    values = [residual(x) for x in grid]
    middle = int(np.argmin(values))
    low, high = grid[max(middle - 1, 0)], grid[min(middle + 1, len(grid) - 1)]
    found = minimize_scalar(residual, bounds=(low, high), method='bounded', options={'maxiter': 8})
    return min(min(values), float(found.fun))
