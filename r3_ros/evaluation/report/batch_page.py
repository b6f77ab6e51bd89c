"""A page with the runs of a batch: a table with links to their reports, and what failed."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from ...core.atomic_files import atomic_write
from ...offline.run_files import REPORT
from ..batch_runs import BatchRun, BatchState
from .page_parts import note, page, panel, row, section, table

_PAGE = 'index.html'
_HEAD = ('recording', 'state', 'frames', 'tracked (%)', 'ATE (m)', 'seconds')
_NUMBERS = range(2, len(_HEAD))


def write_batch_page(folder: Path, runs: Sequence[BatchRun]) -> Path:
    """Write the page of a folder of runs; return its path.

    :raises OutputError: it cannot be written.
    """
    counts = {state: sum(run.state is state for run in runs) for state in BatchState}
    text = ', '.join(f'{count} {state.value}' for state, count in counts.items() if count)
    title = f'{len(runs)} recordings'
    sections = [
        f'<header><h1>{title}</h1><p>{text}</p></header>',
        section('Runs', panel(table(map(_row, runs), row(_HEAD, _NUMBERS, 'th')))),
    ]
    remarks = [run for run in runs if run.reason]
    if remarks:
        rows = (_remark(run, folder) for run in remarks)
        head = row(['recording, log', 'state', 'reason', 'input'], tag='th')
        advice = note('Failed recordings are tried again by the same command.')
        sections.append(section('Failures and warnings', panel(table(rows, head)), advice))
    path = folder / _PAGE
    with atomic_write(path) as file:
        file.write(page(title, sections).encode('utf-8'))
    return path


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
    return f'<tr><td>{name}</td><td>{run.state.value}</td>{cells}</tr>'


def _remark(run: BatchRun, folder: Path) -> str:
    log = f'{run.name}.log'
    # There is none if the machine was lost before it began.
    name = _link(run.name, log) if (folder / log).is_file() else escape(run.name)
    texts = (run.state.value, run.reason, run.input)
    return f'<tr><td>{name}</td>{"".join(f"<td>{escape(text)}</td>" for text in texts)}</tr>'


def _link(text: str, target: str) -> str:
    return f'<a href="{escape(target)}">{escape(text)}</a>'
