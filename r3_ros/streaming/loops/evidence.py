"""Edges to old keyframes that contradict the present pose.

Such an edge is either wrong (a place that only looks the same) or the first sign of drift: those
of the last frames are kept until enough of them agree (:mod:`.agreement`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
import math

import numpy as np

from ...core.datatypes import Edge
from ...core.geometry import inverse_similarity, rotation_angle, similarity
from ..pose_resolution import EdgeNoise, HeldPose, ResolvedPose, stacked

#: Edges within this many standard deviations agree.
AGREE_SIGMAS = 3.0
#: Least tolerance between two edges, since their standard deviations are a heuristic: a share of
#: their lengths, and radians.
SLACK_LENGTH = 0.1
SLACK_RAD = 0.03
#: Deviations below these are not resolved by odometry: a share of the step to the nearest frame,
#: radians.
_UNSEEN_SHARE = 0.02
_UNSEEN_RAD = 0.0005
#: Number of frames with contradicting edges that are evaluated together.
_WINDOW_FRAMES = 12
#: Older frames are dropped: poses have drifted further since.
_WINDOW_AGE = 40


@dataclass(frozen=True, eq=False)
class FarEdge:
    """An edge from an old keyframe that contradicts the pose of its frame.

    The frame itself will be released, so its pose is kept relative to a keyframe.

    :ivar anchor_id: the newest keyframe when the frame came.
    :ivar S_anchor_frame: (4, 4) the frame by its near edges.
    :ivar T_source_frame: (4, 4) the edge; lengths in the frame's own unit.
    :ivar sigmas: (2,) standard deviations of translation, in the frame's unit, and rotation.
    """

    source_id: int
    frame_id: int
    anchor_id: int
    S_anchor_frame: np.ndarray
    T_source_frame: np.ndarray
    sigmas: np.ndarray


#: Contradicting edges of the last frames, oldest first.
LoopEvidence = deque[tuple[FarEdge, ...]]


def no_evidence() -> LoopEvidence:
    """Return evidence of no frame yet."""
    return deque(maxlen=_WINDOW_FRAMES)


def drop_outdated(evidence: LoopEvidence, known: Container[int], now: int) -> None:
    """Drop edges whose keyframes are not in ``known``, and those of old frames."""
    kept = [
        tuple(e for e in edges if e.source_id in known and e.anchor_id in known)
        for edges in evidence
        if now - edges[0].frame_id <= _WINDOW_AGE
    ]
    evidence.clear()
    evidence.extend(edges for edges in kept if edges)


def deviations(edges: Sequence[Edge], held: Mapping[int, HeldPose], pose: HeldPose) -> np.ndarray:
    """Return the (N, 2) distance and angle from a pose to where edges place its frame."""
    T_edges, _ = stacked(edges)
    T_edges[:, :3, 3] *= pose.scale
    candidates = np.array([held[edge.source_id].T_world_camera for edge in edges]) @ T_edges
    shift = np.linalg.norm(candidates[:, :3, 3] - pose.T_world_camera[:3, 3], axis=1)
    turn = rotation_angle(pose.T_world_camera[:3, :3].T @ candidates[:, :3, :3])
    return np.stack([shift, turn], axis=1)


def contradicts(
    far: Sequence[Edge],
    near: Sequence[Edge],
    resolved: ResolvedPose,
    held: Mapping[int, HeldPose],
    noise: EdgeNoise,
) -> np.ndarray:
    """Return which far edges (N,) contradict the pose that the near ones give.

    The tolerance is the uncertainty of the edges themselves and the scatter of the near ones,
    not the accumulated one: blending in a correction of that size would be a jump.
    """
    own = resolved.held
    off = deviations(far, held, own)
    spread = resolved.spread.diagonal()
    local = np.array([spread[:3].sum(), spread[3:].sum()])
    local = local + (noise.sigmas_of(near) ** 2).min(axis=0) * [own.scale**2, 1.0]
    tolerance = noise.sigmas_of(far) ** 2 * [own.scale**2, 1.0] + local
    step = own.scale * min(np.linalg.norm(edge.T_source_target[:3, 3]) for edge in near)
    unseen = np.array([_UNSEEN_SHARE * step, _UNSEEN_RAD])
    return (off > np.maximum(AGREE_SIGMAS * np.sqrt(tolerance), unseen)).any(axis=1)


def edge_fits(edge: Edge, source: HeldPose, target: HeldPose, variance: Sequence[float]) -> bool:
    """Return whether an edge matches the poses of its frames."""
    T_edge = edge.T_source_target
    R = source.T_world_camera[:3, :3]
    lever = target.scale * (R @ T_edge[:3, 3])
    shift = target.T_world_camera[:3, 3] - source.T_world_camera[:3, 3] - lever
    turn = rotation_angle((R @ T_edge[:3, :3]).T @ target.T_world_camera[:3, :3])
    sigma_shift, sigma_turn = np.sqrt(variance)
    most_shift = max(AGREE_SIGMAS * sigma_shift, SLACK_LENGTH * np.linalg.norm(lever))
    most_turn = max(AGREE_SIGMAS * sigma_turn, SLACK_RAD)
    return bool(np.linalg.norm(shift) <= most_shift and turn <= most_turn)


def edge_to_anchor(edge: FarEdge, scale: float) -> np.ndarray:
    """Return (4, 4) ``S_source_anchor``: the edge, extended to the keyframe that stays.

    :param scale: length of the frame's unit in that of the source.
    """
    S_source_frame = similarity(edge.T_source_frame, scale)
    S_source_frame[:3, 3] *= scale
    return S_source_frame @ inverse_similarity(edge.S_anchor_frame)


def sigmas_at_source(edge: FarEdge, scatter: np.ndarray, scale_sigma: float) -> np.ndarray:
    """Return (7,) standard deviations of an edge for the pose graph, in its frame's unit."""
    length = float(np.linalg.norm(edge.T_source_frame[:3, 3]))
    translation = math.hypot(max(edge.sigmas[0], scatter[0]), scale_sigma * length)
    return np.array([max(edge.sigmas[1], scatter[1])] * 3 + [translation] * 3 + [scale_sigma])
