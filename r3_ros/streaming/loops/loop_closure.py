"""Loop closure in the engine: reject edges, see them agree, apply corrections."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ...config import R3Config
from ...datatypes import DepthMap, Edge
from ..pose_resolution import HeldPose, ResolvedPose
from ..segments import edges_of_one_segment
from ..session import Session
from ..similarity import inverse_similarity
from .agreement import agreement
from .evidence import contradicts, FarEdge, sigmas_of
from .solver_job import Correction, LoopCloser, LoopSnapshot

#: After a correction, or one that came to nothing, so many frames pass before the next.
_REST_FRAMES = 10
#: Edges below this share of the usual score are no evidence.
_LEAST_RATIO = 0.4
#: Keyframes that are solved for at the most, the others follow them: a round of the solver, which
#: keeps Python's lock, then takes no longer than a frame of a camera.
_MOST_NODES = 1000

#: Takes the edges of a frame, and its scale if that is known.
Resolve = Callable[[Sequence[Edge], float | None], ResolvedPose | None]


class Loops:
    """Closes the loops of one session after another. The engine's thread."""

    def __init__(self, config: R3Config) -> None:
        """Start the solver, if loops are to be closed.

        :raises ModelError: it is not installed.
        """
        self.config = config
        self._closer = LoopCloser() if config.loop.enabled else None
        self._rest_until = 0

    @property
    def active(self) -> bool:
        """Whether loops are closed."""
        return self._closer is not None

    @property
    def busy(self) -> bool:
        """Tell whether a correction is being worked out."""
        return self._closer is not None and self._closer.busy

    def reset(self) -> None:
        """Forget what is being worked out."""
        self._rest_until = 0
        if self._closer is not None:
            self._closer.drop()

    def close(self) -> None:
        """End the thread."""
        if self._closer is not None:
            self._closer.close()

    def resolve(
        self, session: Session, edges: Sequence[Edge], reference: float, resolve: Resolve
    ) -> tuple[list[Edge], list[Edge], ResolvedPose | None]:
        """Return the edges that a pose follows from, those that contradict it, and the pose.

        The pose follows from the frames and keyframes just before. Older keyframes have a say if
        they agree: otherwise the past has to be put right first, and the pose with it.
        """
        placing, rest = edges_of_one_segment(session, edges)
        used, rejected_edges, resolved = self._resolve_within(session, placing, reference, resolve)
        if session.gate.lost or not self.active:
            rest = []
        return used, [*rejected_edges, *rest], resolved

    def _resolve_within(
        self, session: Session, edges: Sequence[Edge], reference: float, resolve: Resolve
    ) -> tuple[list[Edge], list[Edge], ResolvedPose | None]:
        near_ids = self._near(session)
        near = [edge for edge in edges if edge.source_id in near_ids]
        far = [edge for edge in edges if edge.source_id not in near_ids]
        if not (self.active and near and far) or session.gate.lost:
            return list(edges), [], resolve(edges, None)
        by_near = resolve(near, None)
        if by_near is None:
            return list(edges), [], resolve(edges, None)
        # The unit is that of the frames just before, whatever it was long ago.
        scale = by_near.held.scale
        held, covariance = session.graph.held, self.config.covariance
        against = contradicts(far, near, by_near, held, reference, covariance)
        if not against.any():
            return list(edges), [], resolve(edges, scale)
        rejected_edges = [edge for edge, bad in zip(far, against, strict=True) if bad]
        if against.all():
            return near, rejected_edges, by_near
        left_out = {edge.source_id for edge in rejected_edges}
        used = [edge for edge in edges if edge.source_id not in left_out]
        return used, rejected_edges, resolve(used, scale)

    def _near(self, session: Session) -> set[int]:
        """Return the frames just before, as far back as the camera was followed from."""
        newest = session.bank.newest(self.config.stream.recent_keyframes, session.segment_id)
        since = session.followed_since[-1]
        return {frame_id for frame_id in (*session.recent, *newest) if frame_id >= since}

    def note(
        self,
        session: Session,
        frame_id: int,
        rejected_edges: Sequence[Edge],
        depths: Iterable[DepthMap],
        reference: float,
    ) -> None:
        """Take the contradicting edges of a frame in, and begin to close a loop if it is one."""
        keyframes = session.bank.newest(1, session.segment_id)
        good = [
            edge
            for edge in rejected_edges
            if edge.source_id in session.bank
            and min(edge.confidence_translation, edge.confidence_rotation)
            >= _LEAST_RATIO * reference
        ]
        if good and keyframes:
            session.evidence.add(
                self._far_edges(session, frame_id, good, keyframes[-1], reference)
            )
            session.evidence_depth = next(
                (d for d in depths if d.frame_id == frame_id), session.evidence_depth
            )
            self._consider(session, frame_id, reference)

    def take(self, session: Session, frame_id: int | None) -> list[int]:
        """Take the correction in if it is due at this frame (None: wait for it in any case).

        :returns: ids of the frames that moved.
        """
        if self._closer is None or not self._closer.busy:
            return []
        correction = self._closer.take(frame_id)
        if self._closer.busy:
            return []
        session.evidence.clear()
        session.evidence_depth = None
        self._rest_until = session.frame_count + _REST_FRAMES
        return [] if correction is None else _corrected(session, correction)

    def _far_edges(
        self,
        session: Session,
        frame_id: int,
        edges: Sequence[Edge],
        anchor_id: int,
        reference: float,
    ) -> list[FarEdge]:
        held = session.graph.held
        S_world_anchor = held[anchor_id].S_world_camera
        S_anchor_frame = inverse_similarity(S_world_anchor) @ held[frame_id].S_world_camera
        sigmas = sigmas_of(edges, reference, self.config.covariance)
        return [
            FarEdge(
                edge.source_id, frame_id, anchor_id, S_anchor_frame, edge.T_source_target, sigma
            )
            for edge, sigma in zip(edges, sigmas, strict=True)
        ]

    def _consider(self, session: Session, frame_id: int, reference: float) -> None:
        """Begin to close a loop if the evidence agrees."""
        assert self._closer is not None
        if self._closer.busy or frame_id < self._rest_until:
            return
        session.evidence.keep(session.bank, frame_id)
        graph = session.graph
        groups: dict[tuple[int, int], list[FarEdge]] = {}
        for edge in session.evidence:
            pair = graph.segments[edge.source_id], graph.segments[edge.anchor_id]
            groups.setdefault(pair, []).append(edge)
        # The oldest segment first: the world is what all want to be in.
        for pair, evidence in sorted(groups.items(), key=lambda item: item[0]):
            named = {e.source_id for e in evidence} | {e.anchor_id for e in evidence}
            S_world = {keyframe: graph.held[keyframe].S_world_camera for keyframe in named}
            joining = pair[0] != pair[1]
            if agreement(evidence, S_world, self.config.loop, joining=joining) is not None:
                self._submit(session, frame_id, pair, evidence, reference)
                return

    def _submit(
        self,
        session: Session,
        frame_id: int,
        pair: tuple[int, int],
        evidence: list[FarEdge],
        reference: float,
    ) -> None:
        """Have the correction worked out that the evidence between two segments asks for."""
        assert self._closer is not None
        keyframes = _nodes(session, pair, evidence)
        named = {e.source_id for e in evidence}
        snapshot = LoopSnapshot(
            held={keyframe: session.graph.held[keyframe] for keyframe in keyframes},
            segments={keyframe: session.graph.segments[keyframe] for keyframe in keyframes},
            edges=session.graph.edges(set(keyframes)),
            evidence=evidence,
            followed_since=tuple(session.followed_since),
            clouds=session.map.clouds(named),
            depth=session.evidence_depth,
            reference=reference,
            config=self.config.loop,
            covariance=self.config.covariance,
        )
        self._closer.submit(frame_id + self.config.loop.apply_after, snapshot)


