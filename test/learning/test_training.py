"""Steps of a training: exact continuation, several processes, reports and files."""

import csv
from dataclasses import replace
import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

import networks  # noqa: E402
from paths import ROOT, SUPPORT  # noqa: E402
from r3_ros.commands.cli import main  # noqa: E402
from r3_ros.core.config import MemoryConfig, ModelConfig  # noqa: E402
from r3_ros.core.error_model import ErrorModel  # noqa: E402
from r3_ros.core.errors import CheckpointError, ConfigError, ModelError, SourceError  # noqa: E402
from r3_ros.core.parameter_fields import updated  # noqa: E402
from r3_ros.learning.synth.dataset import SequenceOptions, write_sequence  # noqa: E402
from r3_ros.learning.training.initial_weights import new_network, read_initial_weights  # noqa: E402
from r3_ros.learning.training.losses import relative_motions  # noqa: E402
from r3_ros.learning.training.objective import evaluate  # noqa: E402
from r3_ros.learning.training.processes import TrainingProcess  # noqa: E402
from r3_ros.learning.training.progress import duration_text, ProgressTable  # noqa: E402
from r3_ros.learning.training.schedule import average_share, learning_rate, parameter_groups  # noqa: E402
from r3_ros.learning.training.trainer import (  # noqa: E402
    require_state,
    STATE,
    StepLosses,
    Trainer,
    WEIGHTS,
)
from r3_ros.learning.training.training_settings import Stage  # noqa: E402
from r3_ros.learning.training.validation import (  # noqa: E402
    evaluate_constant_velocity,
    evaluate_network,
)
from r3_ros.model.building import build_network  # noqa: E402
from r3_ros.model.camera_head import Pairs  # noqa: E402
from r3_ros.model.loading import ERRORS_SUFFIX, load_streaming  # noqa: E402
from r3_ros.model.variants import VARIANTS  # noqa: E402
from r3_ros.model.weights.catalogue import find_weights  # noqa: E402
from r3_ros.model.weights.checkpoint import load_network, save_network  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402
from training_source import made_up, MadeUp, SETTINGS, small_network  # noqa: E402

CPU = TrainingProcess(torch.device('cpu'))
pytestmark = pytest.mark.usefixtures('one_torch_thread')


def quiet(text):
    pass


def trainer_in(folder, settings=SETTINGS, source=None, network=None):
    return Trainer(settings, source or MadeUp(), CPU, folder, quiet, network or small_network())


def weights_of(trainer):
    return {name: p.detach().clone() for name, p in trainer.network.named_parameters()}


# Going on


@pytest.mark.slow
def test_a_training_continues_to_the_last_bit(tmp_path):
    straight = trainer_in(tmp_path / 'straight')
    straight.run()
    first = trainer_in(tmp_path / 'pieces')
    first.run(until=10)
    # New objects with other first weights: everything must come from the file.
    second = trainer_in(tmp_path / 'pieces', network=small_network(9))
    assert second.step == 10
    second.run()
    assert straight.step == second.step == 20
    for name, value in weights_of(straight).items():
        assert torch.equal(value, weights_of(second)[name]), name
    for one, other in zip(straight.average.parameters(), second.average.parameters(), strict=True):
        assert torch.equal(one, other)
    files = [tmp_path / name / 'progress.csv' for name in ('straight', 'pieces')]
    rows = [list(csv.DictReader(file.open())) for file in files]
    assert [r['step'] for r in rows[0]] == ['5', '10', '15', '20']
    assert [r['loss'] for r in rows[0]] == [r['loss'] for r in rows[1]]
    assert not torch.equal(
        weights_of(straight)['cam_dec.fc_rel_t.weight'],
        dict(first.network.named_parameters())['cam_dec.fc_rel_t.weight'],
    )


def test_rows_of_an_abandoned_continuation_are_dropped(tmp_path):
    table = ProgressTable(tmp_path / 'a.csv', 0)
    table.add([{'step': 5, 'loss': 1.5}, {'step': 10, 'loss': 1.0}])
    again = ProgressTable(tmp_path / 'a.csv', 5)
    again.add([{'step': 10, 'loss': 2.0, 'new': 'x'}])
    rows = list(csv.DictReader((tmp_path / 'a.csv').open()))
    assert [(r['step'], r['loss'], r['new']) for r in rows] == [('5', '1.5', ''), ('10', '2', 'x')]
    (tmp_path / 'b.csv').write_text('name,age\nx,3\n')
    with pytest.raises(SourceError, match='move it away'):
        ProgressTable(tmp_path / 'b.csv', 5)


