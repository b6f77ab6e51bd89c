"""Laws of rigid motions, quaternions and pixels."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from r3_ros.core.datatypes import Intrinsics
from r3_ros.core.errors import CalibrationError, TransformError
from r3_ros.core.geometry import (
    inverse,
    is_rigid,
    make_T,
    mean_quat,
    mean_rotation,
    nearest_motion,
    quat_angle,
    quat_xyzw,
    R_BODY_OPTICAL,
    rotation_angle,
    T_from_quat,
    transform,
    unproject,
)
from scipy.spatial.transform import Rotation
from scripted import intrinsics

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=40, deadline=None)


def motions(seed, count=3):
    rng = np.random.default_rng(seed)
    return make_T(
        Rotation.random(count, random_state=rng).as_matrix(), rng.normal(size=(count, 3)) * 10
    )


@quick
@given(seeds)
def test_motions_form_a_group(seed):
    A, B, C = motions(seed)
    identity = np.eye(4)
    np.testing.assert_allclose((A @ B) @ C, A @ (B @ C), atol=1e-12)
    np.testing.assert_allclose(A @ inverse(A), identity, atol=1e-12)
    np.testing.assert_allclose(inverse(A) @ A, identity, atol=1e-12)
    np.testing.assert_allclose(inverse(A @ B), inverse(B) @ inverse(A), atol=1e-11)
    assert is_rigid(A @ B) and is_rigid(inverse(A))


@quick
@given(seeds)
def test_moving_points_back_and_forth_changes_nothing(seed):
    A, B, _ = motions(seed)
    points = np.random.default_rng(seed).normal(size=(20, 3))
    np.testing.assert_allclose(transform(inverse(A), transform(A, points)), points, atol=1e-12)
    np.testing.assert_allclose(transform(A, transform(B, points)), transform(A @ B, points))
    assert transform(A, points.astype(np.float32)).dtype == np.float32


@quick
@given(seeds)
def test_quaternion_and_matrix_are_the_same_rotation(seed):
    T = motions(seed, 5)
    quats = quat_xyzw(T)
    assert quats.shape == (5, 4) and (quats[:, 3] >= 0).all()
    np.testing.assert_allclose(T_from_quat(T[:, :3, 3], quats), T, atol=1e-12)
    np.testing.assert_allclose(T_from_quat(T[:, :3, 3], -3.0 * quats), T, atol=1e-12)
    np.testing.assert_array_equal(quat_xyzw(T[0]), quats[0])


@pytest.mark.parametrize('bad', [np.zeros(4), np.full(4, np.nan)])
def test_no_pose_is_made_of_a_bad_quaternion(bad):
    with pytest.raises(TransformError, match='not a pose'):
        T_from_quat(np.zeros(3), bad)
    with pytest.raises(TransformError, match='not a pose'):
        T_from_quat(np.array([np.inf, 0, 0]), np.array([0, 0, 0, 1.0]))


@pytest.mark.parametrize('angle', [0.0, 1e-9, 1e-4, 0.5, 2.0, np.pi - 1e-6, np.pi])
def test_angles_are_accurate_at_both_ends(angle):
    axis = np.array([0.6, -0.64, 0.48])
    rotation = Rotation.from_rotvec(angle * axis)
    assert rotation_angle(rotation.as_matrix()) == pytest.approx(angle, rel=1e-9, abs=1e-14)
    start = Rotation.from_rotvec([1.0, 2.0, 3.0])
    turned = (start * rotation).as_quat()
    for sign in (1.0, -1.0):
        # 4 * arcsin(1 / sqrt(2)) at pi costs digits, near zero the rounding of the quaternions
        found = quat_angle(start.as_quat(), sign * turned)
        assert found == pytest.approx(angle, rel=1e-6, abs=1e-15)


def test_rigid_means_rotation_translation_and_nothing_else():
    T = motions(0)[0]
    assert is_rigid(T)
    assert not is_rigid(T[:3])
    for spoil in (np.diag([1.0, 1.0, -1.0, 1.0]), np.diag([1.01, 1.01, 1.01, 1.0])):
        assert not is_rigid(T @ spoil)
    for spot in ((0, 0), (1, 3)):
        bad = T.copy()
        bad[spot] = np.nan
        assert not is_rigid(bad)
    bad = T.copy()
    bad[3, 0] = 0.1
    assert not is_rigid(bad)


@quick
@given(seeds)
def test_mean_rotation_ignores_quaternion_signs_and_follows_weights(seed):
    rng = np.random.default_rng(seed)
    centre = Rotation.random(random_state=rng)
    turns = rng.normal(size=(6, 3)) * 0.2
    rotations = centre * Rotation.from_rotvec(turns)
    weights = rng.uniform(0.1, 1.0, 6)
    quats = rotations.as_quat()
    signs = rng.choice([-1.0, 1.0], 6)[:, None]
    mean = mean_quat(quats, weights)
    assert quat_angle(mean, mean_quat(signs * quats, weights)) < 1e-7
    np.testing.assert_allclose(
        mean_rotation(rotations.as_matrix(), weights), Rotation.from_quat(mean).as_matrix()
    )
    # To first order the mean turn is the weighted mean of the turns.
    error = (centre.inv() * Rotation.from_quat(mean)).as_rotvec() - weights @ turns / weights.sum()
    assert np.abs(error).max() < 0.05
    alone = mean_quat(quats, np.eye(6)[2])
    assert quat_angle(alone, quats[2]) < 1e-7


def test_body_axes_are_forward_left_up():
    optical = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # forward right down
    np.testing.assert_array_equal(
        optical @ R_BODY_OPTICAL.T, [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]]
    )
    assert np.linalg.det(R_BODY_OPTICAL) == pytest.approx(1.0)


def project(K: Intrinsics, points):
    return np.stack(
        [K.fx * points[:, 0] / points[:, 2] + K.cx, K.fy * points[:, 1] / points[:, 2] + K.cy],
        axis=1,
    )


@pytest.mark.parametrize('stride', [1, 3])
def test_unprojected_pixels_project_onto_themselves(stride):
    K = Intrinsics(50.0, 40.0, 30.2, 20.7, 64, 48)
    depth = np.random.default_rng(0).uniform(0.5, 9.0, (48, 64))
    depth[6, 9] = np.nan
    points = unproject(depth, K.fx, K.fy, K.cx, K.cy, stride)
    v, u = np.mgrid[:48:stride, :64:stride]
    known = np.isfinite(points[..., 2])
    assert (~known).sum() == 1
    np.testing.assert_array_equal(points[..., 2][known], depth[::stride, ::stride][known])
    pixels = project(K, points[known])
    np.testing.assert_allclose(pixels, np.stack([u[known], v[known]], axis=1), atol=1e-10)
    single = unproject(depth.astype(np.float32), K.fx, K.fy, K.cx, K.cy)
    assert single.dtype == np.float32


def test_resized_intrinsics_follow_the_half_pixel_rule():
    """A image covers [-0.5, width - 0.5]; its edges stay its edges at any size."""
    K = Intrinsics(500.0, 480.0, 318.3, 241.9, 640, 480)
    points = np.random.default_rng(0).normal(size=(50, 3)) * [1, 1, 0.1] + [0, 0, 4.0]
    for width, height in ((320, 240), (1280, 960), (224, 300)):
        scale = np.array([width / 640, height / 480])
        expected = (project(K, points) + 0.5) * scale - 0.5
        np.testing.assert_allclose(project(K.resized(width, height), points), expected)
    back = K.resized(100, 75).resized(640, 480)
    np.testing.assert_allclose(back.K, K.K)
    # A camera centred between the middle pixels stays centred.
    assert intrinsics(64, 48).resized(32, 24) == intrinsics(32, 24)


def test_half_sized_images_are_means_of_four_pixels():
    """The rule above is that of area averaging: a bright pixel moves according to K."""
    image = np.zeros((8, 8))
    image[4:6, 2:4] = 1.0
    small = image.reshape(4, 2, 4, 2).mean(axis=(1, 3))
    K = Intrinsics(8.0, 8.0, 3.5, 3.5, 8, 8)
    ray = np.array([[(2.5 - K.cx) / K.fx, (4.5 - K.cy) / K.fy, 1.0]])
    ((u, v),) = project(K.resized(4, 4), ray)
    assert small[round(v), round(u)] == 1.0
    assert (u, v) == pytest.approx((1.0, 2.0))


def test_cropped_intrinsics_shift_the_centre():
    K = Intrinsics(500.0, 480.0, 318.3, 241.9, 640, 480)
    points = np.array([[0.1, 0.2, 2.0], [-0.3, 0.1, 3.0]])
    cut = K.cropped(100, 50, 300, 200)
    np.testing.assert_allclose(project(cut, points), project(K, points) - [100, 50])
    assert (cut.width, cut.height) == (300, 200)


def test_field_of_view_of_an_off_centre_camera():
    K = Intrinsics(100.0, 100.0, 49.5, 49.5, 100, 100)
    assert K.fov_x == pytest.approx(2 * np.arctan(0.5))
    left, right = K.cropped(0, 0, 50, 100), K.cropped(50, 0, 50, 100)
    assert left.fov_x + right.fov_x == pytest.approx(K.fov_x)


@pytest.mark.parametrize(
    'values',
    [
        (0.0, 1.0, 1.0, 1.0, 4, 4),
        (1.0, -1.0, 1.0, 1.0, 4, 4),
        (1.0, 1.0, float('nan'), 1.0, 4, 4),
        (1.0, 1.0, 1.0, float('inf'), 4, 4),
        (1.0, 1.0, 1.0, 1.0, 0, 4),
    ],
)
def test_impossible_intrinsics_are_refused(values):
    with pytest.raises(CalibrationError):
        Intrinsics(*values)


def test_a_bent_motion_becomes_the_nearest_rigid_one():
    rng = np.random.default_rng(2)
    bent = make_T(Rotation.random(rng=rng).as_matrix(), rng.normal(size=3))
    bent[:3, :3] += rng.normal(0.0, 3e-4, (3, 3))
    U, _, Vt = np.linalg.svd(bent[:3, :3])
    found = nearest_motion(bent)
    np.testing.assert_allclose(found[:3, :3], U @ Vt, atol=1e-15)
    np.testing.assert_array_equal(found[:3, 3], bent[:3, 3])


def test_camera_matrix_goes_both_ways():
    K = Intrinsics(500.0, 480.0, 318.3, 241.9, 640, 480)
    assert Intrinsics.from_K(K.K, 640, 480) == K
    skewed = K.K
    skewed[0, 1] = 1.0
    with pytest.raises(CalibrationError, match='skew'):
        Intrinsics.from_K(skewed, 640, 480)
    with pytest.raises(CalibrationError, match='3x3'):
        Intrinsics.from_K(np.eye(4), 640, 480)
