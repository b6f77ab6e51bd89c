"""Which keyframes a new frame should be related to: the words both twins share.

The score of a keyframe is::

    w_similarity * contrast + w_overlap * overlap + w_merit * merit + bonus

``contrast`` is the cosine of the descriptors, measured from what is usual in this bank: 0 for
as like as any, 1 for the same. ``overlap`` is that of the views (:mod:`.view_overlap`), ``merit``
how well the keyframe matched of late; it fades. The bonus lets what is resident stay unless
another is clearly better, or leaves a keyframe out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
import math
from typing import Protocol

import numpy as np

from .view_overlap import CENTRE, ROTATION, View, VIEW_SIZE

#: Frames after which a merit has halved.
MERIT_HALF_LIFE_FRAMES = 300.0
#: The bonus of a keyframe that is not to be found: it is in the context anyway.
EXCLUDED = -math.inf
#: Where all keyframes look alike, differences smaller than this count less than their contrast.
_LEAST_CONTRAST = 0.05

#: Columns of a record after its view: merit, frame number it was noted at, 0 or -inf for an empty
#: slot. Frame numbers are exact in float32 up to 16 million.
MERIT, NOTED, BIAS = VIEW_SIZE, VIEW_SIZE + 1, VIEW_SIZE + 2
RECORD_SIZE = 20


@dataclass(frozen=True)
class Weights:
    """What each term of the score counts."""

    similarity: float = 1.0
    overlap: float = 0.0
    merit: float = 0.0


@dataclass(frozen=True, eq=False)
class Query:
    """What is known of a new frame before it is predicted.

    :ivar descriptor: (d,) unit vector.
    :ivar view: where its camera is thought to look; None if that is not known.
    :ivar frame_id: its number, from which merits fade.
    :ivar bonus: by slot, added to the score; EXCLUDED leaves the slot out.
    """

    descriptor: np.ndarray
    weights: Weights = Weights()
    view: View | None = None
    frame_id: int = 0
    bonus: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Found:
    """The answer.

    :ivar slots: (n,) int, best first; the lower slot first among equals.
    :ivar scores: (n,) float32, bonus included.
    :ivar best_similarity: greatest cosine of the descriptors over the whole bank, whatever else
        counted; -inf if the bank is empty.
    """

    slots: np.ndarray
    scores: np.ndarray
    best_similarity: float


@dataclass(frozen=True, eq=False)
class Terms:
    """A query as the arithmetic wants it: ``similarity * (cosine - usual) + ...``."""

    descriptor: np.ndarray
    similarity: float
    usual: float
    overlap: float
    merit: float
    view: np.ndarray | None
    frame_id: float
    bonus: Mapping[int, float]


class RetrievalIndex(Protocol):
    """Slots of keyframes, searched for the best ``k``."""

    #: Length of a descriptor.
    size: int

    def put(self, slot: int, descriptor: np.ndarray, view: View | None = None) -> None:
        """Store a keyframe, replacing what was in the slot; its merit is 0."""

    def remove(self, slot: int) -> None:
        """Empty a slot; it is not found any more."""

    def views(self, slots: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the (n, VIEW_SIZE) packed views of slots; depth 0: there is none."""

    def move(self, slots: Sequence[int] | np.ndarray, T_world_camera: np.ndarray) -> None:
        """Note (n, 4, 4) poses of keyframes; one without a view gets none."""

    def set_views(self, slots: Sequence[int], views: Sequence[View]) -> None:
        """Note where keyframes look, after their poses or depths have changed."""

    def set_merits(
        self,
        slots: Sequence[int] | np.ndarray,
        merits: Sequence[float] | np.ndarray,
        frame_id: int,
    ) -> None:
        """Note how well keyframes matched at a frame; 0 is neutral."""

    def retrieve(self, query: Query, k: int) -> Found:
        """Return the at most ``k`` best keyframes."""


class RecordTable:
    """What an index keeps of its slots on the host, whatever it searches."""

    def __init__(self, capacity: int, size: int) -> None:
        """Make room for ``capacity`` keyframes with descriptors of ``size`` numbers."""
        self.size = size
        self._records = np.zeros((capacity, RECORD_SIZE), np.float32)
        self._records[:, BIAS] = -np.inf
        #: Slots below this may be in use; none above is.
        self._rows = 0
        self._live = 0
        self._sum = np.zeros(size)
        self._ever = 0

    def views(self, slots: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the (n, VIEW_SIZE) packed views of slots; depth 0: there is none."""
        return self._records[np.asarray(slots, dtype=np.int64), :VIEW_SIZE]

    def _put_record(self, slot: int, descriptor: np.ndarray, view: View | None) -> None:
        """Note a keyframe."""
        record = self._records[slot]
        self._live += bool(np.isneginf(record[BIAS]))
        record[:] = 0.0
        if view is not None:
            record[:VIEW_SIZE] = view.packed()
        self._rows = max(self._rows, slot + 1)
        self._sum += descriptor
        self._ever += 1

    def _remove_record(self, slot: int) -> None:
        self._live -= not np.isneginf(self._records[slot, BIAS])
        self._records[slot, BIAS] = -np.inf

    def _set_views(self, slots: Sequence[int], views: Iterable[View]) -> None:
        self._records[np.asarray(slots), :VIEW_SIZE] = [view.packed() for view in views]

    def _move(self, slots: Sequence[int] | np.ndarray, T_world_camera: np.ndarray) -> None:
        rows = np.asarray(slots)
        self._records[rows, ROTATION] = T_world_camera[:, :3, :3].reshape(-1, 9)
        self._records[rows, CENTRE] = T_world_camera[:, :3, 3]

    def _set_merits(
        self,
        slots: Sequence[int] | np.ndarray,
        merits: Sequence[float] | np.ndarray,
        frame_id: int,
    ) -> None:
        rows = np.asarray(slots)
        self._records[rows, MERIT] = merits
        self._records[rows, NOTED] = frame_id

    def _terms(self, query: Query) -> Terms:
        """Work out what a cosine counts: the contrast to the mean of all there ever was."""
        weights = query.weights
        descriptor = np.asarray(query.descriptor, dtype=np.float32)
        usual = float(self._sum @ descriptor) / max(self._ever, 1)
        return Terms(
            descriptor=descriptor,
            similarity=weights.similarity / max(1.0 - usual, _LEAST_CONTRAST),
            usual=usual,
            overlap=weights.overlap if query.view is not None else 0.0,
            merit=weights.merit,
            view=None if query.view is None else query.view.packed(),
            frame_id=float(query.frame_id),
            bonus=query.bonus,
        )
