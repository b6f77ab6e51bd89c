"""Collects the node's messages: all small ones; count and last message of large ones."""

from __future__ import annotations

from dataclasses import dataclass, field
import threading
import time
from typing import Any

import numpy as np

from ...core.geometry import T_from_quat
from ...core.threads import thread_name
from ...core.trajectory_file import NANOSECONDS

#: Topic below the node -> type of messages that are counted, with the last kept as bytes.
LARGE_TOPICS = {
    'points': 'sensor_msgs/msg/PointCloud2',
    'map_points': 'sensor_msgs/msg/PointCloud2',
    'keyframe_points': 'sensor_msgs/msg/PointCloud2',
    'depth/image': 'sensor_msgs/msg/Image',
    'depth/camera_info': 'sensor_msgs/msg/CameraInfo',
    'path': 'nav_msgs/msg/Path',
}


@dataclass
class ReceivedMessages:
    """All received messages. Keys are stamps in nanoseconds.

    :ivar arrival_s: ``time.monotonic()`` at the arrival of each pose.
    :ivar tf_parents: child frame -> its parents.
    :ivar diagnostics: number of messages.
    """

    T_map_base: dict[int, np.ndarray] = field(default_factory=dict)
    arrival_s: dict[int, float] = field(default_factory=dict)
    repeated_poses: int = 0
    T_odom_base: dict[int, np.ndarray] = field(default_factory=dict)
    statuses: dict[int, Any] = field(default_factory=dict)
    last_status: Any = None
    tf_parents: dict[str, set[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    last_bytes: dict[str, bytes] = field(default_factory=dict)
    diagnostics: int = 0


class Listener:
    """Subscribes to all topics of a node and collects in its own thread.

    :param name: of the node.
    """

    def __init__(self, context: Any, name: str) -> None:
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node

        self.received = ReceivedMessages()
        self.node = Node('r3_demo', context=context)
        self._subscribe(name)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.node)
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._spin, name=thread_name('listener'), daemon=True
        )
        self._thread.start()

    def _subscribe(self, name: str) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from geometry_msgs.msg import PoseWithCovarianceStamped
        from nav_msgs.msg import Odometry
        from r3_ros.msg import StreamStatus
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from tf2_msgs.msg import TFMessage

        from .bag_player import message_type

        node, deep = self.node, 200
        node.create_subscription(PoseWithCovarianceStamped, f'{name}/pose', self._on_pose, deep)
        node.create_subscription(Odometry, f'{name}/odometry', self._on_odometry, deep)
        node.create_subscription(StreamStatus, f'{name}/status', self._on_status, deep)
        node.create_subscription(TFMessage, '/tf', self._on_tf, deep)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, deep)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for topic, kind in LARGE_TOPICS.items():
            qos = latched if topic in ('map_points', 'path') else 2
            node.create_subscription(
                message_type(kind), f'{name}/{topic}', self._counter(topic), qos, raw=True
            )

    def _counter(self, topic: str) -> Any:
        def count(data: bytes) -> None:
            self.received.counts[topic] = self.received.counts.get(topic, 0) + 1
            self.received.last_bytes[topic] = data

        return count

    def _on_pose(self, message: Any) -> None:
        received, stamp_ns = self.received, _stamp_ns(message.header)
        received.repeated_poses += stamp_ns in received.T_map_base
        received.arrival_s[stamp_ns] = time.monotonic()
        received.T_map_base[stamp_ns] = _matrix(message.pose.pose)

    def _on_odometry(self, message: Any) -> None:
        self.received.T_odom_base[_stamp_ns(message.header)] = _matrix(message.pose.pose)

    def _on_status(self, message: Any) -> None:
        self.received.last_status = message
        # Status messages between frames repeat the last stamp or have none.
        if message.state >= message.STATE_INITIALIZING:
            self.received.statuses.setdefault(_stamp_ns(message.header), message)

    def _on_tf(self, message: Any) -> None:
        for transform in message.transforms:
            parents = self.received.tf_parents.setdefault(transform.child_frame_id, set())
            parents.add(transform.header.frame_id)

    def _on_diagnostics(self, message: Any) -> None:
        self.received.diagnostics += 1

    def _spin(self) -> None:
        while not self._stopping.is_set():
            self._executor.spin_once(timeout_sec=0.1)

    def message(self, topic: str, kind: str) -> Any:
        """Return the last message of a large topic; None without one."""
        from rclpy.serialization import deserialize_message

        from .bag_player import message_type

        data = self.received.last_bytes.get(topic)
        return None if data is None else deserialize_message(data, message_type(kind))

    def call(self, kind: Any, service: str, request: Any, timeout_s: float) -> Any:
        """Call a service and return its response; None if there is none in time."""
        client = self.node.create_client(kind, service)
        try:
            if not client.wait_for_service(timeout_sec=5.0):
                return None
            future = client.call_async(request)
            done = threading.Event()
            future.add_done_callback(lambda _: done.set())
            return future.result() if done.wait(timeout_s) else None
        finally:
            self.node.destroy_client(client)

    def close(self) -> None:
        """Stop collecting."""
        self._stopping.set()
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()


def _stamp_ns(header: Any) -> int:
    return int(header.stamp.sec) * NANOSECONDS + int(header.stamp.nanosec)


def _matrix(pose: Any) -> np.ndarray:
    p, q = pose.position, pose.orientation
    values = np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w])
    if not np.isfinite(values).all() or not values[3:].any():
        return np.full((4, 4), np.nan)
    return T_from_quat(values[:3], values[3:])
