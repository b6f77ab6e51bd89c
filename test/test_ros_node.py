"""The node over real DDS with a scripted predictor: what comes out, and what never does."""

import threading

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from lifecycle_msgs.msg import State
from nav_msgs.msg import Odometry, Path
from r3_ros.errors import FrameError, ModelError
from r3_ros.msg import StreamStatus
from r3_ros.ros.health import StreamState
from r3_ros.ros.messages import (
    camera_info_message,
    header_message,
    stamp_ns_of,
    time_message,
)
from r3_ros.ros.name_lock import NameLock
from r3_ros.ros.outputs import TOPICS
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_graph import (
    BEST_EFFORT,
    CAMERA,
    Graph,
    image_message,
    LATCHED,
    matrix,
    PERIOD_NS,
)
from scripted import intrinsics, picture, Script, SECOND_NS, START_NS, straight, truth
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from sensor_msgs_py import point_cloud2

pytestmark = pytest.mark.ros


def state_of(graph):
    return graph.health.state


# What comes out.


def test_poses_are_those_of_the_path_at_the_stamps_of_the_pictures(graph):
    g = graph().start()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    odometry = g.listen('/r3/odometry', Odometry)
    stamps = g.send_many(12)
    g.until(lambda: len(poses) == len(odometry) == 12)
    assert [stamp_ns_of(m.header.stamp) for m in poses] == stamps
    assert [stamp_ns_of(m.header.stamp) for m in odometry] == stamps
    assert {m.header.frame_id for m in poses} == {'map'}
    assert {(m.header.frame_id, m.child_frame_id) for m in odometry} == {('odom', CAMERA)}
    T_map_world = g.node.stream.placing.chain.T_map_world
    for stamp_ns, message in zip(stamps, poses, strict=True):
        expected = T_map_world @ truth(g.script.path, stamp_ns)
        np.testing.assert_allclose(matrix(message.pose.pose), expected, atol=1e-6)
        covariance = np.reshape(message.pose.covariance, (6, 6))
        assert np.isfinite(covariance).all() and np.linalg.eigvalsh(covariance).min() > 0


def test_status_counts_and_tells_the_state(graph):
    g = graph().start()
    statuses = g.listen('/r3/status', StreamStatus)
    stamps = g.send_many(6)
    g.until(lambda: statuses and statuses[-1].frames_processed == 6)
    last = statuses[-1]
    assert stamp_ns_of(last.header.stamp) == stamps[-1]
    assert last.header.frame_id == CAMERA
    assert last.state == StreamStatus.STATE_TRACKING
    assert (last.frames_received, last.frames_processed, last.frame_index) == (6, 6, 6)
    assert (last.frames_dropped, last.frames_rejected) == (0, 0)
    assert last.keyframes_in_bank >= 1 and last.frames_in_context >= 1
    assert last.depth_valid_fraction == 1.0 and last.depth_confidence_median > 1.0
    assert last.confidence_ratio == pytest.approx(1.0)
    assert last.fov_x_model == pytest.approx(intrinsics().fov_x) and np.isnan(
        last.fov_x_calibrated
    )
    assert last.map_points > 0
    assert 0 <= last.time_wait < 10 and 0 < last.time_inference < 10


def test_status_is_published_when_the_state_changes_without_a_picture(graph):
    g = graph()
    assert g.turn('configure')
    statuses = g.listen('/r3/status', StreamStatus)
    assert g.turn('activate')
    g.until(lambda: statuses)
    assert statuses[0].state == StreamStatus.STATE_WAITING_INPUT


