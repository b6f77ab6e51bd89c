"""Old keyframes, seen again: what they may correct, when, and what must not move."""

from dataclasses import replace
import itertools
import sys
import threading

from drifting import engine_for, loop_script, walk, walked
import numpy as np
import pytest
from r3_ros.core.config import R3Config
from r3_ros.core.datatypes import Edge, TrackingState
from r3_ros.core.errors import ModelError
from r3_ros.core.geometry import inverse, is_rigid, make_T, transform
from r3_ros.ros.tf.pose_chain import PoseChain
from r3_ros.streaming.loops import solver_job
from r3_ros.streaming.loops.evidence import drop_outdated, FarEdge, no_evidence
from r3_ros.streaming.loops.loop_closure import Loops
from scipy.spatial.transform import Rotation
from scripted import (
    circle,
    frames,
    intrinsics,
    ROOM,
    room_depth,
    Script,
    ScriptedPredictor,
    START_NS,
)

#: A small loop: 160 frames round.
LENGTH, ROUND = 40.0, 160
TURNING = {'turn_drift': 0.004}


def small(count=ROUND + 40, predictor=ScriptedPredictor, trouble=None, **options):
    script = loop_script(LENGTH, **(TURNING if trouble is None else trouble))
    return walk(script, count, predictor, **options)


def offs(a, b):
    return np.linalg.norm((a - b)[:, :3, 3], axis=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    'trouble',
    [
        pytest.param({'turn_drift': 0.002}, marks=pytest.mark.slow),
        pytest.param({'scale_drift': -0.0005}, marks=pytest.mark.slow),
        {
            'turn_drift': 0.002,
            'scale_drift': -0.0005,
            'translation_noise': 0.005,
            'rotation_noise': 0.003,
        },
    ],
    ids=['turn', 'scale', 'all'],
)
def test_a_loop_of_a_hundred_units_loses_two_thirds_of_its_error(trouble):
    closed = walk(loop_script(100.0, **trouble), 440)
    session = closed.engine.session
    assert session.loops_closed >= 1 and session.map_revision >= 1
    # Corrections never show in the odometry, which keeps the error of the open loop.
    before = closed.ate(closed.odometry)
    assert before > 0.5
    assert closed.ate(closed.final) < before / 3
    strides = np.linalg.norm(np.diff(closed.odometry[:, :3, 3], axis=0), axis=1)
    assert 0.18 < strides.min() and strides.max() < 0.27
    turns = Rotation.from_matrix(
        np.stack([e.T_previous_camera[:3, :3] for e in closed.estimates[1:]])
    ).magnitude()
    assert turns.max() < 2 * np.median(turns)
    assert all(is_rigid(T) for T in closed.final)
    assert {e.state for e in closed.estimates[1:]} == {TrackingState.TRACKING}


def test_the_correction_comes_some_frames_later_and_reports_what_moved():
    closed = small(loop__apply_after=7)
    corrected = [e for e in closed.estimates if e.corrected]
    first = corrected[0]
    assert first.map_revision == 1 and closed.estimates[first.frame_id - 1].map_revision == 0
    assert first.corrected == tuple(sorted(first.corrected))
    keyframes = {e.frame_id for e in closed.estimates[: first.frame_id] if e.is_keyframe}
    assert keyframes - {0} <= set(first.corrected) and 0 not in first.corrected
    later = small(loop__apply_after=12)
    assert next(e.frame_id for e in later.estimates if e.corrected) == first.frame_id + 5


def test_the_pose_after_a_correction_is_where_the_camera_is():
    closed = small()
    first = next(e for e in closed.estimates if e.corrected).frame_id
    off = offs(np.stack([e.T_world_camera for e in closed.estimates]), closed.truth)
    assert off[first - 1] > 1.0
    assert off[first] < 0.1 and off[first:].max() < 0.3
    # Not one frame but the whole way has been put right.
    assert offs(closed.final, closed.truth).max() < 0.25


def placed_by(closed):
    """Return the placements of a walk's frames."""
    chain = PoseChain(np.eye(4), starts_in_base=False)
    return [chain.advance(e, 1.0, max_gap_s=5.0) for e in closed.estimates]


