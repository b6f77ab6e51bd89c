"""Reads the files of a map of unknown origin.

No link is followed out of the folder, no pickle is loaded, and no array is larger than declared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
import errno
import os
from pathlib import Path
import stat
from typing import BinaryIO
import zipfile
import zlib

import numpy as np
from numpy.lib import format as npy

from ..core.errors import MapError, MapProblem
from .map_layout import bad_format, Column, MANIFEST, MOST_ARRAY_BYTES

#: Neither wait for a FIFO nor follow a link.
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_KNOWN_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
#: Our own headers are shorter.
_MOST_HEADER_BYTES = 4096
#: Of an archive, beside its arrays.
_ARCHIVE_OVERHEAD_BYTES = 1 << 16


class MapFolder:
    """Opens regular files of one folder, by names that are constants or numbers."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @contextmanager
    def open(self, name: str, most_bytes: int) -> Iterator[tuple[BinaryIO, int]]:
        """Open a file; yield it and its size.

        :raises MapError: BAD_FORMAT: missing, no regular file, or larger than it may be.
        """
        try:
            number = os.open(name, _FLAGS, dir_fd=self._descriptor)
        except OSError as error:
            raise self._bad(name, _reason(error)) from error
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            os.close(number)
            raise self._bad(name, 'it is no regular file')
        with open(number, 'rb') as file:
            if found.st_size > most_bytes:
                raise self._bad(name, f'its {found.st_size} bytes are more than {most_bytes}')
            yield file, found.st_size

    def read(self, name: str, most_bytes: int) -> bytes:
        """Return the content of a file.

        :raises MapError: as :meth:`open`.
        """
        with self.open(name, most_bytes) as (file, size):
            try:
                data = file.read(size + 1)
            except OSError as error:
                raise self._bad(name, _reason(error)) from error
        if len(data) != size:
            raise self._bad(name, 'it changed while it was read')
        return data

    def arrays(self, name: str, columns: Mapping[str, Column]) -> dict[str, np.ndarray]:
        """Return the arrays of an ``.npz``, which must have exactly these names, types and shapes.

        Size, type and shape of each are checked before it is decompressed.

        :raises MapError: as :meth:`open`; or it is damaged, or does not hold them.
        """
        size = sum(column.nbytes for column in columns.values())
        try:
            with (
                self.open(name, size + _ARCHIVE_OVERHEAD_BYTES) as (file, _),
                zipfile.ZipFile(file) as archive,
            ):
                members = {member.filename: member for member in archive.infolist()}
                wanted = {f'{column}.npy' for column in columns}
                if len(archive.infolist()) != len(members) or members.keys() != wanted:
                    raise bad_format(name, f'it must hold the arrays {", ".join(sorted(columns))}')
                return {
                    column: _read_array(archive, members[f'{column}.npy'], name, column, expected)
                    for column, expected in columns.items()
                }
        except (
            EOFError,
            OSError,
            RuntimeError,
            ValueError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise bad_format(name, f'it is damaged ({error})') from error

    @contextmanager
    def inside(self, name: str) -> Iterator[MapFolder | None]:
        """Open a folder in this one; None if there is none.

        :raises MapError: BAD_FORMAT: it is no folder.
        """
        try:
            number = os.open(name, _FLAGS | os.O_DIRECTORY, dir_fd=self._descriptor)
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            raise self._bad(name, _reason(error)) from error
        try:
            yield MapFolder(self.path / name, number)
        finally:
            os.close(number)

    def has(self, name: str) -> bool:
        """Return whether a file, folder or link has this name."""
        try:
            os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except OSError:
            return False
        return True

    def _bad(self, name: str, message: str) -> MapError:
        return bad_format(str(self.path / name), message)


@contextmanager
def open_map_folder(path: Path) -> Iterator[MapFolder]:
    """Open the folder of a map.

    :raises MapError: NOT_FOUND: there is none.
    """
    absent = f'there is no map at {path}: '
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise MapError(MapProblem.NOT_FOUND, absent + _reason(error)) from error
    try:
        folder = MapFolder(path, descriptor)
        if not folder.has(MANIFEST):
            raise MapError(MapProblem.NOT_FOUND, absent + f'it holds no {MANIFEST}')
        yield folder
    finally:
        os.close(descriptor)


def _reason(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return 'it is a symbolic link'
    return (error.strerror or str(error)).lower()


def _read_array(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, column: str, expected: Column
) -> np.ndarray:
    dtype, size = np.dtype(expected.dtype), expected.nbytes
    if size > MOST_ARRAY_BYTES:
        raise bad_format(name, f"'{column}' would take {size} bytes, more than a map may")
    header_bytes = member.file_size - size
    known = member.compress_type in _KNOWN_COMPRESSION
    if not known or not 0 < header_bytes <= _MOST_HEADER_BYTES:
        raise bad_format(name, f"'{column}' must have the shape {expected.shape}")
    with archive.open(member) as stream:
        major, minor = npy.read_magic(stream)
        if (major, minor) != (1, 0):
            raise bad_format(name, f"'{column}' is in an unknown version of the format")
        shape, by_columns, found = npy.read_array_header_1_0(
            stream, max_header_size=_MOST_HEADER_BYTES
        )
        if shape != expected.shape or found != dtype or by_columns:
            raise bad_format(
                name,
                f"'{column}' must be {dtype} of shape {expected.shape}, it is {found} of {shape}",
            )
        # Not read(): a member may hold more than it declares.
        data = stream.read(size)
        if len(data) != size or stream.read(1):
            raise bad_format(name, f"'{column}' is not as long as declared")
    return np.frombuffer(data, dtype=dtype).reshape(shape)
