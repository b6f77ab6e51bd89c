"""Charts of one run."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.geometry import rigid_part
from ...maps.keyframe_images import encode_image
from ...offline.depth_samples import DepthSample
from ..covariance_errors import chi_square
from ..figures import (
    colour_scale,
    depth_colours,
    draw_coloured_lines,
    draw_ellipse,
    new_figure,
)
from ..map_views import (
    draw_from_half_way,
    draw_from_outside,
    draw_plan,
    level_rotation,
    LevelScene,
)
from .page_parts import chart, charts, embedded, figure_image, note, panel
from .run_data import RunData

STATE_COLORS = {
    'initializing': '#8a94a3',
    'tracking': '#1a7f4b',
    'low_confidence': '#d49a1a',
    'lost': '#c93c37',
    'recovering': '#7c4dbd',
}
#: Inches. Charts are half as wide as the page, or as wide as a phone.
WIDTH = 4.8
_CONFIDENCE_TOP = 2.0
_ELLIPSES = 6
#: Radius of a 95 % ellipse, in standard deviations.
_RADIUS_95 = float(np.sqrt(chi_square(0.95, 2)))
#: Ellipses smaller than this share of the plan are enlarged.
_LEAST_ELLIPSE = 0.02


def plans(scene: LevelScene, unit: str, keyframes: np.ndarray) -> str:
    """Return trajectory and map from above and from the right.

    :param keyframes: indices of the poses of keyframes.
    """
    panels = []
    for view in ('from above', 'from the right'):
        figure = new_figure(WIDTH, 3.7)
        draw_plan(figure.subplots(), scene, unit, keyframes, view)
        panels.append(chart(view.capitalize(), figure, kind='jpeg'))
    return charts(*panels)


def map_views(scene: LevelScene) -> str:
    """Return the map in perspective, from outside and from inside."""
    panels = []
    for title, draw in (
        ('From outside', draw_from_outside),
        ('As the camera saw it half-way', draw_from_half_way),
    ):
        figure = new_figure(WIDTH, WIDTH / 1.5)
        draw(figure.subplots(), scene)
        panels.append(chart(title, figure, kind='jpeg'))
    return charts(*panels)


def truth_plan(run: RunData) -> str:
    """Return the true path from above, and the run's in the colours of its error."""
    assert run.errors is not None and run.evaluation is not None and run.published is not None
    stamps_ns, errors = run.errors['stamps_ns'], run.errors['error_m']
    rows = np.searchsorted(run.published.stamps_ns, stamps_ns)
    T = rigid_part(run.evaluation['S_truth_world']) @ run.published.T_world_camera[rows]
    R_level_truth = level_rotation(T)
    estimate, truth = (run.errors[name] @ R_level_truth.T for name in ('estimate', 'truth'))
    figure = new_figure(WIDTH, 4.2)
    axes = figure.subplots()
    axes.plot(truth[:, 0], truth[:, 1], '--', color='0.45', lw=1.2, label='truth')
    axes.plot(*estimate[0, :2], 'o', color='0.2', ms=6, label='start')
    follows = np.diff(np.searchsorted(run.stamps_ns, stamps_ns)) == 1
    pieces = np.stack([estimate[:-1, :2], estimate[1:, :2]], axis=1)[follows]
    # Few large errors, as of the start, would give all others one colour.
    top = max(float(np.percentile(errors, 98)), 1e-9)
    colours = draw_coloured_lines(axes, pieces, errors[1:][follows], top)
    figure.colorbar(colours, label='position error (m)', shrink=0.8, extend='max')
    scale = float(run.evaluation['trajectory']['scale'])
    factor = _draw_ellipses(axes, run, stamps_ns, estimate, R_level_truth @ T[:, :3, :3], scale)
    axes.set(aspect='equal', adjustable='datalim', xlabel='right (m)', ylabel='forward (m)')
    axes.locator_params(nbins=6)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    text = 'After the best alignment.'
    if factor is not None:
        enlarged = f', drawn {factor} times as large' if factor > 1 else ''
        text += f' Ellipses: where the published covariances expect 95 % of the poses{enlarged}.'
    return chart('Path beside the truth, from above', figure, text)


