"""Facets: the flat, textured patches that synthetic worlds are made of.

A facet is a planar patch with its own texture rectangle: a parallelogram, a trapezoid (the side
of a cone or a vase) or a disc. Its plane coordinates are ``(u, v)`` in [-1, 1], ``u`` to the
right and ``v`` down as seen from its front. World axes: x and y horizontal, z up, metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
import math
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .materials import Material

STATIC_BODY = 0
_DIRECTIONS = ('half_u', 'half_v', 'normal_left', 'normal_right')
Vector: TypeAlias = Sequence[float] | np.ndarray


@dataclass(frozen=True, eq=False)
class FacetSpec:
    """One facet before it is baked.

    :ivar centre: (3,) float64, metres, in the frame of its body.
    :ivar half_u: (3,) from the centre to the middle of the right edge, ``half_v`` of the bottom.
    :ivar middle: half width at ``v = 0``; with ``slope`` the patch ends at
        ``|u| = middle + slope * v``. (1, 0) is a parallelogram.
    :ivar disc: True for the inscribed ellipse only.
    :ivar body: 0 for the static world, otherwise the number of a moving body.
    :ivar emission: emitted linear radiance, added to the reflected one.
    :ivar normal_left: (3,) shading normal at ``u = -1``, ``normal_right`` at ``u = +1``; both
        None for flat shading.
    :ivar strip: (k, n) for the k-th of n facets side by side, consecutive in the list, which
        share one part of a pattern.
    """

    centre: np.ndarray
    half_u: np.ndarray
    half_v: np.ndarray
    material: Material
    middle: float = 1.0
    slope: float = 0.0
    disc: bool = False
    body: int = STATIC_BODY
    emission: float = 0.0
    normal_left: np.ndarray | None = None
    normal_right: np.ndarray | None = None
    strip: tuple[int, int] = (0, 1)

    @property
    def normal(self) -> np.ndarray:
        n = np.cross(self.half_v, self.half_u)
        return n / np.linalg.norm(n)

    @property
    def size_m(self) -> tuple[float, float]:
        return 2 * float(np.linalg.norm(self.half_u)), 2 * float(np.linalg.norm(self.half_v))


@dataclass(frozen=True, eq=False)
class Solid:
    """A box that blocks light and the camera: centre, half sizes and yaw, in world axes."""

    centre: np.ndarray
    half: np.ndarray
    yaw: float = 0.0


@dataclass(eq=False)
class Assembly:
    """Facets and the solids behind them; what adds to an assembly also returns it."""

    facets: list[FacetSpec] = field(default_factory=list)
    solids: list[Solid] = field(default_factory=list)

    def add(self, other: Assembly, offset: Vector, yaw: float = 0.0) -> Assembly:
        """Add a copy of another assembly, rotated by ``yaw`` and then moved by ``offset``."""
        turn, offset = rotation_z(yaw), np.asarray(offset, dtype=np.float64)
        for spec in other.facets:
            vectors = {name: getattr(spec, name) for name in _DIRECTIONS}
            moved = {name: turn @ v for name, v in vectors.items() if v is not None}
            self.facets.append(replace(spec, centre=turn @ spec.centre + offset, **moved))
        for solid in other.solids:
            centre = turn @ solid.centre + offset
            self.solids.append(Solid(centre, solid.half, solid.yaw + yaw))
        return self

    def panel(
        self, centre: Vector, half_u: Vector, half_v: Vector, material: Material, **extra: Any
    ) -> Assembly:
        """Add one facet; ``extra`` are further fields of :class:`FacetSpec`."""
        c, u, v = (np.asarray(vector, dtype=np.float64) for vector in (centre, half_u, half_v))
        self.facets.append(FacetSpec(c, u, v, material, **extra))
        return self

    def box(
        self,
        centre: Vector,
        size: Vector,
        material: Material,
        *,
        yaw: float = 0.0,
        faces: dict[str, Material] | None = None,
        skip: str = '',
        solid: bool = True,
        body: int = STATIC_BODY,
        emission: float = 0.0,
    ) -> Assembly:
        """Add an upright box.

        :param size: full (x, y, z) size in metres before the rotation by ``yaw`` radians.
        :param faces: other materials: of front (-y), back, left (-x), right, top, bottom.
        :param skip: names of the faces that are never visible, separated by spaces.
        :param solid: False for things too thin to block light or the camera.
        """
        centre = np.asarray(centre, dtype=np.float64)
        half = np.asarray(size, dtype=np.float64) / 2
        turn = rotation_z(yaw)
        for name, (normal, down) in _BOX_FACES.items():
            if name in skip.split():
                continue
            right = np.cross(down, -normal)
            middle, half_u, half_v = (turn @ (v * half) for v in (normal, right, down))
            self.panel(centre + middle, half_u, half_v, (faces or {}).get(name, material),
                       body=body, emission=emission)  # fmt: skip
        if solid and body == STATIC_BODY:
            self.solids.append(Solid(centre, half, yaw))
        return self

    def lathe(
        self,
        base: Vector,
        profile: list[tuple[float, float]],
        material: Material,
        *,
        sides: int,
        top: Material | None = None,
        body: int = STATIC_BODY,
    ) -> Assembly:
        """Add a body of revolution around a vertical axis.

        :param base: (3,) metres, the axis at height 0 of the profile.
        :param profile: (radius, height) from the bottom to the top, metres.
        :param sides: number of flat sides, each with its own part of the material.
        :param top: of the lid on the last radius; None to use ``material``.
        """
        base = np.asarray(base, dtype=np.float64)
        for lower, upper in zip(profile, profile[1:], strict=False):
            self._lathe_ring(base, (*lower, *upper), sides, material, body)
        r_top, z_top = profile[-1]
        self.panel(base + (0, 0, z_top), (r_top, 0, 0), (0, -r_top, 0), top or material,
                   disc=True, body=body)  # fmt: skip
        if body == STATIC_BODY:
            r = max(p[0] for p in profile) * 0.89  # the square of about the circle's area
            z0, z1 = profile[0][1], z_top
            half = np.array([r, r, max((z1 - z0) / 2, 1e-3)])
            self.solids.append(Solid(base + (0, 0, (z0 + z1) / 2), half))
        return self

    def _lathe_ring(
        self,
        base: np.ndarray,
        ring: tuple[float, float, float, float],
        sides: int,
        material: Material,
        body: int,
    ) -> None:
        """Add the flat sides between two radii and heights of a lathe."""
        r0, z0, r1, z1 = ring
        spread, widest = math.pi / sides, max(r0, r1)
        shrink, chord = math.cos(spread), math.sin(spread)
        tilt = np.array([0.0, 0.0, (r0 - r1) / math.hypot(z1 - z0, r1 - r0)])
        for k in range(sides):
            angle = 2 * math.pi * k / sides
            out = np.array([math.cos(angle), math.sin(angle), 0.0])
            right = np.array([-math.sin(angle), math.cos(angle), 0.0])
            bottom = base + out * (r0 * shrink) + (0, 0, z0)
            top = base + out * (r1 * shrink) + (0, 0, z1)
            normals = (out * shrink + sign * right * chord + tilt for sign in (-1.0, 1.0))
            left_normal, right_normal = (n / np.linalg.norm(n) for n in normals)
            self.panel(
                (top + bottom) / 2, right * (widest * chord), (bottom - top) / 2, material,
                middle=(r0 + r1) / 2 / widest, slope=(r0 - r1) / 2 / widest,
                normal_left=left_normal, normal_right=right_normal, strip=(k, sides), body=body,
            )  # fmt: skip


_X, _Y, _Z = np.eye(3)
_BOX_FACES = {  # name -> (outward normal, downward direction of its texture)
    'front': (-_Y, -_Z),
    'back': (_Y, -_Z),
    'left': (-_X, -_Z),
    'right': (_X, -_Z),
    'top': (_Z, -_Y),
    'bottom': (-_Z, _Y),
}


def rotation_z(yaw: float) -> np.ndarray:
    """Return the (3, 3) rotation by ``yaw`` radians about the vertical."""
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


@dataclass(frozen=True, eq=False)
class FacetTable:
    """The facets of a world as tensors, ready to be rendered.

    :ivar centre: (N, 3) float64; ``half_u`` and ``half_v`` likewise.
    :ivar shape: (N, 2) float64: ``middle`` and ``slope``.
    :ivar disc: (N,) bool; ``body``: (N,) int64.
    """

    centre: Tensor
    half_u: Tensor
    half_v: Tensor
    shape: Tensor
    disc: Tensor
    body: Tensor

    @classmethod
    def from_specs(cls, specs: list[FacetSpec], device: torch.device) -> FacetTable:
        """Stack the specs in order."""

        def stack(values: list[Any], dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.as_tensor(np.array(values), dtype=dtype).to(device)

        return cls(
            centre=stack([s.centre for s in specs]),
            half_u=stack([s.half_u for s in specs]),
            half_v=stack([s.half_v for s in specs]),
            shape=stack([(s.middle, s.slope) for s in specs]),
            disc=stack([s.disc for s in specs], torch.bool),
            body=stack([s.body for s in specs], torch.int64),
        )
