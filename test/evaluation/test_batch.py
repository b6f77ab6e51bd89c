"""A batch names its recordings for good, continues where it stopped, and says what failed."""

from dataclasses import replace
from importlib.util import find_spec
import json
import sys

from classical_scene import draw, room, wander
import cv2
import pytest
from r3_ros.commands.cli import main
from r3_ros.core.errors import ConfigError, OutputError, SourceError
from r3_ros.evaluation.batch_runs import (
    BatchRun,
    BatchState,
    load_batch,
    named_runs,
    run_recording,
    save_batch,
    with_results,
)
from r3_ros.evaluation.ray_tasks import ray_cluster, RaySettings, run_tasks, TaskLostError
from r3_ros.evaluation.report.batch_page import write_batch_page

#: Not pytest.importorskip: Ray reads its settings as it is imported.
needs_ray = pytest.mark.skipif(find_spec('ray') is None, reason='Ray is not installed')


def names(inputs, earlier, folder):
    return [run.name for run in named_runs(inputs, earlier, folder)]


def write_summary(folder, **content):
    folder.mkdir(parents=True, exist_ok=True)
    summary = {'complete': True, 'frames': {'processed': 40}, 'tracked_share': 0.95, **content}
    (folder / 'summary.json').write_text(json.dumps(summary))


def test_inputs_of_one_name_get_names_of_their_own(tmp_path):
    for name in ('a/cam.0', 'b/cam.0'):
        (tmp_path / name).mkdir(parents=True)
    inputs = [
        tmp_path / name for name in ('a/cam.0', 'b/cam.0', 'b/cam.0/', 'walk one.mp4', '.mp4')
    ]
    found = names(map(str, inputs), [], tmp_path / 'out')
    assert found == ['cam_0', 'cam_0-2', 'walk_one', 'mp4'], 'an input that is there twice has one'


def test_names_stay_whatever_is_added_and_spare_other_folders(tmp_path):
    earlier = named_runs(['/a/cam', '/b/cam'], [], tmp_path)
    assert names(['/c/cam', '/b/cam'], earlier, tmp_path) == ['cam', 'cam-2', 'cam-3']
    (tmp_path / 'walk').mkdir()
    assert names(['/a/walk.mp4'], [], tmp_path) == ['walk-2']


def test_a_run_is_done_if_its_summary_is_complete(tmp_path):
    run = BatchRun('cam', '/a/cam')
    assert with_results(run, tmp_path).state is BatchState.PENDING
    write_summary(tmp_path / 'cam', complete=False)
    assert with_results(run, tmp_path).state is BatchState.PENDING
    (tmp_path / 'cam' / 'summary.json').write_text('{"complete": tr')
    assert with_results(run, tmp_path).state is BatchState.PENDING
    write_summary(tmp_path / 'cam')
    done = with_results(replace(run, state=BatchState.FAILED, reason='before'), tmp_path)
    assert (done.state, done.frames, done.ate_m, done.reason) == (BatchState.DONE, 40, None, '')
    (tmp_path / 'cam' / 'evaluation.json').write_text('{"trajectory": {"ate_rmse_m": 0.5}}')
    assert with_results(run, tmp_path).ate_m == 0.5
    (tmp_path / 'cam' / 'summary.json').unlink()
    assert with_results(done, tmp_path).state is BatchState.PENDING, 'it was deleted'


def test_an_earlier_batch_is_continued_with_its_options_only(tmp_path):
    runs = [BatchRun('cam', '/a/cam', BatchState.FAILED, 'no images', 2)]
    assert load_batch(tmp_path, []) == []
    save_batch(tmp_path, ['--model', 'r3'], runs)
    assert load_batch(tmp_path, ['--model', 'r3']) == runs
    with pytest.raises(ConfigError, match='were made with --model r3'):
        load_batch(tmp_path, [])
    (tmp_path / 'batch.json').write_text('[]')
    with pytest.raises(SourceError, match='batch.json is damaged'):
        load_batch(tmp_path, [])


def run_of(path, folder):
    """Return the run of a recording in the folder of a new batch."""
    (run,) = named_runs([str(path)], [], folder)
    save_batch(folder, [], [run])
    return run


def test_a_recording_that_is_refused_fails_with_the_words_of_r3_run(tmp_path):
    (tmp_path / 'bad.mp4').write_bytes(b'no video')
    run = run_recording(run_of(tmp_path / 'bad.mp4', tmp_path), tmp_path, [], main)
    assert (run.state, run.exit_status) == (BatchState.FAILED, 2)
    assert run.reason.startswith(f'{tmp_path / "bad.mp4"} is no video')
    assert (tmp_path / 'bad.log').read_text().startswith('r3 run: ')


