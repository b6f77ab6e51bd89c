"""The grid on ``~/occupancy``, and the reason why none is published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import threading

import numpy as np

from ...core.config import R3Config
from ...core.datatypes import Intrinsics
from ...core.errors import OccupancyError
from ...core.geometry import transform
from ...maps.occupancy_grid import FREE, occupancy_grid, OccupancyGrid, OCCUPIED
from ...streaming.session import Session
from ...streaming.trajectory import TrajectoryView
from ...streaming.voxel_map import MapView
from ..tf.pose_chain import PoseChain

#: Diagnostics warn of an outcome that begins with this.
NOT_PUBLISHED = 'not published'
_NO_METRIC_SCALE = f'{NOT_PUBLISHED}: the metric scale is unknown, see scale.source'


@dataclass(frozen=True, eq=False)
class GridJob:
    """Snapshots from which a grid is built."""

    map_view: MapView
    keyframes: TrajectoryView
    chain: PoseChain
    intrinsics: Intrinsics | None
    stamp_ns: int

    @classmethod
    def of(cls, session: Session, chain: PoseChain, stamp_ns: int) -> GridJob:
        """Take the snapshots. Worker thread."""
        newest = session.bank.ids()[-1:]
        intrinsics = session.bank.intrinsics(newest[0]) if newest else None
        return cls(session.map_view(), session.keyframe_record(), chain, intrinsics, stamp_ns)

    def build(self, config: R3Config) -> tuple[OccupancyGrid | None, str, str]:
        """Return the grid, None if the map gives none; the outcome as text, and details."""
        T_world_camera = self.keyframes.T_final
        T_world_camera = T_world_camera[np.isfinite(T_world_camera[:, 0, 0])]
        try:
            grid = occupancy_grid(
                transform(self.chain.S_map_world, self.map_view.cloud().points),
                self.chain.T_map_optical(T_world_camera),
                self.intrinsics,
                config.occupancy,
            )
        except OccupancyError as error:
            return None, f'{NOT_PUBLISHED}: {error}', ''
        height, width = grid.cells.shape
        cells = f'{grid.count(OCCUPIED)} occupied, {grid.count(FREE)} free'
        return grid, 'published', f'{width} x {height} cells, {cells}'


class OccupancyOutcome:
    """Outcome of the last grid, as text. Written by the worker and by the cloud thread.

    :param log: gets a line when the outcome changes.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self._state = ''
        self._log = log
        self._lock = threading.Lock()

    @property
    def state(self) -> str:
        """Return the outcome; empty before the first grid."""
        return self._state

    def forget(self) -> None:
        """Reset the outcome: the map is empty."""
        with self._lock:
            self._state = ''

    def has_metres(self, chain: PoseChain) -> bool:
        """Return whether the scale is known; a grid's lengths must be metres."""
        if chain.metres_per_unit is None:
            self.note(_NO_METRIC_SCALE)
            return False
        return True

    def note(self, state: str, details: str = '') -> None:
        """Set the outcome; log it if it has changed."""
        described = f'{state}: {details}' if details else state
        with self._lock:
            is_news = not self._state.startswith(state)
            self._state = described
        if is_news:
            self._log(f'occupancy grid {described}')
