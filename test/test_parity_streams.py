"""Golden files about streams: each array counts, and other files of these kinds are understood."""

from pathlib import Path
import re

import numpy as np
import pytest

pytest.importorskip('torch')

from r3_ros.parity.pose_rule_runs import greedy_options  # noqa: E402
from r3_ros.parity.runner import Runner  # noqa: E402
from r3_ros.parity.stream_tables import scenario_of  # noqa: E402
from r3_ros.parity.tolerances import Quantity  # noqa: E402
from r3_ros.streaming.official.options import CacheMode  # noqa: E402

SHARED = Path(__file__).resolve().parents[2] / 'shared' / 'parity'
needs_goldens = pytest.mark.skipif(
    not SHARED.exists(), reason='golden files of the official code are not here'
)


def changed(name, folder, keep='.*', **changes):
    """Run a copy of an official file, of the arrays that match, some changed; None leaves out."""
    with np.load(SHARED / f'golden-{name}.npz') as file:
        arrays = {key: file[key] for key in file.files if re.fullmatch(keep, key)}
    for key, change in changes.items():
        array = change(arrays.pop(key))
        if array is not None:
            arrays[key] = array
    path = folder / f'golden-{name}-other.npz'
    np.savez(path, **arrays)
    return Runner(SHARED, 'fp32', 'cpu').run(path, lambda text: None)


def moved(by):
    """Return a change of the last value of an array."""

    def change(array):
        array = array.copy()
        array.reshape(-1)[-1] += by
        return array

    return change


def failed(result):
    assert result.problem is None
    return {array.name for array in result.arrays if not array.passed}


@needs_goldens
@pytest.mark.parametrize('name', ['pose-resolution', 'scale', 'stream-trace'])
def test_the_official_files_pass_whole(name):
    path = SHARED / f'golden-{name}.npz'
    # Half precision is for networks: here it changes nothing.
    result = Runner(SHARED, 'bf16', 'cpu').run(path, lambda text: None)
    assert result.passed
    with np.load(path) as file:
        results = [key for key in file.files if not key.startswith('in.')]
    # Nothing was passed over but what is no result.
    inputs = r'(n|on)\d+\.(gt.*|rel.*|conf_.|mask|abs_enc|have_pose)|enc\.(in|hw)|avg\.(cand|w_.)'
    inputs += r'|\w+\.(old|new|(old|new)_conf|true|(old|new)_(rel|score)|ref|scale|depth_scale)'
    inputs += r'|resolve\.(pose|depth.*)|posescale\.conf|metric\.(pred|metric|conf)'
    if name == 'stream-trace':
        inputs = 'none'
    expected = {key for key in results if not re.fullmatch(inputs, key)}
    assert {array.name for array in result.arrays} == expected


@needs_goldens
def test_changed_poses_fail(tmp_path):
    changes = {
        'n5.greedy_all_q50': moved(1e-3),
        'n12.greedy_top10_min': moved(1e-3),
        'n12.pgo_lm': moved(1e-3),
        'on3.half': moved(1e-3),
        'on15.recent5': moved(1e-3),
        'enc.w2c': moved(1e-3),
        'enc.K': moved(0.1),
        'enc.compose': moved(1e-3),
        'avg.out': moved(1e-3),
    }
    keep = r'(n5|n12|on3|on15|enc|avg)\..*'
    assert failed(changed('pose-resolution', tmp_path, keep, **changes)) == set(changes)


@needs_goldens
def test_a_graph_that_was_not_refined_or_that_is_another_fails(tmp_path):
    with np.load(SHARED / 'golden-pose-resolution.npz') as file:
        start, other = file['n12.greedy_top10'], file['n12.greedy_top1']
    changes = {
        'n12.pgo_lib': lambda array: start,
        'n12.pgo_pct20': lambda array: other,
        'n12.pgo_dcs': lambda array: array[:5],
        'n12.pgo_gm': lambda array: array * np.nan,
    }
    result = changed('pose-resolution', tmp_path, r'n12\.(?!greedy).*', **changes)
    assert failed(result) == set(changes)


@needs_goldens
def test_unknown_results_and_missing_inputs_fail(tmp_path):
    changes = {'n5.mask': lambda array: None, 'on3.conf_t': lambda array: array[:2]}
    result = changed('pose-resolution', tmp_path, r'(n5|on3)\..*', **changes)
    assert {array.problem for array in result.arrays if array.name == 'n5.greedy_all'} == {
        'it lacks mask: nothing can be computed without'
    }
    assert all('does not fit' in a.problem for a in result.arrays if a.name.startswith('on3'))
    with np.load(SHARED / 'golden-pose-resolution.npz') as file:
        arrays = {key: file[key] for key in file.files if key.startswith('n5.')}
    arrays['n5.greedy_top10_best'] = arrays['n5.greedy_top10']
    arrays['n5.pgo_magic'] = arrays['n5.greedy_top10']
    path = tmp_path / 'golden-pose-resolution-x.npz'
    np.savez(path, **arrays)
    result = Runner(SHARED, 'fp32', 'cpu').run(path, lambda text: None)
    assert failed(result) == {'n5.greedy_top10_best', 'n5.pgo_magic'}


