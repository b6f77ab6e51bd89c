"""The algorithm, one frame at a time.

    describe -> retrieve the context -> predict -> resolve the pose -> gate -> update memory
    -> update map

The engine asks a :class:`~r3_ros.core.predictor.Predictor` what it sees and decides what follows
from it: which frames to relate to, which pose results, whether it may be published, what to
remember. It never touches pixels or weights, and all that it remembers is in one :class:`Session`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..core.config import R3Config
from ..core.datatypes import DepthMap, Edge, Estimate, Frame, FramePrediction
from ..core.errors import ConfigError, FrameError, MapError, MapProblem
from ..core.metric_depth import MetricDepth
from ..core.predictor import Predictor
from ..core.similarity import similarity
from ..maps.cloud import cloud_from_depth
from ..maps.saved_map import SavedMap
from .context import expected_pose, retrieve_context
from .gate import Gate, Verdict
from .keyframes.admission import Admission, Candidate
from .keyframes.bank import KeyframeBank
from .loops.loop_closure import Loops
from .pose_graph import PoseGraph
from .pose_resolution import (
    HeldPose,
    reported_covariance,
    Resolution,
    resolve_pose,
    ResolvedPose,
    usable_edges,
)
from .relocalisation.loaded_map import LoadedMap, require_findable, take_in
from .relocalisation.search import Vicinity
from .retention import Memory, Retention
from .scale.odometry_buffer import OdometryTrack
from .scale.tracker import ScaleTracker, UserScale
from .segments import (
    leave_segment,
    open_segment,
    reported_reason,
    reported_state,
    segment_is_due,
)
from .session import Session
from .stage_timer import StageTimer
from .trajectory import Trajectory
from .voxel_map import VoxelMap

_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, eq=False)
class DescribedFrame:
    """A frame with what is known of it before it is related to others.

    :ivar fault: what is wrong with the image; empty if nothing.
    :ivar descriptor: (D,) float32, for retrieval.
    :ivar after_gap: more time has passed since the last frame than ``input.max_time_gap``.
    """

    frame: Frame
    fault: str
    descriptor: np.ndarray
    after_gap: bool


@dataclass(frozen=True)
class FrameContext:
    """The frames that a frame is related to.

    :ivar ids: oldest first.
    :ivar with_depth: whether the predictor has to give the frame's own depth.
    """

    ids: tuple[int, ...]
    with_depth: bool


class Engine:
    """Estimate poses, depth and a map from a stream of frames. One thread owns it.

    :ivar config: all parameters; change the live ones with :meth:`update_config`.
    :ivar session: everything remembered; replaced by :meth:`reset`.
    :ivar odometry: buffer of external odometry, indexed by time. Written by the subscriber, read
        by the engine.
    """

    def __init__(
        self,
        predictor: Predictor,
        config: R3Config,
        device: str = 'cpu',
        metric: MetricDepth | None = None,
    ) -> None:
        """Start the first session.

        :param device: where descriptors are searched, ``cpu`` or ``cuda``.
        :param metric: needed by ``scale.source`` model.
        :raises ConfigError: the predictor lacks what a parameter needs.
        """
        if config.keyframe.mode == 'pose_token' and not predictor.has_pose_token:
            raise ConfigError(
                f"parameter 'keyframe.mode' is 'pose_token', and {predictor.info.name} has no "
                "pose token: set keyframe.mode to 'overlap', or model.name to r3 or r3_long"
            )
        self.predictor = predictor
        self.config = config
        self.odometry = OdometryTrack()
        self._device = device
        self._metric = metric
        self._user_scale: UserScale | None = None
        self._retention = Retention(predictor, config)
        self.loops = Loops(config)
        self.session = self._new_session(session_id=0)

    def step(self, frame: Frame) -> Estimate:
        """Process one frame and estimate where the camera is.

        :raises FrameError: the frame cannot be used; nothing has changed.
        :raises DeviceMemoryError: the device has no memory left; the frame may be tried again
            after :meth:`shrink` if ``session.frame_count`` has not changed.
        :raises DeviceLostError: the device is gone.
        """
        timer = StageTimer()
        frame = self._numbered(frame)
        seen = self._describe(frame)
        timer.done('describe')
        context = self._retrieve(seen)
        timer.done('retrieve')
        prediction = self._predict(seen, context)
        timer.done('predict')
        corrected = self._apply_corrections(prediction.refined)
        resolution = self._resolve(frame, prediction)
        timer.done('resolve')
        verdict, resolution = self._judge(seen, resolution, prediction)
        timer.done('gate')
        memory = self._remember(seen, context, prediction, resolution, verdict)
        timer.done('memory')
        depths = self._extend_map(prediction.depths)
        timer.done('map')
        self._gather_loop_evidence(frame, resolution, verdict, prediction.depths)
        timer.done('loops')
        followed = memory.T_previous_camera if verdict.mappable else None
        self._measure_scale(frame.stamp_ns, depths, followed)
        timer.done('scale')
        answer = self._estimate(seen, context, prediction, resolution, verdict, memory)
        return replace(answer, depths=depths, corrected=corrected, timings_ms=timer.milliseconds)

    # The steps, in their order.

    def _numbered(self, frame: Frame) -> Frame:
        return replace(frame, frame_id=self.session.frame_count)

    def _describe(self, frame: Frame) -> DescribedFrame:
        session = self.session
        fault = session.images.fault(frame, self.config.input.max_frozen_time)
        if fault and frame.frame_id == 0:
            raise FrameError(f'{fault}: the world begins with an image that shows something')
        descriptor = self.predictor.describe(frame)
        if not np.isfinite(descriptor).all():
            # In the bank it would spoil every later search.
            raise FrameError('the frame has no finite descriptor: its pixels cannot be used')
        return DescribedFrame(frame, fault, descriptor, self._is_gap(frame.stamp_ns))

    def _retrieve(self, seen: DescribedFrame) -> FrameContext:
        ids = retrieve_context(
            self.session, self.config.stream, seen.descriptor, after_gap=seen.after_gap
        )
        return FrameContext(tuple(ids), self._needs_depth(seen.descriptor, ids))

    def _predict(self, seen: DescribedFrame, context: FrameContext) -> FramePrediction:
        prediction = self.predictor.predict(seen.frame, context.ids, context.with_depth)
        if seen.after_gap:
            # Not before: a frame that the predictor refuses changes nothing.
            self.session.gate.open_gap()
        return _without_claims(prediction, seen.frame.frame_id) if seen.fault else prediction

    def _apply_corrections(self, refined: Iterable[Edge]) -> tuple[int, ...]:
        """Take closed loops and refined edges in; return the frames whose poses changed."""
        session = self.session
        corrected = {*self.loops.take(session, session.frame_count), *self._refine(refined)}
        session.bank.move({i: session.graph.held[i].T_world_camera for i in corrected})
        return tuple(sorted(corrected))

    def _resolve(self, frame: Frame, prediction: FramePrediction) -> Resolution:
        """Return the pose of the frame, with the edges that it follows from."""
        if frame.frame_id == 0:
            return _origin()
        session, held = self.session, self.session.graph.held
        into_frame = (edge for edge in prediction.edges if edge.target_id == frame.frame_id)
        edges = usable_edges(into_frame, held)
        reference, search = self.predictor.confidence_reference, session.relocalisation
        if search is not None and session.gate.lost:
            used, pose = search.place(
                [edge for edge in edges if edge.source_id in search.keyframe_ids],
                held,
                reference,
                self.config.covariance,
                lambda some, scale: self._resolve_edges(some, held, scale),
            )
            edges = [edge for edge in edges if edge.source_id not in search.keyframe_ids]
            if pose is not None or not edges:
                return Resolution(used, [], pose)
        used, rejected, pose = self.loops.resolve(
            session, edges, reference, lambda some, scale: self._resolve_edges(some, held, scale)
        )
        return Resolution(used, rejected, pose)

    def _judge(
        self, seen: DescribedFrame, resolution: Resolution, prediction: FramePrediction
    ) -> tuple[Verdict, Resolution]:
        """Return whether the pose may be published, and the pose: a new segment has its own."""
        session, gate, frame_id = self.session, self.session.gate, seen.frame.frame_id
        gate.expect(self.predictor.confidence_reference)
        was_lost = gate.lost
        verdict = gate.judge(
            resolution.edges, resolution.T_world_camera, prediction.provisional, frame_id == 0
        )
        if was_lost and verdict.publishable:
            leave_segment(session, session.graph.segments[resolution.edges[0].source_id], frame_id)
        elif self._may_open_segment(seen) and segment_is_due(session, verdict, self.config.loop):
            verdict, resolution = open_segment(session, frame_id), _origin()
        if verdict.publishable and not session.segment_id:
            session.end_relocalisation()
        return verdict, resolution

    def _remember(
        self,
        seen: DescribedFrame,
        context: FrameContext,
        prediction: FramePrediction,
        resolution: Resolution,
        verdict: Verdict,
    ) -> Memory:
        """Update graph, bank and record; release what is held no more."""
        frame = seen.frame
        if resolution.pose is None or not verdict.publishable:
            return self._retention.skip(self.session, frame, verdict)
        candidate = self._retention.candidate(
            self.session, frame, seen.descriptor, prediction, resolution
        )
        return self._retention.add(
            self.session, frame, candidate, prediction, resolution, verdict, context.with_depth
        )

    def _extend_map(self, depths: Iterable[DepthMap]) -> tuple[DepthMap, ...]:
        """Insert the depth of keyframes, which may come later than the frame.

        :returns: all depths, in map units.
        """
        session = self.session
        in_map_units = []
        for depth_map in depths:
            frame_id = depth_map.frame_id
            pose = session.graph.held.get(frame_id)
            scale = 1.0 if pose is None else pose.scale
            if scale != 1.0:
                scaled = (depth_map.depth * scale).astype(np.float32)
                depth_map = replace(depth_map, depth=scaled)
            in_map_units.append(depth_map)
            session.bank.note_depth(depth_map)
            if not self.config.map.enabled or frame_id in session.doubtful:
                continue
            if frame_id in session.bank:
                cloud = cloud_from_depth(depth_map, self.config.points)
                session.map.insert(frame_id, cloud.moved(_shrunk(scale)), scale)
        return tuple(in_map_units)

    def _gather_loop_evidence(
        self,
        frame: Frame,
        resolution: Resolution,
        verdict: Verdict,
        depths: Sequence[DepthMap],
    ) -> None:
        """Note the edges that contradict the pose: where they agree, a loop is closed."""
        if not verdict.mappable:
            return
        rejected = resolution.rejected_edges
        self._retention.credit(self.session, frame.frame_id, rejected)
        reference = self.predictor.confidence_reference
        self.loops.note(self.session, frame.frame_id, rejected, depths, reference)

    def _measure_scale(
        self, stamp_ns: int | None, depths: Sequence[DepthMap], motion: np.ndarray | None
    ) -> None:
        session = self.session
        session.map_revision += session.scale.measure(
            session.bank, session.graph, session.doubtful, stamp_ns, depths, motion
        )

    def _estimate(
        self,
        seen: DescribedFrame,
        context: FrameContext,
        prediction: FramePrediction,
        resolution: Resolution,
        verdict: Verdict,
        memory: Memory,
    ) -> Estimate:
        session, frame = self.session, seen.frame
        # In a segment that is not joined the camera is followed, in a place that is not known.
        pose = resolution.pose if verdict.publishable and session.segment_id == 0 else None
        return Estimate(
            frame_id=frame.frame_id,
            stamp_ns=frame.stamp_ns,
            state=reported_state(session, verdict),
            reason=reported_reason(session, verdict, seen.fault),
            T_world_camera=pose.held.T_world_camera if pose else None,
            covariance=reported_covariance(pose, prediction.provisional, frame.frame_id == 0),
            intrinsics=prediction.intrinsics,
            intrinsics_estimated=prediction.intrinsics_estimated,
            seen_fov_x=prediction.seen_fov_x,
            is_keyframe=memory.is_keyframe,
            confidence_translation=verdict.confidence_translation,
            confidence_rotation=verdict.confidence_rotation,
            confidence_ratio=verdict.ratio,
            depths=(),
            context_ids=context.ids,
            T_previous_camera=memory.T_previous_camera,
            step_covariance=memory.step_covariance,
            evicted=session.take_evicted(),
            segment_id=session.segment_id,
            map_revision=session.map_revision,
            metres_per_unit=session.scale.metres_per_unit,
        )

    # What may happen between two frames.

    def update_config(self, config: R3Config) -> None:
        """Apply parameters that may change while running."""
        self.config = self.loops.config = self._retention.config = config
        self.session.map_revision += self.session.scale.update_config(config.scale)
        self.session.gate.config = config.tracking
        self.session.admission.config = config.keyframe

    def drain(self) -> tuple[tuple[int, ...], tuple[DepthMap, ...]]:
        """Wait for all background work and take its results in: the end of a recording.

        :returns: ids of the frames whose poses changed, and the depths that came.
        """
        refined, depths = self.predictor.drain()
        corrected = {*self.loops.take(self.session, None), *self._refine(refined)}
        depths = self._extend_map(depths)
        self._measure_scale(None, depths, None)
        return tuple(sorted(corrected)), depths

    def load_map(self, saved: SavedMap, near: Vicinity | None = None) -> LoadedMap:
        """Begin a session from a saved map, and look for the camera in it.

        No pose is published, and the state is INITIALIZING, until the camera is found.

        :param near: where to look; None for everywhere.
        :raises MapError: another model's map, or one in which no camera can be found: then the
            present session goes on. Or the predictor cannot hold it: then a new one begins.
        """
        saved.require_model(self.predictor.info, self.predictor.descriptor_size)
        require_findable(saved)
        self.reset()
        loaded = take_in(self.session, saved, self.config, self._retention.keyframe_room, near)
        try:
            self.predictor.restore(loaded.keyframes(), loaded.landmarks)
        except FrameError as error:
            self.reset()
            raise MapError(MapProblem.BAD_FORMAT, str(error)) from error
        except Exception:
            self.reset()
            raise
        return loaded

    def narrow_search(self, near: Vicinity) -> bool:
        """Look for the camera around there only; return False if it is not being looked for."""
        if self.session.relocalisation is None:
            return False
        self.session.relocalisation.narrow(near)
        return True

    @property
    def is_relocalising(self) -> bool:
        """Whether the camera is still being looked for in a map that was loaded."""
        return self.session.relocalisation is not None

    def reset(self) -> None:
        """Forget everything: the next frame starts a new world and a new session id."""
        self.predictor.reset()
        self.loops.reset()
        if self.session.scale.view().source != 'user':
            self._user_scale = None  # a parameter or an estimate has taken its place
        self.session = self._new_session(self.session.session_id + 1)

    def set_scale(self, metres_per_unit: float, lock: bool) -> None:
        """Set the metric scale (metres per map unit). Survives :meth:`reset`.

        :param lock: no estimate may change it.
        :raises ConfigError: it is no length, or one that was measured is locked.
        """
        scale, before = self.session.scale, self.session.scale.metres_per_unit
        user = UserScale(metres_per_unit, lock)
        scale.set_by_user(user)
        self._user_scale = user
        self.session.map_revision += scale.metres_per_unit != before

    def shrink(self) -> None:
        """Hold less: the device has no memory left for a frame, which is to be tried again.

        A quarter of the keyframes go, the oldest first. The recent window is halved, and the
        predictor takes less of the device, for as long as this engine lives.

        :raises DeviceMemoryError: the predictor cannot; only :meth:`reset` helps.
        """
        self._retention.shrink(self.session)
        self.predictor.shrink()

    def clear_map(self) -> None:
        """Drop the map's points and keep tracking."""
        self.session.map.clear()

    def close(self) -> None:
        """Stop all background work and free the predictor's device."""
        self.loops.close()
        self.predictor.close()
        if self._metric is not None:
            self._metric.close()

    def _new_session(self, session_id: int) -> Session:
        config = self.config
        descriptor_size = self.predictor.descriptor_size
        return Session(
            bank=KeyframeBank(config.keyframe, descriptor_size, self._device),
            admission=Admission(config.keyframe),
            graph=PoseGraph(self._resolve_edges),
            gate=Gate(config.tracking, self.predictor.confidence_reference),
            map=VoxelMap(config.map),
            trajectory=Trajectory(config.trajectory.max_poses),
            session_id=session_id,
            scale=ScaleTracker(config.scale, self._metric, self.odometry, self._user_scale),
        )

    def _may_open_segment(self, seen: DescribedFrame) -> bool:
        return self.loops.active and self.predictor.can_restart and not seen.fault

    def _needs_depth(self, descriptor: np.ndarray, context_ids: Sequence[int]) -> bool:
        """Return whether the frame's depth is asked for: a keyframe's always is."""
        session, every = self.session, self.config.model.depth_every
        if every and session.frame_count % every == 0:
            return True
        candidate = Candidate(descriptor, context_ids, expected_pose(session))
        return session.admission.foresees(session.bank, candidate)

    def _is_gap(self, stamp_ns: int) -> bool:
        last_ns = self.session.last_stamp_ns
        longest_s = self.config.input.max_time_gap
        return last_ns is not None and 0 < longest_s < (stamp_ns - last_ns) / _SECOND_NS

    def _refine(self, edges: Iterable[Edge]) -> list[int]:
        """Replace edges by refined ones; return the frames whose poses changed."""
        session = self.session
        edges = tuple(edges)
        session.doubtful.difference_update(max(e.source_id, e.target_id) for e in edges)
        corrected = session.graph.refine(edges)
        if corrected:
            session.map_revision += 1
            session.map.poses_changed()
        return corrected

    def _resolve_edges(
        self, edges: Sequence[Edge], held: Mapping[int, HeldPose], scale: float | None = None
    ) -> ResolvedPose | None:
        reference = self.predictor.confidence_reference
        return resolve_pose(edges, held, reference, self.config.covariance, scale)


def _without_claims(prediction: FramePrediction, frame_id: int) -> FramePrediction:
    """Return what is left of a prediction whose image shows nothing, or nothing new."""
    depths = tuple(d for d in prediction.depths if d.frame_id != frame_id)
    return replace(prediction, edges=(), depths=depths, keyframe=False)


def _origin() -> Resolution:
    """Return the pose of a frame that defines the world."""
    return Resolution([], [], ResolvedPose(HeldPose(np.eye(4)), np.zeros((6, 6))))


def _shrunk(scale: float) -> np.ndarray:
    """Return the (4, 4) transform from map units to a frame's own, about its camera."""
    return similarity(np.eye(4), 1.0 / scale)
