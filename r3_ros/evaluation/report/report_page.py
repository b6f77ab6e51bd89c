"""The report: one self-contained HTML page."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ...core.atomic_files import atomic_write
from ...core.trajectory_file import NANOSECONDS, parse_stamp
from ...offline.run_files import REPORT
from .page_parts import (
    charts,
    embedded,
    note,
    number,
    page,
    panel,
    row,
    section,
    table,
    thousands,
    tiles,
)
from .report_charts import (
    bounds_chart,
    confidence_chart,
    coverage_chart,
    depth_samples,
    error_chart,
    map_views,
    memory_chart,
    plans,
    sigma_chart,
    timing_chart,
    truth_plan,
)
from .run_data import load_run, RunData

_EVENT_TITLES = {
    'start': 'Not tracked at the start',
    'lost': 'Lost',
    'gap': 'Lost after a gap in the images',
    'segment': 'New segment',
    'joined': 'Joined',
    'loop': 'Loop closed',
    'correction': 'Large correction',
}


def write_report(folder: Path, path: Path | None = None) -> None:
    """Write the report of a run from its other files.

    :param path: None: ``report.html`` in the folder.
    :raises SourceError: the folder holds no run.
    :raises OutputError: the file cannot be written.
    """
    text = _page(load_run(folder))
    with atomic_write(path or folder / REPORT) as file:
        file.write(text.encode('utf-8'))


def _page(run: RunData) -> str:
    sections = [
        _header(run),
        _tiles(run),
        _warnings(run),
        *_truth(run),
        *_trajectory(run),
        *_events(run),
        *_map(run),
    ]
    if run.samples:
        text = 'Image, depth and confidence of some keyframes; grey: no depth.'
        sections.append(section('Depth', depth_samples(run), note(text)))
    # With a truth, the same bounds stand beside the errors.
    sigmas = '' if run.evaluation is not None else sigma_chart(run)
    over_time = confidence_chart(run), timing_chart(run), memory_chart(run), sigmas
    sections.append(section('Over time', charts(*over_time), panel(_timing_table(run))))
    if run.summary.get('checks'):
        sections.append(section('What was checked on the topics', panel(_checks_table(run))))
    sections.append(section('Details', panel(_details_table(run))))
    return page(run.name, sections)


def _header(run: RunData) -> str:
    summary = run.summary
    partial = '' if summary.get('complete', True) else ' <b>- interrupted, partial result</b>'
    offline = summary.get('offline') or {}
    length = f'{len(run.stamps_ns)} frames over {run.seconds[-1]:.1f} s'
    if offline.get('pictures') is not None:
        length = f'{len(run.stamps_ns)} images without times'
    how = f', offline in {offline["windows"]} windows' if offline else ''
    return (
        f'<header><h1>{escape(run.name)}{partial}</h1><p>{length}, predictor '
        f'<code>{escape(str(summary.get("model")))}</code>{how}, '
        f'r3_ros {escape(str(summary.get("versions", {}).get("r3_ros", "")))}</p></header>'
    )


def _tiles(run: RunData) -> str:
    summary = run.summary
    share = 100 * (summary.get('tracked_share') or 0.0)
    mood = 'good' if share >= 95 else 'bad' if share < 80 else ''
    values = [
        (f'{share:.1f}<small> %</small>', 'of the frames tracked', mood),
        (f'{summary.get("fps") or 0:.1f}', 'frames per second, all included', ''),
    ]
    if run.evaluation is not None:
        errors = run.evaluation['trajectory']
        degrees = f'{errors["rotation_mean_deg"]:.2f}<small> deg</small>'
        values += [(*_position_error(errors), ''), (degrees, 'mean rotation error', '')]
    latency = summary.get('timing_ms', {}).get('latency')
    if latency:
        values.append((f'{latency["p95"]:.0f}<small> ms</small>', 'latency, 95th percentile', ''))
    values += [
        (f'{summary.get("path_length") or 0:.2f}', f'{run.unit} of path', ''),
        (str(summary.get('keyframes', 0)), 'keyframes', ''),
        (thousands(summary.get('map_points') or 0), 'map points', ''),
    ]
    if summary.get('resident_peak_mib'):
        memory = f'{summary["resident_peak_mib"]:.0f}<small> MiB</small>'
        values.append((memory, 'memory of the process, at most', ''))
    return tiles(values)


def _position_error(errors: dict[str, Any]) -> tuple[str, str]:
    how = {'sim3': 'aligned with scale', 'se3': 'aligned without scale'}[errors['alignment']]
    name = f'position error (ATE), {how}'
    if errors['ate_percent'] is None:  # the true camera stands: there is no path
        return f'{errors["ate_rmse_m"]:.3f}<small> m</small>', name
    return f'{errors["ate_percent"]:.2f}<small> %</small>', f'of the path: {name}'


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
    readout_s = camera.get('readout_time_measured_s', 0.0)
    if readout_s:
        warnings.append(
            f'The camera has a rolling shutter: rows take about {1e3 * readout_s:.0f} ms. Images '
            'are corrected since this was certain; from the first one on with '
            f'--set input.readout_time={readout_s:.3f}.'
        )
    warnings += run.summary.get('warnings', [])
    items = ''.join(f'<li>{escape(warning)}</li>' for warning in warnings)
    return f'<ul class="warnings">{items}</ul>' if items else ''


def _truth(run: RunData) -> list[str]:
    if run.evaluation is None:
        return []
    figures = truth_plan(run), error_chart(run), bounds_chart(run), coverage_chart(run)
    table_panel = panel(_errors_table(run.evaluation))
    return [section('Against the truth', charts(*figures), table_panel)]


def _events(run: RunData) -> list[str]:
    """Return the section of what happened; none without events."""
    events = run.summary.get('events', [])
    cards = ''.join(_event(run, event) for event in events)
    left_out = run.summary.get('events_left_out')
    text = f'{left_out} events of fewer frames are left out.' if left_out else ''
    return [section('Events', f'<div class="events">{cards}</div>', note(text))] if events else []


def _event(run: RunData, event: dict[str, Any]) -> str:
    at_s = (parse_stamp(event['stamp']) - int(run.stamps_ns[0])) / NANOSECONDS
    lasting = ''
    if event['duration_s'] or event['until_end']:
        end = ', until the end' if event['until_end'] else f' ({event["duration_s"]:.1f} s)'
        frames = 'one frame' if event['frames'] == 1 else f'{event["frames"]} frames'
        lasting = f' for {frames}{end}'
    image = run.moments.get(event['frame'])
    shown = embedded(image, f'frame {event["frame"]}', 'jpeg') if image else ''
    what, title = escape(event['what']), _EVENT_TITLES.get(event['kind'], event['kind'])
    return (
        f'<section class="panel event">{shown}<div><b>{escape(title)}{lasting}</b> '
        f'<small>at {at_s:.1f} s, frame {event["frame"]}</small>'
        f'<p>{what[:1].upper()}{what[1:]}.</p>{note(escape(event["advice"]))}</div></section>'
    )


def _trajectory(run: RunData) -> list[str]:
    """Return the section of the trajectory; none without poses."""
    scene = run.scene
    if scene is None or run.trajectory is None:
        return []
    keyframe_stamps = run.stamps_ns[np.asarray(run.frames['keyframe']) > 0]
    keyframes = np.flatnonzero(np.isin(run.trajectory.stamps_ns, keyframe_stamps))
    text = (
        'After all corrections, turned level by the mean upward direction of the camera; dots are '
        f'keyframes. {_unit_note(run.summary)}'
    )
    return [section('Trajectory', plans(scene, run.unit, keyframes), note(text))]


def _map(run: RunData) -> list[str]:
    """Return the section of the map; none without poses."""
    scene = run.scene
    if scene is None:
        return []
    if not len(run.cloud):
        return [section('Map', note('The map is empty: no depth was found.'))]
    shown = '' if len(scene.cloud) == len(run.cloud) else f'{thousands(len(scene.cloud))} of '
    text = (
        f'{shown}{thousands(len(run.cloud))} points. All are in <code>map.ply</code>, for any '
        'viewer of point clouds.'
    )
    return [section('Map', map_views(scene), note(text))]


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


def _timing_table(run: RunData) -> str:
    columns, numbers = ('mean', 'median', 'p95', 'max'), range(1, 5)
    titles = ('stage (ms)', 'mean', 'median', '95th percentile', 'longest')
    rows = (
        row([stage, *(f'{times[c]:.2f}' for c in columns)], numbers)
        for stage, times in run.summary.get('timing_ms', {}).items()
    )
    return table(rows, row(titles, numbers, 'th'))


def _errors_table(evaluation: dict[str, Any]) -> str:
    columns = {'before corrections': evaluation['trajectory']}
    if evaluation.get('trajectory_final'):
        columns['after corrections'] = evaluation['trajectory_final']
    numbers = range(1, 1 + len(columns))
    rows = [
        row([label, *(f'{number(c[key], places)} {unit}' for c in columns.values())], numbers)
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
    for name, covered in (evaluation.get('covariance') or {}).items():
        if covered:
            rows.append(
                f'<tr><td>{name} inside their 95 % ellipsoids</td>'
                f'<td class="number" colspan="{len(columns)}">'
                f'{100 * covered["inside_95"]:.1f} % of {covered["count"]}; NEES / 6: median '
                f'{number(covered["nees_median"], 2)}, mean {number(covered["nees_mean"], 2)}'
                '</td></tr>'
            )
    depth = evaluation.get('depth')
    if depth:
        rows.append(
            f'<tr><td>depth of {depth["pictures"]} keyframes, median-scaled</td>'
            f'<td class="number" colspan="{len(columns)}">AbsRel {number(depth["abs_rel"], 3)}, '
            f'within 25 %: {number(depth["delta_125"], 3)}, '
            f'{100 * depth["coverage"]:.1f} % of the pixels</td></tr>'
        )
    notes = ''.join(note(escape(text)) for text in evaluation['trajectory']['notes'])
    return table(rows, row(['', *columns], numbers, 'th')) + notes


def _checks_table(run: RunData) -> str:
    return table(
        f'<tr><td class="{"passed" if check["passed"] else "failed"}">'
        f'{"passed" if check["passed"] else "FAILED"}</td><td>{escape(check["name"])}</td>'
        f'<td>{escape(check["detail"])}</td></tr>'
        for check in run.summary['checks']
    )


def _details_table(run: RunData) -> str:
    summary = run.summary
    frames, camera = summary.get('frames', {}), summary.get('camera', {})
    undistorted = camera.get('undistorted') or {}
    counts = {key: value for key, value in frames.items() if isinstance(value, int)}
    changed = [f'{name} = {value}' for name, value in run.changed_parameters().items()]
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
    return table(
        f'<tr><th>{name}</th><td>{escape(text)}</td></tr>' for name, text in about.items() if text
    )


def _counts(counts: dict[str, Any]) -> str:
    return ', '.join(f'{name.replace("_", " ")} {value}' for name, value in counts.items())
