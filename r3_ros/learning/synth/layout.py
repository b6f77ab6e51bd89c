"""Floor plans: furnished walls, lamps, moving bodies.

A wall is given by its start and its heading, seen from inside: local x runs along it to the right
and local y into it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import math
from typing import TypeAlias

import numpy as np

from . import materials, posters
from .facets import Assembly, rotation_z, Solid
from .furniture import Workshop
from .lighting import Light
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

    :ivar centre: (3,) metres, middle of the swing; ``reach``: (3,) from there to an end.
    :ivar period_s: of one swing and back, from ``phase`` in radians.
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
    :ivar light_cell_m: distance of the points at which light is computed.
    :ivar sky: visible where there is no facet; None indoors.
    """

    assembly: Assembly
    loop: np.ndarray
    look: str
    lights: list[Light] = field(default_factory=list)
    ambient: np.ndarray = field(default_factory=lambda: np.full(3, 0.5))
    bodies: list[MovingBody] = field(default_factory=list)
    keep_out: list[Solid] = field(default_factory=list)
    light_cell_m: float = 0.08
    sky: Sky | None = None

    def add_body(
        self,
        rng: np.random.Generator,
        centre: np.ndarray,
        reach: np.ndarray,
        period_s: tuple[float, float],
        spin: tuple[float, float],
    ) -> int:
        """Add a moving body within ranges of period and spin, and return its number."""
        phase = (0, 6.28)
        body = MovingBody(centre, reach, *(rng.uniform(*r) for r in (period_s, phase, spin)))
        self.bodies.append(body)
        return len(self.bodies)


