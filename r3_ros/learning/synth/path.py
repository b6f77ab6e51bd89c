"""Camera paths: smooth, in free space, with loops that return to the start.

The way is a closed curve around the world's loop, pushed away from all solids; speed, viewing
direction and the small motions of the carrier are filtered noise on top of it. A finished path
that violates the limits of its style is drawn again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import math
from typing import TypeAlias

import numpy as np
from scipy.ndimage import gaussian_filter1d, map_coordinates
from scipy.spatial.transform import Rotation

from ...core.errors import ConfigError
from ...core.geometry import make_T
from .facets import Solid
from .world import World

MIN_CLEARANCE_M = 0.5
_ATTEMPTS = 24
_COMFORT_M = 0.75  # below this clearance the way is pushed away
_TURN_PER_S = 0.33  # mean rotation of the camera on a lap, radians at most
#: Clearances beyond this are not told apart.
_FARTHEST_M = 1000.0
# Of the grid of clearances: a street is coarser than a room.
_LEAST_CELL_M = 0.05
_CELLS = 300  # along the longer side, at most
_Space: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class PathStyle:
    """The motion of the camera's carrier; amplitudes are relative to a walking person.

    :ivar height_m: range of the camera's height above the floor.
    :ivar speed_m_s: range of the mean speed on a closed path, ``open_speed_m_s`` on an open one.
    :ivar max_speed_m_s: limit at any time; ``max_turn_deg_s`` likewise.
    :ivar steps: amplitude of vertical motion and tremor, ``gaze`` of yaw and pitch, ``tilt`` of
        roll.
    :ivar pitch: radians, added to a walker's mean pitch.
    """

    height_m: tuple[float, float]
    speed_m_s: tuple[float, float]
    open_speed_m_s: tuple[float, float]
    max_speed_m_s: float
    max_turn_deg_s: float
    steps: float = 1.0
    gaze: float = 1.0
    tilt: float = 1.0
    pitch: float = 0.0


HANDHELD = PathStyle((1.3, 1.55), (0.35, 0.9), (0.45, 0.6), 1.2, 40.0)
#: By name. Wheeled carriers neither step nor roll; a drone does both, slowly.
PATH_STYLES = {
    'handheld': HANDHELD,
    'drone': PathStyle((1.0, 2.1), (0.3, 1.6), (0.5, 1.2), 2.2, 60, 4.0, 1.3, 4.0, -0.15),
    'wheeled': PathStyle((0.4, 1.1), (0.25, 1.0), (0.3, 0.7), 1.4, 45, 0.02, 0.35, 0.05, 0.1),
    'driving': PathStyle((1.2, 1.8), (2.0, 7.0), (2.5, 6.0), 10, 60, 0.05, 0.12, 0.15, 0.05),
}


@dataclass(frozen=True, eq=False)
class CameraPath:
    """Poses of a camera over time.

    :ivar T_world_camera: (F, 4, 4) float64, optical camera axes.
    :ivar time_s: (F,) float64, seconds, from 0.
    """

    T_world_camera: np.ndarray
    time_s: np.ndarray

    def interpolated(self, time_s: np.ndarray) -> np.ndarray:
        """Return (N, 4, 4) poses at (N,) times in seconds, extrapolated beyond the ends."""
        if len(self.time_s) < 2:
            return np.repeat(self.T_world_camera, len(time_s), axis=0)
        k = np.clip(np.searchsorted(self.time_s, time_s) - 1, 0, len(self.time_s) - 2)
        share = (time_s - self.time_s[k]) / (self.time_s[k + 1] - self.time_s[k])
        first, second = self.T_world_camera[k], self.T_world_camera[k + 1]
        R, t = first[:, :3, :3], first[:, :3, 3]
        turn = Rotation.from_matrix(np.einsum('nji,njk->nik', R, second[:, :3, :3])).as_rotvec()
        part = Rotation.from_rotvec(share[:, None] * turn).as_matrix()
        return make_T(R @ part, t + share[:, None] * (second[:, :3, 3] - t))


def clearance(solids: tuple[Solid, ...], points: np.ndarray) -> np.ndarray:
    """Return the distance of (N, 3) points to the nearest solid, 0 inside one; metres."""
    distance = np.full(len(points), np.inf)
    for s in solids:
        rel = points - s.centre
        c, si = math.cos(s.yaw), math.sin(s.yaw)
        x, y = c * rel[:, 0] + si * rel[:, 1], -si * rel[:, 0] + c * rel[:, 1]
        outside = np.maximum(np.abs(np.stack((x, y, rel[:, 2]), 1)) - s.half, 0)
        distance = np.minimum(distance, np.linalg.norm(outside, axis=1))
    return distance


def make_path(
    world: World, frames: int, rate_hz: float, seed: int, style: PathStyle = HANDHELD
) -> CameraPath:
    """Draw a path through a world; one that is long enough closes: it ends with its first pose.

    :raises ConfigError: no path in this world keeps the limits.
    """
    height = np.random.default_rng((seed, 76)).uniform(*style.height_m)
    space = _free_space(world, height)
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng((seed, attempt, 77))
        # Amplitudes decrease from attempt to attempt.
        calm = 1 - 0.8 * attempt / _ATTEMPTS
        way = _closed_way(world, space, rng)
        if way is not None:
            path = _draw(world, way, height, frames, rate_hz, rng, calm, style)
            if _keeps_limits(world, path, rate_hz, style):
                return path
    raise ConfigError(
        f'no camera path fits into world {world.seed} of kind {world.kind}: use another seed'
    )


def turn_rates_deg_s(T_world_camera: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return the (F - 1,) angular speeds between successive poses."""
    R = T_world_camera[:, :3, :3]
    relative = np.einsum('fji,fjk->fik', R[:-1], R[1:])
    cosine = (np.trace(relative, axis1=1, axis2=2) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1))) * rate_hz


