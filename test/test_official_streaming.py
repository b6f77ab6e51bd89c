"""The authors' loop, scales and pose graph: their own results, and what they get wrong."""

from pathlib import Path

import numpy as np
import pytest
from r3_ros.errors import ConfigError
from r3_ros.parity.comparison import compare
from r3_ros.parity.golden import read_golden
from r3_ros.parity.pose_rule_runs import pose_rule_answers
from r3_ros.parity.scale_runs import scale_answers
from r3_ros.parity.stream_tables import TableNetwork, Tables
from r3_ros.parity.streaming_runs import stream_answers
from r3_ros.parity.tolerances import BOUNDS, EXACT
from r3_ros.pose_encoding import encode_pose
from r3_ros.streaming.official.bank import Bank
from r3_ros.streaming.official.fallback import Outcome
from r3_ros.streaming.official.loop import Loop
from r3_ros.streaming.official.options import (
    BankOptions,
    CacheMode,
    CacheOptions,
    FallbackOptions,
    GateOptions,
    MetricOptions,
    PRESETS,
    StreamOptions,
)
from r3_ros.streaming.official.pose_graph import GraphOptions, PoseGraph, refine_poses
from r3_ros.streaming.official.pose_rules import resolve_greedy
from r3_ros.streaming.official.scale import (
    chosen_scale,
    huber_scale,
    median_scale,
    metric_scale,
    pose_scale,
    ransac_scale,
)
from scipy.optimize import approx_fprime
from scipy.spatial.transform import Rotation

SHARED = Path(__file__).resolve().parents[2] / 'shared' / 'parity'
DYNAMIC = CacheOptions(CacheMode.DYNAMIC)
FOV = np.array([0.9, 1.2])


@pytest.mark.parametrize(
    ('name', 'answers'),
    [
        ('pose-resolution', pose_rule_answers),
        ('scale', scale_answers),
        ('stream-trace', stream_answers),
    ],
)
def test_every_official_result_is_ours(name, answers):
    path = SHARED / f'golden-{name}.npz'
    if not path.exists():
        pytest.skip('golden results of the official code are not at hand')
    golden = read_golden(path)
    found = answers(golden)
    results = [name for name in golden.arrays if name not in found.inputs]
    for key in results:
        answer = found.values[key]
        bound = BOUNDS[EXACT][answer.kind.quantity]
        result = compare(key, answer.kind, golden.arrays[key], answer, bound)
        assert result.passed, (key, result)
    assert len(results) > 30


# --- A stream without golden files ---


def street(count, step=0.2, logit_per_frame=0.02, turn=0.02):
    """Return tables of exact edges along a path; features change by and by."""
    T = np.tile(np.eye(4), (count, 1, 1))
    for i in range(1, count):
        move = np.eye(4)
        move[:3, :3] = Rotation.from_rotvec([0, turn, 0]).as_matrix()
        move[:3, 3] = [0, 0, -step]
        T[i] = move @ T[i - 1]
    edges = T[None] @ np.linalg.inv(T)[:, None]
    gaps = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    logits = 3.0 - logit_per_frame * gaps
    angles = np.arange(count) * 0.05
    depth = 2 + np.random.default_rng(0).random((count, 12, 16))
    return {
        'rel': encode_pose(edges, np.broadcast_to(FOV, (count, count, 2))),
        'ct': logits,
        'cr': logits,
        'sel': np.stack([np.cos(angles), np.sin(angles)], axis=1),
        'drought': np.zeros(count, dtype=bool),
        'depth': depth,
        'dconf': np.full(depth.shape, 2.0),
        'seg_scale': np.ones(count),
    }


class WatchedNetwork(TableNetwork):
    """Holds what it is told to hold, and answers of nothing else."""

    def __init__(self, arrays):
        super().__init__(Tables(arrays))
        self.held = set()
        self.replayed = []

    def relate(self, frame, picture, memory):
        assert set(memory) <= self.held and list(memory) == sorted(memory)
        self.held.add(frame)
        return super().relate(frame, picture, memory)

    def replay(self, frames, pictures):
        assert list(frames) == list(pictures)  # each frame has its own picture
        self.replayed = list(frames)
        return super().replay(frames, pictures)

    def take_over(self, frames):
        assert set(frames) <= set(self.replayed)
        self.held = set(frames)

    def keep(self, frames):
        assert set(frames) <= self.held
        self.held = set(frames)


