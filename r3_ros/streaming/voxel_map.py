"""The coloured map: clouds of keyframes, one point a voxel, bounded.

Clouds of keyframes in the bank stay in their cameras' frames and are placed when the map is
looked at, so a rewritten keyframe pose moves its points. A keyframe that leaves the bank leaves
its points behind in the world, where they stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..cloud import Cloud
from ..config import MapConfig

#: Bits of a voxel's coordinate along one axis; three of them share an int64.
_BITS = 21
_HALF = 1 << (_BITS - 1)
#: Baked blocks grow by merging up to about this many points, so that no frame pays for more.
_MERGE_POINTS = 200_000
#: At the bound this share of it is freed at once: dropping copies a block.
_FREED_SHARE = 0.02


@dataclass(frozen=True, eq=False)
class MapView:
    """An immutable snapshot; another thread may turn it into points."""

    revision: int
    voxel_size: float
    placed: tuple[tuple[Cloud, np.ndarray], ...]  # camera-frame cloud, S_world_camera
    baked: tuple[Cloud, ...]  # world frame

    def cloud(self, max_points: int | None = None) -> Cloud:
        """Return the map in the world frame (first camera, optical axes).

        :param max_points: thin the map out to this many points, evenly over its voxels.
        """
        whole = self._whole
        if max_points is None or len(whole) <= max_points:
            return whole
        chosen = np.random.default_rng(0).choice(len(whole), max_points, replace=False)
        return whole.take(np.sort(chosen))

    @cached_property
    def _whole(self) -> Cloud:
        clouds = [cloud.moved(S_world_camera) for cloud, S_world_camera in self.placed]
        return voxelised(Cloud.joined([*self.baked, *clouds]), self.voxel_size)


class VoxelMap:
    """Points of keyframes, at most ``max_points`` in all; the oldest go first."""

    def __init__(self, config: MapConfig) -> None:
        """Start empty."""
        self.config = config
        self.revision = 0
        self._clouds: dict[int, Cloud] = {}  # keyframe id -> camera frame
        self._baked: list[Cloud] = []  # world frame, largest and oldest first

    def __len__(self) -> int:
        """Return the number of points kept, those in a shared voxel counted each."""
        return sum(map(len, self._clouds.values())) + sum(map(len, self._baked))

    def insert(self, keyframe_id: int, cloud: Cloud, scale: float = 1.0) -> None:
        """Add, or replace, the points of a keyframe in the bank.

        :param cloud: in the camera's frame and in the keyframe's own unit.
        :param scale: length of that unit in the world; later ones come with the poses.
        """
        self._clouds[keyframe_id] = voxelised(cloud, self.config.voxel_size / scale)
        self._keep_bound()
        self.revision += 1

    def bake(self, keyframe_id: int, S_world_camera: np.ndarray) -> None:
        """Fix the points of a keyframe that leaves the bank where they are."""
        cloud = self._clouds.pop(keyframe_id, None)
        if cloud is None or not len(cloud):
            return
        self._baked.append(cloud.moved(S_world_camera))
        # Merging only blocks of like size keeps the work per point logarithmic.
        while len(self._baked) > 1:
            before, last = map(len, self._baked[-2:])
            if before >= 2 * last or before + last > _MERGE_POINTS:
                break
            pair = Cloud.joined([self._baked.pop(-2), self._baked.pop()])
            self._baked.append(voxelised(pair, self.config.voxel_size))
        self.revision += 1

    def drop(self, keyframe_id: int) -> None:
        """Forget the points of a keyframe whose place in the world was never known."""
        if self._clouds.pop(keyframe_id, None) is not None:
            self.revision += 1

    def clouds(self, keyframe_ids: Iterable[int]) -> dict[int, Cloud]:
        """Return the points of those keyframes that have any, in their own frames and units."""
        return {i: self._clouds[i] for i in keyframe_ids if i in self._clouds}

    def poses_changed(self) -> None:
        """Note that keyframe poses were rewritten: the map looks different now."""
        if self._clouds:
            self.revision += 1

    def clear(self) -> None:
        """Drop all points."""
        self._clouds.clear()
        self._baked.clear()
        self.revision += 1

    def view(self, poses: Mapping[int, np.ndarray]) -> MapView:
        """Return a snapshot with the keyframes at the poses given (``S_world_camera``)."""
        placed = tuple(
            (cloud, poses[keyframe_id])
            for keyframe_id, cloud in self._clouds.items()
            if keyframe_id in poses
        )
        return MapView(self.revision, self.config.voxel_size, placed, tuple(self._baked))

    def _keep_bound(self) -> None:
        """Drop the oldest points beyond the bound, those of the newest keyframe last."""
        excess = len(self) - self.config.max_points
        if excess > 0:
            excess += int(_FREED_SHARE * self.config.max_points)
        while excess > 0 and self._baked:
            oldest = self._baked[0]
            kept = oldest.take(np.arange(min(excess, len(oldest)), len(oldest)))
            excess -= len(oldest) - len(kept)
            self._baked[:1] = [kept] if len(kept) else []
        for keyframe_id in list(self._clouds):
            if excess <= 0:
                return
            cloud = self._clouds[keyframe_id]
            kept = cloud.take(np.arange(min(excess, len(cloud)), len(cloud)))
            excess -= len(cloud) - len(kept)
            self._clouds[keyframe_id] = kept


def voxelised(cloud: Cloud, voxel_size: float) -> Cloud:
    """Return one point a voxel: means weighted by confidence, and the highest confidence.

    Points beyond the grid (about a million voxels from the origin) are left out.
    """
    cells = np.floor(cloud.points / voxel_size)
    inside = np.all(np.abs(cells) < _HALF, axis=1)
    if not inside.all():
        cloud, cells = cloud.take(inside), cells[inside]
    if not len(cloud):
        return cloud
    cells = cells.astype(np.int64) + _HALF
    keys = (cells[:, 0] << (2 * _BITS)) | (cells[:, 1] << _BITS) | cells[:, 2]
    order = np.argsort(keys)
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    weights = np.maximum(cloud.confidence[order].astype(np.float64), 1e-6)
    totals = np.add.reduceat(weights, starts)
    # Sorted by voxel, the oldest points could not be told any more: back to first-come order.
    first_come = np.argsort(np.minimum.reduceat(order, starts))

    def mean(values: np.ndarray) -> np.ndarray:
        # Column by column: reduceat over rows is slower.
        columns = [np.add.reduceat(c[order] * weights, starts) / totals for c in values.T]
        return np.stack(columns, axis=1)[first_come]

    return Cloud(
        mean(cloud.points).astype(np.float32),
        np.rint(mean(cloud.colors)).astype(np.uint8),
        np.maximum.reduceat(cloud.confidence[order], starts)[first_come],
    )
