"""Light: soft shadows and ambient occlusion, computed once per world and baked into its textures.

Lamps are sampled at a few points each, and every sample is tested against the solids; ambient
light is reduced near solids. Surfaces are matt: the radiance of a point is the same from all
directions, as methods that compare images assume.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from .facets import FacetSpec, Solid
from .parallel import in_order

_AMBIENT_REACH_M = 0.9
_LIFT_M = 0.012  # start rays this far off the surface
_POINTS_PER_PASS = 1024


@dataclass(frozen=True, eq=False)
class Light:
    """A small area light: a rectangle that emits to its front side.

    :ivar centre: (3,) metres, with half extents ``half_u`` and ``half_v``.
    :ivar normal: (3,) unit direction of its front.
    :ivar power: (3,) linear red, green, blue.
    """

    centre: np.ndarray
    half_u: np.ndarray
    half_v: np.ndarray
    normal: np.ndarray
    power: np.ndarray


def light_facets(
    specs: list[FacetSpec],
    solids: list[Solid],
    lights: list[Light],
    ambient: np.ndarray,
    device: torch.device,
    cell_m: float,
) -> list[Tensor]:
    """Return the incident light of each facet: (3, rows, columns) float32 per facet.

    :param ambient: (3,) light from all directions, before occlusion.
    :param cell_m: distance of the points at which light is computed.
    """
    positions, normals, shapes = _sample_points(specs, device, cell_m)
    blockers = _Blockers.of(solids, device)

    def job(i: int) -> Tensor:
        normal = normals[i : i + _POINTS_PER_PASS]
        start = positions[i : i + _POINTS_PER_PASS] + _LIFT_M * normal
        total = _ambient(blockers, start, normal)[:, None] * torch.as_tensor(
            ambient, dtype=torch.float32, device=device
        )
        for lamp in lights:
            total += _direct(blockers, start, normal, lamp)
        return total

    passes = range(0, len(positions), _POINTS_PER_PASS)
    together = torch.cat(list(in_order(job, passes, device)))
    parts = together.split([h * w for h, w in shapes])
    return [part.T.reshape(3, h, w) for part, (h, w) in zip(parts, shapes, strict=True)]


def _sample_points(
    specs: list[FacetSpec], device: torch.device, cell_m: float
) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Return positions and normals (P, 3) of cell centres, and the grid of each facet."""
    positions, normals, shapes = [], [], []
    for s in specs:
        w, h = s.size_m
        columns, rows = max(1, math.ceil(w / cell_m)), max(1, math.ceil(h / cell_m))
        u = (np.arange(columns) + 0.5) / columns * 2 - 1
        v = (np.arange(rows) + 0.5) / rows * 2 - 1
        v, u = (g.reshape(-1, 1) for g in np.meshgrid(v, u, indexing='ij'))
        positions.append(s.centre + u * s.half_u + v * s.half_v)
        if s.normal_left is not None and s.normal_right is not None:
            n = s.normal_left * (1 - u) + s.normal_right * (1 + u)
            normals.append(n / np.linalg.norm(n, axis=1, keepdims=True))
        else:
            normals.append(np.broadcast_to(s.normal, positions[-1].shape))
        shapes.append((rows, columns))
    position, normal = (
        torch.as_tensor(np.concatenate(parts), dtype=torch.float32).to(device)
        for parts in (positions, normals)
    )
    return position, normal, shapes


