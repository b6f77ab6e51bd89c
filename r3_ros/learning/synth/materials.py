"""Materials: patterns of surfaces, painted texel by texel on a :class:`Canvas`.

Every pattern returns linear reflectance (3, h, w). Patterns have structure at several scales
and vary from cell to cell, so that a tracker finds corners and no two parts look the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .canvas import blend, Canvas, Colour, hash_unit, soft_step

Painter = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Material:
    """A pattern.

    :ivar painter: ``painter(canvas, **options)`` returns (3, h, w) linear reflectance.
    :ivar texel_m: size of a texel in metres.
    :ivar shift_m: offset of the first facet on the endless pattern.
    :ivar is_image: True if every facet shows it as a whole; an endless pattern is cut up for the
        facets that share the material.
    """

    painter: Painter
    options: dict[str, Any]
    seed: int
    texel_m: float = 0.004
    shift_m: tuple[float, float] = (0.0, 0.0)
    is_image: bool = False

    def reseeded(self, seed: int) -> Material:
        """Return the same kind of pattern with other random details."""
        return replace(self, seed=seed)

    def paint(self, texels: tuple[int, int], texel_m: float, device: torch.device) -> Tensor:
        """Paint a sheet of (height, width) texels: (3, h, w) linear reflectance."""
        height, width = texels
        x = (torch.arange(width, device=device) + 0.5) * texel_m + self.shift_m[0]
        y = (torch.arange(height, device=device) + 0.5) * texel_m + self.shift_m[1]
        size_m = (width * texel_m, height * texel_m)
        canvas = Canvas(x.float(), y.float(), size_m, self.seed)
        return self.painter(canvas, **self.options).clamp(0.01, 0.95)


def paint(canvas: Canvas, colour: Colour, wear: float = 1.0) -> Tensor:
    """Paint rolled wall paint: clouds, roller grain, scuffs and a few marks."""
    clouds = canvas.fractal(0.9, 4, 1)
    grain = canvas.fractal(0.03, 3, 2)
    image = canvas.flat(colour) * (1 + wear * (0.07 * clouds + 0.05 * grain))
    scuffs = soft_step(canvas.fractal(0.16, 4, 3) - 1.0, 0.5)
    chips = soft_step(canvas.fractal(0.04, 2, 4) - 1.15, 0.2)
    image = image * (1 - 0.16 * wear * scuffs)
    return image * (1 - 0.35 * wear * chips)


def plaster(canvas: Canvas, colour: Colour, rough: float = 1.0) -> Tensor:
    """Paint troweled plaster or concrete: blotches, pits and fine cracks."""
    image = canvas.flat(colour) * (
        1 + rough * (0.16 * canvas.fractal(0.5, 5, 1) + 0.10 * canvas.fractal(0.06, 3, 2))
    )
    pits = soft_step(canvas.fractal(0.035, 2, 3) - 1.15, 0.2)
    ridge = canvas.fractal(0.8, 5, 4).abs()
    cracks = soft_step(0.012 - ridge, 0.012) * soft_step(canvas.noise(1.1, 5) - 0.5, 0.1)
    return image * (1 - 0.5 * rough * pits) * (1 - 0.5 * cracks)


def wallpaper(canvas: Canvas, colour: Colour, ink: Colour, cell_m: float, style: int) -> Tensor:
    """Paint printed wallpaper: mirrored ornaments, leaves or stripes, no print like the next."""
    x, y = canvas.grid()
    row = torch.floor(y / cell_m)
    x_off = x + (row % 2) * (cell_m / 2)
    column = torch.floor(x_off / cell_m)
    own = canvas.cells(1, row, column)
    u = ((x_off / cell_m - column) * 2 - 1).abs()
    v = (y / cell_m - row) * 2 - 1
    image = canvas.flat(colour) * (1 + 0.05 * canvas.fractal(0.8, 3, 1))
    if style == 2:
        band = torch.floor(canvas.x / (cell_m / 3))
        tone = hash_unit(canvas.seed + 2, band % 7)
        image = blend(image, ink, (tone > 0.55).float()[None].expand(canvas.shape) * 0.8)
    k = canvas.rng(3).uniform(3, 9, size=6)
    r = torch.sqrt(u * u + v * v)
    wave = torch.sin(k[0] * u + k[1] * v * v) * torch.cos(k[2] * v + own * 0.9)
    if style == 0:
        wave = wave + 0.6 * torch.cos(k[3] * r * 2) - 0.9 * r
    else:
        wave = wave - 0.5 * (u * k[4] / 3 - v).abs() + 0.25 * torch.sin(k[5] * 2 * u * v)
    shape = soft_step(wave - 0.15, 0.12) * (0.55 + 0.45 * own)
    image = blend(image, ink, shape)
    lines = soft_step(0.05 - (wave + 0.35).abs(), 0.05)
    image = blend(image, tuple(0.5 * c for c in ink), 0.7 * lines)
    return image * (1 + 0.06 * canvas.fractal(0.02, 2, 6))


def brick(canvas: Canvas, colour: Colour) -> Tensor:
    """Paint running-bond bricks, each with its own tone, and rough mortar."""
    length_m, height_m = 0.23, 0.075
    x, y = canvas.grid()
    y = y + 0.004 * canvas.fractal(0.25, 2, 8)
    row = torch.floor(y / height_m)
    x = x + (row % 2) * (length_m / 2) + 0.02 * hash_unit(canvas.seed + 5, row)
    column = torch.floor(x / length_m)
    tone = canvas.cells(1, row, column)
    hue = canvas.cells(2, row, column)
    image = canvas.flat(colour) * (0.55 + 0.8 * tone)
    image[0] *= 0.85 + 0.3 * hue
    image[2] *= 1.2 - 0.4 * hue
    image = image * (1 + 0.18 * canvas.fractal(0.05, 4, 3) + 0.10 * canvas.fractal(0.4, 2, 4))
    edge = _to_edge(x, y, row, column, (length_m, height_m)) + 0.0025 * canvas.fractal(0.02, 2, 7)
    joint = canvas.flat((0.42, 0.40, 0.37)) * (1 + 0.2 * canvas.fractal(0.03, 3, 6))
    return blend(image, joint, soft_step(0.006 - edge, 0.004))


def _to_edge(
    x: Tensor, y: Tensor, row: Tensor, column: Tensor, size_m: tuple[float, float]
) -> Tensor:
    """Return the distance to the nearest edge of the brick or board, metres."""
    return torch.minimum(
        0.5 * size_m[0] - (x - (column + 0.5) * size_m[0]).abs(),
        0.5 * size_m[1] - (y - (row + 0.5) * size_m[1]).abs(),
    )


def tiles(
    canvas: Canvas,
    colour: Colour,
    second: Colour,
    cell_m: float,
    style: int,
    grout: Colour = (0.35, 0.34, 0.32),
) -> Tensor:
    """Paint square tiles: checks (0), marbled (1), ornaments (2) or random tones (3)."""
    row, column, own, u, v = canvas.tiling(cell_m)
    image = canvas.flat(colour)
    if style == 0:
        image = blend(image, second, ((row + column) % 2)) * (0.85 + 0.3 * own)
    elif style == 3:
        image = blend(image, second, own) * (0.7 + 0.6 * canvas.cells(9, row, column))
    else:
        image = image * (0.8 + 0.4 * own)
    if style == 2:
        k = canvas.rng(1).uniform(8, 22, size=4)
        r = torch.sqrt(u * u + v * v)
        flower = (
            torch.cos(k[0] * (u * u - v * v))
            + torch.cos(k[1] * r)
            - 0.4 * torch.cos(k[2] * u.abs() * 2) * torch.cos(k[2] * v.abs() * 2)
        )
        image = blend(image, second, soft_step(flower - 0.7 - 0.3 * own, 0.2))
    veins = canvas.fractal(0.35, 5, 3)
    vein = soft_step(0.05 - (veins + (own - 0.5) * 1.6).abs(), 0.06)
    image = image * (1 + 0.07 * canvas.fractal(0.04, 3, 5)) * (1 - 0.3 * vein)
    edge = (0.5 - torch.maximum(u.abs(), v.abs())) * cell_m
    joint = canvas.flat(grout) * (1 + 0.2 * canvas.fractal(0.05, 3, 4))
    return blend(image, joint, soft_step(0.003 - edge, 0.003))


def wood(canvas: Canvas, colour: Colour, contrast: float = 1.0, along_x: bool = True) -> Tensor:
    """Paint wood of furniture: grain along one axis, rings, a few knots."""
    if not along_x:
        turned = Canvas(canvas.y, canvas.x, canvas.size_m[::-1], canvas.seed)
        return wood(turned, colour, contrast).transpose(1, 2)
    x, y = canvas.grid()
    bend = 0.05 * canvas.fractal(0.35, 3, 1, stretch=3.0)
    rings = torch.sin((y + bend) * 320 + 9 * canvas.noise(0.4, 2, stretch=4.0))
    fibre = canvas.fractal(0.012, 3, 3, stretch=14.0)
    tone = 1 + contrast * (0.09 * rings + 0.17 * fibre + 0.12 * canvas.fractal(0.3, 2, 4))
    knots = soft_step(canvas.fractal(0.12, 2, 5, stretch=1.6) - 1.2, 0.25)
    image = canvas.flat(colour) * tone
    image[2] *= 1 - 0.08 * contrast * rings
    return image * (1 - 0.6 * knots)


def planks(canvas: Canvas, colour: Colour, width_m: float) -> Tensor:
    """Paint floor boards with staggered ends, each with its own tone and grain."""
    length_m = 1.1
    x, y = canvas.grid()
    row = torch.floor(y / width_m)
    x = x + hash_unit(canvas.seed + 4, row) * length_m
    column = torch.floor(x / length_m)
    tone = canvas.cells(1, row, column)
    hue = canvas.cells(2, row, column)
    bend = 0.05 * canvas.fractal(0.3, 3, 1, stretch=3.0)
    rings = torch.sin((y + bend) * (110 + 110 * hue) + 40 * tone)
    fibre = canvas.fractal(0.014, 3, 3, stretch=12.0)
    image = canvas.flat(colour) * (0.62 + 0.7 * tone) * (1 + 0.10 * rings + 0.17 * fibre)
    image[0] *= 0.92 + 0.16 * hue
    knots = soft_step(canvas.fractal(0.10, 2, 5, stretch=1.6) - 1.25, 0.2)
    image = image * (1 - 0.65 * knots)
    edge = _to_edge(x, y, row, column, (length_m, width_m))
    return image * (1 - 0.7 * soft_step(0.003 - edge, 0.003))


def fabric(canvas: Canvas, colour: Colour, ink: Colour, cell_m: float, style: int) -> Tensor:
    """Paint woven cloth or carpet: melange, plaid or a small figure."""
    image = canvas.flat(colour) * (
        1 + 0.18 * canvas.fractal(0.012, 2, 1) + 0.12 * canvas.fractal(0.3, 3, 2)
    )
    row, column, own, u, v = canvas.tiling(cell_m)
    if style == 0:
        flecks = soft_step(canvas.fractal(0.03, 2, 4) - 0.75, 0.2)
        return blend(image, ink, 0.75 * flecks)
    if style == 1:
        warp = hash_unit(canvas.seed + 2, column % 9)
        weft = hash_unit(canvas.seed + 3, row % 9)
        return blend(image, ink, (0.45 * (warp > 0.5) + 0.45 * (weft > 0.5)).float())
    figure = (
        0.18
        + 0.22 * own
        - torch.sqrt(u * u + v * v)
        - 0.1 * torch.cos(4 * torch.atan2(v, u) + 6 * own)
    )
    return blend(image, ink, soft_step(figure, 0.06))


def rug(canvas: Canvas, colours: tuple[Colour, ...]) -> Tensor:
    """Paint a knotted rug: borders, a mirrored field of knots, irregular dye."""
    knots = 64
    w, h = canvas.size_m
    x, y = canvas.grid()
    u = (x - canvas.x[0] + 0.5 * (canvas.x[1] - canvas.x[0])) / w
    v = (y - canvas.y[0] + 0.5 * (canvas.y[1] - canvas.y[0])) / h
    cell = w / knots
    i = torch.floor(torch.minimum(u, 1 - u) * knots)
    j = torch.floor(torch.minimum(v, 1 - v) * (h / cell))
    edge = torch.minimum(i, j)
    big = hash_unit(canvas.seed, torch.floor(i / 4), torch.floor(j / 4))
    small = hash_unit(canvas.seed + 1, i, j)
    stripe = hash_unit(canvas.seed + 2, edge)
    pick = torch.where(edge < 9, 0.7 * stripe + 0.3 * small, 0.7 * big + 0.3 * small)
    image = canvas.flat(colours[0])
    for k, colour in enumerate(colours[1:], 1):
        image = blend(image, colour, (pick > k / len(colours)).float())
    dye = hash_unit(canvas.seed + 3, torch.floor(y / cell))
    image = image * (0.85 + 0.3 * dye)
    return image * (1 + 0.15 * canvas.fractal(0.01, 2, 4) + 0.12 * canvas.fractal(0.35, 3, 5))


def terrazzo(canvas: Canvas, colour: Colour, chips: tuple[Colour, ...], cell_m: float) -> Tensor:
    """Paint stone chips of many sizes in a ground."""
    image = canvas.flat(colour) * (1 + 0.08 * canvas.fractal(0.4, 3, 1))
    x, y = canvas.grid()
    for layer, colour_of_chip in enumerate(chips):
        cell = cell_m * (1.0, 0.6, 0.37, 0.8)[layer % 4]
        px, py = x / cell + 0.37 * layer, y / cell + 0.61 * layer
        column, row = torch.floor(px), torch.floor(py)
        shift_x, shift_y, turn, reach, tone = (
            canvas.cells(11 * layer + 20 + k, row, column) for k in range(5)
        )
        px, py = px - column - 0.3 - 0.4 * shift_x, py - row - 0.3 - 0.4 * shift_y
        c, s = torch.cos(6.3 * turn), torch.sin(6.3 * turn)
        a, b = (c * px + s * py).abs(), (c * py - s * px).abs()
        inside = 0.08 + 0.2 * reach - torch.maximum(a + 0.3 * b, 1.5 * b)
        chip = canvas.flat(colour_of_chip) * (0.7 + 0.6 * tone)
        image = blend(image, chip, soft_step(inside, 0.05))
    return image


def acoustic(canvas: Canvas) -> Tensor:
    """Paint ceiling panels in a metal grid, with pin holes and water stains."""
    cell_m = 0.6
    _, _, own, u, v = canvas.tiling(cell_m)
    image = canvas.flat((0.74, 0.74, 0.71)) * (0.9 + 0.12 * own)
    image = image * (1 + 0.05 * canvas.fractal(0.5, 3, 1))
    holes = soft_step(canvas.fractal(0.028, 2, 2) - 0.95, 0.2)
    image = image * (1 - 0.5 * holes)
    stain = canvas.fractal(0.9, 3, 3) - 1.0
    image = blend(image, (0.5, 0.42, 0.3), 0.6 * soft_step(0.08 - stain.abs(), 0.12))
    edge = 0.5 - torch.maximum(u.abs(), v.abs())
    return blend(image, (0.5, 0.5, 0.5), soft_step(0.012 - edge * cell_m, 0.004))


def plain(canvas: Canvas, colour: Colour, speckle: float = 0.06) -> Tensor:
    """Paint plastic, metal or glaze: one colour with a little dirt."""
    dirt = canvas.fractal(0.12, 4, 1) + 0.6 * canvas.fractal(0.012, 2, 2)
    marks = soft_step(canvas.fractal(0.05, 3, 3) - 1.15, 0.2)
    return canvas.flat(colour) * (1 + speckle * dirt) * (1 - 4 * speckle * marks)


def noise(canvas: Canvas, colours: tuple[Colour, Colour, Colour], cell_m: float) -> Tensor:
    """Paint clouds of three colours with structure from ``cell_m`` down to a texel."""
    first, second = canvas.fractal(cell_m, 8, 1, gain=0.7), canvas.fractal(cell_m, 8, 2, gain=0.7)
    image = blend(canvas.flat(colours[0]), colours[1], soft_step(first, 0.5))
    return blend(image, colours[2], soft_step(second - 0.5, 0.3))


def blocks(canvas: Canvas, colours: tuple[Colour, Colour, Colour], cell_m: float) -> Tensor:
    """Paint random rectangles of several sizes over one another, like cladding or graffiti."""
    x, y = canvas.grid()
    image = canvas.flat(colours[0]) * (1 + 0.15 * canvas.fractal(cell_m, 5, 1))
    for k, size in enumerate((cell_m, 0.55 * cell_m, 0.24 * cell_m)):
        wide = 1 + 2 * float(hash_unit(canvas.seed + k, torch.zeros(1, device=canvas.device)))
        row, column = torch.floor(y / size), torch.floor(x / (size * wide))
        on = (canvas.cells(3 * k + 2, row, column) > 0.62).float()
        tone = 0.5 + canvas.cells(3 * k + 3, row, column)
        image = blend(image, canvas.flat(colours[1 + k % 2]) * tone, on)
    return image * (1 + 0.08 * canvas.fractal(0.03, 3, 9))
