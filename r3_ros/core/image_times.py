"""Times of images: in lists beside them, and in their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import re

import numpy as np

from .errors import SourceError
from .trajectory_file import NANOSECONDS, parse_stamp

#: Nanoseconds of the units in which integers count.
_UNITS_NS = (1, 1_000, 1_000_000, NANOSECONDS)
#: Times since 1970 in nanoseconds, from 1985 to 2128: in these years the units do not overlap.
_EPOCH_NS = (5 * 10**17, 5 * 10**18)
#: Images are not further apart than an hour.
_LONGEST_STEP_NS = 3600 * NANOSECONDS
#: Median steps of integers that do not count from 1970: from 10 ms on in nanoseconds; from 10 ms
#: to 1 s in microseconds. Smaller steps may be those of frame numbers.
_LEAST_STEP_NS, _STEPS_US = 1e7, (1e4, 1e6)
#: Seconds and nanoseconds as two numbers, or the last number.
_TIME_IN_NAME = re.compile(r'(\d{10})[._-](\d{9})(?!\d)|(\d+\.\d+|\d+)(?!.*\d)')
_DATE = re.compile(r'\d{4}-\d\d-\d\d[ T]\d\d:')


def read_times(path: Path) -> tuple[list[int], list[str]]:
    """Return the nanoseconds of a list of times and, where it has them, the names of the images.

    A line is a time; a time and a file name, separated by a space or a comma; the number of an
    image and its time, with more numbers behind it (TUM mono); or a date and a time of day (KITTI
    raw). Times are seconds, or integers in ns, us or ms.

    :raises SourceError: unreadable, a line without a time, or names on some lines only.
    """
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f'cannot read {path}: {error}') from error
    times: list[str] = []
    names: list[str] = []
    for number, line in enumerate(lines, start=1):
        time, name = _split(line.strip())
        if not time or time.startswith('#') or (number == 1 and ',' in line and time.isalpha()):
            continue  # blank, a comment, or the header of a table
        try:
            if not time.isdigit():
                parse_stamp(time)
        except ValueError as error:
            raise SourceError(f'{path}, line {number}: {error}') from error
        times.append(time)
        names.extend(filter(None, [name]))
    if names and len(names) != len(times):
        raise SourceError(f'{path}: some lines name an image and some do not')
    try:
        return stamps_of(times) or [parse_stamp(time) for time in times], names
    except ValueError as error:
        raise SourceError(f'{path}: {error}') from error


def _split(line: str) -> tuple[str, str]:
    """Return the time and the name in a line, each empty if there is none."""
    if _DATE.match(line):
        return str(np.datetime64(line.replace(' ', 'T'), 'ns').astype(np.int64)), ''
    if ',' in line:
        first, second, *_ = (*(field.strip() for field in line.split(',')), '')
        return first, second
    first, second, *_ = (*line.split(maxsplit=1), '', '')
    number = second.split()[0] if second else ''
    if first.isdigit() and re.fullmatch(r'\d+(\.\d+)?', number):
        return number, first
    return first, second


def times_in_names(names: Sequence[str]) -> list[int] | None:
    """Return the nanoseconds that file names (without suffix) say; None if they are no times.

    A name that is a number alone is a time if it has decimals or counts in steps of a clock;
    others only if they count from 1970.
    """
    matches = [match for match in map(_TIME_IN_NAME.search, names) if match]
    if not names or len(matches) != len(names):
        return None
    try:
        stamps = stamps_of(['.'.join(filter(None, match.groups())) for match in matches])
    except ValueError:  # longer numbers than those of times
        return None
    if stamps is None or len(set(stamps)) != len(stamps):
        return None
    is_bare = all(len(match[0]) == len(match.string) for match in matches)
    return stamps if is_bare or _EPOCH_NS[0] <= min(stamps) else None


def stamps_of(texts: Sequence[str]) -> list[int] | None:
    """Return the nanoseconds of numbers; None for integers whose unit is not clear.

    :raises ValueError: one is no number, or too large.
    """
    if not all(text.isdigit() for text in texts):
        return [parse_stamp(text) for text in texts]
    values = [int(text) for text in texts]
    unit = _unit_ns(values) if values else None
    if unit is None:
        return None
    if max(values) * unit > _EPOCH_NS[1]:
        raise ValueError(f'{max(values)} is too large for a time')
    return [value * unit for value in values]


def _unit_ns(values: Sequence[int]) -> int | None:
    """Return the nanoseconds of the unit of times, judged by their size and their steps."""
    largest, steps = max(values), [b - a for a, b in zip(values, values[1:], strict=False)]
    step = sorted(map(abs, steps))[len(steps) // 2] if steps else 0
    for unit in _UNITS_NS:
        if _EPOCH_NS[0] <= largest * unit <= _EPOCH_NS[1] and step * unit <= _LONGEST_STEP_NS:
            return unit
    if step >= _LEAST_STEP_NS:
        return 1
    return 1_000 if _STEPS_US[0] <= step <= _STEPS_US[1] else None
