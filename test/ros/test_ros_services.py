"""The services: what they do, what they answer, and what they leave on disk."""

import errno
import os
from pathlib import Path
import shutil
import subprocess
import threading

import numpy as np
import pytest
import yaml

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from nav_msgs.msg import Path as PathMessage
from r3_ros.core.geometry import make_T, R_BODY_OPTICAL
from r3_ros.core.trajectory_file import read_tum
from r3_ros.maps import writing
from r3_ros.maps.reading import read_map
from r3_ros.msg import StreamStatus
from r3_ros.ros.outputs.health import StreamState
from r3_ros.ros.services import saving
from r3_ros.srv import SaveMap, SaveTrajectory
from ros_graph import image_message, LATCHED
from scripted import Script, START_NS, truth
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import SetBool, Trigger

pytestmark = pytest.mark.ros

T_MAP_WORLD = make_T(R_BODY_OPTICAL, np.zeros(3))


def save_map(g, **fields):
    return g.call(SaveMap, '/r3/save_map', SaveMap.Request(**fields))


def save_trajectory(g, **fields):
    return g.call(SaveTrajectory, '/r3/save_trajectory', SaveTrajectory.Request(**fields))


def leftovers(folder):
    """Return what is in a folder that begins with a dot: unfinished work."""
    return [path for path in Path(folder).rglob('.*')] if Path(folder).exists() else []


def read_ply(path):
    header, _, body = path.read_bytes().partition(b'end_header\n')
    names = [line.split()[1:] for line in header.decode().splitlines() if 'property' in line]
    kinds = {'float': '<f4', 'uchar': 'u1'}
    return np.frombuffer(body, [(name, kinds[kind]) for kind, name in names])


def test_reset_starts_a_new_session_and_empties_map_and_path(graph):
    g = graph(map__publish_period=0.1).start()
    g.send_many(4)
    maps = g.listen('/r3/map_points', PointCloud2, LATCHED)
    paths = g.listen('/r3/path', PathMessage, LATCHED)
    g.until(lambda: maps and maps[-1].width and paths and paths[-1].poses)
    answer = g.call(Trigger, '/r3/reset')
    assert answer.success and 'session 1' in answer.message
    g.until(lambda: maps[-1].width == 0 and paths[-1].poses == [])
    statuses = g.listen('/r3/status', StreamStatus)
    g.send()
    g.until(lambda: statuses)
    assert (statuses[-1].session_id, statuses[-1].frame_index) == (1, 1)
    assert statuses[-1].frames_processed == 5, 'counters go on'


def test_clear_map_keeps_tracking(graph):
    g = graph(map__publish_period=0.1).start()
    g.send_many(4)
    maps = g.listen('/r3/map_points', PointCloud2, LATCHED)
    g.until(lambda: maps and maps[-1].width)
    assert g.call(Trigger, '/r3/clear_map').success
    g.until(lambda: maps[-1].width == 0)
    g.send()
    assert g.health.state is StreamState.TRACKING
    assert g.node.worker.engine.session.session_id == 0


def test_clear_map_without_a_map(graph):
    g = graph(map__enabled=False).start()
    answer = g.call(Trigger, '/r3/clear_map')
    assert not answer.success and 'map.enabled' in answer.message


def test_pause_counts_frames_and_resume_goes_on(graph):
    g = graph().start()
    g.send_many(3)
    pause, resume = SetBool.Request(data=True), SetBool.Request(data=False)
    assert g.call(SetBool, '/r3/pause', pause).message == 'paused'
    again = g.call(SetBool, '/r3/pause', pause)
    assert again.success and again.message == 'already paused'
    assert g.health.state is StreamState.PAUSED
    g.send_many(2)
    assert (g.health.frames_paused, g.health.frames_processed) == (2, 3)
    assert g.call(SetBool, '/r3/pause', resume).message == 'resumed'
    g.send()
    assert g.health.state is StreamState.TRACKING
    assert g.health.frames_processed == 4


def test_resuming_after_a_long_pause_has_to_prove_itself(graph):
    g = graph(tracking__recover_frames=2).start()
    g.send_many(3)
    g.call(SetBool, '/r3/pause', SetBool.Request(data=True))
    g.call(SetBool, '/r3/pause', SetBool.Request(data=False))
    g.stamp_ns += 20_000_000_000  # the circle closes every 20 s: the same place again
    g.send()
    assert g.health.state is StreamState.RECOVERING


