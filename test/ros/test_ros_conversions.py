"""Image and CameraInfo messages become images and calibrations, or clear errors."""

import array
import math
import tracemalloc

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from encoded_images import (
    CASES,
    HEIGHT,
    message,
    nv12,
    RGB,
    SMOOTH,
    WIDTH,
)
from r3_ros.core.config import InputConfig
from r3_ros.core.errors import FrameError
from r3_ros.input.image_decoding import ENCODINGS
from r3_ros.ros.inputs.camera_input import (
    calibrate,
    CameraInput,
    NAMELESS_FRAME,
    same_calibration,
)
from r3_ros.ros.outputs.health import Health
from r3_ros.ros.outputs.messages import header_message
from rclpy.clock import Clock
from rclpy.logging import get_logger
from rolling_texture import rolling_image, texture
from ros_graph import image_message
from scripted import START_NS
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest

pytestmark = pytest.mark.ros


def camera_input(hint='', frame='', **options):
    config = InputConfig(encoding_hint=hint, **options)
    return CameraInput(config, frame, 'image', Clock(), Health(), get_logger('camera'))


def read(image, hint=''):
    return camera_input(hint).read(image)


def test_an_image_is_copied_only_to_convert_it():
    """rgb8 and mono8 are not copied at all on their way from the message to the engine."""
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    for encoding, copies in (('rgb8', 0), ('bgr8', 1), ('mono8', 0)):
        sent = pixels[..., 0] if encoding == 'mono8' else pixels
        given = image_message(START_NS, np.ascontiguousarray(sent), encoding)
        camera = camera_input()
        tracemalloc.start()
        decoded = camera.read(given)
        camera.choose_calibration(decoded)
        frame = camera.to_frame(decoded)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak // pixels.nbytes == copies, encoding
        assert np.shares_memory(frame.image, np.asarray(given.data)) == (copies == 0)


def test_rows_of_a_rolling_shutter_are_moved_as_configured():
    seen, left = texture(), []
    for readout_s in (0.0, 0.04):
        camera = camera_input(readout_time=readout_s)
        for n in range(3):
            image = rolling_image(seen, lambda t: (300 * t, 0 * t), n / 20, 0.04)
            decoded = camera.read(image_message(START_NS + n * 50_000_000, image, 'mono8'))
            camera.choose_calibration(decoded)
            frame = camera.to_frame(decoded)
        expected = rolling_image(seen, lambda t: (300 * t, 0 * t), 2 / 20).astype(int)
        left.append(np.abs(frame.image - expected)[30:-30, 30:-30].mean())
    assert left[1] < 0.25 * left[0]


def worst(image, expected):
    inside = (slice(4, -4), slice(4, -4))  # a mosaic has no neighbours beyond the border
    return np.abs(image[inside].astype(int) - expected[inside].astype(int)).max()


def test_every_encoding_has_a_case():
    assert CASES.keys() == set(ENCODINGS)


@pytest.mark.parametrize('padding', [b'', b'\xff' * 7], ids=['packed', 'padded'])
@pytest.mark.parametrize('encoding', CASES)
def test_encodings(encoding, padding):
    pixels, expected, tolerance = CASES[encoding]
    camera = camera_input()
    found = camera.read(message(pixels, encoding, padding=padding))
    assert found.image.shape == expected.shape
    assert found.image.dtype == np.uint8
    assert worst(found.image, expected) <= tolerance
    assert camera._health.encoding == encoding


@pytest.mark.parametrize('encoding', ['mono16', '16UC1'])
def test_big_endian_words(encoding):
    pixels, expected, _ = CASES[encoding]
    found = read(message(pixels.astype('>u2'), encoding, is_bigendian=1))
    np.testing.assert_array_equal(found.image, expected)


def test_packed_rgb_is_not_copied():
    image = message(RGB, 'rgb8')
    assert np.shares_memory(read(image).image, np.frombuffer(image.data, np.uint8))


