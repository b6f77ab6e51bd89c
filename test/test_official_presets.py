"""The authors' loop around R3: what the network is asked, and their presets through ``r3 run``."""

from dataclasses import replace
import json

import cv2
import networks
import numpy as np
import pytest
from r3_ros.cli import main
from r3_ros.config import OWN_PRESET, PRESET_NAMES, R3Config, updated
from r3_ros.datatypes import Frame, ModelInfo, TrackingState
from r3_ros.errors import ConfigError, FrameError, ModelError
from r3_ros.factory import load_engine, load_window_predictor
from r3_ros.geometry import inverse
from r3_ros.input.network_input import intrinsics_from_fov, prepare_r3, R3Rule
from r3_ros.model.checkpoint import save_network
from r3_ros.model.memory import Room
from r3_ros.model.metric import SKY_THRESHOLD
from r3_ros.model.network import FrameCache
from r3_ros.model.official_network import OfficialMetricDepth, OfficialNetwork
from r3_ros.model.variants import VARIANTS
from r3_ros.parity.stream_tables import TableNetwork, Tables
from r3_ros.pose_encoding import decode_pose
from r3_ros.streaming.official.engine import OfficialEngine
from r3_ros.streaming.official.loop import Loop
from r3_ros.streaming.official.options import (
    CacheMode,
    CacheOptions,
    FallbackOptions,
    GateOptions,
    Preset,
    PRESETS,
    StreamOptions,
)
from r3_ros.trajectory_file import read_tum
from sequences import write_folder
from test_official_streaming import FOV, street, true_poses
from test_r3_predictor import lively
import torch

ROOM = Room(2**26, 0)
CPU = torch.device('cpu')


def official(name='r3', room=ROOM):
    return OfficialNetwork(networks.shared_network(name), ModelInfo('r3'), room, CPU)


def drawn(count, seed=0, size=(42, 70)):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for _ in range(count)]


def tensor(pictures):
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)[None]


def assert_relations(said, prediction, rows, column=0, atol=1e-4):
    """Compare with the network's own answer; ``rows`` are those of the memory, in its order."""
    pairs, fov = prediction.pairs, prediction.fov[0, column].numpy()
    np.testing.assert_allclose(said.rel[:, :3], pairs.translation[0, rows, column], atol=atol)
    np.testing.assert_allclose(said.rel[:, 3:7], pairs.quaternion[0, rows, column], atol=atol)
    np.testing.assert_allclose(said.rel[:, 7:], np.tile(fov, (len(rows), 1)), atol=atol)
    np.testing.assert_allclose(said.fov, fov, atol=atol)
    np.testing.assert_allclose(said.logits_t, pairs.logit_translation[0, rows, column], atol=atol)
    np.testing.assert_allclose(said.logits_r, pairs.logit_rotation[0, rows, column], atol=atol)
    np.testing.assert_allclose(said.view.depth, prediction.depth[0, column], rtol=1e-3)
    np.testing.assert_allclose(said.view.confidence, prediction.confidence[0, column], rtol=1e-3)


# --- What the network is asked ---


@pytest.mark.parametrize('name', ['r3', 'r3-odd'])
def test_relations_are_those_of_the_whole_clip_at_once(name):
    adapter, network, pictures = official(name), networks.shared_network(name), drawn(5)
    whole = network(tensor(pictures), causal=True)
    described = network.describe(tensor(pictures))
    for n, picture in enumerate(pictures):
        said = adapter.relate(n, picture, range(n))
        assert_relations(said, whole, list(range(n)), n)
        # Not of unit length: the mean of what a block gave.
        np.testing.assert_allclose(said.feature, described.descriptor[0, n], atol=1e-5)
    assert abs(np.linalg.norm(said.feature) - 1) > 0.1


def test_edges_are_in_the_order_of_the_memory_wherever_frames_lie():
    adapter, network, pictures = official(), networks.shared_network('r3'), drawn(8)
    kept, caches = [], {}
    for n, picture in enumerate(pictures):
        cached = FrameCache.join([caches[i] for i in kept]) if kept else None
        expected = network.predict(network.describe(tensor([picture])), cached)
        assert_relations(adapter.relate(n, picture, kept), expected, list(range(len(kept))))
        caches[n] = expected.cache
        kept = [i for i in (0, 2, 3, 5) if i < n] + [n]
        adapter.keep(kept)
    assert adapter._memory.resident and set(adapter._memory.resident) == {0, 2, 3, 5, 7}