def stream(arrays, options):
    network = WatchedNetwork(arrays)
    loop = Loop(network, options, network.metres)
    steps = []
    for frame in range(len(arrays['rel'])):
        steps.append(loop.step(frame))
        assert network.held == set(loop.segment.frames)
    return steps, loop


def true_poses(arrays):
    return np.concatenate([arrays['rel'][0][:, :7], np.tile(FOV, (len(arrays['rel']), 1))], axis=1)


@pytest.mark.parametrize('mode', list(CacheMode))
def test_exact_edges_give_exact_poses_across_segments(mode):
    arrays = street(60)
    options = StreamOptions(CacheOptions(mode), fallback=FallbackOptions(max_segment_frames=20))
    steps, loop = stream(arrays, options)
    poses = np.stack([step.pose for step in steps])
    expected = true_poses(arrays)
    expected[0] = [0, 0, 0, 0, 0, 0, 1, *FOV]
    assert np.abs(poses - expected).max() < 1e-9
    assert [step.frame for step in steps if step.attempt] == [19, 39, 59]
    assert loop.segment.last_fallback == 59


def test_what_is_held_stays_within_its_bounds():
    arrays = street(150)
    steps, loop = stream(
        arrays,
        StreamOptions(
            DYNAMIC,
            BankOptions(max_keyframes=8),
            fallback=FallbackOptions(max_segment_frames=0, drought_percent=0),
        ),
    )
    segment = loop.segment
    assert len(segment.frames) <= 10 and len(segment.remembered) == 33
    assert len(segment.edges._edges) <= 45 < segment.edges.count
    assert segment.poses.keys() == segment.post_scores.keys() == set(segment.frames)


def test_presets_are_those_of_their_demo():
    assert {name: preset.weights for name, preset in PRESETS.items()} == {
        'official_test': 'r3',
        'official_local': 'r3',
        'official_long': 'r3_long',
        'official_strided': 'r3_long',
    }
    for name, preset in PRESETS.items():
        options = preset.stream
        assert options.topn == 999 and options.gate == GateOptions(0, 0, 3)
        assert options.bank == BankOptions(0, 0.985, 30, 100, 0.0, evict_oldest=True)
        dynamic = options.cache.mode is CacheMode.DYNAMIC
        assert dynamic == (name in ('official_local', 'official_long'))
        assert (options.cache.recent_frames, options.cache.first_frames) == (0, 1)
        assert (options.metric is None) == (options.fallback is None)
    long, strided = PRESETS['official_long'].stream, PRESETS['official_strided'].stream
    assert long.fallback.max_segment_frames == 300 and strided.fallback.max_segment_frames == 100
    assert long.metric == MetricOptions(5, 1.02) and long.fallback.drought_percent == 45
    assert long.fallback.remembered_frames == 33 and long.fallback.cooldown_frames == 13


def test_metres_need_a_metric_network():
    with pytest.raises(ConfigError, match='metric network'):
        Loop(TableNetwork(Tables(street(2))), PRESETS['official_long'].stream)


# --- What they get wrong, kept ---


def test_the_gate_locks_itself_out_once_the_camera_moved_on():
    arrays = street(120, logit_per_frame=0.06)
    steps, _ = stream(arrays, StreamOptions(gate=GateOptions(percent=50)))
    refused = [step.frame for step in steps if step.refused]
    # Nothing is wrong with any frame, yet from one on none is taken.
    assert refused and refused == list(range(refused[0], 120))
    # A refused frame goes on getting poses, from memory ever farther away.
    assert steps[-1].post_score < steps[refused[0]].post_score


def test_the_scale_of_the_second_cut_lacks_that_of_the_first():
    arrays = street(60)
    arrays['seg_scale'] = np.array([1.0, 0.5, 0.25, 0.125])
    steps, _ = stream(arrays, StreamOptions(fallback=FallbackOptions(max_segment_frames=20)))
    first, second, _ = (step.attempt.scale for step in steps if step.attempt)
    assert first == pytest.approx(2, rel=1e-6)
    # Units are a quarter of the first ones', not half.
    assert second == pytest.approx(2, rel=1e-6)
    errors = [np.abs(step.pose[:3] - true_poses(arrays)[step.frame, :3]).max() for step in steps]
    assert max(errors[:40]) < 1e-6 < 0.5 < errors[-1]


