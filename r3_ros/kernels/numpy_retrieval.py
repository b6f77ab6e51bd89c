"""The NumPy twin: the reference, and what runs where there is no GPU.

Up to EXACT_UP_TO keyframes it scores every one. Beyond, memory bandwidth would decide (400 MB for
100,000 descriptors of 1024 numbers), so all keyframes are scored roughly, from a projection of
their descriptors, and the best few in full.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .projection import Projection, SAMPLE
from .retrieval import (
    BIAS,
    Found,
    MERIT,
    MERIT_HALF_LIFE_FRAMES,
    NOTED,
    Query,
    RecordTable,
    Terms,
)
from .view_overlap import CENTRE, DEPTH, ROTATION, rough_overlap, View, view_overlaps, VIEW_SIZE

#: Every keyframe is scored in full up to this many slots in use.
EXACT_UP_TO = 256
#: Keyframes scored in full beyond that: at least this many, and this many for each wanted.
_SHORTLIST, _SHORTLIST_PER_K = 128, 8
#: Of the shortlist, those there for their likeness alone: the most similar one must not be missed.
_LIKELIEST = 64
#: The projection is fitted again when the bank is this many times as large.
_LEARN_AGAIN = 4
#: Descriptors projected or multiplied at a time.
_CHUNK = 4096


class NumpyRetrievalIndex(RecordTable):
    """Keyframes in host memory."""

    def __init__(self, capacity: int, size: int, exact_up_to: int = EXACT_UP_TO) -> None:
        """Make room for ``capacity`` keyframes with descriptors of ``size`` numbers."""
        super().__init__(capacity, size)
        self._exact_up_to = exact_up_to
        # Zeros take no memory until they are written.
        self._descriptors = np.zeros((capacity, size), np.float32)
        self._projection: Projection | None = None
        self._projected = np.zeros((0, 0), np.float32)
        self._learn_at = exact_up_to + 1
        # What the rough scores need of the records, each side by side in memory.
        self._middles = np.zeros((3, capacity), np.float32)
        self._axes = np.zeros((3, capacity), np.float32)
        self._merits, self._noted = np.zeros((2, capacity), np.float32)
        self._bias = np.full(capacity, -np.inf, np.float32)

    def put(self, slot: int, descriptor: np.ndarray, view: View | None = None) -> None:
        """Store a keyframe, replacing what was in the slot; its merit is 0."""
        self._descriptors[slot] = descriptor
        self._put_record(slot, self._descriptors[slot], view)
        self._spread([slot])
        if self._rows >= self._learn_at:
            self._learn()
        elif self._projection is not None:
            self._projected[slot] = self._projection.stored(self._descriptors[slot : slot + 1])[0]

    def remove(self, slot: int) -> None:
        """Empty a slot; it is not found any more."""
        self._remove_record(slot)
        self._spread([slot])

    def set_views(self, slots: Sequence[int], views: Sequence[View]) -> None:
        """Note where keyframes look, after their poses or depths have changed."""
        if len(slots):
            self._set_views(slots, views)
            self._spread(slots)

    def move(self, slots: Sequence[int] | np.ndarray, T_world_camera: np.ndarray) -> None:
        """Note (n, 4, 4) poses of keyframes; one without a view gets none."""
        if len(slots):
            self._move(slots, T_world_camera)
            self._spread(slots)

    def set_merits(
        self,
        slots: Sequence[int] | np.ndarray,
        merits: Sequence[float] | np.ndarray,
        frame_id: int,
    ) -> None:
        """Note how well keyframes matched at a frame; 0 is neutral."""
        if len(slots):
            self._set_merits(slots, merits, frame_id)
            self._spread(slots)

    def retrieve(self, query: Query, k: int) -> Found:
        """Return the at most ``k`` best keyframes."""
        terms = self._terms(query)
        rows: slice | np.ndarray = slice(0, self._rows)
        if self._rows > self._exact_up_to:
            rows = self._shortlist(terms, k)
        bias = self._bias[rows]
        similarity = self._descriptors[rows] @ terms.descriptor
        scores = terms.similarity * (similarity - terms.usual) + bias
        scores += terms.merit * self._faded(rows, terms)
        if terms.view is not None and terms.overlap:
            views = self._records[rows, :VIEW_SIZE]
            scores += terms.overlap * view_overlaps(terms.view, views)
        slots = np.arange(self._rows) if isinstance(rows, slice) else rows
        self._add_bonus(scores, slots, terms)
        best = _best_first(scores, k)
        greatest = float((similarity + bias).max(initial=-np.inf))
        return Found(slots[best], scores[best], greatest)

    def _faded(self, rows: slice | np.ndarray, terms: Terms) -> np.ndarray:
        """Return what the merits have faded to."""
        age = np.maximum(np.float32(terms.frame_id) - self._noted[rows], 0)
        faded: np.ndarray = self._merits[rows] * np.exp2(age / np.float32(-MERIT_HALF_LIFE_FRAMES))
        return faded

    def _add_bonus(self, scores: np.ndarray, slots: np.ndarray, terms: Terms) -> None:
        """Add the bonus of the few slots that have one; ``slots`` ascend."""
        wanted = np.fromiter(terms.bonus.keys(), np.int64, len(terms.bonus))
        bonus = np.fromiter(terms.bonus.values(), np.float32, len(terms.bonus))
        used = wanted < self._rows
        scores[np.searchsorted(slots, wanted[used])] += bonus[used]

    def _shortlist(self, terms: Terms, k: int) -> np.ndarray:
        """Return the slots worth scoring in full, ascending."""
        assert self._projection is not None
        n = self._rows
        query, constant = self._projection.asked(terms.descriptor)
        # By pieces that BLAS gives to one thread: several wait for one another longer than they
        # take, and hold the processors that the predictor is working on.
        rough = np.concatenate(
            [
                self._projected[start : min(start + _CHUNK, n)] @ query
                for start in range(0, n, _CHUNK)
            ]
        )
        rough += np.float32(constant)
        bias = self._bias[:n]
        likeliest = _top(rough + bias, _LIKELIEST)
        rough *= np.float32(terms.similarity)
        rough += bias
        rough += np.float32(terms.merit) * self._faded(slice(0, n), terms)
        if terms.view is not None and terms.overlap:
            rough += np.float32(terms.overlap) * rough_overlap(
                terms.view, self._middles[:, :n], self._axes[:, :n]
            )
        best = _top(rough, max(_SHORTLIST, _SHORTLIST_PER_K * k))
        special = np.fromiter(terms.bonus.keys(), np.int64, len(terms.bonus))
        return np.unique(np.concatenate([likeliest, best, special[special < n]]))

    def _spread(self, slots: Sequence[int] | np.ndarray) -> None:
        """Copy what the rough scores need of records that have changed."""
        rows = np.asarray(slots)
        records = self._records[rows]
        axes = records[:, ROTATION][:, 2::3]
        self._axes[:, rows] = axes.T
        self._middles[:, rows] = (records[:, CENTRE] + records[:, DEPTH, None] * axes).T
        self._merits[rows], self._noted[rows] = records[:, MERIT], records[:, NOTED]
        self._bias[rows] = records[:, BIAS]

    def _learn(self) -> None:
        """Fit the projection to the bank as it is, and again each time it has grown enough."""
        n = self._rows
        self._learn_at = _LEARN_AGAIN * n
        live = np.flatnonzero(self._bias[:n] == 0.0)
        sample = live[:: max(len(live) // SAMPLE, 1)][:SAMPLE]
        self._projection = Projection(self._descriptors[sample])
        if self._projected.shape[1] != self._projection.size:
            capacity = len(self._descriptors)
            self._projected = np.zeros((capacity, self._projection.size), np.float32)
        for start in range(0, n, _CHUNK):
            chunk = slice(start, min(start + _CHUNK, n))
            self._projected[chunk] = self._projection.stored(self._descriptors[chunk])


def _top(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the ``count`` greatest, in any order."""
    if count >= len(scores):
        return np.arange(len(scores))
    return np.argpartition(scores, len(scores) - count)[len(scores) - count :]


def _best_first(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the places of the at most ``k`` greatest finite scores, best first."""
    count = min(max(k, 0), len(scores))
    if count == 0:
        return np.zeros(0, np.int64)
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    places = np.flatnonzero((scores >= least) & np.isfinite(scores))
    # Stable: the lower place first among equals.
    best: np.ndarray = places[np.argsort(-scores[places], kind='stable')][:count]
    return best
