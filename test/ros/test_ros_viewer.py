"""The view of a running node: its topics in the scene, its services as controls."""

from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from r3_ros.core.errors import R3Error
from r3_ros.core.geometry import make_T, R_BODY_OPTICAL
from r3_ros.maps.cloud import Cloud, packed, unpacked
from r3_ros.msg import Keyframe, KeyframeGraph, RelativePoseEdge
from r3_ros.ros.outputs.messages import pose_messages, stamp_ns_of, time_message
from r3_ros.ros.viewer_node import NodeCommands, shown_graph, TopicFeed
from r3_ros.viewer.scene import Scene
from r3_ros.viewer.view_data import LinkKind
from scripted import circle, Rotation, truth

pytestmark = pytest.mark.ros

T_MAP_WORLD = make_T(R_BODY_OPTICAL, np.zeros(3))


def last(method):
    return method.call_args.args


def test_topics_are_shown_in_the_map_and_a_reset_empties_it(graph):
    g, shown = graph(map__publish_period=0.1).start(), Mock(spec=Scene)
    points = []
    shown.show_cloud.side_effect = lambda placed: points.append(sum(len(c) for c, _ in placed))
    feed = TopicFeed(g.probe, shown, '/r3')
    g.until(lambda: g.node.count_subscribers('/r3/depth/preview'))
    stamps = []

    def is_complete():
        stamps.append(g.send())
        known = shown.show_keyframes.called and shown.show_camera.called and points
        return known and last(shown.show_camera)[0] is not None and points[-1] > 0

    g.until(is_complete)
    newest = {stamps[-1]}
    g.until(lambda: {stamp_ns_of(m.header.stamp) for m in (feed._pose, feed._status)} == newest)
    feed.draw()
    T_map_camera, image, depth, intrinsics = last(shown.show_camera)
    expected = T_MAP_WORLD @ truth(circle(), stamps[-1])
    np.testing.assert_allclose(T_map_camera, expected, atol=1e-6)
    assert image.ndim == depth.ndim == 3 and intrinsics.width == image.shape[1]
    (keyframes, _), (path,) = last(shown.show_keyframes), last(shown.show_path)
    np.testing.assert_allclose(keyframes.T_map_camera[0], T_MAP_WORLD, atol=1e-6)
    np.testing.assert_array_equal(path, keyframes.centres)
    state, facts = last(shown.show_status)
    assert state == 'tracking' and facts['lengths'] == 'map units'
    g.on_worker(g.node.worker.reset_on_request)
    g.until(lambda: not points[-1] and not len(last(shown.show_keyframes)[0].centres))
    g.until(lambda: last(shown.show_camera) == (None,))


def test_services_are_called_and_their_answers_returned(graph):
    g = graph().start()
    g.send_many(3)
    commands = {c.label: c for c in NodeCommands(g.probe, '/r3').commands()}
    with ThreadPoolExecutor(1) as pool:

        def answer(label, value=None):
            future = pool.submit(commands[label].call, value)
            g.until(future.done)
            return future.result()

        assert answer('Set scale', 2.5)
        assert g.node.worker.engine.session.scale.metres_per_unit == 2.5
        answer('Pause', True)
        handled = g.handled
        g.send()
        assert g.health.frames_paused == 1 and g.handled == handled + 1
        answer('Pause', False)
        assert answer('Reset') == 'session 1 starts'
        with pytest.raises(R3Error, match='scale'):
            answer('Set scale', -1.0)
        nobody = NodeCommands(g.probe, '/nobody').commands()[0]
        with pytest.raises(R3Error, match='/nobody offers no /nobody/pause'):
            g.until((future := pool.submit(nobody.call, True)).done)
            future.result()


def test_a_camera_on_a_robot_is_shown_where_it_is_mounted():
    T_base_optical = make_T(R_BODY_OPTICAL, np.array([0.1, 0.0, 0.3]))
    T_map_base = np.stack(
        [make_T(Rotation.from_euler('z', 0.5 * k).as_matrix(), np.full(3, k)) for k in range(3)]
    )
    message = KeyframeGraph(
        keyframes=[
            Keyframe(id=10 + k, stamp=time_message(k), pose=pose, confidence=1.0)
            for k, pose in enumerate(pose_messages(T_map_base))
        ],
        edges=[
            RelativePoseEdge(from_id=10, to_id=11, type=RelativePoseEdge.RECENT),
            RelativePoseEdge(from_id=10, to_id=12, type=RelativePoseEdge.BRIDGE),
        ],
    )
    in_map = np.diag([1.0, 4.0, 9.0])
    shown = shown_graph(message, T_base_optical, {1: in_map})
    np.testing.assert_allclose(shown.T_map_camera, T_map_base @ T_base_optical, atol=1e-9)
    R = shown.T_map_camera[1, :3, :3]
    np.testing.assert_allclose(R @ shown.covariances[1] @ R.T, in_map, atol=1e-9)
    assert np.isnan(shown.covariances[[0, 2]]).all()
    assert shown.links.tolist() == [[0, 1], [0, 2]]
    assert shown.kinds.tolist() == [LinkKind.RECENT, LinkKind.LOOP]
    assert len(shown_graph(KeyframeGraph(), T_base_optical, {}).centres) == 0


def test_points_survive_the_message():
    rng = np.random.default_rng(0)
    cloud = Cloud(
        rng.normal(size=(50, 3)).astype(np.float32),
        rng.integers(0, 256, (50, 3)).astype(np.uint8),
        rng.uniform(1, 5, 50).astype(np.float32),
    )
    cloud.points[7] = np.nan
    back = unpacked(packed(cloud.points, cloud.colors, cloud.confidence))
    kept = np.arange(50) != 7
    for name in ('points', 'colors', 'confidence'):
        np.testing.assert_array_equal(getattr(back, name), getattr(cloud, name)[kept])
