"""Broadcasts ``map -> odom`` and ``odom -> base``, as the parameters enable them.

Never an edge that another node already broadcasts, and nothing before the first estimate. The
robot's ``odom -> base``, if that is corrected, may be received after the image was processed. Such
images wait here, so that the worker does not have to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
import math
import threading
import time
from typing import Any

from geometry_msgs.msg import TransformStamped
import numpy as np
from rclpy.node import Node
from tf2_ros import TransformBroadcaster

from ...core.config import R3Config
from ...core.errors import TransformError
from ...core.geometry import inverse
from ..outputs.messages import transform_message
from .frame_tree import TransformTree
from .pose_chain import Placement, planar_map_odom

_SECOND_NS = 1_000_000_000
_MOST_WAITING = 64


def corrects_robot(config: R3Config) -> bool:
    """Return whether r3 corrects a robot's odometry, so ``odom -> base`` is the robot's own."""
    return config.publish_map_to_odom_tf and not config.publish_odom_to_base_tf


@dataclass(frozen=True, eq=False)
class _Waiting:
    stamp_ns: int
    placement: Placement
    base_frame: str
    until_s: float


@dataclass(eq=False)
class RobotOdometry:
    """Finds the robot's ``odom -> base`` at the stamps of processed images. Any thread.

    :param on_found: called with the stamp, the placement and the robot's ``T_odom_base``, in the
        order of the images, in the thread that found it.
    """

    config: R3Config
    _tree: TransformTree
    _logger: Any
    _on_found: Callable[[int, Placement, np.ndarray], None]
    # Held while on_found runs, which keeps the order.
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False)
    _waiting: deque[_Waiting] = field(
        default_factory=lambda: deque(maxlen=_MOST_WAITING), init=False
    )

    def offer(self, stamp_ns: int, placement: Placement, base_frame: str) -> None:
        """Look up the transform of an image now or later, until the timeout."""
        until_s = time.monotonic() + self.config.tf_lookup_timeout
        with self._lock:
            self._waiting.append(_Waiting(stamp_ns, placement, base_frame, until_s))
            self.look()

    def look(self) -> None:
        """Look up the transforms of waiting images again."""
        if not self._waiting:
            return
        with self._lock:
            while self._waiting:
                first = self._waiting[0]
                try:
                    T_odom_base = self.at(first.stamp_ns, first.base_frame)
                except TransformError as error:
                    if time.monotonic() < first.until_s:
                        return
                    self._waiting.popleft()
                    self.fail(str(error))
                else:
                    self._waiting.popleft()
                    self._on_found(first.stamp_ns, first.placement, T_odom_base)

    def move_map(self, moved: Callable[[Placement], Placement]) -> None:
        """Move the waiting images with the map."""
        with self._lock:
            for i, each in enumerate(self._waiting):
                self._waiting[i] = replace(each, placement=moved(each.placement))

    def forget(self) -> None:
        """Drop the waiting images."""
        with self._lock:
            self._waiting.clear()

    def at(self, stamp_ns: int, base_frame: str) -> np.ndarray:
        """Return the robot's ``T_odom_base`` (4, 4) at a time.

        :raises TransformError: it was not received, perhaps not yet.
        """
        return self._tree.pose(self.config.odom_frame, base_frame, stamp_ns)

    def at_or_newest(self, stamp_ns: int, base_frame: str) -> np.ndarray | None:
        """Return ``T_odom_base`` (4, 4) at a time, or the newest; None if there is none at all.

        For poses given by a user, who sees the newest; never for an image.
        """
        for when_ns in (stamp_ns, None):
            with suppress(TransformError):
                return self._tree.pose(self.config.odom_frame, base_frame, when_ns)
        return None

    def fail(self, problem: str) -> None:
        """Count an image without a transform."""
        count = self._tree.health.fail_lookup(problem)
        self._logger.warning(
            "no transform from the robot's base to odom at the stamp of an image, so map -> odom "
            f'is not updated: {problem} (tf_lookup_failures: {count})',
            throttle_duration_sec=5.0,
        )


class TransformAuthority:
    """Broadcasts our edges. Any thread: the worker sends, the input thread repeats, completes.

    :ivar robot: the odometry that is corrected.
    :ivar T_map_odom: the broadcast ``map -> odom``; None before the first estimate.
    """

    def __init__(self, node: Node, config: R3Config, tree: TransformTree) -> None:
        self._config = config
        self._tree = tree
        self._node = node
        self._broadcaster = TransformBroadcaster(node)
        self.robot = RobotOdometry(config, tree, node.get_logger(), self._correct)
        tree.on_moving = self.robot.look
        self._lock = threading.Lock()
        self.T_map_odom: np.ndarray | None = None
        #: The newest frame that ``map -> odom`` was computed from, and its ``T_odom_base``.
        self._newest: tuple[Placement, np.ndarray] | None = None
        #: Pose of our odom in the robot's odom frame; None until it is known.
        self._T_odom_own: np.ndarray | None = None
        self._stamp_ns = 0
        self._repeats = 0
        self._sent_s = -math.inf
        self._closed = False
        self._refused: set[str] = set()

    def close(self) -> None:
        """Destroy the broadcaster's publisher."""
        self.robot.forget()
        with self._lock:
            self._closed = True
            self._node.destroy_publisher(self._broadcaster.pub_tf)

    def update_config(self, config: R3Config) -> None:
        """Apply changed live parameters."""
        with self._lock:
            self._config = self.robot.config = config

    def reset(self, keeps_place: bool) -> None:
        """Begin a session.

        :param keeps_place: where a robot is corrected, the last ``map -> odom`` is repeated until
            the next estimate; otherwise nothing is sent until then.
        """
        self.robot.forget()
        with self._lock:
            self._newest = self._T_odom_own = None
            if not (keeps_place and corrects_robot(self._config)):
                self.T_map_odom = None

    def note_image(self, stamp_ns: int) -> None:
        """Extend the validity of ``map -> odom`` to an image, with or without a pose.

        Nothing else advances its stamp, so without images ``map -> odom`` becomes outdated.
        """
        with self._lock:
            # Else the stamps of repetitions before the pose is known would be used again.
            if stamp_ns != self._stamp_ns:
                self._stamp_ns, self._repeats = stamp_ns, 0

    def send(self, stamp_ns: int, placement: Placement, base_frame: str) -> None:
        """Broadcast the transforms of a frame, at its exact stamp."""
        self.note_image(stamp_ns)
        if corrects_robot(self._config):
            self.robot.offer(stamp_ns, placement, base_frame)
            return
        with self._lock:
            self._refuse_foreign_edges(base_frame)
            config, T_odom_base = self._config, placement.T_odom_base
            self._take(placement, T_odom_base)
            edges = self._map_to_odom(stamp_ns)
            if config.publish_odom_to_base_tf and base_frame not in self._refused:
                edges.append(
                    transform_message(stamp_ns, config.odom_frame, base_frame, T_odom_base)
                )
            self._broadcast(edges + self._ahead())

    def move_map(self, moved: Callable[[Placement], Placement]) -> None:
        """Broadcast ``map -> odom`` after the map was moved.

        :param moved: returns a frame's placement in the current map.
        """
        self.robot.move_map(moved)
        with self._lock:
            if self._newest is not None:
                placement, T_odom_base = self._newest
                self._take(moved(placement), T_odom_base)
                # The stamp of the frame itself was used already.
                self._broadcast(self._ahead())

    def T_map_base_now(self, stamp_ns: int, base_frame: str) -> np.ndarray | None:
        """Return a corrected robot's pose in map, now or at a time; None while it is unknown."""
        newest, T_odom_now = self._newest, self.robot.at_or_newest(stamp_ns, base_frame)
        if newest is None or T_odom_now is None:
            return None
        placement, T_odom_base = newest
        return placement.T_map_base @ inverse(T_odom_base) @ T_odom_now

    def odometry_of(self, placement: Placement) -> Placement | None:
        """Return a placement with odometry in the robot's odom frame; None if not known yet."""
        if not corrects_robot(self._config):
            return placement
        T_odom_own = self._T_odom_own
        if T_odom_own is None:
            return None
        return replace(placement, T_odom_base=T_odom_own @ placement.T_odom_base)

    def repeat(self, after_s: float = 0.0) -> None:
        """Broadcast ``map -> odom`` again, for late subscribers and lookups between frames.

        :param after_s: not if it was broadcast within so many seconds.
        """
        with self._lock:
            is_due = time.monotonic() - self._sent_s >= after_s
            if self.T_map_odom is not None and is_due:
                self._broadcast(self._ahead())

    def _correct(self, stamp_ns: int, placement: Placement, T_odom_base: np.ndarray) -> None:
        """Broadcast the correction of the robot's odometry by a frame, at its exact stamp."""
        with self._lock:
            self._refuse_foreign_edges('')
            self._take(placement, T_odom_base)
            if self._T_odom_own is None:
                self._T_odom_own = T_odom_base @ inverse(placement.T_odom_base)
            self._broadcast(self._map_to_odom(stamp_ns) + self._ahead())

    def _take(self, placement: Placement, T_odom_base: np.ndarray) -> None:
        self._newest = placement, T_odom_base
        if self._config.planar:
            self.T_map_odom = planar_map_odom(placement.T_map_base, T_odom_base)
        else:
            self.T_map_odom = placement.T_map_base @ inverse(T_odom_base)

    def _ahead(self) -> list[TransformStamped]:
        """Return ``map -> odom`` with a stamp after that of the newest image.

        tf2 ignores a second transform with the same stamp, so each repetition adds a nanosecond.
        """
        self._repeats += 1
        tolerance_ns = round(self._config.transform_tolerance * _SECOND_NS)
        return self._map_to_odom(self._stamp_ns + tolerance_ns + self._repeats)

    def _map_to_odom(self, stamp_ns: int) -> list[TransformStamped]:
        config, T_map_odom = self._config, self.T_map_odom
        if not config.publish_map_to_odom_tf or config.odom_frame in self._refused:
            return []
        assert T_map_odom is not None, 'nothing is sent before the first estimate'
        return [transform_message(stamp_ns, config.map_frame, config.odom_frame, T_map_odom)]

    def _broadcast(self, edges: list[TransformStamped]) -> None:
        if not edges or self._closed:
            return
        for edge in edges:
            self._tree.echoes.expect(edge)
        self._broadcaster.sendTransform(edges)
        self._sent_s = time.monotonic()

    def _refuse_foreign_edges(self, base_frame: str) -> None:
        """Before the first estimate, find our edges that another node broadcasts."""
        if self.T_map_odom is not None:
            return
        config, refused = self._config, set()
        if config.publish_map_to_odom_tf and self._tree.report_conflict(config.odom_frame):
            refused.add(config.odom_frame)
        if config.publish_odom_to_base_tf and self._tree.report_conflict(base_frame):
            refused.add(base_frame)
        self._refused = refused
