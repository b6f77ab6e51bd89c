"""Initial poses: the topic ``initialpose``, as from RViz's "2D Pose Estimate"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import math

from geometry_msgs.msg import Pose, PoseWithCovarianceStamped
import numpy as np
from rclpy.node import Node
from rclpy.subscription import Subscription

from ...core.config import R3Config
from ...core.errors import TransformError
from ..outputs.messages import frame_name, matrix_from_pose, stamp_ns_of
from ..outputs.outputs import QOS_OVERRIDES
from .frame_tree import TransformTree
from .transforms import TransformAuthority

TOPIC = 'initialpose'
#: Allowed deviation of a quaternion's length from 1, as from rounding by hand.
_QUATERNION_TOLERANCE = 0.01
#: Larger than survey coordinates; beyond it, double precision cannot resolve motion.
_FARTHEST = 1e8


@dataclass(frozen=True, eq=False)
class InitialPose:
    """A pose of the base that a user has given.

    :ivar T_map_base: (4, 4).
    :ivar covariance: (6, 6) in the axes of map, order x y z rx ry rz; RViz leaves the rows of
        z, rx and ry zero.
    :ivar stamp_ns: time of the pose; later than the newest image, or 0: now.
    """

    T_map_base: np.ndarray
    covariance: np.ndarray
    stamp_ns: int

    def __str__(self) -> str:
        x, y, z = self.T_map_base[:3, 3]
        yaw_deg = math.degrees(math.atan2(self.T_map_base[1, 0], self.T_map_base[0, 0]))
        return f'x {x:.3f}, y {y:.3f}, z {z:.3f}, yaw {yaw_deg:.1f} degrees'


def subscribe_initial_pose(
    node: Node,
    config: R3Config,
    tree: TransformTree,
    authority: TransformAuthority,
    take: Callable[[InitialPose], None],
) -> Subscription:
    """Subscribe to ``initialpose``; ``take`` is called with every valid pose. Executor thread."""

    def T_map_frame(frame: str) -> np.ndarray:
        # The newest common time of the transforms on /tf may be before the map was moved last.
        T_map_odom = authority.T_map_odom
        if config.publish_map_to_odom_tf and T_map_odom is not None:
            try:
                return T_map_odom @ tree.pose(config.odom_frame, frame)
            except TransformError:
                pass  # the frame may be connected with map only
        return tree.pose(config.map_frame, frame)

    def on_pose(message: PoseWithCovarianceStamped) -> None:
        try:
            given = read_initial_pose(message, config.map_frame, T_map_frame)
        except TransformError as error:
            node.get_logger().error(f'{TOPIC} is refused: {error}')
        else:
            take(given)

    return node.create_subscription(
        PoseWithCovarianceStamped, TOPIC, on_pose, 1, qos_overriding_options=QOS_OVERRIDES
    )


def checked_pose(pose: Pose) -> np.ndarray:
    """Return the (4, 4) matrix of a pose that a user has given.

    :raises TransformError: it is no pose, or too far away.
    """
    p, q = pose.position, pose.orientation
    length = math.hypot(q.x, q.y, q.z, q.w)
    if not abs(length - 1.0) <= _QUATERNION_TOLERANCE:
        raise TransformError(f'its quaternion has the length {length:g}, not 1')
    if not max(abs(p.x), abs(p.y), abs(p.z)) <= _FARTHEST:
        raise TransformError(f'its position ({p.x:g}, {p.y:g}, {p.z:g}) is too far away')
    return matrix_from_pose(pose)


def read_initial_pose(
    message: PoseWithCovarianceStamped, map_frame: str, place: Callable[[str], np.ndarray]
) -> InitialPose:
    """Return the pose in map.

    :param place: returns ``T_map_frame`` (4, 4) of another frame, or raises TransformError.
    :raises TransformError: it is no pose, or its frame is not connected with map.
    """
    T_frame_base = checked_pose(message.pose.pose)
    covariance = np.reshape(np.asarray(message.pose.covariance, dtype=np.float64), (6, 6))
    if not np.isfinite(covariance).all() or (covariance.diagonal() < 0.0).any():
        raise TransformError('its covariance holds NaN, infinity or a negative variance')
    frame = frame_name(message.header.frame_id)
    if not frame:
        raise TransformError(f"its frame_id is empty: give '{map_frame}'")
    try:
        T_map_frame = np.eye(4) if frame == map_frame else place(frame)
    except TransformError as error:
        raise TransformError(f"no transform from '{frame}' to '{map_frame}': {error}") from error
    turn = np.kron(np.eye(2), T_map_frame[:3, :3])
    return InitialPose(
        T_map_base=T_map_frame @ T_frame_base,
        covariance=turn @ covariance @ turn.T,
        stamp_ns=stamp_ns_of(message.header.stamp),
    )
