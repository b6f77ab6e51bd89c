"""Which remembered frames a new one is related to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.config import StreamConfig
from ..core.datatypes import Frame
from ..core.geometry import inverse
from .segments import segment_context
from .session import Session


@dataclass(frozen=True, eq=False)
class DescribedFrame:
    """A frame and what is known of it before prediction.

    :ivar fault: what is wrong with the image; empty if nothing.
    :ivar descriptor: (D,) float32, for retrieval.
    :ivar after_gap: more than ``input.max_time_gap`` has passed since the last frame.
    """

    frame: Frame
    fault: str
    descriptor: np.ndarray
    after_gap: bool


@dataclass(frozen=True)
class FrameContext:
    """The frames that a frame is related to, oldest first; ``with_depth``: its depth is needed."""

    ids: tuple[int, ...]
    with_depth: bool


def retrieve_context(session: Session, stream: StreamConfig, seen: DescribedFrame) -> list[int]:
    """Return the ids of the frames to relate the next one to, oldest first."""
    bank, descriptor = session.bank, seen.descriptor
    if session.gate.lost or seen.after_gap:
        # The last pose is no guide: search everywhere, but keep the last frames, which the
        # camera may see again after a short loss.
        count = stream.recent_keyframes + stream.retrieved_keyframes
        search = session.relocalisation
        without = set() if search is None else search.out_of_reach(session.graph.held)
        alike = bank.most_similar(descriptor, count, without)
        return sorted({*session.recent, *alike})
    if session.segment_id:
        return segment_context(session, descriptor, stream)
    anchor = bank.in_segment(0)[:1]
    context = {*session.recent, *anchor, *bank.newest(stream.recent_keyframes, 0)}
    # Excluded, since the newest keyframes look most like the frame.
    expected = expected_pose(session)
    alike = bank.recall(session.frame_count, descriptor, expected, stream, context)
    return sorted({*context, *alike})


def expected_pose(session: Session) -> np.ndarray | None:
    """Return the next frame's pose if the camera continues its last motion.

    None if the last pose in the world is not known.
    """
    if not session.recent or session.segment_id:
        return None
    held, last = session.graph.held, session.recent[-1]
    T_world_last = held[last].T_world_camera
    before = last - 1
    if before not in session.recent or last != session.frame_count - 1:
        return T_world_last
    T_before_last = inverse(held[before].T_world_camera) @ T_world_last
    return T_world_last @ T_before_last
