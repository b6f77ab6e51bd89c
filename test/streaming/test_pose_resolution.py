"""The pose of a frame from its edges: what the average must and must not depend on."""

from dataclasses import replace

import numpy as np
import pytest
from r3_ros.core.datatypes import Edge
from r3_ros.core.error_model import ErrorModel
from r3_ros.core.geometry import inverse, make_T, rotation_angle
from r3_ros.streaming.pose_resolution import (
    EdgeNoise,
    HeldPose,
    isotropic,
    resolve_pose,
    ResolvedPose,
    step_covariance,
    usable_edges,
    with_variances,
)
from scipy.spatial.transform import Rotation

NOISE = EdgeNoise(1.0)
FRAME_ID = 1000
DEGREE = np.pi / 180


def motion(rng, distance=1.0):
    direction = rng.normal(size=3)
    return make_T(
        Rotation.random(random_state=rng).as_matrix(),
        distance * direction / np.linalg.norm(direction),
    )


def scene(seed=0, count=30, far=0.0, turn=0.0, shift=0.0, uneven=False):
    """Return held poses about one unit around a frame, noisy edges to it, and its true pose.

    :param far: distance of all of it from the origin.
    :param turn: rotation noise of the edges per axis, of the source as the frame sees it.
    :param uneven: confidences differ from edge to edge, for translation and rotation apart.
    """
    rng = np.random.default_rng(seed)
    T_world_frame = motion(rng, 1.0)
    T_world_frame[:3, 3] = far * np.array([0.6, 0.48, 0.64])
    held, edges = {}, []
    for i in range(count):
        T_frame_i = motion(rng)
        held[i] = HeldPose(T_world_frame @ T_frame_i)
        noise = Rotation.from_rotvec(turn * rng.normal(size=3)).as_matrix()
        noisy = make_T(noise @ T_frame_i[:3, :3], T_frame_i[:3, 3] + shift * rng.normal(size=3))
        scores = rng.uniform(0.2, 3.0, 2) if uneven else (1.0, 1.0)
        edges.append(Edge(i, FRAME_ID, inverse(noisy), *scores))
    return held, edges, T_world_frame


def resolve(held, edges):
    return resolve_pose(edges, held, NOISE)


def centre_error(resolved, T):
    return float(np.linalg.norm(resolved.held.T_world_camera[:3, 3] - T[:3, 3]))


def angle_error(resolved, T):
    return float(rotation_angle(resolved.held.T_world_camera[:3, :3].T @ T[:3, :3]))


def with_edge(edges, index, **changes):
    return [replace(e, **changes) if i == index else e for i, e in enumerate(edges)]


def test_exact_edges_give_the_exact_pose():
    for count in (1, 2, 3, 30):
        held, edges, T = scene(count=count)
        np.testing.assert_allclose(resolve(held, edges).held.T_world_camera, T, atol=1e-12)


def test_no_edge_gives_no_pose():
    assert resolve({}, []) is None


def test_the_error_does_not_grow_with_the_distance_from_the_origin():
    """As it does in an average of world-to-camera translations."""
    off = []
    for far in (0.0, 10.0, 100.0, 1000.0):
        scenes = [scene(seed, far=far, turn=DEGREE, uneven=True) for seed in range(10)]
        off.append(np.mean([centre_error(resolve(h, e), T) for h, e, T in scenes]))
    assert off == pytest.approx(4 * [off[0]], rel=1e-6)
    assert off[0] < 0.01


def test_averaging_beats_a_single_edge():
    errors = {}
    for count in (1, 30):
        scenes = [scene(seed, count, turn=DEGREE, shift=0.01) for seed in range(20)]
        resolved = [(resolve(held, edges), T) for held, edges, T in scenes]
        errors[count] = np.mean([(centre_error(r, T), angle_error(r, T)) for r, T in resolved], 0)
    # 30 independent edges: about 1 / sqrt(30)
    assert (errors[30] < 0.3 * errors[1]).all()


