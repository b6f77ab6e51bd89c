"""The pose of a frame from its edges to frames whose poses are known.

Each edge gives a candidate ``T_world_frame = T_world_i @ T_i_frame``. Camera centres are
averaged, not world-to-camera translations (whose error grows with the distance from the
origin); rotations by the top eigenvector, whatever their quaternion signs; a few rounds lower
the weight of candidates far from the mean; the spread of the candidates becomes the covariance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial.transform import Rotation

from ..config import CovarianceConfig
from ..datatypes import Edge
from ..geometry import mean_quat, quat_angle, quat_xyzw, rotation_angle, T_from_quat
from .similarity import similarity

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
#: A claimed motion may be off a rigid one by this much (single precision is well inside).
_RIGID_TOLERANCE = 1e-3
#: Variance of what is not known, as ROS messages write it.
_UNKNOWN_VARIANCE = 1e6


@dataclass(frozen=True, eq=False)
class HeldPose:
    """Pose and accumulated uncertainty of a frame that later frames may refer to.

    :ivar T_world_camera: (4, 4) float64, read-only: estimates and snapshots share it.
    :ivar variance_translation: of each axis, map units squared.
    :ivar variance_rotation: of each axis, radians squared.
    :ivar scale: length in the world of the unit that the predictor used at this frame: 1 until
        closing a loop shows that its unit has drifted.
    """

    T_world_camera: np.ndarray
    variance_translation: float = 0.0
    variance_rotation: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Make the pose safe to hand out."""
        self.T_world_camera.setflags(write=False)

    @cached_property
    def S_world_camera(self) -> np.ndarray:
        """The (4, 4) similarity that takes points in the frame's own unit to the world."""
        if self.scale == 1.0:
            return self.T_world_camera
        S = similarity(self.T_world_camera, self.scale)
        S.setflags(write=False)
        return S


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


@dataclass(frozen=True, eq=False)
class Resolution:
    """The pose that the edges of a frame lead to.

    :ivar edges: those that the pose follows from.
    :ivar rejected_edges: those that contradict it; together they may show a loop.
    :ivar pose: None if no edge could be used.
    """

    edges: Sequence[Edge]
    rejected_edges: Sequence[Edge]
    pose: ResolvedPose | None

    @property
    def T_world_camera(self) -> np.ndarray | None:
        """The (4, 4) pose, None without one."""
        return None if self.pose is None else self.pose.held.T_world_camera


def usable_edges(edges: Iterable[Edge], held: Mapping[int, HeldPose]) -> list[Edge]:
    """Return the edges from held frames that are rigid motions with finite confidences >= 0."""
    known = [edge for edge in edges if edge.source_id in held]
    if not known:
        return []
    T = np.array([edge.T_source_target for edge in known])
    scores = np.array([[e.confidence_translation, e.confidence_rotation] for e in known])
    usable = np.isfinite(T).all(axis=(1, 2)) & np.isfinite(scores).all(axis=1)
    usable &= (scores >= 0).all(axis=1)
    R = T[:, :3, :3]
    with np.errstate(invalid='ignore', over='ignore'):
        error = np.abs(R @ np.swapaxes(R, 1, 2) - np.eye(3)).max(axis=(1, 2))
        usable &= (error < _RIGID_TOLERANCE) & (np.linalg.det(R) > 0)
    return [edge for edge, good in zip(known, usable, strict=True) if good]


def resolve_pose(
    edges: Sequence[Edge],
    held: Mapping[int, HeldPose],
    reference: float,
    config: CovarianceConfig,
    scale: float | None = None,
) -> ResolvedPose | None:
    """Return the pose of the edges' common target, or None without an edge.

    :param edges: into one frame, all of them usable (:func:`usable_edges`).
    :param reference: the score of a nominal edge, for the covariance.
    :param scale: of the target; None for the mean of its sources'. Edges are in its unit.
    """
    if not edges:
        return None
    T_edges = np.array([edge.T_source_target for edge in edges])
    T_sources = np.array([held[edge.source_id].T_world_camera for edge in edges])
    scores = np.array([[e.confidence_translation, e.confidence_rotation] for e in edges])
    scores = np.clip(scores, 1e-9, 1e9)
    if scale is None:
        scale = _mean_scale([held[edge.source_id].scale for edge in edges], scores[:, 0])
    T_edges[:, :3, 3] *= scale
    candidates = T_sources @ T_edges
    centres, quats = candidates[:, :3, 3], quat_xyzw(candidates)
    centre, quat, weights = robust_average(centres, quats, scores)
    T = T_from_quat(centre, quat)
    variance = _propagated_variance(edges, T_edges, held, weights, scores / reference, config)
    return ResolvedPose(HeldPose(T, *variance, scale), _spread(centres, quats, T, weights))


