"""Folders of known data sets: images, times, calibration and truth, whichever folder is named."""

from collections.abc import Callable
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from r3_ros.core.errors import CalibrationError, SourceError
from r3_ros.core.geometry import make_T, quat_xyzw
from r3_ros.evaluation.posed_sequences import recorded_sequence
from r3_ros.input.open_source import open_source
import scripted
from sequences import HEIGHT, WIDTH

COUNT = 5
START_NS = 1_403_636_579_763_555_584
STAMPS = [START_NS + i * 66_666_667 for i in range(COUNT)]
FRAME_RATE = [round(i * 1e9 / 30) for i in range(COUNT)]
FROM_ZERO = [i * 100_000_000 for i in range(COUNT)]
FX, FY, CX, CY = 51.5, 52.5, 31.0, 23.0
POSES = make_T(
    scripted.Rotation.from_rotvec(np.arange(3 * COUNT).reshape(COUNT, 3) / 20.0).as_matrix(),
    np.arange(3.0 * COUNT).reshape(COUNT, 3),
)
BODY = make_T(scripted.Rotation.from_rotvec([0.1, 0.2, 0.3]).as_matrix(), [0.5, 0.6, 0.7])


def write_images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        image = scripted.pattern_image(WIDTH, HEIGHT, shade=i)
        cv2.imwrite(str(folder / name), image[..., ::-1])


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n')


def numbers(values: np.ndarray) -> str:
    return ' '.join(repr(float(value)) for value in np.ravel(values))


def seconds(stamp_ns: int) -> str:
    return f'{stamp_ns // 10**9}.{stamp_ns % 10**9:09d}'


def tum(root: Path) -> None:
    write_images(root / 'rgb', [f'{seconds(t)}.png' for t in STAMPS])
    write(
        root / 'rgb.txt', '# color images', *(f'{seconds(t)} rgb/{seconds(t)}.png' for t in STAMPS)
    )
    quats = quat_xyzw(POSES)
    rows = zip(STAMPS, POSES, quats, strict=True)
    write(
        root / 'groundtruth.txt',
        *(f'{seconds(t)} {numbers(T[:3, 3])} {numbers(q)}' for t, T, q in rows),
    )
    write(root / 'calibration.txt', f'{FX} {FY} {CX} {CY}')


def euroc(root: Path) -> None:
    camera = root / 'mav0/cam0'
    write_images(camera / 'data', [f'{t}.png' for t in STAMPS])
    # As the data sets have it: lines end as in DOS.
    write(camera / 'data.csv', '#timestamp [ns],filename\r', *(f'{t},{t}.png\r' for t in STAMPS))
    write(
        camera / 'sensor.yaml',
        'sensor_type: camera',
        f'T_BS: {{cols: 4, rows: 4, data: {BODY.ravel().tolist()}}}',
        f'resolution: [{WIDTH}, {HEIGHT}]',
        'camera_model: pinhole',
        f'intrinsics: [{FX}, {FY}, {CX}, {CY}]',
        'distortion_model: radial-tangential',
        'distortion_coefficients: [0.0, 0.0, 0.0, 0.0]',
    )
    bodies = POSES @ np.linalg.inv(BODY)
    rows = zip(STAMPS, bodies, quat_xyzw(bodies), strict=True)
    lines = (
        f'{t},' + numbers([*T[:3, 3], q[3], *q[:3], *range(9)]).replace(' ', ',')
        for t, T, q in rows
    )
    write(root / 'mav0/state_groundtruth_estimate0/data.csv', '#timestamp, p_RS_R_x [m]', *lines)


def kitti(root: Path) -> None:
    write_images(root / 'image_2', [f'{i:06d}.png' for i in range(COUNT)])
    write(root / 'times.txt', *(f'{t / 1e9:e}' for t in FROM_ZERO))
    write(
        root / 'calib.txt',
        'P0: ' + numbers([[9, 0, 9, 0], [0, 9, 9, 0], [0, 0, 1, 0]]),
        'P2: ' + numbers([[FX, 0, CX, -4], [0, FY, CY, 0], [0, 0, 1, 0]]),
        'Tr: ' + numbers(np.eye(4)[:3]),
    )
    write(root.parents[1] / f'poses/{root.name}.txt', *(numbers(T[:3]) for T in POSES))


