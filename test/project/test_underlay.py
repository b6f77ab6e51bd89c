"""The underlay's packages behave as documented for those they stand in for.

The same assertions hold for the real packages, so these tests also run against a ROS installation.
"""

import math
import sys
import threading

import numpy as np
import pytest

pytestmark = pytest.mark.ros

rclpy = pytest.importorskip('rclpy')
tf2_ros = pytest.importorskip('tf2_ros')
tft = pytest.importorskip('tf_transformations')
point_cloud2 = pytest.importorskip('sensor_msgs_py.point_cloud2')

from builtin_interfaces.msg import Time as TimeMsg  # noqa: E402
from geometry_msgs.msg import TransformStamped  # noqa: E402
from rclpy.duration import Duration  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from rclpy.time import Time  # noqa: E402
from sensor_msgs.msg import PointCloud2, PointField  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

NEWEST = Time()


def transform(parent, child, stamp_s=0.0, xyz=(0.0, 0.0, 0.0), yaw=0.0):
    message = TransformStamped()
    message.header.frame_id, message.child_frame_id = parent, child
    message.header.stamp = at(stamp_s).to_msg()
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = (float(value) for value in xyz)
    q.z, q.w = math.sin(yaw / 2), math.cos(yaw / 2)
    return message


def at(seconds):
    return Time(nanoseconds=round(seconds * 1e9))


def xyz_of(message):
    t = message.transform.translation
    return np.array([t.x, t.y, t.z])


def yaw_of(message):
    q = message.transform.rotation
    return 2 * math.atan2(q.z, q.w)


@pytest.fixture
def buffer():
    return tf2_ros.Buffer()


@pytest.fixture
def ros():
    context = rclpy.Context()
    rclpy.init(context=context)
    nodes = []

    def make(name):
        nodes.append(rclpy.create_node(name, context=context))
        return nodes[-1]

    make.executor = SingleThreadedExecutor(context=context)
    yield make
    make.executor.shutdown()
    for node in nodes:
        node.destroy_node()
    rclpy.shutdown(context=context)


# --- tf2_ros: the buffer ---


def test_lookup_takes_points_from_source_to_target(buffer):
    buffer.set_transform_static(transform('map', 'base', xyz=(1, 2, 3), yaw=math.pi / 2), 'test')
    found = buffer.lookup_transform('map', 'base', NEWEST)
    assert (found.header.frame_id, found.child_frame_id) == ('map', 'base')
    assert xyz_of(found) == pytest.approx([1, 2, 3])
    assert yaw_of(found) == pytest.approx(math.pi / 2)
    # A rotation of +90 degrees takes base's x axis to map's y axis; the inverse takes it back.
    back = buffer.lookup_transform('base', 'map', NEWEST)
    assert xyz_of(back) == pytest.approx([-2, 1, -3])
    assert yaw_of(back) == pytest.approx(-math.pi / 2)


def test_lookup_goes_through_the_nearest_common_ancestor(buffer):
    buffer.set_transform_static(transform('map', 'odom', xyz=(10, 0, 0)), 'test')
    buffer.set_transform_static(transform('odom', 'left', xyz=(0, 1, 0)), 'test')
    buffer.set_transform_static(transform('odom', 'right', xyz=(0, -1, 0), yaw=math.pi), 'test')
    found = buffer.lookup_transform('right', 'left', NEWEST)
    assert xyz_of(found) == pytest.approx([0, -2, 0])
    assert abs(yaw_of(found)) == pytest.approx(math.pi)


def test_a_stamp_in_between_is_interpolated(buffer):
    buffer.set_transform(transform('odom', 'base', 1.0, (0, 0, 0), yaw=0.0), 'test')
    buffer.set_transform(transform('odom', 'base', 2.0, (4, 0, 0), yaw=1.0), 'test')
    found = buffer.lookup_transform('odom', 'base', at(1.25))
    assert found.header.stamp == at(1.25).to_msg()
    assert xyz_of(found) == pytest.approx([1, 0, 0])
    assert yaw_of(found) == pytest.approx(0.25)


def test_rotations_interpolate_the_short_way_whatever_the_signs(buffer):
    buffer.set_transform(transform('odom', 'base', 1.0, yaw=0.2), 'test')
    flipped = transform('odom', 'base', 2.0, yaw=0.4)
    q = flipped.transform.rotation
    q.z, q.w = -q.z, -q.w
    buffer.set_transform(flipped, 'test')
    q = buffer.lookup_transform('odom', 'base', at(1.5)).transform.rotation
    assert 2 * math.atan(q.z / q.w) == pytest.approx(0.3)


