"""Networks of several views in a stream: poses from passes with units of their own, checked."""

from dataclasses import replace

from lively_network import frame, lively
import networks
import numpy as np
import pytest
from r3_ros.core.config import MemoryConfig, ModelConfig, MULTI_VIEW_NAMES, R3Config
from r3_ros.core.datatypes import Frame, KnownKeyframe, ModelInfo, TrackingState
from r3_ros.core.errors import FrameError, ModelError
from r3_ros.core.geometry import inverse, T_from_quat
from r3_ros.core.parameter_fields import updated
from r3_ros.core.trajectory_file import PoseList
from r3_ros.evaluation.trajectory_errors import evaluate_trajectory
from r3_ros.model.building import build_network
from r3_ros.model.cache.frame_memory import CacheBudget
from r3_ros.model.loading import load_streaming
from r3_ros.model.multi_view import FrameFeatures, MultiViewNetwork
from r3_ros.model.multi_view_predictor import MultiViewPredictor, spread_out
from r3_ros.model.variants import VARIANTS
from r3_ros.model.view_agreement import agreement
from r3_ros.model.weights.catalogue import CATALOGUE, local_path, model_weights
from r3_ros.model.weights.checkpoint import save_network
from r3_ros.streaming.engine import Engine
from scripted_views import (
    from_first,
    HEIGHT,
    K,
    numbered_frames,
    room_walk,
    ScriptedViews,
    ViewScript,
    WIDTH,
)
import torch

NOISE = {'noise': (0.003, 0.002), 'depth_noise': 0.03}
CONFIG = {'model.name': 'da3_small', 'map.enabled': False}
MIB = 2**20


def predictor_for(network, budget=None, **config):
    return MultiViewPredictor(
        network,
        ModelInfo('scripted'),
        ModelConfig(name='da3_small', **config),
        budget or CacheBudget(MIB, 64 * MIB),
        torch.device('cpu'),
    )


def stream(script, config=None, budget=None, calibrated=True):
    """Return the engine after the walk, and its estimates."""
    engine = Engine(
        predictor_for(ScriptedViews(script), budget), updated(R3Config(), CONFIG | (config or {}))
    )
    count = len(script.T_world_camera)
    try:
        estimates = [engine.step(image) for image in numbered_frames(count, calibrated)]
        engine.drain()
    finally:
        engine.close()
    return engine, estimates


def error_share(script, poses, rows=None):
    """Return the error of poses after a similarity alignment, over the length of the walk."""
    truth = from_first(script.T_world_camera)
    rows = np.arange(len(truth)) if rows is None else np.array(rows)
    stamps_ns = rows.astype(np.int64) + 1
    found = evaluate_trajectory(
        PoseList(stamps_ns, np.asarray(poses)), PoseList(stamps_ns, truth[rows])
    )
    return found.ate_rmse_m / np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1).sum()


def confident(estimates):
    """Return the estimates whose pose is claimed."""
    return [e for e in estimates if e.state.is_tracked and e.T_world_camera is not None]


@pytest.mark.parametrize('calibrated', [True, False])
def test_passes_with_units_of_their_own_make_one_trajectory(calibrated):
    script = ViewScript(room_walk(50), **NOISE)
    engine, estimates = stream(script, calibrated=calibrated)
    assert len(confident(estimates)) == 47  # the first three have no one to confirm them
    assert error_share(script, [e.T_world_camera for e in estimates]) < 0.01
    network = engine.predictor._network
    assert network.encoded == list(range(50))  # each frame once
    assert max(map(len, network.passes)) == 8
    last = estimates[-1]
    assert last.intrinsics.fx == pytest.approx(K.fx, rel=1e-3)
    assert last.intrinsics_estimated is not calibrated


def test_depth_is_in_the_unit_of_the_map():
    script = ViewScript(room_walk(20))
    engine, estimates = stream(script)
    true_depth = engine.predictor._network._true_depth
    ratios = [np.median(e.depths[0].depth / true_depth(e.frame_id)) for e in estimates]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-3)


