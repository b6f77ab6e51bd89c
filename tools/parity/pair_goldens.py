"""``python -m tools.parity.pair_goldens``: golden outputs of the authors' networks of pairs.

It runs a checkout of the authors' code, with the weights of ``deterministic_weights.py``, and
writes the files that ``python -m tools.parity tools/parity/data`` compares our code with::

    python -m tools.parity.pair_goldens dust3r --official ~/dust3r
        --weights tools/parity/data OUTPUT.npz
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import importlib
from pathlib import Path
import sys
from typing import Any

import numpy as np
from r3_ros.model.variants import CrocoConfig, PAIR_VARIANTS
import torch
from torch import nn, Tensor

from .pairs import config_of, SIZES
from .stand_in_weights import StandInWeights

#: Channels of every token, and blocks of the encoder, in the files that come with the project.
_SMALL = {'encoder_width': 128, 'encoder_depth': 2, 'decoder_width': 128}
_INFINITY = float('inf')
#: Arguments of the authors' networks of points, by our names.
_POINT_ARGUMENTS: dict[str, dict[str, Any]] = {
    'dust3r': {'head_type': 'dpt', 'output_mode': 'pts3d'},
    'dust3r-linear': {'head_type': 'linear', 'output_mode': 'pts3d'},
    'mast3r': {
        'head_type': 'catmlp+dpt',
        'output_mode': 'pts3d+desc24',
        'two_confs': True,
        'desc_conf_mode': ('exp', 0, _INFINITY),
    },
}
#: Rows and columns that are stored of points and of descriptors.
_STEP, _DESCRIPTOR_STEP = 2, 4


def main(argv: Sequence[str] | None = None) -> None:
    """Write one file."""
    parser = argparse.ArgumentParser(prog='python -m tools.parity.pair_goldens')
    parser.add_argument('network', choices=PAIR_VARIANTS)
    parser.add_argument('output', type=Path)
    parser.add_argument(
        '--official', type=Path, required=True, help="checkout of the authors' code"
    )
    parser.add_argument(
        '--weights', type=Path, required=True, help='with deterministic_weights.py'
    )
    parser.add_argument(
        '--full', action='store_true', help='at the published size: 3 GiB of memory'
    )
    args = parser.parse_args(argv)
    small = {} if args.full else _SMALL
    sys.path.insert(0, str(args.official))
    config = config_of(args.network, {name: np.array(value) for name, value in small.items()})
    weights = StandInWeights(args.weights)
    network = _official(config)
    _fill(network, weights)
    arrays = {name: np.array(value) for name, value in small.items()}
    state = network.state_dict()
    arrays['keys'] = np.array(list(state))
    arrays['shapes'] = np.array(['x'.join(map(str, value.shape)) for value in state.values()])
    for name, (height, width) in SIZES.items():
        pixels = _pixels(name, height, width, weights)
        arrays[f'{name}.images'] = pixels
        with torch.inference_mode():
            arrays |= {f'{name}.{key}': value for key, value in _outputs(network, pixels).items()}
    np.savez_compressed(args.output, **arrays)  # type: ignore[arg-type]


def _official(config: CrocoConfig) -> nn.Module:
    """Return the authors' network of one of our configurations."""
    sizes = {
        'enc_embed_dim': config.encoder_width,
        'enc_depth': config.encoder_depth,
        'enc_num_heads': config.encoder_width // 64,
        'dec_embed_dim': config.decoder_width,
        'dec_depth': config.decoder_depth,
        'dec_num_heads': config.decoder_width // 64,
        'pos_embed': 'RoPE100',
    }
    network: nn.Module
    if config.name == 'reloc3r':
        network = importlib.import_module('reloc3r.reloc3r_relpose').Reloc3rRelpose(**sizes)
    else:
        of_points = {
            'img_size': (512, 512),
            'depth_mode': ('exp', -_INFINITY, _INFINITY),
            'conf_mode': ('exp', 1, _INFINITY),
            'landscape_only': False,
        } | _POINT_ARGUMENTS[config.name]
        has_descriptors = config.name == 'mast3r'
        module = importlib.import_module('mast3r.model' if has_descriptors else 'dust3r.model')
        name = 'AsymmetricMASt3R' if has_descriptors else 'AsymmetricCroCo3DStereo'
        network = getattr(module, name)(**sizes, **of_points)
    return network.eval()


def _fill(network: nn.Module, weights: StandInWeights) -> None:
    state = network.state_dict()
    for name, tensor in state.items():
        if name == 'mask_token':  # of its training
            continue
        value = weights.parameter(_shared(name), tuple(tensor.shape), small_signal=False)
        tensor.copy_(torch.from_numpy(value))


def _shared(name: str) -> str:
    """Return the one name of a level of a head, which is in the state under two."""
    for level in range(4):
        name = name.replace(f'scratch.layer_rn.{level}.', f'scratch.layer{level + 1}_rn.')
    return name


def _pixels(name: str, height: int, width: int, weights: StandInWeights) -> np.ndarray:
    """Return (2, height, width, 3) uint8 images of smooth noise."""
    coarse = weights.unit(f'pair-{name}', 2 * 3 * (height // 4) * (width // 4))
    grid = torch.from_numpy(coarse).reshape(2, 3, height // 4, width // 4)
    smooth = nn.functional.interpolate(grid, size=(height, width), mode='bilinear')
    return (127.5 + 70 * smooth).clamp(0, 255).permute(0, 2, 3, 1).byte().numpy()


def _outputs(network: nn.Module, pixels: np.ndarray) -> dict[str, np.ndarray]:
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 * 2 - 1
    shape = torch.tensor([pixels.shape[1:3]])
    views = [{'img': image[None], 'true_shape': shape, 'instance': ['']} for image in images]
    first, second = network(*views)
    if 'pose' in first:
        return {'T_second_first': _numpy(first['pose']), 'T_first_second': _numpy(second['pose'])}
    points = {'points1': first['pts3d'], 'points2': second['pts3d_in_other_view']}
    for i, result in enumerate((first, second), start=1):
        points[f'confidence{i}'] = result['conf']
        if 'desc' in result:
            points[f'descriptors{i}'] = result['desc']
            points[f'descriptor_confidence{i}'] = result['desc_conf']
    steps = {name: _DESCRIPTOR_STEP if 'desc' in name else _STEP for name in points}
    return {
        name: _numpy(value)[:, :: steps[name], :: steps[name]] for name, value in points.items()
    }


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.float().numpy()


if __name__ == '__main__':
    main()
