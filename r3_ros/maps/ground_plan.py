"""The occupancy grid of a saved map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.config import OccupancyConfig
from ..core.errors import OccupancyError
from ..core.geometry import transform
from .floor import find_floor, Floor
from .occupancy_grid import occupancy_grid, OccupancyGrid
from .saved_map import SavedMap


@dataclass(frozen=True, eq=False)
class GroundPlan:
    """A grid and its frame.

    :ivar T_grid_map: (4, 4) the rotation that levels the floor; identity without levelling.
    """

    grid: OccupancyGrid
    T_grid_map: np.ndarray


def ground_plan(
    saved: SavedMap,
    config: OccupancyConfig,
    metres_per_unit: float | None = None,
    level: bool = False,
) -> GroundPlan:
    """Return the grid of a map, in metres.

    :param metres_per_unit: for a map without a metric scale.
    :param level: rotate the map so that its floor is level; the grid then has its own frame.
    :raises OccupancyError: the scale is unknown or given twice, or see :func:`occupancy_grid`.
    """
    facts, keyframes = saved.facts, saved.keyframes
    if facts.metres_per_unit is None and metres_per_unit is None:
        raise OccupancyError(
            'the map is in map units, and a grid for navigation needs metres: give the length of '
            'a map unit (r3 map export --metres-per-unit), or map with a scale.source'
        )
    if facts.metres_per_unit is not None and metres_per_unit is not None:
        raise OccupancyError('the map is in metres already: leave --metres-per-unit out')
    unit = 1.0 if metres_per_unit is None else metres_per_unit
    points = saved.points.points * np.float32(unit)
    T_grid_optical = keyframes.T_map_optical.copy()
    T_grid_optical[:, :3, 3] *= unit
    T_grid_map, floor = np.eye(4), None
    if level:
        leaning = find_floor(points, T_grid_optical)
        # The rotation is about the origin, whose height stays.
        T_grid_map, floor = leaning.T_level_frame(), Floor.at(leaning.offset)
        points, T_grid_optical = transform(T_grid_map, points), T_grid_map @ T_grid_optical
    intrinsics = keyframes.intrinsics(-1) if len(keyframes) else None
    grid = occupancy_grid(points, T_grid_optical, intrinsics, config, floor)
    return GroundPlan(grid, T_grid_map)
