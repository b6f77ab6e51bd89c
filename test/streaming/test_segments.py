"""A camera carried off begins a segment; where it comes home, the two are joined."""

from dataclasses import replace

from drifting import engine_for, loop_script, STRIDE, walk, walked
import numpy as np
import pytest
from r3_ros.core.datatypes import TrackingState
from r3_ros.core.geometry import inverse, make_T
from scripted import (
    frames,
    intrinsics,
    PERIOD_NS,
    room_depth,
    ScriptedPredictor,
    START_NS,
)

TRACKING, LOST, RECOVERING = (
    TrackingState.TRACKING,
    TrackingState.LOST,
    TrackingState.RECOVERING,
)
LENGTH, ROUND = 40.0, 160
CUT, SKIPPED = 60, 40
OPTIONS = {'loop__new_segment_after': 5, 'tracking__lost_after_frames': 3}
#: The frame that begins the new segment: the third bad one is LOST, and five more pass.
BEGINS = CUT + 2 + 5


def carried_off(**trouble):
    """Return a walk round the loop that leaves a quarter of it out: too far for any edge."""
    script = loop_script(LENGTH, **trouble)
    plain = script.path

    def path(stamp_ns):
        skipped = SKIPPED * PERIOD_NS if stamp_ns >= START_NS + CUT * PERIOD_NS else 0
        return plain(stamp_ns + skipped)

    script.path = path
    return script


def offs(a, b):
    return np.linalg.norm((a - b)[:, :3, 3], axis=1)


def joined_at(result):
    return next(e.frame_id for e in result.estimates if e.corrected)


@pytest.mark.parametrize('factor', [1.0, 1.7, 0.4])
def test_two_segments_become_one_where_they_meet(factor):
    result = walk(carried_off(new_unit=(CUT, factor)), 150, **OPTIONS)
    joined = joined_at(result)
    assert ROUND - SKIPPED - 10 < joined < ROUND - SKIPPED + 20
    session = result.engine.session
    assert session.segment_id == 0 and session.map_revision == session.loops_closed >= 1
    assert set(session.graph.segments.values()) == {0}
    # In the world of the old segment, at its scale.
    assert session.graph.held[session.recent[-1]].scale == pytest.approx(1.0 / factor, rel=0.03)
    final = result.final
    known = np.isfinite(final[:, 0, 0])
    np.testing.assert_array_equal(np.flatnonzero(~known), np.arange(CUT, BEGINS))
    # Before the cut nothing moves; what came after is only as sure as where it was joined.
    assert offs(final[:CUT], result.truth[:CUT]).max() < 1e-6
    assert offs(final[known], result.truth[known]).max() < 0.5
    assert result.estimates[joined].corrected == tuple(sorted(result.estimates[joined].corrected))
    # The drift of the segment began at zero; that of the place where it was joined was added.
    held = session.graph.held
    begun = min(i for i in held if i >= CUT)
    assert (held[begun].drift > 0).all()


def test_no_pose_is_claimed_in_a_segment_that_is_not_joined():
    result = walk(carried_off(new_unit=(CUT, 1.7)), 150, **OPTIONS)
    joined, estimates = joined_at(result), result.estimates
    assert [e.state for e in estimates[CUT : CUT + 4]] == 2 * [TrackingState.LOW_CONFIDENCE] + (
        2 * [LOST]
    )
    for e in estimates[CUT:joined]:
        assert e.T_world_camera is None and e.covariance is None and e.T_previous_camera is None
        apart = e.frame_id >= BEGINS
        assert e.segment_id == int(apart)
        assert (e.state is RECOVERING) == apart == ('not joined' in e.reason)
    assert 'segment 1 begins' in estimates[BEGINS].reason and estimates[BEGINS].is_keyframe
    # It is followed all the same, and remembered.
    assert sum(e.is_keyframe for e in estimates[BEGINS:joined]) >= 10
    for e in estimates[joined:]:
        assert e.state is TRACKING and e.segment_id == 0
    assert offs(
        np.stack([e.T_world_camera for e in estimates[joined:]]), result.truth[joined:]
    ).max() < (0.5)


def test_the_odometry_goes_on_from_the_last_pose_that_was_given():
    result = walk(carried_off(), 150, **OPTIONS)
    joined = joined_at(result)
    across = result.estimates[joined].T_previous_camera
    exact = inverse(result.truth[CUT - 1]) @ result.truth[joined]
    np.testing.assert_allclose(across[:3, 3], exact[:3, 3], atol=0.3)
    for e in result.estimates[joined + 1 :]:
        assert np.linalg.norm(e.T_previous_camera[:3, 3]) == pytest.approx(STRIDE, rel=0.1)


def test_what_others_see_of_an_unjoined_segment_is_nothing():
    engine = engine_for(carried_off(), **OPTIONS)
    estimates = [engine.step(f) for f in frames(BEGINS + 20)]
    session = engine.session
    assert session.segment_id == 1
    assert set(session.graph.similarities) == set(session.bank.in_segment(0))
    view = session.trajectory_view()
    assert np.isnan(view.T_final[CUT:]).all() and np.isnan(view.T_emitted[CUT:]).all()
    assert np.isfinite(view.T_final[:CUT]).all()
    assert set(session.bank.in_segment(0)) == {
        e.frame_id for e in estimates[:CUT] if e.is_keyframe
    }
    assert engine.predictor.held == {*session.recent, *session.bank.ids()}
    engine.close()


