"""Maps that survive a restart: loading one over DDS, and saving one as the node ends."""

import dataclasses
from pathlib import Path

from geometry_msgs.msg import Point, Pose, PoseWithCovarianceStamped, Quaternion
from nav_msgs.msg import Path as PathMessage
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from r3_ros.core.config import R3Config
from r3_ros.core.errors import ModelError
from r3_ros.core.geometry import make_T, quat_xyzw, R_BODY_OPTICAL
from r3_ros.maps.keyframe_images import KeyframeImages
from r3_ros.maps.reading import read_map
from r3_ros.maps.writing import write_map
from r3_ros.msg import StreamStatus
from r3_ros.offline.run_files import UNPLACED
from r3_ros.ros.outputs.health import StreamState
from r3_ros.srv import LoadMap, SaveMap
from r3_ros.streaming.engine import Engine
from r3_ros.streaming.map_snapshot import saved_map, take_map_snapshot
from ros_graph import image_message, LATCHED, matrix
from scripted import frames, PERIOD_NS, Script, ScriptedPredictor, truth
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import Trigger

pytestmark = pytest.mark.ros

FRAMES = 40
T_MAP_WORLD = make_T(R_BODY_OPTICAL, np.zeros(3))
CODES = LoadMap.Response


def save(g, name='kitchen'):
    return g.call(SaveMap, '/r3/save_map', SaveMap.Request(name=name, include_images=True))


def ask(g, **fields):
    """Ask for a map, and return the future when the node has begun with it or has answered."""
    client = g.probe.create_client(LoadMap, '/r3/load_map')
    g.until(client.service_is_ready)
    session_id = g.node.worker.engine.session.session_id
    future = client.call_async(LoadMap.Request(**{'name': 'kitchen', 'localize': True, **fields}))
    g.until(lambda: future.done() or g.node.worker.engine.session.session_id > session_id)
    return future


def answer_of(g, future):
    g.until(future.done)
    return future.result()


def pose_of(T):
    at = dict(zip('xyz', T[:3, 3].tolist(), strict=True))
    turn = dict(zip('xyzw', quat_xyzw(T).tolist(), strict=True))
    return Pose(position=Point(**at), orientation=Quaternion(**turn))


@pytest.fixture
def folder(tmp_path):
    """Write the map of a run of 40 frames, as another process has left it."""
    engine, images = Engine(ScriptedPredictor(), R3Config()), KeyframeImages()
    for frame in frames(FRAMES):
        images.note(frame.image, engine.step(frame))
    snapshot = take_map_snapshot(engine.session, engine.predictor, images.copy())
    path = tmp_path / 'maps' / 'kitchen'
    write_map(path, saved_map(snapshot, UNPLACED, engine.config.map.voxel_size))
    return path


def test_a_map_is_loaded_by_another_process_and_the_camera_is_found(graph, folder):
    g = graph(map__publish_period=0.1).start()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    statuses = g.listen('/r3/status', StreamStatus)
    maps = g.listen('/r3/map_points', PointCloud2, LATCHED)
    paths = g.listen('/r3/path', PathMessage, LATCHED)
    tf = g.listen_tf()
    g.stamp_ns += FRAMES * PERIOD_NS  # where the map ended
    future = ask(g)
    g.send()
    g.send()
    g.until(lambda: statuses and statuses[-1].frame_index == 2)
    assert statuses[-1].state == StreamStatus.STATE_INITIALIZING
    assert 'loaded map' in statuses[-1].state_reason
    assert not poses and not tf
    assert not any(m.width for m in maps) and not any(p.poses for p in paths)
    assert not future.done()
    stamp_ns = g.send()
    answer = answer_of(g, future)
    assert (answer.success, answer.code) == (True, CODES.OK), answer.message
    assert answer.points == len(read_map(folder).points)
    assert answer.keyframes == len(read_map(folder).keyframes) and 'was found' in answer.message
    g.until(lambda: poses and statuses[-1].state == StreamStatus.STATE_TRACKING)
    assert statuses[-1].map_revision == 1
    expected = T_MAP_WORLD @ truth(g.script.path, stamp_ns)
    np.testing.assert_allclose(matrix(poses[-1].pose.pose), expected, atol=1e-6)
    g.until(lambda: maps[-1].width >= 0.9 * answer.points and paths[-1].poses)
    # Mapping goes on, and what is saved now holds both.
    g.send_many(20)
    assert save(g, 'both').success
    both, before = read_map(folder.parent / 'both'), read_map(folder)
    assert len(both.trajectory) == len(before.trajectory) + 21
    assert len(both.keyframes) > len(before.keyframes)
    assert both.images.keys() == set(both.keyframes.ids.tolist())


