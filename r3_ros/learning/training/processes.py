"""The processes of a training, one per device, as torchrun starts them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import os

import torch
from torch import distributed

from ...core.errors import ConfigError, ModelError


@dataclass(frozen=True)
class TrainingProcess:
    """One process of a training."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Return whether this process writes the files and reports progress."""
        return self.rank == 0


@contextmanager
def joined(device_name: str) -> Iterator[TrainingProcess]:
    """Join the process group if torchrun started several processes, and leave it at the end.

    :param device_name: ``auto``, ``cpu`` or ``cuda``.
    :raises ModelError: there is no such device.
    :raises ConfigError: variables of torchrun are missing.
    """
    count = int(os.environ.get('WORLD_SIZE', '1'))
    try:
        rank = int(os.environ.get('RANK', '0')) if count > 1 else 0
        local = int(os.environ['LOCAL_RANK']) if count > 1 else 0
    except (KeyError, ValueError) as error:
        raise ConfigError(f'start several processes with torchrun: {error} is not set') from error
    available = torch.cuda.is_available()
    if device_name == 'cuda' and not available:
        raise ModelError("no CUDA device was found: use --device cpu, or 'auto'")
    device = torch.device('cpu')
    if available and device_name != 'cpu':
        device = torch.device('cuda', local)
        torch.cuda.set_device(device)
    if count == 1:
        yield TrainingProcess(device)
        return
    distributed.init_process_group('nccl' if device.type == 'cuda' else 'gloo')
    try:
        yield TrainingProcess(device, rank, count)
    finally:
        distributed.destroy_process_group()


def mean_over(process: TrainingProcess, values: torch.Tensor) -> torch.Tensor:
    """Return the mean of a tensor over all processes."""
    if process.count > 1:
        distributed.all_reduce(values)
        values = values / process.count
    return values


def all_agree(process: TrainingProcess, here: bool) -> bool:
    """Return whether ``here`` is true in every process; waits for all of them."""
    if process.count == 1:
        return here
    vote = torch.tensor([1.0 if here else 0.0], device=process.device)
    distributed.all_reduce(vote, op=distributed.ReduceOp.MIN)
    return bool(vote.item() > 0)
