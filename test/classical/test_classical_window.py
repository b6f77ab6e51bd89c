"""Which keyframes take part in an adjustment, and how the others follow."""

import numpy as np
from r3_ros.classical.backend import Backend
from r3_ros.classical.landmarks import Observations, SparseMap
from r3_ros.classical.mapping import add_found
from r3_ros.classical.pinhole import Pinhole
from r3_ros.classical.window import adjustment_job, Loop, merge, take_window
from r3_ros.core.geometry import inverse, make_T

CAMERA = Pinhole(500.0, 500.0, 319.5, 239.5, 640, 480)
BLANK = np.zeros((480, 640), np.uint8)


def map_of_a_turning_camera():
    """Return a map of five keyframes, of which the last has 12 landmarks left at the border."""
    rng = np.random.default_rng(3)
    sparse_map = SparseMap(CAMERA)
    landmarks = sparse_map.landmarks
    points = rng.uniform((-2.5, -1.8, 4.0), (2.5, 1.8, 6.0), (300, 3))
    slots = None
    for i in range(5):
        T = make_T(np.eye(3), np.array([0.1 * i, 0.0, 0.0]))
        frame = sparse_map.hold(i, BLANK, T)
        frame.keyframe = True
        seen, depth = CAMERA.pixels_of_points(points, inverse(T))
        seen += rng.normal(0.0, 0.3, seen.shape)
        inside = np.flatnonzero((depth > 0) & CAMERA.inside(seen))
        if slots is None:
            slots = landmarks.add(points, frame, seen)
            landmarks.solid[slots] = True
        if i == 4:
            inside = inside[np.argsort(seen[inside, 0])[:12]]
        frame.seen = Observations.of(landmarks, slots[inside], seen[inside])
        landmarks.observation_count[slots[inside]] += 1
    between = sparse_map.hold(5, BLANK, frame.T_world_camera)
    between.keyframe = False
    return sparse_map


def test_a_keyframe_that_landmarks_do_not_determine_is_not_adjusted():
    window = take_window(map_of_a_turning_camera(), 7)
    assert window.newest_id == 3
    assert sorted(window.frame_ids) == [0, 1, 2, 3]


def map_of_a_camera_that_stays(count):
    """Return a map of keyframes that all see the same landmarks."""
    rng = np.random.default_rng(5)
    sparse_map = SparseMap(CAMERA)
    landmarks = sparse_map.landmarks
    points = rng.uniform((-2.0, -1.5, 4.0), (2.0, 1.5, 6.0), (200, 3))
    for i in range(count):
        T = make_T(np.eye(3), np.array([0.05 * i, 0.0, 0.0]))
        frame = sparse_map.hold(i, BLANK, T)
        frame.keyframe = True
        seen, _ = CAMERA.pixels_of_points(points, inverse(T))
        if i == 0:
            slots = landmarks.add(points, frame, seen)
            landmarks.solid[slots] = True
        frame.seen = Observations.of(landmarks, slots, seen)
        landmarks.observation_count[slots] += 1
    return sparse_map


def test_older_keyframes_of_the_same_place_are_adjusted_too_and_the_oldest_hold_it():
    window = take_window(map_of_a_camera_that_stays(30), 5)
    free = window.frame_ids[: window.problem.free_count]
    fixed = window.frame_ids[window.problem.free_count :]
    assert set(range(25, 30)) < set(free) and min(free) < 25 == window.recent_id
    assert fixed and max(fixed) < min(free)


def test_a_fixed_keyframe_and_the_frames_after_it_stay():
    sparse_map = map_of_a_camera_that_stays(30)
    window = take_window(sparse_map, 5)
    free = window.frame_ids[: window.problem.free_count]
    # One of them is held, as if it did not see the same.
    left_out = free[1]
    keep = np.ones(len(sparse_map.frames[left_out].seen.slots), bool)
    keep[10:] = False
    sparse_map.frames[left_out].seen.keep(keep)
    for i in free:
        sparse_map.frames[i].T_world_camera[1, 3] += 0.02
    old = {i: frame.T_world_camera.copy() for i, frame in sparse_map.frames.items()}
    window = take_window(sparse_map, 5)
    assert left_out not in window.frame_ids
    merge(window, adjustment_job(window, 10)()[1], sparse_map)
    assert np.array_equal(sparse_map.frames[left_out].T_world_camera, old[left_out])
    assert abs(sparse_map.frames[29].T_world_camera[1, 3]) < 0.005


