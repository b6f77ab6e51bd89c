"""Cache entries of held frames, in slots on the device or in host memory.

The slots are buffers allocated once. The frames to attend to are moved into the first slots, so
that keys and values are read in place; those of a new frame are written behind them and stay there
if it is kept. Slots are assigned at once, and missing frames are copied in while the network
computes. Budgets are in bytes and are never exceeded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, count, pairwise

import numpy as np

from ...core.errors import ModelError, R3Error
from ..network import FrameCache
from .host_memory import HostMemory
from .slots import Slots, stored_tensors
from .transfers import Arrival, CopyStream, CudaCopyStream, Pending, Transfers


@dataclass(frozen=True)
class CacheBudget:
    """Budgets in bytes; host memory holds entries and images."""

    device_bytes: int
    host_bytes: int


@dataclass(frozen=True)
class Context:
    """Frames to attend to.

    :ivar frame_ids: in the order of the cache.
    """

    frame_ids: tuple[int, ...]
    cache: FrameCache | None


class FrameMemory:
    """Cache entries by frame id. Used by one thread."""

    def __init__(self, budget: CacheBudget, transfers: Transfers | None = None) -> None:
        """Start empty; the first entry sets the size and device of the buffers.

        :param transfers: None: those of the device.
        """
        self._device_bytes = budget.device_bytes
        self._transfers = transfers
        self._pending: Pending | None = None
        self._slots: Slots | None = None
        self._parts: list[slice] = []  # of an entry's tensors, by layer
        self._used: dict[int, int] = {}  # frame -> time of its last use
        self._clock = count()
        self._scratch: int | None = None
        self._largest_context = 0
        self.host = HostMemory(budget.host_bytes, self._used.__getitem__)

    def __len__(self) -> int:
        return len(self._used)

    def __contains__(self, frame_id: int) -> bool:
        return frame_id in self._used

    @property
    def capacity(self) -> int | None:
        """Number of frames that fit; None before the first entry."""
        if self._slots is None:
            return None
        return max(self._slot_count - 1, self.host.image_capacity)

    @property
    def resident(self) -> tuple[int, ...]:
        """Frames on the device."""
        occupants = self._slots.occupants if self._slots is not None else []
        return tuple(frame_id for frame_id in occupants if frame_id is not None)

    @property
    def entry_bytes(self) -> int:
        """Size of one frame's entry; 0 before the first."""
        return self.host.entry_bytes

    def in_full(self, frame_id: int) -> bool:
        """Return whether the entry of a frame is held, and not only its image."""
        return frame_id in self.resident or frame_id in self.host.entries

    def image(self, frame_id: int) -> np.ndarray:
        """Return the (h, w, 3) uint8 image of a frame.

        :raises KeyError: none is held.
        """
        return self.host.images[frame_id]

    def hold_image(self, frame_id: int, pixels: np.ndarray) -> None:
        """Hold only the image of a frame, until :meth:`keep` adds its entry.

        :param pixels: (h, w, 3) uint8, resized for the network; not copied.
        :raises ModelError: it does not fit into the budget of host memory.
        """
        self.forget([frame_id])
        if not self.host.fits(pixels):
            raise ModelError(
                f'the images of {len(self.host.images) + 1} frames do not fit into '
                'memory.max_host_mib: raise it, or lower keyframe.max_keyframes'
            )
        self.host.add_image(frame_id, pixels)
        self._used[frame_id] = next(self._clock)

    def check_room_for(self, frames: int) -> None:
        """Check that a context of so many frames fits on the device.

        :raises ModelError: it does not.
        """
        if self._slots is not None and frames >= self._slot_count:
            raise ModelError(
                f'{frames} context frames and the new one need '
                f'{(frames + 1) * self.entry_bytes / 2**20:.0f} MiB, memory.max_gpu_mib '
                f'allows {self._device_bytes / 2**20:.0f}: raise it, or lower '
                'stream.retrieved_keyframes or model.image_size'
            )

    def context(self, frame_ids: Sequence[int]) -> Context:
        """Move frames into the first slots and return them, to be attended to.

        They may still be copied in; attention waits layer by layer, and raises ModelError if the
        copies failed. Then no frame has moved, and nothing is lost. The context is valid until
        the next call of any method other than :meth:`keep`.

        :raises KeyError: the entry of a frame is not held.
        :raises ModelError: so many do not fit into the slots.
        """
        self._settle()
        self._scratch = None
        missing = [i for i in frame_ids if not self.in_full(i)]
        if missing:
            raise KeyError(f'no keys and values are held for frames {missing}')
        if not frame_ids or self._slots is None:
            return Context((), None)
        wanted = set(frame_ids)
        self.check_room_for(len(wanted))
        self._largest_context = max(self._largest_context, len(wanted))
        for frame_id in wanted:
            self._used[frame_id] = next(self._clock)
        missing = sorted(wanted - set(self.resident))
        assert self._transfers is not None
        stream, layers = self._transfers.stream, len(self._parts)
        stream.follow_computation()
        before = list(self._slots.occupants)
        try:
            with stream.selected():
                self._gather_residents(wanted, len(missing))
                arrivals = self._assign_slots(missing, len(wanted) - len(missing))
        except BaseException:
            stream.wait(stream.record())
            raise
        self._scratch = len(wanted)
        if before != self._slots.occupants:
            self._pending = self._transfers.start(layers, arrivals)
        ids = tuple(i for i in self._slots.occupants[: len(wanted)] if i is not None)
        pending = self._pending
        waits = [partial(pending.ready, i) if pending else _no_wait for i in range(layers)]
        return Context(ids, self._slots.first(len(ids), waits))

    def keep(self, frame_id: int, entry: FrameCache, image: np.ndarray | None = None) -> None:
        """Hold the entry of a new frame, or of one of which only the image is held.

        After a prediction with the last :meth:`context` its keys and values are already in the
        slot behind it; the entry of a prediction without a context is copied.

        :param image: (h, w, 3) uint8, resized for the network, for a frame that has none yet; not
            copied, and not held if it does not fit.
        :raises ModelError: two frames do not fit into the budget of the device, or the context of
            the prediction could not be copied in.
        """
        error = self._settle()
        if error is not None:
            raise error
        if self._slots is None:
            self._make_slots(entry)
        slots = self._slots
        assert slots is not None
        self._used[frame_id] = next(self._clock)
        if self._scratch is not None:
            slot, self._scratch = self._scratch, None
            for kept, feature in zip(slots.pair_features, entry.pair_features, strict=True):
                kept[:, slot : slot + 1] = feature
        else:
            slot = self._free_slot()
            slots.write(slot, stored_tensors(entry))
        slots.occupants[slot] = frame_id
        # If the image does not fit, all frames fit into the slots: see capacity.
        if image is not None and frame_id not in self.host.images and self.host.fits(image):
            self.host.add_image(frame_id, image)

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Drop frames; unknown ids are ignored."""
        self._settle()
        for frame_id in frame_ids:
            if self._used.pop(frame_id, None) is None:
                continue
            if frame_id in self.resident and self._slots is not None:
                self._slots.occupants[self._slots.occupants.index(frame_id)] = None
            self.host.forget(frame_id)

    def clear(self) -> None:
        """Drop everything, also the buffers: the next frame may have another size."""
        self.forget(list(self._used))
        if self._transfers is not None:
            stream = self._transfers.stream
            stream.wait(stream.record())  # before the memory of the buffers is reused
        self._slots = None
        self._scratch = None
        self.host.entry_bytes = 0

    def close(self) -> None:
        """Drop everything and end the thread."""
        self.clear()
        if self._transfers is not None:
            self._transfers.close()

    def shrink(self) -> None:
        """Halve the slots, but keep enough for the largest context so far.

        Frames without a slot move to host memory.

        :raises ModelError: it is full, and a frame has no image.
        """
        self._settle()
        self._scratch = None
        if self._slots is None:
            # The allocation of the buffers may have failed.
            self._device_bytes //= 2
            return
        slots = max(self._slot_count // 2, self._largest_context + 1, 2)
        if slots >= self._slot_count:
            return
        occupants = self._slots.occupants
        by_use = sorted(self.resident, key=self._used.__getitem__)
        leaving = by_use[: max(len(by_use) - slots + 1, 0)]
        for frame_id in leaving:
            self._put_on_host(frame_id, occupants.index(frame_id))
        self._slots.keep_only([occupants.index(i) for i in by_use[len(leaving) :]], slots)
        self._device_bytes = slots * self.entry_bytes

    # ---- slots ----------------------------------------------------------------------------

    @property
    def _slot_count(self) -> int:
        return self._device_bytes // self.entry_bytes

    def _make_slots(self, entry: FrameCache) -> None:
        tensors = stored_tensors(entry)
        self.host.entry_bytes = sum(t.numel() * t.element_size() for t in tensors)
        if self._slot_count < 2:
            raise ModelError(
                f'a frame takes {self.entry_bytes / 2**20:.0f} MiB of cache, and at least two '
                f'must fit into memory.max_gpu_mib ({self._device_bytes / 2**20:.0f}): '
                'raise it, or lower model.image_size'
            )
        self._slots = Slots(entry, self._slot_count)
        ends = accumulate((len(layer) for layer in self._slots.by_layer(0)), initial=0)
        self._parts = [slice(begin, end) for begin, end in pairwise(ends)]
        if self._transfers is None:
            device = entry.pair_features[0].device
            self._transfers = Transfers(
                CudaCopyStream(device) if device.type == 'cuda' else CopyStream()
            )

    def _gather_residents(self, wanted: set[int], missing: int) -> None:
        """Move the wanted residents to the first slots.

        The slots behind them, one for each missing frame and one for the new frame, are then empty
        or hold the least recently used frames.
        """
        slots = self._slots
        assert slots is not None
        occupants = slots.occupants
        first, behind = len(wanted) - missing, len(wanted) + 1
        outside = (s for s in range(first, len(slots)) if occupants[s] in wanted)
        for slot in range(first):
            if occupants[slot] not in wanted:
                slots.exchange(slot, next(outside))
        others = sorted(set(self.resident) - wanted, key=self._used.__getitem__)
        leaving = set(others[: max(0, missing + 1 - occupants.count(None))])

        def stays(slot: int) -> bool:
            return occupants[slot] is not None and occupants[slot] not in leaving

        elsewhere = (s for s in reversed(range(behind, len(slots))) if not stays(s))
        for slot in range(first, behind):
            if stays(slot):
                slots.exchange(slot, next(elsewhere))
        empty = [s for s in range(first, len(wanted)) if occupants[s] is None]
        if occupants[len(wanted)] is not None and empty:
            # A leaving frame can be exchanged with a missing one, but not with the new one.
            slots.exchange(len(wanted), empty[0])

    def _assign_slots(self, missing: Sequence[int], first: int) -> list[Arrival]:
        """Exchange the occupants of the slots from ``first`` on with the missing frames."""
        slots, entries = self._slots, self.host.entries
        assert slots is not None
        behind = first + len(missing)
        leaver = slots.occupants[behind]
        if leaver is not None:
            self.host.put(leaver, slots.tensors_of(behind), missing)
            slots.occupants[behind] = None
        arrivals = []
        for slot, frame_id in enumerate(missing, first):
            leaver, tensors = slots.occupants[slot], entries[frame_id]
            if leaver is not None:
                entries[leaver] = entries.pop(frame_id)
            slots.occupants[slot] = frame_id
            source = [tensors[part] for part in self._parts]
            arrivals.append(Arrival(frame_id, slot, slots.by_layer(slot), source, leaver))
        return arrivals

    def _settle(self) -> R3Error | None:
        """Wait for pending copies; return their error, after which no frame has moved."""
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        error = pending.settle()
        slots, entries = self._slots, self.host.entries
        assert slots is not None and self._transfers is not None
        # The network may not have waited for all layers.
        stream = self._transfers.stream
        stream.wait(stream.record())
        for arrival in pending.arrivals:
            if error is not None:
                slots.occupants[arrival.slot] = arrival.leaves
                if arrival.leaves is not None:
                    entries[arrival.frame_id] = entries.pop(arrival.leaves)
            else:
                # It is on the device now.
                entries.pop(arrival.frame_id, None)
        return error

    def _free_slot(self) -> int:
        """Return the last empty slot; without one, move the least recently used frame out."""
        slots = self._slots
        assert slots is not None
        for slot in reversed(range(len(slots))):
            if slots.occupants[slot] is None:
                return slot
        oldest = min(self.resident, key=self._used.__getitem__)
        slot = slots.occupants.index(oldest)
        self._put_on_host(oldest, slot)
        slots.occupants[slot] = None
        return slot

    def _put_on_host(self, frame_id: int, slot: int) -> None:
        """Copy a frame out of its slot, before any later computation."""
        assert self._slots is not None and self._transfers is not None
        stream = self._transfers.stream
        stream.follow_computation()
        with stream.selected():
            self.host.put(frame_id, self._slots.tensors_of(slot))
        stream.wait(stream.record())


def _no_wait() -> None:
    pass
