"""The points of all images until their poses are known, within a bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
import math

import numpy as np

from ...core.config import MapConfig, PointsConfig
from ...core.datatypes import DepthMap
from ...core.geometry import scale_of
from ...maps.cloud import Cloud, cloud_from_depth
from ...streaming.voxel_map import MapView

#: Points held per point of the final map, since several images see the same voxel.
_POINTS_HELD = 4


class ImageClouds:
    """Clouds in the frames and units of their cameras, thinned out alike above the bound."""

    def __init__(self, points: PointsConfig, map_config: MapConfig) -> None:
        # The range limits are in units of the world, which are not known yet.
        self._points = replace(points, min_range=0.0, max_range=0.0)
        self._min_range = points.min_range
        self._max_range = points.max_range or math.inf
        self._map = map_config
        self._clouds: dict[int, Cloud] = {}
        self._every = 1
        self._count = 0

    def add(self, depth_map: DepthMap) -> None:
        """Add the points of an image."""
        if not self._map.enabled:
            return
        cloud = _thinned(cloud_from_depth(depth_map, self._points), self._every)
        self._clouds[depth_map.frame_id] = cloud
        self._count += len(cloud)
        while self._count > _POINTS_HELD * self._map.max_points:
            self._every *= 2
            self._clouds = {i: _thinned(cloud, 2) for i, cloud in self._clouds.items()}
            self._count = sum(map(len, self._clouds.values()))

    def in_world(self, S_world_camera: Mapping[int, np.ndarray]) -> Cloud:
        """Return the map: one point per voxel, evenly thinned out to ``map.max_points``."""
        placed = []
        for frame_id, cloud in self._clouds.items():
            if frame_id in S_world_camera:
                S = S_world_camera[frame_id]
                ranges = np.linalg.norm(cloud.points, axis=1) * float(scale_of(S))
                within = (ranges >= self._min_range) & (ranges <= self._max_range)
                placed.append((cloud.take(within), S))
        return MapView(0, self._map.voxel_size, tuple(placed)).cloud(self._map.max_points)


def _thinned(cloud: Cloud, every: int) -> Cloud:
    return cloud if every == 1 else cloud.take(np.arange(0, len(cloud), every))
