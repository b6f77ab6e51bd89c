"""Policies that the worker asks: whether to wait with an image, and what to do without memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
import enum
import time
from typing import Any

from ..core.config import MemoryConfig, R3Config
from ..core.datatypes import Estimate, Frame
from ..core.errors import DeviceMemoryError, R3Error, TransformError
from ..streaming.engine import Engine
from .inputs.camera_input import CameraInput, Received
from .outputs.health import Health
from .outputs.messages import stamp_ns_of
from .pose_output import PoseOutput
from .tf.frame_tree import Base, TransformTree

#: So many failures within this time lead to FAULT.
_WINDOW_S = 60.0
_TOO_OFTEN = 3


@dataclass(eq=False)
class Readiness:
    """Decides whether an image can be processed yet. Worker thread."""

    config: R3Config
    _camera: CameraInput
    _tree: TransformTree
    _pose_output: PoseOutput

    def base_for(self, received: Received) -> Base | None:
        """Return the base of an image's camera; None: calibration or transforms may still come.

        While the base does not change, the same object is returned.

        :raises TransformError: a transform is missing for too long; the image cannot be used.
        """
        if self._camera.waits_for_calibration():
            return None
        message, pose_output = received.message, self._pose_output
        frame, base = self._camera.optical_frame(message), pose_output.base
        if (
            base is None
            or frame != pose_output.optical_frame
            or self._tree.is_outdated(base, frame)
        ):
            return self._found(frame)
        self._tree.check_mount(base, frame)
        in_time = time.monotonic() - received.time_s < self.config.tf_lookup_timeout
        stamp_ns = stamp_ns_of(message.header.stamp)
        return None if in_time and pose_output.waits_for_robot(stamp_ns) else base

    def _found(self, frame: str) -> Base | None:
        in_time = time.monotonic() - self._tree.since_s < self.config.tf_lookup_timeout
        # Without base_frame the camera is the base, but the driver's frames may still come.
        if in_time and not self.config.base_frame and not self._tree.has_parent(frame):
            return None
        try:
            return self._tree.find_base(frame)
        except TransformError:
            if in_time:
                return None
            raise


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


@dataclass(eq=False)
class FrameStepper:
    """Runs the engine on frames, and frees memory where needed. Worker thread.

    :ivar recent_s: times of the last failures; without them the next one counts as the first.
    """

    _engine: Engine
    config: MemoryConfig
    _health: Health
    _drop_jobs: Callable[[], None]
    _logger: Any
    recent_s: deque[float] = field(default_factory=deque, init=False)

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
        """Free memory, or raise NoMemoryError where that does not help."""
        self._health.oom_count += 1
        remedy = self.record_failure(time.monotonic(), can_retry)
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
            f'{reason} (oom_count: {self._health.oom_count}); the oldest quarter of the keyframes '
            'and half of the recent frames are removed, and the frame is tried again. Use a '
            'smaller memory.max_gpu_mib or model.image_size'
        )

    def record_failure(self, now_s: float, can_retry: bool) -> Remedy:
        """Record a failure and return its remedy: more severe soon after another failure.

        :param can_retry: the frame has not changed the session, so it may be tried again.
        """
        policy, recent_s = self.config.oom_policy, self.recent_s
        recent_s.append(now_s)
        while now_s - recent_s[0] > _WINDOW_S:
            recent_s.popleft()
        if policy == 'error' or len(recent_s) >= _TOO_OFTEN:
            return Remedy.STOP
        if policy == 'shrink' and len(recent_s) == 1 and can_retry:
            return Remedy.SHRINK
        return Remedy.RESET
