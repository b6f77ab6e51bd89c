"""Painted images: text, posters, book spines, screens, doors, windows and facades.

They have most of the corners of an indoor world. None is loaded from a file.
"""

from __future__ import annotations

import functools
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from .canvas import blend, Canvas, Colour, hash_unit, soft_step

# 5 x 7 letters, the most frequent letters of English first.
_FONT = """
##### ##### .###. .###. .###. #...# .#### #...# ####. ####. #.... #...# .###. #...#
#.... ..#.. #...# #...# ..#.. ##..# #.... #...# #...# #...# #.... #...# #...# ##.##
#.... ..#.. #...# #...# ..#.. #.#.# #.... #...# #...# #...# #.... #...# #.... #.#.#
####. ..#.. ##### #...# ..#.. #.#.# .###. ##### ####. #...# #.... #...# #.... #.#.#
#.... ..#.. #...# #...# ..#.. #..## ....# #...# #.#.. #...# #.... #...# #.... #...#
#.... ..#.. #...# #...# ..#.. #...# ....# #...# #..#. #...# #.... #...# #...# #...#
##### ..#.. #...# .###. .###. #...# ####. #...# #...# ####. ##### .###. .###. #...#

##### ####. .###. #...# #...# ####. #...# #...# #...# ##### .###. ####. ...#. #####
#.... #...# #...# #...# #...# #...# #...# #..#. .#.#. ....# #...# ....# ..##. ....#
#.... #...# #.... #...# .#.#. #...# #...# #.#.. ..#.. ...#. ....# ....# .#.#. ...#.
####. ####. #.### #.#.# ..#.. ####. #...# ##... ..#.. ..#.. ..##. .###. #..#. ..#..
#.... #.... #...# #.#.# ..#.. #...# #...# #.#.. ..#.. .#... .#... ....# ##### ..#..
#.... #.... #...# ##.## ..#.. #...# .#.#. #..#. .#.#. #.... #.... ....# ...#. .#...
#.... #.... .###. #...# ..#.. ####. ..#.. #...# #...# ##### ##### ####. ...#. .#...
"""
_SPACE_SHARE = 0.17
_Box: TypeAlias = tuple[float, float, float, float]


@functools.lru_cache(maxsize=4)
def _glyphs(device: torch.device) -> Tensor:
    """Return (letters, 8, 6) float32 bitmaps with an empty column and row around."""
    rows = [[row.split() for row in line.splitlines()] for line in _FONT.strip().split('\n\n')]
    dots = (np.array(rows).view('U1') == '#').reshape(len(rows), 7, -1, 5)
    letters = np.pad(dots.swapaxes(1, 2).reshape(-1, 7, 5), ((0, 0), (0, 1), (0, 1)))
    return torch.from_numpy(letters.astype(np.float32)).to(device)


def text_mask(
    canvas: Canvas, box: _Box, letter_m: float, salt: int = 0, ragged: bool = True
) -> Tensor:
    """Return (h, w) with 1 where letters are printed.

    :param box: left, top, right, bottom of the text, metres on the canvas.
    :param letter_m: height of a line in metres.
    """
    left, top, right, bottom = box
    glyphs = _glyphs(canvas.device)
    wide = letter_m * 0.62
    x, y = (canvas.x - left) / wide, (canvas.y - top) / (letter_m * 1.35)
    column, line = torch.floor(x).long(), torch.floor(y).long()
    seed = canvas.seed + 101 * salt
    letter = hash_unit(seed, line[:, None], column[None])
    skip = hash_unit(seed + 1, line[:, None], column[None]) < _SPACE_SHARE
    which = (letter**1.5 * len(glyphs)).long().clamp(max=len(glyphs) - 1)
    i = ((y - line) * 1.35 * 8).long()[:, None]
    j = ((x - column) * 6).long()[None]
    ink = glyphs[which, i.clamp(0, 7), j.clamp(0, 5)] * (i < 8)
    end = torch.full((len(line), 1), right - left, device=canvas.device)
    if ragged:
        end = end * (0.6 + 0.4 * hash_unit(seed + 2, line))[:, None]
    inside = (canvas.x >= left) & ((canvas.x - left)[None] < end) & (canvas.x < right)
    lines = ((canvas.y >= top) & (canvas.y < bottom))[:, None]
    return torch.where(skip, 0.0, ink) * (inside & lines)


def _frame(canvas: Canvas) -> tuple[tuple[Tensor, Tensor], _Box, tuple[float, float]]:
    """Return x and y of the texels, the edges of the canvas, and its width and height; metres."""
    left, top, (w, h) = float(canvas.x[0]), float(canvas.y[0]), canvas.size_m
    return canvas.grid(), (left, top, left + w, top + h), (w, h)