def _keeps_limits(world: World, path: CameraPath, rate_hz: float, style: PathStyle) -> bool:
    position = path.T_world_camera[:, :3, 3]
    speed = np.linalg.norm(np.diff(position, axis=0), axis=1) * rate_hz
    turn = turn_rates_deg_s(path.T_world_camera, rate_hz)
    return bool(
        clearance(world.solids, position).min() >= MIN_CLEARANCE_M
        and (speed <= style.max_speed_m_s).all()
        and (turn <= style.max_turn_deg_s).all()
    )


def _draw(
    world: World,
    way: _Way,
    height: float,
    frames: int,
    rate_hz: float,
    rng: np.random.Generator,
    calm: float,
    style: PathStyle,
) -> CameraPath:
    """Draw one path along a way; ``calm`` scales all deviations from it."""
    time_s = np.arange(frames) / rate_hz
    s, closes = _progress(way, frames, rate_hz, rng, style)

    def wander(amplitude: float, period_s: float) -> np.ndarray:
        return amplitude * calm * _smooth_noise(time_s, period_s, frames / rate_hz, rng)

    s = s + way.straight_start(rng)
    xy = way.at(s)
    heading = way.heading(s)
    z = height + wander(0.06 * style.steps, 4.0)
    z += 0.012 * style.steps * calm * np.sin(2 * math.pi * 1.7 * time_s + wander(1.0, 3.0))
    position = np.column_stack((xy, z))
    position += calm * np.column_stack([wander(0.004 * style.steps, 0.5) for _ in range(3)])
    if world.look == 'across':
        centre = world.loop.mean(0)
        yaw = np.unwrap(np.arctan2(*(centre - xy).T[::-1])) + wander(0.35 * style.gaze, 7.0)
        pitch = -0.17 + style.pitch + wander(0.14 * style.gaze, 5.0)
    else:
        side = rng.choice((-1.0, 1.0))
        # Rotation at corners is spread over seconds, before and after them.
        heading = gaussian_filter1d(heading, 1.5 * rate_hz, mode='nearest')
        # First look sideways: a monocular system needs sideways motion to start.
        turn_in = 0.5 * np.exp(-((time_s / 2.5) ** 2))
        turn_in += 0.5 * closes * np.exp(-(((time_s[-1] - time_s) / 2.5) ** 2))
        yaw = heading + side * style.gaze * (0.25 + turn_in) + wander(0.3 * style.gaze, 5.0)
        pitch = -0.08 + style.pitch + wander(0.1 * style.gaze, 4.0)
    tremor = min(style.steps, 1.0)
    yaw = yaw + wander(0.006 * tremor, 0.4)
    pitch = pitch + wander(0.006 * tremor, 0.4)
    roll = wander(0.03 * style.tilt, 3.0) + wander(0.004 * tremor, 0.4)
    return CameraPath(_look(position, yaw, pitch, roll), time_s)


