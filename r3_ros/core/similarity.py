"""Similarity transforms as 4x4 matrices: a rotation times a scale, and a translation.

``S_target_source`` is used as a rigid ``T_target_source``: ``p_target = S @ p_source``. The scale
of a frame's ``S_world_camera`` is the length of the frame's unit in the world's.
"""

from __future__ import annotations

import numpy as np


def similarity(T: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """Return (..., 4, 4) similarities: the rotation and translation of ``T``, times ``scale``."""
    S = np.array(T, dtype=np.float64)
    S[..., :3, :3] *= np.asarray(scale, dtype=np.float64)[..., None, None]
    return S


def scale_of(S: np.ndarray) -> np.ndarray:
    """Return the scale (...) of (..., 4, 4) similarities."""
    return np.sqrt((S[..., :3, 0] ** 2).sum(axis=-1))


def rigid_part(S: np.ndarray) -> np.ndarray:
    """Return the (..., 4, 4) rigid motions that remain of ``S`` without its scale."""
    return similarity(S, 1.0 / scale_of(S))


def inverse_similarity(S: np.ndarray) -> np.ndarray:
    """Return the inverse of (..., 4, 4) similarities, without a matrix inversion."""
    inverted = np.zeros_like(S)
    turned = np.swapaxes(S[..., :3, :3], -1, -2) / (scale_of(S) ** 2)[..., None, None]
    inverted[..., :3, :3] = turned
    inverted[..., :3, 3] = -(turned @ S[..., :3, 3:])[..., 0]
    inverted[..., 3, 3] = 1.0
    return inverted