def _corrected(session: Session, correction: Correction) -> list[int]:
    """Move all that is held by what was found for the nearest keyframe; the rest hangs on it."""
    held, segments = session.graph.held, session.graph.segments
    moves, variances = {}, {}
    for segment_id in set(correction.segments.values()):
        nodes = sorted(i for i, of in correction.segments.items() if of == segment_id)
        frames = [frame_id for frame_id in held if segments[frame_id] == segment_id]
        for frame_id, nearest in zip(frames, _nearest(nodes, frames), strict=True):
            moves[frame_id] = correction.S_corrected_world[nearest]
            if nearest in correction.variances and nearest in held:
                variances[frame_id] = _variance_from(
                    held[frame_id], held[nearest], correction.variances[nearest]
                )
    moved = session.graph.correct(moves, variances)
    session.graph.connect(correction.closing, session.gate.reference)
    if session.recent and session.recent[-1] in moves:
        session.gate.move(moves[session.recent[-1]])
    session.loops_closed += 1
    if correction.joined is not None:
        moved = sorted({*moved, *_relabelled(session, *correction.joined)})
    if moved:
        session.map_revision += 1
        session.map.poses_changed()
    return moved


def _nearest(nodes: Sequence[int], frames: Sequence[int]) -> list[int]:
    """Return the node nearest to each frame, the older one if in doubt; nodes ascend."""
    known, asked = np.array(nodes), np.array(frames, dtype=np.int64)
    after = np.clip(np.searchsorted(known, asked), 0, len(known) - 1)
    before = np.maximum(after - 1, 0)
    nearer_before = np.abs(asked - known[before]) <= np.abs(known[after] - asked)
    found: list[int] = known[np.where(nearer_before, before, after)].tolist()
    return found


def _nodes(session: Session, pair: tuple[int, int], evidence: Sequence[FarEdge]) -> list[int]:
    """Return the keyframes to solve for: all, or enough of them.

    What the evidence names, what holds earlier loops and stretches of the way together, and
    others evenly in between.
    """
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
    """Return keyframes by which the camera was found again after a loss, each with the next."""
    bank, graph, pairs = session.bank, session.graph, []
    for since in session.followed_since:
        for keyframe in keyframes[bisect.bisect_left(keyframes, since) :][:1]:
            old = [i for i in graph.sources_of(keyframe) if i < since and i in bank]
            pairs += [(max(old), keyframe)] if old else []
    return pairs


def _relabelled(session: Session, younger: int, older: int) -> list[int]:
    """Make the younger segment part of the older one; return its frames."""
    segments = session.graph.segments
    joined = [frame_id for frame_id, segment in segments.items() if segment == younger]
    segments.update(dict.fromkeys(joined, older))
    if session.segment_id == younger:
        session.segment_id = older
    session.bank.join_segments(younger, older)
    return joined


def _variance_from(
    pose: HeldPose, nearest: HeldPose, corrected: tuple[float, float]
) -> tuple[float, float]:
    """Return the variances of a pose that is known from a keyframe whose own have changed."""
    grown_t = max(pose.variance_translation - nearest.variance_translation, 0.0)
    grown_r = max(pose.variance_rotation - nearest.variance_rotation, 0.0)
    return corrected[0] + grown_t, corrected[1] + grown_r