def test_metres_hide_the_lost_scale_but_depth_at_the_cut_has_the_next_one():
    arrays = street(60)
    arrays['seg_scale'] = np.array([1.0, 0.5, 0.25, 0.125])
    options = StreamOptions(
        fallback=FallbackOptions(max_segment_frames=20), metric=MetricOptions(5, 1.02)
    )
    steps, _ = stream(arrays, options)
    scales = [step.attempt.scale for step in steps if step.attempt]
    assert scales == pytest.approx([5, 10, 20], rel=1e-6)
    metres = np.array([step.depth.mean() / arrays['depth'][step.frame].mean() for step in steps])
    cut = np.isin(np.arange(60), [19, 39, 59])
    assert np.allclose(metres[~cut], 2.5) and np.allclose(metres[cut], 5.0)


def test_a_drought_is_accepted_for_the_sentinel_and_refused_for_the_last_frame():
    arrays = street(60)
    arrays['drought'][30:35] = True
    options = StreamOptions(fallback=FallbackOptions())
    steps, loop = stream(arrays, options)
    attempts = [step.attempt for step in steps if step.attempt]
    assert [(a.frame, a.forced, a.outcome) for a in attempts] == [(32, False, Outcome.ACCEPTED)]
    assert attempts[0].bridge == tuple(range(23, 33))
    # The last frame as bad in the replay as before: the segment stays, but counts anew.
    arrays = street(60)
    arrays['ct'][:, 30:35] -= 4
    arrays['ct'][22:, 30:35] -= 1
    steps, loop = stream(arrays, options)
    attempts = [step.attempt for step in steps if step.attempt]
    assert [(a.frame, a.outcome) for a in attempts] == [(32, Outcome.NO_BETTER)]
    assert loop.segment.last_fallback == 32 and len(loop.segment.frames) == 60


def test_a_bridge_without_pictures_cuts_the_memory():
    options = StreamOptions(
        DYNAMIC, BankOptions(interval=60), fallback=FallbackOptions(max_segment_frames=50)
    )
    steps, loop = stream(street(70), options)
    attempts = [step.attempt for step in steps if step.attempt]
    # Frame 0 is held, and its picture is long gone.
    assert [(a.frame, a.bridge, a.outcome) for a in attempts] == [
        (49, (49,), Outcome.TOO_FEW_FRAMES)
    ]
    assert loop.segment.frames == [0, 59, 69]


def test_scale_by_poses_depends_on_the_place_of_the_origin():
    count, scale = 10, 1.8
    turns = Rotation.from_rotvec(np.outer(np.arange(count), [0, np.deg2rad(3), 0])).as_matrix()
    centres = np.outer(np.arange(count), [0.2, 0.0, 0.1])

    def encodings(centres):
        T = np.tile(np.eye(4), (count, 1, 1))
        T[:, :3, :3] = np.swapaxes(turns, 1, 2)
        T[:, :3, 3] = -np.einsum('nji,nj->ni', turns, centres)
        return encode_pose(T, np.tile(FOV, (count, 1)))

    new, weights = encodings(centres / scale), np.ones(count)
    near = pose_scale(encodings(centres), new, weights)
    far = pose_scale(encodings(centres + [100, 0, 0]), new, weights)
    assert near == pytest.approx(scale, rel=1e-6) and far > 5 * scale


def test_a_scale_that_failed_looks_like_one():
    nothing = [np.full((20, 20), np.nan)]
    some = [np.ones((20, 20))]
    random = np.random.default_rng(0)
    assert median_scale(nothing, some) == huber_scale(some, nothing) == 1.0
    assert ransac_scale(nothing, some, None, random) == 1.0
    far = [np.full((20, 20), 150.0)]
    assert median_scale(far, some) == ransac_scale(far, some, None, random) == 1.0
    assert chosen_scale(1.0, 1.7) == 1.7 and chosen_scale(1.5, None) == 1.5
    assert metric_scale(some[0], nothing[0], None, 0.0) is None


