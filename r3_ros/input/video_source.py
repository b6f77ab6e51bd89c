"""A video file as recorded input."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ..core.errors import CalibrationError, SourceError
from ..core.trajectory_file import NANOSECONDS
from .source import NOMINAL_RATE_HZ, RawFrame, Source

#: Durations of whole files are rounded.
_END_SLACK_S = 0.5
_HIGHEST_RATE_HZ = 1000


class VideoSource(Source):
    """A video file, with the times of its container, turned upright as its header says."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        :raises SourceError: FFmpeg cannot read it.
        """
        if path.stat().st_size == 0:
            raise SourceError(f'{path} is empty (0 bytes)')
        try:
            self._container = av.open(str(path))
        except (av.FFmpegError, ValueError) as error:
            raise SourceError(
                f'{path} is no video, or its header is cut off (an MP4 that was not closed): '
                f'{getattr(error, "strerror", error)}; for a bag or a folder check the path'
            ) from error
        try:
            if not self._container.streams.video:
                raise SourceError(f'{path} has no images, but only sound or text')
            self._stream = self._container.streams.video[0]
            if self._stream.codec_context is None:
                raise SourceError(f'{path} is coded in a way that FFmpeg cannot decode')
            rate_hz = float(self._stream.average_rate or 0)
            self._has_rate = 0 < rate_hz < _HIGHEST_RATE_HZ
            self._rate_hz = rate_hz if self._has_rate else NOMINAL_RATE_HZ
            super().__init__(path.name, None, self._announced())
        except BaseException:
            self._container.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _announced(self) -> int | None:
        """Return the number of frames that are shown, as the header tells; None if unknown.

        A trimmed MP4 holds more frames than are shown, and an AVI has a duration by its length.
        """
        if self._container.format.name != 'avi' and self._has_rate and self._duration_s[0]:
            return round(self._duration_s[0] * self._rate_hz)
        return self._stream.frames or None

    @property
    def _duration_s(self) -> tuple[float, float]:
        """Return the duration and how much of it may be missing, in seconds; 0 if unknown."""
        stream = self._stream
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base), 1.5 / self._rate_hz
        if len(self._container.streams) > 1:
            return 0.0, 0.0  # it may be that of a longer sound
        return (self._container.duration or 0) / av.time_base, _END_SLACK_S

    def _read(self) -> Iterator[RawFrame]:
        period_ns = round(NANOSECONDS / self._rate_hz)
        count, last_ns, has_times, end_ns = 0, -1, True, 0
        for frame in self._frames():
            stamp_ns = self._stamp_ns(frame)
            if stamp_ns <= last_ns:
                if has_times:
                    self.warnings.append(
                        f'{self.name} has no usable times from frame {count} on: '
                        + ('its nominal rate' if self._has_rate else 'a rate')
                        + f' of {self._rate_hz:g} frames per second is used'
                    )
                has_times = False
            if not has_times:
                stamp_ns = last_ns + period_ns
            count, last_ns = count + 1, stamp_ns
            end_ns = stamp_ns + max(period_ns, self._nanoseconds(frame.duration or 0, frame))
            yield RawFrame(stamp_ns, self._upright(frame))
        self._check_end(count, end_ns / NANOSECONDS)

    def _upright(self, frame: av.VideoFrame) -> np.ndarray:
        """Return the RGB image, turned as the header says.

        :raises CalibrationError: the calibration is for the image as stored.
        """
        image = np.rot90(frame.to_ndarray(format='rgb24'), round(frame.rotation / 90))
        camera, size = self.calibration, image.shape[1::-1]
        if frame.rotation % 180 and camera is not None:
            if (camera.width > camera.height) != (size[0] > size[1]):
                raise CalibrationError(
                    f'the header of {self.name} turns its images by {frame.rotation} degrees to '
                    f'{size[0]}x{size[1]}, the calibration is for {camera.width}x{camera.height}: '
                    'use one that was made with turned images'
                )
        return np.ascontiguousarray(image)

    def _frames(self) -> Iterator[av.VideoFrame]:
        """Yield the frames that are shown, without those that are damaged."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                frames = [] if packet is None else packet.decode()
            except av.FFmpegError as error:
                self._skip(f'a part of {self.name}', error)
                continue
            if packet is None:
                return
            for frame in frames:
                if frame.is_corrupt:
                    self._skip(f'a frame of {self.name}', SourceError('it is damaged'))
                else:
                    yield frame

    def _stamp_ns(self, frame: av.VideoFrame) -> int:
        """Return the time since the start of the video; -1 if it is unknown."""
        if frame.pts is None:
            return -1
        start = (self._stream.start_time or 0) * (self._stream.time_base or Fraction(0))
        return self._nanoseconds(frame.pts, frame) - round(start * NANOSECONDS)

    @staticmethod
    def _nanoseconds(ticks: int, frame: av.VideoFrame) -> int:
        return round(ticks * (frame.time_base or Fraction(0)) * NANOSECONDS)

    def _check_end(self, count: int, end_s: float) -> None:
        """Warn of missing frames, of an AVI by their number, else by the time."""
        amounts, (duration_s, slack_s) = '', self._duration_s
        if self._container.format.name == 'avi':
            if self.length and count + self.skipped < self.length:
                amounts = f'{self.length} frames, {count}'
        elif end_s < duration_s - slack_s:
            amounts = f'{duration_s:.1f} s, {end_s:.1f} s'
        if amounts:
            self.skipped = max(self.skipped, (self.length or 0) - count)
            self.warnings.append(
                f'{self.name} announces {amounts} could be decoded: it ends early or is damaged'
            )
