"""The solver's job: from edges that agree against the present poses to corrected poses.

It works on a snapshot, in its own thread. The result is one similarity of the world per keyframe,
so that frames added or moved since can follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import itertools
import math

import numpy as np

from ...core.config import LoopConfig
from ...core.datatypes import DepthMap, Edge
from ...core.geometry import inverse_similarity, rotation_angle, scale_of
from ...maps.cloud import Cloud
from ..pose_resolution import edge_sigmas, EdgeNoise, HeldPose
from .agreement import Agreement, agreement
from .evidence import edge_fits, edge_to_anchor, FarEdge, sigmas_at_source
from .pose_optimizer import PoseProblem, solve_poses

#: Smallest standard deviation of the rotation between two keyframes: radians.
_LEAST_TURN_SIGMA = 1e-3
_LEAST_SCALE_SIGMA = 1e-6
#: Of the scale from depth: rounds, and pixels compared in each.
_DEPTH_ROUNDS = 8
_LEAST_PIXELS = 100
#: Largest scatter of the logarithms of depth ratios on the same surface.
_SAME_SURFACE = 0.25
#: Maximum number of keyframes, each of which costs a projection of its points.
_DEPTH_KEYFRAMES = 4
#: Smallest standard deviation of the logarithm.
_LEAST_DEPTH_SIGMA = 0.02
#: Largest misfit of an edge that closes a loop, in standard deviations.
_FITS = 3.0


@dataclass(frozen=True, eq=False)
class LoopSnapshot:
    """Immutable input of a job.

    :ivar held: the keyframes, by id.
    :ivar segments: of each keyframe. The evidence is of one pair of segments, or of one alone.
    :ivar edges: among them.
    :ivar evidence: edges that contradict the poses.
    :ivar followed_since: frames at which the camera was found again.
    :ivar clouds: points of keyframes, each in its own frame and unit.
    :ivar depth: of a frame in the evidence, as predicted.
    """

    held: Mapping[int, HeldPose]
    segments: Mapping[int, int]
    edges: Sequence[Edge]
    evidence: Sequence[FarEdge]
    followed_since: Sequence[int]
    clouds: Mapping[int, Cloud]
    depth: DepthMap | None
    noise: EdgeNoise
    config: LoopConfig


@dataclass(frozen=True, eq=False)
class Correction:
    """The result of a job.

    :ivar S_corrected_world: by keyframe, the similarity of the world that moves it.
    :ivar segments: by keyframe, as in the snapshot.
    :ivar variances: by keyframe, of translation and rotation.
    :ivar closing: source and target of the edges that close the loop.
    :ivar joined: the segment that moves into the world of an older one, and that one; None if all
        keyframes are of one segment.
    """

    S_corrected_world: Mapping[int, np.ndarray]
    segments: Mapping[int, int]
    variances: Mapping[int, tuple[float, float]]
    closing: Sequence[tuple[int, int]]
    joined: tuple[int, int] | None = None


def close_loop(snapshot: LoopSnapshot) -> Correction | None:
    """Return the correction that the evidence agrees on; None without one."""
    S_world = {frame_id: pose.S_world_camera for frame_id, pose in snapshot.held.items()}
    log_scale = scale_from_depth(snapshot.evidence, snapshot.depth, snapshot.clouds, S_world)
    joining = _joined(snapshot) is not None
    agreed = agreement(snapshot.evidence, S_world, snapshot.config, log_scale, joining)
    return None if agreed is None else correct_poses(snapshot, agreed)


def correct_poses(snapshot: LoopSnapshot, agreed: Agreement) -> Correction | None:
    """Return the correction for an agreement; None if it does not fit the graph."""
    ids = sorted(snapshot.held)
    problem = _problem(snapshot, agreed, ids, _start(snapshot, agreed, ids))
    try:
        solution = solve_poses(problem, snapshot.config.kernel_width)
    except RuntimeError:
        # The solver raises this if a pose is undetermined: nothing is corrected.
        return None
    fits = solution.misfit[problem.closing] <= _FITS
    kept = [edge for edge, fit in zip(agreed.edges, fits, strict=True) if fit]
    if len({edge.source_id for edge in kept}) < snapshot.config.min_keyframes:
        return None
    before = np.stack([snapshot.held[frame_id].S_world_camera for frame_id in ids])
    moved = solution.S_world_node @ inverse_similarity(before)
    return Correction(
        S_corrected_world=dict(zip(ids, moved, strict=True)),
        segments=snapshot.segments,
        variances=_variances(snapshot, kept),
        closing=sorted({(edge.source_id, edge.anchor_id) for edge in kept}),
        joined=_joined(snapshot),
    )


def _joined(snapshot: LoopSnapshot) -> tuple[int, int] | None:
    """Return the younger and the older segment that the evidence joins, if it joins any."""
    found = {snapshot.segments[snapshot.evidence[0].source_id]}
    found.add(snapshot.segments[snapshot.evidence[0].anchor_id])
    return (max(found), min(found)) if len(found) == 2 else None


def _start(snapshot: LoopSnapshot, agreed: Agreement, ids: list[int]) -> np.ndarray:
    """Return (N, 4, 4) initial poses: a segment that is joined is moved already."""
    S_world = np.stack([snapshot.held[frame_id].S_world_camera for frame_id in ids])
    joined = _joined(snapshot)
    if joined is not None:
        # The agreement moves the frames to the old keyframes, which may be of either segment.
        move = agreed.S_corrected_world
        if snapshot.segments[agreed.edges[0].source_id] == joined[0]:
            move = inverse_similarity(move)
        younger = np.array([snapshot.segments[frame_id] == joined[0] for frame_id in ids])
        S_world[younger] = move @ S_world[younger]
    return S_world


def _problem(
    snapshot: LoopSnapshot, agreed: Agreement, ids: list[int], S_world: np.ndarray
) -> PoseProblem:
    """Return the pose graph: the poses as they are, and the edges that close the loop."""
    row = {frame_id: n for n, frame_id in enumerate(ids)}
    pairs, sigmas = _relations(snapshot, ids)
    rows = np.array([(row[source], row[target]) for source, target in pairs], dtype=np.int64)
    rows = rows.reshape(-1, 2)
    measured = inverse_similarity(S_world[rows[:, 0]]) @ S_world[rows[:, 1]]
    # Corrected length of the present frames' unit.
    stretch = float(scale_of(agreed.S_corrected_world))
    closing_rows, closing_measured, closing_sigmas = [], [], []
    # The edges share one error of the scale, which does not average out.
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
    """Return the pairs of related keyframes, and their standard deviations: (N, 7).

    Keyframes with an edge that fits their poses, by its confidence, and each with the next, by the
    growth of the variance between the two: the edges of the frames in between are in that.
    """
    held = snapshot.held
    variances: dict[tuple[int, int], list[float]] = {}
    for edge in snapshot.edges:
        pair = edge.source_id, edge.target_id
        if not set(pair) <= held.keys():
            continue
        ratios = np.array([edge.scores]) / snapshot.noise.reference
        variance = _edge_variance(snapshot, pair, ratios)
        if edge_fits(edge, held[pair[0]], held[pair[1]], variance):
            variances[pair] = variance
    for pair in itertools.pairwise(ids):
        apart = snapshot.segments[pair[0]] != snapshot.segments[pair[1]]
        if apart or any(pair[0] < found <= pair[1] for found in snapshot.followed_since):
            continue
        grown = np.maximum(held[pair[1]].variances - held[pair[0]].variances, 0.0)
        nominal = _edge_variance(snapshot, pair, np.ones((1, 2)))
        variances.setdefault(pair, (grown + nominal).tolist())
    pairs = list(variances)
    # Edges into one frame have correlated errors: twice as many are not twice as certain.
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
    a, b = (snapshot.held[frame_id].T_world_camera for frame_id in pair)
    length = np.linalg.norm(b[:3, 3] - a[:3, 3])
    angle = rotation_angle(a[:3, :3].T @ b[:3, :3])
    sigmas = edge_sigmas(np.array([length]), np.array([angle]), ratios)
    return [float(sigma) ** 2 for sigma in sigmas[0]]


def _variances(snapshot: LoopSnapshot, kept: Sequence[FarEdge]) -> dict[int, tuple[float, float]]:
    """Return the variances of keyframes on the loop, now known from both of its ends.

    Those of a joined segment are known from the joint alone.
    """
    held, joined = snapshot.held, _joined(snapshot)
    if joined is not None:
        return _variances_joined(snapshot, joined[0], kept)
    start = max(edge.source_id for edge in kept)
    end = max(edge.anchor_id for edge in kept)
    closing = np.median([edge.sigmas for edge in kept], axis=0) ** 2
    at_end = held[start].variances + closing
    found = {}
    for frame_id, pose in held.items():
        if start < frame_id <= end:
            forward = np.maximum(pose.variances, 1e-12)
            backward = at_end + np.maximum(held[end].variances - forward, 0.0)
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
            apart = np.abs(pose.variances - at.variances)
            total = known.variances + edge.sigmas**2 + apart
            found[frame_id] = (float(total[0]), float(total[1]))
    return found


def scale_from_depth(
    evidence: Sequence[FarEdge],
    depth: DepthMap | None,
    clouds: Mapping[int, Cloud],
    S_world: Mapping[int, np.ndarray],
) -> tuple[float, float] | None:
    """Return the scale of the correction by the edges, measured with depth.

    :param depth: of one of the edges' frames.
    :returns: its logarithm and standard deviation; None if no depth can be compared.
    """
    if depth is None:
        return None
    found = []
    for edge in evidence:
        if edge.frame_id != depth.frame_id or edge.source_id not in clouds:
            continue
        unit = frame_unit(clouds[edge.source_id], depth, edge.T_source_frame)
        if unit is not None:
            unit_now = float(scale_of(S_world[edge.anchor_id] @ edge.S_anchor_frame))
            found.append(math.log(unit * float(scale_of(S_world[edge.source_id])) / unit_now))
        if len(found) == _DEPTH_KEYFRAMES:
            break
    if not found:
        return None
    scatter = float(np.median(np.abs(np.array(found) - np.median(found))))
    return float(np.median(found)), max(_LEAST_DEPTH_SIGMA, 1.5 * scatter)


def frame_unit(cloud: Cloud, depth: DepthMap, T_source_frame: np.ndarray) -> float | None:
    """Return the length of the frame's unit in that of the source, None if depth does not fit.

    :param cloud: points seen by the source, in its frame and unit.
    :param depth: of the frame, in its own unit.
    :param T_source_frame: (4, 4), lengths in the frame's unit.
    """
    R, t = T_source_frame[:3, :3], T_source_frame[:3, 3]
    K, unit = depth.intrinsics, 1.0
    height, width = depth.depth.shape
    for _ in range(_DEPTH_ROUNDS):
        x, y, z = ((cloud.points / unit - t) @ R).T
        with np.errstate(divide='ignore', invalid='ignore'):
            u, v = np.rint(K.fx * x / z + K.cx), np.rint(K.fy * y / z + K.cy)
        inside = (z > 0) & (u >= 0) & (v >= 0) & (u < width) & (v < height)
        seen = depth.depth[v[inside].astype(np.int64), u[inside].astype(np.int64)]
        known = np.isfinite(seen) & (seen > 0)
        if np.count_nonzero(known) < _LEAST_PIXELS:
            return None
        ratios = np.log(z[inside][known] / seen[known])
        step = float(np.median(ratios))
        unit *= math.exp(step)
        if abs(step) < 1e-4:
            break
    scatter = float(np.median(np.abs(ratios - step)))
    return unit if scatter < _SAME_SURFACE else None
