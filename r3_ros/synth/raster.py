"""Visibility: which facet each sample of each picture sees, and how far it is.

For one facet and one camera, the plane coordinates and the inverse depth at pixel ``(x, y)`` are
linear up to a common factor: ``(u / z, v / z, 1 / z) = H @ (x, y, 1)``. So "inside the patch" and
"in front of the other one" are comparisons of linear functions, with no division and no clipping
at the near plane. Pictures are cut into square tiles; a tile looks only at the facets that can
touch it and that no facet covering the whole tile hides. All tiles of all pictures go through
each step together, so the same code keeps a CPU's caches and a GPU busy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..datatypes import Intrinsics
from .facets import FacetTable

TILE = 16
# Patches reach this much (relative) over their edge, so that rounding leaves no hole at a seam.
_SEAM = 2e-5
# Where the colour samples of a pixel lie (rotated grid), then the centre, which gives the depth.
_ROTATED_GRID = ((-0.125, -0.375), (0.375, -0.125), (-0.375, 0.125), (0.125, 0.375))


@dataclass(frozen=True, eq=False)
class View:
    """The facets that some picture of a batch may show.

    :ivar facet: (P,) int64 index into the facet table.
    :ivar image: (P,) int64 index into the batch.
    :ivar H: (P, 3, 3) float64, pixel to ``(u / z, v / z, 1 / z)``.
    :ivar limit: (P, 3) float64, linear function ``(middle + slope * v) / z``.
    :ivar disc: (P,) bool.
    """

    facet: torch.Tensor
    image: torch.Tensor
    H: torch.Tensor
    limit: torch.Tensor
    disc: torch.Tensor

    def edges(self) -> torch.Tensor:
        """Return (P, 4, 3): linear functions that are not negative inside the patch."""
        u, v, w = self.H.unbind(1)
        reach = 1 + _SEAM
        edges = (self.limit * reach - u, self.limit * reach + u, w * reach - v, w * reach + v)
        return torch.stack(edges, 1)


@dataclass(frozen=True, eq=False)
class Visibility:
    """What each pixel sees.

    :ivar samples: (S, 2) where the colour samples lie in a pixel, relative to its centre.
    :ivar entry: (B, H, W) int32 row of the view seen at the pixel centre, -1 for nothing.
    :ivar inverse_depth: (B, H, W) float32 at the pixel centre, 0 for nothing.
    :ivar mixed: (M,) int64 flat indices of the pixels whose samples see different facets.
    :ivar mixed_entry: (M, S) int32 row of the view for each of their samples.
    """

    samples: torch.Tensor
    entry: torch.Tensor
    inverse_depth: torch.Tensor
    mixed: torch.Tensor
    mixed_entry: torch.Tensor


def project_facets(
    facets: FacetTable,
    T_camera_world: torch.Tensor,
    T_world_body: torch.Tensor,
    intrinsics: Intrinsics,
) -> View:
    """Find the facets that face the camera and touch the picture.

    :param T_camera_world: (B, 4, 4) float64.
    :param T_world_body: (B, bodies, 4, 4) float64; body 0 is the static world.
    """
    T_camera_body = (T_camera_world[:, None] @ T_world_body)[:, facets.body]  # (B, N, 4, 4)
    R = T_camera_body[..., :3, :3]
    a = torch.einsum('bnij,nj->bni', R, facets.half_u)
    b = torch.einsum('bnij,nj->bni', R, facets.half_v)
    c = torch.einsum('bnij,nj->bni', R, facets.centre) + T_camera_body[..., :3, 3]
    normal = torch.linalg.cross(a, b)
    det = (normal * c).sum(-1)  # positive when the front side is seen
    area = normal.norm(dim=-1)
    facing = det > 1e-6 * area
    inverse = torch.stack((torch.linalg.cross(b, c), torch.linalg.cross(c, a), normal), 2)
    inverse = inverse / torch.where(facing, det, 1.0)[..., None, None]
    K = torch.as_tensor(intrinsics.K, dtype=torch.float64, device=inverse.device)
    H = inverse @ torch.linalg.inv(K)
    limit = facets.shape[:, :1] * H[:, :, 2] + facets.shape[:, 1:] * H[:, :, 1]

    everything = View(
        facet=torch.arange(len(facets), device=H.device).repeat(H.shape[0]),
        image=torch.arange(H.shape[0], device=H.device).repeat_interleave(len(facets)),
        H=H.flatten(0, 1),
        limit=limit.flatten(0, 1),
        disc=facets.disc.repeat(H.shape[0]),
    )
    half = (intrinsics.width / 2, intrinsics.height / 2)
    middle = torch.tensor([[half[0] - 0.5, half[1] - 0.5, 1.0]], dtype=H.dtype, device=H.device)
    at_middle, swing = _over_rectangle(everything.edges(), middle, half)
    touches = ((at_middle[..., 0] + swing) >= 0).all(1) & facing.flatten()
    keep = touches.nonzero()[:, 0]
    return View(*(getattr(everything, name)[keep] for name in View.__dataclass_fields__))


def _over_rectangle(linear: torch.Tensor, centres: torch.Tensor, half: tuple[float, float]):
    """Value at rectangle centres (T, 3) and the most it changes within: (..., T), (...)."""
    swing = linear[..., 0].abs() * half[0] + linear[..., 1].abs() * half[1]
    return linear @ centres.T, swing


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Which view rows each tile must look at, sorted by tile."""

    entry: torch.Tensor  # (C,) rows of the view
    tile: torch.Tensor  # (C,) flat index of the tile in the batch
    covers: torch.Tensor  # (C,) bool: the facet fills the tile


