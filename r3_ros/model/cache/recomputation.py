"""Recomputation of the keys and values of frames of which only the image is held.

An entry depends on the frames that its frame attended to. A frame is recomputed against those of
them that are in the context with an entry: with all of them the entry is the same as before, with
some it is similar. The reference frame attended to none and is reproduced exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from ...core.errors import FrameError
from ..network import FrameCache, PairNetwork
from ..transfers import fetched, uploaded
from .frame_memory import FrameMemory


class Recomputation:
    """Recomputes entries, a few for each new frame. Used by one thread."""

    def __init__(
        self,
        network: PairNetwork,
        memory: FrameMemory[FrameCache],
        device: torch.device,
        per_frame: int,
    ) -> None:
        """Recompute at most ``per_frame`` entries for each new frame."""
        self._network = network
        self._memory = memory
        self._device = device
        self._per_frame = per_frame
        self._attended: dict[int, tuple[int, ...]] = {}
        self._reference: int | None = None

    def note(self, frame_id: int, attended: Sequence[int], reference: bool = False) -> None:
        """Record the frames that a frame attended to, or its neighbours.

        :param reference: it is the reference frame.
        """
        self._attended[frame_id] = tuple(attended)
        if reference:
            self._reference = frame_id

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Drop frames; unknown ids are ignored."""
        for frame_id in frame_ids:
            self._attended.pop(frame_id, None)
            if frame_id == self._reference:
                self._reference = None

    def clear(self) -> None:
        """Drop all frames."""
        self._attended.clear()
        self._reference = None

    def available(self, frame_ids: Sequence[int], size: tuple[int, int]) -> list[int]:
        """Return the frames that have an entry, after recomputing some of the others.

        The first frames without an entry are recomputed in the order given, and each may attend
        to those before it. The rest is left out; a later call recomputes them.

        :param size: (height, width) of the image that will attend to them.
        :raises KeyError: a frame is not held.
        :raises FrameError: the images are of another size.
        :raises ModelError: so many do not fit on the device.
        """
        full = [i for i in frame_ids if self._memory.in_full(i)]
        missing = [i for i in frame_ids if i not in set(full)][: self._per_frame]
        if not missing:
            return full
        self._memory.check_room_for(len(full) + len(missing))
        self._memory.context(full)  # from now on they are the last to be moved out
        for frame_id in missing:
            pixels = self._memory.image(frame_id)
            if pixels.shape[:2] != size:
                raise FrameError(
                    f'the image has {size[1]}x{size[0]} pixels when resized for the network, and '
                    f'cached ones have {pixels.shape[1]}x{pixels.shape[0]}: the shape of the '
                    'images and model.image_size must not change'
                )
            if self._compute(frame_id, pixels, full):
                full.append(frame_id)
        wanted = set(full)
        return [i for i in frame_ids if i in wanted]

    def _compute(self, frame_id: int, pixels: np.ndarray, full: Sequence[int]) -> bool:
        """Recompute the entry of a frame; False if it is not finite."""
        is_reference = frame_id == self._reference or (self._reference is None and not full)
        seen: Sequence[int] = ()
        if not is_reference:
            seen = [i for i in self._attended.get(frame_id, ()) if i in full] or full
        tensor = uploaded(pixels, self._device)
        context, _ = self._memory.context(seen)
        prediction = self._network.predict(
            self._network.describe(tensor.permute(2, 0, 1)[None, None]),
            context,
            reference=is_reference,
            depth=False,
        )
        if not np.isfinite(fetched(prediction.camera_feature)).all():
            return False  # it would corrupt every frame that attends to it
        self._memory.keep(frame_id, prediction.cache if context is None else None)
        if is_reference:
            self._reference = frame_id
        return True
