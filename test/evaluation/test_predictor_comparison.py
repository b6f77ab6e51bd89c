"""Evaluation of models: measures against cases worked out by hand, its files, its refusals."""

from dataclasses import replace
from functools import partial
from importlib.util import find_spec
import json

import cv2
import numpy as np
import pytest
from r3_ros import factory
from r3_ros.commands.cli import main
from r3_ros.core.config import R3Config
from r3_ros.core.datatypes import Intrinsics
from r3_ros.core.errors import SourceError
from r3_ros.core.geometry import make_T
from r3_ros.evaluation.depth_errors import DepthErrors, truth_at_pixels
from r3_ros.evaluation.posed_sequences import recorded_sequence
from r3_ros.evaluation.predictor_comparison import compare_predictors, file_name
from r3_ros.evaluation.step_errors import first_step_repeated, step_errors, steps_between
from r3_ros.evaluation.stream_results import constant_velocity, run_predictor
from r3_ros.evaluation.stream_tables import by_confidence, grouped_errors, tables_text
from r3_ros.streaming.engine import Engine
from scipy.spatial.transform import Rotation
import scripted
from sequences import stamp, write_folder, write_textured_folder, write_video

SECOND = 10**9
#: Not pytest.importorskip: Ray reads its settings as it is imported.
needs_ray = pytest.mark.skipif(find_spec('ray') is None, reason='Ray is not installed')


def turn(degrees, axis='y'):
    return Rotation.from_euler(axis, degrees, degrees=True).as_matrix()


def chain_of(*steps):
    poses = [np.eye(4)]
    for step in steps:
        poses.append(poses[-1] @ step)
    return np.stack(poses)


def forward(length=1.0, degrees=0.0):
    return make_T(turn(degrees), [0.0, 0.0, length])


# Steps


def test_a_step_is_judged_by_its_rotation_and_by_where_it_goes():
    true = chain_of(forward(), forward(), forward(), forward())
    wrong = chain_of(
        forward(7.0),  # longer, but the same way
        forward(1.0, degrees=2.0),
        make_T(np.eye(3), [0.3, 0.0, 0.0]),  # aside: 90 degrees off
        make_T(turn(3, 'x'), [0.0, 1.0, 1.0]),
    )
    errors = step_errors(steps_between(wrong), steps_between(true))
    np.testing.assert_allclose(errors.rotation_deg, [0, 2, 0, 3], atol=1e-9)
    np.testing.assert_allclose(errors.direction_deg, [0, 0, 90, 45], atol=1e-9)


def test_steps_need_no_alignment():
    true = chain_of(forward(1, 10), forward(2, -5), forward(1))
    elsewhere = make_T(turn(70, 'x'), [3.0, 1.0, 2.0]) @ true
    elsewhere[:, :3, 3] *= 0.2
    errors = step_errors(steps_between(elsewhere), steps_between(true))
    assert errors.rotation_deg.max() < 1e-6 and errors.direction_deg.max() < 1e-6


def test_a_missing_pose_costs_the_steps_on_both_sides_and_a_missing_truth_does_not_count():
    true = chain_of(*[forward()] * 6)
    estimate, truth = true.copy(), true.copy()
    estimate[2] = np.nan
    truth[5] = np.nan
    confidence = np.arange(6.0)
    errors = step_errors(
        steps_between(estimate), steps_between(truth), confidence, confidence + 10
    )
    np.testing.assert_array_equal(np.isnan(errors.rotation_deg), [False, True, True, False])
    np.testing.assert_array_equal(np.isnan(errors.direction_deg), [False, True, True, False])
    assert errors.confidence_rotation.tolist() == [0, 1, 2, 3]
    assert errors.confidence_translation.tolist() == [10, 11, 12, 13]


def test_directions_of_steps_that_hardly_move_do_not_count_but_standing_still_does():
    true = chain_of(forward(), forward(0.05), forward(), forward())
    still = np.tile(np.eye(4), (5, 1, 1))
    errors = step_errors(steps_between(still), steps_between(true))
    np.testing.assert_array_equal(errors.direction_deg, [90, np.nan, 90, 90])
    assert errors.rotation_deg.tolist() == [0, 0, 0, 0]