def test_a_loop_is_closed():
    walk = room_walk(125, per_loop=100)
    script = ViewScript(walk, noise=(0.001, 0.001), bend=0.002)
    (closed, _), (opened, _) = (
        stream(script, {'loop.enabled': enabled}) for enabled in (True, False)
    )
    assert closed.session.loops_closed
    ends = [error_share(script, e.session.trajectory_view().T_final) for e in (closed, opened)]
    assert ends[0] < 0.001 < 0.005 < ends[1]


def test_no_pose_is_claimed_from_a_wrong_pass():
    wrong = {'wrong_poses': {1, 20, 33, 34}, 'wrong_depth': {2, 26, 40}, 'strangers': {45, 46}}
    script = ViewScript(room_walk(60), **NOISE, **wrong)
    _, estimates = stream(script)
    bad = set().union(*wrong.values())
    claimed = confident(estimates)
    rows = [e.frame_id for e in claimed]
    assert not bad.intersection(rows) and len(rows) >= 60 - len(bad) - 3
    assert error_share(script, [e.T_world_camera for e in claimed], rows) < 0.01
    # What the first passes got wrong is put right.
    assert {1, 2}.intersection(*(e.corrected for e in estimates if e.corrected))


def test_a_frame_of_a_wrong_pass_is_put_where_the_next_pass_has_it():
    predictor = predictor_for(ScriptedViews(ViewScript(room_walk(9), wrong_poses={6})))
    for n, image in enumerate(numbered_frames(9)):
        prediction = predictor.predict(replace(image, frame_id=n), range(max(0, n - 6), n))
    # The wrong one, and that after it, would agree with no other if the error were kept.
    assert [edge.source_id for edge in prediction.edges] == [2, 3, 4, 5, 6, 7]
    assert min(edge.confidence_translation for edge in prediction.edges) > 0.5


def test_a_good_pass_confirms_only_frames_that_fit_in_it():
    predictor = predictor_for(ScriptedViews(ViewScript(room_walk(9), strangers={1})))
    refined, settled = [], {}
    for n, image in enumerate(numbered_frames(9)):
        prediction = predictor.predict(replace(image, frame_id=n), range(n))
        refined += prediction.refined
        settled[n] = prediction.settled
    assert [n for n, held in predictor._held.items() if not held.confirmed] == [1]
    assert {(edge.source_id, edge.target_id) for edge in refined} == {(0, 2), (0, 3), (0, 4)}
    assert [ids for ids in settled.values() if ids] == [(0, 2, 3, 4)]


def test_a_network_that_understands_nothing_is_never_believed():
    """What it says of two images is the same in every pass, so that its poses agree."""
    script = ViewScript(room_walk(40))
    network = ScriptedViews(script)
    network._depth = lambda n: np.random.default_rng(n).uniform(0.5, 5.0, (HEIGHT, WIDTH))
    engine = Engine(predictor_for(network), updated(R3Config(), CONFIG))
    estimates = [engine.step(image) for image in numbered_frames(40)]
    engine.close()
    assert not confident(estimates)
    assert {e.state for e in estimates} == {TrackingState.INITIALIZING}
    assert len(engine.session.bank) == 1


def test_agreement_that_nothing_moves_is_no_start():
    """Any network says so of images that are nearly the same."""
    walk = room_walk(40)
    still = np.concatenate([np.repeat(walk[:1], 12, axis=0), walk])
    _, estimates = stream(ViewScript(still, **NOISE))
    assert {e.state for e in estimates[:13]} == {TrackingState.INITIALIZING}
    rows = [e.frame_id for e in confident(estimates)]
    assert rows == list(range(rows[0], len(still))) and rows[0] <= 18


