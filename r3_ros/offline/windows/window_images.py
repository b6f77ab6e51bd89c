"""Images prepared for a window predictor, and the choice of those that are predicted together.

The images are in order of time, or a collection without times. Each window after the first begins
with images that already have a pose, so that it can be joined to the earlier ones; the first image
of a window is its reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
import threading
import time

import numpy as np

from ...core.config import R3Config
from ...core.datatypes import Frame, Intrinsics
from ...core.errors import CalibrationError, FrameError, SourceError
from ...core.predictor import WindowPredictor
from ...core.resize_geometry import Crop, Geometry
from ...input.folder_source import FolderSource
from ...input.frame_filter import Action, FrameFilter
from ...input.source import Source
from ..stream_run import one_session, read_ahead, RunResult, undistorted_frames, Undistorter

#: A collection is cropped to the size that its images have in common, but to no less than this
#: share of the median area: images that would need more cropping are left out.
_MIN_AREA = 0.5
#: An image waits for a later window if an image with a pose is this many times nearer to it than
#: the window is, where the distance is one minus the cosine.
_MUCH_NEARER = 10.0


@dataclass(frozen=True, eq=False)
class WindowImage:
    """One prepared image.

    :ivar frame_id: running number of the usable images, from 0.
    :ivar name: of its file in a collection, else empty.
    :ivar pixels: (h, w, 3) uint8 RGB, as given to the predictor.
    :ivar geometry: from the undistorted image to the pixels.
    :ivar intrinsics: of the pixels; None without a calibration.
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
        """Width and height of the pixels."""
        return self.geometry.width, self.geometry.height

    def cropped(self, width: int, height: int) -> WindowImage:
        """Return the middle of the image."""
        if self.size == (width, height):
            return self
        crop = Crop((self.size[0] - width) // 2, (self.size[1] - height) // 2, width, height)
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
    # Copied: the source may write to the image again.
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
    """Give the images of a recording in order, all of one size.

    Frames that a stream would reject are rejected here too and noted in the result.
    """
    frame_filter = FrameFilter(one_session(config.input))
    frame_id = 0
    with read_ahead(undistorted_frames(source, config, max_frames)) as frames:
        for frame, read_ms in frames:
            height, width = frame.image.shape[:2]
            verdict = frame_filter.admit(frame.stamp_ns, width, height)
            if verdict.action is not Action.ACCEPT:
                result.warn_left_out(verdict.reason)
                # Updated every time, since the caller may stop early.
                result.rejected = Counter(frame_filter.rejected)
                continue
            yield _prepared(frame, frame_id, read_ms, predictor)
            frame_id += 1


def collected_images(
    source: FolderSource,
    predictor: WindowPredictor,
    config: R3Config,
    max_frames: int | None,
    result: RunResult,
    stop: threading.Event | None,
) -> list[WindowImage]:
    """Return the images of a collection in the order of their names, cropped to one size.

    :raises SourceError: none of them can be used.
    """
    names = {stamp_ns: path.name for stamp_ns, path in source.entries}
    undistorters: dict[tuple[int, int], Undistorter] = {}
    images: list[WindowImage] = []
    began = time.perf_counter()
    for number, raw in enumerate(source, start=1):
        height, width = raw.image.shape[:2]
        undistort = undistorters.setdefault(
            (width, height), Undistorter(source.camera_for(config.input.rectification))
        )
        name = names[raw.stamp_ns]
        try:
            frame = undistort.frame(raw)
            read_ms = 1e3 * (time.perf_counter() - began)
            images.append(_prepared(frame, len(images), read_ms, predictor, name))
        except (CalibrationError, FrameError) as error:
            _reject_size(result, f'{name}: {error}')
        if number == max_frames or (stop is not None and stop.is_set()):
            break
        began = time.perf_counter()
    if not images:
        raise SourceError(f'no image of {source.name} could be used: {result.first_warning}')
    return _cropped_alike(images, result)


def _cropped_alike(images: list[WindowImage], result: RunResult) -> list[WindowImage]:
    kept, (width, height) = common_size(np.array([image.size for image in images]))
    cropped = 0
    fitting: list[WindowImage] = []
    for image, keep in zip(images, kept, strict=True):
        if not keep:
            size = f'{image.size[0]}x{image.size[1]}'
            _reject_size(
                result, f'{image.name}: its {size} pixels differ too much from the other images'
            )
            continue
        cropped += image.size != (width, height)
        fitting.append(replace(image.cropped(width, height), frame_id=len(fitting)))
    if cropped:
        result.warnings.append(
            f'the images have different shapes: {cropped} of {len(fitting)} were cropped to '
            f'their middle {width}x{height} pixels, as prepared for the network'
        )
    return fitting


def common_size(sizes: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Return which images to keep, (N,) bool, and the width and height that all of them have.

    :param sizes: (N, 2) int, width and height.
    """
    kept = np.ones(len(sizes), dtype=bool)
    while True:
        common = sizes[kept].min(axis=0)
        if common.prod() >= _MIN_AREA * np.median(sizes[kept].prod(axis=1)):
            return kept, (int(common[0]), int(common[1]))
        side = int(np.argmin(common / np.median(sizes[kept], axis=0)))
        kept &= sizes[:, side] > common[side]


def _reject_size(result: RunResult, detail: str) -> None:
    result.rejected['of an unsuitable size'] += 1
    result.warn_left_out(detail)


@dataclass(frozen=True, eq=False)
class ImageWindow:
    """Images to be predicted together.

    :ivar shared: number of images, the first ones, that were in an earlier window.
    """

    images: tuple[WindowImage, ...]
    shared: int


class OrderByTime:
    """Windows along a recording: each begins with the newest images that have a pose."""

    def __init__(self, images: Iterator[WindowImage], size: int, overlap: int) -> None:
        self._images = images
        self._size, self._overlap = size, overlap
        self._placed: list[WindowImage] = []

    def next_window(self) -> ImageWindow | None:
        """Return the next window; the last one is filled up with earlier images."""
        count = self._size - self._overlap if self._placed else self._size
        new = list(islice(self._images, count))
        if not new:
            return None
        shared = self._placed[len(new) - self._size :]
        return ImageWindow((*shared, *new), len(shared))

    def mark_placed(self, images: Sequence[WindowImage]) -> None:
        """Share these with the next window; if there are none, those before them."""
        self._placed = list(images) or self._placed


class OrderBySimilarity:
    """Windows over a collection: images with similar descriptors are predicted together.

    The result does not depend on names or numbers of the images.
    """

    def __init__(
        self, images: Sequence[WindowImage], descriptors: np.ndarray, size: int, overlap: int
    ) -> None:
        self._images = images
        self._similarity = descriptors @ descriptors.T
        self._size, self._overlap = size, overlap
        self._left = np.ones(len(images), dtype=bool)
        self._placed = np.zeros(len(images), dtype=bool)

    def next_window(self) -> ImageWindow | None:
        """Return the next window, grown from the image most similar to those with a pose."""
        if not self._left.any():
            return None
        any_placed = bool(self._placed.any())
        count = self._size - self._overlap if any_placed else self._size
        new = self._grow(self._seed(any_placed), count)
        self._left[new] = False
        shared: list[int] = []
        if any_placed:
            similarity = np.where(self._placed, self._similarity[new].max(axis=0), -np.inf)
            order = np.argsort(-similarity, kind='stable')
            shared = [int(n) for n in order[: self._size - len(new)] if self._placed[n]]
        return ImageWindow(tuple(self._images[n] for n in (*shared, *new)), len(shared))

    def mark_placed(self, images: Sequence[WindowImage]) -> None:
        """Let later windows share these."""
        self._placed[[image.frame_id for image in images]] = True

    def _seed(self, any_placed: bool) -> int:
        if any_placed:
            similarity = self._similarity[:, self._placed].max(axis=1)
        else:
            similarity = self._similarity[:, self._left].mean(axis=1)
        return int(np.argmax(np.where(self._left, similarity, -np.inf)))

    def _grow(self, seed: int, count: int) -> list[int]:
        """Return up to ``count`` images left, each the most similar to one of those before it."""
        chosen = [seed]
        to_placed = self._similarity[:, self._placed].max(axis=1, initial=-np.inf)
        left = self._left.copy()
        left[seed] = False
        similarity = self._similarity[seed].copy()
        while len(chosen) < count and left.any():
            best = int(np.argmax(np.where(left, similarity, -np.inf)))
            if 1.0 - similarity[best] > _MUCH_NEARER * (1.0 - to_placed[best]):
                break
            chosen.append(best)
            left[best] = False
            np.maximum(similarity, self._similarity[best], out=similarity)
        return chosen
