"""What happened in a run: losses, gaps, segments, loops; in words, with what helps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from ..core.datatypes import TrackingState
from ..core.trajectory_file import NANOSECONDS
from ..maps.keyframe_images import encode_image
from .frame_record import FrameRecord

#: Events that are kept, those that concern the most frames.
MOST_EVENTS = 30
#: A start that takes longer is an event.
_LONG_START_S = 1.0
#: A wait for the image is told if it is longer, and so many times the one before.
_LONG_WAIT_S = 1.0
_LONG_WAIT_FACTOR = 4
#: A correction of more frames than so many times the usual number is told.
_LARGE_CORRECTION = 2
_USUAL_CORRECTIONS = 51
_THUMBNAIL_WIDTH = 160
#: Reasons of the engine by their beginnings, and what helps.
_HELP = (
    (
        'the image is',
        'Keep the lens free, and set the exposure so that the image shows something.',
    ),
    ('the camera has sent', 'Check the driver, the cable and the bandwidth of the camera.'),
    ('looking for the place', 'Begin in view of a place of the map, seen from a similar side.'),
    ('not related', 'Add images that overlap: each should share half of its view with others.'),
    ('no geometry yet', ''),  # the reason says it, in the words of the predictor
)
_HELP_LOST = (
    'Move and turn more slowly, with texture in view, and come back to a place seen before.'
)


@dataclass(eq=False)
class RunEvent:
    """Something that happened in a run.

    :ivar kind: ``start``, ``lost``, ``gap``, ``segment``, ``joined``, ``loop`` or ``correction``.
    :ivar frame_id: where it began, at ``stamp_ns``.
    :ivar frames: number of frames that it concerns.
    :ivar duration_s: 0 for what happened at once.
    :ivar until_end: it had not ended at the last frame.
    :ivar what: in words; ``advice``: what helps, may be empty.
    :ivar image: JPEG of the frame where it began; None if the images were not at hand.
    """

    kind: str
    frame_id: int
    stamp_ns: int
    what: str
    advice: str = ''
    frames: int = 0
    duration_s: float = 0.0
    until_end: bool = False
    image: bytes | None = None


class EventLog:
    """Collects the events of a run, frame by frame, in bounded memory.

    :ivar left_out: number of events that were dropped since others concern more frames.
    """

    def __init__(self) -> None:
        self.left_out = 0
        self._events: list[RunEvent] = []
        self._before: FrameRecord | None = None
        self._wait_s = 0.0
        self._open: RunEvent | None = None
        self._has_tracked = False
        self._newest_segment = 0
        self._corrections: deque[int] = deque(maxlen=_USUAL_CORRECTIONS)

    def note(self, record: FrameRecord, image: np.ndarray | None = None) -> None:
        """Add the next frame of the run.

        :param image: (H, W, 3) uint8 RGB, or (H, W) grey, of the frame.
        """
        before, self._before = self._before, record
        usual_s = self._wait_s
        if before is not None:
            self._wait_s = (record.stamp_ns - before.stamp_ns) / NANOSECONDS
        is_late = self._wait_s > max(_LONG_WAIT_S, _LONG_WAIT_FACTOR * usual_s)
        begun = [*self._loss(record, is_late), *self._segments_and_loops(record, before)]
        if begun and image is not None:
            data = _thumbnail(image)
            for event in begun:
                event.image = data
        self._events += begun
        if len(self._events) > 4 * MOST_EVENTS:
            self._drop_small(2 * MOST_EVENTS)

    def events(self) -> list[RunEvent]:
        """Return at most :data:`MOST_EVENTS` events in the order of the frames."""
        self._drop_small(MOST_EVENTS)
        return [event for event in self._events if not _is_quick_start(event)]

    def _drop_small(self, count: int) -> None:
        by_size = sorted(self._events, key=lambda event: (not event.until_end, -event.frames))
        dropped = by_size[count:]
        self.left_out += len(dropped)
        self._events = [event for event in self._events if event not in dropped]

    def _loss(self, record: FrameRecord, is_late: bool) -> list[RunEvent]:
        """Begin, extend or end a stretch of frames without a tracked pose."""
        begun = []
        if not record.tracked and self._open is None:
            self._open = self._untracked(record, is_late)
            begun = [self._open]
        if self._open is not None:
            event = self._open
            event.duration_s = (record.stamp_ns - event.stamp_ns) / NANOSECONDS
            if record.tracked:
                event.until_end = False
                self._open = None
            else:
                event.frames += 1
                if event.kind == 'start':  # the last reason tells the most
                    event.what, event.advice = reason_and_advice(record)
        self._has_tracked |= record.tracked
        return begun

    def _untracked(self, record: FrameRecord, is_late: bool) -> RunEvent:
        kind = 'lost' if self._has_tracked else 'start'
        what, advice = reason_and_advice(record)
        if self._has_tracked and (is_late or record.state is TrackingState.RECOVERING):
            kind, what = 'gap', f'no image came for {self._wait_s:.1f} s; then: {what}'
            advice = 'Keep the images coming: the camera moved unseen, and had to be found again.'
        return RunEvent(kind, record.frame_id, record.stamp_ns, what, advice, until_end=True)

    def _segments_and_loops(
        self, record: FrameRecord, before: FrameRecord | None
    ) -> list[RunEvent]:
        if before is None:
            return []
        segment, frame = record.segment_id, (record.frame_id, record.stamp_ns)
        if segment > self._newest_segment:
            self._newest_segment = segment
            what = f'segment {segment} began: a map of its own, without published poses'
            advice = 'Come back to a place of the main map from a similar side: it joins the two.'
            return [RunEvent('segment', *frame, what, advice, frames=1)]
        joined = segment < before.segment_id
        if record.loops_closed > before.loops_closed:
            kind, what = 'loop', 'a place was recognised: map and past poses were corrected'
            if joined:
                kind, what = 'joined', f'segment {before.segment_id} was joined to the map'
            return [RunEvent(kind, *frame, what, frames=max(record.corrected_frames, 1))]
        if joined:
            what = f'the camera was found in the map again: segment {before.segment_id} was left'
            return [RunEvent('joined', *frame, what, frames=1)]
        return self._large_correction(record)

    def _large_correction(self, record: FrameRecord) -> list[RunEvent]:
        """Return the event of a correction that reaches far, as a predictor's own loop does."""
        count, known = record.corrected_frames, self._corrections
        usual = float(np.median(known)) if known else float('inf')
        if count:
            known.append(count)
        if count <= _LARGE_CORRECTION * usual:
            return []
        what = (
            f'{count} past poses were corrected at once, usually {usual:.0f}, as when the '
            'predictor recognises a place'
        )
        return [RunEvent('correction', record.frame_id, record.stamp_ns, what, frames=count)]


def events_of(records: Iterable[FrameRecord]) -> EventLog:
    """Return the events of frames whose images are not at hand."""
    log = EventLog()
    for record in records:
        log.note(record)
    return log


def reason_and_advice(record: FrameRecord) -> tuple[str, str]:
    """Return why a frame is not tracked, and what helps."""
    reason = record.reason or record.state.value
    advice = next((text for start, text in _HELP if reason.startswith(start)), _HELP_LOST)
    return reason, advice


def _is_quick_start(event: RunEvent) -> bool:
    return event.kind == 'start' and not event.until_end and event.duration_s < _LONG_START_S


def _thumbnail(image: np.ndarray) -> bytes:
    height, width = image.shape[:2]
    size = (_THUMBNAIL_WIDTH, max(1, round(_THUMBNAIL_WIDTH * height / width)))
    return encode_image(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