def test_clouds_and_depth_pair_with_their_frame(graph):
    g = graph().start()
    heard = {
        topic: g.listen(f'/r3/{topic}', TOPICS[topic][0])
        for topic in (
            'points', 'keyframe_points', 'depth/image', 'depth/camera_info', 'depth/confidence',
            'depth/preview', 'color/image', 'color/camera_info',
        )
    }  # fmt: skip
    stamp_ns = g.send()
    g.until(lambda: all(heard.values()))
    first = {topic: messages[0] for topic, messages in heard.items()}
    assert {stamp_ns_of(m.header.stamp) for m in first.values()} == {stamp_ns}
    frames = {topic: m.header.frame_id for topic, m in first.items()}
    assert frames.pop('keyframe_points') == 'map'
    assert set(frames.values()) == {CAMERA}
    depth = np.frombuffer(first['depth/image'].data, np.float32).reshape(24, 32)
    assert np.isfinite(depth).all()
    assert first['depth/image'].encoding == first['depth/confidence'].encoding == '32FC1'
    assert first['depth/preview'].encoding == first['color/image'].encoding == 'rgb8'
    K = intrinsics().resized(32, 24).K
    np.testing.assert_allclose(np.reshape(first['depth/camera_info'].k, (3, 3)), K)
    assert first['depth/camera_info'] == first['color/camera_info']
    # The cloud lies on the depth image.
    rows = point_cloud2.read_points(first['points'])
    u = np.rint(K[0, 0] * rows['x'] / rows['z'] + K[0, 2]).astype(int)
    v = np.rint(K[1, 1] * rows['y'] / rows['z'] + K[1, 2]).astype(int)
    assert len(rows) > 50
    np.testing.assert_allclose(depth[v, u], rows['z'], rtol=1e-6)
    # At the first frame the map is the camera turned level.
    placed = point_cloud2.read_points(first['keyframe_points'])
    np.testing.assert_allclose(placed['x'], rows['z'], atol=1e-6)
    np.testing.assert_allclose(placed['z'], -rows['y'], atol=1e-6)


def test_late_depth_keeps_the_stamp_of_its_own_frame(graph):
    g = graph(Script(depth_delay=2)).start()
    images = g.listen('/r3/depth/image', Image)
    stamps = g.send_many(4)
    g.until(lambda: len(images) == 2)
    assert [stamp_ns_of(m.header.stamp) for m in images] == stamps[:2]


def test_organized_cloud_on_request(graph):
    g = graph(points__organized=True).start()
    clouds = g.listen('/r3/points', PointCloud2)
    g.send()
    g.until(lambda: clouds)
    assert (clouds[0].height, clouds[0].width, clouds[0].is_dense) == (24, 32, False)


def test_late_joiners_get_map_and_path(graph):
    g = graph(map__publish_period=0.1).start()
    stamps = g.send_many(5)
    maps = g.listen('/r3/map_points', PointCloud2, LATCHED)
    paths = g.listen('/r3/path', Path, LATCHED)
    g.until(lambda: maps and maps[-1].width and paths and paths[-1].poses)
    assert maps[-1].header.frame_id == paths[-1].header.frame_id == 'map'
    assert {stamp_ns_of(p.header.stamp) for p in paths[-1].poses} <= set(stamps)
    again = g.listen('/r3/map_points', PointCloud2, LATCHED)
    g.until(lambda: again and again[-1].width == maps[-1].width)


def test_the_map_is_upright(graph):
    g = graph(Script(path=straight()), map__publish_period=0.1).start()
    maps = g.listen('/r3/map_points', PointCloud2, LATCHED)
    g.send_many(3)
    g.until(lambda: maps and maps[-1].width)
    rows = point_cloud2.read_points(maps[-1])
    # The wall ahead is 2 map units away along x; floor and ceiling are at z = -1.2 and 1.2.
    assert rows['x'].max() == pytest.approx(2.0, abs=1e-3)
    assert rows['z'].min() >= -1.2001 and rows['z'].max() <= 1.2001


@pytest.mark.parametrize('reliability', list(ReliabilityPolicy)[1:3], ids=lambda r: r.name)
def test_reliable_and_best_effort_partners_connect(graph, reliability):
    g = graph().start()
    qos = QoSProfile(depth=10, reliability=reliability)
    statuses = g.listen('/r3/status', StreamStatus, qos)
    g.probe.destroy_publisher(g.images)
    g.images = g.probe.create_publisher(Image, 'image', qos)
    g.until(lambda: g.images.get_subscription_count() == 1)
    stamp_ns = g.send()
    g.until(lambda: any(stamp_ns_of(status.header.stamp) == stamp_ns for status in statuses))
    assert statuses[-1].frames_processed == 1


