"""Saved maps in other programs' formats, each read by a program that is not ours."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from r3_ros.commands.cli import main
from r3_ros.core.geometry import inverse
from r3_ros.maps.exports.nerfstudio import write_nerfstudio
from r3_ros.maps.writing import write_map
from surveyed_room import INTRINSICS, room_map
import trimesh


def export(tmp_path, kind):
    write_map(tmp_path / 'map', room_map())
    out = tmp_path / f'out.{kind}'
    assert main(['map', 'export', str(tmp_path / 'map'), '--format', kind, '-o', str(out)]) == 0
    return out, room_map()


def test_landmarks_are_where_nerfstudio_sees_them(tmp_path):
    out, saved = export(tmp_path, 'nerfstudio')
    content = json.loads((out / 'transforms.json').read_text())
    assert (content['w'], content['h']) == (INTRINSICS.width, INTRINSICS.height)
    marks = saved.landmarks
    for row, frame in enumerate(content['frames']):
        image = cv2.imread(str(out / frame['file_path']))
        assert image.shape[:2] == (content['h'], content['w'])
        seen = marks.frame_ids == saved.keyframes.ids[row]
        T_camera_world = inverse(np.array(frame['transform_matrix']))
        points = marks.positions[marks.landmarks[seen]]
        x, y, z = (T_camera_world[:3, :3] @ points.T + T_camera_world[:3, 3:]).copy()
        # The camera looks along -z with y up; pixel centres are at halves.
        u = content['fl_x'] * x / -z + content['cx'] - 0.5
        v = content['fl_y'] * -y / -z + content['cy'] - 0.5
        np.testing.assert_allclose(np.stack([u, v], 1), marks.pixels[seen], atol=1e-6)
    cloud = trimesh.load(out / content['ply_file_path'])
    np.testing.assert_allclose(cloud.vertices, saved.points.points, atol=1e-6)
    np.testing.assert_array_equal(cloud.colors[:, :3], saved.points.colors)


def test_nerfstudio_gets_the_depth_that_a_run_saved(tmp_path):
    saved, depths = room_map(), tmp_path / 'depth'
    depths.mkdir()
    depth = np.array([[1.5, np.nan], [70.0, 0.25]], np.float32)
    np.savez(depths / f'{saved.keyframes.ids[1]:06d}.npz', depth=depth)
    images, with_depth = write_nerfstudio(tmp_path / 'out', saved, depths)
    assert (images, with_depth) == (len(saved.images), 1)
    content = json.loads((tmp_path / 'out' / 'transforms.json').read_text())
    # It refuses folders where only some frames have a depth image.
    paths = [tmp_path / 'out' / frame['depth_file_path'] for frame in content['frames']]
    empty, read = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths[:2])
    np.testing.assert_array_equal(read, [[1500, 0], [0, 250]])
    assert empty.shape == (INTRINSICS.height, INTRINSICS.width) and not empty.any()


def test_intrinsics_that_differ_are_given_for_each_image(tmp_path):
    saved = room_map()
    saved.keyframes.K[0, 0, 0] += 1
    write_nerfstudio(tmp_path / 'out', saved)
    content = json.loads((tmp_path / 'out' / 'transforms.json').read_text())
    assert 'fl_x' not in content
    first, second = (frame['fl_x'] for frame in content['frames'][:2])
    assert first == second + 1


def test_pycolmap_finds_the_landmarks_where_they_were_seen(tmp_path):
    pycolmap = pytest.importorskip('pycolmap')
    out, saved = export(tmp_path, 'colmap')
    model = pycolmap.Reconstruction(str(out))
    assert model.num_cameras() == 1
    assert model.num_images() == len(saved.keyframes)
    assert model.compute_num_observations() == len(saved.landmarks.frame_ids)
    model.update_point_3d_errors()
    assert model.compute_mean_reprojection_error() < 1e-3


def test_gltf_holds_points_path_and_cameras_with_y_up(tmp_path):
    pygltflib = pytest.importorskip('pygltflib')
    out, saved = export(tmp_path, 'glb')
    model = pygltflib.GLTF2().load_binary(str(out))
    nodes = {node.name: node for node in model.nodes}
    assert set(nodes) == {'points', 'path', 'keyframes'}
    (drawn,) = model.meshes[nodes['points'].mesh].primitives
    assert drawn.mode == pygltflib.POINTS
    accessor = model.accessors[drawn.attributes.POSITION]
    assert accessor.count == len(saved.points)
    view = model.bufferViews[accessor.bufferView]
    data = model.binary_blob()[view.byteOffset : view.byteOffset + view.byteLength]
    stored = np.frombuffer(data, np.float32).reshape(-1, 3)
    # As a viewer places them: by the matrix of the node, which is stored column by column.
    matrix = np.array(nodes['points'].matrix or np.eye(4).ravel()).reshape(4, 4).T
    x, y, z = (stored @ matrix[:3, :3].T + matrix[:3, 3]).T
    np.testing.assert_allclose(np.stack([x, -z, y], 1), saved.points.points, atol=1e-5)


def test_mcap_is_read_by_the_mcap_library(tmp_path):
    reader = pytest.importorskip('mcap.reader')
    decoder = pytest.importorskip('mcap_protobuf.decoder')
    out, saved = export(tmp_path, 'mcap')
    found = {}
    with out.open('rb') as file:
        messages = reader.make_reader(file, decoder_factories=[decoder.DecoderFactory()])
        for schema, channel, message, decoded in messages.iter_decoded_messages():
            found.setdefault(channel.topic, []).append((schema.name, message.log_time, decoded))
    ((kind, _, cloud),) = found['/map']
    assert kind == 'foxglove.PointCloud' and cloud.frame_id == 'map'
    offsets = {field.name: field.offset for field in cloud.fields}
    rows = np.frombuffer(cloud.data, np.uint8).reshape(-1, cloud.point_stride)
    y = rows[:, offsets['y'] : offsets['y'] + 4].copy().view(np.float32)[:, 0]
    np.testing.assert_array_equal(y, saved.points.points[:, 1])
    np.testing.assert_array_equal(rows[:, offsets['green']], saved.points.colors[:, 1])
    moving = [(t, m) for _, t, m in found['/tf'] if m.child_frame_id == 'base_link']
    assert [t for t, _ in moving] == saved.trajectory.stamps_ns.tolist()
    last = moving[-1][1].translation
    T = saved.trajectory.T_map_base[-1]
    np.testing.assert_allclose([last.x, last.y, last.z], T[:3, 3])
    _, _, calibration = found['/keyframes/calibration'][0]
    np.testing.assert_allclose(list(calibration.K), saved.keyframes.K[0].ravel())
    _, stamp_ns, image = found['/keyframes/image'][0]
    assert stamp_ns == saved.keyframes.stamps_ns[0]
    pixels = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape[:2] == (INTRINSICS.height, INTRINSICS.width)


def test_rerun_reads_its_recording(tmp_path):
    pytest.importorskip('rerun')
    out, saved = export(tmp_path, 'rerun')
    verified = subprocess.run(['rerun', 'rrd', 'verify', out], capture_output=True, text=True)
    assert verified.returncode == 0, verified.stderr
    stats = subprocess.run(['rerun', 'rrd', 'stats', out], capture_output=True, text=True).stdout
    for place in ('/map/points', '/map/path', '/map/camera'):
        assert f'{place}: ' in stats
    assert stats.count('/map/keyframes/') >= len(saved.keyframes)


def test_a_missing_library_is_named(tmp_path, capsys, monkeypatch):
    write_map(tmp_path / 'map', room_map())
    monkeypatch.setitem(sys.modules, 'rerun', None)
    monkeypatch.delitem(sys.modules, 'r3_ros.maps.exports.rerun_recording', raising=False)
    words = [
        'map',
        'export',
        str(tmp_path / 'map'),
        '--format',
        'rerun',
        '-o',
        str(tmp_path / 'x'),
    ]
    assert main(words) == 2
    assert 'pip install "r3_ros[export]"' in capsys.readouterr().err
    assert not (tmp_path / 'x').exists()
