"""The record of poses: as given out, and as known after all corrections.

A frame that is still held has its pose in the pose graph. When it is let go, its pose is kept
relative to a keyframe, so that it follows that keyframe's later corrections; when that keyframe
goes too, its followers pass to a neighbour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..core.datatypes import TrackingState
from ..core.geometry import inverse, make_T
from ..core.similarity import inverse_similarity, rigid_part, scale_of

_ABSOLUTE = -1  # the stored pose is T_world_camera
_HELD = -2  # the pose graph has it
_NONE = -3  # no pose was ever believed
_STATES = tuple(TrackingState)
#: Scales this near to 1 are rounding.
_SAME_SCALE = 1e-9
#: One array per column: a search through one of them must not drag the poses through the cache.
_COLUMNS: dict[str, tuple[type, tuple[int, ...]]] = {
    'frame_id': (np.int64, ()),
    'stamp_ns': (np.int64, ()),
    'anchor_id': (np.int64, ()),
    'state': (np.int8, ()),
    'is_keyframe': (np.bool_, ()),
    'segment_id': (np.int32, ()),
    'confidence': (np.float32, ()),
    'emitted': (np.float64, (3, 4)),
    'pose': (np.float64, (3, 4)),  # S_world_camera, or S_anchor_camera
}


@dataclass(frozen=True, eq=False)
class TrajectoryView:
    """An immutable snapshot of the record; another thread may work the poses out.

    :ivar frame_ids: (N,) int64; ``stamps_ns``: (N,) int64; ``is_keyframe``: (N,) bool.
    :ivar states: (N,) int8, index into ``list(TrackingState)``.
    :ivar segment_ids: (N,) int32, the segment that each frame came in, joined or not since.
    :ivar confidence: (N,) float32, the score of each frame, NaN for one without edges.
    """

    frame_ids: np.ndarray
    stamps_ns: np.ndarray
    states: np.ndarray
    is_keyframe: np.ndarray
    segment_ids: np.ndarray
    confidence: np.ndarray
    _emitted: np.ndarray
    _pose: np.ndarray
    _anchor_id: np.ndarray
    _held: Mapping[int, np.ndarray]

    def since(self, frame_id: int) -> TrajectoryView:
        """Return the record from a frame on."""
        first = int(np.searchsorted(self.frame_ids, frame_id))
        return replace(
            self,
            frame_ids=self.frame_ids[first:],
            stamps_ns=self.stamps_ns[first:],
            states=self.states[first:],
            is_keyframe=self.is_keyframe[first:],
            segment_ids=self.segment_ids[first:],
            confidence=self.confidence[first:],
            _emitted=self._emitted[first:],
            _pose=self._pose[first:],
            _anchor_id=self._anchor_id[first:],
        )

    @cached_property
    def T_emitted(self) -> np.ndarray:
        """(N, 4, 4) ``T_world_camera`` as given out, NaN where none was."""
        T = _full(self._emitted)
        T[np.isnan(self._emitted[:, 0, 0])] = np.nan
        return T

    @cached_property
    def T_final(self) -> np.ndarray:
        """(N, 4, 4) ``T_world_camera`` after all corrections, NaN where none is known."""
        T = _full(self._pose)
        T[self._anchor_id == _NONE] = np.nan
        # A held frame hangs on itself.
        anchor_ids = np.where(self._anchor_id == _HELD, self.frame_ids, self._anchor_id)
        T[self._anchor_id == _HELD] = np.eye(4)
        hanging = np.flatnonzero(anchor_ids >= 0)
        if len(hanging):
            # What hangs on a frame whose place in the world is not known has none either.
            missing = {int(i) for i in np.unique(anchor_ids[hanging])} - self._held.keys()
            unknown = dict.fromkeys(missing, np.full((4, 4), np.nan))
            known = {**self._held, **unknown}
            held_ids = np.array(sorted(known))
            T_held = np.array([known[int(frame_id)] for frame_id in held_ids])
            place = np.searchsorted(held_ids, anchor_ids[hanging])
            T[hanging] = T_held[place] @ T[hanging]
        scaled = np.abs(scale_of(T) - 1.0) > _SAME_SCALE
        T[scaled] = rigid_part(T[scaled])
        return T


class Trajectory:
    """Rows in the order of frames, the oldest lost beyond ``max_poses``."""

    def __init__(self, max_poses: int) -> None:
        """Start empty."""
        self._max_poses = max_poses
        self._rows = _empty_rows(256)
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
        given: bool = True,
        segment_id: int = 0,
        confidence: float = np.nan,
    ) -> None:
        """Record a new frame; with a pose it counts as held from here on.

        :param given: the pose is given out; otherwise it is in a segment apart from the world.
        :param confidence: the frame's score, NaN if it has none.
        """
        self._make_room()
        rows, row = self._rows, self._count
        rows['frame_id'][row], rows['stamp_ns'][row] = frame_id, stamp_ns
        rows['state'][row], rows['is_keyframe'][row] = _STATES.index(state), is_keyframe
        rows['segment_id'][row], rows['confidence'][row] = segment_id, confidence
        rows['anchor_id'][row] = _NONE if T_world_camera is None else _HELD
        rows['emitted'][row] = np.nan if T_world_camera is None else T_world_camera[:3]
        rows['pose'][row] = rows['emitted'][row]
        if not given:
            rows['emitted'][row] = np.nan
        self._count += 1

    def restore(
        self,
        frame_ids: np.ndarray,
        stamps_ns: np.ndarray,
        is_keyframe: np.ndarray,
        T_world_camera: np.ndarray,
        held: Mapping[int, np.ndarray],
    ) -> None:
        """Begin with the record of a map that was loaded; it was given out by somebody else.

        :param frame_ids: (N,) rising; the newest count if there are more than fit.
        :param T_world_camera: (N, 4, 4).
        :param held: poses of the keyframes held, which the others follow: the nearest in time.
        """
        fitting = max(0, self._max_poses - max(1, self._max_poses // 10))
        first = max(0, len(frame_ids) - fitting)
        frame_ids, T = frame_ids[first:], T_world_camera[first:]
        count = len(frame_ids)
        held_ids = np.array(sorted(held), np.int64)
        right = np.clip(np.searchsorted(held_ids, frame_ids), 0, len(held_ids) - 1)
        left = np.maximum(right - 1, 0)
        nearer = frame_ids - held_ids[left] < held_ids[right] - frame_ids
        anchor_ids = held_ids[np.where(nearer, left, right)]
        T_anchor = np.stack([held[int(i)] for i in held_ids])
        S_anchor_frame = inverse(T_anchor)[np.searchsorted(held_ids, anchor_ids)] @ T
        own = np.isin(frame_ids, held_ids)
        self._rows = _empty_rows(max(256, count))
        rows = self._rows
        rows['frame_id'][:count], rows['stamp_ns'][:count] = frame_ids, stamps_ns[first:]
        rows['state'][:count] = _STATES.index(TrackingState.TRACKING)
        rows['is_keyframe'][:count] = is_keyframe[first:]
        rows['anchor_id'][:count] = np.where(own, _HELD, anchor_ids)
        rows['segment_id'][:count], rows['confidence'][:count] = 0, np.nan
        rows['emitted'][:count] = np.nan
        rows['pose'][:count] = np.where(own[:, None, None], T, S_anchor_frame)[:, :3]
        self._count = count

    def pose_of(self, frame_id: int, poses: Mapping[int, np.ndarray]) -> np.ndarray | None:
        """Return ``T_world_camera`` (4, 4) of one frame as known now, None if it is not.

        :param poses: ``S_world_camera`` of the frames held now.
        """
        row = self._row_of(frame_id)
        if row is None:
            return None
        anchor = int(self._rows['anchor_id'][row])
        if anchor == _HELD:
            return rigid_part(poses[frame_id]) if frame_id in poses else None
        if anchor != _ABSOLUTE and anchor not in poses:
            return None
        S_anchor_frame = _full(self._rows['pose'][row])
        return rigid_part(
            S_anchor_frame if anchor == _ABSOLUTE else poses[anchor] @ S_anchor_frame
        )

    def abandon(self, frame_id: int) -> None:
        """Forget where a frame was, and all that hung on it: its segment is no more."""
        rows = self._rows
        rows['anchor_id'][: self._count][rows['anchor_id'][: self._count] == frame_id] = _NONE
        own = self._row_of(frame_id)
        if own is not None:
            rows['anchor_id'][own] = _NONE

    def release(
        self,
        frame_id: int,
        S_world_frame: np.ndarray,
        heir: int | None = None,
        S_world_heir: np.ndarray | None = None,
    ) -> None:
        """Let a held frame go: it, and all that hung on it, follow a frame that stays.

        :param heir: the frame that they follow from now on; without one they stay in the world
            where they are.
        """
        rows = self._rows
        own = self._row_of(frame_id)
        followers = np.empty(0, np.int64)
        if own is None or rows['is_keyframe'][own]:
            # Only on keyframes do others hang; the search is through all rows.
            followers = np.flatnonzero(rows['anchor_id'][: self._count] == frame_id)
        if own is not None:
            rows['pose'][own] = np.eye(4)[:3]
            followers = np.append(followers, own)
        S_anchor_frame = S_world_frame
        if heir is not None and S_world_heir is not None:
            S_anchor_frame = inverse_similarity(S_world_heir) @ S_world_frame
        moved = S_anchor_frame @ _full(rows['pose'][followers])
        rows['pose'][followers] = moved[:, :3]
        rows['anchor_id'][followers] = _ABSOLUTE if heir is None else heir

    def view(
        self, poses: Mapping[int, np.ndarray], keyframes_only: bool = False
    ) -> TrajectoryView:
        """Return a snapshot; ``poses`` are ``S_world_camera`` of the frames held now."""
        rows = {name: column[: self._count] for name, column in self._rows.items()}
        if keyframes_only:
            chosen = np.flatnonzero(rows['is_keyframe'])
            rows = {name: column[chosen] for name, column in rows.items()}
        else:
            rows = {name: column.copy() for name, column in rows.items()}
        return TrajectoryView(
            frame_ids=rows['frame_id'],
            stamps_ns=rows['stamp_ns'],
            states=rows['state'],
            is_keyframe=rows['is_keyframe'],
            segment_ids=rows['segment_id'],
            confidence=rows['confidence'],
            _emitted=rows['emitted'],
            _pose=rows['pose'],
            _anchor_id=rows['anchor_id'],
            _held=dict(poses),
        )

    def _row_of(self, frame_id: int) -> int | None:
        ids = self._rows['frame_id'][: self._count]
        row = int(np.searchsorted(ids, frame_id))
        return row if row < self._count and ids[row] == frame_id else None

    def _make_room(self) -> None:
        capacity = len(self._rows['frame_id'])
        lost = 0
        if self._count == self._max_poses:
            lost = max(1, self._max_poses // 10)
        elif self._count == capacity:
            capacity = min(2 * capacity, self._max_poses)
        else:
            return
        roomier = _empty_rows(capacity)
        for name, column in self._rows.items():
            roomier[name][: self._count - lost] = column[lost : self._count]
        self._rows = roomier
        self._count -= lost


def _empty_rows(capacity: int) -> dict[str, np.ndarray]:
    return {name: np.empty((capacity, *shape), dtype) for name, (dtype, shape) in _COLUMNS.items()}


def _full(poses: np.ndarray) -> np.ndarray:
    """Return (..., 4, 4) transforms of (..., 3, 4) ones."""
    return make_T(poses[..., :3], poses[..., 3])
