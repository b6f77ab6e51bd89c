"""Search of the keyframes for those worth relating a frame to.

The score combines similarity, the overlap of the views and recent matches (see
:mod:`.retrieval`); keyframes related to the last frame stay unless another is clearly better.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ...core.config import StreamConfig
from .retrieval import EXCLUDED, MATCH_HALF_LIFE_FRAMES, Query, RetrievalIndex, RetrievalWeights
from .view_overlap import CameraView

#: Share by which a match score moves towards the latest match.
_MATCH_STEP = 0.3
#: The neutral score of a match, over the nominal one.
_NEUTRAL_RATIO = 0.5


class Recall:
    """Searches the index and keeps the match scores of its slots."""

    def __init__(self, index: RetrievalIndex) -> None:
        self._index = index
        capacity = len(index.descriptors)
        # By slot; fades to neutral from frame `scored`.
        self._match_score, self._scored = np.zeros(capacity), np.zeros(capacity)
        # Slots that the latest frame was related to, with the score of each match.
        self._related: dict[int, float] = {}
        self._matched_at: int | None = None
        # The last descriptor searched for since the index changed, and its best similarity:
        # admission needs the same frame's again.
        self._nearest: tuple[np.ndarray, float] | None = None

    def add(self, slot: int, descriptor: np.ndarray, view: CameraView | None) -> None:
        """Store a keyframe in an empty slot."""
        self._index.put(slot, descriptor, view)
        self._match_score[slot] = self._scored[slot] = 0.0
        self._nearest = None

    def remove(self, slot: int) -> None:
        """Empty a slot."""
        self._index.remove(slot)
        self._related.pop(slot, None)
        self._nearest = None

    def credit(self, slot: int, frame_id: int, ratio: float) -> None:
        """Report that a keyframe matched a frame, with a score over the nominal."""
        self._related[slot] = max(ratio, self._related.get(slot, 0.0))
        self._matched_at = frame_id

    def related_to(
        self,
        frame_id: int,
        descriptor: np.ndarray,
        view: CameraView | None,
        config: StreamConfig,
        without: Collection[int],
    ) -> list[int]:
        """Return the slots worth relating a new frame to, best first.

        :param view: of its expected pose.
        :param without: slots that it is related to in any case.
        """
        self._update_scores()
        weights = RetrievalWeights(
            config.retrieval_similarity, config.retrieval_overlap, config.retrieval_confidence
        )
        bonus = dict.fromkeys(self._related, config.retrieval_hysteresis)
        bonus |= dict.fromkeys(without, EXCLUDED)
        query = Query(descriptor, weights, view, frame_id, bonus)
        found = self._search(query, config.retrieved_keyframes)
        self._related = dict.fromkeys((*without, *found), 0.0)
        return found

    def most_similar(
        self, descriptor: np.ndarray, k: int, without: Collection[int] = ()
    ) -> list[int]:
        """Return the at most ``k`` slots most similar to a descriptor, best first."""
        return self._search(Query(descriptor, bonus=dict.fromkeys(without, EXCLUDED)), k)

    def best_similarity(self, descriptor: np.ndarray) -> float:
        """Return the cosine of a descriptor with the most similar one; -inf without any."""
        if self._nearest is None or not np.array_equal(self._nearest[0], descriptor):
            self._search(Query(descriptor), 0)
        assert self._nearest is not None
        return self._nearest[1]

    def _search(self, query: Query, k: int) -> list[int]:
        found = self._index.retrieve(query, k)
        self._nearest = query.descriptor.copy(), found.best_similarity
        slots: list[int] = found.slots.tolist()
        return slots

    def _update_scores(self) -> None:
        """Update the match scores of those related to the last frame; no edge counts as 0."""
        now, self._matched_at = self._matched_at, None
        if now is None:
            return
        slots = np.array(list(self._related), dtype=np.int64)
        latest = np.array([min(ratio, 1.0) - _NEUTRAL_RATIO for ratio in self._related.values()])
        age = now - self._scored[slots]
        faded = self._match_score[slots] * 0.5 ** (age / MATCH_HALF_LIFE_FRAMES)
        self._match_score[slots] = faded + _MATCH_STEP * (latest - faded)
        self._scored[slots] = now
        self._index.set_match_scores(slots, self._match_score[slots], now)
