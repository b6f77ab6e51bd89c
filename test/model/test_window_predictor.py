"""Networks with full context: answers are the network's, and what a pass takes is known before."""

from lively_network import frame, lively
import networks
import numpy as np
from peak_memory import PeakMemory
import pytest
from r3_ros.core.config import ModelConfig, R3Config
from r3_ros.core.datatypes import ModelInfo
from r3_ros.core.errors import ConfigError, FrameError, ModelError
from r3_ros.core.geometry import T_from_quat
from r3_ros.core.parameter_fields import updated
from r3_ros.factory import load_window_predictor
from r3_ros.model.building import build_network
from r3_ros.model.pass_memory import pass_bytes
from r3_ros.model.variants import VARIANTS
from r3_ros.model.weights.checkpoint import save_network
from r3_ros.model.window_predictor import NetworkWindowPredictor
from scripted_views import numbered_frames, room_walk, ScriptedViews, ViewScript
import torch

CONFIG = ModelConfig(name='r3', image_size=154)
MIB = 2**20


def window_predictor(network, memory_mib=4096, config=CONFIG):
    return NetworkWindowPredictor(
        network, ModelInfo('r3'), config, memory_mib * MIB, torch.device('cpu')
    )


@pytest.fixture(scope='module')
def predictor():
    return window_predictor(networks.shared_network('r3'))


@pytest.fixture(scope='module')
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (42, 70, 3), dtype=np.uint8) for _ in range(4)]


def test_its_answer_is_that_of_the_network_with_full_context(predictor, images):
    tensor = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)[None]
    expected = networks.shared_network('r3')(tensor, causal=False)
    found = predictor.predict(images)
    np.testing.assert_allclose(found.depth, expected.depth[0], rtol=1e-5)
    np.testing.assert_allclose(found.confidence, expected.confidence[0], rtol=1e-5)
    np.testing.assert_allclose(found.fov, expected.fov[0], rtol=1e-5)
    off_diagonal = ~np.eye(4, dtype=bool)
    np.testing.assert_array_equal(found.predicted, off_diagonal)
    pairs = expected.pairs
    translation = pairs.translation[0].numpy()
    np.testing.assert_allclose(
        found.relative[off_diagonal, :3], translation[off_diagonal], rtol=1e-4, atol=1e-5
    )
    quaternion = torch.nn.functional.normalize(pairs.quaternion[0], dim=-1).numpy()
    np.testing.assert_allclose(
        found.relative[off_diagonal, 3:], quaternion[off_diagonal], atol=1e-5
    )
    np.testing.assert_allclose(
        found.logits[..., 0][off_diagonal], pairs.logit_translation[0][off_diagonal], atol=1e-4
    )
    np.testing.assert_allclose(
        found.logits[..., 1][off_diagonal], pairs.logit_rotation[0][off_diagonal], atol=1e-4
    )
    assert np.isnan(found.relative[~off_diagonal]).all()


def test_only_the_reference_is_special_the_others_may_come_in_any_order(predictor, images):
    order = [0, 3, 1, 2]
    found = predictor.predict(images)
    other = predictor.predict([images[n] for n in order])
    np.testing.assert_allclose(other.depth, found.depth[order], rtol=1e-4)
    np.testing.assert_allclose(
        other.relative, found.relative[np.ix_(order, order)], rtol=1e-3, atol=1e-4
    )


def test_a_network_of_several_views_relates_a_window(images):
    network = networks.shared_network('da3')
    found = window_predictor(network).predict(images)
    tensor = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        views = network.relate(network.encode(tensor))
    np.testing.assert_allclose(found.depth, views.depth, rtol=1e-5)
    assert not found.predicted.any()  # these weights understand nothing
    assert np.isnan(found.relative).all() and np.isfinite(found.logits).all()
    without = window_predictor(network, config=ModelConfig(image_size=154, depth=False))
    assert without.predict(images).depth is None
    assert without.most_frames(154, 112) == window_predictor(network).most_frames(154, 112) > 0
    assert np.linalg.norm(without.describe(images[0])) == pytest.approx(1.0)


def test_images_of_one_surface_are_related():
    network = ScriptedViews(ViewScript(room_walk(30)))
    T = network.script.T_world_camera
    found = window_predictor(network).predict([f.image for f in numbered_frames(4)])
    np.testing.assert_array_equal(found.predicted, ~np.eye(4, dtype=bool))
    assert (np.logaddexp(0.0, found.logits[found.predicted]) > 0.5).all()
    T_2_1 = T_from_quat(found.relative[1, 2, :3], found.relative[1, 2, 3:])
    expected = np.linalg.inv(T[2]) @ T[1]
    np.testing.assert_allclose(T_2_1[:3, :3], expected[:3, :3], atol=1e-5)
    unit = np.median(found.depth[0] / network._true_depth(0))
    np.testing.assert_allclose(T_2_1[:3, 3], unit * expected[:3, 3], atol=1e-5)


