"""Runs one predictor on one sequence through the engine and compares it with the truth."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..core.datatypes import DepthMap, Estimate, Frame, Intrinsics
from ..core.trajectory_file import PoseList
from ..maps.cloud import Cloud
from ..offline.stream_run import run_source
from ..streaming.engine import Engine
from .depth_errors import DepthErrors, truth_at_pixels
from .posed_sequences import PosedSequence
from .step_errors import first_step_repeated, step_errors, StepErrors, steps_between
from .trajectory_errors import evaluate_trajectory, match_stamps, MIN_POSES, TrajectoryErrors

#: Name of the baseline in the tables.
CONSTANT_VELOCITY = 'constant velocity'
#: Largest number of depth maps of a sequence that are kept for figures.
_KEPT_DEPTHS = 64
#: Stride of the pixels at which constant depth is compared.
_FLAT_STRIDE = 4


@dataclass(eq=False)
class StreamResult:
    """Result of one predictor on one sequence.

    :ivar stamps_ns: (N,) of the images processed.
    :ivar estimate: tracked poses as first estimated, and the first pose, which defines the
        world; ``trajectory``: their errors, None if fewer than three have a true pose.
    :ivar step_ms: median wall time of a step of the engine; NaN for the baseline.
    :ivar depth_maps: some of the depth maps, by stamp; ``undistorted``: intrinsics of the
        undistorted images.
    """

    sequence: str
    group: str
    predictor: str
    stamps_ns: np.ndarray
    estimate: PoseList
    trajectory: TrajectoryErrors | None
    steps: StepErrors
    depth: DepthErrors
    step_ms: float = float('nan')
    cloud: Cloud = field(default_factory=Cloud.empty)
    depth_maps: dict[int, DepthMap] = field(default_factory=dict)
    undistorted: Intrinsics | None = None


def run_predictor(
    sequence: PosedSequence, predictor: str, engine: Engine, max_frames: int | None = None
) -> StreamResult:
    """Run a sequence through a new engine, as ``r3 run`` does, and compare with the truth.

    :param predictor: its name in the tables.
    :raises SourceError: no image could be processed.
    """
    collected = _Collected(sequence)
    with sequence.open() as source:
        run = run_source(source, engine, max_frames, collected.frame)
    collected.depths(run.last_depths)
    records, T = run.records, np.stack(collected.poses)
    stamps = np.array([record.stamp_ns for record in records])
    known = np.isfinite(T[:, 0, 0])
    estimate = PoseList(stamps[known], T[known])
    matched, _ = match_stamps(estimate.stamps_ns, sequence.truth.stamps_ns)
    enough = len(matched) >= MIN_POSES
    trajectory = evaluate_trajectory(estimate, sequence.truth) if enough else None
    assert run.cloud is not None
    return StreamResult(
        sequence.name,
        sequence.group,
        predictor,
        stamps,
        estimate,
        trajectory=trajectory,
        steps=step_errors(
            steps_between(T),
            steps_between(_true_poses(stamps, sequence.truth)),
            np.array([record.confidence_rotation for record in records])[1:],
            np.array([record.confidence_translation for record in records])[1:],
        ),
        depth=collected.errors,
        step_ms=float(np.median([record.step_ms for record in records])),
        cloud=run.cloud,
        depth_maps=collected.kept,
        undistorted=collected.undistorted,
    )


class _Collected:
    def __init__(self, sequence: PosedSequence) -> None:
        self._sequence = sequence
        self._with_truth = set(sequence.depth_stamps)
        stamps = sequence.depth_stamps or sequence.truth.stamps_ns.tolist()
        spread = np.linspace(0, len(stamps) - 1, _KEPT_DEPTHS).round().astype(int)
        self._kept_stamps = {stamps[i] for i in spread}
        self._stamps: dict[int, int] = {}
        self.undistorted: Intrinsics | None = None
        self.poses: list[np.ndarray] = []
        self.errors = DepthErrors()
        self.kept: dict[int, DepthMap] = {}

    def frame(self, frame: Frame, estimate: Estimate) -> None:
        T = estimate.T_world_camera
        # Poses held during the start-up are no estimates, except the first.
        counts = estimate.state.is_tracked or not self.poses
        self.poses.append(T if counts and T is not None else np.full((4, 4), np.nan))
        self._stamps[estimate.frame_id] = estimate.stamp_ns
        # Without a calibration the intrinsics are estimated for each image.
        self.undistorted = None if estimate.intrinsics_estimated else estimate.intrinsics
        self.depths(estimate.depths)

    def depths(self, maps: tuple[DepthMap, ...]) -> None:
        for depth_map in maps:
            stamp_ns = self._stamps[depth_map.frame_id]
            if stamp_ns in self._kept_stamps:
                self.kept[stamp_ns] = depth_map
            if stamp_ns in self._with_truth:
                truth = self._sequence.depth(stamp_ns)
                at_pixels = truth_at_pixels(truth, depth_map.intrinsics, self.undistorted)
                self.errors.add(depth_map.depth, at_pixels, depth_map.confidence)


def _true_poses(stamps_ns: np.ndarray, truth: PoseList) -> np.ndarray:
    """Return (N, 4, 4) true poses at these times, NaN where unknown."""
    T = np.full((len(stamps_ns), 4, 4), np.nan)
    own, other = match_stamps(stamps_ns, truth.stamps_ns)
    T[own] = truth.T_world_camera[other]
    return T


def constant_velocity(sequence: PosedSequence, stamps_ns: np.ndarray) -> StreamResult | None:
    """Return the baseline: the first true step repeated, and constant depth.

    :param stamps_ns: (N,) of the images.
    :returns: None if fewer than three images have a true pose.
    """
    T_true = _true_poses(stamps_ns, sequence.truth)
    known = np.isfinite(T_true[:, 0, 0])
    stamps_ns, T_true = stamps_ns[known], T_true[known]
    if len(T_true) < MIN_POSES:
        return None
    depth = DepthErrors()
    for stamp_ns in sorted(set(sequence.depth_stamps).intersection(stamps_ns.tolist())):
        truth = sequence.depth(stamp_ns)[::_FLAT_STRIDE, ::_FLAT_STRIDE]
        depth.add(np.ones_like(truth), np.where(truth > 0, truth, np.nan))
    poses = PoseList(stamps_ns, first_step_repeated(T_true, stamps_ns))
    return StreamResult(
        sequence.name,
        sequence.group,
        CONSTANT_VELOCITY,
        stamps_ns,
        poses,
        trajectory=evaluate_trajectory(poses, sequence.truth),
        steps=step_errors(steps_between(poses.T_world_camera), steps_between(T_true)),
        depth=depth,
    )
