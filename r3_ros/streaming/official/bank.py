"""Keyframes: frames that stay because none is like them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .options import BankOptions

_NO_LENGTH = 1e-8


class Bank:
    """Keyframes by number, oldest first."""

    def __init__(self, options: BankOptions) -> None:
        """Begin empty."""
        self._options = options
        self._summaries: dict[int, np.ndarray] = {}
        self._offered = 0
        self._since_admission = 0

    def __contains__(self, frame: int) -> bool:
        """Say whether a frame is a keyframe."""
        return frame in self._summaries

    @property
    def frames(self) -> list[int]:
        """Return the keyframes."""
        return list(self._summaries)

    def offer(
        self,
        frame: int,
        feature: np.ndarray,
        reliability: float,
        usual: float | None,
        scores: Mapping[int, float],
    ) -> bool:
        """Admit a frame or not.

        :param feature: (D,) of any length.
        :param reliability: score of the frame, 0 if it had nothing to be compared with.
        :param usual: score of the segment's first frames, None if there is none.
        :param scores: best match that each held frame ever had.
        """
        if self._options.max_keyframes == 0:
            return False
        self._offered += 1
        self._since_admission += 1
        summary = feature / max(float(np.linalg.norm(feature)), _NO_LENGTH)
        trusted = frame == 0 or self._is_reliable(reliability, usual)
        if not self._wants(summary, trusted):
            return False
        # One alone is not evicted, so that a bank for one holds two after every other admission:
        # a fault of theirs that is kept.
        if len(self._summaries) >= max(2, self._options.max_keyframes):
            self._evict(scores)
        self._summaries[frame] = summary
        self._since_admission = 0
        return True

    def _wants(self, summary: np.ndarray, trusted: bool) -> bool:
        options = self._options
        if options.interval > 0:
            return trusted and self._offered % options.interval == 0
        if not self._summaries:
            return True
        if not trusted or self._since_admission >= options.max_interval:
            return trusted
        likeness = max(float(summary @ other) for other in self._summaries.values())
        return likeness < options.novelty

    def _is_reliable(self, reliability: float, usual: float | None) -> bool:
        ratio = self._options.confidence_ratio
        if ratio <= 0 or usual is None or not (np.isfinite(usual) and usual > 0):
            return True
        return reliability >= ratio * usual

    def _evict(self, scores: Mapping[int, float]) -> None:
        if self._options.evict_oldest:
            del self._summaries[min(self._summaries)]
            return
        weakest = min(self._summaries, key=lambda frame: (scores.get(frame, 0.0), frame))
        del self._summaries[weakest]
