"""The coloured map: clouds of keyframes, one point a voxel, bounded.

Clouds of keyframes in the bank stay in their cameras' frames and are placed when the map is
looked at, so a rewritten keyframe pose moves its points. A keyframe that leaves the bank leaves
its points to another one, which they follow from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..config import MapConfig
from ..maps.cloud import Cloud
from .similarity import inverse_similarity

#: Bits of a voxel's coordinate along one axis; three of them share an int64.
_BITS = 21
_HALF = 1 << (_BITS - 1)
#: The heir of points that follow no keyframe: the world itself.
_WORLD = -1
#: Of points that are in their heir's own frame.
_HERE = np.eye(4)
_HERE.setflags(write=False)
#: Inherited blocks grow by merging up to about this many points, so that no frame pays for more.
_MERGE_POINTS = 200_000
#: At the bound this share of it is freed at once: dropping copies a block.
_FREED_SHARE = 0.02


@dataclass(frozen=True, eq=False)
class MapView:
    """An immutable snapshot; another thread may turn it into points."""

    revision: int
    voxel_size: float
    placed: tuple[tuple[Cloud, np.ndarray], ...]  # cloud of a frame, S_world_frame

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
        clouds = [cloud.moved(S_world_frame) for cloud, S_world_frame in self.placed]
        return voxelised(Cloud.joined(clouds), self.voxel_size)


class VoxelMap:
    """Points of keyframes, at most ``max_points`` in all; the oldest go first."""

    def __init__(self, config: MapConfig) -> None:
        """Start empty."""
        self.config = config
        self.revision = 0
        #: Points that had to go because there were too many.
        self.evicted = 0
        self._count = 0  # of points in all
        self._clouds: dict[int, Cloud] = {}  # keyframe id -> camera frame
        # By heir: clouds with S_heir_cloud, largest and oldest first.
        self._inherited: dict[int, list[tuple[Cloud, np.ndarray]]] = {}

    def __len__(self) -> int:
        """Return the number of points kept, those in a shared voxel counted each."""
        return self._count

    def insert(self, keyframe_id: int, cloud: Cloud, scale: float = 1.0) -> None:
        """Add, or replace, the points of a keyframe in the bank.

        :param cloud: in the camera's frame and in the keyframe's own unit.
        :param scale: length of that unit in the world; later ones come with the poses.
        """
        self._count -= len(self._clouds.get(keyframe_id, ()))
        thinned = self._clouds[keyframe_id] = voxelised(cloud, self.config.voxel_size / scale)
        self._count += len(thinned)
        self._keep_bound()
        self.revision += 1

    def restore(self, clouds: Mapping[int, Cloud]) -> None:
        """Take over the points of a map that was loaded.

        :param clouds: by the keyframe that they follow, in its frame and unit.
        """
        self._count -= sum(len(c) for blocks in self._inherited.values() for c, _ in blocks)
        self._inherited = {heir: [(cloud, _HERE)] for heir, cloud in clouds.items()}
        self._count += sum(map(len, clouds.values()))
        self._keep_bound()
        self.revision += 1

    def bake(
        self,
        keyframe_id: int,
        S_world_camera: np.ndarray,
        heir: int | None = None,
        S_world_heir: np.ndarray | None = None,
    ) -> None:
        """Leave the points of a keyframe that leaves the bank, and all it inherited, to another.

        :param heir: the keyframe that they follow from now on; without one they stay in the
            world where they are.
        """
        cloud = self._clouds.pop(keyframe_id, None)
        inherited = self._inherited.pop(keyframe_id, [])
        if not inherited and (cloud is None or not len(cloud)):
            return
        S_heir_camera = S_world_camera
        if heir is not None and S_world_heir is not None:
            S_heir_camera = inverse_similarity(S_world_heir) @ S_world_camera
        blocks = self._inherited.setdefault(_WORLD if heir is None else heir, [])
        for block, S_camera_block in inherited:
            blocks.append((block, S_heir_camera @ S_camera_block))
        if cloud is not None and len(cloud):
            blocks.append((cloud.moved(S_heir_camera), _HERE))
        self._merge(blocks)
        self.revision += 1

    def _merge(self, blocks: list[tuple[Cloud, np.ndarray]]) -> None:
        """Merge blocks of like size, which keeps the work per point logarithmic."""
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
        """Forget the points of a keyframe, and all it inherited."""
        self._count -= sum(len(cloud) for cloud, _ in self._inherited.pop(keyframe_id, []))
        cloud = self._clouds.pop(keyframe_id, None)
        if cloud is not None:
            self._count -= len(cloud)
            self.revision += 1

    def clouds(self, keyframe_ids: Iterable[int]) -> dict[int, Cloud]:
        """Return the points of those keyframes that have any, in their own frames and units."""
        return {i: self._clouds[i] for i in keyframe_ids if i in self._clouds}

    def poses_changed(self) -> None:
        """Note that keyframe poses were rewritten: the map looks different now."""
        if self._clouds or self._inherited:
            self.revision += 1

    def clear(self) -> None:
        """Drop all points."""
        self._clouds.clear()
        self._inherited.clear()
        self._count = self.evicted = 0
        self.revision += 1

    def view(self, poses: Mapping[int, np.ndarray]) -> MapView:
        """Return a snapshot with the keyframes at the poses given (``S_world_camera``)."""
        placed = [
            (cloud, poses[keyframe_id])
            for keyframe_id, cloud in self._clouds.items()
            if keyframe_id in poses
        ]
        known = {**poses, _WORLD: _HERE}
        # The oldest first: where points share a voxel, theirs is the first in line.
        inherited = [
            (cloud, known[heir] @ S_heir_cloud)
            for heir in sorted(self._inherited)
            if heir in known
            for cloud, S_heir_cloud in self._inherited[heir]
        ]
        return MapView(self.revision, self.config.voxel_size, (*inherited, *placed))

    def _keep_bound(self) -> None:
        """Drop the oldest points beyond the bound, those of the newest keyframe last."""
        excess = len(self) - self.config.max_points
        if excess > 0:
            excess += int(_FREED_SHARE * self.config.max_points)
            self.evicted += min(excess, len(self))
        for heir in sorted(self._inherited):
            blocks = self._inherited[heir]
            while excess > 0 and blocks:
                oldest, S_heir_cloud = blocks[0]
                kept = oldest.take(np.arange(min(excess, len(oldest)), len(oldest)))
                excess -= len(oldest) - len(kept)
                self._count -= len(oldest) - len(kept)
                blocks[:1] = [(kept, S_heir_cloud)] if len(kept) else []
            if not blocks:
                del self._inherited[heir]
        for keyframe_id in list(self._clouds):
            if excess <= 0:
                return
            cloud = self._clouds[keyframe_id]
            kept = cloud.take(np.arange(min(excess, len(cloud)), len(cloud)))
            excess -= len(cloud) - len(kept)
            self._count -= len(cloud) - len(kept)
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
