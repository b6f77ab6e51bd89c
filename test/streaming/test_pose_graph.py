"""Refined edges replace old ones, and later frames follow."""

import numpy as np
from r3_ros.core.datatypes import Edge
from r3_ros.core.geometry import inverse, make_T, similarity
from r3_ros.streaming.pose_graph import PoseGraph
from r3_ros.streaming.pose_resolution import EdgeNoise, HeldPose, resolve_pose


def at(x, y=0.0):
    return make_T(np.eye(3), [x, y, 0.0])


def edge(source, target, x, y=0.0, score=1.0):
    return Edge(source, target, at(x, y), score, score)


def resolve(edges, held, scale=None):
    return resolve_pose(edges, held, EdgeNoise(1.0), scale=scale)


def grown(*incoming):
    """Return a graph with frame 0 at the origin and one frame for each list of edges."""
    graph = PoseGraph(resolve)
    graph.add(0, HeldPose(np.eye(4)), [])
    for edges in incoming:
        graph.add(edges[0].target_id, resolve(edges, graph.held).held, edges)
    return graph


def chain(count=5):
    return grown(*([edge(i, i + 1, 1.0)] for i in range(count)))


def xs(graph):
    return {frame_id: round(float(T[0, 3]), 9) for frame_id, T in graph.similarities.items()}


def test_poses_follow_along_the_chain():
    assert xs(chain()) == {i: float(i) for i in range(6)}


def test_a_refined_edge_moves_its_target_and_all_that_depend_on_it():
    graph = chain()
    assert graph.refine([edge(1, 2, 1.5)]) == [2, 3, 4, 5]
    assert xs(graph) == {0: 0.0, 1: 1.0, 2: 2.5, 3: 3.5, 4: 4.5, 5: 5.5}


def test_refined_edges_replace_all_edges_their_target_had():
    graph = grown([edge(0, 1, 1.0)], [edge(0, 2, 2.0), edge(1, 2, 1.0)])
    assert graph.refine([edge(1, 2, 1.2)]) == [2]
    assert xs(graph)[2] == 2.2
    assert len(graph.edges()) == 2


def test_a_window_is_resolved_from_the_oldest_on():
    graph = chain()
    refined = [edge(3, 4, 1.1), edge(2, 3, 1.1), edge(1, 2, 1.1)]  # in any order
    assert graph.refine(refined) == [2, 3, 4, 5]
    assert xs(graph) == {0: 0.0, 1: 1.0, 2: 2.1, 3: 3.2, 4: 4.3, 5: 5.3}


def test_edges_from_the_newer_to_the_older_frame_are_turned_round():
    graph = chain()
    assert graph.refine([Edge(2, 1, inverse(at(1.5)), 1.0, 1.0)]) == [2, 3, 4, 5]
    assert xs(graph)[2] == 2.5


def test_the_first_frame_and_older_ones_stay():
    graph = chain()
    graph.refine([Edge(1, 0, at(-3.0), 1.0, 1.0)])
    assert xs(graph)[0] == 0.0 and xs(graph)[1] == 3.0
    graph.refine([edge(3, 4, 9.0)])
    assert xs(graph)[3] == 5.0


def test_nothing_moves_when_nothing_changed():
    graph = chain()
    assert graph.refine([]) == []
    assert graph.refine([edge(1, 2, 1.0)]) == []


def test_the_drift_of_a_frame_follows_a_correction_of_scale():
    graph = chain(2)
    before = graph.held[2].drift
    assert (before > 0).all()
    graph.correct({2: similarity(np.eye(4), 3.0)}, {})
    np.testing.assert_allclose(graph.held[2].drift, before * [3.0, 1.0])


def test_unknown_and_impossible_edges_are_ignored():
    graph = chain()
    nan = Edge(1, 2, np.full((4, 4), np.nan), 1.0, 1.0)
    assert graph.refine([edge(1, 77, 1.0), edge(77, 2, 1.0), edge(2, 2, 5.0), nan]) == []
    assert xs(graph) == {i: float(i) for i in range(6)}


def test_frames_are_dropped_with_their_edges():
    graph = grown([edge(0, 1, 1.0)], [edge(0, 2, 2.0), edge(1, 2, 1.0)], [edge(2, 3, 1.0)])
    graph.drop([1])
    assert set(graph.held) == {0, 2, 3}
    assert [(e.source_id, e.target_id) for e in graph.edges()] == [(0, 2), (2, 3)]
    assert graph.refine([edge(0, 2, 2.5)]) == [2, 3]
    assert xs(graph) == {0: 0.0, 2: 2.5, 3: 3.5}


def test_a_frame_without_edges_keeps_its_pose():
    graph = chain()
    graph.drop([1])
    assert graph.refine([edge(0, 1, 9.0)]) == []
    assert xs(graph)[2] == 2.0
    graph.drop([99])


def test_earlier_snapshots_do_not_change():
    graph = chain()
    before = graph.similarities
    graph.refine([edge(1, 2, 1.5)])
    assert before[3][0, 3] == 3.0
