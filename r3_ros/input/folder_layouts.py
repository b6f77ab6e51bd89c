"""Folders as data sets have them: where images, times, calibration and truth lie.

To add a layout, add it to :data:`LAYOUTS`. The user may name the folder of the sequence, that of
its images, or any between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
import glob
import json
from pathlib import Path
import re

import numpy as np
import yaml

from ..core.errors import CalibrationError, SourceError
from ..core.geometry import is_rigid
from ..core.trajectory_file import PoseList, poses_in_time
from ..core.truth_file import BODY_NOTE, read_truth
from .calibration_files import is_calibration

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
#: Millimetres, as most write depth images.
DEPTH_UNIT_M = 0.001
#: Stamp in nanoseconds and path of each image.
Entries = Sequence[tuple[int, Path]]
#: Files beside the images of any layout: before those of the layout, and after them.
_OWN_CALIBRATION, _OWN_TRUTH = 'camera.yaml', 'groundtruth.txt'
_OTHER_CALIBRATIONS = (
    'camera_info.yaml', '*camchain*.yaml', 'sensor.yaml', 'calib.txt', 'calibration.txt',
    'cameras.txt', 'sparse/0/cameras.txt', 'transforms.json', 'intrinsic*.txt', '*.yaml', '*.yml',
)  # fmt: skip
_CAMERA_NAME = re.compile(r'(?:cam|camera|image)_?\d+')
#: Of matrices in files.
_ROUNDING = 1e-3


def read_listed_truth(file: Path, entries: Entries) -> PoseList:
    """Read a trajectory with a pose for each image or with stamps of its own."""
    return read_truth(file, [stamp_ns for stamp_ns, _ in entries])


def read_body_truth(file: Path, entries: Entries) -> PoseList:
    """Read EuRoC's poses of the body and move them to the camera with its ``sensor.yaml``."""
    poses = read_truth(file)
    notes = tuple(note for note in poses.notes if note != BODY_NOTE)
    sensor = entries[0][1].parent.parent / 'sensor.yaml'
    try:
        content = yaml.safe_load(sensor.read_text(encoding='utf-8'))
        matrix = content['T_BS']
        data = matrix['data'] if isinstance(matrix, dict) else matrix
        T_body_camera = np.array(data, dtype=float).reshape(4, 4)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        unmoved = (
            f"EuRoC's poses are of the body, and {sensor.name} has no T_BS that says where the "
            'camera is on it: they are taken as those of the camera'
        )
        return PoseList(poses.stamps_ns, poses.T_world_camera, (*notes, unmoved))
    if not is_rigid(T_body_camera, _ROUNDING):
        raise SourceError(f'{sensor}: T_BS is no rotation and translation')
    return PoseList(poses.stamps_ns, poses.T_world_camera @ T_body_camera, notes)


def read_pose_files(first: Path, entries: Entries) -> PoseList:
    """Read a file with a 4x4 matrix for each image, named like it (7-Scenes, ScanNet)."""
    suffix = first.name[first.name.index('.') :]
    found: dict[int, np.ndarray] = {}
    for stamp_ns, image in entries:
        file = first.parent / f'{_short_name(image)}{suffix}'
        try:
            T = np.array(file.read_text().split(), dtype=float).reshape(4, 4)
        except (OSError, ValueError):
            continue
        if is_rigid(T, _ROUNDING):
            found[stamp_ns] = T
    return _poses_of_images(found, entries, first.parent)


def read_transforms(file: Path, entries: Entries) -> PoseList:
    """Read the poses of ``transforms.json``, whose cameras look along -z with y up."""
    try:
        frames = json.loads(file.read_text(encoding='utf-8'))['frames']
        matrices = {
            Path(frame['file_path']).stem: np.array(frame['transform_matrix'], dtype=float)
            for frame in frames
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f'{file} holds no poses as nerfstudio writes them: {error}') from error
    found = {
        stamp_ns: matrices[image.stem] @ np.diag([1.0, -1.0, -1.0, 1.0])
        for stamp_ns, image in entries
        if image.stem in matrices and is_rigid(matrices[image.stem], _ROUNDING)
    }
    return _poses_of_images(found, entries, file)