def test_a_run_that_crashes_fails_alone_and_its_log_says_where(tmp_path):
    def r3(arguments):
        raise ZeroDivisionError('of frames')

    run = run_recording(run_of('/a/cam', tmp_path), tmp_path, [], r3)
    assert (run.state, run.exit_status) == (BatchState.FAILED, 1)
    assert run.reason == 'ZeroDivisionError: of frames'
    assert 'in r3\n' in (tmp_path / 'cam.log').read_text()


def test_a_machine_without_the_folder_of_the_batch_refuses(tmp_path):
    with pytest.raises(OutputError, match='nodes need the same paths'):
        run_recording(BatchRun('cam', '/a/cam'), tmp_path / 'out', [], main)
    assert not (tmp_path / 'out').exists()


def test_the_page_links_reports_and_names_failures(tmp_path):
    runs = [
        BatchRun('one', '/a/one', BatchState.DONE, frames=40, tracked_share=0.95, ate_m=0.5),
        BatchRun('two', '/a/two', BatchState.FAILED, 'no <images>', 2),
    ]
    assert 'two.log' not in write_batch_page(tmp_path, runs).read_text(), 'there is none'
    (tmp_path / 'two.log').touch()
    text = write_batch_page(tmp_path, runs).read_text()
    assert '<a href="one/report.html">one</a>' in text and 'two/report.html' not in text
    assert '<b>1</b><span>failed' in text and '95.0' in text and '0.5000' in text
    assert 'no &lt;images&gt;' in text and '<a href="two.log">' in text


def test_a_list_and_options_are_checked_before_ray_starts(tmp_path, capsys):
    output = ['-o', str(tmp_path / 'out')]
    (tmp_path / 'empty.txt').write_text('\n')
    for arguments, message in (
        ([f'@{tmp_path}/none.txt'], 'cannot read the list'),
        ([f'@{tmp_path}/empty.txt'], 'is empty'),
        (['a.mp4', '--camera', 'none.yaml'], '--camera none.yaml: there is no such file'),
        (['a.mp4', '--set', 'map.voxel=1'], 'map.voxel'),
    ):
        assert main(['batch', *arguments, *output]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_without_ray_the_extra_is_named_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'ray', None)
    assert main(['batch', 'a.mp4', '-o', str(tmp_path / 'out')]) == 2
    assert 'pip install "r3_ros[batch]"' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@needs_ray
@pytest.mark.slow  # Ray takes seconds to start
def test_a_batch_is_run_by_ray_and_continued(tmp_path, capsys):
    (tmp_path / 'frames').mkdir()
    for i, pose in enumerate(wander(6)):
        cv2.imwrite(str(tmp_path / 'frames' / f'{i:03d}.png'), draw(room(), pose)[0])
    (tmp_path / 'bad.mp4').write_bytes(b'no video')
    (tmp_path / 'list.txt').write_text('frames\nbad.mp4\n')
    command = ['batch', f'@{tmp_path / "list.txt"}', '-o', str(tmp_path / 'out')]
    assert main(command) == 1
    captured = capsys.readouterr()
    assert 'frames: done: 6 frames' in captured.out and 'bad.mp4 is no video' in captured.err
    first = (tmp_path / 'out' / 'frames' / 'summary.json').stat()
    assert main(command) == 1
    assert '1 of 2 recordings are done already' in capsys.readouterr().out
    assert (tmp_path / 'out' / 'frames' / 'summary.json').stat().st_ino == first.st_ino


def test_tasks_without_ray_keep_their_order_and_raise_their_errors(capsys):
    def square(number):
        if number > 2:
            raise SourceError('too large')
        return number**2

    results = run_tasks(square, [2, 1, 3], None, 'numbers', str)
    assert [next(results), next(results)] == [4, 1]
    assert capsys.readouterr().out == '4\n1\n'
    with pytest.raises(SourceError, match='too large'):
        next(results)


@needs_ray
@pytest.mark.slow  # Ray takes seconds to start
def test_a_lost_worker_costs_its_attempt_only(tmp_path):
    def task(name):
        """Take the worker along: never, the first time, or always; or refuse."""
        import os

        if name == 'refuses':
            raise ValueError('no')
        tried = tmp_path / name
        if name == 'always' or (name == 'once' and not tried.exists()):
            tried.touch()
            os.kill(os.getpid(), 9)
        return name, 'ended'

    settings = RaySettings(workers=2, retries=1)
    with ray_cluster(settings):
        names = ['never', 'once', 'always', 'refuses']
        results = run_tasks(task, names, settings, 'tasks', str, lambda name, e: (name, e))
        ended = dict(results)
        assert len(ended) == 4 and ended['never'] == ended['once'] == 'ended'
        assert isinstance(ended['always'], TaskLostError) and 'attempts: 2' in str(ended['always'])
        assert isinstance(ended['refuses'], ValueError)
        with pytest.raises(ValueError, match='no'):
            list(run_tasks(task, ['refuses'], settings, 'tasks', str))