def test_memory_is_bounded_and_what_was_dropped_is_encoded_again():
    network = ScriptedViews(ViewScript(room_walk(13)))
    frames = [replace(image, frame_id=n) for n, image in enumerate(numbered_frames(13))]
    entry = network.encode(torch.zeros(1, 3, HEIGHT, WIDTH, dtype=torch.uint8)).nbytes
    budget = CacheBudget(4 * entry, 12 * frames[0].image.nbytes)
    predictor = predictor_for(network, budget, context_frames=2)
    network.encoded.clear()
    for n in range(12):
        predictor.predict(frames[n], [0, n - 1] if n > 1 else range(n))
    assert network.encoded == list(range(12)) and predictor.capacity == 12
    predictor.predict(frames[12], [3, 4])
    assert network.encoded[12:] == [12, 4, 3]
    assert len(predictor._features._on_device) <= 4
    with pytest.raises(ModelError, match='context frames and the new one'):
        few = predictor_for(network, budget, context_frames=5)
        for n in range(6):
            few.predict(frames[n], range(n))


def test_an_image_encoded_again_takes_the_place_of_no_other_context_frame():
    network = ScriptedViews(ViewScript(room_walk(6)))
    entry = network.encode(torch.zeros(1, 3, HEIGHT, WIDTH, dtype=torch.uint8)).nbytes
    frames = [replace(image, frame_id=n) for n, image in enumerate(numbered_frames(6))]
    budget = CacheBudget(3 * entry, 5 * frames[0].image.nbytes)
    predictor = predictor_for(network, budget, context_frames=2)
    network.encoded.clear()
    for n in range(5):
        predictor.predict(frames[n], range(n)[-1:])
    predictor.predict(frames[5], [0, 2])  # 0 was dropped, and 2 is the least recently used
    assert network.encoded == [*range(5), 5, 0]


def test_only_held_frames_take_memory():
    predictor = predictor_for(ScriptedViews(ViewScript(room_walk(8))))
    for n, image in enumerate(numbered_frames(8)):
        predictor.predict(replace(image, frame_id=n), range(max(0, n - 2), n))
        predictor.forget([n - 2])
    assert len(predictor._features) == len(predictor._held) == 2
    predictor.close()
    assert not len(predictor._features) and not predictor._held


def test_frames_of_a_saved_map_give_poses_in_its_unit():
    truth = 3.0 * room_walk(30)
    truth[:, :3, :3] /= 3.0
    truth[:, 3, 3] = 1.0
    predictor = predictor_for(ScriptedViews(ViewScript(room_walk(30))))
    images = list(numbered_frames(30))
    known = [
        KnownKeyframe(n, 0, images[n].image, K, truth[n], np.zeros(64, np.float32))
        for n in range(0, 24, 4)
    ]
    predictor.restore(known, None)
    prediction = predictor.predict(replace(images[22], frame_id=100), [k.frame_id for k in known])
    assert not prediction.provisional
    for edge in prediction.edges:
        T = inverse(truth[edge.source_id]) @ truth[22]
        np.testing.assert_allclose(edge.T_source_target, T, atol=0.01)
        assert edge.confidence_translation > 0.5


def test_a_frame_that_cannot_be_used_leaves_no_trace():
    network = ScriptedViews(ViewScript(room_walk(9)))
    predictor = predictor_for(network)
    frames = [replace(image, frame_id=n) for n, image in enumerate(numbered_frames(9))]
    for n in range(5):
        predictor.predict(frames[n], range(n))
    network.script.T_world_camera[5] = np.nan
    with pytest.raises(FrameError, match='not finite'):
        predictor.predict(frames[5], range(5))
    network.geometry = lambda width, height, image_size: pytest.fail('of another size')
    with pytest.raises(FrameError, match='must be an array'):
        predictor.describe(Frame(frames[6].image.astype(float), 0, K, 6))
    assert len(predictor._held) == len(predictor._features) == 5
    # A held frame without a pose in a pass gets no edge, and the others do.
    network.script.T_world_camera[2] = np.nan
    prediction = predictor.predict(frames[7], range(5))
    assert [edge.source_id for edge in prediction.edges] == [0, 1, 3, 4]
    assert min(edge.confidence_translation for edge in prediction.edges) > 0.5


