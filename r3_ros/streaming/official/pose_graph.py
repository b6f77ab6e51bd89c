"""Poses that agree with all edges at once: the authors' refinement of a sequence.

Translations and quaternions of the frames move, fields of view do not. The loss and its weights
are theirs (docs/streaming.md); the minimum is found with SciPy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize

from .edge_loss import edge_loss_gradients, edge_losses

#: Added to every weight, so that none is zero.
_WEIGHT_FLOOR = 1e-4
#: Steps of L-BFGS: theirs makes ten rounds of fifteen.
_MAX_STEPS = 150
#: A start whose worst edge fits as well as this is left alone.
_PERFECT = 1e-12


@dataclass(frozen=True)
class GraphOptions:
    """Which edges and frames take part, and how much they count.

    :ivar weight_t: of the translations of all edges together; ``weight_r``: of the rotations.
    :ivar prior: pull towards the start.
    :ivar weakest_left_out: share of the edges, by mean confidence.
    :ivar fixed_stride: hold every n-th frame and the last; 0 holds the first alone.
    :ivar geman_mcclure: translation error at which that loss is half its limit; 0 takes the
        smooth L1 loss instead.
    :ivar scaling_phi: take weight off edges whose squared error is above it; 0 is off.
    :ivar longest_per_frame: leave out edges longer than this for each frame between; 0 is off,
        and so it is where no edge would be left.
    :ivar excluded: frames to hold, and to ignore the edges of.
    """

    weight_t: float = 1.0
    weight_r: float = 1.0
    prior: float = 0.01
    weakest_left_out: float = 0.0
    fixed_stride: int = 0
    geman_mcclure: float = 0.0
    scaling_phi: float = 0.0
    longest_per_frame: float = 0.0
    excluded: frozenset[int] = field(default_factory=frozenset)


#: What their command line sets.
COMMAND_LINE = GraphOptions(weight_r=0.5, prior=1e-4)


class PoseGraph:
    """The loss of a sequence of poses under its edges."""

    def __init__(
        self,
        rel: np.ndarray,
        conf_t: np.ndarray,
        conf_r: np.ndarray,
        mask: np.ndarray,
        start: np.ndarray,
        options: GraphOptions,
    ) -> None:
        """Choose the edges that count and the frames that move.

        :param rel: (N, N, 9) edges, row to column; ``conf_t``, ``conf_r``: (N, N) logits.
        :param mask: (N, N) bool, edges that exist; ``start``: (N, 9) poses.
        """
        self._options = options
        sources, targets = _chosen_edges(rel, 0.5 * (conf_t + conf_r), mask, options)
        self._sources, self._targets = sources, targets
        self._edges = rel[sources, targets, :7]
        self._weights_t = _weights(conf_t[sources, targets])
        self._weights_r = _weights(conf_r[sources, targets])
        self._start = start[:, :7].copy()
        self._start[:, 3:] /= np.linalg.norm(self._start[:, 3:], axis=1, keepdims=True)
        self._moving = np.flatnonzero(_movable(len(rel), options))

    def loss(self, poses: np.ndarray) -> float:
        """Return the loss of (N, 9) poses."""
        return self._evaluated(poses[self._moving, :7].ravel())[0]

    def solve(self) -> np.ndarray:
        """Return (N, 7) translations and unit quaternions at the minimum near the start."""
        if not len(self._sources) or not len(self._moving) or self._fits_already():
            return self._start
        first = self._start[self._moving].ravel()
        found = minimize(
            self._evaluated,
            first,
            jac=True,
            method='L-BFGS-B',
            options={'maxiter': _MAX_STEPS, 'maxcor': 30, 'ftol': 1e-12, 'gtol': 1e-7},
        )
        return self._placed(found.x)

    def _fits_already(self) -> bool:
        errors = edge_losses(self._start, self._sources, self._targets, self._edges, 0.0)
        total = self._options.weight_t * errors.t + self._options.weight_r * errors.r
        return bool(total.max() < _PERFECT)

    def _placed(self, parameters: np.ndarray) -> np.ndarray:
        poses = self._start.copy()
        moving = parameters.reshape(-1, 7).copy()
        moving[:, 3:] /= np.linalg.norm(moving[:, 3:], axis=1, keepdims=True)
        poses[self._moving] = moving
        return poses

    def _evaluated(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the loss and its gradient by the parameters of the frames that move."""
        options, poses = self._options, self._placed(parameters)
        errors = edge_losses(
            poses, self._sources, self._targets, self._edges, options.geman_mcclure
        )
        loss, by_t, by_r, by_square = 0.0, 0.0 * errors.t, 0.0 * errors.r, 0.0 * errors.t
        scale, by_scale = _scaling(errors.square + errors.r**2, options.scaling_phi)
        for weight, each, error, by_error in (
            (options.weight_t, self._weights_t, errors.t, by_t),
            (options.weight_r, self._weights_r, errors.r, by_r),
        ):
            total = (each * scale).sum()
            mean = (each * scale * error).sum() / total
            loss += weight * mean
            by_error += weight * each * scale / total
            # The weights move, too: they depend on the squared error of the edge.
            by_square += weight * each * by_scale * (error - mean) / total
        by_r += 2 * errors.r * by_square
        by_pose = edge_loss_gradients(
            errors, self._sources, self._targets, by_t, by_r, by_square, len(poses)
        )
        gradient = by_pose[self._moving]
        away = poses[self._moving] - self._start[self._moving]
        loss += options.prior * float((away**2).mean())
        gradient += 2 * options.prior * away / away.size
        return float(loss), _through_normalising(gradient, parameters.reshape(-1, 7)).ravel()


