"""The files of a run: trajectories, map, summary, per-frame table, depth of keyframes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
import csv
from dataclasses import asdict, dataclass, fields
import io
import json
import math
import os
from pathlib import Path
import platform
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np

from .. import __version__
from ..core.atomic_files import atomic_write
from ..core.config import R3Config
from ..core.datatypes import DepthMap, TrackingState
from ..core.errors import SourceError
from ..core.geometry import make_T, R_BODY_OPTICAL
from ..core.parameter_fields import flattened
from ..core.trajectory_file import NANOSECONDS, stamp_text, write_tum
from ..maps.cloud_file import write_points
from ..maps.map_layout import MANIFEST
from ..maps.writing import write_map
from ..streaming.map_snapshot import MapPlacement, saved_map
from .depth_samples import DepthSample, DepthSamples
from .frame_record import FrameRecord
from .run_events import EventLog, events_of, RunEvent
from .stream_run import RunResult

SUMMARY = 'summary.json'
TRAJECTORY = 'trajectory.tum'
TRAJECTORY_FINAL = 'trajectory_final.tum'
MAP = 'map.ply'
#: The map that a later run can continue (docs/map_format.md).
SAVED_MAP = 'map'
FRAMES = 'frames.csv'
COVARIANCES = 'covariances.npz'
REPORT = 'report.html'
DEPTH = 'depth'
#: A few thinned depth maps, and small images of the events, for the report.
SAMPLES = 'samples'
MOMENTS = 'moments'
#: The unit of lengths without a metric scale.
MAP_UNITS = 'map units'


def write_run(folder: Path, result: RunResult, config: R3Config, source_path: str) -> None:
    """Write everything but the report into an existing folder, in metres if the scale is known.

    Depth already in the folder, in map units, is rescaled likewise.

    :raises OutputError: a file cannot be written.
    """
    assert result.trajectory is not None and result.cloud is not None
    view, unit = result.trajectory, result.scale.published_unit
    for name, T in ((TRAJECTORY, view.T_emitted), (TRAJECTORY_FINAL, view.T_final)):
        known = np.isfinite(T[:, 0, 0])
        T = T[known]
        T[:, :3, 3] *= unit
        write_tum(folder / name, view.stamps_ns[known], T)
    write_points(folder / MAP, result.cloud.scaled(unit))
    if result.map is not None:
        placement = UNPLACED if result.loaded is None else result.loaded
        write_map(folder / SAVED_MAP, saved_map(result.map, placement, config.map.voxel_size))
    for path in sorted((folder / DEPTH).glob('*.npz')):
        rescale_depth(folder / DEPTH, int(path.stem), unit)
    write_records(folder, result.records, result.events, result.depth_samples, unit)
    write_json(folder / SUMMARY, summarise(result, config, source_path))


def write_records(
    folder: Path,
    records: Sequence[FrameRecord],
    events: EventLog,
    samples: DepthSamples,
    unit: float,
) -> None:
    """Write what the report shows of the frames, of a run or of the node.

    :param unit: of the files, in that of the records and samples.
    :raises OutputError: a file cannot be written.
    """
    write_frames(folder / FRAMES, records)
    if any(record.covariance is not None for record in records):
        write_covariances(folder / COVARIANCES, records, unit)
    _write_samples(folder / SAMPLES, samples.chosen(), unit)
    _write_moments(folder / MOMENTS, events.events())


def map_folder(path: Path | str) -> Path:
    """Return the folder itself if it is a map, else the map in an output of ``r3 run``."""
    folder = Path(path)
    inner = folder / SAVED_MAP
    if not (folder / MANIFEST).exists() and (inner / MANIFEST).exists():
        return inner
    return folder


#: As in the node for a camera with an unknown pose on the robot: the map has z up if the camera
#: was upright at the start.
UNPLACED = MapPlacement(
    T_map_world=make_T(R_BODY_OPTICAL, np.zeros(3)),
    T_base_optical=np.eye(4),
    map_frame='map',
    base_frame='camera',
    optical_frame='camera',
)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write standard JSON: numbers that are not finite become null.

    :raises OutputError: the file cannot be written.
    """
    with atomic_write(path) as file:
        file.write(json.dumps(plain(content), indent=2).encode() + b'\n')


