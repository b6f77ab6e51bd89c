"""The whole step with a predictor that knows the truth and makes trouble on request."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from r3_ros.core.config import R3Config
from r3_ros.core.datatypes import Edge, TrackingState
from r3_ros.core.errors import FrameError
from r3_ros.core.geometry import inverse, is_rigid, make_T, rotation_angle, transform
from r3_ros.core.parameter_fields import updated
from r3_ros.streaming.engine import Engine
from r3_ros.streaming.keyframes.bank import KeyframeBank
from r3_ros.streaming.keyframes.view_overlap import image_bounds
from scipy.spatial.transform import Rotation
from scripted import (
    circle,
    frames,
    intrinsics,
    ROOM,
    Script,
    ScriptedPredictor,
    START_NS,
    straight,
    truth,
)
from small_engine import engine_of

INITIALIZING, TRACKING, LOW_CONFIDENCE, LOST, RECOVERING = (
    TrackingState.INITIALIZING,
    TrackingState.TRACKING,
    TrackingState.LOW_CONFIDENCE,
    TrackingState.LOST,
    TrackingState.RECOVERING,
)
#: Nothing but the number of frames since the last one decides on a keyframe.
EVERY = {'keyframe__overlap_threshold': 0.0, 'keyframe__novelty_threshold': 0.0}


def run(script=None, count=60, **options):
    engine = engine_of(script, **options)
    shown = list(frames(count))
    return engine, [engine.step(frame) for frame in shown]


def errors(engine, estimates):
    """Return the distance of each emitted centre from the truth, NaN where there is none."""
    path = engine.predictor.script.path
    found = []
    for e in estimates:
        T = truth(path, e.stamp_ns)
        claimed = e.T_world_camera
        found.append(np.nan if claimed is None else np.linalg.norm((claimed - T)[:3, 3]))
    return np.array(found)


def final_errors(engine):
    view = engine.session.trajectory_view()
    path = engine.predictor.script.path
    exact = np.stack([truth(path, int(stamp)) for stamp in view.stamps_ns])
    return np.linalg.norm((view.T_final - exact)[:, :3, 3], axis=1)


def off_the_walls(engine):
    """Return how far, as a share of the room, each point of the map is from a wall."""
    cloud = engine.session.map_view().cloud()
    room = transform(engine.predictor.script.path(START_NS), cloud.points)
    return np.abs(np.abs(room / ROOM).max(axis=1) - 1.0)


def states(estimates):
    return [e.state for e in estimates]


def test_exact_edges_give_exact_poses():
    engine, estimates = run(count=200)
    assert states(estimates) == [INITIALIZING] + 199 * [TRACKING]
    assert errors(engine, estimates).max() < 1e-9
    for number, (frame, e) in enumerate(zip(frames(200), estimates, strict=True)):
        assert (e.frame_id, e.stamp_ns) == (number, frame.stamp_ns)
        turn = truth(circle(), e.stamp_ns)[:3, :3].T @ e.T_world_camera[:3, :3]
        assert rotation_angle(turn) < 1e-9
        assert e.covariance.shape == (6, 6) and np.linalg.eigvalsh(e.covariance).min() > 0
        assert e.intrinsics == frame.intrinsics and not e.intrinsics_estimated
    assert estimates[0].is_keyframe and np.isnan(estimates[0].confidence_translation)
    assert estimates[5].confidence_ratio == pytest.approx(1.0)
    assert estimates[5].timings_ms
    assert all(milliseconds >= 0 for milliseconds in estimates[5].timings_ms.values())


def test_keyframes_that_go_for_want_of_memory_are_reported_as_evicted():
    predictor = ScriptedPredictor(Script())
    predictor.shrink = lambda: None
    engine = Engine(predictor, updated(R3Config(), {'keyframe.max_interval': 2}))
    shown = list(frames(60))
    reported = [i for frame in shown[:40] for i in engine.step(frame).evicted]
    before = set(engine.session.bank.ids())
    engine.shrink()
    gone = before - set(engine.session.bank.ids())
    reported += [i for frame in shown[40:] for i in engine.step(frame).evicted]
    assert gone and gone <= set(reported) and len(reported) == len(set(reported))


@pytest.mark.slow
def test_noise_averages_out():
    noisy = Script(translation_noise=0.01, rotation_noise=0.01)
    engine, estimates = run(noisy, count=200, keyframe__max_keyframes=30)
    found = errors(engine, estimates)
    # twice round the room, 6.3 units of path; single edges are off by 0.017 each
    assert np.nanmax(found) < 0.06
    sigma = np.sqrt([np.trace(e.covariance[:3, :3]) for e in estimates[1:]])
    assert 0.2 < np.median(found[1:] / sigma) < 5.0


def test_wrong_edges_among_good_ones_are_outvoted():
    engine, estimates = run(
        Script(outlier_share=0.2, seed=1), count=100, stream__recent_keyframes=12
    )
    assert np.nanmax(errors(engine, estimates)[5:]) < 0.05


def test_the_context_is_recent_frames_anchor_newest_and_similar_keyframes():
    engine, estimates = run(count=250, stream__recent_keyframes=2, stream__retrieved_keyframes=2)
    for e in estimates[50:]:
        assert 0 in e.context_ids
        assert {e.frame_id - 1, e.frame_id - 2, e.frame_id - 3} <= set(e.context_ids)
        assert len(e.context_ids) <= 3 + 1 + 2 + 2
        assert list(e.context_ids) == sorted(set(e.context_ids))
    # One round of 200 frames later the keyframe of the same place is recalled.
    assert any(0 < i < 60 for i in estimates[215].context_ids)
    assert engine.predictor.contexts[30] == estimates[30].context_ids


def test_the_next_pose_is_expected_where_the_camera_goes_on_to(monkeypatch):
    expected = []
    recall = KeyframeBank.recall

    def noting(bank, frame_id, descriptor, T_world_camera, *rest):
        expected.append((frame_id, T_world_camera))
        return recall(bank, frame_id, descriptor, T_world_camera, *rest)

    monkeypatch.setattr(KeyframeBank, 'recall', noting)
    engine, estimates = run(count=60)
    assert expected[0] == (0, None)
    step = np.linalg.norm(estimates[31].T_previous_camera[:3, 3])
    for frame_id, T_world_camera in expected[3:]:
        off = T_world_camera[:3, 3] - estimates[frame_id].T_world_camera[:3, 3]
        assert np.linalg.norm(off) < 0.1 * step


def test_retrieval_knows_where_keyframes_are_and_how_deep_they_see():
    script = Script(drift=0.05, refine_at={40, 80})
    engine, estimates = run(script, count=100)
    assert any(e.corrected for e in estimates)
    bank = engine.session.bank
    for frame_id in bank.ids():
        view = bank.view(frame_id)
        held = engine.session.graph.held[frame_id]
        np.testing.assert_allclose(view.T_world_camera, held.T_world_camera, atol=1e-6)
        depths = [d for d in estimates[frame_id].depths if d.frame_id == frame_id]
        assert view.depth == pytest.approx(np.nanmedian(depths[0].depth), rel=0.2)


def test_the_map_is_made_of_keyframes_and_lies_on_the_walls():
    engine, estimates = run(count=100, map__voxel_size=0.005, keyframe__max_keyframes=30)
    keyframes = [e for e in estimates if e.is_keyframe]
    assert len(engine.session.map) == len(keyframes) * 24 * 32
    assert off_the_walls(engine).max() < 0.01


@pytest.mark.slow
def test_keyframes_that_leave_the_bank_leave_their_points_in_the_map():
    full, estimates = run(count=150, keyframe__max_keyframes=50)
    assert not any(e.evicted for e in estimates)
    small, estimates = run(count=150, keyframe__max_keyframes=6)
    assert any(e.evicted for e in estimates)
    sizes = [len(engine.session.map_view().cloud()) for engine in (full, small)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)
    assert off_the_walls(small).max() < 0.01


def test_nothing_is_mapped_when_the_map_is_off():
    engine, _ = run(count=10, map__enabled=False)
    assert len(engine.session.map) == 0


@pytest.mark.slow
def test_every_frame_is_forgotten_once_and_memory_is_bounded():
    class Counting(ScriptedPredictor):
        def __init__(self, script):
            super().__init__(script)
            self.forgotten = Counter()

        def forget(self, frame_ids):
            frame_ids = list(frame_ids)
            self.forgotten.update(frame_ids)
            super().forget(frame_ids)

    engine = engine_of(Script(blackouts={20, 21, 40}), Counting)
    predictor, evicted = engine.predictor, []
    for frame in frames(300):
        estimate = engine.step(frame)
        evicted += estimate.evicted
        session = engine.session
        assert predictor.held == {*session.recent, *session.bank.ids()} == set(session.graph.held)
        assert len(session.bank) <= 12 and len(session.recent) <= 3
        assert len(predictor.held) <= 15
        assert {e.target_id for e in session.graph.edges()} <= predictor.held
    assert set(predictor.forgotten.values()) == {1}
    assert set(predictor.forgotten) | predictor.held == set(range(300))
    assert evicted and not set(evicted) & set(engine.session.bank.ids())


def test_refined_edges_move_poses_map_and_later_frames():
    drifting = Script(path=straight(), drift=0.1, reach=0.07)
    engine, plain = run(drifting, count=45)
    assert errors(engine, plain)[44] == pytest.approx(0.1 * 0.2 * 4.4, rel=0.01)
    assert np.median(off_the_walls(engine)) > 0.01
    engine, estimates = run(replace(drifting, refine_at={40}), count=45)
    found = errors(engine, estimates)
    assert found[39] > 0.07 and found[40:].max() < 0.0125
    refining = estimates[40]
    assert refining.corrected == tuple(sorted(set(refining.corrected)))
    assert set(engine.session.bank.ids()) - {0, 40, 44} <= set(refining.corrected)
    assert refining.map_revision == 1 and estimates[39].map_revision == 0
    # All published poses follow: those of held frames, and those relative to them.
    assert final_errors(engine)[:40].max() < 0.011
    view = engine.session.trajectory_view()
    np.testing.assert_array_equal(view.T_emitted[39], estimates[39].T_world_camera)
    assert np.median(off_the_walls(engine)) < 0.004


def test_increments_never_show_a_correction():
    drifting = Script(path=straight(), drift=0.1, reach=0.07, refine_at={50})
    _, estimates = run(drifting, count=70)
    jumps = [
        np.linalg.norm((b.T_world_camera - a.T_world_camera)[:3, 3])
        for a, b in zip(estimates, estimates[1:], strict=False)
    ]
    steps = [np.linalg.norm(e.T_previous_camera[:3, 3]) for e in estimates[1:]]
    # 0.02 units a frame; the correction pulls the camera back by a tenth of a unit
    assert max(jumps) > 0.07
    np.testing.assert_allclose(steps, 0.02, rtol=0.3)
    assert estimates[0].T_previous_camera is None


def test_a_drought_leads_to_lost_and_back():
    engine, estimates = run(Script(droughts=set(range(30, 45))), count=60)
    expected = (
        [INITIALIZING]
        + 29 * [TRACKING]
        + 2 * [LOW_CONFIDENCE]
        + 13 * [LOST]
        + 2 * [RECOVERING]
        + 13 * [TRACKING]
    )
    assert states(estimates) == expected
    for e in estimates:
        silent = 30 <= e.frame_id < 47
        assert (e.T_world_camera is None) == (e.covariance is None) == silent
        assert not (silent and e.is_keyframe)
    assert np.nanmax(errors(engine, estimates)) < 1e-9
    assert 'agree' in estimates[45].reason and estimates[40].reason
    view = engine.session.trajectory_view()
    np.testing.assert_array_equal(
        np.isnan(view.T_final[:, 0, 0]), np.isnan(errors(engine, estimates))
    )
    # While lost the whole bank is searched by looks; the last good frames stay in.
    assert {27, 28, 29} <= set(estimates[35].context_ids)
    assert set(estimates[35].context_ids) - {27, 28, 29} <= set(engine.session.bank.ids())


def test_a_lost_camera_is_found_where_it_was_long_ago():
    """Only retrieval can: edges reach no farther than a tenth of the way round."""
    walk, second = circle(), 1_000_000_000

    def path(stamp_ns):
        # After the blackout the camera is back where it was 12 seconds before.
        carried_off = stamp_ns >= START_NS + 15 * second
        return walk(stamp_ns - 12 * second if carried_off else stamp_ns)

    script = Script(path=path, blackouts=set(range(145, 150)), reach=0.3)
    engine, estimates = run(script, count=160, keyframe__max_keyframes=60)
    assert states(estimates)[144:154] == (
        [TRACKING] + 2 * [LOW_CONFIDENCE] + 3 * [LOST] + 2 * [RECOVERING] + 2 * [TRACKING]
    )
    assert errors(engine, estimates)[152:].max() < 1e-9
    related = estimates[150].context_ids
    assert sum(20 < i < 40 for i in related) >= 3 and 144 in related


def test_a_short_drought_costs_its_own_frames_only():
    engine, estimates = run(Script(droughts={30, 31}, blackouts={40}), count=50)
    assert {e.state for e in estimates[1:]} == {TRACKING, LOW_CONFIDENCE}
    silent = [e.frame_id for e in estimates if e.T_world_camera is None]
    assert silent == [30, 31, 40]
    assert np.isfinite(estimates[32].T_previous_camera).all()
    step = inverse(estimates[29].T_world_camera) @ estimates[32].T_world_camera
    np.testing.assert_allclose(estimates[32].T_previous_camera, step, atol=1e-12)


def test_low_confidence_poses_are_given_out_but_nothing_is_built_on_them():
    doubtful = Script(droughts=set(range(20, 30)), drought_score=0.3)
    engine, estimates = run(doubtful, count=40)
    low = estimates[20:30]
    assert {e.state for e in low} == {LOW_CONFIDENCE}
    assert not any(e.is_keyframe for e in low)
    assert errors(engine, estimates).max() < 1e-9
    assert low[0].covariance[0, 0] > 2 * estimates[19].covariance[0, 0]


def test_a_keyframe_forced_in_low_confidence_is_mapped_once_it_is_refined():
    forced = Script(
        droughts={20}, drought_score=0.3, keyframe=lambda i: i == 20, depth_delay=2, refine_at={22}
    )
    engine, _ = run(forced, count=30)
    assert set(engine.session.bank.ids()) == {0, 20} and not engine.session.doubtful
    assert len(engine.session.map) > 600
    engine, _ = run(replace(forced, refine_at=()), count=30)
    assert engine.session.doubtful == {20}
    poses = engine.session.graph.similarities
    assert len(engine.session.map.view({20: poses[20]}).cloud()) == 0


def test_nan_never_comes_out():
    spoiled = Script(nan_pose_at={10, 20, 21, 22, 23}, nan_depth_at=set(range(0, 60, 3)))
    with np.errstate(all='raise', under='ignore'):
        engine, estimates = run(spoiled)
    assert [e.frame_id for e in estimates if e.T_world_camera is None] == [10, *range(20, 26)]
    for e in estimates:
        if e.T_world_camera is not None:
            assert is_rigid(e.T_world_camera) and np.isfinite(e.covariance).all()
    cloud = engine.session.map_view().cloud()
    assert len(cloud) and np.isfinite(cloud.points).all() and np.isfinite(cloud.confidence).all()
    assert np.isfinite(engine.session.gate.reference)


@pytest.mark.parametrize('score', [np.nan, np.inf, -1.0])
def test_a_score_that_is_no_number_is_no_claim(score):
    class Boasting(ScriptedPredictor):
        def _edges(self, frame_id, T_room_camera, context):
            for edge in super()._edges(frame_id, T_room_camera, context):
                yield replace(edge, confidence_translation=score) if frame_id > 9 else edge

    engine = engine_of(predictor=Boasting)
    estimates = [engine.step(frame) for frame in frames(20)]
    assert states(estimates)[9:] == [TRACKING] + 2 * [LOW_CONFIDENCE] + 8 * [LOST]
    assert np.isfinite(engine.session.gate.reference)


def test_after_a_cut_no_inconsistent_place_is_published():
    """Edges to wrong places that boast full scores, each frame another place."""

    class Cut(ScriptedPredictor):
        def _spoiled(self, T):
            if self._index < 40:
                return T
            rng = np.random.default_rng(self._index)
            return make_T(Rotation.random(random_state=rng).as_matrix(), rng.normal(size=3))

    engine = engine_of(Script(blackouts={37, 38, 39}), Cut)
    estimates = [engine.step(frame) for frame in frames(200)]
    assert all(e.T_world_camera is None for e in estimates[37:])
    assert {e.state for e in estimates[40:]} == {RECOVERING}


def memory_of(engine):
    session = engine.session
    return (
        session.frame_count,
        session.last_stamp_ns,
        session.bank.ids(),
        sorted(session.graph.held),
        list(session.recent),
        session.gate.state,
        session.gate.reference,
        session.map.revision,
        session.map_revision,
        len(session.trajectory),
        session.admission._since_admission,
        set(engine.predictor.held),
    )


@pytest.mark.parametrize('where', ['failures', 'describe_failures'])
@pytest.mark.parametrize('error', [FrameError('no texture'), RuntimeError('out of memory')])
@pytest.mark.parametrize('gap_ns', [0, 30_000_000_000])
def test_a_rejected_frame_changes_nothing(where, error, gap_ns):
    engine = engine_of(Script(**{where: {12: error}}))
    shown = list(frames(20))
    for frame in shown[:12]:
        engine.step(frame)
    before = memory_of(engine)
    with pytest.raises(type(error), match=str(error)):
        engine.step(replace(shown[12], stamp_ns=shown[12].stamp_ns + gap_ns))
    assert memory_of(engine) == before
    following = engine.step(shown[13])
    assert following.frame_id == 12 and following.state is TRACKING
    assert np.linalg.norm(following.T_world_camera - truth(circle(), following.stamp_ns)) < 1e-9


def test_a_descriptor_that_is_no_number_is_a_refused_frame():
    class Blind(ScriptedPredictor):
        def describe(self, frame):
            descriptor = super().describe(frame)
            return descriptor * np.float32(np.nan) if self._index == 12 else descriptor

    engine = engine_of(predictor=Blind)
    shown = list(frames(20))
    for frame in shown[:12]:
        engine.step(frame)
    before = memory_of(engine)
    with pytest.raises(FrameError, match='descriptor'):
        engine.step(shown[12])
    assert memory_of(engine) == before
    assert engine.step(shown[13]).state is TRACKING


def test_a_reset_is_a_new_session_in_a_new_world():
    engine, _ = run(count=30)
    old = engine.session
    view = old.trajectory_view()
    engine.reset()
    assert engine.predictor.resets == 1 and engine.predictor.held == set()
    assert engine.session is not old and engine.session.session_id == old.session_id + 1
    assert (
        len(engine.session.map) == len(engine.session.trajectory) == len(engine.session.bank) == 0
    )
    later = [engine.step(frame) for frame in frames(60)][30:]
    assert later[0].frame_id == 30 and len(view.frame_ids) == 30
    engine.reset()
    first = engine.step(next(frames(1, start_ns=START_NS + 7_000_000_000)))
    assert first.frame_id == 0 and first.state is INITIALIZING and first.is_keyframe
    np.testing.assert_array_equal(first.T_world_camera, np.eye(4))


def test_the_same_frames_give_the_same_result():
    script = Script(
        translation_noise=0.02,
        rotation_noise=0.02,
        outlier_share=0.1,
        drift=0.05,
        refine_at=set(range(0, 100, 7)),
        droughts={40, 41, 42, 43},
    )
    first, second = (run(script, count=100) for _ in range(2))
    for a, b in zip(first[1], second[1], strict=True):
        assert (a.state, a.context_ids, a.is_keyframe, a.corrected, a.evicted) == (
            b.state,
            b.context_ids,
            b.is_keyframe,
            b.corrected,
            b.evicted,
        )
        np.testing.assert_array_equal(
            np.nan if a.T_world_camera is None else a.T_world_camera,
            np.nan if b.T_world_camera is None else b.T_world_camera,
        )
    a, b = (engine.session.map_view().cloud() for engine, _ in (first, second))
    np.testing.assert_array_equal(a.points, b.points)


def test_late_depth_goes_to_its_own_keyframe():
    engine, estimates = run(Script(depth_delay=5), count=60, map__voxel_size=0.005)
    assert estimates[4].depths == () and estimates[9].depths[0].frame_id == 4
    assert off_the_walls(engine).max() < 0.01
    before = len(engine.session.map)
    late = [e.frame_id for e in estimates[-5:] if e.is_keyframe]
    assert late
    corrected, depths = engine.drain()
    assert corrected == () and {depth.frame_id for depth in depths} >= set(late)
    assert len(engine.session.map) == before + len(late) * 24 * 32
    assert off_the_walls(engine).max() < 0.01


def test_depth_of_a_frame_long_gone_is_ignored():
    engine, estimates = run(Script(depth_delay=80), count=120, keyframe__max_keyframes=4)
    ids = {e.frame_id for e in estimates if e.is_keyframe}
    assert len(engine.session.map) == 24 * 32  # the anchor's, which is never evicted
    assert len(ids) > 10


def test_drain_takes_refined_edges_in():
    class Slow(ScriptedPredictor):
        def drain(self):
            _, depths, _ = super().drain()
            return tuple(self._exact_edges()), depths, None

    engine = engine_of(Script(path=straight(), drift=0.1), Slow)
    for frame in frames(40):
        engine.step(frame)
    corrected, _ = engine.drain()
    assert set(corrected) == set(engine.session.graph.held) - {0}
    assert engine.session.map_revision == 1
    assert final_errors(engine).max() < 0.011


class LearningTheCamera(ScriptedPredictor):
    """Finds at frame 30 that the focal length is longer by a quarter, and at the end by a half."""

    def predict(self, frame, context_ids, depth=True):
        prediction = super().predict(frame, context_ids, depth)
        if frame.frame_id < 30:
            return prediction
        return replace(prediction, intrinsics=longer(prediction.intrinsics, 1.25))

    def drain(self):
        refined, depths, _ = super().drain()
        return refined, depths, longer(intrinsics(), 1.5)


def longer(camera, factor):
    return replace(camera, fx=camera.fx * factor, fy=camera.fy * factor)


def widths(engine):
    """Return the greatest x/z of the points of each keyframe."""
    ids = engine.session.bank.ids()
    clouds = engine.session.map.clouds(ids)
    return {i: float(np.abs(c.points[:, 0] / c.points[:, 2]).max()) for i, c in clouds.items()}


def test_a_new_estimate_of_the_focal_length_reaches_all_keyframes_and_their_points():
    engine = engine_of(Script(), LearningTheCamera, **EVERY)
    shown = list(frames(40, calibrated=False))
    for frame in shown[:30]:
        engine.step(frame)
    before = widths(engine)
    for frame in shown[30:]:
        engine.step(frame)
    bank, after = engine.session.bank, widths(engine)
    assert len(before) > 3
    assert {bank.intrinsics(i) for i in bank.ids()} == {longer(intrinsics(), 1.25)}
    for i in before:
        assert after[i] == pytest.approx(before[i] / 1.25, rel=1e-5)
        assert bank.view(i).bounds == pytest.approx(image_bounds(bank.intrinsics(i)), rel=1e-6)
    engine.drain()
    assert {bank.intrinsics(i) for i in bank.ids()} == {longer(intrinsics(), 1.5)}
    assert engine.session.intrinsics == longer(intrinsics(), 1.5)


def test_a_gap_in_time_makes_the_next_frames_prove_themselves():
    shown = list(frames(40))
    late = [replace(f, stamp_ns=f.stamp_ns + 20_000_000_000) for f in shown[20:]]
    engine = engine_of()
    estimates = [engine.step(frame) for frame in [*shown[:20], *late]]
    assert states(estimates)[19:24] == [TRACKING, RECOVERING, RECOVERING, TRACKING, TRACKING]
    assert set(estimates[20].context_ids) - {17, 18, 19} <= set(engine.session.bank.ids())
    assert errors(engine, estimates)[22] < 1e-9
    engine = engine_of(input__max_time_gap=0.0)
    estimates = [engine.step(frame) for frame in [*shown[:20], *late]]
    assert set(states(estimates)[1:]) == {TRACKING}


def test_the_predictor_may_ask_for_keyframes_and_refuse_them():
    engine, estimates = run(Script(keyframe=lambda i: i % 7 == 0), count=40)
    assert [e.frame_id for e in estimates if e.is_keyframe] == list(range(0, 40, 7))
    _, estimates = run(Script(keyframe=lambda i: False), count=40)
    assert [e.frame_id for e in estimates if e.is_keyframe] == [0]
    view = engine.session.trajectory_view()
    np.testing.assert_array_equal(np.flatnonzero(view.is_keyframe), list(range(0, 40, 7)))


def test_overlaps_are_computed_only_where_they_decide_on_a_keyframe(monkeypatch):
    asked = []
    overlap = KeyframeBank.overlap
    monkeypatch.setattr(
        KeyframeBank, 'overlap', lambda bank, *a: asked.append(a) or overlap(bank, *a)
    )
    run(count=10)
    assert asked
    asked.clear()
    run(Script(keyframe=lambda i: i % 3 == 0), count=10)
    assert not asked


def test_provisional_poses_claim_no_position():
    engine, estimates = run(Script(provisional=4), count=10)
    assert states(estimates) == 4 * [INITIALIZING] + 6 * [TRACKING]
    for e in estimates[:4]:
        assert e.T_world_camera is not None
        for covariance in (e.covariance, e.step_covariance)[: 2 if e.frame_id else 1]:
            assert (np.diag(covariance)[:3] == 1e6).all() and (covariance[:3, 3:] == 0).all()
            assert np.diag(covariance)[3:].max() < 1e-2
    assert engine.session.bank.ids()[:2] == [0, 4]
    assert np.isnan(engine.session.trajectory_view().T_emitted[:4]).all()


@pytest.mark.parametrize('known_from', [0, 2])
def test_poses_of_the_start_up_are_recorded_once_a_start_makes_them_known(known_from):
    settled = tuple(range(known_from, 4))
    engine, estimates = run(Script(provisional=4, settled=settled, refine_at={4}), count=10)
    session = engine.session
    view = session.trajectory_view()
    unknown = np.isnan(view.T_final).any(axis=(1, 2))
    assert np.flatnonzero(unknown).tolist() == list(range(known_from))
    # A keyframe whose place is unknown stays in no map.
    assert (0 in session.bank) == (known_from == 0)
    assert estimates[4].evicted == ((0,) if known_from else ())
    assert list(session.followed_since) == ([0, 2] if known_from else [0])
    T_true = np.stack([truth(circle(), int(stamp_ns)) for stamp_ns in view.stamps_ns])
    np.testing.assert_allclose(view.T_final[known_from:], T_true[known_from:], atol=1e-9)


def test_live_parameters_change_between_frames():
    engine = engine_of(**EVERY, keyframe__max_interval=100)
    shown = frames(60)
    for _ in range(20):
        engine.step(next(shown))
    assert engine.session.bank.ids() == [0]
    engine.update_config(
        updated(engine.config, {'keyframe.max_interval': 5, 'tracking.lost_ratio': 0.0})
    )
    later = [engine.step(next(shown)) for _ in range(20)]
    assert [e.frame_id for e in later if e.is_keyframe] == [20, 25, 30, 35]
    assert engine.session.gate.config.lost_ratio == 0.0


def test_clearing_the_map_keeps_the_tracking():
    engine = engine_of()
    shown = frames(40)
    for _ in range(20):
        engine.step(next(shown))
    engine.session.map.clear()
    assert len(engine.session.map) == 0
    assert {engine.step(next(shown)).state for _ in range(20)} == {TRACKING}
    assert len(engine.session.map) > 0


def test_results_handed_out_are_safe_from_later_steps():
    engine = engine_of(Script(path=straight(), drift=0.1, refine_at={20}))
    shown = frames(30)
    early = [engine.step(next(shown)) for _ in range(20)]
    poses = [e.T_world_camera.copy() for e in early]
    view, cloud = engine.session.trajectory_view(), engine.session.map_view()
    points = cloud.cloud().points.copy()
    for frame in shown:
        engine.step(frame)
    for e, pose in zip(early, poses, strict=True):
        np.testing.assert_array_equal(e.T_world_camera, pose)
    np.testing.assert_array_equal(view.T_final[:20], np.stack(poses))
    np.testing.assert_array_equal(cloud.cloud().points, points)


def test_an_edge_into_another_frame_is_not_this_frames():
    class Confused(ScriptedPredictor):
        def _edges(self, frame_id, T_room_camera, context):
            yield from super()._edges(frame_id, T_room_camera, context)
            for other in context[:1]:
                yield Edge(other, frame_id + 5, make_T(np.eye(3), [9.0, 9.0, 9.0]), 99.0, 99.0)
                yield Edge(777, frame_id, make_T(np.eye(3), [9.0, 9.0, 9.0]), 99.0, 99.0)

    engine = engine_of(predictor=Confused)
    estimates = [engine.step(frame) for frame in frames(30)]
    assert errors(engine, estimates).max() < 1e-9


def test_closing_closes_the_predictor():
    engine = engine_of()
    engine.close()
    assert engine.predictor.closed
