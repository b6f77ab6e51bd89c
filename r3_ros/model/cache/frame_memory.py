"""Where cache entries of held frames are: in slots on the device, else in host memory.

The slots are buffers made once. The frames to attend are brought into the first ones, so that
keys and values are read where they are, and a new frame's are written behind them, where they
stay if it is kept. Who gets which slot is decided at once; what has to come in is copied while
the network computes. Budgets are in bytes and are never exceeded.
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
from .transfers import Arrival, lane_for, Pending, Transfers


@dataclass(frozen=True)
class Room:
    """Budgets in bytes.

    :ivar host_bytes: entries and images together.
    """

    device_bytes: int
    host_bytes: int


@dataclass(frozen=True)
class Context:
    """Frames to attend to.

    :ivar frame_ids: in the order of the cache, which is that of their slots.
    """

    frame_ids: tuple[int, ...]
    cache: FrameCache | None


class FrameMemory:
    """Cache entries by frame id. One owner thread."""

    def __init__(self, room: Room, transfers: Transfers | None = None) -> None:
        """Start empty; buffers are made when the first entry shows its size and device.

        :param transfers: what brings frames in; None: that of the device.
        """
        self._device_bytes = room.device_bytes
        self._transfers = transfers
        self._pending: Pending | None = None
        self._slots: Slots | None = None
        self._parts: list[slice] = []  # of an entry's tensors, by layer
        self._entry_bytes = 0
        self._used: dict[int, int] = {}  # frame -> when it was last put or attended
        self._clock = count()
        self._scratch: int | None = None
        self._largest_context = 0
        self.host = HostMemory(room.host_bytes, self._used.__getitem__)

    def __len__(self) -> int:
        """Return the number of frames held, in full or by their image alone."""
        return len(self._used)

    def __contains__(self, frame_id: int) -> bool:
        """Return whether a frame is held."""
        return frame_id in self._used

    @property
    def capacity(self) -> int | None:
        """Number of frames that fit; None before the first entry shows its size."""
        if self._slots is None:
            return None
        return max(self._slot_count - 1, self.host.image_capacity)

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
        """Return whether a frame's entry is held, and not its image alone."""
        return frame_id in self.resident or frame_id in self.host.entries

    def image(self, frame_id: int) -> np.ndarray:
        """Return the (h, w, 3) uint8 image of a frame.

        :raises KeyError: it has none, or the frame is not held.
        """
        return self.host.images[frame_id]

    def hold_image(self, frame_id: int, pixels: np.ndarray) -> None:
        """Hold a frame by its image alone, until :meth:`keep` brings its entry.

        :param pixels: (h, w, 3) uint8 as the network is given it; it is not copied.
        :raises ModelError: it does not fit into the budget of host memory.
        """
        self.forget([frame_id])
        if not self.host.fits(pixels):
            raise ModelError(
                f'the images of {len(self.host.images) + 1} frames do not fit into '
                'memory.max_host_mib: allow more, or take fewer keyframe.max_keyframes'
            )
        self.host.add_image(frame_id, pixels)
        self._used[frame_id] = next(self._clock)

    def check_room_for(self, frames: int) -> None:
        """Make sure that the device has room for a context of so many frames.

        :raises ModelError: it has not.
        """
        if self._slots is not None and frames >= self._slot_count:
            raise ModelError(
                f'{frames} context frames and the new one need '
                f'{(frames + 1) * self._entry_bytes / 2**20:.0f} MiB, memory.max_gpu_mib '
                f'allows {self._device_bytes / 2**20:.0f}: allow more, or take a smaller '
                'stream.retrieved_keyframes or model.image_size'
            )

    def context(self, frame_ids: Sequence[int]) -> Context:
        """Bring frames into the first slots and return them, to be attended.

        They may be on their way still; what attends them waits layer by layer, and raises
        ModelError if they cannot be had. Then no frame has moved, and nothing is lost. The answer
        is valid until the next call of any method but :meth:`keep`.

        :raises KeyError: a frame is not held, or by its image alone.
        :raises ModelError: so many do not fit into the slots.
        """
        self._settle()
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
        missing = sorted(wanted - set(self.resident))
        assert self._transfers is not None
        lane, layers = self._transfers.lane, len(self._parts)
        lane.begin()
        before = list(self._slots.occupants)
        try:
            with lane.running():
                self._make_way(wanted, len(missing))
                arrivals = self._seat(missing, len(wanted) - len(missing))
        except BaseException:
            lane.wait(lane.mark())
            raise
        self._scratch = len(wanted)
        if before != self._slots.occupants:
            self._pending = self._transfers.start(layers, arrivals)
        ids = tuple(i for i in self._slots.occupants[: len(wanted)] if i is not None)
        waits = [partial(self._wait, self._pending, layer) for layer in range(layers)]
        return Context(ids, self._slots.first(len(ids), waits))

    def keep(self, frame_id: int, entry: FrameCache, image: np.ndarray | None = None) -> None:
        """Hold a new frame, or one that was held by its image, in full.

        After a prediction with the last :meth:`context` its keys and values are in the slot
        behind it already; the entry of a prediction without one is copied.

        :param image: (h, w, 3) uint8 as the network was given it, for a frame that has none yet;
            it is not copied, and not held where it does not fit.
        :raises ModelError: one frame alone does not fit into the budget of the device, or the
            context of the prediction could not be brought in.
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
            slots.pair_sources[:, slot : slot + 1] = entry.pair_sources
        else:
            slot = self._free_slot()
            slots.write(slot, stored_tensors(entry))
        slots.occupants[slot] = frame_id
        # Where an image does not fit all frames fit into the slots: see capacity.
        if image is not None and frame_id not in self.host.images and self.host.fits(image):
            self.host.add_image(frame_id, image)

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Let frames go; unknown ids are ignored."""
        self._settle()
        for frame_id in frame_ids:
            if self._used.pop(frame_id, None) is None:
                continue
            if frame_id in self.resident and self._slots is not None:
                self._slots.occupants[self._slots.occupants.index(frame_id)] = None
            self.host.forget(frame_id)

    def clear(self) -> None:
        """Let everything go, the buffers too: the next frame may have another size."""
        self.forget(list(self._used))
        if self._transfers is not None:
            lane = self._transfers.lane
            lane.wait(lane.mark())  # before the memory of the buffers is used for others
        self._slots = None
        self._scratch = None
        self._set_entry_bytes(0)

    def close(self) -> None:
        """Let everything go, and end the thread; the memory is not used afterwards."""
        self.clear()
        if self._transfers is not None:
            self._transfers.close()

    def shrink(self) -> None:
        """Halve the slots, down to what the largest context so far needs.

        Frames that have no slot any more move to host memory.

        :raises ModelError: that has no room, and a frame has no image.
        """
        self._settle()
        self._scratch = None
        if self._slots is None:
            # The buffers themselves may not have fitted.
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
        self._device_bytes = slots * self._entry_bytes

    # ---- slots ----------------------------------------------------------------------------

    @property
    def _slot_count(self) -> int:
        return self._device_bytes // self._entry_bytes

    def _set_entry_bytes(self, size: int) -> None:
        self._entry_bytes = size
        self.host.set_entry_bytes(size)

    def _make_slots(self, entry: FrameCache) -> None:
        tensors = stored_tensors(entry)
        self._set_entry_bytes(sum(t.numel() * t.element_size() for t in tensors))
        if self._slot_count < 2:
            raise ModelError(
                f'a frame takes {self._entry_bytes / 2**20:.0f} MiB of cache, and at least two '
                f'must fit into memory.max_gpu_mib ({self._device_bytes / 2**20:.0f}): '
                'allow more, or take a smaller model.image_size'
            )
        self._slots = Slots(entry, self._slot_count)
        ends = accumulate((len(layer) for layer in self._slots.by_layer(0)), initial=0)
        self._parts = [slice(begin, end) for begin, end in pairwise(ends)]
        if self._transfers is None:
            self._transfers = Transfers(lane_for(entry.pair_sources.device))

    def _make_way(self, wanted: set[int], missing: int) -> None:
        """Seat the wanted residents in the first slots and the frames to leave behind them.

        The slots behind the wanted ones, one for each that is missing and one for the new frame,
        are then empty or of frames that were the longest unused.
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
            # A frame that leaves may be exchanged with one that comes, but not with a new one.
            slots.exchange(len(wanted), empty[0])

    def _seat(self, missing: Sequence[int], first: int) -> list[Arrival]:
        """Give the missing frames the slots from the first on, exchanged with who is there."""
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
        """Wait for frames on their way; if they did not arrive they are where they were.

        :returns: why they did not.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        error = pending.settle()
        slots, entries = self._slots, self.host.entries
        assert slots is not None and self._transfers is not None
        # What computed nothing, or not all, has not waited for all of it either.
        self._transfers.lane.wait(self._transfers.lane.mark())
        for arrival in pending.arrivals:
            if error is not None:
                slots.occupants[arrival.slot] = arrival.leaves
                if arrival.leaves is not None:
                    entries[arrival.frame_id] = entries.pop(arrival.leaves)
            else:
                # What is on the device need not be there twice.
                entries.pop(arrival.frame_id, None)
        return error

    @staticmethod
    def _wait(pending: Pending | None, layer: int) -> None:
        if pending is not None:
            pending.ready(layer)

    def _free_slot(self) -> int:
        """Return an empty slot, the last there is; make one by moving out the longest unused."""
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
        """Copy a frame out of its slot before anything else happens on the device."""
        assert self._slots is not None and self._transfers is not None
        lane = self._transfers.lane
        lane.begin()
        with lane.running():
            self.host.put(frame_id, self._slots.tensors_of(slot))
        lane.wait(lane.mark())
