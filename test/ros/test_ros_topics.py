"""What the node publishes over DDS: messages, names and qualities of service."""

import cv2
from geometry_msgs.msg import PoseWithCovarianceStamped
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from nav_msgs.msg import Odometry, Path
from r3_ros.core.errors import ConfigError
from r3_ros.msg import StreamStatus
from r3_ros.ros.inputs import subscriptions
from r3_ros.ros.outputs.messages import (
    camera_info_message,
    header_message,
    stamp_ns_of,
    time_message,
)
from r3_ros.ros.outputs.outputs import TOPICS
import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_graph import BEST_EFFORT, CAMERA, image_message, LATCHED, matrix
from scripted import intrinsics, pattern_image, Script, SECOND_NS, START_NS, straight, truth
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from sensor_msgs_py import point_cloud2

pytestmark = pytest.mark.ros


def test_poses_are_those_of_the_path_at_the_stamps_of_the_images(graph):
    g = graph().start()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    odometry = g.listen('/r3/odometry', Odometry)
    stamps = g.send_many(12)
    g.until(lambda: len(poses) == len(odometry) == 12)
    assert [stamp_ns_of(m.header.stamp) for m in poses] == stamps
    assert [stamp_ns_of(m.header.stamp) for m in odometry] == stamps
    assert {m.header.frame_id for m in poses} == {'map'}
    assert {(m.header.frame_id, m.child_frame_id) for m in odometry} == {('odom', CAMERA)}
    T_map_world = g.node.worker.pose_output.chain.T_map_world
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


def test_status_is_published_when_the_state_changes_without_an_image(graph):
    g = graph()
    assert g.turn('configure')
    statuses = g.listen('/r3/status', StreamStatus)
    assert g.turn('activate')
    g.until(lambda: statuses)
    assert statuses[0].state == StreamStatus.STATE_WAITING_INPUT


def test_clouds_and_depth_pair_with_their_frame(graph):
    g = graph().start()
    received = {
        topic: g.listen(f'/r3/{topic}', TOPICS[topic][0])
        for topic in (
            'points', 'keyframe_points', 'depth/image', 'depth/camera_info', 'depth/confidence',
            'depth/preview', 'color/image', 'color/camera_info',
        )
    }  # fmt: skip
    stamp_ns = g.send()
    g.until(lambda: all(received.values()))
    first = {topic: messages[0] for topic, messages in received.items()}
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
    assert g.node_health.incompatible_qos == {}


def test_every_topic_has_the_promised_type_and_qos(graph):
    g = graph(occupancy__enabled=True).start()
    for topic, (kind, _, latched) in TOPICS.items():
        g.until(lambda name=f'/r3/{topic}': g.probe.count_publishers(name) == 1)
        (endpoint,) = g.probe.get_publishers_info_by_topic(f'/r3/{topic}')
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        assert endpoint.qos_profile.reliability == ReliabilityPolicy.RELIABLE, topic
        assert endpoint.qos_profile.durability == durability, topic
        package, _, name = endpoint.topic_type.split('/')
        assert (package, name) == (kind.__module__.split('.')[0], kind.__name__)
    latched = {topic for topic, (*_, is_latched) in TOPICS.items() if is_latched}
    assert latched == {'path', 'map_points', 'occupancy', 'keyframe_graph', 'markers'}


def test_every_promised_service_exists_from_configure_on(graph):
    g = graph()
    assert g.turn('configure')
    services = dict(g.node.get_service_names_and_types_by_node('r3', '/'))
    promised = {
        'reset': 'std_srvs/srv/Trigger',
        'clear_map': 'std_srvs/srv/Trigger',
        'pause': 'std_srvs/srv/SetBool',
        'load_map': 'r3_ros/srv/LoadMap',
        'save_map': 'r3_ros/srv/SaveMap',
        'save_trajectory': 'r3_ros/srv/SaveTrajectory',
        'change_state': 'lifecycle_msgs/srv/ChangeState',
        'set_parameters': 'rcl_interfaces/srv/SetParameters',
    }
    for name, kind in promised.items():
        assert services[f'/r3/{name}'] == [kind]


def test_every_topic_of_ours_can_have_another_qos(graph):
    g = graph(scale__source='odometry', occupancy__enabled=True).start()
    node = g.node
    received = dict(node.get_subscriber_names_and_types_by_node('r3', '/'))
    published = dict(node.get_publisher_names_and_types_by_node('r3', '/'))
    # Those of rclpy and tf2 are what they are. Those of a camera follow it unless they are given.
    fixed = {'/tf', '/tf_static', '/rosout', '/parameter_events', '/r3/transition_event'}
    fixed |= {'/image', '/camera_info'}
    for topics, side in ((received, 'subscription'), (published, 'publisher')):
        for topic in topics.keys() - fixed:
            for policy in ('reliability', 'durability', 'history', 'depth'):
                name = f'qos_overrides.{topic}.{side}.{policy}'
                assert node.has_parameter(name), name


def test_the_qos_of_images_can_be_given(graph):
    override = 'qos_overrides./image.subscription.depth'
    g = graph(arguments=('-p', f'{override}:=7'))
    assert g.node.autostart()
    assert g.node.get_parameter(override).value == 7


def test_qos_can_be_overridden(graph):
    override = 'qos_overrides./r3/points.publisher.reliability'
    g = graph(arguments=('-p', f'{override}:=best_effort'))
    assert g.turn('configure')
    g.until(lambda: g.probe.count_publishers('/r3/points') == 1)
    (endpoint,) = g.probe.get_publishers_info_by_topic('/r3/points')
    assert endpoint.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT


@pytest.mark.parametrize(
    ('policy', 'value', 'allowed'),
    [
        ('reliability', 'often', 'one of system_default, reliable, best_effort'),
        ('reliability', '1', 'one of system_default, reliable, best_effort'),
        ('durability', 'unknown', 'one of system_default, transient_local, volatile'),
        ('history', 'keep', 'one of system_default, keep_last, keep_all'),
        ('depth', '-1', '0 to 2147483647'),
        ('depth', '2147483648', '0 to 2147483647'),
        ('depth', 'true', '0 to 2147483647'),
    ],
)
def test_a_qos_that_is_none_is_refused_with_those_that_are(graph, policy, value, allowed):
    override = f'qos_overrides./r3/points.publisher.{policy}'
    with pytest.raises(ConfigError, match=rf"'{override}' is .*, allowed: {allowed}"):
        graph(arguments=('-p', f'{override}:={value}'))


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


def test_compressed_images_come_on_the_topic_below(graph):
    g = graph(arguments=('-r', 'image:=/front/image_raw'), input__transport='compressed')
    assert g.node.autostart()
    camera = g.probe.create_publisher(CompressedImage, '/front/image_raw/compressed', 10)
    g.until(lambda: camera.get_subscription_count() == 1)
    data = cv2.imencode('.jpg', pattern_image())[1].tobytes()
    header = header_message(START_NS, CAMERA)
    for cut, processed, rejected in ((None, 1, 0), (200, 1, 1)):
        camera.publish(CompressedImage(header=header, format='jpeg', data=data[:cut]))
        g.until(lambda p=processed: g.health.frames_processed == p)
        g.until(lambda r=rejected: g.health.frames_rejected == r)
    assert 'cut off' in g.health.last_reject_reason


@pytest.mark.parametrize('is_early', [True, False])
def test_a_calibration_that_is_published_once_and_kept_is_received(graph, is_early):
    g = graph(arguments=('-r', 'image:=/front/image_raw'))
    images = g.probe.create_publisher(Image, '/front/image_raw', 10)

    def publish_once():
        infos = g.probe.create_publisher(CameraInfo, '/front/camera_info', LATCHED)
        infos.publish(camera_info_message(START_NS, CAMERA, intrinsics()))
        return infos

    infos = publish_once() if is_early else None
    assert g.node.autostart()
    infos = infos or publish_once()
    g.until(lambda: infos.get_subscription_count() == 1 == images.get_subscription_count())
    received = g.node.worker.camera
    g.until(lambda: not received.waits_for_calibration() and received._info is not None)
    images.publish(image_message(START_NS))
    g.until(lambda: g.health.frames_processed == 1)
    assert g.health.camera_info == 'valid'


@pytest.mark.parametrize(
    ('image', 'transport', 'published', 'advice'),
    [
        ('/cam/raw', 'raw', '/cam/raw/compressed', "set input.transport to 'compressed'"),
        (
            '/cam/raw/compressed', 'raw', '/cam/raw/compressed',
            "set input.transport to 'compressed' and name the topic '/cam/raw'",
        ),
        ('/cam/raw/compressed', 'compressed', '/cam/raw/compressed', "name the topic '/cam/raw'"),
        ('/cam/raw', 'compressed', '/cam/raw', "set input.transport to 'raw'"),
        ('/cam/raw', 'raw', '/other/raw', "nobody publishes '/cam/raw'; images are on /other/raw"),
        ('/cam/info', 'raw', '/cam/info', "'/cam/info' is a topic of sensor_msgs/msg/CameraInfo"),
    ],
)  # fmt: skip
def test_a_wrong_image_topic_is_explained(
    graph, image, transport, published, advice, capfd, monkeypatch
):
    monkeypatch.setattr(subscriptions, '_CHECK_S', 0.02)
    g = graph(arguments=('-r', f'image:={image}'), input__transport=transport)
    # Its publisher is remapped, too.
    g.probe.destroy_publisher(g.images)
    # A process of its own, as one cannot have two types on one topic.
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=g.domain.number)
    camera = rclpy.create_node('camera', context=context)
    kinds = {'compressed': CompressedImage, 'info': CameraInfo}
    camera.create_publisher(kinds.get(published.rpartition('/')[2], Image), published, 10)
    try:
        assert g.node.autostart()
        g.until(lambda: advice in g.node_health.image_topic)
        logged = []
        g.until(lambda: logged.append(capfd.readouterr().err) or advice in ''.join(logged))
    finally:
        camera.destroy_node()
        rclpy.shutdown(context=context)


def test_a_second_publisher_of_images_is_reported(graph):
    g = graph().start()
    g.send()
    assert not g.node_health.image_topic
    second = g.probe.create_publisher(Image, 'image', 10)
    g.until(lambda: "2 publishers send images on '/image'" in g.node_health.image_topic)
    g.probe.destroy_publisher(second)
    g.until(lambda: not g.node_health.image_topic)


def test_namespace_and_name(graph):
    g = graph(arguments=('-r', '__ns:=/robot', '-r', 'r3:__node:=eye'))
    assert g.turn('configure')
    names = {name for name, _ in g.node.get_publisher_names_and_types_by_node('eye', '/robot')}
    assert {'/robot/eye/pose', '/robot/eye/map_points', '/diagnostics', '/tf'} <= names