def test_frames_that_took_no_part_follow_the_last_keyframe_that_did():
    sparse_map = map_of_a_turning_camera()
    wrong = make_T(np.eye(3), np.array([0.0, 0.02, 0.0]))
    for i in (2, 3, 4, 5):
        sparse_map.frames[i].T_world_camera = wrong @ sparse_map.frames[i].T_world_camera
    old = {i: frame.T_world_camera for i, frame in sparse_map.frames.items()}
    window = take_window(sparse_map, 7)
    motion = merge(window, adjustment_job(window, 10)()[1], sparse_map)
    moved = {i: frame.T_world_camera for i, frame in sparse_map.frames.items()}
    assert abs(moved[3][1, 3]) < 0.005
    for i in (4, 5):
        assert np.allclose(moved[i], motion.of_pose(old[i]))
        assert abs(moved[i][1, 3]) < 0.01


def test_rounding_in_a_rotation_does_not_grow_with_each_adjustment():
    sparse_map = map_of_a_camera_that_stays(12)
    for frame in sparse_map.frames.values():
        frame.T_world_camera[0, 1] += 1e-8
    for _ in range(12):
        window = take_window(sparse_map, 5)
        merge(window, adjustment_job(window, 2)()[1], sparse_map)
    R = np.array([frame.T_world_camera[:3, :3] for frame in sparse_map.frames.values()])
    assert np.abs(R @ np.swapaxes(R, 1, 2) - np.eye(3)).max() < 3e-8


def test_a_loop_to_a_keyframe_that_landmarks_do_not_determine_is_dropped():
    sparse_map = map_of_a_turning_camera()
    frame, landmarks = sparse_map.frames[4], sparse_map.landmarks
    old = sparse_map.frames[0].seen
    unseen = ~np.isin(old.slots, frame.seen.slots)
    unseen &= unseen.cumsum() <= 5
    seen = Observations.of(landmarks, old.slots[unseen], old.pixels[unseen])
    before, counts = frame.seen.slots.copy(), landmarks.observation_count.copy()
    backend = Backend(sparse_map, 7, None, planes=0, fill=False)
    try:
        backend.offer_loop(Loop(4, 0, seen))
        backend.drain()
    finally:
        backend.close()
    assert np.isin(frame.seen.slots, before).all()
    assert (landmarks.observation_count <= counts).all()


def test_with_each_keyframe_those_are_searched_again_that_have_waited_longest():
    sparse_map = map_of_a_camera_that_stays(6)
    sparse_map.frames[0].saved = True
    backend = Backend(sparse_map, 5, None, planes=0, fill=False)
    try:
        for newest, searched in ((4, {1, 2}), (5, {3, 1}), (5, {2, 4})):
            before = {i: f.searched_by for i, f in sparse_map.frames.items()}
            sparse_map.frames[5].keyframe = newest == 5
            backend.keyframe_added(newest)
            now = {i: f.searched_by for i, f in sparse_map.frames.items()}
            assert {i for i in now if now[i] != before[i]} == searched
    finally:
        backend.close()


def test_only_new_observations_of_landmarks_that_still_exist_are_added():
    sparse_map = map_of_a_camera_that_stays(3)
    landmarks, frame = sparse_map.landmarks, sparse_map.frames[2]
    has, lost, gone = frame.seen.slots[:5], frame.seen.slots[5:8], frame.seen.slots[8:10]
    slots = np.concatenate([has, lost, gone])
    found = Observations.of(landmarks, slots, np.full((len(slots), 2), 7.0))
    frame.seen.keep(~np.isin(frame.seen.slots, lost))
    landmarks.remove(gone)
    counts = landmarks.observation_count.copy()
    add_found(frame, sparse_map, found)
    added = landmarks.observation_count - counts
    assert (added[lost] == 1).all() and added.sum() == len(lost)
    assert (frame.seen.pixels[np.isin(frame.seen.slots, lost)] == 7.0).all()


def test_at_the_end_all_keyframes_are_adjusted():
    sparse_map = map_of_a_camera_that_stays(30)
    sparse_map.frames[3].T_world_camera[1, 3] += 0.02
    backend = Backend(sparse_map, 5, None, planes=0, fill=False)
    try:
        backend.drain()
    finally:
        backend.close()
    assert abs(sparse_map.frames[3].T_world_camera[1, 3]) < 0.002
