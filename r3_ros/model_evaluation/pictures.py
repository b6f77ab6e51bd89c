"""Pictures for people: depth beside its truth, trajectories, errors by confidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic_files import atomic_write
from ..datatypes import DepthMap, Intrinsics
from ..depth_evaluation import picture_errors, truth_at_pixels
from ..run_evaluation import widest_plane
from ..trajectory_file import NANOSECONDS
from .sequences import PosedSequence
from .streams import StreamResult
from .tables import Figures

_ROWS = 4
_COLOURS = ('tab:blue', 'tab:orange', 'tab:green', 'tab:red', 'tab:purple')
#: Shares of the pixels that a range of colours leaves out at both ends.
_ENDS = (2, 98)


def draw_depths(path: Path, sequence: PosedSequence, results: Sequence[StreamResult]) -> bool:
    """Draw pictures of a sequence with true depth, and depth and confidence of each predictor.

    Each depth is scaled by its median ratio to the truth, and has the truth's colours; without a
    truth each has a range of colours of its own.

    :returns: False: no predictor gave a depth that was kept; nothing is written.
    """
    shown = [result for result in results if result.depth_maps]
    stamps = _chosen_stamps(shown)
    if not stamps:
        return False
    with_truth = set(sequence.depth_stamps())
    has_truth = any(stamp in with_truth for stamp in stamps)
    columns = 1 + has_truth + 2 * len(shown)
    finest = max((m for r in shown for m in r.depth_maps.values()), key=lambda m: m.depth.size)
    aspect = finest.depth.shape[0] / finest.depth.shape[1]
    figure = _figure(2.1 * columns, (2.1 * aspect + 0.25) * len(stamps) + 0.5)
    axes = figure.subplots(len(stamps), columns, squeeze=False)
    for row, stamp_ns in zip(axes, stamps, strict=True):
        truth = sequence.depth(stamp_ns) if stamp_ns in with_truth else None
        _draw_depth_row(row, stamp_ns, truth, shown, has_truth, aspect)
    titles = ['picture', *(['true depth'] if has_truth else [])]
    for result in shown:
        titles += [f'{result.predictor}: depth', f'{result.predictor}: confidence']
    for cell, title in zip(axes[0], titles, strict=True):
        cell.set_title(title, fontsize=9)
    legend = 'near is red, far is blue; confidence from dark (low) to light; grey: none'
    figure.suptitle(f'{sequence.name}: {legend}', fontsize=10)
    _save(figure, path)
    return True


def _chosen_stamps(results: Sequence[StreamResult]) -> list[int]:
    """Return times spread over the sequence at which most predictors have depth."""
    counts: dict[int, int] = {}
    for result in results:
        for stamp in result.depth_maps:
            counts[stamp] = counts.get(stamp, 0) + 1
    parts = np.array_split(np.array(sorted(counts), dtype=np.int64), _ROWS)
    # In the middle of its part, as far as others do not have more.
    return [
        max(
            part.tolist(),
            key=lambda stamp: (counts[stamp], -abs(stamp - int(part[len(part) // 2]))),
        )
        for part in parts
        if len(part)
    ]


def _draw_depth_row(
    cells: Sequence[Any],
    stamp_ns: int,
    truth: np.ndarray | None,
    results: Sequence[StreamResult],
    has_truth: bool,
    aspect: float,
) -> None:
    """Draw one picture's panels."""
    given = {r.predictor: r.depth_maps[stamp_ns] for r in results if stamp_ns in r.depth_maps}
    finest = max(given.values(), key=lambda depth_map: depth_map.depth.size)
    _show(cells[0], finest.image, aspect)
    pictures = {r.predictor: r.picture for r in results}
    scaled = {n: _scaled(given[n], truth, pictures[n]) for n in given}
    reference = next(iter(scaled.values()))[1] if truth is not None else None
    colours: dict[str, Any] = {'cmap': 'turbo_r'}
    if reference is not None:
        colours |= _range(np.log(reference))
    if has_truth:
        _show(cells[1], None if reference is None else np.log(reference), aspect, **colours)
    for k, result in enumerate(results):
        depth_cell, confidence_cell = cells[1 + has_truth + 2 * k : 3 + has_truth + 2 * k]
        if result.predictor not in given:
            _show(depth_cell, None, aspect)
            _show(confidence_cell, None, aspect)
            continue
        depth, at_pixels = scaled[result.predictor]
        # Without a truth each has a range of its own.
        _show(depth_cell, np.log(depth), aspect, **(_range(np.log(depth)) | colours))
        errors = None if at_pixels is None else picture_errors(depth, at_pixels)
        if errors is not None:
            depth_cell.set_xlabel(f'AbsRel {errors[0]:.3f}', fontsize=8)
        confidence = np.log(given[result.predictor].confidence.astype(np.float64))
        confidence[~np.isfinite(depth)] = np.nan
        _show(confidence_cell, confidence, aspect, cmap='magma', **_range(confidence))