def test_map_to_odom_takes_the_correction_and_odom_to_base_goes_on():
    closed = small()
    first = next(e for e in closed.estimates if e.corrected).frame_id
    placed = placed_by(closed)
    T_map_base, T_odom_base = (
        np.stack([getattr(p, name) for p in placed]) for name in ('T_map_base', 'T_odom_base')
    )
    T_map_odom = T_map_base @ np.linalg.inv(T_odom_base)
    in_map, in_odom, between = (
        np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1)
        for T in (T_map_base, T_odom_base, T_map_odom)
    )
    assert in_map[first - 1] > 1.0 and between[first - 1] > 1.0
    assert in_odom.max() < 1.1 * np.median(in_odom)
    assert between[: first - 1].max() < 1e-6


def test_the_covariance_shrinks_with_the_correction():
    closed = small()
    first = next(e for e in closed.estimates if e.corrected).frame_id
    before, after = (np.trace(closed.estimates[n].covariance) for n in (first - 1, first))
    assert after < 0.7 * before
    # Odom keeps its drift, with a covariance to match; that of the velocity does not depend on it.
    placed = placed_by(closed)
    drift = [np.trace(p.odom_covariance) for p in placed]
    assert (np.diff(drift) > 0).all()
    speeds = np.array([p.twist_covariance[0, 0] for p in placed[1:]])
    np.testing.assert_allclose(speeds, speeds[0], rtol=0.1)


def test_loops_stay_open_when_off():
    opened = small(loop__enabled=False)
    assert opened.engine.session.loops_closed == opened.engine.session.map_revision == 0
    assert not list(opened.engine.session.evidence)


def test_an_exact_way_has_nothing_to_close():
    exact = small(trouble={})
    assert exact.engine.session.loops_closed == 0
    assert offs(exact.final, exact.truth).max() < 1e-6


@pytest.mark.slow
def test_more_witnesses_take_longer():
    def first(frames_needed, keyframes_needed):
        options = {'loop__min_frames': frames_needed, 'loop__min_keyframes': keyframes_needed}
        engine = engine_for(loop_script(LENGTH, **TURNING), **options)
        begun = next(
            n for n, f in enumerate(frames(ROUND + 40)) if engine.step(f) and engine.loops._job
        )
        engine.close()
        return begun

    assert first(2, 1) < first(8, 1)
    assert first(2, 2) < first(2, 4)


def test_the_way_travelled_follows_a_correction_of_scale():
    closed = small(trouble={'scale_drift': -0.002})
    session = closed.engine.session
    assert session.loops_closed
    way = np.linalg.norm(np.diff(closed.final[:, :3, 3], axis=0), axis=1).sum()
    assert session.path == pytest.approx(way, rel=0.01)
    walked_in_old_units = sum(
        np.linalg.norm(e.T_previous_camera[:3, 3]) for e in closed.estimates[1:]
    )
    assert way > 1.1 * walked_in_old_units


@pytest.mark.slow
def test_the_scale_stays_where_it_cannot_drift():
    shrinking = {'scale_drift': -0.001}
    scales = {}
    for drift in (0.0, 0.01):
        session = small(trouble=shrinking, loop__scale_drift=drift).engine.session
        scales[drift] = session.graph.held[session.recent[-1]].scale
    assert scales[0.0] == pytest.approx(1.0, abs=1e-3)
    assert scales[0.01] == pytest.approx(0.999**-ROUND, rel=0.04)


class LookAlike(ScriptedPredictor):
    """From frame 60 on some old keyframes claim to be near, and are not."""

    def __init__(self, script, keyframes=(0,), places=(0.7,)):
        super().__init__(script)
        self._claims = dict(zip(keyframes, places, strict=True))

    def _edges(self, frame_id, T_room_camera, context):
        claimed = self._claims if self._index >= 60 else {}
        kept = [source for source in context if source not in claimed]
        yield from super()._edges(frame_id, T_room_camera, kept)
        for source, place in claimed.items():
            if source in context:
                score = 1.5 * self.confidence_reference
                T = make_T(np.eye(3), [place, 0.0, 0.3 * place])
                yield Edge(source, frame_id, T, score, score)

    def describe(self, frame):
        descriptor = super().describe(frame)
        if self._index >= 60 or frame.frame_id in self._claims:
            # All of one look.
            return np.eye(1, len(descriptor), dtype=np.float32)[0]
        return descriptor


