"""Arrays become messages in the layout that the interface promises, and back."""

import math

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from hypothesis import given
from hypothesis import strategies as st
from r3_ros.core.config import R3Config
from r3_ros.core.errors import MapProblem
from r3_ros.core.geometry import make_T
from r3_ros.core.parameter_fields import updated
from r3_ros.maps.cloud import Cloud, cloud_from_depth
from r3_ros.msg import StreamStatus
from r3_ros.ros.outputs.cloud_publisher import organized_points
from r3_ros.ros.outputs.health import Health, StreamState
from r3_ros.ros.outputs.messages import (
    camera_info_message,
    cloud_message,
    estimate_fields,
    image_message,
    matrix_from_transform,
    odometry_message,
    organized_cloud_message,
    path_message,
    pose_message,
    stamp_ns_of,
    status_message,
    time_message,
    transform_message,
)
from r3_ros.ros.services.saving import ServiceCode
from r3_ros.ros.tf.pose_chain import PoseChain, without_motion
from r3_ros.srv import LoadMap, SaveMap, SaveTrajectory
from r3_ros.streaming.engine import Engine
from rclpy.serialization import deserialize_message, serialize_message
from scipy.spatial.transform import Rotation
from scripted import (
    frames,
    intrinsics,
    moved,
    room_depth,
    Script,
    ScriptedPredictor,
    START_NS,
    straight,
)
from sensor_msgs_py import point_cloud2

pytestmark = pytest.mark.ros

T = make_T(Rotation.from_euler('xyz', [0.3, -1.2, 2.9]).as_matrix(), [1.0, -2.0, 3.0])


def depth_map():
    (frame,) = frames(1)
    return room_depth(frame, straight()(START_NS), intrinsics(), (24, 32))


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_survive_as_integers(stamp_ns):
    assert stamp_ns_of(time_message(stamp_ns)) == stamp_ns


def test_transform_round_trip():
    message = transform_message(START_NS, 'map', 'odom', T)
    assert (message.header.frame_id, message.child_frame_id) == ('map', 'odom')
    np.testing.assert_allclose(matrix_from_transform(message.transform), T, atol=1e-12)


def test_pose_and_odometry_carry_place_and_covariance():
    chain = PoseChain(np.eye(4), starts_in_base=True)
    chain.advance(moved(START_NS, np.eye(4), None, np.eye(6)), 1.0, 0.0)
    covariance, step = np.diag([1.0, 2, 3, 4, 5, 6]), np.eye(6)
    placed = chain.advance(moved(START_NS + 10**8, T, T, covariance, step), 1.0, 0.0)
    pose = pose_message(START_NS, 'map', placed)
    position = pose.pose.pose.position
    np.testing.assert_allclose([position.x, position.y, position.z], T[:3, 3])
    np.testing.assert_allclose(np.reshape(pose.pose.covariance, (6, 6)), placed.map_covariance)
    odometry = odometry_message(START_NS, 'odom', 'camera', placed)
    assert odometry.child_frame_id == 'camera'
    np.testing.assert_allclose(odometry.twist.twist.linear.x, placed.twist[0])
    for sent, expected in (
        (odometry.pose.covariance, placed.odom_covariance),
        (odometry.twist.covariance, placed.twist_covariance),
    ):
        np.testing.assert_allclose(np.reshape(sent, (6, 6)), expected)
    unknown = odometry_message(START_NS, 'odom', 'camera', without_motion(placed))
    assert unknown.twist.twist.linear.x == 0.0
    assert min(unknown.twist.covariance[::7]) == 1e6


def test_path_keeps_each_stamp():
    poses = np.stack([np.eye(4), T])
    message = path_message(START_NS, 'map', [5, START_NS], poses)
    assert [stamp_ns_of(p.header.stamp) for p in message.poses] == [5, START_NS]
    assert message.poses[1].pose.position.z == 3.0
    assert path_message(START_NS, 'map', [], np.empty((0, 4, 4))).poses == []


def test_cloud_layout():
    cloud = Cloud(
        np.array([[1, 2, 3], [4, 5, 6]], np.float32),
        np.array([[255, 128, 1], [0, 0, 0]], np.uint8),
        np.array([7, 8], np.float32),
    )
    message = cloud_message(START_NS, 'map', cloud)
    assert [(f.name, f.offset, f.datatype, f.count) for f in message.fields] == [
        ('x', 0, 7, 1),
        ('y', 4, 7, 1),
        ('z', 8, 7, 1),
        ('rgb', 12, 7, 1),
        ('confidence', 16, 7, 1),
    ]
    assert (message.point_step, message.row_step) == (20, 40)
    assert (message.height, message.width) == (1, 2)
    assert message.is_dense and not message.is_bigendian
    assert message.data[12:16].tobytes() == b'\x01\x80\xff\x00'
    read = point_cloud2.read_points(message)
    np.testing.assert_array_equal(read['confidence'], [7, 8])
    np.testing.assert_array_equal(read['z'], [3, 6])


