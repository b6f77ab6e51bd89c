"""One pose graph over the images of all windows.

A node is one image in one window, in the window's own unit, so that every measurement is in the
unit in which it was made. An image that two windows share has a node in each; a tie constrains
both to one camera pose and, by depth, the ratio of the units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from ...core.geometry import inverse_similarity, rigid_part, rotation_angle, scale_of, similarity
from ...core.unit_scale import DepthGrid, LogScale
from ...streaming.loops.pose_optimizer import PoseProblem, solve_poses
from ...streaming.pose_resolution import edge_sigmas
from .window_relations import WindowRelations

#: All images of a window are in one unit, and an image in two windows is one camera.
_ONE_UNIT_SIGMA = 1e-4
_SAME_CAMERA_SIGMA = 1e-4
#: Lower bounds for short relations: units and radians.
_MIN_SHIFT_SIGMA = 1e-3
_MIN_TURN_SIGMA = 2e-3
#: Standard deviation of the logarithm of an unknown scale.
_UNKNOWN_SIGMA = 10.0
#: Misfit, in standard deviations, above which a measurement loses weight.
_KERNEL_WIDTH = 3.0
_ROUNDS = 4
#: Median misfit (root mean square of seven components) if the sigmas are right.
_USUAL_MISFIT = 0.7


@dataclass(frozen=True, eq=False)
class PlacedWindow:
    """A window with an approximate pose.

    :ivar rows: (G,) of the images in the window's relations, the root first.
    :ivar frame_ids: (G,) of those images.
    :ivar T_root_frame: (G, 4, 4), in the window's unit.
    :ivar S_world_root: (4, 4); ``S_world_frame``: (G, 4, 4).
    :ivar grids: depth of its images, in its unit, by frame.
    """

    rows: Sequence[int]
    frame_ids: Sequence[int]
    T_root_frame: np.ndarray
    S_world_root: np.ndarray
    relations: WindowRelations
    grids: Mapping[int, DepthGrid]

    @property
    def S_world_frame(self) -> np.ndarray:
        """Approximate poses."""
        return self.S_world_root @ self.T_root_frame


@dataclass(frozen=True)
class Tie:
    """One image in two windows.

    :ivar here: index of the window and row in its group; ``there`` likewise.
    :ivar log_scale: length of the unit there in the unit here, by depth; None: unknown.
    """

    here: tuple[int, int]
    there: tuple[int, int]
    log_scale: LogScale | None


def adjusted_windows(
    windows: Sequence[PlacedWindow],
    ties: Sequence[Tie],
    reference: float,
) -> list[np.ndarray]:
    """Return (G, 4, 4) ``S_world_frame`` of each window; the first root stays where it is.

    :param reference: the score of a nominal relation.
    """
    starts = np.cumsum([0, *(len(window.rows) for window in windows)])
    S = _solved(_problem(windows, ties, starts, reference))
    return [S[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)]


def _solved(problem: PoseProblem) -> np.ndarray:
    """Return (N, 4, 4) nodes that fit the measurements.

    Doubtful measurements lose weight with their misfit (Geman-McClure) from the first round on:
    the initial poses are robust, and a few outliers at full weight would spoil them.
    """
    S, doubtful = problem.S_world_node, problem.closing
    nothing_closes = np.zeros_like(doubtful)
    for _ in range(_ROUNDS):
        misfit = _misfits(problem, S)[doubtful]
        # Widened where the sigmas prove too small.
        width = _KERNEL_WIDTH * max(1.0, float(np.median(misfit)) / _USUAL_MISFIT)
        sigmas = problem.sigmas.copy()
        sigmas[doubtful] *= (1.0 + (misfit / width) ** 2)[:, None]
        softened = replace(problem, S_world_node=S, sigmas=sigmas, closing=nothing_closes)
        S = solve_poses(softened, _KERNEL_WIDTH).S_world_node
    return S


def _misfits(problem: PoseProblem, S: np.ndarray) -> np.ndarray:
    """Return (M,) root mean square errors in standard deviations."""
    found = inverse_similarity(S[problem.pairs[:, 0]]) @ S[problem.pairs[:, 1]]
    off = inverse_similarity(problem.S_source_target) @ found
    turn = Rotation.from_matrix(rigid_part(off)[:, :3, :3]).as_rotvec()
    parts = np.concatenate([turn, off[:, :3, 3], np.log(scale_of(off))[:, None]], axis=1)
    return np.sqrt(np.mean((parts / problem.sigmas) ** 2, axis=1))


def _problem(
    windows: Sequence[PlacedWindow],
    ties: Sequence[Tie],
    starts: np.ndarray,
    reference: float,
) -> PoseProblem:
    pairs, measured, sigmas, closing = [], [], [], []
    for window, start in zip(windows, starts[:-1], strict=True):
        found = _within(window, reference)
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


def _within(window: PlacedWindow, reference: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pairs, measurements and sigmas of all relations in a group."""
    rows = np.asarray(window.rows)
    first, second = np.triu_indices(len(rows), 1)
    known = (window.relations.scores[rows[first], rows[second]] > 0).all(axis=1)
    first, second = first[known], second[known]
    T = window.relations.T[rows[first], rows[second]]
    ratios = window.relations.scores[rows[first], rows[second]] / reference
    lengths = np.linalg.norm(T[:, :3, 3], axis=1)
    by_part = edge_sigmas(lengths, rotation_angle(T[:, :3, :3]), ratios)
    by_part = np.maximum(by_part, [_MIN_SHIFT_SIGMA, _MIN_TURN_SIGMA])
    sigmas = np.empty((len(T), 7))
    sigmas[:, :3], sigmas[:, 3:6] = by_part[:, 1:], by_part[:, :1]
    sigmas[:, 6] = _ONE_UNIT_SIGMA
    return np.stack([first, second], axis=1).reshape(-1, 2), T, sigmas


def _unit_ratio(windows: Sequence[PlacedWindow], tie: Tie) -> LogScale:
    """Return the ratio of units in the initial poses of two windows: no measurement."""
    here, there = (
        np.cbrt(np.linalg.det(windows[window].S_world_root[:3, :3]))
        for window, _ in (tie.here, tie.there)
    )
    return LogScale(float(np.log(there / here)), _UNKNOWN_SIGMA)


def _tie_sigmas(ties: Sequence[Tie], scales: Sequence[LogScale]) -> np.ndarray:
    sigmas = np.full((len(ties), 7), _SAME_CAMERA_SIGMA)
    # Errors of images shared by the same windows are correlated: more do not add certainty.
    sharing = [sum(other.there[0] == tie.there[0] for other in ties) for tie in ties]
    sigmas[:, 6] = [
        scale.sigma * np.sqrt(count) for scale, count in zip(scales, sharing, strict=True)
    ]
    return sigmas
