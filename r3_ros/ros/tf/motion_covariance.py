"""The covariance of a small motion whose translation or rotation may be unknown."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...streaming.pose_resolution import UNKNOWN_VARIANCE

#: Added to every published variance, since filters invert the matrix: a tenth of a millimetre and
#: 0.006 degrees.
_VARIANCE_FLOOR = 1e-8


@dataclass(frozen=True, eq=False)
class MotionCovariance:
    """Covariance of a small motion ``exp(xi)`` on the right of a pose, in the moved frame.

    :ivar matrix: (6, 6) float64, order x y z rx ry rz; zero where it is unknown.
    :ivar known: (2,) bool, whether the translation and the rotation are known.
    """

    matrix: np.ndarray
    known: np.ndarray

    @classmethod
    def of(cls, covariance: np.ndarray | None) -> MotionCovariance:
        """Return the covariance of a (6, 6) matrix.

        A block with a variance of at least 1e6 or a number that is not finite is unknown; None is
        all unknown.
        """
        if covariance is None:
            return UNKNOWN
        return _checked(covariance, np.isfinite(covariance).reshape(2, 18).all(axis=1))

    def __add__(self, other: MotionCovariance) -> MotionCovariance:
        return _checked(self.matrix + other.matrix, self.known & other.known)

    def scaled(self, translation: float, rotation: float = 1.0) -> MotionCovariance:
        """Return the covariance of the motion times these factors."""
        factors = np.repeat([translation, rotation], 3)
        return _checked(self.matrix * np.outer(factors, factors), self.known)

    def seen_from(self, T_other_own: np.ndarray) -> MotionCovariance:
        """Return the covariance of the same error for another frame fixed to the moved one.

        With a lever arm, an unknown rotation makes the translation unknown, too.
        """
        adjoint = _adjoint(T_other_own)
        known = self.known.copy()
        known[0] &= known[1] or not T_other_own[:3, 3].any()
        return _checked(adjoint @ self.matrix @ adjoint.T, known)

    def restarted(self, where: np.ndarray) -> MotionCovariance:
        """Return the covariance with unknown blocks set to zero.

        :param where: (2,) bool, for the translation and the rotation.
        """
        return replace(self, known=self.known | where)

    def published(self, R: np.ndarray | None = None) -> np.ndarray:
        """Return the (6, 6) matrix of a ROS message: never zero, 1e6 where it is unknown.

        :param R: (3, 3) rotation to the axes of the message; None for the moved frame's own.
        """
        turn = np.eye(6) if R is None else np.kron(np.eye(2), R)
        unknown = np.repeat(np.where(self.known, 0.0, UNKNOWN_VARIANCE), 3)
        floor = np.repeat(np.where(self.known, _VARIANCE_FLOOR, 0.0), 3)
        return turn @ self.matrix @ turn.T + np.diag(unknown + floor)


def _checked(matrix: np.ndarray, known: np.ndarray) -> MotionCovariance:
    """Return a covariance that is zero where it is unknown or too large."""
    small = (matrix.diagonal() < UNKNOWN_VARIANCE).reshape(2, 3).all(axis=1)
    known = known & small
    axes = np.repeat(known, 3)
    return MotionCovariance(np.where(np.outer(axes, axes), matrix, 0.0), known)


def _adjoint(T_target_source: np.ndarray) -> np.ndarray:
    """Return the (6, 6) map of small motions, translation first, from source to target."""
    R, (x, y, z) = T_target_source[:3, :3], T_target_source[:3, 3]
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.block([[R, cross @ R], [np.zeros((3, 3)), R]])


UNKNOWN = MotionCovariance(np.zeros((6, 6)), np.zeros(2, dtype=bool))
CERTAIN = MotionCovariance(np.zeros((6, 6)), np.ones(2, dtype=bool))
