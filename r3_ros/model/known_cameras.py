"""Cameras on their way into plain Depth Anything 3 and out of it.

The network writes a camera as an encoding (:mod:`~r3_ros.pose_encoding`) of its camera-to-world
pose. Known ones are given relative to the first and in a unit of their own, which the predicted
depth then shares.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..datatypes import Intrinsics
from ..errors import TransformError
from ..geometry import inverse
from ..input.network_input import fov_of
from ..pose_encoding import encode_pose

#: A smaller unit would magnify the noise of cameras that stand still.
_MIN_UNIT = 0.1


def encode_cameras(
    T_world_camera: np.ndarray, intrinsics: Sequence[Intrinsics]
) -> tuple[np.ndarray, float]:
    """Return encodings of known cameras for ``DA3Network``, and the unit they are in.

    :param T_world_camera: (S, 4, 4) poses in any world and unit.
    :param intrinsics: of the network's input, one per pose.
    :returns: (S, 9) float32 encodings relative to the first camera, and the length that is 1 in
        them: the (lower) median distance of all cameras from the first, at least 0.1. Predicted
        depth times that length is in the unit of the poses.
    :raises TransformError: not S finite poses, or another number of intrinsics.
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