def test_services_work_while_inactive(graph, tmp_path):
    g = graph().start()
    g.send_many(3)
    assert g.turn('deactivate')
    assert save_map(g, name='kitchen').success
    assert not g.call(SetBool, '/r3/pause', SetBool.Request(data=True)).success
    assert g.call(Trigger, '/r3/clear_map').success
    assert save_map(g, name='kitchen2').code == SaveMap.Response.EMPTY_MAP
    assert g.call(Trigger, '/r3/reset').success


def test_saved_map_holds_what_was_published(graph, tmp_path):
    g = graph(map__publish_period=0.1).start()
    stamps = g.send_many(8)
    maps = g.listen('/r3/map_points', PointCloud2, LATCHED)
    g.until(lambda: maps and maps[-1].width)
    answer = save_map(g, name='kitchen', formats=['ply', 'pcd', 'npz'])
    assert answer.success and answer.code == SaveMap.Response.OK, answer.message
    folder = tmp_path / 'maps' / 'kitchen'
    assert answer.path == str(folder)
    assert sorted(p.name for p in folder.iterdir()) == [
        'graph.npz', 'keyframes.npz', 'manifest.yaml', 'points.npz', 'points.pcd', 'points.ply',
        'trajectory.tum',
    ]  # fmt: skip
    assert answer.bytes == sum(p.stat().st_size for p in folder.iterdir())
    points = read_ply(folder / 'points.ply')
    assert len(points) == answer.points == maps[-1].width
    published = np.frombuffer(maps[-1].data, np.float32).reshape(-1, 5)
    for axis, name in enumerate('xyz'):
        np.testing.assert_array_equal(points[name], published[:, axis])
    np.testing.assert_array_equal(points['confidence'], published[:, 4])
    with np.load(folder / 'points.npz', allow_pickle=False) as npz:
        np.testing.assert_array_equal(npz['points'][:, 2], points['z'])
    pcd = (folder / 'points.pcd').read_bytes().partition(b'DATA binary\n')[2]
    np.testing.assert_array_equal(np.frombuffer(pcd, np.float32).reshape(-1, 5), published)
    poses = read_tum(folder / 'trajectory.tum')
    np.testing.assert_array_equal(poses.stamps_ns, stamps)
    expected = [T_MAP_WORLD @ truth(g.script.path, stamp_ns) for stamp_ns in stamps]
    np.testing.assert_allclose(poses.T_world_camera, expected, atol=1e-6)
    manifest = yaml.safe_load((folder / 'manifest.yaml').read_text())
    assert manifest['format_version'] == 1
    assert manifest['counts']['points'] == answer.points
    assert manifest['counts']['poses'] == 8
    assert manifest['counts']['keyframes'] == answer.keyframes
    assert manifest['scale'] == {'metres_per_unit': None, 'source': 'none'}
    assert manifest['image_size'] == [64, 48]
    assert manifest['stamps_ns']['first'] == stamps[0]
    with np.load(folder / 'keyframes.npz', allow_pickle=False) as npz:
        assert len(npz['ids']) == answer.keyframes
        assert npz['stamps_ns'][0] == stamps[0]
        np.testing.assert_allclose(npz['T_map_optical'][0], T_MAP_WORLD, atol=1e-9)
        assert npz['K'].shape == (answer.keyframes, 3, 3)


def test_a_saved_map_is_read_again_with_the_images_of_its_keyframes(graph, tmp_path):
    g = graph().start()
    g.send_many(12)
    answer = save_map(g, name='kitchen', include_images=True)
    saved = read_map(tmp_path / 'maps' / 'kitchen')
    assert len(saved.points) == answer.points and len(saved.keyframes) == answer.keyframes > 1
    assert saved.keyframes.ids.tolist() == g.node.worker.engine.session.bank.ids()
    assert set(saved.images) == set(saved.keyframes.ids.tolist())
    assert answer.bytes == sum(
        p.stat().st_size for p in (tmp_path / 'maps' / 'kitchen').rglob('*') if p.is_file()
    )
    saved.require_model(g.node.worker.engine.predictor.info, 128)
    plain = save_map(g, name='plain')
    assert 'cannot be used to relocalise' in plain.message
    assert read_map(tmp_path / 'maps' / 'plain').images == {}
    assert g.call(Trigger, '/r3/reset').success
    g.send_many(2)
    save_map(g, name='after', include_images=True)
    assert set(read_map(tmp_path / 'maps' / 'after').images) <= {0, 1}


