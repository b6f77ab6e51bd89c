"""The classical predictor in the engine, on drawn scenes in which tracking is hard."""

from dataclasses import replace

from classical_scene import draw, frame_of, INTRINSICS, noise_texture, Panel, room, wander
import numpy as np
import pytest
from r3_ros.classical import mapping
from r3_ros.classical.confidence import Evidence, NoiseLevel, USUAL_NOISE_PX
from r3_ros.classical.features import (
    as_exposed,
    coverage,
    find_corners,
    SHIFT_SHRINK,
    track_fast,
)
from r3_ros.classical.landmarks import HeldFrame, Observations, SparseMap
from r3_ros.classical.pinhole import Pinhole
from r3_ros.core.config import R3Config
from r3_ros.core.datatypes import TrackingState
from r3_ros.core.geometry import inverse, make_T, rotation_angle, similarity
from r3_ros.core.image_shift import shift_between
from r3_ros.core.parameter_fields import updated
from r3_ros.factory import load_engine
from scipy.spatial.transform import Rotation

POSED = (TrackingState.TRACKING, TrackingState.LOW_CONFIDENCE)


def run(images, **options):
    """Return the estimates of a stream, without dense depth, and the poses in the end."""
    settings = {'model.depth': False, 'classical.max_features': 400}
    settings |= {name.replace('__', '.'): value for name, value in options.items()}
    engine = load_engine(updated(R3Config(), settings))
    try:
        estimates = [engine.step(frame_of(gray, i)) for i, gray in enumerate(images)]
        engine.drain()
        return estimates, engine.session.trajectory_view()
    finally:
        engine.close()


def drawn(poses, panels=None):
    panels = panels or room()
    return [draw(panels, T)[0] for T in poses]


def errors(estimates, truth, scale):
    """Return distances and angles (degrees) of the published poses: worlds agree."""
    pairs = [
        (e.T_world_camera, T)
        for e, T in zip(estimates, truth, strict=True)
        if e.state in POSED and e.T_world_camera is not None
    ]
    shift = [np.linalg.norm(scale * a[:3, 3] - b[:3, 3]) for a, b in pairs]
    turn = [np.degrees(rotation_angle(a[:3, :3].T @ b[:3, :3])) for a, b in pairs]
    return np.array(shift), np.array(turn)


def scale_of_run(estimates, truth, first, last):
    a, b = (estimates[i].T_world_camera[:3, 3] for i in (first, last))
    return np.linalg.norm(truth[first][:3, 3] - truth[last][:3, 3]) / np.linalg.norm(a - b)


def turned(T, yaw_deg):
    R = Rotation.from_euler('y', yaw_deg, degrees=True).as_matrix()
    return T @ make_T(R, np.zeros(3))


def test_a_turn_away_from_all_landmarks_is_followed():
    """Corners seen from one place have no depth: they hold the rotation."""
    truth = wander(40)
    truth += [turned(truth[-1], yaw) for yaw in np.linspace(1.5, 39.0, 26)]
    wide = Panel((6.0, 0.0, 6.0), 20.0, 10.0, 0.0, noise_texture(9, 20.0, 10.0))
    estimates, _ = run(drawn(truth, [wide, *room()[1:]]))
    assert all(e.state in POSED for e in estimates[15:])
    _, turn = errors(estimates, truth, 1.0)
    assert turn.max() < 1.0


def test_a_pose_that_no_landmark_holds_is_not_claimed():
    truth = wander(40)
    truth += [turned(truth[-1], yaw) for yaw in np.linspace(1.5, 66.0, 44)]
    wide = Panel((6.0, 0.0, 6.0), 40.0, 10.0, 0.0, noise_texture(9, 40.0, 10.0))
    estimates, _ = run(drawn(truth, [wide, *room()[1:]]))
    assert estimates[39].state is TrackingState.TRACKING
    assert {e.state for e in estimates[-4:]} == {TrackingState.LOW_CONFIDENCE}
    assert errors(estimates, truth, 1.0)[1].max() < 2.0


