"""The publishers of the node."""

from __future__ import annotations

from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from r3_ros.msg import KeyframeGraph, StreamStatus
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from visualization_msgs.msg import MarkerArray

#: Policies that can be overridden per topic: qos_overrides./r3/points.publisher.reliability etc.
QOS_OVERRIDES = QoSOverridingOptions(
    [getattr(QoSPolicyKind, name) for name in ('RELIABILITY', 'HISTORY', 'DEPTH', 'DURABILITY')]
)

#: Topic -> message, depth, latched. All are reliable, which matches every subscriber. occupancy
#: exists only if it is enabled: nav2 would wait for a map on a silent topic.
TOPICS: dict[str, tuple[type[Any], int, bool]] = {
    'pose': (PoseWithCovarianceStamped, 10, False),
    'odometry': (Odometry, 10, False),
    'path': (Path, 1, True),
    'keyframe_graph': (KeyframeGraph, 1, True),
    'markers': (MarkerArray, 1, True),
    'status': (StreamStatus, 10, False),
    'points': (PointCloud2, 2, False),
    'keyframe_points': (PointCloud2, 5, False),
    'map_points': (PointCloud2, 1, True),
    'occupancy': (OccupancyGrid, 1, True),
    'depth/image': (Image, 2, False),
    'depth/camera_info': (CameraInfo, 2, False),
    'depth/confidence': (Image, 2, False),
    'depth/preview': (Image, 1, False),
    'color/image': (Image, 2, False),
    'color/camera_info': (CameraInfo, 2, False),
}


class Outputs:
    """All publishers of a configured node. Any thread may publish."""

    def __init__(self, node: Node, with_occupancy: bool) -> None:
        self._node = node
        self._publishers: dict[str, Publisher] = {}
        for topic, (kind, depth, latched) in TOPICS.items():
            if topic == 'occupancy' and not with_occupancy:
                continue
            durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
            self._publishers[topic] = node.create_publisher(
                kind,
                f'~/{topic}',
                QoSProfile(
                    depth=depth, reliability=ReliabilityPolicy.RELIABLE, durability=durability
                ),
                qos_overriding_options=QOS_OVERRIDES,
            )
        self._publishers['diagnostics'] = node.create_publisher(
            DiagnosticArray, '/diagnostics', 10, qos_overriding_options=QOS_OVERRIDES
        )

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)
        self._publishers.clear()

    def publish(self, topic: str, message: Any) -> None:
        """Publish a message; ignored once the publishers are closed."""
        publisher = self._publishers.get(topic)
        if publisher is not None:
            publisher.publish(message)

    def wanted(self, *topics: str) -> bool:
        """Return whether one of the topics is subscribed."""
        publishers = (self._publishers.get(topic) for topic in topics)
        return any(p is not None and p.get_subscription_count() > 0 for p in publishers)