def _draw_ellipses(
    axes: Any,
    run: RunData,
    stamps_ns: np.ndarray,
    centres: np.ndarray,
    R_plan_camera: np.ndarray,
    scale: float,
) -> int | None:
    """Draw 95 % ellipses of some poses; return how many times they are enlarged, None: none.

    :param scale: of the run's unit.
    """
    if run.covariances is None:
        return None
    rows = np.searchsorted(run.covariances.stamps_ns, stamps_ns)
    C = R_plan_camera @ run.covariances.covariance[rows, :3, :3] @ R_plan_camera.swapaxes(1, 2)
    tracked = np.flatnonzero(np.isfinite(C[:, 0, 0]) & run.tracked[rows])
    if not len(tracked):
        return None
    chosen = tracked[np.linspace(0, len(tracked) - 1, _ELLIPSES + 1).astype(int)[1:]]
    C_plan = scale**2 * C[chosen, :2, :2]
    largest = _RADIUS_95 * float(np.sqrt(np.linalg.eigvalsh(C_plan).max()))
    extent = float(np.ptp(centres[:, :2], axis=0).max())
    factor = 1
    while 0 < factor * largest < _LEAST_ELLIPSE * extent and factor < 1000:
        factor *= 10
    for centre, C_one in zip(centres[chosen, :2], C_plan, strict=True):
        draw_ellipse(axes, centre, C_one, factor * _RADIUS_95)
    return factor


def error_chart(run: RunData) -> str:
    """Return position and rotation errors over time, after the alignment."""
    assert run.errors is not None
    figure = new_figure(WIDTH, 4.2)
    for axes, key, label in zip(
        figure.subplots(2, 1, sharex=True),
        ('error_m', 'rotation_error_deg'),
        ('position error (m)', 'rotation error (deg)'),
        strict=True,
    ):
        axes.plot(run.seconds, _by_frame(run, key), lw=1.2)
        axes.axhline(np.sqrt(np.mean(run.errors[key] ** 2)), color='0.4', lw=1, linestyle=':')
        axes.set(ylabel=label, ylim=(0, None))
        axes.grid(alpha=0.3)
    axes.set(xlabel='time (s)')
    return chart('Error over time', figure, 'After the best alignment; dotted: root mean square.')


def _by_frame(run: RunData, key: str) -> np.ndarray:
    """Return a column of evaluation.csv for each frame, NaN for those without a pose."""
    assert run.errors is not None
    values = np.full(len(run.stamps_ns), np.nan)
    values[np.searchsorted(run.stamps_ns, run.errors['stamps_ns'])] = run.errors[key]
    return values


def bounds_chart(run: RunData) -> str:
    """Return errors seen from the first pose beside their 95 % bounds; empty without them."""
    if run.errors is None or 'drift_m' not in run.errors:
        return ''
    figure = new_figure(WIDTH, 4.2)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, unit, label in zip(
        (upper, lower),
        ('m', 'deg'),
        ('position (m)', 'rotation (deg)'),
        strict=True,
    ):
        error, bound = _by_frame(run, f'drift_{unit}'), _by_frame(run, f'drift_bound_{unit}')
        axes.fill_between(run.seconds, 0, bound, color='tab:green', alpha=0.2, label='95 % bound')
        axes.plot(run.seconds, error, lw=1.2, label='error')
        known = bound[np.isfinite(bound)]
        top = max(np.nanmax(error), np.percentile(known, 98) if len(known) else 0.0)
        axes.set(ylabel=label, ylim=(0, 1.1 * max(top, 1e-9)))
        axes.grid(alpha=0.3)
    axes.set(xlabel='time (s)')
    upper.legend(fontsize=9, loc='upper left')
    text = (
        'The error as seen from the first tracked pose, and how large 95 % of such errors should '
        'be at most by the published covariance, in the direction of the error.'
    )
    return chart('Error and its bound', figure, text)


