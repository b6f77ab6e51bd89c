"""Which keyframe to evict where there is no room.

The score of a keyframe fades with time, to a lower bound, and is discounted if it has a look-alike
in the same place: the recent past stays dense, and the far past is thinned out rather than
forgotten. By the R3 authors' rule a keyframe that matched well once stays for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Frames after which a recency score has halved.
_HALF_LIFE_FRAMES = 300.0
#: Lower bound of the score: a distinct place outlives new look-alikes.
_LEAST_RECENCY = 0.1
#: Look-alikes stored of a keyframe when it is admitted.
_LOOK_ALIKES = 4
#: Similarity of a keyframe without look-alikes.
_LIKE_NO_OTHER = -1.0


class Eviction:
    """Recency scores and look-alikes of keyframes, by slot.

    :param descriptors: (capacity, D) by slot, filled by the owner of the slots.
    """

    def __init__(self, descriptors: np.ndarray) -> None:
        self._descriptors = descriptors
        capacity = len(descriptors)
        # The score at frame `seen`, from where it fades.
        self._recency_score, self._seen = np.zeros(capacity), np.zeros(capacity)
        self._similarity = np.zeros(capacity)  # to the nearest look-alike
        # Related keyframes that look alike, both ways.
        self._alike: dict[int, dict[int, float]] = {}

    def add(self, slot: int, frame_id: int, related: Sequence[int]) -> None:
        """Add a keyframe; its look-alikes are sought among the related slots."""
        self._recency_score[slot], self._seen[slot] = 1.0, frame_id
        self._similarity[slot] = _LIKE_NO_OTHER
        self._alike[slot] = {}
        self._note_look_alikes(slot, related, _LOOK_ALIKES)

    def remove(self, slot: int) -> None:
        """Remove a keyframe; its look-alikes are compared with one another instead."""
        left = list(self._alike.pop(slot))
        for other in left:
            del self._alike[other][slot]
        for other in left:
            self._note_look_alikes(other, [i for i in left if i != other], 1)

    def credit(self, slot: int, frame_id: int, ratio: float) -> None:
        """Report that a keyframe matched a frame, with a score over the nominal."""
        faded = self._recency_score[slot] * _fading(frame_id - self._seen[slot])
        self._recency_score[slot] = max(faded, min(ratio, 1.0))
        self._seen[slot] = frame_id

    def least_useful(self, slots: np.ndarray, now: int) -> int:
        """Return the slot to evict of some: faded and least distinct."""
        recency_score = self._recency_score[slots] * _fading(now - self._seen[slots])
        distinct = 1.0 - self._similarity[slots] + 1e-3
        return int(slots[np.argmin(np.maximum(recency_score, _LEAST_RECENCY) * distinct)])

    def _note_look_alikes(self, slot: int, among: Sequence[int], count: int) -> None:
        if not among:
            return
        similarity = self._descriptors[list(among)] @ self._descriptors[slot]
        for place in np.argsort(-similarity, kind='stable')[:count]:
            self._alike[slot][among[place]] = float(similarity[place])
            self._alike[among[place]][slot] = float(similarity[place])
        for changed in (slot, *among):
            self._similarity[changed] = max(self._alike[changed].values(), default=_LIKE_NO_OTHER)


def _fading(age: np.ndarray) -> np.ndarray:
    return 0.5 ** (age / _HALF_LIFE_FRAMES)
