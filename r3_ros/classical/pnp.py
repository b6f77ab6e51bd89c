"""The pose of one frame from landmarks: a robust initial pose, and its refinement."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from ..core.geometry import make_T
from .pinhole import project

#: Residual at which Huber's loss becomes linear, in pixels: twice the noise of tracked corners.
HUBER_PX = 1.2
#: Largest reprojection error of an inlier, in pixels.
INLIER_PX = 3.0


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
    J = np.empty((len(points), 2, 6))
    J[:, 0, 0], J[:, 0, 1], J[:, 0, 2] = z_inv, 0.0, -u * z_inv
    J[:, 0, 3], J[:, 0, 4], J[:, 0, 5] = -u * v, 1.0 + u * u, -v
    J[:, 1, 0], J[:, 1, 1], J[:, 1, 2] = 0.0, z_inv, -v * z_inv
    J[:, 1, 3], J[:, 1, 4], J[:, 1, 5] = -1.0 - v * v, u * v, u
    return J


def refine_pose(
    T_camera_world: np.ndarray,
    landmarks: np.ndarray,
    rays: np.ndarray,
    weights: np.ndarray,
    focal: float,
    iterations: int = 8,
) -> np.ndarray:
    """Return ``T_camera_world`` after Gauss-Newton with Huber's loss on rays.

    :param landmarks: (N, 3) in the world.
    :param weights: (N,), 1 for a good landmark.
    """
    T = T_camera_world.copy()
    for _ in range(iterations):
        points = landmarks @ T[:3, :3].T + T[:3, 3]
        front = points[:, 2] > 1e-6
        predicted, _ = project(points)
        residual = predicted - rays
        error_px = np.linalg.norm(residual, axis=1) * focal
        robust = np.minimum(1.0, HUBER_PX / np.maximum(error_px, 1e-12))
        # Huber's loss alone would give far outliers influence.
        w = weights * robust * front * (error_px < 3.0 * INLIER_PX)
        points = np.where(front[:, None], points, (0.0, 0.0, 1.0))
        J = pose_jacobian(points)
        Jw = (J * w[:, None, None]).reshape(-1, 6)
        H = Jw.T @ J.reshape(-1, 6)
        g = Jw.T @ residual.reshape(-1)
        H[np.diag_indices(6)] += 1e-9 * np.trace(H) + 1e-12
        step = -np.linalg.solve(H, g)
        T = exp_se3(step) @ T
        if np.abs(step).max() < 1e-7:
            break
    return T


def reprojection_px(
    T_camera_world: np.ndarray, landmarks: np.ndarray, rays: np.ndarray, focal: float
) -> np.ndarray:
    """Return the (N,) reprojection errors in pixels, infinite behind the camera."""
    predicted, depth = project(landmarks @ T_camera_world[:3, :3].T + T_camera_world[:3, 3])
    error = np.linalg.norm(predicted - rays, axis=1) * focal
    return np.where(depth > 1e-6, error, np.inf)


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
