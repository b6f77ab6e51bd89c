"""A new segment from the last frames of the old one, when that is too long or too weak."""

from __future__ import annotations

from dataclasses import dataclass, replace
import enum

import numpy as np

from ...frame_relations import Network, Replay, View
from .bridge import fuse_depth, fuse_pose
from .drought import DroughtDetector, match_scores, post_score
from .metres import Metres
from .options import FallbackOptions, StreamOptions
from .pose_rules import GreedyOptions, resolve_greedy
from .scale import chosen_scale, pose_scale, ransac_scale
from .segment import Segment

#: Least weight of a frame in the scale by poses.
_LEAST_WEIGHT = 1e-4


class Outcome(enum.Enum):
    """What came of an attempt."""

    ACCEPTED = 'accepted'
    NO_BETTER = 'no better'
    TOO_FEW_FRAMES = 'too few frames'


@dataclass(frozen=True)
class Attempt:
    """An attempt to begin a new segment.

    :ivar forced: by the length of the old one, not by a drought.
    :ivar length: of the old one.
    :ivar bridge: frames that the new one begins with, the first its reference.
    :ivar scale: of the new one, None if there is none.
    """

    frame: int
    forced: bool
    length: int
    bridge: tuple[int, ...]
    outcome: Outcome
    scale: float | None = None

    @property
    def reference(self) -> int | None:
        """Return the frame whose pose is kept."""
        return self.bridge[0] if self.bridge else None


class Fallback:
    """Watches a segment and replaces it."""

    def __init__(
        self,
        options: StreamOptions,
        fallback: FallbackOptions,
        network: Network,
        metres: Metres | None,
        random: np.random.Generator,
    ) -> None:
        """Begin to watch."""
        self._options = options
        self._fallback = fallback
        self._network = network
        self._metres = metres
        self._random = random
        self._drought = DroughtDetector(fallback)

    def after_frame(self, segment: Segment, frame: int) -> tuple[Segment, Attempt | None]:
        """Return the segment to go on with, and what was tried."""
        length = segment.length(frame)
        if length < self._fallback.min_segment_frames:
            return segment, None
        bridge = segment.frames[-self._fallback.bridge_frames :]
        drought = self._drought.update(segment.post_scores[frame], segment.usual_score(frame))
        if drought and len(bridge) < 2:
            self._drought.reset()
            drought = False
        limit = self._fallback.max_segment_frames
        too_long = not drought and 0 < limit <= length
        if not drought and not (too_long and len(segment.frames) >= 2):
            return segment, None
        self._drought.cool_down()
        usable = tuple(held for held in bridge if held in segment.remembered)
        attempt = Attempt(frame, too_long, length, usable, Outcome.ACCEPTED)
        if len(usable) < 2:
            _end_without_replay(segment, attempt, bridge[0])
            return segment, replace(attempt, outcome=Outcome.TOO_FEW_FRAMES)
        return self._tried(segment, attempt)

    def _tried(self, old: Segment, attempt: Attempt) -> tuple[Segment, Attempt]:
        bridge = attempt.bridge
        replay = self._network.replay(bridge, [old.remembered[f].picture for f in bridge])
        new = self._replayed(old, attempt, replay)
        if not attempt.forced and not _improves(old, new, bridge):
            old.last_fallback = attempt.frame
            old.begin_at(bridge[0])
            old.apply_policy()
            return old, replace(attempt, outcome=Outcome.NO_BETTER)
        new.scale = self._scale(old, new, bridge)
        _fuse(old, new, bridge)
        new.begin_at(bridge[0])
        new.apply_policy()
        self._network.take_over(new.frames)
        if self._metres is not None:
            self._metres.finish()
        return new, replace(attempt, scale=new.scale)

    def _replayed(self, old: Segment, attempt: Attempt, replay: Replay) -> Segment:
        """Return the segment that a replay makes, in the network's own units."""
        bridge, count = attempt.bridge, len(attempt.bridge)
        new = Segment(self._options.cache, self._options.bank, self._fallback.remembered_frames)
        new.last_fallback = attempt.frame
        exists = np.triu(np.ones((count, count), dtype=bool), k=1)
        poses = resolve_greedy(
            replay.rel,
            replay.logits_t,
            replay.logits_r,
            exists,
            GreedyOptions(topn=self._options.topn),
        )
        scores = match_scores(replay.logits_t, replay.logits_r)
        for j, frame in enumerate(bridge):
            score = post_score(scores[:j, j])
            new.hold(frame, poses[j], score)
            # That of the reference is the fixed high one, so its keyframe is never evicted: a
            # fault of theirs that is kept.
            new.scores[frame] = score
            new.remember(frame, old.remembered[frame].picture, replay.views[j])
            for i, source in enumerate(bridge[:j]):
                # Edges stay in the network's units even when the segment gets a scale: a fault
                # of theirs that is kept.
                new.edges.add(source, frame, replay.rel[i, j])
            reliability = score if j else 0.0
            new.bank.offer(frame, replay.features[j], reliability, None, old.scores)
        return new

    def _scale(self, old: Segment, new: Segment, bridge: tuple[int, ...]) -> float:
        """Return the scale of the new segment's units.

        The depths of the old segment lack its own scale, which is therefore lost: a fault of
        theirs that is kept.
        """
        if self._metres is not None:
            metres = self._metres.per_unit([new.remembered[frame] for frame in bridge])
            if metres is not None:
                return metres
        weights = [max(new.post_scores[frame], _LEAST_WEIGHT) for frame in bridge]
        by_pose = pose_scale(
            np.stack([old.poses[frame] for frame in bridge]),
            np.stack([new.poses[frame] for frame in bridge]),
            np.array(weights),
        )
        views = [new.remembered[frame].view for frame in bridge]
        by_depth = ransac_scale(
            [old.remembered[frame].view.depth for frame in bridge],
            [view.depth for view in views],
            [view.confidence for view in views],
            self._random,
        )
        return chosen_scale(by_pose, by_depth)