def _poses_of_images(found: dict[int, np.ndarray], entries: Entries, place: Path) -> PoseList:
    if not found:
        raise SourceError(f'{place} holds no pose of the images')
    stamps = np.array(sorted(found), dtype=np.int64)
    poses = poses_in_time(
        stamps, np.stack([found[stamp] for stamp in stamps.tolist()]), str(place)
    )
    missing = len(entries) - len(found)
    notes = (f'{place}: {missing} images have no pose',) if missing else ()
    return PoseList(poses.stamps_ns, poses.T_world_camera, notes)


def _short_name(image: Path) -> str:
    return image.name.split('.')[0]


@dataclass(frozen=True)
class Layout:
    """A layout of a folder.

    Files are given relative to the folder of the images, as globs; of several the first that is
    there is used. ``{sequence}`` is the name of the folder above that of the images.

    :ivar folders: of the images, relative to the folder of the sequence; globs, of which the
        first that is there is used.
    :ivar marks: files of which one tells the layout.
    :ivar truth: one file, or the pattern of those that ``read_truth`` looks for.
    :ivar images: glob of the images' names, beside which others may lie.
    :ivar is_video: the images are in order of time although nothing gives their times.
    :ivar depth_unit_m: of the images in the folder ``depth`` of the sequence.
    """

    name: str
    folders: tuple[str, ...]
    marks: tuple[str, ...]
    times: tuple[str, ...] = ()
    calibration: tuple[str, ...] = ()
    truth: tuple[str, ...] = ()
    images: str = '*'
    is_video: bool = False
    depth_unit_m: float = DEPTH_UNIT_M
    read_truth: Callable[[Path, Entries], PoseList] = field(default=read_listed_truth)


LAYOUTS = (
    Layout(
        'EuRoC',
        folders=('mav0/cam*/data', 'cam*/data', 'data'),
        marks=('../data.csv', '../sensor.yaml'),
        times=('../data.csv',),
        calibration=('../sensor.yaml',),
        truth=('../../state_groundtruth_estimate0/data.csv', '../../mocap0/data.csv'),
        read_truth=read_body_truth,
    ),
    Layout(
        'KITTI odometry',
        folders=('image_[0-9]',),
        marks=('../times.txt', '../calib.txt'),
        times=('../times.txt',),
        calibration=('../calib.txt',),
        truth=('../poses.txt', '../../../poses/{sequence}.txt', '../../poses/{sequence}.txt'),
        is_video=True,
    ),
    Layout(
        'KITTI raw',
        folders=('image_0[0-9]/data',),
        marks=('../timestamps.txt',),
        times=('../timestamps.txt',),
        calibration=('../../../calib_cam_to_cam.txt', '../../calib_cam_to_cam.txt'),
    ),
    Layout(
        '7-Scenes',
        folders=('', 'seq-*'),
        marks=('*.color.png', '*.color.jpg'),
        images='*.color.*',
        truth=('*.pose.txt',),
        is_video=True,
        read_truth=read_pose_files,
    ),
    Layout(
        'ScanNet',
        folders=('color',),
        marks=('../pose', '../intrinsic'),
        calibration=('../intrinsic/intrinsic_color.txt',),
        truth=('../pose/*.txt',),
        is_video=True,
        read_truth=read_pose_files,
    ),
    Layout(
        'TUM RGB-D',
        folders=('rgb',),
        marks=('../rgb.txt',),
        times=('../rgb.txt',),
        depth_unit_m=1 / 5000,
    ),
    Layout('TUM mono', folders=('images',), marks=('../times.txt',), times=('../times.txt',)),
    Layout(
        'nerfstudio',
        folders=('images',),
        marks=('../transforms.json',),
        calibration=('../transforms.json',),
        truth=('../transforms.json',),
        read_truth=read_transforms,
    ),
    Layout(
        'COLMAP',
        folders=('images',),
        marks=('../sparse/0/cameras.txt', '../sparse/cameras.txt', '../cameras.txt'),
        calibration=('../sparse/0/cameras.txt', '../sparse/cameras.txt', '../cameras.txt'),
    ),
    Layout(
        '',
        folders=('rgb',),
        marks=('../timestamps.txt', '../times.txt', '../camera.yaml'),
        times=('../timestamps.txt', '../times.txt'),
    ),
)
#: Any folder of images, with a list of times or without.
_PLAIN = Layout('', folders=('',), marks=(), times=('timestamps.txt', 'rgb.txt', 'times.txt'))