def test_hint_says_what_untyped_pixels_are():
    found = read(message(RGB, '8UC3'), hint='rgb8')
    np.testing.assert_array_equal(found.image, RGB)
    assert found.note == ''
    assert '8UC3 is read as bgr8' in read(message(RGB, '8UC3')).note


@pytest.mark.parametrize(
    ('image', 'words'),
    [
        (message(RGB, 'rgb8', step=WIDTH), 'contradict'),
        (message(RGB, 'rgb8', step=0), 'contradict'),
        (message(RGB, 'rgb8', height=HEIGHT + 1), 'cut off'),
        (message(RGB, 'rgb8', height=HEIGHT - 1), 'more than'),
        (message(RGB[:1], 'rgb8', height=HEIGHT), 'cut off'),
        (message(RGB, 'rgb8', height=0), '64x0'),
        (message(nv12()[:HEIGHT], 'nv12'), 'cut off'),
        (message(RGB, ''), 'not supported'),
        (message(RGB, 'lsd9'), 'not supported'),
    ],
    ids=lambda value: value.encoding if isinstance(value, Image) else value,
)
def test_contradictions_are_refused_in_words(image, words):
    with pytest.raises(FrameError, match=words):
        read(image)


def compressed(extension, image=RGB, kind=None):
    data = cv2.imencode(f'.{extension}', image[..., ::-1])[1].tobytes()
    return CompressedImage(
        header=header_message(START_NS, 'camera'),
        format=kind or f'bgr8; {extension} compressed bgr8',
        data=array.array('B', data),
    )


@pytest.mark.parametrize(('extension', 'tolerance'), [('png', 0), ('jpg', 12)])
def test_compressed(extension, tolerance):
    found = read(compressed(extension, SMOOTH))
    assert worst(found.image, SMOOTH) <= tolerance


@pytest.mark.parametrize('extension', ['png', 'jpg'])
@pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 0.98])
def test_cut_off_files_are_refused(extension, share):
    image = compressed(extension)
    image.data = image.data[: int(share * len(image.data))]
    with pytest.raises(FrameError, match='empty|cut off|damaged'):
        read(image)


def test_compressed_depth_is_no_image():
    with pytest.raises(FrameError, match='depth'):
        read(compressed('png', kind='16UC1; compressedDepth png'))


def test_stamp_is_copied_to_the_nanosecond():
    assert read(message(RGB, 'rgb8')).stamp_ns == START_NS


def test_zero_stamp_and_empty_frame_are_made_up_and_said():
    image = message(RGB, 'rgb8')
    image.header = header_message(0, '')
    found = read(image)
    assert found.stamp_ns > 0
    assert 'no stamp' in found.note
    assert 'camera_optical_frame' in found.note
    for override, frame in (('', NAMELESS_FRAME), ('cam', 'cam')):
        camera = camera_input(frame=override)
        assert camera.optical_frame(image) == frame


K = [50.0, 0, 31.5, 0, 51.0, 23.5, 0, 0, 1]


def info(**changes):
    values = {'width': WIDTH, 'height': HEIGHT, 'k': K, 'distortion_model': 'plumb_bob'}
    values |= {'d': [0.0] * 5, 'r': np.eye(3).ravel(), 'p': [*K[:3], 0, *K[3:6], 0, 0, 0, 1, 0]}
    return CameraInfo(**(values | changes))


def judge(camera_info, size=(WIDTH, HEIGHT), topic='/camera/image_raw', **options):
    return calibrate(camera_info, *size, InputConfig(**options), topic)


def test_good_calibration():
    found = judge(info())
    assert (found.status, found.problem, found.rectifier) == ('valid', '', None)
    np.testing.assert_array_equal(found.intrinsics.K.ravel(), K)


