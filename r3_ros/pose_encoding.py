"""The nine numbers in which the networks of the family write a camera.

Translation (3), quaternion ``xyzw`` of any length and sign (4), field of view vertical and
horizontal in radians (2). Which way the pose goes is said where an encoding is used: R3's are
world-to-camera, those of plain Depth Anything 3 camera-to-world.
"""

from __future__ import annotations

import numpy as np

from .geometry import quat_xyzw


def encode_pose(T: np.ndarray, fov: np.ndarray) -> np.ndarray:
    """Return (..., 9) encodings of (..., 4, 4) motions and (..., 2) fields of view."""
    return np.concatenate([T[..., :3, 3], quat_xyzw(T), fov], axis=-1)
