"""Conversion of arrays and estimates to messages.

Stamps are converted as integers; large arrays are copied once as bytes.
"""

from __future__ import annotations

import array
from collections.abc import Sequence
import math
from typing import Any

from builtin_interfaces.msg import Time
from geometry_msgs.msg import (
    Point,
    Pose,
    PoseStamped,
    PoseWithCovarianceStamped,
    Quaternion,
    Transform,
    TransformStamped,
    Vector3,
)
from nav_msgs.msg import MapMetaData, Odometry, Path
from nav_msgs.msg import OccupancyGrid as OccupancyGridMessage
import numpy as np
from r3_ros.msg import StreamStatus
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from sensor_msgs_py import point_cloud2
from std_msgs.msg import Header
import tf_transformations

from ...core.datatypes import DepthMap, Estimate, Intrinsics
from ...core.geometry import quat_xyzw, T_from_quat
from ...maps.cloud import Cloud, PACKED, packed
from ...maps.occupancy_grid import OccupancyGrid
from ...streaming.scale.estimator import ScaleView
from ..tf.pose_chain import Placement
from .health import Health

_SECOND_NS = 1_000_000_000
_CLOUD_FIELDS = [
    PointField(name=name, offset=4 * k, datatype=PointField.FLOAT32, count=1)
    for k, name in enumerate(PACKED.names or ())
]


def time_message(stamp_ns: int) -> Time:
    """Return the message of a stamp in nanoseconds."""
    sec, nanosec = divmod(stamp_ns, _SECOND_NS)
    return Time(sec=sec, nanosec=nanosec)


def stamp_ns_of(stamp: Time) -> int:
    """Return the stamp of a message in nanoseconds."""
    return int(stamp.sec) * _SECOND_NS + int(stamp.nanosec)


def frame_name(name: str) -> str:
    """Return the name of a frame as tf2 has it: without the leading slash of ROS 1."""
    return name.removeprefix('/')


def header_message(stamp_ns: int, frame: str) -> Header:
    """Return a header."""
    return Header(stamp=time_message(stamp_ns), frame_id=frame)


def matrix_from_transform(transform: Transform) -> np.ndarray:
    """Return the (4, 4) matrix of a transform message."""
    q, t = transform.rotation, transform.translation
    T = np.asarray(tf_transformations.quaternion_matrix([q.x, q.y, q.z, q.w]), dtype=np.float64)
    T[:3, 3] = t.x, t.y, t.z
    return T


def matrix_from_pose(pose: Pose) -> np.ndarray:
    """Return the (4, 4) matrix of a pose message.

    :raises TransformError: it holds no rotation, or a number that is not finite.
    """
    p, q = pose.position, pose.orientation
    return T_from_quat(np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]))


def transform_content(T: np.ndarray) -> Transform:
    """Return the content of a transform message for a (4, 4) rigid motion."""
    (x, y, z), (qx, qy, qz, qw) = T[:3, 3].tolist(), quat_xyzw(T).tolist()
    return Transform(
        translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(x=qx, y=qy, z=qz, w=qw)
    )


def transform_message(
    stamp_ns: int, parent: str, child: str, T_parent_child: np.ndarray
) -> TransformStamped:
    """Return the transform of a (4, 4) rigid motion."""
    return TransformStamped(
        header=header_message(stamp_ns, parent),
        child_frame_id=child,
        transform=transform_content(T_parent_child),
    )


def pose_messages(T: np.ndarray) -> list[Pose]:
    """Return the poses of (N, 4, 4) rigid motions."""
    return [
        Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))
        for (x, y, z), (qx, qy, qz, qw) in zip(
            T[:, :3, 3].tolist(), quat_xyzw(T).tolist(), strict=True
        )
    ]


def pose_message(stamp_ns: int, map_frame: str, placement: Placement) -> PoseWithCovarianceStamped:
    """Return the pose in map with its covariance."""
    message = PoseWithCovarianceStamped(header=header_message(stamp_ns, map_frame))
    message.pose.pose = pose_messages(placement.T_map_base[None])[0]
    message.pose.covariance = placement.map_covariance.ravel()
    return message


def odometry_message(
    stamp_ns: int, odom_frame: str, base_frame: str, placement: Placement
) -> Odometry:
    """Return the odometry; an unknown velocity is zero with an unknown covariance."""
    message = Odometry(header=header_message(stamp_ns, odom_frame), child_frame_id=base_frame)
    message.pose.pose = pose_messages(placement.T_odom_base[None])[0]
    message.pose.covariance = placement.odom_covariance.ravel()
    linear, angular = placement.twist[:3].tolist(), placement.twist[3:].tolist()
    message.twist.twist.linear = Vector3(x=linear[0], y=linear[1], z=linear[2])
    message.twist.twist.angular = Vector3(x=angular[0], y=angular[1], z=angular[2])
    message.twist.covariance = placement.twist_covariance.ravel()
    return message


def path_message(
    stamp_ns: int, frame: str, stamps_ns: Sequence[int] | np.ndarray, T: np.ndarray
) -> Path:
    """Return a path of (N, 4, 4) poses, each with its own stamp."""
    return Path(
        header=header_message(stamp_ns, frame),
        poses=[
            PoseStamped(header=header_message(int(pose_ns), frame), pose=pose)
            for pose_ns, pose in zip(stamps_ns, pose_messages(T) if len(T) else [], strict=True)
        ],
    )


def cloud_message(stamp_ns: int, frame: str, cloud: Cloud) -> PointCloud2:
    """Return an unorganised cloud: x y z, rgb packed into a float, confidence."""
    rows = packed(cloud.points, cloud.colors, cloud.confidence)
    return _as_cloud(header_message(stamp_ns, frame), rows, is_dense=True)


