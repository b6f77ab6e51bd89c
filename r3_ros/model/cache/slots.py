"""The memory of cached frames on the device: slots in one block, in the layout of attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ...core.errors import ModelError
from ..multi_view import FrameFeatures
from ..network import FrameCache
from ..transfers import host_copy

#: What is cached of a frame: all entries have one size.
EntryT = TypeVar('EntryT', FrameCache, FrameFeatures)


class Slots(Generic[EntryT]):
    """Slots of entries of one frame each.

    The first slots are contiguous for every head of every block, so attention reads them in place.

    :ivar room: the slot into which the frame that attends to the last context is written.
    """

    def __init__(self, entry: EntryT, count: int) -> None:
        """Allocate memory for entries like this one.

        :raises ModelError: there is not so much memory on the host.
        """
        parts = entry.parts
        self._device = parts[0].device
        self._one: EntryT = entry.with_parts(
            [torch.empty_like(part, device='meta') for part in parts]
        )
        self._dimensions = entry.frame_dimensions
        self._parts: list[Tensor] = []
        self._contexts: dict[int, FrameCache] = {}
        self.room = 0
        self.resize(count)

    def resize(self, count: int) -> None:
        """Allocate another number of slots; their content is lost.

        :raises ModelError: there is not so much memory on the host.
        """
        # First, so that both need not fit.
        self._contexts, self._parts = {}, []
        if self._device.type == 'cuda':
            torch.cuda.empty_cache()
        for one, dimension in zip(self._one.parts, self._dimensions, strict=True):
            shape = list(one.shape)
            shape[dimension] = count
            try:
                self._parts.append(torch.empty(shape, dtype=one.dtype, device=self._device))
            except RuntimeError as error:
                if self._device.type == 'cuda':
                    raise
                raise ModelError(
                    f'there is no memory for {count} cached frames of '
                    f'{self._one.nbytes / 2**20:.0f} MiB: lower memory.max_gpu_mib'
                ) from error

    def context(self: Slots[FrameCache], count: int) -> FrameCache:
        """Return the first slots, with the next one as their extension."""
        if count not in self._contexts:
            first, extended = (self._one.with_parts(self._range(0, n)) for n in (count, count + 1))
            self._contexts[count] = replace(first, extended=extended)
        return self._contexts[count]

    def entry(self, slot: int) -> EntryT:
        """Return an entry in its slot: valid until another is put there."""
        return self._one.with_parts(self._range(slot))

    def put(self, slot: int, parts: Sequence[Tensor]) -> None:
        """Copy the parts of an entry into a slot, from the network or from :meth:`host_entry`."""
        for into, part in zip(self._range(slot), parts, strict=True):
            into.copy_(part, non_blocking=True)

    def copy(self, source: int, target: int) -> None:
        """Copy a slot to another."""
        self.put(target, self._range(source))

    def host_entry(self, slot: int) -> tuple[Tensor, ...]:
        """Return a copy of a slot in host memory, in the order of the computations."""
        return tuple(host_copy(part) for part in self._range(slot))

    def _range(self, start: int, count: int = 1) -> list[Tensor]:
        return [
            part.narrow(dimension, start, count)
            for part, dimension in zip(self._parts, self._dimensions, strict=True)
        ]
