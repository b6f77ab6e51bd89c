"""Golden files: those of the official code pass, and what is wrong with one is seen and named."""

from functools import lru_cache
import hashlib
import json
import math
from pathlib import Path
import re
import shutil

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

pytest.importorskip('torch')

from networks import shared_network  # noqa: E402
from paths import PARITY
from r3_ros.model import backbone  # noqa: E402
from r3_ros.model.building import build_network  # noqa: E402
from r3_ros.model.layers import Rotation, rotations  # noqa: E402
from r3_ros.model.variants import VARIANTS  # noqa: E402
import torch  # noqa: E402

from tools.parity import network_runs  # noqa: E402
from tools.parity.__main__ import main as parity_main  # noqa: E402
from tools.parity.comparison import (  # noqa: E402
    ArrayKind,
    Bound,
    BOUNDS,
    compare,
    Measure,
    measured,
    Output,
    Quantity,
    thinning_steps,
)
from tools.parity.golden import is_covered, Kind, subject_of  # noqa: E402
from tools.parity.poses import intrinsics_of, with_signs_of  # noqa: E402
from tools.parity.runner import Runner  # noqa: E402
from tools.parity.stand_in_weights import Networks, StandInWeights  # noqa: E402

needs_goldens = pytest.mark.skipif(
    not PARITY.exists(), reason='golden files of the official code are not here'
)

#: Stands in for the script beside the official golden files, for tests on machines without them.
SCRIPT = """
import zlib
import numpy as np

def unit(key, count):
    noise = np.random.default_rng(zlib.crc32(key.encode())).random(count)
    return (2 * noise - 1) * 3 ** 0.5

def tensor_for(key, shape):
    values = unit(key, int(np.prod(shape))).reshape(shape)
    if key.endswith('gamma'):
        return (0.6 + 0.1 * values).astype(np.float32)
    if 'norm' in key and key.endswith('weight') or '_aux' in key and '.2.weight' in key:
        return (1 + 0.1 * values).astype(np.float32)
    if 'pos_embed' in key or 'token' in key:
        return (0.5 * values).astype(np.float32)
    if key.endswith('qvec.bias'):
        return (0.5 + 0.1 * values).astype(np.float32)
    if key.endswith('fov.0.bias'):
        return (1 + 0.1 * values).astype(np.float32)
    scale = 0.1 if key.endswith('bias') else 1 / np.prod(shape[1:]) ** 0.5
    return (scale * values).astype(np.float32)

def small_signal_tensor_for(key, shape):
    return tensor_for(key, shape) * np.float32(0.01 if 'patch_embed' in key else 1)
"""


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """Compute with one thread: threads that wait for one another crawl on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a script for weights and no golden files."""
    (tmp_path / 'deterministic_weights.py').write_text(SCRIPT, encoding='utf-8')
    return tmp_path


def run_one(path, weights=None, precision='fp32'):
    return Runner(weights or path.parent, precision, 'cpu').run(path)


def parity(*arguments):
    return parity_main([*map(str, arguments)])


def failed(result):
    return {array.name for array in result.arrays if not array.passed}


def write(path, arrays):
    np.savez(path, **arrays)
    return path


def copy_of(name, target, without='()', **changes):
    """Copy an official golden file with some arrays changed by functions; None leaves them out.

    :param without: pattern of arrays to leave out.
    """
    with np.load(PARITY / f'golden-{name}.npz') as file:
        arrays = {key: file[key] for key in file.files if not re.fullmatch(without, key)}
    for key, change in changes.items():
        array = change(arrays[key].copy() if key in arrays else None)
        arrays.pop(key, None)
        if array is not None:
            arrays[key] = array
    return write(target / f'golden-{name}.npz', arrays)


def own_network(variant='r3-small'):
    """Return the network that the script of ``folder`` fills, filled here."""
    names = {}
    exec(SCRIPT, names)
    network = build_network(VARIANTS[variant])
    state = network.state_dict()
    for key, value in state.items():
        official = re.sub(r'^backbone\.', 'backbone.pretrained.', key)
        official = re.sub(
            r'^head\.(layer|refinenet|output_conv|sky)', r'head.scratch.\1', official
        )
        value.copy_(torch.from_numpy(names['tensor_for'](official, tuple(value.shape))))
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


