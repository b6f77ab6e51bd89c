"""The record of poses: as published, and as corrected with the keyframes."""

import numpy as np
from r3_ros.core.geometry import inverse, inverse_similarity, make_T
from r3_ros.streaming.trajectory import Trajectory
from scipy.spatial.transform import Rotation

SECOND = 1_000_000_000


def motion(seed):
    rng = np.random.default_rng(seed)
    return make_T(Rotation.random(random_state=rng).as_matrix(), rng.normal(size=3))


def record(count, max_poses=100_000, keyframes=(), lost=()):
    trajectory = Trajectory(max_poses)
    poses = {}
    for frame_id in range(count):
        T = None if frame_id in lost else motion(frame_id)
        trajectory.append(frame_id, frame_id * SECOND, frame_id in keyframes, T)
        if T is not None:
            poses[frame_id] = T
    return trajectory, poses


def test_an_empty_record():
    view = Trajectory(100).view({})
    assert view.T_final.shape == view.T_emitted.shape == (0, 4, 4)


def test_each_frame_is_recorded():
    trajectory, poses = record(5, keyframes={0, 3}, lost={2})
    view = trajectory.view(poses)
    assert len(trajectory) == 5
    np.testing.assert_array_equal(view.frame_ids, np.arange(5))
    np.testing.assert_array_equal(view.stamps_ns, np.arange(5) * SECOND)
    np.testing.assert_array_equal(view.is_keyframe, [True, False, False, True, False])
    assert np.isnan(view.T_emitted[2]).all() and np.isnan(view.T_final[2]).all()
    for frame_id, T in poses.items():
        np.testing.assert_array_equal(view.T_emitted[frame_id], T)
        np.testing.assert_array_equal(view.T_final[frame_id], T)


def test_a_provisional_pose_counts_once_it_is_known():
    trajectory, poses = Trajectory(100), {i: motion(i) for i in range(4)}
    for i in range(4):
        trajectory.append(i, i * SECOND, i == 0, poses[i], provisional=i < 3)
    assert np.isnan(trajectory.view(poses).T_final[:3]).all()
    # A follower of a keyframe whose place is unknown, too.
    trajectory.release(1, inverse_similarity(poses[0]) @ poses.pop(1), 0)
    np.testing.assert_array_equal(trajectory.settle([2]), [0, 1])
    view = trajectory.view(poses)
    assert np.isnan(view.T_final[:2]).all() and np.isnan(view.T_emitted[:3]).all()
    for i in (2, 3):
        np.testing.assert_array_equal(view.T_final[i], poses[i])


def test_held_frames_have_the_pose_they_are_held_with():
    trajectory, poses = record(3)
    corrected = {**poses, 1: motion(77)}
    view = trajectory.view(corrected)
    np.testing.assert_array_equal(view.T_final[1], motion(77))
    np.testing.assert_array_equal(view.T_emitted[1], poses[1])


def test_released_frames_follow_the_nearest_keyframe():
    trajectory, poses = record(10, keyframes={0, 6})
    for frame_id in (4, 5):
        trajectory.release(frame_id, inverse_similarity(poses[6]) @ poses[frame_id], 6)
        del poses[frame_id]
    before = trajectory.view(poses)
    for frame_id in (4, 5):
        np.testing.assert_allclose(before.T_final[frame_id], motion(frame_id), atol=1e-12)
    change = motion(50)
    after = trajectory.view({**poses, 6: change @ poses[6]})
    for frame_id in (4, 5):
        np.testing.assert_allclose(after.T_final[frame_id], change @ motion(frame_id), atol=1e-12)
        np.testing.assert_array_equal(after.T_emitted[frame_id], motion(frame_id))
    untouched = trajectory.view({**poses, 0: change @ poses[0]})
    np.testing.assert_allclose(untouched.T_final[5], motion(5), atol=1e-12)


def test_followers_pass_on_when_their_keyframe_goes():
    trajectory, poses = record(10, keyframes={0, 4, 8})
    trajectory.release(5, inverse_similarity(poses[4]) @ poses[5], 4)
    del poses[5]
    # Keyframe 4 is corrected, then goes; its correction stays with it and its follower.
    change = motion(60)
    poses[4] = change @ poses[4]
    trajectory.release(4, inverse_similarity(poses[0]) @ poses[4], 0)
    del poses[4]
    view = trajectory.view(poses)
    for frame_id in (4, 5):
        np.testing.assert_allclose(view.T_final[frame_id], change @ motion(frame_id), atol=1e-12)
    # Both follow a neighbour now: 0 or 8.
    further = motion(61)
    moved = trajectory.view({k: further @ T for k, T in poses.items()})
    for frame_id in (4, 5):
        expected = further @ change @ motion(frame_id)
        np.testing.assert_allclose(moved.T_final[frame_id], expected, atol=1e-12)


