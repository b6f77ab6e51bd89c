"""What is kept of a frame: its pose in the graph, a keyframe in the bank, a row on record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core.config import R3Config
from ..core.datatypes import Edge, FramePrediction, TrackingState
from ..core.predictor import Predictor
from .context import DescribedFrame, FrameContext
from .gate import Verdict
from .keyframes.admission import Candidate
from .pose_resolution import EdgeNoise, Resolution, step_covariance
from .segments import motion_since_last, release
from .session import Session

#: Share of the keyframes that is dropped when the device is out of memory.
_SHRUNK_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class Memory:
    """What was kept of a frame.

    :ivar T_previous_camera: (4, 4) motion since the last frame whose pose was published, and
        its (6, 6) covariance; None without one, or where it is unknown.
    """

    is_keyframe: bool = False
    T_previous_camera: np.ndarray | None = None
    step_covariance: np.ndarray | None = None


class Retention:
    """Decides what is kept of a frame, and releases the rest. The engine's thread."""

    def __init__(self, predictor: Predictor, config: R3Config) -> None:
        self.config = config
        self._predictor = predictor
        self._recent_frames = config.stream.recent_frames

    @property
    def keyframe_room(self) -> int | None:
        """Keyframes that the predictor can hold beside the recent frames and the next one."""
        capacity = self._predictor.capacity
        return None if capacity is None else capacity - self._recent_frames - 1

    def keep(
        self,
        session: Session,
        seen: DescribedFrame,
        context: FrameContext,
        prediction: FramePrediction,
        resolution: Resolution,
        verdict: Verdict,
    ) -> Memory:
        """Remember a frame with its pose, as a keyframe if admission wants it.

        One without a publishable pose is only recorded: no other frame is measured from it.
        """
        frame, frame_id = seen.frame, seen.frame.frame_id
        session.frame_count += 1
        session.last_stamp_ns = frame.stamp_ns
        if resolution.pose is None or not verdict.publishable:
            self._predictor.forget([frame_id])
            session.lost_frames += session.gate.lost
            session.trajectory.append(frame_id, frame.stamp_ns, False, None)
            self._release(session)
            return Memory()
        session.lost_frames = 0
        pose = resolution.pose.held
        covariance = step_covariance(
            session.last_published,
            resolution.edges,
            resolution.pose,
            session.graph.held,
            EdgeNoise(self._predictor.confidence_reference, self._predictor.error_model),
            prediction.provisional,
        )
        T_previous_camera = motion_since_last(session, frame_id, pose.T_world_camera)
        if T_previous_camera is not None:
            session.path += float(np.linalg.norm(T_previous_camera[:3, 3]))
        session.graph.add(frame_id, pose, resolution.edges, session.segment_id)
        session.recent.append(frame_id)
        session.keep_recent(self._recent_frames)
        self.credit(session, frame_id, resolution.edges)
        # Related are the frames that it matched: one behind a wall shares the view alone.
        least = self.config.tracking.low_confidence_ratio * session.gate.reference
        candidate = Candidate(
            seen.descriptor,
            [e.source_id for e in resolution.edges if _mean_confidence(e) >= least],
            pose.T_world_camera if session.segment_id == 0 else None,
            prediction.pose_token,
        )
        is_keyframe = _decided(prediction, verdict)
        if is_keyframe is None:
            wanted = session.admission.wants(session.bank, candidate, context.with_depth)
            is_keyframe = wanted and verdict.mappable
        if is_keyframe:
            if verdict.state is TrackingState.LOW_CONFIDENCE:
                session.doubtful.add(frame_id)
            session.admission.admitted()
            evicted = session.bank.admit(
                frame_id,
                candidate.descriptor,
                candidate.T_world_camera,
                session.intrinsics,
                room=self.keyframe_room,
                segment_id=session.segment_id,
                stamp_ns=frame.stamp_ns,
                related=candidate.related,
                pose_token=candidate.pose_token,
            )
            session.note_evicted(evicted)
        session.trajectory.append(
            frame_id,
            frame.stamp_ns,
            is_keyframe,
            pose.T_world_camera,
            published=session.segment_id == 0,
            provisional=prediction.provisional,
            segment_id=session.segment_id,
            confidence=0.5 * (verdict.confidence_translation + verdict.confidence_rotation),
        )
        self._release(session)
        step = None if T_previous_camera is None else covariance
        return Memory(is_keyframe, T_previous_camera, step)

    def credit(self, session: Session, frame_id: int, edges: Sequence[Edge]) -> None:
        """Report to the bank which keyframes a frame matched, and how well."""
        reference = session.gate.reference
        matches = ((e.source_id, _mean_confidence(e) / reference) for e in edges)
        session.bank.credit(frame_id, matches)

    def shrink(self, session: Session) -> None:
        """Drop the oldest quarter of the keyframes, and half of the recent frames."""
        session.remove_keyframes(session.bank.oldest(_SHRUNK_SHARE))
        self._recent_frames = max(self._recent_frames // 2, 1)
        session.keep_recent(self._recent_frames)
        self._release(session)

    def _release(self, session: Session) -> None:
        gone = session.take_leaving()
        if gone:
            release(session, gone)
            session.graph.drop(gone)
            session.doubtful.difference_update(gone)
            self._predictor.forget(gone)


def _mean_confidence(edge: Edge) -> float:
    return 0.5 * sum(edge.scores)


def _decided(prediction: FramePrediction, verdict: Verdict) -> bool | None:
    """Return whether a frame becomes a keyframe, None if that is up to admission."""
    if verdict.state is TrackingState.INITIALIZING and verdict.mappable:
        return True
    return prediction.keyframe
