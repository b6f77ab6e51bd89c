"""Poses of the held frames, and the edges among them that they follow from.

When a predictor refines edges between held frames, the poses of their targets are resolved again,
and every later frame that refers to one of those follows, in the order of frame ids: one pass.

After a correction of the world the edges are rewritten to match the corrected poses, when they are
needed: nearly all are of frames that will never be resolved again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
import itertools

import numpy as np

from ..core.datatypes import Edge
from ..core.geometry import (
    inverse,
    inverse_similarity,
    quat_xyzw,
    rigid_part,
    scale_of,
    T_from_quat,
)
from .pose_resolution import HeldPose, ResolvedPose, usable_edges, volumes, with_variances

#: Pose changes below these are rounding.
_MOVED_TRANSLATION = 1e-9
_MOVED_ROTATION = 1e-9

#: Takes edges, the held poses, and the scale of the edges' target.
Resolver = Callable[[Sequence[Edge], Mapping[int, HeldPose], float | None], ResolvedPose | None]


class PoseGraph:
    """Held frames with their poses and incoming edges; bounded by what is held.

    :param resolve: returns the pose of the edges' common target, None without an edge.
    """

    def __init__(self, resolve: Resolver) -> None:
        self._resolve = resolve
        self.held: dict[int, HeldPose] = {}
        #: The segment of each held frame, in whose world its pose is.
        self.segments: dict[int, int] = {}
        #: Source and target of the edges that joined two segments.
        self.bridges: set[tuple[int, int]] = set()
        self._incoming: dict[int, dict[int, Edge]] = {}
        self._targets: dict[int, set[int]] = {}  # of the edges out of each frame
        #: Frames whose incoming edges do not match the corrected poses yet.
        self._outdated: set[int] = set()
        #: Pairs of frames, older first, of the edges that closed loops.
        self.ties: set[tuple[int, int]] = set()

    @property
    def similarities(self) -> dict[int, np.ndarray]:
        """``S_world_camera`` (4, 4) of every held frame that is in the world."""
        return {i: pose.S_world_camera for i, pose in self.held.items() if not self.segments[i]}

    def in_world(self, frame_id: int) -> HeldPose | None:
        """Return the pose of a frame, if it is held and in the world."""
        return self.held.get(frame_id) if self.segments.get(frame_id) == 0 else None

    def edges(self, among: Collection[int] | None = None) -> list[Edge]:
        """Return the edges among some of the held frames, or among all."""
        chosen = self.held if among is None else among
        self._renew(chosen)
        return [
            edge
            for target in sorted(chosen)
            for source, edge in self._incoming[target].items()
            if source in chosen
        ]

    def sources_of(self, frame_id: int) -> Collection[int]:
        """Return the frames that a frame has edges from."""
        return self._incoming[frame_id].keys()

    def add(
        self, frame_id: int, pose: HeldPose, edges: Iterable[Edge], segment_id: int = 0
    ) -> None:
        """Hold a new frame with the edges its pose was resolved from."""
        self.held[frame_id] = pose
        self.segments[frame_id] = segment_id
        self._targets[frame_id] = set()
        self._incoming[frame_id] = {}
        self._set_incoming(frame_id, (edge for edge in edges if edge.source_id in self.held))

    def refine(self, edges: Iterable[Edge]) -> list[int]:
        """Replace edges by refined ones and return the frames whose pose changed, in order.

        Refined edges into a frame replace all its edges, which date from before the refinement.
        Edges of frames no longer held, and unusable ones, are ignored.
        """
        targets: dict[int, dict[int, Edge]] = {}
        for edge in usable_edges(map(_forward, edges), self.held):
            known = edge.target_id in self.held and edge.source_id != edge.target_id
            if known and self.segments[edge.source_id] == self.segments[edge.target_id]:
                targets.setdefault(edge.target_id, {})[edge.source_id] = edge
        if not targets:
            return []
        oldest = min(targets)
        # Edges must match the poses as they were before any moves.
        self._renew(itertools.takewhile(lambda i: i >= oldest, reversed(self.held)))
        for target, incoming in targets.items():
            self._set_incoming(target, incoming.values())
        return self._follow(set(targets))

    def correct(
        self,
        S_corrected_world: Mapping[int, np.ndarray],
        variances: Mapping[int, tuple[float, float]],
    ) -> list[int]:
        """Move frames by similarities of the world and return those that moved, in order.

        All edges are rewritten to match: as they were, they would lead back to the wrong poses.
        """
        ids = [frame_id for frame_id in self.held if frame_id in S_corrected_world]
        if not ids:
            return []
        before = np.stack([self.held[i].T_world_camera for i in ids])
        S = np.stack([S_corrected_world[i] @ self.held[i].S_world_camera for i in ids])
        # Through a quaternion, so that rounding does not accumulate.
        T = T_from_quat(S[:, :3, 3], quat_xyzw(rigid_part(S)))
        for frame_id, T_world_camera, scale in zip(ids, T, scale_of(S), strict=True):
            own = self.held[frame_id]
            covariance = own.covariance
            if frame_id in variances:
                covariance = with_variances(covariance, variances[frame_id])
            drift = own.drift * [scale / own.scale, 1.0]
            self.held[frame_id] = HeldPose(T_world_camera, covariance, float(scale), drift)
        self._outdated = set(self.held)
        moved = _moved(before, T)
        return sorted(frame_id for frame_id, far in zip(ids, moved, strict=True) if far)

    def connect(self, pairs: Iterable[tuple[int, int]], score: float) -> None:
        """Add edges of this score between pairs of frames, matching their poses."""
        for pair in pairs:
            source, target = sorted(pair)
            if source in self.held and target in self.held and source != target:
                edge = Edge(source, target, np.eye(4), score, score)
                self._set_incoming(target, [*self._incoming[target].values(), edge])
                self._outdated.add(target)
                self.ties.add((source, target))
                if self.segments[source] != self.segments[target]:
                    self.bridges.add((source, target))

    def _set_incoming(self, target: int, edges: Iterable[Edge]) -> None:
        before = self._incoming[target]
        self._incoming[target] = {edge.source_id: edge for edge in edges}
        for source in before.keys() - self._incoming[target].keys():
            self._targets[source].discard(target)
            self.ties.discard((source, target))
            self.bridges.discard((source, target))
        for source in self._incoming[target]:
            self._targets[source].add(target)

    def _renew(self, frame_ids: Iterable[int]) -> None:
        """Rewrite outdated edges into these frames to match the poses."""
        outdated = self._outdated.intersection(frame_ids)
        self._outdated -= outdated
        edges = [edge for i in sorted(outdated) for edge in self._incoming[i].values()]
        if not edges:
            return
        held = self.held
        S_target = np.stack([held[edge.target_id].S_world_camera for edge in edges])
        S_source = np.stack([held[edge.source_id].S_world_camera for edge in edges])
        relative = inverse_similarity(S_source) @ S_target
        T = rigid_part(relative)
        # An edge is in the unit of its target.
        T[:, :3, 3] /= scale_of(relative)[:, None]
        for edge, T_source_target in zip(edges, T, strict=True):
            rewritten = replace(edge, T_source_target=T_source_target)
            self._incoming[edge.target_id][edge.source_id] = rewritten

    def drop(self, frame_ids: Iterable[int]) -> None:
        """Release frames with their edges. Frames that depended on them keep their poses."""
        for frame_id in frame_ids:
            if frame_id not in self.held:
                continue
            self._set_incoming(frame_id, ())
            for target in self._targets.pop(frame_id):
                del self._incoming[target][frame_id]
                self.ties.discard((frame_id, target))
                self.bridges.discard((frame_id, target))
            del self.held[frame_id], self.segments[frame_id], self._incoming[frame_id]
            self._outdated.discard(frame_id)

    def _follow(self, due: set[int]) -> list[int]:
        """Resolve the frames due, and those that refer to one that moved."""
        moved: set[int] = set()
        oldest = min(due)
        later = list(itertools.takewhile(lambda i: i >= oldest, reversed(self.held)))
        for frame_id in reversed(later):
            incoming = self._incoming[frame_id]
            if frame_id not in due and moved.isdisjoint(incoming):
                continue
            own = self.held[frame_id]
            resolved = self._resolve(list(incoming.values()), self.held, own.scale)
            if resolved is None:
                continue
            self.held[frame_id] = replace(
                resolved.held, covariance=_smaller(own.covariance, resolved.held.covariance)
            )
            if _moved(own.T_world_camera[None], resolved.held.T_world_camera[None])[0]:
                moved.add(frame_id)
        return sorted(moved)


def _smaller(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the smaller of two (7, 7) covariances: refined poses are as sure as before."""
    covariances = np.stack([before, after])
    chosen: np.ndarray = covariances[int(np.argmin(volumes(covariances)))]
    return chosen


def _moved(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return which of (N, 4, 4) poses differ by more than rounding: (N,) bool."""
    step = np.abs(after - before)
    far: np.ndarray = (step[:, :3, 3] > _MOVED_TRANSLATION).any(axis=1)
    return far | (step[:, :3, :3] > _MOVED_ROTATION).any(axis=(1, 2))


def _forward(edge: Edge) -> Edge:
    if edge.source_id < edge.target_id:
        return edge
    turned = inverse(edge.T_source_target)
    return replace(
        edge, source_id=edge.target_id, target_id=edge.source_id, T_source_target=turned
    )
