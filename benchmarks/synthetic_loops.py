#!/usr/bin/env python3
"""Loops and relocalisation in synthetic worlds, where every pose is known.

    python benchmarks/synthetic_loops.py --model r3_tiny [--worlds 4] [--seed 1] [--frames 240]

In each world a hand-held camera walks once round, back to its first pose, and the engine maps the
walk. Then a camera that knows nothing begins a third of the way round and walks back, a hand's
breadth beside the first path and turned by a few degrees. Its poses are compared with the truth
after the alignment of the first walk alone. *False* is a pose
reported as TRACKING that is off by more than 5 % of the first walk's path or 10 degrees.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import os
import sys
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')

import numpy as np  # noqa: E402
from r3_ros.core.config import R3Config  # noqa: E402
from r3_ros.core.datatypes import Estimate, TrackingState  # noqa: E402
from r3_ros.core.geometry import make_T, mean_rotation, rotation_angle  # noqa: E402
from r3_ros.core.parameter_fields import updated  # noqa: E402
from r3_ros.factory import load_engine  # noqa: E402
from r3_ros.input.camera_model import CameraModel  # noqa: E402
from r3_ros.input.source import RawFrame, Source  # noqa: E402
from r3_ros.learning.synth.dataset import SequenceOptions, SyntheticSequence  # noqa: E402
from r3_ros.learning.synth.sensor import SensorOptions  # noqa: E402
from r3_ros.offline.run_files import UNPLACED  # noqa: E402
from r3_ros.offline.stream_run import run_source  # noqa: E402
from r3_ros.streaming.engine import Engine  # noqa: E402
from r3_ros.streaming.map_snapshot import saved_map  # noqa: E402
from robustness import FALSE_DEG, FALSE_SHARE, final_poses, measure, similarity  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402

_KINDS = ('room', 'objects', 'hall', 'corridor')
_RATE_HZ = 10.0
_SIZE = 320, 240
#: Frames in which the camera is to be found.
_FIND_WITHIN = 30
#: The second camera as seen from the first one: 10 cm beside it, turned by 6 degrees.
_BESIDE = make_T(Rotation.from_euler('y', 6.0, degrees=True).as_matrix(), np.array([0.1, 0, 0]))


class Walk(Source):
    """The images of a walk, rendered before it is run."""

    def __init__(self, sequence: SyntheticSequence, name: str) -> None:
        K, path = sequence.intrinsics, sequence.path
        super().__init__(name, CameraModel(K.width, K.height, K.K), len(path.time_s))
        self.stamps_ns = np.round(path.time_s * 1e9).astype(np.int64)
        self.truth = dict(zip(self.stamps_ns.tolist(), path.T_world_camera, strict=True))
        frames = range(len(path.time_s))
        self._images = [sequence.frames(n, n + 1)[0].image for n in frames]

    def _read(self) -> Iterator[RawFrame]:
        for stamp_ns, image in zip(self.stamps_ns, self._images, strict=True):
            yield RawFrame(int(stamp_ns), image)


def walks(seed: int, kind: str, frames: int, found_in: int) -> tuple[Walk, Walk]:
    """Return a walk through a world, and the way back beside a part of it."""
    options = SequenceOptions(
        seed=100 * seed, kind=kind, frames=frames, width=_SIZE[0], height=_SIZE[1],
        rate_hz=_RATE_HZ, sensor=SensorOptions(noise=2.0),
    )  # fmt: skip
    sequence = SyntheticSequence(options)
    first = Walk(sequence, f'{kind} {options.seed}')
    path = sequence.path
    back = path.T_world_camera[frames // 3 : frames // 3 + found_in][::-1] @ _BESIDE
    sequence.path = type(path)(back, path.time_s[:found_in])
    return first, Walk(sequence, f'{kind} {options.seed}, back')


def map_and_find(engine: Engine, first: Walk, second: Walk) -> dict[str, Any]:
    """Map the first walk, find the camera of the second one in it; return the figures."""
    estimates: list[Estimate] = []
    result = run_source(first, engine, on_frame=lambda _, e: estimates.append(e))
    corrected = final_poses(result)
    figures = measure(estimates, corrected, first.truth, result)
    figures['loops'] = result.loops_closed
    assert result.map is not None
    saved = saved_map(result.map, UNPLACED, engine.config.map.voxel_size)
    found: list[Estimate] = []
    run_source(second, engine, on_frame=lambda _, e: found.append(e), saved=saved)
    known = np.stack(list(corrected.values()))
    true = np.stack([first.truth[stamp_ns] for stamp_ns in corrected])
    scale, R, t = similarity(known[:, :3, 3], true[:, :3, 3], np.ones(len(known)))
    turns = true[:, :3, :3] @ np.swapaxes(known[:, :3, :3], 1, 2)
    R_all = mean_rotation(turns, np.ones(len(turns)))
    shift, turn, claimed = [], [], []
    for estimate in found:
        if (T := estimate.T_world_camera) is not None:
            exact = second.truth[estimate.stamp_ns]
            shift.append(np.linalg.norm(scale * R @ T[:3, 3] + t - exact[:3, 3]))
            turn.append(rotation_angle((R_all @ T[:3, :3]).T @ exact[:3, :3]))
            claimed.append(estimate.state is TrackingState.TRACKING)
    shares, degrees = np.array(shift) / figures['path_m'], np.degrees(turn)
    wrong = (shares > FALSE_SHARE) | (degrees > FALSE_DEG)
    after = next((n for n, e in enumerate(found, 1) if e.T_world_camera is not None), None)
    return figures | {
        'found_after': after,
        'shift_percent': 100 * float(np.median(shares)) if shift else np.nan,
        'turn_deg': float(np.median(degrees)) if shift else np.nan,
        'found_claimed': sum(claimed) / len(found),
        'found_false': float((wrong & claimed).sum()) / len(found) if shift else 0.0,
    }


def main() -> int:
    """Run all worlds and print a Markdown table; fail if the camera is not found in time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='classical')
    parser.add_argument('--worlds', type=int, default=4)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--frames', type=int, default=240, help='of the first walk')
    parser.add_argument('--found-in', type=int, default=60, help='frames of the second walk')
    args = parser.parse_args()
    config = updated(R3Config(), {'model.name': args.model})
    print('| world | loops closed | ATE, corrected (%) | rotation (deg) | claimed, false (%) '
          '| found after | off by | claimed, false (%) |')  # fmt: skip
    print('| --- | --- | --- | --- | --- | --- | --- | --- |')
    in_time = True
    for number in range(args.worlds):
        kind = _KINDS[number % len(_KINDS)]
        first, second = walks(args.seed + number, kind, args.frames, args.found_in)
        engine = load_engine(config)
        try:
            f = map_and_find(engine, first, second)
        finally:
            engine.close()
        in_time = in_time and f['found_after'] is not None and f['found_after'] <= _FIND_WITHIN
        print(
            f'| {first.name} | {f["loops"]} | {f["ate_percent"]:.2f}, '
            f'{f["ate_final_percent"]:.2f} | {f["rotation_deg"]:.2f} | '
            f'{100 * f["claimed"]:.0f}, {100 * f["false_poses"]:.1f} | {f["found_after"]} frames '
            f'| {f["shift_percent"]:.1f} %, {f["turn_deg"]:.1f} deg | '
            f'{100 * f["found_claimed"]:.0f}, {100 * f["found_false"]:.1f} |',
            flush=True,
        )
    return 0 if in_time else 1


if __name__ == '__main__':
    sys.exit(main())