@lru_cache
def own_arrays():
    """Return results of our own r3-small on five frames, thinned in ways of their own."""
    pixels = np.random.default_rng(5).integers(0, 256, (5, 42, 70, 3), dtype=np.uint8)
    network, kept = own_network(), {}

    def keep(name):
        return lambda module, args, output: kept.setdefault(name, []).append(output.clone())

    network.backbone.blocks[2].register_forward_hook(keep('block2'))
    network.head.layer2_rn.register_forward_hook(keep('layer2_rn'))
    network.head.refinenet4.register_forward_hook(keep('refinenet4'))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)[None]
    with torch.inference_mode():
        full = network(images, rays=True)
        causal = network(images, causal=True)
    arrays = {
        'pixels': pixels,
        'pixels_sha256': np.array(hashlib.sha256(pixels.tobytes()).hexdigest()),
        'full.block2': kept['block2'][0][:, ::3, ::11],
        # The head takes four frames at once: these are the last of the first pass.
        'full.head_first_frame_of_chunk': np.int64(4),
        'full.layer2_rn': kept['layer2_rn'][1][:, ::5, ::3, ::3],
        'full.refinenet4': kept['refinenet4'][1][:, ::1, ::2, ::2],
        'full.depth': full.depth[0, :, ::9, ::9],
        'full.depth_conf': full.confidence[0, :, ::2, ::2],
        'full.ray': full.rays[0, :, ::5, ::5],
        'full.rel_pose_conf_t': full.pairs.logit_translation[0],
        'causal.depth': causal.depth[0],
        'causal.rel_pose_mask': causal.pairs.predicted,
        'online.block2': kept['block2'][0][:, ::13, ::7],
        'online.depth': causal.depth[0, :, ::13, ::13],
        'online.rel_pose_conf_r_last': causal.pairs.logit_rotation[0],
    }
    return {key: np.asarray(value) for key, value in arrays.items()}


def own_golden(path, **others):
    """Write a file about r3-small from our own network, with other arrays in place or besides."""
    return write(path, own_arrays() | others)


# --- As the official code ---


@pytest.mark.slow
@needs_goldens
def test_every_golden_file_passes(capsys):
    assert parity(PARITY) == 0
    lines = capsys.readouterr().out.splitlines()
    verdicts = {line.split()[0]: line.split()[1] for line in lines[:-1] if line[0] != ' '}
    names = {path.stem.removeprefix('golden-') for path in PARITY.glob('golden-*.npz')}
    streams = {'pose-resolution', 'scale', 'stream-trace'} & names
    assert verdicts == dict.fromkeys(names - streams, 'pass') | dict.fromkeys(streams, 'not')
    assert lines[-1].startswith(f'{len(names) - len(streams)} passed, 0 failed')
    assert max(map(len, lines)) <= 120


@pytest.mark.slow
@needs_goldens
@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
@pytest.mark.parametrize('name', ['r3-small-portrait2', 'r3-small-eps2', 'da3-small-house'])
def test_low_precision_keeps_to_its_bounds(name, precision):
    result = run_one(PARITY / f'golden-{name}.npz', precision=precision)
    assert result.arrays and result.passed
    # The bounds of float32 would not hold: it was this precision that ran.
    assert worst(result, Quantity.DEPTH).difference.worst > BOUNDS['fp32'][Quantity.DEPTH].worst


def worst(result, quantity):
    """Return the array of a quantity with the largest difference relative to its bound."""
    arrays = [array for array in result.arrays if array.quantity is quantity]
    return max(arrays, key=lambda array: array.load)


def rows_and_columns_swapped(within, across):
    return Rotation(within.cos.flip(1), within.sin.flip(1)), across


def nothing_turned(table):
    return Rotation(torch.ones_like(table.cos), torch.zeros_like(table.sin))


