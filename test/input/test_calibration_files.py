"""Calibration files of other tools: each gives the same camera, and what is refused."""

import json

import numpy as np
import pytest
from r3_ros.core.errors import CalibrationError
from r3_ros.input.calibration_files import load_camera
from r3_ros.input.open_source import open_source
from sequences import CAMERA_YAML, write_folder, write_video

K = np.array([[451.5, 0, 321.0], [0, 452.5, 239.0], [0, 0, 1]])
POLYNOMIAL = (-0.3, 0.1, 0.001, -0.002)
FISHEYE = (0.01, -0.02, 0.003, -0.0004)
SIZE = (640, 480)


def kalibr(model, coefficients, kind='pinhole'):
    return f"""\
cam0:
  camera_model: {kind}
  intrinsics: [451.5, 452.5, 321.0, 239.0]
  distortion_model: {model}
  distortion_coeffs: {list(coefficients)}
  resolution: [640, 480]
  rostopic: /cam0/image_raw
"""


def orb_slam(prefix, kind, names, size='Camera.width: 640\nCamera.height: 480\n'):
    values = {'k1': -0.3, 'k2': 0.1, 'p1': 0.001, 'p2': -0.002}
    if kind == 'KannalaBrandt8':
        values = dict(zip(('k1', 'k2', 'k3', 'k4'), FISHEYE, strict=True))
    values |= {'fx': 451.5, 'fy': 452.5, 'cx': 321.0, 'cy': 239.0}
    lines = [f'{prefix}.{name}: {values[name]}' for name in (*names, 'fx', 'fy', 'cx', 'cy')]
    return '\n'.join(['%YAML:1.0', '---', f'Camera.type: "{kind}"', size, *lines]) + '\n'


def opencv(D, names=('camera_matrix', 'distortion_coefficients'), more=''):
    def matrix(name, rows, cols, values):
        return (
            f'{name}: !!opencv-matrix\n   rows: {rows}\n   cols: {cols}\n   dt: d\n'
            f'   data: {[float(v) for v in values]}\n'
        )

    return (
        f'%YAML:1.0\n---\n{more}'
        + matrix(names[0], 3, 3, K.ravel())
        + matrix(names[1], 1, len(D), D)
    )


def nerfstudio(**changes):
    content = {'w': 640, 'h': 480, 'fl_x': 451.5, 'fl_y': 452.5, 'cx': 321.5, 'cy': 239.5}
    return json.dumps(content | {'frames': []} | changes)


EUROC = """\
sensor_type: camera
T_BS:
  cols: 4
  rows: 4
  data: [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
resolution: [640, 480]
camera_model: pinhole
intrinsics: [451.5, 452.5, 321.0, 239.0]
distortion_model: radial-tangential
distortion_coefficients: [-0.3, 0.1, 0.001, -0.002]
"""
XML = """\
<?xml version="1.0"?>
<opencv_storage>
<K type_id="opencv-matrix">
  <rows>3</rows><cols>3</cols><dt>d</dt>
  <data>451.5 0. 321. 0. 452.5 239. 0. 0. 1.</data></K>
<D type_id="opencv-matrix">
  <rows>1</rows><cols>4</cols><dt>d</dt>
  <data>-0.3 0.1 0.001 -0.002</data></D>
</opencv_storage>
"""
CAMERA_INFO = """\
header: {stamp: {sec: 1, nanosec: 2}, frame_id: cam}
height: 480
width: 640
distortion_model: plumb_bob
d: [-0.3, 0.1, 0.001, -0.002]
k: [451.5, 0.0, 321.0, 0.0, 452.5, 239.0, 0.0, 0.0, 1.0]
p: [451.5, 0.0, 321.0, 0.0, 0.0, 452.5, 239.0, 0.0, 0.0, 0.0, 1.0, 0.0]
---
"""
VINS = """\
%YAML:1.0
---
model_type: {}
image_width: 640
image_height: 480
{}_parameters:
{}
projection_parameters:
{}
"""
VINS_PINHOLE = VINS.format(
    'PINHOLE',
    'distortion',
    '   k1: -0.3\n   k2: 0.1\n   p1: 0.001\n   p2: -0.002',
    '   fx: 451.5\n   fy: 452.5\n   cx: 321.0\n   cy: 239.0',
)
VINS_FISHEYE = VINS.format(
    'KANNALA_BRANDT',
    'other',
    '   a: 1',
    '   k2: 0.01\n   k3: -0.02\n   k4: 0.003\n   k5: -0.0004\n'
    '   mu: 451.5\n   mv: 452.5\n   u0: 321.0\n   v0: 239.0',
)
KITTI = 'P0: 451.5 0 321.0 0 0 452.5 239.0 0 0 0 1 0\n'
PLUMB_BOB, WITH_K3 = ('plumb_bob', POLYNOMIAL), ('plumb_bob', (*POLYNOMIAL, 0.0))
EQUIDISTANT, UNDISTORTED = ('equidistant', FISHEYE), ('plumb_bob', ())
HAS_SIZE, NO_SIZE = SIZE, (0, 0)
RATIONAL = (-0.3, 0.1, 0.001, -0.002, 0.01, 0.2, 0.3, 0.04)


