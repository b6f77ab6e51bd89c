"""Length of one frame's unit in that of another, from depth of the same surface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math

import numpy as np

from ...core.datatypes import DepthMap
from ...core.geometry import scale_of
from ...maps.cloud import Cloud
from .evidence import FarEdge

_ROUNDS = 8
_LEAST_PIXELS = 100
#: Largest scatter of the logarithms of depth ratios on the same surface.
_SAME_SURFACE = 0.25
#: Maximum number of keyframes, each of which costs a projection of its points.
_KEYFRAMES = 4
#: Smallest standard deviation of the logarithm.
_LEAST_SIGMA = 0.02


def scale_from_depth(
    evidence: Sequence[FarEdge],
    depth: DepthMap | None,
    clouds: Mapping[int, Cloud],
    S_world: Mapping[int, np.ndarray],
) -> tuple[float, float] | None:
    """Return the scale of the correction by the edges, measured with depth.

    :param depth: of one of the edges' frames.
    :returns: its logarithm and standard deviation; None if no depth can be compared.
    """
    if depth is None:
        return None
    found = []
    for edge in evidence:
        if edge.frame_id != depth.frame_id or edge.source_id not in clouds:
            continue
        unit = frame_unit(clouds[edge.source_id], depth, edge.T_source_frame)
        if unit is not None:
            unit_now = float(scale_of(S_world[edge.anchor_id] @ edge.S_anchor_frame))
            found.append(math.log(unit * float(scale_of(S_world[edge.source_id])) / unit_now))
        if len(found) == _KEYFRAMES:
            break
    if not found:
        return None
    scatter = float(np.median(np.abs(np.array(found) - np.median(found))))
    return float(np.median(found)), max(_LEAST_SIGMA, 1.5 * scatter)


def frame_unit(cloud: Cloud, depth: DepthMap, T_source_frame: np.ndarray) -> float | None:
    """Return the length of the frame's unit in that of the source, None if depth does not fit.

    :param cloud: points seen by the source, in its frame and unit.
    :param depth: of the frame, in its own unit.
    :param T_source_frame: (4, 4), lengths in the frame's unit.
    """
    R, t = T_source_frame[:3, :3], T_source_frame[:3, 3]
    K, unit = depth.intrinsics, 1.0
    height, width = depth.depth.shape
    for _ in range(_ROUNDS):
        x, y, z = ((cloud.points / unit - t) @ R).T
        with np.errstate(divide='ignore', invalid='ignore'):
            u, v = np.rint(K.fx * x / z + K.cx), np.rint(K.fy * y / z + K.cy)
        inside = (z > 0) & (u >= 0) & (v >= 0) & (u < width) & (v < height)
        seen = depth.depth[v[inside].astype(np.int64), u[inside].astype(np.int64)]
        known = np.isfinite(seen) & (seen > 0)
        if np.count_nonzero(known) < _LEAST_PIXELS:
            return None
        ratios = np.log(z[inside][known] / seen[known])
        step = float(np.median(ratios))
        unit *= math.exp(step)
        if abs(step) < 1e-4:
            break
    scatter = float(np.median(np.abs(ratios - step)))
    return unit if scatter < _SAME_SURFACE else None