def _smooth_noise(
    time_s: np.ndarray, period_s: float, duration_s: float, rng: np.random.Generator
) -> np.ndarray:
    """Return noise of unit deviation and a period of about ``period_s``.

    On paths of at least two periods it ends with its first value, so that the path can close.
    """
    span_s = duration_s if duration_s >= 2 * period_s else 4 * period_s
    tau, cycles = 2 * math.pi * time_s / span_s, span_s / period_s
    top = max(1, round(cycles * 1.5))
    low = max(1, round(cycles * 0.5))
    waves = np.unique(np.linspace(low, top, min(8, top - low + 1)).round())
    total = np.zeros_like(tau)
    for k in waves:
        total += np.cos(k * tau + rng.uniform(0, 2 * math.pi)) * rng.uniform(0.5, 1)
    return total * math.sqrt(2 / len(waves)) / 0.76


@dataclass(frozen=True, eq=False)
class _Way:
    """A closed curve: (M, 2) points ``step_m`` apart."""

    points: np.ndarray
    step_m: float

    @property
    def length_m(self) -> float:
        return len(self.points) * self.step_m

    def at(self, s: np.ndarray) -> np.ndarray:
        """Return (N, 2) points at arc lengths ``s``, which wrap around."""
        grid = np.arange(len(self.points) + 1) * self.step_m
        closed = np.vstack((self.points, self.points[:1]))
        s = np.mod(s, self.length_m)
        return np.column_stack([np.interp(s, grid, closed[:, k]) for k in range(2)])

    def heading(self, s: np.ndarray) -> np.ndarray:
        """Return (N,) smoothed directions of the curve, radians, unwrapped."""
        ahead = self.at(s + 0.4) - self.at(s - 0.4)
        return np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0]))

    def straight_start(self, rng: np.random.Generator) -> float:
        """Return an arc length at which the way is nearly straight."""
        starts = rng.uniform(0, self.length_m, size=12)
        ahead = np.linspace(0, 2.5, 9)
        bends = [float(np.ptp(self.heading(s + ahead))) for s in starts]
        return float(starts[int(np.argmin(bends))])


