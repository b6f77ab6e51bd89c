"""Correcting a robot's odometry: map -> odom from the robot's own odom -> base, at the stamp."""

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
import numpy as np
import pytest
from r3_ros.core.errors import TransformError
from r3_ros.core.geometry import inverse, make_T, R_BODY_OPTICAL
from r3_ros.msg import StreamStatus
from r3_ros.ros.outputs import diagnostics as diagnostics_module
from r3_ros.ros.outputs.health import StreamState
from r3_ros.ros.outputs.messages import (
    matrix_from_transform,
    stamp_ns_of,
    time_message,
    transform_message,
)
from r3_ros.srv import SetScale
from rclpy.time import Time
from ros_graph import image_message, matrix, PERIOD_NS
from ros_robot import activate, at, BASE, navigating, Robot, T_BASE_OPTICAL, T_ODOM_FIRST
from scipy.spatial.transform import Rotation
from scripted import circle, Script, SECOND_NS, START_NS
from std_srvs.srv import SetBool, Trigger
from tf2_ros import Buffer

pytestmark = pytest.mark.ros


def task_of(messages, name):
    return next(s for s in messages[-1].status if s.name == f'r3: {name}')


def values_of(messages, name):
    return {pair.key: pair.value for pair in task_of(messages, name).values}


def test_map_odom_and_the_robots_odom_base_give_the_estimate_at_the_stamp(graph):
    # The engine corrects its past on the way, and the robot's odometry drifts.
    g, robot = navigating(graph, Script(drift=0.1, refine_at={8, 14}))
    transforms = g.listen_tf()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    stamps = robot.drive(18)
    g.until(lambda: len(poses) == 18 and at(transforms, 'odom', stamps[-1]))
    buffer = Buffer()
    for transform in transforms:
        buffer.set_transform(transform, 'test')
    for stamp_ns, pose in zip(stamps, poses, strict=True):
        assert stamp_ns_of(pose.header.stamp) == stamp_ns
        (T_map_odom,) = at(transforms, 'odom', stamp_ns)
        # tf2 interpolates the robot's odometry: nothing was reported at the stamp itself.
        assert not at(transforms, BASE, stamp_ns)
        when = Time.from_msg(time_message(stamp_ns))
        T_odom_base = matrix_from_transform(buffer.lookup_transform('odom', BASE, when).transform)
        np.testing.assert_allclose(T_map_odom @ T_odom_base, matrix(pose.pose.pose), atol=1e-9)
        whole = matrix_from_transform(buffer.lookup_transform('map', BASE, when).transform)
        np.testing.assert_allclose(whole, matrix(pose.pose.pose), atol=1e-9)
    # The map starts at the robot, wherever its odometry is.
    np.testing.assert_allclose(matrix(poses[0].pose.pose), np.eye(4), atol=1e-9)
    assert not [t for t in transforms if t.child_frame_id == 'camera_optical']
    assert g.transform_health.failures == 0 and g.transform_health.two_parents == ''


def test_odometry_that_comes_after_the_image_is_waited_for_and_tracking_goes_on(graph):
    g, robot = navigating(graph, tf_lookup_timeout=5.0)
    transforms = g.listen_tf()
    robot.tell(START_NS - PERIOD_NS)
    stamps = g.send_many(4)
    # All are tracked; none has waited for the robot.
    assert g.health.frames_processed == 4 and g.transform_health.failures == 0
    assert not [t for t in transforms if t.child_frame_id == 'odom']
    robot.tell(stamps[1] + 1)
    g.until(lambda: at(transforms, 'odom', stamps[1]))
    assert not at(transforms, 'odom', stamps[2])
    robot.tell(stamps[3])
    g.until(lambda: at(transforms, 'odom', stamps[3]))
    exact = [s for t in transforms if t.child_frame_id == 'odom'
             and (s := stamp_ns_of(t.header.stamp)) in stamps]  # fmt: skip
    assert exact == stamps
    assert g.transform_health.failures == 0


