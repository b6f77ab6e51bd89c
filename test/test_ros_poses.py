"""map, odom and base follow from camera poses by the laws of REP-105. No ROS needed."""

import numpy as np
import pytest
from r3_ros.core.geometry import inverse, is_rigid, make_T, R_BODY_OPTICAL
from r3_ros.ros.tf.pose_chain import (
    planar_map_odom,
    PoseChain,
    UNKNOWN_COVARIANCE,
    with_odometry_moved,
    without_motion,
)
from scipy.spatial.transform import Rotation
from scripted import circle, PERIOD_NS, START_NS, truth

T_BODY_OPTICAL = make_T(R_BODY_OPTICAL, np.zeros(3))
T_BASE_OPTICAL = make_T(
    Rotation.from_euler('xyz', [0.1, 0.3, -0.2]).as_matrix() @ R_BODY_OPTICAL, [0.2, -0.1, 0.5]
)
NOMINAL = np.diag([1e-4, 4e-4, 9e-4, 1e-6, 2e-6, 3e-6])


def random_T(rng, scale=1.0):
    return make_T(Rotation.random(random_state=rng).as_matrix(), scale * rng.normal(size=3))


def advance(chain, stamp_ns, T, T_previous=None, covariance=NOMINAL, factor=1.0, max_gap_s=5.0):
    motion = None if T_previous is None else inverse(T_previous) @ T
    return chain.advance(stamp_ns, T, motion, covariance, factor, max_gap_s)


def walk(chain, count=30):
    """Walk the scripted circle; yields placements with the true poses."""
    previous = None
    for i in range(count):
        stamp_ns = START_NS + i * PERIOD_NS
        T = truth(circle(), stamp_ns)
        yield T, advance(chain, stamp_ns, T, previous)
        previous = T


def test_a_lone_camera_starts_level_at_the_origin():
    chain = PoseChain(np.eye(4), starts_in_base=False)
    first = advance(chain, START_NS, np.eye(4))
    np.testing.assert_allclose(first.T_map_base, T_BODY_OPTICAL, atol=1e-12)
    # One metre ahead of the camera is x in map, one below is -z.
    ahead = first.T_map_base @ [0, 0, 1, 1]
    below = first.T_map_base @ [0, 1, 0, 1]
    np.testing.assert_allclose([ahead[:3], below[:3]], [[1, 0, 0], [0, 0, -1]], atol=1e-12)


def test_a_named_base_starts_as_the_map():
    chain = PoseChain(T_BASE_OPTICAL, starts_in_base=True)
    first = advance(chain, START_NS, np.eye(4))
    np.testing.assert_allclose(first.T_map_base, np.eye(4), atol=1e-12)


def test_a_driver_base_starts_at_the_origin_and_level():
    chain = PoseChain(T_BASE_OPTICAL, starts_in_base=False)
    first = advance(chain, START_NS, np.eye(4))
    np.testing.assert_allclose(first.T_map_base[:3, 3], 0.0, atol=1e-12)
    T_map_optical = chain.T_map_optical(np.eye(4))
    np.testing.assert_allclose(T_map_optical[:3, :3], R_BODY_OPTICAL, atol=1e-12)


@pytest.mark.parametrize('starts_in_base', [True, False])
def test_map_odom_base_compose_and_the_camera_sits_on_the_base(starts_in_base):
    chain = PoseChain(T_BASE_OPTICAL, starts_in_base)
    for T_world_camera, placed in walk(chain):
        composed = placed.T_map_odom @ placed.T_odom_base
        np.testing.assert_allclose(composed, placed.T_map_base, atol=1e-9)
        np.testing.assert_allclose(
            placed.T_map_base @ T_BASE_OPTICAL, chain.T_map_optical(T_world_camera), atol=1e-12
        )
        np.testing.assert_allclose(placed.T_map_odom, np.eye(4), atol=1e-9)