def _free_space(world: World, height: float) -> _Space:
    """Return a look-up of clearance over the range of heights of the camera.

    It takes (N, 2) points and returns (N,) clearances and their (N, 2) gradients.
    """
    origin = world.loop.min(0) - 1.5
    extent = world.loop.max(0) + 1.5 - origin
    cell_m = max(_LEAST_CELL_M, float(extent.max()) / _CELLS)
    size = np.ceil(extent / cell_m).astype(int)
    x, y = (origin[k] + np.arange(size[k]) * cell_m for k in range(2))
    grid = np.stack(np.meshgrid(x, y, indexing='ij'), -1).reshape(-1, 2)
    reach = MIN_CLEARANCE_M + 0.6
    near = tuple(s for s in world.solids if abs(s.centre[2] - height) < s.half[2] + reach)
    bands = [
        clearance(near, np.column_stack((grid, np.full(len(grid), height + dz))))
        for dz in (-0.12, 0.0, 0.12)
    ]
    # Finite where nothing is near, high above a street: gradients are taken.
    distance = np.minimum.reduce([*bands, np.full(len(grid), _FARTHEST_M)]).reshape(size)
    layers = (distance, *np.gradient(distance, cell_m))

    def look_up(xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cells = ((xy - origin) / cell_m).T
        at, *slope = (map_coordinates(v, cells, order=1, mode='nearest') for v in layers)
        return at, np.column_stack(slope)

    return look_up


def _closed_way(world: World, space: _Space, rng: np.random.Generator) -> _Way | None:
    """Bend the world's loop into a smooth closed curve that keeps clear of solids."""
    corners = world.loop + rng.normal(0, 0.15, size=world.loop.shape)
    if rng.uniform() < 0.5:
        corners = corners[::-1]
    corners = np.roll(corners, rng.integers(len(corners)), axis=0)
    points = _resample(corners, 0.05)
    for _ in range(80):
        distance, slope = space(points)
        push = 0.6 * np.clip(_COMFORT_M - distance, 0, 0.3)[:, None] * slope
        # Smooth the push, not the curve, which would shrink every time.
        points = points + gaussian_filter1d(push, 5.0, axis=0, mode='wrap')
    points = gaussian_filter1d(_resample(points, 0.05), 5.0, axis=0, mode='wrap')
    points = _resample(points, 0.02)
    points = gaussian_filter1d(points, 12.0, axis=0, mode='wrap')
    points = _resample(points, 0.02)
    if space(points)[0].min() < MIN_CLEARANCE_M + 0.02:
        return None
    step = np.linalg.norm(np.diff(np.vstack((points, points[:1])), axis=0), axis=1)
    return _Way(points, float(step.mean()))


def _resample(points: np.ndarray, step_m: float) -> np.ndarray:
    """Return a closed polyline with evenly spaced points."""
    closed = np.vstack((points, points[:1]))
    along = np.concatenate(([0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))))
    n = max(8, round(along[-1] / step_m))
    s = np.arange(n) * along[-1] / n
    return np.column_stack([np.interp(s, along, closed[:, k]) for k in range(2)])


def _progress(
    way: _Way, frames: int, rate_hz: float, rng: np.random.Generator, style: PathStyle
) -> tuple[np.ndarray, bool]:
    """Return the arc length at each frame, and whether the path closes."""
    duration = frames / rate_hz
    laps = round(duration * rng.uniform(0.5, 0.62) / way.length_m)
    laps = max(1, min(laps, int(duration * _TURN_PER_S / (2 * math.pi))))
    mean = laps * way.length_m / duration
    closes = style.speed_m_s[0] * 0.6 <= mean <= style.speed_m_s[1]
    if not closes:
        mean = rng.uniform(*style.open_speed_m_s)
    pace = 1 + 0.2 * _smooth_noise(np.arange(frames) / rate_hz, 6.0, duration, rng)
    pace = np.clip(pace, 0.4, 1.3)
    s = np.concatenate(([0.0], np.cumsum((pace[1:] + pace[:-1]) / 2)))
    if frames > 1:
        # A closing path stops one step short of its start, as the noise does.
        s *= mean * duration * (frames - 1) / frames / s[-1]
    return s, closes


def _look(
    position: np.ndarray, yaw: np.ndarray, pitch: np.ndarray, roll: np.ndarray
) -> np.ndarray:
    """Return (F, 4, 4) poses of positions and yaw, upward pitch and roll in radians."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    forward = np.stack((cy * cp, sy * cp, sp), 1)
    right = np.stack((sy, -cy, np.zeros_like(yaw)), 1)
    down = np.cross(forward, right)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    return make_T(np.stack((c * right + s * down, c * down - s * right, forward), -1), position)
