"""Device errors of torch as errors of this package."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import ParamSpec, TypeVar

import torch

from ..core.errors import DeviceLostError, DeviceMemoryError

Arguments = ParamSpec('Arguments')
Result = TypeVar('Result')

#: First words of CUDA errors without a class of their own in torch.
_CUDA_ERRORS = ('CUDA error', 'cuDNN error', 'CUBLAS_STATUS', 'cuBLAS error', 'CUDA driver error')


def converts_device_errors(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Raise device errors of a function as ours.

    :raises DeviceMemoryError: the device has no memory left.
    :raises DeviceLostError: any other error of CUDA; every later call fails in the same way.
    """

    @functools.wraps(function)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:
            ours = device_error(error)
            if ours is None:
                raise
            raise ours from error

    return wrapper


def device_error(error: BaseException) -> DeviceMemoryError | DeviceLostError | None:
    """Return our error for a device error of torch; None for any other error."""
    if not isinstance(error, RuntimeError):
        return None
    text = str(error).partition('\n')[0]
    # CUDA libraries report exhausted memory only in the message.
    if isinstance(error, torch.OutOfMemoryError) or 'out of memory' in text.lower():
        return DeviceMemoryError(f'the device has no memory left: {text}')
    is_accelerator = isinstance(error, getattr(torch, 'AcceleratorError', ()))
    if is_accelerator or any(words in text for words in _CUDA_ERRORS):
        return DeviceLostError(f'the device is lost: {text}')
    return None