def test_a_correction_moves_map_to_odom_and_never_odom_to_base():
    rng = np.random.default_rng(1)
    chain = PoseChain(np.eye(4), starts_in_base=False)
    T_steps = [make_T(Rotation.from_rotvec([0, 0.02, 0]).as_matrix(), [0.01, 0, 0.05])] * 40
    T_world = np.eye(4)
    expected = before = advance(chain, START_NS, T_world).T_odom_base
    for i, T_step in enumerate(T_steps, start=1):
        if i % 10 == 0:
            # The engine rewrites its world; the last pose moves with it.
            T_world = random_T(rng, 0.3) @ T_world
        T_next = T_world @ T_step
        placed = advance(chain, START_NS + i * PERIOD_NS, T_next, T_world)
        expected = expected @ T_step
        np.testing.assert_allclose(placed.T_odom_base, expected, atol=1e-9)
        np.testing.assert_allclose(
            placed.T_map_odom @ placed.T_odom_base, chain.T_map_base(T_next), atol=1e-9
        )
        step = np.linalg.norm((inverse(before) @ placed.T_odom_base)[:3, 3])
        assert step < 1.5 * np.linalg.norm(T_step[:3, 3])
        T_world, before = T_next, placed.T_odom_base
    assert not np.allclose(placed.T_map_odom, np.eye(4), atol=1e-2)


def test_odometry_stays_rigid_over_many_products():
    rng = np.random.default_rng(2)
    chain = PoseChain(T_BASE_OPTICAL, starts_in_base=True)
    advance(chain, 0, np.eye(4))
    T_step = random_T(rng, 0.01)
    for i in range(1, 2000):
        placed = chain.advance(i, np.eye(4), T_step, None, 1.0, 0.0)
    assert is_rigid(placed.T_odom_base, tolerance=1e-9)


def test_velocity_is_that_of_the_base_in_its_own_axes():
    chain = PoseChain(T_BASE_OPTICAL, starts_in_base=True)
    yaw = Rotation.from_rotvec([0, 0, 0.2]).as_matrix()
    T_map_base = make_T(yaw, [0.3, 0.1, 0.0])
    T_world_camera = inverse(chain.T_map_world) @ T_map_base @ T_BASE_OPTICAL
    advance(chain, START_NS, np.eye(4))
    placed = advance(chain, START_NS + 500_000_000, T_world_camera, np.eye(4))
    np.testing.assert_allclose(placed.twist[3:], [0, 0, 0.4], atol=1e-9)
    np.testing.assert_allclose(placed.twist[:3], yaw.T @ [0.6, 0.2, 0.0], atol=1e-9)


@pytest.mark.parametrize('elapsed_ns', [0, -5, 6_000_000_000])
def test_no_velocity_over_a_gap_or_without_time(elapsed_ns):
    chain = PoseChain(np.eye(4), starts_in_base=False)
    advance(chain, START_NS, np.eye(4))
    placed = advance(chain, START_NS + elapsed_ns, np.eye(4), np.eye(4))
    assert placed.twist is None
    np.testing.assert_array_equal(placed.twist_covariance, UNKNOWN_COVARIANCE)


def test_over_a_gap_odometry_claims_nothing_and_the_map_goes_on():
    chain = PoseChain(T_BASE_OPTICAL, starts_in_base=False)
    before, at_the_limit, over, after = (
        advance(chain, START_NS + seconds * 1_000_000_000, np.eye(4), T)
        for seconds, T in ((0, None), (5, np.eye(4)), (11, np.eye(4)), (12, np.eye(4)))
    )
    np.testing.assert_allclose(over.odom_covariance, UNKNOWN_COVARIANCE, rtol=1e-9, atol=1e-6)
    # Where the base is in map does not depend on the way there.
    np.testing.assert_array_equal(over.map_covariance, before.map_covariance)
    for placed in (before, at_the_limit, after):
        np.testing.assert_allclose(placed.odom_covariance, before.map_covariance, atol=1e-12)
    assert before.odom_covariance.diagonal().max() < 1.0