def _scaled(
    depth_map: DepthMap, truth: np.ndarray | None, picture: Intrinsics | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return depth as far as it is known, scaled to the truth, and the truth at its pixels.

    Without a truth the median is 1.
    """
    depth = depth_map.depth.astype(np.float64)
    depth[~(depth > 0)] = np.nan
    if not np.isfinite(depth).any():
        return depth, None if truth is None else truth_at_pixels(
            truth, depth_map.intrinsics, picture
        )
    if truth is None:
        return depth / np.nanmedian(depth), None
    at_pixels = truth_at_pixels(truth, depth_map.intrinsics, picture)
    both = np.isfinite(depth) & np.isfinite(at_pixels)
    scale = np.median(depth[both] / at_pixels[both]) if both.any() else np.nanmedian(depth)
    return depth / scale, at_pixels


def _range(values: np.ndarray) -> dict[str, float]:
    """Return the ends of a range of colours."""
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, _ENDS) if len(known) else (0.0, 1.0)
    return {'vmin': float(low), 'vmax': float(max(high, low + 1e-3))}


def _show(cell: Any, image: np.ndarray | None, aspect: float, **colours: Any) -> None:
    """Draw an image without axes; grey where there is nothing."""
    cell.set(xticks=[], yticks=[], facecolor='0.85', box_aspect=aspect)
    for side in cell.spines.values():
        side.set_visible(False)
    if image is None:
        cell.text(0.5, 0.5, 'none here', ha='center', va='center', fontsize=8, color='0.4',
                  transform=cell.transAxes)  # fmt: skip
    else:
        cell.imshow(image, interpolation='nearest', aspect='auto', **colours)


def draw_trajectories(
    path: Path, sequence: PosedSequence, results: Sequence[StreamResult]
) -> bool:
    """Draw the paths of all predictors, aligned to the true one, and their errors over time.

    :returns: False: none has enough poses; nothing is written.
    """
    judged = [(r, r.trajectory) for r in results if r.trajectory is not None]
    if not judged:
        return False
    truth = sequence.truth.T_world_camera[:, :3, 3]
    stamps = sequence.truth.stamps_ns
    begin, end = (f(r.stamps_ns[k] for r, _ in judged) for f, k in ((min, 0), (max, -1)))
    truth = truth[(stamps >= begin) & (stamps <= end)]
    flat = widest_plane(truth)
    figure = _figure(12, 5.2)
    plan, chart = figure.subplots(1, 2, width_ratios=(1.1, 1))
    plan.plot(*(truth @ flat.T).T, color='0.2', linestyle='--', label='truth', zorder=5)
    plan.plot(*(truth[0] @ flat.T), 'o', color='0.2', zorder=5)
    for (result, errors), colour in zip(judged, _colours(judged), strict=True):
        seconds = (errors.stamps_ns - begin) / NANOSECONDS
        plan.plot(*(errors.aligned[:, :3, 3] @ flat.T).T, color=colour, label=result.predictor)
        label = f'{result.predictor}: {errors.ate_percent:.2f} %'
        chart.plot(seconds, errors.errors_m, color=colour, label=label)
    plan.set(aspect='equal', adjustable='datalim', title='aligned paths, in the widest plane')
    plan.set(xlabel='unit of the truth', ylabel='unit of the truth')
    chart.set(xlabel='time (s)', ylabel='position error', title='ATE as a share of the path')
    chart.set_ylim(bottom=0)
    for axes in (plan, chart):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.suptitle(sequence.name, fontsize=10)
    _save(figure, path)
    return True


def draw_confidence(path: Path, rows: Sequence[Figures]) -> bool:
    """Draw errors in five parts by confidence, of every predictor on every group.

    :returns: False: there are none; nothing is written.
    """
    kinds = (
        ('depth_quintiles', 'AbsRel of pixels'),
        ('rotation_quintiles', 'rotation of steps (deg)'),
        ('direction_quintiles', 'direction of steps (deg)'),
    )
    if not any(getattr(row, name) for row in rows for name, _ in kinds):
        return False
    groups = list(dict.fromkeys(row.group for row in rows))
    predictors = list(dict.fromkeys(row.predictor for row in rows))
    figure = _figure(10, 2.6 * len(groups) + 0.4)
    for group, line in zip(groups, figure.subplots(len(groups), 3, squeeze=False), strict=True):
        for axes, (name, title) in zip(line, kinds, strict=True):
            for row in rows:
                values = getattr(row, name)
                if row.group == group and values:
                    colour = _COLOURS[predictors.index(row.predictor) % len(_COLOURS)]
                    axes.plot(range(1, 6), values, 'o-', ms=3, color=colour, label=row.predictor)
            if not axes.lines:
                axes.set_axis_off()
                continue
            axes.set_title(f'{group}: {title}', fontsize=8)
            axes.set(xticks=range(1, 6))
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)
    figure.supxlabel('fifths by confidence, the least confident first', fontsize=9)
    _save(figure, path)
    return True


def _colours(items: Sequence[Any]) -> list[str]:
    return [_COLOURS[k % len(_COLOURS)] for k in range(len(items))]


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout='constrained')


def _save(figure: Any, path: Path) -> None:
    with atomic_write(path) as file:
        figure.savefig(file, format='png', dpi=110)
