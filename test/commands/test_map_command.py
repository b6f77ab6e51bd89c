"""``r3 map``: what it prints and writes is what the map holds."""

import dataclasses
from pathlib import Path
import pickle

import cv2
from map_server import as_map_server_reads
import numpy as np
import pytest
from r3_ros.commands.cli import main
from r3_ros.commands.map_merge import join_all
from r3_ros.core.errors import MapError, MergeError
from r3_ros.core.geometry import inverse, T_from_quat
from r3_ros.core.trajectory_file import read_tum
from r3_ros.maps.cloud_file import read_ply
from r3_ros.maps.reading import read_map
from r3_ros.maps.writing import write_map
from scipy.spatial.transform import Rotation
from surveyed_room import INTRINSICS, room_map, survey
import yaml


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('maps') / 'room'
    write_map(path, room_map())
    return path


@pytest.fixture(scope='module')
def metric_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('maps') / 'metric'
    write_map(path, room_map(metres_per_unit=1.0))
    return path


def run(*words):
    return main(['map', *map(str, words)])


def export(folder, kind, out, *words):
    return run('export', folder, '--format', kind, '-o', out, *words)


def test_info_tells_what_is_in_a_map(folder, capsys):
    assert run('info', folder) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    saved = room_map()
    assert rows['model'] == 'classical' and 'map units' in rows['scale']
    assert rows['points'].startswith(f'{len(saved.points)}, ')
    assert rows['keyframes'].startswith(f'{len(saved.keyframes)}, {len(saved.images)} with')
    assert rows['landmarks'].startswith('400, seen ')
    low, high = saved.bounds
    assert rows['extent'].startswith(' x '.join(f'{v:.2f}' for v in high - low))
    # The descriptors of this one have another length than those of the model.
    assert rows['loadable'].startswith('no: another version')
    assert rows['on'].startswith('disk ') and rows['on'].endswith(' MB')


def test_info_says_whether_a_camera_can_be_found(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('R3_ROS_WEIGHTS', str(tmp_path / 'none'))
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'none'))
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path / 'none'))
    cases = (
        (room_map(images=False), 'for display only'),
        (room_map(), 'no: another version'),
    )
    for n, (saved, words) in enumerate(cases):
        write_map(tmp_path / str(n), saved)
        run('info', tmp_path / str(n))
        assert words in capsys.readouterr().out


def test_info_refuses_what_is_no_map_in_one_line(tmp_path, capsys):
    assert run('info', tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith('r3 map: ') and error.count('\n') == 1


@pytest.mark.parametrize('kind', ['ply', 'pcd', 'npz'])
def test_points_are_exported(folder, tmp_path, kind):
    out = tmp_path / f'cloud.{kind}'
    assert export(folder, kind, out) == 0
    saved = room_map().points
    if kind == 'ply':
        points, colors = read_ply(out).points, read_ply(out).colors
    elif kind == 'npz':
        points, colors = np.load(out)['points'], np.load(out)['colors']
    else:
        header, _, body = out.read_bytes().partition(b'DATA binary\n')
        assert f'POINTS {len(saved)}'.encode() in header
        rows = np.frombuffer(body, '<f4').reshape(-1, 5)
        points, packed = rows[:, :3], rows[:, 3].copy().view('<u4')
        colors = np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], 1)
    np.testing.assert_array_equal(points, saved.points)
    np.testing.assert_array_equal(colors, saved.colors)
    assert export(folder, kind, out) == 2
    assert export(folder, kind, out, '--overwrite') == 0


def test_the_trajectory_is_that_of_base_or_camera(folder, tmp_path):
    saved = room_map()
    for frame, T in (
        ('base', saved.trajectory.T_map_base),
        ('optical', saved.trajectory.T_map_base @ saved.facts.T_base_optical),
    ):
        assert export(folder, 'tum', tmp_path / f'{frame}.tum', '--frame', frame) == 0
        poses = read_tum(tmp_path / f'{frame}.tum')
        np.testing.assert_array_equal(poses.stamps_ns, saved.trajectory.stamps_ns)
        np.testing.assert_allclose(poses.T_world_camera, T, atol=1e-6)


def lines_of(path):
    return [line for line in path.read_text().splitlines() if not line.startswith('#')]


def test_a_colmap_model_says_where_each_landmark_is_seen(folder, tmp_path):
    """Read by the rule of COLMAP's page on its output format."""
    out = tmp_path / 'model'
    assert export(folder, 'colmap', out) == 0
    (camera,) = lines_of(out / 'cameras.txt')
    number, kind, width, height, *lens = camera.split()
    assert (number, kind) == ('1', 'PINHOLE')
    fx, fy, cx, cy = map(float, lens)
    assert (cx, cy) == (INTRINSICS.cx + 0.5, INTRINSICS.cy + 0.5)
    rows = lines_of(out / 'images.txt')
    saved, images = room_map(), {}
    for pose, seen in zip(rows[::2], rows[1::2], strict=True):
        number, *motion, camera, name = pose.split()
        qw, qx, qy, qz, *t = map(float, motion)
        T_camera_world = T_from_quat(np.array(t), np.array([qx, qy, qz, qw]))
        image = cv2.imread(str(out / 'images' / name))
        assert image.shape[:2] == (int(height), int(width)) and camera == '1'
        images[int(number)] = T_camera_world, np.array(seen.split(), float).reshape(-1, 3)
    np.testing.assert_allclose(
        inverse(np.stack([T for T, _ in images.values()])),
        saved.keyframes.T_map_optical,
        atol=1e-9,
    )
    tracks = 0
    for line in lines_of(out / 'points3D.txt'):
        number, x, y, z, *_, error = line.split()[:8]
        track = np.array(line.split()[8:], int).reshape(-1, 2)
        tracks += len(track)
        assert float(error) < 1e-3
        for image, place in track:
            T, seen = images[image]
            u, v, point = seen[place]
            assert point == int(number)
            ray = T[:3, :3] @ [float(x), float(y), float(z)] + T[:3, 3]
            assert fx * ray[0] / ray[2] + cx == pytest.approx(u, abs=2e-3)
            assert fy * ray[1] / ray[2] + cy == pytest.approx(v, abs=2e-3)
    assert tracks == len(saved.landmarks.frame_ids)