class Builder(Workshop):
    """Builds one plan; ``height`` is that of the ceiling in metres."""

    def __init__(self, rng: np.random.Generator, height: float) -> None:
        super().__init__(rng)
        self.height = height
        self.assembly = Assembly()
        self.lights: list[Light] = []

    # Surfaces

    def wall_material(self) -> Material:
        """Return a random material."""
        colour = self.colour(_WALL_COLOURS, 0.12)
        kind = self.rng.choice(['paint', 'paper', 'brick', 'plaster', 'tiles'],
                               p=[0.25, 0.3, 0.17, 0.18, 0.1])  # fmt: skip
        if kind == 'paint':
            return self.material(materials.paint, colour=colour, wear=1.3)
        if kind == 'paper':
            ink = tuple(c * self.rng.uniform(0.45, 0.75) for c in colour)
            return self.material(
                materials.wallpaper, colour=colour, ink=ink,
                cell_m=self.rng.uniform(0.18, 0.36), style=int(self.rng.integers(3)),
            )  # fmt: skip
        if kind == 'brick':
            tones = ((0.42, 0.17, 0.10), (0.5, 0.45, 0.38), (0.36, 0.22, 0.16))
            return self.material(materials.brick, colour=self.colour(tones, 0.15))
        if kind == 'plaster':
            return self.material(materials.plaster, colour=colour)
        return self.material(
            materials.tiles, colour=colour, second=self.colour(),
            cell_m=self.rng.uniform(0.12, 0.25), style=int(self.rng.integers(4)),
        )  # fmt: skip

    def _floor_material(self) -> Material:
        kind = self.rng.choice(['planks', 'tiles', 'carpet', 'terrazzo'], p=[0.4, 0.25, 0.2, 0.15])
        if kind == 'planks':
            woods = ((0.36, 0.21, 0.11), (0.48, 0.32, 0.18), (0.25, 0.15, 0.09))
            return self.material(
                materials.planks, colour=self.colour(woods, 0.15),
                width_m=self.rng.uniform(0.09, 0.18),
            )  # fmt: skip
        if kind == 'tiles':
            tones = ((0.5, 0.46, 0.4), (0.35, 0.3, 0.28), (0.6, 0.6, 0.58))
            return self.material(
                materials.tiles, colour=self.colour(tones, 0.1),
                second=self.colour(_WALL_COLOURS, 0.3),
                cell_m=self.rng.uniform(0.2, 0.45), style=int(self.rng.integers(4)),
            )  # fmt: skip
        if kind == 'carpet':
            return self.material(
                materials.fabric, colour=self.colour(), ink=self.colour(),
                cell_m=self.rng.uniform(0.1, 0.3), style=int(self.rng.integers(1, 3)),
            )  # fmt: skip
        chips = tuple(self.colour() for _ in range(4))
        ground = self.colour(_WALL_COLOURS, 0.1)
        return self.material(materials.terrazzo, colour=ground, chips=chips, cell_m=0.07)

    def floor_and_ceiling(self, w: float, d: float) -> None:
        """Add floor, ceiling and the slabs behind them, from the origin to (w, d)."""
        x, y = w / 2, d / 2
        self.assembly.panel((x, y, 0), (x, 0, 0), (0, -y, 0), self._floor_material())
        if self.rng.uniform() < 0.5:
            above = self.material(materials.acoustic, 0.005)
        else:
            above = self.material(materials.plaster, 0.005, colour=(0.7, 0.69, 0.66), rough=0.7)
        self.assembly.panel((x, y, self.height), (x, 0, 0), (0, y, 0), above)
        for z in (-_SLAB_M / 2, self.height + _SLAB_M / 2):
            half = np.array([x + _SLAB_M, y + _SLAB_M, _SLAB_M / 2])
            self.assembly.solids.append(Solid(np.array([x, y, z]), half))

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
        board = Assembly().box((length / 2, -0.008, 0.05), (length, 0.016, 0.1), self.wood(),
                               skip='back bottom left right', solid=False)  # fmt: skip
        self.assembly.add(board, (*start, 0), yaw)

    def furnish_wall(
        self, start: Point, yaw: float, length: float, margin: float = math.inf
    ) -> None:
        """Put posters on a wall, and furniture along it.

        :param margin: metres at both ends that are kept free of furniture; ``math.inf``: there
            are posters alone.
        """
        on_wall = Assembly()
        x = margin
        tall: list[tuple[float, float]] = []  # parts of the wall without posters
        while x < length - margin - 0.5:
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
        kind = self.rng.choice(['shelf', 'cabinet', 'desk', 'sofa', 'counter', 'boxes', 'plant'],
                               p=[0.24, 0.2, 0.16, 0.12, 0.1, 0.1, 0.08])  # fmt: skip
        uniform = self.rng.uniform
        if kind == 'shelf':
            width, height = min(uniform(0.8, 1.6), room), uniform(1.3, 2.1)
            return self.bookshelf(width, height), width, height
        if kind == 'cabinet':
            width, height = min(uniform(0.7, 1.5), room), uniform(0.6, 1.0)
            return self.cabinet(width, height), width, height
        if kind == 'desk' and room > 1.3:
            width = uniform(1.2, min(1.7, room))
            return self.desk(width), width, 1.2
        if kind == 'sofa' and room > 1.7:
            width = uniform(1.5, min(2.1, room))
            return self.sofa(width), width, 0.85
        if kind == 'counter' and room > 1.3:
            width = uniform(1.2, min(2.4, room))
            return self.counter(width), width, 2.2
        # Small pieces stand free, also in place of a large one without room.
        if kind == 'plant':
            return Assembly().add(self.plant(), (0, -0.35, 0)), 0.6, 1.3
        return Assembly().add(self.boxes(), (0, -0.35, 0)), 0.65, 1.2

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
            sheets = int(self.rng.integers(10, 22))
            face = self.image(posters.noticeboard, 0.003, sheets=sheets)
        else:
            face = self.poster()
        thick, edge = self.rng.uniform(0.012, 0.035), 0.03
        out.box((x + width / 2, -thick / 2, z), (width, thick, high), self.wood(0.005),
                skip='back', solid=False)  # fmt: skip
        out.panel((x + width / 2, -thick - 0.002, z), (width / 2 - edge, 0, 0),
                  (0, 0, -(high / 2 - edge)), face)  # fmt: skip

    def door(self, start: Point, yaw: float, x: float) -> None:
        """Put a closed door on a wall."""
        out = Assembly().box((x, -0.02, 1.03), (1.04, 0.04, 2.06), self.wood(0.006),
                             skip='back bottom', solid=False)  # fmt: skip
        leaf = self.image(posters.door, 0.003, colour=self.colour(spread=0.3))
        out.panel((x, -0.043, 1.0), (0.46, 0, 0), (0, 0, -1.0), leaf)
        self.assembly.add(out, (*start, 0), yaw)

    def window(self, start: Point, yaw: float, x: float, width: float, day: float) -> None:
        """Put a window that lights the room on a wall."""
        right, into, _ = rotation_z(yaw).T
        high = min(1.3, self.height - 1.3)
        z = 0.95 + high / 2
        view = self.image(posters.window, 0.003)
        out = Assembly().box((x, -0.02, z), (width + 0.12, 0.04, high + 0.12), self.wood(),
                             skip='back', solid=False)  # fmt: skip
        out.panel((x, -0.043, z), (width / 2, 0, 0), (0, 0, -high / 2), view, emission=1.1 * day)
        out.box((x, -0.1, z - high / 2 - 0.07), (width + 0.2, 0.2, 0.03), self.wood(),
                skip='back', solid=False)  # fmt: skip
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
        shade = self.material(materials.tiles, colour=(0.85, 0.85, 0.8), second=(0.7, 0.7, 0.7),
                              cell_m=0.1, style=3)  # fmt: skip
        white = self.material(materials.plain, colour=(0.75, 0.75, 0.72))
        lamp = Assembly().box((0, 0, self.height - 0.03), size, white, skip='top',
                              faces={'bottom': shade}, solid=False, emission=0.9)  # fmt: skip
        self.assembly.add(lamp, (x, y, 0), yaw)
        right, ahead, _ = rotation_z(yaw).T
        self.lights.append(
            Light(np.array([x, y, self.height - 0.07]), right * size[0] / 2, ahead * size[1] / 2,
                  np.array([0.0, 0.0, -1.0]), warm * power)
        )  # fmt: skip


def walls_around(w: float, d: float) -> list[tuple[Point, float, float]]:
    """Return start, yaw and length of the four walls around a floor from the origin to (w, d)."""
    return [((0, d), 0.0, w), ((w, d), -math.pi / 2, d), ((w, 0), math.pi, w),
            ((0, 0), math.pi / 2, d)]  # fmt: skip


def sides_of(x0: float, y0: float, x1: float, y1: float) -> list[tuple[Point, float, float]]:
    """Return start, yaw and length of the four walls of a block, seen from outside."""
    w, d, half_pi = x1 - x0, y1 - y0, math.pi / 2
    return [((x0, y0), 0.0, w), ((x1, y0), half_pi, d), ((x1, y1), math.pi, w),
            ((x0, y1), -half_pi, d)]  # fmt: skip


def closed_loop(corners: np.ndarray, per_side: int) -> np.ndarray:
    """Return (4 * per_side, 2) points along the sides between (4, 2) corners."""
    sides = ((corners[k], corners[(k + 1) % 4]) for k in range(4))
    return np.concatenate([np.linspace(a, b, per_side, endpoint=False) for a, b in sides])