def test_after_a_turn_that_no_landmark_survives_the_unit_is_unsure_until_old_ones_are_seen():
    truth = wander(40)
    truth += [turned(truth[-1], yaw) for yaw in np.linspace(1.5, 66.0, 44)]
    away, back = truth[-1], truth[39:84][::-1]
    truth += [away @ make_T(np.eye(3), np.array([0.04 * i, 0.0, 0.0])) for i in range(1, 31)]
    truth += [away @ make_T(np.eye(3), np.array([0.04 * i, 0.0, 0.0])) for i in range(29, 0, -1)]
    truth += back
    wide = Panel((6.0, 0.0, 6.0), 40.0, 10.0, 0.0, noise_texture(9, 40.0, 10.0))
    estimates, _ = run(drawn(truth, [wide, *room()[1:]]))
    walking = estimates[100:114]
    assert {e.state for e in walking} == {TrackingState.LOW_CONFIDENCE}
    assert 'unit of length' in walking[-1].reason
    assert {e.state for e in estimates[-3:]} == {TrackingState.TRACKING}


def test_corners_begin_anew_without_the_landmarks_that_were_not_saved():
    sparse_map = SparseMap(Pinhole(300.0, 300.0, 160.0, 120.0, 320, 240))
    landmarks = sparse_map.landmarks
    saved, own, key = (
        sparse_map.hold(i, np.zeros((240, 320), np.uint8), np.eye(4)) for i in (0, 1, 2)
    )
    saved.saved = True
    pixels = np.array([[100.0, 80.0], [200.0, 150.0]])
    old = np.concatenate([landmarks.add(np.ones((1, 3)), f, pixels[:1]) for f in (saved, own)])
    landmarks.solid[old] = True
    mapping.add_observations(key, sparse_map, old, pixels)
    kept = Observations.of(landmarks, old, pixels)
    new = mapping.begin_anew(key, sparse_map, old, pixels, np.array([2.0, 4.0]))
    assert kept.alive(landmarks).tolist() == [True, False]
    assert not landmarks.solid[new].any() and (landmarks.first_frame[new] == 2).all()
    assert np.allclose(landmarks.position[new][:, 2], [2.0, 4.0])
    seen = key.seen.slots[key.seen.alive(landmarks)]
    assert sorted(seen.tolist()) == sorted([old[0], *new])


def test_a_sudden_change_of_exposure_is_followed():
    truth = wander(45)
    images = drawn(truth)
    images[25:35] = [np.clip(0.45 * image, 0, 255).astype(np.uint8) for image in images[25:35]]
    estimates, _ = run(images)
    assert all(e.state in POSED for e in estimates[15:])
    scale = scale_of_run(estimates, truth, 20, 40)
    assert errors(estimates, truth, scale)[0].max() < 0.05


def test_a_jump_of_the_view_is_tracked_across():
    """A third of the image at once: farther than patches are searched for."""
    truth = wander(40)
    truth += [turned(T, 12.0) for T in wander(60)[40:]]
    images = drawn(truth)
    assert np.abs(shift_between(images[39], images[40], SHIFT_SHRINK))[0] > 50
    estimates, _ = run(images)
    assert all(e.state in POSED for e in estimates[15:])
    assert errors(estimates, truth, 1.0)[1].max() < 1.0


@pytest.mark.slow
def test_a_lost_camera_starts_anew_and_is_joined_where_it_comes_back():
    """A second segment with a unit of its own; saved landmarks are in the unit of the world."""
    beside = [
        Panel((x, y, z), 1.2, 1.1, 15.0, noise_texture(20 + i, 1.2, 1.1))
        for i, (x, y, z) in enumerate(
            [(3.1, -0.7, 4.7), (4.2, 0.6, 4.4), (5.9, -0.5, 3.9), (7.4, 0.7, 4.5), (9.0, 0.0, 4.1)]
        )
    ]
    wall = Panel((0.0, 0.0, 6.0), 26.0, 10.0, 0.0, noise_texture(9, 26.0, 10.0))
    panels = [wall, *room()[1:], *beside]
    there = wander(40)
    back = [
        make_T(np.eye(3), np.array([x, 0.25 * np.sin(3 * x), 0.4 * np.sin(2 * x)]))
        for x in np.linspace(7.8, -0.2, 130)
    ]
    truth = [*there, *back]
    estimates, final = run(
        drawn(truth, panels), loop__new_segment_after=8, tracking__lost_after_frames=3
    )
    segments = [e.segment_id for e in estimates]
    assert segments[39] == 0 and max(segments) >= 1 and segments[-1] == 0
    joined = len(truth) - next(n for n, s in enumerate(reversed(segments)) if s != 0)
    assert joined < 150
    # Nothing is published of the second segment before it is joined.
    first = next(n for n, s in enumerate(segments) if s != 0)
    assert all(e.T_world_camera is None for e in estimates[first:joined] if e.segment_id)
    # The world is that of the first frame, and one scale holds on both sides.
    scale = scale_of_run(estimates, truth, 20, 39)
    off, turn = errors(estimates, truth, scale)
    assert off.max() < 0.25 and turn.max() < 2.0
    known = np.isfinite(final.T_final[:, 0, 0])
    late = known & (np.arange(len(truth)) > first + 15)
    centres = scale * final.T_final[late, :3, 3]
    true = np.stack([T[:3, 3] for T in truth])[late]
    assert late.sum() > 60
    assert np.linalg.norm(centres - true, axis=1).max() < 0.3