def kitti_raw(root: Path) -> None:
    write_images(root / 'image_02/data', [f'{i:010d}.png' for i in range(COUNT)])
    times = (str(np.datetime64(t, 'ns')).replace('T', ' ') for t in STAMPS)
    write(root / 'image_02/timestamps.txt', *times)
    write(
        root.parent / 'calib_cam_to_cam.txt',
        'calib_time: 09-Jan-2012 13:57:47',
        'S_rect_02: ' + numbers([WIDTH, HEIGHT]),
        'P_rect_02: ' + numbers([[FX, 0, CX, -4], [0, FY, CY, 0], [0, 0, 1, 0]]),
    )


def seven_scenes(root: Path) -> None:
    write_images(root, [f'frame-{i:06d}.color.png' for i in range(COUNT)])
    for i, T in enumerate(POSES):
        cv2.imwrite(str(root / f'frame-{i:06d}.depth.png'), np.zeros((4, 4), np.uint16))
        write(root / f'frame-{i:06d}.pose.txt', *(numbers(row) for row in T))


def scannet(root: Path) -> None:
    write_images(root / 'color', [f'{i}.jpg' for i in range(COUNT)])
    for i, T in enumerate(POSES):
        write(root / f'pose/{i}.txt', *(numbers(row) for row in T))
    K = np.eye(4)
    K[:2, :3] = [FX, 0, CX], [0, FY, CY]
    write(root / 'intrinsic/intrinsic_color.txt', *(numbers(row) for row in K))


def tum_mono(root: Path) -> None:
    write_images(root / 'images', [f'{i:05d}.jpg' for i in range(COUNT)])
    write(root / 'times.txt', *(f'{i:05d} {seconds(t)} 5.0' for i, t in enumerate(STAMPS)))


def nerfstudio(root: Path) -> None:
    write_images(root / 'images', [f'frame_{i:05d}.png' for i in range(COUNT)])
    flipped = POSES @ np.diag([1.0, -1.0, -1.0, 1.0])
    frames = [
        {'file_path': f'images/frame_{i:05d}.png', 'transform_matrix': T.tolist()}
        for i, T in enumerate(flipped)
    ]
    corner = {'cx': CX + 0.5, 'cy': CY + 0.5}
    content = {'fl_x': FX, 'fl_y': FY, 'w': WIDTH, 'h': HEIGHT, 'frames': frames, **corner}
    write(root / 'transforms.json', json.dumps(content))


def colmap(root: Path) -> None:
    write_images(root / 'images', [f'{i}.png' for i in range(COUNT)])
    line = f'1 PINHOLE {WIDTH} {HEIGHT} {FX} {FY} {CX + 0.5} {CY + 0.5}'
    write(root / 'sparse/0/cameras.txt', '# Camera list', line)


LAYOUTS: list[tuple[Callable[[Path], None], list[str], list[int], bool, bool]] = [
    (tum, ['', 'rgb'], STAMPS, True, True),
    (euroc, ['', 'mav0', 'mav0/cam0', 'mav0/cam0/data'], STAMPS, True, True),
    (kitti, ['', 'image_2'], FROM_ZERO, True, True),
    (kitti_raw, ['', 'image_02', 'image_02/data'], STAMPS, True, False),
    (seven_scenes, [''], FRAME_RATE, False, True),
    (scannet, ['', 'color'], FRAME_RATE, True, True),
    (tum_mono, ['', 'images'], STAMPS, False, False),
    (nerfstudio, ['', 'images'], FRAME_RATE, True, True),
    (colmap, ['', 'images'], FRAME_RATE, True, False),
]


