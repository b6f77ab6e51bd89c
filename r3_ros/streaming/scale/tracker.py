"""What feeds the scale while a stream runs: keyframes to measure, and stretches of odometry."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
import math

import numpy as np

from ...config import ScaleConfig
from ...datatypes import DepthMap
from ...errors import ConfigError, FrameError
from ...geometry import inverse
from ...metric_depth import MetricDepth
from ..keyframes.bank import KeyframeBank
from ..pose_graph import PoseGraph
from ..pose_resolution import HeldPose
from .estimator import depth_ratios, ScaleEstimator, ScaleView
from .odometry_buffer import OdometryTrack

#: A stretch of odometry is so long, as a share of the motion that is needed in all.
_STRETCH_SHARE = 0.1
#: One that takes longer has drifted more than it has moved.
_LONGEST_STRETCH_NS = 10_000_000_000
#: Frames that may wait for odometry to come as far as they are.
_WAITING_FRAMES = 100
#: What ``scale.fixed`` may be, a number set by hand may be.
_RANGE = next(field.metadata['r3'] for field in fields(ScaleConfig) if field.name == 'fixed')


@dataclass(frozen=True)
class UserScale:
    """Metres per map unit set by hand during a run; see ``ScaleEstimator``."""

    metres_per_unit: float
    lock: bool

    def check(self) -> None:
        """Refuse what is no length.

        :raises ConfigError: it is not finite, not positive, or beyond what makes sense.
        """
        value, low, high = self.metres_per_unit, _RANGE.low, _RANGE.high
        if not (math.isfinite(value) and low <= value <= high):
            raise ConfigError(
                f'a scale of {value:g} is refused: give metres per map unit, {low:g} to {high:g}'
            )


@dataclass(frozen=True, eq=False)
class _Step:
    """The camera's motion from one frame to the next, in units of a keyframe's own.

    :ivar T_previous_camera: None: it was not followed, or has no place in the world.
    """

    stamp_ns: int
    T_previous_camera: np.ndarray | None
    anchor_id: int
    unit: float


@dataclass(frozen=True, eq=False)
class _Stretch:
    """The present stretch: where odometry was at its start, and the camera's motion since."""

    stamp_ns: int
    T_odom_camera: np.ndarray
    T_start_camera: np.ndarray


