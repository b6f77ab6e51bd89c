"""Render a batch of pictures of one world: radiance, exact depth, moving things.

Depth is exact: it comes from the plane equations at the pixel centre, not from a buffer that was
filtered. Radiance is linear light; :mod:`.sensor` turns it into what a camera delivers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..datatypes import Intrinsics
from .facets import STATIC_BODY
from .raster import find_visible, project_facets, View, Visibility
from .world import World

# Pixels in flight at once: keeps a CPU's caches warm, a GPU full and memory bounded.
_PIXELS_PER_PASS = {'cpu': 640 * 480, 'cuda': 16 * 640 * 480}
_SAMPLES_PER_SHADE = {'cpu': 1 << 16, 'cuda': 1 << 24}


@dataclass(frozen=True, eq=False)
class Rendering:
    """What the ideal camera sees.

    :ivar radiance: (B, 3, H, W) float32, linear light; about 1 is white in full light.
    :ivar depth: (B, H, W) float32, metres along the optical axis, 0 where nothing is seen.
    :ivar moving: (B, H, W) bool, True where a moving body is seen.
    """

    radiance: torch.Tensor
    depth: torch.Tensor
    moving: torch.Tensor


def render_radiance(
    world: World,
    T_world_camera: torch.Tensor,
    intrinsics: Intrinsics,
    *,
    time_s: torch.Tensor | None = None,
    samples: int = 4,
) -> Rendering:
    """Render pictures of a world.

    :param T_world_camera: (B, 4, 4), optical camera axes.
    :param time_s: (B,) seconds, decides where moving bodies are; None for all at 0.
    :param samples: colour samples per pixel where edges are, 1 or 4.
    """
    poses = torch.as_tensor(T_world_camera, dtype=torch.float64, device=world.device)
    times = torch.zeros(len(poses)) if time_s is None else torch.as_tensor(time_s)
    bodies = world.body_poses(times)
    pixels = intrinsics.width * intrinsics.height
    step = max(1, _PIXELS_PER_PASS[world.device.type] // pixels)
    parts = [
        _render_pass(world, poses[i : i + step], bodies[i : i + step], intrinsics, samples)
        for i in range(0, len(poses), step)
    ]
    return Rendering(
        radiance=torch.cat([p.radiance for p in parts]),
        depth=torch.cat([p.depth for p in parts]),
        moving=torch.cat([p.moving for p in parts]),
    )


def _render_pass(world, T_world_camera, T_world_body, intrinsics, samples) -> Rendering:
    """Render the pictures that fit into one pass."""
    batch = len(T_world_camera)
    view = project_facets(world.facets, torch.linalg.inv(T_world_camera), T_world_body, intrinsics)
    seen = find_visible(view, batch, intrinsics, samples)
    radiance = _shade_pixels(world, view, seen, samples)
    depth = torch.where(seen.inverse_depth > 0, 1 / seen.inverse_depth, 0.0)
    if world.is_static:
        moving = torch.zeros_like(depth, dtype=torch.bool)
    else:
        body = world.facets.body[view.facet]
        moving = (seen.entry >= 0) & (body[seen.entry.clamp(min=0).long()] != STATIC_BODY)
    return Rendering(radiance, depth, moving)


def _shade_pixels(world: World, view: View, seen: Visibility, samples: int) -> torch.Tensor:
    """Return (B, 3, H, W) radiance: one look-up per plain pixel, one per sample elsewhere."""
    batch, height, width = seen.entry.shape
    entry = seen.entry.flatten()
    out = torch.empty((entry.numel(), 3), device=entry.device)
    step = _SAMPLES_PER_SHADE[entry.device.type]
    for start in range(0, entry.numel(), step):
        chunk = entry[start : start + step]
        pixel = torch.arange(start, start + len(chunk), device=entry.device)
        xy = torch.stack((pixel % width, (pixel // width) % height)).float()
        out[start : start + step] = _shade(world, view, chunk, xy)
    if samples > 1 and len(seen.mixed):
        xy = torch.stack((seen.mixed % width, (seen.mixed // width) % height)).float()
        total = torch.zeros((len(seen.mixed), 3), device=entry.device)
        for k in range(samples):
            total += _shade(world, view, seen.mixed_entry[:, k], xy + seen.samples[k][:, None])
        out[seen.mixed] = total / samples
    return out.view(batch, height, width, 3).permute(0, 3, 1, 2).contiguous()


def _shade(world: World, view: View, entry: torch.Tensor, xy: torch.Tensor) -> torch.Tensor:
    """Radiance of samples: ``entry`` (N,) rows of the view, ``xy`` (2, N) pixels: (N, 3)."""
    visible = entry >= 0
    if len(view.facet) == 0:
        return torch.zeros((len(entry), 3), device=entry.device)
    entry = entry.clamp(min=0).long()
    h = view.H.float().flatten(1)[entry].T  # (9, N)
    x, y = xy
    w = 1 / (h[6] * x + h[7] * y + h[8])
    u = (h[0] * x + h[1] * y + h[2]) * w
    v = (h[3] * x + h[4] * y + h[5]) * w
    du = torch.stack((h[0] - u * h[6], h[1] - u * h[7])) * w
    dv = torch.stack((h[3] - v * h[6], h[4] - v * h[7])) * w
    colour = world.textures.sample(view.facet[entry], torch.stack((u, v)), du, dv)
    if bool(visible.all()):
        return colour
    return torch.where(visible[:, None], colour, 0.0)
