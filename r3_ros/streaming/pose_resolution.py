"""The pose of a frame from its edges to frames whose poses are known.

Each edge gives a candidate ``T_world_frame = T_world_i @ T_i_frame``. Camera centres are averaged
(the error of a world-to-camera translation grows with the distance from the origin), rotations by
the top eigenvector. A few rounds of reweighting reduce outliers. The spread of the candidates
becomes the covariance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial.transform import Rotation

from ..core.config import CovarianceConfig
from ..core.datatypes import Edge
from ..core.geometry import (
    inverse,
    mean_quat,
    quat_angle,
    quat_xyzw,
    rotation_angle,
    similarity,
    T_from_quat,
)

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
#: Smallest standard deviations: a covariance is never zero.
_FLOOR_TRANSLATION = 1e-4
_FLOOR_ROTATION_RAD = 1e-4
_MIN_RATIO = 1e-3
#: Largest deviation of an edge from a rigid motion (single precision is well inside).
_RIGID_TOLERANCE = 1e-3
#: Variance of an unknown quantity, as in ROS messages.
UNKNOWN_VARIANCE = 1e6


@dataclass(frozen=True, eq=False)
class HeldPose:
    """Pose and accumulated uncertainty of a frame that later frames may refer to.

    :ivar T_world_camera: (4, 4) float64, read-only: estimates and snapshots share it.
    :ivar variance_translation: of each axis, map units squared.
    :ivar variance_rotation: of each axis, radians squared.
    :ivar scale: length of the predictor's unit at this frame, in map units: 1 until loop closure
        shows that the unit has drifted.
    """

    T_world_camera: np.ndarray
    variance_translation: float = 0.0
    variance_rotation: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        self.T_world_camera.setflags(write=False)

    @property
    def variances(self) -> np.ndarray:
        return np.array([self.variance_translation, self.variance_rotation])

    @cached_property
    def S_world_camera(self) -> np.ndarray:
        """Takes points in the frame's own unit to the world."""
        if self.scale == 1.0:
            return self.T_world_camera
        S = similarity(self.T_world_camera, self.scale)
        S.setflags(write=False)
        return S


@dataclass(frozen=True, eq=False)
class ResolvedPose:
    """The pose of a frame and its uncertainty.

    :ivar spread: (6, 6) weighted covariance of the candidates alone, x y z rx ry rz in the
        camera frame; all zero for a single candidate.
    :ivar edge_variance: of translation and rotation, map units squared and radians squared: the
        share of the edges themselves, without their sources'.
    """

    held: HeldPose
    spread: np.ndarray
    edge_variance: tuple[float, float] = (0.0, 0.0)

    @property
    def covariance(self) -> np.ndarray:
        """The (6, 6) covariance: accumulated along the edges, plus the spread."""
        return _isotropic(self.held.variances) + self.spread


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
        return None if self.pose is None else self.pose.held.T_world_camera


def edge_sigmas(
    lengths: np.ndarray, angles: np.ndarray, ratios: np.ndarray, config: CovarianceConfig
) -> np.ndarray:
    """Return the (N, 2) standard deviations of edges, of translation and rotation.

    A share of length and angle at nominal score, growing as the score falls.

    :param ratios: (N, 2) confidences over the score of a nominal edge.
    """
    scales = np.array([config.translation_scale, config.rotation_scale])
    floors = np.array([_FLOOR_TRANSLATION, _FLOOR_ROTATION_RAD])
    extent = np.stack([lengths, angles], axis=1)
    return np.sqrt(((scales * extent) ** 2 + floors**2) / np.maximum(ratios, _MIN_RATIO))


