"""The least time that a network can take on this machine.

Multiplications are counted (:mod:`torch.utils.flop_counter`: of products of matrices,
convolutions and attention). A forward pass takes at least their number over the rate of a large
product of matrices, and at least the time to read its weights and what is cached of its context
frames once. Both rates are measured here, with the threads that the network uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
import math
import time
from typing import Any

import torch
from torch.nn.attention import sdpa_kernel, SDPBackend
from torch.utils.flop_counter import FlopCounterMode

from .layers import linear, ONEDNN_LINEAR
from .loading import DTYPES
from .network_predictor import NetworkPredictor

_ROUNDS = 12
#: Side of the matrices, and size of the copy: large enough for the full rate, and for no cache.
_SIDE = {'cpu': 1024, 'cuda': 8192}
_COPIED_BYTES = {'cpu': 256 << 20, 'cuda': 2 << 30}


def _linear_flops(x: Sequence[int], weight: Sequence[int], *_: object, **__: object) -> int:
    return 2 * math.prod(x) * weight[0]


#: Operations on matrices that torch does not count.
_UNCOUNTED = {} if ONEDNN_LINEAR is None else {ONEDNN_LINEAR: _linear_flops}


@dataclass(frozen=True)
class ComputeFloor:
    """What the least time of a frame follows from.

    :ivar flops: floating point operations per frame, a multiplication and an addition being two.
    :ivar weight_bytes: size of the weights; ``context_bytes``: of what is cached of a context.
    :ivar flops_per_s: of a product of matrices; ``bytes_per_s``: read and written by a copy.
    """

    flops: float
    weight_bytes: int
    context_bytes: int
    flops_per_s: float
    bytes_per_s: float

    @property
    def compute_ms(self) -> float:
        """Least time to compute a frame."""
        return 1e3 * self.flops / self.flops_per_s

    @property
    def memory_ms(self) -> float:
        """Least time to read what a frame needs."""
        return 1e3 * (self.weight_bytes + self.context_bytes) / self.bytes_per_s

    @property
    def floor_ms(self) -> float:
        """Least time of a frame."""
        return max(self.compute_ms, self.memory_ms)

    def against(self, measured_ms: float) -> dict[str, float]:
        """Return all figures by name, with those of a measured time of the network."""
        return {
            **asdict(self),
            'compute_ms': self.compute_ms,
            'memory_ms': self.memory_ms,
            'floor_ms': self.floor_ms,
            'measured_ms': measured_ms,
            'ratio': measured_ms / self.floor_ms,
        }


def compute_floor(predictor: NetworkPredictor[Any], frames: Callable[[], int]) -> ComputeFloor:
    """Count the operations of frames and measure the machine.

    :param frames: processes some frames with the predictor and returns their number.
    """
    with predictor.operation_by_operation(), counted_flops() as counter:
        count = frames()
    device = torch.device(predictor.info.device)
    dtype = DTYPES[predictor.info.precision]
    return ComputeFloor(
        counter.get_total_flops() / count,
        predictor.weight_bytes,
        predictor.context_bytes,
        _product_rate(device, dtype),
        _copy_rate(device),
    )


@contextmanager
def counted_flops() -> Iterator[FlopCounterMode]:
    """Count the operations that are called while the context lasts."""
    counter = FlopCounterMode(display=False, custom_mapping=_UNCOUNTED)
    # Other implementations of attention are not counted on CPUs.
    with sdpa_kernel(SDPBackend.MATH), counter:
        yield counter


def _product_rate(device: torch.device, dtype: torch.dtype) -> float:
    side = _SIDE[device.type]
    a, b = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
    with torch.inference_mode():
        return 2.0 * side**3 / _fastest(lambda: linear(a, b), device)


def _copy_rate(device: torch.device) -> float:
    size = _COPIED_BYTES[device.type]
    a, b = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2.0 * size / _fastest(lambda: a.copy_(b), device)


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest round: others were disturbed."""
    seconds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        work()
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds)
