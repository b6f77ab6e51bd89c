"""Accuracy and speed of the classical predictor on folders of frames, without the engine.

The loop stands in for the engine: the context is the recent frames and the newest keyframes, a
frame's pose follows from its most confident edge, refined edges are applied. ``r3 run`` and
``r3 eval`` measure the whole thing.

    python benchmarks/classical_sequences.py ../shared/data/redkitchen_7scenes --runs 5
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
import time

import cv2
import numpy as np
from r3_ros.classical.classical_predictor import ClassicalPredictor
from r3_ros.core.config import ClassicalConfig
from r3_ros.core.datatypes import Edge, Frame, FramePrediction, Intrinsics
from r3_ros.core.geometry import T_from_quat
from r3_ros.core.trajectory_file import NANOSECONDS, PoseList
from r3_ros.evaluation.trajectory_errors import evaluate_trajectory, TrajectoryErrors
import yaml

_RECENT = 5
_CONTEXT_KEYFRAMES = 12


@dataclass(frozen=True)
class Sequence:
    """A folder of frames, its camera and, where known, its true poses."""

    name: str
    K: np.ndarray
    distortion: np.ndarray
    paths: list[Path]
    stamps_ns: list[int]
    truth: dict[int, np.ndarray]

    def read(self, calibrated: bool = True) -> Iterator[Frame]:
        """Yield undistorted frames."""
        maps = None
        for path, stamp_ns in zip(self.paths, self.stamps_ns, strict=True):
            image = cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
            height, width = image.shape[:2]
            if np.abs(self.distortion).max() > 0:
                if maps is None:
                    maps = cv2.initUndistortRectifyMap(
                        self.K, self.distortion, None, self.K, (width, height), cv2.CV_32FC1
                    )
                image = cv2.remap(image, *maps, cv2.INTER_LINEAR)
            intrinsics = None
            if calibrated and self.K[0, 0] > 0:
                intrinsics = Intrinsics.from_K(self.K, width, height)
            yield Frame(image, stamp_ns, intrinsics)


def load_sequence(folder: str | Path) -> Sequence:
    """Read a folder laid out like the test sequences."""
    folder = Path(folder)
    camera = yaml.safe_load((folder / 'camera.yaml').read_text())
    lines = (folder / 'timestamps.txt').read_text().splitlines()
    entries = [line.split() for line in lines if not line.startswith('#')]
    stamps_ns = [round(float(stamp) * 1e9) for stamp, _ in entries]
    truth = {}
    if (folder / 'groundtruth.txt').exists():
        table = np.loadtxt(folder / 'groundtruth.txt')
        poses = {round(row[0] * 1e9): T_from_quat(row[1:4], row[4:8]) for row in table}
        truth = {i: poses[stamp] for i, stamp in enumerate(stamps_ns) if stamp in poses}
    return Sequence(
        folder.resolve().name,
        np.array(camera['camera_matrix']['data'], np.float64).reshape(3, 3),
        np.array(camera['distortion_coefficients']['data'], np.float64),
        [folder / name for _, name in entries],
        stamps_ns,
        truth,
    )


class StreamStandIn:
    """The least an engine does: context, poses from edges, forgetting."""

    def __init__(self, config: ClassicalConfig | None = None, depth: bool = True) -> None:
        """Start a predictor."""
        self.predictor = ClassicalPredictor(config or ClassicalConfig(), with_depth=depth)
        self.emitted: list[np.ndarray | None] = []
        self.final: dict[int, np.ndarray] = {}
        self.keyframes: list[int] = []
        self._recent: deque[int] = deque()
        self._held: dict[int, np.ndarray] = {}

    def step(self, frame: Frame) -> FramePrediction:
        """Process one frame; its pose goes to ``emitted`` (None while starting or lost)."""
        frame = replace(frame, frame_id=len(self.emitted))
        self.predictor.describe(frame)
        context = sorted({*self._recent, *self.keyframes[-_CONTEXT_KEYFRAMES:]})
        prediction = self.predictor.predict(frame, context)
        self._apply(prediction.refined)
        pose = self._resolve(prediction)
        self.emitted.append(None if prediction.provisional else pose)
        if pose is None:
            self.predictor.forget([frame.frame_id])
            return prediction
        self._held[frame.frame_id] = self.final[frame.frame_id] = pose
        if prediction.keyframe:
            self.keyframes.append(frame.frame_id)
        self._recent.append(frame.frame_id)
        if len(self._recent) > _RECENT:
            gone = self._recent.popleft()
            if gone not in self.keyframes:
                self.predictor.forget([gone])
                del self._held[gone]
        return prediction

    def finish(self) -> None:
        """Take in what is still under way."""
        refined, *_ = self.predictor.drain()
        self._apply(refined)
        self.close()

    def close(self) -> None:
        """Stop the predictor."""
        self.predictor.close()

    def _resolve(self, prediction: FramePrediction) -> np.ndarray | None:
        if not self.emitted:
            return np.eye(4)
        known = [e for e in prediction.edges if e.source_id in self._held]
        if not known:
            return None
        best = max(known, key=lambda e: e.confidence_translation + e.confidence_rotation)
        return self._held[best.source_id] @ best.T_source_target

    def _apply(self, refined: tuple[Edge, ...]) -> None:
        for edge in refined:
            if edge.source_id in self._held and edge.target_id in self._held:
                pose = self._held[edge.source_id] @ edge.T_source_target
                self._held[edge.target_id] = self.final[edge.target_id] = pose


def evaluated(poses: dict[int, np.ndarray], truth: dict[int, np.ndarray]) -> TrajectoryErrors:
    """Compare poses by frame with the true ones, of which some may be missing."""

    def by_second(T: dict[int, np.ndarray]) -> PoseList:
        return PoseList(
            np.array([i * NANOSECONDS for i in sorted(T)]), np.stack([T[i] for i in sorted(T)])
        )

    return evaluate_trajectory(by_second(poses), by_second(truth))


def main() -> int:
    """Run sequences and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folders', nargs='+')
    parser.add_argument('--frames', type=int, default=10**9, help='only the first so many')
    parser.add_argument('--runs', type=int, default=1)
    parser.add_argument('--uncalibrated', action='store_true', help='hide the calibration')
    parser.add_argument('--no-depth', action='store_true', help='poses only')
    args = parser.parse_args()
    for folder in args.folders:
        sequence = load_sequence(folder)
        frames = [
            frame
            for i, frame in enumerate(sequence.read(not args.uncalibrated))
            if i < args.frames
        ]
        for _ in range(args.runs):
            run(sequence, frames, not args.no_depth)
    return 0


