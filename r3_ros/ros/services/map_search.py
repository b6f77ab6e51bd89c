"""The search for the camera in a loaded map."""

from __future__ import annotations

from concurrent.futures import Future
import math
import time

import numpy as np

from ...core.geometry import inverse
from ...maps.saved_map import SavedMap
from ...streaming.relocalisation.search import Vicinity

#: Search radius around an initial pose as a share of the map's extent: without a covariance, and
#: the lower limit with one.
_FAR_SHARE = 0.25
_LEAST_SHARE = 0.05
#: Search range of the rotation: the tilt of a hand-held camera is not in an initial pose.
_ANGLE = math.pi / 2


class MapSearch:
    """The search for the camera in a loaded map. Worker thread, except ``answer``.

    :ivar facts: of the map.
    :ivar answer: the reason why the camera was not found; empty if it was.
    """

    def __init__(self, saved: SavedMap) -> None:
        self.facts = saved.facts
        self.answer: Future[str] = Future()
        self.began_s = time.monotonic()
        # The diagonal of the box around the keyframes, and around the points if larger.
        centres = saved.keyframes.T_map_optical[:, :3, 3]
        extents = [float(np.linalg.norm(np.ptp(centres, axis=0)))]
        if saved.bounds is not None:
            # Half, since a few points may be far away.
            extents.append(0.5 * float(np.linalg.norm(saved.bounds[1] - saved.bounds[0])))
        self._extent = max(*extents, 1e-6)

    def end(self, reason: str = '') -> None:
        """Set the answer."""
        if not self.answer.done():
            self.answer.set_result(reason)

    def near(
        self,
        T_map_base: np.ndarray,
        T_base_optical: np.ndarray | None,
        covariance: np.ndarray | None = None,
    ) -> Vicinity:
        """Return the vicinity of an initial pose, in the engine's world and unit.

        :param T_base_optical: mounting of the camera; None while it is unknown: that of the map.
        :param covariance: (6, 6) of the pose: three standard deviations of its position count.
        """
        variance = 0.0 if covariance is None else float(covariance.diagonal()[:2].max())
        radius = _FAR_SHARE * self._extent
        if variance > 0:
            radius = max(3.0 * math.sqrt(variance), _LEAST_SHARE * self._extent)
        mounting = self.facts.T_base_optical if T_base_optical is None else T_base_optical
        T = inverse(self.facts.T_map_world) @ T_map_base @ mounting
        T[:3, 3] /= self.facts.unit
        return Vicinity(T, radius / self.facts.unit, _ANGLE)