def test_images_of_another_size_are_refused():
    predictor = predictor_for(networks.shared_network('da3'), image_size=112)
    predictor.predict(frame(0, None), [])
    tall = Frame(np.ascontiguousarray(frame(1).image[:, :100]), 1, None, 1)
    with pytest.raises(FrameError, match='shape of the images'):
        predictor.predict(tall, [0])


def test_others_than_the_newest_take_turns():
    ids = list(range(10, 27))
    chosen = [spread_out(ids, 7, turn) for turn in range(12)]
    assert all(len(set(c)) == 7 and c == sorted(c) and c[-1] == 26 for c in chosen)
    assert set().union(*map(set, chosen)) == set(ids)
    assert max(np.diff(c).max() for c in chosen) <= 6
    assert spread_out(ids[:3], 7, 5) == ids[:3] and spread_out([], 7, 5) == []


def test_groups_that_drift_has_parted_agree_each_within_itself():
    T = room_walk(40)[::5]
    seen = T.copy()
    seen[:, :3, 3] /= 2.0
    held = T.copy()
    held[:4] = from_first(T)[1] @ held[:4]  # the older half is elsewhere
    held[7, :3, 3] += 0.3  # and one frame where no other has it
    found = agreement(held, seen, np.full(8, 2.0), 2.0)
    assert (found.errors[:7] < 0.1).all() and found.errors[7] > 2.0
    assert found.evidence[0] < 1e-6 and found.evidence[1] < 1e-6 and found.moved
    assert not agreement(held[[0, 0, 0]], seen[[0, 0, 0]], np.full(3, 2.0), 2.0).moved
    assert np.isinf(agreement(held[:2], seen[:2], np.ones(2), 2.0).errors).all()
    assert agreement(held[:1], seen[:1], np.ones(1), 2.0).evidence is None


# --- Depth Anything 3 ---


def test_features_are_cached_one_by_one_and_related_together():
    network = networks.shared_network('da3')
    images = (255 * networks.sample_images(4)).to(torch.uint8)
    with torch.inference_mode():
        whole = network(images)
        views = network.relate(FrameFeatures.join([network.encode(im[None]) for im in images[0]]))
    encodings = whole.encodings[0].double().numpy()
    expected = T_from_quat(encodings[:, :3], encodings[:, 3:7])
    np.testing.assert_allclose(views.T_world_camera, expected, atol=1e-5)
    torch.testing.assert_close(views.fov, whole.encodings[0, :, 7:])
    torch.testing.assert_close(views.depth, whole.depth[0])
    torch.testing.assert_close(views.confidence, whole.confidence[0])


@pytest.mark.parametrize('name', MULTI_VIEW_NAMES)
def test_every_name_has_weights_for_a_network_of_several_views(name):
    weights = CATALOGUE[model_weights(name)[0]]
    assert 'old' not in weights.purpose
    with torch.device('meta'):
        network = build_network(VARIANTS[weights.variant])
    images = torch.zeros(2, 3, 56, 112, dtype=torch.uint8, device='meta')
    with torch.inference_mode():
        views = network.relate(network.encode(images))
    assert isinstance(network, MultiViewNetwork)
    assert views.depth.shape == views.confidence.shape == (2, 56, 112)
    assert views.T_world_camera.shape == (2, 4, 4) and views.fov.shape == (2, 2)


def test_weights_by_the_name_of_the_model(tmp_path, monkeypatch):
    monkeypatch.setenv('R3_ROS_WEIGHTS', str(tmp_path))
    monkeypatch.setenv('HF_HOME', str(tmp_path))
    config = ModelConfig(name='da3_small', image_size=112)
    with pytest.raises(ModelError, match='r3 weights get da3.small'):
        load_streaming(config, MemoryConfig())
    with pytest.raises(ModelError, match=r'weights vggt are not.* or fetch vggt_commercial'):
        load_streaming(ModelConfig(name='vggt'), MemoryConfig())
    save_network(lively('da3-small'), local_path(model_weights('da3_small')[0]))
    predictor = load_streaming(config, MemoryConfig())
    prediction = predictor.predict(frame(0), [])
    assert predictor.info.name == 'da3_small'
    assert prediction.depths[0].depth.shape == (70, 112)
