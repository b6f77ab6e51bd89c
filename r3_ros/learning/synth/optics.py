"""Optical effects: fog, shiny floors, and rolling shutters, whose rows see different times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import math

import torch
from torch import Tensor

from ...core.datatypes import Intrinsics
from .raster import TILE
from .renderer import render_radiance, Rendering
from .sky import pixel_directions
from .world import World

#: Points within this distance of the floor's plane belong to the floor.
_FLOOR_M = 0.004
_MOST_BANDS = 12


def with_fog(seen: Rendering, intrinsics: Intrinsics, density: float, colour: Tensor) -> Rendering:
    """Return a rendering through fog, which attenuates light by ``exp(-density * range)``.

    :param density: per metre.
    :param colour: (3,) radiance of the fog, which also covers the sky.
    """
    rays = pixel_directions(intrinsics, seen.depth.device)
    distance = seen.depth * rays.norm(dim=-1)
    share = torch.where(seen.depth > 0, torch.exp(-density * distance), 0.0)[:, None]
    fog = colour.to(seen.radiance)[None, :, None, None]
    return seen._replace(radiance=seen.radiance * share + fog * (1 - share))


def with_shiny_floor(
    world: World,
    seen: Rendering,
    T_world_camera: Tensor,
    intrinsics: Intrinsics,
    time_s: Tensor,
    strength: float,
) -> Rendering:
    """Return a rendering whose floor (z = 0) reflects, most at grazing angles.

    The reflection is the image of a camera mirrored at the floor, flipped upright again.
    """
    T = T_world_camera.to(seen.depth.device, torch.float64)
    mirror, flip = (torch.diag(torch.tensor(d, dtype=T.dtype, device=T.device))
                    for d in ([1.0, 1, -1, 1], [1.0, -1, 1, 1]))  # fmt: skip
    turned = replace(intrinsics, cy=intrinsics.height - 1 - intrinsics.cy)
    below = render_radiance(world, mirror @ T @ flip, turned, time_s=time_s, samples=1)
    reflected = below.radiance.flip(2)
    rays = pixel_directions(intrinsics, T.device)
    down = torch.einsum('bj,hwj->bhw', T[:, 2, :3].float(), rays)
    height = T[:, 2, 3].float()[:, None, None] + down * seen.depth
    floor = (seen.depth > 0) & (height.abs() < _FLOOR_M) & (seen.body == 0)
    cosine = (down.abs() / rays.norm(dim=-1)).clamp(0, 1)
    # Schlick's approximation, for something between tiles and polished stone.
    share = torch.where(floor, strength * (0.06 + 0.94 * (1 - cosine) ** 5), 0.0)[:, None]
    return seen._replace(radiance=torch.lerp(seen.radiance, reflected, share))


def band_rows(height: int) -> int:
    """Return how many rows are exposed together: whole tiles of the renderer."""
    return TILE * math.ceil(height / _MOST_BANDS / TILE)


def rolling(
    expose: Callable[[Tensor, Intrinsics], Tensor],
    intrinsics: Intrinsics,
    time_s: Tensor,
    readout_s: float,
) -> Tensor:
    """Return images whose rows are exposed one after the other, the first row first.

    The time of an image is that of its middle, between the two middle rows if their number is
    even. Rows are exposed in bands (:func:`band_rows`), each with the camera and all bodies where
    they are at the middle of the band: the error is at most the motion in half a band's time.

    :param expose: renders images (B, C, h, W) at times (B,) seconds with the intrinsics of a band.
    :param time_s: (B,) float64 seconds.
    :param readout_s: from the first row to one row after the last.
    """
    bands, step, height = [], band_rows(intrinsics.height), intrinsics.height
    for top in range(0, height, step):
        rows = min(step, height - top)
        middle = (top + (rows - 1) / 2 - (height - 1) / 2) / height * readout_s
        band = intrinsics.cropped(0, top, intrinsics.width, rows)
        bands.append(expose(time_s + middle, band))
    return torch.cat(bands, dim=2)
