"""The pose of a frame from its edges to frames whose poses are known.

Each edge gives a candidate ``T_world_frame = T_world_i @ T_i_frame``. Camera centres are averaged
(the error of a world-to-camera translation grows with the distance from the origin), rotations by
the top eigenvector. A few rounds of reweighting reduce outliers. The covariance is carried over
from the source that leads to the smallest one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.spatial.transform import Rotation

from ..core.datatypes import Edge
from ..core.error_model import ErrorModel
from ..core.geometry import (
    inverse,
    mean_quat,
    nearest_motion,
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
#: Candidates whose centres (map units) or rotations (radians) differ by less agree to rounding,
#: and no reweighting is due.
_SAME = 1e-9
#: Standard deviations that weigh edges in pose graphs: shares of length and angle, and the least.
_WEIGHT_SHARES = np.array([0.02, 0.01])
_WEIGHT_FLOORS = np.array([1e-4, 1e-4])
_MIN_RATIO = 1e-3
#: Largest deviation of an edge from a rigid motion (single precision is well inside).
_RIGID_TOLERANCE = 1e-3
#: Variance of an unknown quantity, as in ROS messages.
UNKNOWN_VARIANCE = 1e6


@dataclass(frozen=True, eq=False)
class HeldPose:
    """Pose and accumulated uncertainty of a frame that later frames may refer to.

    :ivar T_world_camera: (4, 4) float64, read-only: estimates and snapshots share it.
    :ivar covariance: (7, 7) float64 of a small similarity in the camera frame, order x y z
        rx ry rz and logarithm of the scale; map units and radians.
    :ivar scale: length of the predictor's unit at this frame, in map units: 1 until loop closure
        shows that the unit has drifted.
    :ivar drift: (2,) of translation and rotation: standard deviations of the edges that lead here
        from the start of the world, added up; map units and radians.
    """

    T_world_camera: np.ndarray
    covariance: np.ndarray = field(default_factory=lambda: np.zeros((7, 7)))
    scale: float = 1.0
    drift: np.ndarray = field(default_factory=lambda: np.zeros(2))

    def __post_init__(self) -> None:
        self.T_world_camera.setflags(write=False)

    @property
    def variances(self) -> np.ndarray:
        """The (2,) mean variances of an axis, of translation and rotation."""
        diagonal = self.covariance.diagonal()
        return np.array([diagonal[:3].mean(), diagonal[3:6].mean()])

    @cached_property
    def S_world_camera(self) -> np.ndarray:
        """Takes points in the frame's own unit to the world."""
        if self.scale == 1.0:
            return self.T_world_camera
        S = similarity(self.T_world_camera, self.scale)
        S.setflags(write=False)
        return S


