"""Bundle adjustment of poses and landmarks by a dense Schur complement.

With twenty cameras and two thousand points the camera-point block fits into a dense matrix, so
that eliminating the points is one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from .pinhole import project
from .pnp import exp_se3, HUBER_PX, pose_jacobian

#: The focal length changes by at most this share in an iteration; a smaller change is none.
MOST_ZOOM = 0.15
SAME_FOCAL = 1e-3


@dataclass(frozen=True)
class BundleProblem:
    """Cameras, points and observations.

    :ivar T_camera_world: (C, 4, 4); the first ``free_count`` of them move.
    :ivar points: (P, 3) in the world.
    :ivar camera: (M,) camera of each observation; ``point``: (M,) its point, once per camera.
    :ivar rays: (M, 2) observed rays.
    :ivar focal: pixels per unit of a ray.
    :ivar focal_prior: mean and standard deviation of a factor on the focal length, which is then
        estimated too; None if the focal length is known.
    """

    T_camera_world: np.ndarray
    free_count: int
    points: np.ndarray
    camera: np.ndarray
    point: np.ndarray
    rays: np.ndarray
    focal: float
    focal_prior: tuple[float, float] | None = None


@dataclass(frozen=True)
class BundleResult:
    """The result of :func:`adjust`.

    :ivar error_px: (M,) reprojection error of each observation after the adjustment.
    :ivar relative_sigma: (P,) standard deviation of each point along its ray over its depth in
        the camera that saw it first, for one pixel of noise and exact cameras.
    :ivar focal_factor: the estimated focal length over the given one.
    :ivar focal_sigma: standard deviation of that factor with poses and points unknown too, for one
        pixel of noise; 0 if the focal length is known.
    """

    T_camera_world: np.ndarray
    points: np.ndarray
    error_px: np.ndarray
    relative_sigma: np.ndarray
    focal_factor: float
    focal_sigma: float


class _Linearisation:
    """Residuals, Jacobians and normal equations at one state."""

    def __init__(self, adjuster: _Adjuster, state: _State):
        p, n_free = adjuster.problem, adjuster.problem.free_count
        T, points, factor = state.T_camera_world, state.points, state.focal_factor
        R = T[p.camera, :3, :3]
        in_camera = np.einsum('mij,mj->mi', R, points[p.point]) + T[p.camera, :3, 3]
        rays, weight, _ = adjuster.residuals(in_camera, factor)
        residual = rays * factor - p.rays
        root = np.sqrt(weight)[:, None]
        safe = np.where(in_camera[:, 2:] > 1e-6, in_camera, (0.0, 0.0, 1.0))
        J_camera = pose_jacobian(safe) * (factor * root[:, :, None])
        # A point moving by d in the world moves by R d in the camera.
        J_point = J_camera[:, :, :3] @ R
        r = residual * root
        self.V = (adjuster.by_point @ _outer(J_point, J_point)).reshape(-1, 3, 3)
        self.b_point = adjuster.by_point @ np.einsum('mij,mi->mj', J_point, r)
        free = adjuster.free
        Jf = J_camera[free]
        self.U = (adjuster.by_camera @ _outer(Jf, Jf)).reshape(n_free, 6, 6)
        self.b_camera = adjuster.by_camera @ np.einsum('mij,mi->mj', Jf, r[free])
        # (6 C, P, 3): the Schur complement is one matrix product. The focal factor is last.
        unknowns = n_free * 6 + (p.focal_prior is not None)
        self.W = np.zeros((unknowns, len(points), 3))
        block = _outer(Jf, J_point[free]).reshape(-1, 6, 3)
        rows = p.camera[free][:, None] * 6 + np.arange(6)
        self.W[rows, p.point[free][:, None]] = block
        self.A = np.zeros((self.W.shape[0],) * 2)
        for c in range(n_free):
            self.A[c * 6 : c * 6 + 6, c * 6 : c * 6 + 6] = self.U[c]
        self.b = self.b_camera.reshape(-1)
        if p.focal_prior is not None:
            self._add_focal(adjuster, J_camera, J_point, rays * root, r)
            mean, sigma = p.focal_prior
            self.A[-1, -1] += sigma**-2
            self.b[-1] += (factor - mean) * sigma**-2

    def _add_focal(
        self,
        adjuster: _Adjuster,
        J_camera: np.ndarray,
        J_point: np.ndarray,
        J_focal: np.ndarray,
        r: np.ndarray,
    ) -> None:
        """Append the focal factor as the last unknown of the camera block."""
        free = adjuster.free
        cross = adjuster.by_camera @ np.einsum('mij,mi->mj', J_camera[free], J_focal[free])
        self.A[-1, :-1] = self.A[:-1, -1] = cross.reshape(-1)
        self.A[-1, -1] = float((J_focal * J_focal).sum())
        self.W[-1] = adjuster.by_point @ np.einsum('mij,mi->mj', J_point, J_focal)
        self.b = np.append(self.b, float((J_focal * r).sum()))

    def solve(self, damping: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the damped steps of the cameras and points."""
        reduced, WV, V_inv = self._without_points(damping)
        step = -np.linalg.solve(reduced, self.b - WV @ self.b_point.reshape(-1))
        back = self.b_point + (step @ self.W.reshape(len(step), WV.shape[1])).reshape(-1, 3)
        return step, -np.einsum('pjk,pk->pj', V_inv, back)

    def focal_sigma(self) -> float:
        """Return the standard deviation of the focal factor, the last unknown."""
        # The little damping holds the scale, on which the focal factor does not depend.
        reduced, _, _ = self._without_points(1e-9)
        last = np.zeros(len(reduced))
        last[-1] = 1.0
        return float(np.sqrt(np.linalg.solve(reduced, last)[-1]))

    def _without_points(self, damping: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the damped Schur complement, ``W V^-1`` and ``V^-1``."""
        V_inv = _inverse_3x3(_damped(self.V, damping))
        A = self.A.copy()
        diagonal = np.diag_indices(len(A))
        A[diagonal] += damping * A[diagonal] + 1e-12
        points = self.W.shape[1]
        W = self.W.reshape(len(A), points * 3)
        # Point by point: twice as fast as unknown by unknown.
        WV = np.swapaxes(np.swapaxes(self.W, 0, 1) @ V_inv, 0, 1).reshape(W.shape)
        reduced = A - WV @ W.T
        return reduced, WV, V_inv


class _Adjuster:
    """The parts of the computation that are the same in every step."""

    def __init__(self, problem: BundleProblem):
        p = self.problem = problem
        count = len(p.camera)
        self.free = np.flatnonzero(p.camera < p.free_count)
        self.by_point = sparse.csr_matrix(
            (np.ones(count), (p.point, np.arange(count))), (len(p.points), count)
        )
        self.by_camera = sparse.csr_matrix(
            (np.ones(len(self.free)), (p.camera[self.free], np.arange(len(self.free)))),
            (p.free_count, len(self.free)),
        )

    def residuals(
        self, in_camera: np.ndarray, factor: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rays at focal factor 1, weights (in 1 / pixel^2 of ray) and errors in pixels."""
        p = self.problem
        rays, depth = project(in_camera)
        error_px = np.linalg.norm(rays * factor - p.rays, axis=1) * p.focal
        robust = np.minimum(1.0, HUBER_PX / np.maximum(error_px, 1e-12))
        front = depth > 1e-6
        return rays, robust * front * p.focal**2, np.where(front, error_px, np.inf)

    def error_px(self, state: _State) -> np.ndarray:
        """Return the (M,) errors at a state."""
        p, T = self.problem, state.T_camera_world
        in_camera = np.einsum('mij,mj->mi', T[p.camera, :3, :3], state.points[p.point])
        return self.residuals(in_camera + T[p.camera, :3, 3], state.focal_factor)[2]


@dataclass(frozen=True)
class _State:
    """What is adjusted."""

    T_camera_world: np.ndarray
    points: np.ndarray
    focal_factor: float


def adjust(problem: BundleProblem, iterations: int = 6, least_gain: float = 1e-4) -> BundleResult:
    """Minimise Huber's loss of the reprojection errors by Levenberg-Marquardt.

    :param least_gain: end when a step reduces the loss by less than this share.
    """
    adjuster = _Adjuster(problem)
    zooms = problem.focal_prior is not None
    known = _Adjuster(replace(problem, focal_prior=None)) if zooms else adjuster
    state = _State(problem.T_camera_world.copy(), problem.points.copy(), 1.0)
    error = adjuster.error_px(state)
    cost, damping = _cost(problem, error, state), 1e-4
    for _ in range(iterations):
        linear = _Linearisation(adjuster, state)
        improved = False
        for _ in range(4):
            new = _moved(state, *linear.solve(damping), problem)
            if zooms:
                # Poses and points follow: they are far from linear in the focal length.
                new = _moved(new, *_Linearisation(known, new).solve(damping), known.problem)
            new_error = adjuster.error_px(new)
            new_cost = _cost(problem, new_error, new)
            if new_cost < cost:
                improved = True
                break
            damping *= 10.0
        if not improved:
            break
        gain = (cost - new_cost) / max(cost, 1e-12)
        zoomed = abs(new.focal_factor / state.focal_factor - 1.0)
        state, error, cost = new, new_error, new_cost
        damping = max(damping * 0.1, 1e-9)
        if gain < least_gain and zoomed < SAME_FOCAL:
            break
    sigma = _Linearisation(adjuster, state).focal_sigma() if zooms else 0.0
    T, points, factor = state.T_camera_world, state.points, state.focal_factor
    return BundleResult(T, points, error, _relative_sigma(adjuster, T, points), factor, sigma)


def _moved(
    state: _State, step: np.ndarray, point_step: np.ndarray, problem: BundleProblem
) -> _State:
    """Apply a step of the cameras, of the focal factor if it is unknown, and of the points."""
    n, factor = problem.free_count, state.focal_factor
    if problem.focal_prior is not None:
        share = min(1.0, MOST_ZOOM * factor / max(abs(float(step[-1])), 1e-12))
        step, point_step = share * step, share * point_step
        factor += float(step[-1])
    moved = state.T_camera_world.copy()
    if n:
        moved[:n] = exp_se3(step[: 6 * n].reshape(n, 6)) @ moved[:n]
    return _State(moved, state.points + point_step, factor)


def _cost(problem: BundleProblem, error_px: np.ndarray, state: _State) -> float:
    """Return Huber's loss and that of the prior; a point behind its camera counts 100 pixels."""
    e = np.minimum(error_px, 100.0)
    cost = np.where(e < HUBER_PX, 0.5 * e * e, HUBER_PX * (e - 0.5 * HUBER_PX)).sum()
    if problem.focal_prior is not None:
        mean, sigma = problem.focal_prior
        cost += 0.5 * ((state.focal_factor - mean) / sigma) ** 2
    return float(cost)


def _relative_sigma(adjuster: _Adjuster, T: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return ``BundleResult.relative_sigma``, from all observations of each point."""
    p = adjuster.problem
    R = T[p.camera, :3, :3]
    in_camera = np.einsum('mij,mj->mi', R, points[p.point]) + T[p.camera, :3, 3]
    safe = np.where(in_camera[:, 2:] > 1e-6, in_camera, (0.0, 0.0, 1.0))
    J = pose_jacobian(safe)[:, :, :3] @ R * p.focal
    V = (adjuster.by_point @ _outer(J, J)).reshape(-1, 3, 3)
    covariance = _inverse_3x3(_damped(V, 1e-9))
    first = np.full(len(points), -1)
    first[p.point[::-1]] = np.arange(len(p.point))[::-1]
    seen = first >= 0
    sigma = np.full(len(points), np.inf)
    ray = np.einsum('mji,mj->mi', R[first[seen]], safe[first[seen]])
    length = np.linalg.norm(ray, axis=1)
    ray /= length[:, None]
    along = np.einsum('pi,pij,pj->p', ray, covariance[seen], ray)
    sigma[seen] = np.sqrt(np.maximum(along, 0.0)) / length
    return sigma


def _outer(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the flattened (M, i * j) products ``a^T b`` of (M, 2, i) and (M, 2, j)."""
    return (np.swapaxes(a, 1, 2) @ b).reshape(len(a), a.shape[2] * b.shape[2])


def _damped(V: np.ndarray, damping: float) -> np.ndarray:
    V = V.copy()
    diagonal = np.einsum('pii->pi', V)
    diagonal += damping * diagonal + 1e-9 * diagonal.max(axis=1, keepdims=True) + 1e-12
    return V


def _inverse_3x3(V: np.ndarray) -> np.ndarray:
    """Return the inverses of (P, 3, 3) symmetric matrices by cofactors."""
    a, b, c = V[:, 0, 0], V[:, 0, 1], V[:, 0, 2]
    d, e, f = V[:, 1, 1], V[:, 1, 2], V[:, 2, 2]
    A, B, C = d * f - e * e, c * e - b * f, b * e - c * d
    determinant = a * A + b * B + c * C
    scale = 1.0 / np.where(np.abs(determinant) > 1e-300, determinant, 1e-300)
    inverse = np.empty_like(V)
    inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 0, 2] = A, B, C
    inverse[:, 1, 0], inverse[:, 2, 0] = B, C
    inverse[:, 1, 1], inverse[:, 2, 2] = a * f - c * c, a * d - b * b
    inverse[:, 1, 2] = inverse[:, 2, 1] = b * c - a * e
    return inverse * scale[:, None, None]
