"""Figures of merit against cases with a known answer."""

import cv2
import numpy as np
import pytest
from r3_ros.core.datatypes import DepthMap, Intrinsics
from r3_ros.core.errors import SourceError
from r3_ros.core.geometry import make_T
from r3_ros.core.trajectory_file import PoseList
from r3_ros.evaluation.depth_errors import depth_of_run
from r3_ros.evaluation.trajectory_errors import evaluate_trajectory, match_stamps
from r3_ros.offline.run_files import save_depth
from scipy.spatial.transform import Rotation
from sequences import stamp, write_folder

SECOND = 10**9


def walk(count: int = 200, seed: int = 0) -> PoseList:
    """Return a smooth random walk with turning."""
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.normal(size=(count, 3)), axis=0) * 0.002 + [0.03, 0.0, 0.01]
    turns = np.cumsum(rng.normal(size=(count, 3)), axis=0) * 0.02
    R = Rotation.from_rotvec(turns).as_matrix()
    return PoseList(SECOND + np.arange(count) * 66_666_667, make_T(R, np.cumsum(steps, axis=0)))


def moved(poses: PoseList, scale: float = 1.0) -> PoseList:
    """Return the same walk seen from another world and at another scale."""
    R = Rotation.from_euler('xyz', [0.4, -1.1, 2.0]).as_matrix()
    T = poses.T_world_camera.copy()
    T[:, :3, 3] *= scale
    return PoseList(poses.stamps_ns, make_T(R, [3.0, -2.0, 5.0]) @ T)


def test_another_world_and_scale_are_no_error():
    estimate = moved(walk(), 0.37)
    errors = evaluate_trajectory(estimate, walk())
    true = walk().T_world_camera
    np.testing.assert_allclose(errors.aligned[:, :3, 3], true[:, :3, 3], atol=1e-9)
    assert errors.ate_rmse_m < 1e-9 and errors.rotation_max_deg < 1e-5
    assert errors.rpe_m < 1e-9 and errors.rpe_deg < 1e-5
    assert errors.scale == pytest.approx(1 / 0.37)
    assert errors.matched == errors.estimated == 200


def test_without_scale_a_wrong_scale_is_an_error():
    errors = evaluate_trajectory(moved(walk(), 0.5), walk(), align='se3')
    assert errors.scale == 1.0 and errors.ate_percent > 5


def test_ate_is_the_root_mean_square_of_what_was_added():
    """Noise far below the walk's size is hardly absorbed by the alignment."""
    truth = walk(2000)
    T = truth.T_world_camera.copy()
    noise = np.random.default_rng(1).normal(size=(2000, 3)) * 0.01
    T[:, :3, 3] += noise
    errors = evaluate_trajectory(PoseList(truth.stamps_ns, T), truth)
    expected = np.sqrt((noise**2).sum(axis=1).mean())
    assert errors.ate_rmse_m == pytest.approx(expected, rel=0.01)
    length = np.linalg.norm(np.diff(truth.T_world_camera[:, :3, 3], axis=0), axis=1).sum()
    assert errors.path_m == pytest.approx(length)
    assert errors.ate_percent == pytest.approx(100 * expected / length, rel=0.01)


def test_rotation_is_judged_even_on_a_straight_path():
    """Aligning positions alone leaves the roll about the line free; rotations know better."""
    truth = walk()
    T = truth.T_world_camera.copy()
    T[:, :3, 3] = np.arange(200)[:, None] * [0.0, 0.0, 0.1]
    line = PoseList(truth.stamps_ns, T)
    assert evaluate_trajectory(moved(line), line).rotation_mean_deg < 1e-5
    tilt = make_T(Rotation.from_rotvec([0, np.radians(2.0), 0]).as_matrix(), np.zeros(3))
    spoiled = T.copy()
    spoiled[::2] = spoiled[::2] @ tilt
    errors = evaluate_trajectory(PoseList(truth.stamps_ns, spoiled), line)
    # Half of the poses are off by 2 degrees: the best turn leaves about 1 degree for each.
    assert errors.rotation_mean_deg == pytest.approx(1.0, abs=0.1)


def test_a_standing_camera_can_be_judged():
    truth = PoseList(walk().stamps_ns, np.tile(np.eye(4), (200, 1, 1)))
    estimate = PoseList(truth.stamps_ns, np.tile(moved(walk()).T_world_camera[:1], (200, 1, 1)))
    errors = evaluate_trajectory(estimate, truth)
    assert errors.ate_rmse_m < 1e-9 and errors.rotation_mean_deg < 1e-5
    assert 'aligned by the rotations' in errors.notes[0]
    assert np.isnan(errors.ate_percent)


