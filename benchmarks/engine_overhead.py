"""Time of the engine outside the predictor, frame by frame, with a full bank.

The scripted predictor of the tests costs nothing here: only the engine's own stages are counted.
Depth is 640x480 and every tenth frame becomes a keyframe, whose window is refined as bundle
adjustment would.

    python benchmarks/engine_overhead.py
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
import json
from pathlib import Path
import platform
import sys

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'test')]

from r3_ros.config import R3Config, updated  # noqa: E402
from r3_ros.datatypes import DepthMap, Edge, Estimate  # noqa: E402
from r3_ros.streaming.engine import Engine  # noqa: E402
from scripted import (  # noqa: E402
    circle,
    frames,
    intrinsics,
    room_depth,
    Script,
    ScriptedPredictor,
    START_NS,
)

STAGES = ('retrieve', 'resolve', 'gate', 'memory', 'map', 'loops')
KEYFRAME_EVERY = 10
WINDOW = 8
#: What the engine may take per frame at the median.
LIMIT_MS = 5.0


class Camera(ScriptedPredictor):
    """A scripted predictor with depth at full size and bundle adjustment of a window."""

    def __init__(self, script: Script) -> None:
        """Make the one depth map that all frames share."""
        super().__init__(script)
        frame = next(frames(1))
        self._depth = room_depth(frame, circle()(START_NS), intrinsics(), (480, 640))

    def _depths(self, frame, T_room_camera, K) -> tuple[DepthMap, ...]:
        return (replace(self._depth, frame_id=frame.frame_id),)

    def _exact_edges(self) -> Iterator[Edge]:
        return iter(list(super()._exact_edges())[-WINDOW:])


def measured(frame_count: int, keyframe_count: int) -> list[Estimate]:
    """Fill the bank, then return the estimates of the frames that follow."""
    refine_at = range(keyframe_count + 2, keyframe_count + frame_count, KEYFRAME_EVERY)
    script = Script(
        translation_noise=0.002,
        rotation_noise=0.002,
        keyframe=lambda i: i < keyframe_count or i % KEYFRAME_EVERY == 0,
        refine_at=set(refine_at),
    )
    config = updated(R3Config(), {'keyframe.max_keyframes': keyframe_count})
    engine = Engine(Camera(script), config)
    estimates = [engine.step(frame) for frame in frames(keyframe_count + frame_count)]
    assert len(engine.session.bank) == keyframe_count
    return estimates[keyframe_count:]


def table(estimates: list[Estimate]) -> dict[str, dict[str, float]]:
    """Return median, 95th percentile and maximum of each stage and of all, in milliseconds."""
    rows = {stage: [e.timings_ms[stage] for e in estimates] for stage in STAGES}
    rows['all'] = [sum(e.timings_ms[stage] for stage in STAGES) for e in estimates]
    return {
        name: {
            'median': float(np.median(times)),
            'p95': float(np.percentile(times, 95)),
            'max': float(np.max(times)),
        }
        for name, times in rows.items()
    }


def printed(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print a table."""
    print(f'\n{title}\n  {"stage":<10}{"median":>9}{"p95":>9}{"max":>9}  ms')
    for name, row in rows.items():
        print(f'  {name:<10}{row["median"]:9.2f}{row["p95"]:9.2f}{row["max"]:9.2f}')


def main() -> int:
    """Measure, print, and fail if the limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--frames', type=int, default=1000)
    parser.add_argument('--keyframes', type=int, default=100)
    parser.add_argument('--json', type=Path, help='write the numbers to this file too')
    options = parser.parse_args()
    estimates = measured(options.frames, options.keyframes)
    result = {
        'every frame': table(estimates),
        'keyframes alone': table([e for e in estimates if e.is_keyframe]),
    }
    context = np.mean([len(e.context_ids) for e in estimates])
    print(
        f'{platform.processor() or platform.machine()}, Python {platform.python_version()}, '
        f'{options.frames} frames, bank of {options.keyframes}, {context:.0f} context frames'
    )
    for title, rows in result.items():
        printed(title, rows)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + '\n')
    median = result['every frame']['all']['median']
    good = median <= LIMIT_MS
    print(f'\nmedian {median:.2f} ms, limit {LIMIT_MS:g} ms: {"holds" if good else "EXCEEDED"}')
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())
