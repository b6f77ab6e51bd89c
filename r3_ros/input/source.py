"""Base of recorded input: frames in order, each with its stamp.

A broken image is skipped and counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..core.errors import SourceError
from ..core.trajectory_file import PoseList
from .brightness_range import BrightnessRange
from .camera_model import CameraModel

#: Rate assumed for images without times.
NOMINAL_RATE_HZ = 30.0


@dataclass(frozen=True, eq=False)
class RawFrame:
    """One recorded image.

    :ivar image: (H, W, 3) uint8 RGB, or (H, W) grey, not undistorted.
    :ivar encoded: the JPEG or PNG data it was decoded from, if any.
    """

    stamp_ns: int
    image: np.ndarray
    encoded: bytes | None = None


class Source(ABC):
    """Iterable of recorded frames, and a context manager.

    :ivar name: for reports.
    :ivar calibration: as recorded or given; None if there is none.
    :ivar topic: of the images in a bag; empty elsewhere.
    :ivar camera_name: by which calibrations of several cameras know this one; may be empty.
    :ivar found: what lies beside the images and is used, for the user.
    :ivar length: expected number of frames; None if unknown.
    :ivar warnings: for the user; complete after the iteration.
    :ivar skipped: frames that could not be decoded.
    """

    def __init__(self, name: str, camera: CameraModel | None, length: int | None) -> None:
        self.name = name
        self.calibration = camera
        self.topic = ''
        self.camera_name = ''
        self.found: list[str] = []
        self.length = length
        self.warnings: list[str] = []
        self.skipped = 0
        self._first_skip = ''

    @property
    def camera(self) -> CameraModel | None:
        """Return the calibration of the images as they are; None if not calibrated."""
        return self.camera_for('auto')

    def camera_for(self, rectification: str) -> CameraModel | None:
        """Return the calibration by which to undistort; see :meth:`.CameraModel.of_images`."""
        return self.calibration and self.calibration.of_images(rectification, self.topic)

    def use_calibration(self, camera: CameraModel | None, file: Path) -> None:
        """Use a calibration, and its note as a warning."""
        self.calibration = camera
        if camera is not None and camera.note:
            self.warnings.append(f'{file}: {camera.note}')

    def truth(self) -> tuple[PoseList, Path] | None:
        """Return the true poses that belong to the recording, and their file; None without.

        :raises SourceError: they cannot be read.
        """
        return None

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027 - a folder has nothing to close
        """Close files."""

    def __iter__(self) -> Iterator[RawFrame]:
        """Yield all frames that can be decoded.

        :raises SourceError: there is none.
        """
        given, brightness = 0, BrightnessRange()
        for frame in self._read():
            given += 1
            image = brightness.to_eight_bit(frame.image)
            if brightness.note:
                self._note(brightness.note)
            yield frame if image is frame.image else replace(frame, image=image)
        if not given:
            reason = self._first_skip or '; '.join(self.warnings)
            detail = f': {reason}' if reason else ''
            raise SourceError(f'{self.name} gave no frame that can be decoded{detail}')

    @abstractmethod
    def _read(self) -> Iterator[RawFrame]:
        """Yield the frames, of 8 or 16 bits; report broken ones with :meth:`_skip`."""

    def _note(self, warning: str) -> None:
        """Warn once."""
        if warning not in self.warnings:
            self.warnings.append(warning)

    def _skip(self, what: str, error: Exception) -> None:
        self.skipped += 1
        self._first_skip = self._first_skip or f'skipped {what}: {error}'
        if self.skipped <= 5:
            self.warnings.append(f'skipped {what}: {error}')
        elif self.skipped == 6:
            self.warnings.append('more frames were skipped')
