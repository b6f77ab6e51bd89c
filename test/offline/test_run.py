"""A recording through the engine and into files, with a predictor that knows the answer."""

import json
import os
from pathlib import Path
import signal
import threading

import cv2
import numpy as np
import pytest
from r3_ros import factory
from r3_ros.commands.cli import main
from r3_ros.core.config import R3Config
from r3_ros.core.errors import CalibrationError, FrameError, SourceError
from r3_ros.core.parameter_fields import updated
from r3_ros.core.trajectory_file import read_tum
from r3_ros.input.folder_layouts import find_images
from r3_ros.input.folder_source import FolderSource
from r3_ros.input.source import RawFrame
from r3_ros.maps.cloud_file import read_ply
from r3_ros.maps.reading import read_map
from r3_ros.offline import stream_run
from r3_ros.offline.run_files import machine, read_table, UNPLACED
from r3_ros.offline.stream_run import run_source, Undistorter
from r3_ros.streaming.engine import Engine
from r3_ros.streaming.map_snapshot import saved_map
import scripted
from sequences import stamp, write_folder, write_video


@pytest.fixture
def predictor(monkeypatch):
    """Have every engine use a scripted predictor, and return what it will be."""
    made = scripted.ScriptedPredictor()
    monkeypatch.setattr(factory, 'load_predictor', lambda config: made)
    return made


def run_folder(folder, predictor=None, config=None, **options):
    config = config or R3Config()
    engine = Engine(predictor or scripted.ScriptedPredictor(), config)
    with FolderSource(folder) as source:
        return run_source(source, engine, **options)


def test_every_frame_is_used_in_order(tmp_path):
    result = run_folder(write_folder(tmp_path / 'seq', count=20))
    assert [record.stamp_ns for record in result.records] == [stamp(i) for i in range(20)]
    assert not result.rejected and not result.interrupted
    np.testing.assert_array_equal(result.trajectory.stamps_ns, [stamp(i) for i in range(20)])
    for i, T in enumerate(result.trajectory.T_emitted):
        np.testing.assert_allclose(T, scripted.truth(scripted.circle(), stamp(i)), atol=1e-9)


def test_frames_that_would_start_another_session_are_left_out(tmp_path):
    folder = write_folder(tmp_path / 'seq', count=8)
    cv2.imwrite(str(find_images(folder)[3]), np.zeros((20, 20, 3), np.uint8))
    with FolderSource(folder) as source:
        entries = source.entries
        back = 10**9, entries[4][1]  # time jumps back by decades
        twice = entries[5][0], entries[6][1]
        source.entries = [*entries[:6], back, twice, entries[7]]
        result = run_source(source, Engine(scripted.ScriptedPredictor(), R3Config()))
    assert [record.stamp_ns for record in result.records] == [stamp(i) for i in (0, 1, 2, 4, 5, 7)]
    assert sum(result.rejected.values()) == 3
    assert any('size changed: 64x48 to 20x20' in warning for warning in result.warnings)
    assert any('duplicate' in warning for warning in result.warnings)


def test_a_frame_the_predictor_refuses_is_counted(tmp_path):
    script = scripted.Script(failures={3: FrameError('too dark')})
    folder = write_folder(tmp_path / 'seq', count=8)
    result = run_folder(folder, scripted.ScriptedPredictor(script))
    assert len(result.records) == 7
    assert result.rejected['refused by the predictor'] == 1
    assert any('too dark' in warning for warning in result.warnings)


def test_a_stop_keeps_what_is_there(tmp_path):
    stop = threading.Event()

    def on_frame(frame, estimate):
        if estimate.frame_id == 4:
            stop.set()

    folder = write_folder(tmp_path / 'seq', count=20)
    result = run_folder(folder, on_frame=on_frame, stop=stop)
    assert result.interrupted and len(result.records) == 5


def test_errors_of_the_reader_arrive(tmp_path):
    folder = write_folder(tmp_path / 'seq', count=3)
    for path in find_images(folder):
        path.write_bytes(b'')
    with pytest.raises(SourceError, match='no frame'):
        run_folder(folder)
    assert not [t for t in threading.enumerate() if t.name == 'r3_frame_reader']


