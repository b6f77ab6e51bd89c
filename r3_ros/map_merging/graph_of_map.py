"""A saved map's keyframes and edges as the pose graph has them, in the engine's unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..datatypes import Edge
from ..maps.saved_map import SavedMap
from ..streaming.pose_resolution import HeldPose


@dataclass(frozen=True, eq=False)
class MapGraph:
    """Keyframes by the numbers that they have in the merged map. Axes are those of the map.

    :ivar ids: (N,) rising, by row of the saved keyframes.
    :ivar held: poses; ``edges``: among them; ``followed_since``: the first of each segment.
    """

    saved: SavedMap
    ids: np.ndarray
    held: dict[int, HeldPose]
    edges: list[Edge]
    followed_since: list[int]

    @classmethod
    def of(cls, saved: SavedMap, first_id: int) -> MapGraph:
        """Give numbers to the keyframes of a map, the first one ``first_id``."""
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
        return cls(saved, ids, held, _edges(saved, shift), ids[starts].tolist())

    @property
    def S_map_engine(self) -> np.ndarray:
        """Return the (4, 4) similarity from the engine's unit to that of the map."""
        return np.diag([self.saved.facts.unit] * 3 + [1.0])


def _edges(saved: SavedMap, shift: int) -> list[Edge]:
    edges, found = saved.edges, []
    for n in range(len(edges)):
        T = edges.T_source_target[n].copy()
        T[:3, 3] /= saved.facts.unit
        source, target = int(edges.source_ids[n]) + shift, int(edges.target_ids[n]) + shift
        found.append(Edge(source, target, T, *map(float, edges.confidences[n])))
    return found