def test_without_the_robots_odometry_nothing_new_is_sent_and_the_last_goes_on(graph, capfd):
    g, robot = navigating(graph, tf_lookup_timeout=0.05, diagnostics__period=0.1)
    robot.drive(5)
    last = g.node.worker.authority.T_map_odom.copy()
    transforms = g.listen_tf()
    received = g.listen('/diagnostics', DiagnosticArray)
    early_ns = g.send_many(3)
    g.until(lambda: g.transform_health.failures == 3)
    newest_ns = early_ns[-1] + SECOND_NS // 10
    g.until(lambda: any(stamp_ns_of(t.header.stamp) > newest_ns for t in transforms))
    sent = [t for t in transforms if t.child_frame_id == 'odom']
    assert sent and not any(at(transforms, 'odom', stamp_ns) for stamp_ns in early_ns)
    for transform in sent:
        T = matrix_from_transform(transform.transform)
        np.testing.assert_allclose(T, last, atol=1e-12)
    g.until(lambda: received and values_of(received, 'tf')['lookup_failures'] == '3')
    values = values_of(received, 'tf')
    assert task_of(received, 'tf').level == DiagnosticStatus.WARN
    assert values['mode'] == 'navigation'
    assert 'extrapolation into the future' in values['last_lookup_error']
    error = capfd.readouterr().err
    assert 'map -> odom is not updated' in error and 'tf_lookup_failures: 1' in error
    assert 'tf_lookup_failures: 2' not in error, 'the warning is throttled'
    # It comes back as if nothing had been.
    (stamp_ns,) = robot.drive(1)
    g.until(lambda: at(transforms, 'odom', stamp_ns))
    assert not np.array_equal(at(transforms, 'odom', stamp_ns)[0], last)


def test_a_robot_that_never_tells_gets_poses_and_no_transform(graph):
    g, _ = navigating(graph, tf_lookup_timeout=0.0, tf_publish_rate=100.0)
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    odometry = g.listen('/r3/odometry', Odometry)
    transforms = g.listen_tf()
    g.send_many(4)
    g.until(lambda: len(poses) == 4)
    assert g.transform_health.failures == 4
    assert not transforms and not odometry, 'the pose of odom is unknown'


@pytest.mark.slow
def test_our_own_odometry_starts_where_the_robots_was_and_never_jumps(graph):
    script = Script(drift=0.3, refine_at={15})
    g, robot = navigating(graph, script)
    odometry = g.listen('/r3/odometry', Odometry)
    stamps = robot.drive(15)
    script.drift = 0.0
    stamps += robot.drive(5)
    g.until(lambda: len(odometry) == 20)
    assert {(m.header.frame_id, m.child_frame_id) for m in odometry} == {('odom', BASE)}
    first = matrix(odometry[0].pose.pose)
    np.testing.assert_allclose(first, T_ODOM_FIRST, atol=1e-3)
    # The camera's own steps, 30 % too long at first, not those of the robot.
    cameras = [matrix(m.pose.pose) @ T_BASE_OPTICAL for m in odometry]
    trues = [robot.T_first_base(stamp_ns) @ T_BASE_OPTICAL for stamp_ns in stamps]
    for i in range(1, 20):
        step, true = (np.linalg.norm((inverse(T[i - 1]) @ T[i])[:3, 3]) for T in (cameras, trues))
        assert step == pytest.approx((1.3 if i < 15 else 1.0) * true, rel=0.02)


def test_a_reset_keeps_the_robot_where_it_is_in_map(graph):
    g, robot = navigating(graph, Script(drift=0.1))
    robot.drive(6)
    before = g.node.worker.authority.T_map_odom.copy()
    assert not np.allclose(before, inverse(T_ODOM_FIRST), atol=1e-3)
    transforms = g.listen_tf()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    assert g.call(Trigger, '/r3/reset').success
    # Between the sessions nav2 still has its frame.
    g.until(lambda: len([t for t in transforms if t.child_frame_id == 'odom']) > 2)
    (stamp_ns,) = robot.drive(1)
    g.until(lambda: poses)
    assert g.node.worker.engine.session.session_id == 1
    T_odom_base = robot.T_odom_base(stamp_ns)
    np.testing.assert_allclose(matrix(poses[0].pose.pose), before @ T_odom_base, atol=1e-3)
    for transform in transforms:
        if transform.child_frame_id == 'odom':
            np.testing.assert_allclose(
                matrix_from_transform(transform.transform), before, atol=1e-9
            )


def test_after_a_reset_no_pose_goes_out_before_the_robot_tells_where_it_is(graph):
    g, robot = navigating(graph, tf_lookup_timeout=0.02)
    robot.drive(4)
    before = g.node.worker.authority.T_map_odom.copy()
    assert g.call(Trigger, '/r3/reset').success
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    g.send_many(2)
    assert g.health.state is StreamState.INITIALIZING
    assert 'needed to keep the robot' in g.health.reason and g.transform_health.failures == 2
    assert not poses
    (stamp_ns,) = robot.drive(1)
    g.until(lambda: poses)
    expected = before @ robot.T_odom_base(stamp_ns)
    np.testing.assert_allclose(matrix(poses[0].pose.pose), expected, atol=1e-3)
    assert g.node.worker.engine.session.frame_count == 3, 'tracking did not wait'