# Constant velocity


def test_the_first_step_repeated_follows_a_steady_turn_for_ever():
    true = chain_of(*[forward(0.3, 7)] * 20)
    stamps = np.arange(21) * SECOND
    guess = first_step_repeated(true, stamps)
    np.testing.assert_allclose(guess, true, atol=1e-9)


def test_a_longer_interval_makes_a_longer_step():
    true = chain_of(forward(0.2), forward(0.6), forward(0.2))
    stamps = np.array([0, 1, 4, 5]) * SECOND
    guess = first_step_repeated(true, stamps)
    np.testing.assert_allclose(guess[:, 2, 3], [0.0, 0.2, 0.8, 1.0], atol=1e-12)


# Depth


def test_depth_has_a_scale_for_each_image_and_one_for_all():
    truth = np.full((40, 40), 2.0)
    errors = DepthErrors()
    for scale in (1.0, 1.0, 2.0):
        errors.add(scale * truth, truth)
    np.testing.assert_allclose(errors.per_image, [[0, 1, 1]] * 3)
    # The median ratio of all is 1: the third image is wrong by 1.
    assert errors.abs_rel_one_scale == pytest.approx(1 / 3)


def test_depth_is_judged_where_both_are_known():
    truth = np.full((40, 40), 2.0)
    truth[:10] = np.nan
    depth = np.full((40, 40), 5.0)
    depth[10:20] = np.nan  # a third of the rows with a truth
    depth[20:25] = 6.5  # a quarter of the others too far by 30 %
    errors = DepthErrors()
    errors.add(depth, truth)
    assert errors.abs_rel == pytest.approx(0.3 / 4)
    assert errors.delta_125 == pytest.approx(3 / 4) and errors.coverage == pytest.approx(2 / 3)


def test_an_image_without_truth_or_without_depth():
    errors = DepthErrors()
    errors.add(np.ones((20, 20)), np.full((20, 20), np.nan))
    errors.add(np.full((20, 20), np.nan), np.ones((20, 20)))
    np.testing.assert_array_equal(errors.per_image, [[np.nan, np.nan, 0.0]])
    assert np.isnan(errors.abs_rel_one_scale)


def test_the_truth_is_taken_where_a_cropped_depth_map_looks():
    """Images of 100 x 60 at half the size are 50 x 30, of which 2 rows are cut at each end."""
    truth = np.arange(60.0)[:, None] + 1 + np.zeros(100)
    image = Intrinsics(80, 80, 49.5, 29.5, 100, 60)
    own = image.resized(50, 30).cropped(0, 2, 50, 26)
    cut = truth_at_pixels(truth, own, image)
    # Row 0 of the map covers rows 4 and 5; the pixel between is the later one of the two.
    np.testing.assert_array_equal(cut[:, 0], np.arange(5, 57, 2) + 1)
    whole = truth_at_pixels(truth, own)
    assert whole[0, 0] == 2 and whole[-1, 0] == 59
    truth[:8] = 0
    assert np.isnan(truth_at_pixels(truth, own, image)[:2]).all()


# Confidence


def test_errors_by_confidence_are_means_of_fifths():
    confidence = np.array([5, 1, 4, 2, 3, 10, 9, 8, 7, 6], float)
    error = np.array([30, 50, 32, 48, 41, 1, 2, 9, 11, 28], float)
    fifths = by_confidence(confidence, error)
    assert fifths == (49.0, 36.5, 29.0, 10.0, 1.5)
    assert by_confidence(confidence[:4], error[:4]) == ()


def test_what_is_not_known_is_in_no_fifth():
    confidence = np.array([1, 2, 3, 4, 5, np.nan, 6])
    error = np.array([5, 4, 3, 2, 1, 100, np.nan])
    assert by_confidence(confidence, error) == (5, 4, 3, 2, 1)


# Streams


def evaluated(folder, script=None, name='scripted'):
    sequence = recorded_sequence(folder)
    engine = Engine(scripted.ScriptedPredictor(script), R3Config())
    try:
        return sequence, run_predictor(sequence, name, engine)
    finally:
        engine.close()


