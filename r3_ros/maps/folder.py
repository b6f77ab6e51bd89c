"""Opens the folder of a map without following links out of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import errno
import os
from pathlib import Path
import stat
from typing import BinaryIO

from ..core.errors import MapError, MapProblem
from .map_layout import bad_format, MANIFEST

#: Neither wait for a FIFO nor follow a link.
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


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
