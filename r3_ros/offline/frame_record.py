"""What is kept of each processed frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import math

import numpy as np

from ..core.datatypes import TrackingState


@dataclass(frozen=True, eq=False)
class FrameRecord:
    """The record of one processed frame.

    :ivar step_ms: wall time of the whole engine step; ``timings_ms``: of its stages.
    :ivar read_ms: time to read, decode and undistort it, on the reader thread.
    :ivar loops_closed: in the session so far.
    :ivar resident_mib: memory of the process after the frame, NaN where the system does not tell.
    :ivar covariance: (6, 6) of the published pose, as in :class:`Estimate`; likewise
        ``T_previous_camera`` and ``step_covariance``.
    """

    frame_id: int
    stamp_ns: int
    state: TrackingState
    reason: str
    has_pose: bool
    is_keyframe: bool
    confidence_translation: float
    confidence_rotation: float
    confidence_ratio: float
    context_frames: int
    read_ms: float
    step_ms: float
    corrected_frames: int = 0
    segment_id: int = 0
    loops_closed: int = 0
    resident_mib: float = math.nan
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    covariance: np.ndarray | None = None
    T_previous_camera: np.ndarray | None = None
    step_covariance: np.ndarray | None = None

    @property
    def tracked(self) -> bool:
        """Whether the frame has a pose that follows from the images."""
        return self.has_pose and self.state.is_tracked
