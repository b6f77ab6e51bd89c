"""The process of the node: arguments, signals and exit status.

The node runs in its own thread, so the main thread handles signals in time whatever the node does:
loading a model, processing a frame, or saving to a slow disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
import os
import signal
import sys
import threading
import time
import traceback
import warnings

import rclpy
from rclpy.exceptions import InvalidHandle
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import try_shutdown

from ..core.errors import ConfigError
from ..core.threads import thread_name, THREAD_PREFIX
from .node import one_line, R3StreamNode, RCLError
from .services.services import WRITER

#: From a signal to the end of the process; unfinished work is abandoned then.
_END_S = 2.5
#: Part of it, for an abandoned save to remove its temporary files.
_TIDY_S = 1.0
#: Added if the map is saved at the end: launch kills 10 s after its first signal.
_LAST_SAVE_S = 6.0


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; return the exit status."""
    stopping = threading.Event()
    # Instead of rclpy's handlers: the context stays valid while the node shuts down in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    try:
        rclpy.init(
            args=None if args is None else list(args),
            signal_handler_options=SignalHandlerOptions.NO,
        )
    except RuntimeError as error:
        sys.stderr.write(f'r3_stream: wrong arguments: {one_line(error)}\n')
        return 2
    try:
        with warnings.catch_warnings():
            # rclpy's warning about its cleanup after the error that is reported below.
            warnings.filterwarnings('ignore', 'Failed to fini rosout', RuntimeWarning)
            node = R3StreamNode()
    except (ConfigError, RCLError) as error:
        text = str(error)
        if isinstance(error, RCLError):
            text = (
                f'ROS cannot create the node: {one_line(error)}; check ROS_SECURITY_ENABLE and '
                'the keystore, ROS_DOMAIN_ID, RMW_IMPLEMENTATION and the configuration of the '
                'middleware'
            )
        sys.stderr.write(f'r3_stream: {text}\n')
        try_shutdown()
        return 2
    runner = _Runner(node, stopping)
    runner.start()
    stopping.wait()
    runner.wake()
    deadline_s = time.monotonic() + _END_S
    runner.join(_left_s(deadline_s))
    if node.saves_at_the_end:
        deadline_s += _LAST_SAVE_S
    _end_saves(node, deadline_s)
    stuck = [t for t in threading.enumerate() if t.name.startswith(THREAD_PREFIX)]
    if runner.is_alive():
        # Removes the node from the graph, or another of its name could not start.
        node.destroy_node()
    if stuck:
        # A model that does not return must not keep the process alive.
        sys.stderr.flush()
        os._exit(runner.status)
    try_shutdown()
    return runner.status


class _Runner(threading.Thread):
    """Configures and runs the node until it is stopped or fails."""

    def __init__(self, node: R3StreamNode, stopping: threading.Event) -> None:
        super().__init__(name=thread_name('executor'), daemon=True)
        self.status = 0
        self._node = node
        self._stopping = stopping
        self._wake_up = node.create_guard_condition(lambda: None)

    def wake(self) -> None:
        """Have it see at once that it is to stop (any thread)."""
        with suppress(InvalidHandle):  # the node is destroyed already
            self._wake_up.trigger()

    def run(self) -> None:
        executor = SingleThreadedExecutor()
        executor.add_node(self._node)
        try:
            self._work(executor)
            self._node.close()
            executor.remove_node(self._node)
            self._node.destroy_node()
            executor.shutdown(timeout_sec=0.5)
            self.status = self.status or self._node.exit_status
        except Exception:  # the edge of the thread: the process ends
            self.status = 1
            traceback.print_exc()
        finally:
            self._stopping.set()

    def _work(self, executor: SingleThreadedExecutor) -> None:
        node, stopping = self._node, self._stopping
        if not node.get_parameter('autostart').value:
            node.get_logger().info('waits to be configured (autostart is false)')
        elif not node.autostart():
            self.status = 0 if stopping.is_set() else 1
            return
        while not (stopping.is_set() or node.exit_status):
            executor.spin_once()


def _end_saves(node: R3StreamNode, deadline_s: float) -> None:
    """Wait for running saves; cancel those that do not end in time."""
    writers = [t for t in threading.enumerate() if t.name.startswith(thread_name(WRITER))]
    for thread in writers:
        thread.join(_left_s(deadline_s - _TIDY_S))
    node.cancel_saves()
    for thread in writers:
        thread.join(_left_s(deadline_s))


def _left_s(deadline_s: float) -> float:
    return max(deadline_s - time.monotonic(), 0.0)


if __name__ == '__main__':
    sys.exit(main())
