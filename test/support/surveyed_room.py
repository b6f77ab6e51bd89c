"""The furnished rooms of the synthetic world as clouds, with the ground plan that they have."""

from __future__ import annotations

from dataclasses import dataclass
import functools
from types import SimpleNamespace

import numpy as np
from r3_ros.core.datatypes import Intrinsics, SparseLandmarks
from r3_ros.core.geometry import inverse, unproject
from r3_ros.maps.cloud import Cloud
from r3_ros.maps.keyframe_images import encode_image
from r3_ros.maps.saved_map import (
    MapFacts,
    SavedEdges,
    SavedKeyframes,
    SavedMap,
    SavedTrajectory,
)

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
    from r3_ros.learning.synth.kinds import room
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


START_NS = 1_700_000_000_000_000_000


def room_map(metres_per_unit=None, images=True, **facts):
    """Return the map of a synthetic room with its landmarks exactly where they are seen."""
    room = survey(3)
    T, rng = room.T_map_optical[::6], np.random.default_rng(0)
    count, K = len(T), INTRINSICS
    ids = np.arange(count) * 7 + 2
    marks = rng.choice(room.points, 400, replace=False).astype(np.float64)
    seen_by, rows, pixels = [], [], []
    for n in range(count):
        seen = (marks - T[n, :3, 3]) @ T[n, :3, :3]
        pixel = seen[:, :2] / seen[:, 2:] * [K.fx, K.fy] + [K.cx, K.cy]
        inside = (pixel > 0).all(1) & (pixel < [K.width - 1, K.height - 1]).all(1)
        inside &= seen[:, 2] > 0.2
        rows.append(np.flatnonzero(inside))
        seen_by.append(np.full(inside.sum(), ids[n]))
        pixels.append(pixel[inside])
    image = rng.integers(0, 255, (K.height, K.width, 3), dtype=np.uint8)
    descriptors = rng.normal(size=(count, 8)).astype(np.float32)
    colors = rng.integers(0, 255, room.points.shape, dtype=np.uint8)
    return SavedMap(
        facts=MapFacts(
            r3_ros_version='0.1.0',
            model_name='classical',
            checkpoint_sha256=None,
            descriptor_size=8,
            image_size=(K.width, K.height),
            map_frame='map',
            base_frame='base_link',
            optical_frame='camera',
            T_base_optical=inverse(T[0]),
            T_map_world=np.eye(4),
            metres_per_unit=metres_per_unit,
            scale_source='none' if metres_per_unit is None else 'fixed',
            voxel_size=0.02,
            saved_ns=START_NS,
            **facts,
        ),
        keyframes=SavedKeyframes(
            ids=ids,
            stamps_ns=START_NS + ids * 10**8,
            T_map_optical=T,
            K=np.repeat(K.K[None], count, axis=0),
            sizes=np.tile(np.array([K.width, K.height], np.int32), (count, 1)),
            confidences=np.ones((count, 2)),
            variances=np.full((count, 2), 1e-4),
            descriptors=descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True),
            segments=np.zeros(count, np.int32),
        ),
        edges=SavedEdges(ids[:-1], ids[1:], inverse(T[:-1]) @ T[1:], np.ones((count - 1, 2))),
        points=Cloud(room.points, colors, np.ones(len(room.points), np.float32)),
        trajectory=SavedTrajectory(START_NS + np.arange(60) * 10**8, room.T_map_optical),
        landmarks=SparseLandmarks(
            marks,
            np.full(len(marks), 0.01),
            np.concatenate(seen_by),
            np.concatenate(rows),
            np.concatenate(pixels),
        ),
        images={int(i): encode_image(image) for i in ids} if images else {},
    )