@needs_goldens
def test_changed_scales_fail(tmp_path):
    changes = {
        'noisy.huber': moved(1e-3),
        'outliers.weighted_median': moved(1e-3),
        'clean.ransac': moved(0.02),
        'resolve.out': moved(1e-3),
        'posescale.out': lambda value: value + 1e-3,
        'metric.out_noconf': lambda value: value + 1e-3,
        'bridge.out': lambda array: array + 1e-3,
        'bridge.depth': moved(1e-2),
        'bridge.conf': moved(1e-2),
    }
    assert failed(changed('scale', tmp_path, **changes)) == set(changes)


CHANGED_STREAM = {
    'cache_ids': 1,
    'bank_ids': 1,
    'keyframe_ids': 1,
    'anchor_ids': 1,
    'pose_enc': 1e-3,
    'post_score': 1e-3,
    'depth_mean': 1e-2,
    'last_fallback': 1,
    'scale': 1e-3,
    'edge_log_len': 1,
}


@needs_goldens
def test_changed_streams_fail(tmp_path):
    changes = {f'long_seg40.{name}': moved(by) for name, by in CHANGED_STREAM.items()}
    changes['long_seg40.edge_log_len'] = lambda count: count + 1
    changes['long_seg40.events'] = lambda events: np.char.replace(events, 'ref=61', 'ref=60')
    result = changed('stream-trace', tmp_path, r'(in|long_seg40)\..*', **changes)
    assert failed(result) == set(changes)
    changes = {
        'all_evict50.evicted': lambda frames: frames[:-1],
        'batch_local_k12.keyframe_ids': moved(1),
        'all_evict50.final_state_pose_enc': lambda poses: np.nan_to_num(poses),
    }
    result = changed('stream-trace', tmp_path, r'(in|all_evict50|batch_.*)\..*', **changes)
    assert failed(result) == set(changes)


@needs_goldens
def test_scenarios_of_other_settings_are_run_and_unknown_ones_fail(tmp_path):
    with np.load(SHARED / 'golden-stream-trace.npz') as file:
        arrays = {key: file[key] for key in file.files if re.match(r'in\.|local_k12\.', key)}
    count = 70
    shorter = {
        key: array if key == 'in.seg_scale' or not array.ndim else array[:count]
        for key, array in arrays.items()
        if not key.endswith(('final_state_pose_enc', '.evicted', '.events'))
    }
    for name in ('in.rel', 'in.ct', 'in.cr'):
        shorter[name] = arrays[name][:count, :count]
    shorter['local_big.scale'] = shorter['local_k12.scale']
    shorter['long_seg16.scale'] = np.ones(count)
    path = tmp_path / 'golden-stream-trace-short.npz'
    np.savez(path, **shorter)
    result = Runner(SHARED, 'fp32', 'cpu').run(path, lambda text: None)
    assert failed(result) == {'local_big.scale', 'long_seg16.scale'}
    assert len(result.arrays) > 8


def test_names_of_scenarios_are_their_settings():
    def options(name):
        return scenario_of(name).options

    assert options('local_k7').bank.max_keyframes == 7
    assert (
        not options('local_k7').bank.evict_oldest and options('batch_local_k7').bank.evict_oldest
    )
    assert options('local_recent3').cache.recent_frames == 3
    assert options('local_gate08').bank.confidence_ratio == 0.8
    assert options('local_gate125').bank.confidence_ratio == 1.25
    assert options('interval4').bank.interval == 4
    assert options('all_evict65').gate.percent == 65
    assert options('all_evict65').cache.mode is CacheMode.ALL
    long = options('long_seg25_metric')
    assert long.cache.mode is CacheMode.DYNAMIC and long.fallback.max_segment_frames == 25
    assert long.metric.bootstrap_frames == 5 and options('strided_seg25').metric is None
    assert options('strided_seg25').cache.mode is CacheMode.ALL
    assert options('all_drought_only').fallback.max_segment_frames == 0
    for name in ('local', 'local_k', 'long_seg0', 'local_k3_metric', 'other', 'all_evict'):
        assert scenario_of(name) is None


def test_names_of_greedy_results_are_their_options():
    assert greedy_options('greedy_top3').topn == 3
    assert greedy_options('greedy_all').topn is None
    assert greedy_options('greedy_top10_selrot').selection == 'rotation'
    assert greedy_options('greedy_all_q25').quantile == 0.25
    assert greedy_options('greedy_anchor4').anchor == 4
    assert greedy_options('greedy_top10_min').score_mode == 'min'
    for name in ('greedy_top0', 'greedy_best', 'greedy_top10_largest', 'top10'):
        assert greedy_options(name) is None


@needs_goldens
def test_pose_graphs_are_told_from_their_start(tmp_path):
    result = changed('pose-resolution', tmp_path, r'n40\..*')
    assert result.worst(Quantity.REFINED).difference.worst < 0.01
