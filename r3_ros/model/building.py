"""Networks by their configurations."""

from __future__ import annotations

from collections.abc import Callable

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
