"""Offline mode with a predictor that knows the answer: places, scales, who is left out."""

import json
import signal
import threading

import cv2
import numpy as np
import pytest
from r3_ros import factory
from r3_ros.commands.cli import build_parser, main
from r3_ros.core.config import R3Config
from r3_ros.core.errors import ModelError, SourceError
from r3_ros.core.geometry import inverse, rotation_angle, scale_of
from r3_ros.core.parameter_fields import updated
from r3_ros.core.trajectory_file import read_tum, write_tum
from r3_ros.input.open_source import open_source
from r3_ros.offline.windows.reconstruction import reconstruct
from r3_ros.offline.windows.window_images import common_size
from r3_ros.offline.windows.window_relations import relations_of
from scripted_windows import GOOD, image_of, ScriptedWindows, walk, WindowScript, write_images
from sequences import CAMERA_YAML

UNITS = (1.7, 0.4, 2.9, 0.8, 1.3)


def run(tmp_path, script, cameras=None, timed=True, names=None, settings=None, **options):
    """Reconstruct images of the cameras; return the result and the predictor."""
    cameras = range(len(script.T_world_camera)) if cameras is None else cameras
    folder = write_images(tmp_path / f'seq{len(list(tmp_path.iterdir()))}', cameras, timed, names)
    predictor = ScriptedWindows(script)
    config = updated(R3Config(), {'offline.window_frames': 12, 'offline.overlap_frames': 4})
    config = updated(config, settings or {})
    with open_source(folder, collections=True) as source:
        return reconstruct(source, predictor, config, **options), predictor


def errors(result, T_true, unit=None):
    """Return how far centres (as a share of the path) and rotations are from the truth."""
    T = result.trajectory.T_final
    T_true = inverse(T_true[0]) @ T_true
    centres = T[:, :3, 3] * (unit or UNITS[0])
    path = np.linalg.norm(np.diff(T_true[:, :3, 3], axis=0), axis=1).sum()
    far = np.linalg.norm(centres - T_true[:, :3, 3], axis=1).max() / path
    turned = rotation_angle(np.swapaxes(T[:, :3, :3], 1, 2) @ T_true[:, :3, :3]).max()
    return far, turned


# --- Windows of a recording ---


def test_exact_windows_of_any_unit_become_the_exact_path(tmp_path):
    T = walk(88)
    result, predictor = run(tmp_path, WindowScript(T, UNITS))
    assert result.windows == len(predictor.passes) == 11
    far, turned = errors(result, T)
    assert far < 1e-4 and turned < 1e-4


def test_windows_agree_with_one_window_over_everything(tmp_path):
    T = walk(40)
    script = WindowScript(T, units=(1.0,), noise=(0.005, 0.001))
    whole, predictor = run(tmp_path, script, settings={'offline.window_frames': 0})
    assert predictor.passes == [tuple(range(40))]
    parts, _ = run(tmp_path, WindowScript(T, units=(1.0, 2.0, 0.5), noise=(0.005, 0.001)))
    assert parts.windows == 5
    np.testing.assert_allclose(
        parts.trajectory.T_final[:, :3, 3], whole.trajectory.T_final[:, :3, 3], atol=0.1
    )


def test_a_chain_of_noisy_windows_keeps_its_scale_far_from_the_origin(tmp_path):
    T = walk(88, step=1.0)
    script = WindowScript(T, UNITS, noise=(0.01, 0.002))
    result, _ = run(tmp_path, script)
    found = result.trajectory.T_final[:, :3, 3] * UNITS[0]
    steps = np.linalg.norm(np.diff(found, axis=0), axis=1)
    true_steps = np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1)
    first, last = (np.median((steps / true_steps)[part]) for part in (np.s_[:8], np.s_[-8:]))
    assert abs(first - 1) < 0.03 and abs(last - 1) < 0.1
    far, turned = errors(result, T)
    assert np.linalg.norm(T[-1, :3, 3]) > 50 and far < 0.03 and turned < 0.05


def test_windows_share_the_newest_frames_and_fill_the_last_window(tmp_path):
    _, predictor = run(tmp_path, WindowScript(walk(30)))
    assert predictor.passes == [
        tuple(range(12)),
        tuple(range(8, 20)),
        tuple(range(16, 28)),
        tuple(range(18, 30)),
    ]


