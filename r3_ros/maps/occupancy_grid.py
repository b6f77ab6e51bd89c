"""A 2-D occupancy grid for navigation, from a cloud and the poses of the cameras.

Frame: z up, metres. Heights are measured from the floor, which is given or found. A cell is

- *occupied* where at least ``occupancy.min_points`` points lie between ``occupancy.min_height``
  and ``occupancy.max_height`` above the floor;
- *free* where as many points lie on the floor, with few above; or where no point lies between
  those heights and rays of at least three cameras pass through their lower half (the upper half
  is also visible above low furniture). Small islands of such cells without floor points are
  unknown: they were seen past an outlier;
- *unknown* otherwise. Occupied wins over free.

A map does not record which camera saw which point, so each camera is assumed to see the nearest
point in each direction (a coarse depth image of the cloud). Surfaces without points, such as a
white wall, stop no ray.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import cv2
import numpy as np
from scipy.ndimage import label

from ..core.config import OccupancyConfig
from ..core.datatypes import Intrinsics
from ..core.errors import OccupancyError
from ..core.geometry import inverse, transform
from .floor import find_floor, Floor, thinned

UNKNOWN, FREE, OCCUPIED = -1, 0, 100

#: A floor that leans by more is not level, so x and y of the map are no ground plan.
MAX_TILT_RAD = math.radians(5.0)
#: Cameras used, spread evenly over all; more add little.
_MAX_VIEWS = 200
#: Cameras that must have looked through a cell: one may have done so past an outlier.
_FREE_VIEWS = 3
#: A view through this lower share of the band counts for all of it.
_LOOKED_SHARE = 0.5
#: Floor points for each point above that may be an outlier. Under a table both are seen.
_FLOOR_PER_STRAY = 10
#: Least area of an island.
_ISLAND_M2 = 1.0
#: Columns of the depth image of the cloud: coarse, so that surfaces have no holes.
_VIEW_COLUMNS = 48
#: A ray longer than its neighbour by this factor may have passed between two points of a surface.
_SLIPPED = 1.3
_NEAR = 0.05
_MARGIN_CELLS = 2


@dataclass(frozen=True, eq=False)
class OccupancyGrid:
    """The grid, in the frame of the points.

    :ivar cells: (height, width) int8: -1 unknown, 0 free, 100 occupied; row 0 is at the lowest y.
    :ivar resolution: edge of a cell, metres.
    :ivar origin: x and y of the outer corner of cell (0, 0), metres.
    :ivar floor: what heights were measured from.
    """

    cells: np.ndarray
    resolution: float
    origin: tuple[float, float]
    floor: Floor

    def count(self, value: int) -> int:
        """Return the number of cells that are UNKNOWN, FREE or OCCUPIED."""
        return int(np.count_nonzero(self.cells == value))


def occupancy_grid(
    points: np.ndarray,
    T_map_optical: np.ndarray,
    intrinsics: Intrinsics | None,
    config: OccupancyConfig,
    floor: Floor | None = None,
) -> OccupancyGrid:
    """Return the grid of a map.

    :param points: (N, 3) float, metres, z up.
    :param T_map_optical: (V, 4, 4) poses of the cameras, optical axes.
    :param intrinsics: of their undistorted images; None: only the floor itself is free.
    :param floor: None: found (``occupancy.estimate_floor``) or at ``occupancy.floor_height``.
    :raises OccupancyError: no floor is found, it is not level, or the grid would be too large.
    """
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        raise OccupancyError('the map has no points')
    if len(T_map_optical) > _MAX_VIEWS:
        spread = np.linspace(0, len(T_map_optical) - 1, _MAX_VIEWS).round().astype(int)
        T_map_optical = T_map_optical[spread]
    centres = T_map_optical[:, :3, 3]
    if floor is None:
        floor = Floor.at(config.floor_height)
        if config.estimate_floor:
            floor = find_floor(points, T_map_optical)
    if floor.tilt_rad > MAX_TILT_RAD:
        raise OccupancyError(
            f'the floor leans by {math.degrees(floor.tilt_rad):.0f} degrees in the map, so the '
            'map is no ground plan: it is level if the camera was held upright at the first '
            'image, or if base_frame names a level frame; r3 map export --level turns it'
        )
    heights = floor.heights(points)
    obstacles = points[(heights >= config.min_height) & (heights <= config.max_height)]
    ground = points[np.abs(heights) < config.min_height]
    plan = _Plan.around(obstacles, ground, centres, config)
    above, below = plan.counted(obstacles), plan.counted(ground)
    free = (below >= config.min_points) & (_FLOOR_PER_STRAY * above <= below)
    if intrinsics is not None and len(T_map_optical):
        through = _looked_through(plan, points, T_map_optical, intrinsics, floor, config)
        free |= through & (above == 0)
        free = _without_islands(free, below >= config.min_points, config.resolution)
    cells = np.full(plan.shape, UNKNOWN, np.int8)
    cells[free] = FREE
    cells[above >= config.min_points] = OCCUPIED
    return OccupancyGrid(cells, config.resolution, plan.origin, floor)


@dataclass(frozen=True)
class _Plan:
    origin: tuple[float, float]
    shape: tuple[int, int]
    resolution: float

    @classmethod
    def around(
        cls,
        obstacles: np.ndarray,
        ground: np.ndarray,
        centres: np.ndarray,
        config: OccupancyConfig,
    ) -> _Plan:
        """Return the extent of the cameras and of all cells with ``occupancy.min_points``."""
        cells = [np.floor(centres[:, :2] / config.resolution).astype(np.int64)]
        for some in (obstacles, ground):
            # In 64 bits: an outlier may lie anywhere.
            found = np.floor(some[:, :2].astype(np.float64) / config.resolution)
            found = found[(np.abs(found) < 2**31).all(axis=1)].astype(np.int64)
            keys = (found[:, 0] << 32) + found[:, 1]
            _, first, counts = np.unique(keys, return_index=True, return_counts=True)
            cells.append(found[first[counts >= config.min_points]])
        corners = np.concatenate(cells)
        if not len(corners):
            raise OccupancyError(
                f'no cell holds {config.min_points} points (occupancy.min_points) on the floor or '
                'between occupancy.min_height and occupancy.max_height above it'
            )
        low = corners.min(axis=0) - _MARGIN_CELLS
        width, height = (int(n) for n in corners.max(axis=0) + _MARGIN_CELLS + 1 - low)
        if width * height > config.max_cells:
            raise OccupancyError(
                f'the grid would have {width} x {height} cells, and occupancy.max_cells is '
                f'{config.max_cells}: raise it, or occupancy.resolution'
            )
        x, y = (low * config.resolution).tolist()
        return cls((x, y), (height, width), config.resolution)

    def places(self, xy: np.ndarray) -> np.ndarray:
        """Return (..., 2) row and column, fractional."""
        return (xy[..., ::-1] - self.origin[::-1]) / self.resolution

    def counted(self, points: np.ndarray) -> np.ndarray:
        """Return the (H, W) number of points in each cell."""
        rows, columns = np.floor(self.places(points[:, :2].astype(np.float64))).T
        height, width = self.shape
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        index = rows[inside].astype(np.int64) * width + columns[inside].astype(np.int64)
        return np.bincount(index, minlength=height * width).reshape(self.shape)


def _looked_through(
    plan: _Plan,
    points: np.ndarray,
    T_map_optical: np.ndarray,
    intrinsics: Intrinsics,
    floor: Floor,
    config: OccupancyConfig,
) -> np.ndarray:
    """Return the mask of the cells that enough cameras looked through."""
    # Points closer than a cell add no rays.
    points = thinned(points, config.resolution)
    counts = np.zeros(plan.shape, np.uint8)
    for T in T_map_optical:
        ends = _seen_points(points, T, intrinsics)
        starts, ends = _within_band(T[:3, 3], ends, floor, config)
        rays = np.floor(np.stack([plan.places(starts), plan.places(ends)], axis=1))
        passed = np.zeros(plan.shape, np.uint8)
        # As (x, y); OpenCV clips lines to the image.
        cv2.polylines(passed, list(rays[..., ::-1].astype(np.int32)), isClosed=False, color=1)
        counts += passed
    return counts >= min(_FREE_VIEWS, len(T_map_optical))


def _seen_points(points: np.ndarray, T: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Return (M, 3) ends of rays: the nearest point in each direction of a coarse image."""
    seen = transform(inverse(T), points)
    z = seen[:, 2]
    ahead = z > _NEAR
    step = intrinsics.width / _VIEW_COLUMNS
    rows_in_all = max(1, math.ceil(intrinsics.height / step))
    with np.errstate(divide='ignore', invalid='ignore'):
        u = np.floor((seen[:, 0] / z * intrinsics.fx + intrinsics.cx + 0.5) / step)
        v = np.floor((seen[:, 1] / z * intrinsics.fy + intrinsics.cy + 0.5) / step)
    inside = ahead & (u >= 0) & (u < _VIEW_COLUMNS) & (v >= 0) & (v < rows_in_all)
    chosen = np.flatnonzero(inside)
    # The nearest is written last.
    chosen = chosen[np.argsort(-z[chosen], kind='stable')]
    row, column = v[chosen].astype(np.int64), u[chosen].astype(np.int64)
    nearest = np.full((rows_in_all + 2, _VIEW_COLUMNS + 2), np.inf)
    owner = np.full((rows_in_all, _VIEW_COLUMNS), -1)
    nearest[row + 1, column + 1] = z[chosen]
    owner[row, column] = chosen
    around = np.lib.stride_tricks.sliding_window_view(nearest, (3, 3)).min(axis=(2, 3))
    kept = owner[(owner >= 0) & (nearest[1:-1, 1:-1] <= _SLIPPED * around)]
    # Three rays cover the width of a coarse pixel.
    aside = T[:3, 0] * (z[kept, None] * step / intrinsics.fx / 3.0)
    return np.concatenate([points[kept] + shift * aside for shift in (-1.0, 0.0, 1.0)])