@pytest.mark.slow
def test_time_that_jumps_back_keeps_no_place(graph):
    g, robot = navigating(graph)
    robot.drive(6)
    g.stamp_ns = START_NS - 20 * SECOND_NS
    transforms = g.listen_tf()
    g.send()
    assert g.node.worker.engine.session.session_id == 1
    assert g.node.worker.authority.T_map_odom is None
    (stamp_ns,) = robot.drive(1)
    g.until(lambda: at(transforms, 'odom', stamp_ns))


@pytest.mark.parametrize('state', ['LOW_CONFIDENCE', 'LOST', 'PAUSED', 'RECOVERING'])
def test_map_odom_goes_on_in_every_state(graph, state):
    scripts = {
        'LOW_CONFIDENCE': Script(droughts={6}, drought_score=0.3),
        'LOST': Script(blackouts=set(range(4, 40))),
        'RECOVERING': Script(blackouts={4, 5, 6, 7}),
    }
    g, robot = navigating(graph, scripts.get(state), tf_publish_rate=50.0)
    if state == 'PAUSED':
        robot.drive(3)
        assert g.call(SetBool, '/r3/pause', SetBool.Request(data=True)).success
    while g.health.state is not StreamState[state]:
        (stamp_ns,) = robot.drive(1)
        assert stamp_ns < START_NS + 20 * PERIOD_NS
    transforms = g.listen_tf()
    stamp_ns = g.stamp_ns - PERIOD_NS
    ahead_ns = stamp_ns + SECOND_NS // 10

    def repeated():
        return [t for t in transforms if stamp_ns_of(t.header.stamp) > ahead_ns]

    g.until(lambda: len(repeated()) > 3)
    assert {t.child_frame_id for t in repeated()} == {'odom'}


@pytest.mark.slow
def test_map_odom_grows_old_while_no_image_comes(graph):
    g, robot = navigating(graph, tf_publish_rate=100.0)
    stamp_ns = robot.drive(3)[-1]
    transforms = g.listen_tf()
    for i in range(1, 30):
        robot.tell(stamp_ns + i * PERIOD_NS)
    g.until(lambda: len([t for t in transforms if t.child_frame_id == 'odom']) > 10)
    ahead_ns = stamp_ns + SECOND_NS // 10
    received = [stamp_ns_of(t.header.stamp) for t in transforms if t.child_frame_id == 'odom']
    stamps = [s for s in received if s != stamp_ns]
    assert stamps == sorted(set(stamps))
    assert all(ahead_ns < s < ahead_ns + 1_000_000 for s in stamps), 'the robot has moved on'


def test_no_correction_before_the_scale_is_known(graph, monkeypatch, capfd):
    monkeypatch.setattr(diagnostics_module, '_LONG_WITHOUT_METRES_S', 0.3)
    g, robot = navigating(graph, scale__source='none', diagnostics__period=0.1)
    assert 'it waits for ~/set_scale' in capfd.readouterr().err
    transforms = g.listen_tf()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    received = g.listen('/diagnostics', DiagnosticArray)
    statuses = g.listen('/r3/status', StreamStatus)
    robot.drive(3)
    g.until(lambda: len(poses) == 3 and statuses and statuses[-1].frames_processed == 3)
    assert not any(t.child_frame_id == 'odom' for t in transforms)
    assert 'waits for metres' in statuses[-1].state_reason
    g.until(lambda: received and task_of(received, 'scale').level == DiagnosticStatus.ERROR)
    assert '~/set_scale' in task_of(received, 'scale').message
    answer = g.call(SetScale, '/r3/set_scale', SetScale.Request(scale=2.0, lock=True))
    assert answer.success, answer.message
    (stamp_ns,) = robot.drive(1)
    g.until(lambda: at(transforms, 'odom', stamp_ns))
    g.until(lambda: task_of(received, 'scale').level == DiagnosticStatus.OK)


def test_map_units_may_be_taken_for_metres_on_request(graph, capfd):
    parameters = {'scale__source': 'none', 'scale__require_metric_for_tf': False}
    g, robot = navigating(graph, **parameters)
    assert 'uses map units as metres' in capfd.readouterr().err
    transforms = g.listen_tf()
    (stamp_ns,) = robot.drive(1)
    g.until(lambda: at(transforms, 'odom', stamp_ns))


