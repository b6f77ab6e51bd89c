"""Exposure of frames of a training world: ground truth at an instant, and image degradation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...core.datatypes import Intrinsics
from ..synth.optics import rolling, with_fog, with_shiny_floor
from ..synth.renderer import render_radiance, Rendering
from .training_worlds import RATE_HZ, TrainingWorld

_BLUR_STEPS = 3
#: From the first row to the last, seconds: from industrial cameras to slow phones.
_READOUT_S = (0.005, 0.03)


@dataclass(frozen=True)
class Degradation:
    """The degradation of the images of a clip; 0 where there is none.

    :ivar shutter: share of the time between frames of the path that the shutter is open.
    :ivar readout_s: time from the first row to the last; 0 exposes all rows at once.
    :ivar shine: strength of the reflection in a shiny floor.
    :ivar fog: density, up to 1.
    :ivar tint: (3,) colour of the fog for a sensor of gain 1.
    """

    shutter: float
    readout_s: float
    shine: float
    fog: float
    tint: tuple[float, ...]


def draw_degradation(
    rng: np.random.Generator, other: np.random.Generator, effects: float
) -> Degradation:
    """Draw the degradation of a clip.

    :param other: for the rolling shutter, so that the draws from ``rng`` do not depend on it.
    :param effects: how often, 0 to 1.
    """
    blur, shine, fog = rng.uniform(size=3) < np.array([0.4, 0.25, 0.2]) * effects
    shutter, strength, density = rng.uniform(0.1, 0.8), rng.uniform(0.2, 0.9), rng.uniform(0, 1)
    bright = rng.uniform(0.5, 1.0)
    rolls = other.uniform() < 0.3 * effects
    readout_s = other.uniform(*_READOUT_S)
    return Degradation(
        shutter=shutter * blur,
        readout_s=readout_s * rolls,
        shine=strength * shine,
        fog=density * fog,
        tint=(0.9 * bright, 0.95 * bright, bright),
    )


def expose(
    place: TrainingWorld, frames: np.ndarray, K: Intrinsics, degradation: Degradation
) -> Rendering:
    """Expose frames of the path through a training world.

    Depth and bodies are those at the frame's own time, to which its pose belongs: the middle of
    the exposure, and for a rolling shutter the time of the middle row. So they agree with poses
    and tracks exactly, and with rolling-shutter images at the middle row only.

    :param frames: (S,) frame numbers on the path.
    :returns: S images.
    """

    def instant(time_s: np.ndarray, camera: Intrinsics, samples: int = 4) -> Rendering:
        T = torch.from_numpy(place.path.interpolated(time_s))
        at = torch.from_numpy(time_s)
        return render_radiance(place.world, T, camera, time_s=at, samples=samples)

    times = place.path.time_s[frames]
    seen = instant(times, K)
    known = seen.depth[seen.depth > 0]
    reach_m = float(known.median()) if len(known) else 1.0
    density = 0.02 + 0.4 * degradation.fog / reach_m
    tint = torch.tensor(degradation.tint, dtype=torch.float64) / place.world.exposure

    def through_air(part: Rendering, time_s: np.ndarray, camera: Intrinsics) -> Rendering:
        if degradation.shine:
            T = torch.from_numpy(place.path.interpolated(time_s))
            at = torch.from_numpy(time_s)
            part = with_shiny_floor(place.world, part, T, camera, at, degradation.shine)
        return with_fog(part, camera, density, tint) if degradation.fog else part

    shares = np.linspace(-0.5, 0.5, _BLUR_STEPS) if degradation.shutter else np.zeros(1)

    def light(time_s: Tensor, camera: Intrinsics, middle: Rendering | None = None) -> Tensor:
        total = torch.zeros((), device=seen.depth.device)
        for share in shares:
            at = time_s.numpy() + share * degradation.shutter / RATE_HZ
            if share or middle is None:
                part = instant(at, camera, samples=1 if share else 4)
            else:
                part = middle
            total = total + through_air(part, at, camera).radiance
        return total / len(shares)

    at = torch.from_numpy(times)
    if degradation.readout_s:
        return seen._replace(radiance=rolling(light, K, at, degradation.readout_s))
    return seen._replace(radiance=light(at, K, seen))
