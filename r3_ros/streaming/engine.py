"""The algorithm, one frame at a time.

    describe -> retrieve the context -> predict -> resolve the pose -> gate -> update memory
    -> update map

All geometry comes from a :class:`~r3_ros.core.predictor.Predictor`: the engine never touches
pixels or weights. Its state is one :class:`Session`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
import time

import numpy as np

from ..core.config import R3Config
from ..core.datatypes import DepthMap, Edge, Estimate, Frame, FramePrediction, TrackingState
from ..core.errors import ConfigError, FrameError, MapError, MapProblem
from ..core.geometry import similarity
from ..core.predictor import MetricDepth, Predictor
from ..core.trajectory_file import NANOSECONDS
from ..maps.cloud import cloud_from_depth
from ..maps.saved_map import SavedMap
from .context import DescribedFrame, expected_pose, FrameContext, retrieve_context
from .gate import Gate, reason_to_doubt, Verdict
from .keyframes.admission import Admission, Candidate
from .keyframes.bank import KeyframeBank
from .loops.loop_closure import Loops
from .pose_graph import PoseGraph
from .pose_resolution import (
    EdgeNoise,
    HeldPose,
    reported_covariance,
    Resolution,
    resolve_pose,
    ResolvedPose,
    usable_edges,
)
from .relocalisation.loaded_map import LoadedMap, require_findable, take_in
from .relocalisation.locator import joint, MapLocator, note_place
from .relocalisation.search import FoundPlace, Vicinity
from .retention import Memory, Retention
from .scale.odometry_buffer import OdometryBuffer
from .scale.tracker import ScaleTracker
from .segments import end_start, leave_segment, open_segment, reported_reason, reported_state
from .session import Session
from .trajectory import Trajectory
from .voxel_map import VoxelMap


class StageTimer:
    """A stopwatch that books the wall time since its last reading to a stage of the step."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def done(self, stage: str) -> None:
        """Book the time since the last stage ended."""
        now = time.perf_counter()
        self.milliseconds[stage] = 1e3 * (now - self._last)
        self._last = now


