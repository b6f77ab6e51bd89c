"""The map moved by hand: initialpose and ~/set_scale. Odometry goes on as if nothing had been."""

import math

from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
import numpy as np
from paths import ROOT
import pytest
from r3_ros.core.geometry import inverse, make_T, R_BODY_OPTICAL
from r3_ros.msg import StreamStatus
from r3_ros.ros.outputs.health import StreamState
from r3_ros.ros.outputs.messages import (
    header_message,
    matrix_from_transform,
    pose_messages,
    stamp_ns_of,
    transform_message,
)
from r3_ros.srv import SetScale
from ros_graph import LATCHED, matrix, PERIOD_NS
from ros_robot import activate, at, BASE, navigating, Robot
from scipy.spatial.transform import Rotation
from scripted import Script, START_NS
from sensor_msgs.msg import PointCloud2
from sensor_msgs_py import point_cloud2
from std_srvs.srv import SetBool, Trigger
import yaml

pytestmark = pytest.mark.ros

GIVEN = make_T(Rotation.from_euler('z', 1.1).as_matrix(), [5.0, -3.0, 0.0])
TILTED = make_T(Rotation.from_euler('xyz', [0.2, -0.1, 1.1]).as_matrix(), [5.0, -3.0, 0.5])


def tell_pose(g, T=GIVEN, frame='map', stamp_ns=0, **changes):
    """Publish an initial pose, and wait until the node has dealt with it."""
    publisher = g.probe.create_publisher(PoseWithCovarianceStamped, 'initialpose', 1)
    g.until(lambda: publisher.get_subscription_count() == 1)
    message = PoseWithCovarianceStamped(header=header_message(stamp_ns, frame))
    message.pose.pose = pose_messages(T[None])[0]
    message.pose.covariance[0] = message.pose.covariance[7] = 0.25
    message.pose.covariance[35] = 0.07
    for name, value in changes.items():
        setattr(message.pose.pose.orientation, name, value)
    publisher.publish(message)
    return publisher


def revision(g):
    return g.node.worker.engine.session.map_revision


def robot_alone(graph, **parameters):
    """Return a node that does all by itself, with a named base, and its robot's mount."""
    g = graph(base_frame=BASE, tf_lookup_timeout=5.0, map__publish_period=0.1, **parameters)
    assert g.turn('configure')
    robot = Robot(g)
    robot.tells = False
    robot.mount()
    activate(g)
    return g, robot


@pytest.mark.parametrize('T_given', [GIVEN, TILTED], ids=['level', 'tilted'])
def test_the_base_is_where_it_is_said_to_be_and_odometry_goes_on(graph, T_given):
    g, robot = robot_alone(graph)
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    odometry = g.listen('/r3/odometry', Odometry)
    paths = g.listen('/r3/path', PathMessage, LATCHED)
    maps = g.listen('/r3/map_points', PointCloud2, LATCHED)
    transforms = g.listen_tf()
    stamps = robot.drive(6)
    count = len(g.node.worker.engine.session.map_view().cloud())
    g.until(lambda: maps and maps[-1].width == count and paths and paths[-1].poses)
    before, cloud, path = revision(g), maps[-1], paths[-1]
    keep = tell_pose(g, T_given)
    g.until(lambda: revision(g) == before + 1)
    # At once and not with the next image: map -> odom, path and map.
    expected = T_given @ inverse(robot.T_first_base(stamps[-1]))
    g.until(lambda: transforms[-1].child_frame_id == 'odom' and np.allclose(
        matrix_from_transform(transforms[-1].transform), expected, atol=1e-6))  # fmt: skip
    g.until(lambda: maps[-1] is not cloud and paths[-1] is not path)
    moved = expected @ matrix(path.poses[0].pose)
    np.testing.assert_allclose(matrix(paths[-1].poses[0].pose), moved, atol=1e-6)
    points = point_cloud2.read_points_numpy(cloud, ['x', 'y', 'z'])
    there = point_cloud2.read_points_numpy(maps[-1], ['x', 'y', 'z'])
    np.testing.assert_allclose(there, points @ expected[:3, :3].T + expected[:3, 3], atol=1e-4)
    stamps += robot.drive(3)
    g.until(lambda: len(poses) == len(odometry) == 9 and at(transforms, BASE, stamps[-1]))
    for stamp_ns, pose in list(zip(stamps, poses, strict=True))[6:]:
        T = matrix(pose.pose.pose)
        np.testing.assert_allclose(T, expected @ robot.T_first_base(stamp_ns), atol=1e-6)
        (T_map_odom,), (T_odom_base,) = (
            at(transforms, 'odom', stamp_ns),
            at(transforms, BASE, stamp_ns),
        )
        np.testing.assert_allclose(T_map_odom @ T_odom_base, T, atol=1e-9)
    for stamp_ns, message in zip(stamps, odometry, strict=True):
        T_true = robot.T_first_base(stamp_ns)
        np.testing.assert_allclose(matrix(message.pose.pose), T_true, atol=1e-6)
    assert keep


