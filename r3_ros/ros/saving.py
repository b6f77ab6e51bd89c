"""Maps and trajectories on disk, written from snapshots by a thread of their own.

A map is a folder that appears whole or not at all: ``manifest.yaml`` (what, when, in which
units), ``points.ply`` and others, ``trajectory.tum`` (base in map), ``keyframes.npz``. No
pickles. The format is described in docs/map_format.md.
"""

from __future__ import annotations

from dataclasses import dataclass
import enum
import errno
import os
from pathlib import Path
import threading
import time
from typing import Any, TYPE_CHECKING

import numpy as np
import yaml

from .. import __version__
from ..cloud import Cloud
from ..config import R3Config
from ..datatypes import Intrinsics, ModelInfo
from ..errors import OutputError, R3Error
from ..export import atomic_directory, atomic_write, write_ply, write_tum
from ..geometry import quat_xyzw
from .poses import PoseChain

if TYPE_CHECKING:
    from ..streaming.scale import ScaleView
    from ..streaming.trajectory import TrajectoryView
    from ..streaming.voxel_map import MapView

FORMAT_VERSION = 1
MANIFEST = 'manifest.yaml'
MAP_FORMATS = ('ply', 'pcd', 'npz')
TRAJECTORY_FORMATS = ('tum', 'kitti', 'csv')
TRAJECTORY_FRAMES = ('base', 'optical')


class SaveCode(enum.IntEnum):
    """The codes of ``SaveMap`` and ``SaveTrajectory``."""

    OK = 0
    NOT_CONFIGURED = 1
    EMPTY_MAP = 2
    EXISTS = 3
    NOT_WRITABLE = 4
    NO_SPACE = 5
    BAD_FORMAT = 6
    TIMEOUT = 7
    INTERNAL = 99