def test_an_existing_map_is_replaced_only_on_request(graph, tmp_path):
    g = graph().start()
    g.send_many(3)
    assert save_map(g, name='kitchen').success
    again = save_map(g, name='kitchen')
    assert (again.success, again.code) == (False, SaveMap.Response.EXISTS)
    assert 'overwrite' in again.message
    g.send_many(3)
    assert save_map(g, name='kitchen', overwrite=True).success
    assert leftovers(tmp_path / 'maps') == []


def test_a_folder_of_something_else_is_never_replaced(graph, tmp_path):
    g = graph().start()
    g.send_many(3)
    (tmp_path / 'thesis').mkdir()
    (tmp_path / 'thesis' / 'chapter1.tex').write_text('dear reader')
    answer = save_map(g, name=str(tmp_path / 'thesis'), overwrite=True)
    assert answer.code == SaveMap.Response.EXISTS
    assert (tmp_path / 'thesis' / 'chapter1.tex').read_text() == 'dear reader'


def test_names(graph, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('ROS_HOME', str(tmp_path / 'ros'))
    g = graph(map__directory='').start()
    g.send_many(3)
    assert save_map(g, name='a/b').path == str(tmp_path / 'ros' / 'r3_maps' / 'a' / 'b')
    assert save_map(g, name='~/mine').path == str(tmp_path / 'home' / 'mine')
    assert save_map(g, name=str(tmp_path / 'abs')).path == str(tmp_path / 'abs')
    unnamed = Path(save_map(g).path)
    assert unnamed.parent == tmp_path / 'ros' / 'r3_maps' and unnamed.name.startswith('map_2')
    outside = save_map(g, name='../elsewhere')
    assert outside.code == SaveMap.Response.NOT_WRITABLE
    assert 'absolute' in outside.message


def test_bad_requests(graph):
    g = graph().start()
    assert save_map(g).code == SaveMap.Response.EMPTY_MAP
    assert save_trajectory(g).code == SaveTrajectory.Response.EMPTY_MAP
    g.send_many(2)
    for answer in (
        save_map(g, formats=['docx']),
        save_trajectory(g, format='docx'),
        save_trajectory(g, name='', format='//'),
        save_trajectory(g, frame='moon'),
    ):
        assert answer.code == SaveMap.Response.BAD_FORMAT and not answer.success
        assert 'known:' in answer.message
    for answer in (save_map(g, name='n' * 300), save_trajectory(g, name='n' * 300)):
        assert answer.code == SaveMap.Response.NOT_WRITABLE
        assert answer.message.endswith('the name is too long; choose a shorter one')


@pytest.mark.parametrize(
    ('number', 'code'),
    [(errno.ENOSPC, 'NO_SPACE'), (errno.EDQUOT, 'NO_SPACE'), (errno.EIO, 'NOT_WRITABLE')],
)
def test_a_disk_that_fails_midway_leaves_nothing_and_the_stream_goes_on(
    graph, tmp_path, monkeypatch, number, code
):
    g = graph().start()
    g.send_many(3)
    before = save_map(g, name='kept')

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(writing.np, 'savez', fail)
    for overwrite, name in ((False, 'new'), (True, 'kept')):
        answer = save_map(g, name=name, overwrite=overwrite)
        assert answer.code == getattr(SaveMap.Response, code)
        assert str(tmp_path / 'maps' / name) in answer.message
    assert sorted(p.name for p in (tmp_path / 'maps').iterdir()) == ['kept']
    assert len(read_ply(tmp_path / 'maps' / 'kept' / 'points.ply')) == before.points
    g.send()
    assert g.health.frames_processed == 4
    assert g.node_health.save_failed


@pytest.fixture
def tiny_disk(tmp_path):
    """Mount 64 KiB; skipped where that is not allowed."""
    path = tmp_path / 'tiny'
    path.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(path)]
    if shutil.which('mount') is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip('mounting a small disk is not allowed here')
    yield path
    subprocess.run(['umount', str(path)], check=True)


def test_a_full_disk(graph, tiny_disk):
    g = graph(Script(depth_size=(96, 128)), map__voxel_size=0.005, points__stride=1).start()
    g.send_many(10)
    answer = save_map(g, name=str(tiny_disk / 'map'))
    assert answer.code == SaveMap.Response.NO_SPACE, answer.message
    assert 'disk is full' in answer.message and str(tiny_disk / 'map:') in answer.message
    assert list(tiny_disk.iterdir()) == []
    g.send()
    assert g.health.frames_processed == 11


def test_a_place_that_cannot_be_written(graph, tmp_path):
    g = graph().start()
    g.send_many(3)
    (tmp_path / 'file').write_text('')
    answer = save_map(g, name=str(tmp_path / 'file' / 'map'))
    assert answer.code == SaveMap.Response.NOT_WRITABLE
    answer = save_trajectory(g, name=str(tmp_path / 'file' / 'path.tum'))
    assert answer.code == SaveMap.Response.NOT_WRITABLE


