"""A video file as recorded input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2

from ..core.errors import SourceError
from ..core.trajectory_file import NANOSECONDS
from .source import NOMINAL_RATE_HZ, RawFrame, Source

#: Videos whose header counts the frames. For others OpenCV guesses the number from duration and
#: rate, which is wrong if the rate varies.
_INDEXED_SUFFIXES = ('.mp4', '.m4v', '.mov', '.avi')
_END_SLACK_S = 0.5


class VideoSource(Source):
    """A video file, with the times of its container."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        :raises SourceError: OpenCV cannot read it.
        """
        if path.stat().st_size == 0:
            raise SourceError(f'{path} is empty (0 bytes)')
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise SourceError(
                f'{path} is no video that OpenCV can read, or its header is cut off (an MP4 '
                'that was not closed); for a bag or a folder check the path'
            )
        announced = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._rate_hz = self._capture.get(cv2.CAP_PROP_FPS)
        self._duration_s = announced / self._rate_hz if self._rate_hz > 0 else 0.0
        self._is_indexed = path.suffix.lower() in _INDEXED_SUFFIXES
        is_usable = announced > 0 and (self._is_indexed or self._rate_hz < 1000)
        super().__init__(path.name, None, int(announced) if is_usable else None)

    def close(self) -> None:
        """Close the file."""
        self._capture.release()

    def _read(self) -> Iterator[RawFrame]:
        has_rate = 0 < self._rate_hz < 1000
        rate_hz = self._rate_hz if has_rate else NOMINAL_RATE_HZ
        period_ns = round(NANOSECONDS / rate_hz)
        count, last_ns, has_times = 0, -1, True
        while True:
            got, image = self._capture.read()
            if not got:
                break
            stamp_ns = round(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
            if stamp_ns <= last_ns:
                if has_times:
                    self.warnings.append(
                        f'{self.name} has no usable times from frame {count} on: '
                        + ('its nominal rate' if has_rate else 'a rate')
                        + f' of {rate_hz:g} frames per second is used'
                    )
                has_times = False
            if not has_times:
                stamp_ns = last_ns + period_ns
            count, last_ns = count + 1, stamp_ns
            yield RawFrame(stamp_ns, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        self._check_end(count, (last_ns + period_ns) / NANOSECONDS)

    def _check_end(self, count: int, end_s: float) -> None:
        """Warn of missing frames, by their number if it is known, else by the time."""
        amounts = ''
        if not self._is_indexed and end_s < self._duration_s - _END_SLACK_S:
            amounts = f'{self._duration_s:.1f} s, {end_s:.1f} s'
        elif self._is_indexed and self.length and count < self.length:
            self.skipped = self.length - count
            amounts = f'{self.length} frames, {count}'
        if amounts:
            self.warnings.append(
                f'{self.name} announces {amounts} could be decoded: it ends early or is damaged'
            )