def test_the_subscription_is_reliable_where_every_camera_is(graph):
    g = graph().start()

    def reliability():
        infos = g.probe.get_subscriptions_info_by_topic('/image')
        return [info.qos_profile.reliability for info in infos]

    g.until(lambda: reliability() == [ReliabilityPolicy.RELIABLE])
    g.until(lambda: g.images.get_subscription_count() == 1)
    g.send()
    second = g.probe.create_publisher(Image, 'image', BEST_EFFORT)
    g.until(lambda: reliability() == [ReliabilityPolicy.BEST_EFFORT])
    g.until(lambda: second.get_subscription_count() == 1)
    second.publish(image_message(g.stamp_ns))
    g.until(lambda: g.health.frames_processed == 2)
    assert g.health.incompatible_qos == {}


def test_every_topic_has_the_promised_type_and_qos(graph):
    g = graph().start()
    for topic, (kind, _, latched) in TOPICS.items():
        g.until(lambda name=f'/r3/{topic}': g.probe.count_publishers(name) == 1)
        (endpoint,) = g.probe.get_publishers_info_by_topic(f'/r3/{topic}')
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        assert endpoint.qos_profile.reliability == ReliabilityPolicy.RELIABLE, topic
        assert endpoint.qos_profile.durability == durability, topic
        package, _, name = endpoint.topic_type.split('/')
        assert (package, name) == (kind.__module__.split('.')[0], kind.__name__)
    assert {t for t, (*_, latched) in TOPICS.items() if latched} == {'path', 'map_points'}


def test_every_promised_service_exists_from_configure_on(graph):
    g = graph()
    assert g.turn('configure')
    services = dict(g.node.get_service_names_and_types_by_node('r3', '/'))
    promised = {
        'reset': 'std_srvs/srv/Trigger',
        'clear_map': 'std_srvs/srv/Trigger',
        'pause': 'std_srvs/srv/SetBool',
        'save_map': 'r3_ros/srv/SaveMap',
        'save_trajectory': 'r3_ros/srv/SaveTrajectory',
        'change_state': 'lifecycle_msgs/srv/ChangeState',
        'set_parameters': 'rcl_interfaces/srv/SetParameters',
    }
    for name, kind in promised.items():
        assert services[f'/r3/{name}'] == [kind]


def test_qos_can_be_overridden(graph):
    override = 'qos_overrides./r3/points.publisher.reliability'
    g = graph(arguments=('-p', f'{override}:=best_effort'))
    assert g.turn('configure')
    g.until(lambda: g.probe.count_publishers('/r3/points') == 1)
    (endpoint,) = g.probe.get_publishers_info_by_topic('/r3/points')
    assert endpoint.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT


def test_an_incompatible_publisher_is_named_in_diagnostics(graph):
    override = 'qos_overrides./image.subscription.reliability'
    g = graph(arguments=('-p', f'{override}:=reliable'), diagnostics__period=0.1)
    assert g.node.autostart()
    diagnostics = g.listen('/diagnostics', DiagnosticArray)
    g.probe.create_publisher(Image, 'image', BEST_EFFORT)

    def told():
        found = [s for m in diagnostics for s in m.status if s.name == 'r3: input']
        return found and "'/image'" in found[-1].message and 'RELIABILITY' in found[-1].message

    g.until(told)


# Names.


def test_remapped_image_has_its_camera_info_beside_it(graph):
    g = graph(arguments=('-r', 'image:=/front/image_raw'))
    assert g.node.autostart()
    names = dict(g.node.get_subscriber_names_and_types_by_node('r3', '/'))
    assert '/front/image_raw' in names and '/front/camera_info' in names