def _within_band(
    centre: np.ndarray, ends: np.ndarray, floor: Floor, config: OccupancyConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Return (M, 2) where rays enter and leave the band of heights; others are left out."""
    ends = ends.astype(np.float64)
    first = float(floor.heights(centre[None])[0])
    last = floor.heights(ends)
    low, high = -config.min_height, _LOOKED_SHARE * config.max_height
    climb = np.where(np.abs(last - first) < 1e-9, 1e-9, last - first)
    at_low, at_high = (low - first) / climb, (high - first) / climb
    enter = np.maximum(np.minimum(at_low, at_high), 0.0)
    leave = np.minimum(np.maximum(at_low, at_high), 1.0)
    way = ends[:, :2] - centre[:2]
    # The cell at the end of the ray is not seen through.
    length = np.linalg.norm(way, axis=1)
    leave = np.minimum(leave, 1.0 - config.resolution / np.maximum(length, 1e-9))
    hits = leave > enter
    enter, leave, way = enter[hits, None], leave[hits, None], way[hits]
    return centre[:2] + enter * way, centre[:2] + leave * way


def _without_islands(free: np.ndarray, floor: np.ndarray, resolution: float) -> np.ndarray:
    """Return the free cells whose connected region is large or has floor points."""
    regions, _ = label(free)
    kept = np.bincount(regions.ravel()) * resolution**2 >= _ISLAND_M2
    kept[regions[floor & free]] = True
    kept[0] = False
    return kept[regions]
