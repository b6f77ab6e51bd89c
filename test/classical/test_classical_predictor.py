"""The classical predictor on drawn scenes with exact poses."""

import copy
from dataclasses import replace
import threading

from classical_scene import draw, frame_of, INTRINSICS, road, room, turn_only, wander
import cv2
import numpy as np
import pytest
from r3_ros.classical import backend
from r3_ros.classical.classical_predictor import ClassicalPredictor
from r3_ros.classical.describe import describe
from r3_ros.classical.mapping import search_job
from r3_ros.core.config import ClassicalConfig
from r3_ros.core.datatypes import KnownKeyframe
from r3_ros.core.errors import FrameError
from r3_ros.core.geometry import inverse, make_T, rotation_angle
from scipy.spatial.transform import Rotation

CONFIG = ClassicalConfig(max_features=400)


class Stream:
    """A stand-in for the engine: context, best edge, refined edges, forgetting."""

    def __init__(self, predictor, recent=5, most_keyframes=1000):
        self.predictor, self._most_recent = predictor, recent
        self._most_keyframes = most_keyframes
        self.poses, self.predictions, self.recent, self.keyframes = {}, [], [], []

    def step(self, gray, intrinsics=INTRINSICS):
        frame = frame_of(gray, len(self.predictions), intrinsics)
        self.predictor.describe(frame)
        context = sorted({*self.recent, *self.keyframes[-12:]})
        prediction = self.predictor.predict(frame, context)
        self.predictions.append(prediction)
        for edge in prediction.refined:
            assert edge.source_id < edge.target_id < frame.frame_id
            self.poses[edge.target_id] = self.poses[edge.source_id] @ edge.T_source_target
        if frame.frame_id == 0:
            self.poses[0] = np.eye(4)
        elif prediction.edges:
            best = max(prediction.edges, key=lambda e: e.confidence_rotation)
            self.poses[frame.frame_id] = self.poses[best.source_id] @ best.T_source_target
        else:
            self.predictor.forget([frame.frame_id])
            return prediction
        self.recent.append(frame.frame_id)
        if prediction.keyframe:
            self.keyframes.append(frame.frame_id)
        gone = [self.recent.pop(0)] if len(self.recent) > self._most_recent else []
        if len(self.keyframes) > self._most_keyframes:
            gone.append(self.keyframes.pop(1))
        self.predictor.forget([i for i in gone if i not in self.recent + self.keyframes])
        return prediction

    def run(self, panels, poses, intrinsics=INTRINSICS):
        for T in poses:
            self.step(draw(panels, T)[0], intrinsics)
        return self


@pytest.fixture
def make():
    """Return a maker of streams whose predictors are closed in the end."""
    made = []

    def make_stream(depth=False, config=CONFIG, **options):
        made.append(ClassicalPredictor(config, with_depth=depth))
        return Stream(made[-1], **options)

    yield make_stream
    for predictor in made:
        predictor.close()


def tracked(stream):
    return [i for i, p in enumerate(stream.predictions) if p.edges and not p.provisional]


def trajectory_error(poses, truth, ids):
    """Return the error of the camera centres over the path, after scale alone: worlds agree."""
    estimated = np.stack([poses[i][:3, 3] for i in ids])
    true = np.stack([truth[i][:3, 3] for i in ids])
    scale = (estimated * true).sum() / (estimated**2).sum()
    path = np.linalg.norm(np.diff(true, axis=0), axis=1).sum()
    return float(np.sqrt(((scale * estimated - true) ** 2).sum(axis=1).mean()) / path)


@pytest.fixture(scope='module')
def walk():
    """Return the truth and a finished run with depth over the drawn room."""
    truth = wander(90)
    stream = Stream(ClassicalPredictor(CONFIG)).run(room(), truth)
    yield truth, stream
    stream.predictor.close()


@pytest.mark.slow
def test_a_moving_camera_is_tracked_soon_and_well(walk):
    truth, stream = walk
    ids = tracked(stream)
    assert ids[0] <= 15
    assert ids == list(range(ids[0], 90))
    assert trajectory_error(stream.poses, truth, ids) < 0.005
    turned = [rotation_angle((inverse(truth[i]) @ stream.poses[i])[:3, :3]) for i in ids]
    assert np.rad2deg(max(turned)) < 0.5


