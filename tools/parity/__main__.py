"""``python -m tools.parity FOLDER``: our networks compared with the R3 authors' code."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import math
from pathlib import Path
import sys
import time

from r3_ros.core.config import PRECISIONS
from r3_ros.core.errors import R3Error

from .comparison import ArrayResult, Bound, MEASURES, Quantity
from .golden import golden_files, is_covered, short_name
from .runner import FileResult, Runner

#: Exit status: a file failed; nothing could be run.
EXIT_FAILED, EXIT_ERROR = 1, 2
_CELL = 9
#: Narrowest and widest column of names; a longer name moves its own line alone.
_NAME_WIDTHS = 20, 24
#: Columns for the files of some networks alone, by the beginnings of their names.
_OF_SOME = {
    Quantity.POINTS: ('vggt', 'lingbot'),
    Quantity.VECTORS: ('dust3r', 'mast3r', 'reloc3r'),
}
#: Arrays that are named below the line of a file that failed.
_NAMED = 6


def main(argv: Sequence[str] | None = None) -> int:
    """Run the files, print a line for each, and return the exit status."""
    args = _parser().parse_args(argv)
    try:
        return _run(args)
    except R3Error as error:
        print(f'parity: {error}', file=sys.stderr)
        return EXIT_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m tools.parity',
        description='Run every golden-*.npz of a folder and print the worst error of each '
        'quantity. The name of a file gives its subject: a network (golden-r3-large-*.npz), '
        'golden-poses*.npz or golden-preprocess*.npz; "eps" in the name selects the weights '
        'with small signals. docs/parity.md describes the comparison. Exit status: 0 if '
        'everything agrees, 1 if a file does not or cannot be run, 2 if nothing can run.',
    )
    parser.add_argument('folder', metavar='FOLDER', type=Path, help='folder of golden files')
    parser.add_argument(
        '--weights',
        metavar='FOLDER',
        type=Path,
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
    return parser


def _run(args: argparse.Namespace) -> int:
    paths = golden_files(args.folder, args.only)
    runner = Runner(args.weights or args.folder, args.precision, args.device)
    table = _Table(paths, runner.bounds)
    covered = [path for path in paths if is_covered(path)]
    begin = time.perf_counter()
    failed = 0
    print(table.header(), flush=True)
    for path in covered:
        result = runner.run(path)
        failed += not result.passed
        print('\n'.join([table.line(result), *_details(result, args.verbose)]), flush=True)
    for path in paths:
        if path not in covered:
            print(table.not_covered(short_name(path)))
    print(
        f'{len(covered) - failed} passed, {failed} failed, {len(paths) - len(covered)} not '
        f'covered: {args.precision} on {args.device}, {time.perf_counter() - begin:.0f} s'
    )
    return EXIT_FAILED if failed else 0


class _Table:
    """Results in columns: name, verdict, seconds, then the worst of each quantity."""

    def __init__(self, paths: Sequence[Path], bounds: dict[Quantity, Bound]) -> None:
        lowest, highest = _NAME_WIDTHS
        names = [short_name(path) for path in paths]
        self._name = min(highest, max([lowest, *map(len, names)]))
        self._bounds = bounds
        absent = {q for q, of in _OF_SOME.items() if not any(n.startswith(of) for n in names)}
        self._quantities = [quantity for quantity in Quantity if quantity not in absent]

    def header(self) -> str:
        """Return the headings and bounds of the columns."""
        bounds = [self._bounds[quantity] for quantity in self._quantities]
        lines = [
            self._row('', '', '', [quantity.value for quantity in self._quantities]),
            self._row('', '', 'in', [MEASURES[quantity].value for quantity in self._quantities]),
            self._row('', '', 'allowed', [_number(bound.worst) for bound in bounds]),
        ]
        if any(math.isfinite(bound.rms) for bound in bounds):
            cells = ['-' if math.isinf(bound.rms) else _number(bound.rms) for bound in bounds]
            lines.append(self._row('', '', 'and rms', cells))
        return '\n'.join(lines)

    def line(self, result: FileResult) -> str:
        """Return the line of one file."""
        if result.problem is not None:
            return f'{result.name:<{self._name}} FAIL  {result.problem}'
        verdict = 'pass' if result.passed else 'FAIL'
        cells = [_cell(result, quantity) for quantity in self._quantities]
        return self._row(result.name, verdict, f'{result.seconds:.1f} s', cells)

    def not_covered(self, name: str) -> str:
        """Return the line of a file that is not covered."""
        return f'{name:<{self._name}} not covered: about the rules of the R3 authors for streams'

    def _row(self, name: str, verdict: str, seconds: str, cells: list[str]) -> str:
        columns = ''.join(f'{cell:>{_CELL}}' for cell in cells)
        return f'{name:<{self._name}} {verdict:<4} {seconds:>7}{columns}'.rstrip()


def _cell(result: FileResult, quantity: Quantity) -> str:
    arrays = [array for array in result.arrays if array.quantity is quantity]
    if not arrays:
        return '-'
    differences = [array.difference for array in arrays if array.difference is not None]
    worst = max((d.worst for d in differences), default=math.inf)
    text = _number(worst) if differences else '?'
    return text if all(array.passed for array in arrays) else f'{text}!'


def _details(result: FileResult, every: bool) -> list[str]:
    """Return lines about single arrays: about all, or about the worst of those that failed."""
    if every:
        return [_array_line(array) for array in result.arrays]
    failed = [array for array in result.arrays if not array.passed]
    failed.sort(key=lambda array: array.load, reverse=True)
    lines = [_array_line(array) for array in failed[:_NAMED]]
    if len(failed) > _NAMED:
        lines.append(f'    and {len(failed) - _NAMED} more: --verbose')
    return lines


def _array_line(array: ArrayResult) -> str:
    if array.difference is None or array.bound is None:
        return f'    {array.name}: {array.problem}'
    d, bound = array.difference, array.bound
    text = f'    {array.name:<28} {_number(d.worst):>7} of {_number(bound.worst)}'
    if math.isfinite(bound.rms):
        text += f', rms {_number(d.rms):>7} of {_number(bound.rms)}'
    if d.where:
        text += f'  at {list(d.where)}'
    if any(step != 1 for step in d.steps):
        text += f' of [{", ".join(f"::{step}" if step != 1 else ":" for step in d.steps)}]'
    return text if array.passed else f'{text}  FAIL'


def _number(value: float) -> str:
    """Return two digits: 7.1e-6, 0.12, 0."""
    if math.isinf(value):
        return 'inf'
    if value == 0 or 0.01 <= value < 100:
        return f'{value:.2g}'
    digits, _, exponent = f'{value:.1e}'.partition('e')
    return f'{digits.removesuffix(".0")}e{int(exponent)}'


if __name__ == '__main__':
    sys.exit(main())
