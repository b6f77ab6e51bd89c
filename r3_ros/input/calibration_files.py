"""Calibration files of ROS and of other tools, told apart by their content.

To add a format, write a function that returns its calibration and add it to :data:`FORMATS`.
All use pixel centres at integer coordinates, except COLMAP and nerfstudio, whose first pixel has
its centre at (0.5, 0.5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
import json
from pathlib import Path
import re
from typing import Any

import cv2
import numpy as np
import yaml

from ..core.errors import CalibrationError
from .camera_model import camera_model, CameraModel

#: Names of matrices in files of OpenCV programs.
_OPENCV_K = ('camera_matrix', 'Camera_Matrix', 'cameraMatrix', 'intrinsic_matrix', 'K', 'M1')
_OPENCV_D = (
    'distortion_coefficients', 'Distortion_Coefficients', 'distCoeffs', 'dist_coeffs', 'D', 'D1',
)  # fmt: skip
_COLMAP_CORNER = 0.5
#: Names of COLMAP's parameters; ``f`` is both focal lengths.
_COLMAP_MODELS = {
    'SIMPLE_PINHOLE': 'f cx cy',
    'PINHOLE': 'fx fy cx cy',
    'SIMPLE_RADIAL': 'f cx cy k1',
    'RADIAL': 'f cx cy k1 k2',
    'OPENCV': 'fx fy cx cy k1 k2 p1 p2',
    'FULL_OPENCV': 'fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6',
    'SIMPLE_RADIAL_FISHEYE': 'f cx cy k1',
    'RADIAL_FISHEYE': 'f cx cy k1 k2',
    'OPENCV_FISHEYE': 'fx fy cx cy k1 k2 k3 k4',
}
#: What nerfstudio calls cameras beside COLMAP's names.
_PERSPECTIVE = ('', 'PERSPECTIVE', 'PINHOLE', 'SIMPLE_PINHOLE')


def load_camera(path: Path | str, camera: str = '') -> CameraModel | None:
    """Read a calibration file; None if it says that the camera is not calibrated (K of zeros).

    :param camera: of several in the file: a name that ends with its number, as ``cam1``,
        ``image_2`` or a topic; without it the first is taken, and a note says so.
    :raises CalibrationError: unreadable, of an unknown format, incomplete, or unusable.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f'cannot read the camera calibration {path}: {error}') from error
    try:
        content = _content(text, path)
        for is_format, read in FORMATS.values():
            if is_format(content):
                return read(content, camera)
    except KeyError as error:
        raise CalibrationError(f'{path} is no camera calibration: {error} is missing') from error
    except (TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise CalibrationError(f'{path} holds a value of the wrong type: {error}') from error
    except CalibrationError as error:
        raise CalibrationError(f'{path}: {error}') from error
    raise CalibrationError(
        f'{path} is no camera calibration; formats that are read: ' + ', '.join(FORMATS)
    )


def is_calibration(path: Path) -> bool:
    """Return whether a file is of a format that is read, usable or not."""
    try:
        content = _content(path.read_text(encoding='utf-8-sig'), path)
    except (OSError, UnicodeDecodeError, CalibrationError):
        return False
    return any(is_format(content) for is_format, _ in FORMATS.values())


def _content(text: str, path: Path) -> Any:
    """Return the mapping of a YAML or JSON file, or the rows of words of any other."""
    if text.startswith(('%YAML:1.0', '<?xml')) or '!!opencv-matrix' in text:
        return _opencv_content(text)
    if path.suffix == '.txt' or text.startswith('#') and 'CAMERA_ID' in text:
        lines = (line.split('#')[0].replace(',', ' ').split() for line in text.splitlines())
        return [line for line in lines if line]
    try:
        if path.suffix == '.json':
            content = json.loads(text)
        else:
            # The first of several documents: `ros2 topic echo` writes one per message.
            content = next(yaml.safe_load_all(text), None)
    except json.JSONDecodeError as error:
        raise CalibrationError(f'it is not valid JSON: {error}') from error
    except yaml.YAMLError as error:
        raise CalibrationError(f'it is not valid YAML: {error}') from error
    if not isinstance(content, dict):
        raise CalibrationError('it is no camera calibration: it must hold a YAML mapping')
    return content


def _opencv_content(text: str) -> dict[str, Any]:
    """Return the content of a file of OpenCV's ``FileStorage``, matrices as ROS writes them."""
    if not text.startswith(('%YAML', '<?xml')):
        text = f'%YAML:1.0\n---\n{text}'
    try:
        storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
        return _node_content(storage.root())
    except (cv2.error, SystemError) as error:
        # OpenCV puts line and reason of a parsing error where it names functions elsewhere.
        where = getattr(error.__cause__, 'func', '')
        raise CalibrationError(
            'it is not valid as OpenCV writes YAML and XML' + (f', line {where}' if where else '')
        ) from error


def _node_content(node: Any) -> Any:
    if node.isReal() or node.isInt():
        return node.real()
    if node.isString():
        return node.string()
    if node.isSeq():
        return [_node_content(node.at(i)) for i in range(node.size())]
    if node.isMap() and {'rows', 'cols', 'dt', 'data'} <= set(node.keys()):
        return {'data': [float(value) for value in node.mat().ravel()]}
    return {key: _node_content(node.getNode(key)) for key in node.keys()}  # noqa: SIM118


def _numbers(content: Mapping[str, Any], *keys: str, optional: bool = False) -> list[float]:
    """Return the numbers of a matrix under the first of the keys that is there."""
    key = next((key for key in keys if key in content), None)
    if key is None:
        if optional:
            return []
        raise KeyError(keys[0])
    matrix = content[key]
    if isinstance(matrix, dict) and isinstance(matrix.get('data'), list):
        return [float(value) for value in matrix['data']]
    if isinstance(matrix, list) and matrix and isinstance(matrix[0], list):
        return [float(value) for row in matrix for value in row]
    raise CalibrationError(f'{key} must have the form {{rows: 3, cols: 3, data: [...]}}')


def _K(fx: float, fy: float, cx: float, cy: float) -> list[float]:
    return [float(value) for value in (fx, 0, cx, 0, fy, cy, 0, 0, 1)]


def _chosen(names: Sequence[str], camera: str) -> tuple[str, str]:
    """Return the name with the last number of ``camera``, else the first; and a note."""
    number = _number(camera)
    for name in names:
        if number is not None and _number(name) == number:
            return name, ''
    others = ', '.join(names)
    return names[0], f'{names[0]} of {others} is used' if len(names) > 1 else ''


def _number(name: str) -> int | None:
    found = re.findall(r'\d+', name)
    return int(found[-1]) if found else None


def _with_note(model: CameraModel | None, note: str) -> CameraModel | None:
    notes = '; '.join(filter(None, [note, model.note if model else '']))
    return model and replace(model, note=notes)


def _ros(content: dict[str, Any], camera: str) -> CameraModel | None:
    """ROS camera_info YAML, and what OpenCV's calibration sample writes."""
    is_fisheye = bool(content.get('fisheye_model'))
    return camera_model(
        width=int(content['image_width']),
        height=int(content['image_height']),
        K=_numbers(content, 'camera_matrix', 'Camera_Matrix'),
        distortion_model=str(content.get('distortion_model', 'equidistant' if is_fisheye else '')),
        D=_numbers(content, 'distortion_coefficients', 'Distortion_Coefficients', optional=True),
        P=_numbers(content, 'projection_matrix', optional=True),
    )


def _camera_info(content: dict[str, Any], camera: str) -> CameraModel | None:
    """``CameraInfo`` as ``ros2 topic echo`` or ``rostopic echo`` print it."""
    # Capitals in ROS 1.
    K, D, P = (content.get(name, content.get(name.upper(), ())) for name in 'kdp')
    size = int(content['width']), int(content['height'])
    return camera_model(*size, K, str(content.get('distortion_model', '')), D, P)


def _opencv(content: dict[str, Any], camera: str) -> CameraModel | None:
    """Matrices of OpenCV programs that do not write the image size."""
    K = _numbers(content, *_OPENCV_K)
    return camera_model(0, 0, K, '', _numbers(content, *_OPENCV_D, optional=True))


def _euroc(content: dict[str, Any], camera: str) -> CameraModel | None:
    """``sensor.yaml`` of the ASL data set format."""
    _refuse_projection(content.get('camera_model', 'pinhole'))
    width, height = map(int, content['resolution'])
    return camera_model(
        width,
        height,
        _K(*content['intrinsics']),
        str(content.get('distortion_model') or ''),
        content.get('distortion_coefficients') or (),
    )


def _kalibr(content: dict[str, Any], camera: str) -> CameraModel | None:
    names = [name for name in content if isinstance(content[name], dict)]
    of_topic = [n for n in names if camera and content[n].get('rostopic') == camera]
    name, note = (of_topic[0], '') if of_topic else _chosen(names, camera)
    chosen = content[name]
    _refuse_projection(chosen['camera_model'])
    width, height = map(int, chosen['resolution'])
    model = camera_model(
        width,
        height,
        _K(*chosen['intrinsics']),
        str(chosen.get('distortion_model') or ''),
        chosen.get('distortion_coeffs') or (),
    )
    return _with_note(model, note)


def _refuse_projection(name: str) -> None:
    if name != 'pinhole':
        raise CalibrationError(
            f"the camera model '{name}' is not supported, only pinhole: calibrate with pinhole "
            'and radtan, or equi for a fisheye lens'
        )


def _orb_slam(content: dict[str, Any], camera: str) -> CameraModel | None:
    """ORB-SLAM settings: one number per key."""
    prefix = 'Camera1' if 'Camera1.fx' in content else 'Camera'
    kind = str(content.get('Camera.type', 'PinHole')).lower()
    if kind not in ('pinhole', 'rectified', 'kannalabrandt8'):
        raise CalibrationError(
            f"the camera type '{content['Camera.type']}' is not supported, only PinHole, "
            'Rectified and KannalaBrandt8'
        )

    def of(key: str) -> float:
        return float(content[f'{prefix}.{key}'])

    keys = ('k1', 'k2', 'k3', 'k4') if kind == 'kannalabrandt8' else ('k1', 'k2', 'p1', 'p2', 'k3')
    D = [float(content.get(f'{prefix}.{key}', 0.0)) for key in keys]
    return camera_model(
        int(content.get('Camera.width', 0)),
        int(content.get('Camera.height', 0)),
        _K(of('fx'), of('fy'), of('cx'), of('cy')),
        'equidistant' if kind == 'kannalabrandt8' else 'plumb_bob',
        () if kind == 'rectified' else D,
    )


def _vins(content: dict[str, Any], camera: str) -> CameraModel | None:
    """Camera files of VINS and camodocal."""
    kind = content['model_type']
    focal, D = content['projection_parameters'], content.get('distortion_parameters', {})
    size = int(content['image_width']), int(content['image_height'])
    if kind == 'PINHOLE':
        coefficients = [D.get(key, 0.0) for key in ('k1', 'k2', 'p1', 'p2')]
        K = _K(focal['fx'], focal['fy'], focal['cx'], focal['cy'])
        return camera_model(*size, K, 'plumb_bob', coefficients)
    if kind == 'KANNALA_BRANDT':
        K = _K(focal['mu'], focal['mv'], focal['u0'], focal['v0'])
        return camera_model(*size, K, 'equidistant', [focal[f'k{i}'] for i in (2, 3, 4, 5)])
    raise CalibrationError(
        f"the model_type '{kind}' is not supported, only PINHOLE and KANNALA_BRANDT"
    )


def _kitti(rows: list[list[str]], camera: str) -> CameraModel | None:
    """``calib.txt`` of KITTI odometry, or ``calib_cam_to_cam.txt`` of the raw recordings."""
    matrices = {row[0].rstrip(':'): row[1:] for row in rows if row[0].endswith(':')}
    names = sorted(name for name in matrices if re.fullmatch(r'P(_rect_0)?\d', name))
    name, note = _chosen(names, camera)
    P = np.array(matrices[name], dtype=float).reshape(3, 4)
    size = matrices.get(f'S{name[1:]}', ('0', '0'))
    width, height = (int(float(value)) for value in size)
    return _with_note(camera_model(width, height, P[:, :3].ravel().tolist()), note)


def _colmap(rows: list[list[str]], camera: str) -> CameraModel | None:
    """``cameras.txt``: CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS."""
    _, model, width, height, *values = rows[0]
    if model not in _COLMAP_MODELS:
        raise _refusal(model)
    names = _COLMAP_MODELS[model].split()
    found = dict(zip(names, map(float, values), strict=True))
    note = f'the first of {len(rows)} cameras is used' if len(rows) > 1 else ''
    return _with_note(_of_colmap(model, int(width), int(height), found), note)


def _of_colmap(
    model: str, width: int, height: int, values: Mapping[str, float]
) -> CameraModel | None:
    fx, fy = (values[key] if key in values else values['f'] for key in ('fx', 'fy'))
    K = _K(fx, fy, values['cx'] - _COLMAP_CORNER, values['cy'] - _COLMAP_CORNER)
    is_fisheye = 'FISHEYE' in model
    order = ('k1', 'k2', 'k3', 'k4') if is_fisheye else ('k1', 'k2', 'p1', 'p2', 'k3')
    if model == 'FULL_OPENCV':
        order = (*order, 'k4', 'k5', 'k6')
    D = [values.get(key, 0.0) for key in order]
    return camera_model(width, height, K, 'equidistant' if is_fisheye else 'opencv', D)


def _refusal(model: str) -> CalibrationError:
    return CalibrationError(
        f"the camera model '{model}' is not supported, only {', '.join(_COLMAP_MODELS)}: "
        'undistort the images before'
    )


def _nerfstudio(content: dict[str, Any], camera: str) -> CameraModel | None:
    """``transforms.json`` of nerfstudio and instant-ngp."""
    model = str(content.get('camera_model', ''))
    if model not in _PERSPECTIVE and model not in _COLMAP_MODELS:
        raise _refusal(model)
    if content.get('is_fisheye'):
        model = 'OPENCV_FISHEYE'
    if 'w' not in content and any('w' in frame for frame in content.get('frames', ())):
        raise CalibrationError('each frame has a calibration of its own; one for all is needed')
    width, height = int(content['w']), int(content['h'])
    if 'fl_x' in content:
        focal = float(content['fl_x'])
    else:
        focal = width / (2 * np.tan(float(content['camera_angle_x']) / 2))
    keys = ('k1', 'k2', 'k3', 'k4', 'p1', 'p2')
    values = {key: float(content[key]) for key in keys if key in content}
    values |= {'fx': focal, 'fy': float(content.get('fl_y', focal))}
    values |= {key: float(content.get(key, n / 2)) for key, n in (('cx', width), ('cy', height))}
    if 'FISHEYE' not in model and values.pop('k4', 0.0):
        raise CalibrationError('k4 of a lens that is no fisheye is not supported')
    return _of_colmap(model, width, height, values)


def _matrix(rows: list[list[str]], camera: str) -> CameraModel | None:
    """Matrix, 3x3 or 4x4 (ScanNet), or ``fx fy cx cy`` (ETH3D), without an image size."""
    values = np.array([row for row in rows if len(row) == len(rows[0])], dtype=float)
    if values.size == 4:
        return camera_model(0, 0, _K(*values.ravel()))
    return camera_model(0, 0, values[:3, :3].ravel().tolist())


def _is_matrix(content: Any) -> bool:
    lengths = [len(row) for row in content] if isinstance(content, list) else []
    return lengths in ([3] * 3, [4] * 4, [4] * 3, [4])


def _has(*keys: str) -> Callable[[Any], bool]:
    return lambda content: isinstance(content, dict) and all(key in content for key in keys)


def _has_row(pattern: str) -> Callable[[Any], bool]:
    return lambda content: (
        isinstance(content, list) and any(re.match(pattern, ' '.join(row)) for row in content)
    )


def _is_ros(content: Any) -> bool:
    return isinstance(content, dict) and bool(
        content.keys() & {'camera_matrix', 'Camera_Matrix'}
        and content.keys() & {'image_width', 'image_height', 'distortion_model', 'camera_name'}
    )


def _is_kalibr(content: Any) -> bool:
    return isinstance(content, dict) and any(
        isinstance(value, dict) and 'camera_model' in value for value in content.values()
    )


Reader = Callable[[Any, str], CameraModel | None]
#: By the name of the format: whether a content is of it, and what reads it.
FORMATS: dict[str, tuple[Callable[[Any], bool], Reader]] = {
    'ROS camera_info (YAML)': (_is_ros, _ros),
    'ROS CameraInfo message': (
        lambda c: _has('width', 'height', 'k')(c) or _has('width', 'height', 'K')(c),
        _camera_info,
    ),
    'VINS': (_has('model_type', 'projection_parameters'), _vins),
    'EuRoC sensor.yaml': (_has('resolution', 'intrinsics'), _euroc),
    'Kalibr camchain': (_is_kalibr, _kalibr),
    'ORB-SLAM': (lambda c: _has('Camera.fx')(c) or _has('Camera1.fx')(c), _orb_slam),
    'OpenCV matrices': (lambda c: any(_has(key)(c) for key in _OPENCV_K), _opencv),
    'nerfstudio transforms.json': (
        lambda c: _has('frames')(c) or _has('fl_x')(c) or _has('camera_angle_x')(c),
        _nerfstudio,
    ),
    'KITTI calib.txt': (_has_row(r'P(_rect_0)?\d:'), _kitti),
    'COLMAP cameras.txt': (_has_row(r'\d+ [A-Z_]+ \d+ \d+ '), _colmap),
    'a 3x3 or 4x4 matrix, or fx fy cx cy, as text': (_is_matrix, _matrix),
}
