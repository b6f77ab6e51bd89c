"""Cost of the engine outside the predictor, frame by frame, with full banks of several sizes.

The scripted predictor of the tests stands in; what it takes is left out. Every tenth frame
becomes a keyframe with depth of 640x480, whose window is refined as bundle adjustment would. The
context is 32 frames. Times are of the engine's thread, in CPU time and by the clock.

    python benchmarks/engine_overhead.py --keyframes 100 1000 10000
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
import itertools
import json
from pathlib import Path
import platform
import sys
import time

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'test' / 'support')]

from r3_ros.core.config import R3Config  # noqa: E402
from r3_ros.core.datatypes import (  # noqa: E402
    DepthMap,
    Edge,
    Estimate,
    Frame,
    FramePrediction,
    TrackingState,
)
from r3_ros.core.geometry import inverse  # noqa: E402
from r3_ros.core.parameter_fields import updated  # noqa: E402
from r3_ros.streaming.engine import Engine  # noqa: E402
from r3_ros.streaming.pose_resolution import HeldPose  # noqa: E402
from scripted import (  # noqa: E402
    circle,
    frames,
    intrinsics,
    room_depth,
    Script,
    ScriptedPredictor,
    START_NS,
    truth,
)

STAGES = ('retrieve', 'resolve', 'gate', 'memory', 'map', 'loops')
KEYFRAME_EVERY = 10
WINDOW = 8
SCORE = 2.0
#: Five recent frames, the first keyframe, the newest and those retrieved: 32.
CONTEXT = {'stream.recent_keyframes': 6, 'stream.retrieved_keyframes': 21}
#: What the engine may take per frame at the median, and how much more with the largest bank than
#: with the smallest.
LIMIT_MS, LIMIT_GROWTH = 5.0, 1.5


class Camera(ScriptedPredictor):
    """A scripted predictor with depth at full size and bundle adjustment of a window.

    :ivar cpu_s: what it took so far.
    """

    def __init__(self, script: Script) -> None:
        """Make the one depth map that all frames share."""
        super().__init__(script)
        frame = next(frames(1))
        self._depth = room_depth(frame, circle()(START_NS), intrinsics(), (480, 640))
        self.cpu_s = 0.0

    def describe(self, frame: Frame) -> np.ndarray:
        """Describe, and note the time."""
        began = time.thread_time()
        descriptor = super().describe(frame)
        self.cpu_s += time.thread_time() - began
        return descriptor

    def predict(
        self, frame: Frame, context_ids: Sequence[int], depth: bool = True
    ) -> FramePrediction:
        """Answer, and note the time."""
        began = time.thread_time()
        prediction = super().predict(frame, context_ids, depth)
        self.cpu_s += time.thread_time() - began
        return prediction

    def hold(self, frame: Frame) -> None:
        """Hold a frame without having been asked about it."""
        self._room[self._index] = self.script.path(frame.stamp_ns)

    def _depths(self, frame, T_room_camera, K) -> tuple[DepthMap, ...]:
        return (replace(self._depth, frame_id=frame.frame_id),)

    def _exact_edges(self) -> Iterator[Edge]:
        ids = list(self._room)[-WINDOW:]
        score = 2.0 * self.confidence_reference
        for source_id, target_id in itertools.pairwise(ids):
            T = inverse(self._room[source_id]) @ self._room[target_id]
            yield Edge(source_id, target_id, T, score, score)


@dataclass
class Measured:
    """What the frames with a full bank took.

    :ivar cpu_ms: of each frame.
    """

    estimates: list[Estimate]
    cpu_ms: list[float]


def fill(engine: Engine, camera: Camera, count: int) -> None:
    """Hold so many keyframes as if the camera had walked them, with exact poses."""
    session = engine.session
    for frame in frames(count):
        frame_id = session.frame_count
        descriptor, T = camera.describe(frame), truth(camera.script.path, frame.stamp_ns)
        camera.hold(frame)
        before = session.bank.newest(WINDOW, 0)
        edges = [
            Edge(i, frame_id, inverse(session.graph.held[i].T_world_camera) @ T, SCORE, SCORE)
            for i in before
        ]
        session.graph.add(frame_id, HeldPose(T), edges)
        session.bank.admit(frame_id, descriptor, T, intrinsics(), related=before)
        session.trajectory.append(frame_id, frame.stamp_ns, True, T)
        session.recent.append(frame_id)
        session.frame_count, session.last_stamp_ns = frame_id + 1, frame.stamp_ns
    session.keep_recent(engine.config.stream.recent_frames)
    session.take_leaving()
    session.gate.state = TrackingState.TRACKING


def measured(frame_count: int, keyframe_count: int) -> Measured:
    """Fill the bank, then measure the frames that follow."""
    end = keyframe_count + frame_count
    script = Script(
        translation_noise=0.002,
        rotation_noise=0.002,
        keyframe=lambda i: i % KEYFRAME_EVERY == 0,
        refine_at=set(range(keyframe_count + 2, end, KEYFRAME_EVERY)),
    )
    changes = {'keyframe.max_keyframes': keyframe_count, **CONTEXT}
    config = updated(R3Config(), changes)
    camera = Camera(script)
    engine = Engine(camera, config)
    fill(engine, camera, keyframe_count)
    result = Measured([], [])
    for frame in itertools.islice(frames(end), keyframe_count, None):
        began, others = time.thread_time(), camera.cpu_s
        result.estimates.append(engine.step(frame))
        result.cpu_ms.append(1e3 * (time.thread_time() - began - (camera.cpu_s - others)))
    assert len(engine.session.bank) == keyframe_count
    assert all(e.state is TrackingState.TRACKING for e in result.estimates)
    engine.close()
    return result


def table(result: Measured, only_keyframes: bool = False) -> dict[str, dict[str, float]]:
    """Return median, 95th percentile and maximum of each stage and of all, in milliseconds."""
    which = [n for n, e in enumerate(result.estimates) if e.is_keyframe or not only_keyframes]
    timings = [result.estimates[n].timings_ms for n in which]
    rows = {stage: [t[stage] for t in timings] for stage in STAGES}
    rows['all'] = [sum(t[stage] for stage in STAGES) for t in timings]
    rows['all, CPU'] = [result.cpu_ms[n] for n in which]
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
    """Measure, print, and fail if a limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--frames', type=int, default=1000)
    parser.add_argument('--keyframes', type=int, nargs='+', default=[100])
    parser.add_argument('--json', type=Path, help='write the numbers to this file too')
    options = parser.parse_args()
    print(f'{platform.processor() or platform.machine()}, Python {platform.python_version()}')
    results = {}
    for keyframe_count in options.keyframes:
        result = measured(options.frames, keyframe_count)
        context = np.median([len(e.context_ids) for e in result.estimates])
        print(f'\n{options.frames} frames, bank of {keyframe_count}, {context:.0f} context frames')
        rows = {'every frame': table(result), 'keyframes alone': table(result, True)}
        results[keyframe_count] = rows
        for title, row in rows.items():
            printed(title, row)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + '\n')
    medians = [rows['every frame']['all, CPU']['median'] for rows in results.values()]
    good = max(medians) <= LIMIT_MS and medians[-1] <= LIMIT_GROWTH * medians[0]
    print(
        f'\nmedian at most {max(medians):.2f} ms, limit {LIMIT_MS:g} ms; '
        f'{medians[-1] / medians[0]:.2f} times as long with the largest bank, limit '
        f'{LIMIT_GROWTH:g}: {"holds" if good else "EXCEEDED"}'
    )
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())
