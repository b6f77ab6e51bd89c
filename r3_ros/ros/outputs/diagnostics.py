"""The content of /diagnostics: one status per task, with level, message and values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
import math
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
import numpy as np
from rclpy.clock import Clock

from ..stream_report import NodeSnapshot
from ..worker import CLOCKS_DIFFER_S, StreamWorker
from .cloud_publisher import NOT_PUBLISHED
from .health import rate_hz, StreamState
from .messages import time_message

OK, WARN = DiagnosticStatus.OK, DiagnosticStatus.WARN
ERROR, STALE = DiagnosticStatus.ERROR, DiagnosticStatus.STALE
_NO_IMAGE_S = 5.0
_LONG_START_S = 10.0
_DROPPED_SHARE = 0.95
_LOST_SHARE = 0.05
_LOOKUP_FAILED_S = 5.0
_LONG_WITHOUT_METRES_S = 30.0
#: A larger error of the calibration visibly bends the trajectory.
_FOV_ERROR_DEG = 3.0
#: Shares of the available device memory for WARN and ERROR.
_MEMORY_SHARES = (0.85, 0.95)

Finding = tuple[bytes, str]
Task = tuple[list[Finding], dict[str, Any]]


class Diagnostics:
    """Builds the message from the worker's snapshot and the node's counters. Executor thread."""

    def __init__(self, worker: StreamWorker, clock: Clock) -> None:
        self._worker = worker
        self._clock = clock
        self._busy = (time.monotonic(), 0.0)
        self._metres_awaited_since_s: float | None = None
        self._tasks = (
            self._input, self._tracking, self._timing, self._gpu, self._scale, self._map, self._tf,
        )  # fmt: skip

    def message(self) -> DiagnosticArray:
        """Return the state of every task."""
        message = DiagnosticArray()
        message.header.stamp = time_message(self._clock.now().nanoseconds)
        snapshot = self._worker.snapshot
        memory = snapshot.stream.memory
        device = 'cpu' if memory is None else memory.device
        hardware_id = f'{snapshot.health.optical_frame or "camera"}@{device}'
        for task in self._tasks:
            findings, values = task(snapshot)
            level, text = _worst(findings)
            status = DiagnosticStatus(level=level, message=text, hardware_id=hardware_id)
            status.name = f'r3: {task.__name__.removeprefix("_")}'
            status.values = [KeyValue(key=key, value=_text(v)) for key, v in values.items()]
            message.status.append(status)
        return message

    def _input(self, snapshot: NodeSnapshot) -> Task:
        worker, health, own = self._worker, snapshot.health, self._worker.node_health
        mailbox, options = worker.mailbox, worker.config.diagnostics
        processed_hz, incompatible = rate_hz(health.processed_s), own.incompatible_qos.copy()
        values = {
            'input_rate_hz': rate_hz(own.received_s),
            'processed_rate_hz': processed_hz,
            'frames_received': mailbox.received,
            'frames_dropped': mailbox.dropped,
            'frames_rejected': health.frames_rejected,
            'frames_paused': health.frames_paused,
            'frames_lost_on_the_way': own.frames_lost,
            'last_reject_reason': health.last_reject_reason,
            'input_age_s': health.input_age_s,
            'encoding': health.encoding,
            'resolution': health.resolution,
            'camera_info': health.camera_info,
            'rectified': health.rectified,
            'readout_time_measured_s': health.readout_s,
            'qos_incompatible': '; '.join(incompatible.values()),
        }
        if not worker.running:
            return [(STALE, 'inactive')], values
        findings = [(ERROR, text) for text in incompatible.values()]
        if own.duplicates:
            findings.append((ERROR, 'another node has the same name: rename or stop one of them'))
        silent_s = time.monotonic() - max([own.active_since_s, *own.received_s[-1:]])
        if silent_s > _NO_IMAGE_S:
            text = f'no image for {silent_s:.0f} s'
            findings.append((ERROR, ': '.join(filter(None, (text, own.image_topic)))))
        elif health.rejected_in_a_row > 10:
            findings.append((ERROR, f'all frames are rejected: {health.last_reject_reason}'))
        elif own.image_topic and own.received_s:
            findings.append((WARN, own.image_topic))
        if health.frames_processed:
            if processed_hz < options.min_rate and health.state is not StreamState.PAUSED:
                findings.append((WARN, f'{processed_hz:.1f} Hz, below diagnostics.min_rate'))
            if health.camera_info != 'valid':
                findings.append((WARN, f'camera_info is {health.camera_info}'))
            if health.encoding_guessed:
                text = f'the order of colours in {health.encoding} is unknown'
                findings.append((WARN, f'{text}: set input.encoding_hint'))
            if abs(health.input_age_s) > CLOCKS_DIFFER_S:
                text = f'images are {health.input_age_s:.0f} s old: is use_sim_time right?'
                findings.append((WARN, text))
        if mailbox.received > 100 and mailbox.dropped > _DROPPED_SHARE * mailbox.received:
            findings.append((WARN, 'nearly all frames are dropped: the camera is too fast'))
        if own.frames_lost > _LOST_SHARE * max(mailbox.received, 100):
            text = f'the middleware lost {own.frames_lost} images: publish them as reliable'
            findings.append((WARN, text))
        return findings, values

    def _tracking(self, snapshot: NodeSnapshot) -> Task:
        health, stream, state = snapshot.health, snapshot.stream, snapshot.health.state
        values = {
            'state': state.name,
            'reason': health.reason,
            'confidence_ratio': health.confidence_ratio,
            'confidence_translation': health.confidence_translation,
            'confidence_rotation': health.confidence_rotation,
            'segment_id': stream.segment_id,
            'session_id': stream.session_id,
            'map_revision': stream.map_revision,
            'keyframes_in_bank': stream.keyframes,
            'loops_closed': stream.loops_closed,
            'recoveries': health.recoveries,
        }
        if not self._worker.running:
            return [(STALE, 'inactive')], values
        text = f'{state.name}: {health.reason}'.rstrip(': ')
        if state in (StreamState.LOST, StreamState.FAULT, StreamState.WAITING_TF):
            return [(ERROR, text)], values
        if state is StreamState.WAITING_INPUT:
            return [(STALE, 'no frame yet')], values
        starting_s = time.monotonic() - health.state_since_s
        late = state is StreamState.INITIALIZING and starting_s > _LONG_START_S
        if late or state in (StreamState.LOW_CONFIDENCE, StreamState.RECOVERING):
            return [(WARN, text)], values
        return [(OK, text)], values

    def _timing(self, snapshot: NodeSnapshot) -> Task:
        worker = self._worker
        times = snapshot.health.times
        latency, inference = [t.latency for t in times], [1e3 * t.time_inference for t in times]
        now_s, busy_s = time.monotonic(), snapshot.health.busy_s
        (before_s, busy_before_s), self._busy = self._busy, (now_s, busy_s)
        values = {
            'latency_s_mean': _of_finite(np.mean, latency),
            'latency_s_max': _of_finite(np.max, latency),
            'inference_ms_mean': _of_finite(np.mean, inference),
            'inference_ms_p95': _of_finite(lambda v: np.percentile(v, 95), inference),
            'preprocess_ms': _of_finite(np.mean, [1e3 * t.time_preprocess for t in times]),
            'publish_ms': _of_finite(np.mean, [1e3 * t.time_publish for t in times]),
            'worker_utilisation': max(busy_s - busy_before_s, 0.0) / max(now_s - before_s, 1e-3),
        }
        if not worker.running or not times:
            return [(STALE, 'no frame')], values
        limit_s = worker.config.diagnostics.max_latency
        mean_s = values['latency_s_mean']
        if mean_s > 5 * limit_s:
            return [(ERROR, f'latency {mean_s:.2f} s')], values
        if mean_s > limit_s:
            return [(WARN, f'latency {mean_s:.2f} s, above diagnostics.max_latency')], values
        return [], values

    def _gpu(self, snapshot: NodeSnapshot) -> Task:
        health, info = snapshot.health, snapshot.stream.model
        memory = snapshot.stream.memory
        values: dict[str, Any] = {'device': info.device, 'precision': info.precision}
        values['oom_count'] = health.oom_count
        findings = [(OK, f"the model '{info.name}' runs on {info.device} in {info.precision}")]
        if info.device == 'cpu':
            findings = [(OK, f"no GPU in use: the model '{info.name}' runs on the CPU")]
        if memory is not None:
            sizes = ('used', 'reserved', 'peak', 'cap', 'free')
            values |= {f'{size}_mib': getattr(memory, size) / 2**20 for size in sizes}
            share = memory.used / max(memory.cap, 1)
            if share > _MEMORY_SHARES[0]:
                level = ERROR if share > _MEMORY_SHARES[1] else WARN
                findings.append((level, f'{share:.0%} of the available memory is in use'))
        if health.oom_count:
            text = f'out of memory {health.oom_count} times: use a smaller memory.max_gpu_mib'
            findings.append((WARN, f'{text} or model.image_size'))
        if health.device_lost:
            findings.append((ERROR, health.device_lost))
        return findings, values

    def _scale(self, snapshot: NodeSnapshot) -> Task:
        scale, error_deg = snapshot.stream.scale, snapshot.health.fov_error_deg
        ratio = math.nan if scale.live_ratio is None else scale.live_ratio
        values = {
            'scale': math.nan if scale.awaited else scale.published_unit,
            'source': scale.source,
            'locked': scale.locked,
            'live_ratio': ratio,
            'fov_error_deg': error_deg,
        }
        findings: list[Finding] = []
        if abs(error_deg) > _FOV_ERROR_DEG:
            text = f'the field of view seems {error_deg:+.1f} degrees wider than calibrated'
            findings.append((WARN, f'{text}: calibrate the camera again'))
        awaited_s = self._correction_awaited_s(snapshot)
        if awaited_s > _LONG_WITHOUT_METRES_S:
            text = scale.waits_for or 'no scale: set scale.source or call ~/set_scale'
            text = f'map -> odom has waited {awaited_s:.0f} s for metres; {text}'
            findings.append((ERROR, text))
        elif scale.source == 'none':
            findings.append((WARN, 'arbitrary units: distances are not metres'))
        elif scale.awaited:
            findings.append((WARN, f'{scale.waits_for}; no pose is published'))
        elif max(ratio, 1.0 / ratio) > self._worker.config.scale.drift_warn_ratio:
            findings.append((WARN, f'the scale has drifted: live ratio {ratio:.3f}'))
        return findings, values

    def _correction_awaited_s(self, snapshot: NodeSnapshot) -> float:
        """Return for how long ``map -> odom`` has not been sent because the scale is unknown."""
        now_s = time.monotonic()
        if not (snapshot.health.frames_processed and snapshot.correction_waits_for_metres):
            self._metres_awaited_since_s = None
        elif self._metres_awaited_since_s is None:
            self._metres_awaited_since_s = now_s
        since_s = self._metres_awaited_since_s
        return 0.0 if since_s is None else now_s - since_s

    def _map(self, snapshot: NodeSnapshot) -> Task:
        config, stream, own = self._worker.config, snapshot.stream, self._worker.node_health
        values = {
            'points': stream.map_points,
            'max_points': config.map.max_points,
            'evicted': stream.evicted_points,
            'keyframes': stream.keyframes,
            'last_save': own.last_save,
        }
        if config.occupancy.enabled:
            values['occupancy'] = snapshot.occupancy or 'nothing yet'
        if own.save_failed:
            return [(ERROR, f'the last save failed: {own.last_save}')], values
        if not config.map.enabled:
            return [(STALE, 'map.enabled is false')], values
        findings = []
        if stream.evicted_points:
            text = f'full: {stream.evicted_points} of the oldest points were removed'
            findings.append((WARN, text))
        if snapshot.occupancy.startswith(NOT_PUBLISHED):
            findings.append((WARN, f'occupancy {snapshot.occupancy}'))
        return findings, values

    def _tf(self, snapshot: NodeSnapshot) -> Task:
        config, health, own = self._worker.config, snapshot.health, self._worker.tree.health
        mode = _MODES[config.publish_map_to_odom_tf, config.publish_odom_to_base_tf]
        values = {
            'mode': mode,
            'base_frame': health.base_frame,
            'lookup_failures': own.failures,
            'last_lookup_error': own.problem,
            'two_parents': own.two_parents,
        }
        if own.two_parents:
            return [(ERROR, f'another node broadcasts {own.two_parents}')], values
        if health.state is StreamState.WAITING_TF:
            return [(ERROR, own.problem)], values
        if mode == 'topics only':
            return [(STALE, 'no transform is broadcast')], values
        if time.monotonic() - own.failed_s < _LOOKUP_FAILED_S:
            return [(WARN, f'transform lookups fail: {own.problem}')], values
        return [], values


_MODES = {
    (True, True): 'standalone',
    (True, False): 'navigation',
    (False, True): 'visual odometry',
    (False, False): 'topics only',
}


def _worst(findings: Iterable[Finding]) -> Finding:
    """Return the highest level and its messages; OK without findings."""
    order = (OK, STALE, WARN, ERROR)
    found = list(findings) or [(OK, 'ok')]
    level = max((level for level, _ in found), key=order.index)
    return level, '; '.join(text for its_level, text in found if its_level == level)


def _of_finite(measure: Callable[[list[float]], Any], values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(measure(finite)) if finite else math.nan


def _text(value: Any) -> str:
    return f'{value:.3f}' if isinstance(value, float) else str(value)
