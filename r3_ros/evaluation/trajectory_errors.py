"""Errors of a trajectory against the truth.

Alignment and relative errors are computed by ``evo``; poses are matched by integer stamps.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..core.errors import SourceError
from ..core.geometry import (
    inverse_similarity,
    make_T,
    mean_rotation,
    rotation_angle,
    similarity,
    transform,
)
from ..core.trajectory_file import NANOSECONDS, PoseList

MIN_POSES = 3
#: Largest difference of matching stamps.
TOLERANCE_S = 0.01


@dataclass(frozen=True, eq=False)
class TrajectoryErrors:
    """Errors of a trajectory after the best alignment.

    :ivar path_m: length of the true path, in the unit of the truth.
    :ivar ate_rmse_m: root mean square position error; ``ate_percent`` is its share of the path.
    :ivar rpe_m: root mean square error of the step to the next matched pose, ``rpe_deg`` of its
        rotation.
    :ivar rotation_mean_deg: mean rotation error after aligning the rotations alone, because
        positions on a line do not determine the roll about it.
    :ivar scale: factor applied to the estimate.
    :ivar errors_m: (N,) distance of every matched pose.
    :ivar aligned: (N, 4, 4) matched poses in the frame of the truth; ``truth``: the true ones.
    """

    alignment: str
    matched: int
    estimated: int
    path_m: float
    ate_rmse_m: float
    ate_percent: float
    ate_mean_m: float
    ate_median_m: float
    ate_max_m: float
    rpe_m: float
    rpe_deg: float
    rotation_mean_deg: float
    rotation_max_deg: float
    scale: float
    notes: tuple[str, ...]
    stamps_ns: np.ndarray = field(repr=False)
    errors_m: np.ndarray = field(repr=False)
    rotation_deg: np.ndarray = field(repr=False)
    aligned: np.ndarray = field(repr=False)
    truth: np.ndarray = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """Return the numbers without the arrays."""
        return {k: v for k, v in asdict(self).items() if not isinstance(v, np.ndarray)}


def evaluate_trajectory(
    estimate: PoseList, truth: PoseList, align: str = 'sim3'
) -> TrajectoryErrors:
    """Compare two trajectories.

    :param align: ``sim3`` (rotation, translation, scale) or ``se3`` (no scale).
    :raises SourceError: fewer than three poses match.
    """
    own, other = match_stamps(estimate.stamps_ns, truth.stamps_ns)
    if len(own) < MIN_POSES:
        raise SourceError(_no_match(estimate, truth, len(own)))
    T_est, T_true = estimate.T_world_camera[own], truth.T_world_camera[other]
    R_est, R_true = T_est[:, :3, :3], T_true[:, :3, :3]
    R_true_est = mean_rotation(R_true @ R_est.swapaxes(1, 2), np.ones(len(own)))
    scale, R, t, notes = _alignment(T_est, T_true, R_true_est, with_scale=align == 'sim3')
    aligned = make_T(R @ R_est, scale * T_est[:, :3, 3] @ R.T + t)
    errors = np.linalg.norm(aligned[:, :3, 3] - T_true[:, :3, 3], axis=1)
    rotation_deg = np.degrees(rotation_angle(R_true.swapaxes(1, 2) @ (R_true_est @ R_est)))
    covered = truth.T_world_camera[other[0] : other[-1] + 1, :3, 3]
    path = float(np.linalg.norm(np.diff(covered, axis=0), axis=1).sum())
    rpe_m, rpe_deg = _relative_errors(aligned, T_true)
    rmse = float(np.sqrt(np.mean(errors**2)))
    return TrajectoryErrors(
        alignment=align,
        matched=len(own),
        estimated=len(estimate),
        path_m=path,
        ate_rmse_m=rmse,
        ate_percent=100.0 * rmse / path if path > 0 else float('nan'),
        ate_mean_m=float(errors.mean()),
        ate_median_m=float(np.median(errors)),
        ate_max_m=float(errors.max()),
        rpe_m=rpe_m,
        rpe_deg=rpe_deg,
        rotation_mean_deg=float(rotation_deg.mean()),
        rotation_max_deg=float(rotation_deg.max()),
        scale=scale,
        notes=(*truth.notes, *notes),
        stamps_ns=estimate.stamps_ns[own],
        errors_m=errors,
        rotation_deg=rotation_deg,
        aligned=aligned,
        truth=T_true,
    )


def true_path(estimate: PoseList, truth: PoseList) -> np.ndarray:
    """Return the (N, 3) true positions from the first to the last estimated pose.

    They are in the frame and unit of the estimate, to which the truth is aligned (``sim3``).

    :raises SourceError: fewer than three poses match.
    """
    errors = evaluate_trajectory(estimate, truth)
    own = int(np.searchsorted(estimate.stamps_ns, errors.stamps_ns[0]))
    T_estimate, T_aligned = estimate.T_world_camera[own], errors.aligned[0]
    R = T_aligned[:3, :3] @ T_estimate[:3, :3].T
    S_truth_estimate = similarity(make_T(R, np.zeros(3)), errors.scale)
    S_truth_estimate[:3, 3] = T_aligned[:3, 3] - S_truth_estimate[:3, :3] @ T_estimate[:3, 3]
    covered = slice(*np.searchsorted(truth.stamps_ns, errors.stamps_ns[[0, -1]] + [0, 1]))
    return transform(inverse_similarity(S_truth_estimate), truth.T_world_camera[covered, :3, 3])


def match_stamps(
    first_ns: np.ndarray, second_ns: np.ndarray, tolerance_s: float = TOLERANCE_S
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of matching stamps, each used at most once.

    :param first_ns: (N,) int64, rising; ``second_ns``: (M,) likewise.
    """
    right = np.clip(np.searchsorted(second_ns, first_ns), 1, max(len(second_ns) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(second_ns) - 1)
    nearer_left = np.abs(second_ns[left] - first_ns) <= np.abs(second_ns[right] - first_ns)
    nearest = np.where(nearer_left, left, right)
    distance = np.abs(second_ns[nearest] - first_ns)
    order = np.argsort(distance, kind='stable')
    order = order[distance[order] <= round(tolerance_s * NANOSECONDS)]
    # Of several matches of one stamp the nearest counts.
    _, winners = np.unique(nearest[order], return_index=True)
    first = np.sort(order[winners])
    return first, nearest[first]


def _no_match(estimate: PoseList, truth: PoseList, matched: int) -> str:
    def span(poses: PoseList) -> str:
        begin, end = (poses.stamps_ns[i] / NANOSECONDS for i in (0, -1))
        return f'{begin:.3f} to {end:.3f} s'

    own, true = estimate.stamps_ns, truth.stamps_ns
    if own[-1] < true[0] or true[-1] < own[0]:
        hint = 'they do not overlap in time; is it the truth of another sequence or clock?'
    elif len(estimate) < MIN_POSES:
        hint = 'the camera was tracked too rarely'
    else:
        hint = f'their stamps differ by more than {TOLERANCE_S} s'
    return (
        f'only {matched} poses match a true one in time, {MIN_POSES} are needed: the '
        f'estimate has {len(estimate)} poses from {span(estimate)}, the truth {len(truth)} from '
        f'{span(truth)}; {hint}'
    )


def _alignment(
    T_est: np.ndarray, T_true: np.ndarray, R_true_est: np.ndarray, with_scale: bool
) -> tuple[float, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return scale, rotation and translation onto the truth, and notes.

    :param R_true_est: used if all positions are on a point or line.
    """
    from evo.core.geometry import GeometryException, umeyama_alignment

    centres, true_centres = T_est[:, :3, 3], T_true[:, :3, 3]
    try:
        R, t, scale = umeyama_alignment(centres.T, true_centres.T, with_scale)
    except GeometryException:
        t = true_centres.mean(axis=0) - R_true_est @ centres.mean(axis=0)
        note = 'the positions span no plane, so they were aligned by the rotations, without scale'
        return 1.0, R_true_est, t, (note,)
    return float(scale), R, t, ()


def _relative_errors(aligned: np.ndarray, T_true: np.ndarray) -> tuple[float, float]:
    """Return the RMS error of the steps between successive poses, metres and degrees."""
    from evo.core.metrics import PoseRelation, RPE, StatisticsType, Unit
    from evo.core.trajectory import PosePath3D

    pair = (PosePath3D(poses_se3=list(T_true)), PosePath3D(poses_se3=list(aligned)))

    def rmse(relation: PoseRelation) -> float:
        metric = RPE(relation, delta=1, delta_unit=Unit.frames, all_pairs=False)
        metric.process_data(pair)
        return float(metric.get_statistic(StatisticsType.rmse))

    return rmse(PoseRelation.translation_part), rmse(PoseRelation.rotation_angle_deg)
