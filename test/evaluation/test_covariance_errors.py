"""Shares inside ellipsoids, and bounds, of errors that were drawn from known covariances."""

import json

import numpy as np
import pytest
from r3_ros import factory
from r3_ros.commands.cli import main
from r3_ros.core.datatypes import TrackingState
from r3_ros.core.geometry import make_T, scale_of
from r3_ros.core.trajectory_file import read_tum
from r3_ros.evaluation.covariance_errors import (
    bounds_95,
    errors_of_poses,
    errors_of_steps,
    motion_errors,
    nees,
    share_inside,
)
from r3_ros.offline.frame_record import FrameRecord
from r3_ros.offline.run_files import read_covariances, read_table, write_covariances
from scipy.spatial.transform import Rotation
import scripted
from sequences import stamp, write_folder


def exp(xi: np.ndarray) -> np.ndarray:
    """Return the motions with these (N, 6) translations and rotation vectors."""
    return make_T(Rotation.from_rotvec(xi[:, 3:]).as_matrix(), xi[:, :3])


def walk(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return exp(rng.normal(size=(count, 6)))


def drawn(count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return errors and the covariances that they were drawn from."""
    rng = np.random.default_rng(seed)
    A = 0.1 * rng.normal(size=(count, 6, 6))
    return (A @ rng.normal(size=(count, 6, 1)))[..., 0], A @ A.swapaxes(1, 2)


def test_errors_are_found_in_the_frame_of_the_camera_whatever_world_and_unit():
    xi, _ = drawn(50)
    xi[0] = 0.0
    T_world_camera = walk(50)
    T_true = T_world_camera @ exp(xi)
    moved = walk(1, seed=2)[0] @ T_true
    moved[:, :3, 3] *= 2.5
    errors = errors_of_poses(T_world_camera, moved, unit=2.5)
    assert np.isnan(errors[0]).all()
    np.testing.assert_allclose(errors[1:], xi[1:], atol=1e-9)


def test_steps_are_compared_with_the_frame_just_before_alone():
    T_true = walk(5)
    steps = np.full((5, 4, 4), np.nan)
    xi, _ = drawn(5)
    for n in (1, 2, 4):
        steps[n] = np.linalg.inv(T_true[n - 1]) @ T_true[n] @ np.linalg.inv(exp(xi[n : n + 1]))[0]
    errors = errors_of_steps(steps, np.array([3, 4, 6, 7, 8]), T_true, unit=1.0)
    # Frame 5 is missing, and there is no step to frame 7.
    assert np.isfinite(errors[:, 0]).tolist() == [False, True, False, False, True]
    np.testing.assert_allclose(errors[[1, 4]], xi[[1, 4]], atol=1e-9)


def test_ellipsoids_hold_the_share_of_the_errors_that_they_should():
    errors, C = drawn(20_000)
    values = nees(errors, C)
    assert values.mean() == pytest.approx(6.0, rel=0.02)
    for level in (0.5, 0.95):
        assert share_inside(values, level) == pytest.approx(level, abs=0.01)
    assert share_inside(nees(errors, C / 4)) < 0.5
    values[1:] = np.nan
    assert share_inside(values) in (0.0, 1.0) and np.isnan(share_inside(values[1:]))


def test_an_error_is_below_its_bound_where_the_ellipsoid_holds_it():
    errors, C = drawn(2000)
    errors, C = errors[:, :3], C[:, :3, :3]
    bounds = bounds_95(errors, C)
    inside = np.linalg.norm(errors, axis=1) <= bounds
    assert inside.mean() == pytest.approx(share_inside(nees(errors, C), 0.95, 3))
    along_x = bounds_95(np.array([[0.1, 0, 0]]), np.diag([4.0, 1, 1])[None])
    assert along_x == pytest.approx(2 * np.sqrt(7.8147), rel=1e-3)


def test_covariances_are_written_in_the_unit_of_the_run(tmp_path):
    C = np.arange(36.0).reshape(6, 6)
    step = make_T(np.eye(3), np.array([1.0, 2.0, 3.0]))
    facts = (TrackingState.TRACKING, '', True, False, 1.0, 1.0, 1.0, 1, 1.0, 1.0)
    records = [
        FrameRecord(0, 10, *facts),
        FrameRecord(1, 20, *facts, covariance=C, T_previous_camera=step, step_covariance=2 * C),
    ]
    write_covariances(tmp_path / 'covariances.npz', records, unit=3.0)
    saved = read_covariances(tmp_path)
    assert saved.stamps_ns.tolist() == [10, 20]
    assert np.isnan(saved.covariance[0]).all() and np.isnan(saved.T_previous_camera[0]).all()
    np.testing.assert_allclose(saved.covariance[1, :3, :3], 9 * C[:3, :3])
    np.testing.assert_allclose(saved.covariance[1, :3, 3:], 3 * C[:3, 3:])
    np.testing.assert_allclose(saved.step_covariance[1, 3:, 3:], 2 * C[3:, 3:])
    assert saved.T_previous_camera[1, :3, 3].tolist() == [3.0, 6.0, 9.0]
    assert read_covariances(tmp_path / 'elsewhere') is None


@pytest.mark.parametrize('metres_per_unit', [None, 3.0])
def test_a_run_keeps_its_covariances_and_is_judged_by_them(tmp_path, monkeypatch, metres_per_unit):
    script = scripted.Script(
        translation_noise=0.004, rotation_noise=0.002, blackouts=range(20, 26)
    )
    monkeypatch.setattr(factory, 'load_predictor', lambda c: scripted.ScriptedPredictor(script))
    folder, out = write_folder(tmp_path / 'seq', count=40), tmp_path / 'out'
    arguments = ['run', str(folder), '-o', str(out)]
    if metres_per_unit:
        arguments += ['--set', 'scale.source=fixed', '--set', f'scale.fixed={metres_per_unit}']
    assert main([*arguments, '--groundtruth', str(folder / 'groundtruth.txt')]) == 0
    saved = read_covariances(out)
    assert saved.stamps_ns.tolist() == [stamp(i) for i in range(40)]
    known = np.isfinite(saved.covariance[:, 0, 0])
    poses = read_tum(out / 'trajectory.tum')
    assert saved.stamps_ns[known].tolist() == poses.stamps_ns.tolist()
    # A step leads from the pose before to this one, in the unit of the file.
    rows = np.flatnonzero(known[1:] & known[:-1]) + 1
    assert np.isfinite(saved.step_covariance[rows]).all()
    lengths = np.linalg.norm(saved.T_previous_camera[rows, :3, 3], axis=1)
    exact = (metres_per_unit or 1.0) * 0.5 * 2 * np.pi / 200
    assert np.median(lengths) == pytest.approx(exact, rel=0.1)
    evaluation = json.loads((out / 'evaluation.json').read_text())
    for part in ('poses', 'steps'):
        covered = evaluation['covariance'][part]
        assert covered['count'] > 25 and 0.0 <= covered['inside_95'] <= 1.0
        assert covered['levels']['0.95'] == covered['inside_95']
        assert covered['nees_mean'] > 0
    table = read_table(out / 'evaluation.csv')
    assert len(table['drift_bound_m']) == len(poses)
    assert np.nanmax(table['drift_m']) < 0.2 and np.nanmin(table['drift_bound_deg']) > 0
    inside = table['pose_nees'][np.isfinite(table['pose_nees'])] <= 12.592
    assert inside.mean() == pytest.approx(evaluation['covariance']['poses']['inside_95'])
    # The alignment brings the poses of the file to those of the table.
    S = np.array(evaluation['S_truth_world'])
    centres = (S @ poses.T_world_camera)[:, :3, 3]
    np.testing.assert_allclose(centres[:, 0], table['estimate_x'], atol=1e-5)
    assert scale_of(S) == pytest.approx(evaluation['trajectory']['scale'])


def test_small_motions_of_a_stack_and_of_one():
    T = walk(6).reshape(2, 3, 4, 4)
    assert motion_errors(T, T).shape == (2, 3, 6)
    assert motion_errors(T[0, 0], T[0, 1]).shape == (6,)
