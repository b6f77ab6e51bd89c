"""The pose of one frame from landmarks: a robust initial pose, and its refinement."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from ..core.geometry import make_T
from .features import coverage
from .pinhole import project

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
        points = landmarks @ T[:3, :3].T + T[:3, 3]
        front = points[:, 2] > 1e-6
        points = np.where(front[:, None], points, (0.0, 0.0, 1.0))
        residual = (points[:, :2] / points[:, 2:] - rays) * focal
        J = pose_jacobian(points) * focal
        if depth_steps is not None:
            residual, J = discounted(residual, J, depth_steps @ T[:3, :3].T)
        error_px = np.linalg.norm(residual, axis=1)
        robust = np.minimum(1.0, HUBER_PX / np.maximum(error_px, 1e-12))
        # Huber's loss alone would give far outliers influence.
        w = robust * front * (error_px < 3.0 * INLIER_PX)
        if weights is not None:
            w *= weights
        Ju, Jv = J[:, 0], J[:, 1]
        H = (Ju.T * w) @ Ju + (Jv.T * w) @ Jv
        g = Ju.T @ (w * residual[:, 0]) + Jv.T @ (w * residual[:, 1])
        if expected is not None:
            information = expected.sigma**-2
            H[np.diag_indices(3)] += information
            g[:3] += information * (T[:3, :3] @ expected.centre + T[:3, 3])
        H[np.diag_indices(6)] += 1e-9 * np.trace(H) + 1e-12
        step = -np.linalg.solve(H, g)
        T = exp_se3(step) @ T
        if np.abs(step).max() < LEAST_STEP:
            break
    return T


def discounted(
    residual: np.ndarray, J: np.ndarray, depth_steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return residuals and derivatives, scaled down along the error that unknown depth causes.

    With noise of a pixel, and a landmark known to a standard deviation along one ray, the
    residual has the covariance ``I + v v^T``, v the projection of that deviation: this multiplies
    both by the root of its inverse.

    :param residual: (N, 2) pixels; ``J``: (N, 2, 6) of :func:`pose_jacobian`, in pixels.
    :param depth_steps: (N, 3) the standard deviations, as vectors in the camera's axes.
    """
    # Sums over two or three terms are written out: several times as fast as einsum.
    steps = depth_steps[:, None]
    v = J[:, :, 0] * steps[:, :, 0] + J[:, :, 1] * steps[:, :, 1] + J[:, :, 2] * steps[:, :, 2]
    square = np.maximum(v[:, 0] ** 2 + v[:, 1] ** 2, 1e-12)
    removed = v * ((1.0 - 1.0 / np.sqrt(1.0 + square)) / square)[:, None]
    along = v[:, 0] * residual[:, 0] + v[:, 1] * residual[:, 1]
    J_along = v[:, :1] * J[:, 0] + v[:, 1:] * J[:, 1]
    return residual - removed * along[:, None], J - removed[:, :, None] * J_along[:, None]


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
    points = landmarks @ T_camera_world[:3, :3].T + T_camera_world[:3, 3]
    predicted, depth = project(points)
    residual = (predicted - rays) * focal
    front = depth > 1e-6
    if depth_steps is not None:
        J = pose_jacobian(np.where(front[:, None], points, (0.0, 0.0, 1.0))) * focal
        residual, _ = discounted(residual, J, depth_steps @ T_camera_world[:3, :3].T)
    return np.where(front, np.linalg.norm(residual, axis=1), np.inf)


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
