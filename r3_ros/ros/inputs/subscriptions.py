"""The subscriptions to a camera and to the robot's odometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.clock import Clock
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    qos_profile_sensor_data,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ...core.config import InputConfig
from ...core.errors import TransformError
from ...input.image_topics import base_topic, camera_info_topic, TRANSPORTS
from ...streaming.scale.odometry_buffer import OdometryBuffer
from ..node_parameters import was_given
from ..outputs.health import NodeHealth
from ..outputs.messages import frame_name, matrix_from_pose, stamp_ns_of
from ..outputs.outputs import QOS_OVERRIDES
from ..tf.frame_tree import Base
from .input_thread import InputThread

#: Period of looking at the publishers.
_CHECK_S = 0.5
#: Checks in a row that find the same mistake before it is logged: publishers appear one by one.
_CHECKS_AGREE = 6
_TYPES = {'raw': 'sensor_msgs/msg/Image', 'compressed': 'sensor_msgs/msg/CompressedImage'}


@dataclass(eq=False)
class _Following:
    """A subscription with the quality of service that its publishers offer. Executor thread.

    Reliable, or transient local, where all publishers are so; else best effort and volatile, which
    matches every publisher. Best effort loses an image with any of its fragments, and Fast DDS
    loses many fragments of large images. A calibration that is published once and kept comes to
    transient local subscribers only. What the user sets (``qos_overrides``) stays.
    """

    _node: Node
    _inputs: InputThread
    _kind: type[Any]
    topic: str
    _callback: Callable[[Any], None]
    _depth: int
    _events: SubscriptionEventCallbacks

    def __post_init__(self) -> None:
        self._is_user_choice = was_given(self._node, f'qos_overrides.{self.topic}.subscription.')
        self._qos = self._offered((ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE))
        self._subscribe()

    def close(self) -> None:
        """Unsubscribe."""
        self._inputs.destroy_subscription(self._subscription)

    def follow(self) -> bool:
        """Subscribe again if the publishers offer something else; return whether they do."""
        offered = self._offered(self._qos)
        if self._is_user_choice or offered == self._qos:
            return False
        self._qos = offered
        self.close()
        self._subscribe()
        return True

    def _offered(
        self, otherwise: tuple[ReliabilityPolicy, DurabilityPolicy]
    ) -> tuple[ReliabilityPolicy, DurabilityPolicy]:
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        if not publishers:
            return otherwise
        offers = [publisher.qos_profile for publisher in publishers]
        reliability, durability = ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL
        if any(offer.reliability != reliability for offer in offers):
            reliability = ReliabilityPolicy.BEST_EFFORT
        if any(offer.durability != durability for offer in offers):
            durability = DurabilityPolicy.VOLATILE
        return reliability, durability

    def _subscribe(self) -> None:
        # rclpy never drops its references to destroyed entities. In place and from a copy, since
        # another thread may add to it.
        entities = self._node.default_callback_group.entities
        entities.difference_update([ref for ref in list(entities) if ref() is None])
        reliability, durability = self._qos
        self._subscription = self._inputs.create_subscription(
            self._kind,
            self.topic,
            self._callback,
            QoSProfile(depth=self._depth, reliability=reliability, durability=durability),
            # Declared as read-only parameters, so only where they are given.
            qos_overriding_options=QOS_OVERRIDES if self._is_user_choice else None,
            event_callbacks=self._events,
        )


@dataclass(eq=False)
class CameraTopics:
    """Subscribes to one camera while the node is active. Executor thread.

    The callbacks run in the input thread.
    """

    _node: Node
    _inputs: InputThread
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
        self._subscriptions: list[_Following] = []
        self._checks_agree = 0
        self._timer: Any = None

    def open(self, clock: Clock) -> None:
        """Subscribe."""
        node, is_raw = self._node, self._config.transport == 'raw'
        depth = self._config.frames_waiting
        kind = Image if is_raw else CompressedImage
        self._subscriptions = [
            _Following(node, self._inputs, kind, topic, callback, depth, self._events(topic))
            for kind, topic, callback, depth in (
                (CameraInfo, self.camera_info, self._on_camera_info, 5),
                (kind, self.image, self._on_image, depth),
            )
        ]
        self._timer = node.create_timer(_CHECK_S, self.follow_cameras, clock=clock)

    def close(self) -> None:
        """Unsubscribe."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
        for subscription in self._subscriptions:
            subscription.close()
        self._timer, self._subscriptions = None, []

    @property
    def is_open(self) -> bool:
        return bool(self._subscriptions)

    def follow_cameras(self) -> None:
        """Adapt to the publishers, and note what is wrong with the image topic."""
        for subscription in self._subscriptions:
            if subscription.follow():
                self._health.incompatible_qos.pop(subscription.topic, None)
        mistake = self._mistake()
        self._checks_agree = self._checks_agree + 1 if mistake == self._health.image_topic else 0
        self._health.image_topic = mistake
        if mistake and self._checks_agree == _CHECKS_AGREE:
            self._node.get_logger().warning(mistake)

    def _mistake(self) -> str:
        """Return why no image of one camera can come, and what to do; empty if one can."""
        wanted, transport = _TYPES[self._config.transport], self._config.transport
        kinds = self._kinds(self.image)
        if (count := kinds.count(wanted)) > 1:
            return f"{count} publishers send images on '{self.image}': stop all but one"
        if wanted in kinds:
            return ''
        base = base_topic(base_topic(self.image))
        for other, topic in (('compressed', f'{base}/compressed'), ('raw', base)):
            if _TYPES[other] in self._kinds(topic):
                remedies = [f"set input.transport to '{other}'"] * (other != transport)
                remedies += [f"name the topic '{base}'"] * (
                    self._node.resolve_topic_name('image') != base
                )
                return (
                    f"no {wanted.rpartition('/')[2]} is published on '{self.image}', but "
                    f"{_TYPES[other].rpartition('/')[2]} on '{topic}': {' and '.join(remedies)}"
                )
        for transport in TRANSPORTS:
            if self._kinds(topic := f'{base}/{transport}'):
                return (
                    f"no image is published on '{self.image}', but '{topic}', which cannot be "
                    'read: have images published as raw or compressed, too'
                )
        if kinds:
            return f"'{self.image}' is a topic of {kinds[0]}, not of {wanted}"
        others = sorted(
            topic
            for topic, types in self._node.get_topic_names_and_types()
            if not set(types).isdisjoint(_TYPES.values()) and self._kinds(topic)
        )
        elsewhere = f'; images are on {", ".join(others)}' if others else ''
        return f"nobody publishes '{self.image}'{elsewhere}"

    def _kinds(self, topic: str) -> list[str]:
        """Return the message types of the publishers of a topic, without our own."""
        own = (self._node.get_name(), self._node.get_namespace())
        publishers = self._node.get_publishers_info_by_topic(topic)
        return [p.topic_type for p in publishers if (p.node_name, p.node_namespace) != own]

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
    node: Node,
    inputs: InputThread,
    odometry: OdometryBuffer,
    base_of: Callable[[], Base | None],
) -> Subscription:
    """Subscribe to ``odom``, for ``scale.source`` odometry. Executor thread."""

    def warn(text: str) -> None:
        node.get_logger().warning(text, throttle_duration_sec=10.0)

    def on_odometry(message: Odometry) -> None:
        base, child = base_of(), frame_name(message.child_frame_id)
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
    return inputs.create_subscription(
        Odometry, 'odom', on_odometry, qos, qos_overriding_options=QOS_OVERRIDES
    )
