"""map, odom and base follow from camera poses by the laws of REP-105. No ROS needed."""

from dataclasses import replace

import numpy as np
import pytest
from r3_ros.core.geometry import inverse, is_rigid, make_T, R_BODY_OPTICAL
from r3_ros.ros.tf.pose_chain import (
    planar_map_odom,
    PoseChain,
    without_motion,
)
from scipy.spatial.transform import Rotation
import scripted
from scripted import circle, PERIOD_NS, START_NS, truth

T_BODY_OPTICAL = make_T(R_BODY_OPTICAL, np.zeros(3))
T_BASE_OPTICAL = make_T(
    Rotation.from_euler('xyz', [0.1, 0.3, -0.2]).as_matrix() @ R_BODY_OPTICAL, [0.2, -0.1, 0.5]
)
NOMINAL = np.diag([1e-4, 4e-4, 9e-4, 1e-6, 2e-6, 3e-6])
STEP = NOMINAL / 100
UNKNOWN = np.eye(6) * 1e6
SECOND_NS = 1_000_000_000


def random_T(rng, scale=1.0):
    return make_T(Rotation.random(random_state=rng).as_matrix(), scale * rng.normal(size=3))


def advance(
    chain, stamp_ns, T, T_previous=None, covariance=NOMINAL, step=STEP, factor=1.0, max_gap_s=5.0
):
    motion = None if T_previous is None else inverse(T_previous) @ T
    return chain.advance(scripted.moved(stamp_ns, T, motion, covariance, step), factor, max_gap_s)


def T_map_odom(placed):
    return placed.T_map_base @ inverse(placed.T_odom_base)


def ahead(distance, axis=2):
    T = np.eye(4)
    T[axis, 3] = distance
    return T


def drive(chain, count, covariance_of=lambda i: NOMINAL, step_of=lambda i: STEP, factor=1.0):
    """Drive the camera a tenth of a unit along its axis every tenth of a second."""
    placed = []
    for i in range(count):
        T, before = ahead(0.1 * i), ahead(0.1 * (i - 1)) if i else None
        placed.append(
            advance(chain, i * SECOND_NS // 10, T, before, covariance_of(i), step_of(i), factor)
        )
    return placed


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
        composed = T_map_odom(placed) @ placed.T_odom_base
        np.testing.assert_allclose(composed, placed.T_map_base, atol=1e-9)
        np.testing.assert_allclose(
            placed.T_map_base @ T_BASE_OPTICAL, chain.T_map_optical(T_world_camera), atol=1e-12
        )
        np.testing.assert_allclose(T_map_odom(placed), np.eye(4), atol=1e-9)


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
            T_map_odom(placed) @ placed.T_odom_base, chain.T_map_base(T_next), atol=1e-9
        )
        step = np.linalg.norm((inverse(before) @ placed.T_odom_base)[:3, 3])
        assert step < 1.5 * np.linalg.norm(T_step[:3, 3])
        T_world, before = T_next, placed.T_odom_base
    assert not np.allclose(T_map_odom(placed), np.eye(4), atol=1e-2)


@pytest.mark.slow
def test_odometry_stays_rigid_over_many_products():
    rng = np.random.default_rng(2)
    chain = PoseChain(T_BASE_OPTICAL, starts_in_base=True)
    advance(chain, 0, np.eye(4))
    T_step = random_T(rng, 0.01)
    for i in range(1, 2000):
        placed = advance(chain, i, T_step, np.eye(4), None, None, 1.0, 0.0)
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
    np.testing.assert_array_equal(placed.twist, np.zeros(6))
    np.testing.assert_array_equal(placed.twist_covariance, UNKNOWN)


def test_over_a_gap_odometry_claims_nothing_and_the_map_goes_on():
    chain = PoseChain(T_BASE_OPTICAL, starts_in_base=False)
    before, at_the_limit, over, after = (
        advance(chain, START_NS + seconds * 1_000_000_000, np.eye(4), T)
        for seconds, T in ((0, None), (5, np.eye(4)), (11, np.eye(4)), (12, np.eye(4)))
    )
    np.testing.assert_array_equal(over.odom_covariance, UNKNOWN)
    # Where the base is in map does not depend on the way there.
    np.testing.assert_array_equal(over.map_covariance, before.map_covariance)
    # The camera stood still, so each of the three motions adds the same, that over the gap too.
    nothing, one, three = (p.odom_covariance for p in (before, at_the_limit, after))
    np.testing.assert_allclose(three - nothing, 3 * (one - nothing), atol=1e-15)
    assert np.trace(one) > np.trace(nothing)


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
    given = {'covariance': covariance, 'step': covariance}
    advance(chain, START_NS, np.eye(4), **given)
    placed = advance(chain, START_NS + 1, np.eye(4), np.eye(4), **given)
    for matrix in (placed.map_covariance, placed.odom_covariance, placed.twist_covariance):
        assert np.isfinite(matrix).all()
        assert np.linalg.eigvalsh(matrix).min() > 0
        assert matrix.diagonal().max() <= 1e6


