"""Lines and ellipsoids of the scene, as arrays."""

from __future__ import annotations

import numpy as np

from ..core.geometry import make_T, quat_xyzw
from .view_data import ShownKeyframes

UNKNOWN_COLOR = (150, 150, 150)
_LINK_COLORS = np.array([[110, 120, 135], [90, 170, 255], [255, 90, 220]], np.uint8)
#: Ellipsoids hold 97 % of the positions.
_DEVIATIONS = 3.0


def confidence_colors(confidence: np.ndarray) -> np.ndarray:
    """Return (N, 3) uint8: red for none, yellow for half, green for the usual score or more.

    The usual score is the median of the (N,) scores. Unknown ones (NaN) are grey.
    """
    known = np.isfinite(confidence)
    usual = float(np.median(confidence[known])) if known.any() else 0.0
    level = np.clip(np.where(known, confidence, 0.0) / max(usual, 1e-12), 0.0, 1.0)
    colors = np.stack([2.0 - 2.0 * level, 2.0 * level, np.full_like(level, 0.15)], axis=1)
    colors = np.rint(255 * np.clip(colors, 0.0, 1.0)).astype(np.uint8)
    colors[~known] = UNKNOWN_COLOR
    return colors


def path_lines(centres: np.ndarray) -> np.ndarray:
    """Return the (M, 2, 3) lines along (N, 3) positions, with gaps where one is NaN."""
    lines = np.stack([centres[:-1], centres[1:]], axis=1)
    return lines[np.isfinite(lines).all(axis=(1, 2))]


def link_lines(keyframes: ShownKeyframes) -> tuple[np.ndarray, np.ndarray]:
    """Return the (E, 2, 3) lines of the edges and their (E, 2, 3) uint8 colours."""
    # Closed loops last, above the others.
    order = np.argsort(keyframes.kinds, kind='stable')
    colors = _LINK_COLORS[keyframes.kinds[order].astype(np.int64)]
    return keyframes.centres[keyframes.links[order]], np.repeat(colors[:, None], 2, axis=1)


def ellipsoids(
    keyframes: ShownKeyframes, largest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions (M, 3), rotations (M, 4) w x y z and half axes (M, 3) in the map.

    :param largest: half axes are drawn at most this long.
    """
    known = np.isfinite(keyframes.covariances).all(axis=(1, 2))
    T = keyframes.T_map_camera[known]
    variances, axes = np.linalg.eigh(keyframes.covariances[known])
    R = T[:, :3, :3] @ axes
    R[np.linalg.det(R) < 0, :, 0] *= -1.0
    half_axes = _DEVIATIONS * np.sqrt(np.maximum(variances, 0.0))
    wxyz = np.roll(quat_xyzw(make_T(R, T[:, :3, 3])), 1, axis=-1)
    return T[:, :3, 3], wxyz, np.clip(half_axes, 1e-4 * largest, largest)
