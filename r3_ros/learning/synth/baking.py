"""Baking of a plan: paint every material once, light it, and cut it up for the facets.

An endless pattern is painted as one sheet for all facets that share it; the facets are cut from
different parts of it, so no two look the same. A world has thousands of facets but only a few
hundred materials, so this is also fast.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
import torch.nn.functional as F

from .facets import FacetSpec
from .materials import Material
from .parallel import in_order
from .textures import pyramid, texture_store, TextureStore


class _Patch(NamedTuple):
    """Facets side by side on a sheet: number of the first one, how many, texels of each."""

    first: int
    facets: int
    height: int
    width: int


#: A material, and the patches that are painted together with it.
_Sheet = tuple[Material, list[_Patch]]


def bake(
    specs: list[FacetSpec], light: list[Tensor], coarseness: float, device: torch.device
) -> tuple[TextureStore, float]:
    """Paint and light all facets.

    :param light: incident light of each facet, see :func:`~.lighting.light_facets`.
    :param coarseness: scales the size of the texels.
    :returns: the textures, and the mean radiance over all surfaces that do not emit light.
    """

    def job(sheet: _Sheet) -> list[tuple[int, list[Tensor], float]]:
        material, patches = sheet
        corners, texels = _arrange(patches)
        painted = material.paint(texels, material.texel_m * coarseness, device)
        out = []
        for (first, count, height, width), (y, x) in zip(patches, corners, strict=True):
            for k in range(count):
                left = x + k * width
                lit = F.interpolate(light[first + k][None], (height, width), mode='bilinear')[0]
                albedo = painted[:, y : y + height, left : left + width]
                image = albedo * (lit + specs[first + k].emission)
                out.append((first + k, pyramid(image), float(image.mean())))
        return out

    pyramids: list[list[Tensor]] = [[] for _ in specs]
    total, area = 0.0, 0.0
    for facets in in_order(job, _sheets(specs, coarseness), device):
        for number, levels, mean in facets:
            pyramids[number] = levels
            if specs[number].emission == 0:
                size = specs[number].size_m[0] * specs[number].size_m[1]
                total += size * mean
                area += size
    return texture_store(pyramids), total / area


def _sheets(specs: list[FacetSpec], coarseness: float) -> list[_Sheet]:
    """Group the facets by material; for an image, every facet has its own sheet."""
    sheets: dict[int, _Sheet] = {}
    for number, spec in enumerate(specs):
        k, n = spec.strip
        if k == 0:
            texel_m = spec.material.texel_m * coarseness
            width, height = (max(2, round(length / texel_m)) for length in spec.size_m)
            _, patches = sheets.setdefault(id(spec.material), (spec.material, []))
            patches.append(_Patch(number, n, height, width))
    return [
        (material, part)
        for material, patches in sheets.values()
        for part in ([[p] for p in patches] if material.is_image else [patches])
    ]


def _arrange(patches: list[_Patch]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Arrange patches on a sheet in rows of decreasing height.

    :returns: top and left of each patch, and the height and width of the sheet.
    """
    widths = [p.width * p.facets for p in patches]
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
