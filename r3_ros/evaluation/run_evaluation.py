"""Compares a run with the truth: writes evaluation.json, evaluation.csv, evaluation.png."""

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
from .depth_errors import depth_of_run
from .figures import save_figure, trajectory_figure
from .trajectory_errors import evaluate_trajectory, TrajectoryErrors

EVALUATION = 'evaluation.json'
EVALUATION_TABLE = 'evaluation.csv'
EVALUATION_PLOT = 'evaluation.png'


def evaluate_run(
    folder: Path, truth: PoseList, truth_path: Path, align: str = 'sim3'
) -> dict[str, Any]:
    """Evaluate a run, write the files and return the content of evaluation.json.

    Poses are compared as first estimated and after corrections; depth if the run saved it and
    ``depth/`` is beside the truth.

    :raises SourceError: no run, or no overlap with the truth.
    :raises OutputError: a file cannot be written.
    """
    summary = load_summary(folder)
    camera = summary.get('camera') or {}
    # None if they were estimated for each image.
    known = None if camera.get('focal_length_estimated') else camera.get('undistorted')
    undistorted = Intrinsics(**known) if known else None
    emitted = evaluate_trajectory(read_tum(folder / TRAJECTORY), truth, align)
    final = evaluate_trajectory(read_tum(folder / TRAJECTORY_FINAL), truth, align)
    depth = depth_of_run(folder / DEPTH, truth_path.parent, undistorted)
    content: dict[str, Any] = plain(
        {
            'groundtruth': str(truth_path),
            'tracked_share': summary.get('tracked_share'),
            'trajectory': emitted.as_json(),
            'trajectory_final': final.as_json(),
            'depth': depth.as_json() if depth else None,
        }
    )
    write_json(folder / EVALUATION, content)
    _write_table(folder / EVALUATION_TABLE, emitted)
    save_figure(trajectory_figure({'before corrections': emitted}), folder / EVALUATION_PLOT)
    return content


def _write_table(path: Path, errors: TrajectoryErrors) -> None:
    positions = [f'{name}_{axis}' for name in ('estimate', 'truth') for axis in 'xyz']
    lines = [','.join(['stamp', 'error_m', 'rotation_error_deg', *positions])]
    places = (errors.aligned[:, :3, 3], errors.truth[:, :3, 3])
    rows = np.column_stack([errors.errors_m, errors.rotation_deg, *places])
    for stamp_ns, row in zip(errors.stamps_ns, rows, strict=True):
        lines.append(','.join([stamp_text(stamp_ns), *(f'{value:.6f}' for value in row)]))
    with atomic_write(path) as file:
        file.write(('\n'.join(lines) + '\n').encode())


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
    if evaluation['depth']:
        depth = evaluation['depth']
        lines.append(
            f'depth of {depth["pictures"]} keyframes: AbsRel {depth["abs_rel"]:.3f}, within 25 %: '
            f'{depth["delta_125"]:.3f}, {100 * depth["coverage"]:.1f} % of the pixels'
        )
    return '\n'.join(lines)