def test_every_edge_is_one_common_scale(walk):
    truth, stream = walk
    ids = tracked(stream)
    scale = np.linalg.norm(truth[60][:3, 3] - truth[20][:3, 3]) / np.linalg.norm(
        stream.poses[60][:3, 3] - stream.poses[20][:3, 3]
    )
    for i in ids[10:]:
        for edge in stream.predictions[i].edges:
            T = inverse(truth[edge.source_id]) @ truth[edge.target_id]
            assert np.linalg.norm(scale * edge.T_source_target[:3, 3] - T[:3, 3]) < 0.06


def test_landmarks_that_a_keyframe_lost_are_found_again(walk):
    _, stream = walk
    sparse_map = stream.predictor._odometry.map
    landmarks = sparse_map.landmarks
    frame = sparse_map.keyframes()[-3]
    slots, pixels = frame.seen.solid(landmarks)
    all_of_them, lost = copy.copy(frame.seen), slots[::2]
    try:
        frame.seen = copy.copy(all_of_them)
        frame.seen.keep(~np.isin(frame.seen.slots, lost))
        sought = search_job(frame, sparse_map)()
    finally:
        frame.seen = all_of_them
    assert sought.frame_id == frame.frame_id
    assert not np.isin(sought.seen.slots, slots[1::2]).any()
    known = dict(zip(slots, pixels, strict=True))
    again = np.isin(sought.seen.slots, lost)
    assert again.sum() > 0.7 * len(lost)
    pairs = zip(sought.seen.slots[again], sought.seen.pixels[again], strict=True)
    off = np.array([np.linalg.norm(pixel - known[slot]) for slot, pixel in pairs])
    assert np.median(off) < 0.3


def test_confidence_orders_the_errors_and_its_reference_is_a_usual_score(walk):
    truth, stream = walk
    scores, gaps = [], []
    for i in tracked(stream):
        for edge in stream.predictions[i].edges:
            scores.append(0.5 * (edge.confidence_translation + edge.confidence_rotation))
            gaps.append(rotation_angle((inverse(truth[edge.source_id]) @ truth[i])[:3, :3]))
    assert np.corrcoef(scores, gaps)[0, 1] < -0.2
    best = np.percentile(scores, 75)
    assert 0.3 < best / stream.predictor.confidence_reference < 5.0


def test_corrections_leave_the_engine_with_the_predictors_own_poses(walk):
    _, stream = walk
    held = stream.predictor._odometry.frames
    own = {f.frame_id: f.reported for f in held.values() if f.reported is not None}
    assert len(own) > 5
    for frame_id, T in own.items():
        assert np.abs(stream.poses[frame_id] - T).max() < 1e-6


def test_depth_of_keyframes_is_right_where_it_is_claimed(walk):
    truth, stream = walk
    depths = [d for p in stream.predictions for d in p.depths]
    assert len(depths) >= 3
    for depth_map in depths:
        assert depth_map.frame_id in stream.keyframes
        assert depth_map.depth.shape == depth_map.confidence.shape
        assert depth_map.image.shape == (*depth_map.depth.shape, 3)
        assert depth_map.confidence.min() >= 1.0
        intrinsics = depth_map.intrinsics
        assert (intrinsics.height, intrinsics.width) == depth_map.depth.shape
        true = draw(room(), truth[depth_map.frame_id], intrinsics)[1]
        known = np.isfinite(depth_map.depth)
        assert known.mean() > 0.3
        ratio = true[known] / depth_map.depth[known]
        relative = np.abs(ratio / np.median(ratio) - 1.0)
        assert np.mean(relative) < 0.05


