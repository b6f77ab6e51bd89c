"""Closing loops: from edges that agree against the present poses to corrected poses.

The work is done on a snapshot, in a thread of its own; frames go on meanwhile. What comes back is
one similarity of the world for each keyframe, so that whatever has been added or moved since can
follow. It is taken in a fixed number of frames later, so that a run gives the same result each
time: not before, and if need be it is waited for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
import itertools

import numpy as np

from ...config import CovarianceConfig, LoopConfig
from ...datatypes import DepthMap, Edge
from ...geometry import rotation_angle
from ...maps.cloud import Cloud
from ...runtime import thread_name
from ..pose_resolution import edge_sigmas, HeldPose
from ..similarity import inverse_similarity, scale_of
from .agreement import Agreement, agreement
from .evidence import edge_fits, edge_to_anchor, FarEdge, sigmas_at_source
from .pose_optimizer import load_gtsam, PoseProblem, PoseSolution, solve_poses
from .scale_from_depth import scale_from_depth

#: What a keyframe's rotation is off by at least, from one to the next: radians.
_LEAST_TURN_SIGMA = 1e-3
_LEAST_SCALE_SIGMA = 1e-6
#: A loop is closed if edges of enough keyframes are off by at most this, in standard deviations.
_FITS = 3.0


@dataclass(frozen=True, eq=False)
class LoopSnapshot:
    """All that closing a loop needs; nothing in it changes any more.

    :ivar held: the keyframes, by id.
    :ivar segments: of each keyframe. The evidence is of one pair of segments, or of one alone.
    :ivar edges: among them.
    :ivar evidence: edges that contradict the poses.
    :ivar followed_since: frames that the camera was found again at.
    :ivar clouds: points of keyframes, each in its own frame and unit.
    :ivar depth: of a frame that the evidence names, as predicted.
    :ivar reference: the score of a nominal edge.
    """

    held: Mapping[int, HeldPose]
    segments: Mapping[int, int]
    edges: Sequence[Edge]
    evidence: Sequence[FarEdge]
    followed_since: Sequence[int]
    clouds: Mapping[int, Cloud]
    depth: DepthMap | None
    reference: float
    config: LoopConfig
    covariance: CovarianceConfig


@dataclass(frozen=True, eq=False)
class Correction:
    """What closing a loop changes.

    :ivar S_corrected_world: by keyframe, the similarity of the world that moves it.
    :ivar segments: by keyframe, as they were.
    :ivar variances: by keyframe, of translation and rotation.
    :ivar closing: source and target of the edges that hold the loop together from now on.
    :ivar joined: the segment that moved into the world of an older one, and that; None if all is
        of one segment.
    """

    S_corrected_world: Mapping[int, np.ndarray]
    segments: Mapping[int, int]
    variances: Mapping[int, tuple[float, float]]
    closing: Sequence[tuple[int, int]]
    joined: tuple[int, int] | None = None


class LoopCloser:
    """One job at a time in a thread of its own."""

    def __init__(self) -> None:
        """Find the solver now, so that a missing one is told at the start.

        :raises ModelError: it is not there.
        """
        load_gtsam()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=thread_name('loops'))
        self._job: tuple[int, Future[Correction | None]] | None = None

    @property
    def busy(self) -> bool:
        """Tell whether a result is still to be taken."""
        return self._job is not None

    def submit(self, due_frame: int, snapshot: LoopSnapshot) -> None:
        """Begin to close a loop; the result is for frame ``due_frame``."""
        self._job = due_frame, self._executor.submit(close_loop, snapshot)

    def take(self, frame: int | None) -> Correction | None:
        """Return the result if it is due at this frame (None: in any case), and be free again."""
        if self._job is None or (frame is not None and frame < self._job[0]):
            return None
        _, future = self._job
        self._job = None
        return future.result()

    def drop(self) -> None:
        """Forget the job: its poses are no more."""
        if self._job is not None:
            self._job[1].cancel()
            self._job = None

    def close(self) -> None:
        """Drop the job and wait for the thread to end."""
        self.drop()
        self._executor.shutdown(wait=True, cancel_futures=True)


def close_loop(snapshot: LoopSnapshot) -> Correction | None:
    """Return the correction that the evidence asks for; None if it does not hold together."""
    agreed = _agreed(snapshot)
    return None if agreed is None else correct_poses(snapshot, agreed)


def correct_poses(snapshot: LoopSnapshot, agreed: Agreement) -> Correction | None:
    """Return the correction that an agreement asks for; None if it does not fit the graph."""
    ids = sorted(snapshot.held)
    problem = _problem(snapshot, agreed, ids, _start(snapshot, agreed, ids))
    try:
        solution = solve_poses(problem, snapshot.config.kernel_width)
    except RuntimeError:
        # What the solver raises where the edges leave a pose undetermined: nothing is corrected.
        return None
    fits = solution.misfit[problem.closing] <= _FITS
    kept = [edge for edge, fit in zip(agreed.edges, fits, strict=True) if fit]
    if len({edge.source_id for edge in kept}) < snapshot.config.min_keyframes:
        return None
    return _correction(snapshot, ids, solution, kept)


def _agreed(snapshot: LoopSnapshot) -> Agreement | None:
    """Find the agreement, with the scale that depth tells if it does."""
    S_world = {frame_id: pose.S_world_camera for frame_id, pose in snapshot.held.items()}
    log_scale = scale_from_depth(snapshot.evidence, snapshot.depth, snapshot.clouds, S_world)
    joining = _joined(snapshot) is not None
    return agreement(snapshot.evidence, S_world, snapshot.config, log_scale, joining)


def _joined(snapshot: LoopSnapshot) -> tuple[int, int] | None:
    """Return the younger and the older segment that the evidence joins."""
    found = {snapshot.segments[snapshot.evidence[0].source_id]}
    found.add(snapshot.segments[snapshot.evidence[0].anchor_id])
    return (max(found), min(found)) if len(found) == 2 else None


def _start(snapshot: LoopSnapshot, agreed: Agreement, ids: list[int]) -> np.ndarray:
    """Return (N, 4, 4) the poses to begin with: a segment that is joined has moved already."""
    S_world = np.stack([snapshot.held[frame_id].S_world_camera for frame_id in ids])
    joined = _joined(snapshot)
    if joined is not None:
        # The agreement takes the frames to the old keyframes, of whichever segment those are.
        move = agreed.S_corrected_world
        if snapshot.segments[agreed.edges[0].source_id] == joined[0]:
            move = inverse_similarity(move)
        younger = np.array([snapshot.segments[frame_id] == joined[0] for frame_id in ids])
        S_world[younger] = move @ S_world[younger]
    return S_world


def _problem(
    snapshot: LoopSnapshot, agreed: Agreement, ids: list[int], S_world: np.ndarray
) -> PoseProblem:
    """Lay the pose graph out: the poses as they are, and the edges that close the loop."""
    row = {frame_id: n for n, frame_id in enumerate(ids)}
    pairs, sigmas = _relations(snapshot, ids)
    rows = np.array([(row[source], row[target]) for source, target in pairs], dtype=np.int64)
    rows = rows.reshape(-1, 2)
    measured = inverse_similarity(S_world[rows[:, 0]]) @ S_world[rows[:, 1]]
    # How long the unit of the present frames is, if the agreement is right.
    stretch = float(scale_of(agreed.S_corrected_world))
    closing_rows, closing_measured, closing_sigmas = [], [], []
    # They share one error of the scale, which does not average out.
    scale_sigma = agreed.scale_sigma * np.sqrt(len(agreed.edges))
    scale_sigma = max(scale_sigma, _LEAST_SCALE_SIGMA)
    for edge in agreed.edges:
        unit = snapshot.held[edge.anchor_id].scale * float(scale_of(edge.S_anchor_frame))
        scale = stretch * unit / snapshot.held[edge.source_id].scale
        closing_rows.append((row[edge.source_id], row[edge.anchor_id]))
        closing_measured.append(edge_to_anchor(edge, scale))
        scatter = agreed.scatter / [stretch * unit, 1.0]
        closing_sigmas.append(sigmas_at_source(edge, scatter, scale_sigma))
    closing = np.zeros(len(rows) + len(closing_rows), dtype=bool)
    closing[len(rows) :] = True
    return PoseProblem(
        S_world_node=S_world,
        pairs=np.concatenate([rows, np.array(closing_rows)]),
        S_source_target=np.concatenate([measured, np.stack(closing_measured)]),
        sigmas=np.concatenate([sigmas, np.stack(closing_sigmas)]),
        closing=closing,
    )


def _relations(snapshot: LoopSnapshot, ids: list[int]) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Return the pairs of keyframes that are known from one another, and how well: (N, 7).

    Those with an edge that fits their poses, by its confidence, and each with the next, by what
    the uncertainty grew between the two: the edges of frames in between are in that.
    """
    held = snapshot.held
    variances: dict[tuple[int, int], list[float]] = {}
    for edge in snapshot.edges:
        pair = edge.source_id, edge.target_id
        if not set(pair) <= held.keys():
            continue
        ratios = np.array([[edge.confidence_translation, edge.confidence_rotation]])
        variance = _edge_variance(snapshot, pair, ratios / snapshot.reference)
        if edge_fits(edge, held[pair[0]], held[pair[1]], variance):
            variances[pair] = variance
    for pair in itertools.pairwise(ids):
        apart = snapshot.segments[pair[0]] != snapshot.segments[pair[1]]
        if apart or any(pair[0] < found <= pair[1] for found in snapshot.followed_since):
            continue
        grown = [
            held[pair[1]].variance_translation - held[pair[0]].variance_translation,
            held[pair[1]].variance_rotation - held[pair[0]].variance_rotation,
        ]
        nominal = _edge_variance(snapshot, pair, np.ones((1, 2)))
        variances.setdefault(pair, [max(0.0, g) + v for g, v in zip(grown, nominal, strict=True)])
    pairs = list(variances)
    # Edges into one frame err together: twice as many are not twice as sure.
    targets = np.array([target for _, target in pairs])
    _, place, counts = np.unique(targets, return_inverse=True, return_counts=True)
    sharing = counts[place]
    sigmas = np.empty((len(pairs), 7))
    sigma = np.sqrt(np.array(list(variances.values())).reshape(-1, 2))
    units = np.array([held[target].scale for target in targets])
    sigmas[:, :3] = np.maximum(sigma[:, 1:], _LEAST_TURN_SIGMA)
    sigmas[:, 3:6] = sigma[:, :1] / units[:, None]
    sigmas[:, 6] = max(snapshot.config.scale_drift, _LEAST_SCALE_SIGMA)
    return pairs, sigmas * np.sqrt(sharing)[:, None]