def test_a_replay_sees_all_its_frames_and_changes_nothing_until_it_is_taken_over():
    adapter, network, pictures = official(), networks.shared_network('r3'), drawn(6)
    for n in range(4):
        adapter.relate(n, pictures[n], range(n))
    before = adapter.relate(4, pictures[4], [0, 1, 2, 3])
    adapter.keep([0, 1, 2, 3])
    replay = adapter.replay([1, 2, 3], pictures[1:4])
    whole = network(tensor(pictures[1:4]), causal=False)
    later = np.triu_indices(3, k=1)
    np.testing.assert_allclose(
        replay.rel[later][:, :3], whole.pairs.translation[0][later], atol=1e-4
    )
    np.testing.assert_allclose(
        replay.logits_t[later], whole.pairs.logit_translation[0][later], atol=1e-4
    )
    np.testing.assert_allclose(
        replay.logits_r[later], whole.pairs.logit_rotation[0][later], atol=1e-4
    )
    np.testing.assert_allclose(replay.rel[range(3), range(3), 7:], whole.fov[0], atol=1e-5)
    np.testing.assert_allclose([view.depth for view in replay.views], whole.depth[0], rtol=1e-3)
    assert replay.features.shape == (3, 128)
    again = adapter.relate(4, pictures[4], [0, 1, 2, 3])
    np.testing.assert_allclose(again.rel, before.rel, atol=1e-5)
    adapter.take_over([3, 1])
    assert set(adapter._memory.resident) == {1, 3}
    expected = network.predict(network.describe(tensor(pictures[5:])), whole.cache.select([0, 2]))
    assert_relations(adapter.relate(5, pictures[5], [1, 3]), expected, [0, 1])


def test_a_picture_of_no_use_leaves_no_trace():
    blind = networks.own_network('r3').requires_grad_(False)
    adapter = OfficialNetwork(blind, ModelInfo('r3'), ROOM, CPU)
    adapter.relate(0, drawn(1)[0], [])
    blind.cam_dec.fc_fov[0].bias.fill_(-100.0)
    with pytest.raises(FrameError, match='fields of view'):
        adapter.relate(1, drawn(1)[0], [0])
    blind.cam_dec.fc_rel_t.bias.fill_(np.nan)
    with pytest.raises(FrameError, match='not finite'):
        adapter.relate(1, drawn(1)[0], [0])
    with pytest.raises(ModelError, match='not finite'):
        adapter.replay([0, 1], drawn(2))
    assert set(adapter._memory.resident) == {0}


def test_too_small_a_room_is_told_with_what_it_takes():
    adapter, pictures = official(), drawn(4)
    adapter.relate(0, pictures[0], [])
    adapter = official(room=Room(3 * adapter._memory.entry_bytes, 2**26))
    for n in range(3):
        adapter.relate(n, pictures[n], range(n))
    with pytest.raises(ModelError, match='all of the 3 frames .* memory.max_gpu_mib'):
        adapter.relate(3, pictures[3], [0, 1, 2])


def test_metres_have_neither_focal_length_nor_a_hole_for_the_sky():
    network, pictures = networks.shared_network('metric'), drawn(3)
    answer = network(tensor(pictures)[0])
    sky = (answer.sky >= SKY_THRESHOLD).numpy()
    assert 0.05 < sky.mean() < 0.95
    metres = OfficialMetricDepth(network, CPU)(pictures)
    np.testing.assert_array_equal(metres[~sky], answer.depth.numpy()[~sky])
    np.testing.assert_allclose(
        metres[sky], np.quantile(answer.depth.numpy()[~sky], 0.99), rtol=1e-6
    )


# --- The engine ---


class Tabled(TableNetwork):
    """Answers from tables, whatever the picture."""

    metric = None

    def __init__(self, arrays):
        super().__init__(Tables(arrays))
        self.info = ModelInfo('r3')
        self.refusing = False

    def relate(self, frame, picture, memory):
        if self.refusing:
            raise FrameError('cannot be used')
        return super().relate(frame, frame, memory)

    def replay(self, frames, pictures):
        return super().replay(frames, frames)

    def close(self):
        self.closed = True


PICTURE = np.zeros((24, 32, 3), np.uint8)  # prepared, 112 x 154


def walk(count, **options):
    """Return tables of a walk along a slanted wall that comes nearer by and by."""
    arrays = street(count, **options)
    wall = np.broadcast_to(np.linspace(2.0, 2.2, 154), (112, 154))
    arrays['depth'] = wall - 0.01 * np.arange(count)[:, None, None]
    arrays['dconf'] = np.full(arrays['depth'].shape, 2.0)
    return arrays


def preset_of(monkeypatch, **options):
    monkeypatch.setitem(PRESETS, 'official_test', Preset('r3', StreamOptions(**options)))


def engine_on(arrays, **changes):
    settings = {
        'model.name': 'r3',
        'model.image_size': 154,
        'stream.preset': 'official_test',
        **changes,
    }
    return OfficialEngine(Tabled(arrays), updated(R3Config(), settings))


