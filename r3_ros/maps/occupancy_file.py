"""Occupancy grids as map_server reads them: an image (PGM) and its description (YAML).

The first row of the image has the highest y. In mode ``trinary`` a pixel of grey ``x`` stands
for the probability ``p = (255 - x) / 255``: occupied above ``occupied_thresh``, free below
``free_thresh``, unknown between.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from ..core.atomic_files import atomic_directory
from .occupancy_grid import FREE, OccupancyGrid, OCCUPIED

YAML_NAME, IMAGE_NAME = 'map.yaml', 'map.pgm'

#: The greys of map_saver. Unknown is p = 0.1961, so free_thresh must be lower: 0.25, nav2's former
#: value, makes unknown cells free.
_GREYS = {OCCUPIED: 0, FREE: 254}
_UNKNOWN_GREY = 205
_OCCUPIED_THRESH, _FREE_THRESH = 0.65, 0.196


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
