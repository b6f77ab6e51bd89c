"""Floor plans of rooms and corridors: furnished walls, lamps, moving bodies.

Every kind of world is a function of a random generator that returns a :class:`Plan`. A wall is
given by its start and its heading, seen from inside: local x runs along it to the right and local
y into it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import math
from typing import TypeAlias

import numpy as np

from . import materials, posters
from .facets import Assembly, rotation_z, Solid
from .furniture import Workshop
from .lighting import CELL_M, Light
from .materials import Material
from .sky import Sky

Point: TypeAlias = tuple[float, float]
_SLAB_M = 0.3
_WALL_COLOURS = (
    (0.62, 0.58, 0.50), (0.45, 0.52, 0.55), (0.60, 0.47, 0.36), (0.42, 0.50, 0.40),
    (0.66, 0.64, 0.60), (0.55, 0.40, 0.38), (0.38, 0.42, 0.52), (0.66, 0.58, 0.36),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class MovingBody:
    """A rigid body that swings to and fro and rotates.

    :ivar centre: (3,) metres, middle of the swing.
    :ivar reach: (3,) metres, from the middle to an end.
    :ivar period_s: of one swing and back.
    :ivar phase: radians.
    :ivar spin: radians of rotation to each side.
    """

    centre: np.ndarray
    reach: np.ndarray
    period_s: float
    phase: float
    spin: float


@dataclass(eq=False)
class Plan:
    """A furnished world before it is baked.

    :ivar loop: (M, 2) metres, corners of a closed way through the world.
    :ivar look: viewing direction: 'across' the middle of the loop, or 'ahead' along it.
    :ivar keep_out: solids without shadow that the camera must avoid (the space of moving bodies).
    :ivar light_cell_m: resolution of the light.
    :ivar sky: visible where there is no facet; None indoors.
    """

    assembly: Assembly
    loop: np.ndarray
    look: str
    lights: list[Light] = field(default_factory=list)
    ambient: np.ndarray = field(default_factory=lambda: np.full(3, 0.5))
    bodies: list[MovingBody] = field(default_factory=list)
    keep_out: list[Solid] = field(default_factory=list)
    light_cell_m: float = CELL_M
    sky: Sky | None = None


class Builder:
    """Builds one plan; ``height`` is that of the ceiling in metres."""

    def __init__(self, rng: np.random.Generator, height: float) -> None:
        self.rng = rng
        self.shop = Workshop(rng)
        self.height = height
        self.assembly = Assembly()
        self.lights: list[Light] = []

    # Surfaces

    def wall_material(self) -> Material:
        """Return a random material for walls."""
        colour = self.shop.colour(_WALL_COLOURS, 0.12)
        kind = self.rng.choice(['paint', 'paper', 'brick', 'plaster', 'tiles'],
                               p=[0.25, 0.3, 0.17, 0.18, 0.1])  # fmt: skip
        if kind == 'paint':
            return self.shop.material(materials.paint, colour=colour, wear=1.3)
        if kind == 'paper':
            ink = tuple(c * self.rng.uniform(0.45, 0.75) for c in colour)
            return self.shop.material(
                materials.wallpaper, colour=colour, ink=ink,
                cell_m=self.rng.uniform(0.18, 0.36), style=int(self.rng.integers(3)),
            )  # fmt: skip
        if kind == 'brick':
            tones = ((0.42, 0.17, 0.10), (0.5, 0.45, 0.38), (0.36, 0.22, 0.16))
            return self.shop.material(materials.brick, colour=self.shop.colour(tones, 0.15))
        if kind == 'plaster':
            return self.shop.material(materials.plaster, colour=colour)
        return self.shop.material(
            materials.tiles, colour=colour, second=self.shop.colour(),
            cell_m=self.rng.uniform(0.12, 0.25), style=int(self.rng.integers(4)),
        )  # fmt: skip

    def floor_material(self) -> Material:
        """Return a random material for floors."""
        kind = self.rng.choice(['planks', 'tiles', 'carpet', 'terrazzo'], p=[0.4, 0.25, 0.2, 0.15])
        if kind == 'planks':
            woods = ((0.36, 0.21, 0.11), (0.48, 0.32, 0.18), (0.25, 0.15, 0.09))
            return self.shop.material(
                materials.planks, colour=self.shop.colour(woods, 0.15),
                width_m=self.rng.uniform(0.09, 0.18),
            )  # fmt: skip
        if kind == 'tiles':
            tones = ((0.5, 0.46, 0.4), (0.35, 0.3, 0.28), (0.6, 0.6, 0.58))
            return self.shop.material(
                materials.tiles, colour=self.shop.colour(tones, 0.1),
                second=self.shop.colour(_WALL_COLOURS, 0.3),
                cell_m=self.rng.uniform(0.2, 0.45), style=int(self.rng.integers(4)),
            )  # fmt: skip
        if kind == 'carpet':
            return self.shop.material(
                materials.fabric, colour=self.shop.colour(), ink=self.shop.colour(),
                cell_m=self.rng.uniform(0.1, 0.3), style=int(self.rng.integers(1, 3)),
            )  # fmt: skip
        chips = tuple(self.shop.colour() for _ in range(4))
        ground = self.shop.colour(_WALL_COLOURS, 0.1)
        return self.shop.material(materials.terrazzo, colour=ground, chips=chips, cell_m=0.07)

    def floor_and_ceiling(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Add floor, ceiling and the slabs behind them."""
        cx, cy, w, d = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
        self.assembly.panel((cx, cy, 0), (w / 2, 0, 0), (0, -d / 2, 0), self.floor_material())
        if self.rng.uniform() < 0.5:
            above = self.shop.material(materials.acoustic, 0.005)
        else:
            above = self.shop.material(
                materials.plaster, 0.005, colour=(0.7, 0.69, 0.66), rough=0.7
            )
        self.assembly.panel((cx, cy, self.height), (w / 2, 0, 0), (0, d / 2, 0), above)
        for z in (-_SLAB_M / 2, self.height + _SLAB_M / 2):
            half = np.array([w / 2 + _SLAB_M, d / 2 + _SLAB_M, _SLAB_M / 2])
            self.assembly.solids.append(Solid(np.array([cx, cy, z]), half))

    def wall(
        self, start: Point, yaw: float, length: float, material: Material, solid: bool = True
    ) -> None:
        """Add a bare wall with a skirting board."""
        right, into, _ = rotation_z(yaw).T
        middle = np.array([*start, self.height / 2]) + right * length / 2
        self.assembly.panel(middle, right * length / 2, (0, 0, -self.height / 2), material)
        if solid:
            half = np.array([length / 2, _SLAB_M / 2, self.height / 2])
            self.assembly.solids.append(Solid(middle + into * _SLAB_M / 2, half, yaw))
        board = Assembly()
        board.box((length / 2, -0.008, 0.05), (length, 0.016, 0.1), self.shop.wood(),
                  skip=('back', 'bottom', 'left', 'right'), solid=False)  # fmt: skip
        self.assembly.add(board, (*start, 0), yaw)

    def furnish_wall(
        self, start: Point, yaw: float, length: float, *, deep: bool, margin: float
    ) -> None:
        """Put furniture along a wall and posters on it.

        :param deep: False to leave out the furniture.
        :param margin: metres at both ends that are kept free of furniture.
        """
        on_wall = Assembly()
        x = margin
        tall: list[tuple[float, float]] = []  # parts of the wall without posters
        while deep and x < length - margin - 0.5:
            room = length - margin - x
            piece, width, high = self._standing_piece(room)
            if width > room:
                break
            on_wall.add(piece, (x + width / 2, 0, 0))
            if high > 1.1:
                tall.append((x - 0.05, x + width + 0.05))
            x += width + self.rng.uniform(0.05, 0.7)
        self._hang(on_wall, length, tall)
        self.assembly.add(on_wall, (*start, 0), yaw)

    def _standing_piece(self, room: float) -> tuple[Assembly, float, float]:
        """Return a piece of furniture, its width and its height."""
        rng, shop = self.rng, self.shop
        kind = rng.choice(['shelf', 'cabinet', 'desk', 'sofa', 'counter', 'boxes', 'plant'],
                          p=[0.24, 0.2, 0.16, 0.12, 0.1, 0.1, 0.08])  # fmt: skip
        if kind == 'shelf':
            width, height = min(rng.uniform(0.8, 1.6), room), rng.uniform(1.3, 2.1)
            return shop.bookshelf(width, height), width, height
        if kind == 'cabinet':
            width, height = min(rng.uniform(0.7, 1.5), room), rng.uniform(0.6, 1.0)
            return shop.cabinet(width, height), width, height
        if kind == 'desk' and room > 1.3:
            width = rng.uniform(1.2, min(1.7, room))
            return shop.desk(width), width, 1.2
        if kind == 'sofa' and room > 1.7:
            width = rng.uniform(1.5, min(2.1, room))
            return shop.sofa(width), width, 0.85
        if kind == 'counter' and room > 1.3:
            width = rng.uniform(1.2, min(2.4, room))
            return shop.counter(width), width, 2.2
        if kind == 'plant':
            piece = Assembly()
            piece.add(shop.plant(), (0, -0.35, 0))
            return piece, 0.6, 1.3
        piece = Assembly()
        piece.add(shop.boxes(), (0, -0.35, 0))
        return piece, 0.65, 1.2

    def _hang(self, out: Assembly, length: float, tall: list[tuple[float, float]]) -> None:
        """Hang posters and boards where no tall furniture stands."""
        x = self.rng.uniform(0.1, 0.4)
        while x < length - 0.4:
            width = min(self.rng.uniform(0.35, 1.1), length - 0.15 - x)
            blocked = [b for a, b in tall if a < x + width and b > x]
            if blocked:
                x = max(blocked) + 0.05
                continue
            self._poster(out, x, width)
            x += width + self.rng.uniform(0.12, 0.6)

    def _poster(self, out: Assembly, x: float, width: float) -> None:
        """Hang one framed poster, or a noticeboard if there is room."""
        high = min(width * self.rng.uniform(0.7, 1.45), 1.0)
        z = min(self.rng.uniform(1.45, 1.7), self.height - 0.25 - high / 2)
        if width > 0.8 and self.rng.uniform() < 0.4:
            face = self.shop.image_material(
                posters.noticeboard, 0.003, sheets=int(self.rng.integers(10, 22))
            )
        else:
            face = self.shop.poster()
        thick, edge = self.rng.uniform(0.012, 0.035), 0.03
        out.box((x + width / 2, -thick / 2, z), (width, thick, high), self.shop.wood(0.005),
                skip=('back',), solid=False)  # fmt: skip
        out.panel((x + width / 2, -thick - 0.002, z), (width / 2 - edge, 0, 0),
                  (0, 0, -(high / 2 - edge)), face)  # fmt: skip

    def door(self, start: Point, yaw: float, x: float) -> None:
        """Put a closed door on a wall."""
        out = Assembly()
        frame = self.shop.wood(0.006)
        leaf = self.shop.image_material(posters.door, 0.003, colour=self.shop.colour(spread=0.3))
        out.box((x, -0.02, 1.03), (1.04, 0.04, 2.06), frame, skip=('back', 'bottom'), solid=False)
        out.panel((x, -0.043, 1.0), (0.46, 0, 0), (0, 0, -1.0), leaf)
        self.assembly.add(out, (*start, 0), yaw)

    def window(self, start: Point, yaw: float, x: float, width: float, day: float) -> None:
        """Put a window that lights the room on a wall."""
        right, into, _ = rotation_z(yaw).T
        out = Assembly()
        high = min(1.3, self.height - 1.3)
        z = 0.95 + high / 2
        view = self.shop.image_material(posters.window, 0.003)
        out.box((x, -0.02, z), (width + 0.12, 0.04, high + 0.12), self.shop.wood(),
                skip=('back',), solid=False)  # fmt: skip
        out.panel((x, -0.043, z), (width / 2, 0, 0), (0, 0, -high / 2), view, emission=1.1 * day)
        out.box((x, -0.1, z - high / 2 - 0.07), (width + 0.2, 0.2, 0.03), self.shop.wood(),
                skip=('back',), solid=False)  # fmt: skip
        self.assembly.add(out, (*start, 0), yaw)
        centre = np.array([*start, z]) + right * x - into * 0.05
        colour = np.array([0.95, 1.0, 1.1]) * day * width * high * 1.4
        self.lights.append(
            Light(centre, right * width / 2, np.array([0, 0, -high / 2]), -into, colour)
        )

    def ceiling_lamp(self, x: float, y: float, power: float, yaw: float = 0.0) -> None:
        """Hang a flat lamp under the ceiling."""
        size = np.array([self.rng.uniform(0.5, 1.2), self.rng.uniform(0.2, 0.5), 0.06])
        warm = np.array([1.0, self.rng.uniform(0.82, 0.97), self.rng.uniform(0.62, 0.95)])
        shade = self.shop.material(
            materials.tiles, 0.004, colour=(0.85, 0.85, 0.8), second=(0.7, 0.7, 0.7), cell_m=0.1,
            style=3,
        )  # fmt: skip
        white = self.shop.material(materials.plain, colour=(0.75, 0.75, 0.72))
        out = Assembly()
        out.box((0, 0, self.height - 0.03), size, white, skip=('top',),
                faces={'bottom': shade}, solid=False, emission=0.9)  # fmt: skip
        self.assembly.add(out, (x, y, 0), yaw)
        right, ahead, _ = rotation_z(yaw).T
        self.lights.append(
            Light(np.array([x, y, self.height - 0.07]), right * size[0] / 2, ahead * size[1] / 2,
                  np.array([0.0, 0.0, -1.0]), warm * power)
        )  # fmt: skip


