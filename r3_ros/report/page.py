"""The report: one HTML page that needs no network and no other file."""

from __future__ import annotations

import base64
from html import escape
from importlib import resources
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic_files import atomic_write
from ..run_files import MAP_UNITS, REPORT
from .charts import (
    Level,
    Line,
    line_chart,
    PathLine,
    plan,
    plan_box,
    plan_picture_size,
    state_bands,
)
from .run_data import load_run, RunData
from .sections import checks_section, details_section, truth_section
from .views import from_above, from_side, jpeg, level_scene, perspective, png, Scene, viewpoints

_VIEWER_POINTS = 120_000
_PICTURE_SIZE = (720, 480)
STATE_COLORS = {
    'initializing': 'var(--idle)',
    'tracking': 'var(--good)',
    'low_confidence': 'var(--warn)',
    'lost': 'var(--bad)',
    'recovering': 'var(--recover)',
}


def write_report(folder: Path) -> None:
    """Write ``report.html`` from the other files of a run's folder.

    :raises SourceError: the folder holds no run.
    :raises OutputError: the file cannot be written.
    """
    page = report_html(load_run(folder))
    with atomic_write(folder / REPORT) as file:
        file.write(page.encode('utf-8'))


def report_html(run: RunData) -> str:
    """Return the page of a run."""
    scene = None
    if run.trajectory is not None:
        spacing = run.summary.get('config', {}).get('map.voxel_size', 0.02)
        scene = level_scene(run.cloud, run.trajectory.T_world_camera, spacing)
    name = escape(Path(str(run.summary.get('source', 'run'))).name)
    sections = [_header(run, name), _tiles(run), _warnings(run)]
    if scene is not None:
        sections += [_plans(run, scene), _map(scene)]
    sections += [_timelines(run), truth_section(run), checks_section(run), details_section(run)]
    files = resources.files(__package__)
    style, viewer = ((files / n).read_text(encoding='utf-8') for n in ('style.css', 'viewer.js'))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{name} - r3_ros</title><style>{style}</style></head><body><main>'
        + ''.join(sections)
        + f'</main><script>{viewer if scene is not None and len(run.cloud) else ""}</script>'
        '</body></html>\n'
    )


def _header(run: RunData, name: str) -> str:
    summary = run.summary
    partial = '' if summary.get('complete', True) else ' <b>- interrupted, partial result</b>'
    offline = summary.get('offline') or {}
    length = f'{len(run.stamps_ns)} frames over {run.seconds[-1]:.1f} s'
    if offline.get('pictures') is not None:
        length = f'{len(run.stamps_ns)} pictures without times'
    how = f', offline in {offline["windows"]} windows' if offline else ''
    return (
        f'<header><h1>{name}{partial}</h1><p>{length}, predictor '
        f'<code>{escape(str(summary.get("model")))}</code>{how}, '
        f'r3_ros {escape(str(summary.get("versions", {}).get("r3_ros", "")))}</p></header>'
    )


