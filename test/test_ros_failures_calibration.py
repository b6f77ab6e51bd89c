"""Calibrations that are missing, useless, late, or break."""

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from r3_ros.msg import StreamStatus
from r3_ros.ros.messages import camera_info_message
from ros_graph import CAMERA, image_message
from scripted import intrinsics, START_NS
from sensor_msgs.msg import CameraInfo

pytestmark = pytest.mark.ros


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
