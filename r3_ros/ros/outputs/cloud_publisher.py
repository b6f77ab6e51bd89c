"""Publishes clouds, depth images, grids, paths and graphs from snapshots, in a separate thread.

The worker puts jobs for subscribed topics into a mailbox. If subscribers are slow, only this
thread waits, and the oldest jobs are dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
import math
import threading
import time

import numpy as np

from ...core.config import PointsConfig, R3Config
from ...core.datatypes import DepthMap
from ...core.errors import OccupancyError
from ...core.geometry import rigid_part, scale_of, transform, unproject
from ...core.threads import Mailbox, RepeatingThread
from ...maps.cloud import Cloud, cloud_from_depth, usable_pixels
from ...maps.depth_colors import depth_colors
from ...maps.occupancy_grid import FREE, occupancy_grid, OCCUPIED
from ...maps.saved_map import SavedMap
from ...streaming.session import Session
from ..tf.pose_chain import PoseChain
from .graph_messages import empty_graph, GraphSnapshot, no_markers
from .keyframe_clouds import KeyframeClouds, KeyframePlace
from .messages import (
    camera_info_message,
    cloud_message,
    image_message,
    occupancy_message,
    organized_cloud_message,
    path_message,
)
from .outputs import Outputs

_WAITING_JOBS = 8
_PREVIEW_PERIOD_S = 0.1
#: Path, graph and markers are published at most this often.
_GRAPH_PERIOD_S = 1.0
_GRAPH_TOPICS = ('keyframe_graph', 'markers')
_DEPTH_TOPICS = ('depth/image', 'depth/camera_info', 'depth/confidence', 'depth/preview')
_FRAME_TOPICS = (*_DEPTH_TOPICS, 'color/image', 'color/camera_info', 'points')
#: Diagnostics warn of an outcome that begins with this.
NOT_PUBLISHED = 'not published'
_NO_METRIC_SCALE = f'{NOT_PUBLISHED}: the metric scale is unknown, see scale.source'


@dataclass(frozen=True, eq=False)
class DepthJob:
    """The depth of one frame, to be published.

    :ivar stamp_ns: of the frame of the depth, which may be an earlier one.
    :ivar place: its pose in map, if it is a keyframe; None otherwise.
    :ivar unit: factor from map units to the published unit.
    """

    depth_map: DepthMap
    stamp_ns: int
    optical_frame: str
    place: KeyframePlace | None
    unit: float


@dataclass(eq=False)
class CloudPublisher:
    """Takes snapshots for subscribed topics (worker thread) and publishes them (own thread).

    :ivar session_id: of the session whose map, path and graph are published.
    :ivar occupancy: outcome of the last grid, as text; empty before the first.
    """

    _outputs: Outputs
    config: R3Config
    _on_error: Callable[[Exception], None]
    _log: Callable[[str], None]  # of the outcome of the grid, when it changes
    session_id: int = field(default=0, init=False)
    occupancy: str = field(default='', init=False)

    def __post_init__(self) -> None:
        self._jobs: Mailbox[Callable[[], None]] = Mailbox(_WAITING_JOBS)
        self._thread: RepeatingThread | None = None
        # A reset clears map and path; jobs of an earlier epoch must not be published after it.
        self._epoch = 0
        self._publishing = threading.Lock()
        # A saved map is published instead of the session's.
        self._is_showing = False
        self._preview_at_s = -np.inf
        self._keyframe_clouds = KeyframeClouds()
        #: By latched topic, the session's state that was published last, and the last offer.
        self._shown: dict[str, object] = {}
        self._offered_at_s: dict[str, float] = {}

    def start(self) -> None:
        """Start the thread."""
        self._thread = RepeatingThread('clouds', self._run_one, self._on_error)
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Drop waiting jobs and end the thread."""
        self._jobs.clear()
        if self._thread is not None:
            self._jobs.wake()
            self._thread.stop(timeout_s)
            self._thread = None

    def drop_jobs(self) -> None:
        """Drop waiting jobs, which releases their snapshots."""
        self._jobs.clear()

    def clear(self, stamp_ns: int, path_too: bool) -> None:
        """Publish an empty map and grid, and after a reset an empty path and graph, too."""
        frame = self.config.map_frame
        empty: dict[str, object] = {
            'map_points': cloud_message(stamp_ns, frame, Cloud.empty()),
            'occupancy': occupancy_message(stamp_ns, frame, None),
        }
        if path_too:
            empty |= {
                'path': path_message(stamp_ns, frame, [], np.empty((0, 4, 4))),
                'keyframe_graph': empty_graph(stamp_ns, frame, self.session_id),
                'markers': no_markers(stamp_ns, frame),
            }
        with self._publishing:
            if path_too:
                self._keyframe_clouds.forget()
            self.occupancy = ''
            self._replace(empty, is_showing=False)

    def show(self, saved: SavedMap, stamp_ns: int) -> None:
        """Publish points and path of a saved map instead of the session's, until cleared."""
        frame, most = self.config.map_frame, self.config.map.max_publish_points
        cloud, trajectory = saved.points, saved.trajectory
        if len(cloud) > most:
            cloud = cloud.take(_evenly(len(cloud), most))
        rows = _evenly(len(trajectory), self.config.path_max_size)
        stamps_ns, T_map_base = trajectory.stamps_ns[rows], trajectory.T_map_base[rows]
        messages: dict[str, object] = {
            'map_points': cloud_message(stamp_ns, frame, cloud),
            'path': path_message(stamp_ns, frame, stamps_ns, T_map_base),
        }
        with self._publishing:
            self._replace(messages, is_showing=True)

    def _replace(self, messages: dict[str, object], is_showing: bool) -> None:
        """Publish latched messages in the place of those of the session, and drop its jobs."""
        self._epoch += 1
        self._is_showing = is_showing
        self._jobs.clear()
        for topic, message in messages.items():
            self._shown.pop(topic, None)
            self._outputs.publish(topic, message)

    def offer_depth(self, job: DepthJob) -> None:
        """Queue a depth map if one of its topics is subscribed."""
        if self._outputs.wanted(*_FRAME_TOPICS) or (
            job.place is not None and self._outputs.wanted('keyframe_points')
        ):
            epoch = self._epoch
            self._jobs.put(lambda: self._publish_depth(job, epoch))

    def offer_session(self, session: Session, chain: PoseChain, stamp_ns: int) -> None:
        """Queue snapshots of what has changed, is due and is subscribed."""
        config, frame = self.config, self.config.map_frame
        period_s = config.map.publish_period
        map_state = (session.session_id, session.map.revision, chain.unit, chain.moves)
        if not self._is_showing and self._is_due('map_points', map_state, period_s):
            view = session.map_view()

            def map_points() -> object:
                cloud = view.cloud(config.map.max_publish_points).moved(chain.S_map_world)
                return cloud_message(stamp_ns, frame, cloud)

            self._offer('map_points', map_state, map_points)
        self._offer_grid(session, chain, stamp_ns, map_state)
        keyframes = session.bank.ids()
        newest = keyframes[-1] if keyframes else -1
        state = (session.session_id, session.map_revision, newest, chain.unit)
        if not self._is_showing and self._is_due('path', state, _GRAPH_PERIOD_S):
            record = session.trajectory_view(keyframes_only=True)

            def path() -> object:
                rows = np.flatnonzero(np.isfinite(record.T_final[:, 0, 0]))
                rows = rows[_evenly(len(rows), config.path_max_size)]
                T_map_base = chain.T_map_base(record.T_final[rows])
                return path_message(stamp_ns, frame, record.stamps_ns[rows], T_map_base)

            self._offer('path', state, path)
        due = [topic for topic in _GRAPH_TOPICS if self._is_due(topic, state, _GRAPH_PERIOD_S)]
        if due:
            snapshot = GraphSnapshot(session, chain, stamp_ns, config)
            builders = {'keyframe_graph': snapshot.graph, 'markers': snapshot.markers}
            for topic in due:
                self._offer(topic, state, builders[topic])
        self._offer_moved_cloud(session, chain)

    def _offer(self, topic: str, state: object, build: Callable[[], object]) -> None:
        """Queue a latched message of a state, to be built and published in this epoch."""
        epoch = self._epoch

        def publish() -> None:
            message = build()
            with self._publishing:
                if message is not None and epoch == self._epoch:
                    self._outputs.publish(topic, message)
                    self._shown[topic] = state

        self._jobs.put(publish)

    def _offer_grid(
        self, session: Session, chain: PoseChain, stamp_ns: int, state: object
    ) -> None:
        config, epoch = self.config, self._epoch
        occupancy = config.occupancy
        if not (occupancy.enabled and len(session.map) and self._outputs.wanted('occupancy')):
            return
        if chain.metres_per_unit is None:
            self._note_occupancy(epoch, _NO_METRIC_SCALE)
        elif self._is_due('occupancy', state, occupancy.publish_period):
            view, record = session.map_view(), session.trajectory_view(keyframes_only=True)
            newest = session.bank.ids()[-1:]
            intrinsics = session.bank.intrinsics(newest[0]) if newest else None

            def grid() -> object:
                T_world_camera = record.T_final[np.isfinite(record.T_final[:, 0, 0])]
                points = transform(chain.S_map_world, view.cloud().points)
                message, details = None, ''
                try:
                    built = occupancy_grid(
                        points, chain.T_map_optical(T_world_camera), intrinsics, occupancy
                    )
                except OccupancyError as error:
                    outcome = f'{NOT_PUBLISHED}: {error}'
                else:
                    outcome, (height, width) = 'published', built.cells.shape
                    cells = f'{built.count(OCCUPIED)} occupied, {built.count(FREE)} free'
                    details = f'{width} x {height} cells, {cells}'
                    message = occupancy_message(stamp_ns, config.map_frame, built)
                self._note_occupancy(epoch, outcome, details)
                return message

            self._offer('occupancy', state, grid)

    def _note_occupancy(self, epoch: int, outcome: str, details: str = '') -> None:
        """Set the outcome of the grid, unless the map was cleared; log it if it has changed."""
        with self._publishing:
            if epoch != self._epoch:
                return
            is_news = not self.occupancy.startswith(outcome)
            self.occupancy = f'{outcome}: {details}' if details else outcome
            if is_news:
                self._log(f'occupancy grid {self.occupancy}')

    def _offer_moved_cloud(self, session: Session, chain: PoseChain) -> None:
        """Publish a keyframe's cloud again if its pose in map has changed."""
        if not self._outputs.wanted('keyframe_points'):
            self._keyframe_clouds.forget()
            return
        again, epoch = self._keyframe_clouds.next_again(session, chain), self._epoch
        if again is not None:
            place, cloud = again
            scale = float(scale_of(place.S_map_own))
            self._jobs.put(lambda: self._publish_keyframe(place, cloud.scaled(scale), epoch))

    def _is_due(self, topic: str, state: object, period_s: float) -> bool:
        """Return whether to offer a state of a latched topic now: it is new, and not too soon.

        A state that is dropped on the way is offered again.
        """
        now_s = time.monotonic()
        early = now_s - self._offered_at_s.get(topic, -math.inf) < period_s
        if early or state == self._shown.get(topic) or not self._outputs.wanted(topic):
            return False
        self._offered_at_s[topic] = now_s
        return True

    def _run_one(self) -> None:
        job = self._jobs.get(timeout_s=0.5)
        if job is not None:
            job()

    def _publish_depth(self, job: DepthJob, epoch: int) -> None:
        outputs, depth_map = self._outputs, job.depth_map
        stamp_ns, frame = job.stamp_ns, job.optical_frame
        info = camera_info_message(stamp_ns, frame, depth_map.intrinsics)

        def publish_image(topic: str, encoding: str, pixels: np.ndarray) -> None:
            outputs.publish(topic, image_message(stamp_ns, frame, encoding, pixels))

        if outputs.wanted('depth/image', 'depth/camera_info'):
            # REP-118: NaN where the depth is unknown.
            depth = depth_map.depth * np.float32(job.unit)
            pixels = np.where(np.isfinite(depth), depth, np.nan).astype(np.float32, copy=False)
            outputs.publish('depth/camera_info', info)
            publish_image('depth/image', '32FC1', pixels)
        if outputs.wanted('depth/confidence'):
            pixels = np.where(np.isfinite(depth_map.confidence), depth_map.confidence, 0.0)
            publish_image('depth/confidence', '32FC1', pixels.astype(np.float32))
        now_s = time.monotonic()
        if outputs.wanted('depth/preview') and now_s - self._preview_at_s >= _PREVIEW_PERIOD_S:
            self._preview_at_s = now_s
            publish_image('depth/preview', 'rgb8', depth_colors(depth_map.depth))
        if outputs.wanted('color/image', 'color/camera_info'):
            outputs.publish('color/camera_info', info)
            publish_image('color/image', 'rgb8', depth_map.image)
        self._publish_points(job, epoch)

    def _publish_points(self, job: DepthJob, epoch: int) -> None:
        outputs, options = self._outputs, self.config.points
        stamp_ns, frame = job.stamp_ns, job.optical_frame
        wants_points = outputs.wanted('points')
        place = job.place if outputs.wanted('keyframe_points') else None
        if wants_points and options.organized:
            points = organized_points(job.depth_map, options) * np.float32(job.unit)
            message = organized_cloud_message(stamp_ns, frame, points, job.depth_map)
            outputs.publish('points', message)
            wants_points = False
        if wants_points or place is not None:
            cloud = cloud_from_depth(job.depth_map, options).scaled(job.unit)
            if wants_points:
                outputs.publish('points', cloud_message(stamp_ns, frame, cloud))
            if place is not None:
                self._publish_keyframe(place, cloud, epoch)

    def _publish_keyframe(self, place: KeyframePlace, cloud: Cloud, epoch: int) -> None:
        """Publish a cloud, given in its camera's axes and the published unit, in map."""
        placed = cloud.moved(rigid_part(place.S_map_own))
        message = cloud_message(place.stamp_ns, self.config.map_frame, placed)
        with self._publishing:
            if epoch == self._epoch:
                self._outputs.publish('keyframe_points', message)
                self._keyframe_clouds.note(place, cloud.points)


def _evenly(count: int, most: int) -> np.ndarray:
    """Return at most so many of ``count`` rows, evenly spaced, with the first and the last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def organized_points(depth_map: DepthMap, options: PointsConfig) -> np.ndarray:
    """Return (h, w, 3) float32 points of every pixel, NaN where its depth is not usable."""
    K = depth_map.intrinsics
    points = unproject(depth_map.depth, K.fx, K.fy, K.cx, K.cy).astype(np.float32)
    points[~usable_pixels(depth_map, replace(options, stride=1))] = np.nan
    return points
