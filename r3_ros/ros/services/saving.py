"""Saving maps and trajectories from snapshots. See docs/map_format.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import enum
import errno
import os
from pathlib import Path
import threading
import time

import numpy as np

from ...core.atomic_files import atomic_write
from ...core.config import R3Config
from ...core.errors import OutputError, R3Error
from ...core.geometry import quat_xyzw
from ...core.trajectory_file import write_tum
from ...maps.map_layout import POINT_FORMATS as MAP_FORMATS
from ...maps.writing import write_map
from ...streaming.map_snapshot import MapPlacement, MapSnapshot, saved_map
from ..tf.pose_chain import PoseChain

TRAJECTORY_FORMATS = ('tum', 'kitti', 'csv')
TRAJECTORY_FRAMES = ('base', 'optical')


class ServiceCode(enum.IntEnum):
    """The codes of all services, with the same meaning in each."""

    OK = 0
    EMPTY_MAP = 2
    EXISTS = 3
    NOT_WRITABLE = 4
    NO_SPACE = 5
    BAD_FORMAT = 6
    TIMEOUT = 7
    LOADED_VIEW_ONLY = 20
    NOT_FOUND = 21
    VERSION_MISMATCH = 22
    CHECKPOINT_MISMATCH = 23
    NOT_LOCALISED = 24
    INTERNAL = 99


class ServiceError(R3Error):
    """A service that failed, with its code."""

    def __init__(self, code: ServiceCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything that a save needs, immutable, taken between two frames."""

    config: R3Config
    chain: PoseChain
    base_frame: str
    optical_frame: str
    map: MapSnapshot


@dataclass(frozen=True)
class Saved:
    """What was written."""

    path: Path
    points: int = 0
    poses: int = 0
    keyframes: int = 0
    bytes: int = 0


def target_path(name: str, directory: str, prefix: str) -> Path:
    """Return the path for a name: absolute, below home, or in the map directory.

    :raises ServiceError: a relative name that leaves the map directory.
    """
    root = Path(directory).expanduser() if directory else ros_home() / 'r3_maps'
    if not name:
        name = time.strftime(f'{prefix}_%Y%m%d_%H%M%S')
    path = Path(name).expanduser()
    if path.is_absolute():
        return path
    if '..' in path.parts:
        raise ServiceError(
            ServiceCode.NOT_WRITABLE,
            f"the name '{name}' leaves the map directory: give an absolute path instead",
        )
    return root / path


def ros_home() -> Path:
    """Return the folder for files written by ROS nodes."""
    return Path(os.environ.get('ROS_HOME') or Path.home() / '.ros')


def save_map(
    path: Path,
    snapshot: Snapshot,
    formats: list[str],
    include_images: bool,
    overwrite: bool,
    cancelled: threading.Event,
) -> Saved:
    """Write a map directory.

    :param formats: of the points beside PLY, any of :data:`MAP_FORMATS`.
    :param cancelled: set when the caller no longer waits; nothing is written then.
    :raises ServiceError: nothing was written.
    """
    for kind in formats:
        _require_known('format', kind, MAP_FORMATS)
    placement = MapPlacement(
        T_map_world=snapshot.chain.T_map_world,
        T_base_optical=snapshot.chain.T_base_optical,
        map_frame=snapshot.config.map_frame,
        base_frame=snapshot.base_frame,
        optical_frame=snapshot.optical_frame,
    )
    saved = saved_map(snapshot.map, placement, snapshot.config.map.voxel_size)
    if not len(saved.points):
        raise ServiceError(
            ServiceCode.EMPTY_MAP, 'the map is empty: move the camera until it has points'
        )
    try:
        size = write_map(
            path, saved, formats, include_images, overwrite, lambda: _give_up_if(cancelled)
        )
    except OutputError as error:
        raise _with_code(error, path) from error
    return Saved(
        path,
        points=len(saved.points),
        poses=len(saved.trajectory),
        keyframes=len(saved.keyframes),
        bytes=size,
    )


def save_trajectory(
    path: Path,
    snapshot: Snapshot,
    kind: str,
    frame: str,
    keyframes_only: bool,
    overwrite: bool,
    cancelled: threading.Event,
) -> Saved:
    """Write the corrected trajectory in the map frame.

    :raises ServiceError: nothing was written.
    """
    _require_known('format', kind, TRAJECTORY_FORMATS)
    _require_known('frame', frame, TRAJECTORY_FRAMES)
    trajectory = snapshot.map.trajectory
    chosen = np.isfinite(trajectory.T_final[:, 0, 0])
    if keyframes_only:
        chosen &= trajectory.is_keyframe
    if not chosen.any():
        raise ServiceError(ServiceCode.EMPTY_MAP, 'there is no pose to write yet')
    place = snapshot.chain.T_map_base if frame == 'base' else snapshot.chain.T_map_optical
    T, stamps_ns = place(trajectory.T_final[chosen]), trajectory.stamps_ns[chosen]
    try:
        if kind == 'tum':
            _give_up_if(cancelled)
            write_tum(path, stamps_ns, T, overwrite)
        else:
            with atomic_write(path, overwrite) as file:
                if kind == 'kitti':
                    np.savetxt(file, T[:, :3, :].reshape(-1, 12), fmt='%.9e')
                else:
                    stamps = stamps_ns.astype(object)  # a float cannot hold them
                    rows = np.column_stack([stamps, T[:, :3, 3], quat_xyzw(T)])
                    form, header = ['%d'] + ['%.9f'] * 7, 'stamp_ns,x,y,z,qx,qy,qz,qw'
                    np.savetxt(file, rows, form, ',', header=header, comments='')
                _give_up_if(cancelled)
    except OutputError as error:
        raise _with_code(error, path) from error
    keyframes = int(trajectory.is_keyframe[chosen].sum())
    return Saved(path, poses=len(T), keyframes=keyframes, bytes=path.stat().st_size)


def _require_known(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        text = f"unknown {what} '{name}', known: {', '.join(known)}"
        raise ServiceError(ServiceCode.BAD_FORMAT, text)


def _give_up_if(cancelled: threading.Event) -> None:
    """Abort before the file is renamed into place, if the caller no longer waits."""
    if cancelled.is_set():
        raise ServiceError(ServiceCode.TIMEOUT, 'the save took too long; nothing was written')


def _with_code(error: OutputError, path: Path) -> ServiceError:
    number, code = getattr(error.__cause__, 'errno', None), ServiceCode.NOT_WRITABLE
    if number in (errno.EEXIST, errno.ENOTEMPTY):
        code = ServiceCode.EXISTS
    elif number in (errno.ENOSPC, errno.EDQUOT):
        code = ServiceCode.NO_SPACE
    # An error inside the folder names the temporary folder, which is removed already.
    message = str(error)
    if f'{path}:' not in message and message.startswith('cannot write '):
        message = f'cannot write {path}:{message.rpartition(":")[2]}'
    return ServiceError(code, message)