def _tile_candidates(view: View, batch: int, tiles: tuple[int, int]) -> _Candidates:
    """Pair tiles with the facets that can be seen in them."""
    rows, columns = tiles
    device = view.H.device
    y, x = torch.meshgrid(
        torch.arange(rows, device=device), torch.arange(columns, device=device), indexing='ij'
    )
    # float32 is enough to choose candidates: the test is widened by more than its rounding.
    centres = torch.stack((x, y, torch.zeros_like(x)), -1).flatten(0, 1).float()
    centres = centres * TILE + (TILE - 1) / 2
    centres[:, 2] = 1.0
    half = (TILE / 2, TILE / 2)
    at_centre, swing = _over_rectangle(view.edges().float(), centres, half)  # (P, 4, T), (P, 4)
    slack = 1e-5 * view.H[:, 2].abs().sum(-1).float()[:, None, None]
    touches = (at_centre + (swing[..., None] + slack)).amin(1) >= 0  # (P, T)
    covers = (at_centre - (swing[..., None] + slack)).amin(1) >= 0
    entry, place = touches.nonzero(as_tuple=True)
    covers = covers[entry, place] & ~view.disc[entry]
    tile = view.image[entry] * (rows * columns) + place

    w, w_swing = _over_rectangle(view.H[:, 2].float(), centres, half)  # (P, T), (P,)
    w, w_swing = w[entry, place], w_swing[entry]
    hidden_beyond = torch.zeros(batch * rows * columns, device=device)
    hidden_beyond.scatter_reduce_(
        0, tile[covers], (w - w_swing)[covers], 'amax', include_self=True
    )
    keep = (w + w_swing) * (1 + 1e-5) >= hidden_beyond[tile]
    entry, tile, covers = entry[keep], tile[keep], covers[keep]
    order = torch.argsort(tile, stable=True)
    return _Candidates(entry[order], tile[order], covers[order])