def edge_sigmas(
    lengths: np.ndarray, angles: np.ndarray, ratios: np.ndarray, config: CovarianceConfig
) -> np.ndarray:
    """Return the (N, 2) standard deviations of edges, of translation and rotation.

    A share of its length or angle at nominal score, growing as the score falls.

    :param ratios: (N, 2) confidences over the score of a nominal edge.
    """
    scales = np.array([config.translation_scale, config.rotation_scale])
    floors = np.array([_FLOOR_TRANSLATION, _FLOOR_ROTATION_RAD])
    extent = np.stack([lengths, angles], axis=1)
    return np.sqrt(((scales * extent) ** 2 + floors**2) / np.maximum(ratios, _MIN_RATIO))


def _mean_scale(scales: Sequence[float], weights: np.ndarray) -> float:
    """Return the weighted geometric mean; exactly 1 where all are."""
    if all(scale == 1.0 for scale in scales):
        return 1.0
    return float(np.exp(np.average(np.log(scales), weights=weights)))


def robust_average(
    centres: np.ndarray, quats: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the weighted mean of poses and the weights that outliers were left with.

    :param centres: (N, 3) float64 camera centres in the world.
    :param quats: (N, 4) float64 unit quaternions ``xyzw``, of any sign.
    :param scores: (N, 2) > 0, weight of each candidate's centre and rotation.
    :returns: (3,) centre, (4,) quaternion, (N, 2) final weights that sum to one each.
    """
    weights = scores / scores.sum(axis=0)
    centre, quat = weights[:, 0] @ centres, mean_quat(quats, weights[:, 1])
    for _ in range(_ROBUST_ROUNDS if len(centres) > 2 else 0):
        factors = np.stack(
            [
                _huber_factors(
                    np.linalg.norm(centres - centre, axis=1), scores[:, 0], _SAME_CENTRE
                ),
                _huber_factors(quat_angle(quats, quat), scores[:, 1], _SAME_ROTATION_RAD),
            ],
            axis=1,
        )
        if (factors == 1.0).all():
            break
        weights = scores * factors
        weights /= weights.sum(axis=0)
        centre, quat = weights[:, 0] @ centres, mean_quat(quats, weights[:, 1])
    return centre, quat, weights


def _huber_factors(residuals: np.ndarray, scores: np.ndarray, same: float) -> np.ndarray:
    """Return what residuals leave of the weights: 1 near the mean, falling far from it.

    :param same: residuals below this are rounding.
    """
    sigma = _weighted_median(residuals, scores) * _MEDIAN_TO_SIGMA
    bound = _HUBER * max(sigma, same)
    # Huber's weight squared: falls as 1/r^2, so one far candidate pulls ever less.
    return np.minimum(1.0, bound / np.maximum(residuals, same)) ** 2


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulated, 0.5 * cumulated[-1])])


def _spread(
    centres: np.ndarray, quats: np.ndarray, T: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the (6, 6) weighted covariance of the candidates around T, in T's own frame."""
    if len(centres) == 1:
        return np.zeros((6, 6))
    turned_back = Rotation.from_matrix(T[:3, :3]).inv() * Rotation.from_quat(quats)
    twist = np.concatenate([(centres - T[:3, 3]) @ T[:3, :3], turned_back.as_rotvec()], axis=1)
    weighted = twist * np.sqrt(np.repeat(weights, 3, axis=1))
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

    It accumulates along a chain of new frames and shrinks again when a well-known frame is in
    the context.
    """
    lengths = np.linalg.norm(T_edges[:, :3, 3], axis=1)
    angles = rotation_angle(T_edges[:, :3, :3])
    edge_variance = edge_sigmas(lengths, angles, ratios, config) ** 2
    source_variance = np.array(
        [
            (held[e.source_id].variance_translation, held[e.source_id].variance_rotation)
            for e in edges
        ]
    )
    translation, rotation = (weights * (source_variance + edge_variance)).sum(axis=0)
    return float(translation), float(rotation)


def told_covariance(
    resolved: ResolvedPose | None, provisional: bool, first: bool
) -> np.ndarray | None:
    """Return the (6, 6) covariance of a pose; of a provisional one the position is unknown."""
    if resolved is None:
        return None
    covariance = resolved.covariance
    if first:
        return np.diag([1e-12] * 6)
    if provisional:
        covariance[:3, :] = covariance[:, :3] = 0.0
        covariance[:3, :3] = _UNKNOWN_VARIANCE * np.eye(3)
    return covariance