def walls_around(w: float, d: float) -> list[tuple[Point, float, float]]:
    """Return start, yaw and length of the four walls around a floor from the origin to (w, d)."""
    return [((0, d), 0.0, w), ((w, d), -math.pi / 2, d), ((w, 0), math.pi, w),
            ((0, 0), math.pi / 2, d)]  # fmt: skip


def closed_loop(corners: np.ndarray, per_side: int) -> np.ndarray:
    """Return (4 * per_side, 2) points along the sides between (4, 2) corners."""
    sides = ((corners[k], corners[(k + 1) % 4]) for k in range(4))
    return np.concatenate([np.linspace(a, b, per_side, endpoint=False) for a, b in sides])


def room(rng: np.random.Generator, moving: int) -> Plan:
    """Return a furnished room: furniture along the walls, often a table in the middle."""
    w, d = rng.uniform(5.2, 7.2), rng.uniform(4.8, 6.2)
    b = Builder(rng, rng.uniform(2.45, 3.0))
    b.floor_and_ceiling(0, 0, w, d)
    first = b.wall_material()
    windows = rng.permutation(4)[: rng.integers(1, 3)]
    door = int(rng.integers(4))
    day = rng.uniform(0.6, 1.3)
    for k, (start, yaw, length) in enumerate(walls_around(w, d)):
        cover = first.reseeded(k) if rng.uniform() < 0.6 else b.wall_material()
        b.wall(start, yaw, length, cover)
        if k in windows:
            for x in np.linspace(0, length, 4)[1:3]:
                b.window(start, yaw, float(x), length * 0.24, day)
            _low_pieces(b, start, yaw, length)
        elif k == door:
            b.door(start, yaw, length - 1.0)
            b.furnish_wall(start, yaw, length - 1.7, deep=True, margin=0.65)
        else:
            b.furnish_wall(start, yaw, length, deep=True, margin=0.65)
    _middle_of_room(b, w, d)
    for x in np.linspace(0, w, 2 + int(rng.integers(1, 3)))[1:-1]:
        b.ceiling_lamp(float(x), d / 2 + rng.normal(0, 0.3), rng.uniform(3, 6))
    a, c = w / 2 - 1.35, d / 2 - 1.3
    angles = np.arange(10) / 10 * 2 * math.pi
    ring = np.stack((w / 2 + a * np.cos(angles), d / 2 + c * np.sin(angles)), 1)
    plan = Plan(b.assembly, ring, 'across', b.lights, np.full(3, rng.uniform(0.25, 0.6)))
    add_bodies(plan, b, moving, (w / 2, d / 2))
    return plan


