"""From the engine's camera poses to the frames of REP-105: map, odom and base.

Geometry without ROS. The engine's world is its first camera in optical axes; ``map`` and ``odom``
have x forward, y left, z up. See docs/conventions.md.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
import math

import numpy as np
from scipy.spatial.transform import Rotation

from ...core.datatypes import Estimate
from ...core.geometry import inverse, make_T, quat_xyzw, R_BODY_OPTICAL, T_from_quat
from ...streaming.pose_resolution import UNKNOWN_VARIANCE

#: The cosine of a tilt this small counts as 1.
_LEVEL = 1e-9
_X, _Z = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
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
    known = known & (matrix.diagonal() < UNKNOWN_VARIANCE).reshape(2, 3).all(axis=1)
    axes = np.repeat(known, 3)
    return MotionCovariance(np.where(np.outer(axes, axes), matrix, 0.0), known)


def _adjoint(T_target_source: np.ndarray) -> np.ndarray:
    """Return the (6, 6) map of small motions, translation first, from source to target."""
    R, (x, y, z) = T_target_source[:3, :3], T_target_source[:3, 3]
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.block([[R, cross @ R], [np.zeros((3, 3)), R]])


UNKNOWN = MotionCovariance(np.zeros((6, 6)), np.zeros(2, dtype=bool))
CERTAIN = MotionCovariance(np.zeros((6, 6)), np.ones(2, dtype=bool))


@dataclass(frozen=True, eq=False)
class Placement:
    """The pose of one image in every published frame.

    :ivar T_world_camera: as the engine estimated it, in map units.
    :ivar map_error: of ``T_map_base``, in the base frame.
    :ivar odom_error: of ``T_odom_base``, in the base frame: the drift since the session began.
    :ivar twist: (6,) linear and angular velocity in the base frame, zero where it is unknown.
    :ivar twist_error: of ``twist``.
    """

    T_world_camera: np.ndarray
    T_map_base: np.ndarray
    T_odom_base: np.ndarray
    map_error: MotionCovariance
    odom_error: MotionCovariance
    twist: np.ndarray
    twist_error: MotionCovariance

    @property
    def map_covariance(self) -> np.ndarray:
        """(6, 6), of ``T_map_base`` in the axes of map."""
        return self.map_error.published(self.T_map_base[:3, :3])

    @property
    def odom_covariance(self) -> np.ndarray:
        """(6, 6), of ``T_odom_base`` in the axes of odom."""
        return self.odom_error.published(self.T_odom_base[:3, :3])

    @property
    def twist_covariance(self) -> np.ndarray:
        """(6, 6), of ``twist`` in the base frame."""
        return self.twist_error.published()


class PoseChain:
    """Keeps ``odom`` continuous while the engine corrects past poses.

    Odometry accumulates the motion between two frames, both from the same state of the engine, so
    a correction changes ``map -> odom`` and never ``odom -> base``. Its covariance accumulates,
    too: closing a loop does not reduce the drift of odom.

    :param T_base_optical: the camera on the base; identity if the camera is the base.
    :param starts_in_base: the map's axes are those of the base at the first frame. Otherwise the
        map is level if the camera was held upright.
    :ivar metres_per_unit: None while the scale is unknown; map units are published then.
    :ivar last: the last frame with a pose.
    :ivar start: pose of the base in map, the camera's pose in the engine's world that it belongs
        to, and whether the tilt is kept; applied to the first frame.
    :ivar moves: how often the map was moved.
    """

    def __init__(self, T_base_optical: np.ndarray, starts_in_base: bool) -> None:
        self.T_base_optical = T_base_optical
        self._T_optical_base = inverse(T_base_optical)
        self.T_map_world = T_base_optical
        if not starts_in_base:
            origin = -R_BODY_OPTICAL @ self._T_optical_base[:3, 3]
            self.T_map_world = make_T(R_BODY_OPTICAL, origin)
        self.metres_per_unit: float | None = None
        self.last: Placement | None = None
        self.start: tuple[np.ndarray, np.ndarray, bool] | None = None
        self.moves = 0
        #: Error of the last ``T_odom_base``.
        self._drift = CERTAIN
        self._last_stamp_ns = 0

    @property
    def unit(self) -> float:
        """Return the factor from map units to the published unit."""
        return 1.0 if self.metres_per_unit is None else self.metres_per_unit

    @property
    def S_map_world(self) -> np.ndarray:
        """Return the (4, 4) similarity from the engine's world to map."""
        return self.T_map_world @ np.diag([self.unit] * 3 + [1.0])

    def frozen(self, metres_per_unit: float | None) -> PoseChain:
        """Return a copy for another thread, with the present scale."""
        copied = copy.copy(self)
        copied.metres_per_unit = metres_per_unit
        return copied

    def T_map_optical(self, T_world_camera: np.ndarray) -> np.ndarray:
        """Return the camera's pose in map; (..., 4, 4) in and out."""
        return self.T_map_world @ self._with_length(T_world_camera)

    def T_map_base(self, T_world_camera: np.ndarray) -> np.ndarray:
        """Return the base's pose in map; (..., 4, 4) in and out."""
        return self.T_map_optical(T_world_camera) @ self._T_optical_base

    def move_map(self, T_map_from: np.ndarray, T_map_to: np.ndarray, keeps_tilt: bool) -> None:
        """Move the map so that a base at ``T_map_from`` gets to ``T_map_to``; odom stays.

        :param keeps_tilt: of a level ``T_map_to`` only position and heading are applied. The
            heading is that of the camera if the camera is the base.
        """
        motion = T_map_to @ inverse(T_map_from)
        if keeps_tilt and T_map_to[2, 2] > 1.0 - _LEVEL:
            ahead = _X if not np.array_equal(self.T_base_optical, np.eye(4)) else _Z
            angle = _heading(T_map_to, _X) - _heading(T_map_from, ahead)
            R = Rotation.from_euler('z', angle).as_matrix()
            motion = make_T(R, T_map_to[:3, 3] - R @ T_map_from[:3, 3])
        self.T_map_world = motion @ self.T_map_world
        self.moves += 1
        self.replace_last()

    def replace_last(self) -> None:
        """Update the last frame after the map was moved or the scale has changed."""
        if self.last is not None:
            self.last = self.placed_again(self.last)

    def placed_again(self, placement: Placement) -> Placement:
        """Return a frame's placement in the current map; its pose in odom stays."""
        return replace(placement, T_map_base=self.T_map_base(placement.T_world_camera))

    def _with_length(self, T: np.ndarray) -> np.ndarray:
        """Return camera poses (..., 4, 4) in the published unit."""
        T = np.array(T, dtype=np.float64)
        T[..., :3, 3] *= self.unit
        return T

    def advance(self, estimate: Estimate, unscaled_factor: float, max_gap_s: float) -> Placement:
        """Return the placement of a new frame, which has a pose.

        :param unscaled_factor: multiplies the translation block while the scale is unknown.
        :param max_gap_s: after a longer time without a pose, velocity and odometry are unknown;
            0 for no limit.
        """
        if self.start is not None:
            (T_given, T_world_then, keeps_tilt), self.start = self.start, None
            self.move_map(self.T_map_base(T_world_then), T_given, keeps_tilt)
        T_world_camera, T_previous_camera = estimate.T_world_camera, estimate.T_previous_camera
        assert T_world_camera is not None
        T_map_base = self.T_map_base(T_world_camera)
        map_error = self._base_error(estimate.covariance, unscaled_factor)
        elapsed_s = (estimate.stamp_ns - self._last_stamp_ns) * 1e-9
        is_over_gap = self.last is not None and 0 < max_gap_s < elapsed_s
        twist, twist_error = np.zeros(6), UNKNOWN
        if self.last is None or T_previous_camera is None:
            # Odom starts at this pose in map.
            T_odom_base = T_map_base
            self._drift = MotionCovariance(np.zeros((6, 6)), map_error.known)
        else:
            T_previous_optical = self._with_length(T_previous_camera)
            T_previous_base = self.T_base_optical @ T_previous_optical @ self._T_optical_base
            T_odom_base = self.last.T_odom_base @ T_previous_base
            # Without accumulated rounding errors.
            T_odom_base = T_from_quat(T_odom_base[:3, 3], quat_xyzw(T_odom_base))
            step_error = self._base_error(estimate.step_covariance, unscaled_factor)
            # An unknown motion makes all later poses unknown, except before the engine has
            # geometry: drift counts from the last such frame.
            before = replace(self._drift, known=self._drift.known | ~self.last.map_error.known)
            self._drift = before.seen_from(inverse(T_previous_base)) + step_error
            if elapsed_s > 0 and not is_over_gap:
                twist_error = step_error.scaled(1.0 / elapsed_s, 1.0 / elapsed_s)
                twist = _twist(T_previous_base, elapsed_s) * np.repeat(twist_error.known, 3)
        self.last = Placement(
            T_world_camera=T_world_camera,
            T_map_base=T_map_base,
            T_odom_base=T_odom_base,
            map_error=map_error,
            odom_error=UNKNOWN if is_over_gap else self._drift,
            twist=twist,
            twist_error=twist_error,
        )
        self._last_stamp_ns = estimate.stamp_ns
        return self.last

    def _base_error(self, covariance: np.ndarray | None, factor: float) -> MotionCovariance:
        """Return the error of the base for an error of the camera in map units."""
        error = MotionCovariance.of(covariance).scaled(self.unit).seen_from(self.T_base_optical)
        return error if self.metres_per_unit is not None else error.scaled(math.sqrt(factor))