def test_a_weak_first_candidate_half_a_turn_off_decides_nothing():
    """As it does where every quaternion gets the sign that agrees with the first one."""
    worst = 0.0
    for seed in range(30):
        held, edges, T = scene(seed, count=6, turn=DEGREE)
        rng = np.random.default_rng(seed)
        axis = rng.normal(size=3)
        flip = Rotation.from_rotvec((np.pi - 0.01) * axis / np.linalg.norm(axis)).as_matrix()
        T_flipped = edges[0].T_source_target @ make_T(flip, np.zeros(3))
        edges = with_edge(edges, 0, T_source_target=T_flipped, confidence_rotation=0.001)
        worst = max(worst, angle_error(resolve(held, edges), T))
    assert worst < 3 * DEGREE  # six candidates of 1.7 degrees each


def test_confidences_weigh_translation_and_rotation_apart():
    held, edges, T = scene(count=2)
    shifted = edges[0].T_source_target @ make_T(np.eye(3), [0.3, 0.0, 0.0])
    turned = edges[1].T_source_target @ make_T(
        Rotation.from_rotvec([0.0, 0.2, 0.0]).as_matrix(), np.zeros(3)
    )
    edges = with_edge(edges, 0, T_source_target=shifted, confidence_translation=1.0)
    edges = with_edge(edges, 1, T_source_target=turned, confidence_translation=3.0)
    edges = with_edge(edges, 1, confidence_rotation=0.25)
    resolved = resolve(held, edges)
    assert centre_error(resolved, T) == pytest.approx(0.3 / 4, rel=1e-6)
    assert angle_error(resolved, T) == pytest.approx(0.2 / 5, rel=1e-2)


def test_drift_adds_up_along_a_chain_and_is_that_of_the_shortest_way():
    link, held = make_T(np.eye(3), [0.0, 0.0, 0.1]), {0: HeldPose(np.eye(4))}
    for frame_id in range(1, 11):
        edges = [Edge(frame_id - 1, frame_id, link, 3.0, 3.0)]
        if frame_id == 10:
            edges.append(Edge(0, 10, make_T(np.eye(3), [0.0, 0.0, 1.0]), 1.0, 1.0))
        held[frame_id] = resolve(held, edges).held
    one = NOISE.errors.by_evidence(NOISE.evidence_of(edges), np.ones(2))
    np.testing.assert_allclose(held[9].drift, 9 * one[0])
    np.testing.assert_allclose(held[10].drift, one[1])


@pytest.mark.parametrize('share', [0.1, 0.3])
@pytest.mark.parametrize('size', [1.0, 100.0])
def test_outliers_are_thrown_out_even_with_good_scores(share, size):
    for seed in range(10):
        clean = scene(seed, turn=0.2 * DEGREE, shift=0.003)
        held, edges, T = clean
        rng = np.random.default_rng(seed)
        for i in range(round(share * len(edges))):
            edges = with_edge(edges, i, T_source_target=motion(rng, size))
        resolved = resolve(held, edges)
        assert centre_error(resolved, T) < 0.01
        assert angle_error(resolved, T) < 1.0 * DEGREE


def test_order_of_the_edges_does_not_matter():
    held, edges, _ = scene(turn=DEGREE, shift=0.01)
    a, b = resolve(held, edges), resolve(held, edges[::-1])
    np.testing.assert_allclose(a.held.T_world_camera, b.held.T_world_camera, atol=1e-12)
    np.testing.assert_allclose(a.covariance, b.covariance, atol=1e-12)


@pytest.mark.slow
def test_rounded_edges_leave_a_rotation():
    """A chain of single-precision edges must not drift off the rotations."""
    rng = np.random.default_rng(0)
    held = {0: HeldPose(np.eye(4))}
    for frame_id in range(1, 2000):
        T = motion(rng).astype(np.float32).astype(np.float64)
        edge = Edge(frame_id - 1, frame_id, T, 1.0, 1.0)
        held = {frame_id: resolve(held, [edge]).held}
    R = held[1999].T_world_camera[:3, :3]
    assert np.abs(R @ R.T - np.eye(3)).max() < 1e-12


