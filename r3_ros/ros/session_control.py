"""Begins the sessions of a node, and carries out the services' commands on the current one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
import math
from pathlib import Path
import time
from typing import Any

import numpy as np
from r3_ros.msg import KeyframeGraph

from ..core.config import R3Config
from ..core.errors import DeviceLostError, FrameError
from ..core.geometry import inverse
from ..input.frame_filter import FrameFilter
from ..maps.keyframe_images import KeyframeImages
from ..maps.saved_map import SavedMap
from ..streaming.engine import Engine
from ..streaming.map_snapshot import take_map_snapshot
from ..streaming.relocalisation.search import Vicinity
from .outputs.cloud_publisher import CloudPublisher
from .outputs.graph_messages import empty_graph, GraphSnapshot
from .outputs.health import Health, StreamState
from .pose_output import PoseOutput
from .services.saving import ServiceCode, ServiceError, Snapshot
from .stream_report import StreamReport
from .tf.frame_tree import Base, TransformTree
from .tf.initial_pose import InitialPose

#: Search radius around an initial pose as a share of the map's extent: without a covariance, and
#: the lower limit with one.
_FAR_SHARE = 0.25
_LEAST_SHARE = 0.05
#: Search range of the rotation: the tilt of a hand-held camera is not in an initial pose.
_ANGLE = math.pi / 2


class MapSearch:
    """The search for the camera in a loaded map. Worker thread, except ``answer``.

    :ivar facts: of the map.
    :ivar answer: the reason why the camera was not found; empty if it was.
    """

    def __init__(self, saved: SavedMap) -> None:
        self.facts = saved.facts
        self.answer: Future[str] = Future()
        self.began_s = time.monotonic()
        # The diagonal of the box around the keyframes, and around the points if larger.
        centres = saved.keyframes.T_map_optical[:, :3, 3]
        extents = [float(np.linalg.norm(np.ptp(centres, axis=0)))]
        if saved.bounds is not None:
            # Half, since a few points may be far away.
            extents.append(0.5 * float(np.linalg.norm(saved.bounds[1] - saved.bounds[0])))
        self._extent = max(*extents, 1e-6)

    def near(
        self,
        T_map_base: np.ndarray,
        T_base_optical: np.ndarray | None,
        covariance: np.ndarray | None = None,
    ) -> Vicinity:
        """Return the vicinity of an initial pose, in the engine's world and unit.

        :param T_base_optical: mounting of the camera; None while it is unknown: that of the map.
        :param covariance: (6, 6) of the pose: three standard deviations of its position count.
        """
        variance = 0.0 if covariance is None else float(covariance.diagonal()[:2].max())
        radius = _FAR_SHARE * self._extent
        if variance > 0:
            radius = max(3.0 * math.sqrt(variance), _LEAST_SHARE * self._extent)
        mounting = self.facts.T_base_optical if T_base_optical is None else T_base_optical
        T = inverse(self.facts.T_map_world) @ T_map_base @ mounting
        T[:3, 3] /= self.facts.unit
        return Vicinity(T, radius / self.facts.unit, _ANGLE)


@dataclass(eq=False)
class SessionControl:
    """Begins sessions, and changes or reads the current one. Worker thread.

    :ivar images: of the keyframes, encoded.
    :ivar loaded_from: the folder of the map that the session continues.
    :ivar is_active: whether images are processed.
    """

    _engine: Engine
    config: R3Config
    _frame_filter: FrameFilter
    _pose_output: PoseOutput
    _clouds: CloudPublisher
    _tree: TransformTree
    _health: Health
    _report: StreamReport
    _logger: Any
    images: KeyframeImages = field(default_factory=KeyframeImages, init=False)
    loaded_from: Path | None = field(default=None, init=False)
    is_active: Callable[[], bool] = field(default=lambda: False, init=False)
    # Not None while the camera is searched for in a loaded map.
    _search: MapSearch | None = field(default=None, init=False)
    # Of the loaded map.
    _T_map_world: np.ndarray | None = field(default=None, init=False)
    _state_before_pause: StreamState = field(default=StreamState.WAITING_INPUT, init=False)

    # Beginning a session.

    def reset(self, reason: str, keeps_robot: bool = True) -> None:
        """Start a new session; the model stays loaded and the counters continue.

        :param keeps_robot: a robot whose odometry is corrected keeps its pose in map. Not after a
            time jump, as its odometry may have jumped, too.
        :raises DeviceLostError: the device is lost, so a new session would not help.
        """
        if self._health.device_lost:
            raise DeviceLostError(
                f'{self._health.device_lost}; clean up and configure the node, or restart it'
            )
        self._engine.reset()
        self._begin_session(reason, keeps_robot)

    def load_map(self, saved: SavedMap, T_map_base: np.ndarray | None, path: Path) -> MapSearch:
        """Begin a session in a saved map, and search for the camera there.

        :param T_map_base: (4, 4) initial pose of the base; None if unknown.
        :param path: folder of the map.
        :raises MapError: the map cannot be used; the session continues.
        :raises R3Error: the model cannot hold it; a new session begins.
        """
        search = MapSearch(saved)
        near = None
        if T_map_base is not None:
            near = search.near(T_map_base, self._mounting)
        session = self._engine.session
        try:
            loaded = self._engine.load_map(saved, near)
        except Exception:
            if self._engine.session is not session:
                self.reset('the map does not fit into memory')
            raise
        self._begin_session('another map was loaded', keeps_robot=False, search=search)
        self.images.update(loaded.images)
        self.loaded_from = path
        return search

    def set_camera(self, base: Base, optical_frame: str) -> None:
        """Set the camera and its base; a changed camera or base begins a new session.

        :raises FrameError: another camera is not allowed.
        """
        is_first, before = self._pose_output.base is None, self._health.optical_frame
        another = not is_first and optical_frame != before
        if another and self.config.input.on_resolution_change == 'reject':
            raise FrameError(f"frame_id changed from '{before}' to '{optical_frame}'")
        self._pose_output.base, self._pose_output.optical_frame = base, optical_frame
        self._tree.base_frame = self._health.base_frame = base.frame
        self._tree.health.problem = ''
        self._health.optical_frame = optical_frame
        self._engine.odometry.T_base_camera = base.T_base_optical
        self._logger.info(f"camera '{optical_frame}', base frame '{base.frame}'")
        if is_first:
            # The session has no frame yet, but may continue a loaded map.
            self._pose_output.restart(self._health.last_stamp_ns, True, self._T_map_world)
            # External odometry needs the base, long before the first frame is done.
            self._report.update_snapshot()
        else:
            self.reset('the camera changed' if another else 'the base of the camera changed')

    def _begin_session(
        self, reason: str, keeps_robot: bool, search: MapSearch | None = None
    ) -> None:
        """Reset everything around the engine for its new session, perhaps in a loaded map."""
        self._logger.info(f'new session: {reason}')
        self._end_search(f'a new session began: {reason}')
        self.loaded_from, self._search = None, search
        self._T_map_world = None if search is None else search.facts.T_map_world
        self.images.clear()
        self._engine.odometry.clear()
        self._clouds.session_id = self._engine.session.session_id
        self._pose_output.restart(self._health.last_stamp_ns, keeps_robot, self._T_map_world)
        self._frame_filter.reset()
        state = self._state_before_pause = StreamState.WAITING_INPUT
        if search is not None:
            reason = 'searching for the camera in the loaded map'
            state = self._state_before_pause = StreamState.INITIALIZING
        elif not self.is_active():
            state = StreamState.UNINITIALIZED
        if self._health.state is not StreamState.PAUSED:
            self._health.enter(state, reason)
        self._report.wants_images = True
        self._report.publish_status()

    # A loaded map.

    def watch_search(self) -> None:
        """End the search when the camera is found or the time is up."""
        search, timeout_s = self._search, self.config.relocalise.timeout
        if search is None:
            return
        if not self._engine.is_relocalising:
            self._logger.info('the camera was found in the loaded map')
            self._end_search('')
        elif time.monotonic() - search.began_s > timeout_s:
            reason = f'the camera was not found in the map within {timeout_s:g} s'
            if self._health.reason:
                reason += f' ({self._health.reason})'
            self._search = None
            try:
                self.reset('the camera was not found in the loaded map')
            finally:
                # After the reset: the caller may send images at once.
                search.answer.set_result(f'{reason}; a new session begins without it')

    def view_map(self, saved: SavedMap) -> None:
        """Publish a saved map instead of the session's own; the session continues."""
        self._clouds.show(saved, self._health.last_stamp_ns)

    def _end_search(self, reason: str) -> None:
        if self._search is not None:
            self._search.answer.set_result(reason)
            self._search = None

    @property
    def _mounting(self) -> np.ndarray | None:
        base = self._pose_output.base
        return None if base is None else base.T_base_optical

    # The current session.

    def clear_map(self) -> str:
        """Remove the map's points and continue tracking; return a message for the caller."""
        self._engine.session.map.clear()
        self._clouds.clear(self._health.last_stamp_ns, path_too=False)
        return 'the map is empty'

    def set_scale(self, metres_per_unit: float, lock: bool) -> str:
        """Set the metric scale (metres per map unit); return a message for the caller.

        :raises ConfigError: it is not a positive number, or a measured scale is locked.
        """
        self._engine.set_scale(metres_per_unit, lock)
        scale = self._engine.session.scale.view()
        self._pose_output.rescale(scale.metres_per_unit)
        self._report.publish_status()
        after = 'it is locked' if scale.locked else 'later estimates may change it'
        return f'a map unit is {metres_per_unit:g} m; {after}'

    def pause(self, pause: bool) -> str:
        """Ignore images, or process them again; return a message for the caller."""
        paused = self._health.state is StreamState.PAUSED
        if pause == paused:
            return 'already paused' if paused else 'not paused'
        if pause:
            self._state_before_pause = self._health.state
            self._health.enter(StreamState.PAUSED, 'paused on request')
        else:
            self._health.enter(self._state_before_pause, 'resumed')
        self._report.publish_status()
        return 'paused' if pause else 'resumed'

    def on_initial_pose(self, given: InitialPose) -> None:
        """Move the map so that the base has a given pose.

        While the camera is searched for in a loaded map, narrow the search instead.
        """
        if self._search is not None and self._engine.is_relocalising:
            near = self._search.near(given.T_map_base, self._mounting, given.covariance)
            self._engine.narrow_search(near)
            self._logger.info(f'searching for the camera around the base at {given}')
            return
        chain = self._pose_output.chain
        if chain is None or chain.last is None:
            if self._pose_output.start_at(given):
                self._logger.info(f'the map will start with the base at {given}')
                return
        elif self._pose_output.move_map(given):
            self._engine.session.map_revision += 1
            self._logger.info(f'the map was moved, the base is at {given}')
            self._report.publish_status()
            return
        self._logger.error(
            'initialpose is refused: the camera is lost, so the map cannot be moved under it. '
            'Return to a mapped place, or call ~/reset first'
        )

    # Snapshots for other threads.

    def map_snapshot(self) -> Snapshot:
        """Return what a save needs; cheap to take, for any thread.

        :raises ServiceError: the map is empty.
        """
        session = self._engine.session
        chain = self._pose_output.chain
        if chain is None or not session.frame_count:
            raise ServiceError(ServiceCode.EMPTY_MAP, 'no image has been processed yet')
        return Snapshot(
            config=self.config,
            chain=chain.frozen(session.scale.metres_per_unit),
            base_frame=self._health.base_frame,
            optical_frame=self._health.optical_frame,
            map=take_map_snapshot(session, self._engine.predictor, self.images.copy()),
        )

    def keyframe_graph(self) -> Callable[[], KeyframeGraph]:
        """Return what builds the graph, in any thread; it is empty before the first pose."""
        session, chain = self._engine.session, self._pose_output.chain
        stamp_ns, scale = self._health.last_stamp_ns, session.scale.view()
        known = chain is not None and session.frame_count and not scale.awaited
        if chain is None or not known or self._engine.is_relocalising:
            empty = empty_graph(stamp_ns, self.config.map_frame, session.session_id)
            return lambda: empty
        chain = chain.frozen(scale.metres_per_unit)
        return GraphSnapshot(session, chain, stamp_ns, self.config).graph