def test_without_any_keyframe_a_pose_stays_where_it_is():
    trajectory, poses = record(3)
    trajectory.release(1, poses[1], None)
    del poses[1]
    view = trajectory.view({k: motion(9) @ T for k, T in poses.items()})
    np.testing.assert_allclose(view.T_final[1], motion(1), atol=1e-12)


def test_the_oldest_poses_are_lost_beyond_the_bound():
    trajectory, poses = record(1000, max_poses=100)
    assert 90 <= len(trajectory) <= 100
    kept = len(trajectory)
    view = trajectory.view({k: T for k, T in poses.items() if k >= 1000 - kept})
    np.testing.assert_array_equal(view.frame_ids, np.arange(1000 - kept, 1000))
    np.testing.assert_array_equal(view.T_final[-1], motion(999))


def test_a_keyframe_older_than_the_record_still_carries_its_followers():
    trajectory, poses = record(95, max_poses=100, keyframes={0, 90})
    trajectory.release(30, inverse_similarity(poses[0]) @ poses[30], 0)  # follows 0
    del poses[30]
    for frame_id in range(95, 105):
        trajectory.append(frame_id, frame_id, False, motion(frame_id))
        poses[frame_id] = motion(frame_id)
    held = {k: T for k, T in poses.items() if k >= 10 or k == 0}
    ids = trajectory.view(held).frame_ids.tolist()
    assert 0 not in ids and 30 in ids
    change = motion(70)
    held[0] = change @ held[0]
    trajectory.release(0, inverse_similarity(held[90]) @ held[0], 90)
    held.pop(0)
    view = trajectory.view(held)
    np.testing.assert_allclose(view.T_final[ids.index(30)], change @ motion(30), atol=1e-12)


def test_a_snapshot_does_not_change():
    trajectory, poses = record(300, keyframes={0})
    view, late = trajectory.view(poses), trajectory.view(poses)
    before = view.T_final.copy()
    trajectory.release(5, inverse_similarity(poses[0]) @ poses[5], 0)
    poses[5] = motion(99)
    poses[0] = motion(98)
    for frame_id in range(300, 900):
        trajectory.append(frame_id, 0, False, None)
    np.testing.assert_array_equal(late.T_final, before)
    np.testing.assert_array_equal(view.T_final, before)
    assert len(late.frame_ids) == 300


def test_relative_poses_survive_many_hands():
    """Precision: a follower passed on a thousand times is still where it was."""
    trajectory, poses = record(3, keyframes={0, 1, 2})
    trajectory.release(1, inverse_similarity(poses[0]) @ poses[1], 0)
    gone = poses.pop(1)
    for number in range(3, 1003):
        trajectory.append(number, 0, True, motion(number))
        poses[number] = motion(number)
        trajectory.release(
            number - 1, inverse_similarity(poses[number]) @ poses[number - 1], number
        )
        del poses[number - 1]
    final = trajectory.view(poses).T_final[1]
    assert np.abs(final @ inverse(gone) - np.eye(4)).max() < 1e-10


def test_the_pose_of_one_frame_is_that_of_the_record_held_or_let_go():
    trajectory, poses = record(10, keyframes={0, 6}, lost={3})
    trajectory.release(5, inverse_similarity(poses[6]) @ poses[5], 6)
    trajectory.release(9, poses[9], None)
    held = {i: T for i, T in poses.items() if i not in (5, 9)}
    moved = {**held, 6: motion(77)}
    record_now = trajectory.view(moved).T_final
    for frame_id in (2, 5, 6, 9):
        found = trajectory.pose_of(frame_id, moved)
        np.testing.assert_allclose(found, record_now[frame_id], atol=1e-12)
    assert trajectory.pose_of(3, moved) is None and trajectory.pose_of(99, moved) is None


def test_a_record_of_keyframes_alone():
    trajectory, poses = record(10, keyframes={0, 6, 8})
    trajectory.release(6, inverse_similarity(poses[8]) @ poses[6], 8)
    every, keyframes = trajectory.view(poses), trajectory.view(poses, keyframes_only=True)
    np.testing.assert_array_equal(keyframes.frame_ids, [0, 6, 8])
    np.testing.assert_array_equal(keyframes.T_final, every.T_final[[0, 6, 8]])
    np.testing.assert_array_equal(keyframes.stamps_ns, every.stamps_ns[[0, 6, 8]])
