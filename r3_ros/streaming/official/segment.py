"""What lasts from frame to frame, all of which a fallback replaces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...frame_relations import Picture, View
from .bank import Bank
from .bridge import scaled
from .options import BankOptions, CacheMode, CacheOptions, WARMUP_FRAMES

#: Score of a frame that was compared with nothing.
UNCOMPARED = 100.0


@dataclass(frozen=True)
class Remembered:
    """A frame that can be run again."""

    picture: Picture
    view: View


class EdgeLog:
    """Edges among held frames, and how many theirs would hold, which forgets none."""

    def __init__(self) -> None:
        """Begin empty."""
        self._edges: dict[tuple[int, int], np.ndarray] = {}
        self.count = 0

    def add(self, source: int, target: int, edge: np.ndarray) -> None:
        """Remember an edge."""
        self._edges[source, target] = edge
        self.count += 1

    def between(self, source: int, target: int) -> np.ndarray:
        """Return the edge of two held frames, which exists if the source is the older one."""
        return self._edges[source, target]

    def retain(self, frames: Iterable[int]) -> None:
        """Forget edges that touch other frames."""
        held = set(frames)
        self._edges = {pair: edge for pair, edge in self._edges.items() if held.issuperset(pair)}

    def drop(self, frame: int) -> None:
        """Undo the edges of a frame."""
        before = len(self._edges)
        self._edges = {pair: edge for pair, edge in self._edges.items() if frame not in pair}
        self.count -= before - len(self._edges)

    def scale(self, factor: float) -> None:
        """Change the units of all edges."""
        self._edges = {pair: scaled(edge, factor) for pair, edge in self._edges.items()}


class Segment:
    """The frames that new ones are compared with, and what is known of them."""

    def __init__(self, cache: CacheOptions, bank: BankOptions, remembered_frames: int) -> None:
        """Begin empty.

        :param remembered_frames: newest frames that could be run again.
        """
        self._cache = cache
        self._capacity = remembered_frames
        self.frames: list[int] = []
        self.anchors: list[int] = []
        self.bank_frames: list[int] = []
        self.bank = Bank(bank)
        self.edges = EdgeLog()
        self.poses: dict[int, np.ndarray] = {}
        self.post_scores: dict[int, float] = {}
        self.scores: dict[int, float] = {}
        self.remembered: dict[int, Remembered] = {}
        self.scale = 1.0
        self.last_fallback = -1

    def hold(self, frame: int, pose: np.ndarray, post_score: float) -> None:
        """Hold a frame."""
        self.frames.append(frame)
        self.poses[frame] = pose
        self.post_scores[frame] = post_score

    def remember(self, frame: int, picture: Picture, view: View) -> None:
        """Keep what it takes to run a frame again, in place of the oldest."""
        while frame not in self.remembered and len(self.remembered) >= self._capacity:
            del self.remembered[next(iter(self.remembered))]
        self.remembered[frame] = Remembered(picture, view)

    def count_match(self, frame: int, score: float) -> None:
        """Take note of how well a held frame matched a new one."""
        self.scores[frame] = max(self.scores.get(frame, 0.0), score)

    def retain(self, frames: Sequence[int]) -> None:
        """Let go of all other frames."""
        kept = set(frames)
        self.frames = [frame for frame in self.frames if frame in kept]
        self.anchors = [frame for frame in self.anchors if frame in kept]
        self.bank_frames = [frame for frame in self.bank_frames if frame in kept]
        self.poses = {frame: self.poses[frame] for frame in self.frames}
        self.post_scores = {frame: self.post_scores[frame] for frame in self.frames}
        self.scores = {frame: s for frame, s in self.scores.items() if frame in kept}
        self.edges.retain(kept)

    def refuse(self, frame: int) -> None:
        """Undo that a frame was held; as a keyframe it stays, a fault of theirs that is kept."""
        self.edges.drop(frame)
        self.retain([held for held in self.frames if held != frame])

    def apply_policy(self) -> None:
        """Let go of frames that the cache has no room for, before the newest is a keyframe."""
        if self._cache.mode is CacheMode.ALL:
            return
        self._seed_anchors()
        own = self.frames[self.frames.index(self.anchors[0]) :]
        protected = set(self.anchors[: self._cache.first_frames]) | set(self.bank.frames)
        self.bank_frames = [frame for frame in own if frame in protected]
        recent = self.frames[-max(self._cache.recent_frames, 1) :]
        self.retain([*self.bank_frames, *recent])

    def begin_at(self, anchor: int) -> None:
        """Let a held frame be the first of the segment."""
        if self._cache.mode is CacheMode.DYNAMIC:
            self.anchors = [anchor]
            self._seed_anchors()

    def rescale(self, factor: float) -> None:
        """Change the units of everything held."""
        self.scale *= factor
        self.poses = {frame: scaled(pose, factor) for frame, pose in self.poses.items()}
        self.edges.scale(factor)

    def usual_score(self, newest: int) -> float:
        """Return the mean score of the first frames that are still held, 0 if there is none."""
        start = self.last_fallback + 1
        own = sorted({frame for frame in self.frames if frame >= start} | {newest})
        if start == 0 and own[0] == 0:
            own = own[1:]
        scores = [self.post_scores[frame] for frame in own[:WARMUP_FRAMES]]
        return float(np.mean(scores)) if scores else 0.0

    def length(self, frame: int) -> int:
        """Return the number of frames since the segment began."""
        return frame - self.last_fallback

    def _seed_anchors(self) -> None:
        """Fill up the first frames of the segment from those held."""
        wanted = max(self._cache.first_frames, 1)
        begin = self.frames.index(self.anchors[0]) if self.anchors else 0
        others = [frame for frame in self.frames[begin:] if frame not in self.anchors]
        self.anchors = [*self.anchors, *others][:wanted]
