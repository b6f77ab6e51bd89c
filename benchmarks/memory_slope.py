"""Memory over a long run of the scripted predictor: resident set, and what Python allocated.

python benchmarks/memory_slope.py
"""

from __future__ import annotations

import argparse
import gc
from pathlib import Path
import sys
import tracemalloc

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'test' / 'support')]

from r3_ros.core.config import R3Config  # noqa: E402
from r3_ros.streaming.engine import Engine  # noqa: E402
from scripted import frames, Script, ScriptedPredictor  # noqa: E402

#: Growth allowed once the bank is full.
LIMIT_MB = 1.0


def sampled(frame_count: int, every: int, traced: bool) -> tuple[np.ndarray, np.ndarray, int]:
    """Run the engine with its defaults.

    :returns: frame numbers, megabytes at each, and the first frame with a full bank.
    """
    engine = Engine(predictor := ScriptedPredictor(Script(translation_noise=0.002)), R3Config())
    process = psutil.Process()
    numbers, megabytes, full = [], [], frame_count
    if traced:
        tracemalloc.start()
    for number, frame in enumerate(frames(frame_count), start=1):
        engine.step(frame)
        predictor.contexts.clear()  # a record that the scripted predictor keeps for tests
        if len(engine.session.bank) == engine.config.keyframe.max_keyframes:
            full = min(full, number)
        if number % every == 0:
            gc.collect()
            used = tracemalloc.get_traced_memory()[0] if traced else process.memory_info().rss
            numbers.append(number)
            megabytes.append(used / 1e6)
    tracemalloc.stop()
    return np.array(numbers), np.array(megabytes), full


def main() -> int:
    """Measure, print, and fail if the limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--frames', type=int, default=10_000)
    parser.add_argument('--every', type=int, default=250)
    options = parser.parse_args()
    good = True
    for traced in (False, True):
        name = 'allocated by Python' if traced else 'resident set'
        numbers, megabytes, full = sampled(options.frames, options.every, traced)
        settled = numbers > full
        if settled.sum() < 3:
            print(f'the bank was not full in time: take more than {options.frames} frames')
            return 1
        slope = 1000 * np.polyfit(numbers[settled], megabytes[settled], 1)[0]
        good &= bool(slope < LIMIT_MB)
        print(
            f'{name}: bank full at frame {full}, {megabytes[settled][0]:.1f} MB then, '
            f'{megabytes[-1]:.1f} MB at frame {numbers[-1]}, {slope:+.3f} MB per 1000 frames'
        )
    print(f'limit {LIMIT_MB:g} MB per 1000 frames: {"holds" if good else "EXCEEDED"}')
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())
