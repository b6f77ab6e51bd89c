"""The pose of a frame from its edges to frames whose poses are known.

Each edge gives a candidate ``T_world_frame = T_world_i @ T_i_frame``. Camera centres are
averaged, not world-to-camera translations (whose error grows with the distance from the
origin); rotations by the top eigenvector, whatever their quaternion signs; a few rounds lower
the weight of candidates far from the mean; the spread of the candidates becomes the covariance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from ..config import CovarianceConfig
from ..datatypes import Edge
from ..geometry import inverse, make_T, mean_rotation, rotation_angle
from .official import average_encodings, compose_encodings, decode_pose, encode_pose

_ROBUST_ROUNDS = 4
#: Residuals up to this many robust standard deviations keep their full weight (Huber's 1.345
#: gives 95 % efficiency on normal noise).
_HUBER = 1.345
#: Turns a median absolute deviation from zero into a standard deviation: of the length of a
#: three-dimensional normal vector (median 1.538 sigma).
_MEDIAN_TO_SIGMA = 1.0 / 1.538
#: Below these, candidates agree to rounding and no reweighting is due.
_SAME_CENTRE = 1e-9
_SAME_ROTATION_RAD = 1e-9
#: Smallest standard deviations ever claimed: a covariance is never zero.
_FLOOR_TRANSLATION = 1e-4
_FLOOR_ROTATION_RAD = 1e-4
_MIN_RATIO = 1e-3


@dataclass(frozen=True, eq=False)
class HeldPose:
    """Pose and accumulated uncertainty of a frame that later frames may refer to.

    :ivar T_world_camera: (4, 4) float64.
    :ivar variance_translation: of each axis, map units squared.
    :ivar variance_rotation: of each axis, radians squared.
    """

    T_world_camera: np.ndarray
    variance_translation: float = 0.0
    variance_rotation: float = 0.0


@dataclass(frozen=True, eq=False)
class ResolvedPose:
    """The pose of a frame and how sure it is.

    :ivar spread: (6, 6) weighted covariance of the candidates alone, x y z rx ry rz in the
        camera frame; all zero for a single candidate.
    """

    held: HeldPose
    spread: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """Return the (6, 6) covariance: accumulated along the edges, plus the spread."""
        diagonal = np.repeat([self.held.variance_translation, self.held.variance_rotation], 3)
        return np.diag(diagonal) + self.spread


def resolve_pose(
    edges: Sequence[Edge],
    held: Mapping[int, HeldPose],
    reference: float,
    config: CovarianceConfig,
    rule: str = 'robust',
) -> ResolvedPose | None:
    """Return the pose of the edges' common target, or None without a usable edge.

    :param edges: edges into one frame; those from frames not held or not finite are ignored.
    :param reference: the score of a nominal edge, for the covariance.
    :param rule: ``robust`` (see above) or ``official`` (``official.py``).
    """
    usable = [e for e in edges if e.source_id in held and np.isfinite(e.T_source_target).all()]
    if not usable:
        return None
    T_edges = np.stack([edge.T_source_target for edge in usable])
    T_sources = np.stack([held[edge.source_id].T_world_camera for edge in usable])
    scores = np.array([[e.confidence_translation, e.confidence_rotation] for e in usable])
    scores = np.clip(np.nan_to_num(scores, nan=0.0), 1e-9, 1e9)
    candidates = T_sources @ T_edges
    if rule == 'official':
        T, weights = _official_average(T_sources, T_edges, scores), scores
    else:
        T, weights = robust_average(candidates, scores)
    variance = _propagated_variance(usable, T_edges, held, weights, scores / reference, config)
    return ResolvedPose(HeldPose(T, *variance), _spread(candidates, T, weights))


def robust_average(candidates: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted mean of poses and the weights that outliers were left with.

    :param candidates: (N, 4, 4) float64 poses ``T_world_frame``.
    :param scores: (N, 2) > 0, weight of each candidate's centre and rotation.
    :returns: (4, 4) pose; (N, 2) final weights.
    """
    centres, rotations = candidates[:, :3, 3], candidates[:, :3, :3]
    weights = scores / scores.sum(axis=0)
    centre, R = _weighted_mean(centres, rotations, weights)
    for _ in range(_ROBUST_ROUNDS if len(candidates) > 2 else 0):
        residuals = np.stack(
            [
                np.linalg.norm(centres - centre, axis=1),
                rotation_angle(np.swapaxes(rotations, 1, 2) @ R),
            ],
            axis=1,
        )
        factors = np.ones_like(weights)
        for kind, same in enumerate((_SAME_CENTRE, _SAME_ROTATION_RAD)):
            sigma = _weighted_median(residuals[:, kind], scores[:, kind]) * _MEDIAN_TO_SIGMA
            if residuals[:, kind].max() > same:
                bound = _HUBER * max(sigma, same)
                # Huber's weight squared: falls as 1/r^2, so one far candidate pulls ever less
                factors[:, kind] = np.minimum(1.0, bound / np.maximum(residuals[:, kind], same))
                factors[:, kind] **= 2
        weights = scores * factors
        weights /= weights.sum(axis=0)
        centre, R = _weighted_mean(centres, rotations, weights)
    return make_T(R, centre), weights


