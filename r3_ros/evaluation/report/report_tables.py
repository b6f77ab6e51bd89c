"""The tables of the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from ...core.config import R3Config
from ...core.parameter_fields import parameters
from .run_data import RunData

_NUMBER = ' class="number"'
#: Largest number of changes of state that are listed.
_MAX_CHANGES = 60


def _table(rows: Iterable[str], head: str = '') -> str:
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'


def _row(cells: Sequence[str], numbers: Sequence[int] = (), tag: str = 'td') -> str:
    """Return a row of a table; ``numbers``: indices of cells that are aligned as numbers."""
    kinds = (_NUMBER if i in numbers else '' for i in range(len(cells)))
    row = (f'<{tag}{kind}>{escape(text)}</{tag}>' for text, kind in zip(cells, kinds, strict=True))
    return f'<tr>{"".join(row)}</tr>'


def timing_table(run: RunData) -> str:
    """Return the times of each stage of a frame."""
    columns, numbers = ('mean', 'median', 'p95', 'max'), range(1, 5)
    titles = ('stage (ms)', 'mean', 'median', '95th percentile', 'longest')
    rows = (
        _row([stage, *(f'{times[c]:.2f}' for c in columns)], numbers)
        for stage, times in run.summary.get('timing_ms', {}).items()
    )
    return _table(rows, _row(titles, numbers, 'th'))


def errors_table(evaluation: dict[str, Any]) -> str:
    """Return the errors against the truth, before and after corrections."""
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


def checks_table(run: RunData) -> str:
    """Return the results of the checks of a live run."""
    return _table(
        f'<tr><td class="{"passed" if check["passed"] else "failed"}">'
        f'{"passed" if check["passed"] else "FAILED"}</td><td>{escape(check["name"])}</td>'
        f'<td>{escape(check["detail"])}</td></tr>'
        for check in run.summary['checks']
    )


def details_tables(run: RunData) -> tuple[str, str]:
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
