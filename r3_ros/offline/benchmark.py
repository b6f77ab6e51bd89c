"""Where the time of a stream goes: every stage from the encoded image to what is published.

One thread does all of it in turn, so that the stages add up. Only what the predictor computes in
the background runs beside them, and shows in the cores used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
import itertools
import json
from pathlib import Path
import time
from typing import Any

import cv2
import numpy as np

from ..core.datatypes import Estimate
from ..core.errors import FrameError, SourceError
from ..core.geometry import quat_xyzw
from ..core.parameter_fields import flattened
from ..input.camera_model import CameraModel, undistort_points
from ..input.frame_filter import Action, FrameFilter
from ..input.image_decoding import decode_compressed
from ..input.source import RawFrame, Source
from ..maps.cloud import cloud_from_depth, packed
from ..streaming.engine import Engine, StageTimer
from .run_files import machine, versions
from .stream_run import one_session, resident_mib, Undistorter

#: Radial distortion given to the recording: undistorted pixels lie within the rendered image.
_K1 = 0.05
_JPEG_QUALITY = 95
#: A stream that never waits uses one core at least, if it gets one.
_ALONE = 0.9
_STEP, _OTHER = 'step', 'other'


@dataclass(frozen=True, eq=False)
class EncodedRecording:
    """Images in memory as a camera driver sends them.

    :ivar images: of each frame its stamp in nanoseconds and its JPEG.
    :ivar camera: with distortion.
    """

    images: Sequence[tuple[int, bytes]]
    camera: CameraModel


def through_lens(source: Source) -> EncodedRecording:
    """Return the images of a pinhole camera as one with a distorting lens would take them.

    :raises SourceError: no image can be read, or there is no calibration.
    """
    frames = iter(source)
    first = next(frames, None)
    if first is None or source.camera is None:
        raise SourceError(f'{source.name} needs images and a calibration')
    height, width = first.image.shape[:2]
    camera = replace(source.camera.scaled_to(width, height), D=(_K1, 0.0, 0.0, 0.0, 0.0))
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1, dtype=np.float64)
    rays = undistort_points(pixels.reshape(-1, 2), camera)
    seen = rays * camera.K[[0, 1], [0, 1]] + camera.K[[0, 1], [2, 2]]
    maps = seen.reshape(height, width, 2).astype(np.float32)
    # One at a time: decoded images would count as memory of the stream.
    images = [
        (raw.stamp_ns, _encoded(raw.image, maps)) for raw in itertools.chain([first], frames)
    ]
    return EncodedRecording(images, camera)


def _encoded(image: np.ndarray, maps: np.ndarray) -> bytes:
    bent = cv2.remap(image, maps, None, cv2.INTER_LINEAR)
    bent = bent if bent.ndim == 2 else bent[..., ::-1]
    return cv2.imencode('.jpg', bent, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()


class TimedStream:
    """Takes encoded images through all stages and times each."""

    def __init__(self, engine: Engine, camera: CameraModel) -> None:
        self._engine = engine
        self._undistort = Undistorter(camera, engine.config.input.readout_time)
        self._filter = FrameFilter(one_session(engine.config.input))

    def take(self, stamp_ns: int, encoded: bytes) -> tuple[dict[str, float], Estimate]:
        """Process one image; return the milliseconds of each stage, and the estimate.

        The stages of the engine have its own names; ``other`` is what no stage accounts for.

        :raises FrameError: the image cannot be used.
        """
        began, timer = time.perf_counter(), StageTimer()
        image = decode_compressed(encoded)
        timer.done('decode')
        frame = self._undistort.frame(RawFrame(stamp_ns, image))
        timer.done('undistort')
        verdict = self._filter.admit(stamp_ns, image.shape[1], image.shape[0])
        if verdict.action is not Action.ACCEPT:
            raise FrameError(f'left out a frame: {verdict.reason}')
        timer.done('filter')
        estimate = self._engine.step(frame)
        timer.done(_STEP)
        for depth_map in estimate.depths:
            cloud = cloud_from_depth(depth_map, self._engine.config.points)
            packed(cloud.points, cloud.colors, cloud.confidence).tobytes()
        timer.done('cloud')
        _pose_numbers(estimate)
        timer.done('pose')
        whole_ms = 1e3 * (time.perf_counter() - began)
        stages: dict[str, float] = {}
        for name, milliseconds in timer.milliseconds.items():
            stages |= estimate.timings_ms if name == _STEP else {name: milliseconds}
        stages[_OTHER] = whole_ms - sum(stages.values())
        return stages, estimate


def _pose_numbers(estimate: Estimate) -> list[float]:
    """Return position, quaternion and covariance, as the node fills a message with them."""
    T = estimate.T_world_camera
    if T is None:
        return []
    covariance = [] if estimate.covariance is None else estimate.covariance.ravel().tolist()
    return [*T[:3, 3].tolist(), *quat_xyzw(T).tolist(), *covariance]


def measure(
    stream: TimedStream, images: Iterable[tuple[int, bytes]], warm_up: int
) -> dict[str, Any]:
    """Time a stream; return times of stages and of the whole in milliseconds, rates and memory.

    :param warm_up: frames at the start that are processed and not counted; the rest must hold
        at least one.
    """
    frames: list[dict[str, float]] = []
    tracked, resident, cpu_s = 0, 0.0, 0.0
    for number, (stamp_ns, encoded) in enumerate(images):
        if number == warm_up:
            cpu_s = time.process_time()
        stages, estimate = stream.take(stamp_ns, encoded)
        resident = max(resident, resident_mib())
        if number >= warm_up:
            frames.append(stages)
            tracked += estimate.T_world_camera is not None
    cpu_ms = 1e3 * (time.process_time() - cpu_s)
    whole = np.array([sum(stages.values()) for stages in frames])
    names = [name for name in dict.fromkeys(n for f in frames for n in f) if name != _OTHER]
    columns = {
        name: np.array([stages.get(name, 0.0) for stages in frames]) for name in (*names, _OTHER)
    }
    return {
        'frames': len(frames),
        'warm_up': warm_up,
        'tracked': tracked,
        'stages_ms': {
            name: {**_spread(column), 'share': float(column.sum() / whole.sum())}
            for name, column in columns.items()
        },
        'whole_ms': {**_spread(whole), 'share': 1.0},
        'fps': float(1e3 * len(frames) / whole.sum()),
        'cpu_ms_per_frame': cpu_ms / len(frames),
        'cores_used': float(cpu_ms / whole.sum()),
        'resident_peak_mib': resident,
    }


def _spread(milliseconds: np.ndarray) -> dict[str, float]:
    return {
        'mean': float(milliseconds.mean()),
        'median': float(np.median(milliseconds)),
        'p95': float(np.percentile(milliseconds, 95)),
        'p99': float(np.percentile(milliseconds, 99)),
    }


def described(measured: Mapping[str, Any], engine: Engine) -> dict[str, Any]:
    """Return a measurement with what it was measured with: the content of the JSON file."""
    info, config = engine.predictor.info, engine.config
    about = {'model': info.name, 'device': info.device, 'precision': info.precision}
    where = {'machine': machine(), 'versions': versions()}
    return {**about, **measured, **where, 'config': flattened(config)}


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield a report as text for people."""
    yield f'{_model(report)}; {_machine(report)}'
    yield (
        f'{report["frames"]} frames after {report["warm_up"]} of warm-up, '
        f'{report["tracked"]} with a pose'
    )
    yield ''
    yield f'{"stage, ms":<12}{"median":>9}{"p95":>9}{"p99":>9}{"share":>8}'
    for name, row in {**report['stages_ms'], 'whole': report['whole_ms']}.items():
        times = ''.join(f'{row[key]:9.2f}' for key in ('median', 'p95', 'p99'))
        yield f'{name:<12}{times}{100 * row["share"]:7.1f}%'
    yield ''
    yield (
        f'{report["fps"]:.1f} frames/s; CPU time per frame {report["cpu_ms_per_frame"]:.1f} ms: '
        f'{report["cores_used"]:.2f} cores used; at most {report["resident_peak_mib"]:.0f} MiB'
    )
    if report['device'] == 'cpu' and report['cores_used'] < _ALONE:
        yield (
            'Other programs had the processor for a part of the time: medians and CPU time tell '
            'more than the rest.'
        )


