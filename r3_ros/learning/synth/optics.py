"""Optical effects between surfaces and camera: fog and shiny floors."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...core.datatypes import Intrinsics
from .renderer import render_radiance, Rendering
from .sky import pixel_directions
from .world import World

#: Points within this distance of the floor's plane belong to the floor.
_FLOOR_M = 0.004


def with_fog(
    seen: Rendering, intrinsics: Intrinsics, density: float, colour: torch.Tensor
) -> Rendering:
    """Return a rendering through fog, which attenuates light by ``exp(-density * range)``.

    :param density: per metre.
    :param colour: (3,) radiance of the fog, which also covers the sky.
    """
    rays = pixel_directions(intrinsics, seen.depth.device)
    distance = seen.depth * rays.norm(dim=-1)
    share = torch.where(seen.depth > 0, torch.exp(-density * distance), 0.0)[:, None]
    fog = colour.to(seen.radiance)[None, :, None, None]
    return replace(seen, radiance=seen.radiance * share + fog * (1 - share))


def with_shiny_floor(
    world: World,
    seen: Rendering,
    T_world_camera: torch.Tensor,
    intrinsics: Intrinsics,
    time_s: torch.Tensor,
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
    return replace(seen, radiance=torch.lerp(seen.radiance, reflected, share))