def coverage_chart(run: RunData) -> str:
    """Return observed over expected shares of errors inside ellipsoids; empty without them."""
    covered = {k: v for k, v in ((run.evaluation or {}).get('covariance') or {}).items() if v}
    if not covered:
        return ''
    figure = new_figure(WIDTH, 4.2)
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], '--', color='0.4', lw=1, label='as it should be')
    for name, found in covered.items():
        levels = 100 * np.array([float(level) for level in found['levels']])
        label = f'{name}: {100 * found["inside_95"]:.0f} % inside 95 %'
        axes.plot(levels, 100 * np.array(list(found['levels'].values())), '.-', label=label)
    axes.set(xlim=(0, 100), ylim=(0, 102), xlabel='expected inside (%)')
    axes.set(ylabel='observed inside (%)')
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, loc='lower right')
    text = (
        'Above the diagonal covariances are cautious, below it too small. Poses of one run err '
        'together: a single run is no proof.'
    )
    return chart('Coverage of the covariances', figure, text)


def sigma_chart(run: RunData) -> str:
    """Return the expected errors of position and rotation over time; empty without them."""
    if run.covariances is None:
        return ''
    C = np.where(run.tracked[:, None, None], run.covariances.covariance, np.nan)
    if not np.isfinite(C[:, 0, 0]).any():
        return ''
    figure = new_figure(WIDTH, 3.4)
    for axes, part, unit, label in zip(
        figure.subplots(2, 1, sharex=True),
        (slice(0, 3), slice(3, 6)),
        (1.0, np.degrees(1.0)),
        (f'position ({run.unit})', 'rotation (deg)'),
        strict=True,
    ):
        sigma = unit * np.sqrt(np.trace(C[:, part, part], axis1=1, axis2=2))
        axes.plot(run.seconds, sigma, lw=1.2)
        axes.set(ylabel=label, ylim=(0, None))
        axes.grid(alpha=0.3)
    axes.set(xlabel='time (s)')
    text = (
        'Standard deviation of the published poses, of all axes together, as seen from the first '
        'frame: by the covariances, not measured.'
    )
    return chart('Expected error', figure, text)


def confidence_chart(run: RunData) -> str:
    """Return confidence and state over time."""
    figure = new_figure(WIDTH, 3.4)
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
    return chart('Confidence and state', figure)


def timing_chart(run: RunData) -> str:
    """Return the times of a frame over time."""
    figure = new_figure(WIDTH, 3.4)
    axes = figure.subplots()
    label, name = 'reading and undistorting, on another thread', 'read_ms'
    if 'latency_ms' in run.frames:
        label, name = 'latency, from sending the image to its pose', 'latency_ms'
    lines = {'engine step': run.frames['step_ms'], label: run.frames[name]}
    for text, values in lines.items():
        axes.plot(run.seconds, values, lw=1.0, label=text)
    periods = np.diff(run.stamps_ns) / 1e6
    if len(periods):
        _level(axes, float(np.median(periods)), 'time between frames')
    both = np.concatenate(list(lines.values()))
    both = both[np.isfinite(both)]
    # Few very slow frames would flatten all others.
    top = 1.35 * float(np.percentile(both, 99)) if len(both) else 1.0
    axes.set(ylim=(0, max(top, 1e-3)), ylabel='milliseconds')
    _over_time(axes, run.seconds)
    return chart('Time per frame', figure)


