"""The texel grid that textures are painted on, and the hashed noise of all patterns.

Noise is a hash of lattice coordinates and a seed: it has the same values on every device and in
every order, and a pattern can continue on a neighbouring facet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

# Linear red, green and blue.
Colour: TypeAlias = Sequence[float] | np.ndarray

_FACTORS = (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35)


def hash_unit(seed: int, *coordinates: Tensor) -> Tensor:
    """Hash up to two integers (broadcast against each other) to float32 in [0, 1)."""
    h: Tensor | int = _wrapped(seed * _FACTORS[2] + 0x165667B1)
    for c, factor in zip(coordinates, _FACTORS, strict=False):
        h = c.to(torch.int32) * _wrapped(factor) + h
    assert isinstance(h, Tensor)
    # 32-bit integers wrap around; a right shift must not extend the sign.
    h = h ^ ((h >> 16) & 0xFFFF)
    h = h * _wrapped(0x21F0AAAD)
    h = h ^ ((h >> 15) & 0x1FFFF)
    h = h * _wrapped(0x735A2D97)
    h = h ^ ((h >> 15) & 0x1FFFF)
    return ((h >> 8) & 0xFFFFFF).float() * (1.0 / (1 << 24))


def _wrapped(value: int) -> int:
    """Wrap an integer to signed 32 bits."""
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


@dataclass(frozen=True, eq=False)
class Canvas:
    """A grid of texels in metres.

    :ivar x: (w,) float32, metres to the right of the pattern's origin, texel centres; ``y``: (h,)
        downwards.
    :ivar size_m: full width and height of the facet in metres.
    """

    x: Tensor
    y: Tensor
    size_m: tuple[float, float]
    seed: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.y), len(self.x)

    @property
    def device(self) -> torch.device:
        return self.x.device

    def grid(self) -> tuple[Tensor, Tensor]:
        """Return x and y as (h, w) grids, metres."""
        y, x = torch.meshgrid(self.y, self.x, indexing='ij')
        return x, y

    def rng(self, salt: int) -> np.random.Generator:
        """Return a generator for the pattern's random choices."""
        return np.random.default_rng((self.seed & 0xFFFFFFFF, salt))

    def cells(self, salt: int, row: Tensor, column: Tensor) -> Tensor:
        """Return one random number in [0, 1) for the cell of every texel.

        :param row: integers, broadcast against ``column``.
        """
        row, column = row.long(), column.long()
        top, left = int(row.min()), int(column.min())
        rows = torch.arange(top, int(row.max()) + 1, device=self.device)
        columns = torch.arange(left, int(column.max()) + 1, device=self.device)
        return hash_unit(self.seed + salt, rows[:, None], columns)[row - top, column - left]

    def tiling(self, cell_m: float) -> tuple[Tensor, ...]:
        """Return the grid of square cells at every texel: (h, w) each.

        :returns: row, column, a random number in [0, 1) for the cell, and the place in the cell
            to the right and down, from -0.5 to 0.5.
        """
        x, y = self.grid()
        column, row = torch.floor(x / cell_m), torch.floor(y / cell_m)
        own = self.cells(1, row, column)
        return row, column, own, x / cell_m - column - 0.5, y / cell_m - row - 0.5

    def noise(self, cell_m: float, salt: int, stretch: float = 1.0) -> Tensor:
        """Return smooth noise in [0, 1): (h, w).

        :param cell_m: distance of the lattice points along y, metres.
        :param stretch: cell size along x over that along y.
        """
        x0, x1, fx = _lattice(self.x / (cell_m * stretch))
        y0, y1, fy = _lattice(self.y / cell_m)
        columns = torch.arange(int(x0.min()), int(x1.max()) + 1, device=self.device)
        rows = torch.arange(int(y0.min()), int(y1.max()) + 1, device=self.device)
        values = hash_unit(self.seed + 7919 * salt, rows[:, None], columns[None])
        x0, x1, y0, y1 = x0 - columns[0], x1 - columns[0], y0 - rows[0], y1 - rows[0]
        tall = torch.lerp(values[y0], values[y1], fy[:, None])
        return torch.lerp(tall[:, x0], tall[:, x1], fx)

    def fractal(
        self, cell_m: float, octaves: int, salt: int, gain: float = 0.55, stretch: float = 1.0
    ) -> Tensor:
        """Return octaves of noise, zero mean, most values in [-1, 1]: (h, w)."""
        total = torch.zeros(self.shape, device=self.device)
        weight, norm = 1.0, 0.0
        texel_m = self.size_m[1] / len(self.y)
        for k in range(octaves):
            if k > 0 and cell_m / 2**k < 1.2 * texel_m:
                break  # finer than a texel: aliased
            total += weight * (self.noise(cell_m / 2**k, salt * 31 + k, stretch) * 2 - 1)
            norm += weight * weight
            weight *= gain
        return total * (1.3 / norm**0.5)

    def flat(self, colour: Colour) -> Tensor:
        """Return a uniform colour: (3, h, w)."""
        value = torch.as_tensor(np.asarray(colour, dtype=np.float32), device=self.device)
        return value[:, None, None].expand(3, *self.shape).clone()


def _lattice(position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return both neighbouring lattice points and the smooth weight of the second."""
    base = position.floor()
    f = position - base
    base = base.long()
    return base, base + 1, f * f * f * (f * (f * 6 - 15) + 10)


def blend(image: Tensor, colour: Colour | Tensor, mask: Tensor) -> Tensor:
    """Return (3, h, w) ``image`` with ``colour`` laid over it where ``mask`` (h, w) is 1."""
    if not isinstance(colour, Tensor):
        colour = torch.as_tensor(np.asarray(colour, dtype=np.float32), device=image.device)
        colour = colour[:, None, None]
    return torch.lerp(image, colour.expand_as(image), mask[None].expand_as(image))


def soft_step(value: Tensor, width: float) -> Tensor:
    """Return 0 below 0 and 1 above, with a ramp of ``width`` in between."""
    return (value / width + 0.5).clamp(0, 1)