def test_poses_without_a_true_one_do_not_count():
    truth = walk()
    estimate = PoseList(
        np.concatenate([truth.stamps_ns[50:100] + 3_000_000, truth.stamps_ns[-1:] + SECOND]),
        np.concatenate([truth.T_world_camera[50:100], 9 * np.ones((1, 4, 4))]),
    )
    errors = evaluate_trajectory(estimate, truth)
    assert (errors.matched, errors.estimated) == (50, 51)
    assert errors.ate_rmse_m < 1e-9
    covered = truth.T_world_camera[50:100, :3, 3]
    length = np.linalg.norm(np.diff(covered, axis=0), axis=1).sum()
    assert errors.path_m == pytest.approx(length)


def test_no_overlap_is_explained():
    truth = walk()
    later = PoseList(truth.stamps_ns + 1000 * SECOND, truth.T_world_camera)
    with pytest.raises(SourceError, match='do not overlap in time'):
        evaluate_trajectory(later, truth)
    beside = PoseList(truth.stamps_ns + 30_000_000, truth.T_world_camera)
    with pytest.raises(SourceError, match=r'differ by more than 0\.01 s'):
        evaluate_trajectory(beside, truth)


def test_too_few_poses_are_refused():
    truth = walk()
    with pytest.raises(SourceError, match='only 2 poses'):
        evaluate_trajectory(PoseList(truth.stamps_ns[:2], truth.T_world_camera[:2]), truth)


def test_each_true_pose_is_used_once_by_the_nearest():
    first = np.array([100, 104, 300])
    second = np.array([103, 200, 299, 302])
    own, other = match_stamps(first, second, tolerance_s=10e-9)
    assert own.tolist() == [1, 2] and other.tolist() == [0, 2]
    own, other = match_stamps(first, np.array([250]), tolerance_s=1.0)
    assert own.tolist() == [2] and other.tolist() == [0]


def depth_map(frame_id: int, depth: np.ndarray) -> DepthMap:
    height, width = depth.shape
    return DepthMap(
        frame_id,
        depth.astype(np.float32),
        np.ones(depth.shape, np.float32),
        np.zeros((height, width, 3), np.uint8),
        Intrinsics(50, 50, width / 2, height / 2, width, height),
    )


def test_depth_is_compared_at_its_own_size_and_scale(tmp_path):
    folder = write_folder(tmp_path / 'truth', count=3)
    (folder / 'depth').mkdir()
    out = tmp_path / 'depth'
    out.mkdir()
    metres = np.random.default_rng(0).uniform(1.0, 4.0, (24, 32))
    for i in (0, 2):
        millimetres = np.kron(np.rint(1000 * metres), np.ones((2, 2))).astype(np.uint16)
        millimetres[:12] = 0  # a quarter of the rows has no truth
        cv2.imwrite(str(folder / 'depth' / f'{i:06d}.png'), millimetres)
    estimate = metres * 0.4
    estimate[12:, ::2] = np.nan  # half of the pixels unknown
    save_depth(out, depth_map(0, estimate), stamp(0))
    wrong = metres * 0.7
    wrong[:, ::4] *= 1.5  # a quarter of the pixels too far
    save_depth(out, depth_map(2, wrong), stamp(2))
    errors = depth_of_run(out, folder)
    assert len(errors) == 2
    assert errors.coverage == pytest.approx((0.5 * 12 + 6 * 1.0) / 18 * 0.5 + 0.5, abs=0.01)
    assert errors.abs_rel == pytest.approx((0.0 + 0.25 * 0.5) / 2, abs=0.003)
    assert errors.delta_125 == pytest.approx((1.0 + 0.75) / 2, abs=0.003)


@pytest.mark.filterwarnings('error')
def test_depth_maps_without_a_known_pixel_cover_nothing(tmp_path):
    folder = write_folder(tmp_path / 'truth', count=3)
    for path in (folder / 'depth', tmp_path / 'out'):
        path.mkdir()
    cv2.imwrite(str(folder / 'depth' / '000000.png'), np.full((48, 64), 1500, np.uint16))
    save_depth(tmp_path / 'out', depth_map(0, np.full((24, 32), np.nan)), stamp(0))
    errors = depth_of_run(tmp_path / 'out', folder)
    assert errors.coverage == 0 and np.isnan(errors.abs_rel) and np.isnan(errors.delta_125)


def test_no_depth_on_either_side_is_no_error(tmp_path):
    folder = write_folder(tmp_path / 'truth', count=3)
    assert depth_of_run(tmp_path / 'none', folder) is None
