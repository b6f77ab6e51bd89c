"""Rendering of a batch of images of one world: radiance, exact depth, moving bodies.

Depth is computed from the plane equations at the pixel centre, without any filtering. Radiance is
linear light; :mod:`.sensor` turns it into the values of a camera.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.datatypes import Intrinsics
from .facets import STATIC_BODY
from .raster import find_visible, project_facets, ProjectedFacets, TILE, tile_corner, Visibility
from .textures import Footprints
from .world import World

# Pixels rendered at once: for the caches of a CPU, the load of a GPU and bounded memory.
_PIXELS_PER_PASS = {'cpu': 640 * 480, 'cuda': 16 * 640 * 480}
_LOOK_UPS_PER_CHUNK = {'cpu': 1 << 15, 'cuda': 1 << 24}


class Rendering(NamedTuple):
    """Images of an ideal camera.

    :ivar radiance: (B, 3, H, W) float32, linear light; about 1 is white in full light.
    :ivar depth: (B, H, W) float32, metres along the optical axis, 0 where there is no facet.
    :ivar body: (B, H, W) int64 number of the visible body, 0 for the static world.
    """

    radiance: Tensor
    depth: Tensor
    body: Tensor

    @property
    def moving(self) -> Tensor:
        return self.body != STATIC_BODY


def render_radiance(
    world: World,
    T_world_camera: Tensor,
    intrinsics: Intrinsics,
    *,
    time_s: Tensor | None = None,
    samples: int = 4,
) -> Rendering:
    """Render images of a world.

    :param T_world_camera: (B, 4, 4), optical camera axes.
    :param time_s: (B,) seconds, sets the poses of moving bodies; None for all at 0.
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
    return Rendering(*map(torch.cat, zip(*parts, strict=True)))


def _render_pass(
    world: World,
    T_world_camera: Tensor,
    T_world_body: Tensor,
    intrinsics: Intrinsics,
    samples: int,
) -> Rendering:
    projected = project_facets(
        world.facets, torch.linalg.inv(T_world_camera), T_world_body, intrinsics
    )
    seen = find_visible(projected, len(T_world_camera), intrinsics, samples)
    shade, open_share = _shade(world, projected, seen)
    radiance = seen.untile(shade, intrinsics).permute(0, 3, 1, 2)
    if world.sky is not None:
        share = seen.untile(open_share, intrinsics)[:, None]
        radiance = radiance + share * world.sky.radiance(T_world_camera, intrinsics)
    w = seen.untile(seen.inverse_depth, intrinsics)
    depth = torch.where(w > 0, 1 / w, 0.0)
    body = seen.untile(_bodies(world, projected, seen), intrinsics).contiguous()
    return Rendering(radiance.contiguous(), depth, body)


def _bodies(world: World, projected: ProjectedFacets, seen: Visibility) -> Tensor:
    """Return (tiles, pixels) int64: the visible body at the pixel centre."""
    # The additional last row is for candidate -1, no facet.
    number = torch.full((len(seen.entry) + 1,), STATIC_BODY, device=world.device)
    number[:-1] = world.facets.body[projected.facet[seen.entry]]
    out = torch.full_like(seen.inverse_depth, STATIC_BODY, dtype=torch.int64)
    out[seen.tile[seen.plain]] = number[seen.plain, None]
    out[seen.busy_tile] = number[seen.busy_seen[:, 0].long()]
    return out


def _shade(world: World, projected: ProjectedFacets, seen: Visibility) -> tuple[Tensor, Tensor]:
    """Return (tiles, pixels, 3) radiance and (tiles, pixels) share without any facet.

    Plain tiles and pixels with one facet need one look-up per pixel, pixels at an edge one for
    every facet in them.
    """
    store, facet, H = world.textures, projected.facet[seen.entry], projected.H[seen.entry]
    footprints = Footprints.of(store, facet, H, tile_corner(seen.tile, seen.grid))

    def groups(candidate: Tensor, look_ups: int) -> Iterator[tuple[int, Tensor]]:
        """Yield groups, and chunks of the rows of ``candidate`` (N,) that belong to them."""
        for group in range(6):
            rows = (footprints.group[candidate] == group).nonzero()[:, 0]
            texels = look_ups * (1, 2, 4)[group // 2]
            step = max(1, _LOOK_UPS_PER_CHUNK[world.device.type] // texels)
            for part in rows.split(step) if len(rows) else ():
                yield group, part

    pixels = TILE * TILE
    index = torch.arange(pixels, device=world.device)
    x, y = (index % TILE).float(), (index // TILE).float()
    out = torch.zeros((*seen.inverse_depth.shape, 3), device=world.device)
    for group, rows in groups(seen.plain, pixels):
        part = seen.plain[rows]
        out[seen.tile[part]] = footprints.look_up(store, group, part, x, y)

    flat = out.view(-1, 3)
    where = (seen.busy_tile[:, None] * pixels + index).flatten()
    samples = seen.busy_seen.transpose(0, 1).flatten(1)  # (S, pixels of busy tiles)
    for chosen, candidate, weight in _facets_of_pixels(samples):
        for group, rows in groups(candidate, 1):
            at = where[chosen[rows]]
            within = (x[at % pixels, None], y[at % pixels, None])
            colour = footprints.look_up(store, group, candidate[rows], *within)
            flat[at] += colour[:, 0] * weight[rows, None]
    open_share = torch.ones_like(seen.inverse_depth)
    open_share[seen.tile[seen.plain]] = 0
    open_share[seen.busy_tile] = (seen.busy_seen < 0).float().mean(1)
    return out, open_share


def _facets_of_pixels(samples: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield pairs of pixels and the candidates visible in them, every pair once.

    :param samples: (S, N) visible candidate of each sample, -1 for none.
    :returns: pixels (M,), candidates (M,) and the share of the samples that show them (M,).
    """
    mixed = (samples[1:] != samples[0]).any(0)
    alone = (~mixed & (samples[0] >= 0)).nonzero()[:, 0]
    yield alone, samples[0, alone].long(), torch.ones(len(alone), device=samples.device)
    mixed = mixed.nonzero()[:, 0]
    parts = samples[:, mixed]
    for k in range(len(parts)):
        # Only the first sample of a candidate counts, with the weight of all its samples.
        is_first = (parts[k] >= 0) & (parts[:k] != parts[k]).all(0)
        rows = is_first.nonzero()[:, 0]
        candidate = parts[k, rows]
        weight = (parts[:, rows] == candidate).float().mean(0)
        yield mixed[rows], candidate.long(), weight
