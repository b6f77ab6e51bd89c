"""Keyframes and edges of a saved map as a pose graph, in the engine's unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.datatypes import Edge
from ...maps.saved_map import SavedMap
from ...streaming.pose_resolution import HeldPose


@dataclass(frozen=True, eq=False)
class MapGraph:
    """Keyframes by their ids in the merged map, in the axes of their own map.

    :ivar ids: (N,) increasing, by row of the saved keyframes.
    :ivar held: poses; ``edges``: between them; ``followed_since``: first id of each segment.
    """

    saved: SavedMap
    ids: np.ndarray
    held: dict[int, HeldPose]
    edges: list[Edge]
    followed_since: list[int]

    @classmethod
    def of(cls, saved: SavedMap, first_id: int) -> MapGraph:
        """Assign ids to the keyframes of a map, from ``first_id`` on."""
        keyframes, unit = saved.keyframes, saved.facts.unit
        shift = first_id - (int(keyframes.ids[0]) if len(keyframes) else 0)
        ids = keyframes.ids + shift
        held = {}
        for row, frame_id in enumerate(ids.tolist()):
            T = keyframes.T_map_optical[row].copy()
            T[:3, 3] /= unit
            variance_t, variance_r = keyframes.variances[row]
            held[frame_id] = HeldPose(T, float(variance_t) / unit**2, float(variance_r))
        starts = np.flatnonzero(np.diff(keyframes.segments, prepend=-2) != 0)
        edges = []
        for source, target, T, confidences in zip(
            saved.edges.source_ids.tolist(),
            saved.edges.target_ids.tolist(),
            saved.edges.T_source_target.copy(),
            saved.edges.confidences,
            strict=True,
        ):
            T[:3, 3] /= unit
            edges.append(Edge(source + shift, target + shift, T, *map(float, confidences)))
        return cls(saved, ids, held, edges, ids[starts].tolist())

    @property
    def S_map_engine(self) -> np.ndarray:
        """The (4, 4) similarity from the engine's unit to that of the map."""
        return np.diag([self.saved.facts.unit] * 3 + [1.0])
