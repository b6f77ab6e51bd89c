"""Known cameras as input of plain Depth Anything 3.

A camera is an encoding (:mod:`~r3_ros.core.pose_encoding`) of its camera-to-world pose, relative
to the first camera and in a unit that the predicted depth then shares.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.datatypes import Intrinsics
from ..core.errors import TransformError
from ..core.geometry import inverse
from ..core.pose_encoding import encode_pose
from ..input.network_input import fov_of

#: A smaller unit would amplify the noise of static cameras.
_MIN_UNIT = 0.1


def encode_cameras(
    T_world_camera: np.ndarray, intrinsics: Sequence[Intrinsics]
) -> tuple[np.ndarray, float]:
    """Return encodings of known cameras for ``DA3Network``, and their unit.

    :param T_world_camera: (S, 4, 4) poses in any world and unit.
    :param intrinsics: of the network's input, one per pose.
    :returns: (S, 9) float32 encodings relative to the first camera, and their unit: the (lower)
        median distance of all cameras from the first, at least 0.1. Predicted depth times that
        length is in the unit of the poses.
    :raises TransformError: the poses are not finite, or as many as the intrinsics.
    """
    T_world_camera = np.asarray(T_world_camera, dtype=np.float64)
    shape = T_world_camera.shape
    if shape != (len(intrinsics), 4, 4) or not shape[0] or not np.isfinite(T_world_camera).all():
        raise TransformError(
            f'known cameras must be finite poses (S, 4, 4) with intrinsics each, got poses '
            f'{shape} and {len(intrinsics)} intrinsics'
        )
    T_first_camera = inverse(T_world_camera[0]) @ T_world_camera
    distances = np.sort(np.linalg.norm(T_first_camera[:, :3, 3], axis=1))
    unit = max(float(distances[(len(distances) - 1) // 2]), _MIN_UNIT)
    T_first_camera[:, :3, 3] /= unit
    fov = np.array([fov_of(K) for K in intrinsics])
    return encode_pose(T_first_camera, fov).astype(np.float32), unit
