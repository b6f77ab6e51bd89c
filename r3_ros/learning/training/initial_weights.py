"""Initial weights of a network: new ones, or those of a file, with their licence."""

from __future__ import annotations

from dataclasses import dataclass
import json
import math
from pathlib import Path
import re

import torch
from torch import nn

from ...core.atomic_files import atomic_write
from ...core.errors import CheckpointError, ModelError
from ...model.building import build_network
from ...model.loading import ERRORS_SUFFIX, INHERITED
from ...model.network import DA3Network, PairNetwork, R3Network
from ...model.variants import VARIANTS
from ...model.weights.catalogue import CATALOGUE, entry_of, find_weights, missing_message, UNKNOWN
from ...model.weights.checkpoint import LICENCE, load_network, LoadedNetwork, ORIGIN

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


@dataclass(frozen=True)
class InitialWeights:
    """The weights of a file that a training begins with.

    :ivar provenance: their origin and licence, for the header of what is trained from them.
    """

    path: Path
    loaded: LoadedNetwork
    provenance: dict[str, str]

    @property
    def is_backbone(self) -> bool:
        """Whether they are of Depth Anything 3, so that R3's pairs are new."""
        return isinstance(self.loaded.network, DA3Network)

    @property
    def variant(self) -> str:
        """The network that is trained."""
        name = self.loaded.variant
        return name.replace('da3-', 'r3-', 1) if self.is_backbone else name

    def network(self, seed: int) -> PairNetwork:
        """Return the network to be trained.

        :param seed: of the parts for which the file has no weights.
        """
        network = self.loaded.network
        if isinstance(network, DA3Network):
            return _with_pairs(network, self.variant, seed).train()
        assert isinstance(network, PairNetwork)
        return network.requires_grad_(True).train()

    def write_error_model(self, weights: Path) -> None:
        """Write their error model, if they have one, beside the weights trained from them.

        :raises OutputError: it cannot be written.
        """
        own = self.path.with_suffix(ERRORS_SUFFIX)
        if own.is_file():
            content = json.loads(own.read_text()) | {INHERITED: self.provenance[ORIGIN]}
            with atomic_write(weights.with_suffix(ERRORS_SUFFIX)) as file:
                file.write(json.dumps(content, indent=2).encode() + b'\n')


def read_initial_weights(name_or_path: str) -> InitialWeights:
    """Load weights to begin with.

    :param name_or_path: a name of the catalogue, or a file.
    :raises ModelError: they are not on this machine.
    :raises CheckpointError: they cannot be loaded, or no R3 can be trained from them.
    """
    path = find_weights(name_or_path) if name_or_path in CATALOGUE else Path(name_or_path)
    if path is None:
        raise ModelError(missing_message(name_or_path))
    if not path.exists():
        names = ', '.join(CATALOGUE)
        raise ModelError(f'there is no file {path}, and no weights of that name: {names}')
    loaded = load_network(path)
    if not isinstance(loaded.network, PairNetwork | DA3Network):
        raise CheckpointError(
            f'{path} holds {loaded.variant}, from which no R3 can be trained: take weights of R3 '
            'or of Depth Anything 3 (any view)'
        )
    entry = entry_of(path)
    if entry is not None:
        source = entry.repo or 'r3_ros'
        origin = f'{entry.name} of {source}, SHA-256 {loaded.sha256[:16]}'
        return InitialWeights(path, loaded, {ORIGIN: origin, LICENCE: entry.licence})
    if loaded.origin:
        return InitialWeights(path, loaded, {ORIGIN: loaded.origin, LICENCE: loaded.licence})
    origin = f'{path.name}, SHA-256 {loaded.sha256[:16]}'
    return InitialWeights(path, loaded, {ORIGIN: origin, LICENCE: UNKNOWN})


def _with_pairs(backbone: DA3Network, variant: str, seed: int) -> PairNetwork:
    """Return R3 with all weights of a Depth Anything 3 network that it has a place for."""
    network = new_network(variant, seed)
    network.load_state_dict(backbone.state_dict(), strict=False)
    return network