class Engine:
    """Estimates poses, depth and a map from a stream of frames. One thread owns it.

    :ivar config: all parameters; change the live ones with :meth:`update_config`.
    :ivar session: all state of the stream; replaced by :meth:`reset`.
    :ivar odometry: written by its subscriber.
    """

    def __init__(
        self,
        predictor: Predictor,
        config: R3Config,
        device: str = 'cpu',
        metric: MetricDepth | None = None,
        relocaliser: Predictor | None = None,
    ) -> None:
        """Start the first session.

        :param device: where descriptors are searched, ``cpu`` or ``cuda``.
        :param metric: required for ``scale.source`` model.
        :param relocaliser: another predictor that finds the camera in a loaded map
            (``relocalise.model``).
        :raises ConfigError: the predictor lacks what a parameter needs.
        """
        if config.keyframe.mode == 'pose_token' and not predictor.has_pose_token:
            raise ConfigError(
                f"parameter 'keyframe.mode' is 'pose_token', and {predictor.info.name} has no "
                "pose token: set keyframe.mode to 'overlap', or model.name to r3 or r3_long"
            )
        self.predictor = predictor
        self.config = config
        self.odometry = OdometryBuffer()
        self._device = device
        self._metric = metric
        self._locator = None if relocaliser is None else MapLocator(relocaliser)
        self._user_scale: tuple[float, bool] | None = None
        self._retention = Retention(predictor, config)
        self.loops = Loops(config)
        self.session = self._new_session(session_id=0)

    def step(self, frame: Frame) -> Estimate:
        """Process one frame and estimate the camera pose.

        :raises FrameError: the frame cannot be used; nothing has changed.
        :raises DeviceMemoryError: the device is out of memory; retry the frame after
            :meth:`shrink` if ``session.frame_count`` has not changed.
        :raises DeviceLostError: the device is gone.
        """
        timer = StageTimer()
        frame = replace(frame, frame_id=self.session.frame_count)
        seen = self._describe(frame)
        timer.done('describe')
        context = self._retrieve(seen)
        timer.done('retrieve')
        place = self._locate(seen)
        prediction = self._predict(seen, context)
        timer.done('predict')
        self.session.take_intrinsics(prediction.intrinsics, prediction.intrinsics_estimated)
        corrected = self._apply_corrections(prediction.refined)
        end_start(self.session, prediction.settled)
        resolution = self._resolve(frame, prediction)
        timer.done('resolve')
        verdict, resolution = self._judge(seen, resolution, prediction, place is not None)
        timer.done('gate')
        memory = self._retention.keep(self.session, seen, context, prediction, resolution, verdict)
        timer.done('memory')
        depths = self._extend_map(prediction.depths)
        timer.done('map')
        self._gather_loop_evidence(frame, resolution, verdict, prediction.depths)
        if place is not None and verdict.state is TrackingState.TRACKING:
            note_place(self.session, frame.frame_id, place)
        timer.done('loops')
        followed = memory.T_previous_camera if verdict.mappable else None
        self._measure_scale(frame.stamp_ns, depths, followed)
        timer.done('scale')
        answer = self._estimate(seen, context, prediction, resolution, verdict, memory)
        return replace(answer, depths=depths, corrected=corrected, timings_ms=timer.milliseconds)

    # The steps, in their order.

    def _describe(self, frame: Frame) -> DescribedFrame:
        session = self.session
        fault = session.images.fault(frame, self.config.input.max_frozen_time)
        if fault and frame.frame_id == 0:
            raise FrameError(f'{fault}: the first frame must show something')
        descriptor = self.predictor.describe(frame)
        if not np.isfinite(descriptor).all():
            # In the bank it would corrupt every later search.
            raise FrameError('the frame has no finite descriptor: its pixels cannot be used')
        last_ns, longest_s = session.last_stamp_ns, self.config.input.max_time_gap
        after_gap = (
            last_ns is not None and 0 < longest_s < (frame.stamp_ns - last_ns) / NANOSECONDS
        )
        return DescribedFrame(frame, fault, descriptor, after_gap)

    def _retrieve(self, seen: DescribedFrame) -> FrameContext:
        session, every = self.session, self.config.model.depth_every
        ids = retrieve_context(session, self.config.stream, seen)
        candidate = Candidate(seen.descriptor, ids, expected_pose(session))
        with_depth = (
            every > 0 and session.frame_count % every == 0
        ) or session.admission.foresees(session.bank, candidate)
        return FrameContext(tuple(ids), with_depth)

    def _locate(self, seen: DescribedFrame) -> FoundPlace | None:
        if self._locator is None or not self.is_relocalising or seen.fault:
            return None
        return self._locator.locate(seen.frame, self.session, self.config)

    def _predict(self, seen: DescribedFrame, context: FrameContext) -> FramePrediction:
        prediction = self.predictor.predict(seen.frame, context.ids, context.with_depth)
        if seen.after_gap:
            # Not earlier: a frame that the predictor refuses changes nothing.
            self.session.gate.open_gap()
        if not seen.fault:
            return prediction
        # The image shows nothing, or nothing new: no pose and no depth follow from it.
        depths = tuple(d for d in prediction.depths if d.frame_id != seen.frame.frame_id)
        return replace(prediction, edges=(), depths=depths, keyframe=False)

    def _apply_corrections(self, refined: Iterable[Edge]) -> tuple[int, ...]:
        """Apply closed loops and refined edges; return the frames whose poses changed."""
        session = self.session
        corrected = {*self.loops.take(session, session.frame_count), *self._refine(refined)}
        placed = joint(session)
        if placed is not None:
            corrected.update(self.loops.apply(session, placed))
        session.bank.move({i: session.graph.held[i].T_world_camera for i in corrected})
        return tuple(sorted(corrected))

    def _resolve(self, frame: Frame, prediction: FramePrediction) -> Resolution:
        """Return the pose of the frame, with the edges that it follows from."""
        if frame.frame_id == 0:
            return _origin()
        session, held = self.session, self.session.graph.held
        into_frame = (edge for edge in prediction.edges if edge.target_id == frame.frame_id)
        edges = usable_edges(into_frame, held)
        noise, search = self._noise, session.relocalisation
        if search is not None and session.gate.lost:
            saved = [edge for edge in edges if edge.source_id in search.keyframe_ids]
            used, pose = search.locate(saved, held, noise)
            edges = [edge for edge in edges if edge.source_id not in search.keyframe_ids]
            if pose is not None or not edges:
                return Resolution(used, [], pose)
        return self.loops.resolve(session, edges, noise)

    def _judge(
        self,
        seen: DescribedFrame,
        resolution: Resolution,
        prediction: FramePrediction,
        placed: bool,
    ) -> tuple[Verdict, Resolution]:
        """Judge the pose, and change the segment where due: a new one has its own origin.

        :param placed: another model knows the place, so a segment that begins can be joined.
        """
        session, gate, frame_id = self.session, self.session.gate, seen.frame.frame_id
        gate.update_nominal(self.predictor.confidence_reference)
        was_lost = gate.lost
        built_on = prediction.keyframe is not None
        T, provisional = resolution.T_world_camera, prediction.provisional
        verdict = gate.judge(resolution.edges, T, provisional, frame_id == 0, built_on)
        placed &= not session.segment_id
        # A predictor that tracks on, as in a loaded map, needs no new start.
        tracks = built_on and prediction.edges and not provisional
        may_open = (self.loops.active or placed) and not seen.fault and not tracks
        is_due = placed or 0 < self.config.loop.new_segment_after <= session.lost_frames
        if was_lost and verdict.publishable:
            leave_segment(session, session.graph.segments[resolution.edges[0].source_id], frame_id)
        elif may_open and is_due and verdict.state is TrackingState.LOST:
            verdict, resolution = open_segment(session, frame_id), _origin()
        if verdict.publishable and not session.segment_id and session.relocalisation:
            # Found: poses are published in the saved world.
            session.relocalisation = None
            session.map_revision += 1
            if self._locator is not None:
                self._locator.leave()
        return verdict, resolution

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
                # Back to the frame's own unit, about its camera.
                own = cloud.moved(similarity(np.eye(4), 1.0 / scale))
                session.map.insert(frame_id, own, scale)
        return tuple(in_map_units)

    def _gather_loop_evidence(
        self, frame: Frame, resolution: Resolution, verdict: Verdict, depths: Sequence[DepthMap]
    ) -> None:
        """Collect the edges that contradict the pose: where they agree, a loop is closed."""
        if verdict.mappable:
            rejected = resolution.rejected_edges
            self._retention.credit(self.session, frame.frame_id, rejected)
            self.loops.note(self.session, frame.frame_id, rejected, depths, self._noise)

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
        # A segment that is not joined tracks the camera, but its place in the world is unknown.
        pose = resolution.pose if verdict.publishable and session.segment_id == 0 else None
        state, doubt = reported_state(session, verdict), ''
        if pose is not None and state is TrackingState.TRACKING:
            drift = pose.held.drift * self.predictor.error_model.summed
            doubt = reason_to_doubt(drift, session.path, prediction, self.config.tracking)
        return Estimate(
            frame_id=frame.frame_id,
            stamp_ns=frame.stamp_ns,
            state=TrackingState.LOW_CONFIDENCE if doubt else state,
            reason=reported_reason(session, verdict, seen.fault, doubt),
            T_world_camera=pose.held.T_world_camera if pose else None,
            covariance=reported_covariance(pose, prediction.provisional, frame.frame_id == 0),
            intrinsics=prediction.intrinsics,
            intrinsics_estimated=prediction.intrinsics_estimated,
            seen_fov_x=prediction.seen_fov_x,
            readout_s=prediction.readout_s,
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

    # Between two frames.

    def update_config(self, config: R3Config) -> None:
        """Apply parameters that may change while running."""
        self.config = self.loops.config = self._retention.config = config
        self.session.map_revision += self.session.scale.update_config(config.scale)
        self.session.gate.config = config.tracking
        self.session.admission.config = config.keyframe

    def drain(self) -> tuple[tuple[int, ...], tuple[DepthMap, ...]]:
        """Finish all background work and apply its results: the end of a recording.

        :returns: ids of the frames whose poses changed, and the remaining depths.
        """
        refined, depths, intrinsics = self.predictor.drain()
        if intrinsics is not None:
            self.session.take_intrinsics(intrinsics, estimated=True)
        corrected = {*self.loops.take(self.session, None), *self._refine(refined)}
        depths = self._extend_map(depths)
        self._measure_scale(None, depths, None)
        return tuple(sorted(corrected)), depths

    def load_map(self, saved: SavedMap, near: Vicinity | None = None) -> LoadedMap:
        """Start a session from a saved map, and localise the camera in it.

        No pose is published, and the state is INITIALIZING, until the camera is found.

        :raises MapError: a map of another model, or one in which no camera can be found: the
            present session continues. Or the predictor cannot hold it: a new session starts.
        """
        saved.require_model(self.predictor.info, self.predictor.descriptor_size)
        require_findable(saved)
        self.reset()
        loaded = take_in(self.session, saved, self.config, self._retention.keyframe_room, near)
        try:
            self.predictor.restore(loaded.keyframes(), loaded.landmarks)
            if self._locator is not None:
                self._locator.enter(loaded)
        except Exception as error:
            self.reset()
            if isinstance(error, FrameError):
                raise MapError(MapProblem.BAD_FORMAT, str(error)) from error
            raise
        return loaded

    def narrow_search(self, near: Vicinity) -> bool:
        """Restrict the search for the camera; return False if none is running."""
        search = self.session.relocalisation
        if search is not None:
            search.near = near
        return search is not None

    @property
    def is_relocalising(self) -> bool:
        return self.session.relocalisation is not None

    def reset(self) -> None:
        """Start a new session with a new id: the next frame defines a new world."""
        self.predictor.reset()
        if self._locator is not None:
            self._locator.leave()
        self.loops.reset()
        if self.session.scale.view().source != 'user':
            self._user_scale = None  # a parameter or an estimate has replaced it
        self.session = self._new_session(self.session.session_id + 1)

    def set_scale(self, metres_per_unit: float, lock: bool) -> None:
        """Set the metric scale (metres per map unit). Survives :meth:`reset`.

        :param lock: no estimate may change it.
        :raises ConfigError: out of range, or a measured scale is locked.
        """
        self.session.map_revision += self.session.scale.set_by_user(metres_per_unit, lock)
        self._user_scale = metres_per_unit, lock

    def shrink(self) -> None:
        """Free memory after the device ran out of it; the frame is tried again afterwards.

        Drops the oldest quarter of the keyframes. Halves the recent window and the predictor's
        share of the device for good.

        :raises DeviceMemoryError: the predictor cannot shrink; only :meth:`reset` helps.
        """
        self._retention.shrink(self.session)
        self.predictor.shrink()
        if self._locator is not None:
            self._locator.shrink()

    def close(self) -> None:
        """Stop all background work and free the predictor's device."""
        self.loops.close()
        self.predictor.close()
        if self._locator is not None:
            self._locator.close()
        if self._metric is not None:
            self._metric.close()

    def _new_session(self, session_id: int) -> Session:
        config, predictor = self.config, self.predictor
        return Session(
            bank=KeyframeBank(config.keyframe, predictor.descriptor_size, self._device),
            admission=Admission(config.keyframe),
            graph=PoseGraph(
                lambda edges, held, scale: resolve_pose(edges, held, self._noise, scale)
            ),
            gate=Gate(config.tracking, predictor.confidence_reference, predictor.start_advice),
            map=VoxelMap(config.map),
            trajectory=Trajectory(config.trajectory.max_poses),
            session_id=session_id,
            scale=ScaleTracker(config.scale, self._metric, self.odometry, self._user_scale),
        )

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

    @property
    def _noise(self) -> EdgeNoise:
        return EdgeNoise(self.predictor.confidence_reference, self.predictor.error_model)


def _origin() -> Resolution:
    return Resolution([], [], ResolvedPose(HeldPose(np.eye(4))))
