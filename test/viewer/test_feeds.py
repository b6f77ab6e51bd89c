"""Runs and files in the scene: the right frame at the right time, in the frame of the map."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import threading
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

pytest.importorskip('viser', reason='viser is not installed (pip install ".[view]")')

from r3_ros import factory
from r3_ros.commands import cli
from r3_ros.commands import run as run_command
from r3_ros.core.geometry import make_T, similarity
from r3_ros.core.trajectory_file import PoseList, read_tum
from r3_ros.evaluation.trajectory_errors import true_path
from r3_ros.offline.run_files import SAVED_MAP, UNPLACED
from r3_ros.streaming.keyframes.keyframe_graph import EdgeKind
from r3_ros.viewer.file_feed import load_finished, show_finished, show_time
from r3_ros.viewer.run_feed import RunFeed, shown_keyframes, world_facts, world_snapshot
from r3_ros.viewer.scene import Scene
from r3_ros.viewer.view_data import LinkKind
import scripted
from sequences import stamp, write_folder
from small_engine import engine_of

_TIMEOUT_S = 20.0
FRAMES = 20


@pytest.fixture(scope='module')
def scripted_runs():
    """Have every engine use a scripted predictor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, 'load_predictor', lambda config: scripted.ScriptedPredictor())
        yield


@pytest.fixture(scope='module')
def sequence(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp('viewer') / 'seq', count=FRAMES)


@pytest.fixture(scope='module')
def finished_run(sequence, scripted_runs):
    output = sequence.parent / 'out'
    assert cli.main(['run', str(sequence), '-o', str(output), '--save-depth']) == 0
    return output


def centres(T):
    return np.asarray(T)[..., :3, 3]


# A run while it is processed


def test_a_run_is_shown_in_the_map_while_it_is_processed():
    engine, shown, done = engine_of(), Mock(spec=Scene), threading.Event()
    shown.show_status.side_effect = lambda state, facts: 'points' in facts and done.set()
    steps = [(frame, engine.step(frame)) for frame in scripted.frames(30)]
    with closing(RunFeed(shown, engine, UNPLACED.T_map_world)) as feed:
        feed.note(*steps[-1])
        assert done.wait(_TIMEOUT_S)
    record = engine.session.trajectory_view(keyframes_only=True)
    expected = UNPLACED.T_map_world @ record.T_final
    (keyframes,) = shown.show_keyframes.call_args.args
    np.testing.assert_allclose(keyframes.T_map_camera, expected, atol=1e-9)
    np.testing.assert_allclose(shown.show_path.call_args.args[0], centres(expected), atol=1e-9)
    resident = np.isin(record.frame_ids, engine.session.bank.ids())
    assert (np.isfinite(keyframes.covariances).all(axis=(1, 2)) == resident).all()
    T_map_camera, image, depth, intrinsics = shown.show_camera.call_args.args
    frame, estimate = steps[-1]
    T_world_camera = scripted.truth(scripted.circle(), frame.stamp_ns)
    np.testing.assert_allclose(T_map_camera, UNPLACED.T_map_world @ T_world_camera, atol=1e-9)
    assert image is frame.image and intrinsics == estimate.intrinsics and depth.ndim == 2
    state, facts = shown.show_status.call_args.args
    assert state == 'tracking' and facts['frame'].startswith('1,')


def test_lengths_are_in_metres_once_the_scale_is_known():
    engine, shown, done = engine_of(), Mock(spec=Scene), threading.Event()
    shown.show_path.side_effect = lambda path: done.set()
    steps = [(frame, engine.step(frame)) for frame in scripted.frames(30)]
    engine.set_scale(2.5, lock=True)
    seen = []
    shown.show_cloud.side_effect = lambda placed: seen.extend(placed)
    with closing(RunFeed(shown, engine, np.eye(4))) as feed:
        feed.note(*steps[-1])
        assert done.wait(_TIMEOUT_S)
    record = engine.session.trajectory_view(keyframes_only=True)
    np.testing.assert_allclose(shown.show_path.call_args.args[0], 2.5 * centres(record.T_final))
    placed = engine.session.map_view().placed
    for (cloud, S), (own, S_own) in zip(seen, placed, strict=True):
        assert cloud is own
        np.testing.assert_allclose(S[:3], 2.5 * S_own[:3])
    assert world_facts(world_snapshot(engine))['lengths'] == 'm (2.5 m per unit)'