def find_visible(view: View, batch: int, intrinsics: Intrinsics, samples: int) -> Visibility:
    """Resolve what every pixel of a batch sees.

    :param samples: colour samples per pixel: 1 or 4.
    """
    device = view.H.device
    rows, columns = -(-intrinsics.height // TILE), -(-intrinsics.width // TILE)
    grid = ((0.0, 0.0),) if samples == 1 else (*_ROTATED_GRID, (0.0, 0.0))
    offsets = torch.tensor(grid, device=device)
    found = _tile_candidates(view, batch, (rows, columns))
    count = torch.bincount(found.tile, minlength=batch * rows * columns)
    first = torch.cumsum(count, 0) - count

    entry = torch.full((batch * rows * columns, TILE * TILE), -1, dtype=torch.int32, device=device)
    inverse_depth = torch.zeros((batch * rows * columns, TILE * TILE), device=device)
    plain = (count == 1) & torch.zeros_like(count, dtype=torch.bool).index_put_(
        (found.tile[found.covers],), torch.tensor(True, device=device)
    )
    plain_tiles = plain.nonzero()[:, 0]
    plain_entry = found.entry[first[plain_tiles]]
    entry[plain_tiles] = plain_entry.int()[:, None]
    corner = _tile_corners(plain_tiles, rows, columns)
    inverse_depth[plain_tiles] = _linear_on_tiles(
        view.H[plain_entry, 2], corner, offsets[-1:]
    ).flatten(1)

    busy = ((count > 0) & ~plain).nonzero()[:, 0]
    busy = busy[torch.argsort(count[busy], descending=True, stable=True)]
    best_w, best_entry = _resolve_tiles(
        view, found.entry, first[busy], count[busy], (_tile_corners(busy, rows, columns)), offsets
    )
    entry[busy] = best_entry[:, -1].flatten(1)
    inverse_depth[busy] = best_w[:, -1].flatten(1)

    size = (batch, rows, columns, intrinsics.height, intrinsics.width)
    colour = best_entry[:, : max(samples, 1)]
    is_mixed = (colour != best_entry[:, -1:]).any(1)  # (busy, TILE, TILE)
    mixed, mixed_entry = _mixed_pixels(is_mixed, colour, busy, size)
    return Visibility(
        samples=offsets[:samples],
        entry=_untile(entry, size),
        inverse_depth=_untile(inverse_depth, size),
        mixed=mixed,
        mixed_entry=mixed_entry,
    )


def _tile_corners(tile: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Return (T, 2): x and y of the first pixel centre of each tile."""
    place = tile % (rows * columns)
    return torch.stack((place % columns, place // columns), -1) * TILE


def _linear_on_tiles(
    linear: torch.Tensor, corner: torch.Tensor, offsets: torch.Tensor
) -> torch.Tensor:
    """Evaluate one linear function per tile at its samples: (T, S, TILE, TILE) float32.

    The value at the corner is taken in double precision; the rest is a short way from there.
    """
    start = linear[:, 0] * corner[:, 0] + linear[:, 1] * corner[:, 1] + linear[:, 2]
    gx, gy = linear[:, 0].float(), linear[:, 1].float()
    step = torch.arange(TILE, device=linear.device, dtype=torch.float32)
    at_sample = start.float()[:, None] + gx[:, None] * offsets[:, 0] + gy[:, None] * offsets[:, 1]
    down = at_sample[:, :, None] + (gy[:, None] * step)[:, None, :]  # (T, S, TILE)
    return down[..., None] + (gx[:, None] * step)[:, None, None, :]


def _resolve_tiles(view, entries, first, count, corner, offsets):
    """Depth-test the candidates of the busy tiles, the k-th of every tile at once.

    The tiles come sorted by falling count, so those with a k-th candidate are a prefix.
    """
    n, s = len(first), len(offsets)
    device = view.H.device
    best_w = torch.zeros((n, s, TILE, TILE), device=device)
    best_entry = torch.full((n, s, TILE, TILE), -1, dtype=torch.int32, device=device)
    ascending = count.flip(0)
    depth = int(count[0]) if n else 0
    prefix = n - torch.searchsorted(ascending, torch.arange(depth, device=device), right=True)
    for k, m in enumerate(prefix.tolist()):
        e = entries[first[:m] + k]
        u, v, w = (_linear_on_tiles(view.H[e, i], corner[:m], offsets) for i in range(3))
        limit = _linear_on_tiles(view.limit[e], corner[:m], offsets)
        reach = 1 + _SEAM
        inside = torch.minimum(limit * reach - u.abs(), w * reach - v.abs()) >= 0
        disc = view.disc[e].nonzero()[:, 0]
        if len(disc):
            inside[disc] &= (u[disc] ** 2 + v[disc] ** 2) <= w[disc] ** 2
        nearer = inside & (w > best_w[:m])
        best_w[:m] = torch.where(nearer, w, best_w[:m])
        best_entry[:m] = torch.where(nearer, e.int()[:, None, None, None], best_entry[:m])
    return best_w, best_entry


def _mixed_pixels(is_mixed, colour, busy, size):
    """Return flat pixel indices and sample entries of the mixed pixels inside the pictures."""
    _, rows, columns, height, width = size
    t, i, j = is_mixed.nonzero(as_tuple=True)
    corner = _tile_corners(busy, rows, columns)[t]
    x, y = corner[:, 0] + j, corner[:, 1] + i
    image = busy[t] // (rows * columns)
    inside = (x < width) & (y < height)
    flat = (image * height + y) * width + x
    return flat[inside], colour[t, :, i, j][inside]


def _untile(values: torch.Tensor, size) -> torch.Tensor:
    """Turn (tiles, TILE * TILE) into pictures (B, H, W)."""
    batch, rows, columns, height, width = size
    values = values.view(batch, rows, columns, TILE, TILE).permute(0, 1, 3, 2, 4)
    return values.reshape(batch, rows * TILE, columns * TILE)[:, :height, :width].contiguous()
