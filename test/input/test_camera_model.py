"""Calibrations: what is refused, how they scale, and what undistorting must satisfy."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from r3_ros.core.errors import CalibrationError, FrameError
from r3_ros.input.calibration_files import load_camera
from r3_ros.input.camera_model import (
    camera_from_info,
    camera_model,
    CameraModel,
    Rectifier,
    undistort_points,
)
from sequences import CAMERA_YAML

K = np.array([[458.0, 0.0, 367.0], [0.0, 457.0, 248.0], [0.0, 0.0, 1.0]])
BARREL = CameraModel(752, 480, K, 'plumb_bob', (-0.283, 0.074, 0.0002, 0.00002, 0.0))
PINCUSHION = CameraModel(752, 480, K, 'plumb_bob', (0.08, -0.02, 0.0, 0.0, 0.0))
RATIONAL = CameraModel(
    752, 480, K, 'rational_polynomial', (0.5, 0.1, 0.0, 0.0, 0.01, 0.8, 0.2, 0.02)
)
FISHEYE = CameraModel(752, 480, K, 'equidistant', (-0.01, 0.02, -0.01, 0.002))
LENSES = {'barrel': BARREL, 'pincushion': PINCUSHION, 'rational': RATIONAL, 'fisheye': FISHEYE}


def project(model: CameraModel, points: np.ndarray) -> np.ndarray:
    """Return the distorted pixels of (N, 3) points in front of the camera."""
    zero, D = np.zeros(3), np.asarray(model.D)
    if model.distortion_model == 'equidistant':
        return cv2.fisheye.projectPoints(points[None], zero, zero, model.K, D)[0][0]
    return cv2.projectPoints(points, zero, zero, model.K, D)[0][:, 0]


@pytest.fixture
def calibration(tmp_path):
    def write(**changes):
        text = CAMERA_YAML
        for old, new in changes.values():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / 'camera.yaml'
        path.write_text(text)
        return path

    return write


def test_reads_a_ros_calibration(calibration):
    model = load_camera(calibration())
    assert (model.width, model.height) == (64, 48)
    assert model.intrinsics.fx == 51.2 and model.intrinsics.cy == 23.5
    assert not model.is_distorted


def test_a_matrix_of_zeros_means_not_calibrated(calibration):
    path = calibration(K=('[51.2, 0, 31.5, 0, 51.2, 23.5, 0, 0, 1]', '[0,0,0,0,0,0,0,0,0]'))
    assert load_camera(path) is None


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('51.2, 0, 31.5', '.nan, 0, 31.5', 'finite'),
        ('51.2, 0, 31.5', '.inf, 0, 31.5', 'finite'),
        ('51.2, 0, 31.5', '-51.2, 0, 31.5', 'positive'),
        ('51.2, 0, 31.5', '0.8, 0, 0.5', 'in pixels'),
        (
            '{rows: 3, cols: 3, data: [51.2, 0, 31.5, 0, 51.2, 23.5, 0, 0, 1]}',
            '[1, 2]',
            'the form',
        ),
        ('51.2, 0, 31.5', '51.2, 9, 31.5', 'skew'),
        ('[51.2, 0, 31.5, ', '[', 'K needs 9 numbers'),
        ('[0, 0, 0, 0, 0]', '[0, 0, .nan, 0, 0]', 'finite'),
        ('[0, 0, 0, 0, 0]', '[0.1, 0, 0]', 'takes 4, 5, 8, 12, 14 distortion'),
        ('plumb_bob', 'fancy', "unknown distortion model 'fancy'"),
        ('image_width: 64', 'image_width: -3', 'positive'),
        ('image_width: 64', 'image_width: wide', 'wrong type'),
        ('image_width: 64', 'picture_width: 64', 'image_width'),
        ('image_width: 64', '\t: {', 'YAML'),
    ],
)
def test_refuses_unusable_calibrations_and_says_why(calibration, old, new, message):
    path = calibration(change=(old, new))
    with pytest.raises(CalibrationError, match=message) as error:
        load_camera(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CalibrationError, match=r'nowhere\.yaml'):
        load_camera(tmp_path / 'nowhere.yaml')


def test_scaling_moves_pixel_edges_not_centres():
    half = BARREL.scaled_to(376, 240)
    # The left edge of the image is at -0.5 before and after.
    assert half.K[0, 2] + 0.5 == pytest.approx((K[0, 2] + 0.5) / 2)
    assert half.K[0, 0] == pytest.approx(K[0, 0] / 2)
    assert half.D == BARREL.D


def test_scaling_refuses_another_shape():
    with pytest.raises(CalibrationError, match='752x480.*480x752'):
        BARREL.scaled_to(480, 752)


def delivered_camera(x, y, width, height, binning):
    roi = SimpleNamespace(x_offset=x, y_offset=y, width=width, height=height)
    info = SimpleNamespace(
        **{'k': K.reshape(-1), 'd': BARREL.D, 'p': [], 'distortion_model': 'plumb_bob'},
        **{'width': 752, 'height': 480, 'roi': roi, 'binning_x': binning, 'binning_y': binning},
    )
    return camera_from_info(info, 752, 480)


def test_region_and_binning_keep_rays():
    delivered = delivered_camera(100, 40, 400, 400, binning=2)
    assert (delivered.width, delivered.height) == (200, 200)
    # The ray through the full image's pixel edge (100 - 0.5) is that through the new left edge.
    ray = (100 - 0.5 - K[0, 2]) / K[0, 0]
    assert (-0.5 - delivered.K[0, 2]) / delivered.K[0, 0] == pytest.approx(ray)
    with pytest.raises(CalibrationError, match='region of interest'):
        delivered_camera(700, 0, 100, 100, binning=0)


def test_rectified_uses_the_projection_matrix():
    P = [400, 0, 370, 0, 0, 400, 250, 0, 0, 0, 1, 0]
    model = camera_model(752, 480, K.reshape(-1), 'plumb_bob', BARREL.D, P)
    assert model.rectified().K[0, 0] == 400 and not model.rectified().is_distorted
    # Drivers of pinhole cameras leave P empty.
    empty = camera_model(752, 480, K.reshape(-1), 'plumb_bob', (), [0] * 12)
    assert empty.rectified().K[0, 0] == K[0, 0]


@pytest.mark.parametrize('name', LENSES)
def test_undistorted_points_project_back(name):
    model = LENSES[name]
    rng = np.random.default_rng(0)
    pixels = rng.uniform([0, 0], [751, 479], (200, 2))
    rays = undistort_points(pixels, model)
    points = np.concatenate([rays, np.ones((200, 1))], axis=1)
    np.testing.assert_allclose(project(model, points), pixels, atol=1e-5)


@pytest.mark.parametrize('name', LENSES)
def test_rectified_images_are_pinhole_and_full(name):
    """A point lands where the new pinhole says, and no pixel is left without a source."""
    model = LENSES[name]
    rectifier = Rectifier(model)
    intrinsics = rectifier.intrinsics
    assert (intrinsics.width, intrinsics.height) == (752, 480)
    assert (rectifier.rectify(np.full((480, 752, 3), 255, np.uint8)) == 255).all()
    ray = np.array([[0.31, -0.22, 1.0]])
    u, v = project(model, ray)[0]
    y, x = np.mgrid[:480, :752]
    blob = (255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 18)).astype(np.uint8)
    moved = rectifier.rectify(blob).astype(float)
    centre = np.array([(moved * x).sum(), (moved * y).sum()]) / moved.sum()
    expected = (
        intrinsics.fx * 0.31 + intrinsics.cx,
        intrinsics.fy * -0.22 + intrinsics.cy,
    )
    np.testing.assert_allclose(centre, expected, atol=0.2)


def test_without_distortion_the_image_is_passed_through():
    rectifier = Rectifier(CameraModel(752, 480, K, 'plumb_bob', (0.0,) * 5))
    image = np.zeros((480, 752, 3), np.uint8)
    assert rectifier.is_identity and rectifier.rectify(image) is image


def test_equidistant_without_coefficients_is_still_distorted():
    # An equidistant lens bends lines even with zero coefficients.
    assert not Rectifier(CameraModel(752, 480, K, 'equidistant', (0.0,) * 4)).is_identity


def test_rectifying_another_size_is_refused():
    with pytest.raises(FrameError, match='640x480.*752x480'):
        Rectifier(BARREL).rectify(np.zeros((480, 640, 3), np.uint8))
