"""Outdoor worlds: a street around a block of houses, and a group of objects in a yard."""

from __future__ import annotations

import math

import numpy as np

from . import materials, posters
from .facets import Assembly, Solid
from .layout import Builder, closed_loop, Plan, Point, sides_of, walls_around
from .lighting import Light
from .materials import Material
from .sky import Sky

_HOUSE_COLOURS = (
    (0.55, 0.48, 0.38), (0.62, 0.58, 0.52), (0.42, 0.22, 0.15), (0.5, 0.42, 0.3),
    (0.38, 0.4, 0.42), (0.58, 0.38, 0.28), (0.35, 0.42, 0.36), (0.66, 0.6, 0.44),
)  # fmt: skip
_LEAVES = ((0.08, 0.2, 0.05), (0.15, 0.25, 0.06), (0.3, 0.22, 0.06), (0.1, 0.16, 0.08))


def street(rng: np.random.Generator, moving: int) -> Plan:
    """Return a street around a block of houses, with more houses on its other side."""
    b = Builder(rng, 3.0)
    out = b.assembly
    width = rng.uniform(8.5, 11.5)
    w, d = rng.uniform(34, 50), rng.uniform(30, 40)  # outer facades, from the origin
    ground = np.array([w, d]) / 2
    out.panel((*ground, 0), (w / 2 + 8, 0, 0), (0, -d / 2 - 8, 0), _asphalt(b))
    out.solids.append(Solid(np.array([*ground, -0.2]), np.array([w, d, 0.2])))
    for start, yaw, length in walls_around(w, d):
        _row_of_houses(b, start, yaw, length)
    x0, y0, x1, y1 = width, width, w - width, d - width
    for start, yaw, length in (
        ((x1, y0), math.pi, x1 - x0), ((x1, y1), math.pi / 2 + math.pi, y1 - y0),
        ((x0, y1), 0.0, x1 - x0), ((x0, y0), math.pi / 2, y1 - y0),
    ):  # fmt: skip
        _row_of_houses(b, start, yaw, length, depth=2.5, turned=True)
    _furnish_street(b, w, d, width)
    h = width / 2
    corners = np.array([[h, h], [w - h, h], [w - h, d - h], [h, d - h]])
    plan = Plan(out, closed_loop(corners, 8), 'ahead', [_sun(rng, ground)], _daylight(rng),
                light_cell_m=0.45, sky=Sky.random(rng))  # fmt: skip
    for k in range(moving):
        first, second = corners[k % 4], corners[(k + 1) % 4]
        at = first * 0.5 + second * 0.5
        along = (second - first) / np.linalg.norm(second - first)
        aside = np.array([-along[1], along[0]]) * (h - 1.5) * rng.choice((-1.0, 1.0))
        reach = np.array([*(along * rng.uniform(1.5, 4)), 0])
        centre = np.array([*(at + aside), 0.9])
        _add_mover(plan, b, centre, reach, rng.uniform(0.7, 1.5))
    return plan


