"""``r3 play``: publishes a bag over DDS, on machines without ``ros2 bag``."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
import sys
import time
from typing import Any, TYPE_CHECKING

from ..core.errors import R3Error
from .options import bounded

if TYPE_CHECKING:
    from ..ros.demo.bag_player import BagPlayer


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'play',
        help='publish a bag over DDS',
        description='Publish every message of a bag as it was recorded: at its pace, and kept for '
        'late subscribers where it was. Needs ROS 2 (rclpy).',
    )
    parser.add_argument('bag', metavar='BAG', help='rosbag2 folder, .mcap or .db3 file')
    parser.add_argument('--clock', action='store_true', help='publish /clock too')
    parser.add_argument(
        '--wait-for-subscribers', metavar='SECONDS', type=bounded(0, 86400), default=0.0,
        help='wait so long for a subscriber before the first message',
    )  # fmt: skip
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    try:
        import rclpy
    except ImportError as error:
        raise R3Error(
            f'this command needs ROS 2 (rclpy): {error}. Source a ROS installation, or run '
            '`make setup` and then `. .venv/bin/activate && . install/setup.sh`'
        ) from error
    from ..ros.demo.bag_player import BagPlayer

    # Python handles Ctrl-C, so that the bag and the node are closed in order.
    rclpy.init(args=[], signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    node = rclpy.create_node('r3_player')
    try:
        with closing(BagPlayer(Path(args.bag), node, args.clock)) as player:
            return _play(player, args.wait_for_subscribers)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _play(player: BagPlayer, wait_s: float) -> int:
    for topic in player.unknown_topics:
        print(f'warning: not played, its type is not installed: {topic}', file=sys.stderr)
    deadline = time.monotonic() + wait_s
    while wait_s and not player.has_subscriber():
        if time.monotonic() > deadline:
            print(f'warning: no subscriber after {wait_s:g} s', file=sys.stderr)
            break
        time.sleep(0.02)
    counts = {'messages': 0}

    def count(topic: str, recorded_ns: int) -> None:
        counts['messages'] += 1

    player.play(count)
    player.acknowledged(2.0)
    print(f'{counts["messages"]} messages')
    return 0
