"""Rigid motions and similarities as 4x4 matrices, quaternions, and the average of several poses.

Everything is float64 NumPy and works on batches in the leading dimensions. Quaternions are
``xyzw``, scalar last, as in ROS. A similarity ``S_target_source`` is a rotation times a scale, and
a translation: ``p_target = S @ p_source``. The scale of a frame's ``S_world_camera`` is the length
of the frame's unit in the world's.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from .errors import TransformError

#: Optical axes (x right, y down, z forward) seen from body axes (x forward, y left, z up),
#: REP-103: ``p_body = R_BODY_OPTICAL @ p_optical``.
R_BODY_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def make_T(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return the (..., 4, 4) motion with rotation (..., 3, 3) and translation (..., 3)."""
    R = np.asarray(R, dtype=np.float64)
    T = np.zeros((*R.shape[:-2], 4, 4))
    T[..., :3, :3] = R
    T[..., :3, 3] = t
    T[..., 3, 3] = 1.0
    return T


def inverse(T: np.ndarray) -> np.ndarray:
    """Return the inverse of (..., 4, 4) rigid motions, without a matrix inversion."""
    R_inv = np.swapaxes(T[..., :3, :3], -1, -2)
    return make_T(R_inv, -(R_inv @ T[..., :3, 3:])[..., 0])


def transform(T: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return (N, 3) points transformed by one (4, 4) motion, in their own dtype."""
    T = np.asarray(T, dtype=points.dtype)
    return points @ T[:3, :3].T + T[:3, 3]


def quat_xyzw(T: np.ndarray) -> np.ndarray:
    """Return the (..., 4) unit quaternions of (..., 4, 4) motions, with w >= 0."""
    shape = T.shape[:-2]
    quat = Rotation.from_matrix(T[..., :3, :3].reshape(-1, 3, 3)).as_quat(canonical=True)
    return quat.reshape(*shape, 4)


def T_from_quat(translation: np.ndarray, quat_xyzw: np.ndarray) -> np.ndarray:
    """Return (..., 4, 4) motions of (..., 3) translations and (..., 4) quaternions.

    Quaternions of any length but zero are normalised.

    :raises TransformError: a quaternion has length zero or a value is not finite.
    """
    quat = np.asarray(quat_xyzw, dtype=np.float64)
    translation = np.asarray(translation, dtype=np.float64)
    norm = np.linalg.norm(quat, axis=-1, keepdims=True)
    if not (np.isfinite(translation).all() and np.isfinite(norm).all() and (norm > 0).all()):
        raise TransformError(
            f'not a pose: translation {translation.tolist()}, quaternion {quat.tolist()}'
        )
    flat = Rotation.from_quat((quat / norm).reshape(-1, 4)).as_matrix()
    return make_T(flat.reshape(*quat.shape[:-1], 3, 3), translation)


def rotation_angle(R: np.ndarray) -> np.ndarray:
    """Return the angle of (..., 3, 3) rotations in radians, accurate near 0 and near pi."""
    sine_axis = np.stack(
        [R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]],
        axis=-1,
    )
    sine = 0.5 * np.linalg.norm(sine_axis, axis=-1)
    cosine = 0.5 * (np.trace(R, axis1=-2, axis2=-1) - 1.0)
    return np.arctan2(sine, cosine)


def is_rigid(T: np.ndarray, tolerance: float = 1e-4) -> bool:
    """Return whether T is one finite (4, 4) rigid motion, within rounding."""
    if T.shape != (4, 4) or not np.isfinite(T).all():
        return False
    R = T[:3, :3]
    orthonormal = np.abs(R @ R.T - np.eye(3)).max() < tolerance
    return bool(orthonormal and np.linalg.det(R) > 0 and np.allclose(T[3], [0, 0, 0, 1]))


def nearest_motion(T: np.ndarray) -> np.ndarray:
    """Return the rigid motion nearest to a (4, 4) product of motions, which rounding has bent.

    By Newton's iteration for the polar decomposition: each step squares the deviation, so that
    one of a thousandth is gone.
    """
    R = T[:3, :3]
    for _ in range(3):
        R = 1.5 * R - 0.5 * (R @ (R.T @ R))
    return make_T(R, T[:3, 3])


def mean_quat(quats_xyzw: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted mean (4,) of (N, 4) unit quaternions.

    The top eigenvector of ``sum w q q^T``, so signs do not matter (Markley et al., "Averaging
    Quaternions", 2007, equations 12 and 13).
    """
    moment = (quats_xyzw.T * weights) @ quats_xyzw
    return np.linalg.eigh(moment)[1][:, -1]


def mean_rotation(R: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted mean (3, 3) of (N, 3, 3) rotations, as :func:`mean_quat`."""
    return Rotation.from_quat(mean_quat(Rotation.from_matrix(R).as_quat(), weights)).as_matrix()


def quat_angle(quats_a: np.ndarray, quats_b: np.ndarray) -> np.ndarray:
    """Return the angle (...) between (..., 4) unit quaternions in radians, whatever their signs.

    From the length of their difference, which is accurate near zero, unlike the arc cosine.
    """
    sign = np.where((quats_a * quats_b).sum(axis=-1, keepdims=True) < 0, -1.0, 1.0)
    chord = np.linalg.norm(quats_a - sign * quats_b, axis=-1)
    return 4.0 * np.arcsin(np.minimum(0.5 * chord, 1.0))


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


def weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the lower weighted median of (N,) values."""
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulated, 0.5 * cumulated[-1])])


def unproject(
    depth: np.ndarray, fx: float, fy: float, cx: float, cy: float, stride: int = 1
) -> np.ndarray:
    """Return (h, w, 3) points in the camera frame of every ``stride``-th pixel.

    :param depth: (H, W) float, z along the optical axis; NaN stays NaN.
    """
    z = depth[::stride, ::stride]
    u = np.arange(0, depth.shape[1], stride, dtype=z.dtype)
    v = np.arange(0, depth.shape[0], stride, dtype=z.dtype)
    points = np.empty((*z.shape, 3), dtype=z.dtype)
    np.multiply(z, (u - z.dtype.type(cx)) / z.dtype.type(fx), out=points[..., 0])
    np.multiply(z, ((v - z.dtype.type(cy)) / z.dtype.type(fy))[:, None], out=points[..., 1])
    points[..., 2] = z
    return points