def objects(rng: np.random.Generator, moving: int) -> Plan:
    """Return a group of objects in the middle of a yard or a bare room."""
    indoors = rng.uniform() < 0.4
    side = rng.uniform(7, 9) if indoors else rng.uniform(16, 26)
    b = Builder(rng, rng.uniform(2.8, 3.8))
    middle = np.array([side / 2, side / 2])
    group = Assembly()
    for k in range(int(rng.integers(2, 6))):
        angle, r = rng.uniform(0, 2 * math.pi), (0.0 if k == 0 else rng.uniform(0.25, 0.6))
        at = (r * math.cos(angle), r * math.sin(angle), 0)
        group.add(_thing(b), at, rng.uniform(-math.pi, math.pi))
    podium = rng.uniform(0.15, 0.75)
    b.assembly.lathe((*middle, 0), [(0.95, 0), (0.9, podium)], b.wall_material(), sides=18)
    b.assembly.add(group, (*middle, podium))
    if indoors:
        b.floor_and_ceiling(side, side)
        cover = b.wall_material()
        for k, (start, yaw, _) in enumerate(walls_around(side, side)):
            b.wall(start, yaw, side, cover.reseeded(k))
            b.furnish_wall(start, yaw, side, margin=0.8 if rng.uniform() < 0.5 else math.inf)
        for x in (0.3, 0.7):
            b.ceiling_lamp(side * x, side / 2, rng.uniform(4, 9))
        sky, lights, ambient = None, b.lights, np.full(3, rng.uniform(0.3, 0.7))
    else:
        _yard(b, side)
        sky, lights, ambient = Sky.random(rng), [_sun(rng, middle)], _daylight(rng)
    radius = rng.uniform(1.7, 2.4)
    angles = np.arange(12) / 12 * 2 * math.pi
    squeeze = rng.uniform(0.85, 1.15, size=2)
    ring = middle + radius * squeeze * np.stack((np.cos(angles), np.sin(angles)), 1)
    plan = Plan(b.assembly, ring, 'across', lights, ambient,
                light_cell_m=0.12 if indoors else 0.2, sky=sky)  # fmt: skip
    for _ in range(moving):
        reach = rng.normal(0, 0.2, size=3) * np.array([1, 1, 0.4])
        _add_mover(plan, b, np.array([*middle, rng.uniform(1.3, 1.8)]), reach,
                   rng.uniform(0.2, 0.35))  # fmt: skip
    return plan


def _asphalt(b: Builder) -> Material:
    kind = b.rng.integers(3)
    grey = tuple(b.rng.uniform(0.08, 0.3) * b.rng.uniform(0.92, 1.08, size=3))
    if kind == 0:
        return b.material(materials.plaster, 0.02, colour=grey, rough=1.2)
    if kind == 1:
        chips = tuple(b.colour() for _ in range(3))
        return b.material(materials.terrazzo, 0.02, colour=grey, chips=chips, cell_m=0.25)
    return b.material(materials.tiles, 0.02, colour=grey, second=b.colour(), cell_m=0.6, style=3)


def _row_of_houses(
    b: Builder, start: Point, yaw: float, length: float, depth: float = 6.0, turned: bool = False
) -> None:
    """Put houses along a line, facing right of its heading, or left if ``turned``."""
    rng = b.rng
    row = Assembly()
    x = 0.0
    while x < length:
        wide = min(rng.uniform(5, 12), length - x)
        if length - x - wide < 3:
            wide = length - x
        if wide > 1 and (rng.uniform() < 0.93 or x == 0):
            _house(b, row, x, wide, rng.uniform(4.5, 15), depth * rng.uniform(0.8, 1.0))
        x += wide
    if turned:
        row = Assembly().add(row, (length, 0, 0), math.pi)
    b.assembly.add(row, (*start, 0), yaw)


def _house(b: Builder, out: Assembly, x: float, wide: float, high: float, depth: float) -> None:
    """Add one house with its front at y = 0."""
    colour = b.colour(_HOUSE_COLOURS, 0.2)
    storey_m, bay_m = b.rng.uniform(2.6, 3.6), b.rng.uniform(1.7, 3.5)
    front = b.image(posters.facade, 0.025, colour=colour, storey_m=storey_m, bay_m=bay_m)
    side = b.material(materials.plaster, 0.03, colour=colour)
    out.box((x + wide / 2, depth / 2, high / 2), (wide, depth, high), side,
            faces={'front': front}, skip='bottom')  # fmt: skip
    if b.rng.uniform() < 0.5:  # an awning or balcony
        at, size = b.rng.uniform(2.5, 3.5), wide * b.rng.uniform(0.3, 0.8)
        out.box((x + wide / 2, -0.5, at), (size, 1.0, 0.12), b.cloth(), solid=False)
    if b.rng.uniform() < 0.6:  # a shop sign
        board = (min(wide * 0.5, 3.0), 0.1, 0.7)
        out.box((x + wide * 0.5, -0.06, 3.4), board, b.poster(), skip='back', solid=False)


