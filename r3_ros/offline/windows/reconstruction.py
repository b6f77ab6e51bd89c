"""A recording or a collection of pictures through windows of full context. No files but depth.

The result is that of a stream: poses, depth and map in one unit, the world being the first
picture that has a pose.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from itertools import chain
import math
from pathlib import Path
import sys
import threading
import time

import numpy as np

from ...core.config import R3Config
from ...core.datatypes import DepthMap, Intrinsics, TrackingState
from ...core.errors import FrameError, ModelError, SourceError
from ...core.similarity import rigid_part, scale_of
from ...core.window_predictor import WindowPrediction, WindowPredictor
from ...input.folder_source import FolderSource
from ...input.network_input import intrinsics_from_fov
from ...input.source import Source
from ...streaming.trajectory import Trajectory
from ..run_files import rescale_depth, save_depth
from ..stream_run import FrameRecord, RunResult
from .window_clouds import ImageClouds
from .window_graph import check_solver
from .window_images import collected_images, images_in_time, WindowImage
from .window_joining import DepthGrid
from .window_order import ByLooks, ImageWindow, InTime, WindowOrder
from .window_placing import least_score, place_windows, SeenWindow, usual_score, WindowPlacement
from .window_relations import relations_of

#: Called after each window with the result so far, the number of pictures in the window, and how
#: many of them are new.
OnWindow = Callable[[RunResult, int, int], None]


def reconstruct(
    source: Source,
    predictor: WindowPredictor,
    config: R3Config,
    max_frames: int | None = None,
    on_window: OnWindow | None = None,
    stop: threading.Event | None = None,
    depth_folder: Path | None = None,
) -> RunResult:
    """Show all pictures of a source to the predictor, window by window, and place them.

    :param on_window: see :data:`OnWindow`.
    :param stop: once set, the run ends after the present window with what is there.
    :param depth_folder: where depth of the pictures is saved, in the unit of the world.
    :raises SourceError: the source gives no picture that can be used.
    :raises ModelError: not even two pictures fit into memory, or a library is missing.
    """
    check_solver()
    camera = source.camera_for(config.input.rectification)
    result = RunResult(source.name, predictor.info, camera=camera, mode='offline')
    started = time.perf_counter()
    run = _Run(predictor, config, result, depth_folder)
    with closing(_windows(source, predictor, config, max_frames, result, stop)) as steps:
        for order, window in steps:
            order.placed(run.see(window))
            result.windows += 1
            if on_window is not None:
                count = len(window.pictures)
                on_window(result, count, count - window.shared)
            if stop is not None and stop.is_set():
                result.interrupted = True
                break
    result.interrupted |= stop is not None and stop.is_set()
    run.finish()
    result.wall_s = time.perf_counter() - started
    if source.skipped:
        result.rejected['not decoded'] += source.skipped
    result.warnings = [*source.warnings, *result.warnings]
    return result


def _windows(
    source: Source,
    predictor: WindowPredictor,
    config: R3Config,
    max_frames: int | None,
    result: RunResult,
    stop: threading.Event | None,
) -> Generator[tuple[WindowOrder, ImageWindow], None, None]:
    """Give windows until all pictures were shown, each with the order that gave it."""
    if isinstance(source, FolderSource) and source.is_collection:
        pictures = collected_images(source, predictor, config, max_frames, result, stop)
        if stop is not None and stop.is_set():
            return
        size, overlap = _window_size(pictures[0], len(pictures), predictor, config, result)
        descriptors = np.stack([predictor.describe(picture.pixels) for picture in pictures])
        result.collection = tuple(picture.name for picture in pictures)
        yield from _in_order(ByLooks(pictures, descriptors, size, overlap))
        return
    with closing(images_in_time(source, predictor, config, max_frames, result)) as in_time:
        first = next(in_time, None)
        if first is None:
            reason = result.warnings[0] if result.warnings else 'none was given'
            raise SourceError(f'not one frame of {source.name} could be used: {reason}')
        count = max_frames or source.length or sys.maxsize
        size, overlap = _window_size(first, count, predictor, config, result)
        yield from _in_order(InTime(chain([first], in_time), size, overlap))


def _in_order(order: WindowOrder) -> Generator[tuple[WindowOrder, ImageWindow], None, None]:
    while (window := order.following()) is not None:
        yield order, window


def _window_size(
    picture: WindowImage,
    count: int,
    predictor: WindowPredictor,
    config: R3Config,
    result: RunResult,
) -> tuple[int, int]:
    """Return how many pictures are shown at once, and how many of them again.

    :param count: of all pictures, as far as it is known.
    """
    possible = predictor.most_frames(*picture.size)
    if possible < min(2, count):
        raise ModelError(
            f'offline.max_memory_mib ({config.offline.max_memory_mib}) leaves room for {possible} '
            f'pictures of {picture.size[0]}x{picture.size[1]} pixels at once: raise it, or lower '
            'model.image_size'
        )
    wanted = config.offline.window_frames or possible
    overlap = config.offline.overlap_frames
    if possible >= wanted:
        size = wanted
    else:
        size = possible
        if count > possible:
            result.warnings.append(
                f'{possible} pictures at once instead of {wanted}: more do not fit into '
                f'offline.max_memory_mib ({config.offline.max_memory_mib})'
            )
    return size, min(overlap, max(size // 2, 1)) if size <= overlap else overlap


class _Run:
    """What is kept of the windows seen so far."""

    def __init__(
        self,
        predictor: WindowPredictor,
        config: R3Config,
        result: RunResult,
        depth_folder: Path | None,
    ) -> None:
        self._predictor, self._config, self._result = predictor, config, result
        self._depth_folder = depth_folder
        self._clouds = ImageClouds(config.points, config.map)
        self._windows: list[SeenWindow] = []
        self._records: dict[int, FrameRecord] = {}
        self._has_depth: list[int] = []
        #: Intrinsics of undistorted pictures, by frame; and whether they were guessed.
        self._cameras: dict[int, tuple[Intrinsics, bool]] = {}

    def see(self, window: ImageWindow) -> list[WindowImage]:
        """Predict a window and return its pictures that are related to one another."""
        began = time.perf_counter()
        prediction = self._predictor.predict([picture.pixels for picture in window.pictures])
        new = window.pictures[window.shared :]
        step_ms = 1e3 * (time.perf_counter() - began) / len(new)
        cameras = self._intrinsics(window, prediction)
        for row in range(window.shared, len(window.pictures)):
            self._take(window.pictures[row], cameras[row], prediction, row)
        seen = SeenWindow(
            frame_ids=tuple(picture.frame_id for picture in window.pictures),
            shared=window.shared,
            relations=relations_of(prediction),
            usable=np.array([camera is not None for camera in cameras]),
            grids=_grids(window, prediction),
        )
        self._windows.append(seen)
        for picture in new:
            self._records[picture.frame_id] = _blank_record(
                picture, len(window.pictures) - 1, step_ms
            )
        group = seen.group(least_score(usual_score(self._windows), self._config))
        return [window.pictures[row] for row in sorted(group)]

    def _intrinsics(
        self, window: ImageWindow, prediction: WindowPrediction
    ) -> list[Intrinsics | None]:
        """Return those of each picture: as calibrated, else as predicted; None: nothing usable.

        The frames of a recording come from one camera, whose view is their median.
        """
        fov = prediction.fov
        if self._result.collection is None:
            fov = np.broadcast_to(np.median(fov, axis=0), fov.shape)
        cameras: list[Intrinsics | None] = []
        for picture, (vertical, horizontal) in zip(window.pictures, fov, strict=True):
            try:
                camera = picture.intrinsics or intrinsics_from_fov(
                    vertical, horizontal, *picture.size
                )
            except FrameError as error:
                self._warn(f'left out {_named(picture)}: {error}')
                cameras.append(None)
                continue
            cameras.append(camera)
            source_camera = picture.geometry.to_source(camera)
            self._cameras[picture.frame_id] = source_camera, picture.intrinsics is None
        return cameras

    def _take(
        self,
        picture: WindowImage,
        camera: Intrinsics | None,
        prediction: WindowPrediction,
        row: int,
    ) -> None:
        """Keep points and depth of a picture that is new."""
        if camera is None or prediction.depth is None or prediction.confidence is None:
            return
        depth_map = DepthMap(
            frame_id=picture.frame_id,
            depth=prediction.depth[row],
            confidence=prediction.confidence[row],
            image=picture.pixels,
            intrinsics=camera,
        )
        self._clouds.add(depth_map)
        self._has_depth.append(picture.frame_id)
        if self._depth_folder is not None:
            save_depth(self._depth_folder, depth_map, picture.stamp_ns)

    def finish(self) -> None:
        """Place all pictures and fill the result."""
        result, config = self._result, self._config
        placement = place_windows(self._windows, config)
        self._tell_left_out(placement)
        result.records = [
            _record(record, placement, config) for _, record in sorted(self._records.items())
        ]
        if result.collection is not None:
            result.collection = tuple(result.collection[r.frame_id] for r in result.records)
        trajectory = Trajectory(max(1, len(result.records)))
        for record in result.records:
            S = placement.S_world_frame.get(record.frame_id)
            T = None if S is None else rigid_part(S)
            trajectory.append(
                record.frame_id, record.stamp_ns, record.state, record.is_keyframe, T
            )
        result.trajectory = trajectory.view(placement.S_world_frame)
        result.cloud = self._clouds.in_world(placement.S_world_frame)
        result.segments = 1
        if self._cameras:
            result.intrinsics, result.intrinsics_estimated = self._cameras[max(self._cameras)]
        self._finish_depth(placement)

    def _finish_depth(self, placement: WindowPlacement) -> None:
        """Bring saved depth into the unit of the world; that of pictures without a pose goes."""
        if self._depth_folder is None:
            return
        for frame_id in self._has_depth:
            S = placement.S_world_frame.get(frame_id)
            rescale_depth(self._depth_folder, frame_id, None if S is None else float(scale_of(S)))

    def _tell_left_out(self, placement: WindowPlacement) -> None:
        for number in placement.not_joined:
            ids = self._windows[number].frame_ids[self._windows[number].shared :]
            self._warn(
                f'frames {min(ids)} to {max(ids)} have no pose: nothing that they share with the '
                'others tells where they are'
            )
        joined = [w for n, w in enumerate(self._windows) if n not in placement.not_joined]
        lost = [
            frame_id
            for window in joined
            for frame_id in window.frame_ids[window.shared :]
            if frame_id not in placement.S_world_frame
        ]
        if lost:
            names = self._result.collection
            told = [names[i] if names else str(i) for i in sorted(lost)[:10]]
            more = f' and {len(lost) - 10} more' if len(lost) > 10 else ''
            self._warn(
                f'{len(lost)} pictures have no pose, since they are not related to the others: '
                + ', '.join(told)
                + more
            )

    def _warn(self, text: str) -> None:
        if len(self._result.warnings) < 20:
            self._result.warnings.append(text)


def _named(picture: WindowImage) -> str:
    return picture.name or f'frame {picture.frame_id}'


def _grids(window: ImageWindow, prediction: WindowPrediction) -> dict[int, DepthGrid]:
    if prediction.depth is None or prediction.confidence is None:
        return {}
    maps = zip(window.pictures, prediction.depth, prediction.confidence, strict=True)
    return {picture.frame_id: DepthGrid.of(depth, sure) for picture, depth, sure in maps}


def _blank_record(picture: WindowImage, others: int, step_ms: float) -> FrameRecord:
    """Return the record of a picture that has no pose yet."""
    return FrameRecord(
        frame_id=picture.frame_id,
        stamp_ns=picture.stamp_ns,
        state=TrackingState.LOST,
        reason='not related to the other pictures',
        has_pose=False,
        is_keyframe=False,
        confidence_translation=math.nan,
        confidence_rotation=math.nan,
        confidence_ratio=0.0,
        context_frames=others,
        corrected_frames=0,
        read_ms=picture.read_ms,
        step_ms=step_ms,
        timings_ms={},
    )


def _record(record: FrameRecord, placement: WindowPlacement, config: R3Config) -> FrameRecord:
    """Return the record with what was found of its picture."""
    translation, rotation = (float(score) for score in placement.scores[record.frame_id])
    ratio = 0.5 * (translation + rotation) / placement.reference
    if math.isnan(ratio):
        ratio = 0.0 if math.isfinite(placement.reference) else 1.0
    record = replace(
        record,
        confidence_translation=translation,
        confidence_rotation=rotation,
        confidence_ratio=ratio,
    )
    if record.frame_id not in placement.S_world_frame:
        return record
    low = ratio < config.tracking.low_confidence_ratio
    state = TrackingState.LOW_CONFIDENCE if low else TrackingState.TRACKING
    reason = 'weakly related to the other pictures' if low else 'full context'
    return replace(record, state=state, reason=reason, has_pose=True, is_keyframe=True)