def test_no_pass_is_larger_than_memory_allows(tmp_path):
    T = walk(40)
    result, predictor = run(tmp_path, WindowScript(T, UNITS, limit=7))
    assert max(map(len, predictor.passes)) == 7
    assert any('7 images at once instead of 12' in warning for warning in result.warnings)
    assert errors(result, T)[0] < 1e-4
    with pytest.raises(ModelError, match='max_memory_mib.*room for 1 images'):
        run(tmp_path, WindowScript(T, limit=1))
    _, predictor = run(
        tmp_path, WindowScript(T, UNITS, limit=15), settings={'offline.window_frames': 0}
    )
    assert len(predictor.passes[0]) == 15


def test_little_memory_still_overlaps(tmp_path):
    T = walk(12)
    result, predictor = run(tmp_path, WindowScript(T, UNITS, limit=3))
    assert max(map(len, predictor.passes)) == 3
    assert result.trajectory.T_final.shape[0] == 12 and errors(result, T)[0] < 1e-3


def test_depth_alone_tells_the_scale_where_the_camera_only_turns(tmp_path):
    T = walk(20)
    T[8:12, :3, 3] = T[8, :3, 3]  # what the first two windows share stands still
    result, _ = run(tmp_path, WindowScript(T, UNITS))
    assert errors(result, T)[0] < 1e-3
    blind, _ = run(tmp_path, WindowScript(T, UNITS, with_depth=False))
    known = np.isfinite(blind.trajectory.T_final[:, 0, 0])
    assert known.tolist() == [True] * 12 + [False] * 8
    assert any('frames 12 to 19 have no pose' in warning for warning in blind.warnings)


def test_centres_alone_tell_the_scale_without_depth(tmp_path):
    T = walk(40)
    result, _ = run(tmp_path, WindowScript(T, UNITS, with_depth=False))
    assert errors(result, T)[0] < 1e-4 and len(result.cloud) == 0


def test_a_shared_image_that_one_window_gets_wrong_does_not_move_the_rest(tmp_path):
    T = walk(28)
    result, _ = run(tmp_path, WindowScript(T, UNITS, wrong={1: {9}}))
    far, turned = errors(result, T)
    assert far < 1e-3 and turned < 1e-3


def test_wrong_relations_hardly_matter(tmp_path, monkeypatch):
    T = walk(36)
    predict = ScriptedWindows.predict

    def with_wrong_ones(self, images):
        prediction = predict(self, images)
        wrong = np.triu(self._rng.random(prediction.predicted.shape) < 0.15, 1)
        prediction.relative[wrong, :3] += self._rng.normal(0, 1, (np.count_nonzero(wrong), 3))
        prediction.predicted[wrong.T] = False
        return prediction

    monkeypatch.setattr(ScriptedWindows, 'predict', with_wrong_ones)
    result, _ = run(tmp_path, WindowScript(T, UNITS, noise=(0.01, 0.002)))
    assert errors(result, T)[0] < 0.01


def test_poses_depth_and_map_are_in_one_unit(tmp_path):
    T = walk(28)
    depth_folder = tmp_path / 'depth'
    depth_folder.mkdir()
    result, predictor = run(
        tmp_path, WindowScript(T, UNITS), depth_folder=depth_folder, timed=True
    )
    for camera in (0, 15, 27):
        with np.load(depth_folder / f'{camera:06d}.npz') as saved:
            np.testing.assert_allclose(
                saved['depth'] * UNITS[0], predictor.true_depth(camera), rtol=1e-3
            )
            assert saved['stamp_ns'] == camera * 10**8
    assert len(list(depth_folder.iterdir())) == 28
    reach = np.linalg.norm(T[-1, :3, 3]) / UNITS[0]
    far = np.linalg.norm(result.cloud.points, axis=1).max()
    assert len(result.cloud) > 1000 and reach < far < reach + 6 / UNITS[0]


def test_ranges_of_points_are_in_the_unit_of_the_map(tmp_path):
    T = walk(20)
    settings = {'points.max_range': 2.1, 'points.min_range': 1.6, 'points.edge_threshold': 0.0}
    clouds = []
    for units in ((1.0,), (1.0, 5.0)):
        result, _ = run(tmp_path, WindowScript(T, units), settings=settings)
        clouds.append(result.cloud)
    assert len(clouds[0]) > 100
    assert len(clouds[1]) == pytest.approx(len(clouds[0]), rel=0.02)


