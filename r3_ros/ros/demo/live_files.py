"""The files of a live run: the same as of an offline run, so ``r3 eval`` can read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import math
from pathlib import Path
import shutil
from typing import Any

import numpy as np

from ...core.config import R3Config
from ...core.datatypes import TrackingState
from ...core.geometry import inverse
from ...core.parameter_fields import flattened
from ...core.trajectory_file import NANOSECONDS, write_tum
from ...input.source import RawFrame
from ...offline import run_files as files
from ...offline.frame_record import FrameRecord
from ...offline.run_events import EventLog
from ...streaming.pose_resolution import UNKNOWN_VARIANCE
from ..outputs.health import StreamState
from .live_run import LiveResult


def write_live_run(
    folder: Path,
    result: LiveResult,
    config: R3Config,
    source: str,
    images: Iterable[RawFrame],
) -> dict[str, Any]:
    """Write everything but the report; return the content of ``summary.json``.

    The node has already saved ``map/`` and ``trajectory_final.tum``.

    :param images: that were sent, for those of the events.
    :raises OutputError: a file cannot be written.
    """
    records, events = list(_records(result, config)), EventLog()
    by_stamp = {record.stamp_ns: record for record in records}
    poses = {
        stamp_ns: T
        for stamp_ns, T in result.T_map_base.items()
        # The status of the last frame comes after its pose, and may have been missed. While
        # starting, the position is unknown.
        if stamp_ns in by_stamp
        and np.isfinite(T).all()
        and not _without_position(result.map_covariance[stamp_ns])
    }
    stamps_ns = np.array(sorted(poses), dtype=np.int64)
    T_map_base = np.array([poses[stamp_ns] for stamp_ns in sorted(poses)]).reshape(-1, 4, 4)
    write_tum(folder / files.TRAJECTORY, stamps_ns, T_map_base)
    if not (folder / files.TRAJECTORY_FINAL).is_file():
        write_tum(folder / files.TRAJECTORY_FINAL, stamps_ns[:0], T_map_base[:0])
    if (folder / files.SAVED_MAP / 'points.ply').is_file():
        shutil.copyfile(folder / files.SAVED_MAP / 'points.ply', folder / files.MAP)
    for sent in images:
        if sent.stamp_ns in by_stamp:
            events.note(by_stamp[sent.stamp_ns], sent.image)
    files.write_records(folder, records, events, result.depth_samples, unit=1.0)
    status, of_frames = result.last_status, files.summarise_frames(records, events)
    rejected = int(status.frames_rejected) if status else 0
    is_calibrated = bool(status and np.isfinite(status.fov_x_calibrated))
    span_s = of_frames['duration_s']
    summary = {
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
        'path_length': files.path_length(T_map_base),
        'fps': (len(records) - 1) / span_s if span_s else 0.0,
        'camera': {
            'calibrated': is_calibrated,
            'focal_length_estimated': bool(status) and not is_calibrated,
        },
        'warnings': [],
        'versions': files.versions(),
        'machine': files.machine(),
        'config': flattened(config),
    }
    files.write_json(folder / files.SUMMARY, summary)
    return summary


def _records(result: LiveResult, config: R3Config) -> Iterator[FrameRecord]:
    """Yield the record of each processed frame, ordered by time; the base is the camera."""
    before_ns: int | None = None
    for stamp_ns, status in sorted(result.statuses.items()):
        state = StreamState(status.state).name
        if stamp_ns not in result.sent_s or state not in TrackingState.__members__:
            continue
        is_metric = status.scale_source != status.SCALE_NONE
        factor = 1.0 if is_metric else config.covariance.unscaled_factor
        timings = {'wait': 1e3 * status.time_wait, 'publish': 1e3 * status.time_publish}
        if stamp_ns in result.arrival_s:
            timings['latency'] = 1e3 * (result.arrival_s[stamp_ns] - result.sent_s[stamp_ns])
        yield FrameRecord(
            frame_id=int(status.frame_index),
            stamp_ns=stamp_ns,
            state=TrackingState[state],
            reason=status.state_reason,
            has_pose=stamp_ns in result.T_map_base,
            resident_mib=result.resident_mib.get(stamp_ns, math.nan),
            segment_id=int(status.segment_id),
            is_keyframe=bool(status.is_keyframe),
            confidence_translation=status.confidence_translation,
            confidence_rotation=status.confidence_rotation,
            confidence_ratio=status.confidence_ratio,
            context_frames=int(status.frames_in_context),
            read_ms=1e3 * status.time_preprocess,
            step_ms=1e3 * status.time_inference,
            timings_ms=timings,
            **_errors(result, stamp_ns, before_ns, factor),
        )
        if stamp_ns in result.T_odom_base:
            before_ns = stamp_ns


def _errors(
    result: LiveResult, stamp_ns: int, before_ns: int | None, factor: float
) -> dict[str, Any]:
    """Return the covariances of a frame as in :class:`Estimate`; empty if it has no pose.

    :param before_ns: the last frame with a pose.
    :param factor: by which the node increases the covariance of translations.
    """
    if stamp_ns not in result.map_covariance:
        return {}
    to_camera = np.kron(np.eye(2), result.T_map_base[stamp_ns][:3, :3].T)
    covariance = to_camera @ result.map_covariance[stamp_ns] @ to_camera.T
    found: dict[str, Any] = {'covariance': _without_factor(covariance, factor)}
    if before_ns is not None and stamp_ns in result.T_odom_base:
        T_odom_base = result.T_odom_base
        found['T_previous_camera'] = inverse(T_odom_base[before_ns]) @ T_odom_base[stamp_ns]
        of_twist = result.twist_covariance[stamp_ns]
        if of_twist.diagonal().max() < UNKNOWN_VARIANCE:
            elapsed_s = (stamp_ns - before_ns) / NANOSECONDS
            found['step_covariance'] = _without_factor(of_twist * elapsed_s**2, factor)
    return found


def _without_position(covariance: np.ndarray) -> bool:
    return bool(covariance[:3, :3].diagonal().max() >= UNKNOWN_VARIANCE)


def _without_factor(covariance: np.ndarray, factor: float) -> np.ndarray:
    if _without_position(covariance):
        return covariance
    scale = np.repeat([1.0 / math.sqrt(factor), 1.0], 3)
    return covariance * np.outer(scale, scale)
