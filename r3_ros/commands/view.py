"""``r3 view``: shows a finished run or a saved map in the browser."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import add_view_options, open_scene, wait_for_interrupt


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'view',
        help='show a finished run or a saved map in the browser',
        description='Serve a page with the cloud, the keyframes and their graph, the path and '
        'the images, until Ctrl-C. A slider goes through the frames. To watch a run while it is '
        'processed: r3 run --view. To watch the node: ros2 launch r3_ros stream.launch.py '
        'viewer:=true.',
    )
    parser.add_argument(
        'input', metavar='DIR', help='output of r3 run, or a saved map (~/save_map, DIR/map)'
    )
    parser.add_argument(
        '--groundtruth', metavar='FILE', help='TUM file of the true path, which is aligned'
    )
    add_view_options(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from ..core.trajectory_file import read_tum
    from ..viewer.file_feed import load_finished, show_finished

    truth = read_tum(args.groundtruth) if args.groundtruth else None
    finished = load_finished(Path(args.input), truth)
    with open_scene(args) as scene:
        show_finished(scene, finished)
        wait_for_interrupt()
    return 0