# --- Who is left out ---


def test_strangers_get_no_pose(tmp_path):
    T = walk(30)
    script = WindowScript(T, UNITS, groups={5: 1, 17: 2, 18: 3})
    result, _ = run(tmp_path, script)
    lost = [r.frame_id for r in result.records if not r.has_pose]
    assert lost == [5, 17, 18]
    assert [r.state.value for r in result.records if not r.has_pose] == ['lost'] * 3
    assert any('3 images have no pose' in w and '5, 17, 18' in w for w in result.warnings)
    known = np.isfinite(result.trajectory.T_final[:, 0, 0])
    np.testing.assert_allclose(
        result.trajectory.T_final[known][:, :3, 3] * UNITS[0], T[known][:, :3, 3], atol=1e-3
    )


def test_a_blackout_as_long_as_the_overlap_is_bridged(tmp_path):
    T = walk(34)
    groups = {n: n for n in range(8, 14)}
    result, predictor = run(tmp_path, WindowScript(T, UNITS, groups=groups))
    assert predictor.passes[1][:4] == (4, 5, 6, 7)
    lost = [r.frame_id for r in result.records if not r.has_pose]
    assert lost == list(groups)
    assert np.abs(result.trajectory.T_final[-1, :3, 3] * UNITS[0] - T[-1, :3, 3]).max() < 1e-3


def test_after_a_cut_nothing_is_claimed(tmp_path):
    groups = dict.fromkeys(range(15, 40), 1)
    result, _ = run(tmp_path, WindowScript(walk(40), UNITS, groups=groups))
    assert [r.has_pose for r in result.records] == [True] * 15 + [False] * 25
    assert any('25 images have no pose' in warning for warning in result.warnings)


def test_the_world_is_the_first_image_with_a_pose(tmp_path):
    T = walk(12)
    result, _ = run(tmp_path, WindowScript(T, groups={0: 1}))
    assert not result.records[0].has_pose
    np.testing.assert_allclose(result.trajectory.T_final[1], np.eye(4), atol=1e-9)
    T_1_5 = inverse(T[1]) @ T[5]
    np.testing.assert_allclose(result.trajectory.T_final[5], T_1_5, atol=1e-6)


# --- Collections ---


def test_one_image_has_depth_and_stands_at_the_origin(tmp_path):
    depth_folder = tmp_path / 'depth'
    depth_folder.mkdir()
    result, predictor = run(
        tmp_path, WindowScript(walk(3), (0.5,)), [2], timed=False, depth_folder=depth_folder
    )
    np.testing.assert_array_equal(result.trajectory.T_final, [np.eye(4)])
    assert result.records[0].tracked and result.records[0].confidence_ratio == 1.0
    with np.load(depth_folder / '000000.npz') as saved:
        np.testing.assert_allclose(saved['depth'], predictor.true_depth(2) / 0.5, rtol=1e-6)
    assert len(result.cloud) > 100


def test_the_order_of_a_collection_does_not_matter(tmp_path):
    T = walk(40, step=0.3)
    rng = np.random.default_rng(5)
    found = []
    for cameras in (np.arange(40), rng.permutation(40)):
        result, predictor = run(tmp_path, WindowScript(T, UNITS), cameras, timed=False)
        assert [record.stamp_ns for record in result.records] == [n * 10**9 for n in range(40)]
        by_camera = np.empty((40, 4, 4))
        by_camera[cameras] = result.trajectory.T_final
        found.append((predictor.passes, inverse(by_camera[0]) @ by_camera))
    assert found[0][0] == found[1][0] and len(found[0][0]) > 2
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-6)
    unit = np.linalg.norm(T[39, :3, 3]) / np.linalg.norm(found[0][1][39, :3, 3])
    np.testing.assert_allclose(found[0][1][:, :3, 3] * unit, T[:, :3, 3], atol=1e-2)


def test_windows_of_a_collection_hold_what_looks_alike(tmp_path):
    T = walk(36, step=0.3)
    cameras = np.random.default_rng(1).permutation(36)
    _, predictor = run(tmp_path, WindowScript(T), cameras, timed=False)
    for shown in predictor.passes:
        assert len(shown) <= 12 and max(shown) - min(shown) <= 24
    assert set().union(*predictor.passes) == set(range(36))


