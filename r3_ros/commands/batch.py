"""``r3 batch``: processes many recordings through Ray, on this machine or on a cluster."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
import os
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

from ..core.errors import ConfigError, SourceError
from .options import add_config_options, add_ray_options, config_from, ray_settings

if TYPE_CHECKING:
    from ..evaluation.batch_runs import BatchRun

EXIT_FAILED = 1


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'batch',
        help='process many recordings, also on a cluster',
        description='Run r3 run on each recording, as many at once as there are CPUs. The output '
        'folder gets NAME/ and NAME.log of each, batch.json and index.html. The same command '
        'again continues: what is done is skipped, what failed is tried again. Exit status 1: '
        'some failed.',
    )
    parser.add_argument(
        'inputs', metavar='INPUT', nargs='+',
        help='recording, as for r3 run; @FILE: a text file with one on each line, relative to it',
    )  # fmt: skip
    parser.add_argument('--output', '-o', metavar='DIR', required=True, help='folder to write')
    parser.add_argument('--camera', metavar='FILE', help='calibration of all, as for r3 run')
    add_config_options(parser)
    add_ray_options(parser, 'local')
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from ..evaluation.batch_runs import (
        BatchRun,
        BatchState,
        load_batch,
        named_runs,
        run_recording,
        save_batch,
        with_results,
    )
    from ..evaluation.ray_tasks import ray_cluster, run_tasks
    from ..evaluation.report.batch_page import write_batch_page
    from .cli import main

    config_from(args)  # a mistake is reported once, and not by each run
    folder, options = Path(os.path.abspath(args.output)), _options(args)
    earlier = load_batch(folder, options)
    found = named_runs(_inputs(args.inputs), earlier, folder)
    runs = {each.name: with_results(each, folder) for each in found}
    todo = [
        BatchRun(each.name, each.input)
        for each in runs.values()
        if each.state is not BatchState.DONE
    ]
    if len(todo) < len(runs):
        print(f'{len(runs) - len(todo)} of {len(runs)} recordings are done already: skipped')
    if todo:
        settings = ray_settings(args)
        with ray_cluster(settings):
            # The names, also for a batch that continues after a kill.
            save_batch(folder, options, list(runs.values()))
            process = partial(run_recording, folder=folder, options=options, r3=main)
            results = run_tasks(process, todo, settings, 'recordings', _line, _failed)
            try:
                with closing(results):
                    for each in results:
                        runs[each.name] = each
            except KeyboardInterrupt:
                print('interrupted; the same command again continues', file=sys.stderr)
                raise
            finally:
                save_batch(folder, options, list(runs.values()))
                write_batch_page(folder, list(runs.values()))
    page = write_batch_page(folder, list(runs.values()))
    failed = [each for each in runs.values() if each.state is BatchState.FAILED]
    print(f'{len(runs) - len(failed)} of {len(runs)} recordings are done; open {page}')
    for each in failed:
        print(f'failed: {each.name}: {each.reason}', file=sys.stderr)
    return EXIT_FAILED if failed else 0


def _inputs(texts: Sequence[str]) -> Iterator[str]:
    """Yield the recordings, with those of the files that are named with an @."""
    for text in texts:
        if not text.startswith('@'):
            yield text
            continue
        path = Path(text[1:])
        try:
            lines = path.read_text(encoding='utf-8').splitlines()
        except (OSError, ValueError) as error:
            raise SourceError(f'cannot read the list of recordings {path}: {error}') from error
        names = [line.strip() for line in lines if line.strip()]
        if not names:
            raise SourceError(f'the list of recordings {path} is empty')
        yield from (str(path.parent / name) for name in names)


def _options(args: argparse.Namespace) -> list[str]:
    """Return the options that are handed on to r3 run, with absolute paths."""
    options = [] if args.model is None else ['--model', args.model]
    for name in ('config', 'camera'):
        value = getattr(args, name)
        if value is None:
            continue
        if value != 'none' and not Path(value).is_file():
            raise ConfigError(f'--{name} {value}: there is no such file')
        options += [f'--{name}', value if value == 'none' else os.path.abspath(value)]
    return options + [part for setting in args.set for part in ('--set', setting)]


def _failed(run: BatchRun, error: Exception) -> BatchRun:
    """Return the run as failed, with the first line of the error."""
    from ..evaluation.batch_runs import BatchState

    reason = (str(error) or repr(error)).splitlines()[0]
    return replace(run, state=BatchState.FAILED, reason=reason)


def _line(run: BatchRun) -> str:
    """Return what is printed of a run that has ended."""
    parts = [] if run.frames is None else [f'{run.frames} frames']
    if run.tracked_share is not None:
        parts.append(f'{100 * run.tracked_share:.1f} % tracked')
    if run.ate_m is not None:
        parts.append(f'ATE {run.ate_m:.4f} m')
    if run.frames is not None and run.seconds is not None:
        parts.append(f'{run.seconds:.1f} s')
    if run.reason:
        parts.append(run.reason)
    return f'{run.name}: {run.state.value}: {", ".join(parts)}'