def test_loading_while_the_node_tracks_starts_a_session_in_the_map(graph, folder):
    g = graph().start()
    g.send_many(5)
    assert g.health.state is StreamState.TRACKING
    future = ask(g)
    assert g.node.worker.engine.session.session_id == 1
    g.send_many(4)
    assert answer_of(g, future).code == CODES.OK
    assert g.health.state is StreamState.TRACKING


def test_each_thing_that_can_be_wrong_with_a_map_has_its_code(graph, folder, tmp_path):
    g = graph().start()
    g.send_many(3)
    session = g.node.worker.engine.session
    saved = read_map(folder)
    facts = saved.facts
    write_map(
        tmp_path / 'maps' / 'other_model',
        dataclasses.replace(saved, facts=dataclasses.replace(facts, model_name='r3')),
    )
    write_map(tmp_path / 'maps' / 'plain', saved, include_images=False)
    write_map(tmp_path / 'maps' / 'damaged', saved)
    (tmp_path / 'maps' / 'damaged' / 'graph.npz').write_bytes(b'')
    write_map(tmp_path / 'maps' / 'newer', saved)
    manifest = tmp_path / 'maps' / 'newer' / 'manifest.yaml'
    manifest.write_text(manifest.read_text().replace('format_version: 1', 'format_version: 2'))
    for name, code, says in (
        ('none', CODES.NOT_FOUND, 'no map at'),
        ('', CODES.NOT_FOUND, 'is no name of a map'),
        ('../kitchen', CODES.NOT_FOUND, 'is no name of a map'),
        ('other_model', CODES.CHECKPOINT_MISMATCH, "made by model 'r3'"),
        ('plain', CODES.BAD_FORMAT, 'include_images'),
        ('damaged', CODES.BAD_FORMAT, 'graph.npz'),
        ('newer', CODES.VERSION_MISMATCH, 'format version 2'),
    ):
        answer = answer_of(g, ask(g, name=name))
        assert (answer.success, answer.code) == (False, code), answer.message
        assert says in answer.message
    nowhere = Pose(orientation=Quaternion(x=0.0, y=0.0, z=0.0, w=0.0))
    answer = answer_of(g, ask(g, use_initial_pose=True, initial_pose=nowhere))
    assert answer.code == CODES.BAD_FORMAT and 'initial_pose' in answer.message
    # The stream has gone on through all of it.
    assert g.node.worker.engine.session is session
    g.send()
    assert g.health.state is StreamState.TRACKING and g.health.frames_processed == 4


def test_a_camera_that_is_not_found_goes_on_as_a_new_session(graph, folder):
    g = graph(Script(blackouts=range(3)), relocalise__timeout=0.5, loop__new_segment_after=0)
    g.start()
    future = ask(g)
    g.send_many(3)
    answer = answer_of(g, future)
    assert (answer.success, answer.code) == (False, CODES.NOT_LOCALISED)
    assert 'within 0.5 s' in answer.message and 'new session' in answer.message
    assert not g.node.worker.engine.is_relocalising
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    g.send_many(3)
    g.until(lambda: len(poses) == 3)
    assert g.health.state is StreamState.TRACKING
    np.testing.assert_allclose(matrix(poses[0].pose.pose)[:3, 3], 0.0, atol=1e-9)


def test_a_model_that_cannot_hold_the_map_says_so_and_a_new_session_begins(
    graph, folder, monkeypatch
):
    def refuse(*_):
        raise ModelError('the images of 9 frames do not fit into memory.max_host_mib')

    monkeypatch.setattr(ScriptedPredictor, 'restore', refuse)
    g = graph().start()
    g.send_many(3)
    answer = answer_of(g, ask(g))
    assert answer.code == CODES.INTERNAL and answer.message.startswith('the images of 9 frames')
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    g.send_many(2)
    g.until(lambda: len(poses) == 2)
    np.testing.assert_allclose(matrix(poses[0].pose.pose)[:3, 3], 0.0, atol=1e-9)
    assert g.node.worker.engine.session.trajectory_view().frame_ids.tolist() == [0, 1]


def test_a_stopped_stream_has_to_be_reset_first(graph, folder):
    g = graph(Script(failures={1: RuntimeError('a bug')})).start()
    g.send()
    g.images.publish(image_message(g.stamp_ns))
    g.until(lambda: g.health.state is StreamState.FAULT)
    answer = answer_of(g, ask(g))
    assert answer.code == CODES.NOT_LOCALISED and '~/reset' in answer.message


def test_a_reset_ends_the_search_and_is_reported(graph, folder):
    g = graph(Script(blackouts=range(100))).start()
    future = ask(g)
    g.send()
    assert g.call(Trigger, '/r3/reset').success
    answer = answer_of(g, future)
    assert answer.code == CODES.NOT_LOCALISED and 'new session' in answer.message


