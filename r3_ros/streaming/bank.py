"""The keyframe bank: what is remembered, what is let go, and what is recalled for a frame.

Admission follows the R3 authors' two modes (every n-th frame; or novelty of the descriptor with
a longest interval). Eviction does not: their score is the best match a keyframe ever had, so one
that was good long ago stays for ever. Ours fades with time, though not to nothing, and discounts
keyframes that have a look-alike in the bank: the recent past stays dense, and the far past is
thinned out rather than forgotten.

Recall weighs likeness, the overlap of the views and how well a keyframe matched of late (see
:mod:`r3_ros.kernels.retrieval`), and keeps what the last frame was related to unless another is
clearly better.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..config import KeyframeConfig, StreamConfig
from ..datatypes import DepthMap, Intrinsics
from ..kernels import (
    EXCLUDED,
    MERIT_HALF_LIFE_FRAMES,
    picture_bounds,
    Query,
    RetrievalIndex,
    View,
    Weights,
)

#: Frames after which the worth of a match has halved.
_HALF_LIFE_FRAMES = 300.0
#: What is left when it has faded: a place like no other outlives new look-alikes.
_LEAST_WORTH = 0.1
#: The newest keyframes are never evicted: tracking stands on them.
_PROTECTED_NEWEST = 4
#: Share by which a merit moves towards what the latest match says.
_MERIT_STEP = 0.3
#: The score of a match, over the nominal one, that says nothing for or against a keyframe.
_NEUTRAL_RATIO = 0.5
#: Every n-th pixel says how deep a scene is.
_DEPTH_STRIDE = 16


@dataclass
class _Keyframe:
    slot: int
    descriptor: np.ndarray
    worth: float  # as of frame `seen`; fades from there
    seen: int
    view: View | None = None
    merit: float = 0.0  # as of frame `judged`; fades to neutral from there
    judged: int = 0
    intrinsics: Intrinsics | None = None
    stamp_ns: int = 0


#: The anchor, a keyframe that can go, and the newest: with fewer there is no bank.
_FEWEST = 3


class KeyframeBank:
    """At most ``max_keyframes`` keyframes, found again by descriptor similarity."""

    def __init__(self, config: KeyframeConfig, index: RetrievalIndex) -> None:
        """Start empty; ``index`` has room for ``max_keyframes`` keyframes."""
        self.config = config
        self._index = index
        self._keyframes: dict[int, _Keyframe] = {}
        self._in_slot: dict[int, int] = {}
        # Keyframes that the latest frame was related to, with the score each came to.
        self._related: dict[int, float] = {}
        self._judged_at: int | None = None
        # A descriptor searched for since the bank last changed, and its best likeness: the frame
        # that was recalled for is asked about again when it may become a keyframe.
        self._nearest: tuple[np.ndarray, float] | None = None
        # Of the newest keyframe that had one; map units, where the start of a scene is about 1.
        self._scene_depth = 1.0
        self._free = list(range(config.max_keyframes - 1, -1, -1))
        self._since_admission = 0
        self._frames = 0

    def __len__(self) -> int:
        """Return the number of keyframes."""
        return len(self._keyframes)

    def __contains__(self, frame_id: int) -> bool:
        """Tell whether the frame is a keyframe."""
        return frame_id in self._keyframes

    def ids(self) -> list[int]:
        """Return the keyframes' frame ids, oldest first."""
        return list(self._keyframes)

    def most_similar(
        self, descriptor: np.ndarray, k: int, without: Collection[int] = ()
    ) -> list[int]:
        """Return the ids of the at most ``k`` keyframes most like the descriptor, best first.

        :param without: frames that are not wanted.
        """
        if k == 0 or not self._keyframes:
            return []
        query = Query(descriptor, bonus=self._bonus(without, EXCLUDED))
        return self._find(query, k)

    def recall(
        self,
        frame_id: int,
        descriptor: np.ndarray,
        T_world_camera: np.ndarray | None,
        config: StreamConfig,
        without: Collection[int] = (),
    ) -> list[int]:
        """Return the ids of the keyframes worth relating a new frame to, best first.

        :param T_world_camera: where the camera is thought to be; None if nobody knows.
        :param config: how many, and what counts.
        :param without: frames that it is related to in any case.
        """
        self._judge()
        weights = Weights(
            config.retrieval_similarity, config.retrieval_overlap, config.retrieval_confidence
        )
        bonus = self._bonus(self._related, config.retrieval_hysteresis)
        bonus |= self._bonus(without, EXCLUDED)
        query = Query(descriptor, weights, self._view_from(T_world_camera), frame_id, bonus)
        found = self._find(query, config.retrieved_keyframes)
        self._related = dict.fromkeys((i for i in (*without, *found) if i in self), 0.0)
        return found

    def wants(self, descriptor: np.ndarray) -> bool:
        """Count the frame, and tell whether the admission rule would make it a keyframe."""
        wanted = self.would_want(descriptor)
        self._frames += 1
        self._since_admission += 1
        return wanted

    def would_want(self, descriptor: np.ndarray) -> bool:
        """Tell whether the admission rule would make the next frame a keyframe."""
        if not self._keyframes:
            return True
        if self.config.mode == 'interval':
            return (self._frames + 1) % self.config.interval == 0
        if self._since_admission + 1 >= self.config.max_interval:
            return True
        if self._nearest is None or not np.array_equal(self._nearest[0], descriptor):
            self._find(Query(descriptor), 0)
        assert self._nearest is not None
        return self._nearest[1] < self.config.novelty_threshold

    def admit(
        self,
        frame_id: int,
        descriptor: np.ndarray,
        T_world_camera: np.ndarray | None = None,
        intrinsics: Intrinsics | None = None,
        room: int | None = None,
        stamp_ns: int = 0,
    ) -> list[int]:
        """Remember a keyframe and return the ids that had to go for it.

        :param T_world_camera: its pose; without pose and intrinsics, views do not count for it.
        :param room: keyframes that fit elsewhere, which may be fewer than ``max_keyframes``.
        :param stamp_ns: of its picture.
        """
        evicted = []
        while not self._free or (room is not None and len(self) >= max(room, _FEWEST)):
            worst = self._least_useful(frame_id)
            self.remove(worst)
            evicted.append(worst)
        slot = self._free.pop()
        view = None
        if T_world_camera is not None and intrinsics is not None:
            view = View(T_world_camera, picture_bounds(intrinsics), self._scene_depth)
        self._index.put(slot, descriptor, view)
        self._nearest = None
        self._keyframes[frame_id] = _Keyframe(
            slot,
            descriptor.copy(),
            1.0,
            frame_id,
            view,
            intrinsics=intrinsics,
            stamp_ns=stamp_ns,
        )
        self._in_slot[slot] = frame_id
        self._since_admission = 0
        return evicted

    def oldest(self, share: float) -> list[int]:
        """Return this share of the keyframes, oldest first; not the anchor, nor the newest."""
        ids = self.ids()
        return ids[1 : max(len(ids) - _PROTECTED_NEWEST, 1)][: int(share * len(ids))]

    def remove(self, frame_id: int) -> None:
        """Forget a keyframe."""
        slot = self._keyframes.pop(frame_id).slot
        self._index.remove(slot)
        self._nearest = None
        self._free.append(slot)
        del self._in_slot[slot]

    def view(self, frame_id: int) -> View | None:
        """Return where a keyframe looks, as retrieval has it."""
        return self._keyframes[frame_id].view

    def descriptor(self, frame_id: int) -> np.ndarray:
        """Return the (D,) float32 descriptor of a keyframe."""
        return self._keyframes[frame_id].descriptor

    def intrinsics(self, frame_id: int) -> Intrinsics | None:
        """Return the intrinsics of a keyframe's picture, as it was told."""
        return self._keyframes[frame_id].intrinsics

    def stamp_ns(self, frame_id: int) -> int:
        """Return when a keyframe was taken."""
        return self._keyframes[frame_id].stamp_ns

    def move(self, poses: Mapping[int, np.ndarray]) -> None:
        """Note ``T_world_camera`` (4, 4) of keyframes that a correction has moved."""
        views = {
            frame_id: replace(keyframe.view, T_world_camera=T_world_camera)
            for frame_id, T_world_camera in poses.items()
            if (keyframe := self._keyframes.get(frame_id)) and keyframe.view is not None
        }
        self._set_views(views)

    def note_depth(self, depth_map: DepthMap) -> None:
        """Learn from a keyframe's depth, in map units, how far away things are."""
        keyframe = self._keyframes.get(depth_map.frame_id)
        depth = depth_map.depth[::_DEPTH_STRIDE, ::_DEPTH_STRIDE]
        known = depth[np.isfinite(depth) & (depth > 0)]
        if keyframe is None or keyframe.view is None or not known.size:
            return
        self._scene_depth = float(np.median(known))
        self._set_views({depth_map.frame_id: replace(keyframe.view, depth=self._scene_depth)})

    def credit(self, frame_id: int, matches: Iterable[tuple[int, float]]) -> None:
        """Note that keyframes matched frame ``frame_id``, each with a score over the nominal."""
        for keyframe_id, ratio in matches:
            keyframe = self._keyframes.get(keyframe_id)
            if keyframe is not None:
                self._related[keyframe_id] = max(ratio, self._related.get(keyframe_id, 0.0))
                self._judged_at = frame_id
                keyframe.worth = max(_faded(keyframe, frame_id), min(ratio, 1.0))
                keyframe.seen = frame_id

    def _judge(self) -> None:
        """Let what came of the latest recall count in the next: a keyframe without an edge, too.

        Only if any keyframe matched: where none did, it was the frame that was bad.
        """
        now, self._judged_at = self._judged_at, None
        if now is None:
            return
        judged = [i for i in self._related if i in self._keyframes]
        for frame_id in judged:
            keyframe = self._keyframes[frame_id]
            age = now - keyframe.judged
            faded = keyframe.merit * 0.5 ** (age / MERIT_HALF_LIFE_FRAMES)
            says = min(self._related[frame_id], 1.0) - _NEUTRAL_RATIO
            keyframe.merit = faded + _MERIT_STEP * (says - faded)
            keyframe.judged = now
        merits = [self._keyframes[i].merit for i in judged]
        self._index.set_merits([self._keyframes[i].slot for i in judged], merits, now)

    def _view_from(self, T_world_camera: np.ndarray | None) -> View | None:
        """Return the view from a pose, with lens and depth of the newest keyframe."""
        newest = next(reversed(self._keyframes.values()), None)
        if T_world_camera is None or newest is None or newest.view is None:
            return None
        return replace(newest.view, T_world_camera=T_world_camera)

    def _set_views(self, views: Mapping[int, View]) -> None:
        for frame_id, view in views.items():
            self._keyframes[frame_id].view = view
        slots = [self._keyframes[frame_id].slot for frame_id in views]
        self._index.set_views(slots, list(views.values()))

    def _bonus(self, frame_ids: Iterable[int], bonus: float) -> dict[int, float]:
        """Return the same bonus for all of these that are keyframes, by slot."""
        known = (self._keyframes[i] for i in frame_ids if i in self._keyframes)
        return {keyframe.slot: bonus for keyframe in known}

    def _find(self, query: Query, k: int) -> list[int]:
        """Return the ids of the at most ``k`` best, best first."""
        found = self._index.retrieve(query, k)
        self._nearest = query.descriptor.copy(), found.best_similarity
        return [self._in_slot[int(slot)] for slot in found.slots]

    def _least_useful(self, now: int) -> int:
        """Return the keyframe to lose: faded and least distinct, but no anchor and no new one."""
        ids = self.ids()
        candidates = range(1, len(ids) - min(_PROTECTED_NEWEST, len(ids) - 2))
        descriptors = np.stack([self._keyframes[i].descriptor for i in ids])
        likeness = descriptors @ descriptors.T
        np.fill_diagonal(likeness, -1.0)
        distinct = 1.0 - likeness.max(axis=1)
        usefulness = {
            ids[n]: max(_faded(self._keyframes[ids[n]], now), _LEAST_WORTH) * (distinct[n] + 1e-3)
            for n in candidates
        }
        return min(usefulness, key=lambda i: (usefulness[i], i))


def _faded(keyframe: _Keyframe, now: int) -> float:
    """Return what a keyframe's best match is still worth at frame ``now``."""
    return float(keyframe.worth * 0.5 ** ((now - keyframe.seen) / _HALF_LIFE_FRAMES))
