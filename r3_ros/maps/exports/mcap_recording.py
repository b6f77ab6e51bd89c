"""Exports a saved map as an MCAP file with Foxglove's schemas, for Foxglove and Lichtblick."""

from __future__ import annotations

from pathlib import Path

import foxglove
from foxglove import messages as fg
from foxglove.channels import (
    CameraCalibrationChannel,
    CompressedImageChannel,
    FrameTransformChannel,
    PointCloudChannel,
    PosesInFrameChannel,
)
import numpy as np

from ...core.atomic_files import atomic_write
from ...core.geometry import quat_xyzw
from .. import map_layout
from ..saved_map import SavedMap

_NANOSECONDS = 10**9
_FIELDS = [
    *((axis, '<f4') for axis in 'xyz'),
    *((color, 'u1') for color in ('red', 'green', 'blue', 'alpha')),
    ('confidence', '<f4'),
]
_POINT = np.dtype(_FIELDS)


def write_mcap(path: Path | str, saved: SavedMap, overwrite: bool = False) -> None:
    """Write transforms of base and camera, keyframes with their images, cloud and path.

    The cloud and the whole path are there from the first pose on.

    :raises OutputError: it exists, or cannot be written.
    """
    context = foxglove.Context()
    with atomic_write(path, overwrite) as file, foxglove.open_mcap(file, context=context):
        start_ns = saved.stamps_ns[0] if saved.stamps_ns else 0
        cloud = PointCloudChannel('/map', context=context)
        cloud.log(_cloud(saved, start_ns), log_time=start_ns)
        poses = PosesInFrameChannel('/path', context=context)
        poses.log(_path(saved, start_ns), log_time=start_ns)
        _log_transforms(saved, context)
        _log_keyframes(saved, context)


def _log_transforms(saved: SavedMap, context: foxglove.Context) -> None:
    facts, trajectory = saved.facts, saved.trajectory
    channel = FrameTransformChannel('/tf', context=context)
    T_base_camera = _transform(facts.base_frame, facts.optical_frame, facts.T_base_optical)
    for stamp_ns, T in zip(trajectory.stamps_ns.tolist(), trajectory.T_map_base, strict=True):
        moved = _transform(facts.map_frame, facts.base_frame, T, stamp_ns)
        channel.log(moved, log_time=stamp_ns)
        if facts.base_frame != facts.optical_frame:
            channel.log(T_base_camera, log_time=stamp_ns)


def _log_keyframes(saved: SavedMap, context: foxglove.Context) -> None:
    cameras = CameraCalibrationChannel('/keyframes/calibration', context=context)
    images = CompressedImageChannel('/keyframes/image', context=context)
    keyframes = saved.keyframes
    for row, stamp_ns in enumerate(keyframes.stamps_ns.tolist()):
        cameras.log(_calibration(saved, row, stamp_ns), log_time=stamp_ns)
        data = saved.images.get(int(keyframes.ids[row]))
        if data is not None:
            image = fg.CompressedImage(
                timestamp=_time(stamp_ns),
                frame_id=saved.facts.optical_frame,
                data=data,
                format=map_layout.media_type(data),
            )
            images.log(image, log_time=stamp_ns)


def _time(stamp_ns: int) -> fg.Timestamp:
    return fg.Timestamp(stamp_ns // _NANOSECONDS, stamp_ns % _NANOSECONDS)


def _pose(T: np.ndarray) -> tuple[fg.Vector3, fg.Quaternion]:
    x, y, z = T[:3, 3].tolist()
    qx, qy, qz, qw = quat_xyzw(T).tolist()
    return fg.Vector3(x=x, y=y, z=z), fg.Quaternion(x=qx, y=qy, z=qz, w=qw)


def _transform(parent: str, child: str, T: np.ndarray, stamp_ns: int = 0) -> fg.FrameTransform:
    translation, rotation = _pose(T)
    return fg.FrameTransform(
        timestamp=_time(stamp_ns),
        parent_frame_id=parent,
        child_frame_id=child,
        translation=translation,
        rotation=rotation,
    )


def _cloud(saved: SavedMap, stamp_ns: int) -> fg.PointCloud:
    cloud = saved.points
    rows = np.zeros(len(cloud), _POINT)
    for n, (axis, color) in enumerate(zip('xyz', ('red', 'green', 'blue'), strict=True)):
        rows[axis], rows[color] = cloud.points[:, n], cloud.colors[:, n]
    rows['alpha'], rows['confidence'] = 255, cloud.confidence
    kinds = fg.PackedElementFieldNumericType
    fields, offset = [], 0
    for name, kind in _FIELDS:
        number = kinds.Float32 if kind == '<f4' else kinds.Uint8
        fields.append(fg.PackedElementField(name=name, offset=offset, type=number))
        offset += np.dtype(kind).itemsize
    return fg.PointCloud(
        timestamp=_time(stamp_ns),
        frame_id=saved.facts.map_frame,
        point_stride=_POINT.itemsize,
        fields=fields,
        data=rows.tobytes(),
    )


def _path(saved: SavedMap, stamp_ns: int) -> fg.PosesInFrame:
    poses = []
    for T in saved.trajectory.T_map_base:
        position, orientation = _pose(T)
        poses.append(fg.Pose(position=position, orientation=orientation))
    return fg.PosesInFrame(timestamp=_time(stamp_ns), frame_id=saved.facts.map_frame, poses=poses)


def _calibration(saved: SavedMap, row: int, stamp_ns: int) -> fg.CameraCalibration:
    lens = saved.keyframes.intrinsics(row)
    return fg.CameraCalibration(
        timestamp=_time(stamp_ns),
        frame_id=saved.facts.optical_frame,
        width=lens.width,
        height=lens.height,
        K=lens.K.ravel().tolist(),
        R=np.eye(3).ravel().tolist(),
        P=np.hstack([lens.K, np.zeros((3, 1))]).ravel().tolist(),
    )
