"""Initial weights of a network."""

from __future__ import annotations

import math
from pathlib import Path
import re

import torch
from torch import nn

from ...core.errors import CheckpointError
from ...model.building import build_network
from ...model.network import PairNetwork, R3Network
from ...model.variants import VARIANTS
from ...model.weights.checkpoint import load_network

#: Initial gain of a block's branches: small enough to be stable, large enough to learn soon.
_LAYER_SCALE = 0.1
#: Radians, in the middle of the range of cameras; below zero the ReLU behind it would be dead.
_FIRST_FOV = 1.0
_FIRST_FOVS = ('fc_fov.0.bias', 'fc_abs_fov.0.bias')
#: Residual blocks of r3-tiny start as the identity, and its parts without one another.
_FIRST_ZERO = re.compile(
    r'^(stem|descriptors)\..*\bblocks?\w*\..*conv2\.weight$|^stem\.patches\.weight$'
    r'|^descriptors\.context\.weight$'
)


def new_network(variant: str, seed: int) -> PairNetwork:
    """Return a network with initial weights, whose predictions are near "no motion, depth 1".

    The weights depend on the seed alone, not on the device or the global random state.
    """
    network = build_network(VARIANTS[variant])
    assert isinstance(network, PairNetwork)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            _fill(name, parameter, generator)
            if name.endswith(_FIRST_FOVS):
                parameter.fill_(_FIRST_FOV)
            if _FIRST_ZERO.search(name):
                parameter.zero_()
        if isinstance(network, R3Network):
            network.cam_dec.fc_rel_qvec.bias.copy_(torch.tensor([0.0, 0, 0, 1]))
    return network


def _fill(name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
    if name.endswith('temperature'):
        return  # they have their first value
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


def weights_to_tune(path: Path, variant: str) -> PairNetwork:
    """Load the network of a file of weights for training.

    :raises CheckpointError: it holds another network than the settings name.
    """
    loaded = load_network(path, variant=variant)
    if not isinstance(loaded.network, PairNetwork):
        raise CheckpointError(f'{path} holds {loaded.variant}, which predicts no pairs of frames')
    return loaded.network.requires_grad_(True).train()
