"""Cache entries of held frames, on the device or in host memory, and the images of the frames.

Budgets are in bytes and are never exceeded. An entry that does not fit on the device moves to host
memory, the least recently used first; one that does not fit there either is dropped, and can be
recomputed from the image of its frame (:mod:`.recomputation`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...core.errors import ModelError
from ..multi_view import FrameFeatures
from ..network import FrameCache

#: What is cached of a frame: all entries have one size.
EntryT = TypeVar('EntryT', FrameCache, FrameFeatures)


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
        # The least recently used entries come first.
        self._on_device: dict[int, EntryT] = {}
        self._on_host: dict[int, EntryT] = {}
        self._images: dict[int, np.ndarray] = {}
        self._device = torch.device('cpu')
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

    def context(self, frame_ids: Sequence[int]) -> EntryT | None:
        """Return the cache of these frames, in this order, on the device; None without frames.

        Room is made for the entry of the frame that attends to them.

        :raises KeyError: the entry of a frame is not held.
        :raises ModelError: so many do not fit on the device.
        """
        missing = [i for i in frame_ids if not self.in_full(i)]
        if missing:
            raise KeyError(f'no keys and values are held for frames {missing}')
        if not frame_ids:
            return None
        self.check_room_for(len(frame_ids))
        self._largest_context = max(self._largest_context, len(frame_ids))
        for frame_id in frame_ids:
            if frame_id in self._on_device:
                self._on_device[frame_id] = self._on_device.pop(frame_id)
        self._leave_on_device(self._device_capacity - 1, frame_ids)
        for frame_id in frame_ids:
            if frame_id in self._on_host:
                self._on_device[frame_id] = self._on_host[frame_id].mapped(self._to_device)
                del self._on_host[frame_id]
                self._leave_on_device(self._device_capacity - 1, frame_ids)
        entries = [self._on_device[i] for i in frame_ids]
        return entries[0].join(entries)

    def keep(self, frame_id: int, entry: EntryT, image: np.ndarray | None = None) -> None:
        """Hold the entry of a new frame, or of one of which only the image is held.

        :param entry: not copied.
        :param image: (h, w, 3) uint8, resized for the network, for a frame that has none yet; not
            copied, and not held if it does not fit.
        :raises ModelError: two frames do not fit into the budget of the device, or a frame without
            an image fits nowhere.
        """
        if not self.entry_bytes:
            self._begin_with(entry)
        self._leave_on_device(self._device_capacity - 1)
        self._on_device[frame_id] = entry
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
            self._device_bytes = frames * self.entry_bytes

    @property
    def _device_capacity(self) -> int:
        return self._device_bytes // self.entry_bytes

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
        self.entry_bytes, self._device = entry.nbytes, entry.device

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)

    def _leave_on_device(self, frames: int, staying: Collection[int] = ()) -> None:
        """Move the least recently used entries to host memory, until so many are left.

        :param staying: frames whose entries may neither leave the device nor be dropped.
        :raises ModelError: host memory is full, and a frame has no image.
        """
        while len(self._on_device) > frames:
            leaving = next(i for i in self._on_device if i not in staying)
            if self._make_room(1, staying):
                self._on_host[leaving] = self._on_device[leaving].mapped(_to_host)
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


def _to_host(tensor: Tensor) -> Tensor:
    """Copy from a GPU to pinned memory, in the order of the computations and without waiting."""
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
