"""The confidence of a relative pose, from the landmarks that both frames saw.

It is computed from the covariance of one frame's pose by the common landmarks alone: their number,
spread, residuals and depth uncertainty. The confidence of a standard deviation ``s`` is
``log(1 + s0 / s)``, the softplus of a logit.
"""

from __future__ import annotations

import numpy as np

from ..core.geometry import inverse
from .landmarks import HeldFrame, SparseMap
from .pnp import pose_jacobian

#: Standard deviations of a good edge: rotation in radians, translation over scene depth.
NOMINAL_ROTATION = 5e-4
NOMINAL_TRANSLATION = 8e-4
#: The confidence of such an edge.
REFERENCE = float(np.log(2.0))
#: Least common landmarks of an edge.
LEAST_COMMON = 8
#: Least noise of tracked corners, in pixels.
LEAST_NOISE_PX = 0.3


def rotation_confidence(sigma_rad: float) -> float:
    """Return the confidence of a rotation with this standard deviation."""
    return float(np.log1p(NOMINAL_ROTATION / max(sigma_rad, 1e-9)))


class Evidence:
    """The solid landmarks that one frame saw, for comparing it with many others."""

    def __init__(self, frame: HeldFrame, sparse_map: SparseMap):
        landmarks, camera = sparse_map.landmarks, sparse_map.camera
        self._slots, pixels = frame.seen.solid(landmarks)
        self._landmarks = landmarks
        self._focal = camera.focal
        T = inverse(frame.T_world_camera)
        self._points = landmarks.position[self._slots]
        self._in_camera = self._points @ T[:3, :3].T + T[:3, 3]
        front = self._in_camera[:, 2] > 1e-6
        self._in_camera[~front] = (0.0, 0.0, 1.0)
        rays = self._in_camera[:, :2] / self._in_camera[:, 2:]
        residual = (rays - camera.rays(pixels)) * self._focal
        self._squared_px = np.where(front, (residual**2).sum(axis=1), 1e6)
        self._J = pose_jacobian(self._in_camera)
        self._R = T[:3, :3]
        self._row_of_slot = np.full(len(landmarks.used), -1)
        self._row_of_slot[self._slots] = np.arange(len(self._slots))

    def against(self, other: HeldFrame) -> tuple[float, float] | None:
        """Return the confidences of translation and rotation to another frame.

        None for too few common landmarks.
        """
        index = self._row_of_slot[other.seen.slots[other.seen.alive(self._landmarks)]]
        index = index[index >= 0]
        index = index[self._squared_px[index] < 9.0]
        if len(index) < LEAST_COMMON:
            return None
        noise_px = max(float(np.sqrt(0.5 * self._squared_px[index].mean())), LEAST_NOISE_PX)
        J = self._J[index]
        # A depth error of its relative sigma moves the landmark along the other frame's ray, and
        # its projection here by v: residuals along v count accordingly less.
        along = (self._points[index] - other.T_world_camera[:3, 3]) @ self._R.T
        sigma = np.minimum(self._landmarks.relative_sigma[self._slots[index]], 1.0)
        v = np.einsum('nij,nj->ni', J[:, :, :3], along) * (sigma * self._focal)[:, None]
        H = np.einsum('nki,nkj->ij', J, J)
        projected = np.einsum('nki,nk->ni', J, v / np.sqrt(1.0 + (v * v).sum(axis=1))[:, None])
        H = (H - projected.T @ projected) * (self._focal / noise_px) ** 2
        depth = float(np.median(self._in_camera[index, 2]))
        scale = np.array([depth] * 3 + [1.0] * 3)
        H = H * scale[:, None] * scale
        H[np.diag_indices(6)] += 1e-6
        covariance = np.linalg.inv(H)
        sigma_rotation = float(np.sqrt(max(np.trace(covariance[3:, 3:]), 1e-18)))
        # Relative to the median depth of the common landmarks.
        sigma_translation = float(np.sqrt(max(np.trace(covariance[:3, :3]), 1e-18)))
        confidence = float(np.log1p(NOMINAL_TRANSLATION / sigma_translation))
        return confidence, rotation_confidence(sigma_rotation)
