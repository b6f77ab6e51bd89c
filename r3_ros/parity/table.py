"""The results of golden files as a table: one line each."""

from __future__ import annotations

from collections.abc import Iterable
import math

from .comparison import ArrayResult
from .runner import FileResult
from .tolerances import Bound, MEASURES, NETWORK_COLUMNS, Quantity

_CELL = 9
#: Narrowest and widest column of names; a longer name moves its own line alone.
_NAME_WIDTHS = 20, 24
#: Arrays that are named below the line of a file that failed.
_NAMED = 6


class Table:
    """Formats results in columns: name, verdict, seconds, then the worst of each quantity."""

    def __init__(
        self,
        names: Iterable[str],
        bounds: dict[Quantity, Bound],
        columns: tuple[Quantity, ...] = NETWORK_COLUMNS,
    ) -> None:
        """Prepare for files of these names."""
        lowest, highest = _NAME_WIDTHS
        self._name = min(highest, max([lowest, *map(len, names)]))
        self._columns = columns
        self._bounds = {quantity: bounds[quantity] for quantity in columns}

    def header(self) -> str:
        """Return the lines that say what the columns are, and what is allowed in them."""
        quantities = self._columns
        lines = [
            self._row('', '', '', [quantity.value for quantity in quantities]),
            self._row('', '', 'in', [MEASURES[quantity].value for quantity in quantities]),
            self._row('', '', 'allowed', [_number(self._bounds[q].worst) for q in quantities]),
        ]
        if any(math.isfinite(bound.rms) for bound in self._bounds.values()):
            bounds = [self._bounds[q].rms for q in quantities]
            cells = ['-' if math.isinf(bound) else _number(bound) for bound in bounds]
            lines.append(self._row('', '', 'and rms', cells))
        return '\n'.join(lines)

    def line(self, result: FileResult) -> str:
        """Return the line of one file."""
        if result.problem is not None:
            return f'{result.name:<{self._name}} FAIL  {result.problem}'
        verdict = 'pass' if result.passed else 'FAIL'
        cells = [self._cell(result, quantity) for quantity in self._columns]
        return self._row(result.name, verdict, f'{result.seconds:.1f} s', cells)

    def details(self, result: FileResult, every: bool = False) -> list[str]:
        """Return lines about single arrays of a file.

        :param every: about all of them; else about the worst of those that failed.
        """
        failed = sorted(
            (array for array in result.arrays if not array.passed),
            key=lambda array: array.load,
            reverse=True,
        )
        if every:
            return [_array_line(array) for array in result.arrays]
        lines = [_array_line(array) for array in failed[:_NAMED]]
        if len(failed) > _NAMED:
            lines.append(f'    and {len(failed) - _NAMED} more: --verbose')
        return lines

    def _row(self, name: str, verdict: str, seconds: str, cells: list[str]) -> str:
        columns = ''.join(f'{cell:>{_CELL}}' for cell in cells)
        return f'{name:<{self._name}} {verdict:<4} {seconds:>7}{columns}'.rstrip()

    @staticmethod
    def _cell(result: FileResult, quantity: Quantity) -> str:
        arrays = [array for array in result.arrays if array.quantity is quantity]
        if not arrays:
            return '-'
        differences = [array.difference for array in arrays if array.difference is not None]
        worst = max((d.worst for d in differences), default=math.inf)
        text = _number(worst) if differences else '?'
        return text if all(array.passed for array in arrays) else f'{text}!'


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