def _low_pieces(b: Builder, start: Point, yaw: float, length: float) -> None:
    """Put furniture lower than a window sill along a wall."""
    out = Assembly()
    x = 0.7
    while x < length - 1.6:
        width = b.rng.uniform(0.7, 1.3)
        out.add(b.shop.cabinet(width, b.rng.uniform(0.5, 0.8), 0.4), (x + width / 2, 0, 0))
        x += width + b.rng.uniform(0.1, 0.9)
    b.assembly.add(out, (*start, 0), yaw)


def _middle_of_room(b: Builder, w: float, d: float) -> None:
    rng, shop = b.rng, b.shop
    size = np.array([rng.uniform(1.8, 2.6), rng.uniform(1.3, 1.9)])
    colours = tuple(shop.colour() for _ in range(4))
    b.assembly.box((w / 2, d / 2, 0.005), (*size, 0.01),
                   shop.image_material(materials.rug, 0.004, colours=colours),
                   yaw=rng.normal(0, 0.1), skip=('bottom',), solid=False)  # fmt: skip
    yaw = rng.normal(0, 0.12)
    middle = Assembly()
    tw, td = rng.uniform(1.0, 1.5), rng.uniform(0.6, 0.85)
    if rng.uniform() < 0.6:
        middle.add(shop.table(tw, td, rng.uniform(0.68, 0.78), 7), (0, 0, 0))
        for sign in (-1, 1):
            if rng.uniform() < 0.8:
                middle.add(shop.chair(), (rng.uniform(-0.3, 0.3), sign * (td / 2 + 0.1), 0),
                           (0 if sign > 0 else math.pi) + rng.normal(0, 0.3))  # fmt: skip
    else:
        middle.add(shop.table(tw, td, 0.42, 6), (0, 0, 0))
        middle.add(shop.stool(), (tw / 2 + 0.3, rng.uniform(-0.3, 0.3), 0))
    b.assembly.add(middle, (w / 2, d / 2, 0.01), yaw)


