"""Received transforms: the mounting of the camera, the robot's odometry and conflicting edges."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
import math
import threading
import time

from geometry_msgs.msg import TransformStamped
import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from tf2_msgs.msg import TFMessage
from tf2_ros import Buffer, TransformException

from ...core.config import R3Config
from ...core.errors import TransformError
from ...core.geometry import inverse, is_rigid, rotation_angle
from ..inputs.input_thread import InputThread
from ..outputs.health import TransformHealth
from ..outputs.messages import frame_name, matrix_from_transform, stamp_ns_of

_AUTHORITY = 'r3'
#: A camera that moves less on its base, in metres and radians, counts as fixed.
_MOUNT_TOLERANCE = (2e-3, 3e-3)
#: An edge that was not received for as long as tf2 buffers is not broadcast any more.
_LINK_TIMEOUT_S = 10.0
_ECHOES_KEPT = 512


@dataclass(frozen=True)
class Base:
    """The moving frame whose pose is published, and the mounting of the camera on it."""

    frame: str
    T_base_optical: np.ndarray
    is_named: bool  # base_frame is set, so the map starts in it


@dataclass(frozen=True)
class _Link:
    """A frame's parent, as last broadcast by another node."""

    parent: str
    is_static: bool
    valid_until_s: float


class Echoes:
    """Our own transforms, each of which is received back exactly once. Any thread.

    Another r3 node on the same camera sends equal transforms, so equality alone does not identify
    our own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._awaited: deque[tuple[str, str, int]] = deque(maxlen=_ECHOES_KEPT)

    def expect(self, transform: TransformStamped) -> None:
        """Note a transform that is about to be sent."""
        with self._lock:
            self._awaited.append(_key(transform))

    def take(self, transform: TransformStamped) -> bool:
        """Return whether a transform is one of ours that was not received back yet."""
        with self._lock:
            try:
                self._awaited.remove(_key(transform))
            except ValueError:
                return False
            return True


class TransformTree:
    """Subscribes to /tf and /tf_static. Executor thread; lookups from any thread.

    Messages are received in the input thread, which also calls ``on_...``.

    :ivar health: problems on /tf.
    :ivar since_s: time of the subscription, by ``time.monotonic``.
    :ivar base_frame: the moving frame whose pose is published; set by the worker.
    :ivar on_moving: called after transforms on /tf.
    :ivar on_change: called after any transforms.
    """

    def __init__(self, node: Node, inputs: InputThread, config: R3Config) -> None:
        self._node = node
        self._inputs = inputs
        self._config = config
        self.health = TransformHealth()
        self._buffer = Buffer(node=node)
        self._links: dict[str, _Link] = {}
        self.since_s = time.monotonic()
        self.echoes = Echoes()
        self.base_frame = ''
        self.on_moving: Callable[[], None] = lambda: None
        self.on_change: Callable[[], None] = lambda: None
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._subscriptions = [
            inputs.create_subscription(TFMessage, '/tf', self._on_moving, 100),
            inputs.create_subscription(TFMessage, '/tf_static', self._on_static, latched),
        ]

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._inputs.destroy_subscription(subscription)

    def clear(self) -> None:
        """Forget moving transforms, since time has jumped back."""
        self._buffer.clear()

    # The mounting of the camera.

    def find_base(self, optical_frame: str) -> Base:
        """Return the base frame for a camera, from the transforms received so far.

        :raises TransformError: ``base_frame`` is set and not connected with the camera yet.
        """
        named = self._config.base_frame
        frame = named or self._top_of_mount(optical_frame)
        T_base_optical = np.eye(4) if frame == optical_frame else self._mount(frame, optical_frame)
        return Base(frame, T_base_optical, is_named=bool(named))

    def is_outdated(self, base: Base, optical_frame: str) -> bool:
        """Return whether, without ``base_frame``, the camera's static transforms have changed.

        Those of a driver may be received after its first images.
        """
        return not base.is_named and self._top_of_mount(optical_frame) != base.frame

    def check_mount(self, base: Base, optical_frame: str) -> None:
        """Check that the camera has not moved on its base.

        :raises TransformError: it has, by joints in between.
        """
        top = self._top_of_mount(optical_frame, stop=base.frame)
        if not base.is_named or top == base.frame:
            return
        moved = inverse(base.T_base_optical) @ self._mount(base.frame, optical_frame)
        limits = _MOUNT_TOLERANCE
        if np.linalg.norm(moved[:3, 3]) > limits[0] or rotation_angle(moved[:3, :3]) > limits[1]:
            raise TransformError(
                f"the camera '{optical_frame}' moves on base_frame '{base.frame}', so the pose of "
                f"the base cannot be computed: set base_frame to '{top}', on which it is fixed "
                '(with publish_odom_to_base_tf false the joints in between are applied)'
            )

    def has_parent(self, frame: str) -> bool:
        """Return whether another node has broadcast the parent of a frame."""
        return frame in self._links

    def _top_of_mount(self, frame: str, stop: str = '') -> str:
        """Return the last frame along static transforms, up to map, odom or ``stop``."""
        others = {self._config.map_frame, self._config.odom_frame}
        seen = {frame}
        while frame != stop and (link := self._links.get(frame)) is not None:
            if not link.is_static or link.parent in others | seen:
                break
            frame = link.parent
            seen.add(frame)
        return frame

    def _mount(self, base: str, optical_frame: str) -> np.ndarray:
        try:
            return self.pose(base, optical_frame)
        except TransformError as error:
            raise TransformError(
                f"no transform from '{optical_frame}' to base_frame '{base}': {error}. Start its "
                'publisher (robot_state_publisher, static_transform_publisher), or leave '
                'base_frame empty'
            ) from error

    # Poses.

    def pose(self, parent: str, child: str, stamp_ns: int | None = None) -> np.ndarray:
        """Return ``T_parent_child`` (4, 4).

        :param stamp_ns: at this time, interpolated by tf2 and never extrapolated; None for the
            newest, of frames that are fixed to one another.
        :raises TransformError: it is not known, perhaps not yet.
        """
        if stamp_ns is not None and stamp_ns <= 0:
            # For tf2, time zero means the newest transform.
            raise TransformError(f'there is no pose of {child!r} at time {stamp_ns}')
        try:
            found = self._buffer.lookup_transform(parent, child, Time(nanoseconds=stamp_ns or 0))
        except TransformException as error:
            raise TransformError(str(error)) from error
        T_parent_child = matrix_from_transform(found.transform)
        if not is_rigid(T_parent_child):
            raise TransformError(f"the transform from '{child}' to '{parent}' is not rigid")
        return T_parent_child

    # Edges broadcast by other nodes.

    def report_conflict(self, child: str) -> bool:
        """Return whether another node broadcasts the parent of a frame, and report it."""
        link = self._links.get(child)
        if link is None or link.valid_until_s < time.monotonic():
            return False
        self._report(child, link)
        return True

    def _on_moving(self, message: TFMessage) -> None:
        others = False
        for transform in message.transforms:
            if not self.echoes.take(transform):
                others = True
                self._take(transform, is_static=False)
            self._buffer.set_transform(transform, _AUTHORITY)
        if others:
            self.on_moving()
            self.on_change()

    def _on_static(self, message: TFMessage) -> None:
        for transform in message.transforms:
            self._take(transform, is_static=True)
            self._buffer.set_transform_static(transform, _AUTHORITY)
        self.on_change()

    def _take(self, transform: TransformStamped, is_static: bool) -> None:
        child = frame_name(transform.child_frame_id)
        parent = frame_name(transform.header.frame_id)
        until_s = math.inf if is_static else time.monotonic() + _LINK_TIMEOUT_S
        link = self._links[child] = _Link(parent, is_static, until_s)
        config, base_frame = self._config, self.base_frame
        # A fixed frame above the camera is no conflict: it becomes the base, see is_outdated.
        is_mount = is_static and parent not in (config.map_frame, config.odom_frame)
        is_conflict = config.publish_map_to_odom_tf and child == config.odom_frame
        if config.publish_odom_to_base_tf and child == base_frame:
            is_conflict |= bool(config.base_frame) or not is_mount
        if child and is_conflict:
            self._report(child, link)

    def _report(self, child: str, link: _Link) -> None:
        if self.health.note_conflict(f'{link.parent} -> {child}', link.valid_until_s):
            self._node.get_logger().error(
                f"another node broadcasts '{link.parent}' -> '{child}' on /tf, and a frame has "
                'one parent: stop the other node, set publish_map_to_odom_tf or '
                'publish_odom_to_base_tf to false here, or name a base_frame that has no parent'
            )


def _key(transform: TransformStamped) -> tuple[str, str, int]:
    header = transform.header
    return transform.child_frame_id, header.frame_id, stamp_ns_of(header.stamp)
