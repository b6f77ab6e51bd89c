"""Rigid motions as a translation and a unit quaternion (x, y, z, w)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Motion:
    """Maps ``p`` to ``R(quat_xyzw) @ p + translation``."""

    translation: NDArray[np.float64]
    quat_xyzw: NDArray[np.float64]

    @classmethod
    def identity(cls) -> Motion:
        """Return the motion that leaves everything where it is."""
        return cls(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))

    def __matmul__(self, other: Motion) -> Motion:
        """Return the motion that does ``other`` first."""
        return Motion(
            self.translation + rotate(self.quat_xyzw, other.translation),
            multiply(self.quat_xyzw, other.quat_xyzw),
        )

    def inverse(self) -> Motion:
        """Return the motion that undoes this one."""
        back = self.quat_xyzw * np.array([-1.0, -1.0, -1.0, 1.0])
        return Motion(-rotate(back, self.translation), back)


def rotate(quat_xyzw: NDArray[np.float64], vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotate a vector by a unit quaternion."""
    axis, w = quat_xyzw[:3], quat_xyzw[3]
    twice = 2.0 * np.cross(axis, vector)
    rotated: NDArray[np.float64] = vector + w * twice + np.cross(axis, twice)
    return rotated


def multiply(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quaternion product a b, both x, y, z, w."""
    vector = a[3] * b[:3] + b[3] * a[:3] + np.cross(a[:3], b[:3])
    return np.append(vector, a[3] * b[3] - a[:3] @ b[:3])


def slerp(
    start: NDArray[np.float64], end: NDArray[np.float64], share: float
) -> NDArray[np.float64]:
    """Turn from one unit quaternion to another along the shorter arc, at constant speed."""
    cosine = float(start @ end)
    if cosine < 0.0:
        end, cosine = -end, -cosine
    angle = np.arccos(min(cosine, 1.0))
    if angle < 1e-6:
        # The sines cancel to rounding; over so short an arc the chord is as good.
        mixed = (1.0 - share) * start + share * end
    else:
        mixed = np.sin((1.0 - share) * angle) * start + np.sin(share * angle) * end
    normalised: NDArray[np.float64] = mixed / np.linalg.norm(mixed)
    return normalised
