"""Who broadcasts what on /tf: modes, stamps, base frames, and edges of others."""

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from drifting import CONFIG, loop_script
from nav_msgs.msg import Odometry
from r3_ros.core.geometry import inverse, make_T, R_BODY_OPTICAL
from r3_ros.ros.outputs.health import StreamState
from r3_ros.ros.outputs.messages import (
    matrix_from_transform,
    stamp_ns_of,
    time_message,
    transform_message,
)
from rclpy.time import Time
from ros_graph import CAMERA, image_message, matrix, PERIOD_NS
from scipy.spatial.transform import Rotation
from scripted import Script, SECOND_NS, START_NS, truth
from std_srvs.srv import SetBool, Trigger
from tf2_ros import Buffer, StaticTransformBroadcaster, TransformBroadcaster

pytestmark = pytest.mark.ros

T_BASE_OPTICAL = make_T(
    Rotation.from_euler('z', 0.3).as_matrix() @ R_BODY_OPTICAL, [0.3, 0.05, 0.4]
)


def edges(transforms):
    return {(t.header.frame_id, t.child_frame_id) for t in transforms}


def at(transforms, child, stamp_ns):
    """Return the transforms of a child at an exact stamp."""
    return [
        t
        for t in transforms
        if t.child_frame_id == child and stamp_ns_of(t.header.stamp) == stamp_ns
    ]


def announce(g, parent, child, T):
    """Publish a static transform and wait until the node has received it."""
    broadcaster = StaticTransformBroadcaster(g.probe)
    broadcaster.sendTransform(transform_message(START_NS, parent, child, T))
    g.until(lambda: g.node.worker.tree.has_parent(child))
    return broadcaster


def configured(graph, script=None, **parameters):
    g = graph(script, **parameters)
    assert g.turn('configure')
    return g


def activated(g):
    assert g.turn('activate')
    g.until(lambda: g.images.get_subscription_count() == 1)
    return g


def test_frames_may_have_the_leading_slash_of_ros_1(graph):
    g = configured(graph, Script(), scale__source='odometry')
    broadcaster = StaticTransformBroadcaster(g.probe)
    mount = transform_message(START_NS, '/base_link', f'/{CAMERA}', T_BASE_OPTICAL)
    broadcaster.sendTransform(mount)
    g.until(lambda: g.node.worker.tree.has_parent(CAMERA))
    activated(g)
    wheels = g.probe.create_publisher(Odometry, 'odom', 10)
    g.until(lambda: wheels.get_subscription_count() == 1)
    g.send(image_message(g.stamp_ns, frame=f'/{CAMERA}'))
    assert (g.health.base_frame, g.health.optical_frame) == ('base_link', CAMERA)
    told = Odometry(child_frame_id='/base_link')
    told.header.stamp = time_message(START_NS)
    wheels.publish(told)
    g.until(lambda: g.node.worker.odometry._stamps_ns)


def test_each_frame_has_its_transforms_at_its_own_stamp_and_they_compose(graph):
    # Refined edges over drifting ones: the engine corrects its past, and map -> odom moves.
    g = graph(Script(drift=0.1, refine_at={8, 14})).start()
    transforms = g.listen_tf()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    odometry = g.listen('/r3/odometry', Odometry)
    stamps = g.send_many(18)
    g.until(lambda: len(poses) == len(odometry) == 18)
    g.until(lambda: at(transforms, CAMERA, stamps[-1]))
    assert edges(transforms) == {('map', 'odom'), ('odom', CAMERA)}
    corrections = []
    for stamp_ns, pose, odom in zip(stamps, poses, odometry, strict=True):
        (map_odom,) = at(transforms, 'odom', stamp_ns)
        (odom_base,) = at(transforms, CAMERA, stamp_ns)
        T_map_odom = matrix_from_transform(map_odom.transform)
        T_odom_base = matrix_from_transform(odom_base.transform)
        np.testing.assert_allclose(T_map_odom @ T_odom_base, matrix(pose.pose.pose), atol=1e-9)
        np.testing.assert_allclose(T_odom_base, matrix(odom.pose.pose), atol=1e-9)
        corrections.append(np.linalg.norm(T_map_odom[:3, 3]))
    assert max(corrections[:8]) < 1e-9 < corrections[-1]