def _end_without_replay(segment: Segment, attempt: Attempt, reference: int) -> None:
    """Begin a segment with what is left of the bridge, if a limit of length must be kept."""
    segment.last_fallback = attempt.frame
    if attempt.forced:
        segment.retain([reference, *attempt.bridge])
        segment.begin_at(reference)


def _improves(old: Segment, new: Segment, bridge: tuple[int, ...]) -> bool:
    """Compare scores; that of the new reference makes the first test all but certain."""
    olds = [old.post_scores[frame] for frame in bridge]
    news = [new.post_scores[frame] for frame in bridge]
    return bool(np.mean(news) >= np.mean(olds) and news[-1] >= olds[-1])


def _fuse(old: Segment, new: Segment, bridge: tuple[int, ...]) -> None:
    """Bring the new segment to the world of the old one, and make one of both where they meet."""
    reference = bridge[0]
    origin = old.poses[reference]
    fused = {}
    for frame in bridge:
        edges = _edge(old, reference, frame), _edge(new, reference, frame)
        scores = old.post_scores[frame], new.post_scores[frame]
        fused[frame] = fuse_pose(origin, *edges, *scores, new.scale)
        was, now = old.remembered[frame].view, new.remembered[frame].view
        depth = fuse_depth(was.depth, now.depth, was.confidence, now.confidence, new.scale)
        new.remember(frame, old.remembered[frame].picture, View(*depth))
    new.poses = fused


def _edge(segment: Segment, reference: int, frame: int) -> np.ndarray:
    """Return what a segment says of a frame it holds and an earlier one or itself."""
    if frame == reference:
        return np.concatenate([np.zeros(6), [1.0], segment.poses[frame][7:]])
    return segment.edges.between(reference, frame)
