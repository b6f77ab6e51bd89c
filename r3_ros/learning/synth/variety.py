"""Random surfaces and light for training, independent of shapes and kinds of world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from . import materials, posters
from .canvas import Colour
from .facets import FacetSpec
from .layout import Plan
from .materials import Material


def varied(plan: Plan, rng: np.random.Generator, share: float) -> Plan:
    """Return the plan with a share of its materials replaced and its light changed."""
    exchanged: dict[int, Material] = {}

    def material(spec: FacetSpec) -> Material:
        old = spec.material
        # One draw per material, not per facet: facets of one object keep a common material.
        if id(old) not in exchanged:
            exchanged[id(old)] = _random_material(rng, old) if rng.uniform() < share else old
        return exchanged[id(old)]

    plan.assembly.facets[:] = [
        spec if spec.emission > 0 else replace(spec, material=material(spec))
        for spec in plan.assembly.facets
    ]
    tint = np.exp(rng.normal(0, 0.2, size=3))
    lights = []
    for light in plan.lights:
        strength = rng.uniform(0.3, 1.8) if rng.uniform() < 0.85 else 0.02
        lights.append(replace(light, power=light.power * strength * tint))
    ambient = plan.ambient * rng.uniform(0.4, 1.8) * np.exp(rng.normal(0, 0.1, size=3))
    return replace(plan, lights=lights, ambient=ambient)


def _random_material(rng: np.random.Generator, like: Material) -> Material:
    """Return a random material at a random scale, with texels like those of ``like``."""
    scale = float(np.exp(rng.uniform(np.log(0.5), np.log(3.0)))) * max(like.texel_m / 0.004, 1)
    first, second, third = (_colour(rng) for _ in range(3))
    style = int(rng.integers(4))
    choice = _CHOICES[int(rng.integers(len(_CHOICES)))]
    painter, options = choice(first, second, third, scale, style)
    seed, shift_m = int(rng.integers(1 << 31)), (rng.uniform(0, 50), rng.uniform(0, 50))
    return Material(painter, options, seed, like.texel_m, shift_m)


#: Painters with their options, from three colours, a scale and a style.
_CHOICES = (
    lambda a, b, c, s, k: (materials.noise, {'colours': (a, b, c), 'cell_m': 0.5 * s}),
    lambda a, b, c, s, k: (materials.noise, {'colours': (a, b, c), 'cell_m': 0.12 * s}),
    lambda a, b, c, s, k: (materials.blocks, {'colours': (a, b, c), 'cell_m': 0.22 * s}),
    lambda a, b, c, s, k: (materials.tiles, {'colour': a, 'second': b, 'cell_m': 0.2 * s,
                                             'style': k}),
    lambda a, b, c, s, k: (materials.fabric, {'colour': a, 'ink': b, 'cell_m': 0.1 * s,
                                              'style': k % 3}),
    lambda a, b, c, s, k: (materials.plaster, {'colour': a}),
    lambda a, b, c, s, k: (materials.plain, {'colour': a, 'speckle': 0.02 * s}),
    lambda a, b, c, s, k: (materials.terrazzo, {'colour': a, 'chips': (b, c, a),
                                                'cell_m': 0.08 * s}),
    lambda a, b, c, s, k: (materials.wallpaper, {'colour': a, 'ink': b, 'cell_m': 0.3 * s,
                                                 'style': k % 3}),
    lambda a, b, c, s, k: (materials.wood, {'colour': a}),
    lambda a, b, c, s, k: (posters.collage, {'shapes': 30}),
)  # fmt: skip


def _colour(rng: np.random.Generator) -> Colour:
    value = rng.uniform(0.03, 0.8)
    return tuple(np.clip(value * np.exp(rng.normal(0, rng.uniform(0.03, 0.6), 3)), 0.02, 0.85))
