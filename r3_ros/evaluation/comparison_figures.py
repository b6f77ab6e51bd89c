"""Figures that compare predictors: depth, trajectories, and errors by confidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.datatypes import DepthMap, Intrinsics
from .depth_errors import DepthErrors, truth_at_pixels
from .figures import AlignedPath, COLORS, new_figure, save_figure, trajectory_figure
from .posed_sequences import PosedSequence
from .stream_results import StreamResult
from .stream_tables import GroupErrors

_ROWS = 4
#: Percentiles at the ends of a range of colours.
_ENDS = (2, 98)


def draw_depths(path: Path, sequence: PosedSequence, results: Sequence[StreamResult]) -> None:
    """Draw images of a sequence with true depth, and depth and confidence of each predictor.

    Depth is scaled by its median ratio to the truth and has the truth's range of colours; without
    a truth each depth has its own. Without depth nothing is written.
    """
    shown = [result for result in results if result.depth_maps]
    stamps = _chosen_stamps(shown)
    if not stamps:
        return
    with_truth = set(sequence.depth_stamps())
    has_truth = any(stamp in with_truth for stamp in stamps)
    columns = 1 + has_truth + 2 * len(shown)
    finest = max((m for r in shown for m in r.depth_maps.values()), key=lambda m: m.depth.size)
    aspect = finest.depth.shape[0] / finest.depth.shape[1]
    figure = new_figure(2.1 * columns, (2.1 * aspect + 0.25) * len(stamps) + 0.5)
    axes = figure.subplots(len(stamps), columns, squeeze=False)
    for row, stamp_ns in zip(axes, stamps, strict=True):
        truth = sequence.depth(stamp_ns) if stamp_ns in with_truth else None
        _draw_depth_row(row, stamp_ns, truth, shown, has_truth, aspect)
    titles = ['image', *(['true depth'] if has_truth else [])]
    for result in shown:
        titles += [f'{result.predictor}: depth', f'{result.predictor}: confidence']
    for cell, title in zip(axes[0], titles, strict=True):
        cell.set_title(title, fontsize=9)
    legend = 'near is red, far is blue; confidence from dark (low) to light; grey: none'
    figure.suptitle(f'{sequence.name}: {legend}', fontsize=10)
    save_figure(figure, path)


def _chosen_stamps(results: Sequence[StreamResult]) -> list[int]:
    """Return stamps spread over the sequence, with depth of as many predictors as possible."""
    counts: dict[int, int] = {}
    for result in results:
        for stamp in result.depth_maps:
            counts[stamp] = counts.get(stamp, 0) + 1
    parts = np.array_split(np.array(sorted(counts), dtype=np.int64), _ROWS)
    # Of equal counts the one nearest to the middle of its part.
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
    given = {r.predictor: r.depth_maps[stamp_ns] for r in results if stamp_ns in r.depth_maps}
    finest = max(given.values(), key=lambda depth_map: depth_map.depth.size)
    _show(cells[0], finest.image, aspect)
    undistorted = {r.predictor: r.undistorted for r in results}
    scaled = {n: _scaled(given[n], truth, undistorted[n]) for n in given}
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
        _show(depth_cell, np.log(depth), aspect, **(_range(np.log(depth)) | colours))
        errors = DepthErrors()
        if at_pixels is not None:
            errors.add(depth, at_pixels)
        if len(errors):
            depth_cell.set_xlabel(f'AbsRel {errors.abs_rel:.3f}', fontsize=8)
        confidence = np.log(given[result.predictor].confidence.astype(np.float64))
        confidence[~np.isfinite(depth)] = np.nan
        _show(confidence_cell, confidence, aspect, cmap='magma', **_range(confidence))


def _scaled(
    depth_map: DepthMap, truth: np.ndarray | None, undistorted: Intrinsics | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return depth scaled to the truth (else to median 1) and the truth at its pixels, or NaN."""
    depth = depth_map.depth.astype(np.float64)
    depth[~(depth > 0)] = np.nan
    at_pixels = None
    if truth is not None:
        at_pixels = truth_at_pixels(truth, depth_map.intrinsics, undistorted)
    ratio = depth if at_pixels is None else depth / at_pixels
    known = ratio[np.isfinite(ratio)]
    if not len(known):
        known = depth[np.isfinite(depth)]
    return depth / (np.median(known) if len(known) else 1.0), at_pixels


def _range(values: np.ndarray) -> dict[str, float]:
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, _ENDS) if len(known) else (0.0, 1.0)
    return {'vmin': float(low), 'vmax': float(max(high, low + 1e-3))}


def _show(cell: Any, image: np.ndarray | None, aspect: float, **colours: Any) -> None:
    """Draw an image without axes; grey without an image."""
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
) -> None:
    """Draw the paths of all predictors, aligned to the true one, and their errors over time.

    Without enough poses nothing is written.
    """
    evaluated = [(r, r.trajectory) for r in results if r.trajectory is not None]
    if not evaluated:
        return
    stamps = sequence.truth.stamps_ns
    begin, end = (f(r.stamps_ns[k] for r, _ in evaluated) for f, k in ((min, 0), (max, -1)))
    truth = sequence.truth.T_world_camera[(stamps >= begin) & (stamps <= end), :3, 3]
    paths = [AlignedPath.of(errors, result.predictor, int(begin)) for result, errors in evaluated]
    figure = trajectory_figure(truth, paths, unit='unit of the truth')
    figure.suptitle(sequence.name, fontsize=10)
    save_figure(figure, path)


def draw_confidence(path: Path, rows: Sequence[GroupErrors]) -> None:
    """Draw errors by confidence quintile, of every predictor on every group, if there are any."""
    kinds = (
        ('depth_quintiles', 'AbsRel of pixels'),
        ('rotation_quintiles', 'rotation of steps (deg)'),
        ('direction_quintiles', 'direction of steps (deg)'),
    )
    if not any(getattr(row, name) for row in rows for name, _ in kinds):
        return
    groups = list(dict.fromkeys(row.group for row in rows))
    predictors = list(dict.fromkeys(row.predictor for row in rows))
    figure = new_figure(10, 2.6 * len(groups) + 0.4)
    for group, line in zip(groups, figure.subplots(len(groups), 3, squeeze=False), strict=True):
        for axes, (name, title) in zip(line, kinds, strict=True):
            for row in rows:
                values = getattr(row, name)
                if row.group == group and values:
                    colour = COLORS[predictors.index(row.predictor) % len(COLORS)]
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
    save_figure(figure, path)