def test_odom_is_continuous_where_map_jumps(graph):
    # For 15 frames the world is 30 % too large, then the engine learns better.
    script = Script(drift=0.3, refine_at={15})
    g = graph(script).start()
    odometry = g.listen('/r3/odometry', Odometry)
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    stamps = g.send_many(15)
    script.drift = 0.0
    stamps += g.send_many(5)
    g.until(lambda: len(odometry) == len(poses) == 20)

    def step(messages, i):
        T_before, T_after = (matrix(messages[j].pose.pose) for j in (i - 1, i))
        return np.linalg.norm((inverse(T_before) @ T_after)[:3, 3])

    for i in range(1, 20):
        T_true = inverse(truth(script.path, stamps[i - 1])) @ truth(script.path, stamps[i])
        assert step(odometry, i) < 1.5 * np.linalg.norm(T_true[:3, 3])
    assert step(poses, 15) > 3 * np.linalg.norm(T_true[:3, 3]), 'map did jump'


def test_tf2_finds_the_pose_of_each_image(graph):
    g = graph().start()
    transforms = g.listen_tf()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    stamps = g.send_many(5)
    g.until(lambda: len(poses) == 5 and at(transforms, CAMERA, stamps[-1]))
    buffer = Buffer()
    for transform in transforms:
        buffer.set_transform(transform, 'test')
    for stamp_ns, pose in zip(stamps, poses, strict=True):
        time = Time.from_msg(time_message(stamp_ns))
        found = buffer.lookup_transform('map', CAMERA, time)
        np.testing.assert_allclose(
            matrix_from_transform(found.transform), matrix(pose.pose.pose), atol=1e-9
        )


def test_transforms_go_out_before_what_refers_to_them(graph):
    g = graph().start()
    order = []
    authority, outputs = g.node.worker.authority, g.node.worker.outputs
    broadcast, publish = authority._broadcaster.sendTransform, outputs.publish
    authority._broadcaster.sendTransform = lambda t: (order.append('tf'), broadcast(t))
    outputs.publish = lambda topic, m: (order.append(topic), publish(topic, m))
    g.node._set_tf_timer(0.0)
    g.send()
    g.until(lambda: 'status' in order)
    wanted = [item for item in order if item in ('tf', 'pose', 'odometry', 'status')]
    assert wanted[-4:] == ['tf', 'pose', 'odometry', 'status']


def test_nothing_is_broadcast_before_the_first_estimate(graph):
    g = graph().start()
    transforms = g.listen_tf()
    g.send(image_message(START_NS, encoding='lsd9'))
    g.node.worker.authority.repeat()
    g.call(Trigger, '/r3/reset')
    assert transforms == []


def test_map_to_odom_is_repeated_ahead_of_the_newest_image(graph):
    g = graph(tf_publish_rate=100.0, transform_tolerance=0.3).start()
    transforms = g.listen_tf()
    stamp_ns = g.send()
    ahead_ns = stamp_ns + 300_000_000
    repeated = lambda: [t for t in transforms if stamp_ns_of(t.header.stamp) > ahead_ns]  # noqa: E731
    g.until(lambda: len(repeated()) >= 4)
    assert edges(repeated()) == {('map', 'odom')}
    stamps = [stamp_ns_of(t.header.stamp) for t in repeated()]
    # tf2 passes over repeated stamps with a warning, so each is a nanosecond later.
    assert stamps == [ahead_ns + 1 + i for i in range(len(stamps))]


def test_no_stamp_of_map_to_odom_is_used_twice_for_an_image_that_takes_long(graph):
    g = graph(tf_publish_rate=0.0).start()
    transforms = g.listen_tf()
    stamp_ns = g.send() + PERIOD_NS
    # As the timer does between the arrival of the image and its pose.
    g.node.worker.authority.note_image(stamp_ns)
    g.node.worker.authority.repeat()
    assert g.send() == stamp_ns

    def stamps():
        return [stamp_ns_of(t.header.stamp) for t in transforms if t.child_frame_id == 'odom']

    g.until(lambda: len(stamps()) >= 5)
    assert len(set(stamps())) == len(stamps())


def test_without_a_rate_map_to_odom_comes_with_each_frame_alone(graph):
    g = graph(tf_publish_rate=0.0).start()
    transforms = g.listen_tf()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    g.send_many(3)
    g.until(lambda: len(poses) == 3)
    assert len(transforms) == 9
    (result,) = g.set_parameters(tf_publish_rate=50.0)
    assert result.successful
    g.until(lambda: len(transforms) > 12)