def organized_cloud_message(
    stamp_ns: int, frame: str, points: np.ndarray, depth_map: DepthMap
) -> PointCloud2:
    """Return a cloud in the shape of the depth image.

    :param points: (h, w, 3) float32, NaN where unknown.
    """
    confidence = np.where(np.isfinite(depth_map.confidence), depth_map.confidence, 0.0)
    rows = packed(points, depth_map.image, confidence)
    return _as_cloud(header_message(stamp_ns, frame), rows, is_dense=False)


def occupancy_message(
    stamp_ns: int, frame: str, grid: OccupancyGrid | None
) -> OccupancyGridMessage:
    """Return the message of a grid; without cells for None."""
    message = OccupancyGridMessage(header=header_message(stamp_ns, frame))
    if grid is None:
        return message
    height, width = grid.cells.shape
    message.info = MapMetaData(
        map_load_time=time_message(stamp_ns),
        resolution=grid.resolution,
        width=width,
        height=height,
        origin=Pose(position=Point(x=grid.origin[0], y=grid.origin[1], z=0.0)),
    )
    data = array.array('b')
    data.frombytes(np.ascontiguousarray(grid.cells).data.cast('B'))
    message.data = data
    return message


def _as_cloud(header: Header, rows: np.ndarray, is_dense: bool) -> PointCloud2:
    if not rows.size:
        # create_cloud cannot cast an empty memoryview to bytes.
        return PointCloud2(
            header=header, height=1, width=0, fields=_CLOUD_FIELDS, is_dense=is_dense,
            point_step=rows.itemsize, row_step=0,
        )  # fmt: skip
    # As a list of points: create_cloud would use the first of two axes as the width.
    message = point_cloud2.create_cloud(header, _CLOUD_FIELDS, rows.ravel())
    if rows.ndim == 2:
        message.height, message.width = rows.shape
        message.row_step = rows.shape[1] * message.point_step
    message.is_dense = is_dense
    return message


def image_message(stamp_ns: int, frame: str, encoding: str, pixels: np.ndarray) -> Image:
    """Return an image of (H, W) float32 or (H, W, 3) uint8 pixels."""
    pixels = np.ascontiguousarray(pixels)
    data = array.array('B')
    data.frombytes(pixels.data.cast('B'))
    return Image(
        header=header_message(stamp_ns, frame),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=pixels.strides[0],
        data=data,
    )


def camera_info_message(stamp_ns: int, frame: str, intrinsics: Intrinsics) -> CameraInfo:
    """Return the calibration of an undistorted image."""
    K = intrinsics.K
    return CameraInfo(
        header=header_message(stamp_ns, frame),
        height=intrinsics.height,
        width=intrinsics.width,
        distortion_model='plumb_bob',
        d=[],
        k=K.ravel(),
        r=np.eye(3).ravel(),
        p=np.hstack([K, np.zeros((3, 1))]).ravel(),
    )


def status_message(stamp_ns: int, health: Health, **known: Any) -> StreamStatus:
    """Return a status with state and counters; ``known`` sets other fields.

    Unknown values are NaN, never zero.
    """
    fields: dict[str, Any] = {
        name: math.nan
        for name, kind in StreamStatus.get_fields_and_field_types().items()
        if kind in ('float', 'double')
    }
    fields |= {'scale': 1.0, 'scale_source': StreamStatus.SCALE_NONE, **known}
    return StreamStatus(
        header=header_message(stamp_ns, health.optical_frame),
        state=int(health.state),
        state_reason=health.reason,
        frames_processed=health.frames_processed,
        frames_rejected=health.frames_rejected,
        frames_paused=health.frames_paused,
        **fields,
    )


def estimate_fields(estimate: Estimate) -> dict[str, Any]:
    """Return the fields of ``StreamStatus`` for an estimate."""
    fields: dict[str, Any] = {
        'segment_id': estimate.segment_id,
        'map_revision': estimate.map_revision,
        # ROS takes a NumPy bool as False.
        'is_keyframe': bool(estimate.is_keyframe),
        'confidence_translation': float(estimate.confidence_translation),
        'confidence_rotation': float(estimate.confidence_rotation),
        'confidence_ratio': float(estimate.confidence_ratio),
        'frames_in_context': len(estimate.context_ids),
    }
    own = [depth for depth in estimate.depths if depth.frame_id == estimate.frame_id]
    for depth_map in own or estimate.depths[-1:]:
        known = np.isfinite(depth_map.depth) & np.isfinite(depth_map.confidence)
        fields['depth_valid_fraction'] = float(known.mean())
        if known.any():
            fields['depth_confidence_median'] = float(np.median(depth_map.confidence[known]))
    fields['fov_x_model'] = estimate.seen_fov_x
    key = 'fov_x_model' if estimate.intrinsics_estimated else 'fov_x_calibrated'
    fields[key] = estimate.intrinsics.fov_x
    return fields


def scale_fields(scale: ScaleView) -> dict[str, Any]:
    """Return the fields of ``StreamStatus`` for the scale."""
    source = getattr(StreamStatus, f'SCALE_{scale.source.upper()}')
    if source == StreamStatus.SCALE_NONE:
        return {}
    nan = math.nan
    return {
        'scale': nan if scale.metres_per_unit is None else float(scale.metres_per_unit),
        'scale_source': source,
        'scale_locked': scale.locked,
        'scale_live_ratio': nan if scale.live_ratio is None else float(scale.live_ratio),
    }
