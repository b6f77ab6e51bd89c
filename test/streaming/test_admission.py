"""Which frames become keyframes."""

from dataclasses import replace

import numpy as np
import pytest
from r3_ros.core.config import KeyframeConfig, R3Config
from r3_ros.core.datatypes import Intrinsics
from r3_ros.core.errors import ConfigError
from r3_ros.core.geometry import make_T
from r3_ros.core.parameter_fields import updated
from r3_ros.streaming.engine import Engine
from r3_ros.streaming.keyframes.admission import Admission, Candidate
from r3_ros.streaming.keyframes.bank import KeyframeBank
from r3_ros.streaming.keyframes.retrieval import RetrievalIndex
from scipy.spatial.transform import Rotation
from scripted import frames, PERIOD_NS, Script, ScriptedPredictor, START_NS

LENS = Intrinsics(100.0, 100.0, 49.5, 49.5, 100, 100)
SIZE = 16


class Offers:
    """A bank to which frames are offered as the engine does."""

    def __init__(self, size=SIZE, **options):
        config = replace(KeyframeConfig(), **options)
        self.bank = KeyframeBank(config, size)
        self.rule = Admission(config)

    def offer(self, frame_id, view, T=None, related=None, token=None, complete=True):
        """Offer a frame, and return whether it became a keyframe."""
        related = self.bank.ids() if related is None else related
        candidate = Candidate(view, related, T, token)
        wanted = self.rule.wants(self.bank, candidate, complete)
        if wanted:
            self.rule.admitted()
            self.bank.admit(frame_id, view, T, LENS, related=related, pose_token=token)
        return wanted


def views(count, seed=0):
    """Return views that have nothing in common."""
    vectors = np.random.default_rng(seed).normal(size=(count, SIZE))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def like(view, share=0.01, seed=0):
    """Return a view that is nearly the same."""
    other = view + share * views(1, seed=seed + 100)[0]
    return (other / np.linalg.norm(other)).astype(np.float32)


def at(x=0.0, yaw=0.0):
    return make_T(Rotation.from_euler('y', yaw, degrees=True).as_matrix(), [x, 0.0, 0.0])


def test_overlap_mode_admits_where_no_related_keyframe_shares_the_view():
    offers = Offers(mode='overlap', overlap_threshold=0.6, max_interval=100)
    view = views(1)[0]
    way = [at(0.05 * n) for n in range(20)]
    admitted = [n for n, T in enumerate(way) if offers.offer(n, view, T)]
    assert admitted[0] == 0 and 2 < len(admitted) < 8
    assert np.ptp(np.diff(admitted)) <= 1, 'evenly spaced'
    # Back along the same way: nothing is new.
    assert not any(offers.offer(20 + n, view, T) for n, T in enumerate(reversed(way)))
    # There the frame matched none of those that share the view: they are behind a wall.
    assert offers.offer(50, view, way[3], related=[])


def test_overlap_mode_respects_the_longest_interval():
    offers = Offers(mode='overlap', max_interval=5)
    view = views(1)[0]
    assert [n for n in range(12) if offers.offer(n, view, at())] == [0, 5, 10]


def test_overlap_mode_goes_by_looks_where_the_pose_is_not_known():
    offers = Offers(mode='overlap', max_interval=100, novelty_threshold=0.9)
    a, b = views(2)
    shown = [a, like(a), b, like(b)]
    assert [n for n, view in enumerate(shown) if offers.offer(n, view)] == [0, 2]


def test_pose_token_mode_compares_with_the_related_keyframes():
    offers = Offers(mode='pose_token', token_threshold=0.95, max_interval=100)
    view, tokens = views(1)[0], np.eye(3, dtype=np.float32)
    near = np.array([0.99, 0.141, 0.0], np.float32)
    assert offers.offer(0, view, token=tokens[0])
    assert not offers.offer(1, view, token=near)
    assert offers.offer(2, view, token=tokens[1])
    assert not offers.offer(3, view, token=tokens[0])
    assert offers.offer(4, view, token=tokens[0], related=[2])
    assert not offers.rule.foresees(offers.bank, Candidate(view, [0, 2, 4])), 'not known yet'


