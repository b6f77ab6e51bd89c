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
_CLOCK_PERIOD_S = 0.01


@dataclass
class PlayResult:
    """What was published; ``late_ms`` is the largest delay of a message."""

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
        from rosgraph_msgs.msg import Clock

        self._bag = BagReader(path)
        self._rate = rate
        self._clock = node.create_publisher(Clock, '/clock', 1) if clock else None
        self._clock_ns = -1
        self.skipped_topics: list[str] = []
        self.publishers: dict[str, Any] = {}
        for connection in self._bag.connections:
            topic, kind = connection.topic, connection.msgtype
            try:
                # Reliable, which matches every subscriber; slow ones lose nothing.
                self.publishers[topic] = node.create_publisher(message_type(kind), topic, 10)
            except R3Error:
                self.skipped_topics.append(f'{topic} ({kind})')
        if not self.publishers:
            self.close()
            raise SourceError(f'{path} holds no message of a type that is installed here')

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
            while (left_s := due - time.monotonic()) > 0 and not stop.is_set():
                self._publish_clock(recorded_ns - round(left_s * self._rate * NANOSECONDS))
                stop.wait(min(left_s, _CLOCK_PERIOD_S))
            if stop.is_set():
                break
            self._publish_clock(recorded_ns)
            publisher.publish(bytes(data))
            result.messages += 1
            result.late_ms = max(result.late_ms, 1e3 * (time.monotonic() - due))
            if on_message is not None:
                on_message(connection.topic, recorded_ns)
        result.wall_s = time.monotonic() - began
        return result

    def _publish_clock(self, now_ns: int) -> None:
        """Publish a time, unless it is not later than the last one."""
        from rclpy.time import Time
        from rosgraph_msgs.msg import Clock

        if self._clock is not None and now_ns > self._clock_ns:
            self._clock_ns = now_ns
            self._clock.publish(Clock(clock=Time(nanoseconds=now_ns).to_msg()))


def message_type(kind: str) -> Any:
    """Return the class of a message type such as ``sensor_msgs/msg/Image``.

    :raises R3Error: its package is not installed here.
    """
    package, _, name = kind.split('/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), name)
    except (ImportError, AttributeError) as error:
        raise R3Error(f'the message type {kind} is not installed: {error}') from error
