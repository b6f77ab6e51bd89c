"""What two segments say of the frames they share, made one."""

from __future__ import annotations

import numpy as np

from .pose_rules import average_encodings, compose_encodings

#: Least sum of two confidences.
_NO_CONFIDENCE = 1e-6


def fuse_pose(
    reference: np.ndarray,
    old_edge: np.ndarray,
    new_edge: np.ndarray,
    old_score: float,
    new_score: float,
    scale: float,
) -> np.ndarray:
    """Return the (9,) pose of a frame from its edges in both segments; NaN if no score is > 0.

    :param reference: (9,) pose of the frame that both edges begin at.
    :param scale: of the units of the new edge.
    """
    weights = np.maximum(np.array([old_score, new_score], dtype=np.float64), 0.0)
    if not weights.sum() > 0:
        return np.full(9, np.nan)
    weights /= max(weights.sum(), _NO_CONFIDENCE)
    edges = np.stack([old_edge, scaled(new_edge, scale)])
    return compose_encodings(average_encodings(edges, weights, weights), reference)


def fuse_depth(
    old: np.ndarray,
    new: np.ndarray,
    old_confidence: np.ndarray,
    new_confidence: np.ndarray,
    scale: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the depth of a frame in the new segment's units, and its confidence.

    :param old: (H, W) depth in units of the old segment; ``scale``: see :func:`fuse_pose`.
    """
    old_weight, new_weight = np.maximum(old_confidence, 0.0), np.maximum(new_confidence, 0.0)
    total = np.maximum(old_weight + new_weight, _NO_CONFIDENCE)
    depth = (old_weight * (old / scale) + new_weight * new) / total
    return depth, old_confidence + new_confidence


def scaled(edge: np.ndarray, scale: float) -> np.ndarray:
    """Return (..., 9) edges or poses in other units."""
    changed = edge.copy()
    changed[..., :3] *= scale
    return changed
