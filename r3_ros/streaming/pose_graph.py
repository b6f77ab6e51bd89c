"""Poses of the frames held, and the edges among them that they follow from.

A frame's pose comes from its edges to earlier frames. When a predictor refines edges between
held frames, the poses of their targets are resolved anew, and every later frame that refers to
one of those follows, in the order of frame ids: one pass, no iteration, oldest frame fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ..datatypes import Edge
from ..geometry import inverse
from .pose_resolution import HeldPose, ResolvedPose, usable_edges

#: Pose changes below these are rounding and correct nothing.
_MOVED_TRANSLATION = 1e-9
_MOVED_ROTATION = 1e-9

Resolver = Callable[[Sequence[Edge], Mapping[int, HeldPose]], ResolvedPose | None]


class PoseGraph:
    """Held frames with their poses and incoming edges; bounded by what is held."""

    def __init__(self, resolve: Resolver) -> None:
        """Start empty; ``resolve`` turns edges and held poses into a pose."""
        self._resolve = resolve
        self.held: dict[int, HeldPose] = {}
        self._incoming: dict[int, dict[int, Edge]] = {}

    @property
    def poses(self) -> dict[int, np.ndarray]:
        """Return ``T_world_camera`` (4, 4) of every held frame."""
        return {frame_id: pose.T_world_camera for frame_id, pose in self.held.items()}

    def edges(self) -> list[Edge]:
        """Return all edges among held frames."""
        return [edge for incoming in self._incoming.values() for edge in incoming.values()]

    def add(self, frame_id: int, pose: HeldPose, edges: Iterable[Edge]) -> None:
        """Hold a new frame with the edges its pose was resolved from."""
        self.held[frame_id] = pose
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
            if edge.target_id in self.held and edge.source_id != edge.target_id:
                targets.setdefault(edge.target_id, {})[edge.source_id] = edge
        for target, incoming in targets.items():
            self._incoming[target] = incoming
        return self._follow(set(targets))

    def drop(self, frame_ids: Iterable[int]) -> None:
        """Let frames go, with their edges. Frames that hung on them keep their poses."""
        gone = set(frame_ids)
        for frame_id in gone:
            self.held.pop(frame_id, None)
            self._incoming.pop(frame_id, None)
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
            resolved = self._resolve(list(incoming.values()), self.held)
            if resolved is None:
                continue
            before = self.held[frame_id].T_world_camera
            self.held[frame_id] = resolved.held
            step = resolved.held.T_world_camera - before
            if (
                np.abs(step[:3, 3]).max() > _MOVED_TRANSLATION
                or np.abs(step[:3, :3]).max() > _MOVED_ROTATION
            ):
                moved.add(frame_id)
        return sorted(moved)


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