@pytest.mark.parametrize(
    ('name', 'content', 'lens', 'size'),
    [
        ('info.yaml', CAMERA_INFO, PLUMB_BOB, SIZE),
        ('kalibr.yaml', kalibr('radtan', POLYNOMIAL), PLUMB_BOB, SIZE),
        ('kalibr.yaml', kalibr('equidistant', FISHEYE), EQUIDISTANT, SIZE),
        ('kalibr.yaml', kalibr('none', ()), UNDISTORTED, SIZE),
        ('sensor.yaml', EUROC, PLUMB_BOB, SIZE),
        ('a.yaml', orb_slam('Camera1', 'PinHole', ('k1', 'k2', 'p1', 'p2')), WITH_K3, SIZE),
        ('a.yaml', orb_slam('Camera', 'PinHole', ('k1', 'k2', 'p1', 'p2'), ''), WITH_K3, NO_SIZE),
        ('a.yaml', orb_slam('Camera1', 'Rectified', ()), UNDISTORTED, SIZE),
        ('a', orb_slam('Camera', 'KannalaBrandt8', ('k1', 'k2', 'k3', 'k4')), EQUIDISTANT, SIZE),
        ('cv.yml', opencv(POLYNOMIAL), PLUMB_BOB, NO_SIZE),
        ('cv.yml', opencv(POLYNOMIAL, ('K', 'D')), PLUMB_BOB, NO_SIZE),
        (
            'cv.yml',
            opencv(POLYNOMIAL, more='image_width: 640\nimage_height: 480\n'),
            PLUMB_BOB,
            SIZE,
        ),
        (
            'cv.yml',
            opencv(FISHEYE, more='image_width: 640\nimage_height: 480\nfisheye_model: 1\n'),
            EQUIDISTANT,
            SIZE,
        ),
        ('cv.xml', XML, PLUMB_BOB, NO_SIZE),
        ('vins.yaml', VINS_PINHOLE, PLUMB_BOB, SIZE),
        ('vins.yaml', VINS_FISHEYE, EQUIDISTANT, SIZE),
        ('calib.txt', KITTI, UNDISTORTED, NO_SIZE),
        ('cameras.txt', '# c\n1 PINHOLE 640 480 451.5 452.5 321.5 239.5\n', UNDISTORTED, SIZE),
        (
            'cameras.txt',
            '1 OPENCV 640 480 451.5 452.5 321.5 239.5 -0.3 0.1 0.001 -0.002\n',
            WITH_K3,
            SIZE,
        ),
        (
            'cameras.txt',
            '1 FULL_OPENCV 640 480 451.5 452.5 321.5 239.5 ' + ' '.join(map(str, RATIONAL)),
            ('rational_polynomial', RATIONAL),
            SIZE,
        ),
        (
            'cameras.txt',
            '1 OPENCV_FISHEYE 640 480 451.5 452.5 321.5 239.5 0.01 -0.02 0.003 -0.0004\n',
            EQUIDISTANT,
            SIZE,
        ),
        ('transforms.json', nerfstudio(), ('plumb_bob', (0.0,) * 5), SIZE),
        (
            'transforms.json',
            nerfstudio(camera_model='OPENCV', k1=-0.3, k2=0.1, p1=0.001, p2=-0.002),
            WITH_K3,
            SIZE,
        ),
        (
            'transforms.json',
            nerfstudio(camera_model='OPENCV_FISHEYE', k1=0.01, k2=-0.02, k3=0.003, k4=-0.0004),
            EQUIDISTANT,
            SIZE,
        ),
        ('calibration.txt', '451.5 452.5 321.0 239.0\n', UNDISTORTED, NO_SIZE),
        (
            'intrinsic_color.txt',
            '451.5 0 321 0\n0 452.5 239 0\n0 0 1 0\n0 0 0 1\n',
            UNDISTORTED,
            NO_SIZE,
        ),
    ],
)
def test_every_format_gives_the_same_camera(tmp_path, name, content, lens, size):
    (tmp_path / name).write_text(content)
    camera = load_camera(tmp_path / name)
    np.testing.assert_allclose(camera.K, K)
    assert (camera.width, camera.height) == size
    assert camera.distortion_model == lens[0] and not camera.note
    assert not any(np.subtract(camera.D or (0.0,), lens[1] or (0.0,)))