@pytest.mark.slow
def test_clouds_of_keyframes_follow_the_map_when_it_is_moved_or_has_another_unit(graph):
    g, robot = robot_alone(graph, keyframe__max_interval=3)
    clouds = g.listen('/r3/keyframe_points', PointCloud2, 100)
    robot.drive(10)
    session, chain = g.node.worker.engine.session, g.node.worker.pose_output.chain
    count = len(session.bank)
    assert count > 2
    g.until(lambda: len(clouds) == count)
    first = {stamp_ns_of(m.header.stamp) for m in clouds}

    def assert_come_again(times):
        g.until(lambda: len(clouds) == (times + 1) * count)
        again = {stamp_ns_of(m.header.stamp): m for m in clouds[times * count :]}
        assert again.keys() == first
        for keyframe_id, stamp_ns in zip(session.bank.ids(), sorted(first), strict=True):
            S_map_own = chain.S_map_world @ session.graph.held[keyframe_id].S_world_camera
            points = point_cloud2.read_points_numpy(again[stamp_ns], ['x', 'y', 'z'])
            own = session.map.clouds([keyframe_id])[keyframe_id]
            np.testing.assert_allclose(points, own.moved(S_map_own).points, atol=1e-4)

    keep = tell_pose(g)
    assert_come_again(1)
    assert set_scale(g, 2.5).success and keep
    assert_come_again(2)
    # Who comes after a reset gets nothing of the session before.
    assert g.call(Trigger, '/r3/reset').success
    keep = tell_pose(g, TILTED)
    stamps = robot.drive(2)
    g.until(lambda: stamp_ns_of(clouds[-1].header.stamp) >= stamps[0])
    assert len(clouds) == 3 * count + 1 and keep


def test_a_pose_that_is_meant_for_an_earlier_moment(graph):
    g, robot = robot_alone(graph)
    stamps = robot.drive(8)
    keep = tell_pose(g, stamp_ns=stamps[3] + PERIOD_NS // 2)
    g.until(lambda: revision(g) == 1)
    T_then = robot.T_first_base(stamps[3] + PERIOD_NS // 2)
    expected = GIVEN @ inverse(T_then) @ robot.T_first_base(stamps[-1])
    # Between two images the way is taken as straight: 1.6e-5 beside the circle.
    np.testing.assert_allclose(
        g.node.worker.pose_output.chain.last.T_map_base, expected, atol=1e-3
    )
    assert keep


def test_a_pose_in_another_frame_is_moved_into_map(graph):
    g, robot = robot_alone(graph)
    robot.drive(3)
    T_map_door = make_T(Rotation.from_euler('z', -0.4).as_matrix(), [1.0, 2.0, 0.0])
    robot.fixed.sendTransform(transform_message(START_NS, 'map', 'door', T_map_door))
    g.until(lambda: g.node.worker.tree.has_parent('door'))
    keep = tell_pose(g, frame='door')
    g.until(lambda: revision(g) == 1)
    T = g.node.worker.pose_output.chain.last.T_map_base
    np.testing.assert_allclose(T, T_map_door @ GIVEN, atol=1e-9)
    # And below our own map -> odom.
    keep = tell_pose(g, make_T(np.eye(3), [1.0, 0.0, 0.0]), frame=BASE)
    g.until(lambda: revision(g) == 2)
    ahead = T @ make_T(np.eye(3), [1.0, 0.0, 0.0])
    np.testing.assert_allclose(g.node.worker.pose_output.chain.last.T_map_base, ahead, atol=1e-6)
    assert keep


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'frame': 'moon'}, "no transform from 'moon' to 'map'"),
        ({'frame': ''}, 'frame_id is empty'),
        ({'T': GIVEN @ make_T(np.eye(3), [math.nan, 0, 0])}, 'too far away'),
        ({'T': make_T(np.eye(3), [0, 1e300, 0])}, 'too far away'),
        ({'w': math.nan}, 'length nan'),
        ({'w': 3.0}, 'not 1'),
        ({'x': 0.0, 'y': 0.0, 'z': 0.0, 'w': 0.0}, 'length 0'),
    ],
)
def test_what_is_no_pose_is_refused(graph, capfd, changes, words):
    g, robot = robot_alone(graph)
    robot.drive(2)
    capfd.readouterr()
    keep = tell_pose(g, **changes)
    error = ''

    def reported():
        nonlocal error
        error += capfd.readouterr().err
        return 'initialpose is refused' in error

    g.until(reported)
    assert words in error and revision(g) == 0 and keep


