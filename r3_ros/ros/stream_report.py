"""What the worker leaves for other threads, and what it publishes of its own state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TYPE_CHECKING

from rclpy.clock import Clock

from ..runtime import Mailbox
from ..streaming.snapshot import StreamSnapshot, take_snapshot
from .conversions import Received
from .frame_tree import Base
from .health import Health, StreamState
from .messages import memory_fields, scale_fields, status_message
from .outputs import Outputs
from .placing import Placing

if TYPE_CHECKING:
    from ..streaming.engine import Engine

_OVERLOAD_FRAMES = 100


@dataclass(frozen=True, eq=False)
class NodeSnapshot:
    """All that other threads may know of the worker's state; nothing in it changes any more.

    :ivar health: a copy.
    :ivar base: the moving frame whose pose is published; None before the first image.
    :ivar wants_images: whether the camera is to be subscribed to; in FAULT it is not.
    :ivar holds_back_correction: a robot is not corrected for want of metres.
    :ivar occupancy: what became of the last occupancy grid, in words.
    """

    stream: StreamSnapshot
    health: Health
    base: Base | None
    wants_images: bool
    holds_back_correction: bool
    occupancy: str


class StreamReport:
    """Leaves snapshots and publishes ``~/status``. Worker thread, but for :attr:`snapshot`.

    :ivar snapshot: the newest, for any thread.
    :ivar wants_images: whether the camera is to be subscribed to.
    :ivar on_demand: called when that has changed, or when the device is lost.
    :ivar is_silent: nothing is published: the node does not wait for the worker any more.
    """

    def __init__(
        self,
        engine: Engine,
        health: Health,
        pose_output: Placing,
        occupancy_state: Callable[[], str],
        outputs: Outputs,
        mailbox: Mailbox[Received],
        clock: Clock,
        logger: Any,
    ) -> None:
        """Leave a first snapshot."""
        self.wants_images = True
        self.on_demand: Callable[[], None] = lambda: None
        self.is_silent: Callable[[], bool] = lambda: False
        self._engine = engine
        self._health = health
        self._pose_output = pose_output
        self._occupancy_state = occupancy_state
        self._outputs = outputs
        self._mailbox = mailbox
        self._clock = clock
        self._logger = logger
        self._counts_at_first: tuple[int, int] | None = None
        self._reported_overload = False
        self.snapshot = self._taken()

    def leave_snapshot(self) -> None:
        """Replace the snapshot by one of now."""
        before, now = self.snapshot, self._taken()
        self.snapshot = now
        device_lost = now.health.device_lost and not before.health.device_lost
        if device_lost or now.wants_images != before.wants_images:
            self.on_demand()

    def publish_status(self, **fields: Any) -> None:
        """Publish the state and all counters as they are, and leave them as a snapshot."""
        self.leave_snapshot()
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
            **memory_fields(stream.memory),
            **fields,
        }
        stamp_ns = health.last_stamp_ns or self._clock.now().nanoseconds
        self._outputs.publish(
            'status', status_message(stamp_ns, health.optical_frame, health, **known)
        )

    def reject(self, reason: str, kind: str) -> None:
        """Count a frame that could not be used, and say so."""
        self._health.reject(reason, kind)
        count = self._health.frames_rejected
        self._logger.warning(
            f'frame rejected: {reason} (frames_rejected: {count})', throttle_duration_sec=5.0
        )
        self.publish_status()

    def fault(self, reason: str) -> None:
        """Stop the stream until somebody resets it; until then images are only a burden."""
        self._health.enter(StreamState.FAULT, reason)
        self.wants_images = False
        self._logger.error(f'fault: {reason}')
        self.publish_status()

    def warn_of_overload(self) -> None:
        """Say once that images come faster than they can be processed."""
        now = (self._mailbox.received, self._mailbox.dropped)
        if self._counts_at_first is None:
            # Those dropped while the first one waited for its calibration mean nothing.
            self._counts_at_first = now
        received, dropped = (
            count - at for count, at in zip(now, self._counts_at_first, strict=True)
        )
        if not self._reported_overload and received > _OVERLOAD_FRAMES and dropped > received / 2:
            self._reported_overload = True
            self._logger.info(
                f'{dropped} of {received} pictures were dropped (frames_dropped) because they '
                'come faster than they are processed: lower the camera rate, input.max_rate or, '
                'of R3, model.image_size'
            )

    def _taken(self) -> NodeSnapshot:
        return NodeSnapshot(
            stream=take_snapshot(self._engine.session, self._engine.predictor),
            health=self._health.copy(),
            base=self._pose_output.base,
            wants_images=self.wants_images,
            holds_back_correction=self._pose_output.holds_back_correction,
            occupancy=self._occupancy_state(),
        )
