"""The memory of cached frames on the device: slots in one block, in the layout of attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...core.errors import ModelError
from ..backbone import KeyValues
from ..network import FrameCache
from ..transfers import host_copy

#: Dimension of the slots in keys and values (L, 2, B, h, slots, P, d), L blocks across frames; in
#: pair features (B, slots, ...).
_OF_KEYS, _OF_FEATURES = 4, 1


class Slots:
    """Slots of entries, each with one frame's keys, values and pair features.

    The first slots are contiguous for every head of every block, so attention reads them in place.

    :ivar room: the slot into which the frame that attends to the last context is written.
    """

    def __init__(self, entry: FrameCache, count: int) -> None:
        """Allocate memory for entries like this one.

        :raises ModelError: there is not so much memory on the host.
        """
        parts = _parts_of(entry)
        self._device, self._entry_bytes = parts[0].device, entry.nbytes
        self._one = [torch.empty_like(part, device='meta') for part in parts]
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
        for n, one in enumerate(self._one):
            shape = list(one.shape)
            shape[_OF_FEATURES if n else _OF_KEYS] = count
            try:
                self._parts.append(torch.empty(shape, dtype=one.dtype, device=self._device))
            except RuntimeError as error:
                if self._device.type == 'cuda':
                    raise
                raise ModelError(
                    f'there is no memory for {count} cached frames of '
                    f'{self._entry_bytes / 2**20:.0f} MiB: lower memory.max_gpu_mib'
                ) from error

    def context(self, count: int) -> FrameCache:
        """Return the first slots, with the next one as their extension."""
        if count not in self._contexts:
            self._contexts[count] = replace(self._first(count), extended=self._first(count + 1))
        return self._contexts[count]

    def put(self, slot: int, entry: FrameCache | Sequence[Tensor]) -> None:
        """Copy an entry into a slot, from the network or from :meth:`host_entry`."""
        parts = _parts_of(entry) if isinstance(entry, FrameCache) else entry
        for into, part in zip(self._slot(slot), parts, strict=True):
            into.copy_(part, non_blocking=True)

    def copy(self, source: int, target: int) -> None:
        """Copy a slot to another."""
        self.put(target, self._slot(source))

    def host_entry(self, slot: int) -> tuple[Tensor, ...]:
        """Return a copy of a slot in host memory, in the order of the computations."""
        return tuple(host_copy(part) for part in self._slot(slot))

    def _slot(self, slot: int) -> list[Tensor]:
        return [
            part.narrow(_OF_FEATURES if n else _OF_KEYS, slot, 1)
            for n, part in enumerate(self._parts)
        ]

    def _first(self, count: int) -> FrameCache:
        keys_and_values, *features = self._parts
        return FrameCache(
            tuple(KeyValues(*layer.unbind()) for layer in keys_and_values[..., :count, :, :]),
            tuple(part[:, :count] for part in features),
        )


def _parts_of(entry: FrameCache) -> list[Tensor]:
    layers = [torch.stack([kv.keys, kv.values]) for kv in entry.key_values]
    return [torch.stack(layers), *entry.pair_features]
