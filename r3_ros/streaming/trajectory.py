"""The record of poses: as given out, and as known after all corrections.

A frame that is still held has its pose in the pose graph. When it is let go, its pose is kept
relative to a keyframe, so that it follows that keyframe's later corrections; when that keyframe
goes too, its followers pass to a neighbour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..datatypes import TrackingState
from ..geometry import inverse, make_T

_ABSOLUTE = -1  # the stored pose is T_world_camera
_HELD = -2  # the pose graph has it
_NONE = -3  # no pose was ever believed
_STATES = tuple(TrackingState)
_ROW = np.dtype(
    [
        ('frame_id', np.int64),
        ('stamp_ns', np.int64),
        ('anchor_id', np.int64),
        ('state', np.int8),
        ('is_keyframe', np.bool_),
        ('emitted', np.float64, (3, 4)),
        ('pose', np.float64, (3, 4)),  # T_world_camera, or T_anchor_camera
    ]
)


@dataclass(frozen=True, eq=False)
class TrajectoryView:
    """An immutable snapshot of the record.

    :ivar frame_ids: (N,) int64; ``stamps_ns``: (N,) int64; ``is_keyframe``: (N,) bool.
    :ivar states: (N,) int8, index into ``list(TrackingState)``.
    :ivar T_emitted: (N, 4, 4) ``T_world_camera`` as given out, NaN where none was.
    :ivar T_final: (N, 4, 4) ``T_world_camera`` after corrections, NaN where none is known.
    """

    frame_ids: np.ndarray
    stamps_ns: np.ndarray
    states: np.ndarray
    is_keyframe: np.ndarray
    T_emitted: np.ndarray
    T_final: np.ndarray


class Trajectory:
    """Rows in the order of frames, the oldest lost beyond ``max_poses``."""

    def __init__(self, max_poses: int) -> None:
        """Start empty."""
        self._max_poses = max_poses
        self._rows = np.empty(256, dtype=_ROW)
        self._count = 0

    def __len__(self) -> int:
        """Return the number of frames on record."""
        return self._count

    def append(
        self,
        frame_id: int,
        stamp_ns: int,
        state: TrackingState,
        is_keyframe: bool,
        T_world_camera: np.ndarray | None,
    ) -> None:
        """Record a new frame; with a pose it counts as held from here on."""
        self._make_room()
        row = self._rows[self._count]
        row['frame_id'], row['stamp_ns'] = frame_id, stamp_ns
        row['state'], row['is_keyframe'] = _STATES.index(state), is_keyframe
        row['anchor_id'] = _NONE if T_world_camera is None else _HELD
        row['emitted'] = np.nan if T_world_camera is None else T_world_camera[:3]
        row['pose'] = row['emitted']
        self._count += 1

    def release(
        self, frame_id: int, poses: Mapping[int, np.ndarray], keyframe_ids: Sequence[int]
    ) -> None:
        """Let a held frame go: it, and all that hung on it, follow a keyframe that stays.

        :param poses: ``T_world_camera`` of held frames, this one included.
        :param keyframe_ids: keyframes that stay held.
        """
        rows = self._rows[: self._count]
        followers = np.flatnonzero(rows['anchor_id'] == frame_id)
        own = np.searchsorted(rows['frame_id'], frame_id)
        if own < self._count and rows['frame_id'][own] == frame_id:
            rows['pose'][own] = np.eye(4)[:3]
            followers = np.append(followers, own)
        anchor = _nearest(frame_id, keyframe_ids)
        T_anchor_frame = poses[frame_id]
        if anchor != _ABSOLUTE:
            T_anchor_frame = inverse(poses[anchor]) @ T_anchor_frame
        moved = T_anchor_frame @ _full(rows['pose'][followers])
        rows['pose'][followers] = moved[:, :3]
        rows['anchor_id'][followers] = anchor

    def view(self, poses: Mapping[int, np.ndarray]) -> TrajectoryView:
        """Return a snapshot; ``poses`` are those of the frames held now."""
        rows = self._rows[: self._count].copy()
        T_final = _full(rows['pose'])
        T_final[rows['anchor_id'] == _NONE] = np.nan
        for frame_id, T in poses.items():
            hangs = rows['anchor_id'] == frame_id
            T_final[hangs] = T @ T_final[hangs]
            T_final[(rows['anchor_id'] == _HELD) & (rows['frame_id'] == frame_id)] = T
        T_emitted = _full(rows['emitted'])
        T_emitted[np.isnan(rows['emitted'][:, 0, 0])] = np.nan
        return TrajectoryView(
            rows['frame_id'],
            rows['stamp_ns'],
            rows['state'],
            rows['is_keyframe'],
            T_emitted,
            T_final,
        )

    def _make_room(self) -> None:
        if self._count == self._max_poses:
            lost = max(1, self._max_poses // 10)
            self._rows[: self._count - lost] = self._rows[lost : self._count]
            self._count -= lost
        elif self._count == len(self._rows):
            grown = np.empty(min(2 * len(self._rows), self._max_poses), dtype=_ROW)
            grown[: self._count] = self._rows
            self._rows = grown


def _full(poses: np.ndarray) -> np.ndarray:
    """Return (N, 4, 4) motions of (N, 3, 4) ones."""
    return make_T(poses[:, :, :3], poses[:, :, 3])


def _nearest(frame_id: int, keyframe_ids: Sequence[int]) -> int:
    others = [keyframe for keyframe in keyframe_ids if keyframe != frame_id]
    return min(others, key=lambda other: abs(other - frame_id)) if others else _ABSOLUTE
