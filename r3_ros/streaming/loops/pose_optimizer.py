"""Least squares over a graph of similarities, solved by GTSAM. The only importer of GTSAM.

Arrays in, arrays out, so that it may run in a thread of its own while frames go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from ...core.errors import ModelError
from ...core.geometry import scale_of, similarity

_NEEDED = 'closing loops and joining windows (offline mode) need GTSAM 4.3 or newer for Python'
_REMEDY = "pip install 'gtsam>=4.3a1', or, for a stream, set loop.enabled to false"
#: The solver has converged when a round lowers the error by less than this share.
_SETTLED = 1e-4
_MAX_ROUNDS = 30
#: Prior of the node that does not move: rotation, translation and logarithm of the scale.
_FIXED_SIGMA = 1e-5
#: Prior of the other nodes, which only matters without measurements.
_LOOSE_SIGMA = 100.0


@dataclass(frozen=True, eq=False)
class PoseProblem:
    """Similarities to adjust and the measurements among them.

    :ivar S_world_node: (N, 4, 4) initial values; the first one is fixed.
    :ivar pairs: (M, 2) int, rows of source and target of each measurement.
    :ivar S_source_target: (M, 4, 4) as measured; lengths in the source's unit.
    :ivar sigmas: (M, 7) standard deviations in the target's axes and unit: rotation (radians),
        translation, logarithm of the scale.
    :ivar closing: (M,) bool, measurements that may be outliers.
    """

    S_world_node: np.ndarray
    pairs: np.ndarray
    S_source_target: np.ndarray
    sigmas: np.ndarray
    closing: np.ndarray


@dataclass(frozen=True, eq=False)
class PoseSolution:
    """Adjusted similarities, and the (M,) rms of each measurement's residuals over the sigmas."""

    S_world_node: np.ndarray
    misfit: np.ndarray


def load_gtsam() -> ModuleType:
    """Return the solver's library.

    :raises ModelError: it is not installed, or does not work with this NumPy.
    """
    try:
        import gtsam
    except ImportError as error:
        raise ModelError(f'{_NEEDED}, which cannot be loaded ({error}): {_REMEDY}') from error
    if not hasattr(gtsam, 'BetweenFactorSimilarity3'):
        raise ModelError(f'{_NEEDED}, an older one is installed: {_REMEDY}')
    return gtsam


def solve_poses(problem: PoseProblem, kernel_width: float) -> PoseSolution:
    """Return the most likely similarities.

    First all measurements count in full, which closes a loop however far apart its ends are; then
    those of ``closing`` lose weight with their misfit (Cauchy), which removes outliers.

    :param kernel_width: misfit in standard deviations at which half the weight is left.
    """
    gtsam = load_gtsam()
    values = gtsam.Values()
    for key, S in enumerate(problem.S_world_node):
        values.insert(key, _to_gtsam(gtsam, S))
    measured = [_to_gtsam(gtsam, S) for S in problem.S_source_target]
    for robust in (False, True):
        graph = _factor_graph(gtsam, problem, measured, kernel_width if robust else None)
        values = _optimised(gtsam, graph, values)
    S = np.stack(
        [_from_gtsam(values.atSimilarity3(key)) for key in range(len(problem.S_world_node))]
    )
    return PoseSolution(S, _misfit(gtsam, problem, measured, values))


def _factor_graph(
    gtsam: Any, problem: PoseProblem, measured: list[Any], kernel_width: float | None
) -> Any:
    graph = gtsam.NonlinearFactorGraph()
    for key, S_node in enumerate(problem.S_world_node):
        held = gtsam.noiseModel.Isotropic.Sigma(7, _LOOSE_SIGMA if key else _FIXED_SIGMA)
        graph.add(gtsam.PriorFactorSimilarity3(key, _to_gtsam(gtsam, S_node), held))
    rows = zip(problem.pairs, measured, problem.sigmas, problem.closing, strict=True)
    for (source, target), S, sigmas, closing in rows:
        noise = gtsam.noiseModel.Diagonal.Sigmas(sigmas)
        if closing and kernel_width is not None:
            kernel = gtsam.noiseModel.mEstimator.Cauchy.Create(kernel_width)
            noise = gtsam.noiseModel.Robust.Create(kernel, noise)
        graph.add(gtsam.BetweenFactorSimilarity3(int(source), int(target), S, noise))
    return graph


def _optimised(gtsam: Any, graph: Any, values: Any) -> Any:
    optimizer = gtsam.LevenbergMarquardtOptimizer(graph, values)
    error = optimizer.error()
    for _ in range(_MAX_ROUNDS):
        # Round by round: the library holds Python's lock, and other threads run between rounds.
        optimizer.iterate()
        before, error = error, optimizer.error()
        if before - error <= _SETTLED * before:
            break
    return optimizer.values()


def _misfit(gtsam: Any, problem: PoseProblem, measured: list[Any], values: Any) -> np.ndarray:
    errors = []
    for (source, target), S in zip(problem.pairs, measured, strict=True):
        found = values.atSimilarity3(int(source)).inverse() * values.atSimilarity3(int(target))
        errors.append(gtsam.Similarity3.Logmap(S.inverse() * found))
    if not errors:
        return np.zeros(0)
    return np.sqrt(np.mean((np.stack(errors) / problem.sigmas) ** 2, axis=1))


def _to_gtsam(gtsam: Any, S: np.ndarray) -> Any:
    """Return S as GTSAM's similarity, which scales after the translation."""
    scale = float(scale_of(S))
    return gtsam.Similarity3(gtsam.Rot3(S[:3, :3] / scale), S[:3, 3] / scale, scale)


def _from_gtsam(S: Any) -> np.ndarray:
    matrix = np.eye(4)
    # Rounding accumulates in the library's rotation; a held pose has to be rigid.
    u, _, vt = np.linalg.svd(S.rotation().matrix())
    matrix[:3, :3] = u @ vt
    matrix[:3, 3] = S.translation() * S.scale()
    return similarity(matrix, S.scale())