def test_stamps_may_be_messages_and_arrive_in_any_order(buffer):
    for stamp in (2.0, 1.0, 3.0):
        buffer.set_transform(transform('odom', 'base', stamp, (stamp, 0, 0)), 'test')
    assert xyz_of(buffer.lookup_transform('odom', 'base', TimeMsg(sec=1, nanosec=500_000_000)))[
        0
    ] == pytest.approx(1.5)


def test_time_zero_asks_for_the_newest_moment_common_to_all_links(buffer):
    for stamp in (1.0, 2.0):
        buffer.set_transform(transform('map', 'odom', stamp, (stamp, 0, 0)), 'test')
    for stamp in (1.0, 1.5):
        buffer.set_transform(transform('odom', 'base', stamp, (0, stamp, 0)), 'test')
    buffer.set_transform_static(transform('base', 'camera', 9.0, (0, 0, 1)), 'test')
    found = buffer.lookup_transform('map', 'camera', NEWEST)
    assert found.header.stamp == at(1.5).to_msg()
    assert xyz_of(found) == pytest.approx([1.5, 1.5, 1])


def test_static_transforms_hold_at_every_stamp_and_survive_a_clear(buffer):
    buffer.set_transform_static(transform('base', 'camera', 100.0, (0, 0, 1)), 'test')
    buffer.set_transform(transform('odom', 'base', 1.0), 'test')
    for stamp in (NEWEST, at(1e-3), at(1e6)):
        assert xyz_of(buffer.lookup_transform('base', 'camera', stamp))[2] == 1
    buffer.clear()
    assert buffer.can_transform('base', 'camera', NEWEST)
    assert not buffer.can_transform('odom', 'base', NEWEST)


@pytest.mark.parametrize('stamp_s, where', [(0.5, 'past'), (2.5, 'future')])
def test_extrapolation_is_refused(buffer, stamp_s, where):
    for stamp in (1.0, 2.0):
        buffer.set_transform(transform('odom', 'base', stamp), 'test')
    with pytest.raises(tf2_ros.ExtrapolationException, match=f'into the {where}'):
        buffer.lookup_transform('odom', 'base', at(stamp_s))
    possible, reason = buffer.can_transform('odom', 'base', at(stamp_s), return_debug_tuple=True)
    assert not possible and where in reason


def test_one_sample_answers_for_its_own_stamp_only(buffer):
    buffer.set_transform(transform('odom', 'base', 1.0), 'test')
    assert buffer.can_transform('odom', 'base', at(1.0))
    with pytest.raises(tf2_ros.ExtrapolationException):
        buffer.lookup_transform('odom', 'base', at(1.0 + 1e-9))


def test_each_failure_has_its_exception(buffer):
    buffer.set_transform_static(transform('map', 'odom'), 'test')
    buffer.set_transform_static(transform('world', 'robot'), 'test')
    with pytest.raises(tf2_ros.LookupException, match='nowhere'):
        buffer.lookup_transform('map', 'nowhere', NEWEST)
    with pytest.raises(tf2_ros.ConnectivityException):
        buffer.lookup_transform('map', 'robot', NEWEST)
    with pytest.raises(tf2_ros.InvalidArgumentException):
        buffer.lookup_transform('', 'map', NEWEST)
    for error in ('LookupException', 'ConnectivityException', 'ExtrapolationException'):
        assert issubclass(getattr(tf2_ros, error), tf2_ros.TransformException)


def test_only_the_cache_time_is_kept():
    buffer = tf2_ros.Buffer(cache_time=Duration(seconds=2))
    for stamp in range(1, 11):
        buffer.set_transform(transform('odom', 'base', stamp), 'test')
    assert buffer.can_transform('odom', 'base', at(8.0))
    assert not buffer.can_transform('odom', 'base', at(7.0))
    buffer.set_transform(transform('odom', 'base', 7.5), 'late')
    assert not buffer.can_transform('odom', 'base', at(7.75))


def test_unusable_transforms_are_dropped(buffer):
    for parent, child in (('map', 'map'), ('map', ''), ('', 'base')):
        buffer.set_transform(transform(parent, child, 1.0), 'test')
    not_finite = transform('map', 'base', 1.0, (math.nan, 0, 0))
    not_unit = transform('map', 'base', 1.0)
    not_unit.transform.rotation.w = 2.0
    for message in (not_finite, not_unit):
        buffer.set_transform(message, 'test')
    assert not buffer.can_transform('map', 'base', NEWEST)


def test_a_frame_may_change_its_parent(buffer):
    buffer.set_transform(transform('odom', 'base', 1.0, (1, 0, 0)), 'test')
    buffer.set_transform(transform('dock', 'base', 2.0, (5, 0, 0)), 'test')
    assert xyz_of(buffer.lookup_transform('dock', 'base', at(2.0)))[0] == 5
    assert xyz_of(buffer.lookup_transform('odom', 'base', at(1.0)))[0] == 1
    # In between the older one holds: two parents cannot be interpolated.
    assert xyz_of(buffer.lookup_transform('odom', 'base', at(1.5)))[0] == 1


