"""The authors' loop in the place of our engine, for recorded streams.

Poses and depths are given out as theirs, and no later correction reaches them. Nothing is judged
beyond what they judge: every frame counts as tracked, and no covariance is claimed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import math
from typing import Protocol

import numpy as np

from ...config import PUBLISHED_IMAGE, R3Config
from ...datatypes import DepthMap, Estimate, Frame, ModelInfo, TrackingState
from ...frame_relations import MetricNetwork, Network
from ...geometry import inverse
from ...maps.cloud import cloud_from_depth
from ...pose_encoding import decode_pose
from ...preprocess import intrinsics_from_fov, prepare_r3, R3Rule
from ..stages import Stages
from ..trajectory import Trajectory, TrajectoryView
from ..voxel_map import MapView, VoxelMap
from .fallback import Attempt, Outcome
from .loop import Loop, Step
from .options import CacheMode, PRESETS


class LoadedNetwork(Network, Protocol):
    """A network with weights, and what it runs beside it."""

    #: What it is and where it runs.
    info: ModelInfo

    @property
    def metric(self) -> MetricNetwork | None:
        """Depth in metres; needed by the presets that ask for it."""

    def close(self) -> None:
        """Free devices; the network is not used afterwards."""


@dataclass(eq=False)
class OfficialSession:
    """What came out so far.

    :ivar held: ``T_world_camera`` of the frames that the loop holds and that have one.
    :ivar segment_id: segments begun, without the first.
    :ivar map_revision: goes up when the loop changes its mind about a pose.
    """

    trajectory: Trajectory
    map: VoxelMap
    held: dict[int, np.ndarray] = field(default_factory=dict)
    frame_count: int = 0
    segment_id: int = 0
    map_revision: int = 0

    def map_view(self) -> MapView:
        """Return a snapshot of the map."""
        return self.map.view({})

    def trajectory_view(self) -> TrajectoryView:
        """Return a snapshot of the trajectory; final is the last pose that the loop had."""
        return self.trajectory.view(self.held)


class OfficialEngine:
    """Runs a preset of the authors' demo. One thread owns it.

    :ivar predictor: the network.
    :ivar config: all parameters; the preset replaces those of the groups stream, loop, keyframe
        and tracking.
    :ivar loop: their loop, and all that it remembers.
    """

    def __init__(self, network: LoadedNetwork, config: R3Config) -> None:
        """Begin a stream.

        :raises ConfigError: the preset asks for metres and there is no metric network.
        """
        self.predictor = network
        self.config = config
        self._options = PRESETS[config.stream.preset].stream
        self.loop = Loop(network, self._options, network.metric)
        self.session = OfficialSession(
            Trajectory(config.trajectory.max_poses), VoxelMap(config.map)
        )
        # Square pictures lose their top and bottom, as theirs do.
        self._rule = R3Rule(size=config.model.image_size or PUBLISHED_IMAGE)

    def step(self, frame: Frame) -> Estimate:
        """Process one frame and say where the camera is.

        :raises FrameError: the frame cannot be used; nothing has changed.
        """
        stages = Stages()
        prepared = prepare_r3(frame.image, self._rule)
        # The loop keeps it, and it may be the caller's.
        pixels = prepared.pixels.copy()
        stages.done('prepare')
        memory, poses = list(self.loop.segment.frames), dict(self.loop.segment.poses)
        keyframes = self._keyframes()
        step = self.loop.step(pixels)
        stages.done('loop')
        T_world_camera = None if step.refused else _T_world_camera(step.pose)
        depth_map = _depth_map(step, pixels)
        is_keyframe = step.frame in self._keyframes()
        self._record(frame, step, T_world_camera, is_keyframe)
        corrected = self._follow(poses)
        if is_keyframe and T_world_camera is not None:
            self._add_to_map(depth_map, T_world_camera)
        stages.done('map')
        score = step.post_score if memory else math.nan
        return Estimate(
            frame_id=step.frame,
            stamp_ns=frame.stamp_ns,
            state=_state(T_world_camera),
            reason=_reason(step),
            T_world_camera=T_world_camera,
            covariance=None,
            intrinsics=frame.intrinsics or prepared.geometry.to_source(depth_map.intrinsics),
            intrinsics_estimated=frame.intrinsics is None,
            is_keyframe=is_keyframe,
            confidence_translation=score,
            confidence_rotation=score,
            confidence_ratio=self._ratio(step.frame, score),
            depths=() if step.refused else (depth_map,),
            context_ids=tuple(memory),
            corrected=tuple(corrected),
            evicted=tuple(sorted(keyframes - self._keyframes())),
            segment_id=self.session.segment_id,
            map_revision=self.session.map_revision,
            timings_ms=stages.milliseconds,
        )

    def drain(self) -> tuple[tuple[int, ...], tuple[DepthMap, ...]]:
        """Return nothing: there is no work in the background."""
        return (), ()

    def close(self) -> None:
        """Free the network's device."""
        self.predictor.close()

    def _keyframes(self) -> set[int]:
        """Return the frames that stay: those of the bank, or all where all are held."""
        segment = self.loop.segment
        dynamic = self._options.cache.mode is CacheMode.DYNAMIC
        return set(segment.bank.frames if dynamic else segment.frames)

    def _record(
        self, frame: Frame, step: Step, T_world_camera: np.ndarray | None, is_keyframe: bool
    ) -> None:
        """Put a frame on record."""
        session = self.session
        session.trajectory.append(
            step.frame, frame.stamp_ns, _state(T_world_camera), is_keyframe, T_world_camera
        )
        if T_world_camera is not None:
            session.held[step.frame] = T_world_camera
        session.frame_count += 1
        if step.attempt is not None and step.attempt.outcome is Outcome.ACCEPTED:
            session.segment_id += 1

    def _follow(self, before: Mapping[int, np.ndarray]) -> list[int]:
        """Take over the poses that the loop has now; return the frames whose poses changed.

        :param before: the loop's own before the step.
        """
        session, poses = self.session, self.loop.segment.poses
        for frame_id in sorted(session.held.keys() - poses.keys()):
            session.trajectory.release(frame_id, session.held[frame_id])
            del session.held[frame_id]
        # The loop never writes into a pose, so one that is the same object has not changed.
        changed = [i for i in session.held if poses[i] is not before.get(i)]
        corrected = []
        for frame_id in changed:
            T = _T_world_camera(poses[frame_id])
            if T is not None and not np.array_equal(T, session.held[frame_id]):
                session.held[frame_id] = T
                corrected.append(frame_id)
        session.map_revision += bool(corrected)
        return corrected

    def _add_to_map(self, depth_map: DepthMap, T_world_camera: np.ndarray) -> None:
        """Add the points of a keyframe where it was given out to be, and leave them there."""
        if self.config.map.enabled:
            cloud = cloud_from_depth(depth_map, self.config.points)
            self.session.map.insert(depth_map.frame_id, cloud)
            self.session.map.bake(depth_map.frame_id, T_world_camera)

    def _ratio(self, frame_id: int, score: float) -> float:
        """Return the score over that of the segment's first frames, NaN if there is none."""
        segment = self.loop.segment
        usual = segment.usual_score(frame_id) if frame_id in segment.post_scores else 0.0
        return score / usual if usual > 0 else math.nan