def test_covariance_matches_sampled_poses():
    rng = np.random.default_rng(3)
    chain = PoseChain(T_BASE_OPTICAL, starts_in_base=False)
    T_world_camera = random_T(rng)
    placed = advance(chain, START_NS, T_world_camera)
    xi = rng.multivariate_normal(np.zeros(6), NOMINAL, size=20000)
    errors = make_T(Rotation.from_rotvec(xi[:, 3:]).as_matrix(), xi[:, :3])
    T = chain.T_map_base(T_world_camera @ errors)
    shift = T[:, :3, 3] - placed.T_map_base[:3, 3]
    turn = Rotation.from_matrix(T[:, :3, :3] @ placed.T_map_base[:3, :3].T).as_rotvec()
    sampled = np.cov(np.concatenate([shift, turn], axis=1).T)
    # Worst of 36 entries with these 20,000 samples: 1.5 % of the geometric mean of its variances.
    scale = np.sqrt(np.outer(sampled.diagonal(), sampled.diagonal()))
    assert (np.abs(placed.map_covariance - sampled) / scale).max() < 0.04


def test_translation_is_inflated_without_a_scale_and_rotation_is_not():
    plain, inflated = (
        advance(PoseChain(np.eye(4), True), START_NS, np.eye(4), factor=f).map_covariance
        for f in (1.0, 100.0)
    )
    ratio = inflated.diagonal() / plain.diagonal()
    np.testing.assert_allclose(ratio, [100, 100, 100, 1, 1, 1], rtol=0.02)


@pytest.mark.parametrize(
    'covariance',
    [None, np.zeros((6, 6)), np.full((6, 6), np.nan), np.diag([1e9] * 6), np.diag([np.inf] * 6)],
)
def test_covariance_is_never_zero_and_never_more_than_unknown(covariance):
    chain = PoseChain(T_BASE_OPTICAL, starts_in_base=True)
    advance(chain, START_NS, np.eye(4), covariance=covariance)
    placed = advance(chain, START_NS + 1, np.eye(4), np.eye(4), covariance=covariance)
    for matrix in (placed.map_covariance, placed.odom_covariance, placed.twist_covariance):
        assert np.isfinite(matrix).all()
        assert np.linalg.eigvalsh(matrix).min() > 0
        assert matrix.diagonal().max() <= UNKNOWN_COVARIANCE[0, 0]


def test_a_repeated_place_claims_nothing():
    chain = PoseChain(np.eye(4), starts_in_base=False)
    placed = advance(chain, START_NS, np.eye(4))
    repeated = without_motion(placed)
    np.testing.assert_array_equal(repeated.T_map_base, placed.T_map_base)
    np.testing.assert_array_equal(repeated.map_covariance, UNKNOWN_COVARIANCE)
    assert repeated.twist is None


def heading(T):
    """Return what nav2 takes for the yaw of a robot."""
    return Rotation.from_matrix(T[:3, :3]).as_euler('ZYX')[0]


def test_planar_keeps_x_y_and_yaw_of_the_base_and_nothing_else():
    # Far from the origin of odom, where a tilt of a projected map -> odom would shift the base.
    rng = np.random.default_rng(5)
    for _ in range(50):
        tilt_map, tilt_odom = (
            Rotation.from_euler('ZYX', [rng.uniform(-3, 3), *rng.normal(size=2) * 0.1])
            for _ in range(2)
        )
        T_map_base = make_T(tilt_map.as_matrix(), [*rng.normal(size=2) * 30.0, 0.4])
        T_odom_base = make_T(tilt_odom.as_matrix(), [*rng.normal(size=2) * 80.0, -0.7])
        T_map_odom = planar_map_odom(T_map_base, T_odom_base)
        turn = Rotation.from_matrix(T_map_odom[:3, :3]).as_rotvec()
        np.testing.assert_allclose(turn[:2], 0.0, atol=1e-12)
        assert T_map_odom[2, 3] == 0.0
        T = T_map_odom @ T_odom_base
        np.testing.assert_allclose(T[:2, 3], T_map_base[:2, 3], atol=1e-9)
        assert np.sin(heading(T) - heading(T_map_base)) == pytest.approx(0.0, abs=1e-9)
        assert T[2, 3] == pytest.approx(T_odom_base[2, 3])
        # Where nothing is tilted it is the plain correction.
        flat_map, flat_odom = (
            make_T(Rotation.from_euler('z', heading(each)).as_matrix(), [*each[:2, 3], 0.0])
            for each in (T_map_base, T_odom_base)
        )
        np.testing.assert_allclose(
            planar_map_odom(flat_map, flat_odom), flat_map @ inverse(flat_odom), atol=1e-9
        )


