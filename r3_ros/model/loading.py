"""From the configuration to a predictor with weights, on a device, in a precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
import os
from pathlib import Path

import torch

from ..core.config import MemoryConfig, ModelConfig, OfflineConfig, PUBLISHED_IMAGE
from ..core.datatypes import ModelInfo
from ..core.errors import CheckpointError, ModelError
from .cache.frame_memory import Room
from .metric_predictor import MetricPredictor
from .network import MetricNetwork, R3Network
from .r3_predictor import R3Predictor
from .r3_window_predictor import R3WindowPredictor
from .weights.catalogue import CATALOGUE, find_weights, missing_message
from .weights.checkpoint import load_network

#: Types by the names that the configuration uses.
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
#: The metric network among the published weights.
METRIC_WEIGHTS = 'da3metric-large'
_MIB = 2**20
#: Networks that are over so soon on a CPU that a second thread would only wait for the first.
_SMALL = ('r3-tiny',)
#: GPUs from this compute capability on multiply bfloat16 at full speed.
_BF16_CAPABILITY = (8, 0)


@dataclass(frozen=True, eq=False)
class _Loaded:
    """R3 on its device, in its precision.

    :ivar config: what was asked for, with the size of images that is meant.
    """

    network: R3Network
    info: ModelInfo
    device: torch.device
    config: ModelConfig


def load_r3(config: ModelConfig, memory: MemoryConfig) -> R3Predictor:
    """Load the weights that the configuration names and return the predictor.

    :raises ModelError: no weights, the wrong ones (CheckpointError), or no such device.
    """
    loaded = _load(config)
    return R3Predictor(
        loaded.network,
        loaded.info,
        loaded.config,
        Room(memory.max_gpu_mib * _MIB, memory.max_host_mib * _MIB),
        loaded.device,
        memory.recomputed_per_frame,
    )


def load_r3_windows(config: ModelConfig, offline: OfflineConfig) -> R3WindowPredictor:
    """Load the weights that the configuration names and return the predictor of windows.

    :raises ModelError: no weights, the wrong ones (CheckpointError), or no such device.
    """
    loaded = _load(config)
    memory_bytes = offline.max_memory_mib * _MIB
    return R3WindowPredictor(
        loaded.network, loaded.info, loaded.config, memory_bytes, loaded.device
    )


def load_metric(config: ModelConfig) -> MetricPredictor:
    """Load the metric network, on the device and in the precision of the predictor's.

    :raises ModelError: no weights, the wrong ones (CheckpointError), or no such device.
    """
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    path = _metric_path()
    return MetricPredictor(_metric_network(path, precision, device), device)


def _metric_network(path: Path, precision: str, device: torch.device) -> MetricNetwork:
    variant, dtype = CATALOGUE[METRIC_WEIGHTS].variant, DTYPES[precision]
    network = load_network(path, variant=variant, dtype=dtype, device=device).network
    assert isinstance(network, MetricNetwork)
    return network


def _load(config: ModelConfig) -> _Loaded:
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    path = _weights_path(config)
    loaded = load_network(path, dtype=DTYPES[precision], device=device)
    if not isinstance(loaded.network, R3Network):
        raise CheckpointError(
            f'{path} holds the network {loaded.variant}, which knows no pairs of frames: give '
            'model.checkpoint a file of R3'
        )
    if device.type == 'cpu' and loaded.variant in _SMALL:
        _take_one_thread()
    info = ModelInfo(config.name, str(device), precision, loaded.sha256, loaded.notes)
    size = config.image_size or loaded.image_size or PUBLISHED_IMAGE
    return _Loaded(loaded.network, info, device, replace(config, image_size=size))


def _take_one_thread() -> None:
    """Have torch compute on the thread that asks, unless ``OMP_NUM_THREADS`` says otherwise.

    Where other processes want the cores as well, as beside a node, threads that wait actively for
    one another at the end of every small product take seven times the CPU time, and the stream
    waits for whichever comes last.
    """
    if 'OMP_NUM_THREADS' not in os.environ:
        torch.set_num_threads(1)


def choose_device(name: str) -> torch.device:
    """Return the device that a configuration asks for.

    :param name: ``auto``, ``cpu`` or ``cuda``.
    :raises ModelError: there is no such device here.
    """
    available = torch.cuda.is_available()
    if name == 'cuda' and not available:
        raise ModelError(
            "model.device is 'cuda', but torch finds no CUDA device: install the driver and a "
            "torch with CUDA, or set model.device to 'cpu'"
        )
    return torch.device('cuda', 0) if available and name != 'cpu' else torch.device('cpu')


def choose_precision(name: str, device: torch.device) -> str:
    """Return ``fp32``, ``bf16`` or ``fp16``, choosing for the device where ``auto`` is given."""
    if name != 'auto':
        return name
    if device.type != 'cuda':
        return 'fp32'
    capable = torch.cuda.get_device_capability(device) >= _BF16_CAPABILITY
    return 'bf16' if capable else 'fp16'


def _weights_path(config: ModelConfig) -> Path:
    if config.checkpoint:
        return Path(os.path.expanduser(config.checkpoint))
    if config.name not in CATALOGUE:
        raise ModelError(
            f"no weights of '{config.name}' come with this package yet: train them (r3 train) and "
            'name the file with model.checkpoint'
        )
    try:
        return _found_weights(config.name)
    except ModelError as error:
        raise ModelError(f'{error}; or name a file with model.checkpoint') from error


def _metric_path() -> Path:
    try:
        return _found_weights(METRIC_WEIGHTS)
    except ModelError as error:
        raise ModelError(f"{error}; scale.source 'model' takes its scale from them") from error


def _found_weights(name: str) -> Path:
    path = find_weights(name)
    if path is None:
        raise ModelError(missing_message(name))
    return path