def run_all(engine, count):
    return [engine.step(Frame(PICTURE, n * 10**8)) for n in range(count)]


def test_poses_and_depths_are_given_out_as_cameras_in_the_world():
    arrays = walk(12)
    engine = engine_on(arrays)
    estimates = run_all(engine, 12)
    T_true = inverse(decode_pose(true_poses(arrays)[1:]))
    np.testing.assert_allclose([e.T_world_camera for e in estimates[1:]], T_true, atol=1e-9)
    assert {e.state for e in estimates} == {TrackingState.TRACKING}
    for n, estimate in enumerate(estimates):
        (depth_map,) = estimate.depths
        np.testing.assert_allclose(depth_map.depth, arrays['depth'][n], rtol=1e-6)
        np.testing.assert_allclose(depth_map.intrinsics.K, intrinsics_from_fov(*FOV, 154, 112).K)
        assert estimate.context_ids == tuple(range(n)) and estimate.is_keyframe
    assert np.isnan(estimates[0].confidence_ratio) and 0.9 < estimates[9].confidence_ratio < 1.1
    view = engine.session.trajectory_view()
    np.testing.assert_allclose(view.T_final, view.T_emitted)
    assert len(engine.session.map_view().cloud()) > 100
    engine.close()
    assert engine.predictor.closed


def test_the_final_trajectory_has_the_poses_of_the_next_segment(monkeypatch):
    # The next segment is off by a little, so that the frames it shares with the last one move.
    arrays = walk(30)
    arrays['rel'] = arrays['rel'] + np.random.default_rng(0).normal(0, 0.01, arrays['rel'].shape)
    fallback = FallbackOptions(max_segment_frames=10, min_segment_frames=5, bridge_frames=4)
    preset_of(monkeypatch, fallback=fallback)
    arrays['seg_scale'] = np.array([1.0, 0.5, 2.0, 1.0])
    engine = engine_on(arrays)
    estimates = run_all(engine, 30)
    ends = [e for e in estimates if 'the next begins' in e.reason]
    assert [e.frame_id for e in ends] == [9, 19, 29]
    assert 'after 10 frames, the next begins at frame 6' in ends[0].reason
    assert engine.session.segment_id == 3 == estimates[-1].segment_id
    assert {7, 8, 9} <= set(ends[0].corrected) and 5 not in ends[0].corrected
    view = engine.session.trajectory_view()
    np.testing.assert_allclose(view.T_emitted, [e.T_world_camera for e in estimates])
    for frame_id, pose in engine.loop.segment.poses.items():
        np.testing.assert_allclose(view.T_final[frame_id], inverse(decode_pose(pose)), atol=1e-9)
    moved = np.abs(view.T_final - view.T_emitted).max(axis=(1, 2)) > 1e-6
    assert moved[7] and not moved[:6].any()


def test_keyframes_leave_as_theirs_do_and_their_points_stay(monkeypatch):
    arrays = walk(40)
    bank = replace(StreamOptions().bank, max_keyframes=3, novelty=0.99)
    preset_of(monkeypatch, cache=CacheOptions(CacheMode.DYNAMIC), bank=bank)
    engine = engine_on(arrays)
    estimates = run_all(engine, 40)
    keyframes = [e.frame_id for e in estimates if e.is_keyframe]
    evicted = [i for e in estimates for i in e.evicted]
    assert len(keyframes) > 6 and evicted == keyframes[:-3]
    view = engine.session.trajectory_view()
    assert list(np.flatnonzero(view.is_keyframe)) == keyframes
    centre = view.T_emitted[keyframes[0], :3, 3]
    nearest = np.linalg.norm(engine.session.map_view().cloud().points - centre, axis=1).min()
    assert nearest < 3.2
    assert len(view.T_final) == 40 and np.isfinite(view.T_final).all()


def test_a_frame_that_their_gate_refuses_has_no_pose_and_no_depth(monkeypatch):
    preset_of(monkeypatch, gate=GateOptions(percent=50))
    engine = engine_on(walk(120, logit_per_frame=0.06))
    estimates = run_all(engine, 120)
    last = estimates[-1]
    assert last.T_world_camera is None and last.depths == () and not last.is_keyframe
    assert last.state is TrackingState.LOW_CONFIDENCE and 'refused' in last.reason
    view = engine.session.trajectory_view()
    known = np.isfinite(view.T_final[:, 0, 0])
    assert list(known) == [e.T_world_camera is not None for e in estimates]


def test_a_picture_that_cannot_be_used_has_no_number():
    engine = engine_on(walk(4))
    engine.step(Frame(PICTURE, 0))
    engine.predictor.refusing = True
    for bad in (PICTURE, PICTURE[..., 0]):
        with pytest.raises(FrameError):
            engine.step(Frame(bad, 10**8))
    engine.predictor.refusing = False
    estimate = engine.step(Frame(PICTURE, 2 * 10**8))
    assert estimate.frame_id == 1 and estimate.context_ids == (0,)
    assert len(engine.session.trajectory_view().frame_ids) == 2