def _weighted_mean(
    centres: np.ndarray, rotations: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if len(centres) == 1:
        return centres[0], rotations[0]
    return weights[:, 0] @ centres, mean_rotation(rotations, weights[:, 1])


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulated, 0.5 * cumulated[-1])])


def _spread(candidates: np.ndarray, T: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the (6, 6) weighted covariance of the candidates around T, in T's own frame."""
    if len(candidates) == 1:
        return np.zeros((6, 6))
    deviation = inverse(T) @ candidates  # (N, 4, 4), T_frame_candidate
    twist = np.concatenate(
        [deviation[:, :3, 3], Rotation.from_matrix(deviation[:, :3, :3]).as_rotvec()], axis=1
    )
    weighted = twist * np.sqrt(np.repeat(weights / weights.sum(axis=0), 3, axis=1))
    return weighted.T @ weighted


def _propagated_variance(
    edges: Sequence[Edge],
    T_edges: np.ndarray,
    held: Mapping[int, HeldPose],
    weights: np.ndarray,
    ratios: np.ndarray,
    config: CovarianceConfig,
) -> tuple[float, float]:
    """Return the variance of translation and rotation: the source's plus the edge's, averaged.

    An edge's standard deviation is a share of its length or angle at nominal score, and grows
    as the score falls. It accumulates along a chain of new frames and shrinks again when a
    well-known frame is in the context.
    """
    lengths = np.stack(
        [np.linalg.norm(T_edges[:, :3, 3], axis=1), rotation_angle(T_edges[:, :3, :3])], axis=1
    )
    scales = np.array([config.translation_scale, config.rotation_scale])
    floors = np.array([_FLOOR_TRANSLATION, _FLOOR_ROTATION_RAD])
    edge_variance = ((scales * lengths) ** 2 + floors**2) / np.maximum(ratios, _MIN_RATIO)
    source_variance = np.array(
        [
            (held[e.source_id].variance_translation, held[e.source_id].variance_rotation)
            for e in edges
        ]
    )
    share = weights / weights.sum(axis=0)
    translation, rotation = (share * (source_variance + edge_variance)).sum(axis=0)
    return float(translation), float(rotation)


def _official_average(
    T_sources: np.ndarray, T_edges: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    """Return the pose by the R3 authors' rule, from our conventions and back."""
    no_view = np.zeros(2)
    candidates = np.stack(
        [
            compose_encodings(
                encode_pose(inverse(T_edge), no_view), encode_pose(inverse(T_source), no_view)
            )
            for T_source, T_edge in zip(T_sources, T_edges, strict=True)
        ]
    )
    # Scores are softplus(logit); the rule weighs by softmax(logit), that is by exp(score) - 1.
    exponents = scores + np.log(-np.expm1(-scores))
    weights = np.exp(exponents - exponents.max(axis=0))
    weights /= weights.sum(axis=0)
    return inverse(decode_pose(average_encodings(candidates, weights[:, 0], weights[:, 1])))
