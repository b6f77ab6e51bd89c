"""Trajectory files in the TUM format, with stamps exact to the nanosecond.

A line is ``timestamp tx ty tz qx qy qz qw``, camera-to-world, seconds. Stamps are handled as
integers: a double cannot hold today's time to the nanosecond.
"""

from __future__ import annotations

from dataclasses import dataclass
import decimal
from pathlib import Path

import numpy as np

from .atomic_files import atomic_write
from .errors import SourceError, TransformError
from .geometry import quat_xyzw, T_from_quat

NANOSECONDS = 1_000_000_000
_LARGEST_NS = 2**63 - 1


@dataclass(frozen=True, eq=False)
class PoseList:
    """Poses in order of time: (N,) int64 stamps, strictly increasing, and (N, 4, 4) float64.

    :ivar notes: what was left out or changed when they were read, for the user.
    """

    stamps_ns: np.ndarray
    T_world_camera: np.ndarray
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.stamps_ns)


def parse_stamp(text: str) -> int:
    """Return the nanoseconds of a time in seconds, written as a decimal number.

    :raises ValueError: not a finite number, or beyond 64 bits of nanoseconds.
    """
    try:
        nanoseconds = int((decimal.Decimal(text) * NANOSECONDS).to_integral_value())
    except (decimal.DecimalException, OverflowError, ValueError) as error:
        raise ValueError(f'{text!r} is not a time in seconds') from error
    if abs(nanoseconds) > _LARGEST_NS:
        raise ValueError(
            f'{text!r} is not a time in seconds: it is too large (divide nanoseconds by 1e9)'
        )
    return nanoseconds


def stamp_text(stamp_ns: int) -> str:
    """Return a stamp in seconds with all nine decimals."""
    sign = '-' if stamp_ns < 0 else ''
    seconds, rest = divmod(abs(int(stamp_ns)), NANOSECONDS)
    return f'{sign}{seconds}.{rest:09d}'


def write_tum(
    path: Path | str, stamps_ns: np.ndarray, T_world_camera: np.ndarray, overwrite: bool = True
) -> None:
    """Write (N, 4, 4) poses with (N,) int64 stamps as a TUM file.

    :raises OutputError: the file exists (without ``overwrite``), or cannot be written.
    :raises TransformError: a pose is not finite.
    """
    if not np.isfinite(T_world_camera).all():
        raise TransformError('a trajectory to be written has a pose that is not finite')
    lines = ['# timestamp tx ty tz qx qy qz qw']
    if len(stamps_ns):
        rows = np.concatenate([T_world_camera[:, :3, 3], quat_xyzw(T_world_camera)], axis=1)
        for stamp_ns, row in zip(stamps_ns, rows, strict=True):
            lines.append(stamp_text(stamp_ns) + ''.join(f' {value:.9f}' for value in row))
    with atomic_write(path, overwrite) as file:
        file.write(('\n'.join(lines) + '\n').encode('ascii'))


def read_tum(path: Path | str) -> PoseList:
    """Read a TUM file; lines that begin with ``#`` are comments.

    Of poses with one stamp the first counts; the notes of the list say so.

    :raises SourceError: unreadable, empty, a line that is not a pose, or stamps out of order.
    """
    try:
        text = Path(path).read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f'cannot read the trajectory {path}: {error}') from error
    return parse_tum(text, str(path))


def parse_tum(text: str, path: str) -> PoseList:
    """Return the poses of a TUM file's content.

    :param path: of the file, for error messages.
    :raises SourceError: empty, a line that is not a pose, or stamps out of order.
    """
    lines = text.splitlines()
    stamps: list[int] = []
    rows: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        fields = line.replace(',', ' ').split()
        if not fields or fields[0].startswith('#'):
            continue
        try:
            stamp_ns, values = parse_stamp(fields[0]), [float(field) for field in fields[1:]]
        except ValueError as error:
            raise SourceError(f'{path}, line {number}: {error}') from error
        if len(values) != 7:
            raise SourceError(
                f'{path}, line {number}: expected "timestamp tx ty tz qx qy qz qw", '
                f'found {len(fields)} fields'
            )
        stamps.append(stamp_ns)
        rows.append(values)
    if not rows:
        raise SourceError(f'{path} holds no poses')
    poses = np.array(rows)
    try:
        T = T_from_quat(poses[:, :3], poses[:, 3:])
    except TransformError:
        raise SourceError(f'{path} holds a pose that is not finite or has no rotation') from None
    return poses_in_time(np.array(stamps, dtype=np.int64), T, path)


def poses_in_time(stamps_ns: np.ndarray, T_world_camera: np.ndarray, path: str) -> PoseList:
    """Return (N, 4, 4) poses with (N,) int64 stamps; of those with one stamp the first.

    :param path: of their file, for messages.
    :raises SourceError: a stamp is before the one above it.
    """
    steps = np.diff(stamps_ns)
    if (steps < 0).any():
        number = int(np.flatnonzero(steps < 0)[0]) + 2
        raise SourceError(f'{path}: pose {number} is earlier than the one before, sort the file')
    is_first = np.concatenate([[True], steps > 0])
    repeated = int((~is_first).sum())
    note = f'{path}: {repeated} poses repeat the stamp of the one before and were left out'
    notes = (note,) if repeated else ()
    return PoseList(stamps_ns[is_first], T_world_camera[is_first], notes)
