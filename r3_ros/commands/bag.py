"""``r3 bag``: a folder of pictures or a video becomes a rosbag2 recording."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
from typing import Any

from ..command_options import positive_int


def register(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'bag',
        help='make a bag from pictures, calibration and ground truth',
        description='Write pictures, CameraInfo and ground truth as a rosbag2 recording (MCAP), '
        'every message with its own stamp.',
    )
    parser.add_argument('input', metavar='INPUT', help='folder of pictures, video, or bag')
    parser.add_argument(
        'output', metavar='OUT', help='file (OUT.mcap) or rosbag2 folder (any other name)'
    )
    parser.add_argument('--camera', metavar='FILE', help='ROS calibration file')
    parser.add_argument(
        '--groundtruth', metavar='FILE', help='TUM file, camera-to-world in optical axes'
    )
    parser.add_argument('--topic', metavar='NAME', help='picture topic, if INPUT has several')
    parser.add_argument(
        '--image-topic', metavar='NAME', default='/camera/image_raw', help='topic to write'
    )
    parser.add_argument(
        '--compressed', action='store_true', help='write CompressedImage on <topic>/compressed'
    )
    parser.add_argument('--max-frames', metavar='N', type=positive_int, help='stop after N frames')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing bag')
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Write the bag."""
    from itertools import islice

    from tqdm import tqdm

    from ..input.bag_writer import SequenceTopics, write_sequence
    from ..input.open_source import open_source
    from ..trajectory_file import read_tum

    truth = read_tum(args.groundtruth) if args.groundtruth else None
    topics = SequenceTopics(image=args.image_topic, compressed=args.compressed)
    with open_source(args.input, args.camera, args.topic) as source:
        frames = islice(iter(source), args.max_frames)
        total = min(filter(None, (source.length, args.max_frames)), default=None)
        bar = tqdm(frames, total=total, unit=' frames', desc=source.name, disable=None)
        summary = write_sequence(
            Path(args.output), bar, source.camera, truth, topics, overwrite=args.overwrite
        )
        for warning in source.warnings:
            print(f'warning: {warning}', file=sys.stderr)
    if summary.shift_ns:
        print(
            'the times begin at zero, which ROS reads as "no time": '
            f'{summary.shift_ns / 1e9:g} s were added to all of them'
        )
    seconds = (summary.last_ns - summary.first_ns) / 1e9
    print(f'{summary.frames} frames over {seconds:.1f} s on {topics.sent_image}: {args.output}')
    return 0
