"""Textures: one flat buffer with the mip pyramids of all facets, and filtered look-ups into it.

Aliasing would give a feature tracker false corners, so a look-up averages over the footprint of
the pixel: trilinear in the pyramid, with up to 4 probes along the footprint's long axis at grazing
angles. The footprint is computed once per tile and facet (it hardly changes over a few pixels),
the texture coordinates for every pixel. Values are linear radiance.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
import torch.nn.functional as F

from .raster import TILE

_CHANNELS = 4  # red, green, blue and one unused: rows of 8 bytes gather faster than of 6
# Below 0: sharper than the box filter of the pyramid alone.
_LOD_BIAS = -0.3
# A level with less than this share of the weight is skipped.
_LEAST_BLEND = 0.15


class TextureStore(NamedTuple):
    """Mip pyramids of all facets.

    Every level has one more column and row, copies of its last, so that every texel has a right
    and a lower neighbour.

    :ivar table: (T, 4) float16, linear radiance.
    :ivar levels: (N, L, 3) int32: first row, width and height of each level without the copies;
        the last true level is repeated up to L.
    """

    table: Tensor
    levels: Tensor


def texture_store(pyramids: list[list[Tensor]]) -> TextureStore:
    """Concatenate the pyramids of all facets, see :func:`pyramid`, into one table."""
    pieces: list[Tensor] = []
    levels: list[list[tuple[int, int, int]]] = []
    rows, deepest = 0, max(len(p) for p in pyramids)
    for images in pyramids:
        levels.append([])
        for image in images:
            h, w = image.shape[:2]
            pieces.append(image.view(-1, _CHANNELS))
            levels[-1].append((rows, w - 1, h - 1))
            rows += w * h
        levels[-1] += levels[-1][-1:] * (deepest - len(images))
    table = torch.cat(pieces)
    return TextureStore(table, torch.tensor(levels, dtype=torch.int32, device=table.device))


def pyramid(image: Tensor) -> list[Tensor]:
    """Return an image and its successive halves down to a single texel.

    :param image: (3, h, w) float32 linear radiance.
    :returns: (h + 1, w + 1, 4) float16 each, with the copies at the right and the bottom.
    """
    levels = []
    while True:
        # Replicate the last row and column; the unused channel must be finite.
        padded = F.pad(image[[0, 1, 2, 2]], (0, 1, 0, 1), mode='replicate')
        levels.append(padded.permute(1, 2, 0).half().contiguous())
        h, w = image.shape[1:]
        if max(h, w) == 1:
            return levels
        image = F.interpolate(image[None], size=(-(-h // 2), -(-w // 2)), mode='area')[0]


class Footprints(NamedTuple):
    """Coefficients for look-ups of the texture of a facet in a tile; C candidates.

    :ivar numbers: (16, C) float32: ``s / z``, ``t / z`` and ``1 / z`` as linear functions of the
        pixel within the tile, ``s`` and ``t`` in texels of the finer level; width and height of
        the finer level minus one; scale to the coarser level in both directions; step between
        probes in both; weight of the coarser level.
    :ivar start: (4, C) int32: first row and row length of both levels.
    :ivar group: (C,) int64, from 0: 1, 2 or 4 probes, each in 1 or 2 levels.
    """

    numbers: Tensor
    start: Tensor
    group: Tensor

    @classmethod
    def of(cls, store: TextureStore, facet: Tensor, H: Tensor, corner: Tensor) -> Footprints:
        """Compute footprints in the middle of the tiles.

        :param facet: (C,) int64.
        :param H: (C, 3, 3) float64, pixel to ``(u / z, v / z, 1 / z)``.
        :param corner: (C, 2) first pixel of the tile.
        """
        local = H.clone()
        local[:, :, 2] += (H[:, :, :2] * corner[:, None]).sum(-1)
        local = local.float()
        u, v, w = (local @ torch.tensor([TILE / 2, TILE / 2, 1.0], device=H.device)).unbind(1)
        # In the middle of the tile a facet may be edge-on or not visible at all.
        nearest = w + local[:, 2, :2].abs().sum(-1) * (TILE / 2)
        w = torch.maximum(w, 0.3 * nearest)
        u, v = (u / w).clamp(-1, 1), (v / w).clamp(-1, 1)
        size = store.levels[facet, 0, 1:].float()
        half = (size / 2 / w[:, None]).T  # (2, C)
        gradient = [
            (local[:, i, j] - p * local[:, 2, j]) * half[i]
            for i, p in ((0, u), (1, v))
            for j in (0, 1)
        ]
        major, minor, axis = _axes(*gradient)
        length = major / minor.clamp(min=1.0)
        probes = 1.0 + (length > 1.5).float() + 2 * (length > 3).float()
        deepest = store.levels.shape[1] - 1
        lod = torch.log2(torch.maximum(major / probes, minor).clamp(min=1e-6)) + _LOD_BIAS
        lod = lod.clamp(0, deepest)
        base = (lod + _LEAST_BLEND).floor()
        blend = (lod - base).clamp(min=0)
        blend = torch.where(blend < _LEAST_BLEND, 0.0, blend)
        base = base.long()
        fine, coarse = (store.levels[facet, k.clamp(max=deepest)] for k in (base, base + 1))
        fine_size, coarse_size = fine[:, 1:].T.float(), coarse[:, 1:].T.float()
        # s = (u + 1) * width / 2 - 0.5, all over z; t alike.
        linear = [
            local[:, i] * (fine_size[i] / 2)[:, None]
            + local[:, 2] * (fine_size[i] / 2 - 0.5)[:, None]
            for i in (0, 1)
        ]
        scale, step = coarse_size / fine_size, axis * (major / probes) * (fine_size / size.T)
        projection = torch.cat((*linear, local[:, 2]), 1).T
        return cls(
            numbers=torch.cat((projection, fine_size - 1, scale, step, blend[None])),
            start=torch.stack((fine[:, 0], fine[:, 1] + 1, coarse[:, 0], coarse[:, 1] + 1)),
            group=probes.long() // 2 * 2 + (blend > 0).long(),
        )

    def look_up(
        self, store: TextureStore, group: int, candidate: Tensor, x: Tensor, y: Tensor
    ) -> Tensor:
        """Average textures over pixels of candidates of one group.

        :param candidate: (N,) int64.
        :param x: (K,) or (N, K) pixel within the tile; ``y`` likewise.
        :returns: (N, K, 3) float32 linear radiance.
        """
        probes, levels = (1, 2, 4)[group // 2], group % 2 + 1
        numbers = self.numbers.index_select(1, candidate)[..., None]
        start = self.start.index_select(1, candidate)[..., None]
        sx, sy, s0, tx, ty, t0, wx, wy, w0 = numbers[:9]
        right, bottom, scale_s, scale_t, axis_s, axis_t, blend = numbers[9:]
        nearness = 1 / (wx * x + wy * y + w0)
        s = (sx * x + sy * y + s0) * nearness
        t = (tx * x + ty * y + t0) * nearness
        shape = (*s.shape, probes * levels * 4)
        index = torch.empty(shape, dtype=torch.int32, device=s.device)
        weight = torch.empty(shape, dtype=store.table.dtype, device=s.device)
        taps = zip(index.split(4, -1), weight.split(4, -1), strict=True)
        for k in range(probes):
            off = k + 0.5 - probes / 2
            ps, pt = (s + off * axis_s, t + off * axis_t) if probes > 1 else (s, t)
            share = (1 - blend) / probes if levels == 2 else 1 / probes
            _fill_taps(*next(taps), (ps, pt, right, bottom), start[:2], share)
            if levels == 2:
                ps, pt = (ps + 0.5) * scale_s - 0.5, (pt + 0.5) * scale_t - 0.5
                edge = ((right + 1) * scale_s - 1, (bottom + 1) * scale_t - 1)
                _fill_taps(*next(taps), (ps, pt, *edge), start[2:], blend / probes)
        index, weight = index.view(-1, shape[-1]), weight.view(-1, shape[-1])
        colours = F.embedding_bag(index, store.table, mode='sum', per_sample_weights=weight)
        return colours[:, :3].float().view(*s.shape, 3)


def _fill_taps(
    index: Tensor, weight: Tensor, at: tuple[Tensor, ...], start: Tensor, share: Tensor | float
) -> None:
    """Fill in the four texels around a position, and their weights."""
    s, t, right, bottom = at
    s = torch.minimum(s, right).clamp_(min=0)
    t = torch.minimum(t, bottom).clamp_(min=0)
    s0, t0 = s.int(), t.int()
    fs, ft = s - s0, (t - t0) * share
    first = (t0 * start[1]).add_(s0).add_(start[0])
    index[..., 0] = first
    torch.add(first, 1, out=index[..., 1])
    torch.add(first, start[1], out=index[..., 2])
    torch.add(first, start[1] + 1, out=index[..., 3])
    both = fs * ft
    weight[..., 3] = both
    weight[..., 2] = ft - both
    right_share = fs * share - both
    weight[..., 1] = right_share
    weight[..., 0] = share - ft - right_share


def _axes(sx: Tensor, sy: Tensor, tx: Tensor, ty: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the footprint's long and short axis in texels and the long one's direction (2, N)."""
    a, b, c = sx * sx + sy * sy, sx * tx + sy * ty, tx * tx + ty * ty
    mean, half = (a + c) / 2, (a - c) / 2
    root = torch.sqrt(half * half + b * b)
    major = torch.sqrt(mean + root)
    minor = (sx * ty - sy * tx).abs() / major.clamp(min=1e-12)
    axis_s = torch.where(half >= 0, root + half, b)
    axis_t = torch.where(half >= 0, b, root - half)
    length = torch.hypot(axis_s, axis_t).clamp(min=1e-20)
    return major, minor, torch.stack((axis_s / length, axis_t / length))