@dataclass(frozen=True)
class SequenceFolder:
    """A folder that was recognised.

    :ivar root: the folder of the sequence, ``folder``: that of its images.
    """

    layout: Layout
    root: Path
    folder: Path

    @property
    def images(self) -> list[Path]:
        """Return the images in natural order."""
        return find_images(self.folder, self.layout.images)

    @property
    def times(self) -> Path | None:
        """Return the list of times."""
        return self._first(self.layout.times)

    @property
    def camera_name(self) -> str:
        """Return the name that the folder has in calibrations of several cameras."""
        names = [p for p in self.folder.absolute().parts[-2:] if _CAMERA_NAME.fullmatch(p)]
        return names[-1] if names else ''

    def calibration(self) -> Path | None:
        """Return the calibration file.

        :raises CalibrationError: there are several without a usual name.
        """
        own = self.root / _OWN_CALIBRATION
        known = own if own.is_file() else self._first(self.layout.calibration)
        if known is not None:
            return known
        for pattern in _OTHER_CALIBRATIONS:
            places = dict.fromkeys([self.folder, self.root])
            files = [f for place in places for f in sorted(place.glob(pattern))]
            files = [file for file in files if is_calibration(file)]
            if len(files) > 1:
                raise CalibrationError(
                    f'{self.root} holds several calibrations, name one (--camera): '
                    + ', '.join(str(file) for file in files)
                )
            if files:
                return files[0]
        return None

    @property
    def truth(self) -> Path | None:
        """Return the file of the true poses, or the first of them."""
        own = self.root / _OWN_TRUTH
        return own if own.is_file() else self._first(self.layout.truth)

    def read_truth(self, entries: Entries) -> PoseList | None:
        """Return the true poses, camera-to-world; None if there are none.

        :raises SourceError: they cannot be read.
        """
        file = self.truth
        if file is None:
            return None
        is_own = file == self.root / _OWN_TRUTH
        return (read_listed_truth if is_own else self.layout.read_truth)(file, entries)

    def _first(self, patterns: Sequence[str]) -> Path | None:
        return next(_matching(self.folder, patterns), None)


def find_sequence(path: Path) -> SequenceFolder:
    """Return the sequence of which ``path`` is the folder, or a folder inside it."""
    for layout in LAYOUTS:
        for pattern in layout.folders:
            for root, folder in _candidates(path, Path(pattern).parts):
                is_it = next(_matching(folder, layout.marks), None) is not None
                if is_it and find_images(folder, layout.images):
                    return SequenceFolder(layout, root, folder)
    return SequenceFolder(_PLAIN, path, path)


def _candidates(path: Path, parts: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """Yield folders of sequence and images of which ``path`` is one, or a folder between."""
    for inside in range(len(parts) + 1):
        above, below = '/'.join(parts[:inside]), '/'.join(parts[inside:])
        if above and not path.absolute().match(above):
            continue
        root = path.absolute().parents[inside - 1] if inside else path
        for folder in sorted(path.glob(below)) if below else [path]:
            yield root, folder


def _matching(folder: Path, patterns: Sequence[str]) -> Iterator[Path]:
    """Yield the files and folders that match, relative to a folder."""
    sequence = glob.escape(folder.absolute().parent.name)
    for pattern in patterns:
        place, rest = folder.absolute(), Path(pattern.format(sequence=sequence))
        while rest.parts[0] == '..':
            place, rest = place.parent, Path(*rest.parts[1:])
        yield from sorted(place.glob(str(rest)))


def find_images(folder: Path, pattern: str = '*') -> list[Path]:
    """Return the images of a folder, or of its ``rgb``, ``images`` or ``color``, in order."""
    for place in (folder, *(folder / name for name in ('rgb', 'images', 'color'))):
        if place.is_dir():
            # Hidden files are metadata of operating systems.
            found = [
                p
                for p in place.glob(pattern)
                if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith('.')
            ]
            if found:
                return sorted(found, key=_natural_order)
    return []


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """Return a sort key by which frame 2 comes before frame 10."""
    parts = re.split(r'(\d+)', path.name)
    return [(int(part), '') if part.isdigit() else (-1, part) for part in parts]
