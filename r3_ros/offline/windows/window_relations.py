"""Relative poses of the images of one window, and the poses that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...core.geometry import inverse, make_T, quat_xyzw, rotation_angle, T_from_quat
from ...core.predictor import WindowPrediction
from ...streaming.pose_resolution import robust_average

#: The score of an image is the mean over its best relations, at most this many.
_BEST = 3
#: A predicted pair has at least this score, however low its logit.
_MIN_SCORE = 1e-12
#: Third images over which a pair is compared, at most.
_MAX_THIRDS = 64
#: Bounds below which lengths and errors count as zero.
_MIN_LENGTH = 1e-6
_MIN_ERROR = 1e-6
#: Pairs whose error is this many times the usual one lose most of their weight.
_FAR_OFF = 3.0


@dataclass(frozen=True, eq=False)
class WindowRelations:
    """Relative poses of S images, in the window's own unit.

    :ivar T: (S, S, 4, 4) ``T_i_j``; ``T[j, i]`` is its inverse, NaN where a pair has none.
    :ivar scores: (S, S, 2) >= 0, confidence of translation and rotation, the same both ways; 0
        where a pair has no pose.
    """

    T: np.ndarray
    scores: np.ndarray

    def best_scores(self) -> np.ndarray:
        """Return (S, 2) mean confidences of each image's best relations; NaN: none."""
        pairs = self.scores.mean(axis=2)
        best = np.argsort(-pairs, axis=1)[:, :_BEST]
        found = np.take_along_axis(self.scores, best[..., None], axis=1)
        known = np.take_along_axis(pairs, best, axis=1) > 0
        total = (found * known[..., None]).sum(axis=1)
        with np.errstate(invalid='ignore'):
            return total / known.sum(axis=1)[:, None]

    def group(self, min_score: float, usable: np.ndarray, shared: int) -> list[int]:
        """Return the rows of the largest group of related images, best related first.

        Each is related to those before it with at least ``min_score``. Of several groups it is the
        one with the most shared images, then with the most images.

        :param usable: (S,) bool, images that may take part.
        :param shared: number of images, the first ones, that were in earlier windows.
        """
        pairs = np.where(usable[:, None] & usable, self.scores.mean(axis=2), 0.0)
        left = set(np.flatnonzero(usable).tolist())
        groups = []
        while left:
            start = max(sorted(left), key=lambda n: pairs[n].max(initial=0.0))
            group = _grown(start, pairs, sorted(left - {start}), min_score)
            left -= set(group)
            groups.append(group)
        return max(groups, key=lambda g: (sum(n < shared for n in g), len(g)), default=[])


def relations_of(prediction: WindowPrediction) -> WindowRelations:
    """Return the relations of a prediction: both directions of a pair, averaged.

    The network was trained on pairs from the earlier to the later image only, but apart from the
    reference, which comes first and is never a target, it does not know the order. So both
    directions count, weighted by their confidences.
    """
    S = len(prediction.predicted)
    softplus = np.maximum(np.logaddexp(0.0, prediction.logits), _MIN_SCORE)
    scores = softplus * prediction.predicted[..., None]
    usable = prediction.predicted.copy()
    usable[:, 0] &= ~prediction.predicted[0, :]
    scores[~usable] = 0.0
    # An encoding is T_target_source, here T_j_i.
    T_j_i = np.broadcast_to(np.eye(4), (S, S, 4, 4)).copy()
    T_j_i[usable] = T_from_quat(
        prediction.relative[usable, :3], prediction.relative[usable, 3:7]
    ).reshape(-1, 4, 4)
    forward, backward = inverse(T_j_i), np.swapaxes(T_j_i, 0, 1)  # T_i_j, twice
    weights = np.stack([scores, np.swapaxes(scores, 0, 1)])
    total = weights.sum(axis=0)
    with np.errstate(invalid='ignore'):
        weights = np.nan_to_num(weights / total)
    T = _averaged(forward, backward, weights)
    both = usable & usable.T
    mean_score = total / np.where(both, 2.0, 1.0)[..., None]
    known = usable | usable.T
    T[~known] = np.nan
    rows, columns = np.tril_indices(S, -1)
    T[rows, columns] = inverse(T[columns, rows])
    return WindowRelations(T, mean_score * known[..., None])


