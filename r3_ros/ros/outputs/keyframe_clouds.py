"""Selects keyframe clouds to publish again because their poses in map have changed.

``~/keyframe_points`` publishes each cloud once, for subscribers that collect them. After poses
were corrected, the map was moved or the scale has changed, each is published again with the stamp
of its keyframe, one at a time so that no frame waits for a whole map.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import time

import numpy as np

from ...core.geometry import scale_of
from ...maps.cloud import Cloud
from ...streaming.session import Session
from ..tf.pose_chain import PoseChain

#: Period of the check for moved clouds, and the time allowed to publish one.
_PERIOD_S = 1.0
#: The newest published clouds that are remembered.
_MOST_CLOUDS = 2000


@dataclass(frozen=True, eq=False)
class KeyframePlace:
    """Pose of a keyframe's cloud.

    :ivar S_map_own: (4, 4) similarity from its camera's frame and unit to map.
    """

    keyframe_id: int
    stamp_ns: int
    S_map_own: np.ndarray


class KeyframeClouds:
    """Remembers the published clouds. One owner thread, except :meth:`note`."""

    def __init__(self) -> None:
        #: Where each cloud was published, and the mean distance of its points from the camera,
        #: in the published unit.
        self._sent: dict[int, tuple[KeyframePlace, float]] = {}
        self._notes: deque[tuple[KeyframePlace, float]] = deque()
        #: Keyframes to publish again, the newest last; the one in the queue, and since when.
        self._waiting: list[int] = []
        self._pending: int | None = None
        self._offered_at_s = self._checked_at_s = -np.inf
        #: The state of the session in which no published cloud is outdated.
        self._up_to_date: object = None

    def note(self, place: KeyframePlace, points: np.ndarray) -> None:
        """Note that a cloud was published; any thread.

        :param points: (N, 3) in the camera's axes and the published unit.
        """
        reach = float(np.linalg.norm(points, axis=1).mean()) if len(points) else 0.0
        self._notes.append((place, reach))

    def forget(self) -> None:
        """Forget all clouds: a new session begins, or there are no subscribers."""
        self._notes.clear()
        self._sent.clear()
        self._waiting.clear()
        self._pending = self._up_to_date = None

    def next_again(self, session: Session, chain: PoseChain) -> tuple[KeyframePlace, Cloud] | None:
        """Return a cloud to publish again and its current pose; None if none is due.

        The cloud is in its camera's frame and unit, as the map stores it. Those of keyframes that
        were removed from the bank are not published again.
        """
        self._take_notes()
        now_s = time.monotonic()
        if self._pending is not None and now_s - self._offered_at_s < _PERIOD_S:
            return None
        state = (session.session_id, session.map_revision, chain.unit, chain.moves)
        outdated = not self._waiting and state != self._up_to_date
        if outdated and now_s - self._checked_at_s >= _PERIOD_S:
            # Clouds that were dropped from the queue are found again here.
            self._checked_at_s = now_s
            self._waiting = self._moved(session, chain)
            if not self._waiting:
                self._up_to_date = state
        while self._waiting:
            keyframe_id = self._waiting.pop()
            sent, pose = self._sent.get(keyframe_id), session.graph.in_world(keyframe_id)
            cloud = session.map.clouds([keyframe_id]).get(keyframe_id)
            if sent is None or pose is None or cloud is None:
                self._sent.pop(keyframe_id, None)
                continue
            self._pending, self._offered_at_s = keyframe_id, now_s
            S_map_own = chain.S_map_world @ pose.S_world_camera
            return KeyframePlace(keyframe_id, sent[0].stamp_ns, S_map_own), cloud
        return None

    def _take_notes(self) -> None:
        while self._notes:
            sent = self._notes.popleft()
            keyframe_id = sent[0].keyframe_id
            self._sent[keyframe_id] = sent
            if keyframe_id == self._pending:
                self._pending = None
        while len(self._sent) > _MOST_CLOUDS:
            del self._sent[min(self._sent)]

    def _moved(self, session: Session, chain: PoseChain) -> list[int]:
        """Return the keyframes whose points have moved by more than a voxel, oldest first."""
        known = session.graph.similarities
        for keyframe_id in [i for i in self._sent if i not in session.bank or i not in known]:
            del self._sent[keyframe_id]
        if not self._sent:
            return []
        ids = sorted(self._sent)
        S_now = chain.S_map_world @ np.stack([known[i] for i in ids])
        S_sent = np.stack([self._sent[i][0].S_map_own for i in ids])
        step = S_now - S_sent
        reach = np.array([self._sent[i][1] for i in ids]) / scale_of(S_sent)
        far = np.linalg.norm(step[:, :3, 3], axis=1)
        far += reach * np.linalg.norm(step[:, :3, :3], ord=2, axis=(1, 2))
        voxel = session.map.config.voxel_size * chain.unit
        return [i for i, distance in zip(ids, far, strict=True) if distance > voxel]
