"""The overlap of the views of two cameras, from their poses.

A frustum is represented by 32 fixed points at depths around the usual one of the scene. A point of
one camera counts for the other if it lies in the other's image and not far behind its scene,
weighted by the cosine between the two lines of sight: cameras that face each other do not see the
same surfaces. The overlap is the geometric mean of both directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.datatypes import Intrinsics

#: Points per frustum.
POINTS = 32
#: Steps of the additive sequence that spreads points evenly in a box: inverse powers of the real
#: root of x^4 = x + 1.
STEPS = (0.8191725134, 0.6710436067, 0.5497004779)
_LANES = np.arange(POINTS, dtype=np.float32)
#: (3, POINTS) positions across, down and in depth, 0 to 1.
_SPREAD = (np.float32(0.5) + _LANES * np.array(STEPS, np.float32)[:, None]) % 1
#: Range of the points' depths, as multiples of the scene's depth.
NEAR_POINTS, FAR_POINTS = 0.7, 1.4
#: Range of depths that a camera sees, as multiples of its scene's depth.
NEAREST, FARTHEST = 0.05, 3.0

#: A view as one row of float32: 9 of the rotation (row by row) and 3 of the centre of
#: ``T_world_camera``, 4 bounds of the image, the depth. Depth 0: there is no view.
ROTATION, CENTRE, BOUNDS, DEPTH = slice(0, 9), slice(9, 12), slice(12, 16), 16
VIEW_SIZE = 17


@dataclass(frozen=True, eq=False)
class CameraView:
    """Pose and frustum of a camera.

    :ivar T_world_camera: (4, 4) pose.
    :ivar bounds: left, right, top, bottom border of the image as x/z and y/z.
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
    def unpacked(cls, row: np.ndarray) -> CameraView | None:
        """Return the view of a packed row, None without one."""
        if row[DEPTH] <= 0:
            return None
        T_world_camera = np.eye(4)
        T_world_camera[:3, :3] = row[ROTATION].reshape(3, 3)
        T_world_camera[:3, 3] = row[CENTRE]
        left, right, top, bottom = (float(bound) for bound in row[BOUNDS])
        return cls(T_world_camera, (left, right, top, bottom), float(row[DEPTH]))


def image_bounds(intrinsics: Intrinsics) -> tuple[float, float, float, float]:
    """Return left, right, top and bottom border of an image as x/z and y/z."""
    k = intrinsics
    return (
        (-0.5 - k.cx) / k.fx,
        (k.width - 0.5 - k.cx) / k.fx,
        (-0.5 - k.cy) / k.fy,
        (k.height - 0.5 - k.cy) / k.fy,
    )


def view_overlaps(view: Any, others: Any, xp: Any = np) -> Any:
    """Return the (n,) float32 overlap of one packed view with (n, VIEW_SIZE) others, 0 to 1.

    :param xp: NumPy or CuPy, whose arrays are given and returned.
    """
    seen_by_others = _shares(view[None], others, xp)
    seen_by_view = _shares(others, view[None], xp)
    overlap = xp.sqrt(seen_by_others * seen_by_view)
    overlap[others[:, DEPTH] <= 0] = 0.0
    return overlap


def _shares(owners: Any, observers: Any, xp: Any) -> Any:
    """Return the share of the owners' points that the observers see; either may be one row."""
    across, down, in_depth = xp.asarray(_SPREAD)
    left, right, top, bottom = (owners[:, BOUNDS].T)[:, :, None]
    z = owners[:, DEPTH, None] * (NEAR_POINTS + (FAR_POINTS - NEAR_POINTS) * in_depth)
    rays = xp.stack([left + (right - left) * across, top + (bottom - top) * down], axis=1)
    in_owner = xp.concatenate([rays * z[:, None], z[:, None]], axis=1)  # (n, 3, 32)
    offset = owners[:, ROTATION].reshape(-1, 3, 3) @ in_owner
    away = offset + (owners[:, CENTRE] - observers[:, CENTRE])[:, :, None]
    R_observer_world = observers[:, ROTATION].reshape(-1, 3, 3).transpose(0, 2, 1)
    x, y, depth = xp.moveaxis(R_observer_world @ away, 1, 0)
    left, right, top, bottom = (observers[:, BOUNDS].T)[:, :, None]
    usual = observers[:, DEPTH, None]
    inside = (depth > NEAREST * usual) & (depth < FARTHEST * usual)
    inside &= (x >= left * depth) & (x <= right * depth)
    inside &= (y >= top * depth) & (y <= bottom * depth)
    lengths = xp.einsum('nij,nij->nj', offset, offset) * xp.einsum('nij,nij->nj', away, away)
    along = xp.einsum('nij,nij->nj', xp.broadcast_to(offset, away.shape), away)
    agreement = xp.maximum(along, 0.0) / xp.sqrt(xp.maximum(lengths, 1e-20))
    return (agreement * inside).mean(axis=1)
