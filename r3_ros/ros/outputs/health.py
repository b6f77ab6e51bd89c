"""States, counters and timings of the node, for status and diagnostics.

By writing thread: :class:`Health` for the worker, whose copy in the snapshot other threads read;
:class:`NodeHealth` for the executor and the inputs; :class:`TransformHealth` has a lock. Times are
steady seconds (``time.monotonic``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
import enum
import math
import threading
import time

from ...core.datatypes import Estimate

_RATE_WINDOW_S = 5.0
_TIMES_KEPT = 1024


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
    """Fields of ``StreamStatus``: seconds that one frame took.

    :ivar latency: its age when its pose was published; NaN if unknown.
    """

    time_wait: float
    time_preprocess: float
    time_inference: float
    time_publish: float
    latency: float


def rate_hz(times_s: Sequence[float]) -> float:
    """Return the rate of events over the last seconds; 0 without two of them."""
    now_s = time.monotonic()
    recent = [t for t in times_s if now_s - t < _RATE_WINDOW_S]
    if len(recent) < 2:
        return 0.0
    # The time since the last event counts once it exceeds the mean period.
    span_s = max(recent[-1] - recent[0], (now_s - recent[0]) * (len(recent) - 1) / len(recent))
    return (len(recent) - 1) / span_s if span_s > 0 else 0.0


def _event_times() -> deque[float]:
    return deque(maxlen=_TIMES_KEPT)


@dataclass
class Health:
    """The worker's part. Counters start with configure; other values are the latest."""

    state: StreamState = StreamState.UNINITIALIZED
    reason: str = ''
    state_since_s: float = field(default_factory=time.monotonic)

    frames_processed: int = 0
    frames_paused: int = 0
    frames_rejected: int = 0
    last_reject_reason: str = ''
    rejected_in_a_row: int = 0
    processed_s: deque[float] = field(default_factory=_event_times)
    #: Of the newest processed frame; 0 before the first.
    last_stamp_ns: int = 0
    #: Age of the newest image by the node's clock, seconds.
    input_age_s: float = math.nan
    encoding: str = ''
    encoding_guessed: bool = False
    resolution: str = ''
    camera_info: str = 'missing'
    rectified: bool = False

    oom_count: int = 0
    #: Error of a lost device; empty otherwise.
    device_lost: str = ''

    #: Of the newest frame; NaN before the first.
    confidence_ratio: float = math.nan
    confidence_translation: float = math.nan
    confidence_rotation: float = math.nan
    #: Field of view estimated by the model minus the calibrated one; NaN without either.
    fov_error_deg: float = math.nan
    #: Of a rolling shutter, as the predictor measured it; 0 without.
    readout_s: float = 0.0
    recoveries: int = 0
    times: deque[StepTimes] = field(default_factory=lambda: deque(maxlen=300))
    busy_s: float = 0.0

    base_frame: str = ''
    optical_frame: str = ''

    def copy(self) -> Health:
        """Return a copy for other threads."""
        return replace(self, processed_s=self.processed_s.copy(), times=self.times.copy())

    def enter(self, state: StreamState, reason: str = '') -> None:
        """Change the state."""
        if state is not self.state:
            self.state_since_s = time.monotonic()
            self.recoveries += state is StreamState.RECOVERING
        self.state, self.reason = state, reason

    def processed(self, estimate: Estimate) -> None:
        """Count a frame that the engine has processed."""
        self.frames_processed += 1
        self.rejected_in_a_row = 0
        self.processed_s.append(time.monotonic())
        self.confidence_ratio = estimate.confidence_ratio
        self.confidence_translation = estimate.confidence_translation
        self.confidence_rotation = estimate.confidence_rotation
        self.readout_s = estimate.readout_s
        self.fov_error_deg = math.nan
        if not estimate.intrinsics_estimated:
            error = estimate.seen_fov_x - estimate.intrinsics.fov_x
            self.fov_error_deg = math.degrees(error)

    def reject(self, reason: str) -> None:
        """Count a frame that could not be used."""
        self.frames_rejected += 1
        self.rejected_in_a_row += 1
        self.last_reject_reason = reason


@dataclass
class NodeHealth:
    """The part of the executor and of the input thread.

    The latter writes ``received_s`` and ``frames_lost``, and adds to ``incompatible_qos``.

    :ivar active_since_s: NaN while the node is inactive.
    :ivar received_s: of the newest images; replaced as a whole.
    :ivar frames_lost: images that the middleware reports as lost.
    :ivar incompatible_qos: topic to text; iterated in a copy.
    :ivar image_topic: what is wrong with it, as text; empty if nothing.
    :ivar duplicates: other nodes with the same name.
    """

    active_since_s: float = math.nan
    received_s: tuple[float, ...] = ()
    frames_lost: int = 0
    incompatible_qos: dict[str, str] = field(default_factory=dict)
    image_topic: str = ''
    duplicates: int = 0
    last_save: str = ''
    save_failed: bool = False

    def note_image(self, time_s: float) -> None:
        """Count an image that was received."""
        self.received_s = (*self.received_s[1 - _TIMES_KEPT :], time_s)


@dataclass(eq=False)
class TransformHealth:
    """Problems on /tf. Any thread.

    :ivar problem: why the last lookup failed, at the time ``failed_s``.
    """

    problem: str = ''
    failures: int = 0
    failed_s: float = -math.inf
    _conflicts: dict[str, float] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def fail_lookup(self, problem: str) -> int:
        """Count a failed lookup; return the count."""
        with self._lock:
            self.problem = problem
            self.failures += 1
            self.failed_s = time.monotonic()
            return self.failures

    def note_conflict(self, edge: str, until_s: float) -> bool:
        """Note that another node broadcasts one of our edges, valid until a time.

        :returns: whether this is a new conflict.
        """
        with self._lock:
            is_news = self._conflicts.get(edge, -math.inf) < time.monotonic()
            self._conflicts[edge] = until_s
            return is_news

    @property
    def two_parents(self) -> str:
        """Return those of our edges that another node broadcasts, too; empty if there are none."""
        now_s = time.monotonic()
        with self._lock:
            return ', '.join(edge for edge, until_s in self._conflicts.items() if until_s > now_s)
