"""``r3 batch``: processes many recordings through Ray, on this machine or on a cluster."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import closing
import os
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

from ..core.errors import ConfigError, SourceError
from .options import add_config_options, bounded, config_from

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
    ray = parser.add_argument_group('Ray')
    ray.add_argument(
        '--address', metavar='HOST:PORT', default='local',
        help='cluster, of `ray start --head` (default: this machine alone). Its nodes need this '
        'package and the same paths of inputs and output',
    )  # fmt: skip
    ray.add_argument(
        '--cpus-per-run', metavar='N', type=bounded(0.1, 1024), default=1.0,
        help='CPUs that one run takes (default: 1)',
    )  # fmt: skip
    ray.add_argument(
        '--gpus-per-run', metavar='N', type=bounded(0, 16), default=0.0,
        help='GPUs that one run takes, or the share of one, such as 0.5 (default: 0)',
    )  # fmt: skip
    ray.add_argument(
        '--retries', metavar='N', type=int, choices=range(11), default=2,
        help='how often a run is repeated whose process or machine was lost (default: 2); a '
        'recording that r3 run refuses is not repeated',
    )  # fmt: skip
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..evaluation.batch_runs import (
        BatchRun,
        BatchState,
        load_batch,
        named_runs,
        ray_cluster,
        run_batch,
        save_batch,
        with_results,
    )
    from ..evaluation.report.batch_page import write_batch_page

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
        cpus, gpus = args.cpus_per_run, args.gpus_per_run
        with ray_cluster(args.address, cpus, gpus, args.retries):
            # The names, also for a batch that continues after a kill.
            save_batch(folder, options, list(runs.values()))
            try:
                with (
                    closing(run_batch(todo, folder, options, cpus, gpus, args.retries)) as ended,
                    tqdm(total=len(todo), unit=' recordings', desc='batch') as bar,
                ):
                    for each in ended:
                        runs[each.name] = each
                        bar.write(_line(each))
                        bar.update()
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
