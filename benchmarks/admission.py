#!/usr/bin/env python3
"""Which rule of admission remembers most of a place with as many keyframes.

    python benchmarks/admission.py DATA/redkitchen_7scenes DATA/kitti00 DATA/fox_ngp LOOP
    r3 synth LOOP --seed 3 --frames 400 --width 320 --height 240 --depth-every 4

The images are real, and so are their descriptors (those of the classical predictor). Poses and
surfaces are the truth. The predictor here answers with true relative poses and noise: 2 % of the
length and 0.2 % of the depth, 1 % of the angle and 0.1 degrees, more where two images share
less; frames that share under a tenth are not related at all. So the engine decides what becomes a
keyframe, and its poses drift as they would.

Surfaces are the depth images fused in voxels, seen by a camera if nothing is in front. Folders
without depth are walked through for the error alone, what two frames share being that of their
frusta. Thresholds are chosen by bisection for the same number of keyframes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
import sys

import cv2
import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from classical_sequences import evaluated, load_sequence  # noqa: E402
from r3_ros.classical.describe import describe, SIZE  # noqa: E402
from r3_ros.classical.features import working_image  # noqa: E402
from r3_ros.core.config import R3Config  # noqa: E402
from r3_ros.core.datatypes import (  # noqa: E402
    DepthMap,
    Edge,
    Frame,
    FramePrediction,
    Intrinsics,
    ModelInfo,
)
from r3_ros.core.error_model import ErrorModel  # noqa: E402
from r3_ros.core.geometry import inverse, make_T, rotation_angle, transform, unproject  # noqa: E402
from r3_ros.core.parameter_fields import updated  # noqa: E402
from r3_ros.input.calibration_files import load_camera  # noqa: E402
from r3_ros.streaming.engine import Engine  # noqa: E402
from r3_ros.streaming.keyframes.admission import Admission, Candidate  # noqa: E402
from r3_ros.streaming.keyframes.bank import KeyframeBank  # noqa: E402
from r3_ros.streaming.keyframes.view_overlap import CameraView, image_bounds, view_overlaps  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402

_STRIDE = 8
#: Cells of the grid in which what is in front hides what is behind.
_GRID = (60, 80)
_IN_FRONT = 1.07
_VOXEL_SHARE = 0.02
#: Frames that share less are not related.
_LEAST_SHARED = 0.1
#: A place is seen again if a frame so much older shares so much with this one.
_AGAIN_FRAMES, _AGAIN_SHARED = 60, 0.5
_SEEDS = 3
_ROUNDS = 9
#: Depth taken where there is no depth image, in the unit of the truth.
_USUAL_DEPTH = {'kitti00': 15.0, 'fox_ngp': 4.0}
#: Rules, with the range of the value that is varied, and whether more of it admits more.
RULES = {
    'interval': (1.0, 60.0, False),
    'overlap': (0.0, 1.0, True),
    'overlap, matched or not': (0.0, 1.0, True),
}


@dataclass(frozen=True, eq=False)
class Walk:
    """What is known of a sequence.

    :ivar T: (F, 4, 4) true poses; ``descriptors``: (F, d); ``depth``: (F,) usual depth.
    :ivar shared: (F, F) what two frames share, 0 to 1.
    :ivar seen: (F, V) bool, voxels of the surface that each frame sees; None: not known.
    """

    name: str
    T: np.ndarray
    descriptors: np.ndarray
    depth: np.ndarray
    shared: np.ndarray
    seen: np.ndarray | None
    K: Intrinsics


def load_walk(folder: Path) -> Walk:
    """Read a folder and work out what its frames see."""
    sequence = load_sequence(folder)
    # A gap in the truth ends the walk (fox_ngp has a cut there).
    count = next((i for i in range(len(sequence.paths)) if i not in sequence.truth), None)
    count = 31 if folder.name == 'fox_ngp' else count or len(sequence.paths)
    T = np.stack([sequence.truth[i] for i in range(count)])
    descriptors, size = [], (0, 0)
    for frame in (frame for _, frame in zip(range(count), sequence.read(), strict=False)):
        gray = working_image(frame.image)
        descriptors.append(describe(gray))
        size = (gray.shape[1], gray.shape[0])
    K = Intrinsics.from_K(sequence.K, *size)
    camera = folder / 'depth_camera.yaml'
    loaded = load_camera(camera) if camera.exists() else None
    K_depth = K if loaded is None else loaded.intrinsics
    images = [p for p in sorted((folder / 'depth').glob('*.png')) if int(p.stem) < count]
    if not images:
        depth = np.full(count, _USUAL_DEPTH.get(folder.name, 1.0))
        return Walk(folder.name, T, np.stack(descriptors), depth, _frusta(T, depth, K), None, K)
    maps = {
        int(p.stem): cv2.imread(str(p), cv2.IMREAD_UNCHANGED).astype(np.float32) / 1000
        for p in images
    }
    depth, seen = _visible(T, K_depth, _surface(maps, T, K_depth))
    counts = np.sqrt(np.maximum(seen.sum(axis=1), 1))
    weights = seen.astype(np.float32)
    shared = (weights @ weights.T) / counts[:, None] / counts
    return Walk(folder.name, T, np.stack(descriptors), depth, shared, seen, K)


def _frusta(T: np.ndarray, depth: np.ndarray, K: Intrinsics) -> np.ndarray:
    views = [CameraView(pose, image_bounds(K), float(d)) for pose, d in zip(T, depth, strict=True)]
    packed = np.stack([view.packed() for view in views])
    return np.stack([view_overlaps(row, packed) for row in packed])


def _surface(maps: dict[int, np.ndarray], T: np.ndarray, K: Intrinsics) -> np.ndarray:
    """Return (V, 3) centres of the voxels that any depth image shows."""
    clouds, usual = [], []
    for number, depth in maps.items():
        points = unproject(depth, K.fx, K.fy, K.cx, K.cy, _STRIDE).reshape(-1, 3)
        points = points[points[:, 2] > 0]
        clouds.append(transform(T[number], points))
        usual.append(float(np.median(points[:, 2])))
    voxel = _VOXEL_SHARE * float(np.median(usual))
    return np.unique(np.floor(np.concatenate(clouds) / voxel), axis=0) * voxel + 0.5 * voxel


def _visible(T: np.ndarray, K: Intrinsics, surface: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (F,) median depths and (F, V) which points each camera sees."""
    seen = np.zeros((len(T), len(surface)), dtype=bool)
    usual = np.ones(len(T))
    rows, columns = _GRID
    for number, pose in enumerate(T):
        x, y, z = transform(inverse(pose), surface).T
        ahead = np.maximum(z, 1e-3)
        column = np.floor((K.fx * x / ahead + K.cx + 0.5) * columns / K.width).astype(int)
        row = np.floor((K.fy * y / ahead + K.cy + 0.5) * rows / K.height).astype(int)
        inside = np.flatnonzero(
            (z > 0.05) & (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        )
        cell = row[inside] * columns + column[inside]
        nearest = np.full(rows * columns, np.inf)
        np.minimum.at(nearest, cell, z[inside])
        front = inside[z[inside] <= _IN_FRONT * nearest[cell]]
        seen[number, front] = True
        usual[number] = np.median(z[front]) if len(front) else 1.0
    return usual, seen


class TruePredictor:
    """Answers with the truth and noise."""

    info = ModelInfo('truth')
    capacity = None
    confidence_reference = 1.0
    error_model = ErrorModel()
    descriptor_size = SIZE
    has_pose_token = False
    start_advice = ''

    def __init__(self, walk: Walk, seed: int) -> None:
        """Take the walk; ``seed`` of the noise."""
        self._walk, self._random = walk, np.random.default_rng(seed)

    def describe(self, frame: Frame) -> np.ndarray:
        """Return the descriptor of the image."""
        descriptor: np.ndarray = self._walk.descriptors[frame.frame_id]
        return descriptor

    def predict(
        self, frame: Frame, context_ids: Sequence[int], depth: bool = True
    ) -> FramePrediction:
        """Relate a frame to those that it shares something with."""
        walk, number = self._walk, frame.frame_id
        edges = tuple(
            self._edge(i, number) for i in context_ids if walk.shared[i, number] >= _LEAST_SHARED
        )
        flat = np.full((32, 32), walk.depth[number] / walk.depth[0], np.float32)
        image = np.zeros((32, 32, 3), np.uint8)
        depth_map = DepthMap(number, flat, flat, image, walk.K.resized(32, 32))
        return FramePrediction(walk.K, edges, depths=(depth_map,))

    def _edge(self, source: int, target: int) -> Edge:
        walk = self._walk
        shared = float(walk.shared[source, target])
        T = inverse(walk.T[source]) @ walk.T[target]
        # The scene at the start is about one unit away, as a predictor has it.
        T[:3, 3] /= walk.depth[0]
        worse = 1.0 / np.sqrt(shared)
        shift = worse * np.hypot(
            0.02 * np.linalg.norm(T[:3, 3]), 0.002 * walk.depth[target] / walk.depth[0]
        )
        turn = worse * np.hypot(0.01 * rotation_angle(T[:3, :3]), np.radians(0.1))
        noise = self._random.normal(size=(2, 3)) / np.sqrt(3.0)
        R = Rotation.from_rotvec(turn * noise[0]).as_matrix()
        return Edge(source, target, T @ make_T(R, shift * noise[1]), shared, shared)

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Hold nothing."""

    def drain(self) -> tuple[tuple[()], tuple[()], None]:
        """Return nothing: every answer is given with its frame."""
        return (), (), None

    def reset(self) -> None:
        """Hold nothing."""

    def close(self) -> None:
        """Hold nothing."""


class MatchedOrNot(Admission):
    """Asks all keyframes what they share of the view, whether the frame matched them or not."""

    def wants(self, bank: KeyframeBank, candidate: Candidate, complete: bool = True) -> bool:
        """Count the frame and judge it."""
        return super().wants(bank, replace(candidate, related=bank.ids()), complete)


@dataclass(frozen=True, eq=False)
class Run:
    """What came of one run."""

    keyframes: list[int]
    contexts: list[tuple[int, ...]]
    ate: float


def run(walk: Walk, rule: str, value: float, seed: int) -> Run:
    """Run the engine over a walk."""
    changes = {
        'keyframe.max_interval': 1000,
        'keyframe.max_keyframes': 1000,
        'map.enabled': False,
    }
    if rule == 'interval':
        changes |= {'keyframe.max_interval': round(value), 'keyframe.overlap_threshold': 0.0}
    else:
        changes['keyframe.overlap_threshold'] = value
    config = updated(R3Config(), changes)
    engine = Engine(TruePredictor(walk, seed), config)
    if rule.endswith('not'):
        engine.session.admission = MatchedOrNot(config.keyframe)
    # Nobody looks at them, but a camera that gave the same image each time would be found out.
    images = np.random.default_rng(0).integers(0, 255, (len(walk.T), 16, 16, 3), np.uint8)
    estimates = [
        engine.step(Frame(image, round(1e9 * (1 + number / 15)), walk.K))
        for number, image in enumerate(images)
    ]
    engine.close()
    poses = {e.frame_id: e.T_world_camera for e in estimates if e.T_world_camera is not None}
    return Run(
        [e.frame_id for e in estimates if e.is_keyframe],
        [e.context_ids for e in estimates],
        evaluated(poses, dict(enumerate(walk.T))).ate_percent,
    )


def chosen_value(walk: Walk, rule: str, wanted: int) -> float:
    """Return the value of a rule's parameter that gives about so many keyframes."""
    low, high, more = RULES[rule]
    if rule == 'interval':
        return float(np.clip(round(len(walk.T) / wanted), low, high))
    best = (np.inf, low)
    for _ in range(_ROUNDS):
        middle = 0.5 * (low + high)
        count = len(run(walk, rule, middle, 0).keyframes)
        best = min(best, (abs(count - wanted), middle))
        if (count < wanted) == more:
            low = middle
        else:
            high = middle
    return best[1]


def figures(walk: Walk, runs: Sequence[Run]) -> Iterator[str]:
    """Give the columns of the table."""
    yield f'{np.mean([len(r.keyframes) for r in runs]):.0f}'
    if walk.seen is None:
        yield from ('', '', '')
    else:
        covered = [walk.seen[r.keyframes].any(axis=0).sum() for r in runs]
        yield f'{100 * np.mean(covered) / walk.seen.any(axis=0).sum():.1f}'
        nearest = [walk.shared[:, r.keyframes].max(axis=1) for r in runs]
        yield f'{np.mean(nearest):.3f}, {np.percentile(nearest, 5):.3f}'
        again = [recalled(walk, r) for r in runs]
        yield f'{np.mean(again):.3f}' if np.isfinite(again).all() else ''
    yield f'{np.mean([r.ate for r in runs]):.3f} ({max(r.ate for r in runs):.3f})'


def recalled(walk: Walk, found: Run) -> float:
    """Return what old keyframes in the context share with the frame, over the best there was.

    Of frames that see a place again.
    """
    shares = []
    for number in range(_AGAIN_FRAMES, len(walk.T)):
        old = walk.shared[number, : number - _AGAIN_FRAMES + 1]
        if old.max() >= _AGAIN_SHARED:
            context = [i for i in found.contexts[number] if i < len(old)]
            shares.append(old[context].max(initial=0.0) / old.max())
    return float(np.mean(shares)) if shares else np.nan


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folders', nargs='+', type=Path)
    parser.add_argument(
        '--every', type=int, nargs='*', default=[8, 16], help='frames for each keyframe'
    )
    options = parser.parse_args()
    print(
        '| sequence | rule | threshold | keyframes | surface seen (%) | shared with the best '
        'keyframe: mean, worst 5 % | seen again | ATE (%), worst |'
    )
    print('| --- | --- | --- | --- | --- | --- | --- | --- |')
    for folder in options.folders:
        walk = load_walk(folder)
        for every in options.every:
            for rule in RULES:
                value = chosen_value(walk, rule, len(walk.T) // every)
                runs = [run(walk, rule, value, seed) for seed in range(_SEEDS)]
                row = ' | '.join(figures(walk, runs))
                print(f'| {walk.name} | {rule} | {value:.3g} | {row} |', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