@pytest.mark.slow
def test_a_state_of_other_settings_or_none_at_all_is_refused(tmp_path):
    trainer_in(tmp_path).run(until=1)
    with pytest.raises(ConfigError, match='joint.learning_rate was 0.002 and is 0.001'):
        trainer_in(tmp_path, updated(SETTINGS, {'joint.learning_rate': 1e-3}))
    # Report settings may change; a setting missing in an old state has its default, and one that
    # does not exist any more is of no effect.
    with safe_open(tmp_path / STATE, framework='pt') as file:
        about, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    kept = json.loads(about['settings'])
    del kept['data.recorded']
    kept['data.gone'] = 3
    save_file(tensors, tmp_path / STATE, {**about, 'settings': json.dumps(kept)})
    with pytest.raises(ConfigError, match=r'data.recorded was 0.5 and is 0.25\. '):
        trainer_in(tmp_path, updated(SETTINGS, {'data.recorded': 0.25}))
    assert trainer_in(tmp_path, updated(SETTINGS, {'report.log_every': 1})).step == 1
    with pytest.raises(CheckpointError, match='--resume'):
        require_state(tmp_path, resume=False)
    with pytest.raises(CheckpointError, match='no training to go on with'):
        require_state(tmp_path / 'other', resume=True)
    data = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match='cannot go on'):
        trainer_in(tmp_path)


@pytest.mark.slow
def test_weights_of_the_average_are_loaded_as_any_others(tmp_path):
    settings = updated(SETTINGS, {'joint.steps': 1, 'report.validate_every': 0})
    trainer = trainer_in(tmp_path, settings, network=new_network('r3-tiny', 0))
    trainer.run()
    loaded = load_network(tmp_path / WEIGHTS)
    assert loaded.variant == 'r3-tiny'
    for own, kept in zip(trainer.average.parameters(), loaded.network.parameters(), strict=True):
        assert torch.equal(own, kept)


@pytest.mark.slow
@pytest.mark.parametrize(('sizes', 'size'), [('56x112 126x84', 126), ('56x42', None)])
def test_weights_name_the_size_of_the_images_they_learned_from(tmp_path, sizes, size):
    changes = {'joint.sizes': sizes, 'joint.steps': 1, 'report.validate_every': 0}
    network = new_network('r3-tiny', 0)
    trainer_in(tmp_path, updated(SETTINGS, changes), network=network).run()
    # No stream has images of less than 112 pixels.
    assert load_network(tmp_path / WEIGHTS).image_size == size


# Steps


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_both_their_clips(tmp_path):
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    environment['PYTHONPATH'] = os.pathsep.join(
        [str(ROOT), str(SUPPORT), environment.get('PYTHONPATH', '')]
    )
    result = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
         str(SUPPORT / 'training_source.py'), str(tmp_path)],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    ranks = [load_file(tmp_path / f'rank{k}.safetensors') for k in range(2)]
    alone = trainer_in(tmp_path / 'alone')
    alone.run(until=2)
    for name, value in weights_of(alone).items():
        assert torch.equal(ranks[0][name], ranks[1][name]), name
        assert torch.allclose(ranks[0][name], value, atol=2e-4), name
    assert result.stdout.count('frames_per_s') >= 1
    assert (tmp_path / STATE).exists()


@pytest.mark.slow
def test_the_loss_falls(tmp_path):
    settings = updated(SETTINGS, {'joint.steps': 40, 'report.validate_every': 0})

    class Same(MadeUp):
        def training(self, step):
            return super().training(0)

    trainer = trainer_in(tmp_path, settings, Same())
    trainer.run()
    rows = list(csv.DictReader((tmp_path / 'progress.csv').open()))
    assert float(rows[-1]['loss']) < float(rows[0]['loss']) - 0.3


