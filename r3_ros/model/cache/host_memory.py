"""The second tier of the cache: entries and images in host memory.

An entry that does not fit is dropped; it can be recomputed from the image of its frame.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from ...core.errors import ModelError


class HostMemory:
    """Entries and images by frame id, within one budget. Used by one thread.

    :ivar entries: the tensors of frames that have no slot; ``images``: (h, w, 3) uint8 each.
    :ivar entry_bytes: size of one entry; 0 before the first.
    """

    def __init__(self, budget_bytes: int, last_use: Callable[[int], int]) -> None:
        """Start empty.

        :param last_use: time of last use; the least recently used entry is dropped first.
        """
        self.budget_bytes = budget_bytes
        self.entries: dict[int, list[Tensor]] = {}
        self.images: dict[int, np.ndarray] = {}
        self._last_use = last_use
        self.entry_bytes = 0

    @property
    def image_bytes(self) -> int:
        """Total size of the images."""
        return sum(image.nbytes for image in self.images.values())

    @property
    def image_capacity(self) -> int:
        """Number of images that fit."""
        largest = max((image.nbytes for image in self.images.values()), default=1)
        return self.budget_bytes // largest

    def put(self, frame_id: int, views: Sequence[Tensor], staying: Collection[int] = ()) -> None:
        """Copy an entry to host memory; without room the frame keeps only its image.

        :param staying: frames whose entries must stay.
        :raises ModelError: it has no image either.
        """
        if self._make_room(1, staying):
            self.entries[frame_id] = [_on_host(view) for view in views]
        else:
            self._require_image(frame_id)

    def fits(self, image: np.ndarray) -> bool:
        """Return whether an image fits in addition to the other images."""
        return self.image_bytes + image.nbytes <= self.budget_bytes

    def add_image(self, frame_id: int, image: np.ndarray) -> None:
        """Hold an image that fits, without a copy; entries may be dropped for it.

        :raises ModelError: a frame whose entry would be dropped has no image.
        """
        self.images[frame_id] = image
        try:
            self._make_room(0)
        except ModelError:
            del self.images[frame_id]
            raise

    def forget(self, frame_id: int) -> None:
        """Drop a frame if it is held."""
        self.entries.pop(frame_id, None)
        self.images.pop(frame_id, None)

    def _make_room(self, count: int, staying: Collection[int] = ()) -> bool:
        """Drop least recently used entries until ``count`` more fit; return whether they do."""
        if not self.entry_bytes:
            return True
        capacity = (self.budget_bytes - self.image_bytes) // self.entry_bytes
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
    """Copy to host memory; from a GPU asynchronously, to pinned memory."""
    if not view.is_cuda:
        return view.clone()
    host = torch.empty(view.shape, dtype=view.dtype, pin_memory=True)
    return host.copy_(view, non_blocking=True)
