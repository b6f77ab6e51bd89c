"""From the engine's camera poses to the frames of REP-105: map, odom and base.

Pure geometry without ROS. The engine's world is its first camera in optical axes; it ends here.
``map`` and ``odom`` have x forward, y left, z up. See docs/conventions.md.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
import math

import numpy as np
from scipy.spatial.transform import Rotation

from ...core.geometry import inverse, make_T, quat_xyzw, R_BODY_OPTICAL, T_from_quat

#: Variance that says "unknown", as robot_localization and others read it.
UNKNOWN_VARIANCE = 1e6
#: Added to every published variance: a filter downstream inverts the matrix, and nothing that is
#: estimated from pictures is certain. A tenth of a millimetre, and 0.006 degrees.
_VARIANCE_FLOOR = 1e-8
#: The cosine of a tilt this small counts as 1.
_LEVEL = 1e-9
_X, _Z = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
UNKNOWN_COVARIANCE = np.eye(6) * UNKNOWN_VARIANCE


@dataclass(frozen=True, eq=False)
class Placement:
    """One frame's pose, in every frame that is published.

    :ivar T_world_camera: as the engine gave it, in its own length.
    :ivar map_covariance: (6, 6) of ``T_map_base``, in the axes of map, order x y z rx ry rz.
    :ivar odom_covariance: (6, 6) of ``T_odom_base``, in the axes of odom.
    :ivar twist: (6,) linear and angular velocity in the base frame; None where it is unknown.
    :ivar twist_covariance: (6, 6) in the base frame.
    """

    T_world_camera: np.ndarray
    T_map_base: np.ndarray
    T_odom_base: np.ndarray
    T_map_odom: np.ndarray
    map_covariance: np.ndarray
    odom_covariance: np.ndarray
    twist: np.ndarray | None
    twist_covariance: np.ndarray


class PoseChain:
    """Keeps ``odom`` continuous while the engine corrects its past.

    Odometry grows by the motion between two frames, both taken from the same state of the
    engine, so a correction moves ``map -> odom`` and never ``odom -> base``.

    :param T_base_optical: the camera on the base; identity if the camera is the base.
    :param starts_in_base: the map's axes are those of the base at the first frame. Otherwise the
        map is level if the camera was held upright.
    """

    def __init__(self, T_base_optical: np.ndarray, starts_in_base: bool) -> None:
        """Start a session with the base at the origin of map."""
        self.T_base_optical = T_base_optical
        self._T_optical_base = inverse(T_base_optical)
        self.T_map_world = T_base_optical
        if not starts_in_base:
            origin = -R_BODY_OPTICAL @ self._T_optical_base[:3, 3]
            self.T_map_world = make_T(R_BODY_OPTICAL, origin)
        #: Length of the engine's unit; None while it is unknown, and its units go out as they are.
        self.metres_per_unit: float | None = None
        #: Pose of the last frame that had one.
        self.last: Placement | None = None
        #: Where the base is to be in map, for which pose of the camera in the engine's world, and
        #: whether the tilt stays; taken over by the first frame that is placed.
        self.start: tuple[np.ndarray, np.ndarray, bool] | None = None
        #: How often the map was moved under the frames.
        self.moves = 0
        self._last_stamp_ns = 0
        self._starts_in_base = starts_in_base

    @property
    def unit(self) -> float:
        """Return what the engine's lengths are multiplied by."""
        return 1.0 if self.metres_per_unit is None else self.metres_per_unit

    @property
    def S_map_world(self) -> np.ndarray:
        """Return the (4, 4) similarity from the engine's points to those in map."""
        return self.T_map_world @ np.diag([self.unit] * 3 + [1.0])

    def frozen(self) -> PoseChain:
        """Return a copy that another thread may keep."""
        return copy.copy(self)

    def T_map_optical(self, T_world_camera: np.ndarray) -> np.ndarray:
        """Return the camera's pose in map; (..., 4, 4) in and out."""
        return self.T_map_world @ self._with_length(T_world_camera)

    def T_map_base(self, T_world_camera: np.ndarray) -> np.ndarray:
        """Return the base's pose in map; (..., 4, 4) in and out."""
        return self.T_map_optical(T_world_camera) @ self._T_optical_base

    def move_map(self, T_map_from: np.ndarray, T_map_to: np.ndarray, keeps_tilt: bool) -> None:
        """Move the map so that a base at ``T_map_from`` is at ``T_map_to``; odom stays.

        :param keeps_tilt: a level ``T_map_to`` tells position and heading alone, and what was
            level stays level. The heading is that of the camera if the camera is the base.
        """
        motion = T_map_to @ inverse(T_map_from)
        if keeps_tilt and T_map_to[2, 2] > 1.0 - _LEVEL:
            ahead = _X if not np.array_equal(self.T_base_optical, np.eye(4)) else _Z
            R = _about_z(_heading(T_map_to, _X) - _heading(T_map_from, ahead))
            motion = make_T(R, T_map_to[:3, 3] - R @ T_map_from[:3, 3])
        self.T_map_world = motion @ self.T_map_world
        self.moves += 1
        self.replace_last()

    def replace_last(self) -> None:
        """Place the last frame anew, after the map has moved or has another length."""
        if self.last is not None:
            self.last = self.placed_again(self.last)

    def placed_again(self, placement: Placement) -> Placement:
        """Return a frame's placement in the map as it is now; its place in odom stays."""
        T_map_base = self.T_map_base(placement.T_world_camera)
        turn = T_map_base @ inverse(placement.T_map_base)
        return replace(
            placement,
            T_map_base=T_map_base,
            T_map_odom=T_map_base @ inverse(placement.T_odom_base),
            map_covariance=_in_axes(turn, placement.map_covariance),
        )

    def _with_length(self, T: np.ndarray) -> np.ndarray:
        """Return motions of the camera (..., 4, 4) in metres, if they are known."""
        T = np.array(T, dtype=np.float64)
        T[..., :3, 3] *= self.unit
        return T

    def advance(
        self,
        stamp_ns: int,
        T_world_camera: np.ndarray,
        T_previous_camera: np.ndarray | None,
        covariance: np.ndarray | None,
        unscaled_factor: float,
        max_gap_s: float,
    ) -> Placement:
        """Place a new frame.

        :param T_previous_camera: the motion since the last frame that had a pose, both ends from
            the engine's present state; None for the first of a session.
        :param covariance: (6, 6) of the pose error in the camera frame, or None if unknown.
        :param unscaled_factor: multiplies the translation block while metres are not known.
        :param max_gap_s: a longer time since the last pose was not followed: neither a velocity
            nor where the base is in odom is claimed for its end; 0 for no limit.
        """
        if self.start is not None:
            (T_given, T_world_then, keeps_tilt), self.start = self.start, None
            self.move_map(self.T_map_base(T_world_then), T_given, keeps_tilt)
        T_map_base = self.T_map_base(T_world_camera)
        elapsed_s = (stamp_ns - self._last_stamp_ns) * 1e-9
        is_over_gap = self.last is not None and 0 < max_gap_s < elapsed_s
        twist = None
        if self.last is None or T_previous_camera is None:
            T_odom_base = T_map_base
        else:
            T_previous_optical = self._with_length(T_previous_camera)
            T_previous_base = self.T_base_optical @ T_previous_optical @ self._T_optical_base
            T_odom_base = _orthonormal(self.last.T_odom_base @ T_previous_base)
            if elapsed_s > 0 and not is_over_gap:
                twist = _twist(T_previous_base, elapsed_s)
        base_covariance = self._base_covariance(covariance, unscaled_factor)
        twist_covariance = UNKNOWN_COVARIANCE
        if twist is not None:
            # The difference of two poses that err alike, over the time between them.
            twist_covariance = _bounded(2.0 * base_covariance / elapsed_s**2)
        self.last = Placement(
            T_world_camera=T_world_camera,
            T_map_base=T_map_base,
            T_odom_base=T_odom_base,
            T_map_odom=T_map_base @ inverse(T_odom_base),
            map_covariance=_in_axes(T_map_base, base_covariance),
            odom_covariance=_in_axes(
                T_odom_base, UNKNOWN_COVARIANCE if is_over_gap else base_covariance
            ),
            twist=twist,
            twist_covariance=twist_covariance,
        )
        self._last_stamp_ns = stamp_ns
        return self.last

    def _base_covariance(self, covariance: np.ndarray | None, factor: float) -> np.ndarray:
        """Return the covariance of the base's pose, as a small motion in the base frame."""
        if covariance is None or not np.isfinite(covariance).all():
            return UNKNOWN_COVARIANCE
        adjoint = _adjoint(self.T_base_optical)
        unit = np.array([self.unit] * 3 + [1.0] * 3)
        covariance = covariance * np.outer(unit, unit)
        inflation = 1.0 if self.metres_per_unit is not None else math.sqrt(factor)
        scale = np.array([inflation] * 3 + [1.0] * 3)
        return _bounded(adjoint @ covariance @ adjoint.T * np.outer(scale, scale))


