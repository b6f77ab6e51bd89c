"""Whether edges that contradict the present pose ask for the same correction.

One edge to an old keyframe may be a mistake. Several frames and several keyframes that ask for the
same correction show that the way here has drifted, or where another segment lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import itertools
import math

import numpy as np

from ...config import LoopConfig
from ...geometry import make_T, mean_rotation, rotation_angle
from ..similarity import rigid_part, scale_of, similarity
from .evidence import AGREE_SIGMAS, FarEdge, SLACK_LENGTH, SLACK_RAD

#: A correction is worth making if it exceeds the scatter of those who ask for it this many times.
_SIGNIFICANT = 2.0
#: Standard deviation of the logarithm of the scale all the way round a loop.
_SCALE_PRIOR = 0.3
_FIXED_SCALE = 1e-6
#: The same between two segments, each of which has a unit of its own.
_SEGMENT_SCALE_PRIOR = 1.5
#: However well it fits, a scale is not known better.
_LEAST_SCALE_SIGMA = 0.01
_ROUNDS = 5


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
    if not joining and not _is_significant(fit, scatter):
        return None
    # From lengths about the newest frame back to the world's origin.
    S = similarity(make_T(fit.R, np.zeros(3)), fit.scale)
    S[:3, 3] = said.origin + fit.shift - S[:3, :3] @ said.origin
    return Agreement(edges, S, fit.scale_sigma, scatter)


def _enough(edges: Sequence[FarEdge], config: LoopConfig) -> bool:
    """Return whether they are of enough frames and of enough keyframes."""
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
            [SLACK_LENGTH * np.linalg.norm(levers, axis=1), np.full(len(levers), SLACK_RAD)],
            axis=1,
        )
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


def _is_significant(fit: _Fit, scatter: np.ndarray) -> bool:
    """Return whether the correction of the newest frame stands out from the scatter."""
    shift, turn = float(np.linalg.norm(fit.shift)), float(rotation_angle(fit.R))
    stretched = abs(math.log(fit.scale)) > _SIGNIFICANT * max(fit.scale_sigma, 1e-3)
    asked = np.array([shift, turn]) > np.maximum(_SIGNIFICANT * scatter, 1e-6)
    return bool(asked.any() or stretched)
