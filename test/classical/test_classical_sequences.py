"""The classical predictor on real recordings: no pose is published that is plainly false.

How accurate it is on them is measured by benchmarks/run_sequences.py and classical_confidence.py.
"""

import numpy as np
from paths import DATA, needs
import pytest
from r3_ros.core.config import R3Config
from r3_ros.core.datatypes import TrackingState
from r3_ros.core.geometry import inverse, rotation_angle
from r3_ros.core.parameter_fields import updated
from r3_ros.core.trajectory_file import read_tum
from r3_ros.factory import load_engine
from r3_ros.input.folder_source import FolderSource
from r3_ros.offline.stream_run import Undistorter

FOX, STATIC, STREET = (DATA / name for name in ('fox_ngp', 'euroc_v101_static', 'kitti00'))


def estimates_of(folder, count):
    """Return the estimates of the first frames of a recording, without dense depth."""
    engine = load_engine(updated(R3Config(), {'model.depth': False}))
    try:
        with FolderSource(folder) as source:
            undistorter = Undistorter(source.camera)
            shown = (undistorter.frame(raw) for raw in source)
            return [engine.step(frame) for _, frame in zip(range(count), shown, strict=False)]
    finally:
        engine.close()


@pytest.mark.slow
@needs(FOX)
def test_a_cut_in_the_recording_gives_no_false_pose():
    """After frame 30 the view jumps by 44 degrees, onto the next repeat of a wallpaper."""
    estimates = estimates_of(FOX, 50)
    truth = read_tum(FOX / 'groundtruth.txt')

    def rotation(estimate):
        n = np.argmin(np.abs(truth.stamps_ns - estimate.stamp_ns))
        return truth.T_world_camera[n, :3, :3]

    anchor = next(e for e in estimates[:31] if e.state is TrackingState.TRACKING)
    for estimate in estimates[31:]:
        if estimate.T_world_camera is not None:
            turned = (inverse(anchor.T_world_camera) @ estimate.T_world_camera)[:3, :3]
            off = turned.T @ rotation(anchor).T @ rotation(estimate)
            assert np.rad2deg(rotation_angle(off)) < 22.0


@needs(STATIC)
def test_a_standing_camera_never_starts():
    for estimate in estimates_of(STATIC, 60):
        assert estimate.state is TrackingState.INITIALIZING
        assert np.linalg.norm(estimate.T_world_camera[:3, 3]) == 0.0
        assert estimate.depths == ()


@needs(STREET)
def test_a_car_is_tracked():
    assert estimates_of(STREET, 20)[-1].state is TrackingState.TRACKING