def without_motion(placement: Placement) -> Placement:
    """Return the same place with nothing claimed: for when it is only repeated."""
    return replace(
        placement,
        map_covariance=UNKNOWN_COVARIANCE,
        odom_covariance=UNKNOWN_COVARIANCE,
        twist=None,
        twist_covariance=UNKNOWN_COVARIANCE,
    )


def with_odometry_moved(placement: Placement, T_odom_own: np.ndarray) -> Placement:
    """Return a placement whose odometry is seen from another frame than it started in."""
    T_odom_base = T_odom_own @ placement.T_odom_base
    return replace(
        placement,
        T_odom_base=T_odom_base,
        T_map_odom=placement.T_map_base @ inverse(T_odom_base),
        odom_covariance=_in_axes(T_odom_own, placement.odom_covariance),
    )


def planar_map_odom(T_map_base: np.ndarray, T_odom_base: np.ndarray) -> np.ndarray:
    """Return ``T_map_odom`` with x, y and yaw alone, such that the base's own are kept.

    Projecting ``T_map_odom`` itself would not do: a degree of tilt between map and odom shifts a
    base that is far from the origin of odom.
    """
    R = _about_z(_heading(T_map_base, _X) - _heading(T_odom_base, _X))
    position = T_map_base[:3, 3] - R @ T_odom_base[:3, 3]
    return make_T(R, position * [1.0, 1.0, 0.0])


