"""Runs ``r3 run`` on many recordings, each as a task of Ray, on this machine or on a cluster.

The folder of a batch holds for each recording ``NAME/``, the output of ``r3 run``, and
``NAME.log``, what it printed; and ``batch.json``: the options, the names, and how each recording
ended. A recording is done if and only if the summary in its folder is complete, so a batch can be
stopped at any time and continued later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass, replace
import enum
import json
import os
from pathlib import Path
import re
import socket
import time
import traceback

from ..core.errors import ConfigError, OutputError, SourceError
from ..offline.run_files import load_summary, write_json
from .run_evaluation import EVALUATION

BATCH = 'batch.json'
#: Of r3 run: the results are written, but many frames were left out.
_LEFT_OUT = 3
#: Of a run that raised what it should not have.
_CRASHED = 1


class BatchState(enum.Enum):
    """How far a recording is."""

    PENDING = 'not run'
    DONE = 'done'
    FAILED = 'failed'


@dataclass(frozen=True)
class BatchRun:
    """A recording of a batch.

    :ivar name: of its folder; ``input``: absolute path of the recording.
    :ivar reason: why it failed, or what is to be known of its result.
    :ivar exit_status: of ``r3 run``; None if it was killed, or has not ended.
    :ivar node: name of the machine.
    :ivar seconds: from the start of ``r3 run`` to its end, of the last attempt.
    :ivar frames: processed; ``tracked_share``: of them.
    :ivar ate_m: position error before corrections, root mean square, if the truth was found.
    """

    name: str
    input: str
    state: BatchState = BatchState.PENDING
    reason: str = ''
    exit_status: int | None = None
    node: str = ''
    seconds: float | None = None
    frames: int | None = None
    tracked_share: float | None = None
    ate_m: float | None = None


def named_runs(inputs: Iterable[str], earlier: Sequence[BatchRun], folder: Path) -> list[BatchRun]:
    """Return the runs of a batch: the earlier ones, then those of new inputs.

    An input that was there before keeps its name. A new one is named like its file or folder,
    without suffix and with ``_`` for anything but letters, digits and ``-``; if that name is
    taken, by another input or by something else in the folder, ``-2``, ``-3``... is added.
    """
    runs = {run.input: run for run in earlier}
    taken = {run.name for run in earlier}
    for text in inputs:
        path = Path(os.path.abspath(text))
        if str(path) in runs:
            continue
        stem = path.name if path.is_dir() else path.stem
        # Without dots no name is that of a file of the batch.
        stem = name = re.sub(r'[^\w-]+', '_', stem).strip('_') or 'recording'
        number = 1
        while name in taken or (folder / name).exists():
            number += 1
            name = f'{stem}-{number}'
        taken.add(name)
        runs[str(path)] = BatchRun(name, str(path))
    return list(runs.values())


def with_results(run: BatchRun, folder: Path) -> BatchRun:
    """Return the run as done, with its numbers, if its folder is complete; else as not done."""
    output = folder / run.name
    try:
        summary = load_summary(output)
    except SourceError:
        summary = {}
    if not summary.get('complete'):
        is_done = run.state is BatchState.DONE
        return replace(run, state=BatchState.PENDING) if is_done else run
    ate_m = None
    # There is none without a truth.
    with suppress(OSError, ValueError, KeyError):
        evaluation = json.loads((output / EVALUATION).read_text(encoding='utf-8'))
        ate_m = evaluation['trajectory']['ate_rmse_m']
    return replace(
        run,
        state=BatchState.DONE,
        frames=summary['frames']['processed'],
        tracked_share=summary['tracked_share'],
        ate_m=ate_m,
        reason=run.reason if run.state is BatchState.DONE else '',
    )


def load_batch(folder: Path, options: Sequence[str]) -> list[BatchRun]:
    """Read the runs of an earlier batch; there may be none.

    :param options: for ``r3 run``; runs of one batch share them.
    :raises ConfigError: the earlier batch had other options.
    :raises SourceError: the file is damaged.
    """
    path = folder / BATCH
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        earlier = content['options']
        runs = [BatchRun(**{**run, 'state': BatchState(run['state'])}) for run in content['runs']]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f'{path} is damaged: {error!r}; name another output folder') from error
    if earlier != list(options):
        raise ConfigError(
            f'the runs in {folder} were made with {" ".join(earlier) or "no options"}, and now '
            f'there is {" ".join(options) or "none"}: give the same options or another folder'
        )
    return runs


def save_batch(folder: Path, options: Sequence[str], runs: Sequence[BatchRun]) -> None:
    """Write ``batch.json``.

    :raises OutputError: it cannot be written.
    """
    content = [{**asdict(run), 'state': run.state.value} for run in runs]
    write_json(folder / BATCH, {'options': list(options), 'runs': content})


def run_recording(
    run: BatchRun, folder: Path, options: Sequence[str], r3: Callable[[list[str]], int]
) -> BatchRun:
    """Process one recording by ``r3 run`` in this process; what it prints goes to ``NAME.log``.

    :param folder: with the ``batch.json`` of this run.
    :param options: for ``r3 run``; ``r3``: the command, which returns its exit status.
    :raises OutputError: the folder is not on this machine.
    """
    node = socket.gethostname()
    if not (folder / BATCH).is_file():
        raise OutputError(f'{folder} is not on {node}: all nodes need the same paths')
    # An output that is there is incomplete; r3 run replaces nothing but outputs of its own.
    output = ['--output', str(folder / run.name), '--overwrite']
    log = folder / f'{run.name}.log'
    start = time.monotonic()
    with log.open('w', encoding='utf-8', buffering=1) as file:
        with redirect_stdout(file), redirect_stderr(file):
            try:
                status = r3(['run', run.input, *output, *options])
            except Exception:
                traceback.print_exc()
                status = _CRASHED
    lines = log.read_text(encoding='utf-8').split('\n')
    last = next((line.strip() for line in reversed(lines) if line.strip()), 'it printed nothing')
    reason = '' if status == 0 else last.removeprefix('r3 run: ')
    ended = replace(
        run,
        state=BatchState.DONE if status in (0, _LEFT_OUT) else BatchState.FAILED,
        reason=reason,
        exit_status=status,
        node=node,
        seconds=time.monotonic() - start,
    )
    return with_results(ended, folder)