def with_depth(folder, count, factor=1000.0):
    """Put the true depth of the scripted room beside the images."""
    (folder / 'depth').mkdir()
    for i in range(count):
        frame = next(iter(scripted.frames(1)))
        K = scripted.intrinsics()
        T = scripted.circle()(stamp(i))
        room = scripted.room_depth(frame, T, K, (48, 64)).depth
        cv2.imwrite(str(folder / 'depth' / f'{i:06d}.png'), np.rint(factor * room).astype('u2'))
    return folder


def test_an_exact_predictor_has_no_errors(tmp_path):
    folder = with_depth(write_folder(tmp_path / 'walk', count=12), 12)
    sequence, result = evaluated(folder)
    assert sequence.depth_stamps == [stamp(i) for i in range(12)]
    assert len(result.estimate) == len(result.stamps_ns) == 12
    assert result.trajectory.ate_percent < 1e-5
    assert len(result.steps.rotation_deg) == 11
    assert np.nanmax(result.steps.rotation_deg) < 1e-5
    assert np.nanmax(result.steps.direction_deg) < 1e-4
    assert result.depth.per_image[:, 0].max() < 0.02 and result.depth.per_image[:, 2].min() == 1
    assert len(result.depth_maps) == 12 and len(result.cloud) > 0


def test_poses_that_are_held_at_the_start_claim_nothing(tmp_path):
    _, result = evaluated(
        write_folder(tmp_path / 'walk', count=12), scripted.Script(provisional=4)
    )
    # The first, which defines the world, and those from the fifth on.
    assert result.estimate.stamps_ns.tolist() == [stamp(i) for i in (0, *range(4, 12))]
    unknown = np.isnan(result.steps.rotation_deg)
    assert unknown.tolist() == [True] * 4 + [False] * 7


def test_errors_of_an_unsure_frame_are_found_by_its_confidence(tmp_path):
    script = scripted.Script(rotation_noise=0.02, droughts=(5, 6, 7), drought_score=0.6)
    _, result = evaluated(write_folder(tmp_path / 'walk', count=12), script)
    lowest = np.argsort(result.steps.confidence_rotation)[:3]
    assert sorted(lowest.tolist()) == [4, 5, 6]


def test_the_baseline_is_evaluated_at_the_times_of_the_images(tmp_path):
    folder = with_depth(write_folder(tmp_path / 'walk', count=12), 12)
    sequence, result = evaluated(folder)
    straight = constant_velocity(sequence, result.stamps_ns[:8])
    # The circle is one motion again and again.
    assert len(straight.estimate) == 8 and straight.trajectory.ate_percent < 1e-4
    # The first image faces a wall, which has one depth; the others see it more and more aslant.
    flat = straight.depth.per_image[:, 0]
    assert len(flat) == 8 and flat[0] < 1e-6 and (np.diff(flat) > 0).all() and flat[-1] > 0.05
    assert constant_velocity(sequence, result.stamps_ns[:2]) is None


def test_depth_of_distorted_images_is_left_out(tmp_path):
    folder = with_depth(write_folder(tmp_path / 'walk', count=5), 5)
    text = (
        (folder / 'camera.yaml')
        .read_text()
        .replace('data: [0, 0, 0, 0, 0]', 'data: [0.1, 0, 0, 0, 0]')
    )
    (folder / 'camera.yaml').write_text(text)
    assert recorded_sequence(folder).depth_stamps == []


def test_the_truth_of_a_video_lies_beside_it_or_is_named(tmp_path):
    video = write_video(tmp_path / 'walk.avi')
    with pytest.raises(SourceError, match=r'has no groundtruth.txt: a recording without'):
        recorded_sequence(video)
    lines = [f'{i / 10} {i} 0 0 0 0 0 1' for i in range(20)]
    (tmp_path / 'poses.tum').write_text('\n'.join(lines))
    assert len(recorded_sequence(video, tmp_path / 'poses.tum').truth) == 20
    (tmp_path / 'groundtruth.txt').write_text('\n'.join(lines[:5]))
    assert len(recorded_sequence(video).truth) == 5


# Tables


