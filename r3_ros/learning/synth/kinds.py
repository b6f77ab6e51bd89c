"""The kinds of world by name, and the kinds indoors.

Every kind is a function of a random generator and a number of moving bodies that returns a
:class:`Plan`.
"""

from __future__ import annotations

import math

import numpy as np

from . import materials, posters
from .facets import Assembly, Solid
from .layout import Builder, closed_loop, Plan, Point, sides_of, walls_around
from .outdoors import objects, street


def room(rng: np.random.Generator, moving: int) -> Plan:
    """Return a furnished room: furniture along the walls, often a table in the middle."""
    w, d = rng.uniform(5.2, 7.2), rng.uniform(4.8, 6.2)
    b = Builder(rng, rng.uniform(2.45, 3.0))
    b.floor_and_ceiling(w, d)
    first = b.wall_material()
    windows = rng.permutation(4)[: rng.integers(1, 3)]
    door = int(rng.integers(4))
    day = rng.uniform(0.6, 1.3)
    for k, (start, yaw, length) in enumerate(walls_around(w, d)):
        b.wall(start, yaw, length, first.reseeded(k) if rng.uniform() < 0.6 else b.wall_material())
        if k in windows:
            for x in np.linspace(0, length, 4)[1:3]:
                b.window(start, yaw, float(x), length * 0.24, day)
            _low_pieces(b, start, yaw, length)
        elif k == door:
            b.door(start, yaw, length - 1.0)
            b.furnish_wall(start, yaw, length - 1.7, margin=0.65)
        else:
            b.furnish_wall(start, yaw, length, margin=0.65)
    _middle_of_room(b, w, d)
    for x in np.linspace(0, w, 2 + int(rng.integers(1, 3)))[1:-1]:
        b.ceiling_lamp(float(x), d / 2 + rng.normal(0, 0.3), rng.uniform(3, 6))
    a, c = w / 2 - 1.35, d / 2 - 1.3
    angles = np.arange(10) / 10 * 2 * math.pi
    ring = np.stack((w / 2 + a * np.cos(angles), d / 2 + c * np.sin(angles)), 1)
    plan = Plan(b.assembly, ring, 'across', b.lights, np.full(3, rng.uniform(0.25, 0.6)))
    _add_bodies(plan, b, moving, (w / 2, d / 2))
    return plan


def _low_pieces(b: Builder, start: Point, yaw: float, length: float) -> None:
    """Put furniture lower than a window sill along a wall."""
    out = Assembly()
    x = 0.7
    while x < length - 1.6:
        width = b.rng.uniform(0.7, 1.3)
        out.add(b.cabinet(width, b.rng.uniform(0.5, 0.8), 0.4), (x + width / 2, 0, 0))
        x += width + b.rng.uniform(0.1, 0.9)
    b.assembly.add(out, (*start, 0), yaw)


def _middle_of_room(b: Builder, w: float, d: float) -> None:
    rng = b.rng
    size = np.array([rng.uniform(1.8, 2.6), rng.uniform(1.3, 1.9)])
    colours = tuple(b.colour() for _ in range(4))
    rug = b.image(materials.rug, 0.004, colours=colours)
    b.assembly.box((w / 2, d / 2, 0.005), (*size, 0.01), rug, yaw=rng.normal(0, 0.1),
                   skip='bottom', solid=False)  # fmt: skip
    yaw = rng.normal(0, 0.12)
    middle = Assembly()
    tw, td = rng.uniform(1.0, 1.5), rng.uniform(0.6, 0.85)
    if rng.uniform() < 0.6:
        middle.add(b.table(tw, td, rng.uniform(0.68, 0.78), 7), (0, 0, 0))
        for sign in (-1, 1):
            if rng.uniform() < 0.8:
                middle.add(b.chair(), (rng.uniform(-0.3, 0.3), sign * (td / 2 + 0.1), 0),
                           (0 if sign > 0 else math.pi) + rng.normal(0, 0.3))  # fmt: skip
    else:
        middle.add(b.table(tw, td, 0.42, 6), (0, 0, 0))
        middle.add(b.stool(), (tw / 2 + 0.3, rng.uniform(-0.3, 0.3), 0))
    b.assembly.add(middle, (w / 2, d / 2, 0.01), yaw)


def corridor(rng: np.random.Generator, moving: int) -> Plan:
    """Return a corridor that runs around a block of rooms and closes on itself."""
    width = rng.uniform(2.0, 2.4) + 0.3 * (moving > 0)
    w, d = rng.uniform(6.8, 8.4), rng.uniform(5.6, 6.8)
    b = Builder(rng, rng.uniform(2.35, 2.7))
    b.floor_and_ceiling(w, d)
    x0, y0, x1, y1 = width, width, w - width, d - width
    first, second = b.wall_material(), b.wall_material()
    for k, (start, yaw, length) in enumerate(walls_around(w, d)):
        b.wall(start, yaw, length, first.reseeded(k))
        x = rng.uniform(0.9, 1.5)
        b.door(start, yaw, x)
        beyond = (start[0] + math.cos(yaw) * (x + 0.6), start[1] + math.sin(yaw) * (x + 0.6))
        b.furnish_wall(beyond, yaw, length - x - 0.6)
    for k, (start, yaw, length) in enumerate(sides_of(x0, y0, x1, y1)):
        b.wall(start, yaw, length, second.reseeded(k), solid=False)
        b.furnish_wall(start, yaw, length)
    block = np.array([(x1 - x0) / 2, (y1 - y0) / 2, b.height / 2])
    b.assembly.solids.append(Solid(np.array([(x0 + x1) / 2, (y0 + y1) / 2, b.height / 2]), block))
    for at in ((0.28, 0.28), (w - 0.28, 0.28), (w - 0.28, d - 0.28), (0.28, d - 0.28)):
        piece = b.plant() if rng.uniform() < 0.5 else b.stool()
        b.assembly.add(piece, (*at, 0))
    h = width / 2
    corners = np.array([[h, h], [w - h, h], [w - h, d - h], [h, d - h]])
    for k in range(4):
        for s in (0.15, 0.5, 0.85):
            x, y = corners[k] * (1 - s) + corners[(k + 1) % 4] * s
            b.ceiling_lamp(x, y, rng.uniform(1.2, 2.8), yaw=(k % 2) * math.pi / 2)
    ambient = np.full(3, rng.uniform(0.2, 0.4))
    plan = Plan(b.assembly, closed_loop(corners, 6), 'ahead', b.lights, ambient)
    _add_bodies(plan, b, moving, None)
    return plan