def test_camera_info_can_be_remapped_on_its_own(graph):
    g = graph(arguments=('-r', 'image:=/front/image_raw', '-r', 'camera_info:=/calibration'))
    assert g.node.autostart()
    names = dict(g.node.get_subscriber_names_and_types_by_node('r3', '/'))
    assert '/calibration' in names and '/front/camera_info' not in names


def test_compressed_pictures_come_on_the_topic_below(graph):
    import cv2
    from sensor_msgs.msg import CompressedImage

    g = graph(arguments=('-r', 'image:=/front/image_raw'), input__transport='compressed')
    assert g.node.autostart()
    camera = g.probe.create_publisher(CompressedImage, '/front/image_raw/compressed', 10)
    g.until(lambda: camera.get_subscription_count() == 1)
    data = cv2.imencode('.jpg', picture())[1].tobytes()
    header = header_message(START_NS, CAMERA)
    for cut, processed, rejected in ((None, 1, 0), (200, 1, 1)):
        camera.publish(CompressedImage(header=header, format='jpeg', data=data[:cut]))
        g.until(lambda p=processed: g.health.frames_processed == p)
        g.until(lambda r=rejected: g.health.frames_rejected == r)
    assert 'cut off' in g.health.last_reject_reason


def test_namespace_and_name(graph):
    g = graph(arguments=('-r', '__ns:=/robot', '-r', 'r3:__node:=eye'))
    assert g.turn('configure')
    names = {name for name, _ in g.node.get_publisher_names_and_types_by_node('eye', '/robot')}
    assert {'/robot/eye/pose', '/robot/eye/map_points', '/diagnostics', '/tf'} <= names


# Lifecycle.


def test_two_full_cycles(graph):
    g = graph()
    for cycle in range(2):
        assert g.turn('configure')
        assert g.turn('activate')
        g.until(lambda: g.images.get_subscription_count() == 1)
        assert g.send() and g.health.frames_processed == 1
        assert g.turn('deactivate')
        g.until(lambda: g.images.get_subscription_count() == 0)
        assert g.state == State.PRIMARY_STATE_INACTIVE
        assert g.turn('cleanup')
        assert g.predictors[cycle].closed
        assert g.node.stream is None
        assert not [
            name
            for name, _ in g.node.get_publisher_names_and_types_by_node('r3', '/')
            if name.startswith('/r3/p')
        ]
    assert len(g.predictors) == 2


def test_deactivating_keeps_the_session(graph):
    g = graph().start()
    g.send_many(3)
    assert g.turn('deactivate')
    assert g.turn('activate')
    g.until(lambda: g.images.get_subscription_count() == 1)
    g.send()
    session = g.node.stream.engine.session
    assert (session.session_id, session.frame_count) == (0, 4)


def test_lifecycle_services_drive_the_node(graph):
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState, GetState

    g = graph()
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert g.call(ChangeState, '/r3/change_state', request).success
    assert g.call(GetState, '/r3/get_state').current_state.label == 'active'


def test_configure_fails_with_a_reason_and_can_be_tried_again(graph, monkeypatch):
    g = graph()
    load = g.node._load_engine
    monkeypatch.setattr(g.node, '_load_engine', lambda config: (_ for _ in ()).throw(
        ModelError("model 'classical' needs OpenCV")))  # fmt: skip
    assert not g.node.autostart()
    assert g.state == State.PRIMARY_STATE_UNCONFIGURED
    monkeypatch.setattr(g.node, '_load_engine', load)
    assert g.node.autostart()


def test_navigation_mode_is_refused_in_words(graph, capfd):
    g = graph(publish_odom_to_base_tf=False)
    assert not g.node.autostart()
    assert 'not supported' in capfd.readouterr().err


def test_a_second_node_of_the_same_name_is_refused(graph, capfd):
    first = graph().start()
    second = Graph(domain=first.domain)
    try:
        assert not second.turn('configure')
        assert "a node named '/r3' runs already" in capfd.readouterr().err
        first.send()
        assert first.health.frames_processed == 1
    finally:
        second.close()


