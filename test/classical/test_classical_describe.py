"""The global descriptor: alike for the same view, unlike for others, never anything odd."""

from classical_scene import draw, room, wander
import cv2
import numpy as np
from r3_ros.classical.describe import describe, SIZE


def test_a_descriptor_is_a_unit_vector_also_of_a_blank_image():
    for gray in (draw(room(), np.eye(4))[0], np.zeros((300, 400), np.uint8)):
        vector = describe(gray)
        assert vector.shape == (SIZE,) and vector.dtype == np.float32
        assert abs(float(np.linalg.norm(vector)) - 1.0) < 1e-5


def test_the_same_view_is_near_one_despite_noise_and_exposure():
    gray = draw(room(), np.eye(4))[0]
    rng = np.random.default_rng(0)
    noisy = np.clip(gray * 0.7 + 10 + rng.normal(0, 4, gray.shape), 0, 255).astype(np.uint8)
    assert float(describe(gray) @ describe(noisy)) > 0.95
    assert float(describe(gray) @ describe(cv2.resize(gray, (640, 480)))) > 0.95


def test_views_rank_by_how_near_they_are():
    poses = wander(30)
    vectors = [describe(draw(room(), T)[0]) for T in poses]
    other = describe(draw(room(seed=50), poses[0])[0])
    similarity = [float(vectors[0] @ v) for v in vectors]
    assert similarity[1] > similarity[10] > similarity[29]
    assert similarity[1] > 0.9
    assert float(vectors[0] @ other) < similarity[10]
