"""Whether a frame's pose may be published, and the tracking state.

The score is that of the best few edges: a mean over all remembered frames falls as the camera
travels although tracking is fine. The reference that scores are compared with follows the stream,
also while frames are rejected, so that a lasting change (dusk, a plainer room) becomes normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np

from ..core.config import TrackingConfig
from ..core.datatypes import Edge, FramePrediction, TrackingState
from ..core.geometry import inverse, rigid_part, rotation_angle, scale_of

_BEST_EDGES = 3
#: Share by which the reference moves towards each score: down slowly, up a little faster.
_FOLLOW_DOWN = 0.01
_FOLLOW_UP = 0.03
#: The reference stays within these multiples of the predictor's own nominal score.
_REFERENCE_RANGE = (0.25, 4.0)
#: Lower bound of the reference while lost: wrong places have low scores, and a long search must
#: not make them the new normal.
_LOST_REFERENCE = 0.5
#: Largest turn and step between two frames that confirm a recovery: radians, and map units (the
#: scene at the start is about one unit away). The step may be larger by this factor of the last
#: stride, or by twice the motion agreed on so far.
_AGREE_ROTATION_RAD = 0.35
_AGREE_STEP = 0.25
_AGREE_STRIDES = 4.0
#: Share by which the usual motion between two frames follows the last motion.
_FOLLOW_STRIDE = 0.1
#: Factor on the number of frames that must agree where their scores are low.
_WEAK_FACTOR = 2
#: Drift counts as a share of the path or of this, if the path is shorter, in map units.
_LEAST_PATH = 0.02


@dataclass(frozen=True)
class Verdict:
    """Whether the pose may be published, and whether the frame may enter bank and map."""

    state: TrackingState
    reason: str
    publishable: bool
    mappable: bool
    confidence_translation: float
    confidence_rotation: float
    ratio: float


class Gate:
    """State machine over frames; one per session."""

    def __init__(
        self, config: TrackingConfig, nominal_score: float, start_advice: str = ''
    ) -> None:
        self.config = config
        self._start_advice = start_advice
        self._nominal = nominal_score
        self.reference = nominal_score
        self.state = TrackingState.INITIALIZING
        self._bad_frames = 0
        self._agreeing: list[np.ndarray] = []
        self._needed: int | None = None  # frames that have to agree, if not the usual number
        self._before: np.ndarray | None = None  # the last frame's pose, if it was published
        self._stride = 0.0

    def update_nominal(self, nominal_score: float) -> None:
        """Adopt a new nominal score of the predictor; the reference scales in proportion."""
        self.reference *= nominal_score / self._nominal
        self._nominal = nominal_score

    @property
    def lost(self) -> bool:
        return self.state in (TrackingState.LOST, TrackingState.RECOVERING)

    def open_gap(self) -> None:
        """Require a recovery: the stream was interrupted."""
        if self.state not in (TrackingState.INITIALIZING, TrackingState.LOST):
            self.state = TrackingState.RECOVERING
            self._agreeing = []
            self._before = None

    def begin_lost(self, frames: int) -> None:
        """Begin LOST in a known map; so many frames have to agree on the place."""
        self.restart()
        self.state = TrackingState.LOST
        self._needed = frames

    def restart(self) -> None:
        """Begin in an unknown place; the reference score is kept."""
        self.state = TrackingState.INITIALIZING
        self._bad_frames = 0
        self._agreeing = []
        self._before = None
        self._stride = 0.0

    def move(self, S_corrected_world: np.ndarray) -> None:
        """Apply a correction of the world to the poses that new ones are compared with."""
        scale = float(scale_of(S_corrected_world))
        self._stride *= scale
        if self._before is not None:
            self._before = rigid_part(S_corrected_world @ self._before)
        self._agreeing = [rigid_part(S_corrected_world @ T) for T in self._agreeing]

    def judge(
        self,
        edges: Sequence[Edge],
        T_world_camera: np.ndarray | None,
        provisional: bool,
        first: bool,
        built_on: bool = False,
    ) -> Verdict:
        """Judge one frame and update the state.

        :param edges: the edges its pose was resolved from.
        :param T_world_camera: (4, 4) pose, None if none could be resolved.
        :param provisional: the predictor has no geometry yet.
        :param first: the session's first frame, which defines the world.
        :param built_on: the predictor judges poses itself, and tracks on from this one: a low
            score is reported, but if the pose were refused, the two would part.
        """
        score_t, score_r = best_scores(edges)
        ratio = 0.5 * (score_t + score_r) / self.reference if edges else 0.0
        if first or (provisional and self.state is TrackingState.INITIALIZING):
            return self._initializing(first, T_world_camera, score_t, score_r, ratio)
        if provisional:
            # A predictor that restarts in mid-stream does not know where the camera is.
            T_world_camera = None
        if T_world_camera is None or (ratio < self.config.lost_ratio and not built_on):
            state, reason = self._reject(T_world_camera is None, ratio)
            publishable = False
        elif self.lost:
            state, reason, publishable = self._recover(T_world_camera, ratio)
        else:
            state, reason = self._accept(ratio)
            publishable = True
        if edges:
            self._follow(0.5 * (score_t + score_r))
        self._follow_stride(T_world_camera if publishable else None)
        self.state = state
        mappable = publishable and state is TrackingState.TRACKING
        return Verdict(state, reason, publishable, mappable, score_t, score_r, ratio)

    def _initializing(
        self, first: bool, T: np.ndarray | None, score_t: float, score_r: float, ratio: float
    ) -> Verdict:
        """Judge a frame of the start-up: its pose is published, but not mapped."""
        self.state = TrackingState.INITIALIZING
        reason = 'first frame' if first else f'no geometry yet: {self._start_advice}'
        if first:
            ratio = 1.0
        return Verdict(self.state, reason, T is not None, first, score_t, score_r, ratio)

    def _accept(self, ratio: float) -> tuple[TrackingState, str]:
        self._bad_frames = 0
        if ratio < self.config.low_confidence_ratio:
            return TrackingState.LOW_CONFIDENCE, f'score at {ratio:.0%} of the usual'
        return TrackingState.TRACKING, ''

    def _reject(self, no_edge: bool, ratio: float) -> tuple[TrackingState, str]:
        self._bad_frames += 1
        self._agreeing = []
        reason = 'no remembered frame fits' if no_edge else f'score at {ratio:.0%} of the usual'
        if self.lost or self._bad_frames >= self.config.lost_after_frames:
            return TrackingState.LOST, reason
        if self.state is TrackingState.INITIALIZING:
            return TrackingState.INITIALIZING, reason
        return TrackingState.LOW_CONFIDENCE, reason

    def _recover(self, T: np.ndarray, ratio: float) -> tuple[TrackingState, str, bool]:
        """Require several frames in a row that agree before a recovered pose is published.

        Weak matches count too, if more of them agree. If they were rejected, no frame would be
        remembered, and the camera would only move farther away from those that are.
        """
        weak = ratio < self.config.low_confidence_ratio
        needed = self._needed or self.config.recover_frames
        needed *= _WEAK_FACTOR if weak else 1
        if self._agreeing and not self._agrees(T):
            self._agreeing = []
        self._agreeing.append(T)
        if len(self._agreeing) < needed:
            found = f'{len(self._agreeing)} of {needed} frames agree'
            return TrackingState.RECOVERING, found, False
        self._agreeing = []
        self._needed = None
        state, reason = self._accept(ratio)
        return state, 'found again' + (f', {reason}' if reason else ''), True

    def _agrees(self, T: np.ndarray) -> bool:
        """Return whether a found pose fits the motion since the one before it."""
        first, before = self._agreeing[0], self._agreeing[-1]
        step = inverse(before) @ T
        # Without metric scale, only earlier motion bounds the step.
        reach = max(_AGREE_STEP, _AGREE_STRIDES * self._stride) + 2.0 * _distance(first, before)
        near_enough = float(np.linalg.norm(step[:3, 3])) <= reach
        return bool(near_enough and rotation_angle(step[:3, :3]) <= _AGREE_ROTATION_RAD)

    def _follow_stride(self, T: np.ndarray | None) -> None:
        if T is not None and self._before is not None:
            self._stride += _FOLLOW_STRIDE * (_distance(self._before, T) - self._stride)
        self._before = T

    def _follow(self, score: float) -> None:
        share = _FOLLOW_UP if score > self.reference else _FOLLOW_DOWN
        moved = self.reference + share * (score - self.reference)
        low, high = (bound * self._nominal for bound in _REFERENCE_RANGE)
        if self.lost:
            low = min(self.reference, _LOST_REFERENCE * self._nominal)
        self.reference = min(max(moved, low), high)


def reason_to_doubt(
    drift: np.ndarray, path: float, prediction: FramePrediction, config: TrackingConfig
) -> str:
    """Return why a pose is not claimed with confidence; empty if nothing speaks against it.

    :param drift: (2,) expected error of its position, in map units, and rotation, radians.
    :param path: length of the way to it, in map units.
    :param prediction: that the pose follows from.
    """
    share = float(drift[0]) / max(path, _LEAST_PATH)
    angle = math.degrees(drift[1])
    found = []
    if 0 < config.drift_share < share:
        found.append(f'the position by {share:.0%} of the path')
    if 0 < config.drift_angle < angle:
        found.append(f'the rotation by {angle:.0f} degrees')
    reasons = [f'may have drifted: {" and ".join(found)}'] if found else []
    if prediction.unit_unsure:
        reasons.append(
            'hardly any landmark was seen throughout, so the unit of length may have changed: '
            'return to where the camera was before'
        )
    if 0 < config.focal_sigma < prediction.focal_sigma:
        reasons.append(
            f'the estimated focal length is known to {prediction.focal_sigma:.0%}: move sideways '
            'and turn, or give a calibration'
        )
    return '; '.join(reasons)


def best_scores(edges: Sequence[Edge]) -> tuple[float, float]:
    """Return the mean translation and rotation score of the best few edges, NaN without any."""
    if not edges:
        return float('nan'), float('nan')
    scores = np.array([edge.scores for edge in edges])
    best = scores[np.argsort(-scores.sum(axis=1))[:_BEST_EDGES]].mean(axis=0)
    return float(best[0]), float(best[1])


def _distance(T_a: np.ndarray, T_b: np.ndarray) -> float:
    return float(np.linalg.norm(T_a[:3, 3] - T_b[:3, 3]))
