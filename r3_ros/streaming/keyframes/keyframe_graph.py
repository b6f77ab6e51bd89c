"""A snapshot of the keyframes and the edges among them, to be shown or saved."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
import enum

import numpy as np

from ...core.datatypes import Edge
from ..trajectory import TrajectoryView


class EdgeKind(enum.IntEnum):
    """What a relative pose connects."""

    RECENT = 0  # a keyframe and one of those just before it
    MEMORY = 1  # a keyframe and one that was recalled from the bank, or at which a loop was closed
    BRIDGE = 2  # two segments


@dataclass(frozen=True, eq=False)
class GraphEdge:
    """A relative pose between two keyframes, in map units; ``ratio``: score over the nominal."""

    source_id: int
    target_id: int
    T_source_target: np.ndarray
    confidence_translation: float
    confidence_rotation: float
    ratio: float
    kind: EdgeKind


@dataclass(frozen=True, eq=False)
class Keyframes:
    """Keyframes with a known pose, oldest first.

    :ivar frame_ids: (N,) int64; ``stamps_ns``: (N,) int64; ``segment_ids``: (N,) int32.
    :ivar T_world_camera: (N, 4, 4) float64 after all corrections, in map units.
    :ivar confidence: (N,) float32, NaN for one without edges.
    :ivar resident: (N,) bool, still in the bank.
    """

    frame_ids: np.ndarray
    stamps_ns: np.ndarray
    T_world_camera: np.ndarray
    confidence: np.ndarray
    segment_ids: np.ndarray
    resident: np.ndarray


@dataclass(frozen=True, eq=False)
class KeyframeGraphView:
    """An immutable snapshot; any thread may compute the graph.

    Keyframes that left the bank keep their poses, and lose their edges.

    :ivar held_edges: among all held frames; ``bridges``: source and target of those that joined
        two segments.
    :ivar scales: by keyframe in the bank, the length of its own unit in map units.
    :ivar reference: score of a nominal edge.
    :ivar recent_keyframes: an edge spans at most so many keyframes to count as recent.
    """

    record: TrajectoryView
    resident_ids: Sequence[int]
    held_edges: Sequence[Edge]
    bridges: Collection[tuple[int, int]]
    scales: Mapping[int, float]
    reference: float
    recent_keyframes: int

    def keyframes(self, limit: int) -> Keyframes:
        """Return at most ``limit`` keyframes: the newest in the bank, then others, evenly."""
        record = self.record
        known = np.isfinite(record.T_final[:, 0, 0])
        resident = known & np.isin(record.frame_ids, np.array(self.resident_ids, np.int64))
        chosen = np.flatnonzero(resident)[-limit:]
        others = np.flatnonzero(known & ~resident)
        room = limit - len(chosen)
        if len(others) > room:
            others = others[np.linspace(0, len(others) - 1, room).round().astype(int)]
        chosen = np.sort(np.concatenate([chosen, others]))
        return Keyframes(
            frame_ids=record.frame_ids[chosen],
            stamps_ns=record.stamps_ns[chosen],
            T_world_camera=record.T_final[chosen],
            confidence=record.confidence[chosen],
            segment_ids=record.segment_ids[chosen],
            resident=resident[chosen],
        )

    def edges(self, among: Keyframes) -> list[GraphEdge]:
        """Return the edges among those of the keyframes that are in the bank."""
        ids = set(among.frame_ids[among.resident].tolist())
        place = {frame_id: n for n, frame_id in enumerate(self.record.frame_ids.tolist())}
        edges = []
        for edge in self.held_edges:
            source, target = edge.source_id, edge.target_id
            if source not in ids or target not in ids:
                continue
            T_source_target = edge.T_source_target.copy()
            # An edge is in the unit of its target.
            T_source_target[:3, 3] *= self.scales[target]
            ratio = 0.5 * sum(edge.scores) / self.reference if self.reference > 0 else 0.0
            recent = abs(place[target] - place[source]) <= self.recent_keyframes
            kind = EdgeKind.RECENT if recent else EdgeKind.MEMORY
            if (source, target) in self.bridges:
                kind = EdgeKind.BRIDGE
            edges.append(GraphEdge(source, target, T_source_target, *edge.scores, ratio, kind))
        return edges
