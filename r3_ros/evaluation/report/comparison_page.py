"""A page that compares runs: their numbers side by side, paths, errors and times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...core.atomic_files import atomic_write
from ...core.errors import SourceError
from ..figures import draw_errors, draw_paths, new_figure, PathErrors
from ..trajectory_errors import evaluate_trajectory
from .page_parts import chart, charts, note, page, panel, row, section, table, thousands
from .report_charts import WIDTH
from .run_data import load_run, RunData


class _Quantity(NamedTuple):
    """A row of the table; ``of`` raises KeyError or TypeError where a run has no value.

    :ivar best: ``min`` or ``max`` if one of the values is the best.
    """

    label: str
    of: Callable[[RunData], Any]
    form: Callable[[Any], str] = str
    best: Callable[[Iterable[float]], float] | None = None


def _evaluated(*keys: str) -> Callable[[RunData], Any]:
    return lambda run: _inside(run.evaluation, keys)


def _summed_up(*keys: str) -> Callable[[RunData], Any]:
    return lambda run: _inside(run.summary, keys)


def _inside(content: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        content = content[key]
    return content


_QUANTITIES = (
    _Quantity('recording', lambda run: run.name),
    _Quantity('predictor', _summed_up('model')),
    _Quantity('frames processed', _summed_up('frames', 'processed')),
    _Quantity('tracked (%)', _summed_up('tracked_share'), lambda v: f'{100 * v:.1f}', max),
    _Quantity('ATE (m)', _evaluated('trajectory', 'ate_rmse_m'), lambda v: f'{v:.4f}', min),
    _Quantity(
        'ATE (% of the path)', _evaluated('trajectory', 'ate_percent'), lambda v: f'{v:.2f}', min
    ),
    _Quantity(
        'ATE after corrections (m)',
        _evaluated('trajectory_final', 'ate_rmse_m'),
        lambda v: f'{v:.4f}',
        min,
    ),
    _Quantity(
        'rotation error, mean (deg)',
        _evaluated('trajectory', 'rotation_mean_deg'),
        lambda v: f'{v:.2f}',
        min,
    ),
    _Quantity(
        'poses inside 95 % (%)',
        _evaluated('covariance', 'poses', 'inside_95'),
        lambda v: f'{100 * v:.0f}',
    ),
    _Quantity(
        'steps inside 95 % (%)',
        _evaluated('covariance', 'steps', 'inside_95'),
        lambda v: f'{100 * v:.0f}',
    ),
    _Quantity('frames per second', _summed_up('fps'), lambda v: f'{v:.1f}', max),
    _Quantity(
        'engine step, p95 (ms)', _summed_up('timing_ms', 'step', 'p95'), lambda v: f'{v:.1f}', min
    ),
    _Quantity('memory, peak (MiB)', _summed_up('resident_peak_mib'), lambda v: f'{v:.0f}', min),
    _Quantity('keyframes', _summed_up('keyframes')),
    _Quantity('map points', _summed_up('map_points'), thousands),
    _Quantity('segments', _summed_up('segments')),
    _Quantity('loops closed', _summed_up('loops_closed')),
    _Quantity('path length', lambda run: f'{run.summary["path_length"]:.2f} {run.unit}'),
    _Quantity('processor', _summed_up('machine', 'cpu')),
)


def write_comparison(folders: Sequence[Path], path: Path) -> None:
    """Write a page that compares runs.

    :raises SourceError: a folder holds no run, or is named twice.
    :raises OutputError: the file cannot be written.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise SourceError('a run is named twice: name folders of different runs')
    runs = dict(zip(_names(folders), map(load_run, folders), strict=True))
    title = f'{len(runs)} runs compared'
    sections = [
        f'<header><h1>{title}</h1><p>{escape(", ".join(runs))}</p></header>',
        section('Numbers', panel(_numbers(runs)), note(_recordings_note(runs))),
        section('Changed parameters', panel(_parameters(runs))),
        section('Paths', *_paths(runs)),
        section('Time per frame and memory', _over_time(runs), panel(_stages(runs))),
    ]
    with atomic_write(path) as file:
        file.write(page(title, sections).encode('utf-8'))


