"""Stand-in for the part of ``tf_transformations`` that r3_ros uses: same names, same behaviour.

Quaternions are x, y, z, w here and w, x, y, z in transforms3d, which does the work. Matrices are
4x4 homogeneous.
"""

from __future__ import annotations

from collections.abc import Sequence
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from transforms3d import affines, axangles, euler, quaternions

Matrix = NDArray[np.float64]
Quaternion = NDArray[np.float64]

_EPS = np.finfo(float).eps * 4.0


def identity_matrix() -> Matrix:
    """Return the matrix that leaves everything where it is."""
    return np.identity(4)


def translation_matrix(direction: ArrayLike) -> Matrix:
    """Return the matrix that moves by a vector."""
    return _compose(direction, np.identity(3))


def translation_from_matrix(matrix: ArrayLike) -> NDArray[np.float64]:
    """Return the vector by which a matrix moves."""
    return np.array(matrix, dtype=float)[:3, 3]


def rotation_matrix(angle: float, direction: ArrayLike, point: ArrayLike | None = None) -> Matrix:
    """Return the matrix that turns about an axis, through a point if one is given."""
    return np.asarray(axangles.axangle2aff(direction, angle, point=point))


def concatenate_matrices(*matrices: ArrayLike) -> Matrix:
    """Return the product of the matrices."""
    product = np.identity(4)
    for matrix in matrices:
        product = product @ np.asarray(matrix)
    return product


def inverse_matrix(matrix: ArrayLike) -> Matrix:
    """Return the inverse of a matrix."""
    return np.asarray(np.linalg.inv(np.array(matrix, dtype=float)))


def is_same_transform(matrix0: ArrayLike, matrix1: ArrayLike) -> bool:
    """Tell whether two matrices do the same, up to their scale."""
    first, second = np.array(matrix0, dtype=float), np.array(matrix1, dtype=float)
    return bool(np.allclose(first / first[3, 3], second / second[3, 3]))


def euler_matrix(ai: float, aj: float, ak: float, axes: str = 'sxyz') -> Matrix:
    """Return the matrix that turns by three angles about a sequence of axes."""
    return _compose(np.zeros(3), euler.euler2mat(ai, aj, ak, axes=axes))


def euler_from_matrix(matrix: ArrayLike, axes: str = 'sxyz') -> tuple[float, float, float]:
    """Return the angles of a rotation about a sequence of axes."""
    ai, aj, ak = euler.mat2euler(np.asarray(matrix)[:3, :3], axes=axes)
    return ai, aj, ak


def euler_from_quaternion(
    quaternion: Sequence[float], axes: str = 'sxyz'
) -> tuple[float, float, float]:
    """Return the angles of a rotation about a sequence of axes."""
    return euler_from_matrix(quaternion_matrix(quaternion), axes)


def quaternion_from_euler(ai: float, aj: float, ak: float, axes: str = 'sxyz') -> Quaternion:
    """Return the quaternion that turns by three angles about a sequence of axes."""
    return _to_xyzw(euler.euler2quat(ai, aj, ak, axes=axes))


def quaternion_about_axis(angle: float, axis: ArrayLike) -> Quaternion:
    """Return the quaternion that turns about an axis."""
    return _to_xyzw(quaternions.axangle2quat(axis, angle))


def quaternion_matrix(quaternion: Sequence[float]) -> Matrix:
    """Return the matrix that turns as a quaternion does."""
    return _compose(np.zeros(3), quaternions.quat2mat(_to_wxyz(quaternion)))


def quaternion_from_matrix(matrix: ArrayLike) -> Quaternion:
    """Return the quaternion that turns as a matrix does, whose scale is left out."""
    return _to_xyzw(quaternions.mat2quat(affines.decompose(np.asarray(matrix))[1]))


def quaternion_multiply(quaternion1: Sequence[float], quaternion0: Sequence[float]) -> Quaternion:
    """Return the product of two quaternions, which turns by ``quaternion0`` first."""
    return _to_xyzw(quaternions.qmult(_to_wxyz(quaternion1), _to_wxyz(quaternion0)))


def quaternion_conjugate(quaternion: Sequence[float]) -> Quaternion:
    """Return the quaternion with its axis reversed."""
    return np.array([-1.0, -1.0, -1.0, 1.0]) * np.asarray(quaternion, dtype=float)


def quaternion_inverse(quaternion: Sequence[float]) -> Quaternion:
    """Return the quaternion that undoes a quaternion."""
    return quaternion_conjugate(quaternion) / float(np.dot(quaternion, quaternion))


def quaternion_slerp(
    quat0: Sequence[float],
    quat1: Sequence[float],
    fraction: float,
    spin: int = 0,
    shortestpath: bool = True,
) -> Quaternion:
    """Return the quaternion a share of the way from one to another, at constant speed.

    :param spin: half turns to add.
    :param shortestpath: take the shorter arc.
    """
    start, end = unit_vector(quat0), unit_vector(quat1)
    if fraction in (0.0, 1.0):
        return end if fraction else start
    cosine = float(start @ end)
    if abs(abs(cosine) - 1.0) < _EPS:
        return start
    if shortestpath and cosine < 0.0:
        end, cosine = -end, -cosine
    angle = math.acos(cosine) + spin * math.pi
    if abs(angle) < _EPS:
        return start
    weights = math.sin((1.0 - fraction) * angle), math.sin(fraction * angle)
    return np.asarray((weights[0] * start + weights[1] * end) / math.sin(angle))


def unit_vector(data: ArrayLike) -> NDArray[np.float64]:
    """Return a vector at length 1."""
    vector = np.array(data, dtype=float)
    return np.asarray(vector / np.linalg.norm(vector))


def vector_norm(data: ArrayLike) -> float:
    """Return the length of a vector."""
    return float(np.linalg.norm(np.asarray(data, dtype=float)))


def _compose(translation: ArrayLike, rotation: ArrayLike) -> Matrix:
    return np.asarray(affines.compose(translation, rotation, np.ones(3)))


def _to_wxyz(quaternion: Sequence[float]) -> Quaternion:
    return np.roll(np.asarray(quaternion, dtype=float), 1)


def _to_xyzw(quaternion: ArrayLike) -> Quaternion:
    return np.roll(np.asarray(quaternion, dtype=float), -1)