def test_frames_before_a_start_get_their_poses_afterwards_unless_nothing_connects_them():
    poses = wander(30)
    away = noise_texture(99, 8.0, 6.0)[: INTRINSICS.height, : INTRINSICS.width]
    estimates, view = run([away, *drawn(poses)])
    first = next(i for i, e in enumerate(estimates) if e.state in POSED)
    assert 2 < first < 20
    known = np.isfinite(view.T_final).all(axis=(1, 2))
    # The first of the walk may still be compared with the image before it.
    assert not known[0] and known[2:].all()
    rows = np.flatnonzero(known)
    own = np.linalg.norm(view.T_final[rows, :3, 3] - view.T_final[rows[0], :3, 3], axis=1)
    exact = np.stack(poses)[rows - 1, :3, 3]
    true = np.linalg.norm(exact - exact[0], axis=1)
    assert np.abs(own * (true @ own) / (own @ own) - true).max() < 0.01


def test_plain_parts_of_an_image_get_corners_too():
    """Beside a strong texture, a weak one is below the threshold of the whole image."""
    gray = np.full((480, 640), 100, np.uint8)
    gray[:240, :320] = noise_texture(0, 4.0, 3.0)[:240, :320]
    weak = noise_texture(1, 8.0, 6.0)[:480, :640].astype(float)
    gray[:, 320:] = (100 + 0.03 * (weak - weak.mean()))[:, 320:].astype(np.uint8)
    corners = find_corners(gray, 700, np.empty((0, 2)), 8.0)
    assert len(np.unique(corners, axis=0)) == len(corners) <= 700
    assert (corners[:, 0] > 340).sum() > 50
    assert coverage(corners, 640, 480) > 0.5


def test_an_image_takes_the_exposure_of_another():
    first = noise_texture(3, 5.0, 4.0)
    darker = np.clip(0.5 * first.astype(float) + 10, 0, 255).astype(np.uint8)
    assert np.abs(as_exposed(first, darker).astype(float) - darker).mean() < 2.0
    assert as_exposed(first, first) is first


def test_corners_are_found_again_after_a_shift_that_nobody_expected():
    texture = noise_texture(4, 12.0, 6.0)
    first, second = texture[20:320, 20:420], texture[20:320, 110:510]
    corners = find_corners(first, 200, np.empty((0, 2)), 8.0)
    visible = corners[:, 0] > 110
    ends, ok = track_fast(first, second, corners, corners)
    assert ok[visible].mean() > 0.9
    assert np.abs(ends[ok] - corners[ok] + [90, 0]).max() < 0.5


def pair_of_views(sigma):
    """Return a map of two frames with 200 common corners of this relative depth error."""
    rng = np.random.default_rng(5)
    sparse = SparseMap(Pinhole(**vars(INTRINSICS)))
    points = rng.uniform([-2, -1.5, 4], [2, 1.5, 8], (200, 3))
    frames = []
    for frame_id, x in enumerate((0.0, 0.3)):
        frame = sparse.hold(frame_id, np.zeros((300, 400), np.uint8), np.eye(4))
        frame.T_world_camera[0, 3] = x
        frame.keyframe = True
        if frame_id == 0:
            first = sparse.camera.pixels_of_points(points, np.eye(4))[0]
            slots = sparse.landmarks.add(points, frame, first)
            sparse.landmarks.solid[slots] = np.isfinite(sigma)
            sparse.landmarks.relative_sigma[slots] = sigma
        pixels = sparse.camera.pixels_of_points(points, inverse(frame.T_world_camera))[0]
        frame.seen = Observations.of(
            sparse.landmarks, slots, pixels + rng.normal(0, 0.3, (200, 2))
        )
        frames.append(frame)
    return sparse, frames


