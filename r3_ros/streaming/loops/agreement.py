"""Whether edges that contradict the present pose agree on one correction.

One edge to an old keyframe may be wrong. Several frames and several keyframes that agree on the
same correction show that the poses have drifted, or where another segment lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import itertools
import math

import numpy as np

from ...core.config import LoopConfig
from ...core.geometry import (
    make_T,
    mean_rotation,
    rigid_part,
    rotation_angle,
    scale_of,
    similarity,
)
from .evidence import AGREE_SIGMAS, FarEdge, SLACK_LENGTH, SLACK_RAD

#: A correction is applied if it exceeds the scatter of its edges this many times.
_SIGNIFICANT = 2.0
#: Standard deviation of the logarithm of the scale around a loop.
_SCALE_PRIOR = 0.3
_FIXED_SCALE = 1e-6
#: The same between two segments, each with its own unit.
_SEGMENT_SCALE_PRIOR = 1.5
#: Smallest standard deviation of the logarithm of a scale.
_LEAST_SCALE_SIGMA = 0.01
_ROUNDS = 5


@dataclass(frozen=True, eq=False)
class Agreement:
    """Edges that agree on one correction.

    :ivar edges: those that agree.
    :ivar S_corrected_world: (4, 4) similarity of the world that takes the present frames to where
        the old keyframes place them.
    :ivar scale_sigma: standard deviation of the logarithm of its scale.
    :ivar scatter: (2,) root mean square deviation of the edges: map units, radians.
    """

    edges: tuple[FarEdge, ...]
    S_corrected_world: np.ndarray
    scale_sigma: float
    scatter: np.ndarray


def agreement(
    evidence: Sequence[FarEdge],
    S_world: Mapping[int, np.ndarray],
    config: LoopConfig,
    log_scale: tuple[float, float] | None = None,
    joining: bool = False,
) -> Agreement | None:
    """Return what most of the edges agree on; None if too few do, or the correction is too small.

    :param S_world: ``S_world_camera`` of all keyframes in the evidence.
    :param joining: the frames are in another segment than the old keyframes, and the result
        takes the one's world to the other's.
    :param log_scale: logarithm of the correction's scale and its standard deviation, if measured
        otherwise.
    """
    if not _enough(evidence, config):
        return None
    data = _EvidenceArrays.of(evidence, S_world)
    if log_scale is None and joining:
        log_scale = (_scale_of_levers(data), _SEGMENT_SCALE_PRIOR)
    elif log_scale is None:
        log_scale = (0.0, _SCALE_PRIOR if config.scale_drift > 0 else _FIXED_SCALE)
    chosen = _largest_group(data, math.exp(log_scale[0]), joining or config.scale_drift > 0)
    for _ in range(_ROUNDS):
        if not _enough(list(itertools.compress(evidence, chosen)), config):
            return None
        fit = _fitted(data, chosen, log_scale)
        shift, turn = data.residuals(fit.R, fit.scale, fit.shift)
        before = chosen
        chosen = (shift <= fit.scale * data.tolerance[:, 0]) & (turn <= data.tolerance[:, 1])
        if (before == chosen).all():
            break
    edges = tuple(itertools.compress(evidence, chosen))
    if not _enough(edges, config) or 2 * len(edges) < len(evidence):
        return None
    scatter = np.sqrt([np.mean(shift[chosen] ** 2), np.mean(turn[chosen] ** 2)])
    if not joining and not _is_significant(fit, scatter):
        return None
    # From the newest frame back to the world's origin.
    S = similarity(make_T(fit.R, np.zeros(3)), fit.scale)
    S[:3, 3] = data.origin + fit.shift - S[:3, :3] @ data.origin
    return Agreement(edges, S, fit.scale_sigma, scatter)


def _enough(edges: Sequence[FarEdge], config: LoopConfig) -> bool:
    frames, sources = {e.frame_id for e in edges}, {e.source_id for e in edges}
    return len(frames) >= config.min_frames and len(sources) >= config.min_keyframes


@dataclass(frozen=True, eq=False)
class _EvidenceArrays:
    """The evidence as arrays: lengths in map units, positions relative to the newest frame.

    A correction (rotation R, scale m, shift t) fits an edge if
    ``places = m * (R @ centres - levers) + t`` and ``R = turns``.

    :ivar origin: (3,) centre of the newest frame in the world.
    :ivar places: (N, 3) centres of the old keyframes.
    :ivar centres: (N, 3) centres of the frames.
    :ivar levers: (N, 3) from keyframe to frame by the edge.
    :ivar turns: (N, 3, 3) the rotation of the correction by each edge.
    :ivar tolerance: (N, 2) largest deviation of an edge: map units, radians.
    :ivar sigmas: (N, 2) standard deviations of the edges; ``frames``: (N,) their frames.
    """

    origin: np.ndarray
    places: np.ndarray
    centres: np.ndarray
    levers: np.ndarray
    turns: np.ndarray
    tolerance: np.ndarray
    sigmas: np.ndarray
    frames: np.ndarray

    @classmethod
    def of(cls, evidence: Sequence[FarEdge], S_world: Mapping[int, np.ndarray]) -> _EvidenceArrays:
        S_source = np.stack([S_world[e.source_id] for e in evidence])
        S_frame = np.stack([S_world[e.anchor_id] for e in evidence])
        S_frame = S_frame @ np.stack([e.S_anchor_frame for e in evidence])
        T_edge = np.stack([e.T_source_frame for e in evidence])
        scale = scale_of(S_frame)
        R_source, R_frame = rigid_part(S_source)[:, :3, :3], rigid_part(S_frame)[:, :3, :3]
        levers = (R_source @ T_edge[:, :3, 3:])[..., 0] * scale[:, None]
        sigmas = np.stack([e.sigmas for e in evidence])
        sigmas[:, 0] *= scale
        lengths = np.linalg.norm(levers, axis=1)
        slack = np.stack([SLACK_LENGTH * lengths, np.full(len(levers), SLACK_RAD)], axis=1)
        origin = S_frame[-1, :3, 3].copy()
        return cls(
            origin=origin,
            places=S_source[:, :3, 3] - origin,
            centres=S_frame[:, :3, 3] - origin,
            levers=levers,
            turns=R_source @ T_edge[:, :3, :3] @ np.swapaxes(R_frame, 1, 2),
            tolerance=np.maximum(AGREE_SIGMAS * sigmas, slack),
            sigmas=sigmas,
            frames=np.array([e.frame_id for e in evidence]),
        )

    def residuals(
        self, R: np.ndarray, scale: float, shift: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the (N,) distances and (N,) angles of the edges from a correction."""
        off = self.places - scale * (self.centres @ R.T - self.levers) - shift
        return np.linalg.norm(off, axis=1), rotation_angle(R.T @ self.turns)