def test_a_save_that_takes_too_long_answers_and_leaves_nothing(graph, tmp_path, monkeypatch):
    g = graph().start()
    g.send_many(3)
    monkeypatch.setattr('r3_ros.ros.services.services.SAVE_TIMEOUT_S', 0.05)
    go_on, real, ended = threading.Event(), writing._fill, threading.Event()

    def slow(*arguments):
        go_on.wait(20.0)
        return real(*arguments)

    monkeypatch.setattr(writing, '_fill', slow)
    monkeypatch.setattr(saving, '_give_up_if', lambda c, f=saving._give_up_if: (ended.set(), f(c)))
    answer = save_map(g, name='slow')
    assert answer.code == SaveMap.Response.TIMEOUT
    go_on.set()
    g.until(ended.is_set)
    g.until(lambda: not list((tmp_path / 'maps').iterdir()))


def test_streaming_goes_on_while_a_map_is_written(graph, monkeypatch):
    g = graph().start()
    g.send_many(3)
    go_on, real = threading.Event(), writing._fill

    def slow(*arguments):
        assert go_on.wait(20.0)
        return real(*arguments)

    monkeypatch.setattr(writing, '_fill', slow)
    client = g.probe.create_client(SaveMap, '/r3/save_map')
    g.until(client.service_is_ready)
    future = client.call_async(SaveMap.Request(name='slow'))
    g.send_many(5)
    assert g.health.frames_processed == 8
    assert not future.done()
    go_on.set()
    g.until(future.done)
    # The snapshot was taken when it was asked for, between two frames.
    folder = Path(future.result().path)
    assert 3 <= len(read_tum(folder / 'trajectory.tum')) <= 4


@pytest.mark.parametrize('frame', ['base', 'optical'])
def test_trajectory_formats_agree(graph, tmp_path, frame):
    g = graph().start()
    stamps = g.send_many(6)
    expected = np.array([T_MAP_WORLD @ truth(g.script.path, stamp_ns) for stamp_ns in stamps])
    for kind in ('tum', 'kitti', 'csv'):
        answer = save_trajectory(g, name=f'path.{kind}', format=kind, frame=frame)
        assert answer.success, answer.message
        assert (answer.poses, answer.path) == (6, str(tmp_path / 'maps' / f'path.{kind}'))
    poses = read_tum(tmp_path / 'maps' / 'path.tum')
    np.testing.assert_array_equal(poses.stamps_ns, stamps)
    np.testing.assert_allclose(poses.T_world_camera, expected, atol=1e-6)
    kitti = np.loadtxt(tmp_path / 'maps' / 'path.kitti').reshape(-1, 3, 4)
    np.testing.assert_allclose(kitti, expected[:, :3], atol=1e-6)
    lines = (tmp_path / 'maps' / 'path.csv').read_text().splitlines()
    assert lines[0] == 'stamp_ns,x,y,z,qx,qy,qz,qw'
    assert [int(line.split(',')[0]) for line in lines[1:]] == stamps
    np.testing.assert_allclose(
        [[float(v) for v in line.split(',')[1:4]] for line in lines[1:]], expected[:, :3, 3],
        atol=1e-6,
    )  # fmt: skip


def test_trajectory_of_keyframes_leaves_the_others_out(graph):
    g = graph(Script(blackouts={4})).start()
    g.send_many(8)
    every, keyframes = save_trajectory(g, name='all'), save_trajectory(
        g, name='keyframes', keyframes_only=True
    )  # fmt: skip
    assert every.poses == 7, 'a frame without a pose has no line'
    assert keyframes.poses == keyframes.keyframes == every.keyframes < 7


def test_existing_trajectory_is_replaced_only_on_request(graph):
    g = graph().start()
    g.send_many(2)
    assert save_trajectory(g, name='path.tum').success
    again = save_trajectory(g, name='path.tum')
    assert again.code == SaveTrajectory.Response.EXISTS
    assert save_trajectory(g, name='path.tum', overwrite=True).success


def test_a_reset_leaves_a_fault(graph):
    g = graph(input__on_time_jump_back='error').start()
    g.send_many(3)
    g.send(image_message(START_NS - 20_000_000_000))
    assert g.health.state is StreamState.FAULT
    assert g.call(Trigger, '/r3/reset').success
    g.send()
    assert g.health.frames_processed == 4
