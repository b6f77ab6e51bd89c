"""Poses of all images in one world, from the relations within each window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
import math

import numpy as np

from ...core.config import R3Config
from ...core.geometry import inverse, rigid_part, scale_of
from ...core.unit_scale import combined, DepthGrid, scale_by_centres, scale_by_depth
from .window_graph import adjusted_windows, PlacedWindow, Tie
from .window_joining import similarity_by_poses
from .window_relations import window_poses, WindowRelations


@dataclass(frozen=True, eq=False)
class PredictedWindow:
    """A window after its prediction.

    :ivar frame_ids: (S,) of its images; the first ``shared`` were in earlier windows.
    :ivar usable: (S,) bool, images with usable intrinsics.
    :ivar grids: depth of its images, in its unit, by frame.
    """

    frame_ids: tuple[int, ...]
    shared: int
    relations: WindowRelations
    usable: np.ndarray
    grids: Mapping[int, DepthGrid]


@dataclass(eq=False)
class WindowPlacement:
    """The poses of the images.

    :ivar S_world_frame: by frame, without the images that have no pose. The world is the first
        image with a pose, in the unit of the first window.
    :ivar scores: (2,) by frame, confidence of translation and rotation.
    :ivar reference: the usual score; NaN without any pair.
    :ivar not_joined: windows whose place relative to the others is unknown.
    """

    S_world_frame: dict[int, np.ndarray] = field(default_factory=dict)
    scores: dict[int, np.ndarray] = field(default_factory=dict)
    reference: float = math.nan
    not_joined: list[int] = field(default_factory=list)


def median_score(windows: Sequence[PredictedWindow]) -> float:
    """Return the median score of all images in their first windows; NaN without any pair."""
    best = [window.relations.best_scores()[window.shared :] for window in windows]
    scores = np.concatenate(best).mean(axis=1) if best else np.empty(0)
    known = scores[np.isfinite(scores)]
    return float(np.median(known)) if len(known) else math.nan


def min_score(reference: float, config: R3Config) -> float:
    """Return the score below which an image is not related."""
    return 0.0 if math.isnan(reference) else config.tracking.lost_ratio * reference


def place_windows(windows: Sequence[PredictedWindow], config: R3Config) -> WindowPlacement:
    """Return the poses of all images that can be placed."""
    reference = median_score(windows)
    placement = WindowPlacement(reference=reference)
    placed: list[PlacedWindow] = []
    owners: dict[int, tuple[int, int]] = {}  # frame -> index in ``placed``, and row in its group
    ties: list[Tie] = []
    for number, window in enumerate(windows):
        best = window.relations.best_scores()
        for row in range(window.shared, len(window.frame_ids)):
            placement.scores[window.frame_ids[row]] = best[row]
        least = min_score(reference, config)
        group = window.relations.group(least, window.usable, window.shared)
        if not group:
            continue
        found = PlacedWindow(
            rows=group,
            frame_ids=[window.frame_ids[row] for row in group],
            T_root_frame=window_poses(window.relations, group),
            S_world_root=np.eye(4),
            relations=window.relations,
            grids=window.grids,
        )
        known = [n for n, frame_id in enumerate(found.frame_ids) if frame_id in owners]
        if placed:
            S_world_root = _joined(found, known, placed, owners)
            if S_world_root is None:
                placement.not_joined.append(number)
                continue
            found = replace(found, S_world_root=S_world_root)
        for n in known:
            frame_id = found.frame_ids[n]
            grids = placed[owners[frame_id][0]].grids
            log_scale = None
            if frame_id in grids and frame_id in found.grids:
                log_scale = scale_by_depth([grids[frame_id]], [found.grids[frame_id]])
            ties.append(Tie(owners[frame_id], (len(placed), n), log_scale))
        for n, frame_id in enumerate(found.frame_ids):
            owners.setdefault(frame_id, (len(placed), n))
        placed.append(found)
    if placed:
        S = [window.S_world_frame for window in placed]
        if any(len(window.rows) > 1 for window in placed):
            S = adjusted_windows(placed, ties, reference)
        first_window, first_row = owners[min(owners)]
        S_first_world = inverse(rigid_part(S[first_window][first_row]))
        placement.S_world_frame = {
            frame_id: S_first_world @ S[window][row] for frame_id, (window, row) in owners.items()
        }
    return placement


def _joined(
    found: PlacedWindow,
    known: Sequence[int],
    placed: Sequence[PlacedWindow],
    owners: Mapping[int, tuple[int, int]],
) -> np.ndarray | None:
    """Return ``S_world_root`` from the images that have a pose; None if its scale is unknown."""
    if not known:
        return None
    frames = [found.frame_ids[n] for n in known]
    S_world = np.stack([placed[owners[f][0]].S_world_frame[owners[f][1]] for f in frames])
    here, there = [], []
    for frame_id, scale in zip(frames, scale_of(S_world), strict=True):
        grid = placed[owners[frame_id][0]].grids.get(frame_id)
        if grid is not None and frame_id in found.grids:
            in_world = grid.log_depth + np.float32(math.log(scale))
            here.append(replace(grid, log_depth=in_world))
            there.append(found.grids[frame_id])
    T_window = found.T_root_frame[known]
    log_scale = combined(
        [scale_by_depth(here, there), scale_by_centres(S_world[:, :3, 3], T_window[:, :3, 3])]
    )
    if log_scale is None:
        return None
    scores = found.relations.best_scores()[[found.rows[n] for n in known]]
    scores = np.maximum(np.nan_to_num(scores), 1e-9)
    return similarity_by_poses(rigid_part(S_world), T_window, scores, log_scale.value)
