"""Plays a bag of :mod:`r3_ros.input.bag_writer` over DDS with its recorded timing and its clock.

Messages are published as the recorded bytes, without decoding. Needs rclpy.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import time
from typing import Any

from ...core.trajectory_file import NANOSECONDS
from ...input.bag_source import BagReader, CAMERA_INFO, IMAGE

#: The clock is also published this often between messages, for the timers of subscribers.
_CLOCK_PERIOD_S = 0.01


class BagPlayer:
    """Publishes images and calibration of a bag through a node, and their time on ``/clock``.

    :raises SourceError: the bag cannot be read.
    """

    def __init__(self, path: Path, node: Any) -> None:
        from rosgraph_msgs.msg import Clock
        from sensor_msgs.msg import CameraInfo, Image

        self._bag = BagReader(path)
        self._clock = node.create_publisher(Clock, '/clock', 1)
        self._clock_ns = -1
        kinds = {IMAGE: Image, CAMERA_INFO: CameraInfo}
        # Reliable, which matches every subscriber; slow ones lose nothing.
        self._publishers = {
            connection.topic: node.create_publisher(
                kinds[connection.msgtype], connection.topic, 10
            )
            for connection in self._bag.connections
        }

    def close(self) -> None:
        """Close the bag."""
        self._bag.close()

    def without_subscriber(self) -> list[str]:
        """Return the topics that nobody has subscribed to."""
        publishers = self._publishers.items()
        return [topic for topic, to in publishers if not to.get_subscription_count()]

    def play(self, on_message: Callable[[str, int], None]) -> None:
        """Publish every message once, at the recorded pace.

        :param on_message: called with topic and time of recording (ns) of each message.
        :raises SourceError: the bag is damaged from some message on.
        """
        first_ns, began = None, time.monotonic()
        for connection, recorded_ns, data in self._bag.serialized():
            first_ns = recorded_ns if first_ns is None else first_ns
            due = began + (recorded_ns - first_ns) / NANOSECONDS
            while (left_s := due - time.monotonic()) > 0:
                self._publish_clock(recorded_ns - round(left_s * NANOSECONDS))
                time.sleep(min(left_s, _CLOCK_PERIOD_S))
            self._publish_clock(recorded_ns)
            self._publishers[connection.topic].publish(bytes(data))
            on_message(connection.topic, recorded_ns)

    def _publish_clock(self, now_ns: int) -> None:
        """Publish a time, unless it is not later than the last one."""
        from rclpy.time import Time
        from rosgraph_msgs.msg import Clock

        if now_ns > self._clock_ns:
            self._clock_ns = now_ns
            self._clock.publish(Clock(clock=Time(nanoseconds=now_ns).to_msg()))
