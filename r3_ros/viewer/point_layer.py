"""The cloud in the browser: blocks that are sent once, in two levels of detail."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from ..core.geometry import quat_xyzw, rigid_part, scale_of, transform
from ..maps.cloud import Cloud

if TYPE_CHECKING:
    import viser

#: A cloud with its pose: ``S_map_cloud`` (4, 4), which may have a scale.
PlacedCloud = tuple[Cloud, np.ndarray]

ROOT = '/points'
#: The points of one block, at most. A change of one point sends its whole block again.
BLOCK_POINTS = 40_000
#: Every so many points of a block are always drawn.
COARSE_STEP = 8
#: Points on a surface that are so much sparser fill it if they are so much larger.
_COARSE_SIZE = COARSE_STEP**0.5
#: Points among which the distance of neighbours is measured.
_SPACING_POINTS = 20_000
#: The nearest points are drawn in full up to this many in all.
MOST_DRAWN = 300_000


@dataclass(eq=False)
class _Block:
    """Points of one cloud.

    :ivar cloud: kept so that no other object gets its identity.
    :ivar handles: coarse points, and those between them once they were near a camera.
    """

    name: str
    cloud: Cloud
    rows: slice
    S_map_cloud: np.ndarray
    points: int = 0
    centre: np.ndarray = field(default_factory=lambda: np.zeros(3))
    reach: float = 0.0
    coarse: Any = None
    fine: Any = None

    @property
    def handles(self) -> list[Any]:
        return [handle for handle in (self.coarse, self.fine) if handle is not None]

    @property
    def position(self) -> np.ndarray:
        return transform(self.S_map_cloud, self.centre)

    @property
    def wxyz(self) -> np.ndarray:
        return np.roll(quat_xyzw(rigid_part(self.S_map_cloud)), 1)

    @property
    def scale(self) -> float:
        return float(scale_of(self.S_map_cloud))


class PointLayer:
    """Sends what is new or has changed. Not thread-safe.

    :ivar sent_blocks: blocks that were sent so far, those sent again counted.
    """

    def __init__(self, server: viser.ViserServer) -> None:
        self._api = server.scene
        self._blocks: dict[tuple[int, int], _Block] = {}
        self._numbers = count()
        self._size = 1.0
        self._least_confidence = -np.inf
        self._most_drawn = MOST_DRAWN
        self._spacing = 0.0
        self._measured_points = 0
        self.sent_blocks = 0
        self._root = self._api.add_frame(ROOT, show_axes=False)

    def __len__(self) -> int:
        return sum(block.rows.stop - block.rows.start for block in self._blocks.values())

    @property
    def drawn(self) -> int:
        """Number of points that the browser draws."""
        return sum(
            len(handle.points)
            for block in self._blocks.values()
            for handle in block.handles
            if handle.visible
        )

    def show(self, placed: Iterable[PlacedCloud]) -> None:
        """Show these clouds alone. A cloud is known by its identity: its arrays never change."""
        wanted = {
            (id(cloud), first): (cloud, S_map_cloud)
            for cloud, S_map_cloud in placed
            for first in range(0, len(cloud), BLOCK_POINTS)
        }
        for key in self._blocks.keys() - wanted.keys():
            _remove(self._blocks.pop(key))
        if not self._blocks:
            self._measured_points = 0
        for key, (cloud, S_map_cloud) in wanted.items():
            block = self._blocks.get(key)
            if block is None:
                rows = slice(key[1], min(key[1] + BLOCK_POINTS, len(cloud)))
                name = f'{ROOT}/{next(self._numbers)}'
                block = self._blocks[key] = _Block(name, cloud, rows, S_map_cloud)
                self._measure_spacing()
                self._send(block)
            elif not np.array_equal(block.S_map_cloud, S_map_cloud):
                block.S_map_cloud = S_map_cloud
                _place(block)

    def refine(self, cameras: Sequence[np.ndarray]) -> None:
        """Draw the blocks nearest to the cameras (3,) in full, as far as the budget allows."""
        left = self._most_drawn - sum(_length(block.coarse) for block in self._blocks.values())
        for block in sorted(self._blocks.values(), key=lambda block: _distance(block, cameras)):
            fine_points = block.points - _length(block.coarse)
            is_near = 0 < fine_points <= left
            left -= fine_points if is_near else 0
            if is_near and block.fine is None:
                block.fine = self._add(block, self._kept(block), coarse=False)
            if block.fine is not None:
                block.fine.visible = is_near
            self._resize(block)

    def set_size(self, factor: float) -> None:
        """Draw points larger by a factor than their distance from one another."""
        self._size = factor
        for block in self._blocks.values():
            self._resize(block)

    def set_most_drawn(self, points: int) -> None:
        """Change the budget of :meth:`refine`."""
        self._most_drawn = points

    def set_hidden_share(self, share: float) -> None:
        """Hide this share of the points that are there now, the least confident ones."""
        blocks = self._blocks.values()
        self._least_confidence = -np.inf
        if share > 0 and blocks:
            confidence = np.concatenate([b.cloud.confidence[b.rows] for b in blocks])
            self._least_confidence = float(np.quantile(confidence, share))
        for block in blocks:
            _remove(block)
            self._send(block)

    def set_visible(self, visible: bool) -> None:
        """Show or hide the layer."""
        self._root.visible = visible

    def bounds(self) -> tuple[np.ndarray, float] | None:
        """Return the middle (3,) of the points and the distance within which most of them are."""
        blocks = [block for block in self._blocks.values() if block.coarse is not None]
        if not blocks:
            return None
        sample = np.concatenate(
            [transform(b.S_map_cloud, b.cloud.points[b.rows][:: 8 * COARSE_STEP]) for b in blocks]
        )
        middle = np.median(sample, axis=0)
        return middle, float(np.percentile(np.linalg.norm(sample - middle, axis=1), 85))

    def _measure_spacing(self) -> None:
        """Measure the distance of neighbouring points, again when there are twice as many."""
        if len(self) < 2 * self._measured_points:
            return
        self._measured_points = len(self)
        largest = max(self._blocks.values(), key=lambda block: block.rows.stop - block.rows.start)
        points = largest.cloud.points[largest.rows][:_SPACING_POINTS]
        if len(points) > 1:
            distances = cKDTree(points).query(points, k=2)[0][:, 1]
            # Sizes are in the unit of each block.
            self._spacing = float(np.median(distances))
        for block in self._blocks.values():
            self._resize(block)

    def _send(self, block: _Block) -> None:
        self.sent_blocks += 1
        kept = self._kept(block)
        block.points = len(kept)
        if not len(kept):
            return
        low, high = kept.points.min(axis=0), kept.points.max(axis=0)
        block.centre, block.reach = 0.5 * (low + high), 0.5 * float(np.linalg.norm(high - low))
        block.coarse = self._add(block, kept, coarse=True)

    def _kept(self, block: _Block) -> Cloud:
        cloud = block.cloud.take(block.rows)
        return cloud.take(cloud.confidence >= self._least_confidence)

    def _add(self, block: _Block, kept: Cloud, coarse: bool) -> Any:
        chosen = (np.arange(len(kept)) % COARSE_STEP == 0) == coarse
        return self._api.add_point_cloud(
            f'{block.name}/{"coarse" if coarse else "fine"}',
            # Half precision, which viser sends, is enough near the middle of a block.
            kept.points[chosen] - block.centre,
            kept.colors[chosen],
            point_size=self._size * self._spacing,
            point_shading='flat',
            scale=block.scale,
            wxyz=block.wxyz,
            position=block.position,
        )

    def _resize(self, block: _Block) -> None:
        size = self._size * self._spacing
        is_full = block.fine is not None and block.fine.visible
        for handle, factor in (
            (block.coarse, 1.0 if is_full else _COARSE_SIZE),
            (block.fine, 1.0),
        ):
            if handle is not None:
                handle.point_size = size * factor


def _length(handle: Any) -> int:
    return 0 if handle is None else len(handle.points)


def _distance(block: _Block, cameras: Sequence[np.ndarray]) -> float:
    """Return the distance of a block from the nearest camera, 0 inside of it."""
    if not cameras:
        return 0.0
    distances = np.linalg.norm(np.asarray(cameras) - block.position, axis=1)
    return max(float(distances.min()) - block.reach, 0.0)


def _place(block: _Block) -> None:
    for handle in block.handles:
        handle.scale, handle.wxyz, handle.position = block.scale, block.wxyz, block.position


def _remove(block: _Block) -> None:
    for handle in block.handles:
        handle.remove()
    block.coarse = block.fine = None
