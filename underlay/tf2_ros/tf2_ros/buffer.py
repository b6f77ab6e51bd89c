"""The tree of frames, with waiting, and cleared when the clock jumps back."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition
import time as wall

from geometry_msgs.msg import TransformStamped
from rclpy.clock import Clock, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.task import Future
from rclpy.time import Time

from .buffer_core import BufferCore

NO_WAIT = Duration()


class Buffer(BufferCore):
    """What a listener fills and a node asks."""

    def __init__(self, cache_time: Duration | None = None, node: Node | None = None) -> None:
        """Make an empty buffer.

        :param cache_time: how far back lookups reach, 10 s by default.
        :param node: whose clock is watched for jumps; with simulated time a bag that starts
            again would otherwise leave transforms of the future behind.
        """
        super().__init__(cache_time)
        self._changed = Condition()
        self._watchers: list[Callable[[], None]] = []
        self.clock = node.get_clock() if node is not None else Clock()
        threshold = JumpThreshold(
            min_forward=None, min_backward=Duration(seconds=-1), on_clock_change=True
        )
        self.jump_handle = self.clock.create_jump_callback(
            threshold, post_callback=self.time_jump_callback
        )

    def time_jump_callback(self, time_jump: TimeJump) -> None:
        """Forget what belongs to the time before the jump."""
        get_logger('tf2_buffer').warning('Detected jump back in time. Clearing tf buffer.')
        self.clear()

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        """Insert a transform that holds at its stamp, and wake who waits."""
        super().set_transform(transform, authority)
        self._announce()

    def set_transform_static(self, transform: TransformStamped, authority: str) -> None:
        """Insert a transform that holds for ever, and wake who waits."""
        super().set_transform_static(transform, authority)
        self._announce()

    def lookup_transform(
        self, target_frame: str, source_frame: str, time: Time, timeout: Duration = NO_WAIT
    ) -> TransformStamped:
        """Return the transform that takes points from ``source_frame`` to ``target_frame``.

        :param time: a zero time asks for the newest moment at which the whole chain is known.
        :param timeout: how long to wait for it; another thread has to fill the buffer meanwhile.
        :raises TransformException: one of its kinds, if there is no such transform.
        """
        self.can_transform(target_frame, source_frame, time, timeout)
        return self.lookup_transform_core(target_frame, source_frame, time)

    def can_transform(
        self,
        target_frame: str,
        source_frame: str,
        time: Time,
        timeout: Duration = NO_WAIT,
        return_debug_tuple: bool = False,
    ) -> bool | tuple[bool, str]:
        """Tell whether a lookup would succeed, within the timeout.

        :param return_debug_tuple: also say why not.
        """
        deadline = wall.monotonic() + timeout.nanoseconds / 1e9
        with self._changed:
            answer = self.can_transform_core(target_frame, source_frame, time)
            while not answer[0] and (remaining := deadline - wall.monotonic()) > 0.0:
                self._changed.wait(remaining)
                answer = self.can_transform_core(target_frame, source_frame, time)
        return answer if return_debug_tuple else answer[0]

    def wait_for_transform_async(self, target_frame: str, source_frame: str, time: Time) -> Future:
        """Return a future that is done as soon as the transform is there, and holds it."""
        future = Future()

        def look() -> None:
            if not future.done() and self.can_transform_core(target_frame, source_frame, time)[0]:
                future.set_result(self.lookup_transform_core(target_frame, source_frame, time))

        look()
        if not future.done():
            with self._changed:
                self._watchers.append(look)
            future.add_done_callback(lambda _: self._forget(look))
            # What arrived in between was announced to nobody.
            look()
        return future

    async def lookup_transform_async(
        self, target_frame: str, source_frame: str, time: Time
    ) -> TransformStamped:
        """Wait for the transform without holding a thread, and return it."""
        return await self.wait_for_transform_async(target_frame, source_frame, time)

    def _announce(self) -> None:
        with self._changed:
            self._changed.notify_all()
            watchers = list(self._watchers)
        for look in watchers:
            look()

    def _forget(self, look: Callable[[], None]) -> None:
        with self._changed:
            if look in self._watchers:
                self._watchers.remove(look)
