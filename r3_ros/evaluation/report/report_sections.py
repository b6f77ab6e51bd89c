"""The sections of the report that are mostly tables."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from ...config import parameters
from ..run_evaluation import widest_plane
from .report_charts import Level, Line, line_chart, PathLine, plan, plan_box, plan_picture_size
from .run_data import RunData


def truth_section(run: RunData) -> str:
    """Return the comparison with the truth; nothing without one."""
    if run.evaluation is None or run.errors is None:
        return ''
    errors = run.errors
    truth = np.stack([errors[f'truth_{axis}'] for axis in 'xyz'], axis=1)
    estimate = np.stack([errors[f'estimate_{axis}'] for axis in 'xyz'], axis=1)
    flat = widest_plane(truth)
    centre = truth.mean(axis=0)
    paths = [
        PathLine('estimate as given out, aligned', (estimate - centre) @ flat.T, 'var(--accent)'),
        PathLine('truth', (truth - centre) @ flat.T, 'var(--truth)', dashed=True),
    ]
    width, height = plan_picture_size()
    low, high = plan_box(np.concatenate([path.points for path in paths]), width / height)
    overlay = plan(low, high, paths, 'm, in the widest plane', 'm')
    seconds = np.array([float(text) for text in errors['stamp']]) - run.stamps_ns[0] / 1e9
    chart = line_chart(
        seconds,
        [Line('', errors['error_m'])],
        'position error (m)',
        [Level('root mean square', run.evaluation['trajectory']['ate_rmse_m'])],
        width=640,
        height=460,
    )
    return (
        '<h2>Against the truth</h2><div class="two">'
        f'<section class="panel"><h3>Path</h3>{overlay}</section>'
        f'<section class="panel"><h3>Error over time</h3>{chart}</section></div>'
        f'<section class="panel" style="margin-top:16px">{_figures(run.evaluation)}</section>'
    )


def _figures(evaluation: dict[str, Any]) -> str:
    columns = [('as given out', evaluation['trajectory'])]
    if evaluation.get('trajectory_final'):
        columns.append(('after corrections', evaluation['trajectory_final']))
    rows = (
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
    head = ''.join(f'<th class="number">{title}</th>' for title, _ in columns)
    body = ''.join(
        f'<tr><td>{label}</td>'
        + ''.join(f'<td class="number">{_number(c[key], places)} {unit}</td>' for _, c in columns)
        + '</tr>'
        for label, key, unit, places in rows
    )
    depth = evaluation.get('depth')
    if depth:
        body += (
            f'<tr><td>depth of {depth["pictures"]} keyframes, median-scaled</td>'
            f'<td class="number" colspan="{len(columns)}">AbsRel {_number(depth["abs_rel"], 3)}, '
            f'within 25 %: {100 * depth["delta_125"]:.1f} %, '
            f'{100 * depth["coverage"]:.1f} % of the pixels</td></tr>'
        )
    notes = ''.join(f'<p class="note">{escape(n)}</p>' for n in evaluation['trajectory']['notes'])
    return f'<div class="scroll"><table><tr><th></th>{head}</tr>{body}</table></div>{notes}'


def _number(value: float | None, places: int) -> str:
    return 'unknown' if value is None else f'{value:.{places}f}'


def checks_section(run: RunData) -> str:
    """Return what was checked while the run was live; nothing otherwise."""
    checks = run.summary.get('checks')
    if not checks:
        return ''
    rows = ''.join(
        f'<tr><td class="{"passed" if check["passed"] else "failed"}">'
        f'{"passed" if check["passed"] else "FAILED"}</td><td>{escape(check["name"])}</td>'
        f'<td>{escape(check["detail"])}</td></tr>'
        for check in checks
    )
    return (
        '<h2>What was checked on the topics</h2><section class="panel"><div class="scroll">'
        f'<table>{rows}</table></div></section>'
    )


def details_section(run: RunData) -> str:
    """Return the tables at the end: circumstances, and changes of state."""
    summary = run.summary
    frames, camera = summary.get('frames', {}), summary.get('camera', {})
    undistorted = camera.get('undistorted') or {}
    rows = [
        ('source', str(summary.get('source'))),
        (
            'frames',
            ', '.join(
                f'{v} {k.replace("_", " ")}' for k, v in frames.items() if isinstance(v, int)
            ),
        ),
        ('left out', _counts(frames.get('rejected', {})) or 'none'),
        ('frames by state', _counts(frames.get('by_state', {}))),
        ('intrinsics (pixels)', ', '.join(f'{k} {v:.6g}' for k, v in undistorted.items())),
        ('distortion undone', str(camera.get('distortion_model', 'none'))),
        ('machine', ', '.join(f'{v}' for v in summary.get('machine', {}).values()) + ' cores'),
        ('versions', ', '.join(f'{k} {v}' for k, v in summary.get('versions', {}).items())),
        ('parameters not at their default', _changed(summary.get('config', {})) or 'none'),
    ]
    table = ''.join(f'<tr><th>{k}</th><td>{escape(v)}</td></tr>' for k, v in rows if v)
    changes = ''.join(
        f'<tr><td class="number">{change["frame"]}</td><td>{escape(change["stamp"])}</td>'
        f'<td>{escape(change["state"].replace("_", " "))}</td>'
        f'<td>{escape(change["reason"])}</td></tr>'
        for change in summary.get('state_changes', [])[:60]
    )
    return (
        f'<h2>Details</h2><section class="panel"><div class="scroll"><table>{table}</table></div>'
        '</section><section class="panel"><h3>Changes of state</h3><div class="scroll"><table>'
        '<tr><th class="number">frame</th><th>stamp (s)</th><th>state</th><th>reason</th></tr>'
        f'{changes}</table></div></section>'
    )


def _counts(counts: dict[str, Any]) -> str:
    return ', '.join(f'{name.replace("_", " ")} {value}' for name, value in counts.items())


def _changed(config: dict[str, Any]) -> str:
    defaults = {parameter.name: parameter.default for parameter in parameters()}
    return ', '.join(
        f'{name} = {value}' for name, value in config.items() if defaults.get(name) != value
    )
