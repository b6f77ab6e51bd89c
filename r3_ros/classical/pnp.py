"""The pose of one frame from landmarks: a robust initial pose, and its refinement."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from ..core.geometry import make_T
from .features import coverage

#: Residual at which Huber's loss becomes linear, in pixels: twice the noise of tracked corners.
HUBER_PX = 1.2
#: A refinement ends at a smaller step, in radians: a thousandth of a pixel.
LEAST_STEP = 1e-6
#: Largest reprojection error of an inlier, in pixels.
INLIER_PX = 3.0
#: A pose needs at least this many inliers, ...
LEAST_INLIERS = 20
#: ... in this share of the image's cells.
LEAST_COVERAGE = 0.08


def exp_se3(xi: np.ndarray) -> np.ndarray:
    """Return (..., 4, 4) small motions of (..., 6) vectors: translation, then rotation.

    Unlike in the exponential map the rotation does not change the translation, which makes no
    difference for an update.
    """
    flat = xi.reshape(-1, 6)
    R = Rotation.from_rotvec(flat[:, 3:]).as_matrix()
    return make_T(R, flat[:, :3]).reshape(*xi.shape[:-1], 4, 4)


def pose_jacobian(points: np.ndarray) -> np.ndarray:
    """Return (N, 2, 6) derivatives of the rays of camera-frame points (N, 3).

    With respect to ``xi`` in ``exp_se3(xi) @ T_camera_world``.
    """
    x, y = points[:, 0], points[:, 1]
    z_inv = 1.0 / points[:, 2]
    u, v = x * z_inv, y * z_inv
    # Stored component by component: NumPy is several times as fast along long rows.
    J = np.empty((2, 6, len(points))).transpose(2, 0, 1)
    J[:, 0, 0], J[:, 0, 1], J[:, 0, 2] = z_inv, 0.0, -u * z_inv
    J[:, 0, 3], J[:, 0, 4], J[:, 0, 5] = -u * v, 1.0 + u * u, -v
    J[:, 1, 0], J[:, 1, 1], J[:, 1, 2] = 0.0, z_inv, -v * z_inv
    J[:, 1, 3], J[:, 1, 4], J[:, 1, 5] = -1.0 - v * v, u * v, u
    return J


@dataclass(frozen=True)
class ExpectedCentre:
    """Where the camera is expected: (3,) in the world, with a standard deviation of an axis."""

    centre: np.ndarray
    sigma: float


def refine_pose(
    T_camera_world: np.ndarray,
    landmarks: np.ndarray,
    rays: np.ndarray,
    focal: float,
    depth_steps: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    expected: ExpectedCentre | None = None,
    iterations: int = 8,
) -> np.ndarray:
    """Return ``T_camera_world`` after Gauss-Newton with Huber's loss on rays.

    :param landmarks: (N, 3) in the world.
    :param depth_steps: (N, 3) standard deviations of the landmarks along the rays of their first
        observation, in the world; None: exact.
    :param weights: (N,), None for 1 each.
    :param expected: decides what the landmarks leave open, as corners of guessed depth do.
    """
    T = T_camera_world.copy()
    for _ in range(iterations):
        R = T[:3, :3]
        points = R @ landmarks.T + T[:3, 3:]
        front = points[2] > 1e-6
        points = np.where(front, points, [[0.0], [0.0], [1.0]])
        residual = (points[:2] / points[2] - rays.T) * focal
        Ju, Jv = pose_jacobian(points.T).transpose(1, 2, 0) * focal
        squared_px = residual[0] ** 2 + residual[1] ** 2
        if depth_steps is not None:
            v, share = depth_errors(points, R @ depth_steps.T, focal)
            along = v[0] * residual[0] + v[1] * residual[1]
            squared_px -= share * along**2
        error_px = np.sqrt(np.maximum(squared_px, 1e-24))
        # Huber's loss alone would give far outliers influence.
        w = np.minimum(1.0, HUBER_PX / error_px) * front * (error_px < 3.0 * INLIER_PX)
        if weights is not None:
            w *= weights
        H = (Ju * w) @ Ju.T + (Jv * w) @ Jv.T
        g = Ju @ (w * residual[0]) + Jv @ (w * residual[1])
        if depth_steps is not None:
            J_along, taken = v[0] * Ju + v[1] * Jv, w * share
            H -= (J_along * taken) @ J_along.T
            g -= J_along @ (taken * along)
        if expected is not None:
            information = expected.sigma**-2
            H[np.diag_indices(3)] += information
            g[:3] += information * (R @ expected.centre + T[:3, 3])
        H[np.diag_indices(6)] += 1e-9 * np.trace(H) + 1e-12
        step = -np.linalg.solve(H, g)
        T = exp_se3(step) @ T
        if np.abs(step).max() < LEAST_STEP:
            break
    return T


def depth_errors(
    points: np.ndarray, depth_steps: np.ndarray, focal: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return how unknown depth shows in the image.

    With noise of a pixel, and a landmark known to a standard deviation along one ray, its residual
    has the covariance ``I + v v^T``, v the projection of that deviation, and so the information
    ``I - share v v^T``.

    :param points: (3, N) landmarks in the camera frame, before the camera.
    :param depth_steps: (3, N) the standard deviations, as vectors in the camera's axes.
    :return: v (2, N) in pixels, and the (N,) shares.
    """
    v = (depth_steps[:2] - points[:2] / points[2] * depth_steps[2]) * (focal / points[2])
    return v, 1.0 / (1.0 + v[0] ** 2 + v[1] ** 2)


