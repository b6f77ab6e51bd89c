"""One golden file: what its name says, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass
import enum
from pathlib import Path
import re
import zipfile
import zlib

import numpy as np

from ..errors import SourceError
from ..model.variants import CameraOutput, VARIANTS

PREFIX = 'golden-'
SUFFIX = '.npz'

#: A part of the name (between dashes) that begins so asks for the small-signal weights.
_SMALL_SIGNAL = 'eps'


class Kind(enum.Enum):
    """What a file is about."""

    R3 = 'r3'
    DA3 = 'da3'
    METRIC = 'metric'
    POSES = 'poses'
    PREPROCESS = 'preprocess'
    POSE_RULES = 'pose-resolution'
    SCALE = 'scale'
    STREAM = 'stream-trace'


#: Kinds about what follows after the network.
STREAM_KINDS = frozenset({Kind.POSE_RULES, Kind.SCALE, Kind.STREAM})
#: Kinds that are told by a word of their own, not by that of a network.
_NAMED_KINDS = (Kind.POSES, Kind.PREPROCESS, *sorted(STREAM_KINDS, key=lambda kind: kind.value))

_KIND_OF_CAMERAS = {
    CameraOutput.PAIRS: Kind.R3,
    CameraOutput.ABSOLUTE: Kind.DA3,
    CameraOutput.NONE: Kind.METRIC,
}


@dataclass(frozen=True)
class Subject:
    """What the name of a file says.

    :ivar variant: the network, None where there is none.
    :ivar small_signal: filled with the weights under which epsilons show.
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

    def is_remark(self, name: str) -> bool:
        """Say whether an array can only be about how the file was made: a lone text or number.

        Results carry the prefix of a run, or have axes.
        """
        array = self.arrays[name]
        return '.' not in name and (array.dtype.kind == 'U' or not array.shape)

    def text(self, name: str) -> str:
        """Return an array that holds one text.

        :raises SourceError: it does not.
        """
        array = self.arrays[name]
        if array.shape or array.dtype.kind != 'U':
            raise SourceError(f'{name} should be a text, it is {array.dtype} {array.shape}')
        return str(array.item())


def short_name(path: Path) -> str:
    """Return ``r3-small-house4`` for ``golden-r3-small-house4.npz``."""
    return path.name.removeprefix(PREFIX).removesuffix(SUFFIX)


def is_about_streams(path: Path) -> bool:
    """Say whether a file is about what follows after the network."""
    return any(_begins_with(short_name(path), kind.value) for kind in STREAM_KINDS)


def subject_of(path: Path) -> Subject:
    """Return what a file is about by its name.

    :raises SourceError: the name says nothing that is known.
    """
    name = short_name(path)
    for kind in _NAMED_KINDS:
        if _begins_with(name, kind.value):
            return Subject(kind)
    fitting = [variant for variant in VARIANTS if _begins_with(name, variant)]
    if not fitting:
        known = ', '.join([*(kind.value for kind in _NAMED_KINDS), *VARIANTS])
        raise SourceError(f'its name does not say what it is about; after {PREFIX}: {known}')
    variant = max(fitting, key=len)
    rest = re.split(r'[^a-z0-9]+', name[len(variant) :].lower())
    small_signal = any(part.startswith(_SMALL_SIGNAL) for part in rest)
    return Subject(_KIND_OF_CAMERAS[VARIANTS[variant].camera], variant, small_signal)


def read_golden(path: Path) -> Golden:
    """Read a file whole.

    :raises SourceError: it cannot be read, or is no such file.
    """
    subject = subject_of(path)
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise SourceError('it holds one bare array; an .npz with named arrays is needed')
        with file:
            arrays = {name: file[name] for name in file.files}
    except ValueError as error:
        # What is neither .npz nor .npy counts as a pickle for NumPy, too.
        raise SourceError(
            'it cannot be read: it is no .npz file, is damaged, or holds Python objects, which '
            'are not loaded'
        ) from error
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise SourceError(f'it cannot be read: {_one_line(error)}') from error
    if not arrays:
        raise SourceError('it holds no arrays')
    return Golden(subject, arrays)


def _begins_with(name: str, word: str) -> bool:
    return re.match(re.escape(word) + r'(?![a-z0-9])', name) is not None


def _one_line(error: BaseException) -> str:
    return ' '.join(str(error).split()) or type(error).__name__
