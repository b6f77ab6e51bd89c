"""What torch says when a device fails, in the words of this package."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import ParamSpec, TypeVar

import torch

from ..core.errors import DeviceLostError, DeviceMemoryError

Given = ParamSpec('Given')
Answer = TypeVar('Answer')

#: How an error of CUDA begins where torch has no class for it: older builds, and its libraries.
_CUDA_ERRORS = ('CUDA error', 'cuDNN error', 'CUBLAS_STATUS', 'cuBLAS error', 'CUDA driver error')


def tells_device_errors(function: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """Raise errors of the device as ours.

    :raises DeviceMemoryError: the device has no memory left.
    :raises DeviceLostError: any other error of CUDA; every later call fails in the same way.
    """

    @functools.wraps(function)
    def told(*args: Given.args, **kwargs: Given.kwargs) -> Answer:
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:
            named = device_error(error)
            if named is None:
                raise
            raise named from error

    return told


def device_error(error: BaseException) -> DeviceMemoryError | DeviceLostError | None:
    """Return what an error of torch is in our words, None if it is not of the device."""
    if not isinstance(error, RuntimeError):
        return None
    text = str(error).partition('\n')[0]
    # The classes are those of torch; its libraries tell of memory in words.
    if isinstance(error, torch.OutOfMemoryError) or 'out of memory' in text.lower():
        return DeviceMemoryError(f'the device has no memory left: {text}')
    is_accelerator = isinstance(error, getattr(torch, 'AcceleratorError', ()))
    if is_accelerator or any(words in text for words in _CUDA_ERRORS):
        return DeviceLostError(f'the device does not answer any more: {text}')
    return None
