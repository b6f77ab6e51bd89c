"""The report: one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ...core.atomic_files import atomic_write
from ...core.config import R3Config
from ...core.parameter_fields import parameters
from ...offline.run_files import MAP_UNITS, REPORT
from ..map_views import level_scene
from .report_charts import confidence_chart, embedded, map_views, plans, timing_chart
from .run_data import load_run, RunData

#: Largest number of changes of state that are listed.
_MAX_CHANGES = 60


def write_report(folder: Path) -> None:
    """Write ``report.html`` from the other files of a run.

    :raises SourceError: the folder holds no run.
    :raises OutputError: the file cannot be written.
    """
    page = _page(load_run(folder))
    with atomic_write(folder / REPORT) as file:
        file.write(page.encode('utf-8'))


def _page(run: RunData) -> str:
    name = escape(Path(str(run.summary.get('source', 'run'))).name)
    style = (resources.files(__package__) / 'style.css').read_text(encoding='utf-8')
    sections = [
        _header(run, name),
        _tiles(run),
        _warnings(run),
        *_scene(run),
        _section('Confidence and state', _panel(confidence_chart(run))),
        _section('Time per frame', _panel(timing_chart(run)), _panel(_timing_table(run))),
    ]
    if run.evaluation is not None:
        figure = embedded(run.truth_figure, 'The path and its error against the truth')
        content = _panel(figure), _panel(_errors_table(run.evaluation))
        sections.append(_section('Against the truth', *content))
    if run.summary.get('checks'):
        sections.append(_section('What was checked on the topics', _panel(_checks_table(run))))
    sections.append(_section('Details', *(_panel(table) for table in _details_tables(run))))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{name} - r3_ros</title><style>{style}</style></head><body><main>'
        + ''.join(sections)
        + '</main></body></html>\n'
    )


def _section(title: str, *content: str) -> str:
    return f'<h2>{title}</h2>{"".join(content)}'


def _panel(content: str) -> str:
    return f'<section class="panel">{content}</section>'


def _header(run: RunData, name: str) -> str:
    summary = run.summary
    partial = '' if summary.get('complete', True) else ' <b>- interrupted, partial result</b>'
    offline = summary.get('offline') or {}
    length = f'{len(run.stamps_ns)} frames over {run.seconds[-1]:.1f} s'
    if offline.get('pictures') is not None:
        length = f'{len(run.stamps_ns)} images without times'
    how = f', offline in {offline["windows"]} windows' if offline else ''
    return (
        f'<header><h1>{name}{partial}</h1><p>{length}, predictor '
        f'<code>{escape(str(summary.get("model")))}</code>{how}, '
        f'r3_ros {escape(str(summary.get("versions", {}).get("r3_ros", "")))}</p></header>'
    )


def _tiles(run: RunData) -> str:
    summary = run.summary
    share = 100 * (summary.get('tracked_share') or 0.0)
    mood = 'good' if share >= 95 else 'bad' if share < 80 else ''
    tiles = [
        (f'{share:.1f}<small> %</small>', 'of the frames tracked', mood),
        (f'{summary.get("fps") or 0:.1f}', 'frames per second, all included', ''),
    ]
    if run.evaluation is not None:
        errors = run.evaluation['trajectory']
        degrees = f'{errors["rotation_mean_deg"]:.2f}<small> deg</small>'
        tiles += [(*_position_error(errors), ''), (degrees, 'mean rotation error', '')]
    latency = summary.get('timing_ms', {}).get('latency')
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


def _position_error(errors: dict[str, Any]) -> tuple[str, str]:
    how = {'sim3': 'aligned with scale', 'se3': 'aligned without scale'}[errors['alignment']]
    name = f'position error (ATE), {how}'
    if errors['ate_percent'] is None:  # the true camera stands: there is no path
        return f'{errors["ate_rmse_m"]:.3f}<small> m</small>', name
    return f'{errors["ate_percent"]:.2f}<small> %</small>', f'of the path: {name}'


def _thousands(number: int) -> str:
    return f'{number:,}'.replace(',', '&#8239;')


def _warnings(run: RunData) -> str:
    warnings: list[str] = []
    camera = run.summary.get('camera', {})
    if camera.get('focal_length_estimated'):
        focal = (camera.get('undistorted') or {}).get('fx')
        found = f' as {focal:.1f} pixels' if focal else ''
        warnings.append(
            f'The camera is not calibrated: its focal length was estimated{found}. A calibration '
            'improves the accuracy most.'
        )
    if not run.summary.get('tracked_share'):
        warnings.append(
            'Nothing was tracked: the poses below are no estimates. Initialisation needs texture '
            'and a camera that moves sideways.'
        )
    warnings += run.summary.get('warnings', [])
    items = ''.join(f'<li>{escape(warning)}</li>' for warning in warnings)
    return f'<ul class="warnings">{items}</ul>' if items else ''


def _scene(run: RunData) -> list[str]:
    """Return the sections of trajectory and map; none without poses."""
    if run.trajectory is None:
        return []
    scene = level_scene(run.cloud, run.trajectory.T_world_camera)
    keyframe_stamps = run.stamps_ns[np.asarray(run.frames['keyframe']) > 0]
    keyframes = np.flatnonzero(np.isin(run.trajectory.stamps_ns, keyframe_stamps))
    trajectory = _section(
        'Trajectory',
        _panel(plans(scene, _unit(run.summary), keyframes)),
        '<p class="note">After all corrections, turned level by the mean upward direction of the '
        f'camera; dots are keyframes. {_unit_note(run.summary)}</p>',
    )
    if not len(run.cloud):
        empty = '<p class="note">The map is empty: no depth was found.</p>'
        return [trajectory, _section('Map', empty)]
    shown = '' if len(scene.cloud) == len(run.cloud) else f'{_thousands(len(scene.cloud))} of '
    note = (
        f'<p class="note">{shown}{_thousands(len(run.cloud))} points. All are in '
        '<code>map.ply</code>, for any viewer of point clouds.</p>'
    )
    return [trajectory, _section('Map', _panel(map_views(scene)), note)]


def _unit(summary: dict[str, Any]) -> str:
    # Absent in live runs.
    return str(summary.get('length_unit') or MAP_UNITS)


def _unit_note(summary: dict[str, Any]) -> str:
    scale = summary.get('scale') or {}
    if scale.get('metres_per_unit') is None:
        return (
            'One map unit is roughly the median distance of the scene at the start, since one '
            'camera alone cannot tell metres.'
        )
    origins = {
        'fixed': 'as configured',
        'model': 'by the metric network',
        'odometry': 'by odometry',
    }
    origin = origins.get(str(scale.get('source')), '')
    return f'Lengths are in metres {origin}, with {scale["metres_per_unit"]:.4g} m per map unit.'


def _table(rows: Iterable[str], head: str = '') -> str:
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'


def _row(cells: Sequence[str], numbers: Sequence[int] = (), tag: str = 'td') -> str:
    """Return a row of a table; ``numbers``: indices of cells that are aligned as numbers."""
    kinds = (' class="number"' if i in numbers else '' for i in range(len(cells)))
    row = (f'<{tag}{kind}>{escape(text)}</{tag}>' for text, kind in zip(cells, kinds, strict=True))
    return f'<tr>{"".join(row)}</tr>'


def _timing_table(run: RunData) -> str:
    columns, numbers = ('mean', 'median', 'p95', 'max'), range(1, 5)
    titles = ('stage (ms)', 'mean', 'median', '95th percentile', 'longest')
    rows = (
        _row([stage, *(f'{times[c]:.2f}' for c in columns)], numbers)
        for stage, times in run.summary.get('timing_ms', {}).items()
    )
    return _table(rows, _row(titles, numbers, 'th'))


def _errors_table(evaluation: dict[str, Any]) -> str:
    columns = {'before corrections': evaluation['trajectory']}
    if evaluation.get('trajectory_final'):
        columns['after corrections'] = evaluation['trajectory_final']
    numbers = range(1, 1 + len(columns))
    rows = [
        _row([label, *(f'{_number(c[key], places)} {unit}' for c in columns.values())], numbers)
        for label, key, unit, places in (
            ('position error (ATE), root mean square', 'ate_rmse_m', 'm', 4),
            ('the same as a share of the path', 'ate_percent', '%', 2),
            ('largest position error', 'ate_max_m', 'm', 4),
            ('rotation error, mean, rotations aligned', 'rotation_mean_deg', 'deg', 2),
            ('error of the step between frames (RPE)', 'rpe_m', 'm', 4),
            ('rotation error of that step', 'rpe_deg', 'deg', 3),
            ('scale found', 'scale', 'm per map unit', 4),
            ('true path length', 'path_m', 'm', 2),
            ('poses compared', 'matched', '', 0),
        )
    ]
    depth = evaluation.get('depth')
    if depth:
        rows.append(
            f'<tr><td>depth of {depth["pictures"]} keyframes, median-scaled</td>'
            f'<td class="number" colspan="{len(columns)}">AbsRel {_number(depth["abs_rel"], 3)}, '
            f'within 25 %: {_number(depth["delta_125"], 3)}, '
            f'{100 * depth["coverage"]:.1f} % of the pixels</td></tr>'
        )
    notes = ''.join(f'<p class="note">{escape(n)}</p>' for n in evaluation['trajectory']['notes'])
    return _table(rows, _row(['', *columns], numbers, 'th')) + notes


def _number(value: float | None, places: int) -> str:
    return 'unknown' if value is None else f'{value:.{places}f}'


def _checks_table(run: RunData) -> str:
    return _table(
        f'<tr><td class="{"passed" if check["passed"] else "failed"}">'
        f'{"passed" if check["passed"] else "FAILED"}</td><td>{escape(check["name"])}</td>'
        f'<td>{escape(check["detail"])}</td></tr>'
        for check in run.summary['checks']
    )


def _details_tables(run: RunData) -> tuple[str, str]:
    """Return the circumstances, and the changes of state."""
    summary = run.summary
    frames, camera = summary.get('frames', {}), summary.get('camera', {})
    undistorted = camera.get('undistorted') or {}
    counts = {key: value for key, value in frames.items() if isinstance(value, int)}
    defaults = {p.name: p.default for p in parameters(R3Config())}
    config = summary.get('config', {})
    changed = [f'{name} = {v}' for name, v in config.items() if defaults.get(name) != v]
    about = {
        'source': str(summary.get('source')),
        'frames': ', '.join(f'{v} {k.replace("_", " ")}' for k, v in counts.items()),
        'left out': _counts(frames.get('rejected', {})) or 'none',
        'frames by state': _counts(frames.get('by_state', {})),
        'intrinsics (pixels)': ', '.join(f'{k} {v:.6g}' for k, v in undistorted.items()),
        'distortion undone': str(camera.get('distortion_model', 'none')),
        'machine': ', '.join(f'{v}' for v in summary.get('machine', {}).values()) + ' cores',
        'versions': ', '.join(f'{k} {v}' for k, v in summary.get('versions', {}).items()),
        'parameters not at their default': ', '.join(changed) or 'none',
    }
    circumstances = (
        f'<tr><th>{name}</th><td>{escape(text)}</td></tr>' for name, text in about.items() if text
    )
    changes = (
        _row([str(c['frame']), c['stamp'], c['state'].replace('_', ' '), c['reason']], [0])
        for c in summary.get('state_changes', [])[:_MAX_CHANGES]
    )
    head = _row(['frame', 'stamp (s)', 'state', 'reason'], [0], 'th')
    return _table(circumstances), '<h3>Changes of state</h3>' + _table(changes, head)


def _counts(counts: dict[str, Any]) -> str:
    return ', '.join(f'{name.replace("_", " ")} {value}' for name, value in counts.items())
