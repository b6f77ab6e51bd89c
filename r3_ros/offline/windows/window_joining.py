"""The similarity of a window in the world, from the images it shares with earlier windows.

Camera centres and rotations give the place, given the scale (:mod:`...core.unit_scale`).
"""

from __future__ import annotations

import math

import numpy as np

from ...core.geometry import make_T, mean_rotation, quat_xyzw, similarity
from ...streaming.pose_resolution import robust_average


def similarity_by_poses(
    T_here: np.ndarray, T_there: np.ndarray, scores: np.ndarray, log_scale: float
) -> np.ndarray:
    """Return the (4, 4) similarity from another world to this one, given its scale.

    Robust against cameras with a wrong pose in one of the two.

    :param T_here: (N, 4, 4) poses of cameras in this world; ``T_there``: in the other.
    :param scores: (N, 2) > 0, confidence of their centres and rotations.
    """
    scale = math.exp(log_scale)
    R = T_here[:, :3, :3] @ np.swapaxes(T_there[:, :3, :3], 1, 2)
    origin = np.zeros((len(R), 3))
    turns = quat_xyzw(make_T(R, origin))
    weights = robust_average(origin, turns, scores)[2]
    R_here_there = mean_rotation(R, weights[:, 1])
    # One rotation for all, so that an image's own rotation does not move distant centres.
    centres = T_here[:, :3, 3] - scale * T_there[:, :3, 3] @ R_here_there.T
    centre = robust_average(centres, turns, scores)[0]
    return similarity(make_T(R_here_there, centre), scale)
