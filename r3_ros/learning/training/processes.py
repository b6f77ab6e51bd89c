"""One process per device: what torchrun says of them, and what they tell one another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import os

import torch
from torch import distributed

from ...core.errors import ConfigError, ModelError


@dataclass(frozen=True)
class Place:
    """Which process of a training this is.

    :ivar rank: 0 writes and speaks.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def speaks(self) -> bool:
        """Return True for the one process that writes files and tells of progress."""
        return self.rank == 0


@contextmanager
def joined(device_name: str) -> Iterator[Place]:
    """Join the other processes if torchrun started several, and leave them at the end.

    :param device_name: ``auto``, ``cpu`` or ``cuda``.
    :raises ModelError: there is no such device.
    :raises ConfigError: torchrun's variables are not complete.
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
        yield Place(device)
        return
    distributed.init_process_group('nccl' if device.type == 'cuda' else 'gloo')
    try:
        yield Place(device, rank, count)
    finally:
        distributed.destroy_process_group()


def mean_over(place: Place, values: torch.Tensor) -> torch.Tensor:
    """Return the mean of a tensor over all processes."""
    if place.count > 1:
        distributed.all_reduce(values)
        values = values / place.count
    return values


def all_agree(place: Place, here: bool) -> bool:
    """Return True if every process says so: all stop, or none does."""
    if place.count == 1:
        return here
    vote = torch.tensor([1.0 if here else 0.0], device=place.device)
    distributed.all_reduce(vote, op=distributed.ReduceOp.MIN)
    return bool(vote.item() > 0)
