"""VGGT and LingBot-Map: results of the authors' code, names of parameters, what frames see."""

from dataclasses import replace
import json

from networks import own_network, shared_network
import numpy as np
from paths import ROOT
from peak_memory import PeakMemory
from PIL import Image
import pytest
from r3_ros.core.errors import CheckpointError, FrameError
from r3_ros.model import vggt
from r3_ros.model.building import build_network
from r3_ros.model.multi_view import FrameFeatures
from r3_ros.model.variants import VARIANTS
from r3_ros.model.weights import checkpoint
from r3_ros.model.weights.checkpoint import load_network, official_name, save_network
import torch

from tools.parity.runner import Runner

DATA = ROOT / 'tools' / 'parity' / 'data'
NETWORKS = ['vggt', 'lingbot-map']
#: Worst differences from the authors' code in float32: of the logarithm of depth, of points in
#: parts of their spread, of poses.
ALLOWED = {'depth': 1e-5, 'points': 2e-5, 'poses': 5e-6, 'backbone': 1e-5}


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def images(frames=3, rows=3, columns=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(
        256, (frames, 3, 14 * rows, 14 * columns), dtype=torch.uint8, generator=generator
    )


def manifest(name):
    return json.loads((DATA / f'manifest-{name}.json').read_text())


# --- As the authors' code ---


@pytest.mark.parametrize('name', NETWORKS)
def test_results_are_those_of_the_authors_code(name):
    result = Runner(DATA, 'fp32', 'cpu').run(DATA / f'golden-{name}-small-portrait2.npz')
    assert result.passed, (result.problem, [a.name for a in result.arrays if not a.passed])
    for array in result.arrays:
        worst = array.difference.worst
        assert worst <= ALLOWED.get(array.quantity.value, 1e-4), (array.name, worst)


@pytest.mark.slow
@pytest.mark.parametrize('file', ['eps1', 'landscape4'])
@pytest.mark.parametrize('name', NETWORKS)
def test_other_inputs_agree_with_the_authors_code_too(name, file):
    result = Runner(DATA, 'fp32', 'cpu').run(DATA / f'golden-{name}-small-{file}.npz')
    assert result.passed, (result.problem, [a.name for a in result.arrays if not a.passed])


@pytest.mark.slow
def test_bfloat16_keeps_to_its_bounds():
    result = Runner(DATA, 'bf16', 'cpu').run(DATA / 'golden-vggt-small-eps1.npz')
    assert result.passed, (result.problem, [a.name for a in result.arrays if not a.passed])
    depth = next(a for a in result.arrays if a.name == 'views1.depth')
    assert depth.difference.worst > 1e-4  # it is not float32


@pytest.mark.parametrize('name', NETWORKS)
def test_names_and_shapes_in_full_size_are_the_official_ones(name):
    with torch.device('meta'):
        state = build_network(VARIANTS[name]).state_dict()
    ours = {official_name(key): list(tensor.shape) for key, tensor in state.items()}
    official = manifest(name)
    del official['aggregator.patch_embed.mask_token']  # of training, used by no output
    assert ours == official


# --- Loading ---


@pytest.mark.parametrize('name', NETWORKS)
def test_a_released_file_is_recognised_and_what_is_left_out_is_said(name):
    shapes = {key: tuple(shape) for key, shape in manifest(name).items()}
    extra = {'track_head.a.weight': (2, 2), 'track_head.b': (3,)}
    found, match = checkpoint._identify(shapes | extra, None)
    assert found == name
    assert match.notes == [
        'ignored 1 tensors aggregator.patch_embed.mask_token',
        'ignored 2 tensors track_head.*',
    ]


def test_a_file_of_vggt_must_be_complete():
    shapes = {key: tuple(shape) for key, shape in manifest('vggt').items()}
    del shapes['point_head.norm.weight']
    with pytest.raises(checkpoint._Unusable, match=r'1 missing: point_head\.norm\.weight'):
        checkpoint._identify(shapes, 'vggt')
    shapes |= {'point_head.norm.weight': (2048,), 'depth_head.more': (1,)}
    with pytest.raises(checkpoint._Unusable, match=r'1 unexpected: depth_head\.more'):
        checkpoint._identify(shapes, None)


def test_points_of_lingbot_map_are_ignored_with_a_note():
    shapes = {key: tuple(shape) for key, shape in manifest('lingbot-map').items()}
    found, match = checkpoint._identify(shapes | {'point_head.norm.weight': (2048,)}, None)
    assert found == 'lingbot-map' and 'ignored 1 tensors point_head.*' in match.notes


@pytest.mark.parametrize('name', NETWORKS)
def test_a_network_from_a_file_computes_what_the_saved_one_does(name, tmp_path, monkeypatch):
    network = shared_network(name)
    monkeypatch.setattr(checkpoint, '_CONFIGS', {name: network.config})
    save_network(network, tmp_path / 'weights.safetensors')
    loaded = load_network(tmp_path / 'weights.safetensors', dtype=torch.bfloat16)
    kept = {str(p.dtype) for key, p in loaded.network.named_parameters() if 'head.' in key}
    assert kept == {'torch.float32'}
    assert loaded.network.aggregator.frame_blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    loaded = load_network(tmp_path / 'weights.safetensors')
    expected, actual = network(images()), loaded.network(images())
    assert torch.equal(actual.depth, expected.depth)
    assert torch.equal(actual.encodings, expected.encodings)
    with pytest.raises(CheckpointError, match='no known network'):
        monkeypatch.setattr(checkpoint, '_CONFIGS', {'r3': shared_network('r3').config})
        load_network(tmp_path / 'weights.safetensors')


# --- What frames see ---


@pytest.mark.parametrize('name', NETWORKS)
def test_frames_may_be_encoded_one_by_one(name):
    network = shared_network(name)
    together = network.relate(network.encode(images()))
    one_by_one = FrameFeatures.join([network.encode(image[None]) for image in images()])
    apart = network.relate(one_by_one)
    assert one_by_one.descriptor.shape == (3, network.descriptor_size)
    torch.testing.assert_close(apart.depth, together.depth, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        apart.T_world_camera, together.T_world_camera, rtol=1e-4, atol=1e-5, equal_nan=True
    )


def in_order(network, order):
    """Return the depth of each frame, in the order of the images, with the frames reordered."""
    views = network.relate(network.encode(images()[order]))
    return views.depth[torch.tensor(order).argsort()]


def test_only_the_first_frame_of_vggt_has_a_role_of_its_own():
    network = shared_network('vggt')
    depth = in_order(network, [0, 1, 2])
    torch.testing.assert_close(in_order(network, [0, 2, 1]), depth, rtol=1e-4, atol=1e-5)
    assert (in_order(network, [1, 0, 2]) - depth).abs().max() > 1e-2


def test_lingbot_map_knows_the_order_of_frames():
    network = shared_network('lingbot-map')
    assert (in_order(network, [0, 2, 1]) - in_order(network, [0, 1, 2])).abs().max() > 1e-2


def test_every_frame_sees_every_other():
    network = shared_network('vggt')
    before = network(images())
    changed = images()
    changed[2] = 255 - changed[2]
    after = network(changed)
    for frame in range(3):
        assert (after.depth[frame] - before.depth[frame]).abs().max() > 1e-3


@pytest.mark.parametrize('name', NETWORKS)
def test_poses_are_camera_to_world(name, monkeypatch):
    monkeypatch.setattr(vggt, 'disagreement', lambda found, T: torch.zeros(len(T)))
    network = shared_network(name)
    features = network.encode(images())
    views, encodings = network.relate(features), network.predict(features).encodings
    T = views.T_world_camera.double()
    x, y, z, w = torch.nn.functional.normalize(encodings[:, 3:7].double(), dim=1).unbind(1)
    turned_x_axis = torch.stack([1 - 2 * (y**2 + z**2), 2 * (x * y + w * z), 2 * (x * z - w * y)])
    encoded = T if name == 'lingbot-map' else torch.linalg.inv(T)
    torch.testing.assert_close(encoded[:, :3, 0], turned_x_axis.T, rtol=0, atol=1e-5)
    torch.testing.assert_close(encoded[:, :3, 3], encodings[:, :3].double(), rtol=0, atol=1e-5)
    assert torch.equal(views.fov, encodings[:, 7:]) and (views.fov > 0.1).all()


def test_a_pose_without_rotation_is_no_pose():
    network = own_network('vggt')
    network.camera_head.pose_branch.fc2.weight.zero_()
    network.camera_head.pose_branch.fc2.bias.zero_()
    views = network.relate(network.encode(images()))
    assert torch.isnan(views.T_world_camera[:, :3, :3]).all() and (views.fov == 0).all()


def test_a_frame_whose_depth_contradicts_its_points_has_no_pose(monkeypatch):
    network = own_network('vggt')
    features = network.encode(images())
    found = network.predict(features)
    monkeypatch.setattr(vggt, 'disagreement', lambda found, T: torch.zeros(len(T)))
    T = network.relate(features).T_world_camera
    monkeypatch.undo()
    half = (found.encodings[:, 7:] / 2).tan()
    v, u = (torch.linspace(-1, 1, n) for n in found.depth.shape[1:])
    points = torch.empty(3, 42, 56, 3)
    for s in range(3):
        rays = torch.stack([*torch.meshgrid(u * half[s, 1], v * half[s, 0], indexing='xy')], -1)
        rays = torch.cat([rays, torch.ones(42, 56, 1)], dim=-1)
        points[s] = (rays * found.depth[s, ..., None]) @ T[s, :3, :3].T + T[s, :3, 3]
    points[1] += 0.6 * found.depth[1, ..., None]  # a distance of 1.04 times the depth
    points[2, ::3] += 100.0  # a few wrong pixels do not count
    agreed = replace(found, points=points, point_confidence=found.confidence)
    monkeypatch.setattr(network, 'predict', lambda features, points: agreed)
    poses = network.relate(features).T_world_camera
    assert torch.equal(poses[[0, 2]], T[[0, 2]]) and torch.isnan(poses[1]).all()


def test_made_up_weights_give_no_poses():
    network = shared_network('vggt')
    assert torch.isnan(network.relate(network.encode(images())).T_world_camera).all()


def test_points_run_through_zero():
    network = shared_network('vggt')
    found = network(images())
    assert found.points.shape == (3, 42, 56, 3) and found.point_confidence.min() > 1
    assert (found.points < 0).any() and (found.points > 0).any()
    assert network.predict(network.encode(images())).points is None
    assert shared_network('lingbot-map')(images()).points is None


def test_wrong_images_are_refused():
    with pytest.raises(FrameError, match='multiples of 14'):
        shared_network('vggt').encode(torch.zeros(1, 3, 20, 28, dtype=torch.uint8))


@pytest.mark.parametrize('name', NETWORKS)
def test_what_a_pass_takes_is_known_before(name):
    network = shared_network(name)
    with torch.inference_mode():
        features = network.encode(images(24))
        with PeakMemory() as memory:
            network.relate(features)
    assert memory.peak <= network.pass_bytes(56, 42, 24) < 2 * memory.peak
    none, one = network.pass_bytes(56, 42, 0), network.pass_bytes(56, 42, 1)
    assert network.pass_bytes(56, 42, 24) == none + 24 * (one - none)


# --- Size of images ---


@pytest.mark.parametrize(
    ('source', 'size', 'expected'),
    [
        ((504, 284), 518, (518, 294)),
        ((640, 480), 518, (518, 392)),
        ((540, 960), 518, (518, 518)),  # upright: the central square
        ((504, 284), 112, (112, 70)),
    ],
)
def test_images_become_as_wide_as_in_training(source, size, expected):
    geometry = shared_network('vggt').geometry(*source, size)
    assert (geometry.width, geometry.height) == expected
    image = np.random.default_rng(0).integers(0, 256, (*source[::-1], 3), dtype=np.uint8)
    scaled = Image.fromarray(image).resize(
        (size, round(source[1] * size / source[0] / 14) * 14), Image.Resampling.BICUBIC
    )
    top = (scaled.height - expected[1]) // 2
    cropped = np.asarray(scaled)[top : top + expected[1]]
    np.testing.assert_array_equal(geometry.apply(image), cropped)
