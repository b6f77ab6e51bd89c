"""Textures: one flat buffer with every facet's mip pyramid, and filtered look-ups into it.

Aliasing would feed a feature tracker corners that do not exist, so a look-up averages over the
footprint of the pixel: trilinear in the pyramid, with up to ``MAX_PROBES`` probes along the
footprint's long axis where a surface is seen at a grazing angle. Values are linear radiance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

MAX_PROBES = 4
_CHANNELS = 4  # red, green, blue and one unused: rows of 8 bytes gather faster than of 6
# Below 0 is sharper than the box filter of the pyramid would be alone.
_LOD_BIAS = -0.3


@dataclass(frozen=True, eq=False)
class TextureStore:
    """Mip pyramids of all facets.

    :ivar table: (T, 4) float16, linear radiance.
    :ivar levels: (N, L, 3) int32: first row, width and height of each level; the last true
        level is repeated up to L.
    :ivar size: (N, 2) float32: width and height of level 0 in texels.
    """

    table: torch.Tensor
    levels: torch.Tensor
    size: torch.Tensor

    @classmethod
    def from_images(cls, images: list[torch.Tensor]) -> TextureStore:
        """Build the pyramids.

        :param images: one (3, h, w) float32 picture of linear radiance per facet.
        """
        pieces, rows, start = [], [], 0
        for image in images:
            levels = []
            for level in _pyramid(image):
                h, w = level.shape[1:]
                levels.append((start, w, h))
                pieces.append(level.flatten(1).T)
                start += w * h
            rows.append(levels)
        device = images[0].device
        table = torch.zeros((start, _CHANNELS), dtype=torch.float16, device=device)
        torch.cat([p.half() for p in pieces], out=None)
        table[:, :3] = torch.cat([p.half() for p in pieces])
        deepest = max(len(r) for r in rows)
        padded = [r + [r[-1]] * (deepest - len(r)) for r in rows]
        levels_table = torch.tensor(padded, dtype=torch.int32, device=device)
        return cls(table, levels_table, levels_table[:, 0, 1:].float())

    def sample(
        self, facet: torch.Tensor, uv: torch.Tensor, du: torch.Tensor, dv: torch.Tensor
    ) -> torch.Tensor:
        """Average the textures over pixel footprints.

        :param facet: (N,) int64.
        :param uv: (2, N) float32 plane coordinates in [-1, 1].
        :param du: (2, N) change of ``u`` per pixel to the right and down.
        :param dv: (2, N) change of ``v`` per pixel to the right and down.
        :returns: (N, 3) float32 linear radiance.
        """
        half = self.size[facet].T / 2  # (2, N)
        st = (uv + 1) * half
        sx, sy = du * half[0]
        tx, ty = dv * half[1]
        major, minor, axis = _footprint(sx, sy, tx, ty)
        probes = torch.ceil(major / minor.clamp(min=1.0) - 0.25).clamp(1, MAX_PROBES)
        probes = torch.where(probes == 3, 4.0, probes)
        lod = torch.log2(torch.maximum(major / probes, minor)) + _LOD_BIAS
        lod = lod.clamp(0, self.levels.shape[1] - 1.001)
        out = torch.empty((len(facet), 3), device=st.device)
        for n in (1, 2, 4):
            chosen = (probes == n).nonzero()[:, 0]
            if len(chosen) == 0:
                continue
            reach = (major[chosen] * axis[:, chosen])[:, None] * _probe_places(n, st.device)
            places = (st[:, chosen][:, None] + reach).reshape(2, n, -1)  # (2, n, M)
            out[chosen] = self._trilinear(facet[chosen], places, lod[chosen])
        return out

    def _trilinear(self, facet: torch.Tensor, st: torch.Tensor, lod: torch.Tensor):
        """Look up ``n`` probes per sample at one level of detail: (M, 3)."""
        base = lod.floor()
        blend = lod - base
        base = base.long()
        n, m = st.shape[1:]
        flat = self.levels.view(-1, 3)
        index = torch.empty((m, 2, 4, n), dtype=torch.int32, device=st.device)
        weight = torch.empty((m, 2, 4, n), dtype=self.table.dtype, device=st.device)
        for step in (0, 1):
            row = flat[facet * self.levels.shape[1] + base + step]
            start, w, h = row.unbind(1)
            share = (blend if step else 1 - blend) / n
            scale = row[:, 1:].T / self.size[facet].T  # (2, M)
            x = (st[0] * scale[0] - 0.5).clamp(min=0)
            y = (st[1] * scale[1] - 0.5).clamp(min=0)
            x = torch.minimum(x, (w - 1).float())
            y = torch.minimum(y, (h - 1).float())
            x0, y0 = x.floor(), y.floor()
            fx, fy = x - x0, y - y0
            x0, y0 = x0.int(), y0.int()
            dx = (x0 + 1 < w).int()
            dy = torch.where(y0 + 1 < h, w, 0)
            corner = start + y0 * w + x0
            for k, (i, wt) in enumerate(
                (
                    (corner, (1 - fx) * (1 - fy)),
                    (corner + dx, fx * (1 - fy)),
                    (corner + dy, (1 - fx) * fy),
                    (corner + dx + dy, fx * fy),
                )
            ):
                index[:, step, k] = i.T
                weight[:, step, k] = (wt * share).T
        summed = F.embedding_bag(
            index.view(m, -1), self.table, mode='sum', per_sample_weights=weight.view(m, -1)
        )
        return summed[:, :3].float()


def _probe_places(n: int, device: torch.device) -> torch.Tensor:
    """Return (n, 1): where probes lie along the long axis, in units of its length."""
    return (torch.arange(n, device=device, dtype=torch.float32)[:, None] + 0.5) / n - 0.5


def _footprint(sx, sy, tx, ty):
    """Long and short axis of the footprint, in texels, and the long one's direction (2, N)."""
    a, b, c = sx * sx + sy * sy, sx * tx + sy * ty, tx * tx + ty * ty
    mean, half = (a + c) / 2, (a - c) / 2
    root = torch.sqrt(half * half + b * b)
    major = torch.sqrt(mean + root)
    minor = (sx * ty - sy * tx).abs() / major.clamp(min=1e-12)
    axis_s = torch.where(half >= 0, root + half, b)
    axis_t = torch.where(half >= 0, b, root - half)
    length = torch.hypot(axis_s, axis_t).clamp(min=1e-20)
    return major, minor, torch.stack((axis_s / length, axis_t / length))


def _pyramid(image: torch.Tensor) -> list[torch.Tensor]:
    """Return the image and its successive halves down to a single texel."""
    levels = [image]
    while max(image.shape[1:]) > 1:
        h, w = image.shape[1:]
        image = F.interpolate(image[None], size=(-(-h // 2), -(-w // 2)), mode='area')[0]
        levels.append(image)
    return levels
