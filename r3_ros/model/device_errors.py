"""Device errors of torch as errors of this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..core.errors import DeviceLostError, DeviceMemoryError

#: First words of CUDA errors without a class of their own in torch.
_CUDA_ERRORS = ('CUDA error', 'cuDNN error', 'CUBLAS_STATUS', 'cuBLAS error', 'CUDA driver error')


@contextmanager
def device_errors() -> Iterator[None]:
    """Raise device errors as ours, within a block or a decorated function.

    :raises DeviceMemoryError: the device has no memory left.
    :raises DeviceLostError: any other error of CUDA; every later call fails in the same way.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error).partition('\n')[0]
        # CUDA libraries report exhausted memory only in the message.
        if isinstance(error, torch.OutOfMemoryError) or 'out of memory' in text.lower():
            raise DeviceMemoryError(f'the device has no memory left: {text}') from error
        is_accelerator = isinstance(error, getattr(torch, 'AcceleratorError', ()))
        if is_accelerator or any(words in text for words in _CUDA_ERRORS):
            raise DeviceLostError(f'the device is lost: {text}') from error
        raise
