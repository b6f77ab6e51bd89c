"""The subscription to the robot's odometry, for ``scale.source`` odometry."""

from __future__ import annotations

from nav_msgs.msg import Odometry
import numpy as np
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data, QoSProfile
from rclpy.subscription import Subscription

from ...core.errors import TransformError
from ...core.geometry import T_from_quat
from ..outputs.messages import stamp_ns_of
from ..outputs.outputs import QOS_OVERRIDES
from ..worker import StreamWorker


def subscribe_odometry(node: Node, worker: StreamWorker) -> Subscription:
    """Subscribe to ``odom``. Executor thread."""

    def warn(text: str) -> None:
        node.get_logger().warning(text, throttle_duration_sec=10.0)

    def on_odometry(message: Odometry) -> None:
        base, child = worker.snapshot.base, message.child_frame_id
        if base is None:
            return  # the mounting of the camera is known with the first image
        if child not in ('', base.frame):
            warn(
                f"odometry of '{child}' is ignored, poses are of '{base.frame}': set base_frame "
                f"to '{child}'"
            )
            return
        p, q = message.pose.pose.position, message.pose.pose.orientation
        try:
            T_odom_base = T_from_quat(np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]))
        except TransformError as error:
            warn(f'odometry is ignored: {error}')
            return
        worker.odometry.add(stamp_ns_of(message.header.stamp), T_odom_base)

    qos = QoSProfile(depth=100, reliability=qos_profile_sensor_data.reliability)
    return node.create_subscription(
        Odometry, 'odom', on_odometry, qos, qos_overriding_options=QOS_OVERRIDES
    )
