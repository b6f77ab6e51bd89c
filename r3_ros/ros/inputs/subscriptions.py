"""The subscriptions to a camera and to the robot's odometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.clock import Clock
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ...core.config import InputConfig
from ...core.errors import TransformError
from ...input.image_topics import camera_info_topic
from ...streaming.scale.odometry_buffer import OdometryBuffer
from ..node_parameters import was_given
from ..outputs.health import NodeHealth
from ..outputs.messages import matrix_from_pose, stamp_ns_of
from ..outputs.outputs import QOS_OVERRIDES
from ..tf.frame_tree import Base

#: Period of checking the publishers' reliability.
_CHECK_S = 0.5


@dataclass(eq=False)
class CameraTopics:
    """Subscribes to one camera while the node is active. Executor thread.

    Best effort matches every publisher, but loses an image with any of its fragments, and Fast DDS
    loses many fragments of large images. So where all publishers are reliable, the subscription is
    reliable, too.
    """

    _node: Node
    _config: InputConfig
    _health: NodeHealth
    _on_image: Callable[[Image | CompressedImage], None]
    _on_camera_info: Callable[[CameraInfo], None]

    def __post_init__(self) -> None:
        node = self._node
        self.image = image_topic_name(node, self._config)
        # Beside the images, unless it was remapped itself.
        self.camera_info = _remapped(node, 'camera_info') or camera_info_topic(
            node.resolve_topic_name('image')
        )
        self._images: Subscription | None = None
        self._infos: Subscription | None = None
        self._reliability = qos_profile_sensor_data.reliability
        self._is_user_choice = was_given(node, f'qos_overrides.{self.image}.subscription.')
        self._timer: Any = None

    def open(self, clock: Clock) -> None:
        """Subscribe."""
        self._infos = self._node.create_subscription(
            CameraInfo,
            self.camera_info,
            self._on_camera_info,
            QoSProfile(depth=5, reliability=qos_profile_sensor_data.reliability),
            qos_overriding_options=QOS_OVERRIDES,
            event_callbacks=self._events(self.camera_info),
        )
        self._reliability = self._best_reliability()
        self._subscribe_images()
        if not self._is_user_choice:
            self._timer = self._node.create_timer(_CHECK_S, self.follow_cameras, clock=clock)

    def close(self) -> None:
        """Unsubscribe."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
        for subscription in (self._images, self._infos):
            if subscription is not None:
                self._node.destroy_subscription(subscription)
        self._timer = self._images = self._infos = None

    @property
    def is_open(self) -> bool:
        return self._infos is not None

    def follow_cameras(self) -> None:
        """Subscribe again if the publishers' reliability has changed."""
        wanted = self._best_reliability()
        if wanted != self._reliability:
            self._reliability = wanted
            self._health.incompatible_qos.pop(self.image, None)
            assert self._images is not None
            self._node.destroy_subscription(self._images)
            self._subscribe_images()

    def _best_reliability(self) -> ReliabilityPolicy:
        cameras = self._node.get_publishers_info_by_topic(self.image)
        if not cameras:
            return self._reliability
        if all(c.qos_profile.reliability == ReliabilityPolicy.RELIABLE for c in cameras):
            return ReliabilityPolicy.RELIABLE
        return ReliabilityPolicy.BEST_EFFORT

    def _subscribe_images(self) -> None:
        # rclpy never drops its references to destroyed entities. In place and from a copy, since
        # another thread may add to it.
        entities = self._node.default_callback_group.entities
        entities.difference_update([ref for ref in list(entities) if ref() is None])
        config = self._config
        # Overrides are declared as read-only parameters, so only where they are given.
        overrides = QOS_OVERRIDES if self._is_user_choice else None
        self._images = self._node.create_subscription(
            Image if config.transport == 'raw' else CompressedImage,
            self.image,
            self._on_image,
            QoSProfile(depth=config.frames_waiting, reliability=self._reliability),
            qos_overriding_options=overrides,
            event_callbacks=self._events(self.image),
        )

    def _events(self, topic: str) -> SubscriptionEventCallbacks:
        def on_incompatible(event: Any) -> None:
            policy = QoSPolicyKind(event.last_policy_kind).name
            text = f"'{topic}' is published with an incompatible QoS policy {policy}"
            if topic not in self._health.incompatible_qos:
                self._health.incompatible_qos[topic] = text
                self._node.get_logger().error(
                    f'{text}: set qos_overrides.{topic}.subscription.{policy.lower()}'
                )

        def on_lost(event: Any) -> None:
            if topic == self.image:
                self._health.frames_lost += event.total_count_change

        return SubscriptionEventCallbacks(incompatible_qos=on_incompatible, message_lost=on_lost)


def image_topic_name(node: Node, config: InputConfig) -> str:
    """Return the resolved topic of the images; compressed ones are below the raw topic."""
    image = node.resolve_topic_name('image')
    if config.transport == 'raw':
        return image
    return _remapped(node, 'image/compressed') or f'{image}/compressed'


def _remapped(node: Node, topic: str) -> str:
    """Return the topic that the user remapped a name to; empty if it is not remapped."""
    resolved = node.resolve_topic_name(topic)
    return '' if resolved == f'{node.get_namespace().rstrip("/")}/{topic}' else resolved


def subscribe_odometry(
    node: Node, odometry: OdometryBuffer, base_of: Callable[[], Base | None]
) -> Subscription:
    """Subscribe to ``odom``, for ``scale.source`` odometry. Executor thread."""

    def warn(text: str) -> None:
        node.get_logger().warning(text, throttle_duration_sec=10.0)

    def on_odometry(message: Odometry) -> None:
        base, child = base_of(), message.child_frame_id
        if base is None:
            return  # the mounting of the camera is known with the first image
        if child not in ('', base.frame):
            warn(
                f"odometry of '{child}' is ignored, poses are of '{base.frame}': set base_frame "
                f"to '{child}'"
            )
            return
        try:
            T_odom_base = matrix_from_pose(message.pose.pose)
        except TransformError as error:
            warn(f'odometry is ignored: {error}')
            return
        odometry.add(stamp_ns_of(message.header.stamp), T_odom_base)

    qos = QoSProfile(depth=100, reliability=qos_profile_sensor_data.reliability)
    return node.create_subscription(
        Odometry, 'odom', on_odometry, qos, qos_overriding_options=QOS_OVERRIDES
    )
