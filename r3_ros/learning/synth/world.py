"""A procedural world: facets with baked textures, moving bodies, and free space for a camera."""

from __future__ import annotations

from dataclasses import dataclass, replace
import math

import numpy as np
import torch

from ...core.errors import ConfigError
from ...core.geometry import make_T
from .baking import bake
from .facets import FacetTable, rotation_z, Solid
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
    """One procedural world, ready to be rendered; ``loop``, ``look``, ``sky``: as in its plan.

    :ivar bodies: the moving bodies; body ``k`` of the facets is ``bodies[k - 1]``.
    :ivar solids: obstacles for the camera, walls included.
    :ivar exposure: suitable gain: display white = radiance * exposure of 1.
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

        :param moving: number of moving bodies.
        :param coarseness: scales the texel size; 2 is half as sharp and four times as quick.
        :param variety: share of the surfaces with random materials instead of those of the kind,
            0 to 1; above 0 the light changes, too.
        :raises ConfigError: an unknown kind, or a number out of range.
        """
        if kind not in KINDS:
            raise ConfigError(f'world kind {kind!r} is unknown: use one of {", ".join(KINDS)}')
        if not 0 <= seed < 2**63:
            raise ConfigError(f'seed must be in [0, 2^63), got {seed}')
        if moving < 0 or not coarseness > 0:
            wanted = 'moving must not be negative and coarseness must be positive'
            raise ConfigError(f'{wanted}, got {moving} and {coarseness}')
        plan = KINDS[kind](np.random.default_rng((seed, list(KINDS).index(kind), 20)), moving)
        if variety:
            plan = varied(plan, np.random.default_rng((seed, 21)), variety)
        return cls.of_plan(plan, seed=seed, kind=kind, coarseness=coarseness, device=device)

    @classmethod
    def of_plan(
        cls,
        plan: Plan,
        *,
        seed: int,
        kind: str,
        coarseness: float = 1.0,
        device: torch.device | str = 'cpu',
    ) -> World:
        """Light and paint a plan; ``seed`` and ``kind`` are only recorded."""
        device, specs, solids = torch.device(device), plan.assembly.facets, plan.assembly.solids
        # Bodies are lit in the middle of their swing.
        middles = [np.zeros(3), *(body.centre for body in plan.bodies)]
        at_rest = [replace(s, centre=s.centre + middles[s.body]) for s in specs]
        cell = plan.light_cell_m * max(1.0, coarseness)
        light = light_facets(at_rest, solids, plan.lights, plan.ambient, device, cell)
        textures, radiance = bake(specs, light, coarseness, device)
        return cls(
            seed=seed,
            kind=kind,
            facets=FacetTable.from_specs(specs, device),
            textures=textures,
            bodies=tuple(plan.bodies),
            solids=(*solids, *plan.keep_out),
            loop=plan.loop,
            look=plan.look,
            exposure=0.24 / radiance,
            sky=plan.sky,
        )

    @property
    def device(self) -> torch.device:
        return self.textures.table.device

    def body_poses(self, time_s: torch.Tensor) -> torch.Tensor:
        """Return ``T_world_body`` at (B,) times: (B, 1 + bodies, 4, 4); 0 is the static world."""
        out = torch.eye(4, dtype=torch.float64).repeat(len(time_s), 1 + len(self.bodies), 1, 1)
        for k, body in enumerate(self.bodies, 1):
            for i, t in enumerate(time_s.tolist()):
                angle = 2 * math.pi * t / body.period_s + body.phase
                turn = rotation_z(body.spin * math.sin(angle * 0.5))
                out[i, k] = torch.from_numpy(
                    make_T(turn, body.centre + body.reach * math.sin(angle))
                )
        return out.to(self.device)
