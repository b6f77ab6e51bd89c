"""Predictors as configured: weights, device and precision."""

from __future__ import annotations

from dataclasses import replace
import os
from pathlib import Path

import torch

from ..core.config import MemoryConfig, ModelConfig, OfflineConfig, PUBLISHED_IMAGE
from ..core.datatypes import ModelInfo
from ..core.error_model import ErrorModel
from ..core.errors import CheckpointError, ModelError
from .cache.frame_memory import CacheBudget
from .metric_predictor import MetricPredictor
from .network import MetricNetwork, PairNetwork, R3Network
from .r3_predictor import R3Predictor
from .r3_window_predictor import R3WindowPredictor
from .weights.catalogue import CATALOGUE, find_weights, missing_message
from .weights.checkpoint import load_network

#: Types by the names that the configuration uses.
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
#: The metric network among the published weights.
METRIC_WEIGHTS = 'da3metric-large'
_MIB = 2**20
#: Networks too small for several threads on a CPU.
_SMALL = ('r3-tiny',)
#: Of the file beside weights that holds their error model (benchmarks/calibrate_covariance.py).
ERRORS_SUFFIX = '.errors.json'
#: GPUs from this compute capability on multiply bfloat16 at full speed.
_BF16_CAPABILITY = (8, 0)


def load_r3(config: ModelConfig, memory: MemoryConfig) -> R3Predictor:
    """Load the configured weights and return the predictor of a stream.

    :raises ModelError: no weights, unsuitable ones (CheckpointError), or no such device.
    """
    network, info, device, config = _load(config)
    if config.cuda_graphs and not isinstance(network, R3Network):
        raise ModelError(
            f'model.cuda_graphs is on, and {network.config.name} reads back from the device '
            'within a step, which no graph can: turn it off'
        )
    budget = CacheBudget(memory.max_gpu_mib * _MIB, memory.max_host_mib * _MIB)
    predictor = R3Predictor(network, info, config, budget, device, memory.recomputed_per_frame)
    errors = _weights_path(config).with_suffix(ERRORS_SUFFIX)
    if errors.is_file():
        predictor.error_model = ErrorModel.read(errors)
    return predictor


def load_r3_windows(config: ModelConfig, offline: OfflineConfig) -> R3WindowPredictor:
    """Load the configured weights and return the predictor of windows.

    :raises ModelError: no weights, unsuitable ones (CheckpointError), or no such device.
    """
    network, info, device, config = _load(config)
    return R3WindowPredictor(network, info, config, offline.max_memory_mib * _MIB, device)


def load_metric(config: ModelConfig) -> MetricPredictor:
    """Load the metric network, on the device and in the precision of the predictor.

    :raises ModelError: no weights, unsuitable ones (CheckpointError), or no such device.
    """
    device = choose_device(config.device)
    dtype = DTYPES[choose_precision(config.precision, device)]
    path = _found_weights(METRIC_WEIGHTS, "scale.source 'model' takes its scale from them")
    variant = CATALOGUE[METRIC_WEIGHTS].variant
    network = load_network(path, variant=variant, dtype=dtype, device=device).network
    assert isinstance(network, MetricNetwork)
    return MetricPredictor(network, device)


def _load(config: ModelConfig) -> tuple[PairNetwork, ModelInfo, torch.device, ModelConfig]:
    """Return R3 with its device, and the configuration with the image size that applies."""
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    path = _weights_path(config)
    loaded = load_network(path, dtype=DTYPES[precision], device=device)
    if not isinstance(loaded.network, PairNetwork):
        raise CheckpointError(
            f'{path} holds the network {loaded.variant}, which predicts no pairs of frames: set '
            'model.checkpoint to a file of R3'
        )
    # Small products of several threads, which wait actively for one another, take seven times the
    # CPU time and are slower if other processes need the cores.
    if device.type == 'cpu' and loaded.variant in _SMALL and 'OMP_NUM_THREADS' not in os.environ:
        torch.set_num_threads(1)
    info = ModelInfo(config.name, str(device), precision, loaded.sha256, loaded.notes)
    size = config.image_size or loaded.image_size or PUBLISHED_IMAGE
    return loaded.network, info, device, replace(config, image_size=size)


def choose_device(name: str) -> torch.device:
    """Return the configured device.

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
    """Return ``fp32``, ``bf16`` or ``fp16``; ``auto`` depends on the device."""
    if name != 'auto':
        return name
    if device.type != 'cuda':
        return 'fp32'
    capable = torch.cuda.get_device_capability(device) >= _BF16_CAPABILITY
    return 'bf16' if capable else 'fp16'


def _weights_path(config: ModelConfig) -> Path:
    if config.checkpoint:
        return Path(os.path.expanduser(config.checkpoint))
    return _found_weights(config.name, 'or name a file with model.checkpoint')


def _found_weights(name: str, hint: str) -> Path:
    path = find_weights(name)
    if path is None:
        raise ModelError(f'{missing_message(name)}; {hint}')
    return path