def cells(table):
    """Return the cells of the lines of a table, without the line below the titles."""
    lines = [line for line in table.splitlines() if line.startswith('| ')]
    assert len({len(line) for line in lines}) == 1  # aligned
    parts = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    return parts[:1] + parts[2:]


def test_a_table_has_a_row_for_each_group_and_predictor(tmp_path):
    sequence, exact = evaluated(with_depth(write_folder(tmp_path / 'walk', count=12), 12))
    results = [exact, constant_velocity(sequence, exact.stamps_ns)]
    other = [replace(r, sequence='second') for r in results]
    rows = grouped_errors([*results, *other])
    names = ['scripted', 'constant velocity']
    assert [(r['group'], r['predictor'], r['streams']) for r in rows] == [
        ('walk', n, 2) for n in names
    ]
    assert rows[0]['pictures'] == 24 and rows[0]['depth_pictures'] == 24
    assert rows[0]['ate_streams'] == 2
    poses, depth, confidence = map(cells, tables_text(rows).split('\n## '))
    assert poses[0][:5] == ['sequences', 'streams', 'predictor', 'posed', 'ATE (% of the path)']
    assert poses[1][:9] == ['walk', '2', 'scripted', '100%', '0.00', '2', '0.00', '0.00', '0.00']
    assert poses[2][2] == 'constant velocity' and poses[2][-1] == '-'  # it takes no time
    assert len(poses) == len(depth) == 3
    assert depth[0][3:] == ['AbsRel', 'AbsRel, one scale', 'within 1.25', 'pixels', 'images']
    assert depth[1][2] == 'scripted' and depth[1][5:] == ['100.0%', '100%', '24']
    assert confidence[0][3:] == ['AbsRel of pixels', 'rotation (deg)', 'direction (deg)']
    assert [line[2] for line in confidence[1:]] == ['scripted']


def test_errors_by_confidence_stand_in_one_cell(tmp_path):
    _, exact = evaluated(write_folder(tmp_path / 'walk', count=12))
    row = grouped_errors([exact])[0]
    row |= {'depth_quintiles': (5, 4, 3, 2, 1), 'rotation_quintiles': ()}
    _, depth, confidence = tables_text([row]).split('\n## ')
    assert depth == 'Depth\n\nnothing to compare\n'
    assert cells(confidence)[1][3:5] == ['5.000, 4.000, 3.000, 2.000, 1.000', '-']


def test_streams_without_enough_poses_are_counted(tmp_path):
    folder = write_folder(tmp_path / 'walk', count=12)
    _, exact = evaluated(folder)
    _, lost = evaluated(folder, scripted.Script(blackouts=range(1, 12)))
    assert lost.trajectory is None
    rows = grouped_errors([exact, replace(lost, sequence='dark')])
    assert rows[0]['posed'] == pytest.approx(13 / 24)
    poses = cells(tables_text(rows).split('\n## ')[0])
    assert poses[0][5] == 'with ATE'
    assert poses[1][:6] == ['walk', '2', 'scripted', '54%', '0.00', '1']


# Files


@pytest.fixture
def predictor(monkeypatch):
    monkeypatch.setattr(factory, 'load_predictor', lambda config: scripted.ScriptedPredictor())