def _names(folders: Sequence[Path]) -> list[str]:
    """Return as many last parts of each path as tell all apart."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(own[-count:]) for own in parts]
        if len(set(names)) == len(names):
            break
    return names


def _numbers(runs: Mapping[str, RunData]) -> str:
    rows = []
    for quantity in _QUANTITIES:
        values = [_value(quantity, run) for run in runs.values()]
        known = [value for value in values if value is not None]
        if not known:
            continue
        best = None
        comparable = _share_recording(runs) and len(known) == len(runs) and len(set(known)) > 1
        if quantity.best is not None and comparable:
            best = quantity.best(known)
        cells = []
        for value in values:
            text = '' if value is None else escape(quantity.form(value))
            is_best = best is not None and value == best
            cells.append(f'<td class="number">{f"<b>{text}</b>" if is_best else text}</td>')
        rows.append(f'<tr><td>{escape(quantity.label)}</td>{"".join(cells)}</tr>')
    return table(rows, row(['', *runs], range(1, 1 + len(runs)), 'th'))


def _share_recording(runs: Mapping[str, RunData]) -> bool:
    return len({run.summary.get('source') for run in runs.values()}) == 1


def _recordings_note(runs: Mapping[str, RunData]) -> str:
    if _share_recording(runs):
        return 'Bold: the best of a row.'
    return 'The runs are of different recordings: their numbers cannot be ranked.'


def _value(quantity: _Quantity, run: RunData) -> Any:
    """Return a value of a run; None if it has none."""
    try:
        return quantity.of(run)
    except (KeyError, TypeError):
        return None


def _parameters(runs: Mapping[str, RunData]) -> str:
    """Return the parameters that are not at their default in some run."""
    changed = sorted({name for run in runs.values() for name in run.changed_parameters()})
    if not changed:
        return note('All parameters of all runs are at their defaults.')
    values = (
        [str(run.summary['config'].get(name, '')) for run in runs.values()] for name in changed
    )
    rows = (row([name, *own]) for name, own in zip(changed, values, strict=True))
    return table(rows, row(['parameter', *runs], tag='th'))


def _paths(runs: Mapping[str, RunData]) -> list[str]:
    """Return overlaid paths: beside a truth that runs share, else beside the first run."""
    paths, reference, unit = _against_truth(runs), 'truth', 'm'
    text = 'As published, each aligned with the truth; its error is the ATE.'
    if len(paths) < len(runs):
        first = next(iter(runs))
        paths, reference, unit = _against_first(runs), first, runs[first].unit
        text = (
            f'After corrections, each aligned with {escape(first)}, in its unit: the runs share a '
            'recording, but no truth (r3 eval), so this shows how they differ, not which is right.'
        )
    if len(paths) + (reference != 'truth') < len(runs):
        return [
            note(
                'The paths are not overlaid: the runs share neither the truth (r3 eval) nor the '
                'recording, or one has no poses.'
            )
        ]
    plan, errors = new_figure(WIDTH, 4.2), new_figure(WIDTH, 4.2)
    draw_paths(plan.subplots(), paths, unit, reference)
    draw_errors(errors.subplots(), paths, unit)
    title = 'Distance from the truth' if reference == 'truth' else f'Distance from {reference}'
    widest = 'In the plane of the largest spread; the dot is the start.'
    return [
        charts(
            chart('Paths', plan, widest),
            chart(title, errors, 'Dotted, and in the legend: root mean square.'),
        ),
        note(text),
    ]


def _against_truth(runs: Mapping[str, RunData]) -> dict[str, PathErrors]:
    """Return the evaluated paths of the runs if they share a truth."""
    evaluated = {name: run for name, run in runs.items() if run.errors and run.evaluation}
    truths = {str(run.evaluation['groundtruth']) for run in evaluated.values() if run.evaluation}
    if len(truths) != 1:
        return {}
    return {
        name: PathErrors(
            *(run.errors[key] for key in ('stamps_ns', 'estimate', 'truth', 'error_m'))
        )
        for name, run in evaluated.items()
        if run.errors
    }


def _against_first(runs: Mapping[str, RunData]) -> dict[str, PathErrors]:
    """Return the paths of the other runs beside the first, if they share a recording."""
    (_, first), *others = runs.items()
    paths = {}
    for name, run in others:
        if run.summary.get('source') != first.summary.get('source'):
            continue
        if run.trajectory is not None and first.trajectory is not None:
            try:
                errors = evaluate_trajectory(run.trajectory, first.trajectory)
            except SourceError:
                continue  # too few frames have a pose in both
            paths[name] = PathErrors.of(errors)
    return paths


def _over_time(runs: Mapping[str, RunData]) -> str:
    panels = []
    for title, column, label in (
        ('Engine step', 'step_ms', 'milliseconds'),
        ('Memory of the process', 'resident_mib', 'MiB'),
    ):
        known = {name: run for name, run in runs.items() if _is_known(run.frames.get(column))}
        if not known:
            continue
        figure = new_figure(WIDTH, 3.4)
        axes = figure.subplots()
        for name, run in known.items():
            axes.plot(run.seconds, run.frames[column], lw=1.0, alpha=0.75, label=name)
        values = np.concatenate([run.frames[column] for run in known.values()])
        # Few very slow frames would flatten all others.
        top = 1.35 * float(np.nanpercentile(values, 99))
        axes.set(xlabel='time (s)', ylabel=label, ylim=(0, max(top, 1e-3)))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        panels.append(chart(title, figure))
    return charts(*panels)


def _is_known(values: Any) -> bool:
    return values is not None and bool(np.isfinite(values).any())


def _stages(runs: Mapping[str, RunData]) -> str:
    """Return mean and 95th percentile of the stages of a frame."""
    timings = [run.summary.get('timing_ms', {}) for run in runs.values()]
    rows = []
    for stage in dict.fromkeys(stage for times in timings for stage in times):
        own = (times.get(stage) for times in timings)
        cells = ('' if t is None else f'{t["mean"]:.1f} / {t["p95"]:.1f}' for t in own)
        rows.append(row([stage, *cells], range(1, 1 + len(runs))))
    head = row(['mean / p95 (ms)', *runs], range(1, 1 + len(runs)), 'th')
    return table(rows, head)
