"""What to do each time the device has no memory left."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import enum
import time
from typing import Any, TYPE_CHECKING

from ..config import MemoryConfig
from ..datatypes import Estimate, Frame
from ..errors import DeviceMemoryError, R3Error
from .health import Health

if TYPE_CHECKING:
    from ..streaming.engine import Engine

#: Three times within it, and nothing helps.
_WINDOW_S = 60.0
_TOO_OFTEN = 3


class Remedy(enum.Enum):
    """From mild to severe."""

    SHRINK = 'shrink'  # hold less, and try the frame again
    RESET = 'reset'  # begin a new session
    STOP = 'stop'  # FAULT


class NoMemoryError(R3Error):
    """A frame got no estimate, for want of memory.

    :ivar remedy: what is left to do: RESET or STOP.
    """

    def __init__(self, remedy: Remedy, message: str) -> None:
        """Keep the remedy beside the message."""
        super().__init__(message)
        self.remedy = remedy


class MemoryPolicy:
    """Answers each failure more severely than the one before, if that was not long ago."""

    def __init__(self) -> None:
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


class FrameStepper:
    """Has the engine process frames, with less memory where it has to. Worker thread.

    :ivar config: live parameters.
    """

    def __init__(
        self,
        engine: Engine,
        config: MemoryConfig,
        health: Health,
        drop_jobs: Callable[[], None],
        logger: Any,
    ) -> None:
        """Start with no failure.

        :param drop_jobs: lets go of snapshots that wait to be published.
        """
        self.config = config
        self.policy = MemoryPolicy()
        self._engine = engine
        self._health = health
        self._drop_jobs = drop_jobs
        self._logger = logger

    def step(self, frame: Frame, is_abandoned: Callable[[], bool]) -> Estimate:
        """Return the engine's estimate of a frame, which is tried again with less held.

        Host memory is no exception: CuPy reports the device's in the same way.

        :param is_abandoned: nobody waits for the frame any more, so it is not tried again.
        :raises NoMemoryError: the device has no memory for it.
        :raises FrameError: the frame cannot be used.
        """
        count = self._engine.session.frame_count
        while True:
            try:
                return self._engine.step(frame)
            except (DeviceMemoryError, MemoryError) as error:
                can_retry = isinstance(error, DeviceMemoryError)
                can_retry &= self._engine.session.frame_count == count
                self._make_room(error, can_retry, is_abandoned())

    def _make_room(self, error: Exception, can_retry: bool, is_abandoned: bool) -> None:
        """Have less held.

        :raises NoMemoryError: that does not help.
        """
        remedy = self.policy.remedy(self.config.oom_policy, time.monotonic(), can_retry)
        self._health.oom_count = self.policy.count
        if is_abandoned:
            remedy = Remedy.STOP
        reason = f'out of memory: {error}'.rstrip(': ')
        if remedy is not Remedy.STOP:
            self._drop_jobs()
        if remedy is not Remedy.SHRINK:
            raise NoMemoryError(remedy, reason) from error
        try:
            self._engine.shrink()
        except DeviceMemoryError as still:
            self._make_room(still, can_retry=False, is_abandoned=is_abandoned)
        self._logger.warning(
            f'{reason} (oom_count: {self.policy.count}); the oldest quarter of the keyframes and '
            'half of the recent frames go, and the frame is tried again. Take a smaller '
            'memory.max_gpu_mib or model.image_size'
        )