def without_motion(placement: Placement) -> Placement:
    """Return a placement with unknown errors and velocity, to repeat the last pose."""
    return replace(
        placement,
        map_error=UNKNOWN,
        odom_error=UNKNOWN,
        twist=np.zeros(6),
        twist_error=UNKNOWN,
    )


def planar_map_odom(T_map_base: np.ndarray, T_odom_base: np.ndarray) -> np.ndarray:
    """Return a planar ``T_map_odom`` that keeps x, y and yaw of the base.

    Projecting ``T_map_odom`` itself would shift a base that is far from the origin of odom.
    """
    angle = _heading(T_map_base, _X) - _heading(T_odom_base, _X)
    R = Rotation.from_euler('z', angle).as_matrix()
    position = T_map_base[:3, 3] - R @ T_odom_base[:3, 3]
    return make_T(R, position * [1.0, 1.0, 0.0])


def _heading(T: np.ndarray, axis: np.ndarray) -> float:
    x, y, _ = T[:3, :3] @ axis
    return math.atan2(y, x)


def _twist(T_previous_base: np.ndarray, elapsed_s: float) -> np.ndarray:
    """Return the (6,) mean velocity in the base frame at the end of the step."""
    R = T_previous_base[:3, :3]
    angular = Rotation.from_matrix(R).as_rotvec()
    return np.concatenate([R.T @ T_previous_base[:3, 3], angular]) / elapsed_s
