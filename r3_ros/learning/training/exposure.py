"""How frames of a scene are exposed: the truth of an instant, and what the light goes through."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...core.datatypes import Intrinsics
from ..synth import render_radiance, Rendering
from ..synth.optics import with_fog, with_shiny_floor
from ..synth.shutter import rolling
from .training_worlds import RATE_HZ, Scene

_BLUR_STEPS = 3
#: From the first row to the last, seconds: from industrial cameras to slow phones.
_READOUT_S = (0.005, 0.03)


@dataclass(frozen=True)
class Troubles:
    """What the pictures of a clip suffer from; 0 where they do not.

    :ivar shutter: share of the time between frames of the path that the shutter is open.
    :ivar readout_s: time from the first row to the last; 0 exposes all rows at once.
    :ivar shine: strength of a floor that mirrors.
    :ivar fog: how thick it is, up to 1.
    :ivar tint: (3,) colour of the fog for a sensor of gain 1.
    """

    shutter: float
    readout_s: float
    shine: float
    fog: float
    tint: tuple[float, ...]


def draw_troubles(
    rng: np.random.Generator, other: np.random.Generator, effects: float
) -> Troubles:
    """Draw the troubles of a clip.

    :param other: for the shutter's rolling, so that what ``rng`` gives does not depend on it.
    :param effects: how often, 0 to 1.
    """
    blur, shine, fog = rng.uniform(size=3) < np.array([0.4, 0.25, 0.2]) * effects
    shutter, strength, density = rng.uniform(0.1, 0.8), rng.uniform(0.2, 0.9), rng.uniform(0, 1)
    bright = rng.uniform(0.5, 1.0)
    rolls = other.uniform() < 0.3 * effects
    readout_s = other.uniform(*_READOUT_S)
    return Troubles(
        shutter=shutter * blur,
        readout_s=readout_s * rolls,
        shine=strength * shine,
        fog=density * fog,
        tint=(0.9 * bright, 0.95 * bright, bright),
    )


def expose(scene: Scene, frames: np.ndarray, K: Intrinsics, troubles: Troubles) -> Rendering:
    """Expose frames of a scene's path.

    Depth and bodies are those of the frame's own time, to which its pose belongs: the middle of
    the exposure, and of a rolling shutter the time of the middle row. So they agree with poses
    and tracks exactly, and with rolled pictures at the middle row alone.

    :param frames: (S,) numbers of frames of the path.
    :returns: S pictures.
    """
    times = scene.path.time_s[frames]
    seen = _instant(scene, times, K)
    known = seen.depth[seen.depth > 0]
    air = _Air(scene, troubles, float(known.median()) if len(known) else 1.0)
    shares = np.linspace(-0.5, 0.5, _BLUR_STEPS) if troubles.shutter else np.zeros(1)

    def light(time_s: Tensor, camera: Intrinsics, middle: Rendering | None = None) -> Tensor:
        total = torch.zeros((), device=seen.depth.device)
        for share in shares:
            at = time_s.numpy() + share * troubles.shutter / RATE_HZ
            if share or middle is None:
                part = _instant(scene, at, camera, samples=1 if share else 4)
            else:
                part = middle
            total = total + air.through(part, at, camera).radiance
        return total / len(shares)

    at = torch.from_numpy(times)
    if troubles.readout_s:
        return replace(seen, radiance=rolling(light, K, at, troubles.readout_s))
    return replace(seen, radiance=light(at, K, seen))


def _instant(scene: Scene, time_s: np.ndarray, camera: Intrinsics, samples: int = 4) -> Rendering:
    """Render what an ideal camera on the path sees at (S,) times."""
    T = torch.from_numpy(scene.path.interpolated(time_s))
    at = torch.from_numpy(time_s)
    return render_radiance(scene.world, T, camera, time_s=at, samples=samples)


class _Air:
    """What lies between the world and the camera, the same for all of a clip."""

    def __init__(self, scene: Scene, troubles: Troubles, reach_m: float) -> None:
        self._scene, self._troubles = scene, troubles
        self._density = 0.02 + 0.4 * troubles.fog / reach_m
        self._tint = torch.tensor(troubles.tint, dtype=torch.float64) / scene.world.exposure

    def through(self, seen: Rendering, time_s: np.ndarray, camera: Intrinsics) -> Rendering:
        """Return a rendering of (S,) times with shiny floors and fog."""
        if self._troubles.shine:
            T = torch.from_numpy(self._scene.path.interpolated(time_s))
            times = torch.from_numpy(time_s)
            world, strength = self._scene.world, self._troubles.shine
            seen = with_shiny_floor(world, seen, T, camera, times, strength)
        if self._troubles.fog:
            seen = with_fog(seen, camera, self._density, self._tint)
        return seen
