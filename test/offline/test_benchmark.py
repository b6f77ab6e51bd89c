"""The stages of a benchmark add up; reports are written, compared and checked."""

import json

import cv2
import numpy as np
import pytest
from r3_ros import factory
from r3_ros.commands import bench
from r3_ros.commands.cli import main
from r3_ros.core.config import R3Config
from r3_ros.core.datatypes import Frame
from r3_ros.core.errors import SourceError
from r3_ros.core.parameter_fields import updated
from r3_ros.evaluation.bench_figure import draw_stages
from r3_ros.input.image_decoding import decode_compressed
from r3_ros.input.open_source import open_source
from r3_ros.input.source import RawFrame
from r3_ros.offline import benchmark
from r3_ros.offline.benchmark import measure, read_report, through_lens, TimedStream
from r3_ros.offline.stream_run import Undistorter
from scripted import Script, ScriptedPredictor
from sequences import write_folder
from small_engine import engine_of

COUNT = 30
LATENCY_S = 0.004
ENGINE_STAGES = (
    *('describe', 'retrieve', 'predict', 'resolve', 'gate'),
    *('memory', 'map', 'loops', 'scale'),
)
STAGES = ['decode', 'undistort', 'filter', *ENGINE_STAGES, 'cloud', 'pose', 'other']


@pytest.fixture(scope='module')
def recording(tmp_path_factory):
    with open_source(write_folder(tmp_path_factory.mktemp('walk') / 'walk', COUNT)) as source:
        return through_lens(source)


@pytest.fixture
def benched(monkeypatch, recording, tmp_path):
    """Run ``r3 bench --json`` with the scripted predictor; return the file."""
    monkeypatch.setattr(factory, 'load_predictor', lambda config: ScriptedPredictor())
    monkeypatch.setattr(bench, 'rendered', lambda frames: recording)
    monkeypatch.setattr(bench, '_WARM_UP', 5)

    def run(*arguments):
        path = tmp_path / f'{len(list(tmp_path.iterdir()))}.json'
        assert main(['bench', '--json', str(path), *arguments]) == 0
        return path

    return run


def test_stages_add_up_and_each_is_booked_where_it_is_spent(recording):
    engine = engine_of(Script(latency_s=LATENCY_S))
    measured = measure(TimedStream(engine, recording.camera), recording.images, warm_up=10)
    stages, whole = measured['stages_ms'], measured['whole_ms']
    assert list(stages) == STAGES
    assert sum(row['mean'] for row in stages.values()) == pytest.approx(whole['mean'], rel=0.05)
    assert sum(row['share'] for row in stages.values()) == pytest.approx(1.0)
    # Nothing is booked twice, and little is not booked at all.
    assert 0 <= stages['other']['share'] < 0.05
    assert stages['predict']['median'] >= 1e3 * LATENCY_S
    assert stages['predict']['share'] == max(row['share'] for row in stages.values())
    assert all(row['median'] <= row['p95'] <= row['p99'] for row in stages.values())
    assert measured['frames'] == measured['tracked'] == COUNT - 10
    assert measured['fps'] == pytest.approx(1e3 / whole['mean'])
    # Waiting is no work: the processor is idle during the latency.
    assert measured['cpu_ms_per_frame'] < whole['mean']
    assert measured['resident_peak_mib'] > 10


@pytest.mark.parametrize('shape', [(48, 1), (48, 1, 3)], ids=['grey', 'colour'])
def test_the_lens_is_undone_by_undistortion(tmp_path, monkeypatch, shape):
    """The engine sees what was rendered, which the recording shows bent."""
    monkeypatch.setattr(benchmark, '_K1', 0.3)  # far more than the rounding of grey levels
    source = open_source(write_folder(tmp_path / 'walk', 1))
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    smooth = np.tile(ramp.reshape(1, 64, *[1] * (len(shape) - 2)), shape)
    cv2.imwrite(str(source.entries[0][1]), smooth)
    recording = through_lens(source)
    undistort = Undistorter(recording.camera)
    distorted = decode_compressed(recording.images[0][1])
    frame: Frame = undistort.frame(RawFrame(0, distorted))
    K, K_source = frame.intrinsics, source.camera.intrinsics
    columns = (np.arange(64) - K.cx) / K.fx * K_source.fx + K_source.cx
    expected = np.interp(columns, np.arange(64), ramp)
    inner = np.s_[4:-4, 4:-4]
    seen, before = (image.reshape(48, 64, -1)[..., 0] for image in (frame.image, distorted))
    error = np.abs(seen - expected)[inner].max()
    assert error < 0.25 * np.abs(before - expected)[inner].max()