def _furnish_street(b: Builder, w: float, d: float, width: float) -> None:
    rng = b.rng
    stone = b.material(materials.tiles, 0.02, colour=(0.4, 0.39, 0.37), second=(0.3, 0.3, 0.3),
                       cell_m=0.5, style=3)  # fmt: skip
    white = b.material(materials.plain, 0.02, colour=(0.7, 0.7, 0.68), speckle=0.12)
    marked = rng.uniform() < 0.7
    for start, yaw, length in sides_of(0, 0, w, d):
        part = Assembly()  # x along the side, y from the outer facades to the inner ones
        for y, span in ((0.9, length), (width - 0.9, length - 2 * width + 1.8)):
            at = (length / 2, y, 0.06)
            part.box(at, (span, 1.8, 0.12), stone, skip='bottom', solid=False)
        if marked:
            for x in np.arange(width, length - width, 4.0):
                part.panel((x, width / 2, 0.004), (1.0, 0, 0), (0, -0.08, 0), white)
        for y, inward in ((1.5, False), (width - 1.5, True)):
            x = rng.uniform(2, 5) + (width if inward else 0)
            while x < length - 3 - (width if inward else 0):
                piece, room = _street_piece(b)
                part.add(piece, (x, y, 0.0), 0 if inward else math.pi)
                x += room + rng.uniform(0.5, 6)
        b.assembly.add(part, (*start, 0), yaw)


def _street_piece(b: Builder) -> tuple[Assembly, float]:
    """Return a random object at the kerb and its length."""
    rng = b.rng
    kind = rng.choice(['car', 'tree', 'post', 'boxes', 'sign'], p=[0.4, 0.25, 0.1, 0.1, 0.15])
    if kind == 'car':
        return _car(b), 5.0
    if kind == 'tree':
        return _tree(b), 2.5
    if kind == 'boxes':
        return b.boxes(), 1.2
    high = rng.uniform(2.2, 5)
    post = Assembly().lathe((0, 0, 0), [(0.07, 0), (0.05, high)], b.plain(0.01), sides=6)
    if kind == 'sign':
        size = (rng.uniform(0.6, 1.2), 0.05, 0.8)
        return post.box((0, 0, high - 0.4), size, b.poster(), solid=False), 1.0
    return post.box((0.3, 0, high), (0.8, 0.25, 0.15), b.plain(0.01), solid=False), 1.0


def _car(b: Builder) -> Assembly:
    """Return a car along x."""
    rng = b.rng
    length, wide, low = rng.uniform(3.6, 4.8), rng.uniform(1.6, 1.9), rng.uniform(0.6, 0.8)
    paint = b.plain(0.01)
    dark = b.material(materials.plain, 0.02, colour=(0.04, 0.045, 0.05))
    out = Assembly().box((0, 0, 0.25 + low / 2), (length, wide, low), paint)
    cabin = (rng.uniform(-0.4, 0.1), 0, 0.25 + low + 0.28)
    out.box(cabin, (length * 0.55, wide * 0.9, 0.56), dark, faces={'top': paint})
    for x in (-0.3, 0.3):
        out.box((x * length, 0, 0.3), (0.6, wide + 0.03, 0.6), dark, solid=False)
    return out


def _tree(b: Builder) -> Assembly:
    rng = b.rng
    trunk, high = rng.uniform(0.08, 0.18), rng.uniform(1.8, 2.8)
    bark = b.material(materials.wood, 0.012, colour=(0.16, 0.11, 0.07), along_x=False)
    profile = [(trunk * 1.3, 0), (trunk, 0.4), (trunk * 0.8, high + 0.5)]
    out = Assembly().lathe((0, 0, 0), profile, bark, sides=7)
    first, second = b.colour(_LEAVES, 0.4), b.colour(_LEAVES, 0.4)
    leaves = b.material(materials.noise, 0.02, colours=(first, second, (0.02, 0.04, 0.01)),
                        cell_m=0.3)  # fmt: skip
    for _ in range(int(rng.integers(1, 4))):
        r = rng.uniform(0.7, 1.4)
        at = (*rng.normal(0, 0.4, size=2), high + rng.uniform(0, 1.2))
        rings = [(r * math.sin(a), -r * math.cos(a)) for a in np.linspace(0.2, 3.0, 7)]
        out.lathe(at, rings, leaves, sides=9)
    return out