def _rectangle(x: Tensor, y: Tensor, half_w: Tensor | float, half_h: float) -> Tensor:
    """Return how far (x, y) lie inside a rectangle around 0; negative outside."""
    return torch.minimum(half_w - x.abs(), half_h - y.abs())


def _within(x: Tensor, y: Tensor, box: _Box) -> Tensor:
    """Return how far (x, y) lie inside a box; negative outside."""
    left, top, right, bottom = box
    return torch.minimum(torch.minimum(x - left, right - x), torch.minimum(y - top, bottom - y))


def _turned(x: Tensor, y: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Return coordinates along axes that are rotated by ``angle``."""
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x


def _random_colour(rng: np.random.Generator, low: float = 0.03, high: float = 0.85) -> Colour:
    """Return a colour of print or dye: more often warm than cold, rarely saturated."""
    warm = rng.uniform() < 0.6
    hue = rng.normal(0.06, 0.06) if warm else rng.uniform(0.2, 0.75)
    saturation = rng.uniform(0.05, 0.85) ** 1.3
    value = rng.uniform(low, high)
    wheel = [abs((hue % 1.0 * 6 + shift) % 6 - 3) - 1 for shift in (0, 4, 2)]
    mix = [1 - saturation * (1 - min(max(c, 0.0), 1.0)) for c in wheel]
    return tuple(float(np.clip(value * c, 0.02, 0.9)) for c in mix)


def collage(canvas: Canvas, shapes: int) -> Tensor:
    """Paint an abstract poster: overlapping rectangles, discs, rings, bars and some text."""
    rng = canvas.rng(1)
    (x, y), (left, top, right, bottom), (w, h) = _frame(canvas)
    image = canvas.flat(_random_colour(rng, 0.3)) * (1 + 0.2 * canvas.fractal(0.4, 3, 1))
    soft = w / canvas.shape[1]
    for _ in range(shapes):
        cx, cy = rng.uniform(left, right), rng.uniform(top, bottom)
        size = min(w, h) * rng.uniform(0.04, 0.3)
        a, b = _turned(x - cx, y - cy, rng.uniform(0, np.pi))
        kind = rng.integers(5)
        if kind == 0:
            inside = size - torch.maximum(a.abs(), b.abs() * rng.uniform(0.6, 3))
        elif kind == 1:
            inside = size - torch.hypot(a, b)
        elif kind == 2:
            inside = size * 0.2 - (torch.hypot(a, b) - size).abs()
        elif kind == 3:
            inside = torch.minimum(size * 2 - a.abs(), size * 0.12 - b.abs())
        else:
            inside = size * 0.9 - a.abs() - b.abs() * 0.6
        image = blend(image, _random_colour(rng), soft_step(inside, soft) * rng.uniform(0.7, 1))
    line = h * rng.uniform(0.04, 0.09)
    start = top + h * rng.uniform(0.05, 0.8)
    text = text_mask(canvas, (left + 0.06 * w, start, right - 0.05 * w, start + 2.7 * line), line)
    return blend(image, _random_colour(rng), text)


def painting(canvas: Canvas) -> Tensor:
    """Paint a landscape: sky, ridges and foliage."""
    rng = canvas.rng(2)
    height = (canvas.y - float(canvas.y[0]))[:, None] / canvas.size_m[1]
    sky = canvas.flat(rng.uniform((0.25, 0.4, 0.5), (0.8, 0.7, 0.9)))
    image = sky * (1.1 - 0.5 * height) * (1 + 0.35 * canvas.fractal(0.25, 5, 1, stretch=2.0))
    ground = 0.3
    for k in range(5):
        ground += rng.uniform(0.06, 0.16)
        ridge = canvas.fractal(0.35 / (1 + 0.4 * k), 5, 10 + k)[:1]
        colour = np.array(_random_colour(rng, 0.08, 0.5)) * (1.1 - 0.12 * k)
        layer = canvas.flat(colour) * (1 + 0.5 * canvas.fractal(0.05, 4, 20 + k))
        image = blend(image, layer, soft_step(height - ground - 0.07 * ridge, 0.01))
    flowers = soft_step(canvas.fractal(0.03, 2, 30) - 1.1, 0.15) * (height > 0.6)
    return blend(image, _random_colour(rng, 0.4), flowers)


def page(canvas: Canvas, letter_m: float = 0.012, colour: Colour = (0.8, 0.79, 0.75)) -> Tensor:
    """Paint a printed page: a heading, paragraphs and an image."""
    rng = canvas.rng(3)
    (gx, gy), (left, top, right, bottom), (w, h) = _frame(canvas)
    image = canvas.flat(colour) * (1 + 0.03 * canvas.fractal(0.1, 3, 1))
    margin = 0.08 * w
    big = letter_m * rng.uniform(2, 3.2)
    box = (left + margin, top + margin, right - margin, top + margin + 1.35 * big)
    image = blend(image, _random_colour(rng, 0.03, 0.3), text_mask(canvas, box, big, 1))
    y0 = box[3] + margin / 2
    split = y0 + (bottom - y0) * rng.uniform(0.3, 0.6)
    body = text_mask(canvas, (left + margin, y0, right - margin, split), letter_m, 2)
    image = blend(image, (0.05, 0.05, 0.06), body)
    landscape = painting(Canvas(canvas.x, canvas.y, canvas.size_m, canvas.seed + 5))
    frame = (gx > left + margin) & (gx < right - margin)
    frame &= (gy > split + margin / 2) & (gy < bottom - margin)
    return blend(image, landscape, frame.float())


def noticeboard(canvas: Canvas, sheets: int) -> Tensor:
    """Paint a cork board with many pinned sheets, at all angles."""
    rng = canvas.rng(4)
    (x, y), (left, top, right, bottom), _ = _frame(canvas)
    image = canvas.flat((0.42, 0.27, 0.14)) * (1 + 0.25 * canvas.fractal(0.02, 3, 1))
    for k in range(sheets):
        cx, cy = rng.uniform(left, right), rng.uniform(top, bottom)
        w, h = rng.uniform(0.06, 0.14), rng.uniform(0.08, 0.18)
        a, b = _turned(x - cx, y - cy, rng.normal(0, 0.12))
        inside = _rectangle(a, b, w, h)
        paper = canvas.flat(_random_colour(rng, 0.45, 0.9))
        line = rng.uniform(0.012, 0.03)
        text = text_mask(canvas, (cx - w * 0.8, cy - h * 0.8, cx + w * 0.8, cy + h * 0.8), line, k)
        paper = blend(paper, _random_colour(rng, 0.03, 0.2), text)
        image = image * (1 - 0.4 * soft_step(inside + 0.012, 0.02)[None])
        image = blend(image, paper, soft_step(inside, 0.003))
        pin = 0.006 - torch.hypot(a, b + h * 0.85)
        image = blend(image, _random_colour(rng, 0.2, 0.7), soft_step(pin, 0.003))
    return image


def spines(canvas: Canvas, thickness_m: float) -> Tensor:
    """Paint a row of books seen from the front."""
    rng = canvas.rng(5)
    (gx, gy), (x, top, right, bottom), (_, h) = _frame(canvas)
    image = canvas.flat((0.03, 0.025, 0.02))
    while x < right:
        width = thickness_m * rng.uniform(0.5, 1.6)
        tall = h * rng.uniform(0.72, 1.0)
        colour = _random_colour(rng, 0.06, 0.6)
        inside = torch.minimum(width / 2 - (gx - x - width / 2).abs(), gy - (bottom - tall))
        shade = 0.75 + 0.25 * torch.cos((gx - x - width / 2) / width * 2.6)
        book = canvas.flat(colour) * shade
        for _ in range(rng.integers(1, 4)):
            at = bottom - tall * rng.uniform(0.1, 0.9)
            band = rng.uniform(0.004, 0.02) - (gy - at).abs()
            book = blend(book, _random_colour(rng, 0.2, 0.9), soft_step(band, 0.002))
        book = _spine_title(canvas, book, rng, (x, width, bottom - tall, tall))
        image = blend(image, book, soft_step(inside - 0.001, 0.002))
        x += width
    return image * (1 + 0.1 * canvas.fractal(0.04, 3, 1))


def _spine_title(canvas: Canvas, book: Tensor, rng: np.random.Generator, spine: _Box) -> Tensor:
    x, width, top, tall = spine
    turned = Canvas(canvas.y, -canvas.x.flip(0), canvas.size_m[::-1], int(rng.integers(1 << 31)))
    letter = min(width * 0.6, 0.022)
    middle = -(x + width / 2)
    start, end = top + 0.12 * tall, top + rng.uniform(0.5, 0.9) * tall
    box = (start, middle - letter / 2, end, middle + letter / 2)
    mask = text_mask(turned, box, letter, ragged=False).flip(0).T
    return blend(book, _random_colour(rng, 0.4, 0.9), mask)


def screen(canvas: Canvas) -> Tensor:
    """Paint a monitor with windows of text and a bezel."""
    rng = canvas.rng(6)
    (gx, gy), (left, top, right, bottom), (w, h) = _frame(canvas)
    image = canvas.flat(_random_colour(rng, 0.05, 0.35)) * (1 + 0.4 * canvas.fractal(0.2, 4, 1))
    for k in range(4):
        cx, cy = rng.uniform(left, right - 0.3 * w), rng.uniform(top, bottom - 0.3 * h)
        dw, dh = w * rng.uniform(0.25, 0.5), h * rng.uniform(0.25, 0.6)
        inside = _within(gx, gy, (cx, cy, cx + dw, cy + dh))
        ground = _random_colour(rng, 0.02, 0.9)
        image = blend(image, ground, soft_step(inside, 0.002))
        bar = (inside > 0) & (gy < cy + 0.018)
        image = blend(image, _random_colour(rng, 0.1, 0.6), bar.float())
        box = (cx + 0.01, cy + 0.025, cx + dw - 0.01, cy + dh - 0.01)
        ink = 0.8 if sum(ground) < 0.9 else 0.06
        image = blend(image, (ink, ink * 0.95, ink * 0.8), text_mask(canvas, box, 0.014, k))
    edge = _within(gx, gy, (left, top, right, bottom))
    return blend(image, (0.025, 0.025, 0.03), soft_step(0.016 - edge, 0.002))


def label(canvas: Canvas, colour: Colour = (0.45, 0.32, 0.19)) -> Tensor:
    """Paint a cardboard box: tape, a sticker, stamped letters."""
    rng = canvas.rng(7)
    (gx, gy), (left, top, right, bottom), (w, h) = _frame(canvas)
    flutes = 0.04 * torch.sin(gx * 900)
    image = canvas.flat(colour) * (1 + 0.1 * canvas.fractal(0.15, 4, 1) + flutes)
    tape = 0.024 - (gy - top - h * rng.uniform(0.1, 0.3)).abs()
    image = blend(image, (0.55, 0.45, 0.3), 0.8 * soft_step(tape, 0.002))
    cx, cy = left + w * rng.uniform(0.3, 0.7), top + h * rng.uniform(0.4, 0.7)
    inside = _rectangle(gx - cx, gy - cy, 0.25 * w, 0.2 * h)
    image = blend(image, _random_colour(rng, 0.6, 0.9), soft_step(inside, 0.002))
    box = (cx - 0.22 * w, cy - 0.17 * h, cx + 0.22 * w, cy + 0.17 * h)
    image = blend(image, (0.04, 0.04, 0.05), text_mask(canvas, box, max(0.018, 0.07 * h), 1))
    line = max(0.03, 0.13 * h)
    box = (left + 0.08 * w, bottom - 1.6 * line, right, bottom - 0.1 * line)
    return blend(image, (0.08, 0.06, 0.05), 0.8 * text_mask(canvas, box, line, 2))


def door(canvas: Canvas, colour: Colour) -> Tensor:
    """Paint a panelled door with a handle, a plate and a sign."""
    rng = canvas.rng(8)
    (gx, gy), (left, top, right, bottom), (w, h) = _frame(canvas)
    grain = canvas.fractal(0.2, 4, 1) + 0.8 * canvas.fractal(0.015, 2, 2)
    image = canvas.flat(colour) * (1 + 0.09 * grain)
    for cy, hh in ((0.26, 0.17), (0.7, 0.2)):
        for cx in (0.28, 0.72):
            inside = _rectangle(gx - left - cx * w, gy - top - cy * h, 0.16 * w, hh * h)
            image = image * (1 - 0.45 * soft_step(0.008 - inside.abs(), 0.006))
            image = image * (1 + 0.25 * soft_step(0.005 - (inside - 0.014).abs(), 0.004))
    handle = _rectangle(gx - right + 0.1, gy - top - 0.52 * h, 0.06, 0.012)
    plate = _rectangle(gx - right + 0.06, gy - top - 0.54 * h, 0.02, 0.1)
    image = blend(image, (0.6, 0.58, 0.5), soft_step(torch.maximum(handle, plate), 0.003))
    sign = _rectangle(gx - left - w / 2, gy - top - 0.27 * h, 0.12, 0.06)
    image = blend(image, _random_colour(rng, 0.3, 0.9), soft_step(sign, 0.002))
    cx, cy = left + w / 2, top + 0.27 * h
    text = text_mask(canvas, (cx - 0.1, cy - 0.045, cx + 0.11, cy + 0.045), 0.03, 3, ragged=False)
    return blend(image, (0.04, 0.04, 0.04), text)


def _street(canvas: Canvas, image: Tensor, rng: np.random.Generator) -> Tensor:
    """Paint a row of houses over a landscape, or return it unchanged."""
    if rng.uniform() < 0.3:
        return image
    (gx, gy), (left, top, right, bottom), (w, h) = _frame(canvas)
    x = left - rng.uniform(0, 0.3)
    while x < right:
        wide, eaves = rng.uniform(0.25, 0.6), top + h * rng.uniform(0.25, 0.6)
        inside = torch.minimum(wide / 2 - (gx - x - wide / 2).abs(), gy - eaves)
        wall = canvas.flat(_random_colour(rng, 0.2, 0.6)) * (1 + 0.12 * canvas.fractal(0.05, 3, 7))
        u, v = (gx - x) / (wide / rng.integers(2, 5)), (gy - eaves) / rng.uniform(0.11, 0.17)
        column, row = torch.floor(u), torch.floor(v)
        glass = _rectangle(u - column - 0.5, v - row - 0.5, 0.26, 0.32)
        tone = 0.05 + 0.3 * canvas.cells(8, row, column) ** 2
        wall = blend(wall, tone[None] * torch.ones_like(wall), soft_step(glass, 0.06))
        roof = 0.03 - (gy - eaves).abs()
        wall = blend(wall, _random_colour(rng, 0.1, 0.3), soft_step(roof, 0.006))
        image = blend(image, wall, soft_step(inside + 0.03, 0.006))
        x += wide + (rng.uniform(0.05, 0.3) if rng.uniform() < 0.3 else 0.0)
    return image


def window(canvas: Canvas) -> Tensor:
    """Paint a window: a bright view behind a frame with bars between two by two panes."""
    (x, y), (left, top, _, _), (w, h) = _frame(canvas)

    def to_bar(position: Tensor, size: float) -> Tensor:
        pane = position / size * 2
        return (0.5 - (pane - torch.floor(pane) - 0.5).abs()) / 2 * size

    image = _street(canvas, painting(canvas), canvas.rng(9))
    bar = torch.minimum(to_bar(x - left, w), to_bar(y - top, h))
    return blend(image, (0.5, 0.5, 0.48), soft_step(0.025 - bar, 0.004))


def facade(canvas: Canvas, colour: Colour, storey_m: float, bay_m: float) -> Tensor:
    """Paint the front of a house: storeys of different windows over a ground floor."""
    rng = canvas.rng(9)
    (x, y), (left, top, right, bottom), _ = _frame(canvas)
    rows = max(1, round((bottom - top) / storey_m))
    columns = max(1, round((right - left) / bay_m))
    v, u = (y - top) / (bottom - top) * rows, (x - left) / (right - left) * columns
    row, column = torch.floor(v), torch.floor(u)
    u, v = u - column - 0.5, v - row - 0.5
    image = canvas.flat(colour) * (1 + 0.12 * canvas.fractal(2.0, 6, 1))
    band = soft_step(0.05 - (v.abs() - 0.5).abs(), 0.03)
    image = blend(image, _random_colour(rng, 0.2, 0.7), 0.7 * band)
    half_u, half_v = rng.uniform(0.2, 0.36), rng.uniform(0.24, 0.36)
    ground = (row == rows - 1).float()
    wide = half_u + ground * rng.uniform(-0.05, 0.1)
    inside = _rectangle(u, v, wide, half_v)
    image = blend(image, _random_colour(rng, 0.3, 0.8), soft_step(inside + 0.05, 0.02))
    own = canvas.cells(3, row, column)
    glass = canvas.flat((0.05, 0.07, 0.1)) * (0.6 + 1.5 * canvas.cells(4, row, column))
    curtain = canvas.flat((0.5, 0.45, 0.38)) * (0.5 + 0.7 * canvas.cells(5, row, column))
    glass = blend(glass, curtain, (v < own - 0.6).float() + (v >= own - 0.6) * (own > 0.8))
    image = blend(image, glass, soft_step(inside, 0.02))
    cross = soft_step(0.012 - torch.minimum(u.abs(), (v + 0.08).abs()), 0.01)
    image = blend(image, (0.6, 0.58, 0.55), cross * soft_step(inside, 0.02))
    return image * (1 - 0.25 * soft_step(canvas.fractal(1.2, 5, 6) - 0.8, 0.5))