def _edge_variance(
    snapshot: LoopSnapshot, pair: tuple[int, int], ratios: np.ndarray
) -> list[float]:
    """Return the variances of translation and rotation between two keyframes as they lie."""
    a, b = (snapshot.held[frame_id].T_world_camera for frame_id in pair)
    length = np.linalg.norm(b[:3, 3] - a[:3, 3])
    angle = rotation_angle(a[:3, :3].T @ b[:3, :3])
    sigmas = edge_sigmas(np.array([length]), np.array([angle]), ratios, snapshot.covariance)
    return [float(sigma) ** 2 for sigma in sigmas[0]]


def _correction(
    snapshot: LoopSnapshot, ids: list[int], solution: PoseSolution, kept: Sequence[FarEdge]
) -> Correction:
    before = np.stack([snapshot.held[frame_id].S_world_camera for frame_id in ids])
    moved = solution.S_world_node @ inverse_similarity(before)
    return Correction(
        S_corrected_world=dict(zip(ids, moved, strict=True)),
        segments=snapshot.segments,
        variances=_variances(snapshot, kept),
        closing=sorted({(edge.source_id, edge.anchor_id) for edge in kept}),
        joined=_joined(snapshot),
    )


def _variances(snapshot: LoopSnapshot, kept: Sequence[FarEdge]) -> dict[int, tuple[float, float]]:
    """Return the variances of keyframes on the loop, now known from both of its ends.

    Those of a segment that is joined are known from where it is joined, and that is all.
    """
    held, joined = snapshot.held, _joined(snapshot)
    if joined is not None:
        return _variances_joined(snapshot, joined[0], kept)
    start = max(edge.source_id for edge in kept)
    end = max(edge.anchor_id for edge in kept)
    closing = np.median([edge.sigmas for edge in kept], axis=0) ** 2
    at_end = _variance_of(held[start]) + closing
    found = {}
    for frame_id, pose in held.items():
        if start < frame_id <= end:
            forward = np.maximum(_variance_of(pose), 1e-12)
            backward = at_end + np.maximum(_variance_of(held[end]) - forward, 0.0)
            fused = forward * backward / (forward + backward)
            found[frame_id] = (float(fused[0]), float(fused[1]))
    return found


def _variances_joined(
    snapshot: LoopSnapshot, younger: int, kept: Sequence[FarEdge]
) -> dict[int, tuple[float, float]]:
    held, edge = snapshot.held, kept[len(kept) // 2]
    ends = sorted((edge.source_id, edge.anchor_id), key=lambda i: snapshot.segments[i] == younger)
    known, at = held[ends[0]], held[ends[1]]
    found = {}
    for frame_id, pose in held.items():
        if snapshot.segments[frame_id] == younger:
            apart = np.abs(_variance_of(pose) - _variance_of(at))
            total = _variance_of(known) + edge.sigmas**2 + apart
            found[frame_id] = (float(total[0]), float(total[1]))
    return found


def _variance_of(pose: HeldPose) -> np.ndarray:
    return np.array([pose.variance_translation, pose.variance_rotation])