# --- From the command line ---


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Write small networks under the names of published weights."""
    folder = tmp_path_factory.mktemp('weights')
    save_network(lively(), folder / 'r3.safetensors')
    save_network(networks.shared_network('metric'), folder / 'da3metric-large.safetensors')
    return folder


@pytest.fixture
def weights(files, tmp_path, monkeypatch):
    """Put them where the published weights would be."""
    monkeypatch.setenv('R3_ROS_WEIGHTS', str(files))
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setitem(VARIANTS, 'da3metric-large', networks.CONFIGS['metric'])
    return files


def run_preset(preset, recording, output):
    settings = [f'stream.preset={preset}', 'model.image_size=154', 'memory.max_gpu_mib=256']
    options = [option for setting in settings for option in ('--set', setting)]
    command = ['run', str(recording), '-o', str(output), '--model', 'r3', '--save-depth']
    assert main([*command, *options]) == 0


@pytest.mark.parametrize('preset', sorted(PRESETS))
def test_presets_run_from_end_to_end(preset, weights, tmp_path):
    recording = write_folder(tmp_path / 'seq', count=6)
    run_preset(preset, recording, tmp_path / 'out')
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['frames']['processed'] == summary['frames']['with_pose'] == 6
    assert summary['config']['stream.preset'] == preset and summary['segments'] == 1
    assert (tmp_path / 'out' / 'report.html').exists()
    assert len(list((tmp_path / 'out' / 'depth').glob('*.npz'))) == 6
    # The same by hand.
    settings = {'model.name': 'r3', 'stream.preset': preset, 'model.image_size': 154}
    engine = load_engine(updated(R3Config(), settings))
    metres = PRESETS[preset].stream.metric is not None
    assert (engine.predictor.metric is not None) == metres
    loop = Loop(engine.predictor, PRESETS[preset].stream, engine.predictor.metric)
    steps = []
    for path in sorted((recording / 'rgb').glob('*.png')):
        image = cv2.imread(str(path))[..., ::-1]
        steps.append(loop.step(prepare_r3(image, R3Rule(154)).pixels.copy()))
    written = read_tum(tmp_path / 'out' / 'trajectory.tum')
    expected = inverse(decode_pose(np.stack([step.pose for step in steps])))
    np.testing.assert_allclose(written.T_world_camera, expected, atol=1e-4)
    saved = np.load(tmp_path / 'out' / 'depth' / '000005.npz')
    np.testing.assert_allclose(saved['depth'], steps[5].depth, rtol=1e-3)
    if metres:
        assert loop.segment.scale != 1.0
        raw = steps[5].depth / loop.segment.scale
        assert abs(np.median(raw) / np.median(saved['depth']) - 1) > 1e-3


def test_the_scale_needs_the_metric_network(weights, tmp_path, capsys, monkeypatch):
    (tmp_path / 'weights').mkdir()
    (tmp_path / 'weights' / 'r3.safetensors').symlink_to(weights / 'r3.safetensors')
    monkeypatch.setenv('R3_ROS_WEIGHTS', str(tmp_path / 'weights'))
    recording = write_folder(tmp_path / 'seq', count=2)
    command = ['run', str(recording), '-o', str(tmp_path / 'out'), '--model', 'r3']
    assert main([*command, '--set', 'stream.preset=official_long']) == 2
    said = capsys.readouterr().err
    assert 'r3 weights get da3metric-large' in said and 'takes its scale from them' in said


def test_presets_are_named_once():
    assert set(PRESET_NAMES) == {OWN_PRESET, *PRESETS}
    assert R3Config().stream.preset == OWN_PRESET


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'model.name': 'classical'}, 'needs the R3 network'),
        ({'model.depth': False}, 'needs depth'),
        ({'stream.preset': 'official'}, 'allowed: one of r3_ros, official_test'),
    ],
)
def test_what_cannot_work_is_refused(changes, message):
    settings = {'model.name': 'r3', 'stream.preset': 'official_local', **changes}
    with pytest.raises(ConfigError, match=message):
        updated(R3Config(), settings)


def test_full_context_is_no_preset():
    settings = {'model.name': 'r3', 'stream.preset': 'official_local'}
    with pytest.raises(ConfigError, match='without --mode offline'):
        load_window_predictor(updated(R3Config(), settings))


@pytest.mark.ros
def test_the_node_takes_no_preset(graph, capfd):
    g = graph(model__name='r3', stream__preset='official_local')
    assert not g.node.autostart()
    assert 'is for recorded streams' in capfd.readouterr().err
