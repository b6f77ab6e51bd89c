"""One number between two sets of units: by depth, by distances between poses, by metres.

Every estimate that fails, or lies outside of 0.01 to 100, is given as 1.0 and cannot be told from
a true 1.0: a fault of theirs that is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
import math

import numpy as np

#: What an estimate that failed is given as.
FAILED = 1.0
_SMALLEST, _LARGEST = 0.01, 100.0
#: Depths below are none.
_NO_DEPTH = 1e-6
_NO_METRIC_DEPTH = 1e-4
#: Fewest pixels of a frame, of the median and of the other rules.
_MEDIAN_PIXELS, _PIXELS = 100, 10
#: Share of a frame's pixels that the median takes, the most confident ones.
_CONFIDENT_SHARE = 0.25
_HUBER_STRIDE, _HUBER_ROUNDS = 4, 20
_RANSAC_DRAWS, _RANSAC_WIDTH, _RANSAC_CONFIDENCE = 200, 0.2, 1.05
#: Distances between poses below are none.
_NO_DISTANCE = 1e-4
#: Scales by pose and by depth that differ by more are not mixed.
_AGREEING = 1.25

Maps = Sequence[np.ndarray]


def median_scale(
    old: Maps, new: Maps, old_confidence: Maps | None = None, new_confidence: Maps | None = None
) -> float:
    """Return s of ``old = s * new``: the median ratio of each frame's most confident pixels.

    :param old: one (H, W) depth per frame; ``new`` likewise, and the confidences if there are.
    """
    ratios = []
    for i, (old_depth, new_depth) in enumerate(zip(old, new, strict=True)):
        valid = _valid(old_depth, new_depth)
        if old_confidence is not None and new_confidence is not None:
            lower = np.minimum(old_confidence[i], new_confidence[i])
            valid &= lower >= _confidence_limit(lower[valid])
        if valid.sum() >= _MEDIAN_PIXELS:
            ratios.append(_ratio(old_depth, new_depth, valid))
    return _within_range(lower_median(np.concatenate(ratios))) if ratios else FAILED


def huber_scale(
    old: Maps, new: Maps, old_confidence: Maps | None = None, new_confidence: Maps | None = None
) -> float:
    """Return s of ``old = s * new`` by reweighted least squares on every fourth pixel.

    :param old: one (H, W) depth per frame; ``new`` likewise.
    :param old_confidence: pixels count by the lower of the two confidences; without, alike.
    """
    thinned = (slice(None, None, _HUBER_STRIDE),) * 2
    parts = []
    for i, (old_depth, new_depth) in enumerate(zip(old, new, strict=True)):
        valid = _valid(old_depth[thinned], new_depth[thinned])
        if valid.sum() < _PIXELS:
            continue
        weights = np.ones(int(valid.sum()))
        if old_confidence is not None and new_confidence is not None:
            lower = np.minimum(old_confidence[i][thinned], new_confidence[i][thinned])
            weights = np.maximum(lower[valid], 0.0).astype(np.float64)
        parts.append(np.stack([old_depth[thinned][valid], new_depth[thinned][valid], weights]))
    if not parts:
        return FAILED
    return _within_range(_huber(*np.concatenate(parts, axis=1).astype(np.float64)))


def ransac_scale(
    old: Maps, new: Maps, new_confidence: Maps | None, random: np.random.Generator
) -> float:
    """Return s of ``old = s * new`` by trying the ratios of pixels drawn at random.

    :param old: one (H, W) depth per frame; ``new`` likewise.
    :param new_confidence: pixels without it are left out; that of the old depth is not trusted,
        as a loss of confidence is what ended the old segment.
    """
    parts = []
    for i, (old_depth, new_depth) in enumerate(zip(old, new, strict=True)):
        valid = _valid(old_depth, new_depth)
        if new_confidence is not None:
            valid &= new_confidence[i] > _RANSAC_CONFIDENCE
        if valid.sum() >= _PIXELS:
            parts.append(np.stack([old_depth[valid], new_depth[valid]]).astype(np.float64))
    if not parts:
        return FAILED
    olds, news = np.concatenate(parts, axis=1)
    return _within_range(_ransac(olds, news, random))


def pose_scale(old: np.ndarray, new: np.ndarray, confidence: np.ndarray) -> float:
    """Return s of ``old = s * new`` by the distances between poses.

    Distances of world-to-camera translations change with the choice of the world, so the answer
    is wrong away from its origin: a fault of theirs that is kept.

    :param old: (N, 9) poses; ``new`` likewise; ``confidence``: (N,) of the frames.
    """
    i, j = np.triu_indices(len(old), k=1)
    old_distance = np.linalg.norm(old[i, :3] - old[j, :3], axis=1)
    new_distance = np.linalg.norm(new[i, :3] - new[j, :3], axis=1)
    far = (old_distance >= _NO_DISTANCE) & (new_distance >= _NO_DISTANCE)
    if far.sum() < 2:
        return FAILED
    ratios, weights = old_distance[far] / new_distance[far], (confidence[i] * confidence[j])[far]
    order = np.lexsort((weights, ratios))
    reached = np.cumsum(weights[order]) >= weights.sum() / 2
    return float(ratios[order][np.argmax(reached)] if reached.any() else ratios[order][-1])


def chosen_scale(by_pose: float, by_depth: float | None) -> float:
    """Return the scale by depth, sharpened by that of poses where the two nearly agree."""
    if by_depth is None or not math.isfinite(by_depth) or by_depth <= 0:
        return by_pose
    if not math.isfinite(by_pose) or by_pose <= 0 or by_pose == FAILED:
        return by_depth
    if max(by_pose, by_depth) / min(by_pose, by_depth) > _AGREEING:
        return by_depth
    return math.sqrt(by_pose * by_depth)


def metric_scale(
    metric: np.ndarray, depth: np.ndarray, confidence: np.ndarray | None, min_confidence: float
) -> float | None:
    """Return metres per unit of depth: the median ratio between its 5 % tails.

    The output of the metric network is taken as metres, though it is so only after a factor of
    focal length / 300, and sky is not left out: faults of theirs that are kept.

    :param metric: any shape; ``depth``, ``confidence`` of the same shape, without scale.
    :returns: None if no pixel is valid.
    """
    valid = (metric > _NO_METRIC_DEPTH) & (depth > _NO_METRIC_DEPTH)
    if confidence is not None:
        valid &= confidence > min_confidence
    if not valid.any():
        return None
    ratios = _ratio(metric, depth, valid)
    low, high = np.quantile(ratios, [0.05, 0.95])
    return lower_median(ratios[(ratios >= low) & (ratios <= high)])


def lower_median(values: np.ndarray) -> float:
    """Return the middle value, of two the lower one."""
    middle = (len(values) - 1) // 2
    return float(np.partition(values, middle)[middle])


def _valid(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    finite = np.isfinite(old) & np.isfinite(new)
    with np.errstate(invalid='ignore'):
        return finite & (old > _NO_DEPTH) & (new > _NO_DEPTH)


def _ratio(a: np.ndarray, b: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return a[valid].astype(np.float64) / b[valid].astype(np.float64)


def _confidence_limit(confidence: np.ndarray) -> float:
    """Return the least confidence that counts, of the valid pixels of a frame."""
    count = max(_MEDIAN_PIXELS, int(len(confidence) * _CONFIDENT_SHARE))
    if count >= len(confidence):
        return -math.inf
    return float(np.partition(confidence, -count)[-count])


def _huber(old: np.ndarray, new: np.ndarray, weights: np.ndarray) -> float:
    scale = lower_median(old / new)
    bend = max(0.5 * lower_median(np.abs(old - scale * new)), 1e-6)
    for _ in range(_HUBER_ROUNDS):
        residual = np.abs(old - scale * new)
        each = weights * np.minimum(1.0, bend / np.maximum(residual, 1e-8))
        total = (each * new**2).sum()
        if total < 1e-8:
            break
        scale = float((each * old * new).sum() / total)
    return scale


def _ransac(old: np.ndarray, new: np.ndarray, random: np.random.Generator) -> float:
    ratios = old / new
    if len(ratios) <= _RANSAC_DRAWS:
        drawn = ratios[random.permutation(len(ratios))]
    else:
        drawn = ratios[random.integers(len(ratios), size=_RANSAC_DRAWS)]
    drawn = drawn[(drawn >= _SMALLEST) & (drawn <= _LARGEST)]
    if not len(drawn):
        return FAILED
    logs, at = np.log(ratios), np.log(drawn)
    in_order = np.sort(logs)
    counts = np.searchsorted(in_order, at + _RANSAC_WIDTH, side='left')
    counts -= np.searchsorted(in_order, at - _RANSAC_WIDTH, side='right')
    best = int(np.argmax(counts))
    inliers = np.abs(logs - at[best]) < _RANSAC_WIDTH
    total = (new[inliers] ** 2).sum()
    return float((old * new)[inliers].sum() / total) if total > 1e-8 else float(drawn[best])


def _within_range(scale: float) -> float:
    return scale if _SMALLEST <= scale <= _LARGEST else FAILED