@pytest.mark.parametrize(
    'claims',
    [((0,), (0.7,)), ((3, 7, 11, 15), (0.7, -0.2, 1.5, 0.1))],
    ids=['one', 'several that contradict each other'],
)
def test_a_place_that_only_looks_the_same_bends_nothing(claims):
    fooled = walk(loop_script(LENGTH), 110, lambda script: LookAlike(script, *claims))
    session = fooled.engine.session
    assert list(session.evidence), 'the claims were never looked at'
    assert session.loops_closed == session.map_revision == 0
    assert offs(fooled.final, fooled.truth).max() < 1e-6


@pytest.mark.slow
def test_wrong_edges_among_the_closing_ones_are_let_go():
    class Muddled(ScriptedPredictor):
        def _edges(self, frame_id, T_room_camera, context):
            for edge in super()._edges(frame_id, T_room_camera, context):
                if frame_id - edge.source_id > 100 and frame_id % 4 == 0:
                    T = edge.T_source_target @ make_T(np.eye(3), [0.0, 0.0, 1.0])
                    edge = replace(edge, T_source_target=T)
                yield edge

    closed = small(predictor=Muddled)
    assert closed.engine.session.loops_closed >= 1
    assert offs(closed.final, closed.truth).max() < 0.3


@pytest.mark.slow
def test_the_same_frames_give_the_same_result_however_fast_the_solver(monkeypatch):
    noisy = {**TURNING, 'translation_noise': 0.003, 'rotation_noise': 0.002}
    quick = small(trouble=noisy)
    solve, begun = solver_job.close_loop, threading.Event()

    def slow(snapshot):
        begun.wait(0.2)  # never set: later than many frames
        return solve(snapshot)

    monkeypatch.setattr(solver_job, 'close_loop', slow)
    late = small(trouble=noisy)
    np.testing.assert_array_equal(quick.final, late.final)
    for a, b in zip(quick.estimates, late.estimates, strict=True):
        assert a.corrected == b.corrected
        np.testing.assert_array_equal(a.T_world_camera, b.T_world_camera)


@pytest.fixture
def held_solver(monkeypatch):
    """Keep the solver from its result until the event is set."""
    solve, go, begun = solver_job.close_loop, threading.Event(), threading.Event()

    def waiting(snapshot):
        begun.set()
        go.wait(60.0)
        return solve(snapshot)

    monkeypatch.setattr(solver_job, 'close_loop', waiting)
    yield begun, go
    go.set()


def until_begun(engine, begun):
    shown = frames(ROUND + 60)
    estimates = []
    while not begun.is_set() and engine.loops._job is None:
        estimates.append(engine.step(next(shown)))
    return shown, estimates


def test_frames_go_on_while_the_loop_is_worked_out(held_solver):
    begun, go = held_solver
    engine = engine_for(loop_script(LENGTH, **TURNING), loop__apply_after=20)
    shown, estimates = until_begun(engine, begun)
    estimates += [engine.step(next(shown)) for _ in range(19)]
    assert {e.map_revision for e in estimates} == {0}
    go.set()
    estimates.append(engine.step(next(shown)))
    assert estimates[-1].map_revision == 1
    result = walked(engine, estimates)
    # What came after the snapshot follows, and its own steps stay as they were.
    assert offs(result.final, result.truth).max() < 0.25
    step = inverse(result.final[-2]) @ result.final[-1]
    np.testing.assert_allclose(step, estimates[-1].T_previous_camera, atol=1e-9)
    engine.close()


def test_a_reset_forgets_what_is_being_worked_out(held_solver):
    begun, go = held_solver
    engine = engine_for(loop_script(LENGTH, **TURNING))
    shown, _ = until_begun(engine, begun)
    engine.reset()
    go.set()
    later = [engine.step(next(shown)) for _ in range(30)]
    assert not any(e.corrected for e in later)
    assert engine.session.loops_closed == engine.session.map_revision == 0
    engine.close()


