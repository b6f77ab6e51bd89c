"""The coloured map: clouds of keyframes, one point per voxel, bounded.

Clouds of keyframes in the bank stay in their cameras' frames and are placed when a view is taken,
so a corrected pose moves its points. Those of keyframes that left follow a parent keyframe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..core.config import MapConfig
from ..core.geometry import inverse_similarity
from ..maps.cloud import Cloud

#: Bits of a voxel's coordinate along one axis; three of them share an int64.
_BITS = 21
_HALF = 1 << (_BITS - 1)
#: The parent of points that follow no keyframe: the world itself.
_WORLD = -1
#: Pose of points that are in their parent's own frame.
_HERE = np.eye(4)
_HERE.setflags(write=False)
#: Inherited blocks are merged up to about this many points, which bounds the time per frame.
_MERGE_POINTS = 200_000
#: At the bound this share of it is freed at once, since dropping points copies a block.
_FREED_SHARE = 0.02


@dataclass(frozen=True, eq=False)
class MapView:
    """An immutable snapshot; any thread may compute the points."""

    revision: int
    voxel_size: float
    placed: tuple[tuple[Cloud, np.ndarray], ...]  # cloud of a frame, with S_world_frame

    def cloud(self, max_points: int | None = None) -> Cloud:
        """Return the map in the world frame (first camera, optical axes).

        :param max_points: subsample to this many points, evenly over the voxels.
        """
        whole = self._whole
        if max_points is None or len(whole) <= max_points:
            return whole
        chosen = np.random.default_rng(0).choice(len(whole), max_points, replace=False)
        return whole.take(np.sort(chosen))

    @cached_property
    def _whole(self) -> Cloud:
        clouds = [cloud.moved(S_world_frame) for cloud, S_world_frame in self.placed]
        return voxelised(Cloud.joined(clouds), self.voxel_size)


class VoxelMap:
    """Points of keyframes, at most ``max_points`` in all; the oldest are dropped first."""

    def __init__(self, config: MapConfig) -> None:
        self.config = config
        self.revision = 0
        self.evicted = 0  # points dropped since there were too many
        self._count = 0  # of all points
        self._clouds: dict[int, Cloud] = {}  # keyframe id -> camera frame
        # By parent: clouds with S_parent_cloud, largest and oldest first.
        self._inherited: dict[int, list[tuple[Cloud, np.ndarray]]] = {}

    def __len__(self) -> int:
        return self._count

    def insert(self, keyframe_id: int, cloud: Cloud, scale: float = 1.0) -> None:
        """Add, or replace, the points of a keyframe in the bank.

        :param cloud: in the camera's frame and in the keyframe's own unit.
        :param scale: length of that unit in the world.
        """
        self._count -= len(self._clouds.get(keyframe_id, ()))
        thinned = self._clouds[keyframe_id] = voxelised(cloud, self.config.voxel_size / scale)
        self._count += len(thinned)
        self._keep_bound()
        self.revision += 1

    def restore(self, clouds: Mapping[int, Cloud]) -> None:
        """Start with the points of a loaded map.

        :param clouds: by the keyframe that they follow, in its frame and unit.
        """
        self._count -= sum(len(c) for blocks in self._inherited.values() for c, _ in blocks)
        self._inherited = {parent: [(cloud, _HERE)] for parent, cloud in clouds.items()}
        self._count += sum(map(len, clouds.values()))
        self._keep_bound()
        self.revision += 1

    def bake(self, keyframe_id: int, S_parent_camera: np.ndarray, parent: int | None) -> None:
        """Hand the points of a keyframe that leaves the bank, and its inherited ones, to another.

        :param parent: the keyframe that they follow from now on; None to keep them where they are
            in the world.
        """
        cloud = self._clouds.pop(keyframe_id, None)
        inherited = self._inherited.pop(keyframe_id, [])
        if not inherited and (cloud is None or not len(cloud)):
            return
        blocks = self._inherited.setdefault(_WORLD if parent is None else parent, [])
        blocks += [(block, S_parent_camera @ S_camera) for block, S_camera in inherited]
        if cloud is not None and len(cloud):
            blocks.append((cloud.moved(S_parent_camera), _HERE))
        self._merge(blocks)
        self.revision += 1

    def _merge(self, blocks: list[tuple[Cloud, np.ndarray]]) -> None:
        """Merge blocks of similar size, which keeps the work per point logarithmic."""
        while len(blocks) > 1:
            (before, S_before), (last, S_last) = blocks[-2:]
            if len(before) >= 2 * len(last) or len(before) + len(last) > _MERGE_POINTS:
                break
            if S_before is not S_last:
                last = last.moved(inverse_similarity(S_before) @ S_last)
            merged = voxelised(Cloud.joined([before, last]), self.config.voxel_size)
            self._count += len(merged) - len(before) - len(last)
            blocks[-2:] = [(merged, S_before)]

    def drop(self, keyframe_id: int) -> None:
        """Drop the points of a keyframe, and those it inherited."""
        self._count -= sum(len(cloud) for cloud, _ in self._inherited.pop(keyframe_id, []))
        cloud = self._clouds.pop(keyframe_id, None)
        if cloud is not None:
            self._count -= len(cloud)
            self.revision += 1

    def clouds(self, keyframe_ids: Iterable[int]) -> dict[int, Cloud]:
        """Return the points of those keyframes that have any, in their own frames and units."""
        return {i: self._clouds[i] for i in keyframe_ids if i in self._clouds}

    def widen(self, keyframe_ids: Iterable[int], across: float, down: float) -> None:
        """Multiply the lateral positions of points in the frames of their keyframes."""
        factors = np.array([across, down, 1.0], np.float32)
        for i in keyframe_ids:
            if i in self._clouds:
                cloud = self._clouds[i]
                self._clouds[i] = replace(cloud, points=cloud.points * factors)
                self.revision += 1

    def poses_changed(self) -> None:
        """Increase the revision after keyframe poses were corrected."""
        if self._clouds or self._inherited:
            self.revision += 1

    def clear(self) -> None:
        """Drop all points."""
        self._clouds.clear()
        self._inherited.clear()
        self._count = self.evicted = 0
        self.revision += 1

    def view(self, poses: Mapping[int, np.ndarray]) -> MapView:
        """Return a snapshot with the keyframes at these poses (``S_world_camera``)."""
        known = {**poses, _WORLD: _HERE}
        # The oldest first: points that share a voxel take the place of its first one.
        inherited = [
            (cloud, known[parent] @ S_parent_cloud)
            for parent in sorted(self._inherited)
            if parent in known
            for cloud, S_parent_cloud in self._inherited[parent]
        ]
        own = [(cloud, poses[i]) for i, cloud in self._clouds.items() if i in poses]
        return MapView(self.revision, self.config.voxel_size, (*inherited, *own))

    def _keep_bound(self) -> None:
        """Drop the oldest points beyond the bound, those of the newest keyframe last."""
        excess = len(self) - self.config.max_points
        if excess <= 0:
            return
        excess += int(_FREED_SHARE * self.config.max_points)
        self.evicted += min(excess, len(self))
        for parent in sorted(self._inherited):
            blocks = self._inherited[parent]
            while excess > 0 and blocks:
                oldest, S_parent_cloud = blocks[0]
                kept = oldest.take(np.arange(min(excess, len(oldest)), len(oldest)))
                excess -= len(oldest) - len(kept)
                self._count -= len(oldest) - len(kept)
                blocks[:1] = [(kept, S_parent_cloud)] if len(kept) else []
            if not blocks:
                del self._inherited[parent]
        for keyframe_id, cloud in self._clouds.items():
            if excess <= 0:
                return
            kept = cloud.take(np.arange(min(excess, len(cloud)), len(cloud)))
            excess -= len(cloud) - len(kept)
            self._count -= len(cloud) - len(kept)
            self._clouds[keyframe_id] = kept


def voxelised(cloud: Cloud, voxel_size: float) -> Cloud:
    """Return one point per voxel: means weighted by confidence, and the highest confidence.

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
    # Back from the order of voxels to that of the points, oldest first.
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
