"""What the predictor gets wrong: no pose, bad numbers, errors. Nothing false leaves the node."""

from geometry_msgs.msg import PoseWithCovarianceStamped
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from nav_msgs.msg import Odometry, Path
from r3_ros.msg import KeyframeGraph, StreamStatus
from r3_ros.ros.outputs.health import StreamState
from r3_ros.ros.outputs.messages import stamp_ns_of
from ros_graph import image_message, LATCHED, matrix
from scripted import pattern_image, Script
from sensor_msgs.msg import Image, PointCloud2
from sensor_msgs_py import point_cloud2

pytestmark = pytest.mark.ros

#: Nothing but the number of frames since the last one decides on a keyframe.
EVERY = {'keyframe__overlap_threshold': 0.0, 'keyframe__novelty_threshold': 0.0}


def test_an_unforeseen_error_is_reported_stops_the_stream_and_a_reset_helps(graph, capfd):
    from std_srvs.srv import Trigger

    g = graph(Script(failures={2: ZeroDivisionError('scripted')})).start()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    statuses = g.listen('/r3/status', StreamStatus)
    g.send_many(2)
    g.images.publish(image_message(g.stamp_ns))
    g.until(lambda: statuses and statuses[-1].state == StreamStatus.STATE_FAULT)
    assert 'ZeroDivisionError: scripted' in statuses[-1].state_reason
    assert 'ZeroDivisionError: scripted' in capfd.readouterr().err
    g.until(lambda: g.images.get_subscription_count() == 0)
    assert len(poses) == 2
    assert g.call(Trigger, '/r3/reset').success
    g.send()
    g.until(lambda: len(poses) == 3)


def test_nothing_but_finite_numbers_leaves(graph):
    script = Script(nan_pose_at={2, 3}, nan_depth_at={0, 1, 4, 5})
    g = graph(script, points__stride=1).start()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    clouds = g.listen('/r3/points', PointCloud2)
    maps = g.listen('/r3/map_points', PointCloud2, LATCHED)
    depths = g.listen('/r3/depth/image', Image)
    transforms = g.listen_tf()
    g.send_many(6)
    g.until(lambda: len(poses) == 4 and len(depths) == 6 and maps and maps[-1].width)
    for message in poses:
        assert np.isfinite(matrix(message.pose.pose)).all()
    for message in transforms:
        t, q = message.transform.translation, message.transform.rotation
        assert np.isfinite([t.x, t.y, t.z, q.x, q.y, q.z, q.w]).all()
    for cloud in [*clouds, *maps]:
        for name in ('x', 'y', 'z', 'confidence'):
            assert np.isfinite(point_cloud2.read_points(cloud)[name]).all()
    for depth in depths:
        assert not np.isinf(np.frombuffer(depth.data, np.float32)).any()


def test_a_lost_camera_gets_no_pose(graph):
    g = graph(Script(blackouts=set(range(3, 30)))).start()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    odometry = g.listen('/r3/odometry', Odometry)
    stamps = g.send_many(10)
    assert g.health.state is StreamState.LOST
    g.until(lambda: len(poses) == len(odometry) == 3)
    assert [stamp_ns_of(p.header.stamp) for p in poses] == stamps[:3]
    g.set_parameters(tracking__publish_when_lost=True)
    g.send()
    g.until(lambda: len(poses) == len(odometry) == 4)
    assert min(poses[-1].pose.covariance[::7]) == 1e6
    assert poses[-1].pose.pose == poses[2].pose.pose


def test_poses_of_low_confidence_say_so_and_the_map_rests(graph):
    script = Script(droughts=set(range(10, 16)), drought_score=0.25)
    g = graph(script, **EVERY, keyframe__max_interval=1).start()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    g.send_many(10)
    points = len(g.node.worker.engine.session.map)
    g.send_many(6)
    assert g.health.state is StreamState.LOW_CONFIDENCE
    g.until(lambda: len(poses) == 16)
    assert len(g.node.worker.engine.session.map) == points
    assert poses[15].pose.covariance[0] > 2 * poses[9].pose.covariance[0]


