"""The confidence of a relative pose, from the corners that both frames saw.

It is computed from the covariance of one frame's pose by the common landmarks alone: their number,
spread, residuals and depth uncertainty. The confidence of a standard deviation ``s`` is
``log(1 + s0 / s)``, the softplus of a logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

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
    return math.log1p(NOMINAL_ROTATION / max(sigma_rad, 1e-9))


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
        points = landmarks.position[slots] @ T[:3, :3].T + T[:3, 3]
        self._front = points[:, 2] > 1e-6
        points[~self._front] = (0.0, 0.0, 1.0)
        self._rays, self._depth = points[:, :2] / points[:, 2:], points[:, 2]
        self._residual = (self._rays - camera.rays(pixels)) * camera.focal
        self._squared_px = (self._residual**2).sum(axis=1)
        J = pose_jacobian(points) * camera.focal
        self._squares = _squares(J[:, 0].T, J[:, 1].T)
        sigma = np.minimum(landmarks.relative_sigma[slots], GUESSED_SIGMA)
        self._shift_px = sigma * camera.focal / self._depth
        solid = landmarks.solid[slots]
        # Candidates fit along their rays whatever the noise is.
        self._measures_noise = solid & (self._squared_px < INLIER_PX**2)
        self._weights = corner_weights(solid)
        self._row_of_slot = np.full(len(landmarks.used), -1)
        self._row_of_slot[slots] = np.arange(len(slots))

    @property
    def noise_px(self) -> float:
        """Root mean square residual of the frame's landmarks, of an axis of the image."""
        return float(self._noise_px(self._measures_noise[None])[0])

    def _noise_px(self, chosen: np.ndarray) -> np.ndarray:
        """Return the (C,) noise of the corners in each of (C, N) masks."""
        mean = chosen @ self._squared_px / np.maximum(chosen.sum(axis=1), 1)
        return np.maximum(LEAST_NOISE_PX, np.sqrt(0.5 * mean))

    def against(self, others: Sequence[HeldFrame]) -> list[Measured | None]:
        """Return what the corners in common with each frame tell; None for too few of them."""
        if not others or not len(self._depth):
            return [None] * len(others)
        common = self._in_common(others) & self._front
        # An error in depth moves the landmark along the other frame's ray: by v in the image.
        T = self._T_camera_world
        centres = np.array([other.T_world_camera[:3, 3] for other in others]) @ T[:3, :3].T
        cx, cy, cz = (centres + T[:3, 3]).T[:, :, None]
        v_u = (self._rays[:, 0] * cz - cx) * self._shift_px
        v_v = (self._rays[:, 1] * cz - cy) * self._shift_px
        # The residual has the information I - share v v^T, see `depth_errors`.
        share = 1.0 / (1.0 + v_u**2 + v_v**2)
        along = v_u * self._residual[:, 0] + v_v * self._residual[:, 1]
        # All corners take part in the sums, with weight zero where they are not common: faster
        # than to gather those that are.
        fits = common & (self._squared_px - share * along**2 < INLIER_PX**2)
        w = self._weights * fits / self._noise_px(common & self._measures_noise)[:, None] ** 2
        removed = w * share
        terms = np.concatenate(
            [w - removed * v_u**2, w - removed * v_v**2, -removed * v_u * v_v], axis=1
        )
        H = (terms @ self._squares).reshape(-1, 6, 6)
        counts = fits.sum(axis=1)
        enough = np.flatnonzero(counts >= LEAST_COMMON)
        depths = self._median_depths(fits[enough], counts[enough])
        found: list[Measured | None] = [None] * len(others)
        for i, measured in zip(enough, _measured(H[enough], depths), strict=True):
            found[i] = measured
        return found

    def _in_common(self, others: Sequence[HeldFrame]) -> np.ndarray:
        """Return the (C, N) mask of the frame's corners that each other frame saw."""
        slots = np.concatenate([other.seen.slots for other in others])
        generations = np.concatenate([other.seen.generations for other in others])
        rows = self._row_of_slot[slots]
        use = (rows >= 0) & (self._landmarks.generation[slots] == generations)
        common = np.zeros((len(others), len(self._depth)), bool)
        starts = np.arange(len(others)) * len(self._depth)
        rows += np.repeat(starts, [len(other.seen.slots) for other in others])
        common.reshape(-1)[rows[use]] = True
        return common

    def _median_depths(self, chosen: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Return the (C,) median depths of the corners in each of (C, N) masks, none empty."""
        order = np.argsort(self._depth)
        passed = np.cumsum(chosen[:, order], axis=1)
        middle = np.stack([(counts + 1) // 2, counts // 2 + 1])
        places = (passed >= middle[:, :, None]).argmax(axis=2)
        median: np.ndarray = self._depth[order][places].mean(axis=0)
        return median


def _squares(Ju: np.ndarray, Jv: np.ndarray) -> np.ndarray:
    """Return (3 N, 36): of each corner ``Ju Ju^T``, then ``Jv Jv^T``, then the mixed products.

    :param Ju: (6, N) derivatives of a residual's first component, ``Jv`` of its second.
    """
    mixed = Ju[:, None] * Jv
    products = [Ju[:, None] * Ju, Jv[:, None] * Jv, mixed + mixed.swapaxes(0, 1)]
    return np.concatenate(products, axis=2).reshape(36, -1).T


def _measured(H: np.ndarray, depths: np.ndarray) -> list[Measured]:
    """Return what the (C, 6, 6) information of poses tells, of corners at (C,) median depths."""
    scale = np.repeat([depths, np.ones(len(depths))], 3, axis=0).T
    H = H * scale[:, :, None] * scale[:, None]
    H[:, range(6), range(6)] += 1e-6
    variances = np.linalg.inv(H).diagonal(axis1=1, axis2=2).reshape(-1, 2, 3).sum(axis=2)
    sigmas = np.sqrt(np.maximum(variances, 1e-18)).tolist()
    found = []
    # Translations are relative to the depth.
    for (translation, rotation), depth in zip(sigmas, depths.tolist(), strict=True):
        confidence = math.log1p(NOMINAL_TRANSLATION / translation)
        of_axis = translation * depth / math.sqrt(3.0), rotation / math.sqrt(3.0)
        found.append(Measured((confidence, rotation_confidence(rotation)), of_axis))
    return found
