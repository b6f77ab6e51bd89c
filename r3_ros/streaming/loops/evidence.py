"""Edges to old keyframes that contradict the present pose.

Such an edge is either a mistake (a place that only looks the same) or the first sign that the way
here has drifted. One alone cannot tell; those of the last frames are kept until enough of them
agree (:mod:`.agreement`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
import math

import numpy as np

from ...config import CovarianceConfig
from ...datatypes import Edge
from ...geometry import rotation_angle
from ..pose_resolution import edge_sigmas, HeldPose, ResolvedPose
from ..similarity import inverse_similarity, similarity

#: Edges within this many standard deviations agree.
AGREE_SIGMAS = 3.0
#: What two edges may differ by whatever their standard deviations say, which are a heuristic: a
#: share of their lengths, and radians.
SLACK_LENGTH = 0.1
SLACK_RAD = 0.03
#: A correction this small shows in no odometry: a share of the step to the nearest frame, radians.
_UNSEEN_SHARE = 0.02
_UNSEEN_RAD = 0.0005
#: So many of the last frames with contradicting edges are looked at together.
_WINDOW_FRAMES = 12
#: ... unless they are older than this: the way here has drifted on since.
_WINDOW_AGE = 40


@dataclass(frozen=True, eq=False)
class FarEdge:
    """An edge from an old keyframe that contradicts the pose of its frame.

    The frame itself will be let go, so its place is given from a keyframe that stays.

    :ivar anchor_id: the newest keyframe when the frame was seen.
    :ivar S_anchor_frame: (4, 4) where the frame is, by the frames around it.
    :ivar T_source_frame: (4, 4) what the edge says; lengths in the frame's own unit.
    :ivar sigmas: (2,) standard deviations of translation, in the frame's unit, and rotation.
    """

    source_id: int
    frame_id: int
    anchor_id: int
    S_anchor_frame: np.ndarray
    T_source_frame: np.ndarray
    sigmas: np.ndarray


class LoopEvidence:
    """The contradicting edges of the last frames that had any."""

    def __init__(self) -> None:
        self._frames: deque[tuple[FarEdge, ...]] = deque(maxlen=_WINDOW_FRAMES)

    def __iter__(self) -> Iterator[FarEdge]:
        """Go through the edges, oldest first."""
        return (edge for edges in self._frames for edge in edges)

    def add(self, edges: Sequence[FarEdge]) -> None:
        """Take in the contradicting edges of one frame."""
        if edges:
            self._frames.append(tuple(edges))

    def keep(self, known: Container[int], now: int) -> None:
        """Forget edges whose keyframes are not known any more, and those of long ago."""
        kept = [
            tuple(e for e in edges if e.source_id in known and e.anchor_id in known)
            for edges in self._frames
            if now - edges[0].frame_id <= _WINDOW_AGE
        ]
        self._frames = deque((edges for edges in kept if edges), maxlen=_WINDOW_FRAMES)

    def clear(self) -> None:
        """Forget all."""
        self._frames.clear()


def contradicts(
    far: Sequence[Edge],
    near: Sequence[Edge],
    resolved: ResolvedPose,
    held: Mapping[int, HeldPose],
    reference: float,
    config: CovarianceConfig,
) -> np.ndarray:
    """Return which far edges are at odds with the pose that the near ones give.

    The yardstick is the uncertainty of the edges themselves and the scatter of the near ones,
    not what has accumulated on the way: blending in a correction of that size would be a jump.

    :returns: (N,) bool, one for each far edge.
    """
    own = resolved.held
    T_edges = np.array([edge.T_source_target for edge in far])
    T_edges[:, :3, 3] *= own.scale
    candidates = np.array([held[edge.source_id].T_world_camera for edge in far]) @ T_edges
    shift = np.linalg.norm(candidates[:, :3, 3] - own.T_world_camera[:3, 3], axis=1)
    turn = rotation_angle(own.T_world_camera[:3, :3].T @ candidates[:, :3, :3])
    spread = resolved.spread.diagonal()
    local = np.array([spread[:3].sum(), spread[3:].sum()])
    local = local + (sigmas_of(near, reference, config) ** 2).min(axis=0) * [own.scale**2, 1.0]
    tolerance = sigmas_of(far, reference, config) ** 2 * [own.scale**2, 1.0] + local
    off = np.stack([shift, turn], axis=1)
    step = own.scale * min(np.linalg.norm(edge.T_source_target[:3, 3]) for edge in near)
    unseen = np.array([_UNSEEN_SHARE * step, _UNSEEN_RAD])
    return (off > np.maximum(AGREE_SIGMAS * np.sqrt(tolerance), unseen)).any(axis=1)


def sigmas_of(edges: Sequence[Edge], reference: float, config: CovarianceConfig) -> np.ndarray:
    """Return the (N, 2) standard deviations of edges, in the unit of their targets."""
    T = np.array([edge.T_source_target for edge in edges])
    ratios = np.array([[e.confidence_translation, e.confidence_rotation] for e in edges])
    lengths = np.linalg.norm(T[:, :3, 3], axis=1)
    return edge_sigmas(lengths, rotation_angle(T[:, :3, :3]), ratios / reference, config)


def edge_fits(edge: Edge, source: HeldPose, target: HeldPose, variance: Sequence[float]) -> bool:
    """Return whether an edge says what the poses of its frames say."""
    T_edge = edge.T_source_target
    R = source.T_world_camera[:3, :3]
    lever = target.scale * (R @ T_edge[:3, 3])
    shift = target.T_world_camera[:3, 3] - source.T_world_camera[:3, 3] - lever
    turn = rotation_angle((R @ T_edge[:3, :3]).T @ target.T_world_camera[:3, :3])
    sigma_shift, sigma_turn = np.sqrt(variance)
    return bool(
        np.linalg.norm(shift)
        <= max(AGREE_SIGMAS * sigma_shift, SLACK_LENGTH * np.linalg.norm(lever))
        and turn <= max(AGREE_SIGMAS * sigma_turn, SLACK_RAD)
    )


def edge_to_anchor(edge: FarEdge, scale: float) -> np.ndarray:
    """Return (4, 4) ``S_source_anchor``: the edge, taken on to the keyframe that stays.

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
