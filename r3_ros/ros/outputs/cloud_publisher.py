"""Publishes clouds, depth images, grids, paths and graphs from snapshots, in a separate thread.

The worker puts jobs for subscribed topics into a mailbox. If subscribers are slow, only this
thread waits, and the oldest jobs are dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
import threading
import time
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ...core.config import R3Config
from ...core.datatypes import DepthMap
from ...core.geometry import rigid_part, scale_of, unproject
from ...core.threads import Mailbox, RepeatingThread
from ...maps.cloud import Cloud, cloud_from_depth, usable_pixels
from ..tf.pose_chain import PoseChain
from .graph_messages import empty_graph, GraphSnapshot, no_markers
from .keyframe_clouds import KeyframeClouds, KeyframePlace, PublishedCloud
from .messages import (
    camera_info_message,
    cloud_message,
    image_message,
    occupancy_message,
    organized_cloud_message,
    path_message,
)
from .occupancy_topic import GridJob, OccupancyOutcome
from .outputs import Outputs

if TYPE_CHECKING:
    from ...maps.saved_map import SavedMap
    from ...streaming.session import Session
    from ...streaming.trajectory import TrajectoryView
    from ...streaming.voxel_map import MapView

_WAITING_JOBS = 8
_PREVIEW_PERIOD_S = 0.1
#: Path, graph and markers are published at most this often.
_GRAPH_PERIOD_S = 1.0
_GRAPH_TOPICS = ('keyframe_graph', 'markers')
_DEPTH_TOPICS = ('depth/image', 'depth/camera_info', 'depth/confidence', 'depth/preview')
_FRAME_TOPICS = (*_DEPTH_TOPICS, 'color/image', 'color/camera_info', 'points')


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


class Latched:
    """Decides when a latched topic is due: if its state has changed, and not too often.

    :ivar shown: the session's state that was published last; None if something else was.
    """

    def __init__(self) -> None:
        self.shown: object = None
        self._offered_at_s = -np.inf

    def due(self, state: object, period_s: float, now_s: float) -> bool:
        """Return whether to offer a state for publishing now.

        The caller sets ``shown`` after publishing, so a dropped state is offered again.
        """
        if state == self.shown or now_s - self._offered_at_s < period_s:
            return False
        self._offered_at_s = now_s
        return True


class CloudPublisher:
    """Takes snapshots for subscribed topics (worker thread) and publishes them (own thread).

    :ivar session_id: of the session whose map, path and graph are published.
    """

    def __init__(
        self,
        outputs: Outputs,
        config: R3Config,
        on_error: Callable[[Exception], None],
        log: Callable[[str], None],
    ) -> None:
        self.config = config
        self.occupancy = OccupancyOutcome(log)
        self.session_id = 0
        self._outputs = outputs
        self._on_error = on_error
        self._jobs: Mailbox[Callable[[], None]] = Mailbox('queue', _WAITING_JOBS)
        self._thread: RepeatingThread | None = None
        # A reset clears map and path; jobs of an earlier epoch must not be published after it.
        self._epoch = 0
        self._publishing = threading.Lock()
        # A saved map is published instead of the session's.
        self._is_showing = False
        self._preview_at_s = -np.inf
        self._keyframe_clouds = KeyframeClouds()
        self._latched = {
            topic: Latched()
            for topic in ('map_points', 'occupancy', 'path', 'keyframe_graph', 'markers')
        }

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
            self._epoch += 1
            self._is_showing = False
            self._jobs.clear()
            if path_too:
                self._keyframe_clouds.forget()
            self.occupancy.forget()
            for topic, message in empty.items():
                self._latched[topic].shown = None
                self._outputs.publish(topic, message)

    def show(self, saved: SavedMap, stamp_ns: int) -> None:
        """Publish points and path of a saved map instead of the session's, until cleared."""
        frame, most = self.config.map_frame, self.config.map.max_publish_points
        cloud, trajectory = saved.points, saved.trajectory
        if len(cloud) > most:
            cloud = cloud.take(_evenly(len(cloud), most))
        rows = _evenly(len(trajectory), min(len(trajectory), self.config.path_max_size))
        stamps = trajectory.stamps_ns[rows].tolist()
        path = path_message(stamp_ns, frame, stamps, trajectory.T_map_base[rows])
        with self._publishing:
            self._epoch += 1
            self._jobs.clear()
            self._is_showing = True
            for topic in ('map_points', 'path'):
                self._latched[topic].shown = None
            self._outputs.publish('map_points', cloud_message(stamp_ns, frame, cloud))
            self._outputs.publish('path', path)

    def offer_depth(self, job: DepthJob) -> None:
        """Queue a depth map if one of its topics is subscribed."""
        if self._outputs.wanted(*_FRAME_TOPICS) or (
            job.place is not None and self._outputs.wanted('keyframe_points')
        ):
            epoch = self._epoch
            self._jobs.put(lambda: self._publish_depth(job, epoch))

    def offer_session(self, session: Session, chain: PoseChain, stamp_ns: int) -> None:
        """Queue snapshots of what has changed, is due and is subscribed."""
        epoch, period_s = self._epoch, self.config.map.publish_period
        map_state = (session.session_id, session.map.revision, chain.unit, chain.moves)
        if not self._is_showing and self._is_due('map_points', map_state, period_s):
            view = session.map_view()
            self._jobs.put(lambda: self._publish_map(view, chain, stamp_ns, (map_state, epoch)))
        if self._grid_is_due(session, chain, map_state):
            job = GridJob.of(session, chain, stamp_ns)
            self._jobs.put(lambda: self._publish_grid(job, (map_state, epoch)))
        keyframes = session.bank.ids()
        newest = keyframes[-1] if keyframes else -1
        state = (session.session_id, session.map_revision, newest, chain.unit)
        if not self._is_showing and self._is_due('path', state, _GRAPH_PERIOD_S):
            record = session.keyframe_record()
            self._jobs.put(lambda: self._publish_path(record, chain, stamp_ns, (state, epoch)))
        due = [topic for topic in _GRAPH_TOPICS if self._is_due(topic, state, _GRAPH_PERIOD_S)]
        if due:
            snapshot = graph_snapshot(session, chain, stamp_ns, self.config)
            self._jobs.put(lambda: self._publish_graph(snapshot, due, (state, epoch)))
        self._offer_moved_cloud(session, chain)

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
        return self._outputs.wanted(topic) and self._latched[topic].due(
            state, period_s, time.monotonic()
        )

    def _grid_is_due(self, session: Session, chain: PoseChain, state: object) -> bool:
        occupancy = self.config.occupancy
        if not (occupancy.enabled and len(session.map) and self._outputs.wanted('occupancy')):
            return False
        return self.occupancy.has_metres(chain) and self._is_due(
            'occupancy', state, occupancy.publish_period
        )

    def _run_one(self) -> None:
        job = self._jobs.get(timeout_s=0.5)
        if job is not None:
            job()

    def _publish_latched(self, topic: str, message: object, made_of: tuple[object, int]) -> None:
        """Publish a message made from a state, unless its epoch is over."""
        state, epoch = made_of
        with self._publishing:
            if epoch == self._epoch:
                self._outputs.publish(topic, message)
                self._latched[topic].shown = state

    def _publish_map(
        self, view: MapView, chain: PoseChain, stamp_ns: int, made_of: tuple[object, int]
    ) -> None:
        cloud = view.cloud(self.config.map.max_publish_points).moved(chain.S_map_world)
        message = cloud_message(stamp_ns, self.config.map_frame, cloud)
        self._publish_latched('map_points', message, made_of)

    def _publish_grid(self, job: GridJob, made_of: tuple[object, int]) -> None:
        grid, state, details = job.build(self.config)
        _, epoch = made_of
        with self._publishing:
            if epoch != self._epoch:
                return  # the map was cleared meanwhile
            self.occupancy.note(state, details)
        if grid is not None:
            message = occupancy_message(job.stamp_ns, self.config.map_frame, grid)
            self._publish_latched('occupancy', message, made_of)

    def _publish_path(
        self, record: TrajectoryView, chain: PoseChain, stamp_ns: int, made_of: tuple[object, int]
    ) -> None:
        chosen = np.flatnonzero(np.isfinite(record.T_final[:, 0, 0]))
        limit = self.config.path_max_size
        if len(chosen) > limit:
            chosen = chosen[_evenly(len(chosen), limit)]
        T_map_base = chain.T_map_base(record.T_final[chosen])
        stamps = record.stamps_ns[chosen].tolist()
        message = path_message(stamp_ns, self.config.map_frame, stamps, T_map_base)
        self._publish_latched('path', message, made_of)

    def _publish_graph(
        self, snapshot: GraphSnapshot, topics: list[str], made_of: tuple[object, int]
    ) -> None:
        if 'keyframe_graph' in topics:
            self._publish_latched('keyframe_graph', snapshot.graph(), made_of)
        if 'markers' in topics:
            self._publish_latched('markers', snapshot.markers(), made_of)

    def _publish_depth(self, job: DepthJob, epoch: int) -> None:
        outputs, depth_map = self._outputs, job.depth_map
        stamp_ns, frame = job.stamp_ns, job.optical_frame
        info = camera_info_message(stamp_ns, frame, depth_map.intrinsics)
        if outputs.wanted('depth/image', 'depth/camera_info'):
            # REP-118: NaN where the depth is unknown.
            depth = depth_map.depth * np.float32(job.unit)
            pixels = np.where(np.isfinite(depth), depth, np.nan).astype(np.float32, copy=False)
            outputs.publish('depth/camera_info', info)
            outputs.publish('depth/image', image_message(stamp_ns, frame, '32FC1', pixels))
        if outputs.wanted('depth/confidence'):
            pixels = np.where(np.isfinite(depth_map.confidence), depth_map.confidence, 0.0)
            pixels = pixels.astype(np.float32)
            outputs.publish('depth/confidence', image_message(stamp_ns, frame, '32FC1', pixels))
        now_s = time.monotonic()
        if outputs.wanted('depth/preview') and now_s - self._preview_at_s >= _PREVIEW_PERIOD_S:
            self._preview_at_s = now_s
            pixels = preview(depth_map.depth)
            outputs.publish('depth/preview', image_message(stamp_ns, frame, 'rgb8', pixels))
        if outputs.wanted('color/image', 'color/camera_info'):
            outputs.publish('color/camera_info', info)
            outputs.publish('color/image', image_message(stamp_ns, frame, 'rgb8', depth_map.image))
        self._publish_points(job, epoch)

    def _publish_points(self, job: DepthJob, epoch: int) -> None:
        outputs, options = self._outputs, self.config.points
        stamp_ns, frame = job.stamp_ns, job.optical_frame
        wants_points = outputs.wanted('points')
        wants_keyframe = outputs.wanted('keyframe_points')
        if wants_points and options.organized:
            points = organized_points(job.depth_map, self.config) * np.float32(job.unit)
            message = organized_cloud_message(stamp_ns, frame, points, job.depth_map)
            outputs.publish('points', message)
            wants_points = False
        if wants_points or (wants_keyframe and job.place is not None):
            cloud = cloud_from_depth(job.depth_map, options).scaled(job.unit)
            if wants_points:
                outputs.publish('points', cloud_message(stamp_ns, frame, cloud))
            if wants_keyframe and job.place is not None:
                self._publish_keyframe(job.place, cloud, epoch)

    def _publish_keyframe(self, place: KeyframePlace, cloud: Cloud, epoch: int) -> None:
        """Publish a cloud, given in its camera's axes and the published unit, in map."""
        placed = cloud.moved(rigid_part(place.S_map_own))
        message = cloud_message(place.stamp_ns, self.config.map_frame, placed)
        sent = PublishedCloud.of(place, cloud.points)
        with self._publishing:
            if epoch == self._epoch:
                self._outputs.publish('keyframe_points', message)
                self._keyframe_clouds.note(sent)