def run(sequence: Sequence, frames: list[Frame], depth: bool) -> None:
    """Run one sequence once and print a line or two."""
    stream = StreamStandIn(depth=depth)
    seconds, focal, depths = [], 0.0, 0
    for frame in frames:
        start = time.perf_counter()
        prediction = stream.step(frame)
        seconds.append(time.perf_counter() - start)
        focal, depths = prediction.intrinsics.fx, depths + len(prediction.depths)
    stream.finish()
    tracked = {i: T for i, T in enumerate(stream.emitted) if T is not None}
    is_key = np.isin(np.arange(len(frames)), stream.keyframes)
    ms = 1e3 * np.array(seconds)
    print(
        f'{sequence.name}: tracked {len(tracked)} of {len(frames)} from frame '
        f'{min(tracked, default=-1)}, {is_key.sum()} keyframes, {depths} depths, '
        f'{1e3 / ms.mean():.1f} frames/s, median {np.median(ms[~is_key]):.0f} ms, keyframes '
        f'{np.median(ms[is_key]):.0f} ms, 95 % below {np.percentile(ms, 95):.0f} ms, '
        f'focal length {focal:.1f} px'
    )
    truth = {i: T for i, T in sequence.truth.items() if i < len(frames)}
    if truth and tracked:
        online = evaluated(tracked, truth)
        final = evaluated({i: stream.final[i] for i in tracked}, truth)
        print(
            f'  ATE {online.ate_percent:.3f} % of the path, rotation '
            f'{online.rotation_mean_deg:.2f} deg; after corrections {final.ate_percent:.3f} %, '
            f'{final.rotation_mean_deg:.2f} deg'
        )


if __name__ == '__main__':
    raise SystemExit(main())
