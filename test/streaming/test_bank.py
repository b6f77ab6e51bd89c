"""What the keyframe bank admits, keeps, lets go and recalls."""

from dataclasses import replace

import numpy as np
import pytest
from r3_ros.core.config import KeyframeConfig, StreamConfig
from r3_ros.core.datatypes import DepthMap, Intrinsics
from r3_ros.streaming.keyframes.bank import KeyframeBank

SIZE = 16


def bank(size=SIZE, **options):
    config = replace(KeyframeConfig(), **options)
    return KeyframeBank(config, size)


def views(count, seed=0):
    """Return views that have nothing in common."""
    vectors = np.random.default_rng(seed).normal(size=(count, SIZE))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def like(view, share=0.01, seed=0):
    """Return a view that is nearly the same."""
    other = view + share * views(1, seed=seed + 100)[0]
    return (other / np.linalg.norm(other)).astype(np.float32)


def admit(memory, frame_id, view):
    """Admit a frame that was related to all keyframes."""
    return memory.admit(frame_id, view, related=memory.ids())


@pytest.mark.parametrize('capacity', [4, 5, 20])
def test_the_bound_holds_and_anchor_and_newest_stay(capacity):
    memory = bank(max_keyframes=capacity)
    gone = []
    for frame_id, view in enumerate(views(100)):
        evicted = memory.admit(frame_id, view)
        gone += evicted
        assert len(memory) <= capacity
        assert 0 in memory
        newest = [i for i in range(frame_id + 1) if i not in gone][-min(4, capacity - 2) :]
        assert set(newest) <= set(memory.ids())
        assert memory.ids() == sorted(memory.ids())
    assert sorted([*gone, *memory.ids()]) == list(range(100))


def test_what_was_evicted_is_not_found_any_more():
    memory = bank(max_keyframes=5)
    shown = views(30)
    for frame_id, view in enumerate(shown):
        memory.admit(frame_id, view)
        found = memory.most_similar(view, 99)
        assert found[0] == frame_id and set(found) == set(memory.ids())


def test_retrieval_gives_the_most_similar_first():
    memory = bank()
    shown = views(20)
    for frame_id, view in enumerate(shown):
        memory.admit(frame_id, view)
    query = like(shown[7], 0.3)
    expected = np.argsort(-(shown @ query))[:5].tolist()
    assert memory.most_similar(query, 5) == expected
    assert expected[0] == 7
    assert memory.most_similar(query, 0) == []
    assert bank().most_similar(query, 5) == []


def test_nearly_all_may_be_left_out():
    memory = bank(max_keyframes=2500)
    shown = views(2500)
    for frame_id, view in enumerate(shown):
        memory.admit(frame_id, view)
    wanted = range(2100, 2130)
    found = memory.most_similar(shown[7], 3, [i for i in range(2500) if i not in wanted])
    assert found == sorted(wanted, key=lambda i: -shown[i] @ shown[7])[:3]


def test_look_alikes_go_before_what_is_unlike_all_others():
    memory = bank(max_keyframes=10)
    shown = [*views(5), *(like(views(5)[2], seed=i) for i in range(5))]
    for frame_id, view in enumerate(shown):
        admit(memory, frame_id, view)
    evicted = [admit(memory, 10 + i, view)[0] for i, view in enumerate(views(4, seed=1))]
    # Four of the six that look like number 2 (itself among them), and none of the others.
    assert set(evicted) <= {2, 5, 6, 7, 8, 9}


def test_a_place_stays_thinned_out_when_its_keyframes_go_one_by_one():
    memory = bank(max_keyframes=30)
    here = views(1, seed=5)[0]
    for frame_id in range(20):
        memory.admit(frame_id, like(here, seed=frame_id), related=range(frame_id - 3, frame_id))
    evicted = []
    for frame_id, view in enumerate(views(30, seed=6), start=20):
        evicted += memory.admit(frame_id, view, related=range(frame_id - 3, frame_id))
    # All but the anchor and the last of the place, before what is unlike it.
    assert len(evicted) == 20 and len(set(evicted) - set(range(20))) <= 2


