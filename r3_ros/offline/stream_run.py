"""A recorded sequence through the engine, every frame of it. Writes no files.

A reader thread decodes and undistorts a few frames ahead of the engine, which runs on the
caller's thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
import itertools
import math
import os
from pathlib import Path
from queue import SimpleQueue
import threading
import time
from typing import TypeVar

from ..core.config import InputConfig, R3Config
from ..core.datatypes import DepthMap, Estimate, Frame, Intrinsics, ModelInfo
from ..core.errors import FrameError, SourceError
from ..core.threads import thread_name
from ..core.trajectory_file import NANOSECONDS
from ..input.camera_model import CameraModel, Rectifier
from ..input.frame_filter import Action, FrameFilter, RATE
from ..input.rolling_shutter import RollingShutter
from ..input.source import RawFrame, Source
from ..maps.cloud import Cloud
from ..maps.keyframe_images import KeyframeImages
from ..maps.saved_map import MapFacts, SavedMap
from ..streaming.engine import Engine
from ..streaming.map_snapshot import MapSnapshot, take_map_snapshot
from ..streaming.scale.estimator import ScaleView
from ..streaming.trajectory import TrajectoryView
from .depth_samples import DepthSamples
from .frame_record import FrameRecord
from .run_events import EventLog, reason_and_advice

Item = TypeVar('Item')

_FRAMES_AHEAD = 4
#: Longest wait for the reader at the end; a source that blocks must not keep the process.
_LONGEST_WAIT_S = 2.0
#: Share of the frames that may be lost without a warning.
_SHORT_LOSS = 0.02
_LEFT_OUT_WARNINGS = 5


@dataclass(eq=False)
class RunResult:
    """The result of a run.

    :ivar mode: ``stream`` or ``offline``.
    :ivar rejected: number of frames not processed, by reason.
    :ivar intrinsics: of the last undistorted frame.
    :ivar readout_s: of the rolling shutter that the predictor measured; 0 without.
    :ivar last_depths: depth predicted after the last frame.
    :ivar events: what happened; ``depth_samples``: a few depth maps of it, for the report.
    :ivar wall_s: from the first frame to the last correction, reading included.
    :ivar interrupted: stopped by the user; the result covers the frames before.
    :ivar windows: number of windows, in offline mode.
    :ivar collection: names of the images, by frame, if they have no times.
    :ivar scale: length of a map unit; all lengths here are in map units.
    :ivar loaded: facts of the map that the run continued.
    :ivar map: from which a later run can continue; None in offline mode.
    """

    model: ModelInfo
    records: list[FrameRecord] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
    intrinsics: Intrinsics | None = None
    intrinsics_estimated: bool = False
    readout_s: float = 0.0
    camera: CameraModel | None = None
    trajectory: TrajectoryView | None = None
    cloud: Cloud | None = None
    last_depths: tuple[DepthMap, ...] = ()
    map_revisions: int = 0
    segments: int = 0
    loops_closed: int = 0
    events: EventLog = field(default_factory=EventLog)
    depth_samples: DepthSamples = field(default_factory=DepthSamples)
    wall_s: float = 0.0
    interrupted: bool = False
    mode: str = 'stream'
    windows: int = 0
    collection: tuple[str, ...] | None = None
    scale: ScaleView = field(default_factory=ScaleView)
    map: MapSnapshot | None = None
    loaded: MapFacts | None = None

    @property
    def first_warning(self) -> str:
        """The first warning, as the reason why nothing could be processed."""
        return self.warnings[0] if self.warnings else 'no reason was given'

    @property
    def left_out_share(self) -> float:
        """The share of the frames that were not processed, but for those of input.max_rate."""
        left_out = self.rejected.total() - self.rejected[RATE]
        return left_out / max(left_out + len(self.records), 1)

    def conclude(self, source: Source, start_advice: str = '') -> None:
        """Add what the source skipped and its warnings; the last one says what was left out.

        :param start_advice: of the predictor.
        """
        if source.skipped:
            self.rejected['not decoded'] += source.skipped
        losses = loss_warnings(self.records, start_advice)
        self.warnings = [*source.warnings, *self.warnings, *losses]
        if self.rejected:
            total = self.rejected.total()
            reasons = ', '.join(f'{count} {reason}' for reason, count in self.rejected.items())
            self.warnings.append(
                f'{total} of {total + len(self.records)} frames were left out: {reasons}'
            )

    def warn_left_out(self, reason: str) -> None:
        """Add a warning of a frame that was not processed, of the first ones only."""
        if len(self.warnings) < _LEFT_OUT_WARNINGS:
            self.warnings.append(f'left out a frame: {reason}')


#: Called after each step of the engine with the frame and its estimate.
OnFrame = Callable[[Frame, Estimate], None]


def run_source(
    source: Source,
    engine: Engine,
    max_frames: int | None = None,
    on_frame: OnFrame | None = None,
    stop: threading.Event | None = None,
    saved: SavedMap | None = None,
) -> RunResult:
    """Process the frames of a source in order and collect the result.

    One run is one session: frames that would start another (time jumped back, another size) are
    rejected and counted.

    :param stop: once set, the run ends early with what is there.
    :param saved: a map to relocalise in and to continue.
    :raises SourceError: no frame could be processed.
    :raises CalibrationError: the calibration does not fit the images.
    :raises MapError: the map cannot be used with this engine.
    """
    config = engine.config
    camera = source.camera_for(config.input.rectification)
    result = RunResult(engine.predictor.info, camera=camera)
    frame_filter = FrameFilter(one_session(config.input))
    images = KeyframeImages()
    if saved is not None:
        images.update(engine.load_map(saved).images)
        result.loaded = saved.facts
    started = time.perf_counter()
    with read_ahead(undistorted_frames(source, config, max_frames)) as frames:
        for frame, read_ms in frames:
            if stop is not None and stop.is_set():
                result.interrupted = True
                break
            _process(frame, read_ms, engine, frame_filter, result, images, on_frame)
        _, result.last_depths = engine.drain()
    result.depth_samples.note(result.last_depths)
    result.wall_s = time.perf_counter() - started
    if not result.records and not result.interrupted:
        raise SourceError(f'no frame of {source.name} could be processed: {result.first_warning}')
    session = engine.session
    result.intrinsics = session.intrinsics
    # Without the loaded part, which belongs to the map and not to this run.
    result.trajectory = session.trajectory_view().since(session.first_frame)
    result.cloud = session.map_view().cloud()
    result.map_revisions = session.map_revision
    result.segments = session.newest_segment + 1
    result.loops_closed = session.loops_closed
    result.scale = session.scale.view()
    result.rejected.update(frame_filter.rejected)
    result.conclude(source, engine.predictor.start_advice)
    result.map = take_map_snapshot(session, engine.predictor, images.copy())
    return result


def loss_warnings(records: Sequence[FrameRecord], start_advice: str = '') -> list[str]:
    """Say when the camera was lost, why, and what helps; nothing about short losses.

    :param start_advice: what helps if it was never tracked.
    """
    tracked = [n for n, record in enumerate(records) if record.tracked]
    if not tracked:
        return [_nothing_tracked(records[-1], start_advice)] if records else []
    lost = [n for n in range(tracked[0], len(records)) if not records[n].tracked]
    if len(lost) <= _SHORT_LOSS * len(records):
        return []
    # The longest stretch: where the distance to the number of lost frames before stays the same.
    stretches = itertools.groupby(enumerate(lost), key=lambda item: item[1] - item[0])
    longest = max(([n for _, n in stretch] for _, stretch in stretches), key=len)
    first, last = longest[0], longest[-1]
    at_s = (records[first].stamp_ns - records[0].stamp_ns) / NANOSECONDS
    until = 'until the end' if last == len(records) - 1 else f'for {len(longest)} frames'
    reason, advice = reason_and_advice(records[first])
    return [
        f'THE CAMERA WAS LOST in {len(lost)} of {len(records)} frames, longest from frame {first} '
        f'({at_s:.1f} s) {until}: {reason}. These frames have no pose, and the rest of the map '
        f'may be missing. {advice}'
    ]


def _nothing_tracked(last: FrameRecord, start_advice: str) -> str:
    reason, advice = reason_and_advice(last)
    said = f'nothing was tracked, so the poses are no estimates: {last.state.value}, {reason}'
    if start_advice:
        advice = '' if start_advice in reason else start_advice
    return f'{said}. {advice[:1].upper()}{advice[1:]}' if advice else said


def one_session(config: InputConfig) -> InputConfig:
    """Return the input settings of a recording, all of which is one session."""
    return replace(config, on_time_jump_back='ignore', on_resolution_change='reject', max_age=0.0)


def _process(
    frame: Frame,
    read_ms: float,
    engine: Engine,
    frame_filter: FrameFilter,
    result: RunResult,
    images: KeyframeImages,
    on_frame: OnFrame | None,
) -> None:
    height, width = frame.image.shape[:2]
    verdict = frame_filter.admit(frame.stamp_ns, width, height)
    if verdict.action is not Action.ACCEPT:
        result.warn_left_out(verdict.reason)
        return
    began = time.perf_counter()
    try:
        estimate = engine.step(frame)
    except FrameError as error:
        result.rejected['refused by the predictor'] += 1
        result.warn_left_out(str(error))
        return
    step_ms = 1e3 * (time.perf_counter() - began)
    images.note(frame.image, estimate)
    _give_up_search(engine, frame.stamp_ns, result, images)
    record = _record(estimate, read_ms, step_ms, engine.session.loops_closed)
    result.records.append(record)
    result.events.note(record, frame.image)
    result.depth_samples.note(estimate.depths)
    result.intrinsics_estimated = estimate.intrinsics_estimated
    result.readout_s = estimate.readout_s
    if on_frame is not None:
        on_frame(frame, estimate)


def _give_up_search(
    engine: Engine, stamp_ns: int, result: RunResult, images: KeyframeImages
) -> None:
    """Drop a map in which relocalisation timed out, and begin a new session."""
    timeout_s = engine.config.relocalise.timeout
    began_ns = result.records[0].stamp_ns if result.records else stamp_ns
    if engine.is_relocalising and (stamp_ns - began_ns) * 1e-9 > timeout_s:
        engine.reset()
        images.clear()
        result.loaded = None
        result.warnings.append(
            f'the camera was not found in the map within {timeout_s:g} s (relocalise.timeout): '
            'the run continues without it'
        )


def _record(estimate: Estimate, read_ms: float, step_ms: float, loops_closed: int) -> FrameRecord:
    return FrameRecord(
        frame_id=estimate.frame_id,
        stamp_ns=estimate.stamp_ns,
        state=estimate.state,
        reason=estimate.reason,
        has_pose=estimate.T_world_camera is not None,
        is_keyframe=estimate.is_keyframe,
        confidence_translation=estimate.confidence_translation,
        confidence_rotation=estimate.confidence_rotation,
        confidence_ratio=estimate.confidence_ratio,
        context_frames=len(estimate.context_ids),
        corrected_frames=len(estimate.corrected),
        segment_id=estimate.segment_id,
        loops_closed=loops_closed,
        resident_mib=resident_mib(),
        read_ms=read_ms,
        step_ms=step_ms,
        timings_ms=estimate.timings_ms,
        covariance=estimate.covariance,
        T_previous_camera=estimate.T_previous_camera,
        step_covariance=estimate.step_covariance,
    )


def resident_mib(pid: int | str = 'self') -> float:
    """Return the resident memory of a process in MiB, NaN where the system does not tell."""
    try:
        pages = int(Path(f'/proc/{pid}/statm').read_text(encoding='ascii').split()[1])
    except OSError:
        return math.nan
    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


def undistorted_frames(
    source: Source, config: R3Config, max_frames: int | None
) -> Iterator[tuple[Frame, float]]:
    """Give undistorted frames, each with the milliseconds taken to read and undistort it."""
    camera = source.camera_for(config.input.rectification)
    undistort = Undistorter(camera, config.input.readout_time)
    began = time.perf_counter()
    for number, raw in enumerate(source, start=1):
        frame = undistort.frame(raw)
        yield frame, 1e3 * (time.perf_counter() - began)
        if number == max_frames:
            return
        began = time.perf_counter()


class Undistorter:
    """Turns recorded frames into engine frames: undistorted, with matching intrinsics.

    :param readout_s: of a rolling shutter; frames have to be in order then.
    """

    def __init__(self, camera: CameraModel | None, readout_s: float = 0.0) -> None:
        self._shutter = RollingShutter(readout_s)
        self._camera = camera
        self._size: tuple[int, int] | None = None
        self._rectifier: Rectifier | None = None
        self._intrinsics: Intrinsics | None = None

    def frame(self, raw: RawFrame) -> Frame:
        """Return the undistorted frame.

        :raises CalibrationError: the calibration is for images of another shape.
        """
        height, width = raw.image.shape[:2]
        if self._size is None:
            # Later images of another size are rejected by the frame filter.
            self._size = (width, height)
            if self._camera is not None:
                self._rectifier = Rectifier(self._camera.scaled_to(width, height))
                self._intrinsics = self._rectifier.intrinsics
        image = self._shutter.corrected(raw.image, raw.stamp_ns)
        if self._rectifier is not None and (width, height) == self._size:
            image = self._rectifier.rectify(image)
        return Frame(image, raw.stamp_ns, self._intrinsics)


@contextmanager
def read_ahead(items: Iterator[Item]) -> Iterator[Iterator[Item]]:
    """Iterate on a reader thread, a few items ahead; its errors are raised in the consumer."""
    done: SimpleQueue[Item | BaseException | None] = SimpleQueue()
    room, closed = threading.Semaphore(_FRAMES_AHEAD), threading.Event()

    def read() -> None:
        try:
            while room.acquire() and not closed.is_set():
                done.put(next(items, None))
        except BaseException as error:  # any: the consumer waits for an answer
            done.put(error)

    def ahead() -> Iterator[Item]:
        while (item := done.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            room.release()
            yield item

    # A daemon: Python waits for all other threads before it ends.
    reader = threading.Thread(target=read, name=thread_name('frame_reader'), daemon=True)
    reader.start()
    try:
        yield ahead()
    finally:
        closed.set()
        room.release()
        reader.join(_LONGEST_WAIT_S)
