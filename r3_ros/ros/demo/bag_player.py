"""Plays a bag over DDS with its recorded timing, for machines without ``ros2 bag``.

Messages are published as the recorded bytes, without decoding. Needs rclpy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import importlib
from pathlib import Path
import threading
import time
from typing import Any

from ...core.errors import R3Error, SourceError
from ...core.trajectory_file import NANOSECONDS
from ...input.bag_source import BagReader

#: The clock is also published this often between messages, for the timers of subscribers.
_CLOCK_PERIOD_NS = 10_000_000


@dataclass
class PlayResult:
    """What was published.

    :ivar late_ms: the largest delay of a message.
    """

    messages: int = 0
    wall_s: float = 0.0
    late_ms: float = 0.0


class BagPlayer:
    """Publishes the messages of a bag through a node, at their recorded times.

    :param rate: 2.0 plays twice as fast.
    :param clock: whether to publish the time of the recording on ``/clock``, too.
    :raises SourceError: the bag cannot be read, or has no message of an installed type.
    """

    def __init__(self, path: Path, node: Any, rate: float = 1.0, clock: bool = False) -> None:
        self._bag = BagReader(path)
        self._rate = rate
        self.skipped_topics: list[str] = []
        self.publishers: dict[str, Any] = {}
        try:
            for connection in self._bag.connections:
                self._add_publisher(node, connection.topic, connection.msgtype)
            if not self.publishers:
                raise SourceError(f'{path} holds no message of a type that is installed here')
        except BaseException:
            self._bag.close()
            raise
        self._clock = _ClockPublisher(node) if clock else None

    def _add_publisher(self, node: Any, topic: str, kind: str) -> None:
        from rclpy.qos import QoSProfile, ReliabilityPolicy

        try:
            message_class = message_type(kind)
        except R3Error:
            self.skipped_topics.append(f'{topic} ({kind})')
            return
        # Reliable matches every subscriber; with a depth of 10, slow ones lose nothing.
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        self.publishers[topic] = node.create_publisher(message_class, topic, qos)

    def close(self) -> None:
        """Close the bag."""
        self._bag.close()

    def wait_for_subscribers(self, topic: str | None, timeout_s: float) -> bool:
        """Wait for a subscriber of a topic (of any, if None); return whether there is one."""
        wanted = [self.publishers[topic]] if topic else list(self.publishers.values())
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if any(publisher.get_subscription_count() for publisher in wanted):
                return True
            time.sleep(0.02)
        return False

    def play(
        self,
        stop: threading.Event | None = None,
        on_message: Callable[[str, int], None] | None = None,
    ) -> PlayResult:
        """Publish every message once.

        :param stop: ends it early once set.
        :param on_message: called with topic and time of recording (ns) of each message.
        :raises SourceError: the bag is damaged from some message on.
        """
        stop = stop or threading.Event()
        result, first_ns = PlayResult(), None
        began = time.monotonic()
        for connection, recorded_ns, data in self._bag.serialized():
            publisher = self.publishers.get(connection.topic)
            if publisher is None:
                continue
            first_ns = recorded_ns if first_ns is None else first_ns
            due = began + (recorded_ns - first_ns) / NANOSECONDS / self._rate
            self._wait_until(due, began, first_ns, stop)
            if stop.is_set():
                break
            if self._clock is not None:
                self._clock.publish(recorded_ns)
            publisher.publish(bytes(data))
            result.messages += 1
            result.late_ms = max(result.late_ms, 1e3 * (time.monotonic() - due))
            if on_message is not None:
                on_message(connection.topic, recorded_ns)
        result.wall_s = time.monotonic() - began
        return result

    def _wait_until(self, due: float, began: float, first_ns: int, stop: threading.Event) -> None:
        """Wait for the next message's time, and publish the clock meanwhile."""
        while not stop.is_set():
            now = time.monotonic()
            if now >= due:
                return
            pause = due - now
            if self._clock is not None:
                self._clock.publish(first_ns + round((now - began) * self._rate * NANOSECONDS))
                pause = min(pause, _CLOCK_PERIOD_NS / NANOSECONDS)
            stop.wait(pause)


class _ClockPublisher:
    def __init__(self, node: Any) -> None:
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from rosgraph_msgs.msg import Clock

        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        self._publisher = node.create_publisher(Clock, '/clock', qos)
        self._message = Clock()
        self._last_ns = -1

    def publish(self, stamp_ns: int) -> None:
        """Publish a time, unless it is not later than the last one."""
        if stamp_ns <= self._last_ns:
            return
        self._last_ns = stamp_ns
        sec, nanosec = divmod(stamp_ns, NANOSECONDS)
        self._message.clock.sec, self._message.clock.nanosec = sec, nanosec
        self._publisher.publish(self._message)


def message_type(kind: str) -> Any:
    """Return the class of a message type such as ``sensor_msgs/msg/Image``.

    :raises R3Error: its package is not installed here.
    """
    package, _, name = kind.split('/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), name)
    except (ImportError, AttributeError) as error:
        raise R3Error(f'the message type {kind} is not installed: {error}') from error


def import_rclpy() -> Any:
    """Return the rclpy module.

    :raises R3Error: ROS is not installed or sourced.
    """
    try:
        return importlib.import_module('rclpy')
    except ImportError as error:
        raise R3Error(
            f'this command needs ROS 2 (rclpy): {error}. Source a ROS installation, or run '
            '`make setup` and then `. .venv/bin/activate && . install/setup.sh`'
        ) from error
