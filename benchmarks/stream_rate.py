#!/usr/bin/env python3
"""What one image costs a stream with a network: by the clock, and of a processor's time.

    r3 synth demo --frames 300 --depth-every 0
    python benchmarks/stream_rate.py demo --checkpoint FILE --set model.depth_every=5

The engine on the calling thread, as in ``r3 run``, without the node and without waiting for the
camera. On a machine that does other work the time of the processor is what counts: its inverse is
the rate that one core could keep. ``make demo MODEL=r3_tiny`` tells the rate of the whole node.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
import time

import numpy as np
from r3_ros.commands.options import parsed_settings
from r3_ros.core.config import R3Config
from r3_ros.core.parameter_fields import updated
from r3_ros.factory import load_engine
from r3_ros.input.open_source import open_source
from r3_ros.offline.run_files import machine
from r3_ros.offline.stream_run import read_ahead, undistorted_frames

#: The first images make buffers, and have few frames to relate to.
_WARM_UP = 20


def main() -> int:
    """Run the stream and print a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('recording', type=Path)
    parser.add_argument('--model', default='r3_tiny')
    parser.add_argument('--checkpoint', default='')
    parser.add_argument('--max-frames', type=int)
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE')
    args = parser.parse_args()
    changes = {'model.name': args.model, 'model.checkpoint': args.checkpoint}
    config = updated(R3Config(), changes | parsed_settings(args.set, R3Config()))
    clock, processor, keyframes = measure(config, args.recording, args.max_frames)
    if len(clock) <= _WARM_UP:
        print(f'{args.recording} is too short: more than {_WARM_UP} images are needed')
        return 2
    about = machine()
    print(f'{about["cpu"]}, {about["cores"]} cores; {args.model} {" ".join(args.set)}')
    for name, seconds in (('clock', clock), ('processor', processor)):
        ms = 1e3 * np.array(seconds[_WARM_UP:])
        print(
            f'{name}: mean {ms.mean():.1f} ms ({1e3 / ms.mean():.1f} a second), median '
            f'{np.median(ms):.1f}, 95th percentile {np.percentile(ms, 95):.1f}'
        )
    print(f'{len(clock)} images, {keyframes} keyframes')
    return 0


def measure(
    config: R3Config, recording: Path, max_frames: int | None
) -> tuple[list[float], list[float], int]:
    """Return seconds of each step, of the clock and of this thread, and the keyframes."""
    engine = load_engine(config)
    clock: list[float] = []
    processor: list[float] = []
    keyframes = 0
    try:
        with (
            open_source(recording) as source,
            read_ahead(undistorted_frames(source, config, max_frames)) as frames,
        ):
            for frame, _ in frames:
                began, worked = time.perf_counter(), time.thread_time()
                keyframes += engine.step(frame).is_keyframe
                processor.append(time.thread_time() - worked)
                clock.append(time.perf_counter() - began)
    finally:
        engine.close()
    return clock, processor, keyframes


if __name__ == '__main__':
    sys.exit(main())
