"""What edges to old keyframes say against the present pose, and whether they say it together.

An edge to a keyframe of long ago that contradicts the pose is either a mistake (a place that only
looks the same) or the first sign that the way here has drifted. One such edge cannot tell. Several
frames and several keyframes that ask for the same correction can.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
import itertools
import math

import numpy as np

from ..config import CovarianceConfig, LoopConfig
from ..datatypes import Edge
from ..geometry import make_T, mean_rotation, rotation_angle
from .pose_resolution import edge_sigmas, HeldPose, ResolvedPose
from .similarity import inverse_similarity, rigid_part, scale_of, similarity

#: Edges within this many standard deviations agree.
_AGREE_SIGMAS = 3.0
#: A correction this small shows in no odometry: a share of the step to the nearest frame, radians.
_UNSEEN_SHARE = 0.02
_UNSEEN_RAD = 0.0005
#: What two edges may differ by whatever their standard deviations say, which are a heuristic: a
#: share of their lengths, and radians.
_SLACK_LENGTH = 0.1
_SLACK_RAD = 0.03
#: A correction is worth making if it exceeds the scatter of those who ask for it this many times.
_SIGNIFICANT = 2.0
#: So many of the last frames with contradicting edges are looked at together.
_WINDOW_FRAMES = 12
#: ... unless they are older than this: the way here has drifted on since.
_WINDOW_AGE = 40
#: Standard deviation of the logarithm of the scale all the way round a loop.
_SCALE_PRIOR = 0.3
_FIXED_SCALE = 1e-6
#: The same between two segments, each of which has a unit of its own.
_SEGMENT_SCALE_PRIOR = 1.5
#: However well it fits, a scale is not known better.
_LEAST_SCALE_SIGMA = 0.01
_ROUNDS = 5


@dataclass(frozen=True, eq=False)
class FarEdge:
    """An edge from an old keyframe that contradicts the pose of its frame.

    The frame itself will be let go, so its place is told from a keyframe that stays.

    :ivar anchor_id: the newest keyframe when the frame was seen.
    :ivar S_anchor_frame: (4, 4) where the frame is, by the frames around it.
    :ivar T_source_frame: (4, 4) what the edge says; lengths in the frame's own unit.
    :ivar sigmas: (2,) standard deviations of translation, in the frame's unit, and rotation.
    """

    source_id: int
    frame_id: int
    anchor_id: int
    S_anchor_frame: np.ndarray
    T_source_frame: np.ndarray
    sigmas: np.ndarray


@dataclass(frozen=True, eq=False)
class Agreement:
    """Edges that ask for the same correction.

    :ivar edges: those that agree.
    :ivar S_corrected_world: (4, 4) similarity of the world that takes the present frames to where
        the old keyframes want them.
    :ivar scale_sigma: standard deviation of the logarithm of its scale.
    :ivar scatter: (2,) root mean square by which the edges differ from it: map units, radians.
    """

    edges: tuple[FarEdge, ...]
    S_corrected_world: np.ndarray
    scale_sigma: float
    scatter: np.ndarray


class LoopEvidence:
    """The contradicting edges of the last frames that had any."""

    def __init__(self) -> None:
        """Start without any."""
        self._frames: deque[tuple[FarEdge, ...]] = deque(maxlen=_WINDOW_FRAMES)

    def __iter__(self) -> Iterator[FarEdge]:
        """Go through the edges, oldest first."""
        return (edge for edges in self._frames for edge in edges)

    def add(self, edges: Sequence[FarEdge]) -> None:
        """Take in the contradicting edges of one frame."""
        if edges:
            self._frames.append(tuple(edges))

    def keep(self, known: Container[int], now: int) -> None:
        """Forget edges whose keyframes are not known any more, and those of long ago."""
        kept = [
            tuple(e for e in edges if e.source_id in known and e.anchor_id in known)
            for edges in self._frames
            if now - edges[0].frame_id <= _WINDOW_AGE
        ]
        self._frames = deque((edges for edges in kept if edges), maxlen=_WINDOW_FRAMES)

    def clear(self) -> None:
        """Forget all."""
        self._frames.clear()


def contradicts(
    far: Sequence[Edge],
    near: Sequence[Edge],
    resolved: ResolvedPose,
    held: Mapping[int, HeldPose],
    reference: float,
    config: CovarianceConfig,
) -> np.ndarray:
    """Tell which far edges are at odds with the pose that the near ones give.

    The yardstick is the uncertainty of the edges themselves and the scatter of the near ones,
    not what has accumulated on the way: blending in a correction of that size would be a jump.

    :returns: (N,) bool, one for each far edge.
    """
    own = resolved.held
    T_edges = np.array([edge.T_source_target for edge in far])
    T_edges[:, :3, 3] *= own.scale
    candidates = np.array([held[edge.source_id].T_world_camera for edge in far]) @ T_edges
    shift = np.linalg.norm(candidates[:, :3, 3] - own.T_world_camera[:3, 3], axis=1)
    turn = rotation_angle(own.T_world_camera[:3, :3].T @ candidates[:, :3, :3])
    spread = resolved.spread.diagonal()
    local = np.array([spread[:3].sum(), spread[3:].sum()])
    local = local + (sigmas_of(near, reference, config) ** 2).min(axis=0) * [own.scale**2, 1.0]
    tolerance = sigmas_of(far, reference, config) ** 2 * [own.scale**2, 1.0] + local
    off = np.stack([shift, turn], axis=1)
    step = own.scale * min(np.linalg.norm(edge.T_source_target[:3, 3]) for edge in near)
    unseen = np.array([_UNSEEN_SHARE * step, _UNSEEN_RAD])
    return (off > np.maximum(_AGREE_SIGMAS * np.sqrt(tolerance), unseen)).any(axis=1)


def sigmas_of(edges: Sequence[Edge], reference: float, config: CovarianceConfig) -> np.ndarray:
    """Return the (N, 2) standard deviations of edges, in the unit of their targets."""
    T = np.array([edge.T_source_target for edge in edges])
    ratios = np.array([[e.confidence_translation, e.confidence_rotation] for e in edges])
    lengths = np.linalg.norm(T[:, :3, 3], axis=1)
    return edge_sigmas(lengths, rotation_angle(T[:, :3, :3]), ratios / reference, config)


def agreement(
    evidence: Sequence[FarEdge],
    S_world: Mapping[int, np.ndarray],
    config: LoopConfig,
    log_scale: tuple[float, float] | None = None,
    joining: bool = False,
) -> Agreement | None:
    """Return what most of the edges agree on; None if too few do, or on nothing worth doing.

    :param S_world: ``S_world_camera`` of all keyframes that the evidence names.
    :param joining: the frames are in another segment than the old keyframes, in a world of its
        own, and what is found takes the one to the other.
    :param log_scale: the logarithm of the correction's scale and its standard deviation, where
        something else has measured it.
    """
    if not _enough(evidence, config):
        return None
    said = _Said.of(evidence, S_world)
    if log_scale is None and joining:
        log_scale = (_scale_of_levers(said), _SEGMENT_SCALE_PRIOR)
    elif log_scale is None:
        log_scale = (0.0, _SCALE_PRIOR if config.scale_drift > 0 else _FIXED_SCALE)
    chosen = _largest_group(said, math.exp(log_scale[0]), joining or config.scale_drift > 0)
    for _ in range(_ROUNDS):
        if not _enough(list(itertools.compress(evidence, chosen)), config):
            return None
        fit = _fitted(said, chosen, log_scale)
        shift, turn = said.residuals(fit.R, fit.scale, fit.shift)
        before, chosen = (
            chosen,
            (shift <= fit.scale * said.tolerance[:, 0]) & (turn <= said.tolerance[:, 1]),
        )
        if (before == chosen).all():
            break
    edges = tuple(itertools.compress(evidence, chosen))
    if not _enough(edges, config) or 2 * len(edges) < len(evidence):
        return None
    scatter = np.sqrt([np.mean(shift[chosen] ** 2), np.mean(turn[chosen] ** 2)])
    if not joining and not _worth_it(fit, scatter):
        return None
    # From lengths about the newest frame back to the world's origin.
    S = similarity(make_T(fit.R, np.zeros(3)), fit.scale)
    S[:3, 3] = said.origin + fit.shift - S[:3, :3] @ said.origin
    return Agreement(edges, S, fit.scale_sigma, scatter)


def _enough(edges: Sequence[FarEdge], config: LoopConfig) -> bool:
    """Tell whether they are of enough frames and of enough keyframes."""
    frames, sources = {e.frame_id for e in edges}, {e.source_id for e in edges}
    return len(frames) >= config.min_frames and len(sources) >= config.min_keyframes


@dataclass(frozen=True, eq=False)
class _Said:
    """The evidence as arrays, with lengths in the world and about the newest frame.

    A correction (rotation R, scale m, shift t) is right for an edge if
    ``places = m * (R @ centres - levers) + t`` and ``R = turns``.

    :ivar origin: (3,) centre of the newest frame.
    :ivar places: (N, 3) where the old keyframes are.
    :ivar centres: (N, 3) where the frames are said to be.
    :ivar levers: (N, 3) from keyframe to frame, as the edge says.
    :ivar turns: (N, 3, 3) the correction of the rotation that each edge asks for.
    :ivar tolerance: (N, 2) what edges may be off by: map units, radians.
    :ivar sigmas: (N, 2) their standard deviations; ``frames``: (N,) the frames they are of.
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
    def of(cls, evidence: Sequence[FarEdge], S_world: Mapping[int, np.ndarray]) -> _Said:
        """Work out what each edge says of the correction."""
        S_source = np.stack([S_world[e.source_id] for e in evidence])
        S_frame = np.stack([S_world[e.anchor_id] for e in evidence])
        S_frame = S_frame @ np.stack([e.S_anchor_frame for e in evidence])
        T_edge = np.stack([e.T_source_frame for e in evidence])
        scale = scale_of(S_frame)
        R_source, R_frame = rigid_part(S_source)[:, :3, :3], rigid_part(S_frame)[:, :3, :3]
        levers = (R_source @ T_edge[:, :3, 3:])[..., 0] * scale[:, None]
        sigmas = np.stack([e.sigmas for e in evidence])
        sigmas[:, 0] *= scale
        slack = np.stack(
            [_SLACK_LENGTH * np.linalg.norm(levers, axis=1), np.full(len(levers), _SLACK_RAD)],
            axis=1,
        )
        origin = S_frame[-1, :3, 3].copy()
        return cls(
            origin=origin,
            places=S_source[:, :3, 3] - origin,
            centres=S_frame[:, :3, 3] - origin,
            levers=levers,
            turns=R_source @ T_edge[:, :3, :3] @ np.swapaxes(R_frame, 1, 2),
            tolerance=np.maximum(_AGREE_SIGMAS * sigmas, slack),
            sigmas=sigmas,
            frames=np.array([e.frame_id for e in evidence]),
        )

    def residuals(
        self, R: np.ndarray, scale: float, shift: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return how far each edge is from one correction: (N,) map units and (N,) radians."""
        off = self.places - scale * (self.centres @ R.T - self.levers) - shift
        return np.linalg.norm(off, axis=1), rotation_angle(R.T @ self.turns)


def _scale_of_levers(said: _Said) -> float:
    """Return the logarithm of the scale at which frames see keyframes as far apart as they are.

    Of pairs of keyframes seen by one frame, the median; 0 without a pair.
    """
    first, second = np.triu_indices(len(said.frames), 1)
    same = said.frames[first] == said.frames[second]
    first, second = first[same], second[same]
    apart = np.linalg.norm(said.places[first] - said.places[second], axis=1)
    seen = np.linalg.norm(said.levers[first] - said.levers[second], axis=1)
    known = (apart > 0) & (seen > 0)
    return float(np.median(np.log(apart[known] / seen[known]))) if known.any() else 0.0


def _largest_group(said: _Said, scale: float, scale_drifts: bool) -> np.ndarray:
    """Return the (N,) mask of the edges that agree with the one that most agree with."""
    # (H, N): what each edge n would be off by if edge h were right about everything but scale.
    seen = scale * (np.einsum('hij,nj->hni', said.turns, said.centres) - said.levers)
    own = np.einsum('hhi->hi', seen)
    off = (said.places - said.places[:, None]) - (seen - own[:, None])
    shift = np.linalg.norm(off, axis=2)
    turn = rotation_angle(np.swapaxes(said.turns, 1, 2)[:, None] @ said.turns)
    allowed_shift = scale * (said.tolerance[:, 0] + said.tolerance[:, :1])
    if scale_drifts:
        # Without its scale a correction is right at its own keyframe only.
        allowed_shift += _SCALE_PRIOR * np.linalg.norm(said.places - said.places[:, None], axis=2)
    agree = (shift <= allowed_shift) & (turn <= said.tolerance[:, 1] + said.tolerance[:, 1:])
    best: np.ndarray = agree[np.argmax(agree.sum(axis=1))]
    return best


@dataclass(frozen=True, eq=False)
class _Fit:
    R: np.ndarray
    scale: float
    shift: np.ndarray
    scale_sigma: float


def _fitted(said: _Said, chosen: np.ndarray, log_scale: tuple[float, float]) -> _Fit:
    """Return the correction that fits the chosen edges best."""
    weights = 1.0 / (said.sigmas[chosen] ** 2)
    R = mean_rotation(said.turns[chosen], weights[:, 1] / weights[:, 1].sum())
    seen = said.centres[chosen] @ R.T - said.levers[chosen]
    places, w = said.places[chosen], weights[:, 0] / weights[:, 0].sum()
    # The scale is that of what one frame sees of several keyframes: the way from frame to frame
    # may have been pulled by the very edges that are in question.
    frames = said.frames[chosen]
    a, b = _about_means(seen, frames), _about_means(places, frames)
    by_themselves = (a * b).sum() / max((a**2).sum(), 1e-12)
    rest = np.linalg.norm(b - by_themselves * a, axis=1)
    # Edges are as good as they say or as they fit, whichever is worse.
    variance = np.maximum(said.sigmas[chosen][:, 0] ** 2, np.mean(rest**2) / 3.0)
    # The scale is the prior's unless the keyframes lie far enough apart to tell.
    mean, sigma = math.exp(log_scale[0]), log_scale[1] * math.exp(log_scale[0])
    information = 1.0 / sigma**2 + ((a**2).sum(axis=1) / variance).sum()
    scale = (mean / sigma**2 + ((a * b).sum(axis=1) / variance).sum()) / information
    scale = max(scale, 1e-3)
    sigma = max(1.0 / (scale * math.sqrt(information)), min(log_scale[1], _LEAST_SCALE_SIGMA))
    return _Fit(R, scale, w @ places - scale * (w @ seen), sigma)


def _about_means(points: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return (N, 3) points less the mean of their group."""
    _, group = np.unique(groups, return_inverse=True)
    sums = np.zeros((group.max() + 1, 3))
    np.add.at(sums, group, points)
    centred: np.ndarray = points - (sums / np.bincount(group)[:, None])[group]
    return centred


def _worth_it(fit: _Fit, scatter: np.ndarray) -> bool:
    """Tell whether the correction of the newest frame stands out from the scatter."""
    shift, turn = float(np.linalg.norm(fit.shift)), float(rotation_angle(fit.R))
    stretched = abs(math.log(fit.scale)) > _SIGNIFICANT * max(fit.scale_sigma, 1e-3)
    asked = np.array([shift, turn]) > np.maximum(_SIGNIFICANT * scatter, 1e-6)
    return bool(asked.any() or stretched)


def edge_fits(edge: Edge, source: HeldPose, target: HeldPose, variance: Sequence[float]) -> bool:
    """Tell whether an edge says what the poses of its frames say."""
    T_edge = edge.T_source_target
    R = source.T_world_camera[:3, :3]
    lever = target.scale * (R @ T_edge[:3, 3])
    shift = target.T_world_camera[:3, 3] - source.T_world_camera[:3, 3] - lever
    turn = rotation_angle((R @ T_edge[:3, :3]).T @ target.T_world_camera[:3, :3])
    sigma_shift, sigma_turn = np.sqrt(variance)
    return bool(
        np.linalg.norm(shift)
        <= max(_AGREE_SIGMAS * sigma_shift, _SLACK_LENGTH * np.linalg.norm(lever))
        and turn <= max(_AGREE_SIGMAS * sigma_turn, _SLACK_RAD)
    )


def edge_to_anchor(edge: FarEdge, scale: float) -> np.ndarray:
    """Return (4, 4) ``S_source_anchor``: the edge, taken on to the keyframe that stays.

    :param scale: length of the frame's unit in that of the source.
    """
    S_source_frame = similarity(edge.T_source_frame, scale)
    S_source_frame[:3, 3] *= scale
    return S_source_frame @ inverse_similarity(edge.S_anchor_frame)


def sigmas_at_source(edge: FarEdge, scatter: np.ndarray, scale_sigma: float) -> np.ndarray:
    """Return (7,) standard deviations of an edge for the pose graph, in its frame's unit."""
    length = float(np.linalg.norm(edge.T_source_frame[:3, 3]))
    translation = math.hypot(max(edge.sigmas[0], scatter[0]), scale_sigma * length)
    return np.array([max(edge.sigmas[1], scatter[1])] * 3 + [translation] * 3 + [scale_sigma])