def test_the_map_of_a_segment_comes_with_it():
    class InAHall(ScriptedPredictor):
        """Sees a wall all round, some way outside of the loop."""

        def _depths(self, frame, T_room_camera, K):
            depth = room_depth(frame, np.eye(4), intrinsics(), (24, 32))
            depth.depth[:] *= self._unit_drift()
            return (replace(depth, frame_id=frame.frame_id),)

    script = carried_off(new_unit=(CUT, 2.0))
    script.depth_size = (24, 32)
    engine = engine_for(script, InAHall, map__enabled=True, points__stride=1, **OPTIONS)
    sizes = {}
    for frame in frames(150):
        e = engine.step(frame)
        sizes[e.frame_id] = len(engine.session.map_view().cloud())
        if e.corrected:
            break
    joined = max(sizes)
    assert sizes[CUT - 1] == sizes[joined - 1] > 0, 'points of an unjoined segment were shown'
    assert sizes[joined] > 1.5 * sizes[joined - 1]
    engine.close()


@pytest.mark.parametrize('after', [0, 20])
def test_a_segment_begins_when_it_is_configured(after):
    options = {**OPTIONS, 'loop__new_segment_after': after}
    result = walk(carried_off(), 95, **options)
    ids = [e.segment_id for e in result.estimates]
    begins = CUT + 2 + after
    assert ids == ([0] * begins + [1] * (95 - begins) if after else [0] * 95)


def test_no_segment_begins_where_it_could_not_be_joined():
    result = walk(carried_off(), 95, loop__enabled=False, **OPTIONS)
    assert {e.segment_id for e in result.estimates} == {0}
    assert {e.state for e in result.estimates[CUT + 2 :]} == {LOST}


def test_darkness_leaves_no_rubbish_behind():
    dark = loop_script(LENGTH)
    dark.blackouts = set(range(40, 100))
    result = walk(dark, 130, **OPTIONS)
    session = result.engine.session
    # Segments of one frame came and went; the last one had a place to go on from, and was left
    # again, or joined, when the old places were in reach.
    assert result.estimates[99].segment_id > 3
    assert len(set(session.graph.segments.values())) <= 2
    assert all(e.T_world_camera is None for e in result.estimates[40:100])
    held = {*session.recent, *session.bank.ids()}
    assert result.engine.predictor.held == held == set(session.graph.held)


def test_a_lost_segment_can_be_found_again_in_the_old_one():
    """Carried off, followed there for a while, and carried back to where it all began."""
    script = loop_script(LENGTH)
    plain = script.path

    def path(stamp_ns):
        n = (stamp_ns - START_NS) // PERIOD_NS
        if n < 60:
            return plain(stamp_ns)
        if n < 90:
            return plain(stamp_ns + 30 * PERIOD_NS)
        return plain(stamp_ns - 80 * PERIOD_NS)

    script.path = path
    result = walk(script, 120, **OPTIONS)
    last = result.estimates[-1]
    assert last.segment_id == 0 and last.state is TRACKING
    claimed = [e for e in result.estimates if e.T_world_camera is not None]
    truth = result.truth[[e.frame_id for e in claimed]]
    assert offs(np.stack([e.T_world_camera for e in claimed]), truth).max() < 1e-6
    assert {e.segment_id for e in result.estimates[70:90]} == {1}
    # The segment in between keeps its keyframes: it may be joined some day.
    assert len(result.engine.session.bank.in_segment(1)) >= 3


def test_one_look_alike_joins_nothing():
    class Fooled(ScriptedPredictor):
        def _edges(self, frame_id, T_room_camera, context):
            yield from super()._edges(frame_id, T_room_camera, context)
            if self._index > BEGINS + 3 and 3 in context:
                score = 1.5 * self.confidence_reference
                T = make_T(np.eye(3), [0.1, 0.0, 0.2])
                yield replace(
                    next(super()._edges(frame_id, T_room_camera, context)),
                    source_id=3,
                    T_source_target=T,
                    confidence_translation=score,
                    confidence_rotation=score,
                )

        def describe(self, frame):
            descriptor = super().describe(frame)
            alike = frame.frame_id == 3 or self._index > BEGINS + 3
            return np.eye(1, len(descriptor), dtype=np.float32)[0] if alike else descriptor

    engine = engine_for(carried_off(), Fooled, **OPTIONS)
    estimates = [engine.step(frame) for frame in frames(BEGINS + 30)]
    engine.close()
    assert list(engine.session.evidence)
    assert estimates[-1].segment_id == 1 and engine.session.loops_closed == 0


def test_a_reset_begins_with_segment_zero():
    engine = engine_for(carried_off(), **OPTIONS)
    shown = frames(150)
    while engine.step(next(shown)).segment_id == 0:
        pass
    engine.reset()
    later = [engine.step(next(shown)) for _ in range(10)]
    assert {e.segment_id for e in later} == {0} and later[-1].state is TRACKING
    assert offs(walked(engine, later).final[:1], np.eye(4)[None]).max() == 0.0
    engine.close()
