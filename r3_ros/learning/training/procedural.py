"""Clips of procedural worlds: frames of a path, a camera, and degradation of the images."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ...core.datatypes import Intrinsics
from ...input.network_input import fov_of
from ..synth.sensor import jpeg_compressed
from .clips import camera_numbers, camera_rays, Clips
from .exposure import draw_degradation, expose
from .training_worlds import TrainingWorld

#: Range of horizontal fields of view, degrees.
_FOV_DEG = (42.0, 95.0)
#: Range of JPEG qualities, from compressed streams and cheap cameras to the best.
_JPEG_QUALITY = (30, 96)
#: Most frames of a path from one frame of a clip to the next.
_LONGEST_STRIDE = 14


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
    rng: np.random.Generator, length: int, views: int, onward: bool = False
) -> np.ndarray:
    """Return (views,) frames of a path: onward, there and back again, or in any order.

    There and back, a clip revisits its first views; unordered photo collections come in any
    order.
    """
    longest = min(_LONGEST_STRIDE, (length - 1) // max(views - 1, 1))
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
