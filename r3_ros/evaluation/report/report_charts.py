"""Charts as SVG text. Colours are CSS variables of the page, so they follow light and dark."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
import math

import numpy as np

_MAX_VERTICES = 1200
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 40


@dataclass(frozen=True, eq=False)
class Line:
    """One curve: ``values`` over the chart's x, NaN for gaps; ``color`` is a CSS colour."""

    label: str
    values: np.ndarray
    color: str = 'var(--accent)'
    width: float = 1.5


@dataclass(frozen=True)
class Level:
    """A horizontal dashed line with its meaning written on it."""

    label: str
    value: float


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return round numbers that divide the range into about ``count`` steps."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = magnitude * min((m for m in (1, 2, 5, 10) if m * magnitude >= raw), default=10)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def tick_text(value: float) -> str:
    """Return a tick's number without noise digits."""
    return f'{value:.6g}' if value else '0'


def line_chart(
    x: np.ndarray,
    lines: Sequence[Line],
    y_label: str,
    levels: Sequence[Level] = (),
    x_label: str = 'time (s)',
    y_max: float | None = None,
    bands: str = '',
    height: int = 230,
    width: int = 960,
) -> str:
    """Return a chart of curves over x with y starting at zero.

    :param bands: SVG drawn behind the curves, from :func:`state_bands`.
    :param y_max: top of the chart; values above are cut off there.
    """
    finite = [line.values[np.isfinite(line.values)] for line in lines]
    top = y_max or max([1e-9, *(float(v.max()) * 1.08 for v in finite if len(v))])
    frame = _Frame((float(x[0]), float(max(x[-1], x[0] + 1e-9))), (0.0, top), width, height)
    parts = [frame.axes(x_label, y_label), f'<g class="bands">{bands}</g>' if bands else '']
    for line in lines:
        parts.append(frame.curve(x, np.minimum(line.values, top), line.color, line.width))
    for level in levels:
        if level.value <= top:
            y = frame.v(level.value)
            parts.append(
                f'<line class="level" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" '
                f'y2="{y:.1f}"/><text class="level" x="{width - _RIGHT - 4}" y="{y - 4:.1f}" '
                f'text-anchor="end">{escape(level.label)}</text>'
            )
    return frame.svg(''.join(parts)) + legend([(line.label, line.color) for line in lines])


