"""Points from depth: where they should be, and without the pixels that would lie."""

from dataclasses import replace

import numpy as np
import pytest
from r3_ros.core.config import PointsConfig
from r3_ros.core.datatypes import DepthMap, Intrinsics
from r3_ros.core.geometry import transform
from r3_ros.maps.cloud import Cloud, cloud_from_depth, usable_pixels
from r3_ros.maps.depth_colors import depth_colors
from scripted import circle, frames, intrinsics, ROOM, room_depth, START_NS

#: Nothing is left out.
ALL = PointsConfig(
    stride=1,
    min_confidence=0.0,
    confidence_percentile=0.0,
    min_range=0.0,
    max_range=0.0,
    edge_threshold=0.0,
)


def flat_depth(depth=2.0, height=12, width=16):
    """Return a wall across the view; colours and confidences differ from pixel to pixel."""
    number = np.arange(height * width).reshape(height, width)
    return DepthMap(
        frame_id=0,
        depth=np.full((height, width), depth, np.float32),
        confidence=(1.0 + number).astype(np.float32),
        image=np.stack([number % 256, number // 256, number % 7], axis=-1).astype(np.uint8),
        intrinsics=Intrinsics(20.0, 20.0, 7.5, 5.5, width, height),
    )


def test_points_lie_on_the_walls_with_their_own_colour():
    path = circle()
    frame = next(frames(1))
    depth_map = room_depth(frame, path(START_NS), intrinsics(), (24, 32))
    cloud = cloud_from_depth(depth_map, ALL)
    assert len(cloud) == 24 * 32
    room = transform(path(START_NS), cloud.points)
    assert np.abs(np.abs(room / ROOM).max(axis=1) - 1.0).max() < 1e-5
    np.testing.assert_array_equal(cloud.colors, depth_map.image.reshape(-1, 3))
    np.testing.assert_array_equal(cloud.confidence, depth_map.confidence.ravel())
    assert (cloud.points.dtype, cloud.colors.dtype) == (np.float32, np.uint8)


@pytest.mark.parametrize('stride', [1, 2, 5])
def test_a_stride_keeps_the_pixels_where_they_are(stride):
    depth_map = flat_depth()
    whole = cloud_from_depth(depth_map, ALL)
    grid = np.arange(12 * 16).reshape(12, 16)[::stride, ::stride].ravel()
    thinned = cloud_from_depth(depth_map, replace(ALL, stride=stride))
    np.testing.assert_allclose(thinned.points, whole.points[grid], atol=1e-6)
    np.testing.assert_array_equal(thinned.colors, whole.colors[grid])
    np.testing.assert_array_equal(thinned.confidence, whole.confidence[grid])


def test_unknown_pixels_give_no_point():
    depth_map = flat_depth()
    bad = [np.nan, np.inf, -np.inf, 0.0, -1.0]
    depth_map.depth.flat[:5] = bad
    depth_map.confidence.flat[5:7] = [np.nan, np.inf]
    with np.errstate(all='raise'):
        cloud = cloud_from_depth(depth_map, replace(ALL, edge_threshold=0.0))
        edged = cloud_from_depth(depth_map, replace(ALL, edge_threshold=0.05))
    assert len(cloud) == 12 * 16 - 7
    assert np.isfinite(cloud.points).all() and np.isfinite(edged.points).all()
    depth_map.depth[:] = np.nan
    assert len(cloud_from_depth(depth_map, PointsConfig())) == 0


def test_unsure_pixels_are_dropped():
    depth_map = flat_depth()
    assert len(cloud_from_depth(depth_map, replace(ALL, min_confidence=101.0))) == 92
    quarter_off = cloud_from_depth(depth_map, replace(ALL, confidence_percentile=25.0))
    assert len(quarter_off) == 144
    assert quarter_off.confidence.min() > 48
    depth_map.confidence[:] = 3.0
    # Of equally sure pixels none is dropped.
    assert len(cloud_from_depth(depth_map, replace(ALL, confidence_percentile=90.0))) == 192


def test_range_is_measured_along_the_ray():
    depth_map = flat_depth(depth=2.0)
    ranges = np.linalg.norm(cloud_from_depth(depth_map, ALL).points, axis=1)
    limit = float(np.median(ranges))
    near = cloud_from_depth(depth_map, replace(ALL, max_range=limit))
    far = cloud_from_depth(depth_map, replace(ALL, min_range=limit))
    assert len(near) == (ranges <= limit).sum() and len(far) == (ranges >= limit).sum()
    assert 0 < len(near) < 192
    np.testing.assert_array_equal(
        usable_pixels(depth_map, replace(ALL, max_range=limit)).ravel(), ranges <= limit
    )


def test_depth_edges_are_dropped_on_both_sides():
    depth_map = flat_depth()
    depth_map.depth[:, 8:] = 3.0
    usable = usable_pixels(depth_map, replace(ALL, edge_threshold=0.05))
    expected = np.ones((12, 16), bool)
    expected[:, 7:9] = False
    np.testing.assert_array_equal(usable, expected)
    depth_map.depth[:, 8:] = 2.05  # a step of 2.5 % is a slope
    assert usable_pixels(depth_map, replace(ALL, edge_threshold=0.05)).all()


def test_the_bound_thins_out_evenly():
    depth_map = flat_depth()
    cloud = cloud_from_depth(depth_map, replace(ALL, max_points=20))
    assert len(cloud) == 20
    assert np.unique(np.round(cloud.points[:, 1], 4)).size == 12  # from every row


def test_the_depth_map_is_left_alone():
    depth_map = flat_depth()
    arrays = depth_map.depth, depth_map.confidence, depth_map.image
    before = [array.copy() for array in arrays]
    cloud = cloud_from_depth(depth_map, ALL)
    cloud.points[:] = 0.0
    cloud.colors[:] = 0
    cloud.confidence[:] = 0.0
    for kept, now in zip(before, arrays, strict=True):
        np.testing.assert_array_equal(kept, now)


def test_clouds_join_and_select():
    cloud = cloud_from_depth(flat_depth(), ALL)
    parts = [cloud.take(np.arange(100)), Cloud.empty(), cloud.take(np.arange(100, 192))]
    joined = Cloud.joined(parts)
    np.testing.assert_array_equal(joined.points, cloud.points)
    np.testing.assert_array_equal(joined.colors, cloud.colors)
    assert len(Cloud.joined([])) == 0
    T = circle()(START_NS + 10**9)
    np.testing.assert_allclose(cloud.moved(T).points, transform(T, cloud.points))


def test_depth_has_near_and_far_colours_and_unknown_is_black():
    depth = np.linspace(0.5, 5.0, 64 * 48, dtype=np.float32).reshape(48, 64)
    depth[0, 0] = np.nan
    colors = depth_colors(depth)
    assert (colors.shape, colors.dtype) == ((48, 64, 3), np.uint8)
    assert not colors[0, 0].any()
    near, far = colors[0, 1].astype(int), colors[-1, -1].astype(int)
    assert near[0] > near[2] and np.abs(near - far).max() > 50
    assert not depth_colors(np.full((4, 4), np.nan)).any()