def _add_bodies(plan: Plan, b: Builder, count: int, centre: Point | None) -> None:
    """Add ``count`` swinging bodies, out of the camera's way."""
    rng = b.rng
    for _ in range(count):
        if centre is None:
            at = plan.loop[int(rng.integers(len(plan.loop)))]
            nearest = min((np.zeros(2), plan.loop.max(0) + plan.loop.min(0)),
                          key=lambda c: float(np.abs(c - at).min()))  # fmt: skip
            at = at + 0.45 * np.sign(nearest - at) * (np.abs(nearest - at) < 1.5)
            z, reach = b.height - 0.35, np.array([0.05, 0.05, 0.1])
        else:
            at = np.array(centre) + rng.uniform(-0.35, 0.35, size=2)
            z = rng.uniform(1.0, 1.25)
            turn = rng.uniform(0, math.pi)
            reach = rng.uniform(0.25, 0.5) * np.array([math.cos(turn), math.sin(turn), 0.15])
        middle = np.array([*at, z])
        number = plan.add_body(rng, middle, reach, (2.5, 5), (0.3, 1.5))
        size = rng.uniform(0.14, 0.3, size=3)
        if rng.uniform() < 0.5:
            skin, *others = (b.poster() for _ in range(4))
            faces = dict(zip(('left', 'right', 'back'), others, strict=True))
            plan.assembly.box((0, 0, 0), size, skin, body=number, faces=faces)
        else:
            r = size[0] * 0.7
            rings = [(r * math.sin(a), -r * math.cos(a)) for a in np.linspace(0.15, 2.99, 9)]
            skin = b.material(materials.tiles, 0.003, colour=b.colour(), second=b.colour(),
                              cell_m=0.08, style=0)  # fmt: skip
            plan.assembly.lathe((0, 0, 0), rings, skin, sides=16, body=number)
        plan.keep_out.append(Solid(middle, np.abs(reach) + size.max()))


def hall(rng: np.random.Generator, moving: int) -> Plan:
    """Return a hall: two rows of columns, crates between them, posters on the walls."""
    w, d = rng.uniform(13, 18), rng.uniform(10, 13)
    b = Builder(rng, rng.uniform(3.8, 5.5))
    b.floor_and_ceiling(w, d)
    cover = b.wall_material()
    for k, (start, yaw, length) in enumerate(walls_around(w, d)):
        b.wall(start, yaw, length, cover.reseeded(k))
        b.furnish_wall(start, yaw, length)
    _columns(b, w, d)
    _crates(b, w, d)
    for x in np.linspace(0, w, 5)[1:-1]:
        for y in (d * 0.25, d * 0.75):
            b.ceiling_lamp(float(x), y, rng.uniform(8, 18))
    a, c = w / 2 - 1.9, d / 2 - 1.7
    corners = np.array([[-a, -c], [a, -c], [a, c], [-a, c]]) + (w / 2, d / 2)
    plan = Plan(b.assembly, closed_loop(corners, 6), rng.choice(['ahead', 'across']), b.lights,
                np.full(3, rng.uniform(0.25, 0.5)), light_cell_m=0.15)  # fmt: skip
    _add_bodies(plan, b, moving, (w / 2, d / 2))
    return plan


def _columns(b: Builder, w: float, d: float) -> None:
    rng = b.rng
    r = rng.uniform(0.18, 0.32)
    skin = b.material(materials.tiles, 0.006, colour=b.colour(), second=b.colour(),
                      cell_m=rng.uniform(0.2, 0.5), style=int(rng.integers(4)))  # fmt: skip
    profile = [(r * 1.3, 0), (r * 1.3, 0.2), (r, 0.3), (r * 0.9, b.height)]
    for x in np.linspace(3.6, w - 3.6, int(rng.integers(3, 5))):
        for y in (3.4, d - 3.4):
            b.assembly.lathe((x, y, 0), profile, skin, sides=14)


def _crates(b: Builder, w: float, d: float) -> None:
    rng = b.rng
    for _ in range(int(rng.integers(4, 9))):
        at = (rng.uniform(4.6, w - 4.6), rng.uniform(4.4, d - 4.4), 0)
        pile = Assembly()
        z = 0.0
        for _ in range(int(rng.integers(1, 4))):
            size = rng.uniform(0.4, 0.9, size=3)
            is_labelled = rng.uniform() < 0.6
            skin = (
                b.image(posters.label, 0.004, colour=b.colour()) if is_labelled else b.wood(0.005)
            )
            pile.box((0, 0, z + size[2] / 2), size, skin, yaw=rng.uniform(0, 0.5))
            z += size[2]
        b.assembly.add(pile, at, rng.uniform(0, math.pi))
    for x in (3.0, w - 3.0):
        b.assembly.add(b.plant(), (x, d / 2, 0))


#: In this order: the index of a kind is part of its seeds.
KINDS = {'room': room, 'corridor': corridor, 'street': street, 'objects': objects, 'hall': hall}
