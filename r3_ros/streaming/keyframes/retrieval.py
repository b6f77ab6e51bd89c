"""Which keyframes a new frame should be related to: an exact search, on the host or on a GPU.

The score of a keyframe is::

    w_similarity * contrast + w_overlap * overlap + w_match * match_score + bonus

``contrast`` is the cosine of the descriptors, measured from what is usual in this bank: 0 for
as similar as any, 1 for the same. ``overlap`` is that of the views (:mod:`.view_overlap`),
``match_score`` says how well the keyframe matched of late; it fades. The bonus lets what is
resident stay unless another is clearly better, or leaves a keyframe out.

The only module that imports CuPy, in a function, where a device is asked for. NumPy and CuPy run
the same lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import math
from typing import Any

import numpy as np

from ...errors import ModelError
from .view_overlap import CENTRE, ROTATION, View, view_overlaps, VIEW_SIZE

#: Frames after which a match score has halved.
MATCH_HALF_LIFE_FRAMES = 300.0
#: The bonus of a keyframe that is not to be found: it is in the context anyway.
EXCLUDED = -math.inf
#: Where all keyframes look alike, differences smaller than this count less than their contrast.
_LEAST_CONTRAST = 0.05
#: Rows of what is kept of each slot beside its view: the match score, the number of the frame at
#: which it was noted (exact in float32 up to 16 million), and 0, or -inf for an empty slot.
_MATCH, _NOTED, _BIAS = range(3)


@dataclass(frozen=True)
class Weights:
    """What each term of the score counts."""

    similarity: float = 1.0
    overlap: float = 0.0
    match: float = 0.0


@dataclass(frozen=True, eq=False)
class Query:
    """What is known of a new frame before it is predicted.

    :ivar descriptor: (d,) unit vector.
    :ivar view: where its camera is thought to look; None if that is not known.
    :ivar frame_id: its number, from which match scores fade.
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


