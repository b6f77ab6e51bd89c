"""Networks by their configurations."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .network import DA3Network, MetricNetwork, R3Network
from .pairs.croco import PointNetwork, PoseNetwork
from .tiny.tiny_network import TinyNetwork
from .variants import CameraOutput, CrocoConfig, NetworkConfig, PairOutput
from .vggt import VggtNetwork

Network = (
    R3Network | TinyNetwork | DA3Network | MetricNetwork | VggtNetwork | PointNetwork | PoseNetwork
)

_CLASSES: dict[CameraOutput, Callable[[NetworkConfig], Network]] = {
    CameraOutput.PAIRS: R3Network,
    CameraOutput.MATCHES: TinyNetwork,
    CameraOutput.ABSOLUTE: DA3Network,
    CameraOutput.NONE: MetricNetwork,
    CameraOutput.REFINED: VggtNetwork,
    CameraOutput.VIDEO: VggtNetwork,
}


def build_network(config: NetworkConfig | CrocoConfig) -> Network:
    """Return the network of a configuration, with fresh weights and in training mode."""
    if isinstance(config, CrocoConfig):
        of_pose = config.output is PairOutput.POSE
        return PoseNetwork(config) if of_pose else PointNetwork(config)
    return _CLASSES[config.camera](config)


def made_up_network(
    config: NetworkConfig | CrocoConfig, dtype: torch.dtype, device: torch.device
) -> Network:
    """Return a network of random weights, for measurements: times do not depend on the weights.

    Its answers are finite and differ from image to image, the same for every device and type.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(config)
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(0.0, parameter[0].numel() ** -0.5)
            elif name.endswith('gamma'):
                parameter.data.fill_(0.5)
            if not network.keeps_float32(name):
                parameter.data = parameter.data.to(dtype)
    camera = getattr(network, 'cam_dec', None)
    if camera is not None:  # with fields of view that are possible
        camera.fc_fov[0].weight.data *= 0.01
        camera.fc_fov[0].bias.data = torch.tensor([0.9, 1.1])
    return network.to(device).eval().requires_grad_(False)