@pytest.mark.parametrize(
    ('layout', 'named', 'stamps', 'is_calibrated', 'has_truth'),
    [
        pytest.param(layout, name, *rest, id=f'{layout.__name__}/{name}')
        for layout, names, *rest in LAYOUTS
        for name in names
    ],
)
def test_a_layout_is_found_from_any_of_its_folders(
    tmp_path, layout, named, stamps, is_calibrated, has_truth
):
    root = tmp_path / 'dataset/sequences/07'
    layout(root)
    with open_source(root / named) as source:
        frames = list(source)
        found = source.truth()
    assert [frame.stamp_ns for frame in frames] == stamps
    # JPEG: near, not equal.
    for i, frame in enumerate(frames):
        expected = scripted.pattern_image(WIDTH, HEIGHT, shade=i)
        assert np.abs(frame.image.astype(int) - expected).mean() < 12
    assert (source.calibration is not None) == is_calibrated
    if is_calibrated:
        camera = source.calibration.scaled_to(WIDTH, HEIGHT)
        np.testing.assert_allclose(camera.K, [[FX, 0, CX], [0, FY, CY], [0, 0, 1]])
        assert any('calibration in' in text for text in source.found)
    assert (found is not None) == has_truth
    if found:
        assert found[0].stamps_ns.tolist() == stamps and not found[0].notes
        np.testing.assert_allclose(found[0].T_world_camera, POSES, atol=1e-9)
        assert any('truth in' in text for text in source.found)
    is_guessed = stamps is FRAME_RATE
    assert is_guessed == any('30 frames per second assumed' in w for w in source.warnings)
    assert is_guessed != any('times in' in text for text in source.found)


@pytest.mark.parametrize(
    ('named', 'moved'),
    [('', 'cam0'), ('cam0/data', 'cam0'), ('left', 'left'), ('left/data', 'left')],
)
def test_a_camera_of_euroc_alone(tmp_path, named, moved):
    euroc(tmp_path / 'whole')
    (tmp_path / 'part').mkdir()
    (tmp_path / 'whole/mav0/cam0').rename(tmp_path / 'part' / moved)
    with open_source(tmp_path / 'part' / named) as source:
        assert [frame.stamp_ns for frame in source] == STAMPS and source.calibration is not None


def test_a_scene_with_its_first_sequence(tmp_path):
    seven_scenes(tmp_path / 'chess/seq-01')
    with open_source(tmp_path / 'chess') as source:
        assert len(list(source)) == COUNT and 'images in seq-01' in source.found[0]


def test_the_other_camera_is_found_by_its_name(tmp_path):
    euroc(tmp_path)
    (tmp_path / 'mav0/cam0').rename(tmp_path / 'mav0/cam1')
    for named in ('mav0/cam1/data', ''):
        with open_source(tmp_path / named) as source:
            assert len(list(source)) == COUNT and source.camera_name == 'cam1'


def test_depth_is_of_the_unit_of_its_layout(tmp_path):
    tum(tmp_path)
    depth = tmp_path / 'depth' / f'{seconds(STAMPS[0])}.png'
    depth.parent.mkdir()
    cv2.imwrite(str(depth), np.full((HEIGHT, WIDTH), 5000, np.uint16))
    sequence = recorded_sequence(tmp_path)
    assert sequence.depth_stamps == STAMPS[:1] and (sequence.depth(STAMPS[0]) == 1.0).all()


def test_the_calibration_of_the_user_goes_before_that_of_the_data_set(tmp_path):
    euroc(tmp_path)
    write(tmp_path / 'camera.yaml', '%YAML:1.0', 'Camera.fx: 77.0', 'Camera.fy: 77.0')
    with open(tmp_path / 'camera.yaml', 'a') as file:
        file.write('Camera.cx: 32.0\nCamera.cy: 24.0\n')
    with open_source(tmp_path) as source:
        assert source.calibration.K[0, 0] == 77.0


def test_poses_of_the_body_are_marked_where_nothing_says_where_the_camera_is(tmp_path):
    euroc(tmp_path)
    sensor = tmp_path / 'mav0/cam0/sensor.yaml'
    sensor.write_text('\n'.join(x for x in sensor.read_text().splitlines() if 'T_BS' not in x))
    with open_source(tmp_path) as source:
        poses, _ = source.truth()
    assert 'of the body, and sensor.yaml has no T_BS' in poses.notes[0]
    np.testing.assert_allclose(poses.T_world_camera @ BODY, POSES, atol=1e-9)