def corridor(rng: np.random.Generator, moving: int) -> Plan:
    """Return a corridor that runs around a block of rooms and closes on itself."""
    width = rng.uniform(2.0, 2.4) + 0.3 * (moving > 0)
    w, d = rng.uniform(6.8, 8.4), rng.uniform(5.6, 6.8)
    b = Builder(rng, rng.uniform(2.35, 2.7))
    b.floor_and_ceiling(0, 0, w, d)
    x0, y0, x1, y1 = width, width, w - width, d - width
    half_pi = math.pi / 2
    inner = [((x0, y0), 0.0, x1 - x0), ((x1, y0), half_pi, y1 - y0),
             ((x1, y1), math.pi, x1 - x0), ((x0, y1), -half_pi, y1 - y0)]  # fmt: skip
    first, second = b.wall_material(), b.wall_material()
    for k, (start, yaw, length) in enumerate(walls_around(w, d)):
        b.wall(start, yaw, length, first.reseeded(k))
        x = rng.uniform(0.9, 1.5)
        b.door(start, yaw, x)
        beyond = (start[0] + math.cos(yaw) * (x + 0.6), start[1] + math.sin(yaw) * (x + 0.6))
        b.furnish_wall(beyond, yaw, length - x - 0.6, deep=False, margin=0)
    for k, (start, yaw, length) in enumerate(inner):
        b.wall(start, yaw, length, second.reseeded(k), solid=False)
        b.furnish_wall(start, yaw, length, deep=False, margin=0)
    block = np.array([(x1 - x0) / 2, (y1 - y0) / 2, b.height / 2])
    b.assembly.solids.append(Solid(np.array([(x0 + x1) / 2, (y0 + y1) / 2, b.height / 2]), block))
    for at in ((0.28, 0.28), (w - 0.28, 0.28), (w - 0.28, d - 0.28), (0.28, d - 0.28)):
        piece = b.shop.plant() if rng.uniform() < 0.5 else b.shop.stool()
        b.assembly.add(piece, (*at, 0))
    h = width / 2
    corners = np.array([[h, h], [w - h, h], [w - h, d - h], [h, d - h]])
    for k in range(4):
        for s in (0.15, 0.5, 0.85):
            x, y = corners[k] * (1 - s) + corners[(k + 1) % 4] * s
            b.ceiling_lamp(x, y, rng.uniform(1.2, 2.8), yaw=(k % 2) * half_pi)
    plan = Plan(
        b.assembly, closed_loop(corners, 6), 'ahead', b.lights, np.full(3, rng.uniform(0.2, 0.4))
    )
    add_bodies(plan, b, moving, None)
    return plan