@pytest.mark.parametrize('starts_in_base', [True, False])
def test_a_map_that_is_moved_takes_all_frames_with_it_and_leaves_odom(starts_in_base):
    rng = np.random.default_rng(6)
    chain = PoseChain(T_BASE_OPTICAL, starts_in_base)
    *_, (T_world_camera, before) = walk(chain, 10)
    before_optical = chain.T_map_optical(np.eye(4))
    T_there = random_T(rng, 4.0)
    chain.move_map(before.T_map_base, T_there, keeps_tilt=False)
    motion = T_there @ inverse(before.T_map_base)
    after = chain.last
    np.testing.assert_allclose(after.T_map_base, T_there, atol=1e-9)
    np.testing.assert_array_equal(after.T_odom_base, before.T_odom_base)
    np.testing.assert_allclose(after.T_map_odom @ after.T_odom_base, T_there, atol=1e-9)
    np.testing.assert_allclose(chain.T_map_optical(np.eye(4)), motion @ before_optical, atol=1e-9)
    # How sure the pose is does not change, seen from the base.
    turns = [np.kron(np.eye(2), each.T_map_base[:3, :3]) for each in (before, after)]
    seen = [
        turn.T @ each.map_covariance @ turn
        for turn, each in zip(turns, (before, after), strict=True)
    ]
    np.testing.assert_allclose(*seen, atol=1e-12)
    assert chain.moves == 1


def test_a_level_pose_leaves_what_is_level_level_if_asked():
    # A camera that looks 0.3 down and 0.1 to its side.
    tilted = Rotation.from_euler('ZYX', [0.5, 0.3, 0.1]).as_matrix()
    chain = PoseChain(np.eye(4), starts_in_base=False)
    T_world_camera = inverse(chain.T_map_world) @ make_T(tilted, [1, 2, 3]) @ T_BODY_OPTICAL
    advance(chain, START_NS, T_world_camera)
    T_given = make_T(Rotation.from_euler('z', -1.0).as_matrix(), [7.0, 8.0, 0.0])
    chain.move_map(chain.last.T_map_base, T_given, keeps_tilt=True)
    T_map_body = chain.last.T_map_base @ inverse(T_BODY_OPTICAL)
    angles = Rotation.from_matrix(T_map_body[:3, :3]).as_euler('ZYX')
    np.testing.assert_allclose(angles, [-1.0, 0.3, 0.1], atol=1e-9)
    np.testing.assert_allclose(T_map_body[:3, 3], T_given[:3, 3], atol=1e-9)


def test_a_start_is_taken_over_in_the_length_that_is_known_then():
    chain = PoseChain(T_BASE_OPTICAL, starts_in_base=True)
    T_then = truth(circle(), START_NS + 5 * PERIOD_NS)
    T_given = random_T(np.random.default_rng(7), 3.0)
    chain.start = T_given, T_then, False
    chain.metres_per_unit = 2.5
    advance(chain, START_NS, truth(circle(), START_NS + 9 * PERIOD_NS))
    np.testing.assert_allclose(chain.T_map_base(T_then), T_given, atol=1e-9)
    assert chain.start is None and chain.moves == 1


def test_odometry_seen_from_another_frame_is_the_same_motion():
    rng = np.random.default_rng(8)
    chain = PoseChain(T_BASE_OPTICAL, starts_in_base=True)
    T_odom_own = random_T(rng, 3.0)
    previous = None
    for _, placed in walk(chain, 8):
        moved = with_odometry_moved(placed, T_odom_own)
        composed = moved.T_map_odom @ moved.T_odom_base
        np.testing.assert_allclose(composed, placed.T_map_base, atol=1e-9)
        if previous is not None:
            np.testing.assert_allclose(
                inverse(previous[1].T_odom_base) @ moved.T_odom_base,
                inverse(previous[0].T_odom_base) @ placed.T_odom_base,
                atol=1e-9,
            )
        eigenvalues = [np.linalg.eigvalsh(p.odom_covariance) for p in (placed, moved)]
        np.testing.assert_allclose(*eigenvalues, rtol=1e-6)
        previous = placed, moved
