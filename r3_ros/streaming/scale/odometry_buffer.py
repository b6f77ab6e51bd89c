"""Buffer of external odometry, indexed by time: written by the subscriber, read by the engine."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
import threading

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from ...geometry import is_rigid, make_T

_SECOND_NS = 1_000_000_000
#: Between poses farther apart nothing is claimed.
_LONGEST_GAP_NS = _SECOND_NS // 2


class OdometryTrack:
    """Poses of a robot in a frame that does not move, in metres. Any thread.

    :ivar T_base_camera: where the camera sits on what the poses are of.
    """

    def __init__(self, max_poses: int = 20_000) -> None:
        """Start empty; the oldest poses go first."""
        self.T_base_camera = np.eye(4)
        self._max_poses = max_poses
        self._stamps_ns: list[int] = []
        self._poses: list[np.ndarray] = []
        self._lock = threading.Lock()

    def add(self, stamp_ns: int, T_odom_base: np.ndarray) -> bool:
        """Take a pose in; False if it is none, or not later than the last."""
        if not is_rigid(T_odom_base):
            return False
        with self._lock:
            if self._stamps_ns and stamp_ns <= self._stamps_ns[-1]:
                return False
            self._stamps_ns.append(stamp_ns)
            self._poses.append(np.array(T_odom_base, dtype=np.float64))
            if len(self._stamps_ns) > self._max_poses:
                # Half at once: taking one off the front of a list moves all the others.
                del self._stamps_ns[: self._max_poses // 2], self._poses[: self._max_poses // 2]
            return True

    def extend(self, stamps_ns: Iterable[int], poses: Iterable[np.ndarray]) -> None:
        """Take a recording in, however long it is."""
        recorded = list(zip(stamps_ns, poses, strict=True))
        self._max_poses = max(self._max_poses, len(self._poses) + len(recorded))
        for stamp_ns, T_odom_base in recorded:
            self.add(int(stamp_ns), T_odom_base)

    def clear(self) -> None:
        """Forget all poses: time has jumped back."""
        with self._lock:
            self._stamps_ns.clear()
            self._poses.clear()

    def reaches(self, stamp_ns: int) -> bool:
        """Return whether odometry has come as far as this time."""
        with self._lock:
            return bool(self._stamps_ns) and self._stamps_ns[-1] >= stamp_ns

    def at(self, stamp_ns: int) -> np.ndarray | None:
        """Return ``T_odom_camera`` (4, 4) at a time, None where nothing was heard."""
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
        return _between(before, later, stamps_ns, stamp_ns) @ self.T_base_camera


def _between(
    before: np.ndarray, after: np.ndarray, stamps_ns: list[int], stamp_ns: int
) -> np.ndarray:
    """Return the pose between two, as if the motion between them were even."""
    share = (stamp_ns - stamps_ns[0]) / (stamps_ns[1] - stamps_ns[0])
    turns = Rotation.from_matrix(np.stack([before[:3, :3], after[:3, :3]]))
    position = before[:3, 3] + share * (after[:3, 3] - before[:3, 3])
    return make_T(Slerp([0.0, 1.0], turns)(share).as_matrix(), position)