def _averaged(forward: np.ndarray, backward: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted mean of two (S, S, 4, 4) motions each; weights (2, S, S, 2)."""
    centre = weights[0, ..., :1] * forward[..., :3, 3] + weights[1, ..., :1] * backward[..., :3, 3]
    quats = quat_xyzw(forward), quat_xyzw(backward)
    sign = np.where((quats[0] * quats[1]).sum(axis=-1, keepdims=True) < 0, -1.0, 1.0)
    quat = weights[0, ..., 1:] * quats[0] + weights[1, ..., 1:] * sign * quats[1]
    # A pair with neither direction has no weights; its pose is not used.
    quat[np.linalg.norm(quat, axis=-1) == 0] = [0.0, 0.0, 0.0, 1.0]
    return make_T(T_from_quat(centre, quat)[..., :3, :3], centre)


def _grown(start: int, pairs: np.ndarray, others: Sequence[int], min_score: float) -> list[int]:
    """Return the start and the images related to it and one another, best related first.

    :param pairs: (S, S) scores.
    """
    group, rest = [start], list(others)
    while rest:
        to_group = -np.sort(-pairs[np.ix_(rest, group)], axis=1)[:, :_BEST]
        means = to_group.mean(axis=1)
        best = int(np.argmax(means))
        if means[best] < min_score or means[best] <= 0.0:
            break
        group.append(rest.pop(best))
    return group


def window_poses(relations: WindowRelations, group: Sequence[int]) -> np.ndarray:
    """Return (G, 4, 4) ``T_root_frame`` of a group, the first of which is the root.

    Image by image, the most consistent relations first, each pose is the robust average over the
    images before it. The pose graph starts from these poses.

    :param group: indices, each related to some before it.
    """
    chosen = np.ix_(group, group)
    T, scores = relations.T[chosen], relations.scores[chosen]
    scores = scores * cycle_consistency(WindowRelations(T, scores))[..., None]
    order = _grown(0, scores.mean(axis=2), range(1, len(group)), 0.0)
    T_root = np.full((len(group), 4, 4), np.nan)
    T_root[0] = np.eye(4)
    for n in range(1, len(order)):
        weights = scores[order[:n], order[n]]
        known = (weights > 0).all(axis=1)
        candidates = T_root[order[:n]][known] @ T[order[:n], order[n]][known]
        centre, quat, _ = robust_average(
            candidates[:, :3, 3], quat_xyzw(candidates), weights[known]
        )
        T_root[order[n]] = T_from_quat(centre, quat)
    return T_root


def cycle_consistency(relations: WindowRelations) -> np.ndarray:
    """Return (S, S) factors up to 1: how well a relation agrees with the paths around it.

    A pair is compared with the path over each third image. The median error over the third images
    belongs to the pair and not to a path; an error of usual size costs little weight.
    """
    S = len(relations.T)
    off = np.full((min(S, _MAX_THIRDS), S, S, 2), np.nan)
    lengths = np.linalg.norm(relations.T[..., :3, 3], axis=2)
    thirds = np.linspace(0, S - 1, len(off)).astype(np.int64)
    for n, k in enumerate(thirds):
        around = relations.T[:, k, None] @ relations.T[None, k]
        shift = np.linalg.norm(around[..., :3, 3] - relations.T[..., :3, 3], axis=2)
        off[n, ..., 0] = shift / np.maximum(lengths[:, k, None] + lengths[None, k], _MIN_LENGTH)
        turn = np.swapaxes(around[..., :3, :3], 2, 3) @ relations.T[..., :3, :3]
        off[n, ..., 1] = rotation_angle(turn)
    factors = np.ones((S, S))
    for part in range(2):
        known = np.isfinite(off[..., part]).any(axis=0)
        if known.any():
            middle = np.nanmedian(off[..., part][:, known], axis=0)
            usual = max(float(np.median(middle)), _MIN_ERROR)
            factors[known] /= (1.0 + (middle / (_FAR_OFF * usual)) ** 2) ** 2
    return factors
