"""The authors' pose rules against their own results, and what they are known to get wrong."""

from pathlib import Path

import numpy as np
import pytest
from r3_ros.streaming.official import GreedyOptions, resolve_greedy, resolve_online

GOLDEN = Path(__file__).parents[2] / 'shared' / 'parity' / 'golden-pose-resolution.npz'
SIZES = (2, 5, 12, 40, 80)
CASES = {
    'greedy_top10': GreedyOptions(),
    'greedy_top999': GreedyOptions(topn=999),
    'greedy_top1': GreedyOptions(topn=1),
    'greedy_all': GreedyOptions(topn=None),
    'greedy_top10_selrot': GreedyOptions(selection='rotation'),
    'greedy_top10_selboth': GreedyOptions(selection='both'),
    'greedy_all_q50': GreedyOptions(topn=None, quantile=0.5),
    'greedy_top10_mean': GreedyOptions(score_mode='mean'),
    'greedy_top10_min': GreedyOptions(score_mode='min'),
    'greedy_top10_translation': GreedyOptions(score_mode='translation'),
    'greedy_top10_rotation': GreedyOptions(score_mode='rotation'),
    'greedy_top10_shared': GreedyOptions(score_mode='shared'),
    'greedy_anchor0': GreedyOptions(anchor=0),
}


@pytest.fixture(scope='module')
def golden():
    if not GOLDEN.exists():
        pytest.skip('golden results of the official code are not at hand')
    return np.load(GOLDEN)


def encoding_error(a, b):
    """Largest difference of two encodings, quaternions up to their sign."""
    sign = np.sign((a[..., 3:7] * b[..., 3:7]).sum(-1, keepdims=True))
    aligned = np.concatenate([a[..., :3], a[..., 3:7] * sign, a[..., 7:]], axis=-1)
    return np.abs(aligned - b).max()


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('case', CASES)
def test_greedy_equals_the_official_result(golden, size, case):
    key = f'n{size}.{case}'
    if key not in golden:
        pytest.skip(f'{key} is not among the golden results')
    graph = [golden[f'n{size}.{name}'] for name in ('rel', 'conf_t', 'conf_r')]
    poses = resolve_greedy(
        *(array.astype(np.float64) for array in graph), golden[f'n{size}.mask'], CASES[case]
    )
    # float32 against float64 along a chain of 80 poses
    assert encoding_error(poses, golden[key].astype(np.float64)) < 2e-5


@pytest.mark.parametrize('size', (1, 3, 15, 100))
@pytest.mark.parametrize(
    'case,topn,recent',
    [('top999', 999, 0), ('top10', 10, 0), ('top1', 1, 0), ('recent5', 999, 5), ('half', -1, 0)],
)
def test_online_equals_the_official_result(golden, size, case, topn, recent):
    rel, conf_t, conf_r, poses = (
        golden[f'on{size}.{name}'].astype(np.float64)
        for name in ('rel_to_new', 'conf_t', 'conf_r', 'abs_enc')
    )
    mask, held = golden[f'on{size}.mask'], golden[f'on{size}.have_pose']
    poses = np.where(held[:, None], poses[:size], np.nan)
    pose = resolve_online(rel, poses, conf_t, conf_r, mask, topn, recent)
    assert encoding_error(pose, golden[f'on{size}.{case}'].astype(np.float64)) < 2e-4