@pytest.mark.slow
@needs_goldens
@pytest.mark.parametrize(
    'mistake',
    [
        rows_and_columns_swapped,
        lambda within, across: (nothing_turned(within), across),
        lambda within, across: (within, nothing_turned(across)),
        lambda within, across: (within, within),
    ],
    ids=['swapped', 'none within frames', 'none across frames', 'true places across frames'],
)
def test_wrong_rotary_positions_fail_the_widest_bounds(mistake, monkeypatch):
    monkeypatch.setattr(backbone, 'rotations', lambda *args: mistake(*rotations(*args)))
    result = run_one(PARITY / 'golden-r3-small-portrait2.npz', precision='bf16')
    assert result.problem is None and not result.passed
    assert not worst(result, Quantity.BACKBONE).passed
    assert worst(result, Quantity.INPUT).passed  # made before there are positions


@needs_goldens
def test_swapped_colours_fail(tmp_path):
    def swap(pixels):
        return np.ascontiguousarray(pixels[..., ::-1])

    def digest(_):
        return np.array(hashlib.sha256(swap(original).tobytes()).hexdigest())

    with np.load(PARITY / 'golden-r3-small-eps2.npz') as file:
        original = file['pixels']
    path = copy_of('r3-small-eps2', tmp_path, pixels=swap, pixels_sha256=digest)
    result = run_one(path, PARITY)
    assert not worst(result, Quantity.INPUT).passed and not worst(result, Quantity.DEPTH).passed


# --- Every array counts ---