@pytest.mark.slow
def test_a_map_without_landmarks_gives_colmap_its_cloud(tmp_path):
    saved = dataclasses.replace(room_map(), landmarks=None)
    write_map(tmp_path / 'map', saved)
    assert export(tmp_path / 'map', 'colmap', tmp_path / 'model') == 0
    assert len(lines_of(tmp_path / 'model' / 'points3D.txt')) == len(saved.points)


def test_a_grid_needs_metres(folder, metric_folder, tmp_path, capsys):
    assert export(folder, 'grid', tmp_path / 'plan') == 2
    assert '--metres-per-unit' in capsys.readouterr().err
    assert export(metric_folder, 'grid', tmp_path / 'plan', '--metres-per-unit', '2') == 2
    assert 'in metres already' in capsys.readouterr().err
    assert export(metric_folder, 'grid', tmp_path / 'plan') == 0
    assert export(folder, 'grid', tmp_path / 'twice', '--metres-per-unit', '2') == 0
    once, _, _ = as_map_server_reads(tmp_path / 'plan')
    twice, _, _ = as_map_server_reads(tmp_path / 'twice')
    size = survey(3).size
    for cells, unit in ((once, 1), (twice, 2)):
        rows, columns = np.nonzero(cells == 100)
        extent = np.array([np.ptp(columns), np.ptp(rows)]) * 0.05
        np.testing.assert_allclose(extent, unit * size, atol=0.11)


def test_a_leaning_map_is_turned_level_only_if_asked(tmp_path, capsys):
    saved = room_map(metres_per_unit=1.0)
    lean = np.eye(4)
    lean[:3, :3] = Rotation.from_rotvec([0.3, 0, 0]).as_matrix()
    keyframes = dataclasses.replace(
        saved.keyframes, T_map_optical=lean @ saved.keyframes.T_map_optical
    )
    leaning = dataclasses.replace(
        saved, keyframes=keyframes, points=saved.points.moved(lean), landmarks=None
    )
    write_map(tmp_path / 'map', leaning)
    assert export(tmp_path / 'map', 'grid', tmp_path / 'plan') == 2
    assert '--level' in capsys.readouterr().err
    assert export(tmp_path / 'map', 'grid', tmp_path / 'plan', '--level') == 0
    assert '17.2 degrees' in capsys.readouterr().out
    text = (tmp_path / 'plan' / 'map.yaml').read_text()
    (line,) = [line for line in text.splitlines() if 'T_grid_map' in line]
    T_grid_map = np.array(yaml.safe_load(line.split(': ')[1]))
    np.testing.assert_allclose((T_grid_map @ lean)[2, :3], [0, 0, 1], atol=2e-3)


def test_parameters_and_the_height_of_the_floor_can_be_given(metric_folder, tmp_path, capsys):
    words = ('--floor-height', '-0.02', '--set', 'occupancy.resolution=0.1')
    assert export(metric_folder, 'grid', tmp_path / 'plan', *words) == 0
    assert 'cells of 0.1 m' in capsys.readouterr().out
    assert '# floor at -0.020 m' in (tmp_path / 'plan' / 'map.yaml').read_text()
    assert export(metric_folder, 'grid', tmp_path / 'x', '--set', 'occupancy.resolution=9') == 2
    assert 'occupancy.resolution' in capsys.readouterr().err


def joined(names):
    """Join maps named by the places they hold; return the pairs that were tried, by level."""
    places, tried = {Path(name): set(name) for name in names}, []

    def join(pair):
        tried.append((*pair.names, str(pair.output), pair.overwrite))
        if places[pair.first].isdisjoint(places[pair.second]):
            return dataclasses.replace(pair, text='no common place')
        places[pair.output] = places[pair.first] | places[pair.second]
        return dataclasses.replace(pair, is_joined=True)

    join_all({Path(n): n for n in names}, Path('levels'), Path('all'), False, join, None)
    return tried


def test_many_maps_are_joined_in_a_tree():
    assert joined(['ab', 'bc', 'cd', 'de', 'ef']) == [
        ('ab', 'bc', 'levels/0', True),
        ('cd', 'de', 'levels/1', True),
        ('ab + bc', 'cd + de', 'levels/2', True),
        ('ab + bc + cd + de', 'ef', 'all', False),
    ]


def test_maps_that_do_not_meet_are_joined_through_others():
    pairs = [pair[:2] for pair in joined(['ab', 'cd', 'bc'])]
    assert pairs == [('ab', 'cd'), ('ab', 'bc'), ('ab + bc', 'cd')]


def test_maps_of_several_places_are_not_joined():
    with pytest.raises(MergeError, match=r'2 maps are left.*: ab \+ bc; yz\. .* no common place'):
        joined(['ab', 'bc', 'yz'])


def test_a_damaged_map_is_reported_by_a_worker_as_here(tmp_path):
    with pytest.raises(MapError) as caught:
        read_map(tmp_path)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.problem, str(copy)) == (caught.value.problem, str(caught.value))


def test_one_map_is_not_enough(folder, tmp_path, capsys):
    assert run('merge', folder, folder, '-o', tmp_path / 'out') == 2
    assert 'name two maps or more' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
