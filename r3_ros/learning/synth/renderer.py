"""Render a batch of pictures of one world: radiance, exact depth, moving things.

Depth is exact: it comes from the plane equations at the pixel centre, not from a buffer that was
filtered. Radiance is linear light; :mod:`.sensor` turns it into what a camera delivers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ...core.datatypes import Intrinsics
from .facets import STATIC_BODY
from .raster import find_visible, project_facets, ProjectedFacets, TILE, Visibility
from .sensor import to_display
from .textures import Footprints
from .world import World

# Pixels in flight at once: keeps a CPU's caches warm, a GPU full and memory bounded.
_PIXELS_PER_PASS = {'cpu': 640 * 480, 'cuda': 16 * 640 * 480}
_LOOK_UPS_PER_CHUNK = {'cpu': 1 << 15, 'cuda': 1 << 24}


@dataclass(frozen=True, eq=False)
class Rendering:
    """What the ideal camera sees.

    :ivar radiance: (B, 3, H, W) float32, linear light; about 1 is white in full light.
    :ivar depth: (B, H, W) float32, metres along the optical axis, 0 where nothing is seen.
    :ivar body: (B, H, W) int64 number of the body that is seen, 0 for what stands still.
    """

    radiance: torch.Tensor
    depth: torch.Tensor
    body: torch.Tensor

    @property
    def moving(self) -> torch.Tensor:
        """Return (B, H, W) bool: True where a moving body is seen."""
        return self.body != STATIC_BODY


def render(
    world: World,
    T_world_camera: torch.Tensor,
    intrinsics: Intrinsics,
    *,
    time_s: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Render pictures of a world as an ideal camera with fixed exposure takes them.

    :param T_world_camera: (B, 4, 4), optical camera axes.
    :param time_s: (B,) seconds, decides where moving bodies are; None for all at 0.
    :returns: rgb (B, 3, H, W) float32 display values in [0, 1]; depth (B, H, W) float32 metres
        along the optical axis, 0 where nothing is seen; moving (B, H, W) bool.
    """
    seen = render_radiance(world, T_world_camera, intrinsics, time_s=time_s)
    return to_display(seen.radiance * world.exposure), seen.depth, seen.moving


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
        body=torch.cat([p.body for p in parts]),
    )


def _render_pass(
    world: World,
    T_world_camera: torch.Tensor,
    T_world_body: torch.Tensor,
    intrinsics: Intrinsics,
    samples: int,
) -> Rendering:
    """Render the pictures that fit into one pass."""
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
    if world.is_static:
        body = torch.zeros_like(depth, dtype=torch.int64)
    else:
        body = seen.untile(_bodies(world, projected, seen), intrinsics).contiguous()
    return Rendering(radiance.contiguous(), depth, body)


def _bodies(world: World, projected: ProjectedFacets, seen: Visibility) -> torch.Tensor:
    """Return (tiles, pixels) int64: the body that is seen at the pixel centre."""
    # One more row stands for nothing, candidate -1.
    number = torch.full((len(seen.entry) + 1,), STATIC_BODY, device=world.device)
    number[:-1] = world.facets.body[projected.facet[seen.entry]]
    out = torch.full_like(seen.inverse_depth, STATIC_BODY, dtype=torch.int64)
    out[seen.tile[seen.plain]] = number[seen.plain, None]
    out[seen.busy_tile] = number[seen.busy_seen[:, 0].long()]
    return out


def _shade(
    world: World, projected: ProjectedFacets, seen: Visibility
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (tiles, pixels, 3) radiance and (tiles, pixels) share that sees no facet.

    Plain tiles and pixels that see one facet need one look-up per pixel, pixels at an edge one
    for every facet in them.
    """
    shader = _Shader(world, projected, seen)
    pixels = TILE * TILE
    place = torch.arange(pixels, device=world.device)
    x, y = (place % TILE).float(), (place // TILE).float()
    out = torch.zeros((*seen.inverse_depth.shape, 3), device=world.device)
    for group, part in shader.parts(seen.plain, pixels):
        out[seen.tile[part]] = shader.look_up(group, part, x, y)

    flat = out.projected(-1, 3)
    where = (seen.busy_tile[:, None] * pixels + place).flatten()
    samples = seen.busy_seen.transpose(0, 1).flatten(1)  # (S, pixels of busy tiles)
    for chosen, candidate, weight in _facets_of_pixels(samples):
        for group, rows in shader.rows(candidate):
            at = where[chosen[rows]]
            colour = shader.look_up(
                group, candidate[rows], x[at % pixels, None], y[at % pixels, None]
            )
            flat[at] += colour[:, 0] * weight[rows, None]
    open_share = torch.ones_like(seen.inverse_depth)
    open_share[seen.tile[seen.plain]] = 0
    open_share[seen.busy_tile] = (seen.busy_seen < 0).float().mean(1)
    return out, open_share


def _facets_of_pixels(
    samples: torch.Tensor,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield which pixels see which candidates, every pair once.

    :param samples: (S, N) candidate seen by each sample, -1 for nothing.
    :returns: pixels (M,), candidates (M,) and the share of the samples that see them (M,).
    """
    mixed = (samples[1:] != samples[0]).any(0)
    alone = (~mixed & (samples[0] >= 0)).nonzero()[:, 0]
    yield alone, samples[0, alone].long(), torch.ones(len(alone), device=samples.device)
    mixed = mixed.nonzero()[:, 0]
    parts = samples[:, mixed]
    for k in range(len(parts)):
        # A candidate counts where it comes first, with the weight of all its samples.
        is_first = (parts[k] >= 0) & (parts[:k] != parts[k]).all(0)
        rows = is_first.nonzero()[:, 0]
        candidate = parts[k, rows]
        weight = (parts[:, rows] == candidate).float().mean(0)
        yield mixed[rows], candidate.long(), weight


class _Shader:
    """Looks up textures in groups that need the same number of texels."""

    def __init__(self, world: World, projected: ProjectedFacets, seen: Visibility) -> None:
        self._store = world.textures
        self._footprints = Footprints.of(
            world.textures,
            projected.facet[seen.entry],
            projected.H[seen.entry],
            seen.corner(seen.tile),
            TILE,
        )
        self._group = self._footprints.groups()
        self._per_chunk = _LOOK_UPS_PER_CHUNK[world.device.type]

    def rows(self, candidate: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield groups, and chunks of the rows of ``candidate`` (N,) that belong to them."""
        return self._split(self._group[candidate], 1)

    def parts(self, candidate: torch.Tensor, pixels: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield groups, and chunks of the candidates with ``pixels`` look-ups each."""
        for group, rows in self._split(self._group[candidate], pixels):
            yield group, candidate[rows]

    def _split(self, groups: torch.Tensor, pixels: int) -> Iterator[tuple[int, torch.Tensor]]:
        for group in range(6):
            rows = (groups == group).nonzero()[:, 0]
            step = max(1, self._per_chunk // (pixels * (1, 2, 4)[group // 2]))
            for part in rows.split(step) if len(rows) else ():
                yield group, part

    def look_up(
        self, group: int, candidate: torch.Tensor, x: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor:
        """Return (N, K, 3) radiance; see :meth:`~.texels.Footprints.look_up`."""
        return self._footprints.look_up(self._store, group, candidate, x, y)
