"""Measures the scale while a stream runs, at keyframes and over stretches of odometry."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
import math

import numpy as np

from ...core.config import ScaleConfig
from ...core.datatypes import DepthMap
from ...core.errors import ConfigError, FrameError
from ...core.geometry import inverse
from ...core.predictor import MetricDepth
from ..keyframes.bank import KeyframeBank
from ..pose_graph import PoseGraph
from .estimator import depth_ratios, ScaleEstimator
from .odometry_buffer import OdometryBuffer

#: Length of a stretch of odometry, as a share of ``scale.min_translation``.
_STRETCH_SHARE = 0.1
#: A stretch that takes longer has drifted too far.
_LONGEST_STRETCH_NS = 10_000_000_000
#: Maximum number of frames that wait for odometry of their time.
_WAITING_FRAMES = 100
#: A scale set by the user has the range of ``scale.fixed``.
_RANGE = next(field.metadata['r3'] for field in fields(ScaleConfig) if field.name == 'fixed')


@dataclass(frozen=True, eq=False)
class _Step:
    """The camera's motion from one frame to the next, in a keyframe's own unit.

    :ivar T_previous_camera: None if the camera was lost, or is not in the world.
    """

    stamp_ns: int
    T_previous_camera: np.ndarray | None
    anchor_id: int
    unit: float


@dataclass(frozen=True, eq=False)
class _Stretch:
    """The present stretch: odometry at its start, and the camera's motion since."""

    stamp_ns: int
    T_odom_camera: np.ndarray
    T_start_camera: np.ndarray


class ScaleTracker(ScaleEstimator):
    """Measures the scale of one session. The engine's thread.

    Only keyframes and motion in the world count: another segment has a unit of its own.

    :param metric: required to measure with ``scale.source`` model, ``odometry`` likewise.
    :param user: scale and lock of the session before, if they were set by the user.
    """

    def __init__(
        self,
        config: ScaleConfig,
        metric: MetricDepth | None,
        odometry: OdometryBuffer,
        user: tuple[float, bool] | None,
    ) -> None:
        super().__init__(config)
        if user is not None:
            super().set_by_user(*user)
        self._metric = metric if config.source == 'model' else None
        self._odometry = odometry if config.source == 'odometry' else None
        self._keyframes_passed = 0
        self._waiting: deque[_Step] = deque()
        self._stretch: _Stretch | None = None

    def set_by_user(self, metres_per_unit: float, lock: bool) -> bool:
        """Set the scale in use; return whether it has changed.

        :raises ConfigError: it is out of range, or a measured scale is locked.
        """
        before, source = self.metres_per_unit, self.view().source
        if not (math.isfinite(metres_per_unit) and _RANGE.low <= metres_per_unit <= _RANGE.high):
            raise ConfigError(
                f'a scale of {metres_per_unit:g} is refused: give metres per map unit, '
                f'{_RANGE.low:g} to {_RANGE.high:g}'
            )
        if self.is_locked and source == self.config.source in ('model', 'odometry'):
            raise ConfigError(
                f'the scale is refused: {before:g} metres per map unit, measured by source '
                f"'{source}', is locked. Set scale.lock to false first, or scale.source to none "
                'and configure anew'
            )
        return super().set_by_user(metres_per_unit, lock)

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

        :param doubtful: keyframes with an uncertain pose.
        :param stamp_ns: of the frame; None without one.
        :param depths: in map units.
        :param motion: (4, 4) since the frame before in map units, None if the camera was lost
            in between, or is not in the world.
        :returns: whether the scale in use has changed, and with it all published lengths.
        """
        newest = bank.newest(1, 0)
        if not newest or (self._metric is None and self._odometry is None):
            return False
        held = graph.held
        measured = self.keyframes
        self.refer({i: held[i].scale for i in measured if i in held})
        changed = False
        for depth_map in depths:
            frame_id = depth_map.frame_id
            if frame_id in bank and frame_id not in doubtful and not graph.segments[frame_id]:
                changed |= self._measure_keyframe(depth_map, held[frame_id].scale)
        if stamp_ns is not None:
            changed |= self._add_motion(stamp_ns, motion, newest[0], held[newest[0]].scale)
        return changed

    def _measure_keyframe(self, depth_map: DepthMap, unit: float) -> bool:
        """Compare a keyframe's depth, in map units, with the metric network's, if it is due.

        :param unit: length of the keyframe's own unit in map units.
        """
        if self._metric is None:
            return False
        self._keyframes_passed += 1
        every = self.config.check_every
        if self.metres_per_unit is not None and not 0 < every <= self._keyframes_passed:
            return False
        try:
            ratios = depth_ratios(depth_map, self._metric.metres(depth_map))
        except FrameError:
            return False  # the next keyframe will do
        if not len(ratios):
            return False
        self._keyframes_passed = 0
        return self.add(depth_map.frame_id, unit, ratios * unit)

    def _add_motion(
        self, stamp_ns: int, T_previous_camera: np.ndarray | None, anchor_id: int, unit: float
    ) -> bool:
        """Add a frame's motion, compared with odometry as soon as that is there.

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

    def _follow(self, step: _Step, odometry: OdometryBuffer) -> bool:
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
        return self.add(step.anchor_id, step.unit, np.array([ratio]), went_m)


def _length(T: np.ndarray) -> float:
    return float(np.linalg.norm(T[:3, 3]))