def parts_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parts of a prediction as text for people; nothing without a network."""
    parts: Mapping[str, float] | None = report['predict_parts_ms']
    if parts is not None:
        listed = ', '.join(f'{name} {value:.1f}' for name, value in parts.items())
        yield f'predict by part, ms: {listed}'


def comparison_lines(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Yield the ratios of two reports as text for people."""
    for name, report in (('A', before), ('B', after)):
        yield f'{name}: {_model(report)}; {_machine(report)}'
    if before['machine'] != after['machine']:
        yield 'These are two machines: the ratios say nothing about the software.'
    yield ''
    yield f'{"median, ms":<12}{"A":>9}{"B":>9}{"B / A":>8}'
    rows = [{**r['stages_ms'], 'whole': r['whole_ms']} for r in (before, after)]
    for name in dict.fromkeys([*rows[0], *rows[1]]):
        a, b = (row[name]['median'] if name in row else None for row in rows)
        times = ''.join(f'{"-":>9}' if value is None else f'{value:9.2f}' for value in (a, b))
        yield f'{name:<12}{times}' + (f'{b / a:8.2f}' if a and b else f'{"-":>8}')
    yield ''
    for key, unit in (('fps', 'frames/s'), ('cpu_ms_per_frame', 'ms of CPU time per frame')):
        yield f'{before[key]:.1f} and {after[key]:.1f} {unit}: {after[key] / before[key]:.2f}'


def read_report(path: Path) -> dict[str, Any]:
    """Read a JSON file of :func:`described`.

    :raises SourceError: missing, or no such file.
    """
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
        # All that is printed must be there.
        list(comparison_lines(report, report))
    except OSError as error:
        raise SourceError(f'cannot read {path}: {error.strerror or error}') from error
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise SourceError(f'{path} was not written by r3 bench --json ({error!r})') from error
    return report


def _model(report: Mapping[str, Any]) -> str:
    return f'{report["model"]} on {report["device"]}, {report["precision"]}'


def _machine(report: Mapping[str, Any]) -> str:
    about = report['machine']
    return f'{about["cpu"]}, {about["cores"]} cores, {about["system"]}'
