"""Halls with columns and crates: larger, higher and emptier than rooms."""

from __future__ import annotations

import math

import numpy as np

from . import materials, posters
from .facets import Assembly
from .layout import add_bodies, Builder, closed_loop, Plan, walls_around
from .materials import Material


def hall(rng: np.random.Generator, moving: int) -> Plan:
    """Return a hall: two rows of columns, crates between them, posters on the walls."""
    w, d = rng.uniform(13, 18), rng.uniform(10, 13)
    b = Builder(rng, rng.uniform(3.8, 5.5))
    b.floor_and_ceiling(0, 0, w, d)
    cover = b.wall_material()
    for k, (start, yaw, length) in enumerate(walls_around(w, d)):
        b.wall(start, yaw, length, cover.reseeded(k))
        b.furnish_wall(start, yaw, length, deep=False, margin=0)
    _columns(b, w, d)
    _crates(b, w, d)
    for x in np.linspace(0, w, 5)[1:-1]:
        for y in (d * 0.25, d * 0.75):
            b.ceiling_lamp(float(x), y, rng.uniform(8, 18))
    a, c = w / 2 - 1.9, d / 2 - 1.7
    corners = np.array([[-a, -c], [a, -c], [a, c], [-a, c]]) + (w / 2, d / 2)
    plan = Plan(b.assembly, closed_loop(corners, 6), rng.choice(['ahead', 'across']), b.lights,
                np.full(3, rng.uniform(0.25, 0.5)), light_cell_m=0.15)  # fmt: skip
    add_bodies(plan, b, moving, (w / 2, d / 2))
    return plan


def _columns(b: Builder, w: float, d: float) -> None:
    rng, shop = b.rng, b.shop
    r = rng.uniform(0.18, 0.32)
    skin = shop.material(materials.tiles, 0.006, colour=shop.colour(), second=shop.colour(),
                         cell_m=rng.uniform(0.2, 0.5), style=int(rng.integers(4)))  # fmt: skip
    profile = [(r * 1.3, 0), (r * 1.3, 0.2), (r, 0.3), (r * 0.9, b.height)]
    for x in np.linspace(3.6, w - 3.6, int(rng.integers(3, 5))):
        for y in (3.4, d - 3.4):
            b.assembly.lathe((x, y, 0), profile, skin, sides=14)


def _crates(b: Builder, w: float, d: float) -> None:
    """Pile crates in the middle and put two plants at the sides."""
    rng, shop = b.rng, b.shop
    for _ in range(int(rng.integers(4, 9))):
        at = (rng.uniform(4.6, w - 4.6), rng.uniform(4.4, d - 4.4), 0)
        pile = Assembly()
        z = 0.0
        for _ in range(int(rng.integers(1, 4))):
            size = rng.uniform(0.4, 0.9, size=3)
            pile.box((0, 0, z + size[2] / 2), size, _crate(b), yaw=rng.uniform(0, 0.5))
            z += size[2]
        b.assembly.add(pile, at, rng.uniform(0, math.pi))
    for x in (3.0, w - 3.0):
        b.assembly.add(shop.plant(), (x, d / 2, 0))


def _crate(b: Builder) -> Material:
    if b.rng.uniform() < 0.6:
        return b.shop.image_material(posters.label, 0.004, colour=b.shop.colour())
    return b.shop.wood(0.005)
