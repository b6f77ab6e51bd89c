"""Which keyframes a new frame should be related to: an exact search, on the host or on a GPU.

The score of a keyframe is::

    w_similarity * contrast + w_overlap * overlap + w_match * match_score + bonus

``contrast`` is the cosine of the descriptors relative to the bank's mean: 0 for the mean, 1 for
the same descriptor. ``overlap`` is that of the views (:mod:`.view_overlap`), ``match_score`` the
quality of recent matches, which fades. The bonus keeps related keyframes, or excludes one.

NumPy and CuPy run the same lines. CuPy is imported here only, where a GPU is configured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import math
from typing import Any

import numpy as np

from ...core.errors import ModelError
from .view_overlap import BOUNDS, CameraView, CENTRE, ROTATION, view_overlaps, VIEW_SIZE

#: Frames after which a match score has halved.
MATCH_HALF_LIFE_FRAMES = 300.0
#: The bonus that excludes a keyframe: it is in the context anyway.
EXCLUDED = -math.inf
#: Lower bound of the contrast's divisor, for a bank in which all keyframes look alike.
_LEAST_CONTRAST = 0.05
#: Rows of the state of slots: the match score, the id of the frame at which it was set (exact in
#: float32 up to 16 million), and 0, or -inf for an empty slot.
_MATCH, _NOTED, _BIAS = range(3)


@dataclass(frozen=True)
class RetrievalWeights:
    """Weights of the terms of the score."""

    similarity: float = 1.0
    overlap: float = 0.0
    match: float = 0.0


@dataclass(frozen=True, eq=False)
class Query:
    """A new frame before it is predicted.

    :ivar descriptor: (D,) unit vector.
    :ivar view: of its expected pose; None if unknown.
    :ivar frame_id: from which match scores fade.
    :ivar bonus: by slot, added to the score; EXCLUDED excludes the slot.
    """

    descriptor: np.ndarray
    weights: RetrievalWeights = RetrievalWeights()
    view: CameraView | None = None
    frame_id: int = 0
    bonus: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class RetrievalResult:
    """The result of a search.

    :ivar slots: (n,) int, best first; the lower slot first among equals.
    :ivar scores: (n,) float32, bonus included.
    :ivar best_similarity: greatest cosine over the whole bank; -inf if it is empty.
    """

    slots: np.ndarray
    scores: np.ndarray
    best_similarity: float


class RetrievalIndex:
    """Slots of keyframes, searched for the best ``k``.

    :param size: of a descriptor.
    :param device: ``cpu`` or ``cuda``.
    :ivar descriptors: (capacity, size) float32 by slot, on the host; only :meth:`put` writes it.
    :raises ModelError: a GPU is configured, and CuPy is not installed or finds none.
    """

    def __init__(self, capacity: int, size: int, device: str = 'cpu') -> None:
        self._xp = array_module(device)
        # Zeros take no memory until they are written.
        self.descriptors = np.zeros((capacity, size), np.float32)
        # On the host it is the same array.
        self._searched = self._xp.asarray(self.descriptors)
        self._views = np.zeros((capacity, VIEW_SIZE), np.float32)
        self._slots = np.zeros((3, capacity), np.float32)
        self._slots[_BIAS] = -np.inf
        self._rows = 0  # all slots in use are below
        self._sum = np.zeros(size)
        self._ever = 0

    def put(self, slot: int, descriptor: np.ndarray, view: CameraView | None = None) -> None:
        """Store a keyframe, replacing what was in the slot; its match score is 0."""
        self.descriptors[slot] = descriptor
        self._searched[slot] = self._xp.asarray(self.descriptors[slot])
        self._views[slot] = 0.0 if view is None else view.packed()
        self._slots[:, slot] = 0.0
        self._rows = max(self._rows, slot + 1)
        self._sum += self.descriptors[slot]
        self._ever += 1

    def remove(self, slot: int) -> None:
        """Empty a slot."""
        self._slots[_BIAS, slot] = -np.inf

    def views(self, slots: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the (n, VIEW_SIZE) packed views of slots; depth 0: there is none."""
        return self._views[np.asarray(slots, dtype=np.int64)]

    def set_view(self, slot: int, view: CameraView) -> None:
        """Set the view of a keyframe."""
        self._views[slot] = view.packed()

    def set_bounds(
        self, slots: Sequence[int] | np.ndarray, bounds: tuple[float, float, float, float]
    ) -> None:
        """Set the borders of the images of keyframes; one without a view gets none."""
        self._views[np.asarray(slots, dtype=np.int64), BOUNDS] = bounds

    def move(self, slots: Sequence[int] | np.ndarray, T_world_camera: np.ndarray) -> None:
        """Set (n, 4, 4) poses of keyframes; one without a view gets none."""
        rows = np.asarray(slots, dtype=np.int64)
        self._views[rows, ROTATION] = T_world_camera[:, :3, :3].reshape(-1, 9)
        self._views[rows, CENTRE] = T_world_camera[:, :3, 3]

    def set_match_scores(
        self, slots: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray, now: int
    ) -> None:
        """Set the match scores of keyframes at frame ``now``; 0 is neutral."""
        rows = np.asarray(slots, dtype=np.int64)
        self._slots[_MATCH, rows] = scores
        self._slots[_NOTED, rows] = now

    def retrieve(self, query: Query, k: int) -> RetrievalResult:
        """Return the at most ``k`` best keyframes."""
        rows = self._rows
        if not rows:
            return RetrievalResult(np.zeros(0, np.int64), np.zeros(0, np.float32), -np.inf)
        xp, count = self._xp, min(max(k, 0), rows)
        descriptor = np.asarray(query.descriptor, dtype=np.float32)
        similarity = self._searched[:rows] @ xp.asarray(descriptor)
        states = xp.asarray(self._slots[:, :rows])
        scores = self._scores(query, descriptor, similarity, states)
        # Stable: the lower slot first among equals.
        best = xp.argsort(-scores, kind='stable')[:count]
        greatest = (similarity + states[_BIAS]).max(keepdims=True)
        # Doubles hold slots and scores exactly, so that one copy to the host is enough.
        parts = (best, scores[best], greatest)
        packed = xp.concatenate([part.astype(np.float64) for part in parts])
        result = packed if xp is np else xp.asnumpy(packed)
        slots, found = result[:count].astype(np.int64), result[count:-1].astype(np.float32)
        finite = np.isfinite(found)
        return RetrievalResult(slots[finite], found[finite], float(result[-1]))

    def _scores(self, query: Query, descriptor: np.ndarray, similarity: Any, states: Any) -> Any:
        xp, weights, rows = self._xp, query.weights, len(similarity)
        # Contrast to the mean of all keyframes that there ever were.
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
    """Return the array library of a device: NumPy for ``cpu``, CuPy for ``cuda``.

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
