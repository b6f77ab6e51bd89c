"""Where cache entries of held frames live: slots on the device, host memory, and disk.

The slots are buffers made once. The frames to be attended are brought into the first ones, so
that keys and values are read where they lie, and a new frame's are written behind them, where
they stay if it is kept. Who sits where is decided at once; what has to come in is copied while
the network computes. What does not fit into the slots waits in host memory, and what does not
fit there in files, or it is let go but for the frame's picture, from which it can be computed
anew. Budgets are in bytes and are never exceeded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, count, pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelError, R3Error
from .cache_encoding import AsComputed, Float8
from .frame_store import FrameStore
from .network import FrameCache
from .slots import Slots, stored_tensors
from .transfers import Arrival, lane_for, Pending, Transfers


@dataclass(frozen=True)
class Room:
    """Budgets of the three tiers in bytes.

    :ivar host_bytes: entries and pictures together.
    :ivar store_folder: where the third tier is; None: there is none.
    :ivar network: names the weights and their precision, so that files are not mixed up.
    :ivar pictures: instead of a third tier, every frame keeps its picture in host memory, and an
        entry that does not fit there is dropped.
    :ivar float8: store keys and values in a byte each.
    """

    device_bytes: int
    host_bytes: int
    store_folder: Path | None = None
    store_bytes: int = 0
    network: str = ''
    pictures: bool = False
    float8: bool = False


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

        :param transfers: what brings frames in, if it is not that of the device.
        """
        self._room = room
        self._encoding = Float8() if room.float8 else AsComputed()
        self._transfers = transfers
        self._pending: Pending | None = None
        self._slots: Slots | None = None
        self._parts: list[slice] = []  # of an entry's tensors, by layer
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
        """Bring frames into the first slots and return them, to be attended.

        They may be on their way still; what attends them waits layer by layer, and raises
        ModelError if they cannot be had. Then no frame has moved, and nothing is lost. The answer
        is valid until the next call of any method but :meth:`keep`.

        :raises KeyError: a frame is not held, or by its picture alone.
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
                arrivals = self._seat(missing, len(wanted) - len(missing), wanted)
        except BaseException:
            lane.wait(lane.mark())
            raise
        self._scratch = len(wanted)
        if before != self._slots.occupants:
            self._pending = self._transfers.start(layers, arrivals)
        ids = tuple(i for i in self._slots.occupants[: len(wanted)] if i is not None)
        waits = [partial(self._wait, self._pending, layer) for layer in range(layers)]
        return Context(ids, self._slots.first(len(ids), waits))

    def keep(self, frame_id: int, entry: FrameCache, picture: np.ndarray | None = None) -> None:
        """Hold a new frame, or one that was held by its picture, in full.

        After a prediction with the last :meth:`context` its keys and values lie in the slot
        behind it already; the entry of a prediction without one is copied.

        :param picture: (h, w, 3) uint8 as the network was given it, for a frame that has none
            yet; kept where entries may be dropped, and not copied.
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
            slots.write(slot, stored_tensors(entry, self._encoding))
        slots.occupants[slot] = frame_id
        if not self._room.pictures:
            self._drop_picture(frame_id)
        elif picture is not None and frame_id not in self._pictures:
            # Where it does not fit all frames fit into the slots: see capacity.
            if self._picture_bytes + picture.nbytes <= self._room.host_bytes:
                self._add_picture(frame_id, picture)

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Let frames go; unknown ids are ignored."""
        self._settle()
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
        if self._transfers is not None:
            lane = self._transfers.lane
            lane.wait(lane.mark())  # before the memory of the buffers is used for others
        self._slots = None
        self._scratch = None
        self._entry_bytes = 0
        if self._files is not None:
            self._files.close()
            self._files = None

    def close(self) -> None:
        """Let everything go, and end the threads; the memory is not used afterwards."""
        self.clear()
        if self._transfers is not None:
            self._transfers.close()

    def shrink(self) -> None:
        """Halve the slots, down to what the largest context so far needs.

        Frames that have no slot any more move to the lower tiers.

        :raises ModelError: those have no room.
        """
        self._settle()
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
            slot = occupants.index(frame_id)
            if self._needs_room(slot):
                self._put_lower_at_once(frame_id, slot)
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
        tensors = stored_tensors(entry, self._encoding)
        self._entry_bytes = sum(t.numel() * t.element_size() for t in tensors)
        if self._slot_count < 2:
            raise ModelError(
                f'a frame takes {self._entry_bytes / 2**20:.0f} MiB of cache, and at least two '
                f'must fit into memory.max_gpu_mib ({self._room.device_bytes / 2**20:.0f}): '
                'allow more, or take a smaller model.image_size'
            )
        if self._room.store_folder is not None:
            shapes = [(tuple(tensor.shape), str(tensor.dtype)) for tensor in tensors]
            self._files = FrameStore(
                self._room.store_folder, f'{self._room.network} {shapes}', self._room.store_bytes
            )
            self._files.clear()  # of an earlier run, whose poses are gone
        self._slots = Slots(entry, self._encoding, self._slot_count)
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
            # Who leaves may change places with who comes, but not with a new frame.
            slots.exchange(len(wanted), empty[0])

    def _seat(self, missing: Sequence[int], first: int, wanted: set[int]) -> list[Arrival]:
        """Give the missing frames the slots from the first on; who sits there leaves."""
        slots = self._slots
        assert slots is not None and self._transfers is not None
        places = range(first, first + len(missing))
        # Frames of host memory change places with those that leave, which then need no room.
        order = sorted(missing, key=lambda i: i not in self._host)
        seats = dict(
            zip(order, sorted(places, key=lambda s: not self._needs_room(s)), strict=True)
        )
        leaves = {
            i: slots.occupants[s]
            for i, s in seats.items()
            if i in self._host and self._needs_room(s)
        }
        for slot in (first + len(missing), *places):
            leaver = slots.occupants[slot]
            if leaver is not None and leaver not in leaves.values():
                if self._needs_room(slot):
                    self._put_lower(leaver, slots.tensors_of(slot), wanted)
                slots.occupants[slot] = None
        from_files = [i for i in order if i not in self._host]
        sources = self._transfers.read(self._read, from_files, len(self._parts))
        arrivals = []
        for frame_id, slot in seats.items():
            if frame_id in self._host:
                tensors = self._host[frame_id]
                sources[frame_id] = partial(self._part_of, tensors)
                leaver = leaves.get(frame_id)
                if leaver is not None:
                    self._host[leaver] = self._host.pop(frame_id)
            slots.occupants[slot] = frame_id
            arrivals.append(
                Arrival(
                    frame_id, slot, slots.by_layer(slot), sources[frame_id], leaves.get(frame_id)
                )
            )
        return arrivals

    def _settle(self) -> R3Error | None:
        """Wait for frames on their way; if they did not arrive they are where they were.

        :returns: why they did not.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        error = pending.settle()
        slots = self._slots
        assert slots is not None and self._transfers is not None
        # Who computed nothing, or not all, has not waited for all of it either.
        self._transfers.lane.wait(self._transfers.lane.mark())
        for arrival in pending.arrivals:
            if error is not None:
                slots.occupants[arrival.slot] = arrival.leaves
                if arrival.leaves is not None:
                    self._host[arrival.frame_id] = self._host.pop(arrival.leaves)
            else:
                # What is on the device need not be there twice.
                self._host.pop(arrival.frame_id, None)
        return error

    @staticmethod
    def _wait(pending: Pending | None, layer: int) -> None:
        if pending is not None:
            pending.ready(layer)

    def _part_of(self, tensors: list[Tensor], layer: int) -> list[Tensor]:
        return tensors[self._parts[layer]]

    def _read(self, frame_id: int, layer: int) -> list[Tensor]:
        """Read one layer of a stored frame; called by several threads."""
        assert self._files is not None and self._slots is not None
        tensors = self._files.read(frame_id, self._parts[layer])
        if self._slots.pair_sources.is_cuda:
            return [tensor.pin_memory() for tensor in tensors]
        return tensors

    def _needs_room(self, slot: int) -> bool:
        """Tell whether the frame in a slot would be lost if it left it."""
        assert self._slots is not None
        occupant = self._slots.occupants[slot]
        return (
            occupant is not None and occupant not in self._host and not self._is_stored(occupant)
        )

    def _free_slot(self) -> int:
        """Return an empty slot, the last there is; make one by moving out the longest unused."""
        slots = self._slots
        assert slots is not None
        for slot in reversed(range(len(slots))):
            if slots.occupants[slot] is None:
                return slot
        slot = slots.occupants.index(min(self.resident, key=self._used.__getitem__))
        occupant = slots.occupants[slot]
        assert occupant is not None
        if self._needs_room(slot):
            self._put_lower_at_once(occupant, slot)
        slots.occupants[slot] = None
        return slot

    def _put_lower_at_once(self, frame_id: int, slot: int) -> None:
        """Copy a frame out of its slot before anything else happens on the device."""
        assert self._slots is not None and self._transfers is not None
        lane = self._transfers.lane
        lane.begin()
        with lane.running():
            self._put_lower(frame_id, self._slots.tensors_of(slot))
        lane.wait(lane.mark())

    def _put_lower(
        self, frame_id: int, views: Sequence[Tensor], wanted: Collection[int] = ()
    ) -> None:
        """Copy a frame to host memory; if that is full of frames used later, to the next tier."""
        if self._make_host_room(1, wanted):
            self._host[frame_id] = [_on_host(view) for view in views]
        elif frame_id not in self._pictures:
            self._store(frame_id, views)

    def _make_host_room(self, entries: int, wanted: Collection[int] = ()) -> bool:
        """Move the longest unused entries out of host memory until some more fit.

        :param wanted: frames that stay.
        :returns: whether they do.
        """
        while len(self._host) + entries > self._host_count:
            movable = self._host.keys() - set(wanted)
            if not movable or self._host_count < entries:
                return False
            oldest = min(movable, key=self._used.__getitem__)
            if oldest not in self._pictures:
                self._store(oldest, self._host[oldest])
            del self._host[oldest]
        return True

    def _add_picture(self, frame_id: int, pixels: np.ndarray) -> None:
        self._pictures[frame_id] = pixels
        self._picture_bytes += pixels.nbytes
        if self._slots is None:
            return
        try:
            self._make_host_room(0)
        except R3Error:
            self._drop_picture(frame_id)
            raise

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
        assert self._transfers is not None
        self._transfers.lane.finish()  # it may still be on its way to host memory
        self._files.write(frame_id, [tensor.cpu() for tensor in tensors])

    def _is_stored(self, frame_id: int) -> bool:
        return self._files is not None and frame_id in self._files


def _on_host(view: Tensor) -> Tensor:
    """Copy to host memory; from a GPU to pinned memory, and without waiting for it."""
    if not view.is_cuda:
        return view.clone()
    host = torch.empty(view.shape, dtype=view.dtype, pin_memory=True)
    return host.copy_(view, non_blocking=True)
