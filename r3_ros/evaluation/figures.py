"""Common parts of the figures; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, eq=False)
class AlignedPath:
    """A trajectory in the frame of the truth.

    :ivar positions: (N, 3); ``errors``: (N,) their distances from the truth, in its unit;
        ``seconds``: (N,) their times.
    :ivar ate_percent: ``ate`` over the length of the true path; None or NaN if that is 0.
    """

    label: str
    positions: np.ndarray
    errors: np.ndarray
    seconds: np.ndarray
    ate_percent: float | None

    @classmethod
    def of(cls, errors: TrajectoryErrors, label: str, begin_ns: int) -> AlignedPath:
        """Return the path of an evaluated trajectory, with times since ``begin_ns``."""
        seconds = (errors.stamps_ns - begin_ns) / NANOSECONDS
        positions = errors.aligned[:, :3, 3]
        return cls(label, positions, errors.errors_m, seconds, errors.ate_percent)

    @property
    def ate(self) -> float:
        return float(np.sqrt(np.mean(self.errors**2)))

    @property
    def legend(self) -> str:
        percent = self.ate_percent
        is_known = percent is not None and np.isfinite(percent)
        share = f', {percent:.2f} % of the path' if is_known else ''
        return f'{self.label}: ATE {self.ate:.4f}{share}'


def trajectory_figure(truth: np.ndarray, paths: Sequence[AlignedPath], unit: str = 'm') -> Any:
    """Return a figure of aligned and true paths, and of the errors over time.

    :param truth: (M, 3) true positions.
    """
    # The axes of the plane of the largest spread.
    flat = np.linalg.svd(truth - truth.mean(axis=0), full_matrices=False)[2][:2]
    figure = new_figure(12, 4.8)
    plan, chart = figure.subplots(1, 2, width_ratios=(1, 1.1))
    plan.plot(*(truth @ flat.T).T, '--', color='0.3', label='truth', zorder=5)
    plan.plot(*(truth[0] @ flat.T), 'o', color='0.3', zorder=5)
    for k, path in enumerate(paths):
        color = f'C{k}'
        plan.plot(*(path.positions @ flat.T).T, color=color, label=path.label)
        chart.plot(path.seconds, path.errors, color=color, label=path.legend)
        chart.axhline(path.ate, color=color, linestyle=':')
    plan.set(aspect='equal', adjustable='datalim', xlabel=unit, ylabel=unit)
    plan.set_title('aligned paths, in their widest plane; the dot is the start', fontsize=10)
    chart.set(xlabel='time (s)', ylabel=f'position error ({unit})', ylim=(0, None))
    chart.set_title('distance from the truth; dotted: its root mean square', fontsize=10)
    for axes in (plan, chart):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    return figure