def test_empty_cloud():
    message = cloud_message(START_NS, 'map', Cloud.empty())
    assert (message.height, message.width, len(message.data)) == (1, 0, 0)
    assert (message.point_step, message.is_dense) == (20, True)
    assert len(point_cloud2.read_points(message)) == 0


def test_organized_cloud_has_the_shape_of_the_depth_and_nan_where_none_is_confident():
    depth = depth_map()
    depth.depth[3, 5] = np.nan
    depth.confidence[7, 9] = np.inf
    config = updated(R3Config(), {'points.organized': True})
    points = organized_points(depth, config.points)
    message = organized_cloud_message(START_NS, 'camera', points, depth)
    assert (message.height, message.width, message.is_dense) == (24, 32, False)
    assert message.row_step == 32 * 20
    rows = np.frombuffer(message.data, np.float32).reshape(24, 32, 5)
    np.testing.assert_array_equal(rows[..., :3], points)
    assert np.isnan(rows[3, 5, :3]).all() and np.isnan(rows[7, 9, :3]).all()
    assert np.isfinite(rows[..., 4]).all()
    kept = np.isfinite(points[..., 2])
    np.testing.assert_array_equal(points[kept][:, 2], depth.depth[kept])
    # The same points as the plain cloud of every pixel.
    plain = cloud_from_depth(depth, updated(config, {'points.stride': 1}).points)
    assert kept.sum() == len(plain)


def test_image_and_camera_info_pair():
    depth = depth_map()
    image = image_message(START_NS, 'camera', '32FC1', depth.depth)
    info = camera_info_message(START_NS, 'camera', depth.intrinsics)
    assert image.header == info.header
    assert (image.step, image.height, image.width) == (32 * 4, 24, 32)
    pixels = np.frombuffer(image.data, np.float32).reshape(24, 32)
    np.testing.assert_array_equal(pixels, depth.depth)
    np.testing.assert_allclose(np.reshape(info.k, (3, 3)), depth.intrinsics.K)
    np.testing.assert_allclose(np.reshape(info.p, (3, 4))[:, :3], depth.intrinsics.K)
    assert list(info.d) == []
    np.testing.assert_array_equal(info.r, np.eye(3).ravel())


def test_status_says_nan_where_it_does_not_know():
    message = status_message(START_NS, Health(optical_frame='camera'), frames_dropped=3)
    assert math.isnan(message.latency) and math.isnan(message.depth_valid_fraction)
    assert (message.frames_dropped, message.scale, message.scale_source) == (3, 1.0, 0)
    assert message.state == StreamStatus.STATE_UNINITIALIZED


def test_a_keyframe_is_one_whatever_kind_of_bool_says_so():
    engine = Engine(ScriptedPredictor(Script(keyframe=lambda i: np.bool_(i != 2))), R3Config())
    estimates = [engine.step(frame) for frame in frames(4)]
    engine.close()
    statuses = [status_message(START_NS, Health(), **estimate_fields(e)) for e in estimates]
    received = [deserialize_message(serialize_message(s), StreamStatus) for s in statuses]
    assert [status.is_keyframe for status in received] == [True, True, False, True]


def test_states_are_those_of_the_message():
    for state in StreamState:
        assert getattr(StreamStatus, f'STATE_{state.name}') == state
    names = [name for name in dir(type(StreamStatus)) if name.startswith('STATE_')]
    assert len(names) == len(StreamState)


@pytest.mark.parametrize('service', [SaveMap, SaveTrajectory, LoadMap])
def test_codes_are_those_of_the_service(service):
    response = service.Response
    constants = {n: getattr(response, n) for n in dir(type(response)) if n.isupper()}
    codes = {name: value for name, value in constants.items() if isinstance(value, int)}
    # In the interface only: there are no services before the node is configured.
    codes.pop('NOT_CONFIGURED', None)
    assert codes['INTERNAL'] == 99
    assert codes == {name: ServiceCode[name] for name in codes}


def test_every_code_is_known_to_a_service():
    # A name that a service lacks is sent as INTERNAL.
    of_saving, of_loading = ({*dir(type(kind.Response))} for kind in (SaveMap, LoadMap))
    assert {code.name for code in ServiceCode} <= of_saving | of_loading
    assert {problem.name for problem in MapProblem} <= of_loading