def test_the_engine_never_waits_for_the_viewer():
    engine, shown = engine_of(), Mock(spec=Scene)
    busy, go_on = threading.Event(), threading.Event()
    shown.show_cloud.side_effect = lambda placed: (busy.set(), go_on.wait(_TIMEOUT_S))
    steps = [(frame, engine.step(frame)) for frame in scripted.frames(12)]
    with closing(RunFeed(shown, engine, np.eye(4))) as feed:
        feed.note(*steps[0])
        assert busy.wait(_TIMEOUT_S)
        for step in steps[1:]:
            feed._frame_due_s = feed._world_due_s = 0.0
            feed.note(*step)  # returns at once
        assert feed._frames.dropped >= 9 and feed._worlds.dropped >= 9
        go_on.set()


def test_closed_loops_are_marked():
    engine = engine_of()
    for frame in scripted.frames(30):
        engine.step(frame)
    world = world_snapshot(engine)
    keyframes = world.graph.keyframes(100)
    edge = next(e for e in world.graph.edges(keyframes) if e.kind is EdgeKind.RECENT)
    pair = min(edge.source_id, edge.target_id), max(edge.source_id, edge.target_id)
    tied = shown_keyframes(keyframes, replace(world, ties=frozenset([pair])), np.eye(4))
    ids = keyframes.frame_ids[tied.links]
    loops = {tuple(sorted(ends)) for ends in ids[tied.kinds == LinkKind.LOOP].tolist()}
    assert loops == {pair}


def test_the_truth_is_aligned_with_the_estimate():
    stamps_ns = np.array([stamp(n) for n in range(30)])
    T_true = np.stack(
        [scripted.truth(scripted.circle(), scripted.START_NS + s) for s in stamps_ns]
    )
    S = similarity(make_T(scripted.Rotation.from_euler('x', 0.5).as_matrix(), np.ones(3)), 0.4)
    T_own = T_true.copy()
    T_own[:, :3, 3] = centres(T_true) @ S[:3, :3].T + S[:3, 3]
    T_own[:, :3, :3] = S[:3, :3] / 0.4 @ T_true[:, :3, :3]
    path = true_path(PoseList(stamps_ns[5:20], T_own[5:20]), PoseList(stamps_ns, T_true))
    np.testing.assert_allclose(path, centres(T_own[5:20]), atol=1e-9)


# Finished runs and maps


def test_a_finished_run_is_shown_at_the_time_of_the_slider(finished_run, sequence):
    truth = read_tum(sequence / 'groundtruth.txt')
    finished, shown = load_finished(finished_run, truth), Mock(spec=Scene)
    show_finished(shown, finished)
    duration_s, on_time = shown.add_time.call_args.args
    assert duration_s == pytest.approx((FRAMES - 1) * 0.1)
    for frame in (0, 7, FRAMES - 1):
        on_time(0.1 * frame + 0.03)
        T = UNPLACED.T_map_world @ scripted.truth(scripted.circle(), stamp(frame))
        T_map_camera, image, depth, _ = shown.show_camera.call_args.args
        np.testing.assert_allclose(T_map_camera, T, atol=1e-5)
        path = shown.show_path.call_args.args[0]
        assert len(path) == frame + 1
        np.testing.assert_allclose(path[-1], T[:3, 3], atol=1e-5)
        state, facts = shown.show_status.call_args.args
        assert facts['frame'] == f'{frame + 1} of {FRAMES}'
        assert facts['time'] == f'{frame / 10:.2f} s'
        assert state == ('tracking' if frame else 'initializing')
        # Of the last keyframe so far.
        assert image.shape == (48, 64, 3) and depth.shape == (24, 32)
    np.testing.assert_allclose(shown.show_truth.call_args.args[0], path, atol=1e-4)
    assert sum(len(cloud) for cloud, _ in shown.show_cloud.call_args.args[0]) == len(
        finished.cloud
    )


def test_images_of_later_keyframes_are_not_shown_earlier(finished_run):
    finished, shown = load_finished(finished_run), Mock(spec=Scene)
    keyframe_stamps = sorted(finished.images)
    assert len(keyframe_stamps) > 1
    before_second_s = (keyframe_stamps[1] - finished.stamps_ns[0]) / 1e9 - 0.1
    show_time(shown, finished, before_second_s)
    image = shown.show_camera.call_args.args[1]
    first = cv2.imdecode(np.frombuffer(finished.images[keyframe_stamps[0]], np.uint8), 1)
    np.testing.assert_array_equal(image, first[..., ::-1])


