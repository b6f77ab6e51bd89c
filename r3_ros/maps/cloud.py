"""Coloured points from depth maps, without unreliable pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.config import PointsConfig
from ..core.datatypes import DepthMap
from ..core.geometry import transform, unproject


@dataclass(frozen=True, eq=False)
class Cloud:
    """Coloured points with confidence.

    :ivar points: (N, 3) float32, map units.
    :ivar colors: (N, 3) uint8 RGB.
    :ivar confidence: (N,) float32, dimensionless.
    """

    points: np.ndarray
    colors: np.ndarray
    confidence: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    @classmethod
    def empty(cls) -> Cloud:
        """Return a cloud of no points."""
        return cls(
            np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8), np.empty(0, np.float32)
        )

    @classmethod
    def joined(cls, clouds: list[Cloud]) -> Cloud:
        """Concatenate clouds."""
        if not clouds:
            return cls.empty()
        parts = ((cloud.points, cloud.colors, cloud.confidence) for cloud in clouds)
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def take(self, selection: np.ndarray | slice) -> Cloud:
        """Return the points selected by a mask, by indices or by a slice."""
        return Cloud(self.points[selection], self.colors[selection], self.confidence[selection])

    def moved(self, T: np.ndarray) -> Cloud:
        """Return the cloud in another frame, by ``T_target_source`` (4, 4)."""
        return Cloud(transform(T, self.points), self.colors, self.confidence)

    def scaled(self, unit: float) -> Cloud:
        """Return the cloud with all positions multiplied by ``unit``."""
        if unit == 1.0:
            return self
        return Cloud(self.points * np.float32(unit), self.colors, self.confidence)


#: A point with its colour as the bits of a float, 0x00RRGGBB, as in PCD files and ROS messages.
PACKED = np.dtype([(name, '<f4') for name in ('x', 'y', 'z', 'rgb', 'confidence')])


def packed(points: np.ndarray, colors: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Return (...) rows of :data:`PACKED`, in the shape of the confidence."""
    rows = np.empty(confidence.shape, dtype=PACKED)
    for axis, name in enumerate('xyz'):
        rows[name] = points[..., axis]
    red, green, blue = np.moveaxis(colors.astype('<u4'), -1, 0)
    rows['rgb'] = ((red << 16) | (green << 8) | blue).view('<f4')
    rows['confidence'] = confidence
    return rows


def unpacked(rows: np.ndarray) -> Cloud:
    """Return the cloud of (N,) rows of :data:`PACKED`, without points that are not finite."""
    points = np.stack([rows[axis] for axis in 'xyz'], axis=1).astype(np.float32, copy=False)
    bits = np.ascontiguousarray(rows['rgb'], '<f4').view('<u4')
    colors = np.stack([bits >> 16, bits >> 8, bits], axis=1).astype(np.uint8)
    cloud = Cloud(points, colors, rows['confidence'].astype(np.float32))
    return cloud.take(np.flatnonzero(np.isfinite(points).all(axis=1)))


def usable_pixels(depth_map: DepthMap, options: PointsConfig) -> np.ndarray:
    """Return the (h', w') mask of the usable pixels, on the grid of ``points.stride``.

    Left out: unknown depth, outside of the range along the ray, low confidence, and depth edges,
    where a pixel mixes two surfaces.
    """
    step, K = options.stride, depth_map.intrinsics
    depth = depth_map.depth[::step, ::step]
    confidence = depth_map.confidence[::step, ::step]
    usable = np.isfinite(depth) & (depth > 0) & np.isfinite(confidence)
    usable &= confidence >= options.min_confidence
    x = ((np.arange(0, depth_map.depth.shape[1], step) - K.cx) / K.fx).astype(np.float32)
    y = ((np.arange(0, depth_map.depth.shape[0], step) - K.cy) / K.fy).astype(np.float32)
    ranges = depth * np.sqrt(1.0 + x**2 + y[:, None] ** 2)
    usable &= ranges >= options.min_range
    if options.max_range > 0:
        usable &= ranges <= options.max_range
    if options.edge_threshold > 0:
        usable &= ~_depth_edges(depth, options.edge_threshold)
    if options.confidence_percentile > 0 and usable.any():
        # >=: of pixels with equal confidence none is dropped.
        usable &= confidence >= np.percentile(confidence[usable], options.confidence_percentile)
    return usable


def _depth_edges(depth: np.ndarray, threshold: float) -> np.ndarray:
    """Return the mask of pixels whose depth differs from a neighbour's by a relative threshold."""
    edges = np.zeros(depth.shape, dtype=bool)
    for axis in (0, 1):
        near = np.swapaxes(depth, 0, axis)
        with np.errstate(invalid='ignore'):  # unknown depth is no edge
            step = np.abs(np.diff(near, axis=0)) > threshold * np.minimum(near[1:], near[:-1])
        marked = np.swapaxes(edges, 0, axis)  # a view of edges
        marked[1:] |= step
        marked[:-1] |= step
    return edges


def cloud_from_depth(depth_map: DepthMap, options: PointsConfig) -> Cloud:
    """Return at most ``points.max_points`` of a depth map, in its camera's optical frame."""
    step, K = options.stride, depth_map.intrinsics
    chosen = np.flatnonzero(usable_pixels(depth_map, options))
    if len(chosen) > options.max_points:
        chosen = chosen[np.linspace(0, len(chosen) - 1, options.max_points).astype(np.int64)]
    points = unproject(depth_map.depth, K.fx, K.fy, K.cx, K.cy, step)
    # Several times faster than masks on strided views.
    return Cloud(
        points.reshape(-1, 3)[chosen].astype(np.float32, copy=False),
        np.take(depth_map.image[::step, ::step].reshape(-1, 3), chosen, axis=0),
        depth_map.confidence[::step, ::step].ravel()[chosen].astype(np.float32, copy=False),
    )