class RetrievalIndex:
    """Slots of keyframes, searched for the best ``k``.

    :ivar descriptors: (capacity, size) float32 by slot, on the host; write by :meth:`put` alone.
    """

    def __init__(self, capacity: int, size: int, device: str = 'cpu') -> None:
        """Make room for ``capacity`` keyframes with descriptors of ``size`` numbers.

        :param device: ``cpu`` or ``cuda``.
        :raises ModelError: a GPU is asked for, and CuPy is not installed or finds none.
        """
        self._xp = array_module(device)
        # Zeros take no memory until they are written.
        self.descriptors = np.zeros((capacity, size), np.float32)
        # On the host it is the same array.
        self._searched = self._xp.asarray(self.descriptors)
        self._views = np.zeros((capacity, VIEW_SIZE), np.float32)
        self._slots = np.zeros((3, capacity), np.float32)
        self._slots[_BIAS] = -np.inf
        #: Slots below this may be in use; none above is.
        self._rows = 0
        self._sum = np.zeros(size)
        self._ever = 0

    def put(self, slot: int, descriptor: np.ndarray, view: View | None = None) -> None:
        """Store a keyframe, replacing what was in the slot; its match score is 0."""
        self.descriptors[slot] = descriptor
        self._searched[slot] = self._xp.asarray(self.descriptors[slot])
        self._views[slot] = 0.0 if view is None else view.packed()
        self._slots[:, slot] = 0.0
        self._rows = max(self._rows, slot + 1)
        self._sum += self.descriptors[slot]
        self._ever += 1

    def remove(self, slot: int) -> None:
        """Empty a slot; it is not found any more."""
        self._slots[_BIAS, slot] = -np.inf

    def views(self, slots: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the (n, VIEW_SIZE) packed views of slots; depth 0: there is none."""
        return self._views[np.asarray(slots, dtype=np.int64)]

    def set_view(self, slot: int, view: View) -> None:
        """Note where a keyframe looks."""
        self._views[slot] = view.packed()

    def move(self, slots: Sequence[int] | np.ndarray, T_world_camera: np.ndarray) -> None:
        """Note (n, 4, 4) poses of keyframes; one without a view gets none."""
        rows = np.asarray(slots, dtype=np.int64)
        self._views[rows, ROTATION] = T_world_camera[:, :3, :3].reshape(-1, 9)
        self._views[rows, CENTRE] = T_world_camera[:, :3, 3]

    def set_match_scores(
        self,
        slots: Sequence[int] | np.ndarray,
        scores: Sequence[float] | np.ndarray,
        frame_id: int,
    ) -> None:
        """Note how well keyframes matched at a frame; 0 is neutral."""
        rows = np.asarray(slots, dtype=np.int64)
        self._slots[_MATCH, rows] = scores
        self._slots[_NOTED, rows] = frame_id

    def retrieve(self, query: Query, k: int) -> Found:
        """Return the at most ``k`` best keyframes; all are scored in full."""
        rows = self._rows
        if not rows:
            return Found(np.zeros(0, np.int64), np.zeros(0, np.float32), -np.inf)
        xp, count = self._xp, min(max(k, 0), rows)
        descriptor = np.asarray(query.descriptor, dtype=np.float32)
        similarity = self._searched[:rows] @ xp.asarray(descriptor)
        states = xp.asarray(self._slots[:, :rows])
        scores = self._scores(query, descriptor, similarity, states)
        # Stable: the lower slot first among equals.
        best = xp.argsort(-scores, kind='stable')[:count]
        greatest = (similarity + states[_BIAS]).max(keepdims=True)
        # Doubles hold slots and scores exactly, so that one copy brings all.
        packed = xp.concatenate(
            [part.astype(np.float64) for part in (best, scores[best], greatest)]
        )
        answer = packed if xp is np else xp.asnumpy(packed)
        slots, found = answer[:count].astype(np.int64), answer[count:-1].astype(np.float32)
        finite = np.isfinite(found)
        return Found(slots[finite], found[finite], float(answer[-1]))

    def _scores(self, query: Query, descriptor: np.ndarray, similarity: Any, states: Any) -> Any:
        """Return the (rows,) scores on the device."""
        xp, weights, rows = self._xp, query.weights, len(similarity)
        # A cosine counts by its contrast to the mean of all keyframes that there ever were.
        usual = float(self._sum @ descriptor) / max(self._ever, 1)
        of_contrast = weights.similarity / max(1.0 - usual, _LEAST_CONTRAST)
        scores = of_contrast * (similarity - usual) + states[_BIAS]
        age = xp.maximum(float(query.frame_id) - states[_NOTED], 0.0)
        scores += weights.match * (states[_MATCH] * xp.exp2(age / -MATCH_HALF_LIFE_FRAMES))
        if query.view is not None and weights.overlap:
            view = xp.asarray(query.view.packed())
            overlaps = view_overlaps(view, xp.asarray(self._views[:rows]), xp)
            scores += weights.overlap * overlaps
        bonus = {slot: value for slot, value in query.bonus.items() if slot < rows}
        if bonus:
            values = np.array(list(bonus.values()), np.float32)
            scores[xp.asarray(np.array(list(bonus)))] += xp.asarray(values)
        return scores


def array_module(device: str) -> Any:
    """Return the library whose arrays live on a device: NumPy for ``cpu``, CuPy for ``cuda``.

    :raises ModelError: CuPy is not installed, or finds no CUDA device.
    """
    if not device.startswith('cuda'):
        return np
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except (ImportError, RuntimeError) as error:
        raise ModelError(
            f'keyframes cannot be searched on the GPU, since CuPy cannot be used ({error}): '
            'install the CuPy that fits the CUDA version (cupy-cuda12x or cupy-cuda13x), or set '
            "model.device to 'cpu'"
        ) from error
    return cupy