def test_a_pose_before_the_first_image_is_where_the_map_starts(graph):
    g, robot = robot_alone(graph)
    keep = tell_pose(g, TILTED)
    g.until(lambda: g.node.worker.pose_output._start is not None)
    (stamp_ns,) = robot.drive(1)
    placed = g.node.worker.pose_output.chain.last
    np.testing.assert_allclose(placed.T_map_base, TILTED, atol=1e-9)
    # Another session starts at the origin again.
    assert g.call(Trigger, '/r3/reset').success
    robot.drive(1)
    T = g.node.worker.pose_output.chain.last.T_map_base
    np.testing.assert_allclose(T, np.eye(4), atol=1e-9)
    assert keep and stamp_ns


def test_a_level_pose_turns_a_lone_camera_and_does_not_tilt_its_map(graph):
    g = graph().start()
    g.send_many(3)
    keep = tell_pose(g)
    g.until(lambda: revision(g) == 1)
    T = g.node.worker.pose_output.chain.last.T_map_base
    np.testing.assert_allclose(T[:3, 3], GIVEN[:3, 3], atol=1e-9)
    # It looks along the heading that was given, and is as upright as it was.
    np.testing.assert_allclose(T[:3, :3], GIVEN[:3, :3] @ R_BODY_OPTICAL, atol=1e-6)
    assert keep


def test_a_lost_camera_cannot_be_placed(graph, capfd):
    g = graph(Script(blackouts=set(range(3, 40)))).start()
    g.send_many(8)
    assert g.health.state is StreamState.LOST
    before = g.node.worker.pose_output.chain.last.T_map_base.copy()
    keep = tell_pose(g)
    g.until(lambda: 'the camera is lost' in capfd.readouterr().err)
    np.testing.assert_array_equal(g.node.worker.pose_output.chain.last.T_map_base, before)
    assert revision(g) == 0 and keep


def test_a_robot_that_is_corrected_is_where_it_is_said_to_be_now(graph):
    # Paused, it has driven on by its own odometry, and no image has shown that.
    g, robot = navigating(graph)
    stamp_ns = robot.drive(5)[-1]
    assert g.call(SetBool, '/r3/pause', SetBool.Request(data=True)).success
    later_ns = stamp_ns + 40 * PERIOD_NS
    robot.tell(later_ns)
    keep = tell_pose(g)
    g.until(lambda: revision(g) == 1)
    T_map_odom = g.node.worker.authority.T_map_odom
    np.testing.assert_allclose(T_map_odom @ robot.T_odom_base(later_ns), GIVEN, atol=1e-9)
    assert keep


def test_a_pose_after_a_reset_decides_where_the_robot_starts(graph):
    g, robot = navigating(graph)
    robot.drive(3)
    assert g.call(Trigger, '/r3/reset').success
    keep = tell_pose(g)
    g.until(lambda: g.node.worker.pose_output._start is not None)
    (stamp_ns,) = robot.drive(1)
    T_map_odom = g.node.worker.authority.T_map_odom
    np.testing.assert_allclose(T_map_odom @ robot.T_odom_base(stamp_ns), GIVEN, atol=1e-3)
    assert keep


def set_scale(g, scale, lock=True):
    return g.call(SetScale, '/r3/set_scale', SetScale.Request(scale=scale, lock=lock))