class _Blockers(NamedTuple):
    """The solids as tensors: cosine and sine (S,) of their yaw, and (S, 3) each.

    ``reach`` is the half size of the bounding box in world axes.
    """

    cosine: Tensor
    sine: Tensor
    centre: Tensor
    half: Tensor
    reach: Tensor

    @classmethod
    def of(cls, solids: list[Solid], device: torch.device) -> _Blockers:
        yaw = np.array([s.yaw for s in solids])
        half = np.array([s.half for s in solids])
        c, s = np.abs(np.cos(yaw)), np.abs(np.sin(yaw))
        reach = np.stack(
            (c * half[:, 0] + s * half[:, 1], s * half[:, 0] + c * half[:, 1], half[:, 2]), 1
        )
        values = (np.cos(yaw), np.sin(yaw), np.array([s.centre for s in solids]), half, reach)
        return cls(*(torch.as_tensor(v, dtype=torch.float32).to(device) for v in values))

    def between(self, low: Tensor, high: Tensor) -> _Blockers:
        """Return the solids that overlap an upright box with corners (3,)."""
        overlap = (self.centre - self.reach <= high) & (self.centre + self.reach >= low)
        keep = overlap.all(1).nonzero()[:, 0]
        return _Blockers(*(values[keep] for values in self))

    def first_hit(self, start: Tensor, direction: Tensor) -> Tensor:
        """Return (R, P): the distance of the first hit, inf for none.

        :param start: (P, 3) starts of the rays.
        :param direction: (R, P, 3); its length is the unit of the distance.
        """
        if len(self.half) == 0:
            return torch.full(direction.shape[:2], math.inf, device=start.device)
        offset = start[:, None] - self.centre  # (P, S, 3)
        d = torch.where(direction.abs() < 1e-9, 1e-9, direction)[:, :, None]  # (R, P, 1, 3)
        enter, leave = _slab(offset[..., 2], 1 / d[..., 2], self.half[:, 2])
        for first, second, sign, k in ((0, 1, 1, 0), (1, 0, -1, 1)):
            along = self.cosine * d[..., first] + sign * self.sine * d[..., second]
            at = self.cosine * offset[..., first] + sign * self.sine * offset[..., second]
            along = torch.where(along.abs() < 1e-9, 1e-9, along)
            low, high = _slab(at, 1 / along, self.half[:, k])
            enter, leave = torch.maximum(enter, low), torch.minimum(leave, high)
        hit = (enter < leave) & (enter > 0)
        return torch.where(hit, enter, math.inf).amin(-1)


def _slab(at: Tensor, inverse: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Return where rays enter and leave the space between two parallel planes."""
    middle, reach = -at * inverse, half * inverse.abs()
    return middle - reach, middle + reach


_LAMP_SAMPLES = ((-0.6, -0.5), (0.55, -0.65), (-0.5, 0.6), (0.65, 0.5), (0.0, 0.0))


def _direct(blockers: _Blockers, start: Tensor, normal: Tensor, lamp: Light) -> Tensor:
    """Return the light of one lamp: (P, 3)."""
    samples = np.array([lamp.centre + a * lamp.half_u + b * lamp.half_v for a, b in _LAMP_SAMPLES])
    at, front, power = (
        torch.as_tensor(values, dtype=torch.float32, device=start.device)
        for values in (samples, lamp.normal, lamp.power)
    )
    to_lamp = at[:, None] - start  # (R, P, 3)
    square = (to_lamp * to_lamp).sum(-1)
    facing = ((to_lamp * normal).sum(-1)).clamp(min=0)
    facing = facing * (-(to_lamp @ front)).clamp(min=0) / square
    corners = torch.cat((start, at))
    near = blockers.between(corners.amin(0), corners.amax(0))
    # 0.97: a lamp often lies in the surface of a solid, which must not block it.
    free = near.first_hit(start, to_lamp) > 0.97
    total = (facing / (square + 0.15) * free).mean(0)
    return total[:, None] * power


def _ambient(blockers: _Blockers, start: Tensor, normal: Tensor) -> Tensor:
    """Return the share of the ambient light that arrives: (P,) in [0, 1]."""
    helper = torch.where(
        normal[:, 2:].abs() > 0.9,
        torch.tensor([1.0, 0, 0], device=normal.device),
        torch.tensor([0, 0, 1.0], device=normal.device),
    )
    tangent = F.normalize(torch.linalg.cross(helper, normal), dim=-1)
    other = torch.linalg.cross(normal, tangent)
    rays = [(0.35, k * 2 * math.pi / 3) for k in range(3)]
    rays += [(0.78, (k + 0.5) * 2 * math.pi / 6) for k in range(6)]
    directions = torch.stack([
        tangent * (sine * math.cos(angle))
        + other * (sine * math.sin(angle))
        + normal * math.sqrt(1 - sine * sine)
        for sine, angle in rays
    ])  # fmt: skip
    near = blockers.between(start.amin(0) - _AMBIENT_REACH_M, start.amax(0) + _AMBIENT_REACH_M)
    shade = (1 - near.first_hit(start, directions * _AMBIENT_REACH_M)).clamp(min=0)
    return 1 - 0.85 * shade.mean(0)