def test_a_repeated_place_claims_nothing():
    chain = PoseChain(np.eye(4), starts_in_base=False)
    placed = advance(chain, START_NS, np.eye(4))
    repeated = without_motion(placed)
    np.testing.assert_array_equal(repeated.T_map_base, placed.T_map_base)
    for matrix in (repeated.map_covariance, repeated.odom_covariance, repeated.twist_covariance):
        np.testing.assert_array_equal(matrix, UNKNOWN)
    np.testing.assert_array_equal(repeated.twist, np.zeros(6))


def test_the_velocity_is_as_sure_as_the_motion_between_two_frames():
    """0.6 mm in a tenth of a second are 6 mm/s, however sure the place is by then."""
    chain = PoseChain(np.eye(4), starts_in_base=False)
    placed = drive(
        chain,
        200,
        lambda i: np.eye(6) * 0.01 * i,
        lambda i: np.diag([0.0006**2] * 3 + [1e-10] * 3),
    )
    for each in placed[1:]:
        sigmas = np.sqrt(each.twist_covariance.diagonal())
        # The floor adds 1e-8 to each variance.
        np.testing.assert_allclose(sigmas, [0.006] * 3 + [np.sqrt(2e-8)] * 3, rtol=1e-3)


def test_odom_keeps_its_drift_when_a_loop_closes_in_map():
    chain = PoseChain(np.eye(4), starts_in_base=False)
    step = np.diag([1e-4] * 3 + [0.0] * 3)
    placed = drive(chain, 51, lambda i: np.eye(6) * 1e-4 * i, lambda i: step)
    # Half a unit of drift is taken out of the map, whose variance falls.
    T = ahead(5.1 - 0.5)
    closed = advance(chain, 51 * SECOND_NS // 10, T, T @ ahead(-0.1), np.eye(6) * 1e-6, step)
    assert closed.map_covariance[0, 0] == pytest.approx(1e-6 + 1e-8)
    variances = [p.odom_covariance[0, 0] for p in (*placed, closed)]
    np.testing.assert_allclose(variances, 1e-4 * np.arange(52) + 1e-8, rtol=1e-9)


def test_a_turn_that_is_unsure_moves_what_comes_after_it():
    """In odom: x ahead, y to the left; the first of three motions of 2 turns by 0.01 rad or so."""
    chain = PoseChain(np.eye(4), starts_in_base=True)
    turn = np.zeros((6, 6))
    turn[5, 5] = 1e-4
    placed = [
        advance(
            chain, i * SECOND_NS, ahead(2.0 * i, 0), ahead(2.0 * (i - 1), 0) if i else None,
            step=turn if i == 1 else np.zeros((6, 6)),
        )
        for i in range(4)
    ]  # fmt: skip
    expected = np.zeros((6, 6))
    for i, each in enumerate(placed):
        if i:
            lever = 2.0 * (i - 1)
            expected[1, 1], expected[5, 5] = 1e-4 * lever**2, 1e-4
            expected[1, 5] = expected[5, 1] = 1e-4 * lever
        np.testing.assert_allclose(each.odom_covariance, expected + np.eye(6) * 1e-8, atol=1e-15)


def test_odometry_covariance_matches_sampled_ways():
    rng = np.random.default_rng(4)
    chain, count = PoseChain(T_BASE_OPTICAL, starts_in_base=True), 20000
    motions = [random_T(rng, 0.3) for _ in range(4)]
    T_sampled, T = np.broadcast_to(np.eye(4), (count, 4, 4)), np.eye(4)
    advance(chain, 0, T)
    for i, motion in enumerate(motions, start=1):
        xi = rng.multivariate_normal(np.zeros(6), NOMINAL, size=count)
        errors = make_T(Rotation.from_rotvec(xi[:, 3:]).as_matrix(), xi[:, :3])
        T_sampled = T_sampled @ motion @ errors
        placed = advance(chain, i * SECOND_NS, T @ motion, T, step=NOMINAL)
        T = T @ motion
    T_odom_base = T_BASE_OPTICAL @ T_sampled @ inverse(T_BASE_OPTICAL)
    shift = T_odom_base[:, :3, 3] - placed.T_odom_base[:3, 3]
    turn = T_odom_base[:, :3, :3] @ placed.T_odom_base[:3, :3].T
    turns = Rotation.from_matrix(turn).as_rotvec()
    sampled = np.cov(np.concatenate([shift, turns], axis=1).T)
    scale = np.sqrt(np.outer(sampled.diagonal(), sampled.diagonal()))
    # As above: some 1.5 % with so many samples.
    assert (np.abs(placed.odom_covariance - sampled) / scale).max() < 0.04


NO_POSITION = np.diag([1e6] * 3 + [1e-4] * 3)
NO_ROTATION = np.diag([1e-4] * 3 + [1e6] * 3)


@pytest.mark.parametrize('T_base_optical', [np.eye(4), T_BASE_OPTICAL], ids=['camera', 'mounted'])
@pytest.mark.parametrize('factor', [1.0, 100.0])
def test_a_rotation_stays_known_where_the_position_is_not(T_base_optical, factor):
    chain = PoseChain(T_base_optical, starts_in_base=True)
    placed = drive(chain, 3, lambda i: NO_POSITION, lambda i: NO_POSITION, factor)[-1]
    matrices = placed.map_covariance, placed.odom_covariance, placed.twist_covariance
    for matrix, variance in zip(matrices, (1e-4, 2e-4, 1e-2), strict=True):
        np.testing.assert_allclose(matrix[:3], np.eye(3, 6) * 1e6)
        np.testing.assert_allclose(matrix[3:, 3:], np.eye(3) * (variance + 1e-8), atol=1e-12)
    # Of a velocity that is not known the number is zero.
    np.testing.assert_array_equal(placed.twist[:3], 0.0)


def test_a_rotation_that_is_unknown_leaves_the_place_of_the_camera_known_and_no_other():
    camera, base = (
        advance(PoseChain(T, starts_in_base=True), 0, np.eye(4), covariance=NO_ROTATION)
        for T in (np.eye(4), T_BASE_OPTICAL)
    )
    np.testing.assert_allclose(camera.map_covariance.diagonal(), [1e-4 + 1e-8] * 3 + [1e6] * 3)
    np.testing.assert_array_equal(base.map_covariance, UNKNOWN)


def test_drift_counts_from_where_positions_are_known():
    chain = PoseChain(np.eye(4), starts_in_base=True)
    placed = drive(
        chain,
        8,
        lambda i: NO_POSITION if 0 < i < 4 else NOMINAL,
        lambda i: NO_POSITION if 0 < i < 4 else np.eye(6) * 1e-4,
    )
    x = [p.odom_covariance[0, 0] for p in placed]
    np.testing.assert_allclose(x[:5], [1e-8, 1e6, 1e6, 1e6, 1e-4 + 1e-8], rtol=0.05)
    assert x[4] < x[5] < x[6] < x[7] < 1e-2
    turns = [p.odom_covariance[3, 3] for p in placed]
    np.testing.assert_allclose(turns, 1e-4 * np.arange(8) + 1e-8)


def test_after_a_motion_that_is_unknown_odometry_stays_unknown_and_velocity_does_not():
    chain = PoseChain(np.eye(4), starts_in_base=True)
    placed = drive(chain, 6, step_of=lambda i: None if i == 3 else STEP)
    for each in placed[3:]:
        np.testing.assert_array_equal(each.odom_covariance, UNKNOWN)
        assert each.map_covariance.diagonal().max() < 1e-2
    np.testing.assert_array_equal(placed[3].twist_covariance, UNKNOWN)
    np.testing.assert_array_equal(placed[3].twist, np.zeros(6))
    assert placed[4].twist_covariance.diagonal().max() < 1e-2
    assert placed[2].odom_covariance.diagonal().max() < 1e-2


def test_metres_that_come_later_take_nothing_from_the_drift_so_far():
    chain = PoseChain(np.eye(4), starts_in_base=True)
    step = np.diag([1e-4] * 3 + [0.0] * 3)
    before = drive(chain, 3, step_of=lambda i: step, factor=100.0)[-1]
    chain.metres_per_unit = 2.0
    chain.replace_last()
    after = advance(chain, SECOND_NS, ahead(0.3), ahead(0.2), step=step, factor=100.0)
    # Two steps a hundredfold, then one whose length is twice as many metres.
    assert before.odom_covariance[0, 0] == pytest.approx(2 * 1e-2 + 1e-8)
    assert after.odom_covariance[0, 0] == pytest.approx(2 * 1e-2 + 4e-4 + 1e-8)


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
    np.testing.assert_allclose(T_map_odom(after) @ after.T_odom_base, T_there, atol=1e-9)
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
        moved = replace(placed, T_odom_base=T_odom_own @ placed.T_odom_base)
        composed = T_map_odom(moved) @ moved.T_odom_base
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
