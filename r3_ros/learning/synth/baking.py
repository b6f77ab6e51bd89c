"""Baking of a plan: paint every material once, light it, and cut it up for the facets.

An endless pattern is painted as one sheet for all facets that share it; the facets are cut from
different parts of it, so no two look the same. A world has thousands of facets but only a few
hundred materials, so this is also fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .facets import FacetSpec
from .lighting import spread_light
from .materials import Material
from .parallel import in_order
from .textures import pyramid, texture_store, TextureStore


@dataclass(frozen=True)
class _Patch:
    """Facets side by side on a sheet: index of the first one, number, texels of each."""

    first: int
    count: int
    height: int
    width: int


@dataclass(frozen=True)
class _Sheet:
    """Patches that are painted together."""

    material: Material
    patches: list[_Patch]

    def paint(self, coarseness: float, device: torch.device) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the index and the reflectance (3, h, w) of every facet on the sheet."""
        corners, texels = _arrange(self.patches)
        painted = self.material.paint(texels, self.material.texel_m * coarseness, device)
        for patch, (y, x) in zip(self.patches, corners, strict=True):
            for k in range(patch.count):
                left = x + k * patch.width
                part = painted[:, y : y + patch.height, left : left + patch.width]
                yield patch.first + k, part


def bake(
    specs: list[FacetSpec], light: list[torch.Tensor], coarseness: float, device: torch.device
) -> tuple[TextureStore, float]:
    """Paint and light all facets.

    :param light: incident light of each facet, see :func:`~.lighting.light_facets`.
    :param coarseness: scales the size of the texels.
    :returns: the textures, and the mean radiance over all surfaces that do not emit light.
    """

    def job(sheet: _Sheet) -> list[tuple[int, list[torch.Tensor], float]]:
        out = []
        for number, albedo in sheet.paint(coarseness, device):
            lit = spread_light(light[number], *albedo.shape[1:])
            image = albedo * (lit + specs[number].emission)
            out.append((number, pyramid(image), float(image.mean())))
        return out

    pyramids: list[list[torch.Tensor]] = [[] for _ in specs]
    total, area = 0.0, 0.0
    for facets in in_order(job, _sheets(specs, coarseness), device):
        for number, levels, mean in facets:
            pyramids[number] = levels
            if specs[number].emission == 0:
                size = specs[number].size_m[0] * specs[number].size_m[1]
                total += size * mean
                area += size
    return texture_store(pyramids), total / area


def _sheets(specs: list[FacetSpec], coarseness: float) -> Iterator[_Sheet]:
    """Group the facets by material; for an image, every facet has its own sheet."""
    sheets: dict[int, _Sheet] = {}
    for number, spec in enumerate(specs):
        k, n = spec.strip
        if k > 0:
            continue
        texel_m = spec.material.texel_m * coarseness
        width, height = (max(2, round(length / texel_m)) for length in spec.size_m)
        sheet = sheets.setdefault(id(spec.material), _Sheet(spec.material, []))
        sheet.patches.append(_Patch(number, n, height, width))
    for sheet in sheets.values():
        if sheet.material.is_image:
            yield from (_Sheet(sheet.material, [p]) for p in sheet.patches)
        else:
            yield sheet


def _arrange(patches: list[_Patch]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Arrange patches on a sheet in rows of decreasing height.

    :returns: top and left of each patch, and the height and width of the sheet.
    """
    widths = [p.width * p.count for p in patches]
    area = sum(w * p.height for w, p in zip(widths, patches, strict=True))
    limit = max(max(widths), int(area**0.5))
    corners = [(0, 0)] * len(patches)
    top = left = row = used = 0
    for k in sorted(range(len(patches)), key=lambda k: -patches[k].height):
        if left + widths[k] > limit:
            top, left, row = top + row, 0, 0
        corners[k] = (top, left)
        left += widths[k]
        used = max(used, left)
        row = max(row, patches[k].height)
    return corners, (top + row, used)
