"""The confidence of a relative pose, from the corners that both frames saw.

It is computed from the covariance of one frame's pose by the common landmarks alone: their number,
spread, residuals and depth uncertainty. The confidence of a standard deviation ``s`` is
``log(1 + s0 / s)``, the softplus of a logit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.geometry import inverse
from .landmarks import corner_weights, GUESSED_SIGMA, HeldFrame, SparseMap
from .pnp import INLIER_PX, pose_jacobian

#: Standard deviations of a good edge: rotation in radians, translation over scene depth.
NOMINAL_ROTATION = 5e-4
NOMINAL_TRANSLATION = 8e-4
#: The confidence of such an edge.
REFERENCE = float(np.log(2.0))
#: Least common corners of an edge.
LEAST_COMMON = 8
#: Least noise of tracked corners, in pixels, and that of good images.
LEAST_NOISE_PX = 0.3
USUAL_NOISE_PX = 0.4
#: Share of a frame in the running level of the residuals.
_NOISE_GAIN = 0.05


def rotation_confidence(sigma_rad: float) -> float:
    """Return the confidence of a rotation with this standard deviation."""
    return float(np.log1p(NOMINAL_ROTATION / max(sigma_rad, 1e-9)))


@dataclass(frozen=True)
class Measured:
    """What the common corners tell of a relative pose.

    :ivar confidences: of translation and rotation.
    :ivar sigmas: standard deviations of an axis of the translation, in the map's unit, and of the
        rotation in radians.
    """

    confidences: tuple[float, float]
    sigmas: tuple[float, float]


class NoiseLevel:
    """The level of the residuals, over that of good images, as a running mean of logarithms.

    Wrong calibration, rolling shutter, blur and moving things make residuals larger; they make the
    errors of poses larger still, and alike for many frames.
    """

    def __init__(self) -> None:
        self._frames, self._mean = 0, 0.0

    @property
    def value(self) -> float:
        return float(np.exp(self._mean))

    def follow(self, noise_px: float) -> None:
        """Take in the residuals of a frame."""
        self._frames += 1
        gain = max(_NOISE_GAIN, 1.0 / self._frames)
        self._mean += gain * (np.log(noise_px / USUAL_NOISE_PX) - self._mean)


class Evidence:
    """The corners that one frame saw, for comparing it with many others."""

    def __init__(self, frame: HeldFrame, sparse_map: SparseMap):
        landmarks, camera = sparse_map.landmarks, sparse_map.camera
        alive = frame.seen.alive(landmarks)
        slots, pixels = frame.seen.slots[alive], frame.seen.pixels[alive]
        self._landmarks = landmarks
        self._T_camera_world = T = inverse(frame.T_world_camera)
        self._points = landmarks.position[slots] @ T[:3, :3].T + T[:3, 3]
        self._front = self._points[:, 2] > 1e-6
        self._points[~self._front] = (0.0, 0.0, 1.0)
        rays = self._points[:, :2] / self._points[:, 2:]
        self._residual = (rays - camera.rays(pixels)) * camera.focal
        self._squared_px = (self._residual**2).sum(axis=1)
        self._J = pose_jacobian(self._points) * camera.focal
        self._sigma = np.minimum(landmarks.relative_sigma[slots], GUESSED_SIGMA)
        solid = landmarks.solid[slots]
        # Candidates fit along their rays whatever the noise is.
        self._measures_noise = solid & (self._squared_px < INLIER_PX**2)
        self._weights = corner_weights(solid)
        self._row_of_slot = np.full(len(landmarks.used), -1)
        self._row_of_slot[slots] = np.arange(len(slots))

    @property
    def noise_px(self) -> float:
        """Root mean square residual of the frame's landmarks, of an axis of the image."""
        return self._noise_px(self._measures_noise)

    def _noise_px(self, chosen: np.ndarray) -> float:
        squared_px = self._squared_px[chosen]
        if not len(squared_px):
            return LEAST_NOISE_PX
        return max(LEAST_NOISE_PX, float(np.sqrt(0.5 * squared_px.mean())))

    def against(self, other: HeldFrame) -> Measured | None:
        """Return what the corners in common with another frame tell; None for too few of them."""
        rows = self._row_of_slot[other.seen.slots[other.seen.alive(self._landmarks)]]
        # All corners take part in the sums, with weight zero where they are not common: faster
        # than to gather those that are.
        common = np.zeros(len(self._front), bool)
        common[rows[rows >= 0]] = True
        common &= self._front
        # An error in depth moves the landmark along the other frame's ray.
        T = self._T_camera_world
        centre = T[:3, :3] @ other.T_world_camera[:3, 3] + T[:3, 3]
        steps = ((self._points - centre) * self._sigma[:, None])[:, None]
        J, residual = self._J, self._residual
        v = J[:, :, 0] * steps[:, :, 0] + J[:, :, 1] * steps[:, :, 1] + J[:, :, 2] * steps[:, :, 2]
        # A residual of covariance I + v v^T has the information I - share v v^T, see `discounted`.
        share = 1.0 / (1.0 + v[:, 0] ** 2 + v[:, 1] ** 2)
        along = v[:, 0] * residual[:, 0] + v[:, 1] * residual[:, 1]
        fits = common & (self._squared_px - share * along**2 < INLIER_PX**2)
        if np.count_nonzero(fits) < LEAST_COMMON:
            return None
        w = self._weights * fits / self._noise_px(common & self._measures_noise) ** 2
        Ju, Jv = J[:, 0].T, J[:, 1].T
        J_along = v[:, 0] * Ju + v[:, 1] * Jv
        H = (Ju * w) @ Ju.T + (Jv * w) @ Jv.T - (J_along * (w * share)) @ J_along.T
        return _measured(H, float(np.median(self._points[fits, 2])))


def _measured(H: np.ndarray, depth: float) -> Measured:
    """Return what the (6, 6) information of a pose tells, of corners at a median depth."""
    scale = np.array([depth] * 3 + [1.0] * 3)
    H = H * scale[:, None] * scale
    H[np.diag_indices(6)] += 1e-6
    covariance = np.linalg.inv(H)
    sigma_rotation = float(np.sqrt(max(np.trace(covariance[3:, 3:]), 1e-18)))
    # Relative to the depth.
    sigma_translation = float(np.sqrt(max(np.trace(covariance[:3, :3]), 1e-18)))
    confidence = float(np.log1p(NOMINAL_TRANSLATION / sigma_translation))
    of_axis = np.array([sigma_translation * depth, sigma_rotation]) / np.sqrt(3.0)
    return Measured((confidence, rotation_confidence(sigma_rotation)), (of_axis[0], of_axis[1]))
