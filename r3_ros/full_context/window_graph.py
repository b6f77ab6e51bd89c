"""One pose graph over the pictures of all windows.

A node is one picture in one window, in the window's own unit, so that every measurement is in the
unit in which it was made. A picture that two windows share has a node in each, tied together: the
same camera, and a ratio of units that depth tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from ..config import CovarianceConfig
from ..errors import ModelError
from ..geometry import rotation_angle
from ..streaming.loops.pose_optimizer import load_gtsam, PoseProblem, solve_poses
from ..streaming.pose_resolution import edge_sigmas
from ..streaming.similarity import inverse_similarity, rigid_part, scale_of, similarity
from .window_joining import LogScale
from .window_relations import WindowRelations

#: All pictures of a window are in one unit, and a picture in two windows is one camera.
_ONE_UNIT_SIGMA = 1e-4
_SAME_CAMERA_SIGMA = 1e-4
#: Relations of neighbours are short, but not that much surer: units and radians.
_LEAST_SHIFT_SIGMA = 1e-3
_LEAST_TURN_SIGMA = 2e-3
#: What stands for "unknown", of the logarithm of a scale.
_UNKNOWN_SIGMA = 10.0
#: Misfit in standard deviations beyond which a measurement loses weight, if the others fit.
_KERNEL_WIDTH = 3.0
_ROUNDS = 4
#: Median misfit (root mean square of seven components) of measurements as good as they claim.
_USUAL_MISFIT = 0.7


@dataclass(frozen=True, eq=False)
class PlacedWindow:
    """A window whose place is known roughly.

    :ivar rows: (G,) of the pictures in the window's relations, the root first.
    :ivar frame_ids: (G,) of those pictures.
    :ivar T_root_frame: (G, 4, 4), in the window's unit.
    :ivar S_world_root: (4, 4).
    """

    rows: Sequence[int]
    frame_ids: Sequence[int]
    T_root_frame: np.ndarray
    S_world_root: np.ndarray
    relations: WindowRelations

    @property
    def S_world_frame(self) -> np.ndarray:
        """Return (G, 4, 4)."""
        return self.S_world_root @ self.T_root_frame


@dataclass(frozen=True)
class Tie:
    """One picture in two windows.

    :ivar here: index of the window and row in its group; ``there`` likewise.
    :ivar log_scale: length of the unit there in the unit here, by depth; None: unknown.
    """

    here: tuple[int, int]
    there: tuple[int, int]
    log_scale: LogScale | None


def check_solver() -> None:
    """Find out before the work begins.

    :raises ModelError: the solver is not there.
    """
    try:
        load_gtsam()
    except ModelError as error:
        raise ModelError(
            "offline mode needs GTSAM for Python to join its windows: pip install 'gtsam>=4.3a1'"
        ) from error


def adjusted_windows(
    windows: Sequence[PlacedWindow],
    ties: Sequence[Tie],
    reference: float,
    covariance: CovarianceConfig,
) -> list[np.ndarray]:
    """Return (G, 4, 4) ``S_world_frame`` of each window; the first root stays where it is.

    :param reference: the score of a nominal relation.
    """
    starts = np.cumsum([0, *(len(window.rows) for window in windows)])
    problem = _problem(windows, ties, starts, reference, covariance)
    S = _solved(problem)
    return [S[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)]


def _solved(problem: PoseProblem) -> np.ndarray:
    """Return (N, 4, 4) nodes that fit the measurements.

    Those that may be wrong lose weight with their misfit (Geman-McClure), round by round, from
    the start on: that is robust already, and a few wrong ones at full weight would spoil it.
    """
    S, doubtful = problem.S_world_node, problem.closing
    nothing_closes = np.zeros_like(doubtful)
    for _ in range(_ROUNDS):
        misfit = _misfits(problem, S)[doubtful]
        # As wide as the measurements are off, and at least as they claim.
        width = _KERNEL_WIDTH * max(1.0, float(np.median(misfit)) / _USUAL_MISFIT)
        sigmas = problem.sigmas.copy()
        sigmas[doubtful] *= (1.0 + (misfit / width) ** 2)[:, None]
        softened = replace(problem, S_world_node=S, sigmas=sigmas, closing=nothing_closes)
        S = solve_poses(softened, _KERNEL_WIDTH).S_world_node
    return S


def _misfits(problem: PoseProblem, S: np.ndarray) -> np.ndarray:
    """Return (M,) how far measurements are off in standard deviations, root mean square."""
    found = inverse_similarity(S[problem.pairs[:, 0]]) @ S[problem.pairs[:, 1]]
    off = inverse_similarity(problem.S_source_target) @ found
    turn = Rotation.from_matrix(rigid_part(off)[:, :3, :3]).as_rotvec()
    parts = np.concatenate([turn, off[:, :3, 3], np.log(scale_of(off))[:, None]], axis=1)
    misfit: np.ndarray = np.sqrt(np.mean((parts / problem.sigmas) ** 2, axis=1))
    return misfit


def _problem(
    windows: Sequence[PlacedWindow],
    ties: Sequence[Tie],
    starts: np.ndarray,
    reference: float,
    covariance: CovarianceConfig,
) -> PoseProblem:
    pairs, measured, sigmas, closing = [], [], [], []
    for window, start in zip(windows, starts[:-1], strict=True):
        found = _within(window, reference, covariance)
        pairs.append(found[0] + start)
        measured.append(found[1])
        sigmas.append(found[2])
        closing.append(np.ones(len(found[0]), dtype=bool))
    if ties:
        pairs.append(np.array([[starts[w] + n for w, n in (t.here, t.there)] for t in ties]))
        scales = [tie.log_scale or _unit_ratio(windows, tie) for tie in ties]
        units = np.exp([scale.value for scale in scales])
        measured.append(similarity(np.broadcast_to(np.eye(4), (len(ties), 4, 4)), units))
        sigmas.append(_tie_sigmas(ties, scales))
        closing.append(np.zeros(len(ties), dtype=bool))
    return PoseProblem(
        S_world_node=np.concatenate([window.S_world_frame for window in windows]),
        pairs=np.concatenate(pairs),
        S_source_target=np.concatenate(measured),
        sigmas=np.concatenate(sigmas),
        closing=np.concatenate(closing),
    )


def _within(
    window: PlacedWindow, reference: float, covariance: CovarianceConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pairs, measurements and sigmas of all relations within a group."""
    rows = np.asarray(window.rows)
    first, second = np.triu_indices(len(rows), 1)
    known = (window.relations.scores[rows[first], rows[second]] > 0).all(axis=1)
    first, second = first[known], second[known]
    T = window.relations.T[rows[first], rows[second]]
    ratios = window.relations.scores[rows[first], rows[second]] / reference
    lengths = np.linalg.norm(T[:, :3, 3], axis=1)
    by_part = edge_sigmas(lengths, rotation_angle(T[:, :3, :3]), ratios, covariance)
    by_part = np.maximum(by_part, [_LEAST_SHIFT_SIGMA, _LEAST_TURN_SIGMA])
    sigmas = np.empty((len(T), 7))
    sigmas[:, :3], sigmas[:, 3:6] = by_part[:, 1:], by_part[:, :1]
    sigmas[:, 6] = _ONE_UNIT_SIGMA
    return np.stack([first, second], axis=1).reshape(-1, 2), T, sigmas


def _unit_ratio(windows: Sequence[PlacedWindow], tie: Tie) -> LogScale:
    """Return what the places of two windows make of their units: no measurement."""
    here, there = (
        np.cbrt(np.linalg.det(windows[window].S_world_root[:3, :3]))
        for window, _ in (tie.here, tie.there)
    )
    return LogScale(float(np.log(there / here)), _UNKNOWN_SIGMA)


def _tie_sigmas(ties: Sequence[Tie], scales: Sequence[LogScale]) -> np.ndarray:
    sigmas = np.full((len(ties), 7), _SAME_CAMERA_SIGMA)
    # Pictures that two windows share err together: more of them are not more sure.
    sharing = [sum(other.there[0] == tie.there[0] for other in ties) for tie in ties]
    sigmas[:, 6] = [
        scale.sigma * np.sqrt(count) for scale, count in zip(scales, sharing, strict=True)
    ]
    return sigmas