@pytest.mark.slow
def test_a_row_of_progress_is_the_mean_of_the_steps_since_the_last(tmp_path):
    def losses(log_every):
        folder = tmp_path / str(log_every)
        changes = {'joint.steps': 4, 'report.log_every': log_every, 'report.validate_every': 0}
        trainer_in(folder, updated(SETTINGS, changes)).run()
        return [float(row['loss']) for row in csv.DictReader((folder / 'progress.csv').open())]

    each = losses(1)
    assert len(set(each)) == 4
    np.testing.assert_allclose(losses(2), np.reshape(each, (2, 2)).mean(1), rtol=1e-4)


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_is_left_out_and_too_many_end_it(tmp_path):
    class Broken(MadeUp):
        def training(self, step):
            plan, clips = super().training(step)
            return plan, replace(clips, fov=clips.fov * math.nan)

    trainer = trainer_in(
        tmp_path, updated(SETTINGS, {'joint.steps': 50, 'report.validate_every': 0}), Broken()
    )
    before = weights_of(trainer)
    with pytest.raises(ModelError, match='20 gradients in a row'):
        trainer.run()
    assert all(torch.equal(before[name], value) for name, value in weights_of(trainer).items())


@pytest.mark.slow
def test_time_that_is_over_ends_a_piece_with_its_state_written(tmp_path):
    trainer = trainer_in(tmp_path)
    trainer.run(seconds=0.0)
    assert trainer.step == 1
    assert trainer_in(tmp_path).step == 1


def test_learning_rates_rise_in_a_line_and_fall_in_half_a_cosine():
    optimiser = replace(SETTINGS.optimiser, warm_up=10, final_share=0.1)
    stage = Stage('joint', replace(SETTINGS.joint, steps=110, learning_rate=1.0), first=50)
    assert learning_rate(stage, optimiser, 50) == pytest.approx(0.1)
    assert learning_rate(stage, optimiser, 60) == 1.0
    assert learning_rate(stage, optimiser, 110) == pytest.approx(0.1 + 0.9 * 0.5)
    assert learning_rate(stage, optimiser, 160) == pytest.approx(0.1)
    assert average_share(optimiser, 0) == 0.1
    assert average_share(optimiser, 10**6) == optimiser.ema


def test_matrices_decay_and_nothing_else():
    network = small_network()
    decayed, free = parameter_groups(network, 0.05)
    names = {id(p): name for name, p in network.named_parameters()}
    assert 'backbone.pos_embed' in {names[id(p)] for p in free['params']}
    assert all(p.ndim >= 2 for p in decayed['params'])
    assert len(decayed['params']) + len(free['params']) == len(names)
    assert (decayed['weight_decay'], free['weight_decay']) == (0.05, 0.0)


def test_first_weights_are_alive_and_repeat():
    network, again, other = (new_network('r3-tiny', seed) for seed in (1, 1, 2))
    first = network.backbone.blocks[0].attn.qkv.weight
    assert torch.equal(first, again.backbone.blocks[0].attn.qkv.weight)
    assert not torch.equal(first, other.backbone.blocks[0].attn.qkv.weight)
    clips = made_up(3)
    losses = StepLosses(network, SETTINGS, CPU, torch.float32)
    losses(clips, causal=True, step=2).total.backward()  # pairs are solved in every third step
    assert not [name for name, p in network.named_parameters() if p.grad is None]
    fov = network(clips.images).fov
    assert 0.5 < fov.min() and fov.max() < 1.6


def test_cameras_and_exponentials_stay_float32_under_autocast():
    network = networks.own_network('r3').eval()
    images = made_up(1).images
    with torch.no_grad():
        exact = network(images, causal=True)
        with torch.autocast('cpu', torch.bfloat16):
            rough = network(images, causal=True)
    for name in ('depth', 'confidence', 'fov', 'camera_feature'):
        assert getattr(rough, name).dtype == torch.float32, name
    assert rough.pairs.translation.dtype == torch.float32
    assert not torch.equal(rough.depth, exact.depth)  # it was rough indeed
    assert (rough.depth / exact.depth).log().abs().max() < 0.3


# Objective and validation


def true_prediction(clips, S=3):
    """Return the prediction without any error, in a unit of its own."""
    R, t = relative_motions(clips.T_world_camera.double())
    quaternion = torch.from_numpy(
        Rotation.from_matrix(R.reshape(-1, 3, 3).numpy()).as_quat()
    ).reshape(1, S, S, 4)
    predicted = torch.ones(S, S, dtype=torch.bool).triu(1)
    logits = torch.zeros(1, S, S)
    return _Prediction(
        Pairs(3 * t.float(), quaternion.float(), logits, logits, predicted),
        clips.fov[:, None].expand(-1, S, -1),
        3 * clips.depth,
        torch.rand(clips.depth.shape, generator=torch.Generator().manual_seed(1)) + 1.5,
    )


