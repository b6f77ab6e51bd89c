"""Buffer of external odometry, indexed by time: written by the subscriber, read by the engine."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
import threading

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from ...core.geometry import is_rigid, make_T
from ...core.trajectory_file import NANOSECONDS

#: Poses farther apart are not interpolated.
_LONGEST_GAP_NS = NANOSECONDS // 2


class OdometryBuffer:
    """Poses of a robot in a fixed frame, in metres. Any thread.

    :ivar T_base_camera: (4, 4) the camera on the body of the poses.
    """

    def __init__(self, max_poses: int = 20_000) -> None:
        self.T_base_camera = np.eye(4)
        self._max_poses = max_poses
        self._stamps_ns: list[int] = []
        self._poses: list[np.ndarray] = []
        self._lock = threading.Lock()

    def add(self, stamp_ns: int, T_odom_base: np.ndarray) -> bool:
        """Add a pose; False if it is not rigid, or not later than the last."""
        if not is_rigid(T_odom_base):
            return False
        with self._lock:
            if self._stamps_ns and stamp_ns <= self._stamps_ns[-1]:
                return False
            self._stamps_ns.append(stamp_ns)
            self._poses.append(np.array(T_odom_base, dtype=np.float64))
            if len(self._stamps_ns) > self._max_poses:
                # Half at once, since removing one from the front of a list moves all others.
                del self._stamps_ns[: self._max_poses // 2], self._poses[: self._max_poses // 2]
            return True

    def extend(self, stamps_ns: Iterable[int], poses: Iterable[np.ndarray]) -> None:
        """Add all poses of a recording, beyond ``max_poses`` if need be."""
        recorded = list(zip(stamps_ns, poses, strict=True))
        self._max_poses = max(self._max_poses, len(self._poses) + len(recorded))
        for stamp_ns, T_odom_base in recorded:
            self.add(int(stamp_ns), T_odom_base)

    def clear(self) -> None:
        """Drop all poses: time has jumped back."""
        with self._lock:
            self._stamps_ns.clear()
            self._poses.clear()

    def reaches(self, stamp_ns: int) -> bool:
        """Return whether there is odometry of this time or later."""
        with self._lock:
            return bool(self._stamps_ns) and self._stamps_ns[-1] >= stamp_ns

    def at(self, stamp_ns: int) -> np.ndarray | None:
        """Return ``T_odom_camera`` (4, 4) at a time, None outside the poses and in gaps."""
        with self._lock:
            after = bisect.bisect_left(self._stamps_ns, stamp_ns)
            if after == len(self._stamps_ns):
                return None
            if self._stamps_ns[after] == stamp_ns:
                return self._poses[after] @ self.T_base_camera
            if after == 0:
                return None
            stamps_ns = self._stamps_ns[after - 1 : after + 1]
            before, later = self._poses[after - 1 : after + 1]
        if stamps_ns[1] - stamps_ns[0] > _LONGEST_GAP_NS:
            return None
        share = (stamp_ns - stamps_ns[0]) / (stamps_ns[1] - stamps_ns[0])
        turns = Rotation.from_matrix(np.stack([before[:3, :3], later[:3, :3]]))
        position = before[:3, 3] + share * (later[:3, 3] - before[:3, 3])
        return make_T(Slerp([0.0, 1.0], turns)(share).as_matrix(), position) @ self.T_base_camera
