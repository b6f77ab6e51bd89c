"""The files of a live run: the same as of an offline run, so ``r3 eval`` can read them."""

from __future__ import annotations

from pathlib import Path
import shutil
from typing import Any

import numpy as np

from ...core.config import R3Config
from ...core.datatypes import TrackingState
from ...core.parameter_fields import flattened
from ...core.trajectory_file import write_tum
from ...offline.run_files import (
    FRAMES,
    machine,
    MAP,
    path_length,
    SAVED_MAP,
    summarise_frames,
    SUMMARY,
    TRAJECTORY,
    TRAJECTORY_FINAL,
    versions,
    write_frames,
    write_json,
)
from ...offline.stream_run import FrameRecord
from .live_run import LiveResult

#: State of StreamStatus -> tracking state.
_STATES = {
    3: TrackingState.INITIALIZING,
    4: TrackingState.TRACKING,
    5: TrackingState.LOW_CONFIDENCE,
    6: TrackingState.LOST,
    7: TrackingState.RECOVERING,
}


def records(result: LiveResult) -> list[FrameRecord]:
    """Return one record for each processed frame, ordered by time."""
    received = result.received
    rows = []
    for stamp_ns, status in sorted(received.statuses.items()):
        if stamp_ns not in result.sent_s or status.state not in _STATES:
            continue
        timings = {'wait': 1e3 * status.time_wait, 'publish': 1e3 * status.time_publish}
        if stamp_ns in received.arrival_s:
            timings['latency'] = 1e3 * (received.arrival_s[stamp_ns] - result.sent_s[stamp_ns])
        rows.append(
            FrameRecord(
                frame_id=int(status.frame_index),
                stamp_ns=stamp_ns,
                state=_STATES[status.state],
                reason=status.state_reason,
                has_pose=stamp_ns in received.T_map_base,
                is_keyframe=bool(status.is_keyframe),
                confidence_translation=status.confidence_translation,
                confidence_rotation=status.confidence_rotation,
                confidence_ratio=status.confidence_ratio,
                context_frames=int(status.frames_in_context),
                corrected_frames=0,
                read_ms=1e3 * status.time_preprocess,
                step_ms=1e3 * status.time_inference,
                timings_ms=timings,
            )
        )
    return rows


def write_live_run(
    folder: Path, result: LiveResult, rows: list[FrameRecord], config: R3Config, source: str
) -> dict[str, Any]:
    """Write trajectory, map, frames.csv and summary.json; return the summary.

    The node has already saved ``map/`` and ``trajectory_final.tum``.

    :raises OutputError: a file cannot be written.
    """
    poses = sorted(result.received.T_map_base.items())
    T = np.array([pose for _, pose in poses]).reshape(-1, 4, 4)
    finite = np.isfinite(T).all(axis=(1, 2))
    stamps_ns = np.array([stamp for stamp, _ in poses], dtype=np.int64)
    write_tum(folder / TRAJECTORY, stamps_ns[finite], T[finite])
    if not (folder / TRAJECTORY_FINAL).is_file():
        write_tum(folder / TRAJECTORY_FINAL, stamps_ns[:0], T[:0])
    if (folder / SAVED_MAP / 'points.ply').is_file():
        shutil.copyfile(folder / SAVED_MAP / 'points.ply', folder / MAP)
    write_frames(folder / FRAMES, rows)
    summary = _summary(result, rows, config, source) | {'path_length': path_length(T)}
    write_json(folder / SUMMARY, summary)
    return summary


def _summary(
    result: LiveResult, rows: list[FrameRecord], config: R3Config, source: str
) -> dict[str, Any]:
    status, of_frames = result.received.last_status, summarise_frames(rows)
    rejected = int(status.frames_rejected) if status else 0
    is_calibrated = bool(status and np.isfinite(status.fov_x_calibrated))
    span_s = of_frames['duration_s']
    return {
        'source': source,
        'complete': True,
        'live': True,
        'model': config.model.name,
        **of_frames,
        'frames': {
            'sent': len(result.sent_s),
            'received': int(status.frames_received) if status else 0,
            'dropped': int(status.frames_dropped) if status else 0,
            **of_frames['frames'],
            'rejected': {'by the node': rejected} if rejected else {},
        },
        'map_points': int(result.saved_map.points) if result.saved_map else 0,
        'fps': (len(rows) - 1) / span_s if span_s else 0.0,
        'camera': {
            'calibrated': is_calibrated,
            'focal_length_estimated': bool(status) and not is_calibrated,
        },
        'warnings': [],
        'versions': versions(),
        'machine': machine(),
        'config': flattened(config),
    }
