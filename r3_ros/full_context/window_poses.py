"""Poses of the pictures of one window from their relations, by any of three rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..geometry import inverse, quat_xyzw, T_from_quat
from ..pose_encoding import decode_pose
from ..streaming.official import GreedyOptions, resolve_greedy
from ..streaming.official.pose_graph import COMMAND_LINE, GraphOptions, refine_poses
from ..streaming.pose_resolution import robust_average
from ..window_prediction import WindowPrediction
from .window_relations import agreement, grown_from, WindowRelations

#: What the authors' command line sets: every edge counts.
ALL_CANDIDATES = GreedyOptions(topn=None)


def robust_poses(relations: WindowRelations, group: Sequence[int]) -> np.ndarray:
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


def official_poses(
    prediction: WindowPrediction,
    group: Sequence[int],
    greedy: GreedyOptions = ALL_CANDIDATES,
    refinement: GraphOptions | None = None,
) -> np.ndarray:
    """Return (G, 4, 4) ``T_root_frame`` of a group by the rules of the R3 authors.

    They use each pair from the earlier to the later picture, in the order of the group.

    :param group: indices; the first is the root.
    :param refinement: of the authors' refinement of the poses (pgo); None: greedy alone.
    """
    chosen = np.ix_(group, group)
    mask = np.triu(prediction.predicted[chosen], 1)
    encodings = np.concatenate(
        [np.nan_to_num(prediction.relative[chosen]), np.zeros((len(group), len(group), 2))], axis=2
    )
    encodings[~mask, 3:7] = [0.0, 0.0, 0.0, 1.0]
    conf_t, conf_r = np.moveaxis(prediction.logits[chosen], 2, 0)
    poses = resolve_greedy(encodings, conf_t, conf_r, mask, greedy)
    if refinement is not None and mask.any():
        poses = refine_poses(encodings, conf_t, conf_r, mask, poses, refinement)
    T_world_camera = inverse(decode_pose(poses))
    return inverse(T_world_camera[0]) @ T_world_camera


def window_poses(
    method: str, prediction: WindowPrediction, relations: WindowRelations, group: Sequence[int]
) -> np.ndarray:
    """Return (G, 4, 4) ``T_root_frame`` of a group, the first of which is the root.

    :param method: ``robust``, ``greedy`` or ``pgo``.
    """
    if method == 'robust':
        return robust_poses(relations, group)
    # In the order in which they were shown, as the authors' rule has it.
    shown = sorted(group)
    refinement = COMMAND_LINE if method == 'pgo' else None
    T_shown = official_poses(prediction, shown, refinement=refinement)
    T_first = T_shown[[shown.index(n) for n in group]]
    return inverse(T_first[0]) @ T_first
