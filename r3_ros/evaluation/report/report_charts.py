"""Figures of the report, as embedded HTML images."""

from __future__ import annotations

import base64
from html import escape
from typing import Any

import numpy as np

from ..figures import encoded, new_figure
from ..map_views import draw_from_half_way, draw_from_outside, draw_plan, LevelScene
from .run_data import RunData

STATE_COLORS = {
    'initializing': '#8a94a3',
    'tracking': '#1a7f4b',
    'low_confidence': '#d49a1a',
    'lost': '#c93c37',
    'recovering': '#7c4dbd',
}
_DPI = 130
_CONFIDENCE_TOP = 2.0


def embedded(data: bytes, alt: str, kind: str = 'png') -> str:
    """Return an encoded image as an HTML element."""
    text = base64.b64encode(data).decode()
    return f'<img alt="{escape(alt)}" src="data:image/{kind};base64,{text}">'


def _image(figure: Any, alt: str, kind: str = 'png') -> str:
    """Return a figure as an embedded image; ``jpeg`` keeps point clouds small."""
    return embedded(encoded(figure, _DPI, kind), alt, kind)


def plans(scene: LevelScene, unit: str, keyframes: np.ndarray) -> str:
    """Return trajectory and map from above and from the right.

    :param keyframes: indices of the poses of keyframes.
    """
    figure = new_figure(12, 4.7)
    for axes, view in zip(figure.subplots(1, 2), ('from above', 'from the right'), strict=True):
        draw_plan(axes, scene, unit, keyframes, view)
    return _image(figure, 'The trajectory and the map from above and from the right', 'jpeg')


def map_views(scene: LevelScene) -> str:
    """Return the map in perspective, from outside and from inside."""
    figure = new_figure(12, 4.3)
    outside, inside = figure.subplots(1, 2)
    draw_from_outside(outside, scene)
    outside.set_title('from outside')
    draw_from_half_way(inside, scene)
    inside.set_title('as the camera saw it half-way')
    return _image(figure, 'The map from outside, and as the camera saw it half-way', 'jpeg')


def confidence_chart(run: RunData) -> str:
    """Return confidence and state over time."""
    figure = new_figure(12, 2.9)
    axes = figure.subplots()
    x, states = run.seconds, np.asarray(run.frames['state'])
    starts = np.flatnonzero(np.concatenate([[True], states[1:] != states[:-1]]))
    ends = np.append(starts[1:], len(x) - 1)
    for state, color in STATE_COLORS.items():
        chosen = states[starts] == state
        spans = np.stack([x[starts], x[ends] - x[starts]], axis=1)[chosen]
        if len(spans):
            label = state.replace('_', ' ')
            axes.broken_barh(spans, (0, _CONFIDENCE_TOP), color=color, alpha=0.18, label=label)
    axes.plot(x, run.frames['confidence_ratio'], color='tab:blue', lw=1.2)
    config = run.summary.get('config', {})
    for name, key in (
        ('low confidence below', 'tracking.low_confidence_ratio'),
        ('lost below', 'tracking.lost_ratio'),
    ):
        if key in config:
            _level(axes, config[key], name)
    axes.set(ylim=(0, _CONFIDENCE_TOP), ylabel='confidence / usual')
    _over_time(axes, x)
    return _image(figure, 'Confidence and state over time')


def timing_chart(run: RunData) -> str:
    """Return the times of a frame over time."""
    figure = new_figure(12, 2.9)
    axes = figure.subplots()
    label, name = 'reading and undistorting, on another thread', 'read_ms'
    if 'latency_ms' in run.frames:
        label, name = 'latency, from sending the image to its pose', 'latency_ms'
    lines = {'engine step': run.frames['step_ms'], label: run.frames[name]}
    for text, values in lines.items():
        axes.plot(run.seconds, values, lw=1.2, label=text)
    periods = np.diff(run.stamps_ns) / 1e6
    if len(periods):
        _level(axes, float(np.median(periods)), 'time between frames')
    both = np.concatenate(list(lines.values()))
    both = both[np.isfinite(both)]
    # Few very slow frames would flatten all others.
    top = 1.25 * float(np.percentile(both, 99)) if len(both) else 1.0
    axes.set(ylim=(0, max(top, 1e-3)), ylabel='milliseconds')
    _over_time(axes, run.seconds)
    return _image(figure, 'Time per frame')


def _level(axes: Any, value: float, label: str) -> None:
    axes.axhline(value, color='0.4', lw=1, linestyle='--', zorder=4)
    axes.annotate(
        label, (1, value), xycoords=('axes fraction', 'data'), xytext=(-4, 3),
        textcoords='offset points', ha='right', fontsize=9, color='0.3', annotation_clip=True,
        bbox={'facecolor': 'white', 'alpha': 0.7, 'lw': 0, 'pad': 0.5},
    )  # fmt: skip


def _over_time(axes: Any, seconds: np.ndarray) -> None:
    axes.set(xlabel='time (s)', xlim=(seconds[0], max(seconds[-1], seconds[0] + 1e-3)))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, loc='upper right', ncols=5)