def test_a_look_alike_elsewhere_is_not_held_against_a_keyframe():
    memory = bank(max_keyframes=8)
    here = views(1, seed=5)[0]
    others = np.eye(SIZE, dtype=np.float32)
    shown = [others[0], here, like(here), like(here, seed=1), *others[1:5]]
    for frame_id, view in enumerate(shown):
        # Number 3 looks like number 1, too, and was never related to it.
        memory.admit(frame_id, view, related=[1] if frame_id == 2 else [])
    assert memory.admit(1000, others[6])[0] in (1, 2)
    assert 3 in memory and memory.admit(1001, others[7]) != [3]


def test_the_recency_score_fades_unless_it_is_renewed():
    """The authors' score never fades: a frame that matched well once stays for ever."""
    memory = bank(max_keyframes=10)
    shown = views(10)
    for frame_id, view in enumerate(shown):
        admit(memory, frame_id, view)
    for frame_id in range(10, 1000):
        memory.credit(frame_id, [(i, 1.0) for i in memory.ids() if i not in (3, 4)])
    assert admit(memory, 1000, views(1, seed=1)[0])[0] in (3, 4)
    assert admit(memory, 1001, views(1, seed=2)[0])[0] in (3, 4)


def test_a_weak_match_renews_less_than_a_strong_one():
    memory = bank(max_keyframes=8)
    for frame_id, view in enumerate(np.eye(SIZE, dtype=np.float32)[:8]):
        admit(memory, frame_id, view)
    weak = {i: 0.2 if i == 2 else 0.9 for i in range(8)}
    memory.credit(500, weak.items())
    assert admit(memory, 501, np.eye(SIZE, dtype=np.float32)[9]) == [2]


def test_an_old_place_like_no_other_outlives_new_look_alikes():
    memory = bank(max_keyframes=20)
    old = views(8)
    for frame_id, view in enumerate(old):
        admit(memory, frame_id, view)
    here = views(1, seed=5)[0]
    for frame_id in range(3000, 3200, 4):  # standing still, far from there, much later
        memory.credit(frame_id, [(i, 1.0) for i in memory.ids() if i >= 3000])
        admit(memory, frame_id, like(here, seed=frame_id))
    assert set(range(8)) <= set(memory.ids())


def test_a_predictor_may_use_its_descriptor_buffer_again():
    memory = bank(max_keyframes=8)
    buffer = np.empty(SIZE, np.float32)
    shown = [*views(7), like(views(7)[2]), views(1, seed=7)[0]]
    evicted = []
    for frame_id, view in enumerate(shown):
        buffer[:] = view
        evicted += admit(memory, frame_id, buffer)
    assert evicted == [2]  # number 7, its look-alike, is among the newest


def test_credit_for_frames_that_are_gone_is_ignored():
    memory = bank()
    admit(memory, 0, views(1)[0])
    memory.credit(5, [(77, 1.0), (0, 0.5)])
    assert memory.ids() == [0]


def test_keyframes_of_a_segment_in_the_order_of_time():
    memory = bank()
    for frame_id, segment in ((0, 0), (4, 0), (7, 1), (9, 1), (12, 0)):
        memory.admit(frame_id, views(1, seed=frame_id)[0], segment_id=segment)
    assert memory.in_segment(0) == [0, 4, 12] and memory.in_segment(5) == []
    assert memory.newest(2, 0) == [4, 12] and memory.in_segment(1)[:1] == [7]
    nearest = [memory.nearest_in_time(i, 0) for i in (0, 4, 5, 8, 9, 12, 99)]
    assert nearest == [4, 0, 4, 4, 12, 4, 12], 'another than itself; the older if in doubt'
    assert memory.nearest_in_time(3, 5) is None
    memory.join_segments(1, 0)
    assert memory.in_segment(0) == [0, 4, 7, 9, 12] and memory.in_segment(1) == []
    memory.remove(7)
    assert memory.in_segment(0) == [0, 4, 9, 12] and memory.nearest_in_time(7, 0) == 9


# --- Recall ---

LENS = Intrinsics(100.0, 100.0, 49.5, 49.5, 100, 100)


def at(x=0.0, z=0.0):
    T = np.eye(4)
    T[:3, 3] = x, 0.0, z
    return T