def test_a_name_is_free_again_when_its_node_is_gone():
    first, second, other = (NameLock('/r3_test', number) for number in (1, 1, 2))
    assert first.acquire() and not second.acquire() and other.acquire()
    first.release()
    assert second.acquire() and not first.acquire()
    for lock in (second, other):
        lock.release()


def test_a_node_of_the_same_name_on_another_machine_is_told(graph, capfd):
    first = graph(diagnostics__period=0.1).start()
    other = Graph(domain=first.domain)  # not configured, so it takes no lock
    try:
        heard = first.listen('/diagnostics', DiagnosticArray)
        first.until(lambda: any('same name' in s.message for m in heard for s in m.status))
        assert "another node named '/r3'" in capfd.readouterr().err
    finally:
        other.close()


def test_stopping_does_not_wait_for_a_stuck_model(graph):
    turnstile = threading.Semaphore(0)
    g = graph(Script(turnstile=turnstile)).start()
    g.images.publish(image_message(START_NS))
    g.until(lambda: g.predictors[0].arrived.acquire(blocking=False))
    assert g.turn('deactivate')
    assert not g.turn('activate'), 'the last frame is still in work'
    turnstile.release(10)
    g.until(lambda: not g.node.stream.is_stuck)
    assert g.turn('activate')


# Overload.


def test_overload_drops_frames_and_counts_them_exactly(graph):
    turnstile = threading.Semaphore(0)
    g = graph(Script(turnstile=turnstile)).start()
    g.images.publish(image_message(START_NS))
    g.until(lambda: g.predictor.arrived.acquire(blocking=False))
    mailbox = g.node.stream.mailbox
    for i in range(1, 8):
        g.images.publish(image_message(START_NS + i * PERIOD_NS))
        g.until(lambda n=i + 1: mailbox.received == n)
    turnstile.release(10)
    statuses = g.listen('/r3/status', StreamStatus)
    g.until(lambda: g.health.frames_processed == 2)
    g.stamp_ns = START_NS + 8 * PERIOD_NS
    g.send()
    g.until(lambda: statuses and statuses[-1].frames_processed == 3)
    assert (statuses[-1].frames_received, statuses[-1].frames_dropped) == (9, 6)
    # The newest was taken, not the oldest.
    trajectory = g.node.stream.engine.session.trajectory_view()
    assert trajectory.stamps_ns[1] == START_NS + 7 * PERIOD_NS


def test_queue_policy_loses_nothing(graph):
    turnstile = threading.Semaphore(0)
    g = graph(Script(turnstile=turnstile), input__frame_policy='queue').start()
    for i in range(6):
        g.images.publish(image_message(START_NS + i * PERIOD_NS))
    g.until(lambda: g.node.stream.mailbox.received == 6)
    turnstile.release(10)
    g.until(lambda: g.health.frames_processed == 6)
    assert g.node.stream.mailbox.dropped == 0


# Bad input.


def bad_image(**changes):
    message = image_message(START_NS + 50 * PERIOD_NS)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'encoding': 'lsd9'}, 'lsd9'),
        ({'encoding': ''}, 'encoding'),
        ({'step': 7}, 'contradict'),
        ({'height': 49}, 'cut off'),
        ({'height': 40}, 'more than'),
        ({'data': b''}, 'cut off'),
        ({'width': 0}, '0x48'),
    ],
)
def test_a_bad_picture_is_rejected_and_the_next_one_tracked(graph, changes, words):
    g = graph().start()
    g.send_many(2)
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    statuses = g.listen('/r3/status', StreamStatus)
    resume_ns = g.stamp_ns
    g.send(bad_image(**changes))
    assert words in g.health.last_reject_reason
    g.stamp_ns = resume_ns
    good_ns = g.send()
    g.until(lambda: poses)
    assert [stamp_ns_of(p.header.stamp) for p in poses] == [good_ns]
    g.until(lambda: statuses and statuses[-1].frames_processed == 3)
    assert statuses[-1].frames_rejected == 1
    assert statuses[-1].state == StreamStatus.STATE_TRACKING


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
    assert dict(g.health.rejected) == {'duplicate stamp': 1, 'out of order': 1}


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
    from rosgraph_msgs.msg import Clock

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
    g.until(lambda: g.node.stream.engine.session.session_id == 1)
    g.send(image_message(back_ns))
    session = g.node.stream.engine.session
    assert (session.session_id, session.frame_count) == (1, 1)
    # The other way round: the pictures tell first, the clock follows.
    g.send(image_message(back_ns - 50 * SECOND_NS))
    set_clock(back_ns - 50 * SECOND_NS)
    g.send(image_message(back_ns - 49 * SECOND_NS))
    session = g.node.stream.engine.session
    assert (session.session_id, session.frame_count) == (2, 2)


