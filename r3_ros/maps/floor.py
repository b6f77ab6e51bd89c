"""The floor of a map: the lowest large plane below the cameras."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from scipy.spatial.transform import Rotation

from ..core.errors import OccupancyError
from ..core.geometry import make_T

#: Largest tilt of the floors searched.
_SEARCHED_TILT_RAD = math.radians(45.0)
#: Largest tilt of a floor from the cameras' up direction, which is used if they turned sideways
#: by this many times their roll.
_UPRIGHT_RAD = math.radians(8.0)
_TURNED_OVER_ROLLED = 2.0
#: Number of points in the search.
_FLOOR_SAMPLE = 6000
#: Share of the points that must lie on the floor.
_LEAST_FLOOR_SHARE = 0.02
#: Largest change of the normal when a floor is refined.
_REFINED_RAD = math.radians(5.0)
#: Least standard deviation of its points along its narrow side, metres.
_LEAST_FLOOR_SPREAD = 0.1
#: Share of the points that may be outliers below the floor.
_STRAY_SHARE = 0.02
#: Points of a floor may lie this far below it.
_NOISE_M = 0.1
#: Weight of points below a floor against those on it: a table is no floor.
_BELOW_PENALTY = 4.0


@dataclass(frozen=True, eq=False)
class Floor:
    """The plane ``normal . p = offset``; ``normal`` is a (3,) unit vector that points up."""

    normal: np.ndarray
    offset: float

    @classmethod
    def at(cls, height: float) -> Floor:
        """Return a level floor."""
        return cls(np.array([0.0, 0.0, 1.0]), height)

    @property
    def tilt_rad(self) -> float:
        return math.acos(min(1.0, max(-1.0, float(self.normal[2]))))

    def heights(self, points: np.ndarray) -> np.ndarray:
        """Return (N,) heights of (N, 3) points above the floor."""
        kind = points.dtype
        return np.asarray(points @ self.normal.astype(kind)) - kind.type(self.offset)

    def T_level_frame(self) -> np.ndarray:
        """Return the (4, 4) smallest rotation about the origin that levels the floor."""
        axis = np.array([self.normal[1], -self.normal[0], 0.0])
        sine = np.linalg.norm(axis)
        turn = axis * np.arctan2(sine, self.normal[2]) / max(sine, 1e-12)
        return make_T(Rotation.from_rotvec(turn).as_matrix(), np.zeros(3))


def find_floor(points: np.ndarray, T_map_optical: np.ndarray) -> Floor:
    """Return the lowest large plane below the cameras, at most 45 degrees from level.

    A coarse-to-fine search over directions and heights; points on the plane count for it, those
    below against it. Cameras held upright bound the direction.

    :param points: (N, 3), metres, z roughly up; ``T_map_optical``: (V, 4, 4) of the cameras.
    :raises OccupancyError: there is none.
    """
    points = thinned(points, 0.05).astype(np.float64)
    if len(points) > _FLOOR_SAMPLE:
        chosen = np.random.default_rng(0).choice(len(points), _FLOOR_SAMPLE, replace=False)
        points = points[chosen]
    normal, centres = np.array([0.0, 0.0, 1.0]), T_map_optical[:, :3, 3]
    # Finer directions need thinner layers.
    for reach_deg, step_deg, thickness in ((45.0, 4.0, 0.2), (4.0, 1.0, 0.1), (1.0, 0.5, 0.06)):
        normals = _directions_about(normal, math.radians(reach_deg), math.radians(step_deg))
        normals = _upright(normals, T_map_optical[:, :3, 0])
        normal, offset, support = _best_layer(points, centres, normals, thickness)
    if support >= max(30.0, _LEAST_FLOOR_SHARE * len(points)):
        floor = _fitted_floor(points, normal, offset)
        if floor is not None:
            return floor
    raise OccupancyError(
        'no floor was found below the cameras: give its height (occupancy.floor_height with '
        'occupancy.estimate_floor false, or r3 map export --floor-height)'
    )


def _fitted_floor(points: np.ndarray, normal: np.ndarray, offset: float) -> Floor | None:
    """Fit a plane to the points near one; None if it turns away, as for a wall or a ramp."""
    start = normal
    for _ in range(3):
        on_floor = points[np.abs(points @ normal - offset) < 0.04]
        if len(on_floor) < 3:
            return None
        middle = on_floor.mean(axis=0)
        spread, axes = np.linalg.svd(on_floor - middle, full_matrices=False)[1:]
        if spread[1] < _LEAST_FLOOR_SPREAD * math.sqrt(len(on_floor)):
            return None
        normal = axes[2] if axes[2, 2] > 0 else -axes[2]
        if normal @ start < math.cos(_REFINED_RAD):
            return None
        offset = float(normal @ middle)
    return Floor(normal, offset)


def _directions_about(normal: np.ndarray, reach: float, step: float) -> np.ndarray:
    """Return (K, 3) unit vectors in a cone, about ``step`` radians apart."""
    slopes = np.arange(-math.ceil(reach / step), math.ceil(reach / step) + 1) * step
    a, b = np.meshgrid(slopes, slopes)
    inside = np.hypot(a, b) <= reach + 1e-9
    a, b = a[inside], b[inside]
    side = np.cross(normal, [0.0, 1.0, 0.0])
    side /= np.linalg.norm(side)
    tilt = np.hypot(a, b)
    lean = np.tan(tilt) / np.maximum(tilt, 1e-9)
    directions = normal + (lean * a)[:, None] * side + (lean * b)[:, None] * np.cross(normal, side)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions[directions[:, 2] >= math.cos(_SEARCHED_TILT_RAD) - 1e-9]


def _upright(normals: np.ndarray, rights: np.ndarray) -> np.ndarray:
    """Return the normals near the up direction of upright cameras; all if it is unknown.

    The x axes of upright cameras are level, so up is perpendicular to all of them. It is known
    if the cameras turned sideways by more than they rolled.

    :param rights: (V, 3) the x axes of the cameras.
    """
    if len(rights) < 3:
        return normals
    squares, axes = np.linalg.eigh(rights.T @ rights / len(rights))
    up = axes[:, 0] * np.sign(axes[2, 0])
    if squares[1] < _TURNED_OVER_ROLLED**2 * squares[0] or up[2] < math.cos(_SEARCHED_TILT_RAD):
        return normals
    near = normals[normals @ up >= math.cos(_UPRIGHT_RAD)]
    return near if len(near) else normals


def _best_layer(
    points: np.ndarray, centres: np.ndarray, normals: np.ndarray, thickness: float
) -> tuple[np.ndarray, float, float]:
    """Return normal, height and number of points of the layer with the best score."""
    best = (normals[0], 0.0, -math.inf, 0.0)
    for normal in normals:
        heights = np.sort(points @ normal)
        below = np.arange(len(heights))
        on_layer = np.searchsorted(heights, heights + thickness, side='right') - below
        far_below = np.searchsorted(heights, heights - _NOISE_M, side='right')
        scores = on_layer - _BELOW_PENALTY * np.maximum(far_below - _STRAY_SHARE * len(points), 0)
        if len(centres):
            eye = float(np.median(centres @ normal))
            scores = np.where(heights + thickness < eye, scores, -math.inf)
        chosen = int(np.argmax(scores))
        if scores[chosen] > best[2]:
            middle = float(heights[chosen : chosen + int(on_layer[chosen])].mean())
            best = (normal, middle, float(scores[chosen]), float(on_layer[chosen]))
    normal, offset, score, support = best
    return normal, offset, support if math.isfinite(score) else 0.0


def thinned(points: np.ndarray, voxel_size: float) -> np.ndarray:
    """Return the first of the (N, 3) points in every voxel, without those beyond 2**20 voxels."""
    cells = np.floor(points.astype(np.float64) / voxel_size)
    inside = (np.abs(cells) < 2**20).all(axis=1)
    points, cells = points[inside], cells[inside].astype(np.int64) + 2**20
    keys = (cells[:, 0] << 42) | (cells[:, 1] << 21) | cells[:, 2]
    return points[np.unique(keys, return_index=True)[1]]
