"""The furnished rooms of the synthetic world as clouds, with the ground plan that they have."""

from __future__ import annotations

from dataclasses import dataclass
import functools
from types import SimpleNamespace

import numpy as np
from r3_ros.core.datatypes import Intrinsics
from r3_ros.core.geometry import unproject

INTRINSICS = Intrinsics(138.0, 138.0, 95.5, 71.5, 192, 144)


@dataclass(frozen=True, eq=False)
class Survey:
    """A cloud of what cameras on a walk see of a room, and what stands where.

    :ivar points: (N, 3) float32, metres, z up, floor at 0.
    :ivar T_map_optical: (V, 4, 4); ``solids``: what stands in the room, walls included.
    :ivar size: (2,) of the floor, whose corner is the origin.
    """

    points: np.ndarray
    T_map_optical: np.ndarray
    solids: tuple
    size: np.ndarray

    def blocked(self, xy: np.ndarray, low: float, high: float, reach: float = 0.0) -> np.ndarray:
        """Return (N,) whether something stands within ``reach`` of (N, 2) places.

        :param low: heights between which it stands; ``high`` alike. A table is all that is
            below its top, as the camera has to keep away from it.
        """
        found = np.zeros(len(xy), bool)
        for solid in self.solids:
            bottom, top = solid.centre[2] - solid.half[2], solid.centre[2] + solid.half[2]
            if bottom > high or top < low:
                continue
            rel = xy - solid.centre[:2]
            c, s = np.cos(solid.yaw), np.sin(solid.yaw)
            x, y = c * rel[:, 0] + s * rel[:, 1], -s * rel[:, 0] + c * rel[:, 1]
            found |= (np.abs(x) <= solid.half[0] + reach) & (np.abs(y) <= solid.half[1] + reach)
        return found


@functools.cache
def survey(seed: int = 3, frames: int = 60) -> Survey:
    """Walk through a room and measure its geometry; nothing is painted or lit."""
    from r3_ros.learning.synth.facets import FacetTable
    from r3_ros.learning.synth.layout import room
    from r3_ros.learning.synth.path import make_path
    from r3_ros.learning.synth.raster import find_visible, project_facets
    import torch

    plan = room(np.random.default_rng(seed), 0)
    facets = FacetTable.from_specs(plan.assembly.facets, torch.device('cpu'))
    solids = tuple(plan.assembly.solids)
    world = SimpleNamespace(solids=solids, loop=plan.loop, look=plan.look, seed=seed, kind='room')
    T = make_path(world, frames, 1.0, seed).T_world_camera
    body = torch.eye(4, dtype=torch.float64)[None, None]
    K, clouds = INTRINSICS, []
    for pose in T:
        view = project_facets(facets, torch.linalg.inv(torch.from_numpy(pose))[None], body, K)
        seen = find_visible(view, 1, K, 1)
        depth = (1.0 / seen.untile(seen.inverse_depth, K)[0]).numpy().astype(np.float64)
        points = unproject(depth, K.fx, K.fy, K.cx, K.cy).reshape(-1, 3)
        points = points[np.isfinite(points).all(axis=1)]
        clouds.append(points @ pose[:3, :3].T + pose[:3, 3])
    points = np.concatenate(clouds)
    voxels = np.unique(np.floor(points / 0.02).astype(np.int64), axis=0, return_index=True)[1]
    floor = plan.assembly.facets[0]
    return Survey(points[voxels].astype(np.float32), T, solids, 2.0 * floor.centre[:2])