def test_names_stay_with_their_images(tmp_path):
    script = WindowScript(walk(5), groups={3: 1})
    names = ['b.png', 'a.png', 'c10.png', 'c9.png', 'd.png']
    result, _ = run(tmp_path, script, range(5), timed=False, names=names)
    assert result.collection == ('a.png', 'b.png', 'c9.png', 'c10.png', 'd.png')
    lost = [n for n, r in zip(result.collection, result.records, strict=True) if not r.has_pose]
    assert lost == ['c9.png']
    assert any('c9.png' in warning for warning in result.warnings)


def test_broken_images_of_a_collection_are_counted(tmp_path):
    folder = write_images(tmp_path / 'seq', range(4), timed=False)
    (folder / '000001.png').write_bytes(b'no image')
    with open_source(folder, collections=True) as source:
        result = reconstruct(source, ScriptedWindows(WindowScript(walk(4))), R3Config())
    assert len(result.records) == 3 and result.rejected == {'not decoded': 1}
    assert result.collection == ('000000.png', '000002.png', '000003.png')


def test_no_image_at_all_is_an_error(tmp_path):
    folder = write_images(tmp_path / 'seq', range(2), timed=False)
    for path in folder.iterdir():
        path.write_bytes(b'')
    with (
        open_source(folder, collections=True) as source,
        pytest.raises(SourceError, match='no frame that can be decoded'),
    ):
        reconstruct(source, ScriptedWindows(WindowScript(walk(2))), R3Config())


def test_images_of_several_shapes_are_cropped_to_what_they_share():
    kept, size = common_size(np.array([[504, 378], [378, 504], [504, 378]]))
    assert kept.all() and size == (378, 378)
    kept, size = common_size(np.array([[504, 280], [504, 280], [504, 98], [504, 280]]))
    assert kept.tolist() == [True, True, False, True] and size == (504, 280)
    kept, size = common_size(np.array([[504, 14]]))
    assert kept.all() and size == (504, 14)


def test_cropped_images_keep_their_rays(tmp_path):
    folder = write_images(tmp_path / 'seq', [0, 1], timed=False)
    write_images(tmp_path / 'tall', [2], timed=False, size=(42, 56))
    (tmp_path / 'tall' / '000000.png').rename(folder / 'tall.png')
    predictor = ScriptedWindows(WindowScript(walk(3), with_depth=False))
    with open_source(folder, collections=True) as source:
        result = reconstruct(source, predictor, R3Config())
    assert any('1 of 3' in w or '3 of 3' in w for w in result.warnings)
    # The last one lost 7 rows at the top and bottom: its field of view is of the crop.
    assert (result.intrinsics.width, result.intrinsics.height) == (42, 56)
    assert result.intrinsics.cy == pytest.approx(27.5) and result.intrinsics_estimated


def test_a_calibration_is_used_for_the_images_that_it_fits(tmp_path):
    folder = write_images(tmp_path / 'seq', [0, 1], timed=False)
    write_images(tmp_path / 'tall', [2], timed=False, size=(42, 56))
    (tmp_path / 'tall' / '000000.png').rename(folder / 'tall.png')
    text = CAMERA_YAML.replace('64', '56').replace('48', '42')
    (folder / 'camera.yaml').write_text(text)
    with open_source(folder, collections=True) as source:
        result = reconstruct(source, ScriptedWindows(WindowScript(walk(3))), R3Config())
    assert result.rejected == {'of an unsuitable size': 1} and len(result.records) == 2
    assert not result.intrinsics_estimated and result.intrinsics.fx == pytest.approx(51.2)
    assert any('tall.png' in warning for warning in result.warnings)


# --- The rest ---


def test_both_directions_of_a_pair_count_but_not_into_the_reference():
    T = walk(3)
    script = WindowScript(T)
    prediction = ScriptedWindows(script).predict([image_of(n) for n in range(3)])
    prediction.relative[2, 1, :3] += [0.2, 0.0, 0.0]  # T_1_2, one of two directions
    prediction.relative[1, 0, :3] += 5.0  # into the reference: not trained, not used
    prediction.logits[2, 1] = prediction.logits[1, 2] = GOOD
    relations = relations_of(prediction)
    expected = inverse(T[1]) @ T[2]
    expected[0, 3] += 0.1
    np.testing.assert_allclose(relations.T[1, 2], expected, atol=1e-9)
    np.testing.assert_allclose(relations.T[2, 1], inverse(expected), atol=1e-9)
    np.testing.assert_allclose(relations.T[0, 1], T[1], atol=1e-9)
    assert relations.scores[1, 2, 0] == pytest.approx(np.logaddexp(0, GOOD))