class SaveError(R3Error):
    """A save that did not happen, with its code."""

    def __init__(self, code: SaveCode, message: str) -> None:
        """Keep the code beside the message."""
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything a save needs, immutable, taken between two frames."""

    config: R3Config
    model: ModelInfo
    chain: PoseChain
    base_frame: str
    optical_frame: str
    intrinsics: Intrinsics | None
    session_id: int
    map_view: MapView
    trajectory: TrajectoryView
    resident_ids: tuple[int, ...]
    scale: ScaleView

    def keyframes(self) -> np.ndarray:
        """Return the rows of the trajectory that are keyframes with a pose."""
        known = np.isfinite(self.trajectory.T_final[:, 0, 0])
        return np.flatnonzero(self.trajectory.is_keyframe & known)


@dataclass(frozen=True)
class Saved:
    """What was written."""

    path: Path
    points: int = 0
    poses: int = 0
    keyframes: int = 0
    bytes: int = 0


def target_path(name: str, directory: str, prefix: str) -> Path:
    """Return where a save of a name goes: absolute, below home, or in the map directory.

    :raises SaveError: a relative name that leaves the map directory.
    """
    root = Path(directory).expanduser() if directory else ros_home() / 'r3_maps'
    if not name:
        name = time.strftime(f'{prefix}_%Y%m%d_%H%M%S')
    path = Path(name).expanduser()
    if path.is_absolute():
        return path
    if '..' in path.parts:
        raise SaveError(
            SaveCode.NOT_WRITABLE,
            f"the name '{name}' leaves the map directory: give an absolute path instead",
        )
    return root / path


def ros_home() -> Path:
    """Return where ROS keeps what it writes."""
    return Path(os.environ.get('ROS_HOME') or Path.home() / '.ros')


def save_map(
    path: Path,
    snapshot: Snapshot,
    formats: list[str],
    overwrite: bool,
    cancelled: threading.Event,
) -> Saved:
    """Write a map directory.

    :param formats: of the points, any of :data:`MAP_FORMATS`; empty for PLY.
    :param cancelled: set by who no longer waits: then nothing appears.
    :raises SaveError: nothing was written.
    """
    formats = formats or ['ply']
    for unknown in set(formats) - set(MAP_FORMATS):
        raise SaveError(
            SaveCode.BAD_FORMAT, f"unknown format '{unknown}', known: {', '.join(MAP_FORMATS)}"
        )
    cloud = snapshot.map_view.cloud().moved(snapshot.chain.S_map_world)
    if not len(cloud):
        raise SaveError(
            SaveCode.EMPTY_MAP, 'the map is empty: move the camera until it has points'
        )
    try:
        with atomic_directory(path, overwrite, marker=MANIFEST) as folder:
            for kind in sorted(set(formats)):
                _WRITERS[kind](folder / f'points.{kind}', cloud)
            poses = _write_poses(folder, snapshot)
            content = _manifest(snapshot, cloud, poses)
            (folder / MANIFEST).write_text(yaml.safe_dump(content, sort_keys=False))
            size = sum(item.stat().st_size for item in folder.rglob('*') if item.is_file())
            _give_up_if(cancelled)
    except OutputError as error:
        raise _with_code(error, path) from error
    keyframes = len(snapshot.keyframes())
    return Saved(path, points=len(cloud), poses=poses, keyframes=keyframes, bytes=size)


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

    :raises SaveError: nothing was written.
    """
    if kind not in TRAJECTORY_FORMATS:
        known = ', '.join(TRAJECTORY_FORMATS)
        raise SaveError(SaveCode.BAD_FORMAT, f"unknown format '{kind}', known: {known}")
    if frame not in TRAJECTORY_FRAMES:
        known = ', '.join(TRAJECTORY_FRAMES)
        raise SaveError(SaveCode.BAD_FORMAT, f"unknown frame '{frame}', known: {known}")
    trajectory = snapshot.trajectory
    rows = np.flatnonzero(np.isfinite(trajectory.T_final[:, 0, 0]))
    if keyframes_only:
        rows = snapshot.keyframes()
    if not len(rows):
        raise SaveError(SaveCode.EMPTY_MAP, 'there is no pose to write yet')
    place = snapshot.chain.T_map_base if frame == 'base' else snapshot.chain.T_map_optical
    T, stamps_ns = place(trajectory.T_final[rows]), trajectory.stamps_ns[rows]
    try:
        if kind == 'tum':
            _give_up_if(cancelled)
            write_tum(path, stamps_ns, T, overwrite)
        else:
            text = _kitti_text(T) if kind == 'kitti' else _csv_text(stamps_ns, T)
            with atomic_write(path, overwrite) as file:
                file.write(text.encode('ascii'))
                _give_up_if(cancelled)
    except OutputError as error:
        raise _with_code(error, path) from error
    keyframes = int(trajectory.is_keyframe[rows].sum())
    return Saved(path, poses=len(rows), keyframes=keyframes, bytes=path.stat().st_size)


def _give_up_if(cancelled: threading.Event) -> None:
    """Leave before the new file gets its name, if the caller was told that it took too long."""
    if cancelled.is_set():
        raise SaveError(SaveCode.TIMEOUT, 'the save took too long; nothing was written')


def _with_code(error: OutputError, path: Path) -> SaveError:
    number = getattr(error.__cause__, 'errno', None)
    code = {
        errno.EEXIST: SaveCode.EXISTS,
        errno.ENOTEMPTY: SaveCode.EXISTS,
        errno.ENOSPC: SaveCode.NO_SPACE,
        errno.EDQUOT: SaveCode.NO_SPACE,
    }.get(number or 0, SaveCode.NOT_WRITABLE)
    # An error inside the folder names the temporary place, which is gone already.
    message = str(error)
    if f'{path}:' not in message and message.startswith('cannot write '):
        message = f'cannot write {path}:{message.rpartition(":")[2]}'
    return SaveError(code, message)


