"""``python -m tools.parity.vggt_goldens``: golden files and names of parameters, by VGGT's code.

Needs a checkout of the authors' repository, of which nothing is copied. The network has the
layout of ``vggt-small`` and the weights of ``data/deterministic_weights.py``.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import json
from pathlib import Path
import sys
from typing import Any
from unittest import mock

import numpy as np
from r3_ros.model.variants import NetworkConfig, VARIANTS
import torch
from torch import nn

from .stand_in_weights import StandInWeights

DATA = Path(__file__).parent / 'data'
#: Frames, height and width of the input of each file.
_INPUTS = {'landscape4': (4, 70, 126), 'portrait2': (2, 126, 84)}
#: Every so many tokens, channels and pixels are kept.
_TOKENS, _CHANNELS, _PIXELS = 5, 16, 3


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkout', type=Path, help="a checkout of the VGGT authors' repository")
    sys.path.insert(0, str(parser.parse_args().checkout))
    shapes = {k: list(v.shape) for k, v in full_size().state_dict().items()}
    lines = ',\n'.join(f'{json.dumps(k)}: {v}' for k, v in sorted(shapes.items()))
    (DATA / 'manifest-vggt.json').write_text(f'{{\n{lines}\n}}\n', encoding='utf-8')
    network = filled(small(VARIANTS['vggt-small']))
    for name, (frames, height, width) in _INPUTS.items():
        pixels = moving_pattern(frames, height, width)
        arrays: dict[str, np.ndarray] = {
            'pixels': pixels,
            'pixels_sha256': np.array(hashlib.sha256(pixels.tobytes()).hexdigest()),
        }
        for views in {1, frames}:
            found = outputs(network, pixels[:views])
            arrays |= {f'views{views}.{key}': value for key, value in found.items()}
        path = DATA / f'golden-vggt-small-{name}.npz'
        np.savez_compressed(path, **arrays)
        print(f'{path.name}: {path.stat().st_size / 1000:.0f} kB')


def full_size() -> nn.Module:
    """Return the authors' network in full size, without values and tracks."""
    # The constructor reads values of this one.
    with_values = functools.partial(torch.linspace, device='cpu')
    with torch.device('meta'), mock.patch('torch.linspace', with_values):
        network: nn.Module = _authors('models.vggt').VGGT(enable_track=False)
    return network


def small(config: NetworkConfig) -> nn.Module:
    """Return the authors' network with the sizes of a variant of ours, unfilled."""
    backbone, head = config.backbone, config.depth_head
    first = backbone.alternate_from
    assert first is not None
    network = full_size()
    pairs = len(backbone.cross_frame_blocks)
    network.aggregator = _authors('models.aggregator').Aggregator(
        embed_dim=backbone.width,
        depth=pairs,
        num_heads=backbone.heads,
        patch_embed='dinov2_vits14_reg',
    )
    network.camera_head = _authors('heads.camera_head').CameraHead(backbone.feature_width)
    for name, logits, activation in (('depth_head', 2, 'exp'), ('point_head', 4, 'inv_log')):
        dense = _authors('heads.dpt_head').DPTHead(
            backbone.feature_width,
            output_dim=logits,
            activation=activation,
            features=head.features,
            out_channels=list(head.channels),
            intermediate_layer_idx=[(tap - first) // 2 for tap in backbone.taps],
        )
        setattr(network, name, dense)
    return network.eval().requires_grad_(False)


def filled(network: nn.Module) -> nn.Module:
    """Return a network with made-up weights."""
    weights = StandInWeights(DATA)
    for name, parameter in network.state_dict().items():
        value = weights.parameter(name, tuple(parameter.shape), small_signal=False)
        parameter.copy_(torch.from_numpy(value))
    return network


def moving_pattern(frames: int, height: int, width: int) -> np.ndarray:
    """Return (frames, height, width, 3) uint8: waves of several lengths that move and turn."""
    v, u = np.mgrid[:height, :width] / height
    images = []
    for frame in range(frames):
        angle, shift = 0.1 * frame, 0.15 * frame
        x = np.cos(angle) * u - np.sin(angle) * v + shift
        y = np.sin(angle) * u + np.cos(angle) * v - 0.5 * shift
        waves = [
            np.sin(7 * x + 3 * np.sin(5 * y)) + np.sin(31 * y + c) * np.sin(23 * x - 2 * c)
            for c in range(3)
        ]
        images.append(np.stack(waves, axis=-1))
    return np.round(63 * np.stack(images) + 127).astype(np.uint8)


def outputs(network: nn.Module, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays of one group: the authors' results for frames seen together."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)[None] / 255
    kept: list[Any] = []
    hooks = [
        module.register_forward_hook(lambda module, args, output: kept.append(output))
        for module in (network.aggregator.patch_embed, network.aggregator)
    ]
    with torch.inference_mode():
        found = network(images)
    for hook in hooks:
        hook.remove()
    patches, (pairs, special) = kept
    last = pairs[-1][0]
    decode = _authors('utils.pose_enc').pose_encoding_to_extri_intri
    extrinsics, intrinsics = decode(found['pose_enc'], images.shape[-2:])
    thinned = slice(None, None, _PIXELS)
    arrays = {
        'patches': patches['x_norm_patchtokens'][:, ::_TOKENS, ::_CHANNELS],
        'feat3': last[:, special::_TOKENS, ::_CHANNELS],
        'cam_token3': last[:, 0, ::_CHANNELS],
        'pose_enc': found['pose_enc'][0],
        'w2c': extrinsics[0],
        'intrinsics': intrinsics[0],
        'depth': found['depth'][0, :, thinned, thinned, 0],
        'depth_conf': found['depth_conf'][0, :, thinned, thinned],
        'points': found['world_points'][0, :, thinned, thinned],
        'points_conf': found['world_points_conf'][0, :, thinned, thinned],
    }
    return {name: array.numpy() for name, array in arrays.items()}


def _authors(module: str) -> Any:
    return importlib.import_module(f'vggt.{module}')


if __name__ == '__main__':
    main()