def test_a_frame_that_the_predictor_forces_in_restarts_the_interval():
    offers = Offers(max_interval=3)
    view = views(1)[0]
    offers.offer(0, view)
    wanted = []
    for frame_id in range(1, 6):
        wanted.append(offers.rule.wants(offers.bank, Candidate(view, ())))
        if frame_id == 2:
            offers.rule.admitted()
    assert wanted == [False, False, False, False, True]


def test_a_frame_without_its_depth_gives_way_to_the_next():
    offers = Offers(mode='overlap', max_interval=100)
    view = views(1)[0]
    offers.offer(0, view, at())
    assert not offers.rule.foresees(offers.bank, Candidate(view, [0], at()))
    assert not offers.offer(1, view, at(yaw=80), complete=False)
    assert offers.rule.foresees(offers.bank, Candidate(view, [0], at()))
    assert offers.offer(2, view, at())


# --- Through the engine ---


def test_a_place_that_looks_like_another_is_remembered_all_the_same():
    class Alike(ScriptedPredictor):
        def describe(self, frame):
            super().describe(frame)
            return views(1)[0]

        descriptor_size = SIZE

    def path(stamp_ns):
        # On the spot, then quickly to another place, and on the spot there.
        count = (stamp_ns - START_NS) / PERIOD_NS
        return at(float(np.clip(count - 20, 0, 20)) * 0.5)

    config = updated(R3Config(), {'keyframe.max_interval': 1000, 'map.enabled': False})
    engine = Engine(Alike(Script(path=path)), config)
    for frame in frames(60):
        engine.step(frame)
    engine.close()
    bank = engine.session.bank
    there = [i for i in bank.ids() if np.linalg.norm(bank.view(i).T_world_camera[:3, 3]) > 9.0]
    assert there and len(bank) < 40


def test_a_predictor_without_pose_token_refuses_the_mode_that_needs_one():
    config = updated(R3Config(), {'keyframe.mode': 'pose_token'})
    with pytest.raises(ConfigError, match='scripted has no pose token: set keyframe.mode'):
        Engine(ScriptedPredictor(), config)


def test_keyframes_have_their_depth_where_it_is_not_computed_for_all():
    class Frugal(ScriptedPredictor):
        with_depth = []

        def predict(self, frame, context_ids, depth=True):
            Frugal.with_depth += [frame.frame_id] if depth else []
            return super().predict(frame, context_ids, depth)

    config = updated(R3Config(), {'model.depth_every': 0})
    engine = Engine(Frugal(Script()), config)
    estimates = [engine.step(frame) for frame in frames(80)]
    engine.close()
    keyframes = [e.frame_id for e in estimates if e.is_keyframe]
    assert 5 < len(keyframes) < 40
    assert set(keyframes) <= set(Frugal.with_depth)
    assert len(Frugal.with_depth) < 2 * len(keyframes)


def test_one_search_answers_for_recall_and_admission(monkeypatch):
    searches = []
    retrieve = RetrievalIndex.retrieve

    def counting(index, query, k):
        searches.append(k)
        return retrieve(index, query, k)

    monkeypatch.setattr(RetrievalIndex, 'retrieve', counting)
    engine = Engine(ScriptedPredictor(), updated(R3Config(), {'model.depth_every': 0}))
    shown = list(frames(40))
    for frame in shown[:30]:
        engine.step(frame)
    for frame in shown[30:]:
        searches.clear()
        engine.step(frame)
        assert len(searches) == 1
    # The descriptor of the recalled frame is searched for again where its pose is not known.
    engine.session.bank.similarity(engine.predictor.describe(shown[-1]))
    assert len(searches) == 1
    engine.close()
