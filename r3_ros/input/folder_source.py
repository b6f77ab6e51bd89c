"""A folder of images as recorded input."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path

from ..core.errors import CalibrationError, FrameError, SourceError
from ..core.image_times import read_times, times_in_names
from ..core.trajectory_file import NANOSECONDS, PoseList
from .calibration_files import load_camera
from .folder_layouts import find_sequence, IMAGE_SUFFIXES
from .image_decoding import decode_compressed, is_jpeg_or_png
from .source import NOMINAL_RATE_HZ, RawFrame, Source

BAG_SUFFIXES = ('.mcap', '.db3', '.bag')


class FolderSource(Source):
    """A folder of images, in any of the layouts of :mod:`.folder_layouts`.

    :ivar entries: stamp in nanoseconds and path of each image.
    :ivar depth_unit_m: of the depth images that the folder may hold.
    :ivar is_collection: the images have no times and no order; stamps count seconds.
    """

    def __init__(
        self, folder: Path, use_own_camera: bool = True, collections: bool = False
    ) -> None:
        """Find the images, their times and their calibration.

        :param collections: images without times are a collection, not a recording at the
            nominal rate.
        :raises SourceError: no images, or times that do not match them.
        :raises CalibrationError: the calibration of the folder cannot be used.
        """
        super().__init__(folder.absolute().name, None, None)
        self._sequence = find_sequence(folder)
        self.camera_name = self._sequence.camera_name
        self.depth_unit_m = self._sequence.layout.depth_unit_m
        self.is_collection = False
        self.entries = self._listed() or self._unlisted(folder, collections)
        if not self.entries:
            raise _no_images(folder)
        self.length = len(self.entries)
        kind = f'{self._sequence.layout.name}: ' if self._sequence.layout.name else ''
        place = self._relative(self.entries[0][1].parent)
        self.found.insert(0, f'{kind}{self.length} images in {place}')
        if use_own_camera:
            self._find_camera()
        truth = self._sequence.truth
        if truth is not None:
            self.found.append(f'truth in {self._relative(truth)}')

    def truth(self) -> tuple[PoseList, Path] | None:
        """Return the true poses that lie in the folder, and their file; None without.

        :raises SourceError: they cannot be read.
        """
        poses, file = self._sequence.read_truth(self.entries), self._sequence.truth
        return (poses, file) if poses is not None and file is not None else None

    def _listed(self) -> list[tuple[int, Path]]:
        """Return the images of a list of times; nothing without a list."""
        file = self._sequence.times
        if file is None:
            return []
        stamps, names = read_times(file)
        images = self._sequence.images
        if names:
            by_name = {key: path for path in images for key in (path.stem, path.name)}
            places = (file.parent if '/' in name else self._sequence.folder for name in names)
            images = [
                by_name.get(name, place / name) for name, place in zip(names, places, strict=True)
            ]
        if len(images) != len(stamps):
            raise SourceError(
                f'{file} has {len(stamps)} times for {len(images)} images: write a line '
                '"timestamp filename" for each'
            )
        self.found.append(f'times in {self._relative(file)}')
        # Lists made with os.listdir are in no order. Stable, for images at the same time.
        return sorted(zip(stamps, images, strict=True), key=lambda entry: entry[0])

    def _unlisted(self, folder: Path, collections: bool) -> list[tuple[int, Path]]:
        """Return the images at the times of their names, else at the nominal rate."""
        images = self._sequence.images
        stamps = times_in_names([image.stem for image in images])
        if stamps is not None:
            self.found.append(f'times in the names of the images, from {images[0].name} on')
            return sorted(zip(stamps, images, strict=True))
        self.is_collection = collections and not self._sequence.layout.is_video
        rate_hz = 1.0 if self.is_collection else NOMINAL_RATE_HZ
        if not self.is_collection:
            self.warnings.append(
                f'{folder} has no times (a timestamps.txt, or file names): {NOMINAL_RATE_HZ:g} '
                'frames per second assumed'
            )
        return [(round(i * NANOSECONDS / rate_hz), path) for i, path in enumerate(images)]

    def _find_camera(self) -> None:
        file = self._sequence.calibration()
        if file is None:
            return
        try:
            self.use_calibration(load_camera(file, self.camera_name), file)
        except CalibrationError as error:
            raise CalibrationError(
                f'{error}. Name another file (--camera FILE), or have the focal length estimated '
                '(--camera none)'
            ) from error
        self.found.append(f'calibration in {self._relative(file)}')

    def _relative(self, file: Path) -> str:
        root = self._sequence.root.absolute()
        path = os.path.relpath(file.absolute(), root)
        return root.name if path == '.' else path

    def _read(self) -> Iterator[RawFrame]:
        for stamp_ns, path in self.entries:
            try:
                encoded = path.read_bytes()
                image = decode_compressed(encoded)
            except (OSError, FrameError) as error:
                self._skip(str(path), error)
                continue
            yield RawFrame(stamp_ns, image, encoded if is_jpeg_or_png(encoded) else None)


def _no_images(folder: Path) -> SourceError:
    bags = sorted(p.name for p in folder.iterdir() if p.suffix in BAG_SUFFIXES)
    if bags:
        return SourceError(
            f'{folder} is a bag without its metadata.yaml: name a file in it '
            f'({", ".join(bags)}), or have `ros2 bag reindex` write one'
        )
    return SourceError(
        f'{folder} holds no images; looked for {", ".join(IMAGE_SUFFIXES)} in it, in its rgb, '
        'images and color, and where EuRoC, KITTI, TUM, 7-Scenes and ScanNet have them. Name the '
        'folder of one sequence, or that of its images'
    )