def _state(T_world_camera: np.ndarray | None) -> TrackingState:
    tracking = T_world_camera is not None
    return TrackingState.TRACKING if tracking else TrackingState.LOW_CONFIDENCE


def _reason(step: Step) -> str:
    if step.refused:
        return 'refused: its score is low for the segment'
    if step.attempt is not None:
        return _told(step.attempt)
    return 'first frame' if step.frame == 0 else ''


def _told(attempt: Attempt) -> str:
    why = f'after {attempt.length} frames' if attempt.forced else 'after low scores'
    if attempt.outcome is Outcome.ACCEPTED:
        return f'a segment ends {why}, the next begins at frame {attempt.reference}'
    failed = {
        Outcome.NO_BETTER: 'its scores are no better',
        Outcome.TOO_FEW_FRAMES: 'too few frames are remembered',
    }
    return f'a segment should end {why}, but there is no next one: {failed[attempt.outcome]}'


def _T_world_camera(pose: np.ndarray) -> np.ndarray | None:
    """Return the camera of a world-to-camera encoding, None if that is none."""
    # As two scores of zero make it.
    if not np.isfinite(pose).all() or not pose[3:7].any():
        return None
    return inverse(decode_pose(pose))


def _depth_map(step: Step, pixels: np.ndarray) -> DepthMap:
    """Return the depth as given out, with the intrinsics that the network sees."""
    height, width = step.depth.shape
    fov_v, fov_h = step.pose[7:]
    return DepthMap(
        frame_id=step.frame,
        depth=step.depth.astype(np.float32, copy=False),
        confidence=step.confidence.astype(np.float32, copy=False),
        image=pixels,
        intrinsics=intrinsics_from_fov(fov_v, fov_h, width, height),
    )