def test_latency_is_measured_by_the_nodes_clock(graph):
    from rosgraph_msgs.msg import Clock

    g = graph(use_sim_time=True).start()
    clock = g.probe.create_publisher(Clock, '/clock', 10)
    statuses = g.listen('/r3/status', StreamStatus)
    g.until(lambda: clock.get_subscription_count() == 1)
    clock.publish(Clock(clock=time_message(START_NS + SECOND_NS // 4)))
    g.until(lambda: g.node.get_clock().now().nanoseconds > START_NS)
    g.send()
    g.until(lambda: statuses and statuses[-1].frames_processed)
    assert statuses[-1].latency == pytest.approx(0.25)


@pytest.mark.parametrize(('action', 'state'), [('ignore', 'TRACKING'), ('error', 'FAULT')])
def test_other_answers_to_a_jump_back(graph, action, state):
    g = graph(input__on_time_jump_back=action).start()
    g.send_many(5)
    g.stamp_ns = START_NS - 10 * SECOND_NS
    g.send()
    assert state_of(g).name == state
    assert g.health.frames_processed == 5 and g.health.frames_rejected == 1
    g.stamp_ns = START_NS + 10 * PERIOD_NS
    g.send()
    assert g.health.frames_processed == (6 if action == 'ignore' else 5)


def test_zero_stamp_takes_the_time_of_arrival_and_says_so(graph):
    g = graph().start()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    statuses = g.listen('/r3/status', StreamStatus)
    g.send(image_message(0))
    g.until(lambda: poses and statuses and statuses[-1].frames_processed)
    assert stamp_ns_of(poses[0].header.stamp) > START_NS
    assert 'no stamp' in statuses[-1].state_reason


def test_another_size_starts_anew_or_is_rejected(graph):
    g = graph().start()
    g.send_many(2)
    g.send(image_message(g.stamp_ns, picture(80, 60)))
    assert g.node.stream.engine.session.session_id == 1
    g.set_parameters(input__on_resolution_change='reject')
    g.send(image_message(g.stamp_ns))
    assert g.health.rejected['size changed'] == 1


def test_another_frame_id_starts_anew(graph):
    g = graph().start()
    g.send_many(2)
    g.send(image_message(g.stamp_ns, frame='other_optical'))
    assert g.node.stream.engine.session.session_id == 1
    assert g.health.optical_frame == g.health.base_frame == 'other_optical'


def test_refusals_of_the_predictor_cost_one_frame(graph):
    script = Script(describe_failures={2: FrameError('nothing but black')})
    g = graph(script).start()
    g.send_many(4)
    assert (g.health.frames_processed, g.health.frames_rejected) == (3, 1)
    assert g.health.last_reject_reason == 'nothing but black'
    assert state_of(g) is StreamState.TRACKING


def test_an_unforeseen_error_is_told_stops_the_stream_and_a_reset_helps(graph, capfd):
    from std_srvs.srv import Trigger

    g = graph(Script(failures={2: ZeroDivisionError('scripted')})).start()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    statuses = g.listen('/r3/status', StreamStatus)
    g.send_many(2)
    g.images.publish(image_message(g.stamp_ns))
    g.until(lambda: statuses and statuses[-1].state == StreamStatus.STATE_FAULT)
    assert 'ZeroDivisionError: scripted' in statuses[-1].state_reason
    assert 'ZeroDivisionError: scripted' in capfd.readouterr().err
    g.stamp_ns += PERIOD_NS
    g.send()
    assert g.health.rejected['fault'] == 1 and len(poses) == 2
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
    assert state_of(g) is StreamState.LOST
    g.until(lambda: len(poses) == len(odometry) == 3)
    assert [stamp_ns_of(p.header.stamp) for p in poses] == stamps[:3]
    g.set_parameters(tracking__publish_when_lost=True)
    g.send()
    g.until(lambda: len(poses) == len(odometry) == 4)
    assert min(poses[-1].pose.covariance[::7]) == 1e6
    assert poses[-1].pose.pose == poses[2].pose.pose


# Calibration.


def test_a_calibration_is_used(graph):
    g = graph(input__camera_info_timeout=20.0).start()
    statuses = g.listen('/r3/status', StreamStatus)
    g.send(calibrated=True)
    g.until(lambda: statuses and statuses[-1].frames_processed)
    assert statuses[-1].fov_x_calibrated == pytest.approx(intrinsics().fov_x)
    assert g.health.camera_info == 'valid'


def test_the_first_picture_waits_for_its_calibration(graph):
    g = graph(input__camera_info_timeout=20.0).start()
    g.images.publish(image_message(START_NS))
    g.until(lambda: g.node.stream._waiting is not None)
    g.infos.publish(camera_info_message(START_NS, CAMERA, intrinsics()))
    g.until(lambda: g.health.frames_processed == 1)
    assert g.health.camera_info == 'valid'


@pytest.mark.parametrize(
    ('changes', 'status'),
    [
        ({'k': [0.0] * 9}, 'zero'),
        ({'k': [float('nan')] * 9}, 'invalid'),
        ({'width': 100}, 'size mismatch'),
    ],
)
def test_a_useless_calibration_is_told_and_the_stream_goes_on(graph, changes, status):
    g = graph(input__camera_info_timeout=20.0).start()
    info = camera_info_message(START_NS, CAMERA, intrinsics())
    for name, value in changes.items():
        setattr(info, name, value)
    g.infos.publish(info)
    g.until(lambda: g.node.stream.camera._info is not None)
    g.send_many(3)
    assert g.health.camera_info == status
    assert g.health.frames_processed == 3


def test_a_calibration_that_comes_late_starts_a_new_session(graph):
    g = graph().start()
    g.send_many(3)
    assert g.health.camera_info == 'missing'
    g.infos.publish(camera_info_message(START_NS, CAMERA, intrinsics()))
    g.until(lambda: g.node.stream.camera._info is not None)
    g.send_many(2)
    session = g.node.stream.engine.session
    assert (session.session_id, session.frame_count) == (1, 2)


def test_a_calibration_that_breaks_later_is_not_taken(graph):
    g = graph(input__camera_info_timeout=20.0).start()
    g.send(calibrated=True)
    g.infos.publish(CameraInfo())
    g.until(lambda: not g.node.stream.camera._info.k[0])
    g.send_many(2)
    assert g.health.camera_info == 'valid'
    assert g.node.stream.camera.calibration.intrinsics == intrinsics()


# Parameters.


def test_live_parameters_take_effect_between_frames(graph):
    g = graph().start()
    g.send()
    (result,) = g.set_parameters(points__stride=4)
    assert result.successful
    g.send()
    stream = g.node.stream
    assert stream.config.points.stride == stream.engine.config.points.stride == 4


@pytest.mark.parametrize(
    ('name', 'value', 'words'),
    [
        ('points.stride', 0, ''),
        ('points.max_range', 0.01, "'points.min_range'"),
        ('tracking.lost_ratio', 0.9, "'tracking.low_confidence_ratio'"),
        ('input.on_time_jump_back', 'panic', 'reset, ignore, error'),
        ('model.name', 'classic', 'classical'),
        ('map.voxel_size', 0.1, 'fixed while the node is configured'),
        ('base_frame', 'base_link', 'fixed while the node is configured'),
    ],
)
def test_bad_values_are_refused_with_a_reason(graph, name, value, words):
    g = graph().start()
    (result,) = g.set_parameters(**{name.replace('.', '__'): value})
    assert not result.successful
    assert words in result.reason
    assert g.node.stream.config == g.node._config


def test_a_fixed_parameter_may_change_before_configure(graph):
    g = graph()
    (result,) = g.set_parameters(map__voxel_size=0.1)
    assert result.successful
    g.start()
    assert g.node.stream.config.map.voxel_size == 0.1


def test_every_parameter_is_declared_and_described(graph):
    from r3_ros.config import parameters

    g = graph()
    for parameter in parameters():
        described = g.node.describe_parameter(parameter.name)
        assert parameter.meta.help in described.description
        assert g.node.get_parameter(parameter.name).value is not None
        if parameter.meta.low is not None:
            (bounds,) = described.integer_range or described.floating_point_range
            assert (bounds.from_value, bounds.to_value) == (
                parameter.meta.low, parameter.meta.high,
            )  # fmt: skip


def test_a_misspelt_parameter_is_told(graph, capfd):
    graph(arguments=('-p', 'keyframe.intervals:=5'))
    assert "did you mean 'keyframe.interval'?" in capfd.readouterr().err


# Diagnostics.


def levels(message):
    return {status.name: status.level for status in message.status}


def test_diagnostics_follow_the_stream(graph):
    g = graph(diagnostics__period=0.1)
    assert g.turn('configure')
    heard = g.listen('/diagnostics', DiagnosticArray)
    tasks = ('input', 'tracking', 'timing', 'gpu', 'scale', 'map', 'tf')
    g.until(lambda: heard)
    assert [s.name for s in heard[0].status] == [f'r3: {task}' for task in tasks]
    assert levels(heard[0])['r3: input'] == DiagnosticStatus.STALE
    assert g.turn('activate')
    g.until(lambda: g.images.get_subscription_count() == 1)
    g.send_many(3)
    g.until(lambda: levels(heard[-1])['r3: tracking'] == DiagnosticStatus.OK)
    by_name = {status.name: status for status in heard[-1].status}
    assert 'arbitrary units' in by_name['r3: scale'].message
    assert 'CPU' in by_name['r3: gpu'].message
    assert by_name['r3: input'].hardware_id == f'{CAMERA}@cpu'
    assert 'camera_info is missing' in by_name['r3: input'].message
    values = {pair.key: pair.value for pair in by_name['r3: input'].values}
    assert (values['frames_received'], values['encoding']) == ('3', 'rgb8')
    assert values['resolution'] == '64x48'


def test_diagnostics_tell_of_being_lost(graph):
    g = graph(Script(blackouts=set(range(2, 30))), diagnostics__period=0.1).start()
    heard = g.listen('/diagnostics', DiagnosticArray)
    g.send_many(8)
    g.until(lambda: heard and levels(heard[-1])['r3: tracking'] == DiagnosticStatus.ERROR)
    (found,) = [s for s in heard[-1].status if s.name == 'r3: tracking']
    assert {pair.key: pair.value for pair in found.values}['state'].upper() == 'LOST'


def test_diagnostics_tell_when_everything_is_rejected(graph):
    g = graph(diagnostics__period=0.1).start()
    heard = g.listen('/diagnostics', DiagnosticArray)
    for _ in range(12):
        g.send(bad_image(encoding='lsd9'))
    g.until(lambda: heard and levels(heard[-1])['r3: input'] == DiagnosticStatus.ERROR)
    (found,) = [s for s in heard[-1].status if s.name == 'r3: input']
    assert 'lsd9' in found.message
