"""What a grid on ``~/occupancy`` is made of, and what is said where none can be made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..config import R3Config
from ..datatypes import Intrinsics
from ..errors import OccupancyError
from ..geometry import transform
from ..maps.occupancy_grid import FREE, occupancy_grid, OccupancyGrid, OCCUPIED
from .poses import PoseChain

if TYPE_CHECKING:
    from ..streaming.session import Session
    from ..streaming.trajectory import TrajectoryView
    from ..streaming.voxel_map import MapView

#: Diagnostics look for this.
NOT_PUBLISHED = 'not published'
_NO_METRES = f'{NOT_PUBLISHED}: metres are not known, see scale.source'


@dataclass(frozen=True, eq=False)
class GridJob:
    """Snapshots of all that a grid is made of."""

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


class OccupancyTopic:
    """Makes grids, and remembers how that went.

    :ivar state: for diagnostics: what is published, or why nothing is.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        """Start with nothing published; ``tell`` logs."""
        self.state = ''
        self._tell = tell

    def has_metres(self, chain: PoseChain) -> bool:
        """Tell whether a grid can be made at all; nav2 takes its lengths for metres."""
        if chain.metres_per_unit is None:
            self._enter(_NO_METRES)
            return False
        return True

    def build(self, job: GridJob, config: R3Config) -> OccupancyGrid | None:
        """Return the grid; None if the map gives none."""
        T_world_camera = job.keyframes.T_final
        T_world_camera = T_world_camera[np.isfinite(T_world_camera[:, 0, 0])]
        try:
            grid = occupancy_grid(
                transform(job.chain.S_map_world, job.map_view.cloud().points),
                job.chain.T_map_optical(T_world_camera),
                job.intrinsics,
                config.occupancy,
            )
        except OccupancyError as error:
            self._enter(f'{NOT_PUBLISHED}: {error}')
            return None
        height, width = grid.cells.shape
        cells = f'{grid.count(OCCUPIED)} occupied, {grid.count(FREE)} free'
        self._enter('published', f'{width} x {height} cells, {cells}')
        return grid

    def _enter(self, state: str, details: str = '') -> None:
        """Note the state; tell it once, not with each picture."""
        told = f'{state}: {details}' if details else state
        if not self.state.startswith(state):
            self._tell(f'occupancy grid {told}')
        self.state = told
