"""The files of a live run: the same as those of a recorded one, so reports are made alike."""

from __future__ import annotations

from pathlib import Path
import shutil
from typing import Any

import numpy as np

from ..config import flattened, R3Config
from ..datatypes import TrackingState
from ..offline import FrameRecord
from ..run_files import (
    FRAMES,
    machine,
    MAP,
    SUMMARY,
    TRAJECTORY,
    TRAJECTORY_FINAL,
    versions,
    write_frames,
    write_json,
)
from ..trajectory_file import NANOSECONDS, stamp_text, write_tum
from .live_run import LiveResult

#: Numbers of StreamStatus -> names of states.
_STATES = {
    3: TrackingState.INITIALIZING,
    4: TrackingState.TRACKING,
    5: TrackingState.LOW_CONFIDENCE,
    6: TrackingState.LOST,
    7: TrackingState.RECOVERING,
}


def records(result: LiveResult) -> list[FrameRecord]:
    """Return one record for each processed frame, in order of time."""
    heard = result.heard
    rows = []
    for stamp_ns, status in sorted(heard.statuses.items()):
        if stamp_ns not in result.sent_s or status.state not in _STATES:
            continue
        timings = {
            'wait': 1e3 * status.time_wait,
            'preprocess': 1e3 * status.time_preprocess,
            'publish': 1e3 * status.time_publish,
        }
        if stamp_ns in heard.arrival_s:
            timings['latency'] = 1e3 * (heard.arrival_s[stamp_ns] - result.sent_s[stamp_ns])
        rows.append(
            FrameRecord(
                frame_id=int(status.frame_index),
                stamp_ns=stamp_ns,
                state=_STATES[status.state],
                reason=status.state_reason,
                has_pose=stamp_ns in heard.T_map_base,
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


def tracked_share(rows: list[FrameRecord]) -> float:
    """Return the share of the processed frames with a pose that follows from the pictures.

    Frames before the first tracked one count as not tracked.
    """
    return sum(row.tracked for row in rows) / len(rows) if rows else 0.0


def write_live_run(
    folder: Path, result: LiveResult, rows: list[FrameRecord], config: R3Config, source: str
) -> dict[str, Any]:
    """Write trajectory, map, frames.csv and summary.json; return the summary.

    The node has saved ``map/`` and ``trajectory_final.tum`` already.

    :raises OutputError: a file cannot be written.
    """
    poses = sorted(result.heard.T_map_base.items())
    T = np.array([pose for _, pose in poses]).reshape(-1, 4, 4)
    finite = np.isfinite(T).all(axis=(1, 2))
    stamps_ns = np.array([stamp for stamp, _ in poses], dtype=np.int64)
    write_tum(folder / TRAJECTORY, stamps_ns[finite], T[finite])
    if not (folder / TRAJECTORY_FINAL).is_file():
        write_tum(folder / TRAJECTORY_FINAL, stamps_ns[:0], T[:0])
    if (folder / 'map' / 'points.ply').is_file():
        shutil.copyfile(folder / 'map' / 'points.ply', folder / MAP)
    write_frames(folder / FRAMES, rows)
    summary = _summary(result, rows, config, source)
    write_json(folder / SUMMARY, summary)
    return summary


def _summary(
    result: LiveResult, rows: list[FrameRecord], config: R3Config, source: str
) -> dict[str, Any]:
    status = result.heard.last_status
    latency = [row.timings_ms['latency'] for row in rows if 'latency' in row.timings_ms]
    centres = [T[:3, 3] for _, T in sorted(result.heard.T_map_base.items())]
    by_state: dict[str, int] = {}
    for row in rows:
        by_state[row.state.value] = by_state.get(row.state.value, 0) + 1
    span_s = (rows[-1].stamp_ns - rows[0].stamp_ns) / NANOSECONDS if len(rows) > 1 else 0.0
    return {
        'source': source,
        'complete': True,
        'live': True,
        'model': config.model.name,
        'frames': {
            'sent': len(result.sent_s),
            'received': int(status.frames_received) if status else 0,
            'processed': len(rows),
            'dropped': int(status.frames_dropped) if status else 0,
            'with_pose': sum(row.has_pose for row in rows),
            'tracked': sum(row.tracked for row in rows),
            'rejected': {'by the node': int(status.frames_rejected)}
            if status and status.frames_rejected
            else {},
            'by_state': by_state,
        },
        'tracked_share': tracked_share(rows),
        'keyframes': sum(row.is_keyframe for row in rows),
        'map_points': int(result.saved_map.points) if result.saved_map else 0,
        'path_length': float(np.linalg.norm(np.diff(centres, axis=0), axis=1).sum())
        if len(centres) > 1
        else 0.0,
        'duration_s': span_s,
        'fps': (len(rows) - 1) / span_s if span_s else 0.0,
        'camera': {
            'calibrated': bool(status and np.isfinite(status.fov_x_calibrated)),
            'focal_length_estimated': bool(status and not np.isfinite(status.fov_x_calibrated)),
        },
        'latency_ms': _figures(latency),
        'timing_ms': {
            'inference': _figures([row.step_ms for row in rows]),
            **{
                stage: _figures([row.timings_ms[stage] for row in rows if stage in row.timings_ms])
                for stage in ('wait', 'preprocess', 'publish', 'latency')
            },
        }
        if rows
        else {},
        'state_changes': [
            {
                'frame': row.frame_id,
                'stamp': stamp_text(row.stamp_ns),
                'state': row.state.value,
                'reason': row.reason,
            }
            for before, row in zip([None, *rows], rows, strict=False)
            if before is None or before.state is not row.state
        ],
        'warnings': [],
        'versions': versions(),
        'machine': machine(),
        'config': flattened(config),
    }


def _figures(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        'mean': float(np.mean(values)),
        'median': float(np.median(values)),
        'p95': float(np.percentile(values, 95)),
        'max': float(np.max(values)),
    }
