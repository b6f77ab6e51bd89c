"""Figures that compare predictors on a sequence: depth, and trajectories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from ..core.datatypes import DepthMap, Intrinsics
from ..core.trajectory_file import NANOSECONDS
from .depth_errors import DepthErrors, truth_at_pixels
from .figures import (
    depth_colours,
    draw_errors,
    draw_paths,
    new_figure,
    PathErrors,
    save_figure,
)
from .posed_sequences import PosedSequence
from .stream_results import StreamResult

_ROWS = 4


def draw_depths(path: Path, sequence: PosedSequence, results: Sequence[StreamResult]) -> None:
    """Draw images of a sequence with true depth, and depth and confidence of each predictor.

    Depth is scaled by its median ratio to the truth, without a truth to a median of 1; the depths
    of an image share their colours. Without depth nothing is written.
    """
    shown = [result for result in results if result.depth_maps]
    counts = Counter(stamp for result in shown for stamp in result.depth_maps)
    if not counts:
        return
    # Spread over the sequence, with depth of as many predictors as possible.
    parts = np.array_split(np.array(sorted(counts), dtype=np.int64), _ROWS)
    stamps = [max(part.tolist(), key=counts.__getitem__) for part in parts if len(part)]
    height, width = next(iter(shown[0].depth_maps.values())).depth.shape
    columns = (2 if sequence.depth_stamps else 1) + 2 * len(shown)
    figure = new_figure(2.1 * columns, (2.1 * height / width + 0.25) * len(stamps) + 0.4)
    rows = figure.subplots(len(stamps), columns, squeeze=False)
    for row, stamp_ns in zip(rows, stamps, strict=True):
        _draw_row(row, stamp_ns, sequence, shown)
    legend = 'near is red, far is blue; confidence by rank, the lowest is dark; grey: none'
    figure.suptitle(f'{sequence.name}: {legend}', fontsize=10)
    save_figure(figure, path)


def _draw_row(
    cells: np.ndarray, stamp_ns: int, sequence: PosedSequence, results: Sequence[StreamResult]
) -> None:
    """Draw the image of a stamp, its true depth, and depth and confidence of each predictor."""
    truth = None
    if stamp_ns in sequence.depth_stamps:
        truth = sequence.depth(stamp_ns)
        truth = np.where(truth > 0, truth, np.nan)
    found = {
        r.predictor: (
            r.depth_maps[stamp_ns],
            *_scaled(r.depth_maps[stamp_ns], truth, r.undistorted),
        )
        for r in results
        if stamp_ns in r.depth_maps
    }
    image = max((depth_map.image for depth_map, _, _ in found.values()), key=np.size)
    reference = next(depth for _, depth, _ in found.values()) if truth is None else truth
    colours = depth_colours(reference)
    seconds = (stamp_ns - int(sequence.truth.stamps_ns[0])) / NANOSECONDS
    _show(cells[0], f'image at {seconds:.1f} s', image)
    if sequence.depth_stamps:
        _show(cells[1], 'true depth', truth, colours)
    pairs = cells[-2 * len(results) :].reshape(-1, 2)
    for result, (depth_cell, confidence_cell) in zip(results, pairs, strict=True):
        name = result.predictor
        if name not in found:
            _show(depth_cell, f'{name}: depth')
            _show(confidence_cell, f'{name}: confidence')
            continue
        depth_map, depth, abs_rel = found[name]
        error = f'AbsRel {abs_rel:.3f}' if np.isfinite(abs_rel) else 'depth'
        _show(depth_cell, f'{name}: {error}', depth, colours)
        confidence = np.where(np.isfinite(depth), depth_map.confidence, np.nan)
        # Few very confident pixels would make all others dark.
        ranks = rankdata(confidence, nan_policy='omit').reshape(depth.shape)
        _show(confidence_cell, f'{name}: confidence', ranks, {'cmap': 'magma'})


def _scaled(
    depth_map: DepthMap, truth: np.ndarray | None, undistorted: Intrinsics | None
) -> tuple[np.ndarray, float]:
    """Return depth scaled to the truth (else to median 1), and its AbsRel or NaN."""
    depth = np.where(depth_map.depth > 0, depth_map.depth.astype(np.float64), np.nan)
    errors, ratio = DepthErrors(), depth
    if truth is not None:
        at_pixels = truth_at_pixels(truth, depth_map.intrinsics, undistorted)
        errors.add(depth, at_pixels)
        ratio = depth / at_pixels
    known = ratio[np.isfinite(ratio)]
    return depth / (np.median(known) if len(known) else 1.0), errors.abs_rel


def _show(
    cell: Any, title: str, image: np.ndarray | None = None, colours: dict[str, Any] | None = None
) -> None:
    cell.set_title(title, fontsize=8)
    cell.set(xticks=[], yticks=[], facecolor='0.85', anchor='N')
    cell.spines[:].set_visible(False)
    if image is None:
        cell.text(0.5, 0.5, 'none', ha='center', color='0.4', transform=cell.transAxes)
    else:
        cell.imshow(image, interpolation='nearest', **(colours or {}))


def draw_trajectories(
    path: Path, sequence: PosedSequence, results: Sequence[StreamResult]
) -> None:
    """Draw the paths of all predictors, aligned to the true one, and their errors over time.

    Without enough poses nothing is written.
    """
    found = [(r.predictor, r.trajectory) for r in results if r.trajectory is not None]
    if not found:
        return
    figure = new_figure(12, 4.8)
    plan, chart = figure.subplots(1, 2, width_ratios=(1, 1.1))
    paths = {name: PathErrors.of(errors) for name, errors in found}
    draw_paths(plan, paths, 'unit of the truth')
    draw_errors(chart, paths, 'unit of the truth')
    plan.set_title('aligned paths, in their widest plane; the dot is the start', fontsize=10)
    chart.set_title('distance from the truth; dotted: its root mean square (ATE)', fontsize=10)
    figure.suptitle(sequence.name, fontsize=10)
    save_figure(figure, path)