def test_images_without_a_true_pose_are_left_out_and_counted(tmp_path):
    scannet(tmp_path / 'scene')
    write(tmp_path / 'scene/pose/2.txt', *['-inf -inf -inf -inf'] * 4)
    with open_source(tmp_path / 'scene') as source:
        poses, _ = source.truth()
    assert poses.stamps_ns.tolist() == [t for i, t in enumerate(FRAME_RATE) if i != 2]
    assert '1 images have no pose' in poses.notes[0]


@pytest.mark.parametrize(
    'name', ['{}', 'left_{}', 'cam1-{}', '{}.left'], ids=['alone', 'left', 'cam1', 'behind']
)
@pytest.mark.parametrize('unit', [1, 1_000, 1_000_000, 0], ids=['ns', 'us', 'ms', 's'])
def test_file_names_that_are_times(tmp_path, name, unit):
    if unit == 0:
        texts, expected = [seconds(t) for t in STAMPS], STAMPS
    else:
        texts = [str(t // unit) for t in STAMPS]
        expected = [t // unit * unit for t in STAMPS]
    write_images(tmp_path / 'a', [f'{name.format(text)}.png' for text in texts])
    with open_source(tmp_path / 'a') as source:
        assert [frame.stamp_ns for frame in source] == expected
    assert not source.warnings
    assert any('times in the names' in text for text in source.found)


def test_times_of_collections_count_as_well(tmp_path):
    write_images(tmp_path / 'a', [f'{t}.png' for t in STAMPS])
    write_images(tmp_path / 'b', [f'{i}.png' for i in range(COUNT)])
    for folder, is_collection in (('a', False), ('b', True)):
        with open_source(tmp_path / folder, collections=True) as source:
            assert source.is_collection == is_collection


@pytest.mark.parametrize(
    'name', ['camera_info.yaml', 'my-camchain.yaml', 'settings.yaml', 'K.yml']
)
def test_a_calibration_of_any_format_beside_plain_images(tmp_path, name):
    write_images(tmp_path / 'a', ['1.png', '2.png'])
    write(tmp_path / 'a' / name, '%YAML:1.0', f'Camera.fx: {FX}', f'Camera.fy: {FY}')
    with open(tmp_path / 'a' / name, 'a') as file:
        file.write(f'Camera.cx: {CX}\nCamera.cy: {CY}\n')
    write(tmp_path / 'a/notes.yaml', 'weather: rain')
    with open_source(tmp_path / 'a') as source:
        assert source.calibration.K[0, 0] == FX


def test_several_calibrations_are_a_question(tmp_path):
    tum(tmp_path)
    (tmp_path / 'calibration.txt').unlink()
    for name in ('left.yaml', 'right.yaml'):
        (tmp_path / name).write_text('Camera.fx: 5\nCamera.fy: 5\nCamera.cx: 3\nCamera.cy: 3\n')
    with pytest.raises(CalibrationError, match=r'--camera.*left\.yaml.*right\.yaml'):
        open_source(tmp_path)


def test_a_found_calibration_that_is_of_no_use_says_what_to_do(tmp_path):
    euroc(tmp_path)
    sensor = tmp_path / 'mav0/cam0/sensor.yaml'
    sensor.write_text(sensor.read_text().replace('radial-tangential', 'fov'))
    with pytest.raises(CalibrationError, match=r"'fov', known: plumb_bob.*--camera none"):
        open_source(tmp_path)
    with open_source(tmp_path, camera='none') as source:
        assert source.calibration is None


def test_a_list_that_does_not_fit_the_images_is_refused(tmp_path):
    kitti(tmp_path / 'a/b/c')
    write(tmp_path / 'a/b/c/times.txt', '0.0', '0.1')
    with pytest.raises(SourceError, match='2 times for 5 images'):
        open_source(tmp_path / 'a/b/c')


def test_truth_of_another_number_of_images_is_refused(tmp_path):
    kitti(tmp_path / 'a/b/c')
    write(tmp_path / 'a/poses/c.txt', numbers(np.eye(4)[:3]))
    with (
        open_source(tmp_path / 'a/b/c') as source,
        pytest.raises(SourceError, match='1 poses for 5'),
    ):
        source.truth()
