"""Cache entries of held frames, on the device or in host memory, and the images of the frames.

Entries on the device lie in slots of one block of memory that is allocated once. The frames that
a new one attends to are in the first slots, the new one is written into the slot after them, so
that attention reads all of them where they are.

Budgets are in bytes and are never exceeded. An entry that does not fit on the device moves to host
memory, the least recently used first; one that does not fit there either is dropped, and can be
recomputed from the image of its frame (:mod:`.recomputation`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
from torch import Tensor

from ...core.errors import ModelError
from ..network import FrameCache
from .slots import EntryT, Slots


@dataclass(frozen=True)
class CacheBudget:
    """Budgets in bytes; host memory holds entries and images."""

    device_bytes: int
    host_bytes: int


class FrameMemory(Generic[EntryT]):
    """Cache entries and images by frame id. Used by one thread.

    :ivar entry_bytes: size of one frame's entry; 0 before the first.
    """

    def __init__(self, budget: CacheBudget) -> None:
        """Start empty; the first entry sets the size and device of all."""
        self._device_bytes = budget.device_bytes
        self._host_bytes = budget.host_bytes
        self.entry_bytes = 0
        self._slots: Slots[EntryT] | None = None
        # The least recently used entries come first: the slot of each.
        self._on_device: dict[int, int] = {}
        self._on_host: dict[int, tuple[Tensor, ...]] = {}
        self._images: dict[int, np.ndarray] = {}
        self._largest_context = 0

    def __len__(self) -> int:
        return len(self._on_device.keys() | self._on_host.keys() | self._images.keys())

    @property
    def capacity(self) -> int | None:
        """Number of frames that fit; None before the first entry."""
        if not self.entry_bytes:
            return None
        largest = max((image.nbytes for image in self._images.values()), default=1)
        return max(self._device_capacity - 1, self._host_bytes // largest)

    @property
    def context_bytes(self) -> int:
        """Size of the entries of the largest context so far."""
        return self._largest_context * self.entry_bytes

    def in_full(self, frame_id: int) -> bool:
        """Return whether the entry of a frame is held, and not only its image."""
        return frame_id in self._on_device or frame_id in self._on_host

    def image(self, frame_id: int) -> np.ndarray:
        """Return the (h, w, 3) uint8 image of a frame.

        :raises KeyError: none is held.
        """
        return self._images[frame_id]

    def hold_image(self, frame_id: int, pixels: np.ndarray) -> None:
        """Hold only the image of a frame, until :meth:`keep` adds its entry.

        :param pixels: (h, w, 3) uint8, resized for the network; not copied.
        :raises ModelError: it does not fit into the budget of host memory.
        """
        self.forget([frame_id])
        if not self._add_image(frame_id, pixels):
            raise ModelError(
                f'the images of {len(self._images) + 1} frames do not fit into '
                'memory.max_host_mib: raise it, or lower keyframe.max_keyframes'
            )

    def check_room_for(self, frames: int) -> None:
        """Check that a context of so many frames fits on the device.

        :raises ModelError: it does not.
        """
        if self.entry_bytes and frames >= self._device_capacity:
            raise ModelError(
                f'{frames} context frames and the new one need '
                f'{(frames + 1) * self.entry_bytes / 2**20:.0f} MiB, memory.max_gpu_mib '
                f'allows {self._device_bytes / 2**20:.0f}: raise it, or lower '
                'stream.retrieved_keyframes or model.image_size'
            )

    def context(
        self: FrameMemory[FrameCache], frame_ids: Sequence[int]
    ) -> tuple[FrameCache | None, list[int]]:
        """Return the cache of these frames on the device, and their places in it.

        It has room for the frame that attends to them, which :meth:`keep` adds. None without
        frames.

        :raises KeyError: the entry of a frame is not held.
        :raises ModelError: so many do not fit on the device.
        """
        self._bring(frame_ids)
        if not frame_ids:
            return None, []
        self._move_to_front(frame_ids)
        places = [self._on_device[i] for i in frame_ids]
        return self._device_slots.context(len(frame_ids)), places

    def entries(self, frame_ids: Sequence[int]) -> list[EntryT]:
        """Return the entries of these frames on the device, valid until the next call.

        There is room for one more frame, as :meth:`context` has it.

        :raises KeyError: the entry of a frame is not held.
        :raises ModelError: so many do not fit on the device.
        """
        self._bring(frame_ids)
        return [self._device_slots.entry(self._on_device[i]) for i in frame_ids]

    def _bring(self, frame_ids: Sequence[int]) -> None:
        """Bring the entries of these frames to the device, where one more stays free."""
        missing = [i for i in frame_ids if not self.in_full(i)]
        if missing:
            raise KeyError(f'nothing is cached of frames {missing}')
        if not frame_ids:
            return
        self.check_room_for(len(frame_ids))
        self._largest_context = max(self._largest_context, len(frame_ids))
        for frame_id in frame_ids:
            if frame_id in self._on_device:
                self._on_device[frame_id] = self._on_device.pop(frame_id)
        self._leave_on_device(self._device_capacity - 1, frame_ids)
        for frame_id in frame_ids:
            if frame_id in self._on_host:
                slot = self._free_slot()
                self._device_slots.put(slot, self._on_host[frame_id])
                self._on_device[frame_id] = slot
                del self._on_host[frame_id]
                self._leave_on_device(self._device_capacity - 1, frame_ids)

    def keep(self, frame_id: int, entry: EntryT | None, image: np.ndarray | None = None) -> None:
        """Hold the entry of a new frame, or of one of which only the image is held.

        :param entry: copied; None: it was written into the room of the last context.
        :param image: (h, w, 3) uint8, resized for the network, for a frame that has none yet; not
            copied, and not held if it does not fit.
        :raises ModelError: two frames do not fit into the budget of the device, or a frame without
            an image fits nowhere.
        """
        if entry is not None and not self.entry_bytes:
            self._begin_with(entry)
        slots = self._device_slots
        self._leave_on_device(self._device_capacity - 1)
        if entry is None:
            self._on_device[frame_id] = slots.room
        else:
            self._on_device[frame_id] = slot = self._free_slot()
            slots.put(slot, entry.parts)
        # If the image does not fit, all frames fit on the device: see capacity.
        if image is not None and frame_id not in self._images:
            self._add_image(frame_id, image)

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Drop frames; unknown ids are ignored."""
        for frame_id in frame_ids:
            for held in (self._on_device, self._on_host, self._images):
                held.pop(frame_id, None)

    def clear(self) -> None:
        """Drop everything: the next frame may have another size."""
        for held in (self._on_device, self._on_host, self._images):
            held.clear()
        self.entry_bytes = 0
        self._slots = None

    def shrink(self) -> None:
        """Halve what is used of the device, but keep enough for the largest context so far.

        :raises ModelError: host memory is full, and a frame has no image.
        """
        if not self.entry_bytes:
            self._device_bytes //= 2
            return
        used = min(self._device_capacity, len(self._on_device) + 1)
        frames = max(used // 2, self._largest_context + 1, 2)
        if frames < self._device_capacity:
            self._leave_on_device(frames - 1)
            self._reallocate(frames)

    @property
    def _device_capacity(self) -> int:
        return self._device_bytes // self.entry_bytes

    @property
    def _device_slots(self) -> Slots[EntryT]:
        assert self._slots is not None, 'no entry has set the size of the slots'
        return self._slots

    @property
    def _image_bytes(self) -> int:
        return sum(image.nbytes for image in self._images.values())

    def _begin_with(self, entry: EntryT) -> None:
        if self._device_bytes < 2 * entry.nbytes:
            raise ModelError(
                f'a frame takes {entry.nbytes / 2**20:.0f} MiB of cache, and at least two '
                f'must fit into memory.max_gpu_mib ({self._device_bytes / 2**20:.0f}): '
                'raise it, or lower model.image_size'
            )
        self._slots = Slots(entry, self._device_bytes // entry.nbytes)
        self.entry_bytes = entry.nbytes

    def _reallocate(self, frames: int) -> None:
        """Change the number of slots, by way of host memory: the device may be full."""
        slots, entries = self._device_slots, tuple(self._on_device)
        for frame_id in entries:
            self._on_host[frame_id] = slots.host_entry(self._on_device.pop(frame_id))
        self._device_bytes = frames * self.entry_bytes
        slots.resize(frames)
        for slot, frame_id in enumerate(entries):
            slots.put(slot, self._on_host.pop(frame_id))
            self._on_device[frame_id] = slot

    def _free_slot(self, first: int = 0) -> int:
        """Return the first free slot from one on: there is always one."""
        used = set(self._on_device.values())
        return next(s for s in range(first, self._device_capacity) if s not in used)

    def _move_to_front(self, frame_ids: Sequence[int]) -> None:
        """Move these frames to the first slots, and whatever is there or in the next elsewhere."""
        slots, count, wanted = self._device_slots, len(frame_ids), set(frame_ids)
        occupants = {slot: i for i, slot in self._on_device.items() if slot <= count}
        outside = [i for i in frame_ids if self._on_device[i] >= count]
        holes = [slot for slot in range(count) if occupants.get(slot) not in wanted]
        # First into empty slots, which leaves a free one behind the front.
        moves = sorted(zip(outside, holes, strict=True), key=lambda move: move[1] in occupants)
        for frame_id, hole in moves:
            if hole in occupants:
                self._move(occupants[hole], self._free_slot(count))
            self._move(frame_id, hole)
        last = next((i for i, slot in self._on_device.items() if slot == count), None)
        if last is not None:
            self._move(last, self._free_slot(count + 1))
        slots.room = count

    def _move(self, frame_id: int, slot: int) -> None:
        self._device_slots.copy(self._on_device[frame_id], slot)
        self._on_device[frame_id] = slot

    def _leave_on_device(self, frames: int, staying: Collection[int] = ()) -> None:
        """Move the least recently used entries to host memory, until so many are left.

        :param staying: frames whose entries may neither leave the device nor be dropped.
        :raises ModelError: host memory is full, and a frame has no image.
        """
        while len(self._on_device) > frames:
            leaving = next(i for i in self._on_device if i not in staying)
            if self._make_room(1, staying):
                self._on_host[leaving] = self._device_slots.host_entry(self._on_device[leaving])
            else:
                self._require_image(leaving)
            del self._on_device[leaving]

    def _add_image(self, frame_id: int, image: np.ndarray) -> bool:
        """Hold an image if it fits; entries may be dropped for it.

        :raises ModelError: a frame whose entry would be dropped has no image.
        """
        if self._image_bytes + image.nbytes > self._host_bytes:
            return False
        self._images[frame_id] = image
        try:
            self._make_room(0)
        except ModelError:
            del self._images[frame_id]
            raise
        return True

    def _make_room(self, count: int, staying: Collection[int] = ()) -> bool:
        """Drop entries in host memory until ``count`` more fit; return whether they do."""
        if not self.entry_bytes:
            return True
        capacity = (self._host_bytes - self._image_bytes) // self.entry_bytes
        while len(self._on_host) + count > capacity:
            oldest = next((i for i in self._on_host if i not in staying), None)
            if oldest is None or capacity < count:
                return False
            self._require_image(oldest)
            del self._on_host[oldest]
        return True

    def _require_image(self, frame_id: int) -> None:
        if frame_id not in self._images:
            raise ModelError(
                f'frame {frame_id} does not fit into memory.max_gpu_mib and memory.max_host_mib: '
                'allow more, or take fewer keyframe.max_keyframes'
            )
