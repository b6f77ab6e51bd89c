"""Poses of the frames held, and the edges among them that they follow from.

A frame's pose comes from its edges to earlier frames. When a predictor refines edges between
held frames, the poses of their targets are resolved anew, and every later frame that refers to
one of those follows, in the order of frame ids: one pass, no iteration, oldest frame fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..datatypes import Edge
from ..geometry import inverse, quat_xyzw, T_from_quat
from .pose_resolution import HeldPose, ResolvedPose, usable_edges
from .similarity import inverse_similarity, rigid_part, scale_of

#: Pose changes below these are rounding and correct nothing.
_MOVED_TRANSLATION = 1e-9
_MOVED_ROTATION = 1e-9

#: Takes edges, the poses held, and the scale of the edges' target if it has one already.
Resolver = Callable[[Sequence[Edge], Mapping[int, HeldPose], float | None], ResolvedPose | None]


class PoseGraph:
    """Held frames with their poses and incoming edges; bounded by what is held."""

    def __init__(self, resolve: Resolver) -> None:
        """Start empty; ``resolve`` turns edges and held poses into a pose."""
        self._resolve = resolve
        self.held: dict[int, HeldPose] = {}
        #: The segment of each held frame, in whose world its pose is.
        self.segments: dict[int, int] = {}
        #: Source and target of the edges that joined two segments.
        self.bridges: set[tuple[int, int]] = set()
        self._incoming: dict[int, dict[int, Edge]] = {}

    @property
    def poses(self) -> dict[int, np.ndarray]:
        """Return ``T_world_camera`` (4, 4) of every held frame that is in the world."""
        return {i: self.held[i].T_world_camera for i in self._in_segment(0)}

    @property
    def similarities(self) -> dict[int, np.ndarray]:
        """Return ``S_world_camera`` (4, 4) of every held frame that is in the world."""
        return self.similarities_in(0)

    def similarities_in(self, segment_id: int) -> dict[int, np.ndarray]:
        """Return ``S_segment_camera`` (4, 4) of every held frame of a segment."""
        return {i: self.held[i].S_world_camera for i in self._in_segment(segment_id)}

    def _in_segment(self, segment_id: int) -> list[int]:
        return [i for i in self.held if self.segments[i] == segment_id]

    def edges(self) -> list[Edge]:
        """Return all edges among held frames."""
        return [edge for incoming in self._incoming.values() for edge in incoming.values()]

    def add(
        self, frame_id: int, pose: HeldPose, edges: Iterable[Edge], segment_id: int = 0
    ) -> None:
        """Hold a new frame with the edges its pose was resolved from."""
        self.held[frame_id] = pose
        self.segments[frame_id] = segment_id
        self._incoming[frame_id] = {
            edge.source_id: edge for edge in edges if edge.source_id in self.held
        }

    def refine(self, edges: Iterable[Edge]) -> list[int]:
        """Replace edges by refined ones and return the frames whose pose changed, in order.

        Refined edges into a frame replace all edges it had: those date from before the
        refinement. Edges of frames no longer held, and unusable ones, are ignored.
        """
        targets: dict[int, dict[int, Edge]] = {}
        for edge in usable_edges(map(_forward, edges), self.held):
            known = edge.target_id in self.held and edge.source_id != edge.target_id
            if known and self.segments[edge.source_id] == self.segments[edge.target_id]:
                targets.setdefault(edge.target_id, {})[edge.source_id] = edge
        for target, incoming in targets.items():
            self._incoming[target] = incoming
        return self._follow(set(targets))

    def correct(
        self,
        S_corrected_world: Mapping[int, np.ndarray],
        variances: Mapping[int, tuple[float, float]],
    ) -> list[int]:
        """Move frames by similarities of the world and return those that moved, in order.

        The edges among all frames are rewritten to say what the poses say: what they said before
        led to the poses that were wrong, and would again at the next refinement.
        """
        before = self.held
        self.held = {
            frame_id: _corrected(pose, S_corrected_world.get(frame_id), variances.get(frame_id))
            for frame_id, pose in before.items()
        }
        self._rewrite_edges()
        return sorted(
            frame_id
            for frame_id, pose in self.held.items()
            if _moved(before[frame_id].T_world_camera, pose.T_world_camera)
        )

    def connect(self, pairs: Iterable[tuple[int, int]], score: float) -> None:
        """Hold pairs of frames together as they lie: edges as sure as ``score``."""
        for pair in pairs:
            source, target = sorted(pair)
            if source in self.held and target in self.held and source != target:
                edge = Edge(source, target, np.eye(4), score, score)
                self._incoming[target][source] = edge
                if self.segments[source] != self.segments[target]:
                    self.bridges.add((source, target))
        self._rewrite_edges()

    def _rewrite_edges(self) -> None:
        """Make all edges say what the poses say."""
        edges = self.edges()
        if not edges:
            return
        S_world = {frame_id: pose.S_world_camera for frame_id, pose in self.held.items()}
        S_target = np.stack([S_world[edge.target_id] for edge in edges])
        relative = inverse_similarity(np.stack([S_world[e.source_id] for e in edges])) @ S_target
        T = rigid_part(relative)
        # An edge is in the unit of its target.
        T[:, :3, 3] /= scale_of(relative)[:, None]
        for edge, T_source_target in zip(edges, T, strict=True):
            rewritten = replace(edge, T_source_target=T_source_target)
            self._incoming[edge.target_id][edge.source_id] = rewritten

    def drop(self, frame_ids: Iterable[int]) -> None:
        """Let frames go, with their edges. Frames that hung on them keep their poses."""
        gone = set(frame_ids)
        for frame_id in gone:
            self.held.pop(frame_id, None)
            self.segments.pop(frame_id, None)
            self._incoming.pop(frame_id, None)
        self.bridges = {pair for pair in self.bridges if gone.isdisjoint(pair)}
        for incoming in self._incoming.values():
            for source in gone & incoming.keys():
                del incoming[source]

    def _follow(self, due: set[int]) -> list[int]:
        """Resolve the frames due, and those that refer to one that moved."""
        moved: set[int] = set()
        if not due:
            return []
        for frame_id in sorted(f for f in self.held if f >= min(due)):
            incoming = self._incoming[frame_id]
            if frame_id not in due and moved.isdisjoint(incoming):
                continue
            own = self.held[frame_id]
            resolved = self._resolve(list(incoming.values()), self.held, own.scale)
            if resolved is None:
                continue
            self.held[frame_id] = resolved.held
            if _moved(own.T_world_camera, resolved.held.T_world_camera):
                moved.add(frame_id)
        return sorted(moved)


def _moved(before: np.ndarray, after: np.ndarray) -> bool:
    """Tell whether two poses differ by more than rounding."""
    step = np.abs(after - before)
    return bool(step[:3, 3].max() > _MOVED_TRANSLATION or step[:3, :3].max() > _MOVED_ROTATION)


def _corrected(
    pose: HeldPose, S_corrected_world: np.ndarray | None, variance: tuple[float, float] | None
) -> HeldPose:
    """Return the pose moved by a similarity of the world."""
    if S_corrected_world is None:
        return pose
    S = S_corrected_world @ pose.S_world_camera
    scale = float(scale_of(S))
    kept = (pose.variance_translation, pose.variance_rotation) if variance is None else variance
    # Through a quaternion, so that rounding does not add up.
    T = T_from_quat(S[:3, 3], quat_xyzw(rigid_part(S)))
    return HeldPose(T, *kept, scale)


def _forward(edge: Edge) -> Edge:
    """Return the edge from the older to the newer frame."""
    if edge.source_id < edge.target_id:
        return edge
    return Edge(
        edge.target_id,
        edge.source_id,
        inverse(edge.T_source_target),
        edge.confidence_translation,
        edge.confidence_rotation,
    )
