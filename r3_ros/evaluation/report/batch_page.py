"""A page with the runs of a batch: numbers, what failed, and a table with links to reports."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import median

from ...core.atomic_files import atomic_write
from ...offline.run_files import REPORT
from ..batch_runs import BatchRun, BatchState
from .page_parts import note, page, panel, row, section, table, thousands, tiles

_PAGE = 'index.html'
_HEAD = ('recording', 'state', 'frames', 'tracked (%)', 'ATE (m)', 'seconds', 'machine')
_NUMBERS = range(2, 6)
#: Colours of the style sheet.
_KINDS = {BatchState.DONE: 'passed', BatchState.FAILED: 'failed', BatchState.PENDING: ''}


def write_batch_page(folder: Path, runs: Sequence[BatchRun]) -> Path:
    """Write the page of a folder of runs; return its path.

    :raises OutputError: it cannot be written.
    """
    title = f'{len(runs)} recordings'
    sections = [
        f'<header><h1>{title}</h1><p>processed by <code>r3 batch</code></p></header>',
        tiles(_totals(runs)),
    ]
    remarks = sorted((r for r in runs if r.reason), key=lambda r: r.state is BatchState.DONE)
    if remarks:
        rows = (_remark(run, folder) for run in remarks)
        head = row(['recording, log', 'state', 'reason', 'input'], tag='th')
        advice = note('Failed recordings are tried again by the same command.')
        sections.append(section('Failures and warnings', panel(table(rows, head)), advice))
    sections.append(section('Runs', panel(table(map(_row, runs), row(_HEAD, _NUMBERS, 'th')))))
    path = folder / _PAGE
    with atomic_write(path) as file:
        file.write(page(title, sections).encode('utf-8'))
    return path


def _totals(runs: Sequence[BatchRun]) -> list[tuple[str, str, str]]:
    counts = {state: sum(run.state is state for run in runs) for state in BatchState}
    done, failed, pending = (
        counts[state] for state in (BatchState.DONE, BatchState.FAILED, BatchState.PENDING)
    )
    values = [(str(done), 'done', 'good' if done == len(runs) else '')]
    values += [(str(failed), 'failed', 'bad')] if failed else []
    values += [(str(pending), 'not run', '')] if pending else []
    tracked = [
        (run.frames, run.tracked_share)
        for run in runs
        if run.frames is not None and run.tracked_share is not None
    ]
    if tracked:
        frames = sum(count for count, _ in tracked)
        share = sum(count * share for count, share in tracked) / max(frames, 1)
        values.append((thousands(frames), 'frames', ''))
        values.append((f'{100 * share:.1f}<small> %</small>', 'of the frames tracked', ''))
    errors_m = [run.ate_m for run in runs if run.ate_m is not None]
    if errors_m:
        text = f'median ATE of {len(errors_m)} recordings with a truth'
        values.append((f'{median(errors_m):.3f}<small> m</small>', text, ''))
    return values


def _row(run: BatchRun) -> str:
    is_done = run.state is BatchState.DONE
    name = _link(run.name, f'{run.name}/{REPORT}') if is_done else escape(run.name)
    values = (
        '' if run.frames is None else str(run.frames),
        '' if run.tracked_share is None else f'{100 * run.tracked_share:.1f}',
        '' if run.ate_m is None else f'{run.ate_m:.4f}',
        '' if run.seconds is None else f'{run.seconds:.1f}',
    )
    cells = ''.join(f'<td class="number">{value}</td>' for value in values)
    return f'<tr><td>{name}</td>{_state(run)}{cells}<td>{escape(run.node)}</td></tr>'


def _remark(run: BatchRun, folder: Path) -> str:
    log = f'{run.name}.log'
    # There is none if the machine was lost before it began.
    name = _link(run.name, log) if (folder / log).is_file() else escape(run.name)
    texts = ''.join(f'<td class="path">{escape(text)}</td>' for text in (run.reason, run.input))
    return f'<tr><td>{name}</td>{_state(run)}{texts}</tr>'


def _state(run: BatchRun) -> str:
    return f'<td class="{_KINDS[run.state]}">{run.state.value}</td>'


def _link(text: str, target: str) -> str:
    return f'<a href="{escape(target)}">{escape(text)}</a>'