@pytest.mark.parametrize(
    ('camera_info', 'status', 'words'),
    [
        (None, 'missing', 'no CameraInfo'),
        (info(k=[0.0] * 9), 'zero', 'uncalibrated'),
        (info(k=[math.nan, *K[1:]]), 'invalid', 'finite'),
        (info(k=[math.inf, *K[1:]]), 'invalid', 'finite'),
        (info(k=[-50.0, *K[1:]]), 'invalid', 'positive'),
        (info(width=80, height=48), 'size mismatch', 'another aspect ratio'),
        (info(roi=RegionOfInterest(x_offset=60, width=32, height=32)), 'invalid', 'not inside'),
    ],
)
def test_bad_calibration_is_reported_and_the_focal_length_left_to_be_estimated(
    camera_info, status, words
):
    found = judge(camera_info)
    assert found.status == status
    assert words in found.problem
    assert found.intrinsics is None
    assert found.rectifier is None


def test_calibration_of_a_larger_image_is_scaled():
    intrinsics = judge(info(width=128, height=96)).intrinsics
    assert (intrinsics.fx, intrinsics.cx) == (25.0, 15.5)


def test_region_of_interest_then_binning():
    roi = RegionOfInterest(x_offset=10, y_offset=20, width=128, height=96)
    full = info(width=320, height=240, roi=roi, binning_x=2, binning_y=2)
    intrinsics = judge(full).intrinsics
    assert intrinsics.fx == 25.0
    assert intrinsics.cx == (31.5 - 10 + 0.5) / 2 - 0.5
    assert intrinsics.cy == (23.5 - 20 + 0.5) / 2 - 0.5


@pytest.mark.parametrize(
    ('topic', 'option', 'undone'),
    [
        ('/camera/image_raw', 'auto', True),
        ('/camera/image_rect', 'auto', False),
        ('/camera/image_rect/compressed', 'auto', False),
        ('/camera/image_direct', 'auto', True),
        ('/camera/image_rect', 'on', True),
        ('/rectangle/image_raw', 'auto', True),
        ('/camera/image_raw', 'off', False),
    ],
)
def test_rectification(topic, option, undone):
    p = [40.0, 0, 30.0, 0, 0, 41.0, 22.0, 0, 0, 0, 1, 0]
    found = judge(info(d=[-0.3, 0.1, 0, 0, 0], p=p), topic=topic, rectification=option)
    assert (found.rectifier is not None) == undone
    assert not undone or found.rectifier.rectify(RGB) is not RGB
    if 'image_rect' in topic and option == 'auto':
        assert found.intrinsics.fx == 40.0, 'P describes a rectified image'


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'d': [0.1] * 5, 'distortion_model': 'fancy'}, "'fancy'"),
        ({'d': [0.1, 0.2]}, 'got 2'),
        ({'d': [0.0] * 5, 'distortion_model': 'fisheye'}, 'fisheye takes 4'),
        ({'d': [math.nan] * 5}, 'finite'),
    ],
)
def test_distortion_that_cannot_be_read_is_reported_and_not_undone(changes, words):
    found = judge(info(**changes))
    assert found.status == 'valid'
    assert words in found.problem and 'not undistorted' in found.problem
    assert found.rectifier is None
    assert found.intrinsics.fx == 50.0


@pytest.mark.parametrize(
    ('model', 'D', 'undone', 'words'),
    [
        (
            'plumb_bob',
            [-0.03, 0.035, -1e-4, -1e-4, -0.012, 0.0, 0.0, 0.0],
            True,
            'read as rational',
        ),
        ('plumb_bob', [0.0] * 8, False, ''),
        ('', [-0.1, 0.01, 0.0, 0.0, 0.0], True, ''),
        ('', [], False, ''),
        ('fisheye', [0.01, 0.0, 0.0, 0.0], True, ''),
    ],
)
def test_coefficients_count_more_than_the_name_of_the_model(model, D, undone, words):
    found = judge(info(d=D, distortion_model=model))
    assert (found.status, found.rectifier is not None) == ('valid', undone)
    assert words in found.problem and bool(words) == bool(found.problem)


def test_calibrations_are_compared_by_what_they_say():
    first, second = info(), info(header=header_message(5, 'later'))
    assert same_calibration(first, second)
    assert not same_calibration(first, info(k=[51.0, *K[1:]]))
    assert not same_calibration(first, None)
    assert same_calibration(None, None)
