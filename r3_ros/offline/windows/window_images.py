"""Pictures made ready for a predictor of windows: in order of time, or a collection without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, replace
import threading
import time

import numpy as np

from ...core.config import R3Config
from ...core.datatypes import Frame, Intrinsics
from ...core.errors import CalibrationError, FrameError, SourceError
from ...core.resize_geometry import Crop, Geometry
from ...core.window_predictor import WindowPredictor
from ...input.folder_source import FolderSource
from ...input.frame_filter import Action, FrameFilter
from ...input.source import Source
from ..stream_run import one_session, ReadAhead, RunResult, undistorted_frames, Undistorter

#: A collection is cropped to what its pictures have in common, but not below this share of the
#: usual picture: those that ask for more are left out.
_LEAST_AREA = 0.5
_WARNINGS = 5


@dataclass(frozen=True, eq=False)
class WindowImage:
    """One picture, prepared.

    :ivar frame_id: running number of those that can be used, from 0.
    :ivar name: of its file in a collection, else empty.
    :ivar pixels: (h, w, 3) uint8 RGB, what the predictor is given.
    :ivar geometry: from the undistorted picture to the pixels.
    :ivar intrinsics: of the pixels, as calibrated; None if they were not.
    :ivar read_ms: time to read, decode, undistort and prepare it.
    """

    frame_id: int
    stamp_ns: int
    pixels: np.ndarray
    geometry: Geometry
    intrinsics: Intrinsics | None
    read_ms: float
    name: str = ''

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height of the pixels."""
        return self.geometry.width, self.geometry.height

    def cropped(self, width: int, height: int) -> WindowImage:
        """Return the middle of the picture."""
        if self.size == (width, height):
            return self
        crop = Crop(
            (self.geometry.width - width) // 2, (self.geometry.height - height) // 2, width, height
        )
        return replace(
            self,
            pixels=np.ascontiguousarray(crop.apply(self.pixels)),
            geometry=replace(self.geometry, steps=(*self.geometry.steps, crop)),
            intrinsics=crop.carry(self.intrinsics) if self.intrinsics else None,
        )


def _prepared(
    frame: Frame, frame_id: int, read_ms: float, predictor: WindowPredictor, name: str = ''
) -> WindowImage:
    began = time.perf_counter()
    height, width = frame.image.shape[:2]
    geometry = predictor.geometry(width, height)
    # A copy that is ours: the picture may be the source's to write again.
    pixels = np.array(geometry.apply(frame.image))
    intrinsics = geometry.to_network(frame.intrinsics) if frame.intrinsics else None
    read_ms += 1e3 * (time.perf_counter() - began)
    return WindowImage(frame_id, frame.stamp_ns, pixels, geometry, intrinsics, read_ms, name)


def images_in_time(
    source: Source,
    predictor: WindowPredictor,
    config: R3Config,
    max_frames: int | None,
    result: RunResult,
) -> Generator[WindowImage, None, None]:
    """Give the pictures of a recording in order, all of one size.

    What a stream would leave out is left out here, and noted in the result.
    """
    intake = FrameFilter(one_session(config.input))
    frame_id = 0
    with ReadAhead(undistorted_frames(source, config, max_frames)) as frames:
        for frame, read_ms in frames:
            height, width = frame.image.shape[:2]
            verdict = intake.admit(frame.stamp_ns, width, height)
            if verdict.action is not Action.ACCEPT:
                _note(result, verdict.reason)
                # Noted at once: whoever takes the pictures may stop early.
                result.rejected = Counter(intake.rejected)
                continue
            yield _prepared(frame, frame_id, read_ms, predictor)
            frame_id += 1


def collected_images(
    source: FolderSource,
    predictor: WindowPredictor,
    config: R3Config,
    max_frames: int | None,
    result: RunResult,
    stop: threading.Event | None = None,
) -> list[WindowImage]:
    """Return the pictures of a collection in the order of their names, cropped to one size.

    :raises SourceError: not one of them can be used.
    """
    names = {stamp_ns: path.name for stamp_ns, path in source.entries}
    undistorters: dict[tuple[int, int], Undistorter] = {}
    pictures: list[WindowImage] = []
    began = time.perf_counter()
    for number, raw in enumerate(source, start=1):
        height, width = raw.image.shape[:2]
        undistort = undistorters.setdefault(
            (width, height), Undistorter(source.camera_for(config.input.rectification))
        )
        try:
            frame = undistort.frame(raw)
            read_ms = 1e3 * (time.perf_counter() - began)
            name = names[raw.stamp_ns]
            pictures.append(_prepared(frame, len(pictures), read_ms, predictor, name))
        except (CalibrationError, FrameError) as error:
            _reject(result, 'of an unsuitable size', f'{names[raw.stamp_ns]}: {error}')
        if number == max_frames or (stop is not None and stop.is_set()):
            break
        began = time.perf_counter()
    if not pictures:
        reason = result.warnings[0] if result.warnings else 'none was given'
        raise SourceError(f'not one picture of {source.name} could be used: {reason}')
    return _of_one_size(pictures, result)


def _of_one_size(pictures: list[WindowImage], result: RunResult) -> list[WindowImage]:
    """Crop all to what they have in common, and leave out the few that would cost too much."""
    kept, (width, height) = common_size(np.array([picture.size for picture in pictures]))
    cut = 0
    fitting: list[WindowImage] = []
    for picture, keep in zip(pictures, kept, strict=True):
        if not keep:
            what = f'{picture.name}: its {picture.size[0]}x{picture.size[1]} pixels have too '
            _reject(result, 'of an unsuitable size', what + 'little in common with the others')
            continue
        cut += picture.size != (width, height)
        fitting.append(replace(picture.cropped(width, height), frame_id=len(fitting)))
    if cut:
        result.warnings.append(
            f'the pictures are not all of one shape: {cut} of {len(fitting)} were cropped to '
            f'their middle {width}x{height} pixels, as prepared for the network'
        )
    return fitting


def common_size(sizes: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Return which pictures to keep, (N,) bool, and the width and height that those all have.

    :param sizes: (N, 2) int, width and height.
    """
    kept = np.ones(len(sizes), dtype=bool)
    while True:
        common = sizes[kept].min(axis=0)
        if common.prod() >= _LEAST_AREA * np.median(sizes[kept].prod(axis=1)):
            return kept, (int(common[0]), int(common[1]))
        side = int(np.argmin(common / np.median(sizes[kept], axis=0)))
        kept &= sizes[:, side] > common[side]


def _reject(result: RunResult, reason: str, detail: str) -> None:
    result.rejected[reason] += 1
    _note(result, detail)


def _note(result: RunResult, detail: str) -> None:
    if len(result.warnings) < _WARNINGS:
        result.warnings.append(f'left out a frame: {detail}')
