"""``r3 parity``: our networks against results of the official code."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
import time
from typing import Any, TextIO

from ..config import PRECISIONS

#: Of a file or more: something is not as it should be.
EXIT_FAILED = 1


def register(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'parity',
        help='compare networks and stream rules with results of the official code',
        description='Run every golden-*.npz of a folder and print the worst error of each '
        'quantity. The name of a file says which network it is about, golden-r3-large-*.npz, or '
        'golden-poses*.npz, golden-preprocess*.npz, golden-pose-resolution*.npz, '
        'golden-scale*.npz or golden-stream-trace*.npz; "eps" in the name asks for the weights '
        'with small signals. docs/parity.md says what is compared and how. Exit status: 0 if '
        'everything agrees, 1 if a file does not or cannot be run.',
    )
    parser.add_argument('folder', metavar='DIR', help='folder of golden files')
    parser.add_argument(
        '--weights',
        metavar='DIR',
        help='folder of deterministic_weights.py, which computes the weights and is RUN as part '
        'of this program: name only what you trust (default: the folder of golden files)',
    )
    parser.add_argument(
        '--precision',
        choices=PRECISIONS[1:],
        default='fp32',
        help='of the networks (default: fp32); the lower two have bounds of their own',
    )
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu', help='default: cpu')
    parser.add_argument(
        '--only', metavar='TEXT', default='', help='only files whose name contains this'
    )
    parser.add_argument('--verbose', action='store_true', help='also one line per array')
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the files and print the table."""
    from ..parity.golden import is_about_streams, short_name
    from ..parity.runner import FileResult, golden_files, Runner
    from ..parity.table import Table
    from ..parity.tolerances import NETWORK_COLUMNS, STREAM_COLUMNS

    folder = Path(args.folder)
    paths = golden_files(folder, args.only)
    runner = Runner(Path(args.weights or folder), args.precision, args.device)
    names = [short_name(path) for path in paths]
    begin = time.perf_counter()
    results: list[FileResult] = []
    for streams, table in (
        (False, Table(names, runner.bounds, NETWORK_COLUMNS)),
        (True, Table(names, runner.exact_bounds, STREAM_COLUMNS)),
    ):
        group = [path for path in paths if is_about_streams(path) is streams]
        if group:
            print(table.header(), flush=True)
        for path in group:
            with _Status(sys.stdout, short_name(path)) as status:
                results.append(runner.run(path, status.say))
            print(table.line(results[-1]))
            for line in table.details(results[-1], every=args.verbose):
                print(line)
            sys.stdout.flush()
    failed = sum(not result.passed for result in results)
    print(
        f'{len(results) - failed} passed, {failed} failed: {args.precision} on {args.device}, '
        f'{time.perf_counter() - begin:.0f} s'
    )
    return EXIT_FAILED if failed else 0


class _Status:
    """Says what is under way, on a terminal alone, and takes it back."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._shown = stream.isatty()

    def say(self, text: str) -> None:
        if self._shown:
            self._stream.write(f'\r\033[K{self._name}: {text} ...')
            self._stream.flush()

    def __enter__(self) -> _Status:
        self.say('reading')
        return self

    def __exit__(self, *error: object) -> None:
        if self._shown:
            self._stream.write('\r\033[K')
