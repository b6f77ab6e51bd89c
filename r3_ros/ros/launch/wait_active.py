"""``r3_wait_active``: return when a lifecycle node is active, for launch files and scripts.

It polls the state, since transition events may be sent before it has subscribed to them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import signal
import sys
import threading
import time

from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args, try_shutdown

_PERIOD_S = 0.2
#: A later response was lost, or its node has ended.
_ANSWER_S = 5.0


def is_active(node: Node, name: str, deadline_s: float, stop: threading.Event) -> bool:
    """Poll a node's state until it is active; return False after the deadline.

    :param name: full name of the lifecycle node.
    :param deadline_s: by ``time.monotonic``.
    """
    client = node.create_client(GetState, f'{name}/get_state')
    while time.monotonic() < deadline_s and not stop.is_set():
        if not client.service_is_ready():
            rclpy.spin_once(node, timeout_sec=_PERIOD_S)
            continue
        future = client.call_async(GetState.Request())
        rclpy.spin_until_future_complete(node, future, timeout_sec=_ANSWER_S)
        if not future.done():
            future.cancel()
        elif future.result().current_state.id == State.PRIMARY_STATE_ACTIVE:
            return True
        stop.wait(_PERIOD_S)
    return False


def main(args: Sequence[str] | None = None) -> int:
    """Wait; return 0 when the node is active, 1 after the timeout, 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog='r3_wait_active', description=__doc__)
    parser.add_argument('node', help='name of the node, /r3')
    parser.add_argument('--timeout', type=float, default=300.0, help='seconds, 300 by default')
    given = list(sys.argv if args is None else ['r3_wait_active', *args])
    options = parser.parse_args(remove_ros_args(given)[1:])
    name = '/' + options.node.strip('/')
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.init(args=given, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = Node('r3_wait_active')
        if is_active(node, name, time.monotonic() + options.timeout, stop):
            return 0
        sys.stderr.write(
            f'r3_wait_active: {name} has not become active'
            + ('' if stop.is_set() else f' within {options.timeout:g} s: see its log')
            + '\n'
        )
        return 1
    finally:
        try_shutdown()


if __name__ == '__main__':
    sys.exit(main())
