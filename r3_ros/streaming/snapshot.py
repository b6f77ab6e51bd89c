"""What the thread that owns the engine leaves for all others to read after each turn."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.datatypes import DeviceMemory, ModelInfo
from ..core.predictor import Predictor
from .scale.estimator import ScaleView
from .session import Session


@dataclass(frozen=True)
class StreamSnapshot:
    """Numbers of a stream between two frames.

    :ivar frame_index: frames of this session so far, without those of a loaded map.
    :ivar map_points: kept points, those in a shared voxel counted each.
    :ivar evicted_points: dropped since there were too many.
    :ivar is_relocalising: the camera is still searched for in a loaded map.
    :ivar memory: of the device; None on a CPU.
    """

    session_id: int
    segment_id: int
    map_revision: int
    frame_index: int
    loops_closed: int
    keyframes: int
    map_points: int
    evicted_points: int
    is_relocalising: bool
    scale: ScaleView
    model: ModelInfo
    memory: DeviceMemory | None


def take_snapshot(session: Session, predictor: Predictor) -> StreamSnapshot:
    """Take a snapshot, in constant time. The engine's owner calls it."""
    return StreamSnapshot(
        session_id=session.session_id,
        segment_id=session.segment_id,
        map_revision=session.map_revision,
        frame_index=session.frame_count - session.first_frame,
        loops_closed=session.loops_closed,
        keyframes=len(session.bank),
        map_points=len(session.map),
        evicted_points=session.map.evicted,
        is_relocalising=session.relocalisation is not None,
        scale=session.scale.view(),
        model=predictor.info,
        memory=predictor.device_memory(),
    )
