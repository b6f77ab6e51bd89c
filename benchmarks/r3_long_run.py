"""Memory and time of R3 on a stream that does not end: a sequence forwards and backwards.

    python benchmarks/r3_long_run.py ../data/house --frames 2000 --budget 2048
    python benchmarks/r3_long_run.py ../data/house --budget 128 --set memory.max_host_mib=128

Weights are random, or those of --checkpoint. Resident memory and the CPU time of a frame are
fitted with a line over the frames once the bank is full, and the slopes printed per 1,000. With
--compare the first frames are run again with a budget ten times as large: as long as nothing is
evicted the poses must be the same, to the last bit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
import itertools
from pathlib import Path
import sys
import tempfile
import time

import numpy as np
import psutil
from r3_ros.core.config import R3Config
from r3_ros.core.datatypes import Frame
from r3_ros.core.parameter_fields import updated
from r3_ros.factory import load_engine
from r3_ros.input.open_source import open_source
from r3_ros.streaming.engine import Engine
from tqdm import tqdm

PERIOD_NS = 33_333_333
#: Frames after the bank has reached its final size before anything is measured.
WARM_UP = 100


def looped_images(folder: Path) -> Iterator[np.ndarray]:
    """Give the images of a folder forwards and backwards, for ever."""
    with open_source(folder) as source:
        loaded = [raw.image for raw in source]
    yield from itertools.cycle([*loaded, *loaded[-2:0:-1]])


def stream(
    engine: Engine, folder: Path, count: int
) -> tuple[list[np.ndarray | None], np.ndarray, np.ndarray, np.ndarray]:
    """Run frames; return their poses, and of each CPU seconds, resident MiB and keyframes."""
    process = psutil.Process()
    poses, (seconds, resident, keyframes) = [], np.zeros((3, count))
    bar = tqdm(itertools.islice(looped_images(folder), count), total=count, unit=' frames')
    for n, image in enumerate(bar):
        began = time.process_time()  # other work on the machine does not show in it
        estimate = engine.step(Frame(image, (n + 1) * PERIOD_NS))
        seconds[n] = time.process_time() - began
        resident[n] = process.memory_info().rss / 2**20
        keyframes[n] = len(engine.session.bank)
        poses.append(estimate.T_world_camera)
        bar.set_postfix_str(f'{estimate.state.value}, {len(engine.session.bank)} keyframes')
    return poses, seconds, resident, keyframes


def slope_per_1000(values: np.ndarray, robust: bool = False) -> float:
    """Return the slope of a line through values, per 1,000 of them.

    :param robust: through the medians of fifty stretches, for values with a heavy tail.
    """
    x = np.arange(len(values), dtype=np.float64)
    if robust:
        parts = np.array_split(np.arange(len(values)), min(50, len(values)))
        x = np.array([part.mean() for part in parts])
        values = np.array([np.median(values[part]) for part in parts])
    return 1000 * float(np.polyfit(x, values, 1)[0])


def random_weights(variant: str, folder: Path) -> Path:
    """Write random weights whose answers differ from frame to frame."""
    from r3_ros.model.building import build_network
    from r3_ros.model.variants import VARIANTS
    from r3_ros.model.weights.checkpoint import save_network
    import torch

    torch.manual_seed(0)
    path = folder / f'{variant}.safetensors'
    save_network(build_network(VARIANTS[variant]), path)
    return path


def main() -> int:
    """Run the stream and print the figures; 1 if the comparison fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='folder of images')
    parser.add_argument('--frames', type=int, default=2000)
    parser.add_argument('--budget', type=int, default=2048, help='memory.max_gpu_mib')
    parser.add_argument('--variant', default='r3-small')
    parser.add_argument('--checkpoint', type=Path)
    parser.add_argument('--image-size', type=int, default=252)
    parser.add_argument('--compare', type=int, default=0, metavar='N', help='frames run twice')
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE')
    args = parser.parse_args()
    from r3_ros.commands.options import parsed_settings

    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = args.checkpoint or random_weights(args.variant, Path(scratch))
        config = updated(
            R3Config(),
            {
                'model.name': 'r3',
                'model.checkpoint': str(checkpoint),
                'model.image_size': args.image_size,
                'memory.max_gpu_mib': args.budget,
                **parsed_settings(args.set, R3Config()),
            },
        )
        engine = load_engine(config)
        poses, seconds, resident, keyframes = stream(engine, args.folder, args.frames)
        engine.close()
        full = int(np.argmax(keyframes == keyframes[-1]))
        tail = slice(min(full + WARM_UP, args.frames // 2), None)
        per_frame = np.median(seconds[tail])
        print(
            f'{args.frames} frames, {1e3 * per_frame:.0f} ms of CPU time each (median); '
            f'{sum(p is not None for p in poses)} with a pose\n'
            f'from frame {tail.start} on, with {keyframes[-1]:.0f} keyframes:\n'
            f'memory: {resident[-1]:.0f} MiB at the end, '
            f'{slope_per_1000(resident[tail]):+.2f} MiB per 1,000 frames\n'
            f'time: {100 * slope_per_1000(seconds[tail], robust=True) / per_frame:+.2f} % per '
            '1,000 frames'
        )
        if not args.compare:
            return 0
        roomy = replace(
            config, memory=replace(config.memory, max_gpu_mib=10 * config.memory.max_gpu_mib)
        )
        engine = load_engine(roomy)
        again, *_ = stream(engine, args.folder, args.compare)
        engine.close()
    same = all(
        a is b or (a is not None and b is not None and np.array_equal(a, b))
        for a, b in zip(poses, again, strict=False)
    )
    print(f'the first {args.compare} poses with ten times the budget: '
          f'{"the same" if same else "NOT the same"}')  # fmt: skip
    return 0 if same else 1


if __name__ == '__main__':
    sys.exit(main())
