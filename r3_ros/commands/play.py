"""``r3 play``: publish a bag over DDS where ``ros2 bag`` is missing."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
import threading
from typing import Any


def register(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'play',
        help='publish a bag over DDS with its own timing',
        description='Publish every message of a bag at the pace it was recorded. Needs rclpy.',
    )
    parser.add_argument('bag', metavar='BAG', help='rosbag2 folder, .mcap or .db3 file')
    parser.add_argument('--rate', type=_rate, default=1.0, help='2 plays twice as fast')
    parser.add_argument('--loop', action='store_true', help='begin again at the end')
    parser.add_argument('--clock', action='store_true', help='publish /clock too')
    parser.add_argument(
        '--wait-for-subscribers',
        metavar='SECONDS',
        type=_seconds,
        nargs='?',
        const=30.0,
        help='wait for a listener before the first message (30 s if no time is given)',
    )
    parser.set_defaults(func=run)


def _rate(text: str) -> float:
    value = float(text)
    if not 0.01 <= value <= 100:
        raise argparse.ArgumentTypeError('must be between 0.01 and 100')
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86400:
        raise argparse.ArgumentTypeError('must be between 0 and 86400')
    return value


def run(args: argparse.Namespace) -> int:
    """Play until the end or until Ctrl-C."""
    from ..ros.demo.bag_player import BagPlayer, import_rclpy

    rclpy = import_rclpy()
    # Ctrl-C stays Python's, so that the bag and the node are closed in order.
    rclpy.init(args=[], signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    node = rclpy.create_node('r3_player')
    try:
        player = BagPlayer(Path(args.bag), node, args.rate, args.clock)
        try:
            return _play(player, args, node)
        finally:
            player.close()
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _play(player: Any, args: argparse.Namespace, node: Any) -> int:
    for topic in player.skipped_topics:
        print(f'warning: not played, its type is not installed: {topic}', file=sys.stderr)
    wait_s = args.wait_for_subscribers
    if wait_s is not None and not player.wait_for_subscribers(None, wait_s):
        print(f'warning: nobody listens after {wait_s:g} s; playing anyway', file=sys.stderr)
    stop = threading.Event()
    while True:
        result = player.play(stop)
        print(
            f'{result.messages} messages in {result.wall_s:.1f} s '
            f'({result.messages / max(result.wall_s, 1e-9):.1f}/s), at most '
            f'{result.late_ms:.0f} ms late'
        )
        if not args.loop:
            # Reliable listeners still ask for what the network lost.
            for publisher in player.publishers.values():
                publisher.wait_for_all_acked(_two_seconds())
            return 0


def _two_seconds() -> Any:
    from rclpy.duration import Duration

    return Duration(seconds=2)
