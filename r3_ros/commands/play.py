"""``r3 play``: publishes a bag over DDS without ``ros2 bag``."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
import sys
import threading
from typing import Any

from ..core.errors import R3Error
from .options import bounded


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'play',
        help='publish a bag over DDS with its own timing',
        description='Publish every message of a bag at the pace it was recorded. Needs rclpy.',
    )
    parser.add_argument('bag', metavar='BAG', help='rosbag2 folder, .mcap or .db3 file')
    parser.add_argument(
        '--rate', type=bounded(0.01, 100), default=1.0, help='2 plays twice as fast'
    )
    parser.add_argument('--loop', action='store_true', help='begin again at the end')
    parser.add_argument('--clock', action='store_true', help='publish /clock too')
    parser.add_argument(
        '--wait-for-subscribers', metavar='SECONDS', type=bounded(0, 86400), nargs='?', const=30.0,
        help='wait for a subscriber before the first message (30 s if no time is given)',
    )  # fmt: skip
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from ..ros.demo.bag_player import BagPlayer

    try:
        import rclpy
    except ImportError as error:
        raise R3Error(
            f'this command needs ROS 2 (rclpy): {error}. Source a ROS installation, or run '
            '`make setup` and then `. .venv/bin/activate && . install/setup.sh`'
        ) from error
    # Python handles Ctrl-C, so that the bag and the node are closed in order.
    rclpy.init(args=[], signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    node = rclpy.create_node('r3_player')
    try:
        with closing(BagPlayer(Path(args.bag), node, args.rate, args.clock)) as player:
            return _play(player, args)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _play(player: Any, args: argparse.Namespace) -> int:
    from rclpy.duration import Duration

    for topic in player.skipped_topics:
        print(f'warning: not played, its type is not installed: {topic}', file=sys.stderr)
    wait_s = args.wait_for_subscribers
    if wait_s is not None and not player.wait_for_subscribers(None, wait_s):
        print(f'warning: no subscriber after {wait_s:g} s; playing anyway', file=sys.stderr)
    stop = threading.Event()
    while True:
        result = player.play(stop)
        print(
            f'{result.messages} messages in {result.wall_s:.1f} s '
            f'({result.messages / max(result.wall_s, 1e-9):.1f}/s), at most '
            f'{result.late_ms:.0f} ms late'
        )
        if not args.loop:
            # Reliable subscribers still request what the network lost.
            for publisher in player.publishers.values():
                publisher.wait_for_all_acked(Duration(seconds=2))
            return 0
