"""Pieces of furniture and small objects, each an :class:`Assembly` around its own origin.

The origin lies on the floor (or on the table top, for small objects). For pieces that stand
against a wall it is the middle of their back edge; they extend to -y, their front.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any, TypeVar

import numpy as np

from . import materials, posters
from .canvas import Colour
from .facets import Assembly
from .materials import Material, Painter

_Choice = TypeVar('_Choice')

_WOODS = ((0.38, 0.22, 0.11), (0.55, 0.38, 0.21), (0.21, 0.11, 0.06), (0.62, 0.50, 0.33))
_BRIGHT = (
    (0.52, 0.10, 0.07), (0.07, 0.24, 0.42), (0.62, 0.40, 0.08), (0.12, 0.28, 0.12),
    (0.32, 0.10, 0.18), (0.68, 0.65, 0.60), (0.06, 0.06, 0.07), (0.12, 0.34, 0.36),
    (0.40, 0.24, 0.14), (0.28, 0.30, 0.33), (0.60, 0.54, 0.42),
)  # fmt: skip


class Workshop:
    """Builds pieces with random sizes and materials, drawn from ``rng`` as they are built."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def material(self, painter: Painter, texel_m: float = 0.004, **options: Any) -> Material:
        """Return an endless pattern with a new seed and a random origin."""
        right, down = (float(s) for s in self.rng.uniform(0, 50, size=2))
        return Material(painter, options, int(self.rng.integers(1 << 31)), texel_m, (right, down))

    def image(self, painter: Painter, texel_m: float = 0.0025, **options: Any) -> Material:
        """Return a material that every facet shows as a whole."""
        seed = int(self.rng.integers(1 << 31))
        return Material(painter, options, seed, texel_m, is_image=True)

    def pick(self, choices: Sequence[_Choice]) -> _Choice:
        """Return a random element."""
        return choices[int(self.rng.integers(len(choices)))]

    def colour(self, choices: Sequence[Colour] = _BRIGHT, spread: float = 0.25) -> Colour:
        """Return a random colour, varied by up to ``spread``."""
        brightness = self.rng.uniform(1 - spread, 1 + spread)
        hue = self.rng.uniform(1 - spread / 2, 1 + spread / 2, size=3)
        base = np.array(self.pick(choices)) * brightness * hue
        return tuple(np.clip(base, 0.02, 0.85))

    def wood(self, texel_m: float = 0.0035) -> Material:
        """Return wood for furniture."""
        return self.material(materials.wood, texel_m, colour=self.colour(_WOODS, 0.15))

    def plain(self, texel_m: float = 0.004) -> Material:
        """Return painted metal or plastic."""
        return self.material(materials.plain, texel_m, colour=self.colour())

    def cloth(self) -> Material:
        """Return upholstery."""
        return self.material(
            materials.fabric, 0.003, colour=self.colour(), ink=self.colour(),
            cell_m=self.rng.uniform(0.05, 0.12), style=int(self.rng.integers(3)),
        )  # fmt: skip

    def poster(self) -> Material:
        """Return a random poster for a wall."""
        kind = self.rng.integers(3)
        if kind == 0:
            return self.image(posters.collage, shapes=int(self.rng.integers(14, 30)))
        if kind == 1:
            return self.image(posters.painting)
        return self.image(
            posters.page, letter_m=self.rng.uniform(0.014, 0.03),
            colour=self.colour(((0.75, 0.73, 0.66), (0.8, 0.6, 0.3), (0.4, 0.6, 0.7))),
        )  # fmt: skip

    # Small objects for table tops and shelves

    def _clutter(self, width: float, depth: float, count: int) -> Assembly:
        """Return small objects spread over a rectangle around the origin."""
        out = Assembly()
        makers = (self._mug, self._book_pile, self._bottle, self._carton, self._bowl)
        taken: list[tuple[float, float]] = []
        for _ in range(count * 4):
            x = self.rng.uniform(-0.5, 0.5) * (width - 0.25)
            y = self.rng.uniform(-0.5, 0.5) * max(depth - 0.25, 0.02)
            if len(taken) < count and all(math.hypot(x - a, y - b) > 0.24 for a, b in taken):
                taken.append((x, y))
                out.add(self.pick(makers)(), (x, y, 0), self.rng.uniform(-math.pi, math.pi))
        return out

    def _mug(self) -> Assembly:
        r, h = self.rng.uniform(0.035, 0.05), self.rng.uniform(0.08, 0.12)
        pattern = self.image(posters.collage, 0.002, shapes=8)
        dark = self.material(materials.plain, colour=(0.05, 0.03, 0.02))
        return Assembly().lathe((0, 0, 0), [(r * 0.9, 0), (r, h)], pattern, sides=12, top=dark)

    def _bottle(self) -> Assembly:
        r, h = self.rng.uniform(0.035, 0.07), self.rng.uniform(0.2, 0.34)
        neck = self.rng.uniform(0.3, 0.6)
        profile = [(r * 0.8, 0), (r, h * 0.25), (r * 0.95, h * 0.6), (r * neck, h * 0.78),
                   (r * neck * 0.9, h)]  # fmt: skip
        skin = self.material(
            materials.tiles, 0.002, colour=self.colour(), second=self.colour(),
            cell_m=r * self.rng.uniform(0.5, 0.9), style=int(self.rng.integers(4)),
        )  # fmt: skip
        return Assembly().lathe((0, 0, 0), profile, skin, sides=12)

    def _bowl(self) -> Assembly:
        r = self.rng.uniform(0.08, 0.13)
        skin = self.material(
            materials.fabric, 0.002, colour=self.colour(), ink=self.colour(), cell_m=0.03, style=2
        )
        inner = self.material(materials.terrazzo, 0.002, colour=self.colour(),
                              chips=(self.colour(), self.colour()), cell_m=0.06)  # fmt: skip
        profile = [(r * 0.5, 0), (r * 0.85, r * 0.4), (r, r * 0.7)]
        return Assembly().lathe((0, 0, 0), profile, skin, sides=14, top=inner)

    def _book_pile(self) -> Assembly:
        out = Assembly()
        z = 0.0
        for _ in range(self.rng.integers(1, 5)):
            w, d, h = self.rng.uniform((0.15, 0.12, 0.015), (0.24, 0.18, 0.045))
            cover = self.image(posters.collage, 0.002, shapes=8)
            side = self.material(materials.wood, 0.002, colour=(0.7, 0.66, 0.55), contrast=1.5)
            spine = self.image(posters.collage, 0.002, shapes=5)
            out.box((0, 0, z + h / 2), (w, d, h), side, yaw=self.rng.normal(0, 0.15),
                    faces={'top': cover, 'front': spine}, skip='bottom')  # fmt: skip
            z += h
        return out

    def _carton(self) -> Assembly:
        w, d, h = self.rng.uniform((0.07, 0.05, 0.1), (0.2, 0.12, 0.26))
        skin = self.image(posters.collage, 0.002, shapes=12)
        faces = {'top': self.plain(), 'left': self.image(posters.page, 0.002),
                 'right': self.image(posters.page, 0.002)}  # fmt: skip
        return Assembly().box((0, 0, h / 2), (w, d, h), skin, faces=faces, skip='bottom')

    # Furniture that stands free

    def table(self, width: float, depth: float, height: float, things: int) -> Assembly:
        """Return a table centred on the origin, with objects on it."""
        top, legs = self.wood(), self.wood()
        out = Assembly().box((0, 0, height - 0.02), (width, depth, 0.04), top)
        for sx in (-1, 1):
            for sy in (-1, 1):
                at = (sx * (width / 2 - 0.06), sy * (depth / 2 - 0.06), (height - 0.04) / 2)
                out.box(at, (0.06, 0.06, height - 0.04), legs, skip='top bottom')
        return out.add(self._clutter(width, depth, things), (0, 0, height))

    def chair(self) -> Assembly:
        """Return a chair centred on the origin, its back to +y."""
        out = Assembly()
        wood, seat = self.wood(), self.cloth()
        for sx in (-0.19, 0.19):
            out.box((sx, -0.18, 0.22), (0.04, 0.04, 0.44), wood, skip='top bottom')
            out.box((sx, 0.2, 0.45), (0.04, 0.04, 0.9), wood, skip='bottom')
        out.box((0, 0, 0.46), (0.44, 0.44, 0.06), seat)
        return out.box((0, 0.2, 0.75), (0.36, 0.025, 0.26), self.cloth())

    def stool(self) -> Assembly:
        """Return a round stool."""
        h = self.rng.uniform(0.42, 0.6)
        leg, seat = [(0.16, 0), (0.05, 0.05), (0.04, h - 0.06)], [(0.19, 0), (0.19, 0.06)]
        out = Assembly().lathe((0, 0, 0), leg, self.wood(), sides=12)
        return out.lathe((0, 0, h - 0.06), seat, self.cloth(), sides=20, top=self.cloth())

    def boxes(self) -> Assembly:
        """Return a stack of cardboard boxes around the origin."""
        out = Assembly()
        z, size = 0.0, self.rng.uniform(0.4, 0.6)
        for _ in range(self.rng.integers(1, 4)):
            h = size * self.rng.uniform(0.5, 0.9)
            at = (*self.rng.normal(0, 0.02, size=2), z + h / 2)
            out.box(at, (size, size * 0.8, h), self.image(posters.label, 0.003),
                    yaw=self.rng.normal(0, 0.2), skip='bottom')  # fmt: skip
            z += h
            size *= self.rng.uniform(0.7, 0.95)
        return out

    def plant(self) -> Assembly:
        """Return a plant in a pot."""
        r = self.rng.uniform(0.14, 0.2)
        pot = self.material(materials.tiles, 0.0025, colour=self.colour(), second=self.colour(),
                            cell_m=0.09, style=2)  # fmt: skip
        soil = self.material(materials.plaster, 0.003, colour=(0.06, 0.04, 0.03), rough=2.0)
        out = Assembly().lathe((0, 0, 0), [(r * 0.7, 0), (r, 0.32)], pot, sides=16, top=soil)
        for k in range(14):
            yaw, lean = self.rng.uniform(0, 2 * math.pi), self.rng.uniform(0.2, 1.1)
            length, wide = self.rng.uniform(0.25, 0.6), self.rng.uniform(0.05, 0.1)
            along = np.array([math.cos(yaw) * math.sin(lean), math.sin(yaw) * math.sin(lean),
                              math.cos(lean)])  # fmt: skip
            across = np.array([-math.sin(yaw), math.cos(yaw), 0.0])
            middle = np.array([0, 0, 0.32 + 0.03 * k]) + along * length / 2
            leaf = self.material(materials.fabric, 0.0025, colour=(0.05, 0.2, 0.04),
                                 ink=(0.2, 0.42, 0.1), cell_m=0.03, style=0)  # fmt: skip
            for side in (1, -1):
                out.panel(middle, side * across * wide, -along * length / 2, leaf, disc=True)
        return out

    # Furniture that stands against a wall

    def bookshelf(self, width: float, height: float) -> Assembly:
        """Return open shelves with books and other objects."""
        out = Assembly()
        depth, wood, board = 0.3, self.wood(), 0.025
        y = -depth / 2
        for sx in (-1, 1):
            at = (sx * (width - board) / 2, y, height / 2)
            out.box(at, (board, depth, height), wood, skip='bottom back')
        out.box((0, -0.01, height / 2), (width, 0.02, height), wood, skip='back bottom')
        count = max(2, round(height / 0.36))
        gap = (height - board) / count
        for k in range(count + 1):
            z = k * gap + board / 2
            out.box((0, y, z), (width - 2 * board, depth - 0.005, board), wood, skip='back')
            if k < count:
                self._fill_shelf(out, width - 2 * board, gap - board, depth, z + board / 2)
        return out.add(self._clutter(width, depth, 2), (0, y, height))

    def _fill_shelf(self, out: Assembly, width: float, gap: float, depth: float, z: float) -> None:
        x = -width / 2
        while x < width / 2 - 0.08:
            length = min(self.rng.uniform(0.15, 0.45), width / 2 - x)
            if self.rng.uniform() < 0.75:
                high = gap * self.rng.uniform(0.65, 0.95)
                deep = depth * self.rng.uniform(0.6, 0.85)
                books = self.image(posters.spines, thickness_m=self.rng.uniform(0.025, 0.045))
                at = (x + length / 2, -deep / 2 - 0.02, z + high / 2)
                out.box(at, (length, deep, high), self.wood(), faces={'front': books},
                        skip='back bottom', solid=False)  # fmt: skip
            elif gap > 0.27:
                thing = self.pick((self._mug, self._carton, self._bowl))()
                out.add(thing, (x + length / 2, -depth / 2, z))
            x += length + 0.01

    def cabinet(self, width: float, height: float, depth: float = 0.45) -> Assembly:
        """Return a chest of drawers with objects on it."""
        out = Assembly()
        wood = self.wood()
        out.box((0, -depth / 2, height / 2), (width, depth, height), wood, skip='back bottom')
        rows, columns = max(1, round(height / 0.28)), max(1, round(width / 0.5))
        face, knob = self.wood(), self.plain()
        w, h = width / columns, height / rows
        for i in range(rows):
            for j in range(columns):
                x, z = -width / 2 + (j + 0.5) * w, (i + 0.5) * h
                for y, size, skin in ((0.008, (w - 0.03, 0.016, h - 0.03), face),
                                      (0.03, (0.09, 0.02, 0.02), knob)):  # fmt: skip
                    out.box((x, -depth - y, z), size, skin, skip='back', solid=False)
        things = self._clutter(width, depth, max(2, int(width / 0.35)))
        return out.add(things, (0, -depth / 2, height))

    def desk(self, width: float) -> Assembly:
        """Return a desk with a screen, a keyboard and other objects, and a chair."""
        depth, height = 0.7, 0.74
        out = Assembly().add(self.table(width, depth, height, 4), (0, -depth / 2, 0))
        x = self.rng.uniform(-0.2, 0.2) * width
        black = self.material(materials.plain, colour=(0.04, 0.04, 0.045))
        out.box((x, -0.22, height + 0.05), (0.2, 0.12, 0.1), black, skip='bottom')
        front = self.image(posters.screen, 0.002)
        out.box((x, -0.22, height + 0.28), (0.62, 0.04, 0.37), black, faces={'front': front})
        keys = self.material(materials.tiles, 0.002, colour=(0.07, 0.07, 0.08),
                             second=(0.3, 0.3, 0.3), cell_m=0.019, style=3,
                             grout=(0.02, 0.02, 0.02))  # fmt: skip
        out.box((x, -0.5, height + 0.012), (0.44, 0.14, 0.024), black, faces={'top': keys},
                skip='bottom', solid=False)  # fmt: skip
        return out.add(self.chair(), (x, -depth - 0.12, 0), math.pi + self.rng.normal(0, 0.3))

    def sofa(self, width: float) -> Assembly:
        """Return a sofa with cushions."""
        out = Assembly()
        cloth = self.cloth()
        out.box((0, -0.45, 0.2), (width, 0.8, 0.4), cloth, skip='bottom back')
        out.box((0, -0.13, 0.6), (width, 0.22, 0.45), cloth, skip='bottom back')
        for sx in (-1, 1):
            at = (sx * (width / 2 - 0.1), -0.45, 0.48)
            out.box(at, (0.2, 0.8, 0.2), cloth, skip='bottom')
        for x in np.arange(-width / 2 + 0.45, width / 2 - 0.3, 0.55):
            out.box((x, -0.34, 0.6), (0.42, 0.14, 0.36), self.cloth(),
                    yaw=self.rng.normal(0, 0.15), skip='bottom', solid=False)  # fmt: skip
        return out

    def counter(self, width: float) -> Assembly:
        """Return a kitchen counter with cupboards above."""
        out = Assembly().add(self.cabinet(width, 0.86, 0.6), (0, 0, 0))
        stone = self.material(
            materials.terrazzo, 0.003, colour=self.colour(), cell_m=0.05,
            chips=(self.colour(), self.colour(), self.colour()),
        )  # fmt: skip
        out.box((0, -0.31, 0.88), (width + 0.02, 0.64, 0.04), stone, skip='back')
        upper = Assembly().add(self.cabinet(width, 0.6, 0.34), (0, 0, 0))
        return out.add(upper, (0, 0, 1.5))
