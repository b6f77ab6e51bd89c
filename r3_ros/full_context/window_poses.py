"""Poses of the images of one window from their relations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..geometry import quat_xyzw, T_from_quat
from ..streaming.pose_resolution import robust_average
from .window_relations import agreement, grown_from, WindowRelations


def window_poses(relations: WindowRelations, group: Sequence[int]) -> np.ndarray:
    """Return (G, 4, 4) ``T_root_frame`` of a group, the first of which is the root.

    Picture by picture, those first whose relations agree with the others: each has the robust
    average over those before it. A start for the pose graph, which weighs all relations at once.

    :param group: indices, each related to some before it.
    """
    chosen = np.ix_(group, group)
    T, scores = relations.T[chosen], relations.scores[chosen]
    scores = scores * agreement(WindowRelations(T, scores))[..., None]
    order = grown_from(0, scores.mean(axis=2), range(1, len(group)), 0.0)
    T_root = np.full((len(group), 4, 4), np.nan)
    T_root[0] = np.eye(4)
    for n in range(1, len(order)):
        weights = scores[order[:n], order[n]]
        known = (weights > 0).all(axis=1)
        candidates = T_root[order[:n]][known] @ T[order[:n], order[n]][known]
        centre, quat, _ = robust_average(
            candidates[:, :3, 3], quat_xyzw(candidates), weights[known]
        )
        T_root[order[n]] = T_from_quat(centre, quat)
    return T_root