def test_a_source_that_blocks_does_not_keep_the_process(monkeypatch):
    monkeypatch.setattr(stream_run, '_LONGEST_WAIT_S', 0.05)
    go_on = threading.Event()

    def blocking():
        yield 1
        go_on.wait(60.0)

    with pytest.raises(KeyboardInterrupt), stream_run.read_ahead(blocking()) as items:
        assert next(items) == 1
        raise KeyboardInterrupt
    (reader,) = [t for t in threading.enumerate() if t.name == 'r3_frame_reader']
    assert reader.daemon
    go_on.set()
    reader.join(60.0)
    assert not reader.is_alive()


def test_the_machine_is_described_without_the_files_and_calls_of_linux(monkeypatch):
    monkeypatch.setattr(Path, 'exists', lambda path: False)
    monkeypatch.delattr(os, 'sched_getaffinity')
    described = machine()
    assert described['cpu'] and described['cores'] == os.cpu_count()


def test_an_error_of_the_engine_stops_the_reader(tmp_path):
    script = scripted.Script(failures={2: RuntimeError('a bug')})
    folder = write_folder(tmp_path / 'seq', count=30)
    with pytest.raises(RuntimeError, match='a bug'):
        run_folder(folder, scripted.ScriptedPredictor(script))
    assert not [t for t in threading.enumerate() if t.name == 'r3_frame_reader']


def test_a_calibration_of_another_shape_is_refused(tmp_path):
    folder = write_folder(tmp_path / 'seq', count=3)
    text = (folder / 'camera.yaml').read_text().replace('height: 48', 'height: 64')
    (folder / 'camera.yaml').write_text(text)
    with pytest.raises(CalibrationError, match='64x64.*64x48'):
        run_folder(folder)


def test_a_calibration_of_another_size_is_scaled(tmp_path):
    folder = write_folder(tmp_path / 'seq', count=1)
    text = (folder / 'camera.yaml').read_text()
    text = text.replace('width: 64', 'width: 128').replace('height: 48', 'height: 96')
    (folder / 'camera.yaml').write_text(text)
    with FolderSource(folder) as source:
        frame = Undistorter(source.camera).frame(next(iter(source)))
    assert frame.intrinsics.width == 64 and frame.intrinsics.fx == pytest.approx(25.6)


def test_rectification_can_be_switched_off(tmp_path):
    folder = write_folder(tmp_path / 'seq', count=1)
    text = (folder / 'camera.yaml').read_text().replace('[0, 0, 0, 0, 0]', '[-0.3, 0.1, 0, 0, 0]')
    (folder / 'camera.yaml').write_text(text)
    raw = RawFrame(1, scripted.pattern_image())
    source = FolderSource(folder)
    assert Undistorter(source.camera_for('off')).frame(raw).image is raw.image
    assert Undistorter(source.camera_for('auto')).frame(raw).image is not raw.image


def test_the_command_writes_everything(tmp_path, predictor, capsys):
    folder = write_folder(tmp_path / 'seq', count=40)
    out = tmp_path / 'out'
    truth = str(folder / 'groundtruth.txt')
    arguments = ['run', str(folder), '-o', str(out), '--groundtruth', truth, '--save-depth']
    assert main([*arguments, '--set', 'keyframe.max_interval=5']) == 0
    assert predictor.closed
    names = {path.name for path in out.iterdir()}
    assert names >= {
        'trajectory.tum',
        'trajectory_final.tum',
        'map.ply',
        'summary.json',
        'frames.csv',
        'report.html',
        'covariances.npz',
        'samples',
        'evaluation.json',
        'evaluation.csv',
        'depth',
        'map',
    }
    saved = read_map(out / 'map')
    assert len(saved.trajectory) == 40 and saved.images.keys() == set(saved.keyframes.ids)
    assert len(saved.points) == len(read_ply(out / 'map.ply'))
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['frames']['processed'] == summary['frames']['with_pose'] == 40
    # The first frame has nothing to be tracked against.
    assert summary['frames']['tracked'] == 39 and summary['tracked_share'] == 39 / 40
    assert summary['complete']
    assert summary['keyframes'] >= 8
    assert summary['config']['keyframe.max_interval'] == 5
    assert not summary['camera']['focal_length_estimated']
    assert summary['timing_ms']['step']['p95'] > 0
    evaluation = json.loads((out / 'evaluation.json').read_text())
    assert evaluation['trajectory']['ate_rmse_m'] < 1e-6
    assert len(read_ply(out / 'map.ply')) == summary['map_points'] > 500
    assert read_tum(out / 'trajectory.tum').stamps_ns.tolist() == [stamp(i) for i in range(40)]
    table = read_table(out / 'frames.csv')
    assert table['tracked'].sum() == 39 and len(list((out / 'depth').iterdir())) == 40
    assert '97.5 % tracked' in capsys.readouterr().out


