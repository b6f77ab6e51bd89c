"""The keyframe bank. Only its search takes longer the more keyframes there are."""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np

from ...core.config import KeyframeConfig, StreamConfig
from ...core.datatypes import DepthMap, Intrinsics
from .eviction import Eviction
from .retrieval import (
    EXCLUDED,
    MATCH_HALF_LIFE_FRAMES,
    Query,
    RetrievalIndex,
    RetrievalWeights,
)
from .view_overlap import CameraView, image_bounds, view_overlaps

#: The newest keyframes are never evicted: tracking depends on them.
_PROTECTED_NEWEST = 4
#: Smallest bank: the anchor, a keyframe that can be evicted, and the newest.
_FEWEST = 3
#: Share by which a match score moves towards the latest match.
_MATCH_STEP = 0.3
#: The neutral score of a match, over the nominal one.
_NEUTRAL_RATIO = 0.5
#: Every n-th pixel counts for the depth of a scene.
_DEPTH_STRIDE = 16


class KeyframeBank:
    """At most ``max_keyframes`` keyframes, each in a slot of the index.

    :param device: where descriptors are searched, ``cpu`` or ``cuda``.
    :raises ModelError: a GPU is configured, and CuPy cannot be used.
    """

    def __init__(self, config: KeyframeConfig, descriptor_size: int, device: str = 'cpu') -> None:
        capacity = config.max_keyframes
        self._index = RetrievalIndex(capacity, descriptor_size, device)
        self._eviction = Eviction(self._index.descriptors)
        self._slots: dict[int, int] = {}  # by frame id, oldest first
        self._by_segment: dict[int, list[int]] = {}  # frame ids, oldest first
        self._free = list(range(capacity - 1, -1, -1))
        self._frame_ids = np.zeros(capacity, np.int64)  # by slot
        # By slot; fades to neutral from frame `scored`.
        self._match_score, self._scored = np.zeros(capacity), np.zeros(capacity)
        # Slots that the latest frame was related to, with the score of each match.
        self._related: dict[int, float] = {}
        self._matched_at: int | None = None
        # The last descriptor searched for since the index changed, and its best similarity:
        # admission needs the same frame's again.
        self._nearest: tuple[np.ndarray, float] | None = None
        self._tokens: dict[int, np.ndarray] = {}
        self._images: dict[int, tuple[Intrinsics | None, int]] = {}
        # Of the newest keyframe with depth; in map units a scene is at about 1 in the beginning.
        self._scene_depth = 1.0

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, frame_id: object) -> bool:
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

    def nearest_in_time(self, frame_id: int, segment_id: int) -> int | None:
        """Return the keyframe of a segment nearest to a frame in time, other than itself."""
        ids = self._by_segment.get(segment_id, [])
        place = bisect.bisect_left(ids, frame_id)
        after = place + (place < len(ids) and ids[place] == frame_id)
        near = ids[max(place - 1, 0) : place] + ids[after : after + 1]
        return min(near, key=lambda other: abs(other - frame_id), default=None)

    def join_segments(self, younger: int, older: int) -> None:
        """Move the keyframes of one segment to another."""
        joined = [*self._by_segment.pop(younger, []), *self._by_segment.get(older, [])]
        self._by_segment[older] = sorted(joined)

    def most_similar(
        self, descriptor: np.ndarray, k: int, without: Collection[int] = ()
    ) -> list[int]:
        """Return the ids of the ``k`` keyframes most similar to a descriptor, best first."""
        if k == 0 or not self._slots:
            return []
        excluded = dict.fromkeys(self._slots_of(without), EXCLUDED)
        return self._ids(self._search(Query(descriptor, bonus=excluded), k))

    def recall(
        self,
        frame_id: int,
        descriptor: np.ndarray,
        T_world_camera: np.ndarray | None,
        config: StreamConfig,
        without: Collection[int] = (),
    ) -> list[int]:
        """Return the ids of the keyframes that a new frame is best related to, best first.

        :param T_world_camera: expected pose; None if unknown.
        :param without: frames that it is related to in any case.
        """
        self._update_match_scores()
        weights = RetrievalWeights(
            config.retrieval_similarity, config.retrieval_overlap, config.retrieval_confidence
        )
        view, excluded = self._view_from(T_world_camera), self._slots_of(without)
        # Those related to the last frame stay unless another is clearly better.
        bonus = dict.fromkeys(self._related, config.retrieval_hysteresis)
        bonus |= dict.fromkeys(excluded, EXCLUDED)
        query = Query(descriptor, weights, view, frame_id, bonus)
        found = self._search(query, config.retrieved_keyframes)
        self._related = dict.fromkeys((*excluded, *found), 0.0)
        return self._ids(found)

    def similarity(self, descriptor: np.ndarray) -> float:
        """Return the cosine of a descriptor with that of the most similar keyframe."""
        if self._nearest is None or not np.array_equal(self._nearest[0], descriptor):
            self._search(Query(descriptor), 0)
        assert self._nearest is not None
        return self._nearest[1]

    def overlap(self, T_world_camera: np.ndarray, keyframes: Iterable[int]) -> float | None:
        """Return the greatest overlap of the view from a pose with one of some keyframes.

        None if the camera's view is not known.
        """
        view = self._view_from(T_world_camera)
        if view is None:
            return None
        shared = view_overlaps(view.packed(), self._index.views(self._slots_of(keyframes)))
        return float(shared.max(initial=0.0))

    def token_similarity(self, pose_token: np.ndarray, keyframes: Iterable[int]) -> float:
        """Return the greatest cosine of a pose token with those of some keyframes; -1 without."""
        tokens = [self._tokens[i] for i in keyframes if i in self._tokens]
        return max((float(token @ pose_token) for token in tokens), default=-1.0)

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
        """Remember a keyframe and return the ids that were evicted for it.

        :param T_world_camera: its pose; without pose and intrinsics it has no view.
        :param room: keyframes that the predictor can hold, which may be fewer than
            ``max_keyframes``.
        :param related: frames that it was related to; its look-alikes are sought among them.
        """
        evicted = []
        while not self._free or (room is not None and len(self) >= max(room, _FEWEST)):
            worst = self._least_useful(frame_id)
            self.remove(worst)
            evicted.append(worst)
        slot = self._free.pop()
        view = None
        if T_world_camera is not None and intrinsics is not None:
            view = CameraView(T_world_camera, image_bounds(intrinsics), self._scene_depth)
        self._index.put(slot, descriptor, view)
        self._match_score[slot] = self._scored[slot] = 0.0
        self._nearest = None
        self._eviction.add(slot, frame_id, self._slots_of(related))
        self._slots[frame_id] = slot
        self._frame_ids[slot] = frame_id
        self._by_segment.setdefault(segment_id, []).append(frame_id)
        self._images[frame_id] = intrinsics, stamp_ns
        if pose_token is not None:
            self._tokens[frame_id] = pose_token.copy()
        return evicted

    def oldest(self, share: float) -> list[int]:
        """Return this share of the keyframes, oldest first; not the anchor, nor the newest."""
        ids = self.ids()
        return ids[1 : max(len(ids) - _PROTECTED_NEWEST, 1)][: int(share * len(ids))]

    def remove(self, frame_id: int) -> None:
        """Forget a keyframe."""
        slot = self._slots.pop(frame_id)
        self._index.remove(slot)
        self._related.pop(slot, None)
        self._nearest = None
        self._eviction.remove(slot)
        self._free.append(slot)
        self._tokens.pop(frame_id, None)
        del self._images[frame_id]
        for ids in self._by_segment.values():
            place = bisect.bisect_left(ids, frame_id)
            if ids[place : place + 1] == [frame_id]:
                del ids[place]

    def view(self, frame_id: int) -> CameraView | None:
        """Return the view of a keyframe, None if it has none."""
        return CameraView.unpacked(self._index.views([self._slots[frame_id]])[0])

    def descriptor(self, frame_id: int) -> np.ndarray:
        """Return the (D,) float32 descriptor of a keyframe."""
        return self._index.descriptors[self._slots[frame_id]].copy()

    def intrinsics(self, frame_id: int) -> Intrinsics | None:
        """Return the intrinsics of a keyframe's image."""
        return self._images[frame_id][0]

    def replace_intrinsics(self, before: Intrinsics, after: Intrinsics) -> list[int]:
        """Give all keyframes of one camera new intrinsics, and return their ids."""
        changed = [i for i, (intrinsics, _) in self._images.items() if intrinsics == before]
        for frame_id in changed:
            self._images[frame_id] = after, self.stamp_ns(frame_id)
        self._index.set_bounds(self._slots_of(changed), image_bounds(after))
        return changed

    def stamp_ns(self, frame_id: int) -> int:
        """Return the time of a keyframe's image."""
        return self._images[frame_id][1]

    def move(self, poses: Mapping[int, np.ndarray]) -> None:
        """Set ``T_world_camera`` (4, 4) of keyframes that a correction has moved."""
        known = {self._slots[i]: T for i, T in poses.items() if i in self._slots}
        if known:
            self._index.move(list(known), np.stack(list(known.values())))

    def note_depth(self, depth_map: DepthMap) -> None:
        """Set the depth of a keyframe's view from its depth map, in map units."""
        slot = self._slots.get(depth_map.frame_id)
        depth = depth_map.depth[::_DEPTH_STRIDE, ::_DEPTH_STRIDE]
        known = depth[np.isfinite(depth) & (depth > 0)]
        view = None if slot is None else self.view(depth_map.frame_id)
        if slot is None or view is None or not known.size:
            return
        self._scene_depth = float(np.median(known))
        self._index.set_view(slot, replace(view, depth=self._scene_depth))

    def credit(self, frame_id: int, matches: Iterable[tuple[int, float]]) -> None:
        """Report that keyframes matched frame ``frame_id``, each with a score over the nominal."""
        for keyframe_id, ratio in matches:
            slot = self._slots.get(keyframe_id)
            if slot is not None:
                self._related[slot] = max(ratio, self._related.get(slot, 0.0))
                self._matched_at = frame_id
                self._eviction.credit(slot, frame_id, ratio)

    def _view_from(self, T_world_camera: np.ndarray | None) -> CameraView | None:
        """Return the view from a pose, with lens and depth of the newest keyframe."""
        newest = next(reversed(self._slots), None)
        if T_world_camera is None or newest is None:
            return None
        view = self.view(newest)
        return None if view is None else replace(view, T_world_camera=T_world_camera)

    def _slots_of(self, frame_ids: Iterable[int]) -> list[int]:
        return [self._slots[i] for i in frame_ids if i in self._slots]

    def _search(self, query: Query, k: int) -> list[int]:
        """Return slots, best first."""
        found = self._index.retrieve(query, k)
        self._nearest = query.descriptor.copy(), found.best_similarity
        return found.slots.tolist()

    def _update_match_scores(self) -> None:
        """Update those of the keyframes related to the last frame; no edge counts as 0.

        Only if any keyframe matched: else it was the frame that was bad.
        """
        now, self._matched_at = self._matched_at, None
        if now is None:
            return
        slots = np.array(list(self._related), dtype=np.int64)
        latest = np.array([min(ratio, 1.0) - _NEUTRAL_RATIO for ratio in self._related.values()])
        age = now - self._scored[slots]
        faded = self._match_score[slots] * 0.5 ** (age / MATCH_HALF_LIFE_FRAMES)
        self._match_score[slots] = faded + _MATCH_STEP * (latest - faded)
        self._scored[slots] = now
        self._index.set_match_scores(slots, self._match_score[slots], now)

    def _ids(self, slots: list[int]) -> list[int]:
        return self._frame_ids[slots].tolist()

    def _least_useful(self, now: int) -> int:
        """Return the keyframe to evict; not the anchor, nor one of the newest."""
        slots = np.fromiter(self._slots.values(), np.int64, len(self))
        slots = slots[1 : len(slots) - min(_PROTECTED_NEWEST, len(slots) - 2)]
        return int(self._frame_ids[self._eviction.least_useful(slots, now)])
