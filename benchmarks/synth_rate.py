"""Measure how quickly ``r3 synth`` makes worlds and frames on this machine.

Run it on an otherwise idle machine: ``python benchmarks/synth_rate.py [--frames 60]``.
"""

import argparse
import os
from pathlib import Path
import platform
import tempfile
import time

from r3_ros.learning.synth.dataset import SequenceOptions, write_sequence
import torch


def machine() -> str:
    """Return the processor's name and what is used of the machine."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines():
            if line.startswith('model name'):
                name = line.partition(':')[2].strip()
                break
    except OSError:
        pass
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'
    return f'{name}, {os.cpu_count()} cores, {gpu}, torch {torch.__version__}'


def measure(options: SequenceOptions, device: str) -> tuple[float, float]:
    """Return the seconds a world takes and the frames per second after it, files included."""
    marks = []

    def on_frames(count: int) -> None:
        marks.append(time.perf_counter())

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        write_sequence(options, Path(folder) / 'out', device=device, on_frames=on_frames)
        end = time.perf_counter()
    return marks[0] - start, options.frames / (end - marks[0])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--frames', type=int, default=60)
    parser.add_argument('--seeds', type=int, default=2)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args()
    print(machine())
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f'warning: the machine is busy (load {load:.1f}), so these are lower bounds')
    print('kind      seed  world s  frames/s (640x480, JPEG and depth files included)')
    for kind in ('room', 'corridor'):
        for seed in range(args.seeds):
            options = SequenceOptions(seed=seed, kind=kind, frames=args.frames)
            world_s, rate = measure(options, args.device)
            print(f'{kind:8s}  {seed:4d}  {world_s:7.1f}  {rate:8.1f}')


if __name__ == '__main__':
    main()
