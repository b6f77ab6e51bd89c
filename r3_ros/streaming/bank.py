"""The keyframe bank: what is remembered, what is let go, and what is recalled for a frame.

Admission follows the R3 authors' two modes (every n-th frame; or novelty of the descriptor with
a longest interval). Eviction does not: their score is the best match a keyframe ever had, so one
that was good long ago stays for ever. Ours fades with time, though not to nothing, and discounts
keyframes that have a look-alike in the bank: the recent past stays dense, and the far past is
thinned out rather than forgotten.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from ..config import KeyframeConfig
from ..kernels import DescriptorIndex

#: Frames after which the worth of a match has halved.
_HALF_LIFE_FRAMES = 300.0
#: What is left when it has faded: a place like no other outlives new look-alikes.
_LEAST_WORTH = 0.1
#: The newest keyframes are never evicted: tracking stands on them.
_PROTECTED_NEWEST = 4


@dataclass
class _Keyframe:
    slot: int
    descriptor: np.ndarray
    worth: float  # as of frame `seen`; fades from there
    seen: int


class KeyframeBank:
    """At most ``max_keyframes`` keyframes, found again by descriptor similarity."""

    def __init__(self, config: KeyframeConfig, index: DescriptorIndex) -> None:
        """Start empty; ``index`` has room for ``max_keyframes`` descriptors."""
        self.config = config
        self._index = index
        self._keyframes: dict[int, _Keyframe] = {}
        self._free = list(range(config.max_keyframes - 1, -1, -1))
        self._since_admission = 0
        self._frames = 0

    def __len__(self) -> int:
        """Return the number of keyframes."""
        return len(self._keyframes)

    def __contains__(self, frame_id: int) -> bool:
        """Tell whether the frame is a keyframe."""
        return frame_id in self._keyframes

    def ids(self) -> list[int]:
        """Return the keyframes' frame ids, oldest first."""
        return list(self._keyframes)

    def most_similar(
        self, descriptor: np.ndarray, k: int, without: Collection[int] = ()
    ) -> list[int]:
        """Return the ids of the at most ``k`` keyframes most like the descriptor, best first.

        :param without: frames that are not wanted.
        """
        if k == 0 or not self._keyframes:
            return []
        by_slot = {keyframe.slot: frame_id for frame_id, keyframe in self._keyframes.items()}
        unwanted = sum(frame_id in self._keyframes for frame_id in without)
        slots, _ = self._index.search(descriptor, k + unwanted)
        found = (by_slot[int(slot)] for slot in slots)
        return [frame_id for frame_id in found if frame_id not in without][:k]

    def wants(self, descriptor: np.ndarray) -> bool:
        """Count the frame, and tell whether the admission rule would make it a keyframe."""
        self._frames += 1
        self._since_admission += 1
        if not self._keyframes:
            return True
        if self.config.mode == 'interval':
            return self._frames % self.config.interval == 0
        if self._since_admission >= self.config.max_interval:
            return True
        return bool(self._index.similarities(descriptor).max() < self.config.novelty_threshold)

    def admit(self, frame_id: int, descriptor: np.ndarray) -> list[int]:
        """Remember a keyframe and return the ids that had to go for it."""
        evicted = []
        if not self._free:
            worst = self._least_useful(frame_id)
            self.remove(worst)
            evicted.append(worst)
        slot = self._free.pop()
        self._index.put(slot, descriptor)
        self._keyframes[frame_id] = _Keyframe(slot, descriptor.copy(), worth=1.0, seen=frame_id)
        self._since_admission = 0
        return evicted

    def remove(self, frame_id: int) -> None:
        """Forget a keyframe."""
        slot = self._keyframes.pop(frame_id).slot
        self._index.remove(slot)
        self._free.append(slot)

    def credit(self, frame_id: int, matches: Iterable[tuple[int, float]]) -> None:
        """Note that keyframes matched frame ``frame_id``, each with a score over the nominal."""
        for keyframe_id, ratio in matches:
            keyframe = self._keyframes.get(keyframe_id)
            if keyframe is not None:
                keyframe.worth = max(_faded(keyframe, frame_id), min(ratio, 1.0))
                keyframe.seen = frame_id

    def _least_useful(self, now: int) -> int:
        """Return the keyframe to lose: faded and least distinct, but no anchor and no new one."""
        ids = self.ids()
        candidates = range(1, len(ids) - min(_PROTECTED_NEWEST, len(ids) - 2))
        descriptors = np.stack([self._keyframes[i].descriptor for i in ids])
        likeness = descriptors @ descriptors.T
        np.fill_diagonal(likeness, -1.0)
        distinct = 1.0 - likeness.max(axis=1)
        usefulness = {
            ids[n]: max(_faded(self._keyframes[ids[n]], now), _LEAST_WORTH) * (distinct[n] + 1e-3)
            for n in candidates
        }
        return min(usefulness, key=lambda i: (usefulness[i], i))


def _faded(keyframe: _Keyframe, now: int) -> float:
    """Return what a keyframe's best match is still worth at frame ``now``."""
    return float(keyframe.worth * 0.5 ** ((now - keyframe.seen) / _HALF_LIFE_FRAMES))