def moved(by):
    """Return a change of one value in the middle of an array."""

    def change(array):
        array[tuple(n // 2 for n in array.shape)] += by
        return array

    return change


CHANGED_R3 = {
    'full.net_input_sample': 1e-3,
    'full.tokens_in': 1e-3,
    'full.block5': 1e-3,
    'full.feat1': 1e-3,
    'full.cam_token2': 1e-3,
    'full.cam_projected': 1e-3,
    'full.layer2_rn': 1e-2,
    'full.refinenet3': 1e-2,
    'full.ray': 1e-2,
    'full.ray_conf': 1e-2,
    'full.depth': 1e-2,
    'full.depth_conf': 1e-2,
    'full.abs_pose_enc': 1e-3,
    'causal.rel_pose_enc': 1e-3,
    'causal.rel_pose_conf': 1e-3,
    'causal.rel_pose_conf_t': 1e-3,
    'causal.rel_pose_conf_r': 1e-3,
    'causal.pose_enc': 1e-3,
    'causal.w2c': 1e-3,
    'causal.c2w': 1e-3,
    'causal.intrinsics': 1e-2,
}


@needs_goldens
def test_one_changed_value_fails_the_array_and_names_it(tmp_path, capsys):
    changes = {name: moved(by) for name, by in CHANGED_R3.items()}
    changes['full.rel_pose_mask'] = lambda mask: ~mask
    path = copy_of('r3-small-portrait2', tmp_path, **changes)
    assert failed(run_one(path, PARITY)) == set(changes)
    assert parity(tmp_path, '--weights', PARITY, '--verbose') == 1
    lines = capsys.readouterr().out.splitlines()
    reported = {line.split()[0] for line in lines if line.startswith('    ') and 'FAIL' in line}
    assert reported == set(changes)


@pytest.mark.slow
@needs_goldens
def test_changed_values_of_the_streamed_frames_fail(tmp_path):
    def last_pair(array):
        array[0, -1] += 1e-3
        return array

    def elsewhere(array):
        array[-1, 0] += 1
        return array

    changes = {
        name: last_pair
        for name in (
            'online.rel_pose_enc_last',
            'online.rel_pose_conf_t_last',
            'online.rel_pose_conf_r_last',
        )
    }
    changes |= {'online.depth': moved(1e-2), 'online.pose_enc': moved(1e-3)}
    others = r'(full|causal)\..*'
    path = copy_of('r3-small-house4', tmp_path, others, **changes)
    assert failed(run_one(path, PARITY)) == set(changes)
    # Of the last frame's pairs, only those to the frames before it mean anything.
    changes = {'online.rel_pose_conf_t_last': elsewhere}
    path = copy_of('r3-small-house4', tmp_path, others, **changes)
    assert run_one(path, PARITY).passed


@pytest.mark.slow
@needs_goldens
def test_changed_values_of_plain_da3_fail(tmp_path):
    changes = {
        'views2.depth': moved(1e-2),
        'views2.extrinsics': moved(1e-3),
        'views4.depth_conf': moved(1e-2),
        'views4.intrinsics': moved(1e-2),
        'views4.reference_view': lambda index: index + 1,
    }
    path = copy_of('da3-small-house', tmp_path, **changes)
    assert failed(run_one(path, PARITY)) == set(changes)


@needs_goldens
def test_changed_poses_fail(tmp_path):
    changes = {'composed': moved(1e-3), 'top1.w2c': moved(1e-3), 'top3.intrinsics': moved(0.1)}
    assert failed(run_one(copy_of('poses', tmp_path, **changes), PARITY)) == set(changes)
    # What was said of the best candidate alone is not true of all.
    path = copy_of('poses', tmp_path)
    with np.load(path) as file:
        arrays = {key.replace('top1.', 'top2.'): file[key] for key in file.files}
    assert 'top2.pose_enc' in failed(run_one(write(path, arrays)))


@needs_goldens
def test_changed_images_and_unknown_settings_fail(tmp_path):
    def other_settings(text):
        return np.array(json.dumps(json.loads(text.item()) | {'mirror': True}))

    changes = {
        'r3.landscape.pixels': moved(3),
        'da3.grown.upper_bound_crop.pixels': lambda pixels: pixels[:-14],
        'r3.enlarged.settings': lambda text: None,
    }
    result = run_one(copy_of('preprocess', tmp_path, **changes))
    assert failed(result) == {name.replace('.settings', '.pixels') for name in changes}
    for name, change, words in (
        ('r3.square.settings', other_settings, 'mirror'),
        ('r3.square.settings', lambda text: np.array('no settings'), 'cannot be used'),
        ('r3.portrait.pixels', lambda pixels: None, 'no pixels'),
    ):
        problem = run_one(copy_of('preprocess', tmp_path, **{name: change})).problem
        assert name.rpartition('.')[0] in problem and words in problem


def test_an_array_that_nobody_knows_fails(folder):
    path = folder / 'golden-r3-small-x.npz'
    own_golden(
        path, **{'full.block12': np.ones(3), 'full.novelty': np.ones(3), 'other': np.ones(3)}
    )
    result = run_one(path)
    assert failed(result) == {'full.block12', 'full.novelty', 'other'}
    assert all('unknown' in a.problem for a in result.arrays if not a.passed)


# --- Other files of the same kinds ---


def test_other_frames_blocks_sizes_and_thinning_are_found_out(folder):
    result = run_one(own_golden(folder / 'golden-r3-small-other.npz'))
    assert result.problem is None
    assert {a.name: a.problem for a in result.arrays if not a.passed} == {}
    steps = {array.name: array.difference.steps for array in result.arrays}
    assert steps['full.block2'] == (1, 3, 11)
    assert steps['full.layer2_rn'][2:] == (3, 3)
    assert steps['full.depth'] == (1, 9, 9)
    assert steps['online.depth'] == (1, 13, 13)


@pytest.mark.slow
@pytest.mark.parametrize(
    'key', ['full.block2', 'full.layer2_rn', 'full.refinenet4', 'full.ray', 'causal.depth']
)
def test_other_frames_in_another_order_fail(folder, key):
    path, arrays = folder / 'golden-r3-small-other.npz', dict(own_arrays())
    # An image that is not the one of the row, or rows and columns the wrong way about.
    arrays[key] = arrays[key][::-1] if len(arrays[key]) > 1 else arrays[key][:, :, ::-1, ::-1]
    assert failed(run_one(write(path, arrays))) == {key}


def test_pairs_forwards_alone_are_enough_with_full_context(folder):
    path, arrays = folder / 'golden-r3-small-other.npz', dict(own_arrays())
    forwards = np.triu(np.ones((5, 5), dtype=bool), 1)
    arrays |= {
        'full.rel_pose_mask': forwards,
        'full.rel_pose_conf_t': arrays['full.rel_pose_conf_t'] * forwards,
    }
    assert run_one(write(path, arrays)).passed
    arrays['full.rel_pose_mask'] = forwards.T
    assert 'full.rel_pose_mask' in failed(run_one(write(path, arrays)))


def test_an_image_that_follows_from_a_key_is_made(folder):
    names = {}
    exec(SCRIPT, names)
    noise = names['unit']('image-28x42', 3 * 28 * 42).reshape(1, 1, 3, 28, 42)
    image = torch.from_numpy((noise / 3**0.5 * 0.999).astype(np.float32)) / 2 + 0.5
    with torch.inference_mode():
        depth = own_network()(image).depth[0]
    arrays = {'image_key': np.array('image-28x42'), 'full.depth': depth[:, ::5, ::5].numpy()}
    assert run_one(write(folder / 'golden-r3-small-noise.npz', arrays)).passed
    arrays['image_key'] = np.array('image-42x28')
    assert not run_one(write(folder / 'golden-r3-small-noise.npz', arrays)).passed


@given(st.integers(1, 600), st.integers(1, 600), st.integers(1, 700))
def test_every_step_that_fits_is_tried_and_no_other(rows, columns, step):
    stored = len(range(0, rows, step)), len(range(0, columns, step))
    found = list(thinning_steps('gg', (rows, columns), stored))
    assert found and len(found) == len(set(found)) and all(a == b for a, b in found)
    for a, _ in found:
        assert (len(range(0, rows, a)), len(range(0, columns, a))) == stored
    # Steps beyond both sides leave one value, and are one and the same.
    assert any(a == step or (stored == (1, 1) and a <= step) for a, _ in found)


@pytest.mark.parametrize(
    ('axes', 'full', 'stored', 'expected'),
    [
        ('ftt', (4, 181, 384), (4, 26, 48), {(1, 7, 8)}),
        ('fgg', (1, 100, 100), (1, 34, 20), {(1, 3, 5)}),  # one step of their own each
        ('gg', (5, 10), (1, 2), {(s, s) for s in range(5, 10)}),
        ('f', (6,), (3,), set()),
        ('..', (2, 3), (2, 4), set()),
        ('ft', (2, 8), (2, 9), set()),
        ('ft', (2, 8), (2, 0), set()),
        ('ft', (2, 8), (2,), set()),
        ('', (), (), {()}),
    ],
)
def test_steps_of_known_shapes(axes, full, stored, expected):
    assert set(thinning_steps(axes, full, stored)) == expected


def test_names_say_what_a_file_is_about():
    def about(name):
        return subject_of(Path(f'golden-{name}.npz'))

    assert about('r3-small-house4').variant == 'r3-small'
    assert about('da3metric-large').kind is Kind.METRIC
    assert about('da3-giant-x').kind is Kind.DA3
    assert about('poses-17').kind is Kind.POSES and about('preprocess2'[:-1]).variant is None
    assert about('r3-base-eps').small_signal and about('r3-small-two-eps3').small_signal
    assert not about('r3-small-steps').small_signal
    official = [name for name in VARIANTS if name != 'r3-tiny']  # which is our own
    assert all(subject_of(Path(f'golden-{name}-a.npz')).variant == name for name in official)
    assert not is_covered(Path('golden-scale-2.npz'))
    assert is_covered(Path('golden-poses.npz')) and is_covered(Path('golden-unheard-of.npz'))


# --- How differences are judged ---


def test_confidences_have_no_more_digits_than_float32():
    step = 2.0**-23
    at_one = np.array([1.0, 1 + step, 1 + 1e4 * step], dtype=np.float32)
    beside = at_one + np.array([step, -step, step], dtype=np.float32)
    assert measured(Measure.LOG_ABOVE_ONE, at_one, beside).worst == 0
    a, b = np.array([1.01]), np.array([1.0102])
    expected = math.log(0.0102) - math.log(0.01)
    assert measured(Measure.LOG_ABOVE_ONE, a, b).worst == pytest.approx(expected, abs=2e-5)
    assert measured(Measure.LOG_ABOVE_ONE, at_one, at_one + np.float32(1e-3)).worst > 1
    assert measured(Measure.LOG_ABOVE_ONE, a, np.array([0.99])).worst == math.inf


@pytest.mark.parametrize('measure', list(Measure))
@pytest.mark.parametrize('wrong', [np.nan, np.inf, -np.inf])
def test_what_is_no_number_on_one_side_alone_fails(measure, wrong):
    good = np.array([2.0, 3.0, 4.0])
    bad = np.array([2.0, wrong, 4.0])
    assert measured(measure, good, bad).worst == math.inf
    if measure is not Measure.SPREAD:
        assert measured(measure, bad, good).worst == math.inf
        assert measured(measure, bad, bad).worst == 0


def test_the_spread_is_that_of_the_golden_array():
    golden = np.array([0.0, 10.0])
    difference = measured(Measure.SPREAD, golden, golden + [0.0, 1.0])
    assert difference.worst == pytest.approx(0.2) and difference.where == (1,)
    assert difference.rms == pytest.approx(0.2 / 2**0.5)
    assert measured(Measure.SPREAD, np.ones(3), np.ones(3) + 0.5).worst == 0.5


def test_the_root_of_the_mean_square_is_bounded_too():
    kind, ones = ArrayKind(Quantity.POSES, '..'), np.ones((10, 10))
    bound = Bound(worst=0.1, rms=0.01)
    once = ones.copy()
    once[3, 4] += 0.09
    assert compare('x', kind, ones, Output(once), bound).passed
    assert not compare('x', kind, ones, Output(ones + 0.02), bound).passed
    assert not compare('x', kind, ones, Output(once + 0.02), bound).passed


def test_the_sign_of_a_quaternion_is_free_only_where_rounding_chose_it():
    golden = np.zeros((2, 9))
    golden[:, 3:7] = [[1, 0, 0, 1e-8], [0.6, 0, 0, 0.8]]
    ours = golden * [1, 1, 1, -1, -1, -1, -1, 1, 1]
    signed = with_signs_of(ours, golden)
    np.testing.assert_array_equal(signed[0], golden[0])
    np.testing.assert_array_equal(signed[1], ours[1])


def test_the_tangent_is_cut_off_where_the_decoder_does():
    fov = np.array([[0.0, 1.0]])
    assert intrinsics_of(fov, 10, 8)[0, 1, 1] == math.inf
    assert intrinsics_of(fov, 10, 8, smallest_tangent=1e-6)[0, 1, 1] == pytest.approx(4e6)


def test_pixels_that_may_be_sky_or_not_do_not_count(monkeypatch):
    images = torch.rand(1, 3, 28, 42, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        metric = shared_network('metric')
        sky = metric(images).sky.numpy()
        monkeypatch.setattr(network_runs, 'SKY_THRESHOLD', float(np.median(sky)))
        outputs = network_runs._metric_arrays(metric, images, 0.1)
    left_out = ~outputs['depth'].counts
    assert 0 < left_out.sum() < left_out.size / 2
    assert (np.abs(sky - np.median(sky))[left_out] <= 0.1 * sky.std()).all()
    assert outputs['raw_depth'].counts is None and outputs['sky'].counts is None


def test_the_sky_is_put_far_away():
    depth = np.linspace(1, 5, 400, dtype=np.float32).reshape(20, 20)
    sky = np.zeros((20, 20), np.float32)
    sky[:5] = 0.31
    got = network_runs.with_far_sky(depth, sky)
    assert got.dtype == np.float32
    assert (got[:5] == np.float32(np.quantile(depth[5:], 0.99))).all()
    assert (got[5:] == depth[5:]).all()


@pytest.mark.parametrize('sky_pixels', [0, 10, 11, 389, 390, 400])
def test_a_handful_of_sky_or_ground_says_nothing(sky_pixels):
    depth = np.linspace(1, 5, 400, dtype=np.float32).reshape(20, 20)
    sky = (np.arange(400) < sky_pixels).astype(np.float32).reshape(20, 20)
    changed = not np.array_equal(network_runs.with_far_sky(depth, sky), depth)
    assert changed == (10 < sky_pixels < 390)


# --- What may be wrong with files ---


def garbage(path):
    path.write_bytes(b'no archive')


def truncated(path):
    own_golden(path)
    path.write_bytes(path.read_bytes()[:-2000])


def damaged(path):
    own_golden(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def bare(path):
    with path.open('wb') as file:
        np.save(file, np.ones(3))


def pickled(path):
    np.savez(path, pixels=np.array([{'a': 1}], dtype=object))


def no_input(path):
    np.savez(path, **{'full.depth': np.ones((1, 14, 14))})


def changed_pixels(path):
    own_golden(path, pixels=np.zeros((5, 42, 70, 3), dtype=np.uint8))


def float_pixels(path):
    np.savez(path, **{'pixels': np.zeros((1, 14, 14, 3)), 'full.depth': np.ones((1, 14, 14))})


def odd_pixels(path):
    pixels = np.zeros((1, 15, 14, 3), dtype=np.uint8)
    np.savez(path, **{'pixels': pixels, 'full.depth': np.ones((1, 15, 14))})


def odd_key(path):
    np.savez(path, **{'image_key': np.array('noise'), 'full.depth': np.ones((1, 15, 14))})


def inputs_alone(path):
    np.savez(path, pixels=np.zeros((1, 14, 14, 3), dtype=np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (garbage, 'could not be run'),
        (truncated, 'could not be run'),
        (damaged, 'could not be run'),
        (bare, 'could not be run'),
        (pickled, 'allow_pickle'),
        (lambda path: np.savez(path), 'no input'),
        (no_input, 'no input'),
        (changed_pixels, 'SHA-256'),
        (float_pixels, 'uint8'),
        (odd_pixels, 'multiples of 14'),
        (odd_key, 'image-HEIGHTxWIDTH'),
        (inputs_alone, 'no results'),
    ],
)
def test_a_file_that_cannot_be_run_fails_in_one_line(make, words, folder, capsys):
    make(folder / 'golden-r3-small-bad.npz')
    own_golden(folder / 'golden-r3-small-good.npz')
    assert parity(folder) == 1
    out = capsys.readouterr().out.splitlines()[3:]
    assert re.match(r'r3-small-bad +FAIL ', out[0]) and words in out[0]
    assert re.match(r'r3-small-good +pass ', out[1])  # the others go on
    assert out[2].startswith('1 passed, 1 failed') and len(out) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ('array', 'words'),
    [
        (np.ones((5, 43, 70)), '(5, 43, 70)'),
        (np.ones((4, 42, 70)), '(4, 42, 70)'),
        (np.ones((5, 42)), '(5, 42)'),
        (np.ones((5, 0, 0)), 'empty'),
        (np.full((5, 42, 70), 'a'), 'numbers are needed'),
        (np.full((5, 42, 70), np.nan), 'inf'),
        (np.float64(3), '()'),
    ],
)
def test_arrays_that_cannot_be_compared_fail(array, words, folder, capsys):
    own_golden(folder / 'golden-r3-small-bad.npz', **{'causal.depth': array})
    assert parity(folder) == 1
    out = capsys.readouterr().out.splitlines()[3:]
    assert 'FAIL' in out[0] and 'causal.depth' in out[1] and words in out[1] and len(out) == 3


def test_poses_need_their_inputs(folder):
    path = folder / 'golden-poses.npz'
    pairs = np.zeros((3, 3))
    assert 'lacks' in run_one(write(path, {'mask': pairs})).problem
    arrays = {'rel_pose_enc': np.zeros((3, 2, 9)), 'conf_t': pairs, 'conf_r': pairs, 'mask': pairs}
    assert 'do not fit' in run_one(write(path, arrays)).problem


def test_more_views_than_images_fail(folder):
    arrays = {
        'pixels': np.zeros((1, 14, 14, 3), dtype=np.uint8),
        'views2.depth': np.ones((2, 14, 14)),
    }
    result = run_one(write(folder / 'golden-da3-small-x.npz', arrays))
    assert 'views2 needs 2 images' in result.problem


@pytest.mark.parametrize(
    ('script', 'words'),
    [
        (None, '--weights'),
        ('import nothing_of_this_name', 'nothing_of_this_name'),
        ('raise SystemExit(0)', 'could not be run'),
        ('unit = 3', 'tensor_for'),
        (SCRIPT + 'def tensor_for(key, shape): return 0.5', 'could not be run'),
    ],
)
def test_without_usable_weights_only_networks_fail(script, words, folder):
    path = own_golden(folder / 'golden-r3-small-x.npz')
    (folder / 'deterministic_weights.py').unlink()
    if script is not None:
        (folder / 'deterministic_weights.py').write_text(script, encoding='utf-8')
    result = run_one(path)
    assert not result.passed and words in result.problem and '\n' not in result.problem
    source, settings = np.zeros((28, 28, 3), dtype=np.uint8), '{"source": "a", "size": 28}'
    pixels = {'source.a': source, 'r3.b.settings': np.array(settings)}
    pixels['r3.b.pixels'] = source[:14]
    result = run_one(write(folder / 'golden-preprocess.npz', pixels))
    assert {array.name for array in result.arrays} == {'r3.b.pixels'} and result.passed


def test_networks_are_kept_while_they_are_asked_for(folder):
    networks = Networks(StandInWeights(folder), torch.bfloat16, torch.device('cpu'))
    first = networks.get('r3-small', False)
    assert networks.get('r3-small', False) is first
    small = networks.get('r3-small', True)
    assert small is not first
    large = first.backbone.patch_embed.proj.weight
    assert small.backbone.patch_embed.proj.weight.abs().max() < 0.1 * large.abs().max()
    assert large.dtype == torch.bfloat16 and first.backbone.pos_embed.dtype == torch.float32
    assert not first.training and not large.requires_grad


def test_a_network_is_left_as_it_was(folder):
    path = own_golden(folder / 'golden-r3-small-x.npz')
    runner = Runner(folder, 'fp32', 'cpu')
    for _ in range(2):
        assert runner.run(path).passed
    network = runner._networks.get('r3-small', False)
    assert 'relate' not in vars(network.backbone)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


# --- The command ---


@pytest.mark.slow
def test_exit_status_and_choice_of_files(folder, capsys):
    own_golden(folder / 'golden-r3-small-good.npz')
    write(folder / 'golden-scale.npz', {'a': np.ones(3)})
    write(folder / 'golden-unheard-of.npz', {'a': np.ones(3)})
    assert parity(folder) == 1
    out = capsys.readouterr().out
    assert 'has no known subject' in out
    assert '1 passed, 1 failed, 1 not covered: fp32 on cpu' in out
    assert parity(folder, '--only', 'good') == 0
    assert '1 passed, 0 failed' in capsys.readouterr().out
    assert parity(folder, '--only', 'scale') == 0
    assert re.search(r'scale +not covered', capsys.readouterr().out)


def test_weights_may_lie_elsewhere(folder, tmp_path_factory):
    goldens = tmp_path_factory.mktemp('goldens')
    shutil.move(own_golden(folder / 'golden-r3-small-x.npz'), goldens / 'golden-r3-small-x.npz')
    assert parity(goldens) == 1
    assert parity(goldens, '--weights', folder) == 0


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['none'], 'is no folder'),
        (['n' * 300], 'is no folder'),
        (['.'], 'no golden-*.npz'),
        (['full', '--only', 'nothing'], "no golden file with 'nothing' in its name"),
        (['full', '--device', 'cuda'], 'take --device cpu'),
    ],
)
def test_where_nothing_can_run_the_status_is_2(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'full').mkdir()
    write(tmp_path / 'full' / 'golden-poses.npz', {'a': np.ones(3)})
    assert parity(*arguments) == 2
    err = capsys.readouterr().err
    assert words in err and err.count('\n') == 1
