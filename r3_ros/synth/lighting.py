"""Light: soft shadows and contact shade, computed once per world and painted into its textures.

Lamps are sampled at a few points each, every sample is tested against the solids; the sky-like
rest is dimmed where solids are near (ambient occlusion). Surfaces are matt, so a place has the
same radiance from everywhere: what a method that compares pictures may rely on.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
import torch
import torch.nn.functional as F

from .facets import FacetSpec, Solid

_CELL_M = 0.07
_AMBIENT_REACH_M = 0.9
_LIFT_M = 0.012  # start rays this far off the surface
_POINTS_PER_PASS = 2048


@dataclass(frozen=True, eq=False)
class Light:
    """A small area light: a rectangle that shines to its front side.

    :ivar centre: (3,) metres.
    :ivar half_u: (3,) half extent; ``half_v`` alike.
    :ivar normal: (3,) unit direction it shines to; zeros to shine everywhere.
    :ivar power: (3,) linear red, green, blue.
    """

    centre: np.ndarray
    half_u: np.ndarray
    half_v: np.ndarray
    normal: np.ndarray
    power: np.ndarray


@dataclass(frozen=True, eq=False)
class _Points:
    """Where light is gathered: positions and normals (P, 3), and how they split by facet."""

    position: torch.Tensor
    normal: torch.Tensor
    shapes: list[tuple[int, int]]


def light_facets(
    specs: list[FacetSpec],
    solids: list[Solid],
    lights: list[Light],
    ambient: np.ndarray,
    device: torch.device,
) -> list[torch.Tensor]:
    """Return the light that falls on each facet: (3, rows, columns) float32 per facet.

    :param ambient: (3,) light from everywhere, before it is dimmed near solids.
    """
    points = _gather_points(specs, device)
    blockers = _Blockers.of(solids, device)
    parts = []
    for i in range(0, len(points.position), _POINTS_PER_PASS):
        position = points.position[i : i + _POINTS_PER_PASS]
        normal = points.normal[i : i + _POINTS_PER_PASS]
        local = blockers.to_local(position + _LIFT_M * normal)
        light = _ambient(blockers, local, normal)[:, None] * torch.as_tensor(
            ambient, dtype=torch.float32, device=device
        )
        for lamp in lights:
            light = light + _direct(blockers, local, position, normal, lamp)
        parts.append(light)
    together = torch.cat(parts)
    counts = [h * w for h, w in points.shapes]
    return [
        piece.T.reshape(3, h, w)
        for piece, (h, w) in zip(together.split(counts), points.shapes, strict=True)
    ]


def spread_light(light: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize a facet's light to its texture: (3, height, width)."""
    return F.interpolate(light[None], size=(height, width), mode='bilinear')[0]


def _gather_points(specs: list[FacetSpec], device: torch.device) -> _Points:
    """Lay a grid of cell centres over every facet."""
    positions, normals, shapes = [], [], []
    for s in specs:
        w, h = s.size_m
        columns, rows = max(1, math.ceil(w / _CELL_M)), max(1, math.ceil(h / _CELL_M))
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
    return _Points(
        torch.as_tensor(np.concatenate(positions), dtype=torch.float32).to(device),
        torch.as_tensor(np.concatenate(normals), dtype=torch.float32).to(device),
        shapes,
    )


