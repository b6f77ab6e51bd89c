"""Stamps and clocks that repeat, go back, or are missing."""

from geometry_msgs.msg import PoseWithCovarianceStamped
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from nav_msgs.msg import Odometry, Path
from r3_ros.msg import StreamStatus
from r3_ros.ros.outputs.health import StreamState
from r3_ros.ros.outputs.messages import stamp_ns_of, time_message
from ros_graph import image_message, LATCHED, PERIOD_NS
from rosgraph_msgs.msg import Clock
from scripted import SECOND_NS, START_NS
from sensor_msgs.msg import PointCloud2

pytestmark = pytest.mark.ros


def test_repeated_and_late_stamps_are_dropped(graph):
    g = graph().start()
    first, second = g.send_many(2)
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    g.send(image_message(second))
    g.send(image_message(first + PERIOD_NS // 2))
    g.stamp_ns = second + PERIOD_NS
    g.send()
    g.until(lambda: poses)
    assert len(poses) == 1
    assert g.health.frames_rejected == 2


def test_time_that_jumps_back_starts_a_new_session(graph):
    g = graph().start()
    g.send_many(5)
    maps = g.listen('/r3/map_points', PointCloud2, LATCHED)
    paths = g.listen('/r3/path', Path, LATCHED)
    statuses = g.listen('/r3/status', StreamStatus)
    g.until(lambda: maps and maps[-1].width)
    g.stamp_ns = START_NS - 10 * SECOND_NS
    back_ns = g.send()
    g.until(lambda: any(m.width == 0 for m in maps) and any(not p.poses for p in paths))
    g.until(lambda: statuses and statuses[-1].frames_processed == 6)
    assert statuses[-1].session_id == 1 and statuses[-1].frame_index == 1
    assert stamp_ns_of(statuses[-1].header.stamp) == back_ns
    assert g.predictor.resets == 1


def test_a_clock_that_jumps_back_starts_a_new_session_once(graph):
    g = graph(use_sim_time=True).start()
    clock = g.probe.create_publisher(Clock, '/clock', 10)
    g.until(lambda: clock.get_subscription_count() == 1)

    def set_clock(stamp_ns):
        clock.publish(Clock(clock=time_message(stamp_ns)))
        g.until(lambda: g.node.get_clock().now().nanoseconds == stamp_ns)

    set_clock(START_NS)
    g.send_many(3)
    back_ns = START_NS - 100 * SECOND_NS
    set_clock(back_ns)
    g.until(lambda: g.node.worker.engine.session.session_id == 1)
    g.send(image_message(back_ns))
    session = g.node.worker.engine.session
    assert (session.session_id, session.frame_count) == (1, 1)
    # The other way round: first the images jump, then the clock.
    g.send(image_message(back_ns - 50 * SECOND_NS))
    set_clock(back_ns - 50 * SECOND_NS)
    g.send(image_message(back_ns - 49 * SECOND_NS))
    session = g.node.worker.engine.session
    assert (session.session_id, session.frame_count) == (2, 2)


@pytest.mark.parametrize(('action', 'state'), [('ignore', 'TRACKING'), ('error', 'FAULT')])
def test_other_answers_to_a_jump_back(graph, action, state):
    g = graph(input__on_time_jump_back=action).start()
    g.send_many(5)
    g.stamp_ns = START_NS - 10 * SECOND_NS
    g.send()
    assert g.health.state.name == state
    assert g.health.frames_processed == 5 and g.health.frames_rejected == 1
    if action == 'error':
        g.until(lambda: g.images.get_subscription_count() == 0)
        return
    g.stamp_ns = START_NS + 10 * PERIOD_NS
    g.send()
    assert g.health.frames_processed == 6


def test_zero_stamp_takes_the_time_of_arrival_and_says_so(graph):
    g = graph().start()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    statuses = g.listen('/r3/status', StreamStatus)
    g.send(image_message(0))
    g.until(lambda: poses and statuses and statuses[-1].frames_processed)
    assert stamp_ns_of(poses[0].header.stamp) > START_NS
    assert 'no stamp' in statuses[-1].state_reason


@pytest.mark.slow
def test_a_recording_in_a_loop_begins_anew_each_time(graph):
    g = graph().start()
    statuses = g.listen('/r3/status', StreamStatus)
    for loop in range(3):
        g.stamp_ns = START_NS
        g.send_many(8)
        session = g.node.worker.engine.session
        assert (session.session_id, session.frame_count) == (loop, 8)
        assert g.health.state is StreamState.TRACKING
    g.until(lambda: statuses and statuses[-1].frames_processed == 24)
    assert (statuses[-1].session_id, statuses[-1].frames_rejected) == (2, 0)


def test_a_jump_that_is_ignored_drops_images_until_time_is_back(graph):
    g = graph(input__on_time_jump_back='ignore').start()
    last_ns = g.send_many(3)[-1]
    g.stamp_ns = last_ns - 10 * SECOND_NS
    g.send_many(3)
    assert g.health.frames_rejected == 3
    assert g.health.last_reject_reason.startswith('earlier than frames before')
    g.stamp_ns = last_ns + PERIOD_NS
    g.send()
    session = g.node.worker.engine.session
    assert (session.session_id, session.frame_count) == (0, 4)


@pytest.mark.parametrize(('action', 'state'), [('ignore', 'TRACKING'), ('error', 'FAULT')])
def test_other_answers_to_a_clock_that_jumps_back(graph, action, state):
    g = graph(use_sim_time=True, input__on_time_jump_back=action).start()
    clock = g.probe.create_publisher(Clock, '/clock', 10)
    g.until(lambda: clock.get_subscription_count() == 1)

    def set_clock(stamp_ns):
        clock.publish(Clock(clock=time_message(stamp_ns)))
        g.until(lambda: g.node.get_clock().now().nanoseconds == stamp_ns)

    set_clock(START_NS)
    g.send_many(3)
    set_clock(START_NS - 100 * SECOND_NS)
    if action == 'error':
        g.until(lambda: g.health.state is StreamState.FAULT)
    else:
        g.send()
    assert g.health.state.name == state
    assert g.node.worker.engine.session.session_id == 0


def test_after_a_gap_the_camera_proves_itself_and_odometry_claims_nothing(graph):
    g = graph(tracking__recover_frames=2).start()
    odometry = g.listen('/r3/odometry', Odometry)
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    g.send_many(3)
    g.until(lambda: len(odometry) == 3)
    assert odometry[-1].twist.covariance[0] < 1e6
    # The circle closes every 20 s: the same place again.
    g.stamp_ns += 20 * SECOND_NS
    g.send()
    assert g.health.state is StreamState.RECOVERING
    while len(odometry) < 5:
        g.send()
        g.executor.spin_once(timeout_sec=0.2)
    assert g.health.state is StreamState.TRACKING
    first_after, next_after = odometry[3:5]
    for part in (first_after.twist, first_after.pose):
        np.testing.assert_allclose(np.diag(np.reshape(part.covariance, (6, 6))), 1e6)
    # What was followed since, and where that is in map, is known as before.
    g.until(lambda: len(poses) >= 5)
    for known in (next_after.twist, next_after.pose, poses[3].pose):
        assert np.diag(np.reshape(known.covariance, (6, 6))).max() < 1.0


def test_images_without_a_stamp_are_reported_once(graph, capfd):
    g = graph().start()
    for _ in range(3):
        g.send(image_message(0))
    assert g.health.frames_processed == 3
    assert capfd.readouterr().err.count('images have no stamp') == 1
