"""The focal length of a camera without calibration: when it is estimated, and what follows it."""

from dataclasses import replace

from classical_scene import INTRINSICS
import numpy as np
import pytest
from r3_ros.classical import mapping
from r3_ros.classical.backend import Backend
from r3_ros.classical.bundle import BundleResult
from r3_ros.classical.focal import FocalEstimate, MOST_KEYFRAMES
from r3_ros.classical.landmarks import SparseMap
from r3_ros.classical.pinhole import homogeneous, Pinhole
from r3_ros.classical.window import AdjustmentWindow
from r3_ros.core.geometry import inverse, make_T, transform

CAMERA = Pinhole.of(INTRINSICS, INTRINSICS.width, INTRINSICS.height)


def accepted(estimate, keyframes, focal, sigma):
    assert estimate.is_due(keyframes)
    estimate.begun(keyframes)
    return estimate.accepts(focal, sigma)


def test_the_estimate_ends_when_it_is_certain():
    estimate = FocalEstimate(320.0)
    assert not estimate.is_due(3)
    assert accepted(estimate, 4, 300.0, 0.005)
    assert not estimate.settled and not estimate.is_due(5)
    assert accepted(estimate, 6, 300.0, 0.02)
    assert accepted(estimate, 10, 300.0, 0.011)
    assert accepted(estimate, 13, 300.0, 0.009)
    assert estimate.settled and not estimate.is_due(100)


def test_an_uncertain_estimate_is_not_used_and_ends_too():
    estimate = FocalEstimate(320.0)
    assert not accepted(estimate, MOST_KEYFRAMES - 1, 320.0, 0.2)
    assert not estimate.settled
    assert not accepted(estimate, 2 * MOST_KEYFRAMES, 320.0, 0.2)
    assert estimate.settled


def test_an_estimate_that_jumps_has_to_be_confirmed():
    estimate = FocalEstimate(320.0)
    estimate.started(300.0)
    assert not accepted(estimate, 4, 250.0, 0.02)
    assert not accepted(estimate, 8, 300.0, 0.02)
    assert accepted(estimate, 11, 290.0, 0.02)


def test_each_adjustment_has_the_first_guess_as_its_prior():
    """What one segment found is the guess of the next, with more doubt."""
    estimate = FocalEstimate(320.0)
    estimate.started(400.0)
    assert accepted(estimate, 4, 400.0, 0.03)
    camera = CAMERA.with_focal_scaled(400.0 / CAMERA.focal)
    assert estimate.prior(camera) == pytest.approx((0.8, 0.24))
    estimate.new_segment()
    assert estimate.is_due(4)
    assert estimate.prior(camera) == pytest.approx((1.0, 0.09))


def map_with_candidates(rng, count=50):
    """Return a map with one keyframe whose corners have guessed depths, and their pixels."""
    sparse_map = SparseMap(CAMERA)
    T = make_T(np.eye(3), np.array([0.3, -0.2, 0.5]))
    frame = sparse_map.hold(3, np.zeros((300, 400), np.uint8), T)
    pixels = rng.uniform((0, 0), (399, 299), (count, 2))
    points = homogeneous(CAMERA.rays(pixels)) * rng.uniform(2, 5, (count, 1))
    return sparse_map, sparse_map.landmarks.add(transform(T, points), frame, pixels), pixels


def window_of(sparse_map, slots, segment=0):
    generations = sparse_map.landmarks.generation[slots].copy()
    return AdjustmentWindow(None, [3], segment, 3, 3, slots, generations)


def test_landmarks_outside_of_the_adjustment_stay_in_their_pixels():
    sparse_map, slots, pixels = map_with_candidates(np.random.default_rng(0))
    before = sparse_map.landmarks.position.copy()
    mapping.refocus(sparse_map, window_of(sparse_map, slots[:10]), 1.25)
    assert sparse_map.camera.fx == pytest.approx(1.25 * CAMERA.fx)
    assert np.array_equal(sparse_map.landmarks.position[slots[:10]], before[slots[:10]])
    T = inverse(sparse_map.frames[3].T_world_camera)
    seen, depth = sparse_map.camera.pixels_of_points(sparse_map.landmarks.position[slots], T)
    assert np.abs(seen[10:] - pixels[10:]).max() < 1e-9
    assert depth == pytest.approx(transform(T, before[slots])[:, 2])


def test_a_focal_length_of_a_segment_that_was_left_is_dropped():
    sparse_map, slots, _ = map_with_candidates(np.random.default_rng(1))
    backend = Backend(sparse_map, 8, FocalEstimate(320.0), planes=0, fill=False)
    try:
        left = replace(
            window_of(sparse_map, slots, segment=1), problem=Problem(focal_prior=(1.0, 0.3))
        )
        result = BundleResult(
            np.zeros((0, 4, 4)), np.zeros((0, 3)), np.zeros(0), np.zeros(0), 2, 0.01
        )
        assert backend._merge_all([(left, result)]) == []
    finally:
        backend.close()
    assert sparse_map.camera == CAMERA


class Problem:
    """A problem of which only the prior matters."""

    def __init__(self, focal_prior):
        self.focal_prior = focal_prior
