"""The confidence of a relative pose, from the corners that both frames saw.

It is computed from the covariance of one frame's pose by the common landmarks alone: their number,
spread, residuals and depth uncertainty. The confidence of a standard deviation ``s`` is
``log(1 + s0 / s)``, the softplus of a logit.
"""

from __future__ import annotations

import numpy as np

from ..core.geometry import inverse
from .landmarks import corner_weights, GUESSED_SIGMA, HeldFrame, SparseMap
from .pnp import discounted, INLIER_PX, pose_jacobian

#: Standard deviations of a good edge: rotation in radians, translation over scene depth.
NOMINAL_ROTATION = 5e-4
NOMINAL_TRANSLATION = 8e-4
#: The confidence of such an edge.
REFERENCE = float(np.log(2.0))
#: Least common corners of an edge.
LEAST_COMMON = 8
#: Least noise of tracked corners, in pixels.
LEAST_NOISE_PX = 0.3


def rotation_confidence(sigma_rad: float) -> float:
    """Return the confidence of a rotation with this standard deviation."""
    return float(np.log1p(NOMINAL_ROTATION / max(sigma_rad, 1e-9)))


class Evidence:
    """The corners that one frame saw, for comparing it with many others."""

    def __init__(self, frame: HeldFrame, sparse_map: SparseMap):
        landmarks, camera = sparse_map.landmarks, sparse_map.camera
        alive = frame.seen.alive(landmarks)
        self._slots, pixels = frame.seen.slots[alive], frame.seen.pixels[alive]
        self._landmarks = landmarks
        T = inverse(frame.T_world_camera)
        self._points = landmarks.position[self._slots]
        in_camera = self._points @ T[:3, :3].T + T[:3, 3]
        self._front = in_camera[:, 2] > 1e-6
        in_camera[~self._front] = (0.0, 0.0, 1.0)
        self._depth = in_camera[:, 2]
        rays = in_camera[:, :2] / in_camera[:, 2:]
        self._residual = (rays - camera.rays(pixels)) * camera.focal
        self._J = pose_jacobian(in_camera) * camera.focal
        self._R = T[:3, :3]
        self._sigma = np.minimum(landmarks.relative_sigma[self._slots], GUESSED_SIGMA)
        self._solid = landmarks.solid[self._slots]
        self._roots = np.sqrt(corner_weights(self._solid))
        self._row_of_slot = np.full(len(landmarks.used), -1)
        self._row_of_slot[self._slots] = np.arange(len(self._slots))

    def against(self, other: HeldFrame) -> tuple[float, float] | None:
        """Return the confidences of translation and rotation to another frame.

        None for too few common corners.
        """
        index = self._row_of_slot[other.seen.slots[other.seen.alive(self._landmarks)]]
        index = index[index >= 0]
        index = index[self._front[index]]
        # An error in depth moves the landmark along the other frame's ray.
        ray = (self._points[index] - other.T_world_camera[:3, 3]) @ self._R.T
        residual, J = discounted(
            self._residual[index], self._J[index], ray * self._sigma[index, None]
        )
        fits = (residual**2).sum(axis=1) < INLIER_PX**2
        if fits.sum() < LEAST_COMMON:
            return None
        # Candidates fit along their rays whatever the noise is.
        squared_px = (self._residual[index] ** 2).sum(axis=1)
        squared_px = squared_px[self._solid[index] & (squared_px < INLIER_PX**2)]
        noise_px = LEAST_NOISE_PX
        if len(squared_px):
            noise_px = max(noise_px, float(np.sqrt(0.5 * squared_px.mean())))
        J = (J * self._roots[index, None, None])[fits].reshape(-1, 6) / noise_px
        depth = float(np.median(self._depth[index[fits]]))
        H = J.T @ J
        scale = np.array([depth] * 3 + [1.0] * 3)
        H = H * scale[:, None] * scale
        H[np.diag_indices(6)] += 1e-6
        covariance = np.linalg.inv(H)
        sigma_rotation = float(np.sqrt(max(np.trace(covariance[3:, 3:]), 1e-18)))
        # Relative to the median depth of the common corners.
        sigma_translation = float(np.sqrt(max(np.trace(covariance[:3, :3]), 1e-18)))
        confidence = float(np.log1p(NOMINAL_TRANSLATION / sigma_translation))
        return confidence, rotation_confidence(sigma_rotation)
