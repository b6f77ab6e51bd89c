"""The search for the camera in a loaded map."""

from __future__ import annotations

from concurrent.futures import Future
import math
import time

import numpy as np

from ...core.geometry import inverse
from ...maps.saved_map import MapFacts, SavedMap
from ...streaming.relocalisation.search import Vicinity
from ..tf.initial_pose import InitialPose

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
        self._extent = _extent(saved)
        self._began_s = time.monotonic()

    def lasts_longer_than(self, timeout_s: float) -> bool:
        """Return whether the time is up."""
        return time.monotonic() - self._began_s > timeout_s

    def end(self, reason: str = '') -> None:
        """Set the answer."""
        if not self.answer.done():
            self.answer.set_result(reason)

    def near(self, T_map_base: np.ndarray, T_base_optical: np.ndarray) -> Vicinity:
        """Return the vicinity of an initial pose without covariance."""
        return self._vicinity(T_map_base, T_base_optical, _FAR_SHARE * self._extent)

    def near_given(self, given: InitialPose, T_base_optical: np.ndarray) -> Vicinity:
        """Return the vicinity of an initial pose: three standard deviations of its position."""
        variance = float(given.covariance.diagonal()[:2].max())
        if not variance > 0:
            return self.near(given.T_map_base, T_base_optical)
        radius = max(3.0 * math.sqrt(variance), _LEAST_SHARE * self._extent)
        return self._vicinity(given.T_map_base, T_base_optical, radius)

    def _vicinity(
        self, T_map_base: np.ndarray, T_base_optical: np.ndarray, radius: float
    ) -> Vicinity:
        """Return the vicinity in the engine's world and unit."""
        T = inverse(self.facts.T_map_world) @ T_map_base @ T_base_optical
        T[:3, 3] /= self.facts.unit
        return Vicinity(T, radius / self.facts.unit, _ANGLE)


def mounting(facts: MapFacts, T_base_optical: np.ndarray | None) -> np.ndarray:
    """Return the mounting of the camera; that of the saved map while the own is unknown."""
    return facts.T_base_optical if T_base_optical is None else T_base_optical


def _extent(saved: SavedMap) -> float:
    """Return the diagonal of the box around the keyframes, and around the points if larger."""
    centres = saved.keyframes.T_map_optical[:, :3, 3]
    extents = [float(np.linalg.norm(centres.max(axis=0) - centres.min(axis=0)))]
    if saved.bounds is not None:
        # Half, since a few points may be far away.
        extents.append(0.5 * float(np.linalg.norm(saved.bounds[1] - saved.bounds[0])))
    return max(*extents, 1e-6)
