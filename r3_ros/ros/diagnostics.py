"""What /diagnostics says: one status per task, with a level, a line and keys with units."""

from __future__ import annotations

from collections.abc import Callable, Iterable
import math
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
import numpy as np
from rclpy.clock import Clock

from .health import finite, StreamState
from .messages import time_message
from .occupancy_topic import NOT_PUBLISHED
from .stream import Stream

OK, WARN, ERROR, STALE = (
    DiagnosticStatus.OK,
    DiagnosticStatus.WARN,
    DiagnosticStatus.ERROR,
    DiagnosticStatus.STALE,
)
_NO_IMAGE_S = 5.0
_LONG_START_S = 10.0
_CLOCKS_DIFFER_S = 10.0
_DROPPED_SHARE = 0.95
_LOST_SHARE = 0.05
_LOOKUP_FAILED_S = 5.0
_LONG_WITHOUT_METRES_S = 30.0
#: A calibration that is off by more bends the trajectory visibly.
_FOV_ERROR_DEG = 3.0
#: Of the device's memory that this process can have: worth a warning, and dangerous.
_MEMORY_SHARES = (0.85, 0.95)

Finding = tuple[bytes, str]
Task = tuple[list[Finding], dict[str, Any]]


class Diagnostics:
    """Looks at a stream from the executor thread."""

    def __init__(self, stream: Stream, clock: Clock) -> None:
        """Keep what to look at."""
        self._stream = stream
        self._clock = clock
        self._busy = (time.monotonic(), 0.0)
        self._metres_awaited_since_s: float | None = None
        self._tasks: dict[str, Callable[[], Task]] = {
            'input': self._input,
            'tracking': self._tracking,
            'timing': self._timing,
            'gpu': self._gpu,
            'scale': self._scale,
            'map': self._map,
            'tf': self._tf,
        }

    def message(self) -> DiagnosticArray:
        """Return the state of every task."""
        message = DiagnosticArray()
        message.header.stamp = time_message(self._clock.now().nanoseconds)
        memory = self._stream.engine.predictor.device_memory()
        device = 'cpu' if memory is None else memory.device
        hardware_id = f'{self._stream.health.optical_frame or "camera"}@{device}'
        for name, task in self._tasks.items():
            findings, values = task()
            level, text = _worst(findings)
            message.status.append(
                DiagnosticStatus(
                    level=level,
                    name=f'r3: {name}',
                    message=text,
                    hardware_id=hardware_id,
                    values=[KeyValue(key=key, value=_text(v)) for key, v in values.items()],
                )
            )
        return message

    def _input(self) -> Task:
        stream, health = self._stream, self._stream.health
        mailbox, options = stream.mailbox, stream.config.diagnostics
        processed_hz = health.processed_rate.rate_hz()
        values = {
            'input_rate_hz': health.received_rate.rate_hz(),
            'processed_rate_hz': processed_hz,
            'frames_received': mailbox.received,
            'frames_dropped': mailbox.dropped,
            'frames_rejected': health.frames_rejected,
            'frames_paused': health.frames_paused,
            'frames_lost_on_the_way': health.frames_lost,
            'last_reject_reason': health.last_reject_reason,
            'input_age_s': health.input_age_s,
            'encoding': health.encoding,
            'resolution': health.resolution,
            'camera_info': health.camera_info,
            'rectified': health.rectified,
            'qos_incompatible': '; '.join(health.incompatible_qos.values()),
        }
        findings: list[Finding] = []
        if not stream.running:
            return [(STALE, 'inactive')], values
        findings += [(ERROR, text) for text in health.incompatible_qos.values()]
        if health.twins:
            findings.append((ERROR, 'another node has the same name: rename or stop one'))
        silent_s = time.monotonic() - np.fmax(health.last_received_s, health.active_since_s)
        if silent_s > _NO_IMAGE_S:
            findings.append((ERROR, f'no image for {silent_s:.0f} s'))
        elif health.rejected_in_a_row > 10:
            findings.append((ERROR, f'all frames are rejected: {health.last_reject_reason}'))
        if health.frames_processed:
            if processed_hz < options.min_rate and health.state is not StreamState.PAUSED:
                findings.append((WARN, f'{processed_hz:.1f} Hz, below diagnostics.min_rate'))
            if health.camera_info != 'valid':
                findings.append((WARN, f'camera_info is {health.camera_info}'))
            if health.encoding_guessed:
                text = f'the order of colours in {health.encoding} is a guess'
                findings.append((WARN, f'{text}: set input.encoding_hint'))
            if abs(health.input_age_s) > _CLOCKS_DIFFER_S:
                text = f'pictures are {health.input_age_s:.0f} s old: is use_sim_time right?'
                findings.append((WARN, text))
        if mailbox.received > 100 and mailbox.dropped > _DROPPED_SHARE * mailbox.received:
            findings.append((WARN, 'nearly all frames are dropped: the camera is too fast'))
        if health.frames_lost > _LOST_SHARE * max(mailbox.received, 100):
            text = f'{health.frames_lost} pictures were lost on the way: publish them as reliable'
            findings.append((WARN, text))
        return findings, values

    def _tracking(self) -> Task:
        stream, health = self._stream, self._stream.health
        session = stream.engine.session
        values = {
            'state': health.state.name,
            'reason': health.reason,
            'confidence_ratio': health.confidence_ratio,
            'confidence_translation': health.confidence_translation,
            'confidence_rotation': health.confidence_rotation,
            'segment_id': session.segment_id,
            'session_id': session.session_id,
            'map_revision': session.map_revision,
            'keyframes_in_bank': len(session.bank),
            'loops_closed': session.loops_closed,
            'recoveries': health.recoveries,
        }
        if not stream.running:
            return [(STALE, 'inactive')], values
        text = f'{health.state.name}: {health.reason}'.rstrip(': ')
        state = health.state
        if state in (StreamState.LOST, StreamState.FAULT, StreamState.WAITING_TF):
            return [(ERROR, text)], values
        if state is StreamState.WAITING_INPUT:
            return [(STALE, 'no frame yet')], values
        starting_s = time.monotonic() - health.state_since_s
        late = state is StreamState.INITIALIZING and starting_s > _LONG_START_S
        if late or state in (StreamState.LOW_CONFIDENCE, StreamState.RECOVERING):
            return [(WARN, text)], values
        return [(OK, text)], values

    def _timing(self) -> Task:
        stream = self._stream
        times = list(stream.health.times)
        latency = finite(t.latency for t in times)
        inference = finite(1e3 * t.inference for t in times)
        now_s, busy_s = time.monotonic(), stream.health.busy_s
        (before_s, busy_before_s), self._busy = self._busy, (now_s, busy_s)
        values = {
            'latency_s_mean': _or_nan(np.mean, latency),
            'latency_s_max': _or_nan(np.max, latency),
            'inference_ms_mean': _or_nan(np.mean, inference),
            'inference_ms_p95': _or_nan(lambda v: np.percentile(v, 95), inference),
            'preprocess_ms': _or_nan(np.mean, finite(1e3 * t.preprocess for t in times)),
            'publish_ms': _or_nan(np.mean, finite(1e3 * t.publish for t in times)),
            'worker_utilisation': max(busy_s - busy_before_s, 0.0) / max(now_s - before_s, 1e-3),
        }
        if not stream.running or not times:
            return [(STALE, 'no frame')], values
        limit_s = stream.config.diagnostics.max_latency
        mean_s = values['latency_s_mean']
        if mean_s > 5 * limit_s:
            return [(ERROR, f'latency {mean_s:.2f} s')], values
        if mean_s > limit_s:
            return [(WARN, f'latency {mean_s:.2f} s, above diagnostics.max_latency')], values
        return [], values

    def _gpu(self) -> Task:
        health, predictor = self._stream.health, self._stream.engine.predictor
        info, memory = predictor.info, predictor.device_memory()
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
                findings.append((level, f'{share:.0%} of the memory it can have is in use'))
        if health.oom_count:
            text = f'{health.oom_count} times without memory: take a smaller memory.max_gpu_mib'
            findings.append((WARN, f'{text} or model.image_size'))
        if health.device_lost:
            findings.append((ERROR, health.device_lost))
        return findings, values

    def _scale(self) -> Task:
        scale = self._stream.engine.session.scale.view()
        ratio = math.nan if scale.live_ratio is None else scale.live_ratio
        values = {
            'scale': math.nan if scale.awaited else scale.published_unit,
            'source': scale.source,
            'locked': scale.locked,
            'live_ratio': ratio,
            'fov_error_deg': self._stream.health.fov_error_deg,
        }
        findings: list[Finding] = []
        error_deg = self._stream.health.fov_error_deg
        if abs(error_deg) > _FOV_ERROR_DEG:
            text = f'the pictures look {error_deg:+.1f} degrees wider than they are calibrated'
            findings.append((WARN, f'{text}: calibrate the camera anew'))
        awaited_s = self._correction_awaited_s()
        if awaited_s > _LONG_WITHOUT_METRES_S:
            text = scale.waits_for or 'nothing tells metres: set scale.source or call ~/set_scale'
            text = f'map -> odom has waited {awaited_s:.0f} s for metres; {text}'
            findings.append((ERROR, text))
        elif scale.source == 'none':
            findings.append((WARN, 'arbitrary units: distances are not metres'))
        elif scale.awaited:
            findings.append((WARN, f'{scale.waits_for}; no pose is published'))
        elif max(ratio, 1.0 / ratio) > self._stream.config.scale.drift_warn_ratio:
            findings.append((WARN, f'the scale has drifted: live ratio {ratio:.3f}'))
        return findings, values

    def _correction_awaited_s(self) -> float:
        """Return for how long a robot has not been corrected for want of metres."""
        stream, now_s = self._stream, time.monotonic()
        if not (stream.health.frames_processed and stream.placing.holds_back_correction):
            self._metres_awaited_since_s = None
        elif self._metres_awaited_since_s is None:
            self._metres_awaited_since_s = now_s
        since_s = self._metres_awaited_since_s
        return 0.0 if since_s is None else now_s - since_s

    def _map(self) -> Task:
        stream, health = self._stream, self._stream.health
        options, session = stream.config.map, stream.engine.session
        values = {
            'points': len(session.map),
            'max_points': options.max_points,
            'evicted': session.map.evicted,
            'keyframes': len(session.bank),
            'last_save': health.last_save,
        }
        if stream.config.occupancy.enabled:
            values['occupancy'] = stream.occupancy_state or 'nothing yet'
        if health.save_failed:
            return [(ERROR, f'the last save failed: {health.last_save}')], values
        if not options.enabled:
            return [(STALE, 'map.enabled is false')], values
        findings = []
        if session.map.evicted:
            text = f'full: {session.map.evicted} of the oldest points have gone'
            findings.append((WARN, text))
        if stream.occupancy_state.startswith(NOT_PUBLISHED):
            findings.append((WARN, f'occupancy {stream.occupancy_state}'))
        return findings, values

    def _tf(self) -> Task:
        stream, health = self._stream, self._stream.health
        config = stream.config
        mode = _MODES[config.publish_map_to_odom_tf, config.publish_odom_to_base_tf]
        values = {
            'mode': mode,
            'base_frame': health.base_frame,
            'lookup_failures': health.tf_failures,
            'last_lookup_error': health.tf_problem,
            'two_parents': health.two_parents,
        }
        if health.two_parents:
            return [(ERROR, f'somebody else broadcasts {health.two_parents}')], values
        if health.state is StreamState.WAITING_TF:
            return [(ERROR, health.tf_problem)], values
        if mode == 'topics only':
            return [(STALE, 'no transform is broadcast')], values
        if time.monotonic() - health.tf_failed_s < _LOOKUP_FAILED_S:
            return [(WARN, f'transform lookups fail: {health.tf_problem}')], values
        return [], values


_MODES = {
    (True, True): 'standalone',
    (True, False): 'navigation',
    (False, True): 'visual odometry',
    (False, False): 'topics only',
}


def _worst(findings: Iterable[Finding]) -> Finding:
    """Return the highest level and its lines; OK where nothing was found."""
    order = (OK, STALE, WARN, ERROR)
    found = list(findings) or [(OK, 'ok')]
    level = max((level for level, _ in found), key=order.index)
    return level, '; '.join(text for its_level, text in found if its_level == level)


def _or_nan(measure: Callable[[np.ndarray], Any], values: np.ndarray) -> float:
    return float(measure(values)) if len(values) else math.nan


def _text(value: Any) -> str:
    return f'{value:.3f}' if isinstance(value, float) else str(value)