@dataclass(frozen=True, eq=False)
class _Blockers:
    """The solids as tensors: their frames' turn (S, 2, 2), centres and half sizes (S, 3)."""

    turn: torch.Tensor
    centre: torch.Tensor
    half: torch.Tensor

    @classmethod
    def of(cls, solids: list[Solid], device: torch.device) -> _Blockers:
        yaw = np.array([s.yaw for s in solids])
        c, s = np.cos(yaw), np.sin(yaw)
        turn = np.stack((np.stack((c, s), -1), np.stack((-s, c), -1)), -2)  # world to solid
        values = (turn, [s.centre for s in solids], [s.half for s in solids])
        return cls(*(torch.as_tensor(np.array(v), dtype=torch.float32).to(device) for v in values))

    def to_local(self, position: torch.Tensor) -> torch.Tensor:
        """Return (P, S, 3): positions in each solid's frame."""
        return self._turned(position[:, None] - self.centre)

    def directions(self, direction: torch.Tensor) -> torch.Tensor:
        """Return (P, S, 3): directions in each solid's frame."""
        return self._turned(direction[:, None].expand(-1, len(self.half), -1))

    def _turned(self, vectors: torch.Tensor) -> torch.Tensor:
        x = vectors[..., 0] * self.turn[:, 0, 0] + vectors[..., 1] * self.turn[:, 0, 1]
        y = vectors[..., 0] * self.turn[:, 1, 0] + vectors[..., 1] * self.turn[:, 1, 1]
        return torch.stack((x, y, vectors[..., 2]), -1)

    def first_hit(self, local: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """Return (P,): the parameter along ``direction`` of the first solid hit, inf for none.

        :param local: (P, S, 3) starts of the rays, see :meth:`to_local`.
        :param direction: (P, 3); its length is the unit of the result.
        """
        d = self.directions(direction)
        inverse = 1 / torch.where(d.abs() < 1e-9, 1e-9, d)
        middle = -local * inverse
        reach = self.half * inverse.abs()
        enter = (middle - reach).amax(-1)
        leave = (middle + reach).amin(-1)
        hit = (enter < leave) & (enter > 0)
        return torch.where(hit, enter, math.inf).amin(-1)


def _direct(blockers, local, position, normal, lamp: Light) -> torch.Tensor:
    """Light of one lamp: (P, 3)."""
    total = torch.zeros(len(position), device=position.device)
    places = ((-0.6, -0.5), (0.55, -0.65), (-0.5, 0.6), (0.65, 0.5), (0.0, 0.0))
    shines = torch.as_tensor(lamp.normal, dtype=torch.float32, device=position.device)
    for a, b in places:
        at = lamp.centre + a * lamp.half_u + b * lamp.half_v
        to_lamp = torch.as_tensor(at, dtype=torch.float32, device=position.device) - position
        square = (to_lamp * to_lamp).sum(-1)
        distance = square.sqrt()
        facing = ((to_lamp * normal).sum(-1) / distance).clamp(min=0)
        if bool((shines != 0).any()):
            facing = facing * (-(to_lamp @ shines) / distance).clamp(min=0)
        # 0.97: a lamp often hangs in a solid's surface; what touches it does not block it.
        free = blockers.first_hit(local, to_lamp) > 0.97
        total += facing / (square + 0.15) * free
    power = torch.as_tensor(lamp.power, dtype=torch.float32, device=position.device)
    return (total / len(places))[:, None] * power


def _ambient(blockers, local, normal) -> torch.Tensor:
    """Share of the light from everywhere that arrives: (P,) in [0, 1]."""
    helper = torch.where(
        normal[:, 2:].abs() > 0.9,
        torch.tensor([1.0, 0, 0], device=normal.device),
        torch.tensor([0, 0, 1.0], device=normal.device),
    )
    tangent = F.normalize(torch.linalg.cross(helper, normal), dim=-1)
    other = torch.linalg.cross(normal, tangent)
    shade = torch.zeros(len(normal), device=normal.device)
    rays = [(0.35, k * 2 * math.pi / 3) for k in range(3)]
    rays += [(0.78, (k + 0.5) * 2 * math.pi / 6) for k in range(6)]
    for sine, angle in rays:
        direction = (
            tangent * (sine * math.cos(angle))
            + other * (sine * math.sin(angle))
            + normal * math.sqrt(1 - sine * sine)
        )
        distance = blockers.first_hit(local, direction * _AMBIENT_REACH_M)
        shade += (1 - distance).clamp(min=0)
    return 1 - 0.85 * shade / len(rays)
