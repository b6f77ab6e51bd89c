"""Recorded input: folders of pictures and videos; bags are in :mod:`r3_ros.bags`.

A source gives every frame in order with its own stamp. One broken picture is skipped and counted;
a source that cannot be used at all is a :class:`SourceError`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
import re
from types import TracebackType

import cv2
import numpy as np

from .camera import CameraModel, load_camera_yaml
from .errors import FrameError, SourceError
from .pictures import decode_compressed, is_jpeg_or_png
from .trajectory_file import NANOSECONDS, parse_stamp

PICTURE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
BAG_SUFFIXES = ('.mcap', '.db3', '.bag')
STAMP_FILES = ('timestamps.txt', 'rgb.txt', 'times.txt')

#: Rate taken for pictures without times.
NOMINAL_RATE_HZ = 30.0

#: Videos whose header counts the frames. Of others OpenCV guesses the number from duration and
#: rate, which is far off where the rate varies.
_INDEXED_SUFFIXES = ('.mp4', '.m4v', '.mov', '.avi')
_END_SLACK_S = 0.5


@dataclass(frozen=True, eq=False)
class RawFrame:
    """One picture as it was recorded.

    :ivar image: (H, W, 3) uint8 RGB, distorted as the lens made it.
    :ivar encoded: the file or message it was decoded from, if it was a JPEG or PNG.
    """

    stamp_ns: int
    image: np.ndarray
    encoded: bytes | None = None


class Source(ABC):
    """Something that gives recorded frames. Use it in a ``with`` statement and iterate.

    :ivar name: for reports.
    :ivar camera: calibration of the pictures; None if not calibrated.
    :ivar length: number of frames announced; None if unknown.
    :ivar warnings: what the user should know; complete after the iteration.
    :ivar skipped: frames that could not be decoded.
    """

    def __init__(self, name: str, camera: CameraModel | None, length: int | None) -> None:
        """Start with nothing read."""
        self.name = name
        self.camera = camera
        self.length = length
        self.warnings: list[str] = []
        self.skipped = 0
        self._first_skip = ''

    def __enter__(self) -> Source:
        """Return itself; it is open from the start."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close files."""
        self.close()

    def close(self) -> None:  # noqa: B027 - a folder has nothing to close
        """Close files."""

    def __iter__(self) -> Iterator[RawFrame]:
        """Give every frame that can be decoded.

        :raises SourceError: not one frame could be decoded.
        """
        given = 0
        for frame in self._read():
            given += 1
            yield frame
        if not given:
            detail = f': {self._first_skip}' if self._first_skip else ''
            raise SourceError(f'{self.name} gave no frame that can be decoded{detail}')

    @abstractmethod
    def _read(self) -> Iterator[RawFrame]:
        """Give the frames; report broken ones with :meth:`_skip`."""

    def _skip(self, what: str, error: Exception) -> None:
        self.skipped += 1
        self._first_skip = self._first_skip or f'skipped {what}: {error}'
        if self.skipped <= 5:
            self.warnings.append(f'skipped {what}: {error}')
        elif self.skipped == 6:
            self.warnings.append('more frames were skipped')


def open_source(
    path: Path | str,
    camera: Path | str | None = None,
    topic: str | None = None,
    collections: bool = False,
) -> Source:
    """Open a folder of pictures, a video or a bag.

    :param camera: calibration file, in place of the one beside or inside the input.
    :param topic: picture topic of a bag; needed only if it has several.
    :param collections: see :class:`FolderSource`.
    :raises SourceError: missing, empty, or of no kind that can be read.
    :raises CalibrationError: the calibration cannot be used.
    """
    path = Path(path)
    try:
        return _opened(path, camera, topic, collections)
    except OSError as error:
        raise SourceError(f'cannot read {path}: {error.strerror or error}') from error


def _opened(path: Path, camera: Path | str | None, topic: str | None, collections: bool) -> Source:
    if not path.exists():
        raise SourceError(f'{path} does not exist')
    is_bag = path.suffix in BAG_SUFFIXES or (path / 'metadata.yaml').is_file()
    if topic and not is_bag:
        raise SourceError(f'{path} is no bag, so it has no topic {topic}')
    model = load_camera_yaml(camera) if camera else None
    if is_bag:
        # Here and not above: rosbags takes a quarter of a second to import.
        from .bags import BagSource

        return BagSource(path, model, topic, ignore_camera_info=camera is not None)
    if path.is_dir():
        return FolderSource(path, model, camera is None, collections)
    # OpenCV does not say why it cannot open a file.
    with open(path, 'rb'):
        return VideoSource(path, model)


