"""True trajectories as data sets have them: TUM, KITTI, EuRoC, and a matrix for each pose.

``evo`` reads them, too, but with stamps as doubles and KITTI's poses without times; a test
compares. Poses are returned as the file has them: those of EuRoC are of the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from .errors import SourceError, TransformError
from .geometry import is_rigid, T_from_quat
from .image_times import read_times
from .trajectory_file import parse_tum, PoseList, poses_in_time

#: Numbers of a 3x4 or 4x4 matrix, row by row.
_MATRIX_SIZES = (12, 16)
#: Least digits of a time since 1970 in nanoseconds.
_NS_DIGITS = 18
#: Of EuRoC's poses, if nothing says where the camera is on the body.
BODY_NOTE = (
    "EuRoC's poses are of the body, not of the camera: they are moved to the camera if the folder "
    'of the sequence is named and its sensor.yaml has T_BS'
)
#: Of matrices in files.
_ROUNDING = 1e-3


def read_truth(path: Path | str, stamps_ns: Sequence[int] | None = None) -> PoseList:
    """Read a true trajectory, camera-to-world (EuRoC: body-to-world).

    Of poses with one stamp the first counts; the notes of the list say so.

    :param stamps_ns: of the images, for a file of matrices, which has no times; None: those of a
        ``times.txt`` beside it or, as in KITTI, in ``../sequences/NAME``.
    :raises SourceError: unreadable, of another format, not in order of time, or without times.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f'cannot read the trajectory {path}: {error}') from error
    rows = [line for line in text.splitlines() if line.strip() and not line.startswith('#')]
    fields = rows[0].replace(',', ' ').split() if rows else []
    if len(fields) in _MATRIX_SIZES:
        return _matrices(rows, path, stamps_ns)
    is_ns = fields and fields[0].isdigit() and (len(fields[0]) >= _NS_DIGITS or '[ns]' in text)
    if is_ns and ',' in rows[0]:
        return _euroc(rows, path)
    return parse_tum(text, str(path))


def _euroc(rows: list[str], path: Path) -> PoseList:
    """``stamp [ns], x, y, z, qw, qx, qy, qz`` and more columns, which are not used."""
    try:
        fields = [row.split(',')[:8] for row in rows]
        stamps_ns = np.array([int(row[0]) for row in fields], dtype=np.int64)
        values = np.array([row[1:] for row in fields], dtype=float).reshape(len(rows), 7)
        T = T_from_quat(values[:, :3], values[:, [4, 5, 6, 3]])
    except (ValueError, IndexError, OverflowError) as error:
        raise SourceError(
            f'{path} is no trajectory as EuRoC has it, "nanoseconds,x,y,z,qw,qx,qy,qz": {error}'
        ) from error
    except TransformError:
        raise SourceError(f'{path} holds a pose that is not finite or has no rotation') from None
    poses = poses_in_time(stamps_ns, T, str(path))
    return replace(poses, notes=(*poses.notes, BODY_NOTE))


def _matrices(rows: list[str], path: Path, stamps_ns: Sequence[int] | None) -> PoseList:
    try:
        values = np.array([row.replace(',', ' ').split() for row in rows], dtype=float)
    except ValueError as error:
        raise SourceError(f'{path} is no list of poses as matrices: {error}') from error
    T = np.tile(np.eye(4), (len(values), 1, 1))
    T[:, :3] = values[:, :12].reshape(-1, 3, 4)
    for number, pose in enumerate(T, start=1):
        if not is_rigid(pose, _ROUNDING):
            raise SourceError(f'{path}: pose {number} is no rotation and translation')
    if stamps_ns is None:
        stamps_ns = read_times(_times_of(path))[0]
    if len(stamps_ns) != len(T):
        raise SourceError(f'{path} has {len(T)} poses for {len(stamps_ns)} times')
    return poses_in_time(np.array(stamps_ns, dtype=np.int64), T, str(path))


def _times_of(path: Path) -> Path:
    """Return the file with the times of poses that have none."""
    places = (path.parent, path.parent.parent / 'sequences' / path.stem)
    for place in places:
        if (place / 'times.txt').is_file():
            return place / 'times.txt'
    raise SourceError(
        f'{path} holds poses without times: put the times.txt of the sequence, a time on each '
        'line, beside it'
    )
