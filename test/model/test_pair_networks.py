"""Networks of image pairs: layouts of the published files, loading, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch')

from paths import ROOT  # noqa: E402
from r3_ros.core.config import ModelConfig, R3Config  # noqa: E402
from r3_ros.core.errors import CheckpointError, ConfigError, FrameError  # noqa: E402
from r3_ros.model.building import build_network  # noqa: E402
from r3_ros.model.pairs.heads import nearest_rotation  # noqa: E402
from r3_ros.model.variants import CrocoConfig, PAIR_VARIANTS, PairOutput  # noqa: E402
from r3_ros.model.weights import checkpoint  # noqa: E402

from tools.parity.runner import Runner  # noqa: E402

DATA = ROOT / 'tools' / 'parity' / 'data'
SMALL = {'encoder_width': 128, 'encoder_depth': 2, 'decoder_width': 128}


@pytest.mark.parametrize('name', PAIR_VARIANTS)
def test_outputs_are_those_of_the_authors_code(name: str) -> None:
    result = Runner(DATA, 'fp32', 'cpu').run(DATA / f'golden-{name}-small.npz')
    assert result.passed, [array for array in result.arrays if not array.passed] or result.problem


@pytest.mark.parametrize('name', PAIR_VARIANTS)
def test_every_key_of_the_authors_code_is_used_once(name: str) -> None:
    golden = np.load(DATA / f'golden-{name}-small.npz')
    shapes = {
        str(key): tuple(map(int, filter(None, str(shape).split('x'))))
        for key, shape in zip(golden['keys'], golden['shapes'], strict=True)
    }
    match = checkpoint._match(shapes, checkpoint._wanted(replace(PAIR_VARIANTS[name], **SMALL)))
    assert not match.differences, str(match)
    has_mask = name != 'reloc3r'  # of the training of the encoder
    assert match.notes == ['ignored 1 tensors mask_token'] * has_mask
    # A file of safetensors holds what is under two names once.
    once = {key: shape for key, shape in shapes.items() if '.layer_rn.' not in key}
    assert not checkpoint._match(
        once, checkpoint._wanted(replace(PAIR_VARIANTS[name], **SMALL))
    ).differences


@pytest.mark.parametrize('name', PAIR_VARIANTS)
def test_a_saved_network_is_recognised(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(PAIR_VARIANTS[name], **SMALL)
    monkeypatch.setitem(PAIR_VARIANTS, name, config)
    network = build_network(config).eval()
    path = tmp_path / 'saved.safetensors'
    checkpoint.save_network(network, path)
    loaded = checkpoint.load_network(path)
    assert loaded.variant == name
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    with torch.inference_mode():
        wanted, found = (
            n(n.encode(images[:1]), n.encode(images[1:])) for n in (network, loaded.network)
        )
    for one, other in zip(wanted, found, strict=True):
        for a, b in zip(one, other, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)
    half = checkpoint.load_network(path, dtype=torch.bfloat16).network.state_dict()
    kept = {key for key, value in half.items() if value.dtype == torch.float32}
    assert any('head' in key for key in kept)
    assert all('head' in key or 'norm' in key for key in kept)


def test_a_file_with_one_key_too_few_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(PAIR_VARIANTS['reloc3r'], **SMALL)
    monkeypatch.setitem(PAIR_VARIANTS, 'reloc3r', config)
    network = build_network(config)
    network.pose_head.fc_t = torch.nn.Linear(1024, 4)
    path = tmp_path / 'wrong.safetensors'
    checkpoint.save_network(network, path)
    with pytest.raises(CheckpointError, match=r'pose_head.fc_t.weight \(4x1024, not 3x1024\)'):
        checkpoint.load_network(path)


def test_images_of_another_shape_are_refused() -> None:
    network = build_network(replace(PAIR_VARIANTS['reloc3r'], **SMALL))
    with pytest.raises(FrameError, match='multiples of 16'):
        network.encode(torch.zeros(1, 3, 32, 40, dtype=torch.uint8))
    with pytest.raises(FrameError, match='int64'):
        network.encode(torch.zeros(1, 3, 32, 48, dtype=torch.int64))


def test_the_order_of_a_pair_swaps_the_poses_of_reloc3r() -> None:
    network = build_network(replace(PAIR_VARIANTS['reloc3r'], **SMALL)).eval()
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    with torch.inference_mode():
        a, b = network.encode(images[:1]), network.encode(images[1:])
        torch.testing.assert_close(network(a, b)[0], network(b, a)[1])


def test_the_nearest_rotation_is_right_handed() -> None:
    m = torch.randn(20, 3, 3, generator=torch.Generator().manual_seed(1))
    R = nearest_rotation(m)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(20))
    torch.testing.assert_close(R @ R.mT, torch.eye(3).expand(20, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(nearest_rotation(R), R, atol=1e-5, rtol=0)


def test_a_matrix_that_is_not_finite_spoils_no_other() -> None:
    m = torch.eye(3).repeat(3, 1, 1)
    m[1, 0, 0], m[2, 1, 1] = torch.nan, torch.inf
    R = nearest_rotation(m)
    torch.testing.assert_close(R[0], torch.eye(3))
    assert R[1:].isnan().all()


@pytest.mark.parametrize('size, allowed', [(224, True), (384, True), (392, False)])
def test_image_sizes_are_whole_patches_of_16(size: int, allowed: bool) -> None:
    config = R3Config(model=ModelConfig(name='dust3r', image_size=size))
    if allowed:
        config.validate()
    else:
        with pytest.raises(ConfigError, match='multiple of 16'):
            config.validate()


def test_the_stages_of_the_decoder_are_those_of_the_paper() -> None:
    assert CrocoConfig('x', PairOutput.POINTS).taps == (0, 6, 9, 12)
