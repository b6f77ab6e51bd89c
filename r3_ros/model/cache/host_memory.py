"""The second tier of cached frames: their entries and images in host memory.

An entry that does not fit is dropped, and the frame is left with its image, from which the entry
can be computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from ...core.errors import ModelError


class HostMemory:
    """Entries and images by frame id, within one budget. One owner thread.

    :ivar entries: the tensors of frames that have no slot; ``images``: (h, w, 3) uint8 each.
    """

    def __init__(self, budget_bytes: int, last_use: Callable[[int], int]) -> None:
        """Start empty.

        :param last_use: when a frame was last wanted; the longest unused entry goes first.
        """
        self.budget_bytes = budget_bytes
        self.entries: dict[int, list[Tensor]] = {}
        self.images: dict[int, np.ndarray] = {}
        self._last_use = last_use
        self._entry_bytes = 0

    @property
    def image_bytes(self) -> int:
        """Size of all images."""
        return sum(image.nbytes for image in self.images.values())

    @property
    def image_capacity(self) -> int:
        """Number of frames whose images fit."""
        largest = max((image.nbytes for image in self.images.values()), default=1)
        return self.budget_bytes // largest

    def set_entry_bytes(self, size: int) -> None:
        """Set the size of one frame's entry; 0: none is known."""
        self._entry_bytes = size

    def put(self, frame_id: int, views: Sequence[Tensor], staying: Collection[int] = ()) -> None:
        """Copy an entry to host memory, or leave the frame with its image where none has room.

        :param staying: frames whose entries stay.
        :raises ModelError: it has no image either.
        """
        if self._make_room(1, staying):
            self.entries[frame_id] = [_on_host(view) for view in views]
        else:
            self._require_image(frame_id)

    def fits(self, image: np.ndarray) -> bool:
        """Return whether an image fits beside the other images."""
        return self.image_bytes + image.nbytes <= self.budget_bytes

    def add_image(self, frame_id: int, image: np.ndarray) -> None:
        """Hold an image that fits, without copying it; entries may have to go for it.

        :raises ModelError: one of them has no image.
        """
        self.images[frame_id] = image
        try:
            self._make_room(0)
        except ModelError:
            del self.images[frame_id]
            raise

    def forget(self, frame_id: int) -> None:
        """Let a frame go, held or not."""
        self.entries.pop(frame_id, None)
        self.images.pop(frame_id, None)

    def _make_room(self, count: int, staying: Collection[int] = ()) -> bool:
        """Drop the longest unused entries until ``count`` more fit; return whether they do."""
        if not self._entry_bytes:
            return True
        capacity = (self.budget_bytes - self.image_bytes) // self._entry_bytes
        while len(self.entries) + count > capacity:
            movable = self.entries.keys() - set(staying)
            if not movable or capacity < count:
                return False
            oldest = min(movable, key=self._last_use)
            self._require_image(oldest)
            del self.entries[oldest]
        return True

    def _require_image(self, frame_id: int) -> None:
        if frame_id not in self.images:
            raise ModelError(
                f'frame {frame_id} does not fit into memory.max_gpu_mib and memory.max_host_mib: '
                'allow more, or take fewer keyframe.max_keyframes'
            )


def _on_host(view: Tensor) -> Tensor:
    """Copy to host memory; from a GPU to pinned memory, and without waiting for it."""
    if not view.is_cuda:
        return view.clone()
    host = torch.empty(view.shape, dtype=view.dtype, pin_memory=True)
    return host.copy_(view, non_blocking=True)