def test_a_stop_keeps_the_windows_that_are_done(tmp_path):
    stop = threading.Event()
    result, predictor = run(
        tmp_path, WindowScript(walk(40), UNITS), on_window=lambda *_: stop.set(), stop=stop
    )
    assert result.interrupted and len(predictor.passes) == 1 and len(result.records) == 12
    assert len(result.trajectory.T_final) == 12
    assert not [t for t in threading.enumerate() if t.name == 'r3_frame_reader']


def test_an_error_of_the_predictor_stops_the_reader(tmp_path, monkeypatch):
    def fails(self, images):
        raise RuntimeError('a bug')

    monkeypatch.setattr(ScriptedWindows, 'predict', fails)
    with pytest.raises(RuntimeError, match='a bug'):
        run(tmp_path, WindowScript(walk(40)))
    assert not [t for t in threading.enumerate() if t.name == 'r3_frame_reader']


def test_frames_of_another_size_are_left_out_of_a_recording(tmp_path):
    folder = write_images(tmp_path / 'seq', range(6))
    write_images(tmp_path / 'small', [3], size=(28, 28))
    (tmp_path / 'small' / '000000.png').replace(folder / '000003.png')
    with open_source(folder, collections=True) as source:
        result = reconstruct(source, ScriptedWindows(WindowScript(walk(6))), R3Config())
    assert [r.stamp_ns // 10**8 for r in result.records] == [0, 1, 2, 4, 5]
    assert sum(result.rejected.values()) == 1


def test_the_map_is_thinned_out_evenly_when_it_gets_large(tmp_path):
    settings = {'map.max_points': 10_000, 'map.voxel_size': 0.001, 'points.stride': 1}
    result, _ = run(tmp_path, WindowScript(walk(60, step=1.0)), settings=settings)
    points = result.cloud.points
    assert 0.5 * 10_000 < len(points) <= 10_000
    along = result.trajectory.T_final[:, :3, 3]
    nearest = np.argmin(np.linalg.norm(points[:, None] - along, axis=2), axis=1)
    early, late = np.count_nonzero(nearest < 20), np.count_nonzero(nearest >= 40)
    assert 0.4 < early / late < 2.5


def test_scales_of_placed_frames_are_those_of_their_windows(tmp_path):
    T = walk(20)
    result, _ = run(tmp_path, WindowScript(T, (2.0, 1.0)))
    held = result.trajectory.held
    np.testing.assert_allclose([scale_of(held[0]), scale_of(held[19])], [1.0, 0.5], rtol=1e-3)


# --- From end to end ---


@pytest.fixture
def predictor(monkeypatch):
    """Have the command use a scripted predictor, and return it."""
    made = ScriptedWindows(WindowScript(walk(40), UNITS))
    monkeypatch.setattr(factory, 'load_window_predictor', lambda config: made)
    return made


def offline(folder, out, *options):
    return main(['run', str(folder), '-o', str(out), '--mode', 'offline', *options])


@pytest.mark.slow
def test_a_recording_becomes_the_same_files_as_in_a_stream(tmp_path, predictor, capsys):
    folder = write_images(tmp_path / 'seq', range(40))
    truth = tmp_path / 'truth.tum'
    write_tum(truth, np.arange(40) * 10**8, predictor.script.T_world_camera)
    out = tmp_path / 'out'
    options = ['--save-depth', '--groundtruth', str(truth), '--set', 'offline.window_frames=16']
    assert offline(folder, out, *options) == 0
    assert {path.name for path in out.iterdir()} == {
        'depth',
        'evaluation.csv',
        'evaluation.json',
        'frames.csv',
        'map.ply',
        'report.html',
        'samples',
        'summary.json',
        'trajectory.tum',
        'trajectory_final.tum',
    }
    assert (out / 'trajectory.tum').read_text() == (out / 'trajectory_final.tum').read_text()
    assert len(read_tum(out / 'trajectory.tum').stamps_ns) == 40
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['mode'] == 'offline' and summary['tracked_share'] == 1.0
    assert summary['offline'] == {
        'windows': 4,
        'stamps': 'as recorded',
        'pictures': None,
    }
    evaluation = json.loads((out / 'evaluation.json').read_text())
    assert evaluation['trajectory']['ate_percent'] < 0.1
    assert len(list((out / 'depth').iterdir())) == 40
    assert 'offline in 4 windows' in (out / 'report.html').read_text()
    reported = capsys.readouterr()
    assert '40 frames' in reported.out and 'window 4 of' in reported.err
    assert predictor.closed


def test_a_collection_says_that_its_stamps_are_running_numbers(tmp_path, predictor):
    folder = write_images(tmp_path / 'photos', [7, 3, 9], timed=False)
    out = tmp_path / 'out'
    assert offline(folder, out) == 0
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['offline']['stamps'] == 'running numbers in seconds'
    assert summary['offline']['pictures'] == ['000000.png', '000001.png', '000002.png']
    assert not summary['warnings']
    assert read_tum(out / 'trajectory.tum').stamps_ns.tolist() == [0, 10**9, 2 * 10**9]
    assert '3 images without times' in (out / 'report.html').read_text()


def test_an_interrupt_writes_the_windows_that_are_done(tmp_path, predictor, capsys, monkeypatch):
    predict = ScriptedWindows.predict

    def interrupted(self, images):
        if len(self.passes) == 1:
            signal.raise_signal(signal.SIGINT)
        return predict(self, images)

    monkeypatch.setattr(ScriptedWindows, 'predict', interrupted)
    folder = write_images(tmp_path / 'seq', range(40))
    out = tmp_path / 'out'
    assert offline(folder, out, '--set', 'offline.window_frames=12') == 130
    assert 'PARTIAL' in capsys.readouterr().out
    assert len(read_tum(out / 'trajectory.tum').stamps_ns) == 16
    assert not json.loads((out / 'summary.json').read_text())['complete']


@pytest.fixture
def interruptible():
    """Let SIGINT raise here, whatever the shell that started the tests made of it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_leaves_nothing(tmp_path, predictor, monkeypatch, interruptible):
    def interrupted(self, images):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ScriptedWindows, 'predict', interrupted)
    folder = write_images(tmp_path / 'seq', range(12))
    with pytest.raises(KeyboardInterrupt):
        run_command = ['run', str(folder), '-o', str(tmp_path / 'out'), '--mode', 'offline']
        parsed = build_parser().parse_args(run_command)
        parsed.func(parsed)
    assert [path.name for path in tmp_path.iterdir()] == ['seq']
    assert predictor.closed


def test_the_classical_predictor_cannot_do_it(tmp_path, capsys):
    folder = write_images(tmp_path / 'seq', range(3))
    assert offline(folder, tmp_path / 'out') == 2
    assert 'needs a network' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['seq']


@pytest.mark.slow
@pytest.mark.parametrize('timed', [True, False])
def test_the_network_itself_runs_from_end_to_end(tmp_path, timed):
    from lively_network import frame, lively
    from r3_ros.model.weights.checkpoint import save_network

    save_network(lively('r3-tiny'), tmp_path / 'weights.safetensors')
    folder = write_images(tmp_path / 'seq', range(9), timed)
    for n in range(9):
        cv2.imwrite(str(folder / f'{n:06d}.png'), frame(n).image)
    if not timed:  # one stands upright
        cv2.imwrite(str(folder / '000004.png'), frame(4, size=(168, 112)).image)
    settings = {
        'model.checkpoint': tmp_path / 'weights.safetensors',
        'model.image_size': 112,
        'model.device': 'cpu',
        'offline.window_frames': 5,
        'offline.overlap_frames': 2,
    }
    options = [word for name, value in settings.items() for word in ('--set', f'{name}={value}')]
    out = tmp_path / 'out'
    assert offline(folder, out, '--model', 'r3', '--save-depth', *options) == 0
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['model'] == 'r3' and summary['frames']['processed'] == 9
    assert summary['offline']['windows'] >= 3 and summary['map_points'] > 0
    posed = summary['frames']['with_pose']
    assert posed and len(read_tum(out / 'trajectory.tum').stamps_ns) == posed
    assert len(list((out / 'depth').iterdir())) == posed
    with np.load(next((out / 'depth').iterdir())) as saved:
        assert saved['depth'].shape == ((84, 126) if timed else (84, 84))
    assert (out / 'report.html').is_file()