@pytest.mark.parametrize(
    ('zoom', 'parallax_deg', 'solid'),
    [(1, 0.8, False), (1, 1.2, True), (3, 0.8, True), (3, 0.4, False)],
)
def test_a_narrow_lens_needs_fewer_degrees_of_parallax(zoom, parallax_deg, solid):
    """Its pixels are smaller: the same number of them is enough."""
    sparse = SparseMap(Pinhole(**vars(INTRINSICS)).with_focal_scaled(zoom))
    points = np.array([[0.2, 0.1, 20.0]])
    baseline = 20.0 * np.tan(np.deg2rad(parallax_deg))
    for frame_id, x in enumerate((0.0, baseline)):
        frame = sparse.hold(
            frame_id, np.zeros((300, 400), np.uint8), make_T(np.eye(3), np.array([x, 0.0, 0.0]))
        )
        frame.keyframe = True
        pixels, _ = sparse.camera.pixels_of_points(points, inverse(frame.T_world_camera))
        if frame_id == 0:
            slots = sparse.landmarks.add(points, frame, pixels)
        mapping.add_observations(frame, sparse, slots, pixels)
    mapping.triangulate_candidates(frame, sparse)
    assert sparse.landmarks.solid[slots].all() == solid


def test_guessed_depths_hold_rotation_more_than_translation():
    found = {}
    for sigma in (0.01, np.inf):
        sparse, (old, new) = pair_of_views(sigma)
        (found[sigma],) = Evidence(new, sparse).against([old])
        assert found[sigma] is not None, 'corners alone relate two frames'
    translation, rotation = zip(*(found[s].confidences for s in (0.01, np.inf)), strict=True)
    assert rotation[1] > 0.2 * rotation[0]
    assert translation[1] < 0.5 * translation[0]
    sigmas = np.array([found[s].sigmas for s in (0.01, np.inf)])
    assert sigmas[1, 0] > 2.0 * sigmas[0, 0]
    assert sigmas[1, 1] < 5.0 * sigmas[0, 1]


def test_frames_are_compared_at_once_as_one_by_one():
    sparse, (old, new) = pair_of_views(0.05)
    evidence = Evidence(new, sparse)
    half = replace(old, seen=Observations.of(sparse.landmarks, *old.seen.solid(sparse.landmarks)))
    half.seen.keep(np.arange(200) % 2 == 0)
    few = replace(half, seen=Observations.none())
    together = evidence.against([old, few, half])
    assert together[1] is None
    for one, frame in ((together[0], old), (together[2], half)):
        (alone,) = evidence.against([frame])
        np.testing.assert_allclose(one.sigmas, alone.sigmas, rtol=1e-9)
        np.testing.assert_allclose(one.confidences, alone.confidences, rtol=1e-9)
    assert together[2].sigmas[0] > 1.2 * together[0].sigmas[0]


def test_the_level_of_the_residuals_follows_many_frames_not_one():
    level = NoiseLevel()
    for _ in range(50):
        level.follow(2 * USUAL_NOISE_PX)
    assert level.value == pytest.approx(2.0)
    level.follow(20 * USUAL_NOISE_PX)
    assert level.value < 2.4
    for _ in range(100):
        level.follow(USUAL_NOISE_PX)
    assert level.value == pytest.approx(1.0, abs=0.02)


def test_frames_of_another_segment_are_not_related_by_their_poses():
    sparse, (old, new) = pair_of_views(0.01)
    sparse.segment = 1
    other = sparse.hold(7, old.gray, old.T_world_camera)
    assert isinstance(other, HeldFrame) and other.segment == 1
    assert sparse.keyframes() == []
    sparse.segment = 0
    assert sparse.keyframes() == [old, new]


def test_saved_landmarks_of_a_joined_segment_are_in_the_unit_of_the_world():
    from r3_ros.classical.saved_landmarks import landmarks_in

    sparse, (old, new) = pair_of_views(0.01)
    T = make_T(Rotation.from_rotvec([0.1, 0.4, -0.2]).as_matrix(), np.array([3.0, 1.0, 2.0]))
    plain = landmarks_in(sparse, {0: T, 1: T @ new.T_world_camera}, (400, 300))
    scaled = {f.frame_id: similarity(T, 2.5) @ f.T_world_camera for f in (old, new)}
    joined = landmarks_in(sparse, scaled, (400, 300))
    expected = T[:3, 3] + 2.5 * (plain.positions - T[:3, 3])
    assert np.allclose(joined.positions, expected)