def memory_chart(run: RunData) -> str:
    """Return the memory of the process over time; empty where it is not known."""
    memory = np.asarray(run.frames.get('resident_mib', [np.nan]))
    if not np.isfinite(memory).any():
        return ''
    figure = new_figure(WIDTH, 3.4)
    axes = figure.subplots()
    axes.plot(run.seconds, memory, lw=1.2)
    axes.set(ylabel='resident memory (MiB)', ylim=(0, None), xlabel='time (s)')
    axes.grid(alpha=0.3)
    text = f'Of the whole process: {memory[0]:.0f} MiB after the first frame, at most '
    return chart('Memory', figure, text + f'{np.nanmax(memory):.0f} MiB.')


def depth_samples(run: RunData) -> str:
    """Return images, depth and confidence of some keyframes, with one scale for all."""
    depth = np.concatenate([sample.depth.ravel() for sample in run.samples])
    trust = np.concatenate([sample.confidence.ravel() for sample in run.samples])
    trust = trust[np.isfinite(depth)]
    colours = depth_colours(depth)
    high = float(np.percentile(trust, 98)) if len(trust) else 1.0
    of_trust = {'cmap': 'magma', 'norm': 'linear', 'vmin': 1.0, 'vmax': max(high, 1.001)}
    seconds = dict(zip(np.asarray(run.frames['frame']).astype(int), run.seconds, strict=True))
    panels = []
    for sample in run.samples:
        share = 100 * float(np.isfinite(sample.depth).mean())
        at = f'{seconds[sample.frame_id]:.1f} s, ' if sample.frame_id in seconds else ''
        text = f'{at}frame {sample.frame_id}: depth at {share:.0f} % of the pixels'
        strip = embedded(_strip(sample, colours, of_trust), text, 'jpeg')
        panels.append(panel(strip + note(text)))
    return charts(*panels) + panel(_colour_bars(colours, of_trust, run.unit))


def _strip(sample: DepthSample, colours: dict[str, Any], of_trust: dict[str, Any]) -> bytes:
    """Return image, depth and confidence side by side as JPEG; grey where depth is unknown."""
    unknown = ~np.isfinite(sample.depth)
    parts = [sample.image]
    for values, scale in ((sample.depth, colours), (sample.confidence, of_trust)):
        coloured = colour_scale(scale).to_rgba(
            np.where(unknown, scale['vmin'], values), bytes=True
        )
        coloured[unknown] = 215
        parts.append(coloured[..., :3])
    return encode_image(np.hstack(parts))


def _colour_bars(colours: dict[str, Any], of_trust: dict[str, Any], unit: str) -> str:
    figure = new_figure(2 * WIDTH, 0.9)
    figure.get_layout_engine().set(wspace=0.08)
    spaced: dict[str, Any] = {'log': np.geomspace, 'linear': np.linspace}
    labels = (f'depth ({unit})', 'confidence (1: lowest)')
    for axes, scale, label in zip(figure.subplots(1, 2), (colours, of_trust), labels, strict=True):
        figure.colorbar(
            colour_scale(scale), cax=axes, orientation='horizontal', label=label,
            format='%.3g', ticks=spaced[scale['norm']](scale['vmin'], scale['vmax'], 5),
        )  # fmt: skip
        axes.minorticks_off()
    return figure_image(figure, 'The colours of depth and of confidence')


def _level(axes: Any, value: float, label: str) -> None:
    axes.axhline(value, color='0.4', lw=1, linestyle='--', zorder=4)
    axes.annotate(
        label, (1, value), xycoords=('axes fraction', 'data'), xytext=(-4, 3),
        textcoords='offset points', ha='right', fontsize=8, color='0.3', annotation_clip=True,
        bbox={'facecolor': 'white', 'alpha': 0.7, 'lw': 0, 'pad': 0.5},
    )  # fmt: skip


def _over_time(axes: Any, seconds: np.ndarray) -> None:
    axes.set(xlabel='time (s)', xlim=(seconds[0], max(seconds[-1], seconds[0] + 1e-3)))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc='upper right', ncols=2)
