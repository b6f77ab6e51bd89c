"""Sequences with true poses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..core.errors import SourceError
from ..core.trajectory_file import PoseList
from ..core.truth_file import read_truth
from ..input.folder_layouts import DEPTH_UNIT_M
from ..input.folder_source import FolderSource
from ..input.open_source import NO_CAMERA, open_source
from ..input.source import Source
from .depth_errors import depth_files, read_depth

TRUTH = 'groundtruth.txt'


@dataclass(eq=False)
class PosedSequence:
    """Images of one stream with their true poses and depth.

    :ivar name: unique in an evaluation; ``group``: row in the tables.
    :ivar truth: camera-to-world, in metres or another unit.
    :ivar open: opens the images from the first on.
    :ivar depth_stamps: of the images with a true depth, in nanoseconds.
    :ivar depth: returns the (H, W) float32 depth of a stamp in the unit of the truth; 0: unknown.
    """

    name: str
    group: str
    truth: PoseList
    open: Callable[[], Source]
    depth_stamps: list[int]
    depth: Callable[[int], np.ndarray]


def true_poses(path: Path) -> tuple[PoseList, Path]:
    """Return the true poses in a file, or in a folder whose layout is known; and their file.

    :raises SourceError: there are none, or they cannot be read.
    """
    if not path.is_dir():
        return read_truth(path), path
    with open_source(path, NO_CAMERA) as source:
        found = source.truth()
    if found is None:
        raise SourceError(f'{path} has no {TRUTH} and no other true poses: name their file')
    return found


def recorded_sequence(
    path: Path, groundtruth: Path | None = None, name: str = ''
) -> PosedSequence:
    """Return a folder of images, a video or a bag with its true poses.

    Depth is read from a ``depth/`` beside the images (16-bit PNG, millimetres, named like its
    image) if the images have no distortion, since the engine's depth is of undistorted ones.

    :param groundtruth: of :func:`true_poses`; None: what the folder's layout says, or
        ``groundtruth.txt`` beside the file.
    :raises SourceError: recording or truth is missing or unreadable.
    """
    name = name or path.absolute().name
    with open_source(path) as source:
        is_distorted = source.camera is not None and source.camera.is_distorted
        depths: dict[int, Path] = {}
        unit_m = DEPTH_UNIT_M
        if isinstance(source, FolderSource) and not is_distorted:
            depths, unit_m = depth_files(path, source), source.depth_unit_m
        found = true_poses(groundtruth) if groundtruth else source.truth()
    place = path if path.is_dir() else path.parent
    if found is None and (place / TRUTH).is_file():
        found = true_poses(place / TRUTH)
    if found is None:
        raise SourceError(
            f'{place} has no {TRUTH}: a recording without true poses cannot be evaluated; '
            'name their file with --groundtruth, or leave this one out'
        )
    return PosedSequence(
        name, name, found[0], partial(open_source, path), list(depths),
        lambda stamp_ns: read_depth(depths[stamp_ns], unit_m),
    )  # fmt: skip
