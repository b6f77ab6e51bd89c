"""Calibrations that are missing, useless, late, or break."""

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from r3_ros.msg import StreamStatus
from r3_ros.ros.outputs.messages import camera_info_message
from ros_graph import CAMERA, image_message
from scripted import intrinsics, START_NS
from sensor_msgs.msg import CameraInfo, RegionOfInterest

pytestmark = pytest.mark.ros


def test_a_calibration_is_used(graph):
    g = graph(input__camera_info_timeout=20.0).start()
    statuses = g.listen('/r3/status', StreamStatus)
    g.send(calibrated=True)
    g.until(lambda: statuses and statuses[-1].frames_processed)
    assert statuses[-1].fov_x_calibrated == pytest.approx(intrinsics().fov_x)
    assert g.health.camera_info == 'valid'


def test_the_first_image_waits_for_its_calibration(graph):
    g = graph(input__camera_info_timeout=20.0).start()
    g.images.publish(image_message(START_NS))
    g.until(lambda: g.node.worker._waiting is not None)
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
def test_a_useless_calibration_is_reported_and_the_stream_goes_on(graph, changes, status):
    g = graph(input__camera_info_timeout=20.0).start()
    info = camera_info_message(START_NS, CAMERA, intrinsics())
    for name, value in changes.items():
        setattr(info, name, value)
    g.infos.publish(info)
    g.until(lambda: g.node.worker.camera._info is not None)
    g.send_many(3)
    assert g.health.camera_info == status
    assert g.health.frames_processed == 3


def test_a_calibration_that_comes_late_starts_a_new_session(graph):
    g = graph().start()
    g.send_many(3)
    assert g.health.camera_info == 'missing'
    g.infos.publish(camera_info_message(START_NS, CAMERA, intrinsics()))
    g.until(lambda: g.node.worker.camera._info is not None)
    g.send_many(2)
    session = g.node.worker.engine.session
    assert (session.session_id, session.frame_count) == (1, 2)


def test_a_calibration_that_breaks_later_is_not_taken(graph):
    g = graph(input__camera_info_timeout=20.0).start()
    g.send(calibrated=True)
    g.infos.publish(CameraInfo())
    g.until(lambda: not g.node.worker.camera._info.k[0])
    g.send_many(2)
    assert g.health.camera_info == 'valid'
    assert g.node.worker.camera.calibration.intrinsics == intrinsics()


@pytest.mark.parametrize(
    ('changes', 'expected'),
    [
        # Twice the size of the images: scaled.
        ({'width': 128, 'height': 96}, intrinsics(128, 96).resized(64, 48)),
        # Binned by two: so is the image that it speaks of.
        ({'width': 128, 'height': 96, 'binning_x': 2, 'binning_y': 2}, None),
        # The right half of a wider sensor.
        (
            {'width': 128, 'height': 48,
             'roi': RegionOfInterest(x_offset=64, width=64, height=48)},
            None,
        ),
    ],
)  # fmt: skip
def test_a_calibration_of_another_cut_of_the_sensor_is_made_to_fit(graph, changes, expected):
    g = graph(input__camera_info_timeout=20.0).start()
    sensor = intrinsics(changes['width'], changes['height'])
    info = camera_info_message(START_NS, CAMERA, sensor)
    for name, value in changes.items():
        setattr(info, name, value)
    g.infos.publish(info)
    g.until(lambda: g.node.worker.camera._info is not None)
    g.send()
    assert g.health.camera_info == 'valid'
    found = g.node.worker.camera.calibration.intrinsics
    if 'binning_x' in changes:
        expected = sensor.resized(64, 48)
    if 'roi' in changes:
        expected = sensor.cropped(64, 0, 64, 48)
    assert (found.width, found.height) == (64, 48)
    assert found.K == pytest.approx(expected.K)


def test_an_unknown_distortion_model_is_reported_once_and_not_undone(graph, capfd):
    g = graph(input__camera_info_timeout=20.0).start()
    info = camera_info_message(START_NS, CAMERA, intrinsics())
    info.distortion_model, info.d = 'kaleidoscope', [0.1] * 5
    for _ in range(3):
        g.infos.publish(info)
        g.until(lambda: g.node.worker.camera._info is not None)
        g.send()
    assert (g.health.camera_info, g.health.rectified) == ('valid', False)
    assert capfd.readouterr().err.count("'kaleidoscope'") == 1


def test_distortion_is_undone(graph):
    g = graph(input__camera_info_timeout=20.0).start()
    info = camera_info_message(START_NS, CAMERA, intrinsics())
    info.d = [-0.2, 0.05, 0.0, 0.0, 0.0]
    g.infos.publish(info)
    g.until(lambda: g.node.worker.camera._info is not None)
    g.send()
    assert (g.health.camera_info, g.health.rectified) == ('valid', True)