class _Prediction:
    def __init__(self, pairs, fov, depth, confidence):
        self.pairs, self.fov, self.depth, self.confidence = pairs, fov, depth, confidence


def test_a_perfect_prediction_has_no_error_whatever_its_unit():
    clips = made_up(4)
    result = evaluate(true_prediction(clips), clips, SETTINGS.loss)
    assert result.errors['rotation_deg'] < 1e-3
    assert result.errors['translation'] < 1e-5
    assert result.errors['abs_rel'] < 1e-5
    assert result.parts['edges'] < 1e-5 and result.parts['fov'] == 0
    errors = evaluate_network(lambda batch: true_prediction(batch), [clips])
    assert errors.rotation_deg < 0.05 and errors.direction_deg < 0.1
    assert errors.abs_rel < 1e-5 and errors.delta_125 == 1


def test_a_clip_without_depth_is_measured_by_its_steps():
    clips = replace(made_up(4), depth=torch.zeros_like(made_up(4).depth))
    prediction = true_prediction(clips)
    prediction.depth = torch.ones_like(clips.depth)
    judged = evaluate(prediction, clips, SETTINGS.loss)
    assert torch.isfinite(judged.total)
    assert judged.errors['translation'] < 1e-5  # whatever the unit
    assert judged.errors['rotation_deg'] < 1e-3


@pytest.mark.filterwarnings('error')
def test_clips_without_depth_are_validated_by_their_steps():
    clips = replace(made_up(4), depth=torch.zeros_like(made_up(4).depth))
    errors = evaluate_network(true_prediction, [clips])
    assert errors.rotation_deg < 0.05 and errors.translation < 1e-5
    assert math.isnan(errors.abs_rel) and math.isnan(errors.delta_125)
    assert errors.depth_quintiles == ()


def test_confidence_quintiles_are_sorted_by_confidence():
    clips = made_up(4)

    def predict(batch):
        prediction = true_prediction(batch)
        # The less confident, the more it is off.
        noise = torch.rand(batch.depth.shape, generator=torch.Generator().manual_seed(2)) - 0.5
        prediction.depth = prediction.depth * (1 + 0.5 * noise / prediction.confidence**3)
        return prediction

    quintiles = evaluate_network(predict, [clips]).depth_quintiles
    assert len(quintiles) == 5
    assert all(np.diff(quintiles) < 0)


def test_constant_velocity_is_right_about_an_even_motion_and_wrong_about_a_turn():
    clips = made_up(4, views=5)
    T = torch.eye(4).repeat(1, 5, 1, 1)
    T[0, :, 0, 3] = torch.arange(5) * 0.3
    even = evaluate_constant_velocity([replace(clips, T_world_camera=T)])
    assert even.rotation_deg < 1e-3 and even.direction_deg < 0.1 and even.translation < 1e-5
    T = T.clone()
    T[0, :, 2, 3] = torch.tensor([0.0, 0.3, 0, 0.3, 0])
    zigzag = evaluate_constant_velocity([replace(clips, T_world_camera=T)])
    assert zigzag.direction_deg == pytest.approx(90, abs=0.1)


# The command


#: A cache of a few worlds in the smallest images, and a few steps of every stage.
SMOKE = """
data: {kinds: corridor, held_out_kinds: room, clips: 2, clips_per_world: 2, clip_frames: 3,
       path_frames: 30, coarseness: 20.0, moving: 0.0, effects: 0.0}
matching: {steps: 2, frames_per_step: 4, sizes: 42x28}
joint: {steps: 2, frames_per_step: 4, sizes: 42x28 28x28}
large: {steps: 1, frames_per_step: 3, sizes: 42x42}
optimiser: {warm_up: 1}
report: {log_every: 1, validate_every: 3, validation_clips: 1}
"""


def smoke(folder):
    """Return the arguments of a training whose cache is in a folder."""
    config = folder / 'smoke.yaml'
    config.write_text(SMOKE)
    return ['train', str(config), '--cache', str(folder / 'cache'), '--device', 'cpu']