def test_frames_are_listed_with_their_parents(buffer):
    yaml = pytest.importorskip('yaml')
    buffer.set_transform_static(transform('base', 'camera'), 'test')
    buffer.set_transform(transform('odom', 'base', 1.0), 'wheels')
    frames = yaml.safe_load(buffer.all_frames_as_yaml())
    assert {name: frame['parent'] for name, frame in frames.items()} == {
        'camera': 'base',
        'base': 'odom',
    }
    assert frames['base']['broadcaster'] == 'wheels'


def test_a_lookup_waits_for_data_from_another_thread(buffer):
    asked = threading.Event()

    def publish():
        asked.wait()
        buffer.set_transform(transform('odom', 'base', 1.0), 'test')

    thread = threading.Thread(target=publish)
    thread.start()
    asked.set()
    assert buffer.can_transform('odom', 'base', at(1.0), timeout=Duration(seconds=30))
    thread.join()


def test_a_lookup_that_waits_in_vain_says_why(buffer):
    with pytest.raises(tf2_ros.LookupException):
        buffer.lookup_transform('odom', 'base', NEWEST, timeout=Duration(nanoseconds=1000))


def test_a_future_is_done_when_the_transform_arrives(buffer):
    future = buffer.wait_for_transform_async('odom', 'base', at(1.0))
    buffer.set_transform(transform('odom', 'other', 1.0), 'test')
    assert not future.done()
    buffer.set_transform(transform('odom', 'base', 1.0), 'test')
    assert future.done()


def test_a_backward_jump_of_the_clock_clears_the_buffer(ros):
    node = ros('jumping')
    node.set_parameters([rclpy.parameter.Parameter('use_sim_time', value=True)])
    buffer = tf2_ros.Buffer(node=node)
    clock = node.get_clock()
    clock.set_ros_time_override(at(100.0))
    buffer.set_transform(transform('odom', 'base', 100.0), 'test')
    clock.set_ros_time_override(at(100.5))
    assert buffer.can_transform('odom', 'base', at(100.0))
    clock.set_ros_time_override(at(10.0))
    assert not buffer.can_transform('odom', 'base', at(100.0))


# --- tf2_ros: topics ---


def test_broadcasts_reach_a_listener_even_a_late_one_if_static(ros):
    sender = ros('sender')
    static = tf2_ros.StaticTransformBroadcaster(sender)
    moving = tf2_ros.TransformBroadcaster(sender)
    static.sendTransform([transform('base', 'camera', xyz=(0, 0, 1))])
    receiver = ros('receiver')
    buffer = tf2_ros.Buffer()
    listener = tf2_ros.TransformListener(buffer, receiver, qos=QoSProfile(depth=1000))
    ros.executor.add_node(receiver)
    while sender.count_subscribers('/tf') < 1 or not buffer.can_transform(
        'base', 'camera', NEWEST
    ):
        ros.executor.spin_once(timeout_sec=0.1)
    moving.sendTransform(transform('odom', 'base', 1.0, (2, 0, 0)))
    future = buffer.wait_for_transform_async('odom', 'camera', at(1.0))
    ros.executor.spin_until_future_complete(future, timeout_sec=30)
    assert xyz_of(future.result()) == pytest.approx([2, 0, 1])
    listener.unregister()
    left = {subscription.topic_name for subscription in receiver.subscriptions}
    assert not left & {'/tf', '/tf_static'}


# --- sensor_msgs_py ---

LAYOUT = np.dtype(
    {
        'names': ['x', 'y', 'z', 'rgb', 'confidence'],
        'formats': ['<f4'] * 5,
        'offsets': [0, 4, 8, 12, 16],
        'itemsize': 20,
    }
)
FIELDS = [
    PointField(name=name, offset=LAYOUT.fields[name][1], datatype=PointField.FLOAT32, count=1)
    for name in LAYOUT.names
]


def some_points(count):
    points = np.zeros(count, dtype=LAYOUT)
    for i, name in enumerate(LAYOUT.names):
        points[name] = np.arange(count) + 100 * i
    return points


def test_a_structured_array_goes_through_a_cloud_unchanged():
    points = some_points(7)
    cloud = point_cloud2.create_cloud(Header(frame_id='map'), FIELDS, points)
    assert (cloud.width, cloud.height, cloud.point_step, cloud.row_step) == (7, 1, 20, 140)
    assert cloud.header.frame_id == 'map'
    assert bytes(cloud.data) == points.tobytes()
    assert (point_cloud2.read_points(cloud) == points).all()
    picked = point_cloud2.read_points(cloud, field_names=['z', 'x'], uvs=[2, 4])
    assert picked['z'].tolist() == [202, 204] and picked['x'].tolist() == [2, 4]