def _scale_of_levers(data: _EvidenceArrays) -> float:
    """Return the logarithm of the ratio of distances between keyframes, in the map over by edges.

    The median over pairs of keyframes seen by one frame; 0 without a pair.
    """
    first, second = np.triu_indices(len(data.frames), 1)
    same = data.frames[first] == data.frames[second]
    first, second = first[same], second[same]
    apart = np.linalg.norm(data.places[first] - data.places[second], axis=1)
    seen = np.linalg.norm(data.levers[first] - data.levers[second], axis=1)
    known = (apart > 0) & (seen > 0)
    return float(np.median(np.log(apart[known] / seen[known]))) if known.any() else 0.0


def _largest_group(data: _EvidenceArrays, scale: float, scale_drifts: bool) -> np.ndarray:
    """Return the (N,) mask of the edges that agree with the one that most agree with."""
    # (H, N): deviation of each edge n if edge h were right about everything but scale.
    seen = scale * (np.einsum('hij,nj->hni', data.turns, data.centres) - data.levers)
    own = np.einsum('hhi->hi', seen)
    off = (data.places - data.places[:, None]) - (seen - own[:, None])
    shift = np.linalg.norm(off, axis=2)
    turn = rotation_angle(np.swapaxes(data.turns, 1, 2)[:, None] @ data.turns)
    allowed_shift = scale * (data.tolerance[:, 0] + data.tolerance[:, :1])
    if scale_drifts:
        # A correction without its scale is right at its own keyframe only.
        allowed_shift += _SCALE_PRIOR * np.linalg.norm(data.places - data.places[:, None], axis=2)
    agree = (shift <= allowed_shift) & (turn <= data.tolerance[:, 1] + data.tolerance[:, 1:])
    return agree[np.argmax(agree.sum(axis=1))]


@dataclass(frozen=True, eq=False)
class _Fit:
    R: np.ndarray
    scale: float
    shift: np.ndarray
    scale_sigma: float


def _fitted(data: _EvidenceArrays, chosen: np.ndarray, log_scale: tuple[float, float]) -> _Fit:
    """Return the correction that fits the chosen edges best."""
    weights = 1.0 / (data.sigmas[chosen] ** 2)
    R = mean_rotation(data.turns[chosen], weights[:, 1] / weights[:, 1].sum())
    seen = data.centres[chosen] @ R.T - data.levers[chosen]
    places, w = data.places[chosen], weights[:, 0] / weights[:, 0].sum()
    # The scale comes from several keyframes seen by one frame: the motion from frame to frame may
    # be biased by the very edges in question.
    frames = data.frames[chosen]
    a, b = _about_means(seen, frames), _about_means(places, frames)
    by_themselves = (a * b).sum() / max((a**2).sum(), 1e-12)
    rest = np.linalg.norm(b - by_themselves * a, axis=1)
    # The larger of the edges' own variance and that of the fit.
    variance = np.maximum(data.sigmas[chosen][:, 0] ** 2, np.mean(rest**2) / 3.0)
    # The prior dominates unless the keyframes lie far enough apart.
    mean, sigma = math.exp(log_scale[0]), log_scale[1] * math.exp(log_scale[0])
    information = 1.0 / sigma**2 + ((a**2).sum(axis=1) / variance).sum()
    scale = (mean / sigma**2 + ((a * b).sum(axis=1) / variance).sum()) / information
    scale = max(scale, 1e-3)
    sigma = max(1.0 / (scale * math.sqrt(information)), min(log_scale[1], _LEAST_SCALE_SIGMA))
    return _Fit(R, scale, w @ places - scale * (w @ seen), sigma)


def _about_means(points: np.ndarray, groups: np.ndarray) -> np.ndarray:
    _, group = np.unique(groups, return_inverse=True)
    sums = np.zeros((group.max() + 1, 3))
    np.add.at(sums, group, points)
    return points - (sums / np.bincount(group)[:, None])[group]


def _is_significant(fit: _Fit, scatter: np.ndarray) -> bool:
    shift, turn = float(np.linalg.norm(fit.shift)), float(rotation_angle(fit.R))
    stretched = abs(math.log(fit.scale)) > _SIGNIFICANT * max(fit.scale_sigma, 1e-3)
    moved = np.array([shift, turn]) > np.maximum(_SIGNIFICANT * scatter, 1e-6)
    return bool(moved.any() or stretched)