def test_the_command_renders_trains_and_leaves_its_files(tmp_path, capsys):
    arguments, folder = smoke(tmp_path), tmp_path / 'training'
    assert main([*arguments, '--render']) == 0
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / 'cache').glob('*/clips.bin')}
    assert {path.parent.name for path in made} == {
        'training_42x28', 'training_42x42', 'held_out_seeds_42x28', 'held_out_kinds_42x28',
    }  # fmt: skip
    arguments += ['-o', str(folder)]
    capsys.readouterr()
    assert main([*arguments, '--until', '3']) == 0
    assert main(arguments) == 2
    assert '--resume' in capsys.readouterr().err
    assert main([*arguments, '--resume']) == 0
    assert {path: path.stat().st_mtime_ns for path in made} == made  # nothing is rendered again
    said = capsys.readouterr().out
    assert 'frames_per_s' in said and 'left' in said and 'stage large, steps 4 to 5' in said
    assert '5 of 5 steps taken' in said
    names = {path.name for path in folder.iterdir()}
    assert {
        STATE,
        WEIGHTS,
        'progress.csv',
        'validation.csv',
        'curves.png',
        'examples.png',
    } <= names
    sets = [row['set'] for row in csv.DictReader((folder / 'validation.csv').open())]
    assert sets == [
        'held out seeds', 'held out seeds, constant velocity', 'held out kinds',
        'held out kinds, constant velocity', 'held out seeds', 'held out kinds',
    ]  # fmt: skip


@pytest.mark.slow
def test_a_training_in_stages_continues_to_the_last_bit(tmp_path):
    arguments = [*smoke(tmp_path), '--set', 'report.validate_every=0', '-o']
    assert main([*arguments, str(tmp_path / 'straight')]) == 0
    for until in ('1', '2', '3', '5'):
        resume = ['--resume'] if until != '1' else []
        assert main([*arguments, str(tmp_path / 'pieces'), '--until', until, *resume]) == 0
    straight, pieces = (load_file(tmp_path / name / STATE) for name in ('straight', 'pieces'))
    assert straight.keys() == pieces.keys()
    assert all(torch.equal(straight[name], pieces[name]) for name in straight)


@pytest.mark.slow
def test_weights_are_tuned_on_a_recording(tmp_path, capsys):
    folder, weights = tmp_path / 'walk', tmp_path / 'first.safetensors'
    write_sequence(
        SequenceOptions(seed=4, kind='corridor', frames=20, width=80, height=60, coarseness=16.0),
        folder,
    )
    save_network(new_network('r3-tiny', 3), weights)
    settings = (
        'data.kinds=corridor', 'joint.sizes=42x28', 'data.clip_frames=3', 'data.clips=2',
        'joint.frames_per_step=3', 'data.clips_per_world=2', 'data.coarseness=16.0',
        'data.path_frames=40', 'joint.steps=2', 'report.validation_clips=1',
    )  # fmt: skip
    arguments = ['finetune', str(folder), '--from', str(weights), '-o', str(tmp_path / 'out')]
    for setting in settings:
        arguments += ['--set', setting]
    errors = weights.with_suffix(ERRORS_SUFFIX)
    shutil.copy(find_weights('r3_tiny').with_suffix(ERRORS_SUFFIX), errors)
    assert main([*arguments, '--device', 'cpu']) == 0
    said = capsys.readouterr().out
    assert 'walk: 20 images with a pose, the last 6 held out; depth of 4' in said
    trained = tmp_path / 'out' / WEIGHTS
    assert '2 of 2 steps taken' in said and f'model.checkpoint={trained}' in said
    sets = [row['set'] for row in csv.DictReader((tmp_path / 'out' / 'validation.csv').open())]
    assert sets[::2] == ['end of walk', 'held out seeds', 'held out kinds']
    # Nothing of the first weights is lost: their licence, and the errors that were fitted to them.
    loaded = load_network(trained)
    assert (loaded.variant, loaded.licence) == ('r3-tiny', 'unknown')
    assert loaded.origin.startswith('first.safetensors, SHA-256 ')
    config = ModelConfig(name='r3_tiny', checkpoint=str(trained))
    predictor = load_streaming(config, MemoryConfig())
    assert predictor.error_model == ErrorModel.read(errors) != ErrorModel()
    assert f'fitted to {loaded.origin}' in predictor.info.notes[-1]
    assert main(['weights', 'check', str(trained)]) == 0
    assert 'licence  unknown' in capsys.readouterr().out


