"""The authors' streaming loop, frame by frame, around any network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import ConfigError
from ...frame_relations import MetricNetwork, Network, Picture, Relations
from .bridge import scaled
from .drought import match_scores, post_score
from .fallback import Attempt, Fallback
from .metres import Metres
from .options import CacheMode, StreamOptions
from .pose_rules import resolve_online
from .segment import Remembered, Segment


@dataclass(frozen=True)
class Step:
    """What the loop gives out for a frame.

    :ivar pose: (9,), world-to-camera; ``depth``: (H, W).
    :ivar refused: the frame is not held; their batch entry point gives nothing out for it.
    :ivar attempt: to begin a new segment, None if there was none.
    """

    frame: int
    pose: np.ndarray
    depth: np.ndarray
    confidence: np.ndarray
    post_score: float
    refused: bool
    attempt: Attempt | None


class Loop:
    """Their loop and all that it remembers."""

    def __init__(
        self,
        network: Network,
        options: StreamOptions,
        metric: MetricNetwork | None = None,
        seed: int = 0,
    ) -> None:
        """Begin a stream.

        :param metric: needed if the options ask for metres.
        :param seed: of the random draws in the scale between segments.
        :raises ConfigError: metres are asked for and there is no metric network.
        """
        self._network = network
        self._options = options
        self._metres: Metres | None = None
        if options.metric is not None:
            if metric is None:
                raise ConfigError('these options need a metric network: give one, or no metric')
            self._metres = Metres(metric, options.metric)
        self._fallback: Fallback | None = None
        remembered_frames = 0
        if options.fallback is not None:
            random = np.random.default_rng(seed)
            self._fallback = Fallback(options, options.fallback, network, self._metres, random)
            remembered_frames = options.fallback.remembered_frames
        self.segment = Segment(options.cache, options.bank, remembered_frames)
        self._next = 0

    def step(self, picture: Picture) -> Step:
        """Take the next picture."""
        frame, segment, memory = self._next, self.segment, list(self.segment.frames)
        said = self._network.relate(frame, picture, memory)
        # Not before: a picture that cannot be used has no number.
        self._next += 1
        scores = match_scores(said.logits_t, said.logits_r)
        for held, score in zip(memory, scores, strict=True):
            segment.count_match(held, float(score))
        score = post_score(scores)
        segment.hold(frame, self._pose(memory, said), score)
        segment.apply_policy()
        seen = Remembered(picture, said.view)
        if self._metres is not None:
            self._metres.after_frame(segment, frame, seen)
        # The pose given out is that of before a new segment corrects it.
        pose = segment.poses[frame]
        self._offer(frame, said, score, bool(memory))
        attempt = None
        if self._fallback is not None:
            segment.remember(frame, picture, said.view)
            self.segment, attempt = self._fallback.after_frame(segment, frame)
        refused = self._gate(frame)
        self._network.keep(self.segment.frames)
        return Step(
            frame=frame,
            pose=pose,
            # By the scale of the next segment if one just began: a fault of theirs that is kept.
            depth=said.view.depth * self.segment.scale,
            confidence=said.view.confidence,
            post_score=score,
            refused=refused,
            attempt=attempt,
        )

    def _pose(self, memory: list[int], said: Relations) -> np.ndarray:
        if not memory:
            return np.concatenate([np.zeros(6), [1.0], said.fov])
        rel = scaled(said.rel, self.segment.scale)
        if self._fallback is not None:
            for held, edge in zip(memory, rel, strict=True):
                self.segment.edges.add(held, self._next - 1, edge)
        return resolve_online(
            rel,
            np.stack([self.segment.poses[held] for held in memory]),
            said.logits_t,
            said.logits_r,
            np.ones(len(memory), dtype=bool),
            self._options.topn,
        )

    def _offer(self, frame: int, said: Relations, score: float, compared: bool) -> None:
        dynamic = self._options.cache.mode is CacheMode.DYNAMIC
        if not dynamic and self._fallback is None:
            return
        segment = self.segment
        reliability = score if compared else 0.0
        usual = segment.usual_score(frame)
        segment.bank.offer(frame, said.feature, reliability, usual, segment.scores)

    def _gate(self, frame: int) -> bool:
        """Refuse a frame whose score is low for the segment, and say so.

        The score is a mean over all held frames, so it falls as the camera travels, and faster
        when no frame is held any more: a fault of theirs that is kept.
        """
        segment = self.segment
        if self._options.cache.mode is CacheMode.DYNAMIC or frame == 0:
            return False
        if segment.post_scores[frame] >= self._least_score(frame):
            return False
        segment.refuse(frame)
        return True

    def _least_score(self, frame: int) -> float:
        gate, segment = self._options.gate, self.segment
        start = segment.last_fallback + 1
        end = start + gate.warmup_frames
        if gate.percent <= 0 or frame < end:
            return gate.threshold
        first = [held for held in segment.frames if start <= held < end]
        if first and first[0] == start:
            first = first[1:]
        usual = np.mean([segment.post_scores[held] for held in first]) if first else 0.0
        return max(gate.threshold, float(usual) * gate.percent / 100)
