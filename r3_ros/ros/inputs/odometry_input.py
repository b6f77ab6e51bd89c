"""The subscription to the robot's odometry, for ``scale.source`` odometry."""

from __future__ import annotations

from nav_msgs.msg import Odometry
import numpy as np
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data, QoSProfile

from ...core.errors import TransformError
from ...core.geometry import T_from_quat
from ..outputs.messages import stamp_ns_of
from ..outputs.outputs import QOS_OVERRIDES
from ..worker import StreamWorker

TOPIC = 'odom'
_DEPTH = 100


class OdometryInput:
    """Subscribes to ``odom`` while the node is active. Executor thread."""

    def __init__(self, node: Node, worker: StreamWorker) -> None:
        self._node = node
        self._worker = worker
        qos = QoSProfile(
            depth=_DEPTH,
            reliability=qos_profile_sensor_data.reliability,
            durability=qos_profile_sensor_data.durability,
        )
        self._subscription = node.create_subscription(
            Odometry, TOPIC, self._on_odometry, qos, qos_overriding_options=QOS_OVERRIDES
        )

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def _on_odometry(self, message: Odometry) -> None:
        base = self._worker.snapshot.base
        if base is None:
            return  # the mounting of the camera is known with the first image
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
        self._worker.odometry.add(stamp_ns_of(message.header.stamp), T_odom_base)
