"""Compares a run with the truth: writes evaluation.json and evaluation.csv."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..core.atomic_files import atomic_write
from ..core.datatypes import Intrinsics
from ..core.trajectory_file import PoseList, read_tum, stamp_text
from ..offline.run_files import (
    DEPTH,
    load_summary,
    plain,
    TRAJECTORY,
    TRAJECTORY_FINAL,
    write_json,
)
from .covariance_errors import bounds_95, covariance_errors, CovarianceErrors
from .depth_errors import depth_of_run
from .trajectory_errors import evaluate_trajectory, TrajectoryErrors

EVALUATION = 'evaluation.json'
EVALUATION_TABLE = 'evaluation.csv'


def evaluate_run(
    folder: Path, truth: PoseList, truth_path: Path, align: str = 'sim3'
) -> dict[str, Any]:
    """Evaluate a run, write the files and return the content of evaluation.json.

    Poses are compared as first estimated and after corrections; depth if the run saved it and
    ``depth/`` is beside the truth; covariances if the run has any.

    :raises SourceError: no run, or no overlap with the truth.
    :raises OutputError: a file cannot be written.
    """
    summary = load_summary(folder)
    camera = summary.get('camera') or {}
    # None if they were estimated for each image.
    known = None if camera.get('focal_length_estimated') else camera.get('undistorted')
    undistorted = Intrinsics(**known) if known else None
    poses = read_tum(folder / TRAJECTORY)
    emitted = evaluate_trajectory(poses, truth, align)
    final = evaluate_trajectory(read_tum(folder / TRAJECTORY_FINAL), truth, align)
    covariance = covariance_errors(folder, poses, truth, emitted.scale)
    depth = depth_of_run(folder / DEPTH, truth_path.parent, undistorted)
    content: dict[str, Any] = plain(
        {
            'groundtruth': str(truth_path),
            'tracked_share': summary.get('tracked_share'),
            'trajectory': emitted.as_json(),
            'trajectory_final': final.as_json(),
            'S_truth_world': emitted.S_truth_world.tolist(),
            'covariance': covariance.as_json() if covariance else None,
            'depth': depth.as_json() if depth else None,
        }
    )
    write_json(folder / EVALUATION, content)
    _write_table(folder / EVALUATION_TABLE, emitted, covariance)
    return content


def _write_table(
    path: Path, errors: TrajectoryErrors, covariance: CovarianceErrors | None
) -> None:
    positions = [f'{name}_{axis}' for name in ('estimate', 'truth') for axis in 'xyz']
    columns = {'error_m': errors.errors_m, 'rotation_error_deg': errors.rotation_deg}
    places = np.hstack([errors.aligned[:, :3, 3], errors.truth[:, :3, 3]])
    columns |= dict(zip(positions, places.T, strict=True))
    if covariance is not None:
        columns |= _drift(covariance, errors)
    lines = [','.join(['stamp', *columns])]
    rows = np.column_stack(list(columns.values()))
    for stamp_ns, row in zip(errors.stamps_ns, rows, strict=True):
        lines.append(','.join([stamp_text(stamp_ns), *(f'{value:.6f}' for value in row)]))
    with atomic_write(path) as file:
        file.write(('\n'.join(lines) + '\n').encode())


def _drift(covariance: CovarianceErrors, errors: TrajectoryErrors) -> dict[str, np.ndarray]:
    """Return columns of the errors seen from the first tracked pose, and their 95 % bounds."""
    rows = np.searchsorted(errors.stamps_ns, covariance.stamps_ns)
    columns = {}
    for unit, part, factor in (
        ('m', slice(0, 3), errors.scale),
        ('deg', slice(3, 6), np.degrees(1.0)),
    ):
        own, C = covariance.pose_errors[:, part], covariance.pose_covariances[:, part, part]
        columns[f'drift_{unit}'] = factor * np.linalg.norm(own, axis=1)
        columns[f'drift_bound_{unit}'] = factor * bounds_95(own, C)
    columns |= {'pose_nees': covariance.pose_nees, 'step_nees': covariance.step_nees}
    filled = {name: np.full(len(errors.stamps_ns), np.nan) for name in columns}
    for name, values in columns.items():
        filled[name][rows] = values
    return filled


def evaluation_text(evaluation: dict[str, Any]) -> str:
    """Return the main numbers of evaluation.json in a few lines."""
    lines = []
    for when, key in (('before', 'trajectory'), ('after', 'trajectory_final')):
        errors = evaluation[key]
        share = errors['ate_percent']
        lines.append(
            f'{when} corrections: ATE {errors["ate_rmse_m"]:.4f} m'
            + (f' ({share:.2f} % of {errors["path_m"]:.2f} m)' if share is not None else '')
            + f', rotation {errors["rotation_mean_deg"]:.2f} deg, step {errors["rpe_m"]:.4f} m, '
            f'{errors["matched"]} poses'
        )
    notes = (
        note for key in ('trajectory', 'trajectory_final') for note in evaluation[key]['notes']
    )
    lines.extend(f'  note: {note}' for note in dict.fromkeys(notes))
    covered = evaluation['covariance'] or {}
    shares = [f'{100 * c["inside_95"]:.0f} % of the {name}' for name, c in covered.items() if c]
    if shares:
        lines.append(f'inside their 95 % ellipsoids: {" and ".join(shares)}')
    if evaluation['depth']:
        depth = evaluation['depth']
        lines.append(
            f'depth of {depth["pictures"]} keyframes: AbsRel {depth["abs_rel"]:.3f}, within 25 %: '
            f'{depth["delta_125"]:.3f}, {100 * depth["coverage"]:.1f} % of the pixels'
        )
    return '\n'.join(lines)