def test_an_inactive_node_finds_no_camera_but_shows_the_map(graph, folder):
    g = graph().start()
    g.send_many(2)
    assert g.turn('deactivate')
    answer = answer_of(g, ask(g))
    assert answer.code == CODES.NOT_LOCALISED and 'not active' in answer.message
    maps = g.listen('/r3/map_points', PointCloud2, LATCHED)
    assert answer_of(g, ask(g, localize=False)).code == CODES.LOADED_VIEW_ONLY
    g.until(lambda: maps and maps[-1].width)


@pytest.mark.slow
def test_a_map_for_display_takes_the_place_of_the_sessions_until_it_is_cleared(graph, folder):
    g = graph(map__publish_period=0.1).start()
    maps = g.listen('/r3/map_points', PointCloud2, LATCHED)
    paths = g.listen('/r3/path', PathMessage, LATCHED)
    g.send_many(3)
    g.until(lambda: maps and maps[-1].width)
    answer = answer_of(g, ask(g, localize=False))
    assert (answer.success, answer.code) == (True, CODES.LOADED_VIEW_ONLY)
    g.until(lambda: maps[-1].width == answer.points and len(paths[-1].poses) == 40)
    T = matrix(paths[-1].poses[0].pose)
    np.testing.assert_allclose(T, T_MAP_WORLD, atol=1e-6)
    g.send_many(10)
    assert maps[-1].width == answer.points, 'the session goes on, and is not shown'
    assert g.health.state is StreamState.TRACKING
    assert g.call(Trigger, '/r3/clear_map').success
    g.until(lambda: maps[-1].width == 0)
    g.send_many(10)
    g.until(lambda: maps[-1].width)


@pytest.mark.slow
@pytest.mark.parametrize('right', [True, False])
def test_an_initial_pose_says_where_to_look(graph, folder, right):
    g = graph(relocalise__timeout=3.0, loop__new_segment_after=0).start()
    g.stamp_ns += FRAMES * PERIOD_NS
    T = T_MAP_WORLD @ truth(g.script.path, g.stamp_ns)
    if not right:
        T = make_T(T[:3, :3], T[:3, 3] + [5.0, 0.0, 0.0])
    future = ask(g, use_initial_pose=True, initial_pose=pose_of(T))
    g.send_many(4)
    answer = answer_of(g, future)
    assert answer.code == (CODES.OK if right else CODES.NOT_LOCALISED), answer.message


@pytest.mark.slow
def test_pointing_at_the_plan_narrows_a_search_that_is_on(graph, folder):
    g = graph(relocalise__timeout=30.0, loop__new_segment_after=0).start()
    g.stamp_ns += FRAMES * PERIOD_NS
    T = T_MAP_WORLD @ truth(g.script.path, g.stamp_ns)
    wrong = make_T(T[:3, :3], T[:3, 3] + [5.0, 0.0, 0.0])
    future = ask(g, use_initial_pose=True, initial_pose=pose_of(wrong))
    g.send_many(4)
    assert not future.done()
    hint = PoseWithCovarianceStamped()
    hint.header.frame_id = 'map'
    hint.pose.pose = pose_of(T)
    hint.pose.covariance[0] = hint.pose.covariance[7] = 0.01
    publisher = g.probe.create_publisher(PoseWithCovarianceStamped, 'initialpose', 1)
    g.until(lambda: publisher.get_subscription_count() == 1)
    publisher.publish(hint)
    for _ in range(50):
        g.send()
        if future.done():
            break
    assert answer_of(g, future).code == CODES.OK


def test_the_map_is_saved_as_the_node_ends_and_never_over_another(graph, folder, tmp_path):
    maps = tmp_path / 'maps'
    before = {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}
    g = graph(map__save_on_shutdown='kitchen').start()
    g.send_many(6)
    services = g.node._own_services
    assert g.turn('shutdown')
    services._last_save.result(timeout=20.0)
    new = [path for path in maps.iterdir() if path.name.startswith('kitchen_')]
    assert len(new) == 1 and len(read_map(new[0]).trajectory) == 6
    assert {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()} == before


def test_a_map_that_was_gone_on_with_is_saved_in_its_place(graph, folder):
    g = graph(map__save_on_shutdown='kitchen').start()
    g.stamp_ns += FRAMES * PERIOD_NS
    future = ask(g)
    g.send_many(8)
    assert answer_of(g, future).code == CODES.OK
    services = g.node._own_services
    assert g.turn('shutdown')
    services._last_save.result(timeout=20.0)
    assert len(read_map(folder).trajectory) == 46
    assert [path.name for path in Path(folder.parent).iterdir()] == ['kitchen']
