"""Snapshots of the worker's state for other threads, and the ``~/status`` topic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rclpy.clock import Clock

from ..core.threads import Mailbox
from ..streaming.engine import Engine
from ..streaming.session import StreamSnapshot
from .inputs.camera_input import Received
from .outputs.health import Health, StreamState
from .outputs.messages import scale_fields, status_message
from .outputs.outputs import Outputs
from .pose_output import PoseOutput
from .tf.frame_tree import Base

_OVERLOAD_FRAMES = 100


@dataclass(frozen=True, eq=False)
class NodeSnapshot:
    """Immutable state of the worker, for other threads.

    :ivar base: the moving frame whose pose is published; None before the first image.
    :ivar wants_images: whether to subscribe to the camera; False in FAULT.
    :ivar correction_waits_for_metres: ``map -> odom`` is not sent while the scale is unknown.
    :ivar occupancy: outcome of the last occupancy grid, as text.
    """

    stream: StreamSnapshot
    health: Health
    base: Base | None
    wants_images: bool
    correction_waits_for_metres: bool
    occupancy: str


@dataclass(eq=False)
class StreamReport:
    """Updates the snapshot and publishes ``~/status``. Worker thread, except :attr:`snapshot`.

    :ivar snapshot: the newest, for any thread.
    :ivar on_demand: called when ``wants_images`` has changed, or when the device is lost.
    :ivar is_silent: whether nothing may be published, since the worker was stopped.
    """

    _engine: Engine
    _health: Health
    _pose_output: PoseOutput
    _occupancy_state: Callable[[], str]
    _outputs: Outputs
    _mailbox: Mailbox[Received]
    _clock: Clock
    _logger: Any
    wants_images: bool = field(default=True, init=False)
    on_demand: Callable[[], None] = field(default=lambda: None, init=False)
    is_silent: Callable[[], bool] = field(default=lambda: False, init=False)
    _counts_at_first: tuple[int, int] | None = field(default=None, init=False)
    _reported_overload: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.snapshot = self._taken()

    def update_snapshot(self) -> None:
        """Take a new snapshot."""
        before, now = self.snapshot, self._taken()
        self.snapshot = now
        device_lost = now.health.device_lost and not before.health.device_lost
        if device_lost or now.wants_images != before.wants_images:
            self.on_demand()

    def publish_status(self, **fields: Any) -> None:
        """Update the snapshot, and publish state and counters."""
        self.update_snapshot()
        if self.is_silent():
            return
        stream, health = self.snapshot.stream, self.snapshot.health
        known: dict[str, Any] = {
            'session_id': stream.session_id,
            'segment_id': stream.segment_id,
            'map_revision': stream.map_revision,
            'frame_index': stream.frame_index,
            'keyframes_in_bank': stream.keyframes,
            'map_points': stream.map_points,
            'frames_received': self._mailbox.received,
            'frames_dropped': self._mailbox.dropped,
            **scale_fields(stream.scale),
            **fields,
        }
        if stream.memory is not None:
            known['gpu_memory_used'] = stream.memory.used
            known['gpu_memory_peak'] = stream.memory.peak
        stamp_ns = health.last_stamp_ns or self._clock.now().nanoseconds
        self._outputs.publish('status', status_message(stamp_ns, health, **known))

    def reject(self, reason: str) -> None:
        """Count and log a frame that could not be used."""
        self._health.reject(reason)
        count = self._health.frames_rejected
        self._logger.warning(
            f'frame rejected: {reason} (frames_rejected: {count})', throttle_duration_sec=5.0
        )
        self.publish_status()

    def fault(self, reason: str) -> None:
        """Stop the stream, and unsubscribe from the camera, until it is reset."""
        self._health.enter(StreamState.FAULT, reason)
        self.wants_images = False
        self._logger.error(f'fault: {reason}')
        self.publish_status()

    def warn_of_overload(self) -> None:
        """Log once that images come faster than they can be processed."""
        now = (self._mailbox.received, self._mailbox.dropped)
        if self._counts_at_first is None:
            # Images dropped while the first one waited for its calibration do not count.
            self._counts_at_first = now
        received, dropped = now[0] - self._counts_at_first[0], now[1] - self._counts_at_first[1]
        if not self._reported_overload and received > _OVERLOAD_FRAMES and dropped > received / 2:
            self._reported_overload = True
            self._logger.info(
                f'{dropped} of {received} images were dropped (frames_dropped) because they come '
                'faster than they are processed: reduce the camera rate, input.max_rate or, for '
                'a network, model.image_size'
            )

    def _taken(self) -> NodeSnapshot:
        return NodeSnapshot(
            stream=self._engine.session.snapshot(self._engine.predictor),
            health=self._health.copy(),
            base=self._pose_output.base,
            wants_images=self.wants_images,
            correction_waits_for_metres=self._pose_output.correction_waits_for_metres,
            occupancy=self._occupancy_state(),
        )
