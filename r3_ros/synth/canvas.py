"""The grid a texture is painted on, and the hashed noise every pattern is made from.

Noise is a hash of lattice coordinates and a seed: it gives the same values on every device and
in every order, and a pattern can go on from one facet to its neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

_MASK = 0xFFFFFFFF


def hash_unit(seed: int, *coordinates: torch.Tensor) -> torch.Tensor:
    """Hash integer coordinates (broadcast against each other) to float32 in [0, 1)."""
    h = torch.tensor(seed * 0x9E3779B1 & _MASK, device=coordinates[0].device)
    for k, c in enumerate(coordinates):
        h = _mix((h + c.long() * (0x85EBCA6B + 2 * k * 0x27D4EB2F) + 0x165667B1 * (k + 1)) & _MASK)
    return (h >> 8).float() * (1.0 / (1 << 24))


def _mix(h: torch.Tensor) -> torch.Tensor:
    """Scramble 32-bit values held in int64, so that near ones end far apart."""
    h = h ^ (h >> 16)
    h = (h * 0x21F0AAAD) & _MASK
    h = h ^ (h >> 15)
    h = (h * 0x735A2D97) & _MASK
    return h ^ (h >> 15)


@dataclass(frozen=True, eq=False)
class Canvas:
    """A grid of texels in metres.

    :ivar x: (w,) float32, metres to the right of the pattern's origin, texel centres.
    :ivar y: (h,) float32, metres downwards.
    :ivar size_m: full width and height of the facet in metres.
    :ivar seed: decides every random choice of the pattern.
    """

    x: torch.Tensor
    y: torch.Tensor
    size_m: tuple[float, float]
    seed: int

    @classmethod
    def of_facet(
        cls,
        size_m: tuple[float, float],
        texel_m: float,
        seed: int,
        shift_m: tuple[float, float],
        device: torch.device,
    ) -> Canvas:
        """Cover a facet with texels of about ``texel_m``."""
        axes = []
        for length, shift in zip(size_m, shift_m, strict=True):
            n = max(2, round(length / texel_m))
            axes.append((torch.arange(n, device=device) + 0.5) * (length / n) + shift)
        return cls(axes[0].float(), axes[1].float(), size_m, seed)

    @property
    def shape(self) -> tuple[int, int]:
        """Return the height and the width in texels."""
        return len(self.y), len(self.x)

    @property
    def device(self) -> torch.device:
        """Return where the texels live."""
        return self.x.device

    def grid(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x and y as (h, w) grids, metres."""
        y, x = torch.meshgrid(self.y, self.x, indexing='ij')
        return x, y

    def rng(self, salt: int = 0) -> np.random.Generator:
        """Return a generator for the pattern's choices."""
        return np.random.default_rng((self.seed & _MASK, salt))

    def noise(self, cell_m: float, salt: int = 0, stretch: float = 1.0) -> torch.Tensor:
        """Return smooth noise in [0, 1): (h, w).

        :param cell_m: distance of the lattice points along y, metres.
        :param stretch: how much longer the cells are along x.
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
        self,
        cell_m: float,
        octaves: int,
        salt: int = 0,
        gain: float = 0.55,
        stretch: float = 1.0,
    ) -> torch.Tensor:
        """Return octaves of noise, zero mean, most values in [-1, 1]: (h, w)."""
        total = torch.zeros(self.shape, device=self.device)
        weight, norm = 1.0, 0.0
        for k in range(octaves):
            total += weight * (self.noise(cell_m / 2**k, salt * 31 + k, stretch) * 2 - 1)
            norm += weight * weight
            weight *= gain
        return total * (1.3 / norm**0.5)

    def flat(self, colour) -> torch.Tensor:
        """Return one colour everywhere: (3, h, w)."""
        value = torch.as_tensor(np.asarray(colour, dtype=np.float32), device=self.device)
        return value[:, None, None].expand(3, *self.shape).clone()


def _lattice(position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split positions into the lattice points around and a smooth share of the second."""
    base = position.floor()
    f = position - base
    base = base.long()
    return base, base + 1, f * f * f * (f * (f * 6 - 15) + 10)


def blend(image: torch.Tensor, colour, mask: torch.Tensor) -> torch.Tensor:
    """Return (3, h, w) ``image`` with ``colour`` laid over it where ``mask`` (h, w) is 1."""
    if not isinstance(colour, torch.Tensor):
        colour = torch.as_tensor(np.asarray(colour, dtype=np.float32), device=image.device)
        colour = colour[:, None, None]
    return torch.lerp(image, colour.expand_as(image), mask[None].expand_as(image))


def soft_step(value: torch.Tensor, width: float) -> torch.Tensor:
    """Return 0 below 0 and 1 above, with a ramp of ``width`` in between."""
    return (value / width + 0.5).clamp(0, 1)