@pytest.mark.parametrize(
    ('content', 'focal'),
    [
        ('1 SIMPLE_PINHOLE 640 480 500 320.5 240.5', 500),
        ('1 SIMPLE_RADIAL 640 480 500 320.5 240.5 -0.1', 500),
        ('1 RADIAL 640 480 500 320.5 240.5 -0.1 0.01', 500),
        ('1 RADIAL_FISHEYE 640 480 500 320.5 240.5 -0.1 0.01', 500),
    ],
)
def test_one_focal_length_of_colmap_is_both(tmp_path, content, focal):
    (tmp_path / 'cameras.txt').write_text(content)
    camera = load_camera(tmp_path / 'cameras.txt')
    assert (camera.K[0, 0], camera.K[1, 1], camera.K[0, 2]) == (focal, focal, 320)
    assert camera.distortion_model == ('equidistant' if 'FISHEYE' in content else 'plumb_bob')


def test_the_field_of_view_of_instant_ngp(tmp_path):
    content = {'w': 640, 'h': 480, 'camera_angle_x': 2 * np.arctan(320 / 500), 'frames': []}
    (tmp_path / 'transforms.json').write_text(json.dumps(content))
    camera = load_camera(tmp_path / 'transforms.json')
    np.testing.assert_allclose(camera.K, [[500, 0, 319.5], [0, 500, 239.5], [0, 0, 1]])


@pytest.mark.parametrize(
    ('asked', 'focal', 'note'),
    [('', 451.5, 'cam0 of cam0, cam1'), ('cam1', 99.5, ''), ('/cam1/image_raw', 99.5, '')],
)
def test_of_several_cameras_that_of_the_images_is_taken(tmp_path, asked, focal, note):
    second = kalibr('none', ()).replace('cam0', 'cam1').replace('[451.5', '[99.5')
    (tmp_path / 'chain.yaml').write_text(kalibr('none', ()) + second)
    camera = load_camera(tmp_path / 'chain.yaml', asked)
    assert (
        camera.K[0, 0] == focal
        and camera.note.startswith(note)
        and bool(camera.note) == bool(note)
    )


def test_a_camera_of_kitti_is_chosen_by_the_folder(tmp_path):
    (tmp_path / 'calib.txt').write_text(KITTI + KITTI.replace('P0', 'P2').replace('451.5', '99.5'))
    assert load_camera(tmp_path / 'calib.txt', 'image_2').K[0, 0] == 99.5
    assert 'P0 of P0, P2' in load_camera(tmp_path / 'calib.txt').note


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('a.yaml', kalibr('fov', (0.9,)), "'fov', known: plumb_bob, rational_polynomial, equi"),
        ('a.yaml', kalibr('none', (), 'omni'), "'omni' is not supported, only pinhole"),
        ('a.yaml', kalibr('radtan', (0.1, 0.2)), 'takes 4, 5, 8'),
        ('a.yaml', orb_slam('Camera', 'MEI', ()), "'MEI' is not supported, only PinHole"),
        ('a.yaml', VINS_PINHOLE.replace('PINHOLE', 'MEI'), "'MEI' is not supported"),
        ('a.yaml', '%YAML:1.0\n---\na: [1,\n b', r'not valid as OpenCV.*line \(4\): Incorrect'),
        ('a.yaml', '%YAML:1.0\n---\nCamera.fx: 5.0\n', r"'Camera\.fy' is missing"),
        ('a.yaml', EUROC.replace('[451.5, 452.5, 321.0, 239.0]', '[1, 2]'), 'wrong type'),
        ('a.yaml', CAMERA_YAML.replace('[0, 0, 0, 0, 0]', '[a, 0, 0, 0]'), 'wrong type'),
        (
            'cameras.txt',
            '1 FOV 640 480 1 1 1 1 1\n',
            "'FOV' is not supported, only SIMPLE_PINHOLE",
        ),
        ('cameras.txt', '1 PINHOLE 640 480 1 1\n', 'wrong type'),
        ('calib.txt', 'P0: 1 2 3\n', 'wrong type'),
        ('calib.txt', 'hello world\n', 'formats that are read: ROS.*Kalibr.*KITTI.*COLMAP'),
        ('a.yaml', 'hello: world\n', 'formats that are read: ROS.*Kalibr.*KITTI.*COLMAP'),
        ('a.json', '{', 'not valid JSON'),
        ('a.json', '{"frames": [{"w": 5, "fl_x": 3}]}', 'each frame has a calibration'),
        ('a.json', nerfstudio(camera_model='EQUIRECTANGULAR'), "'EQUIRECTANGULAR' is not"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(CalibrationError, match=message) as error:
        load_camera(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_a_calibration_without_a_size_is_of_the_images_size(tmp_path):
    (tmp_path / 'calib.txt').write_text('P0: 51 0 31 0 0 51 23 0 0 0 1 0\n')
    for path in (write_folder(tmp_path / 'seq'), write_video(tmp_path / 'a.avi')):
        with open_source(path, camera=tmp_path / 'calib.txt') as source:
            camera = source.camera.scaled_to(64, 48)
        assert (camera.width, camera.height, camera.K[0, 0]) == (64, 48, 51)
    with pytest.raises(CalibrationError, match='principal point.*another size'):
        source.camera.scaled_to(32, 24)