def test_sources_without_a_calibration_are_refused(tmp_path):
    folder = write_folder(tmp_path / 'walk', 2)
    (folder / 'camera.yaml').unlink()
    with pytest.raises(SourceError, match='calibration'):
        through_lens(open_source(folder))


def test_the_command_prints_a_table_and_writes_a_report(benched, capsys):
    path = benched()
    printed = capsys.readouterr().out
    assert all(f'\n{stage} ' in printed for stage in [*STAGES, 'whole'])
    assert 'No floor' in printed
    report = read_report(path)
    assert report['model'] == ScriptedPredictor().info.name
    assert report['floor'] is None
    assert report['frames'] == COUNT - 5 - bench._TAKEN_APART - bench._COUNTED
    assert {'cpu', 'cores', 'system'} <= set(report['machine'])
    assert 'opencv' in report['versions']
    assert report['config']['stream.recent_frames'] == 5


def test_stages_are_drawn(benched, tmp_path):
    report = read_report(benched('--plot', str(tmp_path / 'stages.png')))
    assert cv2.imread(str(tmp_path / 'stages.png')).shape[1] > 400
    report['predict_parts_ms'] = {'transformer': 3.0, 'rest': 0.5}
    (axes,) = draw_stages(report).axes
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert 'of it transformer  3.0' in labels
    shown = [float(label.split()[-1]) for label in labels if not label.startswith('of it')]
    assert sum(shown) == pytest.approx(report['whole_ms']['mean'], abs=0.05 * len(labels))


def test_a_sweep_changes_the_context(benched, capsys, monkeypatch):
    monkeypatch.setattr(bench, '_other_models', lambda config: [])
    report = read_report(benched('--sweep'))
    contexts = [row['config']['stream.retrieved_keyframes'] for row in report['sweep']]
    assert contexts == [3, 6, 12]
    assert 'retrieved_keyframes 12' in capsys.readouterr().out


def test_a_sweep_changes_size_precision_and_model_too():
    config = updated(R3Config(), {'model.name': 'r3_tiny', 'model.image_size': 154})
    models = [variant.model for _, variant in bench._sweep(config)]
    assert {112, 140, 168} <= {model.image_size for model in models}
    assert {'fp32', 'bf16'} <= {model.precision for model in models}
    (classical,) = (model for model in models if model.name == 'classical')
    assert classical.image_size == 0
    assert 'r3_tiny' in bench._other_models(R3Config())


def test_an_unknown_model_is_refused_before_anything_is_rendered(monkeypatch, capsys):
    monkeypatch.setattr(bench, 'rendered', lambda frames: pytest.fail('rendered'))
    assert main(['bench', '--model', 'nothing']) == 2
    assert 'nothing' in capsys.readouterr().err


def test_a_sweep_beyond_the_parameters_is_refused_before_anything_is_measured(benched, capsys):
    assert main(['bench', '--sweep', '--set', 'stream.recent_frames=40']) == 2
    assert 'recent_frames' in capsys.readouterr().err


def test_reports_are_compared(benched, tmp_path, capsys):
    before = benched()
    report = json.loads(before.read_text())
    report['stages_ms']['predict']['median'] *= 3
    report['stages_ms']['new'] = report['stages_ms'].pop('loops')
    report['machine']['cpu'] = 'another'
    after = tmp_path / 'after.json'
    after.write_text(json.dumps(report))
    capsys.readouterr()
    assert main(['bench', '--compare', str(before), str(after)]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    assert rows['predict'][-1] == '3.00'
    assert rows['decode'][-1] == '1.00'
    assert rows['loops'][2:] == ['-', '-']
    assert rows['new'][1] == rows['new'][-1] == '-'
    assert rows['These'][2:4] == ['two', 'machines:']


@pytest.mark.parametrize('content', ['', '[]', '{}', '{"machine": 1}', '\x00'])
def test_files_of_something_else_are_refused(tmp_path, content, capsys):
    path = tmp_path / 'report.json'
    path.write_text(content)
    assert main(['bench', '--compare', str(path), str(path)]) == 2
    assert 'was not written by r3 bench' in capsys.readouterr().err


def test_missing_files_are_named(tmp_path, capsys):
    assert main(['bench', '--compare', str(tmp_path / 'a'), str(tmp_path / 'b')]) == 2
    assert f'cannot read {tmp_path / "a"}' in capsys.readouterr().err