def test_covariance_is_never_zero_and_always_sound():
    for count in (1, 2, 30):
        held, edges, _ = scene(count=count)
        covariance = resolve(held, edges).covariance
        np.testing.assert_allclose(covariance, covariance.T)
        assert np.linalg.eigvalsh(covariance).min() > 1e-9
    still = [Edge(0, FRAME_ID, np.eye(4), 1e6, 1e6)]
    covariance = resolve({0: HeldPose(np.eye(4))}, still).covariance
    assert np.linalg.eigvalsh(covariance).min() > 1e-15


def test_covariance_grows_with_spread():
    sizes = []
    for noise in (0.0, 0.01, 0.1):
        held, edges, _ = scene(count=10, turn=noise, shift=noise)
        sizes.append(np.diag(resolve(held, edges).spread))
    assert (sizes[1] > sizes[0]).all() and (sizes[2] > sizes[1]).all()
    # The spread is about the noise that was put in.
    assert 0.05**2 < sizes[2][:3].mean() < 0.2**2


def test_covariance_grows_as_scores_fall_and_along_a_chain():
    held, edges, _ = scene(count=1)
    sure, unsure = (
        resolve(held, with_edge(edges, 0, confidence_translation=c, confidence_rotation=c))
        for c in (1.0, 0.01)
    )
    ratio = np.repeat(
        NOISE.variances_of(
            [replace(edges[0], confidence_translation=0.01, confidence_rotation=0.01)]
        )[0]
        / NOISE.variances_of(edges)[0],
        3,
    )
    assert (ratio > 2).all()
    np.testing.assert_allclose(np.diag(unsure.covariance), ratio * np.diag(sure.covariance))
    step = make_T(np.eye(3), [0.0, 0.0, 0.1])
    chain, variances = {0: HeldPose(np.eye(4))}, []
    for frame_id in range(1, 6):
        resolved = resolve(chain, [Edge(frame_id - 1, frame_id, step, 1.0, 1.0)])
        chain[frame_id] = resolved.held
        variances.append(np.diag(resolved.covariance))
    variances = np.array(variances)
    # Along the way, and of rotations; to the side turns add to it.
    grown = np.diff(variances, axis=0)
    np.testing.assert_allclose(grown[:, 2:], np.broadcast_to(variances[0, 2:], (4, 4)))
    assert (grown[:, :2] >= variances[0, :2]).all()
    # Seeing a well-known frame again takes it back.
    back = Edge(0, 6, step, 9.0, 9.0)
    on = Edge(5, 6, inverse(chain[5].T_world_camera) @ step, 1.0, 1.0)
    assert resolve(chain, [on, back]).covariance[0, 0] < 1.01 * variances[0, 0]


def test_residuals_and_evidence_of_an_edge_decide_its_covariance():
    model = ErrorModel(
        evidence=(2.0, 3.0), extent=(0.0, 0.0), evidence_power=(1.0, 2.0), drift=(1.0, 1.0)
    )
    noise = EdgeNoise(1.0, model)
    edge = Edge(0, 1, make_T(np.eye(3), [1.0, 0.0, 0.0]), 1.0, 1.0, (0.01, 0.02))
    (variances,) = noise.variances_of([edge])
    np.testing.assert_allclose(variances, [0.02**2 + 1e-8, 0.06**2 + 1e-10])
    (louder,) = noise.variances_of([replace(edge, noise=2.0)])
    np.testing.assert_allclose(louder, [0.04**2 + 1e-8, 0.24**2 + 1e-10])