def _tiles(run: RunData) -> str:
    summary = run.summary
    share = 100 * (summary.get('tracked_share') or 0.0)
    tiles = [
        (f'{share:.1f}<small> %</small>', 'of the frames tracked', _mood(share >= 95, share < 80)),
        (f'{summary.get("fps") or 0:.1f}', 'frames per second, all included', ''),
    ]
    evaluation = (run.evaluation or {}).get('trajectory')
    if evaluation:
        tiles += [
            _position_tile(evaluation),
            (
                f'{evaluation["rotation_mean_deg"]:.2f}<small> deg</small>',
                'mean rotation error',
                '',
            ),
        ]
    latency = summary.get('latency_ms')
    if latency:
        tiles.append((f'{latency["p95"]:.0f}<small> ms</small>', 'latency, 95th percentile', ''))
    tiles += [
        (f'{summary.get("path_length") or 0:.2f}', f'{_unit(summary)} of path', ''),
        (str(summary.get('keyframes', 0)), 'keyframes', ''),
        (_thousands(summary.get('map_points') or 0), 'map points', ''),
    ]
    cells = ''.join(
        f'<div class="tile {mood}"><b>{v}</b><span>{k}</span></div>' for v, k, mood in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _position_tile(evaluation: dict[str, Any]) -> tuple[str, str, str]:
    name = f'position error (ATE), {_align_name(evaluation)}'
    if evaluation['ate_percent'] is None:  # the true camera stands: there is no path
        return f'{evaluation["ate_rmse_m"]:.3f}<small> m</small>', name, ''
    return f'{evaluation["ate_percent"]:.2f}<small> %</small>', f'of the path: {name}', ''


def _mood(good: bool, bad: bool) -> str:
    return 'good' if good else 'bad' if bad else ''


def _align_name(evaluation: dict[str, Any]) -> str:
    return {'sim3': 'aligned with scale', 'se3': 'aligned without scale'}[evaluation['alignment']]


def _thousands(number: int) -> str:
    return f'{number:,}'.replace(',', '&#8239;')


def _warnings(run: RunData) -> str:
    warnings = list(run.summary.get('warnings', []))
    camera = run.summary.get('camera', {})
    if not run.summary.get('tracked_share'):
        warnings.insert(
            0,
            'Nothing was tracked, so the poses below say nothing about a motion. A start needs '
            'texture and a camera that moves sideways.',
        )
    if camera.get('focal_length_estimated'):
        focal = (camera.get('undistorted') or {}).get('fx')
        found = f' as {focal:.1f} pixels' if focal else ''
        warnings.insert(
            0,
            f'The camera is not calibrated: its focal length was estimated{found}. A calibration '
            'is worth more than anything else.',
        )
    if not warnings:
        return ''
    items = ''.join(f'<li>{escape(warning)}</li>' for warning in warnings)
    return f'<ul class="warnings">{items}</ul>'


def _plans(run: RunData, scene: Scene) -> str:
    assert run.trajectory is not None
    centres = scene.centres
    is_keyframe = np.isin(
        run.trajectory.stamps_ns, run.stamps_ns[np.asarray(run.frames['keyframe']) > 0]
    )
    width, height = plan_picture_size()
    unit, panels = _unit(run.summary), []
    for title, axes, picture, labels in (
        ('From above', (0, 1), from_above, (f'right ({unit})', f'forward ({unit})')),
        ('From the right', (1, 2), from_side, (f'forward ({unit})', f'up ({unit})')),
    ):
        # The path with some surroundings: all of the cloud would make a long walk a small one.
        box_low = np.maximum(scene.low, centres.min(axis=0) - _surroundings(scene))
        box_high = np.minimum(scene.high, centres.max(axis=0) + _surroundings(scene))
        corners = np.stack([box_low, box_high])[:, axes]
        low, high = plan_box(np.concatenate([corners, centres[:, axes]]), width / height)
        background = png(picture(scene, (width, height), low, high)) if len(run.cloud) else b''
        chart = plan(
            low,
            high,
            [PathLine('trajectory after corrections', centres[:, axes], 'var(--accent)')],
            *labels,
            background,
            centres[is_keyframe][:, axes],
        )
        panels.append(f'<section class="panel"><h3>{title}</h3>{chart}</section>')
    return (
        f'<h2>Trajectory</h2><div class="two">{"".join(panels)}</div>'
        '<p class="note">Turned level by the mean upward direction of the camera; dots are '
        f'keyframes. {_unit_note(run.summary)}</p>'
    )


def _unit(summary: dict[str, Any]) -> str:
    """Return the unit of lengths; runs before there were metres do not name it."""
    return str(summary.get('length_unit') or MAP_UNITS)


def _unit_note(summary: dict[str, Any]) -> str:
    scale = summary.get('scale') or {}
    if scale.get('metres_per_unit') is None:
        return (
            'One map unit is roughly the median distance of the scene at the start, since one '
            'camera alone cannot tell metres.'
        )
    origin = {
        'fixed': 'as configured',
        'model': 'by the metric network',
        'odometry': 'by odometry',
    }.get(str(scale.get('source')), '')
    return f'Lengths are in metres {origin}, with {scale["metres_per_unit"]:.4g} m per map unit.'


def _surroundings(scene: Scene) -> float:
    spread = np.linalg.norm(scene.centres.max(axis=0) - scene.centres.min(axis=0))
    return float(max(0.6 * spread, 1.5))


def _map(scene: Scene) -> str:
    if not len(scene.cloud):
        return '<h2>Map</h2><p class="note">The map is empty: no depth was found.</p>'
    figures = []
    for view in viewpoints(scene):
        picture = base64.b64encode(jpeg(perspective(scene, view, _PICTURE_SIZE))).decode()
        figures.append(
            f'<figure><img alt="The map {view.caption}" src="data:image/jpeg;base64,{picture}">'
            f'<figcaption>{view.caption}</figcaption></figure>'
        )
    content = json.dumps(_viewer_scene(scene))
    return (
        '<h2>Map</h2><figure class="viewer"><canvas id="viewer"></canvas>'
        f'<figcaption>{_thousands(min(len(scene.cloud), _VIEWER_POINTS))} of '
        f'{_thousands(len(scene.cloud))} points. Drag to turn, shift-drag to move, wheel to '
        'zoom. All points are in <code>map.ply</code>.</figcaption></figure>'
        f'<script type="application/json" id="scene">{content}</script>'
        f'<div class="three">{"".join(figures)}</div>'
    )


def _viewer_scene(scene: Scene) -> dict[str, Any]:
    """Return the cloud for the viewer: 16-bit coordinates within the scene's box."""
    margin = 0.25 * (scene.high - scene.low)
    low, high = scene.low - margin, scene.high + margin
    points = scene.cloud.points
    inside = np.flatnonzero(np.all((points >= low) & (points <= high), axis=1))
    if len(inside) > _VIEWER_POINTS:
        chosen = np.random.default_rng(0).choice(len(inside), _VIEWER_POINTS, replace=False)
        inside = inside[np.sort(chosen)]
    grid = np.rint((points[inside] - low) / (high - low) * 65535).astype('<u2')
    thinning = float(np.sqrt(max(len(scene.cloud) / _VIEWER_POINTS, 1.0)))

    def text(array: np.ndarray) -> str:
        return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()

    return {
        'points': text(grid),
        'colors': text(scene.cloud.colors[inside]),
        'path': text(scene.centres.astype('<f4')),
        'low': low.tolist(),
        'high': high.tolist(),
        'target': scene.centre.tolist(),
        'distance': 1.9 * scene.reach,
        'azimuth': scene.open_azimuth - 0.3,
        'elevation': 0.55,
        'spacing': scene.spacing * thinning,
    }


def _timelines(run: RunData) -> str:
    x, frames = run.seconds, run.frames
    states = list(frames['state'])
    config = run.summary.get('config', {})
    levels = [
        Level(f'{name} below', config[key])
        for name, key in (
            ('low confidence', 'tracking.low_confidence_ratio'),
            ('lost', 'tracking.lost_ratio'),
        )
        if key in config
    ]
    bands = state_bands(x, states, STATE_COLORS)
    seen = [state for state in STATE_COLORS if state in states]
    ratio = line_chart(
        x,
        [Line('', _column(frames, 'confidence_ratio', len(x)))],
        'confidence / usual',
        levels,
        bands=bands,
        y_max=2.0,
    )
    key = ''.join(
        f'<span><i style="background:{STATE_COLORS[s]};height:10px;opacity:.5"></i>'
        f'{s.replace("_", " ")}</span>'
        for s in seen
    )
    return (
        '<h2>Confidence and state</h2><section class="panel">'
        f'{ratio}<div class="legend">{key}</div></section>' + _timing_chart(run, x)
    )


def _column(frames: dict[str, Any], name: str, count: int) -> np.ndarray:
    values = frames.get(name)
    return values if isinstance(values, np.ndarray) else np.full(count, np.nan)


def _timing_chart(run: RunData, x: np.ndarray) -> str:
    frames = run.frames
    lines = [Line('engine step', _column(frames, 'step_ms', len(x)))]
    label, name = ('reading and undistorting, on another thread', 'read_ms')
    if 'latency_ms' in frames:
        label, name = ('latency, from sending the picture to its pose', 'latency_ms')
    lines.append(Line(label, _column(frames, name, len(x)), 'var(--second)', 1.0))
    periods = np.diff(run.stamps_ns) / 1e6
    levels = [Level('time between frames', float(np.median(periods)))] if len(periods) else []
    stacked = np.concatenate([line.values[np.isfinite(line.values)] for line in lines])
    top = 1.25 * float(np.percentile(stacked, 99)) if len(stacked) else 1.0
    chart = line_chart(x, lines, 'milliseconds', levels, y_max=max(top, 1e-3))
    rows = ''.join(
        f'<tr><td>{escape(stage)}</td>'
        + ''.join(
            f'<td class="number">{figures[k]:.2f}</td>' for k in ('mean', 'median', 'p95', 'max')
        )
        + '</tr>'
        for stage, figures in run.summary.get('timing_ms', {}).items()
    )
    return (
        f'<h2>Time per frame</h2><section class="panel">{chart}</section>'
        '<section class="panel"><div class="scroll"><table><tr><th>stage (ms)</th>'
        '<th class="number">mean</th><th class="number">median</th>'
        '<th class="number">95th percentile</th><th class="number">longest</th></tr>'
        f'{rows}</table></div></section>'
    )