@pytest.mark.slow
def test_depth_that_comes_after_the_last_frame_is_saved(tmp_path, predictor):
    predictor.script = scripted.Script(depth_delay=6)
    out = tmp_path / 'out'
    folder = write_folder(tmp_path / 'seq', count=10)
    assert main(['run', str(folder), '-o', str(out), '--save-depth']) == 0
    files = sorted((out / 'depth').iterdir())
    assert [path.name for path in files] == [f'{i:06d}.npz' for i in range(10)]
    assert [int(np.load(path)['stamp_ns']) for path in files] == [stamp(i) for i in range(10)]


def test_frames_that_are_all_refused_are_an_error_with_the_reason(tmp_path, predictor, capsys):
    def refuse(frame):
        raise FrameError('too small to see')

    predictor.describe = refuse
    folder = write_folder(tmp_path / 'seq', count=3)
    assert main(['run', str(folder), '-o', str(tmp_path / 'out')]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'no frame of seq could be processed' in error and 'too small to see' in error
    assert os.listdir(tmp_path) == ['seq']


def test_what_was_left_out_and_why_nothing_was_tracked_is_said(tmp_path, predictor, capsys):
    folder = write_folder(tmp_path / 'seq', count=3)
    names = [line.split()[1] for line in (folder / 'timestamps.txt').read_text().splitlines()[1:]]
    (folder / 'timestamps.txt').write_text('\n'.join(f'5.0 {name}' for name in names))
    assert main(['run', str(folder), '-o', str(tmp_path / 'out')]) == 3
    reported = capsys.readouterr()
    assert 'no estimates: initializing, first frame. Read the script' in reported.err
    left_out = '2 of 3 frames were left out: 2 duplicate stamp'
    assert reported.err.splitlines()[-1] == f'warning: {left_out}'
    assert json.loads((tmp_path / 'out' / 'summary.json').read_text())['warnings'][-1] == left_out


@pytest.mark.parametrize(('odd', 'status'), [(1, 0), (4, 0), (11, 3)])
def test_the_status_says_that_much_was_left_out(tmp_path, predictor, odd, status):
    folder = write_folder(tmp_path / 'seq', count=20)
    for path in sorted((folder / 'rgb').iterdir())[-odd:]:
        cv2.imwrite(str(path), cv2.imread(str(path))[:-2])
    assert main(['run', str(folder), '-o', str(tmp_path / 'out')]) == status
    warnings = json.loads((tmp_path / 'out' / 'summary.json').read_text())['warnings']
    assert warnings[-1] == f'{odd} of 20 frames were left out: {odd} size changed'


def test_what_max_rate_drops_is_no_failure(tmp_path, predictor):
    folder = write_folder(tmp_path / 'seq', count=12)
    arguments = ['run', str(folder), '-o', str(tmp_path / 'out'), '--set', 'input.max_rate=2.0']
    assert main(arguments) == 0


def test_lost_frames_have_no_pose_in_the_files_and_are_said_last(tmp_path, predictor, capsys):
    predictor.script = scripted.Script(blackouts=range(10, 16))
    out = tmp_path / 'out'
    assert main(['run', str(write_folder(tmp_path / 'seq', count=30)), '-o', str(out)]) == 0
    stamps = set(read_tum(out / 'trajectory.tum').stamps_ns.tolist())
    assert not stamps & {stamp(i) for i in range(10, 16)}
    summary = json.loads((out / 'summary.json').read_text())
    (event,) = summary['events']
    assert (event['kind'], event['frame'], event['until_end']) == ('lost', 10, False)
    assert summary['tracked_share'] < 0.85
    (loss,) = summary['warnings']
    assert 'from frame 10 ' in loss and capsys.readouterr().err.endswith(f'warning: {loss}\n')
    assert 'LOST' in (out / 'report.html').read_text()


def test_an_estimated_focal_length_is_said(tmp_path, predictor, capsys):
    out = tmp_path / 'out'
    video = write_video(tmp_path / 'a.avi', count=8)
    assert main(['run', str(video), '-o', str(out)]) == 0
    assert json.loads((out / 'summary.json').read_text())['camera']['focal_length_estimated']
    assert 'focal length estimated' in capsys.readouterr().out
    assert 'focal length was estimated' in (out / 'report.html').read_text()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--set', 'map.voxel_size=-1'], 'map.voxel_size'),
        (['--set', 'map.voxel_sise=0.1'], "did you mean 'map.voxel_size'"),
        (['--set', 'nonsense'], 'NAME=VALUE'),
        (['--set', 'model.depth=['], 'must be of type bool'),
        (['--set', 'map.max_points=: {'], 'must be of type int'),
        (['--model', 'gpt'], 'model.name'),
        (['--config', 'gone.yaml'], 'gone.yaml'),
        (['--camera', 'gone.yaml'], 'gone.yaml'),
        (['--groundtruth', 'gone.tum'], 'gone.tum'),
        (['--topic', '/x'], 'no bag'),
    ],
)
def test_wrong_options_are_one_clear_line(tmp_path, predictor, capsys, arguments, message):
    folder = write_folder(tmp_path / 'seq', count=3)
    out = tmp_path / 'out'
    assert main(['run', str(folder), '-o', str(out), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error.splitlines()[-1] and 'Traceback' not in error
    assert sorted(os.listdir(tmp_path)) == ['seq']


@pytest.mark.slow
def test_an_existing_output_is_kept_unless_overwritten(tmp_path, predictor, capsys):
    folder = write_folder(tmp_path / 'seq', count=3)
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'thesis.tex').write_text('years of work')
    for extra in ([], ['--overwrite']):
        assert main(['run', str(folder), '-o', str(out), *extra]) == 2
    assert (out / 'thesis.tex').read_text() == 'years of work'
    assert 'holds no summary.json' in capsys.readouterr().err
    assert main(['run', str(folder), '-o', str(tmp_path / 'new')]) == 0
    assert main(['run', str(folder), '-o', str(tmp_path / 'new')]) == 2
    assert main(['run', str(folder), '-o', str(tmp_path / 'new'), '--overwrite']) == 0


@pytest.mark.parametrize('when', ['write_run', 'write_report'])
def test_a_disk_full_at_the_end_leaves_nothing(tmp_path, predictor, capsys, monkeypatch, when):
    import errno

    import r3_ros.evaluation.report.report_page
    import r3_ros.offline.run_files

    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    module = (
        r3_ros.offline.run_files if when == 'write_run' else r3_ros.evaluation.report.report_page
    )
    monkeypatch.setattr(module, when, full)
    folder = write_folder(tmp_path / 'seq', count=3)
    assert main(['run', str(folder), '-o', str(tmp_path / 'out')]) == 2
    assert 'the disk is full' in capsys.readouterr().err
    assert os.listdir(tmp_path) == ['seq']


def test_a_truth_that_does_not_fit_does_not_cost_the_run(tmp_path, predictor, capsys):
    folder = write_folder(tmp_path / 'seq', count=5)
    truth = tmp_path / 'other.tum'
    truth.write_text('\n'.join(f'{i} 0 0 {i} 0 0 0 1' for i in range(5)))
    out = tmp_path / 'out'
    assert main(['run', str(folder), '-o', str(out), '--groundtruth', str(truth)]) == 2
    assert 'do not overlap' in capsys.readouterr().err
    assert (out / 'report.html').is_file()


def test_what_lies_in_the_folder_is_used_and_said(tmp_path, predictor, capsys):
    folder, out = write_folder(tmp_path / 'seq', count=8), tmp_path / 'out'
    assert main(['run', str(folder / 'rgb'), '-o', str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    places = 'times in timestamps.txt, calibration in camera.yaml, truth in groundtruth.txt'
    assert said[0] == f'found 8 images in rgb, {places}'
    assert json.loads((out / 'evaluation.json').read_text())['trajectory']['ate_rmse_m'] < 1e-6

    # The folder also gives the truth of a run.
    assert main(['eval', str(out), '--groundtruth', str(folder)]) == 0
    assert 'ATE 0.0000 m' in capsys.readouterr().out
    (folder / 'groundtruth.txt').unlink()
    assert main(['eval', str(out), '--groundtruth', str(folder)]) == 2
    assert 'no other true poses' in capsys.readouterr().err


def test_a_found_truth_that_does_not_fit_is_a_warning(tmp_path, predictor, capsys):
    folder = write_folder(tmp_path / 'seq', count=5)
    (folder / 'groundtruth.txt').write_text('1 0 0 0 0 0 0 1\n')
    assert main(['run', str(folder), '-o', str(tmp_path / 'out')]) == 0
    assert 'not compared with the truth: only 0 poses' in capsys.readouterr().err


def test_an_interrupt_writes_the_part_and_says_so(tmp_path, predictor, capsys, monkeypatch):
    folder = write_folder(tmp_path / 'seq', count=40)
    # A shell that runs the tests in the background has it ignored.
    before = signal.getsignal(signal.SIGINT)
    step = Engine.step

    def interrupted_step(self, frame):
        estimate = step(self, frame)
        if estimate.frame_id == 9:
            signal.raise_signal(signal.SIGINT)
        return estimate

    monkeypatch.setattr(Engine, 'step', interrupted_step)
    out = tmp_path / 'out'
    assert main(['run', str(folder), '-o', str(out)]) == 130
    assert 'PARTIAL' in capsys.readouterr().out
    assert not json.loads((out / 'summary.json').read_text())['complete']
    assert len(read_tum(out / 'trajectory.tum')) == 10
    assert 'partial' in (out / 'report.html').read_text()
    assert signal.getsignal(signal.SIGINT) is before


def test_no_depth_no_map_no_problem(tmp_path, predictor):
    predictor.script = scripted.Script(depth_size=None)
    out = tmp_path / 'out'
    folder = write_folder(tmp_path / 'seq', count=5)
    assert main(['run', str(folder), '-o', str(out), '--max-frames', '3']) == 0
    assert len(read_ply(out / 'map.ply')) == 0
    assert len(read_table(out / 'frames.csv')['stamp']) == 3


def test_queue_size_and_rates_do_not_lose_recorded_frames(tmp_path):
    """The mailbox is for live streams: a recording is read as fast as it is processed."""
    config = updated(R3Config(), {'input.queue_size': 1})
    script = scripted.Script(latency_s=0.002)
    folder = write_folder(tmp_path / 'seq', count=25)
    result = run_folder(folder, scripted.ScriptedPredictor(script), config)
    assert len(result.records) == 25


def test_a_run_goes_on_in_the_map_of_another(tmp_path, capsys, monkeypatch):
    """By the command: the scripted predictor knows the way by the stamps of the images."""
    monkeypatch.setattr(factory, 'load_predictor', lambda config: scripted.ScriptedPredictor())
    folder = write_folder(tmp_path / 'seq', count=40)
    first, second = tmp_path / 'first', tmp_path / 'second'
    every = ['--set', 'keyframe.max_interval=5']
    assert main(['run', str(folder), '-o', str(first), '--max-frames', '30', *every]) == 0
    arguments = ['run', str(folder), '-o', str(second), *every]
    assert main([*arguments, '--map', str(first / 'map')]) == 0
    summary = json.loads((second / 'summary.json').read_text())
    assert summary['frames']['processed'] == 40 and summary['frames']['with_pose'] == 38
    found, before = read_tum(second / 'trajectory.tum'), read_tum(first / 'trajectory.tum')
    assert len(found) == len(read_tum(second / 'trajectory_final.tum')) == 38
    np.testing.assert_allclose(found.T_world_camera[:28], before.T_world_camera[2:], atol=1e-6)
    again, saved = read_map(second / 'map'), read_map(first / 'map')
    assert len(again.trajectory) == 40 and len(again.keyframes) > len(saved.keyframes)
    capsys.readouterr()
    for more, says in ((['--mode', 'offline'], 'stream mode'), ([], 'there is no map at')):
        assert main([*arguments, '--overwrite', '--map', str(tmp_path / 'none'), *more]) == 2
        assert says in capsys.readouterr().err


def test_a_run_goes_on_without_a_map_in_which_the_camera_is_not_found(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / 'seq', count=60)
    with FolderSource(folder) as source:
        engine = Engine(scripted.ScriptedPredictor(), R3Config())
        saved = run_source(source, engine, max_frames=30)
    options = updated(R3Config(), {'relocalise.timeout': 1.0, 'loop.new_segment_after': 0})
    script = scripted.Script(blackouts=range(20))
    engine = Engine(scripted.ScriptedPredictor(script), options)
    snapshot = saved_map(saved.map, UNPLACED, options.map.voxel_size)
    with FolderSource(folder) as source:
        result = run_source(source, engine, saved=snapshot)
    assert any('not found in the map within 1 s' in warning for warning in result.warnings)
    assert result.loaded is None and not engine.is_relocalising
    assert [r.has_pose for r in result.records].index(True) > 10
    assert result.records[-1].has_pose