class ScaleTracker:
    """Measures the scale of one session. The engine's thread.

    Only keyframes and motion in the world count: a segment that is not joined has a unit of its
    own, and no pose in it is reported.
    """

    def __init__(
        self,
        config: ScaleConfig | None = None,
        metric: MetricDepth | None = None,
        odometry: OdometryTrack | None = None,
        user: UserScale | None = None,
    ) -> None:
        """Start a session; what cannot be measured without a source that is not given is not.

        :param user: the number that was in use before, if it was set by hand.
        """
        self.config = ScaleConfig() if config is None else config
        self._estimator = ScaleEstimator(self.config)
        if user is not None:
            self._estimator.set_by_user(user.metres_per_unit, user.lock)
        self._metric = metric if self.config.source == 'model' else None
        self._odometry = odometry if self.config.source == 'odometry' else None
        self._keyframes_passed = 0
        self._waiting: deque[_Step] = deque()
        self._stretch: _Stretch | None = None

    @property
    def measures(self) -> bool:
        """Return whether there is anything to do with a frame."""
        return self._metric is not None or self._odometry is not None

    @property
    def metres_per_unit(self) -> float | None:
        """Return the number in use, None while it is unknown."""
        return self._estimator.metres_per_unit

    def view(self) -> ScaleView:
        """Return what is known now."""
        return self._estimator.view()

    def adopt(self, metres_per_unit: float, source: str) -> None:
        """Take the scale of a map that was loaded, whose unit is this session's."""
        self._estimator.adopt(metres_per_unit, source)

    def update_config(self, config: ScaleConfig) -> bool:
        """Take live parameters over; return whether the number in use has changed."""
        self.config = config
        return self._estimator.update_config(config)

    def set_by_user(self, user: UserScale) -> None:
        """Take a number for the one in use.

        :raises ConfigError: it is no length, or one that was measured is locked.
        """
        user.check()
        source = self.view().source
        if self._estimator.is_locked and source == self.config.source in ('model', 'odometry'):
            raise ConfigError(
                f'the scale is refused: {self.metres_per_unit:g} metres per map unit, measured by '
                f"source '{source}', is locked. Set scale.lock to false first, or "
                'scale.source to none and configure anew'
            )
        self._estimator.set_by_user(user.metres_per_unit, user.lock)

    def measure(
        self,
        bank: KeyframeBank,
        graph: PoseGraph,
        doubtful: Collection[int],
        stamp_ns: int | None,
        depths: Iterable[DepthMap],
        motion: np.ndarray | None,
    ) -> bool:
        """Measure the scale with a frame, or with depth that came late.

        :param doubtful: keyframes whose pose is not sure yet.
        :param stamp_ns: of the frame; None without one.
        :param depths: in map units.
        :param motion: (4, 4) since the frame before, None if the camera was not followed from
            there.
        :returns: whether the number in use has changed: all poses given out before are of another
            length now.
        """
        newest = bank.newest(1, 0)
        if not newest or not self.measures:
            return False
        held = graph.held
        self.refer(held)
        depths = tuple(depths)
        sure = {
            frame_id: held[frame_id]
            for frame_id in (depth_map.frame_id for depth_map in depths)
            if frame_id in bank and frame_id not in doubtful and not graph.segments[frame_id]
        }
        changed = self._take_keyframes(depths, sure)
        if stamp_ns is not None:
            changed |= self._take_motion(stamp_ns, motion, newest[0], held[newest[0]].scale)
        return changed

    def refer(self, held: Mapping[int, HeldPose]) -> None:
        """Take the frames' units over after a correction."""
        measured = self._estimator.keyframes
        self._estimator.refer({i: held[i].scale for i in measured if i in held})

    def _take_keyframes(
        self, depths: Iterable[DepthMap], keyframes: Mapping[int, HeldPose]
    ) -> bool:
        """Measure keyframes whose depth has come; return whether the number in use has changed.

        :param depths: in map units.
        :param keyframes: those that are in the world, for sure.
        """
        changed = False
        if self._metric is None:
            return changed
        for depth_map in depths:
            frame_id = depth_map.frame_id
            if frame_id not in keyframes or not self._is_due():
                continue
            try:
                ratios = depth_ratios(depth_map, self._metric.metres(depth_map))
            except FrameError:
                continue  # the next keyframe will do
            if len(ratios):
                self._keyframes_passed = 0
                unit = keyframes[frame_id].scale
                changed |= self._estimator.add(frame_id, unit, ratios * unit)
        return changed

    def _is_due(self) -> bool:
        """Return whether to look at a keyframe: all until the scale is known, then some."""
        self._keyframes_passed += 1
        if self.metres_per_unit is None:
            return True
        return 0 < self.config.check_every <= self._keyframes_passed

    def _take_motion(
        self, stamp_ns: int, T_previous_camera: np.ndarray | None, anchor_id: int, unit: float
    ) -> bool:
        """Take a frame's motion in; return whether the number in use has changed.

        :param T_previous_camera: (4, 4) in map units since the frame before; None if the camera
            was not followed from there, or is not in the world.
        :param anchor_id: the newest keyframe, whose own unit is ``unit`` map units long.
        """
        if self._odometry is None:
            return False
        if T_previous_camera is not None:
            T_previous_camera = T_previous_camera.copy()
            T_previous_camera[:3, 3] /= unit
        self._waiting.append(_Step(stamp_ns, T_previous_camera, anchor_id, unit))
        if len(self._waiting) > _WAITING_FRAMES:
            self._waiting.popleft()
            self._stretch = None
        changed = False
        while self._waiting and self._odometry.reaches(self._waiting[0].stamp_ns):
            changed |= self._follow(self._waiting.popleft(), self._odometry)
        return changed

    def _follow(self, step: _Step, odometry: OdometryTrack) -> bool:
        """Go on with the present stretch, or end it and begin the next."""
        T_odom_camera, stretch = odometry.at(step.stamp_ns), self._stretch
        if T_odom_camera is None or step.T_previous_camera is None:
            self._stretch = None
            return False
        begun = _Stretch(step.stamp_ns, T_odom_camera, np.eye(4))
        if stretch is None:
            self._stretch = begun
            return False
        T_start_camera = stretch.T_start_camera @ step.T_previous_camera
        went_m = _length(inverse(stretch.T_odom_camera) @ T_odom_camera)
        if went_m < _STRETCH_SHARE * self.config.min_translation:
            too_long = step.stamp_ns - stretch.stamp_ns > _LONGEST_STRETCH_NS
            kept = _Stretch(stretch.stamp_ns, stretch.T_odom_camera, T_start_camera)
            self._stretch = begun if too_long else kept
            return False
        self._stretch = begun
        with np.errstate(divide='ignore'):
            ratio = np.float64(went_m) / _length(T_start_camera)
        return self._estimator.add(step.anchor_id, step.unit, np.array([ratio]), went_m)


def _length(T: np.ndarray) -> float:
    return float(np.linalg.norm(T[:3, 3]))
