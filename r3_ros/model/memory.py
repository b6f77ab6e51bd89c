"""Where cache entries of held frames live: slots on the device, host memory, and disk.

The slots are buffers made once, and any frame may sit in any of them: attention sees neither
order nor place. The frames to be attended are brought into the first ones, so that keys and
values are read where they lie, and a new frame's are written behind them, where they stay if it
is kept. What does not fit into the slots waits in host memory, and what does not fit there in
files, or it is let go but for the frame's picture, from which it can be computed anew. Budgets are
in bytes and are never exceeded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelError
from .backbone import KeyValues
from .frame_store import FrameStore
from .network import FrameCache


@dataclass(frozen=True)
class Room:
    """Budgets of the three tiers in bytes.

    :ivar host_bytes: entries and pictures together.
    :ivar store_folder: where the third tier is; None: there is none.
    :ivar network: names the weights and their precision, so that files are not mixed up.
    :ivar pictures: instead of a third tier, every frame keeps its picture in host memory, and an
        entry that does not fit there is dropped.
    """

    device_bytes: int
    host_bytes: int
    store_folder: Path | None = None
    store_bytes: int = 0
    network: str = ''
    pictures: bool = False


class _SlotKeyValues(KeyValues):
    """The first slots of one layer, with room for the next frame behind them."""

    def __init__(self, keys: Tensor, values: Tensor, frames: int) -> None:
        """Show ``frames`` slots of buffers (1, h, slots, P, d)."""
        super().__init__(keys[:, :, :frames], values[:, :, :frames])
        object.__setattr__(self, 'buffers', (keys, values))

    buffers: tuple[Tensor, Tensor]

    def followed_by(self, other: KeyValues) -> KeyValues:
        """Write the new frame behind these and return all, without copying these."""
        keys, values = self.buffers
        frames = self.keys.shape[2]
        after = frames + other.keys.shape[2]
        keys[:, :, frames:after] = other.keys
        values[:, :, frames:after] = other.values
        return KeyValues(keys[:, :, :after], values[:, :, :after])


@dataclass(frozen=True)
class Context:
    """Frames to attend to.

    :ivar frame_ids: in the order of the cache, which is that of their slots.
    """

    frame_ids: tuple[int, ...]
    cache: FrameCache | None


@dataclass
class _Slots:
    """The buffers of the device tier, and who sits where."""

    layers: list[tuple[Tensor, Tensor]]  # keys and values, (1, h, slots, P, d) each
    pair_sources: Tensor  # (1, slots, D)
    occupants: list[int | None] = field(default_factory=list)

    @classmethod
    def like(cls, entry: FrameCache, slots: int) -> _Slots:
        """Make room for ``slots`` frames shaped as an entry of one frame."""

        def buffer(tensor: Tensor, dimension: int) -> Tensor:
            shape = list(tensor.shape)
            shape[dimension] = slots
            return torch.empty(shape, dtype=tensor.dtype, device=tensor.device)

        layers = [(buffer(kv.keys, 2), buffer(kv.values, 2)) for kv in entry.key_values]
        return cls(layers, buffer(entry.pair_sources, 1), [None] * slots)

    def tensors_of(self, slot: int) -> list[Tensor]:
        """Return views of everything in a slot, each as an entry of one frame has it."""
        views = [buffer[:, :, slot : slot + 1] for layer in self.layers for buffer in layer]
        return [*views, self.pair_sources[:, slot : slot + 1]]

    def write(self, slot: int, entry: Iterable[Tensor]) -> None:
        """Copy an entry into a slot; from pinned memory without waiting for it."""
        for view, tensor in zip(self.tensors_of(slot), entry, strict=True):
            view.copy_(tensor, non_blocking=True)

    def exchange(self, a: int, b: int) -> None:
        """Let two slots change places; empty ones cost nothing."""
        if self.occupants[a] is None:
            a, b = b, a
        if self.occupants[a] is None:
            return
        kept = [view.clone() for view in self.tensors_of(a)]
        if self.occupants[b] is not None:
            self.write(a, self.tensors_of(b))
        self.write(b, kept)
        self.occupants[a], self.occupants[b] = self.occupants[b], self.occupants[a]

    def keep_only(self, seats: Sequence[int], slots: int) -> None:
        """Replace the buffers by smaller ones, in which the occupants of some seats come first.

        One after another, so that little more memory is needed meanwhile than in the end.
        """

        def smaller(buffer: Tensor, dimension: int) -> Tensor:
            shape = list(buffer.shape)
            shape[dimension] = slots
            new = torch.empty(shape, dtype=buffer.dtype, device=buffer.device)
            for n, seat in enumerate(seats):
                new.select(dimension, n).copy_(buffer.select(dimension, seat))
            return new

        for n, (keys, values) in enumerate(self.layers):
            self.layers[n] = smaller(keys, 2), smaller(values, 2)
        self.pair_sources = smaller(self.pair_sources, 1)
        staying = [self.occupants[seat] for seat in seats]
        self.occupants = [*staying, *[None] * (slots - len(staying))]

    def first(self, frames: int) -> FrameCache:
        """Return the first slots as a cache that has room for one frame more."""
        return FrameCache(
            tuple(_SlotKeyValues(keys, values, frames) for keys, values in self.layers),
            self.pair_sources[:, :frames],
        )


class FrameMemory:
    """Cache entries by frame id. One owner thread."""

    def __init__(self, room: Room) -> None:
        """Start empty; buffers are made when the first entry shows its size."""
        self._room = room
        self._slots: _Slots | None = None
        self._entry_bytes = 0
        self._host: dict[int, list[Tensor]] = {}
        self._pictures: dict[int, np.ndarray] = {}
        self._picture_bytes = 0
        self._files: FrameStore | None = None
        self._used: dict[int, int] = {}  # frame -> when it was last put or attended
        self._clock = count()
        self._scratch: int | None = None
        self._largest_context = 0

    def __len__(self) -> int:
        """Return the number of frames held, in whatever tier."""
        return len(self._used)

    def __contains__(self, frame_id: int) -> bool:
        """Tell whether a frame is held."""
        return frame_id in self._used

    @property
    def capacity(self) -> int | None:
        """Number of frames that fit, None before the first entry has told its size."""
        if self._slots is None:
            return None
        if self._room.pictures:
            largest = max((p.nbytes for p in self._pictures.values()), default=1)
            return max(self._slot_count - 1, self._room.host_bytes // largest)
        files = self._files.room_for(self._entry_bytes) if self._files is not None else 0
        return self._slot_count - 1 + self._host_count + files

    @property
    def resident(self) -> tuple[int, ...]:
        """Frames that are on the device."""
        occupants = self._slots.occupants if self._slots is not None else []
        return tuple(frame_id for frame_id in occupants if frame_id is not None)

    @property
    def entry_bytes(self) -> int:
        """Size of one frame's entry; 0 before the first."""
        return self._entry_bytes

    def in_full(self, frame_id: int) -> bool:
        """Tell whether a frame's entry is held, in whatever tier, and not its picture alone."""
        return frame_id in self.resident or frame_id in self._host or self._is_stored(frame_id)

    def picture(self, frame_id: int) -> np.ndarray:
        """Return the (h, w, 3) uint8 picture of a frame that has one.

        :raises KeyError: it has none, or the frame is not held.
        """
        return self._pictures[frame_id]

    def hold_picture(self, frame_id: int, pixels: np.ndarray) -> None:
        """Hold a frame by its picture alone, until :meth:`keep` brings its entry.

        :param pixels: (h, w, 3) uint8 as the network is given it; it is not copied.
        :raises ModelError: it does not fit into the budget of host memory.
        """
        self.forget([frame_id])
        if self._picture_bytes + pixels.nbytes > self._room.host_bytes:
            raise ModelError(
                f'the pictures of {len(self._pictures) + 1} frames do not fit into '
                'memory.max_host_mib: allow more, or take fewer keyframe.max_keyframes'
            )
        self._add_picture(frame_id, pixels)
        self._used[frame_id] = next(self._clock)

    def check_room_for(self, frames: int) -> None:
        """Make sure that the device has room for a context of so many frames.

        :raises ModelError: it has not.
        """
        if self._slots is not None and frames >= self._slot_count:
            raise ModelError(
                f'{frames} context frames and the new one need '
                f'{(frames + 1) * self._entry_bytes / 2**20:.0f} MiB, memory.max_gpu_mib '
                f'allows {self._room.device_bytes / 2**20:.0f}: allow more, or take a smaller '
                'stream.retrieved_keyframes or model.image_size'
            )

    def context(self, frame_ids: Sequence[int]) -> Context:
        """Bring frames into the first slots and return them, ready to be attended.

        The answer is valid until the next call of any method but :meth:`keep`.

        :raises KeyError: a frame is not held, or by its picture alone.
        :raises ModelError: so many do not fit into the slots.
        """
        self._scratch = None
        missing = [i for i in frame_ids if not self.in_full(i)]
        if missing:
            raise KeyError(f'no keys and values are held of frames {missing}')
        if not frame_ids or self._slots is None:
            return Context((), None)
        wanted = set(frame_ids)
        self.check_room_for(len(wanted))
        self._largest_context = max(self._largest_context, len(wanted))
        for frame_id in wanted:
            self._used[frame_id] = next(self._clock)
        for frame_id in sorted(wanted - set(self.resident)):
            self._bring_in(frame_id, wanted)
        self._arrange(wanted)
        ids = tuple(i for i in self._slots.occupants[: len(wanted)] if i is not None)
        return Context(ids, self._slots.first(len(ids)))

    def keep(self, frame_id: int, entry: FrameCache, picture: np.ndarray | None = None) -> None:
        """Hold a new frame, or one that was held by its picture, in full.

        After a prediction with the last :meth:`context` its keys and values lie in the slot
        behind it already; the entry of a prediction without one is copied.

        :param picture: (h, w, 3) uint8 as the network was given it, for a frame that has none
            yet; kept where entries may be dropped, and not copied.
        :raises ModelError: one frame alone does not fit into the budget of the device.
        """
        if self._slots is None:
            self._make_slots(entry)
        slots = self._slots
        assert slots is not None
        self._used[frame_id] = next(self._clock)
        if self._scratch is not None:
            slot, self._scratch = self._scratch, None
            slots.pair_sources[:, slot : slot + 1] = entry.pair_sources
        else:
            slot = self._free_slot(set())
            slots.write(slot, _tensors(entry))
        slots.occupants[slot] = frame_id
        if not self._room.pictures:
            self._drop_picture(frame_id)
        elif picture is not None and frame_id not in self._pictures:
            # Where it does not fit all frames fit into the slots: see capacity.
            if self._picture_bytes + picture.nbytes <= self._room.host_bytes:
                self._add_picture(frame_id, picture)

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Let frames go; unknown ids are ignored."""
        for frame_id in frame_ids:
            if self._used.pop(frame_id, None) is None:
                continue
            if frame_id in self.resident and self._slots is not None:
                self._slots.occupants[self._slots.occupants.index(frame_id)] = None
            self._host.pop(frame_id, None)
            self._drop_picture(frame_id)
            if self._files is not None:
                self._files.remove(frame_id)

    def clear(self) -> None:
        """Let everything go, the buffers too: the next frame may have another size."""
        self.forget(list(self._used))
        self._slots = None
        self._scratch = None
        self._entry_bytes = 0
        if self._files is not None:
            self._files.close()
            self._files = None

    def shrink(self) -> None:
        """Halve the slots, down to what the largest context so far needs.

        Frames that have no slot any more move to the lower tiers.

        :raises ModelError: those have no room.
        """
        self._scratch = None
        if self._slots is None:
            # The buffers themselves may not have fitted.
            self._room = replace(self._room, device_bytes=self._room.device_bytes // 2)
            return
        slots = max(self._slot_count // 2, self._largest_context + 1, 2)
        if slots >= self._slot_count:
            return
        occupants = self._slots.occupants
        by_use = sorted(self.resident, key=self._used.__getitem__)
        leaving = by_use[: max(len(by_use) - slots + 1, 0)]
        for frame_id in leaving:
            if frame_id not in self._host and not self._is_stored(frame_id):
                self._put_lower(frame_id, self._slots.tensors_of(occupants.index(frame_id)))
        self._slots.keep_only([occupants.index(i) for i in by_use[len(leaving) :]], slots)
        self._room = replace(self._room, device_bytes=slots * self._entry_bytes)

    # ---- tiers ----------------------------------------------------------------------------

    @property
    def _slot_count(self) -> int:
        return self._room.device_bytes // self._entry_bytes

    @property
    def _host_count(self) -> int:
        return (self._room.host_bytes - self._picture_bytes) // self._entry_bytes

    def _make_slots(self, entry: FrameCache) -> None:
        self._entry_bytes = sum(t.numel() * t.element_size() for t in _tensors(entry))
        if self._slot_count < 2:
            raise ModelError(
                f'a frame takes {self._entry_bytes / 2**20:.0f} MiB of cache, and at least two '
                f'must fit into memory.max_gpu_mib ({self._room.device_bytes / 2**20:.0f}): '
                'allow more, or take a smaller model.image_size'
            )
        if self._room.store_folder is not None:
            shapes = [tuple(tensor.shape) for tensor in _tensors(entry)]
            self._files = FrameStore(
                self._room.store_folder, f'{self._room.network} {shapes}', self._room.store_bytes
            )
            self._files.clear()  # of an earlier run, whose poses are gone
        self._slots = _Slots.like(entry, self._slot_count)

    def _arrange(self, wanted: set[int]) -> None:
        """Seat the wanted frames in the first slots, and nobody in the one behind them."""
        slots = self._slots
        assert slots is not None
        inside = len(wanted)
        outside = (s for s in range(inside, self._slot_count) if slots.occupants[s] in wanted)
        for slot in range(inside):
            if slots.occupants[slot] not in wanted:
                slots.exchange(slot, next(outside))
        if slots.occupants[inside] is not None:
            slots.exchange(inside, self._free_slot(wanted))
        self._scratch = inside

    def _free_slot(self, keep: set[int]) -> int:
        """Return an empty slot, the last there is; make one by moving out the longest unused."""
        slots = self._slots
        assert slots is not None
        for slot in reversed(range(self._slot_count)):
            if slots.occupants[slot] is None:
                return slot
        oldest = min((i for i in self.resident if i not in keep), key=self._used.__getitem__)
        slot = slots.occupants.index(oldest)
        if oldest not in self._host and not self._is_stored(oldest):
            self._put_lower(oldest, slots.tensors_of(slot))
        slots.occupants[slot] = None
        return slot

    def _bring_in(self, frame_id: int, wanted: set[int]) -> None:
        slot = self._free_slot(wanted)
        assert self._slots is not None
        if frame_id in self._host:
            # It leaves host memory: what is on the device need not be there twice.
            entry = self._host.pop(frame_id)
        else:
            assert self._files is not None
            entry = self._files.read(frame_id)
        self._slots.write(slot, entry)
        self._slots.occupants[slot] = frame_id

    def _put_lower(self, frame_id: int, views: Sequence[Tensor]) -> None:
        """Copy a frame to host memory; if that is full of frames used later, to the next tier."""
        if self._host_count > 0:
            self._make_host_room(1)
            self._host[frame_id] = [_on_host(view) for view in views]
        elif frame_id not in self._pictures:
            self._store(frame_id, views)

    def _make_host_room(self, entries: int) -> None:
        """Move the longest unused entries out of host memory until some more fit."""
        while self._host and len(self._host) + entries > self._host_count:
            oldest = min(self._host, key=self._used.__getitem__)
            if oldest not in self._pictures:
                self._store(oldest, self._host[oldest])
            del self._host[oldest]

    def _add_picture(self, frame_id: int, pixels: np.ndarray) -> None:
        self._pictures[frame_id] = pixels
        self._picture_bytes += pixels.nbytes
        if self._slots is not None:
            self._make_host_room(0)

    def _drop_picture(self, frame_id: int) -> None:
        picture = self._pictures.pop(frame_id, None)
        if picture is not None:
            self._picture_bytes -= picture.nbytes

    def _store(self, frame_id: int, tensors: Sequence[Tensor]) -> None:
        if self._is_stored(frame_id):
            return
        if self._files is None:
            raise ModelError(
                f'{len(self._used)} frames do not fit into memory.max_gpu_mib and '
                'memory.max_host_mib together: allow more, name a memory.store_folder, set '
                'memory.beyond_host to pictures, or take fewer keyframe.max_keyframes'
            )
        self._files.write(frame_id, [tensor.cpu() for tensor in tensors])

    def _is_stored(self, frame_id: int) -> bool:
        return self._files is not None and frame_id in self._files


def _tensors(entry: FrameCache) -> list[Tensor]:
    """Return an entry's tensors in the order of a slot's."""
    pairs = [t for kv in entry.key_values for t in (kv.keys, kv.values)]
    return [*pairs, entry.pair_sources]


def _on_host(view: Tensor) -> Tensor:
    """Copy to host memory; from a GPU to pinned memory, from which it comes back unwaited."""
    if not view.is_cuda:
        return view.clone()
    host = torch.empty(view.shape, dtype=view.dtype, pin_memory=True)
    return host.copy_(view)
