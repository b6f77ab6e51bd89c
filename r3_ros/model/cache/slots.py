"""Buffers on the device that hold cached frames, one per slot.

Any frame may be in any slot: attention does not depend on the order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..backbone import KeyValues
from ..network import FrameCache


class SlotKeyValues(KeyValues):
    """The first slots of one layer, with room for the next frame behind them."""

    def __init__(self, stored: list[Tensor], frames: int, wait: Callable[[], None]) -> None:
        """View the first ``frames`` slots of the two buffers (1, h, slots, P, d).

        :param wait: see :meth:`ready`.
        """
        super().__init__(*(buffer[:, :, :frames] for buffer in stored))
        object.__setattr__(self, '_stored', stored)
        object.__setattr__(self, '_wait', wait)

    _stored: list[Tensor]
    _wait: Callable[[], None]

    def ready(self) -> None:
        """Make later computations wait for the copies into these slots."""
        self._wait()

    def followed_by(self, other: KeyValues) -> KeyValues:
        """Write the new frame behind these and return all, without copying these."""
        frames = self.keys.shape[2]
        after = frames + other.keys.shape[2]
        for buffer, tensor in zip(self._stored, (other.keys, other.values), strict=True):
            buffer[:, :, frames:after] = tensor
        return KeyValues(*(buffer[:, :, :after] for buffer in self._stored))


class Slots:
    """The buffers, and which frame is in which slot."""

    def __init__(self, entry: FrameCache, slots: int) -> None:
        """Allocate ``slots`` slots for entries shaped like the one given."""
        self.layers = [
            [_buffer(kv.keys, 2, slots), _buffer(kv.values, 2, slots)] for kv in entry.key_values
        ]
        self.pair_features = [_buffer(feature, 1, slots) for feature in entry.pair_features]
        self.occupants: list[int | None] = [None] * slots

    def __len__(self) -> int:
        return len(self.occupants)

    def by_layer(self, slot: int) -> list[list[Tensor]]:
        """Return views of a slot; the first layer includes the features of pairs."""
        layers = [[buffer[:, :, slot : slot + 1] for buffer in layer] for layer in self.layers]
        layers[0].extend(feature[:, slot : slot + 1] for feature in self.pair_features)
        return layers

    def tensors_of(self, slot: int) -> list[Tensor]:
        """Return the views of :meth:`by_layer` in one list."""
        return [view for layer in self.by_layer(slot) for view in layer]

    def write(self, slot: int, tensors: Iterable[Tensor]) -> None:
        """Copy an entry's tensors into a slot."""
        for view, tensor in zip(self.tensors_of(slot), tensors, strict=True):
            view.copy_(tensor, non_blocking=True)

    def exchange(self, a: int, b: int) -> None:
        """Exchange two slots; empty ones cost nothing."""
        if self.occupants[a] is None:
            a, b = b, a
        if self.occupants[a] is None:
            return
        kept = [view.clone() for view in self.tensors_of(a)]
        if self.occupants[b] is not None:
            self.write(a, self.tensors_of(b))
        self.write(b, kept)
        self.occupants[a], self.occupants[b] = self.occupants[b], self.occupants[a]

    def keep_only(self, kept: Sequence[int], slots: int) -> None:
        """Replace the buffers by smaller ones that begin with the occupants of some slots.

        One buffer at a time, so that little additional memory is needed meanwhile.
        """

        def smaller(buffer: Tensor, dimension: int) -> Tensor:
            new = _buffer(buffer, dimension, slots)
            for n, slot in enumerate(kept):
                new.select(dimension, n).copy_(buffer.select(dimension, slot))
            return new

        for layer in self.layers:
            for n, buffer in enumerate(layer):
                layer[n] = smaller(buffer, 2)
        self.pair_features = [smaller(feature, 1) for feature in self.pair_features]
        staying = [self.occupants[slot] for slot in kept]
        self.occupants = [*staying, *[None] * (slots - len(staying))]

    def first(self, frames: int, waits: Sequence[Callable[[], None]]) -> FrameCache:
        """Return the first slots as a cache with room for one more frame.

        :param waits: one per layer, see :class:`SlotKeyValues`.
        """
        return FrameCache(
            tuple(
                SlotKeyValues(stored, frames, wait)
                for stored, wait in zip(self.layers, waits, strict=True)
            ),
            tuple(feature[:, :frames] for feature in self.pair_features),
        )


def _buffer(like: Tensor, dimension: int, slots: int) -> Tensor:
    shape = list(like.shape)
    shape[dimension] = slots
    return torch.empty(shape, dtype=like.dtype, device=like.device)


def stored_tensors(entry: FrameCache) -> list[Tensor]:
    """Return an entry's tensors in the order of :meth:`Slots.tensors_of`."""
    layers = [[kv.keys, kv.values] for kv in entry.key_values]
    layers[0].extend(entry.pair_features)
    return [tensor for layer in layers for tensor in layer]