def refine_poses(
    rel: np.ndarray,
    conf_t: np.ndarray,
    conf_r: np.ndarray,
    mask: np.ndarray,
    start: np.ndarray,
    options: GraphOptions | None = None,
) -> np.ndarray:
    """Return (N, 9) poses that fit the edges better than those of the start.

    :param rel: (N, N, 9) edges, row to column; ``conf_t``, ``conf_r``: (N, N) logits.
    :param mask: (N, N) bool, edges that exist; ``start``: (N, 9) poses.
    """
    graph = PoseGraph(rel, conf_t, conf_r, mask, start, options or GraphOptions())
    return np.concatenate([graph.solve(), start[:, 7:]], axis=1)


def _chosen_edges(
    rel: np.ndarray, conf: np.ndarray, mask: np.ndarray, options: GraphOptions
) -> tuple[np.ndarray, np.ndarray]:
    sources, targets = np.nonzero(mask)
    if options.weakest_left_out > 0 and len(sources):
        weights = _weights(conf[sources, targets])
        keep = weights >= np.quantile(weights, options.weakest_left_out)
        sources, targets = sources[keep], targets[keep]
    excluded = list(options.excluded)
    keep = ~(np.isin(sources, excluded) | np.isin(targets, excluded))
    sources, targets = sources[keep], targets[keep]
    if options.longest_per_frame > 0:
        lengths = np.linalg.norm(rel[sources, targets, :3], axis=1)
        keep = lengths <= options.longest_per_frame * np.maximum(np.abs(targets - sources), 1)
        if keep.any():
            sources, targets = sources[keep], targets[keep]
    return sources, targets


def _movable(count: int, options: GraphOptions) -> np.ndarray:
    movable = np.ones(count, dtype=bool)
    movable[0] = False
    if options.fixed_stride > 0:
        movable[:: options.fixed_stride] = False
        movable[-1] = False
    movable[[i for i in options.excluded if i < count]] = False
    return movable


def _weights(logits: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, logits) + _WEIGHT_FLOOR


def _scaling(square: np.ndarray, phi: float) -> tuple[np.ndarray, np.ndarray]:
    """Return factors of the weights by the squared error, and their derivatives."""
    if phi <= 0:
        return np.ones_like(square), np.zeros_like(square)
    factor = 2 * phi / (phi + square)
    return np.minimum(factor, 1.0), np.where(factor < 1, -(factor**2) / (2 * phi), 0.0)


def _through_normalising(gradient: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Return the gradient by quaternions before they are made unit, given that by unit ones."""
    norm = np.linalg.norm(parameters[:, 3:], axis=1, keepdims=True)
    unit = parameters[:, 3:] / norm
    along = (gradient[:, 3:] * unit).sum(axis=1, keepdims=True)
    return np.concatenate([gradient[:, :3], (gradient[:, 3:] - along * unit) / norm], axis=1)
