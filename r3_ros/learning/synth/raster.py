"""Visibility: the visible facet and the depth of each sample of each image.

For one facet and one camera, the plane coordinates and the inverse depth at pixel ``(x, y)`` are
linear up to a common factor: ``(u / z, v / z, 1 / z) = H @ (x, y, 1)``. So "inside the patch" and
"in front of the other one" are comparisons of linear functions, with no division and no clipping
at the near plane. Images are cut into square tiles; a tile tests only the facets that can touch
it and are not hidden by a facet that covers the whole tile. All tiles of all images go through
each step together, which suits both CPUs and GPUs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.datatypes import Intrinsics
from .facets import FacetTable

TILE = 8
# Tiles to a side of a block: facets that cannot touch a block are not tested on its tiles.
_BLOCK = 4
# Patches extend this much (relative) beyond their edge, so that rounding leaves no gap at a seam.
_SEAM = 2e-5
# The samples of a pixel: its centre, which also gives the depth, and three around it with
# different rows and columns, so that steep and flat edges get four shades.
_SAMPLES = ((0.0, 0.0), (0.367, 0.098), (-0.269, 0.269), (-0.098, -0.367))


class ProjectedFacets(NamedTuple):
    """The facets that the images of a batch may show.

    :ivar facet: (P,) int64 index into the facet table, ``image`` into the batch.
    :ivar H: (P, 3, 3) float64, pixel to ``(u / z, v / z, 1 / z)``.
    :ivar limit: (P, 3) float64, linear function ``(middle + slope * v) / z``.
    :ivar disc: (P,) bool.
    """

    facet: Tensor
    image: Tensor
    H: Tensor
    limit: Tensor
    disc: Tensor

    def edges(self) -> Tensor:
        """Return (P, 4, 3) linear functions that are not negative inside the patch."""
        u, v, w = self.H.unbind(1)
        reach = 1 + _SEAM
        edges = (self.limit * reach - u, self.limit * reach + u, w * reach - v, w * reach + v)
        return torch.stack(edges, 1)


class Visibility(NamedTuple):
    """The visible facet of each pixel of a batch, tile by tile.

    A candidate is a facet in a tile; others refer to it by index, -1 for none.

    :ivar entry: (C,) int64 row of the candidate in :class:`ProjectedFacets`.
    :ivar tile: (C,) int64 flat index of its tile in the batch.
    :ivar plain: (T,) int64 candidates that fill their tile alone.
    :ivar busy_tile: (U,) int64 all other tiles with candidates.
    :ivar busy_seen: (U, S, TILE * TILE) int32 candidate at each sample, the centre first.
    :ivar inverse_depth: (tiles, TILE * TILE) float32 at the pixel centres, 0 for none.
    :ivar grid: rows and columns of tiles in an image.
    """

    entry: Tensor
    tile: Tensor
    plain: Tensor
    busy_tile: Tensor
    busy_seen: Tensor
    inverse_depth: Tensor
    grid: tuple[int, int]

    def untile(self, values: Tensor, intrinsics: Intrinsics) -> Tensor:
        """Turn (tiles, TILE * TILE, ...) into images (B, H, W, ...)."""
        rows, columns = self.grid
        rest = values.shape[2:]
        values = values.view(-1, rows, columns, TILE, TILE, *rest).transpose(2, 3)
        values = values.reshape(-1, rows * TILE, columns * TILE, *rest)
        return values[:, : intrinsics.height, : intrinsics.width]


def tile_corner(tile: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return (N, 2): x and y of the first pixel of tiles given by flat index."""
    place = tile % (grid[0] * grid[1])
    return torch.stack((place % grid[1], place // grid[1]), -1) * TILE


def project_facets(
    facets: FacetTable, T_camera_world: Tensor, T_world_body: Tensor, intrinsics: Intrinsics
) -> ProjectedFacets:
    """Find the facets that face the camera and touch the image.

    :param T_camera_world: (B, 4, 4) float64.
    :param T_world_body: (B, bodies, 4, 4) float64; body 0 is the static world.
    """
    T_camera_body = (T_camera_world[:, None] @ T_world_body)[:, facets.body]  # (B, N, 4, 4)
    R = T_camera_body[..., :3, :3]
    a = torch.einsum('bnij,nj->bni', R, facets.half_u)
    b = torch.einsum('bnij,nj->bni', R, facets.half_v)
    c = torch.einsum('bnij,nj->bni', R, facets.centre) + T_camera_body[..., :3, 3]
    normal = torch.linalg.cross(a, b)
    det = (normal * c).sum(-1)  # positive if the front side faces the camera
    area = normal.norm(dim=-1)
    facing = det > 1e-6 * area
    inverse = torch.stack((torch.linalg.cross(b, c), torch.linalg.cross(c, a), normal), 2)
    inverse = inverse / torch.where(facing, det, 1.0)[..., None, None]
    K = torch.as_tensor(intrinsics.K, dtype=torch.float64, device=inverse.device)
    H = inverse @ torch.linalg.inv(K)
    limit = facets.shape[:, :1] * H[:, :, 2] + facets.shape[:, 1:] * H[:, :, 1]

    images, count = H.shape[:2]
    everything = ProjectedFacets(
        facet=torch.arange(count, device=H.device).repeat(images),
        image=torch.arange(images, device=H.device).repeat_interleave(count),
        H=H.flatten(0, 1),
        limit=limit.flatten(0, 1),
        disc=facets.disc.repeat(images),
    )
    half = (intrinsics.width / 2, intrinsics.height / 2)
    middle = torch.tensor([[half[0] - 0.5, half[1] - 0.5, 1.0]], dtype=H.dtype, device=H.device)
    edges = everything.edges()
    swing = edges[..., 0].abs() * half[0] + edges[..., 1].abs() * half[1]
    touches = (((edges @ middle.T)[..., 0] + swing) >= 0).all(1) & facing.flatten()
    keep = touches.nonzero()[:, 0]
    return ProjectedFacets(*(values[keep] for values in everything))


def find_visible(
    projected: ProjectedFacets, batch: int, intrinsics: Intrinsics, samples: int
) -> Visibility:
    """Find the visible facet of every pixel of a batch.

    :param samples: colour samples per pixel: 1 (the centre) or 4.
    """
    device = projected.H.device
    grid = (-(-intrinsics.height // TILE), -(-intrinsics.width // TILE))
    tiles = batch * grid[0] * grid[1]
    entry, tile, covers = _candidates(projected, batch, grid)
    count = torch.bincount(tile, minlength=tiles)
    first = torch.cumsum(count, 0) - count
    plain = (covers & (count[tile] == 1)).nonzero()[:, 0]
    is_busy = count > 0
    is_busy[tile[plain]] = False
    busy = is_busy.nonzero()[:, 0]
    busy = busy[torch.argsort(count[busy], descending=True, stable=True)]

    places = _sample_places(samples, device)
    corner = tile_corner(busy, grid)
    busy_w, busy_seen = _resolve_tiles(projected, entry, first[busy], count[busy], corner, places)
    inverse_depth = torch.zeros((tiles, TILE * TILE), device=device)
    inverse_depth[busy] = busy_w[:, 0]
    w = _linear_in_tiles(projected.H[entry[plain], 2], tile_corner(tile[plain], grid))
    inverse_depth[tile[plain]] = w @ places[:, : TILE * TILE]
    return Visibility(entry, tile, plain, busy, busy_seen, inverse_depth, grid)


def _sample_places(samples: int, device: torch.device) -> Tensor:
    """Return (3, S * TILE * TILE): x, y within the tile and 1, sample by sample."""
    offset = torch.tensor(_SAMPLES[:samples], device=device)
    step = torch.arange(TILE, device=device, dtype=torch.float32)
    x = (offset[:, 0, None, None] + step).expand(-1, TILE, -1)
    y = (offset[:, 1, None, None] + step[:, None]).expand(-1, -1, TILE)
    return torch.stack((x, y, torch.ones_like(x))).flatten(1)


def _candidates(
    projected: ProjectedFacets, batch: int, grid: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Pair tiles with the facets that may be visible in them; blocks of tiles are tested first.

    :returns: rows of ``projected``, flat tiles, whether the facet fills the tile; sorted by tile.
    """
    rows, columns = grid
    device = projected.H.device
    edges, w = projected.edges().float(), projected.H[:, 2].float()
    # float32 is enough to choose candidates: the tests are widened by more than its rounding.
    slack = 1e-5 * w.abs().sum(-1) * max(rows, columns) * TILE

    block_rows, block_columns = -(-rows // _BLOCK), -(-columns // _BLOCK)
    middle = (_BLOCK * TILE - 1) / 2
    y = torch.arange(block_rows, device=device) * (_BLOCK * TILE) + middle
    x = torch.arange(block_columns, device=device) * (_BLOCK * TILE) + middle
    at = (edges[:, :, 1, None] * y)[..., None] + (edges[:, :, 0, None] * x + edges[:, :, 2, None])[
        :, :, None
    ]  # (P, 4, rows, columns)
    swing = edges[..., :2].abs().sum(-1) * (_BLOCK * TILE / 2) + slack[:, None]
    entry, by, bx = ((at + swing[..., None, None]).amin(1) >= 0).nonzero(as_tuple=True)

    step = torch.arange(_BLOCK, device=device)
    ty = (by[:, None, None] * _BLOCK + step[:, None]).expand(-1, -1, _BLOCK).flatten()
    tx = (bx[:, None, None] * _BLOCK + step).expand(-1, _BLOCK, -1).flatten()
    entry = entry.repeat_interleave(_BLOCK * _BLOCK)
    inside = (ty < rows) & (tx < columns)
    entry, ty, tx = entry[inside], ty[inside], tx[inside]
    middle = (TILE - 1) / 2
    px, py = tx * float(TILE) + middle, ty * float(TILE) + middle
    e = edges.permute(1, 2, 0)[:, :, entry]  # (4, 3, C)
    at = e[:, 0] * px + e[:, 1] * py + e[:, 2]
    swing = (e[:, 0].abs() + e[:, 1].abs()) * (TILE / 2) + slack[entry]
    touches = ((at + swing).amin(0) >= 0).nonzero()[:, 0]
    covers = (at - swing).amin(0) >= 0
    entry, covers = entry[touches], covers[touches] & ~projected.disc[entry[touches]]
    px, py = px[touches], py[touches]
    tile = projected.image[entry] * (rows * columns) + ty[touches] * columns + tx[touches]

    near = w[entry, 0] * px + w[entry, 1] * py + w[entry, 2]
    reach = w[entry, :2].abs().sum(-1) * (TILE / 2) + slack[entry]
    hidden_beyond = torch.zeros(batch * rows * columns, device=device)
    hidden_beyond.scatter_reduce_(0, tile[covers], (near - reach)[covers], 'amax')
    keep = (near + reach >= hidden_beyond[tile]).nonzero()[:, 0]
    order = keep[torch.argsort(tile[keep], stable=True)]
    return entry[order], tile[order], covers[order]


def _linear_in_tiles(linear: Tensor, corner: Tensor) -> Tensor:
    """Move linear functions of the pixel (..., T, 3) to the corners (T, 2) of their tiles.

    In double precision; for pixels within the tile float32 is then accurate enough.
    """
    start = (linear[..., :2] * corner).sum(-1) + linear[..., 2]
    return torch.cat((linear[..., :2], start[..., None]), -1).float()


def _resolve_tiles(
    projected: ProjectedFacets,
    entry: Tensor,
    first: Tensor,
    count: Tensor,
    corner: Tensor,
    places: Tensor,
) -> tuple[Tensor, Tensor]:
    """Depth-test the candidates of the busy tiles, the k-th of every tile at once.

    The tiles are sorted by decreasing count, so those with a k-th candidate are a prefix.

    :param places: see :func:`_sample_places`.
    :returns: inverse depth and candidate: (U, S, TILE * TILE).
    """
    n, total = len(first), places.shape[1]
    device = projected.H.device
    best_w = torch.zeros((n, total), device=device)
    best = torch.full((n, total), -1, dtype=torch.int32, device=device)
    most = int(count[0]) if n else 0
    prefix = n - torch.searchsorted(
        count.flip(0).contiguous(), torch.arange(most, device=device), right=True
    )
    for k, m in enumerate(prefix.tolist()):
        c = first[:m] + k
        e = entry[c]
        H = projected.H[e]
        functions = torch.stack((H[:, 0], H[:, 1], H[:, 2], projected.limit[e]))
        u, v, w, edge = _linear_in_tiles(functions, corner[:m]) @ places  # (m, S * pixels) each
        edge.mul_(1 + _SEAM).sub_(u.abs())
        torch.minimum(edge, (w * (1 + _SEAM)).sub_(v.abs()), out=edge)
        disc = projected.disc[e].nonzero()[:, 0]
        if len(disc):
            round_edge = w[disc] ** 2 - u[disc] ** 2 - v[disc] ** 2
            edge[disc] = torch.minimum(edge[disc], round_edge)
        nearer = (edge >= 0).logical_and_(w > best_w[:m])
        best_w[:m] = torch.where(nearer, w, best_w[:m])
        best[:m] = torch.where(nearer, c.int()[:, None], best[:m])
    shape = (n, total // (TILE * TILE), TILE * TILE)
    return best_w.view(shape), best.view(shape)
