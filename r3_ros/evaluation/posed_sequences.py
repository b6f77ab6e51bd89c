"""Recorded and rendered sequences with true poses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import SourceError
from ..core.trajectory_file import PoseList, read_tum
from ..input.camera_model import CameraModel
from ..input.folder_source import FolderSource
from ..input.open_source import open_source
from ..input.source import RawFrame, Source
from .depth_errors import depth_files, read_depth

TRUTH = 'groundtruth.txt'


class PosedSequence(ABC):
    """Images of one stream with their true poses and depth.

    :ivar name: unique in an evaluation; ``group``: row in the tables.
    :ivar truth: camera-to-world, in metres or another unit.
    """

    name: str
    group: str
    truth: PoseList

    @abstractmethod
    def open(self) -> Source:
        """Open the images from the first on."""

    @abstractmethod
    def depth_stamps(self) -> list[int]:
        """Return the stamps of the images with a true depth, in nanoseconds."""

    @abstractmethod
    def depth(self, stamp_ns: int) -> np.ndarray:
        """Return (H, W) float32 depth in the unit of the truth; 0: unknown."""


class RecordedSequence(PosedSequence):
    """A folder of images, a video or a bag with its ``groundtruth.txt``.

    Depth is read from a ``depth/`` beside the images (16-bit PNG, millimetres, named like its
    image) if the images have no distortion, since the engine's depth is of undistorted ones.
    """

    def __init__(self, path: Path, groundtruth: Path | None = None, name: str = '') -> None:
        """Read the truth and find depth.

        :param groundtruth: TUM file; None: ``groundtruth.txt`` in the folder or beside the file.
        :raises SourceError: recording or truth is missing or unreadable.
        """
        self._path = path
        self.name = self.group = name or path.absolute().name
        with open_source(path) as source:
            is_distorted = source.camera is not None and source.camera.is_distorted
            self._depths: dict[int, Path] = {}
            if isinstance(source, FolderSource) and not is_distorted:
                self._depths = depth_files(path, source)
        place = path if path.is_dir() else path.parent
        if groundtruth is None and not (place / TRUTH).is_file():
            raise SourceError(
                f'{place} has no {TRUTH}: a recording without true poses cannot be evaluated; '
                'name a TUM file with --groundtruth, or leave this one out'
            )
        self.truth = read_tum(groundtruth or place / TRUTH)

    def open(self) -> Source:
        """Open the images."""
        return open_source(self._path)

    def depth_stamps(self) -> list[int]:
        """Return the stamps of the images with depth."""
        return list(self._depths)

    def depth(self, stamp_ns: int) -> np.ndarray:
        """Return measured depth in metres.

        :raises SourceError: the file is no depth image.
        """
        return read_depth(self._depths[stamp_ns])


@dataclass(eq=False)
class RenderedSequence(PosedSequence):
    """Rendered images with depth.

    :ivar images: (N, H, W, 3) uint8 RGB; ``depths``: (N, H, W) float32 metres, 0 where none.
    """

    name: str
    group: str
    truth: PoseList
    camera: CameraModel
    images: np.ndarray
    depths: np.ndarray

    def open(self) -> Source:
        """Open the images."""
        return _ArraySource(self)

    def depth_stamps(self) -> list[int]:
        """Return the stamps of the images with depth."""
        return self.truth.stamps_ns.tolist()

    def depth(self, stamp_ns: int) -> np.ndarray:
        """Return exact depth in metres."""
        return self.depths[int(np.searchsorted(self.truth.stamps_ns, stamp_ns))]


class _ArraySource(Source):
    def __init__(self, sequence: RenderedSequence) -> None:
        super().__init__(sequence.name, sequence.camera, len(sequence.images))
        self._sequence = sequence

    def _read(self) -> Iterator[RawFrame]:
        sequence = self._sequence
        for stamp_ns, image in zip(sequence.truth.stamps_ns, sequence.images, strict=True):
            yield RawFrame(int(stamp_ns), image)