def test_a_scale_set_by_hand_reaches_map_path_and_increments_and_never_moves_odometry(graph):
    g, robot = robot_alone(graph)
    odometry = g.listen('/r3/odometry', Odometry)
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    paths = g.listen('/r3/path', PathMessage, LATCHED)
    maps = g.listen('/r3/map_points', PointCloud2, LATCHED)
    statuses = g.listen('/r3/status', StreamStatus)
    transforms = g.listen_tf()
    stamps = robot.drive(12)
    count = len(g.node.worker.engine.session.map_view().cloud())
    g.until(lambda: len(poses) == 12 and maps and maps[-1].width == count)
    cloud, before = maps[-1], revision(g)
    answer = set_scale(g, 2.5)
    assert answer.success and math.isnan(answer.previous_scale), answer.message
    g.until(lambda: statuses[-1].scale_source == StreamStatus.SCALE_USER)
    last = statuses[-1]
    assert (last.scale, last.scale_locked, last.map_revision) == (2.5, True, before + 1)
    chain = g.node.worker.pose_output.chain
    grown = chain.last.T_map_base
    offset = grown @ inverse(chain.last.T_odom_base)
    g.until(lambda: np.allclose(matrix_from_transform(transforms[-1].transform), offset))
    g.until(lambda: maps[-1] is not cloud)
    was, now = (np.ptp(point_cloud2.read_points(m)['y']) for m in (cloud, maps[-1]))
    assert now == pytest.approx(2.5 * was, rel=1e-3)
    stamps += robot.drive(3)
    g.until(lambda: len(poses) == len(odometry) == 15)
    T_base_optical = g.node.worker.pose_output.base.T_base_optical

    def in_metres(stamp_ns, unit):
        T = inverse(T_base_optical) @ robot.T_first_base(stamp_ns) @ T_base_optical
        T[:3, 3] *= unit
        return T_base_optical @ T @ inverse(T_base_optical)

    np.testing.assert_allclose(matrix(poses[-1].pose.pose), in_metres(stamps[-1], 2.5), atol=1e-6)

    def path_is_in_metres():  # one from before may still be on its way
        newest = paths[-1].poses[-1]
        expected = in_metres(stamp_ns_of(newest.header.stamp), 2.5)
        return np.allclose(matrix(newest.pose), expected, rtol=0.0, atol=1e-6)

    g.until(lambda: len(paths[-1].poses) > 1 and path_is_in_metres())
    for i in range(1, 15):
        step = inverse(matrix(odometry[i - 1].pose.pose)) @ matrix(odometry[i].pose.pose)
        unit = 1.0 if i < 12 else 2.5
        true = inverse(in_metres(stamps[i - 1], unit)) @ in_metres(stamps[i], unit)
        np.testing.assert_allclose(step, true, atol=1e-6)
    assert set_scale(g, 2.0).previous_scale == 2.5


@pytest.mark.parametrize('scale', [0.0, -1.0, math.nan, math.inf, 1e-9, 1e9])
def test_what_is_no_scale_is_refused(graph, scale):
    g = graph().start()
    g.send_many(2)
    answer = set_scale(g, scale)
    assert not answer.success and 'give metres per map unit, 0.0001 to 10000' in answer.message
    assert g.node.worker.engine.session.scale.metres_per_unit is None and revision(g) == 0


def test_a_scale_may_be_set_before_activation_and_stays_after_a_reset(graph):
    g = graph()
    assert g.turn('configure')
    assert set_scale(g, 3.0).success
    activate(g)
    statuses = g.listen('/r3/status', StreamStatus)
    g.send()
    g.until(lambda: statuses and statuses[-1].frames_processed and statuses[-1].scale == 3.0)
    assert g.call(Trigger, '/r3/reset').success
    g.send()
    g.until(lambda: statuses[-1].session_id == 1 and statuses[-1].frame_index == 1)
    assert (statuses[-1].scale, statuses[-1].scale_source) == (3.0, StreamStatus.SCALE_USER)


def test_a_robot_that_is_corrected_takes_the_new_scale_at_once(graph):
    g, robot = navigating(graph)
    stamps = robot.drive(6)
    transforms = g.listen_tf()
    assert set_scale(g, 2.0).success
    T_map_base = g.node.worker.pose_output.chain.last.T_map_base
    expected = T_map_base @ inverse(robot.T_odom_base(stamps[-1]))
    received = lambda: [t for t in transforms if t.child_frame_id == 'odom']  # noqa: E731
    g.until(lambda: received() and np.allclose(
        matrix_from_transform(received()[-1].transform), expected, atol=1e-3))  # fmt: skip
    assert not any(
        np.allclose(matrix_from_transform(t.transform), inverse(robot.T_odom_first), atol=1e-6)
        for t in received()[-1:]
    )


def test_rviz_has_the_tool_and_the_node_hears_it(graph):
    config = ROOT / 'rviz' / 'stream.rviz'
    tools = yaml.safe_load(config.read_text())['Visualization Manager']['Tools']
    (tool,) = [t for t in tools if t['Class'].endswith('/SetInitialPose')]
    g = graph().start()
    (kind,) = dict(g.node.get_subscriber_names_and_types_by_node('r3', '/'))[
        tool['Topic']['Value']
    ]
    assert kind == 'geometry_msgs/msg/PoseWithCovarianceStamped'