def state_bands(
    x: np.ndarray,
    states: Sequence[str],
    colors: dict[str, str],
    height: int = 230,
    width: int = 960,
) -> str:
    """Return coloured areas behind a chart of the same size, one for each run of a state."""
    frame = _Frame((float(x[0]), float(max(x[-1], x[0] + 1e-9))), (0.0, 1.0), width, height)
    parts, start = [], 0
    for i in range(1, len(states) + 1):
        if i < len(states) and states[i] == states[start]:
            continue
        left, right = frame.u(x[start]), frame.u(x[min(i, len(x) - 1)])
        parts.append(
            f'<rect x="{left:.2f}" y="{_TOP}" width="{max(right - left, 0.6):.2f}" '
            f'height="{height - _TOP - _BOTTOM}" fill="{colors.get(states[start], "none")}">'
            f'<title>{escape(states[start])}</title></rect>'
        )
        start = i
    return ''.join(parts)


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Return the key of a chart; nothing for a single unnamed curve."""
    items = [
        f'<span><i style="background:{color}"></i>{escape(label)}</span>'
        for label, color in entries
        if label
    ]
    return f'<div class="legend">{"".join(items)}</div>' if items else ''


@dataclass(frozen=True, eq=False)
class PathLine:
    """A trajectory on a plan: (N, 2) points and how to draw it."""

    label: str
    points: np.ndarray
    color: str
    dashed: bool = False


#: A camera that stands is drawn as a point, not as its rounding errors.
_LEAST_EXTENT = 0.01


def plan_box(points: np.ndarray, aspect: float) -> tuple[np.ndarray, np.ndarray]:
    """Return corners of a box of the given width/height around (N, 2) points, with a margin."""
    low, high = points.min(axis=0), points.max(axis=0)
    centre, half = 0.5 * (low + high), 0.54 * np.maximum(high - low, _LEAST_EXTENT)
    half = np.array([max(half[0], half[1] * aspect), max(half[1], half[0] / aspect)])
    return centre - half, centre + half


def plan(
    low: np.ndarray,
    high: np.ndarray,
    paths: Sequence[PathLine],
    x_label: str,
    y_label: str,
    background_png: bytes = b'',
    marks: np.ndarray | None = None,
    size: tuple[int, int] = (640, 480),
) -> str:
    """Return a plan to scale: paths over a picture, keyframes as dots, start and end marked."""
    width, height = size
    frame = _Frame((low[0], high[0]), (low[1], high[1]), width, height)
    parts = []
    if background_png:
        data = base64.b64encode(background_png).decode()
        parts.append(
            f'<image x="{_LEFT}" y="{_TOP}" width="{width - _LEFT - _RIGHT}" '
            f'height="{height - _TOP - _BOTTOM}" preserveAspectRatio="none" class="cloud" '
            f'href="data:image/png;base64,{data}"/>'
        )
    parts.append(frame.axes(x_label, y_label))
    for path in paths:
        dash = ' stroke-dasharray="6 4"' if path.dashed else ''
        vertices = ' '.join(f'{frame.u(a):.1f},{frame.v(b):.1f}' for a, b in _thinned(path.points))
        if not path.dashed:
            parts.append(f'<polyline class="halo" points="{vertices}"/>')
        parts.append(f'<polyline class="path" stroke="{path.color}"{dash} points="{vertices}"/>')
    for a, b in marks if marks is not None else ():
        parts.append(f'<circle class="mark" cx="{frame.u(a):.1f}" cy="{frame.v(b):.1f}" r="2"/>')
    if paths and len(paths[0].points):
        for label, (a, b) in (('start', paths[0].points[0]), ('end', paths[0].points[-1])):
            u, v = frame.u(a), frame.v(b)
            parts.append(
                f'<circle class="{label}" cx="{u:.1f}" cy="{v:.1f}" r="5"/>'
                f'<text class="end" x="{u + 8:.1f}" y="{v - 7:.1f}">{label}</text>'
            )
    entries = [(path.label, path.color) for path in paths]
    return frame.svg(''.join(parts)) + legend(entries)


def plan_picture_size(size: tuple[int, int] = (640, 480)) -> tuple[int, int]:
    """Return the pixels of the inside of a plan, for its background."""
    return size[0] - _LEFT - _RIGHT, size[1] - _TOP - _BOTTOM


@dataclass(frozen=True)
class _Frame:
    """Maps values to places in the SVG."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    width: int
    height: int

    def u(self, x: float) -> float:
        low, high = self.x_range
        return _LEFT + (x - low) / (high - low) * (self.width - _LEFT - _RIGHT)

    def v(self, y: float) -> float:
        low, high = self.y_range
        return self.height - _BOTTOM - (y - low) / (high - low) * (self.height - _TOP - _BOTTOM)

    def axes(self, x_label: str, y_label: str) -> str:
        parts = []
        bottom, right = self.height - _BOTTOM, self.width - _RIGHT
        for value in ticks(*self.x_range, count=max(self.width // 110, 3)):
            u = self.u(value)
            parts.append(
                f'<line class="grid" x1="{u:.1f}" x2="{u:.1f}" y1="{_TOP}" y2="{bottom}"/>'
                f'<text class="tick" x="{u:.1f}" y="{bottom + 16}" text-anchor="middle">'
                f'{tick_text(value)}</text>'
            )
        for value in ticks(*self.y_range, count=max(self.height // 45, 3)):
            v = self.v(value)
            parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{v:.1f}" y2="{v:.1f}"/>'
                f'<text class="tick" x="{_LEFT - 7}" y="{v + 4:.1f}" text-anchor="end">'
                f'{tick_text(value)}</text>'
            )
        middle_u, middle_v = (_LEFT + right) / 2, (_TOP + bottom) / 2
        parts.append(
            f'<text class="label" x="{middle_u}" y="{self.height - 6}" text-anchor="middle">'
            f'{escape(x_label)}</text><text class="label" text-anchor="middle" '
            f'transform="translate(13 {middle_v}) rotate(-90)">{escape(y_label)}</text>'
        )
        return ''.join(parts)

    def curve(self, x: np.ndarray, y: np.ndarray, color: str, width: float) -> str:
        """Return the polylines between gaps; many samples become their extremes a bin."""
        parts = []
        for piece in _pieces(x, y):
            vertices = ' '.join(f'{self.u(a):.1f},{self.v(b):.1f}' for a, b in _reduced(piece))
            parts.append(
                f'<polyline fill="none" stroke="{color}" stroke-width="{width}" '
                f'stroke-linejoin="round" points="{vertices}"/>'
            )
        return ''.join(parts)

    def svg(self, content: str) -> str:
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" '
            f'preserveAspectRatio="xMidYMid meet">{content}</svg>'
        )


def _pieces(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    known = np.isfinite(y)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], known.astype(np.int8), [0]])))
    return [np.stack([x[a:b], y[a:b]], axis=1) for a, b in edges.reshape(-1, 2)]


def _reduced(piece: np.ndarray) -> np.ndarray:
    """Keep the lowest and the highest sample of each bin, so that no spike is lost."""
    if len(piece) <= _MAX_VERTICES:
        return piece
    kept: list[int] = []
    for part in np.array_split(np.arange(len(piece)), _MAX_VERTICES // 2):
        values = piece[part, 1]
        kept.extend(sorted({int(part[values.argmin()]), int(part[values.argmax()])}))
    return piece[kept]


def _thinned(points: np.ndarray) -> np.ndarray:
    if len(points) <= 2 * _MAX_VERTICES:
        return points
    return points[np.linspace(0, len(points) - 1, 2 * _MAX_VERTICES).astype(np.int64)]