@pytest.mark.parametrize(
    ('map_odom', 'odom_base', 'expected'),
    [
        (True, True, {('map', 'odom'), ('odom', CAMERA)}),
        (False, True, {('odom', CAMERA)}),
        (False, False, set()),
    ],
)
def test_modes(graph, map_odom, odom_base, expected):
    g = graph(publish_map_to_odom_tf=map_odom, publish_odom_to_base_tf=odom_base).start()
    transforms = g.listen_tf() if expected else []
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    g.send_many(3)
    g.until(lambda: len(poses) == 3)
    g.until(lambda: edges(transforms) >= expected)
    assert edges(transforms) == expected


def test_a_lost_camera_keeps_map_to_odom_and_loses_odom_to_base(graph):
    g = graph(Script(blackouts=set(range(3, 40))), tf_publish_rate=50.0).start()
    g.send_many(8)
    assert g.health.state is StreamState.LOST
    transforms = g.listen_tf()
    stamp_ns = g.send()
    g.until(lambda: len([t for t in transforms if stamp_ns_of(t.header.stamp) > stamp_ns]) > 2)
    assert edges(transforms) == {('map', 'odom')}


def test_a_pause_keeps_map_to_odom_at_the_time_of_the_images(graph):
    g = graph(tf_publish_rate=50.0).start()
    g.send_many(3)
    assert g.call(SetBool, '/r3/pause', SetBool.Request(data=True)).success
    transforms = g.listen_tf()
    g.stamp_ns += SECOND_NS
    stamp_ns = g.send()
    g.until(lambda: any(stamp_ns_of(t.header.stamp) > stamp_ns for t in transforms))
    assert edges(transforms) == {('map', 'odom')}


def test_reset_starts_odom_and_map_at_the_origin_again(graph):
    g = graph().start()
    g.send_many(6)
    g.call(Trigger, '/r3/reset')
    transforms = g.listen_tf()
    stamp_ns = g.send()
    g.until(lambda: at(transforms, CAMERA, stamp_ns))
    (map_odom,) = at(transforms, 'odom', stamp_ns)
    (odom_base,) = at(transforms, CAMERA, stamp_ns)
    np.testing.assert_allclose(matrix_from_transform(map_odom.transform), np.eye(4), atol=1e-9)
    np.testing.assert_allclose(
        matrix_from_transform(odom_base.transform), make_T(R_BODY_OPTICAL, np.zeros(3)), atol=1e-9
    )


def test_a_named_base_is_looked_up_and_the_map_starts_in_it(graph):
    g = configured(graph, base_frame='base_link', tf_lookup_timeout=5.0)
    announce(g, 'base_link', CAMERA, T_BASE_OPTICAL)
    activated(g)
    transforms = g.listen_tf()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    stamps = g.send_many(6)
    g.until(lambda: len(poses) == 6)
    np.testing.assert_allclose(matrix(poses[0].pose.pose), np.eye(4), atol=1e-9)
    assert edges(transforms) == {('map', 'odom'), ('odom', 'base_link')}
    for stamp_ns, pose in zip(stamps, poses, strict=True):
        expected = T_BASE_OPTICAL @ truth(g.script.path, stamp_ns) @ inverse(T_BASE_OPTICAL)
        np.testing.assert_allclose(matrix(pose.pose.pose), expected, atol=1e-6)


def test_without_the_transform_to_the_base_nothing_goes_out_until_it_comes(graph):
    g = configured(graph, base_frame='base_link', diagnostics__period=0.1)
    activated(g)
    transforms = g.listen_tf()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    diagnostics = g.listen('/diagnostics', DiagnosticArray)
    g.send_many(3)
    assert g.health.state is StreamState.WAITING_TF
    assert g.health.frames_rejected == 3 and 'base_link' in g.health.last_reject_reason
    g.until(lambda: any('base_link' in s.message for m in diagnostics for s in m.status))
    assert not poses and not transforms
    announce(g, 'base_link', CAMERA, T_BASE_OPTICAL)
    g.send()
    g.until(lambda: poses)