def test_few_pixels_are_all_drawn():
    old, new = np.full((3, 4), 3.0), np.full((3, 4), 2.0)
    old[0, 0] = 30.0
    assert ransac_scale([old], [new], None, np.random.default_rng(1)) == pytest.approx(1.5)


def test_a_bank_for_one_holds_two_now_and_then():
    bank, sizes = Bank(BankOptions(interval=1, max_keyframes=1)), []
    for frame in range(5):
        bank.offer(frame, np.ones(2), 1.0, None, {})
        sizes.append(len(bank.frames))
    assert sizes == [1, 2, 2, 2, 2] and 4 in bank


def test_eviction_by_score_and_by_age_differ():
    scores = {0: 3.0, 1: 1.0, 2: 2.0}
    kept = []
    for oldest in (True, False):
        bank = Bank(BankOptions(interval=1, max_keyframes=3, evict_oldest=oldest))
        for frame in range(4):
            bank.offer(frame, np.ones(2), 1.0, None, scores)
        kept.append(bank.frames)
    assert kept == [[1, 2, 3], [0, 2, 3]]


# --- The pose graph ---


def noisy_graph(count=7, seed=3):
    random = np.random.default_rng(seed)
    arrays = street(count)
    rel = arrays['rel'].copy()
    rel[..., :3] += random.normal(0, 0.05, rel[..., :3].shape)
    turned = Rotation.from_rotvec(random.normal(0, 0.05, (count * count, 3)))
    rel[..., 3:7] = (
        (turned * Rotation.from_quat(rel[..., 3:7].reshape(-1, 4)))
        .as_quat()
        .reshape(count, count, 4)
    )
    conf_t, conf_r = random.normal(2, 1, (2, count, count))
    return rel, conf_t, conf_r, np.triu(np.ones((count, count), dtype=bool), k=1)


@pytest.mark.parametrize(
    'options',
    [
        GraphOptions(),
        GraphOptions(geman_mcclure=0.1, prior=0.0),
        GraphOptions(scaling_phi=1e-3, weight_r=0.5),
        GraphOptions(fixed_stride=3, weakest_left_out=0.3),
    ],
)
def test_gradients_of_the_graph_are_those_of_its_loss(options):
    edges = noisy_graph()
    start = resolve_greedy(*edges)
    graph = PoseGraph(*edges, start, options)
    at = start[graph._moving, :7].ravel()
    at = at + np.random.default_rng(0).normal(0, 0.1, at.shape)
    numeric = approx_fprime(at, lambda x: graph._evaluated(x)[0], 1e-7)
    assert np.abs(graph._evaluated(at)[1] - numeric).max() < 1e-6


def test_refined_poses_fit_better_and_fixed_ones_stay():
    edges = noisy_graph()
    start = resolve_greedy(*edges)
    options = GraphOptions(excluded=frozenset({2}), fixed_stride=4)
    refined = refine_poses(*edges, start, options)
    graph = PoseGraph(*edges, start, options)
    assert graph.loss(refined) < 0.8 * graph.loss(start)
    stays = (np.abs(refined - start) < 1e-12).all(axis=1)
    assert np.flatnonzero(stays).tolist() == [0, 2, 4, 6]
    assert np.allclose(np.linalg.norm(refined[:, 3:7], axis=1), 1)


def test_edges_too_long_are_left_out_unless_none_is_left():
    rel, *others = noisy_graph()
    start = resolve_greedy(rel, *others)
    wrong = rel.copy()
    wrong[1, 5, :3] += 50
    options = GraphOptions(longest_per_frame=2.0)
    refined = refine_poses(wrong, *others, start, options)
    assert np.abs(refined - refine_poses(rel, *others, start, GraphOptions())).max() < 0.05
    none_left = GraphOptions(longest_per_frame=1e-9)
    assert np.allclose(
        refine_poses(rel, *others, start, none_left), refine_poses(rel, *others, start)
    )


def test_a_start_that_fits_is_left_alone():
    arrays = street(5)
    edges = arrays['rel'], arrays['ct'], arrays['cr'], np.triu(np.ones((5, 5), dtype=bool), 1)
    start = resolve_greedy(*edges)
    assert np.array_equal(refine_poses(*edges, start)[:, :3], start[:, :3])