def test_an_image_without_a_stamp_is_never_paired_with_the_newest_odometry(graph):
    g, robot = navigating(graph, tf_lookup_timeout=0.0)
    robot.tell(START_NS, START_NS + PERIOD_NS)
    g.send(image_message(0))
    g.until(lambda: g.transform_health.failures == 1)
    assert g.node.worker.authority.T_map_odom is None
    # To tf2 the time 0 is the newest there is.
    with pytest.raises(TransformError, match='at time 0'):
        g.node.worker.tree.pose('odom', BASE, 0)


@pytest.mark.slow
def test_planar_leaves_map_odom_flat_and_the_base_where_it_was_seen(graph):
    # The camera's way rises and rolls; the robot's odometry is tilted by a slope.
    def path(stamp_ns):
        T = circle()(stamp_ns)
        lift = (stamp_ns - START_NS) / SECOND_NS
        tilt = Rotation.from_euler('zx', [0.1 * lift, 0.05 * lift]).as_matrix()
        return make_T(T[:3, :3] @ tilt, T[:3, 3] - [0.0, 0.1 * lift, 0.0])

    g, robot = navigating(graph, Script(path=path), planar=True)
    slope = Rotation.from_euler('ZYX', [0.7, 0.08, -0.05]).as_matrix()
    robot.T_odom_first = make_T(slope, [30.0, -20.0, 1.0])
    transforms = g.listen_tf()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    stamps = robot.drive(10)
    g.until(lambda: len(poses) == 10 and at(transforms, 'odom', stamps[-1]))
    buffer = Buffer()
    for transform in transforms:
        buffer.set_transform(transform, 'test')
    for stamp_ns, pose in zip(stamps, poses, strict=True):
        (T_map_odom,) = at(transforms, 'odom', stamp_ns)
        np.testing.assert_allclose(T_map_odom[2], [0, 0, 1, 0], atol=1e-12)
        when = Time.from_msg(time_message(stamp_ns))
        T = matrix_from_transform(buffer.lookup_transform('map', BASE, when).transform)
        estimate = matrix(pose.pose.pose)
        np.testing.assert_allclose(T[:2, 3], estimate[:2, 3], atol=1e-9)
        yaw, expected = (
            Rotation.from_matrix(each[:3, :3]).as_euler('ZYX')[0] for each in (T, estimate)
        )
        assert yaw == pytest.approx(expected, abs=1e-9)
    assert abs(estimate[2, 3]) > 0.05, 'the estimate itself is not flattened'
    # It may be changed while it runs.
    g.set_parameters(planar=False)
    (stamp_ns,) = robot.drive(1)
    g.until(lambda: at(transforms, 'odom', stamp_ns))
    assert abs(at(transforms, 'odom', stamp_ns)[0][2, 3]) > 0.01


def test_a_head_that_turns_is_heeded_where_the_camera_is_fixed_on_it(graph):
    # odom -> base_link -> head by joints, head -> camera fixed: the base is the head.
    g = graph(publish_odom_to_base_tf=False, scale__source='fixed', tf_lookup_timeout=5.0)
    assert g.turn('configure')
    robot = Robot(g)
    T_head_optical = make_T(R_BODY_OPTICAL, [0.05, 0.0, 0.1])
    robot.fixed.sendTransform(
        transform_message(START_NS, 'head', 'camera_optical', T_head_optical)
    )
    g.until(lambda: g.node.worker.tree.has_parent('camera_optical'))

    def T_base_head(stamp_ns):
        turn = 0.2 * (stamp_ns - START_NS) / SECOND_NS
        return make_T(Rotation.from_euler('z', turn).as_matrix(), [0.1, 0.0, 1.0])

    def tell(stamp_ns):
        joint = transform_message(stamp_ns, BASE, 'head', T_base_head(stamp_ns))
        robot.moving.sendTransform(joint)
        robot.tell(stamp_ns)

    activate(g)
    transforms = g.listen_tf()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    stamps = []
    for _ in range(5):
        tell(g.stamp_ns)
        stamps.append(g.send())
    g.until(lambda: len(poses) == 5 and at(transforms, 'odom', stamps[-1]))
    assert g.health.base_frame == 'head'
    for stamp_ns, pose in zip(stamps, poses, strict=True):
        (T_map_odom,) = at(transforms, 'odom', stamp_ns)
        T = T_map_odom @ robot.T_odom_base(stamp_ns) @ T_base_head(stamp_ns)
        np.testing.assert_allclose(T, matrix(pose.pose.pose), atol=1e-9)
