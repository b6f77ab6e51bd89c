"""What to do each time the device has no memory left."""

from __future__ import annotations

from collections import deque
import enum

#: Three times within it, and nothing helps.
_WINDOW_S = 60.0
_TOO_OFTEN = 3


class Remedy(enum.Enum):
    """From mild to severe."""

    SHRINK = 'shrink'  # hold less, and try the frame again
    RESET = 'reset'  # begin a new session
    STOP = 'stop'  # FAULT


class MemoryPolicy:
    """Answers each failure more severely than the one before, if that was not long ago."""

    def __init__(self) -> None:
        """Start with no failure."""
        #: Failures since the node was configured.
        self.count = 0
        self._recent_s: deque[float] = deque()

    def remedy(self, policy: str, now_s: float, can_retry: bool) -> Remedy:
        """Count a failure and return what to do about it.

        :param policy: ``memory.oom_policy``.
        :param can_retry: the frame has left no trace, so that it may be tried again.
        """
        self.count += 1
        while self._recent_s and now_s - self._recent_s[0] > _WINDOW_S:
            self._recent_s.popleft()
        self._recent_s.append(now_s)
        if policy == 'error' or len(self._recent_s) >= _TOO_OFTEN:
            return Remedy.STOP
        if policy == 'shrink' and len(self._recent_s) == 1 and can_retry:
            return Remedy.SHRINK
        return Remedy.RESET

    def forgive(self) -> None:
        """Start anew, on request: the next failure is the first again."""
        self._recent_s.clear()