def _thing(b: Builder) -> Assembly:
    def table() -> Assembly:
        width, depth, height = b.rng.uniform((0.6, 0.5, 0.5), (1.0, 0.8, 0.8))
        return b.table(width, depth, height, 5)

    def sculpture() -> Assembly:
        return _sculpture(b)

    return b.pick((b.chair, b.stool, b.boxes, b.plant, b.boxes, table, sculpture, sculpture))()


def _sculpture(b: Builder) -> Assembly:
    """Return a pile of boxes and bodies of revolution."""
    rng = b.rng
    out = Assembly()
    z = 0.0
    for _ in range(int(rng.integers(2, 6))):
        high, r = rng.uniform(0.15, 0.45), rng.uniform(0.1, 0.32)
        skin = b.pick((b.poster, b.cloth, b.wood, b.plain))()
        if rng.uniform() < 0.5:
            out.box((0, 0, z + high / 2), (2 * r, rng.uniform(0.2, 0.6), high), skin,
                    yaw=rng.uniform(0, 3.14))  # fmt: skip
        else:
            waist = rng.uniform(0.4, 1.1)
            skin = b.cloth()
            profile = [(r, 0), (r * waist, high * 0.5), (r * rng.uniform(0.5, 1), high)]
            out.lathe((0, 0, z), profile, skin, sides=14)
        z += high
    return out


def _yard(b: Builder, side: float) -> None:
    rng = b.rng
    if rng.uniform() < 0.5:
        grass = (b.colour(_LEAVES, 0.3), b.colour(_LEAVES, 0.3), (0.2, 0.16, 0.1))
        ground = b.material(materials.noise, 0.012, colours=grass, cell_m=0.7)
    else:
        ground = _asphalt(b)
    b.assembly.panel((side / 2, side / 2, 0), (side * 0.9, 0, 0), (0, -side * 0.9, 0), ground)
    middle = np.array([side / 2, side / 2, -0.2])
    b.assembly.solids.append(Solid(middle, np.array([side, side, 0.2])))
    for start, yaw, _ in walls_around(side, side):
        row = Assembly()
        x = rng.uniform(0, 3)
        while x < side - 2:
            room = rng.uniform(2, 8)
            if rng.uniform() < 0.55:
                _house(b, row, x, room, rng.uniform(2, 9), 3.0)
            elif rng.uniform() < 0.6:
                row.add(_tree(b), (x, -rng.uniform(0, 2), 0))
            x += room + rng.uniform(0, 3)
        b.assembly.add(row, (*start, 0), yaw)


def _sun(rng: np.random.Generator, middle: np.ndarray) -> Light:
    """Return the sun over ``middle``: a lamp so far away that its rays are parallel."""
    away, height, turn = 120.0, rng.uniform(0.45, 1.3), rng.uniform(0, 2 * math.pi)
    to_sun = np.array([math.cos(turn) * math.cos(height), math.sin(turn) * math.cos(height),
                       math.sin(height)])  # fmt: skip
    right = np.cross(to_sun, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    power = np.array([1.0, rng.uniform(0.85, 1), rng.uniform(0.7, 0.95)])
    return Light(np.array([*middle, 0]) + away * to_sun, right, np.cross(right, to_sun), -to_sun,
                 power * rng.uniform(0.1, 1.6) * away**2)  # fmt: skip


def _daylight(rng: np.random.Generator) -> np.ndarray:
    return np.array([0.85, 0.95, 1.1]) * rng.uniform(0.4, 0.9)


def _add_mover(plan: Plan, b: Builder, centre: np.ndarray, reach: np.ndarray, size: float) -> None:
    """Add a box or a drum that swings about ``centre``, and keep the camera out of its way."""
    number = plan.add_body(b.rng, centre, reach, (3, 8), (0, 0.8))
    extent = size * b.rng.uniform(0.6, 1.0, size=3)
    if b.rng.uniform() < 0.6:
        plan.assembly.box((0, 0, 0), extent, b.poster(), body=number)
    else:
        r = extent[0] / 2
        profile = [(r * 0.8, 0), (r, r), (r * 0.6, 2 * r)]
        plan.assembly.lathe((0, 0, -r), profile, b.cloth(), sides=12, body=number)
    plan.keep_out.append(Solid(centre, np.abs(reach) + extent.max()))