@pytest.mark.slow
def test_the_files_of_an_evaluation(tmp_path, predictor, capsys):
    for name in ('a', 'b'):
        with_depth(write_folder(tmp_path / name / 'walk', count=12), 12)
    out = tmp_path / 'out'
    inputs = [str(tmp_path / name / 'walk') for name in ('a', 'b')]
    assert main(['eval', *inputs, '-o', str(out)]) == 0
    said = capsys.readouterr().out
    assert (
        'walk: classical: ATE 0.00 %' in said
        and '| walk 2    | 1       | constant velocity |' in said
    )
    names = {str(path.relative_to(out)) for path in out.rglob('*') if path.is_file()}
    assert names == {
        'evaluation.md', 'evaluation.json',
        *(f'figures/{n}_{w}.png' for n in ('walk', 'walk_2') for w in ('depth', 'trajectories')),
        *(f'streams/{n}/{f}' for n in ('walk', 'walk_2') for f in
          ('classical.tum', 'classical.ply', 'constant_velocity.tum')),
    }  # fmt: skip
    for path in out.rglob('*.png'):
        assert cv2.imread(str(path)) is not None
    content = json.loads((out / 'evaluation.json').read_text())
    assert [(g['group'], g['predictor']) for g in content['groups'][:2]] == [
        ('walk', 'classical'), ('walk', 'constant velocity')
    ]  # fmt: skip
    assert len(content['streams']) == 4 and content['predictors']['classical']['config']
    page = (out / 'evaluation.md').read_text()
    assert '(figures/walk_depth.png)' in page and '## Confidence' in page
    # A second time only with --overwrite, and never over something else.
    assert main(['eval', inputs[0], '-o', str(out)]) == 2
    assert main(['eval', inputs[0], '-o', str(tmp_path / 'a'), '--overwrite']) == 2
    assert 'holds no evaluation.md' in capsys.readouterr().err
    assert main(['eval', inputs[0], '-o', str(out), '--overwrite', '--max-frames', '6']) == 0
    content = json.loads((out / 'evaluation.json').read_text())
    assert [stream['pictures'] for stream in content['streams']] == [6, 6]


@pytest.mark.slow
def test_sequences_beyond_the_first_of_a_group_are_not_drawn(tmp_path, predictor, capsys):
    folder = write_folder(tmp_path / 'walk', count=6)
    names = [f'walk {k}' for k in range(5)]
    sequences = [('walks', partial(recorded_sequence, folder, name=name)) for name in names]
    out = tmp_path / 'out'
    out.mkdir()
    compare_predictors(sequences, {'scripted': R3Config()}, out)
    drawn = sorted(path.name for path in (out / 'figures').glob('*_trajectories.png'))
    assert drawn == [f'walk_{k}_trajectories.png' for k in range(3)]
    said = capsys.readouterr().out.splitlines()
    assert [line.split(':')[0] for line in said] == names
    assert len(list((out / 'streams').iterdir())) == 5


@needs_ray
@pytest.mark.slow  # Ray takes seconds to start
def test_an_evaluation_by_ray_is_the_same(tmp_path):
    inputs = [str(write_textured_folder(tmp_path / name, 12)) for name in ('a', 'b')]
    outputs = tmp_path / 'here', tmp_path / 'by_ray'
    assert main(['eval', *inputs, '-o', str(outputs[0])]) == 0
    assert main(['eval', *inputs, '-o', str(outputs[1]), '--workers', '2']) == 0
    contents = [json.loads((output / 'evaluation.json').read_text()) for output in outputs]
    for content in contents:
        for row in content['groups'] + content['streams']:
            del row['step_ms']
    assert contents[0]['groups'] == contents[1]['groups']
    assert contents[0]['streams'] == contents[1]['streams']
    files = [sorted(p.relative_to(o) for p in o.rglob('*') if p.is_file()) for o in outputs]
    assert files[0] == files[1]