def _write_poses(folder: Path, snapshot: Snapshot) -> int:
    """Write trajectory and keyframes; return the number of poses."""
    trajectory, chain = snapshot.trajectory, snapshot.chain
    rows = np.flatnonzero(np.isfinite(trajectory.T_final[:, 0, 0]))
    T_map_base = chain.T_map_base(trajectory.T_final[rows])
    write_tum(folder / 'trajectory.tum', trajectory.stamps_ns[rows], T_map_base)
    keyframes = snapshot.keyframes()
    ids = trajectory.frame_ids[keyframes]
    np.savez(
        folder / 'keyframes.npz',
        ids=ids,
        stamps_ns=trajectory.stamps_ns[keyframes],
        T_map_optical=chain.T_map_optical(trajectory.T_final[keyframes]),
        T_map_base=chain.T_map_base(trajectory.T_final[keyframes]),
        resident=np.isin(ids, snapshot.resident_ids),
        K=np.full((3, 3), np.nan) if snapshot.intrinsics is None else snapshot.intrinsics.K,
    )
    return len(rows)


def _manifest(snapshot: Snapshot, cloud: Cloud, poses: int) -> dict[str, Any]:
    config, intrinsics = snapshot.config, snapshot.intrinsics
    stamps_ns = snapshot.trajectory.stamps_ns
    return {
        'format_version': FORMAT_VERSION,
        'r3_ros_version': __version__,
        'model': {
            'name': snapshot.model.name,
            'checkpoint_sha256': snapshot.model.checkpoint_sha256,
        },
        'image_size': None if intrinsics is None else [intrinsics.width, intrinsics.height],
        'K': None if intrinsics is None else intrinsics.K.tolist(),
        'frames': {
            'map': config.map_frame,
            'base': snapshot.base_frame,
            'optical': snapshot.optical_frame,
        },
        'T_base_optical': snapshot.chain.T_base_optical.tolist(),
        'scale': {
            'metres_per_unit': snapshot.scale.metres_per_unit,
            'source': snapshot.scale.source,
        },
        'voxel_size': config.map.voxel_size * snapshot.chain.unit,
        'bounds': {
            'min': cloud.points.min(axis=0).tolist(),
            'max': cloud.points.max(axis=0).tolist(),
        },
        'counts': {
            'points': len(cloud),
            'poses': poses,
            'keyframes': len(snapshot.keyframes()),
            'keyframe_images': 0,
        },
        'stamps_ns': {
            'first': int(stamps_ns[0]) if len(stamps_ns) else None,
            'last': int(stamps_ns[-1]) if len(stamps_ns) else None,
            'saved': time.time_ns(),
        },
        'session_id': snapshot.session_id,
    }


def _write_npz(path: Path, cloud: Cloud) -> None:
    np.savez(path, points=cloud.points, colors=cloud.colors, confidence=cloud.confidence)


def _write_pcd(path: Path, cloud: Cloud) -> None:
    """Write a binary PCD 0.7 with the fields of the published clouds."""
    rows = np.empty(len(cloud), [(n, '<f4') for n in ('x', 'y', 'z', 'rgb', 'confidence')])
    for axis, name in enumerate('xyz'):
        rows[name] = cloud.points[:, axis]
    red, green, blue = cloud.colors.astype('<u4').T
    rows['rgb'] = ((red << 16) | (green << 8) | blue).view('<f4')
    rows['confidence'] = cloud.confidence
    header = (
        'VERSION 0.7\nFIELDS x y z rgb confidence\nSIZE 4 4 4 4 4\nTYPE F F F F F\n'
        f'COUNT 1 1 1 1 1\nWIDTH {len(rows)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n'
        f'POINTS {len(rows)}\nDATA binary\n'
    )
    path.write_bytes(header.encode('ascii') + rows.tobytes())


_WRITERS = {'ply': write_ply, 'pcd': _write_pcd, 'npz': _write_npz}


def _kitti_text(T: np.ndarray) -> str:
    rows = T[:, :3, :].reshape(-1, 12)
    return ''.join(' '.join(f'{value:.9e}' for value in row) + '\n' for row in rows)


def _csv_text(stamps_ns: np.ndarray, T: np.ndarray) -> str:
    lines = ['stamp_ns,x,y,z,qx,qy,qz,qw']
    rows = np.concatenate([T[:, :3, 3], quat_xyzw(T)], axis=1)
    for stamp_ns, row in zip(stamps_ns.tolist(), rows.tolist(), strict=True):
        lines.append(f'{stamp_ns},' + ','.join(f'{value:.9f}' for value in row))
    return '\n'.join(lines) + '\n'
