"""How sure a relative pose is, from the landmarks that both frames saw.

An edge's evidence is what its two frames have in common: how many landmarks, how they are spread
over the picture and in depth, how well they fit, and how well their depth is known. All of that
is in the covariance of the pose of one frame that the common landmarks alone would give. The
confidence is a saturating measure of the inverse standard deviation: ``log(1 + s0 / s)``, the
softplus of a logit, near zero for a pair that shares next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.geometry import inverse
from .landmarks import HeldFrame, Landmarks
from .pinhole import Pinhole
from .pnp import pose_jacobian

#: Standard deviations of a good edge: rotation in radians, translation over scene depth.
NOMINAL_ROTATION = 5e-4
NOMINAL_TRANSLATION = 8e-4
#: The confidence of an edge with those.
REFERENCE = float(np.log(2.0))
#: Fewer landmarks in common are no evidence.
LEAST_COMMON = 8
#: Followed corners are no better than this, whatever their residuals say, in pixels.
LEAST_NOISE_PX = 0.3


@dataclass(frozen=True)
class Certainty:
    """What a pair of frames supports.

    :ivar common: landmarks both saw.
    :ivar sigma_rotation: radians.
    :ivar sigma_translation: over the median depth of the common landmarks.
    """

    common: int
    sigma_rotation: float
    sigma_translation: float

    @property
    def confidence_rotation(self) -> float:
        """Return the confidence of the edge's rotation."""
        return rotation_confidence(self.sigma_rotation)

    @property
    def confidence_translation(self) -> float:
        """Return the confidence of the edge's translation."""
        return float(np.log1p(NOMINAL_TRANSLATION / self.sigma_translation))


def rotation_confidence(sigma_rad: float) -> float:
    """Return the confidence of a rotation with this standard deviation."""
    return float(np.log1p(NOMINAL_ROTATION / max(sigma_rad, 1e-9)))


class Evidence:
    """What one frame saw, laid out for comparing it with many others."""

    def __init__(self, frame: HeldFrame, landmarks: Landmarks, camera: Pinhole):
        use = frame.seen.alive(landmarks) & landmarks.solid[frame.seen.slots]
        self._slots = frame.seen.slots[use]
        self._landmarks = landmarks
        self._focal = camera.focal
        T = inverse(frame.T_world_camera)
        self._world = landmarks.position[self._slots]
        self._in_camera = self._world @ T[:3, :3].T + T[:3, 3]
        front = self._in_camera[:, 2] > 1e-6
        self._in_camera[~front] = (0.0, 0.0, 1.0)
        rays = self._in_camera[:, :2] / self._in_camera[:, 2:]
        residual = (rays - camera.rays(frame.seen.pixels[use])) * self._focal
        self._squared_px = np.where(front, (residual**2).sum(axis=1), 1e6)
        self._J = pose_jacobian(self._in_camera)
        self._R = T[:3, :3]
        self._place = np.full(len(landmarks.used), -1)
        self._place[self._slots] = np.arange(len(self._slots))

    def against(self, other: HeldFrame) -> Certainty | None:
        """Return what the landmarks in common with another frame support, None for too few."""
        index = self._place[other.seen.slots[other.seen.alive(self._landmarks)]]
        index = index[index >= 0]
        # A landmark that does not fit is no evidence for this pair.
        index = index[self._squared_px[index] < 9.0]
        if len(index) < LEAST_COMMON:
            return None
        noise_px = max(float(np.sqrt(0.5 * self._squared_px[index].mean())), LEAST_NOISE_PX)
        J = self._J[index]
        # A depth that is wrong by its relative sigma moves the landmark along the other frame's
        # ray, and its picture here by v: residuals along v say that much less.
        along = (self._world[index] - other.T_world_camera[:3, 3]) @ self._R.T
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
        return Certainty(
            len(index),
            float(np.sqrt(max(np.trace(covariance[3:, 3:]), 1e-18))),
            float(np.sqrt(max(np.trace(covariance[:3, :3]), 1e-18))),
        )
