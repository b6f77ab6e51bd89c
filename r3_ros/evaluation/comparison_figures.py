"""Figures that compare predictors: depth, trajectories, and errors by confidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.datatypes import DepthMap, Intrinsics
from .depth_errors import DepthErrors, truth_at_pixels
from .figures import AlignedPath, new_figure, save_figure, trajectory_figure
from .posed_sequences import PosedSequence
from .stream_results import StreamResult
from .stream_tables import GroupErrors

_ROWS = 4
#: Percentiles at the ends of a range of colours.
_ENDS = (2, 98)


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
    with_truth = set(sequence.depth_stamps())
    titles = ['image', 'true depth']
    for result in shown:
        titles += [f'{result.predictor}: depth', f'{result.predictor}: confidence']
    height, width = next(iter(shown[0].depth_maps.values())).depth.shape
    aspect = height / width
    figure = new_figure(2.1 * len(titles), (2.1 * aspect + 0.25) * len(stamps) + 0.5)
    axes = figure.subplots(len(stamps), len(titles), squeeze=False)
    for row, stamp_ns in zip(axes, stamps, strict=True):
        truth = sequence.depth(stamp_ns) if stamp_ns in with_truth else None
        for cell, panel in zip(row, _panels(stamp_ns, truth, shown), strict=True):
            _show(cell, aspect, *panel)
    for cell, title in zip(axes[0], titles, strict=True):
        cell.set_title(title, fontsize=9)
    legend = 'near is red, far is blue; confidence from dark (low) to light; grey: none'
    figure.suptitle(f'{sequence.name}: {legend}', fontsize=10)
    save_figure(figure, path)


#: An image or None, its colours, and a text below it.
_Panel = tuple[np.ndarray | None, dict[str, Any], str]


def _panels(
    stamp_ns: int, truth: np.ndarray | None, results: Sequence[StreamResult]
) -> list[_Panel]:
    given = [r.depth_maps.get(stamp_ns) for r in results]
    scaled = [
        None if depth_map is None else _scaled(depth_map, truth, result.undistorted)
        for depth_map, result in zip(given, results, strict=True)
    ]
    finest = max((m for m in given if m is not None), key=lambda m: m.depth.size)
    first, reference = next(pair for pair in scaled if pair is not None)
    colours = _colours('turbo_r', first if truth is None else reference)
    panels: list[_Panel] = [(finest.image, {}, '')]
    panels.append((None if truth is None else np.log(reference), colours, ''))
    for depth_map, pair in zip(given, scaled, strict=True):
        if depth_map is None or pair is None:
            panels += [(None, {}, '')] * 2
            continue
        depth, at_pixels = pair
        errors = DepthErrors()
        errors.add(depth, at_pixels)
        label = f'AbsRel {errors.abs_rel:.3f}' if len(errors) else ''
        confidence = np.where(np.isfinite(depth), depth_map.confidence, np.nan)
        panels.append((np.log(depth), colours, label))
        panels.append((np.log(confidence), _colours('magma', confidence), ''))
    return panels


def _scaled(
    depth_map: DepthMap, truth: np.ndarray | None, undistorted: Intrinsics | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return depth scaled to the truth (else to median 1) and the truth at its pixels, or NaN."""
    depth = depth_map.depth.astype(np.float64)
    depth[~(depth > 0)] = np.nan
    at_pixels = np.full_like(depth, np.nan)
    if truth is not None:
        at_pixels = truth_at_pixels(truth, depth_map.intrinsics, undistorted)
    both = np.isfinite(depth / at_pixels)
    ratio = (depth / at_pixels)[both] if both.any() else depth[np.isfinite(depth)]
    return depth / (np.median(ratio) if len(ratio) else 1.0), at_pixels


def _colours(name: str, values: np.ndarray) -> dict[str, Any]:
    """Return a colour map for the logarithms of values, without their extremes."""
    known = np.log(values)
    known = known[np.isfinite(known)]
    low, high = np.percentile(known, _ENDS) if len(known) else (0.0, 1.0)
    return {'cmap': name, 'vmin': float(low), 'vmax': float(max(high, low + 1e-3))}


def _show(
    cell: Any, aspect: float, image: np.ndarray | None, colours: dict[str, Any], label: str
) -> None:
    """Draw an image without axes; grey without an image."""
    cell.set(xticks=[], yticks=[], facecolor='0.85', box_aspect=aspect)
    cell.set_xlabel(label, fontsize=8)
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
    kinds = {
        'depth_quintiles': 'AbsRel of pixels',
        'rotation_quintiles': 'rotation of steps (deg)',
        'direction_quintiles': 'direction of steps (deg)',
    }
    if not any(getattr(row, name) for row in rows for name in kinds):
        return
    groups = list(dict.fromkeys(row.group for row in rows))
    figure = new_figure(10, 2.6 * len(groups) + 0.4)
    for group, line in zip(groups, figure.subplots(len(groups), 3, squeeze=False), strict=True):
        for axes, (name, title) in zip(line, kinds.items(), strict=True):
            for row in rows:
                if row.group == group and getattr(row, name):
                    axes.plot(range(1, 6), getattr(row, name), 'o-', ms=3, label=row.predictor)
            if not axes.lines:
                axes.set_axis_off()
                continue
            axes.set_title(f'{group}: {title}', fontsize=8)
            axes.set(xticks=range(1, 6), ylim=(0, None))
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)
    figure.supxlabel('fifths by confidence, the least confident first', fontsize=9)
    save_figure(figure, path)
