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
#: Rows and columns of the lower triangle of a (3, 3) matrix, row by row.
_LOWER = np.tril_indices(3)


@dataclass(frozen=True)
class BundleProblem:
    """Cameras, points and observations.

    :ivar T_camera_world: (C, 4, 4); the first ``free_count`` of them move.
    :ivar points: (P, 3) in the world.
    :ivar camera: (M,) camera of each observation, those of one camera next to each other;
        ``point``: (M,) its point, once per camera.
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
    """Residuals, Jacobians and normal equations at one state.

    Everything that there is one of per observation is stored component by component, and those of
    one camera lie together: NumPy and BLAS are fast along long rows only.
    """

    def __init__(self, adjuster: _Adjuster, state: _State):
        self._adjuster = adjuster
        p, factor = adjuster.problem, state.focal_factor
        in_camera = adjuster.in_camera(state)
        rays, weight, _ = adjuster.residuals(in_camera, factor)
        root = np.sqrt(weight)
        residual = ((rays * factor - p.rays) * root[:, None]).T
        J_camera = factor * root * _pose_jacobian(in_camera)
        self._J_point = adjuster.by_camera_rotation(J_camera[:, :3], state)
        self._J_camera = J_camera
        self._V, self._b_point = adjuster.of_points(self._J_point, residual)
        unknowns = adjuster.unknowns
        self._A, self._b = np.zeros((unknowns, unknowns)), np.zeros(unknowns)
        for own, rows in adjuster.free:
            for J, r in zip(J_camera[:, :, rows], residual[:, rows], strict=True):
                self._A[own, own] += J @ J.T
                self._b[own] += J @ r
        if p.focal_prior is not None:
            self._add_focal((rays * root[:, None]).T, residual)
            mean, sigma = p.focal_prior
            self._A[-1, -1] += sigma**-2
            self._b[-1] += (factor - mean) * sigma**-2

    def _add_focal(self, J_focal: np.ndarray, residual: np.ndarray) -> None:
        """Append the focal factor as the last unknown of the camera block."""
        for own, rows in self._adjuster.free:
            for J, f in zip(self._J_camera[:, :, rows], J_focal[:, rows], strict=True):
                self._A[own, -1] += J @ f
        self._A[-1, :-1] = self._A[:-1, -1]
        self._A[-1, -1] = float((J_focal * J_focal).sum())
        _, self._W_focal = self._adjuster.of_points(self._J_point, J_focal)
        self._b[-1] = float((J_focal * residual).sum())

    def solve(self, damping: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the damped steps of the cameras and points."""
        reduced, Y, G_inv = self._without_points(damping)
        b_point = _times(G_inv, self._b_point)
        step = -np.linalg.solve(reduced, self._b - Y @ b_point.reshape(-1))
        back = b_point + (step @ Y).reshape(b_point.shape)
        return step, -_times_transposed(G_inv, back).T

    def focal_sigma(self) -> float:
        """Return the standard deviation of the focal factor, the last unknown."""
        # The little damping holds the scale, on which the focal factor does not depend.
        reduced, _, _ = self._without_points(1e-9)
        last = np.zeros(len(reduced))
        last[-1] = 1.0
        return float(np.sqrt(np.linalg.solve(reduced, last)[-1]))

    def _without_points(self, damping: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the damped Schur complement ``A - W V^-1 W^T``, and two factors.

        With ``V = G G^T``: ``Y = W G^-T``, (unknowns, 3 P), and ``G^-1`` as of
        :func:`_inverse_root`. The complement is then ``A - Y Y^T``.
        """
        point = self._adjuster.problem.point
        G_inv = _inverse_root(self._V, damping)
        J_point = _times(G_inv[:, point], self._J_point.swapaxes(0, 1)).swapaxes(0, 1)
        # The same places are filled each time.
        Y = self._adjuster.Y
        for own, rows in self._adjuster.free:
            J, J_own = self._J_camera[:, :, rows], J_point[:, :, rows]
            Y[own, :, point[rows]] = J[0, :, None] * J_own[0] + J[1, :, None] * J_own[1]
        if self._adjuster.problem.focal_prior is not None:
            Y[-1] = _times(G_inv, self._W_focal)
        A = self._A.copy()
        diagonal = np.diag_indices(len(A))
        A[diagonal] += damping * A[diagonal] + 1e-12
        flat = Y.reshape(len(Y), 3 * Y.shape[2])
        return A - flat @ flat.T, flat, G_inv


class _Adjuster:
    """The parts of the computation that are the same in every step.

    :ivar free: of each free camera the place of its unknowns, and its observations.
    :ivar Y: (unknowns, 3, P) work space, zero where a camera did not see a point.
    """

    def __init__(self, problem: BundleProblem):
        p = self.problem = problem
        count = len(p.camera)
        starts = np.flatnonzero(np.diff(p.camera, prepend=-1))
        ends = np.append(starts[1:], count)
        self._rows = [
            (int(p.camera[start]), slice(start, end))
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ]
        self.free = [(slice(6 * c, 6 * c + 6), rows) for c, rows in self._rows if c < p.free_count]
        self._by_point = sparse.csr_matrix(
            (np.ones(count), (p.point, np.arange(count))), (len(p.points), count)
        )
        # The focal factor is last.
        self.unknowns = 6 * p.free_count + (p.focal_prior is not None)
        self.Y = np.zeros((self.unknowns, 3, len(p.points)))

    def in_camera(self, state: _State) -> np.ndarray:
        """Return the (3, M) observed points in the frames of their cameras."""
        found = np.empty((3, len(self.problem.point)))
        for c, rows in self._rows:
            T = state.T_camera_world[c]
            points = state.points[self.problem.point[rows]]
            found[:, rows] = T[:3, :3] @ points.T + T[:3, 3:]
        return found

    def by_camera_rotation(self, J: np.ndarray, state: _State) -> np.ndarray:
        """Return the (2, 3, M) derivatives of a point's world axes for (2, 3, M) of its camera's.

        A point moving by d in the world moves by R d in the camera.
        """
        turned = np.empty(J.shape)
        for c, rows in self._rows:
            turned[:, :, rows] = state.T_camera_world[c, :3, :3].T @ J[:, :, rows]
        return turned

    def of_points(self, J: np.ndarray, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return sums over the observations of each point: (6, P) ``J^T J``, (3, P) ``J^T r``.

        :param J: (2, 3, M), with ``residual`` (2, M). Of ``J^T J`` the lower triangle, by rows.
        """
        row, column = _LOWER
        terms = np.concatenate([J[:, row] * J[:, column], J * residual[:, None]], axis=1)
        sums = np.ascontiguousarray((self._by_point @ (terms[0] + terms[1]).T).T)
        return sums[:6], sums[6:]

    def residuals(
        self, in_camera: np.ndarray, factor: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rays at focal factor 1, weights (in 1 / pixel^2 of ray) and errors in pixels.

        :param in_camera: (3, M).
        """
        p = self.problem
        rays, depth = project(in_camera.T)
        error_px = np.linalg.norm(rays * factor - p.rays, axis=1) * p.focal
        robust = np.minimum(1.0, HUBER_PX / np.maximum(error_px, 1e-12))
        front = depth > 1e-6
        return rays, robust * front * p.focal**2, np.where(front, error_px, np.inf)

    def error_px(self, state: _State) -> np.ndarray:
        """Return the (M,) errors at a state."""
        return self.residuals(self.in_camera(state), state.focal_factor)[2]


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
    return BundleResult(T, points, error, _relative_sigma(adjuster, state), factor, sigma)


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


def _relative_sigma(adjuster: _Adjuster, state: _State) -> np.ndarray:
    """Return ``BundleResult.relative_sigma``, from all observations of each point."""
    p = adjuster.problem
    in_camera = adjuster.in_camera(state)
    J = adjuster.by_camera_rotation(p.focal * _pose_jacobian(in_camera)[:, :3], state)
    V, _ = adjuster.of_points(J, np.zeros(J[:, 0].shape))
    first = np.full(len(state.points), -1)
    first[p.point[::-1]] = np.arange(len(p.point))[::-1]
    seen = first >= 0
    R = state.T_camera_world[p.camera[first[seen]], :3, :3]
    ray = np.einsum('nji,jn->in', R, _in_front(in_camera)[:, first[seen]])
    length = np.linalg.norm(ray, axis=0)
    sigma = np.full(len(state.points), np.inf)
    # The square root of ray^T V^-1 ray.
    along = _times(_inverse_root(V[:, seen], 1e-9), ray / length)
    sigma[seen] = np.linalg.norm(along, axis=0) / length
    return sigma


def _pose_jacobian(in_camera: np.ndarray) -> np.ndarray:
    """Return (2, 6, M) derivatives of the rays of (3, M) points, see :func:`pose_jacobian`."""
    return pose_jacobian(_in_front(in_camera).T).transpose(1, 2, 0)


def _in_front(in_camera: np.ndarray) -> np.ndarray:
    """Return (3, M) points, those behind their camera replaced: their weight is zero."""
    front: np.ndarray = np.where(in_camera[2] > 1e-6, in_camera, [[0.0], [0.0], [1.0]])
    return front


def _inverse_root(V: np.ndarray, damping: float) -> np.ndarray:
    """Return ``G^-1`` with ``V = G G^T``, both as lower triangles by rows, (6, P), damped."""
    a, b, c, d, e, f = V
    least = 1e-9 * np.maximum(np.maximum(a, c), f) + 1e-12
    a, c, f = (x + (damping * x + least) for x in (a, c, f))
    a = 1.0 / np.sqrt(a)
    b, d = b * a, d * a
    c = 1.0 / np.sqrt(c - b * b)
    e = (e - d * b) * c
    f = 1.0 / np.sqrt(f - d * d - e * e)
    return np.stack([a, -b * a * c, c, (e * b * c - d) * a * f, -e * c * f, f])


def _times(G: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return ``G x`` of lower triangles (6, P) and vectors (3, ..., P)."""
    a, b, c, d, e, f = G
    return np.stack([a * x[0], b * x[0] + c * x[1], d * x[0] + e * x[1] + f * x[2]])


def _times_transposed(G: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return ``G^T x`` of lower triangles (6, P) and vectors (3, P)."""
    a, b, c, d, e, f = G
    return np.stack([a * x[0] + b * x[1] + d * x[2], c * x[1] + e * x[2], f * x[2]])