def plain(value: Any) -> Any:
    """Return a value for JSON: NumPy numbers as Python numbers, not finite ones as None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def load_summary(folder: Path) -> dict[str, Any]:
    """Read the summary of a run.

    :raises SourceError: the folder holds no run.
    """
    if not (folder / SUMMARY).is_file():
        raise SourceError(f'{folder} is not the output of r3 run: there is no {SUMMARY} in it')
    try:
        content = json.loads((folder / SUMMARY).read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise SourceError(f'{folder / SUMMARY} is damaged: {error}') from error
    if not isinstance(content, dict):
        raise SourceError(f'{folder / SUMMARY} must hold a JSON object')
    return content


def save_depth(folder: Path, depth_map: DepthMap, stamp_ns: int) -> None:
    """Write one depth map as ``NNNNNN.npz``, numbered by processed frames.

    :raises OutputError: the file cannot be written.
    """
    content = {
        'stamp_ns': np.int64(stamp_ns),
        'depth': depth_map.depth,
        'confidence': depth_map.confidence,
        'K': depth_map.intrinsics.K,
    }
    _write_npz(folder / f'{depth_map.frame_id:06d}.npz', content)


def rescale_depth(folder: Path, frame_id: int, scale: float | None) -> None:
    """Multiply a saved depth map by a scale; None: remove it.

    :raises OutputError: the file cannot be written.
    """
    path = folder / f'{frame_id:06d}.npz'
    if scale is None:
        path.unlink()
    elif scale != 1.0:
        with np.load(path, allow_pickle=False) as saved:
            content = dict(saved)
        content['depth'] = content['depth'] * np.float32(scale)
        _write_npz(path, content)


def _write_samples(folder: Path, samples: Sequence[DepthSample], unit: float) -> None:
    if samples:
        folder.mkdir()
    for sample in samples:
        content = {
            'depth': sample.depth * np.float32(unit),
            'confidence': sample.confidence,
            'image': sample.image,
        }
        _write_npz(folder / f'{sample.frame_id:06d}.npz', content)


def read_samples(folder: Path) -> list[DepthSample]:
    """Read the depth samples of a run, in its unit; there may be none.

    :raises SourceError: a file is damaged.
    """
    samples = []
    for path in sorted((folder / SAMPLES).glob('*.npz')):
        content = _read_npz(path)
        samples.append(
            DepthSample(int(path.stem), content['depth'], content['confidence'], content['image'])
        )
    return samples


def _write_moments(folder: Path, events: Sequence[RunEvent]) -> None:
    images = {event.frame_id: event.image for event in events if event.image is not None}
    if images:
        folder.mkdir()
    for frame_id, image in images.items():
        with atomic_write(folder / f'{frame_id:06d}.jpg') as file:
            file.write(image)


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as saved:
            return dict(saved)
    except (OSError, ValueError, BadZipFile) as error:
        raise SourceError(f'{path} is damaged: {error}; run r3 run again') from error


def _write_npz(path: Path, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **content)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def write_frames(path: Path, records: Sequence[FrameRecord]) -> None:
    """Write one line for each processed frame.

    :raises OutputError: the file cannot be written.
    """
    stages = list(dict.fromkeys(stage for record in records for stage in record.timings_ms))
    text = io.StringIO()
    table = csv.writer(text, lineterminator='\n')
    table.writerow(
        ['frame', 'stamp', 'state', 'reason', 'has_pose', 'tracked', 'keyframe']
        + ['confidence_translation', 'confidence_rotation', 'confidence_ratio']
        + ['context_frames', 'corrected_frames', 'segment', 'loops_closed']
        + ['resident_mib', 'read_ms', 'step_ms']
        + [f'{stage}_ms' for stage in stages]
    )
    for r in records:
        times = [r.read_ms, r.step_ms, *(r.timings_ms.get(stage, math.nan) for stage in stages)]
        confidences = r.confidence_translation, r.confidence_rotation, r.confidence_ratio
        table.writerow(
            [r.frame_id, stamp_text(r.stamp_ns), r.state.value, r.reason]
            + [int(flag) for flag in (r.has_pose, r.tracked, r.is_keyframe)]
            + [f'{value:.6g}' for value in confidences]
            + [r.context_frames, r.corrected_frames, r.segment_id, r.loops_closed]
            + [f'{r.resident_mib:.1f}']
            + [f'{value:.3f}' for value in times]
        )
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def read_table(path: Path) -> dict[str, Any]:
    """Read a CSV file with a header; columns of numbers become arrays.

    Stamps stay text, as a double cannot represent them.

    :raises SourceError: missing or without a header.
    """
    try:
        with open(path, newline='', encoding='utf-8') as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise SourceError(f'cannot read {path}: {error}') from error
    if not rows:
        raise SourceError(f'{path} is empty')
    columns: dict[str, Any] = {}
    for i, name in enumerate(rows[0]):
        values = [row[i] for row in rows[1:]]
        try:
            columns[name] = values if name == 'stamp' else np.array([float(v) for v in values])
        except ValueError:
            columns[name] = values
    return columns


@dataclass(frozen=True, eq=False)
class Covariances:
    """How sure the poses of a run are, one row for each processed frame; NaN where unknown.

    In the unit of the run's files and radians, in the convention of :class:`Estimate`.

    :ivar stamps_ns: (N,) int64.
    :ivar covariance: (N, 6, 6) float64, of the pose as published.
    :ivar T_previous_camera: (N, 4, 4) float64, motion since the last frame with a pose;
        ``step_covariance``: (N, 6, 6) float64, its covariance.
    """

    stamps_ns: np.ndarray
    covariance: np.ndarray
    T_previous_camera: np.ndarray
    step_covariance: np.ndarray


def write_covariances(path: Path, records: Sequence[FrameRecord], unit: float) -> None:
    """Write :class:`Covariances` of the frames.

    :param unit: of the files, in map units.
    :raises OutputError: the file cannot be written.
    """

    def stacked(name: str, size: int) -> np.ndarray:
        unknown = np.full((size, size), np.nan)
        values = (getattr(record, name) for record in records)
        return np.stack([unknown if value is None else value for value in values])

    units = np.repeat([unit, 1.0], 3)
    motions = stacked('T_previous_camera', 4)
    motions[:, :3, 3] *= unit
    content = {
        'stamps_ns': np.array([record.stamp_ns for record in records], dtype=np.int64),
        'covariance': np.outer(units, units) * stacked('covariance', 6),
        'T_previous_camera': motions,
        'step_covariance': np.outer(units, units) * stacked('step_covariance', 6),
    }
    _write_npz(path, content)


def read_covariances(folder: Path) -> Covariances | None:
    """Read the covariances of a run; None if it has none.

    :raises SourceError: the file is damaged.
    """
    path = folder / COVARIANCES
    if not path.is_file():
        return None
    content = _read_npz(path)
    try:
        return Covariances(**{field.name: content[field.name] for field in fields(Covariances)})
    except KeyError as error:
        raise SourceError(f'{path} holds no {error}; run r3 run again') from error


def summarise(result: RunResult, config: R3Config, source_path: str) -> dict[str, Any]:
    """Return the content of ``summary.json``; ``length_unit`` is the unit of distances."""
    records, of_frames = result.records, summarise_frames(result.records, result.events)
    step_s = sum(record.step_ms for record in records) / 1e3
    T_final = np.zeros((0, 4, 4)) if result.trajectory is None else result.trajectory.T_final
    offline = {
        'windows': result.windows,
        'stamps': 'as recorded' if result.collection is None else 'running numbers in seconds',
        'pictures': result.collection,
    }
    return {
        'source': source_path,
        'complete': not result.interrupted,
        'mode': result.mode,
        **({'offline': offline} if result.mode == 'offline' else {}),
        'model': result.model.name,
        'checkpoint_sha256': result.model.checkpoint_sha256,
        'device': result.model.device,
        'precision': result.model.precision,
        **of_frames,
        'frames': {
            **of_frames['frames'],
            'confident': sum(r.has_pose and r.state is TrackingState.TRACKING for r in records),
            'rejected': dict(result.rejected),
        },
        'segments': result.segments,
        'loops_closed': result.loops_closed,
        'map_revisions': result.map_revisions,
        'map_points': len(result.cloud) if result.cloud is not None else 0,
        'length_unit': 'm' if result.scale.is_metric else MAP_UNITS,
        'path_length': path_length(T_final) * result.scale.published_unit,
        'scale': asdict(result.scale),
        'fps': len(records) / result.wall_s if result.wall_s > 0 else 0.0,
        'fps_engine': len(records) / step_s if step_s > 0 else 0.0,
        'camera': _camera(result),
        'warnings': result.warnings,
        'versions': versions(),
        'machine': machine(),
        'config': flattened(config),
    }


def summarise_frames(
    records: Sequence[FrameRecord], events: EventLog | None = None
) -> dict[str, Any]:
    """Return the entries of ``summary.json`` about frames, of a run or of the node.

    :param events: of these frames, if they are known already.
    """
    events = events or events_of(records)
    resident = [r.resident_mib for r in records if math.isfinite(r.resident_mib)]
    tracked = sum(record.tracked for record in records)
    span_ns = records[-1].stamp_ns - records[0].stamp_ns if records else 0
    return {
        'frames': {
            'processed': len(records),
            'with_pose': sum(record.has_pose for record in records),
            'tracked': tracked,
            'by_state': Counter(record.state.value for record in records),
        },
        'tracked_share': tracked / len(records) if records else 0.0,
        'keyframes': sum(record.is_keyframe for record in records),
        'duration_s': span_ns / NANOSECONDS,
        'timing_ms': _timing(records),
        'resident_peak_mib': max(resident, default=None),
        'events': [_described(event) for event in events.events()],
        'events_left_out': events.left_out,
    }


def path_length(T_world_camera: np.ndarray) -> float:
    """Return the length of a path of (N, 4, 4) poses, NaN where unknown."""
    centres = T_world_camera[:, :3, 3]
    centres = centres[np.isfinite(centres[:, 0])]
    return float(np.linalg.norm(np.diff(centres, axis=0), axis=1).sum())


def _camera(result: RunResult) -> dict[str, Any]:
    camera, intrinsics = result.camera, result.intrinsics
    return {
        'calibrated': camera is not None,
        'focal_length_estimated': result.intrinsics_estimated,
        'readout_time_measured_s': result.readout_s,
        'distortion_model': camera.distortion_model if camera and camera.is_distorted else 'none',
        'undistorted': None if intrinsics is None else asdict(intrinsics),
    }


def _timing(records: Sequence[FrameRecord]) -> dict[str, dict[str, float]]:
    columns = {'read': [r.read_ms for r in records], 'step': [r.step_ms for r in records]}
    for record in records:
        for stage, value in record.timings_ms.items():
            columns.setdefault(stage, []).append(value)
    return {
        stage: {
            'mean': float(np.mean(values)),
            'median': float(np.median(values)),
            'p95': float(np.percentile(values, 95)),
            'max': float(np.max(values)),
        }
        for stage, values in columns.items()
        if values
    }


def _described(event: RunEvent) -> dict[str, Any]:
    return {
        'kind': event.kind,
        'frame': event.frame_id,
        'stamp': stamp_text(event.stamp_ns),
        'frames': event.frames,
        'duration_s': event.duration_s,
        'until_end': event.until_end,
        'what': event.what,
        'advice': event.advice,
    }


def versions() -> dict[str, str]:
    """Return the versions of the software that computed the result."""
    return {
        'r3_ros': __version__,
        'python': platform.python_version(),
        'numpy': np.__version__,
        'opencv': cv2.__version__,
    }


def machine() -> dict[str, Any]:
    """Describe the machine, for comparing times."""
    # Linux has this file, which names no ARM processor.
    info = Path('/proc/cpuinfo')
    lines = info.read_text(encoding='utf-8').splitlines() if info.exists() else []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    on_linux = hasattr(os, 'sched_getaffinity')
    return {
        'system': platform.platform(),
        'cpu': names[0] if names else platform.processor() or platform.machine(),
        'cores': len(os.sched_getaffinity(0)) if on_linux else os.cpu_count(),
    }
