"""How much of what one camera sees another one sees too, from their poses alone.

A frustum stands for 32 fixed points spread evenly in it, at depths around the usual one of the
scene. A point of one camera counts for the other if it lies in the other's picture and not
far behind its scene, and the less the more the two lines of sight to it differ: cameras that face
each other see the same space but not the same surfaces. The overlap is the geometric mean of both
directions, so a close-up of a corner of the other picture is no full overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..datatypes import Intrinsics

#: One point for each lane of a warp.
POINTS = 32
#: Steps of the additive sequence that spreads points evenly in a box, whatever their number:
#: powers of the real root of x^4 = x + 1, inverted.
STEPS = (0.8191725134, 0.6710436067, 0.5497004779)
#: Between these multiples of the depth of the scene the points lie.
NEAR_POINTS, FAR_POINTS = 0.7, 1.4
#: What lies nearer or farther than these multiples of a camera's depth is not seen by it.
NEAREST, FARTHEST = 0.05, 3.0

#: A view as one row of float32: 9 of the rotation (row by row) and 3 of the centre of
#: ``T_world_camera``, 4 bounds of the picture, the depth. Depth 0: not known where it looks.
ROTATION, CENTRE, BOUNDS, DEPTH = slice(0, 9), slice(9, 12), slice(12, 16), 16
VIEW_SIZE = 17


@dataclass(frozen=True, eq=False)
class View:
    """Where a camera looks, how wide, and how far away things are.

    :ivar T_world_camera: (4, 4) pose.
    :ivar bounds: left, right, top, bottom border of the picture as x/z and y/z.
    :ivar depth: usual depth of the scene in map units, positive.
    """

    T_world_camera: np.ndarray
    bounds: tuple[float, float, float, float]
    depth: float

    def packed(self) -> np.ndarray:
        """Return the (VIEW_SIZE,) float32 row."""
        row = np.empty(VIEW_SIZE, np.float32)
        row[ROTATION] = self.T_world_camera[:3, :3].reshape(-1)
        row[CENTRE] = self.T_world_camera[:3, 3]
        row[BOUNDS] = self.bounds
        row[DEPTH] = self.depth
        return row

    @classmethod
    def unpacked(cls, row: np.ndarray) -> View | None:
        """Return the view of a packed row, None if it is not known where the camera looks."""
        if row[DEPTH] <= 0:
            return None
        T_world_camera = np.eye(4)
        T_world_camera[:3, :3] = row[ROTATION].reshape(3, 3)
        T_world_camera[:3, 3] = row[CENTRE]
        left, right, top, bottom = (float(bound) for bound in row[BOUNDS])
        return cls(T_world_camera, (left, right, top, bottom), float(row[DEPTH]))


def picture_bounds(intrinsics: Intrinsics) -> tuple[float, float, float, float]:
    """Return left, right, top and bottom border of a picture as x/z and y/z."""
    k = intrinsics
    return (
        (-0.5 - k.cx) / k.fx,
        (k.width - 0.5 - k.cx) / k.fx,
        (-0.5 - k.cy) / k.fy,
        (k.height - 0.5 - k.cy) / k.fy,
    )


def view_overlaps(view: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the (n,) float32 overlap of one packed view with (n, VIEW_SIZE) others, 0 to 1."""
    seen_by_others = _shares(view[None], others)
    seen_by_view = _shares(others, view[None])
    overlap: np.ndarray = np.sqrt(seen_by_others * seen_by_view)
    overlap[others[:, DEPTH] <= 0] = 0.0
    return overlap


def rough_overlap(view: np.ndarray, middles: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Return the (n,) rough overlap that chooses which views are worth a closer look.

    A few passes over all keyframes: how near the middles of the two frusta are, and how alike
    their directions. Generous, since what it leaves out is not looked at again.

    :param middles: (3, n) float32 points on the optical axes at the depth of the scene.
    :param axes: (3, n) float32 unit vectors along the optical axes.
    """
    axis = view[ROTATION][2::3]
    depth = view[DEPTH]
    middle = view[CENTRE] + depth * axis
    away = middles - middle[:, None]
    left, right, top, bottom = view[BOUNDS]
    reach = 1.5 * depth * max(right - left, bottom - top, 1.0)
    near = 1.0 - np.einsum('ij,ij->j', away, away) / np.float32(reach * reach)
    np.maximum(near, 0.0, out=near)
    rough: np.ndarray = near * np.maximum(axis @ axes, 0.0)
    return rough


def _spread() -> np.ndarray:
    """Return (3, POINTS) float32: how far across, down and in depth the points are, 0 to 1."""
    lane = np.arange(POINTS, dtype=np.float32)
    place: np.ndarray = (np.float32(0.5) + lane * np.array(STEPS, np.float32)[:, None]) % 1
    return place


_ACROSS, _DOWN, _IN_DEPTH = _spread()
_FACTOR = NEAR_POINTS + (FAR_POINTS - NEAR_POINTS) * _IN_DEPTH


def _shares(owners: np.ndarray, observers: np.ndarray) -> np.ndarray:
    """Return how much of the owners' points the observers see; one of the two may be one row."""
    left, right, top, bottom = (owners[:, BOUNDS].T)[:, :, None]
    z = owners[:, DEPTH, None] * _FACTOR
    rays = np.stack([left + (right - left) * _ACROSS, top + (bottom - top) * _DOWN], axis=1)
    in_owner = np.concatenate([rays * z[:, None], z[:, None]], axis=1)  # (n, 3, 32)
    offset = owners[:, ROTATION].reshape(-1, 3, 3) @ in_owner
    away = offset + (owners[:, CENTRE] - observers[:, CENTRE])[:, :, None]
    R_observer_world = observers[:, ROTATION].reshape(-1, 3, 3).transpose(0, 2, 1)
    x, y, depth = np.moveaxis(R_observer_world @ away, 1, 0)
    left, right, top, bottom = (observers[:, BOUNDS].T)[:, :, None]
    usual = observers[:, DEPTH, None]
    inside = (depth > NEAREST * usual) & (depth < FARTHEST * usual)
    inside &= (x >= left * depth) & (x <= right * depth)
    inside &= (y >= top * depth) & (y <= bottom * depth)
    lengths = np.einsum('nij,nij->nj', offset, offset) * np.einsum('nij,nij->nj', away, away)
    along = np.einsum('nij,nij->nj', np.broadcast_to(offset, away.shape), away)
    agreement = np.maximum(along, 0.0) / np.sqrt(np.maximum(lengths, 1e-20))
    return np.asarray((agreement * inside).mean(axis=1), dtype=np.float32)