def add_bodies(plan: Plan, b: Builder, count: int, centre: Point | None) -> None:
    """Add ``count`` swinging bodies, out of the camera's way."""
    rng, shop = b.rng, b.shop
    for k in range(count):
        number = k + 1
        if centre is None:
            side = int(rng.integers(len(plan.loop)))
            at = plan.loop[side]
            nearest = min((np.zeros(2), plan.loop.max(0) + plan.loop.min(0)),
                          key=lambda c: float(np.abs(c - at).min()))  # fmt: skip
            at = at + 0.45 * np.sign(nearest - at) * (np.abs(nearest - at) < 1.5)
            z, reach = b.height - 0.35, np.array([0.05, 0.05, 0.1])
        else:
            at = np.array(centre) + rng.uniform(-0.35, 0.35, size=2)
            z = rng.uniform(1.0, 1.25)
            turn = rng.uniform(0, math.pi)
            reach = rng.uniform(0.25, 0.5) * np.array([math.cos(turn), math.sin(turn), 0.15])
        body = MovingBody(
            np.array([*at, z]), reach, rng.uniform(2.5, 5), rng.uniform(0, 6.28),
            rng.uniform(0.3, 1.5),
        )  # fmt: skip
        plan.bodies.append(body)
        size = rng.uniform(0.14, 0.3, size=3)
        if rng.uniform() < 0.5:
            plan.assembly.box((0, 0, 0), size, shop.poster(), body=number,
                              faces={'left': shop.poster(), 'right': shop.poster(),
                                     'back': shop.poster()})  # fmt: skip
        else:
            r = size[0] * 0.7
            rings = [(r * math.sin(a), -r * math.cos(a)) for a in np.linspace(0.15, 2.99, 9)]
            skin = shop.material(materials.tiles, 0.003, colour=shop.colour(),
                                 second=shop.colour(), cell_m=0.08, style=0)  # fmt: skip
            plan.assembly.lathe((0, 0, 0), rings, skin, sides=16, body=number)
        half = np.abs(reach) + np.max(size)
        plan.keep_out.append(Solid(body.centre, half))
