"""The robot's ``odom -> base`` at the stamps of images.

It may be received after the image was processed. Such images wait here, so that neither the worker
nor the executor has to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
import threading
import time
from typing import Any

import numpy as np

from ...core.config import R3Config
from ...core.errors import TransformError
from ..outputs.health import TransformHealth
from .frame_tree import TransformTree
from .pose_chain import Placement

_MOST_WAITING = 64
_WARN_PERIOD_S = 5.0


@dataclass(frozen=True, eq=False)
class _Waiting:
    stamp_ns: int
    placement: Placement
    base_frame: str
    until_s: float


class RobotOdometry:
    """Finds the robot's ``odom -> base`` at the stamps of processed images. Any thread.

    :param on_found: called with the stamp, the placement and the robot's ``T_odom_base``, in the
        order of the images, in the thread that found it.
    """

    def __init__(
        self,
        config: R3Config,
        tree: TransformTree,
        health: TransformHealth,
        logger: Any,
        on_found: Callable[[int, Placement, np.ndarray], None],
    ) -> None:
        self.config = config
        self._tree = tree
        self._health = health
        self._logger = logger
        self._on_found = on_found
        # Held while on_found runs, which keeps the order.
        self._lock = threading.RLock()
        self._waiting: deque[_Waiting] = deque(maxlen=_MOST_WAITING)

    def offer(self, stamp_ns: int, placement: Placement, base_frame: str) -> None:
        """Look up the transform of an image now or later, until the timeout."""
        until_s = time.monotonic() + self.config.tf_lookup_timeout
        with self._lock:
            self._waiting.append(_Waiting(stamp_ns, placement, base_frame, until_s))
            self.look()

    def look(self) -> None:
        """Look up the transforms of waiting images again."""
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
        """Move the waiting images with the map."""
        with self._lock:
            waiting = [replace(each, placement=moved(each.placement)) for each in self._waiting]
            self._waiting.clear()
            self._waiting.extend(waiting)

    def forget(self) -> None:
        """Drop the waiting images."""
        with self._lock:
            self._waiting.clear()

    def at(self, stamp_ns: int, base_frame: str) -> np.ndarray:
        """Return the robot's ``T_odom_base`` (4, 4) at a time.

        :raises TransformError: it was not received, perhaps not yet.
        """
        return self._tree.pose_at(self.config.odom_frame, base_frame, stamp_ns)

    def at_or_newest(self, stamp_ns: int, base_frame: str) -> np.ndarray | None:
        """Return ``T_odom_base`` (4, 4) at a time, or the newest; None if there is none at all.

        For poses given by a user, who sees the newest; never for an image.
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
        """Count an image without a transform."""
        count = self._health.fail_lookup(problem)
        self._logger.warning(
            "no transform from the robot's base to odom at the stamp of an image, so map -> odom "
            f'is not updated: {problem} (tf_lookup_failures: {count})',
            throttle_duration_sec=_WARN_PERIOD_S,
        )
