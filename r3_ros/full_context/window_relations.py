"""What a window says of its pictures, both directions of a pair taken together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..geometry import inverse, make_T, quat_xyzw, rotation_angle, T_from_quat
from ..window_prediction import WindowPrediction

#: A picture is as well related to others as to the best three of them, on average.
_BEST = 3
#: A pair that is there has some score, however low its logit.
_LEAST_SCORE = 1e-12
#: Ways around a pair that are looked at, at the most.
_MOST_WAYS = 64
#: Lengths below which a way has none; errors below which there are none.
_SHORTEST = 1e-6
_ROUNDING = 1e-6
#: Pairs that are off this many times more than usual are hardly believed.
_FAR_OFF = 3.0


@dataclass(frozen=True, eq=False)
class WindowRelations:
    """Relative poses of S pictures, in the window's own unit.

    :ivar T: (S, S, 4, 4) ``T_i_j``; ``T[j, i]`` is its inverse, NaN where a pair has none.
    :ivar scores: (S, S, 2) >= 0, confidence of translation and rotation, the same both ways; 0
        where a pair has no pose.
    """

    T: np.ndarray
    scores: np.ndarray

    @property
    def pair_scores(self) -> np.ndarray:
        """Return (S, S), the mean of both confidences."""
        return self.scores.mean(axis=2)

    def best_scores(self, others: Sequence[int] | None = None) -> np.ndarray:
        """Return (S, 2) mean confidences of each picture's best relations to others; NaN: none."""
        pairs = self.pair_scores if others is None else self.pair_scores[:, others]
        scores = self.scores if others is None else self.scores[:, others]
        best = np.argsort(-pairs, axis=1)[:, :_BEST]
        found = np.take_along_axis(scores, best[..., None], axis=1)
        known = np.take_along_axis(pairs, best, axis=1) > 0
        total = (found * known[..., None]).sum(axis=1)
        with np.errstate(invalid='ignore'):
            return total / known.sum(axis=1)[:, None]


def relations_of(prediction: WindowPrediction) -> WindowRelations:
    """Return the relations of a prediction.

    A pair is predicted in both directions, and the network was trained on one of them: from the
    earlier picture to the later. But for its reference, which comes first and is never a target,
    it cannot tell which was the earlier, so both count, by their confidences.
    """
    S = len(prediction.predicted)
    softplus = np.maximum(np.logaddexp(0.0, prediction.logits), _LEAST_SCORE)
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


def agreement(relations: WindowRelations) -> np.ndarray:
    """Return (S, S) factors up to 1: how well a relation agrees with the ways around it.

    A pair is compared with the way from one to the other over each third picture; the median of
    what it is off tells whether the pair is wrong or the way. What is usual keeps most weight.
    """
    S = len(relations.T)
    off = np.full((min(S, _MOST_WAYS), S, S, 2), np.nan)
    lengths = np.linalg.norm(relations.T[..., :3, 3], axis=2)
    thirds = np.linspace(0, S - 1, len(off)).astype(np.int64)
    for n, k in enumerate(thirds):
        around = relations.T[:, k, None] @ relations.T[None, k]
        shift = np.linalg.norm(around[..., :3, 3] - relations.T[..., :3, 3], axis=2)
        off[n, ..., 0] = shift / np.maximum(lengths[:, k, None] + lengths[None, k], _SHORTEST)
        turn = np.swapaxes(around[..., :3, :3], 2, 3) @ relations.T[..., :3, :3]
        off[n, ..., 1] = rotation_angle(turn)
    factors = np.ones((S, S))
    for part in range(2):
        known = np.isfinite(off[..., part]).any(axis=0)
        if known.any():
            middle = np.nanmedian(off[..., part][:, known], axis=0)
            usual = max(float(np.median(middle)), _ROUNDING)
            factors[known] /= (1.0 + (middle / (_FAR_OFF * usual)) ** 2) ** 2
    return factors


def related_group(
    relations: WindowRelations, least_score: float, usable: np.ndarray, shared: int
) -> list[int]:
    """Return the pictures that hang together, best related first.

    Each is related to those before it with at least ``least_score``. Of several groups it is the
    one with the most pictures shown before, or the largest.

    :param usable: (S,) bool, pictures that may take part.
    :param shared: so many pictures, the first ones, were shown before.
    """
    pairs = np.where(usable[:, None] & usable, relations.pair_scores, 0.0)
    left = set(np.flatnonzero(usable).tolist())
    groups = []
    while left:
        group = _grown(pairs, left, least_score)
        left -= set(group)
        groups.append(group)
    return max(groups, key=lambda g: (sum(n < shared for n in g), len(g)), default=[])


def _grown(pairs: np.ndarray, left: set[int], least_score: float) -> list[int]:
    start = max(sorted(left), key=lambda n: pairs[n].max(initial=0.0))
    return grown_from(start, pairs, sorted(left - {start}), least_score)


def grown_from(
    start: int, pairs: np.ndarray, others: Sequence[int], least_score: float
) -> list[int]:
    """Return the start and what is related to it and one another, best related first.

    :param pairs: (S, S) scores.
    """
    group, rest = [start], list(others)
    while rest:
        to_group = -np.sort(-pairs[np.ix_(rest, group)], axis=1)[:, :_BEST]
        means = to_group.mean(axis=1)
        best = int(np.argmax(means))
        if means[best] < least_score or means[best] <= 0.0:
            break
        group.append(rest.pop(best))
    return group
