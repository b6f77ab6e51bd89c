"""What the robot says of its own motion, for ``scale.source`` odometry."""

from __future__ import annotations

from nav_msgs.msg import Odometry
import numpy as np
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data, QoSProfile

from ..errors import TransformError
from ..geometry import T_from_quat
from .messages import stamp_ns_of
from .outputs import QOS_OVERRIDES
from .worker import StreamWorker

TOPIC = 'odom'
_DEPTH = 100


class OdometryInput:
    """Hears ``odom`` while the node is active. Executor thread."""

    def __init__(self, node: Node, stream: StreamWorker) -> None:
        """Subscribe."""
        self._node = node
        self._stream = stream
        qos = QoSProfile(
            depth=_DEPTH,
            reliability=qos_profile_sensor_data.reliability,
            durability=qos_profile_sensor_data.durability,
        )
        self._subscription = node.create_subscription(
            Odometry, TOPIC, self._on_odometry, qos, qos_overriding_options=QOS_OVERRIDES
        )

    def close(self) -> None:
        """Stop hearing."""
        self._node.destroy_subscription(self._subscription)

    def _on_odometry(self, message: Odometry) -> None:
        base = self._stream.snapshot.base
        if base is None:
            return  # where the camera sits on the robot is known with the first image
        child = message.child_frame_id
        if child not in ('', base.frame):
            self._node.get_logger().warning(
                f"odometry of '{child}' is ignored, poses are of '{base.frame}': set base_frame "
                f"to '{child}'",
                throttle_duration_sec=10.0,
            )
            return
        p, q = message.pose.pose.position, message.pose.pose.orientation
        try:
            T_odom_base = T_from_quat(np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]))
        except TransformError as error:
            self._node.get_logger().warning(
                f'odometry is ignored: {error}', throttle_duration_sec=10.0
            )
            return
        self._stream.odometry.add(stamp_ns_of(message.header.stamp), T_odom_base)