def test_the_covariance_is_that_of_many_noisy_chains():
    """Monte Carlo: errors of edges and of the unit, through turns and far from the start."""
    rng = np.random.default_rng(3)
    model = ErrorModel(
        evidence=(1.0, 1.0), extent=(0.0, 0.0), drift=(1.5, 0.5), start=(0.01, 0.05)
    )
    sigmas, noise = (0.02, 0.01), EdgeNoise(1.0, model)
    motions = [motion(rng) for _ in range(6)]
    chain = {0: HeldPose(np.eye(4))}
    for n, T in enumerate(motions):
        chain[n + 1] = resolve_pose([Edge(n, n + 1, T, 1.0, 1.0, sigmas)], chain, noise).held
    draws = 20000

    def errors(turn, shift):
        R = Rotation.from_rotvec(turn * rng.normal(size=(draws, 3))).as_matrix()
        return make_T(R, shift * rng.normal(size=(draws, 3)))

    stretch = np.exp(0.05 * rng.normal(size=(draws, 1)))
    true = errors(0.01, 0.0)
    for T in motions:
        step = np.repeat(T[None], draws, axis=0)
        step[:, :3, 3] *= stretch
        true = true @ step @ errors(0.5 * sigmas[1], 1.5 * sigmas[0])
    off = inverse(chain[6].T_world_camera) @ true
    turns = Rotation.from_matrix(off[:, :3, :3]).as_rotvec()
    seen = np.cov(np.concatenate([off[:, :3, 3], turns], axis=1).T)
    expected = chain[6].covariance[:6, :6]
    scale = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(
        seen / np.outer(scale, scale), expected / np.outer(scale, scale), atol=0.06
    )


def test_corrected_variances_keep_the_correlations():
    covariance = np.eye(7) * 0.04
    covariance[0, 4] = covariance[4, 0] = 0.02
    found = with_variances(covariance, (0.01, 0.04))
    np.testing.assert_allclose(np.diag(found), [0.01] * 3 + [0.04] * 3 + [0.01])
    assert found[0, 4] / np.sqrt(found[0, 0] * found[4, 4]) == pytest.approx(0.5)
    np.testing.assert_allclose(with_variances(np.zeros((7, 7)), (1.0, 2.0)), isotropic((1.0, 2.0)))


def step(previous_id, edges, resolved, held, provisional=False):
    return step_covariance(previous_id, edges, resolved, held, NOISE, provisional)


def variance_of(*edges):
    return NOISE.variances_of(edges).mean(axis=0)


def test_a_step_is_as_sure_as_the_edge_along_it_however_far_the_camera_has_come():
    motion, held, steps = make_T(np.eye(3), [0.0, 0.0, 0.1]), {0: HeldPose(np.eye(4))}, []
    for frame_id in range(1, 50):
        edges = [Edge(frame_id - 1, frame_id, motion, 0.25, 1.0)]
        resolved = resolve(held, edges)
        steps.append(step(frame_id - 1, edges, resolved, held))
        held[frame_id] = resolved.held
    expected = np.diag(np.repeat(variance_of(*edges), 3))
    np.testing.assert_allclose(steps, np.broadcast_to(expected, (49, 6, 6)), atol=1e-15)
    # The edge is in the unit of its target, and the covariance in map units.
    edges = [Edge(48, 49, motion, 1.0, 1.0)]
    longer = ResolvedPose(HeldPose(ahead_of(held[48], 0.3), scale=3.0))
    tripled = step(48, edges, longer, held)
    np.testing.assert_allclose(tripled[0, 0], 9.0 * variance_of(*edges)[0])


def ahead_of(held, distance):
    return held.T_world_camera @ make_T(np.eye(3), [0.0, 0.0, distance])


