"""Figures that compare predictors: depth, trajectories, maps, and errors by confidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..core.datatypes import DepthMap, Intrinsics
from ..core.geometry import unproject
from ..maps.cloud import Cloud
from .depth_errors import DepthErrors, truth_at_pixels
from .figures import new_figure, save_figure, trajectory_figure
from .map_views import draw_from_half_way, draw_from_outside, level_scene
from .posed_sequences import PosedSequence
from .stream_results import StreamResult
from .stream_tables import GroupErrors

_ROWS = 4
#: Percentiles at the ends of a range of colours.
_ENDS = (2, 98)
#: Number of images for the true surfaces, and pixels of each side.
_TRUE_IMAGES = 24
_TRUE_GRID = 160
#: Height of the cut above the highest camera, over half the extent.
_CUT_ABOVE = 0.05


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
    with_truth = set(sequence.depth_stamps)
    titles = ['image', *(['true depth'] if with_truth else [])]
    for result in shown:
        titles += [f'{result.predictor}: depth', f'{result.predictor}: confidence']
    height, width = next(iter(shown[0].depth_maps.values())).depth.shape
    aspect = height / width
    figure = new_figure(2.1 * len(titles), (2.1 * aspect + 0.25) * len(stamps) + 0.5)
    axes = figure.subplots(len(stamps), len(titles), squeeze=False)
    for row, stamp_ns in zip(axes, stamps, strict=True):
        truth = sequence.depth(stamp_ns) if stamp_ns in with_truth else None
        image, true_depth, *others = _panels(stamp_ns, truth, shown)
        panels = [image, *([true_depth] if with_truth else []), *others]
        for cell, panel in zip(row, panels, strict=True):
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
    paths = {result.predictor: errors for result, errors in evaluated}
    figure = trajectory_figure(truth, paths, int(begin), unit='unit of the truth')
    figure.suptitle(sequence.name, fontsize=10)
    save_figure(figure, path)


def draw_maps(path: Path, sequence: PosedSequence, results: Sequence[StreamResult]) -> None:
    """Draw the true surfaces and the maps, aligned to the truth by their trajectories.

    Views from outside and from the camera half-way. Nothing is written if no predictor has both a
    map and enough poses.
    """
    scenes = {
        r.predictor: level_scene(
            replace(r.cloud, points=r.trajectory.moved(r.cloud.points).astype(np.float32)),
            r.trajectory.aligned,
        )
        for r in results
        if len(r.cloud) and r.trajectory is not None
    }
    if not scenes:
        return
    true_cloud = _true_cloud(sequence, results)
    if len(true_cloud):
        scenes = {'truth': level_scene(true_cloud, sequence.truth.T_world_camera), **scenes}
    figure = new_figure(5.4 * len(scenes), 7.8)
    rows = figure.subplots(2, len(scenes), squeeze=False)
    for (name, scene), outside, inside in zip(scenes.items(), *rows, strict=True):
        # A ceiling would hide the room.
        highest = scene.centres[:, 2].max() + _CUT_ABOVE * scene.reach
        cloud = scene.cloud.take(scene.cloud.points[:, 2] <= highest)
        draw_from_outside(outside, replace(scene, cloud=cloud))
        outside.set_title(f'{name}, from outside, cut above the camera', fontsize=10)
        draw_from_half_way(inside, scene)
        inside.set_title(f'{name}, as the camera saw it half-way', fontsize=10)
    save_figure(figure, path)


def _true_cloud(sequence: PosedSequence, results: Sequence[StreamResult]) -> Cloud:
    """Return surfaces from true depth and poses; empty without depth or calibration."""
    stamps = sequence.depth_stamps
    K = next((r.undistorted for r in results if r.undistorted is not None), None)
    if not stamps or K is None:
        return Cloud.empty()
    seen = set(results[0].stamps_ns.tolist())
    stamps = [stamp for stamp in stamps if stamp in seen]
    chosen = set(stamps[:: max(1, len(stamps) // _TRUE_IMAGES)])
    poses = dict(
        zip(sequence.truth.stamps_ns.tolist(), sequence.truth.T_world_camera, strict=True)
    )
    parts = []
    with sequence.open() as source:
        for raw in source:
            if raw.stamp_ns in chosen and raw.stamp_ns in poses:
                depth = sequence.depth(raw.stamp_ns)
                parts.append(_points(raw.image, depth, K, poses[raw.stamp_ns]))
    return Cloud.joined(parts)


def _points(image: np.ndarray, depth: np.ndarray, K: Intrinsics, T: np.ndarray) -> Cloud:
    """Return the points of one undistorted image in the world frame."""
    height, width = depth.shape
    K = K.resized(width, height)
    step = max(1, round(width / _TRUE_GRID))
    points = unproject(depth, K.fx, K.fy, K.cx, K.cy, step).reshape(-1, 3)
    colours = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    cloud = Cloud(points, colours[::step, ::step].reshape(-1, 3), np.ones(len(points), np.float32))
    return cloud.take(points[:, 2] > 0).moved(T)


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
    predictors = list(dict.fromkeys(row.predictor for row in rows))
    figure = new_figure(10, 2.6 * len(groups) + 0.4)
    for group, line in zip(groups, figure.subplots(len(groups), 3, squeeze=False), strict=True):
        for axes, (name, title) in zip(line, kinds.items(), strict=True):
            for row in rows:
                if row.group == group and getattr(row, name):
                    color = f'C{predictors.index(row.predictor)}'
                    axes.plot(range(1, 6), getattr(row, name), 'o-', ms=3, color=color,
                              label=row.predictor)  # fmt: skip
            if not axes.lines:
                axes.set_axis_off()
                continue
            axes.set_title(f'{group}: {title}', fontsize=8)
            axes.set(xticks=range(1, 6), ylim=(0, None))
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)
    figure.supxlabel('fifths by confidence, the least confident first', fontsize=9)
    save_figure(figure, path)
