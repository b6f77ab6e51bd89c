"""Offline reconstruction of a recording or an image collection. Writes no files except depth.

As in a stream, the result has poses, depth and map in one unit, and the world is the first image
with a pose.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import chain
import math
from pathlib import Path
import sys
import threading
import time

import numpy as np

from ...core.config import R3Config, TrackingConfig
from ...core.datatypes import DepthMap, Intrinsics, TrackingState
from ...core.errors import FrameError, ModelError, SourceError
from ...core.geometry import rigid_part, scale_of
from ...core.predictor import WindowPrediction, WindowPredictor
from ...core.unit_scale import DepthGrid
from ...input.folder_source import FolderSource
from ...input.network_input import intrinsics_from_fov
from ...input.source import Source
from ...streaming.loops.pose_optimizer import load_gtsam
from ...streaming.trajectory import Trajectory
from ..frame_record import FrameRecord
from ..run_events import events_of
from ..run_files import rescale_depth, save_depth
from ..stream_run import RunResult
from .window_clouds import ImageClouds
from .window_images import (
    collected_images,
    images_in_time,
    ImageWindow,
    OrderBySimilarity,
    OrderByTime,
    WindowImage,
)
from .window_placement import (
    median_score,
    min_score,
    place_windows,
    PredictedWindow,
    WindowPlacement,
)
from .window_relations import relations_of

#: Called after each window with the result so far, the number of images in the window, and how
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
    """Predict all images of a source, window by window, and compute their poses.

    :param stop: once set, the run ends after the present window with what is there.
    :param depth_folder: where depth of the images is saved, in the unit of the world.
    :raises SourceError: the source gives no usable image.
    :raises ModelError: memory holds fewer than two images, or a library is missing.
    """
    load_gtsam()  # so that a missing library is reported before the work begins
    camera = source.camera_for(config.input.rectification)
    result = RunResult(predictor.info, camera=camera, mode='offline')
    started = time.perf_counter()
    run = _WindowRun(predictor, config, result, depth_folder)
    with ExitStack() as stack:
        order = run.order(source, max_frames, stop, stack)
        while order is not None and (window := order.next_window()) is not None:
            order.mark_placed(run.predict(window))
            result.windows += 1
            if on_window is not None:
                on_window(result, len(window.images), len(window.images) - window.shared)
            if stop is not None and stop.is_set():
                break
    result.interrupted = stop is not None and stop.is_set()
    run.finish()
    result.wall_s = time.perf_counter() - started
    result.conclude(source)
    return result


class _WindowRun:
    """The windows predicted so far."""

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
        self._windows: list[PredictedWindow] = []
        #: Stamp, reading time, number of other images in the window, and step time, by frame.
        self._frames: dict[int, tuple[int, float, int, float]] = {}
        self._has_depth: list[int] = []
        #: Intrinsics of undistorted images, by frame, and whether they are estimated.
        self._cameras: dict[int, tuple[Intrinsics, bool]] = {}

    def order(
        self,
        source: Source,
        max_frames: int | None,
        stop: threading.Event | None,
        stack: ExitStack,
    ) -> OrderByTime | OrderBySimilarity | None:
        """Return what gives the windows; None if the run was stopped while images were read.

        :param stack: closes the reader of a recording.
        """
        predictor, config, result = self._predictor, self._config, self._result
        if isinstance(source, FolderSource) and source.is_collection:
            images = collected_images(source, predictor, config, max_frames, result, stop)
            if stop is not None and stop.is_set():
                return None
            size, overlap = self._window_size(images[0], len(images))
            descriptors = np.stack([predictor.describe(image.pixels) for image in images])
            result.collection = tuple(image.name for image in images)
            return OrderBySimilarity(images, descriptors, size, overlap)
        in_time = images_in_time(source, predictor, config, max_frames, result)
        stack.callback(in_time.close)
        first = next(in_time, None)
        if first is None:
            raise SourceError(f'no frame of {source.name} could be used: {result.first_warning}')
        count = max_frames or source.length or sys.maxsize
        size, overlap = self._window_size(first, count)
        return OrderByTime(chain([first], in_time), size, overlap)

    def _window_size(self, image: WindowImage, count: int) -> tuple[int, int]:
        """Return the number of images in a window, and how many of them are shared.

        :param count: of all images, as far as it is known.
        """
        offline = self._config.offline
        possible = self._predictor.most_frames(*image.size)
        if possible < min(2, count):
            raise ModelError(
                f'offline.max_memory_mib ({offline.max_memory_mib}) leaves room for {possible} '
                f'images of {image.size[0]}x{image.size[1]} pixels at once: raise it, or lower '
                'model.image_size'
            )
        wanted = offline.window_frames or possible
        size, overlap = min(wanted, possible), offline.overlap_frames
        if size < wanted and count > size:
            self._result.warnings.append(
                f'{size} images at once instead of {wanted}: more do not fit into '
                f'offline.max_memory_mib ({offline.max_memory_mib})'
            )
        return size, min(overlap, max(size // 2, 1)) if size <= overlap else overlap

    def predict(self, window: ImageWindow) -> list[WindowImage]:
        """Predict a window and return its images that are related to one another."""
        began = time.perf_counter()
        prediction = self._predictor.predict([image.pixels for image in window.images])
        step_ms = 1e3 * (time.perf_counter() - began) / (len(window.images) - window.shared)
        cameras = self._intrinsics(window, prediction)
        for row in range(window.shared, len(window.images)):
            image = window.images[row]
            self._add_depth(image, cameras[row], prediction, row)
            others = len(window.images) - 1
            self._frames[image.frame_id] = image.stamp_ns, image.read_ms, others, step_ms
        predicted = PredictedWindow(
            frame_ids=tuple(image.frame_id for image in window.images),
            shared=window.shared,
            relations=relations_of(prediction),
            usable=np.array([camera is not None for camera in cameras]),
            grids=_grids(window, prediction),
        )
        self._windows.append(predicted)
        least = min_score(median_score(self._windows), self._config)
        group = predicted.relations.group(least, predicted.usable, window.shared)
        return [window.images[row] for row in sorted(group)]

    def _intrinsics(
        self, window: ImageWindow, prediction: WindowPrediction
    ) -> list[Intrinsics | None]:
        """Return the intrinsics of each image: calibrated, else predicted; None: unusable.

        The frames of a recording share one camera, so the median of their fields of view is used.
        """
        fov = prediction.fov
        if self._result.collection is None:
            fov = np.broadcast_to(np.median(fov, axis=0), fov.shape)
        cameras: list[Intrinsics | None] = []
        for image, (vertical, horizontal) in zip(window.images, fov, strict=True):
            try:
                camera = image.intrinsics or intrinsics_from_fov(vertical, horizontal, *image.size)
            except FrameError as error:
                self._warn(f'left out {image.name or f"frame {image.frame_id}"}: {error}')
                cameras.append(None)
                continue
            cameras.append(camera)
            source_camera = image.geometry.to_source(camera)
            self._cameras[image.frame_id] = source_camera, image.intrinsics is None
        return cameras

    def _add_depth(
        self, image: WindowImage, camera: Intrinsics | None, prediction: WindowPrediction, row: int
    ) -> None:
        if camera is None or prediction.depth is None or prediction.confidence is None:
            return
        depth_map = DepthMap(
            frame_id=image.frame_id,
            depth=prediction.depth[row],
            confidence=prediction.confidence[row],
            image=image.pixels,
            intrinsics=camera,
        )
        self._clouds.add(depth_map)
        self._has_depth.append(image.frame_id)
        self._result.depth_samples.note([depth_map])
        if self._depth_folder is not None:
            save_depth(self._depth_folder, depth_map, image.stamp_ns)

    def finish(self) -> None:
        """Compute the poses of all images and fill the result."""
        result, config = self._result, self._config
        placement = place_windows(self._windows, config)
        self._warn_without_pose(placement)
        result.records = [
            _record(frame_id, *facts, placement, config.tracking)
            for frame_id, facts in sorted(self._frames.items())
        ]
        result.events = events_of(result.records)
        if result.collection is not None:
            result.collection = tuple(result.collection[r.frame_id] for r in result.records)
        trajectory = Trajectory(max(1, len(result.records)))
        for record in result.records:
            S = placement.S_world_frame.get(record.frame_id)
            T = None if S is None else rigid_part(S)
            trajectory.append(record.frame_id, record.stamp_ns, record.is_keyframe, T)
        result.trajectory = trajectory.view(placement.S_world_frame)
        result.cloud = self._clouds.in_world(placement.S_world_frame)
        result.segments = 1
        if self._cameras:
            result.intrinsics, result.intrinsics_estimated = self._cameras[max(self._cameras)]
        scales = {i: float(scale_of(S)) for i, S in placement.S_world_frame.items()}
        result.depth_samples.rescale(scales)
        if self._depth_folder is not None:
            for frame_id in self._has_depth:
                rescale_depth(self._depth_folder, frame_id, scales.get(frame_id))

    def _warn_without_pose(self, placement: WindowPlacement) -> None:
        lost: list[int] = []
        for number, window in enumerate(self._windows):
            new = window.frame_ids[window.shared :]
            if number in placement.not_joined:
                self._warn(
                    f'frames {min(new)} to {max(new)} have no pose: the images that they share '
                    'with the others do not determine one'
                )
            else:
                lost += [i for i in new if i not in placement.S_world_frame]
        if lost:
            names = self._result.collection
            listed = ', '.join(names[i] if names else str(i) for i in sorted(lost)[:10])
            more = f' and {len(lost) - 10} more' if len(lost) > 10 else ''
            self._warn(
                f'{len(lost)} images have no pose, since they are not related to the others: '
                f'{listed}{more}'
            )

    def _warn(self, text: str) -> None:
        if len(self._result.warnings) < 20:
            self._result.warnings.append(text)


def _grids(window: ImageWindow, prediction: WindowPrediction) -> dict[int, DepthGrid]:
    if prediction.depth is None or prediction.confidence is None:
        return {}
    maps = zip(window.images, prediction.depth, prediction.confidence, strict=True)
    return {image.frame_id: DepthGrid.of(depth, confidence) for image, depth, confidence in maps}


def _record(
    frame_id: int,
    stamp_ns: int,
    read_ms: float,
    others: int,
    step_ms: float,
    placement: WindowPlacement,
    config: TrackingConfig,
) -> FrameRecord:
    translation, rotation = (float(score) for score in placement.scores[frame_id])
    ratio = 0.5 * (translation + rotation) / placement.reference
    if math.isnan(ratio):
        ratio = 0.0 if math.isfinite(placement.reference) else 1.0
    has_pose = frame_id in placement.S_world_frame
    if not has_pose:
        state, reason = TrackingState.LOST, 'not related to the other images'
    elif ratio < config.low_confidence_ratio:
        state, reason = TrackingState.LOW_CONFIDENCE, 'weakly related to the other images'
    else:
        state, reason = TrackingState.TRACKING, 'full context'
    return FrameRecord(
        frame_id=frame_id,
        stamp_ns=stamp_ns,
        state=state,
        reason=reason,
        has_pose=has_pose,
        is_keyframe=has_pose,
        confidence_translation=translation,
        confidence_rotation=rotation,
        confidence_ratio=ratio,
        context_frames=others,
        read_ms=read_ms,
        step_ms=step_ms,
    )
