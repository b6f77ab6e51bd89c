"""The record of poses: as published, and after all corrections.

The pose of a held frame is in the pose graph. That of a released one is kept relative to a parent
keyframe, whose corrections it follows; if that is released too, it passes to another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..core.geometry import inverse, make_T, rigid_part, scale_of

#: Parents of a row that are no keyframe.
_ABSOLUTE = -1  # the stored pose is in the world
_HELD = -2  # the pose is in the pose graph
_NONE = -3  # there never was a publishable pose
#: Scales this near to 1 are rounding.
_SAME_SCALE = 1e-9
#: One array per column, so that a search through one does not load the poses into the cache.
_COLUMNS: dict[str, tuple[type, tuple[int, ...]]] = {
    'frame_ids': (np.int64, ()),
    'stamps_ns': (np.int64, ()),
    'is_keyframe': (np.bool_, ()),
    'provisional': (np.bool_, ()),
    'segment_ids': (np.int32, ()),
    'confidence': (np.float32, ()),
    'emitted': (np.float64, (3, 4)),
    'stored': (np.float64, (3, 4)),
    'parent_ids': (np.int64, ()),
}


@dataclass(frozen=True, eq=False)
class TrajectoryView:
    """An immutable snapshot of the record; any thread may compute the poses.

    :ivar frame_ids: (N,) int64; ``stamps_ns``: (N,) int64; ``is_keyframe``: (N,) bool.
    :ivar provisional: (N,) bool, the position was not known when the frame came, nor is it now.
    :ivar segment_ids: (N,) int32, the segment of each frame when it came.
    :ivar confidence: (N,) float32, the score of each frame, NaN for one without edges.
    :ivar emitted: (N, 3, 4) ``T_world_camera`` as published.
    :ivar stored: (N, 3, 4) ``S_world_camera`` or ``S_parent_camera``.
    :ivar parent_ids: (N,) int64, keyframes that released frames follow; negative without one.
    :ivar held: ``S_world_camera`` (4, 4) of held frames.
    """

    frame_ids: np.ndarray
    stamps_ns: np.ndarray
    is_keyframe: np.ndarray
    provisional: np.ndarray
    segment_ids: np.ndarray
    confidence: np.ndarray
    emitted: np.ndarray
    stored: np.ndarray
    parent_ids: np.ndarray
    held: Mapping[int, np.ndarray]

    def since(self, frame_id: int) -> TrajectoryView:
        """Return the record from a frame on."""
        first = int(np.searchsorted(self.frame_ids, frame_id))
        columns = {name: getattr(self, name)[first:] for name in _COLUMNS}
        return TrajectoryView(**columns, held=self.held)

    @cached_property
    def T_emitted(self) -> np.ndarray:
        """(N, 4, 4) ``T_world_camera`` as published, NaN where none with a position was."""
        T = _full(self.emitted)
        T[np.isnan(self.emitted[:, 0, 0])] = np.nan
        return T

    @cached_property
    def T_final(self) -> np.ndarray:
        """(N, 4, 4) ``T_world_camera`` after all corrections, NaN where none is known."""
        T = _full(self.stored)
        T[self.parent_ids == _NONE] = np.nan
        # A held frame is its own parent.
        parent_ids = np.where(self.parent_ids == _HELD, self.frame_ids, self.parent_ids)
        T[self.parent_ids == _HELD] = np.eye(4)
        following = np.flatnonzero(parent_ids >= 0)
        if len(following):
            # A parent without a known pose in the world gives none to its followers.
            missing = {int(i) for i in np.unique(parent_ids[following])} - self.held.keys()
            unknown = dict.fromkeys(missing, np.full((4, 4), np.nan))
            known = {**self.held, **unknown}
            held_ids = np.array(sorted(known))
            T_held = np.array([known[int(frame_id)] for frame_id in held_ids])
            place = np.searchsorted(held_ids, parent_ids[following])
            T[following] = T_held[place] @ T[following]
        T[self.provisional] = np.nan
        scaled = np.abs(scale_of(T) - 1.0) > _SAME_SCALE
        T[scaled] = rigid_part(T[scaled])
        return T

    @property
    def length(self) -> float:
        """Length of the way after all corrections, without segments that began apart."""
        centres = self.T_final[self.segment_ids == 0, :3, 3]
        known = centres[np.isfinite(centres).all(axis=1)]
        return float(np.linalg.norm(np.diff(known, axis=0), axis=1).sum())


class Trajectory:
    """Rows in the order of frames; beyond ``max_poses`` the oldest are dropped."""

    def __init__(self, max_poses: int) -> None:
        self._max_poses = max_poses
        self._rows = _empty_rows(256)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(
        self,
        frame_id: int,
        stamp_ns: int,
        is_keyframe: bool,
        T_world_camera: np.ndarray | None,
        published: bool = True,
        provisional: bool = False,
        segment_id: int = 0,
        confidence: float = np.nan,
    ) -> None:
        """Record a new frame; with a pose it counts as held from here on.

        :param published: the pose is published; False in a segment that is not in the world.
        :param provisional: its position is not known, until :meth:`settle`.
        :param confidence: the frame's score, NaN if it has none.
        """
        self._make_room()
        rows, row = self._rows, self._count
        rows['frame_ids'][row], rows['stamps_ns'][row] = frame_id, stamp_ns
        rows['is_keyframe'][row], rows['segment_ids'][row] = is_keyframe, segment_id
        rows['provisional'][row], rows['confidence'][row] = provisional, confidence
        rows['parent_ids'][row] = _NONE if T_world_camera is None else _HELD
        rows['stored'][row] = np.nan if T_world_camera is None else T_world_camera[:3]
        has_position = published and not provisional
        rows['emitted'][row] = rows['stored'][row] if has_position else np.nan
        self._count += 1

    def restore(
        self,
        frame_ids: np.ndarray,
        stamps_ns: np.ndarray,
        is_keyframe: np.ndarray,
        T_world_camera: np.ndarray,
        held: Mapping[int, np.ndarray],
    ) -> None:
        """Begin with the record of a loaded map, none of which counts as published here.

        :param frame_ids: (N,) ascending, with (N, 4, 4) poses; the newest are kept if not all fit.
        :param held: poses of the held keyframes; the other frames follow the nearest in time.
        """
        fitting = max(0, self._max_poses - max(1, self._max_poses // 10))
        first = max(0, len(frame_ids) - fitting)
        frame_ids, T = frame_ids[first:], T_world_camera[first:]
        count = len(frame_ids)
        held_ids = np.array(sorted(held), np.int64)
        right = np.clip(np.searchsorted(held_ids, frame_ids), 0, len(held_ids) - 1)
        left = np.maximum(right - 1, 0)
        nearer = frame_ids - held_ids[left] < held_ids[right] - frame_ids
        parent_ids = held_ids[np.where(nearer, left, right)]
        T_parent = np.stack([held[int(i)] for i in held_ids])
        S_parent_frame = inverse(T_parent)[np.searchsorted(held_ids, parent_ids)] @ T
        own = np.isin(frame_ids, held_ids)
        self._rows = _empty_rows(max(256, count))
        rows = self._rows
        rows['frame_ids'][:count], rows['stamps_ns'][:count] = frame_ids, stamps_ns[first:]
        rows['is_keyframe'][:count] = is_keyframe[first:]
        rows['parent_ids'][:count] = np.where(own, _HELD, parent_ids)
        rows['segment_ids'][:count], rows['confidence'][:count] = 0, np.nan
        rows['emitted'][:count], rows['provisional'][:count] = np.nan, False
        rows['stored'][:count] = np.where(own[:, None, None], T, S_parent_frame)[:, :3]
        self._count = count

    def pose_of(self, frame_id: int, poses: Mapping[int, np.ndarray]) -> np.ndarray | None:
        """Return ``T_world_camera`` (4, 4) of one frame as known now, None if it is not.

        :param poses: ``S_world_camera`` of the held frames.
        """
        row = self._row_of(frame_id)
        if row is None:
            return None
        parent = int(self._rows['parent_ids'][row])
        if parent == _HELD:
            return rigid_part(poses[frame_id]) if frame_id in poses else None
        if parent != _ABSOLUTE and parent not in poses:
            return None
        S = _full(self._rows['stored'][row])
        return rigid_part(S if parent == _ABSOLUTE else poses[parent] @ S)

    def settle(self, frame_ids: Sequence[int]) -> np.ndarray:
        """Note that the poses of provisional frames are known now.

        :returns: the other provisional frames.
        """
        rows = {name: column[: self._count] for name, column in self._rows.items()}
        rows['provisional'][np.isin(rows['frame_ids'], frame_ids)] = False
        return rows['frame_ids'][rows['provisional']]

    def abandon(self, frame_id: int) -> None:
        """Remove the poses of a frame and its followers: its segment was dropped."""
        parent_ids = self._rows['parent_ids'][: self._count]
        parent_ids[parent_ids == frame_id] = _NONE
        own = self._row_of(frame_id)
        if own is not None:
            parent_ids[own] = _NONE

    def release(self, frame_id: int, S_parent_frame: np.ndarray, parent: int | None) -> None:
        """Release a held frame: it and its followers follow a parent keyframe from now on.

        :param parent: None to keep them where they are in the world.
        """
        rows = self._rows
        own = self._row_of(frame_id)
        followers = np.empty(0, np.int64)
        if own is None or rows['is_keyframe'][own]:
            # Only keyframes have followers, and finding them takes a search through all rows.
            followers = np.flatnonzero(rows['parent_ids'][: self._count] == frame_id)
        if own is not None:
            rows['stored'][own] = np.eye(4)[:3]
            followers = np.append(followers, own)
        moved = S_parent_frame @ _full(rows['stored'][followers])
        rows['stored'][followers] = moved[:, :3]
        rows['parent_ids'][followers] = _ABSOLUTE if parent is None else parent

    def view(
        self, poses: Mapping[int, np.ndarray], keyframes_only: bool = False
    ) -> TrajectoryView:
        """Return a snapshot; ``poses`` are ``S_world_camera`` of the held frames."""
        rows = {name: column[: self._count] for name, column in self._rows.items()}
        if keyframes_only:
            chosen = np.flatnonzero(rows['is_keyframe'])
            rows = {name: column[chosen] for name, column in rows.items()}
        else:
            rows = {name: column.copy() for name, column in rows.items()}
        return TrajectoryView(**rows, held=dict(poses))

    def _row_of(self, frame_id: int) -> int | None:
        ids = self._rows['frame_ids'][: self._count]
        row = int(np.searchsorted(ids, frame_id))
        return row if row < self._count and ids[row] == frame_id else None

    def _make_room(self) -> None:
        capacity, lost = len(self._rows['frame_ids']), 0
        if self._count == self._max_poses:
            lost = max(1, self._max_poses // 10)
        elif self._count == capacity:
            capacity = min(2 * capacity, self._max_poses)
        else:
            return
        rows = _empty_rows(capacity)
        for name, column in self._rows.items():
            rows[name][: self._count - lost] = column[lost : self._count]
        self._rows = rows
        self._count -= lost


def _empty_rows(capacity: int) -> dict[str, np.ndarray]:
    return {name: np.empty((capacity, *shape), dtype) for name, (dtype, shape) in _COLUMNS.items()}


def _full(poses: np.ndarray) -> np.ndarray:
    return make_T(poses[..., :3], poses[..., 3])
