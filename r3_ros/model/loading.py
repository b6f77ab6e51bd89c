"""Predictors as configured: weights, device and precision."""

from __future__ import annotations

import ctypes
from dataclasses import replace
import json
import os
from pathlib import Path
import sys
from typing import Any

import torch

from ..core.config import (
    MemoryConfig,
    ModelConfig,
    MULTI_VIEW_NAMES,
    OfflineConfig,
    PAIR_NAMES,
    PUBLISHED_IMAGE,
)
from ..core.datatypes import ModelInfo
from ..core.error_model import ErrorModel
from ..core.errors import CheckpointError, ModelError
from .cache.frame_memory import CacheBudget
from .metric_predictor import MetricPredictor
from .multi_view import MultiViewNetwork
from .multi_view_predictor import MultiViewPredictor
from .network import MetricNetwork, PairNetwork, R3Network
from .network_predictor import NetworkPredictor
from .pairs.croco import CrocoNetwork
from .pairs.pair_predictor import PairPredictor
from .r3_predictor import R3Predictor
from .weights.catalogue import CATALOGUE, find_weights, missing_message, model_weights
from .weights.checkpoint import load_network
from .window_predictor import NetworkWindowPredictor

#: Types by the names that the configuration uses.
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
#: The metric network among the published weights.
METRIC_WEIGHTS = 'da3metric_large'
_MIB = 2**20
#: Networks too small for several threads on a CPU.
_SMALL = ('r3-tiny',)
#: Of glibc's mallopt: only larger blocks are given back when freed (M_MMAP_THRESHOLD; 32 MiB is
#: the most), and free memory at the end of the heap beyond this (M_TRIM_THRESHOLD).
_MALLOC_OPTIONS = {-3: 32 * _MIB, -1: 64 * _MIB}
#: Of the file beside weights that holds their error model (benchmarks/calibrate_covariance.py).
ERRORS_SUFFIX = '.errors.json'
#: Entry of that file: the weights that it was fitted to, if those were trained further.
INHERITED = 'fitted_to'
#: The parameters that name the predictor's network and its weights.
_NAME_AND_CHECKPOINT = ('model.name', 'model.checkpoint')
#: GPUs from this compute capability on multiply bfloat16 at full speed.
_BF16_CAPABILITY = (8, 0)


def load_streaming(
    config: ModelConfig,
    memory: MemoryConfig,
    parameters: tuple[str, str] = _NAME_AND_CHECKPOINT,
) -> R3Predictor | MultiViewPredictor | PairPredictor:
    """Load the configured weights and return the predictor of a stream.

    :param parameters: those that name the network and its weights, for messages.
    :raises ModelError: no weights, unsuitable ones (CheckpointError), or no such device.
    """
    network, info, device, config = _load(config, parameters)
    if config.cuda_graphs and not isinstance(network, R3Network):
        raise ModelError(
            'model.cuda_graphs is only for r3 and r3_long: r3_tiny reads back from the device '
            'within a step, and no other network has graphs; turn it off'
        )
    budget = CacheBudget(memory.max_gpu_mib * _MIB, memory.max_host_mib * _MIB)
    predictor: R3Predictor | MultiViewPredictor | PairPredictor
    recomputed = memory.recomputed_per_frame
    if isinstance(network, MultiViewNetwork):
        predictor = MultiViewPredictor(network, info, config, budget, device)
    elif isinstance(network, CrocoNetwork):
        predictor = PairPredictor(network, info, config, budget, device, recomputed)
    else:
        predictor = R3Predictor(network, info, config, budget, device, recomputed)
    _add_error_model(predictor, _weights_path(config, parameters[1]).with_suffix(ERRORS_SUFFIX))
    return predictor


def _add_error_model(predictor: NetworkPredictor[Any], file: Path) -> None:
    """Take the error model beside the weights, and note where it does not belong to them.

    :raises CheckpointError: the file is no error model.
    """
    note = f'covariances are guesses: there is no {file.name} beside the weights'
    if file.is_file():
        try:
            predictor.error_model = ErrorModel.read(file)
            fitted_to = json.loads(file.read_text()).get(INHERITED)
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise CheckpointError(f'{file} is no error model ({error}): remove it') from error
        if fitted_to is None:
            return
        note = f'covariances were fitted to {fitted_to}, not to what was trained from it'
    info = predictor.info
    predictor.info = replace(info, notes=(*info.notes, note))


def load_windows(config: ModelConfig, offline: OfflineConfig) -> NetworkWindowPredictor:
    """Load the configured weights and return the predictor of windows.

    :raises ModelError: no weights, unsuitable ones (CheckpointError), or no such device.
    """
    network, info, device, config = _load(config)
    assert not isinstance(network, CrocoNetwork)
    return NetworkWindowPredictor(network, info, config, offline.max_memory_mib * _MIB, device)


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


def _load(
    config: ModelConfig, parameters: tuple[str, str] = _NAME_AND_CHECKPOINT
) -> tuple[PairNetwork | MultiViewNetwork | CrocoNetwork, ModelInfo, torch.device, ModelConfig]:
    """Return the network with its device, and the configuration with the image size it needs."""
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    of_name, of_checkpoint = parameters
    path = _weights_path(config, of_checkpoint)
    loaded = load_network(path, dtype=DTYPES[precision], device=device)
    network = loaded.network
    kind: type = PairNetwork
    if config.name in MULTI_VIEW_NAMES:
        kind = MultiViewNetwork
    elif config.name in PAIR_NAMES:
        kind = CrocoNetwork
    if not isinstance(network, kind):
        raise CheckpointError(
            f'{path} holds the network {loaded.variant}, which is not for {of_name} '
            f"'{config.name}': change one of {of_checkpoint} and {of_name}"
        )
    assert isinstance(network, PairNetwork | MultiViewNetwork | CrocoNetwork)
    if device.type == 'cpu':
        # As oneDNN computes convolutions; torch's stubs lack this use of to.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # Small products of several threads, which wait actively for one another, take seven times the
    # CPU time and are slower if other processes need the cores.
    if device.type == 'cpu' and loaded.variant in _SMALL:
        if 'OMP_NUM_THREADS' not in os.environ:
            torch.set_num_threads(1)
        _keep_freed_memory()
    info = ModelInfo(config.name, str(device), precision, loaded.sha256, loaded.notes)
    size = config.image_size or loaded.image_size
    if not size:
        size = PUBLISHED_IMAGE if isinstance(network, PairNetwork) else network.image_size
    return network, info, device, replace(config, image_size=size)


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed: a tenth of a frame's time was new pages for the same maps."""
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if sys.platform == 'linux' else None
    if mallopt is not None:
        for option, size in _MALLOC_OPTIONS.items():
            mallopt(option, size)


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


def _weights_path(config: ModelConfig, of_checkpoint: str) -> Path:
    if config.checkpoint:
        return Path(os.path.expanduser(config.checkpoint))
    return _found_weights(config.name, f'or name a file with {of_checkpoint}')


def _found_weights(name: str, hint: str) -> Path:
    names = model_weights(name)
    path = next(filter(None, map(find_weights, names)), None)
    if path is None:
        others = [f'or fetch {other}, which serve {name} too' for other in names if other != name]
        raise ModelError('; '.join([missing_message(name), *others, hint]))
    return path