def test_names_make_names_of_files():
    assert file_name('held-out kinds 3 (hall, drone)') == 'held-out_kinds_3_hall_drone'
    assert file_name('../..') == 'sequence'


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['-o', 'out'], 'name recordings with true poses, or use --worlds'),
        (['walk'], 'name the output of one r3 run, and its truth'),
        (['walk', 'walk', '--groundtruth', 'x'], 'name the output of one r3 run'),
        (['walk', '--model', 'r3'], 'name an output folder with --output'),
        (['walk', '--worlds', '2'], 'name an output folder with --output'),
        (['walk', 'walk', '-o', 'out', '--groundtruth', 'x'], 'is of one recording, and 2 are'),
        (['bare', '-o', 'out'], 'has no groundtruth.txt: a recording without true poses'),
        (['gone', '-o', 'out'], 'gone does not exist'),
        (['walk', '-o', 'out', '--beside', 'untrained'], "model 'classical' is no network"),
        (['walk', '-o', 'out', '--set', 'map.size=3'], 'map.size'),
        (['walk', '-o', 'out', '--model', 'r3', '--set', 'model.checkpoint=no.safetensors'],
         'no.safetensors'),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_reported_in_one_line(
    tmp_path, monkeypatch, capsys, arguments, said
):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / 'walk', count=4)
    write_folder(tmp_path / 'bare', count=4)
    (tmp_path / 'bare' / 'groundtruth.txt').unlink()
    assert main(['eval', *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and error.startswith('r3 eval: ') and '\n' not in error
    assert not (tmp_path / 'out').exists()


# Worlds and networks


@pytest.mark.slow
def test_streams_through_held_out_worlds_are_exact_and_of_their_kind():
    pytest.importorskip('torch', reason='worlds need torch')
    from r3_ros.core.parameter_fields import updated
    from r3_ros.learning.training.held_out import held_out_stream
    from r3_ros.learning.training.training_settings import TrainingSettings
    from r3_ros.learning.training.training_worlds import Split

    settings = updated(TrainingSettings(), {'seed': 3, 'data.effects': 0.0, 'data.moving': 0.0})
    stream = held_out_stream(settings, Split.HELD_OUT_KINDS, 0, 3)
    assert stream.group == 'held-out kinds' and 'hall' in stream.name
    assert (np.diff(stream.truth.stamps_ns) > 0).all()
    assert stream.depth_stamps == stream.truth.stamps_ns.tolist()
    with stream.open() as source:
        images = [raw.image for raw in source]
        K = source.camera.K
    assert len(images) == 3 and images[0].shape == (360, 480, 3)
    # What one image shows at its depth, the next one shows where the poses say.
    first, second = (stream.depth(stamp) for stamp in stream.depth_stamps[:2])
    v, u = np.mgrid[8:352:8, 8:472:8]
    z = first[v, u]
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(u.shape)], -1)
    T = np.linalg.inv(stream.truth.T_world_camera[1]) @ stream.truth.T_world_camera[0]
    moved = (rays * z[..., None])[z > 0] @ T[:3, :3].T + T[:3, 3]
    x, y, _ = (K @ (moved / moved[:, 2:]).T).round().astype(int)
    inside = (x >= 0) & (x < 480) & (y >= 0) & (y < 360)
    relative = np.abs(second[y[inside], x[inside]] / moved[inside, 2] - 1)
    assert inside.mean() > 0.5 and np.median(relative) < 0.01
    again = held_out_stream(settings, Split.HELD_OUT_KINDS, 0, 3)
    with again.open() as source:
        np.testing.assert_array_equal(images, [raw.image for raw in source])


@pytest.mark.slow
def test_a_network_beside_itself_untrained_on_worlds(tmp_path, capsys):
    pytest.importorskip('torch', reason='networks need torch')
    from r3_ros.learning.training.initial_weights import new_network
    from r3_ros.model.weights.checkpoint import save_network

    weights = tmp_path / 'weights.safetensors'
    save_network(new_network('r3-tiny', 7), weights)
    settings = tmp_path / 'settings.yaml'
    settings.write_text('data: {kinds: corridor, held_out_kinds: room, path_frames: 40}\n')
    out = tmp_path / 'out'
    model = ['--model', 'r3_tiny', '--set', f'model.checkpoint={weights}']
    model += ['--set', 'model.image_size=154', '--beside', 'untrained']
    worlds = ['--worlds', '1', '--world-frames', '5', '--training', str(settings)]
    assert main(['eval', *worlds, *model, '-o', str(out)]) == 0
    said = capsys.readouterr().out
    assert 'held-out seeds 0 (corridor' in said and 'held-out kinds 0 (room' in said
    content = json.loads((out / 'evaluation.json').read_text())
    rows = {(row['group'], row['predictor']): row for row in content['groups']}
    for group in ('held-out seeds', 'held-out kinds'):
        for name in ('r3_tiny', 'untrained'):
            assert rows[group, name]['depth_pictures'] == rows[group, name]['pictures'] == 5
        # Other first weights, other answers: it is not the same network twice.
        assert rows[group, 'r3_tiny']['abs_rel'] != rows[group, 'untrained']['abs_rel']
    assert content['predictors']['untrained']['config']['model.image_size'] == 154
    shas = {p['checkpoint_sha256'] for p in content['predictors'].values()}
    assert len(shas) == 2