@pytest.mark.slow
def test_the_same_input_gives_the_same_output(make):
    truth = wander(45)
    first, second = (make(depth=True).run(room(), truth) for _ in range(2))
    for a, b in zip(first.predictions, second.predictions, strict=True):
        assert a.keyframe == b.keyframe
        for edges in ('edges', 'refined'):
            for x, y in zip(getattr(a, edges), getattr(b, edges), strict=True):
                assert np.array_equal(x.T_source_target, y.T_source_target)
                assert x.confidence_translation == y.confidence_translation
        for x, y in zip(a.depths, b.depths, strict=True):
            assert np.array_equal(x.depth, y.depth, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize('calibrated', [True, False])
def test_turning_on_the_spot_never_starts(make, calibrated):
    truth = turn_only(50)
    # Without calibration the focal length assumed is off by a tenth.
    stream = make(depth=True).run(room(), truth, INTRINSICS if calibrated else None)
    for i, prediction in enumerate(stream.predictions):
        assert prediction.provisional
        assert prediction.depths == ()
        assert np.linalg.norm(stream.poses[i][:3, 3]) == 0.0
        assert all(e.confidence_translation == 0 for e in prediction.edges)
    if calibrated:
        turned = [
            rotation_angle((inverse(a) @ stream.poses[i])[:3, :3]) for i, a in enumerate(truth)
        ]
        assert np.rad2deg(max(turned)) < 0.2


def test_a_standing_camera_holds_its_pose_and_claims_nothing(make):
    stream = make(depth=True)
    gray = draw(room(), np.eye(4))[0]
    rng = np.random.default_rng(0)
    for _ in range(20):
        noisy = np.clip(gray + rng.normal(0, 3, gray.shape), 0, 255).astype(np.uint8)
        prediction = stream.step(noisy)
        assert prediction.provisional and prediction.depths == ()
    turned = [rotation_angle(T[:3, :3]) for T in stream.poses.values()]
    assert np.rad2deg(max(turned)) < 0.1


def test_a_camera_that_sees_nothing_at_first_starts_when_it_does(make):
    stream = make()
    black = np.zeros((INTRINSICS.height, INTRINSICS.width), np.uint8)
    for i in range(10):
        prediction = stream.step(black)
        assert prediction.provisional
        assert not prediction.keyframe or i == 0
    stream.run(room(), wander(30))
    assert tracked(stream)


@pytest.mark.slow
def test_a_camera_that_stops_keeps_its_pose(make):
    truth = wander(40)
    stream = make().run(room(), truth)
    before = stream.poses[39].copy()
    for _ in range(15):
        assert stream.step(draw(room(), truth[-1])[0]).edges
    path = sum(
        np.linalg.norm(stream.poses[i + 1][:3, 3] - stream.poses[i][:3, 3]) for i in range(39)
    )
    assert np.linalg.norm(stream.poses[54][:3, 3] - before[:3, 3]) < 0.02 * path


@pytest.mark.parametrize(
    'kind',
    ['black', *(pytest.param(kind, marks=pytest.mark.slow) for kind in ('blurred', 'noise'))],
)
def test_useless_frames_get_no_pose_and_tracking_goes_on_after_them(make, kind):
    truth = wander(60)
    stream = make().run(room(), truth[:40])
    rng = np.random.default_rng(1)
    shape = (INTRINSICS.height, INTRINSICS.width)
    useless = {
        'black': np.zeros(shape, np.uint8),
        'blurred': np.full(shape, 120, np.uint8),
        'noise': rng.integers(0, 255, shape).astype(np.uint8),
    }[kind]
    for _ in range(3):
        prediction = stream.step(useless)
        assert prediction.edges == () and not prediction.keyframe
    for i in range(40, 60):
        prediction = stream.step(draw(room(), truth[i])[0])
        stream.poses.setdefault(i + 3, np.eye(4))
    assert prediction.edges
    ids = [*range(20, 40), *range(57, 63)]
    shifted = {i: truth[i] if i < 40 else truth[i - 3] for i in ids}
    assert trajectory_error(stream.poses, shifted, ids) < 0.01


def test_another_place_gives_no_pose_and_coming_back_has_to_prove_itself(make):
    truth = wander(60)
    stream = make().run(room(), truth[:40])
    elsewhere = room(seed=40)
    for i in range(12):
        prediction = stream.step(draw(elsewhere, truth[i])[0])
        assert prediction.edges == ()
    back = [stream.step(draw(room(), truth[30])[0]) for _ in range(8)]
    found = [p for p in back if p.edges]
    assert found
    scores = [max(e.confidence_rotation for e in p.edges) for p in found]
    reference = stream.predictor.confidence_reference
    assert max(scores[:2]) < 0.5 * scores[-1]
    assert scores[-1] > 0.3 * reference
    assert not any(p.keyframe for p in found[:2])
    error = np.linalg.norm((inverse(stream.poses[30]) @ stream.poses[59])[:3, 3])
    assert error < 0.02


def focal_lengths(stream):
    """Return that of the guess, and the (N,) ones since the start."""
    assert all(p.intrinsics_estimated for p in stream.predictions)
    found = [p.intrinsics.fx for p in stream.predictions if not p.provisional]
    return stream.predictions[0].intrinsics.fx, np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize('focal', [220.0, 330.0, 520.0])
def test_an_unknown_focal_length_is_found_once_and_stays(make, focal):
    camera, stream = replace(INTRINSICS, fx=focal, fy=focal), make()
    for T in wander(120):
        stream.step(draw(room(), T, camera)[0], None)
    _, found = focal_lengths(stream)
    assert np.abs(found[-30:] / focal - 1.0).max() < 0.08
    assert abs(found[-1] / focal - 1.0) < 0.03


@pytest.mark.slow
def test_driving_straight_ahead_moves_no_focal_length(make):
    """It is not observable: the guess holds, however long the road is."""
    stream = make().run(
        road(), [make_T(np.eye(3), np.array([0, 0, 0.1 * i])) for i in range(150)], None
    )
    guess, found = focal_lengths(stream)
    assert len(found) > 100
    assert np.abs(found / guess - 1.0).max() < 0.1


def test_a_calibration_is_used_as_it_is(walk):
    _, stream = walk
    for prediction in stream.predictions:
        assert not prediction.intrinsics_estimated
        assert prediction.intrinsics.fx == pytest.approx(INTRINSICS.fx)
        assert prediction.intrinsics.cx == pytest.approx(INTRINSICS.cx)


@pytest.mark.slow
def test_forgetting_bounds_what_is_held(make):
    stream = make(most_keyframes=8)
    sizes = []
    for lap in range(3):
        truth = wander(90)
        for T in truth if lap % 2 == 0 else truth[::-1]:
            stream.step(draw(room(), T)[0])
        odometry = stream.predictor._odometry
        assert len(odometry.frames) <= 8 + 5
        assert len(stream.predictor._descriptors) <= 8
        assert len(stream.predictor._colors) <= 10
        sizes.append(len(odometry.landmarks))
    assert sizes[2] < 1.3 * sizes[0] + 200
    assert len(odometry.landmarks.used) <= 8192


@pytest.mark.slow
def test_forgetting_everything_loses_the_camera_but_not_the_program(make):
    truth = wander(50)
    stream = make().run(room(), truth[:40])
    stream.predictor.forget(range(40))
    stream.recent, stream.keyframes = [], []
    for T in truth[40:]:
        assert stream.step(draw(room(), T)[0]).edges == ()


def test_unusable_images_are_refused_with_a_reason(make):
    predictor = make().predictor
    gray = draw(room(), np.eye(4))[0]
    good = frame_of(gray, 0)
    for image, word in (
        (gray[..., None], r'\(height, width, 3\)'),
        (good.image.astype(np.float32), 'uint8'),
        (good.image[:40], 'at least'),
    ):
        with pytest.raises(FrameError, match=word):
            predictor.describe(replace(good, image=image))
    with pytest.raises(FrameError, match='calibration is for 400x300'):
        predictor.predict(replace(good, image=np.ascontiguousarray(good.image[:200])), [])
    predictor.predict(good, [])
    with pytest.raises(FrameError, match='size changed'):
        predictor.describe(frame_of(gray[:280], 1))
    with pytest.raises(FrameError, match='calibration changed'):
        predictor.predict(replace(frame_of(gray, 1), intrinsics=replace(INTRINSICS, fx=300.0)), [])
    predictor.reset()
    predictor.describe(frame_of(gray[:280], 0))


def test_large_images_are_worked_on_smaller_with_intrinsics_of_the_original(make):
    gray = np.random.default_rng(0).integers(0, 255, (1080, 1920)).astype(np.uint8)
    intrinsics = replace(INTRINSICS, fx=1500.0, fy=1500.0, cx=960.0, cy=540.0)
    intrinsics = replace(intrinsics, width=1920, height=1080)
    predictor = make().predictor
    prediction = predictor.predict(frame_of(gray, 0, intrinsics), [])
    assert predictor._odometry.camera.width == 1280
    assert prediction.intrinsics.width == 1920
    assert prediction.intrinsics.fx == pytest.approx(1500.0)


@pytest.mark.slow
def test_reset_starts_a_new_world(make):
    stream = make().run(room(), wander(30))
    stream.predictor.reset()
    again = Stream(stream.predictor).run(room(), wander(30))
    assert again.predictions[0].provisional and again.predictions[0].edges == ()
    assert tracked(again)


def test_an_error_in_the_background_surfaces(make, monkeypatch):
    def broken(window, iterations):
        def fail():
            raise ArithmeticError('singular')

        return fail

    monkeypatch.setattr(backend, 'adjustment_job', broken)
    with pytest.raises(ArithmeticError, match='singular'):
        make().run(room(), wander(40))


def test_close_ends_the_threads(make):
    before = set(threading.enumerate())
    stream = make(depth=True).run(room(), wander(40))
    started = {t.name.rsplit('_', 1)[0] for t in set(threading.enumerate()) - before}
    assert started == {'r3_bundle', 'r3_search', 'r3_sweep'}
    stream.predictor.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.slow
def test_drain_brings_what_was_under_way(make):
    stream = make(depth=True).run(room(), wander(33))
    delivered = {d.frame_id for p in stream.predictions for d in p.depths}
    refined, depths, _ = stream.predictor.drain()
    assert depths
    assert all(d.frame_id not in delivered for d in depths)
    for edge in refined:
        stream.poses[edge.target_id] = stream.poses[edge.source_id] @ edge.T_source_target
    for held in stream.predictor._odometry.frames.values():
        assert np.abs(stream.poses[held.frame_id] - held.T_world_camera).max() < 1e-6


def test_landmarks_for_a_map_lie_where_the_keyframes_saw_them(walk):
    """In the caller's world, which may lie anywhere, with pixels of the frame."""
    _, stream = walk
    turn = make_T(Rotation.from_rotvec([0.3, -1.0, 0.2]).as_matrix(), np.array([5.0, 6.0, 7.0]))
    poses = {i: turn @ stream.poses[i] for i in stream.keyframes[2:]}
    landmarks = stream.predictor.landmarks(poses)
    assert len(landmarks) > 200 and set(landmarks.frame_ids) == set(poses)
    assert landmarks.landmarks.max() == len(landmarks) - 1
    errors = []
    for frame_id, T in poses.items():
        own = landmarks.frame_ids == frame_id
        in_camera = landmarks.positions[landmarks.landmarks[own]] @ inverse(T)[:3, :3].T
        in_camera += inverse(T)[:3, 3]
        assert (in_camera[:, 2] > 0).all()
        pixels = in_camera @ INTRINSICS.K.T
        off = pixels[:, :2] / pixels[:, 2:] - landmarks.pixels[own]
        errors.append(np.linalg.norm(off, axis=1))
    assert np.median(np.concatenate(errors)) < 0.5
    assert np.isfinite(landmarks.relative_sigma).all()


@pytest.mark.slow
@pytest.mark.parametrize('size', [(400, 300), (320, 240)])
def test_a_saved_map_is_found_again_by_a_camera_of_another_size(walk, make, size):
    """The same way once more, by a predictor that has only the keyframes and the landmarks."""
    truth, stream = walk
    panels = room()
    poses = {i: stream.poses[i] for i in stream.keyframes}
    known = [
        KnownKeyframe(
            i,
            i,
            cv2.cvtColor(draw(panels, truth[i])[0], cv2.COLOR_GRAY2RGB),
            INTRINSICS,
            poses[i],
            describe(draw(panels, truth[i])[0]),
        )
        for i in stream.keyframes
    ]
    predictor = make().predictor
    predictor.restore(known, stream.predictor.landmarks(poses))
    centres = {}
    for n, i in enumerate(range(31, 71, 2)):
        gray = cv2.resize(draw(panels, truth[i])[0], size, interpolation=cv2.INTER_AREA)
        frame = frame_of(gray, 1000 + n, INTRINSICS.resized(*size))
        predictor.describe(frame)
        near = sorted(poses, key=lambda k: abs(k - i))[:8]
        prediction = predictor.predict(frame, near)
        assert not prediction.provisional
        for edge in prediction.edges:
            centres[i] = (poses[edge.source_id] @ edge.T_source_target)[:3, 3]
        if not prediction.edges:
            predictor.forget([frame.frame_id])
    assert len(centres) >= 18
    off = [np.linalg.norm(centres[i] - stream.poses[i][:3, 3]) for i in centres]
    assert max(off) < 0.02, 'in the world that the landmarks came from'
    moved = predictor.landmarks(poses)
    assert len(moved) > 0.9 * len(stream.predictor.landmarks(poses)), 'the saved map stays'


def test_a_map_without_landmarks_is_none_of_this_predictor(make):
    with pytest.raises(FrameError, match='no landmarks'):
        make().predictor.restore([], None)
