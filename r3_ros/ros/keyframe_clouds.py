"""Which clouds of keyframes to send again: those that lie elsewhere in map than they were sent.

``~/keyframe_points`` sends each cloud once, for those who collect them. When poses are corrected,
the map is moved or its unit has another length, what they have is wrong. Each cloud is sent again
then, under the stamp of its keyframe and one at a time: no frame waits for a whole map.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import time
from typing import TYPE_CHECKING

import numpy as np

from ..maps.cloud import Cloud
from ..streaming.similarity import scale_of

if TYPE_CHECKING:
    from ..streaming.session import Session
    from .poses import PoseChain

#: How often to look what has moved, and for how long a cloud may be on its way out.
_PERIOD_S = 1.0
#: Of so many clouds, the newest, it is known where they were sent.
_MOST_CLOUDS = 2000


@dataclass(frozen=True, eq=False)
class KeyframePlace:
    """Where the cloud of a keyframe lies.

    :ivar S_map_own: (4, 4) similarity from its camera's frame, in its own unit, to map.
    """

    keyframe_id: int
    stamp_ns: int
    S_map_own: np.ndarray


@dataclass(frozen=True, eq=False)
class SentCloud:
    """A cloud that was sent.

    :ivar reach: mean distance of its points from the camera, in the unit of map.
    """

    place: KeyframePlace
    reach: float

    @classmethod
    def of(cls, place: KeyframePlace, points: np.ndarray) -> SentCloud:
        """Note what was sent: (N, 3) points in axes of the camera and the unit of map."""
        return cls(place, float(np.linalg.norm(points, axis=1).mean()) if len(points) else 0.0)


class KeyframeClouds:
    """Remembers where clouds were sent. One owner thread, but for :meth:`note`."""

    def __init__(self) -> None:
        """Start with nothing sent."""
        self._sent: dict[int, SentCloud] = {}
        self._notes: deque[SentCloud] = deque()
        #: Those to be sent again, the newest last; the one that is on its way, and since when.
        self._waiting: list[int] = []
        self._on_its_way: int | None = None
        self._offered_at_s = self._looked_at_s = -np.inf
        #: The state of the session in which every cloud lies where it was sent.
        self._settled: object = None

    def note(self, sent: SentCloud) -> None:
        """Take down that a cloud was sent; any thread."""
        self._notes.append(sent)

    def forget(self) -> None:
        """Start with nothing sent: a new session, or nobody listens any more."""
        self._notes.clear()
        self._sent.clear()
        self._waiting.clear()
        self._on_its_way = self._settled = None

    def next_again(self, session: Session, chain: PoseChain) -> tuple[KeyframePlace, Cloud] | None:
        """Return a cloud to be sent again and where it lies now; None if none is due.

        The cloud is in its camera's frame and its own unit, as the map holds it: those of
        keyframes that have left the bank are part of the map's points alone.
        """
        self._take_notes()
        now_s = time.monotonic()
        if self._on_its_way is not None and now_s - self._offered_at_s < _PERIOD_S:
            return None
        state = (session.session_id, session.map_revision, chain.unit, chain.moves)
        look = not self._waiting and state != self._settled
        if look and now_s - self._looked_at_s >= _PERIOD_S:
            # What was dropped on its way is found again here.
            self._looked_at_s = now_s
            self._waiting = self._moved(session, chain)
            if not self._waiting:
                self._settled = state
        while self._waiting:
            keyframe_id = self._waiting.pop()
            sent, pose = self._sent.get(keyframe_id), session.graph.in_world(keyframe_id)
            cloud = session.map.clouds([keyframe_id]).get(keyframe_id)
            if sent is None or pose is None or cloud is None:
                self._sent.pop(keyframe_id, None)
                continue
            self._on_its_way, self._offered_at_s = keyframe_id, now_s
            S_map_own = chain.S_map_world @ pose.S_world_camera
            return KeyframePlace(keyframe_id, sent.place.stamp_ns, S_map_own), cloud
        return None

    def _take_notes(self) -> None:
        while self._notes:
            sent = self._notes.popleft()
            self._sent.pop(sent.place.keyframe_id, None)
            self._sent[sent.place.keyframe_id] = sent
            if sent.place.keyframe_id == self._on_its_way:
                self._on_its_way = None
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
        S_sent = np.stack([self._sent[i].place.S_map_own for i in ids])
        step = S_now - S_sent
        reach = np.array([self._sent[i].reach for i in ids]) / scale_of(S_sent)
        far = np.linalg.norm(step[:, :3, 3], axis=1)
        far += reach * np.linalg.norm(step[:, :3, :3], ord=2, axis=(1, 2))
        voxel = session.map.config.voxel_size * chain.unit
        return [i for i, distance in zip(ids, far, strict=True) if distance > voxel]
