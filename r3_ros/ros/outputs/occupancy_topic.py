"""The grid on ``~/occupancy``, and the reason why none is published."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.config import OccupancyConfig
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
NO_METRIC_SCALE = f'{NOT_PUBLISHED}: the metric scale is unknown, see scale.source'


@dataclass(frozen=True, eq=False)
class GridJob:
    """Snapshots from which a grid is built."""

    map_view: MapView
    keyframes: TrajectoryView
    chain: PoseChain
    intrinsics: Intrinsics | None

    @classmethod
    def of(cls, session: Session, chain: PoseChain) -> GridJob:
        """Take the snapshots. Worker thread."""
        newest = session.bank.ids()[-1:]
        intrinsics = session.bank.intrinsics(newest[0]) if newest else None
        return cls(session.map_view(), session.keyframe_record(), chain, intrinsics)

    def build(self, config: OccupancyConfig) -> tuple[OccupancyGrid | None, str, str]:
        """Return the grid, None if the map gives none; the outcome as text, and details."""
        T_world_camera = self.keyframes.T_final
        T_world_camera = T_world_camera[np.isfinite(T_world_camera[:, 0, 0])]
        try:
            grid = occupancy_grid(
                transform(self.chain.S_map_world, self.map_view.cloud().points),
                self.chain.T_map_optical(T_world_camera),
                self.intrinsics,
                config,
            )
        except OccupancyError as error:
            return None, f'{NOT_PUBLISHED}: {error}', ''
        height, width = grid.cells.shape
        cells = f'{grid.count(OCCUPIED)} occupied, {grid.count(FREE)} free'
        return grid, 'published', f'{width} x {height} cells, {cells}'
