"""Copies between host and device. Only :func:`fetched` waits for the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def uploaded(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an array on the device, by way of pinned memory if that is a GPU; not waited for."""
    host = torch.from_numpy(array)
    if device.type == 'cuda':
        # torch reuses the memory only after the copy.
        host = host.pin_memory()
    return host.to(device, non_blocking=True)


def host_copy(tensor: Tensor) -> Tensor:
    """Return a copy in host memory, pinned if the tensor is on a GPU; not waited for."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor, non_blocking=True)


def fetched(tensor: Tensor) -> np.ndarray:
    """Return a tensor on the host, after all that was computed before it."""
    if not tensor.is_cuda:
        return tensor.cpu().numpy()
    host = host_copy(tensor)
    torch.cuda.current_stream(tensor.device).synchronize()
    return host.numpy()
