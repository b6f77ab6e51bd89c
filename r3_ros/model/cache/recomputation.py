"""Keys and values of frames that are held by their image alone, computed again when wanted.

What a frame's cross-frame blocks make of it depends on the frames that it attended. So a frame is
computed against those of them that are in the context and held in full: with all of them its
entry is what it was, with some it is near. The reference frame attended none and comes back
exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from ...core.errors import FrameError
from ..network import R3Network
from .frame_memory import FrameMemory


class Recomputation:
    """Brings frames back in full, a few for each new frame. One owner thread."""

    def __init__(
        self, network: R3Network, memory: FrameMemory, device: torch.device, per_frame: int
    ) -> None:
        """Take a loaded network, what it holds, and how many frames may be computed at a time."""
        self._network = network
        self._memory = memory
        self._device = device
        self._per_frame = per_frame
        self._attended: dict[int, tuple[int, ...]] = {}
        self._reference: int | None = None

    def note(self, frame_id: int, attended: Sequence[int], reference: bool = False) -> None:
        """Remember which frames a frame attended, or lies among.

        :param reference: it is the frame that the others refer to.
        """
        self._attended[frame_id] = tuple(attended)
        if reference:
            self._reference = frame_id

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Let frames go; unknown ids are ignored."""
        for frame_id in frame_ids:
            self._attended.pop(frame_id, None)
            if frame_id == self._reference:
                self._reference = None

    def clear(self) -> None:
        """Let all frames go."""
        self._attended.clear()
        self._reference = None

    def available(self, frame_ids: Sequence[int], size: tuple[int, int]) -> list[int]:
        """Return those of the frames that can be attended, some of them computed for it.

        The first that are held by their images are computed, in the order given, and each may
        attend those before it. The others are left out; asked for again, they are next.

        :param size: (height, width) of the image that is to attend them.
        :raises KeyError: a frame is not held.
        :raises FrameError: the images are of another size.
        :raises ModelError: so many do not fit on the device.
        """
        full = [i for i in frame_ids if self._memory.in_full(i)]
        by_image = [i for i in frame_ids if i not in set(full)]
        if not by_image:
            return full
        self._memory.check_room_for(len(full) + len(by_image[: self._per_frame]))
        self._memory.context(full)  # from now on they are the last to be moved out
        for frame_id in by_image[: self._per_frame]:
            pixels = self._memory.image(frame_id)
            if pixels.shape[:2] != size:
                raise FrameError(
                    f'the image has {size[1]}x{size[0]} pixels as the network sees it, those '
                    f'remembered {pixels.shape[1]}x{pixels.shape[0]}: images must have the '
                    'shape, and model.image_size the value, that they had'
                )
            if self._compute(frame_id, pixels, full):
                full.append(frame_id)
        wanted = set(full)
        return [i for i in frame_ids if i in wanted]

    def _compute(self, frame_id: int, pixels: np.ndarray, full: Sequence[int]) -> bool:
        """Hold a frame in full again; False if nothing finite came out."""
        is_reference = frame_id == self._reference or (self._reference is None and not full)
        seen: Sequence[int] = ()
        if not is_reference:
            seen = [i for i in self._attended.get(frame_id, ()) if i in full] or full
        context = self._memory.context(seen)
        tensor = torch.from_numpy(pixels).to(self._device, non_blocking=True)
        prediction = self._network.predict(
            self._network.describe(tensor.permute(2, 0, 1)[None, None]),
            context.cache,
            reference=is_reference,
            depth=False,
        )
        if not torch.isfinite(prediction.camera_feature).all():
            return False  # kept, it would spoil every frame that attends it
        self._memory.keep(frame_id, prediction.cache)
        if is_reference:
            self._reference = frame_id
        return True
