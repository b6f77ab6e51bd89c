"""Loop closure in the engine: reject edges, detect agreement, apply corrections.

A correction is computed in a thread of its own and applied a fixed number of frames later, for
which the engine waits if need be: every run gives the same result.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
import itertools

import numpy as np

from ...core.config import R3Config
from ...core.datatypes import DepthMap, Edge
from ...core.geometry import inverse_similarity
from ...core.threads import thread_name
from ..pose_resolution import EdgeNoise, Resolution, resolve_pose
from ..segments import edges_of_one_segment
from ..session import Session
from . import solver_job
from .agreement import agreement
from .evidence import contradicts, drop_outdated, FarEdge
from .pose_optimizer import load_gtsam
from .solver_job import Correction, LoopSnapshot

#: Number of frames between the end of a job and the start of the next.
_REST_FRAMES = 10
#: Edges below this share of the usual score are no evidence.
_LEAST_RATIO = 0.4
#: Maximum number of keyframes that are solved for; the others follow them. A round of the solver,
#: which holds Python's lock, then takes no longer than a frame interval.
_MOST_NODES = 1000


class Loops:
    """Closes the loops of one session after another. The engine's thread.

    :raises ModelError: loop closure is enabled, and the solver is not installed.
    """

    def __init__(self, config: R3Config) -> None:
        self.config = config
        self._executor: ThreadPoolExecutor | None = None
        self._job: tuple[int, Future[Correction | None]] | None = None  # with the frame it is due
        self._rest_until = 0
        if config.loop.enabled:
            load_gtsam()
            self._executor = ThreadPoolExecutor(1, thread_name_prefix=thread_name('loops'))

    @property
    def active(self) -> bool:
        return self._executor is not None

    def reset(self) -> None:
        """Drop the job."""
        self._rest_until = 0
        if self._job is not None:
            self._job[1].cancel()
            self._job = None

    def close(self) -> None:
        """Drop the job and wait for the thread to end."""
        self.reset()
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def resolve(self, session: Session, edges: Sequence[Edge], noise: EdgeNoise) -> Resolution:
        """Resolve a pose from edges that agree, and return those that contradict it, too.

        The pose follows from the frames and keyframes just before. Older keyframes count if they
        agree: otherwise the past has to be corrected first.
        """
        own, rest = edges_of_one_segment(session, edges)
        resolution = self._resolve_within(session, own, noise)
        if session.gate.lost or not self.active:
            rest = []
        return replace(resolution, rejected_edges=[*resolution.rejected_edges, *rest])

    def _resolve_within(
        self, session: Session, edges: Sequence[Edge], noise: EdgeNoise
    ) -> Resolution:
        held = session.graph.held
        newest = session.bank.newest(self.config.stream.recent_keyframes, session.segment_id)
        since = session.followed_since[-1]
        near_ids = {frame_id for frame_id in (*session.recent, *newest) if frame_id >= since}
        near = [edge for edge in edges if edge.source_id in near_ids]
        far = [edge for edge in edges if edge.source_id not in near_ids]
        by_near = None
        if self.active and far and not session.gate.lost:
            by_near = resolve_pose(near, held, noise)
        if by_near is None:
            return Resolution(edges, [], resolve_pose(edges, held, noise))
        against = contradicts(far, near, by_near, held, noise)
        if against.all():
            return Resolution(near, far, by_near)
        rejected = [edge for edge, bad in zip(far, against, strict=True) if bad]
        left_out = {edge.source_id for edge in rejected}
        used = [edge for edge in edges if edge.source_id not in left_out]
        # The unit is that of the frames just before, whatever it was long ago.
        scale = by_near.held.scale
        return Resolution(used, rejected, resolve_pose(used, held, noise, scale))

    def note(
        self,
        session: Session,
        frame_id: int,
        rejected_edges: Sequence[Edge],
        depths: Iterable[DepthMap],
        noise: EdgeNoise,
    ) -> None:
        """Add the contradicting edges of a frame, and start a job if the evidence agrees."""
        newest = session.bank.newest(1, session.segment_id)
        good = [
            edge
            for edge in rejected_edges
            if edge.source_id in session.bank
            and min(edge.scores) >= _LEAST_RATIO * noise.reference
        ]
        if not good or not newest:
            return
        held, anchor_id = session.graph.held, newest[0]
        S_anchor_world = inverse_similarity(held[anchor_id].S_world_camera)
        S_anchor_frame = S_anchor_world @ held[frame_id].S_world_camera
        sigmas = noise.sigmas_of(good)
        far = (
            FarEdge(e.source_id, frame_id, anchor_id, S_anchor_frame, e.T_source_target, sigma)
            for e, sigma in zip(good, sigmas, strict=True)
        )
        session.evidence.append(tuple(far))
        depth = next((d for d in depths if d.frame_id == frame_id), session.evidence_depth)
        session.evidence_depth = depth
        if self._job is None and frame_id >= self._rest_until:
            self._consider(session, frame_id, noise)

    def take(self, session: Session, frame_id: int | None) -> list[int]:
        """Apply the correction if it is due at this frame (None: wait for it in any case).

        :returns: ids of the frames that moved.
        """
        if self._job is None or (frame_id is not None and frame_id < self._job[0]):
            return []
        return self.apply(session, self._job[1].result())

    def apply(self, session: Session, correction: Correction | None) -> list[int]:
        """Apply a correction, and begin anew to look for others; return the frames that moved."""
        self.reset()
        session.evidence.clear()
        session.evidence_depth = None
        self._rest_until = session.frame_count + _REST_FRAMES
        return [] if correction is None else _apply(session, correction)

    def _consider(self, session: Session, frame_id: int, noise: EdgeNoise) -> None:
        """Start a job for the oldest pair of segments whose evidence agrees."""
        drop_outdated(session.evidence, session.bank, frame_id)
        graph = session.graph
        groups: dict[tuple[int, int], list[FarEdge]] = {}
        for edge in itertools.chain.from_iterable(session.evidence):
            pair = graph.segments[edge.source_id], graph.segments[edge.anchor_id]
            groups.setdefault(pair, []).append(edge)
        for pair, evidence in sorted(groups.items(), key=lambda item: item[0]):
            named = {e.source_id for e in evidence} | {e.anchor_id for e in evidence}
            S_world = {keyframe: graph.held[keyframe].S_world_camera for keyframe in named}
            joining = pair[0] != pair[1]
            if agreement(evidence, S_world, self.config.loop, joining=joining) is not None:
                break
        else:
            return
        assert self._executor is not None
        keyframes = _nodes(session, pair, evidence)
        snapshot = LoopSnapshot(
            held={keyframe: graph.held[keyframe] for keyframe in keyframes},
            segments={keyframe: graph.segments[keyframe] for keyframe in keyframes},
            edges=graph.edges(set(keyframes)),
            evidence=evidence,
            followed_since=tuple(session.followed_since),
            clouds=session.map.clouds({e.source_id for e in evidence}),
            depth=session.evidence_depth,
            noise=noise,
            config=self.config.loop,
        )
        future = self._executor.submit(solver_job.close_loop, snapshot)
        self._job = frame_id + self.config.loop.apply_after, future


def _apply(session: Session, correction: Correction) -> list[int]:
    """Move every held frame as its nearest keyframe; released frames follow their parents."""
    held, segments = session.graph.held, session.graph.segments
    moves, variances = {}, {}
    for segment_id in set(correction.segments.values()):
        nodes = sorted(i for i, of in correction.segments.items() if of == segment_id)
        frames = [frame_id for frame_id in held if segments[frame_id] == segment_id]
        for frame_id, nearest in zip(frames, _nearest(nodes, frames), strict=True):
            moves[frame_id] = correction.S_corrected_world[nearest]
            if nearest in correction.variances and nearest in held:
                grown = np.maximum(held[frame_id].variances - held[nearest].variances, 0.0)
                translation, rotation = correction.variances[nearest] + grown
                variances[frame_id] = float(translation), float(rotation)
    length = session.trajectory_view().length
    moved = session.graph.correct(moves, variances)
    if length > 0:
        # Not the new length itself: the oldest poses may not be on record any more.
        session.path *= session.trajectory_view().length / length
    session.graph.connect(correction.closing, session.gate.reference)
    if session.recent and session.recent[-1] in moves:
        session.gate.move(moves[session.recent[-1]])
    session.loops_closed += 1
    if correction.joined is not None:
        moved = sorted({*moved, *_relabelled(session, *correction.joined, correction.closing)})
    if moved:
        session.map_revision += 1
        session.map.poses_changed()
    return moved


def _nearest(nodes: Sequence[int], frames: Sequence[int]) -> list[int]:
    """Return the node nearest to each frame, the older one of two; nodes ascend."""
    known, ids = np.array(nodes), np.array(frames, dtype=np.int64)
    after = np.clip(np.searchsorted(known, ids), 0, len(known) - 1)
    before = np.maximum(after - 1, 0)
    nearer_before = np.abs(ids - known[before]) <= np.abs(known[after] - ids)
    return known[np.where(nearer_before, before, after)].tolist()


def _nodes(session: Session, pair: tuple[int, int], evidence: Sequence[FarEdge]) -> list[int]:
    """Return the keyframes to solve for: all, or those of evidence and joints, and others."""
    keyframes = sorted(i for segment in set(pair) for i in session.bank.in_segment(segment))
    if len(keyframes) <= _MOST_NODES:
        return keyframes
    joints = sorted({*session.graph.ties, *_found_again(session, keyframes)})
    joints = joints[:: 1 + len(joints) // (_MOST_NODES // 4)]
    chosen = {frame_id for joint in joints for frame_id in joint}
    chosen |= {e.source_id for e in evidence} | {e.anchor_id for e in evidence}
    evenly = np.linspace(0, len(keyframes) - 1, _MOST_NODES // 2).astype(int)
    return sorted(chosen.intersection(keyframes) | {keyframes[n] for n in evenly})


def _found_again(session: Session, keyframes: Sequence[int]) -> list[tuple[int, int]]:
    """Return keyframes at which the camera was found again, each with its newest older source."""
    bank, graph, pairs = session.bank, session.graph, []
    for since in session.followed_since:
        for keyframe in keyframes[bisect.bisect_left(keyframes, since) :][:1]:
            old = [i for i in graph.sources_of(keyframe) if i < since and i in bank]
            pairs += [(max(old), keyframe)] if old else []
    return pairs


def _relabelled(
    session: Session, younger: int, older: int, closing: Sequence[tuple[int, int]]
) -> list[int]:
    """Put the frames of a segment into an older one, and return them.

    Their drift began with their segment: that of the place where they were joined is added.
    """
    segments, held = session.graph.segments, session.graph.held
    joined = [frame_id for frame_id, segment in segments.items() if segment == younger]
    ends = {i for edge in closing for i in edge if i in held and segments[i] == older}
    drift = np.max([held[i].drift for i in ends], axis=0) if ends else np.zeros(2)
    for frame_id in joined:
        if frame_id in held:
            held[frame_id] = replace(held[frame_id], drift=held[frame_id].drift + drift)
    segments.update(dict.fromkeys(joined, older))
    if session.segment_id == younger:
        session.segment_id = older
    session.bank.join_segments(younger, older)
    return joined
