"""Initial weights of a network."""

from __future__ import annotations

import math

import torch
from torch import nn

from ...model.network import build_network, R3Network
from ...model.variants import VARIANTS

#: Initial gain of a block's branches: small enough to be stable, large enough to learn soon.
_LAYER_SCALE = 0.1
#: Radians, in the middle of the range of cameras; below zero the ReLU behind it would be dead.
_FIRST_FOV = 1.0


def new_network(variant: str, seed: int) -> R3Network:
    """Return a network with initial weights, whose predictions are near "no motion, depth 1".

    The weights depend on the seed alone, not on the device or the global random state.
    """
    network = build_network(VARIANTS[variant])
    assert isinstance(network, R3Network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            _fill(name, parameter, generator)
        network.cam_dec.fc_rel_qvec.bias.copy_(torch.tensor([0.0, 0, 0, 1]))
        for branch in (network.cam_dec.fc_fov, network.cam_dec.fc_abs_fov):
            last = branch[0]
            assert isinstance(last, nn.Linear)
            last.bias.fill_(_FIRST_FOV)
    return network


def _fill(name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
    if name.endswith('gamma'):
        parameter.fill_(_LAYER_SCALE)
    elif name.endswith(('_token', 'pos_embed')):
        parameter.normal_(0, 0.02, generator=generator)
    elif parameter.ndim == 1:
        # Norms are 1-D weights; everything else that is 1-D is a bias.
        parameter.fill_(1.0 if name.endswith('weight') else 0.0)
    else:
        fan_in = math.prod(parameter.shape[1:])
        if 'resize_layers' in name and parameter.shape[-1] == _stride(parameter):
            fan_in = parameter.shape[0]
        last = any(part in name for part in ('fc_', 'output_conv2'))
        gain = 0.1 if last else (2.0 if 'conv' in name.lower() else 1.0)
        parameter.normal_(0, math.sqrt(gain / fan_in), generator=generator)


def _stride(parameter: nn.Parameter) -> int:
    """Return the kernel's side if it is one of a transposed convolution (4 or 2), else 0."""
    side = parameter.shape[-1]
    return side if parameter.ndim == 4 and side in (2, 4) else 0
