"""A thread for the subscriptions and timers that fire often.

rclpy's executors put every entity of a node into a new wait set each time they wait, and wait
twice for each callback. The node has some 80 entities, mostly event handlers of publishers, so
that took many times as long as the callbacks themselves. See docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
import threading
import time
import traceback
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock
from rclpy.event_handler import EventHandler
from rclpy.exceptions import InvalidHandle
from rclpy.guard_condition import GuardCondition
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription
from rclpy.timer import Timer

from ...core.threads import RepeatingThread

#: After it, the thread sees that its node was destroyed or the context shut down.
_WAIT_NS = 1_000_000_000
_END_S = 2.0
#: So that an error that lasts does not fill the log.
_AFTER_ERROR_S = 0.1


class _WithoutExecutor(ReentrantCallbackGroup):
    """Keeps its entities out of the executor's wait sets."""

    def can_execute(self, entity: Any) -> bool:
        return False


class InputThread:
    """Runs the callbacks of the subscriptions and timers that are created here.

    All methods are for the executor thread.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._subscriptions: list[Subscription] = []
        self._timers: list[Timer] = []
        # Held while a callback runs, and to change the lists.
        self._lock = threading.Lock()
        self._changed = GuardCondition(callback=None, callback_group=None, context=node.context)
        self._thread = RepeatingThread('inputs', self._turn, self._on_error)
        self._thread.start()

    def create_subscription(
        self,
        kind: type[Any],
        topic: str,
        callback: Callable[[Any], None],
        qos: QoSProfile | int,
        **options: Any,
    ) -> Subscription:
        """Subscribe with rclpy's options; the callback is called in this thread."""
        subscription = self._node.create_subscription(
            kind, topic, callback, qos, callback_group=_WithoutExecutor(), **options
        )
        self._change(lambda: self._subscriptions.append(subscription))
        return subscription

    def destroy_subscription(self, subscription: Subscription) -> None:
        """Unsubscribe; afterwards the callback is not called again."""
        self._change(lambda: self._subscriptions.remove(subscription))
        self._node.destroy_subscription(subscription)

    def create_timer(self, period_s: float, callback: Callable[[], None], clock: Clock) -> Timer:
        """Call a callback periodically in this thread."""
        timer = self._node.create_timer(period_s, callback, _WithoutExecutor(), clock)
        self._change(lambda: self._timers.append(timer))
        return timer

    def destroy_timer(self, timer: Timer) -> None:
        """End a timer; afterwards its callback is not called again."""
        self._change(lambda: self._timers.remove(timer))
        self._node.destroy_timer(timer)

    def close(self) -> None:
        """End the thread; what was created here has to be destroyed before."""
        self._thread.stop(0.0)
        self._changed.trigger()
        self._thread.stop(_END_S)
        self._changed.destroy()

    def _change(self, change: Callable[[], None]) -> None:
        with self._lock:
            change()
        self._changed.trigger()

    # The thread itself.

    def _turn(self) -> None:
        """Wait until something is ready, and call its callback."""
        with ExitStack() as in_use:
            with self._lock:
                subscriptions, timers = self._subscriptions.copy(), self._timers.copy()
                # Not left to the executor: waiting for them wakes for each message, too.
                events = [event for each in subscriptions for event in each.event_handlers]
                try:
                    # So that they are destroyed only after the wait.
                    for entity in (*subscriptions, *timers, self._changed, self._node.context):
                        in_use.enter_context(entity.handle)
                    for event in events:
                        in_use.enter_context(event)
                except InvalidHandle:  # the node was destroyed
                    self._thread.stop(0.0)
                    return
            wait_set = self._wait(subscriptions, timers, events)
            ready = wait_set.get_ready_entities('subscription')
            for subscription in subscriptions:
                if subscription.handle.pointer in ready:
                    self._take(subscription)
                for event in subscription.event_handlers:
                    if event.is_ready(wait_set):
                        self._report(subscription, event)
            ready = wait_set.get_ready_entities('timer')
            for timer in timers:
                if timer.handle.pointer in ready and timer.handle.is_timer_ready():
                    self._fire(timer)

    def _wait(
        self, subscriptions: list[Subscription], timers: list[Timer], events: list[EventHandler]
    ) -> Any:
        wait_set = rclpy_implementation.WaitSet(
            len(subscriptions), 1, len(timers), 0, 0, len(events), self._node.context.handle
        )
        wait_set.clear_entities()
        for subscription in subscriptions:
            wait_set.add_subscription(subscription.handle)
        for timer in timers:
            wait_set.add_timer(timer.handle)
        for event in events:
            event.add_to_wait_set(wait_set)
        wait_set.add_guard_condition(self._changed.handle)
        wait_set.wait(_WAIT_NS)
        return wait_set

    def _take(self, subscription: Subscription) -> None:
        with self._lock:
            if subscription not in self._subscriptions:
                return
            taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
            if taken is not None:
                subscription.callback(taken[0])

    def _report(self, subscription: Subscription, event: EventHandler) -> None:
        with self._lock:
            if subscription in self._subscriptions and (data := event.take_data()) is not None:
                event.callback(data)

    def _fire(self, timer: Timer) -> None:
        with self._lock:
            if timer in self._timers:
                timer.handle.call_timer()
                timer.callback()

    def _on_error(self, error: Exception) -> None:
        if not self._node.context.ok():  # it was shut down
            self._thread.stop(0.0)
            return
        text = ''.join(traceback.format_exception(error))
        self._node.get_logger().error(f'internal error, a message was not used:\n{text}')
        time.sleep(_AFTER_ERROR_S)