def test_an_image_without_a_pose_is_related_to_none(monkeypatch):
    network = ScriptedViews(ViewScript(room_walk(30)))
    relate = network.relate

    def without_second(features):
        views = relate(features)
        views.T_world_camera[1] = torch.nan
        return views

    monkeypatch.setattr(network, 'relate', without_second)
    found = window_predictor(network).predict([f.image for f in numbered_frames(4)])
    others = np.array([0, 2, 3])
    assert not found.predicted[1].any() and not found.predicted[:, 1].any()
    assert found.predicted[np.ix_(others, others)].sum() == 6
    assert np.isnan(found.relative[1]).all() and np.isfinite(found.depth).all()


def test_descriptors_have_unit_length(predictor, images):
    lengths = [np.linalg.norm(predictor.describe(image)) for image in images]
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-5)


def test_one_image_has_depth_and_no_pairs(predictor, images):
    found = predictor.predict(images[:1])
    assert found.depth.shape == (1, 42, 70) and not found.predicted.any()


def test_depth_can_be_left_out(images):
    quick = window_predictor(
        networks.shared_network('r3'), config=ModelConfig(image_size=154, depth=False)
    )
    found = quick.predict(images)
    assert found.depth is None and found.confidence is None and found.predicted.any()


def test_images_of_two_sizes_are_refused(predictor, images):
    with pytest.raises(FrameError, match='one size'):
        predictor.predict([images[0], images[1][:28]])


@pytest.mark.parametrize('broken', ['cam_dec.fc_rel_t.bias', 'backbone.pos_embed'])
def test_answers_that_are_not_finite_are_an_error(images, broken):
    network = networks.own_network('r3').requires_grad_(False)
    network.get_parameter(broken).fill_(torch.nan)
    with pytest.raises(ModelError, match='finite.*precision fp32'):
        window_predictor(network).predict(images)


def test_pixels_and_intrinsics_are_prepared_as_in_a_stream(predictor):
    geometry = predictor.geometry(640, 480)
    assert (geometry.width, geometry.height) == (154, 112)
    assert predictor.geometry(480, 480).height == 154


# --- Memory ---


@pytest.mark.slow
@pytest.mark.parametrize('variant', ['r3-tiny', 'r3-small'])
@pytest.mark.parametrize('depth', [True, False])
@pytest.mark.parametrize('frames', [4, 8])
def test_what_a_pass_takes_is_known_before(variant, depth, frames):
    network = build_network(VARIANTS[variant]).eval().requires_grad_(False)
    images = torch.zeros(1, frames, 3, 112, 154, dtype=torch.uint8)
    with torch.inference_mode(), PeakMemory() as peak:
        network(images, depth=depth)
    known = pass_bytes(network.config, 8, 11, frames, 4, depth)
    assert peak.peak <= known < 1.6 * peak.peak


def test_the_budget_bounds_the_frames_of_a_pass():
    network = networks.shared_network('r3')
    few, many = (window_predictor(network, mib).most_frames(154, 112) for mib in (48, 96))
    assert 0 < few < many
    taken = pass_bytes(network.config, 8, 11, many, 4, True)
    assert taken <= 96 * MIB < pass_bytes(network.config, 8, 11, many + 1, 4, True)
    assert window_predictor(network, 1).most_frames(154, 112) == 0
    no_depth = ModelConfig(image_size=154, depth=False)
    assert window_predictor(network, 48, no_depth).most_frames(154, 112) > few


def test_the_default_budget_holds_a_training_window_of_the_released_network():
    offline = R3Config().offline
    for element_bytes in (2, 4):
        taken = pass_bytes(
            VARIANTS['r3-large'], 20, 36, offline.window_frames, element_bytes, True
        )
        assert taken <= offline.max_memory_mib * MIB


# --- Loading ---


def test_a_file_of_weights_becomes_a_predictor_of_windows(tmp_path):
    network = lively('r3-tiny')
    save_network(network, tmp_path / 'weights.safetensors')
    changes = {
        'model.name': 'r3',
        'model.checkpoint': str(tmp_path / 'weights.safetensors'),
        'model.image_size': 154,
        'model.device': 'cpu',
    }
    loaded = load_window_predictor(updated(R3Config(), changes))
    assert loaded.info.precision == 'fp32' and len(loaded.info.checkpoint_sha256) == 64
    inputs = [loaded.geometry(168, 112).apply(frame(n).image) for n in range(2)]
    np.testing.assert_allclose(
        loaded.predict(inputs).depth, window_predictor(network).predict(inputs).depth, rtol=1e-4
    )
    loaded.close()


def test_the_classical_predictor_has_no_full_context():
    with pytest.raises(ConfigError, match='needs a network.*--model r3'):
        load_window_predictor(R3Config())


def test_a_window_must_hold_more_than_it_shares():
    with pytest.raises(ConfigError, match='offline.window_frames.*not above'):
        updated(R3Config(), {'offline.window_frames': 8, 'offline.overlap_frames': 8})
    updated(R3Config(), {'offline.window_frames': 0})
