"""Clips of procedural worlds: frames of a path, a camera, exact truth, degraded images."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
import torch
from torch import Tensor

from ...core.datatypes import Intrinsics
from ...input.network_input import fov_of
from ..synth.optics import rolling, with_fog, with_shiny_floor
from ..synth.renderer import render_radiance, Rendering
from ..synth.sensor import jpeg_compressed
from .clips import camera_numbers, camera_rays, Clips
from .training_worlds import RATE_HZ, TrainingWorld

#: Range of horizontal fields of view, degrees.
_FOV_DEG = (42.0, 95.0)
#: Range of JPEG qualities, from compressed streams and cheap cameras to the best.
_JPEG_QUALITY = (30, 96)
#: Most frames of a path from one frame of a clip to the next.
LONGEST_STRIDE = 14
_BLUR_STEPS = 3
#: From the first row to the last, seconds: from industrial cameras to slow phones.
_READOUT_S = (0.005, 0.03)


def render_clip(
    place: TrainingWorld,
    rng: np.random.Generator,
    frames: np.ndarray,
    K: Intrinsics,
    effects: float,
) -> Clips:
    """Render frames of a path as one clip (B = 1), with a degradation drawn for it.

    :param frames: (S,) frame numbers on the path.
    :param effects: how often images are degraded, 0 to 1.
    """
    # Effects that were added later have their own generator, so that the other draws are the same.
    bits = rng.bit_generator
    assert isinstance(bits, np.random.PCG64)  # as default_rng makes them
    other = np.random.Generator(bits.jumped())
    seen = expose(place, frames, K, draw_degradation(rng, other, effects))
    values = torch.cat(
        [place.sensor.develop(seen.radiance[i : i + 1], int(f)) for i, f in enumerate(frames)]
    )
    values = _post_processed(values, rng, effects)
    images = (values * 255 + 0.5).to(torch.uint8)
    if other.uniform() < 0.4 * effects:
        images = jpeg_compressed(images, int(other.integers(*_JPEG_QUALITY)))
    device = seen.depth.device
    T = torch.from_numpy(place.path.T_world_camera[frames])
    T_first_camera = (torch.linalg.inv(T[:1]) @ T).to(device)
    fov = torch.tensor(fov_of(K), dtype=torch.float32, device=device)
    return Clips(
        images=images[None],
        depth=seen.depth[None],
        rays=camera_rays(camera_numbers(K, device), K.height, K.width),
        T_world_camera=T_first_camera.float()[None],
        fov=fov[None],
        moving=seen.moving[None],
    )


def draw_frames(
    rng: np.random.Generator,
    length: int,
    views: int,
    onward: bool = False,
    longest: int = LONGEST_STRIDE,
) -> np.ndarray:
    """Return (views,) frames of a path: onward, there and back again, or in any order.

    There and back, a clip revisits its first views; unordered photo collections come in any
    order.

    :param longest: most frames of the path from one view to the next.
    """
    longest = min(longest, (length - 1) // max(views - 1, 1))
    stride = int(round(math.exp(rng.uniform(0, math.log(max(longest, 1))))))
    share = [1.0, 0.0, 0.0] if onward else [0.65, 0.2, 0.15]
    pattern = rng.choice(['onward', 'back', 'any'], p=share)
    steps = np.arange(views)
    if pattern == 'back' and views > 3:
        turn = int(rng.integers(views // 2, views - 1))
        steps = np.where(steps <= turn, steps, 2 * turn - steps + rng.uniform(0, 0.5))
        steps = np.maximum(steps, 0)
    span = int(steps.max() * stride)
    start = int(rng.integers(0, max(length - span, 1)))
    jitter = rng.integers(0, max(stride // 3, 1), size=views) * (not onward)
    frames = np.clip(start + np.round(steps * stride).astype(int) + jitter, 0, length - 1)
    if pattern == 'any':
        rng.shuffle(frames)
    return frames[::-1].copy() if rng.uniform() < 0.3 else frames


def draw_intrinsics(rng: np.random.Generator, width: int, height: int) -> Intrinsics:
    """Draw a camera: any field of view, nearly square pixels, nearly centred."""
    fov = math.radians(rng.uniform(*_FOV_DEG))
    f = max(width, height) / 2 / math.tan(fov / 2)
    cx = (width - 1) / 2 + width * rng.normal(0, 0.006)
    cy = (height - 1) / 2 + height * rng.normal(0, 0.006)
    return Intrinsics(f, f * rng.uniform(0.99, 1.01), cx, cy, width, height)


def _post_processed(values: Tensor, rng: np.random.Generator, effects: float) -> Tensor:
    """Change contrast, saturation and white balance, or turn to grey; one draw for a clip."""
    grey, contrast, saturation = rng.uniform(), rng.normal(0, 0.12), rng.uniform(0.6, 1.4)
    white = torch.tensor(np.exp(rng.normal(0, 0.06, 3)), dtype=values.dtype, device=values.device)
    level = values.mean(1, keepdim=True)
    if grey < 0.15 * effects:
        return level.expand_as(values)
    values = level + (values - level) * saturation
    values = 0.5 + (values - 0.5) * (1 + contrast)
    return (values * white[None, :, None, None]).clamp(0, 1)


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
