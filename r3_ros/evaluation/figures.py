"""Common parts of the figures; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping
import io
from pathlib import Path
from typing import Any, NamedTuple

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


class PathErrors(NamedTuple):
    """A path beside another one, in the frame of that one.

    :ivar centres: (N, 3) camera centres; ``truth``: (N, 3) those that they are compared with.
    :ivar errors: (N,) distances between the two.
    """

    stamps_ns: np.ndarray
    centres: np.ndarray
    truth: np.ndarray
    errors: np.ndarray

    @staticmethod
    def of(errors: TrajectoryErrors) -> PathErrors:
        """Return the path of an evaluated trajectory, in the frame of the truth."""
        centres, truth = errors.aligned[:, :3, 3], errors.truth[:, :3, 3]
        return PathErrors(errors.stamps_ns, centres, truth, errors.errors_m)


def draw_paths(
    axes: Any, paths: Mapping[str, PathErrors], unit: str, reference: str = 'truth'
) -> None:
    """Draw aligned paths and the longest of those that they are compared with.

    :param paths: by their labels.
    """
    truth = max(paths.values(), key=lambda path: len(path.truth)).truth
    # The axes of the plane of the largest spread.
    flat = np.linalg.svd(truth - truth.mean(axis=0), full_matrices=False)[2][:2]
    axes.plot(*(truth @ flat.T).T, '--', color='0.3', label=reference, zorder=5)
    axes.plot(*(truth[0] @ flat.T), 'o', color='0.3', zorder=5)
    for k, (name, path) in enumerate(paths.items()):
        axes.plot(*(path.centres @ flat.T).T, color=f'C{k}', label=name)
    axes.set(aspect='equal', adjustable='datalim', xlabel=unit, ylabel=unit)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)


def draw_errors(axes: Any, paths: Mapping[str, PathErrors], unit: str) -> None:
    """Draw the distances of paths over time, and dotted their root mean squares."""
    begin_ns = min(int(path.stamps_ns[0]) for path in paths.values())
    for k, (name, path) in enumerate(paths.items()):
        rms = round(float(np.sqrt(np.mean(path.errors**2))), 9)
        seconds = (path.stamps_ns - begin_ns) / NANOSECONDS
        axes.plot(seconds, path.errors, color=f'C{k}', label=f'{name}: {rms:.4g}')
        axes.axhline(rms, color=f'C{k}', linestyle=':')
    # Room for the lines of the legend.
    axes.margins(y=0.05 + 0.1 * (len(paths) - 1))
    axes.set(xlabel='time (s)', ylabel=f'distance ({unit})', ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)


def depth_colours(depth: np.ndarray) -> dict[str, Any]:
    """Return logarithmic colours for depth, without its extremes, as arguments of imshow."""
    known = depth[np.isfinite(depth)]
    low, high = np.percentile(known, (2, 98)) if len(known) else (1.0, 1.0)
    return {'cmap': 'turbo_r', 'norm': 'log', 'vmin': low, 'vmax': 1.001 * high}


def colour_scale(colours: dict[str, Any]) -> Any:
    """Return what turns values into colours and into a colour bar.

    :param colours: as of :func:`depth_colours`; ``norm``: ``log`` or ``linear``.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize

    norm = {'log': LogNorm, 'linear': Normalize}[colours['norm']]
    return ScalarMappable(norm(colours['vmin'], colours['vmax']), colours['cmap'])


def draw_coloured_lines(axes: Any, lines: np.ndarray, values: np.ndarray, top: float) -> Any:
    """Draw (N, 2, 2) lines in the colours of (N,) values from 0 to ``top``; return them."""
    from matplotlib.collections import LineCollection

    drawn = LineCollection(list(lines), cmap='viridis_r', lw=2.2, array=values)
    drawn.set_clim(0.0, top)
    axes.add_collection(drawn)
    return drawn


def draw_ellipse(axes: Any, centre: np.ndarray, C: np.ndarray, sigmas: float) -> None:
    """Draw the ellipse of so many standard deviations of a (2, 2) covariance."""
    from matplotlib.patches import Ellipse

    variances, directions = np.linalg.eigh(C)
    height, width = 2 * sigmas * np.sqrt(np.maximum(variances, 0.0))
    angle = float(np.degrees(np.arctan2(directions[1, 1], directions[0, 1])))
    ellipse = Ellipse(
        (centre[0], centre[1]),
        width,
        height,
        angle=angle,
        fill=False,
        color='tab:red',
        lw=0.9,
        alpha=0.7,
    )
    axes.add_patch(ellipse)
