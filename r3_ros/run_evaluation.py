"""A run's folder against the truth: writes evaluation.json, evaluation.csv, evaluation.png."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from .atomic_files import atomic_write
from .datatypes import Intrinsics
from .depth_evaluation import evaluate_depth
from .evaluation import evaluate_trajectory, TrajectoryErrors
from .run_files import DEPTH, load_summary, plain, TRAJECTORY, TRAJECTORY_FINAL, write_json
from .trajectory_file import PoseList, read_tum, stamp_text

EVALUATION = 'evaluation.json'
EVALUATION_TABLE = 'evaluation.csv'
EVALUATION_PLOT = 'evaluation.png'


def evaluate_run(
    folder: Path, truth: PoseList, truth_path: Path, align: str = 'sim3'
) -> dict[str, Any]:
    """Evaluate a run, write the files and return what evaluation.json holds.

    Judged are the poses as they were given out; those after corrections stand beside them. Depth
    is judged too if the run saved it and ``depth/`` lies beside the truth.

    :raises SourceError: no run, or no overlap with the truth.
    :raises OutputError: a file cannot be written.
    """
    summary = load_summary(folder)
    emitted = evaluate_trajectory(read_tum(folder / TRAJECTORY), truth, align)
    final = evaluate_trajectory(read_tum(folder / TRAJECTORY_FINAL), truth, align)
    depth = evaluate_depth(folder / DEPTH, truth_path.parent, _picture(summary))
    content = {
        'groundtruth': str(truth_path),
        'tracked_share': summary.get('tracked_share'),
        'trajectory': emitted.as_json(),
        'trajectory_final': final.as_json(),
        'depth': depth.as_json() if depth else None,
    }
    content = plain(content)
    write_json(folder / EVALUATION, content)
    _write_table(folder / EVALUATION_TABLE, emitted)
    _write_plot(folder / EVALUATION_PLOT, emitted)
    return content


def _picture(summary: dict[str, Any]) -> Intrinsics | None:
    """Return the intrinsics of the undistorted pictures; None where they were estimated anew."""
    camera = summary.get('camera') or {}
    known = None if camera.get('focal_length_estimated') else camera.get('undistorted')
    return Intrinsics(**known) if known else None


def _write_table(path: Path, errors: TrajectoryErrors) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator='\n')
    table.writerow(
        ['stamp', 'error_m', 'rotation_error_deg']
        + [f'{name}_{axis}' for name in ('estimate', 'truth') for axis in 'xyz']
    )
    rows = np.concatenate(
        [
            errors.errors_m[:, None],
            errors.rotation_deg[:, None],
            errors.aligned[:, :3, 3],
            errors.truth[:, :3, 3],
        ],
        axis=1,
    )
    for stamp_ns, row in zip(errors.stamps_ns, rows, strict=True):
        table.writerow([stamp_text(stamp_ns), *(f'{value:.6f}' for value in row)])
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def _write_plot(path: Path, errors: TrajectoryErrors) -> None:
    from matplotlib.figure import Figure

    truth, estimate = errors.truth[:, :3, 3], errors.aligned[:, :3, 3]
    flat = widest_plane(truth)
    seconds = (errors.stamps_ns - errors.stamps_ns[0]) / 1e9
    figure = Figure(figsize=(12, 5), layout='constrained')
    path_axes, error_axes = figure.subplots(1, 2, width_ratios=(1, 1.2))
    path_axes.plot(*(truth @ flat.T).T, '--', color='0.45', label='truth')
    path_axes.plot(*(estimate @ flat.T).T, color='tab:blue', label='estimate, aligned')
    path_axes.set(xlabel='m', ylabel='m', aspect='equal', title='trajectory, in its widest plane')
    path_axes.legend()
    error_axes.plot(seconds, errors.errors_m, color='tab:blue')
    error_axes.axhline(errors.ate_rmse_m, color='0.45', linestyle=':')
    error_axes.set(
        xlabel='time (s)',
        ylabel='position error (m)',
        title=f'ATE {errors.ate_rmse_m:.4f} m RMS, {errors.ate_percent:.2f} % of the path',
    )
    error_axes.set_ylim(bottom=0)
    with atomic_write(path) as file:
        figure.savefig(file, format='png', dpi=110)


def widest_plane(points: np.ndarray) -> np.ndarray:
    """Return (2, 3) orthonormal axes of the plane in which the points spread the most."""
    centred = points - points.mean(axis=0)
    return np.linalg.svd(centred, full_matrices=False)[2][:2]


def figures_text(evaluation: dict[str, Any]) -> str:
    """Return the main figures of evaluation.json in a few lines."""
    lines = []
    for title, key in (('as given out', 'trajectory'), ('after corrections', 'trajectory_final')):
        figures = evaluation[key]
        share = figures['ate_percent']
        lines.append(
            f'{title}: ATE {figures["ate_rmse_m"]:.4f} m'
            + (f' ({share:.2f} % of {figures["path_m"]:.2f} m)' if share is not None else '')
            + f', rotation {figures["rotation_mean_deg"]:.2f} deg, step {figures["rpe_m"]:.4f} m, '
            f'{figures["matched"]} poses'
        )
        lines.extend(f'  note: {note}' for note in figures['notes'])
    if evaluation['depth']:
        depth = evaluation['depth']
        lines.append(
            f'depth of {depth["pictures"]} keyframes: AbsRel {depth["abs_rel"]:.3f}, within 25 %: '
            f'{depth["delta_125"]:.3f}, {100 * depth["coverage"]:.1f} % of the pixels'
        )
    return '\n'.join(lines)
