"""The classical predictor on real recordings: what it must never claim, and what it must reach."""

from pathlib import Path

import numpy as np
import pytest
from r3_ros.core.config import R3Config
from r3_ros.core.datatypes import Estimate, TrackingState
from r3_ros.core.geometry import inverse, rotation_angle
from r3_ros.core.parameter_fields import updated
from r3_ros.core.trajectory_file import PoseList, read_tum
from r3_ros.evaluation.trajectory_errors import evaluate_trajectory
from r3_ros.factory import load_engine
from r3_ros.input.folder_source import FolderSource
from r3_ros.offline.stream_run import Undistorter
from scipy.stats import spearmanr

DATA = Path(__file__).parents[2] / 'shared' / 'data'
CONFIDENT = (TrackingState.TRACKING, TrackingState.LOW_CONFIDENCE)


class Recording:
    """The first frames of a recording through the engine: estimates, edges and the truth."""

    def __init__(self, name: str, count: int) -> None:
        """Run it, or skip the test where the recording is not at hand."""
        folder = DATA / name
        if not folder.is_dir():
            pytest.skip(f'needs the recording {name}, which is not part of the repository')
        engine = load_engine(updated(R3Config(), {'model.depth': False}))
        predict = engine.predictor.predict
        self.edges, self.estimates = [], []

        def remember(frame, context_ids, depth=True):
            prediction = predict(frame, context_ids, depth)
            self.edges.extend(prediction.edges)
            return prediction

        engine.predictor.predict = remember
        try:
            with FolderSource(folder) as source:
                undistorter = Undistorter(source.camera)
                for raw in source:
                    if len(self.estimates) == count:
                        break
                    self.estimates.append(engine.step(undistorter.frame(raw)))
        finally:
            engine.close()
        self.truth = read_tum(folder / 'groundtruth.txt')

    def poses(self, estimates: list[Estimate]) -> PoseList:
        """Return the poses of estimates that claim one after the start-up."""
        claimed = [e for e in estimates if e.state in CONFIDENT and e.T_world_camera is not None]
        stamps_ns = np.array([e.stamp_ns for e in claimed], np.int64)
        return PoseList(stamps_ns, np.stack([e.T_world_camera for e in claimed]))

    def errors(self, estimates: list[Estimate]):
        """Return the trajectory errors after Sim(3)."""
        return evaluate_trajectory(self.poses(estimates), self.truth)

    def true_pose(self, estimate: Estimate) -> np.ndarray:
        """Return the true pose at an estimate's time."""
        return self.truth.T_world_camera[
            np.argmin(np.abs(self.truth.stamps_ns - estimate.stamp_ns))
        ]


def test_a_cut_in_the_recording_gives_no_false_pose():
    """After frame 30 the view jumps by 44 degrees, onto the next repeat of a wallpaper."""
    recording = Recording('fox_ngp', 50)
    before, after = recording.estimates[:31], recording.estimates[31:]
    errors = recording.errors(before)
    assert errors.matched >= 20
    assert errors.ate_percent < 0.5
    anchor = next(e for e in before if e.state is TrackingState.TRACKING)
    to_truth = recording.true_pose(anchor) @ inverse(anchor.T_world_camera)
    path = recording.truth.T_world_camera[:, :3, 3]
    length = np.linalg.norm(np.diff(path, axis=0), axis=1).sum()
    for estimate in after:
        if estimate.state in CONFIDENT and estimate.T_world_camera is not None:
            move = estimate.T_world_camera[:3, 3] - anchor.T_world_camera[:3, 3]
            centre = recording.true_pose(anchor)[:3, 3] + errors.scale * to_truth[:3, :3] @ move
            error = np.linalg.norm(centre - recording.true_pose(estimate)[:3, 3])
            assert error < 0.05 * length


def test_a_standing_camera_never_starts():
    recording = Recording('euroc_v101_static', 60)
    for estimate in recording.estimates:
        assert estimate.state is TrackingState.INITIALIZING
        assert np.rad2deg(rotation_angle(estimate.T_world_camera[:3, :3])) < 0.2
        assert np.linalg.norm(estimate.T_world_camera[:3, 3]) == 0.0
        assert estimate.depths == ()


def test_a_car_starts_within_three_frames_and_stays_on_its_path():
    recording = Recording('kitti00', 40)
    states = [e.state for e in recording.estimates]
    assert set(states[3:]) == {TrackingState.TRACKING}
    assert recording.errors(recording.estimates).ate_percent < 1.0


def test_confidence_orders_the_errors():
    recording = Recording('redkitchen_7scenes', 120)
    estimates = recording.estimates
    scale = recording.errors(estimates).scale
    rows = []
    for edge in recording.edges:
        if edge.confidence_translation > 0:
            source, target = estimates[edge.source_id], estimates[edge.target_id]
            T = inverse(recording.true_pose(source)) @ recording.true_pose(target)
            shift = np.linalg.norm(scale * edge.T_source_target[:3, 3] - T[:3, 3])
            turn = rotation_angle(edge.T_source_target[:3, :3].T @ T[:3, :3])
            rows.append((edge.confidence_translation, shift, edge.confidence_rotation, turn))
    table = np.array(rows)
    assert len(table) > 500
    for kind in (0, 2):
        confidence, error = table[:, kind], table[:, kind + 1]
        assert spearmanr(confidence, error).statistic < -0.4
        fifths = np.array_split(np.argsort(confidence), 5)
        medians = [np.median(error[fifth]) for fifth in fifths]
        assert medians[0] > 1.5 * medians[2] > 1.5 * medians[4]
