"""The keyframe bank: what is remembered, what is let go, and what is recalled for a frame.

Eviction is not the R3 authors': their score is the best match a keyframe ever had, so one that
was good long ago stays for ever. Ours fades with time, though not to nothing, and discounts
keyframes that have a look-alike in the same place: the recent past stays dense, and the far past
is thinned out rather than forgotten.

Recall weighs likeness, the overlap of the views and how well a keyframe matched of late (see
:mod:`r3_ros.kernels.retrieval`), and keeps what the last frame was related to unless another is
clearly better.

Nothing done for a frame takes longer where more is remembered, but the search itself.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

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
    view_overlaps,
    Weights,
)

#: Frames after which the worth of a match has halved.
_HALF_LIFE_FRAMES = 300.0
#: What is left when it has faded: a place like no other outlives new look-alikes.
_LEAST_WORTH = 0.1
#: The newest keyframes are never evicted: tracking stands on them.
_PROTECTED_NEWEST = 4
#: The anchor, a keyframe that can go, and the newest: with fewer there is no bank.
_FEWEST = 3
#: Keyframes that one search of the index may leave out; with more, the others are few.
_MOST_LEFT_OUT = 2000
#: Look-alikes noted of a keyframe when it is admitted.
_LOOK_ALIKES = 4
#: Likeness to nothing.
_LIKE_NO_OTHER = -1.0
#: Share by which a merit moves towards what the latest match says.
_MERIT_STEP = 0.3
#: The score of a match, over the nominal one, that says nothing for or against a keyframe.
_NEUTRAL_RATIO = 0.5
#: Every n-th pixel says how deep a scene is.
_DEPTH_STRIDE = 16


class KeyframeBank:
    """At most ``max_keyframes`` keyframes, each in a slot of the index."""

    def __init__(self, config: KeyframeConfig, index: RetrievalIndex) -> None:
        """Start empty; ``index`` has room for ``max_keyframes`` keyframes."""
        capacity = config.max_keyframes
        self._index = index
        self._slots: dict[int, int] = {}  # by frame id, oldest first
        self._by_segment: dict[int, list[int]] = {}  # frame ids, oldest first
        self._free = list(range(capacity - 1, -1, -1))
        # By slot. Zeros take no memory until they are written.
        self._frame_ids = np.zeros(capacity, np.int64)
        self._descriptors = np.zeros((capacity, index.size), np.float32)
        # What the best match was worth at frame `seen`, from where it fades.
        self._worth, self._seen = np.zeros(capacity), np.zeros(capacity)
        # Fades to neutral from frame `judged`.
        self._merit, self._judged = np.zeros(capacity), np.zeros(capacity)
        self._likeness = np.zeros(capacity)  # to the nearest look-alike
        # Keyframes that look alike and saw the same, both ways, by frame id.
        self._alike: dict[int, dict[int, float]] = {}
        self._tokens: dict[int, np.ndarray] = {}
        self._pictures: dict[int, tuple[Intrinsics | None, int]] = {}
        # Keyframes that the latest frame was related to, with the score each came to.
        self._related: dict[int, float] = {}
        self._judged_at: int | None = None
        # A descriptor searched for since the bank last changed, and its best likeness: the frame
        # that was recalled for is asked about again when it may become a keyframe.
        self._nearest: tuple[np.ndarray, float] | None = None
        # Of the newest keyframe that had one; map units, where the start of a scene is about 1.
        self._scene_depth = 1.0

    def __len__(self) -> int:
        """Return the number of keyframes."""
        return len(self._slots)

    def __contains__(self, frame_id: object) -> bool:
        """Tell whether the frame is a keyframe."""
        return frame_id in self._slots

    def ids(self) -> list[int]:
        """Return the keyframes' frame ids, oldest first."""
        return list(self._slots)

    def in_segment(self, segment_id: int) -> list[int]:
        """Return the keyframes of one segment, oldest first."""
        return list(self._by_segment.get(segment_id, ()))

    def newest(self, count: int, segment_id: int) -> list[int]:
        """Return the at most ``count`` newest keyframes of one segment, oldest first."""
        return self._by_segment.get(segment_id, [])[-count:]

    def first(self, segment_id: int) -> list[int]:
        """Return the first keyframe of one segment, none if it has none."""
        return self._by_segment.get(segment_id, [])[:1]

    def nearest_in_time(self, frame_id: int, segment_id: int) -> int | None:
        """Return the keyframe of a segment admitted nearest to a frame, other than itself."""
        ids = self._by_segment.get(segment_id, [])
        place = bisect.bisect_left(ids, frame_id)
        after = place + (place < len(ids) and ids[place] == frame_id)
        near = ids[max(place - 1, 0) : place] + ids[after : after + 1]
        return min(near, key=lambda other: abs(other - frame_id), default=None)

    def join_segments(self, younger: int, older: int) -> None:
        """Count the keyframes of one segment among those of another from now on."""
        joined = [*self._by_segment.pop(younger, []), *self._by_segment.get(older, [])]
        self._by_segment[older] = sorted(joined)

    def most_similar(
        self, descriptor: np.ndarray, k: int, without: Collection[int] = ()
    ) -> list[int]:
        """Return the ids of the at most ``k`` keyframes most like the descriptor, best first.

        :param without: frames that are not wanted.
        """
        if k == 0 or not self._slots:
            return []
        bonus = self._bonus(without, EXCLUDED)
        if len(bonus) <= _MOST_LEFT_OUT:
            return self._find(Query(descriptor, bonus=bonus), k)
        slots = np.array([slot for slot in self._slots.values() if slot not in bonus], np.int64)
        likeness = self._descriptors[slots] @ descriptor
        return [int(i) for i in self._frame_ids[slots[np.argsort(-likeness, kind='stable')[:k]]]]

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

    def likeness(self, descriptor: np.ndarray) -> float:
        """Return the cosine of a descriptor with that of the keyframe most like it."""
        if self._nearest is None or not np.array_equal(self._nearest[0], descriptor):
            self._find(Query(descriptor), 0)
        assert self._nearest is not None
        return self._nearest[1]

    def overlap(self, T_world_camera: np.ndarray, keyframes: Iterable[int]) -> float | None:
        """Return how much the view from a pose shares at the most with one of some keyframes.

        None if it is not known how far and wide the camera sees.
        """
        view = self._view_from(T_world_camera)
        if view is None:
            return None
        slots = [self._slots[i] for i in keyframes if i in self._slots]
        shared = view_overlaps(view.packed(), self._index.views(slots))
        return float(shared.max(initial=0.0))

    def token_likeness(self, pose_token: np.ndarray, keyframes: Iterable[int]) -> float:
        """Return the greatest cosine of a pose token with those of some keyframes."""
        tokens = [self._tokens[i] for i in keyframes if i in self._tokens]
        return max((float(token @ pose_token) for token in tokens), default=_LIKE_NO_OTHER)

    def admit(
        self,
        frame_id: int,
        descriptor: np.ndarray,
        T_world_camera: np.ndarray | None = None,
        intrinsics: Intrinsics | None = None,
        *,
        room: int | None = None,
        segment_id: int = 0,
        stamp_ns: int = 0,
        related: Iterable[int] = (),
        pose_token: np.ndarray | None = None,
    ) -> list[int]:
        """Remember a keyframe and return the ids that had to go for it.

        :param T_world_camera: its pose; without pose and intrinsics, views do not count for it.
        :param room: keyframes that fit elsewhere, which may be fewer than ``max_keyframes``.
        :param stamp_ns: of its picture.
        :param related: frames that it was related to: among them its look-alikes are sought.
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
        self._slots[frame_id] = slot
        self._by_segment.setdefault(segment_id, []).append(frame_id)
        self._frame_ids[slot], self._descriptors[slot] = frame_id, descriptor
        self._worth[slot], self._seen[slot] = 1.0, frame_id
        self._merit[slot], self._judged[slot] = 0.0, 0.0
        self._likeness[slot] = _LIKE_NO_OTHER
        self._alike[frame_id] = {}
        self._pictures[frame_id] = intrinsics, stamp_ns
        if pose_token is not None:
            self._tokens[frame_id] = pose_token.copy()
        self._note_look_alikes(frame_id, [i for i in related if i in self and i != frame_id])
        return evicted

    def oldest(self, share: float) -> list[int]:
        """Return this share of the keyframes, oldest first; not the anchor, nor the newest."""
        ids = self.ids()
        return ids[1 : max(len(ids) - _PROTECTED_NEWEST, 1)][: int(share * len(ids))]

    def remove(self, frame_id: int) -> None:
        """Forget a keyframe."""
        slot = self._slots.pop(frame_id)
        self._index.remove(slot)
        self._nearest = None
        self._free.append(slot)
        self._tokens.pop(frame_id, None)
        del self._pictures[frame_id]
        for ids in self._by_segment.values():
            place = bisect.bisect_left(ids, frame_id)
            if ids[place : place + 1] == [frame_id]:
                del ids[place]
        left = list(self._alike.pop(frame_id))
        for other in left:
            del self._alike[other][frame_id]
        # Those that looked like it are what is left of the place.
        for other in left:
            self._note_look_alikes(other, [i for i in left if i != other], 1)

    def view(self, frame_id: int) -> View | None:
        """Return where a keyframe looks, as retrieval has it."""
        return View.unpacked(self._index.views([self._slots[frame_id]])[0])

    def descriptor(self, frame_id: int) -> np.ndarray:
        """Return the (D,) float32 descriptor of a keyframe."""
        return self._descriptors[self._slots[frame_id]].copy()

    def intrinsics(self, frame_id: int) -> Intrinsics | None:
        """Return the intrinsics of a keyframe's picture, as it was told."""
        return self._pictures[frame_id][0]

    def stamp_ns(self, frame_id: int) -> int:
        """Return when a keyframe was taken."""
        return self._pictures[frame_id][1]

    def move(self, poses: Mapping[int, np.ndarray]) -> None:
        """Note ``T_world_camera`` (4, 4) of keyframes that a correction has moved."""
        known = {self._slots[i]: T for i, T in poses.items() if i in self._slots}
        if known:
            self._index.move(list(known), np.stack(list(known.values())))

    def note_depth(self, depth_map: DepthMap) -> None:
        """Learn from a keyframe's depth, in map units, how far away things are."""
        slot = self._slots.get(depth_map.frame_id)
        depth = depth_map.depth[::_DEPTH_STRIDE, ::_DEPTH_STRIDE]
        known = depth[np.isfinite(depth) & (depth > 0)]
        view = None if slot is None else self.view(depth_map.frame_id)
        if slot is None or view is None or not known.size:
            return
        self._scene_depth = float(np.median(known))
        self._index.set_views([slot], [replace(view, depth=self._scene_depth)])

    def credit(self, frame_id: int, matches: Iterable[tuple[int, float]]) -> None:
        """Note that keyframes matched frame ``frame_id``, each with a score over the nominal."""
        for keyframe_id, ratio in matches:
            slot = self._slots.get(keyframe_id)
            if slot is not None:
                self._related[keyframe_id] = max(ratio, self._related.get(keyframe_id, 0.0))
                self._judged_at = frame_id
                faded = self._worth[slot] * _fading(frame_id - self._seen[slot])
                self._worth[slot] = max(faded, min(ratio, 1.0))
                self._seen[slot] = frame_id

    def _judge(self) -> None:
        """Let what came of the latest recall count in the next: a keyframe without an edge, too.

        Only if any keyframe matched: where none did, it was the frame that was bad.
        """
        now, self._judged_at = self._judged_at, None
        if now is None:
            return
        judged = [i for i in self._related if i in self._slots]
        slots = np.array([self._slots[i] for i in judged], dtype=np.int64)
        says = np.array([min(self._related[i], 1.0) - _NEUTRAL_RATIO for i in judged])
        age = now - self._judged[slots]
        faded = self._merit[slots] * 0.5 ** (age / MERIT_HALF_LIFE_FRAMES)
        self._merit[slots] = faded + _MERIT_STEP * (says - faded)
        self._judged[slots] = now
        self._index.set_merits(slots, self._merit[slots], now)

    def _view_from(self, T_world_camera: np.ndarray | None) -> View | None:
        """Return the view from a pose, with lens and depth of the newest keyframe."""
        newest = next(reversed(self._slots), None)
        if T_world_camera is None or newest is None:
            return None
        view = self.view(newest)
        return None if view is None else replace(view, T_world_camera=T_world_camera)

    def _bonus(self, frame_ids: Iterable[int], bonus: float) -> dict[int, float]:
        """Return the same bonus for all of these that are keyframes, by slot."""
        return {self._slots[i]: bonus for i in frame_ids if i in self._slots}

    def _find(self, query: Query, k: int) -> list[int]:
        """Return the ids of the at most ``k`` best, best first."""
        found = self._index.retrieve(query, k)
        self._nearest = query.descriptor.copy(), found.best_similarity
        return [int(frame_id) for frame_id in self._frame_ids[found.slots]]

    def _note_look_alikes(
        self, frame_id: int, among: list[int], count: int = _LOOK_ALIKES
    ) -> None:
        """Note which of some keyframes look most like one, in both."""
        if not among:
            return
        slots = [self._slots[i] for i in among]
        likeness = self._descriptors[slots] @ self._descriptors[self._slots[frame_id]]
        for place in np.argsort(-likeness, kind='stable')[:count]:
            self._alike[frame_id][among[place]] = float(likeness[place])
            self._alike[among[place]][frame_id] = float(likeness[place])
        for changed in (frame_id, *among):
            self._likeness[self._slots[changed]] = max(
                self._alike[changed].values(), default=_LIKE_NO_OTHER
            )

    def _least_useful(self, now: int) -> int:
        """Return the keyframe to lose: faded and least distinct, but no anchor and no new one."""
        slots = np.fromiter(self._slots.values(), np.int64, len(self))
        slots = slots[1 : len(slots) - min(_PROTECTED_NEWEST, len(slots) - 2)]
        worth = self._worth[slots] * _fading(now - self._seen[slots])
        distinct = 1.0 - self._likeness[slots] + 1e-3
        usefulness = np.maximum(worth, _LEAST_WORTH) * distinct
        return int(self._frame_ids[slots[np.argmin(usefulness)]])


def _fading(age: np.ndarray) -> np.ndarray:
    """Return what a match so many frames ago is still worth."""
    faded: np.ndarray = 0.5 ** (age / _HALF_LIFE_FRAMES)
    return faded