def _evenly(count: int, wanted: int) -> np.ndarray:
    """Return ``wanted`` of ``count`` rows, evenly spaced, with the first and the last."""
    return np.linspace(0, count - 1, wanted).round().astype(np.int64)


def graph_snapshot(
    session: Session, chain: PoseChain, stamp_ns: int, config: R3Config
) -> GraphSnapshot:
    """Take a snapshot of the keyframe graph."""
    return GraphSnapshot(
        view=session.graph_view(config.stream.recent_keyframes),
        chain=chain,
        stamp_ns=stamp_ns,
        map_frame=config.map_frame,
        session_id=session.session_id,
        map_revision=session.map_revision,
        limit=config.path_max_size,
    )


def organized_points(depth_map: DepthMap, config: R3Config) -> np.ndarray:
    """Return (h, w, 3) float32 points of every pixel, NaN where its depth is not usable."""
    options, K = config.points, depth_map.intrinsics
    every_pixel = replace(options, stride=1)
    points = unproject(depth_map.depth, K.fx, K.fy, K.cx, K.cy).astype(np.float32)
    ranges = np.linalg.norm(points, axis=-1)
    keep = usable_pixels(depth_map, every_pixel) & (ranges >= options.min_range)
    if options.max_range > 0:
        keep &= ranges <= options.max_range
    points[~keep] = np.nan
    return points


def preview(depth: np.ndarray) -> np.ndarray:
    """Return (h, w, 3) uint8 RGB: near is warm, far is cold, unknown is black."""
    known = np.isfinite(depth) & (depth > 0)
    if not known.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    # Inverse depth shows the near range in more detail; percentiles ignore outliers.
    inverse_depth = np.zeros(depth.shape, np.float32)
    inverse_depth[known] = 1.0 / depth[known]
    far, near = np.percentile(inverse_depth[known], [2.0, 98.0])
    level = np.clip((inverse_depth - far) / max(near - far, 1e-9), 0.0, 1.0)
    colors = cv2.applyColorMap((level * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    return np.where(known[..., None], colors, 0).astype(np.uint8)