def test_a_map_is_shown_as_the_run_that_saved_it(finished_run):
    of_run, of_map = load_finished(finished_run), load_finished(finished_run / SAVED_MAP)
    np.testing.assert_array_equal(of_map.keyframes.centres, of_run.keyframes.centres)
    np.testing.assert_allclose(of_map.T_map_camera, of_run.T_map_camera, atol=1e-5)
    assert len(of_map.cloud) == len(of_run.cloud) and of_map.images.keys() == of_run.images.keys()
    distances = np.abs(np.diff(of_map.keyframes.links, axis=1)).ravel()
    assert ((of_map.keyframes.kinds == LinkKind.RECENT) == (distances <= 6)).all()


def test_a_run_without_a_map_is_shown_in_the_same_axes(finished_run, tmp_path):
    whole = load_finished(finished_run)
    without = shutil.ignore_patterns(SAVED_MAP)
    bare = load_finished(Path(shutil.copytree(finished_run, tmp_path / 'bare', ignore=without)))
    np.testing.assert_allclose(bare.T_map_camera, whole.T_map_camera, atol=1e-9)
    np.testing.assert_allclose(bare.cloud.points, whole.cloud.points, atol=1e-5)
    assert len(bare.keyframes.centres) > 1 and not bare.images


def test_a_frame_without_a_pose_says_so(finished_run):
    finished, shown = load_finished(finished_run), Mock(spec=Scene)
    finished.T_map_camera[5] = np.nan
    show_time(shown, finished, 0.5)
    assert shown.show_camera.call_args.args[0] is None
    assert shown.show_status.call_args.args[1]['pose'] == 'none'


# Commands


def test_a_run_with_a_view_shows_its_result_at_the_end(
    tmp_path, sequence, scripted_runs, monkeypatch, capsys
):
    scenes = []
    monkeypatch.setattr(run_command, 'wait_for_interrupt', lambda: scenes.append('waited'))
    shown = []
    monkeypatch.setattr(Scene, 'show_status', lambda self, *status: shown.append(status))
    given = ['run', str(sequence), '-o', str(tmp_path / 'out'), '--view', '--port', '18081']
    assert cli.main([*given, '--groundtruth', str(sequence / 'groundtruth.txt')]) == 0
    assert scenes == ['waited'] and 'view: http://127.0.0.1:180' in capsys.readouterr().out
    assert shown[-1][1]['frame'] == f'{FRAMES} of {FRAMES}'
    assert not [t for t in threading.enumerate() if t.name.startswith('r3_view')]


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        (['view', 'missing'], 'neither the output of r3 run'),
        (['view', '.', '--groundtruth', 'missing.tum'], 'missing.tum'),
        (['run', 'seq', '-o', 'out', '--view', '--port', '0'], 'between 1 and 65535'),
        (['run', 'seq', '-o', 'out', '--view', '--host', '203.0.113.7'], 'cannot listen'),
        (['run', 'seq', '-o', 'out', '--view', '--mode', 'offline'], '--view needs the stream'),
    ],
)
def test_what_cannot_be_shown_is_an_error(tmp_path, monkeypatch, capsys, given, words):
    monkeypatch.chdir(tmp_path)
    assert cli.main(given) == 2
    assert words in capsys.readouterr().err


def test_without_viser_the_error_says_what_to_install(finished_run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'viser', None)
    assert cli.main(['view', str(finished_run)]) == 2
    assert 'pip install "r3_ros[view]"' in capsys.readouterr().err


def test_an_interrupt_ends_the_view(finished_run):
    process = subprocess.Popen(
        [
            sys.executable,
            '-m',
            'r3_ros.commands.cli',
            'view',
            str(finished_run),
            '--port',
            '18082',
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A child of a background job would ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    lines = [process.stdout.readline() for _ in range(2)]
    assert lines[0].startswith('view: http://127.0.0.1:') and 'Ctrl-C' in lines[1]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=_TIMEOUT_S)
    assert (process.returncode, errors) == (0, '')
