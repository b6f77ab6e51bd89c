"""One golden file: the subject given by its name, and its arrays."""

from __future__ import annotations

from dataclasses import dataclass
import enum
import os
from pathlib import Path
import re

import numpy as np
from r3_ros.core.errors import SourceError
from r3_ros.model.variants import CameraOutput, PAIR_VARIANTS, VARIANTS

PREFIX, SUFFIX = 'golden-', '.npz'
#: First letters of the part of a name (between dashes) that selects the small-signal weights.
_SMALL_SIGNAL = 'eps'
#: Rows of the head's pyramid begin with this frame.
FIRST_OF_CHUNK = 'head_first_frame_of_chunk'
_INPUTS = re.compile(
    r'pixels|pixels_sha256|image_key|rel_pose_enc|conf_t|conf_r|mask|source\..+|.+\.settings'
    rf'|.+\.images|.+\.{FIRST_OF_CHUNK}'
)


class Kind(enum.Enum):
    """The subject of a file."""

    R3 = 'r3'
    DA3 = 'da3'
    METRIC = 'metric'
    VGGT = 'vggt'
    PAIRS = 'pairs'
    POSES = 'poses'
    PREPROCESS = 'preprocess'


#: Names of files about the authors' rules for streams, which have no counterpart here.
NOT_COVERED = ('pose-resolution', 'scale', 'stream-trace')
_WITHOUT_NETWORK = (Kind.POSES, Kind.PREPROCESS)
_KIND_OF_CAMERAS = {
    CameraOutput.PAIRS: Kind.R3,
    CameraOutput.ABSOLUTE: Kind.DA3,
    CameraOutput.NONE: Kind.METRIC,
    CameraOutput.REFINED: Kind.VGGT,
    CameraOutput.VIDEO: Kind.VGGT,
}
#: Of the networks of the authors' code.
_KINDS = {
    name: _KIND_OF_CAMERAS[config.camera]
    for name, config in VARIANTS.items()
    if config.camera in _KIND_OF_CAMERAS
} | dict.fromkeys(PAIR_VARIANTS, Kind.PAIRS)


@dataclass(frozen=True)
class Subject:
    """The subject of a file, from its name.

    :ivar variant: the network, or None.
    :ivar small_signal: with the weights that make epsilons matter.
    """

    kind: Kind
    variant: str | None = None
    small_signal: bool = False


@dataclass(frozen=True)
class Golden:
    """A golden file, read."""

    subject: Subject
    arrays: dict[str, np.ndarray]

    def named(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the arrays ``prefix.name`` by name."""
        return {
            name.removeprefix(f'{prefix}.'): array
            for name, array in self.arrays.items()
            if name.startswith(f'{prefix}.')
        }

    def results(self) -> dict[str, np.ndarray]:
        """Return the arrays to compare: no inputs, and no lone texts and numbers (remarks)."""
        return {
            name: array
            for name, array in self.arrays.items()
            if not _INPUTS.fullmatch(name)
            and ('.' in name or (array.dtype.kind != 'U' and array.shape))
        }


def golden_files(folder: Path, only: str = '') -> list[Path]:
    """Return the golden files of a folder whose names contain a text, by name.

    :raises SourceError: there are none.
    """
    if not os.path.isdir(folder):  # Path.is_dir() fails on a name that is too long
        raise SourceError(f'{folder} is no folder: name the one with the {PREFIX}*{SUFFIX} files')
    paths = sorted(folder.glob(f'{PREFIX}*{SUFFIX}'))
    if not paths:
        raise SourceError(f'no {PREFIX}*{SUFFIX} in {folder}: name the folder that holds them')
    chosen = [path for path in paths if only in path.name]
    if not chosen:
        names = ', '.join(map(short_name, paths))
        raise SourceError(f"no golden file with '{only}' in its name; there are: {names}")
    return chosen


def short_name(path: Path) -> str:
    """Return ``r3-small-house4`` for ``golden-r3-small-house4.npz``."""
    return path.name.removeprefix(PREFIX).removesuffix(SUFFIX)


def is_covered(path: Path) -> bool:
    """Return whether our code computes the subject of a file."""
    return not any(_begins_with(short_name(path), word) for word in NOT_COVERED)


def subject_of(path: Path) -> Subject:
    """Return the subject of a file by its name.

    :raises SourceError: the name has no known subject.
    """
    name = short_name(path)
    for kind in _WITHOUT_NETWORK:
        if _begins_with(name, kind.value):
            return Subject(kind)
    fitting = [variant for variant in _KINDS if _begins_with(name, variant)]
    if not fitting:
        known = ', '.join([*(kind.value for kind in _WITHOUT_NETWORK), *_KINDS])
        raise SourceError(f'its name has no known subject; after {PREFIX}: {known}')
    variant = max(fitting, key=len)
    rest = re.split(r'[^a-z0-9]+', name[len(variant) :].lower())
    small_signal = any(part.startswith(_SMALL_SIGNAL) for part in rest)
    return Subject(_KINDS[variant], variant, small_signal)


def read_golden(path: Path) -> Golden:
    """Read a file.

    :raises SourceError: its name has no known subject. Other exceptions: it cannot be read.
    """
    subject = subject_of(path)
    with np.load(path, allow_pickle=False) as file:
        return Golden(subject, {name: file[name] for name in file.files})


def _begins_with(name: str, word: str) -> bool:
    return re.match(re.escape(word) + r'(?![a-z0-9])', name) is not None