def test_corrected_poses_are_reported_and_published_again(graph):
    script = Script(drift=0.2, refine_at={12})
    g = graph(script, **EVERY, keyframe__max_interval=3).start()
    statuses = g.listen('/r3/status', StreamStatus)
    paths = g.listen('/r3/path', Path, LATCHED)
    graphs = g.listen('/r3/keyframe_graph', KeyframeGraph, LATCHED)
    g.send_many(12)
    g.until(lambda: graphs and len(graphs[-1].keyframes) >= 3 and statuses)
    before = {k.id: k.pose for k in graphs[-1].keyframes}
    assert statuses[-1].map_revision == 0
    g.send()
    g.until(lambda: statuses[-1].map_revision == 1)
    g.until(lambda: graphs[-1].map_revision == 1)
    moved = [k for k in graphs[-1].keyframes if k.id in before and k.pose != before[k.id]]
    assert moved
    end = matrix(graphs[-1].keyframes[-1].pose)
    g.until(lambda: np.allclose(matrix(paths[-1].poses[-1].pose), end))


def test_clouds_of_keyframes_that_were_corrected_are_sent_again_where_they_belong(graph):
    script = Script(drift=0.2, refine_at={12})
    g = graph(script, **EVERY, keyframe__max_interval=3).start()
    clouds = g.listen('/r3/keyframe_points', PointCloud2, 100)
    g.send_many(12)
    session, chain = g.node.worker.engine.session, g.node.worker.pose_output.chain
    g.until(lambda: len(clouds) == len(session.bank))
    ids = {stamp_ns_of(m.header.stamp): i for m, i in zip(clouds, session.bank.ids(), strict=True)}
    before = {i: session.graph.held[i].S_world_camera for i in session.bank.ids()}
    g.send()
    moved = {
        i
        for i, S in before.items()
        if np.abs(S - session.graph.held[i].S_world_camera).max() > session.map.config.voxel_size
    }
    assert moved and set(before) - moved
    known = len(before) + (12 in session.bank)
    g.until(lambda: len(clouds) == known + len(moved))
    again = clouds[known:]
    assert {ids[stamp_ns_of(m.header.stamp)] for m in again} == moved
    for message in again:
        keyframe_id = ids[stamp_ns_of(message.header.stamp)]
        own = session.map.clouds([keyframe_id])[keyframe_id]
        S_map_own = chain.S_map_world @ session.graph.held[keyframe_id].S_world_camera
        points = point_cloud2.read_points_numpy(message, ['x', 'y', 'z'])
        np.testing.assert_allclose(points, own.moved(S_map_own).points, atol=1e-5)
    # They lie where they were sent now: nothing comes twice.
    g.send_many(3)
    g.until(lambda: g.node.worker._clouds._keyframe_clouds._up_to_date is not None)
    stamps = [stamp_ns_of(m.header.stamp) for m in clouds]
    assert max(map(stamps.count, stamps)) == 2


@pytest.mark.parametrize(
    'pixels, reported',
    [(np.full((48, 64, 3), 3, np.uint8), 'the image is black'), (pattern_image(), 'it hangs')],
)
def test_a_camera_that_sees_nothing_or_hangs_gives_no_pose(graph, pixels, reported):
    g = graph(input__max_frozen_time=0.5).start()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    statuses = g.listen('/r3/status', StreamStatus)
    g.send_many(10)
    for _ in range(12):
        bad = g.send(image_message(g.stamp_ns, pixels))
    g.until(lambda: stamp_ns_of(statuses[-1].header.stamp) == bad)
    assert statuses[-1].state == StreamStatus.STATE_LOST
    assert reported in statuses[-1].state_reason
    claimed = {stamp_ns_of(message.header.stamp) for message in poses}
    assert claimed and bad not in claimed
    while g.health.state is not StreamState.TRACKING:
        good = g.send()
    g.until(lambda: stamp_ns_of(poses[-1].header.stamp) == good)


def test_a_simulated_camera_that_stands_still_keeps_its_pose(graph):
    g = graph(input__max_frozen_time=0.0).start()
    for _ in range(12):
        g.send(image_message(g.stamp_ns, pattern_image()))
    assert g.health.state is StreamState.TRACKING
