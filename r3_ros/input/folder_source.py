"""A folder of images as recorded input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import re

from ..core.errors import FrameError, SourceError
from ..core.trajectory_file import NANOSECONDS, parse_stamp
from .camera_model import CameraModel, load_camera_yaml
from .image_decoding import decode_compressed, is_jpeg_or_png
from .source import NOMINAL_RATE_HZ, RawFrame, Source

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
BAG_SUFFIXES = ('.mcap', '.db3', '.bag')
STAMP_FILES = ('timestamps.txt', 'rgb.txt', 'times.txt')


class FolderSource(Source):
    """A folder of images (or its ``rgb``), with optional ``timestamps.txt`` and ``camera.yaml``.

    :ivar is_collection: the images have no times and no order; stamps count seconds.
    """

    def __init__(
        self,
        folder: Path,
        camera: CameraModel | None = None,
        use_own_camera: bool = True,
        collections: bool = False,
    ) -> None:
        """Find the images and their times.

        :param collections: images without times are a collection, not a recording at the
            nominal rate.
        :raises SourceError: no images, or times that do not match them.
        """
        if use_own_camera and (folder / 'camera.yaml').is_file():
            camera = load_camera_yaml(folder / 'camera.yaml')
        super().__init__(folder.absolute().name, camera, None)
        stamp_file = next((folder / n for n in STAMP_FILES if (folder / n).is_file()), None)
        self.is_collection = collections and stamp_file is None
        if stamp_file is not None:
            self.entries = _read_stamps(stamp_file)
        else:
            period_ns = NANOSECONDS / (1 if collections else NOMINAL_RATE_HZ)
            images = enumerate(find_images(folder))
            self.entries = [(round(i * period_ns), path) for i, path in images]
            if not collections:
                self.warnings.append(
                    f'{folder} has no timestamps.txt: {NOMINAL_RATE_HZ:g} frames per second '
                    'assumed'
                )
        if not self.entries:
            bags = sorted(p.name for p in folder.iterdir() if p.suffix in BAG_SUFFIXES)
            if bags:
                raise SourceError(
                    f'{folder} is a bag without its metadata.yaml: name a file in it '
                    f'({", ".join(bags)}), or have `ros2 bag reindex` write one'
                )
            raise SourceError(
                f'{folder} holds no images; looked for {", ".join(IMAGE_SUFFIXES)} in it '
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


def find_images(folder: Path) -> list[Path]:
    """Return the images of a folder, or of its folder ``rgb``, in natural order."""
    for place in (folder, folder / 'rgb'):
        if place.is_dir():
            # Hidden files are metadata of operating systems.
            found = [
                p
                for p in place.iterdir()
                if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith('.')
            ]
            if found:
                return sorted(found, key=_natural_order)
    return []


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """Return a sort key by which frame 2 comes before frame 10."""
    parts = re.split(r'(\d+)', path.name)
    return [(int(part), '') if part.isdigit() else (-1, part) for part in parts]


def _read_stamps(path: Path) -> list[tuple[int, Path]]:
    """Read ``timestamp filename`` lines, or bare timestamps for the images in their order."""
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
        raise SourceError(f'{path}: some lines name an image and some do not')
    images = [path.parent / name for name in names] or find_images(path.parent)
    if len(images) != len(stamps):
        raise SourceError(
            f'{path} has {len(stamps)} times for {len(images)} images: write a line '
            '"timestamp filename" for each'
        )
    return list(zip(stamps, images, strict=True))
