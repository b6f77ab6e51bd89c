"""The plane sweep: accurate where it has a depth, none where it cannot be known."""

from classical_scene import draw, INTRINSICS, room
import cv2
import numpy as np
import pytest
from r3_ros.classical.fill import filled
from r3_ros.classical.pinhole import Pinhole
from r3_ros.classical.sweep import sweep, sweep_size
from r3_ros.core.geometry import inverse, make_T


def swept_room(blank_panel=False, centres=((-0.4, 0, 0), (0.4, 0.1, 0), (0.2, -0.3, 0.1))):
    full = Pinhole.of(INTRINSICS, INTRINSICS.width, INTRINSICS.height)
    width, height = sweep_size(full)
    camera = Pinhole.of(INTRINSICS, width, height)
    panels = room(3, blank_panel)

    def image(T):
        return cv2.resize(draw(panels, T)[0], (width, height), interpolation=cv2.INTER_AREA)

    poses = [make_T(np.eye(3), np.array(c, float)) for c in centres]
    views = [(image(T), inverse(T)) for T in poses]
    result = sweep(7, image(np.eye(4)), views, camera, 2.2, 8.0, 64)
    truth = draw(panels, np.eye(4), INTRINSICS.resized(width, height))[1]
    return result, truth


def test_depth_is_right_where_it_is_claimed():
    result, truth = swept_room()
    known = np.isfinite(result.depth)
    assert known.mean() > 0.6
    error = np.abs(result.depth - truth)[known] / truth[known]
    assert np.median(error) < 0.01
    assert (error < 0.05).mean() > 0.97


def test_confidence_is_at_least_one_and_is_higher_where_depth_is_known():
    result, _ = swept_room()
    known = np.isfinite(result.depth)
    assert result.confidence.min() >= 1.0
    assert (result.confidence[~known] == 1.0).all()
    assert np.median(result.confidence[known]) > 2.0


def test_a_blank_surface_gets_no_invented_depth():
    result, truth = swept_room(blank_panel=True)
    blank = cv2.erode((np.abs(truth - 3.0) < 1e-6).astype(np.uint8), np.ones((17, 17))) > 0
    assert blank.sum() > 300
    assert np.isnan(result.depth[blank]).mean() > 0.99


def test_a_scene_that_is_elsewhere_gives_next_to_nothing():
    """Neighbours that show something else: agreement by chance only."""
    result, _ = swept_room()
    full = Pinhole.of(INTRINSICS, INTRINSICS.width, INTRINSICS.height)
    width, height = sweep_size(full)
    camera = Pinhole.of(INTRINSICS, width, height)
    here = cv2.resize(draw(room(3), np.eye(4))[0], (width, height))
    other = cv2.resize(draw(room(80), np.eye(4))[0], (width, height))
    view = (other, inverse(make_T(np.eye(3), np.array([0.4, 0.0, 0.0]))))
    nothing = sweep(1, here, [view, view], camera, 2.2, 8.0, 64)
    assert np.isfinite(nothing.depth).mean() < 0.02 < np.isfinite(result.depth).mean()


@pytest.mark.parametrize(
    ('width', 'height', 'expected'),
    [(640, 480, (320, 240)), (1241, 376, (503, 153)), (504, 284, (252, 142))],
)
def test_the_swept_image_is_bounded(width, height, expected):
    camera = Pinhole(500.0, 500.0, width / 2, height / 2, width, height)
    assert sweep_size(camera) == expected


def test_filled_depth_follows_a_slanted_wall_and_is_less_sure_far_from_known_depth():
    truth = np.broadcast_to(1 / np.linspace(0.2, 0.5, 160), (120, 160)).astype(np.float32)
    rng = np.random.default_rng(0)
    swept = np.where(rng.uniform(size=truth.shape) < 0.02, truth, np.nan)
    swept[:, :40] = np.nan
    known = np.isfinite(swept)
    before = np.where(known, 3.0, 1.0)
    pixels, depths = np.array([[100.0, 60.0]]), truth[60, 100:101]
    gray = np.full(truth.shape, 90, np.uint8)
    depth, confidence = filled(swept, before, gray, pixels, depths)
    np.testing.assert_array_equal(depth[known], swept[known])
    np.testing.assert_array_equal(confidence[known], 3.0)
    assert ((0 < confidence[~known]) & (confidence[~known] < 1)).all()
    error = np.abs(depth / truth - 1)
    assert error[:, 40:].mean() < 0.02
    assert 2 * error[:, 40:].mean() < error[:, :40].mean() < 0.3
    assert confidence[:, :20].max() < 0.5 < np.median(confidence[:, 40:])


def test_filled_depth_keeps_a_step_where_the_image_has_one():
    """Landmarks on two walls, one behind the other, and nothing swept."""
    gray = np.full((60, 80), 50, np.uint8)
    gray[:, 40:] = 200
    pixels = np.array([[10.0, 30.0], [30.0, 10.0], [50.0, 50.0], [70.0, 20.0]])
    unknown = np.full(gray.shape, np.nan, np.float32)
    depths = np.array([2.0, 2.0, 4.0, 4.0])
    depth, _ = filled(unknown, np.ones_like(unknown), gray, pixels, depths)
    np.testing.assert_allclose(depth[:, :39], 2.0, rtol=0.02)
    np.testing.assert_allclose(depth[:, 41:], 4.0, rtol=0.02)