def test_the_top_of_the_drivers_frames_becomes_the_base(graph):
    g = configured(graph)
    T_link_optical = make_T(R_BODY_OPTICAL, [0.0, 0.02, 0.0])
    keep = [
        announce(g, 'camera_link', 'camera_frame', np.eye(4)),
        announce(g, 'camera_frame', CAMERA, T_link_optical),
    ]
    activated(g)
    transforms = g.listen_tf()
    g.send_many(2)
    g.until(lambda: len(transforms) > 3)
    assert len(keep) == 2
    assert edges(transforms) == {('map', 'odom'), ('odom', 'camera_link')}


def test_frames_of_the_driver_that_come_late_are_taken_over(graph):
    g = graph().start()
    g.send_many(3)
    assert g.health.base_frame == CAMERA
    announce(g, 'camera_link', CAMERA, make_T(R_BODY_OPTICAL, np.zeros(3)))
    transforms = g.listen_tf()
    stamp_ns = g.send()
    g.until(lambda: at(transforms, 'camera_link', stamp_ns))
    assert (g.health.base_frame, g.transform_health.two_parents) == ('camera_link', '')
    assert not at(transforms, CAMERA, stamp_ns)
    session = g.node.worker.engine.session
    assert (session.session_id, session.frame_count) == (1, 1)


def test_map_and_odom_are_no_base(graph):
    # A camera whose parent is odom, as another odometry would broadcast.
    g = configured(graph)
    announce(g, 'odom', CAMERA, np.eye(4))
    activated(g)
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    transforms = []
    g.send_many(2)
    g.until(lambda: len(poses) == 2)
    assert g.health.base_frame == CAMERA
    assert transforms == []


def test_an_edge_of_somebody_else_is_refused_and_reported(graph, capfd):
    g = configured(graph, diagnostics__period=0.1)
    other = TransformBroadcaster(g.probe)
    other.sendTransform(transform_message(START_NS, 'map', 'odom', np.eye(4)))
    g.until(lambda: g.transform_health.two_parents)
    activated(g)
    transforms = g.listen_tf()
    diagnostics = g.listen('/diagnostics', DiagnosticArray)
    g.send_many(3)
    g.until(lambda: any(t.child_frame_id == CAMERA for t in transforms))
    assert edges(transforms) == {('odom', CAMERA)}
    assert 'frame has one parent' in capfd.readouterr().err
    g.until(lambda: any('another node' in s.message for m in diagnostics for s in m.status))


def test_our_own_transforms_are_not_taken_for_those_of_others(graph):
    g = graph(tf_publish_rate=100.0).start()
    transforms = g.listen_tf()
    g.send_many(10)
    g.until(lambda: len(transforms) > 40)
    assert g.transform_health.two_parents == ''


def test_the_frame_of_the_images_can_be_replaced(graph):
    g = graph(camera_optical_frame='left_eye').start()
    transforms = g.listen_tf()
    g.send(image_message(START_NS + PERIOD_NS, frame='nonsense'))
    g.until(lambda: transforms)
    assert edges(transforms) == {('map', 'odom'), ('odom', 'left_eye')}


@pytest.mark.slow
def test_odom_goes_on_over_a_loss_and_where_a_loop_closes(graph):
    # Once round and on: edges turn too far, and for a while nothing is seen.
    script = loop_script(40.0, turn_drift=0.004, blackouts=set(range(60, 64)))
    parameters = {name.replace('.', '__'): value for name, value in CONFIG.items()}
    g = graph(script, **parameters).start()
    odometry = g.listen('/r3/odometry', Odometry, 500)
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped, 500)
    stamps = g.send_many(200)
    g.until(lambda: poses and stamp_ns_of(poses[-1].header.stamp) == stamps[-1])
    g.until(lambda: len(odometry) == len(poses))
    session = g.node.worker.engine.session
    assert session.loops_closed >= 1 and session.map_revision >= 1
    published = [stamp_ns_of(m.header.stamp) for m in odometry]
    assert stamps[62] not in published, 'it was lost'
    jumps = []
    for i in range(1, len(published)):
        T_true = inverse(script.path(published[i - 1])) @ script.path(published[i])
        true = np.linalg.norm(T_true[:3, 3])
        step, jump = (
            np.linalg.norm((matrix(m[i].pose.pose) - matrix(m[i - 1].pose.pose))[:3, 3])
            for m in (odometry, poses)
        )
        assert step < 1.5 * true
        jumps.append(jump / true)
    assert max(jumps) > 2.0, 'map did jump'
    # z of map is up: the walk is at constant height.
    assert np.ptp([p.pose.pose.position.z for p in poses]) < 1e-3
