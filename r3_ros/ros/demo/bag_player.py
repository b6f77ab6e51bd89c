"""Plays a bag over DDS with its recorded timing and its clock, where there is no ``ros2 bag``.

Messages are published as the recorded bytes, without decoding. Needs rclpy.
"""

from __future__ import annotations

from collections.abc import Callable
import importlib
from pathlib import Path
import time
from typing import Any

from rosbags.interfaces import Connection, QosDurability

from ...core.errors import SourceError
from ...core.trajectory_file import NANOSECONDS
from ...input.bag_source import BagReader
from ...input.image_topics import full_topic

#: The clock is also published this often between messages, for the timers of subscribers.
_CLOCK_PERIOD_S = 0.01
_DEPTH = 10
#: Longest wait for a reliable subscriber to take the first message of a topic. One that has not
#: yet found the publisher would miss the beginning: if a packet was lost, it finds it 3 s later.
_FIRST_MESSAGE_S = 5.0
#: Most messages of a latched topic that late subscribers get.
_MOST_KEPT = 1000


class BagPlayer:
    """Publishes the messages of a bag through a node, and their time on ``/clock``.

    :param with_clock: whether to publish ``/clock``.
    :ivar unknown_topics: topics and types that are not played, as the type is not installed.
    :raises SourceError: the bag cannot be read, or holds nothing to play.
    """

    def __init__(self, path: Path, node: Any, with_clock: bool = True) -> None:
        from rosgraph_msgs.msg import Clock

        self._bag = BagReader(path)
        self._clock = node.create_publisher(Clock, '/clock', 1) if with_clock else None
        self._clock_ns = -1
        self._publishers: dict[str, Any] = {}
        self._played: list[Connection] = []
        self.unknown_topics: list[str] = []
        try:
            if self._bag.is_ros1:
                raise SourceError(
                    f'{path} is a recording of ROS 1, whose messages have other bytes: convert it '
                    f'with `rosbags-convert --src {path} --dst {path.with_suffix("")}`'
                )
            for topic, connections in self._bag.topics().items():
                name = connections[0].msgtype
                try:
                    kind = _message_type(name)
                except (ImportError, AttributeError):
                    self.unknown_topics.append(f'{topic} ({name})')
                    continue
                self._publishers[topic] = node.create_publisher(kind, topic, _qos(connections))
                self._played += [c for c in connections if c.msgtype == name]
            if not self._publishers:
                raise SourceError(f'{path} holds no message of a type that is installed')
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the bag."""
        self._bag.close()

    def acknowledged(self, timeout_s: float) -> None:
        """Wait until reliable subscribers have everything; they request again what was lost."""
        from rclpy.duration import Duration

        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=timeout_s))

    def has_subscriber(self) -> bool:
        """Return whether anybody has subscribed to any topic."""
        return any(publisher.get_subscription_count() for publisher in self._publishers.values())

    def without_subscriber(self) -> list[str]:
        """Return the topics that nobody has subscribed to."""
        publishers = self._publishers.items()
        return [topic for topic, to in publishers if not to.get_subscription_count()]

    def play(self, on_message: Callable[[str, int], None]) -> None:
        """Publish every message once, at the recorded pace.

        The recording halts at the first message of each topic until reliable subscribers have it.

        :param on_message: called with topic and time of recording (ns) of each message.
        :raises SourceError: the bag is damaged from some message on.
        """
        from rclpy.duration import Duration

        first_ns, began, begun = None, time.monotonic(), set()
        for connection, recorded_ns, data in self._bag.serialized(self._played):
            first_ns = recorded_ns if first_ns is None else first_ns
            due = began + (recorded_ns - first_ns) / NANOSECONDS
            while (left_s := due - time.monotonic()) > 0:
                self._publish_clock(recorded_ns - round(left_s * NANOSECONDS))
                time.sleep(min(left_s, _CLOCK_PERIOD_S))
            self._publish_clock(recorded_ns)
            topic = full_topic(connection.topic)
            publisher = self._publishers[topic]
            publisher.publish(bytes(data))
            on_message(topic, recorded_ns)
            if topic not in begun:
                begun.add(topic)
                published = time.monotonic()
                publisher.wait_for_all_acked(Duration(seconds=_FIRST_MESSAGE_S))
                began += time.monotonic() - published

    def _publish_clock(self, now_ns: int) -> None:
        """Publish a time, unless it is not later than the last one."""
        from rclpy.time import Time
        from rosgraph_msgs.msg import Clock

        if self._clock is not None and now_ns > self._clock_ns:
            self._clock_ns = now_ns
            self._clock.publish(Clock(clock=Time(nanoseconds=now_ns).to_msg()))


def _message_type(name: str) -> Any:
    """Return the class of a message type such as ``sensor_msgs/msg/Image``."""
    module, _, kind = name.rpartition('/')
    return getattr(importlib.import_module(module.replace('/', '.')), kind)


def _qos(connections: list[Connection]) -> Any:
    """Return the quality of service of a topic: kept for late subscribers if it was recorded so.

    Reliable, which matches every subscriber; slow ones lose nothing.
    """
    from rclpy.qos import DurabilityPolicy, QoSProfile

    kept = QosDurability.TRANSIENT_LOCAL
    offers = [q for c in connections for q in getattr(c.ext, 'offered_qos_profiles', ())]
    # tf2 listens to nothing else there, and old recordings do not say it.
    is_static_tf = connections[0].topic == '/tf_static'
    if is_static_tf or (offers and all(q.durability == kept for q in offers)):
        # Those of all publishers, which are one now.
        depth = min(sum(c.msgcount for c in connections), _MOST_KEPT)
        return QoSProfile(depth=max(depth, 1), durability=DurabilityPolicy.TRANSIENT_LOCAL)
    return QoSProfile(depth=_DEPTH)
