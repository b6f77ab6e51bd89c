"""From what windows say of their pictures to poses of all pictures in one world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
import math

import numpy as np

from ..config import R3Config
from ..geometry import inverse
from ..streaming.similarity import rigid_part, scale_of
from .window_graph import adjusted_windows, PlacedWindow, Tie
from .window_joining import (
    combined,
    DepthGrid,
    LogScale,
    scale_by_centres,
    scale_by_depth,
    window_in_world,
)
from .window_poses import window_poses
from .window_relations import related_group, WindowRelations


@dataclass(frozen=True, eq=False)
class SeenWindow:
    """A window after it was predicted.

    :ivar frame_ids: (S,) of its pictures; the first ``shared`` were in windows before.
    :ivar usable: (S,) bool, pictures of which the predictor made anything.
    :ivar grids: depth of its pictures, in its unit, by frame.
    """

    frame_ids: tuple[int, ...]
    shared: int
    relations: WindowRelations
    usable: np.ndarray
    grids: Mapping[int, DepthGrid]

    def group(self, least_score: float) -> list[int]:
        """Return the rows of pictures that hang together, best related first."""
        return related_group(self.relations, least_score, self.usable, self.shared)


@dataclass(eq=False)
class WindowPlacement:
    """Where pictures are.

    :ivar S_world_frame: by frame; the world is the first picture that has a pose, in the unit of
        the first window. Pictures that are not in it have no pose.
    :ivar scores: (2,) by frame, confidence of translation and rotation.
    :ivar reference: the usual score; NaN if there was no pair.
    :ivar not_joined: windows that share nothing with the others that would tell where they are.
    """

    S_world_frame: dict[int, np.ndarray] = field(default_factory=dict)
    scores: dict[int, np.ndarray] = field(default_factory=dict)
    reference: float = math.nan
    not_joined: list[int] = field(default_factory=list)


def usual_score(windows: Sequence[SeenWindow]) -> float:
    """Return the median of how well each picture is related, when first shown; NaN: no pair."""
    best = [window.relations.best_scores()[window.shared :] for window in windows]
    scores = np.concatenate(best).mean(axis=1) if best else np.empty(0)
    known = scores[np.isfinite(scores)]
    return float(np.median(known)) if len(known) else math.nan


def least_score(reference: float, config: R3Config) -> float:
    """Return the score below which a picture is not related."""
    return 0.0 if math.isnan(reference) else config.tracking.lost_ratio * reference


def place_windows(windows: Sequence[SeenWindow], config: R3Config) -> WindowPlacement:
    """Return the poses of all pictures that can be placed."""
    placement = WindowPlacement(reference=usual_score(windows))
    owners: dict[int, tuple[int, int]] = {}  # frame -> window of ``placed`` and row in its group
    placed: list[PlacedWindow] = []
    grids: list[Mapping[int, DepthGrid]] = []
    ties: list[Tie] = []
    for number, window in enumerate(windows):
        _note_scores(window, placement)
        group = window.group(least_score(placement.reference, config))
        if not group:
            continue
        T_root = window_poses(window.relations, group)
        found = PlacedWindow(
            rows=group,
            frame_ids=[window.frame_ids[row] for row in group],
            T_root_frame=T_root,
            S_world_root=np.eye(4),
            relations=window.relations,
        )
        known = [n for n, frame_id in enumerate(found.frame_ids) if frame_id in owners]
        if placed:
            S_world_root = _joined(found, known, window, placed, owners, grids)
            if S_world_root is None:
                placement.not_joined.append(number)
                continue
            found = replace(found, S_world_root=S_world_root)
        for n in known:
            ties.append(_tie((len(placed), n), found.frame_ids[n], window, owners, grids))
        for n, frame_id in enumerate(found.frame_ids):
            owners.setdefault(frame_id, (len(placed), n))
        placed.append(found)
        grids.append(window.grids)
    if placed:
        _settle(placement, placed, ties, owners, config)
    return placement


def _note_scores(window: SeenWindow, placement: WindowPlacement) -> None:
    best = window.relations.best_scores()
    for row in range(window.shared, len(window.frame_ids)):
        placement.scores[window.frame_ids[row]] = best[row]


def _joined(
    found: PlacedWindow,
    known: Sequence[int],
    window: SeenWindow,
    placed: Sequence[PlacedWindow],
    owners: Mapping[int, tuple[int, int]],
    grids: Sequence[Mapping[int, DepthGrid]],
) -> np.ndarray | None:
    """Return ``S_world_root`` by the pictures that have a place; None if they do not tell it."""
    if not known:
        return None
    frames = [found.frame_ids[n] for n in known]
    S_world = np.stack([placed[owners[f][0]].S_world_frame[owners[f][1]] for f in frames])
    here, there = [], []
    for frame_id, scale in zip(frames, scale_of(S_world), strict=True):
        grid = grids[owners[frame_id][0]].get(frame_id)
        if grid is not None and frame_id in window.grids:
            in_world = grid.log_depth + np.float32(math.log(scale))
            here.append(replace(grid, log_depth=in_world))
            there.append(window.grids[frame_id])
    T_window = found.T_root_frame[known]
    log_scale = combined(
        [scale_by_depth(here, there), scale_by_centres(S_world[:, :3, 3], T_window[:, :3, 3])]
    )
    if log_scale is None:
        return None
    scores = window.relations.best_scores()[[found.rows[n] for n in known]]
    scores = np.maximum(np.nan_to_num(scores), 1e-9)
    return window_in_world(rigid_part(S_world), T_window, scores, log_scale.value)


def _tie(
    there: tuple[int, int],
    frame_id: int,
    window: SeenWindow,
    owners: Mapping[int, tuple[int, int]],
    grids: Sequence[Mapping[int, DepthGrid]],
) -> Tie:
    """Tie a picture in a window to itself where it was first placed."""
    here = owners[frame_id]
    log_scale: LogScale | None = None
    if frame_id in grids[here[0]] and frame_id in window.grids:
        log_scale = scale_by_depth([grids[here[0]][frame_id]], [window.grids[frame_id]])
    return Tie(here, there, log_scale)


def _settle(
    placement: WindowPlacement,
    placed: Sequence[PlacedWindow],
    ties: Sequence[Tie],
    owners: Mapping[int, tuple[int, int]],
    config: R3Config,
) -> None:
    """Adjust all poses together, and take the first picture that has one as the world."""
    S = [window.S_world_frame for window in placed]
    if any(len(window.rows) > 1 for window in placed):
        S = adjusted_windows(placed, ties, placement.reference, config.covariance)
    first_window, first_row = owners[min(owners)]
    S_first_world = inverse(rigid_part(S[first_window][first_row]))
    placement.S_world_frame = {
        frame_id: S_first_world @ S[window][row] for frame_id, (window, row) in owners.items()
    }
