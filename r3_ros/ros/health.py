"""What the stream knows of itself: its state, counters and timings, for status and diagnostics.

The worker writes, the diagnostics timer reads; each value is replaced as a whole, so no lock is
needed. Times are steady seconds (``time.monotonic``).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
import enum
import math
import time

import numpy as np

from ..datatypes import Estimate


class StreamState(enum.IntEnum):
    """The states of ``StreamStatus``."""

    UNINITIALIZED = 0
    WAITING_INPUT = 1
    WAITING_TF = 2
    INITIALIZING = 3
    TRACKING = 4
    LOW_CONFIDENCE = 5
    LOST = 6
    RECOVERING = 7
    PAUSED = 8
    FAULT = 9


@dataclass(frozen=True)
class StepTimes:
    """Seconds that one frame took, and its age when its pose was published (NaN: no telling)."""

    wait: float
    preprocess: float
    inference: float
    publish: float
    latency: float


class RateMeter:
    """Events per second over the last few seconds."""

    def __init__(self, window_s: float = 5.0) -> None:
        """Start with no event."""
        self._window_s = window_s
        self._times: deque[float] = deque(maxlen=1024)

    def tick(self) -> None:
        """Note an event now."""
        self._times.append(time.monotonic())

    def rate_hz(self) -> float:
        """Return the present rate; 0 when nothing has come within the window."""
        now = time.monotonic()
        recent = [t for t in list(self._times) if now - t < self._window_s]
        if len(recent) < 2:
            return 0.0
        # The time since the last event counts once it exceeds the usual distance.
        span = max(recent[-1] - recent[0], (now - recent[0]) * (len(recent) - 1) / len(recent))
        return (len(recent) - 1) / span if span > 0 else 0.0


@dataclass
class Health:
    """Counters grow from configure on; the rest is the latest."""

    state: StreamState = StreamState.UNINITIALIZED
    reason: str = ''
    state_since_s: float = field(default_factory=time.monotonic)
    active_since_s: float = math.nan

    frames_processed: int = 0
    frames_paused: int = 0
    #: Pictures that the middleware says never arrived.
    frames_lost: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    last_reject_reason: str = ''
    rejected_in_a_row: int = 0
    received_rate: RateMeter = field(default_factory=RateMeter)
    processed_rate: RateMeter = field(default_factory=RateMeter)
    last_received_s: float = math.nan
    #: Age of the newest picture by the node's clock, seconds; not limited to what makes sense.
    input_age_s: float = math.nan
    encoding: str = ''
    encoding_guessed: bool = False
    resolution: str = ''
    camera_info: str = 'missing'
    rectified: bool = False
    incompatible_qos: dict[str, str] = field(default_factory=dict)

    #: Times that the device had no memory left.
    oom_count: int = 0
    #: What the device said last; empty while it answers.
    device_lost: str = ''

    #: Of the newest frame; NaN before the first.
    confidence_ratio: float = math.nan
    confidence_translation: float = math.nan
    confidence_rotation: float = math.nan
    #: Field of view that the model sees, over that of the calibration; NaN without either.
    fov_error_deg: float = math.nan
    recoveries: int = 0
    times: deque[StepTimes] = field(default_factory=lambda: deque(maxlen=300))
    busy_s: float = 0.0

    tf_problem: str = ''
    tf_failures: int = 0
    tf_failed_s: float = -math.inf
    #: Edges of ours that somebody else broadcasts too, each with when it counts as gone.
    rivals: dict[str, float] = field(default_factory=dict)
    base_frame: str = ''
    optical_frame: str = ''
    twins: int = 0

    last_save: str = ''
    save_failed: bool = False

    def enter(self, state: StreamState, reason: str = '') -> bool:
        """Change the state; tell whether it is another one than before."""
        changed = state is not self.state
        if changed:
            self.state_since_s = time.monotonic()
            self.recoveries += state is StreamState.RECOVERING
        self.state, self.reason = state, reason
        return changed

    def processed(self, estimate: Estimate) -> None:
        """Count a frame that went through the engine."""
        self.frames_processed += 1
        self.rejected_in_a_row = 0
        self.processed_rate.tick()
        self.confidence_ratio = estimate.confidence_ratio
        self.confidence_translation = estimate.confidence_translation
        self.confidence_rotation = estimate.confidence_rotation
        self.fov_error_deg = math.nan
        if not estimate.intrinsics_estimated:
            error = estimate.seen_fov_x - estimate.intrinsics.fov_x
            self.fov_error_deg = math.degrees(error)

    def reject(self, reason: str, kind: str) -> None:
        """Count a frame that could not be used."""
        self.rejected[kind] += 1
        self.rejected_in_a_row += 1
        self.last_reject_reason = reason

    def fail_lookup(self, problem: str) -> None:
        """Count a transform that could not be looked up."""
        self.tf_problem = problem
        self.tf_failures += 1
        self.tf_failed_s = time.monotonic()

    @property
    def two_parents(self) -> str:
        """Return the edges of ours that somebody else broadcasts now; empty if nobody does."""
        now_s, rivals = time.monotonic(), list(self.rivals.items())
        return ', '.join(edge for edge, until_s in rivals if until_s > now_s)

    @property
    def frames_rejected(self) -> int:
        """Return how many frames could not be used, for any reason."""
        return sum(self.rejected.values())


def finite(values: Iterable[float]) -> np.ndarray:
    """Return the finite ones of some values."""
    array = np.fromiter(values, dtype=np.float64)
    return array[np.isfinite(array)]