@dataclass(frozen=True)
class EdgeNoise:
    """From confidences to standard deviations: a heuristic.

    :ivar reference: score of a nominal edge.
    """

    reference: float
    config: CovarianceConfig

    def sigmas(self, T_edges: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Return the (N, 2) standard deviations of (N, 4, 4) edges with (N, 2) confidences."""
        lengths = np.linalg.norm(T_edges[:, :3, 3], axis=1)
        angles = rotation_angle(T_edges[:, :3, :3])
        return edge_sigmas(lengths, angles, scores / self.reference, self.config)

    def sigmas_of(self, edges: Sequence[Edge]) -> np.ndarray:
        """Return the (N, 2) standard deviations of edges, in the unit of their targets."""
        return self.sigmas(*stacked(edges))


def stacked(edges: Sequence[Edge]) -> tuple[np.ndarray, np.ndarray]:
    """Return the (N, 4, 4) motions of edges, and their (N, 2) confidences."""
    T_edges = np.array([edge.T_source_target for edge in edges])
    scores = np.array([edge.scores for edge in edges])
    return T_edges, scores


def usable_edges(edges: Iterable[Edge], held: Mapping[int, HeldPose]) -> list[Edge]:
    """Return the edges from held frames that are rigid motions with finite confidences >= 0."""
    known = [edge for edge in edges if edge.source_id in held]
    if not known:
        return []
    T, scores = stacked(known)
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
    noise: EdgeNoise,
    scale: float | None = None,
) -> ResolvedPose | None:
    """Return the pose of the edges' common target, or None without an edge.

    :param edges: into one frame, all of them usable (:func:`usable_edges`).
    :param scale: of the target; None for the mean of its sources'. Edges are in its unit.
    """
    if not edges:
        return None
    T_edges, scores = stacked(edges)
    T_sources = np.array([held[edge.source_id].T_world_camera for edge in edges])
    scores = np.clip(scores, 1e-9, 1e9)
    if scale is None:
        scale = _mean_scale([held[edge.source_id].scale for edge in edges], scores[:, 0])
    T_edges[:, :3, 3] *= scale
    candidates = T_sources @ T_edges
    centres, quats = candidates[:, :3, 3], quat_xyzw(candidates)
    centre, quat, weights = robust_average(centres, quats, scores)
    T = T_from_quat(centre, quat)
    edge_variances = noise.sigmas(T_edges, scores) ** 2
    # Accumulates along a chain of new frames, and shrinks when a well-known frame is a source.
    source_variances = np.array([held[edge.source_id].variances for edge in edges])
    translation, rotation = (weights * (source_variances + edge_variances)).sum(axis=0)
    of_edges = (weights * edge_variances).sum(axis=0)
    return ResolvedPose(
        HeldPose(T, float(translation), float(rotation), scale),
        _spread(centres, quats, T, weights),
        (float(of_edges[0]), float(of_edges[1])),
    )


def _mean_scale(scales: Sequence[float], weights: np.ndarray) -> float:
    """Return the weighted geometric mean; exactly 1 where all are."""
    if all(scale == 1.0 for scale in scales):
        return 1.0
    return float(np.exp(np.average(np.log(scales), weights=weights)))


def robust_average(
    centres: np.ndarray, quats: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the weighted mean of poses and the final weights, small for outliers.

    :param centres: (N, 3) float64 camera centres in the world.
    :param quats: (N, 4) float64 unit quaternions ``xyzw``, of any sign.
    :param scores: (N, 2) > 0, weight of each candidate's centre and rotation.
    :returns: (3,) centre, (4,) quaternion, (N, 2) final weights that sum to one each.
    """
    weights = scores / scores.sum(axis=0)
    centre, quat = weights[:, 0] @ centres, mean_quat(quats, weights[:, 1])
    for _ in range(_ROBUST_ROUNDS if len(centres) > 2 else 0):
        shift, turn = np.linalg.norm(centres - centre, axis=1), quat_angle(quats, quat)
        of_centres = _huber_factors(shift, scores[:, 0], _SAME_CENTRE)
        of_rotations = _huber_factors(turn, scores[:, 1], _SAME_ROTATION_RAD)
        factors = np.stack([of_centres, of_rotations], axis=1)
        if (factors == 1.0).all():
            break
        weights = scores * factors
        weights /= weights.sum(axis=0)
        centre, quat = weights[:, 0] @ centres, mean_quat(quats, weights[:, 1])
    return centre, quat, weights


def _huber_factors(residuals: np.ndarray, scores: np.ndarray, same: float) -> np.ndarray:
    """Return the factors on the weights: 1 near the mean, falling far from it.

    :param same: residuals below this are rounding.
    """
    sigma = weighted_median(residuals, scores) * _MEDIAN_TO_SIGMA
    bound = _HUBER * max(sigma, same)
    # Huber's weight squared: falls as 1/r^2, so a candidate pulls less the farther it is.
    return np.minimum(1.0, bound / np.maximum(residuals, same)) ** 2


def weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the lower weighted median of (N,) values."""
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


def reported_covariance(
    resolved: ResolvedPose | None, provisional: bool, first: bool
) -> np.ndarray | None:
    """Return the (6, 6) covariance to report; a provisional pose has an unknown position."""
    if resolved is None:
        return None
    if first:
        return np.diag([1e-12] * 6)
    return _without_position(resolved.covariance) if provisional else resolved.covariance


def step_covariance(
    previous_id: int | None,
    edges: Sequence[Edge],
    resolved: ResolvedPose,
    held: Mapping[int, HeldPose],
    noise: EdgeNoise,
    provisional: bool,
) -> np.ndarray | None:
    """Return the covariance of the motion from an earlier frame to one that was just resolved.

    With an edge between the two: that edge's variance, plus the square of the difference between
    it and the motion between their poses. Without one: twice the variance of edges such as these,
    plus the difference of the poses' variances. Neither grows with the length of the trajectory.

    :param previous_id: the earlier frame, None if there is none.
    :param edges: that the pose follows from.
    :param provisional: the predictor has no geometry yet, so the translation is unknown.
    :returns: (6, 6) of a small motion ``exp(xi)`` in the new frame's camera,
        ``T_true = T_previous_camera @ exp(xi)``, map units and radians, order x y z rx ry rz.
        None if the earlier frame is not held.
    """
    previous = None if previous_id is None else held.get(previous_id)
    if previous is None:
        return None
    own = resolved.held
    direct = next((edge for edge in edges if edge.source_id == previous_id), None)
    if direct is None:
        grown = np.abs(own.variances - previous.variances)
        covariance = _isotropic(2.0 * np.array(resolved.edge_variance) + grown) + resolved.spread
    else:
        covariance = _direct_covariance(direct, previous, own, noise)
    return _without_position(covariance) if provisional else covariance


def _direct_covariance(
    edge: Edge, source: HeldPose, target: HeldPose, noise: EdgeNoise
) -> np.ndarray:
    """Return the (6, 6) covariance of the motion along an edge, in the target's camera frame."""
    T_edges, scores = stacked([edge])
    T_edges[:, :3, 3] *= target.scale
    (variances,) = noise.sigmas(T_edges, scores) ** 2
    T_target_edge = inverse(target.T_world_camera) @ source.T_world_camera @ T_edges[0]
    turn = Rotation.from_matrix(T_target_edge[:3, :3]).as_rotvec()
    off = np.concatenate([T_target_edge[:3, 3], turn])
    return _isotropic(variances) + np.outer(off, off)


def _isotropic(variances: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.diag(np.repeat(variances, 3))


def _without_position(covariance: np.ndarray) -> np.ndarray:
    covariance = covariance.copy()
    covariance[:3, :] = covariance[:, :3] = 0.0
    covariance[:3, :3] = UNKNOWN_VARIANCE * np.eye(3)
    return covariance
