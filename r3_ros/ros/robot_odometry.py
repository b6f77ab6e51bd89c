"""Where the robot says that its base is in odom, at the stamps of pictures.

A picture is placed as soon as the engine is done with it, and the robot's transform for its stamp
may come later. Such pictures wait here, so that neither the engine nor the executor does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
import threading
import time
from typing import Any

import numpy as np

from ..config import R3Config
from ..errors import TransformError
from .frame_tree import TransformTree
from .health import TransformHealth
from .poses import Placement

#: More wait only where frames come faster than anybody's transforms.
_MOST_WAITING = 64
_WARN_PERIOD_S = 5.0


@dataclass(frozen=True, eq=False)
class _Waiting:
    stamp_ns: int
    placement: Placement
    base_frame: str
    until_s: float


class RobotOdometry:
    """Pairs placed pictures with the robot's ``odom -> base`` at their stamps. Any thread."""

    def __init__(
        self,
        config: R3Config,
        tree: TransformTree,
        health: TransformHealth,
        logger: Any,
        on_found: Callable[[int, Placement, np.ndarray], None],
    ) -> None:
        """Wait for nothing.

        :param on_found: gets the stamp, the placement and the robot's ``T_odom_base``, in the
            order of the pictures, in the thread that found it.
        """
        self.config = config
        self._tree = tree
        self._health = health
        self._logger = logger
        self._on_found = on_found
        # Held while on_found runs, which keeps the order.
        self._lock = threading.RLock()
        self._waiting: deque[_Waiting] = deque(maxlen=_MOST_WAITING)

    def offer(self, stamp_ns: int, placement: Placement, base_frame: str) -> None:
        """Pair a picture now, or as soon as the robot has told, or give up after the timeout."""
        until_s = time.monotonic() + self.config.tf_lookup_timeout
        with self._lock:
            self._waiting.append(_Waiting(stamp_ns, placement, base_frame, until_s))
            self.look()

    def look(self) -> None:
        """Look again for those that wait; cheap while none does."""
        if not self._waiting:
            return
        with self._lock:
            while self._waiting:
                first = self._waiting[0]
                try:
                    T_odom_base = self.at(first.stamp_ns, first.base_frame)
                except TransformError as error:
                    if time.monotonic() < first.until_s:
                        return
                    self._waiting.popleft()
                    self.fail(str(error))
                else:
                    self._waiting.popleft()
                    self._on_found(first.stamp_ns, first.placement, T_odom_base)

    def move_map(self, moved: Callable[[Placement], Placement]) -> None:
        """Take over that the map has moved under the frames that wait."""
        with self._lock:
            waiting = [replace(each, placement=moved(each.placement)) for each in self._waiting]
            self._waiting.clear()
            self._waiting.extend(waiting)

    def forget(self) -> None:
        """Drop those that wait."""
        with self._lock:
            self._waiting.clear()

    def at(self, stamp_ns: int, base_frame: str) -> np.ndarray:
        """Return the robot's ``T_odom_base`` (4, 4) at a time.

        :raises TransformError: the robot has not told it, perhaps not yet.
        """
        return self._tree.pose_at(self.config.odom_frame, base_frame, stamp_ns)

    def at_or_newest(self, stamp_ns: int, base_frame: str) -> np.ndarray | None:
        """Return ``T_odom_base`` (4, 4) at a time, or the newest; None if there is none at all.

        For what people ask by hand, where the newest is what they see; never for a picture.
        """
        try:
            return self.at(stamp_ns, base_frame)
        except TransformError:
            pass
        try:
            return self._tree.newest_pose(self.config.odom_frame, base_frame)
        except TransformError:
            return None

    def fail(self, problem: str) -> None:
        """Count a picture whose transform did not come."""
        count = self._health.fail_lookup(problem)
        self._logger.warning(
            "no transform from the robot's base to odom at the stamp of a picture, so map -> odom "
            f'stays as it is: {problem} (tf_lookup_failures: {count})',
            throttle_duration_sec=_WARN_PERIOD_S,
        )
