"""What r3 says on /tf, and what it needs to hear there.

It broadcasts ``map -> odom`` and ``odom -> base`` as far as the parameters give it the authority,
never an edge that somebody else already broadcasts, and nothing before the first estimate.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import threading
import time

from geometry_msgs.msg import TransformStamped
import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from tf2_msgs.msg import TFMessage
from tf2_ros import Buffer, TransformBroadcaster, TransformException

from ..config import R3Config
from ..errors import TransformError
from ..geometry import is_rigid
from .health import Health
from .messages import matrix_from_transform, transform_message
from .poses import Placement, PoseChain

_SECOND_NS = 1_000_000_000
_AUTHORITY = 'r3'


@dataclass(frozen=True)
class Base:
    """The moving frame whose pose is published, and where the camera sits on it."""

    frame: str
    T_base_optical: np.ndarray
    is_named: bool  # by the user, so the map starts in it

    def new_chain(self) -> PoseChain:
        """Start a session's chain of frames."""
        return PoseChain(self.T_base_optical, starts_in_base=self.is_named)


class TransformTree:
    """Hears /tf: where the camera hangs, and who else broadcasts our edges. Executor thread."""

    def __init__(self, node: Node, config: R3Config, health: Health) -> None:
        """Subscribe."""
        self._node = node
        self._config = config
        self._health = health
        self._buffer = Buffer(node=node)
        self._parents: dict[str, str] = {}
        self._since_s = time.monotonic()
        #: (child, parent, stamp) of what we sent lately: it comes back to us.
        self.sent: deque[tuple[str, str, int]] = deque(maxlen=512)
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._subscriptions = [
            node.create_subscription(TFMessage, '/tf', self._on_moving, 100),
            node.create_subscription(TFMessage, '/tf_static', self._on_static, latched),
        ]

    def close(self) -> None:
        """Stop hearing."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def clear(self) -> None:
        """Forget what moves; time has jumped back."""
        self._buffer.clear()

    def find_base(self, optical_frame: str) -> Base:
        """Return the base frame for a camera, by what is known now.

        :raises TransformError: ``base_frame`` is set and not connected with the camera yet.
        """
        named = self._config.base_frame
        if named:
            return Base(named, self._static_pose(named, optical_frame), is_named=True)
        top = self._topmost_ancestor(optical_frame)
        if top == optical_frame:
            return Base(optical_frame, np.eye(4), is_named=False)
        return Base(top, self._static_pose(top, optical_frame), is_named=False)

    def is_outdated(self, base: Base, optical_frame: str) -> bool:
        """Tell whether a base that nobody named is not the top of the camera's frames any more.

        A driver's static transforms may be heard later than its first pictures.
        """
        return not base.is_named and self._topmost_ancestor(optical_frame) != base.frame

    def age_s(self) -> float:
        """Return how long transforms have been listened to."""
        return time.monotonic() - self._since_s

    def has_parent(self, frame: str) -> bool:
        """Tell whether anybody has said where a frame hangs."""
        return frame in self._parents

    def _topmost_ancestor(self, frame: str) -> str:
        """Climb to the last frame below map and odom, so that every frame keeps one parent."""
        ours = {self._config.map_frame, self._config.odom_frame}
        seen = {frame}
        while (parent := self._parents.get(frame)) is not None and parent not in ours | seen:
            seen.add(parent)
            frame = parent
        return frame

    def _static_pose(self, base: str, optical_frame: str) -> np.ndarray:
        try:
            found = self._buffer.lookup_transform(base, optical_frame, Time())
        except TransformException as error:
            raise TransformError(
                f"no transform from '{optical_frame}' to base_frame '{base}': {error}. Start what "
                'publishes it (robot_state_publisher, static_transform_publisher), or leave '
                'base_frame empty'
            ) from error
        T_base_optical = matrix_from_transform(found.transform)
        if not is_rigid(T_base_optical):
            raise TransformError(f"the transform from '{optical_frame}' to '{base}' is not rigid")
        return T_base_optical

    def _on_moving(self, message: TFMessage) -> None:
        for transform in message.transforms:
            if not self._is_ours(transform):
                self._take(transform)
                self._buffer.set_transform(transform, _AUTHORITY)

    def _on_static(self, message: TFMessage) -> None:
        for transform in message.transforms:
            self._take(transform)
            self._buffer.set_transform_static(transform, _AUTHORITY)

    def _is_ours(self, transform: TransformStamped) -> bool:
        stamp = transform.header.stamp
        stamp_ns = stamp.sec * _SECOND_NS + stamp.nanosec
        return (transform.child_frame_id, transform.header.frame_id, stamp_ns) in self.sent

    def _take(self, transform: TransformStamped) -> None:
        child, parent = transform.child_frame_id, transform.header.frame_id
        self._parents[child] = parent
        config, health = self._config, self._health
        # A frame above the camera is no rival: it becomes the base, see is_outdated.
        is_above = not config.base_frame and parent not in (config.map_frame, config.odom_frame)
        ours = {
            config.odom_frame: config.publish_map_to_odom_tf,
            health.base_frame: config.publish_odom_to_base_tf and not is_above,
        }
        if child and ours.get(child) and not health.two_parents:
            health.two_parents = f'{parent} -> {child}'
            self._node.get_logger().error(
                f"somebody else broadcasts '{parent}' -> '{child}' on /tf, and a frame has one "
                'parent: stop the other, or set publish_map_to_odom_tf or '
                'publish_odom_to_base_tf to false here'
            )


class TransformAuthority:
    """Broadcasts our edges. The worker sends, a timer repeats; a lock between them."""

    def __init__(self, node: Node, config: R3Config, tree: TransformTree, health: Health) -> None:
        """Create the broadcaster; nothing is sent yet."""
        self._config = config
        self._tree = tree
        self._health = health
        self._node = node
        self._broadcaster = TransformBroadcaster(node)
        self._lock = threading.Lock()
        self._T_map_odom: np.ndarray | None = None
        self._stamp_ns = 0
        self._repeats = 0
        self._closed = False
        self._refused: set[str] = set()

    def close(self) -> None:
        """Destroy the broadcaster's publisher."""
        with self._lock:
            self._closed = True
            self._node.destroy_publisher(self._broadcaster.pub_tf)

    def update_config(self, config: R3Config) -> None:
        """Take over live parameters."""
        with self._lock:
            self._config = config

    def reset(self) -> None:
        """Send nothing until the next estimate."""
        with self._lock:
            self._T_map_odom = None

    def seen(self, stamp_ns: int) -> None:
        """Note a picture, with or without a pose: ``map -> odom`` holds for its time too."""
        with self._lock:
            self._stamp_ns = stamp_ns
            self._repeats = 0

    def send(self, stamp_ns: int, placement: Placement, base_frame: str) -> None:
        """Broadcast the transforms of a frame, at its exact stamp."""
        self.seen(stamp_ns)
        with self._lock:
            self._refuse_foreign_edges(base_frame)
            self._T_map_odom = placement.T_map_odom
            edges = self._map_to_odom(stamp_ns)
            config = self._config
            if config.publish_odom_to_base_tf and base_frame not in self._refused:
                edges.append(
                    transform_message(
                        stamp_ns, config.odom_frame, base_frame, placement.T_odom_base
                    )
                )
            self._broadcast(edges + self._ahead())

    def repeat(self) -> None:
        """Broadcast ``map -> odom`` again, for those who join late or look between two frames."""
        with self._lock:
            if self._T_map_odom is not None:
                self._broadcast(self._ahead())

    def _ahead(self) -> list[TransformStamped]:
        """Return ``map -> odom`` dated ahead of the newest picture.

        tf2 ignores, with a warning, a second transform of the same stamp; a nanosecond more with
        each repetition keeps them apart, and apart from the next picture's own stamp.
        """
        self._repeats += 1
        tolerance_ns = round(self._config.transform_tolerance * _SECOND_NS)
        return self._map_to_odom(self._stamp_ns + tolerance_ns + self._repeats)

    def _map_to_odom(self, stamp_ns: int) -> list[TransformStamped]:
        config, T_map_odom = self._config, self._T_map_odom
        if not config.publish_map_to_odom_tf or config.odom_frame in self._refused:
            return []
        assert T_map_odom is not None, 'nothing is sent before the first estimate'
        return [transform_message(stamp_ns, config.map_frame, config.odom_frame, T_map_odom)]

    def _broadcast(self, edges: list[TransformStamped]) -> None:
        if not edges or self._closed:
            return
        for edge in edges:
            stamp = edge.header.stamp
            stamp_ns = stamp.sec * _SECOND_NS + stamp.nanosec
            self._tree.sent.append((edge.child_frame_id, edge.header.frame_id, stamp_ns))
        self._broadcaster.sendTransform(edges)

    def _refuse_foreign_edges(self, base_frame: str) -> None:
        """Before the first estimate: never start on an edge that somebody else broadcasts."""
        if self._T_map_odom is not None:
            return
        self._refused = {
            frame
            for frame in (self._config.odom_frame, base_frame)
            if self._tree.has_parent(frame)
        }
