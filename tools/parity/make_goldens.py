"""``python -m tools.parity.make_goldens``: golden files of VGGT and LingBot-Map.

Needs a checkout of the authors' repository, of which nothing is copied, and the packages that it
imports. The network has the layout of ``vggt-small`` or ``lingbot-map-small``, and the weights of
``data/deterministic_weights.py``. The names and shapes of the full size are written too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
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
from torch import Tensor

from .stand_in_weights import StandInWeights

DATA = Path(__file__).parent / 'data'
#: Frames, height and width of the input of each file; "eps": with weights of small signals.
_INPUTS = {'landscape4': (4, 70, 126), 'portrait2': (2, 126, 84), 'eps1': (1, 70, 98)}
#: Every so many tokens, channels and pixels are kept.
_TOKENS, _CHANNELS, _PIXELS = 5, 16, 3


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('network', choices=sorted(_AUTHORS))
    parser.add_argument('checkout', type=Path, help="checkout of the authors' repository")
    args = parser.parse_args()
    sys.path.insert(0, str(args.checkout))
    full, small, forward = _AUTHORS[args.network]
    # The constructors read values of this one.
    with_values = functools.partial(torch.linspace, device='cpu')
    with torch.device('meta'), mock.patch('torch.linspace', with_values):
        network = full()
    shapes = {k: list(v.shape) for k, v in network.state_dict().items()}
    lines = ',\n'.join(f'{json.dumps(k)}: {v}' for k, v in sorted(shapes.items()))
    (DATA / f'manifest-{args.network}.json').write_text(f'{{\n{lines}\n}}\n', encoding='utf-8')
    small(network, VARIANTS[f'{args.network}-small'])
    network.eval().requires_grad_(False)
    for name, (frames, height, width) in _INPUTS.items():
        fill(network, name.startswith('eps'))
        pixels = moving_pattern(frames, height, width)
        arrays: dict[str, np.ndarray] = {
            'pixels': pixels,
            'pixels_sha256': np.array(hashlib.sha256(pixels.tobytes()).hexdigest()),
        }
        for views in {1, frames}:
            found = outputs(network, functools.partial(forward, network), pixels[:views])
            arrays |= {f'views{views}.{key}': value for key, value in found.items()}
        path = DATA / f'golden-{args.network}-small-{name}.npz'
        np.savez_compressed(path, allow_pickle=False, **arrays)
        print(f'{path.name}: {path.stat().st_size / 1000:.0f} kB')


def vggt() -> Any:
    """Return VGGT in full size without tracks."""
    return _module('vggt.models.vggt').VGGT(enable_track=False)


def vggt_small(network: Any, config: NetworkConfig) -> None:
    """Replace the parts of VGGT by smaller ones."""
    heads = _module('vggt.heads.dpt_head').DPTHead
    sizes = _head_sizes(config) | {'intermediate_layer_idx': _taps(config)}
    network.aggregator = _module('vggt.models.aggregator').Aggregator(**_backbone_sizes(config))
    network.camera_head = _module('vggt.heads.camera_head').CameraHead(sizes['dim_in'])
    network.depth_head = heads(output_dim=2, activation='exp', **sizes)
    network.point_head = heads(output_dim=4, activation='inv_log', **sizes)


def vggt_forward(network: Any, images: Tensor) -> dict[str, Tensor]:
    """Run VGGT."""
    found: dict[str, Tensor] = network(images)
    decode = _module('vggt.utils.pose_enc').pose_encoding_to_extri_intri
    w2c, found['intrinsics'] = decode(found['pose_enc'], images.shape[-2:])
    return found | {'w2c': w2c}


def lingbot_map() -> Any:
    """Return LingBot-Map in full size, as its demonstration builds it."""
    model = _module('lingbot_map.models.gct_stream').GCTStream
    return model(enable_3d_rope=True, use_sdpa=True)


def lingbot_map_small(network: Any, config: NetworkConfig) -> None:
    """Replace the parts of LingBot-Map by smaller ones."""
    sizes = _head_sizes(config) | {'intermediate_layer_idx': [0, 1, 2, 3]}
    stream = _module('lingbot_map.aggregator.stream').AggregatorStream
    aggregator = stream(use_sdpa=True, **_backbone_sizes(config))
    # The constructor takes 64 channels per head for granted in full size only.
    rotation = _module('lingbot_map.layers.rope').WanRotaryPosEmbed
    aggregator.rope3d = rotation(attention_head_dim=64, patch_size=(1, 14, 14))
    aggregator.enable_3d_rope = True
    taps = _taps(config)
    network._aggregate_features = lambda images, **options: aggregator(
        images, selected_idx=taps, **options
    )
    network.aggregator = aggregator
    network.camera_head = _module('lingbot_map.heads.camera_head').CameraCausalHead(
        sizes['dim_in']
    )
    network.depth_head = _module('lingbot_map.heads.dpt_head').DPTHead(
        output_dim=2, activation='exp', **sizes
    )


def lingbot_map_forward(network: Any, images: Tensor) -> dict[str, Tensor]:
    """Run LingBot-Map on frames that see one another, as at the start of a stream."""
    network.clean_kv_cache()
    frames = images.shape[1]
    found: dict[str, Tensor] = network(
        images, num_frame_for_scale=frames, num_frame_per_block=frames, causal_inference=True
    )
    decode = _module('lingbot_map.utils.pose_enc').pose_encoding_to_extri_intri
    c2w, found['intrinsics'] = decode(found['pose_enc'], images.shape[-2:])
    return found | {'c2w': c2w}


_Forward = Callable[[Any, Tensor], dict[str, Tensor]]
#: By name: full size, sizes of the small one, a pass.
_AUTHORS: dict[str, tuple[Callable[[], Any], Callable[[Any, NetworkConfig], None], _Forward]] = {
    'vggt': (vggt, vggt_small, vggt_forward),
    'lingbot-map': (lingbot_map, lingbot_map_small, lingbot_map_forward),
}


def _backbone_sizes(config: NetworkConfig) -> dict[str, Any]:
    backbone = config.backbone
    return {
        'embed_dim': backbone.width,
        'depth': len(backbone.cross_frame_blocks),
        'num_heads': backbone.heads,
        'patch_embed': 'dinov2_vits14_reg',
    }


def _head_sizes(config: NetworkConfig) -> dict[str, Any]:
    head = config.depth_head
    return {
        'dim_in': config.backbone.feature_width,
        'features': head.features,
        'out_channels': list(head.channels),
    }


def _taps(config: NetworkConfig) -> list[int]:
    first = config.backbone.alternate_from
    assert first is not None
    return [(tap - first) // 2 for tap in config.backbone.taps]


def fill(network: Any, small_signal: bool) -> None:
    """Fill a network with made-up weights."""
    weights = StandInWeights(DATA)
    for name, parameter in network.state_dict().items():
        value = weights.parameter(name, tuple(parameter.shape), small_signal)
        parameter.copy_(torch.from_numpy(value))


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


def outputs(
    network: Any, forward: Callable[[Tensor], dict[str, Tensor]], pixels: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the arrays of one group: the authors' results for frames seen together."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)[None] / 255
    kept: list[Any] = []
    hooks = [
        module.register_forward_hook(lambda module, args, output: kept.append(output))
        for module in (network.aggregator.patch_embed, network.aggregator)
    ]
    with torch.inference_mode():
        found = forward(images)
    for hook in hooks:
        hook.remove()
    patches, (pairs, special) = kept
    last = pairs[-1][0]
    every = slice(None, None, _PIXELS)
    arrays = {
        'patches': patches['x_norm_patchtokens'][:, ::_TOKENS, ::_CHANNELS],
        'feat3': last[:, special::_TOKENS, ::_CHANNELS],
        'cam_token3': last[:, 0, ::_CHANNELS],
        'depth': found['depth'][0, :, every, every, 0],
        'depth_conf': found['depth_conf'][0, :, every, every],
    }
    for name in ('pose_enc', 'w2c', 'c2w', 'intrinsics'):
        if name in found:
            arrays[name] = found[name][0]
    if 'world_points' in found:
        arrays['points'] = found['world_points'][0, :, every, every]
        arrays['points_conf'] = found['world_points_conf'][0, :, every, every]
    return {name: array.numpy() for name, array in arrays.items()}


def _module(name: str) -> Any:
    return importlib.import_module(name)


if __name__ == '__main__':
    main()
