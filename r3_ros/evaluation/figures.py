"""Common parts of the figures; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping
import io
from pathlib import Path
from typing import Any

import numpy as np

from ..core.atomic_files import atomic_write
from ..core.trajectory_file import NANOSECONDS
from .trajectory_errors import TrajectoryErrors

_DPI = 110


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout='constrained')


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG.

    :raises OutputError: the file cannot be written.
    """
    with atomic_write(path) as file:
        file.write(encoded(figure, _DPI))


def encoded(figure: Any, dpi: int, kind: str = 'png') -> bytes:
    """Return a figure encoded as ``png`` or ``jpeg``."""
    buffer = io.BytesIO()
    options = {'pil_kwargs': {'quality': 85}} if kind == 'jpeg' else {}
    figure.savefig(buffer, format=kind, dpi=dpi, **options)
    return buffer.getvalue()


def trajectory_figure(paths: Mapping[str, TrajectoryErrors], unit: str = 'm') -> Any:
    """Return a figure of aligned and true paths, and of the errors over time.

    :param paths: evaluated trajectories by their labels; the true path is that of the longest.
    """
    truth = max(paths.values(), key=lambda errors: errors.matched).truth[:, :3, 3]
    begin_ns = min(int(errors.stamps_ns[0]) for errors in paths.values())
    # The axes of the plane of the largest spread.
    flat = np.linalg.svd(truth - truth.mean(axis=0), full_matrices=False)[2][:2]
    figure = new_figure(12, 4.8)
    plan, chart = figure.subplots(1, 2, width_ratios=(1, 1.1))
    plan.plot(*(truth @ flat.T).T, '--', color='0.3', label='truth', zorder=5)
    plan.plot(*(truth[0] @ flat.T), 'o', color='0.3', zorder=5)
    for k, (name, errors) in enumerate(paths.items()):
        color, ate, percent = f'C{k}', errors.ate_rmse_m, errors.ate_percent
        share = f', {percent:.2f} % of the path' if np.isfinite(percent) else ''
        plan.plot(*(errors.aligned[:, :3, 3] @ flat.T).T, color=color, label=name)
        seconds = (errors.stamps_ns - begin_ns) / NANOSECONDS
        label = f'{name}: ATE {ate:.4f}{share}'
        chart.plot(seconds, errors.errors_m, color=color, label=label)
        chart.axhline(ate, color=color, linestyle=':')
    # Room for the lines of the legend.
    chart.margins(y=0.05 + 0.1 * (len(paths) - 1))
    plan.set(aspect='equal', adjustable='datalim', xlabel=unit, ylabel=unit)
    plan.set_title('aligned paths, in their widest plane; the dot is the start', fontsize=10)
    chart.set(xlabel='time (s)', ylabel=f'position error ({unit})', ylim=(0, None))
    chart.set_title('distance from the truth; dotted: its root mean square', fontsize=10)
    for axes in (plan, chart):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    return figure
