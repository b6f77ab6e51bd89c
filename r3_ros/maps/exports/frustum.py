"""Keyframes drawn as the pyramids that their cameras see."""

from __future__ import annotations

import numpy as np

from ..saved_map import SavedMap

#: Depth of a pyramid over the median distance between neighbouring keyframes.
_DEPTH = 0.5


def frustum_lines(saved: SavedMap) -> np.ndarray:
    """Return (N, 8, 2, 3) line segments in the map frame: four edges and four sides."""
    keyframes = saved.keyframes
    T, K = keyframes.T_map_optical, keyframes.K
    width, height = keyframes.sizes[:, 0] - 0.5, keyframes.sizes[:, 1] - 0.5
    low = np.full(len(T), -0.5)
    x, y = np.stack([low, width, width, low], 1), np.stack([low, low, height, height], 1)
    rays = np.stack(
        [
            (x - K[:, :1, 2]) / K[:, :1, 0],
            (y - K[:, 1:2, 2]) / K[:, 1:2, 1],
            np.ones_like(x),
        ],
        axis=-1,
    )
    steps = np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1)
    steps = steps[steps > 0]
    corners = rays * (_DEPTH * np.median(steps) if len(steps) else 1.0)
    corners = corners @ np.swapaxes(T[:, :3, :3], 1, 2) + T[:, None, :3, 3]
    centre = np.broadcast_to(T[:, None, :3, 3], corners.shape)
    edges = np.stack([centre, corners], axis=2)
    sides = np.stack([corners, np.roll(corners, -1, axis=1)], axis=2)
    return np.concatenate([edges, sides], axis=1)
