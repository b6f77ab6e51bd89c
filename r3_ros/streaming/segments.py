"""Segments: stretches of the stream that are not yet related to one another.

When the camera stays lost, its frames start a new segment with a world of its own, and no pose in
it is published. Old segments keep their keyframes; edges between two segments that agree join
them, and the younger segment moves into the older one's world.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.config import StreamConfig
from ..core.datatypes import Edge, TrackingState
from ..core.geometry import inverse, inverse_similarity
from .gate import Verdict
from .session import Session

#: A segment with fewer keyframes is dropped when the camera leaves it.
_LEAST_KEYFRAMES = 3
#: Maximum number of keyframes that one search excludes.
_MOST_EXCLUDED = 1000


def open_segment(session: Session, frame_id: int) -> Verdict:
    """Start a segment with this frame, which defines its world; return the verdict on it."""
    leave_segment(session, session.newest_segment + 1, frame_id)
    session.newest_segment += 1
    session.gate.restart()
    reason = f'lost for {session.lost_frames} frames: segment {session.segment_id} begins'
    session.lost_frames = 0
    nothing = float('nan')
    return Verdict(TrackingState.INITIALIZING, reason, True, True, nothing, nothing, 1.0)


def leave_segment(session: Session, segment_id: int, frame_id: int) -> None:
    """Continue in another segment from this frame; a short one that is left is dropped."""
    left, session.segment_id = session.segment_id, segment_id
    session.followed_since.append(frame_id)
    if left == segment_id:
        return
    session.keep_recent(0)
    keyframes = session.bank.in_segment(left)
    if left and len(keyframes) < _LEAST_KEYFRAMES:
        session.remove_keyframes(keyframes)


def end_start(session: Session, settled: Sequence[int]) -> None:
    """Note that poses of the start-up are known now, and drop the other keyframes of it.

    :param settled: see :class:`FramePrediction`.
    """
    if not settled:
        return
    unknown = session.trajectory.settle(settled)
    session.remove_keyframes([i for i in unknown.tolist() if i in session.bank])
    first = min(settled)
    if len(unknown) and unknown[-1] >= session.followed_since[-1] < first:
        session.followed_since.append(first)


def edges_of_one_segment(session: Session, edges: Sequence[Edge]) -> tuple[list[Edge], list[Edge]]:
    """Return the edges that place a frame, and the rest.

    While the camera is tracked they are those of its segment; when it is lost, those of the
    segment that it matches best.
    """
    segments = session.graph.segments
    chosen = session.segment_id
    if session.gate.lost and edges:
        scores: dict[int, list[float]] = {}
        for edge in edges:
            scores.setdefault(segments[edge.source_id], []).append(sum(edge.scores))
        # The best few count, not how many keyframes a segment has; the oldest among equals.
        chosen = max(sorted(scores), key=lambda segment: sum(sorted(scores[segment])[-3:]))
    own = [edge for edge in edges if segments[edge.source_id] == chosen]
    return own, [edge for edge in edges if segments[edge.source_id] != chosen]


def segment_context(session: Session, descriptor: np.ndarray, stream: StreamConfig) -> list[int]:
    """Choose the context of a frame in an unjoined segment: its own keyframes, and old places."""
    own = session.bank.newest(_MOST_EXCLUDED, session.segment_id)
    first = session.bank.in_segment(session.segment_id)[:1]
    context = {*session.recent, *first, *own[-stream.recent_keyframes :]}
    # Excluded, since keyframes of the segment itself look most like the frame.
    old = session.bank.most_similar(descriptor, stream.retrieved_keyframes, {*first, *own})
    return sorted({*context, *old})


def reported_state(session: Session, verdict: Verdict) -> TrackingState:
    """Return the state to report: RECOVERING in a segment that is not joined."""
    if session.relocalisation is not None:
        return TrackingState.INITIALIZING
    if session.segment_id and verdict.publishable:
        return TrackingState.RECOVERING
    return verdict.state


def reported_reason(session: Session, verdict: Verdict, fault: str, doubt: str) -> str:
    """Return the reason to report, after the fault of the image."""
    apart = f'segment {session.segment_id} is not joined to the map' if session.segment_id else ''
    search = session.relocalisation
    searching, note = (
        ('looking for the place in the loaded map', search.note) if search else ('', '')
    )
    return '; '.join(filter(None, (fault, searching, note, verdict.reason, doubt, apart)))


def motion_since_last(
    session: Session, frame_id: int, T_world_camera: np.ndarray
) -> np.ndarray | None:
    """Return the motion since the last frame whose pose was published, None without one."""
    if session.segment_id:
        return None
    last, session.last_published = session.last_published, frame_id
    if last is None:
        return None
    pose = session.graph.held.get(last)
    if pose is not None:
        return inverse(pose.T_world_camera) @ T_world_camera
    T_world_last = session.trajectory.pose_of(last, session.graph.similarities)
    return None if T_world_last is None else inverse(T_world_last) @ T_world_camera


def release(session: Session, gone: Sequence[int]) -> None:
    """Attach released frames to a keyframe of their segment, in the record and in the map."""
    held, segments = session.graph.held, session.graph.segments
    for frame_id in gone:
        parent = session.bank.nearest_in_time(frame_id, segments[frame_id])
        if segments[frame_id] and parent is None:
            session.map.drop(frame_id)
            session.trajectory.abandon(frame_id)
            continue
        S_parent_frame = held[frame_id].S_world_camera
        if parent is not None:
            S_parent_frame = inverse_similarity(held[parent].S_world_camera) @ S_parent_frame
        session.trajectory.release(frame_id, S_parent_frame, parent)
        session.map.bake(frame_id, S_parent_frame, parent)