def test_a_step_that_differs_from_its_edge_is_uncertain_by_the_difference():
    turn = Rotation.from_euler('y', 90, degrees=True).as_matrix()
    held = {0: HeldPose(make_T(turn, [5.0, 6.0, 7.0]))}
    T_edge = make_T(turn, [0.0, 0.0, 1.0])
    # In the axes of the new camera.
    T_off = make_T(np.eye(3), [0.02, 0.0, -0.01])
    given = ResolvedPose(HeldPose(held[0].T_world_camera @ T_edge @ inverse(T_off)), np.eye(6))
    edges = [Edge(0, 1, T_edge, 1.0, 1.0)]
    exact = ResolvedPose(HeldPose(held[0].T_world_camera @ T_edge), np.eye(6))
    off = step(0, edges, given, held) - step(0, edges, exact, held)
    expected = np.zeros((6, 6))
    expected[0, 0], expected[2, 2], expected[0, 2], expected[2, 0] = 4e-4, 1e-4, -2e-4, -2e-4
    np.testing.assert_allclose(off, expected, atol=1e-12)


def test_a_step_without_an_edge_along_it_is_as_sure_as_what_accumulated_between():
    held = {
        0: HeldPose(np.eye(4), isotropic((0.5, 0.0))),
        3: HeldPose(np.eye(4), isotropic((0.7, 0.01))),
    }
    edges = [Edge(0, 4, make_T(np.eye(3), [1.0, 0.0, 0.0]), 1.0, 1.0)]
    resolved = resolve(held, edges)
    of_edge = variance_of(*edges)
    # The new frame is at 0.5 + its edge, the one before at 0.7; both depend on others by an edge.
    apart = np.abs(resolved.held.variances - [0.7, 0.01])
    expected = np.diag(np.repeat(2 * of_edge + apart, 3))
    np.testing.assert_allclose(step(3, edges, resolved, held), expected)


def test_a_step_is_unknown_without_poses_and_its_length_without_geometry():
    held, edges = {0: HeldPose(np.eye(4))}, [Edge(0, 1, np.eye(4), 1.0, 1.0)]
    resolved = resolve(held, edges)
    assert step(None, edges, resolved, held) is None
    assert step(7, edges, resolved, held) is None
    provisional = step(0, edges, resolved, held, provisional=True)
    np.testing.assert_allclose(provisional, np.diag([1e6] * 3 + [variance_of(*edges)[1]] * 3))


def test_the_spread_is_in_the_frame_of_the_camera():
    turn = Rotation.from_euler('y', 90, degrees=True).as_matrix()
    held = {0: HeldPose(np.eye(4))}
    edges = [Edge(0, FRAME_ID, make_T(turn, [x, 0.0, 0.0]), 1.0, 1.0) for x in (0.9, 1.1)]
    spread = resolve(held, edges).spread
    # The world's x is the camera's z here.
    np.testing.assert_allclose(np.diag(spread), [0, 0, 0.01, 0, 0, 0], atol=1e-12)


def test_only_claims_that_can_be_true_are_used():
    held, edges, _ = scene(count=8)
    T = edges[0].T_source_target
    nan = T.copy()
    nan[0, 3] = np.nan
    bad = [
        {'T_source_target': nan},
        {'T_source_target': np.zeros((4, 4))},
        {'T_source_target': T @ np.diag([1.0, 1.0, -1.0, 1.0])},
        {'T_source_target': T @ np.diag([2.0, 2.0, 2.0, 1.0])},
        {'confidence_translation': np.nan},
        {'confidence_rotation': np.inf},
        {'confidence_rotation': -1.0},
        {'source_id': 77},
    ]
    spoiled = [replace(edge, **change) for edge, change in zip(edges, bad, strict=True)]
    with np.errstate(all='raise', under='ignore'):
        assert usable_edges(spoiled, held) == []
        assert usable_edges([*spoiled, edges[3]], held) == [edges[3]]
    assert usable_edges(edges, held) == edges


def test_published_poses_cannot_be_changed():
    held, edges, _ = scene(count=2)
    with pytest.raises(ValueError, match='read-only'):
        resolve(held, edges).held.T_world_camera[0, 3] = 1.0