def isotropic(variances: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the (7, 7) covariance of these variances of translation and rotation."""
    translation, rotation = variances
    return np.diag([translation] * 3 + [rotation] * 3 + [0.0])


def with_variances(covariance: np.ndarray, variances: Sequence[float]) -> np.ndarray:
    """Return a (7, 7) covariance with these mean variances, and its correlations."""
    diagonal = covariance.diagonal()
    means = np.array([diagonal[:3].mean(), diagonal[3:6].mean()])
    if not (means > 0.0).all():
        return isotropic(variances)
    factors = np.sqrt(np.asarray(variances) / means)
    by_row = np.array([factors[0]] * 3 + [factors[1]] * 3 + [min(*factors, 1.0)])
    return covariance * by_row[:, None] * by_row


@dataclass(frozen=True, eq=False)
class ResolvedPose:
    """The pose of a frame and its uncertainty.

    :ivar spread: (6, 6) weighted covariance of the candidates alone, x y z rx ry rz in the
        camera frame; all zero for a single candidate.
    :ivar edge_variance: (2,) of translation and rotation, map units squared and radians squared:
        the share of the edge that the covariance came along.
    """

    held: HeldPose
    spread: np.ndarray = field(default_factory=lambda: np.zeros((6, 6)))
    edge_variance: np.ndarray = field(default_factory=lambda: np.zeros(2))

    @property
    def covariance(self) -> np.ndarray:
        """The (6, 6) covariance: accumulated along the edges, plus the spread."""
        return self.held.covariance[:6, :6] + self.spread


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


def edge_sigmas(lengths: np.ndarray, angles: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Return the (N, 2) standard deviations that weigh edges, of translation and rotation.

    A share of length and angle at nominal score, growing as the score falls: a heuristic, for the
    weights of pose graphs and for whether edges agree. Covariances follow from the predictor's
    :class:`~r3_ros.core.error_model.ErrorModel`.

    :param ratios: (N, 2) confidences over the score of a nominal edge.
    """
    extent = np.stack([lengths, angles], axis=1)
    variances = (_WEIGHT_SHARES * extent) ** 2 + _WEIGHT_FLOORS**2
    return np.sqrt(variances / np.maximum(ratios, _MIN_RATIO))


@dataclass(frozen=True)
class EdgeNoise:
    """From edges to standard deviations.

    :ivar reference: score of a nominal edge.
    :ivar errors: of the predictor.
    """

    reference: float
    errors: ErrorModel = ErrorModel()

    def sigmas(self, T_edges: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Return the weighing (N, 2) standard deviations of (N, 4, 4) edges with their scores."""
        lengths = np.linalg.norm(T_edges[:, :3, 3], axis=1)
        angles = rotation_angle(T_edges[:, :3, :3])
        return edge_sigmas(lengths, angles, scores / self.reference)

    def sigmas_of(self, edges: Sequence[Edge]) -> np.ndarray:
        """Return the weighing (N, 2) standard deviations, in the unit of the edges' targets."""
        return self.sigmas(*stacked(edges))

    def variances_of(self, edges: Sequence[Edge]) -> np.ndarray:
        """Return the (N, 2) variances of the errors of edges, in the unit of their targets."""
        T_edges, _ = stacked(edges)
        noise = np.array([edge.noise for edge in edges])
        return self.errors.variances(self.evidence_of(edges), T_edges, noise)

    def evidence_of(self, edges: Sequence[Edge]) -> np.ndarray:
        """Return the (N, 2) evidence of edges: their own, or what their scores tell."""
        scores = np.array([edge.scores for edge in edges]).reshape(-1, 2)
        evidence = self.errors.evidence_of_scores(scores, self.reference)
        for row, edge in enumerate(edges):
            if edge.evidence is not None:
                evidence[row] = edge.evidence
        return evidence


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
    T_own, scores = stacked(edges)
    T_sources = np.array([held[edge.source_id].T_world_camera for edge in edges])
    scores = np.clip(scores, 1e-9, 1e9)
    if scale is None:
        scale = _mean_scale([held[edge.source_id].scale for edge in edges], scores[:, 0])
    T_edges = T_own.copy()
    T_edges[:, :3, 3] *= scale
    candidates = T_sources @ T_edges
    if len(edges) == 1:
        # Most poses that follow a refinement have one edge: this takes half the time.
        T, spread = nearest_motion(candidates[0]), np.zeros((6, 6))
    else:
        centres, quats = candidates[:, :3, 3], quat_xyzw(candidates)
        centre, quat, weights = robust_average(centres, quats, scores)
        T = T_from_quat(centre, quat)
        spread = _spread(centres, quats, T, quat, weights)
    errors, level = noise.errors, np.array([edge.noise for edge in edges])
    evidence = noise.evidence_of(edges)
    edge_variances = errors.variances(evidence, T_own, level) * (scale**2, 1.0)
    covariances = np.array([held[edge.source_id].covariance for edge in edges])
    carried = carried_along(covariances, T_edges, edge_variances, level, errors)
    # Errors of edges are not independent, so many are not surer than the best.
    best = int(np.argmin(volumes(carried)))
    # Errors of successive edges are added, not their squares: they come from the same surfaces
    # and depths, and have the same sign for many frames.
    drifts = np.array([held[edge.source_id].drift for edge in edges])
    drifts += errors.by_evidence(evidence, level) * (scale, 1.0)
    return ResolvedPose(
        HeldPose(T, carried[best], scale, drifts.min(axis=0)), spread, edge_variances[best]
    )


def carried_along(
    covariances: np.ndarray,
    T_edges: np.ndarray,
    variances: np.ndarray,
    noise: np.ndarray,
    errors: ErrorModel,
) -> np.ndarray:
    """Return the (N, 7, 7) covariances of the targets of edges.

    :param covariances: (N, 7, 7) of their sources, as of :class:`HeldPose`; zero of a frame that
        defines a world.
    :param variances: (N, 2) of the edges themselves.
    :param noise: (N,) of the edges.
    """
    level = noise**errors.drift_power
    rotation, scale = errors.start
    begins = ~covariances.any(axis=(1, 2))
    if begins.any():
        start = np.diag(np.square([0.0] * 3 + [rotation] * 3 + [scale]))
        covariances = covariances + (begins * noise**2)[:, None, None] * start
    R, t = np.swapaxes(T_edges[:, :3, :3], 1, 2), T_edges[:, :3, 3]
    # The adjoint of the edge's inverse: what a small similarity of the source does to the target.
    A = np.zeros((len(T_edges), 7, 7))
    A[:, :3, :3] = A[:, 3:6, 3:6] = R
    cross = np.zeros((len(t), 3, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -t[:, 2], t[:, 1], -t[:, 0]
    A[:, :3, 3:6] = R @ (np.swapaxes(cross, 1, 2) - cross)
    A[:, :3, 6] = (R @ t[:, :, None])[:, :, 0]
    A[:, 6, 6] = 1.0
    found: np.ndarray = A @ covariances @ np.swapaxes(A, 1, 2)
    grown = variances * np.square(errors.drift * level[:, None])
    diagonal = np.einsum('nii->ni', found)
    diagonal[:, :3] += grown[:, :1]
    diagonal[:, 3:6] += grown[:, 1:]
    return found


def volumes(covariances: np.ndarray) -> np.ndarray:
    """Return the (N,) logarithms of the volumes of (N, 7, 7) covariances, scale left out."""
    return np.linalg.slogdet(covariances[:, :6, :6])[1]


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
        factors = _huber_factors(np.stack([shift, turn], axis=1), scores)
        if (factors == 1.0).all():
            break
        weights = scores * factors
        weights /= weights.sum(axis=0)
        centre, quat = weights[:, 0] @ centres, mean_quat(quats, weights[:, 1])
    return centre, quat, weights


def _huber_factors(residuals: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the (N, 2) factors on the weights: 1 near the mean, falling far from it.

    :param residuals: (N, 2) of centre and rotation, with ``scores`` (N, 2).
    """
    order, both = residuals.argsort(axis=0), (0, 1)
    # The lower weighted medians.
    cumulated = scores[order, both].cumsum(axis=0)
    middle = (cumulated < 0.5 * cumulated[-1]).sum(axis=0)
    sigma = residuals[order[middle, both], both] * _MEDIAN_TO_SIGMA
    bound = _HUBER * np.maximum(sigma, _SAME)
    # Huber's weight squared: falls as 1/r^2, so a candidate pulls less the farther it is.
    factors: np.ndarray = np.minimum(1.0, bound / np.maximum(residuals, _SAME)) ** 2
    return factors


def _spread(
    centres: np.ndarray,
    quats: np.ndarray,
    T: np.ndarray,
    quat: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    """Return the (6, 6) weighted covariance of the candidates around T, in T's own frame.

    :param quat: the rotation of T.
    """
    turned_back = Rotation.from_quat(quat).inv() * Rotation.from_quat(quats)
    twist = np.concatenate([(centres - T[:3, 3]) @ T[:3, :3], turned_back.as_rotvec()], axis=1)
    weighted = twist * np.sqrt(np.repeat(weights, 3, axis=1))
    return weighted.T @ weighted


def reported_covariance(
    resolved: ResolvedPose | None, provisional: bool, first: bool
) -> np.ndarray | None:
    """Return the (6, 6) covariance to report; a provisional pose has an unknown position."""
    if resolved is None:
        return None
    covariance = np.diag([1e-12] * 6) if first else resolved.covariance
    return _without_position(covariance) if provisional else covariance


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
        covariance = isotropic(2.0 * resolved.edge_variance + grown)[:6, :6] + resolved.spread
    else:
        covariance = _direct_covariance(direct, previous, own, noise)
    return _without_position(covariance) if provisional else covariance


def _direct_covariance(
    edge: Edge, source: HeldPose, target: HeldPose, noise: EdgeNoise
) -> np.ndarray:
    """Return the (6, 6) covariance of the motion along an edge, in the target's camera frame."""
    (variances,) = noise.variances_of([edge]) * [target.scale**2, 1.0]
    T_edge = edge.T_source_target.copy()
    T_edge[:3, 3] *= target.scale
    T_target_edge = inverse(target.T_world_camera) @ source.T_world_camera @ T_edge
    turn = Rotation.from_matrix(T_target_edge[:3, :3]).as_rotvec()
    off = np.concatenate([T_target_edge[:3, 3], turn])
    return isotropic(variances)[:6, :6] + np.outer(off, off)


def _without_position(covariance: np.ndarray) -> np.ndarray:
    covariance = covariance.copy()
    covariance[:3, :] = covariance[:, :3] = 0.0
    covariance[:3, :3] = UNKNOWN_VARIANCE * np.eye(3)
    return covariance