def test_a_cloud_is_filled_as_a_block_not_byte_by_byte():
    points = some_points(100_000)
    calls = []

    def count(frame, event, argument):
        calls.append(frame.f_code.co_name)

    sys.setprofile(count)
    try:
        cloud = point_cloud2.create_cloud(Header(), FIELDS, points)
    finally:
        sys.setprofile(None)
    assert cloud.data.buffer_info()[1] == 2_000_000
    # The type checks of the message's setters look at each byte of a list; at none of an array.
    assert len(calls) < 10_000


def test_points_with_nan_can_be_left_out():
    cloud = point_cloud2.create_cloud_xyz32(
        Header(), np.array([[1, 2, 3], [np.nan, 5, 6], [7, 8, 9]], dtype=np.float32)
    )
    assert not cloud.is_dense
    xyz = point_cloud2.read_points_numpy(cloud, ['x', 'y', 'z'], skip_nans=True)
    assert xyz.tolist() == [[1, 2, 3], [7, 8, 9]]
    assert len(point_cloud2.read_points(cloud)) == 3


def test_an_empty_cloud_is_a_cloud():
    cloud = point_cloud2.create_cloud(Header(), FIELDS, some_points(0))
    assert (cloud.width, cloud.height, len(cloud.data)) == (0, 1, 0)
    assert len(point_cloud2.read_points(cloud)) == 0


def test_padding_and_big_endian_data_are_read():
    values = np.zeros(2, dtype=np.dtype({'names': ['a'], 'formats': ['>f4'], 'itemsize': 12}))
    values['a'] = [1.5, -2.0]
    cloud = PointCloud2(height=1, width=2, point_step=12, row_step=24, is_bigendian=True)
    cloud.fields = [PointField(name='a', offset=0, datatype=PointField.FLOAT32, count=1)]
    cloud.data = values.tobytes()
    assert point_cloud2.read_points(cloud)['a'].tolist() == [1.5, -2.0]


def test_a_layout_that_does_not_match_is_refused():
    wrong = some_points(3).astype([(name, '<f8') for name in LAYOUT.names])
    with pytest.raises(AssertionError, match='do not match'):
        point_cloud2.create_cloud(Header(), FIELDS, wrong)


# --- tf_transformations ---


def test_quaternions_are_x_y_z_w():
    assert tft.quaternion_about_axis(0.123, (1, 0, 0)) == pytest.approx(
        [math.sin(0.0615), 0, 0, math.cos(0.0615)]
    )
    assert tft.quaternion_from_euler(0, 0, math.pi / 2) == pytest.approx(
        [0, 0, math.sqrt(0.5), math.sqrt(0.5)]
    )


def test_matrices_and_quaternions_agree():
    random = np.random.default_rng(0)
    for _ in range(20):
        a, b = random.uniform(-3, 3, (2, 3))
        qa, qb = tft.quaternion_from_euler(*a), tft.quaternion_from_euler(*b)
        Ra, Rb = tft.euler_matrix(*a), tft.quaternion_matrix(qb)
        assert tft.quaternion_matrix(tft.quaternion_multiply(qa, qb)) == pytest.approx(Ra @ Rb)
        assert tft.quaternion_matrix(tft.quaternion_from_matrix(Ra)) == pytest.approx(Ra)
        assert tft.euler_matrix(*tft.euler_from_quaternion(qa)) == pytest.approx(Ra)
        whole = tft.quaternion_multiply(qa, tft.quaternion_inverse(qa))
        assert whole == pytest.approx([0, 0, 0, 1])


def test_rigid_motions_compose_and_invert():
    T = tft.concatenate_matrices(
        tft.translation_matrix([1, 2, 3]), tft.rotation_matrix(0.5, [0, 0, 1])
    )
    assert tft.translation_from_matrix(T) == pytest.approx([1, 2, 3])
    assert T @ [1, 0, 0, 1] == pytest.approx([1 + math.cos(0.5), 2 + math.sin(0.5), 3, 1])
    assert tft.concatenate_matrices(T, tft.inverse_matrix(T)) == pytest.approx(np.eye(4))


def test_slerp_turns_at_constant_speed_the_short_way():
    start = tft.quaternion_about_axis(0.2, (0, 0, 1))
    end = -np.asarray(tft.quaternion_about_axis(1.0, (0, 0, 1)))
    for share in (0.0, 0.25, 0.5, 1.0):
        turned = tft.quaternion_slerp(start, end, share)
        expected = tft.quaternion_about_axis(0.2 + 0.8 * share, (0, 0, 1))
        assert abs(np.dot(turned, expected)) == pytest.approx(1.0)
