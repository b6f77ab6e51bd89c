"""The occupancy grid of a saved map, and its files for map_server: an image and a description.

The first row of the image (PGM) has the highest y. In mode ``trinary`` a pixel of grey ``x``
stands for the probability ``p = (255 - x) / 255``: occupied above ``occupied_thresh``, free below
``free_thresh``, unknown between.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from ..core.atomic_files import atomic_directory
from ..core.config import OccupancyConfig
from ..core.errors import OccupancyError
from ..core.geometry import transform
from .floor import find_floor, Floor
from .occupancy_grid import FREE, occupancy_grid, OccupancyGrid, OCCUPIED
from .saved_map import SavedMap

YAML_NAME, IMAGE_NAME = 'map.yaml', 'map.pgm'

#: The greys of map_saver. Unknown is p = 0.1961, so free_thresh must be lower: 0.25, nav2's former
#: value, makes unknown cells free.
_GREYS = {OCCUPIED: 0, FREE: 254}
_UNKNOWN_GREY = 205
_OCCUPIED_THRESH, _FREE_THRESH = 0.65, 0.196


def ground_plan(
    saved: SavedMap,
    config: OccupancyConfig,
    metres_per_unit: float | None = None,
    level: bool = False,
) -> tuple[OccupancyGrid, np.ndarray]:
    """Return the grid of a map, in metres, and the (4, 4) ``T_grid_map``, which levels the floor.

    :param metres_per_unit: for a map without a metric scale.
    :param level: rotate the map so that its floor is level; otherwise the frame stays.
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
    return occupancy_grid(points, T_grid_optical, intrinsics, config, floor), T_grid_map


def write_grid(
    folder: Path | str, grid: OccupancyGrid, overwrite: bool = False, notes: Sequence[str] = ()
) -> None:
    """Write a folder with ``map.yaml`` and ``map.pgm``.

    :param notes: written as comments.
    :raises OutputError: it exists, is no grid, or cannot be written.
    """
    greys = np.full(grid.cells.shape, _UNKNOWN_GREY, np.uint8)
    for value, grey in _GREYS.items():
        greys[grid.cells == value] = grey
    with atomic_directory(folder, overwrite, marker=YAML_NAME) as temporary:
        header = 'P5\n{1} {0}\n255\n'.format(*greys.shape).encode('ascii')
        (temporary / IMAGE_NAME).write_bytes(header + greys[::-1].tobytes())
        (temporary / YAML_NAME).write_text(_yaml(grid, notes), encoding='utf-8')


def _yaml(grid: OccupancyGrid, notes: Sequence[str]) -> str:
    content = {
        'image': IMAGE_NAME,
        'mode': 'trinary',
        'resolution': grid.resolution,
        'origin': [*grid.origin, 0.0],
        'negate': 0,
        'occupied_thresh': _OCCUPIED_THRESH,
        'free_thresh': _FREE_THRESH,
    }
    comments = ''.join(f'# {note}\n' for note in notes)
    return comments + yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
