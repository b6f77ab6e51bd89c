"""The algorithm, one frame at a time.

    describe -> retrieve the context -> predict -> resolve the pose -> gate -> update memory
    -> update map

The engine asks a :class:`~r3_ros.predictor.Predictor` what it sees and decides what that means:
which frames to relate to, which pose follows, whether to believe it, what to remember. It never
touches pixels or weights, and everything it remembers is in one :class:`Session`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..cloud import cloud_from_depth
from ..config import R3Config
from ..datatypes import DepthMap, Edge, Estimate, Frame, FramePrediction, TrackingState
from ..errors import ConfigError, FrameError, MapError, MapProblem
from ..kernels import retrieval_index
from ..maps.saved_map import SavedMap
from ..metric_depth import MetricDepth
from ..predictor import Predictor
from .admission import Admission, Candidate
from .bank import KeyframeBank
from .context import expected_pose, retrieve_context
from .gate import Gate, Verdict
from .loaded_map import LoadedMap, require_findable, take_in
from .loops import Loops
from .odometry_track import OdometryTrack
from .pose_graph import PoseGraph
from .pose_resolution import (
    HeldPose,
    reported_covariance,
    resolve_pose,
    ResolvedPose,
    step_covariance,
    usable_edges,
)
from .relocalisation import Vicinity
from .scale_tracking import measure_scale, ScaleTracker, UserScale
from .segments import (
    leave_segment,
    motion_since_last,
    open_segment,
    release,
    stays_lost,
    told_reason,
    told_state,
)
from .session import Session
from .similarity import similarity
from .stages import Stages
from .trajectory import Trajectory
from .voxel_map import VoxelMap

_SECOND_NS = 1_000_000_000
#: Of the keyframes, that go at once where the device has no memory left.
_SHRUNK_SHARE = 0.25


class Engine:
    """Estimate poses, depth and a map from a stream of frames. One thread owns it.

    :ivar config: all parameters; change the live ones with :meth:`update_config`.
    :ivar session: everything remembered; replaced by :meth:`reset`.
    :ivar odometry: what the robot says of its motion, for who hears it to fill.
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
        self._recent_frames = config.stream.recent_frames
        self._metric = metric
        self._user_scale: UserScale | None = None
        self.loops = Loops(config)
        self.session = self._new_session(session_id=0)

    def step(self, frame: Frame) -> Estimate:
        """Process one frame and say where the camera is.

        :raises FrameError: the frame cannot be used; nothing has changed.
        :raises DeviceMemoryError: the device has no memory left; the frame may be tried again
            after :meth:`shrink` if ``session.frame_count`` has not changed.
        :raises DeviceLostError: the device is gone.
        """
        session = self.session
        stages = Stages()
        frame = replace(frame, frame_id=session.frame_count)
        fault = session.pictures.fault(frame, self.config.input.max_frozen_time)
        if fault and frame.frame_id == 0:
            raise FrameError(f'{fault}: the world begins with a picture that shows something')
        descriptor = self._describe(frame)
        stages.done('describe')
        gap = self._is_gap(frame.stamp_ns)
        context_ids = retrieve_context(session, self.config.stream, descriptor, after_gap=gap)
        stages.done('retrieve')
        with_depth = self._needs_depth(descriptor, context_ids)
        prediction = self.predictor.predict(frame, context_ids, with_depth)
        if fault:
            prediction = _without_claims(prediction, frame.frame_id)
        stages.done('predict')
        if gap:
            session.gate.open_gap()
        corrected = {*self.loops.take(session, frame.frame_id), *self._refine(prediction.refined)}
        session.bank.move({i: session.graph.held[i].T_world_camera for i in corrected})
        edges, withheld, resolved = self._resolve(frame, prediction)
        stages.done('resolve')
        first = frame.frame_id == 0
        session.gate.expect(self.predictor.confidence_reference)
        T_world_camera = resolved.held.T_world_camera if resolved else None
        was_lost = session.gate.lost
        verdict = session.gate.judge(edges, T_world_camera, prediction.provisional, first)
        gone: list[int] = []
        if was_lost and verdict.believed:
            found_in = session.graph.segments[edges[0].source_id]
            gone = leave_segment(session, found_in, frame.frame_id)
        elif self._may_begin_segment(fault) and stays_lost(session, verdict, self.config.loop):
            edges, withheld, resolved = [], [], _origin()
            verdict, gone = open_segment(session, frame.frame_id)
        if session.relocalisation is not None and verdict.believed and not session.segment_id:
            # From here on the world is the saved one for whoever listens.
            session.relocalisation = None
            session.map_revision += 1
        stages.done('gate')
        covariance_of_step = step_covariance(
            session.last_given,
            edges,
            resolved,
            session.graph.held,
            self.predictor.confidence_reference,
            self.config.covariance,
            prediction.provisional,
        )
        is_keyframe, evicted, T_previous_camera = self._remember(
            frame, descriptor, prediction, edges, resolved, verdict, with_depth
        )
        stages.done('memory')
        depths = self._add_to_map(prediction.depths)
        stages.done('map')
        if verdict.trusted:
            reference = self.predictor.confidence_reference
            self._credit(frame.frame_id, withheld)
            self.loops.note(session, frame.frame_id, withheld, prediction.depths, reference)
        stages.done('loops')
        if session.scale.measures:
            followed = T_previous_camera if verdict.trusted else None
            measure_scale(session, frame.stamp_ns, depths, followed)
            stages.done('scale')
        # In a segment that is not joined the camera is followed, but nobody knows where.
        believed = resolved if verdict.believed and session.segment_id == 0 else None
        return Estimate(
            frame_id=frame.frame_id,
            stamp_ns=frame.stamp_ns,
            state=told_state(session, verdict),
            reason=told_reason(session, verdict, fault),
            T_world_camera=believed.held.T_world_camera if believed else None,
            covariance=reported_covariance(believed, prediction.provisional, first),
            intrinsics=prediction.intrinsics,
            intrinsics_estimated=prediction.intrinsics_estimated,
            seen_fov_x=prediction.seen_fov_x,
            is_keyframe=is_keyframe,
            confidence_translation=verdict.confidence_translation,
            confidence_rotation=verdict.confidence_rotation,
            confidence_ratio=verdict.ratio,
            depths=depths,
            context_ids=tuple(context_ids),
            T_previous_camera=T_previous_camera,
            step_covariance=None if T_previous_camera is None else covariance_of_step,
            corrected=tuple(sorted(corrected)),
            evicted=(*gone, *evicted),
            segment_id=session.segment_id,
            map_revision=session.map_revision,
            metres_per_unit=session.scale.metres_per_unit,
            timings_ms=stages.milliseconds,
        )

    def update_config(self, config: R3Config) -> None:
        """Take over parameters that may change while running, between two frames."""
        self.config = self.loops.config = config
        self.session.map_revision += self.session.scale.update_config(config.scale)
        self.session.gate.config = config.tracking
        self.session.admission.config = config.keyframe

    def drain(self) -> tuple[tuple[int, ...], tuple[DepthMap, ...]]:
        """Wait for all background work and take it in: the end of a recording.

        :returns: ids of the frames whose poses changed, and the depths that came.
        """
        refined, depths = self.predictor.drain()
        corrected = {*self.loops.take(self.session, None), *self._refine(refined)}
        depths = self._add_to_map(depths)
        measure_scale(self.session, None, depths, None)
        return tuple(sorted(corrected)), depths

    def load_map(self, saved: SavedMap, near: Vicinity | None = None) -> LoadedMap:
        """Begin a new session that goes on with a saved map, and look for the camera in it.

        Nothing is given out, and the state is INITIALIZING, until the camera is found.

        :param near: where to look; None for everywhere.
        :raises MapError: another model's map, or one in which no camera can be found: then the
            present session goes on. Or the predictor cannot hold it: then a new one begins.
        """
        saved.require_model(self.predictor.info, self.predictor.descriptor_size)
        require_findable(saved)
        self.reset()
        loaded = take_in(self.session, saved, self.config, self._keyframe_room, near)
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
        """Look for the camera around there only; tell whether it is looked for at all."""
        if self.session.relocalisation is None:
            return False
        self.session.relocalisation.narrow(near)
        return True

    @property
    def is_relocalising(self) -> bool:
        """Tell whether the camera is still looked for in a map that was loaded."""
        return self.session.relocalisation is not None

    def reset(self) -> None:
        """Forget everything: the next frame starts a new world and a new session id."""
        self.predictor.reset()
        self.loops.reset()
        if self.session.scale.view().source != 'user':
            self._user_scale = None  # a parameter or an estimate has taken its place
        self.session = self._new_session(self.session.session_id + 1)

    def set_scale(self, metres_per_unit: float, lock: bool) -> None:
        """Say how long a map unit is; it stays so after a reset.

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
        session = self.session
        session.remove_keyframes(session.bank.oldest(_SHRUNK_SHARE))
        self._recent_frames = max(self._recent_frames // 2, 1)
        session.keep_recent(self._recent_frames)
        self._let_go()
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
        index = retrieval_index(
            config.keyframe.max_keyframes, self.predictor.descriptor_size, self._device
        )
        return Session(
            bank=KeyframeBank(config.keyframe, index),
            admission=Admission(config.keyframe),
            graph=PoseGraph(self._resolve_edges),
            gate=Gate(config.tracking, self.predictor.confidence_reference),
            map=VoxelMap(config.map),
            trajectory=Trajectory(config.trajectory.max_poses),
            session_id=session_id,
            scale=ScaleTracker(config.scale, self._metric, self.odometry, self._user_scale),
        )

    def _may_begin_segment(self, fault: str) -> bool:
        return self.loops.active and self.predictor.can_restart and not fault

    def _describe(self, frame: Frame) -> np.ndarray:
        descriptor = self.predictor.describe(frame)
        if not np.isfinite(descriptor).all():
            # In the bank it would spoil every later search.
            raise FrameError('the frame has no finite descriptor: its pixels cannot be used')
        return descriptor

    def _needs_depth(self, descriptor: np.ndarray, context_ids: Sequence[int]) -> bool:
        """Tell whether the next frame's depth is asked for: a keyframe's always is."""
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
        """Take refined edges in; poses that follow from them change."""
        session = self.session
        edges = tuple(edges)
        session.doubtful.difference_update(max(e.source_id, e.target_id) for e in edges)
        corrected = session.graph.refine(edges)
        if corrected:
            session.map_revision += 1
            session.map.poses_changed()
        return corrected

    def _resolve(
        self, frame: Frame, prediction: FramePrediction
    ) -> tuple[list[Edge], list[Edge], ResolvedPose | None]:
        """Return the edges the frame's pose follows from, those that contradict it, and it."""
        if frame.frame_id == 0:
            return [], [], _origin()
        held = self.session.graph.held
        into_frame = (edge for edge in prediction.edges if edge.target_id == frame.frame_id)
        edges = usable_edges(into_frame, held)
        reference = self.predictor.confidence_reference
        search = self.session.relocalisation
        if search is not None and self.session.gate.lost:
            used, resolved = search.place(
                [edge for edge in edges if edge.source_id in search.keyframe_ids],
                held,
                reference,
                self.config.covariance,
                lambda some, scale: self._resolve_edges(some, held, scale),
            )
            edges = [edge for edge in edges if edge.source_id not in search.keyframe_ids]
            if resolved is not None or not edges:
                return used, [], resolved
        return self.loops.resolve(
            self.session,
            edges,
            reference,
            lambda used, scale: self._resolve_edges(used, held, scale),
        )

    def _resolve_edges(
        self, edges: Sequence[Edge], held: Mapping[int, HeldPose], scale: float | None = None
    ) -> ResolvedPose | None:
        reference, rule = self.predictor.confidence_reference, self.config.stream.pose_rule
        return resolve_pose(edges, held, reference, self.config.covariance, rule, scale)

    def _remember(
        self,
        frame: Frame,
        descriptor: np.ndarray,
        prediction: FramePrediction,
        edges: Sequence[Edge],
        resolved: ResolvedPose | None,
        verdict: Verdict,
        with_depth: bool,
    ) -> tuple[bool, list[int], np.ndarray | None]:
        """Update the graph, the bank and the record; let go of what is held no more."""
        session = self.session
        session.frame_count += 1
        session.last_stamp_ns = frame.stamp_ns
        if resolved is None or not verdict.believed:
            # Not a place to measure others from.
            self.predictor.forget([frame.frame_id])
            session.lost_frames += session.gate.lost
            session.trajectory.append(frame.frame_id, frame.stamp_ns, verdict.state, False, None)
            self._let_go()
            return False, [], None
        session.lost_frames = 0
        T_world_camera = resolved.held.T_world_camera
        T_previous_camera = motion_since_last(session, frame.frame_id, T_world_camera)
        session.graph.add(frame.frame_id, resolved.held, edges, session.segment_id)
        session.recent.append(frame.frame_id)
        session.keep_recent(self._recent_frames)
        self._credit(frame.frame_id, edges)
        candidate = self._candidate(frame.frame_id, descriptor, prediction, edges)
        wanted = session.admission.wants(session.bank, candidate, with_depth)
        is_keyframe, evicted = self._offer_to_bank(frame, candidate, prediction, verdict, wanted)
        session.trajectory.append(
            frame.frame_id,
            frame.stamp_ns,
            told_state(session, verdict),
            is_keyframe,
            T_world_camera,
            given=session.segment_id == 0,
            segment_id=session.segment_id,
            confidence=0.5 * (verdict.confidence_translation + verdict.confidence_rotation),
        )
        self._let_go()
        return is_keyframe, evicted, T_previous_camera

    def _credit(self, frame_id: int, edges: Sequence[Edge]) -> None:
        reference = self.session.gate.reference
        self.session.bank.credit(
            frame_id,
            (
                (e.source_id, 0.5 * (e.confidence_translation + e.confidence_rotation) / reference)
                for e in edges
            ),
        )

    def _offer_to_bank(
        self,
        frame: Frame,
        candidate: Candidate,
        prediction: FramePrediction,
        verdict: Verdict,
        wanted: bool,
    ) -> tuple[bool, list[int]]:
        """Make the frame a keyframe if the predictor needs it or the admission rule wants it."""
        session = self.session
        wanted = wanted and verdict.trusted
        # The first of a session or of a segment, which defines the world.
        first = verdict.state is TrackingState.INITIALIZING and verdict.trusted
        if not first and not (wanted if prediction.keyframe is None else prediction.keyframe):
            return False, []
        if verdict.state is TrackingState.LOW_CONFIDENCE:
            session.doubtful.add(frame.frame_id)
        session.admission.admitted()
        evicted = session.bank.admit(
            frame.frame_id,
            candidate.descriptor,
            candidate.T_world_camera,
            prediction.intrinsics,
            room=self._keyframe_room,
            segment_id=session.segment_id,
            stamp_ns=frame.stamp_ns,
            related=candidate.related,
            pose_token=candidate.pose_token,
        )
        session.leaving.update(evicted)
        return True, evicted

    def _candidate(
        self,
        frame_id: int,
        descriptor: np.ndarray,
        prediction: FramePrediction,
        edges: Sequence[Edge],
    ) -> Candidate:
        """Return what is known of a frame that may become a keyframe.

        It is related to what it matched: a keyframe behind a wall shares the view, and nothing
        that is in it.
        """
        session = self.session
        least = self.config.tracking.low_confidence_ratio * session.gate.reference
        related = [
            e.source_id
            for e in edges
            if 0.5 * (e.confidence_translation + e.confidence_rotation) >= least
        ]
        T_world_camera = None
        if session.segment_id == 0:
            T_world_camera = session.graph.held[frame_id].T_world_camera
        return Candidate(descriptor, related, T_world_camera, prediction.pose_token)

    @property
    def _keyframe_room(self) -> int | None:
        """Keyframes that the predictor can hold beside the recent frames and the next one."""
        capacity = self.predictor.capacity
        return None if capacity is None else capacity - self._recent_frames - 1

    def _let_go(self) -> None:
        """Release frames that are neither recent nor keyframes any more."""
        session = self.session
        gone = session.take_leaving()
        if not gone:
            return
        release(session, gone)
        session.graph.drop(gone)
        session.doubtful.difference_update(gone)
        self.predictor.forget(gone)

    def _add_to_map(self, depths: Iterable[DepthMap]) -> tuple[DepthMap, ...]:
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


def _without_claims(prediction: FramePrediction, frame_id: int) -> FramePrediction:
    """Return what is left of a prediction whose picture shows nothing, or nothing new."""
    depths = tuple(d for d in prediction.depths if d.frame_id != frame_id)
    return replace(prediction, edges=(), depths=depths, keyframe=False)


def _origin() -> ResolvedPose:
    """Return the pose of a frame that defines the world."""
    return ResolvedPose(HeldPose(np.eye(4)), np.zeros((6, 6)))


def _shrunk(scale: float) -> np.ndarray:
    """Return the (4, 4) transform from map units to a frame's own, about its camera."""
    return similarity(np.eye(4), 1.0 / scale)
