"""Scores of frames, and when too many in a row are low."""

from __future__ import annotations

from collections import deque
import math

import numpy as np

from .options import FallbackOptions
from .segment import UNCOMPARED


def softplus(logits: np.ndarray) -> np.ndarray:
    """Return scores, which are positive, of logits."""
    return np.logaddexp(0, logits)


def match_scores(logits_t: np.ndarray, logits_r: np.ndarray) -> np.ndarray:
    """Return one score per edge."""
    return softplus(0.5 * (logits_t + logits_r))


def post_score(scores: np.ndarray) -> float:
    """Return the score of a frame by those of its edges; a fixed high one if it has none."""
    return float(scores.mean()) if len(scores) else UNCOMPARED


class DroughtDetector:
    """Watches the scores of frames in a row."""

    def __init__(self, options: FallbackOptions) -> None:
        """Begin with no scores."""
        self._options = options
        self._scores: deque[float] = deque(maxlen=options.drought_frames)
        self._cooldown = 0

    def update(self, score: float, usual: float) -> bool:
        """Add a score and say whether there is a drought.

        :param usual: score of the segment's first frames.
        """
        if self._cooldown > 0:
            self._cooldown -= 1
            return False
        self._scores.append(score if math.isfinite(score) else 0.0)
        if len(self._scores) < self._options.drought_frames:
            return False
        options = self._options
        limit = max(options.drought_threshold, usual * options.drought_percent / 100)
        return all(score < limit for score in self._scores)

    def reset(self) -> None:
        """Forget all scores."""
        self._scores.clear()
        self._cooldown = 0

    def cool_down(self) -> None:
        """Forget all scores and ignore the next ones, after an attempt."""
        self._scores.clear()
        self._cooldown = self._options.cooldown_frames
