"""The memory of the device that torch computes on."""

from __future__ import annotations

import torch

from ..core.datatypes import DeviceMemory


def device_memory(device: torch.device) -> DeviceMemory | None:
    """Return the use of the device's memory; None on a CPU, or if the device is lost."""
    if device.type != 'cuda':
        return None
    try:
        free, _ = torch.cuda.mem_get_info(device)
        return DeviceMemory(
            device=torch.cuda.get_device_name(device),
            used=torch.cuda.memory_allocated(device),
            reserved=torch.cuda.memory_reserved(device),
            peak=torch.cuda.max_memory_allocated(device),
            free=free,
        )
    except RuntimeError:
        return None  # the next frame raises the error


def empty_cache(device: torch.device) -> None:
    """Free the memory that torch keeps for later."""
    if device.type == 'cuda':
        torch.cuda.empty_cache()
