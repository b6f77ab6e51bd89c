"""The grid of synthetic sequences of ``robustness.py``: worlds, carriers of the camera, troubles.

A cell of the grid is a kind of world, a style of motion and one trouble. A sequence is drawn from
its cell by a seed alone, so the same seed gives the same sequences on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
import math
from typing import NamedTuple

import numpy as np
from r3_ros.core.datatypes import Intrinsics
from r3_ros.core.errors import ConfigError
from r3_ros.learning.synth import materials
from r3_ros.learning.synth.facets import FacetSpec
from r3_ros.learning.synth.kinds import KINDS
from r3_ros.learning.synth.layout import Plan
from r3_ros.learning.synth.materials import Material
from r3_ros.learning.synth.optics import rolling
from r3_ros.learning.synth.path import CameraPath, make_path, PATH_STYLES, PathStyle
from r3_ros.learning.synth.renderer import render_radiance
from r3_ros.learning.synth.sensor import Sensor, SensorOptions, to_bytes
from r3_ros.learning.synth.world import World
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation
import torch

FRAMES = 300
WIDTH, HEIGHT = 640, 480
_INDOORS = ('room', 'corridor', 'objects', 'hall')
_CARRIERS = ('handheld', 'drone', 'wheeled')
#: High above the roofs of a street: everything is tens of metres away.
_AERIAL = PathStyle((16.0, 26.0), (2.0, 6.0), (2.5, 5.0), 9.0, 60, 4.0, 1.0, 3.0, -0.55)
_STYLES = PATH_STYLES | {'aerial': _AERIAL}
_BLUR_STEPS = 5
_ATTEMPTS = 20


@dataclass(frozen=True)
class Trouble:
    """What is hard about a sequence, and in which worlds it is found.

    :ivar kinds: of world; ``styles``: of motion.
    :ivar fov_deg: range of the horizontal field of view.
    :ivar rate_hz: range of the frame rate.
    :ivar sensor: noise, blur, drift of the exposure.
    :ivar stops: brightness, in stops relative to a good exposure.
    :ivar exposure_jumps: sudden changes of the exposure, number in a sequence.
    :ivar readout: time from the first row to the last, as a share of the time between frames.
    :ivar turns_deg_s: peak speed of fast turns; 0 for none.
    :ivar standing: the camera stands and turns for the middle third.
    :ivar plain: share of the surfaces without texture; ``repeated``: with the same pattern.
    :ivar moving: number of moving bodies.
    """

    kinds: tuple[str, ...] = (*_INDOORS, 'street')
    styles: tuple[str, ...] = _CARRIERS
    fov_deg: tuple[float, float] = (58.0, 75.0)
    rate_hz: tuple[float, float] = (15.0, 30.0)
    sensor: SensorOptions = SensorOptions(noise=2.0, motion_blur=0.15)
    stops: float = 0.0
    exposure_jumps: int = 0
    readout: float = 0.0
    turns_deg_s: float = 0.0
    standing: bool = False
    plain: float = 0.0
    repeated: float = 0.0
    moving: int = 0


TROUBLES = {
    'none': Trouble(),
    'fast turns': Trouble(turns_deg_s=110.0),
    'pure rotation': Trouble(styles=('handheld', 'drone'), standing=True),
    'blur': Trouble(sensor=SensorOptions(noise=2.0, motion_blur=0.9), turns_deg_s=50.0),
    'low light': Trouble(sensor=SensorOptions(noise=9.0, motion_blur=0.4), stops=-2.0),
    'exposure jumps': Trouble(exposure_jumps=8, sensor=SensorOptions(noise=2.0, exposure=0.8)),
    'plain walls': Trouble(kinds=('room', 'corridor', 'hall'), plain=0.85),
    'repeated textures': Trouble(kinds=('corridor', 'hall', 'street'), repeated=0.85),
    'far scene': Trouble(kinds=('street',), styles=('aerial',)),
    'straight ahead': Trouble(kinds=('street', 'corridor'), styles=('driving', 'wheeled')),
    'low frame rate': Trouble(rate_hz=(5.0, 7.0)),
    'rolling shutter': Trouble(styles=('handheld', 'drone'), readout=0.8, rate_hz=(24.0, 30.0)),
    'moving bodies': Trouble(moving=4),
    'wide lens': Trouble(fov_deg=(95.0, 110.0)),
    'narrow lens': Trouble(fov_deg=(32.0, 42.0)),
}
#: Beyond what can be tracked: what counts is that no pose is false. Not part of the grid.
BEYOND = {
    'dark turns': Trouble(
        kinds=('room', 'corridor', 'hall'), rate_hz=(8.0, 12.0), turns_deg_s=130.0, plain=0.85,
        sensor=SensorOptions(noise=4.0, motion_blur=0.4), stops=-1.0,
    ),
}  # fmt: skip


class Cell(NamedTuple):
    """One cell of the grid."""

    trouble: str
    kind: str
    style: str

    def __str__(self) -> str:
        return f'{self.trouble}, {self.kind}, {self.style}'


def draw_cells(
    seed: int, count: int, troubles: dict[str, Trouble] = TROUBLES
) -> list[tuple[Cell, int]]:
    """Draw cells, every trouble equally often but for one, each with the seed of a sequence."""
    rng = np.random.default_rng((seed, 90))
    out: list[tuple[Cell, int]] = []
    while len(out) < count:
        for number in rng.permutation(len(troubles)):
            name = list(troubles)[number]
            kind = str(rng.choice(troubles[name].kinds))
            styles = [s for s in troubles[name].styles if s != 'driving' or kind == 'street']
            out.append((Cell(name, kind, str(rng.choice(styles))), int(rng.integers(2**31))))
    return out[:count]


class GridSequence:
    """A sequence of the grid, rendered frame by frame.

    :ivar rate_hz: frames per second.
    :ivar path: true poses of the frames, those of the middle row.
    """

    def __init__(self, cell: Cell, seed: int, frames: int = FRAMES) -> None:
        self.cell = cell
        self.trouble = trouble = (TROUBLES | BEYOND)[cell.trouble]
        rng = np.random.default_rng((seed, 91))
        self.rate_hz = float(rng.uniform(*trouble.rate_hz))
        self.intrinsics = _camera(rng, trouble)
        self.world, carried = _world_and_path(cell, trouble, seed, frames, self.rate_hz)
        self._motion = _Motion(carried, trouble, self.rate_hz, rng)
        self.path = CameraPath(self._motion.poses(carried.time_s), carried.time_s)
        gain = self.world.exposure * 2.0**trouble.stops
        self._sensor = Sensor(trouble.sensor, gain, self.rate_hz, seed)
        self._jumps = _jumps(rng, trouble.exposure_jumps, frames)

    def images(self) -> Iterator[np.ndarray]:
        """Yield the images, (H, W, 3) uint8 RGB."""
        for number, time_s in enumerate(self.path.time_s):
            at = torch.tensor([time_s], dtype=torch.float64)
            readout_s = self.trouble.readout / self.rate_hz
            if readout_s:
                light = rolling(self._light, self.intrinsics, at, readout_s)
            else:
                light = self._light(at, self.intrinsics)
            yield to_bytes(self._sensor.develop(light * float(self._jumps[number]), number))[0]

    def _light(self, time_s: torch.Tensor, camera: Intrinsics) -> torch.Tensor:
        """Return the mean radiance (1, 3, h, W) while the shutter is open."""
        open_s = self.trouble.sensor.motion_blur / self.rate_hz
        shares = (np.arange(_BLUR_STEPS) + 0.5) / _BLUR_STEPS - 0.5 if open_s else np.zeros(1)
        total = torch.zeros(())
        for share in shares:
            at = time_s.numpy() + share * open_s
            T = torch.from_numpy(self._motion.poses(at))
            samples = 2 if share == 0 else 1
            seen = render_radiance(
                self.world, T, camera, time_s=torch.from_numpy(at), samples=samples
            )
            total = total + seen.radiance
        return total / len(shares)


def _camera(rng: np.random.Generator, trouble: Trouble) -> Intrinsics:
    f = WIDTH / 2 / math.tan(math.radians(rng.uniform(*trouble.fov_deg)) / 2)
    cx = (WIDTH - 1) / 2 + WIDTH * rng.uniform(-0.012, 0.012)
    cy = (HEIGHT - 1) / 2 + HEIGHT * rng.uniform(-0.012, 0.012)
    return Intrinsics(f, f * rng.uniform(0.998, 1.002), cx, cy, WIDTH, HEIGHT)


def _world_and_path(
    cell: Cell, trouble: Trouble, seed: int, frames: int, rate_hz: float
) -> tuple[World, CameraPath]:
    """Return the first of some worlds that has room for the path."""
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng((seed, attempt, 92))
        plan = KINDS[cell.kind](rng, trouble.moving)
        if trouble.plain:
            _resurface(plan, rng, trouble.plain, _plain)
        if trouble.repeated:
            _resurface(plan, rng, trouble.repeated, _one_pattern(rng))
        world = World.of_plan(plan, seed=seed, kind=cell.kind)
        style = _STYLES[cell.style]
        try:
            return world, make_path(world, frames, rate_hz, seed + attempt, style)
        except ConfigError:
            continue
    raise ConfigError(f'none of {_ATTEMPTS} worlds of {cell} has room for a path')


def _resurface(
    plan: Plan, rng: np.random.Generator, share: float, material: Callable[[Material], Material]
) -> None:
    """Give a share of the materials of a plan another one, lamps and the sky excepted."""
    new: dict[int, Material] = {}

    def changed(spec: FacetSpec) -> FacetSpec:
        old = spec.material
        if id(old) not in new:
            new[id(old)] = material(old) if rng.uniform() < share else old
        return spec if spec.emission > 0 else replace(spec, material=new[id(old)])

    plan.assembly.facets[:] = [changed(spec) for spec in plan.assembly.facets]


def _plain(old: Material) -> Material:
    """Return paint: one colour with hardly any dirt."""
    tone = 0.25 + 0.4 * (old.seed % 97) / 97
    options = {'colour': (tone, tone * 0.98, tone * 0.95), 'speckle': 0.006}
    return replace(old, painter=materials.plain, options=options, is_image=False)


def _one_pattern(rng: np.random.Generator) -> Callable[[Material], Material]:
    """Return what covers everything with the same checks."""
    first, second = rng.uniform(0.1, 0.3), rng.uniform(0.45, 0.75)
    options = {
        'colour': (first,) * 3, 'second': (second,) * 3, 'cell_m': rng.uniform(0.15, 0.3),
        'style': 0,
    }  # fmt: skip

    def covered(old: Material) -> Material:
        return replace(
            old, painter=materials.tiles, options=options, seed=7, shift_m=(0.0, 0.0),
            is_image=False,
        )  # fmt: skip

    return covered


class _Motion:
    """The motion of the camera: that of its carrier, with stops and turns of its own."""

    def __init__(
        self, carried: CameraPath, trouble: Trouble, rate_hz: float, rng: np.random.Generator
    ) -> None:
        time_s, frames = carried.time_s, len(carried.time_s)
        self._time_s, self._carried = time_s, carried
        self._progress_s, self._yaw = time_s.copy(), np.zeros(frames)
        if trouble.standing:
            self._stand(rate_hz, rng)
        if trouble.turns_deg_s:
            self._turn(math.radians(trouble.turns_deg_s), rate_hz, rng)

    def poses(self, time_s: np.ndarray) -> np.ndarray:
        """Return ``T_world_camera`` (N, 4, 4) at (N,) times."""
        # Extrapolated by the last speed: a shutter is open before the first and after the last.
        progress = _interpolated(time_s, self._time_s, self._progress_s)
        yaw = _interpolated(time_s, self._time_s, self._yaw)
        T = self._carried.interpolated(progress)
        T[:, :3, :3] = Rotation.from_euler('z', yaw[:, None]).as_matrix() @ T[:, :3, :3]
        return T

    def _stand(self, rate_hz: float, rng: np.random.Generator) -> None:
        """Stop for the middle third, and look round to one side and back."""
        frames = len(self._time_s)
        first, last = frames // 3, 2 * frames // 3
        speed = np.ones(frames)
        speed[first:last] = 0.0
        speed = gaussian_filter1d(speed, 0.15 * rate_hz, mode='nearest')
        self._progress_s = np.concatenate(([0.0], np.cumsum(speed[1:]))) / rate_hz
        reach = rng.choice((-1.0, 1.0)) * math.radians(rng.uniform(60.0, 120.0))
        phase = np.clip((np.arange(frames) - first) / (last - first), 0.0, 1.0)
        self._yaw += reach * (1 - np.cos(2 * math.pi * phase)) / 2

    def _turn(self, peak_rad_s: float, rate_hz: float, rng: np.random.Generator) -> None:
        """Turn to a side and back, every few seconds."""
        duration_s = self._time_s[-1]
        begin = rng.uniform(2.0, 3.0)
        while begin + 3.0 < duration_s:
            reach_rad = math.radians(rng.uniform(25.0, 70.0))
            # A turn of cosine shape has pi / 2 times its mean speed at the peak.
            lasts_s = reach_rad * math.pi / 2 / (peak_rad_s * rng.uniform(0.6, 1.0))
            side = rng.choice((-1.0, 1.0))
            for start, sign in ((begin, 1.0), (begin + lasts_s + rng.uniform(0.2, 0.8), -1.0)):
                phase = np.clip((self._time_s - start) / lasts_s, 0.0, 1.0)
                self._yaw += sign * side * reach_rad * (1 - np.cos(math.pi * phase)) / 2
            begin += 2 * lasts_s + rng.uniform(1.5, 3.5)


def _interpolated(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Interpolate linearly, and extrapolate along the first and last piece."""
    k = np.clip(np.searchsorted(x, at) - 1, 0, len(x) - 2)
    return y[k] + (at - x[k]) * (y[k + 1] - y[k]) / (x[k + 1] - x[k])


def _jumps(rng: np.random.Generator, count: int, frames: int) -> np.ndarray:
    """Return (frames,) factors on the exposure that change suddenly."""
    factor = np.ones(frames)
    for start in rng.integers(1, frames, size=count):
        factor[start:] = 2.0 ** rng.uniform(-1.2, 1.0)
    return factor
