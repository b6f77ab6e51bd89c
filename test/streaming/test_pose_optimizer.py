"""The solver: known graphs, a unit that drifts, measurements that are wrong altogether."""

from dataclasses import replace

import numpy as np
import pytest
from r3_ros.core.geometry import (
    inverse_similarity,
    is_rigid,
    make_T,
    rigid_part,
    scale_of,
    similarity,
)
from r3_ros.streaming.loops.pose_optimizer import PoseProblem, solve_poses
from scipy.spatial.transform import Rotation

NODES = 24


def ring(scales):
    """Return similarities round a circle."""
    angles = 2 * np.pi * np.arange(NODES) / NODES
    R = Rotation.from_euler('y', angles[:, None]).as_matrix()
    centres = 4.0 * np.stack([np.cos(angles), 0 * angles, -np.sin(angles)], axis=1)
    return similarity(make_T(R, centres), scales)


def problem(truth, closing, twist, sigma=0.01):
    """Return the graph of a chain whose every step is off by ``twist``, and closing edges."""
    steps = inverse_similarity(truth[:-1]) @ truth[1:]
    start = [truth[0]]
    for step in steps:
        start.append(start[-1] @ step @ twist)
    start = np.stack(start)
    pairs = [(n, n + 1) for n in range(NODES - 1)]
    measured = list(inverse_similarity(start[:-1]) @ start[1:])
    for source, target, S in closing:
        pairs.append((source, target))
        measured.append(S)
    is_closing = np.arange(len(pairs)) >= NODES - 1
    sigmas = np.where(is_closing[:, None], sigma / 10, sigma) * np.ones(7)
    return PoseProblem(start, np.array(pairs), np.stack(measured), sigmas, is_closing)


def exact(truth, source, target):
    return source, target, inverse_similarity(truth[source]) @ truth[target]


def off(S, truth):
    return np.linalg.norm((S - truth)[:, :3, 3], axis=1)


def small_twist(turn=0.02, stretch=1.0):
    return similarity(make_T(Rotation.from_euler('y', turn).as_matrix(), np.zeros(3)), stretch)


@pytest.mark.parametrize('stretch', [1.0, 0.98])
def test_a_loop_that_is_closed_comes_out_right(stretch):
    truth = ring(np.ones(NODES))
    graph = problem(truth, [exact(truth, 0, NODES - 1)], small_twist(stretch=stretch))
    assert off(graph.S_world_node, truth).max() > 1.0
    solution = solve_poses(graph, kernel_width=3.0)
    assert off(solution.S_world_node, truth).max() < 0.25
    assert np.abs(scale_of(solution.S_world_node) - 1.0).max() < 0.02
    np.testing.assert_allclose(solution.S_world_node[0], truth[0], atol=1e-6)
    assert all(is_rigid(T, 1e-9) for T in rigid_part(solution.S_world_node))


def test_consistent_measurements_change_nothing():
    truth = ring(np.linspace(1.0, 2.0, NODES))
    solution = solve_poses(problem(truth, [exact(truth, 0, 20)], np.eye(4)), 3.0)
    np.testing.assert_allclose(solution.S_world_node, truth, atol=1e-6)
    assert solution.misfit.max() < 1e-3


@pytest.mark.parametrize(('width', 'let_go'), [(3.0, True), (100.0, False)])
def test_a_wrong_closing_edge_is_let_go(width, let_go):
    truth = ring(np.ones(NODES))
    wrong = exact(truth, 1, NODES - 2)[2] @ make_T(np.eye(3), [1.0, 0.0, 0.5])
    good = [exact(truth, 0, n) for n in range(NODES - 4, NODES)]
    graph = problem(truth, [*good, (1, NODES - 2, wrong)], small_twist())
    solution = solve_poses(graph, kernel_width=width)
    worst = off(solution.S_world_node, truth).max()
    assert (worst < 0.25) == let_go
    # Either way the misfit identifies the outlier.
    assert solution.misfit[-1] > 10 * solution.misfit[graph.closing][:-1].max() or not let_go


def test_a_node_without_measurements_stays_and_affects_no_other():
    truth = ring(np.ones(NODES))
    graph = problem(truth, [exact(truth, 0, NODES - 2)], small_twist())
    cut = graph.pairs[:, 1] != NODES - 1
    graph = replace(
        graph,
        pairs=graph.pairs[cut],
        S_source_target=graph.S_source_target[cut],
        sigmas=graph.sigmas[cut],
        closing=graph.closing[cut],
    )
    solution = solve_poses(graph, kernel_width=3.0)
    assert off(solution.S_world_node, truth)[:-1].max() < 0.25
    np.testing.assert_allclose(solution.S_world_node[-1], graph.S_world_node[-1], atol=1e-6)


def test_without_measurements_all_stays():
    truth = ring(np.ones(NODES))
    empty = PoseProblem(
        truth, np.zeros((0, 2), int), np.zeros((0, 4, 4)), np.zeros((0, 7)), np.zeros(0, bool)
    )
    solution = solve_poses(empty, 3.0)
    np.testing.assert_allclose(solution.S_world_node, truth, atol=1e-6)
    assert solution.misfit.shape == (0,)


def test_similarities_are_undone_by_their_inverse():
    rng = np.random.default_rng(0)
    T = make_T(Rotation.random(5, random_state=rng).as_matrix(), rng.normal(size=(5, 3)))
    S = similarity(T, rng.uniform(0.2, 5.0, 5))
    np.testing.assert_allclose(
        S @ inverse_similarity(S), np.tile(np.eye(4), (5, 1, 1)), atol=1e-12
    )
    np.testing.assert_allclose(rigid_part(S), T, atol=1e-12)