def _heading(T: np.ndarray, axis: np.ndarray) -> float:
    """Return the angle about z at which an axis of a frame points, radians."""
    x, y, _ = T[:3, :3] @ axis
    return math.atan2(y, x)


def _about_z(angle: float) -> np.ndarray:
    """Return the (3, 3) rotation about z."""
    return Rotation.from_euler('z', angle).as_matrix()


def _adjoint(T_target_source: np.ndarray) -> np.ndarray:
    """Return the (6, 6) map of small motions, translation first, from source to target."""
    R, (x, y, z) = T_target_source[:3, :3], T_target_source[:3, 3]
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.block([[R, cross @ R], [np.zeros((3, 3)), R]])


def _in_axes(T_parent_base: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Turn a covariance in base axes into the parent's axes, about the base's origin."""
    turn = np.kron(np.eye(2), T_parent_base[:3, :3])
    return turn @ covariance @ turn.T


def _bounded(covariance: np.ndarray) -> np.ndarray:
    """Return a covariance that is never zero and never worse than unknown."""
    covariance = covariance + np.eye(6) * _VARIANCE_FLOOR
    if not covariance.diagonal().max() < UNKNOWN_VARIANCE:
        return UNKNOWN_COVARIANCE
    return covariance


def _twist(T_previous_base: np.ndarray, elapsed_s: float) -> np.ndarray:
    """Return the mean velocity in the base frame at the end of the step."""
    R = T_previous_base[:3, :3]
    angular = Rotation.from_matrix(R).as_rotvec()
    return np.concatenate([R.T @ T_previous_base[:3, 3], angular]) / elapsed_s


def _orthonormal(T: np.ndarray) -> np.ndarray:
    """Remove what rounding adds over a million products."""
    return T_from_quat(T[:3, 3], quat_xyzw(T))