@pytest.fixture
def backbone(tmp_path, monkeypatch):
    """Return the weights folder with a small network in the place of the published da3_small."""
    for name, config in (('da3-small', 'da3'), ('r3-small', 'r3')):
        monkeypatch.setitem(VARIANTS, name, replace(networks.CONFIGS[config], name=name))
    folder = tmp_path / 'weights'
    folder.mkdir()
    monkeypatch.setenv('R3_ROS_WEIGHTS', str(folder))
    network = networks.fill(build_network(VARIANTS['da3-small']), 3)
    save_network(network, folder / 'da3_small.safetensors')
    return network


def test_r3_begins_with_everything_that_a_backbone_has(backbone):
    network = read_initial_weights('da3_small').network(seed=1)
    assert network.config.name == 'r3-small' and network.training
    taken = {name: p for name, p in backbone.state_dict().items() if 'cam_enc' not in name}
    own = network.state_dict()
    assert all(torch.equal(own[name], value) for name, value in taken.items())
    new = own.keys() - taken.keys()
    assert new and all(name.startswith('cam_dec.') for name in new)
    fresh = new_network('r3-small', 1).state_dict()
    assert all(torch.equal(own[name], fresh[name]) for name in new)
    assert all(p.requires_grad for p in network.parameters())


def test_r3_is_trained_from_a_backbone_and_keeps_its_licence(backbone, tmp_path, capsys):
    folder = tmp_path / 'training'
    arguments = [*smoke(tmp_path), '--from', 'da3_small', '-o', str(folder)]
    arguments += ['--set', 'report.validate_every=0', '--set', 'large.steps=0']
    assert main([*arguments, '--until', '1']) == 0
    # The licence comes from the state, whatever the weights are called by now.
    moved = tmp_path / 'moved.safetensors'
    (tmp_path / 'weights' / 'da3_small.safetensors').rename(moved)
    arguments[arguments.index('da3_small')] = str(moved)
    assert main([*arguments, '--resume']) == 0
    said = capsys.readouterr().out
    assert 'from da3_small of depth-anything/DA3-SMALL' in said and ', licence Apache-2.0' in said
    assert '--model r3 --set model.checkpoint=' in said
    loaded = load_network(folder / WEIGHTS)
    assert (loaded.variant, loaded.licence) == ('r3-small', 'Apache-2.0')
    assert loaded.origin.startswith('da3_small of depth-anything/DA3-SMALL, SHA-256 ')
    assert main(['weights', 'check', str(folder / WEIGHTS)]) == 0
    said = capsys.readouterr().out
    assert f'from     {loaded.origin}' in said and 'Apache-2.0: commercial use is allowed' in said
    assert not (folder / WEIGHTS).with_suffix(ERRORS_SUFFIX).exists()


def test_what_descends_from_non_commercial_weights_says_so(backbone, tmp_path):
    original = tmp_path / 'weights' / 'da3_large.safetensors'
    (tmp_path / 'weights' / 'da3_small.safetensors').rename(original)
    first = read_initial_weights('da3_large')
    assert first.provenance['licence'] == 'CC-BY-NC-4.0'
    child = tmp_path / 'child.safetensors'
    save_network(first.network(0), child, first.provenance)
    assert read_initial_weights(str(child)).provenance == first.provenance


def test_settings_for_another_network_than_that_of_the_weights_are_refused(
    backbone, tmp_path, capsys
):
    out = str(tmp_path / 'out')
    arguments = ['train', '--from', 'da3_small', '-o', out]
    assert main([*arguments, '--set', 'variant=r3-tiny']) == 2
    assert 'are weights for r3-small' in capsys.readouterr().err
    assert main(['train', '--from', 'da3_smal', '-o', out]) == 2
    assert 'no weights of that name: ' in capsys.readouterr().err


def test_wrong_usage_is_reported_in_a_line(tmp_path, capsys):
    assert main(['train']) == 2
    assert '--output' in capsys.readouterr().err
    assert main(['train', '-o', str(tmp_path), '--set', 'data.kinds=castle']) == 2
    assert 'castle' in capsys.readouterr().err
    assert main(['train', '--list']) == 0
    assert 'matching.learning_rate: 0.002' in capsys.readouterr().out


def test_durations_as_text():
    assert [duration_text(s) for s in (45, 600, 10800)] == ['45 s', '10 min', '3.0 h']