def test_closing_ends_the_thread(held_solver):
    begun, go = held_solver
    engine = engine_for(loop_script(LENGTH, **TURNING))
    until_begun(engine, begun)
    begun.wait(60.0)
    ours = [t for t in threading.enumerate() if t.name.startswith('r3_loops') and t.is_alive()]
    assert ours
    go.set()
    engine.close()
    assert not any(t.is_alive() for t in ours)


def test_draining_takes_the_last_correction_in(held_solver):
    begun, go = held_solver
    engine = engine_for(loop_script(LENGTH, **TURNING), loop__apply_after=300)
    until_begun(engine, begun)
    go.set()
    corrected, _ = engine.drain()
    assert len(corrected) > 30 and engine.session.map_revision == 1
    engine.close()


def test_a_missing_solver_is_an_error_at_the_start(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gtsam', None)
    with pytest.raises(ModelError, match=r"pip install 'gtsam.*loop\.enabled"):
        Loops(R3Config())
    engine_for(loop_script(LENGTH), loop__enabled=False).close()


def test_an_old_solver_is_an_error_too(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gtsam', type(sys)('gtsam'))
    with pytest.raises(ModelError, match='4.3 or newer'):
        Loops(R3Config())


@pytest.mark.slow
def test_refinement_after_a_correction_does_not_undo_it():
    """The raw edges of the way led to the wrong poses, and must not do so again."""

    class Refining(ScriptedPredictor):
        def _exact_edges(self):
            ids = sorted(self._room)
            for source, target in list(itertools.pairwise(ids))[:3]:
                T = inverse(self._room[source]) @ self._room[target]
                # Of the oldest keyframes, shifted a little: all that follows is resolved anew.
                yield Edge(source, target, T @ make_T(np.eye(3), [0.0, 0.0, 0.01]), 2.0, 2.0)

    script = loop_script(LENGTH, **TURNING)
    script.refine_at = {ROUND + 39}
    closed = walk(script, ROUND + 40, Refining)
    assert len(closed.estimates[-1].corrected) > 20
    assert offs(closed.final, closed.truth).max() < 0.3


@pytest.mark.slow
def test_a_shrinking_unit_is_made_up_for_in_depth_and_map():
    """Once round the room with a unit that shrinks by a tenth, which depth can measure."""
    shrinking = Script(path=circle(), reach=0.3, scale_drift=-0.0005, turn_drift=0.05)
    options = {
        'map__enabled': True,
        'points__stride': 1,
        'points__confidence_percentile': 0.0,
        'points__edge_threshold': 0.0,
    }
    opened = walk(shrinking, 230, loop__enabled=False, **options)
    closed = walk(shrinking, 230, **options)
    assert closed.engine.session.loops_closed >= 1

    def depth_ratio(result, frame_id):
        e = result.estimates[frame_id]
        frame = replace(next(frames(1)), stamp_ns=e.stamp_ns)
        exact = room_depth(frame, shrinking.path(e.stamp_ns), intrinsics(), (24, 32))
        return np.median(e.depths[0].depth / exact.depth)

    assert depth_ratio(closed, 190) == pytest.approx(0.9995**190, rel=1e-3)
    assert depth_ratio(opened, 229) == pytest.approx(0.9995**229, rel=1e-3)
    assert depth_ratio(closed, 229) == pytest.approx(1.0, abs=0.03)
    assert off_the_walls(closed) < 0.4 * off_the_walls(opened)


def off_the_walls(result):
    """Return the median distance of the map's points from the walls, as a share of the room."""
    cloud = result.engine.session.map_view().cloud()
    room = transform(circle()(START_NS), cloud.points)
    return np.median(np.abs(np.abs(room / ROOM).max(axis=1) - 1.0))


def test_old_evidence_does_not_add_up():
    """Rare claims of a look-alike, far between, are never counted together."""
    evidence = no_evidence()
    for frame_id in (10, 100, 190):
        evidence.append((FarEdge(0, frame_id, 4, np.eye(4), np.eye(4), np.ones(2)),))
    drop_outdated(evidence, [0, 4], now=195)
    assert [e.frame_id for edges in evidence for e in edges] == [190]
    drop_outdated(evidence, [0], now=195)
    assert not list(evidence)
