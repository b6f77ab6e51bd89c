"""A world: facets with baked textures, moving bodies, and the room a camera has to move."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
import torch

from ...core.errors import ConfigError
from .baking import bake
from .facets import FacetSpec, FacetTable, rotation_z, Solid, STATIC_BODY
from .kinds import KINDS
from .layout import MovingBody, Plan
from .lighting import light_facets
from .sky import Sky
from .textures import TextureStore
from .variety import varied

# Change it whenever a seed gives another world: recorded with every data set.
WORLD_VERSION = 2


@dataclass(frozen=True, eq=False)
class World:
    """One procedural world, ready to be rendered.

    :ivar facets: geometry.
    :ivar textures: baked linear radiance.
    :ivar bodies: the moving bodies; body ``k`` of the facets is ``bodies[k - 1]``.
    :ivar solids: what the camera must keep away from, walls included.
    :ivar loop: (M, 2) metres, the closed way a visitor would walk.
    :ivar look: where a visitor looks: 'across' or 'ahead'.
    :ivar exposure: gain that shows this world well: display white = radiance * exposure of 1.
    :ivar sky: what is seen where there is no facet; None: black.
    """

    seed: int
    kind: str
    facets: FacetTable
    textures: TextureStore
    bodies: tuple[MovingBody, ...]
    solids: tuple[Solid, ...]
    loop: np.ndarray
    look: str
    exposure: float
    sky: Sky | None = None

    @classmethod
    def generate(
        cls,
        seed: int,
        kind: str = 'room',
        *,
        moving: int = 0,
        coarseness: float = 1.0,
        variety: float = 0.0,
        device: torch.device | str = 'cpu',
    ) -> World:
        """Make the world of a seed.

        :param kind: one of :data:`KINDS`.
        :param moving: number of moving bodies.
        :param coarseness: scales the texel size; 2 is half as sharp and four times as quick.
        :param variety: share of the surfaces that get other materials and colours than their kind
            has, 0 to 1; with it the light changes, too.
        :raises ConfigError: an unknown kind, or a number out of range.
        """
        if kind not in KINDS:
            raise ConfigError(f'world kind {kind!r} is unknown: use one of {", ".join(KINDS)}')
        if not 0 <= seed < 2**63:
            raise ConfigError(f'seed must be in [0, 2^63), got {seed}')
        if moving < 0 or not coarseness > 0:
            raise ConfigError(
                f'moving must not be negative and coarseness must be positive, '
                f'got {moving} and {coarseness}'
            )
        rng = np.random.default_rng((seed, list(KINDS).index(kind), 20))
        if not 0 <= variety <= 1:
            raise ConfigError(f'variety must be in [0, 1], got {variety}')
        plan = KINDS[kind](rng, moving)
        if variety:
            plan = varied(plan, np.random.default_rng((seed, 21)), variety)
        return cls._bake(plan, seed, kind, coarseness, torch.device(device))

    @classmethod
    def _bake(
        cls, plan: Plan, seed: int, kind: str, coarseness: float, device: torch.device
    ) -> World:
        """Paint and light every facet."""
        specs = plan.assembly.facets
        placed = [_at_rest(s, plan.bodies) for s in specs]
        cell = plan.light_cell_m * max(1.0, coarseness)
        light = light_facets(placed, plan.assembly.solids, plan.lights, plan.ambient, device, cell)
        textures, radiance = bake(specs, light, coarseness, device)
        return cls(
            seed=seed,
            kind=kind,
            facets=FacetTable.from_specs(specs, device),
            textures=textures,
            bodies=tuple(plan.bodies),
            solids=(*plan.assembly.solids, *plan.keep_out),
            loop=plan.loop,
            look=plan.look,
            exposure=0.24 / radiance,
            sky=plan.sky,
        )

    @property
    def device(self) -> torch.device:
        """Return where the world lives."""
        return self.textures.table.device

    @property
    def is_static(self) -> bool:
        """Return True if nothing moves."""
        return not self.bodies

    def body_poses(self, time_s: torch.Tensor) -> torch.Tensor:
        """Return ``T_world_body``: (B, 1 + bodies, 4, 4) float64; body 0 is the world itself.

        :param time_s: (B,) seconds.
        """
        out = torch.eye(4, dtype=torch.float64).repeat(len(time_s), 1 + len(self.bodies), 1, 1)
        for k, body in enumerate(self.bodies, 1):
            for i, t in enumerate(time_s.tolist()):
                out[i, k] = torch.from_numpy(_swing(body, t))
        return out.to(self.device)


def _swing(body: MovingBody, time_s: float) -> np.ndarray:
    """Return (4, 4): where a moving body is."""
    angle = 2 * math.pi * time_s / body.period_s + body.phase
    T = np.eye(4)
    T[:3, :3] = rotation_z(body.spin * math.sin(angle * 0.5))
    T[:3, 3] = body.centre + body.reach * math.sin(angle)
    return T


def _at_rest(spec: FacetSpec, bodies: list[MovingBody]) -> FacetSpec:
    """Return the facet where its body rests in the middle of its swing, to be lit there."""
    if spec.body == STATIC_BODY:
        return spec
    moved = dict(spec.__dict__)
    moved['centre'] = spec.centre + bodies[spec.body - 1].centre
    return FacetSpec(**moved)
