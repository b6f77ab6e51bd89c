"""A camera as the networks encode it: nine numbers.

Translation (3), quaternion ``xyzw`` of any length and sign (4), field of view vertical and
horizontal in radians (2). Poses of R3 are world-to-camera, of Depth Anything 3 camera-to-world.
"""

from __future__ import annotations

import numpy as np

from .geometry import quat_xyzw


def encode_pose(T: np.ndarray, fov: np.ndarray) -> np.ndarray:
    """Return (..., 9) encodings of (..., 4, 4) motions and (..., 2) fields of view."""
    return np.concatenate([T[..., :3, 3], quat_xyzw(T), fov], axis=-1)
