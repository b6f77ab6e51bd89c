"""Wall time of the stages of a step."""

from __future__ import annotations

import time


class StageTimer:
    """A stopwatch that books the time since its last reading to a stage."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def done(self, stage: str) -> None:
        """Book the time since the last stage ended."""
        now = time.perf_counter()
        self.milliseconds[stage] = 1e3 * (now - self._last)
        self._last = now
