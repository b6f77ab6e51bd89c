"""Networks by their configurations."""

from __future__ import annotations

from collections.abc import Callable

from .network import DA3Network, MetricNetwork, R3Network
from .tiny.tiny_network import TinyNetwork
from .variants import CameraOutput, NetworkConfig
from .vggt import VggtNetwork

Network = R3Network | TinyNetwork | DA3Network | MetricNetwork | VggtNetwork

_CLASSES: dict[CameraOutput, Callable[[NetworkConfig], Network]] = {
    CameraOutput.PAIRS: R3Network,
    CameraOutput.MATCHES: TinyNetwork,
    CameraOutput.ABSOLUTE: DA3Network,
    CameraOutput.NONE: MetricNetwork,
    CameraOutput.REFINED: VggtNetwork,
    CameraOutput.VIDEO: VggtNetwork,
}


def build_network(config: NetworkConfig) -> Network:
    """Return the network of a configuration, with fresh weights and in training mode."""
    return _CLASSES[config.camera](config)