def reprojection_px(
    T_camera_world: np.ndarray,
    landmarks: np.ndarray,
    rays: np.ndarray,
    focal: float,
    depth_steps: np.ndarray | None = None,
) -> np.ndarray:
    """Return the (N,) reprojection errors in pixels, infinite behind the camera.

    :param depth_steps: as in :func:`refine_pose`; errors that they explain count less.
    """
    R = T_camera_world[:3, :3]
    points = R @ landmarks.T + T_camera_world[:3, 3:]
    front = points[2] > 1e-6
    points = np.where(front, points, [[0.0], [0.0], [1.0]])
    residual = (points[:2] / points[2] - rays.T) * focal
    squared_px = residual[0] ** 2 + residual[1] ** 2
    if depth_steps is not None:
        v, share = depth_errors(points, R @ depth_steps.T, focal)
        squared_px -= share * (v[0] * residual[0] + v[1] * residual[1]) ** 2
    return np.where(front, np.sqrt(np.maximum(squared_px, 0.0)), np.inf)


def makes_pose(pixels: np.ndarray, width: int, height: int) -> bool:
    """Return whether (N, 2) pixels that agree with a pose are enough of them, and spread enough.

    The one rule of tracking and relocalisation.
    """
    return len(pixels) >= LEAST_INLIERS and coverage(pixels, width, height) >= LEAST_COVERAGE


def ransac_pose(
    landmarks: np.ndarray, rays: np.ndarray, focal: float, iterations: int = 100
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return ``T_camera_world`` and the inlier mask by AP3P in RANSAC, or None.

    OpenCV seeds its generator in every call: the same input gives the same pose.
    """
    if len(landmarks) < 6:
        return None
    ok, rotation, translation, inliers = cv2.solvePnPRansac(
        np.ascontiguousarray(landmarks),
        np.ascontiguousarray(rays),
        np.eye(3),
        None,
        iterationsCount=iterations,
        reprojectionError=INLIER_PX / focal,
        confidence=0.999,
        flags=cv2.SOLVEPNP_AP3P,
    )
    if not ok or inliers is None or len(inliers) < 6:
        return None
    mask = np.zeros(len(landmarks), bool)
    mask[np.asarray(inliers).ravel()] = True
    R = cv2.Rodrigues(rotation)[0]
    if not (np.isfinite(R).all() and np.isfinite(translation).all()):
        return None
    return make_T(R, translation.ravel()), mask