def recalled(memory, view, T_world_camera=None, frame_id=100, without=(), **options):
    options = {'retrieved_keyframes': 2, 'retrieval_hysteresis': 0.0} | options
    config = replace(StreamConfig(), **options)
    return memory.recall(frame_id, view, T_world_camera, config, without)


def places(count=6):
    """Return a bank whose keyframes stand side by side and look alike."""
    memory, here = bank(), views(1)[0]
    for frame_id in range(count):
        memory.admit(frame_id, like(here, 0.001, seed=frame_id), at(0.4 * frame_id), LENS)
    return memory, here


def test_recall_prefers_keyframes_that_see_the_predicted_place():
    memory, here = places()
    assert set(recalled(memory, here, at(1.7))) == {4, 5}
    assert set(recalled(memory, here, at(0.1))) == {0, 1}
    assert recalled(memory, here, at(0.1), retrieved_keyframes=0) == []


def test_recall_leaves_out_what_is_in_the_context_anyway():
    memory, here = places()
    assert set(recalled(memory, here, at(1.5), without=(4, 3, 77))) == {2, 5}


def test_a_keyframe_is_recalled_where_a_correction_has_moved_it():
    memory, here = places()
    memory.move({0: at(50.0), 3: at(50.5), 99: at()})
    assert set(recalled(memory, here, at(50.2))) == {0, 3}
    np.testing.assert_array_equal(memory.view(0).T_world_camera, at(50.0))


def test_what_the_last_frame_was_related_to_gives_way_only_to_what_is_clearly_better():
    shown = np.eye(SIZE, dtype=np.float32)

    def query(a, b, c):
        vector = a * shown[0] + b * shown[1] + c * shown[2]
        return (vector / np.linalg.norm(vector)).astype(np.float32)

    first, closer, clear = query(1.0, 0.9, 0.1), query(1.0, 0.88, 0.9), query(1.0, 0.3, 0.9)
    for hysteresis, expected in ((0.1, [{0, 1}, {0, 1}, {0, 2}]), (0.0, [{0, 1}, {0, 2}, {0, 2}])):
        memory = bank()
        for frame_id in range(3):
            memory.admit(frame_id, shown[frame_id])
        found = [
            set(recalled(memory, vector, retrieval_hysteresis=hysteresis))
            for vector in (first, closer, clear)
        ]
        assert found == expected


def test_a_keyframe_that_brings_no_edge_is_recalled_less():
    memory = bank()
    view = views(1)[0]
    for frame_id in range(4):
        memory.admit(frame_id, view)
    assert recalled(memory, view) == [0, 1]
    memory.credit(100, [(1, 0.9)])
    assert recalled(memory, view, frame_id=101) == [1, 2]
    # A frame without any match does not change the scores of keyframes.
    assert recalled(memory, view, frame_id=102) == [1, 2]
    memory.credit(102, [(1, 0.9), (2, 0.2)])
    assert recalled(memory, view, frame_id=103) == [1, 3]
    # What was held against it long ago is all but forgotten.
    memory.credit(9000, [(3, 0.4), (1, 0.1)])
    assert set(recalled(memory, view, frame_id=9001)) == {0, 2}


def test_the_depth_of_a_keyframe_bounds_its_view():
    memory, view = bank(), views(1)[0]
    memory.admit(0, view, at(), LENS)
    assert memory.view(0).depth == 1.0
    depth = np.full((64, 64), 5.0, np.float32)
    depth[:40] = np.nan
    image = np.zeros((64, 64, 3), np.uint8)
    memory.note_depth(DepthMap(0, depth, depth, image, LENS))
    memory.note_depth(DepthMap(7, 2 * depth, depth, image, LENS))
    memory.note_depth(DepthMap(0, depth * np.nan, depth, image, LENS))
    assert memory.view(0).depth == 5.0
    memory.admit(1, view, at(z=1.0), LENS)
    assert memory.view(1).depth == 5.0


def test_a_bank_without_poses_recalls_by_similarity_alone():
    memory = bank()
    shown = views(8)
    for frame_id, view in enumerate(shown):
        memory.admit(frame_id, view)
    query = like(shown[5], 0.2)
    assert recalled(memory, query, at()) == memory.most_similar(query, 2)
