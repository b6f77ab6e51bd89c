"""``r3 bag``: a folder of images or a video becomes a rosbag2 recording."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

from .options import positive_int

if TYPE_CHECKING:
    from ..input.bag_writer import SequenceSummary


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'bag',
        help='make a bag from images and calibration',
        description='Write images and CameraInfo as a rosbag2 recording (MCAP), every message '
        'with its own stamp.',
    )
    parser.add_argument('input', metavar='INPUT', help='folder of images, video, or bag')
    parser.add_argument(
        'output', metavar='OUT', help='file (OUT.mcap) or rosbag2 folder (any other name)'
    )
    parser.add_argument('--camera', metavar='FILE', help='calibration, as of r3 run')
    parser.add_argument('--topic', metavar='NAME', help='image topic, if INPUT has several')
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
    summary, warnings = write_bag(
        args.input, args.output, args, args.max_frames,
        topic=args.image_topic, compressed=args.compressed, overwrite=args.overwrite,
    )  # fmt: skip
    for warning in warnings:
        print(f'warning: {warning}', file=sys.stderr)
    if summary.shift_ns:
        print(
            'the times begin at zero, which ROS reads as "no time": '
            f'{summary.shift_ns / 1e9:g} s were added to all of them'
        )
    seconds = (summary.last_ns - summary.first_ns) / 1e9
    print(f'{summary.frames} frames over {seconds:.1f} s on {summary.topic}: {args.output}')
    return 0


def write_bag(
    path: Path | str,
    out: Path | str,
    args: argparse.Namespace,
    max_frames: int | None,
    encoding_hint: str = '',
    **options: Any,
) -> tuple[SequenceSummary, list[str]]:
    """Write any recording as a bag, with a progress bar; return what is in it, and warnings.

    :param args: ``camera`` and ``topic`` as of :func:`.open_source`; ``encoding_hint`` likewise.
    :param options: of :func:`.write_sequence`.
    """
    from itertools import islice

    from tqdm import tqdm

    from ..input.bag_writer import write_sequence
    from ..input.open_source import open_source

    with open_source(path, args.camera, args.topic, encoding_hint=encoding_hint) as source:
        if source.found:
            print(f'found {", ".join(source.found)}', flush=True)
        total = min(filter(None, (source.length, max_frames)), default=None)
        frames = islice(iter(source), max_frames)
        bar = tqdm(frames, total=total, unit=' frames', desc=source.name, disable=None)
        return write_sequence(Path(out), bar, source.camera, **options), source.warnings
