"""Clouds of keyframes are sent again once each where they lie now. No ROS needed."""

import numpy as np
import pytest
from r3_ros.core.config import R3Config
from r3_ros.core.geometry import make_T
from r3_ros.core.parameter_fields import updated
from r3_ros.ros.outputs import keyframe_clouds
from r3_ros.ros.outputs.keyframe_clouds import KeyframeClouds, KeyframePlace
from r3_ros.ros.tf.pose_chain import PoseChain
from r3_ros.streaming.engine import Engine
from scipy.spatial.transform import Rotation
from scripted import frames, ScriptedPredictor

AHEAD = make_T(np.eye(3), [0.5, 0.0, 0.0])


class Sender:
    """A session of some keyframes whose clouds were all sent, and a clock that stands still."""

    def __init__(self, monkeypatch):
        values = {
            'keyframe.overlap_threshold': 0.0,
            'keyframe.novelty_threshold': 0.0,
            'keyframe.max_interval': 2,
        }
        engine = Engine(ScriptedPredictor(), updated(R3Config(), values))
        for frame in frames(9):
            engine.step(frame)
        self.now_s = 100.0
        monkeypatch.setattr(keyframe_clouds.time, 'monotonic', lambda: self.now_s)
        self.session, self.chain = engine.session, PoseChain(np.eye(4), starts_in_base=False)
        self.ids, self.clouds = self.session.bank.ids(), KeyframeClouds()
        for keyframe_id in self.ids:
            S = self.chain.S_map_world @ self.session.graph.similarities[keyframe_id]
            self.send(KeyframePlace(keyframe_id, keyframe_id, S))

    def send(self, place):
        points = self.session.map.clouds([place.keyframe_id])[place.keyframe_id].points
        self.clouds.note(place, points)

    def next(self):
        again = self.clouds.next_again(self.session, self.chain)
        return None if again is None else again[0]

    def move(self, T):
        self.chain.move_map(np.eye(4), T, keeps_tilt=False)
        self.now_s += 1.0


@pytest.fixture
def sender(monkeypatch):
    return Sender(monkeypatch)


def test_what_has_moved_comes_again_once_the_newest_first(sender):
    assert len(sender.ids) > 3 and sender.next() is None
    sender.move(AHEAD)
    again = []
    while (place := sender.next()) is not None:
        again.append(place.keyframe_id)
        assert sender.next() is None  # one at a time
        sender.send(place)
    assert again == sender.ids[::-1]
    sender.now_s += 1.0
    assert sender.next() is None
    # Back again: what was sent last counts, and not what was sent first.
    sender.move(np.linalg.inv(AHEAD))
    assert sender.next().keyframe_id == sender.ids[-1]


def test_what_was_dropped_on_its_way_comes_again(sender):
    sender.move(AHEAD)
    dropped = sender.next()
    assert dropped.keyframe_id == sender.ids[-1]
    sender.now_s += 1.0
    again = []
    while (place := sender.next()) is not None and len(again) < 100:
        again.append(place.keyframe_id)
        sender.send(place)
    assert again == [*sender.ids[-2::-1], dropped.keyframe_id]


@pytest.mark.parametrize(
    ('T', 'comes'),
    [
        (make_T(np.eye(3), [0.002, 0.0, 0.0]), False),
        (make_T(np.eye(3), [0.02, 0.0, 0.0]), True),
    ],
    ids=['less than a voxel', 'more than a voxel'],
)
def test_a_move_that_nobody_sees_sends_nothing(sender, T, comes):
    assert sender.session.map.config.voxel_size == 0.01
    sender.move(T)
    assert (sender.next() is not None) == comes


def test_a_turn_moves_what_is_far(sender):
    sender.move(make_T(Rotation.from_euler('z', 0.02).as_matrix(), np.zeros(3)))
    assert sender.next() is not None


def test_another_unit_sends_all_of_them(sender):
    sender.chain.metres_per_unit = 1.5
    sender.now_s += 1.0
    assert sender.next() is not None


def test_keyframes_that_have_left_or_whose_points_are_gone_do_not_come(sender):
    sender.session.remove_keyframes(sender.ids[-1:])
    sender.session.map.drop(sender.ids[-2])
    sender.move(AHEAD)
    assert sender.next().keyframe_id == sender.ids[-3]


def test_nothing_of_what_was_forgotten_comes(sender):
    sender.clouds.forget()
    sender.move(AHEAD)
    assert sender.next() is None
