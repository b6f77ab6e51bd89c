"""What to do when the device has no memory left."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
import enum
import time
from typing import Any, TYPE_CHECKING

from ..core.config import MemoryConfig
from ..core.datatypes import Estimate, Frame
from ..core.errors import DeviceMemoryError, R3Error
from .outputs.health import Health

if TYPE_CHECKING:
    from ..streaming.engine import Engine

#: So many failures within this time lead to FAULT.
_WINDOW_S = 60.0
_TOO_OFTEN = 3


class Remedy(enum.Enum):
    """From mild to severe."""

    SHRINK = 'shrink'  # hold fewer frames, and try the frame again
    RESET = 'reset'  # begin a new session
    STOP = 'stop'  # FAULT


class NoMemoryError(R3Error):
    """A frame could not be estimated for lack of memory.

    :ivar remedy: what is left to do: RESET or STOP.
    """

    def __init__(self, remedy: Remedy, message: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class MemoryPolicy:
    """Chooses a remedy for each failure, a more severe one if the last was not long ago.

    :ivar count: failures since the node was configured.
    """

    def __init__(self) -> None:
        self.count = 0
        self._recent_s: deque[float] = deque()

    def remedy(self, policy: str, now_s: float, can_retry: bool) -> Remedy:
        """Count a failure and return its remedy.

        :param policy: ``memory.oom_policy``.
        :param can_retry: the frame has not changed the session, so it may be tried again.
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

    def clear_recent(self) -> None:
        """Forget recent failures: the next one counts as the first."""
        self._recent_s.clear()


@dataclass(eq=False)
class FrameStepper:
    """Runs the engine on frames, and frees memory where needed. Worker thread.

    :ivar config: live parameters.
    """

    _engine: Engine
    config: MemoryConfig
    _health: Health
    _drop_jobs: Callable[[], None]
    _logger: Any
    policy: MemoryPolicy = field(default_factory=MemoryPolicy, init=False)

    def step(self, frame: Frame, is_abandoned: Callable[[], bool]) -> Estimate:
        """Return the engine's estimate for a frame, if need be after freeing memory.

        MemoryError is handled the same way: CuPy raises it for the device's memory.

        :param is_abandoned: whether the worker was stopped, so the frame is not tried again.
        :raises NoMemoryError: there is not enough memory.
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
        """Free memory.

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
            'half of the recent frames are removed, and the frame is tried again. Use a smaller '
            'memory.max_gpu_mib or model.image_size'
        )
