"""The keyframe graph and its drawing, over DDS; the colour image beside the depth."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from r3_ros.core.config import R3Config
from r3_ros.core.geometry import inverse
from r3_ros.msg import KeyframeGraph, RelativePoseEdge
from r3_ros.ros.outputs import cloud_publisher
from r3_ros.ros.outputs.graph_messages import confidence_color
from r3_ros.ros.outputs.messages import matrix_from_transform, stamp_ns_of
from r3_ros.srv import GetKeyframeGraph
from ros_graph import CAMERA, image_message, LATCHED, matrix
from scripted import circle, pattern_image, Script, truth
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import Trigger
from visualization_msgs.msg import Marker, MarkerArray

pytestmark = pytest.mark.ros

#: Every third frame becomes a keyframe, unless the bank wants it anyway.
OFTEN = {
    'keyframe__overlap_threshold': 0.0,
    'keyframe__novelty_threshold': 0.0,
    'keyframe__max_interval': 3,
}


def ask(g):
    return g.call(GetKeyframeGraph, '/r3/get_keyframe_graph').graph


def test_the_graph_holds_the_keyframes_where_the_path_has_them(graph):
    g = graph(**OFTEN).start()
    graphs = g.listen('/r3/keyframe_graph', KeyframeGraph, LATCHED)
    stamps = g.send_many(10)
    g.until(lambda: graphs and len(graphs[-1].keyframes) >= 4)
    answer = ask(g)
    assert answer.header.frame_id == 'map' and stamp_ns_of(answer.header.stamp) == stamps[-1]
    assert (answer.session_id, answer.map_revision) == (0, 0)
    assert all(keyframe.resident for keyframe in answer.keyframes)
    assert {keyframe.segment_id for keyframe in answer.keyframes} == {0}
    assert np.isnan(answer.keyframes[0].confidence), 'the first has nothing to be related to'
    assert all(k.confidence == pytest.approx(2.0) for k in answer.keyframes[1:])
    T_map_world = g.node.worker.pose_output.chain.T_map_world
    for keyframe in answer.keyframes:
        stamp_ns = stamp_ns_of(keyframe.stamp)
        assert stamp_ns == stamps[keyframe.id]
        expected = T_map_world @ truth(g.script.path, stamp_ns)
        np.testing.assert_allclose(matrix(keyframe.pose), expected, atol=1e-6)


def test_edges_are_relative_poses_of_keyframes(graph):
    g = graph(**OFTEN).start()
    stamps = g.send_many(10)
    answer = ask(g)
    ids = {keyframe.id for keyframe in answer.keyframes}
    assert len(answer.edges) >= len(ids) - 1
    for edge in answer.edges:
        assert {edge.from_id, edge.to_id} <= ids and edge.from_id < edge.to_id
        path = g.script.path
        expected = inverse(path(stamps[edge.from_id])) @ path(stamps[edge.to_id])
        np.testing.assert_allclose(matrix_from_transform(edge.transform), expected, atol=1e-9)
        assert edge.confidence_translation == edge.confidence_rotation == pytest.approx(2.0)


def test_the_graph_is_in_metres_where_they_are_known(graph):
    g = graph(scale__source='fixed', scale__fixed=3.0, **OFTEN).start()
    stamps = g.send_many(7)
    answer = ask(g)
    T_map_world, path = g.node.worker.pose_output.chain.T_map_world, g.script.path
    for keyframe in answer.keyframes:
        T = truth(path, stamps[keyframe.id])
        T[:3, 3] *= 3.0
        np.testing.assert_allclose(matrix(keyframe.pose), T_map_world @ T, atol=1e-6)
    for edge in answer.edges:
        expected = inverse(path(stamps[edge.from_id])) @ path(stamps[edge.to_id])
        found = matrix_from_transform(edge.transform)
        np.testing.assert_allclose(found[:3, 3], 3.0 * expected[:3, 3], atol=1e-9)


def test_edges_tell_the_recent_past_from_what_was_remembered(graph):

    # Round in two seconds: after twenty frames the first place is seen again.
    script = Script(path=circle(period_s=2.0))
    g = graph(script, stream__recent_keyframes=2, stream__recent_frames=1, **OFTEN).start()
    g.send_many(40)
    answer = ask(g)
    order = {keyframe.id: n for n, keyframe in enumerate(answer.keyframes)}
    kinds = {RelativePoseEdge.RECENT: set(), RelativePoseEdge.MEMORY: set()}
    for edge in answer.edges:
        kinds[edge.type].add(order[edge.to_id] - order[edge.from_id])
    assert kinds[RelativePoseEdge.RECENT] == {1, 2}
    assert min(kinds[RelativePoseEdge.MEMORY]) > 2


@pytest.mark.slow
def test_bridges_join_segments(graph):
    script = Script(path=circle(period_s=8.0), reach=0.3, blackouts=set(range(20, 35)))
    g = graph(script, loop__new_segment_after=3, loop__apply_after=1, **OFTEN).start()
    g.send_many(130)
    session = g.node.worker.engine.session
    assert session.newest_segment >= 1 and session.loops_closed >= 1
    answer = ask(g)
    segment = {keyframe.id: keyframe.segment_id for keyframe in answer.keyframes}
    assert len(set(segment.values())) > 1, 'the segment that a keyframe came in'
    bridges = [edge for edge in answer.edges if edge.type == RelativePoseEdge.BRIDGE]
    assert bridges
    assert all(segment[edge.from_id] != segment[edge.to_id] for edge in bridges)
    others = [edge for edge in answer.edges if edge.type == RelativePoseEdge.RECENT]
    assert len(others) > len(bridges)


def test_keyframes_that_left_the_bank_stay_in_the_graph(graph):
    g = graph(keyframe__max_keyframes=4, **OFTEN).start()
    stamps = g.send_many(30)
    answer = ask(g)
    resident = {keyframe.id for keyframe in answer.keyframes if keyframe.resident}
    assert len(resident) == 4 and len(answer.keyframes) > 6
    assert {end for edge in answer.edges for end in (edge.from_id, edge.to_id)} <= resident
    T_map_world = g.node.worker.pose_output.chain.T_map_world
    for keyframe in answer.keyframes:
        expected = T_map_world @ truth(g.script.path, stamps[keyframe.id])
        np.testing.assert_allclose(matrix(keyframe.pose), expected, atol=1e-6)
    g.set_parameters(path_max_size=5)
    assert resident <= {keyframe.id for keyframe in ask(g).keyframes}
    assert len(ask(g).keyframes) == 5
    g.set_parameters(path_max_size=2)
    assert [k.id for k in ask(g).keyframes] == sorted(resident)[-2:]


def test_the_graph_is_empty_before_the_first_image_and_after_a_reset(graph):
    g = graph(**OFTEN)
    assert g.turn('configure')
    assert ask(g).keyframes == []
    g.turn('activate')
    g.until(lambda: g.images.get_subscription_count() == 1)
    graphs = g.listen('/r3/keyframe_graph', KeyframeGraph, LATCHED)
    markers = g.listen('/r3/markers', MarkerArray, LATCHED)
    g.send_many(4)
    g.until(lambda: graphs and graphs[-1].keyframes and markers and len(markers[-1].markers) == 2)
    assert g.call(Trigger, '/r3/reset').success
    g.until(lambda: graphs[-1].keyframes == [] and graphs[-1].session_id == 1)
    g.until(lambda: [m.action for m in markers[-1].markers] == [Marker.DELETEALL])
    # Who joins late sees the deletion too, and not the markers of the session before.
    late = g.listen('/r3/markers', MarkerArray, LATCHED)
    g.until(lambda: late)
    assert [m.action for m in late[0].markers] == [Marker.DELETEALL]
    assert ask(g).keyframes == [] and ask(g).session_id == 1
    g.send()
    g.until(lambda: graphs[-1].keyframes)
    assert graphs[-1].session_id == 1


def test_nothing_is_reported_while_metres_are_awaited(graph):
    g = graph(scale__source='odometry', **OFTEN).start()
    graphs = g.listen('/r3/keyframe_graph', KeyframeGraph, LATCHED)
    g.send_many(5)
    assert ask(g).keyframes == []
    assert not any(message.keyframes for message in graphs)


def test_markers_are_two_lists_of_lines_that_replace_one_another(graph):
    g = graph(**OFTEN).start()
    markers = g.listen('/r3/markers', MarkerArray, LATCHED)
    g.send_many(10)
    answer = ask(g)

    def drawn():
        if not markers or len(markers[-1].markers) != 2:
            return False
        return len(markers[-1].markers[1].points) == 2 * len(answer.edges)

    g.until(drawn)
    cameras, edges = markers[-1].markers
    assert (cameras.ns, edges.ns) == ('keyframes', 'edges')
    for marker in (cameras, edges):
        assert marker.header.frame_id == 'map' and marker.id == 0
        assert (marker.type, marker.action) == (Marker.LINE_LIST, Marker.ADD)
        assert len(marker.colors) == len(marker.points) and marker.scale.x > 0
        assert marker.pose.orientation.w == 1.0
    assert len(cameras.points) == 16 * len(answer.keyframes)
    # Edges run between the cameras, which are where the graph has them: the camera is the base.
    centres = {k.id: matrix(k.pose)[:3, 3] for k in answer.keyframes}
    for n, edge in enumerate(answer.edges):
        for end, point in ((edge.from_id, 2 * n), (edge.to_id, 2 * n + 1)):
            p = edges.points[point]
            np.testing.assert_allclose([p.x, p.y, p.z], centres[end], atol=1e-6)
    # The frustum opens along the optical axis: that of the first camera is the x axis of map.
    first = np.array([[p.x, p.y, p.z] for p in cameras.points[:16]])
    assert first[:, 0].min() == pytest.approx(0.0) and first[:, 0].max() > 0.01
    assert np.abs(first.mean(axis=0)[1:]).max() < 1e-6


@pytest.mark.slow
def test_edges_are_coloured_by_their_confidence(graph):
    script = Script(droughts={7, 8, 9}, drought_score=0.5)
    g = graph(script, **OFTEN).start()
    markers = g.listen('/r3/markers', MarkerArray, LATCHED)
    g.send_many(10)
    answer = ask(g)
    g.until(
        lambda: (
            len(markers[-1].markers) == 2
            and len(markers[-1].markers[1].points) == 2 * len(answer.edges)
        )
    )
    colors = markers[-1].markers[1].colors
    weak = [e.confidence_translation < 1.5 for e in answer.edges]
    assert any(weak) and not all(weak)
    for n, is_weak in enumerate(weak):
        assert (colors[2 * n].r > 0.5) == is_weak, 'weak edges are not green'
    assert confidence_color(0.0).r == 1.0 and confidence_color(0.0).g == 0.0
    assert confidence_color(9.0).r == 0.0 and confidence_color(9.0).g == 1.0
    assert confidence_color(float('nan')).r == 1.0


def test_a_latched_topic_is_due_on_change_and_not_too_often(monkeypatch):
    outputs = SimpleNamespace(wanted=lambda *topics: True)
    clouds = cloud_publisher.CloudPublisher(outputs, R3Config(), print, print)

    def is_due(state, now_s):
        clock = SimpleNamespace(monotonic=lambda: now_s)
        monkeypatch.setattr(cloud_publisher, 'time', clock)
        return clouds._is_due('path', state, period_s=1.0)

    assert is_due('a', 10.0)
    assert not is_due('a', 10.5), 'too soon'
    assert is_due('a', 11.1), 'it was dropped on the way'
    clouds._shown['path'] = 'a'
    assert not is_due('a', 20.0), 'nothing has changed'
    assert is_due('b', 20.1)


def test_colour_pairs_with_depth_pixel_for_pixel(graph):
    g = graph(Script(depth_delay=1)).start()
    received = {
        topic: g.listen(f'/r3/{topic}', kind)
        for topic, kind in (
            ('depth/image', Image),
            ('depth/camera_info', CameraInfo),
            ('color/image', Image),
            ('color/camera_info', CameraInfo),
        )
    }
    shades = (0, 100, 200)
    stamps = [g.send(image_message(g.stamp_ns, pattern_image(shade=s))) for s in shades]
    g.until(lambda: all(len(messages) == 2 for messages in received.values()))
    for n in range(2):
        depth, depth_info, color, color_info = (messages[n] for messages in received.values())
        assert {stamp_ns_of(m[n].header.stamp) for m in received.values()} == {stamps[n]}
        assert {m[n].header.frame_id for m in received.values()} == {CAMERA}
        assert depth_info == color_info
        size = (depth.height, depth.width)
        assert size == (color.height, color.width) == (depth_info.height, depth_info.width)
        pixels = np.frombuffer(color.data, np.uint8).reshape(*size, 3)
        # The scripted predictor takes every second pixel of its image.
        np.testing.assert_array_equal(pixels, pattern_image(shade=shades[n])[::2, ::2])