class FolderSource(Source):
    """A folder of pictures, with ``timestamps.txt`` and ``camera.yaml`` where they are known.

    The pictures lie in the folder itself or in ``rgb``.

    :ivar is_collection: the pictures have no times and no order; stamps are running numbers, in
        seconds.
    """

    def __init__(
        self,
        folder: Path,
        camera: CameraModel | None = None,
        use_own_camera: bool = True,
        collections: bool = False,
    ) -> None:
        """Find the pictures and their times.

        :param collections: pictures without times are a collection; else they are taken for a
            recording at a nominal rate.
        :raises SourceError: no pictures, or times that do not fit them.
        """
        if use_own_camera and (folder / 'camera.yaml').is_file():
            camera = load_camera_yaml(folder / 'camera.yaml')
        super().__init__(folder.absolute().name, camera, None)
        stamp_file = next((folder / n for n in STAMP_FILES if (folder / n).is_file()), None)
        self.is_collection = collections and stamp_file is None
        if stamp_file is None and collections:
            pictures = find_pictures(folder)
            self.entries = [(i * NANOSECONDS, path) for i, path in enumerate(pictures)]
        elif stamp_file is None:
            pictures = find_pictures(folder)
            period_ns = NANOSECONDS / NOMINAL_RATE_HZ
            self.entries = [(round(i * period_ns), path) for i, path in enumerate(pictures)]
            self.warnings.append(
                f'{folder} has no timestamps.txt: {NOMINAL_RATE_HZ:g} frames per second assumed'
            )
        else:
            self.entries = _read_stamps(stamp_file)
        if not self.entries:
            bags = sorted(p.name for p in folder.iterdir() if p.suffix in BAG_SUFFIXES)
            if bags:
                raise SourceError(
                    f'{folder} is a bag without its metadata.yaml: name a file in it '
                    f'({", ".join(bags)}), or have `ros2 bag reindex` write one'
                )
            raise SourceError(
                f'{folder} holds no pictures; looked for {", ".join(PICTURE_SUFFIXES)} in it '
                'and in its folder rgb'
            )
        self.length = len(self.entries)

    def _read(self) -> Iterator[RawFrame]:
        for stamp_ns, path in self.entries:
            try:
                encoded = path.read_bytes()
                image = decode_compressed(encoded)
            except (OSError, FrameError) as error:
                self._skip(str(path), error)
                continue
            yield RawFrame(stamp_ns, image, encoded if is_jpeg_or_png(encoded) else None)


def find_pictures(folder: Path) -> list[Path]:
    """Return the pictures of a folder, or of its folder ``rgb``, in natural order."""
    for place in (folder, folder / 'rgb'):
        if place.is_dir():
            # Hidden files beside pictures are the notes of some system about them.
            found = [
                p
                for p in place.iterdir()
                if p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith('.')
            ]
            if found:
                return sorted(found, key=_natural_order)
    return []


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """Put frame 2 before frame 10."""
    parts = re.split(r'(\d+)', path.name)
    return [(int(part), '') if part.isdigit() else (-1, part) for part in parts]


def _read_stamps(path: Path) -> list[tuple[int, Path]]:
    """Read ``timestamp filename`` lines, or bare timestamps for the pictures in their order."""
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f'cannot read {path}: {error}') from error
    stamps: list[int] = []
    names: list[str] = []
    for number, line in enumerate(lines, start=1):
        fields = line.split(maxsplit=1)
        if not fields or fields[0].startswith('#'):
            continue
        try:
            stamps.append(parse_stamp(fields[0]))
        except ValueError as error:
            raise SourceError(f'{path}, line {number}: {error}') from error
        names.extend(field.strip() for field in fields[1:])
    if names and len(names) != len(stamps):
        raise SourceError(f'{path}: some lines name a picture and some do not')
    pictures = [path.parent / name for name in names] or find_pictures(path.parent)
    if len(pictures) != len(stamps):
        raise SourceError(
            f'{path} has {len(stamps)} times for {len(pictures)} pictures: write a line '
            '"timestamp filename" for each'
        )
    return list(zip(stamps, pictures, strict=True))


class VideoSource(Source):
    """A video file, with the times that its container holds."""

    def __init__(self, path: Path, camera: CameraModel | None = None) -> None:
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
        super().__init__(path.name, camera, int(announced) if is_usable else None)

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
        """Say what is missing, by the number of frames where that is known, else by the time."""
        if self._is_indexed:
            if self.length and count < self.length:
                self.skipped = self.length - count
                self.warnings.append(
                    f'{self.name} announces {self.length} frames, {count} could be decoded: it '
                    'ends early or is damaged'
                )
        elif end_s < self._duration_s - _END_SLACK_S:
            self.warnings.append(
                f'{self.name} announces {self._duration_s:.1f} s, {end_s:.1f} s could be decoded: '
                'it ends early or is damaged'
            )
